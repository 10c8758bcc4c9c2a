//! The rounds of one selection, as a state machine that does no work of its own on elements.

use super::keys::{nth_largest, walk_down};
use super::{
    BUCKET_BITS, BUCKETS, Coverage, Cut, Keys, Round, RoundPartial, RoundPlan, Ties, largest_key,
    sample,
};
use crate::Precision;
use crate::program::PIECE;

/// One selection over the tensors of a group, its members.
///
/// While [`next_round`](Self::next_round) gives a round: show workers what it covers, hand what they
/// found to [`absorb`](Self::absorb) in any order, and close with [`end_round`](Self::end_round).
/// Then [`cut`](Self::cut) tells which elements survive.
#[derive(Debug)]
pub struct Selection {
    members: Vec<u64>,
    total: u64,
    precision: Precision,
    ties: Ties,
    /// The threshold is the element of this rank, counted from 1 at the largest.
    rank: u64,
    key_budget: usize,
    stage: Stage,
}

/// Where a selection stands.
#[derive(Debug)]
enum Stage {
    /// Keys of a sample are coming in.
    Sample(Vec<Keys>),
    /// All keys are coming in.
    Gather { pieces: Vec<PieceTally>, overflow: bool },
    /// Counts around two bounds are coming in, and keys between them.
    Bracket { low: u64, high: u64, limit: usize, tally: Tally },
    /// Counts of an interval's parts are coming in.
    Histogram { interval: Interval, shift: u32, counts: Vec<u64> },
    /// One piece is searched for the last element that survives.
    FindTie { key: u64, skip: u64, member: usize, piece: u64, found: Option<u64> },
    /// All is known.
    Done(Outcome),
}

/// Keys known to hold the threshold, from `low` to `high`, both included.
#[derive(Clone, Copy, Debug)]
struct Interval {
    low: u64,
    high: u64,
    /// Elements above it.
    above: u64,
    /// Elements in it.
    count: u64,
}

/// What a bracket round knows of one piece.
#[derive(Debug)]
struct PieceTally {
    member: usize,
    piece: u64,
    at_high: u64,
    at_low: u64,
    keys: Keys,
}

/// What a bracket round knows of all pieces.
#[derive(Debug, Default)]
struct Tally {
    above: u64,
    at_high: u64,
    at_low: u64,
    below: u64,
    pieces: Vec<PieceTally>,
    collected: usize,
    overflow: bool,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    All,
    None,
    /// Ties survive in the members before `last.0`, and in that one below the index `last.1`;
    /// everywhere without `last`.
    Threshold {
        key: u64,
        last: Option<(usize, u64)>,
    },
}

impl Selection {
    /// A selection over tensors with these counts of elements. It collects at most `key_budget`
    /// keys, of 4 bytes in f32 and 8 in f64; a smaller budget costs more rounds.
    ///
    /// With `n` elements in all, `max(1, floor(density · n))` survive with [`Ties::Exact`]; with
    /// [`Ties::Inclusive`] all that are at least the element of rank `floor(density · n) + 1`.
    /// A density of 1 and more lets all survive, one of 0 and less none, without a round.
    pub fn new(
        members: &[u64],
        density: f64,
        ties: Ties,
        precision: Precision,
        key_budget: usize,
    ) -> Self {
        let total: u64 = members.iter().sum();
        Self::among(total as f64, members, density, ties, precision, key_budget)
    }

    /// The same with a density that is a share of `population` elements: the others are expected to be
    /// zero, and do not count.
    pub fn among(
        population: f64,
        members: &[u64],
        density: f64,
        ties: Ties,
        precision: Precision,
        key_budget: usize,
    ) -> Self {
        let total: u64 = members.iter().sum();
        // The conversion saturates, and a rank beyond all elements lets all survive.
        let wanted = (density * population).floor() as u64;
        let rank = match ties {
            Ties::Exact => wanted.max(1),
            Ties::Inclusive => wanted.saturating_add(1),
        };
        let all = match ties {
            Ties::Exact => rank >= total,
            Ties::Inclusive => rank > total,
        };
        let mut selection = Self {
            members: members.to_vec(),
            total,
            precision,
            ties,
            rank,
            key_budget,
            stage: Stage::Done(Outcome::All),
        };
        // A density that is NaN lets nothing through, rather than everything.
        if density.is_nan() || density <= 0.0 {
            selection.stage = Stage::Done(Outcome::None);
        } else if density < 1.0 && !all {
            selection.stage = selection.first_stage();
        }
        selection
    }

    /// The same where `count` elements survive, of equal magnitudes those of lower index: all with as many as
    /// there are, none without any. The [threshold](Self::threshold) is found in any case.
    pub fn counted(members: &[u64], count: f64, precision: Precision, key_budget: usize) -> Self {
        let total: u64 = members.iter().sum();
        let mut selection = Self {
            members: members.to_vec(),
            total,
            precision,
            ties: Ties::Exact,
            // The conversion saturates, and makes 0 of what is negative or NaN.
            rank: (count as u64).min(total),
            key_budget,
            stage: Stage::Done(Outcome::None),
        };
        if selection.rank > 0 {
            selection.stage = selection.first_stage();
        }
        selection
    }

    /// The least magnitude that survives; NaN where none does, or where all do without having been counted.
    /// Call it when [`next_round`](Self::next_round) gives none.
    pub fn threshold(&self) -> f64 {
        match (&self.stage, self.precision) {
            (Stage::Done(Outcome::Threshold { key, .. }), Precision::Single) => {
                f32::from_bits(*key as u32).into()
            }
            (Stage::Done(Outcome::Threshold { key, .. }), Precision::Double) => {
                f64::from_bits(*key)
            }
            _ => f64::NAN,
        }
    }

    fn first_stage(&self) -> Stage {
        if self.total <= PIECE && self.total <= self.key_budget as u64 {
            Stage::Gather { pieces: Vec::new(), overflow: false }
        } else if sample::sample_blocks(&self.members, self.key_budget) > 0 {
            Stage::Sample(Vec::new())
        } else {
            self.narrow(self.everything())
        }
    }

    /// What to do next; `None` when the cut is known.
    pub fn next_round(&self) -> Option<RoundPlan> {
        let everything = |round| RoundPlan { round, coverage: Coverage::Everything };
        Some(match &self.stage {
            Stage::Sample(_) => RoundPlan {
                round: Round::Collect { limit: self.key_budget },
                coverage: Coverage::Sample,
            },
            Stage::Gather { .. } => everything(Round::Collect { limit: self.key_budget }),
            &Stage::Bracket { low, high, limit, .. } => {
                everything(Round::Bracket { low, high, limit })
            }
            Stage::Histogram { interval, shift, .. } => everything(Round::Histogram {
                low: interval.low,
                high: interval.high,
                shift: *shift,
            }),
            &Stage::FindTie { key, skip, member, piece, .. } => RoundPlan {
                round: Round::FindTie { key, skip },
                coverage: Coverage::Piece { member, piece },
            },
            Stage::Done(_) => return None,
        })
    }

    /// Starts of the stretches, each a [`BLOCK`](crate::program::BLOCK) long or up to the tensor's
    /// end, that a sample takes from one member; ascending.
    ///
    /// Selections over the same members and budget take the same ones.
    pub fn sample_stretches(&self, member: usize) -> Vec<u64> {
        let count = sample::sample_blocks(&self.members, self.key_budget);
        sample::sample_stretches(&self.members, member, count)
    }

    /// Takes in what a worker found in one piece of one member, in any order. In a sample round the
    /// piece does not matter; in others each piece comes once.
    pub fn absorb(&mut self, member: usize, piece: u64, partial: RoundPartial) {
        let budget = self.key_budget;
        match (&mut self.stage, partial) {
            // Once the sample holds what it may, it is large enough.
            (Stage::Sample(sample), RoundPartial::Collected { keys, .. }) => {
                let held: usize = sample.iter().map(Keys::len).sum();
                if held + keys.len() <= budget {
                    sample.push(keys);
                }
            }
            (
                Stage::Gather { pieces, overflow },
                RoundPartial::Collected { keys, overflow: lost },
            ) => {
                *overflow |= lost;
                pieces.push(PieceTally { member, piece, at_high: 0, at_low: 0, keys });
            }
            (
                Stage::Bracket { tally, .. },
                RoundPartial::Bracketed { above, at_high, at_low, below, inside, overflow },
            ) => {
                tally.above += above;
                tally.at_high += at_high;
                tally.at_low += at_low;
                tally.below += below;
                tally.push(
                    PieceTally { member, piece, at_high, at_low, keys: inside },
                    overflow,
                    budget,
                );
            }
            (Stage::Histogram { counts, .. }, RoundPartial::Counts(found)) => {
                for (sum, count) in counts.iter_mut().zip(found) {
                    *sum += u64::from(count);
                }
            }
            (Stage::FindTie { found, .. }, RoundPartial::Tie(index)) => *found = index.or(*found),
            (stage, partial) => {
                unreachable!("a selection in {stage:?} cannot absorb {partial:?}")
            }
        }
    }

    /// Draws the conclusions of a round, when all that it covers was absorbed.
    pub fn end_round(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Done(Outcome::All));
        self.stage = match stage {
            Stage::Sample(sample) => self.end_sample(&sample),
            Stage::Gather { pieces, overflow: false } => self.end_gather(pieces),
            Stage::Gather { overflow: true, .. } => self.narrow(self.everything()),
            Stage::Bracket { low, high, tally, .. } => self.end_bracket(low, high, tally),
            Stage::Histogram { interval, shift, counts } => {
                self.end_histogram(interval, shift, &counts)
            }
            Stage::FindTie { key, member, piece, found, .. } => {
                // Without an answer the piece changed between rounds; keep it up to its end.
                let before = found.map_or((piece + 1) * PIECE, |index| index + 1);
                Stage::Done(Outcome::Threshold { key, last: Some((member, before)) })
            }
            done @ Stage::Done(_) => done,
        };
    }

    /// Which elements of a member survive. Call it when [`next_round`](Self::next_round) gives none.
    pub fn cut(&self, member: usize) -> Cut {
        match &self.stage {
            Stage::Done(Outcome::All) => Cut::ALL,
            Stage::Done(Outcome::None) => Cut::NONE,
            &Stage::Done(Outcome::Threshold { key, last }) => {
                let ties_before = match last {
                    Some((other, before)) if other == member => before,
                    Some((other, _)) if other < member => 0,
                    _ => u64::MAX,
                };
                Cut { key, ties_before }
            }
            stage => unreachable!("the cut was asked for in {stage:?}"),
        }
    }

    /// The interval that holds all keys.
    fn everything(&self) -> Interval {
        Interval { low: 0, high: largest_key(self.precision), above: 0, count: self.total }
    }

    fn end_sample(&self, sample: &[Keys]) -> Stage {
        match sample::bracket(sample, self.rank, self.total, self.precision) {
            Some((low, high)) => bracket_stage(low, high, self.key_budget),
            None => self.narrow(self.everything()),
        }
    }

    fn end_gather(&self, mut pieces: Vec<PieceTally>) -> Stage {
        pieces.sort_unstable_by_key(|piece| (piece.member, piece.piece));
        let Some((key, above)) = nth_largest(pieces.iter().map(|piece| &piece.keys), self.rank)
        else {
            return self.narrow(self.everything());
        };
        let ties = pieces.iter().map(|piece| piece.keys.count(key)).sum();
        let Some((piece, skip)) =
            self.last_tie(&pieces, above, ties, |piece| piece.keys.count(key))
        else {
            return Stage::Done(Outcome::Threshold { key, last: None });
        };
        let index = piece.keys.position(key, skip).unwrap_or(0);
        let last = Some((piece.member, piece.piece * PIECE + index + 1));
        Stage::Done(Outcome::Threshold { key, last })
    }

    fn end_bracket(&self, low: u64, high: u64, mut tally: Tally) -> Stage {
        let outside = tally.above + tally.at_high + tally.at_low + tally.below;
        let count = self.total.saturating_sub(outside);
        let to_high = tally.above + tally.at_high;
        if self.rank <= tally.above {
            let high_end = largest_key(self.precision);
            self.narrow(Interval { low: high + 1, high: high_end, above: 0, count: tally.above })
        } else if self.rank <= to_high {
            self.end_at(high, tally.above, tally.at_high, &mut tally.pieces, |piece| piece.at_high)
        } else if self.rank <= to_high + count {
            let lists = tally.pieces.iter().map(|piece| &piece.keys);
            match nth_largest(lists, self.rank - to_high) {
                Some((key, above)) if !tally.overflow => {
                    let ties = tally.pieces.iter().map(|piece| piece.keys.count(key)).sum();
                    let above = to_high + above;
                    self.end_at(key, above, ties, &mut tally.pieces, |piece| piece.keys.count(key))
                }
                _ => self.narrow(Interval { low: low + 1, high: high - 1, above: to_high, count }),
            }
        } else if self.rank <= to_high + count + tally.at_low {
            let above = to_high + count;
            self.end_at(low, above, tally.at_low, &mut tally.pieces, |piece| piece.at_low)
        } else {
            let above = to_high + count + tally.at_low;
            self.narrow(Interval { low: 0, high: low.saturating_sub(1), above, count: tally.below })
        }
    }

    fn end_histogram(&self, interval: Interval, shift: u32, counts: &[u64]) -> Stage {
        let (bucket, above) = walk_down(counts, interval.above, self.rank).unwrap_or_default();
        let low = interval.low + ((bucket as u64) << shift);
        let high = interval.high.min(low + ((1 << shift) - 1));
        self.narrow(Interval { low, high, above, count: counts[bucket] })
    }

    /// Looks closer at an interval: collects its keys if they fit, else counts its parts.
    fn narrow(&self, interval: Interval) -> Stage {
        let Interval { low, high, above, count } = interval;
        if low == high {
            return match self.surviving_ties(above, count) {
                None => Stage::Done(Outcome::Threshold { key: low, last: None }),
                // Counts per piece are missing: ask for them alone.
                Some(_) => bracket_stage(low, low, 0),
            };
        }
        if count <= self.key_budget as u64 {
            return bracket_stage(low.saturating_sub(1), high + 1, self.key_budget);
        }
        let bits = u64::BITS - (high - low).leading_zeros();
        let shift = bits.saturating_sub(BUCKET_BITS);
        Stage::Histogram { interval, shift, counts: vec![0; BUCKETS] }
    }

    /// Ends with this key, of which counts per piece are known; looks for the last survivor.
    fn end_at(
        &self,
        key: u64,
        above: u64,
        ties: u64,
        pieces: &mut [PieceTally],
        count: impl Fn(&PieceTally) -> u64,
    ) -> Stage {
        pieces.sort_unstable_by_key(|piece| (piece.member, piece.piece));
        let Some((tally, skip)) = self.last_tie(pieces, above, ties, &count) else {
            return Stage::Done(Outcome::Threshold { key, last: None });
        };
        let (member, piece) = (tally.member, tally.piece);
        if skip + 1 == count(tally) {
            // All of this piece's survive and none after it: its end is as good a bound.
            let last = Some((member, (piece + 1) * PIECE));
            return Stage::Done(Outcome::Threshold { key, last });
        }
        Stage::FindTie { key, skip, member, piece, found: None }
    }

    /// How many of the `ties` elements at the threshold survive when `above` lie above it; `None`
    /// if all do.
    fn surviving_ties(&self, above: u64, ties: u64) -> Option<u64> {
        let surviving = self.rank.saturating_sub(above);
        (self.ties == Ties::Exact && surviving < ties).then_some(surviving)
    }

    /// The piece that holds the last surviving tie, and how many ties come before it in that piece;
    /// `None` if all survive. The pieces are in order.
    fn last_tie<'a>(
        &self,
        pieces: &'a [PieceTally],
        above: u64,
        ties: u64,
        count: impl Fn(&PieceTally) -> u64,
    ) -> Option<(&'a PieceTally, u64)> {
        let mut left = self.surviving_ties(above, ties)?;
        for piece in pieces {
            let count = count(piece);
            if left <= count {
                return Some((piece, left - 1));
            }
            left -= count;
        }
        None
    }
}

fn bracket_stage(low: u64, high: u64, limit: usize) -> Stage {
    Stage::Bracket { low, high, limit, tally: Tally::default() }
}

impl Tally {
    /// Keeps a piece's keys while all that are kept fit; beyond that, only the counts matter.
    fn push(&mut self, mut piece: PieceTally, overflow: bool, budget: usize) {
        let precision = piece.keys.precision();
        self.collected = self.collected.saturating_add(piece.keys.len());
        if self.overflow {
            piece.keys = Keys::new(precision);
        }
        self.pieces.push(piece);
        if !self.overflow && (overflow || self.collected > budget) {
            self.overflow = true;
            self.pieces.iter_mut().for_each(|piece| piece.keys = Keys::new(precision));
        }
    }
}
