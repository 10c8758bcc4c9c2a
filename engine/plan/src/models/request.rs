//! What planning is given: recipes, and what their models turned out to be.

use mixdown_checkpoint::adapter::Adapter;
use mixdown_checkpoint::index::Index;
use mixdown_recipe::ArchitectureMap;
use mixdown_recipe::recipe::Recipe;
use serde_json::Value;

use super::map::MapSettings;
use crate::formulas::library::Library;
use crate::models::tokenizer_file::TokenizerFile;

/// A checkpoint that a recipe names.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointInput<'a> {
    /// As messages name it.
    pub name: &'a str,
    /// Its tensors.
    pub index: &'a Index,
    /// Its config.json.
    pub config: Option<&'a Value>,
    /// Its tokenizer.json, read when the recipe rebuilds the vocabulary.
    pub tokenizer: Option<&'a TokenizerFile>,
    /// Its tokenizer_config.json, likewise.
    pub tokenizer_config: Option<&'a Value>,
}

/// A low-rank adapter on a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct AdapterInput<'a> {
    /// What it is on: position in [`Request::checkpoints`].
    pub base: u32,
    /// Its own tensors: position in [`Request::checkpoints`].
    pub checkpoint: u32,
    /// Which of its tensors change which of the base's.
    pub adapter: &'a Adapter,
}

/// A checkpoint seen through a map.
#[derive(Clone, Debug)]
pub struct MapInput<'a> {
    /// The map.
    pub map: &'a ArchitectureMap,
    /// What the recipe states otherwise.
    pub settings: MapSettings,
    /// What is read: position in [`Request::checkpoints`].
    pub source: u32,
    /// Whose names and shapes result: position in [`Request::checkpoints`].
    pub target: u32,
}

/// What a model of a recipe turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A checkpoint: position in [`Request::checkpoints`].
    Checkpoint(u32),
    /// An adapter on a checkpoint: position in [`Request::adapters`].
    Adapted(u32),
    /// A checkpoint seen through a map: position in [`Request::mapped`].
    Mapped(u32),
    /// The result of another recipe: position in [`Request::recipes`].
    Recipe(u32),
    /// The names and shapes of a checkpoint, with nothing but zeros: position in [`Request::checkpoints`].
    Zero(u32),
    /// It could not be opened, which has been reported; other mistakes are still found.
    Failed,
}

/// What is to be planned.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The recipe, and after it those that it names, directly or not. None includes itself.
    pub recipes: &'a [Recipe],
    /// For each recipe, for each of its models: what it is.
    pub models: Vec<Vec<ModelSource>>,
    /// The methods they can name.
    pub library: &'a Library,
    /// The checkpoints.
    pub checkpoints: &'a [CheckpointInput<'a>],
    /// The adapters.
    pub adapters: &'a [AdapterInput<'a>],
    /// The checkpoints seen through maps.
    pub mapped: &'a [MapInput<'a>],
    /// An output tensor whose making is wanted in detail.
    pub explain: Option<&'a str>,
}
