//! `mixdown extract`: the adapter between two checkpoints.

use std::path::PathBuf;

use clap::Args;
use mixdown_checkpoint::TensorEntry;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::Source;
use mixdown_plan::ModelSource;
use serde_json::{Value, json};

use crate::commands::merge::{self, Running};
use crate::commands::{Outcome, Trouble};
use crate::planning::{self, RecipeArguments};
use crate::progress::{self, Meter, Style};
use crate::stop;
use crate::talk::Talk;

/// Write what a model adds to its base as a LoRA adapter
///
/// Of each linear layer that differs from the base's, the R leading singular directions of the
/// difference become the two factors of a LoRA; embeddings, norms and biases that differ are stored
/// whole. Tensors that do not differ are left out. The folder is one that PEFT loads onto the base,
/// and that recipes name as BASE+ADAPTER.
///
/// Prints for each tensor the rank and the relative error of its update, ‖Δ − B·A‖ / ‖Δ‖ in the
/// Frobenius norm, then the folder.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown extract org/math-7b org/base-7b --rank 64 --out math-lora
  mixdown merge recipe.yaml --out merged       with org/base-7b+math-lora among its models

A recipe does the same with what it merges: output: {as: adapter, rank: 64}.

Exit status: 0 done, 1 failed, 2 command line wrong, 130 interrupted.")]
pub struct Arguments {
    /// The model: a folder, a file, or an id at the hub
    model: String,
    /// What it was made from, and what the adapter will be on
    base: String,
    /// Most directions of each update; smaller matrices have fewer
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    rank: u32,
    /// The folder to make
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    pub running: Running,
}

/// What messages call the recipe that the arguments stand for.
const NAME: &str = "extract";

/// Bytes that are compared at a time.
const CHUNK: usize = 1 << 20;

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let Arguments { running, out, .. } = &arguments;
    let own_talk = Talk { quiet: talk.quiet || running.json, ..talk };
    let style = Style::suited(own_talk, running.json);
    let recipe = match recipe(&arguments, style) {
        Ok(recipe) => recipe,
        Err(trouble) => {
            merge::tell(&trouble, running.json);
            return Err(trouble);
        }
    };
    merge::run(merge::Arguments::of_extraction(recipe, out.clone(), *running), talk)
}

/// The recipe that extracts the adapter: the tensors that do not differ are kept.
fn recipe(arguments: &Arguments, style: Style) -> Result<RecipeArguments, Trouble> {
    let of = |unchanged: &[&str]| RecipeArguments::of_text(NAME, text(arguments, unchanged));
    let planned = planning::plan(&of(&[]), style, None)?;
    let (&[ModelSource::Checkpoint(base), ModelSource::Checkpoint(model)], sources) =
        (planned.loaded.sources[0].as_slice(), planned.sources())
    else {
        return Ok(of(&[]));
    };
    let unchanged = unchanged(&sources[base as usize], &sources[model as usize], style)?;
    if unchanged.len() == sources[base as usize].index.len() {
        return Err(Trouble::Found(vec![
            Diagnostic::error(
                codes::NOTHING_TO_WRITE,
                "no tensor of the model differs from the base",
            )
            .fact("model", arguments.model.as_str())
            .fact("base", arguments.base.as_str()),
        ]));
    }
    Ok(of(&unchanged))
}

fn text(arguments: &Arguments, unchanged: &[&str]) -> String {
    let Arguments { model, base, rank, .. } = arguments;
    // A text of JSON is one of YAML, whatever stands in it.
    let quoted = |text: &str| Value::from(text).to_string();
    let mut text = format!(
        "mixdown: 1\nmodels:\n  base: {}\n  model: {}\nbase: base\noutput: {{as: adapter, rank: {rank}}}\nrules:\n",
        quoted(base),
        quoted(model)
    );
    if !unchanged.is_empty() {
        text.push_str(&format!("  - {{tensors: {}, keep: base}}\n", json!(unchanged)));
    }
    text.push_str("  - {keep: model}\n");
    text
}

/// The tensors of the base that the model has with the same bytes.
fn unchanged<'a>(
    base: &Source<'a>,
    model: &Source<'a>,
    style: Style,
) -> Result<Vec<&'a str>, Trouble> {
    let same_kind = |one: &'a TensorEntry| {
        let other = &model.index.tensors()[model.index.position(&one.name)?];
        (one.dtype == other.dtype && one.shape == other.shape).then_some((one, other))
    };
    // A name that reads as a pattern cannot be listed; its tensor has an update of rank 0.
    let is_plain = |name: &str| !name.contains(['*', '{', '}', '?', '[', '\\']);
    let pairs: Vec<_> = base
        .index
        .tensors()
        .iter()
        .filter(|one| is_plain(&one.name))
        .filter_map(same_kind)
        .collect();
    let meter = Meter::new(style);
    meter.enter("comparing");
    meter.expect(0, pairs.iter().map(|(one, _)| 2 * one.bytes()).sum());
    progress::watch(style, &meter, || {
        let mut buffers = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut found = Vec::new();
        for (one, other) in pairs {
            if stop::is_asked() {
                return Err(Trouble::Interrupted("interrupted: nothing was written".to_owned()));
            }
            if is_equal((base, one), (model, other), &mut buffers)? {
                found.push(one.name.as_str());
            }
            meter.add(2 * one.bytes(), 0);
        }
        Ok(found)
    })
}

/// Whether two tensors of one type and shape have the same bytes. Most differ in the first chunk.
fn is_equal(
    (first, one): (&Source<'_>, &TensorEntry),
    (second, other): (&Source<'_>, &TensorEntry),
    (a, b): &mut (Vec<u8>, Vec<u8>),
) -> Result<bool, Trouble> {
    let mut at = 0;
    while at < one.bytes() {
        let count = (one.bytes() - at).min(CHUNK as u64) as usize;
        let read = |source: &Source<'_>, entry: &TensorEntry, into: &mut [u8]| {
            source.shards[entry.shard as usize]
                .read_exact_at(entry.offset + at, into)
                .map_err(|error| Trouble::from(error.diagnostic()))
        };
        read(first, one, &mut a[..count])?;
        read(second, other, &mut b[..count])?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}
