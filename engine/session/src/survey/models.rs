//! What each expert has at the place of each tensor of the base.

use mixdown_checkpoint::TensorEntry;
use mixdown_checkpoint::adapter::Adapter;
use mixdown_checkpoint::index::Index;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_plan::{ModelSource, TensorRef};

use crate::Trouble;
use crate::recipes::{Loaded, OnBase};

/// A model: the checkpoint whose names it has, and an adapter on it.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Position among the loaded models.
    pub checkpoint: u32,
    /// Position among the adapters.
    pub adapter: Option<u32>,
}

/// The product of two factors, in the order in which it is added: `rows × rank` and `rank × columns`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub left: TensorRef,
    pub right: TensorRef,
    pub rank: u64,
    pub scale: f64,
    /// Whether the transpose is added.
    pub transposed: bool,
}

/// What a tensor of a model is made of.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    pub stored: TensorRef,
    pub update: Option<Product>,
    pub delta: Option<TensorRef>,
    /// Norms that rows get at last, or columns.
    pub magnitude: Option<(TensorRef, bool)>,
}

impl Model {
    /// The model that a source is; none where it is no checkpoint, nor an adapter on one.
    pub fn of(loaded: &Loaded, source: ModelSource) -> Option<Self> {
        match source {
            ModelSource::Checkpoint(checkpoint) => Some(Self { checkpoint, adapter: None }),
            ModelSource::Adapted(at) => {
                let checkpoint = loaded.adapters[at as usize].base;
                Some(Self { checkpoint, adapter: Some(at) })
            }
            _ => None,
        }
    }
}

impl Made {
    /// Whether it is what is stored.
    pub fn is_plain(&self) -> bool {
        self.update.is_none() && self.delta.is_none() && self.magnitude.is_none()
    }
}

/// What an expert has at the place of a tensor of the base.
#[derive(Clone, Debug)]
pub enum Found {
    /// Numbers to compare with the base's.
    Made(Made),
    /// Nothing.
    Missing,
    /// Something that cannot be compared, in words.
    Other(String),
}

impl Found {
    /// Whether there is something to compare.
    pub fn is_made(&self) -> bool {
        matches!(self, Self::Made(_))
    }
}

/// A tensor of the base with what the experts have in its place.
#[derive(Debug)]
pub struct Place {
    /// Position in the base's index.
    pub tensor: u32,
    pub base: Made,
    pub experts: Vec<Found>,
    /// Elements that all can be compared in: fewer than the base's where an embedding has fewer rows.
    pub elements: u64,
    /// Rows and columns of the tensor as a matrix.
    pub shape: (u64, u64),
}

/// All tensors of the base, and what the experts have.
#[derive(Debug)]
pub struct Compared {
    pub base: Model,
    pub experts: Vec<Model>,
    /// In the order of the base's index.
    pub places: Vec<Place>,
    /// Tensors of each expert that the base lacks.
    pub extra: Vec<Vec<String>>,
}

impl Compared {
    /// Brings the models of the survey's recipe together, of which the first is the base.
    ///
    /// **Errors.** No expert.
    pub fn of(loaded: &Loaded) -> Result<Self, Trouble> {
        let mut models = Vec::new();
        for source in &loaded.sources[0] {
            let model = Model::of(loaded, *source);
            models.push(model.expect("the survey's recipe names checkpoints and adapters"));
        }
        let (Some(&base), experts) = (models.first(), models.get(1..).unwrap_or_default()) else {
            unreachable!("the survey's recipe names a base")
        };
        if experts.is_empty() {
            let error = Diagnostic::error(codes::NOTHING_TO_WRITE, "no expert is named");
            let help = "name at least one model behind the base";
            return Err(Trouble::Usage(vec![error.help(help)]));
        }
        Ok(Self::among(loaded, base, experts))
    }

    /// Brings experts and their base together.
    pub fn among(loaded: &Loaded, base: Model, experts: &[Model]) -> Self {
        let index = index(loaded, base.checkpoint);
        let place = |(position, entry): (usize, &TensorEntry)| {
            let of_base = made(loaded, base, position as u32);
            let found = experts.iter().map(|&expert| found(loaded, base, expert, entry, position));
            let experts: Vec<Found> = found.collect();
            let rows = |one: &Found| match one {
                Found::Made(made) => Some(entry_of(loaded, made.stored).shape.elements()),
                _ => None,
            };
            let all = entry_of(loaded, of_base.stored).shape.elements();
            let elements = experts.iter().filter_map(rows).fold(all, u64::min);
            let dimensions = entry_of(loaded, of_base.stored).shape.dimensions();
            let rows = dimensions.first().copied().unwrap_or(1);
            let columns = dimensions.iter().skip(1).product();
            Place {
                tensor: position as u32,
                base: of_base,
                experts,
                elements,
                shape: (rows, columns),
            }
        };
        let places = index.tensors().iter().enumerate().map(place).collect();
        let lacks = |model: &Model| {
            let own = self::index(loaded, model.checkpoint).tensors().iter();
            let added = model.adapter.into_iter().flat_map(|at| {
                let additions = &loaded.adapters[at as usize].adapter.additions;
                additions.iter().map(|one| one.name.as_str())
            });
            let names = own.map(|entry| entry.name.as_str()).chain(added);
            let is_extra = |name: &&str| index.position(name).is_none();
            names.filter(is_extra).map(str::to_owned).collect()
        };
        let extra = experts.iter().map(lacks).collect();
        Self { base, experts: experts.to_vec(), places, extra }
    }
}

/// What the index of a loaded model says of a tensor.
pub fn entry_of(loaded: &Loaded, tensor: TensorRef) -> &TensorEntry {
    &index(loaded, tensor.model).tensors()[tensor.tensor as usize]
}

fn index(loaded: &Loaded, model: u32) -> &Index {
    &loaded.models[model as usize].model.checkpoint.index
}

fn found(loaded: &Loaded, base: Model, expert: Model, entry: &TensorEntry, at: usize) -> Found {
    let position = match expert.checkpoint == base.checkpoint {
        true => Some(at),
        false => index(loaded, expert.checkpoint).position(&entry.name),
    };
    let Some(position) = position else { return Found::Missing };
    let made = made(loaded, expert, position as u32);
    let own = entry_of(loaded, made.stored);
    let (ours, theirs) = (entry.shape.dimensions(), own.shape.dimensions());
    match () {
        () if !entry.model_dtype().is_float() || !own.model_dtype().is_float() => {
            Found::Other("no numbers to calculate with".to_owned())
        }
        () if ours == theirs => Found::Made(made),
        // Rows of an embedding are tokens: those that both have can be compared.
        () if ours.len() == 2 && theirs.len() == 2 && ours[1] == theirs[1] => Found::Made(made),
        () => Found::Other(format!("shape {} beside {}", own.shape, entry.shape)),
    }
}

/// What a tensor of a model's checkpoint is made of.
fn made(loaded: &Loaded, model: Model, tensor: u32) -> Made {
    let stored = TensorRef { model: model.checkpoint, tensor };
    let plain = Made { stored, update: None, delta: None, magnitude: None };
    let Some(at) = model.adapter else { return plain };
    let OnBase { own, adapter, .. } = &loaded.adapters[at as usize];
    let of_adapter = |tensor| TensorRef { model: *own, tensor };
    let Adapter { updates, replacements, deltas, magnitudes, .. } = adapter;
    let update = updates.iter().find(|one| one.base_tensor == tensor).map(|one| Product {
        left: of_adapter(one.left),
        right: of_adapter(one.right),
        rank: one.rank,
        scale: one.scale,
        transposed: one.transposed,
    });
    let replaced = replacements.iter().find(|one| one.base_tensor == tensor);
    let delta = deltas.iter().find(|one| one.base_tensor == tensor);
    let magnitude = magnitudes.iter().find(|one| one.base_tensor == tensor);
    Made {
        stored: replaced.map_or(stored, |one| of_adapter(one.adapter_tensor)),
        update,
        delta: delta.map(|one| of_adapter(one.adapter_tensor)),
        magnitude: magnitude.map(|one| (of_adapter(one.adapter_tensor), one.by_columns)),
    }
}
