//! The record of a merge, beside its output: from what, by which recipe, and the digest of every part.
//! It holds no times, no thread counts and no paths of a machine: the same recipe gives the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::shown::shown_path;
use crate::small;
use crate::tensor_digest::TensorDigest;

/// Name of the manifest in an output folder.
pub const MANIFEST_NAME: &str = "mixdown-manifest.json";

/// Version of the format.
pub const MANIFEST_VERSION: u32 = 1;

/// The record of a merge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "mixdown manifest")]
pub struct Manifest {
    /// Version of the manifest's format.
    pub manifest: u32,
    /// Version of mixdown that made the output.
    pub mixdown: String,
    /// The recipe.
    pub recipe: RecipeRecord,
    /// Digest of the plan.
    pub plan: String,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Device kind that computed: `cpu`.
    pub backend: String,
    /// The input models, in the plan's order.
    pub inputs: Vec<InputRecord>,
    /// The tensors of the output, in its order.
    pub tensors: Vec<TensorRecord>,
    /// All other files of the output but the manifest itself, by name.
    pub files: Vec<FileRecord>,
    /// The headers of weight files that say more of the model than which tensors they hold, as those of GGUF
    /// do: so many bytes from the file's beginning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FileRecord>,
    /// Input tensors that are not in the output.
    pub dropped: Vec<DroppedRecord>,
    /// What the merge warned about, one sentence each.
    pub warnings: Vec<String>,
}

/// The recipe of a merge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecipeRecord {
    /// Its text, unchanged.
    pub text: String,
    /// SHA-256 of the text.
    pub sha256: String,
    /// Overrides from the command line, in order: `lambda=0.5`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
}

impl RecipeRecord {
    /// The record of this text with these overrides.
    pub fn new(text: impl Into<String>, set: Vec<String>) -> Self {
        let text = text.into();
        let sha256 = sha256_hex(text.as_bytes());
        Self { text, sha256, set }
    }
}

/// One input model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputRecord {
    /// Its name in the recipe.
    pub name: String,
    /// What the recipe refers to: a hub id, or the path as written there.
    pub reference: String,
    /// The commit that a hub id stood for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Digest of names, types, shapes and places of its tensors.
    pub headers: String,
    /// Its weight files.
    pub files: Vec<InputFile>,
}

/// A weight file of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Name within the model.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256 of its content, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A tensor of the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TensorRecord {
    /// Full name.
    pub name: String,
    /// Element type as in the file's header: `BF16`.
    pub dtype: String,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// File that holds it.
    pub shard: String,
    /// BLAKE3 of its bytes.
    pub blake3: TensorDigest,
    /// The method that made it, or `keep`.
    pub method: String,
    /// The rule, slice or module that decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// What a method over matrices made of it: `optimized`, `averaged` with others that are no matrices, or
    /// `kept` as in the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub treatment: Option<String>,
}

/// A file of the output that holds no tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Name.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: String,
}

/// An input tensor that is not in the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DroppedRecord {
    /// The input's name in the recipe.
    pub input: String,
    /// The tensor.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// All that a manifest says and the output folder does not know by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeRecord {
    /// Version of mixdown.
    pub mixdown: String,
    /// The recipe.
    pub recipe: RecipeRecord,
    /// Digest of the plan.
    pub plan: String,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Device kind that computed: `cpu`.
    pub backend: String,
    /// The input models, in the plan's order.
    pub inputs: Vec<InputRecord>,
    /// For each output tensor: the method and the rule that made it.
    pub origins: Vec<OriginRecord>,
    /// Input tensors that are not in the output.
    pub dropped: Vec<DroppedRecord>,
    /// What the merge warned about.
    pub warnings: Vec<String>,
}

/// What made a tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginRecord {
    /// The method, or `keep`.
    pub method: String,
    /// The rule, slice or module that decided.
    pub rule: String,
    /// What a method over matrices made of it.
    pub treatment: Option<String>,
}

impl Manifest {
    /// The manifest's text.
    pub fn to_json(&self) -> String {
        let value = serde_json::to_value(self).expect("a manifest has only text keys");
        format!("{value:#}\n")
    }

    /// Reads the manifest of an output folder.
    ///
    /// **Errors.** `MANIFEST_BROKEN` when there is none, when it is not what this version writes, or
    /// when its parts contradict each other.
    pub fn read(folder: &Path) -> Result<Self, Box<Diagnostic>> {
        let path = folder.join(MANIFEST_NAME);
        let shown = shown_path(&path);
        let text = match small::bytes_if_there(&path, &shown)? {
            Some(bytes) => bytes,
            None => {
                return Err(Box::new(
                    Diagnostic::error(codes::MANIFEST_BROKEN, "the folder has no manifest")
                        .in_file(shown)
                        .note("mixdown writes one into every output; other tools do not"),
                ));
            }
        };
        Self::parse(&text).map_err(|problem| {
            Box::new(
                Diagnostic::error(codes::MANIFEST_BROKEN, problem.headline())
                    .in_file(shown)
                    .note("without its manifest an output cannot be proven")
                    .help(
                        "merge again, or fetch the manifest again from where the model came from",
                    ),
            )
        })
    }

    /// Reads a manifest's text.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestProblem> {
        let value: Value = serde_json::from_slice(text)?;
        match value.get("manifest").map(Value::as_u64) {
            Some(Some(version)) if version == u64::from(MANIFEST_VERSION) => {}
            Some(Some(version)) => return Err(ManifestProblem::Version(version)),
            _ => return Err(ManifestProblem::NoVersion),
        }
        let manifest: Self = serde_json::from_value(value)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// What serde cannot see: names that leave the folder, and names that occur twice.
    fn check(&self) -> Result<(), ManifestProblem> {
        let mut tensors = BTreeMap::new();
        for tensor in &self.tensors {
            if !crate::side_files::is_plain_name(&tensor.shard) {
                return Err(ManifestProblem::Name(tensor.shard.clone()));
            }
            if tensors.insert(&tensor.name, ()).is_some() {
                return Err(ManifestProblem::Twice(tensor.name.clone()));
            }
        }
        for header in &self.headers {
            if !self.tensors.iter().any(|tensor| tensor.shard == header.name) {
                return Err(ManifestProblem::Name(header.name.clone()));
            }
        }
        let mut files = BTreeMap::new();
        for file in &self.files {
            if !crate::side_files::is_plain_path(&file.name) {
                return Err(ManifestProblem::Name(file.name.clone()));
            }
            if files.insert(&file.name, ()).is_some() {
                return Err(ManifestProblem::Twice(file.name.clone()));
            }
        }
        Ok(())
    }
}

/// Why a text is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestProblem {
    /// It is not JSON, or lacks parts.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It does not say which version it is of.
    #[error("it has no `manifest` version")]
    NoVersion,
    /// It is of another version.
    #[error("it is of version {0}, and this mixdown reads version {MANIFEST_VERSION}")]
    Version(u64),
    /// A name that is not one of a file in the folder.
    #[error("`{}` is no name of a file in the folder", .0.escape_debug())]
    Name(String),
    /// A name that occurs twice.
    #[error("`{}` occurs twice", .0.escape_debug())]
    Twice(String),
}

impl ManifestProblem {
    fn headline(&self) -> String {
        format!("the manifest cannot be understood: {self}")
    }
}

/// SHA-256 of these bytes, in hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal digits of these bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            manifest: MANIFEST_VERSION,
            mixdown: "0.1.0".into(),
            recipe: RecipeRecord::new("merge_method: linear\n", vec!["lambda=0.5".into()]),
            plan: "00ff".into(),
            seed: 42,
            backend: "cpu".into(),
            inputs: vec![InputRecord {
                name: "base".into(),
                reference: "org/base".into(),
                revision: None,
                headers: "11".into(),
                files: vec![InputFile { name: "model.safetensors".into(), bytes: 9, sha256: None }],
            }],
            tensors: vec![TensorRecord {
                name: "a.weight".into(),
                dtype: "BF16".into(),
                shape: vec![2, 3],
                shard: "model.safetensors".into(),
                blake3: TensorDigest::of(b"x"),
                method: "linear".into(),
                rule: String::new(),
                treatment: None,
            }],
            files: vec![FileRecord {
                name: "config.json".into(),
                bytes: 2,
                sha256: sha256_hex(b"{}"),
            }],
            headers: Vec::new(),
            dropped: vec![DroppedRecord {
                input: "base".into(),
                name: "b".into(),
                reason: "no rule".into(),
            }],
            warnings: vec![],
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let manifest = sample();
        let text = manifest.to_json();
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest);
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap().to_json(), text);
        assert!(text.starts_with("{\n  \"manifest\": 1,\n  \"mixdown\": \"0.1.0\","));
    }

    #[test]
    fn sha256_is_the_standard_one() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), expected);
    }

    #[test]
    fn broken_manifests_say_why() {
        let text = sample().to_json();
        let check = |text: &str, expected: &str| {
            let problem = Manifest::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        };
        check(&text[..text.len() / 2], "EOF");
        check("[]", "no `manifest` version");
        check("{\"manifest\": 2}", "version 2");
        check(&text.replace("\"BF16\"", "7"), "invalid type");
        check(&text.replace("\"shard\": \"model", "\"shard\": \"../model"), "no name of a file");
        check(&text.replace("\"config.json\"", "\"/etc/passwd\""), "no name of a file");
        check(&text.replace("\"shape\"", "\"form\""), "form");
        let mut twice = sample();
        twice.tensors.push(twice.tensors[0].clone());
        check(&twice.to_json(), "occurs twice");
        let digest = TensorDigest::of(b"x").to_string();
        check(&text.replace(&digest, &digest[1..]), "not a digest");
    }

    #[test]
    fn a_folder_without_manifest_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let found = Manifest::read(folder.path()).unwrap_err();
        assert_eq!(found.code, codes::MANIFEST_BROKEN);
        std::fs::write(folder.path().join(MANIFEST_NAME), "{").unwrap();
        let found = Manifest::read(folder.path()).unwrap_err();
        assert_eq!(found.code, codes::MANIFEST_BROKEN);
        assert!(found.headline.contains("cannot be understood"));
    }

    /// A merge or a proof must not wait for the other end of a pipe.
    #[test]
    fn a_pipe_for_a_manifest_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(MANIFEST_NAME);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap_err().code, codes::UNREADABLE);
    }
}
