//! What config.json says of a model, and whether it is one that can be run here.

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

use crate::rope::{Rope, Scaling};

/// Families that are run. They share the forward pass; which biases there are, the tensors tell.
const FAMILIES: [&str; 2] = ["llama", "qwen2"];

/// The numbers of a model.
#[derive(Clone, Debug)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Count of layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head: usize,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// What is added to mean squares.
    pub epsilon: f32,
    /// The angles of positions.
    pub rope: Rope,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// Tokens that end an answer.
    pub ends: Vec<u32>,
    /// The most positions that the model knows; none where nothing is said.
    pub most_positions: Option<usize>,
}

impl Config {
    /// Reads a config, and what the generation config says of tokens that end an answer.
    ///
    /// The language model's part may stand in `text_config`, as in models with more parts.
    pub fn read(
        config: &Value,
        generation: Option<&Value>,
        shown: &str,
    ) -> Result<Self, Vec<Diagnostic>> {
        let part = config.get("text_config").filter(|part| part.is_object()).unwrap_or(config);
        let mut reader = Reader { part, whole: config, shown, found: Vec::new() };
        let read = reader.config(generation);
        match read {
            Some(read) if reader.found.is_empty() => Ok(read),
            _ => Err(reader.found),
        }
    }
}

struct Reader<'a> {
    part: &'a Value,
    whole: &'a Value,
    shown: &'a str,
    found: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn config(&mut self, generation: Option<&Value>) -> Option<Config> {
        let family = self.part.get("model_type").and_then(Value::as_str).unwrap_or_default();
        if !FAMILIES.contains(&family) {
            let headline = match family {
                "" => "the model's family is not known: `model_type` is missing".to_owned(),
                other => format!("models of the family `{other}` are not run here"),
            };
            let help = "let a program of yours answer: `generator: {command: …}`";
            let error = Diagnostic::error(codes::GENERATOR_FAMILY, headline)
                .fact("families", FAMILIES.join(", "))
                .help(help);
            self.found.push(error.in_file(self.shown));
            return None;
        }
        let activation = self.get("hidden_act").and_then(Value::as_str).map(str::to_owned);
        if let Some(activation) = activation.filter(|activation| activation != "silu") {
            self.unsupported("hidden_act", &activation, "silu");
        }
        if self.get("use_sliding_window").and_then(Value::as_bool) == Some(true) {
            self.unsupported("use_sliding_window", "true", "false");
        }
        let hidden = self.size("hidden_size");
        let heads = self.size("num_attention_heads");
        let intermediate = self.size("intermediate_size");
        let layers = self.size("num_hidden_layers");
        let vocabulary = self.size("vocab_size");
        let (hidden, heads) = (hidden?, heads?);
        let kv_heads = self.optional_size("num_key_value_heads").unwrap_or(heads);
        let head = self.optional_size("head_dim").unwrap_or(hidden / heads);
        if !heads.is_multiple_of(kv_heads) || !head.is_multiple_of(2) || head == 0 {
            let error = Diagnostic::error(codes::CONFIG_BROKEN, "the heads do not go together");
            let error = error
                .fact("num_attention_heads", heads.to_string())
                .fact("num_key_value_heads", kv_heads.to_string())
                .fact("numbers of a head", head.to_string());
            self.found.push(error.in_file(self.shown));
        }
        let epsilon = self.get("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6);
        let most_positions = self.optional_size("max_position_embeddings");
        let rope = self.rope(head, most_positions)?;
        let tied = self.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
        let ends = generation.and_then(|generation| generation.get("eos_token_id"));
        let ends = ends.or_else(|| self.get("eos_token_id")).map(ids).unwrap_or_default();
        Some(Config {
            hidden,
            intermediate: intermediate?,
            layers: layers?,
            heads,
            kv_heads,
            head,
            vocabulary: vocabulary?,
            epsilon: epsilon as f32,
            rope,
            tied,
            ends,
            most_positions,
        })
    }

    /// A key of the language model's part, else of the whole. Null counts as not there.
    fn get(&self, key: &str) -> Option<&Value> {
        let given = |value: &&Value| !value.is_null();
        self.part.get(key).filter(given).or_else(|| self.whole.get(key).filter(given))
    }

    fn optional_size(&self, key: &str) -> Option<usize> {
        let value = self.part.get(key)?.as_u64().filter(|&value| value > 0)?;
        usize::try_from(value).ok()
    }

    fn size(&mut self, key: &str) -> Option<usize> {
        let size = self.optional_size(key);
        if size.is_none() {
            let headline = format!("`{key}` must be a whole number from 1");
            let error = Diagnostic::error(codes::CONFIG_BROKEN, headline);
            let found = self.part.get(key).map_or("nothing".to_owned(), Value::to_string);
            self.found.push(error.in_file(self.shown).fact("found", found));
        }
        size
    }

    fn unsupported(&mut self, key: &str, found: &str, expected: &str) {
        let headline = format!("models with `{key}: {found}` are not run here");
        let error = Diagnostic::error(codes::GENERATOR_FAMILY, headline).fact("expected", expected);
        self.found.push(error.in_file(self.shown));
    }

    /// Angles, as older and newer configs state them.
    fn rope(&mut self, head: usize, most_positions: Option<usize>) -> Option<Rope> {
        let scaling = self.get("rope_parameters").or_else(|| self.get("rope_scaling")).cloned();
        let scaling = scaling.unwrap_or(Value::Null);
        let number = |key: &str| scaling.get(key).and_then(Value::as_f64);
        let theta = number("rope_theta")
            .or_else(|| self.get("rope_theta").and_then(Value::as_f64))
            .unwrap_or(10000.0);
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
        let kind = kind.and_then(Value::as_str).unwrap_or("default");
        let length = number("original_max_position_embeddings")
            .or(most_positions.map(|positions| positions as f64));
        let scaling = match kind {
            "default" => Some(Scaling::None),
            "linear" => number("factor").map(|factor| Scaling::Linear { factor }),
            "llama3" => (|| {
                Some(Scaling::Llama3 {
                    factor: number("factor")?,
                    low: number("low_freq_factor")?,
                    high: number("high_freq_factor")?,
                    length: length?,
                })
            })(),
            other => {
                self.unsupported("rope_type", other, "default, linear or llama3");
                return None;
            }
        };
        if scaling.is_none() {
            let headline = format!("the angles of type `{kind}` lack a number");
            self.found.push(Diagnostic::error(codes::CONFIG_BROKEN, headline).in_file(self.shown));
        }
        Some(Rope::new(head, theta, scaling?))
    }
}

/// One id or several.
fn ids(value: &Value) -> Vec<u32> {
    let one = std::slice::from_ref(value);
    let values = value.as_array().map_or(one, Vec::as_slice);
    values.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain() -> Value {
        json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "vocab_size": 10,
            "num_hidden_layers": 2, "num_attention_heads": 2, "rms_norm_eps": 1e-5,
            "eos_token_id": 1, "max_position_embeddings": 64})
    }

    #[track_caller]
    fn refused(config: &Value, words: &[&str]) {
        let found = Config::read(config, None, "config.json").unwrap_err();
        let told: Vec<&str> = found.iter().map(|error| error.headline.as_str()).collect();
        for word in words {
            assert!(told.iter().any(|headline| headline.contains(word)), "{word}: {told:?}");
        }
    }

    #[test]
    fn flat_and_nested_configs_say_the_same() {
        let flat = Config::read(&plain(), None, "").unwrap();
        assert_eq!((flat.kv_heads, flat.head, flat.ends.as_slice()), (2, 4, &[1][..]));
        let mut inner = plain();
        inner.as_object_mut().unwrap().remove("eos_token_id");
        let outer = json!({"model_type": "llava", "text_config": inner, "eos_token_id": [1, 7],
            "hidden_size": 99, "tie_word_embeddings": true});
        let nested = Config::read(&outer, None, "").unwrap();
        assert_eq!((nested.hidden, nested.tied, nested.ends.as_slice()), (8, true, &[1, 7][..]));
        let generation = json!({"eos_token_id": [3]});
        assert_eq!(Config::read(&plain(), Some(&generation), "").unwrap().ends, [3]);
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let with = |key: &str, value: Value| {
            let mut config = plain();
            config[key] = value;
            config
        };
        refused(&with("model_type", json!("mamba")), &["family `mamba`"]);
        refused(&with("hidden_act", json!("gelu")), &["hidden_act: gelu"]);
        refused(&with("use_sliding_window", json!(true)), &["use_sliding_window"]);
        refused(&with("rope_scaling", json!({"type": "yarn", "factor": 4})), &["rope_type: yarn"]);
        refused(&with("rope_scaling", json!({"rope_type": "llama3"})), &["lack a number"]);
        refused(&with("num_key_value_heads", json!(3)), &["heads do not go together"]);
        refused(&with("head_dim", json!(3)), &["heads do not go together"]);
        let mut config = with("vocab_size", json!(0));
        config["num_hidden_layers"] = json!("2");
        refused(&config, &["`vocab_size`", "`num_hidden_layers`"]);
    }
}
