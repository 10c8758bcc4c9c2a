//! Named arguments whose values must be known when a merge is planned: words, numbers, ranks.

use mixdown_diagnostics::{Diagnostic, Span, codes, suggest};
use mixdown_ops::matrix::{Exact, Rank};

use mixdown_recipe::MatrixSelector;

use super::Call;
use crate::families::tensor_class::Class;
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Lowering, Reported, Typed, Value, describe};

/// The named arguments of a call, evaluated.
pub(super) struct Settings {
    values: Vec<(String, Span, Value)>,
    function: &'static str,
    span: Span,
}

impl Settings {
    /// Evaluates the named arguments, all of which must be known.
    pub fn new(
        lowering: &mut Lowering<'_>,
        call: &Call<'_>,
        known: &[&str],
    ) -> Result<Self, Reported> {
        let mut values = Vec::with_capacity(call.named.len());
        let mut failed = None;
        for (name, span, expression) in call.named {
            if !known.contains(&name.as_str()) {
                let headline = format!("`{}` has no argument `{name}`", call.function.name);
                let diagnostic = Diagnostic::error(codes::BAD_EXPRESSION, headline);
                let diagnostic = match suggest::nearest(name, known.iter().copied()) {
                    Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
                    None => diagnostic.help(format!("write `{}`", call.function.signature)),
                };
                failed = Some(lowering.report(diagnostic, *span));
                continue;
            }
            match lowering.evaluate(expression) {
                Ok(value) => values.push((name.clone(), expression.span, value)),
                Err(reported) => failed = Some(reported),
            }
        }
        match failed {
            Some(reported) => Err(reported),
            None => Ok(Self { values, function: call.function.name, span: call.span }),
        }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<(Span, Value)> {
        let at = self.values.iter().position(|(known, ..)| known == name)?;
        let (_, span, value) = self.values.remove(at);
        Some((span, value))
    }

    /// A word that means one of some things; the first is the default.
    pub fn choice<T: Clone>(
        &mut self,
        lowering: &mut Lowering<'_>,
        name: &str,
        words: &[(&str, T)],
    ) -> Result<T, Reported> {
        let default = words[0].1.clone();
        let Some((span, value)) = self.take(name) else { return Ok(default) };
        match &value {
            Value::Text(None) => Ok(default),
            Value::Text(Some(word)) => match words.iter().find(|(known, _)| known == word) {
                Some((_, meaning)) => Ok(meaning.clone()),
                None => Err(self.no_such_word(lowering, name, words, word, span)),
            },
            other => {
                let found = describe(other);
                Err(self.no_such_word(lowering, name, words, &found, span))
            }
        }
    }

    fn no_such_word<T>(
        &self,
        lowering: &mut Lowering<'_>,
        name: &str,
        words: &[(&str, T)],
        found: &str,
        span: Span,
    ) -> Reported {
        let list: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let headline = format!("`{name}` is one of {}, found {found}", list.join(", "));
        let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline);
        let diagnostic = match suggest::nearest(found, words.iter().map(|(word, _)| *word)) {
            Some(near) => diagnostic.help(format!("did you mean \"{near}\"?")),
            None => diagnostic,
        };
        lowering.report(diagnostic, span)
    }

    /// Which tensors are matrices, as a recipe says it; none where it does not.
    pub fn selectors(
        mut self,
        lowering: &mut Lowering<'_>,
        name: &str,
    ) -> Result<Vec<MatrixSelector>, Reported> {
        let Some((span, value)) = self.take(name) else { return Ok(Vec::new()) };
        let Value::Text(text) = value else {
            let headline = format!("`{name}` is patterns and roles, found {}", describe(&value));
            return Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span));
        };
        let entries = text.iter().flat_map(|text| text.split('\n')).map(MatrixSelector::parse);
        entries.collect::<Result<_, String>>().map_err(|wanted| {
            let headline = format!("`{name}` must be {wanted}");
            lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span)
        })
    }

    /// Takes a value that stands without its name.
    pub fn add(&mut self, name: &str, span: Span, value: Value) {
        self.values.push((name.to_owned(), span, value));
    }

    /// A number known now.
    pub fn number(
        &mut self,
        lowering: &mut Lowering<'_>,
        name: &str,
        default: f64,
    ) -> Result<Exact, Reported> {
        let Some((span, value)) = self.take(name) else { return Ok(default.into()) };
        match &value {
            Value::Text(None) => Ok(default.into()),
            Value::Text(Some(word)) if word == "auto" => Ok(default.into()),
            Value::One(item) => self.known(lowering, name, *item, span, default),
            other => {
                let headline = format!("`{name}` is a number, found {}", describe(other));
                Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
            }
        }
    }

    /// A number that is known now; the default where a method is checked by itself.
    pub(super) fn known(
        &self,
        lowering: &mut Lowering<'_>,
        name: &str,
        item: Typed,
        span: Span,
        default: f64,
    ) -> Result<Exact, Reported> {
        if let Some(number) = lowering.graph.value(item.node) {
            return Ok(number.into());
        }
        if lowering.inputs.shape.is_none() && item.kind == Kind::Scalar {
            return Ok(default.into());
        }
        let headline =
            format!("`{name}` of `{}` must be known before tensors are read", self.function);
        let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline)
            .help("give it a number, or a parameter of the method");
        Err(lowering.report(diagnostic, span))
    }

    /// A number within bounds, the upper one excluded if it is infinite or `open`.
    pub fn bounded(
        &mut self,
        lowering: &mut Lowering<'_>,
        name: &str,
        default: f64,
        bounds: &Bounds,
    ) -> Result<Exact, Reported> {
        let span = self.place(name);
        let number = self.number(lowering, name, default)?;
        if (bounds.fits)(number.get()) {
            return Ok(number);
        }
        let headline = format!("`{name}` must be {}, found {}", bounds.words, number.get());
        let diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline);
        Err(lowering.report(diagnostic.help(bounds.help), span))
    }

    /// A fraction from 0 to 1.
    pub fn fraction(
        &mut self,
        lowering: &mut Lowering<'_>,
        name: &str,
        default: f64,
    ) -> Result<Exact, Reported> {
        let bounds = Bounds {
            fits: |number| (0.0..=1.0).contains(&number),
            words: "between 0 and 1",
            help: "a fraction is written 0 to 1, never as a percentage",
        };
        self.bounded(lowering, name, default, &bounds)
    }

    /// A whole number from 0.
    pub fn count(
        &mut self,
        lowering: &mut Lowering<'_>,
        name: &str,
        default: u32,
    ) -> Result<u32, Reported> {
        let bounds = Bounds {
            fits: |number| number.fract() == 0.0 && (0.0..=1e9).contains(&number),
            words: "a whole number from 0",
            help: "write it without a fraction and without a sign",
        };
        let number = self.bounded(lowering, name, f64::from(default), &bounds)?;
        Ok(number.get() as u32)
    }

    /// How many singular directions: `"1/n"`, `"full"`, a fraction of the smaller side, or a count.
    pub fn rank(
        &mut self,
        lowering: &mut Lowering<'_>,
        name: &str,
        default: Rank,
    ) -> Result<Rank, Reported> {
        let span = self.place(name);
        let word = self.values.iter().find_map(|(known, _, value)| match value {
            Value::Text(word) if known == name => Some(word.clone()),
            _ => None,
        });
        match word {
            Some(None) => return Ok(default),
            Some(Some(word)) if word == "1/n" => return Ok(Rank::PerExpert),
            Some(Some(word)) if word == "literal" => return Ok(Rank::Literal),
            Some(Some(word)) if word == "full" => return Ok(Rank::Full),
            Some(Some(word)) => {
                let headline = format!("`{name}` is no rank, found \"{word}\"");
                let diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline).help(RANK_HELP);
                return Err(lowering.report(diagnostic, span));
            }
            None => {}
        }
        if !self.values.iter().any(|(known, ..)| known == name) {
            return Ok(default);
        }
        let number = self.number(lowering, name, 1.0)?.get();
        if number > 0.0 && number < 1.0 {
            return Ok(Rank::Share(number.into()));
        }
        if number >= 1.0 && number.fract() == 0.0 && number <= f64::from(u32::MAX) {
            let sides = match (lowering.class, lowering.inputs.shape) {
                (Some(Class::Matrix(layout)), _) => Some(layout.shape()),
                (_, Some(&[rows, columns])) => Some((rows, columns)),
                _ => None,
            };
            return match sides {
                Some((rows, columns)) if number as u64 > rows.min(columns) => {
                    // The same words for all tensors, so that they are said once.
                    let headline =
                        format!("a `{name}` of {number} is above the smaller side of a weight");
                    let diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline).help(
                        "give a fraction of the smaller side, such as `rank: 0.2`, or a smaller number; `mixdown inspect` shows the shapes",
                    );
                    Err(lowering.report(diagnostic, span))
                }
                _ => Ok(Rank::Count(number as u32)),
            };
        }
        let headline = format!("`{name}` must be above 0 and whole from 1 on, found {number}");
        Err(lowering.report(Diagnostic::error(codes::OUT_OF_RANGE, headline).help(RANK_HELP), span))
    }

    /// Where an argument stands; the call if it is not given.
    fn place(&self, name: &str) -> Span {
        let found = self.values.iter().find(|(known, ..)| known == name);
        found.map_or(self.span, |(_, span, _)| *span)
    }
}

const RANK_HELP: &str = "`1/n` (the smaller side through the count of experts), `literal` (the same, and nothing where that is 0), `full`, a fraction of the smaller side, or a whole number";

/// What a number must be.
pub(super) struct Bounds {
    pub fits: fn(f64) -> bool,
    /// Continues "must be".
    pub words: &'static str,
    pub help: &'static str,
}
