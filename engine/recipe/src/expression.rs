//! The expression language of method steps: names, numbers, operators, calls.

mod lexer;
mod parser;
mod print;

use mixdown_diagnostics::Span;

pub(crate) use parser::span_between;
pub use parser::{ExpressionError, parse, parse_at};

/// An expression with its place in the file it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    /// What it says.
    pub kind: ExpressionKind,
    /// Where it says it.
    pub span: Span,
}

/// What an expression says.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpressionKind {
    /// `0.5`, `1e-7`, `true` (1) and `false` (0) are numbers and booleans.
    Number(f64),
    /// `true`, `false`.
    Boolean(bool),
    /// `"tensor"`: compared with text parameters.
    Text(String),
    /// `base`, `experts`, `n`, a parameter, or an earlier step.
    Name(String),
    /// `experts[0]`.
    Index(Box<Expression>, usize),
    /// `-x`, `not x`.
    Unary(UnaryOperator, Box<Expression>),
    /// `a + b`, `a >= b`, `a and b`.
    Binary(BinaryOperator, Box<Expression>, Box<Expression>),
    /// `keep_largest(delta, density, scope=scope)`.
    Call {
        /// Name of the op.
        function: String,
        /// Place of the name alone.
        function_span: Span,
        /// Positional arguments.
        arguments: Vec<Expression>,
        /// Named arguments, after the positional ones.
        named: Vec<(String, Span, Expression)>,
    },
}

/// An operator before its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOperator {
    /// `-x`
    Negate,
    /// `not x`
    Not,
}

/// An operator between its operands. Precedence from low to high: `or`, `and`, `not`, comparisons
/// (which do not chain), `+ -`, `* /`, unary `-`, calls and indexing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOperator {
    /// `a + b`
    Add,
    /// `a - b`
    Subtract,
    /// `a * b`
    Multiply,
    /// `a / b`
    Divide,
    /// `a == b`
    Equal,
    /// `a != b`
    NotEqual,
    /// `a < b`
    Less,
    /// `a <= b`
    LessEqual,
    /// `a > b`
    Greater,
    /// `a >= b`
    GreaterEqual,
    /// `a and b`
    And,
    /// `a or b`
    Or,
}

impl UnaryOperator {
    /// As it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Negate => "-",
            Self::Not => "not",
        }
    }
}

impl BinaryOperator {
    /// As it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::And => "and",
            Self::Or => "or",
        }
    }

    /// How tightly it binds; a higher number binds more tightly. `not` has 3, unary `-` has 7.
    pub(crate) fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Equal
            | Self::NotEqual
            | Self::Less
            | Self::LessEqual
            | Self::Greater
            | Self::GreaterEqual => 4,
            Self::Add | Self::Subtract => 5,
            Self::Multiply | Self::Divide => 6,
        }
    }
}

impl Expression {
    /// Calls `visit` with every name that is read in it, with its place.
    pub fn for_each_name<'a>(&'a self, visit: &mut dyn FnMut(&'a str, Span)) {
        match &self.kind {
            ExpressionKind::Name(name) => visit(name, self.span),
            ExpressionKind::Index(inner, _) | ExpressionKind::Unary(_, inner) => {
                inner.for_each_name(visit);
            }
            ExpressionKind::Binary(_, left, right) => {
                left.for_each_name(visit);
                right.for_each_name(visit);
            }
            ExpressionKind::Call { arguments, named, .. } => {
                arguments.iter().for_each(|argument| argument.for_each_name(visit));
                named.iter().for_each(|(_, _, argument)| argument.for_each_name(visit));
            }
            ExpressionKind::Number(_) | ExpressionKind::Boolean(_) | ExpressionKind::Text(_) => {}
        }
    }
}
