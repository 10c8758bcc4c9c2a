//! Tokens by what they mean, so that those of two tokenizers can be compared.

use std::collections::BTreeMap;

use mixdown_plan::TokenizerFile;
use serde_json::Value;

/// What a token means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Word {
    /// A part of a text.
    Plain(String),
    /// One that begins a word.
    Start(String),
    /// What the tokenizer uses it for, such as ending texts.
    Role(&'static str),
}

/// The ids of each word. Two tokens may mean one.
pub(super) type Words = BTreeMap<Word, Vec<u64>>;

/// In the order in which they count, where a token has several.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The words of a tokenizer, and one more than its highest id. `notes` are the files that say what special tokens are
/// for.
pub(super) fn words(tokenizer: &TokenizerFile, notes: &[Option<&Value>]) -> (Words, u64) {
    let mut roles: BTreeMap<&str, &'static str> = BTreeMap::new();
    for role in ROLES {
        let text = notes.iter().flatten().find_map(|notes| {
            let token = notes.get(role)?;
            token.as_str().or_else(|| token.get("content")?.as_str())
        });
        if let Some(text) = text {
            roles.entry(text).or_insert(role);
        }
    }
    let ids = tokenizer.ids();
    let start = if tokenizer.is_of_bytes() { 'Ġ' } else { '▁' };
    let mut words = Words::new();
    let mut tokens = 0;
    for (text, id) in ids {
        tokens = tokens.max(id + 1);
        let word = match (text.strip_prefix(start), roles.get(text)) {
            (Some(rest), _) => Word::Start(rest.to_owned()),
            (None, Some(role)) => Word::Role(role),
            (None, None) => Word::Plain(text.to_owned()),
        };
        words.entry(word).or_default().push(id);
    }
    words.values_mut().for_each(|ids| ids.sort_unstable());
    (words, tokens)
}

impl Word {
    /// The word as a text.
    pub fn text(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Start(text) => format!(" {text}"),
            Self::Role(role) => (*role).to_owned(),
        }
    }

    /// The same byte in the other spelling: `A` and `<0x41>`.
    pub fn byte(&self) -> Option<Self> {
        let Self::Plain(text) = self else { return None };
        let mut characters = text.chars();
        if let (Some(only), None) = (characters.next(), characters.next()) {
            let byte = u8::try_from(only).ok()?;
            return Some(Self::Plain(format!("<0x{byte:02X}>")));
        }
        let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
        // A sign is a digit to nobody but the parser.
        let is_byte = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| is_byte)?;
        Some(Self::Plain(char::from(byte).to_string()))
    }

    /// Its beginnings that are more than spaces, longest first.
    pub fn beginnings(&self) -> Vec<Self> {
        let (text, make): (&str, fn(String) -> Self) = match self {
            Self::Plain(text) => (text, Self::Plain),
            Self::Start(text) => (text, Self::Start),
            Self::Role(_) => return Vec::new(),
        };
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).collect();
        let beginnings = ends.into_iter().rev().map(|end| &text[..end]);
        beginnings
            .take_while(|beginning| !beginning.trim().is_empty())
            .map(|beginning| make(beginning.to_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_has_two_spellings() {
        let plain = |text: &str| Word::Plain(text.to_owned());
        assert_eq!(plain("A").byte(), Some(plain("<0x41>")));
        assert_eq!(plain("<0x41>").byte(), Some(plain("A")));
        assert_eq!(plain("<0xE9>").byte(), Some(plain("é")));
        for other in ["AB", "<0x4>", "<0xZZ>", "<0x+1>", "", "€"] {
            assert_eq!(plain(other).byte(), None, "{other}");
        }
        assert_eq!(Word::Start("A".to_owned()).byte(), None);
    }

    #[test]
    fn beginnings_are_told_from_the_longest() {
        let plain = |text: &str| Word::Plain(text.to_owned());
        assert_eq!(plain("été").beginnings(), [plain("ét"), plain("é")]);
        assert_eq!(plain("  a").beginnings(), []);
        assert_eq!(Word::Start("ab".to_owned()).beginnings(), [Word::Start("a".to_owned())]);
        assert_eq!(Word::Role("bos_token").beginnings(), []);
    }

    #[test]
    fn a_token_has_its_first_role() {
        let text = br#"{"model": {"type": "BPE", "vocab": {"a": 0, "\u2581b": 1}, "merges": []},
            "added_tokens": [{"id": 2, "content": "<end>"}, {"id": 5, "content": "<s>"}]}"#;
        let tokenizer = TokenizerFile::parse(text, 100).unwrap();
        let notes = serde_json::json!({"bos_token": {"content": "<s>"}, "pad_token": "<end>",
            "eos_token": "<end>"});
        let (words, tokens) = words(&tokenizer, &[Some(&notes), None]);
        assert_eq!(tokens, 6);
        let expected = [
            (Word::Plain("a".to_owned()), vec![0]),
            (Word::Start("b".to_owned()), vec![1]),
            (Word::Role("bos_token"), vec![5]),
            (Word::Role("eos_token"), vec![2]),
        ];
        assert_eq!(words, Words::from(expected));
    }
}
