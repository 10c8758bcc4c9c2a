//! PyTorch's files, `.bin`, `.pt` and `.pth`: a zip archive of a pickle and of the tensors' bytes, or
//! the older stream of pickles.
//!
//! A pickle is a program. Here it is followed step by step on values that stand for what it would
//! make, so that nothing is ever imported, called or constructed: names that tensors need are known,
//! and a file that names anything else is refused.

pub(crate) mod distributed;
mod globals;
mod legacy;
mod machine;
mod rebuild;
mod state;
mod stream;
mod tensors;
mod values;
pub(crate) mod zero;
mod zip;

use mixdown_diagnostics::{Diagnostic, codes};

use super::{Format, Header};
use crate::shown::shown;
use crate::source::ByteSource;
use stream::Stream;

/// What is wrong with a file.
type Fault = Box<Diagnostic>;

/// Longest pickle that is read. 100 000 tensors take about 20 MB.
const LONGEST_PICKLE: u64 = 100_000_000;

/// What a zip archive begins with.
const ZIP: &[u8] = b"PK\x03\x04";

/// The format of files that `torch.save` writes.
pub struct Torch;

impl Format for Torch {
    fn name(&self) -> &'static str {
        "PyTorch"
    }

    fn recognizes(&self, start: &[u8]) -> bool {
        start.starts_with(ZIP) || legacy::recognizes(start)
    }

    fn read_header(&self, source: &dyn ByteSource, shown: &str) -> Result<Header, Vec<Diagnostic>> {
        let mut start = vec![0; super::START.min(source.len() as usize)];
        source.read_exact_at(0, &mut start).map_err(|error| vec![error.diagnostic()])?;
        if legacy::recognizes(&start) {
            old(source, shown)
        } else {
            zipped(source, shown, &state::choose)
        }
    }
}

/// The form since torch 1.6: an archive with `NAME/data.pkl`, `NAME/data/KEY` and `NAME/byteorder`.
/// `choose` says which of the pickle's tensors are wanted, from the pickle, the file's name and its place.
fn zipped(
    source: &dyn ByteSource,
    shown: &str,
    choose: &dyn Fn(&machine::Pickle, &str, u64) -> Result<state::Chosen, Fault>,
) -> Result<Header, Vec<Diagnostic>> {
    zipped_with(source, shown, globals::find, choose)
}

/// The same, where names stand for what `find` says.
fn zipped_with(
    source: &dyn ByteSource,
    shown: &str,
    find: fn(&str, &str) -> values::Global,
    choose: &dyn Fn(&machine::Pickle, &str, u64) -> Result<state::Chosen, Fault>,
) -> Result<Header, Vec<Diagnostic>> {
    let archive = zip::Archive::read(source, shown).map_err(|fault| vec![*fault])?;
    let (prefix, at, len) = archive.pickle(source, shown).map_err(|fault| vec![*fault])?;
    check_byte_order(&archive, &prefix, source, shown).map_err(|fault| vec![*fault])?;
    let mut stream = Stream::new(source, shown, at, at + len);
    let pickle = machine::run_with(&mut stream, find).map_err(|fault| vec![*fault])?;
    let chosen = choose(&pickle, shown, at).map_err(|fault| vec![*fault])?;
    let mut ranges = vec![(at, len, format!("{prefix}data.pkl"))];
    let header = tensors::place(&pickle, chosen, shown, |key, bytes| {
        let name = format!("{prefix}data/{key}");
        let Some((start, len)) = archive.range(&name, source, shown)? else {
            return Err(Box::new(
                broken(format!("the archive lacks `{}`, which tensors lie in", self::shown(&name)))
                    .in_file(shown)
                    .help("fetch or write this file again"),
            ));
        };
        if len != bytes {
            let headline =
                format!("`{}` has another size than the pickle says", self::shown(&name));
            return Err(Box::new(
                broken(headline)
                    .at_byte(shown, start)
                    .fact("pickle", crate::shown::bytes_text(bytes))
                    .fact("entry", crate::shown::bytes_text(len))
                    .help("fetch or write this file again"),
            ));
        }
        ranges.push((start, len, name));
        Ok(start)
    })?;
    no_overlap(ranges, shown).map_err(|fault| vec![*fault])?;
    Ok(header)
}

fn check_byte_order(
    archive: &zip::Archive,
    prefix: &str,
    source: &dyn ByteSource,
    shown: &str,
) -> Result<(), Fault> {
    // Files older than torch 2.1 do not say, and are little-endian on every machine of note.
    let Some((at, len)) = archive.range(&format!("{prefix}byteorder"), source, shown)? else {
        return Ok(());
    };
    let mut text = vec![0; len.min(16) as usize];
    source.read_exact_at(at, &mut text).map_err(|error| Box::new(error.diagnostic()))?;
    match text.as_slice() {
        b"little" => Ok(()),
        b"big" => Err(big_endian(shown, at)),
        other => Err(Box::new(
            broken("the byte order of the file is neither `little` nor `big`")
                .at_byte(shown, at)
                .fact("found", format!("`{}`", self::shown(&String::from_utf8_lossy(other)))),
        )),
    }
}

fn big_endian(shown: &str, at: u64) -> Fault {
    Box::new(
        unread("the file is big-endian, which is not read")
            .at_byte(shown, at)
            .help("load it with torch on a common machine and save it again"),
    )
}

/// No writer lays one entry over another; who does wants two readers to see two files.
fn no_overlap(mut ranges: Vec<(u64, u64, String)>, shown: &str) -> Result<(), Fault> {
    ranges.sort();
    // Empty entries lie nowhere.
    ranges.retain(|range| range.1 > 0);
    for pair in ranges.windows(2) {
        if pair[0].0 + pair[0].1 > pair[1].0 {
            let headline = format!("`{}` overlaps another entry", self::shown(&pair[1].2));
            return Err(Box::new(
                broken(headline)
                    .at_byte(shown, pair[1].0)
                    .fact("other", format!("`{}`", self::shown(&pair[0].2))),
            ));
        }
    }
    Ok(())
}

/// The form before torch 1.6.
fn old(source: &dyn ByteSource, shown: &str) -> Result<Header, Vec<Diagnostic>> {
    let mut stream = Stream::new(source, shown, 0, source.len());
    let file = legacy::read(&mut stream).map_err(|fault| vec![*fault])?;
    let chosen = state::choose(&file.pickle, shown, file.at).map_err(|fault| vec![*fault])?;
    tensors::place(&file.pickle, chosen, shown, |key, _| {
        // The storages' sizes are what the pickle says, or the file would not have been read.
        file.storages.get(key).copied().ok_or_else(|| {
            let headline = format!("the file lacks the storage `{}`", self::shown(key));
            Box::new(broken(headline).in_file(shown).help("fetch or write this file again"))
        })
    })
}

/// The file contradicts itself or its format.
fn broken(headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(codes::HEADER_BROKEN, headline)
}

/// The file may be sound, and is not read.
fn unread(headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(codes::UNSUPPORTED_FORMAT, headline)
}
