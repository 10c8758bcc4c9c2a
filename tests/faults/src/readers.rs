//! Every reader of files that others may have made, as a function of bytes. None may panic, whatever the
//! bytes. `fuzz/` feeds the same functions with coverage-guided fuzzers; what these found is kept in
//! `fuzz/seeds`, is read by the tests, and is what damaged files are made from.

mod list;
mod tokenizers;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::random::Random;
pub use list::all;

/// A reader, and bytes that it takes.
pub struct Reader {
    /// What figures call it.
    pub name: &'static str,
    /// Sound files, from which damaged ones are made.
    pub seeds: Vec<Vec<u8>>,
    /// Reads bytes, which it may write into a folder that nothing else writes to. Errors are fine.
    pub read: fn(&Path, &[u8]),
}

/// Reads bytes with the reader of this name.
///
/// **Panics.** Where there is none, or the reader panics.
pub fn feed(name: &str, bytes: &[u8]) {
    static READER: OnceLock<(TempDir, Reader)> = OnceLock::new();
    let (folder, reader) = READER.get_or_init(|| {
        let reader = all().into_iter().find(|reader| reader.name == name);
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        (folder, reader.unwrap_or_else(|| panic!("there is no reader `{name}`")))
    });
    assert_eq!(reader.name, name, "a process feeds one reader");
    (reader.read)(folder.path(), bytes);
}

/// Reads every seed as it is; gives their count, and what was wrong.
pub fn replay() -> (usize, Vec<String>) {
    let (mut count, mut wrong) = (0, Vec::new());
    for reader in all() {
        for seed in &reader.seeds {
            wrong.extend(try_read(&reader, seed));
            count += 1;
        }
    }
    (count, wrong)
}

/// Writes the seeds of each reader into a folder of its name.
pub fn write_seeds(folder: &Path) -> std::io::Result<()> {
    for reader in all() {
        let own = folder.join(reader.name);
        fs::create_dir_all(&own)?;
        for (number, seed) in reader.seeds.iter().enumerate() {
            fs::write(own.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}

/// What is wrong when these bytes are read.
fn try_read(reader: &Reader, bytes: &[u8]) -> Option<String> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let begun = Instant::now();
    let outcome = match catch_unwind(AssertUnwindSafe(|| (reader.read)(folder.path(), bytes))) {
        Err(_) => "a panic",
        Ok(()) if begun.elapsed() > LONGEST => "too long",
        Ok(()) => return None,
    };
    Some(format!("{}: {outcome}: {}", reader.name, bytes.escape_ascii()))
}

/// How long a reader may take for a file of a few kilobytes.
const LONGEST: Duration = Duration::from_secs(10);

/// Reads damaged files until `until`, at most `most` of them; gives their count, and what was wrong.
pub fn run(until: Instant, most: usize, seed: u64) -> (usize, Vec<String>) {
    let readers = all();
    let (mut random, mut wrong) = (Random::new(seed), Vec::new());
    for tried in 0..most {
        if Instant::now() >= until {
            return (tried, wrong);
        }
        let reader = &readers[tried % readers.len()];
        let bytes = damaged(&reader.seeds, &mut random);
        wrong.extend(try_read(reader, &bytes));
    }
    (most, wrong)
}

/// A sound file with some bytes changed, removed, doubled, or replaced by what often matters.
fn damaged(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const WORDS: [&[u8]; 12] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\0\0\0\0\0",
        b"18446744073709551615",
        b"-1",
        b"1e999",
        b"{{{{{{{{",
        b"[[[[[[[[",
        b"&a [*a, *a]",
        b"\xed\xa0\x80",
        b"null",
        b"\"\"",
        b"..",
    ];
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(6) {
        if bytes.is_empty() {
            bytes.push(random.number() as u8);
        }
        // Most of what is read is at the beginning.
        let end = if random.below(3) > 0 { bytes.len().min(600) } else { bytes.len() };
        let at = random.below(end);
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.number() as u8,
            2 => bytes.truncate(at),
            3 => {
                let to = (at + random.below(40)).min(bytes.len());
                bytes.drain(at..to);
            }
            4 => {
                let part = bytes[at..(at + random.below(60)).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let word = WORDS[random.below(WORDS.len())].iter().copied();
                bytes.splice(at..at, word);
            }
        }
    }
    bytes
}
