//! G and C, or the S and H that they are made of: `G = Sᵀ·S`, `C = H·S`.

use std::ops::Range;

use faer::MatMut;
use mixdown_ops::matrix::{Matrix, Operands, Stop};

use super::super::dense::{
    accumulate, add_lower_gram, add_product, dot, mirror, product, row_gram, rows_of, scale_rows,
    squared_norm, view, zeros,
};
use super::super::gram::right_gram;
use super::super::rows::{Blend, PANEL, panels};
use super::experts::{Expert, Experts, Target};

/// The quadratic form of the objective.
#[derive(Debug)]
pub(crate) enum System {
    /// S, `R × n`, and which of its rows belong to each expert.
    Stacked { stack: Matrix, ranges: Vec<Range<usize>> },
    /// S of B_i = τ_i, of which panels are read again where they are needed: `m·N × n`.
    Read,
    /// G, for B_i = τ_i that have no fewer rows together than columns.
    Grams { gram: Matrix, pull: Pull },
}

/// C.
#[derive(Debug)]
pub(crate) enum Pull {
    /// As a whole, `m × n`, and the constant term of the loss for each row.
    Held { pull: Matrix, constants: Vec<f64> },
    /// `w_i·B_iᵀ·B_i` of each expert, by which rows of A_i are multiplied.
    Grams(Vec<Matrix>),
    /// Of A_i = τ_i and `X_0 = Σ c_i·τ_i`: `c_i·G − w_i·B_iᵀ·B_i` of each expert, by which rows of τ_i are
    /// multiplied for those of the residual; and the constant term of the loss of all rows.
    Steps { steps: Vec<Matrix>, constant: f64 },
}

/// The residual of rows of X_0: `X_0·Sᵀ − H` or `X_0·G − C`, and their loss.
#[derive(Debug)]
pub(crate) struct Residual {
    pub values: Matrix,
    pub loss: f64,
    /// The residual times S, where S is read again for it.
    offset: Option<Matrix>,
}

/// Calls with panels of S whose rows are read: where each begins, and its rows.
pub(super) fn each_panel(
    experts: &Experts,
    operands: &mut dyn Operands,
    mut visit: impl FnMut(usize, Matrix),
) -> Result<(), Stop> {
    let all = operands.shape(0).0;
    for (index, expert) in experts.experts.iter().enumerate() {
        for (first, rows) in panels(all, PANEL) {
            let mut panel = Blend::one(expert.operand).block(operands, first, rows)?;
            scale_rows(&mut panel, |_| expert.weight.sqrt());
            visit(index * all + first, panel);
        }
    }
    Ok(())
}

/// Columns `first..first + count` of G, and of its rows those from `first` on, for S that is read.
pub(crate) fn gram_block(
    experts: &Experts,
    operands: &mut dyn Operands,
    first: usize,
    count: usize,
) -> Result<Matrix, Stop> {
    let rest = experts.columns - first;
    let mut block = zeros(rest, count);
    each_panel(experts, operands, |_, panel| {
        let panel = view(&panel);
        let rows = panel.subcols(first, rest).transpose();
        accumulate(&mut block, 1.0, rows, panel.subcols(first, count));
    })?;
    Ok(block)
}

impl System {
    /// G and C for B_i = τ_i.
    ///
    /// With no more rows than columns C is held: it is smaller than G, and comes from `m × m` products.
    /// Otherwise the experts' Gram matrices are held, so that rows of C come in parallel.
    pub fn whole(experts: &Experts, operands: &mut dyn Operands) -> Result<Self, Stop> {
        let (rows, columns) = operands.shape(0);
        let mut gram = zeros(columns, columns);
        if rows > columns {
            let mut grams = Vec::new();
            for expert in &experts.experts {
                let mut one = right_gram(operands, &Blend::one(expert.operand))?;
                scale_rows(&mut one, |_| expert.weight);
                super::super::dense::add_scaled(&mut gram.values, 1.0, &one.values);
                grams.push(one);
            }
            let pull = match experts.are_whole(operands.count()) {
                true => steps(experts, &gram, grams),
                false => Pull::Grams(grams),
            };
            return Ok(Self::Grams { gram, pull });
        }
        let mut pull = zeros(rows, columns);
        let mut constants = vec![0.0; rows];
        for index in 0..experts.experts.len() {
            let one = experts.experts[index].clone();
            let (operand, weight) = (one.operand, one.weight);
            let whole = Blend::one(operand).block(operands, 0, rows)?;
            let into = MatMut::from_row_major_slice_mut(&mut gram.values, columns, columns);
            add_lower_gram(into, weight, view(&whole).transpose());
            let single = Experts { experts: vec![one], ..experts.clone() };
            single.each_target(operands, 0, rows, None, |_, target| {
                let cross = match experts.experts[index].target {
                    Target::Whole => row_gram(view(&whole)),
                    _ => product(view(&target), view(&whole).transpose()),
                };
                for (row, constant) in constants.iter_mut().enumerate() {
                    *constant += weight * squared_norm(&cross.values[row * rows..(row + 1) * rows]);
                }
                accumulate(&mut pull, weight, view(&cross), view(&whole));
                Ok(())
            })?;
        }
        mirror(&mut gram);
        Ok(Self::Grams { gram, pull: Pull::Held { pull, constants } })
    }

    /// What the losses of rows lack of the loss, which is the same before and after they move.
    pub fn constant(&self) -> f64 {
        match self {
            Self::Grams { pull: Pull::Steps { constant, .. }, .. } => *constant,
            _ => 0.0,
        }
    }

    /// Rows of H or C, and the constant term of their loss for C.
    pub fn pull(
        &self,
        experts: &Experts,
        operands: &mut dyn Operands,
        first: usize,
        rows: usize,
    ) -> Result<(Matrix, f64), Stop> {
        match self {
            Self::Stacked { stack, ranges } => {
                let mut pull = zeros(rows, stack.rows);
                let rank = stack.rows;
                experts.each_target(operands, first, rows, Some(stack), |index, target| {
                    let range = ranges[index].clone();
                    let part = rows_of(stack, range.start, range.len());
                    let whole = MatMut::from_row_major_slice_mut(&mut pull.values, rows, rank);
                    let into = whole.subcols_mut(range.start, range.len());
                    add_product(into, 1.0, view(&target), part.transpose());
                    Ok(())
                })?;
                Ok((pull, 0.0))
            }
            Self::Read => {
                // Only what needs all of C at once asks for it.
                Err(Stop::Failed("the rows of a system that is read again are not held".to_owned()))
            }
            Self::Grams { pull: Pull::Held { pull, constants }, .. } => {
                let start = first * pull.columns;
                let values = pull.values[start..start + rows * pull.columns].to_vec();
                let constant = constants[first..first + rows].iter().sum();
                Ok((Matrix { rows, columns: pull.columns, values }, constant))
            }
            Self::Grams { pull: Pull::Grams(grams), .. } => {
                let mut pull = zeros(rows, experts.columns);
                let mut constant = 0.0;
                experts.each_target(operands, first, rows, None, |index, target| {
                    let one = product(view(&target), view(&grams[index]));
                    constant += dot(&one.values, &target.values);
                    super::super::dense::add_scaled(&mut pull.values, 1.0, &one.values);
                    Ok(())
                })?;
                Ok((pull, constant))
            }
            Self::Grams { gram, pull: Pull::Steps { steps, .. } } => {
                let init = experts.init_block(operands, first, rows)?;
                let mut pull = product(view(&init), view(gram));
                let residual = along_steps(steps, experts, operands, first, rows)?;
                super::super::dense::add_scaled(&mut pull.values, -1.0, &residual.values);
                Ok((pull, 0.0))
            }
        }
    }

    /// The residual and the loss of rows of X_0.
    pub fn residual(
        &self,
        experts: &Experts,
        operands: &mut dyn Operands,
        init: &Matrix,
        first: usize,
    ) -> Result<Residual, Stop> {
        if let Self::Grams { gram, pull: Pull::Steps { steps, .. } } = self {
            let values = along_steps(steps, experts, operands, first, init.rows)?;
            // With r = x·G − c: x·G·xᵀ − 2·x·c is 2·x·r − x·G·xᵀ.
            let loss = 2.0 * dot(&init.values, &values.values) - curvature(init, gram);
            return Ok(Residual { values, loss, offset: None });
        }
        if let Self::Read = self {
            return residual_read(experts, operands, init, first);
        }
        let (mut pull, constant) = self.pull(experts, operands, first, init.rows)?;
        let along = match self {
            Self::Stacked { stack, .. } => product(view(init), view(stack).transpose()),
            Self::Grams { gram, .. } => product(view(init), view(gram)),
            Self::Read => zeros(0, 0),
        };
        let mut values = along;
        super::super::dense::add_scaled(&mut values.values, -1.0, &pull.values);
        let loss = match self {
            Self::Stacked { .. } | Self::Read => squared_norm(&values.values),
            Self::Grams { .. } => {
                // x·G·xᵀ − 2·x·c + constant.
                for (pull, value) in pull.values.iter_mut().zip(&values.values) {
                    *pull = value - *pull;
                }
                dot(&init.values, &pull.values) + constant
            }
        };
        Ok(Residual { values, loss, offset: None })
    }

    /// The loss after a displacement.
    pub fn loss_after(
        &self,
        experts: &Experts,
        operands: &mut dyn Operands,
        residual: &Residual,
        displacement: &Matrix,
    ) -> Result<f64, Stop> {
        Ok(match self {
            Self::Stacked { stack, .. } => {
                let mut after = residual.values.clone();
                accumulate(&mut after, 1.0, view(displacement), view(stack).transpose());
                squared_norm(&after.values)
            }
            Self::Read => {
                let mut loss = 0.0;
                each_panel(experts, operands, |first, panel| {
                    let mut after = product(view(displacement), view(&panel).transpose());
                    let before = view(&residual.values).subcols(first, panel.rows);
                    let into = MatMut::from_row_major_slice_mut(
                        &mut after.values,
                        displacement.rows,
                        panel.rows,
                    );
                    faer::zip!(into, before)
                        .for_each(|faer::unzip!(into, before)| *into += *before);
                    loss += squared_norm(&after.values);
                })?;
                loss
            }
            Self::Grams { gram, .. } => {
                let slope = dot(&displacement.values, &residual.values.values);
                residual.loss + 2.0 * slope + curvature(displacement, gram)
            }
        })
    }

    /// Half the gradient at X_0.
    pub fn offset(&self, residual: &mut Residual) -> Matrix {
        match self {
            Self::Read => residual.offset.take().unwrap_or_default(),
            Self::Stacked { stack, .. } => product(view(&residual.values), view(stack)),
            Self::Grams { .. } => residual.values.clone(),
        }
    }

    /// G.
    pub fn gram(&self) -> Matrix {
        match self {
            Self::Stacked { stack, .. } => row_gram(view(stack).transpose()),
            Self::Grams { gram, .. } => gram.clone(),
            Self::Read => zeros(0, 0),
        }
    }
}

/// The residual of rows of X_0, of B_i = A_i = τ_i that are read again, and its product with S.
fn residual_read(
    experts: &Experts,
    operands: &mut dyn Operands,
    init: &Matrix,
    first: usize,
) -> Result<Residual, Stop> {
    let (all, rows) = (operands.shape(0).0, init.rows);
    let mut values = zeros(rows, experts.experts.len() * all);
    let mut offset = zeros(rows, experts.columns);
    for (index, expert) in experts.experts.iter().enumerate() {
        let mut away = init.clone();
        let own = Blend::one(expert.operand).block(operands, first, rows)?;
        super::super::dense::add_scaled(&mut away.values, -1.0, &own.values);
        let single = Experts { experts: vec![expert.clone()], ..experts.clone() };
        each_panel(&single, operands, |start, panel| {
            let along = product(view(&away), view(&panel).transpose());
            accumulate(&mut offset, 1.0, view(&along), view(&panel));
            let columns = values.columns;
            let into = MatMut::from_row_major_slice_mut(&mut values.values, rows, columns);
            into.subcols_mut(index * all + start, panel.rows).copy_from(view(&along));
        })?;
    }
    let loss = squared_norm(&values.values);
    Ok(Residual { values, loss, offset: Some(offset) })
}

/// `c_i·G − w_i·B_iᵀ·B_i` of each expert. With B_i = τ_i the constant `Σ w_i·‖τ_i·τ_iᵀ‖²` comes from the
/// same Gram matrices.
fn steps(experts: &Experts, gram: &Matrix, grams: Vec<Matrix>) -> Pull {
    let mut constant = 0.0;
    let step = |(expert, mut one): (&Expert, Matrix)| {
        constant += squared_norm(&one.values) / expert.weight;
        let factor = experts.init.factor(expert.operand);
        for (value, all) in one.values.iter_mut().zip(&gram.values) {
            *value = factor * all - *value;
        }
        one
    };
    let steps = experts.experts.iter().zip(grams).map(step).collect();
    Pull::Steps { steps, constant }
}

/// Rows of the residual from those of τ_i.
fn along_steps(
    steps: &[Matrix],
    experts: &Experts,
    operands: &mut dyn Operands,
    first: usize,
    rows: usize,
) -> Result<Matrix, Stop> {
    let mut residual = zeros(rows, experts.columns);
    experts.each_target(operands, first, rows, None, |index, target| {
        accumulate(&mut residual, 1.0, view(&target), view(&steps[index]));
        Ok(())
    })?;
    Ok(residual)
}

/// Columns of a block of [`curvature`].
const CURVATURE_BLOCK: usize = 128;

/// The sum of `x·G·xᵀ` over rows, from the lower triangle of G, at little more than half the price of `x·G`.
fn curvature(rows: &Matrix, gram: &Matrix) -> f64 {
    let columns = gram.columns;
    let mut sum = 0.0;
    for (first, count) in panels(columns, CURVATURE_BLOCK) {
        let part = |first: usize, count: usize| view(rows).subcols(first, count);
        let block = |row: usize, rows: usize| view(gram).submatrix(row, first, rows, count);
        let rest = columns - first - count;
        // What is below the diagonal counts twice.
        let mut along = product(part(first, count), block(first, count));
        add_product(
            MatMut::from_row_major_slice_mut(&mut along.values, rows.rows, count),
            2.0,
            part(first + count, rest),
            block(first + count, rest),
        );
        let pairs = along.values.chunks_exact(count).zip(rows.values.chunks_exact(columns));
        sum += pairs.map(|(along, row)| dot(along, &row[first..first + count])).sum::<f64>();
    }
    sum
}
