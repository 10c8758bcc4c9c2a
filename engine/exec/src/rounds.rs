//! The rounds of one pass: what its reductions and selections want to see, joined so that each
//! reading of the elements serves all of them.

use std::collections::{BTreeMap, BTreeSet};

use mixdown_diagnostics::Diagnostic;
use mixdown_ops::program::{BLOCK, PIECE, Scope, Standing, StandingSlot};
use mixdown_ops::selection::{Coverage, Cut, Round, RoundPlan, SAMPLE_BLOCKS, Selection};
use mixdown_ops::{Partial, Pass, Precision, Reduction};

use crate::context::{Facts, internal};
use crate::messages;
use crate::sums::{self, Fold};

/// Sampled blocks that one thread takes at a time: as many elements as in a quarter of a piece.
const SAMPLED_TOGETHER: usize = 16;

/// One tensor that takes part in a pass.
pub(crate) struct Part<'a> {
    pub(crate) pass: &'a Pass,
    /// The plan's groups, by position in the job's list.
    pub(crate) groups: &'a [u32],
    /// In each of these the layer that the tensor belongs to.
    pub(crate) layers: Vec<u32>,
    pub(crate) elements: u64,
    pub(crate) precision: Precision,
}

/// The state of one pass over one or several tensors, its members.
pub(crate) struct Rounds {
    members: Vec<MemberRounds>,
    machines: Vec<Machine>,
    sums: Vec<SharedSum>,
    /// For each comparison of layers: what is compared, and where it goes.
    standings: Vec<Vec<Compared>>,
    /// Whether the pass stores: then all elements must be seen even if no fact asks for them.
    stores: bool,
    /// Whether all elements were seen: then reductions are complete and what is stored is.
    complete: bool,
}

struct MemberRounds {
    elements: u64,
    /// Per selection of the pass: which machine, and which member of it. None in a pass that stores.
    slots: Vec<Option<(usize, usize)>>,
    folds: Vec<Fold>,
}

/// A selection, shared by the tensors of its scope.
struct Machine {
    selection: Selection,
    /// Its members, and the cuts and scalars that receive its results.
    targets: Vec<(usize, u32, Option<u32>)>,
    plan: Option<RoundPlan>,
}

/// A reduction, over the tensors of its scope: (member, slot of its pass, scalar that receives it).
struct SharedSum {
    reduction: Reduction,
    parts: Vec<(usize, usize, u32)>,
}

/// What a tensor brings to a comparison of layers.
struct Compared {
    member: usize,
    layer: u32,
    slot: StandingSlot,
}

/// Which selections a round serves: those that want this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sample,
    Everything,
    Pieces,
}

impl Kind {
    fn of(coverage: Coverage) -> Self {
        match coverage {
            Coverage::Sample => Self::Sample,
            Coverage::Everything => Self::Everything,
            Coverage::Piece { .. } => Self::Pieces,
        }
    }
}

/// One reading of some or all elements.
#[derive(Debug)]
pub(crate) struct Reading {
    kind: Kind,
    units: Units,
    /// Whether this is the reading in which reductions accumulate and results are stored.
    pub(crate) complete: bool,
}

#[derive(Debug)]
enum Units {
    /// Members, and the count of their pieces.
    Everything(Vec<Pieces>, u64),
    /// Some stretches only.
    List(Vec<Unit>),
}

/// All pieces of a member.
#[derive(Debug)]
struct Pieces {
    member: usize,
    /// Count of pieces of the members before it.
    before: u64,
    /// Per selection of the pass.
    rounds: Vec<Round>,
}

/// What one thread takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) member: usize,
    pub(crate) piece: u64,
    /// First element and count of elements of each stretch, ascending.
    pub(crate) stretches: Vec<(u64, u64)>,
    /// Per selection of the pass.
    pub(crate) rounds: Vec<Round>,
}

impl Reading {
    /// Count of units.
    pub(crate) fn len(&self) -> u64 {
        match &self.units {
            Units::Everything(_, count) => *count,
            Units::List(units) => units.len() as u64,
        }
    }

    /// Whether it goes over all elements of its members.
    pub(crate) fn is_everything(&self) -> bool {
        self.kind == Kind::Everything
    }

    /// The members that it goes over all elements of, ascending.
    pub(crate) fn members(&self) -> impl Iterator<Item = usize> {
        let members = match &self.units {
            Units::Everything(members, _) => members.as_slice(),
            Units::List(_) => &[],
        };
        members.iter().map(|pieces| pieces.member)
    }

    pub(crate) fn unit(&self, index: u64, elements: impl Fn(usize) -> u64) -> Unit {
        match &self.units {
            Units::List(units) => units[index as usize].clone(),
            Units::Everything(members, _) => {
                let at = members.partition_point(|pieces| pieces.before <= index) - 1;
                let Pieces { member, before, rounds } = &members[at];
                let piece = index - before;
                let stretches = vec![piece_stretch(piece, elements(*member))];
                Unit { member: *member, piece, stretches, rounds: rounds.clone() }
            }
        }
    }
}

fn piece_stretch(piece: u64, elements: u64) -> (u64, u64) {
    let first = piece * PIECE;
    (first, (elements - first).min(PIECE))
}

impl Rounds {
    /// Prepares the pass that `parts` make. `facts` hold the densities; `key_bytes` are shared by
    /// all selections.
    pub(crate) fn new(
        parts: &[Part<'_>],
        facts: &[Facts],
        stores: bool,
        key_bytes: u64,
    ) -> Result<Self, Box<Diagnostic>> {
        let mut rounds = Self {
            members: Vec::with_capacity(parts.len()),
            machines: Vec::new(),
            sums: Vec::new(),
            standings: Vec::new(),
            stores,
            complete: false,
        };
        for part in parts {
            let folds = part.pass.reductions.iter().map(|slot| Fold::new(slot.reduction));
            rounds.members.push(MemberRounds {
                elements: part.elements,
                slots: vec![None; part.pass.selections.len()],
                folds: folds.collect(),
            });
        }
        rounds.add_sums(parts)?;
        // What a pass that stores finds out, no later one would use.
        if !stores {
            rounds.add_machines(parts, facts, key_bytes)?;
            rounds.add_standings(parts)?;
        }
        Ok(rounds)
    }

    fn add_sums(&mut self, parts: &[Part<'_>]) -> Result<(), Box<Diagnostic>> {
        let mut shared = BTreeMap::new();
        for (member, part) in parts.iter().enumerate() {
            let mut ordinals = Ordinals::default();
            for (slot, reduction) in part.pass.reductions.iter().enumerate() {
                let key = ordinals.key(member, slot, reduction.scope, part.groups)?;
                let at = *shared.entry(key).or_insert_with(|| {
                    self.sums.push(SharedSum { reduction: reduction.reduction, parts: Vec::new() });
                    self.sums.len() - 1
                });
                self.sums[at].parts.push((member, slot, reduction.to));
            }
        }
        Ok(())
    }

    fn add_machines(
        &mut self,
        parts: &[Part<'_>],
        facts: &[Facts],
        key_bytes: u64,
    ) -> Result<(), Box<Diagnostic>> {
        // Grouped first, because a selection is made from all of its members.
        let mut shared: BTreeMap<Key, Vec<(usize, usize)>> = BTreeMap::new();
        for (member, part) in parts.iter().enumerate() {
            let mut ordinals = Ordinals::default();
            for (slot, selection) in part.pass.selections.iter().enumerate() {
                let key = ordinals.key(member, slot, selection.scope, part.groups)?;
                shared.entry(key).or_default().push((member, slot));
            }
        }
        let count = shared.len().max(1) as u64;
        for slots in shared.into_values() {
            let machine = self.machine(parts, facts, &slots, key_bytes / count)?;
            for (position, (member, slot)) in slots.into_iter().enumerate() {
                self.members[member].slots[slot] = Some((self.machines.len(), position));
            }
            self.machines.push(machine);
        }
        Ok(())
    }

    fn add_standings(&mut self, parts: &[Part<'_>]) -> Result<(), Box<Diagnostic>> {
        let mut shared: BTreeMap<Key, Vec<Compared>> = BTreeMap::new();
        for (member, part) in parts.iter().enumerate() {
            let mut ordinals = Ordinals::default();
            for &slot in &part.pass.standings {
                let key = ordinals.key(member, 0, Scope::Group(slot.group), part.groups)?;
                let layer = part.layers.get(slot.group as usize).copied();
                let layer = layer.ok_or_else(|| internal("a job is in no layer of its group"))?;
                shared.entry(key).or_default().push(Compared { member, layer, slot });
            }
        }
        self.standings = shared.into_values().collect();
        Ok(())
    }

    fn machine(
        &self,
        parts: &[Part<'_>],
        facts: &[Facts],
        slots: &[(usize, usize)],
        key_bytes: u64,
    ) -> Result<Machine, Box<Diagnostic>> {
        let slot = |&(member, slot): &(usize, usize)| {
            let slot = &parts[member].pass.selections[slot];
            let scalar = |number: u32| facts[member].scalars[number as usize];
            let among = slot.among.map(scalar);
            let wanted = (scalar(slot.density), slot.is_count, among);
            (wanted, slot.ties, parts[member].precision)
        };
        let ((density, is_count, among), ties, precision) = slot(&slots[0]);
        let bits = |(density, is_count, among): (f64, bool, Option<f64>)| {
            (density.to_bits(), is_count, among.map(f64::to_bits))
        };
        let same = |found: ((f64, bool, Option<f64>), _, _)| {
            (bits(found.0), found.1, found.2) == (bits((density, is_count, among)), ties, precision)
        };
        if let Some(other) = slots.iter().find(|other| !same(slot(other))) {
            let other = slot(other).0.0;
            return Err(messages::differing_counts(is_count, density, other));
        }
        let members: Vec<u64> = slots.iter().map(|&(member, _)| parts[member].elements).collect();
        let budget = key_budget(members.iter().sum(), precision, key_bytes);
        let cut = |&(member, slot): &(usize, usize)| {
            let slot = &parts[member].pass.selections[slot];
            (member, slot.cut, slot.magnitude)
        };
        Ok(Machine {
            selection: match among {
                Some(among) => Selection::among(among, &members, density, ties, precision, budget),
                None if is_count => Selection::counted(&members, density, precision, budget),
                None => Selection::new(&members, density, ties, precision, budget),
            },
            targets: slots.iter().map(cut).collect(),
            plan: None,
        })
    }

    /// What to read next; `None` when all is known.
    pub(crate) fn next_round(&mut self) -> Option<Reading> {
        for machine in &mut self.machines {
            machine.plan = machine.plan.or_else(|| machine.selection.next_round());
        }
        let plans = self.machines.iter().filter_map(|machine| machine.plan);
        let wanted: Vec<Kind> = plans.map(|plan| Kind::of(plan.coverage)).collect();
        let unseen = !self.complete && (self.stores || !self.sums.is_empty());
        // A sample first: what reads everything can then serve the selections that sampled, too.
        if wanted.contains(&Kind::Sample) {
            Some(self.sample())
        } else if unseen || wanted.contains(&Kind::Everything) {
            Some(self.everything())
        } else {
            wanted.contains(&Kind::Pieces).then(|| self.single_pieces())
        }
    }

    /// What each selection of a member does in a round that covers this for it.
    fn rounds(&self, member: usize, covered: impl Fn(usize) -> Coverage) -> Vec<Round> {
        let round = |slot: &Option<(usize, usize)>| {
            let (machine, position) = (*slot)?;
            let plan = self.machines[machine].plan?;
            (plan.coverage == covered(position)).then_some(plan.round)
        };
        let slots = self.members[member].slots.iter();
        slots.map(|slot| round(slot).unwrap_or(Round::Idle)).collect()
    }

    fn sample(&self) -> Reading {
        let mut units = Vec::new();
        for (member, state) in self.members.iter().enumerate() {
            let rounds = self.rounds(member, |_| Coverage::Sample);
            let mut starts = Vec::new();
            for (slot, round) in state.slots.iter().zip(&rounds) {
                if let (Some((machine, position)), Round::Collect { .. }) = (*slot, round) {
                    starts.extend(self.machines[machine].selection.sample_stretches(position));
                }
            }
            starts.sort_unstable();
            starts.dedup();
            for starts in starts.chunks(SAMPLED_TOGETHER) {
                let stretch = |&start: &u64| (start, (state.elements - start).min(BLOCK as u64));
                units.push(Unit {
                    member,
                    piece: starts[0] / PIECE,
                    stretches: starts.iter().map(stretch).collect(),
                    rounds: rounds.clone(),
                });
            }
        }
        Reading { kind: Kind::Sample, units: Units::List(units), complete: false }
    }

    fn everything(&self) -> Reading {
        let complete = !self.complete;
        let (mut members, mut count) = (Vec::new(), 0);
        for (member, state) in self.members.iter().enumerate() {
            let rounds = self.rounds(member, |_| Coverage::Everything);
            let asked = rounds.iter().any(|round| *round != Round::Idle);
            let unseen = complete && (self.stores || !state.folds.is_empty());
            let pieces = state.elements.div_ceil(PIECE);
            if pieces > 0 && (unseen || asked) {
                members.push(Pieces { member, before: count, rounds });
                count += pieces;
            }
        }
        Reading { kind: Kind::Everything, units: Units::Everything(members, count), complete }
    }

    fn single_pieces(&self) -> Reading {
        let wanted = self.machines.iter().filter_map(|machine| match machine.plan?.coverage {
            Coverage::Piece { member, piece } => Some((machine.targets[member].0, piece)),
            _ => None,
        });
        // Selections that want the same piece share it.
        let wanted: BTreeSet<(usize, u64)> = wanted.collect();
        let unit = |(member, piece)| Unit {
            member,
            piece,
            stretches: vec![piece_stretch(piece, self.members[member].elements)],
            rounds: self.rounds(member, |position| Coverage::Piece { member: position, piece }),
        };
        let units = wanted.into_iter().map(unit).collect();
        Reading { kind: Kind::Pieces, units: Units::List(units), complete: false }
    }

    /// Takes in what a unit contributed.
    pub(crate) fn absorb(&mut self, reading: &Reading, unit: &Unit, partial: Partial) {
        let member = &mut self.members[unit.member];
        if reading.complete {
            for (fold, part) in member.folds.iter_mut().zip(partial.reductions) {
                fold.add(unit.piece, part);
            }
        }
        let found = member.slots.iter().zip(&unit.rounds).zip(partial.selections);
        for ((slot, round), partial) in found {
            if let (Some((machine, position)), true) = (*slot, *round != Round::Idle) {
                self.machines[machine].selection.absorb(position, unit.piece, partial);
            }
        }
    }

    /// Draws the conclusions of a reading whose units were all absorbed.
    pub(crate) fn end_round(&mut self, reading: &Reading) {
        for machine in &mut self.machines {
            if machine.plan.is_some_and(|plan| Kind::of(plan.coverage) == reading.kind) {
                machine.selection.end_round();
                machine.plan = None;
            }
        }
        self.complete |= reading.complete;
    }

    /// Writes what the pass found into the facts of its members.
    pub(crate) fn conclude(&self, facts: &mut [Facts]) {
        for sum in &self.sums {
            let values =
                sum.parts.iter().map(|&(member, slot, _)| self.members[member].folds[slot].value());
            let value = sums::combine(sum.reduction, values);
            for &(member, _, to) in &sum.parts {
                facts[member].scalars[to as usize] = value;
            }
        }
        for compared in &self.standings {
            // −0 becomes 0, so that the two are equal.
            let number = |one: &Compared| facts[one.member].scalars[one.slot.of as usize] + 0.0;
            let layers: BTreeMap<u32, f64> =
                compared.iter().map(|one| (one.layer, number(one))).collect();
            let mut order: Vec<(u32, f64)> = layers.into_iter().collect();
            // The sort keeps equal ones in the order of the layers.
            order.sort_by(|a, b| b.1.total_cmp(&a.1));
            for one in compared {
                let place = order.iter().position(|(layer, _)| *layer == one.layer);
                let value = match one.slot.standing {
                    Standing::Position => place.map_or(0, |place| place + 1),
                    Standing::Count => order.len(),
                };
                facts[one.member].scalars[one.slot.to as usize] = value as f64;
            }
        }
        for machine in &self.machines {
            for (position, &(member, cut, magnitude)) in machine.targets.iter().enumerate() {
                let found: Cut = machine.selection.cut(position);
                facts[member].cuts[cut as usize] = found;
                if let Some(magnitude) = magnitude {
                    facts[member].scalars[magnitude as usize] = machine.selection.threshold();
                }
            }
        }
    }
}

/// Which slots belong together: those of one member alone, or the n-th of a group in each member.
type Key = (Option<u32>, usize, usize);

#[derive(Default)]
struct Ordinals(BTreeMap<u32, usize>);

impl Ordinals {
    fn key(
        &mut self,
        member: usize,
        slot: usize,
        scope: Scope,
        groups: &[u32],
    ) -> Result<Key, Box<Diagnostic>> {
        let Scope::Group(group) = scope else { return Ok((None, member, slot)) };
        let missing = || internal("a job lacks a group that its program names");
        let group = *groups.get(group as usize).ok_or_else(missing)?;
        let ordinal = self.0.entry(group).or_default();
        *ordinal += 1;
        Ok((Some(group), *ordinal, 0))
    }
}

/// Most keys that a selection over this many elements may collect in this many bytes.
///
/// What lies between the bounds of a sample is 3 % of the elements where they do not repeat; more
/// room than that would not be used.
pub(crate) fn key_budget(elements: u64, precision: Precision, key_bytes: u64) -> usize {
    let width = match precision {
        Precision::Single => 4,
        Precision::Double => 8,
    };
    let useful = (elements / 25).max(elements.min(SAMPLE_BLOCKS * BLOCK as u64));
    usize::try_from((key_bytes / width).min(useful)).unwrap_or(usize::MAX)
}
