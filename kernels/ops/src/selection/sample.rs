//! Which elements a selection looks at first, and what bracket they suggest.

use super::keys::nth_largest;
use super::{Keys, largest_key};
use crate::program::{BLOCK, PIECE};
use crate::{Precision, random};

/// Most blocks in a sample. With 128 blocks of 1024 the rank of a sampled quantile strays by 0.14 %
/// of the elements where they are independent.
pub const SAMPLE_BLOCKS: u64 = 128;

/// How many blocks to look at: one per piece, as long as their keys fit into the memory allowed.
pub(super) fn sample_blocks(members: &[u64], key_budget: usize) -> u64 {
    let pieces: u64 = members.iter().map(|elements| elements.div_ceil(PIECE)).sum();
    pieces.min(SAMPLE_BLOCKS).min((key_budget / BLOCK) as u64)
}

/// Starts of the sampled blocks of one member, ascending: the group's blocks are split evenly, and
/// one of each part is taken at a place given by a hash, lest it follow the rows of a matrix.
pub(super) fn sample_stretches(members: &[u64], member: usize, count: u64) -> Vec<u64> {
    let blocks = |elements: &u64| elements.div_ceil(BLOCK as u64);
    let total: u64 = members.iter().map(blocks).sum();
    let before: u64 = members[..member].iter().map(blocks).sum();
    let own = before..before + blocks(&members[member]);
    let bound = |part: u64| (u128::from(total) * u128::from(part) / u128::from(count)) as u64;
    let place = |part: u64| {
        let (start, end) = (bound(part), bound(part + 1));
        start + u64::from(random::uniform_bits(total, part)) % (end - start)
    };
    let sampled = (0..count).filter(|&part| bound(part + 1) > bound(part)).map(place);
    sampled
        .filter(|block| own.contains(block))
        .map(|block| (block - before) * BLOCK as u64)
        .collect()
}

/// Bounds between which the `rank`-th largest of `total` elements probably lies, from a sample.
///
/// The margin around the wanted rank is, at a density of one half, 1 % of all elements for what
/// neighbors have in common, plus three standard deviations of a quantile of independent elements
/// (1.4 % in all for a full sample); it shrinks with √(p(1−p)) toward either end. A sample that
/// misleads costs further rounds, never the result.
pub(super) fn bracket(
    sample: &[Keys],
    rank: u64,
    total: u64,
    precision: Precision,
) -> Option<(u64, u64)> {
    let sampled: u64 = sample.iter().map(|list| list.len() as u64).sum();
    if sampled == 0 {
        return None;
    }
    let share = rank as f64 / total as f64;
    let spread = (share * (1.0 - share)).max(0.0).sqrt();
    let margin = spread * (0.02 + 3.0 / (sampled as f64).sqrt()) + 8.0 / sampled as f64;
    let at = |share: f64| {
        let rank = (share * sampled as f64) as u64;
        nth_largest(sample.iter(), rank.clamp(1, sampled))
    };
    let high = if share - margin > 0.0 { at(share - margin) } else { None };
    let low = if share + margin < 1.0 { at(share + margin) } else { None };
    let high = high.map_or(largest_key(precision) + 1, |(key, _)| key);
    Some((low.map_or(0, |(key, _)| key), high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_lie_inside_and_spread() {
        let members = [10 * PIECE + 5, 0, 3, 7 * PIECE];
        let count = sample_blocks(&members, usize::MAX);
        assert_eq!(count, 11 + 1 + 7);
        let mut found = 0;
        for (member, &elements) in members.iter().enumerate() {
            let starts = sample_stretches(&members, member, count);
            assert!(starts.iter().all(|start| *start < elements && start % BLOCK as u64 == 0));
            assert!(starts.windows(2).all(|pair| pair[0] < pair[1]));
            found += starts.len();
        }
        assert_eq!(found as u64, count);
        assert!(sample_stretches(&members, 3, count).len() >= 6);
    }

    #[test]
    fn a_sample_obeys_the_budget() {
        assert_eq!(sample_blocks(&[100 * PIECE], 10 * BLOCK), 10);
        assert_eq!(sample_blocks(&[100 * PIECE], BLOCK - 1), 0);
        assert_eq!(sample_blocks(&[1000 * PIECE], usize::MAX), SAMPLE_BLOCKS);
        assert_eq!(sample_stretches(&[100 * PIECE], 0, 0), []);
    }

    #[test]
    fn a_bracket_holds_the_rank() {
        let sample = [Keys::Single((0..10_000).collect())];
        let (low, high) = bracket(&sample, 2_000, 10_000, Precision::Single).unwrap();
        assert!(low < 8_000 && 8_000 < high, "{low} {high}");
        assert!(high - low < 600, "{low} {high}");
        let (low, high) = bracket(&sample, 1, 10_000, Precision::Single).unwrap();
        assert!(low < 9_999 && high > u64::from(f32::INFINITY.to_bits()));
        assert_eq!(bracket(&[], 1, 10, Precision::Single), None);
    }
}
