//! The record beside an unfinished output of what is already written, so that an interrupted merge
//! can go on. A line is believed only when its checksum fits, and a tensor only after it was read again.

use std::collections::BTreeMap;

use crate::tensor_digest::TensorDigest;

/// Version of the format; a journal of another version is started anew.
const TITLE: &str = "mixdown-journal 1";

/// One event, one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// All bytes of this tensor are written.
    Tensor(usize, TensorDigest),
    /// The system could not store this shard: what was recorded of its tensors so far is void, even
    /// where reading them from memory still shows the right bytes.
    ShardLost(usize),
    /// Everything is written, and the manifest has this digest. Only the renaming remains. Stands
    /// in the lock, under a journal's first line.
    Finished(TensorDigest),
}

impl Entry {
    /// The line with its checksum in front.
    pub fn line(&self) -> String {
        let body = match self {
            Self::Tensor(index, digest) => format!("tensor {index} {digest}"),
            Self::ShardLost(shard) => format!("shard-lost {shard}"),
            Self::Finished(digest) => format!("finished {digest}"),
        };
        format!("{} {body}\n", checksum(&body))
    }

    fn parse(line: &str) -> Option<Self> {
        let (sum, body) = line.split_once(' ')?;
        if sum != checksum(body) {
            return None;
        }
        let mut words = body.split(' ');
        let entry = match words.next()? {
            "tensor" => Self::Tensor(words.next()?.parse().ok()?, words.next()?.parse().ok()?),
            "shard-lost" => Self::ShardLost(words.next()?.parse().ok()?),
            "finished" => Self::Finished(words.next()?.parse().ok()?),
            _ => return None,
        };
        words.next().is_none().then_some(entry)
    }
}

fn checksum(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex()[..16].to_owned()
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// What the output is of; see [`OutputFolder`](crate::output::OutputFolder).
    pub identity: String,
    /// The last digest recorded for each tensor.
    pub tensors: BTreeMap<usize, TensorDigest>,
    /// The digest of the manifest, when all was written.
    pub finished: Option<TensorDigest>,
}

impl Journal {
    /// A journal without events.
    pub fn new(identity: impl Into<String>) -> Self {
        Self { identity: identity.into(), ..Self::default() }
    }

    /// Reads a journal; `None` when even its first line cannot be believed.
    ///
    /// Lines that do not fit their checksum are skipped: a crash may have torn the last one, and what
    /// a damaged one recorded is merely done again. `shard_of` maps a tensor to its shard, and to
    /// `None` when there is no such tensor.
    pub fn parse(bytes: &[u8], shard_of: impl Fn(usize) -> Option<usize>) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let (sum, body) = lines.next()?.split_once(' ')?;
        let identity = body.strip_prefix(TITLE)?.strip_prefix(' ')?;
        if sum != checksum(body) {
            return None;
        }
        let mut journal = Self::new(identity);
        for entry in lines.filter_map(Entry::parse) {
            match entry {
                Entry::Tensor(index, digest) if shard_of(index).is_some() => {
                    journal.tensors.insert(index, digest);
                }
                Entry::Tensor(..) => {}
                Entry::ShardLost(shard) => {
                    journal.tensors.retain(|&index, _| shard_of(index) != Some(shard));
                }
                Entry::Finished(digest) => journal.finished = Some(digest),
            }
        }
        Some(journal)
    }

    /// The journal as it is written when a merge begins or goes on. `finished` is left out: what is
    /// about to be written is not.
    pub fn text(&self) -> String {
        let body = format!("{TITLE} {}", self.identity);
        let mut text = format!("{} {body}\n", checksum(&body));
        for (&index, &digest) in &self.tensors {
            text.push_str(&Entry::Tensor(index, digest).line());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: u8) -> TensorDigest {
        TensorDigest::of(&[of])
    }

    /// Ten tensors, five to a shard.
    fn parse(text: &str) -> Option<Journal> {
        Journal::parse(text.as_bytes(), |index| (index < 10).then_some(index / 5))
    }

    fn recorded(journal: &Journal) -> Vec<usize> {
        journal.tensors.keys().copied().collect()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mut journal = Journal::new("abc");
        journal.tensors = BTreeMap::from([(3, digest(3)), (0, digest(0))]);
        assert_eq!(parse(&journal.text()), Some(journal.clone()));
        let text = journal.text() + &Entry::Finished(digest(9)).line();
        assert_eq!(parse(&text).unwrap().finished, Some(digest(9)));
    }

    #[test]
    fn every_torn_end_is_ignored() {
        let whole = Journal::new("abc").text() + &Entry::Tensor(1, digest(1)).line();
        let start = whole.len();
        let torn = whole.clone() + &Entry::Tensor(2, digest(2)).line();
        for end in start..torn.len() {
            assert_eq!(recorded(&parse(&torn[..end]).unwrap()), [1], "cut at {end}");
        }
        assert_eq!(recorded(&parse(&torn).unwrap()), [1, 2]);
    }

    #[test]
    fn a_damaged_byte_never_yields_a_wrong_entry() {
        let text = Journal::new("abc").text()
            + &Entry::Tensor(1, digest(1)).line()
            + &Entry::Tensor(2, digest(2)).line();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Some(journal) = Journal::parse(&bytes, |_| Some(0)) else { continue };
            assert_eq!(journal.identity, "abc");
            for (&index, &found) in &journal.tensors {
                assert_eq!(found, digest(index as u8), "byte {at}");
            }
        }
    }

    #[test]
    fn a_lost_shard_voids_what_was_recorded_before() {
        let text = Journal::new("abc").text()
            + &Entry::Tensor(1, digest(1)).line()
            + &Entry::Tensor(6, digest(6)).line()
            + &Entry::ShardLost(0).line()
            + &Entry::Tensor(2, digest(2)).line();
        assert_eq!(recorded(&parse(&text).unwrap()), [2, 6]);
    }

    #[test]
    fn tensors_that_do_not_exist_and_foreign_files_are_refused() {
        let text = Journal::new("abc").text() + &Entry::Tensor(10, digest(1)).line();
        assert!(parse(&text).unwrap().tensors.is_empty());
        for foreign in ["", "\n", "hello\n", &text.replace("journal 1", "journal 2")] {
            assert_eq!(parse(foreign), None, "{foreign:?}");
        }
    }
}
