//! The nearest known name, for "did you mean".

/// The candidate that `word` was probably meant to be, if one is near enough.
///
/// Case, and `-` against `_`, count for nothing; otherwise every third character may be wrong, left
/// out, added, or swapped with its neighbor. Of equally near candidates the first is taken.
pub fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a (impl AsRef<str> + ?Sized + 'a)>,
) -> Option<&'a str> {
    let word = normalize(word);
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let mut best: Option<(usize, &'a str)> = None;
    for candidate in candidates {
        let candidate = candidate.as_ref();
        let other = normalize(candidate);
        if other.len() > LONGEST {
            continue;
        }
        let limit = (word.len().max(other.len()) / 3).max(usize::from(other.len() > 1));
        if word.len().abs_diff(other.len()) > limit {
            continue;
        }
        let distance = distance(&word, &other);
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Longer words are pasted texts, not typing mistakes; comparing them would take quadratic time.
const LONGEST: usize = 128;

fn normalize(word: &str) -> Vec<char> {
    word.chars().flat_map(char::to_lowercase).map(|c| if c == '-' { '_' } else { c }).collect()
}

/// Insertions, deletions, substitutions and swaps of neighbors that lead from `a` to `b`.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, &y) in b.iter().enumerate() {
            let mut cost = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                cost = cost.min(before_last[j - 1] + 1);
            }
            row.push(cost);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[&str] =
        &["merge_method", "models", "base_model", "dtype", "density", "weight", "t"];

    #[track_caller]
    fn check(word: &str, expected: Option<&str>) {
        assert_eq!(nearest(word, KEYS.iter().copied()), expected, "{word}");
    }

    #[test]
    fn typing_mistakes_are_recognized() {
        check("merge_metod", Some("merge_method"));
        check("modles", Some("models"));
        check("wieght", Some("weight"));
        check("Density", Some("density"));
        check("base-model", Some("base_model"));
        check("densiti", Some("density"));
    }

    #[test]
    fn other_words_are_not() {
        check("vocabulary", None);
        check("x", None);
        check("", None);
        check("lambda", None);
        check(&"m".repeat(10_000), None);
    }

    #[test]
    fn of_equals_the_first_wins() {
        assert_eq!(nearest("ab", ["ac", "ad"]), Some("ac"));
    }

    #[test]
    fn a_swap_costs_one() {
        let chars = |s: &str| s.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("ab"), &chars("ba")), 1);
        assert_eq!(distance(&chars("kitten"), &chars("sitting")), 3);
        assert_eq!(distance(&[], &chars("abc")), 3);
    }
}
