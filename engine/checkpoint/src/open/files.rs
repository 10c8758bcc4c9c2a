//! Which files hold the weights of a checkpoint, and what their headers say.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::refuse_special;

use super::Form;
use super::distributed;
use super::left_out;
use super::shard_names;
use super::torch_names;
use super::trainer_state;
use super::weight_map::WeightMap;
use super::zero;
use crate::format::{self, Format, Header, START};
use crate::index::Shard;
use crate::shown::{bytes_text, io_text, shown, shown_path, some_of};
use crate::source::{ByteSource, FilePool, identity};

/// Longest name of a tensor. Those of real models stay below 300 bytes; each is compared with the patterns
/// of all architectures and rules, which megabytes of text would stretch to minutes.
const LONGEST_NAME: usize = 4096;
/// Names that are told, each of which is too long.
const MOST_LONG_NAMES: usize = 20;

/// The ending of files that hold weights.
const WEIGHTS: &str = ".safetensors";
/// The ending of files that say which file holds which tensor.
const INDEX: &str = ".safetensors.index.json";
/// The index that transformers writes and looks for.
pub(crate) const USUAL_INDEX: &str = "model.safetensors.index.json";

/// A file of weights, not read yet.
pub(crate) struct File {
    /// Its name as an index spells it.
    pub name: String,
    pub path: PathBuf,
    pub shown: String,
}

/// What a path turned out to be.
pub(super) struct Found {
    pub form: Form,
    pub root: PathBuf,
    pub shown_root: String,
    /// Sorted by name.
    pub files: Vec<File>,
    pub weight_map: Option<WeightMap>,
    /// Whether it is a distributed checkpoint of torch, which has other files than weights.
    pub is_distributed: bool,
    /// The folder with the states of DeepSpeed ZeRO, below the root, if that is what holds the weights.
    pub zero: Option<String>,
    /// What was wrong so far, with work that can go on.
    pub faults: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
}

/// Finds the files of a checkpoint.
pub(super) fn find(name: &str, path: &Path) -> Result<Found, Vec<Diagnostic>> {
    let metadata = fs::metadata(path).map_err(|error| vec![not_there(name, &error)])?;
    if let Some(fault) = trainer_state::one_of_ranks(name, path) {
        return Err(vec![fault]);
    }
    if metadata.is_dir() {
        return folder(name, path);
    }
    let root = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let shown_root = shown_path(&root);
    if name.ends_with(INDEX) || name.ends_with(torch_names::INDEX) {
        let map = WeightMap::read(path, name)?;
        return Ok(indexed(Form::File, root, shown_root, map));
    }
    let file = File { name: name.to_owned(), path: path.to_owned(), shown: name.to_owned() };
    Ok(plain(Form::File, root, shown_root, vec![file]))
}

fn not_there(name: &str, error: &io::Error) -> Diagnostic {
    if error.kind() == io::ErrorKind::NotFound {
        let headline = format!("there is no model `{}`", shown(name));
        return Diagnostic::error(codes::MODEL_NOT_FOUND, headline);
    }
    let headline = format!("a model cannot be read: {}", io_text(error));
    Diagnostic::error(codes::UNREADABLE, headline).in_file(name)
}

fn plain(form: Form, root: PathBuf, shown_root: String, files: Vec<File>) -> Found {
    let (faults, warnings) = (Vec::new(), Vec::new());
    let (weight_map, is_distributed, zero) = (None, false, None);
    Found { form, root, shown_root, files, weight_map, is_distributed, zero, faults, warnings }
}

fn folder(name: &str, path: &Path) -> Result<Found, Vec<Diagnostic>> {
    let unreadable = |error: io::Error| {
        let headline = format!("a model folder cannot be read: {}", io_text(&error));
        vec![Diagnostic::error(codes::UNREADABLE, headline).in_file(name)]
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        // A name that is not Unicode cannot be one of those looked for here.
        if let Ok(name) = entry.map_err(unreadable)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    let (root, shown_root) = (path.to_owned(), name.trim_end_matches('/').to_owned());
    match index_of(&names) {
        Ok(Some(index)) => {
            let shown = format!("{shown_root}/{}", shown(index));
            let map = WeightMap::read(&root.join(index), &shown)?;
            let mut found = indexed(Form::Folder, root, shown_root, map);
            let read: Vec<&str> = found.files.iter().map(|file| file.name.as_str()).collect();
            let mut warnings =
                Vec::from_iter(left_out::unindexed(&names, &read, &found.shown_root));
            if read.iter().all(|name| is_weights(name)) {
                warnings.extend(left_out::newer_torch(
                    &found.root,
                    &names,
                    &read,
                    &found.shown_root,
                ));
            }
            found.warnings.extend(warnings);
            return Ok(found);
        }
        Ok(None) => {}
        Err((several, usual)) => {
            let headline = format!("a folder has several indexes and none is `{usual}`");
            return Err(vec![
                Diagnostic::error(codes::INDEX_BROKEN, headline)
                    .in_file(name)
                    .fact("found", some_of(&several))
                    .help("name the index to use as the model"),
            ]);
        }
    }
    let mut weights: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| is_weights(name)).collect();
    let mut found = plain(Form::Folder, root, shown_root, Vec::new());
    found.warnings.extend(left_out::leave_out(&mut weights, &found.shown_root));
    if weights.is_empty() {
        weights = torch_names::weights(names.iter().map(String::as_str));
    } else {
        let newer = left_out::newer_torch(&found.root, &names, &weights, &found.shown_root);
        found.warnings.extend(newer);
    }
    if weights.is_empty() {
        // Of several, which are often one model in several types, none is meant more than another.
        let files = names.iter().map(String::as_str);
        let files = files.filter(|name| name.ends_with(".gguf") && !name.starts_with('.'));
        let files: Vec<&str> = files.collect();
        if files.len() == 1 || shard_names::are_one_set(&files) {
            weights = files;
        }
    }
    let has_parts = || names.iter().any(|name| name.ends_with(distributed::PARTS));
    if weights.is_empty() && names.iter().any(|name| name == distributed::METADATA) && has_parts() {
        found.is_distributed = true;
        return Ok(found);
    }
    if weights.is_empty()
        && let Some(states) = zero::states(path, &names)
    {
        found.zero = Some(states);
        return Ok(found);
    }
    for missing in shard_names::missing(&weights) {
        let headline = format!("the model folder lacks `{}`", shown(&missing));
        found.faults.push(
            Diagnostic::error(codes::SHARD_MISSING, headline)
                .in_file(&found.shown_root)
                .help("fetch this file, or the whole model again"),
        );
    }
    if weights.is_empty() {
        return Err(vec![no_weights(name, path, &names)]);
    }
    found.files =
        weights.into_iter().map(|name| file(&found.root, &found.shown_root, name)).collect();
    Ok(found)
}

/// The index to go by, if there is one: of safetensors files, or, without any of these, of torch's.
/// Several of a kind, none of them of the usual name, are an error with that name.
fn index_of(names: &[String]) -> Result<Option<&str>, (Vec<&str>, &'static str)> {
    let choose = |is_one: fn(&str) -> bool, usual: &'static str| {
        let all: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_one(name)).collect();
        match (all.iter().find(|name| **name == usual), all.as_slice()) {
            (Some(index), _) | (None, [index]) => Ok(Some(*index)),
            (None, []) => Ok(None),
            (None, _) => Err((all, usual)),
        }
    };
    match choose(is_index, USUAL_INDEX)? {
        None if !names.iter().any(|name| is_weights(name)) => {
            choose(torch_names::is_index, torch_names::USUAL_INDEX)
        }
        found => Ok(found),
    }
}

/// Files of weights that a folder should have and lacks: those that its index names, or any at all.
/// Nothing if there is no such folder.
pub(crate) fn weights_of(folder: &Path) -> Option<Vec<String>> {
    let entries = fs::read_dir(folder).ok()?;
    let names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let there = |name: &str| fs::metadata(folder.join(name)).is_ok();
    let index = index_of(&names).unwrap_or_else(|(several, _)| several.first().copied());
    if let Some(index) = index {
        // A damaged index is reported when the folder is opened.
        let Ok(map) = WeightMap::read(&folder.join(index), index) else { return Some(Vec::new()) };
        let files = map.files(&mut Vec::new());
        return Some(files.into_iter().filter(|file| !there(file)).map(str::to_owned).collect());
    }
    let here = || names.iter().map(String::as_str).filter(|name| there(name));
    let weights: Vec<&str> = here().filter(|name| is_weights(name)).collect();
    if !weights.is_empty() {
        return Some(shard_names::missing(&weights));
    }
    let torch = torch_names::weights(here());
    Some(if torch.is_empty() { vec![format!("*{WEIGHTS}")] } else { shard_names::missing(&torch) })
}

/// Files whose name begins with a dot are left behind by archivers and editors.
pub(crate) fn is_weights(name: &str) -> bool {
    name.ends_with(WEIGHTS) && !name.starts_with('.')
}

/// Whether a name says which file holds which tensor.
pub(crate) fn is_index(name: &str) -> bool {
    name.ends_with(INDEX) && !name.starts_with('.')
}

/// The files that an index names; those outside its folder are left out.
#[cfg(feature = "hub")]
pub(crate) fn files_of_index(path: &Path, shown: &str) -> Result<Vec<String>, Vec<Diagnostic>> {
    let map = WeightMap::read(path, shown)?;
    Ok(map.files(&mut Vec::new()).into_iter().map(str::to_owned).collect())
}

fn file(root: &Path, shown_root: &str, name: &str) -> File {
    File {
        name: name.to_owned(),
        path: root.join(name),
        shown: format!("{shown_root}/{}", shown(name)),
    }
}

fn indexed(form: Form, root: PathBuf, shown_root: String, map: WeightMap) -> Found {
    let mut found = plain(form, root, shown_root, Vec::new());
    for name in map.files(&mut found.faults) {
        let file = file(&found.root, &found.shown_root, name);
        match fs::metadata(&file.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dangling = fs::symlink_metadata(&file.path).is_ok();
                found.faults.push(map.missing(name, dangling));
            }
            // What else may be wrong is said when it is read.
            _ => found.files.push(file),
        }
    }
    found.weight_map = Some(map);
    found
}

/// Whether a file that is not taken for weights by itself may hold some all the same.
fn may_be_weights(name: &str) -> bool {
    torch_names::may_be(name) || name.ends_with(".gguf")
}

fn no_weights(name: &str, path: &Path, names: &[String]) -> Diagnostic {
    let fault = |headline: String| Diagnostic::error(codes::NO_WEIGHTS, headline).in_file(name);
    let help = "name a folder that holds `*.safetensors` files, or `pytorch_model.bin`";
    if names.is_empty() {
        return fault(format!("the model folder `{}` is empty", shown(name))).help(help);
    }
    let unread: Vec<(&str, &str)> = names
        .iter()
        .filter_map(|file| format::unread_by_name(file).map(|kind| (file.as_str(), kind)))
        .collect();
    let mut fault =
        fault(format!("the model folder `{}` holds no weights that are read", shown(name)));
    if let Some((_, kind)) = unread.first() {
        let files: Vec<&str> = unread.iter().map(|(file, _)| *file).collect();
        fault.code = codes::UNSUPPORTED_FORMAT;
        return fault
            .fact("found", some_of(&files))
            .help(format!("{kind} files are not read; save the model as safetensors first"));
    }
    if let Some(told) = trainer_state::told(name, path, names) {
        return told;
    }
    let torch: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| may_be_weights(name)).collect();
    if let Some(first) = torch.first() {
        let first = format!("{}/{first}", name.trim_end_matches('/'));
        return fault
            .fact("found", some_of(&torch))
            .help(format!("name the file itself, as `{}`, if it holds weights", shown(&first)));
    }
    let holds_some = |name: &str| {
        is_weights(name) || torch_names::is_weights(name) || name == distributed::METADATA
    };
    let below = names.iter().find(|name| {
        let inside = fs::read_dir(path.join(name)).into_iter().flatten().flatten();
        inside.take(1000).any(|entry| entry.file_name().to_str().is_some_and(holds_some))
    });
    match below {
        Some(below) => {
            let below = format!("{}/{}", name.trim_end_matches('/'), below);
            fault.help(format!("name the folder `{}`, which holds some", shown(&below)))
        }
        None => fault.help(help),
    }
}

/// Reads the header of a file.
pub(crate) fn read(file: &File, pool: &Arc<FilePool>) -> Result<(Shard, Header), Vec<Diagnostic>> {
    let shard = shard(file)?;
    let source = pool.source(&shard);
    let format = format_of(file, &source).map_err(|fault| vec![*fault])?;
    let header = format.read_header(&source, &file.shown)?;
    let long = header.tensors.iter().filter(|tensor| tensor.name.len() > LONGEST_NAME);
    let faults: Vec<Diagnostic> =
        long.take(MOST_LONG_NAMES).map(|tensor| name_too_long(&tensor.name, &file.shown)).collect();
    if faults.is_empty() { Ok((shard, header)) } else { Err(faults) }
}

/// A file as it is now.
pub(super) fn shard(file: &File) -> Result<Shard, Vec<Diagnostic>> {
    let regular = |metadata: Metadata| refuse_special(&metadata).map(|()| metadata);
    let metadata = fs::metadata(&file.path).and_then(regular).map_err(|error| {
        let headline = format!("a file cannot be read: {}", io_text(&error));
        vec![Diagnostic::error(codes::UNREADABLE, headline).in_file(&file.shown)]
    })?;
    Ok(Shard {
        path: file.path.clone(),
        shown: file.shown.clone(),
        size: metadata.len(),
        identity: identity(&metadata),
    })
}

fn name_too_long(name: &str, shown_file: &str) -> Diagnostic {
    let headline = format!("a tensor has a name that is too long: `{}`", shown(name));
    Diagnostic::error(codes::NAME_TOO_LONG, headline)
        .in_file(shown_file)
        .fact("name", bytes_text(name.len() as u64))
        .fact("limit", bytes_text(LONGEST_NAME as u64))
        .help("give the tensor a shorter name, or check where the file is from")
}

fn format_of(file: &File, source: &dyn ByteSource) -> Result<&'static dyn Format, Box<Diagnostic>> {
    let mut start = [0; START];
    let start = &mut start[..START.min(source.len() as usize)];
    source.read_exact_at(0, start).map_err(|error| Box::new(error.diagnostic()))?;
    if let Some(format) = format::recognize(start) {
        return Ok(format);
    }
    let fault = |headline: String| {
        Diagnostic::error(codes::UNSUPPORTED_FORMAT, headline)
            .in_file(&file.shown)
            .help("save the model as safetensors first")
    };
    match format::recognize_unread(start) {
        Some(kind) => Err(Box::new(fault(format!("the file is {kind}, which is not read")))),
        // By its name it should be safetensors, so its own messages say what is wrong.
        None if file.name.ends_with(WEIGHTS) || start.starts_with(b"version ") => {
            Ok(&format::safetensors::Safetensors)
        }
        None => Err(Box::new(fault("the file is in no format that is known".to_owned()))),
    }
}
