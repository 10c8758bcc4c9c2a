//! HQQ: groups of a whole tensor as rows or columns of a matrix of their own, packed in as many pieces
//! as codes fit into an element, the first piece in its upper bits.

use std::sync::Arc;

use mixdown_tensor::DType;

use super::claims::{Family, Fault, Found, Stored, expect_dtype, expect_shape};
use super::promises::Kind;
use super::values::Number;
use super::{Codec, Reader};
use crate::index::TensorEntry;
use crate::shown::shown;
use crate::source::ReadError;

pub(super) const FAMILY: Family = Family { methods: &["hqq"], find };

/// Notes of the packing that stand beside the codes as tensors.
const NOTES: [&str; 16] = [
    "nbits",
    "group_size",
    "axis",
    "shape",
    "packing",
    "compute_dtype",
    "channel_wise",
    "encoded_state_dict",
    "offload_meta",
    "optimize",
    "quant_scale",
    "quant_zero",
    "stores_quant_config",
    "round_zero",
    "unpack_view_dtype",
    "view_as_float",
];

fn find<'a>(stored: &Stored<'a>, tensor: &'a TensorEntry) -> Option<Result<Found<'a>, Fault>> {
    let module = tensor.name.strip_suffix("W_q")?;
    (module.is_empty() || module.ends_with('.')).then(|| grouped(stored, tensor, module))
}

/// A note that is a whole number.
fn number(stored: &Stored<'_>, name: &str) -> Result<u64, Fault> {
    let tensor = stored.need(name)?;
    numbers(stored, tensor)?
        .first()
        .copied()
        .ok_or_else(|| Fault::new(format!("`{}` is empty", shown(name))))
}

fn numbers(stored: &Stored<'_>, tensor: &TensorEntry) -> Result<Vec<u64>, Fault> {
    let bytes = stored.small(tensor)?;
    let all: Option<Vec<u64>> = match tensor.dtype {
        DType::I32 => {
            let fours = bytes.as_chunks::<4>().0;
            fours.iter().map(|four| u64::try_from(i32::from_le_bytes(*four)).ok()).collect()
        }
        DType::I64 => {
            let eights = bytes.as_chunks::<8>().0;
            eights.iter().map(|eight| u64::try_from(i64::from_le_bytes(*eight)).ok()).collect()
        }
        DType::U8 | DType::Bool => Some(bytes.iter().map(|&byte| u64::from(byte)).collect()),
        _ => None,
    };
    all.ok_or_else(|| {
        Fault::new(format!("`{}` does not hold counts", shown(&tensor.name)))
            .fact("type", tensor.dtype.name())
    })
}

fn grouped<'a>(
    stored: &Stored<'a>,
    codes: &'a TensorEntry,
    module: &str,
) -> Result<Found<'a>, Fault> {
    let name = |leaf: &str| format!("{module}{leaf}");
    let is_set = |leaf: &str| {
        let tensor = stored.get(&name(leaf));
        tensor
            .is_some_and(|tensor| numbers(stored, tensor).is_ok_and(|all| all.first() == Some(&1)))
    };
    if is_set("quant_scale") || is_set("quant_zero") {
        return Err(Fault::unread("HQQ with scales that are quantized themselves"));
    }
    let (bits, group, axis) = (
        number(stored, &name("nbits"))?,
        number(stored, &name("group_size"))?,
        number(stored, &name("axis"))?,
    );
    let shape_of = stored.need(&name("shape"))?;
    let shape = numbers(stored, shape_of)?;
    let (scales, zeros) = (stored.need(&name("scale"))?, stored.need(&name("zero"))?);
    let wrong = |what: &str| {
        Fault::new(format!("`{}` {what}", shown(&codes.name)))
            .fact("shape", format!("{shape:?}"))
            .fact("codes", codes.shape.to_string())
            .fact("settings", format!("{bits} bits, groups of {group} along axis {axis}"))
    };
    let elements = shape.iter().try_fold(1_u64, |all, &size| all.checked_mul(size));
    let Some(elements) = elements.filter(|&count| count > 0) else {
        return Err(wrong("stands for nothing"));
    };
    if group == 0 || !elements.is_multiple_of(group) || axis > 1 {
        return Err(wrong("has groups that do not divide it"));
    }
    let count = elements / group;
    let [rows, columns] = if axis == 1 { [count, group] } else { [group, count] };
    let (pieces, dtype) = match bits {
        1 | 2 | 4 | 8 => (8 / bits, DType::U8),
        3 => (10, DType::I32),
        _ => return Err(Fault::unread(format!("HQQ of {bits} bits"))),
    };
    expect_dtype(codes, &[dtype])?;
    let piece = rows.div_ceil(pieces);
    if codes.shape.dimensions() != [piece, columns] {
        return Err(wrong("does not have the shape that its settings say"));
    }
    let floats = [DType::F32, DType::F16, DType::Bf16];
    for tensor in [scales, zeros] {
        expect_dtype(tensor, &floats)?;
        let one = if axis == 1 { [count, 1] } else { [1, count] };
        if tensor.shape.dimensions() != [count] {
            expect_shape(tensor, &one)?;
        }
    }
    let number = |tensor: &TensorEntry| Number::of_scale(tensor.dtype).unwrap_or(Number::F32);
    let codec = Pieces {
        bits: bits as u32,
        piece,
        columns,
        by_rows: axis == 1,
        scales: number(scales),
        zeros: number(zeros),
    };
    let notes = NOTES.iter().filter_map(|leaf| stored.get(&name(leaf)));
    let parts = vec![codes, scales, zeros, shape_of];
    let beside = notes.filter(|note| note.name != shape_of.name).collect();
    Ok(Found {
        kind: Kind::whole(bits),
        methods: None,
        name: name("weight"),
        shape,
        scheme: format!("HQQ, {bits} bits, groups of {group} along axis {axis}"),
        parts,
        beside,
        codec: Arc::new(codec),
    })
}

#[derive(Debug)]
struct Pieces {
    bits: u32,
    /// Rows of a piece: rows of the packed matrix.
    piece: u64,
    columns: u64,
    /// Whether a group is a row, rather than a column.
    by_rows: bool,
    scales: Number,
    zeros: Number,
}

impl Codec for Pieces {
    fn decode(
        &self,
        reader: &Reader<'_>,
        first: u64,
        mut out: &mut [f32],
    ) -> Result<(), ReadError> {
        let per_piece = self.piece * self.columns;
        let mut at = first;
        while !out.is_empty() {
            // Within a piece codes lie one after another, across rows.
            let (piece, from) = (at / per_piece, at % per_piece);
            // Where groups are columns, a row at a time, so that no more scales than values are held.
            let run = match self.by_rows {
                true => per_piece - from,
                false => self.columns - at % self.columns,
            };
            let count = run.min(out.len() as u64);
            let (part, rest) = out.split_at_mut(count as usize);
            self.codes(reader, piece as u32, from, part)?;
            let groups = match self.by_rows {
                true => at / self.columns..(at + count - 1) / self.columns + 1,
                false => at % self.columns..at % self.columns + count,
            };
            let read = |which: usize, number: Number| -> Result<Vec<f32>, ReadError> {
                let width = number.bytes() as u64;
                let mut bytes = vec![0; ((groups.end - groups.start) * width) as usize];
                reader.bytes(which, groups.start * width, &mut bytes)?;
                let mut all = Vec::new();
                number.read(&bytes, &mut all);
                // Scales have a least magnitude, zero points may be anything.
                let is_wrong = |value: &f32| !value.is_finite() || (which == 1 && *value <= 0.0);
                match all.iter().position(is_wrong) {
                    Some(wrong) => {
                        let what =
                            format!("is {} at group {}", all[wrong], groups.start + wrong as u64);
                        Err(reader.wrong_value(which, &what))
                    }
                    None => Ok(all),
                }
            };
            let (scales, zeros) = (read(1, self.scales)?, read(2, self.zeros)?);
            for (value, at) in part.iter_mut().zip(at..) {
                let group = match self.by_rows {
                    true => at / self.columns,
                    false => at % self.columns,
                };
                let group = (group - groups.start) as usize;
                *value = (*value - zeros[group]) * scales[group];
            }
            (at, out) = (at + count, rest);
        }
        Ok(())
    }
}

impl Pieces {
    fn codes(
        &self,
        reader: &Reader<'_>,
        piece: u32,
        from: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        let mask = (1_u32 << self.bits) - 1;
        if self.bits == 3 {
            let mut bytes = vec![0; out.len() * 4];
            reader.bytes(0, from * 4, &mut bytes)?;
            let shift = 27 - 3 * piece;
            for (value, four) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = (u32::from_le_bytes(*four) >> shift & mask) as f32;
            }
        } else {
            let mut bytes = vec![0; out.len()];
            reader.bytes(0, from, &mut bytes)?;
            let shift = 8 - self.bits * (piece + 1);
            for (value, byte) in out.iter_mut().zip(bytes) {
                *value = (u32::from(byte) >> shift & mask) as f32;
            }
        }
        Ok(())
    }
}
