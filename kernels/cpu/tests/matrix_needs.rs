//! What ops say they hold is at least what they hold: an allocator counts.

mod matrices;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use matrices::*;
use mixdown_cpu::CpuBackend;
use mixdown_ops::matrix::axes::{Axis, Blocks, Fact, Karcher};
use mixdown_ops::matrix::interference::{Cut, Filter, Init, Rows, Solver, Targets};
use mixdown_ops::matrix::joint::{
    CoreMerge, CoreSpace, Covariances, Covers, FactorRule, FactorWise, Joint, Rotations, Smoothing,
    Swudi, SwudiFilter,
};
use mixdown_ops::matrix::spectral::{Doge, Reshape};
use mixdown_ops::matrix::{MatrixOp, OperandShapes, Operands, Rank, RankAware};
use mixdown_ops::{Backend, Precision};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls go to the system's allocator with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(held, Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps to the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes above what was held before, at most and at the end.
fn counted<Value>(run: impl FnOnce() -> Value) -> (Value, u64, u64) {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let value = run();
    let above = |bytes: usize| bytes.saturating_sub(before) as u64;
    (value, above(PEAK.load(Relaxed)), above(HELD.load(Relaxed)))
}

fn check(op: &MatrixOp, given: &[Given], precision: Precision) {
    let backend = CpuBackend::new();
    let mut operands = InMemory::new(given);
    let (rows, columns) = operands.shape(0);
    let ranks = (0..given.len()).map(|operand| operands.rank(operand)).collect();
    let needs = backend.needs(op, &OperandShapes { rows, columns, ranks }, precision).unwrap();
    // What lies aside is no memory of the op's.
    operands.1.reserve_exact((needs.aside_bytes / 8) as usize);
    let (prepared, peak, held) = counted(|| backend.prepare(op, &mut operands, precision).unwrap());
    let what = format!("{rows}×{columns} {op:?} {precision:?}");
    assert!(held <= needs.held_bytes, "{what} holds {held} of {}", needs.held_bytes);
    assert!(peak <= needs.prepare_bytes, "{what} takes {peak} of {}", needs.prepare_bytes);
    // A bound that is far off keeps other tensors waiting.
    // Beside that, the work space of products, which each thread keeps: small matrices take most of it.
    assert!(
        needs.prepare_bytes < 12 * peak + (12 << 20),
        "{what}: {peak}, {}",
        needs.prepare_bytes
    );
    let (rows, columns) = op.result_shape((rows as u64, columns as u64), given.len());
    let mut values = vec![0.0; needs.block_rows.min(rows as usize) * columns as usize];
    let (_, peak, _) = counted(|| prepared.rows(&mut operands, 0, &mut values).unwrap());
    assert!(peak <= needs.rows_bytes, "{what}: rows take {peak} of {}", needs.rows_bytes);
}

fn swudi() -> Swudi {
    Swudi {
        filter: SwudiFilter::Landweber { steps: 3, eta: 0.9.into() },
        is_aligned: false,
        keep: 0.65.into(),
        consensus_power: 1.0.into(),
        consensus_floor: 0.1.into(),
        output_time: 2.0.into(),
        init: Init::Sum,
    }
}

// One test: counts of several at once would mix.
#[test]
fn needs_are_upper_bounds() {
    // The library of products keeps 64 MiB of address space for each thread from its first call on.
    for solver in [Solver::Adam(adam(1e-5, 2)), Solver::Adam(adam(1e-4, 1))] {
        let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Sum, solver);
        run_in(&op, &dense(&randoms(2, 300, 300)), Precision::Single, 1).unwrap();
        run_in(&op, &dense(&randoms(2, 300, 300)), Precision::Double, 1).unwrap();
    }
    // More directions than one block has.
    for (rows, columns) in [(1536, 512), (1300, 300)] {
        check(&MatrixOp::CommonBasis, &dense(&randoms(3, rows, columns)), Precision::Single);
    }
    let shapes = [(150, 160), (160, 150), (40, 400), (400, 40)];
    for (rows, columns) in shapes {
        let experts = randoms(3, rows, columns);
        let one = dense(&experts[..1]);
        let several = dense(&experts);
        let single = [
            MatrixOp::TruncatedSvd(Rank::Count(20)),
            MatrixOp::Polar,
            MatrixOp::SingularValues,
            MatrixOp::Isotropic(RankAware::Automatic),
            MatrixOp::Reshaped(Reshape::Leading(0.4.into())),
            MatrixOp::Reshaped(Reshape::Lifted(0.4.into())),
            MatrixOp::AxisFact(Fact::SumProduct, Axis::Rows),
            MatrixOp::AxisFact(Fact::Highest, Axis::Columns),
            MatrixOp::PlaceInRow,
        ];
        single.iter().for_each(|op| check(op, &one, Precision::Single));
        let doge =
            Doge { eta: 0.07.into(), learning_rate: 1e-4.into(), steps: 1, subspace_divisor: 6 };
        let many = [
            MatrixOp::TaskSingularVectors(Rank::PerExpert),
            MatrixOp::IsotropicCommon(0.8.into()),
            MatrixOp::CommonBasis,
            MatrixOp::SharedShift(doge),
            MatrixOp::CalibratedSpectrum { alpha: 0.1.into() },
            MatrixOp::KarcherWeights(Karcher { max_iter: 10, tol: 1e-5.into() }),
        ];
        many.iter().for_each(|op| check(op, &several, Precision::Single));
        let weights = vec![1.0.into(); 3];
        let joint = [
            Joint::OwnGrams { tolerance: 1e-10.into() },
            Joint::Covariances(Covariances {
                epsilon: 0.01.into(),
                iso_rank: 0.3.into(),
                heterogeneity: 0.0.into(),
            }),
            Joint::Covers(Covers {
                rank: Rank::PerExpert,
                smoothing: Smoothing::Average,
                keep: 0.5.into(),
            }),
            Joint::Rotations(Rotations { rest: 0.2.into(), conflict: true }),
            Joint::Fold { alpha: 0.5.into() },
            Joint::CoreSpace(CoreSpace {
                merge: CoreMerge::TaskSingularVectors,
                weights: weights.clone(),
                rank: Rank::PerExpert,
            }),
            Joint::Swudi(swudi()),
            Joint::Peak,
        ];
        for op in joint {
            check(&MatrixOp::Joint(op), &several, Precision::Single);
        }
        let blocks = Blocks { count: 2, block: 7, keeps_tail: true };
        check(&MatrixOp::BlockOwner(blocks), &several, Precision::Single);
        let adapters = factored(rows, columns, &[4, 4, 4]);
        for rule in [FactorRule::TiesTotal, FactorRule::Robust(0.2.into())] {
            let op = FactorWise { rule, density: 0.5.into(), weights: weights.clone() };
            check(&MatrixOp::Joint(Joint::FactorWise(op)), &adapters, Precision::Single);
        }
        let op = CoreSpace { merge: CoreMerge::Ties(0.5.into()), weights, rank: Rank::PerExpert };
        check(&MatrixOp::Joint(Joint::CoreSpace(op)), &adapters, Precision::Single);
        let basis = random(rows.min(3 * columns), rows, 5);
        let back = dense(&[experts[0].clone(), basis]);
        check(&MatrixOp::OutOfBasis { experts: 3 }, &back, Precision::Single);
        let sgd = sgd(1e-3, 0.9, 3);
        for member in [
            (Targets::Whole, Rows::Whole),
            (Targets::Truncated, Rows::Truncated),
            (Targets::Centered, Rows::Centered),
            (Targets::Centered, Rows::Truncated),
            (Targets::Truncated, Rows::Whole),
        ] {
            for solver in
                [filter(Filter::Sgd(sgd), Cut::None), Solver::Adam(adam(1e-5, 2)), literal_sgd(sgd)]
            {
                let op = objective(member, Rank::PerExpert, Init::Sum, solver);
                check(&op, &several, Precision::Single);
                check(&op, &several, Precision::Double);
            }
        }
        let factors = factored(rows, columns, &[8, 8, 8]);
        for op in [
            MatrixOp::TaskSingularVectors(Rank::PerExpert),
            objective(
                (Targets::Truncated, Rows::Truncated),
                Rank::PerExpert,
                Init::Mean,
                filter(Filter::Sgd(sgd), Cut::None),
            ),
        ] {
            check(&op, &factors, Precision::Single);
        }
    }
    // Few rows and many directions, where the eigenproblem outweighs what it is made from.
    for solver in [
        filter(Filter::Exponential(300.0.into()), Cut::Share(0.65.into())),
        filter(Filter::Exact, Cut::None),
    ] {
        let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Sum, solver);
        check(&op, &dense(&randoms(3, 200, 620)), Precision::Single);
    }
    // The same with what K is reduced by aside.
    let op = filter(Filter::Exponential(300.0.into()), Cut::Share(0.65.into()));
    let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Sum, op);
    check(&op, &dense(&randoms(3, 345, 1100)), Precision::Single);
    // Enough steps for f32, in which a stack is read again, and held where it is small.
    for (rows, count) in [(200, 3), (100, 3)] {
        let solver = Solver::Adam(adam(1e-5, 30));
        let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Sum, solver);
        check(&op, &dense(&randoms(count, rows, 620)), Precision::Single);
    }
    let mut operands = randoms(2, 40, 200);
    operands.extend([0, 1].map(|seed| {
        let inputs = random(300, 200, seed);
        multiplied(&transposed(&inputs), &inputs)
    }));
    check(&MatrixOp::Regression { off_diagonal: 0.9.into() }, &dense(&operands), Precision::Single);
}
