//! Tokenizers that lie in other files than tokenizer.json: the pieces of a sentencepiece model, the ranks of
//! tiktoken, and the vocabulary of GPT-2's form. Their tokens and ids are read; the files stay as they are.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mixdown_diagnostics::Diagnostic;
use mixdown_plan::TokenizerFile;
use serde_json::{Map, Value, json};

use super::tokens::Budget;
use crate::models::Model;
use crate::pieces;

/// Files that hold the tokens of a tokenizer, the first that is there counts.
const NAMED: [&str; 4] = ["tokenizer.model", "spiece.model", "tiktoken.model", "vocab.json"];

/// The end of names of other such files, as Qwen's first models have one.
const RANKS: &str = ".tiktoken";

/// The tokenizer of a folder without tokenizer.json, and the name of the file that it is in; none if there is none
/// that can be read.
pub(super) fn tokenizer(
    budget: &Budget,
    model: &Model,
    config: Option<&Value>,
) -> Result<Option<(TokenizerFile, String)>, Box<Diagnostic>> {
    let mut names: Vec<String> = NAMED.iter().map(|name| (*name).to_owned()).collect();
    names.extend(of_ranks(&model.checkpoint.root));
    for name in names {
        let Some(bytes) = budget.read(model, &name)? else { continue };
        let found = match name.ends_with(".json") {
            true => of_vocabulary(&bytes),
            false => of_pieces(&bytes).or_else(|| of_tiktoken(&bytes)),
        };
        let Some((tokens, is_of_bytes)) = found else { continue };
        let added = added(budget, model, config)?;
        return Ok(Some((TokenizerFile::apart(tokens, added, is_of_bytes), name)));
    }
    Ok(None)
}

/// Names of files of ranks, in order.
fn of_ranks(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(RANKS)).collect();
    names.sort_unstable();
    names
}

/// Tokens with their ids, and whether they are bytes that are written as letters.
type Tokens = (Vec<(String, u64)>, bool);

fn of_pieces(bytes: &[u8]) -> Option<Tokens> {
    let pieces = pieces::read(bytes)?;
    Some((pieces.into_iter().map(|piece| piece.text).zip(0..).collect(), false))
}

fn of_vocabulary(bytes: &[u8]) -> Option<Tokens> {
    let ids: BTreeMap<String, u64> = serde_json::from_slice(bytes).ok()?;
    let is_of_bytes = ids.keys().any(|token| token.starts_with('Ġ'));
    Some((ids.into_iter().collect(), is_of_bytes))
}

/// Lines of a token's bytes in base 64 and its rank, which is its id.
fn of_tiktoken(bytes: &[u8]) -> Option<Tokens> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut tokens = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (token, rank) = line.trim().split_once(' ')?;
        let letters = STANDARD.decode(token).ok()?.into_iter().map(letter).collect();
        tokens.push((letters, rank.trim().parse().ok()?));
    }
    (!tokens.is_empty()).then_some((tokens, true))
}

/// The letter that stands for a byte in the vocabulary of GPT-2: what is shown stands for itself, and the others are
/// the letters from 256 on, in order.
fn letter(byte: u8) -> char {
    let is_shown = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match is_shown(byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|&other| !is_shown(other)).count() as u32;
            char::from_u32(256 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    }
}

/// Added tokens, as tokenizer_config.json and added_tokens.json tell them.
fn added(
    budget: &Budget,
    model: &Model,
    config: Option<&Value>,
) -> Result<Vec<Value>, Box<Diagnostic>> {
    let mut all: BTreeMap<u64, Value> = BTreeMap::new();
    let plain = |id: u64, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false})
    };
    if let Some(Value::Object(ids)) = budget.json(model, ADDED)? {
        for (token, id) in &ids {
            if let Some(id) = id.as_u64() {
                all.insert(id, plain(id, token));
            }
        }
    }
    let decoder = config.and_then(|config| config.get("added_tokens_decoder")?.as_object());
    for (id, entry) in decoder.into_iter().flatten() {
        let (Ok(id), Some(entry)) = (id.parse::<u64>(), entry.as_object()) else { continue };
        let Some(content) = entry.get("content").and_then(Value::as_str) else { continue };
        let mut whole = plain(id, content);
        if let Some(fields) = whole.as_object_mut() {
            let known: Map<String, Value> = entry.clone();
            fields.extend(known.into_iter().filter(|(key, _)| key != "__type"));
        }
        all.insert(id, whole);
    }
    Ok(all.into_values().collect())
}

/// Where tokenizers without tokenizer.json keep their added tokens.
pub(super) const ADDED: &str = "added_tokens.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_read_as_letters() {
        // "a", a space and "b", the byte 0xFF, and "é".
        let (tokens, is_of_bytes) = of_tiktoken(b"YQ== 0\nIGI= 1\n/w== 2\nw6k= 7\n\n").unwrap();
        let wanted = [("a", 0), ("Ġb", 1), ("ÿ", 2), ("Ã©", 7)];
        assert!(is_of_bytes);
        assert_eq!(tokens, wanted.map(|(token, id)| (token.to_owned(), id)));
        assert_eq!((letter(0), letter(b'\n'), letter(0xAD)), ('Ā', 'Ċ', 'Ń'));
        for other in ["a b c", "", "*** 1", "YQ== x", "one"] {
            assert!(of_tiktoken(other.as_bytes()).is_none(), "{other}");
        }
    }
}
