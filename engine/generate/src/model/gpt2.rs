//! Models that are built like gpt2.

use crate::arithmetic::{Activation, layer_norm};
use crate::attention::{Kept, attend};
use crate::config::Config;
use crate::weights::{Loader, Matrix};

use super::add;

/// What stands before the names of tensors: of models that generate, and of those without an output.
const PREFIXES: [&str; 2] = ["transformer.", ""];

/// The tensors of a model.
#[derive(Debug)]
pub struct Gpt2 {
    /// A row for each token.
    pub embedding: Matrix,
    /// A row for each position.
    positions: Matrix,
    layers: Vec<Layer>,
    norm: Norm,
    /// None where it is the embedding.
    output: Option<Matrix>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    /// Queries, keys and values, one after the other.
    attention_input: Matrix,
    attention_output: Matrix,
    feed_forward_norm: Norm,
    up: Matrix,
    down: Matrix,
}

#[derive(Debug)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    fn load(loader: &mut Loader<'_>, name: &str, length: usize) -> Option<Self> {
        let weight = loader.vector(&format!("{name}.weight"), length);
        let bias = loader.vector(&format!("{name}.bias"), length);
        Some(Self { weight: weight?, bias: bias? })
    }

    fn apply(&self, x: &[f32], epsilon: f32) -> Vec<f32> {
        let rows = x.chunks_exact(self.weight.len());
        rows.flat_map(|row| layer_norm(row, &self.weight, &self.bias, epsilon)).collect()
    }
}

impl Layer {
    fn load(loader: &mut Loader<'_>, prefix: &str, config: &Config) -> Option<Self> {
        let Config { hidden, intermediate, .. } = *config;
        let attention_norm = Norm::load(loader, &format!("{prefix}ln_1"), hidden);
        let feed_forward_norm = Norm::load(loader, &format!("{prefix}ln_2"), hidden);
        let mut linear = |name: &str, rows: usize, columns: usize| {
            loader.turned_linear(&format!("{prefix}{name}"), rows, columns)
        };
        let attention_input = linear("attn.c_attn", 3 * hidden, hidden);
        let attention_output = linear("attn.c_proj", hidden, hidden);
        let up = linear("mlp.c_fc", intermediate, hidden);
        let down = linear("mlp.c_proj", hidden, intermediate);
        Some(Self {
            attention_norm: attention_norm?,
            attention_input: attention_input?,
            attention_output: attention_output?,
            feed_forward_norm: feed_forward_norm?,
            up: up?,
            down: down?,
        })
    }
}

impl Gpt2 {
    /// Reads all tensors. What is wrong stays with the loader.
    pub fn load(config: &Config, loader: &mut Loader<'_>) -> Option<Self> {
        let known = |prefix: &&str| loader.has(&format!("{prefix}wte.weight"));
        let prefix = PREFIXES.into_iter().find(known).unwrap_or(PREFIXES[0]);
        let Config { hidden, vocabulary, .. } = *config;
        let most = config.most_positions.unwrap_or(0);
        let embedding = loader.linear(&format!("{prefix}wte"), vocabulary, hidden);
        let positions = loader.linear(&format!("{prefix}wpe"), most, hidden);
        let layers: Vec<Option<Layer>> = (0..config.layers.len())
            .map(|layer| Layer::load(loader, &format!("{prefix}h.{layer}."), config))
            .collect();
        let norm = Norm::load(loader, &format!("{prefix}ln_f"), hidden);
        let output = match config.tied {
            true => Some(None),
            false => loader.linear("lm_head", vocabulary, hidden).map(Some),
        };
        let layers: Option<Vec<Layer>> = layers.into_iter().collect();
        Some(Self {
            embedding: embedding?,
            positions: positions?,
            layers: layers?,
            norm: norm?,
            output: output?,
        })
    }

    /// The scores of all tokens after the last position.
    pub fn forward(
        &self,
        config: &Config,
        activation: Activation,
        mut x: Vec<f32>,
        before: usize,
        kept: &mut [Kept],
    ) -> Vec<f32> {
        let Config { hidden, epsilon, .. } = *config;
        let count = x.len() / hidden;
        for (n, x) in x.chunks_exact_mut(hidden).enumerate() {
            add(x, &self.positions.row(before + n));
        }
        for ((layer, own), kept) in self.layers.iter().zip(&config.layers).zip(kept) {
            let inputs = layer.attention_input.apply(&layer.attention_norm.apply(&x, epsilon));
            let mut queries = Vec::with_capacity(x.len());
            for row in inputs.chunks_exact(3 * hidden) {
                queries.extend_from_slice(&row[..hidden]);
                kept.0.extend_from_slice(&row[hidden..2 * hidden]);
                kept.1.extend_from_slice(&row[2 * hidden..]);
            }
            let attended = attend(config, *own, &queries, before, kept);
            add(&mut x, &layer.attention_output.apply(&attended));
            let mut inner = layer.up.apply(&layer.feed_forward_norm.apply(&x, epsilon));
            inner.iter_mut().for_each(|value| *value = activation.apply(*value));
            add(&mut x, &layer.down.apply(&inner));
        }
        let last = self.norm.apply(&x[(count - 1) * hidden..], epsilon);
        self.output.as_ref().unwrap_or(&self.embedding).apply(&last)
    }
}
