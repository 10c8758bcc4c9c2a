//! Rotary positions: which angle each pair of a head's numbers is turned by at each position.

/// How far angles are stretched for texts longer than those of the training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All positions are divided.
    Linear {
        /// By this.
        factor: f64,
    },
    /// Slow angles are divided, fast ones kept, those between are mixed (Llama 3.1).
    Llama3 {
        /// What slow angles are divided by.
        factor: f64,
        /// Angles that turn less than so often in the training's length are slow.
        low: f64,
        /// Those that turn more than so often are fast.
        high: f64,
        /// The training's length.
        length: f64,
    },
}

/// The angles of one model.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Angles from one position to the next.
    frequencies: Vec<f32>,
}

impl Rope {
    /// For heads of `head` numbers.
    pub fn new(head: usize, theta: f64, scaling: Scaling) -> Self {
        let frequency = |pair: usize| {
            let plain = 1.0 / libm::pow(theta, (2 * pair) as f64 / head as f64);
            scaled(plain, scaling) as f32
        };
        Self { frequencies: (0..head / 2).map(frequency).collect() }
    }

    /// Cosine and sine of each pair at a position.
    pub fn at(&self, position: usize) -> Vec<(f32, f32)> {
        let angle = |frequency: &f32| position as f32 * frequency;
        let both = |angle: f32| (libm::cosf(angle), libm::sinf(angle));
        self.frequencies.iter().map(angle).map(both).collect()
    }
}

/// Turns a head's numbers; the pairs are those of its two halves.
pub fn turn(head: &mut [f32], angles: &[(f32, f32)]) {
    let (first, second) = head.split_at_mut(angles.len());
    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

fn scaled(frequency: f64, scaling: Scaling) -> f64 {
    match scaling {
        Scaling::None => frequency,
        Scaling::Linear { factor } => frequency / factor,
        Scaling::Llama3 { factor, low, high, length } => {
            let turns = length * frequency / std::f64::consts::TAU;
            if turns > high {
                frequency
            } else if turns < low {
                frequency / factor
            } else {
                let kept = (turns - low) / (high - low);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_takes_each_half_to_the_other() {
        let mut head = [1.0, 2.0, 3.0, 4.0];
        turn(&mut head, &[(0.0, 1.0), (1.0, 0.0)]);
        assert_eq!(head, [-3.0, 2.0, 1.0, 4.0]);
        assert_eq!(Rope::new(4, 10000.0, Scaling::None).at(0), [(1.0, 0.0); 2]);
    }

    /// By hand: with a length of 2π·100, an angle turns 100 times its frequency.
    #[test]
    fn slow_angles_are_stretched() {
        let length = std::f64::consts::TAU * 100.0;
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, length };
        assert_eq!(scaled(0.5, scaling), 0.5);
        assert!((scaled(0.001, scaling) - 0.001 / 8.0).abs() < 1e-15);
        // 2.5 turns lie halfway.
        assert!((scaled(0.025, scaling) - (0.5 * 0.025 / 8.0 + 0.5 * 0.025)).abs() < 1e-15);
        assert_eq!(scaled(0.5, Scaling::Linear { factor: 4.0 }), 0.125);
    }
}
