//! Matrix ops: which file runs which, and what each needs.
//!
//! Everything here is on one thread and in f64, but for the iterations of Adam; the executor runs
//! several tensors, and row blocks of one, at once. Products are faer's, whose bits depend on the
//! machine's vector instructions, unlike those of block programs, but not on the count of threads.

pub mod adam;
mod adam_double;
mod axes;
mod band;
mod blocks;
mod chase;
mod check;
mod common_basis;
mod contour;
pub mod corresponding;
pub(crate) mod dense;
pub(crate) mod descended;
mod directions;
pub(crate) mod eigen;
mod factors;
mod gram;
mod interference;
mod isotropic;
mod isotropic_common;
mod joint;
mod karcher;
mod lower;
mod needs;
mod product;
mod recovered;
mod reflectors;
mod regression;
mod reshaped;
mod root_free;
mod rows;
mod shared_shift;
mod shifted;
mod smaller_side;
mod spectrum;
mod task_singular_vectors;
mod tridiagonal;
mod truncated_svd;
mod truncation;
mod work_space;

use mixdown_ops::Precision;
use mixdown_ops::descent::Descents;
use mixdown_ops::matrix::axes::Axis;
use mixdown_ops::matrix::{
    MatrixOp, Needs, OperandShapes, Operands, Prepared, Rank, RankAware, Report, Stop,
};

use factors::Cores;

/// What an op will hold and do; refuses what it cannot do.
pub(crate) fn needs(
    op: &MatrixOp,
    operands: &OperandShapes,
    precision: Precision,
    device: Option<&dyn Descents>,
) -> Result<Needs, Stop> {
    check::check(op, operands)?;
    let mut needs = needs::of(op, operands, precision, device);
    work_space::add(&mut needs, op, operands);
    Ok(needs)
}

/// What is known of operands before anything is read.
pub(crate) fn shapes(operands: &dyn Operands) -> OperandShapes {
    let count = operands.count();
    let (rows, columns) = if count > 0 { operands.shape(0) } else { (0, 0) };
    let ranks = (0..count).map(|operand| operands.rank(operand)).collect();
    OperandShapes { rows, columns, ranks }
}

/// Does the part of an op that all rows need. A device runs its descent, if there is one.
pub(crate) fn prepare(
    op: &MatrixOp,
    operands: &mut dyn Operands,
    precision: Precision,
    device: Option<&dyn Descents>,
) -> Result<Box<dyn Prepared>, Stop> {
    work_space::with_room(|| prepare_with_room(op, operands, precision, device))
}

fn prepare_with_room(
    op: &MatrixOp,
    operands: &mut dyn Operands,
    precision: Precision,
    device: Option<&dyn Descents>,
) -> Result<Box<dyn Prepared>, Stop> {
    if let MatrixOp::Recovered(op) = op {
        return recovered::prepare(op, operands, precision, device);
    }
    let count = operands.count();
    let shapes = shapes(operands);
    let shape = (shapes.rows, shapes.columns);
    check::check(op, &shapes)?;
    check::same_shapes(op, operands)?;
    if shape.0 == 0 || shape.1 == 0 {
        let shape = op.result_shape((shape.0 as u64, shape.1 as u64), count);
        let zero = product::Product::zero(shape.0 as usize, shape.1 as usize, Report::default());
        return Ok(Box::new(zero));
    }
    if op.runs_on_cores(&shapes) {
        let rank: usize = shapes.ranks.iter().flatten().sum();
        if rank == 0 {
            return Ok(Box::new(factors::empty(shape.0, shape.1, Report::default())));
        }
        let mut cores = Cores::of(operands)?;
        let prepared = on_dense(op, &mut cores, shape, true, (precision, None))?;
        return Ok(Box::new(cores.expand(&*prepared)?));
    }
    on_dense(op, operands, shape, false, (precision, device))
}

fn on_dense(
    op: &MatrixOp,
    operands: &mut dyn Operands,
    shape: (usize, usize),
    are_cores: bool,
    (precision, device): (Precision, Option<&dyn Descents>),
) -> Result<Box<dyn Prepared>, Stop> {
    let smaller = shape.0.min(shape.1);
    Ok(match op {
        MatrixOp::TruncatedSvd(Rank::Count(rank)) => {
            Box::new(truncated_svd::as_factors(*rank as usize, operands)?)
        }
        MatrixOp::TruncatedSvd(rank) => Box::new(truncated_svd::prepare(*rank, operands, smaller)?),
        MatrixOp::Polar => Box::new(isotropic::polar(operands)?),
        MatrixOp::SingularValues => Box::new(spectrum::singular_values(operands)?),
        MatrixOp::Gram => Box::new(spectrum::gram(operands)?),
        MatrixOp::Isotropic(aware) => {
            let fills = match aware {
                RankAware::Automatic => {
                    !are_cores && (0..operands.count()).any(|one| operands.rank(one).is_none())
                }
                RankAware::No => true,
                RankAware::Yes => false,
            };
            Box::new(isotropic::isotropic(operands, fills)?)
        }
        MatrixOp::IsotropicCommon(share) => {
            Box::new(isotropic_common::prepare(share.get(), operands)?)
        }
        MatrixOp::TaskSingularVectors(rank) => {
            if rank.of(smaller, operands.count()) == 0 {
                if *rank == Rank::Literal {
                    let report = task_singular_vectors::mean(operands.count()).report();
                    let notes =
                        vec!["no direction is kept, and a literal rank leaves nothing".to_owned()];
                    let report = Report { notes, ..report };
                    return Ok(Box::new(product::Product::zero(shape.0, shape.1, report)));
                }
                return Ok(Box::new(task_singular_vectors::mean(operands.count())));
            }
            Box::new(task_singular_vectors::prepare(*rank, operands, smaller)?)
        }
        MatrixOp::Interference(op) => {
            interference::prepare(op, operands, shape, (precision, device))?
        }
        MatrixOp::CommonBasis => common_basis::prepare(operands)?,
        MatrixOp::OutOfBasis { .. } => Box::new(common_basis::way_back(operands)?),
        MatrixOp::SharedShift(op) => match precision {
            Precision::Single => {
                let read = |operands: &mut dyn Operands, operand, values: &mut [f32]| {
                    operands.read_single(operand, 0, values)
                };
                Box::new(shared_shift::prepare(op, operands, read)?)
            }
            Precision::Double => {
                let read = |operands: &mut dyn Operands, operand, values: &mut [f64]| {
                    operands.read(operand, 0, values)
                };
                Box::new(shared_shift::prepare(op, operands, read)?)
            }
        },
        MatrixOp::Regression { off_diagonal } => {
            Box::new(regression::prepare(off_diagonal.get(), operands)?)
        }
        MatrixOp::Reshaped(reshape) => Box::new(reshaped::prepare(*reshape, operands)?),
        MatrixOp::CalibratedSpectrum { alpha } => {
            Box::new(reshaped::calibrated(alpha.get(), operands)?)
        }
        MatrixOp::AxisFact(fact, Axis::Rows) => Box::new(axes::RowFact(*fact)),
        MatrixOp::AxisFact(fact, Axis::Columns) => Box::new(axes::columns(*fact, operands)?),
        MatrixOp::PlaceInRow => Box::new(axes::PlaceInRow),
        MatrixOp::KarcherWeights(op) => Box::new(karcher::prepare(op, operands)?),
        MatrixOp::BlockOwner(op) => Box::new(blocks::BlockOwner(*op)),
        MatrixOp::Joint(op) => joint::prepare(op, operands)?,
        MatrixOp::Recovered(op) => recovered::prepare(op, operands, precision, device)?,
    })
}
