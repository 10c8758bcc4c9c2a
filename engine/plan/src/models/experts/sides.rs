//! Which way the matrices of stacked experts lie: [out, in], or [in, out] as some versions of transformers store
//! some families. Shapes tell it where sides are of unequal length; of square matrices what else is stored tells
//! it, and the configurations.

use std::collections::{BTreeMap, BTreeSet};

use mixdown_checkpoint::adapter::name_in;
use mixdown_checkpoint::experts::{Layout, Stack, are_inputs_first, layouts, lie};
use mixdown_checkpoint::index::Index;
use serde_json::Value;

use super::Stored;

/// What tells of a layer whether one model's experts are turned against the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing, or shapes that fit both ways.
    Nothing,
    /// They are turned, or not.
    Way(bool),
    /// Things that contradict each other.
    Contradiction,
}

impl Told {
    fn and(self, vote: Option<Vote>) -> Self {
        match (self, vote) {
            (_, None) => Self::Contradiction,
            (known, Some(Vote::Either)) => known,
            (Self::Nothing, Some(Vote::Only(way))) => Self::Way(way),
            (Self::Way(known), Some(Vote::Only(way))) if known == way => self,
            _ => Self::Contradiction,
        }
    }
}

/// How the stacks of two models lie against each other, layer by layer.
#[derive(Debug)]
pub(super) struct Sides<'a> {
    layout: &'a Layout,
    own: Stored<'a>,
    other: Stored<'a>,
    layers: BTreeMap<String, Told>,
    /// What all layers tell together.
    whole: Told,
}

impl<'a> Sides<'a> {
    /// Of all layers of the other model that have experts in this layout.
    pub fn of(layout: &'a Layout, own: Stored<'a>, other: Stored<'a>) -> Self {
        let mut sides = Self { layout, own, other, layers: BTreeMap::new(), whole: Told::Nothing };
        let layers = layers_of(layout, other.index);
        for layer in &layers {
            let told = sides.votes(layer);
            if let Told::Way(way) = told {
                sides.whole = sides.whole.and(Some(Vote::Only(way)));
            }
            sides.layers.insert((*layer).to_owned(), told);
        }
        if sides.whole == Told::Nothing {
            let own = lies_itself(layout, own, &layers_of(layout, own.index));
            let other = lies_itself(layout, other, &layers);
            if let (Some(own), Some(other)) = (own, other) {
                sides.whole = Told::Way(own != other);
            }
        }
        sides
    }

    /// Whether the stacks of a layer are turned against what they are compared with: single experts, or the other
    /// model's stacks. What its shapes leave open, those of other layers tell, which one program has written.
    /// None where things contradict each other or nothing tells.
    pub fn are_turned(&self, layer: &str) -> Option<bool> {
        match (*self.layers.get(layer)?, self.whole) {
            (Told::Way(way), _) | (Told::Nothing, Told::Way(way)) => Some(way),
            (Told::Nothing, Told::Nothing) if self.are_stacks(layer) => {
                is_one_writer(self.own.config, self.other.config).then_some(false)
            }
            _ => None,
        }
    }

    /// Whether both models have a layer's experts in stacks.
    fn are_stacks(&self, layer: &str) -> bool {
        self.layout.stacks.iter().any(|stack| {
            let name = stack.name_in(layer);
            self.named(&name).is_some() && self.other.index.position(&name).is_some()
        })
    }

    fn named(&self, name: &str) -> Option<usize> {
        self.own.index.position(&name_in(self.own.index, name)?)
    }

    /// What the shapes of a layer tell.
    fn votes(&self, layer: &str) -> Told {
        let mut told = Told::Nothing;
        for stack in &self.layout.stacks {
            let name = stack.name_in(layer);
            let of = |index: &'a Index, at: Option<usize>| {
                at.map(|at| index.tensors()[at].shape.dimensions())
            };
            let own = of(self.own.index, self.named(&name));
            let other = of(self.other.index, self.other.index.position(&name));
            told = told.and(match (own, other) {
                (Some(own), Some(other)) => sides_differ(own, other),
                (Some(stacked), None) => self.against_parts(stacked, stack, layer, true),
                (None, Some(stacked)) => self.against_parts(stacked, stack, layer, false),
                (None, None) => continue,
            });
        }
        told
    }

    /// How a stack lies against the parts of its first expert, which the other model has, or this one.
    fn against_parts(
        &self,
        stacked: &[u64],
        stack: &Stack,
        layer: &str,
        are_others: bool,
    ) -> Option<Vote> {
        let &[_, rows, columns] = stacked else { return None };
        let (mut height, mut width) = (0, None);
        for part in &stack.parts {
            let name = Stack::part_name(layer, part, 0);
            let entry = match are_others {
                true => self.other.index.get(&name)?,
                false => &self.own.index.tensors()[self.named(&name)?],
            };
            let &[outputs, inputs] = entry.shape.dimensions() else { return None };
            height += outputs;
            if *width.get_or_insert(inputs) != inputs {
                return None;
            }
        }
        vote([rows, columns], [height, width?])
    }
}

/// What stands before the names of experts of a layout.
fn layers_of<'a>(layout: &Layout, index: &'a Index) -> BTreeSet<&'a str> {
    index.tensors().iter().filter_map(|one| layout.layer_of(&one.name)).collect()
}

/// Whether a model has its experts as [in, out], by what it tells of itself: for what comparing shapes with shapes
/// leaves open.
fn lies_itself(layout: &Layout, model: Stored<'_>, layers: &BTreeSet<&str>) -> Option<bool> {
    let shape = |name: &str| Some(model.index.get(name)?.shape.dimensions());
    let (mut told, mut has_stacks) = (None, false);
    for layer in layers {
        has_stacks |= layout.stacks.iter().any(|one| shape(&one.name_in(layer)).is_some());
        let own = lie(&shape, layer, model.config);
        if own.is_some() && told.is_some() && own != told {
            return None;
        }
        told = told.or(own);
    }
    match has_stacks {
        // Experts that are stored each by itself are linear layers like others.
        false => Some(false),
        true => told.or_else(|| are_inputs_first(model.config).then_some(true)),
    }
}

/// Names of stacks, or of single experts, of the other model whose counterparts fit both ways, and of which nothing
/// tells which way they lie; or that are turned, where the model is read as it is stored.
pub(super) fn undecided(own: Stored<'_>, other: Stored<'_>, is_fixed: bool) -> BTreeSet<String> {
    let mut found: BTreeMap<&str, bool> = BTreeMap::new();
    for layout in layouts() {
        let mut sides = None;
        for wanted in other.index.tensors() {
            if found.get(wanted.name.as_str()) == Some(&true)
                || !fits_both_ways(layout, own, wanted)
            {
                continue;
            }
            let Some(layer) = layout.layer_of(&wanted.name) else { continue };
            let sides = sides.get_or_insert_with(|| Sides::of(layout, own, other));
            let is_known = sides.are_turned(layer).is_some_and(|turned| !turned || !is_fixed);
            found.insert(&wanted.name, is_known);
        }
    }
    found.into_iter().filter(|(_, known)| !known).map(|(name, _)| name.to_owned()).collect()
}

/// Whether a tensor, and what the own model has for it, are square matrices of stacks.
fn fits_both_ways(
    layout: &Layout,
    own: Stored<'_>,
    wanted: &mixdown_checkpoint::index::TensorEntry,
) -> bool {
    let shape = |name: &str| {
        let at = own.index.position(&name_in(own.index, name)?)?;
        Some(own.index.tensors()[at].shape.dimensions())
    };
    let is_square =
        |shape: &[u64]| matches!(shape, [_, rows, columns] if rows == columns && *rows > 1);
    if let Some((stack, layer)) = layout.stack_of(&wanted.name) {
        let parts = || shape(&Stack::part_name(layer, stack.parts.first()?, 0));
        return is_square(wanted.shape.dimensions())
            && (shape(&wanted.name) == Some(wanted.shape.dimensions()) || parts().is_some());
    }
    let mut stacks = layout.stacks.iter().filter_map(|stack| {
        let part = |part: &String| Stack::expert_of(part, &wanted.name);
        let (layer, _) = stack.parts.iter().find_map(part)?;
        shape(&stack.name_in(layer))
    });
    stacks.any(is_square)
}

/// Whether configurations say that one version of one program has written both models.
fn is_one_writer(own: Option<&Value>, other: Option<&Value>) -> bool {
    let (Some(own), Some(other)) = (own, other) else { return false };
    let version = |config: &Value| {
        let version = config.get("transformers_version").and_then(Value::as_str);
        version.map(str::to_owned)
    };
    version(own).is_some_and(|one| version(other) == Some(one))
        && own.get("model_type") == other.get("model_type")
}

/// What the shapes of a stack say of its sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    /// Both ways fit.
    Either,
    /// Turned, or not.
    Only(bool),
}

fn vote([rows, columns]: [u64; 2], matrix: [u64; 2]) -> Option<Vote> {
    match (matrix == [rows, columns], matrix == [columns, rows]) {
        (true, true) => Some(Vote::Either),
        (true, false) => Some(Vote::Only(false)),
        (false, true) => Some(Vote::Only(true)),
        (false, false) => None,
    }
}

fn sides_differ(own: &[u64], other: &[u64]) -> Option<Vote> {
    match (own, other) {
        (&[a, rows, columns], &[b, first, second]) if a == b => {
            vote([rows, columns], [first, second])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shapes_tell_how_a_stack_lies() {
        assert_eq!(vote([6, 4], [6, 4]), Some(Vote::Only(false)));
        assert_eq!(vote([4, 6], [6, 4]), Some(Vote::Only(true)));
        assert_eq!(vote([4, 4], [4, 4]), Some(Vote::Either));
        assert_eq!(vote([4, 5], [6, 4]), None);
    }

    #[test]
    fn one_version_of_one_program_writes_one_way() {
        let config = |kind: &str, version: &str| json!({"model_type": kind, "transformers_version": version});
        let (a, b) = (config("moe", "5.0.0"), config("moe", "4.57.1"));
        assert!(is_one_writer(Some(&a), Some(&a)));
        assert!(!is_one_writer(Some(&a), Some(&b)));
        assert!(!is_one_writer(Some(&a), Some(&config("other", "5.0.0"))));
        let silent = json!({"model_type": "moe"});
        assert!(!is_one_writer(Some(&silent), Some(&silent)));
        assert!(!is_one_writer(Some(&a), None));
    }
}
