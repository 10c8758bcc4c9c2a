//! Opening and reading what may be anything.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;

/// Opens a file for reading if it is one; never waits for the other end of a pipe.
pub fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    // Asked first, because opening a device can have effects of its own.
    refuse_special(&retried(|| std::fs::metadata(path))?)?;
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A pipe that takes the file's place between the question and the opening does not block.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = retried(|| options.open(path))?;
    let metadata = retried(|| file.metadata())?;
    refuse_special(&metadata)?;
    Ok((file, metadata))
}

/// The bytes of a plain file of at most `longest` bytes.
///
/// **Errors.** `FileTooLarge` for a longer one, and what the system says; also where it is no file.
pub fn read_limited(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let (file, found) = open_regular(path)?;
    match found.len() <= longest {
        true => read_open(&file, found.len(), longest),
        false => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

/// The bytes of what a person named, at most `longest`: a pipe of a shell, too, but not without end.
///
/// **Errors.** `FileTooLarge` for more, and what the system says.
pub fn read_given(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let found = retried(|| file.metadata())?;
    if found.is_dir() {
        return refuse_special(&found).map(|()| Vec::new());
    }
    read_open(&file, found.len(), longest)
}

/// Reads a file of about `length` bytes to its end. Interrupted reads are tried again.
fn read_open(file: &File, length: u64, longest: u64) -> io::Result<Vec<u8>> {
    // At once, because a buffer that grows is twice as large at times.
    let mut bytes = Vec::with_capacity(length.min(longest) as usize + 1);
    // Counted while it is read, because a file may grow.
    file.take(longest.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= longest {
        true => Ok(bytes),
        false => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

/// An error that names what stands in the place of a file.
pub fn refuse_special(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        Ok(())
    } else if metadata.is_dir() {
        Err(io::Error::other("a folder stands where a file should be"))
    } else {
        Err(io::Error::other("a pipe, socket or device stands where a file should be"))
    }
}

/// Asks again where a signal came between.
pub fn retried<T>(mut ask: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match ask() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_the_limit_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_limited(&path, 5).unwrap(), b"12345");
        assert_eq!(read_given(&path, 5).unwrap(), b"12345");
        for read in [read_limited, read_given] {
            assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
            assert!(read(folder.path(), 9).is_err());
            let absent = read(&folder.path().join("absent"), 9).unwrap_err();
            assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        }
        // A device that never ends.
        let zeros = Path::new("/dev/zero");
        assert_eq!(read_given(zeros, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(read_limited(zeros, 4).is_err());
        // A pipe without a writer would be waited for.
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(read_limited(&pipe, 4).is_err());
    }

    #[test]
    fn interrupted_questions_are_asked_again() {
        let mut asked = 0;
        let answer = retried(|| {
            asked += 1;
            match asked {
                1 | 2 => Err(io::Error::from(io::ErrorKind::Interrupted)),
                _ => Ok(asked),
            }
        });
        assert_eq!(answer.unwrap(), 3);
    }
}
