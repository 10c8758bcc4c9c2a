//! The record beside an unfinished output of what is already written, so that an interrupted merge
//! can go on. A line is believed only when its checksum fits, and a tensor only after it was read again.
//!
//! The checksums are made with a key that only this user's runs know: a folder that somebody else
//! prepared can hold any bytes, but no line that is believed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use crate::tensor_digest::TensorDigest;

/// Version of the format; a journal of another version is started anew.
const TITLE: &str = "mixdown-journal 2";

/// How the title begins in every version.
const ANY_TITLE: &str = "mixdown-journal ";

/// Digits of a checksum, half of a digest: 128 bits, so that a line is not found by trying.
const SUM_DIGITS: usize = 32;

/// What only the runs of one user know, by which they recognize each other's journals.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OwnerKey([u8; 32]);

impl OwnerKey {
    /// The key of these bytes, which must be random and kept from others.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A new key from the system's random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Its bytes, to be kept where only this user reads.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What only this key makes of a text.
    pub fn seal(&self, text: &str) -> String {
        self.checksum("", text)
    }

    /// The checksum of a line of the journal of `identity`.
    fn checksum(&self, identity: &str, body: &str) -> String {
        let text = format!("{identity}\n{body}");
        blake3::keyed_hash(&self.0, text.as_bytes()).to_hex()[..SUM_DIGITS].to_owned()
    }
}

/// Shows that there is one, but not which.
impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerKey(…)")
    }
}

/// One event, one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// All bytes of this tensor are written; and what making it told, in the caller's words without a new line.
    /// The two are one line, because of several any may be lost.
    Tensor(usize, TensorDigest, Option<String>),
    /// The system could not store this shard: what was recorded of its tensors so far is void, even
    /// where reading them from memory still shows the right bytes.
    ShardLost(usize),
    /// Everything is written, and the manifest has this digest. Only the renaming remains. Stands
    /// in the lock, under a journal's first line.
    Finished(TensorDigest),
}

impl Entry {
    /// The line in the journal of `identity`, with its checksum in front.
    pub fn line(&self, key: &OwnerKey, identity: &str) -> String {
        let body = match self {
            Self::Tensor(index, digest, None) => format!("tensor {index} {digest}"),
            Self::Tensor(index, digest, Some(told)) => format!("tensor {index} {digest} {told}"),
            Self::ShardLost(shard) => format!("shard-lost {shard}"),
            Self::Finished(digest) => format!("finished {digest}"),
        };
        format!("{} {body}\n", key.checksum(identity, &body))
    }

    fn parse(line: &str, key: &OwnerKey, identity: &str) -> Option<Self> {
        let (sum, body) = line.split_once(' ')?;
        if sum != key.checksum(identity, body) {
            return None;
        }
        let mut words = body.splitn(4, ' ');
        let entry = match words.next()? {
            "tensor" => {
                let (index, digest) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                Self::Tensor(index, digest, words.next().map(str::to_owned))
            }
            "shard-lost" => Self::ShardLost(words.next()?.parse().ok()?),
            "finished" => Self::Finished(words.next()?.parse().ok()?),
            _ => return None,
        };
        words.next().is_none().then_some(entry)
    }
}

/// What a file in a journal's place is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A journal that this user's runs wrote, for this or another merge.
    Ours(Journal),
    /// A journal that others wrote, or another version, or this user's runs with a key that is lost;
    /// or an empty file, which a crash may leave.
    Others,
    /// Something else.
    Foreign,
}

impl Found {
    /// The journal, if it can be believed.
    pub fn ours(self) -> Option<Journal> {
        match self {
            Self::Ours(journal) => Some(journal),
            Self::Others | Self::Foreign => None,
        }
    }
}

/// Whether a line may stand in a lock, whoever wrote it: a number, a journal's first line or its last
/// words, and what a crash left of one of these over another.
pub(crate) fn is_of_lock(line: &str) -> bool {
    let (sum, body) = line.split_once(' ').unwrap_or((line, ""));
    let begins_as = |known: &str| body.starts_with(known) || known.starts_with(body);
    let is_sum = sum.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_sum && (begins_as(ANY_TITLE) || begins_as("finished "))
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// What the output is of; see [`OutputFolder`](crate::output::OutputFolder).
    pub identity: String,
    /// The last digest recorded for each tensor.
    pub tensors: BTreeMap<usize, TensorDigest>,
    /// What making them told, where it told anything.
    pub told: BTreeMap<usize, String>,
    /// The digest of the manifest, when all was written.
    pub finished: Option<TensorDigest>,
}

impl Journal {
    /// A journal without events.
    pub fn new(identity: impl Into<String>) -> Self {
        Self { identity: identity.into(), ..Self::default() }
    }

    /// Reads a journal, which is believed only when its first line fits the key.
    ///
    /// Lines that do not fit their checksum are skipped: a crash may have torn the last one, and what
    /// a damaged one recorded is merely done again. `shard_of` maps a tensor to its shard, and to
    /// `None` when there is no such tensor.
    pub fn parse(bytes: &[u8], key: &OwnerKey, shard_of: impl Fn(usize) -> Option<usize>) -> Found {
        if bytes.is_empty() {
            return Found::Others;
        }
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let Some((sum, body)) = lines.next().and_then(|line| line.split_once(' ')) else {
            return Found::Foreign;
        };
        if !body.starts_with(ANY_TITLE) {
            return Found::Foreign;
        }
        let identity = body.strip_prefix(TITLE).and_then(|rest| rest.strip_prefix(' '));
        let Some(identity) = identity.filter(|identity| sum == key.checksum(identity, body)) else {
            return Found::Others;
        };
        let mut journal = Self::new(identity);
        for entry in lines.filter_map(|line| Entry::parse(line, key, identity)) {
            match entry {
                Entry::Tensor(index, digest, told) if shard_of(index).is_some() => {
                    journal.tensors.insert(index, digest);
                    journal.told.remove(&index);
                    journal.told.extend(told.map(|told| (index, told)));
                }
                Entry::Tensor(..) => {}
                Entry::ShardLost(shard) => {
                    journal.tensors.retain(|&index, _| shard_of(index) != Some(shard));
                    journal.told.retain(|&index, _| shard_of(index) != Some(shard));
                }
                Entry::Finished(digest) => journal.finished = Some(digest),
            }
        }
        Found::Ours(journal)
    }

    /// The journal as it is written when a merge begins or goes on. `finished` is left out: what is
    /// about to be written is not.
    pub fn text(&self, key: &OwnerKey) -> String {
        let body = format!("{TITLE} {}", self.identity);
        let mut text = format!("{} {body}\n", key.checksum(&self.identity, &body));
        for (&index, &digest) in &self.tensors {
            let entry = Entry::Tensor(index, digest, self.told.get(&index).cloned());
            text.push_str(&entry.line(key, &self.identity));
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

    const KEY: OwnerKey = OwnerKey([7; 32]);

    /// Ten tensors, five to a shard.
    fn parse(text: &str) -> Option<Journal> {
        let shard_of = |index| (index < 10).then_some(index / 5);
        Journal::parse(text.as_bytes(), &KEY, shard_of).ours()
    }

    fn line(entry: Entry) -> String {
        entry.line(&KEY, "abc")
    }

    fn recorded(journal: &Journal) -> Vec<usize> {
        journal.tensors.keys().copied().collect()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mut journal = Journal::new("abc");
        journal.tensors = BTreeMap::from([(3, digest(3)), (0, digest(0))]);
        journal.told = BTreeMap::from([(3, r#"{"words": "of several kinds"}"#.to_owned())]);
        assert_eq!(parse(&journal.text(&KEY)), Some(journal.clone()));
        let text = journal.text(&KEY) + &line(Entry::Finished(digest(9)));
        assert_eq!(parse(&text).unwrap().finished, Some(digest(9)));
    }

    /// What a power cut takes of an append becomes zeros, which join the line after them.
    #[test]
    fn a_tensor_is_never_believed_without_what_it_told() {
        let told = |of: u8| line(Entry::Tensor(usize::from(of), digest(of), Some("news".into())));
        let before = Journal::new("abc").text(&KEY);
        for kept in 0..told(1).len() {
            let mut text = before.clone() + &told(1)[..kept];
            text.push_str(&"\0".repeat(told(1).len() - kept));
            let journal = parse(&(text + &told(2) + &told(3))).unwrap();
            assert_eq!(recorded(&journal), [3], "{kept} bytes kept");
            assert_eq!(journal.told.len(), 1);
        }
    }

    #[test]
    fn every_torn_end_is_ignored() {
        let whole = Journal::new("abc").text(&KEY) + &line(Entry::Tensor(1, digest(1), None));
        let start = whole.len();
        let torn = whole.clone() + &line(Entry::Tensor(2, digest(2), None));
        for end in start..torn.len() {
            assert_eq!(recorded(&parse(&torn[..end]).unwrap()), [1], "cut at {end}");
        }
        assert_eq!(recorded(&parse(&torn).unwrap()), [1, 2]);
    }

    #[test]
    fn a_damaged_byte_never_yields_a_wrong_entry() {
        let text = Journal::new("abc").text(&KEY)
            + &line(Entry::Tensor(1, digest(1), None))
            + &line(Entry::Tensor(2, digest(2), None));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Some(journal) = Journal::parse(&bytes, &KEY, |_| Some(0)).ours() else { continue };
            assert_eq!(journal.identity, "abc");
            for (&index, &found) in &journal.tensors {
                assert_eq!(found, digest(index as u8), "byte {at}");
            }
        }
    }

    #[test]
    fn a_lost_shard_voids_what_was_recorded_before() {
        let text = Journal::new("abc").text(&KEY)
            + &line(Entry::Tensor(1, digest(1), Some("old".to_owned())))
            + &line(Entry::Tensor(6, digest(6), Some("news".to_owned())))
            + &line(Entry::ShardLost(0))
            + &line(Entry::Tensor(2, digest(2), None));
        let journal = parse(&text).unwrap();
        assert_eq!(recorded(&journal), [2, 6]);
        assert_eq!(journal.told, BTreeMap::from([(6, "news".to_owned())]));
    }

    #[test]
    fn tensors_that_do_not_exist_and_foreign_files_are_refused() {
        let text = Journal::new("abc").text(&KEY) + &line(Entry::Tensor(10, digest(1), None));
        assert!(parse(&text).unwrap().tensors.is_empty());
        for foreign in ["", "\n", "hello\n", &text.replace("journal 2", "journal 1")] {
            assert_eq!(parse(foreign), None, "{foreign:?}");
        }
    }

    /// Whoever prepares a folder has not the key, and lines of one merge say nothing of another.
    #[test]
    fn a_journal_that_others_wrote_is_not_believed() {
        let others = OwnerKey([8; 32]);
        let theirs = Journal::new("abc").text(&others)
            + &Entry::Tensor(1, digest(1), None).line(&others, "abc");
        let shard_of = |_| Some(0);
        assert_eq!(Journal::parse(theirs.as_bytes(), &KEY, shard_of), Found::Others);
        assert_eq!(Journal::parse(b"", &KEY, shard_of), Found::Others);
        for foreign in ["j\n", "hello world\n", "\n", "{}"] {
            assert_eq!(Journal::parse(foreign.as_bytes(), &KEY, shard_of), Found::Foreign);
        }
        let mixed = Journal::new("abc").text(&KEY)
            + &Entry::Tensor(1, digest(1), None).line(&others, "abc")
            + &Entry::Tensor(2, digest(2), None).line(&KEY, "abd")
            + &line(Entry::Tensor(3, digest(3), None));
        assert_eq!(recorded(&parse(&mixed).unwrap()), [3]);
        assert!(!format!("{KEY:?}").contains('7'));
    }

    #[test]
    fn what_a_lock_may_hold() {
        let whole = Journal::new("abc").text(&KEY) + &line(Entry::Finished(digest(9))) + "4711\n";
        for end in 0..=whole.len() {
            // Over the number that was there before.
            let torn = format!("{}{}", &whole[..end], "31415\n".get(end..).unwrap_or_default());
            assert!(torn.lines().all(is_of_lock), "{torn:?}");
        }
        for foreign in ["my diary", "abc def", "precious data", "{}"] {
            assert!(!is_of_lock(foreign), "{foreign}");
        }
    }
}
