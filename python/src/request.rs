//! Requests as the package writes them.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use mixdown_session::convert::ConvertRequest;
use mixdown_session::extract::ExtractRequest;
use mixdown_session::fuse::FuseRequest;
use mixdown_session::merge::{Keep, MergeRequest};
use mixdown_session::search::SearchRequest;
use mixdown_session::survey::SurveyRequest;
use mixdown_session::transplant::{self, NewRows, TransplantRequest};
use mixdown_session::{Machine, RecipeInput};
use pyo3::PyResult;
use pyo3::exceptions::PyValueError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A recipe: a path, or a text with the name that messages give it.
#[derive(Deserialize)]
pub struct Recipe {
    path: PathBuf,
    text: Option<String>,
    #[serde(default)]
    set: Vec<(String, String)>,
    #[serde(default)]
    follow_links: bool,
}

/// A merge.
#[derive(Deserialize)]
pub struct Merge {
    recipe: Recipe,
    out: PathBuf,
    memory: Option<String>,
    threads: Option<usize>,
    device: Option<String>,
    shard_size: Option<String>,
    force: bool,
    allow_nonfinite: bool,
    hash_inputs: bool,
    cache: bool,
    report: Option<PathBuf>,
    part: Option<String>,
}

/// A search.
#[derive(Deserialize)]
pub struct Search {
    recipe: Recipe,
    settings: PathBuf,
    out: PathBuf,
    keep_candidates: bool,
    answers: Option<PathBuf>,
    memory: Option<String>,
    threads: Option<usize>,
    device: Option<String>,
    programs: Vec<PathBuf>,
}

/// The adapter between two models.
#[derive(Deserialize)]
pub struct Extract {
    model: String,
    base: String,
    rank: u32,
    out: PathBuf,
    memory: Option<String>,
    threads: Option<usize>,
    force: bool,
    follow_links: bool,
}

/// Adapters on their base.
#[derive(Deserialize)]
pub struct Fuse {
    base: String,
    adapters: Vec<String>,
    scales: Vec<f64>,
    dtype: Option<String>,
    out: PathBuf,
    memory: Option<String>,
    threads: Option<usize>,
    force: bool,
    follow_links: bool,
}

/// A model in another form.
#[derive(Deserialize)]
pub struct Convert {
    model: String,
    to: String,
    library: Option<String>,
    scales: Option<String>,
    group: Option<u64>,
    symmetric: bool,
    fit: Option<String>,
    dtype: Option<String>,
    out: PathBuf,
    memory: Option<String>,
    threads: Option<usize>,
    shard_size: Option<String>,
    force: bool,
    follow_links: bool,
    report: Option<PathBuf>,
}

/// Whether experts can be merged.
#[derive(Deserialize)]
pub struct Survey {
    base: String,
    experts: Vec<String>,
    spectra: bool,
    memory: Option<String>,
    threads: Option<usize>,
    follow_links: bool,
}

/// A model with the vocabulary of another one.
#[derive(Deserialize)]
pub struct Transplant {
    target: String,
    donor: String,
    method: String,
    k: u64,
    cosine: bool,
    weight_scheme: String,
    subword_method: String,
    byte_match: String,
    prefix_match: String,
    magikarp: bool,
    noise: f64,
    scale: f64,
    seed: u64,
    out: PathBuf,
    memory: Option<String>,
    threads: Option<usize>,
    shard_size: Option<String>,
    force: bool,
    follow_links: bool,
}

/// Reads a request.
pub fn read<T: DeserializeOwned>(text: &str) -> PyResult<T> {
    serde_json::from_str(text).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// What may be used of the machine.
pub fn machine(
    memory: Option<&str>,
    threads: Option<usize>,
    device: Option<&str>,
) -> PyResult<Machine> {
    let mut machine = Machine::default();
    if let Some(memory) = memory {
        machine.memory_bytes = Some(size(memory)?);
    }
    if let Some(threads) = threads {
        let none = || PyValueError::new_err("`threads` must be at least 1");
        machine.threads = Some(NonZeroUsize::new(threads).ok_or_else(none)?);
    }
    if let Some(device) = device {
        machine.device = device.parse().map_err(|text: String| {
            PyValueError::new_err(format!("`device` is `{device}`: {text}"))
        })?;
    }
    Ok(machine)
}

fn size(text: &str) -> PyResult<u64> {
    mixdown_cli::size::parse(text).map_err(PyValueError::new_err)
}

impl Recipe {
    /// As a session takes it.
    pub fn of_session(self) -> RecipeInput {
        let Self { path, text, set, follow_links } = self;
        RecipeInput { path, text, set, follow_links, memory_bytes: None }
    }
}

impl Merge {
    /// As a session takes it.
    pub fn of_session(self) -> PyResult<MergeRequest> {
        Ok(MergeRequest {
            recipe: self.recipe.of_session(),
            out: self.out,
            machine: machine(self.memory.as_deref(), self.threads, self.device.as_deref())?,
            shard_bytes: self.shard_size.as_deref().map(size).transpose()?,
            force: self.force,
            allow_nonfinite: self.allow_nonfinite,
            hash_inputs: self.hash_inputs,
            keep: if self.cache { Keep::Shared } else { Keep::Nowhere },
            report: self.report,
            part: self.part.map(|part| part.parse()).transpose().map_err(PyValueError::new_err)?,
        })
    }
}

impl Extract {
    /// As a session takes it.
    pub fn of_session(self) -> PyResult<ExtractRequest> {
        if self.rank == 0 {
            return Err(PyValueError::new_err("`rank` must be at least 1"));
        }
        Ok(ExtractRequest {
            model: self.model,
            base: self.base,
            rank: self.rank,
            out: self.out,
            machine: machine(self.memory.as_deref(), self.threads, None)?,
            force: self.force,
            follow_links: self.follow_links,
        })
    }
}

impl Fuse {
    /// As a session takes it.
    pub fn of_session(self) -> PyResult<FuseRequest> {
        Ok(FuseRequest {
            base: self.base,
            adapters: self.adapters,
            scales: self.scales,
            dtype: self.dtype,
            out: self.out,
            machine: machine(self.memory.as_deref(), self.threads, None)?,
            shard_bytes: None,
            force: self.force,
            follow_links: self.follow_links,
        })
    }
}

impl Search {
    /// As a session takes it.
    pub fn of_session(self) -> PyResult<SearchRequest> {
        Ok(SearchRequest {
            recipe: self.recipe.of_session(),
            settings: self.settings,
            out: self.out,
            keep_candidates: self.keep_candidates,
            answers: self.answers,
            machine: machine(self.memory.as_deref(), self.threads, self.device.as_deref())?,
            shard_bytes: None,
            allow_nonfinite: false,
            programs: self.programs,
        })
    }
}

impl Convert {
    /// As a session takes it.
    pub fn of_session(self) -> PyResult<ConvertRequest> {
        let mut settings: Vec<(&'static str, Value)> = Vec::new();
        settings.extend(self.library.map(|library| ("as", library.into())));
        settings.extend(self.scales.map(|scales| ("scales", scales.into())));
        settings.extend(self.group.map(|group| ("group", group.into())));
        settings.extend((!self.symmetric).then(|| ("symmetric", false.into())));
        settings.extend(self.fit.map(|fit| ("fit", fit.into())));
        Ok(ConvertRequest {
            model: self.model,
            to: self.to,
            settings,
            dtype: self.dtype,
            out: self.out,
            machine: machine(self.memory.as_deref(), self.threads, None)?,
            shard_bytes: self.shard_size.as_deref().map(size).transpose()?,
            force: self.force,
            follow_links: self.follow_links,
            report: self.report,
        })
    }
}

impl Survey {
    /// As a session takes it.
    pub fn of_session(self) -> PyResult<SurveyRequest> {
        Ok(SurveyRequest {
            base: self.base,
            experts: self.experts,
            spectra: self.spectra,
            machine: machine(self.memory.as_deref(), self.threads, None)?,
            follow_links: self.follow_links,
        })
    }
}

/// The setting that a word stands for.
///
/// **Errors.** `ValueError` with the words that there are.
fn one_of<T: Copy>(parameter: &str, word: &str, all: &[(&'static str, T)]) -> PyResult<T> {
    let found = all.iter().find(|(known, _)| *known == word).map(|(_, found)| *found);
    found.ok_or_else(|| {
        let words: Vec<String> = all.iter().map(|(known, _)| format!("`{known}`")).collect();
        let words = words.join(", ");
        PyValueError::new_err(format!("`{parameter}` is one of {words}, found `{word}`"))
    })
}

impl Transplant {
    /// As a session takes it.
    pub fn of_session(self) -> PyResult<TransplantRequest> {
        let places = transplant::Where::ALL;
        Ok(TransplantRequest {
            rows: NewRows {
                method: one_of("method", &self.method, transplant::Method::ALL)?,
                count: self.k,
                by_cosine: self.cosine,
                weights: one_of("weight_scheme", &self.weight_scheme, transplant::Weights::ALL)?,
                subword: one_of(
                    "subword_method",
                    &self.subword_method,
                    transplant::SubwordRule::ALL,
                )?,
                bytes: one_of("byte_match", &self.byte_match, places)?,
                beginnings: one_of("prefix_match", &self.prefix_match, places)?,
                trained_only: self.magikarp,
                noise: self.noise,
                scale: self.scale,
                seed: self.seed,
            },
            target: self.target,
            donor: self.donor,
            out: self.out,
            machine: machine(self.memory.as_deref(), self.threads, None)?,
            shard_bytes: self.shard_size.as_deref().map(size).transpose()?,
            force: self.force,
            follow_links: self.follow_links,
        })
    }
}
