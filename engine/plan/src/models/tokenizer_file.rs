//! A tokenizer.json in little more memory than its text takes: tokens and merges, of which there may be
//! millions, lie in one text each, and only the rest is a tree of JSON.

use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A tokenizer.json.
#[derive(Clone, Debug, Default)]
pub struct TokenizerFile {
    /// Everything else. Where tokens and merges stand, there is null.
    pub(crate) frame: Map<String, Value>,
    pub(crate) tokens: Option<TokenList>,
    pub(crate) merges: Option<Merges>,
    /// Whether it stands for files of other kinds, which stay as they are.
    pub(crate) is_apart: bool,
}

/// The tokens of a tokenizer's model.
#[derive(Clone, Debug)]
pub(crate) enum TokenList {
    /// BPE, WordPiece and WordLevel: each with its id.
    Ids(Texts, Vec<u64>),
    /// Unigram: each with its score; the position is the id.
    Scores(Texts, Vec<Number>),
    /// Something else, in words.
    Odd(&'static str),
}

/// The merges of BPE.
#[derive(Clone, Debug, Default)]
pub(crate) struct Merges {
    /// One text for a merge that is written as one, two for a pair.
    texts: Texts,
    /// Whether each is a pair.
    is_pair: Vec<bool>,
}

/// A merge as the file writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge<'a> {
    Line(&'a str),
    Pair(&'a str, &'a str),
}

/// Many texts in one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts {
    all: String,
    /// Where each ends. Files are limited to far less than this counts.
    ends: Vec<u32>,
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.all.push_str(text);
        self.ends.push(self.all.len() as u32);
    }

    pub fn get(&self, position: usize) -> &str {
        let start = if position == 0 { 0 } else { self.ends[position - 1] as usize };
        &self.all[start..self.ends[position] as usize]
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|position| self.get(position))
    }
}

impl Merges {
    pub fn iter(&self) -> impl Iterator<Item = Merge<'_>> {
        let mut at = 0;
        self.is_pair.iter().map(move |&is_pair| {
            let first = self.texts.get(at);
            at += 1 + usize::from(is_pair);
            match is_pair {
                true => Merge::Pair(first, self.texts.get(at - 1)),
                false => Merge::Line(first),
            }
        })
    }
}

/// Bytes that maps of tokens, their rows and what is written take, for each token, and for each merge: as
/// counted on files of a million of each, rounded up.
const TOKEN_BYTES: u64 = 400;
const MERGE_BYTES: u64 = 100;

/// Reads JSON that may have so many values.
///
/// **Errors.** What is no JSON, or has more values.
pub fn json_within(bytes: &[u8], mut most_values: u64) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Tree(&mut most_values).deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

impl TokenizerFile {
    /// Bytes that a value of a tree takes, with its key, about.
    pub const VALUE_BYTES: u64 = 120;

    /// Reads a file, of which the tree that is not tokens and merges may have so many values.
    ///
    /// **Errors.** What is no JSON, or no tokenizer's, or has more values.
    pub fn parse(bytes: &[u8], mut most_values: u64) -> Result<Self, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let mut file = Self::default();
        let frame = Frame { file: &mut file, left: &mut most_values, is_model: false };
        file.frame = frame.deserialize(&mut reader)?;
        reader.end()?;
        if let Some(TokenList::Ids(texts, ids)) = &mut file.tokens {
            keep_last(texts, ids);
        }
        Ok(file)
    }

    /// A tokenizer whose tokens lie in files of other kinds: tokens with their ids, and added ones as tokenizer.json
    /// has them.
    pub fn apart(tokens: Vec<(String, u64)>, added: Vec<Value>, is_of_bytes: bool) -> Self {
        let (mut texts, mut ids) = (Texts::default(), Vec::with_capacity(tokens.len()));
        for (text, id) in &tokens {
            texts.push(text);
            ids.push(*id);
        }
        keep_last(&mut texts, &mut ids);
        let mut frame = Map::new();
        frame.insert("added_tokens".to_owned(), Value::Array(added));
        if is_of_bytes {
            frame.insert("pre_tokenizer".to_owned(), serde_json::json!({"type": "ByteLevel"}));
        }
        let tokens = Some(TokenList::Ids(texts, ids));
        Self { frame, tokens, merges: None, is_apart: true }
    }

    /// Bytes that bringing it together with another one takes at most, about.
    pub fn working_bytes(&self) -> u64 {
        let (tokens, texts) = match &self.tokens {
            Some(TokenList::Ids(texts, _) | TokenList::Scores(texts, _)) => {
                (texts.len(), texts.all.len())
            }
            Some(TokenList::Odd(_)) | None => (0, 0),
        };
        let merges = self.merges.as_ref().map_or(0, |merges| merges.is_pair.len());
        let merged = self.merges.as_ref().map_or(0, |merges| merges.texts.all.len());
        let values: u64 = self.frame.values().map(count).sum();
        tokens as u64 * TOKEN_BYTES
            + merges as u64 * MERGE_BYTES
            + 4 * (texts + merged) as u64
            + values * Self::VALUE_BYTES
    }

    /// Whether its tokens are bytes that are written as letters, as those of GPT-2.
    pub fn is_of_bytes(&self) -> bool {
        fn names(value: &Value) -> bool {
            match value {
                Value::Object(entries) => {
                    entries.get("type").is_some_and(|word| word == "ByteLevel")
                        || entries.values().any(names)
                }
                Value::Array(values) => values.iter().any(names),
                _ => false,
            }
        }
        ["pre_tokenizer", "decoder"].iter().any(|key| self.frame.get(*key).is_some_and(names))
    }

    /// Token and id of each entry, and then of each added token; what cannot be understood is left out.
    pub fn ids(&self) -> HashMap<&str, u64> {
        let mut ids = HashMap::new();
        match &self.tokens {
            Some(TokenList::Ids(texts, numbers)) => {
                ids.extend(texts.iter().zip(numbers.iter().copied()));
            }
            Some(TokenList::Scores(texts, _)) => ids.extend(texts.iter().zip(0..)),
            Some(TokenList::Odd(_)) | None => {}
        }
        for token in self.frame.get("added_tokens").and_then(Value::as_array).into_iter().flatten()
        {
            let (content, id) = (token.get("content"), token.get("id"));
            if let (Some(content), Some(id)) =
                (content.and_then(Value::as_str), id.and_then(Value::as_u64))
            {
                ids.insert(content, id);
            }
        }
        ids
    }
}

/// Values in a tree.
fn count(value: &Value) -> u64 {
    1 + match value {
        Value::Array(values) => values.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

/// Of a key that stands twice in an object the last counts.
fn keep_last(texts: &mut Texts, ids: &mut Vec<u64>) {
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_unstable_by_key(|&at| (texts.get(at as usize), at));
    let is_twice = |pair: &[u32]| texts.get(pair[0] as usize) == texts.get(pair[1] as usize);
    let earlier: Vec<u32> =
        order.windows(2).filter(|pair| is_twice(pair)).map(|pair| pair[0]).collect();
    if earlier.is_empty() {
        return;
    }
    let gone: std::collections::HashSet<u32> = earlier.into_iter().collect();
    let (mut kept, mut kept_ids) = (Texts::default(), Vec::new());
    for (at, (text, id)) in texts.iter().zip(ids.iter()).enumerate() {
        if !gone.contains(&(at as u32)) {
            kept.push(text);
            kept_ids.push(*id);
        }
    }
    (*texts, *ids) = (kept, kept_ids);
}

/// The file itself, or its model: objects of which some entries are read in another way.
struct Frame<'f> {
    file: &'f mut TokenizerFile,
    left: &'f mut u64,
    is_model: bool,
}

impl<'de> DeserializeSeed<'de> for Frame<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Frame<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_model { "a tokenizer's model" } else { "a tokenizer" })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut frame = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = match (self.is_model, key.as_str()) {
                (false, "model") => {
                    let model = Frame { file: self.file, left: self.left, is_model: true };
                    Value::Object(entries.next_value_seed(model)?)
                }
                (true, "vocab") => {
                    self.file.tokens = Some(entries.next_value_seed(Tokens)?);
                    Value::Null
                }
                (true, "merges") => {
                    self.file.merges = entries.next_value_seed(Pairs)?;
                    Value::Null
                }
                _ => entries.next_value_seed(Tree(self.left))?,
            };
            frame.insert(key, value);
        }
        Ok(frame)
    }
}

/// Any value; counts how many may still come.
struct Tree<'l>(&'l mut u64);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        *self.0 = self.0.checked_sub(1).ok_or_else(|| {
            serde::de::Error::custom("it has more values than the memory of the merge allows")
        })?;
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Tree(&mut *self.0))? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            map.insert(key, entries.next_value_seed(Tree(&mut *self.0))?);
        }
        Ok(Value::Object(map))
    }
}

struct Tokens;

impl<'de> DeserializeSeed<'de> for Tokens {
    type Value = TokenList;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tokens {
    type Value = TokenList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tokens with ids, or tokens with scores")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(TokenList::Odd("it has no `model.vocab`"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let (mut texts, mut ids, mut is_odd) = (Texts::default(), Vec::new(), false);
        while entries.next_key_seed(Into(&mut texts))?.is_some() {
            let id = entries.next_value_seed(Whole)?;
            is_odd |= id.is_none();
            ids.push(id.unwrap_or_default());
        }
        Ok(match is_odd {
            true => TokenList::Odd("an id in `model.vocab` is no whole number"),
            false => TokenList::Ids(texts, ids),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let (mut texts, mut scores, mut is_odd) = (Texts::default(), Vec::new(), false);
        while let Some(score) = entries.next_element_seed(Scored(&mut texts))? {
            is_odd |= score.is_none();
            scores.extend(score);
        }
        Ok(match is_odd {
            true => TokenList::Odd("an entry of `model.vocab` is no pair of a token and its score"),
            false => TokenList::Scores(texts, scores),
        })
    }
}

/// A text that is put into others.
struct Into<'t>(&'t mut Texts);

impl<'de> DeserializeSeed<'de> for Into<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Into<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.push(text);
        Ok(())
    }
}

/// A whole number; nothing where it is something else.
struct Whole;

impl<'de> DeserializeSeed<'de> for Whole {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Whole {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id")
    }

    fn visit_u64<E>(self, id: u64) -> Result<Self::Value, E> {
        Ok(Some(id))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self::Value, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Self::Value, A::Error> {
        while values.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// A pair of a token, which is put into others, and its score; nothing where it has more parts.
struct Scored<'t>(&'t mut Texts);

impl<'de> DeserializeSeed<'de> for Scored<'_> {
    type Value = Option<Number>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Scored<'_> {
    type Value = Option<Number>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token with its score")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        if parts.next_element_seed(Into(self.0))?.is_none() {
            return Ok(None);
        }
        let score = parts.next_element::<Number>()?;
        let mut more = 0;
        while parts.next_element::<IgnoredAny>()?.is_some() {
            more += 1;
        }
        Ok(score.filter(|_| more == 0))
    }
}

/// A list of merges, or null.
struct Pairs;

impl<'de> DeserializeSeed<'de> for Pairs {
    type Value = Option<Merges>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pairs {
    type Value = Option<Merges>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("merges")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut merges = Merges::default();
        while let Some(is_pair) = list.next_element_seed(OneMerge(&mut merges.texts))? {
            merges.is_pair.push(is_pair);
        }
        Ok(Some(merges))
    }
}

/// A merge, whose texts are put into others; gives whether it is a pair.
struct OneMerge<'t>(&'t mut Texts);

impl<'de> DeserializeSeed<'de> for OneMerge<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneMerge<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge: two tokens in one text, or a pair of them")
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        self.0.push(text);
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<bool, A::Error> {
        let mut count = 0;
        while parts.next_element_seed(Into(&mut *self.0))?.is_some() {
            count += 1;
        }
        match count {
            2 => Ok(true),
            other => Err(serde::de::Error::invalid_length(other, &"a pair of tokens")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_read() {
        let text =
            br#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 7, "a": 3},
            "merges": ["a b", ["ab", "b"]]}, "added_tokens": [{"id": 9, "content": "<s>"}]}"#;
        let file = TokenizerFile::parse(text, 100).unwrap();
        assert_eq!(file.ids(), HashMap::from([("a", 3), ("b", 7), ("<s>", 9)]));
        let merges: Vec<Merge<'_>> = file.merges.as_ref().unwrap().iter().collect();
        assert_eq!(merges, [Merge::Line("a b"), Merge::Pair("ab", "b")]);
        assert_eq!(file.frame["model"]["vocab"], Value::Null);
        let unigram = br#"{"model": {"vocab": [["x", -1.5], ["y", 0]]}}"#;
        assert_eq!(
            TokenizerFile::parse(unigram, 100).unwrap().ids(),
            HashMap::from([("x", 0), ("y", 1)])
        );
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            "1",
            r#"{"model": 1}"#,
            r#"{"model": {"vocab": 1}}"#,
            r#"{"model": {"merges": [["a"]]}}"#,
            r#"{"model": {"merges": [1]}}"#,
            "{} x",
        ] {
            assert!(TokenizerFile::parse(text.as_bytes(), 100).is_err(), "{text}");
        }
        for text in [
            r#"{"model": {"vocab": {"a": -1}}}"#,
            r#"{"model": {"vocab": {"a": []}}}"#,
            r#"{"model": {"vocab": [["a", 1, 2]]}}"#,
            r#"{"model": {"vocab": [[]]}}"#,
            r#"{"model": {"vocab": null}}"#,
        ] {
            let file = TokenizerFile::parse(text.as_bytes(), 100).unwrap();
            assert!(matches!(file.tokens, Some(TokenList::Odd(_))), "{text}");
        }
    }

    #[test]
    fn the_rest_is_counted() {
        let many = format!(r#"{{"x": [{}]}}"#, vec!["[]"; 99].join(","));
        assert!(TokenizerFile::parse(many.as_bytes(), 100).is_ok());
        assert!(TokenizerFile::parse(many.as_bytes(), 99).is_err());
    }

    /// A file of a million merges takes a few times its size, and not the seventy of a tree.
    #[test]
    fn working_bytes_follow_the_counts() {
        let merges = vec![r#"["a","b"]"#; 1000].join(",");
        let text = format!(r#"{{"model": {{"vocab": {{}}, "merges": [{merges}]}}}}"#);
        let file = TokenizerFile::parse(text.as_bytes(), 100).unwrap();
        let held = file.merges.as_ref().unwrap().texts.all.len();
        assert_eq!(held, 2000);
        let bytes = file.working_bytes();
        assert!((100_000..120_000).contains(&bytes), "{bytes}");
    }
}
