//! The form before torch 1.6: pickles of a number that tells it, of a version, of the machine it was
//! written on, of the tensors, and of the storages' keys; then the storages, each after its count of
//! elements.

use std::collections::HashMap;

use mixdown_diagnostics::{Diagnostic, codes};

use super::machine::{self, Pickle};
use super::stream::Stream;
use super::values::{Elements, Value};
use super::{Fault, big_endian, broken, unread};
use crate::shown::{bytes_text, shown};

/// The number that the first pickle holds, after the instruction for one of ten bytes.
const MAGIC: [u8; 12] = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The version that there was.
const VERSION: Value = Value::Int(1001);

/// A file that was read.
pub(super) struct File {
    pub pickle: Pickle,
    /// Where that pickle begins.
    pub at: u64,
    /// Where the bytes of each storage begin.
    pub storages: HashMap<String, u64>,
}

/// Whether a file that starts so is of this form.
pub(super) fn recognizes(start: &[u8]) -> bool {
    // From protocol 4 on a frame comes before the number.
    matches!(start, [0x80, 2..=5, rest @ ..]
        if rest.starts_with(&MAGIC)
            || (rest.first() == Some(&0x95) && rest.get(9..).is_some_and(|rest| rest.starts_with(&MAGIC))))
}

/// Reads a file of this form, except for the tensors' bytes.
pub(super) fn read(stream: &mut Stream<'_>) -> Result<File, Fault> {
    machine::run(stream)?;
    let at = stream.at();
    let version = machine::run(stream)?.top;
    if version != VERSION {
        let fault = unread("the file has a version of PyTorch's old format that is not read");
        return Err(Box::new(fault.at_byte(stream.shown, at).fact("expected", "1001")));
    }
    check_machine(stream)?;
    let at = stream.at();
    let pickle = machine::run(stream)?;
    let keys = keys(stream)?;
    let storages = storages(stream, &pickle, keys)?;
    Ok(File { pickle, at, storages })
}

fn check_machine(stream: &mut Stream<'_>) -> Result<(), Fault> {
    let at = stream.at();
    let system = machine::run(stream)?;
    let pairs = system.heap.dict(system.top).unwrap_or_default();
    let little = |(key, _): &&(Value, Value)| system.heap.text(*key) == Some("little_endian");
    match pairs.iter().find(little) {
        Some((_, Value::Bool(true))) => Ok(()),
        Some(_) => Err(big_endian(stream.shown, at)),
        None => {
            Err(Box::new(broken("the file does not say its byte order").at_byte(stream.shown, at)))
        }
    }
}

/// The storages' keys, in the order of their bytes.
fn keys(stream: &mut Stream<'_>) -> Result<Vec<String>, Fault> {
    let at = stream.at();
    let Pickle { top, heap } = machine::run(stream)?;
    let keys = match top {
        Value::List(list) => {
            heap.lists[list as usize].iter().map(|key| heap.text(*key).map(str::to_owned)).collect()
        }
        _ => None,
    };
    keys.ok_or_else(|| {
        Box::new(broken("the file does not list its storages").at_byte(stream.shown, at))
    })
}

fn storages(
    stream: &Stream<'_>,
    pickle: &Pickle,
    keys: Vec<String>,
) -> Result<HashMap<String, u64>, Fault> {
    let known: HashMap<&str, _> =
        pickle.heap.storages.iter().map(|storage| (storage.key.as_str(), storage)).collect();
    let size = stream.source.len();
    let mut places = HashMap::with_capacity(keys.len());
    let mut at = stream.at();
    for key in keys {
        let about = |fault: Diagnostic| Err(Box::new(fault.at_byte(stream.shown, at)));
        let name = shown(&key).into_owned();
        let Some(storage) = known.get(key.as_str()) else {
            return about(broken(format!("the storage `{name}` belongs to no tensor")));
        };
        let Some(bytes) = storage.bytes() else {
            let kind = match storage.elements {
                Elements::Unread(kind) => kind,
                _ => "too many",
            };
            let headline =
                format!("the storage `{name}` has elements of type `{kind}`, which is not read");
            return about(unread(headline));
        };
        let start = at.checked_add(8).filter(|start| *start <= size);
        let end = start.and_then(|start| start.checked_add(bytes)).filter(|end| *end <= size);
        let (Some(start), Some(end)) = (start, end) else {
            return about(
                Diagnostic::error(
                    codes::SHARD_TRUNCATED,
                    format!("the file ends inside the storage `{name}`"),
                )
                .fact("storage", bytes_text(bytes))
                .fact("file", format!("{} left", bytes_text(size - at)))
                .help("fetch this file again"),
            );
        };
        let mut count = [0; 8];
        stream
            .source
            .read_exact_at(at, &mut count)
            .map_err(|error| Box::new(error.diagnostic()))?;
        let count = u64::from_le_bytes(count);
        if count != storage.count {
            return about(
                broken(format!("the storage `{name}` has another count than the pickle says"))
                    .fact("pickle", storage.count.to_string())
                    .fact("storage", count.to_string()),
            );
        }
        if places.insert(key, start).is_some() {
            return about(broken(format!("the file lists the storage `{name}` twice")));
        }
        at = end;
    }
    if at < size {
        return Err(Box::new(
            broken("bytes after the last storage belong to none")
                .at_byte(stream.shown, at)
                .fact("expected", bytes_text(at))
                .fact("file", bytes_text(size)),
        ));
    }
    Ok(places)
}
