//! What a method over matrices made of each tensor, counted and told: what looks like a matrix and was
//! averaged shall not go unnoticed.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::Recipe;

use crate::layer;
use crate::plan::{Merge, Plan, Work};
use crate::resolve::whole;
use crate::tensor_class::Class;
use crate::view::Made;

/// What a method over matrices made of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It was taken for matrices, and the method is applied to them.
    Optimized,
    /// It gets what the method has for the rest: the mean of the task vectors.
    Averaged {
        /// Whether it could be a matrix by its shape and name.
        could_be: bool,
    },
    /// It stays as it is in the base.
    Kept,
}

impl Treatment {
    /// Of a class, where the result is the base or not.
    pub(crate) fn of(class: Class, is_base: bool) -> Self {
        match class {
            Class::Matrix(_) => Self::Optimized,
            _ if is_base => Self::Kept,
            Class::Other { could_be } => Self::Averaged { could_be },
            Class::Stack => Self::Averaged { could_be: true },
        }
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Optimized => "optimized",
            Self::Averaged { .. } => "averaged",
            Self::Kept => "kept",
        }
    }
}

/// How many tensors methods over matrices have optimized, averaged and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts(pub [(&'static str, usize); 3]);

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> =
            self.0.iter().map(|(word, count)| format!("{count} {word}")).collect();
        f.write_str(&words.join(", "))
    }
}

/// What methods over matrices made of the tensors of a plan; none where it has no such method.
pub fn counts(plan: &Plan) -> Option<Counts> {
    let mut counts: [(&str, usize); 3] = [("optimized", 0), ("averaged", 0), ("kept", 0)];
    let mut names = HashSet::new();
    for job in &plan.jobs {
        let Some(treatment) = job.treatment else { continue };
        // The two sides of an adapter's update are one tensor.
        let pair = match &job.work {
            Work::Merge(Merge { factor: Some(factor), .. }) => Some(factor.pair),
            _ => None,
        };
        if pair.is_some_and(|pair| !names.insert(pair)) {
            continue;
        }
        let found = counts.iter_mut().find(|(word, _)| *word == treatment.word());
        found.into_iter().for_each(|(_, count)| *count += 1);
    }
    counts.iter().any(|(_, count)| *count > 0).then_some(Counts(counts))
}

/// Names of tensors that are told in one warning.
const MOST_NAMED: usize = 6;

/// A warning about the tensors of a recipe that could be matrices and get what the rest gets.
pub(crate) fn warning(recipe: &Recipe, made: &[Made]) -> Option<Diagnostic> {
    let mut alike: BTreeMap<String, usize> = BTreeMap::new();
    let averaged = |made: &&Made| made.treatment == Some(Treatment::Averaged { could_be: true });
    for found in made.iter().filter(averaged) {
        let name = match layer::split(&found.name) {
            Some(name) => format!("{}*{}", name.prefix, name.suffix),
            None => found.name.clone(),
        };
        *alike.entry(name).or_default() += 1;
    }
    let count: usize = alike.values().sum();
    if count == 0 {
        return None;
    }
    let (noun, verb) = if count == 1 { ("tensor", "is") } else { ("tensors", "are") };
    let headline = format!("{count} {noun} that could be matrices {verb} averaged");
    let mut diagnostic = Diagnostic::warning(codes::MATRICES_AVERAGED, headline);
    for (name, count) in alike.iter().take(MOST_NAMED) {
        let times = if *count == 1 { String::new() } else { format!(", {count} of them") };
        diagnostic = diagnostic.fact("tensor", format!("`{name}`{times}"));
    }
    if alike.len() > MOST_NAMED {
        let more = alike.len() - MOST_NAMED;
        diagnostic = diagnostic.note(format!("and {more} more names"));
    }
    let first = alike.keys().next().cloned().unwrap_or_default();
    let help = format!(
        "name them to have them optimized, `matrices: [auto, \"{first}\"]`, or leave them as in the base with `rest: base`"
    );
    Some(diagnostic.help(help).at(&recipe.source, whole(recipe)))
}
