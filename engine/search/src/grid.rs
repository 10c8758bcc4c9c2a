//! The candidates: values of one parameter of a recipe or of several, as decimal text.
//!
//! Values are never floating-point numbers: they are names of folders, keys and overrides.

use std::cmp::Ordering;

/// One parameter and its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Its path in the recipe, as for `--set`.
    pub path: String,
    /// Its values, as written.
    pub values: Vec<String>,
}

/// A point of the grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Path and value of each parameter.
    pub set: Vec<(String, String)>,
    /// What it is called: the value, or `path=value` of each where there are several.
    pub label: String,
    /// The name of its folder.
    pub folder: String,
}

/// All points of the grid, the last parameter changing fastest.
pub fn candidates(axes: &[Axis]) -> Vec<Candidate> {
    let mut sets: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for axis in axes {
        let longer = |set: &Vec<(String, String)>| {
            let set = set.clone();
            axis.values.iter().map(move |value| {
                let mut set = set.clone();
                set.push((axis.path.clone(), value.clone()));
                set
            })
        };
        sets = sets.iter().flat_map(longer).collect();
    }
    sets.into_iter().map(candidate).collect()
}

fn candidate(set: Vec<(String, String)>) -> Candidate {
    let label = match set.as_slice() {
        [(_, value)] => value.clone(),
        set => {
            set.iter().map(|(path, value)| format!("{path}={value}")).collect::<Vec<_>>().join(", ")
        }
    };
    Candidate { folder: folder(&label), set, label }
}

/// The label as the name of a folder. Labels that differ have names that differ.
fn folder(label: &str) -> String {
    const LONGEST: usize = 80;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+=,".contains(c);
    let name = label.replace(", ", ",");
    if !name.is_empty()
        && name.len() <= LONGEST
        && !name.starts_with('.')
        && name.chars().all(is_plain)
    {
        return name;
    }
    let digest = blake3::hash(label.as_bytes()).to_hex();
    let name: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).take(40).collect();
    format!("_{name}-{}", &digest[..12])
}

/// A decimal number, exactly: digits over a power of ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    digits: i64,
    places: u32,
}

/// Places after the point that are counted. Nobody searches in finer steps.
const MOST_PLACES: u32 = 12;
/// Values of one range: far more than anybody merges.
const MOST_VALUES: usize = 1000;

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

/// From, to and step as values, with as many places as the one with the most; the end is one of them
/// if the steps meet it. None where that is no range, or too long a one.
pub fn range(from: Decimal, to: Decimal, step: Decimal) -> Option<Vec<String>> {
    let places = from.places.max(to.places).max(step.places);
    let (from, to, step) = (from.at(places), to.at(places), step.at(places));
    if step <= 0 || from > to {
        return None;
    }
    let count =
        usize::try_from((to - from) / step + 1).ok().filter(|&count| count <= MOST_VALUES)?;
    Some((0..count).map(|k| text(from + step * k as i128, places)).collect())
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
        let found = range(decimal(from), decimal(to), decimal(step)).unwrap();
        assert_eq!(found, expected);
    }

    #[test]
    fn ranges_are_exact() {
        check("0.0", "0.6", "0.1", &["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]);
        check("0", "0.1", "0.05", &["0.00", "0.05", "0.10"]);
        check("-1", "1", "1", &["-1", "0", "1"]);
        check("-0.1", "0.1", "0.1", &["-0.1", "0.0", "0.1"]);
        check("0", "0.5", "0.2", &["0.0", "0.2", "0.4"]);
        check("1", "1", "1", &["1"]);
        assert_eq!(range(decimal("0"), decimal("1"), decimal("0")), None);
        assert_eq!(range(decimal("1"), decimal("0"), decimal("0.1")), None);
        assert_eq!(range(decimal("0"), decimal("9"), decimal("0.000001")), None);
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

    #[test]
    fn several_parameters_make_a_product() {
        let axis = |path: &str, values: &[&str]| Axis {
            path: path.to_owned(),
            values: values.iter().map(|&value| value.to_owned()).collect(),
        };
        let one = candidates(&[axis("parameters.t", &["0.0", "0.1"])]);
        assert_eq!((one[1].label.as_str(), one[1].folder.as_str()), ("0.1", "0.1"));
        let two = candidates(&[axis("a", &["1", "2"]), axis("b", &["x", "../y"])]);
        assert_eq!(two.len(), 4);
        assert_eq!(two[2].label, "a=2, b=x");
        assert_eq!(two[2].folder, "a=2,b=x");
        assert!(
            !two[3].folder.contains('/') && two[3].folder.starts_with('_'),
            "{}",
            two[3].folder
        );
    }
}
