//! Storages and tensors from the arguments that a pickle gives for them.

use super::machine::{At, LONGEST_NAME};
use super::values::{Elements, Global, Heap, Rebuild, Storage, Tensor, Value, count};
use super::{Fault, unread};

/// Most dimensions that torch itself has.
const MOST_DIMENSIONS: usize = 64;

/// A reference: `("storage", type, key, device, count)`, and in old files a part of another storage.
pub(super) fn storage(heap: &Heap, reference: Value, at: At<'_>) -> Result<Storage, Fault> {
    let wrong = || at.wrong("a reference to something other than a storage");
    let values = heap.tuple(reference).ok_or_else(wrong)?;
    let (first, part) = match values {
        [first @ .., part] if values.len() == 6 => (first, *part),
        first => (first, Value::None),
    };
    let &[kind, Value::Global(Global::Storage(elements)), key, _device, elements_count] = first
    else {
        return Err(wrong());
    };
    if heap.text(kind) != Some("storage") {
        return Err(wrong());
    }
    if part != Value::None {
        return Err(Box::new(
            unread("the file describes a storage as a part of another, which is not read")
                .at_byte(at.shown, at.at)
                .help("load it with torch and save it again"),
        ));
    }
    let key = heap.text(key).filter(|key| key.len() <= LONGEST_NAME);
    let key = key.ok_or_else(wrong)?.to_owned();
    let count = count(elements_count).ok_or_else(wrong)?;
    Ok(Storage { elements, key, count })
}

/// A tensor from the arguments of the function that would rebuild it.
pub(super) fn tensor(
    heap: &Heap,
    how: Rebuild,
    values: &[Value],
    at: At<'_>,
) -> Result<Tensor, Fault> {
    let wrong = || at.wrong("a tensor with arguments that do not fit");
    let (&[storage, offset, shape, strides], rest) =
        values.split_first_chunk::<4>().ok_or_else(wrong)?;
    // What follows says whether a gradient is wanted, what to call when there is one, and more.
    let (stated, notes) = match (how, rest) {
        (Rebuild::V1, []) | (Rebuild::V2, [_, _]) => (None, Value::None),
        (Rebuild::V2, [_, _, notes]) => (None, *notes),
        (Rebuild::V3, [_, _, Value::Global(Global::DType(dtype))]) => (Some(*dtype), Value::None),
        (Rebuild::V3, [_, _, Value::Global(Global::DType(dtype)), notes]) => (Some(*dtype), *notes),
        _ => return Err(wrong()),
    };
    let Value::Storage(storage) = storage else { return Err(wrong()) };
    let elements = match (heap.storages[storage as usize].elements, stated) {
        (_, Some(stated)) => stated,
        (Elements::Untyped, None) => return Err(wrong()),
        (elements, None) => elements,
    };
    let offset = count(offset).ok_or_else(wrong)?;
    let shape = heap.counts(shape).ok_or_else(wrong)?;
    let strides = heap.counts(strides).ok_or_else(wrong)?;
    if shape.len() != strides.len() || shape.len() > MOST_DIMENSIONS {
        return Err(wrong());
    }
    // Notes of torch's own: `{"conj": True}` for a tensor that stands for its conjugates.
    let noted = heap.dict(notes).unwrap_or_default();
    let is_view = noted.iter().any(|(_, value)| *value == Value::Bool(true));
    Ok(Tensor { storage, elements, offset, shape, strides, is_view, at: at.at })
}
