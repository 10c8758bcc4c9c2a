//! Reading GGUF files back, with a reader of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A tensor of a file.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    /// Number of its type.
    pub kind: u32,
    /// Its sizes, the slowest first.
    pub sizes: Vec<u64>,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// A file.
#[derive(Clone, Debug)]
pub struct GgufFile {
    /// Values that are numbers or texts, and the counts of those that are lists, as texts.
    pub values: BTreeMap<String, String>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, GgufTensor>,
}

/// Elements and bytes of a block, by the number of the type.
fn block(kind: u32) -> (u64, u64) {
    match kind {
        0 => (1, 4),
        1 | 30 => (1, 2),
        2 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        39 => (32, 17),
        other => panic!("type {other}"),
    }
}

/// Reads a file; panics where it is unsound.
pub fn read_gguf(path: impl AsRef<Path>) -> GgufFile {
    let bytes = fs::read(path).expect("the file can be read");
    let mut at = 0;
    let mut take = |count: usize| {
        at += count;
        &bytes[at - count..at]
    };
    let number =
        |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    assert_eq!(take(4), b"GGUF");
    assert_eq!(number(take(4)), 3);
    let (count, pairs) = (number(take(8)), number(take(8)));
    let mut values = BTreeMap::new();
    let text = |take: &mut dyn FnMut(usize) -> Vec<u8>| {
        let length = number(&take(8)) as usize;
        String::from_utf8(take(length)).expect("texts are UTF-8")
    };
    let mut owned = |count: usize| take(count).to_vec();
    for _ in 0..pairs {
        let key = text(&mut owned);
        let kind = number(&owned(4));
        let value = match kind {
            4 => number(&owned(4)).to_string(),
            6 => f32::from_bits(number(&owned(4)) as u32).to_string(),
            7 => (number(&owned(1)) != 0).to_string(),
            8 => text(&mut owned),
            9 => {
                let (inner, length) = (number(&owned(4)), number(&owned(8)));
                for _ in 0..length {
                    match inner {
                        8 => drop(text(&mut owned)),
                        _ => drop(owned(4)),
                    }
                }
                length.to_string()
            }
            other => panic!("value of type {other}"),
        };
        assert!(values.insert(key, value).is_none(), "a key stands twice");
    }
    let mut infos = Vec::new();
    for _ in 0..count {
        let name = text(&mut owned);
        let axes = number(&owned(4));
        let mut sizes: Vec<u64> = (0..axes).map(|_| number(&owned(8))).collect();
        sizes.reverse();
        infos.push((name, sizes, number(&owned(4)) as u32, number(&owned(8))));
    }
    let start = at.next_multiple_of(32);
    let mut tensors = BTreeMap::new();
    for (name, sizes, kind, offset) in infos {
        assert!(offset.is_multiple_of(32), "{name} is not aligned");
        let (elements, size) = block(kind);
        let length = sizes.iter().product::<u64>() / elements * size;
        let first = start + offset as usize;
        let data = bytes[first..first + length as usize].to_vec();
        tensors.insert(name, GgufTensor { kind, sizes, data });
    }
    GgufFile { values, tensors }
}
