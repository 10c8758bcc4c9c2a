//! How one tensor of the output is made.

use std::sync::Arc;

use mixdown_checkpoint::layout::OutputTensor;
use mixdown_checkpoint::quantize::Quantizer;
use mixdown_ops::Precision;
use mixdown_ops::matrix::{MatrixLayout, MatrixOp};
use mixdown_tensor::{DType, Shape};

use super::assembled::Assembled;
use super::leaf::{Leaf, Rows, TensorRef};
use super::treatment::Treatment;

/// How one output tensor is made.
#[derive(Clone, Debug)]
pub struct Job {
    /// Name of the output tensor.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Its storage type.
    pub dtype: DType,
    /// What is done.
    pub work: Work,
    /// Position in [`Plan::origins`].
    pub origin: u32,
    /// What a method over matrices made of it.
    pub treatment: Option<Treatment>,
    /// How it is written in fewer bits: of what it would be in its storage type.
    pub quantized: Option<Arc<Quantizer>>,
}

impl Job {
    /// The tensors that are stored for it.
    pub fn stored(&self) -> Vec<OutputTensor> {
        match &self.quantized {
            Some(quantizer) => quantizer.parts().to_vec(),
            None => {
                let (name, shape) = (self.name.clone(), self.shape.clone());
                vec![OutputTensor { name, dtype: self.dtype, shape }]
            }
        }
    }

    /// Whether the codes and scales of an input go over as they are.
    pub fn keeps_codes(&self) -> bool {
        self.quantized.as_ref().is_some_and(|quantizer| quantizer.taken_over().is_some())
    }

    /// Count of the tensors that are stored for it.
    pub fn stored_count(&self) -> usize {
        self.quantized.as_ref().map_or(1, |quantizer| quantizer.parts().len())
    }

    /// Bytes that are stored for it.
    pub fn stored_bytes(&self) -> u64 {
        match &self.quantized {
            Some(quantizer) => quantizer.bytes(),
            None => self.shape.bytes(self.dtype),
        }
    }
}

/// What is done for one output tensor.
#[derive(Clone, Debug)]
pub enum Work {
    /// The bytes of an input. Shape and type are the job's.
    Copy {
        /// Which.
        from: TensorRef,
        /// Tensors that must be the same; else the merge fails with `COPIES_DIFFER`.
        equal_to: Vec<TensorRef>,
        /// How far each element of them may be from the one that is copied, and then their types may differ;
        /// none where the bytes must be the same.
        within: Option<f64>,
    },
    /// A block program over inputs.
    Merge(Merge),
}

/// A block program applied to the tensors of one job.
#[derive(Clone, Debug)]
pub struct Merge {
    /// Position in [`Plan::programs`].
    pub program: u32,
    /// The program's inputs. Each has the job's count of elements, or for an operand the operand's.
    pub leaves: Vec<Leaf>,
    /// First entries of the scalar table.
    pub constants: Vec<f64>,
    /// Keys of the random streams.
    pub streams: Vec<u64>,
    /// For each `Scope::Group(i)` of the program: position in [`Plan::groups`].
    pub groups: Vec<u32>,
    /// Type of the arithmetic.
    pub precision: Precision,
    /// Matrix ops whose results [`Leaf::Matrix`] names, each after those that it reads.
    pub matrices: Vec<MatrixStep>,
    /// What [`Leaf::Factor`] is, where the program reads it.
    pub factor: Option<Factor>,
    /// What is told of rounding to the job's type, where the result is a base and an update.
    pub lost: Option<LostScalars>,
}

impl Merge {
    /// Elements that a pass goes over: those of the job's tensor, which has `elements`, or of the matrix
    /// that is written as two factors.
    pub fn elements(&self, elements: u64, stores: bool) -> u64 {
        match &self.factor {
            Some(factor) if !stores => factor.rows.saturating_mul(factor.columns),
            _ => elements,
        }
    }

    /// Its matrix ops in the order in which they run: by the pass that they come before, then by position.
    pub fn matrix_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.matrices.len()).collect();
        order.sort_by_key(|&step| self.matrices[step].before);
        order
    }

    /// The tensors of files that it reads, those of its matrix ops among them.
    pub fn tensors(&self, parts: &Parts<'_>) -> Vec<TensorRef> {
        let operands = self.matrices.iter().flat_map(|step| &step.operands);
        let merges = operands.map(|operand| &operand.merge).chain([self]);
        let terms = self.factor.iter().flat_map(|factor| &factor.terms).map(|(leaf, _)| leaf);
        let mut found = Vec::new();
        for leaf in merges.flat_map(|merge| &merge.leaves).chain(terms) {
            match leaf {
                Leaf::Tensor(tensor) => found.push(*tensor),
                Leaf::Rows(number) => found.extend(&parts.rows[*number as usize].tensors),
                Leaf::Assembled(number, _) => {
                    found.extend(parts.assembled[*number as usize].tensors());
                }
                Leaf::Product(product) => found.extend([product.left, product.right]),
                Leaf::Matrix(_) | Leaf::Part(..) | Leaf::Factor => {}
            }
        }
        found
    }
}

/// Scalars of a program that tell what rounding to the type of the output does to an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostScalars {
    /// Σ (stored − exact)².
    pub lost: u32,
    /// Σ (exact − base)².
    pub update: u32,
    /// max |exact|.
    pub largest: u32,
}

/// One side of a low-rank matrix that is written as two factors.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// The matrix: the sum of these leaves, each times its factor. All of them have few directions.
    pub terms: Vec<(Leaf, f64)>,
    /// Which side.
    pub side: Side,
    /// Directions that are written; what the terms have fewer is zero.
    pub rank: u64,
    /// Whether it is the whole update, and not the nearest matrix of this rank.
    pub is_exact: bool,
    /// Rows of the matrix.
    pub rows: u64,
    /// Columns of the matrix.
    pub columns: u64,
    /// The job of the left side, by which the two sides know each other.
    pub pair: u32,
}

/// A side of a product of two factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `[rows, rank]`.
    Left,
    /// `[rank, columns]`.
    Right,
}

impl Factor {
    /// Elements of the side.
    pub fn elements(&self) -> Option<u64> {
        self.rank.checked_mul(match self.side {
            Side::Left => self.rows,
            Side::Right => self.columns,
        })
    }
}

/// A matrix op on values of one job.
#[derive(Clone, Debug)]
pub struct MatrixStep {
    /// The op.
    pub op: MatrixOp,
    /// How the matrices of the weight lie in it.
    pub layout: MatrixLayout,
    /// Rows of the result as it is held: those of all matrices, as they are stored.
    pub rows: u64,
    /// Columns of the result as it is held.
    pub columns: u64,
    /// What it is applied to.
    pub operands: Vec<MatrixOperand>,
    /// The pass of the job's program before which it runs: what its operands need is known then.
    pub before: u32,
}

/// An operand of a matrix op.
#[derive(Clone, Debug)]
pub struct MatrixOperand {
    /// How its elements are computed: a program of one pass, without scalar steps. Its leaves may name
    /// matrix ops of the same job that come before; it has none of its own.
    pub merge: Merge,
    /// What passes of the job's program have found for it.
    pub facts: FactsRead,
    /// Its rows as they are read: those of the result, but for Gram matrices and bases.
    pub rows: u64,
    /// Its columns.
    pub columns: u64,
    /// The leaves that it is a linear combination of, with their factors, where all of them may be
    /// low-rank: then it needs not be multiplied out.
    pub combination: Option<Vec<(Leaf, f64)>>,
    /// The tensors of files that it is a linear combination of, with their factors, where the op asks how they
    /// were rounded.
    pub stored: Option<Vec<(Leaf, f64)>>,
}

/// Facts that an operand gets from its job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactsRead {
    /// Entries of the job's scalar table, which follow the constants in the operand's.
    pub scalars: Vec<u32>,
    /// Cuts of the job, which are the operand's.
    pub cuts: Vec<u32>,
}

impl FactsRead {
    /// Whether the operand needs none.
    pub fn is_empty(&self) -> bool {
        self.scalars.is_empty() && self.cuts.is_empty()
    }
}

/// What leaves are put together from.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'p> {
    /// [`Plan::rows`].
    pub rows: &'p [Arc<Rows>],
    /// [`Plan::assembled`].
    pub assembled: &'p [Arc<Assembled>],
}
