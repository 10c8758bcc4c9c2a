//! The arguments of a call: how many, named ones among known words, lists mapped over.

use mixdown_diagnostics::{Diagnostic, Span, codes};

use super::Call;
use crate::formulas::lower::{Lowering, Reported, Typed, Value, item};

impl Call<'_> {
    /// Evaluates the positional arguments of a function that has no named ones.
    pub(super) fn values(
        &self,
        lowering: &mut Lowering<'_>,
        arity: usize,
    ) -> Result<Vec<Value>, Reported> {
        self.options(lowering, &[])?;
        self.positional(lowering, arity)
    }

    /// Evaluates the positional arguments and checks how many there are.
    pub(super) fn positional(
        &self,
        lowering: &mut Lowering<'_>,
        arity: usize,
    ) -> Result<Vec<Value>, Reported> {
        if self.arguments.len() != arity {
            let headline = format!(
                "`{}` takes {arity} {}, found {}",
                self.function.name,
                if arity == 1 { "argument" } else { "arguments" },
                self.arguments.len(),
            );
            let diagnostic = Diagnostic::error(codes::BAD_EXPRESSION, headline)
                .help(format!("write `{}`", self.function.signature));
            return Err(lowering.report(diagnostic, self.span));
        }
        // All are evaluated, so that all their mistakes are found.
        let values: Vec<_> =
            self.arguments.iter().map(|argument| lowering.evaluate(argument)).collect();
        values.into_iter().collect()
    }

    /// Evaluates a named argument that is a value.
    pub(super) fn value_of(
        &self,
        lowering: &mut Lowering<'_>,
        name: &str,
    ) -> Result<Option<Value>, Reported> {
        let found = self.named.iter().find(|(given, ..)| given == name);
        found.map(|(_, _, expression)| lowering.evaluate(expression)).transpose()
    }

    /// Evaluates named arguments that choose among words; the first word of each is the default.
    pub(super) fn options(
        &self,
        lowering: &mut Lowering<'_>,
        known: &[(&str, &[&str])],
    ) -> Result<Vec<Option<String>>, Reported> {
        self.options_beside(lowering, known, &[])
    }

    /// The same where other named arguments are values.
    pub(super) fn options_beside(
        &self,
        lowering: &mut Lowering<'_>,
        known: &[(&str, &[&str])],
        values: &[&str],
    ) -> Result<Vec<Option<String>>, Reported> {
        for (name, span, _) in self.named {
            let is_value = values.contains(&name.as_str());
            if !is_value && !known.iter().any(|(known, _)| known == name) {
                let headline = format!("`{}` has no argument `{name}`", self.function.name);
                let diagnostic = Diagnostic::error(codes::BAD_EXPRESSION, headline)
                    .help(format!("write `{}`", self.function.signature));
                return Err(lowering.report(diagnostic, *span));
            }
        }
        let mut chosen = Vec::new();
        for (name, words) in known {
            let Some((_, _, expression)) = self.named.iter().find(|(given, ..)| given == name)
            else {
                chosen.push(Some(words[0].to_owned()));
                continue;
            };
            match lowering.evaluate(expression)? {
                Value::Text(None) => chosen.push(None),
                Value::Text(Some(word)) if words.contains(&word.as_str()) => {
                    chosen.push(Some(word))
                }
                _ => {
                    let list: Vec<String> =
                        words.iter().map(|word| format!("\"{word}\"")).collect();
                    let headline = format!("`{name}` is one of {}", list.join(", "));
                    let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline);
                    return Err(lowering.report(diagnostic, expression.span));
                }
            }
        }
        Ok(chosen)
    }
}

/// Applies a function of single values to each position of lists.
pub(super) fn over_lists(
    lowering: &mut Lowering<'_>,
    values: &[Value],
    span: Span,
    mut apply: impl FnMut(&mut Lowering<'_>, &[Typed], Span) -> Result<Typed, Reported>,
) -> Result<Value, Reported> {
    let at = |position: usize| values.iter().map(|value| item(value, position)).collect::<Vec<_>>();
    match lowering.common_length(values, span)? {
        None => Ok(Value::One(apply(lowering, &at(0), span)?)),
        Some(length) => {
            let items = (0..length).map(|position| apply(lowering, &at(position), span));
            Ok(Value::List(items.collect::<Result<_, _>>()?))
        }
    }
}
