//! Models of one family whose files spell names in two ways: `model.layers…` of older programs,
//! `model.language_model.layers…` of newer ones. The base's spelling is that of all.

use std::collections::HashMap;

use mixdown_checkpoint::{Checkpoint, Index};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_plan::{Architectures, knowledge};
use mixdown_recipe::Architecture;

use super::Input;
use crate::quantity;

/// A model under the names of its base.
pub struct Respelled {
    pub index: Index,
    /// What is told of it.
    pub told: Diagnostic,
}

/// The tensors of a model under the names that its base has for them; none where these are the same
/// already, or the two are not of one family.
pub fn of_base(base: &Input, model: &Checkpoint) -> Option<Respelled> {
    let own = family(model)?;
    let of_base = family(&base.model.checkpoint).filter(|other| other.name == own.name)?;
    let theirs = &base.model.checkpoint.index;
    let mut spelled: HashMap<String, &str> = HashMap::with_capacity(theirs.len());
    for tensor in theirs.tensors() {
        if let Some(facts) = knowledge::facts(of_base, &tensor.name) {
            spelled.insert(facts.canonical, &tensor.name);
        }
    }
    let mut count = 0;
    let mut example = None;
    let mut names: HashMap<&str, &str> = HashMap::new();
    for tensor in model.index.tensors() {
        if theirs.get(&tensor.name).is_some() {
            continue;
        }
        let facts = knowledge::facts(own, &tensor.name);
        let Some(name) = facts.and_then(|facts| spelled.get(facts.canonical.as_str()).copied())
        else {
            continue;
        };
        count += 1;
        example.get_or_insert((tensor.name.as_str(), name));
        names.insert(&tensor.name, name);
    }
    let (from, to) = example?;
    let index =
        model.index.renamed(&|name| Some(names.get(name).copied().unwrap_or(name).to_owned()));
    let headline = format!(
        "{} of another spelling get the names of the base, `{from}` that of `{to}`",
        quantity::count(count, "tensor")
    );
    Some(Respelled { index: index.ok()?, told: Diagnostic::warning(codes::RESPELLED, headline) })
}

fn family(checkpoint: &Checkpoint) -> Option<&'static Architecture> {
    let names = checkpoint.index.tensors().iter().map(|tensor| tensor.name.as_str());
    Architectures::built_in().recognize(names, checkpoint.config.as_ref())
}
