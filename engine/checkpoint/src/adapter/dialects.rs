//! Adapters that other programs than peft wrote: which program's a file is, by the names in it, and the same
//! tensors under peft's names. One file for each dialect, and one line in [`DIALECTS`].

mod blocks;
mod diffusers;
mod kohya;
mod mlx;
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::DType;
use mixdown_tensor::convert::{bf16_to_f32, f16_to_f32};
pub(super) use places::Places;
use serde_json::{Map, Value};

use super::config::{AdapterConfig, Own};
use super::files::AdapterFiles;
use super::kinds::{self, Kind, is_plain};
use crate::index::{Index, Shard, TensorEntry};
use crate::open::{File, is_weights, read};
use crate::shown::{shown, some_of};
use crate::source::{ByteSource, FilePool};

/// How the names of a program's adapters are, and what they mean.
#[derive(Debug)]
pub(super) struct Dialect {
    /// For messages.
    pub program: &'static str,
    /// What separates the parts of a module's name.
    pub separator: char,
    /// What names begin with: the part of a pipeline that they belong to.
    pub groups: &'static [&'static str],
    /// Whether the first factor lies as [in, rank] and the second as [rank, out].
    pub is_turned: bool,
    /// Whether a name is one of this dialect's.
    is_own: fn(&str) -> bool,
    /// What a name of this dialect means.
    meaning: fn(&str) -> Meaning,
}

impl Dialect {
    /// The part of a pipeline that a name belongs to, and the rest of it.
    pub fn split<'a>(&self, name: &'a str) -> (&'static str, &'a str) {
        let found = self.groups.iter().find_map(|group| Some((*group, name.strip_prefix(group)?)));
        found.unwrap_or(("", name))
    }
}

impl PartialEq for Dialect {
    fn eq(&self, other: &Self) -> bool {
        self.program == other.program
    }
}

/// What a tensor of an adapter is.
enum Meaning {
    /// The tensor that peft has under this name.
    Tensor(String),
    /// The α of a module.
    Alpha(String),
    /// Something that is not read, in words.
    Unknown(&'static str),
}

const DIALECTS: [&Dialect; 2] = [&kohya::DIALECT, &diffusers::DIALECT];

/// The file of MLX's adapters.
pub(super) const MLX_WEIGHTS: &str = "adapters.safetensors";

/// The file in a folder that holds nothing but an adapter of another program.
pub(super) fn file_in(folder: &Path) -> Option<String> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    if names.iter().any(|name| name == "config.json" || name == "model_index.json") {
        return None;
    }
    names.retain(|name| is_weights(name));
    let only = if names.len() == 1 { names.pop() } else { None }?;
    is_file(&folder.join(&only)).then_some(only)
}

/// Whether a file is an adapter of another program.
pub(super) fn is_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !is_weights(name) || !path.is_file() {
        return false;
    }
    let file = File { name: name.to_owned(), path: path.to_owned(), shown: String::new() };
    let header = read(&file, &FilePool::new(1));
    header.is_ok_and(|(_, header)| of(&header.tensors).is_some())
}

/// The dialect of these tensors' names.
fn of(tensors: &[TensorEntry]) -> Option<&'static Dialect> {
    DIALECTS.into_iter().find(|dialect| {
        // Some name is enough: what else is in the file is told and not taken for a model.
        tensors.iter().any(|tensor| (dialect.is_own)(&tensor.name))
    })
}

/// Opens a file of another program's adapter; messages call it `name`.
///
/// **Errors.** What is wrong with the file, and tensors that no merge of its program knows.
pub(super) fn open(name: &str, path: &Path) -> Result<AdapterFiles, Vec<Diagnostic>> {
    let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let pool = FilePool::new(1);
    let file = File { name: file, path: path.to_owned(), shown: name.to_owned() };
    let (shard, header) = read(&file, &pool)?;
    let Some(dialect) = of(&header.tensors) else {
        let headline = format!("`{}` is no adapter", shown(name));
        let fault = Diagnostic::error(codes::ADAPTER_CONFIG, headline).in_file(name);
        return Err(vec![
            fault
                .fact("read", "names of kohya's scripts, LyCORIS and diffusers")
                .help("name the folder that holds `adapter_config.json`, if it is peft's"),
        ]);
    };
    let said = header.metadata.get(diffusers::METADATA);
    let said = said.map(|text| diffusers::settings(name, text)).transpose()?;
    let (index, config) = translated(dialect, name, shard, header.tensors, said.as_ref(), &pool)?;
    let root = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let root = root.unwrap_or(Path::new(".")).to_owned();
    Ok(AdapterFiles { name: name.to_owned(), root, index, config, warnings: Vec::new() })
}

/// Opens the adapter of mlx_lm in a folder.
///
/// **Errors.** What is wrong with its two files.
pub(super) fn open_mlx(
    shown_root: &str,
    root: &Path,
    text: &str,
) -> Result<(Index, AdapterConfig), Vec<Diagnostic>> {
    let config_name = format!("{shown_root}/adapter_config.json");
    let scale = mlx::scale(&config_name, text)?;
    let shown = format!("{shown_root}/{MLX_WEIGHTS}");
    let file = File { name: MLX_WEIGHTS.to_owned(), path: root.join(MLX_WEIGHTS), shown };
    let pool = FilePool::new(1);
    let (shard, header) = read(&file, &pool)?;
    let name = file.shown.as_str();
    let (index, mut config) = translated(&mlx::DIALECT, name, shard, header.tensors, None, &pool)?;
    for own in config.own.values_mut() {
        own.alpha = scale * own.rank as f64;
    }
    config.shown = config_name;
    Ok((index, config))
}

/// Whether a configuration is one of mlx_lm's.
pub(super) fn is_mlx(text: &str) -> bool {
    let config: Result<Map<String, Value>, _> = serde_json::from_str(text);
    let keys = ["lora_parameters", "fine_tune_type"];
    config.is_ok_and(|config| {
        !config.contains_key("peft_type") && keys.iter().any(|key| config.contains_key(*key))
    })
}

/// The tensors under peft's names, and what they say of ranks and scales.
fn translated(
    dialect: &'static Dialect,
    name: &str,
    shard: Shard,
    tensors: Vec<TensorEntry>,
    said: Option<&BTreeMap<String, AdapterConfig>>,
    pool: &std::sync::Arc<FilePool>,
) -> Result<(Index, AdapterConfig), Vec<Diagnostic>> {
    let mut renamed: Vec<TensorEntry> = Vec::new();
    let mut alphas: BTreeMap<String, TensorEntry> = BTreeMap::new();
    let mut unknown: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for tensor in tensors {
        match (dialect.meaning)(&tensor.name) {
            Meaning::Tensor(own) => renamed.push(TensorEntry { name: own, ..tensor }),
            Meaning::Alpha(module) => {
                alphas.insert(module, tensor);
            }
            Meaning::Unknown(what) => unknown.entry(what).or_default().push(tensor.name),
        }
    }
    let mut faults: Vec<Diagnostic> = unknown
        .into_iter()
        .map(|(what, names)| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let headline = format!("the adapter holds {what}, which are not supported");
            Diagnostic::error(codes::ADAPTER_KIND, headline)
                .in_file(name)
                .fact("tensors", some_of(&names))
                .help("merge it with the program that trained it, and name the result")
        })
        .collect();
    let kind = match kind_of(&renamed) {
        Ok(kind) => kind,
        Err(kinds) => {
            let headline = "the adapter mixes kinds of updates, which is not supported";
            let kinds: Vec<&str> = kinds.into_iter().collect();
            let fault = Diagnostic::error(codes::ADAPTER_KIND, headline).in_file(name);
            faults.push(
                fault
                    .fact("kinds", kinds.join(", "))
                    .help("merge it with the program that trained it, and name the result"),
            );
            None
        }
    };
    let mut own = BTreeMap::new();
    for (module, rank) in ranks(&renamed) {
        let (group, rest) = dialect.split(&module);
        let of_group = said.and_then(|said| said.get(group.trim_end_matches(dialect.separator)));
        let of_group = of_group.map(|config| config.scale_of(rest) * rank.unwrap_or(1) as f64);
        let stored = alphas.remove(&module).map(|entry| {
            let source = pool.source(&shard);
            alpha(&entry, &source).map_err(|what| (entry.name, what))
        });
        // Where no tensor says what the rank is, both factors are whole, and nothing is scaled.
        let (rank, alpha) = match (rank, stored, of_group) {
            (None, _, _) => (1, 1.0),
            (Some(rank), Some(Ok(alpha)), _) => (rank, alpha),
            (Some(rank), Some(Err((tensor, what))), _) => {
                faults.push(bad_alpha(name, &tensor, &what));
                (rank, rank as f64)
            }
            (Some(rank), None, Some(alpha)) => (rank, alpha),
            (Some(rank), None, None) => (rank, rank as f64),
        };
        own.insert(module, Own { rank, alpha });
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let index = Index::new(vec![shard], renamed).map_err(|error| {
        vec![Diagnostic::error(codes::DUPLICATE_TENSOR, error.to_string()).in_file(name)]
    })?;
    let config = AdapterConfig { own, kind, dialect: Some(dialect), ..AdapterConfig::plain(name) };
    Ok((index, config))
}

/// The kind of updates; none for LoRA. Several are an error with their names.
fn kind_of(tensors: &[TensorEntry]) -> Result<Option<&'static Kind>, BTreeSet<&'static str>> {
    let mut found = BTreeSet::new();
    for part in tensors.iter().flat_map(|tensor| tensor.name.split('.').rev().take(2)) {
        let kind = match part {
            "lora_A" | "lora_B" => "LORA",
            _ if part.starts_with("hada_") => "LOHA",
            _ if part.starts_with("lokr_") => "LOKR",
            _ => continue,
        };
        found.insert(kind);
    }
    match found.len() {
        0 | 1 => Ok(found.first().and_then(|kind| kinds::find(kind))),
        _ => Err(found),
    }
}

/// The rank of each module's factors; none where no tensor of the module tells.
fn ranks(tensors: &[TensorEntry]) -> BTreeMap<String, Option<u64>> {
    let mut ranks: BTreeMap<String, Option<u64>> = BTreeMap::new();
    for tensor in tensors {
        let parts: Vec<&str> = tensor.name.split('.').collect();
        let is_end =
            |part: &&str| ["lora_", "hada_", "lokr_"].iter().any(|start| part.starts_with(start));
        let Some(at) = parts.iter().skip(1).rposition(is_end).map(|at| at + 1) else { continue };
        let shape = tensor.shape.dimensions();
        let rank = match parts[at] {
            "lora_A" | "hada_w1_b" | "lokr_w1_b" | "lokr_w2_b" => shape.first().copied(),
            _ => None,
        };
        let own = ranks.entry(parts[..at].join(".")).or_default();
        *own = own.or(rank.filter(|rank| *rank > 0));
    }
    ranks
}

/// The one number of a tensor.
fn alpha(entry: &TensorEntry, source: &dyn ByteSource) -> Result<f64, String> {
    if entry.shape.elements() != 1 || !is_plain(entry.dtype) {
        return Err(format!("{} {}", entry.shape, entry.dtype));
    }
    let mut bytes = vec![0; entry.bytes() as usize];
    source.read_exact_at(entry.offset, &mut bytes).map_err(|error| error.diagnostic().headline)?;
    let value = match (entry.dtype, bytes.as_slice()) {
        (DType::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).into(),
        (DType::F16, &[a, b]) => f16_to_f32(u16::from_le_bytes([a, b])).into(),
        (_, &[a, b]) => bf16_to_f32(u16::from_le_bytes([a, b])).into(),
        _ => f64::NAN,
    };
    match value.is_finite() && value != 0.0 {
        true => Ok(value),
        false => Err(value.to_string()),
    }
}

fn bad_alpha(name: &str, tensor: &str, found: &str) -> Diagnostic {
    let headline = format!("`{}` is no usable α", shown(tensor));
    Diagnostic::error(codes::ADAPTER_CONFIG, headline)
        .in_file(name)
        .fact("found", found)
        .fact("expected", "one finite number other than 0")
}
