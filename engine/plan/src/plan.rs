//! The plan: one job for each output tensor, and the programs that jobs share.

mod assembled;
mod files;
mod job;
mod leaf;
mod treatment;

use std::sync::Arc;

use mixdown_checkpoint::layout::OutputTensor;
use mixdown_ops::Program;

pub use assembled::{Assembled, Patch, PatchSource};
pub use files::{AdapterFiles, GgufOutput, LayerChange, OutputFiles};
pub use job::{
    Factor, FactsRead, Job, LostScalars, MatrixOperand, MatrixStep, Merge, Parts, Side, Work,
};
pub use leaf::{Leaf, Product, Rectangle, RowSource, Rows, TensorRef};
pub use treatment::{Counts, Treatment, counts as treatment_counts};

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
