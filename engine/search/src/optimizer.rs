//! Which candidates are tried where each generation follows from the scores of those before.

use crate::cma::Cma;
use crate::decimal::Steps;
use crate::grid::Candidate;

/// A parameter and the values that it can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its path in the recipe, as for `--set`.
    pub path: String,
    /// Its values.
    pub steps: Steps,
}

/// A search by CMA-ES.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    /// The parameters.
    pub ranges: Vec<Range>,
    /// Candidates that are merged, at most.
    pub budget: usize,
    /// Candidates of a generation.
    pub population: usize,
    /// The width of the first generation, as a fraction of each range.
    pub sigma: f64,
    /// Another seed, another sequence.
    pub seed: u64,
}

/// Why an optimizer stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All candidates that it may merge are merged.
    Budget,
    /// The next candidates would lie within one step of each other.
    Converged,
    /// The best score of a generation has not changed for long.
    Flat,
    /// Several generations had no new candidate.
    Known,
    /// Its covariance cannot be computed with any more.
    Degenerate,
}

impl Stop {
    /// Its word in the report.
    pub fn word(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Converged => "converged",
            Self::Flat => "flat",
            Self::Known => "known",
            Self::Degenerate => "degenerate",
        }
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Budget => "the budget is used up",
            Self::Converged => "the next candidates would lie within one step of each other",
            Self::Flat => "the best score of a generation has not changed for long",
            Self::Known => "several generations had no new candidate",
            Self::Degenerate => "the samples' covariance cannot be computed with any more",
        }
    }
}

/// Generations without a new candidate that are one too many.
const MOST_KNOWN: usize = 10;

impl Optimizer {
    /// The candidates with all lowest and with all highest values: what is wrong with a range is wrong
    /// there, before anything is merged.
    pub fn corners(&self) -> Vec<Candidate> {
        let corner = |last: bool| {
            let value =
                |range: &Range| range.steps.value(if last { range.steps.count - 1 } else { 0 });
            Candidate::new(self.ranges.iter().map(|r| (r.path.clone(), value(r))).collect())
        };
        vec![corner(false), corner(true)]
    }

    /// Nothing is tried yet.
    pub fn start(&self) -> Optimization<'_> {
        let middle = vec![0.5; self.ranges.len()];
        let cma = Cma::new(&middle, self.sigma, self.population, self.seed);
        Optimization { optimizer: self, cma, best: Vec::new(), without_new: 0 }
    }
}

/// A search by CMA-ES while it goes on. Each range is 0 to 1 for it.
#[derive(Clone, Debug)]
pub struct Optimization<'a> {
    optimizer: &'a Optimizer,
    cma: Cma,
    /// The least loss of each generation.
    best: Vec<f64>,
    without_new: usize,
}

impl Optimization<'_> {
    /// Generations that were scored.
    pub fn generations(&self) -> u64 {
        self.cma.generation()
    }

    /// The candidates of this generation. Some can be equal to each other or to earlier ones.
    pub fn candidates(&self) -> Vec<Candidate> {
        let candidate = |x: Vec<f64>| {
            let set = self.optimizer.ranges.iter().zip(x);
            let value = |range: &Range, x: f64| {
                let last = range.steps.count - 1;
                range.steps.value(((reflect(x) * last as f64).round() as u64).min(last))
            };
            Candidate::new(set.map(|(range, x)| (range.path.clone(), value(range, x))).collect())
        };
        self.cma.ask().into_iter().map(candidate).collect()
    }

    /// Takes the losses of this generation's candidates, and how many of them were new. Says if the
    /// search ends here.
    pub fn tell(&mut self, losses: &[f64], new: usize) -> Option<Stop> {
        self.cma.tell(losses);
        self.best.push(losses.iter().copied().fold(f64::INFINITY, f64::min));
        self.without_new = if new == 0 { self.without_new + 1 } else { 0 };
        let Optimizer { ranges, population, .. } = self.optimizer;
        let is_narrow =
            |(width, range): (f64, &Range)| width * ((range.steps.count - 1) as f64) < 0.5;
        // Generations as in the tutorial's section B.3, "EqualFunValues".
        let long = 10 + (30 * ranges.len()).div_ceil(*population);
        let last = &self.best[self.best.len().saturating_sub(long)..];
        if !self.cma.is_sound() {
            Some(Stop::Degenerate)
        } else if self.cma.widths().into_iter().zip(ranges).all(is_narrow) {
            Some(Stop::Converged)
        } else if last.len() == long && last.iter().all(|loss| *loss == last[0]) {
            Some(Stop::Flat)
        } else if self.without_new >= MOST_KNOWN {
            Some(Stop::Known)
        } else {
            None
        }
    }
}

/// Brings a number into 0 to 1 by reflecting it at these ends, as often as it takes: the function that is
/// searched then goes on beyond them without a jump. Unlike a penalty it needs no weight, and the order
/// of scores stays all that counts.
fn reflect(x: f64) -> f64 {
    let x = x.rem_euclid(2.0);
    if x > 1.0 { 2.0 - x } else { x }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::cma::default_population;
    use crate::decimal::Decimal;

    fn range(path: &str, from: &str, to: &str, step: Option<&str>) -> Range {
        let [from, to] = [from, to].map(|text| Decimal::parse(text).unwrap());
        let steps = match step {
            Some(step) => Steps::new(from, to, Decimal::parse(step).unwrap()),
            None => Steps::fine(from, to),
        };
        Range { path: path.to_owned(), steps: steps.unwrap() }
    }

    /// The best candidate's values, how many candidates there were, and why it stopped.
    fn minimize(
        ranges: Vec<Range>,
        budget: usize,
        loss: impl Fn(&[f64]) -> f64,
    ) -> (Vec<f64>, usize, Stop) {
        let population = default_population(ranges.len());
        let optimizer = Optimizer { ranges, budget, population, sigma: 0.3, seed: 0 };
        let mut search = optimizer.start();
        let mut tried = HashSet::new();
        let mut best = (f64::INFINITY, Vec::new());
        loop {
            let before = tried.len();
            let losses: Vec<f64> = search
                .candidates()
                .into_iter()
                .map(|candidate| {
                    let values: Vec<f64> =
                        candidate.set.iter().map(|(_, value)| value.parse().unwrap()).collect();
                    let loss = loss(&values);
                    tried.insert(candidate.label);
                    if loss < best.0 {
                        best = (loss, values);
                    }
                    loss
                })
                .collect();
            let stop = search.tell(&losses, tried.len() - before);
            let stop = stop.or((tried.len() >= budget).then_some(Stop::Budget));
            if let Some(stop) = stop {
                return (best.1, tried.len(), stop);
            }
        }
    }

    #[test]
    fn numbers_beyond_the_ends_are_reflected() {
        for (x, expected) in [(0.25, 0.25), (1.25, 0.75), (-0.25, 0.25), (2.25, 0.25), (-1.5, 0.5)]
        {
            assert_eq!(reflect(x), expected);
        }
    }

    #[test]
    fn an_optimum_inside_is_found_to_the_step() {
        let ranges =
            vec![range("a", "0", "2", Some("0.001")), range("b", "-1", "1", Some("0.001"))];
        let loss = |x: &[f64]| (x[0] - 0.731).powi(2) + 3.0 * (x[1] + 0.402).powi(2) + x[0] * x[1];
        // By hand, from 2(a − 0.731) + b = 0 and 6(b + 0.402) + a = 0: a = 1.01673, b = −0.57145.
        let (best, _, stop) = minimize(ranges, 10_000, loss);
        assert!((best[0] - 1.01673).abs() < 0.002 && (best[1] + 0.57145).abs() < 0.002, "{best:?}");
        assert_ne!(stop, Stop::Budget);
    }

    /// The least value lies where both ranges end.
    #[test]
    fn an_optimum_in_a_corner_is_found() {
        let ranges = vec![range("a", "0", "1", None), range("b", "0.1", "0.9", None)];
        let (best, _, _) = minimize(ranges, 10_000, |x| (x[0] - 1.5).powi(2) + x[1]);
        assert_eq!(best, [1.0, 0.1]);
    }

    #[test]
    fn a_search_ends_when_there_is_nothing_more_to_find() {
        let flat = minimize(vec![range("a", "0", "1", None)], 10_000, |_| 1.0);
        assert_eq!(flat.2, Stop::Flat);
        // Two values: both are known soon.
        let few = minimize(vec![range("a", "0", "1", Some("1"))], 10_000, |x| x[0]);
        assert_eq!((few.0.as_slice(), few.1), ([0.0].as_slice(), 2));
        assert_ne!(few.2, Stop::Budget);
    }

    #[test]
    fn corners_are_the_ends() {
        let ranges = vec![range("a", "0", "2", Some("0.5")), range("b", "1", "3", Some("1"))];
        let optimizer = Optimizer { ranges, budget: 9, population: 6, sigma: 0.3, seed: 0 };
        let labels: Vec<String> =
            optimizer.corners().into_iter().map(|corner| corner.label).collect();
        assert_eq!(labels, ["a=0.0, b=1", "a=2.0, b=3"]);
    }
}
