//! Sums of shifted inverses of a tridiagonal matrix, `Re Σ c_j·(T − z_j)⁻¹·x`, for many x.

use faer::c64;
use mixdown_ops::matrix::Matrix;

use crate::features::{Features, Kernel};

/// Vectors that are solved for beside each other.
const LANES: usize = 16;

/// Rows of a segment.
const SEGMENT: usize = 64;

/// Numbers that one inverse holds for each row, at most.
pub(crate) const TERM: usize = size_of::<Step>() / size_of::<f64>() + 1;

/// `L·U` of a tridiagonal matrix less a shift, with rows exchanged where that keeps numbers small.
///
/// **Numerics.** Backward stable, as partial pivoting is for tridiagonal matrices, however close the shift
/// is to an eigenvalue.
pub(crate) struct Shifted {
    steps: Vec<Step>,
    weight: c64,
}

/// One row of U, and how the row below it comes to its place.
#[derive(Clone, Copy, Default)]
struct Step {
    factor: c64,
    inverse: c64,
    /// What stands beside the diagonal of U, and two beside it where rows were exchanged.
    beside: c64,
    beyond: f64,
    /// 1 where rows were exchanged, and 0 elsewhere: branches could not be foretold.
    exchanged: f64,
}

impl Shifted {
    /// `weight·(T − shift)⁻¹` for a shift that is not real.
    pub fn new(diagonal: &[f64], beside: &[f64], shift: c64, weight: c64) -> Self {
        let n = diagonal.len();
        let mut steps = vec![Step::default(); n];
        let size = |value: c64| value.re.abs() + value.im.abs();
        let mut pivot = if n > 0 { c64::from(diagonal[0]) - shift } else { c64::default() };
        let mut right = c64::from(beside.first().copied().unwrap_or(0.0));
        for (index, step) in steps.iter_mut().enumerate() {
            if index + 1 == n {
                step.inverse = pivot.inv();
                break;
            }
            let below = beside[index];
            let next = c64::from(diagonal[index + 1]) - shift;
            let beyond = beside.get(index + 1).copied().unwrap_or(0.0);
            if size(pivot) >= below.abs() {
                let inverse = pivot.inv();
                let factor = inverse * below;
                *step = Step { factor, inverse, beside: right, beyond: 0.0, exchanged: 0.0 };
                (pivot, right) = (next - factor * right, c64::from(beyond));
            } else {
                let inverse = c64::from(1.0 / below);
                let factor = pivot / below;
                *step = Step { factor, inverse, beside: next, beyond, exchanged: 1.0 };
                (pivot, right) = (right - factor * next, -factor * beyond);
            }
        }
        Self { steps, weight }
    }
}

/// The real and the imaginary part of a number for each lane.
type Lanes = [[f64; LANES]; 2];

/// Adds `Re Σ weight·(T − shift)⁻¹·column` for each column to that of `into`; both are `n × m`.
///
/// **Numerics.** Nothing is fused, so that bits are the same with all instructions.
///
/// What the way down through L leaves is kept at the beginnings of segments alone, and made again for one
/// segment at a time on the way up through U, so that it stays in the nearest cache.
pub(crate) fn add_solutions(
    features: Features,
    terms: &[Shifted],
    columns: &Matrix,
    into: &mut Matrix,
) {
    let (n, width) = (columns.rows, columns.columns);
    let mut given = vec![[0.0; LANES]; n];
    let mut sums = vec![[0.0; LANES]; n];
    let mut states = vec![Lanes::default(); n.div_ceil(SEGMENT) * terms.len()];
    let mut behind = vec![[Lanes::default(); 2]; terms.len()];
    let segments = || (0..n).step_by(SEGMENT).map(|first| first..(first + SEGMENT).min(n));
    for first in (0..width).step_by(LANES) {
        let count = LANES.min(width - first);
        for (row, lanes) in given.iter_mut().enumerate() {
            lanes[..count].copy_from_slice(&columns.values[row * width + first..][..count]);
            lanes[count..].fill(0.0);
        }
        sums.fill([0.0; LANES]);
        behind.fill(Default::default());
        for (index, range) in segments().enumerate() {
            let (before, after) = states.split_at_mut((index + 1) * terms.len());
            let before = &mut before[index * terms.len()..];
            for (number, (term, state)) in terms.iter().zip(before).enumerate() {
                if index == 0 {
                    *state = [given[0], [0.0; LANES]];
                }
                if let Some(next) = after.get_mut(number) {
                    *next = *state;
                    let steps = &term.steps[range.clone()];
                    features.run(Down { steps, given: &given[range.start + 1..], state: next });
                }
            }
        }
        for (index, range) in segments().enumerate().collect::<Vec<_>>().into_iter().rev() {
            let states = &states[index * terms.len()..];
            for ((term, state), behind) in terms.iter().zip(states).zip(&mut behind) {
                features.run(Up {
                    steps: &term.steps[range.clone()],
                    weight: term.weight,
                    given: &given[range.start + 1..],
                    state: *state,
                    behind,
                    sums: &mut sums[range.clone()],
                });
            }
        }
        for (row, lanes) in sums.iter().enumerate() {
            let into = &mut into.values[row * width + first..][..count];
            into.iter_mut().zip(lanes).for_each(|(into, sum)| *into += sum);
        }
    }
}

impl Step {
    /// The number of a row on the way down, and what is left of the next one's.
    #[inline(always)]
    fn down(&self, state: &mut Lanes, next: &[f64; LANES], kept: &mut Lanes) {
        let (c, d) = (self.factor.re, self.factor.im);
        let (stay, move_up) = (1.0 - self.exchanged, self.exchanged);
        let [re, im] = state;
        let [into_re, into_im] = kept;
        for lane in 0..LANES {
            into_re[lane] = stay * re[lane] + move_up * next[lane];
        }
        for lane in 0..LANES {
            into_im[lane] = stay * im[lane];
        }
        for lane in 0..LANES {
            let below = move_up * re[lane] + stay * next[lane];
            re[lane] = below - (c * into_re[lane] - d * into_im[lane]);
        }
        for lane in 0..LANES {
            im[lane] = move_up * im[lane] - (c * into_im[lane] + d * into_re[lane]);
        }
    }
}

/// The way down through a segment, for its end alone.
struct Down<'a> {
    steps: &'a [Step],
    /// The numbers of the rows from the second of the segment on.
    given: &'a [[f64; LANES]],
    state: &'a mut Lanes,
}

impl Kernel for Down<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { steps, given, state } = self;
        let (mut here, mut kept) = (*state, Lanes::default());
        for (step, next) in steps.iter().zip(given) {
            step.down(&mut here, next, &mut kept);
        }
        *state = here;
    }
}

/// The way down through a segment and up again.
struct Up<'a> {
    steps: &'a [Step],
    weight: c64,
    given: &'a [[f64; LANES]],
    state: Lanes,
    /// The solution's numbers of the two rows behind the segment.
    behind: &'a mut [Lanes; 2],
    sums: &'a mut [[f64; LANES]],
}

impl Kernel for Up<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { steps, weight, given, mut state, behind, sums } = self;
        let mut between = [Lanes::default(); SEGMENT];
        for ((step, kept), next) in steps.iter().zip(&mut between).zip(given) {
            step.down(&mut state, next, kept);
        }
        if given.len() < steps.len() {
            // The last row has none below.
            between[given.len()] = state;
        }
        let [[mut re1, mut im1], [mut re2, mut im2]] = *behind;
        for ((step, [re, im]), sums) in steps.iter().zip(&between).zip(sums).rev() {
            let (c, d) = (step.beside.re, step.beside.im);
            let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
            for lane in 0..LANES {
                a[lane] = (re[lane] - step.beyond * re2[lane]) - (c * re1[lane] - d * im1[lane]);
            }
            for lane in 0..LANES {
                b[lane] = (im[lane] - step.beyond * im2[lane]) - (c * im1[lane] + d * re1[lane]);
            }
            (re2, im2) = (re1, im1);
            let (c, d) = (step.inverse.re, step.inverse.im);
            for lane in 0..LANES {
                re1[lane] = c * a[lane] - d * b[lane];
            }
            for lane in 0..LANES {
                im1[lane] = c * b[lane] + d * a[lane];
            }
            for lane in 0..LANES {
                sums[lane] += weight.re * re1[lane] - weight.im * im1[lane];
            }
        }
        *behind = [[re1, im1], [re2, im2]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(index: usize) -> f64 {
        let bits = mixdown_ops::random::uniform_bits(11, index as u64);
        f64::from(bits) / f64::from(u32::MAX) - 0.5
    }

    /// What is solved for, multiplied back, for shifts that are far, near, and nearly equal to numbers on
    /// the diagonal, so that rows are exchanged and not.
    #[test]
    fn solutions_solve() {
        for (n, width) in [(1, 3), (2, 1), (3, 20), (50, 33), (64, 5), (65, 2), (200, 17)] {
            let diagonal: Vec<f64> = (0..n).map(number).collect();
            let mut beside: Vec<f64> = (1..n).map(|index| number(index + 100)).collect();
            if let Some(one) = beside.get_mut(1) {
                *one = 0.0;
            }
            let values = (0..n * width).map(|index| number(index + 1000)).collect();
            let columns = Matrix { rows: n, columns: width, values };
            for shift in [c64::new(0.3, 2.0), c64::new(diagonal[0], 1e-7), c64::new(-0.2, 1e-3)] {
                // Real and imaginary parts, by two weights.
                let parts = [c64::new(1.0, 0.0), c64::new(0.0, -1.0)].map(|weight| {
                    let terms = [Shifted::new(&diagonal, &beside, shift, weight)];
                    let mut parts = Features::available().into_iter().map(|features| {
                        let mut part = super::super::dense::zeros(n, width);
                        add_solutions(features, &terms, &columns, &mut part);
                        part.values
                    });
                    let part = parts.next().unwrap();
                    assert!(parts.all(|other| other == part), "{n} × {width}, {shift}");
                    part
                });
                let at = |row: usize, column: usize| {
                    let index = row * width + column;
                    c64::new(parts[0][index], parts[1][index])
                };
                let largest = parts.iter().flatten().fold(1.0, |most: f64, x| most.max(x.abs()));
                for (row, column) in (0..n).flat_map(|row| (0..width).map(move |c| (row, c))) {
                    let mut sum = at(row, column) * (c64::from(diagonal[row]) - shift);
                    if row > 0 {
                        sum += at(row - 1, column) * beside[row - 1];
                    }
                    if row + 1 < n {
                        sum += at(row + 1, column) * beside[row];
                    }
                    let off = (sum - columns.values[row * width + column]).norm();
                    assert!(off < 1e-14 * largest, "{n} × {width}, {shift}: {off:e} of {largest}");
                }
            }
        }
    }
}
