//! One digest for all that a file or a folder holds, whatever format it is in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mixdown_diagnostics::{Diagnostic, codes};
use sha2::{Digest, Sha256};

use super::{Digests, FileDigest};
use crate::index::Shard;
use crate::shown::{io_text, shown_path};
use crate::source::{identity, open_regular};

/// Folders within folders; more are a folder that links to itself.
const MOST_LEVELS: usize = 16;

/// The digest of a file; of a folder that of the list which `sha256sum` gives of its visible files,
/// sorted by their names: digest, two spaces, name within the folder, line feed.
///
/// **Errors.** When something cannot be read.
pub fn content_sha256(digests: &Digests, path: &Path) -> Result<FileDigest, Box<Diagnostic>> {
    let unreadable = |path: &Path, error: &io::Error| {
        let headline = format!("a file cannot be read: {}", io_text(error));
        Box::new(Diagnostic::error(codes::UNREADABLE, headline).in_file(shown_path(path)))
    };
    let of = |path: &Path| {
        let (_, metadata) = open_regular(path).map_err(|error| unreadable(path, &error))?;
        let shard = Shard {
            path: path.to_owned(),
            shown: shown_path(path),
            size: metadata.len(),
            identity: identity(&metadata),
        };
        digests.sha256(&shard, &mut |_| {})
    };
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !metadata.is_dir() {
        return of(path);
    }
    let mut files = Vec::new();
    list(path, "", MOST_LEVELS, &mut files).map_err(|(path, error)| unreadable(&path, &error))?;
    files.sort();
    let mut digest = Sha256::new();
    for (name, path) in files {
        digest.update(format!("{}  {name}\n", of(&path)?));
    }
    Ok(FileDigest(digest.finalize().into()))
}

/// Names within the folder, and places.
fn list(
    folder: &Path,
    within: &str,
    levels: usize,
    files: &mut Vec<(String, PathBuf)>,
) -> Result<(), (PathBuf, io::Error)> {
    let failed = |error| (folder.to_owned(), error);
    if levels == 0 {
        return Err(failed(io::Error::other("folders are nested too deeply")));
    }
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        let metadata = fs::metadata(&path).map_err(|error| (path.clone(), error))?;
        let name = format!("{within}{name}");
        match metadata.is_dir() {
            true => list(&path, &format!("{name}/"), levels - 1, files)?,
            false => files.push((name, path)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_digest() {
        let space = tempfile::tempdir().unwrap();
        let path = |name: &str| space.path().join(name);
        fs::create_dir_all(path("encoder/inner")).unwrap();
        fs::write(path("encoder/b.bin"), "b").unwrap();
        fs::write(path("encoder/inner/a"), "a").unwrap();
        fs::write(path("encoder/.hidden"), "x").unwrap();
        let digests = Digests::new(path("cache"));
        let of = |name: &str| content_sha256(&digests, &path(name)).unwrap().to_string();
        // sha256sum b.bin inner/a | sha256sum
        let list = format!("{}  b.bin\n{}  inner/a\n", of("encoder/b.bin"), of("encoder/inner/a"));
        fs::write(path("list"), list).unwrap();
        assert_eq!(of("encoder"), of("list"));
        let before = of("encoder");
        fs::rename(path("encoder/b.bin"), path("encoder/c.bin")).unwrap();
        assert_ne!(of("encoder"), before);
        assert!(content_sha256(&digests, &path("nowhere")).is_err());
    }
}
