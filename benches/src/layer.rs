//! Memory and time of the methods over matrices on one whole layer of a large model: five experts of full rank with
//! numbers of their own, merged within a budget and without one.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::Command;

use clap::ValueEnum;
use half::bf16;
use mixdown_kit::published::Published;
use mixdown_kit::values::Values;

use crate::make::weights;
use crate::measure::{Cost, measure};

const EXPERTS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Methods, and what they are told beside their defaults.
const METHODS: [(&str, &str, &str); 14] = [
    ("cart", "cart", ""),
    ("iso_c", "iso_c", ""),
    ("iso_cts", "iso_cts", ""),
    ("tsv", "tsv", ""),
    ("star", "star", ""),
    ("svc", "svc", ""),
    ("subspace_boosting", "subspace_boosting", ""),
    ("optmerge, tuning: lora", "optmerge", "{tuning: lora}"),
    ("optmerge", "optmerge", ""),
    ("wudi", "wudi", ""),
    ("swudi", "swudi", ""),
    ("aswudi", "aswudi", ""),
    ("doge", "doge", ""),
    ("knots_ties", "knots_ties", ""),
];

/// Whose layer it is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Model {
    /// Qwen2-VL-7B: 0.5 GB for each model
    #[value(name = "7b")]
    Seven,
    /// Qwen2.5-VL-32B: 1 GB for each model
    #[value(name = "32b")]
    ThirtyTwo,
}

/// How to measure.
pub struct Options {
    /// Whose layer.
    pub model: Model,
    /// For `mixdown merge --memory`, in the first of both merges.
    pub memory: String,
    /// Only methods whose name contains this.
    pub only: String,
}

/// Merges by each method, within the budget and without, and prints a row for each.
pub fn run(folder: &Path, options: &Options) -> io::Result<()> {
    let folder = &folder.join(match options.model {
        Model::Seven => "7b",
        Model::ThirtyTwo => "32b",
    });
    if !folder.join("e").exists() {
        make(folder, options.model)?;
    }
    let memory = &options.memory;
    println!(
        "| method | {memory}: time, s | peak, MB | without: time, s | peak, MB | ratio of times |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    let chosen = METHODS.iter().filter(|(name, ..)| name.contains(&options.only));
    for (name, method, parameters) in chosen {
        fs::write(folder.join("recipe.yaml"), recipe(method, parameters))?;
        let within = merge(folder, &["--memory", memory])?;
        // As much as no merge of a layer takes.
        let without = merge(folder, &["--memory", "1TB"])?;
        println!(
            "| {name} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} |",
            within.time.as_secs_f64(),
            within.peak as f64 / 1e6,
            without.time.as_secs_f64(),
            without.peak as f64 / 1e6,
            within.time.as_secs_f64() / without.time.as_secs_f64(),
        );
    }
    Ok(())
}

fn merge(folder: &Path, arguments: &[&str]) -> io::Result<Cost> {
    let mut command = Command::new(mixdown_kit::program::binary());
    // What an earlier run computed would be read instead.
    command.current_dir(folder).args(["merge", "recipe.yaml", "--out", "merged", "--no-cache"]);
    let cost = measure(command.args(arguments))?;
    fs::remove_dir_all(folder.join("merged"))?;
    rustix::fs::sync();
    Ok(cost)
}

/// Writes the base and the experts: the weights of the first layer of the language model alone.
fn make(folder: &Path, model: Model) -> io::Result<()> {
    let fixture = match model {
        Model::Seven => "qwen2_vl_7b",
        Model::ThirtyTwo => "qwen2_5_vl_32b",
    };
    let mut model = Published::read(fixture).with_layers(1);
    model.tensors.retain(|(name, _)| name.ends_with("_proj.weight") && name.contains("layers.0."));
    for (seed, name) in (0..).zip(["base"].iter().chain(&EXPERTS)) {
        let folder = folder.join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("config.json"), format!("{:#}\n", model.config))?;
        weights(&folder, &model.tensors, |to, name, shape| tensor(to, name, shape, seed))?;
    }
    Ok(())
}

/// The base's numbers, and with a seed other than 0 an update beside them.
fn tensor(to: &mut BufWriter<&fs::File>, name: &str, shape: &[u64], seed: u64) -> io::Result<()> {
    let mut base = Values::new(0, name);
    let mut update = Values::new(seed, &format!("{name}, updated"));
    for _ in 0..shape.iter().product::<u64>() {
        let moved = if seed == 0 { 0.0 } else { 0.002 * update.normal() };
        let value = bf16::from_f32((0.02 * base.normal() + moved) as f32);
        to.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}

fn recipe(method: &str, parameters: &str) -> String {
    let mut text = format!("merge_method: {method}\nbase_model: ./base\nmodels:\n");
    for expert in EXPERTS {
        text += &format!("  - {{model: ./{expert}}}\n");
    }
    if !parameters.is_empty() {
        text += &format!("parameters: {parameters}\n");
    }
    text
}
