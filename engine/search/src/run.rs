//! The search itself: asks for merged candidates, has them answer or be scored, and chooses.

mod answers;
mod scores;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use mixdown_diagnostics::{Diagnostic, codes};

use crate::cache::Cache;
use crate::generate::Failure;
use crate::grid::Candidate;
use crate::objective::choose;
use crate::prompts::{self, Prompt};
use crate::report::Report;
use crate::responses::shown_ids;
use crate::settings::{Answering, Neighbors, Objective, Sample, Settings, Tried};
use crate::subset;
use answers::Search;

/// A merged candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Its folder.
    pub folder: PathBuf,
    /// The digest of all that its answers depend on.
    pub key: String,
}

/// What the search leaves to others: merging, and telling a person.
pub trait Host {
    /// Takes candidates that come after those that there are. What is wrong with them is found before
    /// anything of them is merged.
    fn add(&mut self, candidates: &[Candidate]) -> Result<(), Failure>;
    /// The key of a candidate that was merged before, even if its folder is gone.
    fn known_key(&mut self, position: usize) -> Option<String>;
    /// The candidate, merged now if it is not there.
    fn merged(&mut self, position: usize) -> Result<Merged, Failure>;
    /// Another candidate is better than this one: its merge need not be kept.
    fn discard(&mut self, position: usize) -> Result<(), Failure>;
    /// A line for the person.
    fn say(&mut self, text: &str);
}

/// Where a search keeps what it makes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Answers that are kept.
    pub cache: &'a Cache,
    /// A folder with one folder for each candidate, for files of generators.
    pub work: &'a Path,
    /// Raised when somebody asked to stop.
    pub stop: &'a AtomicBool,
}

/// The prompts of a search: all of the file, and those that are asked.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// In the order of the file.
    pub prompts: Vec<Prompt>,
}

/// Reads the prompts and chooses those that are asked; their media are checked.
pub fn choose_prompts(
    neighbors: &Neighbors,
    candidates: &[Candidate],
) -> Result<Chosen, Vec<Diagnostic>> {
    let all = match (&neighbors.prompts, &neighbors.generator) {
        (Some(path), _) => prompts::read(path)?,
        (None, Answering::Replay(replay)) => {
            let first = candidates.first().map_or("", |candidate| candidate.folder.as_str());
            replay.ids(first)?.iter().map(|id| Prompt::named(id)).collect()
        }
        (None, _) => Vec::new(),
    };
    let ids: Vec<&str> = all.iter().map(|prompt| prompt.id.as_str()).collect();
    let positions = match &neighbors.sample {
        Sample::Count(count, seed) => subset::sample(&ids, *count, *seed),
        Sample::Ids(wanted) => subset::named(&ids, wanted).map_err(|unknown| {
            let headline = "`ids` names prompts that there are not";
            let mut error = Diagnostic::error(codes::UNKNOWN_NAME, headline)
                .fact("not there", shown_ids(&unknown));
            if let Some(path) = &neighbors.prompts {
                error = error.in_file(path.to_string_lossy());
            }
            vec![error]
        })?,
    };
    let chosen: Vec<Prompt> = positions.into_iter().map(|k| all[k].clone()).collect();
    if let Some(path) = &neighbors.prompts {
        prompts::check_media(path, &chosen.iter().collect::<Vec<_>>())?;
    }
    Ok(Chosen { prompts: chosen })
}

/// Searches. The report says which candidate is chosen, unless none is for a tie. The host has the
/// candidates that are known before; an optimizer adds others.
pub fn search(
    settings: &Settings,
    chosen: &Chosen,
    place: Place<'_>,
    host: &mut dyn Host,
) -> Result<Report, Failure> {
    let candidates = settings.tried.candidates();
    let mut report = Report::new(settings, &candidates);
    match (&settings.objective, &settings.tried) {
        (Objective::Neighbors(neighbors), _) => {
            let mut search = Search::new(neighbors, &candidates, &chosen.prompts, place);
            search.run(host)?;
            search.fill(&mut report)?;
        }
        (Objective::Score(score), Tried::Grid(_)) => {
            scores::score_all(score, &candidates, place, host, &mut report)?;
        }
        (Objective::Score(score), Tried::Optimizer(optimizer)) => {
            scores::optimize(optimizer, score, place, host, &mut report)?;
        }
    }
    report.chosen = choose(&report.minima, settings.ties);
    Ok(report)
}

fn told(candidate: &Candidate, position: usize, count: &str) -> String {
    format!("candidate {} ({} of {count})", candidate.label, position + 1)
}

fn work_folder(work: &Path, candidate: &Candidate) -> Result<PathBuf, Box<Diagnostic>> {
    let folder = work.join(&candidate.folder);
    std::fs::create_dir_all(&folder).map_err(|error| {
        Diagnostic::error(codes::WRITE_FAILED, format!("the folder cannot be made: {error}"))
            .in_file(folder.to_string_lossy())
    })?;
    Ok(folder)
}

#[cfg(test)]
mod tests;
