//! GGUF's blocks of 256, whose parts have scales of 6 or 8 bits over one for the block.
//!
//! Scales are found by trying some, fitting each to the codes that it gives, and keeping what has the least
//! squared error; ggml's own quantizers do so for errors weighed by magnitude.

use super::gguf::push_half;
use super::round::nearest;

/// Elements of a block.
const BLOCK: usize = 256;

/// Q4_K and Q5_K: eight parts of 32, each with a scale and a minimum of 6 bits.
pub(super) fn with_minimum(block: &mut [f32], has_fifth: bool, out: &mut Vec<u8>) {
    const PARTS: usize = 8;
    let most = if has_fifth { 31.0 } else { 15.0 };
    let mut fits = [(0.0_f32, 0.0_f32); PARTS];
    for (part, fit) in block.as_chunks::<{ BLOCK / PARTS }>().0.iter().zip(&mut fits) {
        *fit = fit_with_minimum(part, most);
    }
    let largest = |of: fn(&(f32, f32)) -> f32| fits.iter().map(of).fold(0.0_f32, f32::max);
    let scale = push_half(largest(|fit| fit.0) / 63.0, out);
    let minimum = push_half(largest(|fit| fit.1) / 63.0, out);
    let six_bits = |value: f32, unit: f32| -> u8 {
        if unit > 0.0 { (value / unit).round_ties_even().clamp(0.0, 63.0) as u8 } else { 0 }
    };
    let scales = fits.map(|fit| six_bits(fit.0, scale));
    let minima = fits.map(|fit| six_bits(fit.1, minimum));
    // Four parts have their six bits in a byte each; of the others the low four bits are in bytes of their
    // own, and the high two above those of the first.
    let packed: [u8; 12] = std::array::from_fn(|at| match at {
        0..4 => scales[at] | scales[at + 4] >> 4 << 6,
        4..8 => minima[at - 4] | minima[at] >> 4 << 6,
        _ => scales[at - 4] & 15 | (minima[at - 4] & 15) << 4,
    });
    out.extend(packed);
    let mut codes = [0_u8; BLOCK];
    for (number, (part, codes)) in
        block.chunks_mut(BLOCK / PARTS).zip(codes.chunks_mut(BLOCK / PARTS)).enumerate()
    {
        let (step, offset) =
            (scale * f32::from(scales[number]), minimum * f32::from(minima[number]));
        for (value, code) in part.iter_mut().zip(codes) {
            let whole =
                if step > 0.0 { nearest(((*value + offset) / step).clamp(0.0, most)) } else { 0.0 };
            *code = whole as u8;
            *value = whole * step - offset;
        }
    }
    if has_fifth {
        // Bit p of byte i is the fifth of element i of part p.
        out.extend(
            (0..32)
                .map(|at| (0..PARTS).fold(0, |all, part| all | codes[part * 32 + at] >> 4 << part)),
        );
    }
    for pair in codes.chunks(64) {
        let (low, high) = pair.split_at(32);
        out.extend(low.iter().zip(high).map(|(low, high)| low & 15 | (high & 15) << 4));
    }
}

/// Scale and minimum of a part: values are about `scale * code - minimum`, neither below zero.
fn fit_with_minimum(part: &[f32; 32], most: f32) -> (f32, f32) {
    const TRIES: i32 = 16;
    let least = part.iter().fold(0.0_f32, |all, value| all.min(*value));
    let largest = part.iter().fold(f32::NEG_INFINITY, |all, value| all.max(*value));
    if largest <= least {
        return (0.0, -least);
    }
    let error = |scale: f32, minimum: f32| -> f32 {
        let factor = 1.0 / scale;
        let apart = |value: &f32| {
            let whole = nearest(((value + minimum) * factor).clamp(0.0, most));
            let apart = scale * whole - minimum - value;
            apart * apart
        };
        lanes(part, apart)
    };
    let mut best = ((largest - least) / most, -least);
    let mut best_error = error(best.0, best.1);
    let all = lanes(part, |value| *value);
    let count = part.len() as f32;
    for number in 0..=TRIES {
        // Ranges that are a little narrower or wider than the values'.
        let factor = (most + 0.1 * number as f32 - 0.9) / (largest - least);
        let codes = codes_of(part, |value| nearest(((value - least) * factor).clamp(0.0, most)));
        let sum = lanes(&codes, |code| *code);
        let squares = lanes(&codes, |code| code * code);
        let products = pairs(&codes, part);
        // The line through codes and values with the least squared error.
        let spread = count * squares - sum * sum;
        if spread <= 0.0 {
            continue;
        }
        let mut scale = (count * products - sum * all) / spread;
        let mut minimum = -(squares * all - sum * products) / spread;
        if minimum < 0.0 {
            minimum = 0.0;
            scale = products / squares;
        }
        if scale > 0.0 {
            let found = error(scale, minimum);
            if found < best_error {
                best_error = found;
                best = (scale, minimum);
            }
        }
    }
    best
}

/// Q6_K: sixteen parts of 16, each with a scale of 8 bits, codes with zero in the middle.
pub(super) fn q6(block: &mut [f32], out: &mut Vec<u8>) {
    const PART: usize = 16;
    let mut fits = [0.0_f32; BLOCK / PART];
    for (part, fit) in block.as_chunks::<PART>().0.iter().zip(&mut fits) {
        *fit = fit_centered(part);
    }
    let largest =
        fits.iter().fold(0.0_f32, |all, &fit| if fit.abs() > all.abs() { fit } else { all });
    let mut tail = Vec::with_capacity(2);
    // The largest scale is the code -128, which has one step more than 127.
    let unit = push_half(largest / -128.0, &mut tail);
    let scales = fits.map(|fit| {
        if unit == 0.0 { 0 } else { (fit / unit).round_ties_even().clamp(-128.0, 127.0) as i8 }
    });
    let mut codes = [0_u8; BLOCK];
    for (number, (part, codes)) in block.chunks_mut(PART).zip(codes.chunks_mut(PART)).enumerate() {
        let step = unit * f32::from(scales[number]);
        for (value, code) in part.iter_mut().zip(codes) {
            let whole = match step == 0.0 {
                true => 0.0,
                false => nearest((*value / step).clamp(-32.0, 31.0)),
            };
            *code = (whole as i32 + 32) as u8;
            *value = whole * step;
        }
    }
    // In each half of the block, element i of 128: low four bits of i and i + 64 in one byte, high two bits
    // of i, i + 32, i + 64 and i + 96 in another.
    for half in codes.chunks(128) {
        out.extend((0..64).map(|at| half[at] & 15 | (half[at + 64] & 15) << 4));
    }
    for half in codes.chunks(128) {
        out.extend((0..32).map(|at| {
            (0..4).fold(0, |all, quarter| all | half[at + 32 * quarter] >> 4 << (2 * quarter))
        }));
    }
    out.extend(scales.map(i8::cast_unsigned));
    out.extend(tail);
}

/// The scale of a part whose codes go from -32 to 31.
fn fit_centered(part: &[f32; 16]) -> f32 {
    let largest = super::gguf::largest(part);
    if largest == 0.0 {
        return 0.0;
    }
    let error = |scale: f32| {
        let factor = 1.0 / scale;
        lanes(part, |value| {
            let apart = nearest((value * factor).clamp(-32.0, 31.0)) * scale - value;
            apart * apart
        })
    };
    let mut best = largest / -32.0;
    let mut best_error = error(best);
    for number in -9..=9 {
        let factor = -(32.0 + 0.1 * number as f32) / largest;
        let codes = codes_of(part, |value| nearest((value * factor).clamp(-32.0, 31.0)));
        let squares = lanes(&codes, |code| code * code);
        let scale = pairs(&codes, part) / squares;
        if scale != 0.0 && scale.is_finite() {
            let found = error(scale);
            if found < best_error {
                best_error = found;
                best = scale;
            }
        }
    }
    best
}

/// The codes of a part, as numbers.
#[inline(always)]
fn codes_of<const N: usize>(part: &[f32; N], code: impl Fn(f32) -> f32) -> [f32; N] {
    part.map(code)
}

/// Σ code · value, in the lanes of [`lanes`].
#[inline(always)]
fn pairs<const N: usize>(codes: &[f32; N], part: &[f32; N]) -> f32 {
    let products: [f32; N] = std::array::from_fn(|at| codes[at] * part[at]);
    lanes(&products, |product| *product)
}

/// A sum over a part in eight lanes, which vectors have too, so that its bits depend on no instruction set.
#[inline(always)]
fn lanes<const N: usize>(part: &[f32; N], term: impl Fn(&f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (eights, rest) = part.as_chunks::<8>();
    debug_assert!(rest.is_empty());
    for eight in eights {
        for (sum, value) in sums.iter_mut().zip(eight) {
            *sum += term(value);
        }
    }
    let four: [f32; 4] = std::array::from_fn(|lane| sums[lane] + sums[lane + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}
