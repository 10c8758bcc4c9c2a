//! What a pickle's instructions work on: values that are numbers of entries in lists, so that copies
//! are cheap, cycles do no harm, and no depth of nesting costs stack.

use mixdown_tensor::DType;

/// A value. The containers' contents are in the [`Heap`], at the number given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(u32),
    Tuple(u32),
    List(u32),
    Dict(u32),
    Global(Global),
    Storage(u32),
    Tensor(u32),
    /// An object that says where the parts of tensors lie.
    Record(u32),
    /// Something that no tensor is made of: bytes, a set, a device, a number of more than 64 bits.
    Plain,
}

/// Something that a pickle imports by name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    Size,
    /// `torch._utils._rebuild_tensor` and its successors.
    Tensor(Rebuild),
    /// `torch._utils._rebuild_parameter`, whose first argument is the tensor.
    Parameter,
    Storage(Elements),
    DType(Elements),
    Record(Record),
    /// A function or class without effects, whose result no tensor is made of.
    Plain,
    /// Anything else; the file is refused.
    Refused,
}

/// Which function rebuilds a tensor; they differ in their arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rebuild {
    V1,
    V2,
    V3,
}

/// A class of the metadata of distributed checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Metadata,
    /// A tensor: its type, size and parts.
    Tensor,
    Properties,
    /// A part: where in the tensor it is, and its size.
    Chunk,
    /// What a part is looked up by.
    Index,
    /// Where a part lies.
    Place,
}

/// What a storage or tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elements {
    Of(DType),
    /// Bytes, whose type the tensor states.
    Untyped,
    /// A type that is known and not read.
    Unread(&'static str),
}

/// A storage, as the pickle refers to it.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub elements: Elements,
    pub key: String,
    /// Count of elements; of bytes, where it is untyped.
    pub count: u64,
}

impl Storage {
    /// Count of bytes, if it is known and fits into 64 bits.
    pub fn bytes(&self) -> Option<u64> {
        match self.elements {
            Elements::Of(dtype) => self.count.checked_mul(dtype.bytes() as u64),
            Elements::Untyped => Some(self.count),
            Elements::Unread(_) => None,
        }
    }
}

/// A tensor, as the pickle describes it: nothing about it is checked but the form.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub storage: u32,
    pub elements: Elements,
    /// In elements.
    pub offset: u64,
    pub shape: Vec<u64>,
    /// In elements.
    pub strides: Vec<u64>,
    /// Whether it stands for the conjugates or negatives of what is stored.
    pub is_view: bool,
    /// Where the pickle makes it.
    pub at: u64,
}

/// A name that tensors do not need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// `module.name`.
    pub name: String,
    pub at: u64,
}

/// The contents of values.
#[derive(Debug, Default)]
pub(super) struct Heap {
    pub texts: Vec<String>,
    pub tuples: Vec<Vec<Value>>,
    pub lists: Vec<Vec<Value>>,
    /// Pairs in their order, with repetitions.
    pub dicts: Vec<Vec<(Value, Value)>>,
    pub storages: Vec<Storage>,
    pub tensors: Vec<Tensor>,
    pub refused: Vec<Refused>,
    /// Objects with their attributes.
    pub records: Vec<(Record, Value)>,
}

impl Heap {
    pub fn text(&self, value: Value) -> Option<&str> {
        match value {
            Value::Text(text) => Some(&self.texts[text as usize]),
            _ => None,
        }
    }

    pub fn tuple(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Tuple(tuple) => Some(&self.tuples[tuple as usize]),
            _ => None,
        }
    }

    pub fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match value {
            Value::Dict(dict) => Some(&self.dicts[dict as usize]),
            _ => None,
        }
    }

    /// A tuple of counts.
    pub fn counts(&self, value: Value) -> Option<Vec<u64>> {
        self.tuple(value)?.iter().map(|value| count(*value)).collect()
    }

    pub fn new_record(&mut self, kind: Record) -> Value {
        self.records.push((kind, Value::None));
        Value::Record(self.records.len() as u32 - 1)
    }

    pub fn new_text(&mut self, text: String) -> Value {
        self.texts.push(text);
        Value::Text(self.texts.len() as u32 - 1)
    }

    pub fn new_tuple(&mut self, values: Vec<Value>) -> Value {
        self.tuples.push(values);
        Value::Tuple(self.tuples.len() as u32 - 1)
    }

    pub fn new_list(&mut self, values: Vec<Value>) -> Value {
        self.lists.push(values);
        Value::List(self.lists.len() as u32 - 1)
    }

    pub fn new_dict(&mut self, pairs: Vec<(Value, Value)>) -> Value {
        self.dicts.push(pairs);
        Value::Dict(self.dicts.len() as u32 - 1)
    }
}

/// A whole number from 0 on, as torch counts: in 63 bits.
pub(super) fn count(value: Value) -> Option<u64> {
    match value {
        Value::Int(number) => number.try_into().ok(),
        _ => None,
    }
}
