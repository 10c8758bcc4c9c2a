//! Numbers as tensors store them, and normal ones.

use mixdown_ops::random::uniform_bits;
use mixdown_tensor::DType;
use mixdown_tensor::convert::{bf16_to_f32, f16_to_f32, f64_to_bf16, f64_to_f16, f64_to_f32};

/// A stored number; none of another type or length.
pub(crate) fn number(dtype: DType, bytes: &[u8]) -> Option<f64> {
    Some(match dtype {
        DType::Bf16 => f64::from(bf16_to_f32(u16::from_le_bytes(bytes.try_into().ok()?))),
        DType::F16 => f64::from(f16_to_f32(u16::from_le_bytes(bytes.try_into().ok()?))),
        DType::F32 => f64::from(f32::from_le_bytes(bytes.try_into().ok()?)),
        DType::F64 => f64::from_le_bytes(bytes.try_into().ok()?),
        _ => return None,
    })
}

/// Numbers as they are stored, rounded once.
pub(crate) fn store(values: &[f64], dtype: DType, out: &mut Vec<u8>) {
    for &value in values {
        match dtype {
            DType::Bf16 => out.extend(f64_to_bf16(value).to_le_bytes()),
            DType::F16 => out.extend(f64_to_f16(value).to_le_bytes()),
            DType::F64 => out.extend(value.to_le_bytes()),
            _ => out.extend(f64_to_f32(value).to_le_bytes()),
        }
    }
}

/// A normal number of a stream: Box and Muller, of two even ones.
pub(crate) fn normal(key: u64, at: u64) -> f64 {
    let even = |at: u64| (f64::from(uniform_bits(key, at)) + 0.5) / 4_294_967_296.0;
    (-2.0 * even(2 * at).ln()).sqrt() * (std::f64::consts::TAU * even(2 * at + 1)).cos()
}
