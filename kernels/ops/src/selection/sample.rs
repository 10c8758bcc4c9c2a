//! Which elements a selection looks at first, and what bracket they suggest.

use super::{Keys, largest_key};
use crate::program::{BLOCK, PIECE};
use crate::{Precision, random};

/// Most blocks in a sample. With 128 blocks of 1024 the rank of a sampled quantile strays by 0.14 %
/// of the elements where they are independent.
pub const SAMPLE_BLOCKS: u64 = 128;

/// How many blocks to look at: one per piece, as long as their keys fit into the memory allowed.
pub(super) fn sample_blocks(members: &[u64], key_budget: usize) -> u64 {
    let pieces: u64 = members.iter().map(|elements| elements.div_ceil(PIECE)).sum();
    // Half of it: putting the keys in order takes a copy.
    pieces.min(SAMPLE_BLOCKS).min((key_budget / 2 / BLOCK) as u64)
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
/// The margin around the wanted rank is four standard errors of the share of elements above the
/// sample's own quantile. The error is taken between the sampled blocks, because neighbors in a tensor
/// are alike: independent elements in a full sample give a margin of 0.6 % of all elements at a
/// density of one half, rows that differ in scale a wider one. A sample that misleads costs further
/// rounds, never the result.
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
    let margin = |middle: u64| 4.0 * standard_error(sample, middle, share) + 8.0 / sampled as f64;
    let (low, high) = match precision {
        Precision::Single => quantiles::<u32>(gather(sample), share, margin),
        Precision::Double => quantiles::<u64>(gather(sample), share, margin),
    };
    Some((low.unwrap_or(0), high.unwrap_or(largest_key(precision) + 1)))
}

/// The keys of all lists in one, so that they can be put in order.
fn gather<K: Copy + TryFrom<u64>>(sample: &[Keys]) -> Vec<K> {
    let mut all = Vec::new();
    for list in sample {
        list.each(|key| all.extend(K::try_from(key).ok()));
    }
    all
}

/// The keys with `share + margin` and with `share − margin` of all above them; none beyond the ends.
fn quantiles<K: Copy + Ord + Into<u64>>(
    mut keys: Vec<K>,
    share: f64,
    margin: impl Fn(u64) -> f64,
) -> (Option<u64>, Option<u64>) {
    let count = keys.len();
    // Ranks count from 1 at the largest, places from 0 at the smallest.
    let place = |share: f64| count - ((share * count as f64) as usize).clamp(1, count);
    let middle = place(share);
    let (below, &mut key, above) = keys.select_nth_unstable(middle);
    let margin = margin(key.into());
    let high = (share - margin > 0.0).then(|| match place(share - margin) {
        place if place > middle => *above.select_nth_unstable(place - middle - 1).1,
        _ => key,
    });
    let low = (share + margin < 1.0).then(|| match place(share + margin) {
        place if place < middle => *below.select_nth_unstable(place).1,
        _ => key,
    });
    (low.map(Into::into), high.map(Into::into))
}

/// Standard error of the share of elements above `key`, from how much the sampled lists differ in it.
///
/// Few lists say little of their spread: the error of independent elements, tripled, is its floor then.
fn standard_error(sample: &[Keys], key: u64, share: f64) -> f64 {
    let lists: Vec<(f64, f64)> = sample
        .iter()
        .filter(|list| !list.is_empty())
        .map(|list| (list.count_above(key) as f64, list.len() as f64))
        .collect();
    let count = lists.len() as f64;
    let elements: f64 = lists.iter().map(|(_, all)| all).sum();
    let mean = lists.iter().map(|(above, _)| above).sum::<f64>() / elements;
    let squares: f64 = lists.iter().map(|(above, all)| (above - mean * all).powi(2)).sum();
    let between = (squares * count / (count - 1.0).max(1.0)).sqrt() / elements;
    let independent = (share * (1.0 - share)).max(0.0).sqrt() / elements.sqrt();
    between.max(if lists.len() < 16 { 3.0 * independent } else { independent })
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
        assert_eq!(sample_blocks(&[100 * PIECE], 20 * BLOCK), 10);
        assert_eq!(sample_blocks(&[100 * PIECE], 2 * BLOCK - 1), 0);
        assert_eq!(sample_blocks(&[1000 * PIECE], usize::MAX), SAMPLE_BLOCKS);
        assert_eq!(sample_stretches(&[100 * PIECE], 0, 0), []);
    }

    #[test]
    fn a_bracket_holds_the_rank() {
        let list = |first: u32| Keys::Single((0..100).map(|step| step * 100 + first).collect());
        let sample: Vec<Keys> = (0..100).map(list).collect();
        let (low, high) = bracket(&sample, 2_000, 10_000, Precision::Single).unwrap();
        assert!(low < 8_000 && 8_000 < high, "{low} {high}");
        assert!(high - low < 600, "{low} {high}");
        let (low, high) = bracket(&sample, 1, 10_000, Precision::Single).unwrap();
        assert!(low < 9_999 && high > u64::from(f32::INFINITY.to_bits()));
        assert_eq!(bracket(&[], 1, 10, Precision::Single), None);
    }

    /// Blocks that differ as wholes say less than their count of elements promises.
    #[test]
    fn a_bracket_is_wider_where_blocks_differ() {
        let rising: Vec<Keys> =
            (0..100).map(|list| Keys::Single((list * 100..list * 100 + 100).collect())).collect();
        let (low, high) = bracket(&rising, 2_000, 10_000, Precision::Single).unwrap();
        assert!(high - low > 1_500, "{low} {high}");
    }
}
