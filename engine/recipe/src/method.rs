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
    /// If only the base has it, it is copied; if fewer have it than the method takes, it is left out.
    BaseOrSkip,
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
    /// A finite number within bounds.
    Real(Bounds),
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
        /// The bounds.
        bounds: Bounds,
    },
    /// Patterns of tensor names, and roles: one, or a list.
    Matrices,
}

/// Between which numbers a parameter lies; all finite ones where no bound is given.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// The lowest.
    pub at_least: Option<f64>,
    /// Lower than all.
    pub above: Option<f64>,
    /// The highest.
    pub at_most: Option<f64>,
    /// Higher than all.
    pub below: Option<f64>,
}

impl Bounds {
    /// Whether a number lies between them.
    pub fn hold(&self, number: f64) -> bool {
        number.is_finite()
            && self.at_least.is_none_or(|least| number >= least)
            && self.above.is_none_or(|least| number > least)
            && self.at_most.is_none_or(|most| number <= most)
            && self.below.is_none_or(|most| number < most)
    }

    /// What continues "must be".
    pub fn words(&self) -> String {
        if let Self { at_least: Some(low), above: None, at_most: Some(high), below: None } = self {
            return format!("between {low} and {high}");
        }
        let all = [
            ("at least", self.at_least),
            ("above", self.above),
            ("at most", self.at_most),
            ("below", self.below),
        ];
        let given = all.iter().filter_map(|(word, bound)| Some(format!("{word} {}", (*bound)?)));
        let given: Vec<String> = given.collect();
        if given.is_empty() { "finite".to_owned() } else { given.join(" and ") }
    }
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
