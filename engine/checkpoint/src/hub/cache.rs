//! The hub cache's layout: `models--ORGANIZATION--NAME` with `refs/REVISION`, which holds a commit,
//! `snapshots/COMMIT/FILE`, and `blobs`, which the snapshots' links lead to.

use std::path::{Path, PathBuf};

use mixdown_files::read_limited;

use super::id::{is_commit, is_revision};
use crate::open::weights_of;

/// Longest file that names a commit.
const LONGEST_REFERENCE: u64 = 4096;

/// A model's folder in the cache.
pub(super) struct Repository {
    folder: PathBuf,
}

/// How much of a model is in the cache.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All weights are there.
    Complete(PathBuf),
    /// This is not.
    Partial(String),
    /// Nothing is.
    Absent,
}

impl Repository {
    pub fn new(cache: &Path, id: &str) -> Self {
        Self { folder: cache.join(format!("models--{}", id.replace('/', "--"))) }
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The folder of the files' contents, to which snapshots link.
    #[cfg(feature = "hub")]
    pub fn blobs(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    /// What there is of a revision.
    pub fn state(&self, revision: &str) -> State {
        let Some(snapshot) = self.commit(revision).map(|commit| self.snapshot(&commit)) else {
            return State::Absent;
        };
        match weights_of(&snapshot) {
            None => State::Absent,
            Some(missing) => match missing.as_slice() {
                [] => State::Complete(snapshot),
                [file] => State::Partial(format!("`{}`", crate::shown::shown(file))),
                files => State::Partial(format!("{} files", files.len())),
            },
        }
    }

    /// The commit that a revision stands for.
    fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text =
            read_limited(&self.folder.join("refs").join(revision), LONGEST_REFERENCE).ok()?;
        let text = String::from_utf8(text).ok()?;
        let commit = text.trim();
        // The name of a folder, and nothing that leads out of it.
        (is_revision(commit) && !commit.contains('/')).then(|| commit.to_owned())
    }

    /// Notes that a revision stands for a commit, whose files are all there.
    #[cfg(feature = "hub")]
    pub fn set_commit(&self, revision: &str, commit: &str) -> std::io::Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        crate::stored::write_file(&path, commit.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A cache with a model of one shard, laid out as the hub's clients do.
    fn cache() -> tempfile::TempDir {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--o--n");
        for below in ["refs", "blobs", &format!("snapshots/{COMMIT}")] {
            fs::create_dir_all(folder.join(below)).unwrap();
        }
        fs::write(folder.join("refs/main"), format!("{COMMIT}\n")).unwrap();
        fs::write(folder.join("snapshots").join(COMMIT).join("model.safetensors"), "x").unwrap();
        cache
    }

    #[test]
    fn a_revision_leads_to_a_snapshot() {
        let cache = cache();
        let repository = Repository::new(cache.path(), "o/n");
        let snapshot = repository.snapshot(COMMIT);
        assert_eq!(repository.state("main"), State::Complete(snapshot.clone()));
        assert_eq!(repository.state(COMMIT), State::Complete(snapshot));
        assert_eq!(repository.state("v2"), State::Absent);
        assert_eq!(Repository::new(cache.path(), "o/m").state("main"), State::Absent);
    }

    /// A damaged or hostile reference must not open a folder elsewhere.
    #[test]
    fn a_reference_cannot_lead_out_of_the_cache() {
        let cache = cache();
        let repository = Repository::new(cache.path(), "o/n");
        for text in ["", "../../..", "/etc", "a/b", "..", "\0"] {
            fs::write(repository.folder.join("refs/main"), text).unwrap();
            assert_eq!(repository.state("main"), State::Absent, "{text:?}");
        }
    }

    #[test]
    fn a_snapshot_without_all_shards_is_partial() {
        let cache = cache();
        let repository = Repository::new(cache.path(), "o/n");
        let snapshot = repository.snapshot(COMMIT);
        let index = r#"{"weight_map": {"a": "model.safetensors", "b": "b.safetensors"}}"#;
        fs::write(snapshot.join("model.safetensors.index.json"), index).unwrap();
        assert_eq!(repository.state("main"), State::Partial("`b.safetensors`".to_owned()));
        #[cfg(unix)]
        {
            // A link whose blob was removed counts as missing.
            let link = snapshot.join("b.safetensors");
            std::os::unix::fs::symlink("../../blobs/gone", link).unwrap();
            assert_eq!(repository.state("main"), State::Partial("`b.safetensors`".to_owned()));
        }
        fs::write(repository.folder.join("blobs/gone"), "x").unwrap();
        fs::write(snapshot.join("b.safetensors"), "x").unwrap();
        assert_eq!(repository.state("main"), State::Complete(snapshot));
    }
}
