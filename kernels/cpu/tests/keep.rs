//! Keeping the largest and random elements, at every boundary and on each instruction set.

use mixdown_backends::job::{
    Job, PIECE_SIZES, PRECISIONS, SIZES, bits, exact, numbers, ordinaries, store,
};
use mixdown_cpu::{CpuBackend, Features};
use mixdown_ops::random::{keep_below, uniform_bits};
use mixdown_ops::selection::Cut;
use mixdown_ops::{Instruction, Operand, Precision, Real};

fn key(precision: Precision, value: f64) -> u64 {
    match precision {
        Precision::Single => Real::key(value as f32).into(),
        Precision::Double => Real::key(value),
    }
}

fn check_largest(size: usize, first: u64, cut: impl Fn(Precision) -> Cut) {
    let values = numbers(size, 8);
    for (features, precision) in
        Features::available().into_iter().flat_map(|f| PRECISIONS.map(|p| (f, p)))
    {
        let cut = cut(precision);
        let keep = Instruction::KeepLargest { from: 0, cut: 0, to: 1 };
        let mut job =
            Job::new(CpuBackend::with_features(features), precision, exact(precision), &[&values])
                .steps(&[keep, store(1)]);
        job.cuts = vec![cut];
        job.first = first;
        for (element, got) in job.values().into_iter().enumerate() {
            let value = values[element];
            let key = key(precision, value);
            let index = first + element as u64;
            let kept = key > cut.key || key == cut.key && index < cut.ties_before;
            let expected = if kept { value } else { 0.0 };
            assert_eq!(
                bits(precision, got),
                bits(precision, expected),
                "{value:e} at {index} by {cut:?} in {precision:?} on {}",
                features.name()
            );
        }
    }
}

#[test]
fn the_largest_are_kept() {
    for size in SIZES.into_iter().chain(PIECE_SIZES) {
        for threshold in [0.0, 0.5, f64::INFINITY] {
            for ties_before in [0, u64::MAX] {
                check_largest(size, 0, |p| Cut { key: key(p, threshold), ties_before });
            }
        }
    }
}

/// One of the special numbers is 1 or −1 in every fifteenth place or so: ties on both sides.
#[test]
fn ties_survive_up_to_an_index() {
    let first = 7 << 16;
    for before in [0, 1, 63, 64, 65, 1000, 1023, 1024, 1025, 2500, 3000, 4000] {
        check_largest(3000, first, |p| Cut { key: key(p, 1.0), ties_before: first + before });
        check_largest(3000, first, |p| Cut {
            key: 0,
            ties_before: first + before.min(key(p, 1.0)),
        });
    }
}

#[test]
fn all_and_none() {
    check_largest(2000, 0, |_| Cut::ALL);
    check_largest(2000, 1 << 40, |_| Cut::NONE);
    for features in Features::available() {
        let keep = Instruction::KeepLargest { from: 0, cut: 0, to: 0 };
        let nan = [f64::NAN, 1.0];
        let mut job = Job::new(
            CpuBackend::with_features(features),
            Precision::Single,
            exact(Precision::Single),
            &[&nan],
        )
        .steps(&[keep, store(0)]);
        job.cuts = vec![Cut::NONE];
        assert_eq!(job.values(), [0.0, 0.0]);
    }
}

fn check_random(size: usize, first: u64, density: f64) {
    let values = ordinaries(size, 2);
    let stream = 0x0123_4567_89ab_cdef;
    for (features, precision) in
        Features::available().into_iter().flat_map(|f| PRECISIONS.map(|p| (f, p)))
    {
        let keep =
            Instruction::KeepRandom { from: 0, density: Operand::Scalar(1), stream: 2, to: 0 };
        let mut job =
            Job::new(CpuBackend::with_features(features), precision, exact(precision), &[&values])
                .steps(&[keep, store(0)]);
        job.scalars = vec![0.0, density];
        job.streams = vec![0, 0, stream];
        job.first = first;
        for (element, got) in job.values().into_iter().enumerate() {
            let random = u64::from(uniform_bits(stream, first + element as u64));
            let expected = if random < keep_below(density) { values[element] } else { 0.0 };
            assert_eq!(bits(precision, got), bits(precision, expected), "{element} of {size}");
        }
    }
}

#[test]
fn random_elements_are_kept_by_their_index() {
    for size in SIZES.into_iter().chain(PIECE_SIZES) {
        check_random(size, 0, 0.3);
    }
    for density in [0.0, 1e-9, 0.5, 1.0 - 1e-12, 1.0] {
        check_random(1500, 5 << 16, density);
    }
}

#[test]
fn random_masks_pass_two_to_the_32() {
    check_random(4096, (1 << 32) - 2048, 0.5);
    check_random(4096, (1 << 32) - 2000, 0.5);
    check_random(1000, 3 << 32, 0.5);
}

/// Each element with a probability of its own: the same draw, compared with its own bound.
#[test]
fn random_elements_by_probabilities_of_their_own() {
    let stream = 0x0123_4567_89ab_cdef;
    for size in SIZES {
        let values = ordinaries(size, 3);
        let densities: Vec<f64> = (0..size).map(|at| (at % 5) as f64 / 4.0).collect();
        for (features, precision) in
            Features::available().into_iter().flat_map(|f| PRECISIONS.map(|p| (f, p)))
        {
            let density = Operand::Register(1);
            let keep = Instruction::KeepRandom { from: 0, density, stream: 0, to: 0 };
            let mut job = Job::new(
                CpuBackend::with_features(features),
                precision,
                exact(precision),
                &[&values, &densities],
            )
            .steps(&[keep, store(0)]);
            job.streams = vec![stream];
            job.first = (1 << 32) - 7;
            for (element, got) in job.values().into_iter().enumerate() {
                let random = u64::from(uniform_bits(stream, job.first + element as u64));
                let kept = random < keep_below(densities[element]);
                let expected = if kept { values[element] } else { 0.0 };
                assert_eq!(bits(precision, got), bits(precision, expected), "{element} of {size}");
            }
        }
    }
}
