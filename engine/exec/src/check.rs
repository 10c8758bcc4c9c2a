//! Checks what a plan promises, so that the flows can rely on it.

use mixdown_diagnostics::Diagnostic;
use mixdown_ops::Program;
use mixdown_plan::{
    Job, Leaf, MatrixOperand, MatrixStep, Merge, Plan, Product, RowSource, Rows, TensorRef, Work,
};
use mixdown_tensor::DType;

use crate::assembled;
use crate::context::internal;
use crate::needs::Indexes;

/// Whether all that a plan refers to is there and fits.
pub(crate) fn check(plan: &Plan, indexes: Indexes<'_>) -> Result<(), Box<Diagnostic>> {
    let checker = Checker { plan, indexes };
    for rows in &plan.rows {
        checker.rows(rows).ok_or_else(|| internal("rows do not fit their tensors"))?;
    }
    for job in &plan.jobs {
        let fits = match &job.work {
            Work::Copy { from, equal_to, within } => checker.copy(job, *from, equal_to, *within),
            Work::Merge(merge) => checker.merge(job, merge),
        };
        fits.ok_or_else(|| internal(format!("the inputs of `{}` do not fit it", job.name)))?;
    }
    Ok(())
}

struct Checker<'a> {
    plan: &'a Plan,
    indexes: Indexes<'a>,
}

impl Checker<'_> {
    fn tensor(&self, tensor: TensorRef) -> Option<(DType, u64)> {
        let index = self.indexes.0.get(tensor.model as usize)?;
        let entry = index.tensors().get(tensor.tensor as usize)?;
        Some((entry.dtype, entry.shape.elements()))
    }

    fn copy(
        &self,
        job: &Job,
        from: TensorRef,
        equal_to: &[TensorRef],
        within: Option<f64>,
    ) -> Option<()> {
        let wanted = (job.dtype, job.shape.elements());
        let (dtype, elements) = self.tensor(from)?;
        if let Some(sources) = job.quantized.as_ref().and_then(|quantizer| quantizer.taken_over()) {
            let entry = &self.indexes.0[from.model as usize].tensors()[from.tensor as usize];
            let parts = entry.encoding.as_ref()?.parts();
            let mut pairs = job.stored().into_iter().zip(sources);
            let is_whole = pairs.all(|(own, source)| {
                parts.get(*source).is_some_and(|part| part.bytes() == own.shape.bytes(own.dtype))
            });
            return (elements == wanted.1 && is_whole && equal_to.is_empty()).then_some(());
        }
        ((dtype, elements) == wanted).then_some(())?;
        for &tensor in equal_to {
            let (dtype, elements) = self.tensor(tensor)?;
            let is_near = within.is_some() && dtype.is_float() && job.dtype.is_float();
            ((dtype == job.dtype || is_near) && elements == wanted.1).then_some(())?;
        }
        Some(())
    }

    fn merge(&self, job: &Job, merge: &Merge) -> Option<()> {
        let program = self.plan.programs.get(merge.program as usize)?;
        let fits = merge.leaves.len() == program.inputs as usize
            && merge.constants.len() == program.constants as usize
            && program.constants <= program.scalars
            && merge.streams.len() == program.streams as usize
            && !program.passes.is_empty()
            && job.dtype.is_float();
        fits.then_some(())?;
        for (number, step) in merge.matrices.iter().enumerate() {
            let elements = step.rows.checked_mul(step.columns)?;
            let is_of_weight = elements == matrix_elements(job, merge)?;
            let has_own_shape = step.op.has_own_shape();
            let layout = step.layout.stored();
            let lies_so = has_own_shape || layout == (step.rows, step.columns);
            ((is_of_weight || has_own_shape) && lies_so).then_some(())?;
            for operand in &step.operands {
                self.facts(operand, program)?;
                let elements = operand.rows.checked_mul(operand.columns)?;
                self.leaves(&operand.merge, elements, &merge.matrices[..number])?;
            }
        }
        match &merge.factor {
            None => self.leaves(merge, job.shape.elements(), &merge.matrices),
            Some(factor) => {
                let elements = factor.rows.checked_mul(factor.columns)?;
                let last = program.passes.last()?;
                let mut stored = last.inputs.iter().map(|&input| merge.leaves[input as usize]);
                let is_alone = stored.next() == Some(Leaf::Factor) && stored.next().is_none();
                (is_alone && factor.elements()? == job.shape.elements()).then_some(())?;
                let terms = factor.terms.iter().map(|(leaf, _)| leaf);
                let found = merge.leaves.iter().filter(|&&leaf| leaf != Leaf::Factor);
                self.leaves_of(terms.chain(found), elements, &merge.matrices)
            }
        }
    }

    /// Whether an operand's program is of one pass, and gets from its job what it reads.
    fn facts(&self, operand: &MatrixOperand, job: &Program) -> Option<()> {
        let MatrixOperand { merge, facts, .. } = operand;
        let program = self.plan.programs.get(merge.program as usize)?;
        let [pass] = program.passes.as_slice() else { return None };
        let scalars = merge.constants.len() + facts.scalars.len();
        let fits = pass.prelude.is_empty()
            && merge.matrices.is_empty()
            && merge.leaves.len() == program.inputs as usize
            && merge.constants.len() == program.constants as usize
            && scalars == program.scalars as usize
            && facts.cuts.len() == program.cuts as usize
            && facts.scalars.iter().all(|&scalar| scalar < job.scalars)
            && facts.cuts.iter().all(|&cut| cut < job.cuts);
        fits.then_some(())
    }

    /// Whether each leaf has so many elements; these matrix ops have their results by then.
    fn leaves(&self, merge: &Merge, wanted: u64, steps: &[MatrixStep]) -> Option<()> {
        self.leaves_of(merge.leaves.iter(), wanted, steps)
    }

    fn leaves_of<'l>(
        &self,
        leaves: impl Iterator<Item = &'l Leaf>,
        wanted: u64,
        steps: &[MatrixStep],
    ) -> Option<()> {
        for leaf in leaves {
            let elements = match *leaf {
                Leaf::Tensor(tensor) => {
                    let (dtype, elements) = self.tensor(tensor)?;
                    dtype.is_float().then_some(elements)?
                }
                Leaf::Rows(rows) => {
                    let rows = self.plan.rows.get(rows as usize)?;
                    (rows.rows.len() as u64).checked_mul(rows.row_elements)?
                }
                Leaf::Assembled(number, dtype) => {
                    let one = self.plan.assembled.get(number as usize)?;
                    let is_sound = assembled::is_sound(one, |tensor| self.tensor(tensor));
                    (is_sound && one.dtype == dtype && dtype.is_float()).then_some(())?;
                    one.elements()?
                }
                Leaf::Product(product) => self.product(&product)?,
                Leaf::Matrix(step) => {
                    let step = steps.get(step as usize)?;
                    step.rows.checked_mul(step.columns)?
                }
                Leaf::Part(step, part) => {
                    let step = steps.get(step as usize)?;
                    let is_within = part.end()? <= step.rows.checked_mul(step.columns)?;
                    // Rows beneath those that are there are zeros, so that only columns must fit.
                    let fits = part.columns > 0
                        && wanted.is_multiple_of(part.columns)
                        && part.rows.checked_mul(part.columns)? <= wanted;
                    (is_within && fits).then_some(())?;
                    wanted
                }
                // Only the program that stores it reads a side.
                Leaf::Factor => return None,
            };
            (elements == wanted).then_some(())?;
        }
        Some(())
    }

    /// Elements of an adapter's update, whose factors have the sizes that it says.
    fn product(&self, product: &Product) -> Option<u64> {
        if product.rank == 0 {
            return product.rows.checked_mul(product.columns);
        }
        let (left, right) = (self.tensor(product.left)?, self.tensor(product.right)?);
        let (outer, inner) = match product.transposed {
            false => (product.rows, product.columns),
            true => (product.columns, product.rows),
        };
        let rank = u64::from(product.rank);
        let fits = left.0.is_float()
            && right.0.is_float()
            && left.1 == outer.checked_mul(rank)?
            && right.1 == inner.checked_mul(rank)?;
        fits.then(|| product.rows.checked_mul(product.columns))?
    }

    fn rows(&self, rows: &Rows) -> Option<()> {
        let mut counts = Vec::with_capacity(rows.tensors.len());
        for &tensor in &rows.tensors {
            let (dtype, elements) = self.tensor(tensor)?;
            dtype.is_float().then_some(())?;
            counts.push(elements);
        }
        let fits = |&(tensor, row): &(u32, u32)| {
            let end = (u64::from(row) + 1).checked_mul(rows.row_elements)?;
            (end <= *counts.get(tensor as usize)?).then_some(())
        };
        for row in &rows.rows {
            match row {
                &RowSource::Row(tensor, row) => fits(&(tensor, row))?,
                RowSource::Mean(sources) => {
                    sources.iter().try_for_each(|s| fits(s).ok_or(())).ok()?
                }
                RowSource::Zero | RowSource::MeanOfRows => {}
            }
        }
        Some(())
    }
}

/// Elements of the matrices that a job computes.
fn matrix_elements(job: &Job, merge: &Merge) -> Option<u64> {
    match &merge.factor {
        Some(factor) => factor.rows.checked_mul(factor.columns),
        None => Some(job.shape.elements()),
    }
}
