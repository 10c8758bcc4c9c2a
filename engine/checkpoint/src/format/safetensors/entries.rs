//! The header's JSON: names, element types, shapes and byte ranges, each judged alone.

use std::collections::{BTreeMap, HashMap};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::{DType, Shape};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Faults, broken_tensor};
use crate::pairs::{Pairs, place_in};
use crate::shown::{bytes_text, shown};

/// A tensor as the header states it. The byte range counts from the end of the header, is as long
/// as type and shape say, and may still lie anywhere.
pub(super) struct Entry {
    pub name: String,
    pub dtype: DType,
    pub shape: Shape,
    pub begin: u64,
    pub end: u64,
    /// Where the entry stands in the header's text.
    pub at: u64,
}

/// Element types that safetensors has and mixdown does not read.
const UNREAD: [&str; 5] = ["F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"];

/// Reads all entries; what is wrong goes to `faults`.
pub(super) fn read(text: &str, faults: &mut Faults<'_>) -> (Vec<Entry>, BTreeMap<String, String>) {
    let pairs = match serde_json::from_str::<Pairs<'_>>(text) {
        Ok(pairs) => pairs.0,
        Err(error) => {
            let at = byte_of(text, error.line(), error.column());
            let says = error.to_string();
            let says = says.split(" at line ").next().unwrap_or_default();
            faults.push(at, || {
                Diagnostic::error(codes::HEADER_BROKEN, "the safetensors header is not JSON")
                    .fact("parser", shown(says))
                    .help("fetch or write this file again")
            });
            return Default::default();
        }
    };
    let mut entries = Vec::new();
    let mut metadata = BTreeMap::new();
    let mut first: HashMap<&str, u64> = HashMap::with_capacity(pairs.len());
    for (name, raw) in &pairs {
        let at = place_in(text, raw) as u64;
        if let Some(before) = first.insert(name, at) {
            faults.push(at, || {
                broken_tensor(name, "is in the header twice")
                    .fact("first", format!("byte {}", super::LENGTH_BYTES + before))
                    .help("write this file again; a reader would take either of the two")
            });
        } else if name == "__metadata__" {
            match serde_json::from_str(raw.get()) {
                Ok(found) => metadata = found,
                Err(_) => faults.push(at, || {
                    broken_tensor(name, "is not a map of texts").fact("found", excerpt(raw))
                }),
            }
        } else {
            match entry(name, raw, at) {
                Ok(entry) => entries.push(entry),
                Err(fault) => faults.push(at, || *fault),
            }
        }
    }
    (entries, metadata)
}

/// The value of one name.
#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

fn entry(name: &str, raw: &RawValue, at: u64) -> Result<Entry, Box<Diagnostic>> {
    let Ok(info) = serde_json::from_str::<Info>(raw.get()) else {
        return Err(Box::new(malformed(name, raw)));
    };
    let Some(dtype) = DType::from_safetensors(&info.dtype) else {
        return Err(Box::new(unknown_dtype(name, &info.dtype)));
    };
    let (begin, end) = info.data_offsets;
    if end < begin {
        let fault = broken_tensor(name, "ends before it begins")
            .fact("begin", begin.to_string())
            .fact("end", end.to_string());
        return Err(Box::new(fault));
    }
    let Ok(shape) = Shape::new(info.shape.clone()) else {
        let fault = broken_tensor(name, "has a shape whose size does not fit into 64 bits")
            .fact("shape", format!("{:?}", &info.shape[..info.shape.len().min(8)]));
        return Err(Box::new(fault));
    };
    if shape.bytes(dtype) != end - begin {
        let fault = broken_tensor(name, "has another size than its type and shape say")
            .fact("expected", format!("{} for {shape} {dtype}", bytes_text(shape.bytes(dtype))))
            .fact("found", format!("{} from {begin} to {end}", bytes_text(end - begin)));
        return Err(Box::new(fault));
    }
    Ok(Entry { name: name.to_owned(), dtype, shape, begin, end, at })
}

fn unknown_dtype(name: &str, dtype: &str) -> Diagnostic {
    if UNREAD.contains(&dtype) {
        let headline =
            format!("`{}` has the element type `{dtype}`, which is not read", shown(name));
        return Diagnostic::error(codes::UNSUPPORTED_FORMAT, headline)
            .help("use a checkpoint of this model in bf16, f16 or f32");
    }
    broken_tensor(name, "has an element type that safetensors does not have")
        .fact("found", format!("`{}`", shown(dtype)))
}

/// Says which part of an entry has the wrong form.
fn malformed(name: &str, raw: &RawValue) -> Diagnostic {
    let what = match serde_json::from_str::<Value>(raw.get()) {
        // An entry this long is not read a second time into memory.
        _ if raw.get().len() > 4096 => "has an entry that is not a type, a shape and a byte range",
        Ok(Value::Object(map)) => {
            if !map.get("dtype").is_some_and(Value::is_string) {
                "has no `dtype`, or one that is not a text"
            } else if map.get("shape").and_then(counts).is_none() {
                "has no `shape`, or one that is not a list of counts"
            } else if map.get("data_offsets").and_then(counts) != Some(2) {
                "has no `data_offsets`, or they are not two byte counts"
            } else {
                "has an entry with the same key twice"
            }
        }
        _ => "has an entry that is not a map",
    };
    broken_tensor(name, what).fact("found", excerpt(raw))
}

/// How many numbers there are, if the value is a list of whole numbers from 0 on.
fn counts(value: &Value) -> Option<usize> {
    let list = value.as_array()?;
    list.iter().all(Value::is_u64).then_some(list.len())
}

fn excerpt(raw: &RawValue) -> String {
    format!("`{}`", shown(raw.get()))
}

/// Byte offset of a line and column that serde_json reports, both from 1, columns in bytes.
fn byte_of(text: &str, line: usize, column: usize) -> u64 {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len()) as u64
}
