//! Answers of earlier runs: a folder with a file for each candidate, in mixdown's form or another's.

mod workbook;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::read_given;
use serde_json::Value;

use super::{Answers, Failure, Generator, Task};
use crate::json_lines::LONGEST;
use crate::responses::{self, Ending, Response, missing, shown_ids};

/// What the files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line, as generators write it.
    #[default]
    Responses,
    /// Logs of lmms-eval: `logs[].resps[0][0]`, with the id in `doc_id`.
    LmmsEval,
    /// The same, with the answers as lmms-eval filtered them: `filtered_resps[0]`.
    LmmsEvalFiltered,
    /// Tables of VLMEvalKit, as JSON, CSV, TSV or workbook: `prediction`, with the id in `index`.
    VlmEvalKit,
}

/// The words for these in a search's settings.
pub const WORDS: [(&str, Format); 4] = [
    ("responses", Format::Responses),
    ("lmms-eval", Format::LmmsEval),
    ("lmms-eval-filtered", Format::LmmsEvalFiltered),
    ("vlmevalkit", Format::VlmEvalKit),
];

/// Answers that exist already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayGenerator {
    /// The folder.
    pub folder: PathBuf,
    /// What its files are.
    pub format: Format,
}

impl Generator for ReplayGenerator {
    fn id(&self) -> String {
        "replay".to_owned()
    }

    fn needs_model(&self) -> bool {
        false
    }

    fn answer(&mut self, task: &Task<'_>) -> Answers {
        let asked: Vec<&str> = task.prompts.iter().map(|prompt| prompt.id.as_str()).collect();
        let read = self.file(&task.candidate.folder).and_then(|path| {
            let all = self.read(&path)?;
            let wanted: HashSet<&str> = asked.iter().copied().collect();
            let responses: Vec<Response> =
                all.into_iter().filter(|answer| wanted.contains(answer.id.as_str())).collect();
            match missing(&asked, &responses) {
                missing if missing.is_empty() => Ok(responses),
                missing => {
                    let headline = format!("{} prompts have no answer", missing.len());
                    Err(vec![
                        Diagnostic::error(codes::ANSWERS_WRONG, headline)
                            .fact("missing", shown_ids(&missing))
                            .in_file(path.to_string_lossy()),
                    ])
                }
            }
        });
        match read {
            Ok(responses) => Answers { responses, ..Answers::default() },
            Err(found) => Answers::none(Failure::Found(found)),
        }
    }
}

/// What the file of a candidate can end with.
const ENDINGS: [&str; 5] = ["jsonl", "json", "csv", "tsv", "xlsx"];

impl ReplayGenerator {
    /// The file of a candidate, named like the candidate's folder.
    fn file(&self, candidate: &str) -> Result<PathBuf, Vec<Diagnostic>> {
        let path = |ending: &str| self.folder.join(format!("{candidate}.{ending}"));
        let mut found = ENDINGS.map(path).into_iter().filter(|path| path.is_file());
        if let Some(one) = found.next() {
            let Some(other) = found.next() else { return Ok(one) };
            let headline = format!("there are two files of the candidate {candidate}");
            let error = Diagnostic::error(codes::ANSWERS_WRONG, headline)
                .in_file(one.to_string_lossy())
                .fact("other", other.to_string_lossy())
                .help("remove the one that is not meant");
            return Err(vec![error]);
        }
        let headline = format!("there are no answers of the candidate {candidate}");
        let error = Diagnostic::error(codes::ANSWERS_WRONG, headline)
            .in_file(self.folder.to_string_lossy())
            .fact("looked for", format!("{candidate}.{{{}}}", ENDINGS.join(",")));
        Err(vec![error])
    }

    /// The ids of a candidate's file, for searches that have no prompts.
    pub fn ids(&self, candidate: &str) -> Result<Vec<String>, Vec<Diagnostic>> {
        let path = self.file(candidate)?;
        Ok(self.read(&path)?.into_iter().map(|answer| answer.id).collect())
    }

    fn read(&self, path: &Path) -> Result<Vec<Response>, Vec<Diagnostic>> {
        let shown = path.to_string_lossy().into_owned();
        let fail = |headline: String| {
            vec![Diagnostic::error(codes::ANSWERS_WRONG, headline).in_file(&shown)]
        };
        let text = || {
            read_given(path, LONGEST)
                .map_err(|error| fail(format!("the answers cannot be read: {error}")))
                .and_then(|bytes| {
                    String::from_utf8(bytes).map_err(|error| {
                        let at = error.utf8_error().valid_up_to();
                        fail(format!("the answers are not UTF-8 from byte {at} on"))
                    })
                })
        };
        let ending = path.extension().and_then(|ending| ending.to_str());
        let pairs = match self.format {
            Format::VlmEvalKit if ending == Some("xlsx") => workbook::pairs(path),
            _ if ending == Some("xlsx") => {
                Err("a workbook is read as a table of VLMEvalKit only: `format: vlmevalkit`"
                    .to_owned())
            }
            Format::Responses => {
                // Every id of the file is known to it; what is asked is looked for by the caller.
                let ids = ids_of_lines(&text()?);
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                return responses::read(path, &ids, Ending::Whole);
            }
            Format::LmmsEval => lmms_eval(&text()?, Answer::Raw),
            Format::LmmsEvalFiltered => lmms_eval(&text()?, Answer::Filtered),
            Format::VlmEvalKit => match ending {
                Some("csv") => table(&text()?, ','),
                Some("tsv") => table(&text()?, '\t'),
                _ => records(&text()?),
            },
        };
        let pairs = pairs.map_err(fail)?;
        let mut seen = HashSet::new();
        for (id, _) in &pairs {
            if !seen.insert(id) {
                return Err(fail(format!("`{id}` is answered twice")));
            }
        }
        Ok(pairs.into_iter().map(|(id, text)| Response::stopped(&id, text)).collect())
    }
}

fn ids_of_lines(text: &str) -> Vec<String> {
    let id = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        Some(value.get("id")?.as_str()?.to_owned())
    };
    text.lines().filter_map(id).collect()
}

type Pairs = Result<Vec<(String, String)>, String>;

/// What is no text becomes its JSON text.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[derive(Clone, Copy)]
enum Answer {
    Raw,
    Filtered,
}

/// A log file with `logs`, or one log per line.
fn lmms_eval(text: &str, answer: Answer) -> Pairs {
    let logs: Vec<Value> = match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(logs)) => logs,
        Ok(mut value) if value.get("logs").is_some_and(Value::is_array) => {
            match value["logs"].take() {
                Value::Array(logs) => logs,
                _ => Vec::new(),
            }
        }
        Ok(value) if value.get("doc_id").is_some() => vec![value],
        Ok(_) => return Err("the file has no `logs`".to_owned()),
        Err(_) => lines(text)?,
    };
    let pair = |(position, log): (usize, &Value)| {
        let missing = |key: &str| format!("log {} has no `{key}`", position + 1);
        let id = log.get("doc_id").map(text_of).ok_or_else(|| missing("doc_id"))?;
        let (key, found) = match answer {
            Answer::Raw => ("resps", log.pointer("/resps/0/0")),
            Answer::Filtered => ("filtered_resps", log.pointer("/filtered_resps/0")),
        };
        Ok((id, found.map(text_of).ok_or_else(|| missing(key))?))
    };
    logs.iter().enumerate().map(pair).collect()
}

fn lines(text: &str) -> Result<Vec<Value>, String> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(position, line)| {
            serde_json::from_str(line)
                .map_err(|error| format!("line {} is not JSON: {error}", position + 1))
        })
        .collect()
}

/// A list of rows, or one row per line.
fn records(text: &str) -> Pairs {
    let rows = match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(rows)) => rows,
        _ => lines(text)?,
    };
    let pair = |(position, row): (usize, &Value)| {
        let found = row.get("prediction").map(text_of);
        let id = row.get("index").map_or_else(|| position.to_string(), text_of);
        Ok((id, found.ok_or_else(|| format!("row {} has no `prediction`", position + 1))?))
    };
    rows.iter().enumerate().map(pair).collect()
}

/// Rows of a table with a header. Rows without a column `index` are counted from 0.
fn table(text: &str, separator: char) -> Pairs {
    let mut rows = cells(text, separator)?.into_iter();
    let header = rows.next().unwrap_or_default();
    let column = |name: &str| header.iter().position(|cell| cell.trim() == name);
    let prediction = column("prediction").ok_or("the table has no column `prediction`")?;
    let index = column("index");
    let pair = |(position, row): (usize, Vec<String>)| {
        let cell = |at: usize| row.get(at).cloned();
        let id = index.map_or_else(|| Some(position.to_string()), cell);
        id.zip(cell(prediction)).ok_or_else(|| format!("row {} is too short", position + 1))
    };
    rows.enumerate().map(pair).collect()
}

/// Rows of cells; a cell in quotes may hold separators, line breaks and doubled quotes.
fn cells(text: &str, separator: char) -> Result<Vec<Vec<String>>, String> {
    let mut rows = Vec::new();
    let (mut row, mut cell) = (Vec::new(), String::new());
    let mut in_quotes = false;
    let mut letters = text.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if in_quotes && letters.peek() == Some(&'"') => {
                letters.next();
                cell.push('"');
            }
            '"' if in_quotes => in_quotes = false,
            '"' if cell.is_empty() => in_quotes = true,
            '\r' if !in_quotes && letters.peek() == Some(&'\n') => {}
            '\n' if !in_quotes => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            letter if letter == separator && !in_quotes => row.push(std::mem::take(&mut cell)),
            letter => cell.push(letter),
        }
    }
    if in_quotes {
        return Err("a quote is not closed".to_owned());
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    rows.retain(|row| row.len() > 1 || row.first().is_some_and(|cell| !cell.is_empty()));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(format: Format, name: &str, text: &str, expected: &[(&str, &str)]) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), text).unwrap();
        let replay = ReplayGenerator { folder: folder.path().to_owned(), format };
        let found = replay.read(&replay.file("0.1").unwrap()).unwrap();
        let found: Vec<(&str, &str)> =
            found.iter().map(|answer| (answer.id.as_str(), answer.text.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_forms_of_others_are_read() {
        let log =
            r#"{"args":{},"logs":[{"doc_id":3,"resps":[["Yes "]],"filtered_resps":["yes"]}]}"#;
        check(Format::LmmsEval, "0.1.json", log, &[("3", "Yes ")]);
        check(Format::LmmsEvalFiltered, "0.1.json", log, &[("3", "yes")]);
        let lines = "{\"doc_id\":0,\"resps\":[[\"a\"]]}\n{\"doc_id\":1,\"resps\":[[5]]}\n";
        check(Format::LmmsEval, "0.1.jsonl", lines, &[("0", "a"), ("1", "5")]);
        let rows = r#"[{"index":17,"prediction":"a"},{"prediction":"b"}]"#;
        check(Format::VlmEvalKit, "0.1.json", rows, &[("17", "a"), ("1", "b")]);
        let csv = "index,question,prediction\r\n7,\"a, \"\"b\"\"\nc\",Yes\r\n8,q,\"No, no\"\r\n";
        check(Format::VlmEvalKit, "0.1.csv", csv, &[("7", "Yes"), ("8", "No, no")]);
        check(Format::VlmEvalKit, "0.1.tsv", "prediction\tx\nA\t1\n", &[("0", "A")]);
        let own = r#"{"id":"a","text":"x"}"#;
        check(Format::Responses, "0.1.jsonl", own, &[("a", "x")]);
    }

    #[test]
    fn what_is_missing_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let format = Format::VlmEvalKit;
        let replay = ReplayGenerator { folder: folder.path().to_owned(), format };
        assert!(replay.file("0.1").unwrap_err()[0].headline.contains("0.1"));
        for (text, words) in [
            ("a,b\n1,2\n", "no column `prediction`"),
            ("prediction,index\nx\n", "too short"),
            ("prediction\n\"x\n", "not closed"),
            ("prediction,index\nx,1\ny,1\n", "`1` is answered twice"),
        ] {
            std::fs::write(folder.path().join("0.1.csv"), text).unwrap();
            let found = replay.ids("0.1").unwrap_err();
            assert!(found[0].headline.contains(words), "{found:?}");
        }
        std::fs::write(folder.path().join("0.1.json"), "[]").unwrap();
        let found = replay.ids("0.1").unwrap_err();
        assert!(found[0].headline.contains("two files"), "{found:?}");
    }
}
