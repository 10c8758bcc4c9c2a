//! Points of two spaces that belong together, row by row, and the linear map that takes one space to the other.

use faer::MatMut;
use mixdown_ops::matrix::{Matrix, Stop};

use super::dense::{add_product, first_rows, product, transposed, view, zeros};
use super::eigen::leading;
use super::joint::svd::svd;

/// Sums over pairs of points, from which the map is found: of points less their means, `from` to `to` numbers.
#[derive(Debug)]
pub struct Pairs {
    means: [Vec<f64>; 2],
    /// `[from, from]` and `[to, to]`.
    grams: [Matrix; 2],
    /// `[from, to]`.
    cross: Matrix,
}

impl Pairs {
    /// No pair yet; the means are those of all that will come.
    pub fn new(means: [Vec<f64>; 2]) -> Self {
        let [from, to] = [means[0].len(), means[1].len()];
        Self { means, grams: [zeros(from, from), zeros(to, to)], cross: zeros(from, to) }
    }

    /// Bytes that sums and decompositions take together, about.
    pub fn bytes(from: u64, to: u64) -> u64 {
        let sides = from.saturating_mul(from).saturating_add(to.saturating_mul(to));
        sides.saturating_add(from.saturating_mul(to)).saturating_mul(8 * 4)
    }

    /// Adds pairs: rows of both spaces, as many of each.
    pub fn add(&mut self, from: &[f32], to: &[f32]) {
        let centered = |rows: &[f32], mean: &[f64]| {
            let values: Vec<f64> = rows
                .chunks_exact(mean.len())
                .flat_map(|row| row.iter().zip(mean).map(|(&value, mean)| f64::from(value) - mean))
                .collect();
            Matrix { rows: rows.len() / mean.len(), columns: mean.len(), values }
        };
        let [one, other] = [centered(from, &self.means[0]), centered(to, &self.means[1])];
        let add = |into: &mut Matrix, left: &Matrix, right: &Matrix| {
            let (rows, columns) = (into.rows, into.columns);
            let into = MatMut::from_row_major_slice_mut(&mut into.values, rows, columns);
            add_product(into, 1.0, view(left).transpose(), view(right));
        };
        add(&mut self.grams[0], &one, &one);
        add(&mut self.grams[1], &other, &other);
        add(&mut self.cross, &one, &other);
    }

    /// The rotation of principal directions, `[from, to]`: as many of each space as the smaller one has, turned so
    /// that the points of one come nearest to those of the other (Procrustes).
    ///
    /// **Errors.** A solver's failure to converge.
    pub fn rotation(self) -> Result<Matrix, Stop> {
        let Self { grams: [from, to], mut cross, .. } = self;
        let count = from.rows.min(to.rows);
        // Of the larger space only the leading directions take part.
        if from.rows > count {
            let leading = leading(from, count)?.vectors;
            let within = product(view(&leading), view(&cross));
            cross = product(view(&leading).transpose(), view(&within));
        } else if to.rows > count {
            let leading = leading(to, count)?.vectors;
            let within = product(view(&cross), view(&leading).transpose());
            cross = product(view(&within), view(&leading));
        }
        let found = svd(&cross)?;
        // Directions in which the points do not differ are turned nowhere.
        Ok(found.with(&vec![1.0; found.rank()]))
    }
}

/// The first `count` principal directions as rows, from `Σ xᵀx` of points less their mean.
///
/// **Errors.** A solver's failure to converge.
pub fn principal_directions(gram: Matrix, count: usize) -> Result<Matrix, Stop> {
    let rows = gram.rows;
    let found = leading(gram, count.min(rows))?.vectors;
    Ok(first_rows(found, count))
}

/// Σ xᵀx of points less their mean.
#[derive(Debug)]
pub struct Gram(Pairs);

impl Gram {
    /// No point yet.
    pub fn new(mean: Vec<f64>) -> Self {
        Self(Pairs::new([mean, Vec::new()]))
    }

    /// Adds points as rows.
    pub fn add(&mut self, rows: &[f32]) {
        let columns = self.0.means[0].len();
        let values: Vec<f64> = rows
            .chunks_exact(columns)
            .flat_map(|row| {
                row.iter().zip(&self.0.means[0]).map(|(&value, mean)| f64::from(value) - mean)
            })
            .collect();
        let points = Matrix { rows: rows.len() / columns, columns, values };
        let into = &mut self.0.grams[0];
        let into = MatMut::from_row_major_slice_mut(&mut into.values, columns, columns);
        add_product(into, 1.0, view(&points).transpose(), view(&points));
    }

    /// The sum.
    pub fn sum(self) -> Matrix {
        let [sum, _] = self.0.grams;
        sum
    }
}

/// The map `[from, to]` that takes the rows of a basis, `[d, from]`, to those of another one, `[d, to]`, and of a
/// vector the nearest sum of the basis: `basis⁺·other`.
///
/// **Errors.** A solver's failure to converge.
pub fn carried(basis: &Matrix, other: &Matrix) -> Result<Matrix, Stop> {
    let found = svd(basis)?;
    let factors: Vec<f64> = found.values[..found.rank()].iter().map(|value| 1.0 / value).collect();
    // U·Σ⁻¹·Vᵀ, of which the pseudo-inverse is the transpose.
    Ok(product(view(&transposed(&found.with(&factors))), view(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, key: u64) -> Vec<f32> {
        let even = |at| f64::from(mixdown_ops::random::uniform_bits(key, at)) / 4_294_967_296.0;
        (0..count as u64).map(|at| (even(at) - 0.5) as f32).collect()
    }

    /// Points that another space has turned and moved are found again, and of a larger space what differs most.
    #[test]
    fn a_rotation_is_found() {
        let (count, side) = (40, 5);
        let from = numbers(count * side, 1);
        let turn = numbers(side * side, 2).into_iter().map(f64::from).collect();
        let turn =
            super::super::joint::svd::polar(&Matrix { rows: side, columns: side, values: turn });
        let turn = turn.unwrap();
        let wide = |rows: &[f32]| Matrix {
            rows: rows.len() / side,
            columns: side,
            values: rows.iter().map(|&value| f64::from(value)).collect(),
        };
        let to: Vec<f32> = product(view(&wide(&from)), view(&turn))
            .values
            .iter()
            .map(|value| *value as f32 + 3.0)
            .collect();
        let mean = |rows: &[f32], columns: usize| {
            let mut mean = vec![0.0; columns];
            for row in rows.chunks_exact(columns) {
                mean.iter_mut()
                    .zip(row)
                    .for_each(|(sum, &value)| *sum += f64::from(value) / count as f64);
            }
            mean
        };
        let mut pairs = Pairs::new([mean(&from, side), mean(&to, side)]);
        let half = count / 2 * side;
        pairs.add(&from[..half], &to[..half]);
        pairs.add(&from[half..], &to[half..]);
        let found = pairs.rotation().unwrap();
        for (found, wanted) in found.values.iter().zip(&turn.values) {
            assert!((found - wanted).abs() < 1e-5, "{found}, not {wanted}");
        }
        // The same in a space with one number more, that hardly differs.
        let more: Vec<f32> = to
            .chunks_exact(side)
            .zip(numbers(count, 3))
            .flat_map(|(row, rest)| row.iter().copied().chain([1e-3 * rest]))
            .collect();
        let mut pairs = Pairs::new([mean(&from, side), mean(&more, side + 1)]);
        pairs.add(&from, &more);
        let found = pairs.rotation().unwrap();
        assert_eq!((found.rows, found.columns), (side, side + 1));
        for (found, wanted) in found.values.chunks(side + 1).zip(turn.values.chunks(side)) {
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-2, "{found}, not {wanted}");
            }
        }
    }

    #[test]
    fn a_basis_is_carried_over() {
        let wide = |rows, columns, key| Matrix {
            rows,
            columns,
            values: numbers(rows * columns, key).into_iter().map(f64::from).collect(),
        };
        let (basis, other) = (wide(3, 5, 4), wide(3, 4, 5));
        let map = carried(&basis, &other).unwrap();
        let found = product(view(&basis), view(&map));
        for (found, wanted) in found.values.iter().zip(&other.values) {
            assert!((found - wanted).abs() < 1e-12, "{found}, not {wanted}");
        }
    }
}
