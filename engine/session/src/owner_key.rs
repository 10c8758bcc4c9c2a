//! The key by which the runs of this user recognize the unfinished outputs of each other: random, made
//! by the first of them, and readable by this user alone.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mixdown_checkpoint::journal::OwnerKey;
use mixdown_files::{Fresh, own_file, stored};

/// The key in this folder, made where there is none.
///
/// **Errors.** Where it can neither be read nor kept.
pub fn in_folder(folder: &Path) -> io::Result<OwnerKey> {
    let path = folder.join("key");
    if let Some(key) = read(&path)? {
        return Ok(key);
    }
    let key = OwnerKey::random()?;
    stored::create_private_folders(folder)?;
    let fresh = Fresh::private_beside(&path)?;
    let mut file = fresh.file();
    file.write_all(key.bytes()).and_then(|()| file.sync_all())?;
    // The first of several processes wins, and all others take its key.
    match fs::hard_link(fresh.path(), &path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match read(&path)? {
            Some(_) => drop(fresh),
            None => fresh.place(&path)?,
        },
        // Some file systems have no second names.
        Err(_) => fresh.place(&path)?,
        Ok(()) => drop(fresh),
    }
    // Other folders are known by it: it must not go in a power cut that they survive.
    sync_all_above(folder)?;
    read(&path)?.ok_or_else(|| io::Error::other("the key that was written is not there"))
}

/// Waits until a folder and those above it are stored, whoever made them. Who may not list a folder may have made
/// one in it all the same.
fn sync_all_above(folder: &Path) -> io::Result<()> {
    let folder = folder.canonicalize()?;
    for folder in folder.ancestors() {
        match stored::sync_folder(folder) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            result => result?,
        }
    }
    Ok(())
}

/// The key of a file, if it is one; another length is what a crash may have left.
fn read(path: &Path) -> io::Result<Option<OwnerKey>> {
    let file = match own_file().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    check(&file)?;
    let mut bytes = Vec::new();
    file.take(33).read_to_end(&mut bytes)?;
    Ok(<[u8; 32]>::try_from(bytes).ok().map(OwnerKey::new))
}

/// A key that somebody else made, or may read, proves nothing.
fn check(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    let refused = |text: &str| Err(io::Error::other(text.to_owned()));
    match () {
        () if !found.is_file() => refused("something else stands in the place of the key"),
        () if found.uid() != rustix::process::geteuid().as_raw() => {
            refused("the key belongs to another user")
        }
        () if found.mode() & 0o077 != 0 => refused("others may read the key or write to it"),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_run_makes_a_key_and_the_others_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("a/cache");
        let key = in_folder(&cache).unwrap();
        assert_eq!(in_folder(&cache).unwrap(), key);
        assert_ne!(in_folder(&folder.path().join("b")).unwrap(), key);
        assert_eq!(fs::metadata(cache.join("key")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
        // What a crash tore is made anew.
        fs::write(cache.join("key"), "short").unwrap();
        assert_ne!(in_folder(&cache).unwrap(), key);
    }

    #[test]
    fn merges_of_one_process_agree_on_a_key() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let keys: Vec<OwnerKey> = std::thread::scope(|scope| {
                let each = || scope.spawn(|| in_folder(folder.path()).unwrap());
                let threads: Vec<_> = (0..4).map(|_| each()).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_key_that_others_could_have_made_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, [1; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        in_folder(folder.path()).unwrap_err();
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        in_folder(folder.path()).unwrap_err();
    }
}
