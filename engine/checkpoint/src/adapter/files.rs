//! Opens the folder of an adapter.

use std::fs;
use std::path::{Path, PathBuf};

use mixdown_diagnostics::{Diagnostic, codes};

use super::beside;
use super::config::AdapterConfig;
use super::dialects;
use crate::index::Index;
use crate::open::{Checkpoint, File, Form, is_weights, read, torch_names};
use crate::shown::{io_text, shown, shown_path};
use crate::small::text;
use crate::source::FilePool;
use crate::stored;

/// What says of which kind an adapter is.
const CONFIG: &str = "adapter_config.json";
/// The files that hold an adapter's tensors, the better one first.
pub(crate) const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// An opened adapter, not yet brought together with a base. Holds no file open.
#[derive(Clone, Debug)]
pub struct AdapterFiles {
    /// As the user wrote it.
    pub name: String,
    /// The folder of its files.
    pub root: PathBuf,
    /// Its tensors, in their file.
    pub index: Index,
    /// What it says of itself.
    pub config: AdapterConfig,
    /// What the user should know and may ignore.
    pub warnings: Vec<Diagnostic>,
}

impl AdapterFiles {
    /// Its tensors as a checkpoint of their own.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            name: self.name.clone(),
            root: self.root.clone(),
            form: Form::File,
            index: self.index.clone(),
            config: None,
            warnings: Vec::new(),
        }
    }
}

/// Whether there is an adapter in the folder, and no model of its own: trainers save the base's config.json
/// beside adapters, and models in the folder of their adapter, so that it is the weights that tell. An
/// adapter that has lost its configuration is told as such, and not as a model that lacks nearly all tensors.
pub fn is_adapter(path: &Path) -> bool {
    if path.is_file() {
        return dialects::is_file(path);
    }
    let has = |name: &str| stored::is_there(&path.join(name));
    if has(CONFIG) && has(dialects::MLX_WEIGHTS) && !has("config.json") {
        return true;
    }
    let holds = WEIGHTS.iter().any(|name| has(name));
    match has("config.json") {
        true => holds && !holds_model(path),
        false if has(CONFIG) || has(WEIGHTS[0]) => !(has(CONFIG) && holds_model(path)),
        false => dialects::file_in(path).is_some(),
    }
}

/// Whether there are weights of a whole model in the folder.
fn holds_model(path: &Path) -> bool {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let is_own = |name: &String| is_weights(name) && is_model_file(name);
    names.iter().any(is_own) || !torch_names::models(names.iter().map(String::as_str)).is_empty()
}

/// Whether a file of weights beside an adapter is that of a model: others hold what was trained beside it.
fn is_model_file(name: &str) -> bool {
    ["model.", "model-", "pytorch_model", "diffusion_pytorch_model", "consolidated"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// Opens the adapter in the folder at `path`.
///
/// **Errors.** Everything that is wrong with its files, at once.
pub fn open_adapter(path: &Path) -> Result<AdapterFiles, Vec<Diagnostic>> {
    open_adapter_as(&shown_path(path), path)
}

/// Like [`open_adapter`], for an adapter whose place is not what the user wrote, such as a folder
/// that [`crate::hub::locate`] gave: messages call it `name`.
pub fn open_adapter_as(name: &str, path: &Path) -> Result<AdapterFiles, Vec<Diagnostic>> {
    let metadata = fs::metadata(path).map_err(|error| {
        let fault = match error.kind() {
            std::io::ErrorKind::NotFound => Diagnostic::error(
                codes::MODEL_NOT_FOUND,
                format!("there is no adapter `{}`", shown(name)),
            ),
            _ => Diagnostic::error(
                codes::UNREADABLE,
                format!("an adapter cannot be read: {}", io_text(&error)),
            )
            .in_file(name),
        };
        vec![fault]
    })?;
    if metadata.is_file() {
        return dialects::open(name, path);
    }
    if !metadata.is_dir() {
        let headline = format!("the adapter `{}` is not a folder", shown(name));
        let fault = Diagnostic::error(codes::ADAPTER_CONFIG, headline).in_file(name);
        return Err(vec![fault.help(format!("name the folder that holds `{CONFIG}`"))]);
    }
    let shown_root = name.trim_end_matches('/');
    let is_there = |file: &str| stored::is_there(&path.join(file));
    let weights = WEIGHTS.into_iter().find(|file| is_there(file));
    if weights.is_none() && is_there(CONFIG) && is_there(dialects::MLX_WEIGHTS) {
        let source = text(&path.join(CONFIG), &format!("{shown_root}/{CONFIG}"));
        let source = source.map_err(|fault| vec![*fault])?;
        if dialects::is_mlx(source.text()) {
            let (index, config) = dialects::open_mlx(shown_root, path, source.text())?;
            let (name, root) = (name.to_owned(), path.to_owned());
            return Ok(AdapterFiles { name, root, index, config, warnings: Vec::new() });
        }
    }
    if weights.is_none()
        && !is_there(CONFIG)
        && let Some(file) = dialects::file_in(path)
    {
        return dialects::open(&format!("{shown_root}/{file}"), &path.join(file));
    }
    let mut faults = Vec::new();
    let config = match is_there(CONFIG) {
        true => read_config(path, shown_root).map_err(|more| faults.extend(more)).ok(),
        false => {
            faults.push(no_config(name, weights.is_some() || !is_there("config.json")));
            None
        }
    };
    let index = match weights {
        Some(file) => {
            let files = [file].into_iter().chain(beside::trained(path));
            let files: Vec<&str> = files.collect();
            read_weights(path, shown_root, &files).map_err(|more| faults.extend(more)).ok()
        }
        // What is no adapter need not be told that it lacks an adapter's weights too.
        None if !is_there(CONFIG) => None,
        None => {
            let headline = format!("the adapter `{}` has no weights", shown(name));
            let fault = Diagnostic::error(codes::ADAPTER_BROKEN, headline).in_file(name);
            faults.push(fault.fact("expected", format!("`{}` or `{}`", WEIGHTS[0], WEIGHTS[1])));
            None
        }
    };
    match (index, config) {
        (Some(index), Some(config)) if faults.is_empty() => {
            let warnings = beside::not_read(path, shown_root).into_iter().collect();
            Ok(AdapterFiles {
                name: name.to_owned(),
                root: path.to_owned(),
                index,
                config,
                warnings,
            })
        }
        _ => Err(faults),
    }
}

fn read_config(root: &Path, shown_root: &str) -> Result<AdapterConfig, Vec<Diagnostic>> {
    let name = format!("{shown_root}/{CONFIG}");
    let source = text(&root.join(CONFIG), &name).map_err(|fault| vec![*fault])?;
    AdapterConfig::parse(&name, source.text())
}

fn read_weights(root: &Path, shown_root: &str, files: &[&str]) -> Result<Index, Vec<Diagnostic>> {
    let pool = FilePool::new(files.len());
    let (mut shards, mut tensors, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for name in files {
        let shown = format!("{shown_root}/{name}");
        let file = File { name: (*name).to_owned(), path: root.join(name), shown };
        match read(&file, &pool) {
            Ok((shard, header)) => {
                let position = shards.len() as u32;
                let entries = header.tensors.into_iter();
                tensors.extend(entries.map(|tensor| tensor.in_shard(position)));
                shards.push(shard);
            }
            Err(more) => faults.extend(more),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Index::new(shards, tensors).map_err(|error| {
        vec![Diagnostic::error(codes::DUPLICATE_TENSOR, error.to_string()).in_file(shown_root)]
    })
}

fn no_config(name: &str, looks_like_adapter: bool) -> Diagnostic {
    let headline = format!("the adapter `{}` has no `{CONFIG}`", shown(name));
    let fault = Diagnostic::error(codes::ADAPTER_CONFIG, headline).in_file(name);
    match looks_like_adapter {
        true => fault.help(format!("name a folder that holds `{CONFIG}`")),
        false => fault
            .note("the folder holds a whole model")
            .help("name it as a model, without a base before it"),
    }
}
