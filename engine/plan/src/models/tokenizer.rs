//! What is needed of a tokenizer.json: its tokens and ids, and the same file with tokens taken out or added.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::OnceLock;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Map, Value, json};

use crate::models::imported::Imported;
use crate::models::tokenizer_file::{Merge, Merges, TokenList, TokenizerFile};

/// A tokenizer's tokens.
#[derive(Clone, Debug)]
pub(crate) struct Tokens<'a> {
    file: &'a TokenizerFile,
    /// Ordinary entries, by id.
    pub ordinary: BTreeMap<u64, &'a str>,
    /// Added and special tokens, by id, as the file has them.
    pub added: BTreeMap<u64, (&'a str, &'a Value)>,
}

impl<'a> Tokens<'a> {
    /// Of a checkpoint that has no tokens.
    pub fn none() -> Self {
        static NOTHING: OnceLock<TokenizerFile> = OnceLock::new();
        let file = NOTHING.get_or_init(TokenizerFile::default);
        Self { file, ordinary: BTreeMap::new(), added: BTreeMap::new() }
    }

    /// The tokens of a tokenizer.json; an error says in words what it lacks.
    pub fn read(file: &'a TokenizerFile) -> Result<Self, String> {
        let ordinary = match &file.tokens {
            Some(TokenList::Ids(texts, ids)) => ids.iter().copied().zip(texts.iter()).collect(),
            Some(TokenList::Scores(texts, _)) => (0..).zip(texts.iter()).collect(),
            Some(TokenList::Odd(words)) => return Err((*words).to_owned()),
            None => return Err("it has no `model.vocab`".to_owned()),
        };
        let mut added = BTreeMap::new();
        for entry in added_tokens(file) {
            let id = entry.get("id").and_then(Value::as_u64);
            let content = entry.get("content").and_then(Value::as_str);
            let (Some(id), Some(content)) = (id, content) else {
                return Err("an added token has no id or no content".to_owned());
            };
            added.insert(id, (content, entry));
        }
        Ok(Self { file, ordinary, added })
    }

    /// All tokens with their ids; where an ordinary and an added token share an id they are one.
    pub fn ids(&self) -> BTreeMap<&'a str, u64> {
        let ordinary = self.ordinary.iter().map(|(id, token)| (*token, *id));
        ordinary.chain(self.added.iter().map(|(id, (token, _))| (*token, *id))).collect()
    }

    /// Whether the tokens lie in files of other kinds than tokenizer.json, which stay as they are.
    pub fn is_apart(&self) -> bool {
        self.file.is_apart
    }

    /// What they were read from.
    pub fn file(&self) -> &'a TokenizerFile {
        self.file
    }

    /// The file with tokens of these ids taken out and others added at the end; those that are imported as ordinary
    /// ones.
    pub fn edited<'e>(
        &'e self,
        removed: &'e BTreeSet<u64>,
        new: &'e [NewToken<'e>],
        imported: &'e Imported<'e>,
    ) -> Edited<'e> {
        let gone = removed.iter().filter_map(|id| self.ordinary.get(id)).copied().collect();
        Edited { tokens: self, removed, gone, new, imported }
    }
}

fn added_tokens(file: &TokenizerFile) -> impl Iterator<Item = &Value> {
    file.frame.get("added_tokens").and_then(Value::as_array).into_iter().flatten()
}

/// A tokenizer.json that is written with other tokens; nothing of it is copied before.
pub(crate) struct Edited<'e> {
    tokens: &'e Tokens<'e>,
    removed: &'e BTreeSet<u64>,
    /// The texts of what is removed.
    gone: BTreeSet<&'e str>,
    new: &'e [NewToken<'e>],
    imported: &'e Imported<'e>,
}

impl Edited<'_> {
    /// Tokens that follow those of the file's model. Added ones are among them where others are imported: programs
    /// number what they do not find there behind all that they do.
    fn more(&self) -> impl Iterator<Item = (&str, u64)> {
        let Self { tokens, removed, new, imported, .. } = self;
        let is_asked = !imported.tokens.is_empty();
        let added = tokens.added.iter().filter(move |(id, _)| {
            is_asked && !removed.contains(id) && !tokens.ordinary.contains_key(id)
        });
        let added = added.map(|(id, (token, _))| (*token, *id));
        added.chain(new.iter().filter(move |_| is_asked).map(|token| (token.content, token.id)))
    }
}

impl Serialize for Edited<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const ADDED: &str = "added_tokens";
        let frame = &self.tokens.file.frame;
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in frame {
            match (key.as_str(), value) {
                ("model", Value::Object(model)) => map.serialize_entry(key, &Model(self, model))?,
                (ADDED, Value::Array(entries)) => {
                    map.serialize_entry(key, &Added(self, entries))?
                }
                _ => map.serialize_entry(key, value)?,
            }
        }
        if !self.new.is_empty() && !frame.contains_key(ADDED) {
            map.serialize_entry(ADDED, &Added(self, &[]))?;
        }
        map.end()
    }
}

struct Model<'e>(&'e Edited<'e>, &'e Map<String, Value>);

impl Serialize for Model<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(edited, model) = self;
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in *model {
            match (key.as_str(), &edited.tokens.file.tokens, &edited.tokens.file.merges) {
                ("vocab", Some(tokens), _) => map.serialize_entry(key, &List(edited, tokens))?,
                ("merges", _, Some(merges)) => map.serialize_entry(key, &Pairs(edited, merges))?,
                _ => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    }
}

struct List<'e>(&'e Edited<'e>, &'e TokenList);

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stays = |id: &u64| !self.0.removed.contains(id);
        match self.1 {
            TokenList::Ids(texts, ids) => {
                let mut map = serializer.serialize_map(None)?;
                for (text, id) in texts.iter().zip(ids).filter(|(_, id)| stays(id)) {
                    map.serialize_entry(text, id)?;
                }
                for (text, id) in self.0.more() {
                    map.serialize_entry(text, &id)?;
                }
                map.end()
            }
            TokenList::Scores(texts, scores) => {
                let mut list = serializer.serialize_seq(None)?;
                let entries = texts.iter().zip(scores).zip(0..);
                for (entry, _) in entries.filter(|(_, id)| stays(id)) {
                    list.serialize_element(&entry)?;
                }
                list.end()
            }
            TokenList::Odd(_) => serializer.serialize_unit(),
        }
    }
}

struct Pairs<'e>(&'e Edited<'e>, &'e Merges);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let gone = &self.0.gone;
        for merge in self.1.iter().filter(|merge| gone.is_empty() || !touches(*merge, gone)) {
            match merge {
                Merge::Line(text) => list.serialize_element(text)?,
                Merge::Pair(left, right) => list.serialize_element(&(left, right))?,
            }
        }
        // In the file's own way, of which there is but one.
        let are_lines = matches!(self.1.iter().next(), Some(Merge::Line(_)));
        for (left, right) in &self.0.imported.merges {
            match are_lines {
                true => list.serialize_element(&format!("{left} {right}"))?,
                false => list.serialize_element(&(left, right))?,
            }
        }
        list.end()
    }
}

struct Added<'e>(&'e Edited<'e>, &'e [Value]);

impl Serialize for Added<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(edited, entries) = self;
        let id = |entry: &Value| entry.get("id").and_then(Value::as_u64);
        let stays = |entry: &&Value| id(entry).is_none_or(|id| !edited.removed.contains(&id));
        let mut list = serializer.serialize_seq(None)?;
        entries.iter().filter(stays).try_for_each(|entry| list.serialize_element(entry))?;
        let new = edited.new.iter().filter(|new| !edited.imported.tokens.contains(new.content));
        new.into_iter().try_for_each(|new| list.serialize_element(&new.entry()))?;
        list.end()
    }
}

/// JSON for people, with a line's end at the end. Its length is counted first, so that a large one is held once.
pub(crate) fn pretty(value: &impl Serialize) -> String {
    struct Counter(usize);
    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    let counted = serde_json::to_writer_pretty(&mut counter, value);
    let mut text = Vec::with_capacity(counter.0 + 1);
    // Maps with texts as keys can always be written, and so can a text in memory.
    let _ = counted.and_then(|()| serde_json::to_writer_pretty(&mut text, value));
    text.push(b'\n');
    String::from_utf8(text).unwrap_or_default()
}

/// The two tokens that a merge of BPE puts together.
pub(crate) fn pair_of(merge: Merge<'_>) -> Option<(&str, &str)> {
    match merge {
        Merge::Line(text) => text.split_once(' '),
        Merge::Pair(left, right) => Some((left, right)),
    }
}

/// Whether a merge of BPE reads or makes one of these tokens.
pub(crate) fn touches(merge: Merge<'_>, gone: &BTreeSet<&str>) -> bool {
    pair_of(merge).is_some_and(|(left, right)| {
        gone.contains(left)
            || gone.contains(right)
            || gone.contains(format!("{left}{right}").as_str())
    })
}

/// A token appended to a tokenizer.
#[derive(Clone, Debug)]
pub(crate) struct NewToken<'a> {
    pub id: u64,
    pub content: &'a str,
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

    fn parse(file: &Value) -> TokenizerFile {
        TokenizerFile::parse(file.to_string().as_bytes(), u64::MAX).unwrap()
    }

    fn file() -> Value {
        json!({
            "version": "1.0",
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "abb": 3}, "merges": ["a b", ["ab", "b"]]},
            "added_tokens": [{"id": 4, "content": "<s>", "special": true}],
        })
    }

    fn edited(tokens: &Tokens<'_>, removed: &[u64], new: &[NewToken<'_>]) -> Value {
        let removed = removed.iter().copied().collect();
        serde_json::from_str(&pretty(&tokens.edited(&removed, new, &Imported::default()))).unwrap()
    }

    #[test]
    fn tokens_are_read_from_both_lists() {
        let file = parse(&file());
        let tokens = Tokens::read(&file).unwrap();
        assert_eq!(
            tokens.ids(),
            BTreeMap::from([("a", 0), ("b", 1), ("ab", 2), ("abb", 3), ("<s>", 4)])
        );
        let unigram = parse(&json!({"model": {"vocab": [["x", -1.0], ["y", -2.0]]}}));
        assert_eq!(Tokens::read(&unigram).unwrap().ids(), BTreeMap::from([("x", 0), ("y", 1)]));
        assert!(Tokens::read(&parse(&json!({}))).is_err());
    }

    /// What is not changed is written as a tree of the whole file would be.
    #[test]
    fn a_file_is_written_as_it_was() {
        for value in [
            file(),
            json!({"model": {"vocab": [["x", -1.5], ["y", 0]], "merges": null}, "added_tokens": null}),
            json!({"model": {"vocab": {}, "merges": []}, "added_tokens": [], "other": {"a": [1.0, {}]}}),
        ] {
            let file = parse(&value);
            let tokens = Tokens::read(&file).unwrap();
            let text = pretty(&tokens.edited(&BTreeSet::new(), &[], &Imported::default()));
            assert_eq!(text, serde_json::to_string_pretty(&value).unwrap() + "\n");
        }
    }

    #[test]
    fn a_removed_token_takes_its_merges_along() {
        let file = parse(&file());
        let tokens = Tokens::read(&file).unwrap();
        let edited = edited(&tokens, &[3, 4], &[]);
        assert_eq!(edited["model"]["vocab"], json!({"a": 0, "b": 1, "ab": 2}));
        assert_eq!(edited["model"]["merges"], json!(["a b"]));
        assert_eq!(edited["added_tokens"], json!([]));
    }

    #[test]
    fn an_added_token_keeps_its_nature() {
        let value = file();
        let file = parse(&value);
        let tokens = Tokens::read(&file).unwrap();
        let new = NewToken { id: 5, content: "<e>", like: Some(&value["added_tokens"][0]) };
        let edited = edited(&tokens, &[], &[new]);
        assert_eq!(edited["added_tokens"][1], json!({"id": 5, "content": "<e>", "special": true}));
    }
}
