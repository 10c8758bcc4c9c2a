//! MLX's affine form: whole numbers from zero, times a scale, plus a bias, for each group of columns.

use std::sync::Arc;

use mixdown_diagnostics::Diagnostic;
use mixdown_tensor::DType;

use super::round::{Arithmetic, pack};
use super::{Coding, Planned, Wanted};

#[derive(Clone, Debug)]
struct Affine {
    bits: u8,
    group: u64,
    arithmetic: Arithmetic,
}

pub(super) fn plan(bits: u8, group: u64, wanted: &Wanted<'_>) -> Result<Planned, Box<Diagnostic>> {
    let [rows, columns] = wanted.matrix()?;
    let module = wanted.module()?;
    wanted.divide(columns, group, true)?;
    let arithmetic = Arithmetic::of(wanted.dtype);
    let grid = [rows, columns / group];
    let words = columns * u64::from(bits) / 32;
    let parts = vec![
        wanted.part(wanted.name.to_owned(), DType::U32, &[rows, words])?,
        wanted.part(format!("{module}scales"), arithmetic.dtype(), &grid)?,
        wanted.part(format!("{module}biases"), arithmetic.dtype(), &grid)?,
    ];
    Ok((parts, Arc::new(Affine { bits, group, arithmetic })))
}

/// Scale and bias of a group. The end that is farther from zero is met exactly, and so is zero where it
/// lies between.
fn fit(group: &[f32], bins: f32) -> (f32, f32) {
    /// Groups that hardly vary have this scale.
    const LEAST: f32 = 1e-7;
    let largest = group.iter().fold(f32::NEG_INFINITY, |all, value| all.max(*value));
    let least = group.iter().fold(f32::INFINITY, |all, value| all.min(*value));
    let is_low = least.abs() > largest.abs();
    let scale = ((largest - least) / bins).max(LEAST);
    let scale = if is_low { scale } else { -scale };
    let edge = if is_low { least } else { largest };
    let steps = (edge / scale).round_ties_even();
    if steps == 0.0 { (scale, 0.0) } else { (edge / steps, edge) }
}

impl Coding for Affine {
    fn unit(&self) -> u64 {
        self.group
    }

    fn unit_bytes(&self) -> Vec<u64> {
        let scale = self.arithmetic.dtype().bytes() as u64;
        vec![self.group * u64::from(self.bits) / 8, scale, scale]
    }

    fn encode(&self, _: f32, values: &mut [f32], out: &mut [Vec<u8>]) {
        let bins = f32::from((1_u16 << self.bits) - 1);
        let mut codes = vec![0; self.group as usize];
        for group in values.chunks_mut(self.group as usize) {
            let (scale, bias) = fit(group, bins);
            // Codes are made with what is stored only roughly, as the library does.
            let (stored, offset) = (self.arithmetic.round(scale), self.arithmetic.round(bias));
            for (value, code) in group.iter_mut().zip(&mut codes) {
                let whole = ((*value - bias) / scale).round_ties_even().clamp(0.0, bins);
                *code = whole as u8;
                *value = whole * stored + offset;
            }
            self.arithmetic.push(scale, &mut out[1]);
            self.arithmetic.push(bias, &mut out[2]);
            pack(codes[..group.len()].iter().copied(), self.bits.into(), 1, &mut out[0]);
        }
    }
}
