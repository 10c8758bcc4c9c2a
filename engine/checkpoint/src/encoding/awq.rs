//! AWQ in the three layouts of AutoAWQ: words along the output axis with their codes interleaved
//! (`gemm`), along the input axis (`gemv`), and four rows woven into one (`gemv_fast`).

use std::ops::Range;
use std::sync::Arc;

use mixdown_tensor::DType;

use super::Reader;
use super::affine::{Affine, Shift, Sign};
use super::blocks::Lines;
use super::claims::{Family, Fault, Found, Stored, expect_dtype, expect_shape};
use super::groups::{Across, Grid, Groups, PackedRows};
use super::promises::Kind;
use super::unpack::{Codes, Stream};
use super::values::{Number, Values};
use crate::index::TensorEntry;
use crate::shown::shown;
use crate::source::ReadError;

pub(super) const FAMILY: Family = Family { methods: &["awq"], find };

fn find<'a>(stored: &Stored<'a>, tensor: &'a TensorEntry) -> Option<Result<Found<'a>, Fault>> {
    let module = tensor.name.strip_suffix("qweight")?;
    Some(awq(stored, tensor, module))
}

fn awq<'a>(stored: &Stored<'a>, codes: &'a TensorEntry, module: &str) -> Result<Found<'a>, Fault> {
    let scales = stored.need(&format!("{module}scales"))?;
    let zeros = stored.need(&format!("{module}qzeros"))?;
    if stored.settings.count("bits").is_some_and(|bits| bits != 4) {
        return Err(Fault::unread("AWQ of another width than 4 bits"));
    }
    let sizes = |tensor: &TensorEntry| match tensor.shape.dimensions() {
        [rows, columns] => Ok([*rows, *columns]),
        _ => Err(Fault::new(format!("`{}` is no matrix", shown(&tensor.name)))
            .fact("shape", tensor.shape.to_string())),
    };
    let (found, scale_sizes) = (sizes(codes)?, sizes(scales)?);
    expect_dtype(scales, &[DType::F16, DType::Bf16, DType::F32])?;
    let number = Number::of_scale(scales.dtype).unwrap_or(Number::F16);
    let version = stored.settings.text("version").map(str::to_ascii_lowercase);
    let form = match (version.as_deref(), codes.dtype) {
        (Some("gemv_fast" | "gemvfast") | None, DType::I16) => Form::GemvFast,
        (Some("gemm"), DType::I32) => Form::Gemm,
        (Some("gemv"), DType::I32) => Form::Gemv,
        (None, DType::I32) if scale_sizes[1] == found[1].saturating_mul(8) => Form::Gemm,
        (None, DType::I32) => Form::Gemv,
        (Some(other), DType::I32 | DType::I16) => {
            let is_known = ["gemm", "gemv", "gemv_fast"].contains(&other);
            return Err(match is_known {
                true => Fault::new(format!(
                    "`{}` has another element type than its version",
                    shown(&codes.name)
                ))
                .fact("version", other)
                .fact("found", codes.dtype.name()),
                false => Fault::unread(format!("AWQ in the layout `{}`", shown(other))),
            });
        }
        _ => return Err(expect_dtype(codes, &[DType::I32, DType::I16]).expect_err("it is neither")),
    };
    let (outputs, inputs) = match form {
        Form::Gemm => (found[1].saturating_mul(8), found[0]),
        Form::Gemv => (found[0], found[1].saturating_mul(8)),
        Form::GemvFast => (found[0].saturating_mul(4), found[1]),
    };
    let group = stored.settings.group().unwrap_or(match form {
        Form::Gemm => inputs.checked_div(scale_sizes[0]).unwrap_or(0),
        // Padded: the groups cannot be counted.
        _ => 128,
    });
    if group == 0 || inputs == 0 || !inputs.is_multiple_of(group) {
        return Err(Fault::new(format!(
            "the groups of `{}` do not divide its columns",
            shown(&scales.name)
        ))
        .fact("columns", inputs.to_string())
        .fact("group", group.to_string()));
    }
    let groups = inputs / group;
    let element = scales.dtype.bytes() as u64;
    let zero_sizes = sizes(zeros)?;
    let (codes_of, scales_of, shift): (Box<dyn Codes>, Box<dyn Groups>, Shift) = match form {
        Form::Gemm => {
            expect_shape(scales, &[groups, outputs])?;
            expect_dtype(zeros, &[DType::I32])?;
            expect_shape(zeros, &[groups, found[1]])?;
            let lines = |part| Lines { part, bytes: found[1] * 4 };
            (
                Box::new(Interleaved(lines(0))),
                Box::new(Across { lines: Lines { part: 1, bytes: outputs * element }, number }),
                Shift::Zeros(Box::new(Interleaved(lines(2)))),
            )
        }
        Form::Gemv => {
            let words = zero_sizes[1];
            expect_dtype(zeros, &[DType::I32])?;
            expect_shape(zeros, &[outputs, words])?;
            expect_shape(scales, &[outputs, words.saturating_mul(8)])?;
            expect_padded(scales, scale_sizes[1], groups, group)?;
            let stream = |part, words: u64| Stream {
                part,
                bits: 4,
                row_bytes: words * 4,
                columns: None,
                values: Values::Minus(0),
            };
            let plane = [outputs.max(1), outputs];
            let columns = scale_sizes[1];
            (
                Box::new(stream(0, found[1])),
                Box::new(Grid { part: 1, number, plane, rows: 1, columns, whole: None }),
                Shift::Zeros(Box::new(PackedRows { codes: Box::new(stream(2, words)), part: 2 })),
            )
        }
        Form::GemvFast => {
            expect_shape(scales, &[scale_sizes[0], outputs])?;
            expect_padded(scales, scale_sizes[0], groups, group)?;
            expect_dtype(zeros, &[scales.dtype])?;
            expect_shape(zeros, scales.shape.dimensions())?;
            if !inputs.is_multiple_of(64) {
                return Err(Fault::new(format!(
                    "`{}` is not woven of whole runs",
                    shown(&codes.name)
                ))
                .fact("columns", inputs.to_string())
                .fact("run", "64"));
            }
            let across = |part| Across { lines: Lines { part, bytes: outputs * element }, number };
            (
                Box::new(Woven { part: 0, columns: inputs }),
                Box::new(across(1)),
                Shift::Offsets(Box::new(across(2))),
            )
        }
    };
    let codec = Affine {
        columns: inputs,
        codes: codes_of,
        group,
        index: None,
        scales: scales_of,
        sign: Sign::NotZero,
        shift,
        of_columns: None,
        factor: None,
    };
    let layout = match form {
        Form::Gemm => "gemm",
        Form::Gemv => "gemv",
        Form::GemvFast => "gemv_fast",
    };
    Ok(Found {
        kind: Kind::whole(4),
        methods: None,
        name: format!("{module}weight"),
        shape: vec![outputs, inputs],
        scheme: format!("AWQ {layout}, 4 bits, groups of {group}"),
        parts: vec![codes, scales, zeros],
        beside: Vec::new(),
        codec: Arc::new(codec),
    })
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Gemm,
    Gemv,
    GemvFast,
}

/// Refuses another count of scales than AutoAWQ pads so many groups to.
fn expect_padded(scales: &TensorEntry, found: u64, groups: u64, group: u64) -> Result<(), Fault> {
    let multiple = match group {
        32 => 4,
        64 => 2,
        _ => 1,
    };
    let padded = groups.div_ceil(8).div_ceil(multiple).saturating_mul(multiple * 8);
    let is_written = [32, 64].contains(&group) || group >= 128;
    match is_written && found == padded {
        true => Ok(()),
        false => Err(Fault::new(format!("`{}` has another count of groups", shown(&scales.name)))
            .fact("expected", format!("{groups} of {group} columns, padded to {padded}"))
            .fact("found", scales.shape.to_string())),
    }
}

/// Where each of eight neighbors lies in a word, from its lowest bits on.
const NIBBLE: [u64; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Words along the output axis; lines are inputs of a weight, or groups of its zero points.
#[derive(Clone, Copy, Debug)]
struct Interleaved(Lines);

impl Interleaved {
    fn lines(
        &self,
        reader: &Reader<'_>,
        row: u64,
        lines: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        let nibble = NIBBLE[(row % 8) as usize];
        let mut bytes = Vec::with_capacity(out.len());
        self.0.across(reader, lines, row / 8 * 4 + nibble / 2, 1, &mut bytes)?;
        for (value, byte) in out.iter_mut().zip(bytes) {
            *value = f32::from(byte >> (nibble % 2 * 4) & 15);
        }
        Ok(())
    }
}

impl Codes for Interleaved {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        column: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        self.lines(reader, row, column..column + out.len() as u64, out)
    }
}

impl Groups for Interleaved {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        groups: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), ReadError> {
        let start = out.len();
        out.resize(start + (groups.end - groups.start) as usize, 0.0);
        self.lines(reader, row, groups, &mut out[start..])
    }

    fn part(&self) -> usize {
        self.0.part
    }
}

/// Four rows woven into one, in runs of 64 columns with each 32 of them in another order.
#[derive(Debug)]
struct Woven {
    part: usize,
    columns: u64,
}

impl Codes for Woven {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        column: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        let end = column + out.len() as u64;
        let (first, last) = (column / 64, end.div_ceil(64));
        // A run takes 64 halves of a word, 16 for each of the four rows.
        let mut bytes = vec![0; ((last - first) * 128) as usize];
        let line = row / 4 * self.columns * 2;
        reader.bytes(self.part, line + first * 128, &mut bytes)?;
        for (value, at) in out.iter_mut().zip(column..) {
            let within = at % 32;
            let (high, middle, low) = (within / 8, within % 8 / 2, within % 2);
            let place = row % 4 * 64 + at % 64 / 32 * 32 + middle * 8 + low * 4 + high;
            let byte = bytes[((at / 64 - first) * 128 + place / 2) as usize];
            *value = f32::from(byte >> (place % 2 * 4) & 15);
        }
        Ok(())
    }
}
