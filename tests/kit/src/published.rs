//! Published checkpoints in their real sizes: true headers, and weights that are holes in the file, so
//! that they take no space on the disk, or one block of numbers repeated.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::hub::COMMIT;
use crate::space::Space;

/// A checkpoint's configuration, and names and shapes of its tensors; all of them are bf16.
#[derive(Clone, Debug)]
pub struct Published {
    /// What config.json says.
    pub config: Value,
    /// In the order of the file.
    pub tensors: Vec<(String, Vec<u64>)>,
}

/// What the weights are.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// Zeros that take no space.
    Holes,
    /// These bytes, again and again.
    Repeated(&'a [u8]),
}

impl Published {
    /// `tests/headers/published/FIXTURE.json`.
    ///
    /// # Panics
    ///
    /// If the fixture is not there.
    pub fn read(fixture: &str) -> Self {
        Self::read_in("published", fixture)
    }

    /// `tests/headers/FIXTURE.json`: a model of the same family, small enough to hold.
    ///
    /// # Panics
    ///
    /// If the fixture is not there.
    pub fn small(fixture: &str) -> Self {
        Self::read_in("", fixture)
    }

    fn read_in(folder: &str, fixture: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../headers").join(folder);
        let text = fs::read(folder.join(format!("{fixture}.json"))).expect("the fixture is there");
        let mut value: Value = serde_json::from_slice(&text).expect("the fixture is JSON");
        let tensors = written_out(value["tensors"].as_object().expect("the fixture has tensors"));
        Self { config: value["config"].take(), tensors }
    }

    /// The same model with the first layers of its language model alone.
    pub fn with_layers(mut self, layers: u64) -> Self {
        self.tensors.retain(|(name, _)| {
            let number =
                name.split_once("model.layers.").and_then(|(_, rest)| rest.split('.').next());
            number.and_then(|number| number.parse().ok()).is_none_or(|number: u64| number < layers)
        });
        let nested = ["text_config", "llm_config"];
        let part = nested.into_iter().find(|part| self.config.get(part).is_some());
        let config = match part {
            Some(part) => &mut self.config[part],
            None => &mut self.config,
        };
        config["num_hidden_layers"] = layers.into();
        self
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|(_, shape)| 2 * shape.iter().product::<u64>()).sum()
    }

    /// Writes config.json and model.safetensors.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written, or its file system has no sparse files.
    pub fn write(&self, folder: &Path, weights: Weights<'_>) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("config.json"), format!("{:#}\n", self.config))?;
        self.write_tensors(&folder.join("model.safetensors"), weights)
    }

    /// Writes the tensors alone.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, or its file system has no sparse files.
    pub fn write_tensors(&self, path: &Path, weights: Weights<'_>) -> io::Result<()> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        let mut begin = 0;
        for (name, shape) in &self.tensors {
            let end = begin + 2 * shape.iter().product::<u64>();
            let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]});
            header.insert(name.clone(), entry);
            begin = end;
        }
        let mut header = Value::Object(header).to_string();
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        if let Weights::Repeated(block) = weights {
            let mut left = begin;
            while left > 0 {
                let part = left.min(block.len() as u64);
                file.write_all(&block[..part as usize])?;
                left -= part;
            }
        }
        let file = file.into_inner()?;
        file.set_len(8 + header.len() as u64 + begin)
    }
}

/// Names and shapes of a fixture in `tests/headers`, with `{0..3}` written out as each of these numbers.
pub fn written_out(tensors: &Map<String, Value>) -> Vec<(String, Vec<u64>)> {
    tensors
        .iter()
        .flat_map(|(name, shape)| {
            let sizes: Vec<u64> =
                shape.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
            numbered(name).into_iter().map(move |name| (name, sizes.clone()))
        })
        .collect()
}

fn numbered(name: &str) -> Vec<String> {
    let range = name.split_once('{').and_then(|(before, rest)| {
        let (range, after) = rest.split_once('}')?;
        let (first, last) = range.split_once("..")?;
        Some((before, first.parse::<u64>().ok()?..=last.parse().ok()?, after))
    });
    match range {
        None => vec![name.to_owned()],
        Some((before, range, after)) => {
            range.flat_map(|number| numbered(&format!("{before}{number}{after}"))).collect()
        }
    }
}

/// Puts a fixture into the space's hub cache as the repository `id`, with weights that take no space.
///
/// # Panics
///
/// If the fixture is not there, or a file cannot be written.
pub fn published(space: &Space, id: &str, fixture: &str) -> PathBuf {
    let repository =
        space.path(".home/huggingface/hub").join(format!("models--{}", id.replace('/', "--")));
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(repository.join("refs")).expect("the space can be written");
    fs::write(repository.join("refs/main"), COMMIT).expect("the space can be written");
    Published::read(fixture).write(&snapshot, Weights::Holes).expect("the space can be written");
    snapshot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_left_out() {
        let whole = Published::read("qwen2_5_vl_32b");
        let small = whole.clone().with_layers(2);
        assert_eq!(small.config["num_hidden_layers"], 2);
        assert_eq!(whole.tensors.len() - small.tensors.len(), 62 * 12);
        assert!(whole.bytes() > 66_000_000_000 && small.bytes() < 7_000_000_000);
    }
}
