//! What a person is told when the system refuses a change to an output.

use std::io;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};
use rustix::io::Errno;

use crate::shown::{bytes_text, io_text, shown_path};

/// Said wherever the work so far is kept.
const CONTINUES: &str = "what is written is kept, and the same command continues there";

/// A failed change before anything of the output is there, so nothing can be kept of it.
pub(crate) fn refused_early(action: &str, path: &Path, error: &io::Error) -> Box<Diagnostic> {
    let mut diagnostic = refused(action, path, error);
    diagnostic.notes.retain(|note| note != CONTINUES);
    diagnostic
}

/// A failed change of `path`, while doing what `action` says: `write to a shard`.
pub(crate) fn refused(action: &str, path: &Path, error: &io::Error) -> Box<Diagnostic> {
    let cause = cause(error);
    let code = match cause {
        Cause::Full | Cause::Quota => codes::DISK_FULL,
        _ => codes::WRITE_FAILED,
    };
    let headline = match cause {
        Cause::Full => "there is no space left on the disk",
        Cause::Quota => "the quota of this user on the disk is used up",
        Cause::ReadOnly => "the file system is read-only",
        Cause::Denied => "writing is not permitted here",
        Cause::Device => "the disk reported an error",
        Cause::TooLarge => {
            "the file is larger than the file system or a limit of this process allows"
        }
        Cause::TooManyFiles => "this process has too many files open",
        Cause::NameTooLong => "a name is longer than the file system allows",
        Cause::Other => "the output cannot be written",
    };
    let mut diagnostic = Diagnostic::error(code, headline)
        .in_file(shown_path(path))
        .fact("action", action)
        .fact("system", io_text(error));
    if matches!(cause, Cause::Full | Cause::Quota)
        && let Some(free) = path.parent().and_then(|folder| super::space::free_bytes(folder).ok())
    {
        diagnostic = diagnostic.fact("free", bytes_text(free));
    }
    diagnostic = match cause {
        Cause::Full | Cause::Quota => {
            diagnostic.note(CONTINUES).help("make room, then run the same command again")
        }
        Cause::ReadOnly | Cause::Denied => diagnostic
            .help("choose another folder with `--out`, or change the permissions of this one"),
        Cause::Device => {
            diagnostic.note(CONTINUES).help("check the disk, then run the same command again")
        }
        Cause::TooLarge => diagnostic
            .note("`ulimit -f` shows the limit of this process")
            .help("write smaller shards, for instance with `--shard-size 2GB`"),
        Cause::TooManyFiles => {
            diagnostic.note(CONTINUES).help("raise the limit, for instance with `ulimit -n 4096`")
        }
        Cause::NameTooLong => diagnostic
            .note("while it is written, an output has a name that is 17 characters longer")
            .help("choose a shorter name with `--out`"),
        Cause::Other => diagnostic.note(CONTINUES),
    };
    Box::new(diagnostic)
}

/// Something has the name of a place that only outputs pass through.
pub(crate) fn taken(place: &Path) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error(codes::WRITE_FAILED, "something lies where an output is to pass through")
            .in_file(shown_path(place))
            .help("remove it, and run the same command again"),
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Full,
    Quota,
    ReadOnly,
    Denied,
    Device,
    TooLarge,
    TooManyFiles,
    NameTooLong,
    Other,
}

fn cause(error: &io::Error) -> Cause {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC) => Cause::Full,
        Some(Errno::DQUOT) => Cause::Quota,
        Some(Errno::ROFS) => Cause::ReadOnly,
        Some(Errno::ACCESS | Errno::PERM) => Cause::Denied,
        Some(Errno::IO) => Cause::Device,
        Some(Errno::FBIG) => Cause::TooLarge,
        Some(Errno::MFILE | Errno::NFILE) => Cause::TooManyFiles,
        Some(Errno::NAMETOOLONG) => Cause::NameTooLong,
        Some(_) => Cause::Other,
        None if error.kind() == io::ErrorKind::StorageFull => Cause::Full,
        None => Cause::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_code_and_its_words() {
        let check = |errno: Errno, code, words: &str, help: bool| {
            let found = refused("write to a shard", Path::new("out/x"), &errno.into());
            assert_eq!(found.code, code, "{errno:?}");
            assert!(found.headline.contains(words), "{}", found.headline);
            assert_eq!(found.help.is_some(), help);
        };
        check(Errno::NOSPC, codes::DISK_FULL, "no space left", true);
        check(Errno::DQUOT, codes::DISK_FULL, "quota", true);
        check(Errno::ROFS, codes::WRITE_FAILED, "read-only", true);
        check(Errno::ACCESS, codes::WRITE_FAILED, "not permitted", true);
        check(Errno::IO, codes::WRITE_FAILED, "reported an error", true);
        check(Errno::FBIG, codes::WRITE_FAILED, "larger than", true);
        check(Errno::MFILE, codes::WRITE_FAILED, "too many files", true);
        check(Errno::NAMETOOLONG, codes::WRITE_FAILED, "longer than", true);
        check(Errno::NOTDIR, codes::WRITE_FAILED, "cannot be written", false);
    }

    #[test]
    fn what_was_never_written_is_not_said_to_be_kept() {
        let (path, error) = (Path::new("out"), Errno::NOTDIR.into());
        assert_eq!(refused("write to a shard", path, &error).notes, [CONTINUES]);
        assert_eq!(refused_early("find the output folder", path, &error).notes, [""; 0]);
    }
}
