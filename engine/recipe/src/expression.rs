//! The expression language of method steps: names, numbers, operators, calls.

use mixdown_diagnostics::Span;

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
