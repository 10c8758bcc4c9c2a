//! What is known about a family of models: how it is recognized, its modules, and the names, roles and
//! sizes of their tensors. Knowledge, and never a gate: what no file describes is merged by its names.

use std::collections::BTreeMap;

use mixdown_diagnostics::{Source, Span};

use crate::pattern::Pattern;
use crate::setting::Spanned;

mod role;
mod size;
mod template;

pub use role::Role;
pub use size::{Size, SizeError};
pub use template::{Captures, Template, TemplateError};

/// A family of models.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// Its name; the file is called the same.
    pub name: Spanned<String>,
    /// What people call it.
    pub title: String,
    /// How a model of the family is recognized.
    pub matches: Matches,
    /// Sizes by name, in order; each may use configuration keys and the sizes above it.
    pub axes: Vec<(String, Size)>,
    /// Its modules, in order.
    pub modules: Vec<Module>,
    /// The file it comes from.
    pub file: Source,
}

/// How a model of a family is recognized.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// `model_type` of the configuration.
    pub model_types: Vec<String>,
    /// First entry of `architectures` in the configuration.
    pub classes: Vec<String>,
    /// What else the configuration must say: a key with its path, and patterns, one of which its value
    /// must match. Of a list, one of the entries must.
    pub when: Vec<(String, Vec<Pattern>)>,
    /// Families are asked in this order, the special before the general.
    pub order: u64,
    /// Names that tell the family where the configuration does not: each must match one. None: the
    /// family is recognized by its configuration alone.
    pub tensors: Vec<Pattern>,
}

/// A part of a model with a purpose of its own.
#[derive(Clone, Debug)]
pub struct Module {
    /// `language_model`, `vision_encoder`, `audio_encoder`, `connector`, `head`, …
    pub name: String,
    /// What the names of its tensors begin with; the first is the canonical one, the others are older
    /// and newer names of the same tensors.
    pub prefixes: Vec<String>,
    /// Its layers, if it has any.
    pub layers: Option<Layers>,
    /// How far the other captures of its templates go: each begins at 0.
    pub counts: Vec<(char, Size)>,
    /// Whether a model may lack the module as a whole.
    pub is_optional: bool,
    /// Its tensors.
    pub tensors: Vec<TensorTemplate>,
}

/// The layers of a module.
#[derive(Clone, Debug)]
pub struct Layers {
    /// The capture that is the layer's number.
    pub capture: char,
    /// How many there are.
    pub count: Size,
}

/// Tensors of a module whose names differ only in numbers.
#[derive(Clone, Debug)]
pub struct TensorTemplate {
    /// Their names, without the module's prefix.
    pub template: Template,
    /// What they do.
    pub role: Role,
    /// The size of each axis, as stored.
    pub axes: Vec<Size>,
    /// Whether a model may lack them.
    pub is_optional: bool,
    /// The tensor whose weights they share where the configuration ties them: its module, its template.
    pub tied_to: Option<(String, Template)>,
    /// What is stored in one tensor here and in several elsewhere.
    pub fused: Option<Fused>,
    /// Computed from the configuration and never merged: rotary frequencies, position numbers.
    pub is_buffer: bool,
    /// Stored `[in, out]` instead of `[out, in]`.
    pub is_transposed: bool,
    /// The tensor of the module that these are a second set of, for another kind of token.
    pub duplicate_of: Option<Template>,
    /// Where they are described.
    pub span: Span,
}

/// What is stored in one tensor here and in several elsewhere.
#[derive(Clone, Debug)]
pub struct Fused {
    /// The parts along the output axis, in order, each with its size.
    pub parts: Vec<(Role, Size)>,
    /// How they lie there.
    pub layout: FusedLayout,
}

/// How the parts of a fused tensor lie along its output axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FusedLayout {
    /// Each part whole, one after the other.
    Blocks,
    /// For each attention head its rows of each part.
    PerHead,
    /// For each key-value head: the rows of its query heads, of the key, of the value.
    PerKeyValueHead,
}

/// Values of the sizes that a configuration gives.
pub type SizeValues = BTreeMap<String, u64>;

impl Architecture {
    /// The module of this name.
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.name == name)
    }

    /// All tensors that a name may be, each with its module and what its numbers are. A sound file
    /// gives at most one.
    pub fn find<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a Module, &'a TensorTemplate, Captures)> {
        self.modules.iter().flat_map(move |module| {
            module.prefixes.iter().flat_map(move |prefix| {
                name.strip_prefix(prefix.as_str()).into_iter().flat_map(move |rest| {
                    module.tensors.iter().filter_map(move |tensor| {
                        Some((module, tensor, tensor.template.captures(rest)?))
                    })
                })
            })
        })
    }

    /// The value of each named size that a configuration gives; `key` looks up its keys.
    pub fn sizes(&self, key: &impl Fn(&str) -> Option<u64>) -> SizeValues {
        let mut values = SizeValues::new();
        for (name, size) in &self.axes {
            let value = size.value(&|word| {
                // A size of the same name as a key begins with what the key says.
                let known = if word == name { None } else { values.get(word).copied() };
                known.or_else(|| key(word))
            });
            if let Some(value) = value {
                values.insert(name.clone(), value);
            }
        }
        values
    }
}

impl Module {
    /// How many numbers a capture takes: the layers, or one of `counts`.
    pub fn count(&self, capture: char) -> Option<&Size> {
        match &self.layers {
            Some(layers) if layers.capture == capture => Some(&layers.count),
            _ => self.counts.iter().find(|(known, _)| *known == capture).map(|(_, size)| size),
        }
    }
}
