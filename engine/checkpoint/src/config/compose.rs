//! One `config.json` from several: the base's, and what each modality adds to it.

use serde_json::{Map, Value};

/// A model whose configuration is a part of the whole.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Name of the modality.
    pub name: &'a str,
    /// Its configuration, if it has one.
    pub config: Option<&'a Value>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Composed {
    /// The whole, without the keys about which the parts disagree.
    pub config: Value,
    /// Those keys.
    pub conflicts: Vec<Conflict>,
    /// Of the keys that are preferred of some part, those which no part has: positions.
    pub unknown: Vec<usize>,
}

/// A key that parts give different values.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// The key.
    pub key: String,
    /// Who says what, the base first.
    pub values: Vec<(String, Value)>,
}

/// Keys about one program's handling of files, or about a language model as a part of a larger model, for
/// which the base speaks alone.
const OF_THE_BASE: [&str; 10] = [
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "language_config",
    "llm_config",
    "model_type",
    "text_config",
    "torch_dtype",
    "transformers_version",
];

/// Beginnings of keys about adapters, which say nothing once these are merged.
const OF_ADAPTERS: [&str; 4] =
    ["lora_", "local_prefix_tokens", "local_suffix_tokens", "reset_scaling"];

/// Modalities of ModelCompose, whose keys name them even where they are no part.
const MODALITIES: [&str; 4] = ["vision", "audio", "video", "point"];

/// Puts configurations together. A key `mm_NAME_…` is that modality's alone; any other must have one value
/// wherever it has one that is not null. `prefer` says for keys which part decides, or the base.
pub fn compose(base: &Part<'_>, parts: &[Part<'_>], prefer: &[(&str, Option<usize>)]) -> Composed {
    let mut config = Map::new();
    let mut conflicts = Vec::new();
    let all: Vec<&Part<'_>> = [base].into_iter().chain(parts).collect();
    for part in &all {
        for key in part.config.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            let of_base = part.name == base.name;
            if config.contains_key(key) || (!of_base && is_only_the_bases(key)) {
                continue;
            }
            if OF_ADAPTERS.iter().any(|start| key.starts_with(start)) {
                continue;
            }
            let values = values(key, &all, parts);
            let preferred = prefer.iter().find(|(known, _)| known == key).map(|(_, whose)| *whose);
            let decided = match preferred {
                Some(None) => get(base, key),
                Some(Some(position)) => parts.get(position).and_then(|part| get(part, key)),
                None => None,
            };
            let value = match (decided, values.as_slice()) {
                (Some(value), _) => value.clone(),
                (None, []) => Value::Null,
                (None, [(_, first), others @ ..]) => {
                    if !is_only_the_bases(key)
                        && others.iter().any(|(_, other)| !same(first, other))
                    {
                        if !conflicts.iter().any(|known: &Conflict| known.key == *key) {
                            let values = values
                                .iter()
                                .map(|(name, value)| ((*name).to_owned(), (*value).clone()));
                            conflicts.push(Conflict { key: key.clone(), values: values.collect() });
                        }
                        continue;
                    }
                    (*first).clone()
                }
            };
            config.insert(key.clone(), value);
        }
    }
    let has = |key: &str| all.iter().any(|part| get(part, key).is_some());
    let unknown = prefer.iter().enumerate().filter(|(_, (key, _))| !has(key));
    let unknown = unknown.map(|(position, _)| position).collect();
    Composed { config: Value::Object(config), conflicts, unknown }
}

fn is_only_the_bases(key: &str) -> bool {
    OF_THE_BASE.contains(&key)
}

fn get<'a>(part: &Part<'a>, key: &str) -> Option<&'a Value> {
    part.config?.get(key)
}

/// Who has a value for a key that is not null. A modality's own keys are asked of it alone.
fn values<'a>(key: &str, all: &[&Part<'a>], parts: &[Part<'a>]) -> Vec<(&'a str, &'a Value)> {
    let has = |part: &Part<'a>| get(part, key).filter(|value| !value.is_null());
    if let Some(owner) = owner(key, parts)
        && let Some(part) = parts.iter().find(|part| part.name == owner && has(part).is_some())
    {
        return has(part).map(|value| (part.name, value)).into_iter().collect();
    }
    all.iter().filter_map(|part| Some((part.name, has(part)?))).collect()
}

/// The modality that a key is about: `mm_audio_hidden_size`.
fn owner<'a>(key: &str, parts: &[Part<'a>]) -> Option<&'a str> {
    let rest = key.strip_prefix("mm_")?;
    let names = parts.iter().map(|part| part.name).chain(MODALITIES);
    let is_about = |name: &&str| {
        rest.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    names.filter(is_about).max_by_key(|name| name.len())
}

/// Whether two values are one: numbers by what they are worth.
fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn composed(
        base: &Value,
        parts: &[(&str, Value)],
        prefer: &[(&str, Option<usize>)],
    ) -> Composed {
        let parts: Vec<Part<'_>> =
            parts.iter().map(|(name, config)| Part { name, config: Some(config) }).collect();
        compose(&Part { name: "base", config: Some(base) }, &parts, prefer)
    }

    #[test]
    fn each_modality_speaks_for_itself() {
        let base = json!({"model_type": "llama", "hidden_size": 8});
        let vision = json!({"model_type": "multimodal", "hidden_size": 8.0, "lora_r": 4,
            "mm_vision_encoder": "clip", "mm_audio_encoder": "of another", "mm_point_encoder": null});
        let audio = json!({"mm_vision_encoder": null, "mm_audio_encoder": "beats", "mm_audio_hidden_size": 3});
        let found = composed(&base, &[("vision", vision), ("audio", audio)], &[]);
        assert_eq!(found.conflicts, []);
        let expected = json!({"model_type": "llama", "hidden_size": 8, "mm_vision_encoder": "clip",
            "mm_audio_encoder": "beats", "mm_point_encoder": null, "mm_audio_hidden_size": 3});
        assert_eq!(found.config, expected);
    }

    #[test]
    fn what_is_disagreed_about_is_not_chosen_in_silence() {
        let base = json!({"rope_theta": 10000.0});
        let parts = [("a", json!({"rope_theta": 500, "pad": "x"})), ("b", json!({"pad": "y"}))];
        let found = composed(&base, &parts, &[]);
        let keys: Vec<&str> =
            found.conflicts.iter().map(|conflict| conflict.key.as_str()).collect();
        assert_eq!(keys, ["rope_theta", "pad"]);
        let said = [("base".to_owned(), json!(10000.0)), ("a".to_owned(), json!(500))];
        assert_eq!(found.conflicts[0].values, said);
        let prefer = [("rope_theta", None), ("pad", Some(1)), ("other", None)];
        let found = composed(&base, &parts, &prefer);
        assert_eq!((found.conflicts.len(), found.unknown.as_slice()), (0, [2].as_slice()));
        assert_eq!(found.config, json!({"rope_theta": 10000.0, "pad": "y"}));
    }
}
