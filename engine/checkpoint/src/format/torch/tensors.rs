//! From a pickle's tensors to places in the file: each inside its storage, without gaps, of a type
//! that is read.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use mixdown_diagnostics::Diagnostic;
use mixdown_tensor::{DType, Shape};

use super::machine::Pickle;
use super::state::Chosen;
use super::values::{Elements, Storage, Tensor};
use super::{Fault, broken, unread};
use crate::format::Header;
use crate::index::TensorEntry;
use crate::shown::{bytes_text, shown};

/// Faults that are told of one file.
const MOST_FAULTS: usize = 20;

/// The header of a file with these tensors.
///
/// **Parameters.** `find`: where the bytes of a storage begin, from its key and their count; all of
/// them lie inside the file.
pub(super) fn place(
    pickle: &Pickle,
    chosen: Chosen,
    file: &str,
    mut find: impl FnMut(&str, u64) -> Result<u64, Fault>,
) -> Result<Header, Vec<Diagnostic>> {
    let mut places: HashMap<u32, Option<u64>> = HashMap::new();
    let mut faults = Vec::new();
    let mut untold = 0;
    let mut tell = |fault: Fault| {
        if faults.len() < MOST_FAULTS {
            faults.push(*fault);
        } else {
            untold += 1;
        }
    };
    let mut tensors = Vec::with_capacity(chosen.tensors.len());
    for (name, number) in chosen.tensors {
        let tensor = &pickle.heap.tensors[number as usize];
        let storage = &pickle.heap.storages[tensor.storage as usize];
        let checked = match check(&name, tensor, storage, file) {
            Ok(checked) => checked,
            Err(fault) => {
                tell(fault);
                continue;
            }
        };
        let place = match places.entry(tensor.storage) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                let found = find(&storage.key, checked.storage_bytes);
                *unknown.insert(found.map_err(&mut tell).ok())
            }
        };
        // Of a storage that is not there, one fault is enough.
        if let Some(place) = place {
            let offset = place + checked.begin;
            let Checked { dtype, shape, .. } = checked;
            tensors.push(TensorEntry { name, dtype, shape, shard: 0, offset, encoding: None });
        }
    }
    if let Some(last) = faults.last_mut().filter(|_| untold > 0) {
        last.notes.push(format!("{untold} more faults of this file are not shown"));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    tensors.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    Ok(Header { tensors, warnings: chosen.warnings, ..Header::default() })
}

/// A tensor that lies inside its storage.
struct Checked {
    dtype: DType,
    shape: Shape,
    /// Its first byte in the storage.
    begin: u64,
    storage_bytes: u64,
}

fn check(name: &str, tensor: &Tensor, storage: &Storage, file: &str) -> Result<Checked, Fault> {
    let about = |fault: Diagnostic| Err(Box::new(fault.at_byte(file, tensor.at)));
    let name = shown(name);
    let dtype = match tensor.elements {
        Elements::Of(dtype) => dtype,
        Elements::Unread(kind) => {
            let headline = format!("`{name}` has the element type `{kind}`, which is not read");
            let help = "use a checkpoint of this model in bf16, f16 or f32";
            return about(unread(headline).help(help));
        }
        Elements::Untyped => return about(broken(format!("`{name}` has no element type"))),
    };
    if tensor.is_view {
        let headline = format!("`{name}` stands for conjugates or negatives of what is stored");
        let help = "load it with torch, call `.resolve_conj().resolve_neg()` and save it again";
        return about(unread(headline).help(help));
    }
    let Ok(shape) = Shape::new(tensor.shape.clone()) else {
        let headline = format!("`{name}` has a shape whose size does not fit into 64 bits");
        let some = &tensor.shape[..tensor.shape.len().min(8)];
        return about(broken(headline).fact("shape", format!("{some:?}")));
    };
    let plain = plain_strides(&tensor.shape);
    if !is_contiguous(tensor, &plain) {
        return about(
            unread(format!("`{name}` is not stored row by row"))
                .fact("shape", shape.to_string())
                .fact("strides", format!("{:?}", tensor.strides))
                .fact("expected", format!("{plain:?}"))
                .help("load it with torch, call `.contiguous()` and save it again"),
        );
    }
    let begin = tensor.offset.checked_mul(dtype.bytes() as u64);
    let end = begin.and_then(|begin| begin.checked_add(shape.bytes(dtype)));
    let (Some(begin), Some(end), Some(storage_bytes)) = (begin, end, storage.bytes()) else {
        return about(broken(format!("`{name}` has a place that does not fit into 64 bits")));
    };
    if end > storage_bytes {
        return about(
            broken(format!("`{name}` reaches past the end of its storage"))
                .fact("tensor", format!("{} from {begin} to {end}", bytes_text(end - begin)))
                .fact("storage", bytes_text(storage_bytes)),
        );
    }
    Ok(Checked { dtype, shape, begin, storage_bytes })
}

/// Whether the elements lie one after another, in the order of rows.
fn is_contiguous(tensor: &Tensor, plain: &[u64]) -> bool {
    // No step is taken along a dimension of one element, nor anywhere where there is no element.
    tensor.shape.contains(&0)
        || (0..plain.len())
            .all(|axis| tensor.shape[axis] == 1 || tensor.strides[axis] == plain[axis])
}

/// The strides of a tensor that is stored row by row. The shape's size fits into 64 bits.
fn plain_strides(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1_u64; shape.len()];
    for axis in (1..shape.len()).rev() {
        // Beside a dimension of no elements the others may be of any size.
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
    }
    strides
}
