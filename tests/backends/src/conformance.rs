//! What every backend must do: the bits of [`Plain`], whatever the program, the storage, the count of elements and
//! how they are cut into stretches.
//!
//! Programs are made at random from a seed. What is compared: stored bytes; sums, bit for bit; what selections
//! find; the first number that is not finite, and the first that should be a probability and is none; that
//! nothing is written outside of the output, and that nothing of a piece is left when the next one begins.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use mixdown_ops::program::{BLOCK, PIECE, ReductionSlot, Scope, SelectionSlot};
use mixdown_ops::random::uniform_bits;
use mixdown_ops::real::Real;
use mixdown_ops::selection::{BUCKETS, Cut, Keys, Round, RoundPartial, Ties};
use mixdown_ops::{
    Backend, Instruction, LowRank, MapOp, Operand, Partial, Pass, Precision, Reduction, Sides,
    Worker,
};
use mixdown_tensor::DType;

use crate::Plain;
use crate::job::{Job, decode, encode, exact, numbers, ordinaries, store};

/// Registers of a program.
const REGISTERS: u32 = 6;

/// Holds a backend to the plain one in programs of these seeds.
///
/// **Panics** with the seed and the first thing that differs.
pub fn check(backend: &Arc<dyn Backend>, seeds: Range<u64>) {
    let mut seen = BTreeSet::new();
    let mut worker = backend.worker();
    for seed in seeds.clone() {
        let made = Made::new(Draw::new(seed), Arc::clone(backend));
        seen.extend(made.job.pass.instructions.iter().map(kind));
        made.check(worker.as_mut(), seed);
        product(backend.as_ref(), worker.as_mut(), Draw::new(seed), seed);
    }
    // A generator that no longer makes something would hide all faults of it.
    if seeds.end - seeds.start >= 400 {
        let kinds = MapOp::ALL.len() + 7;
        assert_eq!(seen.len(), kinds, "all kinds of instructions and all ops: {seen:?}");
    }
}

fn kind(instruction: &Instruction) -> String {
    match instruction {
        Instruction::Map { op, .. } => op.name().to_owned(),
        Instruction::Load { .. } => "(load)".to_owned(),
        Instruction::Round { .. } => "(round)".to_owned(),
        Instruction::KeepLargest { .. } => "(keep largest)".to_owned(),
        Instruction::KeepRandom { .. } => "(keep random)".to_owned(),
        Instruction::Reduce { .. } => "(reduce)".to_owned(),
        Instruction::Select { .. } => "(select)".to_owned(),
        Instruction::Store { .. } => "(store)".to_owned(),
    }
}

/// Choices that are a function of a seed.
struct Draw {
    key: u64,
    count: u64,
}

impl Draw {
    fn new(seed: u64) -> Self {
        Self { key: seed ^ 0x6d69_7864_6f77_6e00, count: 0 }
    }

    fn bits(&mut self) -> u32 {
        self.count += 1;
        uniform_bits(self.key, self.count)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.bits() as usize % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

/// A job of the backend under test.
struct Made {
    job: Job,
    /// How many instructions may find that a number is no probability: of several, any may be the first.
    random: usize,
}

impl Made {
    fn new(mut draw: Draw, backend: Arc<dyn Backend>) -> Self {
        let precision = draw.of(&[Precision::Single, Precision::Double]);
        let elements = draw.of(&[0, 1, 7, 63, 64, 65, 257, 1023, 1024, 1025, 2048, 3001, 5000]);
        let count = 1 + draw.below(4);
        let mut job = Job::new(Plain, precision, DType::F32, &[]);
        job.backend = backend;
        job.elements = elements;
        job.inputs = (0..count)
            .map(|_| {
                let dtype = draw.of(&[DType::Bf16, DType::F16, DType::F32, DType::F64]);
                let salt = u64::from(draw.bits());
                let values = match draw.chance(3) {
                    true => numbers(elements, salt),
                    false => ordinaries(elements, salt),
                };
                (dtype, encode(dtype, &values))
            })
            .collect();
        // The last stretch of a tensor ends anywhere, and the first begins with a piece.
        job.first = draw.of(&[0, PIECE, 3 * PIECE, (1 << 32) - BLOCK as u64, 5 << 32]);
        job.scalars = vec![0.0, 1.0, 0.5, -0.25, 3.0, 1e-30, f64::INFINITY, f64::NAN];
        job.streams = vec![u64::from(draw.bits()), u64::from(draw.bits()) << 20];
        job.cuts = vec![Cut::ALL, Cut::NONE, some_cut(&mut draw, &job), some_cut(&mut draw, &job)];
        job.check_finite = draw.chance(2);
        job.out = draw.of(&[DType::Bf16, DType::F16, DType::F32, DType::F64]);
        job.stretch = BLOCK * draw.of(&[1, 2, 3, 64]);
        let random = fill(&mut draw, &mut job, count as u32);
        Self { job, random }
    }

    /// Runs it with a new worker and with one that has done others, and as the plain backend does.
    fn check(&self, used: &mut dyn Worker, seed: u64) {
        let expected = Job { backend: Arc::new(Plain), ..self.job.clone() }.run();
        for (found, whose) in [(self.job.run(), "new"), (self.job.run_with(used), "used")] {
            let what = format!("seed {seed}, a {whose} worker, {:?}", self.job.pass.instructions);
            let out = |bytes: &[u8]| decode(self.job.out, bytes);
            let differs = found.0.iter().zip(&expected.0).position(|(found, good)| found != good);
            if let Some(byte) = differs {
                let element = byte / self.job.out.bytes();
                let (found, expected) = (out(&found.0)[element], out(&expected.0)[element]);
                panic!("element {element} is {found:e} and not {expected:e}: {what}");
            }
            self.compare(found.1, expected.1.clone(), &what);
        }
    }

    fn compare(&self, found: Partial, expected: Partial, what: &str) {
        let bits = |partial: &Partial| -> Vec<u64> {
            let one = |sum: &f64| if sum.is_nan() { u64::MAX } else { sum.to_bits() };
            partial.reductions.iter().map(one).collect()
        };
        assert_eq!(bits(&found), bits(&expected), "sums: {what}");
        assert_eq!(found.nonfinite, expected.nonfinite, "the first that is not finite: {what}");
        if self.random == 1 {
            let place = |partial: &Partial| {
                partial
                    .improbable
                    .map(|improbable| (improbable.element, improbable.found.to_bits()))
            };
            let (found, expected) = (place(&found), place(&expected));
            assert_eq!(found, expected, "the first that is no probability: {what}");
        }
        let is_improbable = |partial: &Partial| partial.improbable.is_some();
        assert_eq!(is_improbable(&found), is_improbable(&expected), "a probability: {what}");
        assert_eq!(found.selections.len(), expected.selections.len(), "selections: {what}");
        for (found, expected) in found.selections.into_iter().zip(expected.selections) {
            assert_eq!(in_order(found), in_order(expected), "a selection: {what}");
        }
    }
}

/// Keys within a bracket may come in any order, and those that have no room are any of them.
fn in_order(partial: RoundPartial) -> RoundPartial {
    match partial {
        RoundPartial::Bracketed { above, at_high, at_low, below, inside, overflow } => {
            let inside = match inside {
                Keys::Single(mut keys) => {
                    keys.sort_unstable();
                    Keys::Single(if overflow { Vec::new() } else { keys })
                }
                Keys::Double(mut keys) => {
                    keys.sort_unstable();
                    Keys::Double(if overflow { Vec::new() } else { keys })
                }
            };
            RoundPartial::Bracketed { above, at_high, at_low, below, inside, overflow }
        }
        other => other,
    }
}

/// The key of one of the first input's elements, as most cuts and bounds are.
fn some_key(draw: &mut Draw, job: &Job) -> u64 {
    let (dtype, bytes) = &job.inputs[0];
    let values = decode(*dtype, &bytes[crate::job::GUARD..bytes.len() - crate::job::GUARD]);
    let value = if values.is_empty() { 0.5 } else { values[draw.below(values.len())] };
    match job.precision {
        Precision::Single => u64::from((value as f32).key()),
        Precision::Double => value.key(),
    }
}

fn some_cut(draw: &mut Draw, job: &Job) -> Cut {
    let ties_before = match draw.below(3) {
        0 => 0,
        1 => u64::MAX,
        _ => job.first + draw.below(job.elements + 1) as u64,
    };
    Cut { key: some_key(draw, job), ties_before }
}

/// Puts instructions into a job, and says how many keep elements at random.
fn fill(draw: &mut Draw, job: &mut Job, inputs: u32) -> usize {
    let loads = (0..inputs).map(|input| Instruction::Load { input, to: input });
    let mut instructions: Vec<Instruction> = loads.collect();
    let mut pass = Pass { registers: REGISTERS, inputs: (0..inputs).collect(), ..Pass::default() };
    let mut random = 0;
    // Registers are blocks of any numbers before they are written.
    let mut written = inputs;
    for _ in 0..1 + draw.below(12) {
        let from = draw.below(written as usize) as u32;
        let to = draw.below((written + 1).min(REGISTERS) as usize) as u32;
        let scalar =
            |draw: &mut Draw, job: &Job| Operand::Scalar(draw.below(job.scalars.len()) as u32);
        let operand = |draw: &mut Draw, job: &Job| match draw.chance(3) {
            true => scalar(draw, job),
            false => Operand::Register(draw.below(written as usize) as u32),
        };
        let mut is_written = true;
        instructions.push(match draw.below(10) {
            0 => {
                let dtype = draw.of(&[DType::Bf16, DType::F16, DType::F32, DType::F64]);
                Instruction::Round { from, dtype, to }
            }
            1 => Instruction::KeepLargest { from, cut: draw.below(job.cuts.len()) as u32, to },
            2 => {
                random += 1;
                let stream = draw.below(job.streams.len()) as u32;
                Instruction::KeepRandom { from, density: operand(draw, job), stream, to }
            }
            3 => {
                is_written = false;
                let reduction = draw.of(&[
                    Reduction::Sum,
                    Reduction::SumAbsolute,
                    Reduction::SumProduct,
                    Reduction::LargestAbsolute,
                    Reduction::CountNonzero,
                ]);
                let slot = pass.reductions.len() as u32;
                pass.reductions.push(ReductionSlot { reduction, to: 0, scope: Scope::Tensor });
                let arguments = [operand(draw, job), operand(draw, job)];
                Instruction::Reduce { reduction, arguments, slot }
            }
            4 => {
                is_written = false;
                let slot = pass.selections.len() as u32;
                pass.selections.push(selection());
                job.rounds.push(some_round(draw, job));
                Instruction::Select { from, slot }
            }
            _ => {
                let op = draw.of(MapOp::ALL);
                let mut arguments = [Operand::Register(from); 3];
                let block = draw.below(op.arity());
                for (position, argument) in arguments.iter_mut().enumerate() {
                    // What lies beyond the arity may be anything, registers that do not exist included.
                    *argument = match position {
                        _ if position >= op.arity() => Operand::Register(1000),
                        _ if position == block => *argument,
                        _ => operand(draw, job),
                    };
                }
                Instruction::Map { op, arguments, to }
            }
        });
        written += u32::from(is_written && to == written);
    }
    let last = match draw.chance(8) {
        true => Instruction::Store { from: Operand::Scalar(draw.below(job.scalars.len()) as u32) },
        false => store(draw.below(written as usize) as u32),
    };
    instructions.push(last);
    job.pass = Pass { instructions, ..pass };
    random
}

fn selection() -> SelectionSlot {
    SelectionSlot {
        density: 0,
        is_count: false,
        among: None,
        magnitude: None,
        ties: Ties::Exact,
        cut: 0,
        scope: Scope::Tensor,
    }
}

fn some_round(draw: &mut Draw, job: &Job) -> Round {
    let limit = draw.of(&[0, 1, 100, 100_000]);
    let (a, b) = (some_key(draw, job), some_key(draw, job));
    let (low, high) = (a.min(b), a.max(b));
    match draw.below(5) {
        0 => Round::Idle,
        1 => Round::Collect { limit },
        2 => Round::Bracket { low, high, limit },
        3 => {
            let bits = u64::BITS - (high - low).leading_zeros();
            Round::Histogram { low, high, shift: bits.saturating_sub(BUCKETS.ilog2()) }
        }
        _ => Round::FindTie { key: a, skip: draw.below(3) as u64 },
    }
}

/// Products of factors, read from any element to any other.
fn product(backend: &dyn Backend, used: &mut dyn Worker, mut draw: Draw, seed: u64) {
    let (rows, rank, columns) = (1 + draw.below(9), draw.below(6), 1 + draw.below(70));
    let precision = draw.of(&[Precision::Single, Precision::Double]);
    let first = draw.below(rows * columns);
    let elements = draw.below(rows * columns - first + 1);
    let (left, right) = (ordinaries(rows * rank, 1 + seed), ordinaries(rank * columns, 2 + seed));
    let single = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
    let (left32, right32) = (single(&left), single(&right));
    let sides = match precision {
        Precision::Single => Sides::Single(&left32, &right32),
        Precision::Double => Sides::Double(&left, &right),
    };
    let matrix = LowRank { sides, rank, columns };
    let run = |worker: &mut dyn Worker| {
        let mut out = vec![0xa5; elements * exact(precision).bytes()];
        worker.multiply(matrix, first as u64, &mut out);
        out
    };
    let expected = run(Plain.worker().as_mut());
    let what = format!("seed {seed}: {elements} elements from {first} of {rows}·{rank}·{columns}");
    assert!(run(backend.worker().as_mut()) == expected, "a product by a new worker, {what}");
    assert!(run(used) == expected, "a product by a used worker, {what}");
}
