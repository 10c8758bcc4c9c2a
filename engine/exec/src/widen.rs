//! Loops over stored floats outside of block programs: widening rows, means, and looking for NaN and
//! infinity.

use mixdown_tensor::DType;
use mixdown_tensor::convert::{bf16_to_f32, f16_to_f32};

/// Elements that [`first_nonfinite`] looks at before it asks whether one was found.
const STRETCH: usize = 4096;

/// Copies floats from one type to an equal or wider one, f32 or f64; f64 to f32 rounds.
pub(crate) fn copy(from: &[u8], stored: DType, to: &mut [u8], dtype: DType) {
    if stored == dtype {
        to.copy_from_slice(from);
    } else if dtype == DType::F32 {
        each(from, stored, to.as_chunks_mut().0, |to: &mut [u8; 4], value| {
            *to = (value as f32).to_le_bytes();
        });
    } else {
        each(from, stored, to.as_chunks_mut().0, |to: &mut [u8; 8], value| {
            *to = value.to_le_bytes();
        });
    }
}

/// Adds floats to sums in f64.
pub(crate) fn add(from: &[u8], stored: DType, sums: &mut [u8]) {
    each(from, stored, sums.as_chunks_mut().0, |sum: &mut [u8; 8], value| {
        *sum = (f64::from_le_bytes(*sum) + value).to_le_bytes();
    });
}

/// Writes sums in f64, divided, as f32 or f64.
pub(crate) fn divide(sums: &[u8], by: f64, dtype: DType, out: &mut [u8]) {
    let sums = sums.as_chunks().0.iter().map(|&sum| f64::from_le_bytes(sum) / by);
    store_each(sums, dtype, out);
}

/// Stored floats as f64.
pub(crate) fn to_f64(from: &[u8], stored: DType) -> Vec<f64> {
    let mut values = vec![0.0; from.len() / stored.bytes()];
    to_f64_into(from, stored, &mut values);
    values
}

/// Widens stored floats to as many numbers.
pub(crate) fn to_f64_into(from: &[u8], stored: DType, values: &mut [f64]) {
    each(from, stored, values, |to, value| *to = value);
}

/// Widens stored floats to as many numbers of f32; f64 is rounded.
pub(crate) fn to_f32(from: &[u8], stored: DType, values: &mut [f32]) {
    match stored {
        // Without f64 in between, loops are twice as wide.
        DType::F32 => pairs(from, values, |to, bytes| *to = f32::from_le_bytes(bytes)),
        DType::F16 => pairs(from, values, |to, bytes| *to = f16_to_f32(u16::from_le_bytes(bytes))),
        DType::Bf16 => {
            pairs(from, values, |to, bytes| *to = bf16_to_f32(u16::from_le_bytes(bytes)))
        }
        other => each(from, other, values, |to, value| *to = value as f32),
    }
}

/// Writes f64 as f32 or f64.
pub(crate) fn store(values: &[f64], dtype: DType, out: &mut [u8]) {
    store_each(values.iter().copied(), dtype, out);
}

fn store_each(values: impl Iterator<Item = f64>, dtype: DType, out: &mut [u8]) {
    match dtype {
        DType::F32 => {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = (value as f32).to_le_bytes();
            }
        }
        _ => {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = value.to_le_bytes();
            }
        }
    }
}

fn each<T>(from: &[u8], stored: DType, to: &mut [T], mut visit: impl FnMut(&mut T, f64)) {
    match stored {
        DType::F64 => pairs(from, to, |to, bytes| visit(to, f64::from_le_bytes(bytes))),
        DType::F32 => pairs(from, to, |to, bytes| visit(to, f32::from_le_bytes(bytes).into())),
        DType::F16 => {
            pairs(from, to, |to, bytes| visit(to, f16_to_f32(u16::from_le_bytes(bytes)).into()));
        }
        DType::Bf16 => {
            pairs(from, to, |to, bytes| visit(to, bf16_to_f32(u16::from_le_bytes(bytes)).into()));
        }
        other => unreachable!("the run refuses {other} in arithmetic before it starts"),
    }
}

fn pairs<const N: usize, T>(from: &[u8], to: &mut [T], mut visit: impl FnMut(&mut T, [u8; N])) {
    for (&bytes, to) in from.as_chunks().0.iter().zip(to) {
        visit(to, bytes);
    }
}

/// Position of the first NaN or infinity. Types that are no floats have none.
pub(crate) fn first_nonfinite(bytes: &[u8], dtype: DType) -> Option<u64> {
    let at = look(bytes, dtype, First)?;
    // A complex number is looked at as two floats.
    Some(if dtype == DType::C64 { at / 2 } else { at })
}

/// How many floats are NaN or infinite.
pub(crate) fn count_nonfinite(bytes: &[u8], dtype: DType) -> u64 {
    look(bytes, dtype, Count).unwrap_or(0)
}

/// What is asked about the elements that are NaN or infinite.
trait Look {
    fn look<const N: usize>(
        self,
        elements: &[[u8; N]],
        special: impl Fn([u8; N]) -> bool,
    ) -> Option<u64>;
}

struct First;

struct Count;

impl Look for First {
    /// A vectorizable look at each stretch, and a closer one where something was seen.
    fn look<const N: usize>(
        self,
        elements: &[[u8; N]],
        special: impl Fn([u8; N]) -> bool,
    ) -> Option<u64> {
        for (number, stretch) in elements.chunks(STRETCH).enumerate() {
            if stretch.iter().fold(false, |any, &element| any | special(element)) {
                let at = stretch.iter().position(|&element| special(element))?;
                return Some((number * STRETCH + at) as u64);
            }
        }
        None
    }
}

impl Look for Count {
    fn look<const N: usize>(
        self,
        elements: &[[u8; N]],
        special: impl Fn([u8; N]) -> bool,
    ) -> Option<u64> {
        let mut count = 0;
        for stretch in elements.chunks(STRETCH) {
            // 16 bits are enough for a stretch, and fill a vector with as many counters as elements.
            let here =
                stretch.iter().fold(0_u16, |sum, &element| sum + u16::from(special(element)));
            count += u64::from(here);
        }
        Some(count)
    }
}

fn look(bytes: &[u8], dtype: DType, look: impl Look) -> Option<u64> {
    let single = |bytes| u32::from_le_bytes(bytes) & 0x7f80_0000 == 0x7f80_0000;
    let double = |bytes| u64::from_le_bytes(bytes) & 0x7ff0_0000_0000_0000 == 0x7ff0_0000_0000_0000;
    match dtype {
        DType::F64 => look.look(bytes.as_chunks().0, double),
        DType::F32 | DType::C64 => look.look(bytes.as_chunks().0, single),
        DType::F16 => {
            look.look(bytes.as_chunks().0, |bytes| u16::from_le_bytes(bytes) & 0x7c00 == 0x7c00)
        }
        DType::Bf16 => {
            look.look(bytes.as_chunks().0, |bytes| u16::from_le_bytes(bytes) & 0x7f80 == 0x7f80)
        }
        // e4m3 has one NaN and no infinity, e5m2 is the upper half of an f16, e8m0 has one NaN.
        DType::F8E4M3 => look.look(bytes.as_chunks().0, |[byte]| byte & 0x7f == 0x7f),
        DType::F8E5M2 => look.look(bytes.as_chunks().0, |[byte]| byte & 0x7c == 0x7c),
        DType::F8E8M0 => look.look(bytes.as_chunks().0, |[byte]| byte == 0xff),
        DType::I64
        | DType::I32
        | DType::I16
        | DType::I8
        | DType::U64
        | DType::U32
        | DType::U16
        | DType::U8
        | DType::Bool => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_special_of_each_type() {
        let check = |dtype: DType, usual: &[u8], special: &[&[u8]]| {
            for at in [0, 1, STRETCH - 1, STRETCH, 3 * STRETCH + 5] {
                for special in special {
                    let mut bytes = usual.repeat(3 * STRETCH + 9);
                    assert_eq!(first_nonfinite(&bytes, dtype), None);
                    let width = dtype.bytes();
                    bytes[at * width..(at + 1) * width].copy_from_slice(special);
                    assert_eq!(first_nonfinite(&bytes, dtype), Some(at as u64), "{dtype}");
                    assert_eq!(count_nonfinite(&bytes, dtype), 1);
                }
            }
        };
        let f32s = [f32::NAN, f32::INFINITY, -f32::NAN].map(f32::to_le_bytes);
        check(DType::F32, &f32::MAX.to_le_bytes(), &[&f32s[0], &f32s[1], &f32s[2]]);
        let f64s = [f64::NAN, f64::NEG_INFINITY].map(f64::to_le_bytes);
        check(DType::F64, &f64::MAX.to_le_bytes(), &[&f64s[0], &f64s[1]]);
        check(DType::Bf16, &[0x7f, 0xff], &[&[0x80, 0x7f], &[0x80, 0xff], &[0x81, 0xff]]);
        check(DType::F16, &[0xff, 0xfb], &[&[0x00, 0x7c], &[0x01, 0xfc]]);
        check(DType::F8E4M3, &[0x7e], &[&[0x7f], &[0xff]]);
        check(DType::F8E5M2, &[0x7b], &[&[0x7c], &[0xff]]);
        check(DType::F8E8M0, &[0x7f], &[&[0xff]]);
        assert_eq!(first_nonfinite(&[0xff; 64], DType::I64), None);
        assert_eq!(first_nonfinite(&[0xff; 64], DType::Bool), None);
    }

    #[test]
    fn widens_and_averages() {
        let bf16: Vec<u8> =
            [0x3f80_u16, 0xc040].iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let mut out = [0; 8];
        copy(&bf16, DType::Bf16, &mut out, DType::F32);
        assert_eq!(out[..4], 1.0_f32.to_le_bytes());
        assert_eq!(out[4..], (-3.0_f32).to_le_bytes());
        let mut sums = [0; 16];
        add(&bf16, DType::Bf16, &mut sums);
        add(&out, DType::F32, &mut sums);
        let mut wide = [0; 16];
        divide(&sums, 4.0, DType::F64, &mut wide);
        assert_eq!(wide[..8], 0.5_f64.to_le_bytes());
        assert_eq!(wide[8..], (-1.5_f64).to_le_bytes());
    }
}
