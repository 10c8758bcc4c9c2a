//! Input embeddings that can be the output layer too, and what a model then stores.

use serde_json::Value;

use crate::config::says_tied;

/// Ends of the names of input embeddings, the longer before those that end alike, and of the output layer
/// that each can stand in for.
const PAIRS: [(&str, &str); 6] = [
    ("model.language_model.embed_tokens.weight", "lm_head.weight"),
    ("model.embed_tokens.weight", "lm_head.weight"),
    ("embed_tokens.weight", "lm_head.weight"),
    ("transformer.wte.weight", "lm_head.weight"),
    ("wte.weight", "lm_head.weight"),
    ("gpt_neox.embed_in.weight", "embed_out.weight"),
];

/// Tensors that some files store and that are others under a second name, in families that tie them: T5, BART,
/// Whisper, BERT. With the end of the name of the tensor that they are.
const COPIES: [(&str, &str); 12] = [
    ("model.encoder.embed_tokens.weight", "model.shared.weight"),
    ("model.decoder.embed_tokens.weight", "model.shared.weight"),
    ("encoder.embed_tokens.weight", "shared.weight"),
    ("decoder.embed_tokens.weight", "shared.weight"),
    ("lm_head.weight", "model.shared.weight"),
    ("lm_head.weight", "shared.weight"),
    ("proj_out.weight", "model.decoder.embed_tokens.weight"),
    ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
    ("lm_head.decoder.bias", "lm_head.bias"),
    ("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"),
];

/// The names that a tensor may have of which this is a copy.
pub fn originals_of(copy: &str) -> impl Iterator<Item = &'static str> {
    COPIES.iter().filter(move |(known, _)| *known == copy).map(|(_, original)| *original)
}

/// The name that the output layer beside an input embedding has; none if the name is no input embedding's.
pub fn head_of(embedding: &str) -> Option<String> {
    PAIRS.iter().find_map(|(end, head)| {
        let stem = embedding.strip_suffix(end)?;
        is_stem(stem).then(|| format!("{stem}{head}"))
    })
}

/// The names that the input embedding may have which is tied to an output layer.
pub fn embeddings_of(head: &str) -> impl Iterator<Item = String> {
    PAIRS.iter().filter_map(move |(end, known)| {
        let stem = head.strip_suffix(known)?;
        is_stem(stem).then(|| format!("{stem}{end}"))
    })
}

/// Whether a name is that of an output layer.
pub fn is_head(name: &str) -> bool {
    embeddings_of(name).next().is_some()
}

/// Encoders and decoders have embeddings of their own, whose ties their families know.
fn is_stem(stem: &str) -> bool {
    let is_other = |part: &str| ["encoder", "decoder"].contains(&part);
    (stem.is_empty() || stem.ends_with('.')) && !stem.split('.').any(is_other)
}

/// Whether the output layer of a model that stores none is its embedding. A config that leaves the flag out
/// means its family's default, and a class that generates text has an output layer.
pub fn are_tied(config: Option<&Value>) -> bool {
    let Some(config) = config else { return false };
    says_tied(config).unwrap_or_else(|| generates(config))
}

/// Whether a model's class has an output layer over its vocabulary.
pub fn generates(config: &Value) -> bool {
    let class = config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    let ends = ["ForCausalLM", "ForConditionalGeneration", "LMHeadModel"];
    class.is_some_and(|class| ends.iter().any(|end| class.ends_with(end)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn heads_and_embeddings_name_each_other() {
        let cases = [
            ("model.embed_tokens.weight", Some("lm_head.weight")),
            ("language_model.model.embed_tokens.weight", Some("language_model.lm_head.weight")),
            ("model.language_model.embed_tokens.weight", Some("lm_head.weight")),
            ("gpt_neox.embed_in.weight", Some("embed_out.weight")),
            ("transformer.wte.weight", Some("lm_head.weight")),
            ("encoder.embed_tokens.weight", None),
            ("model.norm.weight", None),
        ];
        for (embedding, head) in cases {
            assert_eq!(head_of(embedding).as_deref(), head, "{embedding}");
            if let Some(head) = head {
                assert!(embeddings_of(head).any(|name| name == embedding), "{embedding}");
                assert!(is_head(head));
            }
        }
        assert!(!is_head("score.weight"));
    }

    #[test]
    fn a_class_that_generates_is_tied_unless_its_config_says_otherwise() {
        let class = |class: &str| json!({"architectures": [class]});
        assert!(are_tied(Some(&class("GemmaForCausalLM"))));
        assert!(!are_tied(Some(&class("LlamaModel"))));
        assert!(!are_tied(None));
        assert!(!are_tied(Some(&json!({
            "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": false,
        }))));
        assert!(are_tied(Some(&json!({"tie_word_embeddings": true}))));
    }
}
