//! Householder reflections: one vector's, and several together as `I − V·T⁻¹·Vᵀ`.

use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Accum, Mat, MatMut, MatRef, Par};

use super::dense::multiply;

/// Reflections that are applied together to the same numbers.
pub(crate) struct Reflectors {
    /// The number that `basis`'s first row belongs to.
    pub first: usize,
    /// V, whose columns begin with a 1, each a row below the one before.
    pub basis: Mat<f64>,
    /// T, upper triangular.
    pub factor: Mat<f64>,
}

impl Reflectors {
    /// `rows ← rows·P`, or with Pᵀ, for `P = H_1·H_2·…` of the reflections in order.
    pub fn apply(&self, rows: MatMut<'_, f64>, transpose: bool) {
        let mut part = rows.subcols_mut(self.first, self.basis.nrows());
        let mut along = Mat::<f64>::zeros(part.nrows(), self.basis.ncols());
        multiply(along.as_mut(), Accum::Replace, part.as_ref(), self.basis.as_ref(), 1.0);
        // T goes to the side that is shorter.
        let mut basis = self.basis.clone();
        let divided = match part.nrows() < basis.nrows() {
            true => along.as_mut(),
            false => basis.as_mut(),
        };
        // The basis stands transposed: `V·T⁻ᵀ` for P.
        if transpose == (part.nrows() < self.basis.nrows()) {
            solve_upper_triangular_in_place(
                self.factor.as_ref(),
                divided.transpose_mut(),
                Par::Seq,
            );
        } else {
            divide(divided, self.factor.as_ref());
        }
        multiply(part.as_mut(), Accum::Add, along.as_ref(), basis.transpose(), -1.0);
    }
}

/// `rows ← rows·T⁻¹`.
pub(crate) fn divide(rows: MatMut<'_, f64>, factor: MatRef<'_, f64>) {
    solve_lower_triangular_in_place(factor.transpose(), rows.transpose_mut(), Par::Seq);
}

/// T of reflections: above the diagonal of `Vᵀ·V`, with the τ as diagonal.
///
/// A reflection that is none has an infinite τ, by which everything becomes 0 when it is divided.
pub(crate) fn factor(basis: MatRef<'_, f64>, taus: &[f64]) -> Mat<f64> {
    let count = basis.ncols();
    let mut factor = Mat::<f64>::zeros(count, count);
    multiply(factor.as_mut(), Accum::Replace, basis.transpose(), basis, 1.0);
    for (column, tau) in taus.iter().enumerate() {
        factor[(column, column)] = *tau;
        (column + 1..count).for_each(|row| factor[(row, column)] = 0.0);
    }
    factor
}

/// Makes a vector the first unit vector times its norm, up to the sign, by `I − v·vᵀ/τ` with `v_0 = 1`;
/// what is left of v takes the place of the zeros.
///
/// τ is infinite where nothing is to be done.
#[inline(always)]
pub(crate) fn make(vector: &mut [f64]) -> f64 {
    let Some((head, tail)) = vector.split_first_mut() else { return f64::INFINITY };
    let tail_norm = dot(tail, tail).sqrt();
    if tail_norm < f64::MIN_POSITIVE {
        tail.fill(0.0);
        return f64::INFINITY;
    }
    let norm = head.hypot(tail_norm).copysign(*head);
    let scale = 1.0 / (*head + norm);
    tail.iter_mut().for_each(|value| *value *= scale);
    *head = -norm;
    let share = tail_norm * scale;
    0.5 * (1.0 + share * share)
}

/// Numbers that are summed beside each other.
pub(crate) const LANES: usize = 8;

/// Σ a·b for loops that are compiled for an instruction set, in an order that is the same with all.
#[inline(always)]
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest = a_rest.iter().zip(b_rest).fold(0.0, |sum, (a, b)| sum + a * b);
    sum(lanes) + rest
}

/// The sum of lanes.
#[inline(always)]
pub(crate) fn sum([a, b, c, d, e, f, g, h]: [f64; LANES]) -> f64 {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}
