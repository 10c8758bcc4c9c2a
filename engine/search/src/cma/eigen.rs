//! Eigenvalues and eigenvectors of a small symmetric matrix, by Jacobi's rotations: short, exact for
//! matrices of this size, and the same on every machine.

/// Rounds over all pairs; each makes what is beside the diagonal much smaller, and ten are plenty.
const MOST_ROUNDS: usize = 64;

/// A symmetric matrix as its axes.
#[derive(Clone, Debug)]
pub struct Eigen {
    /// The eigenvalues, in no order.
    pub values: Vec<f64>,
    /// The eigenvectors as columns, row after row.
    vectors: Vec<f64>,
}

impl Eigen {
    /// From coordinates along the axes.
    pub fn turn(&self, along: &[f64]) -> Vec<f64> {
        let n = along.len();
        let row = |i: usize| (0..n).map(|j| self.vectors[i * n + j] * along[j]).sum();
        (0..n).map(row).collect()
    }

    /// To coordinates along the axes.
    pub fn turn_back(&self, x: &[f64]) -> Vec<f64> {
        let n = x.len();
        let column = |j: usize| (0..n).map(|i| self.vectors[i * n + j] * x[i]).sum();
        (0..n).map(column).collect()
    }
}

/// The axes of a symmetric matrix, given row after row.
pub fn eigen(matrix: &[f64], n: usize) -> Eigen {
    let mut a = matrix.to_vec();
    let mut vectors = vec![0.0; n * n];
    for i in 0..n {
        vectors[i * n + i] = 1.0;
    }
    for _ in 0..MOST_ROUNDS {
        let beside = |i: usize| (0..i).map(|j| a[i * n + j] * a[i * n + j]).sum::<f64>();
        let off: f64 = (0..n).map(beside).sum();
        let on: f64 = (0..n).map(|i| a[i * n + i] * a[i * n + i]).sum();
        if off <= f64::EPSILON * f64::EPSILON * on || !off.is_finite() {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, n, p, q);
            }
        }
    }
    Eigen { values: (0..n).map(|i| a[i * n + i]).collect(), vectors }
}

/// Turns the axes `p` and `q` so that their element beside the diagonal is 0.
fn rotate(a: &mut [f64], vectors: &mut [f64], n: usize, p: usize, q: usize) {
    if a[p * n + q] == 0.0 {
        return;
    }
    // The smaller of the two angles: Golub and Van Loan, section 8.5.2.
    let half = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
    let tangent = half.signum() / (half.abs() + (1.0 + half * half).sqrt());
    let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
    let sine = tangent * cosine;
    let turned = |x: f64, y: f64| (cosine * x - sine * y, sine * x + cosine * y);
    for k in 0..n {
        (a[k * n + p], a[k * n + q]) = turned(a[k * n + p], a[k * n + q]);
    }
    for k in 0..n {
        (a[p * n + k], a[q * n + k]) = turned(a[p * n + k], a[q * n + k]);
        (vectors[k * n + p], vectors[k * n + q]) = turned(vectors[k * n + p], vectors[k * n + q]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [[2, 1], [1, 2]] has the eigenvalue 3 along (1, 1) and 1 along (1, −1).
    #[test]
    fn two_axes_by_hand() {
        let found = eigen(&[2.0, 1.0, 1.0, 2.0], 2);
        let mut values = found.values.clone();
        values.sort_by(f64::total_cmp);
        assert!((values[0] - 1.0).abs() < 1e-15 && (values[1] - 3.0).abs() < 1e-15, "{values:?}");
        let along = found.turn_back(&[1.0, 1.0]);
        for (along, value) in along.iter().zip(&found.values) {
            let expected = if *value > 2.0 { 2.0_f64.sqrt() } else { 0.0 };
            assert!((along.abs() - expected).abs() < 1e-15);
        }
    }

    /// Hilbert's matrices have axes of very different lengths; the matrix must come back from them.
    #[test]
    fn axes_make_the_matrix_again() {
        for n in 1..=8 {
            let matrix: Vec<f64> =
                (0..n * n).map(|at| 1.0 / ((at / n + at % n + 1) as f64)).collect();
            let found = eigen(&matrix, n);
            for j in 0..n {
                let mut unit = vec![0.0; n];
                unit[j] = 1.0;
                let mut along = found.turn_back(&unit);
                for (along, value) in along.iter_mut().zip(&found.values) {
                    *along *= value;
                }
                for (i, value) in found.turn(&along).into_iter().enumerate() {
                    assert!((value - matrix[i * n + j]).abs() < 1e-14, "{n} {i} {j}");
                }
            }
        }
    }
}
