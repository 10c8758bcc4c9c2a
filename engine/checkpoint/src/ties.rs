//! Input embeddings that can be the output layer too, and what a model then stores.

use serde_json::Value;

use crate::config::says_tied;
use crate::known::names;

/// The names that a tensor may have of which this is a copy.
pub fn originals_of(copy: &str) -> impl Iterator<Item = &'static str> {
    let own = names().copies.iter().filter(move |[known, _]| known == copy);
    own.map(|[_, original]| original.as_str())
}

/// The names under which families that tie them have this tensor a second time.
pub fn copies_of(original: &str) -> impl Iterator<Item = &'static str> {
    let own = names().copies.iter().filter(move |[_, known]| known == original);
    own.map(|[copy, _]| copy.as_str())
}

/// Whether a name of a copy is that of an output layer.
pub fn is_copied_head(name: &str) -> bool {
    names().copied_heads.iter().any(|known| known == name)
}

/// The name that the output layer beside an input embedding has; none if the name is no input embedding's.
pub fn head_of(embedding: &str) -> Option<String> {
    names().tied.iter().find_map(|[end, head]| {
        let stem = embedding.strip_suffix(end.as_str())?;
        is_stem(stem).then(|| format!("{stem}{head}"))
    })
}

/// The names that the input embedding may have which is tied to an output layer.
pub fn embeddings_of(head: &str) -> impl Iterator<Item = String> {
    names().tied.iter().filter_map(move |[end, known]| {
        let stem = head.strip_suffix(known.as_str())?;
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
