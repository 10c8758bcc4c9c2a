//! The experts of an objective: their weights, their targets A_i, and X_0.

use std::sync::Arc;

use mixdown_ops::matrix::{Matrix, Operands, Stop};

use super::super::dense::{accumulate, add_scaled, rows_of, zeros};
use super::super::rows::Blend;
use super::super::truncation::Truncation;

/// A_i.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Whole,
    Truncated(Arc<Truncation>),
    Centered(Arc<Truncation>),
    /// Truncated, or centered and truncated, whose `Σ_k·V_kᵀ` are rows of S: `U_k` over the root of the weight.
    Stacked {
        left: Matrix,
        first_row: usize,
        rank: usize,
        is_centered: bool,
    },
}

impl Target {
    fn needs_mean(&self) -> bool {
        matches!(self, Self::Centered(_) | Self::Stacked { is_centered: true, .. })
    }
}

/// An expert that is not zero.
#[derive(Clone, Debug)]
pub(crate) struct Expert {
    pub operand: usize,
    /// w_i.
    pub weight: f64,
    pub target: Target,
}

/// What the objective is made of, without the B_i.
#[derive(Clone, Debug)]
pub(crate) struct Experts {
    pub experts: Vec<Expert>,
    pub init: Blend,
    /// τ̄, over all operands, zero ones among them.
    pub mean: Blend,
    pub columns: usize,
}

impl Experts {
    /// Whether each A_i is the whole τ_i, and X_0 a sum of no others of so many operands.
    pub fn are_whole(&self, operands: usize) -> bool {
        let is_whole = |expert: &Expert| matches!(expert.target, Target::Whole);
        self.experts.len() == operands && self.experts.iter().all(is_whole)
    }

    /// Rows of X_0.
    pub fn init_block(
        &self,
        operands: &mut dyn Operands,
        first: usize,
        rows: usize,
    ) -> Result<Matrix, Stop> {
        self.init.block(operands, first, rows)
    }

    /// Calls with the same rows of each A_i, one after the other. `stack` is S, where there is one.
    pub fn each_target(
        &self,
        operands: &mut dyn Operands,
        first: usize,
        rows: usize,
        stack: Option<&Matrix>,
        mut visit: impl FnMut(usize, Matrix) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mean = match self.experts.iter().any(|expert| expert.target.needs_mean()) {
            true => self.mean.block(operands, first, rows)?,
            false => Matrix::default(),
        };
        for (index, expert) in self.experts.iter().enumerate() {
            let is_read = match &expert.target {
                Target::Whole => true,
                Target::Stacked { .. } => false,
                Target::Truncated(truncation) | Target::Centered(truncation) => {
                    truncation.reads_rows()
                }
            };
            let mut block = zeros(rows, self.columns);
            if is_read {
                operands.read(expert.operand, first, &mut block.values)?;
            }
            let target = match &expert.target {
                Target::Whole => block,
                &Target::Stacked { ref left, first_row, rank, is_centered } => {
                    let stack = stack.ok_or_else(|| Stop::Failed("a stack is gone".to_owned()))?;
                    if is_centered {
                        block.values.copy_from_slice(&mean.values);
                    }
                    let own = rows_of(stack, first_row, rank);
                    accumulate(&mut block, 1.0, rows_of(left, first, rows), own);
                    block
                }
                Target::Truncated(truncation) => truncation.apply(&block, first),
                Target::Centered(truncation) => {
                    if is_read {
                        add_scaled(&mut block.values, -1.0, &mean.values);
                    }
                    let mut target = truncation.apply(&block, first);
                    add_scaled(&mut target.values, 1.0, &mean.values);
                    target
                }
            };
            visit(index, target)?;
        }
        Ok(())
    }
}
