//! The `.metadata` of torch's distributed checkpoints: a pickle that says which tensors there are, and in which
//! stretches of which files their parts lie. Each part is a file of its own, as `torch.save` writes a tensor.

use std::collections::HashMap;

use mixdown_tensor::DType;

use super::machine::{self, Pickle};
use super::state::Chosen;
use super::stream::Stream;
use super::values::{Elements, Global, Heap, Record, Value, count};
use super::{Fault, broken, globals, unread, zipped};
use crate::index::TensorEntry;
use crate::shown::shown;
use crate::source::{ByteSource, ReadError};

/// Most dimensions that torch itself has.
const MOST_DIMENSIONS: usize = 64;

/// What a checkpoint holds.
pub(crate) struct Listed {
    pub tensors: Vec<Sharded>,
    /// Names of what are no tensors.
    pub others: Vec<String>,
}

/// A tensor in parts.
pub(crate) struct Sharded {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub parts: Vec<Part>,
}

/// A part of a tensor: a rectangle of it, and where its file lies.
pub(crate) struct Part {
    pub offsets: Vec<u64>,
    pub sizes: Vec<u64>,
    /// The name of a file in the folder.
    pub file: String,
    pub at: u64,
    pub len: u64,
}

/// Reads a `.metadata`.
///
/// **Errors.** What is wrong with the pickle, and what it says that cannot be.
pub(crate) fn read(source: &dyn ByteSource, file: &str) -> Result<Listed, Fault> {
    let mut stream = Stream::new(source, file, 0, source.len());
    let pickle = machine::run_with(&mut stream, globals::in_distributed)?;
    let metadata = Metadata { heap: &pickle.heap, file };
    metadata.listed(pickle.top)
}

/// The tensor in a stretch of a file.
///
/// **Errors.** What is wrong with it.
pub(crate) fn tensor(
    source: &dyn ByteSource,
    (at, len): (u64, u64),
    file: &str,
) -> Result<TensorEntry, Vec<mixdown_diagnostics::Diagnostic>> {
    if at.checked_add(len).is_none_or(|end| end > source.len()) {
        let fault = broken("a part of a tensor lies beyond the end of its file").at_byte(file, at);
        return Err(vec![fault.help("fetch or write the checkpoint again")]);
    }
    let window = Window { source, at, len };
    let only = |pickle: &Pickle, file: &str, at: u64| match pickle.top {
        Value::Tensor(number) => {
            Ok(Chosen { tensors: vec![("part".to_owned(), number)], warnings: Vec::new() })
        }
        _ => Err(Box::new(broken("a part of a tensor holds something else").at_byte(file, at))),
    };
    let header = zipped(&window, file, &only)?;
    let Some(entry) = header.tensors.into_iter().next() else {
        return Err(vec![broken("a part of a tensor holds none").at_byte(file, at)]);
    };
    Ok(TensorEntry { offset: at + entry.offset, ..entry })
}

/// A stretch of a source.
struct Window<'a> {
    source: &'a dyn ByteSource,
    at: u64,
    len: u64,
}

impl ByteSource for Window<'_> {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        match offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= self.len) {
            true => self.source.read_exact_at(self.at + offset, buffer),
            // What is asked for lies beyond the part; the file's own end says so best.
            false => self.source.read_exact_at(self.source.len(), buffer),
        }
    }

    fn will_need(&self, offset: u64, len: u64) {
        self.source.will_need(self.at + offset, len);
    }

    fn len(&self) -> u64 {
        self.len
    }
}

struct Metadata<'a> {
    heap: &'a Heap,
    file: &'a str,
}

impl<'a> Metadata<'a> {
    fn wrong(&self, what: &str) -> Fault {
        Box::new(
            broken(format!("the checkpoint's metadata cannot be understood: {what}"))
                .in_file(self.file)
                .help("fetch or write the checkpoint again"),
        )
    }

    /// The attributes of an object of a kind.
    fn attributes(&self, value: Value, wanted: Record) -> Option<Value> {
        let Value::Record(number) = value else { return None };
        let (kind, attributes) = self.heap.records[number as usize];
        (kind == wanted).then_some(attributes)
    }

    fn get(&self, value: Value, wanted: Record, key: &str) -> Option<Value> {
        let pairs = self.heap.dict(self.attributes(value, wanted)?)?;
        pairs.iter().find(|(own, _)| self.heap.text(*own) == Some(key)).map(|(_, value)| *value)
    }

    fn listed(&self, top: Value) -> Result<Listed, Fault> {
        let get = |key: &str| {
            self.get(top, Record::Metadata, key).and_then(|value| self.heap.dict(value))
        };
        let (Some(stated), Some(stored)) = (get("state_dict_metadata"), get("storage_data")) else {
            return Err(self.wrong("it says not which tensors there are and where"));
        };
        let mut places: HashMap<(&str, Vec<u64>), Value> = HashMap::with_capacity(stored.len());
        for (index, place) in stored {
            let of = |key: &str| self.get(*index, Record::Index, key);
            let name = of("fqn").and_then(|name| self.heap.text(name));
            let offsets = match of("offset") {
                None | Some(Value::None) => Some(Vec::new()),
                Some(offsets) => self.heap.counts(offsets),
            };
            let (Some(name), Some(offsets)) = (name, offsets) else {
                return Err(self.wrong("a place without a name"));
            };
            places.insert((name, offsets), *place);
        }
        let mut listed = Listed { tensors: Vec::new(), others: Vec::new() };
        for (name, described) in stated {
            let Some(name) = self.heap.text(*name) else {
                return Err(self.wrong("a name that is no text"));
            };
            if self.attributes(*described, Record::Tensor).is_none() {
                listed.others.push(name.to_owned());
                continue;
            }
            listed.tensors.push(self.tensor(name, *described, &places)?);
        }
        Ok(listed)
    }

    fn tensor(
        &self,
        name: &str,
        described: Value,
        places: &HashMap<(&str, Vec<u64>), Value>,
    ) -> Result<Sharded, Fault> {
        let get = |key: &str| self.get(described, Record::Tensor, key);
        let wrong = || self.wrong(&format!("what it says of `{}`", shown(name)));
        let properties = get("properties")
            .and_then(|value| self.attributes(value, Record::Properties))
            .and_then(|value| self.heap.tuple(value));
        let dtype = match properties {
            Some([Value::Global(Global::DType(Elements::Of(dtype))), ..]) => *dtype,
            Some([Value::Global(Global::DType(Elements::Unread(kind))), ..]) => {
                let headline =
                    format!("`{}` has the element type `{kind}`, which is not read", shown(name));
                return Err(Box::new(unread(headline).in_file(self.file)));
            }
            _ => return Err(wrong()),
        };
        let shape = get("size").and_then(|size| self.heap.counts(size)).ok_or_else(wrong)?;
        let chunks = match get("chunks") {
            Some(Value::List(list)) => &self.heap.lists[list as usize],
            _ => return Err(wrong()),
        };
        if shape.len() > MOST_DIMENSIONS {
            return Err(wrong());
        }
        let mut parts = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let counts = |key: &str| {
                self.get(*chunk, Record::Chunk, key).and_then(|value| self.heap.counts(value))
            };
            let (Some(offsets), Some(sizes)) = (counts("offsets"), counts("sizes")) else {
                return Err(wrong());
            };
            let is_inside = offsets.len() == shape.len()
                && sizes.len() == shape.len()
                && (offsets.iter().zip(&sizes).zip(&shape)).all(|((offset, size), all)| {
                    offset.checked_add(*size).is_some_and(|end| end <= *all)
                });
            if !is_inside {
                return Err(wrong());
            }
            let place = places.get(&(name, offsets.clone()));
            let place =
                place.or_else(|| places.get(&(name, Vec::new())).filter(|_| chunks.len() == 1));
            let place = *place.ok_or_else(wrong)?;
            let (file, at, len) = self.place(place).ok_or_else(wrong)?;
            parts.push(Part { offsets, sizes, file, at, len });
        }
        Ok(Sharded { name: name.to_owned(), dtype, shape, parts })
    }

    fn place(&self, value: Value) -> Option<(String, u64, u64)> {
        let get = |key: &str| self.get(value, Record::Place, key);
        // What was compressed or encrypted says how, and is not read.
        let is_plain = match get("transform_descriptors") {
            None | Some(Value::None) => true,
            Some(Value::List(list)) => self.heap.lists[list as usize].is_empty(),
            Some(other) => self.heap.tuple(other).is_some_and(<[Value]>::is_empty),
        };
        let file = self.heap.text(get("relative_path")?)?.to_owned();
        is_plain.then_some((file, count(get("offset")?)?, count(get("length")?)?))
    }
}
