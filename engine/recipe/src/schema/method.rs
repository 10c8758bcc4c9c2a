//! Keys of a method file.

use std::collections::BTreeMap;

use super::{ScalarKey, keys};

/// Whether a base model takes part.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum BaseKey {
    /// There must be one.
    Required,
    /// It is used where there is one; `has_base` tells.
    Optional,
    /// A base among the models is an expert like the others.
    Ignored,
}

/// An input that there must be; without the key there is none.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum NeedKey {
    /// There must be one.
    Required,
}

/// What becomes of a tensor that only some of the inputs have.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum MissingKey {
    /// An error.
    Error,
    /// If exactly one input has it, it is copied; else an error.
    CopySingle,
    /// If only the base has it, it is copied; else an error.
    CopyBase,
    /// If only the base has it, it is copied; if fewer inputs have it than the method takes, it is left out.
    BaseOrSkip,
}

/// For what a parameter has a value.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum PerKey {
    /// One value for the merge.
    Merge,
    /// One value for each expert; a list in formulas.
    Expert,
}

/// What values a parameter takes.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum TypeKey {
    /// Any number.
    Real,
    /// A number from 0 to 1.
    Fraction,
    /// A whole number.
    Integer,
    /// True or false.
    Boolean,
    /// One of some words.
    Choice,
    /// Patterns of tensor names, or roles: which tensors are matrices.
    Matrices,
    /// Any text; only for values that a recipe declares for itself.
    Text,
}

keys! {
    /// A merge method: what it takes, and its formulas.
    pub struct MethodKeys {
        /// Its name in recipes; the file is called the same.
        pub method: String,
        /// The method's name in its paper.
        pub title: String,
        /// Author, year, arXiv id.
        pub source: String,
        /// One sentence.
        pub summary: String,
        /// Longer remarks: where the default departs from the paper.
        pub notes: Option<String>,
        /// What it takes; found from its formulas where it is left out.
        pub inputs: Option<InputsKeys>,
        /// What becomes of a tensor that only some of the inputs have; an error if left out.
        pub missing: Option<MissingKey>,
        /// Its parameters, by name.
        pub parameters: Option<BTreeMap<String, ParameterKeys>>,
        /// Steps in order: a name and its formula, which sees the names above it.
        pub steps: Option<BTreeMap<String, String>>,
        /// The merged weights, as a formula.
        pub output: String,
    }

    /// What a method takes.
    pub struct InputsKeys {
        /// Whether a base model takes part. Left out: required if a formula names it, else ignored.
        pub base: Option<BaseKey>,
        /// How many experts, not counting a base that takes part. Left out: one at least.
        pub experts: Option<ExpertCountKeys>,
        /// A file beside each expert that says how much each weight matters. Left out: required if a formula names it.
        pub importance: Option<NeedKey>,
        /// A file beside each expert with the Gram matrices of its linear layers' inputs. Left out: required if a formula names it.
        pub gram: Option<NeedKey>,
        /// One more model that the experts are compared with. Left out: required if a formula names it.
        pub reference: Option<NeedKey>,
    }

    /// A number of experts.
    pub struct ExpertCountKeys {
        /// At least so many.
        pub at_least: Option<u64>,
        /// At most so many.
        pub at_most: Option<u64>,
        /// So many, neither more nor fewer.
        pub exactly: Option<u64>,
    }

    /// A parameter.
    pub struct ParameterKeys {
        /// One value for the merge, or one for each expert; for the merge if left out.
        pub per: Option<PerKey>,
        /// What values it takes; found from the default if left out.
        pub r#type: Option<TypeKey>,
        /// The words of a choice; of a `real`, words that may stand instead of a number.
        pub choices: Option<Vec<String>>,
        /// Lowest value, inclusive.
        pub at_least: Option<f64>,
        /// Highest value, inclusive.
        pub at_most: Option<f64>,
        /// A number that values are above.
        pub above: Option<f64>,
        /// A number that values are below.
        pub below: Option<f64>,
        /// Its value where the recipe says none; without one the recipe must.
        pub default: Option<ScalarKey>,
        /// One sentence, with the paper's symbol.
        pub doc: Option<String>,
        /// Other names for it, accepted in recipes.
        pub aliases: Option<Vec<String>>,
    }
}
