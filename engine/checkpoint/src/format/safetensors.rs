//! safetensors: eight bytes of length, a JSON header, then the tensors.
//!
//! Headers are read by our own checks, which name every fault and its place, and then by the
//! `safetensors` crate as a second opinion: a file that it refuses is refused.

mod entries;
mod ranges;

use std::str;

use mixdown_diagnostics::{Diagnostic, codes};

use super::{Format, Header};
use crate::index::TensorEntry;
use crate::shown::{bytes_text, shown};
use crate::source::ByteSource;

/// Bytes before the header: its length, little endian.
const LENGTH_BYTES: u64 = 8;

/// Longest header that is read; the `safetensors` crate's own limit.
const LONGEST_HEADER: u64 = 100_000_000;

/// The format of `.safetensors` files.
pub struct Safetensors;

impl Format for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn recognizes(&self, start: &[u8]) -> bool {
        // The length rules out other formats whose ninth byte happens to be a brace.
        start.first_chunk().is_some_and(|length| u64::from_le_bytes(*length) <= LONGEST_HEADER)
            && start.get(8) == Some(&b'{')
    }

    fn read_header(&self, source: &dyn ByteSource, shown: &str) -> Result<Header, Vec<Diagnostic>> {
        let bytes = read_bytes(source, shown).map_err(|fault| vec![*fault])?;
        let data_start = LENGTH_BYTES + bytes.len() as u64;
        let data_len = source.len().saturating_sub(data_start);
        let text = as_text(&bytes, shown).map_err(|fault| vec![*fault])?;
        let mut faults = Faults::new(shown);
        let (entries, metadata) = entries::read(text, &mut faults);
        faults.into_result()?;

        let mut faults = Faults::new(shown);
        let entries = ranges::check(entries, data_start, data_len, &mut faults);
        faults.into_result()?;
        second_opinion(text, shown).map_err(|fault| vec![*fault])?;

        let tensors = entries
            .into_iter()
            .map(|entry| TensorEntry {
                name: entry.name,
                dtype: entry.dtype,
                shape: entry.shape,
                shard: 0,
                offset: data_start + entry.begin,
                encoding: None,
            })
            .collect();
        Ok(Header { tensors, metadata, ..Header::default() })
    }
}

/// Reads the header's bytes. Nothing is allocated before the length is known to fit the file.
fn read_bytes(source: &dyn ByteSource, shown: &str) -> Result<Vec<u8>, Box<Diagnostic>> {
    let size = source.len();
    let broken = |headline: &str| Diagnostic::error(codes::HEADER_BROKEN, headline);
    let again = "fetch or write this file again";
    if size < LENGTH_BYTES {
        return Err(Box::new(
            broken("the file is too short for a safetensors header")
                .at_byte(shown, size)
                .fact("file", bytes_text(size))
                .fact("expected", "at least 8 bytes")
                .help(again),
        ));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    source.read_exact_at(0, &mut length).map_err(|error| Box::new(error.diagnostic()))?;
    if &length == b"version " {
        return Err(Box::new(
            broken("the file is a Git LFS pointer, not the weights")
                .in_file(shown)
                .fact("file", bytes_text(size))
                .help("fetch the weights with `git lfs pull` in the model's folder"),
        ));
    }
    let length = u64::from_le_bytes(length);
    let facts = |diagnostic: Diagnostic| {
        diagnostic
            .at_byte(shown, 0)
            .fact("header", bytes_text(length))
            .fact("file", bytes_text(size))
    };
    if length == 0 {
        return Err(Box::new(facts(broken("the safetensors header is empty")).help(again)));
    }
    if length > LONGEST_HEADER {
        return Err(Box::new(
            facts(broken("the safetensors header is too large"))
                .fact("limit", bytes_text(LONGEST_HEADER))
                .help("check that this is a safetensors file, and fetch it again"),
        ));
    }
    if length > size - LENGTH_BYTES {
        return Err(Box::new(
            facts(broken("the safetensors header reaches past the end of the file"))
                .help("the file is cut short or of another format; fetch it again"),
        ));
    }
    let mut bytes = vec![0; length as usize];
    source.read_exact_at(LENGTH_BYTES, &mut bytes).map_err(|error| Box::new(error.diagnostic()))?;
    Ok(bytes)
}

fn as_text<'a>(bytes: &'a [u8], shown: &str) -> Result<&'a str, Box<Diagnostic>> {
    str::from_utf8(bytes).map_err(|error| {
        let headline = "the safetensors header is not UTF-8";
        let fault = Diagnostic::error(codes::HEADER_BROKEN, headline)
            .at_byte(shown, LENGTH_BYTES + error.valid_up_to() as u64)
            .help("fetch or write this file again");
        Box::new(fault)
    })
}

/// Lets the `safetensors` crate judge the same header.
fn second_opinion(text: &str, shown: &str) -> Result<(), Box<Diagnostic>> {
    serde_json::from_str::<safetensors::tensor::Metadata>(text).map(drop).map_err(|error| {
        let headline = "the safetensors library refuses the header";
        let fault = Diagnostic::error(codes::HEADER_BROKEN, headline)
            .at_byte(shown, LENGTH_BYTES)
            .fact("it says", crate::shown::shown(&error.to_string()));
        Box::new(fault)
    })
}

/// What is wrong with one header, in full up to a limit.
struct Faults<'a> {
    shown: &'a str,
    list: Vec<Diagnostic>,
    untold: u64,
}

impl<'a> Faults<'a> {
    /// A header that lies about everything must not fill the screen, or the memory.
    const LIMIT: usize = 20;

    fn new(shown: &'a str) -> Self {
        Self { shown, list: Vec::new(), untold: 0 }
    }

    /// Adds a fault at this byte of the header's text.
    fn push(&mut self, at: u64, fault: impl FnOnce() -> Diagnostic) {
        if self.list.len() < Self::LIMIT {
            self.list.push(fault().at_byte(self.shown, LENGTH_BYTES + at));
        } else {
            self.untold += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn into_result(mut self) -> Result<(), Vec<Diagnostic>> {
        if self.list.is_empty() {
            return Ok(());
        }
        if let Some(last) = self.list.last_mut().filter(|_| self.untold > 0) {
            last.notes.push(format!("{} more faults in this header are not shown", self.untold));
        }
        Err(self.list)
    }
}

/// A fault of one tensor's entry.
fn broken_tensor(name: &str, what: &str) -> Diagnostic {
    Diagnostic::error(codes::HEADER_BROKEN, format!("`{}` {what}", shown(name)))
}
