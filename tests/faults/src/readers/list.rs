//! The readers, one after the other.

use std::fs;
use std::path::{Path, PathBuf};

use mixdown_checkpoint::config::{ConfigChanges, rewrite_config};
use mixdown_checkpoint::encoding::Blocks;
use mixdown_checkpoint::journal::{Journal, OwnerKey};
use mixdown_checkpoint::manifest::Manifest;
use mixdown_checkpoint::{Adapter, ByteSource, Checkpoint, FilePool, open, open_adapter};
use mixdown_diagnostics::Source;
use mixdown_diagnostics::render::{Color, render_all};
use mixdown_kit::{Space, adapter, checkpoint};
use mixdown_search::generate::replay::{ReplayGenerator, WORDS};
use mixdown_search::{prompts, settings};
use mixdown_store::{Array, Data, Entry, Key, Store};
use mixdown_tensor::{DType, Shape};

use super::{Reader, tokenizers};

const KEY: OwnerKey = OwnerKey::new([7; 32]);

/// All readers.
pub fn all() -> Vec<Reader> {
    let space = Space::new();
    checkpoint::family(&space);
    adapter("adapter", 2).module("model.layers.0.self_attn.q_proj", 2, [8, 8]).write(&space);
    let recipe = "merge_method: ties\nbase_model: base\nmodels:\n  - model: a\n    parameters: \
                  {weight: [0, 0.5, 1], density: 0.2}\ndtype: bfloat16\n";
    let strict = "mixdown: 1\nmodels: &m {base: base, a: a}\nbase: base\nrules:\n  - {tensors: \
                  \"**.norm.{i}\", keep: base}\n  - {tensors: \"**\", steps: {d: a - base}, output: base + \
                  0.5 * d}\n";
    let method = "method: mine\ntitle: Mine\nsource: none\nsummary: Mine.\ninputs: {base: required, \
                  experts: {at_least: 1}}\nparameters:\n  lambda: {type: number, default: 1}\nsteps:\n  \
                  delta: experts - base\noutput: base + lambda * mean(keep_largest(delta, 0.5))\n";
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let file = |path: &str| fs::read(repository.join(path)).expect("the file is in the repository");
    let folder_of = |path: &str, ending: &str| -> Vec<Vec<u8>> {
        let entries = fs::read_dir(repository.join(path)).expect("the folder is in the repository");
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.to_string_lossy().ends_with(ending));
        files.sort();
        files.iter().filter_map(|path| fs::read(path).ok()).collect()
    };
    // Some say all in their tensors.
    let packed = PACKED.map(|name| repository.join("tests/formats/quantized").join(name));
    let packed: Vec<Vec<u8>> =
        packed.iter().filter_map(|folder| fs::read(folder.join("config.json")).ok()).collect();
    let journal = Journal::new("abc").text(&KEY);
    let mut readers = vec![
        Reader {
            name: "safetensors",
            seeds: vec![space.read("a/model.safetensors")],
            read: |folder, bytes| read_as(folder, "model.safetensors", bytes),
        },
        Reader {
            name: "index",
            seeds: vec![br#"{"metadata": {}, "weight_map": {"a": "b.safetensors"}}"#.to_vec()],
            read: |folder, bytes| read_as(folder, "model.safetensors.index.json", bytes),
        },
        Reader {
            name: "torch",
            seeds: folder_of("tests/formats/torch", ".bin"),
            read: |folder, bytes| read_as(folder, "pytorch_model.bin", bytes),
        },
        Reader {
            name: "distributed",
            seeds: vec![file("tests/formats/distributed/two/.metadata")],
            read: |folder, bytes| {
                let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
                for name in ["__0_0.distcp", "__1_0.distcp"] {
                    let path = repository.join("tests/formats/distributed/two").join(name);
                    once(folder, name, |_| fs::read(path).unwrap_or_default());
                }
                read_as(folder, ".metadata", bytes);
            },
        },
        Reader {
            name: "adapter_config",
            seeds: vec![space.read("adapter/adapter_config.json")],
            read: |folder, bytes| {
                once(folder, "adapter_model.safetensors", |space| {
                    lora(space);
                    space.read("lora/adapter_model.safetensors")
                });
                resolve_adapter(folder, "adapter_config.json", bytes);
            },
        },
        Reader {
            name: "adapter_weights",
            seeds: vec![space.read("adapter/adapter_model.safetensors")],
            read: |folder, bytes| {
                once(folder, "adapter_config.json", |space| {
                    lora(space);
                    space.read("lora/adapter_config.json")
                });
                resolve_adapter(folder, "adapter_model.safetensors", bytes);
            },
        },
        Reader {
            name: "gguf",
            seeds: ["gguf_llama_q8", "gguf_k", "gguf_iq", "gguf_small_blocks", "gguf_qwen2_q4_0"]
                .map(|name| file(&format!("tests/formats/quantized/{name}/model.gguf")))
                .into(),
            read: |folder, bytes| {
                let path = folder.join("model.gguf");
                let _ = fs::write(&path, bytes);
                let _ = open(&path, None).map(|checkpoint| read_values(&checkpoint));
            },
        },
        Reader {
            name: "quantized_weights",
            seeds: PACKED
                .map(|name| file(&format!("tests/formats/quantized/{name}/model.safetensors")))
                .into(),
            read: |folder, bytes| {
                let _ = fs::write(folder.join("model.safetensors"), bytes);
                let _ = open(folder, None).map(|checkpoint| read_values(&checkpoint));
            },
        },
        Reader {
            name: "quantized_configs",
            seeds: packed,
            read: |folder, bytes| {
                for name in PACKED {
                    let own = folder.join(name);
                    let _ = fs::create_dir_all(&own);
                    once(&own, "model.safetensors", |_| {
                        let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/quantized");
                        fs::read(formats.join(name).join("model.safetensors")).unwrap_or_default()
                    });
                    let _ = fs::write(own.join("config.json"), bytes);
                    let _ = open(&own, None).map(|checkpoint| read_values(&checkpoint));
                }
            },
        },
        Reader {
            name: "config",
            seeds: vec![
                space.read("base/config.json"),
                file("examples/quickstart/base/config.json"),
                file("tests/formats/quantized/mxfp4_gpt_oss/config.json"),
            ],
            read: |folder, bytes| {
                once(folder, "model.safetensors", |space| {
                    checkpoint("base").layers(1).write(space);
                    space.read("base/model.safetensors")
                });
                let _ = fs::write(folder.join("config.json"), bytes);
                if let Ok(Checkpoint { config: Some(config), .. }) = open(folder, None) {
                    let changes = ConfigChanges {
                        dtype: Some(DType::F32),
                        stacks: Vec::new(),
                        all_stacks: ["model.layers.".to_owned()].into(),
                        is_tied: Some(true),
                        vocab_size: Some(7),
                        is_unpacked: true,
                    };
                    rewrite_config(&config, &changes);
                }
            },
        },
        Reader {
            name: "settings",
            seeds: vec![
                b"search: 1\ngrid: {parameters.t: {from: 0.0, to: 0.5, step: 0.25}}\nprompts: \
                  p.jsonl\ngenerator: {command: {argv: [sh, '{prompts}', '{out}']}}\n"
                    .to_vec(),
                b"search: 1\noptimize: {budget: 20}\nscore: {command: [eval, '{model_dir}']}\nspace: \
                  {parameters.t: [0, 1]}\n"
                    .to_vec(),
                file("recipes/adamms/search.yaml"),
            ],
            read: |folder, bytes| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                let read = settings::read(&Source::new("search.yaml", text), folder);
                // The candidates of a grid may be more than can be listed.
                drop(read.map_err(|found| render_all(&found, Color::Ansi)));
            },
        },
        Reader {
            name: "prompts",
            seeds: vec![
                b"{\"id\":\"p0\",\"messages\":[{\"role\":\"user\",\"content\":\"0?\"}]}\n".to_vec(),
                b"{\"id\":\"p1\",\"input_ids\":[1,2,3]}\n{\"id\":\"p2\",\"messages\":[{\"role\":\"user\",\
                  \"content\":[{\"type\":\"image\",\"image\":\"a.png\"}]}]}\n"
                    .to_vec(),
            ],
            read: |folder, bytes| {
                let path = folder.join("prompts.jsonl");
                let _ = fs::write(&path, bytes);
                let _ = prompts::read(&path).map_err(|found| render_all(&found, Color::Ansi));
            },
        },
        Reader {
            name: "logs",
            seeds: vec![
                b"{\"id\":\"p0\",\"text\":\"yes\",\"finish_reason\":\"stop\"}\n".to_vec(),
                b"{\"doc_id\":0,\"resps\":[[\"yes\"]],\"filtered_resps\":[\"yes\"]}\n".to_vec(),
                b"{\"logs\":[{\"doc_id\":0,\"resps\":[[\"yes\"]],\"filtered_resps\":[\"yes\"]}]}".to_vec(),
                b"index,question,prediction\n0,\"what, then?\",\"a \"\"b\"\"\"\n".to_vec(),
                b"index\tprediction\n0\ta\n".to_vec(),
                b"[{\"index\":0,\"prediction\":\"a\"}]".to_vec(),
            ],
            read: |folder, bytes| {
                for ending in ["jsonl", "json", "csv", "tsv"] {
                    let own = folder.join(ending);
                    let _ = fs::create_dir_all(&own);
                    let _ = fs::write(own.join(format!("0.{ending}")), bytes);
                    for (_, format) in WORDS {
                        let _ = ReplayGenerator { folder: own.clone(), format }.ids("0");
                    }
                }
            },
        },
        Reader {
            name: "recipes",
            seeds: vec![recipe.into(), strict.into()],
            read: |_, bytes| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                let read = |_: &Path| Ok(text.clone());
                let loaded = mixdown_recipe::load_partly(Path::new("recipe.yaml"), &read, &[]);
                drop(loaded);
            },
        },
        Reader {
            name: "methods",
            seeds: vec![method.into()],
            read: |_, bytes| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                let _ = mixdown_recipe::read_method(&Source::new("mine.yaml", text));
            },
        },
        Reader {
            name: "manifests",
            seeds: vec![br#"{"manifest": 1, "mixdown": "0", "recipe": {"text": "", "sha256": ""}, "plan":
                "", "seed": 0, "backend": "cpu", "inputs": [], "tensors": [], "files": [], "dropped": [],
                "warnings": []}"#
                .to_vec()],
            read: |folder, bytes| {
                let _ = fs::write(folder.join("mixdown-manifest.json"), bytes);
                let _ = Manifest::read(folder);
            },
        },
        Reader {
            name: "journals",
            seeds: vec![journal.into_bytes()],
            read: |_, bytes| {
                let _ = Journal::parse(bytes, &KEY, |index| Some(index % 3));
            },
        },
        Reader {
            name: "maps",
            seeds: vec![file("recipes/maps/cogvlm-to-mplug-owl2.yaml")],
            read: |_, bytes| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                let _ = mixdown_recipe::read_map(&Source::new("map.yaml", text));
            },
        },
        Reader {
            name: "architectures",
            seeds: vec![file("schemas/architectures/gemma.yaml")],
            read: |_, bytes| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                let _ = mixdown_recipe::read_architectures(&[Source::new("a.yaml", text)]);
            },
        },
        Reader {
            name: "formulas",
            seeds: vec![
                b"base + lambda * mean(keep_largest(delta, 0.5, among=mask))".to_vec(),
                b"-a ** 2 / (norm(b) - 1e-3) < 3 and [x, y][0]".to_vec(),
            ],
            read: |_, bytes| {
                let _ = mixdown_recipe::expression::parse(&String::from_utf8_lossy(bytes));
            },
        },
        Reader {
            name: "patterns",
            seeds: vec![b"model.layers.{0..3}.*.{q,k,v}_proj.**".to_vec(), b"**.[a-z]?.\\*".to_vec()],
            read: |_, bytes| {
                let pattern = mixdown_recipe::Pattern::new(&String::from_utf8_lossy(bytes));
                let _ = pattern.map(|pattern| pattern.matches("model.layers.2.self_attn.q_proj.weight"));
            },
        },
        Reader {
            name: "tokenizers",
            seeds: tokenizers::seeds(),
            read: tokenizers::merge,
        },
        Reader {
            name: "tokenizer_pieces",
            seeds: vec![tokenizers::pieces()],
            read: |_, bytes| tokenizers::to_gguf(None, Some(bytes.to_vec())),
        },
        Reader {
            name: "store_entries",
            seeds: vec![entry_bytes()],
            read: |folder, bytes| {
                let store = Store::new(folder);
                // A damaged entry is removed when it is read.
                let path = entry_path(folder);
                let _ = fs::create_dir_all(path.parent().expect("an entry is in a folder"));
                let _ = fs::write(path, bytes);
                let _ = store.get(&Key::of(b"x"));
                let _ = store.list();
            },
        },
    ];
    for reader in &mut readers {
        let seeds = repository.join("fuzz/seeds").join(reader.name);
        let entries = fs::read_dir(seeds).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.sort();
        reader.seeds.extend(files.iter().filter_map(|path| fs::read(path).ok()));
    }
    readers
}

/// Packed models of different kinds.
const PACKED: [&str; 12] = [
    "awq_gemm",
    "bnb_nf4_double",
    "bnb_int8",
    "ct_pack4_group",
    "ct_nvfp4",
    "fp8_block_ragged",
    "gptq_v1_4bit_act",
    "hqq_4bit_axis0",
    "mlx_affine_bf16",
    "modelopt_nvfp4",
    "mxfp4_gpt_oss",
    "torchao_intx4",
];

/// A file that is there from the first reading on.
fn once(folder: &Path, name: &str, bytes: impl FnOnce(&Space) -> Vec<u8>) {
    let path = folder.join(name);
    if !path.exists() {
        let _ = fs::write(path, bytes(&Space::new()));
    }
}

fn lora(space: &Space) {
    adapter("lora", 2).module("model.layers.0.self_attn.q_proj", 2, [16, 16]).write(space);
}

/// Opens an adapter one of whose files is this, and brings it to a base.
fn resolve_adapter(folder: &Path, name: &str, bytes: &[u8]) {
    let base = folder.join("base");
    let _ = fs::create_dir_all(&base);
    once(&base, "model.safetensors", |space| {
        checkpoint("base").layers(1).write(space);
        space.read("base/model.safetensors")
    });
    let _ = fs::write(folder.join(name), bytes);
    let (Ok(files), Ok(base)) = (open_adapter(folder), open(&base, None)) else { return };
    let _ = Adapter::resolve(&files.index, files.config, &base.index, None);
}

/// Reads the beginning of every tensor as numbers.
fn read_values(checkpoint: &Checkpoint) {
    const MOST: u64 = 512;
    let (pool, blocks) = (FilePool::new(2), Blocks::default());
    let from = |shard: u32, offset: u64, buffer: &mut [u8]| {
        pool.source(&checkpoint.index.shards()[shard as usize]).read_exact_at(offset, buffer)
    };
    for tensor in checkpoint.index.tensors().iter().take(64) {
        let count = tensor.shape.elements().min(MOST) as usize;
        let mut bytes = vec![0; count * tensor.dtype.bytes()];
        let _ = tensor.read(0, &mut bytes, &from, &blocks);
    }
}

/// Where the store keeps the entry that is read.
fn entry_path(folder: &Path) -> PathBuf {
    let key = Key::of(b"x").to_string();
    folder.join(format!("v{}/{}/{key}.entry", mixdown_store::entry::VERSION, &key[..2]))
}

fn put_entry(store: &Store) {
    let array = Array {
        name: "result".to_owned(),
        shape: Shape::new(vec![3]).expect("a shape"),
        data: Data::F32(vec![1.0, 2.0, 3.0]),
    };
    let (title, metadata) = ("title".to_owned(), "{}".to_owned());
    let entry = Entry { title, metadata, arrays: vec![array] };
    store.put(&Key::of(b"x"), &entry).expect("a temporary folder can be written");
}

fn entry_bytes() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    put_entry(&Store::new(folder.path()));
    fs::read(file_under(folder.path()).expect("the entry has a file")).expect("it can be read")
}

/// The largest file below a folder.
fn file_under(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let files = entries.filter_map(|entry| {
        let path = entry.path();
        if path.is_dir() { file_under(&path) } else { Some(path) }
    });
    files.max_by_key(|path| path.metadata().map_or(0, |found| found.len()))
}

fn read_as(folder: &Path, name: &str, bytes: &[u8]) {
    let _ = fs::write(folder.join(name), bytes);
    let _ = open(folder, None);
}
