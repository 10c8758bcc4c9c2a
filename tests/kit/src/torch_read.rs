//! Reading files of torch back: an archive whose checksums are checked, and a pickle that may hold nothing
//! but a dictionary of tensors stored row by row.

use std::collections::BTreeMap;
use std::path::Path;

use mixdown_tensor::DType;

use crate::tensor::Tensor;

/// All tensors of an archive of torch, in a map by name.
///
/// # Panics
///
/// If the file is not sound, or holds anything else.
pub fn read_torch(path: impl AsRef<Path>) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path.as_ref()).expect("the file can be read");
    let entries = entries(&bytes);
    let named = |end: &str| {
        let found = entries.iter().find(|(name, _)| name.ends_with(end));
        found.unwrap_or_else(|| panic!("no entry `{end}`"))
    };
    assert_eq!(named("/version").1, b"3\n");
    assert_eq!(named("/byteorder").1, b"little");
    let (pickle_name, pickle) = named("/data.pkl");
    let folder = pickle_name.trim_end_matches("data.pkl");
    let storage = |key: &str| entries[&format!("{folder}data/{key}")];
    let found = Machine { rest: pickle, stack: Vec::new(), marks: Vec::new() }.run();
    let tensors = found.into_iter().map(|(name, described)| {
        let Described { dtype, key, count, shape } = described;
        let data = storage(&key).to_vec();
        assert_eq!(data.len() as u64, count * dtype.bytes() as u64, "{name}");
        assert_eq!(shape.iter().product::<u64>(), count, "{name}");
        (name.clone(), Tensor { name, dtype, shape, data })
    });
    tensors.collect()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The entries of an archive of less than 4 GiB, by the directory at its end, each checked.
fn entries(file: &[u8]) -> BTreeMap<String, &[u8]> {
    let end = &file[file.len() - 22..];
    assert!(end.starts_with(b"PK\x05\x06"), "the directory ends the file");
    let mut entries = BTreeMap::new();
    let mut at = number(&end[16..20]) as usize;
    for _ in 0..number(&end[10..12]) {
        let entry = &file[at..];
        assert!(entry.starts_with(b"PK\x01\x02"));
        let field = |from: usize, to: usize| number(&entry[from..to]) as usize;
        let (sum, size, name_bytes) = (field(16, 20), field(24, 28), field(28, 30));
        let name = std::str::from_utf8(&entry[46..46 + name_bytes]).expect("names are text");
        let header = &file[field(42, 46)..];
        assert!(header.starts_with(b"PK\x03\x04"));
        assert_eq!(header[14..26], entry[16..28], "`{name}` is described in two ways");
        let begin = 30 + (number(&header[26..28]) + number(&header[28..30])) as usize;
        let data = &header[begin..begin + size];
        assert_eq!(checksum(data) as usize, sum, "the checksum of `{name}`");
        entries.insert(name.to_owned(), data);
        at += 46 + name_bytes + field(30, 32) + field(32, 34);
    }
    entries
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { 0xEDB8_8320 } else { 0 };
        }
    }
    !sum
}

/// What a pickle says of a tensor.
struct Described {
    dtype: DType,
    key: String,
    count: u64,
    shape: Vec<u64>,
}

enum Value {
    Text(String),
    Number(u64),
    Global(String),
    Tuple(Vec<Value>),
    Storage(DType, String, u64),
    Tensor(Described),
    Empty,
    False,
}

struct Machine<'p> {
    rest: &'p [u8],
    stack: Vec<Value>,
    marks: Vec<usize>,
}

impl Machine<'_> {
    fn take(&mut self, count: usize) -> &[u8] {
        let (bytes, rest) = self.rest.split_at(count);
        self.rest = rest;
        bytes
    }

    fn line(&mut self) -> String {
        let end = self.rest.iter().position(|byte| *byte == b'\n').expect("a line ends");
        let text = String::from_utf8(self.take(end).to_vec()).expect("a name is text");
        self.take(1);
        text
    }

    fn since_mark(&mut self) -> Vec<Value> {
        self.stack.split_off(self.marks.pop().expect("a mark was set"))
    }

    fn run(mut self) -> Vec<(String, Described)> {
        let mut tensors = Vec::new();
        loop {
            match self.take(1)[0] {
                0x80 => assert_eq!(self.take(1), [2], "the protocol"),
                b'c' => {
                    let name = format!("{}.{}", self.line(), self.line());
                    self.stack.push(Value::Global(name));
                }
                b'(' => self.marks.push(self.stack.len()),
                b')' => self.stack.push(Value::Tuple(Vec::new())),
                b't' => {
                    let values = self.since_mark();
                    self.stack.push(Value::Tuple(values));
                }
                b'X' => {
                    let count = number(self.take(4)) as usize;
                    let text = String::from_utf8(self.take(count).to_vec()).expect("text");
                    self.stack.push(Value::Text(text));
                }
                b'J' => {
                    let value = number(self.take(4));
                    self.stack.push(Value::Number(value));
                }
                0x89 => self.stack.push(Value::False),
                b'Q' => {
                    let reference = self.stack.pop();
                    self.stack.push(storage(reference));
                }
                b'R' => {
                    let (arguments, function) = (self.stack.pop(), self.stack.pop());
                    self.stack.push(call(function, arguments));
                }
                b'u' => {
                    let mut values = self.since_mark().into_iter();
                    while let (Some(Value::Text(name)), Some(Value::Tensor(tensor))) =
                        (values.next(), values.next())
                    {
                        tensors.push((name, tensor));
                    }
                    assert_eq!(values.len(), 0, "a dictionary of names and tensors");
                }
                b'.' => {
                    assert!(self.rest.is_empty(), "the pickle ends with its last instruction");
                    assert!(matches!(self.stack[..], [Value::Empty]), "one dictionary");
                    return tensors;
                }
                other => panic!("an instruction that tensors do not need: {other:#04x}"),
            }
        }
    }
}

fn storage(reference: Option<Value>) -> Value {
    let Some(Value::Tuple(values)) = reference else { panic!("a reference is a tuple") };
    let Ok(
        [
            Value::Text(kind),
            Value::Global(name),
            Value::Text(key),
            Value::Text(device),
            Value::Number(count),
        ],
    ) = <[Value; 5]>::try_from(values)
    else {
        panic!("a reference of another form");
    };
    assert_eq!((kind.as_str(), device.as_str()), ("storage", "cpu"));
    let dtype = match name.as_str() {
        "torch.DoubleStorage" => DType::F64,
        "torch.FloatStorage" => DType::F32,
        "torch.HalfStorage" => DType::F16,
        "torch.BFloat16Storage" => DType::Bf16,
        "torch.LongStorage" => DType::I64,
        other => panic!("a storage that tests do not write: {other}"),
    };
    Value::Storage(dtype, key, count)
}

fn call(function: Option<Value>, arguments: Option<Value>) -> Value {
    let (Some(Value::Global(name)), Some(Value::Tuple(values))) = (function, arguments) else {
        panic!("a call of something else");
    };
    if name == "collections.OrderedDict" {
        assert!(values.is_empty());
        return Value::Empty;
    }
    assert_eq!(name, "torch._utils._rebuild_tensor_v2");
    let Ok(
        [
            Value::Storage(dtype, key, count),
            Value::Number(0),
            Value::Tuple(shape),
            Value::Tuple(strides),
            Value::False,
            Value::Empty,
        ],
    ) = <[Value; 6]>::try_from(values)
    else {
        panic!("a tensor of another form");
    };
    let numbers = |values: Vec<Value>| -> Vec<u64> {
        let plain = |value| match value {
            Value::Number(number) => number,
            _ => panic!("a dimension is a number"),
        };
        values.into_iter().map(plain).collect()
    };
    let (shape, strides) = (numbers(shape), numbers(strides));
    let expected = crate::torch::row_strides(&shape);
    assert!(strides.iter().zip(&expected).all(|(one, other)| *one as i64 == *other), "{name}");
    Value::Tensor(Described { dtype, key, count, shape })
}
