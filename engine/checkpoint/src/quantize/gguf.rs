//! GGUF's blocks of 32: bytes are those of gguf-py 0.19.0, which are those of ggml's own quantizers.

use std::sync::Arc;

use mixdown_diagnostics::Diagnostic;
use mixdown_tensor::DType;
use mixdown_tensor::convert::{f16_to_f32, f32_to_bf16, f32_to_f16};

use super::gguf_k;
use super::round::nearest_away;
use super::small_floats::power_of;
use super::{Coding, Planned, Wanted};

macro_rules! types {
    ($($name:ident = $number:literal, $word:literal, $elements:literal, $bytes:literal;)*) => {
        /// A type of tensors in GGUF files.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "they are named as ggml names them")]
        pub enum GgufType { $($name,)* }

        impl GgufType {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its number in files.
            pub fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// Elements of a block, and its bytes.
            pub fn block(self) -> (u64, u64) {
                match self { $(Self::$name => ($elements, $bytes),)* }
            }
        }
    };
}

types! {
    F32 = 0, "F32", 1, 4;
    F16 = 1, "F16", 1, 2;
    Q4_0 = 2, "Q4_0", 32, 18;
    Q4_1 = 3, "Q4_1", 32, 20;
    Q5_0 = 6, "Q5_0", 32, 22;
    Q5_1 = 7, "Q5_1", 32, 24;
    Q8_0 = 8, "Q8_0", 32, 34;
    Q4K = 12, "Q4_K", 256, 144;
    Q5K = 13, "Q5_K", 256, 176;
    Q6K = 14, "Q6_K", 256, 210;
    Bf16 = 30, "BF16", 1, 2;
    Mxfp4 = 39, "MXFP4", 32, 17;
}

#[derive(Clone, Debug)]
struct Blocks {
    kind: GgufType,
    /// What is added to all values.
    added: f32,
}

/// Blocks of a tensor under its name in the file; numbers have its shape, other blocks are bytes by rows.
pub(super) fn plan(
    kind: GgufType,
    added: f32,
    wanted: &Wanted<'_>,
) -> Result<Planned, Box<Diagnostic>> {
    let (elements, bytes) = kind.block();
    let sizes = wanted.shape.dimensions();
    let columns = sizes.last().copied().unwrap_or(1);
    wanted.divide(columns, elements, false)?;
    let plain = match kind {
        GgufType::F32 => Some(DType::F32),
        GgufType::F16 => Some(DType::F16),
        GgufType::Bf16 => Some(DType::Bf16),
        _ => None,
    };
    let name = wanted.name.to_owned();
    let part = match plain {
        Some(dtype) => wanted.part(name, dtype, sizes)?,
        None => {
            let rows = wanted.shape.elements().checked_div(columns).unwrap_or(0);
            wanted.part(name, DType::U8, &[rows, columns / elements * bytes])?
        }
    };
    Ok((vec![part], Arc::new(Blocks { kind, added })))
}

impl Coding for Blocks {
    fn unit(&self) -> u64 {
        self.kind.block().0
    }

    fn unit_bytes(&self) -> Vec<u64> {
        vec![self.kind.block().1]
    }

    fn encode(&self, _: f32, values: &mut [f32], out: &mut [Vec<u8>]) {
        let out = &mut out[0];
        if self.added != 0.0 {
            values.iter_mut().for_each(|value| *value += self.added);
        }
        for block in values.chunks_mut(self.kind.block().0 as usize) {
            encode(self.kind, block, out);
        }
        if self.added != 0.0 {
            values.iter_mut().for_each(|value| *value -= self.added);
        }
    }
}

/// Adds the bytes of one block; its values become what they stand for.
fn encode(kind: GgufType, block: &mut [f32], out: &mut Vec<u8>) {
    match kind {
        GgufType::F32 => out.extend(block.iter().flat_map(|value| value.to_le_bytes())),
        GgufType::F16 => block.iter_mut().for_each(|value| *value = push_half(*value, out)),
        GgufType::Bf16 => {
            for value in block {
                let bits = f32_to_bf16(*value);
                out.extend(bits.to_le_bytes());
                *value = f32::from_bits(u32::from(bits) << 16);
            }
        }
        GgufType::Q8_0 => {
            let (scale, factor) = scale_of(largest(block).abs() / 127.0);
            let scale = push_half(scale, out);
            for value in block {
                // Halves are rounded away from zero.
                let whole = nearest_away(*value * factor);
                out.push((whole as i32) as u8);
                *value = whole * scale;
            }
        }
        GgufType::Q4_0 => centered(block, 8.0, out),
        GgufType::Q5_0 => centered(block, 16.0, out),
        GgufType::Q4_1 => from_least(block, 15.0, out),
        GgufType::Q5_1 => from_least(block, 31.0, out),
        GgufType::Mxfp4 => mxfp4(block, out),
        GgufType::Q4K | GgufType::Q5K => gguf_k::with_minimum(block, kind == GgufType::Q5K, out),
        GgufType::Q6K => gguf_k::q6(block, out),
    }
}

/// Adds a number as f16, and gives what it is then.
pub(super) fn push_half(value: f32, out: &mut Vec<u8>) -> f32 {
    let bits = f32_to_f16(value);
    out.extend(bits.to_le_bytes());
    f16_to_f32(bits)
}

/// A scale with its reciprocal; 0 for a block of zeros.
fn scale_of(scale: f32) -> (f32, f32) {
    (scale, if scale == 0.0 { 0.0 } else { 1.0 / scale })
}

/// The value of the largest magnitude, of several the first.
pub(super) fn largest(block: &[f32]) -> f32 {
    block.iter().fold(0.0_f32, |all, &value| if value.abs() > all.abs() { value } else { all })
}

/// Codes with zero in the middle: the value of the largest magnitude is the lowest code.
fn centered(block: &mut [f32], half: f32, out: &mut Vec<u8>) {
    let (scale, factor) = scale_of(largest(block) / -half);
    let scale = push_half(scale, out);
    let codes: Vec<u8> = block
        .iter()
        .map(|value| ((*value * factor + (half + 0.5)) as i32).clamp(0, 2 * half as i32 - 1) as u8)
        .collect();
    for (value, code) in block.iter_mut().zip(&codes) {
        *value = (f32::from(*code) - half) * scale;
    }
    push_codes(&codes, half > 8.0, out);
}

/// Codes from the least value up.
fn from_least(block: &mut [f32], steps: f32, out: &mut Vec<u8>) {
    let most = block.iter().fold(f32::NEG_INFINITY, |all, value| all.max(*value));
    let least = block.iter().fold(f32::INFINITY, |all, value| all.min(*value));
    let (scale, factor) = scale_of((most - least) / steps);
    let (scale, offset) = (push_half(scale, out), push_half(least, out));
    let codes: Vec<u8> = block
        .iter()
        .map(|value| (((*value - least) * factor + 0.5) as i32).clamp(0, steps as i32) as u8)
        .collect();
    for (value, code) in block.iter_mut().zip(&codes) {
        *value = f32::from(*code) * scale + offset;
    }
    push_codes(&codes, steps > 15.0, out);
}

/// Codes of a block of 32: fifth bits if there are some, then the others, one half of the block in the low
/// nibbles and the other in the high ones.
fn push_codes(codes: &[u8], has_fifth: bool, out: &mut Vec<u8>) {
    if has_fifth {
        let bits = codes.iter().rev().fold(0_u32, |all, code| all << 1 | u32::from(code >> 4));
        out.extend(bits.to_le_bytes());
    }
    let (low, high) = codes.split_at(codes.len() / 2);
    out.extend(low.iter().zip(high).map(|(low, high)| low & 15 | (high & 15) << 4));
}

/// E2M1 with a power of two, one half of the block in the low nibbles and the other in the high ones.
fn mxfp4(block: &mut [f32], out: &mut Vec<u8>) {
    /// The numbers of the codes, twice as large.
    const DOUBLED: [f32; 16] =
        [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];
    let magnitude = largest(block).abs();
    let exponent = (magnitude.to_bits() >> 23).saturating_sub(2) as u8;
    out.push(exponent);
    // Half of 2^(exponent - 127), also where that is no normal number.
    let half = if exponent == 0 { f32::from_bits(1 << 21) } else { power_of(exponent) * 0.5 };
    let nearest = |value: f32| {
        let mut best = (0_u8, f32::INFINITY);
        for (code, doubled) in (0..).zip(DOUBLED) {
            let apart = (half * doubled - value).abs();
            if apart < best.1 {
                best = (code, apart);
            }
        }
        best.0
    };
    let codes: Vec<u8> = block.iter().map(|value| nearest(*value)).collect();
    for (value, code) in block.iter_mut().zip(&codes) {
        *value = DOUBLED[usize::from(*code)] * half;
    }
    push_codes(&codes, false, out);
}
