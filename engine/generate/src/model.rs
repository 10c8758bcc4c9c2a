//! The forward pass of Llama-like models, with the keys and values of earlier positions kept.

use std::path::Path;

use mixdown_checkpoint::{Checkpoint, open};
use mixdown_diagnostics::{Diagnostic, codes};
use rayon::prelude::*;
use serde_json::Value;

use crate::arithmetic::{dot, rms_norm, silu, softmax};
use crate::config::Config;
use crate::rope::turn;
use crate::weights::{Loader, Matrix};

/// What stands before the names of a language model's tensors, alone or within a larger model.
const PREFIXES: [(&str, &str); 4] = [
    ("model.", ""),
    ("language_model.model.", "language_model."),
    ("model.language_model.", ""),
    ("language_model.", ""),
];

/// A model in memory.
#[derive(Debug)]
pub struct Model {
    /// Its numbers.
    pub config: Config,
    embedding: Matrix,
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

/// Keys and values of the positions that were computed.
#[derive(Clone, Debug)]
pub struct Past {
    positions: usize,
    layers: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Past {
    /// Count of positions.
    pub fn positions(&self) -> usize {
        self.positions
    }
}

impl Model {
    /// Reads the model of a folder.
    pub fn read(folder: &Path) -> Result<Self, Vec<Diagnostic>> {
        let checkpoint = open(folder, None)?;
        let shown = checkpoint.root.join("config.json").to_string_lossy().into_owned();
        let Some(config) = &checkpoint.config else {
            let error = Diagnostic::error(codes::CONFIG_BROKEN, "the model has no config.json");
            return Err(vec![error.in_file(&checkpoint.name)]);
        };
        let generation = json_beside(&checkpoint.root, "generation_config.json")?;
        let config = Config::read(config, generation.as_ref(), &shown)?;
        Self::load(config, &checkpoint)
    }

    fn load(config: Config, checkpoint: &Checkpoint) -> Result<Self, Vec<Diagnostic>> {
        let mut loader = Loader::new(checkpoint);
        let known = |prefix: &str| loader.has(&format!("{prefix}embed_tokens.weight"));
        let (prefix, output_prefix) =
            PREFIXES.into_iter().find(|(prefix, _)| known(prefix)).unwrap_or(PREFIXES[0]);
        let Config { hidden, vocabulary, .. } = config;
        let embedding = loader.linear(&format!("{prefix}embed_tokens"), vocabulary, hidden);
        let layers: Vec<Option<Layer>> = (0..config.layers)
            .map(|layer| Layer::load(&mut loader, &format!("{prefix}layers.{layer}."), &config))
            .collect();
        let norm = loader.vector(&format!("{prefix}norm.weight"), hidden);
        let output = match config.tied {
            true => Some(None),
            false => {
                loader.linear(&format!("{output_prefix}lm_head"), vocabulary, hidden).map(Some)
            }
        };
        let layers: Option<Vec<Layer>> = layers.into_iter().collect();
        match (embedding, layers, norm, output) {
            (Some(embedding), Some(layers), Some(norm), Some(output)) => {
                Ok(Self { config, embedding, layers, norm, output })
            }
            _ => Err(loader.found),
        }
    }

    /// No positions yet.
    pub fn past(&self) -> Past {
        Past { positions: 0, layers: vec![Default::default(); self.layers.len()] }
    }

    /// The embedding of a token; none if there is no such token.
    pub fn embed(&self, id: u32) -> Option<Vec<f32>> {
        let row = id as usize;
        (row < self.embedding.rows()).then(|| self.embedding.row(row))
    }

    /// Computes the positions that follow those of the past, from their embeddings; the scores of all
    /// tokens after the last.
    ///
    /// **Shapes.** `x: [n, hidden]` with `n` at least 1; the result is `[vocabulary]`.
    /// **Numerics.** In f32. The same bytes however positions are divided among calls.
    pub fn forward(&self, mut x: Vec<f32>, past: &mut Past) -> Vec<f32> {
        let Config { hidden, epsilon, .. } = self.config;
        let count = x.len() / hidden;
        let angles: Vec<Vec<(f32, f32)>> =
            (0..count).map(|n| self.config.rope.at(past.positions + n)).collect();
        for (layer, kept) in self.layers.iter().zip(&mut past.layers) {
            let normed = normed(&x, &layer.attention_norm, epsilon);
            let attended = layer.attend(&self.config, &normed, &angles, past.positions, kept);
            add(&mut x, &layer.attention_output.apply(&attended));
            let normed = self::normed(&x, &layer.feed_forward_norm, epsilon);
            add(&mut x, &layer.feed_forward(&normed));
        }
        past.positions += count;
        let last = &x[(count - 1) * hidden..];
        self.output.as_ref().unwrap_or(&self.embedding).apply(&rms_norm(last, &self.norm, epsilon))
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

    /// What each head of each new position gathers from all positions up to its own.
    fn attend(
        &self,
        config: &Config,
        x: &[f32],
        angles: &[Vec<(f32, f32)>],
        before: usize,
        (keys, values): &mut (Vec<f32>, Vec<f32>),
    ) -> Vec<f32> {
        let Config { heads, kv_heads, head, .. } = *config;
        let turned = |mut rows: Vec<f32>, heads: usize| {
            for (row, angles) in rows.chunks_mut(heads * head).zip(angles) {
                row.chunks_mut(head).for_each(|head| turn(head, angles));
            }
            rows
        };
        let queries = turned(self.query.apply(x), heads);
        keys.extend(turned(self.key.apply(x), kv_heads));
        values.extend(self.value.apply(x));
        let (keys, values) = (&keys[..], &values[..]);
        let width = kv_heads * head;
        let scale = 1.0 / (head as f32).sqrt();
        let mut out = vec![0.0; queries.len()];
        out.par_chunks_mut(head).enumerate().for_each(|(number, out)| {
            let (position, own) = (before + number / heads, number % heads);
            let query = &queries[number * head..(number + 1) * head];
            let shared = own / (heads / kv_heads) * head;
            let at = |position: usize| position * width + shared..position * width + shared + head;
            let mut weights: Vec<f32> =
                (0..=position).map(|p| dot(query, &keys[at(p)]) * scale).collect();
            softmax(&mut weights);
            for (p, weight) in weights.iter().enumerate() {
                for (out, value) in out.iter_mut().zip(&values[at(p)]) {
                    *out += weight * value;
                }
            }
        });
        out
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

fn add(x: &mut [f32], change: &[f32]) {
    for (x, change) in x.iter_mut().zip(change) {
        *x += change;
    }
}

/// A JSON file of the folder, if it is there.
pub fn json_beside(folder: &Path, name: &str) -> Result<Option<Value>, Vec<Diagnostic>> {
    let path = folder.join(name);
    let shown = path.to_string_lossy();
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let headline = format!("the file cannot be read: {error}");
            return Err(vec![Diagnostic::error(codes::UNREADABLE, headline).in_file(shown)]);
        }
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        let headline = format!("the file is not JSON: {error}");
        vec![Diagnostic::error(codes::CONFIG_BROKEN, headline).in_file(shown)]
    })
}
