//! What one value of a config becomes when layers are put together anew: lists with an entry for each layer, lists
//! and maps of layers by number, texts with a letter for each.

use serde_json::{Map, Value};

use super::words::{has, words};

/// A list as long as a stack of so many layers has an entry for each, whatever it is called.
const SURE: u64 = 6;

/// The layers of a stack that is put together anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layers<'l> {
    /// How many there were.
    pub before: u64,
    /// For each of the output, the one that it comes from.
    pub sources: &'l [u64],
}

/// A value that follows the layers.
#[derive(Debug, PartialEq)]
pub(super) struct Followed {
    /// What is written.
    pub value: Value,
    /// What the value said of each layer before.
    pub said: Vec<String>,
}

impl Layers<'_> {
    fn gathered<T: Clone>(&self, entries: &[T]) -> Option<Vec<T>> {
        let entry = |&layer: &u64| entries.get(usize::try_from(layer).ok()?).cloned();
        // A layer that the model does not have is refused long before a config is written.
        self.sources.iter().map(entry).collect()
    }

    fn has_count(&self, entries: usize) -> bool {
        entries as u64 == self.before
    }

    /// A value with one entry for each layer, put together anew.
    fn entries(&self, list: &[Value]) -> Option<Followed> {
        let value = Value::Array(self.gathered(list)?);
        Some(Followed { value, said: list.iter().map(Value::to_string).collect() })
    }

    /// A list of layers by number, whose first number is `first`.
    fn numbers(&self, numbers: &[u64], first: u64) -> Followed {
        let is_named = |layer: u64| numbers.contains(&(layer + first));
        let named = (first..).zip(self.sources).filter(|(_, layer)| is_named(**layer));
        Followed {
            value: named.map(|(number, _)| number).collect(),
            said: (0..self.before).map(|layer| is_named(layer).to_string()).collect(),
        }
    }

    /// The places of these layers, each of which must come once and in order.
    fn places(&self, numbers: &[u64]) -> Option<Vec<u64>> {
        let place = |number: &u64| {
            let mut found = (0..).zip(self.sources).filter(|(_, layer)| *layer == number);
            let first = found.next().map(|(place, _)| place);
            first.filter(|_| found.next().is_none())
        };
        let places: Option<Vec<u64>> = numbers.iter().map(place).collect();
        places.filter(|places| places.is_sorted())
    }

    /// The value under a key; nothing if it is not about layers. `is_inner`: whether it is in a group of settings
    /// within the part that counts the layers, where only a name can tell.
    ///
    /// **Errors.** It names layers behind each of which something stands, and which now come twice or never.
    pub fn follow(&self, key: &str, value: &Value, is_inner: bool) -> Result<Option<Followed>, ()> {
        match value {
            Value::Array(list) => self.list(key, list, is_inner),
            Value::Object(map) => Ok(self.by_number(map)),
            Value::String(text) => Ok(self.text(key, text)),
            _ => Ok(None),
        }
    }

    fn list(&self, key: &str, list: &[Value], is_inner: bool) -> Result<Option<Followed>, ()> {
        let words = words();
        if has(&words.stages, key) {
            return self.stages(key, list);
        }
        let numbers: Option<Vec<u64>> = list.iter().map(Value::as_u64).collect();
        // A list of numbers as long as the model is deep, such as `no_rope_layers` with 0 and 1, is one entry for
        // each layer; only ascending numbers without repetition can be names of layers.
        let named = |first: u64| {
            let is_layer = |number: &u64| (first..self.before + first).contains(number);
            numbers.as_ref().filter(|numbers| {
                numbers.iter().all(is_layer) && numbers.windows(2).all(|pair| pair[0] < pair[1])
            })
        };
        if has(&words.taps, key)
            && let Some(numbers) = named(0)
        {
            let places = self.places(numbers).ok_or(())?;
            return Ok(Some(Followed { value: places.into(), said: Vec::new() }));
        }
        if has(&words.numbers_from_one, key)
            && let Some(numbers) = named(1)
        {
            return Ok(Some(self.numbers(numbers, 1)));
        }
        let lower = key.to_ascii_lowercase();
        let is_other = words.not_per_layer.iter().any(|part| lower.contains(part.as_str()));
        let ends_so = words.number_endings.iter().any(|end| lower.ends_with(end.as_str()));
        if (has(&words.numbers, key) || ends_so && !is_other && !list.is_empty())
            && let Some(numbers) = named(0)
        {
            return Ok(Some(self.numbers(numbers, 0)));
        }
        let is_sure = self.before >= SURE && !is_other && !is_inner;
        let follows = lower.contains("layer") || has(&words.per_layer, key) || is_sure;
        if follows && self.has_count(list.len()) {
            return Ok(self.entries(list));
        }
        Ok(if has(&words.per_layer, key) { self.repeated(list) } else { None })
    }

    /// `[[["global", "local"], 12]]`: kinds that come so many times, one after the other.
    fn repeated(&self, list: &[Value]) -> Option<Followed> {
        let mut all = Vec::new();
        for group in list {
            let [kinds, times] = group.as_array()?.as_slice() else { return None };
            let (kinds, times) = (kinds.as_array()?, times.as_u64()?);
            let length = (kinds.len() as u64).checked_mul(times)?;
            if length.checked_add(all.len() as u64)? > self.before {
                return None;
            }
            (0..times).for_each(|_| all.extend(kinds.iter().cloned()));
        }
        if !self.has_count(all.len()) {
            return None;
        }
        let Followed { value, said } = self.entries(&all)?;
        Some(Followed { value: Value::Array(vec![Value::Array(vec![value, 1.into()])]), said })
    }

    /// Stages of an image encoder, which has one for each layer behind the stem.
    fn stages(&self, key: &str, list: &[Value]) -> Result<Option<Followed>, ()> {
        let stage = |entry: &Value| match entry {
            Value::String(name) if name == "stem" => Some(0),
            Value::String(name) => name.strip_prefix("stage")?.parse().ok(),
            _ => entry.as_u64(),
        };
        let stages: Option<Vec<u64>> = list.iter().map(stage).collect();
        let Some(stages) = stages.filter(|all| all.iter().all(|one| *one <= self.before)) else {
            return Ok(None);
        };
        let count = self.sources.len() as u64;
        let written = if key == "stage_names" {
            if !stages.iter().copied().eq(0..=self.before) {
                return Ok(None);
            }
            (0..=count).collect()
        } else if stages == [self.before] {
            // The result is the last layer's, whichever that is.
            vec![count]
        } else {
            let layers: Vec<u64> = stages.iter().filter_map(|one| one.checked_sub(1)).collect();
            let places = self.places(&layers).ok_or(())?;
            let stem = stages.iter().filter(|one| **one == 0).copied();
            stem.chain(places.into_iter().map(|place| place + 1)).collect()
        };
        let is_named = list.iter().any(Value::is_string);
        let entry = |stage: u64| match (is_named, stage) {
            (false, _) => Value::from(stage),
            (true, 0) => "stem".into(),
            (true, _) => format!("stage{stage}").into(),
        };
        let value = written.into_iter().map(entry).collect();
        Ok(Some(Followed { value, said: Vec::new() }))
    }

    /// A map whose keys are numbers of layers; nothing if it is no such map.
    fn by_number(&self, map: &Map<String, Value>) -> Option<Followed> {
        let is_layer = |key: &String| {
            key.bytes().all(|byte| byte.is_ascii_digit())
                && key.parse::<u64>().is_ok_and(|layer| layer < self.before)
        };
        // Labels of a classifier are numbered too, and are texts.
        if map.is_empty() || !map.keys().all(is_layer) || map.values().any(Value::is_string) {
            return None;
        }
        let entry = |(position, layer): (u64, &u64)| {
            Some((position.to_string(), map.get(&layer.to_string())?.clone()))
        };
        let value = (0..).zip(self.sources).filter_map(entry).collect();
        let said = |layer: u64| map.get(&layer.to_string()).map_or(String::new(), Value::to_string);
        Some(Followed { value: Value::Object(value), said: (0..self.before).map(said).collect() })
    }

    /// A text with a letter for each layer (`hybrid_override_pattern` of Nemotron-H), or with their numbers
    /// (`moe_layers_enum` of Step 3).
    fn text(&self, key: &str, text: &str) -> Option<Followed> {
        let words = words();
        if has(&words.numbers, key) {
            let numbers: Option<Vec<u64>> =
                text.split(',').map(|number| number.trim().parse().ok()).collect();
            let Followed { value, said } = self.numbers(&numbers?, 0);
            let numbers: Vec<String> = value.as_array()?.iter().map(Value::to_string).collect();
            return Some(Followed { value: numbers.join(",").into(), said });
        }
        let letters: Vec<char> = text.chars().collect();
        if !self.has_count(letters.len()) || !key.contains("pattern") && !is_code(key, &letters) {
            return None;
        }
        let value: String = self.gathered(&letters)?.into_iter().collect();
        Some(Followed { value: value.into(), said: letters.iter().map(char::to_string).collect() })
    }
}

/// Whether a text under a key that nobody knows has a letter for each layer: few different ones, none of them of a
/// word.
fn is_code(key: &str, letters: &[char]) -> bool {
    const MOST_KINDS: usize = 4;
    let mut kinds = letters.to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    let is_sign = |letter: &char| {
        letter.is_ascii_uppercase() || letter.is_ascii_digit() || "*-|+_".contains(*letter)
    };
    (2..=MOST_KINDS).contains(&kinds.len())
        && kinds.iter().all(is_sign)
        && !["version", "name", "revision", "date"].iter().any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn follow(key: &str, value: Value, sources: &[u64]) -> Option<Value> {
        let layers = Layers { before: 4, sources };
        layers.follow(key, &value, false).unwrap().map(|followed| followed.value)
    }

    #[test]
    fn numbers_of_layers_follow_whatever_the_first_is() {
        assert_eq!(follow("full_attn_layers", json!([4]), &[3, 0, 3]), Some(json!([1, 3])));
        assert_eq!(follow("kda_layers", json!([1, 2, 3]), &[3, 0, 3]), Some(json!([2])));
        assert_eq!(follow("fullatt_block_indexes", json!([1, 3]), &[1, 2]), Some(json!([0])));
        assert_eq!(follow("my_layer_ids", json!([1, 3]), &[2, 1]), Some(json!([1])));
        assert_eq!(follow("moe_layers_enum", json!("1, 3"), &[0, 1, 3]), Some(json!("1,2")));
        // As long as the stack, and numbers all the same.
        let all = json!([0, 1, 2, 3]);
        assert_eq!(follow("rope_scaling_layers", all, &[1, 2]), Some(json!([0, 1])));
    }

    #[test]
    fn what_taps_layers_needs_each_of_them_once() {
        let key = "deepstack_visual_indexes";
        assert_eq!(follow(key, json!([1, 3]), &[1, 2, 3]), Some(json!([0, 2])));
        let twice = Layers { before: 4, sources: &[1, 1, 3] };
        assert_eq!(twice.follow(key, &json!([1, 3]), false), Err(()));
        let never = Layers { before: 4, sources: &[1, 2] };
        assert_eq!(never.follow(key, &json!([1, 3]), false), Err(()));
    }

    #[test]
    fn stages_are_the_stem_and_one_for_each_layer() {
        let names = json!(["stem", "stage1", "stage2", "stage3", "stage4"]);
        let two = json!(["stem", "stage1", "stage2"]);
        assert_eq!(follow("stage_names", names, &[0, 3]), Some(two));
        assert_eq!(follow("out_features", json!(["stage4"]), &[0]), Some(json!(["stage1"])));
        assert_eq!(follow("out_indices", json!([2, 4]), &[0, 1, 3]), Some(json!([2, 3])));
        let gone = Layers { before: 4, sources: &[0, 2] };
        assert_eq!(gone.follow("out_indices", &json!([2, 3]), false), Err(()));
    }

    #[test]
    fn keys_that_nobody_knows_follow_where_their_values_tell() {
        assert_eq!(follow("attn_map", json!("0101"), &[1, 3, 0]), Some(json!("110")));
        for (key, value) in [("hidden_act", "silu"), ("some_version", "1001"), ("kind", "AAAA")] {
            assert_eq!(follow(key, json!(value), &[1]), None, "{key}");
        }
        let widths = json!({"0": 8, "3": 4});
        assert_eq!(follow("widths", widths, &[3, 1, 0]), Some(json!({"0": 4, "2": 8})));
        assert_eq!(follow("id2label", json!({"0": "no", "1": "yes"}), &[1]), None);
    }

    #[test]
    fn kinds_that_repeat_are_written_one_by_one() {
        let types = json!([[["global", "local"], 2]]);
        let expected = json!([[["local", "local", "global"], 1]]);
        assert_eq!(follow("attention_types", types, &[1, 3, 0]), Some(expected));
        assert_eq!(follow("attention_types", json!([[["global"], 3]]), &[1]), None);
    }

    #[test]
    fn lists_within_settings_follow_by_name_only() {
        let six = Layers { before: 6, sources: &[0] };
        let list = json!([1, 2, 3, 4, 5, 6]);
        assert_eq!(six.follow("short_factor", &list, true), Ok(None));
        let found = six.follow("sparse_attention_freq", &list, true).unwrap();
        assert_eq!(found.map(|followed| followed.value), Some(json!([1])));
    }
}
