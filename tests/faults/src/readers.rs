//! Every reader of files that others may have made, as a function of bytes. None may panic, whatever the
//! bytes; coverage-guided fuzzers call the same functions.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mixdown_checkpoint::journal::{Journal, OwnerKey};
use mixdown_checkpoint::manifest::Manifest;
use mixdown_checkpoint::{open, open_adapter};
use mixdown_diagnostics::Source;
use mixdown_kit::{Space, adapter, checkpoint};
use mixdown_store::{Array, Data, Entry, Key, Store};
use mixdown_tensor::Shape;

use crate::random::Random;

/// A reader, and bytes that it takes.
pub struct Reader {
    /// What figures call it.
    pub name: &'static str,
    /// Sound files, from which damaged ones are made.
    pub seeds: Vec<Vec<u8>>,
    /// Reads bytes. Errors are fine.
    pub read: fn(&Path, &[u8]),
}

const KEY: OwnerKey = OwnerKey::new([7; 32]);

/// How long a reader may take for a file of a few kilobytes.
const LONGEST: Duration = Duration::from_secs(10);

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
    let journal = Journal::new("abc").text(&KEY);
    vec![
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
            seeds: vec![b"PK\x03\x04".to_vec(), b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01u.".to_vec()],
            read: |folder, bytes| read_as(folder, "pytorch_model.bin", bytes),
        },
        Reader {
            name: "adapter config",
            seeds: vec![space.read("adapter/adapter_config.json")],
            read: |folder, bytes| {
                let _ = fs::write(folder.join("adapter_config.json"), bytes);
                let _ = open_adapter(folder);
            },
        },
        Reader {
            name: "recipes",
            seeds: vec![recipe.into(), strict.into()],
            read: |_, bytes| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                let read = |_: &Path| Ok(text.clone());
                let _ = mixdown_recipe::load_partly(Path::new("recipe.yaml"), &read, &[]);
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
            name: "store entries",
            seeds: vec![entry_bytes()],
            read: |folder, bytes| {
                let store = Store::new(folder);
                put_entry(&store);
                let path = file_under(folder).expect("the entry has a file");
                let _ = fs::write(path, bytes);
                let _ = store.get(&Key::of(b"x"));
            },
        },
    ]
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

/// Reads damaged files until `until`, at most `most` of them; gives their count, and what was wrong.
pub fn run(until: Instant, most: usize, seed: u64) -> (usize, Vec<String>) {
    let readers = all();
    let (mut random, mut wrong) = (Random::new(seed), Vec::new());
    for tried in 0..most {
        if Instant::now() >= until {
            return (tried, wrong);
        }
        let reader = &readers[tried % readers.len()];
        let bytes = damaged(&reader.seeds, &mut random);
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let begun = Instant::now();
        let read = AssertUnwindSafe(|| (reader.read)(folder.path(), &bytes));
        let outcome = match catch_unwind(read) {
            Err(_) => "a panic",
            Ok(()) if begun.elapsed() > LONGEST => "too long",
            Ok(()) => continue,
        };
        wrong.push(format!("{}: {outcome}: {}", reader.name, bytes.escape_ascii()));
    }
    (most, wrong)
}

/// A sound file with some bytes changed, removed, doubled, or replaced by what often matters.
fn damaged(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const WORDS: [&[u8]; 12] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\0\0\0\0\0",
        b"18446744073709551615",
        b"-1",
        b"1e999",
        b"{{{{{{{{",
        b"[[[[[[[[",
        b"&a [*a, *a]",
        b"\xed\xa0\x80",
        b"null",
        b"\"\"",
        b"..",
    ];
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(6) {
        if bytes.is_empty() {
            bytes.push(random.number() as u8);
        }
        // Most of what is read is at the beginning.
        let end = if random.below(3) > 0 { bytes.len().min(600) } else { bytes.len() };
        let at = random.below(end);
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.number() as u8,
            2 => bytes.truncate(at),
            3 => {
                let to = (at + random.below(40)).min(bytes.len());
                bytes.drain(at..to);
            }
            4 => {
                let part = bytes[at..(at + random.below(60)).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let word = WORDS[random.below(WORDS.len())].iter().copied();
                bytes.splice(at..at, word);
            }
        }
    }
    bytes
}
