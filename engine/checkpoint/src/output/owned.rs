//! Whether the hidden folder beside a target is what this user's own runs left there.
//!
//! Its name can be told from the target's, so anybody who may write beside the target, and whoever
//! made an archive or repository that was unpacked there, can put something in its place. Nothing in
//! it is followed, written through or believed before it was looked at here; what a run left is told
//! from what others prepared by the key of its journal.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};

use super::begin::{journal_path, lock_path, output_path, replaced_path};
use super::disk::Disk;
use super::trouble::{refused, refused_early};
use crate::shown::{shown, shown_path};

/// Longest journal that is read. Of 100 000 tensors it has about 12 MB.
const LONGEST_JOURNAL: u64 = 256 << 20;

/// Longest lock that is read: a number, or a journal's first line and one more.
const LONGEST_LOCK: u64 = 4096;

/// Rights of others than the owner.
const OTHERS: u32 = 0o077;

/// Checks the hidden folder itself, before anything in it is opened. What is no folder is removed
/// when it may be; a link is then removed and not what it leads to.
pub(super) fn check_folder(
    disk: &Disk,
    partial: &Path,
    force: bool,
) -> Result<(), Box<Diagnostic>> {
    let found = match fs::symlink_metadata(partial) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused_early("find an unfinished output", partial, &error)),
    };
    let odd = match (found.is_dir(), is_own(&found)) {
        (false, _) => kind(&found),
        (true, false) => "a folder of another user",
        (true, true) => return keep_from_others(partial, &found),
    };
    if !force {
        return Err(foreign(partial, odd));
    }
    disk.remove_all(partial)
        .map_err(|error| refused_early("remove what is in the place", partial, &error))
}

/// Whether the hidden folder is there, a folder and this user's.
pub(super) fn is_own_folder(partial: &Path) -> bool {
    fs::symlink_metadata(partial).is_ok_and(|found| found.is_dir() && is_own(&found))
}

/// Whether nothing was left in the hidden folder but a lock.
pub(super) fn holds_only_lock(partial: &Path) -> bool {
    let lock = lock_path(partial);
    fs::read_dir(partial)
        .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|one| one.path() == lock)))
}

/// Takes the rights of others away, which an earlier version or a loose umask gave. A file system
/// without rights keeps showing them, and then the key alone decides.
fn keep_from_others(partial: &Path, found: &Metadata) -> Result<(), Box<Diagnostic>> {
    if found.mode() & OTHERS != 0 {
        let _ = fs::set_permissions(partial, Permissions::from_mode(0o700));
    }
    Ok(())
}

/// Checks what stands in the lock's place before it is opened.
pub(super) fn check_lock(disk: &Disk, partial: &Path, force: bool) -> Result<(), Box<Diagnostic>> {
    check_file(disk, &lock_path(partial), force)
}

/// What the last process wrote into the lock, which is held now.
pub(super) fn last_words(
    partial: &Path,
    lock: &File,
    force: bool,
) -> Result<Vec<u8>, Box<Diagnostic>> {
    let path = lock_path(partial);
    let words = read_limited(lock, LONGEST_LOCK)
        .map_err(|error| refused_early("read a lock", &path, &error))?;
    // Bytes that a power cut took are zeros.
    let left =
        words.as_deref().map(|words| words.iter().filter(|&&byte| byte != 0).copied().collect());
    let text = left.map(|left: Vec<u8>| String::from_utf8_lossy(&left).into_owned());
    let is_lock = text.is_some_and(|text| text.lines().all(crate::journal::is_of_lock));
    match words {
        Some(words) if is_lock => Ok(words),
        _ if force => Ok(Vec::new()),
        _ => Err(foreign(&path, "a file that is no lock")),
    }
}

/// What another process wrote into its lock, as far as it can be read.
pub(super) fn lock_text(lock: &Path) -> String {
    String::from_utf8_lossy(&peek_at_lock(&Disk::default(), lock).unwrap_or_default()).into_owned()
}

/// The words of a lock that is not held, if it is a plain file of a lock's length.
pub(super) fn peek_at_lock(disk: &Disk, lock: &Path) -> Option<Vec<u8>> {
    let file = disk.open_to_read(lock).ok()?;
    file.metadata().ok().filter(Metadata::is_file)?;
    read_limited(&file, LONGEST_LOCK).ok().flatten()
}

/// Checks what else is in the folder, whose lock is held, and gives the journal's bytes if there is one.
pub(super) fn journal(
    disk: &Disk,
    partial: &Path,
    force: bool,
) -> Result<Option<Vec<u8>>, Box<Diagnostic>> {
    for name in ["journal.new", "aside", "sent"] {
        check_file(disk, &partial.join(name), force)?;
    }
    let output = output_path(partial);
    match fs::symlink_metadata(&output) {
        Ok(found) if !found.is_dir() => replace(disk, &output, kind(&found), force)?,
        _ => {}
    }
    let path = journal_path(partial);
    check_file(disk, &path, force)?;
    let file = match disk.open_to_read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused_early("read the journal", &path, &error)),
    };
    let bytes = read_limited(&file, LONGEST_JOURNAL)
        .map_err(|error| refused_early("read the journal", &path, &error))?;
    match bytes {
        Some(bytes) => Ok(Some(bytes)),
        None => replace(disk, &path, "a file that is no journal", force).map(|()| None),
    }
}

/// Removes what stands in the place of something that mixdown writes, or says what it is.
pub(super) fn replace(
    disk: &Disk,
    path: &Path,
    odd: &str,
    force: bool,
) -> Result<(), Box<Diagnostic>> {
    if !force {
        return Err(foreign(path, odd));
    }
    disk.remove_all(path).map_err(|error| refused("remove what is in the place", path, &error))
}

/// A folder that seems to have been moved aside, but not by this user's runs. It may be the only copy
/// of an output, so that nothing removes it.
pub(super) fn check_replaced(partial: &Path) -> Result<(), Box<Diagnostic>> {
    let replaced = replaced_path(partial);
    let Ok(found) = fs::symlink_metadata(&replaced) else { return Ok(()) };
    let odd = match found.is_dir() {
        true => "a folder that no journal of yours tells of",
        false => kind(&found),
    };
    Err(Box::new(
        headline(&replaced)
            .fact("found", odd)
            .note("an interrupted run keeps the folder that it replaces there")
            .help("move it to where it belongs, or remove it; `--force` leaves it alone, too"),
    ))
}

/// A file of mixdown's is a plain file with one name; anything else leads elsewhere.
fn check_file(disk: &Disk, path: &Path, force: bool) -> Result<(), Box<Diagnostic>> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused_early("find an unfinished output", path, &error)),
    };
    let odd = match () {
        () if !found.is_file() => kind(&found),
        () if found.nlink() > 1 => "a file with other names",
        () => return Ok(()),
    };
    replace(disk, path, odd, force)
}

/// Whether this process runs for the user to whom the file belongs.
fn is_own(found: &Metadata) -> bool {
    found.uid() == rustix::process::geteuid().as_raw()
}

fn kind(found: &Metadata) -> &'static str {
    match () {
        () if found.is_symlink() => "a link",
        () if found.is_dir() => "a folder",
        () if found.is_file() => "a file",
        () => "a pipe, socket or device",
    }
}

fn read_limited(file: &File, longest: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= longest).then_some(bytes))
}

fn headline(path: &Path) -> Diagnostic {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let headline = format!("`{}` is not what mixdown leaves of an unfinished output", shown(&name));
    Diagnostic::error(codes::FOREIGN_PARTIAL, headline).in_file(shown_path(path))
}

fn foreign(path: &Path, odd: &str) -> Box<Diagnostic> {
    Box::new(
        headline(path)
            .fact("found", odd)
            .note("somebody else put it there; nothing was followed, read from it or removed")
            .help("remove it, choose another folder with `--out`, or replace it with `--force`"),
    )
}
