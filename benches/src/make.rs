//! The models that are merged: shapes of Qwen2.5-0.5B, bf16, experts that are the base plus small noise.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use half::bf16;
use mixdown_kit::values::Values;
use serde_json::{Map, Value, json};

const HIDDEN: u64 = 896;
const INTERMEDIATE: u64 = 4864;
const KV: u64 = 128;
const VOCABULARY: u64 = 151_936;

/// Name and noise seed of each model; the base has no noise.
pub const MODELS: [(&str, Option<u64>); 6] = [
    ("base", None),
    ("a", Some(1)),
    ("b", Some(2)),
    ("c", Some(3)),
    ("d", Some(4)),
    ("e", Some(5)),
];

/// Writes the base and so many experts, two models at a time.
pub fn make(folder: &Path, layers: u64, experts: u64) -> io::Result<()> {
    for pair in MODELS[..=experts as usize].chunks(2) {
        std::thread::scope(|scope| {
            let writers: Vec<_> = pair
                .iter()
                .map(|&(name, noise)| scope.spawn(move || write(&folder.join(name), noise, layers)))
                .collect();
            writers.into_iter().try_for_each(|writer| match writer.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
    }
    Ok(())
}

fn tensors(layers: u64) -> Vec<(String, Vec<u64>)> {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..layers {
        for (name, shape) in [
            ("input_layernorm.weight", vec![HIDDEN]),
            ("mlp.down_proj.weight", vec![HIDDEN, INTERMEDIATE]),
            ("mlp.gate_proj.weight", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj.weight", vec![INTERMEDIATE, HIDDEN]),
            ("post_attention_layernorm.weight", vec![HIDDEN]),
            ("self_attn.k_proj.bias", vec![KV]),
            ("self_attn.k_proj.weight", vec![KV, HIDDEN]),
            ("self_attn.o_proj.weight", vec![HIDDEN, HIDDEN]),
            ("self_attn.q_proj.bias", vec![HIDDEN]),
            ("self_attn.q_proj.weight", vec![HIDDEN, HIDDEN]),
            ("self_attn.v_proj.bias", vec![KV]),
            ("self_attn.v_proj.weight", vec![KV, HIDDEN]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}"), shape));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    tensors
}

fn write(folder: &Path, noise: Option<u64>, layers: u64) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.json"), format!("{:#}\n", config(layers)))?;
    weights(folder, &tensors(layers), |to, name, shape| write_tensor(to, name, shape, noise))
}

/// Writes a file of bf16 tensors, whose bytes `fill` gives one after another, until it is stored.
pub fn weights(
    folder: &Path,
    tensors: &[(String, Vec<u64>)],
    fill: impl Fn(&mut BufWriter<&File>, &str, &[u64]) -> io::Result<()>,
) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut begin = 0;
    for (name, shape) in tensors {
        let end = begin + 2 * shape.iter().product::<u64>();
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]});
        header.insert(name.clone(), entry);
        begin = end;
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let file = File::create(folder.join("model.safetensors"))?;
    let mut writer = BufWriter::with_capacity(1 << 20, &file);
    writer.write_all(&(header.len() as u64).to_le_bytes())?;
    writer.write_all(header.as_bytes())?;
    for (name, shape) in tensors {
        fill(&mut writer, name, shape)?;
    }
    writer.flush()?;
    drop(writer);
    file.sync_all()
}

fn write_tensor(
    to: &mut impl Write,
    name: &str,
    shape: &[u64],
    noise: Option<u64>,
) -> io::Result<()> {
    let mut base = Values::new(0, name);
    let mut noise = noise.map(|seed| Values::new(seed, name));
    let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
    for _ in 0..shape.iter().product::<u64>() {
        // The expert starts from the base as it is stored.
        let stored = bf16::from_f32((offset + 0.02 * base.normal()) as f32);
        let value = match &mut noise {
            None => stored,
            Some(noise) => bf16::from_f32(stored.to_f32() + (0.002 * noise.normal()) as f32),
        };
        to.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}

fn config(layers: u64) -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"],
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 32768,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "vocab_size": VOCABULARY,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_has_as_many_parameters_as_its_model() {
        let elements: u64 =
            tensors(24).iter().map(|(_, shape)| shape.iter().product::<u64>()).sum();
        assert_eq!(elements, 494_032_768);
    }
}
