//! `mixdown merge`: a recipe becomes a checkpoint on disk.

mod matrices;
pub mod summary;
mod sweep;
mod updates;

use std::path::PathBuf;

use clap::Args;
use mixdown_session::merge::{Keep, MergeRequest, Merged, adapter, identity, in_folder, merge};
use mixdown_session::parts::PartNumber;
use mixdown_session::{Session, Silence, Trouble};
use sweep::Marks;

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::machine::Machine;
use crate::reading::Reading;
use crate::recipe::RecipeArguments;
use crate::size;
use crate::stop;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;
use sweep::Sweep;

/// Merge checkpoints as a recipe says
///
/// Finds every mistake first, in headers alone; then streams the result to disk. The output folder
/// appears under its name when all of it is stored. A merge that was interrupted in any way goes on
/// where it was when the same command is run again.
///
/// Relative paths of models start from the current folder. A model is a folder, a file, or an id at
/// the Hugging Face hub, with @REVISION if wanted; the hub's cache and variables are respected.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown merge recipe.yaml --out merged
  mixdown merge recipe.yaml --out merged --set parameters.lambda=0.7 --force
  mixdown merge recipe.yaml --out merged --sweep lambda=0.1,0.3,1.0
  mixdown merge recipe.yaml --out merged --memory 500MB --threads 4 --shard-size 2GB
  mixdown merge recipe.yaml --out merged --part 3/16
  mixdown merge recipe.yaml --out s3://bucket/merged

Prints the folder to stdout and talks on stderr. With --json each line of stdout is an event: started,
warning, progress, tensor, error, done.

Exit status: 0 done, 1 failed, 2 recipe or command line wrong, 130 interrupted. A model that is
nowhere to be found counts as a wrong recipe; one that is there and cannot be used as a failure.")]
pub struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    /// The folder to make, or the address of one in an object store: s3://, gs://, az://
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    machine: Machine,
    /// Largest file of weights, 5GB by default; 0 for one file. 5B means 5 billion bytes
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    shard_size: Option<u64>,
    /// Replace the output folder if there is one
    #[arg(long)]
    force: bool,
    /// Merge NaN and infinity like numbers, where they are an error otherwise
    #[arg(long)]
    allow_nonfinite: bool,
    /// Record the SHA-256 of every input file, reading each whatever an earlier run remembered; unasked,
    /// that is done for inputs of at most 256 MB together
    #[arg(long)]
    hash_inputs: bool,
    /// Merge once for each value of a parameter, from one computation: the outputs are folders in DIR
    #[arg(long, value_name = "NAME=VALUE,VALUE", value_parser = sweep::parse)]
    sweep: Option<sweep::Sweep>,
    /// Make one part of the output, for instance 3/16, in a folder of its own within DIR; `mixdown assemble DIR`
    /// joins all when they are there
    #[arg(long, value_name = "NUMBER/COUNT", conflicts_with = "sweep")]
    part: Option<PartNumber>,
    /// Neither read nor keep expensive results in the store
    #[arg(long)]
    no_cache: bool,
    /// Write what matrix ops tell of each tensor (loss and norm over the steps, rank, spectral gap), and what
    /// survives of each expert's task vector, to this file: as one page for a browser if its name ends in .html,
    /// else as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print events as JSON, one per line
    #[arg(long)]
    json: bool,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl Arguments {
    /// What they ask for.
    fn request(&self) -> MergeRequest {
        MergeRequest {
            recipe: self.recipe.input(),
            out: self.out.clone(),
            machine: self.machine.of_session(),
            shard_bytes: self.shard_size,
            force: self.force,
            allow_nonfinite: self.allow_nonfinite,
            hash_inputs: self.hash_inputs,
            keep: if self.no_cache { Keep::Nowhere } else { Keep::Shared },
            report: self.report.clone(),
            part: self.part,
        }
    }
}

/// How a merge runs, whatever it makes.
#[derive(Clone, Copy, Debug, Args)]
pub struct Running {
    #[command(flatten)]
    pub machine: Machine,
    #[command(flatten)]
    pub reading: Reading,
    /// Replace the output folder if there is one
    #[arg(long)]
    pub force: bool,
    /// Print events as JSON, one per line
    #[arg(long)]
    pub json: bool,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let terminal = Terminal::of_events(talk, arguments.json).reading(arguments.recipe.reading);
    let session = terminal.session();
    let outcome = match &arguments.sweep {
        None => merge(&arguments.request(), &session).map(|merged| tell(&merged, &terminal, false)),
        Some(sweep) => merge_all(&arguments, sweep, &terminal),
    };
    terminal.tell_of_trouble(&outcome);
    outcome
}

/// One merge for each value of a sweep. What they have in common comes from the store.
fn merge_all(arguments: &Arguments, sweep: &Sweep, terminal: &Terminal) -> Outcome {
    in_folder(&arguments.out, "a sweep")?;
    let session = terminal.session();
    let request = arguments.request();
    let planned = mixdown_session::plan(&request.recipe, &session, None)?;
    let declared = planned.loaded.is_declared(&sweep.name);
    let own = |value: &String| {
        let recipe = request.recipe.with(&[(sweep.path(declared), value.clone())]);
        let out = request.out.join(sweep.folder(value));
        MergeRequest { recipe, out, ..request.clone() }
    };
    let mut merges: Vec<MergeRequest> = sweep.values.iter().map(own).collect();
    // All mistakes before the first byte, whichever value makes them.
    let silent = Session { listener: &Silence, ..session };
    let identities = merges.iter().map(|merge| identity(merge, &silent).map(|found| found.0));
    let identities = identities.collect::<Result<Vec<String>, Trouble>>()?;
    let mut marks = Marks::of(&arguments.out);
    let store = arguments.out.join(".store");
    let key = mixdown_session::merge::owner_key(&session)?;
    marks.claim(&key)?;
    if arguments.no_cache {
        mixdown_session::claim(&store, &key)?;
        for merge in &mut merges {
            merge.keep = Keep::Own(store.join("results"));
        }
    }
    let mut outcome = Ok(Exit::Done);
    for ((merge_of_value, value), identity) in merges.iter().zip(&sweep.values).zip(&identities) {
        terminal.talk.say(&format!("{} = {value}", sweep.name));
        let folder = sweep.folder(value);
        let merged = match !arguments.force && marks.is_done(&folder, identity) {
            true => Ok(Merged::Earlier(merge_of_value.out.clone())),
            false => {
                marks.begin(&folder, identity, arguments.force)?;
                merge(merge_of_value, &session)
            }
        };
        outcome = merged.map(|merged| tell(&merged, terminal, false));
        if outcome.is_err() {
            break;
        }
    }
    match outcome {
        Ok(_) => marks.remove(),
        Err(_) => marks.remove_unused(),
    }
    if arguments.no_cache && store.exists() {
        // What stays behind does no harm, and the outputs are there.
        let _ = mixdown_session::remove_claimed(&store);
    }
    outcome
}

/// Says what came of a merge, with a table of updates if it wants one.
pub fn tell(merged: &Merged, terminal: &Terminal, wants_table: bool) -> Exit {
    match merged {
        Merged::Now(done) => {
            // What became of an adapter's updates, all parts together tell.
            let found = match done.part {
                None => adapter::updates(&done.planned, &done.report),
                Some(_) => None,
            };
            if let (true, Some(found)) = (wants_table && !terminal.json, &found) {
                talk::data(&updates::table(found));
            }
            summary::done(done, found.as_deref(), terminal);
        }
        Merged::Earlier(path) => summary::complete(path, terminal),
    }
    Exit::Done
}
