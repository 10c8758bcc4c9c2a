//! A search's settings: YAML to types, strictly, with all mistakes at once.

mod answers;
mod generator;
mod grid;
mod optimizer;
mod score;
mod values;

use std::path::{Path, PathBuf};

use mixdown_diagnostics::{Diagnostic, Source, any_error, codes, sort};
use mixdown_recipe::recipe::Form;
use mixdown_recipe::schema::Keys;
use mixdown_recipe::tree::{Dialect, Node, ScalarValue};
use mixdown_recipe::{Decoder, yaml};

use crate::embed::Embed;
use crate::generate::{
    CommandGenerator, EmbeddedGenerator, Generator, HttpGenerator, ReplayGenerator,
};
use crate::grid::{Axis, Candidate, candidates};
use crate::normalize::Normalize;
use crate::objective::{self, Diff, Ties};
use crate::optimizer::Optimizer;
use crate::schema::{ObjectiveKeys, SearchKeys};
use crate::score::Score;

/// What is searched and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which candidates are tried.
    pub tried: Tried,
    /// What makes a candidate good.
    pub objective: Objective,
    /// Which of equally good candidates is chosen.
    pub ties: Ties,
}

/// Which candidates are tried.
#[derive(Clone, Debug)]
pub enum Tried {
    /// All values of these parameters.
    Grid(Vec<Axis>),
    /// Some, each generation by the scores of those before.
    Optimizer(Optimizer),
}

impl Tried {
    /// Paths of the parameters.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Self::Grid(axes) => axes.iter().map(|axis| axis.path.as_str()).collect(),
            Self::Optimizer(optimizer) => {
                optimizer.ranges.iter().map(|range| range.path.as_str()).collect()
            }
        }
    }

    /// How many candidates there are, in words.
    pub fn count(&self) -> String {
        match self {
            Self::Grid(axes) => candidates(axes).len().to_string(),
            Self::Optimizer(optimizer) => format!("at most {}", optimizer.budget),
        }
    }

    /// The candidates that are known before anything is scored.
    pub fn candidates(&self) -> Vec<Candidate> {
        match self {
            Self::Grid(axes) => candidates(axes),
            Self::Optimizer(_) => Vec::new(),
        }
    }
}

/// What makes a candidate good.
#[derive(Clone, Debug)]
pub enum Objective {
    /// Answers that differ little from its neighbors'.
    Neighbors(Box<Neighbors>),
    /// A score.
    Score(Score),
}

/// How answers are made and compared.
#[derive(Clone, Debug)]
pub struct Neighbors {
    /// The file of prompts; none where answers exist already and all are used.
    pub prompts: Option<PathBuf>,
    /// Which are asked.
    pub sample: Sample,
    /// Where answers come from.
    pub generator: Answering,
    /// How differences are counted.
    pub diff: Diff,
    /// What is done to answers before that.
    pub normalize: Normalize,
    /// What makes vectors of answers.
    pub embed: Option<Embed>,
    /// Differences are means over so many neighbors each side.
    pub smooth: usize,
    /// Answers of a candidate that may be missing.
    pub max_errors: u64,
    /// Prompts asked at a time; none for all at once.
    pub chunk: Option<usize>,
    /// Prompts that are asked twice.
    pub verify: usize,
}

/// Which prompts are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// So many, by their hash with the seed.
    Count(usize, u64),
    /// These.
    Ids(Vec<String>),
}

/// Where answers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answering {
    /// A program.
    Command(CommandGenerator),
    /// mixdown's own program.
    Embedded(EmbeddedGenerator),
    /// A server.
    Http(HttpGenerator),
    /// Files.
    Replay(ReplayGenerator),
}

impl Neighbors {
    /// Makes sure that what answers and what makes vectors is there, before anything is merged.
    /// mixdown's own programs are looked for in these folders.
    pub fn prepare(&mut self, folders: &[PathBuf]) -> Result<(), Box<Diagnostic>> {
        self.generator.prepare(folders)?;
        self.embed.as_ref().map_or(Ok(()), Embed::prepare)
    }
}

impl Answering {
    /// What answers, as long as a search goes on.
    pub fn generator(&self) -> Box<dyn Generator> {
        match self {
            Self::Command(generator) => Box::new(generator.clone()),
            Self::Embedded(generator) => Box::new(generator.clone()),
            Self::Http(generator) => Box::new(generator.server()),
            Self::Replay(generator) => Box::new(generator.clone()),
        }
    }

    fn prepare(&mut self, folders: &[PathBuf]) -> Result<(), Box<Diagnostic>> {
        match self {
            Self::Embedded(generator) => generator.find(folders),
            Self::Http(generator) => generator.prepare(),
            Self::Command(_) | Self::Replay(_) => Ok(()),
        }
    }
}

/// Reads settings. `folder` is where relative paths start.
pub fn read(source: &Source, folder: &Path) -> Result<Settings, Vec<Diagnostic>> {
    let tree = yaml::parse(source, Some(Dialect::Yaml12))?;
    let mut decoder = Decoder::new(source, Form::Strict);
    let settings = search(&mut decoder, &tree.root, folder);
    let mut found = decoder.diagnostics;
    found.extend(tree.warnings.iter().cloned());
    sort(&mut found);
    match settings {
        Some(settings) if !any_error(&found) => Ok(settings),
        _ => Err(found),
    }
}

fn search(decoder: &mut Decoder<'_>, root: &Node, folder: &Path) -> Option<Settings> {
    let fields = decoder.fields(root, SearchKeys::KEYS, "a search")?;
    match fields.get("search") {
        None if fields.mentions("search") => {}
        None => decoder.missing_key(root, "search", "a search"),
        Some(node) if node.scalar().is_some_and(|s| s.value == ScalarValue::Integer(1)) => {}
        Some(node) => {
            let headline =
                format!("this program reads searches of version 1, found {}", node.describe());
            let error = Diagnostic::error(codes::UNSUPPORTED, headline);
            decoder.report(node.span, error.help("write `search: 1`"));
        }
    }
    let is_optimized = fields.mentions("optimizer");
    let tried = match is_optimized {
        true => optimizer::optimizer(decoder, fields, root).map(Tried::Optimizer),
        false => Some(Tried::Grid(grid::grid(decoder, fields, root))),
    };
    let objective = fields.get("objective");
    let objective_fields =
        objective.and_then(|node| decoder.fields(node, ObjectiveKeys::KEYS, "`objective`"));
    let ties = objective_fields
        .and_then(|fields| fields.get("ties"))
        .and_then(|node| decoder.word(node, "`ties`", &objective::TIES))
        .unwrap_or_default();
    let is_scored = objective_fields.is_some_and(|fields| fields.mentions("command"));
    let objective = if is_scored {
        Objective::Score(score::scored(decoder, fields, objective_fields?)?)
    } else {
        if let (true, Some(entry)) = (is_optimized, fields.entry("optimizer")) {
            let headline =
                "`optimizer` has no meaning here: it goes by scores, and answers have none";
            let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
            let help = "remove it, or give `objective` a `command` that scores";
            decoder.report(entry.key.span, error.help(help));
        }
        let neighbors = answers::neighbors(decoder, fields, objective_fields, root, folder);
        if let Some(Tried::Grid(axes)) = &tried {
            grid::check_curve(decoder, fields, axes, neighbors.as_ref().map(|n| n.diff));
        }
        Objective::Neighbors(Box::new(neighbors?))
    };
    Some(Settings { tried: tried?, objective, ties })
}

#[cfg(test)]
mod tests;
