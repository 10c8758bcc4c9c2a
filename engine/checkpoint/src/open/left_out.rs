//! Files of weights in a model's folder that are not the model's: second copies of it, its adapters, what
//! other programs left there. They are not read, and that is said.

use std::fs;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};

use super::shard_names::ShardName;
use super::torch_names;
use crate::adapter::WEIGHTS as ADAPTER_FILES;
use crate::shown::some_of;

/// Whether a file holds a model once more. Mistral's repositories hold each model twice: under
/// transformers' names, and in `consolidated*.safetensors` under their own.
pub(crate) fn is_second_copy(name: &str) -> bool {
    name.starts_with("consolidated")
}

/// The name of the same file without a variant, as transformers and diffusers name copies in another type:
/// `model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`, `model-00001-of-00002.fp16.safetensors`.
fn without_variant(name: &str) -> Option<String> {
    let is_variant =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let (stem, ending) = name.rsplit_once('.')?;
    if let Some((before, variant)) = stem.rsplit_once('.')
        && is_variant(variant)
    {
        return Some(format!("{before}.{ending}"));
    }
    let shard = ShardName::parse(name)?;
    let (before, variant) = shard.stem.rsplit_once('.')?;
    let numbers = &name[shard.stem.len()..];
    is_variant(variant).then(|| format!("{before}{numbers}"))
}

/// Takes out of the weights of a folder without an index what is not the model's, and says so.
pub(super) fn leave_out(weights: &mut Vec<&str>, shown_root: &str) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    let mut take = |is_other: &dyn Fn(&str, &[&str]) -> bool, headline: &str, help: &str| {
        let (left, own): (Vec<&str>, Vec<&str>) =
            weights.iter().partition(|name| is_other(name, weights));
        // What is all that there is is the model.
        if left.is_empty() || own.is_empty() {
            return;
        }
        warnings.push(not_read(&left, shown_root, headline, help));
        *weights = own;
    };
    let usual = "name that file as the model if it is the one to use";
    take(&|name, _| is_second_copy(name), "a second copy of the model is not read", usual);
    take(
        &|name, _| ADAPTER_FILES.contains(&name),
        "the weights of an adapter beside those of the model are not read",
        "move the adapter into a folder of its own to use it: `MODEL+ADAPTER`",
    );
    take(
        &|name, all| without_variant(name).is_some_and(|plain| all.contains(&plain.as_str())),
        "a second copy of the model is not read",
        usual,
    );
    warnings
}

/// Files of weights that the index of their folder does not name.
pub(super) fn unindexed(
    names: &[String],
    indexed: &[&str],
    shown_root: &str,
) -> Option<Diagnostic> {
    let is_left = |name: &&str| super::is_weights(name) && !indexed.contains(name);
    let left: Vec<&str> = names.iter().map(String::as_str).filter(is_left).collect();
    if left.is_empty() {
        return None;
    }
    let headline = "files of weights that the index does not name are not read";
    let help = "they are no part of the model to transformers either; name such a file as a model of its own";
    Some(not_read(&left, shown_root, headline, help))
}

/// Torch's files beside safetensors, where they are newer: transformers takes the safetensors, and a program
/// that saved the model anew as torch's left them stale.
pub(super) fn newer_torch(
    root: &Path,
    names: &[String],
    read: &[&str],
    shown_root: &str,
) -> Option<Diagnostic> {
    /// Files that were fetched or copied together differ by less.
    const LATER: std::time::Duration = std::time::Duration::from_secs(600);
    let written = |name: &str| fs::metadata(root.join(name)).and_then(|found| found.modified());
    let last = read.iter().filter_map(|name| written(name).ok()).max()?;
    let torch = torch_names::models(names.iter().map(String::as_str));
    let is_newer = |name: &&str| {
        written(name).is_ok_and(|time| time.duration_since(last).is_ok_and(|since| since > LATER))
    };
    let newer: Vec<&str> = torch.into_iter().filter(is_newer).collect();
    if newer.is_empty() {
        return None;
    }
    let headline = "torch files that are newer than the safetensors are not read";
    let help = "remove the files that are out of date, or name the file to use as the model";
    Some(not_read(&newer, shown_root, headline, help))
}

fn not_read(names: &[&str], shown_root: &str, headline: &str, help: &str) -> Diagnostic {
    Diagnostic::warning(codes::NOT_READ, headline)
        .in_file(shown_root)
        .fact("not read", some_of(names))
        .help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_known_by_their_names() {
        let cases = [
            ("model.fp16.safetensors", Some("model.safetensors")),
            ("model.fp16-00001-of-00002.safetensors", Some("model-00001-of-00002.safetensors")),
            ("model-00001-of-00002.fp16.safetensors", Some("model-00001-of-00002.safetensors")),
            ("model.safetensors", None),
            ("model-00001-of-00002.safetensors", None),
        ];
        for (name, plain) in cases {
            assert_eq!(without_variant(name).as_deref(), plain, "{name}");
        }
    }

    #[test]
    fn what_is_not_the_model_s_is_left_out() {
        let left = |names: &[&'static str]| {
            let mut weights = names.to_vec();
            let warnings = leave_out(&mut weights, "./m");
            assert!(warnings.iter().all(|warning| warning.code == codes::NOT_READ));
            (weights, warnings.len())
        };
        let model = "model.safetensors";
        assert_eq!(left(&["adapter_model.safetensors", model]), (vec![model], 1));
        assert_eq!(left(&["adapter_model.safetensors"]), (vec!["adapter_model.safetensors"], 0));
        assert_eq!(left(&["model.fp16.safetensors", model]), (vec![model], 1));
        let all = [
            "adapter_model.safetensors",
            "consolidated.safetensors",
            "model.fp16.safetensors",
            model,
        ];
        assert_eq!(left(&all), (vec![model], 3));
        // A variant alone is the model.
        assert_eq!(left(&["model.fp16.safetensors"]), (vec!["model.fp16.safetensors"], 0));
        assert_eq!(left(&["a.safetensors", "b.safetensors"]).1, 0);
    }
}
