//! Eigenvalues of a tridiagonal matrix without its eigenvectors, by QL steps that need no square roots.

use mixdown_ops::matrix::Stop;

/// Steps for each eigenvalue; two are usual.
const MOST_STEPS: usize = 40;

/// The eigenvalues in ascending order, from the diagonal and what stands beside it.
///
/// **Numerics.** Right to a small multiple of ε·‖T‖; neighbours are cut apart at less.
/// **Errors.** A matrix on which the steps do not converge, such as one with NaN.
/// **Source.** Parlett 1998, The Symmetric Eigenvalue Problem, §8.15: the variant of Pal, Walker and Kahan.
pub(crate) fn eigenvalues(diagonal: &[f64], beside: &[f64]) -> Result<Vec<f64>, Stop> {
    let largest = diagonal.iter().chain(beside).fold(0.0, |most: f64, value| most.max(value.abs()));
    if largest == 0.0 {
        return Ok(vec![0.0; diagonal.len()]);
    }
    let mut values: Vec<f64> = diagonal.iter().map(|value| value / largest).collect();
    let mut squares: Vec<f64> = beside.iter().map(|value| (value / largest).powi(2)).collect();
    // The steps bring small eigenvalues out at the beginning.
    if let (Some(first), Some(last)) = (values.first(), values.last())
        && last.abs() < first.abs()
    {
        values.reverse();
        squares.reverse();
    }
    for first in 0..values.len() {
        let mut steps = 0;
        loop {
            let end = first + split(&values[first..], &squares[first..]);
            if end == first {
                break;
            }
            if steps == MOST_STEPS {
                return Err(Stop::Failed("the eigensolver did not converge".into()));
            }
            steps += 1;
            step(&mut values[first..=end], &mut squares[first..end]);
        }
    }
    values.iter_mut().for_each(|value| *value *= largest);
    values.sort_by(f64::total_cmp);
    Ok(values)
}

/// Where the first part that is for itself ends.
fn split(values: &[f64], squares: &[f64]) -> usize {
    const NEGLIGIBLE: f64 = f64::EPSILON * f64::EPSILON;
    // Beside an eigenvalue of 0 nothing would ever be small.
    const LEAST: f64 = 1e-6;
    let is_end = |index: &usize| {
        let between = (values[*index] * values[*index + 1]).abs();
        squares[*index] <= NEGLIGIBLE * between.max(LEAST)
    };
    (0..squares.len()).find(is_end).unwrap_or(squares.len())
}

/// One step on a part, from its end to its beginning.
fn step(values: &mut [f64], squares: &mut [f64]) {
    let root = squares[0].sqrt();
    let half = (values[1] - values[0]) / (2.0 * root);
    let shift = values[0] - root / (half + half.hypot(1.0).copysign(half));
    let end = squares.len();
    let (mut cosine, mut sine) = (1.0, 0.0);
    let mut gamma = values[end] - shift;
    let mut square = gamma * gamma;
    for index in (0..end).rev() {
        let beside = squares[index];
        let sum = square + beside;
        if index + 1 != end {
            squares[index + 1] = sine * sum;
        }
        let cosine_before = cosine;
        (cosine, sine) = (square / sum, beside / sum);
        let (before, value) = (gamma, values[index]);
        gamma = cosine * (value - shift) - sine * before;
        values[index + 1] = before + (value - gamma);
        square = if cosine != 0.0 { gamma * gamma / cosine } else { cosine_before * beside };
    }
    squares[0] = sine * square;
    values[0] = shift + gamma;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `2 − 2·cos(kπ/(n+1))` of the second difference.
    #[test]
    fn known_eigenvalues_are_found() {
        for n in [1, 2, 3, 10, 333] {
            let scale = 1e-170;
            let found = eigenvalues(&vec![2.0 * scale; n], &vec![-scale; n - 1]).unwrap();
            for (k, value) in found.iter().enumerate() {
                let angle = (k + 1) as f64 * std::f64::consts::PI / (n + 1) as f64;
                let expected = 2.0 - 2.0 * angle.cos();
                assert!((value / scale - expected).abs() < 1e-14, "{n}, {k}: {value} {expected}");
            }
        }
    }

    /// Wilkinson's: pairs of eigenvalues that agree in all digits.
    #[test]
    fn pairs_are_found_twice() {
        let diagonal: Vec<f64> = (-20..=20).map(|index: i32| f64::from(index.abs())).collect();
        let found = eigenvalues(&diagonal, &[1.0; 40]).unwrap();
        let largest = 20.746_194_182_903_3;
        assert!((found[40] - largest).abs() < 1e-12, "{}", found[40]);
        assert!((found[39] - largest).abs() < 1e-12, "{}", found[39]);
        let trace: f64 = found.iter().sum();
        assert!((trace - diagonal.iter().sum::<f64>()).abs() < 1e-11);
    }

    #[test]
    fn zeros_and_gradings_converge() {
        assert_eq!(eigenvalues(&[0.0; 4], &[0.0; 3]).unwrap(), [0.0; 4]);
        assert_eq!(eigenvalues(&[], &[]).unwrap(), []);
        for is_ascending in [false, true] {
            let mut diagonal: Vec<f64> = (0..60).map(|k| 10.0_f64.powi(-k / 2)).collect();
            let mut beside: Vec<f64> = (0..59).map(|k| 0.3 * 10.0_f64.powi(-k / 2)).collect();
            if is_ascending {
                diagonal.reverse();
                beside.reverse();
            }
            let found = eigenvalues(&diagonal, &beside).unwrap();
            let trace: f64 = diagonal.iter().sum();
            assert!((found.iter().sum::<f64>() - trace).abs() < 1e-14);
        }
        // A row of ones with little beside, and one without any beside.
        let found = eigenvalues(&[1.0, 0.0, 0.0, 1.0], &[1e-9, 0.0, 1e-9]).unwrap();
        assert!(found[..2].iter().all(|value| value.abs() < 1e-15), "{found:?}");
    }

    #[test]
    fn numbers_that_are_none_stop() {
        assert!(matches!(eigenvalues(&[f64::NAN, 1.0, 2.0], &[1.0, 1.0]), Err(Stop::Failed(_))));
    }
}
