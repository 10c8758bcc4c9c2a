//! Kinds of layers that a config does not list, because they follow from a layer's position: every fourth has
//! full attention, every second slides. Layers that are stacked anew stand elsewhere, so that the list is
//! written which the family reads, or the stack is refused where it reads none.

use serde_json::{Map, Value};

/// What one family computes from the position of a layer.
struct Rule {
    /// `model_type` of the part; several where families agree. None: the period's own key tells.
    families: &'static [&'static str],
    /// The key that holds the period, and what it is where the config leaves it out.
    period: (&'static str, Option<u64>),
    /// The remainder of the special layers. None: the period less 1.
    offset: Option<(&'static str, u64)>,
    /// The list that the family reads, and the entries of the special layers and of the others. None: it reads no
    /// list.
    list: Option<(&'static str, Entry, Entry)>,
}

#[derive(Clone, Copy)]
enum Entry {
    Word(&'static str),
    Number(u64),
}

impl From<Entry> for Value {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::Word(word) => word.into(),
            Entry::Number(number) => number.into(),
        }
    }
}

const FULL: Entry = Entry::Word("full_attention");
const SLIDING: Entry = Entry::Word("sliding_attention");
const LINEAR: Entry = Entry::Word("linear_attention");
const TYPES: &str = "layer_types";

/// From the configurations of transformers 5.24.
const RULES: [Rule; 14] = [
    Rule {
        families: &["qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"],
        period: ("full_attention_interval", Some(4)),
        offset: None,
        list: Some((TYPES, FULL, LINEAR)),
    },
    Rule {
        families: &["gemma2", "gpt_oss"],
        period: ("sliding_window_pattern", Some(2)),
        offset: None,
        list: Some((TYPES, FULL, SLIDING)),
    },
    Rule {
        families: &["gemma3", "gemma3_text", "gemma4", "gemma4_text"],
        period: ("sliding_window_pattern", Some(6)),
        offset: None,
        list: Some((TYPES, FULL, SLIDING)),
    },
    Rule {
        families: &["gemma3n", "gemma3n_text"],
        period: ("sliding_window_pattern", Some(5)),
        offset: None,
        list: Some((TYPES, FULL, SLIDING)),
    },
    Rule {
        families: &["cohere2", "olmo3", "exaone4"],
        period: ("sliding_window_pattern", Some(4)),
        offset: None,
        list: Some((TYPES, FULL, SLIDING)),
    },
    Rule {
        families: &["modernbert"],
        period: ("global_attn_every_n_layers", Some(3)),
        offset: Some(("", 0)),
        list: Some((TYPES, FULL, SLIDING)),
    },
    Rule {
        families: &["smollm3", "llama4_text"],
        period: ("no_rope_layer_interval", Some(4)),
        offset: None,
        list: Some(("no_rope_layers", Entry::Number(0), Entry::Number(1))),
    },
    Rule {
        families: &[],
        period: ("full_attention_interval", None),
        offset: None,
        list: Some((TYPES, FULL, LINEAR)),
    },
    Rule {
        families: &[],
        period: ("sliding_window_pattern", None),
        offset: None,
        list: Some((TYPES, FULL, SLIDING)),
    },
    Rule {
        families: &[],
        period: ("attn_layer_period", None),
        offset: Some(("attn_layer_offset", 0)),
        list: None,
    },
    Rule {
        families: &[],
        period: ("expert_layer_period", None),
        offset: Some(("expert_layer_offset", 0)),
        list: None,
    },
    Rule { families: &[], period: ("decoder_sparse_step", None), offset: None, list: None },
    Rule { families: &[], period: ("interleave_moe_layer_step", None), offset: None, list: None },
    Rule { families: &[], period: ("moe_layer_interval", None), offset: None, list: None },
];

/// The kinds of `count` layers in a stack that no list names.
pub(super) struct Positional {
    /// The key that holds the period.
    pub key: &'static str,
    /// Whether each layer is one of the special ones.
    kinds: Vec<bool>,
    list: Option<(&'static str, Entry, Entry)>,
    period: u64,
    offset: u64,
}

impl Positional {
    /// All rules that hold for this part of a config. `outer` is the `model_type` of the whole.
    pub fn of(part: &Map<String, Value>, outer: Option<&str>, count: u64) -> Vec<Self> {
        let family = part.get("model_type").and_then(Value::as_str).or(outer);
        let mut found: Vec<Self> = Vec::new();
        for rule in &RULES {
            let is_family = family.is_some_and(|family| rule.families.contains(&family));
            if !is_family && !rule.families.is_empty() {
                continue;
            }
            let (key, default) = rule.period;
            let period = part.get(key).and_then(Value::as_u64).or(default);
            let Some(period) = period.filter(|period| *period > 1) else { continue };
            // A list that is there says more than the position, and so does a rule of the family.
            let is_said = |name: &str| part.get(name).is_some_and(Value::is_array);
            if rule.list.is_some_and(|(name, ..)| is_said(name))
                || is_said("layer_types") && rule.list.is_some()
                || found.iter().any(|known| known.key == key)
                || (key == "interleave_moe_layer_step" && is_said("moe_layers"))
            {
                continue;
            }
            let offset = match rule.offset {
                None => period - 1,
                Some((key, default)) => part.get(key).and_then(Value::as_u64).unwrap_or(default),
            };
            let kinds = (0..count).map(|layer| layer % period == offset).collect();
            found.push(Self { key, kinds, list: rule.list, period, offset });
        }
        found
    }

    /// The list to write for layers that come from these; nothing where each is of the kind that its new
    /// position has.
    ///
    /// **Errors.** A layer that does not fit its position in a family that reads no list: which, and from where.
    pub fn gathered(&self, sources: &[u64]) -> Result<Option<(&'static str, Value)>, (u64, u64)> {
        let is_special = |layer: u64| self.kinds.get(layer as usize).copied().unwrap_or(false);
        let fits = |position: u64, layer: u64| {
            is_special(layer) == (position % self.period == self.offset)
        };
        let misfit = (0..).zip(sources).find(|(position, layer)| !fits(*position, **layer));
        let Some((position, &layer)) = misfit else { return Ok(None) };
        let Some((key, special, other)) = self.list else { return Err((position, layer)) };
        let entry = |layer: &u64| Value::from(if is_special(*layer) { special } else { other });
        Ok(Some((key, sources.iter().map(entry).collect())))
    }

    /// Whether a layer is one of the special ones.
    pub fn is_special(&self, layer: u64) -> bool {
        self.kinds.get(layer as usize).copied().unwrap_or(false)
    }
}
