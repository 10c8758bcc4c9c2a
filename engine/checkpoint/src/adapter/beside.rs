//! Files of weights beside an adapter: what was trained whole with it and saved apart, which is taken in, and
//! what belongs to something else.

use std::fs;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};

use super::files::WEIGHTS;
use crate::shown::some_of;
use crate::stored::is_there;

/// Files in which trainers of vision-language models save connectors and embeddings that were trained whole.
const TRAINED: [&str; 4] = [
    "non_lora_trainables.bin",
    "non_lora_trainables.safetensors",
    "non_lora_state_dict.bin",
    "non_lora_state_dict.safetensors",
];

/// Begins of the names of files in which trainers keep their own state.
const STATE: [&str; 7] =
    ["training_args", "optimizer", "scheduler", "rng_state", "scaler", "trainer_", "random_states"];

/// The files in the adapter's folder with what was trained whole.
pub(super) fn trained(folder: &Path) -> Vec<&'static str> {
    TRAINED.into_iter().filter(|name| is_there(&folder.join(name))).collect()
}

/// Says which other files of weights lie there.
pub(super) fn not_read(folder: &Path, shown_root: &str) -> Option<Diagnostic> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| holds_weights(name));
    names.sort();
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let headline = "weights beside the adapter are not read";
    Some(
        Diagnostic::warning(codes::NOT_READ, headline)
            .in_file(shown_root)
            .fact("not read", some_of(&names))
            .help("name a file of weights as a model of its own to use it"),
    )
}

/// Whether a file holds weights that are neither the adapter's nor the state of a trainer.
fn holds_weights(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let is_kind = [".safetensors", ".bin", ".pt", ".pth"].iter().any(|end| lower.ends_with(end));
    let is_own = WEIGHTS.contains(&name) || TRAINED.contains(&name);
    let is_state = STATE.iter().any(|start| lower.starts_with(start));
    is_kind && !is_own && !is_state && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_trainer_is_no_weights() {
        let kept =
            ["value_head.safetensors", "v_head.bin", "model.safetensors", "mm_projector.bin"];
        for name in kept {
            assert!(holds_weights(name), "{name}");
        }
        let others = [
            "adapter_model.safetensors",
            "non_lora_trainables.bin",
            "training_args.bin",
            "optimizer.pt",
            "rng_state_0.pth",
            "scheduler.pt",
            "tokenizer.json",
        ];
        for name in others {
            assert!(!holds_weights(name), "{name}");
        }
    }
}
