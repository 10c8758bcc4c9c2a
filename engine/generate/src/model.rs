//! The forward pass, with the keys and values of earlier positions kept.

mod gpt2;
mod llama;

use std::path::Path;

use mixdown_checkpoint::{Checkpoint, open, shown_path, small};
use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

use crate::attention::Kept;
use crate::config::{Config, Form};
use crate::weights::{Loader, Matrix};
use gpt2::Gpt2;
use llama::Llama;

/// A model in memory.
#[derive(Debug)]
pub struct Model {
    /// Its numbers.
    pub config: Config,
    tensors: Tensors,
}

#[derive(Debug)]
enum Tensors {
    Llama(Llama),
    Gpt2(Gpt2),
}

/// Keys and values of the positions that were computed.
#[derive(Clone, Debug)]
pub struct Past {
    positions: usize,
    layers: Vec<Kept>,
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
        let tensors = match &config.form {
            Form::Llama(_) => Llama::load(&config, &mut loader).map(Tensors::Llama),
            Form::Gpt2(_) => Gpt2::load(&config, &mut loader).map(Tensors::Gpt2),
        };
        match tensors {
            Some(tensors) => Ok(Self { config, tensors }),
            None => Err(loader.found),
        }
    }

    /// No positions yet.
    pub fn past(&self) -> Past {
        Past { positions: 0, layers: vec![Kept::default(); self.config.layers.len()] }
    }

    fn embedding(&self) -> &Matrix {
        match &self.tensors {
            Tensors::Llama(llama) => &llama.embedding,
            Tensors::Gpt2(gpt2) => &gpt2.embedding,
        }
    }

    /// The embedding of a token; none if there is no such token.
    pub fn embed(&self, id: u32) -> Option<Vec<f32>> {
        let (row, embedding) = (id as usize, self.embedding());
        (row < embedding.rows()).then(|| embedding.row(row))
    }

    /// Computes the positions that follow those of the past, from their embeddings; the scores of all
    /// tokens after the last. There are no more positions than the config allows.
    ///
    /// **Shapes.** `x: [n, hidden]` with `n` at least 1; the result is `[vocabulary]`.
    /// **Numerics.** In f32. The same bytes however positions are divided among calls; with dynamic
    /// angles, as far as the training's length.
    pub fn forward(&self, x: Vec<f32>, past: &mut Past) -> Vec<f32> {
        let (config, before) = (&self.config, past.positions);
        past.positions += x.len() / config.hidden;
        match (&self.tensors, &config.form) {
            (Tensors::Llama(llama), Form::Llama(rope)) => {
                llama.forward(config, rope, x, before, &mut past.layers)
            }
            (Tensors::Gpt2(gpt2), Form::Gpt2(activation)) => {
                gpt2.forward(config, *activation, x, before, &mut past.layers)
            }
            _ => unreachable!("a model's tensors were read by its form"),
        }
    }

    /// What each layer is given, for all positions from the first on: a state `[n, hidden]` for each. None of a
    /// model that is not built like llama.
    pub fn states(&self, x: Vec<f32>) -> Option<Vec<Vec<f32>>> {
        let (Tensors::Llama(llama), Form::Llama(rope)) = (&self.tensors, &self.config.form) else {
            return None;
        };
        let mut states = Vec::with_capacity(self.config.layers.len());
        let mut past = self.past();
        llama.layers(&self.config, rope, x, 0, &mut past.layers, |x| states.push(x.to_vec()));
        Some(states)
    }
}

fn add(x: &mut [f32], change: &[f32]) {
    for (x, change) in x.iter_mut().zip(change) {
        *x += change;
    }
}

/// A JSON file of the folder, if it is there.
pub fn json_beside(folder: &Path, name: &str) -> Result<Option<Value>, Vec<Diagnostic>> {
    let path = folder.join(name);
    small::json_if_there(&path, &shown_path(&path)).map_err(|fault| vec![*fault])
}
