//! A checkpoint that is put together from tensors of other models, under other names, and from tensors that are
//! made when they are read. To everything that merges it is a model like any other.

use std::path::PathBuf;
use std::sync::Arc;

use mixdown_checkpoint::index::Identity;
use mixdown_checkpoint::{
    ByteSource, Checkpoint, FilePool, Form, Index, Shard, TensorEntry, shown,
};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::{DType, Shape};
use serde_json::Value;

use crate::models::Model;
use crate::tensors::Held;

/// A recipe that stands for a text of another kind, and the model that it writes.
pub(crate) struct Composition {
    /// What the recipe calls the model.
    pub name: String,
    pub model: Model,
    /// The recipe, as a text.
    pub recipe: String,
    pub warnings: Vec<Diagnostic>,
}

/// A checkpoint that is being put together.
pub(crate) struct Composed {
    pool: Arc<FilePool>,
    shards: Vec<Shard>,
    entries: Vec<TensorEntry>,
    held: Vec<Arc<dyn ByteSource>>,
}

/// Where the files of a model begin among those of a composed one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files(u32);

impl Composed {
    pub fn new() -> Self {
        let pool = FilePool::new(FilePool::DEFAULT_LIMIT);
        let (shards, entries, held) = Default::default();
        Self { pool, shards, entries, held }
    }

    /// Takes the files of a model in.
    pub fn files_of(&mut self, checkpoint: &Checkpoint) -> Files {
        let first = self.shards.len() as u32;
        for shard in checkpoint.index.shards() {
            self.held.push(Arc::new(self.pool.source(shard)));
            self.shards.push(shard.clone());
        }
        Files(first)
    }

    /// A tensor of one of these models, under a name.
    ///
    /// **Errors.** A packed tensor, whose parts lie in several places.
    pub fn take(
        &mut self,
        files: Files,
        entry: &TensorEntry,
        name: String,
    ) -> Result<(), Box<Diagnostic>> {
        if entry.encoding.is_some() {
            let headline = format!("`{}` is stored as codes and scales", shown(&entry.name));
            return Err(Box::new(
                Diagnostic::error(codes::UNSUPPORTED, headline)
                    .fact("stored as", entry.stored_as())
                    .help("write the model without quantization first: a `passthrough` merge does"),
            ));
        }
        self.entries.push(TensorEntry { name, shard: files.0 + entry.shard, ..entry.clone() });
        Ok(())
    }

    /// A tensor that is made when it is read.
    pub fn make(&mut self, name: String, dtype: DType, shape: Shape, data: Arc<dyn ByteSource>) {
        let size = data.len();
        let shard = self.shards.len() as u32;
        self.shards.push(Shard {
            path: PathBuf::from(&name),
            shown: format!("{name}, which is made"),
            size,
            identity: Identity { size, ..Identity::default() },
        });
        self.held.push(data);
        self.entries.push(TensorEntry { name, dtype, shape, shard, offset: 0, encoding: None });
    }

    /// The model. What lies beside the weights in `root` belongs to it.
    ///
    /// **Errors.** Two tensors of one name.
    pub fn finish(
        self,
        name: &str,
        root: PathBuf,
        config: Option<Value>,
        parts: Vec<Model>,
    ) -> Result<Model, Vec<Diagnostic>> {
        let index = Index::new(self.shards, self.entries).map_err(|error| {
            vec![Diagnostic::error(codes::DUPLICATE_TENSOR, error.to_string()).in_file(name)]
        })?;
        let checkpoint = Checkpoint {
            name: name.to_owned(),
            root,
            form: Form::Folder,
            index,
            config,
            warnings: Vec::new(),
        };
        Ok(Model {
            checkpoint,
            revision: None,
            held: Some(Held(self.held)),
            parts,
            vocabulary: None,
        })
    }
}
