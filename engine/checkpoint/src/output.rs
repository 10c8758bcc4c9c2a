//! The folder of an output: written beside its place under a hidden name, by many threads in any
//! order, and given its own name only when all of it is stored on disk.
//!
//! Beside the target `DIR` lies `.DIR.mixdown-partial` while a merge runs:
//!
//! ```text
//! lock       held by the running process, with its number; at the very end it says what was finished
//! journal    what is written so far, see `journal`
//! output/    becomes DIR
//! aside      without this name: results that are needed again, gone when the process is
//! replaced/  the old DIR, for the moment between two renames where the system cannot swap folders
//! ```
//!
//! Only its owner may look into it, and only what carries the key of this user's runs is believed.

mod aside;
mod begin;
mod clone;
mod disk;
pub(crate) mod elsewhere;
mod finish;
mod lock;
mod owned;
mod shards;
mod space;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::open_regular;
use sha2::{Digest, Sha256};

use crate::hub::{self, HubOptions};
use crate::journal::{Entry, OwnerKey};
use crate::layout::{INDEX_NAME, Layout};
use crate::manifest::{FileRecord, MANIFEST_NAME, hex};
use crate::reread::{self, Stretch};
use crate::shown::{bytes_text, io_text, shown, shown_path};
use crate::side_files::is_plain_path;
use crate::tensor_digest::TensorDigest;
use aside::Aside;
use disk::Disk;
use elsewhere::{Elsewhere, Outgoing, Sent};
use lock::Lock;
use shards::Shards;
pub(crate) use trouble::refused;

/// What an output is of: a digest of the plan and of the identities of its inputs. Work that was
/// interrupted is continued only for the same identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlanIdentity {
    digest: String,
    device: Option<String>,
}

impl PlanIdentity {
    /// The identity with this digest.
    pub fn new(digest: &[u8; 32]) -> Self {
        Self { digest: hex(digest), device: None }
    }

    /// The same work by a device, whose bits may be others. An unfinished output of one is not continued by
    /// another, and neither thrown away unasked.
    pub fn on(self, device: &str) -> Self {
        Self { device: Some(device.replace('\n', " ")), ..self }
    }

    /// Its 64 hexadecimal digits, whatever the device.
    pub fn as_str(&self) -> &str {
        &self.digest
    }

    /// The device, if it is not the processor.
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// The digits, and the device.
    pub fn whole(&self) -> String {
        with_device(&self.digest, self.device())
    }
}

/// An identity with its device, as journals have it.
fn with_device(digest: &str, device: Option<&str>) -> String {
    match device {
        Some(device) => format!("{digest} on {device}"),
        None => digest.to_owned(),
    }
}

/// How an output is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputOptions {
    /// Whether a folder under the target's name is replaced, at the very end; and at once what others
    /// put in the place of the unfinished output.
    pub force: bool,
    /// Bytes of the files that will be added beside the shards, and of what will be put aside, for the check
    /// of free space.
    pub side_bytes: u64,
    /// Bytes of shards that need no space, because they will be adopted from files on the same disk.
    pub adopted_bytes: u64,
    /// What only this user's runs know. With another key an interrupted run is not continued.
    pub key: OwnerKey,
}

/// What [`OutputFolder::begin`] found.
#[derive(Debug)]
pub enum Begun {
    /// There is work to do.
    Open(Box<OutputFolder>),
    /// An earlier run of the same merge was interrupted after the output had got its name: there is
    /// nothing left to do.
    Complete(PathBuf),
}

/// Removes what a process left that was killed after it had given an output its name. What is not of this
/// user and of the output that is there now stays.
pub fn tidy(target: &Path, key: &OwnerKey) {
    begin::tidy(Disk::default(), target, key);
}

impl Begun {
    /// The folder, when there is work to do.
    pub fn open(self) -> Option<OutputFolder> {
        match self {
            Self::Open(folder) => Some(*folder),
            Self::Complete(_) => None,
        }
    }
}

/// Something a person may want to know about how an output was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An interrupted run of the same merge wrote this much.
    Resumes {
        /// Count of tensors that its journal records.
        tensors: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// What another merge had left unfinished was removed.
    Cleared {
        /// Its bytes on disk.
        bytes: u64,
    },
    /// What lay unfinished there was removed: no run of this user began it, as its journal shows.
    NotOurs {
        /// Its bytes on disk.
        bytes: u64,
    },
    /// A run was interrupted while it replaced the target; the old folder has its name again.
    Restored,
    /// The file system has no locks, so a second process would not be noticed.
    NotLocked,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resumes { tensors, bytes } => {
                let plural = if *tensors == 1 { "" } else { "s" };
                write!(
                    f,
                    "an interrupted run wrote {tensors} tensor{plural} ({}) already",
                    bytes_text(*bytes)
                )
            }
            Self::Cleared { bytes } => {
                write!(
                    f,
                    "the unfinished output of another merge was removed ({})",
                    bytes_text(*bytes)
                )
            }
            Self::NotOurs { bytes } => write!(
                f,
                "an unfinished output that no run of yours began, or whose key is lost, was removed ({})",
                bytes_text(*bytes)
            ),
            Self::Restored => {
                f.write_str("the folder that an interrupted run had moved aside has its name again")
            }
            Self::NotLocked => f.write_str(
                "this file system has no locks: do not start a second merge into the same folder",
            ),
        }
    }
}

/// An output that is being written. Dropping it keeps what is written, for the same merge to continue.
#[derive(Debug)]
pub struct OutputFolder {
    /// Where the output will be.
    target: PathBuf,
    /// The target as messages show it: as the user wrote it.
    shown_target: String,
    /// The hidden folder.
    partial: PathBuf,
    force: bool,
    notices: Vec<Notice>,
    /// Of plan, inputs and layout, as in the journal.
    identity: String,
    disk: Disk,
    layout: Arc<Layout>,
    shards: Shards,
    journal: Mutex<File>,
    /// What the journal of an interrupted run records, not yet read again.
    recorded: BTreeMap<usize, TensorDigest>,
    /// What making tensors told that an interrupted run had finished.
    told: BTreeMap<usize, String>,
    finished: Mutex<Vec<Option<TensorDigest>>>,
    files: Mutex<BTreeMap<String, FileRecord>>,
    aside: Aside,
    /// Where it goes, if it does not stay here.
    elsewhere: Option<Box<dyn Elsewhere>>,
    /// Makes the journal's lines recognizable.
    key: OwnerKey,
    /// Held until the end; other processes see it.
    lock: Lock,
}

impl OutputFolder {
    /// Begins an output in `target`, or continues one.
    ///
    /// Missing parents of the target are created. Nothing else is written before it is known that the
    /// target may be written, that nobody else does so, and that there is space.
    ///
    /// **Errors.** `OUTPUT_EXISTS` when the target holds anything and may not be replaced;
    /// `OUTPUT_BUSY` when another process writes it; `FOREIGN_PARTIAL` when somebody else put something
    /// where the work so far would be; `DISK_FULL` with the bytes needed and free;
    /// `WRITE_FAILED` when the system refuses.
    pub fn begin(
        target: &Path,
        layout: Arc<Layout>,
        identity: &PlanIdentity,
        options: &OutputOptions,
    ) -> Result<Begun, Box<Diagnostic>> {
        begin::begin(Disk::default(), target, layout, identity, options)
    }

    /// Begins an output that is sent to an object store, or continues one. `place` is the folder on this
    /// machine that its shards pass through; nothing is left of it at the end.
    ///
    /// **Errors.** Those of [`begin`](Self::begin); `OUTPUT_EXISTS` where objects lie at the address;
    /// `OUTPUT_REFUSED` where the store does not take the output; `OUTPUT_NOT_SENT` where it cannot be reached.
    pub fn begin_in_store(
        address: &str,
        hub: &HubOptions,
        place: &Path,
        layout: Arc<Layout>,
        identity: &PlanIdentity,
        options: &OutputOptions,
    ) -> Result<Box<Self>, Box<Diagnostic>> {
        let (disk, shown) = (Disk::default(), shown(address).into_owned());
        let mut output = match begin::begin_as(disk, place, shown, layout, identity, options)? {
            Begun::Open(output) => output,
            // Nothing ever gets this name.
            Begun::Complete(_) => return Err(trouble::taken(place)),
        };
        match output.send_to(address, hub) {
            Ok(()) => Ok(output),
            Err(problem) => {
                if output.recorded.is_empty() {
                    output.discard();
                }
                Err(problem)
            }
        }
    }

    /// Sends what is finished from now on, and goes by what was sent before.
    fn send_to(&mut self, address: &str, hub: &HubOptions) -> Result<(), Box<Diagnostic>> {
        let outgoing = Outgoing {
            address,
            layout: &self.layout,
            folder: self.shards.folder().to_owned(),
            record: self.partial.join("sent"),
            key: self.key,
            identity: &self.identity,
            replaces: self.force,
        };
        let elsewhere = hub::begin_sending(&outgoing, hub)?;
        let recorded = std::mem::take(&mut self.recorded);
        let (mut sent, mut here) = (Vec::new(), BTreeMap::new());
        for (index, digest) in recorded {
            match elsewhere.sent(self.layout.place(index)) {
                Sent::All => sent.push((index, digest)),
                Sent::Nothing => drop(here.insert(index, digest)),
                // Some of its bytes are gone from here; it is computed again.
                Sent::Some => {}
            }
        }
        self.recorded = here;
        self.elsewhere = Some(elsewhere);
        sent.into_iter().for_each(|(index, digest)| self.note_finished(index, digest));
        Ok(())
    }

    /// What was found at the beginning.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Where the output will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The hidden folder that holds the work so far.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Where each tensor lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Bytes that [`confirm`](Self::confirm) will read.
    pub fn recorded_bytes(&self) -> u64 {
        self.recorded.keys().map(|&index| self.layout.place(index).bytes).sum()
    }

    /// Reads again what an interrupted run recorded, and counts tensors whose bytes are what the
    /// journal says as finished. What was damaged, or cannot be read, is simply computed again.
    ///
    /// Returns the bytes that need not be computed. `progress` is told the bytes of each piece read,
    /// from any thread; when it returns false, confirming stops and nothing counts as finished.
    pub fn confirm(&mut self, threads: usize, progress: &(dyn Fn(u64) -> bool + Sync)) -> u64 {
        let recorded = std::mem::take(&mut self.recorded);
        let stretches: Vec<Stretch> = recorded
            .keys()
            .map(|&index| {
                let place = self.layout.place(index);
                let path = self.shards.path(place.shard);
                Stretch { path, offset: place.offset, bytes: place.bytes }
            })
            .collect();
        let Some(found) = reread::digests(&stretches, threads, progress) else { return 0 };
        let mut confirmed = 0;
        for ((index, expected), found) in recorded.into_iter().zip(found) {
            if found.is_ok_and(|found| found == expected) {
                self.note_finished(index, expected);
                confirmed += self.layout.place(index).bytes;
            }
        }
        confirmed
    }

    /// The digest of a tensor that is finished.
    pub fn finished(&self, tensor: usize) -> Option<TensorDigest> {
        self.finished.lock().expect("no thread panics while it holds the list")[tensor]
    }

    /// Writes bytes of a tensor; many threads may.
    ///
    /// **Panics.** When the bytes do not lie within the tensor.
    pub fn write_at(
        &self,
        tensor: usize,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Box<Diagnostic>> {
        let place = self.layout.place(tensor);
        let end = offset.checked_add(bytes.len() as u64);
        assert!(
            end.is_some_and(|end| end <= place.bytes),
            "bytes beyond the end of tensor {tensor}"
        );
        self.shards.write_at(&self.disk, place.shard, place.offset + offset, bytes)
    }

    /// Lets a stretch of a tensor share its blocks with a file that has the same bytes, where the
    /// file system can do that; what does not fill whole blocks is copied.
    ///
    /// Returns the bytes that are now in place: all of them, or 0, and then the caller writes them.
    ///
    /// **Panics.** When the stretch does not lie within the tensor.
    pub fn copy_range(
        &self,
        tensor: usize,
        offset: u64,
        from: &File,
        from_offset: u64,
        bytes: u64,
    ) -> Result<u64, Box<Diagnostic>> {
        let place = self.layout.place(tensor);
        let end = offset.checked_add(bytes);
        assert!(
            end.is_some_and(|end| end <= place.bytes),
            "bytes beyond the end of tensor {tensor}"
        );
        let at = place.offset + offset;
        let shared =
            self.shards.clone_range(&self.disk, place.shard, at, (from, from_offset), bytes)?;
        Ok(if shared { bytes } else { 0 })
    }

    /// What an interrupted run told of a tensor that it had finished.
    pub fn told(&self, tensor: usize) -> Option<&str> {
        self.finished(tensor)?;
        self.told.get(&tensor).map(String::as_str)
    }

    /// Records that all bytes of a tensor are written, and their digest.
    pub fn complete(&self, tensor: usize, digest: TensorDigest) -> Result<(), Box<Diagnostic>> {
        self.complete_telling(tensor, digest, None)
    }

    /// The same, with what making it told, for a run that goes on after this one. It is one line.
    pub fn complete_telling(
        &self,
        tensor: usize,
        digest: TensorDigest,
        told: Option<String>,
    ) -> Result<(), Box<Diagnostic>> {
        debug_assert!(told.iter().all(|told| !told.contains('\n')), "one line");
        self.append(Entry::Tensor(tensor, digest, told))?;
        self.note_finished(tensor, digest);
        match &self.elsewhere {
            Some(elsewhere) => elsewhere.wait_for_room(),
            None => Ok(()),
        }
    }

    /// Adds a file beside the shards.
    ///
    /// **Errors.** A name that is not that of a visible file right in the folder, or that belongs to
    /// the shards, their index or the manifest; what the system refuses.
    pub fn add_file(&self, name: &str, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        self.check_name(name)?;
        self.put_file(name, bytes)
    }

    /// Copies a file beside the shards. The same errors as [`add_file`](Self::add_file), and
    /// `UNREADABLE` when the source cannot be read.
    pub fn copy_file(&self, name: &str, source: &Path) -> Result<(), Box<Diagnostic>> {
        self.check_name(name)?;
        let unreadable = |error| {
            Box::new(
                Diagnostic::error(codes::UNREADABLE, format!("`{}` cannot be copied", shown(name)))
                    .in_file(shown_path(source))
                    .fact("system", io_text(&error)),
            )
        };
        let (mut input, _) = open_regular(source).map_err(unreadable)?;
        let (path, file) = self.create(name)?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut at = 0;
        loop {
            let count = match std::io::Read::read(&mut input, &mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.map_err(unreadable)?,
            };
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
            self.disk
                .write_at(&file, &path, &buffer[..count], at)
                .map_err(|error| refused("copy a file", &path, &error))?;
            at += count as u64;
        }
        self.disk.sync(&file, &path).map_err(|error| refused("copy a file", &path, &error))?;
        self.note_file(name, at, hex(&digest.finalize()));
        Ok(())
    }

    /// Takes over a file that holds a whole shard as it will be: it gets a second name in the output, so
    /// that nothing is copied. Returns false where the file system has no second names, or the file lies on
    /// another one; then the caller writes the tensors. They are completed by the caller in either case.
    pub fn adopt(&self, shard: usize, file: &Path) -> Result<bool, Box<Diagnostic>> {
        self.shards.adopt(&self.disk, shard, file)
    }

    /// Leaves the work so far for the same merge to continue; the same as dropping the folder.
    pub fn abandon(self) {}

    /// Removes the work so far: for a failure that the same merge would only meet again.
    pub fn discard(mut self) {
        self.shards.stop();
        if let Some(elsewhere) = self.elsewhere.take() {
            elsewhere.give_up();
        }
        finish::clean_up(&self.disk, &self.partial);
    }

    fn put_file(&self, name: &str, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        let (path, file) = self.create(name)?;
        self.disk
            .write_at(&file, &path, bytes, 0)
            .and_then(|()| self.disk.sync(&file, &path))
            .map_err(|error| refused("write a file", &path, &error))?;
        self.note_file(name, bytes.len() as u64, hex(&Sha256::digest(bytes)));
        Ok(())
    }

    /// A new file in the output, in place of what an interrupted run may have left.
    fn create(&self, name: &str) -> Result<(PathBuf, File), Box<Diagnostic>> {
        let path = self.shards.folder().join(name);
        if let Some((folder, _)) = name.split_once('/') {
            // What an interrupted run left there is no folder of ours unless it is a plain one.
            let folder = self.shards.folder().join(folder);
            let made = match std::fs::symlink_metadata(&folder) {
                Ok(found) if found.is_dir() => Ok(()),
                _ => {
                    let removed = self.disk.remove_all(&folder);
                    removed.and_then(|()| self.disk.create_folder(&folder))
                }
            };
            made.map_err(|error| refused("create a folder", &folder, &error))?;
        }
        let file = self.disk.remove_all(&path).and_then(|()| self.disk.open(&path));
        let file = file.map_err(|error| refused("create a file", &path, &error))?;
        Ok((path, file))
    }

    fn note_file(&self, name: &str, bytes: u64, sha256: String) {
        let record = FileRecord { name: name.to_owned(), bytes, sha256 };
        let mut files = self.files.lock().expect("no thread panics while it holds the list");
        files.insert(name.to_owned(), record);
    }

    fn check_name(&self, name: &str) -> Result<(), Box<Diagnostic>> {
        let taken = name == MANIFEST_NAME
            || name == INDEX_NAME
            || self.layout.shards().iter().any(|shard| shard.name == name);
        if is_plain_path(name) && !taken {
            return Ok(());
        }
        let reason = match taken {
            true => "mixdown writes a file of this name itself",
            false => {
                "a file of an output lies in its folder, or in one within it, and is not hidden"
            }
        };
        let headline = format!("`{}` cannot be added to the output", shown(name));
        Err(Box::new(Diagnostic::error(codes::WRITE_FAILED, headline).note(reason)))
    }

    fn note_finished(&self, tensor: usize, digest: TensorDigest) {
        let mut finished = self.finished.lock().expect("no thread panics while it holds the list");
        let is_new = finished[tensor].replace(digest).is_none();
        drop(finished);
        if is_new {
            let place = self.layout.place(tensor);
            self.shards.tensor_finished(place.shard);
            if let Some(elsewhere) = &self.elsewhere {
                elsewhere.finished(place);
            }
        }
    }

    fn append(&self, entry: Entry) -> Result<(), Box<Diagnostic>> {
        let path = begin::journal_path(&self.partial);
        let file = self.journal.lock().expect("no thread panics while it holds the journal");
        self.disk
            .append(&file, &path, entry.line(&self.key, &self.identity).as_bytes())
            .map_err(|error| refused("write the journal", &path, &error))
    }
}
