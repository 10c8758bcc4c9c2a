//! Quantized forms, read by a linear merge and written from bf16, beside bf16 and a plain copy of the bytes moved,
//! and beside the loop over tensors that torch's users write.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use half::bf16;
use mixdown_kit::values::Values;
use serde_json::json;

use crate::copy::copy_file;
use crate::make::weights;
use crate::measure::{Cost, measure};

/// How to measure.
pub struct Options {
    /// Layers of the models, of a model of 7 billion parameters.
    pub layers: u64,
    /// Rounds that count; one more goes before them and does not.
    pub rounds: usize,
    /// Only forms whose name contains this.
    pub only: String,
    /// A Python that has torch and safetensors.
    pub torch: Option<PathBuf>,
}

/// A form, and what it may cost of what bf16 costs.
struct Form {
    name: &'static str,
    /// After `mixdown convert MODEL`.
    arguments: &'static [&'static str],
    /// To read an element of it, at most; none where nothing is promised.
    read: Option<f64>,
    /// To write it, at most.
    write: Option<f64>,
}

const FORMS: [Form; 14] = [
    form("fp8", &["--to", "fp8"], Some(1.3), Some(1.3)),
    form("block_fp8", &["--to", "fp8", "--as", "block-fp8"], Some(1.3), Some(1.3)),
    form("int8", &["--to", "int8"], Some(1.3), Some(1.3)),
    form("llm_int8", &["--to", "int8", "--as", "bitsandbytes"], Some(1.3), None),
    form("mxfp4", &["--to", "mxfp4"], Some(1.5), None),
    form("nvfp4", &["--to", "nvfp4"], Some(1.5), None),
    form("int4", &["--to", "int4"], Some(1.5), None),
    form("nf4", &["--to", "nf4"], Some(1.5), None),
    form("mlx_4", &["--to", "int4", "--as", "mlx"], Some(1.5), None),
    form("gguf_q8_0", &["--to", "q8_0", "--as", "gguf"], Some(1.3), Some(1.3)),
    form("gguf_q4_0", &["--to", "q4_0", "--as", "gguf"], Some(1.5), None),
    form("gguf_q4_k", &["--to", "q4_k_m", "--as", "gguf"], Some(2.0), Some(4.0)),
    form("gguf_q5_k", &["--to", "q5_k_m", "--as", "gguf"], Some(2.0), None),
    form("gguf_q6_k", &["--to", "q6_k", "--as", "gguf"], Some(2.0), None),
];

const fn form(
    name: &'static str,
    arguments: &'static [&'static str],
    read: Option<f64>,
    write: Option<f64>,
) -> Form {
    Form { name, arguments, read, write }
}

/// Both models in bf16, whose values are different.
const WIDE: [&str; 2] = ["one", "two"];

/// Measures all forms and prints medians; both models are written where they are missing.
pub fn run(folder: &Path, options: &Options) -> io::Result<()> {
    for (seed, name) in (1..).zip(WIDE) {
        if !folder.join(name).exists() {
            write(&folder.join(name), seed, options.layers)?;
        }
    }
    println!(
        "medians of {} rounds, in seconds; × is what bf16 takes in the same round",
        options.rounds
    );
    println!(
        "{:<12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "form", "read", "copy", "× bf16", "at most", "write", "× bf16", "at most"
    );
    for form in FORMS.iter().filter(|form| form.name.contains(&options.only)) {
        measure_form(folder, form, options)?;
    }
    if let Some(python) = &options.torch {
        beside_torch(folder, python, options.rounds)?;
    }
    Ok(())
}

fn measure_form(folder: &Path, form: &Form, options: &Options) -> io::Result<()> {
    let names = WIDE.map(|name| format!("{name}-{}", form.name));
    for (model, name) in WIDE.iter().zip(&names) {
        clear(&folder.join(name))?;
        convert(folder, model, form.arguments, name)?;
    }
    let mut taken: [Vec<f64>; 5] = Default::default();
    for round in 0..=options.rounds {
        let wide = merge(folder, WIDE)?;
        let read = merge(folder, [&names[0], &names[1]])?;
        let copied = copied(folder, &names[0])?;
        let plain = convert(folder, WIDE[0], &["--to", "bf16"], "out")?.time;
        let written = convert(folder, WIDE[0], form.arguments, "out")?.time;
        clear(&folder.join("out"))?;
        if round > 0 {
            for (all, time) in taken.iter_mut().zip([wide, read, copied, plain, written]) {
                all.push(time.as_secs_f64());
            }
        }
    }
    let ratio = |above: usize, below: usize| {
        median(taken[above].iter().zip(&taken[below]).map(|(above, below)| above / below).collect())
    };
    let most = |most: Option<f64>| most.map_or("-".to_owned(), |most| format!("{most:.1}"));
    println!(
        "{:<12} {:>8.2} {:>8.2} {:>8.2} {:>8} {:>8.2} {:>8.2} {:>8}",
        form.name,
        median(taken[1].clone()),
        median(taken[2].clone()),
        ratio(1, 0),
        most(form.read),
        median(taken[4].clone()),
        ratio(4, 3),
        most(form.write),
    );
    names.iter().try_for_each(|name| clear(&folder.join(name)))
}

/// Dequantizes a checkpoint of block fp8 as torch's users do, and by `mixdown convert`.
fn beside_torch(folder: &Path, python: &Path, rounds: usize) -> io::Result<()> {
    const LOOP: &str = include_str!("../dequantize_in_torch.py");
    clear(&folder.join("codes"))?;
    convert(folder, WIDE[0], &["--to", "fp8", "--as", "block-fp8"], "codes")?;
    let mut taken: [Vec<f64>; 2] = Default::default();
    for round in 0..=rounds {
        clear(&folder.join("out"))?;
        let mut command = Command::new(python);
        command.current_dir(folder).args(["-c", LOOP, "codes", "out"]);
        let theirs = measure(&mut command)?.time.as_secs_f64();
        let own = convert(folder, "codes", &["--to", "bf16"], "out")?.time.as_secs_f64();
        if round > 0 {
            taken[0].push(theirs);
            taken[1].push(own);
        }
    }
    let ratio = taken[0].iter().zip(&taken[1]).map(|(theirs, own)| theirs / own).collect();
    println!(
        "block fp8 to bf16: torch {:.2} s, mixdown {:.2} s, {:.1} times faster",
        median(taken[0].clone()),
        median(taken[1].clone()),
        median(ratio)
    );
    clear(&folder.join("out"))?;
    clear(&folder.join("codes"))
}

/// A linear merge of two models to bf16.
fn merge(folder: &Path, models: [&str; 2]) -> io::Result<Duration> {
    clear(&folder.join("out"))?;
    let recipe = format!(
        "merge_method: linear\nmodels:\n  - {{model: ./{}, parameters: {{weight: 0.6}}}}\n  - {{model: ./{}, parameters: {{weight: 0.4}}}}\ndtype: bfloat16\n",
        models[0], models[1]
    );
    fs::write(folder.join("recipe.yaml"), recipe)?;
    let mut command = Command::new(mixdown_kit::program::binary());
    command.current_dir(folder).args(["merge", "recipe.yaml", "--out", "out"]);
    Ok(measure(&mut command)?.time)
}

fn convert(folder: &Path, model: &str, arguments: &[&str], out: &str) -> io::Result<Cost> {
    clear(&folder.join(out))?;
    let mut command = Command::new(mixdown_kit::program::binary());
    command.current_dir(folder).args(["convert", model, "--shard-size", "0", "--out", out]);
    measure(command.args(arguments))
}

/// A copy of all files of weights of a model.
fn copied(folder: &Path, model: &str) -> io::Result<Duration> {
    let to = folder.join("copied");
    let mut all = Duration::ZERO;
    for entry in fs::read_dir(folder.join(model))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "safetensors" || end == "gguf") {
            all += copy_file(&path, &to)?;
            fs::remove_file(&to)?;
        }
    }
    Ok(all)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Removes what an earlier measurement left and waits until the disk is at rest.
fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    rustix::fs::sync();
    Ok(())
}

/// A model with layers of Qwen2.5-7B's shapes, and few tokens.
fn write(folder: &Path, seed: u64, layers: u64) -> io::Result<()> {
    const HIDDEN: u64 = 3584;
    const INTERMEDIATE: u64 = 18_944;
    const KV: u64 = 512;
    const VOCABULARY: u64 = 1024;
    fs::create_dir_all(folder)?;
    let config = json!({
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 32768,
        "num_attention_heads": 28,
        "num_hidden_layers": layers,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "vocab_size": VOCABULARY,
    });
    fs::write(folder.join("config.json"), format!("{config:#}\n"))?;
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..layers {
        for (name, shape) in [
            ("input_layernorm.weight", vec![HIDDEN]),
            ("mlp.down_proj.weight", vec![HIDDEN, INTERMEDIATE]),
            ("mlp.gate_proj.weight", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj.weight", vec![INTERMEDIATE, HIDDEN]),
            ("post_attention_layernorm.weight", vec![HIDDEN]),
            ("self_attn.k_proj.weight", vec![KV, HIDDEN]),
            ("self_attn.o_proj.weight", vec![HIDDEN, HIDDEN]),
            ("self_attn.q_proj.weight", vec![HIDDEN, HIDDEN]),
            ("self_attn.v_proj.weight", vec![KV, HIDDEN]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}"), shape));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    weights(folder, &tensors, |to, name, shape| {
        let mut values = Values::new(seed, name);
        let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
        for _ in 0..shape.iter().product::<u64>() {
            let value = offset + 0.02 * values.normal();
            to.write_all(&bf16::from_f32(value as f32).to_le_bytes())?;
        }
        Ok(())
    })
}
