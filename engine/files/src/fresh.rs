//! Files under names of their own until they are whole.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::stored::parent;

/// How names of files end that are being written.
const ENDING: &str = ".tmp";

/// Digits of the part of a name that cannot be foreseen.
const DIGITS: usize = 16;

/// Age from which a file that was left is nobody's work any more.
const LEFT: Duration = Duration::from_secs(60 * 60);

/// Sixteen hexadecimal digits that nobody can foresee, for names: numbers of processes are the same in two
/// containers that share a folder, and whoever knows a name can put a link there.
pub fn unforeseen() -> String {
    // Keyed with random numbers of the system; each state has another key.
    format!("{:0width$x}", RandomState::new().build_hasher().finish(), width = DIGITS)
}

/// A file that is being written beside its place. It goes away unless it gets there.
#[derive(Debug)]
pub struct Fresh {
    file: File,
    path: PathBuf,
    is_placed: bool,
}

impl Fresh {
    /// A new file for this place, `.NAME.DIGITS.tmp` in the same folder, which must be there. What earlier
    /// processes left of this name is removed once nobody can be writing it any more.
    pub fn beside(place: &Path) -> io::Result<Self> {
        Self::with_rights(place, 0o666)
    }

    /// The same that its owner alone may read and write.
    pub fn private_beside(place: &Path) -> io::Result<Self> {
        Self::with_rights(place, 0o600)
    }

    fn with_rights(place: &Path, rights: u32) -> io::Result<Self> {
        const TRIES: usize = 10;
        let name = place.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = parent(place);
        remove_left(folder, name);
        let mut options = OpenOptions::new();
        // What is there is neither opened nor followed, be it a link.
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, rights);
        #[cfg(not(unix))]
        let _ = rights;
        let mut tries = 1;
        loop {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}{ENDING}", unforeseen()));
            let path = folder.join(hidden);
            match options.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => {
                    tries += 1;
                }
                result => return Ok(Self { file: result?, path, is_placed: false }),
            }
        }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, in place of what has it.
    pub fn place(mut self, place: &Path) -> io::Result<()> {
        fs::rename(&self.path, place)?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a file is what a process was writing for the name, or left of it.
pub(crate) fn is_fresh_of(file: &OsStr, name: &OsStr) -> bool {
    let rest = file.as_encoded_bytes().strip_prefix(b".");
    let rest = rest.and_then(|rest| rest.strip_prefix(name.as_encoded_bytes()));
    let digits = rest.and_then(|rest| rest.strip_prefix(b".")?.strip_suffix(ENDING.as_bytes()));
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit))
}

/// Removes what processes that were killed left of this name. What cannot be is in nobody's way.
fn remove_left(folder: &Path, name: &OsStr) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| is_fresh_of(&entry.file_name(), name)) {
        let is_old = |found: &fs::Metadata| {
            let age =
                found.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            found.is_file() && age.is_some_and(|age| age > LEFT)
        };
        if entry.metadata().is_ok_and(|found| is_old(&found)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn names_differ_and_are_no_numbers_of_processes() {
        let names: HashSet<String> = (0..1000).map(|_| unforeseen()).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() == DIGITS));
    }

    #[test]
    fn a_file_is_there_when_it_is_placed_and_gone_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("file");
        let count = || fs::read_dir(folder.path()).unwrap().count();
        let (one, other) = (Fresh::beside(&place).unwrap(), Fresh::private_beside(&place).unwrap());
        assert_ne!(one.path(), other.path());
        let rights = fs::metadata(other.path()).unwrap().permissions().mode();
        assert_eq!(rights & 0o777, 0o600);
        drop(other);
        assert_eq!(count(), 1);
        one.place(&place).unwrap();
        assert!(place.is_file());
        assert_eq!(count(), 1);
        // Where it cannot get its name, it goes, too.
        fs::create_dir_all(folder.path().join("taken/inner")).unwrap();
        let taken = folder.path().join("taken");
        assert!(Fresh::beside(&taken).unwrap().place(&taken).is_err());
        assert_eq!(count(), 2);
    }

    #[test]
    fn what_was_left_long_ago_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, is_old: bool| {
            let file = File::create(folder.path().join(name)).unwrap();
            if is_old {
                file.set_modified(SystemTime::now() - 2 * LEFT).unwrap();
            }
        };
        put(".file.0123456789abcdef.tmp", true);
        put(".file.0123456789abcdee.tmp", false);
        put(".file.4711.tmp", true);
        put(".other.0123456789abcdef.tmp", true);
        put("file", true);
        drop(Fresh::beside(&folder.path().join("file")).unwrap());
        let names = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let stay =
            [".file.0123456789abcdee.tmp", ".file.4711.tmp", ".other.0123456789abcdef.tmp", "file"];
        assert_eq!(names, stay);
    }
}
