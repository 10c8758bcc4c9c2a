//! What the files of `schemas/architectures` tell about a model: its family, and for each tensor its
//! module, role and layer. Knowledge and never a gate: a tensor that no file describes has no role.

use std::sync::LazyLock;

use mixdown_diagnostics::{Diagnostic, Source};
use mixdown_recipe::architecture::{Architecture, Module, Role, Size, SizeValues, TensorTemplate};
use serde_json::Value;

use crate::families::tensor_class::OfFamily;

/// File name and text of each built-in architecture.
static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/architectures.rs"));

static BUILT_IN: LazyLock<Architectures> = LazyLock::new(|| {
    let read = Architectures::read(&sources());
    read.expect("the files that are built in are without mistakes, which a test holds")
});

fn sources() -> Vec<Source> {
    let named = |(name, text): &(&str, &str)| {
        Source::new(format!("schemas/architectures/{name}"), (*text).to_owned())
    };
    FILES.iter().map(named).collect()
}

/// The families that are known, in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub struct Architectures {
    list: Vec<Architecture>,
}

/// What is known about a tensor.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Its module.
    pub module: &'a Module,
    /// All that its family says of it and of those like it.
    pub tensor: &'a TensorTemplate,
    /// What it does.
    pub role: Role,
    /// Its layer within the module.
    pub layer: Option<u64>,
    /// Its name as it would be with the module's first prefix: the same in models that call it differently.
    pub canonical: String,
    /// The canonical name of the tensor that it is tied to, where the configuration ties them.
    pub tied_to: Option<String>,
}

impl Architectures {
    /// Those that are part of mixdown.
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// Those of some files.
    ///
    /// **Errors.** Every mistake in the files.
    pub fn read(files: &[Source]) -> Result<Self, Vec<Diagnostic>> {
        mixdown_recipe::read_architectures(files).map(|list| Self { list })
    }

    /// All of them, in the order in which they are asked.
    pub fn iter(&self) -> impl Iterator<Item = &Architecture> {
        self.list.iter()
    }

    /// The family of this name.
    pub fn get(&self, name: &str) -> Option<&Architecture> {
        self.list.iter().find(|known| known.name.value == name)
    }

    /// The family of a model: by its configuration, or by its tensors where the configuration does not
    /// tell. A configuration that names something unknown is overruled only by a family that describes
    /// every tensor.
    pub fn recognize<'n>(
        &self,
        names: impl Iterator<Item = &'n str> + Clone,
        config: Option<&Value>,
    ) -> Option<&Architecture> {
        let config = config.unwrap_or(&Value::Null);
        let class =
            config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        let model_type = config.get("model_type").and_then(Value::as_str);
        let is_said = |one: &&Architecture| {
            let said = |(path, patterns): &(String, Vec<mixdown_recipe::Pattern>)| {
                texts(config, path)
                    .iter()
                    .any(|text| patterns.iter().any(|pattern| pattern.matches(text)))
            };
            one.matches.when.iter().all(said)
        };
        let has = |list: &[String], word: Option<&str>| {
            word.is_some_and(|word| list.iter().any(|known| known == word))
        };
        let mut candidates: Vec<&Architecture> = self
            .list
            .iter()
            .filter(|one| has(&one.matches.classes, class))
            .filter(is_said)
            .collect();
        if candidates.is_empty() {
            let of_type = self.list.iter().filter(|one| has(&one.matches.model_types, model_type));
            candidates = of_type.filter(is_said).collect();
        }
        // What the configuration says beyond a class tells more than the class.
        if let Some(special) = candidates.iter().find(|one| !one.matches.when.is_empty()) {
            return Some(special);
        }
        if let [only] = candidates[..] {
            return Some(only);
        }
        let first: Vec<&str> = names.clone().filter(|name| stands_for_others(name)).collect();
        let by_tensors = |one: &&&Architecture| {
            let patterns = &one.matches.tensors;
            !patterns.is_empty()
                && patterns.iter().all(|pattern| first.iter().any(|name| pattern.matches(name)))
        };
        if !candidates.is_empty() {
            let found = candidates.iter().find(by_tensors).or_else(|| candidates.first());
            return found.copied();
        }
        let all: Vec<&Architecture> = self.list.iter().collect();
        let found = *all.iter().find(by_tensors)?;
        let is_vague = class.is_none() && model_type.is_none();
        (is_vague || names.clone().all(|name| found.find(name).next().is_some())).then_some(found)
    }
}

/// Whether a name stands for those that differ in their numbers only: layers and experts are many.
fn stands_for_others(name: &str) -> bool {
    name.split(|c: char| !c.is_ascii_digit()).all(|digits| digits.len() < 2 && digits < "8")
}

/// What is known about a tensor of a model of this family; nothing if the family does not describe it.
pub fn facts<'a>(architecture: &'a Architecture, name: &'a str) -> Option<Facts<'a>> {
    let (module, tensor, numbers) = architecture.find(name).next()?;
    let full = |module: &Module, text: String| match module.prefixes.first() {
        Some(prefix) => format!("{prefix}{text}"),
        None => text,
    };
    let layer = module.layers.as_ref().and_then(|layers| {
        numbers.iter().find(|(letter, _)| *letter == layers.capture).map(|(_, number)| *number)
    });
    let tied_to = tensor
        .tied_to
        .as_ref()
        .and_then(|(module, other)| Some(full(architecture.module(module)?, other.name(&numbers))));
    Some(Facts {
        module,
        tensor,
        role: tensor.role,
        layer,
        canonical: full(module, tensor.template.name(&numbers)),
        tied_to,
    })
}

/// The sizes that a configuration gives to a family.
pub fn sizes(architecture: &Architecture, config: &Value) -> SizeValues {
    architecture.sizes(&|key| number(config, key))
}

/// A whole number of a configuration; a key without a path is looked up in the language model's part
/// first.
pub fn number(config: &Value, key: &str) -> Option<u64> {
    let value = look_up(config, key)?;
    let whole = |value: f64| (value >= 0.0 && value.fract() == 0.0).then_some(value as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(whole))
}

fn look_up<'c>(config: &'c Value, key: &str) -> Option<&'c Value> {
    let walk = |start: &'c Value| key.split('.').try_fold(start, |value, part| value.get(part));
    let inner = ["text_config", "llm_config"].into_iter().filter_map(|part| config.get(part));
    let mut found = inner.chain([config]).filter_map(walk).filter(|value| !value.is_null());
    found.next()
}

/// What a configuration says under a key, as text; of a list each entry.
fn texts(config: &Value, path: &str) -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Null | Value::Object(_) => {}
            Value::String(text) => found.push(text.clone()),
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            other => found.push(other.to_string()),
        }
    }
    let mut found = Vec::new();
    if let Some(value) = look_up(config, path) {
        collect(value, &mut found);
    }
    found
}

/// What a family says of a tensor for methods over matrices: they are meant for the language model and the
/// connector, or for all modules of a family that has no language model.
pub(crate) fn of_matrix(
    architecture: &Architecture,
    sizes: &SizeValues,
    name: &str,
    shape: &[u64],
) -> Option<OfFamily> {
    let Facts { module, tensor, role, .. } = facts(architecture, name)?;
    let counts = matches!(module.name.as_str(), "language_model" | "connector")
        || architecture.module("language_model").is_none();
    let mut inputs_first = tensor.is_transposed;
    // Programs that have loaded stacks of experts hold, and may write, their last axes the other way round.
    if let (&[_, rows, columns], [_, first, second]) = (shape, tensor.axes.as_slice()) {
        let value = |size: &Size| size.value(&|axis: &str| sizes.get(axis).copied());
        let (first, second) = (value(first), value(second));
        let is_turned = (Some(columns), Some(rows)) == (first, second) && rows != columns;
        inputs_first ^= is_turned;
    }
    Some(OfFamily { role, counts, inputs_first })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name_of(names: &[&str], config: Value) -> Option<&'static str> {
        let found = Architectures::built_in().recognize(names.iter().copied(), Some(&config))?;
        Some(&found.name.value)
    }

    #[test]
    fn the_files_are_without_mistakes() {
        if let Err(found) = Architectures::read(&sources()) {
            let color = mixdown_diagnostics::render::Color::Plain;
            panic!("{}", mixdown_diagnostics::render::render_all(&found, color));
        }
    }

    #[test]
    fn the_configuration_comes_first() {
        let class = |class: &str| json!({"architectures": [class]});
        assert_eq!(name_of(&[], class("MistralForCausalLM")), Some("mistral"));
        assert_eq!(name_of(&[], json!({"model_type": "qwen3_moe"})), Some("qwen3_moe"));
        // A class tells more than a type that others share.
        let config = json!({"architectures": ["LlavaQwenForCausalLM"], "model_type": "llava"});
        assert_eq!(name_of(&[], config), Some("llava_onevision_original"));
        let config = json!({
            "architectures": ["InternVLChatModel"],
            "llm_config": {"architectures": ["InternLM2ForCausalLM"]},
        });
        assert_eq!(name_of(&[], config), Some("internvl_chat_internlm2"));
        // The class is nobody's; the tensors are not all Llama's.
        let names =
            ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"];
        assert_eq!(name_of(&names, class("NewForCausalLM")), Some("llama"));
        let more = [names[0], names[1], "model.layers.0.self_attn.sinks"];
        assert_eq!(name_of(&more, class("NewForCausalLM")), None);
        assert_eq!(name_of(&more, json!({})), Some("llama"));
        assert_eq!(name_of(&["a.b"], json!({})), None);
    }

    #[test]
    fn what_a_type_leaves_open_tensors_decide() {
        let config = || json!({"model_type": "llava"});
        assert_eq!(name_of(&["multi_modal_projector.linear_1.bias"], config()), Some("llava"));
        assert_eq!(name_of(&["model.mm_projector.0.bias"], config()), Some("llava_original"));
    }

    #[test]
    fn linear_weights_are_those_of_the_language_model_and_the_connector() {
        let family = Architectures::built_in().get("qwen2_vl");
        let is_linear = |name: &str| {
            let found = of_matrix(family?, &SizeValues::new(), name, &[4, 6])?;
            Some(found.counts && found.role.is_linear())
        };
        for (name, expected) in [
            ("model.layers.0.self_attn.q_proj.weight", Some(true)),
            ("visual.merger.mlp.0.weight", Some(true)),
            ("visual.merger.ln_q.weight", Some(false)),
            ("visual.blocks.0.attn.qkv.weight", Some(false)),
            ("model.embed_tokens.weight", Some(false)),
            ("lm_head.weight", Some(false)),
            ("model.other.weight", None),
        ] {
            assert_eq!(is_linear(name), expected, "{name}");
        }
    }

    #[test]
    fn sizes_tell_how_a_stack_of_experts_lies() {
        let family = Architectures::built_in().get("qwen3_vl_moe").unwrap();
        let config = json!({"text_config": {
            "num_experts": 4, "hidden_size": 16, "moe_intermediate_size": 6,
        }});
        let sizes = sizes(family, &config);
        let name = "model.language_model.layers.0.mlp.experts.gate_up_proj";
        let inputs_first =
            |shape: &[u64]| of_matrix(family, &sizes, name, shape).unwrap().inputs_first;
        assert!(inputs_first(&[4, 16, 12]));
        assert!(!inputs_first(&[4, 12, 16]));
    }

    #[test]
    fn facts_of_tensors() {
        let known = Architectures::built_in();
        let family = known.get("qwen2_vl").unwrap();
        let name = "model.language_model.layers.17.self_attn.k_proj.bias";
        let found = facts(family, name).unwrap();
        assert_eq!((found.module.name.as_str(), found.role), ("language_model", Role::AttentionK));
        assert_eq!(found.layer, Some(17));
        assert_eq!(found.canonical, "model.layers.17.self_attn.k_proj.bias");
        let found = facts(family, "model.visual.merger.mlp.2.weight").unwrap();
        assert_eq!((found.module.name.as_str(), found.layer), ("connector", None));
        assert_eq!(found.canonical, "visual.merger.mlp.2.weight");
        let found = facts(family, "lm_head.weight").unwrap();
        assert_eq!(found.tied_to.as_deref(), Some("model.embed_tokens.weight"));
        assert!(facts(family, "model.layers.x.mlp.up_proj.weight").is_none());
        let found =
            facts(known.get("llama").unwrap(), "model.layers.0.self_attn.rotary_emb.inv_freq");
        assert!(found.unwrap().tensor.is_buffer);
    }
}
