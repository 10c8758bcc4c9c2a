//! A GGUF file, laid out before anything is computed: values and descriptions of tensors, then the tensors
//! at multiples of 32 bytes, so that they can be written in any order.

use std::collections::HashMap;

use crate::quantize::GgufType;

/// Tensors begin at multiples of this; files that say nothing else have it.
const ALIGNMENT: u64 = 32;

/// A value of the header.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// A whole number.
    U32(u32),
    /// A number.
    F32(f32),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Whole numbers.
    Ints(Vec<i32>),
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its name in the file.
    pub name: String,
    /// Its sizes, the slowest first.
    pub sizes: Vec<u64>,
    /// Its type.
    pub kind: GgufType,
    /// The tensor of the file that it is an expert of, and which: the file has all of them as one tensor.
    pub stack: Option<(String, u64)>,
}

impl GgufTensor {
    fn bytes(&self) -> u64 {
        let (elements, bytes) = self.kind.block();
        self.sizes.iter().product::<u64>() / elements * bytes
    }
}

/// Where each byte of the file lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufFile {
    header: Vec<u8>,
    offsets: Vec<u64>,
    bytes: u64,
}

impl GgufFile {
    /// Lays out these tensors in this order. Experts of a stack lie one behind another where the first of them
    /// stands; there are all of them, of one size and type. `known` are tensors of f32 whose values are known already; they
    /// come first, as a part of the header.
    pub fn new(
        metadata: &[(String, GgufValue)],
        known: &[(String, Vec<f32>)],
        tensors: &[GgufTensor],
    ) -> Self {
        let mut stacks: HashMap<&str, u64> = HashMap::new();
        for (name, _) in tensors.iter().filter_map(|tensor| tensor.stack.as_ref()) {
            *stacks.entry(name).or_default() += 1;
        }
        let alone = tensors.iter().filter(|tensor| tensor.stack.is_none()).count();
        let mut header = b"GGUF".to_vec();
        header.extend(3_u32.to_le_bytes());
        header.extend(((known.len() + alone + stacks.len()) as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            text(key, &mut header);
            value.put(&mut header);
        }
        let mut at = 0_u64;
        let mut describe = |name: &str, sizes: &[u64], kind: GgufType, bytes: u64| {
            text(name, &mut header);
            header.extend((sizes.len() as u32).to_le_bytes());
            // The fastest axis comes first.
            sizes.iter().rev().for_each(|size| header.extend(size.to_le_bytes()));
            header.extend(kind.number().to_le_bytes());
            header.extend(at.to_le_bytes());
            let start = at;
            at = (at + bytes).next_multiple_of(ALIGNMENT);
            start
        };
        for (name, values) in known {
            let count = values.len() as u64;
            describe(name, &[count], GgufType::F32, count * 4);
        }
        let mut begun: HashMap<&str, u64> = HashMap::new();
        let mut starts: Vec<u64> = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let (sizes, bytes) = (&tensor.sizes, tensor.bytes());
            starts.push(match &tensor.stack {
                None => describe(&tensor.name, sizes, tensor.kind, bytes),
                Some((name, expert)) => {
                    let count = stacks[name.as_str()];
                    let start = *begun.entry(name).or_insert_with(|| {
                        let sizes = [&[count], sizes.as_slice()].concat();
                        describe(name, &sizes, tensor.kind, count * bytes)
                    });
                    start + expert * bytes
                }
            });
        }
        let align = |header: &mut Vec<u8>| {
            header.resize((header.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
        };
        align(&mut header);
        let data = header.len() as u64;
        for (_, values) in known {
            values.iter().for_each(|value| header.extend(value.to_le_bytes()));
            align(&mut header);
        }
        let offsets: Vec<u64> = starts.into_iter().map(|start| data + start).collect();
        let ends = offsets.iter().zip(tensors).map(|(offset, tensor)| offset + tensor.bytes());
        let bytes = ends.max().unwrap_or(0).max(header.len() as u64);
        Self { header, offsets, bytes }
    }

    /// All bytes before the first tensor.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// First byte of a tensor.
    pub fn offset(&self, tensor: usize) -> u64 {
        self.offsets[tensor]
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl GgufValue {
    fn put(&self, out: &mut Vec<u8>) {
        let list = |kind: u32, count: usize, out: &mut Vec<u8>| {
            out.extend(9_u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Self::U32(value) => {
                out.extend(4_u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Self::F32(value) => {
                out.extend(6_u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Self::Bool(value) => {
                out.extend(7_u32.to_le_bytes());
                out.push(u8::from(*value));
            }
            Self::Text(value) => {
                out.extend(8_u32.to_le_bytes());
                text(value, out);
            }
            Self::Texts(values) => {
                list(8, values.len(), out);
                values.iter().for_each(|value| text(value, out));
            }
            Self::Floats(values) => {
                list(6, values.len(), out);
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
            Self::Ints(values) => {
                list(5, values.len(), out);
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
    }
}

fn text(value: &str, out: &mut Vec<u8>) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}
