//! The answers: one JSON object per line, exactly one for each prompt that was asked.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::read_given;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::json_lines::{LONGEST, Line, Lines};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended it.
    Stop,
    /// It had as many tokens as it may have.
    Length,
    /// There is no answer.
    Error,
}

/// An answer to one prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The prompt's name.
    pub id: String,
    /// What was answered, as it was decoded.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Its tokens, where they were counted.
    pub tokens: Option<u64>,
    /// What went wrong.
    pub error: Option<String>,
}

impl Response {
    /// An answer that the model ended itself.
    pub fn stopped(id: &str, text: impl Into<String>) -> Self {
        let finish_reason = FinishReason::Stop;
        Self { id: id.to_owned(), text: text.into(), finish_reason, tokens: None, error: None }
    }

    /// There is no answer, for this reason.
    pub fn failed(id: &str, reason: impl Into<String>) -> Self {
        let finish_reason = FinishReason::Error;
        let error = Some(reason.into());
        Self { id: id.to_owned(), text: String::new(), finish_reason, tokens: None, error }
    }

    /// Whether there is no answer.
    pub fn is_error(&self) -> bool {
        self.finish_reason == FinishReason::Error
    }

    /// The answer as a line of a file.
    pub fn to_line(&self) -> String {
        json!(self).to_string()
    }
}

/// How a file of answers came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its writer ended well: the file is all there is.
    Whole,
    /// Its writer was stopped: the last line counts only if it has its end.
    BrokenOff,
}

/// Reads the answers to the prompts of these names. Some may be missing; [`missing`] tells them.
pub fn read(path: &Path, asked: &[&str], ending: Ending) -> Result<Vec<Response>, Vec<Diagnostic>> {
    let mut bytes = match read_given(path, LONGEST) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let headline = format!("the answers cannot be read: {error}");
            let error = Diagnostic::error(codes::UNREADABLE, headline);
            return Err(vec![error.in_file(path.to_string_lossy())]);
        }
    };
    if ending == Ending::BrokenOff {
        let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(end);
    }
    let lines = Lines::new(&path.to_string_lossy(), bytes, codes::ANSWERS_WRONG);
    parse(lines.map_err(|error| vec![*error])?, asked)
}

fn parse(mut lines: Lines, asked: &[&str]) -> Result<Vec<Response>, Vec<Diagnostic>> {
    let asked: HashSet<&str> = asked.iter().copied().collect();
    let mut first: HashMap<String, u32> = HashMap::new();
    let mut responses = Vec::new();
    for line in lines.objects() {
        let Some(response) = response(&mut lines, &line) else { continue };
        if !asked.contains(response.id.as_str()) {
            lines.report(line.number, format!("`{}` was not asked", response.id));
        } else if let Some(first) = first.get(&response.id) {
            let headline = format!("`{}` is answered twice", response.id);
            let error = Diagnostic::error(codes::ANSWERS_WRONG, headline);
            lines.explain(line.number, error.note(format!("first on line {first}")));
        } else {
            first.insert(response.id.clone(), line.number);
            responses.push(response);
        }
    }
    if lines.found.is_empty() { Ok(responses) } else { Err(lines.found) }
}

fn response(lines: &mut Lines, line: &Line) -> Option<Response> {
    let id = lines.text(line, "id")?.to_owned();
    let finish_reason = match line.object.get("finish_reason") {
        // A writer that says nothing of it had no reason to stop early.
        None | Some(Value::Null) => FinishReason::Stop,
        Some(value) => match serde_json::from_value(value.clone()) {
            Ok(reason) => reason,
            Err(_) => {
                let headline = format!(
                    "the `finish_reason` of `{id}` must be `stop`, `length` or `error`, found {value}"
                );
                lines.report(line.number, headline);
                return None;
            }
        },
    };
    let text = match line.object.get("text") {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) if finish_reason == FinishReason::Error => String::new(),
        Some(other) => other.to_string(),
        None => {
            lines.report(line.number, format!("the answer to `{id}` has no `text`"));
            return None;
        }
    };
    let tokens = line.object.get("tokens").and_then(Value::as_u64);
    let error = match line.object.get("error") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    Some(Response { id, text, finish_reason, tokens, error })
}

/// The names that were asked and have no answer.
pub fn missing<'a>(asked: &[&'a str], responses: &[Response]) -> Vec<&'a str> {
    let known: HashSet<&str> = responses.iter().map(|response| response.id.as_str()).collect();
    asked.iter().copied().filter(|id| !known.contains(id)).collect()
}

/// Names in a message: the first few, and how many more there are.
pub fn shown_ids(ids: &[&str]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = ids.iter().take(SHOWN).map(|id| format!("`{id}`")).collect();
    match ids.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Response>, Vec<Diagnostic>> {
        let lines = Lines::new("answers.jsonl", text.into(), codes::ANSWERS_WRONG);
        parse(lines.map_err(|error| vec![*error])?, &["a", "b"])
    }

    #[track_caller]
    fn refused(text: &str, words: &str) {
        let found = read_text(text).unwrap_err();
        let all = mixdown_diagnostics::render::render_all(
            &found,
            mixdown_diagnostics::render::Color::Plain,
        );
        assert!(all.contains(words), "{all}");
    }

    #[test]
    fn answers_are_read_in_any_order() {
        let text = r#"{"id":"b","text":"No ","finish_reason":"length","tokens":1,"error":null}
{"id":"a","text":7}
"#;
        let found = read_text(text).unwrap();
        assert_eq!(found[0].text, "No ", "nothing is trimmed");
        assert_eq!(found[0].finish_reason, FinishReason::Length);
        assert_eq!(found[1], Response::stopped("a", "7"), "what is no text becomes its JSON");
        assert_eq!(missing(&["a", "b", "c"], &found), ["c"]);
        let error = read_text(r#"{"id":"a","finish_reason":"error","error":"no memory"}"#).unwrap();
        assert!(error[0].is_error() && error[0].error.as_deref() == Some("no memory"));
        assert_eq!(read_text(&found[0].to_line()).unwrap()[0], found[0]);
    }

    #[test]
    fn what_does_not_agree_is_named_with_its_line() {
        let a = r#"{"id":"a","text":"x"}"#;
        refused(&format!("{a}\n{a}\n"), "`a` is answered twice");
        refused(&format!("{a}\n{a}\n"), "answers.jsonl:2:1");
        refused(r#"{"id":"z","text":"x"}"#, "`z` was not asked");
        refused(r#"{"id":"a"}"#, "no `text`");
        refused(r#"{"text":"a"}"#, "no `id`");
        refused(r#"{"id":"a","text":"x","finish_reason":"end"}"#, "`stop`, `length` or `error`");
        refused("{\"id\":\"a\",", "answers.jsonl:1:");
    }

    #[test]
    fn a_line_that_broke_off_is_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        assert!(read(&path, &["a"], Ending::Whole).unwrap().is_empty(), "nothing was written");
        std::fs::write(&path, "{\"id\":\"a\",\"text\":\"x\"}\n{\"id\":\"b\",\"te").unwrap();
        assert_eq!(read(&path, &["a", "b"], Ending::BrokenOff).unwrap().len(), 1);
        assert!(read(&path, &["a", "b"], Ending::Whole).is_err());
    }

    #[test]
    fn many_names_are_cut() {
        assert_eq!(shown_ids(&["a", "b"]), "`a`, `b`");
        assert!(shown_ids(&["x"; 11]).ends_with("and 3 more"));
    }
}
