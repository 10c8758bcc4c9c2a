//! compressed-tensors' floats of 4 bits: groups of 32 with a power of two, and groups of 16 with an E4M3
//! beside one factor for the tensor.

use std::sync::Arc;

use mixdown_diagnostics::Diagnostic;
use mixdown_tensor::DType;

use super::form::Form;
use super::round::{Arithmetic, E4M3_LARGEST, of_e2m1, of_e4m3, to_e2m1, to_e4m3};
use super::{Coding, Planned, Wanted};

/// Codes of a group, and its scale.
#[derive(Clone, Debug)]
struct SmallFloats {
    scale: ScaleOf,
    arithmetic: Arithmetic,
}

#[derive(Clone, Copy, Debug)]
enum ScaleOf {
    /// A power of two for 32.
    Mx,
    /// An E4M3 for 16, over a factor of the whole tensor.
    Nv,
}

pub(super) fn plan(form: &Form, wanted: &Wanted<'_>) -> Result<Planned, Box<Diagnostic>> {
    let [rows, columns] = wanted.matrix()?;
    let module = wanted.module()?;
    let scale = if *form == Form::Nvfp4 { ScaleOf::Nv } else { ScaleOf::Mx };
    let group = scale.group();
    wanted.divide(columns, group, false)?;
    let part =
        |name: &str, dtype, shape: &[u64]| wanted.part(format!("{module}{name}"), dtype, shape);
    let mut parts = vec![part("weight_packed", DType::U8, &[rows, columns / 2])?];
    let grid = [rows, columns / group];
    match scale {
        ScaleOf::Mx => parts.push(part("weight_scale", DType::U8, &grid)?),
        ScaleOf::Nv => {
            parts.push(part("weight_scale", DType::F8E4M3, &grid)?);
            parts.push(part("weight_global_scale", DType::F32, &[1])?);
        }
    }
    Ok((parts, Arc::new(SmallFloats { scale, arithmetic: Arithmetic::of(wanted.dtype) })))
}

impl ScaleOf {
    fn group(self) -> u64 {
        match self {
            Self::Mx => 32,
            Self::Nv => 16,
        }
    }
}

/// The power of two that is nearest to a magnitude, from 1.75 times one on the next, over the largest of
/// E2M1: as the exponent plus 127.
fn mx_exponent(largest: f32) -> u8 {
    let power = largest.to_bits().wrapping_add(1 << 21) >> 23;
    power.saturating_sub(2).min(254) as u8
}

/// 2 to a stored exponent less 127.
pub(super) fn power_of(exponent: u8) -> f32 {
    match exponent {
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits(u32::from(exponent) << 23),
    }
}

/// The factor of a tensor that makes the most of its groups' scales.
fn whole_factor(largest: f32) -> f32 {
    // torch divides a number by a tensor in two roundings.
    let factor = 1.0 / largest.max(f32::MIN_POSITIVE) * (E4M3_LARGEST * 6.0);
    if factor.is_finite() { factor } else { 1.0 }
}

impl Coding for SmallFloats {
    fn unit(&self) -> u64 {
        self.scale.group()
    }

    fn unit_bytes(&self) -> Vec<u64> {
        match self.scale {
            ScaleOf::Mx => vec![16, 1],
            ScaleOf::Nv => vec![8, 1, 0],
        }
    }

    fn needs_largest(&self) -> bool {
        matches!(self.scale, ScaleOf::Nv)
    }

    fn whole(&self, largest: f32) -> Vec<(usize, Vec<u8>)> {
        match self.scale {
            ScaleOf::Mx => Vec::new(),
            ScaleOf::Nv => vec![(2, whole_factor(largest).to_le_bytes().to_vec())],
        }
    }

    fn encode(&self, largest: f32, values: &mut [f32], out: &mut [Vec<u8>]) {
        let factor = whole_factor(largest);
        for group in values.chunks_mut(self.scale.group() as usize) {
            let largest = group.iter().fold(0.0_f32, |all, value| all.max(value.abs()));
            let (code, scale) = match self.scale {
                ScaleOf::Mx => {
                    let exponent = mx_exponent(largest);
                    (exponent, power_of(exponent))
                }
                ScaleOf::Nv => {
                    let scale = self.arithmetic.round(largest / 6.0) * factor;
                    let code = to_e4m3(scale.min(E4M3_LARGEST));
                    // A group of zeros has a scale all the same.
                    let code = if code == 0 { to_e4m3(0.125) } else { code };
                    (code, of_e4m3(code) / factor)
                }
            };
            out[1].push(code);
            for pair in group.chunks_mut(2) {
                let mut byte = 0;
                for (value, shift) in pair.iter_mut().zip([0, 4]) {
                    let code = to_e2m1(*value / scale);
                    byte |= code << shift;
                    *value = of_e2m1(code) * scale;
                }
                out[0].push(byte);
            }
        }
    }
}
