//! Whether a model says that its output layer is its embedding.

use serde_json::Value;

/// `tie_word_embeddings` at the top of a config, or of its language model.
pub(crate) fn tied_flag(config: &Value) -> Option<bool> {
    let own = config.get("tie_word_embeddings");
    let nested = config.get("text_config").and_then(|text| text.get("tie_word_embeddings"));
    own.or(nested).and_then(Value::as_bool)
}
