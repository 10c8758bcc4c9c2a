//! As much of the zip format as torch writes: a directory at the end of the file, and entries that
//! are stored as they are. Sizes may be in 32 bits or, in zip64's records, in 64.

use std::collections::HashMap;

use mixdown_diagnostics::{Diagnostic, codes};

use super::{Fault, broken, unread};
use crate::shown::{bytes_text, shown};
use crate::source::ByteSource;

/// Bytes of the record at the end, without its comment.
const END_BYTES: u64 = 22;
/// Bytes of the record that leads to zip64's, which stands before it.
const LOCATOR_BYTES: u64 = 20;
/// Bytes of zip64's record at the end.
const END64_BYTES: u64 = 56;
/// Bytes of an entry of the directory, without its name and what follows.
const ENTRY_BYTES: u64 = 46;
/// Bytes before an entry's data, without its name and what follows.
const LOCAL_BYTES: u64 = 30;
/// Longest directory that is read. 100 000 entries take about 10 MB.
const LONGEST_DIRECTORY: u64 = 100_000_000;

/// Flags of entries that are encrypted, in one way or another.
const ENCRYPTED: u64 = 0x2041;

const AGAIN: &str = "fetch or write this file again";

/// An archive's directory.
pub(super) struct Archive {
    entries: HashMap<String, Stored>,
    /// Where the entries end and the directory begins.
    end: u64,
}

/// An entry, as the directory has it.
struct Stored {
    /// Where its own header begins.
    header: u64,
    size: u64,
    /// Why it cannot be read as it is.
    unread: Option<&'static str>,
}

impl Stored {
    fn ends_before(&self, end: u64) -> bool {
        let bytes = LOCAL_BYTES.checked_add(self.size);
        let own_end = bytes.and_then(|bytes| self.header.checked_add(bytes));
        own_end.is_some_and(|own_end| own_end <= end)
    }
}

impl Archive {
    /// Reads the directory.
    pub fn read(source: &dyn ByteSource, file: &str) -> Result<Self, Fault> {
        let directory = find_directory(source, file)?;
        // Inside the file, as was checked.
        let mut bytes = vec![0; directory.size as usize];
        source
            .read_exact_at(directory.at, &mut bytes)
            .map_err(|error| Box::new(error.diagnostic()))?;
        let mut entries = HashMap::new();
        let mut fields = Fields { rest: &bytes };
        for _ in 0..directory.count {
            let at = directory.at + (bytes.len() - fields.rest.len()) as u64;
            let damaged = || Box::new(damaged("its directory cannot be read").at_byte(file, at));
            let (name, stored) = fields.entry().ok_or_else(damaged)?;
            let name = String::from_utf8(name).map_err(|_| damaged())?;
            let Some(stored) = stored.filter(|stored| stored.ends_before(directory.at)) else {
                let headline = format!("`{}` lies outside the archive", shown(&name));
                return Err(Box::new(broken(headline).at_byte(file, at).help(AGAIN)));
            };
            if entries.contains_key(&name) {
                let headline = format!("the archive holds `{}` twice", shown(&name));
                return Err(Box::new(broken(headline).at_byte(file, at).help(AGAIN)));
            }
            entries.insert(name, stored);
        }
        if !fields.rest.is_empty() {
            let fault = damaged("its directory has another length than it says");
            return Err(Box::new(fault.at_byte(file, directory.at)));
        }
        Ok(Self { entries, end: directory.at })
    }

    /// Where the pickle lies: the prefix of all names, then the pickle's first byte and its length.
    pub fn pickle(&self, source: &dyn ByteSource, file: &str) -> Result<(String, u64, u64), Fault> {
        let mut prefixes: Vec<&str> =
            self.entries.keys().filter_map(|name| name.strip_suffix("data.pkl")).collect();
        // The archive's own name is one folder.
        prefixes.retain(|prefix| prefix.find('/').is_some_and(|at| at + 1 == prefix.len()));
        let prefix = match prefixes.as_slice() {
            [prefix] => *prefix,
            [] => {
                let headline = "the file is a zip archive, but not PyTorch's";
                let fault = unread(headline).in_file(file);
                return Err(Box::new(fault.help("name a file that `torch.save` wrote")));
            }
            _ => {
                let headline = "the archive holds several pickles named `data.pkl`";
                return Err(Box::new(broken(headline).in_file(file).help(AGAIN)));
            }
        };
        if self.entries.contains_key(&format!("{prefix}constants.pkl")) {
            let fault = unread("the file is a TorchScript program, which is not read");
            let help = "load it with `torch.jit.load` and save its `state_dict()`";
            return Err(Box::new(fault.in_file(file).help(help)));
        }
        match self.range(&format!("{prefix}data.pkl"), source, file)? {
            Some((at, len)) => Ok((prefix.to_owned(), at, len)),
            None => unreachable!("the prefix is from this entry's name"),
        }
    }

    /// First byte and length of an entry's data, inside the file; nothing if there is no such entry.
    pub fn range(
        &self,
        name: &str,
        source: &dyn ByteSource,
        file: &str,
    ) -> Result<Option<(u64, u64)>, Fault> {
        let Some(stored) = self.entries.get(name) else { return Ok(None) };
        let wrong = |what: &str| {
            let headline = format!("the archive is damaged: `{}` {what}", shown(name));
            Err(Box::new(broken(headline).at_byte(file, stored.header).help(AGAIN)))
        };
        if let Some(unread_because) = stored.unread {
            let headline = format!("`{}` is {unread_because}, which is not read", shown(name));
            let fault = unread(headline).at_byte(file, stored.header);
            return Err(Box::new(fault.help("save the file again with `torch.save`")));
        }
        // Name and further fields are as long as the entry's own header says; the directory has
        // other ones, because torch pads the header until the data is aligned.
        let mut header = [0; LOCAL_BYTES as usize];
        source
            .read_exact_at(stored.header, &mut header)
            .map_err(|error| Box::new(error.diagnostic()))?;
        let mut fields = Fields { rest: &header };
        if fields.bytes(4) != Some(b"PK\x03\x04") {
            return wrong("does not begin where the directory says");
        }
        let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        if u64::from(number(6)) & ENCRYPTED != 0 || number(8) != 0 {
            return wrong("is stored in two ways");
        }
        let name_bytes = u64::from(number(26));
        // Of numbers below 2^16 and one that was checked against the file's size.
        let start = stored.header + LOCAL_BYTES + name_bytes + u64::from(number(28));
        if start > self.end || stored.size > self.end - start {
            return wrong("reaches past the end of the archive's entries");
        }
        let mut local = vec![0; name_bytes as usize];
        source
            .read_exact_at(stored.header + LOCAL_BYTES, &mut local)
            .map_err(|error| Box::new(error.diagnostic()))?;
        if local != name.as_bytes() {
            return wrong("has two names");
        }
        Ok(Some((start, stored.size)))
    }
}

/// Where the directory lies, inside the file.
struct Directory {
    at: u64,
    size: u64,
    count: u64,
}

fn find_directory(source: &dyn ByteSource, file: &str) -> Result<Directory, Fault> {
    let (end_at, end) = find_end(source, file)?;
    let at_end = |what: &str| Box::new(damaged(what).at_byte(file, end_at));
    let contradiction = || at_end("its two records at the end disagree");
    let mut fields = Fields { rest: &end[4..] };
    let mut small = [0; 6];
    for (place, width) in small.iter_mut().zip([2, 2, 2, 2, 4, 4]) {
        *place = fields.number(width).ok_or_else(contradiction)?;
    }
    let [disk, first_disk, count_here, mut count, mut size, mut at] = small;
    let mut limit = end_at;
    if let Some((at64, wide)) = find_end64(source, end_at, file)? {
        // A value that does not fit is all ones; any other is said twice.
        let agree = |small: u64, full: u64, wide: u64| small == full || small == wide;
        let [wide_count, wide_size, wide_at] = wide;
        if !agree(count, 0xffff, wide_count)
            || !agree(size, 0xffff_ffff, wide_size)
            || !agree(at, 0xffff_ffff, wide_at)
        {
            return Err(contradiction());
        }
        (count, size, at, limit) = (wide_count, wide_size, wide_at, at64);
    } else if disk != 0 || first_disk != 0 || count_here != count {
        return Err(Box::new(unread("the archive is one part of several").in_file(file)));
    }
    if at.checked_add(size).is_none_or(|end| end > limit) {
        return Err(at_end("its directory lies outside it"));
    }
    if size > LONGEST_DIRECTORY || count > size / ENTRY_BYTES {
        return Err(at_end("its directory has another length than it says"));
    }
    Ok(Directory { at, size, count })
}

/// The record at the end of the file, and where it begins.
fn find_end(source: &dyn ByteSource, file: &str) -> Result<(u64, Vec<u8>), Fault> {
    // A comment of 16 bits of length may follow it.
    let len = source.len().min(END_BYTES + 0xffff);
    let start = source.len() - len;
    let mut tail = vec![0; len as usize];
    source.read_exact_at(start, &mut tail).map_err(|error| Box::new(error.diagnostic()))?;
    let found = (0..tail.len().saturating_sub(END_BYTES as usize - 1)).rev().find(|&at| {
        let comment = usize::from(u16::from_le_bytes([tail[at + 20], tail[at + 21]]));
        tail[at..].starts_with(b"PK\x05\x06") && at + END_BYTES as usize + comment == tail.len()
    });
    let Some(found) = found else {
        let headline = "the file ends before its directory does";
        return Err(Box::new(
            Diagnostic::error(codes::SHARD_TRUNCATED, headline)
                .at_byte(file, source.len())
                .fact("file", bytes_text(source.len()))
                .help("the file is cut short; fetch it again"),
        ));
    };
    Ok((start + found as u64, tail.split_off(found)))
}

/// Zip64's record at the end, if there is one: where it begins, and the directory's count of
/// entries, size and place.
fn find_end64(
    source: &dyn ByteSource,
    end_at: u64,
    file: &str,
) -> Result<Option<(u64, [u64; 3])>, Fault> {
    let Some(locator_at) = end_at.checked_sub(LOCATOR_BYTES) else { return Ok(None) };
    let mut locator = [0; LOCATOR_BYTES as usize];
    source.read_exact_at(locator_at, &mut locator).map_err(|error| Box::new(error.diagnostic()))?;
    let mut fields = Fields { rest: &locator };
    if fields.bytes(4) != Some(b"PK\x06\x07") {
        return Ok(None);
    }
    let wrong = || Box::new(damaged("its last record leads nowhere").at_byte(file, locator_at));
    let (_disk, at) = fields.number(4).zip(fields.number(8)).ok_or_else(wrong)?;
    if at.checked_add(END64_BYTES).is_none_or(|end| end > locator_at) {
        return Err(wrong());
    }
    let mut record = [0; END64_BYTES as usize];
    source.read_exact_at(at, &mut record).map_err(|error| Box::new(error.diagnostic()))?;
    if !record.starts_with(b"PK\x06\x06") {
        return Err(wrong());
    }
    let mut fields = Fields { rest: &record[24..] };
    let count_here = fields.number(8).ok_or_else(wrong)?;
    let mut wide = [0; 3];
    for place in &mut wide {
        *place = fields.number(8).ok_or_else(wrong)?;
    }
    if count_here != wide[0] {
        return Err(Box::new(unread("the archive is one part of several").in_file(file)));
    }
    Ok(Some((at, wide)))
}

fn damaged(what: &str) -> Diagnostic {
    broken(format!("the archive is damaged: {what}")).help(AGAIN)
}

/// Little-endian numbers, one after another.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }

    fn number(&mut self, width: usize) -> Option<u64> {
        let mut number = [0; 8];
        number[..width].copy_from_slice(self.bytes(width)?);
        Some(u64::from_le_bytes(number))
    }

    /// An entry of the directory and its name; nothing of it where its sizes are missing or say two
    /// things.
    fn entry(&mut self) -> Option<(Vec<u8>, Option<Stored>)> {
        if self.bytes(4)? != b"PK\x01\x02" {
            return None;
        }
        let _versions = self.number(4)?;
        let (flags, method) = (self.number(2)?, self.number(2)?);
        let _time_and_sum = self.bytes(8)?;
        let (packed, size) = (self.number(4)?, self.number(4)?);
        let (name, more, comment) = (self.number(2)?, self.number(2)?, self.number(2)?);
        let disk = self.number(2)?;
        let _attributes = self.bytes(6)?;
        let header = self.number(4)?;
        let name = self.bytes(name as usize)?.to_vec();
        let more = self.bytes(more as usize)?;
        self.bytes(comment as usize)?;
        let unread = match (flags & ENCRYPTED, method) {
            (0, 0) => None,
            (0, _) => Some("compressed"),
            _ => Some("encrypted"),
        };
        let stored = in_64_bits(more, [size, packed, header])
            .filter(|[size, packed, _]| disk == 0 && (unread.is_some() || size == packed))
            .map(|[_, packed, header]| Stored { header, size: packed, unread });
        Some((name, stored))
    }
}

/// Replaces what does not fit into 32 bits by what zip64's field says, which holds just those values.
fn in_64_bits(more: &[u8], mut values: [u64; 3]) -> Option<[u64; 3]> {
    if values.iter().all(|value| *value != 0xffff_ffff) {
        return Some(values);
    }
    let mut fields = Fields { rest: more };
    loop {
        let (kind, len) = (fields.number(2)?, fields.number(2)?);
        let mut field = Fields { rest: fields.bytes(len as usize)? };
        if kind == 1 {
            for value in values.iter_mut().filter(|value| **value == 0xffff_ffff) {
                *value = field.number(8)?;
            }
            return Some(values);
        }
    }
}
