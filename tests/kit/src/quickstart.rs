//! The checkpoints of `examples/quickstart`: a small Llama and three experts made from it.
//!
//! They are checked in so that a first merge needs nothing but this repository; a test holds the
//! files equal to what is made here.

use mixdown_tensor::DType;

use crate::raw::safetensors_bytes;
use crate::side_files::{self, Dimensions, pretty};
use crate::tensor::Tensor;
use crate::values::Values;

/// One file: path below the example's folder, and contents.
pub type File = (String, Vec<u8>);

const DIMENSIONS: Dimensions = Dimensions {
    hidden: 64,
    intermediate: 128,
    layers: 4,
    heads: 4,
    kv_heads: 2,
    vocabulary: 272,
    tied: false,
};

const SHARDS: usize = 2;

/// Common pairs of letters, one token each; with three special tokens and 256 bytes they fill the
/// vocabulary.
const MERGES: [(&str, &str); 13] = [
    ("t", "h"),
    ("h", "e"),
    ("i", "n"),
    ("e", "r"),
    ("a", "n"),
    ("r", "e"),
    ("o", "n"),
    ("a", "t"),
    ("e", "n"),
    ("n", "d"),
    ("Ġ", "th"),
    ("Ġ", "a"),
    ("in", "g"),
];

/// An expert: its folder, the seed of its task vector, and which tensors the task vector touches most.
const EXPERTS: [(&str, u64, &str); 3] =
    [("code", 101, "mlp"), ("math", 102, "self_attn"), ("chat", 103, "layers.3")];

/// All files of the example's checkpoints.
pub fn files() -> Vec<File> {
    let base = tensors();
    let mut files = model_files("base", &base);
    for (name, seed, strong) in EXPERTS {
        files.extend(model_files(name, &expert(&base, seed, strong)));
    }
    files
}

fn tensors() -> Vec<Tensor> {
    side_files::llama_tensors(&DIMENSIONS)
        .into_iter()
        .map(|(name, shape)| {
            let mut values = Values::new(100, &name);
            let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
            let elements: u64 = shape.iter().product();
            let values: Vec<f64> = (0..elements).map(|_| offset + 0.05 * values.normal()).collect();
            Tensor::new(&name, DType::Bf16, &shape, &values)
        })
        .collect()
}

/// The base plus a task vector: most elements hardly move, every eighth one clearly does.
fn expert(base: &[Tensor], seed: u64, strong: &str) -> Vec<Tensor> {
    base.iter()
        .map(|tensor| {
            let scale = if tensor.name.contains(strong) { 0.02 } else { 0.005 };
            let mut noise = Values::new(seed, &tensor.name);
            let values: Vec<f64> = tensor
                .values()
                .into_iter()
                .map(|value| {
                    let share = if noise.uniform() < 0.125 { 1.0 } else { 0.05 };
                    value + scale * share * noise.normal()
                })
                .collect();
            Tensor::new(&tensor.name, DType::Bf16, &tensor.shape, &values)
        })
        .collect()
}

fn model_files(folder: &str, tensors: &[Tensor]) -> Vec<File> {
    let special = ["<s>", "</s>", "<pad>"].map(str::to_owned);
    let mut tokenizer_config = side_files::tokenizer_config();
    tokenizer_config["pad_token"] = "<pad>".into();
    let mut texts = vec![
        ("config.json", pretty(&side_files::llama_config(&DIMENSIONS, "bfloat16"))),
        ("generation_config.json", pretty(&side_files::generation_config())),
        ("tokenizer.json", pretty(&side_files::byte_tokenizer(&special, &MERGES))),
        ("tokenizer_config.json", pretty(&tokenizer_config)),
    ];
    if folder == "chat" {
        texts.push(("chat_template.jinja", side_files::CHAT_TEMPLATE.to_owned()));
    }
    let mut files: Vec<File> = texts
        .into_iter()
        .map(|(name, text)| (format!("{folder}/{name}"), text.into_bytes()))
        .collect();
    let mut weight_map = serde_json::Map::new();
    let total: usize = tensors.iter().map(|tensor| tensor.data.len()).sum();
    for (shard, part) in tensors.chunks(tensors.len().div_ceil(SHARDS)).enumerate() {
        let name = format!("model-{:05}-of-{SHARDS:05}.safetensors", shard + 1);
        for tensor in part {
            weight_map.insert(tensor.name.clone(), name.as_str().into());
        }
        let part: Vec<&Tensor> = part.iter().collect();
        files.push((format!("{folder}/{name}"), safetensors_bytes(&part)));
    }
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    let index_name = format!("{folder}/model.safetensors.index.json");
    files.push((index_name, pretty(&index).into_bytes()));
    files
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn checked_in_files_are_what_is_made_here() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart");
        let mut total = 0;
        for (path, made) in files() {
            let found = std::fs::read(folder.join(&path)).unwrap_or_default();
            assert!(
                found == made,
                "examples/quickstart/{path} differs; to make it again: \
                 cargo run -p mixdown-kit --bin make-quickstart"
            );
            total += made.len();
        }
        assert!(total <= 4_000_000, "the example holds {total} bytes");
    }
}
