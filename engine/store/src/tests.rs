//! The store as its users see it: what is kept comes back, and what is not sound is never believed.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use mixdown_tensor::{DType, Shape};

use crate::entry::{CHUNK_BYTES, PREAMBLE_BYTES};
use crate::*;

struct Case {
    folder: tempfile::TempDir,
    store: Store,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("store"));
        Self { folder, store }
    }

    /// The file of an entry, by the documented name.
    fn file(&self, key: &Key) -> PathBuf {
        let name = key.to_string();
        self.folder.path().join("store/v1").join(&name[..2]).join(format!("{name}.entry"))
    }

    fn files(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.folder.path().join("store/v1")).into_iter().flatten();
        let mut found: Vec<PathBuf> = folders
            .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
            .map(|file| file.unwrap().path())
            .collect();
        found.sort();
        found
    }

    /// Stores an entry of some 100 bytes more than `bytes`, last used so many days ago.
    fn aged(&self, name: &str, bytes: usize, days: u64) -> Key {
        let key = Key::of(name.as_bytes());
        self.store.put(&key, &floats(name, vec![1.5; bytes / 4])).unwrap();
        let time = SystemTime::now() - Duration::from_secs(days * 86_400 + 60);
        File::options().write(true).open(self.file(&key)).unwrap().set_modified(time).unwrap();
        key
    }

    fn titles(&self) -> Vec<String> {
        let titles = self.store.list().unwrap();
        titles.iter().map(|entry| entry.title().unwrap_or("?").to_owned()).collect()
    }

    #[track_caller]
    fn fault(&self, key: &Key) -> Fault {
        match self.store.get(key) {
            Err(ReadError::Damaged(damage)) => {
                assert!(damage.removed && !self.file(key).exists(), "{damage}");
                assert!(self.store.get(key).unwrap().is_none(), "then it is absent");
                damage.fault
            }
            other => panic!("it is damaged: {other:?}"),
        }
    }
}

fn shape(dimensions: &[u64]) -> Shape {
    Shape::new(dimensions.to_vec()).unwrap()
}

fn floats(title: &str, values: Vec<f32>) -> Entry {
    let shape = shape(&[values.len() as u64]);
    let array = Array { name: "x".to_owned(), shape, data: Data::F32(values) };
    Entry { title: title.to_owned(), metadata: String::new(), arrays: vec![array] }
}

fn small() -> Entry {
    let array = |name: &str, dimensions: &[u64], data| Array {
        name: name.to_owned(),
        shape: shape(dimensions),
        data,
    };
    Entry {
        title: "spectrum of model.layers.0.mlp.up_proj.weight".to_owned(),
        metadata: r#"{"rank": 2}"#.to_owned(),
        arrays: vec![
            array("values", &[2], Data::F64(vec![1e300, -0.0])),
            array("vectors", &[2, 3], Data::F32(vec![1.0, 2.5, f32::MIN_POSITIVE, -4.0, 0.0, 6.0])),
            array("nothing", &[0, 5], Data::F32(vec![])),
            array("one", &[], Data::F64(vec![f64::INFINITY])),
        ],
    }
}

/// Three chunks and a bit, in two arrays.
fn large() -> Entry {
    let count = CHUNK_BYTES as usize / 4;
    let mut entry = floats("large", (0..2 * count + 7).map(|number| number as f32).collect());
    let data = Data::F64((0..count / 2).map(|number| number as f64 / 3.0).collect());
    entry.arrays.push(Array { name: "y".to_owned(), shape: shape(&[2, count as u64 / 4]), data });
    entry
}

fn bytes_of(entry: &Entry) -> Vec<Vec<u8>> {
    let bytes = |array: &Array| match &array.data {
        Data::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Data::F64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    entry.arrays.iter().map(bytes).collect()
}

#[test]
fn what_is_kept_comes_back() {
    let case = Case::new();
    for entry in
        [small(), large(), Entry { title: String::new(), metadata: String::new(), arrays: vec![] }]
    {
        let key = Key::of(entry.title.as_bytes());
        assert!(case.store.get(&key).unwrap().is_none());
        assert!(case.store.contains(&key).unwrap().is_none());
        case.store.put(&key, &entry).unwrap();
        assert_eq!(case.store.get(&key).unwrap().unwrap(), entry);
        let info = case.store.contains(&key).unwrap().unwrap();
        assert_eq!(info.header, entry.header());
        assert_eq!(info.bytes, fs::metadata(case.file(&key)).unwrap().len());
        assert!(SystemTime::now().duration_since(info.created).unwrap() < Duration::from_secs(600));
    }
    assert_eq!(case.files().len(), 3, "no other file stays");
    let tag = fs::read_to_string(case.folder.path().join("store/CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
}

/// The bytes that `entry.rs` describes, put together here by hand.
#[test]
fn the_bytes_are_those_of_the_description() {
    let case = Case::new();
    let key = Key::of(b"key");
    case.store.put(&key, &floats("t", vec![1.0])).unwrap();
    let mut found = fs::read(case.file(&key)).unwrap();
    found[80..88].fill(0); // when it was made
    let mut header = vec![0; 8];
    header.extend(b"\x01\0\0\0t\0\0\0\0\x01\0\0\0\x01\0\0\0x\0\x01\x01\0\0\0\0\0\0\0");
    let mut expected = b"mixstore\x01\0\0\0".to_vec();
    expected.extend((header.len() as u32).to_le_bytes());
    expected.extend(key.as_bytes());
    expected.extend(&found[48..80]);
    expected.extend(header);
    expected.extend(blake3::hash(&1_f32.to_le_bytes()).as_bytes());
    expected.extend(1_f32.to_le_bytes());
    assert_eq!(found, expected);
}

#[test]
fn pieces_are_written_and_read_in_any_order() {
    let case = Case::new();
    let (entry, key) = (large(), Key::of(b"pieces"));
    let arrays = bytes_of(&entry);
    let writer = case.store.writer(&key, entry.header()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (writer, arrays) = (&writer, &arrays);
            scope.spawn(move || {
                for (array, bytes) in arrays.iter().enumerate() {
                    let pieces: Vec<_> = bytes.chunks(300_001).enumerate().collect();
                    for (number, piece) in pieces.into_iter().rev().filter(|p| p.0 % 3 == thread) {
                        writer.write_at(array, number as u64 * 300_001, piece).unwrap();
                    }
                }
            });
        }
    });
    assert!(case.store.get(&key).unwrap().is_none(), "it is not there before it is committed");
    writer.commit().unwrap();
    assert_eq!(case.store.get(&key).unwrap().unwrap(), entry);

    let open = case.store.open(&key).unwrap().unwrap();
    let chunk = CHUNK_BYTES as usize;
    for (at, length) in
        [(0, 1), (chunk - 1, 2), (chunk, chunk), (3, 2 * chunk), (2 * chunk, 28), (9, 0)]
    {
        let mut found = vec![0; length];
        open.read_at(0, at as u64, &mut found).unwrap();
        assert!(found == arrays[0][at..at + length], "{length} bytes at {at}");
    }
    let mut found = [0.0; 3];
    let second = open.position("y").unwrap();
    open.read_f64(second, 5, &mut found).unwrap();
    assert_eq!(found, [5.0 / 3.0, 2.0, 7.0 / 3.0]);
}

#[test]
fn an_entry_with_holes_or_overlaps_is_not_committed() {
    let case = Case::new();
    let key = Key::of(b"holes");
    let header = floats("t", vec![0.0; 10]).header();
    let writer = case.store.writer(&key, header.clone()).unwrap();
    writer.write_at(0, 0, &[1; 16]).unwrap();
    writer.write_at(0, 20, &[1; 20]).unwrap();
    let again = writer.write_at(0, 12, &[2; 8]).unwrap_err();
    assert!(matches!(again, WriteError::Twice { array: 0, at: 12 }), "{again}");
    let fault = writer.commit().unwrap_err();
    assert!(matches!(fault, WriteError::Incomplete { array: 0, at: 0 }), "{fault}");
    // A process that gives up, without a word.
    let writer = case.store.writer(&key, header).unwrap();
    writer.write_at(0, 0, &[1; 40]).unwrap();
    assert_eq!(case.files().len(), 1);
    drop(writer);
    assert_eq!(case.files(), [""; 0].map(PathBuf::from));
}

#[test]
fn every_truncation_is_noticed() {
    let case = Case::new();
    let key = Key::of(b"short");
    case.store.put(&key, &small()).unwrap();
    let bytes = fs::read(case.file(&key)).unwrap();
    for length in 0..bytes.len() {
        fs::write(case.file(&key), &bytes[..length]).unwrap();
        let fault = case.fault(&key);
        let short = matches!(fault, Fault::HeaderTruncated { .. } | Fault::Length { .. });
        assert!(short, "{length} bytes: {fault}");
    }
    fs::write(case.file(&key), [&bytes[..], b"\0"].concat()).unwrap();
    let (found, expected) = (bytes.len() as u64 + 1, bytes.len() as u64);
    assert_eq!(case.fault(&key), Fault::Length { found, expected });
}

#[test]
fn every_flipped_bit_is_noticed() {
    let case = Case::new();
    let key = Key::of(b"flipped");
    case.store.put(&key, &small()).unwrap();
    let sound = fs::read(case.file(&key)).unwrap();
    for at in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(case.file(&key), bytes).unwrap();
        case.fault(&key);
    }
}

/// What was read before the damage is right, and the damage is noticed when it is reached.
#[test]
fn damage_in_a_chunk_is_noticed_when_it_is_read() {
    let case = Case::new();
    let (entry, key) = (large(), Key::of(b"chunk"));
    case.store.put(&key, &entry).unwrap();
    let mut bytes = fs::read(case.file(&key)).unwrap();
    let data = bytes.len() - 3 * CHUNK_BYTES as usize - 28;
    bytes[data + CHUNK_BYTES as usize + 5] ^= 4;
    fs::write(case.file(&key), bytes).unwrap();
    let open = case.store.open(&key).unwrap().unwrap();
    let mut found = [0.0; 4];
    open.read_f32(0, 100, &mut found).unwrap();
    assert_eq!(found, [100.0, 101.0, 102.0, 103.0]);
    let ReadError::Damaged(damage) = open.read_f32(0, 300_000, &mut found).unwrap_err() else {
        panic!("it is damage")
    };
    assert_eq!(damage.fault, Fault::DataDigest { at: data as u64 + CHUNK_BYTES });
    assert!(damage.removed && case.store.open(&key).unwrap().is_none());
}

#[test]
fn another_version_is_not_read() {
    let case = Case::new();
    let key = Key::of(b"version");
    case.store.put(&key, &small()).unwrap();
    let (v1, v2) = (case.store.folder().join("v1"), case.store.folder().join("v2"));
    fs::rename(&v1, &v2).unwrap();
    assert!(case.store.get(&key).unwrap().is_none());
    assert!(case.store.list().unwrap().is_empty());
    case.store.prune(&PruneOptions { all: true, ..Default::default() }).unwrap();
    // Nor when it comes to stand in this version's folder.
    fs::rename(&v2, &v1).unwrap();
    let mut bytes = fs::read(case.file(&key)).unwrap();
    bytes[8] = 2;
    fs::write(case.file(&key), bytes).unwrap();
    assert_eq!(case.fault(&key), Fault::OtherVersion(2));
}

#[test]
fn an_entry_under_another_name_is_not_believed() {
    let case = Case::new();
    let (one, other) = (Key::of(b"one"), Key::of(b"other"));
    case.store.put(&one, &small()).unwrap();
    case.store.put(&other, &large()).unwrap();
    fs::copy(case.file(&one), case.file(&other)).unwrap();
    assert_eq!(case.fault(&other), Fault::OtherKey(one));
}

/// Headers with a right digest that say what cannot be, and the same without.
#[test]
fn headers_that_lie() {
    let case = Case::new();
    let key = Key::of(b"lies");
    case.store.put(&key, &small()).unwrap();
    let check = |header: &[u8], expected: &dyn Fn(Fault) -> bool| {
        let mut bytes = entry::prefix(&key, header, &[]);
        bytes.extend([0; 64]);
        fs::write(case.file(&key), bytes).unwrap();
        let fault = case.fault(&key);
        assert!(expected(fault), "{header:?}: {fault:?}");
    };
    let is = |wanted: HeaderFault| move |found| found == Fault::Header(wanted);
    let begin = [0; 16];
    let with = |parts: &[&[u8]]| [&begin[..], &parts.concat()].concat();
    let array = |name: &[u8; 1], dtype: u8, dimensions: &[u64]| {
        let mut bytes = [b"\x01\0\0\0", &name[..], &[dtype, dimensions.len() as u8]].concat();
        bytes.extend(dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
        bytes
    };
    let one: &[u8] = b"\x01\0\0\0";
    let two: &[u8] = b"\x02\0\0\0";
    check(&[], &is(HeaderFault::EndsEarly));
    check(&[&[0; 8][..], b"\xff\xff\xff\xff"].concat(), &is(HeaderFault::EndsEarly));
    check(&with(&[b"\xff\xff\xff\xff"]), &is(HeaderFault::EndsEarly));
    check(&with(&[one, &array(b"x", 2, &[1])]), &is(HeaderFault::UnknownType));
    check(&with(&[one, &array(b"\xff", 0, &[1])]), &is(HeaderFault::NotText));
    check(&with(&[one, &array(b"x", 0, &[u64::MAX, u64::MAX])]), &is(HeaderFault::TooMuchData));
    check(&with(&[one, &array(b"x", 0, &[1 << 61])]), &is(HeaderFault::TooMuchData));
    let half = (1 << 61) - 1;
    let halves = [array(b"x", 1, &[half]), array(b"y", 1, &[half])].concat();
    check(&with(&[two, &halves]), &is(HeaderFault::TooMuchData));
    // Two arrays that would be the same bytes.
    let same = [array(b"x", 0, &[4]), array(b"x", 0, &[4])].concat();
    check(&with(&[two, &same]), &is(HeaderFault::SameName));
    check(&with(&[one, &array(b"x", 0, &[4]), b"more"]), &is(HeaderFault::GoesOn));
    // 2 EB that the file does not have: nothing is allocated for them, or for their digests.
    let huge = with(&[one, &array(b"x", 0, &[1 << 59])]);
    check(&huge, &|found| matches!(found, Fault::Length { expected, .. } if expected > 1 << 61));
    // A length of the header that the file does not have, and one beyond all headers.
    for (length, wanted) in [(1_u32 << 20, None), (u32::MAX, Some(HeaderFault::TooLarge))] {
        let mut bytes = entry::prefix(&key, &begin, &[]);
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        fs::write(case.file(&key), bytes).unwrap();
        match (case.fault(&key), wanted) {
            (Fault::Header(found), Some(wanted)) => assert_eq!(found, wanted),
            (Fault::HeaderTruncated { needed, .. }, None) => {
                assert_eq!(needed, u64::from(length) + PREAMBLE_BYTES as u64);
            }
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn headers_that_cannot_be_stored_are_refused() {
    let case = Case::new();
    let refused = |change: fn(&mut Header)| {
        let mut header = small().header();
        change(&mut header);
        match case.store.writer(&Key::of(b"refused"), header) {
            Err(WriteError::Header(fault)) => fault,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|header| header.arrays[0].dtype = DType::Bf16), HeaderFault::UnknownType);
    assert_eq!(refused(|header| header.arrays[1].name = "one".to_owned()), HeaderFault::SameName);
    assert_eq!(refused(|header| header.metadata = "x".repeat(1 << 20)), HeaderFault::TooLarge);
    assert!(!case.store.folder().exists());
}

#[test]
fn two_writers_of_one_entry_are_both_fine() {
    let case = Case::new();
    let (entry, key) = (large(), Key::of(b"twice"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    case.store.put(&key, &entry).unwrap();
                    assert_eq!(case.store.get(&key).unwrap().unwrap(), entry);
                }
            });
        }
    });
    assert_eq!(case.files(), [case.file(&key)]);
}

/// Each access that writing makes, refused once: an error, and nothing that looks like an entry.
#[test]
fn a_disk_that_refuses_is_an_error_and_leaves_nothing() {
    use Access::*;
    for refused in [CreateFolder, CreateFile, SetLength, Write, Sync, Rename] {
        let case = Case::new();
        let gate = move |access, _: &std::path::Path| match access == refused {
            true if access == Write => Ok(5),
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(usize::MAX),
        };
        let store = case.store.clone().with_gate(Arc::new(gate));
        let key = Key::of(b"full");
        let error = store.put(&key, &large()).unwrap_err();
        let WriteError::System(error) = error else { panic!("{refused:?}: {error}") };
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert!(!error.warning().is_error());
        assert_eq!(case.files(), [""; 0].map(PathBuf::from), "after {refused:?}");
        case.store.put(&key, &large()).unwrap();
    }
}

/// The name must not be there before the content is stored.
#[test]
fn content_is_stored_before_the_name() {
    let case = Case::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let gate = {
        let seen = seen.clone();
        move |access, _: &std::path::Path| {
            seen.lock().unwrap().push(access);
            Ok(usize::MAX)
        }
    };
    case.store.clone().with_gate(Arc::new(gate)).put(&Key::of(b"order"), &small()).unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(
        seen[seen.len() - 4..],
        [Access::Write, Access::Sync, Access::Rename, Access::SyncFolder]
    );
}

#[test]
fn reading_that_the_system_refuses_is_no_damage() {
    let case = Case::new();
    let key = Key::of(b"refused");
    case.store.put(&key, &small()).unwrap();
    let gate = |access, _: &std::path::Path| match access {
        Access::Read => Err(io::ErrorKind::PermissionDenied.into()),
        // Nor does it matter that the use cannot be noted.
        Access::Touch => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        _ => Ok(usize::MAX),
    };
    let error = case.store.clone().with_gate(Arc::new(gate)).get(&key).unwrap_err();
    assert!(matches!(error, ReadError::System(_)), "{error}");
    let gate = |access, _: &std::path::Path| match access {
        Access::Touch => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        _ => Ok(usize::MAX),
    };
    assert!(case.store.clone().with_gate(Arc::new(gate)).get(&key).unwrap().is_some());
}

#[test]
fn a_place_where_no_folder_can_be_is_an_error_and_holds_nothing() {
    let case = Case::new();
    fs::write(case.store.folder(), "a file").unwrap();
    let key = Key::of(b"nowhere");
    assert!(matches!(case.store.put(&key, &small()), Err(WriteError::System(_))));
    assert!(case.store.get(&key).unwrap().is_none());
}

/// Opening a pipe would wait for whoever writes to it.
#[test]
fn what_is_no_file_is_absent() {
    let case = Case::new();
    let key = case.aged("pipe", 400, 1);
    let file = case.file(&key);
    fs::remove_file(&file).unwrap();
    match std::process::Command::new("mkfifo").arg(&file).status() {
        Ok(status) => assert!(status.success(), "`mkfifo` makes a pipe"),
        Err(error) => return eprintln!("skipped: no `mkfifo` on this machine: {error}"),
    }
    assert!(case.store.get(&key).unwrap().is_none());
    case.store.put(&key, &small()).unwrap();
    assert_eq!(case.store.get(&key).unwrap().unwrap().title, small().title);
}

#[test]
fn a_use_is_noted_and_a_look_is_none() {
    let case = Case::new();
    let key = case.aged("old", 400, 40);
    let age = || case.store.list().unwrap()[0].last_used.elapsed().unwrap();
    case.store.contains(&key).unwrap().unwrap();
    assert!(age() > Duration::from_secs(86_400));
    case.store.get(&key).unwrap().unwrap();
    assert!(age() < Duration::from_secs(600));
}

#[test]
fn the_least_recently_used_go_first() {
    let case = Case::new();
    for (name, days) in [("b", 2), ("d", 4), ("a", 1), ("c", 3)] {
        case.aged(name, 4000, days);
    }
    assert_eq!(case.titles(), ["d", "c", "b", "a"]);
    let one = case.store.list().unwrap()[0].bytes;
    let mut options =
        PruneOptions { max_bytes: Some(3 * one - 1), dry_run: true, ..Default::default() };
    assert_eq!(case.store.prune(&options).unwrap().removed.len(), 2);
    assert_eq!(case.titles(), ["d", "c", "b", "a"], "a dry run removes nothing");
    options.dry_run = false;
    let pruned = case.store.prune(&options).unwrap();
    assert_eq!((pruned.removed.len(), pruned.kept.len()), (2, 2));
    assert_eq!(case.titles(), ["b", "a"]);
    case.store.prune(&PruneOptions { max_bytes: Some(2 * one), ..Default::default() }).unwrap();
    assert_eq!(case.titles(), ["b", "a"], "what fits exactly stays");
    let day = Duration::from_secs(86_400);
    case.store.prune(&PruneOptions { max_age: Some(2 * day), ..Default::default() }).unwrap();
    assert_eq!(case.titles(), ["a"]);
    case.store.prune(&PruneOptions { all: true, ..Default::default() }).unwrap();
    assert_eq!(case.titles(), [""; 0]);
}

#[test]
fn what_is_in_use_stays() {
    let case = Case::new();
    let (old, new) = (case.aged("old", 4000, 9), case.aged("new", 4000, 1));
    let open = case.store.open(&old).unwrap().unwrap();
    let writer = case.store.writer(&Key::of(b"w"), small().header()).unwrap();
    let all = PruneOptions { all: true, ..Default::default() };
    let pruned = case.store.prune(&all).unwrap();
    assert_eq!((pruned.removed.len(), pruned.in_use.len(), pruned.leftovers), (1, 1, 0));
    assert!(case.file(&old).exists() && !case.file(&new).exists());
    for (position, bytes) in bytes_of(&small()).iter().enumerate() {
        writer.write_at(position, 0, bytes).unwrap();
    }
    writer.commit().unwrap();
    let mut found = [0.0; 1000];
    open.read_f32(0, 0, &mut found).unwrap();
    assert_eq!(found, [1.5; 1000]);
    drop(open);
    assert_eq!(case.store.prune(&all).unwrap().removed.len(), 2);
}

#[test]
fn what_crashes_left_and_damage_go_and_other_files_stay() {
    let case = Case::new();
    let (sound, damaged) = (case.aged("sound", 400, 1), case.aged("damaged", 400, 1));
    fs::write(case.file(&damaged), "torn").unwrap();
    let folder = case.file(&sound).parent().unwrap().to_owned();
    let left = folder.join(format!("{sound}.1-0-ff.tmp"));
    fs::write(&left, [0; 10_000]).unwrap();
    let others = [
        folder.join("notes.txt"),
        folder.join(format!("{sound}.tmp")),
        folder.join("short.entry"),
        folder.join(format!("{sound}.entry.bak")),
        case.store.folder().join("v1/precious.entry"),
        case.store.folder().join("precious"),
    ];
    others.iter().for_each(|path| fs::write(path, "mine").unwrap());
    // An entry in the folder of another, and a link, are not the store's either.
    let wrong =
        case.store.folder().join("v1").join(if sound.as_bytes()[0] == 0 { "01" } else { "00" });
    fs::create_dir_all(&wrong).unwrap();
    fs::copy(case.file(&sound), wrong.join(format!("{sound}.entry"))).unwrap();
    let linked = Key::of(b"linked");
    fs::create_dir_all(case.file(&linked).parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(case.file(&sound), case.file(&linked)).unwrap();

    let pruned = case.store.prune(&PruneOptions::default()).unwrap();
    assert_eq!((pruned.removed.len(), pruned.leftovers), (1, 1));
    assert!(pruned.leftover_bytes >= 10_000 && pruned.failed.is_empty());
    assert!(!left.exists() && !case.file(&damaged).exists() && case.file(&sound).exists());
    case.store.prune(&PruneOptions { all: true, ..Default::default() }).unwrap();
    assert!(!case.file(&sound).exists());
    assert!(others.iter().all(|path| path.exists()));
    assert!(wrong.join(format!("{sound}.entry")).exists());
    assert!(case.file(&linked).is_symlink());
}

#[test]
fn what_cannot_be_removed_is_reported_and_stops_nothing() {
    let case = Case::new();
    let stuck = case.aged("stuck", 400, 2);
    case.aged("free", 400, 1);
    let name = stuck.to_string();
    let gate = move |access, path: &std::path::Path| {
        let is_stuck = access == Access::Remove && path.to_string_lossy().contains(&name);
        if is_stuck { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(usize::MAX) }
    };
    let store = case.store.clone().with_gate(Arc::new(gate));
    let pruned = store.prune(&PruneOptions { all: true, ..Default::default() }).unwrap();
    assert_eq!((pruned.removed.len(), pruned.kept.len(), pruned.failed.len()), (1, 1, 1));
    fs::write(case.file(&stuck), "torn").unwrap();
    let ReadError::Damaged(damage) = store.get(&stuck).unwrap_err() else { panic!("it is damage") };
    assert!(!damage.removed);
    assert!(damage.warning().help.is_some());
}
