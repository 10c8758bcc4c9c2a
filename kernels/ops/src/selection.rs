//! The k-th largest magnitude, found by counting: no sort, and no more memory than stated.
//!
//! Magnitudes are compared as the bits of |x|, which order like the numbers. A selection goes over
//! the elements in rounds: a sample brackets the threshold, one full round counts what lies outside
//! the bracket and collects what lies inside, and where the sample misled or memory is short, rounds
//! of histograms narrow it down. A last look at one piece finds which of several equal elements
//! is the last to survive.
//!
//! The result never depends on the sample, on the order in which pieces arrive or on the memory
//! allowed: these decide only how many rounds it takes.

mod keys;
mod sample;
mod state;

pub use keys::Keys;
pub use sample::SAMPLE_BLOCKS;
pub use state::Selection;

use crate::Precision;

/// Buckets of a histogram round: 11 bits of the key.
pub const BUCKETS: usize = 1 << BUCKET_BITS;

/// Bits of the key that one histogram round resolves. 2048 counters of 4 bytes fit into a quarter
/// of a first-level cache; three rounds resolve any f32.
const BUCKET_BITS: u32 = 11;

/// What becomes of elements that equal the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ties {
    /// Exactly k survive: of equal magnitudes those of lower index.
    Exact,
    /// All that equal the (k+1)-th largest survive too: the TIES paper's code.
    Inclusive,
}

/// Which elements survive: those whose magnitude bits exceed `key`, and of those equal to it the ones
/// whose index within the tensor is below `ties_before`.
///
/// Magnitude bits are those of [`Real::key`](crate::Real::key).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bits of the threshold's magnitude, in the precision of the computation (32 or 64 bits wide).
    pub key: u64,
    /// Elements equal to the threshold survive below this index.
    pub ties_before: u64,
}

impl Cut {
    /// Lets everything through.
    pub const ALL: Self = Self { key: 0, ties_before: u64::MAX };
    /// Lets nothing through.
    pub const NONE: Self = Self { key: u64::MAX, ties_before: 0 };
}

/// What a selection does with the magnitudes of a piece in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Nothing: the selection is done, or has no part in this round.
    Idle,
    /// Collects the keys of all elements it sees, in order of index.
    Collect {
        /// Most keys that one partial may hold.
        limit: usize,
    },
    /// Counts keys above, at and below two bounds and collects those strictly between them.
    Bracket {
        /// The lower bound, at most `high`.
        low: u64,
        /// The upper bound.
        high: u64,
        /// Most keys that one partial may hold.
        limit: usize,
    },
    /// Counts the keys from `low` to `high`, both included, by `(key − low) >> shift`, which is
    /// below [`BUCKETS`].
    Histogram {
        /// Lowest key counted.
        low: u64,
        /// Highest key counted.
        high: u64,
        /// Width of a bucket, as a power of two.
        shift: u32,
    },
    /// Finds the element that equals `key` and has `skip` such elements before it in the piece.
    FindTie {
        /// The key looked for.
        key: u64,
        /// How many elements equal to it come before.
        skip: u64,
    },
}

/// What a piece contributes to a selection in one round.
#[derive(Clone, Debug, PartialEq)]
pub enum RoundPartial {
    /// Nothing.
    Idle,
    /// Answers [`Round::Collect`].
    Collected {
        /// The keys in order of index.
        keys: Keys,
        /// Whether there were more than the limit, and `keys` therefore lacks some.
        overflow: bool,
    },
    /// Answers [`Round::Bracket`].
    Bracketed {
        /// Count of keys above the upper bound.
        above: u64,
        /// Count of keys at the upper bound.
        at_high: u64,
        /// Count of keys at the lower bound; 0 where both bounds are the same.
        at_low: u64,
        /// Count of keys below the lower bound.
        below: u64,
        /// Keys strictly between the bounds, in any order.
        inside: Keys,
        /// Whether there were more than the limit, and `inside` therefore lacks some.
        overflow: bool,
    },
    /// Answers [`Round::Histogram`]: [`BUCKETS`] counts.
    Counts(Vec<u32>),
    /// Answers [`Round::FindTie`]: index of the element within the tensor, if there is one.
    Tie(Option<u64>),
}

/// Which elements a round must be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// The stretches that [`Selection::sample_stretches`] names. Others do no harm.
    Sample,
    /// All elements of all members, piece by piece.
    Everything,
    /// One piece of one member.
    Piece {
        /// Which tensor of the group.
        member: usize,
        /// Which piece of it.
        piece: u64,
    },
}

/// What a selection wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundPlan {
    /// What workers do with what they are shown.
    pub round: Round,
    /// What they must be shown.
    pub coverage: Coverage,
}

/// The largest key there is: all NaN count as one magnitude just above infinity.
fn largest_key(precision: Precision) -> u64 {
    match precision {
        Precision::Single => (f32::INFINITY.to_bits() + 1).into(),
        Precision::Double => f64::INFINITY.to_bits() + 1,
    }
}
