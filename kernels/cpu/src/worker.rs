//! The interpreter: takes blocks through the instructions of a pass.

use mixdown_ops::backend::Improbable;
use mixdown_ops::program::BLOCK;
use mixdown_ops::random::is_probability;
use mixdown_ops::selection::Round;
use mixdown_ops::{
    Call, Input, Instruction, LowRank, NonFinite, Operand, Partial, Pass, Precision, Real, Worker,
};

use crate::block::Block;
use crate::features::Features;
use crate::low_rank::{self, Strips};
use crate::map::{Argument, Map};
use crate::reduce::Lanes;
use crate::select::Sink;
use crate::storage::Narrow;
use crate::{keep, load, store};

/// One thread's registers and accumulators, for both precisions; each holds memory once it is used.
pub(crate) struct CpuWorker {
    features: Features,
    precision: Precision,
    single: State<f32>,
    double: State<f64>,
    strips: Strips,
}

impl CpuWorker {
    pub(crate) fn new(features: Features) -> Self {
        Self {
            features,
            precision: Precision::Single,
            single: State::new(features),
            double: State::new(features),
            strips: Strips::default(),
        }
    }
}

impl Worker for CpuWorker {
    fn begin(&mut self, pass: &Pass, precision: Precision, rounds: &[Round]) {
        self.precision = precision;
        match precision {
            Precision::Single => self.single.begin(pass, rounds),
            Precision::Double => self.double.begin(pass, rounds),
        }
    }

    fn run(&mut self, call: Call<'_>) {
        match self.precision {
            Precision::Single => self.single.run(call),
            Precision::Double => self.double.run(call),
        }
    }

    fn finish(&mut self) -> Partial {
        match self.precision {
            Precision::Single => self.single.finish(),
            Precision::Double => self.double.finish(),
        }
    }

    fn multiply(&mut self, matrix: LowRank<'_>, first: u64, out: &mut [u8]) {
        low_rank::multiply(self.features, matrix, first, &mut self.strips, out);
    }
}

struct State<R: Real> {
    features: Features,
    registers: Vec<Box<Block<R>>>,
    /// Where an instruction writes. It then changes places with the target register, so that the
    /// target may be an operand.
    spare: Box<Block<R>>,
    reductions: Vec<Lanes>,
    selections: Vec<Sink<R::Key>>,
    nonfinite: Option<NonFinite>,
    improbable: Option<Improbable>,
}

impl<R: Narrow> State<R> {
    fn new(features: Features) -> Self {
        Self {
            features,
            registers: Vec::new(),
            spare: Block::zeros(),
            reductions: Vec::new(),
            selections: Vec::new(),
            nonfinite: None,
            improbable: None,
        }
    }

    fn begin(&mut self, pass: &Pass, rounds: &[Round]) {
        self.registers.resize_with(pass.registers as usize, Block::zeros);
        self.reductions.clear();
        self.reductions.extend(pass.reductions.iter().map(|slot| Lanes::new(slot.reduction)));
        self.selections.resize_with(pass.selections.len(), Sink::new);
        let rounds = rounds.iter().copied().chain(std::iter::repeat(Round::Idle));
        for (selection, round) in self.selections.iter_mut().zip(rounds) {
            selection.begin(round);
        }
        self.nonfinite = None;
        self.improbable = None;
    }

    fn run(&mut self, mut call: Call<'_>) {
        let mut start = 0;
        while start < call.elements {
            let elements = (call.elements - start).min(BLOCK);
            for &instruction in &call.pass.instructions {
                self.step(instruction, &mut call, start, elements);
            }
            start += elements;
        }
    }

    /// Does one instruction on the block of `elements` that begins at `start` in the call.
    #[inline]
    fn step(
        &mut self,
        instruction: Instruction,
        call: &mut Call<'_>,
        start: usize,
        elements: usize,
    ) {
        let first = call.first + start as u64;
        match instruction {
            Instruction::Load { input, to } => {
                self.load(call, input, start, elements);
                self.settle(to);
            }
            Instruction::Round { from, dtype, to } => {
                let from = &self.registers[from as usize];
                store::round(self.features, dtype, from, elements, &mut self.spare);
                self.settle(to);
            }
            Instruction::Map { op, arguments, to } => {
                // Operands beyond the arity may name registers that do not exist.
                let mut values = [Argument::Scalar(R::ZERO); 3];
                for (value, &operand) in values.iter_mut().zip(&arguments[..op.arity()]) {
                    *value = argument(&self.registers, operand, call.scalars);
                }
                let to_block = &mut self.spare;
                op.visit(Map {
                    features: self.features,
                    arguments: values,
                    elements,
                    to: to_block,
                });
                self.settle(to);
            }
            Instruction::KeepLargest { from, cut, to } => {
                let from = &self.registers[from as usize];
                let cut = call.cuts[cut as usize];
                keep::keep_largest(self.features, cut, first, elements, from, &mut self.spare);
                self.settle(to);
            }
            Instruction::KeepRandom { from, density, stream, to } => {
                let from = &self.registers[from as usize];
                let key = call.streams[stream as usize];
                let spare = &mut self.spare;
                let found = match density {
                    Operand::Scalar(density) => {
                        let density = call.scalars[density as usize];
                        keep::keep_random(
                            self.features,
                            key,
                            density,
                            first,
                            elements,
                            from,
                            spare,
                        );
                        (!is_probability(density))
                            .then_some(Improbable { element: first, found: density })
                    }
                    Operand::Register(densities) => {
                        let densities = &self.registers[densities as usize];
                        keep::keep_random_each(key, densities, first, elements, from, spare)
                    }
                };
                self.improbable = self.improbable.or(found);
                self.settle(to);
            }
            Instruction::Reduce { reduction, arguments: [a, b], slot } => {
                if call.reduce {
                    let a = argument(&self.registers, a, call.scalars);
                    let b = match reduction.arity() {
                        1 => a,
                        _ => argument(&self.registers, b, call.scalars),
                    };
                    self.reductions[slot as usize].add(self.features, a, b, elements);
                }
            }
            Instruction::Select { from, slot } => {
                let from = &self.registers[from as usize];
                self.selections[slot as usize].add(self.features, from, first, elements);
            }
            Instruction::Store { from } => self.store(call, from, start, elements),
        }
    }

    /// Makes the spare block the register's.
    fn settle(&mut self, to: u32) {
        std::mem::swap(&mut self.registers[to as usize], &mut self.spare);
    }

    fn load(&mut self, call: &Call<'_>, input: u32, start: usize, elements: usize) {
        let Input { dtype, bytes } = call.inputs[input as usize];
        let size = dtype.bytes();
        let bytes = &bytes[start * size..(start + elements) * size];
        let found = load::load(self.features, dtype, bytes, call.check_finite, &mut self.spare);
        if let Some(offset) = found {
            let element = call.first + (start + offset) as u64;
            let other = NonFinite { element, input };
            self.nonfinite = Some(self.nonfinite.map_or(other, |known| known.min(other)));
        }
    }

    fn store(&mut self, call: &mut Call<'_>, from: Operand, start: usize, elements: usize) {
        let Some(output) = &mut call.output else { return };
        let size = output.dtype.bytes();
        let bytes = &mut output.bytes[start * size..(start + elements) * size];
        let from = match from {
            Operand::Register(register) => &self.registers[register as usize],
            Operand::Scalar(scalar) => {
                let value = R::from_f64(call.scalars[scalar as usize]);
                self.spare.0.as_flattened_mut().fill(value);
                &self.spare
            }
        };
        store::store(self.features, output.dtype, from, bytes);
    }

    fn finish(&mut self) -> Partial {
        Partial {
            reductions: self.reductions.iter().map(Lanes::result).collect(),
            selections: self.selections.iter().map(Sink::finish).collect(),
            nonfinite: self.nonfinite,
            improbable: self.improbable,
        }
    }
}

/// What an operand reads.
#[inline]
fn argument<'a, R: Real>(
    registers: &'a [Box<Block<R>>],
    operand: Operand,
    scalars: &[f64],
) -> Argument<'a, R> {
    match operand {
        Operand::Register(register) => Argument::Register(&registers[register as usize]),
        Operand::Scalar(scalar) => Argument::Scalar(R::from_f64(scalars[scalar as usize])),
    }
}
