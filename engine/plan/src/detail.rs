//! What went into a tensor, for `mixdown explain`.

use mixdown_diagnostics::Span;
use mixdown_tensor::DType;

/// What went into a tensor, for `mixdown explain`.
#[derive(Clone, Debug, PartialEq)]
pub struct Detail {
    /// Role and model, name of its tensor, type.
    pub inputs: Vec<(String, String, DType)>,
    /// Values of the parameters.
    pub parameters: Vec<Resolved>,
    /// Place of its layer among the layers, 0 to 1: where gradients are read.
    pub t: f64,
}

/// A parameter with its value for one tensor, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Name of the parameter.
    pub name: String,
    /// Position of the expert, for parameters that each expert has.
    pub expert: Option<usize>,
    /// Its value.
    pub value: Bound,
    /// Level that said it: `expert`, `slice`, `rule`, `top`, `default`.
    pub level: &'static str,
    /// Where the recipe says it; line 0 for a default.
    pub span: Span,
    /// Whether it was interpolated between the knots of a gradient.
    pub gradient: bool,
    /// The filter that chose it.
    pub filter: Option<String>,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// A number.
    Number(f64),
    /// True or false; in formulas 1 and 0.
    Flag(bool),
    /// A word.
    Word(String),
    /// Patterns and roles.
    Words(Vec<String>),
}
