//! What the codes of small number formats stand for.

use std::sync::LazyLock;

use mixdown_tensor::DType;
use mixdown_tensor::convert::{bf16_to_f32, f16_to_f32};

/// Stored floats as f32. Types that are no plain floats are refused before anything is read.
pub(super) fn widen(bytes: &[u8], dtype: DType, out: &mut [f32]) {
    let halves = || bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    match dtype {
        DType::F32 => {
            let singles = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four));
            out.iter_mut().zip(singles).for_each(|(out, value)| *out = value);
        }
        DType::F64 => {
            let doubles = bytes.as_chunks::<8>().0.iter().map(|eight| f64::from_le_bytes(*eight));
            out.iter_mut().zip(doubles).for_each(|(out, value)| *out = value as f32);
        }
        DType::F16 => out.iter_mut().zip(halves()).for_each(|(out, half)| *out = f16_to_f32(half)),
        DType::Bf16 => {
            out.iter_mut().zip(halves()).for_each(|(out, half)| *out = bf16_to_f32(half));
        }
        other => unreachable!("{other} is refused among the parts of a computed tensor"),
    }
}

/// What a code of up to eight bits stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Values {
    /// The whole number that is so much less than the code.
    Minus(u8),
    /// A whole number of so many bits, in two's complement.
    Signed(u32),
    /// The 8-bit float of 4 exponent bits: bias 7, no infinity, NaN where all bits but the sign are set.
    E4M3,
    /// The 8-bit float of 5 exponent bits: the upper half of an f16.
    E5M2,
    /// The 4-bit float of 2 exponent bits.
    E2M1,
    /// The same where the code of the negative zero stands for the positive one.
    E2M1OneZero,
    /// The 6-bit float of 2 exponent bits.
    E2M3,
}

impl Values {
    /// The numbers of these codes.
    pub(super) fn of(self, codes: &[u8], out: &mut [f32]) {
        let pairs = codes.iter().zip(out);
        match self {
            Self::Minus(offset) => {
                pairs
                    .for_each(|(&code, out)| *out = f32::from(i16::from(code) - i16::from(offset)));
            }
            Self::Signed(bits) => {
                let unused = 8 - bits;
                pairs.for_each(|(&code, out)| {
                    *out = f32::from((code << unused).cast_signed() >> unused);
                });
            }
            Self::E4M3 => from_table(pairs, &*E4M3),
            Self::E5M2 => from_table(pairs, &*E5M2),
            Self::E2M1 => from_table(pairs, &E2M1),
            Self::E2M1OneZero => from_table(pairs, &E2M1_ONE_ZERO),
            Self::E2M3 => from_table(pairs, &*E2M3),
        }
    }
}

fn from_table<'a>(pairs: impl Iterator<Item = (&'a u8, &'a mut f32)>, table: &[f32]) {
    pairs.for_each(|(&code, out)| *out = table[usize::from(code) & (table.len() - 1)]);
}

static E4M3: LazyLock<[f32; 256]> = LazyLock::new(|| {
    std::array::from_fn(|code| match code & 127 {
        127 => f32::NAN,
        _ => small_float(code as u32, [4, 3], 7),
    })
});

static E5M2: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| f16_to_f32((code as u16) << 8)));

static E2M3: LazyLock<[f32; 64]> =
    LazyLock::new(|| std::array::from_fn(|code| small_float(code as u32, [2, 3], 1)));

const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// As ggml has it.
const E2M1_ONE_ZERO: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// A float of a sign, so many exponent bits, so many mantissa bits, and this bias, all finite.
fn small_float(code: u32, [exponent_bits, mantissa_bits]: [u32; 2], bias: i32) -> f32 {
    let mantissa = (code & ((1 << mantissa_bits) - 1)) as f32 / (1 << mantissa_bits) as f32;
    let exponent = ((code >> mantissa_bits) & ((1 << exponent_bits) - 1)) as i32;
    let magnitude = match exponent {
        0 => mantissa * power_of_two(1 - bias),
        _ => (1.0 + mantissa) * power_of_two(exponent - bias),
    };
    match code >> (exponent_bits + mantissa_bits) & 1 {
        0 => magnitude,
        _ => -magnitude,
    }
}

/// 2 to an exponent from -149 on; below f32's normal numbers a subnormal one.
fn power_of_two(exponent: i32) -> f32 {
    match exponent {
        -126.. => f32::from_bits(((exponent + 127) as u32) << 23),
        _ => f32::from_bits(1 << (exponent + 149)),
    }
}

/// How a scale, a zero point or an offset is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    F32,
    F16,
    Bf16,
    E4M3,
    /// A power of two: 2^(byte - 127), 255 is NaN.
    E8M0,
    I8,
    U8,
}

impl Number {
    /// How scales of this element type are stored: bytes are exponents.
    pub(super) fn of_scale(dtype: DType) -> Option<Self> {
        Some(match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::Bf16 => Self::Bf16,
            DType::F8E4M3 => Self::E4M3,
            DType::F8E8M0 | DType::U8 => Self::E8M0,
            _ => return None,
        })
    }

    /// How zero points of this element type are stored.
    pub(super) fn of_zero(dtype: DType) -> Option<Self> {
        match dtype {
            DType::I8 => Some(Self::I8),
            DType::U8 => Some(Self::U8),
            DType::F8E8M0 => None,
            other => Self::of_scale(other),
        }
    }

    /// Bytes of one.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::E4M3 | Self::E8M0 | Self::I8 | Self::U8 => 1,
        }
    }

    /// The numbers of these bytes.
    pub(super) fn read(self, bytes: &[u8], out: &mut Vec<f32>) {
        let halves = || bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
        match self {
            Self::F32 => {
                out.extend(bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)));
            }
            Self::F16 => out.extend(halves().map(f16_to_f32)),
            Self::Bf16 => out.extend(halves().map(bf16_to_f32)),
            Self::E4M3 => out.extend(bytes.iter().map(|&byte| E4M3[usize::from(byte)])),
            Self::E8M0 => out.extend(bytes.iter().map(|&byte| match byte {
                255 => f32::NAN,
                _ => power_of_two(i32::from(byte) - 127),
            })),
            Self::I8 => out.extend(bytes.iter().map(|&byte| f32::from(byte.cast_signed()))),
            Self::U8 => out.extend(bytes.iter().map(|&byte| f32::from(byte))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(values: Values, code: u8) -> f32 {
        let mut out = [0.0];
        values.of(&[code], &mut out);
        out[0]
    }

    /// Values from the formats' definitions: largest, smallest, NaN, signs.
    #[test]
    fn codes_stand_for_what_their_formats_say() {
        assert_eq!(value(Values::E4M3, 0x7e), 448.0);
        assert_eq!(value(Values::E4M3, 0x01), 2f32.powi(-9));
        assert_eq!(value(Values::E4M3, 0x08), 2f32.powi(-6));
        assert_eq!(value(Values::E4M3, 0xb8), -1.0);
        assert!(value(Values::E4M3, 0xff).is_nan() && value(Values::E4M3, 0x7f).is_nan());
        assert_eq!(value(Values::E5M2, 0x7b), 57344.0);
        assert_eq!(value(Values::E5M2, 0xfc), f32::NEG_INFINITY);
        assert_eq!(value(Values::E2M1, 0xf), -6.0);
        assert_eq!(value(Values::E2M3, 0b011111), 7.5);
        assert_eq!(value(Values::E2M3, 0b100001), -0.125);
        assert_eq!(value(Values::Signed(4), 0x8), -8.0);
        assert_eq!(value(Values::Signed(8), 0xff), -1.0);
        assert_eq!(value(Values::Minus(8), 0), -8.0);
        assert_eq!(value(Values::Minus(128), 255), 127.0);
    }

    #[test]
    fn exponents_reach_subnormal_numbers() {
        let mut out = Vec::new();
        Number::E8M0.read(&[0, 1, 127, 254, 255], &mut out);
        assert_eq!(out[..4], [2f32.powi(-127), 2f32.powi(-126), 1.0, 2f32.powi(127)]);
        assert!(out[4].is_nan());
    }
}
