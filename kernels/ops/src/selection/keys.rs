//! Collected magnitudes, and their k-th largest without a copy.

use super::{BUCKET_BITS, BUCKETS};
use crate::Precision;

/// Collected keys, as wide as the precision needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Of f32.
    Single(Vec<u32>),
    /// Of f64.
    Double(Vec<u64>),
}

impl Keys {
    /// No keys yet.
    pub fn new(precision: Precision) -> Self {
        match precision {
            Precision::Single => Self::Single(Vec::new()),
            Precision::Double => Self::Double(Vec::new()),
        }
    }

    /// The precision they come from.
    pub(super) fn precision(&self) -> Precision {
        match self {
            Self::Single(_) => Precision::Single,
            Self::Double(_) => Precision::Double,
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Single(keys) => keys.len(),
            Self::Double(keys) => keys.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many equal `key`.
    pub(super) fn count(&self, key: u64) -> u64 {
        let mut count = 0;
        self.each(|other| count += u64::from(other == key));
        count
    }

    /// How many exceed `key`.
    pub(super) fn count_above(&self, key: u64) -> u64 {
        let mut count = 0;
        self.each(|other| count += u64::from(other > key));
        count
    }

    /// Position of the key that equals `key` and has `skip` such keys before it.
    pub(super) fn position(&self, key: u64, skip: u64) -> Option<u64> {
        let skip = usize::try_from(skip).ok()?;
        let found = match self {
            Self::Single(keys) => {
                let mut equal =
                    keys.iter().enumerate().filter(|(_, other)| u64::from(**other) == key);
                equal.nth(skip).map(|(position, _)| position)
            }
            Self::Double(keys) => {
                let mut equal = keys.iter().enumerate().filter(|(_, other)| **other == key);
                equal.nth(skip).map(|(position, _)| position)
            }
        };
        found.map(|position| position as u64)
    }

    /// The smallest and the largest key; of an empty list the largest number and 0.
    fn bounds(&self) -> (u64, u64) {
        match self {
            Self::Single(keys) if !keys.is_empty() => {
                let (low, high) = bounds(keys, u32::MAX, u32::MIN);
                (low.into(), high.into())
            }
            Self::Double(keys) if !keys.is_empty() => bounds(keys, u64::MAX, u64::MIN),
            _ => (u64::MAX, 0),
        }
    }

    /// Counts the keys from `low` to `high`, both included, by their distance from `low` without its
    /// lowest `shift` bits.
    fn histogram(&self, low: u64, high: u64, shift: u32, counts: &mut [u64]) {
        self.each(|key| {
            if low <= key && key <= high {
                counts[((key - low) >> shift) as usize] += 1;
            }
        });
    }

    /// Calls `visit` with each key.
    pub(super) fn each(&self, mut visit: impl FnMut(u64)) {
        match self {
            Self::Single(keys) => keys.iter().for_each(|&key| visit(key.into())),
            Self::Double(keys) => keys.iter().for_each(|&key| visit(key)),
        }
    }
}

/// The `rank`-th largest key of several lists together, counted from 1, and how many exceed it.
///
/// Histograms of 11 bits over the interval still in question: the lists are neither moved nor copied,
/// because they may hold all the memory that the selection was allowed. `None` when there are fewer keys.
pub(super) fn nth_largest<'a>(
    lists: impl Iterator<Item = &'a Keys> + Clone,
    rank: u64,
) -> Option<(u64, u64)> {
    // Keys of a bracket share their upper bits: from their own bounds two histograms do, not three.
    let (mut low, mut high) = (u64::MAX, 0);
    for list in lists.clone() {
        let (smallest, largest) = list.bounds();
        (low, high) = (low.min(smallest), high.max(largest));
    }
    let mut above = 0;
    while low < high {
        let bits = u64::BITS - (high - low).leading_zeros();
        let shift = bits.saturating_sub(BUCKET_BITS);
        let mut counts = vec![0_u64; BUCKETS];
        for list in lists.clone() {
            list.histogram(low, high, shift, &mut counts);
        }
        let (bucket, exceeding) = walk_down(&counts, above, rank)?;
        above = exceeding;
        low += (bucket as u64) << shift;
        high = high.min(low.saturating_add((1 << shift) - 1));
    }
    let found: u64 = lists.map(|list| list.count(low)).sum();
    (rank <= above + found).then_some((low, above))
}

/// The bucket that holds the element of this rank, when `above` elements lie above all buckets, and
/// how many lie above that bucket.
pub(super) fn walk_down(counts: &[u64], mut above: u64, rank: u64) -> Option<(usize, u64)> {
    for (bucket, &count) in counts.iter().enumerate().rev() {
        if rank <= above + count {
            return Some((bucket, above));
        }
        above += count;
    }
    None
}

fn bounds<K: Copy + Ord>(keys: &[K], highest: K, lowest: K) -> (K, K) {
    keys.iter().fold((highest, lowest), |(low, high), &key| (low.min(key), high.max(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nth_largest_over_several_lists() {
        let lists = [
            Keys::Single(vec![5, 1 << 31, 0]),
            Keys::Single(vec![]),
            Keys::Single(vec![5, u32::MAX]),
        ];
        let nth = |rank| nth_largest(lists.iter(), rank);
        assert_eq!(nth(1), Some((u32::MAX.into(), 0)));
        assert_eq!(nth(2), Some((1 << 31, 1)));
        assert_eq!(nth(3), Some((5, 2)));
        assert_eq!(nth(4), Some((5, 2)));
        assert_eq!(nth(5), Some((0, 4)));
        assert_eq!(nth(6), None);
        assert_eq!(nth_largest([Keys::Single(Vec::new())].iter(), 1), None);
        assert_eq!(nth_largest([Keys::Single(vec![7, 7])].iter(), 2), Some((7, 0)));
        assert_eq!(nth_largest([Keys::Single(vec![7, 7])].iter(), 3), None);
    }

    #[test]
    fn wide_keys_use_all_their_bits() {
        let lists = [Keys::Double(vec![u64::MAX, u64::MAX - 1, 1])];
        assert_eq!(nth_largest(lists.iter(), 1), Some((u64::MAX, 0)));
        assert_eq!(nth_largest(lists.iter(), 2), Some((u64::MAX - 1, 1)));
        assert_eq!(nth_largest(lists.iter(), 3), Some((1, 2)));
    }

    #[test]
    fn equal_keys_are_found_in_order() {
        let keys = Keys::Single(vec![3, 4, 3, 3]);
        assert_eq!(keys.count(3), 3);
        assert_eq!(keys.position(3, 0), Some(0));
        assert_eq!(keys.position(3, 2), Some(3));
        assert_eq!(keys.position(3, 3), None);
    }
}
