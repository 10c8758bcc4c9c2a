//! `mixdown search`: merges a recipe at several values of a parameter, and keeps the merge that is best.

mod state;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use mixdown_checkpoint::shown_path;
use mixdown_diagnostics::{Diagnostic, Source, codes};
use mixdown_search::cache::{Cache, write_whole};
use mixdown_search::generate::Failure;
use mixdown_search::grid::Candidate;
use mixdown_search::report::Report;
use mixdown_search::run::{self, Chosen, Host, Merged, Place};
use mixdown_search::settings::{self, Objective, Settings, Tried};

use crate::commands::merge;
use crate::commands::{Outcome, Trouble};
use crate::exit::Exit;
use crate::machine::Machine;
use crate::planning::RecipeArguments;
use crate::progress::Style;
use crate::recipes;
use crate::size;
use crate::stop;
use crate::talk::{self, Talk};
use state::State;

/// Find the value of a parameter whose merge answers best
///
/// Merges the recipe once for each value, has every merge answer the same prompts, and chooses the
/// value whose answers differ least from those of the values before and after it: no labels are
/// needed. With labels, a program of yours scores each merge instead.
///
/// What is searched, where answers come from and what is compared stands in a file of its own. A
/// search that was interrupted goes on with the same command: merges and answers are kept.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown search recipe.yaml --with search.yaml --out found
  mixdown search recipe.yaml --with search.yaml --out found --keep-candidates --json

A file for --with, where gen.py reads prompts and writes answers, one JSON object per line:
  search: 1
  grid:
    parameters.t: {from: 0.0, to: 0.6, step: 0.1}
  prompts: prompts.jsonl
  generator:
    command:
      argv: [python, gen.py, --model, '{model_dir}', --prompts, '{prompts}', --out, '{out}']
  objective: {diff: sum}

Instead of `command`, a server can answer (`http`), small models in mixdown itself (`embedded`), or
files of earlier runs (`replay`). schemas/search.schema.json describes all keys, for editors too.

With scores an optimizer can choose values of several parameters, of which it tries only some:
  search: 1
  grid:
    parameters.lambda: {from: 0, to: 2}
    parameters.density: {from: 0.1, to: 1}
  optimizer: {cma_es: {budget: 80}}
  objective: {command: [python, score.py, '{model_dir}']}

The folder gets merged/, the chosen merge, and report.html and report.json; state/ holds what a
search goes on from. Prints the chosen merge's folder to stdout, or with --json the report.

Exit status: 0 done, 1 failed, 2 recipe, settings or command line wrong, 130 interrupted.")]
pub struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    /// What is searched and how
    #[arg(long, value_name = "FILE")]
    with: PathBuf,
    /// The folder to make
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Keep all merges, in DIR/candidates
    #[arg(long)]
    keep_candidates: bool,
    /// Where answers are kept; DIR/state/answers by default. Searches can share it
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
    /// Largest file of weights, 5GB by default; 0 for one file. 5B means 5 billion bytes
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    shard_size: Option<u64>,
    /// Merge NaN and infinity like numbers, where they are an error otherwise
    #[arg(long)]
    allow_nonfinite: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

const INTERRUPTED: &str =
    "interrupted: merges and answers are kept; run the same command again to continue";

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let begun = Instant::now();
    let mut settings = read_settings(&arguments)?;
    if let Objective::Neighbors(neighbors) = &mut settings.objective {
        neighbors.prepare(&folders_of_programs())?;
    }
    let mut merges = Merges::new(&arguments, settings.tried.count(), talk);
    let candidates = settings.tried.candidates();
    merges.plan(&candidates)?;
    if let Tried::Optimizer(optimizer) = &settings.tried {
        merges.check(&optimizer.corners())?;
    }
    let chosen = match &settings.objective {
        Objective::Neighbors(neighbors) => run::choose_prompts(neighbors, &candidates)?,
        Objective::Score(_) => Chosen::default(),
    };
    merges.state.open()?;
    let cache = arguments.cache.clone().unwrap_or_else(|| merges.state.answers());
    let (cache, work) = (Cache::new(cache), merges.state.work());
    let place = Place { cache: &cache, work: &work, stop: stop::flag() };
    let report = run::search(&settings, &chosen, place, &mut merges).map_err(trouble)?;
    write(&arguments, &report)?;
    let Some(position) = report.chosen else { return Err(undecided(&arguments, &report)) };
    merges.place(position)?;
    tell(&arguments, talk, &report, position, begun);
    Ok(Exit::Done)
}

/// Where mixdown's other programs can be: beside this one, or where the system looks for programs.
fn folders_of_programs() -> Vec<PathBuf> {
    let own = std::env::current_exe().ok();
    let own = own.and_then(|program| Some(program.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    own.into_iter().chain(std::env::split_paths(&path)).collect()
}

fn trouble(failure: Failure) -> Trouble {
    match failure {
        Failure::Found(found) => Trouble::Found(found),
        Failure::Interrupted => Trouble::Interrupted(INTERRUPTED.to_owned()),
    }
}

fn failure(trouble: Trouble) -> Failure {
    match trouble {
        Trouble::Found(found) | Trouble::Usage(found) => Failure::Found(found),
        Trouble::Interrupted(_) => Failure::Interrupted,
    }
}

fn read_settings(arguments: &Arguments) -> Result<Settings, Trouble> {
    let path = &arguments.with;
    let text = recipes::read(path).map_err(|error| {
        Trouble::Usage(vec![
            Diagnostic::error(codes::UNREADABLE, format!("the file cannot be read: {error}"))
                .in_file(shown_path(path)),
        ])
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let source = Source::new(shown_path(path), text);
    let settings = settings::read(&source, folder).map_err(Trouble::Usage)?;
    let set_twice = settings.tried.paths().into_iter().find(|path| arguments.recipe.sets(path));
    match set_twice {
        None => Ok(settings),
        Some(path) => {
            let headline = format!("`{path}` is both searched and set");
            let error = Diagnostic::error(codes::BAD_SET, headline);
            let help = format!("remove `--set {path}=…`");
            Err(Trouble::Usage(vec![error.help(help)]))
        }
    }
}

/// The merges of the candidates.
struct Merges<'a> {
    arguments: &'a Arguments,
    /// How many candidates there are, in words.
    count: String,
    candidates: Vec<Candidate>,
    merges: Vec<merge::Arguments>,
    identities: Vec<String>,
    state: State,
    talk: Talk,
    /// Warnings that were shown; candidates have most of them in common.
    shown: Vec<Diagnostic>,
}

impl<'a> Merges<'a> {
    /// No candidate is known yet.
    fn new(arguments: &'a Arguments, count: String, talk: Talk) -> Self {
        Self {
            arguments,
            count,
            candidates: Vec::new(),
            merges: Vec::new(),
            identities: Vec::new(),
            state: State::new(&arguments.out),
            talk,
            shown: Vec::new(),
        }
    }

    fn merge_of(&self, candidate: &Candidate) -> merge::Arguments {
        merge::Arguments::of_candidate(
            self.arguments.recipe.with(&candidate.set),
            self.state.candidate(&candidate.folder),
            self.arguments.machine,
            self.arguments.shard_size,
            self.arguments.allow_nonfinite,
        )
    }

    /// Plans the merges of further candidates, so that their mistakes are found before the first of
    /// them is merged.
    fn plan(&mut self, candidates: &[Candidate]) -> Result<(), Trouble> {
        for candidate in candidates {
            let merge = self.merge_of(candidate);
            let (identity, warnings) = merge::identity(&merge)?;
            self.candidates.push(candidate.clone());
            self.merges.push(merge);
            self.identities.push(identity);
            self.warn(&warnings);
        }
        Ok(())
    }

    /// Plans merges that need not come to be.
    fn check(&mut self, candidates: &[Candidate]) -> Result<(), Trouble> {
        for candidate in candidates {
            let (_, warnings) = merge::identity(&self.merge_of(candidate))?;
            self.warn(&warnings);
        }
        Ok(())
    }

    fn warn(&mut self, warnings: &[Diagnostic]) {
        let is_new = |warning: &&Diagnostic| {
            !self
                .shown
                .iter()
                .any(|shown| (shown.code, &shown.headline) == (warning.code, &warning.headline))
        };
        let new: Vec<Diagnostic> = warnings.iter().filter(is_new).cloned().collect();
        self.talk.show(&new);
        self.shown.extend(new);
    }

    fn merge(&mut self, position: usize) -> Result<Merged, Trouble> {
        let (identity, folder) = (&self.identities[position], &self.candidates[position].folder);
        let merged = self.state.candidate(folder);
        if !self.state.has_candidate(folder, identity) {
            let (label, count) = (&self.candidates[position].label, &self.count);
            self.talk.say(&format!("candidate {label} ({} of {count}): merging", position + 1));
            self.state.clear_candidate(folder, identity)?;
            // Warnings are shown here, once for all candidates.
            let style = Style::suited(self.talk, false);
            let talk = Talk { quiet: true, ..self.talk };
            if let merge::Merged::Now(done) = merge::merge(&self.merges[position], talk, style)? {
                self.warn(&done.warnings);
            }
        }
        let key = state::model_key(&merged)?;
        self.state.remember_key(&self.identities[position], &key)?;
        Ok(Merged { folder: merged, key })
    }

    /// Puts the chosen merge where it belongs, and removes what is not wanted.
    fn place(&mut self, position: usize) -> Result<(), Trouble> {
        let keep_candidates = self.arguments.keep_candidates;
        let identity = self.identities[position].clone();
        if !self.state.has_merged(&identity) {
            self.merge(position)?;
            let folder = &self.candidates[position].folder;
            self.state.place(folder, &identity, keep_candidates)?;
        }
        if !keep_candidates {
            self.state.remove_candidates()?;
        }
        Ok(())
    }
}

impl Host for Merges<'_> {
    fn add(&mut self, candidates: &[Candidate]) -> Result<(), Failure> {
        self.plan(candidates).map_err(failure)
    }

    fn known_key(&mut self, position: usize) -> Option<String> {
        self.state.known_key(&self.identities[position])
    }

    fn merged(&mut self, position: usize) -> Result<Merged, Failure> {
        self.merge(position).map_err(failure)
    }

    fn discard(&mut self, position: usize) -> Result<(), Failure> {
        if !self.arguments.keep_candidates {
            self.state.remove_candidate(&self.candidates[position].folder)?;
        }
        Ok(())
    }

    fn say(&mut self, text: &str) {
        self.talk.say(text);
    }
}

fn write(arguments: &Arguments, report: &Report) -> Result<(), Box<Diagnostic>> {
    for (name, text) in [("report.json", report.to_json()), ("report.html", report.to_html())] {
        let path = arguments.out.join(name);
        write_whole(&path, text.as_bytes()).map_err(|error| {
            let headline = format!("the report cannot be written: {error}");
            Diagnostic::error(codes::WRITE_FAILED, headline).in_file(shown_path(&path))
        })?;
    }
    Ok(())
}

fn undecided(arguments: &Arguments, report: &Report) -> Trouble {
    let best = report.best().join(", ");
    let error = Diagnostic::error(codes::UNDECIDED, "several candidates are equally good")
        .in_file(shown_path(&arguments.out.join("report.json")))
        .fact("candidates", best)
        .note("`ties: error` leaves the choice to you; all merges are kept")
        .help("choose one, or write `ties: smallest`");
    error.into()
}

fn tell(arguments: &Arguments, talk: Talk, report: &Report, position: usize, begun: Instant) {
    let merged = arguments.out.join("merged");
    let others: Vec<&str> = report
        .best()
        .into_iter()
        .filter(|label| *label != report.candidates[position].label)
        .collect();
    let also = match others.as_slice() {
        [] => String::new(),
        others => format!("; equally good: {}", others.join(", ")),
    };
    let time = crate::quantity::time(begun.elapsed());
    talk.say(&format!("chosen: {}{also}, in {time}", report.candidates[position].label));
    let shown = |path: &Path| merge::summary::quoted(&shown_path(path));
    talk.say(&format!("look at it:  {}", shown(&arguments.out.join("report.html"))));
    match arguments.json {
        true => talk::data(&report.to_json()),
        false => talk::data(&format!("{}\n", merged.display())),
    }
}
