//! A method checked by itself: names, kinds and arguments of all its steps, whatever its parameters.

use std::collections::BTreeMap;

use mixdown_diagnostics::Diagnostic;
use mixdown_recipe::method::{BaseUse, Method, ParameterKind, Per};

use crate::families::tensor_class::Known;
use crate::formulas::graph::{Graph, NodeId, Reach};
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Inputs, Own, Typed, Value, lower};
use crate::formulas::named::Beside;
use crate::plan::{Leaf, TensorRef};

/// Finds the mistakes in a method's formulas. Parameters are taken as unknown, so that all branches are seen.
pub fn check_method(method: &Method) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let bases: &[bool] = match method.base {
        BaseUse::Required => &[true],
        BaseUse::Optional => &[true, false],
        BaseUse::Ignored => &[false],
    };
    for &has_base in bases {
        let mut graph = Graph::default();
        let count = method.experts.at_least.max(2).min(method.experts.at_most.unwrap_or(2).max(1));
        let mut tensor = |model| graph.leaf(Leaf::Tensor(TensorRef { model, tensor: 0 }));
        let base = has_base.then(|| tensor(u32::MAX));
        let experts: Vec<NodeId> = (0..count as u32).map(tensor).collect();
        let parameters = unknown_parameters(&mut graph, method, count);
        let beside = Beside::unknown(&mut graph, method, count);
        let inputs = Inputs {
            base,
            experts: &experts,
            beside: &beside,
            parameters: &parameters,
            elements: 1,
            shape: None,
            stored: None,
            seed: 0,
            own: Own::new("", None),
            known: Known::default(),
            section: (0, 0),
        };
        // Whether it can be lowered does not matter here; what is wrong does.
        let _ = lower(&mut graph, method, &inputs, &mut diagnostics);
    }
    let mut once = Vec::new();
    for diagnostic in diagnostics {
        if !once.contains(&diagnostic) {
            once.push(diagnostic);
        }
    }
    once
}

/// A value for each parameter that no constant folding sees through.
fn unknown_parameters(
    graph: &mut Graph,
    method: &Method,
    experts: usize,
) -> BTreeMap<String, Value> {
    let mut values = BTreeMap::new();
    for (position, parameter) in method.parameters.iter().enumerate() {
        let mut scalar = |expert: usize| {
            let leaf = TensorRef { model: u32::MAX - 1 - position as u32, tensor: expert as u32 };
            let leaf = graph.leaf(Leaf::Tensor(leaf));
            let sum = mixdown_ops::program::Reduction::Sum;
            let node = graph.add(crate::formulas::graph::Node::Reduce(sum, Reach::Tensor), &[leaf]);
            Typed { node, kind: Kind::Scalar }
        };
        let value = match (&parameter.kind, parameter.per) {
            (ParameterKind::Choice(_) | ParameterKind::Matrices, _) => Value::Text(None),
            (_, Per::Merge) => Value::One(scalar(0)),
            (_, Per::Expert) => Value::List((0..experts).map(scalar).collect()),
        };
        values.insert(parameter.name.value.clone(), value);
    }
    values
}
