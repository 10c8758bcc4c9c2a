//! Tokens that hardly were trained: those of short rows, and those whose rows are like the rows of tokens that never
//! occur (Land and Bartolo 2024, arXiv:2405.05417).

use std::collections::BTreeSet;

use super::rows::Stored;
use super::source::Found;
use super::words::{Word, Words};

/// The share of rows that counts as too short, or too much like unused ones.
const SHARE: f64 = 0.01;

/// Below this cosine a row is not like unused ones, whatever the others are.
const LEAST_COSINE: f64 = 0.5;

/// Names of tokens that are there to be given a meaning later.
const UNUSED: [&str; 2] = ["unused_token", "reserved_special_token"];

/// The words whose tokens were trained, by the rows of the embedding and of the output layer, where that is a matrix
/// of its own or stands in for one.
pub(super) fn well_trained(
    words: &Words,
    embedding: &Stored,
    head: Option<&Stored>,
) -> Found<BTreeSet<Word>> {
    let rows = embedding.rows();
    let known: BTreeSet<u64> = words.values().flatten().copied().collect();
    let is_named_so = |word: &Word| UNUSED.iter().any(|name| word.text().contains(name));
    let named = words.iter().filter(|(word, _)| is_named_so(word)).flat_map(|(_, ids)| ids);
    let unused: BTreeSet<u64> =
        (0..rows).filter(|id| !known.contains(id)).chain(named.copied()).collect();
    let mut bad = unused.clone();
    if head.is_some() {
        let lengths = of_rows(embedding, |row| square(row).sqrt())?;
        let least = quantile(&lengths, SHARE);
        bad.extend(ids(&lengths, |length| length < least));
    }
    for matrix in [Some(embedding), head].into_iter().flatten() {
        let Some(mean) = mean_of(matrix, &unused)? else { continue };
        let length = square(&mean).sqrt();
        let cosine = |row: &[f64]| {
            let product: f64 = row.iter().zip(&mean).map(|(one, other)| one * other).sum();
            product / (square(row).sqrt() * length).max(1e-8)
        };
        let cosines = of_rows(matrix, cosine)?;
        let most = quantile(&cosines, 1.0 - SHARE).max(LEAST_COSINE);
        bad.extend(ids(&cosines, |cosine| cosine > most));
    }
    let is_trained = |ids: &Vec<u64>| ids.iter().any(|id| !bad.contains(id));
    Ok(words.iter().filter(|(_, ids)| is_trained(ids)).map(|(word, _)| word.clone()).collect())
}

fn square(row: &[f64]) -> f64 {
    row.iter().map(|value| value * value).sum()
}

/// A number for each row.
fn of_rows(matrix: &Stored, number: impl Fn(&[f64]) -> f64) -> Found<Vec<f64>> {
    let mut row = Vec::with_capacity(matrix.columns());
    let mut all = Vec::with_capacity(matrix.rows() as usize);
    for at in 0..matrix.rows() {
        row.clear();
        matrix.numbers(at, &mut row).map_err(|error| Box::new(error.diagnostic()))?;
        let wide: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
        all.push(number(&wide));
    }
    Ok(all)
}

fn ids(numbers: &[f64], is_one: impl Fn(f64) -> bool) -> Vec<u64> {
    (0..).zip(numbers).filter(|(_, number)| is_one(**number)).map(|(id, _)| id).collect()
}

/// The mean of some rows; none of none.
fn mean_of(matrix: &Stored, rows: &BTreeSet<u64>) -> Found<Option<Vec<f64>>> {
    let mut sum = vec![0.0; matrix.columns()];
    let mut row = Vec::with_capacity(matrix.columns());
    let mut count = 0.0;
    for &at in rows.iter().filter(|at| **at < matrix.rows()) {
        row.clear();
        matrix.numbers(at, &mut row).map_err(|error| Box::new(error.diagnostic()))?;
        sum.iter_mut().zip(&row).for_each(|(sum, &value)| *sum += f64::from(value));
        count += 1.0;
    }
    sum.iter_mut().for_each(|value| *value /= count);
    Ok((count > 0.0).then_some(sum))
}

/// A quantile, between two numbers by their distance.
fn quantile(numbers: &[f64], share: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = share * sorted.len().saturating_sub(1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let at = |at: usize| sorted.get(at).or(sorted.last()).copied().unwrap_or(0.0);
    at(below) + part * (at(below + 1) - at(below))
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn a_quantile_lies_between_numbers() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.25), 1.5);
        assert_eq!(quantile(&[5.0], 0.99), 5.0);
        assert_eq!(quantile(&[1.0, 2.0], 1.0), 2.0);
    }
}
