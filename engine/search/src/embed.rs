//! Vectors of answers, for the objective by angles: made by a program, or by a server over
//! `/v1/embeddings`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::{Value, json};

use crate::generate::Failure;
use crate::http::{Connection, Key, Lost, Reply, TRIES};
use crate::json_lines::{Line, Lines};
use crate::process::{self, Ended, Program};
use crate::responses::shown_ids;

/// The placeholders of the program that makes vectors.
pub const PLACEHOLDERS: [&str; 2] = ["texts", "out"];

/// Texts of one request.
const TEXTS_PER_REQUEST: usize = 32;

/// What makes vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Embed {
    /// A program.
    Command(EmbedCommand),
    /// A server.
    Http(EmbedHttp),
}

/// A program that reads texts and writes vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedCommand {
    /// The program and its arguments, with placeholders.
    pub argv: Vec<String>,
    /// What it may take for one candidate.
    pub timeout: Option<Duration>,
}

/// A server that makes vectors. It runs already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedHttp {
    /// Where it is, up to and without `/v1`.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// The variable of the environment that holds its key.
    pub api_key_env: Option<String>,
    /// What one request may take.
    pub timeout: Duration,
}

/// A text with the name of its prompt.
pub type Named<'a> = (&'a str, &'a str);

type Vectors = HashMap<String, Vec<f64>>;

impl Embed {
    /// Makes sure that it can be asked, before anything is merged.
    pub fn prepare(&self) -> Result<(), Box<Diagnostic>> {
        match self {
            Self::Http(EmbedHttp { api_key_env: Some(variable), .. }) => {
                Key::read(variable).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// The vectors of texts by name, all of one length; it is held against those before.
    pub fn vectors(
        &self,
        texts: &[Named<'_>],
        work: &Path,
        stop: &AtomicBool,
        length: &mut Option<usize>,
    ) -> Result<Vectors, Failure> {
        match self {
            Self::Command(command) => command.vectors(texts, work, stop, length),
            Self::Http(http) => http.vectors(texts, stop, length),
        }
    }
}

impl EmbedCommand {
    fn vectors(
        &self,
        texts: &[Named<'_>],
        work: &Path,
        stop: &AtomicBool,
        length: &mut Option<usize>,
    ) -> Result<Vectors, Failure> {
        let (input, out, log) =
            (work.join("texts.jsonl"), work.join("embeddings.jsonl"), work.join("stderr.txt"));
        let line = |(id, text): &Named<'_>| format!("{}\n", json!({"id": id, "text": text}));
        let _ = std::fs::remove_file(&out);
        std::fs::write(&input, texts.iter().map(line).collect::<String>()).map_err(|error| {
            Diagnostic::error(codes::WRITE_FAILED, format!("texts cannot be written: {error}"))
                .in_file(input.to_string_lossy())
        })?;
        let shown = [&input, &out].map(|path| process::absolute(path).display().to_string());
        let values = [("texts", shown[0].as_str()), ("out", shown[1].as_str())];
        let argv = process::fill(&self.argv, &values);
        let name = argv.first().cloned().unwrap_or_default();
        let program = Program { argv, environment: &[], log: &log, stdout: None };
        match program.run(self.timeout, stop)? {
            Ended::Exited(status) if status.success() => {}
            Ended::Interrupted => return Err(Failure::Interrupted),
            ended => {
                let headline = format!("`{name}` made no vectors");
                return Err(process::failure(headline, ended, &log).into());
            }
        }
        let asked: Vec<&str> = texts.iter().map(|(id, _)| *id).collect();
        read(&out, &asked, length).map_err(Failure::Found)
    }
}

/// Reads a file of vectors.
fn read(
    path: &Path,
    asked: &[&str],
    length: &mut Option<usize>,
) -> Result<Vectors, Vec<Diagnostic>> {
    let mut lines = Lines::open(path, codes::ANSWERS_WRONG).map_err(|error| vec![*error])?;
    let mut found = Vectors::new();
    for line in lines.objects() {
        let Some(id) = lines.text(&line, "id").map(str::to_owned) else { continue };
        if !asked.contains(&id.as_str()) {
            lines.report(line.number, format!("`{id}` was not asked"));
            continue;
        }
        let Some(vector) = of_line(&line) else {
            let headline = format!("the `embedding` of `{id}` must be a list of numbers");
            lines.report(line.number, headline);
            continue;
        };
        if let Err(error) = same_length(&id, &vector, length) {
            lines.explain(line.number, *error);
        }
        if found.insert(id.clone(), vector).is_some() {
            lines.report(line.number, format!("`{id}` is there twice"));
        }
    }
    let missing: Vec<&str> = asked.iter().copied().filter(|id| !found.contains_key(*id)).collect();
    if !missing.is_empty() && lines.found.is_empty() {
        let error = Diagnostic::error(codes::ANSWERS_WRONG, "texts have no vector");
        let name = lines.source.name().to_owned();
        lines.keep(error.in_file(name).fact("missing", shown_ids(&missing)));
    }
    if lines.found.is_empty() { Ok(found) } else { Err(lines.found) }
}

fn of_line(line: &Line) -> Option<Vec<f64>> {
    numbers(line.object.get("embedding")?)
}

fn numbers(value: &Value) -> Option<Vec<f64>> {
    value.as_array()?.iter().map(Value::as_f64).collect()
}

fn same_length(
    id: &str,
    vector: &[f64],
    length: &mut Option<usize>,
) -> Result<(), Box<Diagnostic>> {
    let before = *length.get_or_insert(vector.len());
    if vector.len() == before {
        return Ok(());
    }
    let headline = format!("the vector of `{id}` has another length");
    let error = Diagnostic::error(codes::ANSWERS_WRONG, headline)
        .fact("before", before.to_string())
        .fact("here", vector.len().to_string());
    Err(Box::new(error))
}

impl EmbedHttp {
    fn vectors(
        &self,
        texts: &[Named<'_>],
        stop: &AtomicBool,
        length: &mut Option<usize>,
    ) -> Result<Vectors, Failure> {
        let key = self.api_key_env.as_deref().map(Key::read).transpose()?;
        let connection = Connection::new(&self.base_url, self.timeout, key);
        let mut found = Vectors::new();
        for texts in texts.chunks(TEXTS_PER_REQUEST) {
            let input: Vec<&str> = texts.iter().map(|(_, text)| *text).collect();
            let body = json!({"model": self.model, "input": input, "encoding_format": "float"});
            let names: Vec<&str> = texts.iter().map(|(id, _)| *id).collect();
            let fail = |headline: &str| {
                Diagnostic::error(codes::GENERATOR_FAILED, headline)
                    .fact("server", &connection.base_url)
                    .fact("texts", shown_ids(&names))
            };
            let reply = connection.post("/v1/embeddings", &body.to_string(), stop, &|| false);
            let text = match reply {
                Ok(Reply::Body(text)) => text,
                Ok(Reply::Refused(reason)) => {
                    return Err(fail("the server made no vectors").fact("found", reason).into());
                }
                Err(Lost::Away(last)) => {
                    let error = fail("the server of vectors did not answer");
                    let error = error.fact("tries", TRIES.to_string()).fact("last", last);
                    let help =
                        "run the same command again: the answers that there are will be kept";
                    return Err(error.help(help).into());
                }
                Err(Lost::Interrupted | Lost::Ended) => return Err(Failure::Interrupted),
            };
            let vectors =
                understand(&text, texts.len(), &self.model).map_err(|(wanted, what)| {
                    let found = what.unwrap_or_else(|| connection.shown(&text));
                    fail("the server's vectors cannot be used")
                        .fact("expected", wanted)
                        .fact("found", found)
                })?;
            for (id, vector) in names.iter().zip(vectors) {
                same_length(id, &vector, length)?;
                found.insert((*id).to_owned(), vector);
            }
        }
        Ok(found)
    }
}

/// The vectors of a reply, in the order of the texts; else what was expected, and what was found if
/// that can be told shorter than by the reply.
fn understand(
    text: &str,
    count: usize,
    model: &str,
) -> Result<Vec<Vec<f64>>, (String, Option<String>)> {
    let wrong = |wanted: &str| (wanted.to_owned(), None);
    let value: Value = serde_json::from_str(text).map_err(|_| wrong("JSON"))?;
    // Some servers say nothing of the model.
    if let Some(other) = value.get("model").and_then(Value::as_str).filter(|other| *other != model)
    {
        return Err((format!("vectors of {model}"), Some(format!("vectors of {other}"))));
    }
    let data = value.get("data").and_then(Value::as_array).ok_or_else(|| wrong("a list `data`"))?;
    if data.len() != count {
        return Err((format!("{count} vectors"), Some(data.len().to_string())));
    }
    let mut vectors: Vec<Option<Vec<f64>>> = vec![None; count];
    for entry in data {
        let index = entry.get("index").and_then(Value::as_u64);
        let index = index.and_then(|index| usize::try_from(index).ok());
        let place = index.and_then(|index| vectors.get_mut(index));
        let place = place.ok_or_else(|| wrong("`index` of a text in each vector"))?;
        if place.is_some() {
            let found = format!("text {} twice", index.unwrap_or_default());
            return Err(("one vector of each text".to_owned(), Some(found)));
        }
        let vector = entry.get("embedding").and_then(numbers).filter(|vector| !vector.is_empty());
        *place = Some(vector.ok_or_else(|| wrong("numbers in each `embedding`"))?);
    }
    Ok(vectors.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_taken_by_their_index() {
        let reply = r#"{"model":"m","data":[{"index":1,"embedding":[0,1]},{"index":0,"embedding":[1,0.5]}]}"#;
        assert_eq!(understand(reply, 2, "m").unwrap(), [[1.0, 0.5], [0.0, 1.0]]);
        let nameless = r#"{"data":[{"index":0,"embedding":[2]}]}"#;
        assert_eq!(understand(nameless, 1, "m").unwrap(), [[2.0]]);
    }

    #[test]
    fn replies_that_are_no_vectors_are_told() {
        let one = r#"{"index":0,"embedding":[1]}"#;
        for (data, count, wanted, found) in [
            (format!("[{one}]"), 2, "2 vectors", Some("1")),
            (format!("[{one},{one}]"), 2, "one vector of each text", Some("text 0 twice")),
            (r#"[{"index":5,"embedding":[1]}]"#.into(), 1, "`index` of a text", None),
            (r#"[{"embedding":[1]}]"#.into(), 1, "`index` of a text", None),
            (r#"[{"index":0,"embedding":[]}]"#.into(), 1, "numbers in each", None),
            (r#"[{"index":0,"embedding":["a"]}]"#.into(), 1, "numbers in each", None),
            (r#"[{"index":0,"embedding":"AAAA"}]"#.into(), 1, "numbers in each", None),
            ("7".into(), 1, "a list `data`", None),
        ] {
            let error = understand(&format!("{{\"data\":{data}}}"), count, "m").unwrap_err();
            assert!(error.0.starts_with(wanted), "{data}: {error:?}");
            assert_eq!(error.1.as_deref(), found, "{data}");
        }
        assert_eq!(understand("<html>", 1, "m").unwrap_err().0, "JSON");
        let other = format!(r#"{{"model":"n","data":[{one}]}}"#);
        assert_eq!(understand(&other, 1, "m").unwrap_err().1.unwrap(), "vectors of n");
    }
}
