//! What is asked of a transplant, and its text.

use std::path::PathBuf;

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::{Map, Value, json};

use super::problem;
use super::source::Texts;
use crate::merge::{self, MergeRequest, Merged};
use crate::models::{Model, Reference};
use crate::planning::RecipeInput;
use crate::{Machine, Session, Trouble};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$of])* $variant,)* }

        impl $name {
            /// All with their words.
            pub const ALL: &[(&'static str, Self)] = &[$(($word, Self::$variant)),*];

            /// As it is typed.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            fn of_word(word: &str) -> Option<Self> {
                Self::ALL.iter().find(|(known, _)| *known == word).map(|(_, found)| *found)
            }
        }
    };
}

words! {
    /// Where rows of new tokens come from.
    Method {
        /// Sums of few common tokens that orthogonal matching pursuit finds in the donor.
        Omp = "omp",
        /// Sums of few common tokens, each turned to a rotary position of its own.
        TurnedPursuit = "mp_rope",
        /// The principal directions of common tokens in the donor, turned to those in the model.
        Landmarks = "landmark_pca",
        /// A basis whose vectors are the same sums of few common tokens in both models.
        SparseBasis = "stb",
        /// Sums of the nearest common tokens.
        CommonInterpolation = "common_interpolation",
        /// The rows of the parts into which the model's tokenizer cuts the token.
        Subword = "subword",
        /// The mean of the model's rows.
        Mean = "mean",
        /// Zeros.
        Zero = "zero",
        /// Normal numbers.
        Random = "randn",
        /// Normal numbers with the mean and the covariance of the model's rows (Hewitt 2021).
        OwnDistribution = "john_hewitt",
    }
}

words! {
    /// How much of each of the nearest tokens is taken.
    Weights {
        /// As much as it is near.
        DistanceProportional = "distance_proportional",
        /// So that the sum is nearest to the token, with weights that add up to 1.
        Barycentric = "barycentric",
        /// So that the sum is nearest to the token.
        LeastSquares = "least_squares",
    }
}

words! {
    /// How a token is made of its parts.
    SubwordRule {
        /// Their mean.
        Mean = "mean",
        /// Their sum.
        Sum = "sum",
        /// Their mean, where the first counts most in the embedding and the last in the output layer.
        WeightedMean = "weighted_mean",
        /// The last one in the embedding, and the first in the output layer.
        FirstLast = "first_last",
    }
}

words! {
    /// In which matrices tokens may stand for others.
    Where {
        /// In none.
        No = "no",
        /// In both.
        Yes = "yes",
        /// In the embedding.
        Embedding = "embed",
        /// In the output layer.
        Head = "lm_head",
    }
}

impl Method {
    /// Whether new rows are made of those of common tokens.
    pub(super) fn is_of_common(self) -> bool {
        matches!(
            self,
            Self::Omp
                | Self::TurnedPursuit
                | Self::Landmarks
                | Self::SparseBasis
                | Self::CommonInterpolation
        )
    }

    /// Whether sums of `count` tokens are made.
    pub(super) fn has_sums(self) -> bool {
        self.is_of_common() && self != Self::Landmarks
    }
}

impl Where {
    pub(super) fn of(self, is_head: bool) -> bool {
        match self {
            Self::No => false,
            Self::Yes => true,
            Self::Embedding => !is_head,
            Self::Head => is_head,
        }
    }
}

/// Where rows of new tokens come from.
#[derive(Clone, Debug)]
pub struct NewRows {
    /// The rule for tokens that the model lacks.
    pub method: Method,
    /// Tokens of each sum.
    pub count: u64,
    /// Whether the nearest tokens are those of largest cosine, and not of smallest distance.
    pub by_cosine: bool,
    /// How much of each of the nearest is taken.
    pub weights: Weights,
    /// How a token is made of its parts.
    pub subword: SubwordRule,
    /// Whether a token of one byte may have the row of its other spelling.
    pub bytes: Where,
    /// Whether a token may have the row of its longest beginning that is a token.
    pub beginnings: Where,
    /// Whether tokens that hardly were trained say nothing about others.
    pub trained_only: bool,
    /// Normal numbers of this size are added to new rows.
    pub noise: f64,
    /// New rows are multiplied by it.
    pub scale: f64,
    /// What random numbers depend on.
    pub seed: u64,
}

/// Which model gets whose vocabulary, and how.
#[derive(Clone, Debug)]
pub struct TransplantRequest {
    /// The model: a folder, or an id at the hub.
    pub target: String,
    /// Whose vocabulary it gets.
    pub donor: String,
    /// Where rows of new tokens come from.
    pub rows: NewRows,
    /// The folder to make.
    pub out: PathBuf,
    /// What may be used of the machine.
    pub machine: Machine,
    /// Largest file of weights in bytes, 0 for one file.
    pub shard_bytes: Option<u64>,
    /// Replace the output folder if there is one.
    pub force: bool,
    /// Whether files of models may be links out of the model's folder.
    pub follow_links: bool,
}

/// Writes the model with the donor's vocabulary.
///
/// **Errors.** Numbers that cannot be, models without a tokenizer or without a single embedding, tokens in common
/// that are none or too few, and all that a merge fails of.
pub fn transplant(request: &TransplantRequest, session: &Session<'_>) -> Result<Merged, Trouble> {
    check(request)?;
    let recipe =
        RecipeInput { follow_links: request.follow_links, ..RecipeInput::made_up(text(request)) };
    let mut merge = MergeRequest::new(recipe, &request.out);
    merge.machine = request.machine;
    (merge.shard_bytes, merge.force) = (request.shard_bytes, request.force);
    merge::merge(&merge, session)
}

fn check(request: &TransplantRequest) -> Result<(), Trouble> {
    let usage = |error: Diagnostic| Err(Trouble::Usage(vec![error]));
    if request.rows.count == 0 {
        return usage(problem("a sum of 0 tokens is nothing").help("use `-k 1`, or more"));
    }
    for (name, value) in
        [("--new-vocab-noise", request.rows.noise), ("--new-vocab-scale", request.rows.scale)]
    {
        if !value.is_finite() || (name == "--new-vocab-noise" && value < 0.0) {
            let headline = format!("`{name}` must be a number, found {value}");
            return usage(
                problem(headline)
                    .help("noise is at least 0, and 1 is the scale that changes nothing"),
            );
        }
    }
    Ok(())
}

/// What the key of a text is called that says all of it.
const KEY: &str = "transplant";

/// All that determines the result. A text of JSON is one of YAML.
fn text(request: &TransplantRequest) -> String {
    let model = |reference: &str| {
        let reference = Reference::parse(reference);
        let mut model = json!({"path": reference.path});
        if let Some(revision) = &reference.revision {
            model["revision"] = revision.as_str().into();
        }
        model
    };
    let mut all = Map::new();
    all.insert("model".to_owned(), model(&request.target));
    all.insert("donor".to_owned(), model(&request.donor));
    all.insert("method".to_owned(), request.rows.method.word().into());
    // What the method does not read says nothing about the result.
    match request.rows.method {
        Method::Omp | Method::TurnedPursuit | Method::SparseBasis => {
            all.insert("k".to_owned(), request.rows.count.into());
        }
        Method::CommonInterpolation => {
            all.insert("k".to_owned(), request.rows.count.into());
            all.insert("cosine".to_owned(), request.rows.by_cosine.into());
            all.insert("weights".to_owned(), request.rows.weights.word().into());
        }
        Method::Subword => {
            all.insert("subword".to_owned(), request.rows.subword.word().into());
        }
        Method::Mean
        | Method::Zero
        | Method::Random
        | Method::OwnDistribution
        | Method::Landmarks => {}
    }
    all.insert("byte_match".to_owned(), request.rows.bytes.word().into());
    all.insert("prefix_match".to_owned(), request.rows.beginnings.word().into());
    if request.rows.trained_only {
        all.insert("magikarp".to_owned(), true.into());
    }
    let is_random = matches!(request.rows.method, Method::Random | Method::OwnDistribution);
    if request.rows.noise != 0.0 {
        all.insert("noise".to_owned(), request.rows.noise.into());
    }
    if request.rows.scale != 1.0 {
        all.insert("scale".to_owned(), request.rows.scale.into());
    }
    if is_random || request.rows.noise != 0.0 {
        all.insert("seed".to_owned(), request.rows.seed.into());
    }
    format!("{:#}\n", json!({KEY: all}))
}

/// A request as its text says it.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub target: Reference,
    pub donor: Reference,
    pub rows: NewRows,
}

impl Settings {
    /// What a text of a transplant says; none if it is no such text.
    pub fn read(text: &str) -> Option<Result<Self, Vec<Diagnostic>>> {
        // Most texts are others, and no JSON.
        if !text.starts_with('{') || !text.contains(KEY) {
            return None;
        }
        let all: Value = serde_json::from_str(text).ok()?;
        let all = all.get(KEY)?.as_object()?;
        let broken = || {
            let error = Diagnostic::error(
                codes::WRONG_TYPE,
                "the text of a transplant cannot be understood",
            );
            vec![error.help("`mixdown transplant` writes it")]
        };
        Some(Self::of(all).ok_or_else(broken))
    }

    fn of(all: &Map<String, Value>) -> Option<Self> {
        let model = |key: &str| {
            let model = all.get(key)?;
            let text = |key: &str| Some(model.get(key)?.as_str()?.to_owned());
            Some(Reference { path: text("path")?, revision: text("revision"), prefix: None })
        };
        let word = |key: &str| all.get(key).map(|word| word.as_str().unwrap_or_default());
        let number = |key: &str, other: f64| all.get(key).map_or(Some(other), Value::as_f64);
        let count = |key: &str, other: u64| all.get(key).map_or(Some(other), Value::as_u64);
        Some(Self {
            target: model("model")?,
            donor: model("donor")?,
            rows: NewRows {
                method: Method::of_word(word("method")?)?,
                count: count("k", 1)?,
                by_cosine: all.get("cosine").is_some_and(|value| value == &json!(true)),
                weights: word("weights")
                    .map_or(Some(Weights::DistanceProportional), Weights::of_word)?,
                subword: word("subword").map_or(Some(SubwordRule::Mean), SubwordRule::of_word)?,
                bytes: Where::of_word(word("byte_match")?)?,
                beginnings: Where::of_word(word("prefix_match")?)?,
                trained_only: all.get("magikarp").is_some_and(|value| value == &json!(true)),
                noise: number("noise", 0.0)?,
                scale: number("scale", 1.0)?,
                seed: count("seed", 0)?,
            },
        })
    }

    /// What cuts texts as the model does.
    pub fn texts(&self, model: &Model, session: &Session<'_>) -> Texts {
        let programs = session.places.programs.clone();
        Texts { programs, folder: model.checkpoint.root.clone() }
    }
}
