//! Measures whole merges as processes, until the result is durable, beside a plain copy of the same bytes.
//!
//!     cargo run --release -p mixdown-benches -- make bench-data
//!     cargo run --release -p mixdown-benches -- run bench-data
//!
//!     cargo run --release -p mixdown-benches -- make --experts 5 bench-data
//!     cargo run --release -p mixdown-benches -- run --matrices --rounds 1 bench-data
//!
//!     cargo run --release -p mixdown-benches -- adapters bench-7b
//!     cargo run --release -p mixdown-benches -- streaming --memory 1GB bench-32b
//!     cargo run --release -p mixdown-benches -- streaming --matrices 7b --memory 2GB bench-layer
//!     cargo run --release -p mixdown-benches -- streaming --matrices 32b --memory 4GB bench-layer
//!     cargo run --release -p mixdown-benches -- transplant --mergekit PYTHON bench-tokens
//!     cargo run --release -p mixdown-benches -- quantized --torch PYTHON bench-quantized

mod adapters;
mod copy;
mod layer;
mod make;
mod measure;
mod quantized;
mod recipes;
mod report;
mod run;
mod streaming;
mod transplant;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Measures whole merges beside a plain copy of the same bytes.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a base and experts in the shapes of Qwen2.5-0.5B, about 1 GB each
    Make {
        /// Folder of the models
        folder: PathBuf,
        /// Count of layers; the model has 24
        #[arg(long, default_value_t = 24)]
        layers: u64,
        /// Count of experts, 3 to 5; the methods over matrices take 5
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=5))]
        experts: u64,
    },
    /// Merge them by each method, in rounds, and print medians
    Run {
        /// Folder of the models
        folder: PathBuf,
        /// Rounds that count; one more goes before them and does not
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// The methods over matrices, with five experts, instead of those element by element
        #[arg(long)]
        matrices: bool,
        /// Only methods whose name contains this
        #[arg(long, default_value = "")]
        only: String,
        /// Further arguments for `mixdown merge`, such as --memory=64MB
        #[arg(long, allow_hyphen_values = true)]
        with: Vec<String>,
        /// A Python that has mergekit: measured too, once for each method
        #[arg(long, value_name = "PYTHON")]
        mergekit: Option<PathBuf>,
        /// Write the figures as JSON to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Merge five adapters of rank 8 into a base of Qwen2-VL-7B's shapes, beside a copy of the base
    Adapters {
        /// Folder of the models; they are written where they are missing
        folder: PathBuf,
        /// Count of layers; the model has 28 and takes 17 GB, and each result as much again
        #[arg(long, default_value_t = 28)]
        layers: u64,
        /// Rounds
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// Merge five experts of Qwen2.5-VL-32B's shapes, with more and more layers, and tell the memory
    Streaming {
        /// Folder of the models; their weights take no space, the results do
        folder: PathBuf,
        /// Counts of layers; the model has 64, and each takes 1 GB of the result
        #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
        layers: Vec<u64>,
        /// Memory that a merge may use
        #[arg(long, default_value = "1GB")]
        memory: String,
        /// In place of that, one whole layer of this model with real numbers, by each method over matrices, within
        /// this memory and without a limit; it takes hours
        #[arg(long, value_name = "MODEL")]
        matrices: Option<layer::Model>,
        /// With `--matrices`, only methods whose name contains this
        #[arg(long, default_value = "", requires = "matrices")]
        only: String,
    },
    /// Read and write quantized forms of a model of Qwen2.5-7B's shapes, beside bf16 and a plain copy
    Quantized {
        /// Folder of the models; they are written where they are missing
        folder: PathBuf,
        /// Count of layers; the model has 28, and each takes 0.5 GB in each of two models
        #[arg(long, default_value_t = 2)]
        layers: u64,
        /// Rounds that count; one more goes before them and does not
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Only forms whose name contains this
        #[arg(long, default_value = "")]
        only: String,
        /// A Python that has torch and safetensors: its loop over tensors of block fp8 is measured too
        #[arg(long, value_name = "PYTHON")]
        torch: Option<PathBuf>,
    },
    /// Give a model the vocabulary of another one by matching pursuit
    Transplant {
        /// Folder of both models; they are written where they are missing
        folder: PathBuf,
        /// Tokens of each model
        #[arg(long, default_value_t = 150_000)]
        tokens: u64,
        /// How many of them both have
        #[arg(long, default_value_t = 100_000)]
        common: u64,
        /// Columns of both embeddings
        #[arg(long, default_value_t = 896)]
        hidden: u64,
        /// Tokens of each sum
        #[arg(short, default_value_t = 64)]
        k: u64,
        /// A Python that has mergekit: measured too
        #[arg(long, value_name = "PYTHON")]
        mergekit: Option<PathBuf>,
    },
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Arguments::parse().command {
        Command::Make { folder, layers, experts } => make::make(&folder, layers, experts)?,
        Command::Run { folder, rounds, matrices, only, with, mergekit, json } => {
            let options = run::Options { rounds, matrices, only, with, mergekit };
            let report = run::run(&folder, &options)?;
            print!("{}", report.table());
            if let Some(path) = json {
                std::fs::write(path, report.json())?;
            }
        }
        Command::Adapters { folder, layers, rounds } => {
            if !folder.join("base").exists() {
                adapters::make(&folder, layers)?;
            }
            adapters::run(&folder, rounds)?;
        }
        Command::Transplant { folder, tokens, common, hidden, k: count, mergekit } => {
            let options = transplant::Options { tokens, common, hidden, count, mergekit };
            transplant::run(&folder, &options)?;
        }
        Command::Quantized { folder, layers, rounds, only, torch } => {
            let options = quantized::Options { layers, rounds, only, torch };
            quantized::run(&folder, &options)?;
        }
        Command::Streaming { folder, memory, matrices: Some(model), only, .. } => {
            layer::run(&folder, &layer::Options { model, memory, only })?;
        }
        Command::Streaming { folder, layers, memory, matrices: None, .. } => {
            streaming::run(&folder, &streaming::Options { layers, memory })?;
        }
    }
    Ok(())
}
