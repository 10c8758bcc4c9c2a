//! What somebody else put where an unfinished output would be: it directs no write elsewhere, nothing
//! of it is removed unasked, and no byte of it gets into the output.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use mixdown_diagnostics::codes;

use super::super::disk::Disk;
use super::super::{Begun, Notice, begin};
use super::{FORCE, KEY, PLAIN, Space, reference, write_tensor};
use crate::journal::{Entry, Journal, OwnerKey};
use crate::manifest::MergeRecord;
use crate::tensor_digest::TensorDigest;

/// A victim beside the target, a place that `plant` prepares, and what becomes of both.
#[track_caller]
fn check(plant: impl Fn(&Path, &Path), found: &str) {
    for with_target in [false, true] {
        let space = if with_target { Space::with_old_output() } else { Space::new() };
        let victim = space.folder.path().join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("precious"), "precious").unwrap();
        plant(&space.partial(), &victim);
        if !with_target {
            let problem = space.run(Disk::default(), &PLAIN).unwrap_err();
            assert_eq!(problem.code, codes::FOREIGN_PARTIAL, "{problem:?}");
            assert!(problem.facts.iter().any(|(_, text)| text.contains(found)), "{problem:?}");
            assert!(!space.target().exists());
        }
        space.run(Disk::default(), &FORCE).unwrap();
        assert_eq!(space.result(), Some(reference()));
        assert!(fs::symlink_metadata(space.partial()).is_err());
        assert_eq!(fs::read(victim.join("precious")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
        assert_eq!(fs::metadata(victim.join("precious")).unwrap().nlink(), 1);
    }
}

#[test]
fn what_stands_in_the_folder_s_place_is_told() {
    check(|partial, victim| symlink(victim, partial).unwrap(), "a link");
    check(|partial, _| symlink("nowhere", partial).unwrap(), "a link");
    check(|partial, _| fs::write(partial, "a file").unwrap(), "a file");
}

#[test]
fn what_stands_in_a_file_s_place_is_told() {
    for name in ["lock", "journal", "journal.new", "aside"] {
        let within = |partial: &Path| {
            fs::create_dir(partial).unwrap();
            partial.join(name)
        };
        check(
            |partial, victim| symlink(victim.join("precious"), within(partial)).unwrap(),
            "a link",
        );
        check(|partial, _| fs::create_dir(within(partial)).unwrap(), "a folder");
        check(
            |partial, victim| {
                let other = victim.with_file_name("other");
                fs::write(&other, "7\n").unwrap();
                fs::hard_link(other, within(partial)).unwrap();
            },
            "other names",
        );
    }
    for name in ["lock", "journal"] {
        let text = |partial: &Path, _: &Path| {
            fs::create_dir(partial).unwrap();
            fs::write(partial.join(name), "my diary\n").unwrap();
        };
        check(text, "a file that is no");
    }
    let output = |partial: &Path, victim: &Path| {
        fs::create_dir(partial).unwrap();
        symlink(victim, partial.join("output")).unwrap();
    };
    check(output, "a link");
}

/// Everything as a run leaves it, but wrong bytes, and lines that fit them: only the key tells.
#[test]
fn a_prepared_folder_contributes_no_tensor() {
    let other = OwnerKey::new([8; 32]);
    let space = Space::new();
    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    let identity = output.identity.clone();
    let place = output.layout().place(0);
    let wrong = vec![99; place.bytes as usize];
    output.write_at(0, 0, &wrong).unwrap();
    fs::write(output.partial().join("output/stray.py"), "import os").unwrap();
    drop(output);
    let mut text = Journal::new(identity.as_str()).text(&other);
    text.push_str(&Entry::Tensor(0, TensorDigest::of(&wrong), None).line(&other, &identity));
    fs::write(space.partial().join("journal"), &text).unwrap();

    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    assert!(matches!(output.notices(), [Notice::NotOurs { .. }]), "{:?}", output.notices());
    assert_eq!(output.recorded_bytes(), 0);
    drop(output);
    space.run(Disk::default(), &PLAIN).unwrap();
    assert_eq!(space.result(), Some(reference()));
}

/// A lock that says that all is done, beside a target that fits it.
#[test]
fn last_words_of_others_are_not_believed() {
    let other = OwnerKey::new([8; 32]);
    let space = Space::new();
    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    let identity = output.identity.clone();
    drop(output);
    fs::create_dir(space.target()).unwrap();
    fs::write(space.target().join("mixdown-manifest.json"), "{}").unwrap();
    let words = |key: &OwnerKey| {
        let last = Entry::Finished(TensorDigest::of(b"{}")).line(key, &identity);
        Journal::new(identity.as_str()).text(key) + &last + "7\n"
    };
    fs::write(space.partial().join("lock"), words(&other)).unwrap();
    let problem = space.begin(Disk::default(), &PLAIN).unwrap_err();
    assert_eq!(problem.code, codes::OUTPUT_EXISTS);
    fs::write(space.partial().join("lock"), words(&KEY)).unwrap();
    let begun = space.begin(Disk::default(), &PLAIN).unwrap();
    assert!(matches!(begun, Begun::Complete(_)));
}

/// What is left of an output that is there, of this user, and nothing else.
#[test]
fn what_is_left_of_an_output_that_is_there_is_removed() {
    let left = |key: &OwnerKey, manifest: &str| {
        let space = Space::new();
        let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
        let identity = output.identity.clone();
        drop(output);
        fs::create_dir(space.target()).unwrap();
        fs::write(space.target().join("mixdown-manifest.json"), "{}").unwrap();
        let last = Entry::Finished(TensorDigest::of(manifest.as_bytes())).line(key, &identity);
        let words = Journal::new(identity.as_str()).text(key) + &last + "7\n";
        fs::write(space.partial().join("lock"), &words).unwrap();
        crate::output::tidy(&space.target(), &KEY);
        assert!(space.target().join("mixdown-manifest.json").exists());
        let is_left = space.partial().exists();
        assert!(!is_left || fs::read_to_string(space.partial().join("lock")).unwrap() == words);
        is_left
    };
    assert!(!left(&KEY, "{}"));
    assert!(left(&OwnerKey::new([8; 32]), "{}"), "that of others stays");
    assert!(left(&KEY, "another"), "that of another output stays");
}

/// The last steps are to remove the lock and then the folder; either may have failed.
#[test]
fn an_empty_hidden_folder_is_removed() {
    let left = |files: &[&str]| {
        let space = Space::new();
        fs::create_dir(space.target()).unwrap();
        fs::create_dir(space.partial()).unwrap();
        for name in files {
            fs::write(space.partial().join(name), "").unwrap();
        }
        crate::output::tidy(&space.target(), &KEY);
        assert!(space.target().exists());
        space.partial().exists()
    };
    assert!(!left(&[]));
    assert!(!left(&["lock"]));
    assert!(left(&["journal"]), "without a lock it may be anything");
    assert!(left(&["lock", "journal"]), "work may go on from it");
}

/// When the power goes, bytes of the lock may be lost, and zeros stand in their place.
#[test]
fn a_lock_that_lost_its_bytes_is_taken_over() {
    for lock in ["\0\0\0\0\0", "", "12", "\0\0\0\n", "3f0a mixdown-jour\0\0\0\0\0\0"] {
        let space = Space::new();
        drop(space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap());
        fs::write(space.partial().join("lock"), lock).unwrap();
        space.run(Disk::default(), &PLAIN).unwrap();
        assert_eq!(space.result(), Some(reference()), "{lock:?}");
    }
}

/// A folder that was moved aside may be the only copy of an output; one that was put there may be bait.
#[test]
fn a_folder_moved_aside_by_others_is_neither_restored_nor_removed() {
    for options in [PLAIN, FORCE] {
        let space = Space::new();
        let bait = space.partial().join("replaced");
        fs::create_dir_all(&bait).unwrap();
        fs::write(bait.join("model.safetensors"), "bait").unwrap();
        let problem = space.run(Disk::default(), &options).unwrap_err();
        assert_eq!(problem.code, codes::FOREIGN_PARTIAL);
        assert!(!space.target().exists());
        assert_eq!(fs::read(bait.join("model.safetensors")).unwrap(), b"bait");
    }
}

#[test]
fn only_its_owner_may_look_into_the_folder() {
    let space = Space::new();
    let mode = || fs::metadata(space.partial()).unwrap().mode() & 0o777;
    drop(space.begin(Disk::default(), &PLAIN).unwrap());
    assert_eq!(mode(), 0o700);
    fs::set_permissions(space.partial(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = space.begin(Disk::default(), &PLAIN).unwrap().open().unwrap();
    assert_eq!(mode(), 0o700);
    // The output itself has the rights that folders usually get.
    let usual = space.folder.path().join("usual");
    fs::create_dir(&usual).unwrap();
    for tensor in 0..output.layout().tensors().len() {
        write_tensor(&output, tensor).unwrap();
    }
    output.finish(MergeRecord::default()).unwrap();
    let rights = |path: &Path| fs::metadata(path).unwrap().mode();
    assert_eq!(rights(&space.target()), rights(&usual));
}

/// Not even a program that another thread starts keeps the lock: it has the file open until it runs.
#[test]
fn a_failed_beginning_gives_the_lock_back() {
    let space = Space::new();
    let denied = Disk::with_gate(|_, path| match path.ends_with("journal") {
        true => Err(rustix::io::Errno::IO.into()),
        false => Ok(usize::MAX),
    });
    let lock = space.partial().join("lock");
    space.run(Disk::default(), &PLAIN).unwrap();
    let other = Space::new();
    let target = other.target();
    begin::begin(denied, &target, other.layout.clone(), &super::identity(1), &PLAIN).unwrap_err();
    assert!(!lock.exists());
    let file = fs::File::open(other.partial().join("lock")).unwrap();
    file.try_lock().unwrap();
}
