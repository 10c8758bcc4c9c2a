//! `mixdown inspect`: what a checkpoint holds, from its headers and its config.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use mixdown_checkpoint::adapter::is_adapter;
use mixdown_checkpoint::{Checkpoint, Form, TensorEntry, shown};
use mixdown_plan::{Architectures, knowledge};
use mixdown_recipe::Architecture;
use mixdown_recipe::Pattern;
use mixdown_session::models::Model;
use mixdown_session::quantity;
use serde_json::{Map, Value, json};

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::names;
use crate::table::{Align, Table};
use crate::reading::Reading;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Show what a checkpoint holds
///
/// Reads headers and config.json only. Where the model's architecture is known, its modules are shown. A model is a folder, a file, or a hub id such as
/// org/model or org/model@revision.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown inspect ./merged                          architecture, modules, sizes, types, shards
  mixdown inspect ./merged --tensors                every tensor
  mixdown inspect ./merged --tensors '**.mlp.**'    the tensors whose names match
  mixdown inspect Qwen/Qwen2.5-0.5B --json          the same for programs")]
pub struct Arguments {
    /// A folder, a file, or a hub id
    model: String,
    /// List the tensors, or those whose names match
    #[arg(long, value_name = "GLOB", num_args = 0..=1, default_missing_value = "**",
        value_parser = crate::args::pattern)]
    tensors: Option<Pattern>,
    /// Follow links in the model's folder that lead out of it, which are an error otherwise; those of the hub's
    /// cache are no such links
    #[arg(long)]
    follow_links: bool,
    #[command(flatten)]
    reading: Reading,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    let terminal = Terminal::new(talk).reading(arguments.reading);
    let model = Model::open(&arguments.model, arguments.follow_links, &terminal.session())?;
    talk.show(&model.checkpoint.warnings);
    let wanted = arguments.tensors.as_ref();
    talk::data(&match wanted {
        _ if arguments.json => format!("{:#}\n", document(&model, wanted)),
        Some(_) => list(&model.checkpoint, &matching(&model.checkpoint, wanted)),
        None => Report::new(&model).text(),
    });
    Ok(Exit::Done)
}

/// All of it, for programs.
pub fn document(model: &Model, wanted: Option<&Pattern>) -> Value {
    Report::new(model).json(&matching(&model.checkpoint, wanted))
}

fn matching<'a>(checkpoint: &'a Checkpoint, wanted: Option<&Pattern>) -> Vec<&'a TensorEntry> {
    let all = checkpoint.index.tensors().iter();
    let mut found: Vec<&TensorEntry> =
        all.filter(|tensor| wanted.is_none_or(|pattern| pattern.matches(&tensor.name))).collect();
    found.sort_by(|a, b| names::natural(&a.name, &b.name));
    found
}

fn list(checkpoint: &Checkpoint, tensors: &[&TensorEntry]) -> String {
    let columns = [
        ("tensor", Align::Left),
        ("dtype", Align::Left),
        ("shape", Align::Left),
        ("size", Align::Right),
        ("file", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for tensor in tensors {
        table.row([
            shown(&tensor.name).into_owned(),
            tensor.stored_as().to_owned(),
            tensor.shape.to_string(),
            quantity::bytes(tensor.stored_bytes()),
            file_name(checkpoint, tensor.shard as usize),
        ]);
    }
    table.text("")
}

/// Bits that one element takes in files, with its share of scales.
fn bits(tensor: &TensorEntry) -> f64 {
    tensor.stored_bytes() as f64 * 8.0 / tensor.shape.elements().max(1) as f64
}

fn file_name(checkpoint: &Checkpoint, shard: usize) -> String {
    let path = &checkpoint.index.shards()[shard].path;
    path.file_name().map(|name| shown(&name.to_string_lossy()).into_owned()).unwrap_or_default()
}

/// A count of tensors with their elements and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weight {
    tensors: usize,
    elements: u64,
    bytes: u64,
}

impl Weight {
    fn add(&mut self, tensor: &TensorEntry) {
        self.tensors += 1;
        self.elements = self.elements.saturating_add(tensor.shape.elements());
        self.bytes = self.bytes.saturating_add(tensor.stored_bytes());
    }

    fn json(self) -> Map<String, Value> {
        let value = json!({
            "tensors": self.tensors, "parameters": self.elements, "bytes": self.bytes,
        });
        value.as_object().cloned().unwrap_or_default()
    }
}

/// Tensors whose names begin alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Module {
    weight: Weight,
    /// Lowest and highest layer number.
    layers: Option<(u64, u64)>,
}

/// The model by what is known of its architecture.
struct Known {
    architecture: &'static Architecture,
    /// Modules that it has, in the architecture's order: name, tensors, count of layers.
    modules: Vec<(&'static str, Weight, usize)>,
    /// What the architecture does not describe.
    other: Weight,
}

impl Known {
    fn new(checkpoint: &Checkpoint) -> Option<Self> {
        let tensors = checkpoint.index.tensors();
        let names = tensors.iter().map(|tensor| tensor.name.as_str());
        let known = Architectures::built_in();
        let architecture = known.recognize(names, checkpoint.config.as_ref())?;
        let mut found: BTreeMap<&str, (Weight, BTreeSet<u64>)> = BTreeMap::new();
        let mut other = Weight::default();
        for tensor in tensors {
            match knowledge::facts(architecture, &tensor.name) {
                Some(facts) => {
                    let (weight, layers) = found.entry(&facts.module.name).or_default();
                    weight.add(tensor);
                    layers.extend(facts.layer);
                }
                None => other.add(tensor),
            }
        }
        let modules = architecture.modules.iter().filter_map(|module| {
            let (weight, layers) = found.get(module.name.as_str())?;
            Some((module.name.as_str(), *weight, layers.len()))
        });
        Some(Self { architecture, modules: modules.collect(), other })
    }

    fn table(&self) -> String {
        let mut table = Table::new(&[
            ("module", Align::Left),
            ("layers", Align::Right),
            ("tensors", Align::Right),
            ("parameters", Align::Right),
            ("size", Align::Right),
        ]);
        let other = (self.other.tensors > 0).then_some(("not described", self.other, 0));
        for (name, weight, layers) in self.modules.iter().copied().chain(other) {
            let [name, tensors, parameters, size] = cells(name, weight);
            let layers = if layers > 0 { layers.to_string() } else { String::new() };
            table.row([name, layers, tensors, parameters, size]);
        }
        table.text("")
    }

    fn json(&self) -> Value {
        let module = |(name, weight, layers): &(&str, Weight, usize)| {
            let mut entry = Map::from_iter([("name".to_owned(), json!(name))]);
            if *layers > 0 {
                entry.insert("layers".to_owned(), json!(layers));
            }
            entry.extend(weight.json());
            Value::from(entry)
        };
        json!({
            "name": self.architecture.name.value,
            "title": self.architecture.title,
            "modules": self.modules.iter().map(module).collect::<Vec<Value>>(),
            "not_described": self.other.json(),
        })
    }
}

/// What the command shows.
struct Report<'a> {
    model: &'a Model,
    known: Option<Known>,
    total: Weight,
    dtypes: BTreeMap<String, Weight>,
    modules: Vec<(&'a str, Module)>,
}

impl<'a> Report<'a> {
    fn new(model: &'a Model) -> Self {
        let mut total = Weight::default();
        let mut dtypes: BTreeMap<String, Weight> = BTreeMap::new();
        let mut modules: BTreeMap<&str, Module> = BTreeMap::new();
        for tensor in model.checkpoint.index.tensors() {
            total.add(tensor);
            dtypes.entry(tensor.stored_as().to_owned()).or_default().add(tensor);
            let part = names::part(&tensor.name);
            let module = modules.entry(part.prefix).or_default();
            module.weight.add(tensor);
            if let Some(layer) = part.layer {
                let (low, high) = module.layers.unwrap_or((layer, layer));
                module.layers = Some((low.min(layer), high.max(layer)));
            }
        }
        let mut modules: Vec<(&str, Module)> = modules.into_iter().collect();
        modules.sort_by(|a, b| names::natural(a.0, b.0));
        let known = Known::new(&model.checkpoint);
        Self { model, known, total, dtypes, modules }
    }

    fn text(&self) -> String {
        let checkpoint = &self.model.checkpoint;
        let mut facts = Table::bare(&[Align::Left, Align::Left]);
        facts.row(["model".to_owned(), shown(&checkpoint.name).into_owned()]);
        if let Some(revision) = &self.model.revision {
            facts.row(["revision", revision]);
        }
        facts.row(["folder".to_owned(), checkpoint.root.display().to_string()]);
        facts.row(["tensors".to_owned(), self.total.tensors.to_string()]);
        facts.row(["parameters".to_owned(), quantity::parameters(self.total.elements)]);
        facts.row(["bytes".to_owned(), quantity::bytes(self.total.bytes)]);
        let is_adapter = is_adapter(&checkpoint.root) && checkpoint.form == Form::Folder;
        let architecture = match &self.known {
            _ if is_adapter => "an adapter, on a base of its own",
            Some(known) => &known.architecture.title,
            None => "not known",
        };
        facts.row(["architecture", architecture]);
        for (name, value) in config_facts(checkpoint.config.as_ref()) {
            facts.row([name.to_owned(), plain(&value)]);
        }
        let known = self.known.as_ref().filter(|_| !is_adapter);
        let known = known.map(|known| format!("{}\n", known.table()));
        format!(
            "{}\n{}\n{}{}\n{}",
            facts.text(""),
            self.dtype_table(),
            known.unwrap_or_default(),
            self.module_table(),
            self.shard_table()
        )
    }

    fn dtype_table(&self) -> String {
        let columns = ["dtype", "tensors", "parameters", "size"];
        let mut table = weights(&columns);
        for (dtype, weight) in &self.dtypes {
            table.row(cells(dtype, *weight));
        }
        table.text("")
    }

    fn module_table(&self) -> String {
        let mut table = weights(&["names", "tensors", "parameters", "size"]);
        for (prefix, module) in &self.modules {
            let prefix = shown(prefix);
            let name = match module.layers {
                Some((low, high)) if low == high => format!("{prefix}.{low}"),
                Some((low, high)) => format!("{prefix}.{{{low}..{high}}}"),
                None => prefix.into_owned(),
            };
            table.row(cells(&name, module.weight));
        }
        table.text("")
    }

    fn shard_table(&self) -> String {
        let mut table = weights(&["file", "tensors", "parameters", "size"]);
        for (name, weight) in self.shards() {
            table.row(cells(&name, weight));
        }
        table.text("")
    }

    fn shards(&self) -> Vec<(String, Weight)> {
        let checkpoint = &self.model.checkpoint;
        let mut shards: Vec<(String, Weight)> = (0..checkpoint.index.shards().len())
            .map(|shard| (file_name(checkpoint, shard), Weight::default()))
            .collect();
        for tensor in checkpoint.index.tensors() {
            shards[tensor.shard as usize].1.add(tensor);
        }
        shards
    }

    fn json(&self, listed: &[&TensorEntry]) -> Value {
        let checkpoint = &self.model.checkpoint;
        let dtypes: Map<String, Value> = self
            .dtypes
            .iter()
            .map(|(dtype, weight)| (dtype.clone(), weight.json().into()))
            .collect();
        let modules: Vec<Value> = self
            .modules
            .iter()
            .map(|(prefix, module)| {
                let mut entry = Map::from_iter([("prefix".to_owned(), json!(prefix))]);
                if let Some((low, high)) = module.layers {
                    entry.insert("first_layer".to_owned(), json!(low));
                    entry.insert("last_layer".to_owned(), json!(high));
                }
                entry.extend(module.weight.json());
                entry.into()
            })
            .collect();
        let shards: Vec<Value> = self
            .shards()
            .into_iter()
            .zip(checkpoint.index.shards())
            .map(|((name, weight), shard)| {
                json!({"file": name, "file_bytes": shard.size, "tensors": weight.tensors})
            })
            .collect();
        let tensors: Vec<Value> = listed
            .iter()
            .map(|tensor| {
                let mut entry = json!({
                    "name": tensor.name,
                    "dtype": tensor.model_dtype().name(),
                    "shape": tensor.shape.dimensions(),
                    "bytes": tensor.stored_bytes(),
                    "file": file_name(checkpoint, tensor.shard as usize),
                    "offset": tensor.offset,
                });
                if let Some(encoding) = &tensor.encoding {
                    let parts: Vec<&str> =
                        encoding.parts().iter().map(|part| part.name.as_str()).collect();
                    entry["stored_as"] = json!(encoding.scheme());
                    entry["bits"] = json!(bits(tensor));
                    entry["parts"] = json!(parts);
                }
                entry
            })
            .collect();
        json!({
            "model": checkpoint.name,
            "revision": self.model.revision,
            "folder": checkpoint.root.to_string_lossy(),
            "tensor_count": self.total.tensors,
            "parameters": self.total.elements,
            "bytes": self.total.bytes,
            "architecture": self.known.as_ref().map(Known::json),
            "config": config_facts(checkpoint.config.as_ref())
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect::<Map<String, Value>>(),
            "dtypes": dtypes,
            "modules": modules,
            "files": shards,
            "tensors": tensors,
        })
    }
}

fn weights(columns: &[&str; 4]) -> Table {
    let [name, tensors, parameters, size] = *columns;
    Table::new(&[
        (name, Align::Left),
        (tensors, Align::Right),
        (parameters, Align::Right),
        (size, Align::Right),
    ])
}

fn cells(name: &str, weight: Weight) -> [String; 4] {
    [
        name.to_owned(),
        weight.tensors.to_string(),
        quantity::parameters(weight.elements),
        quantity::bytes(weight.bytes),
    ]
}

/// What a config says about the model's kind and size; of a language model inside a larger one too.
fn config_facts(config: Option<&Value>) -> Vec<(&'static str, Value)> {
    const FACTS: [&str; 12] = [
        "architectures",
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "max_position_embeddings",
        "tie_word_embeddings",
        "torch_dtype",
        "dtype",
    ];
    let Some(config) = config else { return Vec::new() };
    let inner = config.get("text_config");
    let find = |name: &str| config.get(name).or_else(|| inner.and_then(|inner| inner.get(name)));
    FACTS
        .iter()
        .filter_map(|&name| Some((name, find(name).filter(|value| !value.is_null())?.clone())))
        .collect()
}

/// A JSON value as a person would write it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text).into_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use mixdown_checkpoint::{Form, Index};
    use mixdown_tensor::{DType, Shape};

    use super::*;

    fn model() -> Model {
        let tensor = |name: &str, dtype, shape: &[u64]| {
            (name.to_owned(), dtype, Shape::new(shape.to_vec()).unwrap())
        };
        let index = Index::of(
            "m/model.safetensors",
            [
                tensor("lm_head.weight", DType::F32, &[10, 4]),
                tensor("model.layers.10.w", DType::Bf16, &[4, 4]),
                tensor("model.layers.2.w", DType::Bf16, &[4, 4]),
                tensor("model.ids", DType::I64, &[3]),
            ],
        );
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": null,
            "text_config": {"hidden_size": 4},
        });
        let checkpoint = Checkpoint {
            name: "m".into(),
            root: PathBuf::from("m"),
            form: Form::Folder,
            index: index.unwrap(),
            config: Some(config),
            warnings: Vec::new(),
        };
        Model::of_files(checkpoint, Some("abc".into()))
    }

    #[test]
    fn the_report_says_what_is_there() {
        let model = model();
        let text = Report::new(&model).text();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        for expected in [
            "revision       abc",
            "tensors        4",
            "parameters     75",
            "bytes          248 B",
            "architecture   Llama, and models of its layout such as Vicuna",
            "architectures  LlamaForCausalLM",
            "hidden_size    4",
            "head                         1          40  160 B",
            "not described                3          35   88 B",
            "bf16         2          32   64 B",
            "i64          1           3   24 B",
            "model.layers.{2..10}        2          32   64 B",
            "model.safetensors        4          75  248 B",
        ] {
            assert!(lines.contains(&expected), "`{expected}` is missing in\n{text}");
        }
        assert!(!text.contains("vocab_size"));
    }

    #[test]
    fn json_has_the_same_facts_and_the_tensors() {
        let model = model();
        let report = Report::new(&model);
        let value = report.json(&matching(&model.checkpoint, None));
        assert_eq!(value["tensor_count"], 4);
        assert_eq!(value["parameters"], 75);
        assert_eq!(value["dtypes"]["f32"]["bytes"], 160);
        assert_eq!(value["architecture"]["name"], "llama");
        assert_eq!(value["architecture"]["modules"][0]["name"], "head");
        assert_eq!(value["architecture"]["not_described"]["tensors"], 3);
        assert_eq!(value["modules"][2]["last_layer"], 10);
        assert_eq!(value["files"][0]["file"], "model.safetensors");
        assert_eq!(value["tensors"][3]["name"], "model.layers.10.w");
        let pattern = Pattern::new("model.layers.*.w").unwrap();
        let value = report.json(&matching(&model.checkpoint, Some(&pattern)));
        assert_eq!(value["tensors"][0]["name"], "model.layers.2.w");
        assert_eq!(value["tensors"][1]["shape"], json!([4, 4]));
    }
}
