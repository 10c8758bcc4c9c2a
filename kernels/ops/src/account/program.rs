//! Block programs.

use super::Account;
use crate::Precision;
use crate::program::{
    Instruction, Operand, Pass, Program, Reduction, ReductionSlot, ScalarStep, Scope,
    SelectionSlot, Standing, StandingSlot,
};
use crate::selection::Ties;

impl Program {
    /// Tells what determines its results.
    pub fn account(&self, to: &mut dyn Account) {
        let Self { inputs, constants, scalars, cuts, streams, passes } = self;
        to.count("inputs", *inputs);
        to.count("constants", *constants);
        to.count("scalars", *scalars);
        to.count("cuts", *cuts);
        to.count("streams", *streams);
        for pass in passes {
            to.thing("pass", |to| pass.account(to));
        }
    }
}

impl Pass {
    /// Tells what determines its results.
    pub fn account(&self, to: &mut dyn Account) {
        let Self { prelude, instructions, registers, inputs, .. } = self;
        let Self { reductions, selections, standings, .. } = self;
        to.count("registers", *registers);
        to.counts("inputs", inputs.iter().copied());
        for step in prelude {
            to.thing("scalar step", |to| step.account(to));
        }
        for instruction in instructions {
            to.thing("instruction", |to| instruction.account(to));
        }
        for slot in reductions {
            to.thing("reduction", |to| slot.account(to));
        }
        for slot in selections {
            to.thing("selection", |to| slot.account(to));
        }
        for slot in standings {
            to.thing("standing", |to| slot.account(to));
        }
    }
}

impl ScalarStep {
    /// Tells what determines its result.
    pub fn account(&self, to: &mut dyn Account) {
        let Self { op, arguments, to: place } = self;
        to.word("op", op.name());
        to.counts("of", arguments[..op.arity()].iter().copied());
        to.count("to", *place);
    }
}

impl Instruction {
    /// Tells what determines its result.
    pub fn account(&self, to: &mut dyn Account) {
        match self {
            Self::Load { input, to: place } => {
                to.word("op", "load");
                to.count("input", *input);
                to.count("to", *place);
            }
            Self::Round { from, dtype, to: place } => {
                to.word("op", "round");
                to.count("of", *from);
                to.word("type", dtype.name());
                to.count("to", *place);
            }
            Self::Map { op, arguments, to: place } => {
                to.word("op", op.name());
                operands(&arguments[..op.arity()], to);
                to.count("to", *place);
            }
            Self::KeepLargest { from, cut, to: place } => {
                to.word("op", "keep_largest");
                to.count("of", *from);
                to.count("cut", *cut);
                to.count("to", *place);
            }
            Self::KeepRandom { from, density, stream, to: place } => {
                to.word("op", "keep_random");
                to.count("of", *from);
                operands(&[*density], to);
                to.count("stream", *stream);
                to.count("to", *place);
            }
            Self::Reduce { reduction, arguments, slot } => {
                to.word("op", reduction.name());
                operands(&arguments[..reduction.arity()], to);
                to.count("slot", *slot);
            }
            Self::Select { from, slot } => {
                to.word("op", "select");
                to.count("of", *from);
                to.count("slot", *slot);
            }
            Self::Store { from } => {
                to.word("op", "store");
                operands(&[*from], to);
            }
        }
    }
}

fn operands(operands: &[Operand], to: &mut dyn Account) {
    for operand in operands {
        match operand {
            Operand::Register(register) => to.count("register", *register),
            Operand::Scalar(scalar) => {
                // Registers and scalars are numbered alike, and a digest does not see the names.
                to.thing("scalar", |to| to.count("", *scalar));
            }
        }
    }
}

impl Reduction {
    /// As listings write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "total",
            Self::SumAbsolute => "norm1",
            Self::SumProduct => "dot",
            Self::LargestAbsolute => "largest_magnitude",
            Self::CountNonzero => "count_nonzero",
        }
    }
}

impl ReductionSlot {
    fn account(&self, to: &mut dyn Account) {
        let Self { reduction, to: place, scope } = self;
        to.word("op", reduction.name());
        to.count("to", *place);
        to.maybe("group", scope.group());
    }
}

impl SelectionSlot {
    fn account(&self, to: &mut dyn Account) {
        let Self { density, is_count, among, magnitude, ties, cut, scope } = self;
        to.count("density", *density);
        to.flag("is a count", *is_count);
        to.maybe("among", *among);
        to.maybe("magnitude", *magnitude);
        to.word("ties", ties.name());
        to.count("cut", *cut);
        to.maybe("group", scope.group());
    }
}

impl StandingSlot {
    fn account(&self, to: &mut dyn Account) {
        let Self { standing, of, to: place, group } = self;
        to.word("op", standing.name());
        to.count("of", *of);
        to.count("to", *place);
        to.count("group", *group);
    }
}

impl Standing {
    /// As formulas write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Position => "position",
            Self::Count => "layers",
        }
    }
}

impl Scope {
    /// The group, if the fact is about one.
    pub fn group(self) -> Option<u32> {
        match self {
            Self::Tensor => None,
            Self::Group(group) => Some(group),
        }
    }
}

impl Ties {
    /// As listings write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Inclusive => "inclusive",
        }
    }
}

impl Precision {
    /// As listings write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "f32",
            Self::Double => "f64",
        }
    }
}
