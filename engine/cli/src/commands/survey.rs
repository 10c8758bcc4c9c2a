//! `mixdown survey`: whether experts can be merged, and why not.

use std::path::PathBuf;

use clap::Args;
use mixdown_checkpoint::{shown, shown_path, stored};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_session::survey::{SurveyRequest, survey};
use serde_json::Value;

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::machine::Machine;
use crate::stop;
use crate::table::{Align, Table};
use crate::reading::Reading;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Measure whether experts can be merged, and why not
///
/// Reads the base and its experts once, within the memory budget, and tells what each expert adds: its norm
/// beside the base's (the drift), the sizes of changes, what only one expert changed; of each two experts the
/// cosine, the signs that disagree, and the energy in common directions. Beside each finding stands what the
/// papers say of it, and drift of the size at which merges fail is a warning.
///
/// Experts are whole models, adapters, quantized models, in any mixture; the result depends on neither threads
/// nor memory.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown survey org/base-7b org/math-7b org/code-7b
  mixdown survey org/base-7b ./math-lora org/base-7b+./code-lora --out survey.html
  mixdown survey base math code --json --no-spectra

Exit status: 0 done, 1 failed, 2 command line wrong, 130 interrupted.")]
pub struct Arguments {
    /// What the experts were made from: a folder, a file, or an id at the hub
    base: String,
    /// The experts: models, or adapters on the base, or BASE+ADAPTER
    #[arg(required = true)]
    experts: Vec<String>,
    /// Write all of it as one page for a browser to this file
    #[arg(long, short, value_name = "PAGE")]
    out: Option<PathBuf>,
    /// Leave out the directions of task vectors, which cost most of the time
    #[arg(long)]
    no_spectra: bool,
    /// Follow links in a model's folder that lead out of it, which are an error otherwise; those of the hub's
    /// cache are no such links
    #[arg(long)]
    follow_links: bool,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    machine: Machine,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show no progress and no warnings
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let terminal = Terminal::new(talk).reading(arguments.reading);
    let session = terminal.session();
    let Arguments { base, experts, out, no_spectra, follow_links, machine, json, .. } = arguments;
    let (spectra, machine) = (!no_spectra, machine.of_session());
    let request = SurveyRequest { base, experts, spectra, machine, follow_links };
    let _careful = stop::carefully();
    let found = survey(&request, &session)?;
    session.warn(&found.warnings);
    if let Some(path) = &out {
        stored::write_named(path, found.page().as_bytes()).map_err(|error| {
            let headline = format!("the page cannot be written: {error}");
            Diagnostic::error(codes::WRITE_FAILED, headline).in_file(shown_path(path))
        })?;
        session.notice(&format!("wrote {}", shown_path(path)));
    }
    match (json, &out) {
        (true, _) => talk::data(&format!("{:#}\n", found.document)),
        (false, None) => talk::data(&text(&found.document)),
        (false, Some(_)) => {}
    }
    Ok(Exit::Done)
}

/// All that fits into a terminal.
fn text(document: &Value) -> String {
    let word = |value: &Value| shown(value.as_str().unwrap_or_default()).into_owned();
    let mut experts = Table::new(&[
        ("expert", Align::Left),
        ("drift", Align::Right),
        ("norm", Align::Right),
        ("rms", Align::Right),
        ("changed", Align::Right),
        ("alone", Align::Right),
        ("equal", Align::Right),
        ("missing", Align::Right),
    ]);
    for expert in list(&document["experts"]) {
        experts.row([
            word(&expert["name"]),
            percent(&expert["relative"]),
            number(&expert["norm"]),
            number(&expert["rms"]),
            percent(&expert["changed"]),
            percent(&expert["only"]),
            expert["tensors_equal"].to_string(),
            expert["tensors_missing"].to_string(),
        ]);
    }
    let mut text = experts.text("");
    if !list(&document["pairs"]).is_empty() {
        let mut pairs = Table::new(&[
            ("pair", Align::Left),
            ("cosine", Align::Right),
            ("opposite signs", Align::Right),
            ("shared energy", Align::Right),
        ]);
        for pair in list(&document["pairs"]) {
            let cosine = pair["cosine"].as_f64();
            pairs.row([
                format!("{}, {}", word(&pair["first"]), word(&pair["second"])),
                cosine.map_or_else(|| "-".to_owned(), |cosine| format!("{cosine:.4}")),
                percent(&pair["sign_conflicts"]),
                percent(&pair["shared_energy"]),
            ]);
        }
        text.push_str(&format!("\n{}", pairs.text("")));
    }
    for finding in list(&document["findings"]) {
        let mark = if finding["level"] == "warning" { "! " } else { "" };
        text.push_str(&format!(
            "\n{mark}{}: {}\n  {}\n",
            word(&finding["about"]),
            // Made of our words and of names that are fit to be shown.
            finding["measured"].as_str().unwrap_or_default(),
            finding["papers"].as_str().unwrap_or_default()
        ));
    }
    text
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn percent(value: &Value) -> String {
    let share = value.as_f64();
    share.map_or_else(|| "-".to_owned(), mixdown_session::survey::percent)
}

fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.3e}"))
}
