//! Folders in which a search or a sweep keeps what it goes on from. What lies there is believed, and removed,
//! only where a run of this user made the folder: a mark in it, made with the user's key, says so.

use std::fs;
use std::io;
use std::path::Path;

use mixdown_checkpoint::journal::OwnerKey;
use mixdown_checkpoint::{shown_path, stored};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::read_limited;

/// Name of the mark.
const MARK: &str = "owner";
/// Longest mark that is read.
const LONGEST: u64 = 256;

/// Makes the folder, or takes one that a run with this key made.
///
/// **Errors.** `OUTPUT_EXISTS` for a folder that somebody else made; what the system refuses.
pub fn claim(folder: &Path, key: &OwnerKey) -> Result<(), Box<Diagnostic>> {
    match is_claimed(folder, key) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Box::new(
            Diagnostic::error(codes::OUTPUT_EXISTS, "no run of yours made this folder")
                .in_file(shown_path(folder))
                .note("what it holds would be believed and removed")
                .help("remove it, or name another folder with `--out`"),
        )),
        Err(error) => {
            let headline = format!("a working folder cannot be made: {error}");
            Err(Box::new(
                Diagnostic::error(codes::WRITE_FAILED, headline).in_file(shown_path(folder)),
            ))
        }
    }
}

/// Removes a folder that was claimed, its mark last, so that what is left of it at any moment can be claimed again.
pub fn remove_claimed(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            _ if entry.file_name() == MARK => {}
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    stored::sync_folder(folder)?;
    fs::remove_dir_all(folder)
}

/// Whether there is a mark, whoever made it.
pub(crate) fn has_mark(folder: &Path) -> bool {
    fs::symlink_metadata(folder.join(MARK)).is_ok()
}

fn is_claimed(folder: &Path, key: &OwnerKey) -> io::Result<bool> {
    if fs::symlink_metadata(folder).is_err() {
        stored::create_folders(folder)?;
    }
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() {
        return Ok(false);
    }
    // Not of this very folder, whose number and path change when it is moved or restored. Who has a copy of
    // such a mark still leads nowhere else: links are refused besides.
    let expected = key.seal("a folder to go on from");
    let path = folder.join(MARK);
    if path.is_symlink() {
        return Ok(false);
    }
    match read_limited(&path, LONGEST) {
        Ok(mark) => Ok(mark == expected.as_bytes() && !holds_links(folder)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !is_empty(folder)? {
                return Ok(false);
            }
            stored::write_file(&path, expected.as_bytes())?;
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// Whether something in the folder is a link; what mixdown puts there is none.
fn holds_links(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        if entry?.file_type()?.is_symlink() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether nothing is there, but what a crash left of a mark.
fn is_empty(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        if !entry?.file_name().to_string_lossy().starts_with(".owner.") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const OURS: OwnerKey = OwnerKey::new([1; 32]);

    fn refused(folder: &Path, key: &OwnerKey) -> bool {
        claim(folder, key).is_err_and(|error| error.code == codes::OUTPUT_EXISTS)
    }

    #[test]
    fn a_folder_is_taken_again_by_who_made_it() {
        let space = tempfile::tempdir().unwrap();
        let folder = space.path().join("a/b");
        claim(&folder, &OURS).unwrap();
        fs::write(folder.join("file"), "x").unwrap();
        claim(&folder, &OURS).unwrap();
        assert!(refused(&folder, &OwnerKey::new([2; 32])));
        // What a crash left before there was a mark.
        let empty = space.path().join("empty");
        fs::create_dir(&empty).unwrap();
        fs::write(empty.join(".owner.17.tmp"), "half").unwrap();
        claim(&empty, &OURS).unwrap();
    }

    #[test]
    fn what_is_claimed_is_removed_with_all_that_it_holds() {
        let space = tempfile::tempdir().unwrap();
        let folder = space.path().join("a");
        claim(&folder, &OURS).unwrap();
        fs::create_dir(folder.join("results")).unwrap();
        fs::write(folder.join("results/one"), "x").unwrap();
        fs::write(folder.join("note"), "x").unwrap();
        remove_claimed(&folder).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn folders_of_others_and_links_are_refused() {
        let space = tempfile::tempdir().unwrap();
        let (ours, others) = (space.path().join("ours"), space.path().join("others"));
        claim(&ours, &OURS).unwrap();
        fs::create_dir(&others).unwrap();
        fs::write(others.join("lock"), "").unwrap();
        assert!(refused(&others, &OURS));
        // Ours that was moved or restored.
        fs::copy(ours.join(MARK), others.join(MARK)).unwrap();
        claim(&others, &OURS).unwrap();
        symlink("../precious", others.join("lock2")).unwrap();
        assert!(refused(&others, &OURS));
        fs::remove_file(others.join("lock2")).unwrap();
        let link = space.path().join("link");
        symlink(&ours, &link).unwrap();
        assert!(refused(&link, &OURS));
        fs::remove_file(others.join(MARK)).unwrap();
        symlink(ours.join(MARK), others.join(MARK)).unwrap();
        assert!(refused(&others, &OURS));
    }
}
