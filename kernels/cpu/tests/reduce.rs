//! Sums: the same bits on each instruction set and however a piece is cut, near the exact sum.

use mixdown_backends::job::{Job, PIECE_SIZES, PRECISIONS, SIZES, exact, numbers, ordinaries};
use mixdown_cpu::{CpuBackend, Features};
use mixdown_ops::program::{ReductionSlot, Scope};
use mixdown_ops::{Instruction, Operand, Precision, Reduction};

const REDUCTIONS: [Reduction; 5] = [
    Reduction::Sum,
    Reduction::SumAbsolute,
    Reduction::SumProduct,
    Reduction::LargestAbsolute,
    Reduction::CountNonzero,
];

fn job(features: Features, precision: Precision, inputs: &[&[f64]], b: Operand) -> Job {
    let mut job =
        Job::new(CpuBackend::with_features(features), precision, exact(precision), inputs);
    let slots = REDUCTIONS.iter().enumerate();
    let slot = |(to, &reduction)| ReductionSlot { reduction, to: to as u32, scope: Scope::Tensor };
    job.pass.reductions = slots.clone().map(slot).collect();
    let steps: Vec<_> = slots
        .map(|(slot, &reduction)| Instruction::Reduce {
            reduction,
            arguments: [Operand::Register(0), b],
            slot: slot as u32,
        })
        .collect();
    job.scalars = vec![0.1];
    job.steps(&steps)
}

/// The definition: 16 lanes by index, joined by halves.
fn reference(reduction: Reduction, a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0_f64; 16];
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        let lane = &mut lanes[index % 16];
        match reduction {
            Reduction::Sum => *lane += a,
            Reduction::SumAbsolute => *lane += a.abs(),
            Reduction::SumProduct => *lane += a * b,
            Reduction::LargestAbsolute => *lane = lane.max(a.abs()),
            Reduction::CountNonzero => *lane += f64::from(u8::from(*a != 0.0)),
        }
    }
    let mut lanes = lanes.to_vec();
    while lanes.len() > 1 {
        let (left, right) = lanes.split_at(lanes.len() / 2);
        lanes = left.iter().zip(right).map(|(l, r)| reduction.combine(*l, *r)).collect();
    }
    lanes[0]
}

/// What the precision holds of a number.
fn held(precision: Precision, values: &[f64]) -> Vec<f64> {
    match precision {
        Precision::Single => values.iter().map(|value| f64::from(*value as f32)).collect(),
        Precision::Double => values.to_vec(),
    }
}

#[test]
fn sums_follow_their_definition() {
    for size in SIZES.into_iter().chain(PIECE_SIZES) {
        let (a, b) = (ordinaries(size, 1), ordinaries(size, 2));
        for (features, precision) in
            Features::available().into_iter().flat_map(|f| PRECISIONS.map(|p| (f, p)))
        {
            let (_, partial) = job(features, precision, &[&a, &b], Operand::Register(1)).run();
            let (a, b) = (held(precision, &a), held(precision, &b));
            for (reduction, got) in REDUCTIONS.into_iter().zip(partial.reductions) {
                let expected = reference(reduction, &a, &b);
                assert_eq!(
                    got.to_bits(),
                    expected.to_bits(),
                    "{reduction:?} of {size} in {precision:?} on {}: {got} {expected}",
                    features.name()
                );
            }
        }
    }
}

#[test]
fn stretches_do_not_matter() {
    let (a, b) = (ordinaries(65_000, 1), ordinaries(65_000, 2));
    for features in Features::available() {
        let mut job = job(features, Precision::Single, &[&a, &b], Operand::Register(1));
        let whole = job.run().1.reductions;
        for stretch in [1024, 3072, 16 * 1024] {
            job.stretch = stretch;
            assert_eq!(job.run().1.reductions, whole, "stretches of {stretch}");
        }
    }
}

#[test]
fn a_scalar_may_be_summed() {
    let a = ordinaries(1030, 1);
    for features in Features::available() {
        let (_, partial) = job(features, Precision::Double, &[&a], Operand::Scalar(0)).run();
        let tenth = vec![0.1; a.len()];
        assert_eq!(partial.reductions[2], reference(Reduction::SumProduct, &a, &tenth));
    }
}

#[test]
fn nothing_that_is_not_finite_is_lost_in_a_sum() {
    let values = numbers(2000, 3);
    for features in Features::available() {
        let (_, partial) =
            job(features, Precision::Double, &[&values, &values], Operand::Register(1)).run();
        assert!(partial.reductions[..3].iter().all(|sum| sum.is_nan()));
        // The largest magnitude passes NaN over; the count takes it as not zero.
        assert_eq!(partial.reductions[3], f64::INFINITY);
        let nonzero = values.iter().filter(|value| **value != 0.0).count();
        assert_eq!(partial.reductions[4], nonzero as f64);
    }
}

/// Only the rounds that ask for it accumulate, and a new piece starts from nothing.
#[test]
fn pieces_are_apart() {
    let (a, b) = (ordinaries(100, 1), ordinaries(100, 2));
    let job = job(Features::best(), Precision::Single, &[&a, &b], Operand::Register(1));
    let backend = mixdown_cpu::CpuBackend::new();
    let mut worker = mixdown_ops::Backend::worker(&backend);
    let once = job.run_with(worker.as_mut()).1.reductions;
    let again = job.run_with(worker.as_mut()).1.reductions;
    assert_eq!(once, again);
    worker.begin(&job.pass, Precision::Single, &[]);
    assert_eq!(worker.finish().reductions, [0.0; 5]);
}
