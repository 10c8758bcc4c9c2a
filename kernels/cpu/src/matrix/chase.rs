//! Reduction of a symmetric band to a tridiagonal matrix, `B = Q·T·Qᵀ`, one column after the other: what
//! a column's reflection pushes out of the band is chased along it to its end.

use std::array::from_fn;

use faer::Mat;
use mixdown_ops::matrix::Stop;

use super::band::WIDTH;
use super::lower::Lower;
use super::reflectors::{self, LANES, Reflectors};
use super::tridiagonal::Fetch;
use crate::features::{Features, Kernel};

/// Numbers of a column of the band, from the diagonal on: the band, and what is pushed out of it.
const HEIGHT: usize = 2 * WIDTH;

/// Columns whose reflections are applied together.
///
/// More make products quicker and longer, by the zeros of reflections that begin a row below each other.
const TOGETHER: usize = 32;

/// How many numbers the reflections of all sweeps are.
pub(crate) fn stored(n: usize) -> usize {
    sweep_at(n, n.saturating_sub(2))
}

/// Where the reflections of a sweep begin: sweep `s` has `n − 1 − s` numbers.
fn sweep_at(n: usize, sweep: usize) -> usize {
    sweep * n.saturating_sub(1) - sweep * sweep.saturating_sub(1) / 2
}

/// Reduces the band in a lower triangle, and gives T's diagonal and what stands beside it.
///
/// `keep` gets the reflections of the sweeps, in order: the place of some numbers among all, and the numbers.
/// Each reflection has its τ in the place of the 1 that it begins with.
pub(crate) fn reduce(
    features: Features,
    matrix: &Lower,
    mut keep: impl FnMut(usize, &[f64]) -> Result<(), Stop>,
) -> Result<(Vec<f64>, Vec<f64>), Stop> {
    let n = matrix.side();
    let mut band = vec![0.0; n * HEIGHT];
    for (column, values) in band.chunks_exact_mut(HEIGHT).enumerate() {
        let count = (WIDTH + 1).min(n - column);
        values[..count].copy_from_slice(&matrix.column(column, column)[..count]);
    }
    let sweeps = n.saturating_sub(2);
    let mut reflections = Vec::new();
    for first in (0..sweeps).step_by(ABREAST) {
        let count = ABREAST.min(sweeps - first);
        reflections.clear();
        reflections.resize(sweep_at(n, first + count) - sweep_at(n, first), 0.0);
        let kept = &mut reflections[..];
        features.run(Sweeps { band: &mut band, n, group: first, count, reflections: kept });
        keep(sweep_at(n, first), &reflections)?;
    }
    let diagonal = band.chunks_exact(HEIGHT).map(|column| column[0]).collect();
    let beside = band.chunks_exact(HEIGHT).take(n.saturating_sub(1)).map(|column| column[1]);
    Ok((diagonal, beside.collect()))
}

/// The first sweep of each group, in the order in which Q is their product.
pub(crate) fn groups(n: usize) -> impl DoubleEndedIterator<Item = usize> {
    (0..n.saturating_sub(2).div_ceil(TOGETHER)).map(|group| group * TOGETHER)
}

/// The reflections of a group of sweeps.
pub(crate) struct Group {
    n: usize,
    first: usize,
    numbers: Vec<f64>,
}

impl Group {
    /// Those of `TOGETHER` sweeps from one on.
    pub fn of(fetch: Fetch<'_>, n: usize, first: usize) -> Result<Self, Stop> {
        let end = (first + TOGETHER).min(n - 2);
        let at = sweep_at(n, first);
        let mut numbers = vec![0.0; sweep_at(n, end) - at];
        fetch(at, &mut numbers)?;
        Ok(Self { n, first, numbers })
    }

    /// The steps of the chase in the order in which Q is their product: a reflection further along the band comes
    /// before those of the next sweeps that touch it.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = usize> + use<> {
        (0..(self.n - 1 - self.first).div_ceil(WIDTH)).rev()
    }

    /// What the sweeps make in one step of their chase.
    pub fn step(&self, step: usize) -> Reflectors {
        let &Self { n, first, ref numbers } = self;
        let start = first + 1 + step * WIDTH;
        let count = TOGETHER.min(n - 2 - first).min(n - start);
        let rows = (WIDTH + count - 1).min(n - start);
        let mut basis = Mat::<f64>::zeros(rows, count);
        let mut taus = vec![1.0; count];
        for (index, tau) in taus.iter_mut().enumerate() {
            let length = WIDTH.min(n - start - index);
            let at = sweep_at(n, first + index) - sweep_at(n, first) + step * WIDTH;
            let reflection = &numbers[at..at + length];
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
}

/// Sweeps that go along together.
struct Sweeps<'a> {
    band: &'a mut [f64],
    n: usize,
    /// The first of them, and how many.
    group: usize,
    count: usize,
    /// Those of these sweeps.
    reflections: &'a mut [f64],
}

/// Sweeps that go along the band one behind the other, so that a part of it is brought to the cache once
/// for all of them.
const ABREAST: usize = 8;

/// Steps by which a sweep stays behind the one before: its reflection reaches a row further.
const BEHIND: usize = 2;

/// A reflection: its τ and v, zero behind its length.
#[derive(Clone, Copy)]
struct Reflection {
    tau: f64,
    v: [f64; WIDTH + LANES],
    length: usize,
}

/// The next step of a sweep: its reflection, and the row that this begins with.
#[derive(Clone, Copy)]
struct Step {
    first: usize,
    reflection: Reflection,
}

impl Kernel for Sweeps<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let mut next: [Option<Step>; ABREAST] = [None; ABREAST];
        for time in 0.. {
            let begun = (time / BEHIND + 1).min(self.count);
            for (index, next) in next.iter_mut().enumerate().take(begun) {
                let sweep = self.group + index;
                if time == index * BEHIND {
                    *next = Some(self.begin(sweep));
                }
                if let Some(step) = next {
                    *next = self.step(sweep, step);
                }
            }
            if begun == self.count && next.iter().all(Option::is_none) {
                break;
            }
        }
    }
}

impl Sweeps<'_> {
    /// Makes a column short.
    #[inline(always)]
    fn begin(&mut self, sweep: usize) -> Step {
        let length = WIDTH.min(self.n - 1 - sweep);
        let column = &mut self.band[sweep * HEIGHT + 1..][..length];
        Step { first: sweep + 1, reflection: Reflection::of(column) }
    }

    /// Turns what a reflection meets, and tells what comes after it.
    #[inline(always)]
    fn step(&mut self, sweep: usize, step: &Step) -> Option<Step> {
        let Step { first, reflection } = step;
        let at = sweep_at(self.n, sweep) - sweep_at(self.n, self.group);
        let kept = &mut self.reflections[at..at + self.n - 1 - sweep];
        reflection.keep(&mut kept[first - sweep - 1..]);
        let columns = &mut self.band[first * HEIGHT..];
        turn_diagonal(columns, reflection);
        let below = first + reflection.length;
        if below == self.n {
            return None;
        }
        let height = WIDTH.min(self.n - below);
        // Most blocks have this size, for which loops of a known length are compiled.
        let next = match height == WIDTH && reflection.length == WIDTH {
            true => turn_below(columns, WIDTH, WIDTH, reflection),
            false => turn_below(columns, reflection.length, height, reflection),
        };
        Some(Step { first: below, reflection: next })
    }
}

impl Reflection {
    /// Of a column, which becomes a multiple of the first unit vector.
    #[inline(always)]
    fn of(column: &mut [f64]) -> Self {
        let mut v = [0.0; WIDTH + LANES];
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
///
/// Columns are taken in whole lanes: what they reach below the block is multiplied by the zeros behind v.
#[inline(always)]
fn turn_diagonal(columns: &mut [f64], reflection: &Reflection) {
    let &Reflection { tau, ref v, length } = reflection;
    if !tau.is_finite() {
        return;
    }
    let mut w = [0.0; WIDTH + LANES];
    for index in 0..length {
        let count = (length - index).next_multiple_of(LANES);
        let (column, _) = columns[index * HEIGHT..][..count].as_chunks::<LANES>();
        let (others, _) = v[index..][..count].as_chunks::<LANES>();
        let (into, _) = w[index..][..count].as_chunks_mut::<LANES>();
        let mut sums = [0.0; LANES];
        for (chunk, ((values, others), into)) in
            column.iter().zip(others).zip(into.iter_mut()).enumerate()
        {
            *into = from_fn(|lane| into[lane] + values[lane] * v[index]);
            sums = from_fn(|lane| sums[lane] + values[lane] * others[lane]);
            // The number on the diagonal counts once.
            if chunk == 0 {
                sums[0] = 0.0;
            }
        }
        w[index] += reflectors::sum(sums);
    }
    w[length..].fill(0.0);
    let scale = 1.0 / tau;
    let along = reflectors::dot(&w, v);
    let half = 0.5 * along * scale * scale;
    for (w, v) in w.iter_mut().zip(v) {
        *w = *w * scale - half * v;
    }
    for index in 0..length {
        let count = (length - index).next_multiple_of(LANES);
        let (column, _) = columns[index * HEIGHT..][..count].as_chunks_mut::<LANES>();
        let (vs, _) = v[index..][..count].as_chunks::<LANES>();
        let (ws, _) = w[index..][..count].as_chunks::<LANES>();
        let (a, b) = (v[index], w[index]);
        for (values, (vs, ws)) in column.iter_mut().zip(vs.iter().zip(ws)) {
            *values = from_fn(|lane| values[lane] - (a * ws[lane] + b * vs[lane]));
        }
    }
}

/// The block of these sides below: a reflection from the right, and from the left the one that makes its
/// first column short again, which is given.
#[inline(always)]
fn turn_below(
    columns: &mut [f64],
    width: usize,
    height: usize,
    reflection: &Reflection,
) -> Reflection {
    let &Reflection { tau, ref v, .. } = reflection;
    let scale = if tau.is_finite() { 1.0 / tau } else { 0.0 };
    // Column `c` of the block begins `width − c` numbers below its diagonal.
    let at = |column: usize| column * HEIGHT + width - column;
    let mut u = [0.0; WIDTH];
    for column in 0..width {
        let (values, rest) = columns[at(column)..][..height].as_chunks::<LANES>();
        let (into, into_rest) = u[..height].as_chunks_mut::<LANES>();
        for (u, values) in into.iter_mut().zip(values) {
            *u = from_fn(|lane| u[lane] + values[lane] * v[column]);
        }
        for (u, value) in into_rest.iter_mut().zip(rest) {
            *u += value * v[column];
        }
    }
    u.iter_mut().for_each(|value| *value *= scale);
    let first = &mut columns[at(0)..][..height];
    first.iter_mut().zip(&u).for_each(|(value, u)| *value -= u);
    let next = Reflection::of(first);
    let next_scale = if next.tau.is_finite() { 1.0 / next.tau } else { 0.0 };
    for column in 1..width {
        let values = &mut columns[at(column)..][..height];
        subtract(values, v[column], &u);
        let along = reflectors::dot(values, &next.v[..height]) * next_scale;
        subtract(values, along, &next.v);
    }
    next
}

/// `values ← values − factor · others`, of which there may be more.
#[inline(always)]
fn subtract(values: &mut [f64], factor: f64, others: &[f64]) {
    let (others, others_rest) = others[..values.len()].as_chunks::<LANES>();
    let (values, rest) = values.as_chunks_mut::<LANES>();
    for (values, others) in values.iter_mut().zip(others) {
        *values = from_fn(|lane| values[lane] - factor * others[lane]);
    }
    for (value, other) in rest.iter_mut().zip(others_rest) {
        *value -= factor * other;
    }
}
