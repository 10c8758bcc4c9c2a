//! Which files of a model folder travel with its weights: tokenizer, chat template, generation
//! config, code. Everything but weights and what describes the old ones.

use std::io;
use std::path::Path;

/// Endings of files that hold weights.
const WEIGHT_ENDINGS: [&str; 10] =
    ["bin", "ckpt", "gguf", "h5", "msgpack", "onnx", "pt", "pth", "safetensors", "tflite"];

/// Names of the files in `folder` that an output takes over, sorted.
///
/// `config.json` is among them: the output gets a rewritten one. Left out are weights and their
/// indexes, the model card and the manifest of the input, hidden files, and subfolders.
pub fn side_files(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // In a hub cache the files are links, so what counts is what they lead to.
        let is_file = std::fs::metadata(entry.path()).is_ok_and(|found| found.is_file());
        // A name that is not UTF-8 belongs to no model format.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_file && is_taken_over(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a file of this name travels with a model's weights.
pub fn is_taken_over(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let is_index = lower.ends_with(".index.json");
    let ending = lower.rsplit_once('.').map_or("", |(_, ending)| ending);
    // `pytorch_model.bin.index.json` and `model.onnx_data` describe or hold weights too.
    let is_weights = WEIGHT_ENDINGS.contains(&ending) || lower.contains(".onnx_data");
    is_plain_name(name)
        && !is_index
        && !is_weights
        && lower != "readme.md"
        && name != crate::manifest::MANIFEST_NAME
}

/// Whether this is the name of a visible file in the folder itself, and no way out of it.
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.len() <= 255
        && !name.chars().any(|c| matches!(c, '/' | '\\') || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_stay_and_the_rest_travels() {
        let folder = tempfile::tempdir().unwrap();
        let taken = [
            "added_tokens.json",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "merges.txt",
            "modeling_custom.py",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer.model",
            "vocab.json",
        ];
        let left = [
            ".gitattributes",
            ".hidden.json",
            "README.md",
            "consolidated.00.pth",
            "flax_model.msgpack",
            "mixdown-manifest.json",
            "model-00001-of-00002.safetensors",
            "model.onnx",
            "model.onnx_data",
            "model.safetensors.index.json",
            "model.Q4_K.gguf",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "tf_model.h5",
            "training_args.bin",
        ];
        for name in taken.iter().chain(&left) {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(folder.path().join("onnx")).unwrap();
        std::fs::create_dir(folder.path().join(".cache")).unwrap();
        assert_eq!(side_files(folder.path()).unwrap(), taken);
    }

    #[test]
    fn links_are_followed_and_broken_ones_left() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("blob.txt"), "x").unwrap();
        let link = |from: &str, to: &str| {
            std::os::unix::fs::symlink(folder.path().join(from), folder.path().join(to)).unwrap();
        };
        link("blob.txt", "tokenizer.json");
        link("absent", "vocab.json");
        assert_eq!(side_files(folder.path()).unwrap(), ["blob.txt", "tokenizer.json"]);
    }

    #[test]
    fn names_that_leave_the_folder_are_no_plain_names() {
        for bad in ["", ".", "..", "../a", "a/b", "/a", ".a", "a\\b", "a\nb", "a\0b"] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
        assert!(is_plain_name("tokenizer.json"));
    }
}
