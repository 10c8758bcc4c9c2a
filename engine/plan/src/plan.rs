//! The plan: one job for each output tensor, and the programs that jobs share.

use std::collections::BTreeSet;
use std::sync::Arc;

use mixdown_checkpoint::adapter::OutputUpdate;
use mixdown_checkpoint::layout::OutputTensor;
use mixdown_checkpoint::quantize::Quantizer;
use mixdown_ops::matrix::{Exact, MatrixLayout, MatrixOp};
use mixdown_ops::{Precision, Program};
use mixdown_tensor::{DType, Shape};

use crate::assembled::Assembled;
use crate::treatment::Treatment;

/// What a merge will do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Names of the input checkpoints, by position, as the recipe writes them. The executor gets the
    /// checkpoints in this order. Models of recipes that are inputs are among them.
    pub models: Vec<String>,
    /// Block programs; jobs with the same structure share one.
    pub programs: Vec<Arc<Program>>,
    /// One for each output tensor, in the order of the output.
    pub jobs: Vec<Job>,
    /// Sets of jobs that share facts about all their tensors together.
    pub groups: Vec<Group>,
    /// Embeddings put together row by row.
    pub rows: Vec<Arc<Rows>>,
    /// Tensors put together from parts of others.
    pub assembled: Vec<Arc<Assembled>>,
    /// Why jobs do what they do; jobs refer to it by position.
    pub origins: Vec<Origin>,
    /// Input tensors that no job reads, each with its reason.
    pub left_out: Vec<LeftOut>,
    /// What config.json and the other files of the output are made from.
    pub output: OutputFiles,
}

/// What config.json and the other files of the output are made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputFiles {
    /// The checkpoint that gives config.json, the tokenizer and the rest: position in [`Plan::models`].
    pub files_from: Option<u32>,
    /// Type of the weights, if the recipe states one or all floats of the output agree.
    pub dtype: Option<DType>,
    /// Layers that were stacked anew; empty when the layers are those of `files_from`.
    pub layers: Vec<LayerChange>,
    /// What the names of the layers of each stack of `files_from` begin with.
    pub stacks: BTreeSet<String>,
    /// Whether the output layer shares its weights with the embedding, judged by what is written;
    /// none when the output has no embedding.
    pub tied: Option<bool>,
    /// Rows of the embedding, if the vocabulary was rebuilt.
    pub vocabulary: Option<u64>,
    /// What is written instead of a whole model.
    pub adapter: Option<AdapterFiles>,
    /// Replaced files, name and text: a rebuilt tokenizer, a chat template.
    pub files: Vec<(String, String)>,
}

/// An adapter as the output.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterFiles {
    /// What it is on: position in [`Plan::models`].
    pub base: u32,
    /// The products that it adds.
    pub updates: Vec<OutputUpdate>,
    /// Tensors of the base that it stores whole.
    pub replacements: Vec<u32>,
}

/// Layers stacked anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerChange {
    /// What the names of its layers begin with: `model.layers.`.
    pub prefix: String,
    /// Layers of the model that gives config.json.
    pub before: u64,
    /// For each output layer, the layer of the (first) source it is made from.
    pub sources: Vec<u64>,
}

/// A tensor of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorRef {
    /// Position in [`Plan::models`].
    pub model: u32,
    /// Position in that checkpoint's index.
    pub tensor: u32,
}

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

/// What leaves are put together from.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'p> {
    /// [`Plan::rows`].
    pub rows: &'p [Arc<Rows>],
    /// [`Plan::assembled`].
    pub assembled: &'p [Arc<Assembled>],
}

impl Plan {
    /// Whether weights are written in fewer bits.
    pub fn is_quantized(&self) -> bool {
        self.jobs.iter().any(|job| job.quantized.is_some())
    }

    /// The tensors that are stored, job by job.
    pub fn stored(&self) -> impl Iterator<Item = OutputTensor> {
        self.jobs.iter().flat_map(Job::stored)
    }

    /// For each job the position of its first tensor among those that are stored.
    pub fn first_stored(&self) -> Vec<usize> {
        let places = self.jobs.iter().scan(0, |at, job| {
            let first = *at;
            *at += job.stored_count();
            Some(first)
        });
        places.collect()
    }

    /// What its leaves are put together from.
    pub fn parts(&self) -> Parts<'_> {
        Parts { rows: &self.rows, assembled: &self.assembled }
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

/// The update of a low-rank adapter: `scale · left · right`, or its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// `[rows, rank]`, or `[columns, rank]` if transposed.
    pub left: TensorRef,
    /// `[rank, columns]`, or `[rank, rows]` if transposed.
    pub right: TensorRef,
    /// Rank; with 0 there is no update, and neither factor is read.
    pub rank: u32,
    /// Rows of the weight.
    pub rows: u64,
    /// Columns of the weight.
    pub columns: u64,
    /// Factor.
    pub scale: Exact,
    /// Whether the weight is updated by the transposed product.
    pub transposed: bool,
}

/// An input of a block program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// A tensor as stored; its type is a float.
    Tensor(TensorRef),
    /// An embedding put together from rows: position in [`Plan::rows`].
    Rows(u32),
    /// A tensor put together from parts of others: position in [`Plan::assembled`], type.
    Assembled(u32, DType),
    /// The update of an adapter, never multiplied out as a whole.
    Product(Product),
    /// The result of a matrix op: position in [`Merge::matrices`].
    Matrix(u32),
    /// A part of the result of a matrix op: position in [`Merge::matrices`].
    Part(u32, Rectangle),
    /// One side of a matrix that is written as factors: [`Merge::factor`].
    Factor,
}

impl Leaf {
    /// The matrix op whose result it is, or a part of.
    pub fn step(&self) -> Option<usize> {
        match self {
            Self::Matrix(step) | Self::Part(step, _) => Some(*step as usize),
            _ => None,
        }
    }
}

/// A part of a matrix, seen as a matrix of its own: steps through its elements from a place on, and zeros
/// beneath the rows that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rectangle {
    /// The element of the matrix that comes first.
    pub start: u64,
    /// Elements from one row to the next.
    pub row_step: u64,
    /// Elements from one column to the next; with 0 all columns are one.
    pub column_step: u64,
    /// Rows that are there.
    pub rows: u64,
    /// Columns.
    pub columns: u64,
}

impl Rectangle {
    /// The elements of the matrix before which it ends.
    pub fn end(&self) -> Option<u64> {
        let (Some(row), Some(column)) = (self.rows.checked_sub(1), self.columns.checked_sub(1))
        else {
            return Some(0);
        };
        let rows = row.checked_mul(self.row_step)?;
        let columns = column.checked_mul(self.column_step)?;
        self.start.checked_add(rows)?.checked_add(columns)?.checked_add(1)
    }
}

/// An embedding (`[vocabulary, ..]`) put together row by row, for models whose vocabularies differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rows {
    /// The tensors that rows come from; all have the same row length, and float types.
    pub tensors: Vec<TensorRef>,
    /// Elements of one row.
    pub row_elements: u64,
    /// One for each output row.
    pub rows: Vec<RowSource>,
}

/// Where one row of an embedding comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RowSource {
    /// A row of a tensor: position in [`Rows::tensors`], row.
    Row(u32, u32),
    /// Zeros.
    Zero,
    /// The mean of these rows.
    Mean(Vec<(u32, u32)>),
    /// Padding: the mean of all rows of this embedding that are not padding.
    MeanOfRows,
}

/// Jobs that share facts about all their tensors together, such as a threshold over the whole model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What the fact is, for people: "threshold of `delta` of expert `math`".
    pub title: String,
    /// The jobs, ascending.
    pub jobs: Vec<u32>,
    /// For each job its layer, counted in the order of the model; a tensor outside layers is one of its own.
    pub layers: Vec<u32>,
}

/// Why a tensor is made as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// The rule, slice or module that decided, for people.
    pub rule: String,
    /// Line of the recipe where it stands.
    pub line: u32,
    /// The method, `keep` or `copy`.
    pub method: String,
}

/// An input tensor that is not in the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Which.
    pub tensor: TensorRef,
    /// Why.
    pub reason: String,
}
