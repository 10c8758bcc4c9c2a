//! A temporary folder that belongs to one test.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A temporary folder, removed when the test ends.
///
/// The program runs inside it, with its home folder and caches in `.home`.
pub struct Space {
    folder: TempDir,
}

impl Space {
    /// An empty folder.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("mixdown-test-")
            .tempdir()
            .expect("a temporary folder can be made");
        Self { folder }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// A path inside the folder.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root().join(relative)
    }

    /// Writes a file, making the folders above it.
    pub fn write(&self, relative: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(relative);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("the folder of a test's file can be made");
        }
        fs::write(&path, contents).expect("a test's file can be written");
        path
    }

    /// The bytes of a file.
    pub fn read(&self, relative: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(relative);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The text of a file.
    pub fn read_text(&self, relative: impl AsRef<Path>) -> String {
        String::from_utf8(self.read(relative)).expect("the file is text")
    }

    /// Whether a path exists.
    pub fn exists(&self, relative: impl AsRef<Path>) -> bool {
        self.path(relative).symlink_metadata().is_ok()
    }

    /// Everything in the folder except the program's home, as sorted relative paths; folders end with `/`.
    pub fn list(&self) -> Vec<String> {
        let mut found = Vec::new();
        list_into(self.root(), "", &mut found);
        found.retain(|path| !path.starts_with(".home/"));
        found.sort();
        found
    }

    /// The bytes of all files under a folder, by sorted relative path.
    pub fn files_under(&self, relative: impl AsRef<Path>) -> Vec<(String, Vec<u8>)> {
        let top = self.path(relative);
        let mut found = Vec::new();
        list_into(&top, "", &mut found);
        found.sort();
        found
            .into_iter()
            .filter(|path| !path.ends_with('/'))
            .map(|path| {
                let bytes = fs::read(top.join(&path)).expect("a listed file can be read");
                (path, bytes)
            })
            .collect()
    }
}

impl Default for Space {
    fn default() -> Self {
        Self::new()
    }
}

fn list_into(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    let entries = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{} cannot be listed: {error}", folder.display()));
    for entry in entries {
        let entry = entry.expect("a folder entry can be read");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // A link is listed as a file: following it could leave the space or go in circles.
        if entry.file_type().expect("an entry has a type").is_dir() {
            found.push(format!("{name}/"));
            list_into(&entry.path(), &format!("{name}/"), found);
        } else {
            found.push(name);
        }
    }
}

/// Copies a folder with all it holds.
pub fn copy_folder(from: &Path, to: &Path) {
    let mut entries = Vec::new();
    list_into(from, "", &mut entries);
    entries.sort();
    fs::create_dir_all(to).expect("the target folder can be made");
    for entry in entries {
        if let Some(folder) = entry.strip_suffix('/') {
            fs::create_dir_all(to.join(folder)).expect("a folder can be made");
        } else {
            fs::copy(from.join(&entry), to.join(&entry)).expect("a file can be copied");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_was_written_and_hides_the_home() {
        let space = Space::new();
        space.write("b/two.txt", "2");
        space.write("a.txt", "1");
        space.write(".home/cache", "x");
        assert_eq!(space.list(), ["a.txt", "b/", "b/two.txt"]);
        assert_eq!(space.files_under("b"), [("two.txt".to_owned(), b"2".to_vec())]);
    }

    #[test]
    fn the_folder_goes_away() {
        let space = Space::new();
        let root = space.root().to_owned();
        space.write("file", "x");
        drop(space);
        assert!(!root.exists());
    }
}
