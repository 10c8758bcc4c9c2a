//! What happens to an output when the system fails it, or ends the process, at any step: nothing
//! half-written under its name, a true message, and a second run with the same bytes.

mod planted;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::{DType, Shape};
use rustix::io::Errno;

use super::disk::{Change, Disk};
use super::{Begun, Notice, OutputFolder, OutputOptions, PlanIdentity, begin};
use crate::journal::OwnerKey;
use crate::layout::{Layout, OutputTensor};
use crate::manifest::{MANIFEST_NAME, Manifest, MergeRecord};
use crate::tensor_digest::TensorDigest;

const KEY: OwnerKey = OwnerKey::new([7; 32]);
const FORCE: OutputOptions =
    OutputOptions { force: true, side_bytes: 0, adopted_bytes: 0, key: KEY };
const PLAIN: OutputOptions =
    OutputOptions { force: false, side_bytes: 0, adopted_bytes: 0, key: KEY };

/// A folder to merge into, `out` within it, and a side file to copy.
struct Space {
    folder: tempfile::TempDir,
    layout: Arc<Layout>,
}

impl Space {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), "{\"version\": 1}").unwrap();
        Self { folder, layout: layout(24) }
    }

    /// For an archive of torch, whose checksums come last.
    fn of_torch() -> Self {
        let tensors = layout(24).tensors().to_vec();
        let layout = Layout::in_torch_file(tensors, "adapter_model.bin").unwrap();
        Self { layout: Arc::new(layout), ..Self::new() }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn partial(&self) -> PathBuf {
        self.folder.path().join(".out.mixdown-partial")
    }

    /// A target that holds something of somebody else.
    fn with_old_output() -> Self {
        let space = Self::new();
        fs::create_dir(space.target()).unwrap();
        fs::write(space.target().join("old.txt"), "old").unwrap();
        space
    }

    fn begin(&self, disk: Disk, options: &OutputOptions) -> Result<Begun, Box<Diagnostic>> {
        begin::begin(disk, &self.target(), Arc::clone(&self.layout), &identity(1), options)
    }

    /// A whole merge, as the executor does it.
    fn run(&self, disk: Disk, options: &OutputOptions) -> Result<(), Box<Diagnostic>> {
        let Begun::Open(mut output) = self.begin(disk, options)? else { return Ok(()) };
        output.confirm(2, &|_| true);
        for offset in [100, 0] {
            output.put_aside(offset, &[offset as u8 + 1; 50])?;
        }
        let mut aside = [0; 20];
        output.read_aside(30, &mut aside)?;
        assert_eq!(aside, [1; 20]);
        output.read_aside(120, &mut aside)?;
        assert_eq!(aside, [101; 20]);
        assert!(!output.partial().join("aside").exists(), "it has no name");
        for tensor in 0..output.layout().tensors().len() {
            write_tensor(&output, tensor)?;
        }
        output.add_file("config.json", b"{}")?;
        output.copy_file("tokenizer.json", &self.folder.path().join("tokenizer.json"))?;
        output.finish(MergeRecord::default())?;
        Ok(())
    }

    /// Everything under the target's name, and nothing beside it.
    fn result(&self) -> Option<BTreeMap<String, Vec<u8>>> {
        let entries = fs::read_dir(self.target()).ok()?;
        let read = |entry: fs::DirEntry| {
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        };
        Some(entries.map(|entry| read(entry.unwrap())).collect())
    }
}

fn layout(shard_bytes: u64) -> Arc<Layout> {
    let list =
        [(DType::Bf16, 5), (DType::F32, 3), (DType::Bool, 7), (DType::Bf16, 0), (DType::F32, 9)];
    let tensors = list.iter().enumerate().map(|(index, &(dtype, elements))| OutputTensor {
        name: format!("layers.{index}.weight"),
        dtype,
        shape: Shape::new(vec![elements]).unwrap(),
    });
    Arc::new(Layout::new(tensors.collect(), shard_bytes).unwrap())
}

fn identity(number: u8) -> PlanIdentity {
    PlanIdentity::new(&[number; 32])
}

fn data(tensor: usize, bytes: u64) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + tensor as u64 * 31 + 1) as u8).collect()
}

/// Writes a tensor in two stretches, the second one first, unless it is finished.
fn write_tensor(output: &OutputFolder, tensor: usize) -> Result<(), Box<Diagnostic>> {
    if output.finished(tensor).is_some() {
        return Ok(());
    }
    let bytes = data(tensor, output.layout().place(tensor).bytes);
    let half = bytes.len() / 2;
    output.write_at(tensor, half as u64, &bytes[half..])?;
    output.write_at(tensor, 0, &bytes[..half])?;
    output.complete(tensor, TensorDigest::of(&bytes))
}

/// What a run without faults gives.
fn reference() -> BTreeMap<String, Vec<u8>> {
    reference_of(Space::new())
}

fn reference_of(space: Space) -> BTreeMap<String, Vec<u8>> {
    space.run(Disk::default(), &PLAIN).unwrap();
    assert!(!space.partial().exists());
    space.result().unwrap()
}

/// A disk on which the first `count` changes succeed, the next one does `what`, and then either all
/// works again or, as for a process that was killed, nothing does.
fn faulty(
    count: usize,
    is_last: bool,
    what: fn() -> io::Result<usize>,
) -> (Disk, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let disk = Disk::with_gate(move |change, _| match counter.fetch_add(1, Ordering::SeqCst) {
        at if at < count => Ok(usize::MAX),
        at if at == count => {
            // Only writes can be torn.
            let is_write = matches!(change, Change::Write | Change::Append);
            what().and_then(|bytes| if is_write { Ok(bytes) } else { Err(Errno::IO.into()) })
        }
        _ if is_last => Err(Errno::IO.into()),
        _ => Ok(usize::MAX),
    });
    (disk, seen)
}

/// Lets every change of a run fail in turn, and after each lets a second run complete the work.
fn check_each_step(
    space: fn() -> Space,
    options: &OutputOptions,
    is_last: bool,
    what: fn() -> io::Result<usize>,
) {
    let expected = reference_of(Space { layout: space().layout, ..Space::new() });
    for count in 0.. {
        let space = space();
        let before = space.result();
        let (disk, seen) = faulty(count, is_last, what);
        let first = space.run(disk, options);
        let now = space.result();
        if first.is_ok() {
            assert_eq!(now.as_ref(), Some(&expected), "step {count} was said to be fine");
        } else {
            let is_whole = now == before || now.as_ref() == Some(&expected);
            let can_heal = now.is_none() && space.partial().join("replaced/old.txt").exists();
            assert!(is_whole || can_heal, "step {count} left {now:?}");
        }
        space.run(Disk::default(), options).unwrap_or_else(|problem| {
            // A run that was fine but for its last clean-up leaves nothing to do.
            assert!(
                first.is_ok() && problem.code == codes::OUTPUT_EXISTS,
                "step {count}: {problem:?}"
            );
        });
        assert_eq!(space.result().as_ref(), Some(&expected), "after step {count}");
        assert!(!space.partial().exists(), "step {count}");
        if seen.load(Ordering::SeqCst) <= count {
            assert!(count > 20, "the gate saw only {count} changes");
            return;
        }
    }
}

fn torn() -> io::Result<usize> {
    Ok(3)
}

fn full() -> io::Result<usize> {
    Err(Errno::NOSPC.into())
}

#[test]
fn killed_at_each_step() {
    check_each_step(Space::new, &PLAIN, true, torn);
}

#[test]
fn killed_at_each_step_of_replacing() {
    check_each_step(Space::with_old_output, &FORCE, true, torn);
}

#[test]
fn each_step_fails_once() {
    check_each_step(Space::new, &PLAIN, false, full);
    check_each_step(Space::with_old_output, &FORCE, false, full);
}

#[test]
fn an_archive_of_torch_is_sealed_whatever_happens() {
    check_each_step(Space::of_torch, &PLAIN, true, torn);
    check_each_step(Space::of_torch, &PLAIN, false, full);
}

#[test]
fn an_empty_folder_is_filled() {
    let space = Space::new();
    fs::create_dir(space.target()).unwrap();
    space.run(Disk::default(), &PLAIN).unwrap();
    assert_eq!(space.result(), Some(reference()));
}

/// Where the system cannot swap folders, a kill between two renames leaves the old one aside.
#[test]
fn replacing_in_two_renames_heals() {
    let expected = reference();
    let no_swap = |fail_at: usize| {
        let renames = AtomicUsize::new(0);
        Disk::with_gate(move |change, path| match change {
            Change::Exchange => Err(io::ErrorKind::Unsupported.into()),
            // The first goes onto the folder that is there, the journal's own not counted.
            Change::Rename if !path.ends_with("journal") => {
                match renames.fetch_add(1, Ordering::SeqCst) >= fail_at {
                    true => Err(Errno::IO.into()),
                    false => Ok(usize::MAX),
                }
            }
            _ => Ok(usize::MAX),
        })
    };
    let space = Space::with_old_output();
    space.run(no_swap(2), &FORCE).unwrap_err();
    assert!(!space.target().exists());
    assert_eq!(fs::read(space.partial().join("replaced/old.txt")).unwrap(), b"old");
    // Another command heals it, and does not replace what it may not replace.
    assert_eq!(space.run(Disk::default(), &PLAIN).unwrap_err().code, codes::OUTPUT_EXISTS);
    assert_eq!(fs::read(space.target().join("old.txt")).unwrap(), b"old");
    space.run(no_swap(usize::MAX), &FORCE).unwrap();
    assert_eq!(space.result(), Some(expected));
    assert!(!space.partial().exists());
}

#[test]
fn a_full_disk_says_so_and_keeps_the_work() {
    let space = Space::new();
    let disk = Disk::with_gate(|change, path| {
        let is_third = path.ends_with("model-00003-of-00003.safetensors");
        if change == Change::Write
            && is_third
            && path.exists()
            && path.metadata().unwrap().len() > 0
        {
            // The header was written when the file was created at its length.
            return if fs::read(path)?[0] != 0 { full() } else { Ok(usize::MAX) };
        }
        Ok(usize::MAX)
    });
    let problem = space.run(disk, &PLAIN).unwrap_err();
    assert_eq!(problem.code, codes::DISK_FULL);
    assert!(problem.help.unwrap().contains("same command"));
    assert!(!space.target().exists());
    let Begun::Open(mut output) = space.begin(Disk::default(), &PLAIN).unwrap() else { panic!() };
    assert_eq!(output.notices(), [Notice::Resumes { tensors: 4, bytes: 29 }]);
    assert_eq!(output.confirm(1, &|_| true), 29);
}

#[test]
fn too_little_space_is_seen_before_anything_is_written() {
    let space = Space::new();
    let options = OutputOptions { side_bytes: u64::MAX / 4, ..PLAIN };
    let problem = space.run(Disk::default(), &options).unwrap_err();
    assert_eq!(problem.code, codes::DISK_FULL);
    assert_eq!(problem.facts.len(), 2);
    assert!(!space.target().exists() && !space.partial().exists());
}

#[test]
fn damaged_bytes_are_computed_again() {
    let space = Space::new();
    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    for tensor in 0..3 {
        write_tensor(&output, tensor).unwrap();
    }
    let place = output.layout().place(1);
    let path = output.partial().join("output").join(&output.layout().shards()[place.shard].name);
    drop(output);
    let mut bytes = fs::read(&path).unwrap();
    bytes[place.offset as usize] ^= 1;
    fs::write(&path, bytes).unwrap();

    let mut output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    assert_eq!(output.recorded_bytes(), 10 + 12 + 7);
    assert_eq!(output.confirm(2, &|_| true), 10 + 7);
    let is_finished: Vec<bool> = (0..5).map(|index| output.finished(index).is_some()).collect();
    assert_eq!(is_finished, [true, false, true, false, false]);
    drop(output);
    space.run(Disk::default(), &PLAIN).unwrap();
    assert_eq!(space.result(), Some(reference()));
}

#[test]
fn confirming_can_be_stopped() {
    let space = Space::new();
    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    write_tensor(&output, 0).unwrap();
    drop(output);
    let mut output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    assert_eq!(output.confirm(1, &|_| false), 0);
    assert_eq!(output.finished(0), None);
}

/// After a failed sync the bytes may be gone although they can still be read.
#[test]
fn what_could_not_be_stored_is_not_trusted() {
    let space = Space::new();
    let disk = Disk::with_gate(|change, path| {
        let is_shard = path.extension().is_some_and(|ending| ending == "safetensors");
        if change == Change::Sync && is_shard { Err(Errno::IO.into()) } else { Ok(usize::MAX) }
    });
    let problem = space.run(disk, &PLAIN).unwrap_err();
    assert_eq!(problem.code, codes::WRITE_FAILED);
    assert!(problem.headline.contains("disk reported an error"));
    assert!(!space.target().exists());
    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    let all: u64 = output.layout().total_bytes();
    assert!(output.recorded_bytes() < all);
    drop(output);
    space.run(Disk::default(), &PLAIN).unwrap();
    assert_eq!(space.result(), Some(reference()));
}

#[test]
fn a_second_process_is_refused() {
    let space = Space::new();
    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    let problem = space.begin(Disk::default(), &PLAIN).unwrap_err();
    assert_eq!(problem.code, codes::OUTPUT_BUSY);
    assert_eq!(problem.facts, [("process".to_owned(), std::process::id().to_string())]);
    drop(output);
    space.begin(Disk::default(), &PLAIN).unwrap();
}

#[test]
fn another_merge_does_not_continue_this_one() {
    let check = |number: u8, shard_bytes: u64| {
        let space = Space::new();
        let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
        write_tensor(&output, 0).unwrap();
        drop(output);
        let (layout, identity) = (layout(shard_bytes), identity(number));
        let begun = begin::begin(Disk::default(), &space.target(), layout, &identity, &PLAIN);
        let output = begun.unwrap().open().unwrap();
        assert!(matches!(output.notices(), [Notice::Cleared { .. }]), "{:?}", output.notices());
        assert_eq!(output.recorded_bytes(), 0);
    };
    check(2, 24);
    check(1, 1000);
}

#[test]
fn what_exists_is_not_touched() {
    let space = Space::with_old_output();
    let problem = space.run(Disk::default(), &PLAIN).unwrap_err();
    assert_eq!(problem.code, codes::OUTPUT_EXISTS);
    assert!(!space.partial().exists());
    fs::remove_dir_all(space.target()).unwrap();
    fs::write(space.target(), "a file").unwrap();
    for options in [PLAIN, FORCE] {
        assert_eq!(space.run(Disk::default(), &options).unwrap_err().code, codes::WRITE_FAILED);
    }
    assert_eq!(fs::read(space.target()).unwrap(), b"a file");
}

#[test]
fn a_folder_that_fills_up_meanwhile_is_not_replaced() {
    let space = Space::new();
    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    (0..5).for_each(|tensor| write_tensor(&output, tensor).unwrap());
    fs::create_dir(space.target()).unwrap();
    fs::write(space.target().join("late.txt"), "late").unwrap();
    let problem = output.finish(MergeRecord::default()).unwrap_err();
    assert_eq!(problem.code, codes::OUTPUT_EXISTS);
    assert_eq!(fs::read(space.target().join("late.txt")).unwrap(), b"late");
}

#[test]
fn places_without_a_name_are_refused_and_missing_parents_made() {
    for target in ["/", ".."] {
        let found =
            begin::begin(Disk::default(), Path::new(target), layout(0), &identity(1), &PLAIN);
        assert!(found.is_err(), "{target}");
    }
    let space = Space::new();
    let deep = space.folder.path().join("a/b/c");
    let output = begin::begin(Disk::default(), &deep, layout(0), &identity(1), &PLAIN).unwrap();
    assert!(space.folder.path().join("a/b/.c.mixdown-partial/output/model.safetensors").exists());
    drop(output);
    let denied = Disk::with_gate(|_, _| Err(Errno::ROFS.into()));
    let problem = space.run(denied, &PLAIN).unwrap_err();
    assert_eq!(problem.headline, "the file system is read-only");
}

/// The old output may be a folder of links into a cache; what they lead to must stay as it is.
#[test]
fn links_of_an_earlier_folder_are_not_written_through() {
    let space = Space::new();
    let blob = space.folder.path().join("blob");
    fs::write(&blob, "precious").unwrap();
    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    let names = ["model-00001-of-00003.safetensors", "config.json", MANIFEST_NAME];
    drop(output);
    for name in names {
        let path = space.partial().join("output").join(name);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(&blob, path).unwrap();
    }
    let second = space.partial().join("output/model-00002-of-00003.safetensors");
    fs::remove_file(&second).unwrap();
    fs::hard_link(&blob, &second).unwrap();
    space.run(Disk::default(), &PLAIN).unwrap();
    assert_eq!(fs::read(&blob).unwrap(), b"precious");
    assert_eq!(space.result(), Some(reference()));
}

#[test]
fn files_have_names_of_their_own() {
    let space = Space::new();
    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    let taken = ["model-00001-of-00003.safetensors", "model.safetensors.index.json", MANIFEST_NAME];
    for name in
        ["../x", "a/../b", "a/.hidden", "a//b", "/a", "a/", ".hidden", ""].iter().chain(&taken)
    {
        assert!(output.add_file(name, b"").is_err(), "{name}");
    }
    let absent = output.copy_file("vocab.json", Path::new("/nonexistent")).unwrap_err();
    assert_eq!(absent.code, codes::UNREADABLE);
}

#[test]
fn an_output_with_a_hole_is_not_finished() {
    let space = Space::new();
    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    (0..4).for_each(|tensor| write_tensor(&output, tensor).unwrap());
    let problem = output.finish(MergeRecord::default()).unwrap_err();
    assert_eq!(problem.facts, [("missing".to_owned(), "layers.4.weight".to_owned())]);
    assert!(!space.target().exists());
}

#[test]
fn the_manifest_names_every_part() {
    let space = Space::new();
    space.run(Disk::default(), &PLAIN).unwrap();
    let manifest = Manifest::read(&space.target()).unwrap();
    let names: Vec<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["config.json", "model.safetensors.index.json", "tokenizer.json"]);
    for (index, tensor) in manifest.tensors.iter().enumerate() {
        let bytes = data(index, layout(24).place(index).bytes);
        assert_eq!(tensor.blake3, TensorDigest::of(&bytes));
    }
}

#[test]
fn many_threads_write_one_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let tensor = OutputTensor {
        name: "x".into(),
        dtype: DType::U8,
        shape: Shape::new(vec![(130 << 20) + 77]).unwrap(),
    };
    let layout = Arc::new(Layout::new(vec![tensor], 0).unwrap());
    let target = folder.path().join("out");
    let begun = OutputFolder::begin(&target, layout, &identity(1), &PLAIN).unwrap();
    let output = begun.open().unwrap();
    let bytes = data(0, output.layout().place(0).bytes);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let start = next.fetch_add(1 << 20, Ordering::Relaxed);
                    let Some(rest) = bytes.get(start..) else { break };
                    let piece = &rest[..rest.len().min(1 << 20)];
                    output.write_at(0, start as u64, piece).unwrap();
                }
            });
        }
    });
    output.complete(0, TensorDigest::of(&bytes)).unwrap();
    let header = output.layout().shards()[0].header.len();
    output.finish(MergeRecord::default()).unwrap();
    assert!(fs::read(target.join("model.safetensors")).unwrap()[header..] == bytes);
}

/// Whether or not this disk can share blocks, the bytes must be those of the source.
#[test]
fn a_copy_shares_blocks_or_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let lengths = [9000, 50_000, 300, 20_000];
    let source = data(3, 1000 + lengths.iter().sum::<u64>());
    fs::write(folder.path().join("source"), &source).unwrap();
    let from = fs::File::open(folder.path().join("source")).unwrap();
    let mut starts = vec![1000];
    starts.extend(lengths.iter().scan(1000, |at, bytes| {
        *at += bytes;
        Some(*at)
    }));
    let tensors = lengths.iter().enumerate().map(|(index, &bytes)| OutputTensor {
        name: index.to_string(),
        dtype: DType::U8,
        shape: Shape::new(vec![bytes]).unwrap(),
    });
    let sources: Vec<Option<u64>> = starts.iter().copied().map(Some).collect();
    for padded in [&sources[..4], &[]] {
        let layout = Layout::sharing(tensors.clone().collect(), 60_000, padded).unwrap();
        let target = folder.path().join(format!("out-{}", padded.len()));
        let begun = OutputFolder::begin(&target, Arc::new(layout), &identity(1), &PLAIN);
        let output = begun.unwrap().open().unwrap();
        let mut shared = 0;
        for (tensor, &bytes) in lengths.iter().enumerate() {
            let expected = &source[starts[tensor] as usize..][..bytes as usize];
            // The first bytes are written, so that what is shared begins within the tensor.
            output.write_at(tensor, 0, &expected[..10]).unwrap();
            let done =
                output.copy_range(tensor, 10, &from, starts[tensor] + 10, bytes - 10).unwrap();
            assert!(done == 0 || done == bytes - 10);
            shared += done;
            output.write_at(tensor, 10 + done, &expected[10 + done as usize..]).unwrap();
            output.complete(tensor, TensorDigest::of(expected)).unwrap();
        }
        output.finish(MergeRecord::default()).unwrap();
        crate::verify::verify(crate::verify::Lying::here(&target), 2, &|_, _| true).unwrap();
        println!("{shared} bytes shared");
        assert!(shared == 0 || !padded.is_empty(), "no source lies where its copy does");
    }
}

/// Not a test by itself: the process that the next one kills. It stops at the change that
/// `MIXDOWN_TEST_STOP_AT` says, tells so, and waits for its end.
#[test]
fn a_process_to_be_killed() {
    let Ok(stop_at) = std::env::var("MIXDOWN_TEST_STOP_AT") else { return };
    let stop_at: usize = stop_at.parse().unwrap();
    let target = PathBuf::from(std::env::var_os("MIXDOWN_TEST_TARGET").unwrap());
    let seen = AtomicUsize::new(0);
    let disk = Disk::with_gate(move |_, _| {
        if seen.fetch_add(1, Ordering::SeqCst) == stop_at {
            eprintln!("stopped");
            loop {
                std::thread::park();
            }
        }
        Ok(usize::MAX)
    });
    let begun = begin::begin(disk, &target, layout(24), &identity(1), &PLAIN).unwrap();
    let Some(mut output) = begun.open() else { return };
    output.confirm(1, &|_| true);
    (0..5).for_each(|tensor| write_tensor(&output, tensor).unwrap());
    output.finish(MergeRecord::default()).unwrap();
}

#[test]
fn a_process_is_killed() {
    for stop_at in [2, 5, 12, 20, 26, 33, 36, 38] {
        let space = Space::new();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "output::tests::a_process_to_be_killed", "--nocapture"])
            .env("MIXDOWN_TEST_STOP_AT", stop_at.to_string())
            .env("MIXDOWN_TEST_TARGET", space.target())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "stopped\n", "the process had fewer than {stop_at} changes to make");
        let held = space.begin(Disk::default(), &PLAIN).map(drop);
        if stop_at > 2 {
            assert_eq!(held.unwrap_err().code, codes::OUTPUT_BUSY, "{stop_at}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let now = space.result();
        assert!(now.is_none() || now.is_some_and(|files| files.contains_key(MANIFEST_NAME)));
        match space.run(Disk::default(), &PLAIN) {
            Ok(()) => {}
            Err(problem) => assert_eq!(problem.code, codes::OUTPUT_EXISTS, "{stop_at}"),
        }
        let result = space.result().unwrap();
        for (name, bytes) in reference() {
            if name.ends_with(".safetensors") {
                assert_eq!(result[&name], bytes, "{stop_at}: {name}");
            }
        }
        assert!(!space.partial().exists());
    }
}
