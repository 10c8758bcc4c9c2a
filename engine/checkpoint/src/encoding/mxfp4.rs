//! MXFP4 as gpt-oss stores its experts: blocks and scales along the input axis, of a matrix that the
//! model has the other way round.

use std::sync::Arc;

use mixdown_tensor::DType;

use super::blocks::Lines;
use super::claims::{Family, Fault, Found, Stored, expect_dtype, expect_shape};
use super::promises::Kind;
use super::values::{Number, Values};
use super::{Codec, Reader};
use crate::index::TensorEntry;
use crate::shown::shown;
use crate::source::ReadError;

pub(super) const FAMILY: Family = Family { methods: &["mxfp4"], find };

/// Codes of a block.
const BLOCK: u64 = 32;
/// Bytes that hold them.
const BLOCK_BYTES: u64 = 16;

fn find<'a>(stored: &Stored<'a>, tensor: &'a TensorEntry) -> Option<Result<Found<'a>, Fault>> {
    if let Some(name) = tensor.name.strip_suffix("_blocks") {
        return (tensor.dtype == DType::U8).then(|| experts(stored, tensor, name));
    }
    // Scales without blocks are of nothing.
    let name = tensor.name.strip_suffix("_scales")?;
    let is_alone = tensor.dtype == DType::U8
        && tensor.shape.dimensions().len() == 3
        && stored.get(&format!("{name}_blocks")).is_none();
    is_alone.then(|| Err(Fault::new(format!("`{}_blocks` is missing", shown(name)))))
}

fn experts<'a>(
    stored: &Stored<'a>,
    blocks: &'a TensorEntry,
    name: &str,
) -> Result<Found<'a>, Fault> {
    let scales = stored.need(&format!("{name}_scales"))?;
    let &[experts, rows, groups, BLOCK_BYTES] = blocks.shape.dimensions() else {
        return Err(Fault::new(format!(
            "`{}` is no stack of matrices in blocks",
            shown(&blocks.name)
        ))
        .fact("expected", "[experts, outputs, blocks, 16]")
        .fact("found", blocks.shape.to_string()));
    };
    expect_dtype(scales, &[DType::U8, DType::F8E8M0])?;
    expect_shape(scales, &[experts, rows, groups])?;
    let columns = groups.saturating_mul(BLOCK);
    Ok(Found {
        kind: Kind::floats(4),
        methods: None,
        name: name.to_owned(),
        shape: vec![experts, columns, rows],
        scheme: "mxfp4, blocks of 32, transposed".to_owned(),
        parts: vec![blocks, scales],
        beside: Vec::new(),
        codec: Arc::new(Transposed { rows, columns }),
    })
}

/// A stack of matrices [columns, rows] whose codes run along the columns.
#[derive(Debug)]
struct Transposed {
    rows: u64,
    columns: u64,
}

impl Codec for Transposed {
    fn decode(
        &self,
        reader: &Reader<'_>,
        first: u64,
        mut out: &mut [f32],
    ) -> Result<(), ReadError> {
        let groups = self.columns / BLOCK;
        let codes = Lines { part: 0, bytes: groups * BLOCK_BYTES };
        let scales = Lines { part: 1, bytes: groups };
        let (mut packed, mut exponents, mut factors) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = first;
        while !out.is_empty() {
            let (row, from) = (at / self.rows, at % self.rows);
            let (expert, column) = (row / self.columns, row % self.columns);
            let count = (self.rows - from).min(out.len() as u64);
            let lines = expert * self.rows + from..expert * self.rows + from + count;
            packed.clear();
            let byte = column / BLOCK * BLOCK_BYTES + column % BLOCK / 2;
            codes.across(reader, lines.clone(), byte, 1, &mut packed)?;
            packed.iter_mut().for_each(|byte| *byte = *byte >> (column % 2 * 4) & 15);
            exponents.clear();
            scales.across(reader, lines.clone(), column / BLOCK, 1, &mut exponents)?;
            factors.clear();
            Number::E8M0.read(&exponents, &mut factors);
            if let Some(at) = exponents.iter().position(|&exponent| exponent == 255) {
                let what =
                    format!("is NaN at row {}, block {}", lines.start + at as u64, column / BLOCK);
                return Err(reader.wrong_value(1, &what));
            }
            let (part, rest) = out.split_at_mut(count as usize);
            Values::E2M1.of(&packed, part);
            part.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
            (at, out) = (at + count, rest);
        }
        Ok(())
    }
}
