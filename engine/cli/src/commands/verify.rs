//! `mixdown verify`: proves a merged checkpoint against its manifest.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use mixdown_checkpoint::shown_path;
use mixdown_checkpoint::verify::VerifyReport;
use mixdown_diagnostics::render;
use mixdown_session::verify::{Proven, verified};
use mixdown_session::{Trouble, quantity, threads};
use serde_json::json;

use crate::commands::Outcome;
use crate::exit::{self, Exit};
use crate::stop;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Prove a merged checkpoint against its manifest
///
/// Reads every tensor and file and compares its digest with the one that the merge recorded. Reports
/// what is missing, different, or too much. The exit status is 0 when everything agrees, else 1.
///
/// This proves that the files are what the merge wrote beside this manifest. It does not read the inputs
/// again; and the manifest has no signature, so that whoever changes files and manifest together is not
/// found out.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown verify ./merged             read and compare everything
  mixdown verify ./merged --json      the same for programs
  mixdown verify s3://bucket/merged   read it where it lies")]
pub struct Arguments {
    /// The folder that a merge made, or its address: `s3://`, `gs://`, `az://`, `https://`, `hf://`
    folder: PathBuf,
    /// Threads; all processors by default
    #[arg(long, value_name = "N", env = "MIXDOWN_THREADS", hide_env_values = true)]
    threads: Option<NonZeroUsize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let _careful = stop::carefully();
    let (folder, begun) = (arguments.folder, Instant::now());
    let terminal = Terminal::new(talk);
    match verified(&folder, threads(arguments.threads), &terminal.session()) {
        Ok(proven) if arguments.json => {
            talk::data(&format!("{:#}\n", json_of(&proven)));
        }
        Ok(Proven { report, not_proven }) => {
            let rate = quantity::rate(report.bytes, begun.elapsed());
            talk::data(&format!("{} agrees with its manifest\n", shown_path(&folder)));
            talk.say(&format!("{}, {rate}", text_of(&report)));
            for line in not_proven {
                talk.say(&format!("not proven: {line}"));
            }
        }
        Err(Trouble::Found(found)) if arguments.json => {
            let value = json!({"ok": false, "diagnostics": render::render_json(&found)});
            talk::data(&format!("{value:#}\n"));
            return Ok(exit::of(&found));
        }
        Err(trouble) => return Err(trouble),
    }
    Ok(Exit::Done)
}

fn text_of(report: &VerifyReport) -> String {
    format!(
        "{} of {} in {}, {}",
        quantity::count(report.tensors, "tensor"),
        quantity::bytes(report.bytes),
        quantity::count(report.shards, "shard"),
        quantity::count(report.files, "other file"),
    )
}

/// The same for programs.
pub fn json_of(Proven { report, not_proven }: &Proven) -> serde_json::Value {
    json!({
        "ok": true,
        "tensors": report.tensors,
        "bytes": report.bytes,
        "shards": report.shards,
        "files": report.files,
        "not_proven": not_proven,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_counts_what_was_proven() {
        let report = VerifyReport { tensors: 35, bytes: 4_000_000, shards: 1, files: 6 };
        assert_eq!(text_of(&report), "35 tensors of 4.00 MB in 1 shard, 6 other files");
        let proven = Proven { report, not_proven: Vec::new() };
        assert_eq!(json_of(&proven)["tensors"], 35);
    }
}
