//! How fast one core takes blocks through typical passes, inputs and output in the second-level cache.
//!
//! `cargo bench -p mixdown-cpu --bench blocks` prints, for each instruction set of this machine,
//! gigabytes of input per second and picoseconds per element of an input, for the shortest of many
//! runs, and how much longer the middle one took. A plain copy is measured in the same run.

use std::hint::black_box;
use std::time::Instant;

use mixdown_cpu::{CpuBackend, Features};
use mixdown_ops::program::{PIECE, ReductionSlot, Scope, SelectionSlot};
use mixdown_ops::selection::{Cut, Round, Ties};
use mixdown_ops::{
    Backend, Call, Input, Instruction, MapOp, Operand, Output, Pass, Precision, Program, Reduction,
};
use mixdown_tensor::{DType, convert};

use Instruction::{KeepLargest, KeepRandom, Load, Map, Reduce, Select, Store};
use Operand::{Register, Scalar};

/// Elements per run of a worker: five streams of 32 KiB.
const ELEMENTS: usize = 16 * 1024;

fn main() {
    copy();
    for features in Features::available() {
        println!("{}", features.name());
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            measure(features, &format!("linear of 4, {dtype}"), &linear(4), 4, dtype, Round::Idle);
        }
        let bf16 = DType::Bf16;
        measure(features, "slerp-like mix of 2, bf16", &interpolate(), 2, bf16, Round::Idle);
        measure(features, "TIES last pass, 3 experts, bf16", &ties(3), 4, bf16, Round::Idle);
        measure(features, "DARE, 3 experts, bf16", &dare(3), 4, bf16, Round::Idle);
        measure(features, "norms of 2, bf16", &norms(), 2, bf16, Round::Idle);
        let threshold = u64::from(0.013_f32.to_bits());
        let (low, high) = (threshold - (1 << 17), threshold + (1 << 17));
        let bracket = Round::Bracket { low, high, limit: PIECE as usize };
        measure(features, "bracket round, 3 experts, bf16", &select(3), 4, bf16, bracket);
        measure(features, "bracket round, 3 experts, f32", &select(3), 4, DType::F32, bracket);
        let (low, high) = (0, u64::from(f32::INFINITY.to_bits()));
        let histogram = Round::Histogram { low, high, shift: 21 };
        measure(features, "histogram round, 3 experts, bf16", &select(3), 4, bf16, histogram);
    }
}

/// Reads the bytes of four inputs and writes one output, as a bound.
fn copy() {
    let from = vec![1_u8; 2 * ELEMENTS];
    let mut to = vec![0_u8; 2 * ELEMENTS];
    let (best, _) = times(|| {
        for _ in 0..4 {
            to.copy_from_slice(black_box(&from));
        }
        black_box(&mut to);
    });
    println!("copy: {:.1} GB/s read", 8.0 * ELEMENTS as f64 / best / 1e9);
}

fn measure(features: Features, title: &str, pass: &Pass, inputs: u32, dtype: DType, round: Round) {
    let program = Program { inputs, scalars: 8, cuts: 4, streams: 4, ..Program::default() };
    let data: Vec<Vec<u8>> = (0..inputs).map(|input| weights(dtype, input.into())).collect();
    let inputs: Vec<_> = data.iter().map(|bytes| Input { dtype, bytes }).collect();
    let mut out = vec![0; ELEMENTS * dtype.bytes()];
    let mut worker = CpuBackend::with_features(features).worker();
    let rounds = vec![round; pass.selections.len()];
    let key = u64::from(0.013_f32.to_bits());
    let (best, middle) = times(|| {
        worker.begin(pass, Precision::Single, &rounds);
        worker.run(Call {
            program: &program,
            pass,
            precision: Precision::Single,
            first: 0,
            elements: ELEMENTS,
            inputs: &inputs,
            scalars: &[0.25, 0.3, 0.4, 0.05, 1.0, 0.0, 0.2, 0.5],
            cuts: &[Cut { key, ties_before: u64::MAX }; 4],
            streams: &[1, 2, 3, 4],
            rounds: &rounds,
            reduce: true,
            check_finite: true,
            output: Some(Output { dtype, bytes: &mut out }),
        });
        black_box(worker.finish());
    });
    let bytes = (data.len() * ELEMENTS * dtype.bytes()) as f64;
    let each = best / (data.len() * ELEMENTS) as f64;
    println!(
        "  {title:<34} {:6.1} GB/s of input, {:5.0} ps per element, middle +{:.0} %",
        bytes / best / 1e9,
        each * 1e12,
        (middle / best - 1.0) * 100.0
    );
}

/// The shortest and the middle time of many runs, each of some microseconds. On a machine that others
/// use, the shortest is what the code takes.
fn times(mut run: impl FnMut()) -> (f64, f64) {
    const RUNS: usize = 2000;
    let mut seconds: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    (seconds[0], seconds[RUNS / 2])
}

/// Numbers as weights have them: a bell around 0 with a deviation of 0.02, plus a small change.
fn weights(dtype: DType, input: u64) -> Vec<u8> {
    let uniform = |index, key| {
        f64::from(mixdown_ops::random::uniform_bits(key, index)) / 4_294_967_296.0 - 0.5
    };
    let mut bytes = Vec::new();
    for index in 0..ELEMENTS as u64 {
        let base: f64 = (0..4).map(|key| uniform(index, key)).sum();
        let change: f64 = (0..4).map(|key| uniform(index, 10 + 4 * input + key)).sum();
        let value = (0.034 * base + 0.01 * change) as f32;
        match dtype {
            DType::Bf16 => bytes.extend(convert::f32_to_bf16(value).to_le_bytes()),
            DType::F16 => bytes.extend(convert::f32_to_f16(value).to_le_bytes()),
            _ => bytes.extend(value.to_le_bytes()),
        }
    }
    bytes
}

fn map(op: MapOp, arguments: &[Operand], to: u32) -> Instruction {
    let mut three = [Scalar(0); 3];
    three[..arguments.len()].copy_from_slice(arguments);
    Map { op, arguments: three, to }
}

fn pass(registers: u32, inputs: u32, instructions: Vec<Instruction>) -> Pass {
    Pass { registers, inputs: (0..inputs).collect(), instructions, ..Pass::default() }
}

fn linear(n: u32) -> Pass {
    let mut steps = Vec::new();
    for input in 0..n {
        let to = input.min(1);
        steps.push(Load { input, to });
        steps.push(map(MapOp::Multiply, &[Register(to), Scalar(input)], to));
        if input > 0 {
            steps.push(map(MapOp::Add, &[Register(0), Register(1)], 0));
        }
    }
    steps.push(Store { from: Register(0) });
    pass(2, n, steps)
}

fn interpolate() -> Pass {
    let mix = map(MapOp::Interpolate, &[Register(0), Register(1), Scalar(1)], 0);
    let steps =
        vec![Load { input: 0, to: 0 }, Load { input: 1, to: 1 }, mix, Store { from: Register(0) }];
    pass(2, 2, steps)
}

/// Trims, elects a sign, and takes the weighted mean of what agrees.
fn ties(experts: u32) -> Pass {
    let (base, sum, total, temporary) = (0, 1, 2, 3);
    let delta = |expert: u32| 4 + expert;
    let mut steps = vec![Load { input: 0, to: base }];
    for expert in 0..experts {
        let to = delta(expert);
        steps.push(Load { input: expert + 1, to });
        steps.push(map(MapOp::Subtract, &[Register(to), Register(base)], to));
        steps.push(KeepLargest { from: to, cut: expert, to });
        steps.push(map(MapOp::Multiply, &[Register(to), Scalar(expert)], to));
        let addend = if expert == 0 { Scalar(5) } else { Register(sum) };
        steps.push(map(MapOp::Add, &[Register(to), addend], sum));
    }
    steps.push(map(MapOp::GreaterEqual, &[Register(sum), Scalar(5)], sum));
    for expert in 0..experts {
        let to = delta(expert);
        steps.push(map(MapOp::Greater, &[Register(to), Scalar(5)], temporary));
        steps.push(map(MapOp::Equal, &[Register(temporary), Register(sum)], temporary));
        steps.push(map(MapOp::Where, &[Register(temporary), Register(to), Scalar(5)], to));
        steps.push(map(MapOp::NotEqual, &[Register(to), Scalar(5)], temporary));
        steps.push(map(MapOp::Multiply, &[Register(temporary), Scalar(expert)], temporary));
        if expert == 0 {
            steps.push(map(MapOp::Add, &[Register(temporary), Scalar(5)], total));
        } else {
            steps.push(map(MapOp::Add, &[Register(total), Register(temporary)], total));
            steps.push(map(MapOp::Add, &[Register(4), Register(to)], 4));
        }
    }
    steps.push(map(MapOp::Equal, &[Register(total), Scalar(5)], temporary));
    steps.push(map(MapOp::Where, &[Register(temporary), Scalar(4), Register(total)], total));
    steps.push(map(MapOp::Divide, &[Register(4), Register(total)], 4));
    steps.push(map(MapOp::Add, &[Register(base), Register(4)], 4));
    steps.push(Store { from: Register(4) });
    pass(4 + experts, experts + 1, steps)
}

fn dare(experts: u32) -> Pass {
    let mut steps = vec![Load { input: 0, to: 0 }, map(MapOp::Add, &[Register(0), Scalar(5)], 1)];
    for expert in 0..experts {
        steps.push(Load { input: expert + 1, to: 2 });
        steps.push(map(MapOp::Subtract, &[Register(2), Register(0)], 2));
        steps.push(KeepRandom { from: 2, density: Operand::Scalar(7), stream: expert, to: 2 });
        steps.push(map(MapOp::Multiply, &[Register(2), Scalar(expert)], 2));
        steps.push(map(MapOp::Add, &[Register(1), Register(2)], 1));
    }
    steps.push(Store { from: Register(1) });
    pass(3, experts + 1, steps)
}

fn norms() -> Pass {
    let slot = |to| ReductionSlot { reduction: Reduction::SumProduct, to, scope: Scope::Tensor };
    let product = |a, b, slot| Reduce {
        reduction: Reduction::SumProduct,
        arguments: [Register(a), Register(b)],
        slot,
    };
    let steps = vec![
        Load { input: 0, to: 0 },
        Load { input: 1, to: 1 },
        product(0, 0, 0),
        product(1, 1, 1),
        product(0, 1, 2),
    ];
    Pass { reductions: vec![slot(0), slot(1), slot(2)], ..pass(2, 2, steps) }
}

fn select(experts: u32) -> Pass {
    let mut steps = vec![Load { input: 0, to: 0 }];
    let mut selections = Vec::new();
    for expert in 0..experts {
        steps.push(Load { input: expert + 1, to: 1 });
        steps.push(map(MapOp::Subtract, &[Register(1), Register(0)], 1));
        steps.push(Select { from: 1, slot: expert });
        let slot = SelectionSlot {
            density: 6,
            is_count: false,
            among: None,
            magnitude: None,
            ties: Ties::Exact,
            cut: expert,
            scope: Scope::Tensor,
        };
        selections.push(slot);
    }
    Pass { selections, ..pass(2, experts + 1, steps) }
}
