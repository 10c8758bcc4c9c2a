//! The folder of a search: candidates, the chosen merge, and what the search goes on from.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use mixdown_checkpoint::journal::OwnerKey;
use mixdown_checkpoint::manifest::{MANIFEST_NAME, Manifest};
use mixdown_checkpoint::{shown_path, small, stored};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::read_limited;
use serde_json::Value;

use crate::claimed;

/// The folder of a search.
#[derive(Debug)]
pub struct State {
    root: PathBuf,
    /// Held as long as the search goes on.
    lock: Option<File>,
}

type Result<T> = std::result::Result<T, Box<Diagnostic>>;

fn failed(path: &Path, error: &io::Error) -> Box<Diagnostic> {
    let headline = format!("the search's folder cannot be written: {error}");
    Box::new(Diagnostic::error(codes::WRITE_FAILED, headline).in_file(shown_path(path)))
}

impl State {
    /// Nothing is made yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), lock: None }
    }

    fn inner(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Answers that are kept.
    pub fn answers(&self) -> PathBuf {
        self.inner().join("answers")
    }

    /// Files of generators.
    pub fn work(&self) -> PathBuf {
        self.inner().join("work")
    }

    /// The merge of a candidate.
    pub fn candidate(&self, folder: &str) -> PathBuf {
        self.root.join("candidates").join(folder)
    }

    fn merged(&self) -> PathBuf {
        self.root.join("merged")
    }

    /// The name of what a candidate's folder holds.
    fn mark(&self, folder: &str) -> PathBuf {
        self.inner().join("candidates").join(folder)
    }

    fn merged_mark(&self) -> PathBuf {
        self.inner().join("merged")
    }

    fn key(&self, identity: &str) -> PathBuf {
        self.inner().join("models").join(identity)
    }

    /// Makes the folder, or takes one that another search with this key left. Others are not touched.
    pub fn open(&mut self, key: &OwnerKey) -> Result<()> {
        let is_inner = |name: &OsStr| Some(name) == self.inner().file_name();
        let (mut holds_inner, mut holds_more) = (false, false);
        let is_readable = match fs::read_dir(&self.root) {
            Ok(entries) => {
                for entry in entries {
                    let name = entry.map_err(|error| failed(&self.root, &error))?.file_name();
                    holds_inner |= is_inner(&name);
                    holds_more |= !is_inner(&name);
                }
                true
            }
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        // A state without a mark is what a crash left at the very beginning, before anything else.
        if holds_more && holds_inner && !claimed::has_mark(&self.inner()) {
            holds_inner = false;
        }
        let is_link = |name: &str| self.root.join(name).is_symlink();
        if ["candidates", "merged"].into_iter().any(is_link) {
            holds_inner = false;
        }
        if !is_readable || (holds_more && !holds_inner) {
            return Err(Box::new(
                Diagnostic::error(codes::OUTPUT_EXISTS, "the folder holds something else")
                    .in_file(shown_path(&self.root))
                    .help("name another folder with `--out`"),
            ));
        }
        claimed::claim(&self.inner(), key)?;
        let path = self.inner().join("lock");
        let lock = File::create(&path).map_err(|error| failed(&path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let headline = "another process is searching in the same folder";
                let error = Diagnostic::error(codes::OUTPUT_BUSY, headline);
                return Err(Box::new(error.in_file(shown_path(&self.root))));
            }
            // Some network folders have no locks; the merges have their own.
            Err(TryLockError::Error(_)) => {}
        }
        self.lock = Some(lock);
        Ok(())
    }

    /// The key of the model that a merge of this identity gave.
    pub fn known_key(&self, identity: &str) -> Option<String> {
        read(&self.key(identity))
    }

    /// Keeps the key of a merge.
    pub fn remember_key(&self, identity: &str, key: &str) -> Result<()> {
        write(&self.key(identity), key)
    }

    /// Whether the candidate's folder holds the merge of this identity. A folder appears under its
    /// name only when it is complete, and its mark is there before it.
    pub fn has_candidate(&self, folder: &str, identity: &str) -> bool {
        self.candidate(folder).join(MANIFEST_NAME).is_file()
            && read(&self.mark(folder)).as_deref() == Some(identity)
    }

    /// Makes place for the merge of this identity.
    pub fn clear_candidate(&self, folder: &str, identity: &str) -> Result<()> {
        remove(&self.candidate(folder))?;
        let parent = self.root.join("candidates");
        stored::create_folders(&parent).map_err(|error| failed(&parent, &error))?;
        write(&self.mark(folder), identity)
    }

    /// Whether the merge of this identity is in its final place.
    pub fn has_merged(&self, identity: &str) -> bool {
        self.merged().join(MANIFEST_NAME).is_file()
            && read(&self.merged_mark()).as_deref() == Some(identity)
    }

    /// Puts a candidate into the final place; what was there is replaced.
    pub fn place(&self, folder: &str, identity: &str, keep: bool) -> Result<()> {
        let (from, to) = (self.candidate(folder), self.merged());
        let (new, old) = (self.inner().join("merged-new"), self.inner().join("merged-old"));
        remove(&new)?;
        remove(&old)?;
        if keep {
            link_all(&from, &new).map_err(|error| failed(&new, &error))?;
        } else {
            rename(&from, &new)?;
        }
        // Neither the old nor the new one ever has the name while a part of it is missing.
        remove_file(&self.merged_mark())?;
        sync(&self.inner())?;
        match rename(&to, &old) {
            Err(_) if fs::symlink_metadata(&to).is_err() => {}
            result => result?,
        }
        rename(&new, &to)?;
        sync(&self.root)?;
        write(&self.merged_mark(), identity)?;
        remove(&old)
    }

    /// Removes the merge of a candidate.
    pub fn remove_candidate(&self, folder: &str) -> Result<()> {
        remove(&self.candidate(folder))?;
        remove_file(&self.mark(folder))
    }

    /// Removes all candidates.
    pub fn remove_candidates(&self) -> Result<()> {
        remove(&self.root.join("candidates"))?;
        remove(&self.inner().join("candidates"))
    }
}

fn read(path: &Path) -> Option<String> {
    let text = String::from_utf8(read_limited(path, small::LONGEST).ok()?).ok()?;
    Some(text).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn write(path: &Path, text: &str) -> Result<()> {
    stored::write_file(path, format!("{text}\n").as_bytes()).map_err(|error| failed(path, &error))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| failed(from, &error))
}

fn sync(folder: &Path) -> Result<()> {
    stored::sync_folder(folder).map_err(|error| failed(folder, &error))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(folder, &error)),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, &error)),
        _ => Ok(()),
    }
}

/// The same folder once more: files are the same on the disk where that can be, else copies.
fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            link_all(&source, &target)?;
        } else if fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target)?;
            File::open(&target)?.sync_all()?;
        }
    }
    stored::sync_folder(to)
}

/// Keys of config.json that say where a model comes from, and nothing of what it computes.
const IDLE_KEYS: [&str; 2] = ["_name_or_path", "transformers_version"];

/// The digest of a merged model: of its tensors by name, type, shape and bytes, of its config, and of
/// its tokenizer and other files. Names of weight files and the model card are no part of it.
pub fn model_key(folder: &Path) -> Result<String> {
    let manifest = Manifest::read(folder)?;
    let mut lines: Vec<String> = Vec::new();
    for tensor in &manifest.tensors {
        lines.push(format!(
            "tensor {:?} {} {:?} {}",
            tensor.name, tensor.dtype, tensor.shape, tensor.blake3
        ));
    }
    for file in &manifest.files {
        match file.name.as_str() {
            "README.md" | "model.safetensors.index.json" => {}
            "config.json" => lines.push(format!("config {}", config(folder, &file.sha256))),
            name => lines.push(format!("file {name:?} {}", file.sha256)),
        }
    }
    lines.sort();
    Ok(blake3::hash(lines.join("\n").as_bytes()).to_hex().to_string())
}

/// A config without the keys that change nothing; its digest where it is no JSON.
fn config(folder: &Path, sha256: &str) -> String {
    let bytes = read_limited(&folder.join("config.json"), small::LONGEST).unwrap_or_default();
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(mut config)) => {
            config.retain(|key, _| !IDLE_KEYS.contains(&key.as_str()));
            config.sort_keys();
            Value::Object(config).to_string()
        }
        _ => sha256.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: OwnerKey = OwnerKey::new([1; 32]);

    /// Its lock would be emptied, its links followed, and what they lead to removed.
    #[test]
    fn a_folder_that_looks_like_a_search_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("out/state")).unwrap();
        fs::write(at("precious"), "data").unwrap();
        std::os::unix::fs::symlink("../../precious", at("out/state/lock")).unwrap();
        let refused = || State::new(&at("out")).open(&KEY).unwrap_err().code;
        assert_eq!(refused(), codes::OUTPUT_EXISTS);
        fs::remove_file(at("out/state/lock")).unwrap();
        std::os::unix::fs::symlink("..", at("out/candidates")).unwrap();
        assert_eq!(refused(), codes::OUTPUT_EXISTS);
        assert_eq!(fs::read_to_string(at("precious")).unwrap(), "data");
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("note"), "mine").unwrap();
        let error = State::new(folder.path()).open(&KEY).unwrap_err();
        assert_eq!(error.code, codes::OUTPUT_EXISTS);
        let inner = folder.path().join("a/b");
        let mut state = State::new(&inner);
        state.open(&KEY).unwrap();
        assert_eq!(State::new(&inner).open(&KEY).unwrap_err().code, codes::OUTPUT_BUSY);
        drop(state);
        State::new(&inner).open(&KEY).unwrap();
    }

    #[test]
    fn the_chosen_one_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(&folder.path().join("out"));
        for (name, keep) in [("0.1", true), ("0.2", false)] {
            state.clear_candidate(name, name).unwrap();
            assert!(!state.has_candidate(name, name));
            fs::create_dir_all(state.candidate(name).join("inner")).unwrap();
            fs::write(state.candidate(name).join(MANIFEST_NAME), "{}").unwrap();
            fs::write(state.candidate(name).join("inner/file"), name).unwrap();
            assert!(state.has_candidate(name, name) && !state.has_candidate(name, "other"));
            state.place(name, name, keep).unwrap();
            assert_eq!(fs::read_to_string(state.merged().join("inner/file")).unwrap(), name);
            assert_eq!(state.candidate(name).exists(), keep);
            assert!(state.has_merged(name) && !state.has_merged("other"));
        }
        state.remove_candidates().unwrap();
        assert!(!state.candidate("0.1").exists() && state.merged().exists());
    }
}
