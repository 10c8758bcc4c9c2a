//! Kinds of layers that a config does not list, because they follow from a layer's position: every fourth has
//! full attention, every second slides. Layers that are stacked anew stand elsewhere, so that the list is
//! written which the family reads, or the stack is refused where it reads none.
//!
//! `schemas/layers/positions.json` has the families, from the configurations of transformers 5.24.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let text = include_str!("../../../../schemas/layers/positions.json");
    serde_json::from_str(text).expect("the rules are without mistakes, which a test holds")
});

/// What some families compute from the position of a layer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// `model_type` of the part; several where families agree. Empty: the period's own key tells.
    #[serde(default)]
    families: Vec<String>,
    /// The list that the families read. None: they read no list.
    list: Option<String>,
    /// Whether the list holds the numbers of the layers of the first kind, and not one entry for each layer.
    #[serde(default)]
    is_numbers: bool,
    /// Keys that say more than the position.
    #[serde(default)]
    unless: Vec<String>,
    /// The first that fits a layer is its kind.
    kinds: Vec<Kind>,
    /// The kind of all other layers.
    #[serde(default)]
    others: Value,
}

/// Which layers are of one kind: all conditions that are stated must hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kind {
    /// The entry of the list, or a word for people where there is none.
    kind: Value,
    /// The period.
    every: Option<Number>,
    /// The remainder; the period less 1 where nothing is stated.
    at: Option<Number>,
    /// Only layers below this one.
    before: Option<Number>,
    /// Only layers from this one on, and the period is counted from here.
    after: Option<Number>,
    /// Only the last layer.
    #[serde(default)]
    is_last: bool,
    /// Whether layers are counted from the last, which is 0.
    #[serde(default)]
    is_from_end: bool,
}

/// A number, or the key that holds it with what it is where the config leaves it out.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Fixed(u64),
    Key { key: String, default: Option<u64> },
}

impl Number {
    fn key(&self) -> Option<&str> {
        match self {
            Self::Fixed(_) => None,
            Self::Key { key, .. } => Some(key),
        }
    }

    fn of(&self, part: &Map<String, Value>) -> Option<u64> {
        match self {
            Self::Fixed(number) => Some(*number),
            Self::Key { key, default } => part.get(key).and_then(Value::as_u64).or(*default),
        }
    }
}

/// A [`Kind`] with the numbers of a config.
#[derive(Debug)]
struct Pattern {
    period: Option<u64>,
    offset: u64,
    before: u64,
    after: u64,
    is_last: bool,
    is_from_end: bool,
}

impl Pattern {
    /// Nothing where the config lacks a number, or has none that layers can follow.
    fn of(kind: &Kind, part: &Map<String, Value>) -> Option<Self> {
        let number = |number: &Option<Number>, other: u64| match number {
            None => Some(other),
            Some(number) => number.of(part),
        };
        let period = match &kind.every {
            None => None,
            Some(every) => Some(every.of(part).filter(|period| *period > 0)?),
        };
        Some(Self {
            period,
            offset: number(&kind.at, period.map_or(0, |period| period - 1))?,
            before: number(&kind.before, u64::MAX)?,
            after: number(&kind.after, 0)?,
            is_last: kind.is_last,
            is_from_end: kind.is_from_end,
        })
    }

    fn fits(&self, layer: u64, count: u64) -> bool {
        let layer = if self.is_from_end { count.saturating_sub(layer + 1) } else { layer };
        let Some(place) = layer.checked_sub(self.after) else { return false };
        layer < self.before
            && (!self.is_last || layer + 1 == count)
            && self.period.is_none_or(|period| place % period == self.offset)
    }
}

/// The kinds of layers in a stack that no list names.
#[derive(Debug)]
pub(super) struct Positional {
    rule: &'static Rule,
    patterns: Vec<Pattern>,
    /// Layers before.
    count: u64,
}

impl Positional {
    /// All rules that hold for this part of a config. `outer` is the `model_type` of the whole.
    pub fn of(part: &Map<String, Value>, outer: Option<&str>, count: u64) -> Vec<Self> {
        let family = part.get("model_type").and_then(Value::as_str).or(outer);
        let mut found: Vec<Self> = Vec::new();
        for rule in RULES.iter() {
            let is_family = |own: &String| Some(own.as_str()) == family;
            if !rule.families.is_empty() && !rule.families.iter().any(is_family) {
                continue;
            }
            // A list that is there says more than the position, and so does a rule of the family.
            let is_said = |name: &String| part.get(name).is_some_and(|value| !value.is_null());
            if rule.list.iter().chain(&rule.unless).any(is_said)
                || found.iter().any(|known| known.is_about(rule))
            {
                continue;
            }
            let patterns = rule.kinds.iter().map(|kind| Pattern::of(kind, part)).collect();
            let Some(patterns) = patterns else { continue };
            found.push(Self { rule, patterns, count });
        }
        found
    }

    /// Whether a later rule says the same of the same list or by the same key.
    fn is_about(&self, other: &Rule) -> bool {
        let list = self.rule.list.is_some() && self.rule.list == other.list;
        list || keys(other).any(|key| keys(self.rule).any(|own| own == key))
            && other.families.is_empty()
    }

    /// What tells the kinds, for people.
    pub fn key(&self) -> &'static str {
        keys(self.rule).next().or(self.rule.list.as_deref()).unwrap_or("model_type")
    }

    /// Whether the list says what this key says: how many layers at the start differ.
    pub fn says(&self, key: &str) -> bool {
        let before = self.rule.kinds.iter().filter_map(|kind| kind.before.as_ref()?.key());
        self.rule.list.is_some() && before.into_iter().any(|own| own == key)
    }

    /// Which of the kinds a layer of a stack of so many is; the number of kinds for the others.
    fn kind(&self, layer: u64, count: u64) -> usize {
        let found = self.patterns.iter().position(|pattern| pattern.fits(layer, count));
        let number = found.unwrap_or(self.patterns.len());
        // Equal entries are one kind.
        let entry = self.entry(number);
        (0..number).find(|other| self.entry(*other) == entry).unwrap_or(number)
    }

    fn entry(&self, number: usize) -> &'static Value {
        self.rule.kinds.get(number).map_or(&self.rule.others, |kind| &kind.kind)
    }

    /// The kind of a layer of the stack before, as a number.
    pub fn kind_before(&self, layer: u64) -> usize {
        self.kind(layer, self.count)
    }

    /// The list to write for layers that come from these; nothing where each is of the kind that its new
    /// position has.
    ///
    /// **Errors.** A layer that does not fit its position in a family that reads no list: which, and from where.
    pub fn gathered(&self, sources: &[u64]) -> Result<Option<(&'static str, Value)>, (u64, u64)> {
        let count = sources.len() as u64;
        let fits =
            |position: u64, layer: u64| self.kind_before(layer) == self.kind(position, count);
        let misfit = (0..).zip(sources).find(|(position, layer)| !fits(*position, **layer));
        let Some((position, &layer)) = misfit else { return Ok(None) };
        let Some(list) = &self.rule.list else { return Err((position, layer)) };
        let value = match self.rule.is_numbers {
            true => {
                let is_first = |(_, layer): &(u64, &u64)| self.kind_before(**layer) == 0;
                (0..).zip(sources).filter(is_first).map(|(number, _)| number).collect()
            }
            false => {
                let entry = |layer: &u64| self.entry(self.kind_before(*layer)).clone();
                sources.iter().map(entry).collect()
            }
        };
        Ok(Some((list, value)))
    }
}

/// Keys of a config that a rule reads, the period's first.
fn keys(rule: &'_ Rule) -> impl Iterator<Item = &'_ str> {
    let all = rule.kinds.iter().flat_map(|kind| [&kind.every, &kind.at, &kind.before, &kind.after]);
    all.filter_map(|number| number.as_ref()?.key())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The list that a family reads for layers from these, of a stack of `count`.
    #[track_caller]
    fn check(config: Value, count: u64, sources: &[u64], list: &str, expected: Value) {
        let part = config.as_object().unwrap().clone();
        let all = Positional::of(&part, None, count);
        // What is refused by one rule is none of the lists.
        let written: Vec<_> = all.iter().flat_map(|one| one.gathered(sources)).flatten().collect();
        let found = written.iter().find(|(key, _)| *key == list);
        assert_eq!(found.map(|(_, value)| value), Some(&expected), "{written:?}");
    }

    #[test]
    fn families_name_their_layers() {
        let (full, slides) = ("full_attention", "sliding_attention");
        // MiMo: layers 0, 5 and 11 are full; here 4, 5 and 6 come first.
        check(
            json!({"model_type": "mimo_v2_flash"}),
            12,
            &[4, 5, 6],
            "layer_types",
            json!([slides, full, slides]),
        );
        check(
            json!({"model_type": "mimo_v2_flash"}),
            12,
            &[0, 0, 1],
            "mlp_layer_types",
            json!(["dense", "dense", "sparse"]),
        );
        // Counted from the end: of six layers 1 and 5 are full, of three only the last.
        check(
            json!({"model_type": "muse_spark_text"}),
            6,
            &[1, 2, 3],
            "layer_types",
            json!([full, slides, slides]),
        );
        // Angles that follow from the position, and no list that could be written without them.
        let muse = json!({"model_type": "muse_spark_text"});
        let all = Positional::of(muse.as_object().unwrap(), None, 6);
        assert!(all.iter().any(|one| one.gathered(&[1, 2, 3]) == Err((0, 1))), "{all:?}");
        // Zamba: 2, and from 3 on every fourth with the second first: 4 and 8.
        check(
            json!({"model_type": "zamba", "attn_layer_period": 4, "attn_layer_offset": 1}),
            9,
            &[4, 5, 8],
            "layers_block_type",
            json!(["hybrid", "linear_attention", "hybrid"]),
        );
        // Llama 4 lists the numbers of its mixtures; every second has one.
        check(
            json!({"model_type": "llama4_text", "interleave_moe_layer_step": 2}),
            4,
            &[1, 0, 3, 3],
            "moe_layers",
            json!([0, 2, 3]),
        );
        // DeepSeek V3.2 with one dense layer, which now comes twice and late.
        check(
            json!({"model_type": "glm_moe_dsa", "first_k_dense_replace": 1}),
            3,
            &[1, 0, 2],
            "mlp_layer_types",
            json!(["sparse", "dense", "sparse"]),
        );
        // The indexer of every second layer behind the first three is its own.
        let glm = json!({
            "model_type": "glm_moe_dsa", "index_topk_freq": 2, "index_skip_topk_offset": 3,
        });
        check(glm, 8, &[2, 3, 5], "indexer_types", json!(["full", "shared", "shared"]));
    }

    #[test]
    fn what_is_listed_does_not_follow_from_positions() {
        let listed = json!({"model_type": "gemma2", "layer_types": ["a", "b"]});
        assert!(Positional::of(listed.as_object().unwrap(), None, 2).is_empty());
        // The list of windows says nothing of where positions are left out.
        let smol = json!({"model_type": "smollm3", "layer_types": ["a", "b"]});
        assert_eq!(Positional::of(smol.as_object().unwrap(), None, 2).len(), 1);
    }
}
