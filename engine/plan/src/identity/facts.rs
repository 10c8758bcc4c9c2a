//! What determines the facts about whole tensors that matrix ops are given.

use std::collections::HashMap;

use mixdown_ops::account::Account;
use mixdown_ops::program::Scope;
use mixdown_ops::{Instruction, Operand, Pass};

use super::{Digest, Identities};
use crate::plan::{FactsRead, Merge, Work};

impl Identities<'_> {
    /// The facts that an operand gets, all of them found by passes before this one.
    pub(super) fn facts_read(
        &self,
        merge: &Merge,
        before: usize,
        read: &FactsRead,
        to: &mut dyn Account,
    ) -> Option<()> {
        let mut numbers = Numbers::default();
        to.open("facts");
        self.passes(merge, before, before, &mut numbers, to)?;
        to.counts("scalars", read.scalars.iter().map(|&scalar| numbers.of(scalar)));
        to.counts("cuts", read.cuts.iter().copied());
        to.close();
        Some(())
    }

    /// The first `count` passes of a job, and the facts about groups that those before `known` find.
    fn passes(
        &self,
        merge: &Merge,
        count: usize,
        known: usize,
        numbers: &mut Numbers,
        to: &mut dyn Account,
    ) -> Option<()> {
        let passes = &self.plan.programs[merge.program as usize].passes;
        let mut mentioned: HashMap<u32, usize> = HashMap::new();
        to.word("precision", merge.precision.name());
        to.counts("streams", merge.streams.iter().copied());
        for (index, pass) in passes.iter().take(count).enumerate() {
            to.thing("pass", |to| numbers.renumbered(pass).account(to));
            for &input in &pass.inputs {
                self.leaf(merge, &merge.leaves[input as usize], to)?;
            }
            for group in groups(pass) {
                let group = merge.groups[group as usize];
                let nth = mentioned.entry(group).or_default();
                if index < known {
                    to.word("facts about a group", &self.group(group, *nth)?);
                }
                *nth += 1;
            }
        }
        // What follows the passes: scalars that are computed from what they found.
        if let Some(pass) = passes.get(count).filter(|_| known == count) {
            let prelude = Pass { prelude: pass.prelude.clone(), ..Pass::default() };
            for step in numbers.renumbered(&prelude).prelude {
                to.thing("scalar step", |to| step.account(to));
            }
        }
        for (scalar, constant) in (0..).zip(&merge.constants) {
            if let Some(number) = numbers.known.get(&scalar) {
                to.thing("scalar", |to| {
                    to.count("", *number);
                    to.number("is", *constant);
                });
            }
        }
        Some(())
    }

    /// A digest of what determines the n-th fact about a group.
    fn group(&self, group: u32, nth: usize) -> Option<String> {
        if let Some(known) = self.groups.borrow().get(&(group, nth)) {
            return known.clone();
        }
        let mut digest = Digest::default();
        let found = self.group_facts(group, nth, &mut digest).map(|()| digest.text());
        self.groups.borrow_mut().insert((group, nth), found.clone());
        found
    }

    fn group_facts(&self, group: u32, nth: usize, to: &mut dyn Account) -> Option<()> {
        for (position, &job) in self.plan.groups[group as usize].jobs.iter().enumerate() {
            let Work::Merge(merge) = &self.plan.jobs[job as usize].work else { continue };
            let passes = &self.plan.programs[merge.program as usize].passes;
            let mentions =
                |pass: &Pass| groups(pass).iter().any(|&own| merge.groups[own as usize] == group);
            let found = passes.iter().enumerate().filter(|(_, pass)| mentions(pass)).nth(nth);
            let Some((index, pass)) = found else { continue };
            // Which of the pass's facts are those of the group.
            let own: Vec<u32> = groups(pass)
                .into_iter()
                .filter(|&own| merge.groups[own as usize] == group)
                .collect();
            let layers = &self.plan.groups[group as usize].layers;
            to.open("member");
            to.counts("groups", own);
            to.maybe("layer", layers.get(position).copied());
            self.passes(merge, index + 1, index, &mut Numbers::default(), to)?;
            to.close();
        }
        Some(())
    }
}

/// The groups that a pass has facts about, in the order in which it names them.
fn groups(pass: &Pass) -> Vec<u32> {
    let reductions = pass.reductions.iter().map(|slot| slot.scope);
    let scopes = reductions.chain(pass.selections.iter().map(|slot| slot.scope));
    let named = scopes.filter_map(|scope| match scope {
        Scope::Group(group) => Some(group),
        Scope::Tensor => None,
    });
    let mut found = Vec::new();
    for group in named.chain(pass.standings.iter().map(|slot| slot.group)) {
        if !found.contains(&group) {
            found.push(group);
        }
    }
    found
}

/// Scalars by the order in which passes name them: in a program their numbers depend on constants that
/// only its output uses.
#[derive(Default)]
struct Numbers {
    known: HashMap<u32, u32>,
}

impl Numbers {
    fn of(&mut self, scalar: u32) -> u32 {
        let next = self.known.len() as u32;
        *self.known.entry(scalar).or_insert(next)
    }

    fn operands(&mut self, operands: &mut [Operand], arity: usize) {
        for (position, operand) in operands.iter_mut().enumerate() {
            match operand {
                Operand::Scalar(scalar) if position < arity => *scalar = self.of(*scalar),
                Operand::Scalar(unread) => *unread = 0,
                Operand::Register(_) => {}
            }
        }
    }

    fn renumbered(&mut self, pass: &Pass) -> Pass {
        let mut pass = pass.clone();
        for step in &mut pass.prelude {
            let arity = step.op.arity();
            for (position, scalar) in step.arguments.iter_mut().enumerate() {
                *scalar = if position < arity { self.of(*scalar) } else { 0 };
            }
            step.to = self.of(step.to);
        }
        for instruction in &mut pass.instructions {
            match instruction {
                Instruction::Map { op, arguments, .. } => self.operands(arguments, op.arity()),
                Instruction::Reduce { reduction, arguments, .. } => {
                    self.operands(arguments, reduction.arity());
                }
                Instruction::KeepRandom { density, .. } => {
                    self.operands(std::slice::from_mut(density), 1);
                }
                Instruction::Store { from } => self.operands(std::slice::from_mut(from), 1),
                Instruction::Load { .. }
                | Instruction::Round { .. }
                | Instruction::KeepLargest { .. }
                | Instruction::Select { .. } => {}
            }
        }
        for slot in &mut pass.reductions {
            slot.to = self.of(slot.to);
        }
        for slot in &mut pass.standings {
            (slot.of, slot.to) = (self.of(slot.of), self.of(slot.to));
        }
        for slot in &mut pass.selections {
            slot.density = self.of(slot.density);
            slot.among = slot.among.map(|among| self.of(among));
            slot.magnitude = slot.magnitude.map(|magnitude| self.of(magnitude));
        }
        pass
    }
}
