//! One digest for all that a file or a folder holds, whatever format it is in.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::{open_regular, retried};
use sha2::{Digest, Sha256};

use super::{Digests, FileDigest};
use crate::index::Shard;
use crate::shown::{io_text, shown_path};
use crate::source::identity;

/// Folders within folders.
const MOST_LEVELS: usize = 16;

/// Files of a folder. Folders that hold several links to each other have more than can be counted.
const MOST_FILES: usize = 100_000;

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
    list(path, "", &mut vec![place_of(&metadata)], &mut files)
        .map_err(|(path, error)| unreadable(&path, &error))?;
    files.sort();
    let mut digest = Sha256::new();
    for (name, path) in files {
        digest.update(format!("{}  {name}\n", of(&path)?));
    }
    Ok(FileDigest(digest.finalize().into()))
}

/// Device and inode of a folder.
fn place_of(folder: &Metadata) -> (u64, u64) {
    (folder.dev(), folder.ino())
}

/// Names within the folder, and places. `above` are the folder and those that it was reached through.
fn list(
    folder: &Path,
    within: &str,
    above: &mut Vec<(u64, u64)>,
    files: &mut Vec<(String, PathBuf)>,
) -> Result<(), (PathBuf, io::Error)> {
    let failed = |error| (folder.to_owned(), error);
    let refused = |what: &str| Err(failed(io::Error::other(what.to_owned())));
    if above.len() > MOST_LEVELS {
        return refused("folders are nested too deeply");
    }
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        let metadata = retried(|| fs::metadata(&path)).map_err(|error| (path.clone(), error))?;
        let name = format!("{within}{name}");
        if !metadata.is_dir() {
            if files.len() == MOST_FILES {
                return refused(&format!("it holds more than {MOST_FILES} files"));
            }
            files.push((name, path));
            continue;
        }
        if above.contains(&place_of(&metadata)) {
            let error = io::Error::other("a link leads back to a folder that it is in");
            return Err((path, error));
        }
        above.push(place_of(&metadata));
        list(&path, &format!("{name}/"), above, files)?;
        above.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_a_circle_are_told_at_once() {
        let space = tempfile::tempdir().unwrap();
        let digests = Digests::new(space.path().join("cache"));
        // Ten links to the folder that they are in: 10^16 ways of 16 levels.
        let around = space.path().join("around");
        fs::create_dir_all(around.join("inner")).unwrap();
        for number in 0..10 {
            std::os::unix::fs::symlink("..", around.join(format!("inner/{number}"))).unwrap();
        }
        let told = content_sha256(&digests, &around).unwrap_err();
        assert!(told.headline.contains("leads back"), "{}", told.headline);
        // A link to a folder beside it is followed.
        let beside = space.path().join("beside");
        fs::create_dir_all(beside.join("a")).unwrap();
        fs::write(beside.join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink("a", beside.join("b")).unwrap();
        content_sha256(&digests, &beside).unwrap();
    }

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
