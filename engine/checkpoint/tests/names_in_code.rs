//! Names of tensors are data, in `schemas`: code that knows some has to say why.

use std::fs;
use std::path::{Path, PathBuf};

/// Parts of names that only tensors of models have.
const PARTS: [&str; 24] = [
    "block_sparse_moe",
    "c_attn",
    "c_proj",
    "down_proj",
    "embed_in.",
    "embed_out",
    "embed_tokens",
    "gate_proj",
    "gate_up_proj",
    "in_proj_weight",
    "inv_freq",
    "k_proj",
    "language_model.",
    "lm_head",
    "ln_f",
    "o_proj",
    "patch_embed",
    "q_proj",
    "self_attn",
    "tok_embeddings",
    "up_proj",
    "vision_tower",
    "word_embeddings.",
    "wte",
];

/// Files that name tensors, and why they may.
const MAY: [(&str, &str); 14] = [
    ("checkpoint/src/adapter/dialects/diffusers.rs", "diffusers' own names of attention's parts"),
    ("checkpoint/src/adapter/resolve.rs", "torch's attention, which has one matrix for three"),
    ("checkpoint/src/adapter/tied.rs", "the two names by which peft ties again what it loads"),
    ("checkpoint/src/adapter/vocabulary.rs", "a help that says what to write in peft's settings"),
    ("checkpoint/src/open/distributed.rs", "a trainer's prefix, told by what follows it"),
    ("plan/src/bodies/module_names.rs", "mergekit's own division of its families"),
    (
        "plan/src/families/tensor_class.rs",
        "regular expressions of OptMerge's scripts, word for word",
    ),
    ("plan/src/jobs/adapter.rs", "what peft takes for parts of experts, and tied output layers"),
    ("plan/src/jobs/quantize.rs", "what stays as it is in a family that no file describes"),
    ("plan/src/models/map.rs", "the tied output layer that an architecture may have"),
    ("recipe/src/decode.rs", "an example in a help"),
    ("session/src/moe.rs", "the mixtures that it makes"),
    ("session/src/moe/layout.rs", "the mixtures that it makes"),
    ("session/src/transplant/request.rs", "a word of its own settings"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        match path.is_dir() {
            // The forward passes of four families are code by their nature.
            true if name == "tests" || name == "generate" || name == "target" => {}
            true => sources(&path, found),
            false if name.ends_with(".rs") && name != "tests.rs" => found.push(path),
            false => {}
        }
    }
}

/// The texts in a file's code, without comments and tests.
fn texts(code: &str) -> Vec<&str> {
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| line.split('"').skip(1).step_by(2)).collect()
}

#[test]
fn code_names_no_tensors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 100, "{} files", files.len());
    let mut named: Vec<String> = Vec::new();
    let mut used: Vec<&str> = Vec::new();
    for path in files {
        let file = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let code = fs::read_to_string(&path).unwrap();
        let found =
            texts(&code).into_iter().find(|text| PARTS.iter().any(|part| text.contains(part)));
        let Some(found) = found else { continue };
        match MAY.iter().find(|(known, _)| *known == file) {
            Some((known, _)) => used.push(known),
            None => named.push(format!("{file}: \"{found}\"")),
        }
    }
    assert!(named.is_empty(), "names of tensors belong into schemas: {named:#?}");
    let idle: Vec<_> = MAY.iter().filter(|(file, _)| !used.contains(file)).collect();
    assert!(idle.is_empty(), "these name none any more: {idle:?}");
}
