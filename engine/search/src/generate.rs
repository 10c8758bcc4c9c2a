//! Where answers come from: programs, servers, or files of earlier runs.

pub mod command;
pub mod embedded;
pub mod http;
pub mod replay;
pub mod represented;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use mixdown_diagnostics::Diagnostic;

use crate::grid::Candidate;
use crate::prompts::Prompt;
use crate::responses::Response;

pub use command::CommandGenerator;
pub use embedded::EmbeddedGenerator;
pub use http::HttpGenerator;
pub use replay::ReplayGenerator;

/// What is asked of a generator.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The candidate.
    pub candidate: &'a Candidate,
    /// Its merged model; empty for generators that need none.
    pub model_dir: &'a Path,
    /// The digest of that model.
    pub model_key: &'a str,
    /// The prompts to answer.
    pub prompts: &'a [&'a Prompt],
    /// A folder for the generator's own files. They are kept.
    pub work: &'a Path,
    /// Raised when somebody asked to stop.
    pub stop: &'a AtomicBool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Answers {
    /// The answers, in any order; to all prompts if nothing failed.
    pub responses: Vec<Response>,
    /// What the report should say of this candidate.
    pub notes: Vec<String>,
    /// Why there are not more. What was answered before is kept.
    pub failure: Option<Failure>,
}

/// Why prompts stayed without an answer.
#[derive(Debug)]
pub enum Failure {
    /// Something is wrong.
    Found(Vec<Diagnostic>),
    /// Somebody asked to stop.
    Interrupted,
}

impl From<Box<Diagnostic>> for Failure {
    fn from(found: Box<Diagnostic>) -> Self {
        Self::Found(vec![*found])
    }
}

impl From<Diagnostic> for Failure {
    fn from(found: Diagnostic) -> Self {
        Self::Found(vec![found])
    }
}

impl Answers {
    /// No answers, for this reason.
    pub fn none(failure: impl Into<Failure>) -> Self {
        Self { failure: Some(failure.into()), ..Self::default() }
    }
}

/// Something that answers prompts with a merged model.
///
/// It must be greedy: the same model and the same prompt give the same answer.
pub trait Generator {
    /// What an answer depends on beside the model and the prompt: kind, version, decoding parameters.
    fn id(&self) -> String;

    /// Whether it needs the merged model. Answers that exist already do not, and are not kept again.
    fn needs_model(&self) -> bool {
        true
    }

    /// Answers prompts.
    fn answer(&mut self, task: &Task<'_>) -> Answers;
}
