//! `mixdown fuse`: adapters added to their base.

use std::path::PathBuf;

use clap::Args;
use mixdown_checkpoint::shown;
use mixdown_session::fuse::{FuseRequest, fuse};
use mixdown_session::merge::in_folder;
use mixdown_session::push::{self, PushRequest};

use crate::commands::Outcome;
use crate::commands::merge::{self, Running};
use crate::size;
use crate::stop;
use crate::talk::Talk;
use crate::terminal::Terminal;

/// Add adapters to their base, and write the model
///
/// Of each matrix that an adapter changes, the product of its factors is added, times the adapter's own
/// scale and that of --scale, and the sum is rounded once. Several adapters are added up. Tensors that an
/// adapter stores whole count as their difference from the base's. A recipe does more: rules, methods that
/// resolve conflicts between adapters, other outputs.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown fuse org/base-7b ./math-lora --out base-with-math
  mixdown fuse ./base ./math-lora ./code-lora --scale 0.7 --scale 0.3 --out both
  mixdown fuse ./base ./style-lora --scale -1 --dtype bfloat16 --out without-style
  mixdown fuse org/base-7b ./math-lora --out base-with-math --push me/base-with-math

Exit status: 0 done, 1 failed, 2 command line wrong, 130 interrupted.")]
pub struct Arguments {
    /// The model: a folder, a file, or an id at the hub
    base: String,
    /// The adapters: folders, or ids at the hub
    #[arg(required = true, value_name = "ADAPTER")]
    adapters: Vec<String>,
    /// Factor of an adapter, 1 by default: once for all of them, or once for each in their order
    #[arg(long = "scale", value_name = "S", allow_negative_numbers = true)]
    scales: Vec<f64>,
    /// Type of the output, for instance bfloat16; that of the base by default
    #[arg(long, value_name = "TYPE")]
    dtype: Option<String>,
    /// Largest file of weights, 5GB by default; 0 for one file. 5B means 5 billion bytes
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    shard_size: Option<u64>,
    /// Read files of models that are links out of the model's folder, which is an error otherwise; those of
    /// the hub's cache are no such links
    #[arg(long)]
    follow_links: bool,
    /// The folder to make
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Put the model into this repository of the hub when it is made, as `mixdown push` does
    #[arg(long, value_name = "ORGANIZATION/NAME")]
    push: Option<String>,
    #[command(flatten)]
    pub running: Running,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let Arguments { base, adapters, scales, dtype, shard_size, follow_links, out, push, running } =
        arguments;
    let terminal = Terminal::of_events(talk, running.json).reading(running.reading);
    let request = FuseRequest {
        base,
        adapters,
        scales,
        dtype,
        out,
        machine: running.machine.of_session(),
        shard_bytes: shard_size,
        force: running.force,
        follow_links,
    };
    let outcome = fused(&request, push, talk, &terminal);
    terminal.tell_of_trouble(&outcome);
    outcome
}

/// Fuses, and puts the output into a repository of the hub where one is named.
fn fused(
    request: &FuseRequest,
    repository: Option<String>,
    talk: Talk,
    terminal: &Terminal,
) -> Outcome {
    let session = terminal.session();
    let push = repository.map(|repository| PushRequest {
        folder: request.out.clone(),
        repository,
        branch: None,
        message: None,
        private: None,
        threads: request.machine.threads(),
    });
    // Known before hours of work.
    if push.is_some() {
        in_folder(&request.out, "what is pushed to the hub")?;
    }
    push.iter().try_for_each(|push| push::check(push, &session))?;
    let merged = fuse(request, &session)?;
    let exit = merge::tell(&merged, terminal, false);
    if let Some(push) = push {
        let commit = push::push(&push, &session)?;
        talk.say(&format!("{}: {}", super::push::said(&commit), shown(&commit.address)));
    }
    Ok(exit)
}
