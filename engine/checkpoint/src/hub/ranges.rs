//! A file that is read over the network by ranges: blocks, some ahead of the reader, each asked for again
//! until it is all there, and refused when the file is another one than at the start.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::open_regular;

use super::far::HELD_BYTES;
use super::kept::KeptFile;
use super::options::without_credentials;
use super::trouble::Trouble;
use super::web::Web;
use crate::shown::{bytes_text, shown};
use crate::source::{ByteSource, ReadError};

/// What is asked for at a time: at a latency of 20 ms one stream brings 50 MB/s, and as many run as threads
/// read files, and as many ahead of them.
const BLOCK_BYTES: u64 = 1 << 20;

/// Most requests that run ahead of readers.
const MOST_AHEAD: usize = 12;

/// Blocks ahead of a reader that goes through a file.
const BLOCKS_AHEAD: u64 = 3;

/// Failures in a row, with nothing arriving between them, after which a block is given up.
const MOST_FAILURES: u32 = 6;

/// What must not change about a file while it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Its bytes.
    pub size: u64,
    /// What the server calls this state of it, where it does.
    pub etag: Option<String>,
}

/// A file that is read over the network.
pub(super) struct Remote {
    number: u64,
    web: Web,
    address: String,
    state: State,
    patience: Duration,
    retry_after: Duration,
    /// The stand-in, whose first bytes are the file's.
    head: (PathBuf, u64),
    /// Where its blocks are kept for later runs.
    kept: Option<KeptFile>,
}

/// Why a block did not come.
enum Fault {
    Trouble(Trouble),
    /// Another state of the file.
    Changed(State),
    /// The server does not give what it was asked for.
    NoRanges(String),
}

impl Remote {
    /// A file at an address, whose first bytes are in a stand-in.
    pub fn new(
        web: Web,
        address: String,
        state: State,
        (patience, retry_after): (Duration, Duration),
        head: (PathBuf, u64),
        kept: Option<KeptFile>,
    ) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, web, address, state, patience, retry_after, head, kept })
    }

    /// The bytes of a block, from an earlier run, or from the network.
    fn fetch(&self, block: u64) -> Result<Vec<u8>, Fault> {
        let first = block * BLOCK_BYTES;
        let count = BLOCK_BYTES.min(self.state.size - first);
        let Some(kept) = &self.kept else { return self.fetch_anew(first, count) };
        if let Some(bytes) = kept.get(block, count) {
            return Ok(bytes);
        }
        let bytes = self.fetch_anew(first, count)?;
        kept.put(block, &bytes);
        Ok(bytes)
    }

    /// Bytes from the network, however often they must be asked for.
    fn fetch_anew(&self, first: u64, count: u64) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::with_capacity(count as usize);
        let mut failures = 0;
        while (bytes.len() as u64) < count {
            let before = bytes.len();
            let fault = match self.attempt(first, count, &mut bytes) {
                Ok(()) => Trouble::Network("the connection ended early".to_owned()),
                Err(Fault::Trouble(trouble)) => trouble,
                Err(fault) => return Err(fault),
            };
            if bytes.len() as u64 == count {
                break;
            }
            failures = if bytes.len() > before { 1 } else { failures + 1 };
            let may_pass = fault.may_pass() || matches!(fault, Trouble::Silence);
            if !may_pass || failures >= MOST_FAILURES {
                return Err(Fault::Trouble(fault));
            }
            // A connection that brought something is taken up again at once.
            if bytes.len() == before {
                std::thread::sleep(self.retry_after * (1 << failures.min(5)) / 2);
            }
        }
        Ok(bytes)
    }

    /// Asks once for what is missing of a block, and takes what comes.
    fn attempt(&self, first: u64, count: u64, bytes: &mut Vec<u8>) -> Result<(), Fault> {
        let start = first + bytes.len() as u64;
        let answer = self.web.range(&self.address, start, first + count - 1, self.patience);
        let answer = answer.map_err(Fault::Trouble)?;
        let state = State { size: answer.total, etag: answer.etag };
        // A server that names no state where it named one before is another one, or the file is.
        if state != self.state {
            return Err(Fault::Changed(state));
        }
        if answer.begins != start {
            return Err(Fault::NoRanges(format!(
                "asked for byte {start}, it sent from byte {}",
                answer.begins
            )));
        }
        let mut body = answer.body.take(count - bytes.len() as u64);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Trouble(Trouble::Network(error.to_string()))),
            }
        }
    }

    fn read_error(&self, fault: Fault) -> ReadError {
        let address = without_credentials(&self.address);
        let address = address.split('?').next().unwrap_or_default();
        let diagnostic = match fault {
            Fault::Changed(now) => {
                let text = |state: &State| {
                    let etag = state.etag.as_deref().unwrap_or("no etag");
                    format!("{}, {}", bytes_text(state.size), shown(etag))
                };
                Diagnostic::error(codes::FILE_CHANGED, "a remote file changed while it was in use")
                    .in_file(shown(address))
                    .fact("at the start", text(&self.state))
                    .fact("now", text(&now))
                    .help("start again; name a commit, as in `hf://org/name@COMMIT`, for a state that stays")
            }
            Fault::NoRanges(what) => {
                Diagnostic::error(codes::REMOTE_RANGES, "a server does not give parts of its files")
                    .in_file(shown(address))
                    .fact("answer", what)
                    .help("download the model and name its folder")
            }
            Fault::Trouble(Trouble::Refused { status: 200, .. }) => {
                Diagnostic::error(codes::REMOTE_RANGES, "a server does not give parts of its files")
                    .in_file(shown(address))
                    .fact("answer", "the whole file, status 200")
                    .help("download the model and name its folder")
            }
            Fault::Trouble(trouble) => {
                let what = match &trouble {
                    Trouble::Silence => format!("nothing for {} s", self.patience.as_secs()),
                    trouble => trouble.in_words(),
                };
                Diagnostic::error(codes::REMOTE_FAILED, "a remote file cannot be read")
                    .in_file(shown(address))
                    .fact("answer", what)
                    .help(
                        "run the same command again; what is written is kept, and it goes on there",
                    )
            }
        };
        ReadError::Remote(Box::new(diagnostic))
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("state", &self.state).finish()
    }
}

/// A remote file, with the right to fetch ahead on other threads.
#[derive(Debug)]
pub(super) struct RemoteSource(pub Arc<Remote>);

impl ByteSource for RemoteSource {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let remote = &self.0;
        let (path, head) = &remote.head;
        if offset.saturating_add(buffer.len() as u64) <= *head {
            let read = open_regular(path).and_then(|(file, _)| {
                std::os::unix::fs::FileExt::read_exact_at(&file, buffer, offset)
            });
            let shown = path.display().to_string();
            return read.map_err(|error| ReadError::Io { shown, offset, error });
        }
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let block = at / BLOCK_BYTES;
            let bytes = BLOCKS.get(remote, block).map_err(|fault| remote.read_error(fault))?;
            let within = (at - block * BLOCK_BYTES) as usize;
            let count = (bytes.len() - within).min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&bytes[within..within + count]);
            (at, rest) = (at + count as u64, later);
        }
        Ok(())
    }

    fn will_need(&self, offset: u64, len: u64) {
        let remote = &self.0;
        let end = offset.saturating_add(len).min(remote.state.size);
        let blocks = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        blocks.take(BLOCKS_AHEAD as usize).for_each(|block| BLOCKS.expect(remote, block));
    }

    fn len(&self) -> u64 {
        self.0.state.size
    }
}

/// The blocks of all remote files that this process holds.
static BLOCKS: LazyLock<Blocks> = LazyLock::new(Blocks::default);

#[derive(Default)]
struct Blocks {
    state: Mutex<Held>,
    news: Condvar,
}

#[derive(Default)]
struct Held {
    slots: HashMap<(u64, u64), Slot>,
    /// Those that are here, the one used last at the end.
    order: VecDeque<(u64, u64)>,
    /// Requests that run ahead of readers.
    ahead: usize,
}

enum Slot {
    /// Somebody fetches it.
    Coming,
    Here(Arc<[u8]>),
}

impl Blocks {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block, from what is here or from the network; those that follow are asked for.
    fn get(&'static self, remote: &Arc<Remote>, block: u64) -> Result<Arc<[u8]>, Fault> {
        let key = (remote.number, block);
        let mut held = self.lock();
        loop {
            match held.slots.get(&key) {
                Some(Slot::Here(bytes)) => {
                    let bytes = Arc::clone(bytes);
                    held.touch(key);
                    drop(held);
                    self.expect_after(remote, block);
                    return Ok(bytes);
                }
                Some(Slot::Coming) => {
                    held = self.news.wait(held).unwrap_or_else(PoisonError::into_inner);
                }
                None => break,
            }
        }
        held.slots.insert(key, Slot::Coming);
        drop(held);
        self.expect_after(remote, block);
        let fetched = remote.fetch(block);
        self.settle(key, fetched)
    }

    fn expect_after(&'static self, remote: &Arc<Remote>, block: u64) {
        let last = remote.state.size.div_ceil(BLOCK_BYTES);
        (block + 1..last).take(BLOCKS_AHEAD as usize).for_each(|next| self.expect(remote, next));
    }

    /// Fetches a block on another thread, if it is not here and not too many do.
    fn expect(&'static self, remote: &Arc<Remote>, block: u64) {
        let key = (remote.number, block);
        let mut held = self.lock();
        if held.ahead >= MOST_AHEAD || held.slots.contains_key(&key) {
            return;
        }
        held.ahead += 1;
        held.slots.insert(key, Slot::Coming);
        drop(held);
        let remote = Arc::clone(remote);
        let fetch = move || {
            let fetched = remote.fetch(block);
            BLOCKS.lock().ahead -= 1;
            // A reader asks again, and hears what is wrong.
            let _ = BLOCKS.settle(key, fetched);
        };
        if std::thread::Builder::new().name("ahead".to_owned()).spawn(fetch).is_err() {
            let mut held = self.lock();
            held.ahead -= 1;
            held.slots.remove(&key);
            self.news.notify_all();
        }
    }

    /// Keeps what came, and wakes those who wait for it.
    fn settle(&self, key: (u64, u64), fetched: Result<Vec<u8>, Fault>) -> Result<Arc<[u8]>, Fault> {
        let mut held = self.lock();
        let outcome = match fetched {
            Ok(bytes) => {
                let bytes: Arc<[u8]> = bytes.into();
                held.slots.insert(key, Slot::Here(Arc::clone(&bytes)));
                held.touch(key);
                held.let_go();
                Ok(bytes)
            }
            Err(fault) => {
                held.slots.remove(&key);
                Err(fault)
            }
        };
        drop(held);
        self.news.notify_all();
        outcome
    }
}

impl Held {
    fn touch(&mut self, key: (u64, u64)) {
        self.order.retain(|known| *known != key);
        self.order.push_back(key);
    }

    /// Lets go of what was not used for the longest time.
    fn let_go(&mut self) {
        // What is on its way has its place already.
        let most = (HELD_BYTES / BLOCK_BYTES) as usize - MOST_AHEAD;
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.slots.remove(&oldest);
            }
        }
    }
}
