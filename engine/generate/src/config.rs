//! What config.json says of a model, and whether it is one that can be run here.

mod gpt2;
mod llama;
mod rope;

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

use crate::arithmetic::Activation;
use crate::rope::Rope;

/// Families that are run.
const FAMILIES: [&str; 4] = ["gpt2", "llama", "mistral", "qwen2"];

/// The numbers of a model.
#[derive(Clone, Debug)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// What each layer does in its own way.
    pub layers: Vec<LayerConfig>,
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
    /// How the model is built.
    pub form: Form,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// Tokens that end an answer.
    pub ends: Vec<u32>,
    /// The most positions that the model knows; none where nothing is said.
    pub most_positions: Option<usize>,
}

/// How a model is built.
#[derive(Clone, Debug)]
pub enum Form {
    /// Root-mean-square norms, turned queries and keys, a gated feed-forward part: llama, mistral and
    /// qwen2. Which biases there are, the tensors tell.
    Llama(Rope),
    /// Norms with means, learned positions, a plain feed-forward part: gpt2.
    Gpt2(Activation),
}

/// What a layer does in its own way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerConfig {
    /// So many positions are seen, its own among them; none for all before.
    pub window: Option<usize>,
    /// What scores of attention are multiplied by.
    pub scale: f32,
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
        let ends = generation.and_then(|generation| generation.get("eos_token_id"));
        let ends = ends.or_else(|| self.get("eos_token_id")).map(ids).unwrap_or_default();
        match family {
            "gpt2" => self.gpt2(ends),
            known if FAMILIES.contains(&known) => self.llama(known, ends),
            other => {
                let headline = match other {
                    "" => "the model's family is not known: `model_type` is missing".to_owned(),
                    other => format!("models of the family `{other}` are not run here"),
                };
                let help = "let a program of yours answer: `generator: {command: …}`";
                let error = Diagnostic::error(codes::GENERATOR_FAMILY, headline)
                    .fact("families", FAMILIES.join(", "))
                    .help(help);
                self.found.push(error.in_file(self.shown));
                None
            }
        }
    }

    /// A key of the language model's part, else of the whole. Null counts as not there.
    fn get(&self, key: &str) -> Option<&Value> {
        let given = |value: &&Value| !value.is_null();
        self.part.get(key).filter(given).or_else(|| self.whole.get(key).filter(given))
    }

    fn is_set(&self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool) == Some(true)
    }

    fn optional_size(&self, key: &str) -> Option<usize> {
        let value = self.part.get(key)?.as_u64().filter(|&value| value > 0)?;
        usize::try_from(value).ok()
    }

    fn size(&mut self, key: &str) -> Option<usize> {
        self.size_of(&[key])
    }

    /// A size that has several names.
    fn size_of(&mut self, keys: &[&str]) -> Option<usize> {
        let size = keys.iter().find_map(|key| self.optional_size(key));
        if size.is_none() {
            let headline = format!("`{}` must be a whole number from 1", keys[0]);
            let error = Diagnostic::error(codes::CONFIG_BROKEN, headline);
            let found = keys.iter().find_map(|key| self.part.get(*key));
            let found = found.map_or("nothing".to_owned(), Value::to_string);
            self.found.push(error.in_file(self.shown).fact("found", found));
        }
        size
    }

    fn broken(&mut self, headline: impl Into<String>, facts: &[(&str, String)]) {
        let error = Diagnostic::error(codes::CONFIG_BROKEN, headline);
        let error = facts.iter().fold(error, |error, (name, value)| error.fact(*name, value));
        self.found.push(error.in_file(self.shown));
    }

    fn unsupported(&mut self, key: &str, found: &str, expected: &str) {
        let headline = format!("models with `{key}: {found}` are not run here");
        let error = Diagnostic::error(codes::GENERATOR_FAMILY, headline).fact("expected", expected);
        self.found.push(error.in_file(self.shown));
    }
}

/// One id or several.
fn ids(value: &Value) -> Vec<u32> {
    let one = std::slice::from_ref(value);
    let values = value.as_array().map_or(one, Vec::as_slice);
    values.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

#[cfg(test)]
mod tests;
