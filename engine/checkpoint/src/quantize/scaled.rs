//! compressed-tensors' floats of 8 bits and whole numbers of 2 to 8, and the blocks of fp8 that DeepSeek's
//! checkpoints have: codes times a scale for a tile of the matrix.
//!
//! Bytes are those of compressed-tensors 0.20 for weights of the same type: it calculates in that type, and
//! so do we.

use std::sync::Arc;

use mixdown_diagnostics::Diagnostic;
use mixdown_tensor::DType;

use super::form::{Code, Fit, Scaled, Spread};
use super::round::{Arithmetic, E4M3_LARGEST, nearest, of_e4m3, pack, to_e4m3};
use super::{Coding, Planned, Wanted};

/// Codes beside scales.
#[derive(Clone, Debug)]
struct Tiles {
    code: Code,
    /// Columns of what is coded as one row: those of the matrix, or of a group.
    columns: u64,
    /// Rows and columns that share a scale; none where all do.
    tile: Option<[u64; 2]>,
    arithmetic: Arithmetic,
    symmetric: bool,
    fit: Fit,
    /// Groups of a row, where zero points are packed down the rows.
    zero_groups: u64,
    /// Positions of the parts that have bytes for each unit: scales, zero points.
    scales: usize,
    zeros: Option<usize>,
    unit: u64,
    unit_bytes: Vec<u64>,
    /// What says the shape, where codes are packed.
    shape: Option<(usize, [u64; 2])>,
}

/// compressed-tensors.
pub(super) fn plan(form: &Scaled, wanted: &Wanted<'_>) -> Result<Planned, Box<Diagnostic>> {
    let [rows, columns] = wanted.matrix()?;
    let module = wanted.module()?;
    let arithmetic = Arithmetic::of(wanted.dtype);
    let bits = form.code.bits();
    let is_packed = matches!(form.code, Code::Packed(_));
    let (tile, grid): (Option<[u64; 2]>, Vec<u64>) = match form.spread {
        Spread::Tensor => (None, vec![1]),
        Spread::Channel => (Some([1, columns.max(1)]), vec![rows, 1]),
        Spread::Group(group) => {
            wanted.divide(columns, group, true)?;
            (Some([1, group]), vec![rows, columns / group])
        }
        Spread::Block(high, wide) => {
            (Some([high, wide]), vec![rows.div_ceil(high), columns.div_ceil(wide)])
        }
    };
    let words = |count: u64| (count.saturating_mul(bits)).div_ceil(32);
    let mut parts = match form.code {
        Code::E4M3 => vec![wanted.part(wanted.name.to_owned(), DType::F8E4M3, &[rows, columns])?],
        Code::I8 => vec![wanted.part(wanted.name.to_owned(), DType::I8, &[rows, columns])?],
        Code::Packed(_) => {
            let name = format!("{module}weight_packed");
            vec![wanted.part(name, DType::I32, &[rows, words(columns)])?]
        }
    };
    parts.push(wanted.part(format!("{module}weight_scale"), arithmetic.dtype(), &grid)?);
    let groups = grid.get(1).copied().unwrap_or(1);
    let mut zeros = None;
    if !form.symmetric {
        zeros = Some(parts.len());
        let name = format!("{module}weight_zero_point");
        parts.push(match is_packed {
            true => wanted.part(name, DType::I32, &[words(rows), groups])?,
            false => wanted.part(name, DType::I8, &grid)?,
        });
    }
    let mut shape = None;
    if is_packed {
        shape = Some((parts.len(), [rows, columns]));
        parts.push(wanted.part(format!("{module}weight_shape"), DType::I64, &[2])?);
    }
    // Rows whose zero points fill whole words.
    let deep = if is_packed && !form.symmetric { whole_words(bits) } else { 1 };
    let (width, unit_rows) = match tile {
        None if is_packed => (columns, 1),
        None => (1, 1),
        Some([1, wide]) if deep == 1 && (!is_packed || (wide * bits).is_multiple_of(32)) => {
            (wide, 1)
        }
        Some([high, _]) => (columns, high.max(deep)),
    };
    let code_bytes = if is_packed { (width * bits).div_ceil(32) * 4 } else { width };
    let mut unit_bytes = vec![0; parts.len()];
    unit_bytes[0] = code_bytes * unit_rows;
    if let Some([high, wide]) = tile {
        let scales = unit_rows.div_ceil(high) * width.div_ceil(wide.max(1));
        unit_bytes[1] = scales * arithmetic.dtype().bytes() as u64;
        if let Some(zeros) = zeros {
            unit_bytes[zeros] = if is_packed { unit_rows * bits / 32 * groups * 4 } else { scales };
        }
    }
    let tiles = Tiles {
        code: form.code,
        columns: width,
        tile,
        arithmetic,
        symmetric: form.symmetric,
        fit: form.fit,
        zero_groups: if is_packed { groups } else { 0 },
        scales: 1,
        zeros,
        unit: width * unit_rows,
        unit_bytes,
        shape,
    };
    Ok((parts, Arc::new(tiles)))
}

/// The fewest codes of so many bits that fill whole words.
fn whole_words(bits: u64) -> u64 {
    32 >> bits.trailing_zeros().min(5)
}

/// Scales and zero points of one tile.
#[derive(Clone, Copy, Debug)]
struct Scale {
    scale: f32,
    zero: f32,
}

impl Tiles {
    /// The least and the largest code.
    fn range(&self) -> (f32, f32) {
        match self.code {
            Code::E4M3 => (-E4M3_LARGEST, E4M3_LARGEST),
            Code::I8 => (-128.0, 127.0),
            Code::Packed(bits) => {
                let half = f32::from(1_u16 << (bits - 1));
                (-half, half - 1.0)
            }
        }
    }

    /// The scale of values between these, of which one is zero or below and one zero or above.
    fn scale(&self, least: f32, largest: f32) -> Scale {
        let round = |value| self.arithmetic.round(value);
        let (low, high) = self.range();
        let or_epsilon = |scale: f32| if scale == 0.0 { self.arithmetic.epsilon() } else { scale };
        if self.symmetric {
            let half = round(round(high - low) / 2.0);
            let scale = round(largest.max(-least) / half);
            return Scale { scale: or_epsilon(scale), zero: 0.0 };
        }
        let scale = round(round(largest - least) / round(high - low));
        let zero = round(low - round(least / scale)).clamp(low, high);
        // Where all values are zero there is no quotient, and any zero point does.
        let zero = if zero.is_nan() { 0.0 } else { zero.clamp(-128.0, 127.0).round_ties_even() };
        Scale { scale: or_epsilon(scale), zero }
    }

    /// The numbers that are rounded to codes.
    #[inline(always)]
    fn quotient(&self, value: f32, Scale { scale, zero }: Scale, arithmetic: Arithmetic) -> f32 {
        let quotient = arithmetic.round(value / scale);
        let (low, high) = self.range();
        match self.symmetric {
            true => quotient.clamp(low, high),
            false => arithmetic.round(quotient + zero).clamp(low, high),
        }
    }

    /// Codes of one stretch that shares a scale; the values become what these stand for.
    fn code(&self, values: &mut [f32], scale: Scale, codes: &mut [u8]) {
        // One loop for each type, so that each is vectorized.
        match self.arithmetic {
            Arithmetic::F32 => self.code_in(values, scale, codes, Arithmetic::F32),
            Arithmetic::Bf16 => self.code_in(values, scale, codes, Arithmetic::Bf16),
            Arithmetic::F16 => self.code_in(values, scale, codes, Arithmetic::F16),
        }
    }

    #[inline(always)]
    fn code_in(&self, values: &mut [f32], scale: Scale, codes: &mut [u8], arithmetic: Arithmetic) {
        let pairs = values.iter_mut().zip(codes);
        match self.code {
            Code::E4M3 => pairs.for_each(|(value, code)| {
                *code = to_e4m3(self.quotient(*value, scale, arithmetic));
                *value = of_e4m3(*code) * scale.scale;
            }),
            Code::I8 => pairs.for_each(|(value, code)| {
                let whole = nearest(self.quotient(*value, scale, arithmetic));
                *code = (whole as i32) as u8;
                *value = (whole - scale.zero) * scale.scale;
            }),
            Code::Packed(bits) => {
                let half = 1_i32 << (bits - 1);
                pairs.for_each(|(value, code)| {
                    let whole = nearest(self.quotient(*value, scale, arithmetic));
                    *code = (whole as i32 + half) as u8;
                    *value = (whole - scale.zero) * scale.scale;
                });
            }
        }
    }

    /// The scale of a group of whole numbers whose squared error is least among those that a search tries:
    /// each range that is a little smaller than the values' gives codes, and these the scale that fits them
    /// best. The range itself is among them, so that the error is never larger than with it.
    fn least_squares(&self, values: &[f32], least: f32, largest: f32) -> Scale {
        const SHRINKS: u32 = 24;
        let mut best = (f64::INFINITY, self.scale(least, largest));
        let mut attempt = |scale: Scale| {
            let (mut error, mut of_codes, mut of_values) = (0.0_f64, 0.0_f64, 0.0_f64);
            for &value in values {
                let whole = nearest(self.quotient(value, scale, self.arithmetic)) - scale.zero;
                let apart = f64::from(whole * scale.scale - value);
                error += apart * apart;
                of_codes += f64::from(whole) * f64::from(whole);
                of_values += f64::from(whole) * f64::from(value);
            }
            if error < best.0 {
                best = (error, scale);
            }
            let fitted = self.arithmetic.round((of_values / of_codes) as f32);
            (fitted > 0.0 && fitted.is_finite()).then_some(Scale { scale: fitted, ..scale })
        };
        for shrink in 0..SHRINKS {
            let kept = 1.0 - 0.025 * shrink as f32;
            if let Some(fitted) = attempt(self.scale(least * kept, largest * kept)) {
                attempt(fitted);
            }
        }
        best.1
    }

    /// Codes of rows that share their scales: one scale for each stretch of columns.
    fn band(&self, values: &mut [f32], codes: &mut [u8], wide: usize, scales: &mut Vec<Scale>) {
        let columns = self.columns as usize;
        for first in (0..columns).step_by(wide) {
            let stretch = first..(first + wide).min(columns);
            let (mut least, mut largest) = (0.0_f32, 0.0_f32);
            for row in values.chunks(columns) {
                for &value in &row[stretch.clone()] {
                    least = least.min(value);
                    largest = largest.max(value);
                }
            }
            let scale = match self.fit {
                Fit::LeastSquares if values.len() <= columns => {
                    self.least_squares(&values[stretch.clone()], least, largest)
                }
                _ => self.scale(least, largest),
            };
            scales.push(scale);
            for (row, codes) in values.chunks_mut(columns).zip(codes.chunks_mut(columns)) {
                self.code(&mut row[stretch.clone()], scale, &mut codes[stretch.clone()]);
            }
        }
    }

    fn put_codes(&self, codes: &[u8], out: &mut Vec<u8>) {
        match self.code {
            Code::E4M3 | Code::I8 => out.extend_from_slice(codes),
            Code::Packed(4) if self.columns.is_multiple_of(8) => {
                out.extend(codes.as_chunks::<2>().0.iter().map(|[low, high]| low | high << 4));
            }
            Code::Packed(bits) => {
                for row in codes.chunks(self.columns as usize) {
                    pack(row.iter().copied(), u32::from(bits), 4, out);
                }
            }
        }
    }

    /// Zero points of rows of groups, in words that run down the rows.
    fn put_packed_zeros(&self, scales: &[Scale], bits: u8, out: &mut Vec<u8>) {
        let groups = self.zero_groups as usize;
        let half = f32::from(1_u16 << (bits - 1));
        let rows = scales.len() / groups.max(1);
        let words = (rows * usize::from(bits)).div_ceil(32);
        let start = out.len();
        out.resize(start + words * groups * 4, 0);
        for group in 0..groups {
            let mut column = Vec::with_capacity(words * 4);
            let fields = (0..rows).map(|row| (scales[row * groups + group].zero + half) as u8);
            pack(fields, u32::from(bits), 4, &mut column);
            for (word, four) in column.as_chunks::<4>().0.iter().enumerate() {
                let at = start + (word * groups + group) * 4;
                out[at..at + 4].copy_from_slice(four);
            }
        }
    }
}

impl Coding for Tiles {
    fn unit(&self) -> u64 {
        self.unit
    }

    fn unit_bytes(&self) -> Vec<u64> {
        self.unit_bytes.clone()
    }

    fn needs_largest(&self) -> bool {
        self.tile.is_none()
    }

    fn whole(&self, largest: f32) -> Vec<(usize, Vec<u8>)> {
        let mut whole = Vec::new();
        if self.tile.is_none() {
            let mut bytes = Vec::new();
            self.arithmetic.push(self.scale(-largest, largest).scale, &mut bytes);
            whole.push((self.scales, bytes));
        }
        if let Some((part, [rows, columns])) = self.shape {
            whole
                .push((part, [rows, columns].iter().flat_map(|size| size.to_le_bytes()).collect()));
        }
        whole
    }

    fn encode(&self, largest: f32, values: &mut [f32], out: &mut [Vec<u8>]) {
        let mut codes = vec![0; values.len()];
        let Some([high, wide]) = self.tile else {
            self.code(values, self.scale(-largest, largest), &mut codes);
            self.put_codes(&codes, &mut out[0]);
            return;
        };
        let columns = self.columns as usize;
        let mut scales = Vec::new();
        let band = high as usize * columns;
        if band > 0 {
            for (values, codes) in values.chunks_mut(band).zip(codes.chunks_mut(band)) {
                self.band(values, codes, wide as usize, &mut scales);
            }
        }
        self.put_codes(&codes, &mut out[0]);
        for scale in &scales {
            self.arithmetic.push(scale.scale, &mut out[self.scales]);
        }
        let Some(zeros) = self.zeros else { return };
        match self.code {
            Code::Packed(bits) => self.put_packed_zeros(&scales, bits, &mut out[zeros]),
            _ => out[zeros].extend(scales.iter().map(|scale| (scale.zero as i32) as u8)),
        }
    }
}

/// Blocks of E4M3 under the name of the weight, beside the factors that undo their scales.
#[derive(Clone, Debug)]
struct BlockFp8 {
    columns: u64,
    tile: [u64; 2],
}

/// As transformers 5.24 writes them; the tiles at the edges may be smaller, as in DeepSeek's checkpoints.
pub(super) fn plan_block_fp8(
    tile: [u64; 2],
    wanted: &Wanted<'_>,
) -> Result<Planned, Box<Diagnostic>> {
    let [rows, columns] = wanted.matrix()?;
    let module = wanted.module()?;
    let grid = [rows.div_ceil(tile[0]), columns.div_ceil(tile[1])];
    let parts = vec![
        wanted.part(wanted.name.to_owned(), DType::F8E4M3, &[rows, columns])?,
        wanted.part(format!("{module}weight_scale_inv"), DType::F32, &grid)?,
    ];
    Ok((parts, Arc::new(BlockFp8 { columns, tile })))
}

impl Coding for BlockFp8 {
    fn unit(&self) -> u64 {
        self.columns * self.tile[0]
    }

    fn unit_bytes(&self) -> Vec<u64> {
        vec![self.columns * self.tile[0], self.columns.div_ceil(self.tile[1]) * 4]
    }

    fn encode(&self, _: f32, values: &mut [f32], out: &mut [Vec<u8>]) {
        let (columns, [high, wide]) = (self.columns as usize, self.tile.map(|size| size as usize));
        let start = out[0].len();
        out[0].resize(start + values.len(), 0);
        let [codes, factors, ..] = out else { return };
        let codes = &mut codes[start..];
        if columns == 0 {
            return;
        }
        let bands = values.chunks_mut(columns * high).zip(codes.chunks_mut(columns * high));
        for (values, codes) in bands {
            for first in (0..columns).step_by(wide) {
                let stretch = first..(first + wide).min(columns);
                let mut largest = 0.0_f32;
                for row in values.chunks(columns) {
                    largest = row[stretch.clone()]
                        .iter()
                        .fold(largest, |all, value| all.max(value.abs()));
                }
                // torch divides a number by a tensor in two roundings.
                let scale = if largest > 0.0 { 1.0 / largest * E4M3_LARGEST } else { 1.0 };
                let factor = 1.0 / scale;
                factors.extend(factor.to_le_bytes());
                for (row, codes) in values.chunks_mut(columns).zip(codes.chunks_mut(columns)) {
                    let pairs = row[stretch.clone()].iter_mut().zip(&mut codes[stretch.clone()]);
                    for (value, code) in pairs {
                        *code = to_e4m3((*value * scale).clamp(-E4M3_LARGEST, E4M3_LARGEST));
                        *value = of_e4m3(*code) * factor;
                    }
                }
            }
        }
    }
}
