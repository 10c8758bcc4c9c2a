//! The k-th largest magnitude, found by counting: no sort, and no more memory than stated.
//!
//! Magnitudes are compared as the bits of |x|, which order like the numbers. A selection goes over
//! the elements in rounds: a sample brackets the threshold, one full round counts what lies outside
//! the bracket and collects what lies inside, and where the sample misled or memory is short, rounds
//! of histograms narrow it down. A last look at one piece finds which of several equal elements
//! is the last to survive.

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
    /// Nothing.
    Idle,
}

/// What a piece contributes to a selection in one round.
#[derive(Clone, Debug)]
pub enum RoundPartial {
    /// Nothing.
    Idle,
}
