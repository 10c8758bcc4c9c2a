//! Each elementwise op, with each shape of operands, on each instruction set: the bits must be those
//! of the formula applied to one element after another.

use mixdown_backends::job::{Job, PIECE_SIZES, PRECISIONS, SIZES, bits, exact, numbers, store};
use mixdown_cpu::{CpuBackend, Features};
use mixdown_ops::elementwise::{Elementwise, Visitor};
use mixdown_ops::{Instruction, MapOp, Operand, Precision};

/// The formula in one precision.
struct Reference(Precision, [f64; 3]);

impl Visitor for Reference {
    type Output = f64;
    fn visit<E: Elementwise>(self) -> f64 {
        match self.0 {
            Precision::Single => E::apply(self.1.map(|value| value as f32)).into(),
            Precision::Double => E::apply(self.1),
        }
    }
}

/// Checks an op where bit `i` of `shape` says that operand `i` is a scalar.
fn check(op: MapOp, shape: usize, elements: usize, scalars: [f64; 3]) {
    let operands = [numbers(elements, 1), numbers(elements, 2), numbers(elements, 3)];
    let is_scalar = |position: usize| shape >> position & 1 == 1;
    let argument = |position: usize| match is_scalar(position) {
        true => Operand::Scalar(position as u32),
        false => Operand::Register(position as u32),
    };
    // Operands beyond the arity name registers that do not exist.
    let nowhere = Operand::Register(u32::MAX);
    let arguments = [0, 1, 2].map(|i| if i < op.arity() { argument(i) } else { nowhere });
    for precision in PRECISIONS {
        let expected = (0..elements).map(|element| {
            let value = |i: usize| if is_scalar(i) { scalars[i] } else { operands[i][element] };
            bits(precision, op.visit(Reference(precision, [0, 1, 2].map(value))))
        });
        let expected: Vec<_> = expected.collect();
        for features in Features::available() {
            let inputs = operands.each_ref().map(Vec::as_slice);
            let mut job =
                Job::new(CpuBackend::with_features(features), precision, exact(precision), &inputs)
                    .steps(&[Instruction::Map { op, arguments, to: 0 }, store(0)]);
            job.scalars = scalars.to_vec();
            let got: Vec<_> = job.values().iter().map(|value| bits(precision, *value)).collect();
            for (element, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert_eq!(
                    got,
                    expected,
                    "{} with shape {shape:03b} of {elements} at {element} in {precision:?} on {}",
                    op.name(),
                    features.name()
                );
            }
        }
    }
}

#[test]
fn every_op_has_the_bits_of_its_formula() {
    for &op in MapOp::ALL {
        for shape in 0..1 << op.arity() {
            check(op, shape, 2049, [0.25, -1.5, 0.7]);
        }
    }
}

#[test]
fn scalars_may_be_special() {
    for &op in MapOp::ALL.iter().filter(|op| op.arity() > 1) {
        for shape in 1..1 << op.arity() {
            for special in [f64::NAN, f64::NEG_INFINITY, -0.0, 0.0] {
                check(op, shape, 130, [special; 3]);
            }
        }
    }
}

#[test]
fn sizes_cross_every_boundary() {
    for size in SIZES.into_iter().chain(PIECE_SIZES) {
        check(MapOp::Add, 0, size, [0.0; 3]);
        check(MapOp::Interpolate, 0b100, size, [0.0, 0.0, 0.3]);
    }
}

/// A target that is also an operand, in each place, must not be read after it was written.
#[test]
fn the_target_may_be_an_operand() {
    let (a, b) = (numbers(1500, 1), numbers(1500, 2));
    for features in Features::available() {
        for to in [0, 1, 5] {
            let arguments = [0, 1, 0].map(Operand::Register);
            let subtract = Instruction::Map { op: MapOp::Subtract, arguments, to };
            let job = Job::new(
                CpuBackend::with_features(features),
                Precision::Double,
                exact(Precision::Double),
                &[&a, &b],
            )
            .steps(&[subtract, store(to)]);
            for (got, (a, b)) in job.values().iter().zip(a.iter().zip(&b)) {
                assert_eq!(bits(Precision::Double, *got), bits(Precision::Double, a - b));
            }
        }
    }
}

/// Worked by hand: what each op is, edge values included.
#[test]
fn worked_vectors() {
    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;
    let cases: &[(&str, &[f64], f64)] = &[
        ("abs", &[-2.5], 2.5),
        ("abs", &[-0.0], 0.0),
        ("acos", &[1.0], 0.0),
        ("acos", &[2.0], NAN),
        ("add", &[1.5, -4.0], -2.5),
        ("add", &[INF, -INF], NAN),
        ("add_product", &[1.0, 2.0, -3.0], -5.0),
        // A fused multiply-add would give 2⁻¹⁰⁴: the product is rounded by itself.
        ("add_product", &[-1.0, 1.0 + 2.0 * f64::EPSILON, 1.0 - 2.0 * f64::EPSILON], 0.0),
        ("add_product", &[1.0, INF, 0.0], NAN),
        ("agreeing", &[2.5, 1.0], 2.5),
        ("agreeing", &[2.5, -1.0], 0.0),
        ("agreeing", &[-2.5, -1.0], -2.5),
        ("agreeing", &[2.5, 0.0], 0.0),
        ("agreeing", &[-0.0, -1.0], 0.0),
        ("agreeing", &[NAN, 1.0], 0.0),
        ("and", &[2.0, -1.0], 1.0),
        ("and", &[2.0, -0.0], 0.0),
        ("and", &[NAN, 1.0], 1.0),
        ("ceil", &[-0.5], -0.0),
        ("ceil", &[1.25], 2.0),
        ("clamp", &[5.0, -1.0, 1.0], 1.0),
        ("clamp", &[-5.0, -1.0, 1.0], -1.0),
        ("clamp", &[0.5, -1.0, 1.0], 0.5),
        ("clamp", &[NAN, -1.0, 1.0], NAN),
        ("clamp", &[7.0, NAN, NAN], 7.0),
        ("clamp", &[0.0, 2.0, 1.0], 1.0),
        ("cos", &[0.0], 1.0),
        ("divide", &[1.0, -0.0], -INF),
        ("divide", &[0.0, 0.0], NAN),
        ("divide_unless_zero", &[3.0, -2.0], -1.5),
        ("divide_unless_zero", &[3.0, -0.0], 3.0),
        ("divide_unless_zero", &[3.0, NAN], NAN),
        ("equal", &[0.0, -0.0], 1.0),
        ("equal", &[NAN, NAN], 0.0),
        ("exp", &[0.0], 1.0),
        ("exp", &[-INF], 0.0),
        ("floor", &[-0.5], -1.0),
        ("greater", &[2.0, 1.0], 1.0),
        ("greater", &[1.0, 1.0], 0.0),
        ("greater", &[NAN, 1.0], 0.0),
        ("greater_equal", &[1.0, 1.0], 1.0),
        ("greater_equal", &[1.0, NAN], 0.0),
        ("interpolate", &[2.0, 10.0, 0.25], 4.0),
        ("interpolate", &[2.0, 10.0, 0.0], 2.0),
        ("interpolate", &[2.0, 10.0, 1.0], 10.0),
        ("less", &[1.0, 2.0], 1.0),
        ("less", &[NAN, 2.0], 0.0),
        ("less_equal", &[2.0, 2.0], 1.0),
        ("less_equal", &[3.0, 2.0], 0.0),
        ("log", &[1.0], 0.0),
        ("log", &[0.0], -INF),
        ("log", &[-1.0], NAN),
        ("maximum", &[-3.0, 2.0], 2.0),
        ("maximum", &[-0.0, 0.0], 0.0),
        ("maximum", &[0.0, -0.0], 0.0),
        ("maximum", &[-0.0, -0.0], -0.0),
        ("maximum", &[2.0, 2.0], 2.0),
        ("maximum", &[NAN, 1.0], NAN),
        ("maximum", &[1.0, NAN], NAN),
        ("maximum", &[INF, NAN], NAN),
        ("minimum", &[-3.0, 2.0], -3.0),
        ("minimum", &[-0.0, 0.0], -0.0),
        ("minimum", &[0.0, -0.0], -0.0),
        ("minimum", &[0.0, 0.0], 0.0),
        ("minimum", &[-2.0, -2.0], -2.0),
        ("minimum", &[NAN, 1.0], NAN),
        ("minimum", &[-INF, NAN], NAN),
        ("multiply", &[-3.0, 0.5], -1.5),
        ("multiply", &[INF, 0.0], NAN),
        ("negate", &[0.0], -0.0),
        ("negate", &[3.0], -3.0),
        ("not", &[0.0], 1.0),
        ("not", &[-0.0], 1.0),
        ("not", &[NAN], 0.0),
        ("not_equal", &[NAN, NAN], 1.0),
        ("not_equal", &[0.0, -0.0], 0.0),
        ("or", &[0.0, -2.0], 1.0),
        ("or", &[0.0, -0.0], 0.0),
        ("power", &[2.0, 10.0], 1024.0),
        ("power", &[NAN, 0.0], 1.0),
        ("power", &[-8.0, 0.5], NAN),
        ("sign", &[-7.0], -1.0),
        ("sign", &[1e-45], 1.0),
        ("sign", &[-0.0], -0.0),
        ("sign", &[NAN], NAN),
        ("sin", &[0.0], 0.0),
        ("sqrt", &[2.25], 1.5),
        ("sqrt", &[-0.0], -0.0),
        ("sqrt", &[-1.0], NAN),
        ("subtract", &[1.0, 3.0], -2.0),
        ("where", &[1.0, 2.0, NAN], 2.0),
        ("where", &[0.0, INF, 3.0], 3.0),
        ("where", &[-0.0, NAN, -0.0], -0.0),
        ("where", &[NAN, 2.0, 3.0], 2.0),
    ];
    for &(name, arguments, expected) in cases {
        let op = MapOp::from_name(name).expect("an op of the table");
        let got = op.apply_f64(arguments);
        assert_eq!(
            bits(Precision::Double, got),
            bits(Precision::Double, expected),
            "{name} of {arguments:?} is {got}"
        );
    }
    for op in MapOp::ALL {
        assert!(cases.iter().any(|case| case.0 == op.name()), "{} has no vector", op.name());
    }
}
