//! A transplant of a vocabulary, beside what mergekit-tokensurgeon takes for it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use half::bf16;
use mixdown_kit::values::Values;
use serde_json::{Map, Value, json};

use crate::make::weights;
use crate::measure::measure;

/// What is transplanted.
pub struct Options {
    /// Tokens of each model.
    pub tokens: u64,
    /// How many of them both have.
    pub common: u64,
    /// Columns of both embeddings.
    pub hidden: u64,
    /// Tokens of each sum.
    pub count: u64,
    /// A Python that has mergekit.
    pub mergekit: Option<PathBuf>,
}

/// Writes both models where they are missing, measures, and prints seconds.
pub fn run(folder: &Path, options: &Options) -> io::Result<()> {
    let common = options.common.min(options.tokens);
    for (name, seed) in [("model", 1), ("donor", 2)] {
        if !folder.join(name).exists() {
            write(&folder.join(name), name, seed, options, common)?;
        }
    }
    let count = options.count.to_string();
    let out = folder.join("transplanted");
    let clear = || match fs::remove_dir_all(&out) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    clear()?;
    let mut command = Command::new(mixdown_kit::program::binary());
    command.current_dir(folder).args(["transplant", "model", "donor", "--out", "transplanted"]);
    let own = measure(command.args(["-k", &count]))?;
    println!("mixdown   {:8.1} s, {:6} MB", own.time.as_secs_f64(), own.peak / 1_000_000);
    let Some(python) = &options.mergekit else { return clear() };
    clear()?;
    let main = "from mergekit.scripts.tokensurgeon import main; main()";
    let mut command = Command::new(python);
    command.current_dir(folder).env("HF_HUB_OFFLINE", "1");
    let arguments = ["-c", main, "model", "donor", "transplanted", "-a", "omp", "-k", &count];
    let theirs = measure(command.args(arguments))?;
    println!("mergekit  {:8.1} s, {:6} MB", theirs.time.as_secs_f64(), theirs.peak / 1_000_000);
    println!("ratio     {:8.1}", theirs.time.as_secs_f64() / own.time.as_secs_f64());
    clear()
}

/// A model of one layer, whose rows are noise around one of them, as those of trained models are.
fn write(folder: &Path, name: &str, seed: u64, options: &Options, common: u64) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let hidden = options.hidden;
    let vocabulary: Map<String, Value> = (0..options.tokens)
        .map(|id| {
            let token = if id < common { format!("t{id}") } else { format!("{name}{id}") };
            (token, id.into())
        })
        .collect();
    let model = json!({"type": "BPE", "vocab": vocabulary, "merges": []});
    let tokenizer = json!({"version": "1.0", "added_tokens": [], "model": model});
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    let class = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
    fs::write(folder.join("tokenizer_config.json"), class.to_string())?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "vocab_size": options.tokens,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
    });
    fs::write(folder.join("config.json"), format!("{config:#}\n"))?;
    let layer = |part: &str| format!("model.layers.0.{part}.weight");
    let tensors = [
        ("model.embed_tokens.weight".to_owned(), vec![options.tokens, hidden]),
        (layer("input_layernorm"), vec![hidden]),
        (layer("mlp.down_proj"), vec![hidden, 8]),
        (layer("mlp.gate_proj"), vec![8, hidden]),
        (layer("mlp.up_proj"), vec![8, hidden]),
        (layer("post_attention_layernorm"), vec![hidden]),
        (layer("self_attn.k_proj"), vec![4, hidden]),
        (layer("self_attn.o_proj"), vec![hidden, 8]),
        (layer("self_attn.q_proj"), vec![8, hidden]),
        (layer("self_attn.v_proj"), vec![4, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    weights(folder, &tensors, |to, name, shape| {
        let mut values = Values::new(seed, name);
        let mean: Vec<f64> = (0..hidden).map(|_| 0.02 * values.normal()).collect();
        for at in 0..shape.iter().product::<u64>() {
            let value = mean[(at % hidden) as usize] + 0.03 * values.normal();
            to.write_all(&bf16::from_f32(value as f32).to_le_bytes())?;
        }
        Ok(())
    })
}
