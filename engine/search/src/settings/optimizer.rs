//! The optimizer: ranges of parameters, and how values are sought in them.

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::schema::Keys;
use mixdown_recipe::tree::{Node, ScalarValue};
use mixdown_recipe::{Decoder, Fields};

use super::grid::{Step, range};
use super::values::positive;
use crate::cma::default_population;
use crate::optimizer::{Optimizer, Range};
use crate::schema::{CmaEsKeys, OptimizerKeys};

/// Parameters that one search can have: the covariance has the square of them.
const MOST_PARAMETERS: usize = 100;

/// Reads `optimizer` with the ranges of `grid`.
pub(super) fn optimizer(
    decoder: &mut Decoder<'_>,
    top: Fields<'_>,
    root: &Node,
) -> Option<Optimizer> {
    let ranges = ranges(decoder, top, root);
    let node = top.get("optimizer")?;
    let fields = decoder.fields(node, OptimizerKeys::KEYS, "`optimizer`")?;
    if !fields.mentions("cma_es") {
        decoder.missing_key(node, "cma_es", "`optimizer`");
    }
    let node = fields.get("cma_es")?;
    let fields = decoder.fields(node, CmaEsKeys::KEYS, "`cma_es`")?;
    if !fields.mentions("budget") {
        decoder.missing_key(node, "budget", "`cma_es`");
    }
    let budget = positive(decoder, fields, "budget");
    let population = positive(decoder, fields, "population");
    let sigma = sigma(decoder, fields);
    let seed = fields.get("seed").and_then(|node| decoder.count(node, "`seed`")).unwrap_or(0);
    let ranges = ranges?;
    if population == Some(1) {
        let place = fields.get("population").map_or(node.span, |node| node.span);
        let headline = "a generation needs two candidates at least";
        decoder.error(codes::OUT_OF_RANGE, place, headline);
    }
    let default = default_population(ranges.len());
    let budget = budget?;
    if budget < population.unwrap_or(default) {
        let place = fields.get("budget").map_or(node.span, |node| node.span);
        let error =
            Diagnostic::error(codes::OUT_OF_RANGE, "`budget` ends before one generation does")
                .fact("budget", budget.to_string())
                .fact("population", population.unwrap_or(default).to_string())
                .note("what the optimizer learns, it learns from whole generations")
                .help("allow ten generations at least, or write a grid");
        decoder.report(place, error);
    }
    let population = population.unwrap_or(default);
    Some(Optimizer { ranges, budget, population, sigma, seed })
}

fn sigma(decoder: &mut Decoder<'_>, fields: Fields<'_>) -> f64 {
    const DEFAULT: f64 = 0.3;
    let Some(node) = fields.get("sigma") else { return DEFAULT };
    let value = match node.scalar().map(|scalar| scalar.value) {
        Some(ScalarValue::Integer(value)) => Some(value as f64),
        Some(ScalarValue::Float(value)) => Some(value),
        _ => None,
    };
    let value = value.filter(|&value| value > 0.0 && value <= 1.0);
    if value.is_none() {
        decoder.wrong_type(
            node,
            "`sigma`",
            "a number above 0 and up to 1, a fraction of each range",
        );
    }
    value.unwrap_or(DEFAULT)
}

fn ranges(decoder: &mut Decoder<'_>, top: Fields<'_>, root: &Node) -> Option<Vec<Range>> {
    let Some(node) = top.get("grid") else {
        if !top.mentions("grid") {
            decoder.missing_key(root, "grid", "a search");
        }
        return None;
    };
    const NEEDED: &str = "an optimizer chooses values of ranges";
    const HELP: &str = "write `{from: …, to: …}`, or remove `optimizer` to try each value";
    let Some(entries) = node.entries() else {
        let headline =
            format!("`grid` must give a range of each parameter, found {}", node.describe());
        let error = Diagnostic::error(codes::WRONG_TYPE, headline);
        decoder.report(node.span, error.note(NEEDED).help(HELP));
        return None;
    };
    if entries.is_empty() || entries.len() > MOST_PARAMETERS {
        let headline = format!("`grid` names {} parameters", entries.len());
        let error = Diagnostic::error(codes::OUT_OF_RANGE, headline);
        decoder.report(node.span, error.fact("expected", format!("1 to {MOST_PARAMETERS}")));
        return None;
    }
    let mut ranges = Vec::new();
    for entry in entries {
        let path = entry.key.text.to_string();
        if entry.value.entries().is_none() {
            let headline = format!("`{path}` must be a range, found {}", entry.value.describe());
            let error = Diagnostic::error(codes::WRONG_TYPE, headline);
            decoder.report(entry.value.span, error.note(NEEDED).help(HELP));
            continue;
        }
        let steps = range(decoder, &entry.value, Step::Optional);
        match steps {
            Some(steps) if steps.count < 2 => {
                let headline = format!("the range of `{path}` has one value");
                let error = Diagnostic::error(codes::OUT_OF_RANGE, headline);
                let help = "give it a value in the recipe, and remove it here";
                decoder.report(entry.value.span, error.help(help));
            }
            Some(steps) => ranges.push(Range { path, steps }),
            None => {}
        }
    }
    (ranges.len() == entries.len()).then_some(ranges)
}
