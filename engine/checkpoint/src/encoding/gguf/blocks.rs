//! The block types of GGUF, by the layouts of ggml.

use mixdown_tensor::convert::f16_to_f32;

use super::iq;
use crate::encoding::values::{Number, Values};

/// A type of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocks {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Tq1_0,
    Tq2_0,
    Mxfp4,
    Nvfp4,
    Iq1S,
    Iq1M,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
}

/// Number in files, type, name, elements of a block, and its bytes.
const TABLE: [(u32, Blocks, &str, u64, u64); 23] = [
    (2, Blocks::Q4_0, "Q4_0", 32, 18),
    (3, Blocks::Q4_1, "Q4_1", 32, 20),
    (6, Blocks::Q5_0, "Q5_0", 32, 22),
    (7, Blocks::Q5_1, "Q5_1", 32, 24),
    (8, Blocks::Q8_0, "Q8_0", 32, 34),
    (10, Blocks::Q2K, "Q2_K", 256, 84),
    (11, Blocks::Q3K, "Q3_K", 256, 110),
    (12, Blocks::Q4K, "Q4_K", 256, 144),
    (13, Blocks::Q5K, "Q5_K", 256, 176),
    (14, Blocks::Q6K, "Q6_K", 256, 210),
    (16, Blocks::Iq2Xxs, "IQ2_XXS", 256, 66),
    (17, Blocks::Iq2Xs, "IQ2_XS", 256, 74),
    (18, Blocks::Iq3Xxs, "IQ3_XXS", 256, 98),
    (19, Blocks::Iq1S, "IQ1_S", 256, 50),
    (20, Blocks::Iq4Nl, "IQ4_NL", 32, 18),
    (21, Blocks::Iq3S, "IQ3_S", 256, 110),
    (22, Blocks::Iq2S, "IQ2_S", 256, 82),
    (23, Blocks::Iq4Xs, "IQ4_XS", 256, 136),
    (29, Blocks::Iq1M, "IQ1_M", 256, 56),
    (34, Blocks::Tq1_0, "TQ1_0", 256, 54),
    (35, Blocks::Tq2_0, "TQ2_0", 256, 66),
    (39, Blocks::Mxfp4, "MXFP4", 32, 17),
    (40, Blocks::Nvfp4, "NVFP4", 64, 36),
];

/// Types that ggml has and that files should not: they hold what is computed on the way.
const UNREAD: [(u32, &str); 3] = [(9, "Q8_1"), (15, "Q8_K"), (41, "Q1_0")];

/// The sixteen values of IQ4_NL and IQ4_XS.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl Blocks {
    /// Elements of the largest block.
    pub(crate) const MOST_ELEMENTS: usize = 256;

    /// The type of this number, or the name of one that is not decoded.
    pub(crate) fn of(kind: u32) -> Result<Self, String> {
        match TABLE.iter().find(|row| row.0 == kind) {
            Some(row) => Ok(row.1),
            None => Err(UNREAD
                .iter()
                .find(|(number, _)| *number == kind)
                .map_or_else(|| format!("type {kind}"), |(_, name)| (*name).to_owned())),
        }
    }

    fn row(self) -> &'static (u32, Self, &'static str, u64, u64) {
        TABLE.iter().find(|row| row.1 == self).expect("the table has every type")
    }

    pub(crate) fn name(self) -> &'static str {
        self.row().2
    }

    /// Elements and bytes of a block.
    pub(crate) fn size(self) -> (u64, u64) {
        let row = self.row();
        (row.3, row.4)
    }

    /// The values of a block.
    pub(crate) fn decode(self, b: &[u8], out: &mut [f32]) {
        match self {
            Self::Q4_0 => {
                let d = half(b, 0);
                nibbles(&b[2..], out, |q| d * (f32::from(q) - 8.0));
            }
            Self::Q4_1 => {
                let (d, m) = (half(b, 0), half(b, 2));
                nibbles(&b[4..], out, |q| d * f32::from(q) + m);
            }
            Self::Q5_0 => {
                let d = half(b, 0);
                fives(&b[2..6], &b[6..], out, |q| d * (f32::from(q) - 16.0));
            }
            Self::Q5_1 => {
                let (d, m) = (half(b, 0), half(b, 2));
                fives(&b[4..8], &b[8..], out, |q| d * f32::from(q) + m);
            }
            Self::Q8_0 => {
                let d = half(b, 0);
                b[2..].iter().zip(out).for_each(|(q, out)| *out = f32::from(q.cast_signed()) * d);
            }
            Self::Iq4Nl => {
                let d = half(b, 0);
                nibbles(&b[2..], out, |q| d * f32::from(IQ4[usize::from(q)]));
            }
            Self::Mxfp4 => {
                let d = half_exponent(b[0]);
                nibbles(&b[1..], out, |q| d * (2.0 * e2m1(q)));
            }
            Self::Nvfp4 => nvfp4(b, out),
            Self::Q2K => q2_k(b, out),
            Self::Q3K => q3_k(b, out),
            Self::Q4K | Self::Q5K => q4_or_5_k(b, out, self == Self::Q5K),
            Self::Q6K => q6_k(b, out),
            Self::Iq4Xs => iq4_xs(b, out),
            Self::Iq1S => iq::iq1_s(b, out),
            Self::Iq1M => iq::iq1_m(b, out),
            Self::Iq2Xxs => iq::iq2_xxs(b, out),
            Self::Iq2Xs => iq::iq2_xs(b, out),
            Self::Iq2S => iq::iq2_s(b, out),
            Self::Iq3Xxs => iq::iq3_xxs(b, out),
            Self::Iq3S => iq::iq3_s(b, out),
            Self::Tq1_0 => tq1_0(b, out),
            Self::Tq2_0 => {
                let d = half(b, 64);
                for (at, out) in out.iter_mut().enumerate() {
                    *out = d * (f32::from(two_bits(b, at)) - 1.0);
                }
            }
        }
    }
}

pub(super) fn half(b: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([b[at], b[at + 1]]))
}

/// What a formula makes of codes of 4 bits: the lower halves of all bytes come first, then the upper ones.
fn nibbles(bytes: &[u8], out: &mut [f32], of: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(bytes.len());
    bytes.iter().zip(low).for_each(|(byte, out)| *out = of(byte & 15));
    bytes.iter().zip(high).for_each(|(byte, out)| *out = of(byte >> 4));
}

/// The same with a fifth bit of each code, which stands in a mask of 32.
fn fives(mask: &[u8], bytes: &[u8], out: &mut [f32], of: impl Fn(u8) -> f32) {
    let mask = u32::from_le_bytes([mask[0], mask[1], mask[2], mask[3]]);
    let (low, high) = out.split_at_mut(16);
    for (at, (byte, (low, high))) in bytes.iter().zip(low.iter_mut().zip(high)).enumerate() {
        *low = of(byte & 15 | (mask >> at << 4) as u8 & 16);
        *high = of(byte >> 4 | (mask >> (at + 16) << 4) as u8 & 16);
    }
}

/// Those of a run of 16.
fn two_bits_of(bytes: &[u8], run: usize) -> impl Iterator<Item = u8> {
    let at = run * 16;
    let shift = at % 128 / 32 * 2;
    bytes[at / 128 * 32 + at % 32..][..16].iter().map(move |byte| byte >> shift & 3)
}

/// Codes of 2 bits in runs of 32 bytes, each run four times, from the lowest bits on.
fn two_bits(bytes: &[u8], at: usize) -> u8 {
    bytes[at / 128 * 32 + at % 32] >> (at % 128 / 32 * 2) & 3
}

fn e2m1(code: u8) -> f32 {
    let mut out = [0.0];
    Values::E2M1OneZero.of(&[code], &mut out);
    out[0]
}

/// 2^(byte - 128), half of what codes are multiplied by: ggml has no NaN among these, and the whole of the
/// largest one is beyond f32.
fn half_exponent(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(1 << 21),
        1 => f32::from_bits(1 << 22),
        _ => f32::from_bits(u32::from(byte - 1) << 23),
    }
}

/// Scales of 4 unsigned 8-bit floats, then four runs of 16 codes.
fn nvfp4(b: &[u8], out: &mut [f32]) {
    for (run, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = match b[run] {
            0 | 0x7f => 0.0,
            // The upper bit has no meaning, and behind it this is a number like others to ggml.
            0xff => 480.0,
            byte => {
                let mut scale = Vec::with_capacity(1);
                Number::E4M3.read(&[byte & 127], &mut scale);
                scale[0]
            }
        };
        nibbles(&b[4 + run * 8..12 + run * 8], out, |q| scale * e2m1(q));
    }
}

/// 16 pairs of scales and minima of 4 bits, 64 bytes of codes, and a scale of each.
fn q2_k(b: &[u8], out: &mut [f32]) {
    let (d, dm) = (half(b, 80), half(b, 82));
    for (part, out) in out.chunks_exact_mut(16).enumerate() {
        let pair = b[part];
        let (scale, least) = (d * f32::from(pair & 15), dm * f32::from(pair >> 4));
        for (out, code) in out.iter_mut().zip(two_bits_of(&b[16..80], part)) {
            *out = scale * f32::from(code) - least;
        }
    }
}

/// A mask of upper bits, codes of 2 bits, 16 scales of 6 bits, and a scale of them.
fn q3_k(b: &[u8], out: &mut [f32]) {
    let d = half(b, 108);
    let s = &b[96..108];
    for (j, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = (s[j % 8] >> (4 * (j / 8)) & 15) | (s[8 + j % 4] >> (2 * (j / 4)) & 3) << 4;
        let scale = d * (f32::from(scale) - 32.0);
        let highs = b[j % 2 * 16..][..16].iter().map(|byte| byte >> (j / 2) & 1);
        for ((out, low), high) in out.iter_mut().zip(two_bits_of(&b[32..96], j)).zip(highs) {
            *out = scale * f32::from(i16::from(low) - 4 * (1 - i16::from(high)));
        }
    }
}

/// Eight scales and minima of 6 bits in 12 bytes.
fn scale_and_least(s: &[u8], j: usize) -> (u8, u8) {
    match j {
        0..4 => (s[j] & 63, s[j + 4] & 63),
        _ => ((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4),
    }
}

/// Two scales, eight pairs of scale and minimum, a mask of fifth bits where there are five, and codes.
fn q4_or_5_k(b: &[u8], out: &mut [f32], has_fifth: bool) {
    let (d, dm) = (half(b, 0), half(b, 2));
    let codes = if has_fifth { &b[48..176] } else { &b[16..144] };
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = scale_and_least(&b[4..16], j);
        let (scale, least) = (d * f32::from(scale), dm * f32::from(least));
        let codes = codes[j / 2 * 32..][..32].iter().map(|byte| byte >> (j % 2 * 4) & 15);
        if has_fifth {
            for ((out, low), fifths) in out.iter_mut().zip(codes).zip(&b[16..48]) {
                *out = scale * f32::from(low | (fifths >> j & 1) << 4) - least;
            }
        } else {
            out.iter_mut().zip(codes).for_each(|(out, low)| *out = scale * f32::from(low) - least);
        }
    }
}

/// Codes of 6 bits: 4 in one place, 2 in another; 16 signed scales, and a scale of them.
fn q6_k(b: &[u8], out: &mut [f32]) {
    let d = half(b, 208);
    for (part, out) in out.chunks_exact_mut(16).enumerate() {
        let at = part * 16;
        let low = b[at / 128 * 64 + at % 64..][..16].iter();
        let low = low.map(|byte| byte >> (at % 128 / 64 * 4) & 15);
        let high = b[128 + at / 128 * 32 + at % 32..][..16].iter();
        let high = high.map(|byte| byte >> (at % 128 / 32 * 2) & 3);
        let scale = d * f32::from(b[192 + part].cast_signed());
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            *out = scale * (f32::from(low | high << 4) - 32.0);
        }
    }
}

/// A scale, the upper bits of eight scales, their lower ones, and codes into a table.
fn iq4_xs(b: &[u8], out: &mut [f32]) {
    let d = half(b, 0);
    let high = u16::from_le_bytes([b[2], b[3]]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let scale = u16::from(b[4 + j / 2] >> (4 * (j % 2)) & 15) | (high >> (2 * j) & 3) << 4;
        let scale = d * (f32::from(scale) - 32.0);
        nibbles(&b[8 + j * 16..24 + j * 16], out, |q| scale * f32::from(IQ4[usize::from(q)]));
    }
}

/// Digits of base three, five or four in a byte, as fractions of 256.
fn tq1_0(b: &[u8], out: &mut [f32]) {
    let d = half(b, 52);
    let digit = |byte: u8, power: u8| {
        let fraction = byte.wrapping_mul(power);
        d * (f32::from(((u16::from(fraction) * 3) >> 8) as u8) - 1.0)
    };
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let runs = [(&b[..32], 5), (&b[32..48], 5), (&b[48..52], 4)];
    let all = runs.into_iter().flat_map(|(bytes, digits)| {
        POWERS[..digits].iter().flat_map(move |&power| bytes.iter().map(move |&byte| (byte, power)))
    });
    for (out, (byte, power)) in out.iter_mut().zip(all) {
        *out = digit(byte, power);
    }
}
