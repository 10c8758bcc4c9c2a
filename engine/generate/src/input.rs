//! A prompt as what the model takes: one embedding after the other.

use std::path::Path;

use mixdown_checkpoint::open;
use mixdown_search::prompts::Prompt;
use serde_json::{Value, json};

use crate::model::Model;
use crate::text::Text;
use crate::weights::Loader;

/// The embeddings of a prompt, or why there are none.
///
/// **Shapes.** `[n, hidden]` with `n` at least 1.
pub fn embeddings(model: &Model, text: &Text, prompt: &Prompt) -> Result<Vec<f32>, String> {
    let mut x = Vec::new();
    for piece in pieces(text, prompt)? {
        match piece {
            Piece::Ids(ids) => {
                for id in ids {
                    let row = model.embed(id);
                    x.extend(row.ok_or_else(|| format!("the model has no token {id}"))?);
                }
            }
            Piece::Embeds(part) => x.extend(rows(&part, model.config.hidden)?),
        }
    }
    match x.is_empty() {
        true => Err("the prompt has no tokens".to_owned()),
        false => Ok(x),
    }
}

/// Tokens, or embeddings that were computed elsewhere.
enum Piece {
    Ids(Vec<u32>),
    Embeds(Value),
}

fn pieces(text: &Text, prompt: &Prompt) -> Result<Vec<Piece>, String> {
    if !prompt.input_ids.is_empty() {
        let piece = |item: &Value| match item.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Piece::Ids(vec![id]),
            None => Piece::Embeds(item.clone()),
        };
        return Ok(prompt.input_ids.iter().map(piece).collect());
    }
    let (messages, embeds) = with_marks(&prompt.messages)?;
    let rendered = text.of_messages(&messages)?;
    let mut pieces = Vec::new();
    let mut rest = rendered.as_str();
    for (number, part) in embeds.into_iter().enumerate() {
        let (before, after) = rest
            .split_once(&mark(number))
            .ok_or("the chat template does not keep the places of embeddings")?;
        pieces.push(Piece::Ids(text.encode(before, number == 0)?));
        pieces.push(Piece::Embeds(part));
        rest = after;
    }
    let is_first = pieces.is_empty();
    pieces.push(Piece::Ids(text.encode(rest, is_first)?));
    Ok(pieces)
}

/// What stands in the text for embeddings: letters that no text has, and that no template changes.
fn mark(number: usize) -> String {
    format!("\u{f8f0}{number}\u{f8f1}")
}

/// Messages with text alone, and the embeddings whose places are marked in it.
fn with_marks(messages: &[Value]) -> Result<(Vec<Value>, Vec<Value>), String> {
    let mut embeds = Vec::new();
    let mut told = Vec::new();
    for message in messages {
        let mut content = String::new();
        match &message["content"] {
            Value::Array(parts) => {
                for part in parts {
                    match part["type"].as_str() {
                        Some("text") => content += part["text"].as_str().unwrap_or_default(),
                        Some("embeds") => {
                            content += &mark(embeds.len());
                            embeds.push(part.clone());
                        }
                        kind => {
                            let kind = kind.unwrap_or("unknown");
                            return Err(format!("content of type `{kind}` is not read here"));
                        }
                    }
                }
            }
            text => content += text.as_str().unwrap_or_default(),
        }
        told.push(json!({"role": message["role"], "content": content}));
    }
    Ok((told, embeds))
}

fn rows(part: &Value, hidden: usize) -> Result<Vec<f32>, String> {
    let path = part["path"].as_str().unwrap_or_default();
    let tensor = part["tensor"].as_str().unwrap_or_default();
    let first = |found: &[mixdown_diagnostics::Diagnostic]| {
        let headline = found.first().map_or("it cannot be read", |error| error.headline.as_str());
        format!("the embeddings in `{path}` are not used: {headline}")
    };
    let checkpoint = open(Path::new(path), None).map_err(|found| first(&found))?;
    let mut loader = Loader::new(&checkpoint);
    let rows = loader.rows(tensor, hidden);
    rows.ok_or_else(|| first(&loader.found))
}
