//! Reading checkpoints back with the `safetensors` crate, which checks the files on the way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mixdown_tensor::DType;
use safetensors::SafeTensors;

use crate::tensor::Tensor;

/// A checkpoint that was read.
#[derive(Clone, Debug)]
pub struct Stored {
    /// All tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Names of the shards, sorted.
    pub shards: Vec<String>,
    /// `metadata.total_size` of the index, where there is one.
    pub total_size: Option<u64>,
}

impl Stored {
    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| {
            panic!("no tensor `{name}` among {:?}", self.tensors.keys().collect::<Vec<_>>())
        })
    }

    /// Its values.
    pub fn values(&self, name: &str) -> Vec<f64> {
        self.tensor(name).values()
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }
}

/// Reads a folder with an index or a single file, as other programs would.
///
/// Panics when a file is unsound, when the index names what the shards do not hold, or when a shard
/// holds what the index does not name.
pub fn read_checkpoint(folder: impl AsRef<Path>) -> Stored {
    let folder = folder.as_ref();
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        let file = folder.join("model.safetensors");
        assert!(file.exists(), "{} holds neither an index nor a file", folder.display());
        return Stored {
            tensors: read_safetensors(&file),
            shards: vec!["model.safetensors".to_owned()],
            total_size: None,
        };
    }
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(index).expect("the index can be read"))
            .expect("the index is JSON");
    let weight_map = index["weight_map"].as_object().expect("the index has a weight map");
    let mut shards: Vec<String> =
        weight_map.values().map(|shard| shard.as_str().expect("a name").to_owned()).collect();
    shards.sort();
    shards.dedup();
    let mut tensors = BTreeMap::new();
    for shard in &shards {
        for (name, tensor) in read_safetensors(folder.join(shard)) {
            assert_eq!(weight_map[&name], shard.as_str(), "the index misplaces `{name}`");
            tensors.insert(name, tensor);
        }
    }
    assert_eq!(tensors.len(), weight_map.len(), "the index names tensors that are not there");
    Stored { tensors, shards, total_size: index["metadata"]["total_size"].as_u64() }
}

/// All tensors of one file.
pub fn read_safetensors(path: impl AsRef<Path>) -> BTreeMap<String, Tensor> {
    let path: PathBuf = path.as_ref().to_owned();
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes)
        .unwrap_or_else(|error| panic!("{} is not sound: {error}", path.display()));
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let dtype = DType::from_safetensors(&view.dtype().to_string())
            .unwrap_or_else(|| panic!("`{name}` has the unknown type {}", view.dtype()));
        let shape = view.shape().iter().map(|&dimension| dimension as u64).collect();
        let data = view.data().to_vec();
        tensors.insert(name.clone(), Tensor { name, dtype, shape, data });
    }
    tensors
}
