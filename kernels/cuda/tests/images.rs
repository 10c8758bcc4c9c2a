//! The images that are checked in: made of the sources that are beside them, without spills, and all there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use mixdown_cuda::images::{GROUPS, PLAIN, SPLIT};
use sha2::{Digest, Sha256};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn table() -> String {
    fs::read_to_string(folder().join("images/images.txt")).unwrap()
}

/// Rows of the table of this kind, split into words.
fn rows(kind: &str) -> Vec<Vec<String>> {
    let text = table();
    let lines = text.lines().map(|line| line.split_whitespace().map(str::to_owned));
    lines
        .map(Iterator::collect::<Vec<_>>)
        .filter(|row| row.first().is_some_and(|word| word == kind))
        .collect()
}

/// A source and what it includes, by name.
fn closure(name: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    let bytes = fs::read(folder().join("kernels").join(name)).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    if found.insert(name.to_owned(), bytes).is_none() {
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("#include \"") {
                closure(rest.trim_end_matches('"'), found);
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(source: &str) -> String {
    let mut files = BTreeMap::new();
    closure(&format!("{source}.cu"), &mut files);
    let mut whole = Sha256::new();
    for (name, text) in files {
        whole.update(format!("{name} {}\n", text.len()));
        whole.update(text);
    }
    hex(&whole.finalize())
}

/// A kernel that was changed without its images would run as it was, and tests on the emulation would prove
/// another one.
#[test]
fn images_are_of_these_sources() {
    let rows = rows("source");
    let sources: BTreeSet<String> = rows.iter().map(|row| row[1].clone()).collect();
    let there: BTreeSet<String> = fs::read_dir(folder().join("kernels"))
        .unwrap()
        .filter_map(|file| {
            let name = file.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".cu").map(str::to_owned)
        })
        .collect();
    assert_eq!(sources, there);
    for row in rows {
        let found = digest(&row[1]);
        assert_eq!(found, row[2], "{} has changed: run kernels/cuda/images/make.py", row[1]);
    }
}

#[test]
fn images_are_whole_and_built_in() {
    let listed: BTreeMap<String, String> =
        rows("image").into_iter().map(|row| (row[1].clone(), row[2].clone())).collect();
    let built: BTreeMap<String, String> = [PLAIN, SPLIT, GROUPS]
        .concat()
        .iter()
        .map(|image| (image.name.to_owned(), hex(&Sha256::digest(image.bytes))))
        .collect();
    assert_eq!(built, listed);
}

/// Spills would cost the hot kernels what they were written for.
#[test]
fn no_kernel_spills() {
    let rows = rows("kernel");
    assert!(rows.len() >= 20);
    for row in rows {
        assert_eq!(row[7..], ["spilled", "0"], "{row:?}");
        // Threads of a block times registers are what a multiprocessor has at most.
        let registers: u32 = row[4].parse().unwrap();
        let threads = if row[1].ends_with("sm90") { 384 } else { 256 };
        assert!(registers * threads <= 65536, "{row:?}");
    }
}

/// Where the compilers are, images made again are the same, byte for byte.
#[test]
fn images_can_be_made_again() {
    let found = env::var_os("MIXDOWN_CUDA_COMPILERS").map(PathBuf::from);
    let found = found.unwrap_or_else(|| folder().join("../../target/cuda-compilers"));
    if !found.join("nvidia").is_dir() {
        eprintln!(
            "images are not made again: no compilers in {}; kernels/cuda/images/make.py installs them",
            found.display()
        );
        return;
    }
    let run = Command::new("python3")
        .arg(folder().join("images/make.py"))
        .args(["--check", "--compilers"])
        .arg(found)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
