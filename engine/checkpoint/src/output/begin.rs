//! The beginning of an output: finding its place, healing what a killed process left,
//! and deciding what of it can be continued.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mixdown_diagnostics::{Diagnostic, codes};

use super::aside::Aside;
use super::disk::Disk;
use super::lock::Lock;
use super::shards::Shards;
use super::trouble::{refused, refused_early};
use super::{Begun, Notice, OutputFolder, OutputOptions, PlanIdentity};
use super::{finish, owned, space, with_device};
use crate::hub;
use crate::journal::{Found, Journal, OwnerKey};
use crate::layout::Layout;
use crate::manifest::MANIFEST_NAME;
use crate::shown::shown_path;
use crate::small;
use crate::tensor_digest::TensorDigest;

pub(super) fn journal_path(partial: &Path) -> PathBuf {
    partial.join("journal")
}

pub(super) fn lock_path(partial: &Path) -> PathBuf {
    partial.join("lock")
}

pub(super) fn output_path(partial: &Path) -> PathBuf {
    partial.join("output")
}

pub(super) fn replaced_path(partial: &Path) -> PathBuf {
    partial.join("replaced")
}

pub(super) fn begin(
    disk: Disk,
    target: &Path,
    layout: Arc<Layout>,
    identity: &PlanIdentity,
    options: &OutputOptions,
) -> Result<Begun, Box<Diagnostic>> {
    begin_as(disk, target, shown_path(target), layout, identity, options)
}

/// The same for a target that messages call so.
pub(super) fn begin_as(
    disk: Disk,
    target: &Path,
    shown_target: String,
    layout: Arc<Layout>,
    identity: &PlanIdentity,
    options: &OutputOptions,
) -> Result<Begun, Box<Diagnostic>> {
    let (target, partial) = find_place(&disk, target)?;
    if fs::symlink_metadata(&partial).is_err() && !options.force && !is_free(&target) {
        return Err(exists(&shown_target));
    }
    let mut notices = Vec::new();
    let (lock, last_words) = Lock::take(&disk, &partial, &shown_target, options.force)?;
    if !lock.is_held() {
        notices.push(Notice::NotLocked);
    }
    let (device, identity) = (identity.device(), whole_identity(identity, &layout));
    let shard_of = |index| (index < layout.tensors().len()).then(|| layout.place(index).shard);
    let read = |bytes: &[u8]| Journal::parse(bytes, &options.key, shard_of);
    let found = owned::journal(&disk, &partial, options.force)?.map(|bytes| read(&bytes));
    if found == Some(Found::Foreign) {
        let path = journal_path(&partial);
        owned::replace(&disk, &path, "a file that is no journal", options.force)?;
    }
    let is_others = found == Some(Found::Others);
    let found = found.and_then(Found::ours);
    let last_words = read(&last_words).ours();
    match found.is_some() || last_words.is_some() {
        true => notices.extend(heal(&disk, &partial, &target)?),
        false => owned::check_replaced(&partial)?,
    }
    if let Some(other) = found.as_ref().and_then(|journal| other_device(journal, &identity))
        && !options.force
    {
        return Err(begun_elsewhere(&shown_target, other, device));
    }
    let is_this = |journal: &Journal| journal.identity == identity;
    if last_words.filter(is_this).is_some_and(|journal| is_complete(&journal, &target)) {
        finish::clean_up(&disk, &partial);
        return Ok(Begun::Complete(target));
    }
    let journal = found.filter(is_this);

    let reusable = space::occupied_bytes(&output_path(&partial));
    let written = layout.file_bytes().saturating_sub(options.adopted_bytes);
    let needed = written.saturating_add(options.side_bytes);
    let may_begin = match options.force || is_free(&target) {
        true => space::check(&partial, Path::new(&shown_target), needed, reusable),
        false => Err(exists(&shown_target)),
    };
    if let Err(problem) = may_begin {
        if !journal_path(&partial).exists() {
            finish::clean_up(&disk, &partial);
        }
        return Err(problem);
    }

    let journal = match journal {
        Some(journal) => journal,
        None => {
            // The journal goes first: without it nothing of the rest is trusted.
            let clear = disk
                .remove_file(&journal_path(&partial))
                .and_then(|()| disk.remove_all(&output_path(&partial)));
            clear.map_err(|error| refused("remove an unfinished output", &partial, &error))?;
            if reusable > 0 {
                notices.push(match is_others {
                    true => Notice::NotOurs { bytes: reusable },
                    false => Notice::Cleared { bytes: reusable },
                });
            }
            Journal::new(identity.clone())
        }
    };
    let output = output_path(&partial);
    disk.create_folder(&output).map_err(|error| refused("create a folder", &output, &error))?;
    let shards = Shards::create(&disk, &output, &layout)?;
    let journal_file = write_journal(&disk, &partial, &journal, &options.key)?;
    let (recorded, told) = (journal.tensors, journal.told);
    if !recorded.is_empty() {
        let bytes = recorded.keys().map(|&index| layout.place(index).bytes).sum();
        notices.push(Notice::Resumes { tensors: recorded.len(), bytes });
    }
    Ok(Begun::Open(Box::new(OutputFolder {
        target,
        shown_target,
        partial,
        force: options.force,
        notices,
        identity,
        disk,
        finished: Mutex::new(vec![None; layout.tensors().len()]),
        layout,
        shards,
        journal: Mutex::new(journal_file),
        recorded,
        told,
        files: Mutex::default(),
        aside: Aside::default(),
        elsewhere: None,
        key: options.key,
        lock,
    })))
}

/// Removes what a process left that was killed between giving an output its name and cleaning up: a hidden
/// folder of ours whose last words are of the output that is there, or one with nothing in it but its lock.
/// Anything else stays as it is.
pub(super) fn tidy(disk: Disk, target: &Path, key: &OwnerKey) {
    let Ok((target, partial)) = find_place(&disk, target) else { return };
    if !owned::is_own_folder(&partial) {
        return;
    }
    // Only an empty folder goes so; whoever makes a lock in it meanwhile finds it gone and makes it again.
    if disk.remove_folder(&partial).is_ok() {
        return;
    }
    let is_over = |words: &[u8]| {
        let journal = Journal::parse(words, key, |_| None).ours();
        journal.is_some_and(|journal| is_complete(&journal, &target))
            || owned::holds_only_lock(&partial)
    };
    // Taking the lock writes over the words, so they are read before.
    if !owned::peek_at_lock(&disk, &lock_path(&partial)).is_some_and(|words| is_over(&words)) {
        return;
    }
    let taken = Lock::take(&disk, &partial, &shown_path(&target), false);
    if taken.is_ok_and(|(_lock, words)| is_over(&words)) {
        finish::clean_up(&disk, &partial);
    }
}

/// The target without links, and the hidden folder beside it. Creates missing parents.
fn find_place(disk: &Disk, target: &Path) -> Result<(PathBuf, PathBuf), Box<Diagnostic>> {
    let problem = |headline: &str| {
        Diagnostic::error(codes::WRITE_FAILED, headline).in_file(shown_path(target))
    };
    let text = target.to_string_lossy();
    if hub::is_remote(&text) {
        return Err(Box::new(
            Diagnostic::error(codes::OUTPUT_REMOTE, "this is written to a folder of this machine")
                .in_file(text)
                .note("object stores, `s3://`, `gs://` and `az://`, take whole outputs of merges")
                .help("name a folder with `--out`, and copy it when it is complete"),
        ));
    }
    let target = match fs::symlink_metadata(target) {
        // The hidden folder lies beside what a link leads to, on the same disk.
        Ok(_) => fs::canonicalize(target)
            .map_err(|error| refused_early("follow the path of the output", target, &error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => target.to_owned(),
        Err(error) => return Err(refused_early("find the output folder", target, &error)),
    };
    let Some(name) = target.file_name() else {
        return Err(Box::new(
            problem("the output needs a folder of its own")
                .help("name a new folder, for instance `--out merged`"),
        ));
    };
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if let Ok(found) = fs::metadata(&target) {
        if !found.is_dir() {
            return Err(Box::new(
                problem("the output is a folder, and there is a file of this name")
                    .help("choose another name with `--out`"),
            ));
        }
        if fs::metadata(&parent).is_ok_and(|above| above.dev() != found.dev()) {
            return Err(Box::new(
                problem("the output folder is where another file system is mounted")
                    .note("it could not appear there in one step")
                    .help("name a folder inside it with `--out`"),
            ));
        }
    }
    disk.create_folder(&parent)
        .map_err(|error| refused_early("create a folder", &parent, &error))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".mixdown-partial");
    Ok((target.clone(), parent.join(hidden)))
}

/// Whether the target is absent or empty.
fn is_free(target: &Path) -> bool {
    match fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

pub(super) fn exists(target: &str) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error(codes::OUTPUT_EXISTS, "the output folder exists and is not empty")
            .in_file(target)
            .help("choose another folder with `--out`, or replace this one with `--force`"),
    )
}

/// Undoes or completes what a process that was killed while it replaced the target left.
fn heal(disk: &Disk, partial: &Path, target: &Path) -> Result<Option<Notice>, Box<Diagnostic>> {
    let replaced = replaced_path(partial);
    if fs::symlink_metadata(&replaced).is_err() {
        return Ok(None);
    }
    let (result, notice) = match fs::symlink_metadata(target) {
        Ok(_) => (disk.remove_all(&replaced), None),
        Err(_) => (disk.rename(&replaced, target), Some(Notice::Restored)),
    };
    result
        .map_err(|error| refused("restore the folder that was moved aside", &replaced, &error))?;
    Ok(notice)
}

/// Whether the target is what this journal says was finished.
fn is_complete(journal: &Journal, target: &Path) -> bool {
    let Some(expected) = journal.finished else { return false };
    let manifest = small::bytes(&target.join(MANIFEST_NAME), MANIFEST_NAME);
    manifest.is_ok_and(|text| TensorDigest::of(&text) == expected)
}

/// The plan's identity together with the layout: other shards are other files.
fn whole_identity(identity: &PlanIdentity, layout: &Layout) -> String {
    let text = format!("{}\n{}", identity.as_str(), layout.digest());
    with_device(&blake3::hash(text.as_bytes()).to_hex(), identity.device())
}

/// The device of an unfinished output of the same work on another one, of which something is there.
fn other_device<'j>(journal: &'j Journal, identity: &str) -> Option<&'j str> {
    let parts = |identity: &'j str| identity.split_once(" on ").unwrap_or((identity, PROCESSOR));
    let digest = identity.split_once(" on ").map_or(identity, |(digest, _)| digest);
    let (of_journal, device) = parts(&journal.identity);
    let is_other = of_journal == digest && journal.identity != identity;
    (is_other && !journal.tensors.is_empty()).then_some(device)
}

/// What is said of an output that no device made.
const PROCESSOR: &str = "the processor";

fn begun_elsewhere(target: &str, begun: &str, now: Option<&str>) -> Box<Diagnostic> {
    let headline = "an unfinished output was begun on another device";
    Box::new(
        Diagnostic::error(codes::BACKEND_DIFFERS, headline)
            .in_file(target)
            .fact("begun on", begun)
            .fact("now", now.unwrap_or(PROCESSOR))
            .note("one output of both would be neither's: their last bits differ")
            .help("use the same `--device` as before to go on, or start over with `--force`"),
    )
}

/// Writes the journal anew, so that no torn line is left in it, and opens it for more.
fn write_journal(
    disk: &Disk,
    partial: &Path,
    journal: &Journal,
    key: &OwnerKey,
) -> Result<File, Box<Diagnostic>> {
    let path = journal_path(partial);
    let fresh = partial.join("journal.new");
    disk.remove_file(&fresh)
        .and_then(|()| disk.write_file(&fresh, journal.text(key).as_bytes()))
        .and_then(|()| disk.rename(&fresh, &path))
        .and_then(|()| disk.open_append(&path))
        .map_err(|error| refused("write the journal", &path, &error))
}
