//! Round numbers along an axis.

/// An axis from one round number to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// Where it begins.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
    step: f64,
}

impl Axis {
    /// The axis that holds these numbers, in about `count` steps of 1, 2 or 5 times a power of ten.
    pub fn around(numbers: impl Iterator<Item = f64>, count: usize) -> Self {
        let (low, high) = numbers
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), number| {
                (low.min(number), high.max(number))
            });
        let (low, high) = match (low.is_finite() && high.is_finite(), high > low) {
            (true, true) => (low, high),
            (true, false) => (low - 0.5 * low.abs().max(1.0), low + 0.5 * low.abs().max(1.0)),
            (false, _) => (0.0, 1.0),
        };
        let wanted = (high - low) / count.max(1) as f64;
        let power = 10_f64.powf(wanted.log10().floor());
        // The rounding of the quotient must not push 5 to 10.
        let step = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * power >= wanted * 0.999);
        let step = step.unwrap_or(10.0) * power;
        Self {
            low: (low / step + 1e-9).floor() * step,
            high: (high / step - 1e-9).ceil() * step,
            step,
        }
    }

    /// Where a number stands, from 0 to 1.
    pub fn place(&self, number: f64) -> f64 {
        ((number - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// The round numbers, each with its text.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        let places = (-self.step.log10().floor()).clamp(0.0, 12.0) as usize;
        let tick = |k: usize| {
            let number = self.low + self.step * k as f64;
            let text = format!("{number:.places$}");
            // A sum of steps can miss zero by little.
            let is_zero = text.chars().all(|letter| "-0.".contains(letter));
            (number, if is_zero { text.trim_start_matches('-').to_owned() } else { text })
        };
        (0..=count.min(100)).map(tick).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(numbers: &[f64], expected: &[&str]) {
        let ticks = Axis::around(numbers.iter().copied(), 5).ticks();
        let ticks: Vec<&str> = ticks.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(ticks, expected, "{numbers:?}");
    }

    #[test]
    fn ticks_are_round() {
        check(&[0.0, 20.0], &["0", "5", "10", "15", "20"]);
        check(&[0.0, 3.0], &["0", "1", "2", "3"]);
        check(&[-0.13, 0.896], &["-0.5", "0.0", "0.5", "1.0"]);
        check(&[0.0001, 0.00048], &["0.0001", "0.0002", "0.0003", "0.0004", "0.0005"]);
        check(&[2.0, 2.0], &["1.0", "1.5", "2.0", "2.5", "3.0"]);
        check(&[], &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        check(&[1e6, 3e6], &["1000000", "1500000", "2000000", "2500000", "3000000"]);
    }

    #[test]
    fn numbers_stand_between_the_ends() {
        let axis = Axis::around([0.0, 20.0].into_iter(), 5);
        assert_eq!((axis.place(5.0), axis.place(-3.0), axis.place(99.0)), (0.25, 0.0, 1.0));
    }
}
