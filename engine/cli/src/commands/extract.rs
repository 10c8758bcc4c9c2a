//! `mixdown extract`: the adapter between two checkpoints.

use std::path::PathBuf;

use clap::Args;
use mixdown_session::extract::{ExtractRequest, extract};

use crate::commands::Outcome;
use crate::commands::merge::{self, Running};
use crate::stop;
use crate::talk::Talk;
use crate::terminal::Terminal;

/// Write what a model adds to its base as a LoRA adapter
///
/// Of each linear layer that differs from the base's, the R leading singular directions of the
/// difference become the two factors of a LoRA; embeddings, norms and biases that differ are stored
/// whole. Tensors that do not differ are left out. The folder is one that PEFT loads onto the base,
/// and that recipes name as BASE+ADAPTER.
///
/// Prints for each tensor the rank and the relative error of its update, ‖Δ − B·A‖ / ‖Δ‖ in the
/// Frobenius norm, then the folder.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown extract org/math-7b org/base-7b --rank 64 --out math-lora
  mixdown merge recipe.yaml --out merged       with org/base-7b+math-lora among its models

A recipe does the same with what it merges: output: {as: adapter, rank: 64}.

Exit status: 0 done, 1 failed, 2 command line wrong, 130 interrupted.")]
pub struct Arguments {
    /// The model: a folder, a file, or an id at the hub
    model: String,
    /// What it was made from, and what the adapter will be on
    base: String,
    /// Most directions of each update; smaller matrices have fewer
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    rank: u32,
    /// The folder to make
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Read files of models that are links out of the model's folder, which is an error otherwise; those of
    /// the hub's cache are no such links
    #[arg(long)]
    follow_links: bool,
    #[command(flatten)]
    pub running: Running,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let Arguments { model, base, rank, out, follow_links, running } = arguments;
    let terminal = Terminal::of_events(talk, running.json).reading(running.reading);
    let (machine, force) = (running.machine.of_session(), running.force);
    let request = ExtractRequest { model, base, rank, out, machine, force, follow_links };
    let merged = extract(&request, &terminal.session());
    let outcome = merged.map(|merged| merge::tell(&merged, &terminal, true));
    terminal.tell_of_trouble(&outcome);
    outcome
}
