//! Inverse discrete Fourier transforms of any length, without the division by it.

use std::f64::consts::TAU;

type Complex = (f64, f64);

/// x[n] = Σ c[k] · exp(2πi·k·n / N). By Cooley and Tukey over the prime factors of the length; a prime factor
/// p takes p² steps.
pub(super) fn inverse(values: Vec<Complex>) -> Vec<Complex> {
    let length = values.len();
    let roots: Vec<Complex> = (0..length)
        .map(|at| {
            let (sine, cosine) = (TAU * at as f64 / length as f64).sin_cos();
            (cosine, sine)
        })
        .collect();
    let mut out = vec![(0.0, 0.0); length];
    transform(&values, 0, 1, &roots, &mut out);
    out
}

/// Of the values from `first` on, in steps.
fn transform(
    values: &[Complex],
    first: usize,
    step: usize,
    roots: &[Complex],
    out: &mut [Complex],
) {
    let count = out.len();
    if count <= 1 {
        out.iter_mut().for_each(|out| *out = values[first]);
        return;
    }
    let factor = (2..).find(|&by| count.is_multiple_of(by) || by * by > count).unwrap_or(count);
    let factor = if count.is_multiple_of(factor) { factor } else { count };
    let part = count / factor;
    for (number, out) in out.chunks_exact_mut(part).enumerate() {
        transform(values, first + number * step, step * factor, roots, out);
    }
    // Roots of unity of this count stand in steps among those of the whole length.
    let stride = roots.len() / count;
    let mut mixed = vec![(0.0, 0.0); factor];
    for at in 0..part {
        for (turn, mixed) in mixed.iter_mut().enumerate() {
            let place = turn * part + at;
            let mut sum = (0.0, 0.0);
            for number in 0..factor {
                let (real, imaginary) = out[number * part + at];
                let root = roots[number * place % count * stride];
                sum.0 += real * root.0 - imaginary * root.1;
                sum.1 += real * root.1 + imaginary * root.0;
            }
            *mixed = sum;
        }
        for (turn, mixed) in mixed.iter().enumerate() {
            out[turn * part + at] = *mixed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_all_kinds_agree_with_the_definition() {
        for length in [1, 2, 3, 4, 6, 7, 12, 30, 49, 64] {
            let values: Vec<Complex> =
                (0..length).map(|at| ((at * 7 % 5) as f64, (at * 3 % 4) as f64 - 1.0)).collect();
            let found = inverse(values.clone());
            for (n, found) in found.iter().enumerate() {
                let mut sum = (0.0, 0.0);
                for (k, (real, imaginary)) in values.iter().enumerate() {
                    let (sine, cosine) = (TAU * (k * n % length) as f64 / length as f64).sin_cos();
                    sum.0 += real * cosine - imaginary * sine;
                    sum.1 += real * sine + imaginary * cosine;
                }
                let error = (found.0 - sum.0).abs() + (found.1 - sum.1).abs();
                assert!(error < 1e-10, "{length} at {n}: {found:?} {sum:?}");
            }
        }
    }
}
