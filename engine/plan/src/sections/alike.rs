//! Tensors that a section makes alike are lowered once: a model has tens of thousands of tensors, and the
//! formula says the same of most of them, each time of other leaves.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

use mixdown_recipe::setting::{Setting, Settings};
use mixdown_tensor::{DType, Shape};

use crate::detail::{Bound, Resolved};
use crate::formulas::graph::{Graph, NodeId};
use crate::formulas::lower::Draw;
use crate::plan::Leaf;
use crate::plan::Treatment;
use crate::sections::pair::{Present, Section};

/// How the tensors of a section so far are made.
#[derive(Debug, Default)]
pub(crate) struct Makings {
    known: RefCell<HashMap<Alike, (Making, Vec<Draw>)>>,
    /// Whether parameters are the same for all tensors.
    is_steady: OnceCell<bool>,
}

/// How a method makes a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Making {
    pub graph: Graph,
    pub output: NodeId,
    /// Whether the arithmetic is f64.
    pub double: bool,
    pub treatment: Option<Treatment>,
}

/// All that a method sees of a tensor but its name and which tensors of files it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Alike {
    /// The inputs that have the tensor: position in the section, position among the leaves, type.
    inputs: Vec<(usize, usize, DType)>,
    shape: Shape,
    /// Type of the output.
    out: DType,
    /// Values of the parameters, where they differ from tensor to tensor.
    values: Vec<(u64, String)>,
}

impl Alike {
    /// Of a tensor whose inputs all are tensors as stored, with these. None where more goes into it.
    pub fn of(
        section: &Section<'_>,
        present: &[Present<'_>],
        out: DType,
    ) -> Option<(Self, Vec<Leaf>)> {
        if section.method.reference || !section.method.attachments.is_empty() {
            return None;
        }
        let (mut inputs, mut leaves) = (Vec::with_capacity(present.len()), Vec::new());
        // In the order in which the graph is given them: the base, then the experts.
        let base = present.iter().filter(|one| one.input.is_base).take(1);
        for one in base.chain(present.iter().filter(|one| !one.input.is_base)) {
            if one.input.view.is_mapped() {
                return None;
            }
            let leaf = Leaf::Tensor(one.input.view.stored(one.tensor.position)?);
            let place = leaves.iter().position(|known| *known == leaf).unwrap_or_else(|| {
                leaves.push(leaf);
                leaves.len() - 1
            });
            let own = section.inputs.iter().position(|input| std::ptr::eq(input, one.input))?;
            inputs.push((own, place, one.tensor.dtype));
        }
        let shape = present.first()?.tensor.shape.clone();
        Some((Self { inputs, shape, out, values: Vec::new() }, leaves))
    }

    /// Tells tensors with other values of the parameters apart.
    pub fn with(&mut self, resolved: &[Resolved]) {
        let value = |one: &Resolved| match &one.value {
            Bound::Number(number) => (number.to_bits(), String::new()),
            Bound::Flag(flag) => (u64::from(*flag), String::new()),
            Bound::Word(word) => (0, word.clone()),
            Bound::Words(words) => (1, words.join("\n")),
        };
        self.values = resolved.iter().map(value).collect();
    }
}

impl Makings {
    /// Whether the parameters of a section are the same for all its tensors.
    pub fn is_steady(&self, section: &Section<'_>) -> bool {
        let is_steady = |settings: &Settings| {
            settings.0.iter().all(|named| matches!(named.setting, Setting::Scalar(_)))
        };
        *self.is_steady.get_or_init(|| {
            section.inputs.iter().all(|input| is_steady(input.settings))
                && section.shared.iter().all(|(_, settings)| is_steady(settings))
        })
    }

    /// The making of a tensor like one that is known, over its own leaves and with its own random numbers.
    pub fn find(&self, alike: &Alike, leaves: &[Leaf], tensor: &str) -> Option<Making> {
        let known = self.known.borrow();
        let (making, draws) = known.get(alike)?;
        let streams = draws.iter().map(|draw| draw.key(tensor)).collect();
        let graph = making.graph.over(leaves.to_vec(), streams);
        Some(Making { graph, ..*making })
    }

    /// Keeps the making of a tensor of these leaves and draws for those like it, if it is made of nothing
    /// else.
    pub fn keep(&self, alike: Alike, leaves: &[Leaf], draws: Vec<Draw>, making: &Making) {
        let graph = &making.graph;
        if graph.leaves == leaves && graph.streams.len() == draws.len() && graph.groups.is_empty() {
            self.known.borrow_mut().insert(alike, (making.clone(), draws));
        }
    }
}
