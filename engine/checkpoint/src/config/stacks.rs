//! Which part of a config describes a stack of layers, and what of it follows the layers: counts, lists, maps by
//! number, texts with a letter for each, periods.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::follow::Layers;
use super::leading_count;
use super::positions::Positional;
use super::words::{has, words as config_words};

/// A stack of layers put together anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackChange {
    /// What the names of its layers begin with: `model.layers.`.
    pub prefix: String,
    /// Layers of the model whose config it is, as their names tell.
    pub before: u64,
    /// For each layer of the output, the layer of that model that it comes from.
    pub sources: Vec<u64>,
}

/// Why a config cannot follow a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StackFault {
    /// It does not count the layers.
    NotCounted,
    /// Several of its keys may count them.
    Several(Vec<String>),
    /// Something of the model belongs to single layers, and cannot be put together anew: the key that says so.
    Packed(String),
    /// The kind of a layer follows from its position, and this layer would stand where another kind is.
    Position {
        /// The key with the period.
        key: String,
        /// Position in the output.
        position: u64,
        /// The layer that would stand there.
        layer: u64,
    },
    /// A layer of multi-token prediction is among the sources.
    Predictor(u64),
}

/// What a stack is for, by its names or by its place in a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Vision,
    Audio,
    Encoder,
    Decoder,
    Text,
    /// The top of a config counts whatever there is.
    Any,
}

impl Purpose {
    fn of_words(words: &str) -> Option<Self> {
        let known = config_words();
        let has = |list: &[String]| list.iter().any(|word| words.contains(word.as_str()));
        Some(match () {
            () if has(&known.vision) => Self::Vision,
            () if has(&known.audio) => Self::Audio,
            () if has(&known.text) => Self::Text,
            () => return None,
        })
    }

    /// Of a stack with these names.
    fn of_stack(prefix: &str) -> Self {
        let by_word = Self::of_words(prefix);
        let has = |word: &str| prefix.split('.').any(|own| own.ends_with(word));
        by_word.unwrap_or(match () {
            () if has("encoder") => Self::Encoder,
            () if has("decoder") => Self::Decoder,
            () => Self::Text,
        })
    }

    /// Of a key in a part of a config.
    fn of_key(path: &[String], key: &str) -> Self {
        let by_path = Self::of_words(&path.join("."));
        by_path.unwrap_or(match () {
            () if key.contains("encoder") || path.iter().any(|part| part.contains("encoder")) => {
                Self::Encoder
            }
            () if key.contains("decoder") || path.iter().any(|part| part.contains("decoder")) => {
                Self::Decoder
            }
            () => Self::Any,
        })
    }
}

/// A place where a config counts layers.
#[derive(Clone, Debug)]
struct Place {
    path: Vec<String>,
    key: String,
    purpose: Purpose,
    is_list: bool,
}

impl Place {
    fn shown(&self) -> String {
        self.path.iter().chain([&self.key]).cloned().collect::<Vec<_>>().join(".")
    }
}

/// All places that count `count` layers.
fn places(config: &Value, count: u64) -> Vec<Place> {
    /// Parts of parts of parts: talker and thinker, their models, those models' parts.
    const DEEPEST: usize = 3;
    let mut found = Vec::new();
    let mut open = vec![(Vec::new(), config)];
    while let Some((path, value)) = open.pop() {
        let Some(part) = value.as_object() else { continue };
        let mut counted = false;
        let mut note = |key: &str, is_list: bool| {
            let purpose = Purpose::of_key(&path, key);
            found.push(Place { path: path.clone(), key: key.to_owned(), purpose, is_list });
        };
        for key in &config_words().counts {
            let own = part.get(key).and_then(Value::as_u64);
            counted |= own.is_some();
            if own == Some(count) {
                note(key, false);
            }
        }
        for key in config_words().counting_lists.iter().filter(|_| !counted) {
            if part.get(key).and_then(Value::as_array).is_some_and(|l| l.len() as u64 == count) {
                note(key, true);
            }
        }
        if path.len() < DEEPEST {
            let inner = part.iter().filter(|(_, value)| value.is_object());
            open.extend(inner.map(|(key, value)| {
                (path.iter().cloned().chain([key.clone()]).collect::<Vec<_>>(), value)
            }));
        }
    }
    found
}

/// The places of one stack. `others` are the prefixes of the model's other stacks.
fn places_of(
    config: &Value,
    stack: &StackChange,
    others: &BTreeSet<String>,
) -> Result<Vec<Place>, StackFault> {
    let all = places(config, stack.before);
    let purpose = Purpose::of_stack(&stack.prefix);
    let is_stack = |prefix: &str| {
        let name = prefix.trim_end_matches('.').rsplit('.').next();
        name.is_some_and(|name| has(&config_words().stack_names, name))
    };
    let is_there = |purpose: Purpose| {
        let mut others = others.iter().filter(|prefix| is_stack(prefix));
        others.any(|prefix| Purpose::of_stack(prefix) == purpose)
    };
    let mut own: Vec<Place> =
        all.iter().filter(|place| place.purpose == purpose).cloned().collect();
    let anywhere = || all.iter().filter(|place| place.purpose == Purpose::Any).cloned();
    match purpose {
        // The language model's count may stand at the top and in its part.
        Purpose::Text => own.extend(anywhere()),
        // A config of encoder and decoder calls the encoder's count by the general name too.
        Purpose::Encoder => own.extend(anywhere().filter(|_| !is_there(Purpose::Text))),
        Purpose::Decoder if own.is_empty() && is_there(Purpose::Encoder) => {
            let shared: Vec<String> = anywhere().map(|place| place.shown()).collect();
            if !shared.is_empty() {
                return Err(StackFault::Several(shared));
            }
        }
        // A model of one stack has one count.
        _ if own.is_empty() && !is_there(Purpose::Text) => own.extend(anywhere()),
        _ => {}
    }
    // A part that is named in the names comes before others: `thinker.model.layers.`, `thinker_config`.
    let is_named = |place: &Place| {
        place.path.first().is_some_and(|part| {
            let stem = part.trim_end_matches("_config");
            stack.prefix.split('.').any(|word| word == stem)
        })
    };
    if own.iter().any(is_named) {
        own.retain(is_named);
    } else if matches!(purpose, Purpose::Encoder | Purpose::Decoder) && is_there(purpose) {
        // One count, and two stacks that it may be of: a decoder of text and one of units.
        return Err(match own.is_empty() {
            true => StackFault::NotCounted,
            false => StackFault::Several(own.iter().map(Place::shown).collect()),
        });
    }
    let purposes: BTreeSet<&[String]> =
        own.iter().filter(|p| p.purpose == purpose).map(|p| p.path.as_slice()).collect();
    if purposes.len() > 1 {
        return Err(StackFault::Several(own.iter().map(Place::shown).collect()));
    }
    match own.is_empty() {
        true => Err(StackFault::NotCounted),
        false => Ok(own),
    }
}

/// Changes everything of a config that follows the layers of a stack. Tells what says apart layers that hold
/// different tensors: for each layer before, a text.
///
/// **Errors.** Why the config cannot follow; it is then changed in part.
pub fn restack(
    config: &mut Value,
    stack: &StackChange,
    others: &BTreeSet<String>,
) -> Result<Vec<String>, StackFault> {
    if stack.sources.iter().copied().eq(0..stack.before) {
        return Ok(Vec::new());
    }
    let (stack, predictor) = without_predictors(config, stack, others)?;
    let places = places_of(config, &stack, others)?;
    let purpose = Purpose::of_stack(&stack.prefix);
    // What the whole is says nothing of its towers.
    let is_tower = matches!(purpose, Purpose::Vision | Purpose::Audio);
    let outer = config.get("model_type").filter(|_| !is_tower);
    let outer = outer.and_then(Value::as_str).map(str::to_owned);
    let mut signatures = vec![String::new(); stack.before as usize];
    let paths: BTreeSet<&[String]> = places.iter().map(|place| place.path.as_slice()).collect();
    for path in paths {
        let mut part = &mut *config;
        for key in path {
            let Some(inner) = part.get_mut(key) else { return Err(StackFault::NotCounted) };
            part = inner;
        }
        let Some(part) = part.as_object_mut() else { return Err(StackFault::NotCounted) };
        let own = places.iter().filter(|place| place.path == path && !place.is_list);
        let keys: Vec<&str> = own.map(|place| place.key.as_str()).collect();
        // In a part that describes encoder and decoder, what names neither is the encoder's.
        let is_shared = purpose == Purpose::Decoder
            && others.iter().any(|prefix| Purpose::of_stack(prefix) == Purpose::Encoder)
            && !path.iter().any(|name| name.contains("decoder"));
        let whose = Whose { outer: outer.as_deref(), purpose, is_shared };
        restack_part(part, &keys, whose, &stack, &mut signatures)?;
        if let Some(key) = &predictor
            && part.contains_key(key)
        {
            part.insert(key.clone(), 0.into());
        }
    }
    Ok(signatures)
}

/// The stack without layers of multi-token prediction, whose numbers follow those of the counted ones, and the
/// key that counts them.
fn without_predictors(
    config: &Value,
    stack: &StackChange,
    others: &BTreeSet<String>,
) -> Result<(StackChange, Option<String>), StackFault> {
    if places_of(config, stack, others).is_ok() {
        return Ok((stack.clone(), None));
    }
    let parts = [Some(config), config.get("text_config"), config.get("llm_config")];
    let said = parts.into_iter().flatten().find_map(|part| {
        let keys = config_words().predictors.iter();
        keys.filter_map(|key| Some((key.clone(), part.get(key)?.as_u64()?))).next()
    });
    let Some((key, count)) = said.filter(|(_, count)| *count > 0 && *count < stack.before) else {
        return Ok((stack.clone(), None));
    };
    let own = StackChange { before: stack.before - count, ..stack.clone() };
    if places_of(config, &own, others).is_err() {
        return Ok((stack.clone(), None));
    }
    if let Some(layer) = own.sources.iter().find(|layer| **layer >= own.before) {
        return Err(StackFault::Predictor(*layer));
    }
    Ok((own, Some(key)))
}

/// Whose layers a part of a config describes.
#[derive(Clone, Copy)]
struct Whose<'o> {
    /// The `model_type` of the whole config, where it tells of this stack.
    outer: Option<&'o str>,
    purpose: Purpose,
    /// Whether the part describes an encoder beside this decoder.
    is_shared: bool,
}

impl Whose<'_> {
    fn is_of_other_stack(self, key: &str) -> bool {
        match self.purpose {
            Purpose::Encoder => key.contains("decoder"),
            _ => key.contains("encoder") || self.is_shared && !key.contains("decoder"),
        }
    }
}

fn restack_part(
    part: &mut Map<String, Value>,
    counts: &[&str],
    whose: Whose<'_>,
    stack: &StackChange,
    signatures: &mut [String],
) -> Result<(), StackFault> {
    let (before, sources) = (stack.before, &stack.sources);
    let is_of_other_stack = |key: &str| whose.is_of_other_stack(key);
    let is_packed = |key: &&String| part.get(*key).and_then(Value::as_u64).is_some_and(|n| n > 0);
    let mut packed = config_words().packed.iter().filter(|key| !is_of_other_stack(key));
    if let Some(key) = packed.find(is_packed) {
        return Err(StackFault::Packed(key.clone()));
    }
    let mut positional = Positional::of(part, whose.outer, before);
    // A config of encoder and decoder says of either what holds for it alone; one of a single stack may call it
    // the decoder.
    positional.retain(|one| !is_of_other_stack(one.key()));
    for key in counts {
        part.insert((*key).to_owned(), (sources.len() as u64).into());
    }
    let mut note = |key: &str, entry: &dyn Fn(u64) -> String| {
        for (layer, signature) in (0..before).zip(signatures.iter_mut()) {
            signature.push_str(&format!("{key}={};", entry(layer)));
        }
    };
    follow_all(part, Layers { before, sources }, Some(whose), &mut note)?;
    let known = config_words();
    for (key, value) in part.iter_mut() {
        // Counts from the first layer on: `max_window_layers` of Qwen2, `first_k_dense_replace` of DeepSeek. A
        // layer keeps its side of the line where the layers stay in order.
        let is_last = has(&known.last, key);
        if !is_last && !has(&known.leading, key) {
            continue;
        }
        let Some(leading) = value.as_u64().map(|number| number + u64::from(is_last)) else {
            continue;
        };
        let counted = leading_count(leading, before, sources);
        let is_ordered = sources.iter().skip(counted as usize).all(|layer| *layer >= leading);
        if is_ordered {
            note(key, &|layer| (layer < leading).to_string());
        } else if positional.iter().any(|one| one.says(key)) {
            // The list is written below, and says it of each layer.
            continue;
        } else if key != "max_window_layers" {
            let behind = sources[counted as usize..].iter().take_while(|layer| **layer >= leading);
            let position = counted + behind.count() as u64;
            let layer = sources[position as usize];
            return Err(StackFault::Position { key: key.clone(), position, layer });
        }
        // What ends before the first layer has no number: -1 would mean all of them.
        let Some(number) = counted.checked_sub(u64::from(is_last)) else {
            let (key, layer) = (key.clone(), sources[0]);
            return Err(StackFault::Position { key, position: 0, layer });
        };
        *value = number.into();
    }
    for one in positional {
        match one.gathered(sources) {
            Ok(written) => {
                note(one.key(), &|layer| one.kind_before(layer).to_string());
                part.extend(written.map(|(key, list)| (key.to_owned(), list)));
            }
            Err((position, layer)) => {
                return Err(StackFault::Position { key: one.key().to_owned(), position, layer });
            }
        }
    }
    Ok(())
}

/// Hears of a key whose values follow the layers, with the word for each layer.
type Note<'a> = dyn FnMut(&str, &dyn Fn(u64) -> String) + 'a;

/// Changes all values of a part that follow the layers, and those in groups of settings within it, for which
/// `whose` is nothing.
fn follow_all(
    part: &mut Map<String, Value>,
    layers: Layers<'_>,
    whose: Option<Whose<'_>>,
    note: &mut Note<'_>,
) -> Result<(), StackFault> {
    let is_longer = layers.sources.len() as u64 != layers.before;
    let is_inner = whose.is_none();
    for (key, value) in part.iter_mut() {
        if whose.is_some_and(|whose| whose.is_of_other_stack(key)) {
            continue;
        }
        let found = layers.follow(key, value, is_inner);
        let Some(followed) = found.map_err(|()| StackFault::Packed(key.clone()))? else {
            // Another part counts layers of its own.
            let settings = value.as_object_mut().filter(|inner| {
                !is_inner
                    && !inner.contains_key("model_type")
                    && !config_words().counts.iter().any(|count| inner.contains_key(count))
            });
            if let Some(settings) = settings {
                follow_all(settings, layers, None, note)?;
            }
            continue;
        };
        if (*value != followed.value || is_longer) && !followed.said.is_empty() {
            note(key, &|layer| followed.said.get(layer as usize).cloned().unwrap_or_default());
        }
        *value = followed.value;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(prefix: &str, before: u64, sources: &[u64]) -> StackChange {
        StackChange { prefix: prefix.to_owned(), before, sources: sources.to_vec() }
    }

    #[track_caller]
    fn check(config: Value, stack: &StackChange, others: &[&str], expected: Value) {
        let mut found = config;
        let others = others.iter().map(|prefix| (*prefix).to_owned()).collect();
        restack(&mut found, stack, &others).unwrap();
        assert_eq!(found.to_string(), expected.to_string());
    }

    #[track_caller]
    fn refused(config: Value, stack: &StackChange, others: &[&str]) -> StackFault {
        let others = others.iter().map(|prefix| (*prefix).to_owned()).collect();
        restack(&mut config.clone(), stack, &others).unwrap_err()
    }

    #[test]
    fn the_count_of_the_stack_that_was_sliced_changes() {
        let config = json!({
            "text_config": {"num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"]},
            "vision_config": {"num_hidden_layers": 4},
            "audio_config": {"encoder_layers": 4},
        });
        let stacks = ["model.language_model.layers.", "model.vision_tower.encoder.layers."];
        check(
            config.clone(),
            &change(stacks[1], 4, &[0, 2]),
            &stacks[..1],
            json!({
                "text_config": {"num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"]},
                "vision_config": {"num_hidden_layers": 2},
                "audio_config": {"encoder_layers": 4},
            }),
        );
        check(
            config.clone(),
            &change("audio_tower.layers.", 4, &[3]),
            &stacks,
            json!({
                "text_config": {"num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"]},
                "vision_config": {"num_hidden_layers": 4},
                "audio_config": {"encoder_layers": 1},
            }),
        );
        check(
            config,
            &change(stacks[0], 4, &[3, 3, 0]),
            &stacks[1..],
            json!({
                "text_config": {"num_hidden_layers": 3, "layer_types": ["d", "d", "a"]},
                "vision_config": {"num_hidden_layers": 4},
                "audio_config": {"encoder_layers": 4},
            }),
        );
    }

    #[test]
    fn encoder_and_decoder_have_counts_of_their_own() {
        let whisper = json!({"encoder_layers": 4, "decoder_layers": 4, "num_hidden_layers": 4});
        let stacks = ["model.encoder.layers.", "model.decoder.layers."];
        check(
            whisper.clone(),
            &change(stacks[0], 4, &[0]),
            &stacks[1..],
            json!({
                "encoder_layers": 1, "decoder_layers": 4, "num_hidden_layers": 1,
            }),
        );
        check(
            whisper,
            &change(stacks[1], 4, &[0]),
            &stacks[..1],
            json!({
                "encoder_layers": 4, "decoder_layers": 1, "num_hidden_layers": 4,
            }),
        );
        let stacks = ["encoder.block.", "decoder.block."];
        let t5 = json!({"num_layers": 4, "num_decoder_layers": 4});
        check(
            t5.clone(),
            &change(stacks[0], 4, &[0]),
            &stacks[1..],
            json!({
                "num_layers": 1, "num_decoder_layers": 4,
            }),
        );
        check(
            t5,
            &change(stacks[1], 4, &[0]),
            &stacks[..1],
            json!({
                "num_layers": 4, "num_decoder_layers": 1,
            }),
        );
        let fault = refused(json!({"num_layers": 4}), &change(stacks[1], 4, &[0]), &stacks[..1]);
        assert_eq!(fault, StackFault::Several(vec!["num_layers".to_owned()]));
    }

    /// LED's windows are its encoder's.
    #[test]
    fn what_names_no_stack_is_the_encoders() {
        let led = |encoder: u64, decoder: u64, windows: Value| {
            json!({
                "encoder_layers": encoder, "decoder_layers": decoder, "attention_window": windows,
            })
        };
        let stacks = ["led.encoder.layers.", "led.decoder.layers."];
        let before = led(4, 4, json!([8, 8, 16, 16]));
        let decoder = change(stacks[1], 4, &[1, 2]);
        check(before.clone(), &decoder, &stacks[..1], led(4, 2, json!([8, 8, 16, 16])));
        let encoder = change(stacks[0], 4, &[1, 2]);
        check(before, &encoder, &stacks[1..], led(2, 4, json!([8, 16])));
    }

    #[test]
    fn convolutions_before_an_encoder_are_no_language_model() {
        check(
            json!({"num_hidden_layers": 4, "num_feat_extract_layers": 2}),
            &change("wav2vec2.encoder.layers.", 4, &[0, 2]),
            &["wav2vec2.feature_extractor.conv_layers."],
            json!({"num_hidden_layers": 2, "num_feat_extract_layers": 2}),
        );
    }

    #[test]
    fn a_count_that_may_be_of_two_decoders_is_of_neither() {
        let stack = change("text_decoder.layers.", 4, &[0, 2]);
        let units = ["t2u_model.decoder.layers.", "text_encoder.layers."];
        let fault = refused(json!({"decoder_layers": 4, "encoder_layers": 4}), &stack, &units);
        assert_eq!(fault, StackFault::Several(vec!["decoder_layers".to_owned()]));
        check(
            json!({"mask_decoder_config": {"num_hidden_layers": 4}}),
            &change("mask_decoder.transformer.layers.", 4, &[0, 2]),
            &["vision_encoder.layers."],
            json!({"mask_decoder_config": {"num_hidden_layers": 2}}),
        );
    }

    /// Kimi Linear as published: numbers from one, in a group of settings.
    #[test]
    fn groups_of_settings_follow_too_and_other_parts_do_not() {
        let numbers = |full: Value, linear: Value| json!({"full_attn_layers": full, "kda_layers": linear, "num_heads": 4});
        check(
            json!({
                "model_type": "kimi_linear",
                "num_hidden_layers": 4,
                "linear_attn_config": numbers(json!([4]), json!([1, 2, 3])),
                "rope_scaling": {"short_factor": [1, 2, 3, 4]},
                "vision_config": {"depth": 4, "layer_kinds": [1, 2, 3, 4]},
            }),
            &change("model.layers.", 4, &[0, 3, 3]),
            &[],
            json!({
                "model_type": "kimi_linear",
                "num_hidden_layers": 3,
                "linear_attn_config": numbers(json!([2, 3]), json!([1])),
                "rope_scaling": {"short_factor": [1, 2, 3, 4]},
                "vision_config": {"depth": 4, "layer_kinds": [1, 2, 3, 4]},
            }),
        );
    }

    /// What the whole model is does not tell the kinds of its towers' layers.
    #[test]
    fn towers_follow_their_own_rules() {
        let config = json!({
            "model_type": "gemma3",
            "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 6},
            "vision_config": {"num_hidden_layers": 4, "fullatt_block_indexes": [1, 3]},
        });
        let mut expected = config.clone();
        expected["vision_config"] = json!({"num_hidden_layers": 2, "fullatt_block_indexes": [1]});
        let others = ["model.language_model.layers."];
        check(config, &change("model.vision_tower.blocks.", 4, &[2, 3]), &others, expected);
    }

    /// Layers that T5's sparse relatives fill with experts by their count.
    #[test]
    fn what_the_count_decides_is_refused_for_its_own_stack() {
        let switch = json!({
            "num_layers": 4, "num_decoder_layers": 4, "num_sparse_encoder_layers": 2,
        });
        let stacks = ["encoder.block.", "decoder.block."];
        let fault = refused(switch.clone(), &change(stacks[0], 4, &[0, 1]), &stacks[1..]);
        assert_eq!(fault, StackFault::Packed("num_sparse_encoder_layers".to_owned()));
        let mut expected = switch.clone();
        expected["num_decoder_layers"] = json!(2);
        check(switch, &change(stacks[1], 4, &[0, 1]), &stacks[..1], expected);
    }

    #[test]
    fn maps_and_texts_follow_the_layers() {
        check(
            json!({
                "num_hidden_layers": 4,
                "hybrid_override_pattern": "M-*E",
                "per_layer_config": {"1": {"head_dim": 8}, "3": {"head_dim": 4}},
                "id2label": {"0": "no", "1": "yes"},
            }),
            &change("backbone.layers.", 4, &[0, 1, 3, 3]),
            &[],
            json!({
                "num_hidden_layers": 4,
                "hybrid_override_pattern": "M-EE",
                "per_layer_config": {
                    "1": {"head_dim": 8}, "2": {"head_dim": 4}, "3": {"head_dim": 4},
                },
                "id2label": {"0": "no", "1": "yes"},
            }),
        );
        check(
            json!({"layers_block_type": ["mamba", "moe", "attention"]}),
            &change("model.layers.", 3, &[2, 0]),
            &[],
            json!({"layers_block_type": ["attention", "mamba"]}),
        );
    }

    #[test]
    fn kinds_that_follow_from_the_position_are_written_or_refused() {
        // By hand: of eight layers 3 and 7 have full attention; here 3 comes fourth and sixth.
        let next = json!({"model_type": "qwen3_next", "num_hidden_layers": 8});
        let stack = change("model.layers.", 8, &[0, 1, 2, 3, 2, 3]);
        check(
            next.clone(),
            &stack,
            &[],
            json!({
                "model_type": "qwen3_next", "num_hidden_layers": 6,
                "layer_types": [
                    "linear_attention", "linear_attention", "linear_attention", "full_attention",
                    "linear_attention", "full_attention",
                ],
            }),
        );
        // Where every layer keeps its kind, nothing is written.
        check(
            next,
            &change("model.layers.", 8, &[4, 5, 6, 7]),
            &[],
            json!({
                "model_type": "qwen3_next", "num_hidden_layers": 4,
            }),
        );
        let gemma2 = json!({"model_type": "gemma2", "num_hidden_layers": 4});
        check(
            gemma2,
            &change("model.layers.", 4, &[0, 1, 3]),
            &[],
            json!({
                "model_type": "gemma2", "num_hidden_layers": 3,
                "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            }),
        );
        let smol = json!({"model_type": "smollm3", "num_hidden_layers": 4});
        check(
            smol,
            &change("model.layers.", 4, &[3, 0]),
            &[],
            json!({
                "model_type": "smollm3", "num_hidden_layers": 2, "no_rope_layers": [0, 1],
            }),
        );
        let jamba = json!({
            "num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2,
        });
        let fault = refused(jamba, &change("model.layers.", 4, &[0, 2, 3]), &[]);
        let key = "attn_layer_period".to_owned();
        assert_eq!(fault, StackFault::Position { key, position: 1, layer: 2 });
        let deepseek = json!({"num_hidden_layers": 4, "first_k_dense_replace": 1});
        let fault = refused(deepseek, &change("model.layers.", 4, &[1, 0]), &[]);
        let key = "first_k_dense_replace".to_owned();
        assert_eq!(fault, StackFault::Position { key, position: 1, layer: 0 });
    }

    #[test]
    fn the_last_layer_of_a_kind_follows_the_layers() {
        let ernie = |start: i64, end: i64, count: u64| {
            json!({
                "moe_layer_start_index": start, "moe_layer_end_index": end, "num_hidden_layers": count,
            })
        };
        let stack = change("model.layers.", 4, &[0, 1, 2, 1, 2, 3]);
        check(ernie(1, 3, 4), &stack, &[], ernie(1, 5, 6));
        check(ernie(1, -1, 4), &stack, &[], ernie(1, -1, 6));
        check(ernie(0, 1, 4), &change("model.layers.", 4, &[0, 0, 1, 3]), &[], ernie(0, 2, 4));
        let fault = refused(ernie(0, 1, 4), &stack, &[]);
        let key = "moe_layer_end_index".to_owned();
        assert_eq!(fault, StackFault::Position { key: key.clone(), position: 3, layer: 1 });
        let fault = refused(ernie(0, 1, 4), &change("model.layers.", 4, &[2, 3]), &[]);
        assert_eq!(fault, StackFault::Position { key, position: 0, layer: 2 });
    }

    #[test]
    fn predictors_are_no_layers() {
        let glm = json!({"num_hidden_layers": 2, "num_nextn_predict_layers": 1});
        check(
            glm.clone(),
            &change("model.layers.", 3, &[0, 1, 1]),
            &[],
            json!({
                "num_hidden_layers": 3, "num_nextn_predict_layers": 0,
            }),
        );
        let fault = refused(glm, &change("model.layers.", 3, &[0, 2]), &[]);
        assert_eq!(fault, StackFault::Predictor(2));
    }

    #[test]
    fn what_is_packed_or_not_counted_is_refused() {
        let stack = change("model.layers.", 4, &[0]);
        let gemma = json!({"num_hidden_layers": 4, "hidden_size_per_layer_input": 8});
        let packed = StackFault::Packed("hidden_size_per_layer_input".to_owned());
        assert_eq!(refused(gemma, &stack, &[]), packed);
        assert_eq!(refused(json!({"num_hidden_layers": 3}), &stack, &[]), StackFault::NotCounted);
        let two = json!({
            "a_text_config": {"num_hidden_layers": 4}, "b_text_config": {"num_hidden_layers": 4},
        });
        assert!(matches!(refused(two, &stack, &[]), StackFault::Several(_)));
    }
}
