//! The labelled objective: a program that prints how good a merged model is.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::read_limited;
use serde_json::Value;

use crate::generate::Failure;
use crate::grid::Candidate;
use crate::process::{self, Ended, Program};

/// Longest output that is read as a score.
const LONGEST_SCORE: u64 = 1 << 20;

/// The placeholders of its command.
pub const PLACEHOLDERS: [&str; 1] = ["model_dir"];

/// A program that scores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// The program and its arguments, with placeholders.
    pub argv: Vec<String>,
    /// What a user calls this version of it; scores of another version are not used again.
    pub version: String,
    /// What one run may take.
    pub timeout: Option<Duration>,
    /// Which scores are good.
    pub goal: Goal,
}

/// Which scores are good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// High ones.
    #[default]
    Maximize,
    /// Low ones.
    Minimize,
}

/// The words for these in a search's settings.
pub const GOALS: [(&str, Goal); 2] = [("maximize", Goal::Maximize), ("minimize", Goal::Minimize)];

impl Score {
    /// What a score depends on beside the model.
    pub fn id(&self) -> String {
        format!("score {:?} {:?}", self.version, self.argv)
    }

    /// Scores a model.
    pub fn run(
        &self,
        candidate: &Candidate,
        model_dir: &Path,
        model_key: &str,
        work: &Path,
        stop: &AtomicBool,
    ) -> Result<f64, Failure> {
        let (log, printed) = (work.join("stderr.txt"), work.join("stdout.txt"));
        let model_dir = process::absolute(model_dir).display().to_string();
        let label = candidate.label.as_str();
        let program = Program {
            argv: process::fill(&self.argv, &[("model_dir", &model_dir)]),
            environment: &[("MIXDOWN_ALPHA", label), ("MIXDOWN_MODEL_KEY", model_key)],
            log: &log,
            stdout: Some(&printed),
        };
        let ended = program.run(self.timeout, stop)?;
        match ended {
            Ended::Interrupted => return Err(Failure::Interrupted),
            Ended::Exited(status) if status.success() => {}
            _ => {
                let name = self.argv.first().map_or("", String::as_str);
                let headline = format!("`{name}` gave no score of {label}");
                return Err(process::failure(headline, ended, &log).into());
            }
        }
        let text = read_limited(&printed, LONGEST_SCORE).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        parse(&text).ok_or_else(|| {
            let shown: String = text.trim().chars().take(200).collect();
            Diagnostic::error(codes::ANSWERS_WRONG, format!("the score of {label} is no number"))
                .in_file(printed.to_string_lossy())
                .fact("expected", "a number, or {\"score\": number}")
                .fact("found", if shown.is_empty() { "nothing".to_owned() } else { shown })
                .into()
        })
    }

    /// The scores as what is least for the best.
    pub fn as_loss(&self, score: f64) -> f64 {
        match self.goal {
            Goal::Maximize => -score,
            Goal::Minimize => score,
        }
    }
}

/// A finite number, alone or under the key `score`.
fn parse(text: &str) -> Option<f64> {
    let value: Value = serde_json::from_str(text.trim()).ok()?;
    let number = value.get("score").unwrap_or(&value).as_f64()?;
    number.is_finite().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_scores() {
        assert_eq!(parse("0.25\n"), Some(0.25));
        assert_eq!(parse("{\"score\": 3, \"n\": 7}"), Some(3.0));
        for text in ["", "NaN", "1e999", "accuracy 0.5", "{\"score\": \"3\"}", "1 2"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
