//! What a run changed of the file system, in order, as the preloaded library noted it: `shim.c` says how an
//! entry is laid out.

use std::path::PathBuf;

/// A change of the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A file was made, with the permissions of its mode; it has no path where it never had a name.
    Made { path: Option<PathBuf>, inode: u64, mode: u32 },
    /// A folder was made.
    Folder { path: PathBuf, inode: u64, mode: u32 },
    /// Bytes of a file.
    Bytes { inode: u64, at: u64, bytes: Vec<u8> },
    /// A file got this length.
    Length { inode: u64, length: u64 },
    /// What a file holds, or which names a folder has, was stored.
    Stored { inode: u64 },
    /// A name became another.
    Renamed { from: PathBuf, to: PathBuf },
    /// Two names changed places.
    Swapped { one: PathBuf, other: PathBuf },
    /// A file got one more name.
    Linked { from: PathBuf, to: PathBuf },
    /// A link was made.
    Pointed { target: PathBuf, path: PathBuf },
    /// A name went away.
    Removed { path: PathBuf },
}

/// Bytes of an entry's head.
const HEAD: usize = 40;

/// The changes of a tape; none where some may have escaped it.
///
/// **Panics.** When the tape ends within an entry or holds what the library does not write.
pub fn read(tape: &[u8]) -> Option<Vec<Change>> {
    let mut is_complete = false;
    let mut changes = Vec::new();
    let mut rest = tape;
    while !rest.is_empty() {
        let (head, after) = rest.split_at(HEAD);
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let long =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (first, after) = after.split_at(word(4) as usize);
        let (second, after) = after.split_at(word(8) as usize);
        let (bytes, after) = after.split_at(long(32) as usize);
        let (mode, inode, at) = (word(12), long(16), long(24));
        changes.push(match word(0) {
            1 => Change::Made { path: (!first.is_empty()).then(|| path(first)), inode, mode },
            2 => Change::Folder { path: path(first), inode, mode },
            3 => Change::Bytes { inode, at, bytes: bytes.to_vec() },
            4 => Change::Length { inode, length: at },
            5 => Change::Stored { inode },
            6 => Change::Renamed { from: path(first), to: path(second) },
            7 => Change::Swapped { one: path(first), other: path(second) },
            8 => Change::Linked { from: path(first), to: path(second) },
            9 => Change::Pointed { target: path(first), path: path(second) },
            10 => Change::Removed { path: path(first) },
            11 => {
                is_complete = true;
                rest = after;
                continue;
            }
            other => panic!("an entry of kind {other}"),
        });
        rest = after;
    }
    is_complete.then_some(changes)
}

fn path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}
