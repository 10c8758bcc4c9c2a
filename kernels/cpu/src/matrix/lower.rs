//! The lower triangle of a symmetric matrix, stored once: columns lie in blocks, each from its first row down.

use faer::{MatMut, MatRef};
use mixdown_ops::matrix::Matrix;

/// Columns of a block. Products over a block read it once for both of its sides.
pub(crate) const BLOCK: usize = 192;

/// Blocks of columns, column-major. A block's upper corner is there and means nothing.
#[derive(Debug)]
pub(crate) struct Lower {
    n: usize,
    values: Vec<f64>,
}

/// How many numbers a triangle of this side is stored as.
pub(crate) fn stored(n: usize) -> usize {
    (0..n).step_by(BLOCK).map(|first| (n - first) * BLOCK.min(n - first)).sum()
}

/// Where a column begins among the numbers, with the row that it begins with.
pub(crate) fn column_at(n: usize, column: usize) -> (usize, usize) {
    let block = column / BLOCK;
    let first = block * BLOCK;
    // Those before: BLOCK columns of n, n − BLOCK, n − 2·BLOCK, …
    let before = BLOCK * (block * n - BLOCK * (block * block.saturating_sub(1)) / 2);
    (before + (column - first) * (n - first), first)
}

/// Stretches of columns from one on that lie in one block each: the first column, and how many.
pub(crate) fn stretches(from: usize, n: usize) -> impl Iterator<Item = (usize, usize)> {
    std::iter::successors(Some(from), |at| Some((at / BLOCK + 1) * BLOCK))
        .take_while(move |&at| at < n)
        .map(move |at| (at, (BLOCK - at % BLOCK).min(n - at)))
}

impl Lower {
    pub fn zeros(n: usize) -> Self {
        Self { n, values: vec![0.0; stored(n)] }
    }

    /// Of a symmetric matrix.
    pub fn of(symmetric: &Matrix) -> Self {
        let n = symmetric.rows;
        let mut lower = Self::zeros(n);
        for (column, row) in symmetric.values.chunks_exact(n.max(1)).enumerate() {
            lower.column_mut(column, column).copy_from_slice(&row[column..]);
        }
        lower
    }

    pub fn side(&self) -> usize {
        self.n
    }

    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// A column from a row of its block on.
    pub fn column(&self, column: usize, row: usize) -> &[f64] {
        let (at, first) = column_at(self.n, column);
        &self.values[at + row - first..at + self.n - first]
    }

    fn column_mut(&mut self, column: usize, row: usize) -> &mut [f64] {
        let (at, first) = column_at(self.n, column);
        &mut self.values[at + row - first..at + self.n - first]
    }

    /// A column and those behind it of its block, each from the block's first row on; and that row.
    pub fn columns_mut(&mut self, column: usize, count: usize) -> (&mut [f64], usize) {
        let (at, first) = column_at(self.n, column);
        (&mut self.values[at..at + count * (self.n - first)], first)
    }

    /// Columns of a stretch from a row of their block on.
    pub fn part(&self, column: usize, count: usize, row: usize) -> MatRef<'_, f64> {
        let (at, first) = column_at(self.n, column);
        let height = self.n - first;
        let values = &self.values[at..at + count * height];
        MatRef::from_column_major_slice(values, height, count).subrows(row - first, self.n - row)
    }

    pub fn part_mut(&mut self, column: usize, count: usize, row: usize) -> MatMut<'_, f64> {
        let n = self.n;
        let (values, first) = self.columns_mut(column, count);
        let whole = MatMut::from_column_major_slice_mut(values, n - first, count);
        whole.subrows_mut(row - first, n - row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All sides of blocks, and a block that ends early.
    #[test]
    fn columns_are_where_they_are_said_to_be() {
        for n in [1, 191, 192, 193, 500] {
            let values =
                (0..n * n).map(|at| ((at / n).min(at % n) * n + (at / n).max(at % n)) as f64);
            let symmetric = Matrix { rows: n, columns: n, values: values.collect() };
            let lower = Lower::of(&symmetric);
            assert_eq!(lower.values().len(), stored(n));
            let mut end = 0;
            for column in 0..n {
                let expected: Vec<f64> = (column..n).map(|row| (column * n + row) as f64).collect();
                assert_eq!(lower.column(column, column), expected, "{n}, {column}");
                assert_eq!(column_at(n, column).0, end, "{n}, {column}");
                end += n - column / BLOCK * BLOCK;
            }
            let covered: usize = stretches(0, n).map(|(_, count)| count).sum();
            assert_eq!(covered, n);
            assert!(stretches(n / 2, n).all(|(at, count)| (at + count - 1) / BLOCK == at / BLOCK));
        }
    }
}
