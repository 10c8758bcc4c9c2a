//! The low-rank path: operands given as factors are expressed in a common basis of all their rows and
//! columns, where each is a small core, and ops that do not depend on the basis run on the cores.

use mixdown_ops::matrix::{Factors, Matrix, Operands, Prepared, Report, Stop};

use super::dense::{product, transposed, view, zeros};
use super::eigen::orthonormal;
use super::product::LowRank;

/// `τ_i = Q_Y·T_i·Q_Zᵀ` for all operands, with `R × R` cores.
#[derive(Debug)]
pub(crate) struct Cores {
    left: Matrix,
    right: Matrix,
    cores: Vec<Matrix>,
}

impl Cores {
    /// From operands that all are factors and together have fewer directions than the smaller side.
    pub fn of(operands: &mut dyn Operands) -> Result<Self, Stop> {
        let (rows, columns) = operands.shape(0);
        let mut all = Vec::new();
        for operand in 0..operands.count() {
            all.push(operands.factors(operand)?);
        }
        let rank = all.iter().map(|factors| factors.right.rows).sum();
        let mut lefts = zeros(rows, rank);
        let mut rights = zeros(0, columns);
        let mut offset = 0;
        for Factors { left, right } in &all {
            for (row, values) in left.values.chunks_exact(left.columns.max(1)).enumerate() {
                let start = row * rank + offset;
                lefts.values[start..start + left.columns].copy_from_slice(values);
            }
            super::dense::append_rows(&mut rights, right);
            offset += left.columns;
        }
        let (left, left_cores) = orthonormal(&lefts)?;
        let (right, right_cores) = orthonormal(&transposed(&rights))?;
        let mut cores = Vec::new();
        let mut offset = 0;
        for Factors { right, .. } in &all {
            let a = view(&left_cores).subcols(offset, right.rows);
            let b = view(&right_cores).subcols(offset, right.rows);
            cores.push(product(a, b.transpose()));
            offset += right.rows;
        }
        Ok(Self { left, right: transposed(&right), cores })
    }

    /// Computes the op's result on the cores and gives it as factors: of rank `R`, or of that which the
    /// result on the cores has, where it comes as factors itself.
    pub fn expand(mut self, prepared: &dyn Prepared) -> Result<LowRank, Stop> {
        let rank = self.right.rows;
        if let Some(inner) = prepared.factors() {
            // Fewer directions than the operands have together.
            let core = product(view(&inner.left), view(&inner.right));
            let norm = Some(super::dense::squared_norm(&core.values).sqrt());
            let left = product(view(&self.left), view(&inner.left));
            let right = product(view(&inner.right), view(&self.right));
            let report = Report { norm, ..prepared.report() };
            return Ok(LowRank { factors: Factors { left, right }, report });
        }
        let mut core = zeros(rank, rank);
        let (start, end) = prepared.rows(&mut self, 0, &mut core.values)?;
        let mut report = prepared.report();
        report.loss = report.loss.map(|(before, after)| (before + start, after + end));
        report.norm = Some(super::dense::squared_norm(&core.values).sqrt());
        let left = product(view(&self.left), view(&core));
        Ok(LowRank { factors: Factors { left, right: self.right }, report })
    }
}

impl Operands for Cores {
    fn count(&self) -> usize {
        self.cores.len()
    }

    fn shape(&self, operand: usize) -> (usize, usize) {
        (self.cores[operand].rows, self.cores[operand].columns)
    }

    fn read(&mut self, operand: usize, first_row: usize, values: &mut [f64]) -> Result<(), Stop> {
        let start = first_row * self.cores[operand].columns;
        values.copy_from_slice(&self.cores[operand].values[start..start + values.len()]);
        Ok(())
    }

    fn read_single(
        &mut self,
        operand: usize,
        first_row: usize,
        values: &mut [f32],
    ) -> Result<(), Stop> {
        let start = first_row * self.cores[operand].columns;
        let core = &self.cores[operand].values[start..start + values.len()];
        values.iter_mut().zip(core).for_each(|(value, core)| *value = *core as f32);
        Ok(())
    }

    fn rank(&self, _: usize) -> Option<usize> {
        None
    }

    fn factors(&mut self, _: usize) -> Result<Factors, Stop> {
        Err(Stop::Failed("a core has no factors".into()))
    }
}

/// A zero result of rank 0 would have no basis: it is given with the report alone.
pub(crate) fn empty(rows: usize, columns: usize, report: Report) -> LowRank {
    LowRank { factors: Factors { left: zeros(rows, 0), right: zeros(0, columns) }, report }
}
