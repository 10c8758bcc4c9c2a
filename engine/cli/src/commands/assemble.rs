//! `mixdown assemble`: parts become one output.

use std::path::PathBuf;

use clap::Args;
use mixdown_checkpoint::shown_path;
use mixdown_session::parts::assemble::{AssembleRequest, Assembled, assemble};
use mixdown_session::quantity;
use serde_json::{Value, json};

use crate::commands::Outcome;
use crate::commands::merge::summary::quoted;
use crate::exit::Exit;
use crate::stop;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Join the parts of an output that `merge --part` made
///
/// Proves that all parts are there and come from one plan, and gives their folder the bytes that one run
/// would have written. Whole shards are moved; only those that parts have pieces of are copied. The parts are
/// gone when the output is there.
///
/// Bytes of shards that are moved are not read again; `mixdown verify` proves them afterwards.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown merge recipe.yaml --out merged --part 1/2      on one machine
  mixdown merge recipe.yaml --out merged --part 2/2      on another, with the same folders
  mixdown assemble merged                                when both are done

Exit status: 0 done, 1 failed, 2 command line wrong, 130 interrupted.")]
pub struct Arguments {
    /// The folder that was named with --out
    folder: PathBuf,
    /// Remove what else is in the folder
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let terminal = Terminal::of_events(talk, arguments.json);
    let request = AssembleRequest { out: arguments.folder, force: arguments.force };
    let outcome = assemble(&request, &terminal.session());
    let outcome: Outcome = outcome.map(|assembled| {
        tell(&assembled, &terminal);
        Exit::Done
    });
    terminal.tell_of_trouble(&outcome);
    outcome
}

fn tell(assembled: &Assembled, terminal: &Terminal) {
    if terminal.json {
        talk::event(&json_of(assembled));
        return;
    }
    let out = match assembled {
        Assembled::Earlier(out) => {
            terminal.talk.say("there are no parts: the folder is a whole output already");
            out
        }
        Assembled::Now(joined) => {
            let mut text = format!(
                "assembled {}, {}, from {} in {}",
                quantity::count(joined.tensors, "tensor"),
                quantity::bytes(joined.bytes),
                quantity::count(joined.parts, "part"),
                quantity::time(joined.elapsed),
            );
            if joined.bytes_copied > 0 {
                let copied = quantity::bytes(joined.bytes_copied);
                text.push_str(&format!(
                    "; {copied} of shards that parts had pieces of were copied"
                ));
            }
            terminal.talk.say(&text);
            &joined.out
        }
    };
    let shown = quoted(&shown_path(out));
    terminal
        .talk
        .say(&format!("look at it:  mixdown inspect {shown}\nprove it:    mixdown verify {shown}"));
    talk::data(&format!("{}\n", out.display()));
}

/// The same for programs.
pub fn json_of(assembled: &Assembled) -> Value {
    match assembled {
        Assembled::Earlier(out) => {
            json!({"event": "done", "out": out.to_string_lossy(), "parts": null})
        }
        Assembled::Now(joined) => json!({
            "event": "done",
            "out": joined.out.to_string_lossy(),
            "parts": joined.parts,
            "tensors": joined.tensors,
            "bytes": joined.bytes,
            "shards": joined.shards,
            "bytes_copied": joined.bytes_copied,
            "seconds": joined.elapsed.as_secs_f64(),
        }),
    }
}
