//! Small systems of equations.

/// A share of the largest element below which a pivot is none.
const NONE: f64 = 1e-12;

/// Solves a square system, `[rows, columns]`, by Gauss with complete pivots. Unknowns that the others already say are
/// zero.
pub(super) fn solved(mut system: Vec<f64>, mut right: Vec<f64>) -> Vec<f64> {
    let size = right.len();
    let largest = system.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let mut columns: Vec<usize> = (0..size).collect();
    let mut rank = 0;
    while rank < size {
        let places = (rank..size).flat_map(|row| (rank..size).map(move |column| (row, column)));
        // Of equal ones the first, so that the order of the others never counts.
        let best = places.fold((rank, rank), |best, place| {
            let value = |(row, column): (usize, usize)| system[row * size + column].abs();
            if value(place) > value(best) { place } else { best }
        });
        let pivot = system[best.0 * size + best.1];
        if pivot.abs() <= NONE * largest {
            break;
        }
        right.swap(rank, best.0);
        columns.swap(rank, best.1);
        for at in 0..size {
            system.swap(rank * size + at, best.0 * size + at);
        }
        for row in 0..size {
            system.swap(row * size + rank, row * size + best.1);
        }
        for row in (0..size).filter(|row| *row != rank) {
            let factor = system[row * size + rank] / pivot;
            if factor != 0.0 {
                for column in rank..size {
                    system[row * size + column] -= factor * system[rank * size + column];
                }
                right[row] -= factor * right[rank];
            }
        }
        rank += 1;
    }
    let mut found = vec![0.0; size];
    for at in 0..rank {
        found[columns[at]] = right[at] / system[at * size + at];
    }
    found
}

/// The lower factor of a symmetric matrix, by Cholesky; none unless all directions have a length.
pub(super) fn lower_factor(mut matrix: Vec<f64>, size: usize) -> Option<Vec<f64>> {
    let largest = (0..size).fold(0.0_f64, |largest, at| largest.max(matrix[at * size + at]));
    for column in 0..size {
        let (above, own) = matrix.split_at_mut(column * size);
        for at in 0..column {
            let other = &above[at * size..at * size + at];
            let inner: f64 = own[..at].iter().zip(other).map(|(one, other)| one * other).sum();
            own[at] = (own[at] - inner) / above[at * size + at];
        }
        let square = own[column] - own[..column].iter().map(|value| value * value).sum::<f64>();
        if square <= NONE * largest {
            return None;
        }
        own[column] = square.sqrt();
        own[column + 1..size].fill(0.0);
    }
    Some(matrix)
}

/// The solution of `L·Lᵀ·x = right`.
pub(super) fn by_factor(lower: &[f64], mut right: Vec<f64>) -> Vec<f64> {
    let size = right.len();
    for row in 0..size {
        let known: f64 = (0..row).map(|at| lower[row * size + at] * right[at]).sum();
        right[row] = (right[row] - known) / lower[row * size + row];
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|at| lower[at * size + row] * right[at]).sum();
        right[row] = (right[row] - known) / lower[row * size + row];
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_solved_and_what_others_say_is_zero() {
        // 2x + y = 5, x + 3y = 10.
        let found = solved(vec![2.0, 1.0, 1.0, 3.0], vec![5.0, 10.0]);
        assert!((found[0] - 1.0).abs() < 1e-14 && (found[1] - 3.0).abs() < 1e-14, "{found:?}");
        // The second line says what the first does.
        assert_eq!(solved(vec![1.0, 1.0, 1.0, 1.0], vec![3.0, 3.0]), [3.0, 0.0]);
        assert_eq!(solved(vec![0.0], vec![1.0]), [0.0]);
    }

    #[test]
    fn a_factor_times_itself_is_the_matrix() {
        let matrix = vec![4.0, 2.0, -2.0, 2.0, 10.0, 5.0, -2.0, 5.0, 14.0];
        let lower = lower_factor(matrix.clone(), 3).unwrap();
        assert_eq!(lower, [2.0, 0.0, 0.0, 1.0, 3.0, 0.0, -1.0, 2.0, 3.0]);
        assert_eq!(lower_factor(vec![1.0, 1.0, 1.0, 1.0], 2), None);
        // The matrix times [1, 2, 3].
        assert_eq!(by_factor(&lower, vec![2.0, 37.0, 50.0]), [1.0, 2.0, 3.0]);
    }
}
