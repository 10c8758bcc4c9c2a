//! `mixdown merge`: a recipe becomes a checkpoint on disk.

mod adapter;
mod files;
mod matrices;
mod record;
pub mod summary;
mod sweep;

use sweep::Sweep;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use mixdown_checkpoint::layout::{Layout, OutputTensor};
use mixdown_checkpoint::output::{Begun, OutputFolder, OutputOptions};
use mixdown_checkpoint::shown_path;
use mixdown_cpu::CpuBackend;
use mixdown_diagnostics::{Code, Diagnostic, codes, render};
use mixdown_exec::{NoResults, Outcome as RunOutcome, Report, Results};
use mixdown_store::Store;
use serde_json::{Value, json};

use crate::commands::{Outcome, Trouble};
use crate::exit::Exit;
use crate::kept::{self, StoredResults};
use crate::machine::Machine;
use crate::models;
use crate::planning::{self, Planned, RecipeArguments};
use crate::progress::{self, Meter, Style};
use crate::size;
use crate::stop;
use crate::talk::{self, Talk};

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

Prints the folder to stdout and talks on stderr. With --json each line of stdout is an event: started,
warning, progress, tensor, error, done.

Exit status: 0 done, 1 failed, 2 recipe or command line wrong, 130 interrupted. A model that is
nowhere to be found counts as a wrong recipe; one that is there and cannot be used as a failure.")]
pub struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    /// The folder to make
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
    /// Neither read nor keep expensive results in the store
    #[arg(long)]
    no_cache: bool,
    /// Write what matrix ops tell of each tensor (loss, rank, spectral gap) to this file, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// A store of this command's own, which is removed at its end
    #[arg(skip)]
    own_store: Option<PathBuf>,
    /// Whether each update is told in a table
    #[arg(skip)]
    is_extraction: bool,
    /// Print events as JSON, one per line
    #[arg(long)]
    json: bool,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl Arguments {
    /// A merge for a candidate of a search, which may replace what is in the way.
    pub fn of_candidate(
        recipe: RecipeArguments,
        out: PathBuf,
        machine: Machine,
        shard_size: Option<u64>,
        allow_nonfinite: bool,
    ) -> Self {
        Self {
            recipe,
            out,
            machine,
            shard_size,
            force: true,
            allow_nonfinite,
            hash_inputs: false,
            sweep: None,
            no_cache: false,
            report: None,
            own_store: None,
            is_extraction: false,
            json: false,
            quiet: true,
        }
    }
}

/// Shard size where neither the command line nor the recipe says one; mergekit's.
const SHARD_BYTES: u64 = 5_000_000_000;

/// The file of a model's trained parts, as ModelCompose names it.
const MODELCOMPOSE_NAME: &str = "adapter_model.bin";

/// What only other inputs or another command can cure.
const INPUT_FAULTS: [Code; 4] =
    [codes::NONFINITE, codes::COPIES_DIFFER, codes::NUMERICS, codes::OUT_OF_RANGE];

impl Arguments {
    /// A merge whose recipe is no file: an extraction.
    pub fn of_extraction(recipe: RecipeArguments, out: PathBuf, running: Running) -> Self {
        let Running { machine, force, json, quiet } = running;
        Self {
            recipe,
            out,
            machine,
            shard_size: None,
            force,
            allow_nonfinite: false,
            hash_inputs: false,
            sweep: None,
            no_cache: false,
            report: None,
            own_store: None,
            is_extraction: true,
            json,
            quiet,
        }
    }
}

/// How a merge runs, whatever it makes.
#[derive(Clone, Copy, Debug, Args)]
pub struct Running {
    #[command(flatten)]
    machine: Machine,
    /// Replace the output folder if there is one
    #[arg(long)]
    force: bool,
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
    // Events say it all; talk between them would only repeat it.
    let talk = Talk { quiet: talk.quiet || arguments.json, ..talk };
    let style = Style::suited(talk, arguments.json);
    let outcome = match &arguments.sweep {
        None => merge(&arguments, talk, style).map(|merged| merged.tell(&arguments, talk)),
        Some(sweep) => merge_all(&arguments, sweep, talk),
    };
    if let Err(trouble) = &outcome {
        tell(trouble, arguments.json);
    }
    outcome
}

/// The event of what went wrong, where events are printed.
pub fn tell(trouble: &Trouble, json: bool) {
    if let (true, Some(found)) = (json, trouble.found()) {
        talk::event(&json!({"event": "error", "diagnostics": render::render_json(found)}));
    }
}

/// One merge for each value of a sweep. What they have in common comes from the store.
fn merge_all(arguments: &Arguments, sweep: &Sweep, talk: Talk) -> Outcome {
    let style = Style::suited(talk, arguments.json);
    let declared = planning::plan(&arguments.recipe, style, None)?.loaded.is_declared(&sweep.name);
    let own = |value: &String| {
        let recipe = arguments.recipe.with(&[(sweep.path(declared), value.clone())]);
        let out = arguments.out.join(sweep.folder(value));
        Arguments { recipe, out, sweep: None, ..arguments.clone() }
    };
    let mut merges: Vec<Arguments> = sweep.values.iter().map(own).collect();
    // All mistakes before the first byte, whichever value makes them.
    for merge in &merges {
        planning::plan(&merge.recipe, Style::Nothing, None)?;
    }
    let store = arguments.out.join(".store");
    if arguments.no_cache {
        for merge in &mut merges {
            (merge.no_cache, merge.own_store) = (false, Some(store.clone()));
        }
    }
    let mut outcome = Ok(Exit::Done);
    for (merge_of_value, value) in merges.iter().zip(&sweep.values) {
        talk.say(&format!("{} = {value}", sweep.name));
        let merged = merge(merge_of_value, talk, style);
        outcome = merged.map(|merged| merged.tell(merge_of_value, talk));
        if outcome.is_err() {
            break;
        }
    }
    if arguments.no_cache && store.exists() {
        // What stays behind does no harm, and the outputs are there.
        let _ = std::fs::remove_dir_all(&store);
    }
    outcome
}

/// What came of a merge.
pub enum Merged {
    /// It was done now.
    Now(Box<Done>),
    /// An earlier run had done everything but the last cleaning up.
    Earlier(PathBuf),
}

/// A merge that was done.
pub struct Done {
    planned: Planned,
    layout: Arc<Layout>,
    report: Report,
    backend: CpuBackend,
    elapsed: Duration,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

impl Merged {
    fn tell(&self, arguments: &Arguments, talk: Talk) -> Exit {
        match self {
            Self::Now(done) => {
                let Done { planned, layout, report, backend, elapsed, .. } = &**done;
                let updates = adapter::updates(planned, report);
                if let (true, Some(updates)) =
                    (arguments.is_extraction && !arguments.json, &updates)
                {
                    talk::data(&adapter::table(updates));
                }
                let run = summary::Run { planned, layout, report, updates };
                summary::done(arguments, talk, &run, backend, *elapsed);
            }
            Self::Earlier(path) => summary::complete(arguments, talk, path),
        }
        Exit::Done
    }
}

/// By what the output of these arguments is known: equal outputs have equal identities. Nothing is
/// written; all mistakes that headers show are found.
pub fn identity(arguments: &Arguments) -> Result<(String, Vec<Diagnostic>), Trouble> {
    let planned = planning::plan(&arguments.recipe, Style::Nothing, None)?;
    let backend = arguments.machine.device.backend();
    let threads = crate::commands::threads(arguments.machine.threads);
    planned.footprint(&backend, &planned.options(arguments.machine.memory, threads))?;
    check_target(&arguments.out, &planned)?;
    let layout = layout(arguments, &planned)?;
    let identity = record::identity(&planned, arguments, layout.shards().len());
    Ok((identity.as_str().to_owned(), planned.warnings))
}

/// Merges.
pub fn merge(arguments: &Arguments, talk: Talk, style: Style) -> Result<Merged, Trouble> {
    let begun = Instant::now();
    let planned = planning::plan(&arguments.recipe, style, None)?;
    let backend = arguments.machine.device.backend();
    let threads = crate::commands::threads(arguments.machine.threads);
    let mut options = planned.options(arguments.machine.memory, threads);
    options.allow_nonfinite = arguments.allow_nonfinite;
    let footprint = planned.footprint(&backend, &options)?;
    check_target(&arguments.out, &planned)?;
    let files = files::choose(&planned, arguments)?;
    let mut warnings = planned.warnings.clone();
    warnings.extend(files.warnings.iter().cloned());
    warn(arguments, talk, &warnings);

    let layout = Arc::new(layout(arguments, &planned)?);
    let identity = record::identity(&planned, arguments, layout.shards().len());
    let side_bytes = files.bytes.saturating_add(footprint.bytes_aside);
    let output_options = OutputOptions { force: arguments.force, side_bytes };
    let begun_output =
        OutputFolder::begin(&arguments.out, Arc::clone(&layout), &identity, &output_options)?;
    let mut output = match begun_output {
        Begun::Open(output) => *output,
        Begun::Complete(path) => return Ok(Merged::Earlier(path)),
    };
    for notice in output.notices() {
        talk.say(&notice.to_string());
    }
    confirm(&mut output, threads, style)?;
    let needed = if arguments.no_cache { Vec::new() } else { kept::files(&planned) };
    let digests = record::digests(&planned, &needed, arguments.hash_inputs, style)?;
    let inputs = record::inputs(&planned, &digests);
    let folder = arguments.own_store.clone().unwrap_or_else(models::store_folder);
    let stored = (!arguments.no_cache && !needed.is_empty())
        .then(|| StoredResults::new(Store::new(folder), &planned, &backend, &digests));
    let results: &dyn Results = match &stored {
        Some(stored) => stored,
        None => &NoResults,
    };
    summary::started(arguments, &planned, &layout);

    let meter = Meter::new(style);
    let sources = planned.sources();
    let report = progress::watch(style, &meter, || {
        mixdown_exec::run(
            &planned.plan,
            &sources,
            &backend,
            &output,
            results,
            &options,
            &meter,
            stop::flag(),
        )
    });
    let report = match report {
        Ok(report) => report,
        Err(problems) => {
            // Other weights or another recipe are another merge, which cannot go on from here.
            if problems.iter().any(|problem| INPUT_FAULTS.contains(&problem.code)) {
                output.discard();
            }
            return Err(problems.into());
        }
    };
    if report.outcome == RunOutcome::Interrupted {
        return Err(interrupted(&planned, &report));
    }
    let mut told = report.warnings.clone();
    told.extend(matrices::warnings(&report.matrices));
    // A store that fails is talked about, and no part of the output.
    let unkept = stored.as_ref().map(StoredResults::warnings).unwrap_or_default();
    warn(arguments, talk, &[told.as_slice(), &unkept].concat());
    warnings.extend(told);
    if let Some(path) = &arguments.report {
        write_report(path, &matrices::json(&report.matrices))?;
    }
    files.write(&output)?;
    let record = record::of(&planned, arguments, &backend, inputs, &warnings);
    output.finish(record)?;
    drop(sources);
    let elapsed = begun.elapsed();
    Ok(Merged::Now(Box::new(Done { planned, layout, report, backend, elapsed, warnings })))
}

/// Writes what matrix ops told.
fn write_report(path: &Path, told: &Value) -> Result<(), Box<Diagnostic>> {
    let text = format!("{told:#}\n");
    std::fs::write(path, text).map_err(|error| {
        let headline = format!("the report cannot be written: {error}");
        Box::new(Diagnostic::error(codes::WRITE_FAILED, headline).in_file(shown_path(path)))
    })
}

/// Where each tensor will lie.
fn layout(arguments: &Arguments, planned: &Planned) -> Result<Layout, Box<Diagnostic>> {
    let tensors = planned.plan.jobs.iter().map(|job| OutputTensor {
        name: job.name.clone(),
        dtype: job.dtype,
        shape: job.shape.clone(),
    });
    let composition = planned.loaded.composition.as_ref();
    let is_whole = composition.is_none_or(|composition| composition.is_whole);
    if !is_whole {
        return Layout::in_torch_file(tensors.collect(), MODELCOMPOSE_NAME);
    }
    if planned.plan.output.adapter.is_some() {
        return Layout::in_one_file(tensors.collect(), adapter::WEIGHTS_NAME);
    }
    let stated = planned.loaded.recipes.first().and_then(|recipe| recipe.shard_size.as_ref());
    let shard_bytes =
        arguments.shard_size.or(stated.map(|stated| stated.value)).unwrap_or(SHARD_BYTES);
    Layout::new(tensors.collect(), shard_bytes)
}

/// Refuses to replace what is being read: with `--force` the inputs would be gone at the end.
fn check_target(out: &Path, planned: &Planned) -> Result<(), Trouble> {
    let Ok(target) = out.canonicalize() else { return Ok(()) };
    let is_inside = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(&target));
    let model = planned.loaded.models.iter().find(|input| {
        // The files of a model in the hub's cache are links out of its folder: both count.
        let checkpoint = &input.model.checkpoint;
        let mut shards = checkpoint.index.shards().iter();
        is_inside(&checkpoint.root) || shards.any(|shard| is_inside(&shard.path))
    });
    let recipe =
        planned.loaded.recipes.iter().find(|recipe| is_inside(Path::new(recipe.source.name())));
    let replaced = match (model, recipe) {
        (None, None) => return Ok(()),
        (Some(input), _) => format!("the model `{}`", input.name),
        (None, Some(recipe)) => format!("the recipe `{}`", recipe.source.name()),
    };
    let headline = format!("the output would replace {replaced}");
    Err(Trouble::Found(vec![
        Diagnostic::error(codes::OUTPUT_EXISTS, headline)
            .in_file(shown_path(out))
            .help("name another folder with `--out`"),
    ]))
}

/// Reads again what an interrupted run wrote.
fn confirm(output: &mut OutputFolder, threads: usize, style: Style) -> Result<(), Trouble> {
    let bytes = output.recorded_bytes();
    if bytes == 0 {
        return Ok(());
    }
    // Its events would look like those of the merge.
    let style = if style == Style::Events { Style::Nothing } else { style };
    let meter = Meter::new(style);
    meter.enter("checking what is there");
    meter.expect(0, bytes);
    progress::watch(style, &meter, || {
        output.confirm(threads, &|bytes| {
            meter.add(bytes, 0);
            !stop::is_asked()
        })
    });
    match stop::flag().load(Ordering::SeqCst) {
        false => Ok(()),
        true => Err(Trouble::Interrupted(
            "interrupted: what was written before is kept; run the same command again to continue"
                .to_owned(),
        )),
    }
}

fn interrupted(planned: &Planned, report: &Report) -> Trouble {
    let kept = report.tensors_computed + report.tensors_reused;
    let all = planned.plan.jobs.len();
    Trouble::Interrupted(format!(
        "interrupted: {kept} of {all} tensors are kept; run the same command again to continue"
    ))
}

fn warn(arguments: &Arguments, talk: Talk, warnings: &[Diagnostic]) {
    talk.show(warnings);
    if arguments.json {
        for warning in render::render_json(warnings).as_array().into_iter().flatten() {
            talk::event(&json!({"event": "warning", "diagnostic": warning}));
        }
    }
}
