//! The bytes of a pickle in their order, read in parts as they are asked for, none before it is
//! known to be there.

use super::machine::LONGEST_NAME;
use super::{Fault, LONGEST_PICKLE, broken};
use crate::shown::bytes_text;
use crate::source::ByteSource;

/// Bytes read at once.
const PART: u64 = 64 << 10;

/// A part of a file, read from its start to its end.
pub(super) struct Stream<'a> {
    pub source: &'a dyn ByteSource,
    pub shown: &'a str,
    start: u64,
    at: u64,
    end: u64,
    /// Bytes of the file from `buffer_at` on.
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl<'a> Stream<'a> {
    /// The bytes from `at` to `end`, which lie inside the file.
    pub fn new(source: &'a dyn ByteSource, shown: &'a str, at: u64, end: u64) -> Self {
        Self { source, shown, start: at, at, end, buffer: Vec::new(), buffer_at: at }
    }

    /// Where the next byte lies in the file.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Count of bytes to come.
    pub fn left(&self) -> u64 {
        self.end - self.at
    }

    /// The next bytes.
    pub fn take(&mut self, count: u64) -> Result<&[u8], Fault> {
        if count > self.left() {
            return Err(Box::new(
                broken("the pickle ends before it is complete")
                    .at_byte(self.shown, self.at)
                    .fact("needed", bytes_text(count))
                    .fact("found", bytes_text(self.left()))
                    .help("the file is cut short or damaged; fetch or write it again"),
            ));
        }
        // `count` is at most the size of the file, and `at` inside it.
        if self.at - self.start + count > LONGEST_PICKLE {
            return Err(Box::new(
                broken("the pickle is too large")
                    .at_byte(self.shown, self.at)
                    .fact("limit", bytes_text(LONGEST_PICKLE)),
            ));
        }
        let buffered = self.buffer_at + self.buffer.len() as u64;
        if self.at + count > buffered {
            let len = count.max(PART.min(self.left()));
            // Empty first, so that a failed read leaves nothing that looks read.
            self.buffer.clear();
            let mut buffer = vec![0; len as usize];
            let read = self.source.read_exact_at(self.at, &mut buffer);
            read.map_err(|error| Box::new(error.diagnostic()))?;
            (self.buffer, self.buffer_at) = (buffer, self.at);
        }
        let from = (self.at - self.buffer_at) as usize;
        self.at += count;
        Ok(&self.buffer[from..from + count as usize])
    }

    /// The next bytes, as many as the array has.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    /// The bytes up to the end of a line, which is passed over.
    pub fn line(&mut self) -> Result<String, Fault> {
        let at = self.at;
        let mut line = Vec::new();
        loop {
            match self.array()? {
                [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
                [byte] if line.len() < LONGEST_NAME => line.push(byte),
                _ => {
                    let headline = "a name in the pickle is too long";
                    return Err(Box::new(broken(headline).at_byte(self.shown, at)));
                }
            }
        }
    }
}
