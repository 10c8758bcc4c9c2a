//! A zip archive whose entries are stored as they are, with every byte's place known before the entries'
//! own bytes are.

use super::crc32::Crc32;

/// What entries' bytes begin at a multiple of, so that files can be mapped; torch's own choice.
const ALIGNMENT: u64 = 64;

/// Bytes of an entry's header, without its name and what follows.
const LOCAL_BYTES: u64 = 30;
/// Bytes of a directory's entry, likewise.
const ENTRY_BYTES: u64 = 46;

/// A number of 32 bits that says that zip64's field has it.
const ELSEWHERE: u32 = u32::MAX;

/// Versions of the format that a reader must know: plain, and with numbers of 64 bits.
const PLAIN: u16 = 20;
const WIDE: u16 = 45;

/// The first day that the format has, so that the same tensors give the same bytes on every day.
const NO_DATE: u16 = 0x21;

/// The field that torch fills headers with.
const PADDING: [u8; 2] = *b"FB";

/// An entry's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Known(Vec<u8>),
    /// So many, which are written later.
    Later(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Archive {
    entries: Vec<Entry>,
    /// Where the directory begins.
    directory: u64,
    /// Length of the directory without what follows it.
    directory_bytes: u64,
    bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    content: Content,
    /// Where its header begins.
    header: u64,
    /// Where its bytes begin.
    data: u64,
}

impl Archive {
    /// An archive of these entries, in this order. Names are ASCII and short.
    pub fn new(list: Vec<(String, Content)>) -> Self {
        let mut entries = Vec::with_capacity(list.len());
        let mut at = 0;
        for (name, content) in list {
            let mut entry = Entry { name, content, header: at, data: 0 };
            let end = at + LOCAL_BYTES + entry.name.len() as u64 + entry.wide_local().len() as u64;
            // The field that fills the gap has a head of four bytes itself.
            entry.data = (end + 4).next_multiple_of(ALIGNMENT);
            at = entry.data + entry.size();
            entries.push(entry);
        }
        let of_entry = |entry: &Entry| {
            ENTRY_BYTES + (entry.name.len() + entry.wide_in_directory().len()) as u64
        };
        let directory_bytes = entries.iter().map(of_entry).sum();
        let mut archive = Self { entries, directory: at, directory_bytes, bytes: 0 };
        archive.bytes = at + directory_bytes + archive.end().len() as u64;
        archive
    }

    pub fn offset(&self, entry: usize) -> u64 {
        self.entries[entry].data
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All that is known in advance. `sums` are the checksums of the entries whose bytes are not, 0 where
    /// there is none.
    pub fn parts(&self, sums: &[u32]) -> Vec<(u64, Vec<u8>)> {
        let mut sums = sums.iter();
        let mut parts = Vec::with_capacity(self.entries.len() + 1);
        let mut directory = Vec::new();
        for entry in &self.entries {
            let mut part = Vec::new();
            let sum = match &entry.content {
                Content::Known(bytes) => Crc32::of(bytes),
                Content::Later(_) => sums.next().copied().unwrap_or(0),
            };
            entry.write_header(sum, &mut part);
            if let Content::Known(bytes) = &entry.content {
                part.extend(bytes);
            }
            parts.push((entry.header, part));
            entry.write_in_directory(sum, &mut directory);
        }
        directory.extend(self.end());
        parts.push((self.directory, directory));
        parts
    }

    /// What follows the directory.
    fn end(&self) -> Vec<u8> {
        let count = self.entries.len() as u64;
        let mut out = Vec::new();
        let small = |number: u64| narrow(number).unwrap_or(ELSEWHERE);
        let is_wide = count >= u64::from(u16::MAX)
            || [self.directory, self.directory_bytes]
                .into_iter()
                .any(|number| narrow(number).is_none());
        if is_wide {
            let at = self.directory + self.directory_bytes;
            out.extend(b"PK\x06\x06");
            out.extend(44_u64.to_le_bytes());
            out.extend(WIDE.to_le_bytes());
            out.extend(WIDE.to_le_bytes());
            // This disk and the directory's.
            out.extend([0; 8]);
            for number in [count, count, self.directory_bytes, self.directory] {
                out.extend(number.to_le_bytes());
            }
            out.extend(b"PK\x06\x07\0\0\0\0");
            out.extend(at.to_le_bytes());
            out.extend(1_u32.to_le_bytes());
        }
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        out.extend(b"PK\x05\x06\0\0\0\0");
        out.extend(count.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(small(self.directory_bytes).to_le_bytes());
        out.extend(small(self.directory).to_le_bytes());
        // No comment.
        out.extend([0; 2]);
        out
    }
}

impl Entry {
    fn size(&self) -> u64 {
        match &self.content {
            Content::Known(bytes) => bytes.len() as u64,
            Content::Later(bytes) => *bytes,
        }
    }

    fn write_header(&self, sum: u32, out: &mut Vec<u8>) {
        let wide = self.wide_local();
        out.extend(b"PK\x03\x04");
        self.write_common(sum, &wide, out);
        let padding = self.data - self.header - LOCAL_BYTES - (self.name.len() + wide.len()) as u64;
        out.extend(((wide.len() as u64 + padding) as u16).to_le_bytes());
        out.extend(self.name.as_bytes());
        out.extend(wide);
        out.extend(PADDING);
        out.extend(((padding - 4) as u16).to_le_bytes());
        out.resize(out.len() + padding as usize - 4, b'Z');
    }

    fn write_in_directory(&self, sum: u32, out: &mut Vec<u8>) {
        let wide = self.wide_in_directory();
        out.extend(b"PK\x01\x02");
        // Made by a system that says nothing about the file.
        out.extend(PLAIN.to_le_bytes());
        self.write_common(sum, &wide, out);
        out.extend((wide.len() as u16).to_le_bytes());
        // No comment, first disk, no attributes.
        out.extend([0; 10]);
        out.extend(narrow(self.header).unwrap_or(ELSEWHERE).to_le_bytes());
        out.extend(self.name.as_bytes());
        out.extend(wide);
    }

    /// From the version that is needed to the length of the name.
    fn write_common(&self, sum: u32, wide: &[u8], out: &mut Vec<u8>) {
        let version = if wide.is_empty() { PLAIN } else { WIDE };
        out.extend(version.to_le_bytes());
        // No flags, stored, midnight.
        out.extend([0; 6]);
        out.extend(NO_DATE.to_le_bytes());
        out.extend(sum.to_le_bytes());
        let size = narrow(self.size()).unwrap_or(ELSEWHERE);
        out.extend(size.to_le_bytes());
        out.extend(size.to_le_bytes());
        out.extend((self.name.len() as u16).to_le_bytes());
    }

    /// Zip64's field in the header: both sizes, where they do not fit.
    fn wide_local(&self) -> Vec<u8> {
        let size = self.size();
        if narrow(size).is_some() { Vec::new() } else { wide_field(&[size, size]) }
    }

    /// Zip64's field in the directory: the sizes and the place, those that do not fit.
    fn wide_in_directory(&self) -> Vec<u8> {
        let numbers = [self.size(), self.size(), self.header];
        let wide: Vec<u64> =
            numbers.into_iter().filter(|number| narrow(*number).is_none()).collect();
        if wide.is_empty() { Vec::new() } else { wide_field(&wide) }
    }
}

fn wide_field(numbers: &[u64]) -> Vec<u8> {
    let mut field = vec![1, 0];
    field.extend((8 * numbers.len() as u16).to_le_bytes());
    numbers.iter().for_each(|number| field.extend(number.to_le_bytes()));
    field
}

/// The number in 32 bits, unless it is too large or would say that it stands elsewhere.
fn narrow(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number != ELSEWHERE)
}
