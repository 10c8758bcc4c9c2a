//! GGUF: a magic, typed keys and values, tensor infos, and the tensors at multiples of an alignment.
//!
//! What is read is walked with bounds: nothing is allocated on the word of a count, and of the values
//! only numbers and short texts are kept.

use std::collections::{BTreeMap, HashMap, HashSet};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::{DType, Shape};

use super::{Format, Header};
use crate::encoding::gguf::{self, Stored};
use crate::index::TensorEntry;
use crate::shown::{bytes_text, shown};
use crate::source::ByteSource;

/// Key under which the header's version stands among the metadata: only this format has it.
pub(crate) const VERSION: &str = "GGUF.version";

const MAGIC: &[u8] = b"GGUF";
/// Tensors begin at multiples of this, unless the file says otherwise.
const ALIGNMENT: u64 = 32;
/// Longest name of a tensor or a key; the specification allows 64 and 65 535 bytes.
const LONGEST_NAME: u64 = 65_535;
/// Longest text among the values that is kept.
const LONGEST_KEPT: u64 = 1024;
/// Bytes that are read at a time.
const WINDOW: u64 = 64 << 10;

/// What is wrong with a file.
type Fault = Box<Diagnostic>;

/// The format of `.gguf` files.
pub struct Gguf;

impl Format for Gguf {
    fn name(&self) -> &'static str {
        "GGUF"
    }

    fn recognizes(&self, start: &[u8]) -> bool {
        start.starts_with(MAGIC)
    }

    fn read_header(&self, source: &dyn ByteSource, shown: &str) -> Result<Header, Vec<Diagnostic>> {
        let mut cursor = Cursor { source, shown, at: 0, window: Vec::new(), window_at: 0 };
        let (infos, metadata, alignment) = infos(&mut cursor).map_err(|fault| vec![*fault])?;
        let data =
            Data { start: cursor.at.next_multiple_of(alignment), end: source.len(), alignment };
        let tensors = tensors(infos, &data, shown)?;
        Ok(Header { tensors, metadata, ..Header::default() })
    }
}

/// The tensors of a file as they are stored: blocks are bytes by rows, under the file's own names. What is
/// no tensor of the model's is left out.
pub(crate) fn stored(source: &dyn ByteSource, shown: &str) -> Result<Header, Vec<Diagnostic>> {
    let mut cursor = Cursor { source, shown, at: 0, window: Vec::new(), window_at: 0 };
    let (infos, _, alignment) = infos(&mut cursor).map_err(|fault| vec![*fault])?;
    let kinds: HashMap<String, u32> =
        infos.iter().map(|info| (info.name.clone(), info.kind)).collect();
    let data = Data { start: cursor.at.next_multiple_of(alignment), end: source.len(), alignment };
    let mut header = Header::default();
    for tensor in tensors(infos, &data, shown)? {
        // Computed from the config, and a part of the header.
        if tensor.name == "rope_freqs.weight" {
            continue;
        }
        let blocks = kinds.get(&tensor.name).and_then(|kind| gguf::Blocks::of(*kind).ok());
        let tensor = match (blocks, &tensor.encoding) {
            (Some(blocks), Some(_)) => {
                let (elements, bytes) = blocks.size();
                let (columns, others) = match tensor.shape.dimensions() {
                    [others @ .., columns] => (*columns, others),
                    [] => (1, &[][..]),
                };
                let row = columns / elements * bytes;
                let shape = match others {
                    [experts, rows] => vec![*experts, *rows, row],
                    _ => vec![others.iter().product(), row],
                };
                let shape = Shape::new(shape).expect("it is smaller than the tensor's own");
                TensorEntry { dtype: DType::U8, shape, encoding: None, ..tensor }
            }
            _ => tensor,
        };
        header.tensors.extend(experts(tensor));
    }
    Ok(header)
}

/// The experts of a stack, which are written one by one; another tensor as it is.
fn experts(tensor: TensorEntry) -> Vec<TensorEntry> {
    /// More than a model has, so that a file cannot ask for any count of entries.
    const MOST: u64 = 1 << 16;
    /// Each expert has a copy of the name; llama.cpp's are of 64 bytes at most.
    const LONGEST_NAME: usize = 256;
    let &[count @ 1..=MOST, rows, columns] = tensor.shape.dimensions() else {
        return vec![tensor];
    };
    if tensor.name.len() > LONGEST_NAME || rows == 0 || columns == 0 {
        return vec![tensor];
    }
    let Ok(shape) = Shape::new(vec![rows, columns]) else { return vec![tensor] };
    let bytes = shape.bytes(tensor.dtype);
    let expert = |expert: u64| TensorEntry {
        name: format!("{}.{expert}", tensor.name),
        shape: shape.clone(),
        offset: tensor.offset + expert * bytes,
        ..tensor.clone()
    };
    (0..count).map(expert).collect()
}

/// A tensor as the file describes it.
struct Info {
    name: String,
    /// The fastest axis first.
    sizes: Vec<u64>,
    kind: u32,
    offset: u64,
    /// Where its description stands.
    at: u64,
}

/// The tensors, the values that are kept, and the alignment.
type Infos = (Vec<Info>, BTreeMap<String, String>, u64);

/// Where tensors can lie.
struct Data {
    start: u64,
    end: u64,
    alignment: u64,
}

fn infos(cursor: &mut Cursor<'_>) -> Result<Infos, Fault> {
    cursor.skip(MAGIC.len() as u64)?;
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        let headline = match version.swap_bytes() {
            2 | 3 => "the file is GGUF in big endian, which is not read".to_owned(),
            _ => format!("the file is GGUF of version {version}, which is not read"),
        };
        return Err(Box::new(
            Diagnostic::error(codes::UNSUPPORTED_FORMAT, headline)
                .at_byte(cursor.shown, 4)
                .fact("read", "versions 2 and 3, little endian")
                .help("convert the model again with a current llama.cpp"),
        ));
    }
    let (tensors, pairs) = (cursor.u64()?, cursor.u64()?);
    // The shortest pair takes 13 bytes, the shortest info 24.
    let least = pairs.checked_mul(13).and_then(|pairs| tensors.checked_mul(24)?.checked_add(pairs));
    if least.is_none_or(|least| least > cursor.source.len()) {
        return Err(cursor.broken("counts more than the file can hold").map(|fault| {
            fault.fact("tensors", tensors.to_string()).fact("values", pairs.to_string())
        }));
    }
    let mut metadata = BTreeMap::from([(VERSION.to_owned(), version.to_string())]);
    for _ in 0..pairs {
        let key = cursor.text(LONGEST_NAME, "a key")?;
        let kind = cursor.u32()?;
        if let Some(value) = cursor.value(kind)? {
            metadata.insert(key, value);
        }
    }
    let mut infos = Vec::new();
    for _ in 0..tensors {
        let at = cursor.at;
        let name = cursor.text(LONGEST_NAME, "the name of a tensor")?;
        let axes = cursor.u32()?;
        if axes > 8 {
            let fault = cursor.broken("describes a tensor of too many axes");
            return Err(fault.map(|fault| {
                fault.fact("tensor", self::shown(&name)).fact("axes", axes.to_string())
            }));
        }
        let sizes = (0..axes).map(|_| cursor.u64()).collect::<Result<Vec<u64>, Fault>>()?;
        infos.push(Info { name, sizes, kind: cursor.u32()?, offset: cursor.u64()?, at });
    }
    let alignment = match metadata.get("general.alignment") {
        Some(text) => text.parse().unwrap_or(0),
        None => ALIGNMENT,
    };
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        let fault = cursor.broken("has an alignment that is none");
        return Err(fault.map(|fault| {
            fault.fact("`general.alignment`", self::shown(&metadata["general.alignment"]))
        }));
    }
    Ok((infos, metadata, alignment))
}

/// Places of the tensors, each judged, and then all together.
fn tensors(infos: Vec<Info>, data: &Data, file: &str) -> Result<Vec<TensorEntry>, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let mut names = HashSet::new();
    let mut placed: Vec<(u64, u64, TensorEntry)> = Vec::new();
    for info in infos {
        let fault = |what: String| {
            let headline = format!("`{}` {what}", shown(&info.name));
            Diagnostic::error(codes::HEADER_BROKEN, headline).at_byte(file, info.at)
        };
        if !names.insert(info.name.clone()) {
            faults.push(fault("is in the header twice".to_owned()));
            continue;
        }
        match place(&info, data) {
            Ok((offset, bytes, entry)) => placed.push((offset, bytes, entry)),
            Err(Wrong::Unread(kind)) => faults.push(
                Diagnostic::error(
                    codes::PACKED,
                    format!(
                        "`{}` is packed as GGUF's {kind}, which is not decoded",
                        shown(&info.name)
                    ),
                )
                .at_byte(file, info.at)
                .help("use a file of this model in another type, such as Q8_0, Q4_K or BF16"),
            ),
            Err(Wrong::Broken(what, facts)) => {
                let told = fault(what.to_owned()).help("fetch or convert the model again");
                faults.push(
                    facts.into_iter().fold(told, |told, (label, text)| told.fact(label, text)),
                );
            }
        }
    }
    placed.sort_by_key(|(offset, bytes, _)| (*offset, *bytes));
    for pair in placed.windows(2) {
        if pair[0].0 + pair[0].1 > pair[1].0 {
            let names = (shown(&pair[0].2.name), shown(&pair[1].2.name));
            let headline = format!("`{}` and `{}` overlap", names.0, names.1);
            faults.push(Diagnostic::error(codes::HEADER_BROKEN, headline).at_byte(file, pair[1].0));
        }
    }
    faults.truncate(20);
    match faults.is_empty() {
        true => Ok(placed.into_iter().map(|(_, _, entry)| entry).collect()),
        false => Err(faults),
    }
}

enum Wrong {
    Unread(String),
    Broken(&'static str, Vec<(&'static str, String)>),
}

/// First byte, count of bytes, and what is there.
fn place(info: &Info, data: &Data) -> Result<(u64, u64, TensorEntry), Wrong> {
    let &Data { start, end, alignment } = data;
    let sizes: Vec<u64> = info.sizes.iter().rev().copied().collect();
    let broken = |what, facts| Err(Wrong::Broken(what, facts));
    let Ok(shape) = Shape::new(sizes) else {
        return broken("has a shape whose size does not fit into 64 bits", Vec::new());
    };
    let (dtype, bytes, blocks) = match plain(info.kind) {
        Some(dtype) => (dtype, shape.bytes(dtype), None),
        None => {
            let blocks = match gguf::Blocks::of(info.kind) {
                Ok(blocks) => blocks,
                Err(name) => return Err(Wrong::Unread(name)),
            };
            let row = info.sizes.first().copied().unwrap_or(1);
            let (elements, size) = blocks.size();
            if !row.is_multiple_of(elements) {
                let facts = vec![("row", row.to_string()), ("block", elements.to_string())];
                return broken("has rows that are not whole blocks", facts);
            }
            (DType::F32, shape.elements() / elements * size, Some(blocks))
        }
    };
    if !info.offset.is_multiple_of(alignment) {
        let facts = vec![("begins", info.offset.to_string()), ("alignment", alignment.to_string())];
        return broken("does not begin at a multiple of the alignment", facts);
    }
    let first = start.checked_add(info.offset);
    let Some(first) =
        first.filter(|first| first.checked_add(bytes).is_some_and(|last| last <= end))
    else {
        let facts = vec![
            ("begins", format!("byte {} of the data", info.offset)),
            ("size", bytes_text(bytes)),
            ("data", bytes_text(end.saturating_sub(start))),
        ];
        return broken("lies beyond the end of the file", facts);
    };
    let name = info.name.clone();
    let entry = match blocks {
        None => TensorEntry { name, dtype, shape, shard: 0, offset: first, encoding: None },
        Some(blocks) => gguf::entry(Stored { name, shape, offset: first, bytes }, blocks),
    };
    Ok((first, bytes, entry))
}

/// The element type of a kind of tensor that is stored as numbers.
fn plain(kind: u32) -> Option<DType> {
    Some(match kind {
        0 => DType::F32,
        1 => DType::F16,
        24 => DType::I8,
        25 => DType::I16,
        26 => DType::I32,
        27 => DType::I64,
        28 => DType::F64,
        30 => DType::Bf16,
        _ => return None,
    })
}

/// A place in the header, with the bytes around it.
struct Cursor<'a> {
    source: &'a dyn ByteSource,
    shown: &'a str,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
}

/// A fault that facts can be added to.
trait Facts {
    fn map(self, add: impl FnOnce(Diagnostic) -> Diagnostic) -> Self;
}

impl Facts for Fault {
    fn map(self, add: impl FnOnce(Diagnostic) -> Diagnostic) -> Self {
        Box::new(add(*self))
    }
}

impl Cursor<'_> {
    fn broken(&self, what: &str) -> Fault {
        Box::new(
            Diagnostic::error(codes::HEADER_BROKEN, format!("the GGUF header {what}"))
                .at_byte(self.shown, self.at)
                .help("fetch or convert the model again"),
        )
    }

    /// The next bytes, at most a window of them.
    fn bytes(&mut self, count: u64) -> Result<&[u8], Fault> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.source.len());
        let Some(end) = end else { return Err(self.broken("reaches past the end of the file")) };
        if self.at < self.window_at || end > self.window_at + self.window.len() as u64 {
            let wanted = WINDOW.max(count).min(self.source.len() - self.at);
            self.window.resize(wanted as usize, 0);
            self.window_at = self.at;
            let read = self.source.read_exact_at(self.at, &mut self.window);
            read.map_err(|error| Box::new(error.diagnostic()))?;
        }
        let from = (self.at - self.window_at) as usize;
        self.at = end;
        Ok(&self.window[from..from + count as usize])
    }

    fn skip(&mut self, count: u64) -> Result<(), Fault> {
        match self.at.checked_add(count).filter(|end| *end <= self.source.len()) {
            Some(end) => {
                self.at = end;
                Ok(())
            }
            None => Err(self.broken("reaches past the end of the file")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, longest: u64, what: &str) -> Result<String, Fault> {
        let length = self.u64()?;
        if length > longest {
            return Err(self.broken(&format!("has {what} of {length} bytes")));
        }
        let bytes = self.bytes(length)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.broken(&format!("has {what} that is not UTF-8")))
    }

    /// A value, if it is a number or a short text.
    fn value(&mut self, kind: u32) -> Result<Option<String>, Fault> {
        Ok(Some(match kind {
            0 => u8::from_le_bytes(self.array()?).to_string(),
            1 => i8::from_le_bytes(self.array()?).to_string(),
            2 => u16::from_le_bytes(self.array()?).to_string(),
            3 => i16::from_le_bytes(self.array()?).to_string(),
            4 => self.u32()?.to_string(),
            5 => i32::from_le_bytes(self.array()?).to_string(),
            6 => f32::from_le_bytes(self.array()?).to_string(),
            7 => (u8::from_le_bytes(self.array()?) != 0).to_string(),
            8 => {
                let length = self.u64()?;
                if length > LONGEST_KEPT {
                    self.skip(length)?;
                    return Ok(None);
                }
                String::from_utf8_lossy(self.bytes(length)?).into_owned()
            }
            9 => {
                self.list()?;
                return Ok(None);
            }
            10 => self.u64()?.to_string(),
            11 => i64::from_le_bytes(self.array()?).to_string(),
            12 => f64::from_le_bytes(self.array()?).to_string(),
            _ => return Err(self.broken(&format!("has a value of the unknown type {kind}"))),
        }))
    }

    /// Walks over a list.
    fn list(&mut self) -> Result<(), Fault> {
        let (kind, count) = (self.u32()?, self.u64()?);
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                for _ in 0..count {
                    let length = self.u64()?;
                    self.skip(length)?;
                }
                return Ok(());
            }
            _ => {
                return Err(
                    self.broken(&format!("has a list of the type {kind}, which is not read"))
                );
            }
        };
        match count.checked_mul(width) {
            Some(bytes) => self.skip(bytes),
            None => Err(self.broken("has a list that is longer than any file")),
        }
    }
}
