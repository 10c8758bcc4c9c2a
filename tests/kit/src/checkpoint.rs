//! Small Llama-like checkpoints in every layout that the program reads.

use std::fs;
use std::path::{Path, PathBuf};

use mixdown_tensor::DType;
use serde_json::{Value, json};

use crate::raw::safetensors_bytes;
use crate::side_files::{self, Dimensions};
use crate::space::Space;
use crate::tensor::Tensor;
use crate::values::Values;

/// How the tensors are laid out in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A folder with `model.safetensors`.
    Single,
    /// A folder with so many shards and an index.
    Sharded(usize),
    /// A folder with so many files of free names and no index.
    Loose(usize),
    /// One file, without a folder or anything beside it.
    File,
}

/// A checkpoint to be written.
#[derive(Clone, Debug)]
pub struct CheckpointBuilder {
    name: String,
    dimensions: Dimensions,
    dtype: DType,
    dtypes: Vec<(String, DType)>,
    layout: Layout,
    seed: u64,
    expert: Option<(u64, f64)>,
    without: Vec<String>,
    extra: Vec<Tensor>,
    edits: Vec<(String, usize, f64)>,
    config: Vec<(String, Value)>,
    words: Option<Vec<String>>,
    side_files: bool,
    prefix: String,
}

/// A checkpoint of this name: by default 2 layers, hidden size 16, a vocabulary of 24, bf16, one file.
pub fn checkpoint(name: &str) -> CheckpointBuilder {
    CheckpointBuilder {
        name: name.to_owned(),
        dimensions: Dimensions {
            hidden: 16,
            intermediate: 24,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            vocabulary: 24,
            tied: false,
        },
        dtype: DType::Bf16,
        dtypes: Vec::new(),
        layout: Layout::Single,
        seed: 1,
        expert: None,
        without: Vec::new(),
        extra: Vec::new(),
        edits: Vec::new(),
        config: Vec::new(),
        words: None,
        side_files: true,
        prefix: String::new(),
    }
}

/// A base `base` and experts `a`, `b`, `c` beside it: what most tests merge.
pub fn family(space: &Space) {
    checkpoint("base").write(space);
    for (seed, name) in [(11, "a"), (12, "b"), (13, "c")] {
        checkpoint(name).expert(seed, 0.004).write(space);
    }
}

impl CheckpointBuilder {
    /// Count of layers.
    pub fn layers(mut self, layers: u64) -> Self {
        self.dimensions.layers = layers;
        self
    }

    /// Hidden size; the feed-forward part is half as wide again.
    pub fn hidden(mut self, hidden: u64) -> Self {
        self.dimensions.hidden = hidden;
        self.dimensions.intermediate = hidden * 3 / 2;
        self
    }

    /// Feed-forward width.
    pub fn intermediate(mut self, intermediate: u64) -> Self {
        self.dimensions.intermediate = intermediate;
        self
    }

    /// Rows of the embedding and words of the tokenizer.
    pub fn vocabulary(mut self, vocabulary: u64) -> Self {
        self.dimensions.vocabulary = vocabulary;
        self
    }

    /// Leaves the output layer out: it is the embedding.
    pub fn tied(mut self) -> Self {
        self.dimensions.tied = true;
        self
    }

    /// Storage type of all tensors.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Storage type of the tensors whose name contains `part`.
    pub fn dtype_where(mut self, part: &str, dtype: DType) -> Self {
        self.dtypes.push((part.to_owned(), dtype));
        self
    }

    /// How the tensors are laid out in files.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// The numbers' seed. Two checkpoints of one seed and shape are equal.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Makes it an expert: the values of its seed, rounded to bf16 as a base's are, plus noise of
    /// another seed and this size.
    pub fn expert(mut self, noise_seed: u64, scale: f64) -> Self {
        self.expert = Some((noise_seed, scale));
        self
    }

    /// Leaves out the tensors whose name contains `part`.
    pub fn without(mut self, part: &str) -> Self {
        self.without.push(part.to_owned());
        self
    }

    /// Adds a tensor.
    pub fn with(mut self, tensor: Tensor) -> Self {
        self.extra.push(tensor);
        self
    }

    /// Sets one element of the tensor of this name.
    pub fn set(mut self, name: &str, element: usize, value: f64) -> Self {
        self.edits.push((name.to_owned(), element, value));
        self
    }

    /// Sets a key of config.json; null removes it.
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config.push((key.to_owned(), value));
        self
    }

    /// The words of the tokenizer, one for each row of the embedding.
    pub fn words(mut self, words: &[&str]) -> Self {
        self.dimensions.vocabulary = words.len() as u64;
        self.words = Some(words.iter().map(|&word| word.to_owned()).collect());
        self
    }

    /// Writes weights only: no config, tokenizer or other files.
    pub fn weights_only(mut self) -> Self {
        self.side_files = false;
        self
    }

    /// Puts this in front of every tensor's name.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    /// The tensors, in the order of the model.
    pub fn tensors(&self) -> Vec<Tensor> {
        let mut tensors: Vec<Tensor> = side_files::llama_tensors(&self.dimensions)
            .into_iter()
            .filter(|(name, _)| !self.without.iter().any(|part| name.contains(part.as_str())))
            .map(|(name, shape)| self.tensor(&name, &shape))
            .collect();
        tensors.extend(self.extra.iter().cloned());
        for tensor in &mut tensors {
            tensor.name = format!("{}{}", self.prefix, tensor.name);
        }
        tensors
    }

    /// Writes it under its name in the space; the path of the folder, or of the file.
    pub fn write(&self, space: &Space) -> PathBuf {
        self.write_to(&space.path(&self.name))
    }

    /// Writes it to this folder, or for [`Layout::File`] to this file.
    pub fn write_to(&self, path: &Path) -> PathBuf {
        let tensors = self.tensors();
        let tensors: Vec<&Tensor> = tensors.iter().collect();
        if self.layout == Layout::File {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).expect("a folder can be made");
            }
            fs::write(path, safetensors_bytes(&tensors)).expect("a checkpoint can be written");
            return path.to_owned();
        }
        fs::create_dir_all(path).expect("the folder of a checkpoint can be made");
        for (name, bytes) in self.weight_files(&tensors) {
            fs::write(path.join(name), bytes).expect("a checkpoint can be written");
        }
        if self.side_files {
            for (name, text) in self.side_files_text() {
                fs::write(path.join(name), text).expect("a side file can be written");
            }
        }
        path.to_owned()
    }

    /// The reference of the checkpoint in a recipe that stands in the space.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn tensor(&self, name: &str, shape: &[u64]) -> Tensor {
        let elements: u64 = shape.iter().product();
        let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
        let mut values = Values::new(self.seed, name);
        let base: Vec<f64> = (0..elements).map(|_| offset + 0.02 * values.normal()).collect();
        let mut all = match self.expert {
            None => base,
            Some((noise_seed, scale)) => {
                let base = Tensor::new(name, DType::Bf16, shape, &base).values();
                let mut noise = Values::new(noise_seed, name);
                base.into_iter().map(|value| value + scale * noise.normal()).collect()
            }
        };
        for (_, element, value) in self.edits.iter().filter(|(edited, ..)| edited == name) {
            all[*element] = *value;
        }
        let dtype = self.dtypes.iter().find(|(part, _)| name.contains(part.as_str()));
        Tensor::new(name, dtype.map_or(self.dtype, |(_, dtype)| *dtype), shape, &all)
    }

    fn weight_files(&self, tensors: &[&Tensor]) -> Vec<(String, Vec<u8>)> {
        let shards = match self.layout {
            Layout::Single | Layout::File => {
                return vec![("model.safetensors".to_owned(), safetensors_bytes(tensors))];
            }
            Layout::Sharded(shards) | Layout::Loose(shards) => shards,
        };
        let file_name = |shard: usize| match self.layout {
            Layout::Loose(_) => format!("weights_{}.safetensors", ["x", "b", "k", "a"][shard % 4]),
            _ => format!("model-{:05}-of-{shards:05}.safetensors", shard + 1),
        };
        let per_shard = tensors.len().div_ceil(shards).max(1);
        let mut files = Vec::new();
        let mut weight_map = serde_json::Map::new();
        for (shard, part) in tensors.chunks(per_shard).enumerate() {
            for tensor in part {
                weight_map.insert(tensor.name.clone(), Value::from(file_name(shard)));
            }
            files.push((file_name(shard), safetensors_bytes(part)));
        }
        if let Layout::Sharded(_) = self.layout {
            let total: usize = tensors.iter().map(|tensor| tensor.data.len()).sum();
            let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
            let text = side_files::pretty(&index).into_bytes();
            files.push(("model.safetensors.index.json".to_owned(), text));
        }
        files
    }

    fn side_files_text(&self) -> Vec<(&'static str, String)> {
        let mut config = side_files::llama_config(&self.dimensions, self.dtype.torch_name());
        let object = config.as_object_mut().expect("a config is an object");
        for (key, value) in &self.config {
            if value.is_null() {
                object.shift_remove(key);
            } else {
                object.insert(key.clone(), value.clone());
            }
        }
        let words =
            self.words.clone().unwrap_or_else(|| side_files::words(self.dimensions.vocabulary));
        vec![
            ("config.json", side_files::pretty(&config)),
            ("tokenizer.json", side_files::pretty(&side_files::word_tokenizer(&words))),
            ("tokenizer_config.json", side_files::pretty(&side_files::tokenizer_config())),
            ("generation_config.json", side_files::pretty(&side_files::generation_config())),
            ("chat_template.jinja", side_files::CHAT_TEMPLATE.to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{read_checkpoint, read_safetensors};

    #[test]
    fn every_layout_holds_the_same_tensors() {
        let space = Space::new();
        let single = read_checkpoint(checkpoint("single").write(&space));
        let sharded = checkpoint("sharded").layout(Layout::Sharded(3)).write(&space);
        assert_eq!(read_checkpoint(sharded).tensors, single.tensors);
        let file = checkpoint("one.safetensors").layout(Layout::File).write(&space);
        assert_eq!(read_safetensors(file), single.tensors);
        let loose = checkpoint("loose").layout(Layout::Loose(2)).write(&space);
        let mut joined = read_safetensors(loose.join("weights_x.safetensors"));
        joined.extend(read_safetensors(loose.join("weights_b.safetensors")));
        assert_eq!(joined, single.tensors);
    }

    #[test]
    fn an_expert_is_its_base_plus_noise() {
        let base = checkpoint("base").tensors();
        let expert = checkpoint("expert").dtype(DType::F32).expert(5, 0.001).tensors();
        for (base, expert) in base.iter().zip(&expert) {
            let distance: Vec<f64> =
                base.values().iter().zip(expert.values()).map(|(b, e)| (b - e).abs()).collect();
            assert!(distance.iter().all(|d| *d < 0.004), "{}", base.name);
            assert!(distance.iter().any(|d| *d > 0.0), "{}", base.name);
        }
    }

    #[test]
    fn one_tensor_less_changes_no_other() {
        let all = checkpoint("x").tensors();
        let fewer = checkpoint("x").without("lm_head").tensors();
        assert_eq!(all[..fewer.len()], fewer);
        assert_eq!(all.len(), fewer.len() + 1);
    }
}
