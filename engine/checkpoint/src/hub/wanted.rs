//! Which files of a repository a merge needs: weights, configuration, tokenizer, templates, code.

use crate::open::{USUAL_INDEX, is_index, is_second_copy, is_weights, torch_names};

/// Endings of the small files that belong to a model.
const SMALL: [&str; 7] = [".json", ".jinja", ".model", ".py", ".tiktoken", ".txt", ".yaml"];

/// Further chat templates, the only folder that is looked into.
const TEMPLATES: &str = "additional_chat_templates/";

/// The files to fetch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    /// Everything but weights, the index included.
    pub small: Vec<&'a str>,
    /// The index of the weights, if there is one.
    pub index: Option<&'a str>,
    /// Weights, if there is no index that names them, and adapters.
    pub weights: Vec<&'a str>,
}

/// Chooses from the names of all files of a repository.
pub(super) fn wanted<'a>(names: impl IntoIterator<Item = &'a str>) -> Wanted<'a> {
    let mut wanted = Wanted::default();
    let mut torch = Vec::new();
    for name in names {
        if !is_safe(name) {
            continue;
        }
        let template = name.strip_prefix(TEMPLATES).is_some_and(|rest| !rest.contains('/'));
        if name.contains('/') && !template {
            continue;
        }
        if is_weights(name) {
            wanted.weights.push(name);
        } else if torch_names::is_weights(name) {
            torch.push(name);
        } else if name.starts_with("tokenizer") || SMALL.iter().any(|end| name.ends_with(end)) {
            wanted.small.push(name);
        }
    }
    let mut indexes = wanted.small.iter().copied().filter(|name| is_index(name));
    wanted.index = indexes.clone().find(|name| *name == USUAL_INDEX).or(indexes.next());
    if wanted.index.is_some() {
        wanted.weights.retain(|name| name.starts_with("adapter_"));
    } else if wanted.weights.is_empty() {
        // Most repositories hold both, and need be fetched only once.
        let mut indexes = wanted.small.iter().copied().filter(|name| torch_names::is_index(name));
        let usual = indexes.clone().find(|name| *name == torch_names::USUAL_INDEX);
        wanted.index = usual.or(indexes.next());
        if wanted.index.is_none() {
            wanted.weights = torch_names::weights(torch.into_iter());
        }
    } else if !wanted.weights.iter().all(|name| is_second_copy(name)) {
        wanted.weights.retain(|name| !is_second_copy(name));
    }
    wanted
}

/// Whether a name stays in its folder and needs no quoting in an address.
pub(super) fn is_safe(name: &str) -> bool {
    name.len() <= 255
        && name.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./+=@".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_model_is_fetched_and_nothing_else() {
        let all = [
            ".gitattributes",
            "README.md",
            "additional_chat_templates/tool.jinja",
            "chat_template.jinja",
            "config.json",
            "consolidated.safetensors",
            "merges.txt",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "modeling_x.py",
            "onnx/model.onnx",
            "onnx/config.json",
            "original/consolidated.00.pth",
            "pytorch_model.bin",
            "qwen.tiktoken",
            "tokenizer.json",
            "tokenizer.model",
        ];
        let wanted = wanted(all);
        assert_eq!(
            wanted.small,
            [
                "additional_chat_templates/tool.jinja",
                "chat_template.jinja",
                "config.json",
                "merges.txt",
                "model.safetensors.index.json",
                "modeling_x.py",
                "qwen.tiktoken",
                "tokenizer.json",
                "tokenizer.model",
            ]
        );
        assert_eq!(wanted.index, Some("model.safetensors.index.json"));
        assert_eq!(wanted.weights, [""; 0]);
    }

    #[test]
    fn without_an_index_all_weights_are_fetched_once() {
        let both = ["consolidated.safetensors", "model.safetensors"];
        assert_eq!(wanted(both).weights, ["model.safetensors"]);
        assert_eq!(wanted(["consolidated.safetensors"]).weights, ["consolidated.safetensors"]);
        let adapter = ["adapter_config.json", "adapter_model.safetensors"];
        assert_eq!(wanted(adapter).weights, ["adapter_model.safetensors"]);
        assert_eq!(wanted(adapter).small, ["adapter_config.json"]);
    }

    #[test]
    fn torch_s_files_are_fetched_where_there_are_no_safetensors() {
        let both = ["model.safetensors", "pytorch_model.bin"];
        assert_eq!(wanted(both).weights, ["model.safetensors"]);
        let old = ["optimizer.pt", "pytorch_model.bin", "training_args.bin"];
        assert_eq!(wanted(old).weights, ["pytorch_model.bin"]);
        let shards = ["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"];
        assert_eq!(wanted(shards).weights, shards);
        let index = "pytorch_model.bin.index.json";
        let indexed = wanted(["pytorch_model-1-of-1.bin", index]);
        assert_eq!((indexed.index, indexed.weights.as_slice()), (Some(index), [""; 0].as_slice()));
        let both = wanted([index, "model.safetensors.index.json"]);
        assert_eq!(both.index, Some("model.safetensors.index.json"));
    }

    /// The names come from the network and become paths.
    #[test]
    fn names_that_lead_elsewhere_are_left_alone() {
        for name in ["../a.json", "/etc/a.json", "a/../b.json", "a\\b.json", "a b.json", ".a.json"]
        {
            assert!(!is_safe(name), "{name}");
            assert_eq!(wanted([name]), Wanted::default(), "{name}");
        }
    }
}
