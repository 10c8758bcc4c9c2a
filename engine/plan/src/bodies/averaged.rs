//! A warning about what could be matrices and was averaged.

use std::collections::BTreeMap;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::Recipe;

use crate::families::layer;
use crate::models::view::Made;
use crate::plan::Treatment;
use crate::report::whole;

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
