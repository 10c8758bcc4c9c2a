//! A model seen through an architecture map: each tensor of the target's names and shapes made of tensors of
//! the source. Everything that can be wrong is found here, from headers alone.
//!
//! Source: AdaMMS (Du et al., 2025), section 3.1: a map takes each weight of the target to one of the source, or
//! to nothing, and then the target keeps its own.

use std::collections::{BTreeMap, HashMap};

use mixdown_diagnostics::{Diagnostic, Span, codes, suggest};
use mixdown_recipe::map::{ArchitectureMap, MapExpression, MapRule, Origin, Parts, Policy};
use mixdown_tensor::{DType, Shape};

use crate::families::tied::tied_flag;
use crate::plan::TensorRef;
use crate::plan::{Assembled, Patch};

mod coverage;
mod evaluate;
mod gathered;
mod library;
mod report;

use coverage::Coverage;
pub use evaluate::Side;
use evaluate::{Evaluator, Fault};
use gathered::{Gathered, Sum, Term, shown, sides};
pub use library::Maps;
pub use report::{MapReport, PartlyUsed, RuleReport};

/// How a map is used: what a recipe states otherwise than the map's file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MapSettings {
    /// Instead of the map's own policy.
    pub policy: Option<Policy>,
    /// Instead of the map's own numbers, or beside them.
    pub numbers: Vec<(String, u64)>,
}

/// A checkpoint seen through a map.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    /// One for each tensor of the target, in its order.
    pub tensors: Vec<MappedTensor>,
    pub by_name: HashMap<String, u32>,
}

/// A tensor seen through a map.
#[derive(Clone, Debug)]
pub(crate) struct MappedTensor {
    pub name: String,
    pub shape: Shape,
    pub dtype: DType,
    pub made: MadeOf,
    /// Rows from this one on are those of the target, whatever a method does; all of them from row 0.
    pub kept_from: Option<u64>,
    /// What it is made of, for people.
    pub shown: String,
}

/// What a mapped tensor is.
#[derive(Clone, Debug)]
pub(crate) enum MadeOf {
    /// A stored tensor, of the source or of the target.
    Stored(TensorRef),
    /// Zeros.
    Zero,
    /// A sum of tensors, each with its factor.
    Sum(Vec<(f64, Piece)>),
}

/// A term of a mapped tensor.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Whole(TensorRef),
    Assembled(Assembled),
}

/// What a map makes of two checkpoints, and what is wrong with that.
#[derive(Debug)]
pub(crate) struct Applied {
    pub mapped: Mapped,
    pub report: MapReport,
    pub diagnostics: Vec<Diagnostic>,
}

/// Tells what a map makes of a source for a target.
///
/// The second part is everything that is wrong with it: tensors of the target that no rule is for, rules
/// that match none, tensors that the source lacks, shapes that disagree, and tensors of the source that are
/// neither used nor listed as unused.
pub fn check(
    map: &ArchitectureMap,
    settings: &MapSettings,
    target: Side<'_>,
    source: Side<'_>,
) -> (MapReport, Vec<Diagnostic>) {
    let applied = apply(map, settings, target, source);
    (applied.report, applied.diagnostics)
}

/// Sees a source through a map.
pub(crate) fn apply(
    map: &ArchitectureMap,
    settings: &MapSettings,
    target: Side<'_>,
    source: Side<'_>,
) -> Applied {
    let evaluator = Evaluator { map, numbers: &settings.numbers, target, source };
    let mut application = Application {
        evaluator,
        policy: settings.policy.unwrap_or(map.policy),
        tensors: Vec::new(),
        hits: vec![0; map.rules.len()],
        uncovered: Vec::new(),
        faults: BTreeMap::new(),
        clamped: BTreeMap::new(),
        coverage: Coverage::default(),
        tied: None,
    };
    for position in 0..target.index.len() {
        application.tensor(position);
    }
    application.finish()
}

struct Application<'a> {
    evaluator: Evaluator<'a>,
    policy: Policy,
    tensors: Vec<MappedTensor>,
    /// Per rule: the tensors that it decided.
    hits: Vec<u64>,
    uncovered: Vec<&'a str>,
    /// Per rule and code: the first fault with the tensor that has it, and how many there are.
    faults: BTreeMap<(usize, &'static str), (Fault, String, u64)>,
    /// Per rule of rows: the first tensor that gets other rows than the rule says, and how many there are.
    clamped: BTreeMap<usize, (Clamped, u64)>,
    coverage: Coverage,
    /// The embedding that stands in for the source's output layer.
    tied: Option<String>,
}

/// Rows of a source that are other than a rule says, because one of both has fewer.
struct Clamped {
    tensor: String,
    /// Rows that the rule takes.
    asked: Option<u64>,
    source: u64,
    target: u64,
}

impl<'a> Application<'a> {
    fn tensor(&mut self, position: usize) {
        let target = self.evaluator.target;
        let entry = &target.index.tensors()[position];
        let rules = &self.evaluator.map.rules;
        let found = rules
            .iter()
            .enumerate()
            .find_map(|(number, rule)| rule.to.captures(&entry.name).map(|parts| (number, parts)));
        let Some((number, parts)) = found else {
            self.uncovered.push(&entry.name);
            return;
        };
        self.hits[number] += 1;
        match self.made(position, number, &parts) {
            Ok(made) => self.tensors.push(made),
            Err(fault) => {
                let key = (number, fault.code.id);
                let known = self.faults.entry(key);
                known.or_insert_with(|| (fault, entry.name.clone(), 0)).2 += 1;
            }
        }
    }

    fn made(
        &mut self,
        position: usize,
        number: usize,
        parts: &Parts<'_>,
    ) -> Result<MappedTensor, Fault> {
        let evaluator = &self.evaluator;
        let rule = &evaluator.map.rules[number];
        let (target, source) = (evaluator.target, evaluator.source);
        let entry = &target.index.tensors()[position];
        let own = target.reference(position);
        let tensor = |dtype, made, kept_from, shown: String| MappedTensor {
            name: entry.name.clone(),
            shape: entry.shape.clone(),
            dtype,
            made,
            kept_from,
            shown,
        };
        if evaluator.map.keeps(rule, self.policy) {
            let shown = format!("kept of {}", target.name);
            return Ok(tensor(entry.dtype, MadeOf::Stored(own), Some(0), shown));
        }
        let (value, kept_from) = match &rule.from {
            Origin::Keep | Origin::Zero => {
                return Ok(tensor(entry.dtype, MadeOf::Zero, None, "zero".to_owned()));
            }
            Origin::Same => (evaluator.named(&entry.name)?, None),
            Origin::Expression(expression) => (evaluator.value(expression, parts)?, None),
            Origin::Rows(expression, take) => {
                let rows = evaluator.value(expression, parts)?;
                let most = take.as_ref().map(|take| evaluator.size(take)).transpose()?;
                let (found, has) =
                    (rows.shape().first().copied(), entry.shape.dimensions().first());
                let made = self.with_rows(own, &rows, most)?;
                if let (Some(source), Some(&target)) = (found, has)
                    && most.map_or(source > target, |most| most > source.min(target))
                {
                    let tensor = entry.name.clone();
                    let clamped = Clamped { tensor, asked: most, source, target };
                    self.clamped.entry(number).or_insert((clamped, 0)).1 += 1;
                }
                made
            }
        };
        if value.shape() != entry.shape.dimensions() {
            return Err(other_shape(value.shape(), &entry.shape, rule));
        }
        let tensors = value.tensors();
        let dtypes = tensors.iter().map(|tensor| evaluator.stored(*tensor).0);
        let promoted = dtypes.clone().try_fold(None, |all: Option<DType>, dtype| {
            Some(Some(all.map_or(Some(dtype), |all| all.promote(dtype))?))
        });
        let dtype = promoted.flatten().unwrap_or(entry.dtype);
        let terms = value.finish(&|tensor| evaluator.stored(tensor));
        let made = match terms.as_slice() {
            [(by, Term::Whole(stored))] if *by == 1.0 => MadeOf::Stored(*stored),
            [] => MadeOf::Zero,
            _ => MadeOf::Sum(terms.into_iter().map(|(by, term)| (by, term.into())).collect()),
        };
        let are_floats = dtypes.clone().all(DType::is_float) && entry.dtype.is_float();
        let is_plain = matches!(made, MadeOf::Stored(_)) && dtype == entry.dtype;
        if !are_floats && !is_plain {
            let headline = format!("`{}` has element types that do not go together", entry.name);
            let mut fault = Fault::new(codes::DTYPE_MISMATCH, headline)
                .fact("target", entry.dtype.name().to_owned());
            for found in dtypes {
                fault = fault.fact("source", found.name().to_owned());
            }
            return Err(fault.help("write `from: keep`"));
        }
        let names: Vec<String> = tensors
            .iter()
            .filter(|tensor| tensor.model == source.model)
            .map(|tensor| source.entry(*tensor).name.clone())
            .collect();
        let patches = value.patches();
        self.coverage.add(patches.filter(|patch| is_of(patch, source.model)));
        if entry.name.ends_with("lm_head.weight")
            && let Some(name) = names.iter().find(|name| !name.ends_with("lm_head.weight"))
            && source.index.position(&entry.name).is_none()
        {
            self.tied = Some(name.clone());
        }
        let shown = described(&rule.from, &names);
        Ok(tensor(dtype, made, kept_from, shown))
    }

    /// The first rows of a value, then those of the target; with the row from which they are the target's.
    fn with_rows(
        &self,
        own: TensorRef,
        rows: &Sum,
        most: Option<u64>,
    ) -> Result<(Sum, Option<u64>), Fault> {
        let entry = self.evaluator.target.entry(own);
        let wanted = entry.shape.dimensions();
        let found = rows.shape();
        if found.is_empty() || found.len() != wanted.len() || found[1..] != wanted[1..] {
            let headline = format!("the rows for `{}` are of another length", entry.name);
            return Err(Fault::new(codes::MAP_SHAPE, headline)
                .fact("target", shown(wanted))
                .fact("rows", shown(found)));
        }
        let all = wanted[0];
        let count = most.unwrap_or(u64::MAX).min(found[0]).min(all);
        let whole = Gathered::of(own, &entry.shape);
        let value =
            if count == all { rows.slice(0, &(0..all)) } else { rows.rows_then(count, &whole) };
        Ok((value, (count < all).then_some(count)))
    }

    fn finish(mut self) -> Applied {
        let evaluator = &self.evaluator;
        let map = evaluator.map;
        let mut diagnostics = Vec::new();
        self.report_uncovered(&mut diagnostics);
        for ((number, _), (fault, tensor, count)) in std::mem::take(&mut self.faults) {
            diagnostics.push(self.of_rule(&map.rules[number], fault, &tensor, count));
        }
        self.report_dead(&mut diagnostics);
        let has_faults = !diagnostics.is_empty();
        let source = self.evaluator.source;
        let is_listed = |name: &str| map.unused.iter().any(|pattern| pattern.matches(name));
        let mut unused = 0;
        let mut forgotten = Vec::new();
        for (position, entry) in source.index.tensors().iter().enumerate() {
            if self.coverage.has(source.reference(position)) {
                continue;
            }
            match is_listed(&entry.name) {
                true => unused += 1,
                false => forgotten.push(entry.name.as_str()),
            }
        }
        // What a broken rule would have used is not forgotten.
        if !has_faults {
            self.report_forgotten(&forgotten, &mut diagnostics);
        }
        for (number, (clamped, count)) in std::mem::take(&mut self.clamped) {
            diagnostics.push(self.of_clamped(&map.rules[number], &clamped, count));
        }
        let report = self.report(unused);
        let names = self.tensors.iter().enumerate();
        let by_name = names.map(|(at, tensor)| (tensor.name.clone(), at as u32)).collect();
        Applied { mapped: Mapped { tensors: self.tensors, by_name }, report, diagnostics }
    }

    fn at(&self, diagnostic: Diagnostic, span: Span) -> Diagnostic {
        diagnostic.at(&self.evaluator.map.file, span)
    }

    fn report_uncovered(&self, diagnostics: &mut Vec<Diagnostic>) {
        let Some(first) = self.uncovered.first() else { return };
        let target = self.evaluator.target.name;
        let headline = match self.uncovered.len() {
            1 => format!("no rule says what `{first}` of `{target}` is made of"),
            count => format!("no rule says what {count} tensors of `{target}` are made of"),
        };
        let mut diagnostic = Diagnostic::error(codes::UNMATCHED_TENSOR, headline);
        if self.uncovered.len() > 1 {
            diagnostic = with_names(diagnostic, &self.uncovered);
        }
        let diagnostic = diagnostic.help("add a rule; `from: keep` leaves tensors as they are");
        diagnostics.push(self.at(diagnostic, self.evaluator.map.name.span));
    }

    /// A fault of a rule, with the first tensor that has it.
    fn of_rule(&self, rule: &MapRule, fault: Fault, tensor: &str, count: u64) -> Diagnostic {
        let mut diagnostic = Diagnostic::error(fault.code, fault.headline);
        if !diagnostic.headline.contains(&format!("`{tensor}`")) {
            diagnostic = diagnostic.fact("for", format!("`{tensor}`"));
        }
        for (label, text) in fault.facts {
            diagnostic = diagnostic.fact(label, text);
        }
        if count > 1 {
            let noun = if count == 2 { "tensor" } else { "tensors" };
            diagnostic =
                diagnostic.note(format!("and so for {} more {noun} of this rule", count - 1));
        }
        diagnostic.help = fault.help;
        self.at(diagnostic, rule.from_span)
    }

    /// Tells that a rule takes fewer rows than it says, or than the source has.
    fn of_clamped(&self, rule: &MapRule, clamped: &Clamped, count: u64) -> Diagnostic {
        let Clamped { tensor, asked, source, target } = clamped;
        let taken = asked.unwrap_or(*source).min(*source).min(*target);
        let headline =
            format!("`pad_rows` takes {taken} rows, and not {}", asked.unwrap_or(*source));
        let diagnostic = Diagnostic::warning(codes::ROWS_CLAMPED, headline)
            .fact("for", format!("`{tensor}`"))
            .fact("source", format!("{source} rows"))
            .fact("target", format!("{target} rows"));
        let diagnostic = match count {
            0..=1 => diagnostic,
            count => diagnostic.note(format!("and so for {} more of this rule", count - 1)),
        };
        let why = format!("say so, if that is meant: `take: {taken}`");
        self.at(diagnostic.help(why), rule.from_span)
    }

    /// Rules that decide nothing: what a rule above takes, and what the target does not have. One that would
    /// keep tensors says nothing false of a target without them.
    fn report_dead(&self, diagnostics: &mut Vec<Diagnostic>) {
        let target = self.evaluator.target;
        let rules = &self.evaluator.map.rules;
        let is_tied = target.config.and_then(tied_flag) == Some(true);
        for (number, rule) in rules.iter().enumerate().filter(|(at, _)| self.hits[*at] == 0) {
            let names = || target.index.tensors().iter().map(|tensor| tensor.name.as_str());
            let headline = format!("`{}` can never match", rule.to.text());
            let diagnostic = Diagnostic::error(codes::DEAD_RULE, headline);
            let diagnostic = match names().find(|name| rule.to.matches(name)) {
                Some(name) => {
                    let above = rules[..number].iter().find(|above| above.to.matches(name));
                    let above = above.map_or_else(String::new, |above| {
                        format!("`{}` on line {}", above.to.text(), above.span.line)
                    });
                    diagnostic
                        .fact("tensor", format!("`{name}`"))
                        .fact("taken by", above)
                        .help("two rules are for the same tensors: remove one, or move the narrower one up")
                }
                None if rule.from == Origin::Keep => continue,
                None if is_tied && rule.to.matches("lm_head.weight") => continue,
                None => {
                    let diagnostic =
                        diagnostic.note(format!("`{}` has no tensor of such a name", target.name));
                    match suggest::nearest(rule.to.text(), names()) {
                        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
                        None => {
                            diagnostic.help("`mixdown inspect MODEL --tensors` lists the names")
                        }
                    }
                }
            };
            diagnostics.push(self.at(diagnostic, rule.span));
        }
    }

    fn report_forgotten(&self, forgotten: &[&str], diagnostics: &mut Vec<Diagnostic>) {
        let Some(first) = forgotten.first() else { return };
        let source = self.evaluator.source.name;
        let headline = match forgotten.len() {
            1 => format!("`{first}` of `{source}` is used by no rule, nor listed as unused"),
            count => {
                format!("{count} tensors of `{source}` are used by no rule, nor listed as unused")
            }
        };
        let mut diagnostic = Diagnostic::error(codes::MAP_UNUSED, headline);
        if forgotten.len() > 1 {
            diagnostic = with_names(diagnostic, forgotten);
        }
        let diagnostic = diagnostic.help("use them in a rule, or add a pattern to `unused`");
        diagnostics.push(self.at(diagnostic, self.evaluator.map.name.span));
    }
}

fn with_names(mut diagnostic: Diagnostic, names: &[&str]) -> Diagnostic {
    const SHOWN: usize = 5;
    for name in names.iter().take(SHOWN) {
        diagnostic = diagnostic.fact("tensor", format!("`{name}`"));
    }
    match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => diagnostic.note(format!("and {more} more")),
        _ => diagnostic,
    }
}

fn is_of(patch: &Patch, model: u32) -> bool {
    patch.last().is_some_and(|(tensor, _)| tensor.model == model)
}

fn other_shape(made: &[u64], wanted: &Shape, rule: &MapRule) -> Fault {
    let fault = Fault::new(codes::MAP_SHAPE, "what is made does not have the target's shape")
        .fact("target", wanted.to_string())
        .fact("made", shown(made));
    let wanted = wanted.dimensions();
    let differ_in_rows = made.len() == wanted.len() && made.get(1..) == wanted.get(1..);
    match &rule.from {
        Origin::Same | Origin::Expression(MapExpression { .. }) if differ_in_rows && made.len() > 1 => {
            fault.help("where only the count of rows differs, take those that both have: `{pad_rows: {rows: NAME, take: COUNT}}`")
        }
        _ => fault,
    }
}

/// What a tensor is made of, in a few words.
fn described(from: &Origin, names: &[String]) -> String {
    let names = names.join(", ");
    match from {
        Origin::Rows(..) => format!("rows of {names}"),
        Origin::Expression(expression) => match expression.word() {
            None => names,
            Some(word) => format!("{word} of {names}"),
        },
        Origin::Same | Origin::Keep | Origin::Zero => names,
    }
}

impl From<Term> for Piece {
    fn from(term: Term) -> Self {
        match term {
            Term::Whole(tensor) => Self::Whole(tensor),
            Term::Assembled(assembled) => Self::Assembled(assembled),
        }
    }
}

impl MappedTensor {
    /// Ones in the rows that are the target's whatever a method does, and zeros above them; none where
    /// these are all rows, or none.
    pub fn mask(&self) -> Option<Assembled> {
        let from = self.kept_from.filter(|&from| from > 0)?;
        let first = *self.shape.dimensions().first()?;
        let (rows, columns) = sides(self.shape.dimensions());
        let each = rows.checked_div(first)?;
        Some(Assembled::ones_from(from * each, rows, columns))
    }
}
