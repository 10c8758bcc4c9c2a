//! Ordinary tokens of other models as ordinary tokens of the output, with the merges of BPE that make them.
//!
//! An added token is looked for in a text before everything else, so that `un` as one is cut out of the midst of
//! words. A token with its merges is what it was: a piece that words come apart into.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value};

use super::tokenizer::{NewToken, Tokens, pair_of, touches};
use super::tokenizer_file::{TokenList, TokenizerFile};

/// What is taken over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Imported<'a> {
    /// New tokens that are no added ones.
    pub tokens: HashSet<&'a str>,
    /// Merges that follow those of the file.
    pub merges: Vec<(&'a str, &'a str)>,
}

/// The new tokens that merges make in the output, too: of models whose tokenizers cut texts alike but for their merges.
///
/// A token is one of them if its own text is put together to it by the file's merges and those that are taken over, in
/// this order; the others stay added tokens. Merges whose parts or whose token the output lacks are left out.
pub(crate) fn imported<'a>(
    ground: &Tokens<'a>,
    others: &[&Tokens<'a>],
    removed: &BTreeSet<u64>,
    new: &[NewToken<'a>],
) -> Imported<'a> {
    let others: Vec<&&Tokens<'a>> = others
        .iter()
        .filter(|other| are_alike(ground.file(), other.file()) && !other.ordinary.is_empty())
        .collect();
    let wanted: HashSet<&'a str> =
        new.iter().filter(|token| token.like.is_none()).map(|token| token.content).collect();
    let in_others = others.iter().flat_map(|other| other.ordinary.values().copied());
    let mut tokens: HashSet<&'a str> = in_others.filter(|token| wanted.contains(token)).collect();
    let (Some(merges), false) = (&ground.file().merges, tokens.is_empty()) else {
        return Imported::default();
    };
    let is_gone = |id: &u64| removed.contains(id);
    let gone: BTreeSet<&str> =
        ground.ordinary.iter().filter(|(id, _)| is_gone(id)).map(|(_, token)| *token).collect();
    let known: HashSet<&'a str> =
        ground.ordinary.iter().filter(|(id, _)| !is_gone(id)).map(|(_, token)| *token).collect();
    let own = merges.iter().filter(|merge| gone.is_empty() || !touches(*merge, &gone));
    let own: Vec<(&'a str, &'a str)> = own.filter_map(pair_of).collect();
    loop {
        let mut ranks: HashMap<(&'a str, &'a str), usize> = HashMap::new();
        for pair in &own {
            let rank = ranks.len();
            ranks.entry(*pair).or_insert(rank);
        }
        let mut merges = Vec::new();
        let theirs = others.iter().filter_map(|other| other.file().merges.as_ref());
        for (left, right) in theirs.flat_map(|merges| merges.iter().filter_map(pair_of)) {
            let is_there = |token: &str| known.contains(token) || tokens.contains(token);
            let made = [left, right].concat();
            if !tokens.contains(made.as_str()) || !is_there(left) || !is_there(right) {
                continue;
            }
            let rank = ranks.len();
            if let std::collections::hash_map::Entry::Vacant(entry) = ranks.entry((left, right)) {
                entry.insert(rank);
                merges.push((left, right));
            }
        }
        let is_char = |token: &str| known.contains(token) || tokens.contains(token);
        let lost: Vec<&'a str> =
            tokens.iter().copied().filter(|token| !is_made(token, &ranks, &is_char)).collect();
        if lost.is_empty() {
            return Imported { tokens, merges };
        }
        lost.iter().for_each(|token| {
            tokens.remove(token);
        });
    }
}

/// Whether two tokenizers of BPE differ in tokens and merges alone, none of which has a mark of its own at the
/// begin or end of words.
fn are_alike(one: &TokenizerFile, other: &TokenizerFile) -> bool {
    let is_plain = |file: &TokenizerFile| {
        matches!(file.tokens, Some(TokenList::Ids(..))) && file.merges.is_some() && !file.is_apart
    };
    const MARKS: [&str; 2] = ["continuing_subword_prefix", "end_of_word_suffix"];
    let model = |file: &TokenizerFile| -> Map<String, Value> {
        let model = file.frame.get("model").and_then(Value::as_object);
        let kept = model.into_iter().flatten();
        let kept = kept.filter(|(key, value)| {
            // What a word without a token becomes differs by id, and what is left out is null.
            *key != "unk_token"
                && !value.is_null()
                && !(MARKS.contains(&key.as_str()) && *value == "")
        });
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let (left, right) = (model(one), model(other));
    is_plain(one)
        && is_plain(other)
        && left == right
        && !MARKS.iter().any(|mark| left.contains_key(*mark))
        && ["normalizer", "pre_tokenizer"].iter().all(|key| {
            let of = |file: &TokenizerFile| {
                file.frame.get(*key).filter(|value| !value.is_null()).cloned()
            };
            of(one) == of(other)
        })
}

/// Whether the text of a token is put together to it: again and again the pair of lowest rank, the first of equal
/// ones, from single characters on.
fn is_made(
    token: &str,
    ranks: &HashMap<(&str, &str), usize>,
    is_char: &dyn Fn(&str) -> bool,
) -> bool {
    let mut ends: Vec<usize> = token.char_indices().map(|(at, _)| at).skip(1).collect();
    ends.push(token.len());
    let mut start = 0;
    for &end in &ends {
        if !is_char(&token[start..end]) {
            return false;
        }
        start = end;
    }
    while ends.len() > 1 {
        let piece = |at: usize| &token[if at == 0 { 0 } else { ends[at - 1] }..ends[at]];
        let pairs = (0..ends.len() - 1)
            .filter_map(|at| ranks.get(&(piece(at), piece(at + 1))).map(|rank| (*rank, at)));
        let Some((_, at)) = pairs.min() else { return false };
        ends.remove(at);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(vocab: &[&str], merges: &Value, normalizer: &Value) -> TokenizerFile {
        let vocab: Map<String, Value> =
            vocab.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), json!(id))).collect();
        let file = json!({
            "normalizer": normalizer,
            "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        });
        TokenizerFile::parse(file.to_string().as_bytes(), u64::MAX).unwrap()
    }

    fn check(
        other: &TokenizerFile,
        new: &[&'static str],
        tokens: &[&str],
        merges: &[(&str, &str)],
    ) {
        let ground = parse(&["a", "b", "c", "ab"], &json!(["a b"]), &Value::Null);
        let (ground, other) = (Tokens::read(&ground).unwrap(), Tokens::read(other).unwrap());
        let new: Vec<NewToken<'_>> =
            new.iter().zip(4..).map(|(content, id)| NewToken { id, content, like: None }).collect();
        let found = imported(&ground, &[&other], &BTreeSet::new(), &new);
        let mut sorted: Vec<&str> = found.tokens.iter().copied().collect();
        sorted.sort_unstable();
        assert_eq!((sorted.as_slice(), found.merges.as_slice()), (tokens, merges));
    }

    #[test]
    fn tokens_come_with_their_merges() {
        let vocab = ["a", "b", "c", "d", "cd", "abcd"];
        let other = parse(&vocab, &json!(["c d", "a b", ["ab", "cd"]]), &Value::Null);
        check(&other, &["d", "cd", "abcd"], &["abcd", "cd", "d"], &[("c", "d"), ("ab", "cd")]);
        // Another normalizer makes other texts.
        let other = parse(&vocab, &json!(["c d"]), &json!({"type": "Lowercase"}));
        check(&other, &["d", "cd"], &[], &[]);
    }

    #[test]
    fn what_the_files_own_merges_prevent_stays_added() {
        // `bc` comes first there, and `ab` here: of `abc` is left `ab c`, and of what is made of it nothing.
        let other = parse(
            &["a", "b", "c", "bc", "abc", "abca"],
            &json!(["b c", "a bc", "abc a"]),
            &Value::Null,
        );
        check(&other, &["bc", "abc", "abca"], &["bc"], &[("b", "c")]);
    }
}
