//! `mixdown convert`: a model in another form.

use std::path::PathBuf;

use clap::Args;
use mixdown_session::convert::{ConvertRequest, convert};

use crate::commands::Outcome;
use crate::commands::merge::{self, Running};
use crate::size;
use crate::stop;
use crate::talk::Talk;
use crate::terminal::Terminal;

/// Write a model in another form: quantized, dequantized, or in another type
///
/// Weights that are stored as codes and scales are what these say, whatever the form. Quantized are the
/// weights of linear layers; norms, routers, embeddings and output layers stay as they are. A recipe does
/// more: `output: {quantize: …}` has rules for tensors, modules and roles, in one pass with a merge.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Forms, as compressed-tensors has them: fp8, int8, int7 to int2, mxfp4, nvfp4;
nf4 as bitsandbytes has it, and with --as bitsandbytes int8;
with --as block-fp8 fp8 as DeepSeek's checkpoints have it, with --as mlx int8, int6 to int2.
Types: bf16, f16, f32. Files for llama.cpp: q4_k_m, q5_k_m, q6_k, q8_0, q4_0 and others, and with --as
gguf also mxfp4, bf16, f16 and f32.

Examples:
  mixdown convert org/model-7b --to fp8 --out model-7b-fp8
  mixdown convert ./model --to int4 --group 64 --fit least_squares --out model-int4
  mixdown convert ./model-fp8 --to bf16 --out model-bf16
  mixdown convert ./model --to q4_k_m --out model-gguf

Exit status: 0 done, 1 failed, 2 command line wrong, 130 interrupted.")]
pub struct Arguments {
    /// The model: a folder, a file, or an id at the hub
    model: String,
    /// The form or type to convert to
    #[arg(long, value_name = "FORM")]
    to: String,
    /// The library whose files it is like: compressed-tensors by default, block-fp8, bitsandbytes, mlx or gguf
    #[arg(long = "as", value_name = "LIBRARY")]
    library: Option<String>,
    /// What shares a scale: tensor, channel, group or block
    #[arg(long, value_name = "SPREAD")]
    scales: Option<String>,
    /// Columns of a group, 128 by default, or 64 as mlx
    #[arg(long, value_name = "N")]
    group: Option<u64>,
    /// Codes with zero points, for weights that lie on one side of zero
    #[arg(long)]
    asymmetric: bool,
    /// How scales of whole numbers are chosen: absmax by default, or least_squares for the least error
    #[arg(long, value_name = "WAY")]
    fit: Option<String>,
    /// Type of what is not quantized, for instance bfloat16; that of the model by default
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
    /// Write what quantizing did to each tensor to this file, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    pub running: Running,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let running = arguments.running;
    let terminal = Terminal::of_events(talk, running.json).reading(running.reading);
    let mut settings = Vec::new();
    settings.extend(arguments.library.map(|library| ("as", library.into())));
    settings.extend(arguments.scales.map(|scales| ("scales", scales.into())));
    settings.extend(arguments.group.map(|group| ("group", group.into())));
    settings.extend(arguments.asymmetric.then(|| ("symmetric", false.into())));
    settings.extend(arguments.fit.map(|fit| ("fit", fit.into())));
    let request = ConvertRequest {
        model: arguments.model,
        to: arguments.to,
        settings,
        dtype: arguments.dtype,
        out: arguments.out,
        machine: running.machine.of_session(),
        shard_bytes: arguments.shard_size,
        force: running.force,
        follow_links: arguments.follow_links,
        report: arguments.report,
    };
    let merged = convert(&request, &terminal.session());
    let outcome = merged.map(|merged| merge::tell(&merged, &terminal, false));
    terminal.tell_of_trouble(&outcome);
    outcome
}
