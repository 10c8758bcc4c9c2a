//! Programs element by element, in plain Rust.
//!
//! There are no blocks, no vectors and nothing that is kept from one element to the next but what a pass is to
//! find. Formulas come from the ops, as they do for every backend; all else is said again here.

use mixdown_ops::backend::Improbable;
use mixdown_ops::elementwise::{Elementwise, Visitor};
use mixdown_ops::random::{is_probability, keep_below, uniform_bits};
use mixdown_ops::real::Key;
use mixdown_ops::selection::{BUCKETS, Cut, Round, RoundPartial};
use mixdown_ops::{
    Backend, Call, Input, Instruction, LowRank, NonFinite, Operand, Partial, Pass, Precision, Real,
    Reduction, Sides, Worker,
};
use mixdown_tensor::{DType, convert};

/// Sums that run side by side, by the definition of a reduction: element i of a piece is in sum i mod 16.
const LANES: usize = 16;

/// A backend without matrix ops that goes through programs element by element.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Backend for Plain {
    fn name(&self) -> &str {
        "plain"
    }

    fn describe(&self) -> String {
        "element by element".to_owned()
    }

    fn worker(&self) -> Box<dyn Worker> {
        Box::new(PlainWorker::Single(State::new(&Pass::default(), &[])))
    }

    fn worker_bytes(&self, pass: &Pass, _: Precision) -> u64 {
        let collected = pass.selections.len() as u64 * mixdown_ops::program::PIECE;
        8 * (u64::from(pass.registers) + collected)
    }
}

enum PlainWorker {
    Single(State<f32>),
    Double(State<f64>),
}

impl Worker for PlainWorker {
    fn begin(&mut self, pass: &Pass, precision: Precision, rounds: &[Round]) {
        *self = match precision {
            Precision::Single => Self::Single(State::new(pass, rounds)),
            Precision::Double => Self::Double(State::new(pass, rounds)),
        };
    }

    fn run(&mut self, call: Call<'_>) {
        match self {
            Self::Single(state) => state.run(call),
            Self::Double(state) => state.run(call),
        }
    }

    fn finish(&mut self) -> Partial {
        match self {
            Self::Single(state) => state.finish(),
            Self::Double(state) => state.finish(),
        }
    }

    fn multiply(&mut self, matrix: LowRank<'_>, first: u64, out: &mut [u8]) {
        let LowRank { sides, rank, columns } = matrix;
        match sides {
            Sides::Single(left, right) => product(left, right, (rank, columns), first, out),
            Sides::Double(left, right) => product(left, right, (rank, columns), first, out),
        }
    }
}

/// The elements from `first` on of `left · right`.
fn product<R: Real>(
    left: &[R],
    right: &[R],
    (rank, columns): (usize, usize),
    first: u64,
    out: &mut [u8],
) {
    let dtype = match R::PRECISION {
        Precision::Single => DType::F32,
        Precision::Double => DType::F64,
    };
    for (index, to) in (first as usize..).zip(out.chunks_mut(dtype.bytes())) {
        let (row, column) = (index / columns, index % columns);
        let mut sum = R::ZERO;
        for direction in 0..rank {
            sum = sum + left[row * rank + direction] * right[direction * columns + column];
        }
        narrow(dtype, sum, to);
    }
}

/// What is known of the piece under way.
struct State<R> {
    registers: Vec<R>,
    /// Elements of the piece that were seen.
    seen: usize,
    sums: Vec<(Reduction, [f64; LANES])>,
    found: Vec<(Round, Vec<(u64, u64)>)>,
    nonfinite: Option<NonFinite>,
    improbable: Option<Improbable>,
}

impl<R: Real> State<R> {
    fn new(pass: &Pass, rounds: &[Round]) -> Self {
        let rounds = rounds.iter().copied().chain(std::iter::repeat(Round::Idle));
        Self {
            registers: vec![R::ZERO; pass.registers as usize],
            seen: 0,
            sums: pass.reductions.iter().map(|slot| (slot.reduction, [0.0; LANES])).collect(),
            found: rounds.take(pass.selections.len()).map(|round| (round, Vec::new())).collect(),
            nonfinite: None,
            improbable: None,
        }
    }

    fn run(&mut self, mut call: Call<'_>) {
        for element in 0..call.elements {
            for &instruction in &call.pass.instructions {
                self.step(instruction, &mut call, element);
            }
            self.seen += 1;
        }
    }

    fn value(&self, operand: Operand, scalars: &[f64]) -> R {
        match operand {
            Operand::Register(register) => self.registers[register as usize],
            Operand::Scalar(scalar) => R::from_f64(scalars[scalar as usize]),
        }
    }

    fn step(&mut self, instruction: Instruction, call: &mut Call<'_>, element: usize) {
        let index = call.first + element as u64;
        let (to, value) = match instruction {
            Instruction::Load { input, to } => {
                let Input { dtype, bytes } = call.inputs[input as usize];
                let value: R = widen(dtype, &bytes[element * dtype.bytes()..]);
                if call.check_finite && !value.is_finite() {
                    let found = NonFinite { element: index, input };
                    self.nonfinite = Some(self.nonfinite.map_or(found, |known| known.min(found)));
                }
                (to, value)
            }
            Instruction::Round { from, dtype, to } => {
                let mut stored = [0; 8];
                narrow(dtype, self.registers[from as usize], &mut stored);
                (to, widen(dtype, &stored))
            }
            Instruction::Map { op, arguments, to } => {
                let mut values = [R::ZERO; 3];
                for (value, &operand) in values.iter_mut().zip(&arguments[..op.arity()]) {
                    *value = self.value(operand, call.scalars);
                }
                (to, op.visit(Apply(values)))
            }
            Instruction::KeepLargest { from, cut, to } => {
                let value = self.registers[from as usize];
                let Cut { key, ties_before } = call.cuts[cut as usize];
                let own = value.key().widen();
                let is_kept = own > key || own == key && index < ties_before;
                (to, if is_kept { value } else { R::ZERO })
            }
            Instruction::KeepRandom { from, density, stream, to } => {
                let value = self.registers[from as usize];
                // A scalar is not rounded to the precision of the elements.
                let density = match density {
                    Operand::Scalar(scalar) => call.scalars[scalar as usize],
                    Operand::Register(register) => self.registers[register as usize].to_f64(),
                };
                if !is_probability(density) && self.improbable.is_none() {
                    self.improbable = Some(Improbable { element: index, found: density });
                }
                let bits = uniform_bits(call.streams[stream as usize], index);
                let is_kept = u64::from(bits) < keep_below(density);
                (to, if is_kept { value } else { R::ZERO })
            }
            Instruction::Reduce { reduction, arguments: [a, b], slot } => {
                if call.reduce {
                    let a = self.value(a, call.scalars).to_f64();
                    let b = if reduction.arity() == 2 {
                        self.value(b, call.scalars).to_f64()
                    } else {
                        a
                    };
                    let sum = &mut self.sums[slot as usize].1[self.seen % LANES];
                    *sum = accumulated(reduction, *sum, a, b);
                }
                return;
            }
            Instruction::Select { from, slot } => {
                let key = self.registers[from as usize].key().widen();
                self.found[slot as usize].1.push((index, key));
                return;
            }
            Instruction::Store { from } => {
                let value = self.value(from, call.scalars);
                if let Some(output) = &mut call.output {
                    let size = output.dtype.bytes();
                    narrow(output.dtype, value, &mut output.bytes[element * size..][..size]);
                }
                return;
            }
        };
        self.registers[to as usize] = value;
    }

    fn finish(&mut self) -> Partial {
        Partial {
            reductions: self
                .sums
                .iter()
                .map(|(reduction, sums)| joined(*reduction, sums))
                .collect(),
            selections: self.found.iter().map(|(round, keys)| told::<R>(*round, keys)).collect(),
            nonfinite: self.nonfinite,
            improbable: self.improbable,
        }
    }
}

fn accumulated(reduction: Reduction, sum: f64, a: f64, b: f64) -> f64 {
    match reduction {
        Reduction::Sum => sum + a,
        Reduction::SumAbsolute => sum + a.abs(),
        Reduction::SumProduct => sum + a * b,
        Reduction::LargestAbsolute if a.abs() > sum => a.abs(),
        Reduction::CountNonzero if a != 0.0 => sum + 1.0,
        Reduction::LargestAbsolute | Reduction::CountNonzero => sum,
    }
}

/// Lanes are joined by halves.
fn joined(reduction: Reduction, lanes: &[f64]) -> f64 {
    match lanes {
        [sum] => *sum,
        _ => {
            let (left, right) = lanes.split_at(lanes.len() / 2);
            let halves =
                left.iter().zip(right).map(|(&left, &right)| reduction.combine(left, right));
            joined(reduction, &halves.collect::<Vec<f64>>())
        }
    }
}

/// What a round makes of the keys of a piece, each with its element.
fn told<R: Real>(round: Round, keys: &[(u64, u64)]) -> RoundPartial {
    let list = |keys: &[u64]| {
        R::Key::list(&keys.iter().map(|&key| R::Key::narrow(key)).collect::<Vec<R::Key>>())
    };
    let count = |is_counted: &dyn Fn(u64) -> bool| {
        keys.iter().filter(|(_, key)| is_counted(*key)).count() as u64
    };
    match round {
        Round::Idle => RoundPartial::Idle,
        Round::Collect { limit } => {
            let all: Vec<u64> = keys.iter().map(|(_, key)| *key).collect();
            let keys = list(&all[..limit.min(all.len())]);
            RoundPartial::Collected { keys, overflow: all.len() > limit }
        }
        Round::Bracket { low, high, limit } => {
            let inside: Vec<u64> =
                keys.iter().map(|(_, key)| *key).filter(|key| low < *key && *key < high).collect();
            RoundPartial::Bracketed {
                above: count(&|key| key > high),
                at_high: count(&|key| key == high),
                at_low: if low == high { 0 } else { count(&|key| key == low) },
                below: count(&|key| key < low),
                inside: list(&inside[..limit.min(inside.len())]),
                overflow: inside.len() > limit,
            }
        }
        Round::Histogram { low, high, shift } => {
            let mut counts = vec![0; BUCKETS];
            for &(_, key) in keys {
                if (low..=high).contains(&key) {
                    counts[((key - low) >> shift) as usize] += 1;
                }
            }
            RoundPartial::Counts(counts)
        }
        Round::FindTie { key, skip } => {
            let mut equal = keys.iter().filter(|(_, own)| *own == key);
            RoundPartial::Tie(equal.nth(skip as usize).map(|(index, _)| *index))
        }
    }
}

struct Apply<R>([R; 3]);

impl<R: Real> Visitor for Apply<R> {
    type Output = R;

    fn visit<E: Elementwise>(self) -> R {
        E::apply(self.0)
    }
}

/// The number at the beginning of some bytes.
fn widen<R: Real>(dtype: DType, bytes: &[u8]) -> R {
    let half = u16::from_le_bytes([bytes[0], bytes[1]]);
    match dtype {
        DType::Bf16 => R::from_f32(convert::bf16_to_f32(half)),
        DType::F16 => R::from_f32(convert::f16_to_f32(half)),
        DType::F32 => R::from_f32(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        DType::F64 => {
            let mut whole = [0; 8];
            whole.copy_from_slice(&bytes[..8]);
            R::from_f64(f64::from_le_bytes(whole))
        }
        other => panic!("{other} takes no part in arithmetic"),
    }
}

/// Rounds once to storage; every NaN becomes the same.
fn narrow<R: Real>(dtype: DType, value: R, to: &mut [u8]) {
    // Exact: a number of the lower precision is one of the higher, too.
    let wide = value.to_f64();
    let single = wide as f32;
    let bytes = match (dtype, R::PRECISION) {
        (DType::Bf16, Precision::Single) => convert::f32_to_bf16(single).to_le_bytes().to_vec(),
        (DType::Bf16, Precision::Double) => convert::f64_to_bf16(wide).to_le_bytes().to_vec(),
        (DType::F16, Precision::Single) => convert::f32_to_f16(single).to_le_bytes().to_vec(),
        (DType::F16, Precision::Double) => convert::f64_to_f16(wide).to_le_bytes().to_vec(),
        (DType::F32, _) => convert::f64_to_f32(wide).to_le_bytes().to_vec(),
        (DType::F64, _) => convert::canonical_f64(wide).to_le_bytes().to_vec(),
        (other, _) => panic!("{other} takes no part in arithmetic"),
    };
    to[..bytes.len()].copy_from_slice(&bytes);
}
