//! Expressions as canonical text: one space around operators, no parentheses that mean nothing.

use std::fmt::{self, Display, Formatter};

use super::{Expression, ExpressionKind, UnaryOperator};

/// Precedence of what needs no parentheses anywhere.
const PRIMARY: u8 = 8;
const NEGATE: u8 = 7;
const NOT: u8 = 3;
const COMPARISON: u8 = 4;

impl Display for Expression {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExpressionKind::Number(value) => {
                // Rust prints small numbers without exponent, and many zeros.
                if *value != 0.0 && !(1e-4..1e15).contains(&value.abs()) {
                    write!(f, "{value:e}")
                } else {
                    write!(f, "{value}")
                }
            }
            ExpressionKind::Boolean(value) => write!(f, "{value}"),
            ExpressionKind::Text(text) if text.contains('"') => write!(f, "'{text}'"),
            ExpressionKind::Text(text) => write!(f, "\"{text}\""),
            ExpressionKind::Name(name) => f.write_str(name),
            ExpressionKind::Index(inner, index) => {
                operand(f, inner, PRIMARY)?;
                write!(f, "[{index}]")
            }
            ExpressionKind::Unary(UnaryOperator::Negate, inner) => {
                f.write_str("-")?;
                operand(f, inner, NEGATE)
            }
            ExpressionKind::Unary(UnaryOperator::Not, inner) => {
                f.write_str("not ")?;
                operand(f, inner, NOT)
            }
            ExpressionKind::Binary(operator, left, right) => {
                let precedence = operator.precedence();
                // Comparisons do not chain, so that the left side needs parentheses, too.
                operand(f, left, precedence + u8::from(precedence == COMPARISON))?;
                write!(f, " {} ", operator.symbol())?;
                operand(f, right, precedence + 1)
            }
            ExpressionKind::Call { function, arguments, named, .. } => {
                write!(f, "{function}(")?;
                let mut separator = "";
                for argument in arguments {
                    write!(f, "{separator}{argument}")?;
                    separator = ", ";
                }
                for (name, _, argument) in named {
                    write!(f, "{separator}{name}={argument}")?;
                    separator = ", ";
                }
                f.write_str(")")
            }
        }
    }
}

/// An operand where at least `least` is needed to stand without parentheses.
fn operand(f: &mut Formatter<'_>, expression: &Expression, least: u8) -> fmt::Result {
    let precedence = match &expression.kind {
        ExpressionKind::Binary(operator, ..) => operator.precedence(),
        ExpressionKind::Unary(UnaryOperator::Not, _) => NOT,
        ExpressionKind::Unary(UnaryOperator::Negate, _) => NEGATE,
        _ => PRIMARY,
    };
    if precedence < least { write!(f, "({expression})") } else { write!(f, "{expression}") }
}
