//! Which files of a model folder travel with its weights: tokenizer, chat template, generation
//! config, code. Everything but weights and what describes the old ones.

use std::io;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::{open_regular, retried};

use crate::shown::{io_text, shown, shown_path, some_of};
use crate::small::{self, is_absent};

/// Endings of files that hold weights.
const WEIGHT_ENDINGS: [&str; 11] = [
    "bin",
    "ckpt",
    "distcp",
    "gguf",
    "h5",
    "msgpack",
    "onnx",
    "pt",
    "pth",
    "safetensors",
    "tflite",
];

/// Files that say how the weights of the input were packed, which those of the output are not: of
/// ModelOpt, GPTQ and AWQ.
const PACKING_NOTES: [&str; 3] =
    ["hf_quant_config.json", "quantize_config.json", "quant_config.json"];

/// What DeepSpeed puts beside its states: the name of the last step, and the program that joins them.
const OF_ZERO: [&str; 2] = ["latest", "zero_to_fp32.py"];

/// What names the parts of a model of sentence-transformers.
const MODULES: &str = "modules.json";

/// The folder of chat templates beside the first one, of which transformers loads those that end in `.jinja`.
const TEMPLATES: &str = "additional_chat_templates";

/// Files that are called like weights and hold none of the model's: the voices of Qwen2.5-Omni.
const NO_WEIGHTS: [&str; 1] = ["spk_dict.pt"];

/// What lies beside the weights of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideFiles {
    /// Names of the files that an output takes over, sorted.
    pub names: Vec<String>,
    /// Names, as they are shown, of files that it leaves for their names alone, sorted.
    pub odd: Vec<String>,
}

impl SideFiles {
    /// Says which files of `folder` are left for their names, if any are.
    pub fn warning(&self, folder: &Path) -> Option<Diagnostic> {
        let headline = match self.odd.as_slice() {
            [] => return None,
            [name] => format!("`{name}` lies beside the weights and is not copied for its name"),
            names => {
                format!(
                    "{} files lie beside the weights and are not copied for their names",
                    names.len()
                )
            }
        };
        let names: Vec<&str> = self.odd.iter().map(String::as_str).collect();
        let diagnostic = Diagnostic::warning(codes::ODD_NAME, headline).in_file(shown_path(folder));
        Some(
            diagnostic
                .fact("left", some_of(&names))
                .note("a name has backslashes or control characters, or is not UTF-8")
                .help("rename what belongs to the model"),
        )
    }
}

/// The files in `folder` that an output takes over.
///
/// `config.json` is among them: the output gets a rewritten one. Left out are weights and their
/// indexes, the model card and the manifest of the input, hidden files, and subfolders but that of further chat
/// templates.
///
/// **Errors.** What the folder lists was promised: an entry that leads nowhere, cannot be opened, or
/// is a pipe, a socket or a device is named, all of them at once.
pub fn side_files(folder: &Path) -> Result<SideFiles, Box<Diagnostic>> {
    let unlisted = |error: io::Error| {
        let headline = format!("the folder cannot be listed: {}", io_text(&error));
        Box::new(Diagnostic::error(codes::UNREADABLE, headline).in_file(shown_path(folder)))
    };
    let (mut found, mut lost) = (SideFiles::default(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(unlisted)? {
        let entry = entry.map_err(unlisted)?;
        let name = match entry.file_name().into_string() {
            Ok(name) if is_plain_name(&name) || name.starts_with('.') => name,
            odd => {
                let odd = odd.unwrap_or_else(|odd| odd.to_string_lossy().into_owned());
                if !odd.starts_with('.')
                    && std::fs::metadata(entry.path()).is_ok_and(|it| it.is_file())
                {
                    found.odd.push(shown(&odd).into_owned());
                }
                continue;
            }
        };
        if !is_taken_over(&name) {
            continue;
        }
        // In a hub cache the files are links, so what counts is what they lead to.
        match retried(|| std::fs::metadata(entry.path())) {
            Ok(there) if there.is_file() => match retried(|| open_regular(&entry.path())) {
                Ok(_) => found.names.push(name),
                Err(error) => lost.push((name, io_text(&error))),
            },
            Ok(there) if there.is_dir() && name == TEMPLATES => {
                further_templates(&entry.path(), &mut found, &mut lost);
            }
            Ok(there) if there.is_dir() => {}
            Ok(_) => lost.push((name, "a pipe, socket or device".to_owned())),
            Err(error) => lost.push((name, io_text(&error))),
        }
    }
    if !lost.is_empty() {
        lost.sort();
        return Err(Box::new(unreadable(folder, &lost)));
    }
    found.names.sort();
    found.odd.sort();
    Ok(found)
}

/// Whether this is the name, within a model's folder, of a chat template beside the first one.
pub fn is_further_template(name: &str) -> bool {
    let file = name.strip_prefix(TEMPLATES).and_then(|rest| rest.strip_prefix('/'));
    file.is_some_and(|file| is_plain_name(file) && file.ends_with(".jinja"))
}

/// Adds the further chat templates of a model.
fn further_templates(folder: &Path, found: &mut SideFiles, lost: &mut Vec<(String, String)>) {
    let mut files = Vec::new();
    let listed = std::fs::read_dir(folder).and_then(|mut entries| {
        entries.try_for_each(|entry| entry.map(|entry| files.push(entry.file_name())))
    });
    if let Err(error) = listed {
        return lost.push((TEMPLATES.to_owned(), io_text(&error)));
    }
    for file in files {
        let path = folder.join(&file);
        let name = format!("{TEMPLATES}/{}", file.to_string_lossy());
        if !file.as_encoded_bytes().ends_with(b".jinja") || name.contains("/.") {
            continue;
        }
        match retried(|| open_regular(&path)) {
            Err(error) => lost.push((name, io_text(&error))),
            Ok(_) if file.to_str().is_some() && is_further_template(&name) => {
                found.names.push(name);
            }
            Ok(_) => found.odd.push(shown(&name).into_owned()),
        }
    }
}

fn unreadable(folder: &Path, lost: &[(String, String)]) -> Diagnostic {
    let headline = match lost {
        [(name, _)] => format!("`{}` lies beside the weights and cannot be read", shown(name)),
        _ => format!("{} files lie beside the weights and cannot be read", lost.len()),
    };
    let mut diagnostic = Diagnostic::error(codes::UNREADABLE, headline).in_file(shown_path(folder));
    for (name, why) in lost {
        diagnostic = diagnostic.fact(shown(name).to_string(), why.clone());
    }
    let links = lost.iter().any(|(name, _)| folder.join(name).is_symlink());
    diagnostic.help(match links {
        true => "fetch the files that the links lead to, or remove the links",
        false => "make them readable, or remove them from the folder",
    })
}

/// Whether a file of this name travels with a model's weights.
pub fn is_taken_over(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let is_index = lower.ends_with(".index.json") || PACKING_NOTES.contains(&lower.as_str());
    let ending = lower.rsplit_once('.').map_or("", |(_, ending)| ending);
    // `pytorch_model.bin.index.json` and `model.onnx_data` describe or hold weights too.
    let is_weights = (WEIGHT_ENDINGS.contains(&ending) || lower.contains(".onnx_data"))
        && !NO_WEIGHTS.contains(&lower.as_str());
    is_plain_name(name)
        && !is_index
        && !is_weights
        && lower != "readme.md"
        && !OF_ZERO.contains(&lower.as_str())
        // Programs that find it beside weights look for an adapter.
        && lower != "adapter_config.json"
        && name != crate::manifest::MANIFEST_NAME
}

/// Whether this is the name of a visible file in the folder itself or right in a folder within it.
pub fn is_plain_path(name: &str) -> bool {
    match name.split_once('/') {
        Some((folder, file)) => is_plain_name(folder) && is_plain_name(file),
        None => is_plain_name(name),
    }
}

/// A folder within a model's that its `modules.json` names, as sentence-transformers writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFolder {
    /// The folder's name.
    pub name: String,
    /// Its files, sorted.
    pub files: Vec<String>,
    /// Whether some of them hold weights.
    pub holds_weights: bool,
}

/// The folders within a model's that its `modules.json` names: pooling, and dense layers with weights of
/// their own. None where there is no such file.
///
/// **Errors.** A `modules.json` that cannot be understood; what is named or lies in the folders and cannot be read.
pub fn module_folders(folder: &Path) -> Result<Vec<ModuleFolder>, Box<Diagnostic>> {
    let path = folder.join(MODULES);
    let broken = |what: String| {
        let headline = format!("`{MODULES}` cannot be followed: {what}");
        Box::new(Diagnostic::error(codes::MODULES_BROKEN, headline).in_file(shown_path(&path)))
    };
    let Some(text) = small::bytes_if_there(&path, &shown_path(&path))? else {
        return Ok(Vec::new());
    };
    let list: Vec<serde_json::Value> =
        serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    let mut found: Vec<ModuleFolder> = Vec::new();
    for module in list {
        let name = module.get("path").and_then(serde_json::Value::as_str).unwrap_or_default();
        // The first module is the model itself, in the folder or in one that is opened as a model.
        if name.is_empty() || found.iter().any(|known| known.name == name) {
            continue;
        }
        if !is_plain_name(name) {
            return Err(broken(format!("`{}` is no folder in it", shown(name))));
        }
        let place = folder.join(name);
        let unreadable =
            |error: &io::Error| broken(format!("`{}`: {}", shown(name), io_text(error)));
        let entries = match std::fs::read_dir(&place) {
            Ok(entries) => entries,
            // A normalization has nothing to store, and its folder is lost where empty ones are.
            Err(error) if is_absent(&place, &error) => continue,
            Err(error) => return Err(unreadable(&error)),
        };
        let mut own =
            ModuleFolder { name: name.to_owned(), files: Vec::new(), holds_weights: false };
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(&error))?;
            let file = entry.file_name().to_string_lossy().into_owned();
            if !is_plain_name(&file) || file.eq_ignore_ascii_case("readme.md") {
                continue;
            }
            let lost = |error: &io::Error| {
                broken(format!("`{}/{}`: {}", shown(name), shown(&file), io_text(error)))
            };
            let there =
                retried(|| std::fs::metadata(entry.path())).map_err(|error| lost(&error))?;
            if there.is_file() {
                retried(|| open_regular(&entry.path())).map_err(|error| lost(&error))?;
                let ending = file.rsplit_once('.').map_or("", |(_, ending)| ending);
                own.holds_weights |= WEIGHT_ENDINGS.contains(&ending);
                own.files.push(file);
            }
        }
        own.files.sort();
        found.push(own);
    }
    Ok(found)
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
            "spk_dict.pt",
            "tokenizer.json",
            "tokenizer.model",
            "vocab.json",
        ];
        let left = [
            ".gitattributes",
            ".hidden.json",
            "README.md",
            "adapter_config.json",
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
        let found = side_files(folder.path()).unwrap();
        assert_eq!(found.names, taken);
        assert_eq!((found.odd.len(), found.warning(folder.path())), (0, None));
    }

    #[test]
    fn links_are_followed_and_what_leads_nowhere_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("blob.txt"), "x").unwrap();
        std::fs::create_dir(folder.path().join("elsewhere")).unwrap();
        let link = |from: &str, to: &str| {
            std::os::unix::fs::symlink(folder.path().join(from), folder.path().join(to)).unwrap();
        };
        link("blob.txt", "tokenizer.json");
        link("elsewhere", "1_Pooling");
        // Hidden files and weights are not taken over; others say what is wrong with those.
        link("absent", ".hidden");
        link("absent", "model.safetensors");
        assert_eq!(side_files(folder.path()).unwrap().names, ["blob.txt", "tokenizer.json"]);

        link("absent", "vocab.json");
        link("merges.txt", "merges.txt");
        let pipe = folder.path().join("generation_config.json");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let told = side_files(folder.path()).unwrap_err();
        assert_eq!(told.code, codes::UNREADABLE);
        let text = format!("{told:?}");
        for name in ["vocab.json", "merges.txt", "generation_config.json"] {
            assert!(text.contains(name), "{name}: {text}");
        }
        assert!(!text.contains("blob.txt"), "{text}");
    }

    #[test]
    fn further_chat_templates_travel_with_the_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join(TEMPLATES);
        std::fs::create_dir_all(inner.join("deeper")).unwrap();
        for name in ["tool_use.jinja", "rag.jinja", ".hidden.jinja", "notes.txt"] {
            std::fs::write(inner.join(name), "x").unwrap();
        }
        std::fs::write(folder.path().join("tokenizer.json"), "x").unwrap();
        let found = side_files(folder.path()).unwrap();
        let further = ["rag.jinja", "tool_use.jinja"].map(|name| format!("{TEMPLATES}/{name}"));
        assert_eq!(found.names, [&further[0], &further[1], "tokenizer.json"]);
        assert!(found.odd.is_empty());
        // What cannot be read is told here, too.
        std::os::unix::fs::symlink("absent", inner.join("gone.jinja")).unwrap();
        let told = format!("{:?}", side_files(folder.path()).unwrap_err());
        assert!(told.contains("gone.jinja"), "{told}");
    }

    #[test]
    fn names_that_are_not_taken_over_are_told() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let latin = std::ffi::OsStr::from_bytes(b"vocab-\xe9.txt");
        std::fs::write(folder.path().join(latin), "x").unwrap();
        for name in ["a\\b.json", "line\nbreak.json", "tokenizer.json", ".hidden\n"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(folder.path().join("a\\folder")).unwrap();
        let found = side_files(folder.path()).unwrap();
        assert_eq!(found.names, ["tokenizer.json"]);
        assert_eq!(found.odd, ["a\\b.json", "line\\nbreak.json", "vocab-\u{fffd}.txt"]);
        let told = found.warning(folder.path()).unwrap();
        assert_eq!(told.code, codes::ODD_NAME);
        assert!(!told.is_error());
    }

    #[test]
    fn names_that_leave_the_folder_are_no_plain_names() {
        for bad in ["", ".", "..", "../a", "a/b", "/a", ".a", "a\\b", "a\nb", "a\0b"] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
        assert!(is_plain_name("tokenizer.json"));
    }
}
