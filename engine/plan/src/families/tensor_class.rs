//! Which tensors are matrices, one or one for each expert, and how these lie in them: what methods over
//! matrices are meant for. A recipe can say it; else the model's family does, and names and shapes where
//! that is not known.

use mixdown_checkpoint::known as shared;
use mixdown_ops::matrix::MatrixLayout;
use mixdown_recipe::{MatrixAxes, MatrixSelector, Role};

use crate::plan::Treatment;

/// Whose division of tensors into classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Classes {
    /// By what a tensor does: linear weights of the language model and the connector, or of the encoder
    /// where the model is one.
    Roles,
    /// By the regular expressions of OptMerge's released scripts, word for word: they match from the
    /// start of the name, so that `model.visual…` escapes them.
    Released,
}

/// What a tensor is to a method over matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Matrices.
    Matrix(MatrixLayout),
    /// A matrix for each expert, and nothing tells inputs from outputs.
    Stack,
    /// Something else.
    Other {
        /// Whether it could be a matrix by its shape and name: of an encoder beside a language model, of
        /// three axes without a known meaning.
        could_be: bool,
    },
}

impl Class {
    /// What a method over matrices makes of it, where the result is the base or not.
    pub fn treatment(self, is_base: bool) -> Treatment {
        match self {
            Self::Matrix(_) => Treatment::Optimized,
            _ if is_base => Treatment::Kept,
            Self::Other { could_be } => Treatment::Averaged { could_be },
            Self::Stack => Treatment::Averaged { could_be: true },
        }
    }
}

/// What is known of a tensor besides name and shape.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// What the model's family says of it, if it describes it.
    pub family: Option<OfFamily>,
    /// Whether the model has a language model, beside which an encoder is another module.
    pub has_language_model: bool,
    /// Whether the weights are the factors of adapters, each merged by itself as a matrix.
    pub are_factors: bool,
    /// Whether the model, of no known family, stores its linear weights as `[in, out]`, by their biases.
    pub inputs_first: bool,
}

/// What a model's family says of a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfFamily {
    pub role: Role,
    /// Whether its module is what methods over matrices are meant for.
    pub counts: bool,
    /// Whether it is stored as `[in, out]`.
    pub inputs_first: bool,
}

/// Whether a name is one of a language model.
pub(crate) fn is_of_language_model(name: &str) -> bool {
    shared::has_part(name, &shared::names().language_models)
}

/// What a tensor is.
pub(crate) fn class(
    classes: Classes,
    selectors: &[MatrixSelector],
    known: &Known,
    name: &str,
    shape: &[u64],
) -> Class {
    if shape.len() < 2 || shape.contains(&0) {
        return Class::Other { could_be: false };
    }
    let mut says_auto = selectors.is_empty();
    for selector in selectors {
        match selector {
            MatrixSelector::Auto => says_auto = true,
            MatrixSelector::Role(role) => {
                if known.family.is_some_and(|family| family.role == *role) {
                    return lie(known, None, name, shape);
                }
            }
            MatrixSelector::Names { pattern, axes } => {
                if pattern.matches(name) {
                    return lie(known, *axes, name, shape);
                }
            }
        }
    }
    match (says_auto, classes) {
        (true, _) if known.are_factors && shape.len() == 2 => lie(known, None, name, shape),
        (false, _) => Class::Other { could_be: false },
        (true, Classes::Released) => {
            let is_linear =
                shape.len() == 2 && !is_kept(classes, name) && !name.contains("lm_head");
            match is_linear {
                true => lie(known, None, name, shape),
                false => Class::Other { could_be: false },
            }
        }
        (true, Classes::Roles) => match known.family {
            Some(family) => of_family(known, &family, name, shape),
            None => of_names(known, name, shape),
        },
    }
}

/// How the matrices of a tensor lie in it, for ops that are applied to it whatever it is.
pub(crate) fn layout(known: &Known, name: &str, shape: &[u64]) -> Option<MatrixLayout> {
    match lie(known, None, name, shape) {
        Class::Matrix(layout) if shape.len() == 2 || known.family.is_some() => Some(layout),
        _ => None,
    }
}

fn of_family(known: &Known, family: &OfFamily, name: &str, shape: &[u64]) -> Class {
    let is_matrix = family.role.is_linear() || family.role == Role::Convolution;
    match is_matrix && !is_one_dimensional(shape) {
        true if family.counts => lie(known, None, name, shape),
        is_matrix => Class::Other { could_be: is_matrix },
    }
}

fn of_names(known: &Known, name: &str, shape: &[u64]) -> Class {
    let names = shared::names();
    let has_one = |words: &[String]| words.iter().any(|word| name.contains(word.as_str()));
    let is_kernel = shape.len() > 3 || has_one(&names.convolutions);
    let is_embedding = match shape.len() {
        2 => name.contains("embed"),
        // What makes patches is a convolution, and what adds places to them is not.
        _ => name.contains("embed") && !is_kernel || name.contains("pos_embed"),
    };
    let is_excluded = is_embedding
        || names.not_linear.iter().any(|word| word != "embed" && name.contains(word.as_str()))
        || shared::has_part(name, &names.not_linear_parts)
        || is_output_layer(name)
        || is_one_dimensional(shape);
    if is_excluded {
        return Class::Other { could_be: false };
    }
    let is_encoder = shared::has_part(name, &names.encoders);
    if is_encoder && known.has_language_model {
        return Class::Other { could_be: true };
    }
    if shape.len() == 3 && !is_stack(known, name) && !is_kernel {
        return Class::Other { could_be: true };
    }
    lie(known, None, name, shape)
}

/// How the matrices of a tensor that has some lie in it.
fn lie(known: &Known, axes: Option<MatrixAxes>, name: &str, shape: &[u64]) -> Class {
    let inputs_first = axes.map(|axes| axes.inputs_first);
    match *shape {
        [experts, rows, columns] if axes.map_or(is_stack(known, name), |axes| axes.stacked) => {
            let of_family = known.family.map(|family| family.inputs_first);
            match inputs_first.or(of_family) {
                Some(inputs_first) => {
                    Class::Matrix(MatrixLayout { matrices: experts, rows, columns, inputs_first })
                }
                None => Class::Stack,
            }
        }
        [rows, columns] => {
            let of_model = match known.family {
                Some(family) => family.inputs_first,
                None => known.inputs_first,
            };
            let inputs_first = inputs_first.unwrap_or(of_model);
            Class::Matrix(MatrixLayout { matrices: 1, rows, columns, inputs_first })
        }
        // The kernel of a convolution: all that follows the outputs are inputs.
        [rows, ref rest @ ..] => {
            match rest.iter().try_fold(1_u64, |all, &one| all.checked_mul(one)) {
                Some(columns) => Class::Matrix(MatrixLayout::plain(rows, columns)),
                None => Class::Other { could_be: true },
            }
        }
        [] => Class::Other { could_be: false },
    }
}

/// Whether a tensor of three axes is a stack of linear weights, one matrix of each expert: by its role, or
/// by its name where the family is not known.
fn is_stack(known: &Known, name: &str) -> bool {
    match known.family {
        Some(family) => family.role.is_linear(),
        None => name.split('.').any(|part| part.contains("expert") || part.contains("moe")),
    }
}

/// Whether each output of a kernel has its own single input, or there is a single output: nothing that the
/// rows of a matrix share.
fn is_one_dimensional(shape: &[u64]) -> bool {
    shape.len() > 2 && (shape[0] == 1 || shape[1] == 1)
}

/// Whether a name is that of an output layer `output`. Within layers that is a linear weight like others.
fn is_output_layer(name: &str) -> bool {
    let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
    let mut parts = module.split('.').rev();
    parts.next() == Some("output") && !parts.any(|part| part.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a tensor stays what it is in the base, whatever the method does with the rest.
pub(crate) fn is_kept(classes: Classes, name: &str) -> bool {
    match classes {
        Classes::Roles => false,
        Classes::Released => {
            // `visual..*` wants a letter after the word.
            name.strip_prefix("visual").is_some_and(|rest| !rest.is_empty())
                || name.starts_with("vision_model")
                || ["embed_tokens", "lm_head", "norm", "bias"]
                    .iter()
                    .any(|word| name.contains(word))
        }
    }
}

#[cfg(test)]
mod tests;
