//! Matching pursuit among points that rotary positions may turn: each point stands for itself at any position.

use super::{NOTHING, Points, Wanted};

/// How rotary position embeddings turn a vector: the numbers `i` and `i + half` of each head by the angle
/// position · frequency `i`, with frequencies base^(−2i/head).
#[derive(Clone, Debug)]
pub struct Rotary {
    heads: usize,
    /// Of a head: as many as half its numbers.
    frequencies: Vec<f64>,
}

/// A point at a position, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turned {
    /// Its place among the points.
    pub point: u32,
    /// The position that it is turned to.
    pub position: f64,
    /// How much of it.
    pub factor: f64,
}

impl Rotary {
    /// Of vectors of so many columns; none unless these are even heads.
    pub fn new(columns: usize, heads: usize, base: f64) -> Option<Self> {
        let head = columns.checked_div(heads)?;
        let is_whole = head > 0 && head * heads == columns && head % 2 == 0;
        let frequency = |at: usize| base.powf(-2.0 * at as f64 / head as f64);
        (is_whole && base > 0.0)
            .then(|| Self { heads, frequencies: (0..head / 2).map(frequency).collect() })
    }

    /// Turns a vector to a position.
    pub fn turn(&self, vector: &mut [f64], position: f64) {
        let half = self.frequencies.len();
        for head in vector.chunks_exact_mut(2 * half) {
            let (left, right) = head.split_at_mut(half);
            for ((left, right), frequency) in left.iter_mut().zip(right).zip(&self.frequencies) {
                let (sine, cosine) = (position * frequency).sin_cos();
                (*left, *right) = (*left * cosine - *right * sine, *right * cosine + *left * sine);
            }
        }
    }

    /// The position at which a vector comes near to another one: the angles between their pairs, projected on those
    /// of one position. Both signs of the other one are tried, and the smaller position counts.
    fn position(&self, vector: &[f64], other: &[f64]) -> f64 {
        let half = self.frequencies.len();
        let (mut plain, mut opposite) = (0.0, 0.0);
        for (one, other) in vector.chunks_exact(2 * half).zip(other.chunks_exact(2 * half)) {
            for (at, frequency) in self.frequencies.iter().enumerate() {
                let (x, y) = ((one[at], one[half + at]), (other[at], other[half + at]));
                let (sine, cosine) = (x.0 * y.1 - x.1 * y.0, x.0 * y.0 + x.1 * y.1);
                plain += sine.atan2(cosine) * frequency;
                opposite += (-sine).atan2(-cosine) * frequency;
            }
        }
        let squares: f64 = self.frequencies.iter().map(|frequency| frequency * frequency).sum();
        let found = if plain.abs() < opposite.abs() { plain } else { opposite };
        found / (squares * self.heads as f64)
    }
}

impl Points {
    /// For each of the targets a sum of few turned points: again and again the point with the largest product with
    /// what is left, turned to where it comes near to that, and what is left after as much of it as is best alone.
    /// At the end `best` says how much of each of the chosen rows is best together, given `[count, columns]` and
    /// the target.
    pub fn pursue_turned(
        &self,
        targets: &[f32],
        count: usize,
        rotary: &Rotary,
        best: impl Fn(&[f64], &[f64]) -> Vec<f64>,
    ) -> Vec<Vec<Turned>> {
        let columns = self.columns;
        let mut states: Vec<State> = targets
            .chunks_exact(columns)
            .map(|row| {
                let target: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
                let square = target.iter().map(|value| value * value).sum();
                let left = target.clone();
                let (chosen, positions, rows) = Default::default();
                State { target, square, left, chosen, positions, rows }
            })
            .collect();
        for _ in 0..count.min(self.len()) {
            let going: Vec<usize> = (0..states.len()).filter(|&at| !states[at].is_done()).collect();
            if going.is_empty() {
                break;
            }
            let wanted: Vec<Wanted<'_>> = going
                .iter()
                .map(|&at| Wanted { vector: &states[at].left, without: &states[at].chosen })
                .collect();
            let found = self.search(&wanted, 1);
            for (at, best) in going.into_iter().zip(found) {
                if let Some(&point) = best.first() {
                    states[at].take(self, point, rotary);
                }
            }
        }
        let turned = |state: State| {
            let factors = best(&state.rows, &state.target);
            let parts = state.chosen.into_iter().zip(state.positions).zip(factors);
            parts.map(|((point, position), factor)| Turned { point, position, factor }).collect()
        };
        states.into_iter().map(turned).collect()
    }
}

/// A target on its way.
struct State {
    target: Vec<f64>,
    square: f64,
    left: Vec<f64>,
    chosen: Vec<u32>,
    positions: Vec<f64>,
    /// The chosen points, turned.
    rows: Vec<f64>,
}

impl State {
    fn is_done(&self) -> bool {
        let left: f64 = self.left.iter().map(|value| value * value).sum();
        left <= NOTHING * self.square
    }

    fn take(&mut self, points: &Points, point: u32, rotary: &Rotary) {
        let mut row: Vec<f64> = points.row(point).iter().map(|&value| f64::from(value)).collect();
        let position = rotary.position(&row, &self.left);
        rotary.turn(&mut row, position);
        let product: f64 = row.iter().zip(&self.left).map(|(one, other)| one * other).sum();
        let square: f64 = row.iter().map(|value| value * value).sum();
        let factor = product / square.max(1e-8);
        self.left.iter_mut().zip(&row).for_each(|(left, value)| *left -= factor * value);
        self.chosen.push(point);
        self.positions.push(position);
        self.rows.extend(row);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Measure;
    use super::*;
    use crate::Features;

    #[test]
    fn a_turned_point_is_found_at_its_position() {
        let rotary = Rotary::new(8, 2, 100.0).unwrap();
        assert!(Rotary::new(8, 3, 100.0).is_none() && Rotary::new(6, 2, 100.0).is_none());
        assert!(Rotary::new(8, 0, 100.0).is_none());
        let rows = [1.0, 0.5, -0.25, 0.75, 0.5, 1.0, 1.5, -0.5];
        let other = [0.1_f32; 8];
        let values: Vec<f32> = rows.iter().copied().chain(other).collect();
        let points = Points::new(Features::best(), 8, values, Measure::Product);
        let mut target: Vec<f64> = rows.iter().map(|&value| f64::from(value)).collect();
        rotary.turn(&mut target, 0.75);
        let target: Vec<f32> = target.iter().map(|value| 2.0 * *value as f32).collect();
        let best = |rows: &[f64], target: &[f64]| {
            let square: f64 = rows.iter().map(|value| value * value).sum();
            vec![rows.iter().zip(target).map(|(one, other)| one * other).sum::<f64>() / square]
        };
        let found = points.pursue_turned(&target, 1, &rotary, best);
        let [found] = found[0].as_slice() else { panic!("{found:?}") };
        assert_eq!(found.point, 0);
        assert!((found.position - 0.75).abs() < 1e-6, "{found:?}");
        assert!((found.factor - 2.0).abs() < 1e-6, "{found:?}");
    }
}
