//! Files and folders that are the user's own.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Opens files of this user's own alone: what a link leads to belongs to somebody else, and a pipe in a file's
/// place is not waited for.
pub fn own_file() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.custom_flags(flags.bits().cast_signed());
    options
}

/// Rights to write of others than the owner.
const WRITE: u32 = 0o022;

/// Why a folder may hold what somebody else put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOwn {
    /// It, or the link that stands in its place, belongs to the user of this number.
    Of(u32),
    /// Others than its owner may write to it; its rights.
    Writable(u32),
}

impl fmt::Display for NotOwn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(user) => write!(f, "it belongs to the user {user}"),
            Self::Writable(rights) => {
                write!(f, "others than its owner may write to it (rights {:04o})", rights & 0o7777)
            }
        }
    }
}

/// Whether a folder that is there belongs to this user, or to the system's, and nobody else may write to it.
/// What is not there is nobody's yet.
pub fn check_own(folder: &Path) -> io::Result<Option<NotOwn>> {
    let user = rustix::process::geteuid().as_raw();
    // A link is as good as a folder to whoever made it.
    for found in [fs::symlink_metadata(folder), fs::metadata(folder)] {
        let found = match found {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if ![user, 0].contains(&found.uid()) {
            return Ok(Some(NotOwn::Of(found.uid())));
        }
        // Links have all rights everywhere, which mean nothing.
        if found.is_dir() && found.mode() & WRITE != 0 {
            return Ok(Some(NotOwn::Writable(found.mode())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_may_write_to_is_not_one_s_own() {
        let space = tempfile::tempdir().unwrap();
        let folder = space.path().join("cache");
        assert_eq!(check_own(&folder).unwrap(), None);
        fs::create_dir(&folder).unwrap();
        for (rights, is_own) in [(0o700, true), (0o755, true), (0o770, false), (0o1777, false)] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(rights)).unwrap();
            assert_eq!(check_own(&folder).unwrap().is_none(), is_own, "{rights:o}");
        }
        let link = space.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(matches!(check_own(&link).unwrap(), Some(NotOwn::Writable(_))));
    }

    #[test]
    fn a_folder_of_another_user_is_not_one_s_own() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can give a folder away");
            return;
        }
        let space = tempfile::tempdir().unwrap();
        let folder = space.path().join("cache");
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::chown(&folder, Some(12_345), None).unwrap();
        assert_eq!(check_own(&folder).unwrap(), Some(NotOwn::Of(12_345)));
        let link = space.path().join("link");
        fs::create_dir(space.path().join("own")).unwrap();
        std::os::unix::fs::symlink("own", &link).unwrap();
        assert_eq!(check_own(&link).unwrap(), None);
        std::os::unix::fs::lchown(&link, Some(12_345), None).unwrap();
        assert_eq!(check_own(&link).unwrap(), Some(NotOwn::Of(12_345)));
    }
}
