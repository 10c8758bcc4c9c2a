//! How much a candidate's answers differ from its neighbors', and which candidate is chosen for it.

use std::ops::Range;

/// How differences are counted. N is the count of prompts, g an answer, k the candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Diff {
    /// Σ [g(k) ≠ g(k−1)] + [g(k) ≠ g(k+1)], 0 to 2N. AdaMMS, Algorithm 1.
    #[default]
    Sum,
    /// Σ [g(k) ≠ g(k−1) or g(k) ≠ g(k+1)], 0 to N. AdaMMS, appendix B.
    Union,
    /// Σ [g(k) ≠ g(k−1)], 0 to N; the last candidate can be chosen.
    Prev,
    /// (1 − mean cos(k, k−1)) + (1 − mean cos(k, k+1)) of supplied vectors, 0 to 4. AdaMMS, section 6.1.
    Embedding,
}

/// The words for these in a search's settings, and in its report.
pub const WORDS: [(&str, Diff); 4] = [
    ("sum", Diff::Sum),
    ("union", Diff::Union),
    ("prev", Diff::Prev),
    ("embedding", Diff::Embedding),
];

impl Diff {
    /// Its word.
    pub fn word(self) -> &'static str {
        WORDS.iter().find(|(_, diff)| *diff == self).map_or("", |(word, _)| word)
    }

    /// Which of `count` candidates can be chosen: end points are only neighbors.
    pub fn eligible(self, count: usize) -> Range<usize> {
        let end = if self == Self::Prev { count } else { count.saturating_sub(1) };
        1..end.max(1)
    }

    /// The most that one prompt adds.
    pub fn most_per_prompt(self) -> f64 {
        match self {
            Self::Sum => 2.0,
            Self::Union | Self::Prev => 1.0,
            Self::Embedding => 4.0,
        }
    }
}

/// Which of several equally good candidates is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ties {
    /// The first, nearest to the base model.
    #[default]
    Smallest,
    /// The last.
    Largest,
    /// The one in the middle, of two the first.
    Middle,
    /// None: the search fails.
    Error,
}

/// The words for these in a search's settings.
pub const TIES: [(&str, Ties); 4] = [
    ("smallest", Ties::Smallest),
    ("largest", Ties::Largest),
    ("middle", Ties::Middle),
    ("error", Ties::Error),
];

/// An answer as it is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Text, normalized.
    Text(String),
    /// There is none; it equals nothing, not even another that is missing.
    Error,
}

fn differs(a: &Answer, b: &Answer) -> bool {
    match (a, b) {
        (Answer::Text(a), Answer::Text(b)) => a != b,
        _ => true,
    }
}

/// Sums of differences over the prompts that a candidate and its neighbors have in common, for each
/// candidate that can be chosen.
///
/// **Shapes.** `answers[candidate][prompt]`; a candidate whose answering was stopped has fewer.
pub fn curve(diff: Diff, answers: &[Vec<Answer>]) -> Vec<Option<f64>> {
    curve_of(diff, answers, |a, b| f64::from(u8::from(differs(a, b))))
}

/// The same of vectors, as sums over prompts: a prompt adds 1 − cos for each neighbor.
pub fn vector_curve(vectors: &[Vec<Vec<f64>>]) -> Vec<Option<f64>> {
    curve_of(Diff::Embedding, vectors, |a, b| 1.0 - cosine(a, b))
}

fn curve_of<T>(diff: Diff, rows: &[Vec<T>], gap: impl Fn(&T, &T) -> f64) -> Vec<Option<f64>> {
    let eligible = diff.eligible(rows.len());
    let value = |k: usize| {
        if !eligible.contains(&k) {
            return None;
        }
        let (before, own) = (&rows[k - 1], &rows[k]);
        let shared = before.len().min(own.len());
        if diff == Diff::Prev {
            return Some((0..shared).map(|x| gap(&own[x], &before[x])).sum());
        }
        let after = &rows[k + 1];
        let both = |x: usize| (gap(&own[x], &before[x]), gap(&own[x], &after[x]));
        let prompts = (0..shared.min(after.len())).map(both);
        Some(match diff {
            Diff::Union => prompts.map(|(a, b)| a.max(b)).sum(),
            _ => prompts.map(|(a, b)| a + b).sum(),
        })
    };
    (0..rows.len()).map(value).collect()
}

/// The cosine of the angle between two vectors of one length; 0 where one of them is zero.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    // Scaled first, so that no square overflows; equal vectors stay equal, and their cosine is 1.
    let scaled = |vector: &[f64]| -> Vec<f64> {
        let most = vector.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        vector.iter().map(|x| if most > 0.0 { x / most } else { 0.0 }).collect()
    };
    let (a, b) = (scaled(a), scaled(b));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let length = (dot(&a, &a) * dot(&b, &b)).sqrt();
    if length == 0.0 { 0.0 } else { (dot(&a, &b) / length).clamp(-1.0, 1.0) }
}

/// The mean of each value and its neighbors up to `reach` away, those that there are.
pub fn smooth(curve: &[Option<f64>], reach: usize) -> Vec<Option<f64>> {
    let mean = |k: usize| {
        curve[k]?;
        let around = k.saturating_sub(reach)..(k + reach + 1).min(curve.len());
        let values: Vec<f64> = curve[around].iter().copied().flatten().collect();
        Some(values.iter().sum::<f64>() / values.len() as f64)
    };
    (0..curve.len()).map(mean).collect()
}

/// All candidates with the least value.
pub fn minima(curve: &[Option<f64>]) -> Vec<usize> {
    let values = || curve.iter().enumerate().filter_map(|(k, value)| Some((k, (*value)?)));
    let least = values().map(|(_, value)| value).fold(f64::INFINITY, f64::min);
    values().filter(|(_, value)| *value == least).map(|(k, _)| k).collect()
}

/// The one of several equally good candidates; none where that is for a person to decide.
pub fn choose(minima: &[usize], ties: Ties) -> Option<usize> {
    match ties {
        Ties::Smallest => minima.first().copied(),
        Ties::Largest => minima.last().copied(),
        Ties::Middle => minima.get(minima.len().checked_sub(1)? / 2).copied(),
        Ties::Error if minima.len() == 1 => minima.first().copied(),
        Ties::Error => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::Normalize;

    fn answers(rows: &[&str], normalize: &Normalize) -> Vec<Vec<Answer>> {
        let answer = |letter: char| match letter {
            '!' => Answer::Error,
            letter => Answer::Text(normalize.apply(&letter.to_string())),
        };
        rows.iter().map(|row| row.chars().map(answer).collect()).collect()
    }

    #[track_caller]
    fn check(diff: Diff, rows: &[&str], expected: &[f64]) {
        let as_is = Normalize { extract: None, steps: Vec::new() };
        let found = curve(diff, &answers(rows, &as_is));
        let values: Vec<f64> = found.iter().copied().flatten().collect();
        assert_eq!(values, expected, "{diff:?}");
        let first = found.iter().position(Option::is_some).unwrap_or(1);
        assert_eq!(first, 1, "the first candidate is never eligible");
    }

    /// Three inputs and four candidates, counted by hand.
    /// Steps: 1 differs from 0 in the third answer, 2 from 1 in the second, 3 from 2 in the first and
    /// the second. sum: 1+1 and 1+2. With lower case, B is b: 1 differs from 0 in one, 2 equals 1, and
    /// 3 differs from 2 in one, so union is 1 and 1.
    #[test]
    fn the_worked_example() {
        let rows = ["abc", "abd", "aBd", "xbd"];
        check(Diff::Sum, &rows, &[2.0, 3.0]);
        let lower = answers(&rows, &Normalize::default());
        assert_eq!(curve(Diff::Union, &lower), [None, Some(1.0), Some(1.0), None]);
        check(Diff::Union, &rows, &[2.0, 2.0]);
        check(Diff::Prev, &rows, &[1.0, 1.0, 2.0]);
    }

    #[test]
    fn an_input_counts_once_in_union_and_twice_in_sum() {
        check(Diff::Sum, &["a", "b", "c"], &[2.0]);
        check(Diff::Union, &["a", "b", "c"], &[1.0]);
    }

    #[test]
    fn what_is_missing_equals_nothing() {
        check(Diff::Sum, &["!", "!", "!"], &[2.0]);
        check(Diff::Prev, &["a", "!", "a"], &[1.0, 1.0]);
    }

    #[test]
    fn end_points_are_only_neighbors() {
        assert_eq!(Diff::Sum.eligible(7), 1..6);
        assert_eq!(Diff::Prev.eligible(7), 1..7);
        for count in 0..3 {
            assert!(Diff::Union.eligible(count).is_empty());
        }
        assert!(Diff::Prev.eligible(1).is_empty());
    }

    #[test]
    fn only_shared_prompts_count() {
        check(Diff::Sum, &["aaaa", "bb", "cccc"], &[4.0]);
    }

    /// cos((1,0),(0,1)) = 0 and cos((1,0),(-1,0)) = -1.
    #[test]
    fn vectors_differ_by_their_angle() {
        let vectors = vec![vec![vec![1.0, 0.0]], vec![vec![0.0, 1.0]], vec![vec![0.0, -3.0]]];
        assert_eq!(vector_curve(&vectors), [None, Some(3.0), None]);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert_eq!(cosine(&[2.0, 2.0], &[1.0, 1.0]), 1.0);
        assert_eq!(cosine(&[1e200, 0.0], &[1e200, 0.0]), 1.0, "squares do not overflow");
        assert_eq!(cosine(&[1e-200, 0.0], &[1.0, 0.0]), 1.0, "nor vanish");
        assert_eq!(cosine(&[], &[1.0]), 0.0);
    }

    /// sum [5,5,3,4,3] of a real pair: 0.3 and 0.5 are equally good.
    #[test]
    fn ties_are_broken_as_asked() {
        let curve: Vec<Option<f64>> =
            [None, Some(5.0), Some(5.0), Some(3.0), Some(4.0), Some(3.0), None].into();
        let least = minima(&curve);
        assert_eq!(least, [3, 5]);
        assert_eq!(choose(&least, Ties::Smallest), Some(3));
        assert_eq!(choose(&least, Ties::Largest), Some(5));
        assert_eq!(choose(&least, Ties::Middle), Some(3));
        assert_eq!(choose(&[3, 4, 5], Ties::Middle), Some(4));
        assert_eq!(choose(&least, Ties::Error), None);
        assert_eq!(choose(&[3], Ties::Error), Some(3));
        assert_eq!(choose(&[], Ties::Middle), None);
        // Means within range: (5+5)/2, (5+5+3)/3, (5+3+4)/3, (3+4+3)/3, (4+3)/2.
        let smoothed: Vec<f64> = smooth(&curve, 1).into_iter().flatten().collect();
        assert_eq!(smoothed, [5.0, 13.0 / 3.0, 4.0, 10.0 / 3.0, 3.5]);
        assert_eq!(smooth(&curve, 0), curve);
    }
}
