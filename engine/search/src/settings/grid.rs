//! The grid: parameters, each with its values.

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::schema::Keys;
use mixdown_recipe::tree::Node;
use mixdown_recipe::{Decoder, Fields};

use crate::decimal::{Decimal, Steps};
use crate::grid::Axis;
use crate::objective::Diff;
use crate::schema::RangeKeys;

/// Candidates of one search; each is a merge.
const MOST_CANDIDATES: usize = 1000;

/// Values where only the parameter is named, those of AdaMMS: beyond them language models collapse.
const DEFAULT_VALUES: [&str; 7] = ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6"];

pub(super) fn grid(decoder: &mut Decoder<'_>, fields: Fields<'_>, root: &Node) -> Vec<Axis> {
    let Some(node) = fields.get("grid") else {
        if !fields.mentions("grid") {
            decoder.missing_key(root, "grid", "a search");
        }
        return Vec::new();
    };
    if node.scalar().is_some() && !node.is_null() {
        let path = decoder.text(node, "`grid`").map(|text| text.value).unwrap_or_default();
        return vec![Axis { path, values: DEFAULT_VALUES.map(str::to_owned).to_vec() }];
    }
    let Some(entries) = decoder.map(node, "`grid`") else { return Vec::new() };
    if entries.is_empty() {
        let error = Diagnostic::error(codes::WRONG_TYPE, "`grid` names no parameter");
        decoder.report(node.span, error.help("write a path of the recipe and its values"));
    }
    let mut axes = Vec::new();
    for entry in entries {
        let path = entry.key.text.to_string();
        let values = match entry.value.entries() {
            Some(_) => steps(decoder, &entry.value),
            None => values(decoder, &entry.value, &path),
        };
        axes.push(Axis { path, values: values.unwrap_or_default() });
    }
    let count = axes.iter().try_fold(1usize, |count, axis| count.checked_mul(axis.values.len()));
    if count.is_none_or(|count| count > MOST_CANDIDATES) {
        let error = Diagnostic::error(codes::OUT_OF_RANGE, "the grid has too many candidates");
        let error = error.fact("limit", MOST_CANDIDATES.to_string());
        decoder.report(node.span, error.note("each candidate is merged"));
    }
    axes
}

fn values(decoder: &mut Decoder<'_>, node: &Node, path: &str) -> Option<Vec<String>> {
    let items = decoder.list(node, &format!("`{path}`"))?;
    if items.is_empty() {
        decoder.error(codes::WRONG_TYPE, node.span, format!("`{path}` has no values"));
    }
    let mut values: Vec<String> = Vec::new();
    for item in items {
        let text = decoder.text(item, "a value")?.value;
        let number = Decimal::parse(&text);
        let is_known = values.iter().any(|other| {
            *other == text
                || (number.is_some()
                    && Decimal::parse(other).map(|o| o.cmp(&number.unwrap_or(o)))
                        == Some(std::cmp::Ordering::Equal))
        });
        if is_known {
            decoder.error(codes::DUPLICATE_KEY, item.span, format!("`{path}` has {text} twice"));
        }
        values.push(text);
    }
    Some(values)
}

fn steps(decoder: &mut Decoder<'_>, node: &Node) -> Option<Vec<String>> {
    let steps = range(decoder, node, Step::Required)?;
    if steps.count > MOST_CANDIDATES as u64 {
        let error = Diagnostic::error(codes::OUT_OF_RANGE, "the range has too many values");
        let error = error.fact("limit", MOST_CANDIDATES.to_string());
        decoder.report(node.span, error.note("each value is merged"));
        return None;
    }
    Some(steps.values())
}

/// Whether a range must have a step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Each of its values is tried.
    Required,
    /// Values are chosen between its ends.
    Optional,
}

/// From and to, with or without a step.
pub(super) fn range(decoder: &mut Decoder<'_>, node: &Node, needs: Step) -> Option<Steps> {
    let fields = decoder.fields(node, RangeKeys::KEYS, "a range")?;
    let mut number = |key: &str, is_needed: bool| {
        let Some(node_at) = fields.get(key) else {
            if !fields.mentions(key) && is_needed {
                decoder.missing_key(node, key, "a range");
            }
            return None;
        };
        let text = decoder.text(node_at, &format!("`{key}`"))?;
        let number = Decimal::parse(&text.value);
        if number.is_none() {
            decoder.wrong_type(node_at, &format!("`{key}`"), "a decimal number");
        }
        number
    };
    let (from, to) = (number("from", true), number("to", true));
    let step = number("step", needs == Step::Required);
    let (from, to) = (from?, to?);
    let (steps, help) = match step {
        Some(step) => {
            (Steps::new(from, to, step), "`step` must lie above 0, and `from` not above `to`")
        }
        None if fields.mentions("step") || needs == Step::Required => return None,
        None => {
            (Steps::fine(from, to), "`from` must lie below `to`; `step` says how fine values are")
        }
    };
    if steps.is_none() {
        let error = Diagnostic::error(codes::OUT_OF_RANGE, "the range has no values, or too many");
        decoder.report(node.span, error.help(help));
    }
    steps
}

/// Neighbors are only those of one parameter, and only of numbers in order.
pub(super) fn check_curve(
    decoder: &mut Decoder<'_>,
    fields: Fields<'_>,
    axes: &[Axis],
    diff: Option<Diff>,
) {
    let Some(node) = fields.get("grid") else { return };
    let [axis] = axes else {
        if axes.len() > 1 {
            let headline = "answers are compared with those of neighbors, and a grid of several \
                            parameters has none";
            let error = Diagnostic::error(codes::UNSUPPORTED, headline);
            let error = error.note("neighbors are the values before and after, of one parameter");
            let help = "search one parameter, or give `objective` a `command` that scores";
            decoder.report(node.span, error.help(help));
        }
        return;
    };
    if axis.values.is_empty() {
        return;
    }
    let place = node.get(&axis.path).map_or(node.span, |values| values.span);
    let numbers: Option<Vec<Decimal>> =
        axis.values.iter().map(|value| Decimal::parse(value)).collect();
    match numbers {
        None => {
            let headline = format!("the values of `{}` must be decimal numbers", axis.path);
            let error = Diagnostic::error(codes::WRONG_TYPE, headline);
            decoder.report(place, error.note("neighbors are the numbers before and after"));
            return;
        }
        Some(numbers) if numbers.windows(2).any(|pair| pair[0] >= pair[1]) => {
            let headline = format!("the values of `{}` must rise", axis.path);
            let error = Diagnostic::error(codes::OUT_OF_RANGE, headline);
            decoder.report(place, error.note("neighbors are the numbers before and after"));
        }
        Some(_) => {}
    }
    let Some(diff) = diff else { return };
    let count = axis.values.len();
    if diff.eligible(count).is_empty() {
        let wanted = if diff == Diff::Prev { 2 } else { 3 };
        let headline = format!("`{}` has too few values to compare", axis.path);
        let error = Diagnostic::error(codes::OUT_OF_RANGE, headline)
            .fact("expected", format!("{wanted} at least"))
            .fact("found", count.to_string())
            .note("end points are only neighbors and cannot be chosen")
            .help("add values before and after those that may be chosen");
        decoder.report(place, error);
    }
}
