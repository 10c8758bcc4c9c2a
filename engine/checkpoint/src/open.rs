//! Opens a checkpoint: a folder with or without an index, or a single file. Reads headers only,
//! and reports all that is wrong with all files at once.

mod distributed;
mod files;
mod left_out;
mod shard_names;
mod side;
pub(crate) mod torch_names;
mod trainer_state;
mod weight_map;
mod wrapped;
mod zero;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

pub(crate) use files::{File, is_weights, read, weights_of};
#[cfg(feature = "hub")]
pub(crate) use files::{USUAL_INDEX, files_of_index, is_index};
#[cfg(feature = "hub")]
pub(crate) use left_out::is_second_copy;
use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

use crate::encoding::{self, Context, Settings};
use crate::format::gguf::VERSION;
use crate::index::{Index, Shard, TensorEntry};
use crate::shown::{shown, shown_path, some_of};
use crate::source::{ByteSource, FilePool};

/// An opened checkpoint: its index and its configuration. Holds no file open.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// As the user wrote it.
    pub name: String,
    /// The folder of its files. Of a single file, the folder that the file is in.
    pub root: PathBuf,
    /// Whether the whole folder is the checkpoint, or one file of it.
    pub form: Form,
    /// Its tensors.
    pub index: Index,
    /// Its `config.json`, if there is one.
    pub config: Option<Value>,
    /// What the user should know and may ignore.
    pub warnings: Vec<Diagnostic>,
}

/// Whether a checkpoint is a folder or one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A folder: the other files in it belong to the model.
    Folder,
    /// A file: what else is in its folder may belong to something else.
    File,
}

/// Opens the folder or file at `path`.
///
/// **Parameters.** `prefix`: only tensors whose name begins so, with the prefix removed.
///
/// **Errors.** Everything that is wrong with the files, at once.
pub fn open(path: &Path, prefix: Option<&str>) -> Result<Checkpoint, Vec<Diagnostic>> {
    open_as(&shown_path(path), path, prefix)
}

/// Like [`fn@open`], for a checkpoint whose place is not what the user wrote: messages call it `name`.
pub fn open_as(
    name: &str,
    path: &Path,
    prefix: Option<&str>,
) -> Result<Checkpoint, Vec<Diagnostic>> {
    let mut found = files::find(name, path)?;
    let mut faults = std::mem::take(&mut found.faults);
    let config = side::config(&found.root, &found.shown_root).unwrap_or_else(|fault| {
        faults.push(*fault);
        None
    });
    let beside = side::quantization(&found.root, &found.shown_root).unwrap_or_else(|fault| {
        faults.push(*fault);
        None
    });
    let pool = FilePool::new(4);
    let mut shards = Vec::new();
    let mut tensors: Vec<TensorEntry> = Vec::new();
    let mut read = Vec::new();
    let mut metadata = BTreeMap::new();
    for file in &found.files {
        match files::read(file, &pool) {
            Ok((shard, header)) => {
                let position = shards.len() as u32;
                let entries = header.tensors.into_iter();
                tensors.extend(entries.map(|entry| entry.in_shard(position)));
                found.warnings.extend(header.warnings);
                metadata.extend(header.metadata);
                read.push(file.name.as_str());
                shards.push(shard);
            }
            Err(more) => faults.extend(more),
        }
    }
    if found.is_distributed {
        match distributed::read(&found.root, &found.shown_root, &pool) {
            Ok(opened) => {
                (shards, tensors) = (opened.shards, opened.tensors);
                found.warnings.extend(opened.warnings);
            }
            Err(more) => faults.extend(more),
        }
    }
    if let Some(folder) = &found.zero {
        match zero::read(&found.root, &found.shown_root, folder, &pool) {
            Ok(opened) => {
                (shards, tensors) = (opened.shards, opened.tensors);
                found.warnings.extend(opened.warnings);
            }
            Err(more) => faults.extend(more),
        }
    }
    let twice = duplicates(&tensors, &shards, &mut faults);
    if let Some(map) = &found.weight_map {
        map.compare(&read, &tensors, &twice, &mut faults);
    }
    drop(twice);
    if !faults.is_empty() {
        return Err(faults);
    }
    let small = |tensor: &TensorEntry| {
        let mut bytes = vec![0; tensor.bytes() as usize];
        let source = pool.source(&shards[tensor.shard as usize]);
        source.read_exact_at(tensor.offset, &mut bytes).map(|()| bytes)
    };
    if metadata.contains_key(VERSION) {
        if let Some(fault) = lacks_files(&metadata, &shards, name) {
            return Err(vec![fault]);
        }
        let (restored, warnings) = encoding::gguf::restored(tensors, &metadata, name)?;
        tensors = restored;
        found.warnings.extend(warnings);
    }
    let settings = Settings::of(config.as_ref(), beside.as_ref());
    let context = Context { name, settings: &settings, metadata: &metadata, small: &small };
    let logical = encoding::logical(tensors, &context)?;
    let mut tensors = logical.tensors;
    found.warnings.extend(logical.warnings);
    if let Some(prefix) = prefix {
        tensors = below_prefix(tensors, prefix, name).map_err(|fault| vec![*fault])?;
    }
    let index = Index::new(shards, tensors).map_err(|error| {
        vec![Diagnostic::error(codes::DUPLICATE_TENSOR, error.to_string()).in_file(name)]
    })?;
    let index = match wrapped::unwrapped(&index, &found.shown_root) {
        None => index,
        Some((own, warning)) => {
            found.warnings.push(warning);
            own
        }
    };
    Ok(Checkpoint {
        name: name.to_owned(),
        root: found.root,
        form: found.form,
        index,
        config,
        warnings: found.warnings,
    })
}

/// A model in several GGUF files of which not all are read: what is said of it holds for all of them.
fn lacks_files(
    metadata: &BTreeMap<String, String>,
    shards: &[Shard],
    name: &str,
) -> Option<Diagnostic> {
    let count = metadata.get("split.count")?.parse::<usize>().ok()?;
    if count <= 1 || count == shards.len() {
        return None;
    }
    let headline =
        format!("a model is split into {count} GGUF files, and not all of them are here");
    let error = Diagnostic::error(codes::SHARD_MISSING, headline)
        .in_file(name)
        .fact("read", shards.len().to_string());
    Some(error.help("name a folder that holds all files of the model and no other GGUF file"))
}

/// Reports names that two shards hold, one message for each pair of shards; gives all such names.
fn duplicates<'a>(
    tensors: &'a [TensorEntry],
    shards: &[Shard],
    faults: &mut Vec<Diagnostic>,
) -> Vec<&'a str> {
    let mut first: HashMap<&str, u32> = HashMap::with_capacity(tensors.len());
    let mut pairs: Vec<((u32, u32), Vec<&str>)> = Vec::new();
    for tensor in tensors {
        match first.entry(&tensor.name) {
            Entry::Vacant(place) => {
                place.insert(tensor.shard);
            }
            Entry::Occupied(before) => {
                let pair = (*before.get(), tensor.shard);
                match pairs.iter_mut().find(|(known, _)| *known == pair) {
                    Some((_, names)) => names.push(&tensor.name),
                    None => pairs.push((pair, vec![&tensor.name])),
                }
            }
        }
    }
    for ((a, b), names) in &pairs {
        let headline = match names.as_slice() {
            [name] => format!("two files hold `{}`", shown(name)),
            _ => format!("two files hold the same {} tensors", names.len()),
        };
        let mut fault = Diagnostic::error(codes::DUPLICATE_TENSOR, headline)
            .in_file(&shards[*b as usize].shown)
            .fact("first", &shards[*a as usize].shown)
            .fact("second", &shards[*b as usize].shown);
        if names.len() > 1 {
            fault = fault.fact("tensors", some_of(names));
        }
        faults.push(fault.help("remove the file that does not belong to the checkpoint"));
    }
    pairs.into_iter().flat_map(|(_, names)| names).collect()
}

/// Keeps the tensors whose name begins with `prefix`, without it.
fn below_prefix(
    tensors: Vec<TensorEntry>,
    prefix: &str,
    name: &str,
) -> Result<Vec<TensorEntry>, Box<Diagnostic>> {
    let fault = |headline: String| Diagnostic::error(codes::NO_WEIGHTS, headline).in_file(name);
    let mut starts: Vec<String> = Vec::new();
    let mut kept = Vec::new();
    for tensor in tensors {
        match tensor.name.strip_prefix(prefix) {
            Some("") => {
                let headline =
                    format!("the prefix `{}` is the whole name of a tensor", shown(prefix));
                return Err(Box::new(fault(headline).help("end the prefix with a dot")));
            }
            Some(rest) => {
                let rest = rest.to_owned();
                kept.push(TensorEntry { name: rest, ..tensor });
            }
            None => {
                let start = tensor.name.split_inclusive('.').next().unwrap_or_default();
                if !starts.iter().any(|known| known == start) && starts.len() < 16 {
                    starts.push(start.to_owned());
                }
            }
        }
    }
    if kept.is_empty() {
        let starts: Vec<&str> = starts.iter().map(String::as_str).collect();
        let headline = format!("no tensor has a name that begins with `{}`", shown(prefix));
        return Err(Box::new(fault(headline).fact("names begin with", some_of(&starts))));
    }
    Ok(kept)
}
