//! Fused block programs: what is done to each block of one tensor, from its storage bytes to the output's.
//!
//! A program reads the same elements of all its inputs, block by block, computes in registers that
//! hold one block each, and stores the result. What needs a fact about the whole tensor first (a norm,
//! a dot product, the k-th largest magnitude) makes a [`Pass`] of its own over the same inputs.

use mixdown_tensor::DType;

use crate::MapOp;

/// Elements in a block: one register holds this many. Small enough that a dozen registers of f32
/// stay in a 48 KiB first-level cache.
pub const BLOCK: usize = 1024;

/// Elements in a piece: the unit that one worker takes, and the unit over which sums are accumulated
/// before they are combined in order of index. Part of the result's definition: sums depend on it,
/// threads and budget do not.
pub const PIECE: u64 = 64 * 1024;

/// Where an instruction reads a number: a register holding one block, or a scalar of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A register, which holds one block.
    Register(u32),
    /// An entry of the job's scalar table, the same for all elements.
    Scalar(u32),
}

/// One step over one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instruction {
    /// Widens the block of an input into a register. NaN and infinity are reported if the call asks.
    Load {
        /// Which input.
        input: u32,
        /// Target register.
        to: u32,
    },
    /// Rounds a register to a storage type and widens it again; every NaN becomes the same.
    Round {
        /// Source register.
        from: u32,
        /// The type to round to.
        dtype: DType,
        /// Target register; may be the source.
        to: u32,
    },
    /// Applies an elementwise op. Operands beyond the op's arity are ignored.
    Map {
        /// The op.
        op: MapOp,
        /// Its operands; at least one of those within the arity is a register.
        arguments: [Operand; 3],
        /// Target register; may be one of the operands.
        to: u32,
    },
    /// Keeps the elements that a [cut](crate::selection::Cut) lets through and zeroes the others.
    KeepLargest {
        /// Source register.
        from: u32,
        /// Index into the job's cuts.
        cut: u32,
        /// Target register; may be the source.
        to: u32,
    },
    /// Keeps each element with a probability and zeroes the others: the element at index i of the
    /// tensor is kept if [`uniform_bits`](crate::random::uniform_bits) of the stream and i are below
    /// [`keep_below`](crate::random::keep_below) of the density.
    KeepRandom {
        /// Source register.
        from: u32,
        /// Probability of keeping, 0 to 1, of all elements or of each.
        density: Operand,
        /// Index into the job's random streams.
        stream: u32,
        /// Target register; may be the source.
        to: u32,
    },
    /// Accumulates into a sum of the piece, in f64.
    Reduce {
        /// What is accumulated.
        reduction: Reduction,
        /// One or two operands; the second is ignored by reductions over one value.
        arguments: [Operand; 2],
        /// Index into the pass's reductions.
        slot: u32,
    },
    /// Hands the magnitudes of a register to a selection.
    Select {
        /// Source register.
        from: u32,
        /// Index into the pass's selections.
        slot: u32,
    },
    /// Rounds to the output's type, once, and writes; every NaN becomes the same.
    Store {
        /// What is written; a scalar fills the block.
        from: Operand,
    },
}

/// A number made from all elements of a tensor, accumulated in f64 in a fixed order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Σ a.
    Sum,
    /// Σ |a|.
    SumAbsolute,
    /// Σ a·b, the product formed in f64.
    SumProduct,
    /// max |a|; 0 for an empty tensor. NaN are passed over.
    LargestAbsolute,
    /// Count of elements that are not zero; NaN are not.
    CountNonzero,
}

impl Reduction {
    /// How many operands it reads.
    pub fn arity(self) -> usize {
        if self == Self::SumProduct { 2 } else { 1 }
    }

    /// Joins the results of two neighboring stretches of the tensor.
    pub fn combine(self, left: f64, right: f64) -> f64 {
        if self == Self::LargestAbsolute { left.max(right) } else { left + right }
    }
}

/// A step over scalars, in f64, between passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScalarStep {
    /// The op, the same as for elements.
    pub op: MapOp,
    /// Entries of the scalar table. Those beyond the op's arity are ignored.
    pub arguments: [u32; 3],
    /// Target entry.
    pub to: u32,
}

/// A reduction that a pass makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReductionSlot {
    /// What is accumulated.
    pub reduction: Reduction,
    /// The entry of the scalar table that receives the result.
    pub to: u32,
    /// Over this tensor, or over all tensors of a group of the plan.
    pub scope: Scope,
}

/// A threshold that a pass finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SelectionSlot {
    /// Entry of the scalar table with the density, 0 to 1. `max(1, floor(density · n))` elements
    /// survive, all of them at 1 and none at 0. Or, if [`is_count`](Self::is_count), with how many survive.
    pub density: u32,
    /// Whether the density is a count of elements.
    pub is_count: bool,
    /// Entry with the count of elements that the density is a share of, where that is not all of them.
    pub among: Option<u32>,
    /// The entry of the scalar table that receives the least magnitude that survives, where it is asked for.
    pub magnitude: Option<u32>,
    /// What becomes of elements that equal the threshold.
    pub ties: crate::selection::Ties,
    /// The entry of the job's cuts that receives the result.
    pub cut: u32,
    /// Over this tensor, or over all tensors of a group of the plan.
    pub scope: Scope,
}

/// A number of a layer compared with those of all layers of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StandingSlot {
    /// What is told.
    pub standing: Standing,
    /// Entry of the scalar table with the layer's number, the same in all tensors of the layer.
    pub of: u32,
    /// The entry of the scalar table that receives the result.
    pub to: u32,
    /// The group: position in the job's list.
    pub group: u32,
}

/// What a comparison of layers tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The place of the layer's number among those of all layers: 1 is the largest. Of equal ones the layer
    /// that comes first in the model has the lower place.
    Position,
    /// How many layers there are.
    Count,
}

/// The elements that a reduction or a selection looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Those of one tensor.
    Tensor,
    /// Those of all tensors of a group; the job says which group, by this position in its list.
    Group(u32),
}

/// One way through all elements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pass {
    /// Scalar steps that run before it, in order.
    pub prelude: Vec<ScalarStep>,
    /// What is done to each block, in order.
    pub instructions: Vec<Instruction>,
    /// Registers in use.
    pub registers: u32,
    /// Inputs it loads, ascending. The others are not read.
    pub inputs: Vec<u32>,
    /// Reductions it makes.
    pub reductions: Vec<ReductionSlot>,
    /// Selections it makes.
    pub selections: Vec<SelectionSlot>,
    /// Comparisons of layers that it makes, which look at no elements.
    pub standings: Vec<StandingSlot>,
}

/// What is done to one tensor. Many tensors share one program, each with inputs, constants and
/// random streams of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Program {
    /// Count of inputs.
    pub inputs: u32,
    /// Entries of the scalar table that each job fills before the first pass.
    pub constants: u32,
    /// Entries of the scalar table in all.
    pub scalars: u32,
    /// Count of cuts.
    pub cuts: u32,
    /// Count of random streams.
    pub streams: u32,
    /// The passes; the last one, and only that, stores.
    pub passes: Vec<Pass>,
}
