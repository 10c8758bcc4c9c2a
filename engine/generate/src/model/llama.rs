//! Models that are built like llama.

use crate::arithmetic::{rms_norm, silu};
use crate::attention::{Kept, attend};
use crate::config::Config;
use crate::rope::{Rope, turn};
use crate::weights::{Loader, Matrix};

use super::add;

/// What stands before the names of a language model's tensors, alone or within a larger model.
const PREFIXES: [(&str, &str); 4] = [
    ("model.", ""),
    ("language_model.model.", "language_model."),
    ("model.language_model.", ""),
    ("language_model.", ""),
];

/// The tensors of a model.
#[derive(Debug)]
pub struct Llama {
    /// A row for each token.
    pub embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// None where it is the embedding.
    output: Option<Matrix>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    attention_output: Matrix,
    feed_forward_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

impl Llama {
    /// Reads all tensors. What is wrong stays with the loader.
    pub fn load(config: &Config, loader: &mut Loader<'_>) -> Option<Self> {
        let known = |prefix: &str| loader.has(&format!("{prefix}embed_tokens.weight"));
        let (prefix, output_prefix) =
            PREFIXES.into_iter().find(|(prefix, _)| known(prefix)).unwrap_or(PREFIXES[0]);
        let Config { hidden, vocabulary, .. } = *config;
        let embedding = loader.linear(&format!("{prefix}embed_tokens"), vocabulary, hidden);
        let layers: Vec<Option<Layer>> = (0..config.layers.len())
            .map(|layer| Layer::load(loader, &format!("{prefix}layers.{layer}."), config))
            .collect();
        let norm = loader.vector(&format!("{prefix}norm.weight"), hidden);
        let output = match config.tied {
            true => Some(None),
            false => {
                loader.linear(&format!("{output_prefix}lm_head"), vocabulary, hidden).map(Some)
            }
        };
        let layers: Option<Vec<Layer>> = layers.into_iter().collect();
        Some(Self { embedding: embedding?, layers: layers?, norm: norm?, output: output? })
    }

    /// The scores of all tokens after the last position.
    pub fn forward(
        &self,
        config: &Config,
        rope: &Rope,
        x: Vec<f32>,
        before: usize,
        kept: &mut [Kept],
    ) -> Vec<f32> {
        let Config { hidden, epsilon, .. } = *config;
        let count = x.len() / hidden;
        let x = self.layers(config, rope, x, before, kept, |_| {});
        let last = &x[(count - 1) * hidden..];
        self.output.as_ref().unwrap_or(&self.embedding).apply(&rms_norm(last, &self.norm, epsilon))
    }

    /// The states of all positions after the last layer. `see` is shown those before each.
    pub fn layers(
        &self,
        config: &Config,
        rope: &Rope,
        mut x: Vec<f32>,
        before: usize,
        kept: &mut [Kept],
        mut see: impl FnMut(&[f32]),
    ) -> Vec<f32> {
        let Config { hidden, epsilon, .. } = *config;
        let count = x.len() / hidden;
        let angles = rope.angles(before, count);
        for ((layer, own), kept) in self.layers.iter().zip(&config.layers).zip(kept) {
            see(&x);
            let normed = normed(&x, &layer.attention_norm, epsilon);
            let queries = layer.turned(config, &normed, &angles, kept);
            let attended = attend(config, *own, &queries, before, kept);
            add(&mut x, &layer.attention_output.apply(&attended));
            let normed = self::normed(&x, &layer.feed_forward_norm, epsilon);
            add(&mut x, &layer.feed_forward(&normed));
        }
        x
    }
}

impl Layer {
    fn load(loader: &mut Loader<'_>, prefix: &str, config: &Config) -> Option<Self> {
        let Config { hidden, intermediate, heads, kv_heads, head, .. } = *config;
        let (queries, keys) = (heads * head, kv_heads * head);
        let mut linear = |name: &str, rows: usize, columns: usize| {
            loader.linear(&format!("{prefix}{name}"), rows, columns)
        };
        let query = linear("self_attn.q_proj", queries, hidden);
        let key = linear("self_attn.k_proj", keys, hidden);
        let value = linear("self_attn.v_proj", keys, hidden);
        let attention_output = linear("self_attn.o_proj", hidden, queries);
        let gate = linear("mlp.gate_proj", intermediate, hidden);
        let up = linear("mlp.up_proj", intermediate, hidden);
        let down = linear("mlp.down_proj", hidden, intermediate);
        let attention_norm = loader.vector(&format!("{prefix}input_layernorm.weight"), hidden);
        let feed_forward_norm =
            loader.vector(&format!("{prefix}post_attention_layernorm.weight"), hidden);
        Some(Self {
            attention_norm: attention_norm?,
            query: query?,
            key: key?,
            value: value?,
            attention_output: attention_output?,
            feed_forward_norm: feed_forward_norm?,
            gate: gate?,
            up: up?,
            down: down?,
        })
    }

    /// Queries, and what the new positions add to keys and values.
    fn turned(
        &self,
        config: &Config,
        x: &[f32],
        angles: &[Vec<(f32, f32)>],
        kept: &mut Kept,
    ) -> Vec<f32> {
        let Config { heads, kv_heads, head, .. } = *config;
        let turned = |mut rows: Vec<f32>, heads: usize| {
            for (row, angles) in rows.chunks_mut(heads * head).zip(angles) {
                row.chunks_mut(head).for_each(|head| turn(head, angles));
            }
            rows
        };
        kept.0.extend(turned(self.key.apply(x), kv_heads));
        kept.1.extend(self.value.apply(x));
        turned(self.query.apply(x), heads)
    }

    fn feed_forward(&self, x: &[f32]) -> Vec<f32> {
        let mut gate = self.gate.apply(x);
        for (gate, up) in gate.iter_mut().zip(self.up.apply(x)) {
            *gate = silu(*gate) * up;
        }
        self.down.apply(&gate)
    }
}

fn normed(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    x.chunks_exact(weight.len()).flat_map(|row| rms_norm(row, weight, epsilon)).collect()
}
