//! Whether the output fits on its disk, asked before anything is written.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};

use crate::shown::{bytes_text, shown_path};

/// For manifest, index, journal and card, which are far smaller.
const SLACK_BYTES: u64 = 1 << 20;

/// Bytes that this user may still write to the file system of `folder`.
pub(crate) fn free_bytes(folder: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Bytes of disk that the files right in `folder` take, and those of its folders.
pub(crate) fn occupied_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, found)| match found.is_dir() {
            true => occupied_bytes(&path),
            // A sparse file takes what was written, not what its length says.
            false => found.blocks().saturating_mul(512),
        })
        .fold(0, u64::saturating_add)
}

/// Fails with `DISK_FULL` when `needed` bytes do not fit beside what is there. `reusable` bytes are
/// taken already by what will be overwritten or removed.
pub(crate) fn check(
    folder: &Path,
    target: &Path,
    needed: u64,
    reusable: u64,
) -> Result<(), Box<Diagnostic>> {
    // A file system that does not tell is given the benefit of the doubt: writing will tell.
    let Ok(free) = free_bytes(folder) else { return Ok(()) };
    let needed = needed.saturating_add(SLACK_BYTES);
    if needed <= free.saturating_add(reusable) {
        return Ok(());
    }
    let mut diagnostic = Diagnostic::error(codes::DISK_FULL, "the output does not fit on its disk")
        .in_file(shown_path(target))
        .fact("needed", bytes_text(needed))
        .fact("free", bytes_text(free));
    if reusable > 0 {
        diagnostic =
            diagnostic.fact("written", format!("{}, from an earlier run", bytes_text(reusable)));
    }
    let missing = needed - free - reusable;
    Err(Box::new(diagnostic.note("nothing was written").help(format!(
        "make room for {} more, or choose a folder on another disk with `--out`",
        bytes_text(missing)
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let free = free_bytes(folder.path()).unwrap();
        let found = check(folder.path(), Path::new("out"), free.saturating_mul(2), 0).unwrap_err();
        assert_eq!(found.code, codes::DISK_FULL);
        assert_eq!(found.facts.len(), 2);
        check(folder.path(), Path::new("out"), free / 2, 0).unwrap();
        check(folder.path(), Path::new("out"), free.saturating_mul(2), free.saturating_mul(2))
            .unwrap();
        let huge = check(folder.path(), Path::new("out"), u64::MAX, 1).unwrap_err();
        assert_eq!(huge.facts.len(), 3);
    }

    #[test]
    fn sparse_files_count_by_what_they_take() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a");
        fs::create_dir(&inner).unwrap();
        fs::File::create(inner.join("sparse")).unwrap().set_len(1 << 30).unwrap();
        fs::write(inner.join("dense"), vec![1; 1 << 20]).unwrap();
        // Delayed allocation may count blocks only after a sync.
        fs::File::open(inner.join("dense")).unwrap().sync_all().unwrap();
        let found = occupied_bytes(folder.path());
        assert!((1 << 20..1 << 24).contains(&found), "{found}");
    }
}
