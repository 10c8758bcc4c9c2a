//! What selections do with magnitudes: count, collect, and find one of several that are equal.

use std::array;

use mixdown_ops::Real;
use mixdown_ops::program::BLOCK;
use mixdown_ops::real::Key;
use mixdown_ops::selection::{BUCKETS, Round, RoundPartial};

use crate::block::{Block, CHUNK, Chunk};
use crate::features::{Features, Kernel};

/// Counters kept side by side: those of 32 bits fill one of the longest vectors.
const LANES: usize = 16;

/// Memory of a histogram.
pub(crate) const HISTOGRAM_BYTES: u64 = BUCKETS as u64 * 4;

/// What one selection has found in a piece so far. Memory stays from piece to piece.
#[derive(Debug)]
pub(crate) struct Sink<K> {
    round: Round,
    keys: Vec<K>,
    /// The keys of one block, with room for a vector beyond it.
    staged: Vec<K>,
    overflow: bool,
    elements: u64,
    counts: Counts,
    histogram: Vec<u32>,
    ties: u64,
    tie: Option<u64>,
}

/// Counts around the bounds of a bracket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    above: u64,
    at_high: u64,
    at_low: u64,
    inside: u64,
}

impl Counts {
    /// Adds how many keys are above the higher bound, at least that, above the lower one, at least that.
    pub(crate) fn add(&mut self, [above, from_high, above_low, from_low]: [u64; 4]) {
        self.above += above;
        self.at_high += from_high - above;
        self.at_low += from_low - above_low;
        // With one bound for both nothing lies between, and those above it are not among those from it.
        self.inside += above_low.saturating_sub(from_high);
    }
}

impl<K: Key> Sink<K> {
    pub(crate) fn new() -> Self {
        Self {
            round: Round::Idle,
            keys: Vec::new(),
            staged: vec![K::default(); BLOCK + LANES],
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
                for (key, value) in self.staged.iter_mut().zip(from) {
                    *key = value.key();
                }
                self.keep_staged(elements, limit);
            }
            Round::Bracket { low, high, limit } => {
                let (low, high) = (K::narrow(low), K::narrow(high));
                let kept = self.bracket(features, from, low, high, limit > 0);
                self.keep_staged(kept, limit);
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

    /// Counts a block around two bounds and stages the keys between them; yields how many those are.
    fn bracket<R: Real<Key = K>>(
        &mut self,
        features: Features,
        from: &[R],
        low: K,
        high: K,
        collect: bool,
    ) -> usize {
        let counts = &mut self.counts;
        #[cfg(target_arch = "x86_64")]
        if features.has_avx512()
            && let (Some(from), Some(staged)) = (R::singles(from), K::singles(&mut self.staged))
        {
            let bounds = (low.widen() as u32, high.widen() as u32);
            let staged = if collect { staged } else { &mut [] };
            // SAFETY: the processor has what the function enables: `has_avx512` says so.
            return unsafe { crate::bracket::bracket(from, bounds.0, bounds.1, staged, counts) };
        }
        let staged = &mut self.staged;
        if collect {
            features.run(Bracket::<_, true> { from, low, high, counts, staged })
        } else {
            features.run(Bracket::<_, false> { from, low, high, counts, staged })
        }
    }

    /// Keeps the first staged keys while there is room.
    fn keep_staged(&mut self, count: usize, limit: usize) {
        let room = limit.saturating_sub(self.keys.len());
        self.overflow |= count > room;
        self.keys.extend_from_slice(&self.staged[..count.min(room)]);
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
                    overflow: inside > self.keys.len() as u64,
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
    /// Of at least a block.
    staged: &'a mut [R::Key],
}

impl<R: Real, const COLLECT: bool> Kernel for Bracket<'_, R, COLLECT> {
    type Output = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let (low, high) = (self.low, self.high);
        let is_inside = |key: R::Key| (key > low) & (key < high);
        let mut staged = 0;
        // Side by side, and added up once per block: adding lanes costs more than comparing them.
        let mut above = [0_u32; LANES];
        let mut from_high = [0_u32; LANES];
        let mut above_low = [0_u32; LANES];
        let mut from_low = [0_u32; LANES];
        let (whole, rest) = self.from.as_chunks::<CHUNK>();
        for chunk in whole {
            let keys: Chunk<R::Key> = array::from_fn(|lane| chunk[lane].key());
            let mut any = [0_u32; LANES];
            for group in keys.as_chunks::<LANES>().0 {
                for lane in 0..LANES {
                    let key = group[lane];
                    above[lane] += u32::from(key > high);
                    from_high[lane] += u32::from(key >= high);
                    above_low[lane] += u32::from(key > low);
                    from_low[lane] += u32::from(key >= low);
                    any[lane] |= u32::from(is_inside(key));
                }
            }
            if COLLECT && any != [0; LANES] {
                let mut bits = bits(array::from_fn(|lane| u8::from(is_inside(keys[lane]))));
                while bits > 0 {
                    // There are no more keys than room; the remainder only spares a check.
                    self.staged[staged % BLOCK] = keys[bits.trailing_zeros() as usize % CHUNK];
                    staged += 1;
                    bits &= bits - 1;
                }
            }
        }
        for (lane, value) in rest.iter().enumerate() {
            let (lane, key) = (lane % LANES, value.key());
            above[lane] += u32::from(key > high);
            from_high[lane] += u32::from(key >= high);
            above_low[lane] += u32::from(key > low);
            from_low[lane] += u32::from(key >= low);
            if COLLECT && is_inside(key) {
                self.staged[staged % BLOCK] = key;
                staged += 1;
            }
        }
        let sum = |lanes: [u32; LANES]| u64::from(lanes.iter().sum::<u32>());
        self.counts.add([above, from_high, above_low, from_low].map(sum));
        staged
    }
}

/// Bytes that are 0 or 1 as the bits of a number, the first lowest.
#[inline(always)]
fn bits(flags: [u8; CHUNK]) -> u64 {
    // Each product moves the eight bytes' bits side by side into its highest byte.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let mut bits = 0;
    for (position, eight) in flags.as_chunks::<8>().0.iter().enumerate() {
        let gathered = u64::from_le_bytes(*eight).wrapping_mul(GATHER) >> 56;
        bits |= gathered << (8 * position);
    }
    bits
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
