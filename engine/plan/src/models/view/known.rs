//! What a model tells of its weights as matrices: by its family, or by all its names and shapes.

use std::collections::HashMap;

use super::View;
use crate::families::knowledge;
use crate::families::tensor_class::{Known, is_of_language_model};

/// What the names and shapes of a model of no known family say of all its linear weights.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    has_language_model: bool,
    /// By the last part of a module's name: how many of its weights have a bias as long as their columns,
    /// and how many one as long as their rows.
    by_part: HashMap<String, (u64, u64)>,
    /// The same of all parts.
    of_all: (u64, u64),
}

/// Weights whose inputs come first, and those whose outputs do.
fn add(votes: &mut (u64, u64), inputs_first: bool) {
    match inputs_first {
        true => votes.0 += 1,
        false => votes.1 += 1,
    }
}

impl View<'_> {
    /// Whether its numbers are zero, so that what is measured from it is merged by itself.
    pub fn is_zero(&self) -> bool {
        self.is_zero
    }

    /// What is known of a tensor for methods over matrices.
    pub fn known(&self, name: &str, shape: &[u64]) -> Known {
        let family = self.architecture;
        if let Some(family) =
            family.and_then(|family| knowledge::of_matrix(family, &self.sizes, name, shape))
        {
            return Known { family: Some(family), ..Known::default() };
        }
        let told = self.told.get_or_init(|| self.tell());
        let inputs_first = self.bias_of(name, shape).unwrap_or_else(|| told.inputs_first(name));
        let has_language_model = told.has_language_model;
        Known { family: None, has_language_model, are_factors: false, inputs_first }
    }

    /// Whether a weight has a bias as long as its columns; none where it has none or both are as long.
    fn bias_of(&self, name: &str, shape: &[u64]) -> Option<bool> {
        let &[rows, columns] = shape else { return None };
        let module = name.strip_suffix(".weight")?;
        let bias = self.find(&format!("{module}.bias"))?;
        match *bias.shape.dimensions() {
            _ if rows == columns => None,
            [length] if length == columns => Some(true),
            [length] if length == rows => Some(false),
            _ => None,
        }
    }

    fn tell(&self) -> Told {
        let mut told = Told::default();
        for tensor in self.iter() {
            told.has_language_model |= is_of_language_model(tensor.name);
            let shape = tensor.shape.dimensions();
            let Some(inputs_first) = self.bias_of(tensor.name, shape) else { continue };
            let votes = told.by_part.entry(part(tensor.name).to_owned()).or_default();
            add(votes, inputs_first);
            add(&mut told.of_all, inputs_first);
        }
        told
    }
}

impl Told {
    /// Whether a weight whose own bias does not tell has its inputs first: those of the same name in other
    /// layers and modules tell, or all of the model.
    fn inputs_first(&self, name: &str) -> bool {
        let (inputs, outputs) = self.by_part.get(part(name)).copied().unwrap_or(self.of_all);
        inputs > 0 && outputs == 0
    }
}

/// The last part of a module's name.
fn part(name: &str) -> &str {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    module.rsplit('.').next().unwrap_or(module)
}
