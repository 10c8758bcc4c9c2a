//! Names of shards, which say how many there are: `model-00001-of-00002.safetensors`.

use std::collections::BTreeMap;

/// No model has more; a name must not make a list of any length.
const MOST: u32 = 10_000;

/// The parts of a shard's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardName<'a> {
    /// Before the numbers: `model`.
    pub stem: &'a str,
    /// Which one it is, from 1 in most tools.
    pub number: u32,
    /// How many there are.
    pub of: u32,
    /// Digits that both are padded to; 0 where they are not.
    width: usize,
    /// After the numbers, with its dot: `.safetensors`.
    ending: &'a str,
}

impl<'a> ShardName<'a> {
    /// Takes a name apart; nothing if it is not of this form.
    pub fn parse(name: &'a str) -> Option<Self> {
        let (before, after) = name.rsplit_once("-of-")?;
        let (stem, number) = before.rsplit_once('-')?;
        let (of, _) = after.split_once('.')?;
        let ending = &after[of.len()..];
        let width = if number.len() == of.len() && of.starts_with('0') { of.len() } else { 0 };
        let parse = |digits: &str| {
            let plain = digits.len() <= 9 && digits.bytes().all(|digit| digit.is_ascii_digit());
            if plain { digits.parse().ok() } else { None }
        };
        Some(Self { stem, number: parse(number)?, of: parse(of)?, width, ending })
    }
}

/// Whether all names are of shards of one set.
pub(crate) fn are_one_set(names: &[&str]) -> bool {
    let mut sets = names.iter().map(|name| {
        ShardName::parse(name).map(|ShardName { stem, of, ending, .. }| (stem, of, ending))
    });
    let first = sets.next().flatten();
    first.is_some() && sets.all(|set| set == first)
}

/// Names of shards that are missing beside these.
pub(crate) fn missing(weights: &[&str]) -> Vec<String> {
    let mut sets: BTreeMap<(&str, &str, u32, usize), Vec<u32>> = BTreeMap::new();
    for shard in weights.iter().filter_map(|name| ShardName::parse(name)) {
        let ShardName { stem, number, of, width, ending } = shard;
        sets.entry((stem, ending, of, width)).or_default().push(number);
    }
    let mut all = Vec::new();
    for ((stem, ending, of, width), there) in sets {
        if of > MOST {
            continue;
        }
        // Some tools count from 0.
        let first = if there.contains(&0) { 0 } else { 1 };
        let lacking = (first..first + of).filter(|number| !there.contains(number));
        all.extend(
            lacking.map(|number| format!("{stem}-{number:0width$}-of-{of:0width$}{ending}")),
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_say_how_many_they_are() {
        let two = ["pytorch_model-00001-of-00003.bin", "pytorch_model-00003-of-00003.bin"];
        assert_eq!(missing(&two), ["pytorch_model-00002-of-00003.bin"]);
        assert_eq!(missing(&["pytorch_model-2-of-2.bin"]), ["pytorch_model-1-of-2.bin"]);
        assert_eq!(missing(&["pytorch_model.bin", "model.safetensors"]), [""; 0]);
        assert_eq!(missing(&["pytorch_model-1-of-999999999.bin"]), [""; 0]);
        assert_eq!(
            missing(&["model-00001-of-00002.safetensors", "other.safetensors"]),
            ["model-00002-of-00002.safetensors"]
        );
        assert_eq!(missing(&["part-0-of-2.safetensors", "part-1-of-2.safetensors"]), [""; 0]);
    }

    #[test]
    fn two_sets_of_shards_are_complete_by_themselves() {
        let names = ["a-00001-of-00002.safetensors", "b-00002-of-00002.safetensors"];
        let lacking = ["a-00002-of-00002.safetensors", "b-00001-of-00002.safetensors"];
        assert_eq!(missing(&names), lacking);
    }

    #[test]
    fn one_set_has_one_stem_and_count() {
        assert!(are_one_set(&["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]));
        assert!(are_one_set(&["a-00002-of-00002.gguf"]));
        assert!(!are_one_set(&["a-00001-of-00002.gguf", "b-00002-of-00002.gguf"]));
        assert!(!are_one_set(&["a-00001-of-00002.gguf", "a-00001-of-00003.gguf"]));
        assert!(!are_one_set(&["a.gguf", "b.gguf"]) && !are_one_set(&[]));
    }

    #[test]
    fn other_names_are_no_shards() {
        for name in ["model.safetensors", "pytorch_model-a-of-b.bin", "x-of-2.bin", "a-1-of-2"] {
            assert_eq!(ShardName::parse(name), None, "{name}");
        }
        assert_eq!(ShardName::parse("pytorch_model--1-of-3.bin").unwrap().stem, "pytorch_model-");
    }
}
