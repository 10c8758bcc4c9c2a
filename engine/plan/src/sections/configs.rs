//! What configurations of models that are merged tensor by tensor say differently behind equal shapes: head
//! counts, angles, activations. The output has one configuration, and the others' weights were trained by
//! another.

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

use crate::report::Reporter;
use crate::sections::pair::{Input, Section};

/// Keys under which a number or word changes what weights mean, and no shape. Each with the other names that
/// families have for it.
const KEYS: [&[&str]; 16] = [
    &["model_type"],
    &["num_attention_heads", "n_head", "num_heads", "encoder_attention_heads"],
    &["num_key_value_heads", "num_kv_heads"],
    &["head_dim"],
    &["rope_theta", "rope_parameters.rope_theta", "rotary_emb_base"],
    &["rope_scaling.rope_type", "rope_scaling.type", "rope_parameters.rope_type"],
    &["rope_scaling.factor", "rope_parameters.factor"],
    &["partial_rotary_factor", "rotary_pct", "rope_parameters.partial_rotary_factor"],
    &["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "layer_norm_eps"],
    &["hidden_act", "hidden_activation", "activation_function", "feed_forward_proj"],
    &["num_experts_per_tok", "moe_topk", "top_k"],
    &["norm_topk_prob"],
    &["attn_logit_softcapping"],
    &["final_logit_softcapping"],
    &["query_pre_attn_scalar"],
    &["sliding_window"],
];

/// Other keys of this meaning, wherever they stand: in towers, in angles for each kind of layer, in families of
/// their own.
const OTHERS: [&str; 31] = [
    "alibi",
    "attention_factor",
    "audio_token_id",
    "beta_fast",
    "beta_slow",
    "clip_qkv",
    "dim_model_base",
    "high_freq_factor",
    "image_token_id",
    "image_token_index",
    "layer_types",
    "long_factor",
    "low_freq_factor",
    "max_window_layers",
    "mrope_section",
    "mscale",
    "mscale_all_dim",
    "n_group",
    "no_rope_layers",
    "original_max_position_embeddings",
    "parallel_attn",
    "rope_interleave",
    "scale_depth",
    "scale_emb",
    "scoring_func",
    "short_factor",
    "topk_group",
    "topk_method",
    "use_parallel_residual",
    "use_sliding_window",
    "vision_feature_layer",
];

/// Ends of the names of such keys.
const ENDS: [&str; 14] = [
    "_act",
    "_activation",
    "_attention_heads",
    "_base_freq",
    "_eps",
    "_epsilon",
    "_heads",
    "_multiplier",
    "_scale",
    "_scaling",
    "_scaling_factor",
    "_softcapping",
    "_theta",
    "_window",
];

/// Parts of parts of parts, and the angles of one kind of layers in them.
const DEEPEST: usize = 5;

/// Differences that are told one by one.
const MOST_TOLD: usize = 12;

/// Where configs of models with several parts keep those of the language model.
const TEXT_PARTS: [&str; 4] =
    ["text_config", "llm_config", "language_config", "thinker_config.text_config"];

impl Section<'_> {
    /// Warns where the configurations of the inputs do not go together.
    pub(crate) fn compare_configs(&self, reporter: &mut Reporter) {
        if self.is_implied {
            return;
        }
        let base = self.inputs.iter().find(|input| input.is_base).or(self.inputs.first());
        let Some((base, of_base)) = base.and_then(|base| Some((base, own(base)?))) else {
            return;
        };
        for input in self.inputs.iter().filter(|input| !std::ptr::eq(*input, base)) {
            let Some(other) = own(input) else { continue };
            let (ours, theirs) = of_one_part(of_base, other);
            let differing = differences(ours, theirs);
            if differing.is_empty() {
                continue;
            }
            let (a, b) = (&base.view.name, &input.view.name);
            let headline = format!("the configs of `{a}` and `{b}` differ behind equal shapes");
            let mut warning = Diagnostic::warning(codes::CONFIGS_DIFFER, headline);
            let more = differing.len().saturating_sub(MOST_TOLD);
            for (key, ours, theirs) in differing.into_iter().take(MOST_TOLD) {
                warning = warning.fact(key, format!("{ours} in `{a}`, {theirs} in `{b}`"));
            }
            if more > 0 {
                warning = warning.fact("and", format!("{more} more keys"));
            }
            warning = warning.note(
                "weights that were trained with one value mean something else with the other",
            );
            reporter.add(warning.at(self.source, input.span));
        }
    }
}

/// The configuration of an input; a part under the names of another model has that of its own one.
fn own<'a>(input: &Input<'a>) -> Option<&'a Value> {
    input.view.config.filter(|_| input.view.names_of.is_none())
}

/// The two configurations, or of a model of several parts that of the part which the other model is: an encoder
/// beside the model that has one.
fn of_one_part<'a>(ours: &'a Value, theirs: &'a Value) -> (&'a Value, &'a Value) {
    let part = |whole: &'a Value, other: &Value| {
        let wanted = other.get("model_type")?.as_str()?;
        if whole.get("model_type")?.as_str()? == wanted {
            return None;
        }
        let mut parts = whole.as_object()?.values();
        parts.find(|part| part.get("model_type").and_then(Value::as_str) == Some(wanted))
    };
    (part(ours, theirs).unwrap_or(ours), part(theirs, ours).unwrap_or(theirs))
}

/// Keys whose values differ, with both.
fn differences(ours: &Value, theirs: &Value) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    for names in KEYS {
        let said = |config: &Value| names.iter().find_map(|key| value(config, key));
        let (a, b) = (said(ours), said(theirs));
        let is_equal = match (&a, &b) {
            (Some(a), Some(b)) => match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => a == b,
                _ => a == b,
            },
            // What is left out is the family's default, which is not known here; only that positions are
            // stretched in one of them is.
            (None, Some(other)) | (Some(other), None) => {
                !(names[0].starts_with("rope_scaling") && *other != "default" && *other != 1.0)
            }
            (None, None) => true,
        };
        if !is_equal {
            let text =
                |value: Option<Value>| value.map_or("not said".to_owned(), |v| v.to_string());
            found.push((names[0].to_owned(), text(a), text(b)));
        }
    }
    walk(ours, theirs, &mut Vec::new(), &mut found);
    found
}

/// What both configs say differently under the other keys.
fn walk<'v>(
    ours: &'v Value,
    theirs: &'v Value,
    path: &mut Vec<&'v str>,
    found: &mut Vec<(String, String, String)>,
) {
    let (Some(a), Some(b)) = (ours.as_object(), theirs.as_object()) else { return };
    for (key, a) in a {
        let Some(b) = b.get(key).filter(|b| *b != a) else { continue };
        path.push(key);
        let shown = path.join(".");
        let count = |value: &Value| value.as_object().map(serde_json::Map::len);
        if *key == "id2label" && path.len() == 1 && count(a) == count(b) {
            // Heads of equal shapes, whose rows mean other labels.
            found.push((shown, text_of(a), text_of(b)));
        } else if a.is_object() && b.is_object() {
            if path.len() < DEEPEST {
                walk(a, b, path, found);
            }
        } else if has_meaning(key)
            && !is_known(&shown)
            && !(a.is_null() || b.is_null())
            && a.as_f64().zip(b.as_f64()).is_none_or(|(a, b)| a != b)
        {
            found.push((shown, text_of(a), text_of(b)));
        }
        path.pop();
    }
}

fn has_meaning(key: &str) -> bool {
    OTHERS.contains(&key)
        || ENDS.iter().any(|end| key.ends_with(end))
        || KEYS
            .iter()
            .flat_map(|names| names.iter())
            .any(|name| *name == key && key != "model_type")
}

/// Whether a key has been compared with its other names.
fn is_known(path: &str) -> bool {
    let inner = TEXT_PARTS.iter().find_map(|part| path.strip_prefix(part)?.strip_prefix('.'));
    let own = inner.unwrap_or(path);
    KEYS.iter().flat_map(|names| names.iter()).any(|name| *name == own)
}

/// A value as it is told; long lists are not told whole.
fn text_of(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match value {
        Value::Array(list) if text.len() > LONGEST => format!("a list of {}", list.len()),
        Value::Object(map) if text.len() > LONGEST => format!("{} others", map.len()),
        _ => text,
    }
}

/// The value under a key of the language model's part, else of the whole.
fn value(config: &Value, key: &str) -> Option<Value> {
    let walk = |start: &Value, path: &str| {
        path.split('.').try_fold(start.clone(), |value, part| value.get(part).cloned())
    };
    let parts = TEXT_PARTS.iter().filter_map(|part| walk(config, part));
    let nested =
        if key == "model_type" { None } else { parts.filter_map(|part| walk(&part, key)).next() };
    nested
        .or_else(|| walk(config, key))
        .filter(|value| value.is_number() || value.is_string() || value.is_boolean())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(ours: Value, theirs: Value) -> Vec<String> {
        let (ours, theirs) = of_one_part(&ours, &theirs);
        differences(ours, theirs).into_iter().map(|(key, ..)| key).collect()
    }

    /// An encoder is compared with the part of its kind, and not with the language model beside it.
    #[test]
    fn a_part_is_compared_with_its_like() {
        let whole = |heads: u32| {
            json!({
                "model_type": "clip",
                "text_config": {"model_type": "clip_text_model", "num_attention_heads": 8},
                "vision_config": {"model_type": "clip_vision_model", "num_attention_heads": heads},
            })
        };
        let encoder = json!({"model_type": "clip_vision_model", "num_attention_heads": 12});
        assert_eq!(keys(whole(12), encoder.clone()), [""; 0]);
        assert_eq!(keys(encoder.clone(), whole(12)), [""; 0]);
        assert_eq!(keys(whole(16), encoder), ["num_attention_heads"]);
    }

    #[test]
    fn equal_values_under_other_keys_are_equal() {
        let old =
            json!({"rope_theta": 10000.0, "num_attention_heads": 4, "torch_dtype": "float16"});
        let new = json!({
            "rope_parameters": {"rope_theta": 10000, "rope_type": "default"},
            "num_attention_heads": 4,
        });
        assert_eq!(keys(old.clone(), new), [""; 0]);
        let angles = json!({"rope_theta": 1000000.0, "num_attention_heads": 8});
        assert_eq!(keys(old, angles), ["num_attention_heads", "rope_theta"]);
    }

    #[test]
    fn stretched_positions_are_told_and_other_defaults_are_not_guessed() {
        let plain = json!({"model_type": "llama", "rope_scaling": null});
        let stretched =
            json!({"model_type": "llama", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}});
        assert_eq!(keys(plain, stretched), ["rope_scaling.rope_type", "rope_scaling.factor"]);
        assert_eq!(keys(json!({}), json!({"head_dim": 128, "hidden_act": "silu"})), [""; 0]);
    }

    /// Angles of each kind of layer, factors of Granite, heads of a tower; not what training leaves behind.
    #[test]
    fn what_stands_elsewhere_is_compared_too() {
        let gemma = |angle: f64, heads: u32, dropout: f64| {
            json!({
                "text_config": {
                    "rope_parameters": {"full_attention": {"rope_theta": angle, "rope_type": "default"}},
                    "attention_dropout": dropout,
                },
                "vision_config": {"num_attention_heads": heads},
                "transformers_version": dropout.to_string(),
            })
        };
        let expected = [
            "text_config.rope_parameters.full_attention.rope_theta",
            "vision_config.num_attention_heads",
        ];
        assert_eq!(keys(gemma(1e6, 16, 0.0), gemma(1e4, 8, 0.1)), expected);
        let labels = |first: &str| json!({"id2label": {"0": first, "1": "b"}});
        assert_eq!(keys(labels("a"), labels("c")), ["id2label"]);
        let granite = |factor: f64| json!({"embedding_multiplier": factor, "num_hidden_layers": 1});
        assert_eq!(keys(granite(12.0), granite(6.0)), ["embedding_multiplier"]);
        assert_eq!(keys(granite(12.0), json!({"embedding_multiplier": 12})), [""; 0]);
    }

    #[test]
    fn the_language_model_s_part_counts() {
        let config = |act: &str| json!({"text_config": {"hidden_act": act}, "hidden_act": "x"});
        assert_eq!(keys(config("silu"), config("gelu")), ["hidden_act"]);
    }
}
