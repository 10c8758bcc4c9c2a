//! Shuffles of layers: a stack whose layers are drawn from several models, as a recipe that stacks them.
//!
//! What mergekit-layershuffle draws, from numbers that depend on nothing but the seed and the place of a layer.

use std::collections::BTreeMap;
use std::path::Path;

use mixdown_checkpoint::Index;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::random::{stream_key, uniform_bits};
use mixdown_recipe::recipe::ModelReference;
use mixdown_recipe::shuffle_file::{ShuffleFile, ShufflePart, read_shuffle};
use serde_json::{Map, Value, json};

use crate::Session;
use crate::models::{Model, Reference};

/// The recipe that a file stands for, and what the user should know.
pub(crate) struct Shuffled {
    pub recipe: String,
    pub warnings: Vec<Diagnostic>,
}

/// Layers of a model, as a part of the stack: the model's position among the parts, and the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    part: usize,
    start: u64,
    end: u64,
}

/// What a file that shuffles layers stands for; none if it is none.
///
/// **Errors.** All that is wrong with it, models that cannot be opened, models with too few layers, and overrides of
/// what the draws depend on: those are of the recipe that comes of them.
pub(crate) fn recipe(
    path: &Path,
    text: &str,
    set: &[(String, String)],
    session: &Session<'_>,
) -> Option<Result<Shuffled, Vec<Diagnostic>>> {
    let file = match read_shuffle(&path.display().to_string(), text)? {
        Ok(file) => file,
        Err(found) => return Some(Err(found)),
    };
    let of_draws = |path: &str| {
        ["layer_shuffle", "full_random", "random_seed"].iter().any(|key| path.starts_with(key))
    };
    let late = set.iter().filter(|(path, _)| of_draws(path)).map(|(path, _)| {
        let headline = format!("`{path}` cannot be set from outside of a shuffle of layers");
        let error = Diagnostic::error(codes::LAYER_SHUFFLE, headline);
        error.help("write it into the file").in_file(file.source.name())
    });
    let late: Vec<Diagnostic> = late.collect();
    Some(if late.is_empty() { shuffled(file, session) } else { Err(late) })
}

fn shuffled(file: ShuffleFile, session: &Session<'_>) -> Result<Shuffled, Vec<Diagnostic>> {
    let (mut layers, mut errors) = (Vec::new(), Vec::new());
    for part in &file.parts {
        match layers_of(&file, part, session) {
            Ok(count) => layers.push(count),
            Err(found) => errors.extend(found.into_iter().map(|error| match error.place {
                None => error.at(&file.source, part.model.span),
                Some(_) => error,
            })),
        }
    }
    if errors.is_empty() && !file.full_random {
        errors.extend(too_few(&file, &layers));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let weights: Vec<f64> = file.parts.iter().map(|part| part.weight).collect();
    let runs = match file.full_random {
        true => anywhere(&weights, &layers, file.seed),
        false => in_place(&weights, layers[0], file.seed),
    };
    if runs.is_empty() {
        let headline = "no layer is drawn: each weight is below one layer of its model";
        let error = Diagnostic::error(codes::LAYER_SHUFFLE, headline)
            .help("with `full_random` a weight is the share of a model's layers: `weight: 0.5`");
        return Err(vec![error.at(&file.source, file.parts[0].span)]);
    }
    let name = |part: usize| &file.models[file.parts[part].model.value.0 as usize].name;
    let slices = runs.iter().map(
        |run| json!({"sources": [{"model": name(run.part), "layer_range": [run.start, run.end]}]}),
    );
    let mut recipe = Map::new();
    recipe.insert("merge_method".into(), json!("passthrough"));
    recipe.insert("slices".into(), slices.collect::<Vec<Value>>().into());
    for (key, value) in &file.kept {
        recipe.insert((*key).into(), json!(value));
    }
    Ok(Shuffled { recipe: Value::Object(recipe).to_string(), warnings: file.warnings })
}

/// How many layers a model has.
fn layers_of(
    file: &ShuffleFile,
    part: &ShufflePart,
    session: &Session<'_>,
) -> Result<u64, Vec<Diagnostic>> {
    let model = &file.models[part.model.value.0 as usize];
    let ModelReference::Checkpoint { path, revision, .. } = &model.reference else {
        let headline = format!("`{}` is no whole model", model.name);
        let error = Diagnostic::error(codes::UNSUPPORTED, headline);
        return Err(vec![error.help("write it first, and name its folder")]);
    };
    let reference = Reference { path: path.clone(), revision: revision.clone(), prefix: None };
    let found = Model::find(&reference, &reference.shown(), session)?;
    let count = layers(&found.checkpoint.index);
    if count > 0 {
        return Ok(count);
    }
    let headline = format!("`{}` has no layers by number", model.name);
    let error = Diagnostic::error(codes::LAYER_SHUFFLE, headline);
    Err(vec![error.help("name models whose tensors are called `….0.…`, `….1.…` and so on")])
}

/// The layers of the stack that has the most: the first number in a name is the layer's.
fn layers(index: &Index) -> u64 {
    let mut stacks: BTreeMap<String, u64> = BTreeMap::new();
    for entry in index.tensors() {
        let parts: Vec<&str> = entry.name.split('.').collect();
        let number = parts.iter().position(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(at) = number.filter(|&at| at > 0) else { continue };
        let Ok(layer) = parts[at].parse::<u64>() else { continue };
        let count = stacks.entry(parts[..at].join(".")).or_default();
        *count = (*count).max(layer.saturating_add(1));
    }
    stacks.into_values().max().unwrap_or(0)
}

/// Models whose layers end before those of the first one, from which each place gets its layer.
fn too_few(file: &ShuffleFile, layers: &[u64]) -> Vec<Diagnostic> {
    let drawn = file.parts.iter().zip(layers).filter(|(part, _)| part.weight > 0.0);
    let short = drawn.filter(|(_, count)| **count < layers[0]);
    short
        .map(|(part, count)| {
            let name = &file.models[part.model.value.0 as usize].name;
            let headline = format!("`{name}` has fewer layers than the first model");
            Diagnostic::error(codes::LAYER_SHUFFLE, headline)
                .fact("first", format!("{} layers", layers[0]))
                .fact("found", format!("{count} layers"))
                .help("put it first, or draw layers from anywhere with `full_random: true`")
                .at(&file.source, part.model.span)
        })
        .collect()
}

/// Draws in [0, 1).
struct Draws {
    key: u64,
    next: u64,
}

impl Draws {
    fn new(seed: u64) -> Self {
        Self { key: stream_key(seed, "layer_shuffle", "", 0), next: 0 }
    }

    fn draw(&mut self) -> f64 {
        let bits = uniform_bits(self.key, self.next);
        self.next += 1;
        f64::from(bits) / 4_294_967_296.0
    }

    /// A whole number below `count`.
    fn below(&mut self, count: u64) -> u64 {
        ((self.draw() * count as f64) as u64).min(count.saturating_sub(1))
    }
}

/// For each place the layer of that place of a model, which is drawn by its weight. What follows one another of one
/// model is one run.
fn in_place(weights: &[f64], layers: u64, seed: u64) -> Vec<Run> {
    let mut draws = Draws::new(seed);
    let total: f64 = weights.iter().sum();
    let mut runs: Vec<Run> = Vec::new();
    for layer in 0..layers {
        let mut left = draws.draw() * total;
        let drawn = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        // Rounding can leave a little of the last weight.
        let last = weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0);
        let part = drawn.unwrap_or(last);
        match runs.last_mut().filter(|run| run.part == part) {
            Some(run) => run.end = layer + 1,
            None => runs.push(Run { part, start: layer, end: layer + 1 }),
        }
    }
    runs
}

/// Of each model as many layers as its weight is of its own, from any place, in any order.
fn anywhere(weights: &[f64], layers: &[u64], seed: u64) -> Vec<Run> {
    let mut draws = Draws::new(seed);
    let mut runs = Vec::new();
    for (part, (weight, &count)) in weights.iter().zip(layers).enumerate() {
        for _ in 0..(count as f64 * weight) as u64 {
            let start = draws.below(count);
            runs.push(Run { part, start, end: start + 1 });
        }
    }
    for at in (1..runs.len()).rev() {
        let other = draws.below(at as u64 + 1) as usize;
        runs.swap(at, other);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_stay_at_their_places() {
        for seed in 0..20 {
            let runs = in_place(&[1.0, 0.0, 3.0], 24, seed);
            assert_eq!((runs[0].start, runs[runs.len() - 1].end), (0, 24));
            assert!(runs.windows(2).all(|two| two[0].end == two[1].start));
            assert!(runs.windows(2).all(|two| two[0].part != two[1].part));
            assert!(runs.iter().all(|run| run.part != 1));
        }
        let of_last = |seed| {
            let runs = in_place(&[1.0, 0.0, 3.0], 24, seed);
            runs.iter().filter(|run| run.part == 2).map(|run| run.end - run.start).sum::<u64>()
        };
        let share = (0..100).map(of_last).sum::<u64>() as f64 / 2400.0;
        assert!((0.72..0.78).contains(&share), "{share}");
    }

    #[test]
    fn layers_come_from_anywhere() {
        let runs = anywhere(&[0.5, 1.0], &[8, 3], 1);
        let of = |part| runs.iter().filter(|run| run.part == part).count();
        assert_eq!((of(0), of(1)), (4, 3));
        assert!(runs.iter().all(|run| run.end == run.start + 1 && run.end <= [8, 3][run.part]));
        assert_ne!(runs, anywhere(&[0.5, 1.0], &[8, 3], 2));
    }
}
