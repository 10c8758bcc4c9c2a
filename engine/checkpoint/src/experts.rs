//! How families store the experts of a layer: in stacks, or each by itself. `schemas/experts` has the layouts.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

static LAYOUTS: LazyLock<Vec<Layout>> = LazyLock::new(|| {
    let text = include_str!("../../../schemas/experts/layouts.json");
    serde_json::from_str(text).expect("the layouts are without mistakes, which a test holds")
});

/// All layouts that are known, in the order in which they are asked.
pub fn layouts() -> &'static [Layout] {
    &LAYOUTS
}

/// Two ways in which the same tensors are stored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// What people call it.
    pub title: String,
    /// Families that are stored so, for people.
    pub families: String,
    /// Stacks, and what stands for them where experts are stored each by itself.
    pub stacks: Vec<Stack>,
    /// Ends of names of other tensors: beside stacks, and beside single experts.
    #[serde(default)]
    pub names: Vec<[String; 2]>,
    /// `model_type` of families whose stacks have the rows of their parts by turns.
    #[serde(default)]
    interleaved: Vec<String>,
    /// `model_type` of families whose stacks are [experts, in, out].
    #[serde(default)]
    inputs_first: Vec<String>,
}

/// A tensor with a matrix for each expert.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// The end of its name.
    pub name: String,
    /// The ends of the names of an expert's parts, with `{e}` for its number; these lie one above the other.
    pub parts: Vec<String>,
}

impl Layout {
    /// Whether the stacks of this model have the rows of their parts by turns.
    pub fn interleaves(&self, config: Option<&Value>) -> bool {
        is_one_of(&self.interleaved, config)
    }

    /// The stack that a name is one of, and what stands before it.
    pub fn stack_of<'n>(&self, name: &'n str) -> Option<(&Stack, &'n str)> {
        self.stacks.iter().find_map(|stack| Some((stack, before(name, &stack.name)?)))
    }
}

impl Stack {
    /// The name of a part of an expert, behind what stands before the stack.
    pub fn part_name(layer: &str, part: &str, expert: u64) -> String {
        format!("{layer}{}", part.replace("{e}", &expert.to_string()))
    }

    /// What stands before the name of a part, and the number of its expert.
    pub fn expert_of<'n>(part: &str, name: &'n str) -> Option<(&'n str, u64)> {
        let (head, tail) = part.split_once("{e}")?;
        let rest = name.strip_suffix(tail)?;
        let (start, digits) = rest.rsplit_once('.')?;
        let layer = before(&name[..=start.len()], head)?;
        // A number has one spelling, so that no two names mean one expert.
        let expert: u64 = digits.parse().ok()?;
        (expert.to_string() == digits).then_some((layer, expert))
    }
}

/// Whether the stacks of a model are [experts, in, out], as far as its configuration tells.
pub fn are_inputs_first(config: Option<&Value>) -> bool {
    LAYOUTS.iter().any(|layout| is_one_of(&layout.inputs_first, config))
}

/// What stands before an end of a name, which follows a dot or the beginning.
pub fn before<'n>(name: &'n str, end: &str) -> Option<&'n str> {
    name.strip_suffix(end).filter(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_one_of(families: &[String], config: Option<&Value>) -> bool {
    let of = |config: &Value| {
        let own = config.get("model_type").and_then(Value::as_str);
        own.is_some_and(|own| families.iter().any(|known| known == own))
    };
    config.is_some_and(|config| of(config) || config.get("text_config").is_some_and(of))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_layouts_are_without_mistakes() {
        for layout in layouts() {
            assert!(!layout.title.is_empty() && !layout.families.is_empty());
            for stack in &layout.stacks {
                assert!(stack.parts.iter().all(|part| part.contains(".{e}.")), "{stack:?}");
            }
        }
    }

    #[test]
    fn names_of_experts() {
        let part = "experts.{e}.up_proj.weight";
        let found = Stack::expert_of(part, "model.layers.3.mlp.experts.12.up_proj.weight");
        assert_eq!(found, Some(("model.layers.3.mlp.", 12)));
        for other in [
            "model.layers.3.mlp.experts.012.up_proj.weight",
            "model.layers.3.mlp.myexperts.1.up_proj.weight",
            "model.layers.3.mlp.experts.x.up_proj.weight",
            "model.layers.3.mlp.experts.1.up_proj.bias",
        ] {
            assert_eq!(Stack::expert_of(part, other), None, "{other}");
        }
        assert_eq!(before("a.experts.down_proj", "experts.down_proj"), Some("a."));
        assert_eq!(before("a.myexperts.down_proj", "experts.down_proj"), None);
    }

    #[test]
    fn families_tell_how_their_stacks_lie() {
        assert!(are_inputs_first(Some(&json!({"model_type": "gpt_oss"}))));
        let nested = json!({"model_type": "aria", "text_config": {"model_type": "aria_text"}});
        assert!(are_inputs_first(Some(&nested)));
        assert!(!are_inputs_first(Some(&json!({"model_type": "qwen3_moe"}))));
        assert!(!are_inputs_first(None));
    }
}
