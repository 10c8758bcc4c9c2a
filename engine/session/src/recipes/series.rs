//! Series of checkpoints: `run/checkpoint-*` stands for the checkpoints of one training, in the order of their
//! numbers, and `run/checkpoint-{2000..4000}` for a window of them.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use mixdown_checkpoint::shown;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::Recipe;
use mixdown_recipe::recipe::{
    Action, Body, Model, ModelId, ModelReference, ModuleContent, SourceModel,
};

/// Names of folders that are told in one message.
const MOST_NAMED: usize = 5;

/// Puts in the place of each series its checkpoints, the oldest first. What is wrong is told at the series, which is
/// then among those that failed.
pub(super) fn expand(recipe: &mut Recipe) -> (Vec<Diagnostic>, Vec<ModelId>) {
    let (mut told, mut failed) = (Vec::new(), Vec::new());
    for position in 0..recipe.models.len() {
        let model = &recipe.models[position];
        let ModelReference::Checkpoint { path, .. } = &model.reference else { continue };
        if model.attached_as.is_some() || Path::new(path).exists() {
            continue;
        }
        let span = model.span;
        let id = ModelId(position as u32);
        let found = match Pattern::of(path) {
            None => continue,
            Some(Err(error)) => Err(error),
            Some(Ok(_)) if is_single(recipe, id) => {
                let headline = "stands for several checkpoints where one model is needed";
                let error = problem(format!("`{}` {headline}", shown(path)));
                Err(Box::new(error.help("name one of them")))
            }
            Some(Ok(pattern)) => pattern.checkpoints(path),
        };
        let place = |diagnostic: Diagnostic| diagnostic.at(&recipe.source, span);
        match found {
            Err(error) => {
                told.push(place(*error));
                failed.push(id);
            }
            Ok((paths, warning)) => {
                told.extend(warning.map(place));
                insert(recipe, id, &paths);
            }
        }
    }
    (told, failed)
}

fn problem(headline: String) -> Diagnostic {
    Diagnostic::error(codes::SERIES, headline)
}

/// Whether a model is named where only one can stand.
fn is_single(recipe: &Recipe, id: ModelId) -> bool {
    let is_it = |model: &mixdown_recipe::setting::Spanned<ModelId>| model.value == id;
    let in_body = match &recipe.body {
        Body::Modules(modules) => modules.iter().any(|module| match &module.content {
            ModuleContent::Models(_) => false,
            ModuleContent::Slices(slices) => {
                slices.iter().any(|slice| slice.base.as_ref().is_some_and(is_it))
            }
        }),
        Body::Rules(rules) => rules.iter().any(|rule| match &rule.action {
            Action::Keep(model) => is_it(model),
            Action::Drop => false,
            Action::Merge { base, reference, .. } => base.iter().chain(reference).any(is_it),
        }),
    };
    in_body || recipe.base.iter().chain(&recipe.reference).any(is_it)
}

/// The model of a series becomes its first checkpoint, and the others stand behind it wherever it stands.
fn insert(recipe: &mut Recipe, id: ModelId, paths: &[String]) {
    let of_path = |model: &Model, path: &str| {
        let mut model = Model { name: path.to_owned(), ..model.clone() };
        if let ModelReference::Checkpoint { path: own, .. } = &mut model.reference {
            path.clone_into(own);
        }
        model
    };
    let series = recipe.models[id.0 as usize].clone();
    let first_new = recipe.models.len() as u32;
    for (at, path) in paths.iter().enumerate() {
        match at {
            0 => recipe.models[id.0 as usize] = of_path(&series, path),
            _ => recipe.models.push(of_path(&series, path)),
        }
    }
    let others = first_new..recipe.models.len() as u32;
    let spread = |sources: &mut Vec<SourceModel>| {
        let all = std::mem::take(sources);
        for source in all {
            let is_series = source.model.value == id;
            let copies: Vec<SourceModel> = others
                .clone()
                .filter(|_| is_series)
                .map(|number| {
                    let mut copy = source.clone();
                    copy.model.value = ModelId(number);
                    copy
                })
                .collect();
            sources.push(source);
            sources.extend(copies);
        }
    };
    match &mut recipe.body {
        Body::Modules(modules) => {
            for module in modules {
                match &mut module.content {
                    ModuleContent::Models(sources) => spread(sources),
                    ModuleContent::Slices(slices) => {
                        slices.iter_mut().for_each(|slice| spread(&mut slice.sources));
                    }
                }
            }
        }
        Body::Rules(rules) => {
            for rule in rules {
                if let Action::Merge { experts: Some(experts), .. } = &mut rule.action {
                    spread(experts);
                }
            }
        }
    }
}

/// A path with one place for numbers.
#[derive(Debug, PartialEq)]
struct Pattern {
    folder: PathBuf,
    /// Of the names in the folder, what comes before the number and after it.
    prefix: String,
    suffix: String,
    /// What follows the name.
    rest: PathBuf,
    numbers: RangeInclusive<u64>,
}

impl Pattern {
    /// Reads a path; none if it is no series.
    fn of(path: &str) -> Option<Result<Self, Box<Diagnostic>>> {
        let parts: Vec<&str> = path.split('/').collect();
        let is_open = |part: &&&str| part.contains('*') || range(part).is_some();
        let open: Vec<&&str> = parts.iter().filter(is_open).collect();
        let [part] = open.as_slice() else {
            return (open.len() > 1).then(|| Err(Box::new(Self::several(path))));
        };
        let (start, end, numbers) = match (part.match_indices('*').count(), range(part)) {
            (1, None) => {
                let at = part.find('*')?;
                (at, at + 1, 0..=u64::MAX)
            }
            (0, Some((start, end, numbers))) => (start, end, numbers),
            _ => return Some(Err(Box::new(Self::several(path)))),
        };
        if numbers.is_empty() {
            let headline = format!("the window of `{}` ends before it starts", shown(path));
            let help = format!("write `{{{}..{}}}`", numbers.end(), numbers.start());
            return Some(Err(Box::new(problem(headline).help(help))));
        }
        let at = parts.iter().position(|one| *one == **part)?;
        let folder = match parts[..at].join("/") {
            // Of a path from the root nothing is left before the first part.
            empty if empty.is_empty() && at > 0 => "/".to_owned(),
            folder => folder,
        };
        Some(Ok(Self {
            folder: folder.into(),
            prefix: part[..start].to_owned(),
            suffix: part[end..].to_owned(),
            rest: parts[at + 1..].iter().collect(),
            numbers,
        }))
    }

    fn several(path: &str) -> Diagnostic {
        problem(format!("`{}` has several places for numbers", shown(path)))
            .help("a series has one `*`, or one window such as `{2000..4000}`")
    }

    /// The longer side of a hole as a window, the later one of two alike; none if both are single checkpoints.
    fn longer(&self, before: &[u64], after: &[u64]) -> Option<String> {
        let side = if before.len() > after.len() { before } else { after };
        let [first, .., last] = side else { return None };
        let name = format!("{}{{{first}..{last}}}{}", self.prefix, self.suffix);
        Some(
            self.folder
                .join(name)
                .join(&self.rest)
                .to_string_lossy()
                .trim_end_matches('/')
                .to_owned(),
        )
    }

    /// The checkpoints of the series, the oldest first, and what is told of names that have no number.
    fn checkpoints(
        &self,
        path: &str,
    ) -> Result<(Vec<String>, Option<Diagnostic>), Box<Diagnostic>> {
        let folder = match self.folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => self.folder.as_path(),
        };
        let mut found: BTreeMap<u64, String> = BTreeMap::new();
        let mut others = Vec::new();
        let unreadable =
            |error: std::io::Error| {
                let folder = shown(&folder.display().to_string()).into_owned();
                let error = problem(format!("there is no series `{}`", shown(path)))
                    .fact("folder", format!("{folder}: {error}"));
                Box::new(error.help(
                    "a series is of folders on this machine, relative to where mixdown is run",
                ))
            };
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let number =
                name.strip_prefix(&self.prefix).and_then(|name| name.strip_suffix(&self.suffix));
            let Some(number) = number else { continue };
            let whole = self.folder.join(&name).join(&self.rest);
            // An empty rest would end the path with a separator.
            let whole =
                if self.rest.as_os_str().is_empty() { self.folder.join(&name) } else { whole };
            if !whole.exists() {
                continue;
            }
            let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let Some(number) = number.parse().ok().filter(|_| is_number) else {
                others.push(name);
                continue;
            };
            if !self.numbers.contains(&number) {
                continue;
            }
            if let Some(first) = found.insert(number, whole.to_string_lossy().into_owned()) {
                let headline =
                    format!("two checkpoints of `{}` have the number {number}", shown(path));
                return Err(Box::new(
                    problem(headline)
                        .fact("one", shown(&first))
                        .fact("other", shown(&name))
                        .help("remove one of them, or list the checkpoints under `models`"),
                ));
            }
        }
        others.sort_unstable();
        let others = |diagnostic: Diagnostic| match others.as_slice() {
            [] => diagnostic,
            names => names
                .iter()
                .take(MOST_NAMED)
                .fold(diagnostic, |told, name| told.fact("no number", shown(name))),
        };
        match found.len() {
            0 => {
                let error = problem(format!("no checkpoint is called `{}`", shown(path)))
                    .fact("looked in", shown(&folder.display().to_string()));
                return Err(Box::new(
                    others(error)
                        .help("`*` stands for a number, and `{2000..4000}` for one between these"),
                ));
            }
            1 => {
                let only = found.into_values().next().unwrap_or_default();
                let error = problem(format!("`{}` is one checkpoint, and no series", shown(path)))
                    .fact("found", shown(&only));
                return Err(Box::new(
                    others(error).help("name it as a model, or give the others a number"),
                ));
            }
            _ => {}
        }
        let numbers: Vec<u64> = found.keys().copied().collect();
        if let Some((before, after, step)) = hole(&numbers) {
            let headline = format!("checkpoints are missing in `{}`", shown(path));
            let at = numbers.partition_point(|number| *number <= before);
            let error = problem(headline)
                .fact("usual step", step.to_string())
                .fact("missing", format!("{} and on, between {before} and {after}", before + step));
            return Err(Box::new(error.help(match self.longer(&numbers[..at], &numbers[at..]) {
                Some(window) => format!(
                    "take a window without the hole, such as `{}`, or list the checkpoints under `models`",
                    shown(&window)
                ),
                None => "list the checkpoints under `models`".to_owned(),
            })));
        }
        let has_others = !others(problem(String::new())).facts.is_empty();
        let warning = has_others.then(|| {
            let headline =
                format!("names without a number are not in the series `{}`", shown(path));
            others(Diagnostic::warning(codes::NOT_IN_SERIES, headline))
        });
        Ok((found.into_values().collect(), warning))
    }
}

/// `{2000..4000}` within a name: where it begins and ends, and what it says.
fn range(name: &str) -> Option<(usize, usize, RangeInclusive<u64>)> {
    let start = name.find('{')?;
    let end = start + name[start..].find('}')?;
    let (first, last) = name[start + 1..end].split_once("..")?;
    Some((start, end + 1, first.trim().parse().ok()?..=last.trim().parse().ok()?))
}

/// The numbers around the first hole, and the usual step. Where no step is that of most, there is no hole: trainings
/// also store at the powers of two.
fn hole(numbers: &[u64]) -> Option<(u64, u64, u64)> {
    let mut steps: Vec<u64> = numbers.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // The last checkpoint is stored where a training ends, and says nothing about the others.
    if let [.., before, last] = steps.as_slice()
        && last < before
    {
        steps.pop();
    }
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for step in &steps {
        *counts.entry(*step).or_default() += 1;
    }
    let (usual, count) =
        counts.into_iter().max_by_key(|(step, count)| (*count, std::cmp::Reverse(*step)))?;
    // Of two unlike steps the longer one is a hole if the shorter one fits into it.
    let is_usual = 2 * count > steps.len() || steps.len() == 2;
    let at = steps.iter().position(|step| *step > usual && step % usual == 0)?;
    is_usual.then_some((numbers[at], numbers[at + 1], usual))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_one_place_for_numbers() {
        let of = |path: &str| Pattern::of(path).unwrap().unwrap();
        let pattern = of("./run/checkpoint-*");
        assert_eq!((pattern.prefix.as_str(), pattern.suffix.as_str()), ("checkpoint-", ""));
        assert_eq!(pattern.folder, Path::new("./run"));
        let pattern = of("step{10..30}_hf/model");
        assert_eq!((pattern.prefix.as_str(), pattern.suffix.as_str()), ("step", "_hf"));
        assert_eq!((pattern.numbers, pattern.rest), (10..=30, PathBuf::from("model")));
        assert_eq!(of("/x-*").folder, Path::new("/"));
        assert!(Pattern::of("org/model").is_none());
        assert!(Pattern::of("odd{name}").is_none());
        for path in ["a*/b*", "a*b*", "a*{1..2}", "a{5..2}"] {
            assert!(Pattern::of(path).unwrap().is_err(), "{path}");
        }
    }

    #[test]
    fn a_hole_is_where_the_usual_step_is_missing() {
        assert_eq!(hole(&[500, 1000, 1500, 2500]), Some((1500, 2500, 500)));
        assert_eq!(hole(&[500, 1000, 2000]), Some((1000, 2000, 500)));
        // The last one is stored where a training ends.
        assert_eq!(hole(&[500, 1000, 1500, 1632]), None);
        assert_eq!(hole(&[1000, 1500, 1600]), None);
        assert_eq!(hole(&[1, 2, 4, 8, 16]), None);
        assert_eq!(hole(&[1, 1000]), None);
        assert_eq!(hole(&[5]), None);
    }
}
