//! Ops that hold several whole matrices: which file runs which, and what they need.
//!
//! Results are held whole, or as factors where the operands are few directions.

mod core_space;
mod covariances;
mod covers;
mod factor_wise;
mod fold;
mod own_grams;
mod rotations;
pub(crate) mod svd;
mod swudi;

use mixdown_ops::matrix::joint::{Joint, Swudi};
use mixdown_ops::matrix::{Matrix, OperandShapes, Operands, Prepared, Report, Stop};

use super::check::{above_zero, as_fraction, check_rank, refuse};
use super::dense::{check_finite, zeros};

/// What is refused whatever the values.
pub(crate) fn check(op: &Joint, operands: &OperandShapes) -> Result<(), Stop> {
    match op {
        Joint::OwnGrams { tolerance } => as_fraction("tolerance", tolerance.get()),
        Joint::Covariances(op) => {
            above_zero("epsilon", op.epsilon.get())?;
            as_fraction("iso_rank", op.iso_rank.get())
        }
        Joint::Covers(op) => {
            check_rank(op.rank, operands)?;
            as_fraction("keep", op.keep.get())
        }
        Joint::Rotations(_) if operands.ranks.len() < 2 => refuse(
            format!("`{}` takes the base and task vectors, found one matrix", op.name()),
            "give it the experts' task vectors too",
        ),
        Joint::Fold { alpha } => as_fraction("alpha", alpha.get()),
        Joint::CoreSpace(op) => {
            if operands.ranks.iter().any(Option::is_none) {
                check_rank(op.rank, operands)?;
            }
            weights(op.weights.len(), operands)
        }
        Joint::FactorWise(op) => {
            if operands.ranks.iter().any(Option::is_none) {
                return refuse(
                    "factors are combined, and a model is not an adapter".into(),
                    "give adapters (`model: base+adapter`), or use a method over whole updates, such as `combination_type: svd` of `peft`",
                );
            }
            let mut ranks: Vec<usize> =
                operands.ranks.iter().flatten().copied().filter(|&rank| rank > 0).collect();
            ranks.dedup();
            if ranks.len() > 1 {
                let found: Vec<String> = ranks.iter().map(usize::to_string).collect();
                return refuse(
                    format!(
                        "factors of unequal ranks, {}, cannot be combined",
                        found.join(" and ")
                    ),
                    "combine adapters of one rank, or use a method over whole updates, such as `combination_type: svd` of `peft` or `core_space`",
                );
            }
            as_fraction("density", op.density.get())?;
            weights(op.weights.len(), operands)
        }
        Joint::Swudi(op) => {
            as_fraction("keep", op.keep.get())?;
            as_fraction("consensus_floor", op.consensus_floor.get())?;
            if op.is_aligned && operands.ranks.len() < 2 {
                return refuse(
                    format!("`{}` takes a time and task vectors", Joint::Swudi(*op).name()),
                    "give it the experts' task vectors too",
                );
            }
            Ok(())
        }
        Joint::Rotations(_) | Joint::Peak => Ok(()),
    }
}

fn weights(found: usize, operands: &OperandShapes) -> Result<(), Stop> {
    if found == operands.ranks.len() {
        return Ok(());
    }
    refuse(
        format!("{found} weights for {} matrices", operands.ranks.len()),
        "give one weight for each expert",
    )
}

/// Numbers that an op holds while it prepares, at the end, and its operations, of `m × n` matrices.
pub(crate) fn counts(op: &Joint, operands: &OperandShapes) -> (f64, f64, f64) {
    let (m, n) = (operands.rows as f64, operands.columns as f64);
    let (experts, p) = (operands.ranks.len() as f64, m.min(n));
    let all = (experts * m).min(n);
    let whole = m * n;
    let total: f64 = operands.ranks.iter().map(|rank| rank.map_or(p, |rank| rank as f64)).sum();
    match op {
        Joint::OwnGrams { .. } => {
            let stack = experts * whole;
            (
                4.0 * stack + 9.0 * all * all + 3.0 * m.min(n) * all,
                whole,
                6.0 * whole * all * experts + 9.0 * all * all * all,
            )
        }
        Joint::Covariances(_) => (
            (2.0 * experts + 6.0) * n * n + (experts + 10.0) * whole + 8.0 * p * p,
            whole,
            (experts + 2.0) * 4.0 * whole * n + n * n * n,
        ),
        Joint::Covers(_) => {
            let side = p.max(1.0);
            (
                (experts + 14.0) * whole + (experts + 16.0) * side * side,
                whole,
                (experts + 2.0) * 20.0 * whole * p,
            )
        }
        Joint::Rotations(_) => (
            (experts + 10.0) * whole + (experts + 22.0) * p * p,
            whole,
            experts * (8.0 * whole * p + 30.0 * p * p * p),
        ),
        Joint::Fold { .. } => (16.0 * whole + 20.0 * p * p, whole, experts * 20.0 * whole * p),
        Joint::CoreSpace(core) => {
            let kept = core.rank.of(p as usize, operands.ranks.len()) as f64;
            let kept = kept.min(p);
            let ranks = operands.ranks.iter();
            let total: f64 = ranks.map(|rank| rank.map_or(kept, |rank| rank as f64)).sum();
            let side = total.min(m.max(n));
            let held = match mixdown_ops::matrix::MatrixOp::Joint(op.clone()).result_rank(operands)
            {
                Some(rank) => rank as f64 * (m + n),
                None => whole,
            };
            (
                (experts + 8.0) * total * (m + n)
                    + 10.0 * whole.min(total * (m + n))
                    + (experts + 24.0) * side * side,
                held + total * (m + n),
                12.0 * (m + n) * total * total + 30.0 * side * side * side + whole * total,
            )
        }
        Joint::FactorWise(_) => {
            let rank = total.max(1.0);
            (12.0 * rank * (m + n), 2.0 * rank * (m + n), 20.0 * rank * (m + n))
        }
        Joint::Swudi(_) => {
            let stack = experts * whole;
            (
                4.0 * stack + 10.0 * all * all + 12.0 * whole + 10.0 * m * m + 4.0 * m * all,
                whole,
                8.0 * whole * all * experts + 9.0 * (all * all * all + m * m * m),
            )
        }
        Joint::Peak => {
            let stack = experts * whole;
            (
                3.0 * stack + 8.0 * all * all,
                1.0,
                2.0 * whole * all * experts + 9.0 * all * all * all,
            )
        }
    }
}

/// Runs an op.
pub(crate) fn prepare(op: &Joint, operands: &mut dyn Operands) -> Result<Box<dyn Prepared>, Stop> {
    let count = operands.count();
    match op {
        Joint::OwnGrams { tolerance } => {
            let found = own_grams::merge(&all(operands, 0..count)?, tolerance.get())?;
            Ok(Box::new(found))
        }
        Joint::Covariances(op) => {
            let found = covariances::merge(op, &all(operands, 0..count)?)?;
            Ok(Box::new(found))
        }
        Joint::Covers(op) => Ok(Box::new(covers::merge(op, operands)?)),
        Joint::Rotations(op) => {
            let base = one(operands, 0)?;
            let found = rotations::merge(op, &base, &all(operands, 1..count)?)?;
            Ok(Box::new(found))
        }
        Joint::Fold { alpha } => Ok(Box::new(fold::merge(alpha.get(), operands)?)),
        Joint::CoreSpace(op) => core_space::merge(op, operands),
        Joint::FactorWise(op) => Ok(Box::new(factor_wise::merge(op, operands)?)),
        Joint::Swudi(op) => {
            let (time, first) = time(op, operands)?;
            let found = swudi::merge(op, time, &all(operands, first..count)?)?;
            Ok(Box::new(found))
        }
        Joint::Peak => {
            let peak = swudi::peak(&all(operands, 0..count)?)?;
            let result = Matrix { rows: 1, columns: 1, values: vec![peak] };
            Ok(Box::new(Whole { result, report: Report::default() }))
        }
    }
}

/// The time that the first operand is, and where task vectors begin.
fn time(op: &Swudi, operands: &mut dyn Operands) -> Result<(Option<f64>, usize), Stop> {
    if !op.is_aligned {
        return Ok((None, 0));
    }
    let mut row = vec![0.0; operands.shape(0).1];
    operands.read(0, 0, &mut row)?;
    Ok((row.first().copied(), 1))
}

/// A result in memory.
#[derive(Debug)]
pub(crate) struct Whole {
    pub result: Matrix,
    pub report: Report,
}

impl Whole {
    /// A result that must be finite.
    pub fn new(result: Matrix, report: Report) -> Result<Self, Stop> {
        check_finite(&result.values, "the result")?;
        Ok(Self { result, report })
    }
}

impl Prepared for Whole {
    fn rows(
        &self,
        _: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let start = first_row * self.result.columns;
        values.copy_from_slice(&self.result.values[start..start + values.len()]);
        Ok((0.0, 0.0))
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}

/// A whole operand.
fn one(operands: &mut dyn Operands, operand: usize) -> Result<Matrix, Stop> {
    let (rows, columns) = operands.shape(operand);
    let mut whole = zeros(rows, columns);
    operands.read(operand, 0, &mut whole.values)?;
    check_finite(&whole.values, "an operand")?;
    Ok(whole)
}

/// Whole operands.
fn all(operands: &mut dyn Operands, which: std::ops::Range<usize>) -> Result<Vec<Matrix>, Stop> {
    which.map(|operand| one(operands, operand)).collect()
}

/// A sum of matrices with one factor.
fn sum_of(matrices: &[Matrix], factor: f64) -> Matrix {
    let mut sum = zeros(matrices[0].rows, matrices[0].columns);
    for matrix in matrices {
        super::dense::add_scaled(&mut sum.values, factor, &matrix.values);
    }
    sum
}

/// The matrices that are not all zero: experts without an update here have no say.
fn changed(matrices: &[Matrix]) -> Vec<&Matrix> {
    matrices.iter().filter(|matrix| matrix.values.iter().any(|&value| value != 0.0)).collect()
}
