//! Texts as what a model makes of them, by mixdown's own program for small text models.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

use super::embedded::{EmbeddedGenerator, PROGRAM};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Representation {
    /// The numbers of the tokens.
    Tokens,
    /// The numbers of the tokens, without the one that begins texts.
    Parts,
    /// Before each layer the state at the last token.
    LastState,
    /// Before each layer the mean of the states.
    MeanState,
}

/// For each text its tokens, one list of numbers, or a state for each layer.
///
/// **Errors.** The program is in none of the folders, or cannot do it: a model that it does not run, a folder
/// without `tokenizer.json`.
pub fn represent(
    programs: &[PathBuf],
    model: &Path,
    texts: &[String],
    what: Representation,
) -> Result<Vec<Vec<Vec<f64>>>, Box<Diagnostic>> {
    let program = EmbeddedGenerator::default().program(programs)?;
    let failed = |why: String| {
        let headline = format!("`{PROGRAM}` cannot tell what the model makes of the prompts");
        Box::new(Diagnostic::error(codes::GENERATOR_FAILED, headline).note(why))
    };
    let word = match what {
        Representation::Tokens => "tokens",
        Representation::Parts => "parts",
        Representation::LastState => "last",
        Representation::MeanState => "mean",
    };
    let mut child = Command::new(&program)
        .args(["--prompts", "-", "--out", "-", "--represent", word, "--model"])
        .arg(model)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let mut lines = String::new();
    for text in texts {
        lines += &Value::from(text.as_str()).to_string();
        lines.push('\n');
    }
    // The program reads all of it before it answers; where it ends early, its own words say why.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(lines.as_bytes());
    }
    let done = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !done.status.success() {
        return Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned()));
    }
    let answers = String::from_utf8_lossy(&done.stdout);
    let found: Option<Vec<Vec<Vec<f64>>>> = answers.lines().map(answer).collect();
    match found {
        Some(found) if found.len() == texts.len() => Ok(found),
        _ => Err(failed("its answers are not understood".to_owned())),
    }
}

fn answer(line: &str) -> Option<Vec<Vec<f64>>> {
    let found: Value = serde_json::from_str(line).ok()?;
    let numbers = |list: &Value| list.as_array()?.iter().map(Value::as_f64).collect();
    match found.get("tokens") {
        Some(tokens) => Some(vec![numbers(tokens)?]),
        None => found.get("layers")?.as_array()?.iter().map(numbers).collect(),
    }
}
