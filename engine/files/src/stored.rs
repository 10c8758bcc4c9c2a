//! Folders and small files that are there after a power cut, once these functions have returned.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::fresh::Fresh;

/// Makes a folder and those above it that are missing, and stores their names.
pub fn create_folders(path: &Path) -> io::Result<()> {
    let is_missing =
        |folder: &&Path| !folder.as_os_str().is_empty() && fs::symlink_metadata(folder).is_err();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    fs::create_dir_all(path)?;
    for folder in missing.into_iter().rev() {
        match sync_folder(parent(folder)) {
            // Who may not list the folder above may make one in it all the same.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            result => result?,
        }
    }
    Ok(())
}

/// Whether something has this name, a link that leads nowhere too. What cannot be asked for is taken to be there, so
/// that reading it tells why.
pub fn is_there(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) => {
            !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        }
    }
}

/// Waits until the names in a folder are stored.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Some network and FUSE file systems cannot sync a folder; they store names at once.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// Makes a folder and those above it that are missing, for this user alone: what was kept in a folder that
/// others may write to could be theirs.
pub fn create_private_folders(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Writes a file beside its place and gives it its name when all of it is stored, so that under this name
/// there is never a part of it. Makes the folders above.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = parent(path);
    create_folders(folder)?;
    let fresh = Fresh::beside(path)?;
    let mut file = fresh.file();
    file.write_all(bytes)?;
    file.sync_all()?;
    fresh.place(path)?;
    sync_folder(folder)
}

/// Whether [`write_named`] could begin to write there: makes the folders above, and a file that goes again.
pub fn try_named(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() => Ok(()),
        _ => {
            create_folders(parent(path))?;
            Fresh::beside(path).map(drop)
        }
    }
}

/// Writes to where a person says: like [`write_file`], but into a pipe or a device as it stands there.
pub fn write_named(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        true => fs::write(path, bytes),
        false => write_file(path, bytes),
    }
}

/// The folder of a path.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two containers that share a folder have the same numbers of processes.
    #[test]
    fn a_link_under_a_name_by_the_process_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("precious"), "data").unwrap();
        let foreseen = format!(".file.{}.tmp", std::process::id());
        std::os::unix::fs::symlink(at("precious"), at(&foreseen)).unwrap();
        write_file(&at("file"), b"x").unwrap();
        assert_eq!(fs::read_to_string(at("precious")).unwrap(), "data");
        assert!(at(&foreseen).is_symlink(), "what is another's stays");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        for text in ["first", "second"] {
            write_file(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        }
        fs::create_dir(folder.path().join("a/folder")).unwrap();
        assert!(write_file(&folder.path().join("a/folder"), b"x").is_err());
        assert_eq!(
            fs::read_dir(folder.path().join("a")).unwrap().count(),
            2,
            "nothing stays behind"
        );
    }
}
