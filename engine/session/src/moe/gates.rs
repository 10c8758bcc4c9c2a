//! Gates of a mixture, made when the first of them is read.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use mixdown_checkpoint::{ByteSource, Checkpoint, FilePool, ReadError, TensorEntry};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::random::uniform_bits;
use mixdown_recipe::moe_file::GateMode;
use mixdown_search::generate::represented::{Representation, represent};

use super::EMBEDDING;
use crate::numbers::{normal, number};

/// Below which length a direction has none.
const SHORTEST: f64 = 1e-8;

/// Numbers, or why there are none.
type Found<T> = Result<Vec<T>, Box<Diagnostic>>;

/// All gates of a mixture.
pub(super) struct Gates {
    mode: GateMode,
    base: PathBuf,
    embedding: Option<(TensorEntry, Arc<dyn ByteSource>)>,
    /// Positive and negative prompts of each gate.
    prompts: Vec<(Vec<String>, Vec<String>)>,
    layers: usize,
    hidden: usize,
    programs: Vec<PathBuf>,
    /// `[layers, gates, hidden]`; of gates that are the same in all layers, `[1, gates, hidden]`.
    made: OnceLock<Found<f32>>,
}

impl Gates {
    pub fn new(
        mode: GateMode,
        base: &Checkpoint,
        prompts: Vec<(Vec<String>, Vec<String>)>,
        (layers, hidden): (usize, usize),
        programs: Vec<PathBuf>,
    ) -> Self {
        let pool = FilePool::new(FilePool::DEFAULT_LIMIT);
        let embedding = base.index.get(EMBEDDING).map(|entry| {
            let source: Arc<dyn ByteSource> = Arc::new(pool.source(base.index.shard_of(entry)));
            (entry.clone(), source)
        });
        let (base, made) = (base.root.clone(), OnceLock::new());
        Self { mode, base, embedding, prompts, layers, hidden, programs, made }
    }

    fn made(&self) -> Result<&[f32], ReadError> {
        let made = self.made.get_or_init(|| self.make());
        made.as_deref().map_err(|error| ReadError::Packed(error.clone()))
    }

    fn make(&self) -> Result<Vec<f32>, Box<Diagnostic>> {
        let count = self.layers * self.prompts.len() * self.hidden;
        let even =
            |at: usize| (f64::from(uniform_bits(GATE_KEY, at as u64)) + 0.5) / 4_294_967_296.0;
        match self.mode {
            GateMode::Random => {
                Ok((0..count as u64).map(|at| normal(GATE_KEY, at) as f32).collect())
            }
            GateMode::UniformRandom => {
                let bound = 1.0 / (self.hidden as f64).sqrt();
                Ok((0..count).map(|at| (bound * (2.0 * even(at) - 1.0)) as f32).collect())
            }
            GateMode::CheapEmbed => self.each(&|texts| self.embedded(texts)),
            GateMode::Hidden => self.each(&|texts| self.states(texts, Representation::LastState)),
            GateMode::HiddenAverage => {
                self.each(&|texts| self.states(texts, Representation::MeanState))
            }
        }
    }

    /// For each layer and gate the direction of what its prompts are, less what the negative ones are.
    fn each(&self, of_texts: &dyn Fn(&[String]) -> Found<f64>) -> Found<f32> {
        let (gates, hidden) = (self.prompts.len(), self.hidden);
        let mut all = vec![0.0; self.layers * gates * hidden];
        for (gate, (positive, negative)) in self.prompts.iter().enumerate() {
            let mut found = of_texts(positive)?;
            if !negative.is_empty() {
                let less = of_texts(negative)?;
                found.iter_mut().zip(less).for_each(|(value, less)| *value -= less);
            }
            for layer in 0..self.layers {
                let mut own = found[layer * hidden..(layer + 1) * hidden].to_vec();
                to_unit(&mut own);
                let at = (layer * gates + gate) * hidden;
                for (to, from) in all[at..at + hidden].iter_mut().zip(own) {
                    *to = from as f32;
                }
            }
        }
        Ok(all)
    }

    /// The mean over texts of the states before each layer: `[layers, hidden]`.
    fn states(&self, texts: &[String], what: Representation) -> Result<Vec<f64>, Box<Diagnostic>> {
        let mut mean = vec![0.0; self.layers * self.hidden];
        for layers in represent(&self.programs, &self.base, texts, what)? {
            let own: Vec<f64> = layers.into_iter().flatten().collect();
            if own.len() != mean.len() {
                let headline = "states before layers are not as many as the model has layers";
                return Err(Box::new(Diagnostic::error(codes::GENERATOR_FAILED, headline)));
            }
            mean.iter_mut().zip(own).for_each(|(sum, value)| *sum += value / texts.len() as f64);
        }
        Ok(mean)
    }

    /// The direction of the sum of the embeddings of all tokens, the same for each layer.
    fn embedded(&self, texts: &[String]) -> Result<Vec<f64>, Box<Diagnostic>> {
        let tokens = represent(&self.programs, &self.base, texts, Representation::Tokens)?;
        let mut sum = vec![0.0; self.hidden];
        for id in tokens.into_iter().flatten().flatten() {
            let row = self.row(id as u64)?;
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        to_unit(&mut sum);
        Ok(sum.iter().copied().cycle().take(self.layers * self.hidden).collect())
    }

    /// A row of the embedding.
    fn row(&self, id: u64) -> Result<Vec<f64>, Box<Diagnostic>> {
        let missing = || {
            let headline = format!("the base has no embedding of token {id}");
            let error = Diagnostic::error(codes::MOE_EXPERTS, headline);
            Box::new(error.in_file(self.base.to_string_lossy()))
        };
        let (entry, source) = self.embedding.as_ref().ok_or_else(missing)?;
        let rows = entry.shape.dimensions().first().copied().unwrap_or(0);
        if id >= rows {
            return Err(missing());
        }
        let width = entry.dtype.bytes();
        let mut bytes = vec![0; self.hidden * width];
        let offset = entry.offset + id * bytes.len() as u64;
        source.read_exact_at(offset, &mut bytes).map_err(|error| Box::new(error.diagnostic()))?;
        let row = bytes.chunks_exact(width).map(|bytes| number(entry.dtype, bytes));
        row.collect::<Option<Vec<f64>>>().ok_or_else(missing)
    }
}

/// The stream of random gates.
const GATE_KEY: u64 = 0x6d6f_655f_6761_7465;

fn to_unit(vector: &mut [f64]) {
    let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt().max(SHORTEST);
    vector.iter_mut().for_each(|value| *value /= length);
}

/// Gates of one layer: `[rows, hidden]` in f32.
pub(super) struct GateSource {
    pub gates: Arc<Gates>,
    pub layer: usize,
    pub rows: Range<usize>,
}

impl ByteSource for GateSource {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let made = self.gates.made()?;
        let (gates, hidden) = (self.gates.prompts.len(), self.gates.hidden);
        let first = (self.layer * gates + self.rows.start) * hidden * 4 + offset as usize;
        for (at, byte) in buffer.iter_mut().enumerate() {
            let at = first + at;
            *byte = made[at / 4].to_le_bytes()[at % 4];
        }
        Ok(())
    }

    fn will_need(&self, _: u64, _: u64) {}

    fn len(&self) -> u64 {
        (self.rows.len() * self.gates.hidden * 4) as u64
    }
}

/// As many bytes of zero.
pub(super) struct Zeros(pub u64);

impl ByteSource for Zeros {
    fn read_exact_at(&self, _: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        buffer.fill(0);
        Ok(())
    }

    fn will_need(&self, _: u64, _: u64) {}

    fn len(&self) -> u64 {
        self.0
    }
}
