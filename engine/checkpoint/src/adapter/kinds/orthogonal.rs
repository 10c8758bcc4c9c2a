//! Small orthogonal matrices from skew-symmetric ones, and rows that are turned by them block by block.

use crate::encoding::Reader;
use crate::source::ReadError;

/// Cayley's transform (I − S)(I + S)⁻¹ of a skew-symmetric matrix, in f64.
pub(super) fn cayley(skew: &[f64], size: usize) -> Vec<f64> {
    // X (I + S) = I − S, turned: (I − S) Xᵀ = I + S, since Sᵀ = −S.
    let identity = |at: usize| f64::from(u8::from(at / size == at % size));
    let mut left: Vec<f64> =
        skew.iter().enumerate().map(|(at, value)| identity(at) - value).collect();
    let mut right: Vec<f64> =
        skew.iter().enumerate().map(|(at, value)| identity(at) + value).collect();
    for pivot in 0..size {
        // I − S has a positive definite symmetric part, so that no pivot vanishes; the largest is the most exact.
        let largest = (pivot..size)
            .max_by(|&a, &b| {
                let of = |row: usize| left[row * size + pivot].abs();
                of(a).total_cmp(&of(b))
            })
            .unwrap_or(pivot);
        if largest != pivot {
            for column in 0..size {
                left.swap(pivot * size + column, largest * size + column);
                right.swap(pivot * size + column, largest * size + column);
            }
        }
        let divisor = left[pivot * size + pivot];
        for column in 0..size {
            left[pivot * size + column] /= divisor;
            right[pivot * size + column] /= divisor;
        }
        for row in (0..size).filter(|&row| row != pivot) {
            let factor = left[row * size + pivot];
            if factor == 0.0 {
                continue;
            }
            for column in 0..size {
                left[row * size + column] -= factor * left[pivot * size + column];
                right[row * size + column] -= factor * right[pivot * size + column];
            }
        }
    }
    transposed(&right, size)
}

pub(super) fn transposed(values: &[f64], size: usize) -> Vec<f64> {
    (0..size * size).map(|at| values[at % size * size + at / size]).collect()
}

pub(super) fn product(left: &[f64], right: &[f64], size: usize) -> Vec<f64> {
    let mut out = vec![0.0; size * size];
    for row in 0..size {
        for inner in 0..size {
            let factor = left[row * size + inner];
            for column in 0..size {
                out[row * size + column] += factor * right[inner * size + column];
            }
        }
    }
    out
}

/// Fills a part of a row of W · Bᵀ, where W is part 1, a stored matrix, and B has these blocks on its diagonal; of
/// one block all are it.
pub(super) fn turned_by_blocks(
    parts: &Reader<'_>,
    blocks: &[f32],
    [size, columns]: [u64; 2],
    [row, column]: [u64; 2],
    out: &mut [f32],
) -> Result<(), ReadError> {
    let size = size as usize;
    let is_shared = blocks.len() == size * size;
    let start = column as usize / size;
    let end = (column as usize + out.len()).div_ceil(size);
    let mut weights = vec![0.0; (end - start) * size];
    parts.floats(1, row * columns + (start * size) as u64, &mut weights)?;
    for (value, at) in out.iter_mut().zip(column as usize..) {
        let block = at / size;
        let place = if is_shared { 0 } else { block } * size * size;
        let turn = &blocks[place + at % size * size..][..size];
        let weights = &weights[(block - start) * size..][..size];
        *value = turn.iter().zip(weights).map(|(turn, weight)| turn * weight).sum();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cayley_of_two_dimensions_is_a_rotation() {
        // S = [0, t; −t, 0] gives [1 − t², −2t; 2t, 1 − t²] / (1 + t²).
        let t = 0.5;
        let found = cayley(&[0.0, t, -t, 0.0], 2);
        let expected = [0.6, -0.8, 0.8, 0.6];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }

    #[test]
    fn cayley_is_orthogonal() {
        let skew = [0.0, 0.3, -2.0, -0.3, 0.0, 0.7, 2.0, -0.7, 0.0];
        let found = cayley(&skew, 3);
        let square = product(&found, &transposed(&found, 3), 3);
        for (at, value) in square.iter().enumerate() {
            let expected = f64::from(u8::from(at / 3 == at % 3));
            assert!((value - expected).abs() < 1e-14, "{square:?}");
        }
    }
}
