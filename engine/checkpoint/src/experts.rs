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
    /// `model_type` of families whose stacks some versions store as [experts, in, out] and others do not.
    #[serde(default)]
    either_way: Vec<String>,
}

/// A tensor with a matrix for each expert.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// The end of its name.
    pub name: String,
    /// The ends of the names of an expert's parts, with `{e}` for its number; these lie one above the other.
    pub parts: Vec<String>,
    /// Whether its matrices lead back to the hidden size.
    #[serde(default)]
    leads_back: bool,
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

    /// What stands before the name of a stack, or of a part of an expert.
    pub fn layer_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        let of_part = |part: &String| Some(Stack::expert_of(part, name)?.0);
        self.stack_of(name)
            .map(|(_, layer)| layer)
            .or_else(|| self.stacks.iter().flat_map(|stack| &stack.parts).find_map(of_part))
    }
}

impl Stack {
    /// Its name behind what stands before it.
    pub fn name_in(&self, layer: &str) -> String {
        format!("{layer}{}", self.name)
    }

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

/// Whether a configuration is that of a family whose stacks may lie either way.
pub fn lie_either_way(config: Option<&Value>) -> bool {
    LAYOUTS.iter().any(|layout| is_one_of(&layout.either_way, config))
}

/// Whether the stacks of a layer are [experts, in, out], by the shapes of all of them and the hidden size that a
/// configuration states. None where these contradict each other or tell nothing.
///
/// `shape` gives that of a tensor by its name.
pub fn lie<'s>(
    shape: &dyn Fn(&str) -> Option<&'s [u64]>,
    layer: &str,
    config: Option<&Value>,
) -> Option<bool> {
    let number = |config: &Value| config.get("hidden_size").and_then(Value::as_u64);
    let hidden = config
        .and_then(|config| number(config).or_else(|| config.get("text_config").and_then(number)));
    let mut votes = Vec::new();
    for layout in layouts() {
        let sides = |stack: &Stack| match shape(&stack.name_in(layer))? {
            &[_, rows, columns] => Some([rows, columns]),
            _ => None,
        };
        let down = layout.stacks.iter().find(|stack| stack.leads_back).and_then(&sides);
        for stack in &layout.stacks {
            let Some([rows, columns]) = sides(stack) else { continue };
            if let Some(hidden) = hidden.filter(|_| rows != columns) {
                // Down leads to the hidden size, and the others come from it.
                let (inputs_first, outputs_first) = match stack.leads_back {
                    true => (columns, rows),
                    false => (rows, columns),
                };
                votes.extend((inputs_first == hidden).then_some(true));
                votes.extend((outputs_first == hidden).then_some(false));
            }
            // Gate above up is twice as high as down is wide.
            if let (Some([first, second]), 2) = (down, stack.parts.len()) {
                votes.extend((rows == 2 * second && columns == first).then_some(false));
                votes.extend((rows == second && columns == 2 * first).then_some(true));
            }
        }
    }
    let first = *votes.first()?;
    votes.iter().all(|vote| *vote == first).then_some(first)
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
    fn shapes_of_a_layer_tell_how_its_stacks_lie() {
        let lies = |up: Option<[u64; 3]>, down: Option<[u64; 3]>, config: Value| {
            let shape = |name: &str| match name {
                "l.experts.gate_up_proj" => up.as_ref().map(|shape| &shape[..]),
                "l.experts.down_proj" => down.as_ref().map(|shape| &shape[..]),
                _ => None,
            };
            lie(&shape, "l.", Some(&config))
        };
        let (none, of_4) = (json!({}), json!({"text_config": {"hidden_size": 4}}));
        // Inner 6 and hidden 4, then a square one of the two.
        assert_eq!(lies(Some([3, 12, 4]), Some([3, 4, 6]), none.clone()), Some(false));
        assert_eq!(lies(Some([3, 4, 12]), Some([3, 6, 4]), none.clone()), Some(true));
        assert_eq!(lies(Some([3, 4, 4]), Some([3, 4, 2]), none.clone()), Some(false));
        assert_eq!(lies(Some([3, 4, 4]), Some([3, 2, 4]), none.clone()), Some(true));
        assert_eq!(lies(Some([3, 8, 4]), Some([3, 4, 4]), none.clone()), Some(false));
        assert_eq!(lies(Some([3, 4, 8]), Some([3, 4, 4]), none.clone()), Some(true));
        // One alone.
        assert_eq!(lies(Some([3, 4, 12]), None, of_4.clone()), Some(true));
        assert_eq!(lies(Some([3, 12, 4]), None, of_4.clone()), Some(false));
        assert_eq!(lies(None, Some([3, 4, 6]), of_4.clone()), Some(false));
        assert_eq!(lies(None, Some([3, 6, 4]), of_4.clone()), Some(true));
        assert_eq!(lies(Some([3, 4, 12]), None, none), None);
        assert_eq!(lies(None, Some([3, 4, 4]), of_4.clone()), None);
        assert_eq!(lies(Some([3, 4, 12]), Some([3, 4, 6]), of_4), None);
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
