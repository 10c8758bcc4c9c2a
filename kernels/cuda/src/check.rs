//! A small descent, of which the result is known, before a device is believed.
//!
//! A device that computes wrong numbers would write a wrong model without a word: hardware at its end, a
//! driver that compiles badly, an image for another machine.

use mixdown_ops::descent::{Curvature, Descents};
use mixdown_ops::matrix::Stop;
use mixdown_ops::random::uniform_bits;

/// Sides that no tile divides, and more than one slab of depth.
const ROWS: usize = 5;
const COLUMNS: usize = 150;
const STACKED: usize = 67;
const STEPS: u32 = 3;
const RATE: f64 = 1e-3;

/// What is allowed to differ, in units of the rate: methods over matrices ask for 0.01.
const TOLERANCE: f64 = 0.01;

/// Runs both forms of a system, and compares with f64.
pub fn check(descents: &dyn Descents) -> Result<(), String> {
    let number = |key: u64, index: usize| {
        (f64::from(uniform_bits(key, index as u64)) / 4_294_967_296.0 - 0.5) as f32
    };
    // Rows of S of norm near 1.
    let scale = 1.0 / (COLUMNS as f32 / 12.0).sqrt();
    let stack: Vec<f32> = (0..STACKED * COLUMNS).map(|at| scale * number(1, at)).collect();
    let offset: Vec<f32> = (0..ROWS * COLUMNS).map(|at| 0.01 * number(2, at)).collect();
    let gram = gram(&stack);
    let expected = expected(&gram, &offset);
    let systems = [
        Curvature::Gram { gram: &gram, n: COLUMNS },
        Curvature::Factored { stack: &stack, r: STACKED, n: COLUMNS },
    ];
    for system in systems {
        let mut moved = vec![f32::NAN; offset.len()];
        let told = |stop| match stop {
            Stop::Device(headline, _)
            | Stop::DeviceMemory(headline, _)
            | Stop::Failed(headline) => headline,
            other => format!("{other:?}"),
        };
        let descent = descents.begin(system).map_err(told)?;
        descent.run(&offset, ROWS, RATE, STEPS, &mut moved).map_err(told)?;
        let off = moved.iter().zip(&expected).map(|(&got, want)| (f64::from(got) - want).abs());
        // A NaN is off by more than anything.
        let worst =
            off.map(|off| if off.is_nan() { f64::INFINITY } else { off }).fold(0.0, f64::max);
        if worst > TOLERANCE * RATE {
            return Err(format!(
                "a device computes wrong numbers: a small descent is off by {:.2e} of its rate, and \
                 {TOLERANCE} is allowed",
                worst / RATE
            ));
        }
    }
    Ok(())
}

fn gram(stack: &[f32]) -> Vec<f32> {
    let mut gram = vec![0.0_f64; COLUMNS * COLUMNS];
    for row in stack.chunks_exact(COLUMNS) {
        for (line, &a) in gram.chunks_exact_mut(COLUMNS).zip(row) {
            for (sum, &b) in line.iter_mut().zip(row) {
                *sum += f64::from(a) * f64::from(b);
            }
        }
    }
    gram.into_iter().map(|sum| sum as f32).collect()
}

/// torch's Adam in f64.
fn expected(gram: &[f32], offset: &[f32]) -> Vec<f64> {
    let mut moved = vec![0.0_f64; offset.len()];
    let (mut first, mut second) = (moved.clone(), moved.clone());
    for step in 1..=STEPS {
        let corrections = [0.9_f64, 0.999].map(|decay| 1.0 - decay.powi(step as i32));
        for row in 0..ROWS {
            let range = row * COLUMNS..(row + 1) * COLUMNS;
            let mut gradient: Vec<f64> =
                offset[range.clone()].iter().map(|&value| f64::from(value)).collect();
            for (&d, line) in moved[range.clone()].iter().zip(gram.chunks_exact(COLUMNS)) {
                for (sum, &g) in gradient.iter_mut().zip(line) {
                    *sum += d * f64::from(g);
                }
            }
            for (at, half) in range.zip(gradient) {
                let gradient = 2.0 * half;
                first[at] = 0.9 * first[at] + 0.1 * gradient;
                second[at] = 0.999 * second[at] + 0.001 * gradient * gradient;
                let root = (second[at] / corrections[1]).sqrt() + 1e-8;
                moved[at] -= RATE * first[at] / corrections[0] / root;
            }
        }
    }
    moved
}
