//! What is needed of a tokenizer.json: its tokens and ids, and the same file with tokens taken out or added.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// A tokenizer's tokens.
#[derive(Clone, Debug)]
pub(crate) struct Tokens<'a> {
    file: &'a Value,
    /// Ordinary entries, by id.
    pub ordinary: BTreeMap<u64, String>,
    /// Added and special tokens, by id, as the file has them.
    pub added: BTreeMap<u64, (String, &'a Value)>,
}

impl<'a> Tokens<'a> {
    /// Of a checkpoint that has no tokens.
    pub fn none() -> Self {
        static NOTHING: Value = Value::Null;
        Self { file: &NOTHING, ordinary: BTreeMap::new(), added: BTreeMap::new() }
    }

    /// Reads a tokenizer.json; an error says in words what it lacks.
    pub fn read(file: &'a Value) -> Result<Self, String> {
        let vocabulary = file.get("model").and_then(|model| model.get("vocab"));
        let ordinary = match vocabulary {
            // BPE, WordPiece and WordLevel map tokens to ids.
            Some(Value::Object(entries)) => entries
                .iter()
                .map(|(token, id)| Some((id.as_u64()?, token.clone())))
                .collect::<Option<_>>()
                .ok_or("an id in `model.vocab` is no whole number")?,
            // Unigram lists pairs of token and score; the position is the id.
            Some(Value::Array(entries)) => entries
                .iter()
                .enumerate()
                .map(|(id, entry)| Some((id as u64, entry.get(0)?.as_str()?.to_owned())))
                .collect::<Option<_>>()
                .ok_or("an entry of `model.vocab` has no token")?,
            _ => return Err("it has no `model.vocab`".to_owned()),
        };
        let mut added = BTreeMap::new();
        for entry in file.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let id = entry.get("id").and_then(Value::as_u64);
            let content = entry.get("content").and_then(Value::as_str);
            let (Some(id), Some(content)) = (id, content) else {
                return Err("an added token has no id or no content".to_owned());
            };
            added.insert(id, (content.to_owned(), entry));
        }
        Ok(Self { file, ordinary, added })
    }

    /// All tokens with their ids; where an ordinary and an added token share an id they are one.
    pub fn ids(&self) -> BTreeMap<&str, u64> {
        let ordinary = self.ordinary.iter().map(|(id, token)| (token.as_str(), *id));
        ordinary.chain(self.added.iter().map(|(id, (token, _))| (token.as_str(), *id))).collect()
    }

    /// The file with tokens of these ids taken out and others added at the end.
    pub fn edited(&self, removed: &BTreeSet<u64>, new: &[NewToken<'_>]) -> Value {
        let mut file = self.file.clone();
        let gone: BTreeSet<&str> =
            removed.iter().filter_map(|id| self.ordinary.get(id)).map(String::as_str).collect();
        if let Some(model) = file.get_mut("model").and_then(Value::as_object_mut) {
            match model.get_mut("vocab") {
                Some(Value::Object(entries)) => {
                    entries.retain(|_, id| id.as_u64().is_none_or(|id| !removed.contains(&id)));
                }
                Some(Value::Array(entries)) => {
                    let mut id = 0;
                    entries.retain(|_| {
                        id += 1;
                        !removed.contains(&(id - 1))
                    });
                }
                _ => {}
            }
            if let (Some(Value::Array(merges)), false) = (model.get_mut("merges"), gone.is_empty())
            {
                merges.retain(|merge| !touches(merge, &gone));
            }
        }
        if let Some(Value::Array(entries)) = file.get_mut("added_tokens") {
            let id = |entry: &Value| entry.get("id").and_then(Value::as_u64);
            entries.retain(|entry| id(entry).is_none_or(|id| !removed.contains(&id)));
        }
        if !new.is_empty()
            && let Some(file) = file.as_object_mut()
        {
            let list = file.entry("added_tokens").or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.extend(new.iter().map(NewToken::entry));
            }
        }
        file
    }
}

/// Whether a merge of BPE reads or makes one of these tokens.
fn touches(merge: &Value, gone: &BTreeSet<&str>) -> bool {
    let pair = match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
            _ => None,
        },
        _ => None,
    };
    pair.is_some_and(|(left, right)| {
        gone.contains(left)
            || gone.contains(right)
            || gone.contains(format!("{left}{right}").as_str())
    })
}

/// A token appended to a tokenizer.
#[derive(Clone, Debug)]
pub(crate) struct NewToken<'a> {
    pub id: u64,
    pub content: String,
    /// Its entry in the tokenizer that it comes from, if it was an added token there.
    pub like: Option<&'a Value>,
}

impl NewToken<'_> {
    fn entry(&self) -> Value {
        let mut entry = match self.like {
            Some(Value::Object(like)) => like.clone(),
            _ => Map::from_iter(
                ["single_word", "lstrip", "rstrip", "normalized", "special"]
                    .map(|key| (key.to_owned(), json!(false))),
            ),
        };
        entry.insert("id".to_owned(), json!(self.id));
        entry.insert("content".to_owned(), json!(self.content));
        Value::Object(entry)
    }

    /// What tokenizer_config.json says about it.
    pub fn decoder_entry(&self) -> Value {
        let mut entry = self.entry();
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("id");
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Value {
        json!({
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "abb": 3}, "merges": ["a b", ["ab", "b"]]},
            "added_tokens": [{"id": 4, "content": "<s>", "special": true}],
        })
    }

    #[test]
    fn tokens_are_read_from_both_lists() {
        let file = file();
        let tokens = Tokens::read(&file).unwrap();
        assert_eq!(
            tokens.ids(),
            BTreeMap::from([("a", 0), ("b", 1), ("ab", 2), ("abb", 3), ("<s>", 4)])
        );
        let unigram = json!({"model": {"vocab": [["x", -1.0], ["y", -2.0]]}});
        assert_eq!(Tokens::read(&unigram).unwrap().ids(), BTreeMap::from([("x", 0), ("y", 1)]));
        assert!(Tokens::read(&json!({})).is_err());
    }

    #[test]
    fn a_removed_token_takes_its_merges_along() {
        let file = file();
        let tokens = Tokens::read(&file).unwrap();
        let edited = tokens.edited(&BTreeSet::from([3, 4]), &[]);
        assert_eq!(edited["model"]["vocab"], json!({"a": 0, "b": 1, "ab": 2}));
        assert_eq!(edited["model"]["merges"], json!(["a b"]));
        assert_eq!(edited["added_tokens"], json!([]));
    }

    #[test]
    fn an_added_token_keeps_its_nature() {
        let file = file();
        let tokens = Tokens::read(&file).unwrap();
        let like = &file["added_tokens"][0];
        let new = NewToken { id: 5, content: "<e>".to_owned(), like: Some(like) };
        let edited = tokens.edited(&BTreeSet::new(), &[new]);
        assert_eq!(edited["added_tokens"][1], json!({"id": 5, "content": "<e>", "special": true}));
    }
}
