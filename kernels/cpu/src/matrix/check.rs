//! What is refused before anything is read.

use mixdown_ops::matrix::axes::Fact;
use mixdown_ops::matrix::interference::{Cut, Filter, Interference, Optimizer, Sgd, Solver};
use mixdown_ops::matrix::spectral::Reshape;
use mixdown_ops::matrix::{MatrixOp, OperandShapes, Operands, Rank, Stop};

pub(crate) fn refuse<T>(headline: String, help: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Refused(headline, help.into()))
}

/// Whether the op can be applied to such operands, whatever their values.
pub(crate) fn check(op: &MatrixOp, operands: &OperandShapes) -> Result<(), Stop> {
    let op = op.inner();
    count(op, operands.ranks.len())?;
    match op {
        MatrixOp::TruncatedSvd(rank) | MatrixOp::TaskSingularVectors(rank) => {
            check_rank(*rank, operands)
        }
        MatrixOp::Interference(op) => interference(op, operands),
        MatrixOp::IsotropicCommon(share) => fraction("common", share.get(), true),
        MatrixOp::Regression { off_diagonal } => fraction("off_diagonal", off_diagonal.get(), true),
        MatrixOp::SharedShift(doge) => {
            if doge.subspace_divisor == 0 {
                return refuse(
                    "the shared subspace is divided by 0".into(),
                    "use a `subspace_divisor` of at least 1; the paper's code has 6",
                );
            }
            step(doge.learning_rate.get())
        }
        MatrixOp::Reshaped(Reshape::Leading(share) | Reshape::Lifted(share)) => {
            fraction("share", share.get(), true)
        }
        MatrixOp::CalibratedSpectrum { alpha } => positive("alpha", alpha.get()),
        MatrixOp::Polar
        | MatrixOp::SingularValues
        | MatrixOp::Gram
        | MatrixOp::Isotropic(_)
        | MatrixOp::CommonBasis
        | MatrixOp::OutOfBasis { .. }
        | MatrixOp::AxisFact(..)
        | MatrixOp::PlaceInRow
        | MatrixOp::KarcherWeights(_)
        | MatrixOp::Recovered(_) => Ok(()),
        MatrixOp::BlockOwner(blocks) if blocks.block == 0 => {
            refuse("a block of 0 elements keeps nothing".into(), "use blocks of at least 1 element")
        }
        MatrixOp::BlockOwner(_) => Ok(()),
        MatrixOp::Joint(op) => super::joint::check(op, operands),
    }
}

fn count(op: &MatrixOp, found: usize) -> Result<(), Stop> {
    let name = op.name();
    match op {
        MatrixOp::TruncatedSvd(_)
        | MatrixOp::Polar
        | MatrixOp::SingularValues
        | MatrixOp::Gram
        | MatrixOp::Reshaped(_)
        | MatrixOp::PlaceInRow
            if found != 1 =>
        {
            refuse(
                format!("`{name}` takes 1 matrix, found {found}"),
                "apply it to each matrix, or to their sum",
            )
        }
        MatrixOp::Regression { .. } if found == 0 || !found.is_multiple_of(2) => refuse(
            format!(
                "`{name}` takes as many Gram matrices as weights, found {found} matrices in all"
            ),
            "give one Gram matrix for each expert",
        ),
        MatrixOp::OutOfBasis { .. } if found != 2 => refuse(
            format!("`{name}` takes coordinates and a basis, found {found} matrices"),
            "give it both",
        ),
        MatrixOp::CalibratedSpectrum { .. } if found < 2 => refuse(
            format!("`{name}` takes a merged matrix and those it is made from, found {found}"),
            "give it the experts' task vectors too",
        ),
        MatrixOp::AxisFact(fact, _) if found == 0 || found > most_operands(*fact) => refuse(
            format!("`{name}` takes at most {} matrices, found {found}", most_operands(*fact)),
            "give it the factors of one product",
        ),
        _ if found == 0 => refuse(format!("`{name}` has nothing to merge"), "give it an expert"),
        _ => Ok(()),
    }
}

/// How many matrices a fact is made from.
fn most_operands(fact: Fact) -> usize {
    if fact == Fact::SumProduct { 2 } else { 1 }
}

pub(crate) fn check_rank(rank: Rank, operands: &OperandShapes) -> Result<(), Stop> {
    let smaller = operands.rows.min(operands.columns);
    let shape = format!("{} × {}", operands.rows, operands.columns);
    match rank {
        Rank::Count(0) => refuse(
            "a rank of 0 keeps nothing".into(),
            format!("use a rank from 1 to {smaller} for a matrix of {shape}"),
        ),
        Rank::Count(count) if count as usize > smaller => refuse(
            format!("rank {count} is above the smaller side of a matrix of {shape}"),
            format!("use a rank of at most {smaller}, or a share of it"),
        ),
        Rank::Share(share) => fraction("rank", share.get(), false),
        Rank::Count(_) | Rank::PerExpert | Rank::Literal | Rank::Full => Ok(()),
    }
}

fn interference(op: &Interference, operands: &OperandShapes) -> Result<(), Stop> {
    check_rank(op.rank, operands)?;
    match &op.solver {
        Solver::Adam(adam) | Solver::Literal(Optimizer::Adam(adam)) => {
            step(adam.learning_rate.get())
        }
        Solver::Literal(Optimizer::Sgd(sgd)) => check_sgd(sgd),
        Solver::Filter(filter, cut) => {
            check_cut(cut)?;
            match filter {
                Filter::Sgd(sgd) => check_sgd(sgd),
                Filter::Exponential(time) => positive("time", time.get()),
                Filter::Tikhonov(alpha) => positive("alpha", alpha.get()),
                Filter::Landweber(_) | Filter::Exact | Filter::Wiener(_) => Ok(()),
            }
        }
    }
}

fn check_sgd(sgd: &Sgd) -> Result<(), Stop> {
    let momentum = sgd.momentum.get();
    if !(0.0..1.0).contains(&momentum) {
        return refuse(
            format!("momentum {momentum} is outside of 0 to 1, where SGD does not converge"),
            "use a momentum from 0 to below 1, such as 0.9",
        );
    }
    step(sgd.learning_rate.get())
}

fn check_cut(cut: &Cut) -> Result<(), Stop> {
    match cut {
        Cut::None => Ok(()),
        Cut::Share(share) => fraction("keep", share.get(), true),
        Cut::Rule { max_rank_ratio, rank_scale, .. } => {
            positive("max_rank_ratio", max_rank_ratio.get())?;
            positive("rank_scale", rank_scale.get())
        }
    }
}

fn step(learning_rate: f64) -> Result<(), Stop> {
    positive("learning_rate", learning_rate)
}

/// A finite number above 0.
pub(crate) fn above_zero(name: &str, found: f64) -> Result<(), Stop> {
    positive(name, found)
}

/// A number from 0 to 1.
pub(crate) fn as_fraction(name: &str, found: f64) -> Result<(), Stop> {
    fraction(name, found, true)
}

fn positive(name: &str, found: f64) -> Result<(), Stop> {
    if found.is_finite() && found > 0.0 {
        return Ok(());
    }
    refuse(format!("`{name}` is {found}, expected more than 0"), format!("use a positive `{name}`"))
}

fn fraction(name: &str, found: f64, with_zero: bool) -> Result<(), Stop> {
    if (found > 0.0 || (with_zero && found == 0.0)) && found <= 1.0 {
        return Ok(());
    }
    let range = if with_zero { "from 0 to 1" } else { "above 0 and at most 1" };
    refuse(
        format!("`{name}` is {found}, expected a fraction {range}"),
        format!("use a `{name}` {range}"),
    )
}

/// Whether all operands have one shape; Gram matrices and bases have their own.
pub(crate) fn same_shapes(op: &MatrixOp, operands: &dyn Operands) -> Result<(), Stop> {
    let count = match op {
        MatrixOp::Regression { .. } => operands.count() / 2,
        MatrixOp::OutOfBasis { .. } => {
            let (coordinates, basis) = (operands.shape(0), operands.shape(1));
            if basis.1 == coordinates.0 && basis.0 <= coordinates.0 {
                return Ok(());
            }
            return refuse(
                format!(
                    "coordinates of {} × {} do not belong to a basis of {} × {}",
                    coordinates.0, coordinates.1, basis.0, basis.1
                ),
                "give the basis of matrices of the same shape",
            );
        }
        _ => operands.count(),
    };
    let (rows, columns) = operands.shape(0);
    for operand in 1..count {
        let found = operands.shape(operand);
        if found != (rows, columns) {
            return refuse(
                format!(
                    "matrix {operand} is {} × {}, but the first is {rows} × {columns}",
                    found.0, found.1
                ),
                "merge matrices of one shape",
            );
        }
    }
    Ok(())
}
