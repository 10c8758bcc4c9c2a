//! A merge method as a file says it: inputs, parameters, steps as formulas.

use mixdown_diagnostics::{Source, Span};

use crate::expression::Expression;
use crate::recipe::Attachment;
use crate::setting::{Scalar, Spanned};

/// A merge method.
#[derive(Clone, Debug)]
pub struct Method {
    /// Its name in recipes; the file is called the same.
    pub name: Spanned<String>,
    /// The method's name in its paper.
    pub title: String,
    /// Author, year, arXiv id.
    pub source: String,
    /// One sentence.
    pub summary: String,
    /// Longer remarks: where the default departs from the paper.
    pub notes: Option<String>,
    /// Whether a base model takes part.
    pub base: BaseUse,
    /// How many experts, not counting a base that takes part.
    pub experts: ExpertCount,
    /// What must go with each expert, in the order of [`Attachment::ALL`].
    pub attachments: Vec<Attachment>,
    /// Whether there must be a model to compare with.
    pub reference: bool,
    /// What becomes of a tensor that only some of the inputs have.
    pub missing: Missing,
    /// Parameters, in order.
    pub parameters: Vec<Parameter>,
    /// Named steps, in order; a step sees the ones above it.
    pub steps: Vec<Step>,
    /// The merged weights.
    pub output: Expression,
    /// The file it comes from.
    pub file: Source,
}

/// Whether a base model takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseUse {
    /// There must be one.
    Required,
    /// It is used where there is one; `has_base` tells the steps.
    Optional,
    /// A base among the models is an expert like the others.
    Ignored,
}

/// How many experts a method takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertCount {
    /// At least so many.
    pub at_least: usize,
    /// At most so many.
    pub at_most: Option<usize>,
}

/// What becomes of a tensor that only some of the inputs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// An error.
    Error,
    /// If exactly one input has it, it is copied; else an error.
    CopySingle,
    /// If only the base has it, it is copied; else an error.
    CopyBase,
}

/// A parameter of a method.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name in recipes and steps.
    pub name: Spanned<String>,
    /// One value for the merge, or one for each expert (then it is a list in steps).
    pub per: Per,
    /// What values it takes.
    pub kind: ParameterKind,
    /// Its value where the recipe says none; without one the recipe must.
    pub default: Option<Scalar>,
    /// One sentence, with the paper's symbol.
    pub doc: String,
    /// Other names for it, accepted in recipes.
    pub aliases: Vec<String>,
}

/// For what a parameter has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// One value.
    Merge,
    /// One value for each expert.
    Expert,
}

/// What values a parameter takes.
#[derive(Clone, Debug, PartialEq)]
pub enum ParameterKind {
    /// Any finite number, within bounds if given.
    Real {
        /// Lowest value, inclusive.
        at_least: Option<f64>,
        /// Highest value, inclusive.
        at_most: Option<f64>,
    },
    /// A number from 0 to 1.
    Fraction,
    /// A whole number, within bounds if given.
    Integer {
        /// Lowest value, inclusive.
        at_least: Option<i64>,
        /// Highest value, inclusive.
        at_most: Option<i64>,
    },
    /// True or false.
    Boolean,
    /// One of these words.
    Choice(Vec<String>),
    /// A finite number within bounds, or one of these words.
    NumberOrWord {
        /// The words.
        words: Vec<String>,
        /// Lowest number, inclusive.
        at_least: Option<f64>,
        /// Highest number, inclusive.
        at_most: Option<f64>,
    },
}

/// A named step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name.
    pub name: Spanned<String>,
    /// Its formula.
    pub expression: Expression,
    /// The whole line's place.
    pub span: Span,
}
