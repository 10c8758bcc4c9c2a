//! What determines results, written part by part: one walk over a plan, from which the plan's digest, the
//! identity of an unfinished output and the keys of stored results are taken, and which people can read.
//!
//! For a result of a matrix op it tells operations, numbers and the content of tensors, and nothing that can
//! change while the result stays: no path, no position in a plan, no name of a tensor.

mod facts;
mod whole;
mod writers;

use std::cell::RefCell;
use std::collections::HashMap;

use mixdown_ops::account::{Account, Told};

use crate::plan::{Leaf, Merge, Plan, TensorRef, Work};
use crate::plan::{Patch, PatchSource};
pub use whole::digest;
pub use writers::{Digest, Tree};

/// Counted up when what is told changes: digests of another format are of something else.
pub const FORMAT: u32 = 1;

/// What determines the results of a plan's matrix ops.
pub struct Identities<'p> {
    plan: &'p Plan,
    /// What a tensor holds, by digest.
    content: &'p dyn Fn(TensorRef) -> Option<String>,
    /// Digests of what determines facts about groups: the group, and which of its facts.
    groups: RefCell<HashMap<(u32, usize), Option<String>>>,
    /// Digests of programs, by position.
    programs: RefCell<HashMap<u32, String>>,
}

impl<'p> Identities<'p> {
    /// Of a plan. `content` tells what a tensor holds, by digest; without one for every tensor that a
    /// result is made from it has no identity.
    pub fn new(plan: &'p Plan, content: &'p dyn Fn(TensorRef) -> Option<String>) -> Self {
        Self { plan, content, groups: RefCell::default(), programs: RefCell::default() }
    }

    /// Tells what determines the result of a job's matrix op: its position among the job's.
    pub fn matrix(&self, job: u32, step: usize, to: &mut dyn Account) -> Option<()> {
        to.count("format", FORMAT);
        match &self.plan.jobs[job as usize].work {
            Work::Merge(merge) => self.step(merge, step, to),
            Work::Copy { .. } => None,
        }
    }

    fn step(&self, merge: &Merge, step: usize, to: &mut dyn Account) -> Option<()> {
        let found = &merge.matrices[step];
        found.op.account(to);
        to.word("precision", merge.precision.name());
        to.counts("shape", [found.rows, found.columns]);
        if !found.layout.is_plain() {
            to.thing("layout", |to| found.layout.account(to));
        }
        for operand in &found.operands {
            to.open("operand");
            self.values(&operand.merge, to);
            for (_, factor) in operand.combination.iter().flatten() {
                to.number("times", *factor);
            }
            for leaf in &operand.merge.leaves {
                self.leaf(merge, leaf, to)?;
            }
            if !operand.facts.is_empty() {
                self.facts_read(merge, found.before as usize, &operand.facts, to)?;
            }
            to.close();
        }
        Some(())
    }

    /// The program of a merge and the numbers that it is given.
    fn values(&self, merge: &Merge, to: &mut dyn Account) {
        let program = &self.plan.programs[merge.program as usize];
        if to.is_terse() {
            let mut programs = self.programs.borrow_mut();
            let digest = programs.entry(merge.program).or_insert_with(|| {
                let mut digest = Digest::default();
                program.account(&mut digest);
                digest.text()
            });
            to.word("program", digest);
        } else {
            to.thing("program", |to| program.account(to));
        }
        to.numbers("constants", &merge.constants);
        to.counts("streams", merge.streams.iter().copied());
    }

    fn held(&self, name: &'static str, tensor: TensorRef, to: &mut dyn Account) -> Option<()> {
        let content = (self.content)(tensor)?;
        to.word(name, &content);
        Some(())
    }

    fn leaf(&self, merge: &Merge, leaf: &Leaf, to: &mut dyn Account) -> Option<()> {
        let plan = self.plan;
        match leaf {
            Leaf::Tensor(tensor) => self.held("tensor", *tensor, to)?,
            Leaf::Rows(number) => {
                to.open("rows of an embedding");
                let rows = &plan.rows[*number as usize];
                rows.account(to);
                for &tensor in &rows.tensors {
                    self.held("tensor", tensor, to)?;
                }
                to.close();
            }
            Leaf::Assembled(number, dtype) => {
                to.open("parts of tensors");
                let assembled = &plan.assembled[*number as usize];
                let tensors = assembled.tensors();
                to.word("type", dtype.name());
                to.counts("shape", [assembled.rows, assembled.columns]);
                to.count("parts", assembled.patches.len() as u64);
                let mut parts = Digest::default();
                for part in &assembled.patches {
                    // Which of its tensors, and not where that stands in the plan.
                    part.account(&tensors, &mut parts);
                }
                to.word("digest", &parts.text());
                for tensor in tensors {
                    self.held("tensor", tensor, to)?;
                }
                to.close();
            }
            Leaf::Product(product) => {
                to.open("product");
                to.count("rank", product.rank);
                to.number("scale", product.scale.get());
                to.flag("transposed", product.transposed);
                if product.rank > 0 {
                    self.held("left", product.left, to)?;
                    self.held("right", product.right, to)?;
                }
                to.close();
            }
            Leaf::Matrix(step) => {
                to.open("result");
                self.step(merge, *step as usize, to)?;
                to.close();
            }
            Leaf::Part(step, part) => {
                to.open("part of a result");
                to.count("start", part.start);
                to.counts("steps", [part.row_step, part.column_step]);
                to.counts("shape", [part.rows, part.columns]);
                self.step(merge, *step as usize, to)?;
                to.close();
            }
            // A side of a result is none of an op's operands.
            Leaf::Factor => to.tell("factor", Told::Nothing),
        }
        Some(())
    }
}

impl Patch {
    /// Tells what it is, with tensors by their positions among these.
    fn account(&self, tensors: &[TensorRef], to: &mut dyn Account) {
        to.counts("rows", [self.rows.start, self.rows.end]);
        to.counts("columns", [self.columns.start, self.columns.end]);
        match self.from {
            PatchSource::Fill(number) => to.count("fill", number),
            PatchSource::Tensor { tensor, start, row_step, column_step } => {
                let which = tensors.iter().position(|&known| known == tensor);
                to.thing("from", |to| {
                    to.maybe("tensor", which.map(|which| which as u64));
                    to.count("start", start);
                    to.counts("steps", [row_step, column_step]);
                });
            }
        }
    }
}
