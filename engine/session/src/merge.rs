//! A recipe becomes a checkpoint on disk.

pub mod adapter;
mod chat_template;
pub(crate) mod files;
mod gguf;
pub mod gguf_tokenizer;
pub mod losses;
pub mod matrices;
mod outgoing;
pub mod quantized;
pub(crate) mod record;
mod report_page;
mod survival;
mod target;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mixdown_checkpoint::hub;
use mixdown_checkpoint::journal::OwnerKey;
use mixdown_checkpoint::layout::Layout;
use mixdown_checkpoint::output::{Begun, OutputFolder, OutputOptions, tidy};
use mixdown_checkpoint::{shown, shown_path, stored};
use mixdown_diagnostics::{Code, Diagnostic, codes};
use mixdown_exec::{NoResults, Outcome, Report, Results};
use mixdown_store::Store;
use serde_json::Value;

use outgoing::Outgoing;
pub use outgoing::in_folder;
use target::Target;

use crate::kept::{self, StoredResults};
use crate::owner_key as key_file;
use crate::parts::{self, PartNumber, PartSink, Partition};
use crate::planning::{self, Planned, RecipeInput};
use crate::progress::Task;
use crate::{Event, Machine, Session, Trouble};

/// What to merge, where to, and how.
#[derive(Clone, Debug)]
pub struct MergeRequest {
    /// The recipe with its overrides.
    pub recipe: RecipeInput,
    /// The folder to make.
    pub out: PathBuf,
    /// What the merge may use of the machine.
    pub machine: Machine,
    /// Largest file of weights in bytes, 0 for one file; the recipe's or [`SHARD_BYTES`] if none.
    pub shard_bytes: Option<u64>,
    /// Replace the output folder if there is one.
    pub force: bool,
    /// Merge NaN and infinity like numbers, where they are an error otherwise.
    pub allow_nonfinite: bool,
    /// Record the SHA-256 of every input file, reading each whatever an earlier run remembered.
    pub hash_inputs: bool,
    /// Where expensive results are kept.
    pub keep: Keep,
    /// A file for what matrix ops tell of each tensor, as JSON.
    pub report: Option<PathBuf>,
    /// The part that is made, in a folder of its own within `out`; all of the output if none is named.
    pub part: Option<PartNumber>,
}

/// Where expensive results are kept from one merge to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// In the store of the session's places.
    #[default]
    Shared,
    /// In a folder of the caller's.
    Own(PathBuf),
    /// Nowhere, and none are read.
    Nowhere,
}

impl MergeRequest {
    /// A merge that replaces nothing, with everything else as usual.
    pub fn new(recipe: RecipeInput, out: impl Into<PathBuf>) -> Self {
        Self {
            recipe,
            out: out.into(),
            machine: Machine::default(),
            shard_bytes: None,
            force: false,
            allow_nonfinite: false,
            hash_inputs: false,
            keep: Keep::Shared,
            report: None,
            part: None,
        }
    }

    /// The folder that the merge makes.
    pub fn folder(&self) -> PathBuf {
        match self.part {
            None => self.out.clone(),
            Some(part) => parts::folder(&self.out, part),
        }
    }
}

/// Shard size where neither the caller nor the recipe says one; mergekit's.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// What only other inputs or another command can cure.
const INPUT_FAULTS: [Code; 5] = [
    codes::NONFINITE,
    codes::COPIES_DIFFER,
    codes::NUMERICS,
    codes::OUT_OF_RANGE,
    codes::CANNOT_QUANTIZE,
];

/// A merge that begins.
#[derive(Debug)]
pub struct Started<'a> {
    /// What was asked for.
    pub request: &'a MergeRequest,
    /// What will be done.
    pub planned: &'a Planned,
    /// Where each tensor will lie.
    pub layout: &'a Layout,
}

/// What came of a merge.
#[derive(Debug)]
pub enum Merged {
    /// It was done now.
    Now(Box<Done>),
    /// An earlier run had done everything but the last cleaning up.
    Earlier(PathBuf),
}

/// A merge that was done.
#[derive(Debug)]
pub struct Done {
    /// The folder.
    pub out: PathBuf,
    /// The part that was made, if not all was.
    pub part: Option<PartNumber>,
    /// What was done.
    pub planned: Planned,
    /// Where each tensor lies, of the part if it is one.
    pub layout: Arc<Layout>,
    /// Bytes, threads, stages, and what matrix ops told.
    pub report: Report,
    /// The name of the backend that computed.
    pub backend: String,
    /// What it computed with, in words.
    pub computed_with: String,
    /// From the reading of the recipe to the end.
    pub elapsed: Duration,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

impl Merged {
    /// The folder that was made.
    pub fn out(&self) -> &Path {
        match self {
            Self::Now(done) => &done.out,
            Self::Earlier(path) => path,
        }
    }
}

/// By what the output of this request is known: equal outputs have equal identities. Nothing is
/// written; all mistakes that headers show are found.
///
/// **Errors.** All that [`merge`] finds before it writes.
pub fn identity(
    request: &MergeRequest,
    session: &Session<'_>,
) -> Result<(String, Vec<Diagnostic>), Trouble> {
    let planned = planning::plan(&request.recipe, session, None)?;
    let chosen = planned.backend(&request.machine, session)?;
    planned.costs(chosen.backend(), &request.machine)?;
    check_target(&request.out, &planned)?;
    let files = files::choose(&planned, request, session)?;
    let layout = match &files.gguf {
        Some(head) => gguf::layout(request, &planned, head)?,
        None => layout(request, &planned)?,
    };
    let identity = record::identity(&planned, request, &chosen, layout.shards().len());
    Ok((identity.whole(), planned.warnings))
}

/// How the output of this request is cut in so many parts.
///
/// **Errors.** What the output's layout or a backend refuses.
pub fn partition(
    request: &MergeRequest,
    planned: &Planned,
    parts: u32,
    session: &Session<'_>,
) -> Result<Partition, Trouble> {
    let chosen = planned.backend(&request.machine, session)?;
    gguf::refuse_parts(planned)?;
    let layout = layout(request, planned)?;
    Ok(target::partition(planned, &layout, chosen.backend(), parts)?)
}

/// Merges. The folder appears under its name when all of it is stored; a merge that was interrupted goes
/// on where it was when the same request comes again.
///
/// **Errors.** All mistakes of the recipe and the models' headers together, before anything is written;
/// then the first trouble with data or disk. An interruption when the session is cancelled.
pub fn merge(request: &MergeRequest, session: &Session<'_>) -> Result<Merged, Trouble> {
    let begun = Instant::now();
    let outgoing = Outgoing::of(request, session)?;
    let recipe =
        RecipeInput { memory_bytes: request.machine.memory_bytes, ..request.recipe.clone() };
    let mut planned = planning::plan(&recipe, session, None)?;
    let mut chosen = planned.backend(&request.machine, session)?;
    let threads = request.machine.threads();
    chosen.open()?;
    let backend = chosen.backend();
    let sent_bytes = if outgoing.is_some() { hub::SENT_BYTES } else { 0 };
    let (footprint, mut options) = planned.costs_beside(backend, &request.machine, sent_bytes)?;
    options.allow_nonfinite = request.allow_nonfinite;
    check_target(&request.out, &planned)?;
    let files = files::choose(&planned, request, session)?;
    let whole = match &files.gguf {
        Some(head) => gguf::layout(request, &planned, head)?,
        None => layout(request, &planned)?,
    };
    let target = Target::new(request, &planned, whole, &chosen)?;
    if target.is_done(request)? {
        // A process that was killed at its very end left its hidden folder.
        tidy(&target.folder, &owner_key(session)?);
        return Ok(Merged::Earlier(target.folder));
    }
    if let Some(path) = &request.report {
        promise_report(path, &request.out)?;
    }
    let mut warnings = planned.warnings.clone();
    warnings.extend(files.warnings.iter().cloned());
    session.warn(&warnings);
    chosen.tell(session);

    let layout = Arc::clone(&target.layout);
    // The first part has what stands beside the weights.
    let has_files = request.part.is_none_or(|part| part.index() == 0);
    let files_bytes = if has_files { files.bytes } else { 0 };
    let side_bytes = files_bytes.saturating_add(footprint.bytes_aside);
    let key = owner_key(session)?;
    let _working = session.working();
    // What is sent is let go of.
    let adopted_bytes = if outgoing.is_some() { layout.file_bytes() } else { 0 };
    let output_options = OutputOptions { force: request.force, side_bytes, adopted_bytes, key };
    let (own, identity) = (Arc::clone(&layout), &target.identity);
    let begun_output = match &outgoing {
        None => OutputFolder::begin(&target.folder, own, identity, &output_options)?,
        Some(Outgoing { address, place }) => Begun::Open(OutputFolder::begin_in_store(
            address,
            &session.places.hub,
            place,
            own,
            identity,
            &output_options,
        )?),
    };
    let mut output = match begun_output {
        Begun::Open(output) => *output,
        Begun::Complete(path) => return Ok(Merged::Earlier(path)),
    };
    for notice in output.notices() {
        session.tell(Event::Notice(&notice.to_string()));
    }
    confirm(&mut output, threads, session)?;
    let folder = match &request.keep {
        Keep::Shared => Some(session.places.store()),
        Keep::Own(folder) => Some(folder.clone()),
        Keep::Nowhere => None,
    };
    let needed = if folder.is_some() { kept::files(&planned, &target.jobs) } else { Vec::new() };
    let digests = record::digests(&planned, &needed, request.hash_inputs, session)?;
    let inputs = record::inputs(&planned, &digests);
    let stored = folder.filter(|_| !needed.is_empty()).map(|folder| {
        let store = Store::new(folder);
        // What an interrupted run was writing; where it cannot be removed, it is in nobody's way.
        let _ = store.remove_leftovers(false);
        StoredResults::new(store, &planned, backend, &digests)
    });
    let stored = stored.transpose()?;
    let results: &dyn Results = match &stored {
        Some(stored) => stored,
        None => &NoResults,
    };
    session.tell(Event::Started(&Started { request, planned: &planned, layout: &layout }));

    let meter = session.meter(Task::Merging);
    let sources = planned.sources();
    let sink = PartSink { output: &output, tensors: target.tensors.clone() };
    let report = session.watch(&meter, || {
        mixdown_exec::run(
            &planned.plan,
            &sources,
            backend,
            &sink,
            results,
            &options,
            &meter,
            session.cancel,
        )
    });
    let mut report = match report {
        Ok(report) => report,
        Err(problems) => {
            // Other weights or another recipe are another merge, which cannot go on from here.
            if problems.iter().any(|problem| INPUT_FAULTS.contains(&problem.code)) {
                output.discard();
            }
            return Err(problems.into());
        }
    };
    report.tensors_reused -= planned.plan.jobs.len() - target.jobs.len();
    if report.outcome == Outcome::Interrupted {
        return Err(interrupted(target.jobs.len(), &report));
    }
    let base_warnings = warnings.clone();
    let mut told = report.warnings.clone();
    told.extend(matrices::warnings(&report.told.matrices));
    told.extend(losses::warning(&report.told.losses, &planned.loaded.recipes[0]));
    told.extend(quantized::warning(&report.told.quantized));
    // A store that fails is talked about, and no part of the output.
    let unkept = stored.as_ref().map(StoredResults::warnings).unwrap_or_default();
    session.warn(&[told.as_slice(), &unkept].concat());
    warnings.extend(told);
    if let Some(path) = &request.report {
        // What was computed for hours is not lost for it.
        let unwritten = write_report(path, &told_of(&report), &planned, &request.out);
        session.warn(unwritten.as_slice());
    }
    if has_files {
        files.write(&output)?;
    }
    if let Some(part) = request.part {
        let record = target.record(part, &planned, &chosen, &base_warnings, &report);
        output.add_file(parts::RECORD_NAME, record.text().as_bytes())?;
    }
    let record = record::of(&planned, request, &chosen, (inputs, &target.jobs), &warnings);
    if let Some(outgoing) = &outgoing {
        session.notice(&format!("sending the rest to {}", shown(&outgoing.address)));
    }
    output.finish(record)?;
    drop(sources);
    let is_sent = outgoing.is_some();
    let out = outgoing.map_or(target.folder, |outgoing| PathBuf::from(outgoing.address));
    let elapsed = begun.elapsed();
    if let (Some(path), None) = (&request.report, request.part) {
        let survived = match is_sent {
            false => survival::measure(&mut planned.loaded, &out, &request.machine, session)?,
            true => {
                session.notice("the report does not say what survives: the output is in a store");
                Vec::new()
            }
        };
        if !survived.is_empty() {
            let all = survival::with(told_of(&report), &survived);
            session.warn(write_report(path, &all, &planned, &request.out).as_slice());
        }
    }
    let (backend, computed_with) = (chosen.word(), chosen.describe());
    let part = request.part;
    let done =
        Done { out, part, planned, layout, report, backend, computed_with, elapsed, warnings };
    Ok(Merged::Now(Box::new(done)))
}

/// The key of this user's runs. Without a place to keep it, which is told, a merge runs, but cannot go on after it was
/// interrupted.
///
/// **Errors.** `CACHE_NOT_OWN` where others may have put one there; `WRITE_FAILED` where the system gives no random
/// numbers.
pub fn owner_key(session: &Session<'_>) -> Result<OwnerKey, Box<Diagnostic>> {
    session.places.check()?;
    let folder = &session.places.cache;
    let random = |error: std::io::Error| {
        let headline = "no key can be kept, so an interrupted merge could not go on";
        let warning = Diagnostic::warning(codes::KEY_NOT_KEPT, headline)
            .in_file(shown_path(folder))
            .fact("system", error.to_string())
            .help("name a folder of your own in MIXDOWN_CACHE");
        session.warn(&[warning]);
        OwnerKey::random()
    };
    key_file::in_folder(folder).or_else(random).map_err(|error| {
        let headline = format!("the system gives no random numbers: {error}");
        Box::new(Diagnostic::error(codes::WRITE_FAILED, headline).in_file("/dev/urandom"))
    })
}

/// What is told of each tensor, for programs: a list of what matrix ops tell, or a map where there is more.
fn told_of(report: &Report) -> Value {
    let matrices = matrices::json(&report.told.matrices);
    match report.told.quantized.is_empty() {
        true => matrices,
        false => {
            let quantized = quantized::json(&report.told.quantized);
            serde_json::json!({"matrices": matrices, "quantized": quantized, "codes_kept": report.codes_kept})
        }
    }
}

/// Refuses a report that could not be written, before hours of work.
fn promise_report(path: &Path, out: &Path) -> Result<(), Box<Diagnostic>> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if absolute(path).starts_with(absolute(out)) {
        let headline = "the report would lie in the folder of the output";
        return Err(Box::new(
            Diagnostic::error(codes::REPORT_INSIDE, headline)
                .in_file(shown_path(path))
                .note("that folder holds what its manifest tells of, and appears as a whole")
                .help("name a place beside it"),
        ));
    }
    stored::try_named(path).map_err(|error| {
        let headline = format!("the report cannot be written: {error}");
        let fault = Diagnostic::error(codes::WRITE_FAILED, headline).in_file(shown_path(path));
        Box::new(fault.help("name a place that can be written to"))
    })
}

/// Writes what matrix ops told: as JSON, or as a page where the name ends as that of one does. Gives a warning of
/// what the system refuses.
fn write_report(path: &Path, told: &Value, planned: &Planned, out: &Path) -> Option<Diagnostic> {
    let is_page = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("html"));
    let text = match is_page {
        true => report_page::page(told, planned, out),
        false => format!("{told:#}\n"),
    };
    let error = stored::write_named(path, text.as_bytes()).err()?;
    let headline = format!("the report cannot be written: {error}");
    let warning = Diagnostic::warning(codes::REPORT_NOT_WRITTEN, headline)
        .in_file(shown_path(path))
        .note("the output is written all the same, and holds what it should");
    Some(warning.help("make room, and merge again into another folder for a report"))
}

/// Where each tensor will lie.
pub(crate) fn layout(request: &MergeRequest, planned: &Planned) -> Result<Layout, Box<Diagnostic>> {
    target::files(request, planned).layout(planned.plan.stored().collect())
}

/// Refuses to replace what is being read: with `force` the inputs would be gone at the end.
fn check_target(out: &Path, planned: &Planned) -> Result<(), Trouble> {
    let Ok(target) = out.canonicalize() else { return Ok(()) };
    let is_inside = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(&target));
    let model = planned.loaded.models.iter().find(|input| {
        // The files of a model in the hub's cache are links out of its folder: both count.
        let checkpoint = &input.model.checkpoint;
        let mut shards = checkpoint.index.shards().iter();
        is_inside(&checkpoint.root) || shards.any(|shard| is_inside(&shard.path))
    });
    let recipe = planned.loaded.recipes.iter().find(|recipe| {
        let name = recipe.source.name();
        !name.is_empty() && is_inside(Path::new(name))
    });
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
fn confirm(
    output: &mut OutputFolder,
    threads: usize,
    session: &Session<'_>,
) -> Result<(), Trouble> {
    let bytes = output.recorded_bytes();
    if bytes == 0 {
        return Ok(());
    }
    let meter = session.meter(Task::Confirming);
    meter.enter("checking what is there");
    meter.expect(0, bytes);
    session.watch(&meter, || {
        output.confirm(threads, &|bytes| {
            meter.add(bytes, 0);
            !session.is_cancelled()
        })
    });
    match session.is_cancelled() {
        false => Ok(()),
        true => Err(Trouble::Interrupted(
            "interrupted: what was written before is kept; run the same command again to continue"
                .to_owned(),
        )),
    }
}

fn interrupted(all: usize, report: &Report) -> Trouble {
    let kept = report.tensors_computed + report.tensors_reused;
    Trouble::Interrupted(format!(
        "interrupted: {kept} of {all} tensors are kept; run the same command again to continue"
    ))
}
