//! Multiplying out matrices that are held as two factors, where they are read.
//!
//! Each element is a sum in order of the directions, every operation rounded by itself, so that it
//! depends neither on the stretch that it is read in nor on the instruction set.

use std::ops::Range;

use mixdown_ops::{LowRank, Sides};

use crate::features::{Features, Kernel};
use crate::storage::{F32, F64, Narrow, Storage};

/// Rows that are summed together: each number of the right factor is loaded once for all of them.
const ROWS: usize = 4;

/// Strips that are packed together, so that packing reads a few lines of a cache in a row.
const STRIPS: usize = 8;

/// Columns of a strip: the numbers of one cache line, in each precision.
const SINGLES: usize = 16;
const DOUBLES: usize = 8;

/// Some strips of columns of the right factor. Within each the directions follow one another; in the
/// factor itself they lie far apart, often in the same lines of a cache.
#[derive(Debug, Default)]
pub(crate) struct Strips {
    single: Vec<[f32; SINGLES]>,
    double: Vec<[f64; DOUBLES]>,
}

/// Writes the elements from `first` on that fill `out`, little-endian, in the type of the factors.
pub(crate) fn multiply(
    features: Features,
    matrix: LowRank<'_>,
    first: u64,
    strips: &mut Strips,
    out: &mut [u8],
) {
    let LowRank { sides, rank, columns } = matrix;
    let first = first as usize;
    match sides {
        Sides::Single(left, right) => {
            let (strips, out) = (&mut strips.single, F32::numbers_mut(out));
            features.run(Multiply::<F32, f32, SINGLES> {
                left,
                right,
                rank,
                columns,
                first,
                strips,
                out,
            });
        }
        Sides::Double(left, right) => {
            let (strips, out) = (&mut strips.double, F64::numbers_mut(out));
            features.run(Multiply::<F64, f64, DOUBLES> {
                left,
                right,
                rank,
                columns,
                first,
                strips,
                out,
            });
        }
    }
}

struct Multiply<'a, S: Storage, R, const STRIP: usize> {
    left: &'a [R],
    right: &'a [R],
    rank: usize,
    columns: usize,
    first: usize,
    strips: &'a mut Vec<[R; STRIP]>,
    out: &'a mut [S::Bytes],
}

impl<S: Storage, R: Narrow, const STRIP: usize> Kernel for Multiply<'_, S, R, STRIP> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        for from in (0..self.columns).step_by(STRIPS * STRIP) {
            let to = (from + STRIPS * STRIP).min(self.columns);
            if self.rows(from, to).is_empty() {
                continue;
            }
            self.pack(from, to);
            for (number, from) in (from..to).step_by(STRIP).enumerate() {
                self.strip(number, from, (from + STRIP).min(to));
            }
        }
    }
}

impl<S: Storage, R: Narrow, const STRIP: usize> Multiply<'_, S, R, STRIP> {
    /// Rows that have elements to write between two columns. The first and the last row of the stretch
    /// may begin behind them or end before them.
    #[inline(always)]
    fn rows(&self, from: usize, to: usize) -> Range<usize> {
        let end = self.first + self.out.len();
        let top = (self.first + self.columns - to) / self.columns;
        let bottom = (end + self.columns - from - 1) / self.columns;
        top..bottom
    }

    /// Packs strips of columns.
    #[inline(always)]
    fn pack(&mut self, from: usize, to: usize) {
        self.strips.resize(STRIPS * self.rank, [R::ZERO; STRIP]);
        for (direction, values) in self.right.chunks_exact(self.columns).enumerate() {
            let (whole, rest) = values[from..to].as_chunks::<STRIP>();
            let lines = self.strips[direction..].iter_mut().step_by(self.rank);
            for (line, values) in lines.zip(whole) {
                *line = *values;
            }
            if !rest.is_empty() {
                // What is behind the last column is computed from what was there, and not written.
                self.strips[whole.len() * self.rank + direction][..rest.len()]
                    .copy_from_slice(rest);
            }
        }
    }

    /// Sums and writes the elements of one strip.
    #[inline(always)]
    fn strip(&mut self, number: usize, from: usize, to: usize) {
        let rows = self.rows(from, to);
        for row in rows.clone().step_by(ROWS) {
            let strip = &self.strips[number * self.rank..(number + 1) * self.rank];
            if row + 1 == rows.end {
                let sums = one(strip, self.factors(row));
                self.write(row, from, to, &sums);
            } else {
                // Rows beyond the last are the last once more, and not written.
                let factors =
                    std::array::from_fn(|index| self.factors((row + index).min(rows.end - 1)));
                let sums = four(strip, factors);
                for (row, sums) in (row..rows.end).zip(&sums) {
                    self.write(row, from, to, sums);
                }
            }
        }
    }

    /// A row of the left factor.
    #[inline(always)]
    fn factors(&self, row: usize) -> &[R] {
        &self.left[row * self.rank..(row + 1) * self.rank]
    }

    /// Writes those of a row's elements from one column to another that are asked for.
    #[inline(always)]
    fn write(&mut self, row: usize, from: usize, to: usize, sums: &[R; STRIP]) {
        let start = row * self.columns;
        let begin = (start + from).max(self.first);
        let end = (start + to).min(self.first + self.out.len());
        let out = &mut self.out[begin - self.first..end - self.first];
        if out.len() == STRIP
            && let Some(out) = out.first_chunk_mut::<STRIP>()
        {
            *out = sums.map(S::narrow);
            return;
        }
        for (to, &sum) in out.iter_mut().zip(&sums[begin - start - from..]) {
            *to = S::narrow(sum);
        }
    }
}

/// The strip's elements of one row.
#[inline(always)]
fn one<R: Narrow, const STRIP: usize>(strip: &[[R; STRIP]], factors: &[R]) -> [R; STRIP] {
    let sum = [R::ZERO; STRIP];
    strip.iter().zip(factors).fold(sum, |sum, (line, &factor)| add(sum, factor, line))
}

/// The strip's elements of four rows. Their sums have names, because the compiler leaves an array of them
/// in memory.
#[inline(always)]
fn four<R: Narrow, const STRIP: usize>(
    strip: &[[R; STRIP]],
    factors: [&[R]; ROWS],
) -> [[R; STRIP]; ROWS] {
    let [a, b, c, d] = factors.map(|factors| &factors[..strip.len()]);
    let [mut sum_a, mut sum_b, mut sum_c, mut sum_d] = [[R::ZERO; STRIP]; ROWS];
    for (index, line) in strip.iter().enumerate() {
        sum_a = add(sum_a, a[index], line);
        sum_b = add(sum_b, b[index], line);
        sum_c = add(sum_c, c[index], line);
        sum_d = add(sum_d, d[index], line);
    }
    [sum_a, sum_b, sum_c, sum_d]
}

#[inline(always)]
fn add<R: Narrow, const STRIP: usize>(sum: [R; STRIP], factor: R, line: &[R; STRIP]) -> [R; STRIP] {
    std::array::from_fn(|lane| sum[lane] + factor * line[lane])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, salt: usize) -> Vec<f64> {
        (0..count).map(|n| ((n * 37 + salt) % 101) as f64 / 64.0 - 0.7).collect()
    }

    /// Each element by itself.
    fn literal<R: Narrow>(left: &[R], right: &[R], rank: usize, columns: usize) -> Vec<R> {
        let rows = left.len() / rank;
        let element = |at: usize| {
            let (row, column) = (at / columns, at % columns);
            (0..rank)
                .fold(R::ZERO, |sum, k| sum + left[row * rank + k] * right[k * columns + column])
        };
        (0..rows * columns).map(element).collect()
    }

    #[test]
    fn a_product_is_the_same_from_wherever_it_is_read() {
        for (rows, rank, columns) in [(1, 1, 1), (5, 3, 150), (11, 7, 16), (9, 2, 5), (6, 40, 33)] {
            let (left, right) = (numbers(rows * rank, 1), numbers(rank * columns, 8));
            let singles = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
            let (left_single, right_single) = (singles(&left), singles(&right));
            let single =
                LowRank { sides: Sides::Single(&left_single, &right_single), rank, columns };
            let double = LowRank { sides: Sides::Double(&left, &right), rank, columns };
            let single_bytes: Vec<u8> = literal(&left_single, &right_single, rank, columns)
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            let double_bytes: Vec<u8> = literal(&left, &right, rank, columns)
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            let count = rows * columns;
            let mut strips = Strips::default();
            for features in Features::available() {
                for first in 0..count {
                    for length in [0, 1, 3, columns - 1, columns, 3 * columns + 1, count] {
                        let end = (first + length).min(count);
                        for (matrix, size, expected) in
                            [(single, 4, &single_bytes), (double, 8, &double_bytes)]
                        {
                            let mut out = vec![0xaa; (end - first) * size];
                            multiply(features, matrix, first as u64, &mut strips, &mut out);
                            let place = (rows, rank, columns, first, length, features.name());
                            assert_eq!(out, expected[first * size..end * size], "{place:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_product_of_no_directions_is_zero() {
        let matrix = LowRank { sides: Sides::Single(&[], &[]), rank: 0, columns: 20 };
        let mut out = [1; 4 * 30];
        multiply(Features::best(), matrix, 7, &mut Strips::default(), &mut out);
        assert_eq!(out, [0; 4 * 30]);
    }
}
