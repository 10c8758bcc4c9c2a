//! What a map does with two checkpoints, told in numbers.

use mixdown_recipe::map::Origin;

use super::{Application, MadeOf};

/// What a map does with two checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapReport {
    /// Its rules, in order.
    pub rules: Vec<RuleReport>,
    /// Tensors of the target.
    pub target: u64,
    /// Of them: made of tensors of the source.
    pub mapped: u64,
    /// Of them: made of rows of the source, and the target's own rows after them.
    pub rows: u64,
    /// Of them: zeros.
    pub zero: u64,
    /// Of them: kept as they are in the target.
    pub kept: u64,
    /// Tensors of the source.
    pub source: u64,
    /// Of them: used.
    pub used: u64,
    /// Of them: not used, and listed so.
    pub unused: u64,
    /// Of those used: those that are read in part only.
    pub partly: Vec<PartlyUsed>,
    /// The embedding of the source that stands in for its output layer, which is tied to it.
    pub tied: Option<String>,
}

/// What a rule of a map does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleReport {
    /// Its pattern.
    pub to: String,
    /// Its line in the map's file.
    pub line: u32,
    /// What is done: `copy`, `keep`, `zero`, `rows`, or the name of an expression.
    pub action: &'static str,
    /// Tensors of the target that it decides.
    pub tensors: u64,
}

/// A tensor of the source that is read in part only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartlyUsed {
    /// Its name.
    pub name: String,
    /// Elements that are read.
    pub used: u64,
    /// Elements that it has.
    pub elements: u64,
}

impl Application<'_> {
    pub(super) fn report(&self, unused: u64) -> MapReport {
        let map = self.evaluator.map;
        let action = |rule: usize| match &map.rules[rule].from {
            _ if map.keeps(&map.rules[rule], self.policy) => "keep",
            Origin::Keep => "keep",
            Origin::Zero => "zero",
            Origin::Rows(..) => "pad_rows",
            Origin::Same => "copy",
            Origin::Expression(expression) => expression.word().unwrap_or("copy"),
        };
        let rule = |(number, tensors): (usize, &u64)| RuleReport {
            to: map.rules[number].to.text().to_owned(),
            line: map.rules[number].span.line,
            action: action(number),
            tensors: *tensors,
        };
        let source = self.evaluator.source;
        let partly = self.coverage.tensors().filter_map(|(tensor, used)| {
            let entry = source.entry(tensor);
            let elements = entry.shape.elements();
            (used < elements).then(|| PartlyUsed { name: entry.name.clone(), used, elements })
        });
        let mut report = MapReport {
            rules: self.hits.iter().enumerate().map(rule).collect(),
            target: self.evaluator.target.index.len() as u64,
            mapped: 0,
            rows: 0,
            zero: 0,
            kept: 0,
            source: source.index.len() as u64,
            used: self.coverage.tensors().count() as u64,
            unused,
            partly: partly.collect(),
            tied: self.tied.clone(),
        };
        for tensor in &self.tensors {
            let count = match (&tensor.made, tensor.kept_from) {
                (_, Some(0)) => &mut report.kept,
                (_, Some(_)) => &mut report.rows,
                (MadeOf::Zero, None) => &mut report.zero,
                (MadeOf::Stored(_) | MadeOf::Sum(_), None) => &mut report.mapped,
            };
            *count += 1;
        }
        report
    }
}
