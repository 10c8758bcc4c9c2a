//! Matrices worked out literally in f64: what merges through matrix ops are compared with.

/// A dense matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Count of rows.
    pub rows: usize,
    /// Count of columns.
    pub columns: usize,
    /// Its elements.
    pub values: Vec<f64>,
}

impl Matrix {
    /// Of these elements.
    pub fn new(rows: usize, columns: usize, values: Vec<f64>) -> Self {
        assert_eq!(values.len(), rows * columns);
        Self { rows, columns, values }
    }

    /// Rows as columns.
    pub fn transposed(&self) -> Self {
        let Self { rows, columns, values } = self;
        let at = |index: usize| values[index % rows * columns + index / rows];
        Self::new(*columns, *rows, (0..rows * columns).map(at).collect())
    }

    /// The product with another.
    pub fn times(&self, other: &Self) -> Self {
        assert_eq!(self.columns, other.rows);
        let mut values = vec![0.0; self.rows * other.columns];
        for (row, out) in values.chunks_mut(other.columns).enumerate() {
            for (k, right) in other.values.chunks(other.columns).enumerate() {
                let left = self.values[row * self.columns + k];
                out.iter_mut().zip(right).for_each(|(out, right)| *out += left * right);
            }
        }
        Self::new(self.rows, other.columns, values)
    }

    /// Singular directions, `U·Σ·Vᵀ`: columns of U, singular values descending, rows of Vᵀ. Directions of no
    /// length are left out.
    pub fn svd(&self) -> (Self, Vec<f64>, Self) {
        let is_left = self.rows <= self.columns;
        let one = if is_left { self.clone() } else { self.transposed() };
        let (values, vectors) = eigen(&one.times(&one.transposed()));
        let largest = values.first().copied().unwrap_or(0.0);
        let rank = values.iter().take_while(|&&value| value > largest * 1e-13).count();
        let sigma: Vec<f64> = values[..rank].iter().map(|value| value.sqrt()).collect();
        let near = Self::new(rank, one.rows, vectors.values[..rank * one.rows].to_vec());
        let mut far = near.times(&one);
        for (row, sigma) in far.values.chunks_mut(one.columns).zip(&sigma) {
            row.iter_mut().for_each(|value| *value /= sigma);
        }
        match is_left {
            true => (near.transposed(), sigma, far),
            false => (far.transposed(), sigma, near),
        }
    }

    /// `Σ f(k, σ_k)·u_k·v_kᵀ`.
    pub fn with_singular_values(&self, f: impl Fn(usize, f64) -> f64) -> Self {
        let (left, sigma, mut right) = self.svd();
        for (k, row) in right.values.chunks_mut(self.columns).enumerate() {
            row.iter_mut().for_each(|value| *value *= f(k, sigma[k]));
        }
        left.times(&right)
    }
}

/// Eigenvalues of a symmetric matrix, descending, and eigenvectors as rows: Jacobi's rotations.
pub fn eigen(matrix: &Matrix) -> (Vec<f64>, Matrix) {
    let n = matrix.rows;
    let mut a = matrix.values.clone();
    let mut v: Vec<f64> = (0..n * n).map(|at| f64::from(at / n == at % n)).collect();
    for _ in 0..60 {
        let off: f64 = (0..n * n).filter(|at| at / n != at % n).map(|at| a[at] * a[at]).sum();
        let all: f64 = a.iter().map(|value| value * value).sum();
        if off <= all * 1e-30 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p * n + q] == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
                    let (x, y) = (v[p * n + k], v[q * n + k]);
                    (v[p * n + k], v[q * n + k]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&x, &y| a[y * n + y].total_cmp(&a[x * n + x]));
    let rows = order.iter().flat_map(|&k| v[k * n..(k + 1) * n].to_vec()).collect();
    (order.iter().map(|&k| a[k * n + k]).collect(), Matrix::new(n, n, rows))
}

/// Euclidean norm.
pub fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// The magnitude that so many of all elements reach, at least one.
pub fn threshold<'a>(values: impl Iterator<Item = &'a f64>, kept: usize) -> f64 {
    let mut magnitudes: Vec<f64> = values.map(|value| value.abs()).collect();
    magnitudes.sort_by(|a, b| b.total_cmp(a));
    magnitudes[kept.max(1) - 1]
}

/// Zero where the magnitude is below.
pub fn trimmed(values: &[f64], threshold: f64) -> Vec<f64> {
    values.iter().map(|&value| if value.abs() < threshold { 0.0 } else { value }).collect()
}
