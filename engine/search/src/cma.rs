//! CMA-ES: searches the least value of a function of a few numbers by samples of a normal distribution
//! whose mean, step size and covariance follow the best samples.
//!
//! Source: Hansen 2016, "The CMA Evolution Strategy: A Tutorial", arXiv:1604.00772; numbers of equations
//! and of Table 1 below are its. All defaults are of that table, with negative weights.
//!
//! Random numbers are a function of seed, generation, sample and coordinate, and functions of numbers are
//! the same on every machine: the same values told give the same samples asked.

mod eigen;

use std::f64::consts::TAU;

use eigen::{Eigen, eigen};

/// The state between two generations.
#[derive(Clone, Debug)]
pub struct Cma {
    seed: u64,
    generation: u64,
    rates: Rates,
    mean: Vec<f64>,
    step: f64,
    /// Symmetric, row after row.
    covariance: Vec<f64>,
    /// Of the covariance.
    eigen: Eigen,
    step_path: Vec<f64>,
    covariance_path: Vec<f64>,
}

/// What depends on the count of numbers and of samples alone: Table 1.
#[derive(Clone, Debug)]
struct Rates {
    /// One for each sample, the best first; the first half adds up to 1, the others are negative.
    weights: Vec<f64>,
    /// μ_eff, how many samples the mean stands for.
    effective: f64,
    /// c_σ and d_σ.
    step: f64,
    damping: f64,
    /// c_c, c_1 and c_μ.
    path: f64,
    one: f64,
    many: f64,
    /// E‖N(0, I)‖.
    length: f64,
}

/// λ of Table 1: 4 + ⌊3 ln n⌋ samples of `n` numbers.
pub fn default_population(n: usize) -> usize {
    4 + (3.0 * libm::log(n as f64)).floor() as usize
}

impl Rates {
    fn new(n: usize, population: usize) -> Self {
        let dimensions = n as f64;
        let half = population / 2;
        // (49): weights before they are scaled.
        let raw = |k: usize| libm::log((population as f64 + 1.0) / 2.0) - libm::log(k as f64 + 1.0);
        let raw: Vec<f64> = (0..population).map(raw).collect();
        let effective = |weights: &[f64]| {
            let (sum, squares) =
                weights.iter().fold((0.0, 0.0), |(sum, squares), w| (sum + w, squares + w * w));
            if squares > 0.0 { sum * sum / squares } else { 0.0 }
        };
        let (good, bad) = raw.split_at(half);
        let (effective, against) = (effective(good), effective(bad));
        // (55), (56), (57), (58).
        let step = (effective + 2.0) / (dimensions + effective + 5.0);
        let beyond = ((effective - 1.0) / (dimensions + 1.0)).sqrt() - 1.0;
        let damping = 1.0 + 2.0 * beyond.max(0.0) + step;
        let share = effective / dimensions;
        let path = (4.0 + share) / (dimensions + 4.0 + 2.0 * share);
        let one = 2.0 / (square(dimensions + 1.3) + effective);
        let many = 2.0 * (0.25 + effective + 1.0 / effective - 2.0)
            / (square(dimensions + 2.0) + effective);
        let many = many.min(1.0 - one);
        // (50) to (53): the sum of negative weights is bounded, so that the covariance stays positive.
        let least = (1.0 + one / many)
            .min(1.0 + 2.0 * against / (effective + 2.0))
            .min((1.0 - one - many) / (dimensions * many));
        let positive: f64 = raw.iter().filter(|w| **w > 0.0).sum();
        let negative: f64 = -raw.iter().filter(|w| **w < 0.0).sum::<f64>();
        let scaled = |w: &f64| if *w >= 0.0 { w / positive } else { least * w / negative };
        let length =
            dimensions.sqrt() * (1.0 - 0.25 / dimensions + 1.0 / (21.0 * dimensions * dimensions));
        let weights = raw.iter().map(scaled).collect();
        Self { weights, effective, step, damping, path, one, many, length }
    }
}

impl Cma {
    /// The start: samples around `mean`, `step` wide in each coordinate.
    ///
    /// **Parameters.** `population` samples make a generation, 2 at least.
    pub fn new(mean: &[f64], step: f64, population: usize, seed: u64) -> Self {
        let n = mean.len();
        assert!(n > 0 && population >= 2, "there is something to search");
        let covariance: Vec<f64> =
            (0..n * n).map(|at| f64::from(u8::from(at % (n + 1) == 0))).collect();
        Self {
            seed,
            generation: 0,
            rates: Rates::new(n, population),
            mean: mean.to_vec(),
            step,
            eigen: eigen(&covariance, n),
            covariance,
            step_path: vec![0.0; n],
            covariance_path: vec![0.0; n],
        }
    }

    /// Generations that were told.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The samples of this generation.
    pub fn ask(&self) -> Vec<Vec<f64>> {
        let place = |direction: Vec<f64>| {
            direction.iter().zip(&self.mean).map(|(y, mean)| mean + self.step * y).collect()
        };
        (0..self.rates.weights.len()).map(|k| place(self.direction(k))).collect()
    }

    /// Sample `k` before it is scaled and moved, y = B·D·z: (38), (39).
    fn direction(&self, k: usize) -> Vec<f64> {
        let n = self.mean.len();
        let z = |i: usize| normal(self.seed, self.generation, k as u64, i as u64);
        let wide: Vec<f64> = (0..n).map(|i| self.eigen.values[i].sqrt() * z(i)).collect();
        self.eigen.turn(&wide)
    }

    /// C^(−1/2)·y.
    fn whiten(&self, y: &[f64]) -> Vec<f64> {
        let mut along = self.eigen.turn_back(y);
        for (x, value) in along.iter_mut().zip(&self.eigen.values) {
            *x /= value.sqrt();
        }
        self.eigen.turn(&along)
    }

    /// Takes the value of each sample, in the order in which they were asked; less is better. Of equal
    /// ones the first counts as better.
    pub fn tell(&mut self, values: &[f64]) {
        let n = self.mean.len();
        let Rates { weights, effective, step, damping, path, one, many, length } =
            self.rates.clone();
        assert_eq!(values.len(), weights.len(), "each sample has a value");
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]).then(a.cmp(&b)));
        let directions: Vec<Vec<f64>> = order.iter().map(|&k| self.direction(k)).collect();
        // (41), (42): the mean moves to the weighted mean of the better half.
        let mut moved = vec![0.0; n];
        for (direction, weight) in directions.iter().zip(&weights).take(values.len() / 2) {
            for (moved, y) in moved.iter_mut().zip(direction) {
                *moved += weight * y;
            }
        }
        for (mean, moved) in self.mean.iter_mut().zip(&moved) {
            *mean += self.step * moved;
        }
        // (43), (44): steps that follow each other make the step longer, steps that undo each other
        // shorter.
        let gain = (step * (2.0 - step) * effective).sqrt();
        let whitened = self.whiten(&moved);
        for (path, white) in self.step_path.iter_mut().zip(whitened) {
            *path = (1.0 - step) * *path + gain * white;
        }
        let size = norm(&self.step_path);
        self.step *= libm::exp((step / damping) * (size / length - 1.0));
        // (45): the path of the covariance waits while the step size grows fast.
        self.generation += 1;
        let settled = 1.0 - libm::pow(1.0 - step, 2.0 * self.generation as f64);
        let is_steady = size / settled.sqrt() < (1.4 + 2.0 / (n as f64 + 1.0)) * length;
        let gain = if is_steady { (path * (2.0 - path) * effective).sqrt() } else { 0.0 };
        for (own, moved) in self.covariance_path.iter_mut().zip(&moved) {
            *own = (1.0 - path) * *own + gain * moved;
        }
        // (46), (47): the covariance takes up the path and all samples.
        let lost = if is_steady { 0.0 } else { path * (2.0 - path) };
        let sum: f64 = weights.iter().sum();
        let keep = 1.0 + one * lost - one - many * sum;
        let scaled: Vec<f64> = weights
            .iter()
            .zip(&directions)
            .map(|(&weight, y)| match weight < 0.0 {
                true => weight * n as f64 / square(norm(&self.whiten(y))),
                false => weight,
            })
            .collect();
        for i in 0..n {
            for j in 0..=i {
                let samples: f64 =
                    scaled.iter().zip(&directions).map(|(weight, y)| weight * y[i] * y[j]).sum();
                let along = self.covariance_path[i] * self.covariance_path[j];
                let value = keep * self.covariance[i * n + j] + one * along + many * samples;
                self.covariance[i * n + j] = value;
                self.covariance[j * n + i] = value;
            }
        }
        self.eigen = eigen(&self.covariance, n);
    }

    /// The width of the samples in each coordinate, one standard deviation.
    pub fn widths(&self) -> Vec<f64> {
        let n = self.mean.len();
        (0..n).map(|i| self.step * self.covariance[i * n + i].max(0.0).sqrt()).collect()
    }

    /// Whether the covariance is still one that can be computed with: positive, and not so flat that
    /// its shortest axis is lost in rounding. 10¹⁴ is the limit of the tutorial's section B.3.
    pub fn is_sound(&self) -> bool {
        let least = self.eigen.values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.eigen.values.iter().copied().fold(0.0, f64::max);
        let is_finite = self.step.is_finite() && self.mean.iter().all(|mean| mean.is_finite());
        is_finite && least > 0.0 && most.is_finite() && most < 1e14 * least
    }
}

/// `powi` may round one way here and another there.
fn square(x: f64) -> f64 {
    x * x
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// A number of the standard normal distribution, by Box and Muller from two uniform ones.
fn normal(seed: u64, generation: u64, sample: u64, coordinate: u64) -> f64 {
    let mut digest = blake3::Hasher::new();
    digest.update(b"mixdown cma-es\0");
    for number in [seed, generation, sample, coordinate] {
        digest.update(&number.to_le_bytes());
    }
    let bytes = digest.finalize();
    let (words, _) = bytes.as_bytes().as_chunks::<8>();
    const UNIT: f64 = 1.0 / (1_u64 << 53) as f64;
    let uniform = |word: usize| (u64::from_le_bytes(words[word]) >> 11) as f64 * UNIT;
    // The logarithm needs a number above 0.
    (-2.0 * libm::log(1.0 - uniform(0))).sqrt() * libm::cos(TAU * uniform(1))
}

#[cfg(test)]
mod tests;
