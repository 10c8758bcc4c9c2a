//! Text to tokens and back, by the model's tokenizer.json.

use std::path::Path;

use mixdown_checkpoint::{shown_path, small};
use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::template::Template;

/// The texts of a model.
#[derive(Debug)]
pub struct Text {
    tokenizer: Option<Tokenizer>,
    template: Option<Template>,
}

impl Text {
    /// What is in the model's folder. A model without a tokenizer answers prompts of `input_ids`.
    pub fn read(folder: &Path) -> Result<Self, Vec<Diagnostic>> {
        let path = folder.join("tokenizer.json");
        let shown = shown_path(&path);
        let bytes = small::bytes_if_there(&path, &shown).map_err(|fault| vec![*fault])?;
        let tokenizer = bytes.map(Tokenizer::from_bytes).transpose().map_err(|error| {
            let headline = format!("the tokenizer cannot be understood: {error}");
            vec![Diagnostic::error(codes::GENERATOR_TEXT, headline).in_file(shown)]
        })?;
        Ok(Self { tokenizer, template: Template::read(folder)? })
    }

    /// Messages as one text. Without a template, the contents one below the other.
    pub fn of_messages(&self, messages: &[Value]) -> Result<String, String> {
        match &self.template {
            Some(template) => template.render(messages),
            None => {
                let contents: Vec<&str> =
                    messages.iter().filter_map(|message| message["content"].as_str()).collect();
                Ok(contents.join("\n"))
            }
        }
    }

    /// The tokens of a text. Templates write the special tokens themselves; without one, `is_first`
    /// lets the tokenizer add those that begin a text.
    pub fn encode(&self, text: &str, is_first: bool) -> Result<Vec<u32>, String> {
        let Some(tokenizer) = &self.tokenizer else {
            return Err("the model has no tokenizer.json: give `input_ids`".to_owned());
        };
        let add_special = is_first && self.template.is_none();
        let encoding = tokenizer.encode_fast(text, add_special);
        let encoding = encoding.map_err(|error| format!("the text has no tokens: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of a text as it stands: special tokens are those that are written in it.
    pub fn plain(&self, text: &str) -> Result<Vec<u32>, String> {
        let Some(tokenizer) = &self.tokenizer else {
            return Err("the model has no tokenizer.json".to_owned());
        };
        let encoding = tokenizer.encode_fast(text, false);
        let encoding = encoding.map_err(|error| format!("the text has no tokens: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether tokens have a text.
    pub fn has_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// The text of tokens without special ones; their numbers, with spaces between, where there is no
    /// tokenizer.
    pub fn decode(&self, ids: &[u32]) -> Result<String, String> {
        match &self.tokenizer {
            Some(tokenizer) => tokenizer
                .decode(ids, true)
                .map_err(|error| format!("the tokens have no text: {error}")),
            None => Ok(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
        }
    }
}
