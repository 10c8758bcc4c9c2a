//! Loads and stores: every dtype, every half-precision pattern, odd places, and what is not finite.

use mixdown_backends::job::{
    GUARD, Job, PIECE_SIZES, PRECISIONS, SIZES, bits, decode, encode, exact, numbers, store,
};
use mixdown_cpu::{CpuBackend, Features};
use mixdown_ops::{Instruction, NonFinite, Operand, Precision};
use mixdown_tensor::{DType, convert};

const FLOATS: [DType; 4] = [DType::Bf16, DType::F16, DType::F32, DType::F64];

/// What loading from one dtype and storing to another must give.
fn expected(precision: Precision, from: DType, to: DType, value: f64) -> f64 {
    let loaded = decode(from, &encode(from, &[value])[GUARD..GUARD + from.bytes()])[0];
    let held = if precision == Precision::Single { f64::from(loaded as f32) } else { loaded };
    decode(to, &encode(to, &[held])[GUARD..GUARD + to.bytes()])[0]
}

#[test]
fn every_pair_of_dtypes_rounds_once() {
    for precision in PRECISIONS {
        for (from, to) in FLOATS.iter().flat_map(|from| FLOATS.map(|to| (*from, to))) {
            let values = numbers(1100, 9);
            for features in Features::available() {
                let mut job =
                    Job::new(CpuBackend::with_features(features), precision, from, &[&values])
                        .steps(&[store(0)]);
                job.out = to;
                for (value, got) in values.iter().zip(job.values()) {
                    let expected = expected(precision, from, to, *value);
                    assert_eq!(
                        bits(Precision::Double, got),
                        bits(Precision::Double, expected),
                        "{value:e} from {from} to {to} in {precision:?} on {}",
                        features.name()
                    );
                }
            }
        }
    }
}

#[test]
fn every_half_precision_pattern_passes_through() {
    for (dtype, infinity, nan) in [(DType::Bf16, 0x7f80, 0x7fc0), (DType::F16, 0x7c00, 0x7e00)] {
        let patterns: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (features, precision) in
            Features::available().into_iter().flat_map(|f| PRECISIONS.map(|p| (f, p)))
        {
            let mut job = Job::new(CpuBackend::with_features(features), precision, dtype, &[&[]])
                .steps(&[store(0)]);
            job.inputs[0].1 = [&[0; GUARD], patterns.as_slice(), &[0; GUARD]].concat();
            job.elements = 1 << 16;
            job.out = dtype;
            for (pattern, got) in (0..=u16::MAX).zip(job.run().0.chunks(2)) {
                let is_nan = pattern & 0x7fff > infinity;
                let expected = if is_nan { nan } else { pattern };
                assert_eq!(u16::from_le_bytes([got[0], got[1]]), expected, "{dtype} {pattern:04x}");
            }
        }
    }
}

#[test]
fn sizes_cross_every_boundary() {
    for size in SIZES.into_iter().chain(PIECE_SIZES) {
        let values = numbers(size, 4);
        for (features, dtype) in
            Features::available().into_iter().flat_map(|f| FLOATS.map(|dtype| (f, dtype)))
        {
            let mut job =
                Job::new(CpuBackend::with_features(features), Precision::Double, dtype, &[&values])
                    .steps(&[store(0)]);
            job.out = dtype;
            let reference = decode(dtype, &encode(dtype, &values)[GUARD..][..size * dtype.bytes()]);
            let got = job.values();
            assert_eq!(got.len(), reference.len());
            let same =
                |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            assert!(got.iter().zip(&reference).all(same), "{size} of {dtype}");
        }
    }
}

/// NaN that differ in sign and payload, and new ones, must not show in files: they depend on the
/// instruction set.
#[test]
fn every_nan_is_stored_the_same() {
    let nans = [0x7ff0_0000_0000_0001, 0xfff8_0000_0000_0000, u64::MAX].map(f64::from_bits);
    let values: Vec<_> = (0..1500).map(|index| nans[index % 3]).collect();
    for (features, precision) in
        Features::available().into_iter().flat_map(|f| PRECISIONS.map(|p| (f, p)))
    {
        for (dtype, pattern) in [
            (DType::Bf16, 0x7fc0_u64),
            (DType::F16, 0x7e00),
            (DType::F32, 0x7fc0_0000),
            (DType::F64, 0x7ff8_0000_0000_0000),
        ] {
            let mut job =
                Job::new(CpuBackend::with_features(features), precision, DType::F64, &[&values])
                    .steps(&[store(0)]);
            job.out = dtype;
            let expected = &pattern.to_le_bytes()[..dtype.bytes()];
            assert!(job.run().0.chunks(dtype.bytes()).all(|got| got == expected), "{dtype}");
        }
    }
}

/// Rounding inside a program is what storing and loading again would be.
#[test]
fn rounding_in_a_register() {
    let values = numbers(1500, 5);
    for features in Features::available() {
        for (precision, dtype) in PRECISIONS.into_iter().flat_map(|p| FLOATS.map(|d| (p, d))) {
            let round = Instruction::Round { from: 0, dtype, to: 1 };
            let job = Job::new(
                CpuBackend::with_features(features),
                precision,
                exact(precision),
                &[&values],
            )
            .steps(&[round, store(1)]);
            for (value, got) in values.iter().zip(job.values()) {
                let held =
                    if precision == Precision::Single { f64::from(*value as f32) } else { *value };
                let expected = expected(precision, dtype, exact(precision), held);
                assert_eq!(bits(precision, got), bits(precision, expected), "{value:e} to {dtype}");
            }
        }
    }
}

#[test]
fn a_scalar_fills_the_output() {
    for features in Features::available() {
        let mut job = Job::new(
            CpuBackend::with_features(features),
            Precision::Single,
            DType::F32,
            &[&[0.0; 1030]],
        );
        job = job.steps(&[Instruction::Store { from: Operand::Scalar(1) }]);
        job.scalars = vec![0.0, 0.1];
        job.out = DType::Bf16;
        let tenth = f64::from(convert::bf16_to_f32(convert::f32_to_bf16(0.1)));
        assert!(job.values().iter().all(|value| *value == tenth));
    }
}

#[test]
fn nan_and_infinity_are_found_where_they_are() {
    let check = |places: &[(usize, usize, f64)], expected: Option<(u64, u32)>| {
        let mut inputs = [vec![1.0; 3000], vec![-2.0; 3000]];
        for &(input, element, value) in places {
            inputs[input][element] = value;
        }
        for (features, dtype) in
            Features::available().into_iter().flat_map(|f| FLOATS.map(|dtype| (f, dtype)))
        {
            let slices = inputs.each_ref().map(Vec::as_slice);
            let mut job =
                Job::new(CpuBackend::with_features(features), Precision::Double, dtype, &slices)
                    .steps(&[store(0)]);
            job.first = 1 << 16;
            job.stretch = 1024;
            assert_eq!(job.run().1.nonfinite, None, "nobody asked");
            job.check_finite = true;
            let expected =
                expected.map(|(element, input)| NonFinite { element: (1 << 16) + element, input });
            assert_eq!(job.run().1.nonfinite, expected, "{places:?} in {dtype}");
        }
    };
    let (nan, infinity) = (f64::NAN, f64::INFINITY);
    check(&[], None);
    check(&[(0, 0, nan)], Some((0, 0)));
    check(&[(1, 2999, -infinity)], Some((2999, 1)));
    // The lowest element wins, whatever the input; then the lowest input.
    check(&[(0, 1500, nan), (1, 1200, infinity)], Some((1200, 1)));
    check(&[(0, 100, nan), (1, 90, nan), (0, 2000, nan)], Some((90, 1)));
    check(&[(1, 64, nan), (0, 64, infinity)], Some((64, 0)));
}
