//! Folders of a trainer's own state and of pipelines: what they are, and what makes a model of them.

use std::fs;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};

use crate::shown::{shown, some_of};

/// What makes a model of the parts of several ranks.
const CONVERT: &str = "convert it to the layout of Hugging Face with Megatron Bridge or Megatron-LM's `tools/checkpoint/convert.py`, and name the result";

/// Ranks counted at most.
const RANKS: usize = 4096;

/// Refuses a file or a folder that holds the part of one rank where there are others: its matrices are cut among
/// them, along axes that nothing stored tells.
pub(super) fn one_of_ranks(name: &str, path: &Path) -> Option<Diagnostic> {
    let own = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        rank_of(name).map(|(_, rest)| rest.to_owned())
    };
    let (part, rest) = match own(path) {
        Some(rest) => (path, rest),
        None => (path.parent()?, own(path.parent()?)?),
    };
    let above = match part.parent()? {
        empty if empty.as_os_str().is_empty() => Path::new("."),
        above => above,
    };
    let beside = fs::read_dir(above).ok()?.flatten().take(RANKS);
    let names = beside.filter_map(|entry| entry.file_name().into_string().ok());
    let mut ranks: Vec<String> =
        names.filter(|name| rank_of(name).is_some_and(|(_, other)| other == rest)).collect();
    ranks.sort();
    if ranks.len() < 2 {
        return None;
    }
    let headline = format!("`{}` is the part that one of {} ranks wrote", shown(name), ranks.len());
    let fault = Diagnostic::error(codes::TRAINER_STATE, headline).in_file(name);
    let ranks: Vec<&str> = ranks.iter().map(String::as_str).collect();
    Some(
        fault
            .fact("ranks", some_of(&ranks))
            .note("matrices are cut among ranks, along axes that the files do not tell")
            .help(CONVERT),
    )
}

/// The rank and what follows it in a name such as `mp_rank_00_000` or `mp_rank_01_model_states.pt`. With pipelines,
/// a second number follows, which counts as one of the rank.
fn rank_of(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix("mp_rank_")?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(rest.len());
    (end > 0 && rest.starts_with(|c: char| c.is_ascii_digit())).then(|| rest.split_at(end))
}

/// What a folder is that holds no weights of its own, where its names tell it.
pub(super) fn told(name: &str, path: &Path, names: &[String]) -> Option<Diagnostic> {
    let found = |is_one: &dyn Fn(&str) -> bool| -> Vec<&str> {
        names.iter().map(String::as_str).filter(|name| is_one(name)).collect()
    };
    let fault = |what: &str, found: &[&str]| {
        let headline = format!("the folder `{}` holds {what}", shown(name));
        let fault = Diagnostic::error(codes::TRAINER_STATE, headline).in_file(name);
        fault.fact("found", some_of(found))
    };
    let zero = found(&|name| name.contains("zero_pp_rank_") || name.starts_with("global_step"));
    if !zero.is_empty() {
        let is_step = zero.iter().any(|name| name.ends_with(".pt"));
        let run = "run DeepSpeed's `python zero_to_fp32.py . OUT`";
        let place = if is_step { "in the folder above this one" } else { "in it" };
        return Some(
            fault("the state of DeepSpeed ZeRO, of which each process wrote a part", &zero)
                .note("parts of parameters lie flat in the states of optimizers, whose order only the trainer knows")
                .help(format!("{run} {place}, and name `OUT`")),
        );
    }
    let megatron = found(&|name| {
        name.starts_with("mp_rank_")
            || name.starts_with("iter_")
            || name == "latest_checkpointed_iteration.txt"
    });
    if !megatron.is_empty() {
        let below = names.iter().find(|name| {
            name.starts_with("iter_")
                && path.join(name).join(super::distributed::METADATA).is_file()
        });
        let told = fault("a checkpoint of Megatron, of which each rank wrote a part", &megatron);
        return Some(match below {
            Some(below) => told.help(format!(
                "name the folder `{}/{below}`, which is a distributed checkpoint of torch",
                shown(name.trim_end_matches('/'))
            )),
            None => told.help(CONVERT),
        });
    }
    if names.iter().any(|name| name == "model_index.json") {
        let has_weights = |folder: &str| {
            let inside = fs::read_dir(path.join(folder)).into_iter().flatten().flatten();
            inside.take(1000).any(|entry| {
                entry
                    .file_name()
                    .to_str()
                    .is_some_and(|file| super::is_weights(file) || file.ends_with(".bin"))
            })
        };
        let parts = found(&has_weights);
        let first = parts.first().copied().unwrap_or("unet");
        let example = format!("{}/{first}", name.trim_end_matches('/'));
        return Some(
            fault("a pipeline of diffusers, whose parts are models of their own", &parts).help(format!(
                "merge each part by a recipe that names it, as `{}`, and put the results in place of the parts",
                shown(&example)
            )),
        );
    }
    None
}
