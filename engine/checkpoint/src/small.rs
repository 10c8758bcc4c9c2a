//! Small files of a model's or an output's folder, read whole: plain files alone, up to a limit that is told.

use std::io;
use std::path::Path;

use mixdown_diagnostics::{Code, Diagnostic, Source, Span, codes};
use mixdown_files::{open_regular, read_limited, retried};
use serde_json::Value;

use crate::shown::{bytes_text, io_text, shown};

/// Longest file that is read whole. An index of 100 000 tensors has about 10 MB, a manifest of as many 40 MB.
pub const LONGEST: u64 = 256 << 20;

/// The bytes of a file, which messages call `name`.
///
/// **Errors.** `UNREADABLE` where it is no plain file, longer than [`LONGEST`], or cannot be read.
pub fn bytes(path: &Path, name: &str) -> Result<Vec<u8>, Box<Diagnostic>> {
    bytes_up_to(path, name, LONGEST)
}

/// The bytes of a file of at most `longest` bytes.
///
/// **Errors.** Those of [`bytes()`].
pub fn bytes_up_to(path: &Path, name: &str, longest: u64) -> Result<Vec<u8>, Box<Diagnostic>> {
    read_limited(path, longest).map_err(|error| unreadable(path, name, longest, &error))
}

/// The bytes of a file; none where nothing has that name.
///
/// **Errors.** Those of [`bytes()`]. A link that leads nowhere is one.
pub fn bytes_if_there(path: &Path, name: &str) -> Result<Option<Vec<u8>>, Box<Diagnostic>> {
    match read_limited(path, LONGEST) {
        Err(error) if is_absent(path, &error) => Ok(None),
        result => result.map(Some).map_err(|error| unreadable(path, name, LONGEST, &error)),
    }
}

/// The text of a file.
///
/// **Errors.** Those of [`bytes()`], and where it is not UTF-8.
pub fn text(path: &Path, name: &str) -> Result<Source, Box<Diagnostic>> {
    source(bytes(path, name)?, name)
}

/// The text of a file; none where nothing has that name.
///
/// **Errors.** Those of [`text`]. A link that leads nowhere is one.
pub fn text_if_there(path: &Path, name: &str) -> Result<Option<Source>, Box<Diagnostic>> {
    bytes_if_there(path, name)?.map(|bytes| source(bytes, name)).transpose()
}

/// What a JSON file holds; none where nothing has that name.
///
/// **Errors.** Those of [`text`], and `CONFIG_BROKEN` where it is not JSON.
pub fn json_if_there(path: &Path, name: &str) -> Result<Option<Value>, Box<Diagnostic>> {
    let Some(source) = text_if_there(path, name)? else { return Ok(None) };
    let value = serde_json::from_str(source.text());
    value.map(Some).map_err(|error| Box::new(not_json(codes::CONFIG_BROKEN, &source, &error)))
}

/// What a file holds that must be a JSON map; none where nothing has that name.
///
/// **Errors.** Those of [`json_if_there`], and where it is something else.
pub fn map_if_there(path: &Path, name: &str) -> Result<Option<Value>, Box<Diagnostic>> {
    match json_if_there(path, name)? {
        Some(value) if !value.is_object() => {
            let headline = "a configuration is not a JSON map";
            Err(Box::new(Diagnostic::error(codes::CONFIG_BROKEN, headline).in_file(name)))
        }
        value => Ok(value),
    }
}

/// Whether two files can be read and hold the same. Neither is held in memory.
pub fn same_bytes(one: &Path, other: &Path) -> bool {
    use std::io::{BufRead, BufReader};
    let (Ok((one, a)), Ok((other, b))) = (open_regular(one), open_regular(other)) else {
        return false;
    };
    if a.len() != b.len() {
        return false;
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let (Ok(a), Ok(b)) = (retried_fill(&mut one), retried_fill(&mut other)) else {
            return false;
        };
        if a == 0 || b == 0 {
            return a == b;
        }
        let count = a.min(b);
        if one.buffer()[..count] != other.buffer()[..count] {
            return false;
        }
        one.consume(count);
        other.consume(count);
    }
}

/// Bytes of the next piece of a file.
fn retried_fill(file: &mut impl io::BufRead) -> io::Result<usize> {
    retried(|| file.fill_buf().map(<[u8]>::len))
}

/// Whether a path is not there at all. A link that leads nowhere is.
pub(crate) fn is_absent(path: &Path, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err()
}

fn unreadable(path: &Path, name: &str, longest: u64, error: &io::Error) -> Box<Diagnostic> {
    if error.kind() != io::ErrorKind::FileTooLarge {
        let headline = format!("a file cannot be read: {}", io_text(error));
        return Box::new(Diagnostic::error(codes::UNREADABLE, headline).in_file(name));
    }
    let fault = Diagnostic::error(codes::UNREADABLE, "a file is too large").in_file(name);
    let found = std::fs::metadata(path).map(|found| bytes_text(found.len())).unwrap_or_default();
    let fault = fault.fact("file", found).fact("limit", bytes_text(longest));
    Box::new(fault.help("look whether it is the file that belongs there"))
}

fn source(bytes: Vec<u8>, name: &str) -> Result<Source, Box<Diagnostic>> {
    String::from_utf8(bytes).map(|text| Source::new(name, text)).map_err(|error| {
        let at = error.utf8_error().valid_up_to() as u64;
        Box::new(Diagnostic::error(codes::UNREADABLE, "a file is not UTF-8").at_byte(name, at))
    })
}

/// Says where a text stops being JSON, or has another form than it should.
pub(crate) fn not_json(code: Code, source: &Source, error: &serde_json::Error) -> Diagnostic {
    let says = error.to_string();
    let says = says.split(" at line ").next().unwrap_or_default();
    let headline = match error.classify() {
        serde_json::error::Category::Data => "a JSON file does not have the form it should",
        _ => "a file is not JSON",
    };
    let before = source.line(error.line() as u32).unwrap_or_default();
    // serde_json counts bytes; a place counts characters.
    let column = before.bytes().take(error.column()).filter(|byte| byte & 0xc0 != 0x80).count();
    let span = Span { line: error.line() as u32, column: column.max(1) as u32, length: 1 };
    let fault = Diagnostic::error(code, headline).at(source, span).note(shown(says));
    // Python's writer puts them there all the same.
    match ["Infinity", "NaN"].iter().find(|word| before.contains(**word)) {
        Some(word) => fault.help(format!("write a number for `{word}`, which JSON does not have")),
        None => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_small_file_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(bytes_if_there(&at("absent"), "m/absent").unwrap(), None);
        std::os::unix::fs::symlink("absent", at("dangling")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::File::create(at("hole")).unwrap().set_len(LONGEST + 1).unwrap();
        std::fs::write(at("latin"), b"a\xe9").unwrap();
        for (name, says) in [
            ("dangling", "a file cannot be read: "),
            ("pipe", "a pipe, socket or device stands where a file should be"),
            ("folder", "a folder stands where a file should be"),
            ("hole", "a file is too large"),
            ("latin", "a file is not UTF-8"),
        ] {
            let fault = text_if_there(&at(name), "m/file").unwrap_err();
            assert_eq!(fault.code, codes::UNREADABLE, "{name}");
            assert!(fault.headline.contains(says), "{name}: {}", fault.headline);
            assert!(format!("{:?}", fault.place).contains("m/file"), "{name}");
        }
        let fault = bytes(&at("hole"), "m/hole").unwrap_err();
        assert_eq!(fault.facts[0].0, "file");
        assert_eq!(fault.facts[1], ("limit".to_owned(), bytes_text(LONGEST)));
    }

    #[test]
    fn files_are_compared_to_their_ends() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let mut bytes = vec![7; 100_000];
        let (one, same) = (put("one", &bytes), put("same", &bytes));
        bytes[99_999] = 8;
        let other = put("other", &bytes);
        let short = put("short", &bytes[..99_999]);
        assert!(same_bytes(&one, &same) && same_bytes(&one, &one));
        for other in [other, short, folder.path().join("absent"), folder.path().to_owned()] {
            assert!(!same_bytes(&one, &other), "{other:?}");
        }
        assert!(same_bytes(&put("a", b""), &put("b", b"")));
    }
}
