//! What a parameter's value is for one tensor: levels of precedence, gradients over layers, filters on names.

use std::collections::BTreeMap;

use mixdown_diagnostics::{Diagnostic, Source, Span, codes, suggest};
use mixdown_recipe::MatrixSelector;
use mixdown_recipe::method::{Bounds, Method, Parameter, ParameterKind, Per};
use mixdown_recipe::recipe::Form;
use mixdown_recipe::setting::{Scalar, Setting, Settings, truth_of};

use crate::detail::{Bound, Resolved};
use crate::formulas::graph::Graph;
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Typed, Value};

/// Settings by precedence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels<'a> {
    /// Of each expert, highest.
    pub experts: Vec<&'a Settings>,
    /// Of slice, module and top, or rule and top; from high to low.
    pub shared: Vec<(&'static str, &'a Settings)>,
}

/// The tensor that values are wanted for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    /// Place of its layer among the layers, 0 to 1.
    pub t: f64,
    /// Name of the output tensor, which filters of shared parameters see.
    pub output: &'a str,
    /// Name of each expert's tensor, which filters of per-expert parameters see.
    pub inputs: &'a [&'a str],
}

/// A required parameter that nothing sets, for an expert if it is one of theirs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Unset {
    pub parameter: String,
    pub expert: Option<usize>,
}

/// Finds the values of all parameters of a method for one tensor.
pub(crate) fn resolve(
    method: &Method,
    levels: &Levels<'_>,
    at: At<'_>,
) -> Result<Vec<Resolved>, Vec<Unset>> {
    let (mut resolved, mut unset) = (Vec::new(), Vec::new());
    for parameter in &method.parameters {
        let experts: Vec<Option<usize>> = match parameter.per {
            Per::Merge => vec![None],
            Per::Expert => (0..levels.experts.len()).map(Some).collect(),
        };
        for expert in experts {
            match resolve_one(parameter, levels, at, expert) {
                Some(value) => resolved.push(value),
                None => unset.push(Unset { parameter: parameter.name.value.clone(), expert }),
            }
        }
    }
    if unset.is_empty() { Ok(resolved) } else { Err(unset) }
}

fn resolve_one(
    parameter: &Parameter,
    levels: &Levels<'_>,
    at: At<'_>,
    expert: Option<usize>,
) -> Option<Resolved> {
    let seen = expert.map_or(at.output, |position| at.inputs[position]);
    let own = expert.map(|position| ("expert", levels.experts[position]));
    for (level, settings) in own.into_iter().chain(levels.shared.iter().copied()) {
        let Some(named) = find(settings, parameter) else { continue };
        let Some(found) = choose(&named.setting, parameter, seen, at.t) else { continue };
        return Some(Resolved {
            name: parameter.name.value.clone(),
            expert,
            value: found.value,
            level,
            span: found.span,
            gradient: found.gradient,
            filter: found.filter,
        });
    }
    let value = convert(parameter.default.as_ref()?, &parameter.kind, Form::Mergekit).ok()?;
    let name = parameter.name.value.clone();
    Some(Resolved {
        name,
        expert,
        value,
        level: "default",
        span: Span::default(),
        gradient: false,
        filter: None,
    })
}

fn find<'a>(
    settings: &'a Settings,
    parameter: &Parameter,
) -> Option<&'a mixdown_recipe::setting::NamedSetting> {
    settings
        .get(&parameter.name.value)
        .or_else(|| parameter.aliases.iter().find_map(|alias| settings.get(alias)))
}

struct Found {
    value: Bound,
    span: Span,
    gradient: bool,
    filter: Option<String>,
}

/// The value of a setting at a tensor; none when no filter matches its name.
fn choose(setting: &Setting, parameter: &Parameter, name: &str, t: f64) -> Option<Found> {
    match setting {
        Setting::Scalar(scalar) => {
            let value = convert(&scalar.value, &parameter.kind, Form::Mergekit).ok()?;
            Some(Found { value, span: scalar.span, gradient: false, filter: None })
        }
        // A list of patterns is the value, and no gradient.
        Setting::Gradient(knots) if parameter.kind == ParameterKind::Matrices => {
            let words = knots.iter().filter_map(|knot| match &knot.value {
                Scalar::Text(text) => Some(text.clone()),
                _ => None,
            });
            let value = Bound::Words(words.collect());
            Some(Found { value, span: knots[0].span, gradient: false, filter: None })
        }
        Setting::Gradient(knots) => {
            let values: Vec<Bound> = knots
                .iter()
                .map(|knot| convert(&knot.value, &parameter.kind, Form::Mergekit).ok())
                .collect::<Option<_>>()?;
            let value = between(&values, t)?;
            Some(Found { value, span: knots[0].span, gradient: true, filter: None })
        }
        Setting::Conditional(conditions) => conditions.iter().find_map(|condition| {
            let filter = condition.filter.as_ref().map(|filter| filter.value.as_str());
            if !filter.is_none_or(|filter| filter == "*" || name.contains(filter)) {
                return None;
            }
            let found = choose(&condition.value, parameter, name, t)?;
            Some(Found { filter: Some(filter.unwrap_or("*").to_owned()), ..found })
        }),
    }
}

/// The value of a gradient at t: linear between the knots for numbers, the knot before it for words and flags.
fn between(knots: &[Bound], t: f64) -> Option<Bound> {
    let last = knots.len().checked_sub(1)?;
    let place = t * last as f64;
    let before = (place.trunc() as usize).min(last);
    let after = (before + 1).min(last);
    match (&knots[before], &knots[after]) {
        (Bound::Number(low), Bound::Number(high)) => {
            let share = place - before as f64;
            Some(Bound::Number((1.0 - share) * low + share * high))
        }
        (knot, _) => Some(knot.clone()),
    }
}

/// The values as an expression sees them: a list for parameters that each expert has.
pub(crate) fn values(
    graph: &mut Graph,
    method: &Method,
    resolved: &[Resolved],
) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut typed = |number: f64| Typed { node: graph.constant(number), kind: Kind::Scalar };
    for parameter in &method.parameters {
        let name = &parameter.name.value;
        let mut own = resolved.iter().filter(|value| value.name == *name);
        let value = match parameter.per {
            Per::Expert => Value::List(
                own.map(|value| match value.value {
                    Bound::Number(number) => typed(number),
                    Bound::Flag(flag) => typed(f64::from(flag)),
                    // The recipe's reader lets only numbers be per expert.
                    Bound::Word(_) | Bound::Words(_) => typed(f64::NAN),
                })
                .collect(),
            ),
            Per::Merge => match own.next().map(|value| &value.value) {
                Some(Bound::Number(number)) => Value::One(typed(*number)),
                Some(Bound::Flag(flag)) => Value::One(typed(f64::from(*flag))),
                Some(Bound::Word(word)) => Value::Text(Some(word.clone())),
                // No entry has a line break.
                Some(Bound::Words(words)) => Value::Text(Some(words.join("\n"))),
                None => continue,
            },
        };
        found.insert(name.clone(), value);
    }
    found
}

/// A scalar of YAML as the parameter wants it; an error says what it wants instead.
pub(crate) fn convert(scalar: &Scalar, kind: &ParameterKind, form: Form) -> Result<Bound, Wrong> {
    let lenient = form == Form::Mergekit;
    let number = match scalar {
        Scalar::Number(number) => Some(*number),
        Scalar::Boolean(flag) if lenient => Some(f64::from(*flag)),
        Scalar::Text(text) => parse_number(text),
        Scalar::Boolean(_) => None,
    };
    let wrong_type = |wanted: &str| Wrong { wanted: wanted.to_owned(), is_range: false };
    let out_of_range = |wanted: String| Wrong { wanted, is_range: true };
    match kind {
        ParameterKind::Boolean => match scalar {
            Scalar::Boolean(flag) => Ok(Bound::Flag(*flag)),
            Scalar::Number(number) if lenient && (*number == 0.0 || *number == 1.0) => {
                Ok(Bound::Flag(*number == 1.0))
            }
            Scalar::Text(text) if lenient => {
                truth_of(text).map(Bound::Flag).ok_or_else(|| wrong_type("true or false"))
            }
            _ => Err(wrong_type("true or false")),
        },
        ParameterKind::Choice(words) => match scalar {
            Scalar::Text(text) if words.contains(text) => Ok(Bound::Word(text.clone())),
            _ => Err(wrong_type(&format!("one of `{}`", words.join("`, `")))),
        },
        ParameterKind::Matrices => match scalar {
            Scalar::Text(text) => match MatrixSelector::parse(text) {
                Ok(_) => Ok(Bound::Words(vec![text.clone()])),
                Err(wanted) => Err(wrong_type(&wanted)),
            },
            _ => Err(wrong_type("a pattern of names or a role, or a list of them")),
        },
        ParameterKind::NumberOrWord { words, bounds } => match (scalar, number) {
            (Scalar::Text(text), _) if words.contains(text) => Ok(Bound::Word(text.clone())),
            (_, Some(number)) if bounds.hold(number) => Ok(Bound::Number(number)),
            (_, Some(number)) if number.is_finite() => Err(out_of_range(bounds.words())),
            _ => Err(wrong_type(&format!("a number or one of `{}`", words.join("`, `")))),
        },
        ParameterKind::Fraction => match number {
            Some(number) if (0.0..=1.0).contains(&number) => Ok(Bound::Number(number)),
            Some(_) => Err(out_of_range("between 0 and 1".to_owned())),
            None => Err(wrong_type("a number from 0 to 1")),
        },
        ParameterKind::Real(bounds) => match number {
            Some(number) if bounds.hold(number) => Ok(Bound::Number(number)),
            Some(number) if number.is_finite() => Err(out_of_range(bounds.words())),
            Some(_) => Err(out_of_range("finite".to_owned())),
            None => Err(wrong_type("a number")),
        },
        ParameterKind::Integer { at_least, at_most } => match number {
            Some(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => {
                let bound = |bound: Option<i64>| bound.map(|bound| bound as f64);
                let (at_least, at_most) = (bound(*at_least), bound(*at_most));
                let bounds = Bounds { at_least, at_most, ..Bounds::default() };
                match bounds.hold(number) {
                    true => Ok(Bound::Number(number)),
                    false => Err(out_of_range(bounds.words())),
                }
            }
            _ => Err(wrong_type("a whole number")),
        },
    }
}

/// Why a value does not fit its parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// What would fit.
    pub wanted: String,
    /// Whether it is a value of the right type beyond its range.
    pub is_range: bool,
}

/// Numbers that YAML leaves as text, such as `1e-5` and `1/3`.
fn parse_number(text: &str) -> Option<f64> {
    let text = text.trim();
    if let Some((numerator, denominator)) = text.split_once('/') {
        let denominator = parse_number(denominator).filter(|&number| number != 0.0)?;
        return Some(parse_number(numerator)? / denominator);
    }
    let numeric =
        text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | 'e' | 'E'));
    if numeric { text.parse().ok() } else { None }
}

/// Checks everything that a level of a recipe sets, whether or not a tensor will ask for it.
///
/// `methods`: those that see this level. `own`: the level belongs to one expert, so that only
/// parameters that each expert has take effect there.
pub(crate) fn check(
    settings: &Settings,
    methods: &[&Method],
    own: bool,
    form: Form,
    source: &Source,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for named in &settings.0 {
        let name = named.name.value.as_str();
        let known = |parameter: &&Parameter| {
            parameter.name.value == name || parameter.aliases.iter().any(|alias| alias == name)
        };
        let parameters: Vec<&Parameter> =
            methods.iter().filter_map(|method| method.parameters.iter().find(known)).collect();
        if parameters.is_empty() {
            if !(form == Form::Mergekit && NO_EFFECT.contains(&name)) {
                diagnostics.push(unknown(name, methods, form).at(source, named.name.span));
            }
            continue;
        }
        if own && parameters.iter().all(|parameter| parameter.per == Per::Merge) {
            let headline = format!("`{name}` has no effect on a single model");
            let diagnostic = match form {
                Form::Mergekit => Diagnostic::warning(codes::IGNORED_PARAMETER, headline),
                Form::Strict => Diagnostic::error(codes::UNKNOWN_PARAMETER, headline),
            };
            let help =
                format!("it is one value for the merge; put `{name}` under the `parameters` above");
            diagnostics.push(diagnostic.help(help).at(source, named.name.span));
            continue;
        }
        for parameter in parameters {
            check_setting(&named.setting, parameter, form, source, diagnostics);
        }
    }
}

/// Parameters that mergekit's configurations carry and that change no number.
const NO_EFFECT: &[&str] = &["int8_mask"];

fn unknown(name: &str, methods: &[&Method], form: Form) -> Diagnostic {
    let names: Vec<&str> = methods.iter().map(|method| method.name.value.as_str()).collect();
    let headline = match names.as_slice() {
        [only] => format!("method `{only}` has no parameter `{name}`"),
        _ => format!("no method here has a parameter `{name}`"),
    };
    let mut diagnostic = match form {
        Form::Mergekit => Diagnostic::warning(codes::IGNORED_PARAMETER, headline)
            .note("it has no effect, as in mergekit"),
        Form::Strict => Diagnostic::error(codes::UNKNOWN_PARAMETER, headline),
    };
    let known: Vec<&str> = methods
        .iter()
        .flat_map(|method| &method.parameters)
        .map(|parameter| parameter.name.value.as_str())
        .collect();
    if let Some(near) = suggest::nearest(name, known.iter().copied()) {
        diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
    } else if let [only] = names.as_slice() {
        diagnostic = diagnostic.help(format!("`mixdown methods {only}` lists its parameters"));
    }
    diagnostic
}

fn check_setting(
    setting: &Setting,
    parameter: &Parameter,
    form: Form,
    source: &Source,
    diagnostics: &mut Vec<Diagnostic>,
) {
    match setting {
        Setting::Scalar(scalar) => {
            check_scalar(&scalar.value, scalar.span, parameter, form, source, diagnostics);
        }
        Setting::Gradient(knots) => {
            for knot in knots {
                check_scalar(&knot.value, knot.span, parameter, form, source, diagnostics);
            }
        }
        Setting::Conditional(conditions) => {
            for condition in conditions {
                check_setting(&condition.value, parameter, form, source, diagnostics);
            }
        }
    }
}

fn check_scalar(
    scalar: &Scalar,
    span: Span,
    parameter: &Parameter,
    form: Form,
    source: &Source,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let name = &parameter.name.value;
    let Err(wrong) = convert(scalar, &parameter.kind, form) else {
        diagnostics.extend(ambiguous(scalar, span, parameter, source));
        return;
    };
    let found = match scalar {
        Scalar::Boolean(flag) => flag.to_string(),
        Scalar::Number(number) => number.to_string(),
        Scalar::Text(text) => format!("`{text}`"),
    };
    let mut diagnostic = if wrong.is_range {
        let verb = if wrong.wanted.starts_with("between") { "lie" } else { "be" };
        let headline = format!("`{name}` must {verb} {}, found {found}", wrong.wanted);
        Diagnostic::error(codes::OUT_OF_RANGE, headline)
    } else {
        let headline = format!("`{name}` must be {}, found {found}", wrong.wanted);
        Diagnostic::error(codes::WRONG_TYPE, headline)
    };
    if name == "density" {
        diagnostic = diagnostic.note("a density is the fraction of elements kept");
    }
    if let (ParameterKind::Fraction, Scalar::Number(number)) = (&parameter.kind, scalar)
        && *number > 1.0
        && *number <= 100.0
    {
        let share = number / 100.0;
        diagnostic = diagnostic.help(format!("for {number} percent write `{name}: {share}`"));
    }
    if let (
        ParameterKind::Choice(words) | ParameterKind::NumberOrWord { words, .. },
        Scalar::Text(text),
    ) = (&parameter.kind, scalar)
        && let Some(near) = suggest::nearest(text, words.iter().map(String::as_str))
    {
        diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
    }
    if wrong.is_range
        && diagnostic.help.is_none()
        && let Some(default) = &parameter.default
    {
        let default = match default {
            Scalar::Boolean(flag) => flag.to_string(),
            Scalar::Number(number) => number.to_string(),
            Scalar::Text(text) => text.clone(),
        };
        diagnostic = diagnostic.help(format!("left out, `{name}` is {default}"));
    }
    diagnostics.push(diagnostic.at(source, span));
}

/// A share of all, where fractions below 1 are shares and whole numbers are counts.
fn ambiguous(
    scalar: &Scalar,
    span: Span,
    parameter: &Parameter,
    source: &Source,
) -> Option<Diagnostic> {
    let ParameterKind::NumberOrWord { words, .. } = &parameter.kind else { return None };
    let written = source.marked(span)?.trim();
    let is_share = *scalar == Scalar::Number(1.0) && written.contains('.');
    if !is_share || !words.iter().any(|word| word == "full") {
        return None;
    }
    let name = &parameter.name.value;
    let headline = format!("`{name}: {written}` could be all directions or a single one");
    let diagnostic = Diagnostic::error(codes::AMBIGUOUS_RANK, headline)
        .note("below 1 a number is a share of the directions, from 1 on it counts them")
        .help(format!("write `{name}: full` for all, or `{name}: 1` for one"));
    Some(diagnostic.at(source, span))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: &[f64]) -> Vec<Bound> {
        values.iter().map(|&value| Bound::Number(value)).collect()
    }

    fn check_gradient(knots: &[f64], t: f64, expected: f64) {
        assert_eq!(between(&numbers(knots), t), Some(Bound::Number(expected)), "{knots:?} {t}");
    }

    #[test]
    fn gradients_interpolate_between_knots() {
        check_gradient(&[0.0, 1.0, 0.5], 0.25, 0.5);
        check_gradient(&[0.0, 1.0, 0.5], 0.5, 1.0);
        check_gradient(&[0.0, 1.0, 0.5], 1.0, 0.5);
        check_gradient(&[0.7], 0.3, 0.7);
        check_gradient(&[0.001, 1.0], 0.5, 0.5005);
    }

    #[test]
    fn flags_take_the_knot_before() {
        let knots = [Bound::Flag(true), Bound::Flag(false)];
        assert_eq!(between(&knots, 0.99), Some(Bound::Flag(true)));
        assert_eq!(between(&knots, 1.0), Some(Bound::Flag(false)));
    }

    fn converts(scalar: Scalar, kind: ParameterKind, expected: Option<f64>) {
        let found = convert(&scalar, &kind, Form::Mergekit).ok();
        assert_eq!(found, expected.map(Bound::Number), "{scalar:?} {kind:?}");
    }

    #[test]
    fn scalars_become_what_the_parameter_wants() {
        let real = || ParameterKind::Real(Bounds::default());
        converts(Scalar::Text("1e-5".to_owned()), real(), Some(1e-5));
        converts(Scalar::Text("inf".to_owned()), real(), None);
        converts(Scalar::Number(f64::INFINITY), real(), None);
        converts(Scalar::Number(20.0), ParameterKind::Fraction, None);
        let flag =
            convert(&Scalar::Text("yes".to_owned()), &ParameterKind::Boolean, Form::Mergekit);
        assert_eq!(flag, Ok(Bound::Flag(true)));
        let integer = || ParameterKind::Integer { at_least: Some(1), at_most: None };
        converts(Scalar::Number(2.5), integer(), None);
        converts(Scalar::Number(0.0), integer(), None);
        converts(Scalar::Number(3.0), integer(), Some(3.0));
        let share = Bounds { above: Some(0.0), below: Some(1.0), ..Bounds::default() };
        for (number, fits) in [(0.0, false), (1e-9, true), (0.5, true), (1.0, false)] {
            let kind = ParameterKind::Real(share);
            converts(Scalar::Number(number), kind, fits.then_some(number));
        }
        assert_eq!(share.words(), "above 0 and below 1");
    }
}
