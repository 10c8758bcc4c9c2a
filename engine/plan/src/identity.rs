//! What determines the result of a matrix op, as a text: equal texts, equal results.
//!
//! A store hashes the text. It names operations, numbers and the content of tensors, and nothing that
//! can change while the result stays: no path, no position in a plan, no name of a tensor.

mod facts;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;

use mixdown_ops::matrix::MatrixOp;

use crate::assembled::{Patch, PatchSource};
use crate::plan::{Leaf, Merge, Plan, TensorRef, Work};

/// What determines the results of a plan's matrix ops.
pub struct Identities<'p> {
    plan: &'p Plan,
    /// What a tensor holds, by digest.
    content: &'p dyn Fn(TensorRef) -> Option<String>,
    /// Digests of what determines facts about groups: the group, and which of its facts.
    groups: RefCell<HashMap<(u32, usize), Option<String>>>,
}

impl<'p> Identities<'p> {
    /// Of a plan. `content` tells what a tensor holds, by digest; without one for every tensor that a
    /// result is made from it has no identity.
    pub fn new(plan: &'p Plan, content: &'p dyn Fn(TensorRef) -> Option<String>) -> Self {
        Self { plan, content, groups: RefCell::default() }
    }

    /// What determines the result of a job's matrix op.
    pub fn matrix(&self, job: u32, step: usize) -> Option<String> {
        match &self.plan.jobs[job as usize].work {
            Work::Merge(merge) => self.step(merge, step),
            Work::Copy { .. } => None,
        }
    }

    fn step(&self, merge: &Merge, step: usize) -> Option<String> {
        let Merge { matrices, precision, .. } = merge;
        let found = &matrices[step];
        let mut text = format!(
            "version {} {:?} {precision:?} [{}, {}]\n",
            MatrixOp::VERSION,
            found.op,
            found.rows,
            found.columns
        );
        if !found.layout.is_plain() {
            let _ = writeln!(text, "{:?}", found.layout);
        }
        for operand in &found.operands {
            let Merge { program, leaves, constants, streams, .. } = &operand.merge;
            let bits: Vec<u64> = constants.iter().map(|constant| constant.to_bits()).collect();
            let program = &self.plan.programs[*program as usize];
            // Writing to a text does not fail.
            let _ = writeln!(text, "operand {program:?} {bits:x?} {streams:x?}");
            for (_, factor) in operand.combination.iter().flatten() {
                let _ = writeln!(text, "times {:x}", factor.to_bits());
            }
            for leaf in leaves {
                self.leaf(merge, leaf, &mut text)?;
            }
            if !operand.facts.is_empty() {
                self.facts_read(merge, found.before as usize, &operand.facts, &mut text)?;
            }
        }
        Some(text)
    }

    fn leaf(&self, merge: &Merge, leaf: &Leaf, text: &mut String) -> Option<()> {
        let Self { plan, content, .. } = self;
        match leaf {
            Leaf::Tensor(tensor) => text.push_str(&content(*tensor)?),
            Leaf::Rows(number) => {
                let rows = &plan.rows[*number as usize];
                let _ = write!(text, "rows {} {:?}", rows.row_elements, rows.rows);
                for &tensor in &rows.tensors {
                    text.push_str(&content(tensor)?);
                }
            }
            Leaf::Assembled(number, dtype) => {
                let assembled = &plan.assembled[*number as usize];
                let tensors = assembled.tensors();
                let _ =
                    write!(text, "assembled {} {} {dtype:?}", assembled.rows, assembled.columns);
                for Patch { rows, columns, from } in &assembled.patches {
                    let _ = match from {
                        PatchSource::Fill(number) => {
                            write!(text, " {rows:?} {columns:?} fill {number}")
                        }
                        PatchSource::Tensor { tensor, start, row_step, column_step } => {
                            // Which of its tensors, and not where that stands in the plan.
                            let which = tensors.iter().position(|known| known == tensor);
                            write!(
                                text,
                                " {rows:?} {columns:?} {which:?} {start} {row_step} {column_step}"
                            )
                        }
                    };
                }
                for tensor in tensors {
                    text.push_str(&content(tensor)?);
                }
            }
            Leaf::Product(product) => {
                let (rank, scale) = (product.rank, product.scale);
                let _ = write!(text, "product {rank} {scale:?} {}", product.transposed);
                if rank > 0 {
                    text.push_str(&content(product.left)?);
                    text.push_str(&content(product.right)?);
                }
            }
            Leaf::Matrix(step) => {
                let inner = self.step(merge, *step as usize)?;
                let _ = write!(text, "matrix {{\n{inner}}}");
            }
            Leaf::Part(step, part) => {
                let inner = self.step(merge, *step as usize)?;
                let _ = write!(text, "{part:?} of matrix {{\n{inner}}}");
            }
            // No matrix op reads a side of a result.
            Leaf::Factor => return None,
        }
        text.push('\n');
        Some(())
    }
}
