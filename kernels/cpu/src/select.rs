//! What selections do with magnitudes: count, collect, and find one of several that are equal.

use mixdown_ops::Real;
use mixdown_ops::real::Key;
use mixdown_ops::selection::{BUCKETS, Round, RoundPartial};

use crate::block::{Block, CHUNK};
use crate::features::{Features, Kernel};

/// Memory of a histogram.
pub(crate) const HISTOGRAM_BYTES: u64 = BUCKETS as u64 * 4;

/// What one selection has found in a piece so far. Memory stays from piece to piece.
#[derive(Debug)]
pub(crate) struct Sink<K> {
    round: Round,
    keys: Vec<K>,
    overflow: bool,
    elements: u64,
    counts: Counts,
    histogram: Vec<u32>,
    ties: u64,
    tie: Option<u64>,
}

/// Counts around the bounds of a bracket.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    above: u64,
    at_high: u64,
    at_low: u64,
    inside: u64,
}

impl<K: Key> Sink<K> {
    pub(crate) fn new() -> Self {
        Self {
            round: Round::Idle,
            keys: Vec::new(),
            overflow: false,
            elements: 0,
            counts: Counts::default(),
            histogram: Vec::new(),
            ties: 0,
            tie: None,
        }
    }

    /// Forgets the last piece.
    pub(crate) fn begin(&mut self, round: Round) {
        self.round = round;
        self.keys.clear();
        self.overflow = false;
        self.elements = 0;
        self.counts = Counts::default();
        self.histogram.clear();
        if matches!(round, Round::Histogram { .. }) {
            self.histogram.resize(BUCKETS, 0);
        }
        self.ties = 0;
        self.tie = None;
    }

    /// Takes in the first `elements` of a block that starts at the tensor's element `first`.
    pub(crate) fn add<R: Real<Key = K>>(
        &mut self,
        features: Features,
        from: &Block<R>,
        first: u64,
        elements: usize,
    ) {
        let from = from.elements(elements);
        self.elements += elements as u64;
        match self.round {
            Round::Idle => {}
            Round::Collect { limit } => {
                let mut staged = [K::default(); mixdown_ops::program::BLOCK];
                for (key, value) in staged.iter_mut().zip(from) {
                    *key = value.key();
                }
                self.keep(&staged[..elements], limit);
            }
            Round::Bracket { low, high, limit } => {
                let mut staged = [K::default(); mixdown_ops::program::BLOCK];
                let (low, high) = (K::narrow(low), K::narrow(high));
                // With one bound for both, the count at `low` would be that at `high` again.
                let counts = &mut self.counts;
                let kept = if limit == 0 {
                    features.run(Bracket::<_, false> {
                        from,
                        low,
                        high,
                        counts,
                        staged: &mut staged,
                    })
                } else {
                    features.run(Bracket::<_, true> {
                        from,
                        low,
                        high,
                        counts,
                        staged: &mut staged,
                    })
                };
                self.keep(&staged[..kept], limit);
            }
            Round::Histogram { low, high, shift } => {
                for value in from {
                    let key = value.key().widen();
                    if (low..=high).contains(&key) {
                        self.histogram[((key - low) >> shift) as usize] += 1;
                    }
                }
            }
            Round::FindTie { key, skip } => {
                let key = K::narrow(key);
                let found = features.run(Equal { from, key });
                if self.tie.is_none() && self.ties + found > skip {
                    let mut equal =
                        from.iter().zip(first..).filter(|(value, _)| value.key() == key);
                    self.tie = equal.nth((skip - self.ties) as usize).map(|(_, index)| index);
                }
                self.ties += found;
            }
        }
    }

    /// Keeps keys while there is room.
    fn keep(&mut self, keys: &[K], limit: usize) {
        let room = limit.saturating_sub(self.keys.len());
        self.overflow |= keys.len() > room;
        self.keys.extend_from_slice(&keys[..keys.len().min(room)]);
    }

    /// What the piece contributes.
    pub(crate) fn finish(&self) -> RoundPartial {
        match self.round {
            Round::Idle => RoundPartial::Idle,
            Round::Collect { .. } => {
                RoundPartial::Collected { keys: K::list(&self.keys), overflow: self.overflow }
            }
            Round::Bracket { low, high, .. } => {
                let Counts { above, at_high, inside, .. } = self.counts;
                let at_low = if low == high { 0 } else { self.counts.at_low };
                RoundPartial::Bracketed {
                    above,
                    at_high,
                    at_low,
                    below: self.elements - above - at_high - at_low - inside,
                    inside: K::list(&self.keys),
                    overflow: self.overflow,
                }
            }
            Round::Histogram { .. } => RoundPartial::Counts(self.histogram.clone()),
            Round::FindTie { .. } => RoundPartial::Tie(self.tie),
        }
    }
}

/// Counts around two bounds, and stages the keys between them; yields how many those are.
struct Bracket<'a, R: Real, const COLLECT: bool> {
    from: &'a [R],
    low: R::Key,
    high: R::Key,
    counts: &'a mut Counts,
    staged: &'a mut [R::Key; mixdown_ops::program::BLOCK],
}

impl<R: Real, const COLLECT: bool> Kernel for Bracket<'_, R, COLLECT> {
    type Output = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let (low, high) = (self.low, self.high);
        let mut staged = 0;
        let (whole, rest) = self.from.as_chunks::<CHUNK>();
        for chunk in whole {
            staged = bracket::<R, COLLECT>(chunk, low, high, self.counts, self.staged, staged);
        }
        bracket::<R, COLLECT>(rest, low, high, self.counts, self.staged, staged)
    }
}

#[inline(always)]
fn bracket<R: Real, const COLLECT: bool>(
    chunk: &[R],
    low: R::Key,
    high: R::Key,
    counts: &mut Counts,
    staged: &mut [R::Key; mixdown_ops::program::BLOCK],
    mut count: usize,
) -> usize {
    let (mut above, mut at_high, mut at_low, mut inside) = (0_u32, 0_u32, 0_u32, 0_u32);
    for value in chunk {
        let key = value.key();
        above += u32::from(key > high);
        at_high += u32::from(key == high);
        at_low += u32::from(key == low);
        inside += u32::from((key > low) & (key < high));
    }
    counts.above += u64::from(above);
    counts.at_high += u64::from(at_high);
    counts.at_low += u64::from(at_low);
    counts.inside += u64::from(inside);
    if COLLECT && inside > 0 {
        for value in chunk {
            let key = value.key();
            // Written always, kept only if inside: no branch that could be mispredicted. The
            // remainder never changes the place, as there are no more keys than room; it spares a check.
            staged[count % staged.len()] = key;
            count += usize::from((key > low) & (key < high));
        }
    }
    count
}

/// Counts the elements with a key.
struct Equal<'a, R: Real> {
    from: &'a [R],
    key: R::Key,
}

impl<R: Real> Kernel for Equal<'_, R> {
    type Output = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        let mut count = 0_u32;
        for value in self.from {
            count += u32::from(value.key() == self.key);
        }
        count.into()
    }
}
