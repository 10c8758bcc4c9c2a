//! What a method over matrices made of each tensor, counted and told: what looks like a matrix and was
//! averaged shall not go unnoticed.

use std::collections::HashSet;
use std::fmt;

use super::Plan;
use super::job::{Merge, Work};

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
