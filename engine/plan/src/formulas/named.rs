//! Values that formulas have by name beside weights: `importance`, `gram` and `reference`.

use std::cell::RefCell;
use std::collections::BTreeSet;

use mixdown_diagnostics::Diagnostic;
use mixdown_recipe::method::Method;
use mixdown_recipe::recipe::Attachment;
use mixdown_tensor::DType;

use super::graph::Graph;
use super::kind::Kind;
use super::lower::{Reported, Typed, Value};
use crate::plan::{Leaf, TensorRef};
use crate::report::Reporter;

/// For one tensor the values of `importance`, `gram` and `reference`. That there is none is a mistake
/// only if a formula asks for it.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    found: Vec<(&'static str, Found)>,
    /// Rows and columns of each Gram matrix, where there are any.
    pub gram_inputs: Option<u64>,
    asked: RefCell<BTreeSet<&'static str>>,
}

/// What stands under a name.
#[derive(Debug)]
pub(crate) enum Found {
    /// One value, or one for each expert, and the tensors that were read for it.
    Values(Value, Vec<Shown>),
    /// Why there is none.
    Lacking(Box<Diagnostic>),
}

/// A tensor that was read, for `mixdown explain`: what it is, its name, its type.
pub(crate) type Shown = (String, String, DType);

impl Beside {
    /// What there is, by name.
    pub fn new(found: Vec<(&'static str, Found)>, gram_inputs: Option<u64>) -> Self {
        Self { found, gram_inputs, asked: RefCell::default() }
    }

    /// For a method that is checked by itself.
    pub fn unknown(graph: &mut Graph, method: &Method, experts: usize) -> Self {
        let mut beside = Self::default();
        // Past the models that the experts stand for, and before those of the parameters.
        let mut next = 1 << 16;
        let mut one = |kind| {
            next += 1;
            let leaf = Leaf::Tensor(TensorRef { model: next, tensor: 0 });
            Typed { node: graph.leaf(leaf), kind }
        };
        for &kind in &method.attachments {
            let values = (0..experts).map(|_| one(kind_of(kind))).collect();
            beside.found.push((kind.name(), Found::Values(Value::List(values), Vec::new())));
        }
        if method.reference {
            let value = Value::One(one(Kind::Weights));
            beside.found.push(("reference", Found::Values(value, Vec::new())));
        }
        beside
    }

    /// The value of a name, if it is one of these.
    pub fn value(&self, name: &str) -> Option<Result<Value, Reported>> {
        let (name, found) = self.found.iter().find(|(known, _)| *known == name)?;
        self.asked.borrow_mut().insert(name);
        Some(match found {
            Found::Values(value, _) => Ok(value.clone()),
            Found::Lacking(_) => Err(Reported),
        })
    }

    /// What a formula has asked for: reports what is not there, and gives the tensors of the rest.
    pub fn conclude(&self, section: (u32, u64), reporter: &mut Reporter) -> Vec<Shown> {
        let asked = self.asked.borrow();
        let mut shown = Vec::new();
        for (_, found) in self.found.iter().filter(|(name, _)| asked.contains(name)) {
            match found {
                Found::Values(_, read) => shown.extend(read.iter().cloned()),
                Found::Lacking(diagnostic) => reporter.tensor(section, (**diagnostic).clone()),
            }
        }
        shown
    }
}

pub(crate) fn kind_of(attachment: Attachment) -> Kind {
    match attachment {
        Attachment::Importance => Kind::Number,
        Attachment::Gram => Kind::Gram,
    }
}
