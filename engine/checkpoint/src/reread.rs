//! Hashes byte ranges of files on several threads: to prove an output, or to trust an unfinished one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mixdown_files::open_regular;

use crate::hub::far;
use crate::source::{ByteSource, ReadError};
use crate::tensor_digest::{PieceHash, Pieces, TensorDigest, TensorHasher};

/// What one thread takes at a time. Large enough that finding the next piece costs nothing, small
/// enough that one embedding keeps all threads busy.
const PIECE_BYTES: u64 = 4 << 20;

/// Bytes held by each thread.
const BUFFER_BYTES: usize = 256 << 10;

/// A stretch of a file.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    /// The file.
    pub path: PathBuf,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
}

/// The digest of each stretch, or why it could not be read.
///
/// `progress` is told the bytes of each piece as it is done, from any thread; when it returns false
/// the remaining work is left and `None` is returned.
pub(crate) fn digests(
    stretches: &[Stretch],
    threads: usize,
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> Option<Vec<io::Result<TensorDigest>>> {
    let cuts: Vec<Pieces> =
        stretches.iter().map(|stretch| Pieces::new(stretch.bytes, PIECE_BYTES)).collect();
    let ends: Vec<usize> = cuts
        .iter()
        .scan(0, |end, cut| {
            *end += cut.count();
            Some(*end)
        })
        .collect();
    let states: Vec<Mutex<io::Result<TensorHasher>>> =
        cuts.iter().map(|&cut| Mutex::new(Ok(TensorHasher::new(cut)))).collect();
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let work = || {
        let mut reader = Reader { open: None, buffer: vec![0; BUFFER_BYTES] };
        while !stopped.load(Ordering::Relaxed) {
            let unit = next.fetch_add(1, Ordering::Relaxed);
            let which = ends.partition_point(|&end| end <= unit);
            let Some(cut) = cuts.get(which) else { break };
            let piece = unit - (ends[which] - cut.count());
            let result = reader.piece(&stretches[which], cut, piece);
            let mut state = states[which].lock().expect("no thread panics while it holds a state");
            match (state.as_mut(), result) {
                (Ok(hasher), Ok(hash)) => hasher.add(hash),
                (Ok(_), Err(error)) => *state = Err(error),
                (Err(_), _) => {}
            }
            drop(state);
            if !progress(cut.len(piece)) {
                stopped.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            // Where the system starts no more, fewer do the same.
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    if stopped.load(Ordering::Relaxed) {
        return None;
    }
    let finish = |state: Mutex<io::Result<TensorHasher>>| {
        state.into_inner().expect("the threads have ended").map(|hasher| hasher.finish())
    };
    Some(states.into_iter().map(finish).collect())
}

/// One thread's open file and buffer.
struct Reader {
    open: Option<(PathBuf, Open)>,
    buffer: Vec<u8>,
}

/// What is read: a file, or what a stand-in is for.
enum Open {
    File(File),
    Elsewhere(Arc<dyn ByteSource>),
}

impl Open {
    fn of(path: &Path) -> io::Result<Self> {
        match far::of(path)? {
            Some(source) => Ok(Self::Elsewhere(source)),
            None => open_regular(path).map(|(file, _)| Self::File(file)),
        }
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Elsewhere(source) => {
                source.read_exact_at(offset, buffer).map_err(|error| match error {
                    ReadError::Io { error, .. } => error,
                    other => io::Error::other(other.to_string()),
                })
            }
        }
    }

    /// Lets what is read over a network come ahead of its reader.
    fn will_need(&self, offset: u64, bytes: u64) {
        if let Self::Elsewhere(source) = self {
            source.will_need(offset, bytes);
        }
    }
}

impl Reader {
    fn piece(&mut self, stretch: &Stretch, cut: &Pieces, piece: usize) -> io::Result<PieceHash> {
        if self.open.as_ref().is_none_or(|(path, _)| *path != stretch.path) {
            self.open = Some((stretch.path.clone(), Open::of(&stretch.path)?));
        }
        let (_, file) = self.open.as_ref().expect("the file was opened above");
        let mut hasher = cut.hasher(piece);
        let mut at = stretch.offset + cut.offset(piece);
        let mut left = cut.len(piece);
        file.will_need(at, left);
        while left > 0 {
            let take = left.min(self.buffer.len() as u64) as usize;
            file.read_exact_at(&mut self.buffer[..take], at)?;
            hasher.update(&self.buffer[..take]);
            at += take as u64;
            left -= take as u64;
        }
        Ok(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn stretches_of_all_lengths_on_any_threads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let data: Vec<u8> = (0..9_500_000_u32).map(|at| (at ^ (at >> 9)) as u8).collect();
        std::fs::write(&path, &data).unwrap();
        let ranges = [(0, 9_500_000), (5, 0), (17, 1), (1000, 4 << 20), (1, (4 << 20) + 1)];
        let mut stretches: Vec<Stretch> = ranges
            .iter()
            .map(|&(offset, bytes)| Stretch { path: path.clone(), offset, bytes })
            .collect();
        stretches.push(Stretch { path: path.clone(), offset: 9_000_000, bytes: 600_000 });
        stretches.push(Stretch { path: folder.path().join("absent"), offset: 0, bytes: 1 });
        for threads in [1, 4] {
            let seen = AtomicU64::new(0);
            let progress = |bytes| {
                seen.fetch_add(bytes, Ordering::Relaxed);
                true
            };
            let found = digests(&stretches, threads, &progress).unwrap();
            for (&(offset, bytes), found) in ranges.iter().zip(&found) {
                let expected = TensorDigest::of(&data[offset as usize..(offset + bytes) as usize]);
                assert_eq!(*found.as_ref().unwrap(), expected);
            }
            assert_eq!(found[5].as_ref().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(found[6].as_ref().unwrap_err().kind(), io::ErrorKind::NotFound);
            assert_eq!(seen.into_inner(), stretches.iter().map(|s| s.bytes).sum::<u64>());
        }
        assert!(digests(&stretches, 2, &|_| false).is_none());
    }
}
