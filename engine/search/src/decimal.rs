//! Decimal numbers, exactly, and numbers in equal steps.

use std::cmp::Ordering;

/// A decimal number, exactly: digits over a power of ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    digits: i64,
    places: u32,
}

/// Places after the point that are counted. Nobody searches in finer steps.
const MOST_PLACES: u32 = 12;
impl Decimal {
    /// `-0.25`, `3`, `.5`; none for anything else, such as `1e-3`.
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
        let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction)
        {
            return None;
        }
        let places = u32::try_from(fraction.len()).ok().filter(|&places| places <= MOST_PLACES)?;
        let digits = format!("0{whole}{fraction}").parse::<i64>().ok()?;
        Some(Self { digits: sign * digits, places })
    }

    fn at(self, places: u32) -> i128 {
        i128::from(self.digits) * 10i128.pow(places - self.places)
    }

    /// As a floating-point number, for drawing.
    pub fn to_f64(self) -> f64 {
        self.digits as f64 / 10f64.powi(self.places as i32)
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let places = self.places.max(other.places);
        self.at(places).cmp(&other.at(places))
    }
}

/// Numbers in equal steps: the end is one of them if the steps meet it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    from: i128,
    step: i128,
    places: u32,
    /// How many numbers there are, 1 at least.
    pub count: u64,
}

/// Numbers of the longest range: steps finer than that are lost between floating-point numbers.
const MOST_STEPS: i128 = 1_000_000_000;
/// A range without a step has more numbers than that: finer than any merge is told apart by.
const ENOUGH: u64 = 10_000;

impl Steps {
    /// From, to and step, with as many places as the one with the most. None where that is no range, or
    /// too long a one.
    pub fn new(from: Decimal, to: Decimal, step: Decimal) -> Option<Self> {
        let places = from.places.max(to.places).max(step.places);
        let (from, to, step) = (from.at(places), to.at(places), step.at(places));
        if step <= 0 || from > to {
            return None;
        }
        let count = Some((to - from) / step + 1).filter(|&count| count <= MOST_STEPS)?;
        Some(Self { from, step, places, count: u64::try_from(count).ok()? })
    }

    /// From and to, in the widest steps of a power of ten that leave more than ten thousand numbers.
    pub fn fine(from: Decimal, to: Decimal) -> Option<Self> {
        (0..=MOST_PLACES)
            .map_while(|places| Self::new(from, to, Decimal { digits: 1, places }))
            .find(|steps| steps.count > ENOUGH)
    }

    /// The number after so many steps.
    pub fn value(&self, position: u64) -> String {
        text(self.from + self.step * i128::from(position), self.places)
    }

    /// All of them.
    pub fn values(&self) -> Vec<String> {
        (0..self.count).map(|position| self.value(position)).collect()
    }
}

fn text(digits: i128, places: u32) -> String {
    let sign = if digits < 0 { "-" } else { "" };
    let scale = 10i128.pow(places);
    let (whole, fraction) = (digits.abs() / scale, digits.abs() % scale);
    match places as usize {
        0 => format!("{sign}{whole}"),
        places => format!("{sign}{whole}.{fraction:0places$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[track_caller]
    fn check(from: &str, to: &str, step: &str, expected: &[&str]) {
        let found = Steps::new(decimal(from), decimal(to), decimal(step)).unwrap();
        assert_eq!(found.values(), expected);
    }

    #[test]
    fn ranges_are_exact() {
        check("0.0", "0.6", "0.1", &["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]);
        check("0", "0.1", "0.05", &["0.00", "0.05", "0.10"]);
        check("-1", "1", "1", &["-1", "0", "1"]);
        check("-0.1", "0.1", "0.1", &["-0.1", "0.0", "0.1"]);
        check("0", "0.5", "0.2", &["0.0", "0.2", "0.4"]);
        check("1", "1", "1", &["1"]);
        assert_eq!(Steps::new(decimal("0"), decimal("1"), decimal("0")), None);
        assert_eq!(Steps::new(decimal("1"), decimal("0"), decimal("0.1")), None);
        assert_eq!(Steps::new(decimal("0"), decimal("9"), decimal("0.000000001")), None);
    }

    #[test]
    fn steps_that_nobody_named_are_fine() {
        let fine = |from: &str, to: &str| Steps::fine(decimal(from), decimal(to));
        let unit = fine("0", "1.0").unwrap();
        assert_eq!(
            (unit.count, unit.value(0), unit.value(1)),
            (10_001, "0.0000".into(), "0.0001".into())
        );
        assert_eq!(unit.value(10_000), "1.0000");
        let wide = fine("-0.5", "30000").unwrap();
        assert_eq!((wide.count, wide.value(1)), (30_001, "0.5".into()));
        assert_eq!(fine("0", "0.6").unwrap().value(1), "0.00001");
        assert_eq!(fine("0", "0.000000001"), None, "there are no such steps");
        assert_eq!((fine("1", "0"), fine("1", "1")), (None, None));
    }

    #[test]
    fn decimals_are_compared_by_value() {
        assert_eq!(decimal("0.1").cmp(&decimal("0.10")), Ordering::Equal);
        assert!(decimal("-.5") < decimal("0.0") && decimal("9") < decimal("10"));
        for text in ["", ".", "-", "1e-3", "0.1.2", "x", "1_0", "99999999999999999999"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
        assert_eq!(decimal("-0.25").to_f64(), -0.25);
    }
}
