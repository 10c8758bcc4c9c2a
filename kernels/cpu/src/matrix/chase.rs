//! Reduction of a symmetric band to a tridiagonal matrix, `B = Q·T·Qᵀ`, one column after the other: what
//! a column's reflection pushes out of the band is chased along it to its end.

use faer::Mat;
use mixdown_ops::matrix::Matrix;

use super::band::WIDTH;
use super::reflectors::{self, Reflectors};
use crate::features::{Features, Kernel};

/// Numbers of a column of the band, from the diagonal on: the band, and what is pushed out of it.
const HEIGHT: usize = 2 * WIDTH;

/// Columns whose reflections are applied together.
///
/// More make products quicker and longer, by the zeros of reflections that begin a row below each other.
const TOGETHER: usize = 32;

/// Reduces the band in the lower triangle of a column-major matrix, and gives T's diagonal and what stands
/// beside it.
///
/// The reflections of sweep `s` are left above the diagonal, in column `n − 1 − s`: each has its τ in the
/// place of the 1 that it begins with.
pub(crate) fn reduce(features: Features, matrix: &mut Matrix) -> (Vec<f64>, Vec<f64>) {
    let n = matrix.rows;
    let mut band = vec![0.0; n * HEIGHT];
    for (column, values) in band.chunks_exact_mut(HEIGHT).enumerate() {
        let count = (WIDTH + 1).min(n - column);
        let start = column * n + column;
        values[..count].copy_from_slice(&matrix.values[start..start + count]);
    }
    features.run(Sweeps { band: &mut band, n, reflections: &mut matrix.values });
    let diagonal = band.chunks_exact(HEIGHT).map(|column| column[0]).collect();
    let beside = band.chunks_exact(HEIGHT).take(n.saturating_sub(1)).map(|column| column[1]);
    (diagonal, beside.collect())
}

/// The groups of reflections in the order in which Q is their product.
pub(crate) fn groups(n: usize) -> impl DoubleEndedIterator<Item = (usize, usize)> {
    let sweeps = n.saturating_sub(2);
    (0..sweeps.div_ceil(TOGETHER)).flat_map(move |group| {
        let first = group * TOGETHER;
        // A reflection further along the band comes before those of the next sweeps that touch it.
        (0..(n - 1 - first).div_ceil(WIDTH)).rev().map(move |step| (first, step))
    })
}

/// The reflections that `TOGETHER` sweeps from `first` on make in one step of their chase.
pub(crate) fn group(matrix: &Matrix, first: usize, step: usize) -> Reflectors {
    let n = matrix.rows;
    let start = first + 1 + step * WIDTH;
    let count = TOGETHER.min(n - 2 - first).min(n - start);
    let rows = (WIDTH + count - 1).min(n - start);
    let mut basis = Mat::<f64>::zeros(rows, count);
    let mut taus = vec![1.0; count];
    for (index, tau) in taus.iter_mut().enumerate() {
        let length = WIDTH.min(n - start - index);
        let at = (n - 1 - first - index) * n + step * WIDTH;
        let reflection = &matrix.values[at..at + length];
        // One that is none leaves a zero column, and any τ will do.
        if reflection[0].is_finite() {
            *tau = reflection[0];
            basis[(index, index)] = 1.0;
            (1..length).for_each(|row| basis[(index + row, index)] = reflection[row]);
        }
    }
    let factor = reflectors::factor(basis.as_ref(), &taus);
    Reflectors { first: start, basis, factor }
}

struct Sweeps<'a> {
    band: &'a mut [f64],
    n: usize,
    reflections: &'a mut [f64],
}

/// A reflection: its τ and v, zero behind its length.
#[derive(Clone, Copy)]
struct Reflection {
    tau: f64,
    v: [f64; WIDTH],
    length: usize,
}

impl Kernel for Sweeps<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { band, n, reflections } = self;
        for sweep in 0..n.saturating_sub(2) {
            let kept = &mut reflections[(n - 1 - sweep) * n..][..n - 1 - sweep];
            let length = WIDTH.min(n - 1 - sweep);
            let column = &mut band[sweep * HEIGHT + 1..][..length];
            let mut reflection = Reflection::of(column);
            let mut first = sweep + 1;
            loop {
                reflection.keep(&mut kept[first - sweep - 1..]);
                turn_diagonal(&mut band[first * HEIGHT..], &reflection);
                let below = first + reflection.length;
                if below == n {
                    break;
                }
                let height = WIDTH.min(n - below);
                let next = turn_below(&mut band[first * HEIGHT..], height, &reflection);
                (first, reflection) = (below, next);
            }
        }
    }
}

impl Reflection {
    /// Of a column, which becomes a multiple of the first unit vector.
    #[inline(always)]
    fn of(column: &mut [f64]) -> Self {
        let mut v = [0.0; WIDTH];
        let length = column.len();
        v[..length].copy_from_slice(column);
        let tau = reflectors::make(&mut v[..length]);
        column[0] = v[0];
        column[1..].fill(0.0);
        v[0] = 1.0;
        Self { tau, v, length }
    }

    #[inline(always)]
    fn keep(&self, into: &mut [f64]) {
        into[..self.length].copy_from_slice(&self.v[..self.length]);
        into[0] = self.tau;
    }
}

/// Both sides of the symmetric block that a reflection meets on the diagonal.
#[inline(always)]
fn turn_diagonal(columns: &mut [f64], reflection: &Reflection) {
    let &Reflection { tau, ref v, length } = reflection;
    if !tau.is_finite() {
        return;
    }
    let mut w = [0.0; WIDTH];
    for index in 0..length {
        let column = &columns[index * HEIGHT..][..length - index];
        let (into, others) = (&mut w[index..length], &v[index..length]);
        for (into, value) in into.iter_mut().zip(column) {
            *into += value * v[index];
        }
        into[0] += reflectors::dot(&column[1..], &others[1..]);
    }
    let scale = 1.0 / tau;
    let along = (0..length).fold(0.0, |sum, index| sum + w[index] * v[index]);
    let half = 0.5 * along * scale * scale;
    for index in 0..length {
        w[index] = w[index] * scale - half * v[index];
    }
    for index in 0..length {
        let column = &mut columns[index * HEIGHT..][..length - index];
        let (a, b) = (v[index], w[index]);
        let pairs = v[index..length].iter().zip(&w[index..length]);
        for (value, (v, w)) in column.iter_mut().zip(pairs) {
            *value -= a * w + b * v;
        }
    }
}

/// The block below: a reflection from the right, and from the left the one that makes its first column
/// short again, which is given.
#[inline(always)]
fn turn_below(columns: &mut [f64], height: usize, reflection: &Reflection) -> Reflection {
    let &Reflection { tau, ref v, length } = reflection;
    let scale = if tau.is_finite() { 1.0 / tau } else { 0.0 };
    // Column `c` of the block begins `length − c` numbers below its diagonal.
    let at = |column: usize| column * HEIGHT + length - column;
    let mut u = [0.0; WIDTH];
    for column in 0..length {
        let values = &columns[at(column)..][..height];
        for (u, value) in u[..height].iter_mut().zip(values) {
            *u += value * v[column];
        }
    }
    u.iter_mut().for_each(|value| *value *= scale);
    let first = &mut columns[at(0)..][..height];
    first.iter_mut().zip(&u).for_each(|(value, u)| *value -= u);
    let next = Reflection::of(first);
    let next_scale = if next.tau.is_finite() { 1.0 / next.tau } else { 0.0 };
    for column in 1..length {
        let values = &mut columns[at(column)..][..height];
        for (value, u) in values.iter_mut().zip(&u) {
            *value -= u * v[column];
        }
        let along = reflectors::dot(values, &next.v[..height]) * next_scale;
        for (value, w) in values.iter_mut().zip(&next.v) {
            *value -= along * w;
        }
    }
    next
}
