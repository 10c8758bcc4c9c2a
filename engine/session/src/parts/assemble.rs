//! Parts become one output: proven to be of one plan, joined without copying whole shards, and with the
//! bytes that one run would have given.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mixdown_checkpoint::layout::{INDEX_NAME, Layout, OutputTensor};
use mixdown_checkpoint::manifest::{
    FileRecord, InputRecord, MANIFEST_NAME, MergeRecord, OriginRecord, TensorRecord,
};
use mixdown_checkpoint::output::{Begun, OutputFolder, OutputOptions, PlanIdentity, tidy};
use mixdown_checkpoint::shown::{shown, shown_path};
use mixdown_checkpoint::tensor_digest::TensorDigest;
use mixdown_checkpoint::verify::sha256_of_file;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::{Told, overflow_warning};
use mixdown_files::open_regular;
use mixdown_tensor::{DType, Shape};

use super::found::{self, Found};
use super::record::RECORD_NAME;
use super::{partition, strangers};
use crate::merge::{losses, matrices, owner_key, quantized};
use crate::progress::Task;
use crate::{Session, Trouble};

/// Which parts to join.
#[derive(Clone, Debug)]
pub struct AssembleRequest {
    /// The folder that they are in, which becomes the output.
    pub out: PathBuf,
    /// Whether what else is in the folder is removed.
    pub force: bool,
}

/// What came of it.
#[derive(Debug)]
pub enum Assembled {
    /// It was done now.
    Now(Joined),
    /// The folder is a whole output already.
    Earlier(PathBuf),
}

/// Parts that were joined.
#[derive(Debug)]
pub struct Joined {
    /// The output.
    pub out: PathBuf,
    /// How many parts there were.
    pub parts: usize,
    /// Tensors of the output.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files of weights.
    pub shards: usize,
    /// Bytes that were copied, because parts had pieces of one shard.
    pub bytes_copied: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

/// Joins parts. The output takes the place of the folder that they are in, when all of it is stored.
///
/// **Errors.** All parts that are missing, repeated, damaged or of other merges, together, before anything
/// is written.
pub fn assemble(request: &AssembleRequest, session: &Session<'_>) -> Result<Assembled, Trouble> {
    let begun = Instant::now();
    let out = &request.out;
    if !out.is_dir() {
        let headline = format!("there is no folder `{}`", shown_path(out));
        return Err(Trouble::Usage(vec![Diagnostic::error(codes::PARTS_MISSING, headline)]));
    }
    if found::numbers(out)?.is_empty() && out.join(MANIFEST_NAME).is_file() {
        // A process that was killed right after it had joined them left its hidden folder.
        tidy(out, &owner_key(session)?);
        return Ok(Assembled::Earlier(out.clone()));
    }
    check_strangers(request)?;
    let parts = found::all(out)?;
    let layout = Arc::new(layout(&parts)?);
    let pieces = check_files(&parts, &layout)?;
    let sides = side_files(&parts[0])?;
    let warnings = warnings(&parts);
    session.warn(&warnings);
    let _working = session.working();
    let adopted_bytes =
        pieces.iter().filter(|one| one.adopted.is_some()).map(|one| one.bytes).sum();
    let options = OutputOptions {
        force: true,
        side_bytes: sides.iter().map(|side| side.bytes).sum(),
        adopted_bytes,
        key: owner_key(session)?,
    };
    let identity = identity(&parts[0], &layout);
    let output = match OutputFolder::begin(out, Arc::clone(&layout), &identity, &options)? {
        Begun::Open(output) => *output,
        Begun::Complete(path) => return Ok(Assembled::Earlier(path)),
    };
    let bytes_copied = join(&parts, &pieces, &output, session)?;
    for side in &sides {
        output.copy_file(&side.name, &parts[0].folder.join(&side.name))?;
    }
    output.finish(record(&parts, &warnings))?;
    Ok(Assembled::Now(Joined {
        out: out.clone(),
        parts: parts.len(),
        tensors: layout.tensors().len(),
        bytes: layout.total_bytes(),
        shards: layout.shards().len(),
        bytes_copied,
        elapsed: begun.elapsed(),
        warnings,
    }))
}

/// What is no part would be gone with the folder.
fn check_strangers(request: &AssembleRequest) -> Result<(), Box<Diagnostic>> {
    let others = strangers(&request.out)?;
    let (Some(first), false) = (others.first(), request.force) else { return Ok(()) };
    let headline = "the folder holds something else than parts, which would be lost";
    let mut diagnostic = Diagnostic::error(codes::OUTPUT_EXISTS, headline)
        .in_file(shown_path(&request.out))
        .fact("found", shown(first).into_owned());
    if others.len() > 1 {
        diagnostic = diagnostic.fact("and", format!("{} more", others.len() - 1));
    }
    Err(Box::new(diagnostic.help("move it elsewhere, or let it be removed with `--force`")))
}

/// Where each tensor of the whole will lie.
fn layout(parts: &[Found]) -> Result<Layout, Box<Diagnostic>> {
    let mut tensors = Vec::new();
    for part in parts {
        for tensor in &part.manifest.tensors {
            let read =
                DType::from_safetensors(&tensor.dtype).zip(Shape::new(tensor.shape.clone()).ok());
            let (dtype, shape) = read.ok_or_else(|| {
                broken(&part.folder, "the manifest of a part names a tensor that cannot be")
                    .fact("tensor", shown(&tensor.name).into_owned())
            })?;
            tensors.push(OutputTensor { name: tensor.name.clone(), dtype, shape });
        }
    }
    let record = &parts[0].record;
    let layout = record.files.layout(tensors)?;
    if layout.digest() == record.layout {
        return Ok(layout);
    }
    Err(Box::new(
        broken(&parts[0].folder, "the parts together are not the output that they were cut from")
            .note("a manifest or a record of a part was changed"),
    ))
}

fn broken(path: &Path, headline: &str) -> Diagnostic {
    Diagnostic::error(codes::PART_BROKEN, headline)
        .in_file(shown_path(path))
        .help("remove the folder of the part, and make it again with the same command")
}

/// Where a shard of the whole comes from.
struct Source {
    /// The part's file, where it is the whole shard.
    adopted: Option<PathBuf>,
    /// Bytes of the shard.
    bytes: u64,
    /// Otherwise: each tensor with its file and its place there.
    tensors: Vec<(usize, PathBuf, u64)>,
}

/// Finds each shard of the whole in the parts, whose files must be as long as they were written and begin
/// as they were laid out.
fn check_files(parts: &[Found], layout: &Layout) -> Result<Vec<Source>, Trouble> {
    let mut sources: Vec<Source> = layout
        .shards()
        .iter()
        .map(|shard| Source { adopted: None, bytes: shard.file_bytes, tensors: Vec::new() })
        .collect();
    let mut problems = Vec::new();
    for part in parts {
        let first = part.record.first;
        let own = partition::layout_of(layout, first..first + part.manifest.tensors.len())?;
        for shard in own.shards() {
            let path = part.folder.join(&shard.name);
            if let Err(problem) = check_file(&path, &shard.header, shard.file_bytes) {
                problems.push(*problem);
                continue;
            }
            let Some(&tensor) = shard.tensors.first() else { continue };
            let whole = layout.place(first + tensor).shard;
            let is_whole = layout.shards()[whole].name == shard.name
                && layout.shards()[whole].header == shard.header;
            match is_whole {
                true => sources[whole].adopted = Some(path),
                false => sources[whole].tensors.extend(
                    shard
                        .tensors
                        .iter()
                        .map(|&tensor| (first + tensor, path.clone(), own.place(tensor).offset)),
                ),
            }
        }
    }
    match problems.is_empty() {
        true => Ok(sources),
        false => Err(Trouble::Found(problems)),
    }
}

fn check_file(path: &Path, header: &[u8], bytes: u64) -> Result<(), Box<Diagnostic>> {
    let wrong = |what: &str| broken(path, what);
    let found = fs::symlink_metadata(path).map_err(|error| {
        Box::new(wrong("a file of a part cannot be found").fact("system", error.to_string()))
    })?;
    if !found.is_file() {
        return Err(Box::new(wrong("a file of a part is no file")));
    }
    if found.len() != bytes {
        return Err(Box::new(
            wrong("a file of a part is not as long as it was written")
                .fact("found", format!("{} bytes", found.len()))
                .fact("expected", format!("{bytes} bytes")),
        ));
    }
    let mut there = vec![0; header.len()];
    let read = open_regular(path).and_then(|(file, _)| file.read_exact_at(&mut there, 0));
    match read {
        Err(error) => Err(Box::new(
            wrong("a file of a part cannot be read").fact("system", error.to_string()),
        )),
        Ok(()) if there != header => {
            Err(Box::new(wrong("the header of a file of a part is not what was written")))
        }
        Ok(()) => Ok(()),
    }
}

/// The files beside the weights, which the first part has.
fn side_files(first: &Found) -> Result<Vec<FileRecord>, Trouble> {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    // The index is of the part's own files.
    let is_own = |name: &str| [RECORD_NAME, INDEX_NAME].contains(&name);
    for file in first.manifest.files.iter().filter(|file| !is_own(&file.name)) {
        let path = first.folder.join(&file.name);
        let is_file = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
        let found = match is_file {
            true => sha256_of_file(&path),
            false => Err(io::ErrorKind::NotFound.into()),
        };
        match found {
            Ok(found) if found == (file.sha256.clone(), file.bytes) => files.push(file.clone()),
            Ok(_) => problems.push(broken(&path, "a file of a part is not what was written")),
            Err(error) => problems.push(
                broken(&path, "a file of a part cannot be read").fact("system", error.to_string()),
            ),
        }
    }
    match problems.is_empty() {
        true => Ok(files),
        false => Err(Trouble::Found(problems)),
    }
}

fn identity(first: &Found, layout: &Layout) -> PlanIdentity {
    let text = format!("assembled {} {}", first.manifest.plan, layout.digest());
    PlanIdentity::new(blake3::hash(text.as_bytes()).as_bytes())
}

/// Puts all shards in their places. Returns the bytes that were copied.
fn join(
    parts: &[Found],
    sources: &[Source],
    output: &OutputFolder,
    session: &Session<'_>,
) -> Result<u64, Trouble> {
    let tensors: Vec<&TensorRecord> =
        parts.iter().flat_map(|part| &part.manifest.tensors).collect();
    let meter = session.meter(Task::Assembling);
    meter.enter("assembling");
    meter.expect(tensors.len(), sources.iter().map(|source| source.bytes).sum());
    session.watch(&meter, || {
        let mut copied = 0;
        for (shard, source) in sources.iter().enumerate() {
            if session.is_cancelled() {
                let text = "interrupted: the parts are as they were; run the same command again";
                return Err(Trouble::Interrupted(text.to_owned()));
            }
            let members = &output.layout().shards()[shard].tensors;
            if let Some(path) = &source.adopted {
                if output.adopt(shard, path)? {
                    for &tensor in members {
                        output.complete(tensor, tensors[tensor].blake3)?;
                    }
                    meter.add(source.bytes, 0);
                    continue;
                }
                // Their places are the same in both files.
                for &tensor in members {
                    let from = (path.as_path(), output.layout().place(tensor).offset);
                    copied += copy(tensor, from, tensors[tensor].blake3, output, &meter)?;
                }
            }
            for (tensor, path, at) in &source.tensors {
                copied += copy(*tensor, (path, *at), tensors[*tensor].blake3, output, &meter)?;
            }
        }
        Ok(copied)
    })
}

/// Copies a tensor, whose bytes must be those of the manifest.
fn copy(
    tensor: usize,
    (path, at): (&Path, u64),
    expected: TensorDigest,
    output: &OutputFolder,
    meter: &crate::Meter,
) -> Result<u64, Box<Diagnostic>> {
    /// Large enough for a disk to be fast, small enough for the cache.
    const BLOCK_BYTES: u64 = 4 << 20;
    let bytes = output.layout().place(tensor).bytes;
    let unreadable = |error: io::Error| {
        broken(path, "a file of a part cannot be read").fact("system", error.to_string())
    };
    let (file, _) = open_regular(path).map_err(unreadable)?;
    let mut block = vec![0; bytes.min(BLOCK_BYTES) as usize];
    let mut hasher = blake3::Hasher::new();
    let mut done = 0;
    while done < bytes {
        let part = &mut block[..(bytes - done).min(BLOCK_BYTES) as usize];
        file.read_exact_at(part, at + done).map_err(unreadable)?;
        hasher.update(part);
        output.write_at(tensor, done, part)?;
        done += part.len() as u64;
        meter.add(0, part.len() as u64);
    }
    let found = TensorDigest::from(hasher.finalize());
    if found != expected {
        let name = shown(&output.layout().tensors()[tensor].name).into_owned();
        let headline = format!("the bytes of `{name}` are not those that were written");
        return Err(Box::new(
            broken(path, &headline)
                .fact("manifest", format!("blake3 {expected}"))
                .fact("file", format!("blake3 {found}")),
        ));
    }
    output.complete(tensor, found)?;
    Ok(bytes)
}

/// What the user should know that no part alone tells.
fn warnings(parts: &[Found]) -> Vec<Diagnostic> {
    let mut told = Told::default();
    for part in parts {
        told.extend(part.record.told.clone());
    }
    told.matrices.sort_by(|a, b| a.tensor.cmp(&b.tensor));
    let mut warnings: Vec<Diagnostic> = overflow_warning(&told.overflows).into_iter().collect();
    warnings.extend(matrices::warnings(&told.matrices));
    warnings.extend(losses::warning_of_parts(&told.losses));
    warnings.extend(quantized::warning(&told.quantized));
    let with_matrices = || parts.iter().filter(|part| part.record.has_matrices);
    if let Some(first) = with_matrices().next()
        && let Some(other) =
            with_matrices().find(|part| part.record.computed_with != first.record.computed_with)
    {
        let headline = "parts were computed with different instructions";
        warnings.push(
            Diagnostic::warning(codes::PARTS_COMPUTED, headline)
                .fact(format!("part {}", first.record.part), first.record.computed_with.clone())
                .fact(format!("part {}", other.record.part), other.record.computed_with.clone())
                .note("results of matrix ops may differ in their last bits from those of one run"),
        );
    }
    warnings
}

/// The record of the whole, as one run would have made it.
fn record(parts: &[Found], told: &[Diagnostic]) -> MergeRecord {
    let first = &parts[0].manifest;
    let tensors = parts.iter().flat_map(|part| &part.manifest.tensors);
    let origins = tensors.map(|tensor| OriginRecord {
        method: tensor.method.clone(),
        rule: tensor.rule.clone(),
        treatment: tensor.treatment.clone(),
    });
    // One run knows of no other instructions.
    let own = told.iter().filter(|warning| warning.code != codes::PARTS_COMPUTED);
    let headlines = own.map(|warning| warning.headline.clone());
    MergeRecord {
        mixdown: first.mixdown.clone(),
        recipe: first.recipe.clone(),
        plan: first.plan.clone(),
        seed: first.seed,
        backend: first.backend.clone(),
        inputs: inputs(parts),
        origins: origins.collect(),
        dropped: first.dropped.clone(),
        warnings: parts[0].record.warnings.iter().cloned().chain(headlines).collect(),
    }
}

/// The inputs, with the digests that any part knows.
fn inputs(parts: &[Found]) -> Vec<InputRecord> {
    let mut inputs = parts[0].manifest.inputs.clone();
    for part in &parts[1..] {
        for (input, other) in inputs.iter_mut().zip(&part.manifest.inputs) {
            for (file, other) in input.files.iter_mut().zip(&other.files) {
                if file.sha256.is_none() {
                    file.sha256.clone_from(&other.sha256);
                }
            }
        }
    }
    inputs
}
