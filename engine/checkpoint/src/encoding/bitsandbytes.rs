//! bitsandbytes: nf4 and fp4, whose bytes may be stored as elements of any type, and int8.

use std::sync::Arc;

use mixdown_tensor::DType;
use serde::Deserialize;

use super::affine::{Affine, Shift, Sign};
use super::claims::{Family, Fault, Found, Stored, expect_dtype, expect_shape};
use super::groups::Grid;
use super::promises::Kind;
use super::unpack::Stream;
use super::values::{Number, Values};
use super::{Codec, Reader};
use crate::index::TensorEntry;
use crate::shown::shown;
use crate::source::ReadError;

pub(super) const FAMILY: Family = Family { methods: &["bitsandbytes"], find };

/// The name of the part that describes a weight, up to its kind.
const STATE: &str = ".quant_state.bitsandbytes__";

fn find<'a>(stored: &Stored<'a>, tensor: &'a TensorEntry) -> Option<Result<Found<'a>, Fault>> {
    if let Some((name, kind)) = tensor.name.split_once(STATE) {
        return Some(four_bits(stored, tensor, name, kind));
    }
    let module = tensor.name.strip_suffix("SCB")?;
    (module.is_empty() || module.ends_with('.')).then(|| int8(stored, tensor, module))
}

fn int8<'a>(
    stored: &Stored<'a>,
    scales: &'a TensorEntry,
    module: &str,
) -> Result<Found<'a>, Fault> {
    let codes = stored.need(&format!("{module}weight"))?;
    expect_dtype(codes, &[DType::I8])?;
    expect_dtype(scales, &[DType::F32])?;
    let [rows, columns] = codes.shape.dimensions() else {
        return Err(Fault::new(format!("`{}` is no matrix", shown(&codes.name)))
            .fact("shape", codes.shape.to_string()));
    };
    let (rows, columns) = (*rows, *columns);
    expect_shape(scales, &[rows])?;
    let plane = [rows.max(1), rows];
    let codec = Affine {
        columns,
        codes: Box::new(Stream {
            part: 0,
            bits: 8,
            row_bytes: columns,
            columns: None,
            values: Values::Signed(8),
        }),
        group: columns.max(1),
        index: None,
        scales: Box::new(Grid {
            part: 1,
            number: Number::F32,
            plane,
            rows: 1,
            columns: 1,
            whole: None,
        }),
        sign: Sign::Magnitude,
        shift: Shift::Nothing,
        of_columns: None,
        // The stored scale is the largest magnitude of a row, which the code 127 stands for.
        factor: Some(1.0 / 127.0),
    };
    Ok(Found {
        kind: Kind::whole(8),
        methods: None,
        name: codes.name.clone(),
        shape: vec![rows, columns],
        scheme: "bitsandbytes int8, a scale per row".to_owned(),
        parts: vec![codes, scales],
        beside: stored.get(&format!("{module}weight_format")).into_iter().collect(),
        codec: Arc::new(codec),
    })
}

/// What bitsandbytes writes of a weight, as JSON.
#[derive(Deserialize)]
struct State {
    blocksize: u64,
    shape: Vec<u64>,
    nested_blocksize: Option<u64>,
    nested_offset: Option<f64>,
}

fn four_bits<'a>(
    stored: &Stored<'a>,
    state: &'a TensorEntry,
    name: &str,
    kind: &str,
) -> Result<Found<'a>, Fault> {
    if !["nf4", "fp4"].contains(&kind) {
        return Err(Fault::unread(format!("bitsandbytes `{}`", shown(kind))));
    }
    expect_dtype(state, &[DType::U8])?;
    let bytes = stored.small(state)?;
    let read: State = serde_json::from_slice(&bytes).map_err(|error| {
        Fault::new(format!("`{}` cannot be understood", shown(&state.name)))
            .fact("parser", shown(&error.to_string()))
    })?;
    let codes = stored.need(name)?;
    let absmax = stored.need(&format!("{name}.absmax"))?;
    let table = stored.need(&format!("{name}.quant_map"))?;
    let wrong = |what: &str| {
        Fault::new(format!("`{}` {what}", shown(&state.name)))
            .fact("shape", format!("{:?}", read.shape))
            .fact("stored", format!("{} {}", codes.shape, codes.dtype))
    };
    let elements = read.shape.iter().try_fold(1_u64, |all, &size| all.checked_mul(size));
    let Some(elements) = elements.filter(|&count| count.div_ceil(2) <= codes.bytes()) else {
        return Err(wrong("says a shape that does not go with the codes"));
    };
    // Codes in wider elements may leave the last one's upper bytes unused.
    if codes.bytes() - elements.div_ceil(2) >= codes.dtype.bytes() as u64 {
        return Err(wrong("says a shape that does not go with the codes"));
    }
    if read.blocksize == 0 || !read.blocksize.is_multiple_of(2) {
        return Err(wrong("says a block that is none").fact("block", read.blocksize.to_string()));
    }
    expect_dtype(table, &[DType::F32])?;
    expect_shape(table, &[16])?;
    let blocks = elements.div_ceil(read.blocksize);
    expect_shape(absmax, &[blocks])?;
    let mut parts = vec![codes, absmax, table];
    let mut nested = None;
    if absmax.dtype == DType::U8 {
        let (Some(block), Some(offset)) = (read.nested_blocksize, read.nested_offset) else {
            return Err(wrong("lacks what its scales are made of"));
        };
        if block == 0 || !offset.is_finite() {
            return Err(wrong("says scales that are none"));
        }
        let scales = stored.need(&format!("{name}.nested_absmax"))?;
        let map = stored.need(&format!("{name}.nested_quant_map"))?;
        expect_dtype(scales, &[DType::F32])?;
        expect_shape(scales, &[blocks.div_ceil(block)])?;
        expect_dtype(map, &[DType::F32])?;
        expect_shape(map, &[256])?;
        nested = Some(Nested { block, offset: offset as f32 });
        parts.extend([scales, map]);
    } else {
        expect_dtype(absmax, &[DType::F32])?;
    }
    parts.push(state);
    let block = read.blocksize;
    let twice = if nested.is_some() { ", scales quantized" } else { "" };
    Ok(Found {
        kind: Kind::whole(4),
        methods: None,
        name: name.to_owned(),
        shape: read.shape,
        scheme: format!("bitsandbytes {kind}, blocks of {block}{twice}"),
        parts,
        beside: Vec::new(),
        codec: Arc::new(Flat { block, nested }),
    })
}

/// Codes of a whole tensor one after another, upper half of a byte first, in blocks that cross its rows.
#[derive(Debug)]
struct Flat {
    block: u64,
    nested: Option<Nested>,
}

/// Scales that are codes themselves.
#[derive(Debug)]
struct Nested {
    block: u64,
    offset: f32,
}

const CODES: usize = 0;
const ABSMAX: usize = 1;
const TABLE: usize = 2;
const NESTED_ABSMAX: usize = 3;
const NESTED_TABLE: usize = 4;

impl Codec for Flat {
    fn decode(&self, reader: &Reader<'_>, first: u64, out: &mut [f32]) -> Result<(), ReadError> {
        let last = first + out.len() as u64;
        if out.is_empty() {
            return Ok(());
        }
        let mut bytes = vec![0; (last.div_ceil(2) - first / 2) as usize];
        reader.bytes(CODES, first / 2, &mut bytes)?;
        let table = floats(reader, TABLE, 0, 16)?;
        let blocks = first / self.block..(last - 1) / self.block + 1;
        let scales = self.scales(reader, blocks.start, (blocks.end - blocks.start) as usize)?;
        if let Some(at) = scales.iter().position(|scale| !scale.is_finite() || *scale < 0.0) {
            let what = format!("is {} at block {}", scales[at], blocks.start + at as u64);
            return Err(reader.wrong_value(ABSMAX, &what));
        }
        for (value, at) in out.iter_mut().zip(first..) {
            let byte = bytes[(at / 2 - first / 2) as usize];
            let code = if at % 2 == 0 { byte >> 4 } else { byte & 15 };
            let scale = scales[(at / self.block - blocks.start) as usize];
            *value = table[usize::from(code)] * scale;
        }
        Ok(())
    }
}

impl Flat {
    fn scales(&self, reader: &Reader<'_>, first: u64, count: usize) -> Result<Vec<f32>, ReadError> {
        let Some(nested) = &self.nested else { return floats(reader, ABSMAX, first, count) };
        let mut codes = vec![0; count];
        reader.bytes(ABSMAX, first, &mut codes)?;
        let start = first / nested.block;
        let groups = (first + count as u64 - 1) / nested.block - start + 1;
        let scales = floats(reader, NESTED_ABSMAX, start, groups as usize)?;
        let table = floats(reader, NESTED_TABLE, 0, 256)?;
        let scale = |(code, at): (u8, u64)| {
            let scale = scales[(at / nested.block - start) as usize];
            table[usize::from(code)] * scale + nested.offset
        };
        Ok(codes.into_iter().zip(first..).map(scale).collect())
    }
}

fn floats(
    reader: &Reader<'_>,
    part: usize,
    first: u64,
    count: usize,
) -> Result<Vec<f32>, ReadError> {
    let mut bytes = vec![0; count * 4];
    reader.bytes(part, first * 4, &mut bytes)?;
    let mut out = Vec::with_capacity(count);
    Number::F32.read(&bytes, &mut out);
    Ok(out)
}
