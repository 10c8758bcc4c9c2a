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
    /// All are slower, the longer a text is beyond the training's length.
    Dynamic {
        /// What texts of many times the training's length come to be divided by.
        factor: f64,
        /// The training's length.
        length: f64,
    },
    /// Slow angles are divided, fast ones kept, those between are mixed, by the position of the pair
    /// (YaRN: Peng et al. 2023, arXiv:2309.00071, section 3.2).
    Yarn {
        /// What slow angles are divided by.
        factor: f64,
        /// Pairs before the one that turns so often in the training's length are kept.
        fast: f64,
        /// Pairs after the one that turns so often are divided.
        slow: f64,
        /// The training's length.
        length: f64,
        /// What queries and keys are multiplied by.
        attention: f64,
        /// Whether the two pairs are whole numbers, rounded outwards.
        is_whole: bool,
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
    head: usize,
    theta: f64,
    scaling: Scaling,
    /// Angles from one position to the next, of texts that are not longer than those of the training.
    frequencies: Vec<f32>,
}

impl Rope {
    /// For heads of `head` numbers.
    pub fn new(head: usize, theta: f64, scaling: Scaling) -> Self {
        Self { head, theta, scaling, frequencies: frequencies(head, theta, scaling) }
    }

    /// Cosine and sine of each pair at `count` positions after those before.
    ///
    /// Dynamic angles depend on the length of the text so far, and earlier positions keep those that
    /// they were computed with: beyond the training's length it matters how positions are divided among
    /// calls, as in transformers.
    pub fn angles(&self, before: usize, count: usize) -> Vec<Vec<(f32, f32)>> {
        let longer = match self.scaling {
            Scaling::Dynamic { factor, length } if (before + count) as f64 > length => {
                let stretch = factor * (before + count) as f64 / length - (factor - 1.0);
                let head = self.head as f64;
                let theta = self.theta * libm::pow(stretch, head / (head - 2.0));
                Some(frequencies(self.head, theta, Scaling::None))
            }
            _ => None,
        };
        let frequencies = longer.as_ref().unwrap_or(&self.frequencies);
        let size = match self.scaling {
            Scaling::Yarn { attention, .. } => attention as f32,
            _ => 1.0,
        };
        let both = |angle: f32| (libm::cosf(angle) * size, libm::sinf(angle) * size);
        let at = |position: usize| {
            frequencies.iter().map(|frequency| both(position as f32 * frequency)).collect()
        };
        (before..before + count).map(at).collect()
    }

    /// The longest text, where the config says one: some ways to stretch angles are made for longer ones.
    pub fn most_positions(&self, said: Option<usize>) -> Option<usize> {
        let stretched = match self.scaling {
            Scaling::Dynamic { factor, length } | Scaling::Yarn { factor, length, .. } => {
                (factor * length) as usize
            }
            _ => 0,
        };
        said.map(|said| said.max(stretched))
    }
}

fn frequencies(head: usize, theta: f64, scaling: Scaling) -> Vec<f32> {
    let frequency = |pair: usize| {
        let plain = 1.0 / libm::pow(theta, (2 * pair) as f64 / head as f64);
        scaled(plain, pair, (head, theta), scaling) as f32
    };
    (0..head / 2).map(frequency).collect()
}

/// Turns a head's numbers; the pairs are those of its two halves.
pub fn turn(head: &mut [f32], angles: &[(f32, f32)]) {
    let (first, second) = head.split_at_mut(angles.len());
    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

fn scaled(frequency: f64, pair: usize, (head, theta): (usize, f64), scaling: Scaling) -> f64 {
    match scaling {
        Scaling::None | Scaling::Dynamic { .. } => frequency,
        Scaling::Linear { factor } => frequency / factor,
        Scaling::Yarn { factor, fast, slow, length, is_whole, .. } => {
            let head = head as f64;
            // The pair, counted in numbers of the head, that turns so often in the training's length.
            let pair_of = |turns: f64| {
                let turned = length / (turns * std::f64::consts::TAU);
                head * libm::log(turned) / (2.0 * libm::log(theta))
            };
            let (first, last) = (pair_of(fast), pair_of(slow));
            let (first, last) = if is_whole { (first.floor(), last.ceil()) } else { (first, last) };
            let (first, last) = (first.max(0.0), last.min(head - 1.0));
            // Two equal ends make a step.
            let width = if first == last { 0.001 } else { last - first };
            let divided = ((pair as f64 - first) / width).clamp(0.0, 1.0);
            divided * frequency / factor + (1.0 - divided) * frequency
        }
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
        let rope = Rope::new(4, 10000.0, Scaling::None);
        assert_eq!(rope.angles(0, 1), [[(1.0, 0.0); 2]]);
        assert_eq!(rope.angles(0, 3)[2], rope.angles(2, 1)[0]);
    }

    /// By hand: with a length of 2π·100, an angle turns 100 times its frequency.
    #[test]
    fn slow_angles_are_stretched() {
        let length = std::f64::consts::TAU * 100.0;
        let scaled = |frequency, scaling| super::scaled(frequency, 0, (4, 10000.0), scaling);
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, length };
        assert_eq!(scaled(0.5, scaling), 0.5);
        assert!((scaled(0.001, scaling) - 0.001 / 8.0).abs() < 1e-15);
        // 2.5 turns lie halfway.
        assert!((scaled(0.025, scaling) - (0.5 * 0.025 / 8.0 + 0.5 * 0.025)).abs() < 1e-15);
        assert_eq!(scaled(0.5, Scaling::Linear { factor: 4.0 }), 0.125);
    }

    /// By hand, for heads of 8 numbers, θ = 10⁴ and a length of 2π·100: pair p turns 100·10^−p times. The
    /// pair that turns 32 times is 8·ln(100/32)/(2·ln 10⁴) = 0.49, rounded to 0; the one that turns once
    /// is 2. So pair 0 is kept, pair 1 lies halfway, pairs 2 and 3 are divided.
    #[test]
    fn pairs_are_stretched_by_their_position() {
        let yarn = Scaling::Yarn {
            factor: 4.0,
            fast: 32.0,
            slow: 1.0,
            length: std::f64::consts::TAU * 100.0,
            attention: 1.5,
            is_whole: true,
        };
        let found = frequencies(8, 1e4, yarn);
        let expected = [1.0, 0.1 * (0.5 + 0.5 / 4.0), 0.01 / 4.0, 0.001 / 4.0];
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-9, "{found} {expected}");
        }
        let rope = Rope::new(8, 1e4, yarn);
        assert_eq!(rope.angles(0, 1), [[(1.5, 0.0); 4]]);
        assert_eq!(rope.most_positions(Some(700)), Some(2513), "4·2π·100 and no more");
    }

    /// By hand: at twice the length, 2·2 − 1 = 3; θ·3^(4/2) = 9θ for heads of 4 numbers.
    #[test]
    fn long_texts_have_slower_angles() {
        let rope = Rope::new(4, 100.0, Scaling::Dynamic { factor: 2.0, length: 8.0 });
        let plain = Rope::new(4, 100.0, Scaling::None);
        assert_eq!(rope.angles(0, 8), plain.angles(0, 8));
        assert_eq!(rope.angles(0, 16), Rope::new(4, 900.0, Scaling::None).angles(0, 16));
        assert_ne!(rope.angles(8, 1), plain.angles(8, 1));
        assert_eq!(rope.most_positions(Some(8)), Some(16));
    }
}
