//! What a checkpoint's names, shapes and configuration tell of its tensors, without any recipe.

use mixdown_checkpoint::index::Index;
use mixdown_ops::matrix::MatrixLayout;
use serde_json::Value;

use crate::families::layer;
use crate::families::tensor_class::{Class, Classes, class};
use crate::models::view::View;

/// A checkpoint as its family describes it.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its family, if it is known.
    pub family: Option<String>,
    /// Each tensor, in the order of the index.
    pub tensors: Vec<DescribedTensor>,
}

/// A tensor as the model's family describes it, or its name where that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedTensor {
    /// The module: the family's word, or the name's first segment.
    pub module: String,
    /// The layer within the module.
    pub layer: Option<u64>,
    /// What it is in its layer: the name without all up to the layer's number; else the whole name.
    pub kind: String,
    /// How matrices lie in it that methods over matrices are meant for.
    pub matrices: Option<MatrixLayout>,
}

/// Describes the tensors of a checkpoint.
pub fn described(index: &Index, config: Option<&Value>) -> Described {
    let view = View::checkpoint("", 0, index, config);
    let tensors = view.iter().map(|tensor| {
        let shape = tensor.shape.dimensions();
        let known = view.known(tensor.name, shape);
        let matrices = match class(Classes::Roles, &[], &known, tensor.name, shape) {
            Class::Matrix(layout) => Some(layout),
            Class::Stack | Class::Other { .. } => None,
        };
        let facts = view.facts(tensor.name);
        let split = layer::split(tensor.name);
        let first = tensor.name.split('.').next().unwrap_or(tensor.name);
        DescribedTensor {
            module: facts.as_ref().map_or(first, |facts| &facts.module.name).to_owned(),
            layer: facts.as_ref().map_or_else(|| split.map(|name| name.layer), |facts| facts.layer),
            kind: split.map_or(tensor.name, |name| name.suffix.trim_start_matches('.')).to_owned(),
            matrices,
        }
    });
    let tensors = tensors.collect();
    Described { family: view.architecture.map(|family| family.name.value.clone()), tensors }
}
