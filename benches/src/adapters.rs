//! Five adapters of rank 8 merged into a base of Qwen2-VL-7B's shapes, beside a copy of the base.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use half::bf16;
use mixdown_kit::published::{Published, Weights};
use mixdown_kit::values::Values;
use serde_json::{Map, Value, json};

use crate::copy::copy_file;
use crate::measure::{Cost, measure};

const ADAPTERS: [&str; 5] = ["a", "b", "c", "d", "e"];
const RANK: u64 = 8;

/// Numbers whose bytes are repeated where nobody looks at values: 1 MiB of them.
const BLOCK: u64 = 1 << 19;

/// Writes the base, with so many layers, and the adapters.
pub fn make(folder: &Path, layers: u64) -> io::Result<()> {
    let base = Published::read("qwen2_vl_7b").with_layers(layers);
    base.write(&folder.join("base"), Weights::Repeated(&numbers("base", BLOCK, 0.02)))?;
    for name in ADAPTERS {
        adapter(&folder.join(name), name, &base)?;
    }
    Ok(())
}

fn numbers(stream: &str, count: u64, scale: f64) -> Vec<u8> {
    let mut values = Values::new(0, stream);
    (0..count)
        .flat_map(|_| bf16::from_f32((scale * values.normal()) as f32).to_le_bytes())
        .collect()
}

/// Both factors of each linear layer of the language model, as peft names them.
fn adapter(folder: &Path, name: &str, base: &Published) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let config = json!({
        "base_model_name_or_path": "base", "bias": "none", "peft_type": "LORA", "task_type": "CAUSAL_LM",
        "r": RANK, "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    });
    fs::write(folder.join("adapter_config.json"), format!("{config:#}\n"))?;
    let mut header = Map::new();
    let mut data: Vec<u8> = Vec::new();
    let linear = base.tensors.iter().filter(|(name, _)| name.ends_with("_proj.weight"));
    for (weight, shape) in linear.filter(|(name, _)| name.starts_with("model.layers.")) {
        let module = weight.trim_end_matches(".weight");
        for (side, shape) in [("lora_A", [RANK, shape[1]]), ("lora_B", [shape[0], RANK])] {
            let begin = data.len();
            let stream = format!("{name}.{module}.{side}");
            data.extend(numbers(&stream, shape.iter().product(), 0.01));
            let entry =
                json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, data.len()]});
            header.insert(format!("base_model.model.{module}.{side}.weight"), entry);
        }
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    fs::write(folder.join("adapter_model.safetensors"), file)
}

/// Merges and copies in turn, and prints a row for each round.
pub fn run(folder: &Path, rounds: usize) -> io::Result<()> {
    fs::write(folder.join("recipe.yaml"), recipe())?;
    println!("| OptMerge of five adapters, s | copy of the base, s | ratio | peak memory, MB |");
    println!("| --- | --- | --- | --- |");
    for _ in 0..rounds {
        let copied = copied(folder)?;
        let Cost { time, peak } = merged(folder)?;
        println!(
            "| {:.1} | {:.1} | {:.2} | {:.0} |",
            time.as_secs_f64(),
            copied.as_secs_f64(),
            time.as_secs_f64() / copied.as_secs_f64(),
            peak as f64 / 1e6,
        );
    }
    Ok(())
}

fn copied(folder: &Path) -> io::Result<Duration> {
    let to = folder.join("copied.safetensors");
    let time = copy_file(&folder.join("base/model.safetensors"), &to)?;
    fs::remove_file(to)?;
    rustix::fs::sync();
    Ok(time)
}

fn merged(folder: &Path) -> io::Result<Cost> {
    let mut command = Command::new(mixdown_kit::program::binary());
    // What an earlier round computed would be read instead.
    command.current_dir(folder).args(["merge", "recipe.yaml", "--out", "merged", "--no-cache"]);
    let cost = measure(&mut command)?;
    fs::remove_dir_all(folder.join("merged"))?;
    rustix::fs::sync();
    Ok(cost)
}

fn recipe() -> String {
    let mut text =
        "merge_method: optmerge\nbase_model: ./base\nparameters: {tuning: lora, momentum: 0.9}\n\
                    models:\n"
            .to_owned();
    for adapter in ADAPTERS {
        text += &format!("  - model: ./base+./{adapter}\n");
    }
    text
}
