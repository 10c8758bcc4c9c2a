//! An output on its way to a store. Its shards are sent in parts as soon as the tensors in a part are finished,
//! and what is sent is let go of on this machine. The store shows nothing of it before all is there; then the
//! parts are joined, and the manifest comes last.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use mixdown_diagnostics::{Diagnostic, codes};

use super::objects::Objects;
use super::sent::{Event, Record};
use crate::hub::trouble::Trouble;
use crate::hub::{HubOptions, SENT_BYTES};
use crate::layout::{INDEX_NAME, TensorPlace};
use crate::manifest::MANIFEST_NAME;
use crate::output::elsewhere::{Elsewhere, Outgoing, Sent};
use crate::shown::{io_text, shown, shown_path};

/// What is sent in one request, where an object is no larger than so many of them. S3 takes parts from 5 MiB on.
const PART_BYTES: u64 = 8 << 20;

/// Most parts of an object; S3 takes 10,000.
const MOST_PARTS: u64 = 9_999;

/// Requests at the same time.
const AT_ONCE: u64 = 4;

/// Finished bytes that wait on this machine at most before the merge waits for them to be sent.
const MOST_WAITING_BYTES: u64 = 256 << 20;

/// Begins to send, or goes on where an interrupted run was.
///
/// **Errors.** `OUTPUT_EXISTS` where objects lie at the address already; `OUTPUT_REFUSED` where the bucket is
/// missing or does not let the output be written; what the network or the disk refuses.
pub(crate) fn begin(
    outgoing: &Outgoing<'_>,
    options: &HubOptions,
) -> Result<Box<dyn Elsewhere>, Box<Diagnostic>> {
    let objects = Objects::new(outgoing.address, options).map_err(|trouble| {
        let headline = match &trouble {
            Trouble::Confused(what) => format!("no output can be sent there: {what}"),
            _ => "no output can be sent there".to_owned(),
        };
        let diagnostic = Diagnostic::error(codes::OUTPUT_REFUSED, headline);
        let help = "name a bucket and a folder in it, for instance `--out s3://bucket/merged`";
        Box::new(diagnostic.in_file(shown(outgoing.address)).help(help))
    })?;
    let told = |trouble: Trouble| objects.diagnostic(&trouble);
    let identity = format!("{} at {}", outgoing.identity, objects.address);
    let known = Record::read(&outgoing.record, &outgoing.key);
    let is_same = known.identity == identity;
    if !is_same {
        for (name, upload) in known.begun() {
            // What is left is no part of this output; a rule of the bucket may remove it.
            let _ = objects.abort(name, upload);
        }
    }
    let events = if is_same { known.events } else { Vec::new() };
    let joining = events.iter().rev().find_map(|event| match event {
        Event::Joining { replaces } => Some(*replaces),
        _ => None,
    });
    if joining.is_none() && !objects.list(true).map_err(told)?.is_empty() && !outgoing.replaces {
        return Err(exists(&objects.address));
    }
    let mut shards = Vec::new();
    for (number, shard) in outgoing.layout.shards().iter().enumerate() {
        let part_bytes = part_bytes(shard.file_bytes);
        let count = shard.file_bytes.div_ceil(part_bytes).max(1) as usize;
        let path = outgoing.folder.join(&shard.name);
        let own = ShardFile { name: shard.name.clone(), path, bytes: shard.file_bytes, part_bytes };
        // Archives of torch get checksums of their tensors at the very end.
        let held = usize::from(shard.torch.is_some());
        let mut parts = vec![Part { waits_for: held, ..Part::default() }; count];
        for &tensor in &shard.tensors {
            for part in own.parts_of(outgoing.layout.place(tensor)) {
                parts[part].waits_for += 1;
            }
        }
        let progress = progress(&objects, &own, number, parts, &events).map_err(told)?;
        shards.push((own, progress));
    }
    let (files, progress): (Vec<_>, Vec<_>) = shards.into_iter().unzip();
    let names: Vec<&str> = files.iter().map(|file: &ShardFile| file.name.as_str()).collect();
    let kept = kept(&progress, joining);
    let record = Record::write(&outgoing.record, outgoing.key, identity, &names, &kept)
        .map_err(|error| unwritable(&outgoing.record, &error))?;
    let most = files.iter().map(|file| file.part_bytes).max().unwrap_or(PART_BYTES);
    let threads = (SENT_BYTES / most).clamp(1, AT_ONCE);
    let uploads = progress.iter().map(|shard| Mutex::new(shard.upload.clone())).collect();
    let state = State { shards: progress, joining, ..State::default() };
    let shared = Arc::new(Shared {
        objects,
        files,
        uploads,
        record: Mutex::new(record),
        record_path: outgoing.record.clone(),
        replaces: outgoing.replaces,
        state: Mutex::new(state),
        news: Condvar::new(),
    });
    // Who may not write is told before anything is computed.
    if joining.is_none() && !shared.files.is_empty() {
        shared.upload(0)?;
    }
    shared.queue_all();
    let mut workers = Vec::new();
    for _ in 0..threads {
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("send".to_owned());
        workers.push(
            thread
                .spawn(move || own.work())
                .map_err(|error| unwritable(&outgoing.folder, &error))?,
        );
    }
    Ok(Box::new(Sending { shared, workers }))
}

/// What is known of a shard's parts that the store still has.
fn progress(
    objects: &Objects,
    file: &ShardFile,
    number: usize,
    mut parts: Vec<Part>,
    events: &[Event],
) -> Result<Progress, Trouble> {
    let mut upload = None;
    let mut is_joined = false;
    for event in events {
        match event {
            Event::Begun { shard, upload: name } if *shard == number => {
                upload = Some(name.clone());
                parts.iter_mut().for_each(|part| part.etag = None);
            }
            Event::Part { shard, part, etag } if *shard == number => {
                if let Some(part) = parts.get_mut(*part) {
                    part.etag = Some(etag.clone());
                }
            }
            Event::Joined { shard } if *shard == number => is_joined = true,
            _ => {}
        }
    }
    let Some(name) = &upload else { return Ok(Progress { upload, parts, is_joined: false }) };
    if is_joined && objects.state(&file.name)?.is_some_and(|(size, _)| size == file.bytes) {
        // Whatever lines are lost, all of it is there.
        for part in parts.iter_mut().filter(|part| part.etag.is_none()) {
            part.etag = Some("-".to_owned());
        }
        return Ok(Progress { upload, parts, is_joined });
    }
    let found = match is_joined {
        true => None,
        false => objects.parts(&file.name, name)?,
    };
    let is_known = found.is_some();
    let found = found.unwrap_or_default();
    for (at, part) in parts.iter_mut().enumerate() {
        if part.etag.is_none() || found.get(&(at + 1)) != part.etag.as_ref() {
            part.etag = None;
        }
    }
    Ok(Progress { upload: upload.filter(|_| is_known), parts, is_joined: false })
}

/// The events of what is kept.
fn kept(shards: &[Progress], joining: Option<bool>) -> Vec<Event> {
    let mut events = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let Some(upload) = &shard.upload else { continue };
        events.push(Event::Begun { shard: number, upload: upload.clone() });
        for (at, part) in shard.parts.iter().enumerate() {
            let etag = part.etag.clone();
            events.extend(etag.map(|etag| Event::Part { shard: number, part: at, etag }));
        }
        if shard.is_joined {
            events.push(Event::Joined { shard: number });
        }
    }
    events.extend(joining.map(|replaces| Event::Joining { replaces }));
    events
}

/// So many bytes that an object of this size has no more parts than stores take.
fn part_bytes(bytes: u64) -> u64 {
    const STEP: u64 = 1 << 20;
    PART_BYTES.max(bytes.div_ceil(MOST_PARTS).div_ceil(STEP) * STEP)
}

/// The output, and the threads that send it.
#[derive(Debug)]
struct Sending {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    objects: Objects,
    files: Vec<ShardFile>,
    /// The name of each shard's upload, from the first part on.
    uploads: Vec<Mutex<Option<String>>>,
    record: Mutex<Record>,
    record_path: PathBuf,
    /// Whether what lies at the address is replaced.
    replaces: bool,
    state: Mutex<State>,
    news: Condvar,
}

/// A shard's file on this machine.
#[derive(Debug)]
struct ShardFile {
    name: String,
    path: PathBuf,
    bytes: u64,
    part_bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    shards: Vec<Progress>,
    /// Shard and part of what can be sent.
    queue: VecDeque<(usize, usize)>,
    /// Bytes in the queue, and of what is being sent.
    waiting_bytes: u64,
    /// Whether parts are being joined from here on, and what was there is replaced.
    joining: Option<bool>,
    failure: Option<Box<Diagnostic>>,
    is_over: bool,
}

#[derive(Debug)]
struct Progress {
    upload: Option<String>,
    parts: Vec<Part>,
    is_joined: bool,
}

#[derive(Clone, Debug, Default)]
struct Part {
    /// Tensors in it that are not finished.
    waits_for: usize,
    /// What the store calls it, when it is sent.
    etag: Option<String>,
}

impl ShardFile {
    /// The parts that a tensor has bytes in.
    fn parts_of(&self, place: TensorPlace) -> Range<usize> {
        let first = place.offset / self.part_bytes;
        let end = (place.offset + place.bytes).div_ceil(self.part_bytes);
        if place.bytes == 0 { 0..0 } else { first as usize..end as usize }
    }

    fn stretch(&self, part: usize) -> (u64, u64) {
        let first = part as u64 * self.part_bytes;
        (first, self.part_bytes.min(self.bytes - first))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self, trouble: &Trouble) -> Box<Diagnostic> {
        self.objects.diagnostic(trouble)
    }

    fn note(&self, event: &Event) -> Result<(), Box<Diagnostic>> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.add(event).map_err(|error| unwritable(&self.record_path, &error))
    }

    /// The name of a shard's upload, which is begun if it is not.
    fn upload(&self, shard: usize) -> Result<String, Box<Diagnostic>> {
        let mut upload = self.uploads[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upload) = &*upload {
            return Ok(upload.clone());
        }
        let name = &self.files[shard].name;
        let begun = self.objects.begin(name).map_err(|trouble| self.told(&trouble))?;
        *upload = Some(begun.clone());
        self.note(&Event::Begun { shard, upload: begun.clone() })?;
        Ok(begun)
    }

    /// Queues what waits for nothing: headers, and what an interrupted run had finished.
    fn queue_all(&self) {
        let mut state = self.lock();
        for (shard, file) in self.files.iter().enumerate() {
            for part in 0..state.shards[shard].parts.len() {
                if state.shards[shard].parts[part].waits_for == 0 {
                    state.queue(file, shard, part);
                }
            }
        }
        self.news.notify_all();
    }

    /// Counts something that parts of a shard waited for.
    fn finished(&self, shard: usize, parts: Range<usize>) {
        let mut state = self.lock();
        for part in parts {
            let waits_for = &mut state.shards[shard].parts[part].waits_for;
            *waits_for = waits_for.saturating_sub(1);
            if *waits_for == 0 {
                state.queue(&self.files[shard], shard, part);
            }
        }
        self.news.notify_all();
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            let (shard, part) = loop {
                if state.is_over || state.failure.is_some() {
                    return;
                }
                if let Some(next) = state.queue.pop_front() {
                    break next;
                }
                state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            let known = state.shards[shard].parts[part].etag.clone();
            drop(state);
            let sent = match known {
                // An earlier run sent it; a tensor that reaches beyond it was computed again.
                Some(etag) => Ok(etag),
                None => self.send(shard, part),
            };
            let (first, bytes) = self.files[shard].stretch(part);
            if sent.is_ok() {
                let_go(&self.files[shard].path, first, bytes);
            }
            let mut state = self.lock();
            state.waiting_bytes -= bytes;
            match sent {
                Ok(etag) => state.shards[shard].parts[part].etag = Some(etag),
                Err(failure) => {
                    state.failure.get_or_insert(failure);
                }
            }
            drop(state);
            self.news.notify_all();
        }
    }

    fn send(&self, shard: usize, part: usize) -> Result<String, Box<Diagnostic>> {
        let file = &self.files[shard];
        let (first, bytes) = file.stretch(part);
        let mut body = vec![0; bytes as usize];
        File::open(&file.path)
            .and_then(|open| open.read_exact_at(&mut body, first))
            .map_err(|error| unreadable(&file.path, &error))?;
        let upload = self.upload(shard)?;
        let etag = self.objects.part(&file.name, &upload, part + 1, &body);
        let etag = etag.map_err(|trouble| self.told(&trouble))?;
        self.note(&Event::Part { shard, part, etag: etag.clone() })?;
        Ok(etag)
    }

    /// Waits until no more than so many bytes wait to be sent.
    fn wait(&self, most: u64) -> Result<(), Box<Diagnostic>> {
        let mut state = self.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.waiting_bytes <= most {
                return Ok(());
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes the objects of shards appear.
    fn join(&self) -> Result<(), Box<Diagnostic>> {
        for (shard, file) in self.files.iter().enumerate() {
            let (is_joined, etags) = {
                let state = self.lock();
                let progress = &state.shards[shard];
                let etags: Vec<String> =
                    progress.parts.iter().filter_map(|part| part.etag.clone()).collect();
                if etags.len() < progress.parts.len() {
                    let what = format!("a part of `{}` is not there", shown(&file.name));
                    return Err(self.told(&Trouble::Confused(what)));
                }
                (progress.is_joined, etags)
            };
            if is_joined {
                continue;
            }
            let upload = self.upload(shard)?;
            let joined = self.objects.join(&file.name, &upload, &etags, file.bytes);
            joined.map_err(|trouble| self.told(&trouble))?;
            self.note(&Event::Joined { shard })?;
        }
        Ok(())
    }

    /// Sends a file that stands beside the shards.
    fn file(&self, name: &str, path: &Path) -> Result<(), Box<Diagnostic>> {
        let open = File::open(path).map_err(|error| unreadable(path, &error))?;
        let bytes = open.metadata().map_err(|error| unreadable(path, &error))?.len();
        let whole = ShardFile {
            name: name.to_owned(),
            path: path.to_owned(),
            bytes,
            part_bytes: part_bytes(bytes),
        };
        let read = |part| {
            let (first, bytes) = whole.stretch(part);
            let mut body = vec![0; bytes as usize];
            let read = open.read_exact_at(&mut body, first);
            read.map_err(|error| unreadable(path, &error)).map(|()| body)
        };
        let told = |trouble: Trouble| self.told(&trouble);
        let count = bytes.div_ceil(whole.part_bytes).max(1) as usize;
        if count == 1 {
            return self.objects.put(name, &read(0)?).map_err(told);
        }
        let upload = self.objects.begin(name).map_err(told)?;
        let send = |part| self.objects.part(name, &upload, part + 1, &read(part)?).map_err(told);
        let sent: Result<Vec<String>, _> = (0..count).map(send).collect();
        let joined =
            sent.and_then(|etags| self.objects.join(name, &upload, &etags, bytes).map_err(told));
        if joined.is_err() {
            let _ = self.objects.abort(name, &upload);
        }
        joined
    }
}

impl State {
    fn queue(&mut self, file: &ShardFile, shard: usize, part: usize) {
        self.queue.push_back((shard, part));
        self.waiting_bytes += file.stretch(part).1;
    }
}

impl Elsewhere for Sending {
    fn sent(&self, place: TensorPlace) -> Sent {
        let state = self.shared.lock();
        let parts = self.shared.files[place.shard].parts_of(place);
        let count = parts.len();
        let is_sent = |part: &usize| state.shards[place.shard].parts[*part].etag.is_some();
        match parts.filter(is_sent).count() {
            0 => Sent::Nothing,
            found if found == count => Sent::All,
            _ => Sent::Some,
        }
    }

    fn finished(&self, place: TensorPlace) {
        self.shared.finished(place.shard, self.shared.files[place.shard].parts_of(place));
    }

    fn wait_for_room(&self) -> Result<(), Box<Diagnostic>> {
        self.shared.wait(MOST_WAITING_BYTES)
    }

    fn sealed(&self, shard: usize) {
        let count = self.shared.lock().shards[shard].parts.len();
        self.shared.finished(shard, 0..count);
    }

    fn deliver(&self, folder: &Path, names: &[String]) -> Result<(), Box<Diagnostic>> {
        let shared = &self.shared;
        shared.wait(0)?;
        let told = |trouble: Trouble| shared.told(&trouble);
        let joining = shared.lock().joining;
        let replaces = shared.replaces || joining == Some(true);
        let there = shared.objects.list(!replaces).map_err(told)?;
        if joining.is_none() {
            // Another merge may have ended there meanwhile.
            if !replaces && !there.is_empty() {
                return Err(exists(&shared.objects.address));
            }
            shared.note(&Event::Joining { replaces })?;
        }
        if replaces {
            // No reader may take new shards for those of the old index.
            for name in [MANIFEST_NAME, INDEX_NAME] {
                if there.iter().any(|known| known == name) {
                    shared.objects.remove(name).map_err(told)?;
                }
            }
        }
        shared.join()?;
        for name in names {
            shared.file(name, &folder.join(name))?;
        }
        let is_ours = |name: &String| {
            names.contains(name) || shared.files.iter().any(|file| file.name == *name)
        };
        if replaces {
            for name in there.iter().filter(|name| !is_ours(name)) {
                shared.objects.remove(name).map_err(told)?;
            }
        }
        Ok(())
    }

    fn give_up(&self) {
        self.end();
        for (file, upload) in self.shared.files.iter().zip(&self.shared.uploads) {
            let upload = upload.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(upload) = &*upload {
                let _ = self.shared.objects.abort(&file.name, upload);
            }
        }
    }
}

impl Sending {
    /// Lets the threads end after what they are sending.
    fn end(&self) {
        self.shared.lock().is_over = true;
        self.shared.news.notify_all();
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.end();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn exists(address: &str) -> Box<Diagnostic> {
    let headline = "there are objects at the address of the output";
    Box::new(
        Diagnostic::error(codes::OUTPUT_EXISTS, headline)
            .in_file(shown(address))
            .help("choose another address with `--out`, or replace what is right below this one with `--force`"),
    )
}

fn unwritable(path: &Path, error: &io::Error) -> Box<Diagnostic> {
    crate::output::refused("note what is sent", path, error)
}

fn unreadable(path: &Path, error: &io::Error) -> Box<Diagnostic> {
    let headline = "what is to be sent cannot be read";
    Box::new(
        Diagnostic::error(codes::UNREADABLE, headline)
            .in_file(shown_path(path))
            .fact("system", io_text(error)),
    )
}

/// Gives the disk back what is sent. Where the file system cannot, the file stays whole until the end.
#[cfg(target_os = "linux")]
fn let_go(path: &Path, first: u64, bytes: u64) {
    use rustix::fs::{FallocateFlags, fallocate};
    if let Ok(file) = File::options().write(true).open(path) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = fallocate(&file, flags, first, bytes);
    }
}

#[cfg(not(target_os = "linux"))]
fn let_go(_path: &Path, _first: u64, _bytes: u64) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_no_more_parts_than_stores_take() {
        assert_eq!(part_bytes(0), PART_BYTES);
        assert_eq!(part_bytes(MOST_PARTS * PART_BYTES), PART_BYTES);
        for bytes in [MOST_PARTS * PART_BYTES + 1, 140 << 30, 5 << 40] {
            assert!(bytes.div_ceil(part_bytes(bytes)) <= 10_000, "{bytes}");
        }
    }

    #[test]
    fn a_tensor_lies_in_the_parts_that_have_its_bytes() {
        let file =
            ShardFile { name: String::new(), path: PathBuf::new(), bytes: 25, part_bytes: 10 };
        let parts = |offset, bytes| file.parts_of(TensorPlace { shard: 0, offset, bytes });
        assert_eq!(parts(0, 10), 0..1);
        assert_eq!(parts(9, 2), 0..2);
        assert_eq!(parts(10, 15), 1..3);
        assert_eq!(parts(10, 0), 0..0);
        assert_eq!(file.stretch(2), (20, 5));
    }
}
