//! Memory of merges whose models are far larger than it: five experts and a base of a 32B model, whose
//! weights are holes in files, with more and more of its layers.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use mixdown_kit::published::{Published, Weights};

use crate::measure::measure;

const EXPERTS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Methods that read a tensor once, twice, and several times.
const METHODS: [&str; 3] = ["linear", "task_arithmetic", "ties"];

/// How to measure.
pub struct Options {
    /// Counts of layers, one after the other.
    pub layers: Vec<u64>,
    /// For `mixdown merge --memory`.
    pub memory: String,
}

/// Merges the models of each size by each method, and prints a row for each.
pub fn run(folder: &Path, options: &Options) -> io::Result<()> {
    println!("| method | layers | one model, GB | time, s | peak memory, MB |");
    println!("| --- | --- | --- | --- | --- |");
    for &layers in &options.layers {
        let model = Published::read("qwen2_5_vl_32b").with_layers(layers);
        for name in ["base"].iter().chain(&EXPERTS) {
            model.write(&folder.join(name), Weights::Holes)?;
        }
        for method in METHODS {
            fs::write(folder.join("recipe.yaml"), recipe(method))?;
            let mut command = Command::new(mixdown_kit::program::binary());
            command.current_dir(folder).args(["merge", "recipe.yaml", "--out", "merged"]);
            let cost = measure(command.args(["--memory", &options.memory]))?;
            fs::remove_dir_all(folder.join("merged"))?;
            println!(
                "| {method} | {layers} | {:.1} | {:.1} | {:.0} |",
                model.bytes() as f64 / 1e9,
                cost.time.as_secs_f64(),
                cost.peak as f64 / 1e6,
            );
        }
    }
    Ok(())
}

fn recipe(method: &str) -> String {
    let mut text = format!("merge_method: {method}\n");
    if method != "linear" {
        text += "base_model: ./base\n";
    }
    text += "models:\n";
    for expert in EXPERTS {
        text += &format!("  - {{model: ./{expert}, parameters: {{weight: 0.2}}}}\n");
    }
    text
}
