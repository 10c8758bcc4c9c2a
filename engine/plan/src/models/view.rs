//! A model as an input of a recipe: the tensors of a checkpoint, or those that another recipe makes.

mod known;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mixdown_checkpoint::adapter::{Adapter, AddedFrom, Update};
use mixdown_checkpoint::index::{Index, TensorEntry};
use mixdown_checkpoint::ties;
use mixdown_ops::MapOp;
use mixdown_ops::matrix::axes::{Axis, Fact};
use mixdown_ops::matrix::{MatrixLayout, MatrixOp};
use mixdown_recipe::Architecture;
use mixdown_recipe::architecture::SizeValues;
use mixdown_tensor::{DType, Shape};
use serde_json::Value;

use crate::families::knowledge::{self, Architectures, Facts};
use crate::families::layer;
use crate::families::tied::tied_flag;
use crate::formulas::graph::{Graph, Node, NodeId};
use crate::models::map::{MadeOf, Mapped, Piece};
use crate::plan::Assembled;
use crate::plan::Treatment;
use crate::plan::{Leaf, Product, Rectangle, TensorRef};

/// A tensor that a recipe makes.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub name: String,
    pub shape: Shape,
    pub dtype: DType,
    pub how: How,
    /// Position among the origins of the plan.
    pub origin: u32,
    /// What a method over matrices made of it.
    pub treatment: Option<Treatment>,
}

/// How a tensor is made.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// The bytes of an input.
    Copy { from: TensorRef, equal_to: Vec<TensorRef>, within: Option<f64> },
    /// A node of a graph, rounded to the tensor's type when it is stored.
    Graph { graph: Box<Graph>, output: NodeId, double: bool },
}

/// A model.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// As messages name it.
    pub name: String,
    tensors: Tensors<'a>,
    /// `tie_word_embeddings` of its config.
    pub tied: Option<bool>,
    /// Its config.json, of a checkpoint or of an adapter's base.
    pub config: Option<&'a Value>,
    /// Its family, if it is known.
    pub architecture: Option<&'static Architecture>,
    /// The sizes that its config gives to the family.
    sizes: SizeValues,
    /// What names and shapes tell where the family does not, once it was asked for.
    told: OnceCell<known::Told>,
    /// The model whose names its parts have, if there is one, and the family of its own files, which tells of
    /// the parts that keep theirs.
    pub names_of: Option<(String, Option<&'static Architecture>)>,
    /// Count of layers for each prefix of layer names.
    pub layers: BTreeMap<String, u64>,
    /// Embeddings brought to another vocabulary, by the position of the tensor.
    pub rows: HashMap<u32, (u32, Shape)>,
    /// Embeddings that stand in for an output layer with rows of their own: its name, and the
    /// position of the embedding. Their own positions follow those of the tensors.
    stand_ins: Vec<(String, u32)>,
    /// What an adapter does to tensors, by their position.
    adapted: HashMap<u32, Adapted>,
    /// Tensors that an adapter adds. Their positions follow those of the base's.
    added: Vec<Added>,
    /// Names of stacked experts of which nothing tells whether their matrices lie as those of the base.
    pub undecided: BTreeSet<String>,
    /// Whether it is an adapter on a checkpoint.
    is_adapter: bool,
    /// Whether all its numbers are zero, whatever the files hold.
    is_zero: bool,
}

/// The type of a tensor that takes the place of another, or stands beside it.
fn in_type_of(stored: &TensorEntry, other: &TensorEntry) -> DType {
    let (own, other) = (stored.model_dtype(), other.model_dtype());
    if own.is_float() && other.is_float() { other } else { own }
}

/// What an adapter does to a tensor. An embedding may be replaced and updated: peft stores it beside its
/// update.
#[derive(Clone, Debug, Default)]
struct Adapted {
    /// What takes its place first: this tensor of this type and shape.
    replaced: Option<(TensorRef, DType, Shape)>,
    /// Whether what takes its place is computed, so that there are no bytes to copy.
    is_computed: bool,
    /// What is added then.
    update: Option<Product>,
    /// What is added too, as a tensor.
    delta: Option<TensorRef>,
    /// The norms that rows get then, or columns.
    magnitude: Option<(TensorRef, Axis)>,
}

impl Adapted {
    /// Whether there is more than what takes its place.
    fn is_changed(&self) -> bool {
        self.update.is_some() || self.delta.is_some() || self.magnitude.is_some()
    }
}

/// A tensor that an adapter adds to its base.
#[derive(Clone, Debug)]
struct Added {
    name: String,
    dtype: DType,
    /// Whether it is stored in another type.
    is_converted: bool,
    shape: Shape,
    /// What it is made of.
    from: TensorRef,
    /// What is added then.
    update: Option<Product>,
}

#[derive(Debug)]
enum Tensors<'a> {
    Checkpoint { model: u32, index: &'a Index },
    Recipe { tensors: &'a [Made], by_name: HashMap<&'a str, u32> },
    Mapped { mapped: Mapped, sums: HashMap<u32, Vec<(Leaf, f64)>>, masks: HashMap<u32, Leaf> },
}

/// A tensor of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor<'v> {
    pub position: u32,
    pub name: &'v str,
    pub dtype: DType,
    pub shape: &'v Shape,
}

impl<'a> View<'a> {
    /// A checkpoint.
    pub fn checkpoint(name: &str, model: u32, index: &'a Index, config: Option<&'a Value>) -> Self {
        let tied = config.and_then(tied_flag);
        let mut view = Self::new(name, Tensors::Checkpoint { model, index }, tied);
        let names = index.tensors().iter().map(|tensor| tensor.name.as_str());
        view.recognize(names, config);
        view.config = config;
        view
    }

    /// Looks up the family.
    fn recognize<'n>(
        &mut self,
        names: impl Iterator<Item = &'n str> + Clone,
        config: Option<&Value>,
    ) {
        self.architecture = Architectures::built_in().recognize(names, config);
        if let (Some(family), Some(config)) = (self.architecture, config) {
            self.sizes = knowledge::sizes(family, config);
        }
    }

    /// The names, shapes and types of a checkpoint with nothing but zeros.
    pub fn zeros(name: &str, model: u32, index: &'a Index) -> Self {
        let mut view = Self::checkpoint(name, model, index, None);
        view.is_zero = true;
        view
    }

    /// A checkpoint with a low-rank adapter on it, whose own checkpoint is `adapter_model`.
    pub fn adapted(
        name: &str,
        base: (u32, &'a Index),
        config: Option<&'a Value>,
        adapter_model: u32,
        adapter: (&Adapter, &Index),
    ) -> Self {
        let (model, index) = base;
        let (adapter, files) = adapter;
        let mut view = Self::checkpoint(name, model, index, config);
        view.is_adapter = true;
        let own = |tensor: u32| TensorRef { model: adapter_model, tensor };
        let product = |update: &Update, shape: &Shape| {
            // The adapter was checked against these shapes.
            let (rows, columns) = as_matrix(shape)?;
            Some(Product {
                left: own(update.left),
                right: own(update.right),
                rank: update.rank as u32,
                rows,
                columns,
                scale: update.scale.into(),
                transposed: update.transposed,
            })
        };
        for replacement in &adapter.replacements {
            let stored = &files.tensors()[replacement.adapter_tensor as usize];
            let at = own(replacement.adapter_tensor);
            let adapted = view.adapted.entry(replacement.base_tensor).or_default();
            // What is trained in another type is kept in the model's, as peft does.
            let dtype = in_type_of(stored, &index.tensors()[replacement.base_tensor as usize]);
            adapted.replaced = Some((at, dtype, stored.shape.clone()));
            adapted.is_computed = stored.encoding.is_some() || stored.dtype != dtype;
        }
        for update in &adapter.updates {
            let adapted = view.adapted.entry(update.base_tensor).or_default();
            let stored = &index.tensors()[update.base_tensor as usize].shape;
            let shape = adapted.replaced.as_ref().map_or(stored, |(_, _, shape)| shape);
            adapted.update = product(update, shape);
        }
        for delta in &adapter.deltas {
            let adapted = view.adapted.entry(delta.base_tensor).or_default();
            adapted.delta = Some(own(delta.adapter_tensor));
        }
        for magnitude in &adapter.magnitudes {
            let adapted = view.adapted.entry(magnitude.base_tensor).or_default();
            let axis = if magnitude.by_columns { Axis::Columns } else { Axis::Rows };
            adapted.magnitude = Some((own(magnitude.adapter_tensor), axis));
        }
        for addition in &adapter.additions {
            let (from, stored) = match addition.from {
                AddedFrom::Adapter(at) => (own(at), &files.tensors()[at as usize]),
                AddedFrom::Base(at) => {
                    (TensorRef { model, tensor: at }, &index.tensors()[at as usize])
                }
            };
            let beside = addition.second_of.map_or(stored, |at| &index.tensors()[at as usize]);
            let dtype = in_type_of(stored, beside);
            view.added.push(Added {
                name: addition.name.clone(),
                dtype,
                is_converted: stored.model_dtype() != dtype,
                shape: stored.shape.clone(),
                from,
                update: addition.update.as_ref().and_then(|one| product(one, &stored.shape)),
            });
            if ties::is_head(&addition.name) || ties::is_copied_head(&addition.name) {
                view.tied = Some(false);
            }
        }
        view
    }

    /// The update of a tensor that an adapter leaves alone, as a product of rank 0: beside those of other
    /// adapters it lets all of them stay products. None if this is no adapter, or not on a stored matrix.
    pub fn no_update(&self, position: u32) -> Option<Product> {
        if !self.is_adapter || self.is_adapted(position) {
            return None;
        }
        let stored = self.stored(position)?;
        let &[rows, columns] = self.get(position).shape.dimensions() else { return None };
        let (scale, transposed) = (1.0.into(), false);
        Some(Product { left: stored, right: stored, rank: 0, rows, columns, scale, transposed })
    }

    /// Whether an adapter changes the tensor, or adds it.
    pub fn is_adapted(&self, position: u32) -> bool {
        let place = self.place(position);
        place >= self.stored_len() || self.adapted.contains_key(&(place as u32))
    }

    /// Whether an adapter adds the tensor to its base.
    pub fn is_added(&self, position: u32) -> bool {
        self.added(self.place(position)).is_some()
    }

    /// Whether an adapter stores the tensor whole, with other rows than its base has.
    pub fn is_resized(&self, position: u32) -> bool {
        let (Tensors::Checkpoint { index, .. }, place) = (&self.tensors, self.place(position))
        else {
            return false;
        };
        let replaced = self.adapted.get(&(place as u32)).and_then(|one| one.replaced.as_ref());
        match (replaced, self.added.get(place.wrapping_sub(index.len()))) {
            (Some((_, _, shape)), _) => *shape != index.tensors()[place].shape,
            (None, Some(added)) => {
                let embeddings = ties::embeddings_of(&added.name);
                let mut stored = embeddings.filter_map(|name| index.position(&name));
                stored.any(|at| index.tensors()[at].shape != added.shape)
            }
            (None, None) => false,
        }
    }

    /// An added tensor, by its place among all.
    fn added(&self, place: usize) -> Option<&Added> {
        place.checked_sub(self.stored_len()).and_then(|number| self.added.get(number))
    }

    /// The result of another recipe.
    pub fn recipe(name: &str, tensors: &'a [Made], tied: Option<bool>) -> Self {
        let names = tensors.iter().enumerate();
        let by_name = names.map(|(position, made)| (made.name.as_str(), position as u32)).collect();
        Self::new(name, Tensors::Recipe { tensors, by_name }, tied)
    }

    /// A checkpoint seen through a map: it has the names and shapes of the map's target, whose config this
    /// is. What it is put together from joins `assembled`.
    pub fn mapped(
        name: &str,
        mapped: Mapped,
        config: Option<&Value>,
        assembled: &mut Vec<Arc<Assembled>>,
    ) -> Self {
        let mut known: HashMap<Arc<Assembled>, u32> =
            assembled.iter().zip(0..).map(|(one, number)| (one.clone(), number)).collect();
        let mut leaf = |one: &Assembled| {
            let number = known.get(one).copied().unwrap_or_else(|| {
                let (own, number) = (Arc::new(one.clone()), assembled.len() as u32);
                assembled.push(own.clone());
                known.insert(own, number);
                number
            });
            Leaf::Assembled(number, one.dtype)
        };
        let (mut sums, mut masks) = (HashMap::new(), HashMap::new());
        for (position, tensor) in mapped.tensors.iter().enumerate() {
            if let MadeOf::Sum(terms) = &tensor.made {
                let terms = terms.iter().map(|(by, piece)| match piece {
                    Piece::Whole(tensor) => (Leaf::Tensor(*tensor), *by),
                    Piece::Assembled(one) => (leaf(one), *by),
                });
                sums.insert(position as u32, terms.collect());
            }
            if let Some(mask) = tensor.mask() {
                masks.insert(position as u32, leaf(&mask));
            }
        }
        let names: Vec<String> = mapped.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        let tied = config.and_then(tied_flag);
        let mut view = Self::new(name, Tensors::Mapped { mapped, sums, masks }, tied);
        view.recognize(names.iter().map(String::as_str), config);
        view
    }

    /// Whether it is seen through a map.
    pub fn is_mapped(&self) -> bool {
        matches!(self.tensors, Tensors::Mapped { .. })
    }

    /// From which row on a tensor is that of the map's target, whatever a method does: 0 where all of it
    /// is, none where no row is.
    pub fn kept_from(&self, position: u32) -> Option<u64> {
        match &self.tensors {
            Tensors::Mapped { mapped, .. } => mapped.tensors[self.place(position)].kept_from,
            Tensors::Checkpoint { .. } | Tensors::Recipe { .. } => None,
        }
    }

    /// Ones where rows of a tensor are those of the map's target, and zeros above them.
    pub fn mask(&self, position: u32) -> Option<Leaf> {
        match &self.tensors {
            Tensors::Mapped { masks, .. } => masks.get(&(self.place(position) as u32)).copied(),
            Tensors::Checkpoint { .. } | Tensors::Recipe { .. } => None,
        }
    }

    /// What a tensor is made of, where its name does not tell.
    pub fn made_of(&self, position: u32) -> Option<&str> {
        match &self.tensors {
            Tensors::Mapped { mapped, .. } => Some(&mapped.tensors[self.place(position)].shown),
            Tensors::Checkpoint { .. } | Tensors::Recipe { .. } => None,
        }
    }

    fn new(name: &str, tensors: Tensors<'a>, tied: Option<bool>) -> Self {
        let rows = HashMap::new();
        let (name, layers) = (name.to_owned(), BTreeMap::new());
        let (stand_ins, adapted, added) = (Vec::new(), HashMap::new(), Vec::new());
        let is_adapter = false;
        let (architecture, names_of) = (None, None);
        let mut view = Self {
            name,
            tensors,
            tied,
            config: None,
            architecture,
            sizes: SizeValues::default(),
            told: OnceCell::new(),
            names_of,
            layers,
            rows,
            stand_ins,
            adapted,
            added,
            undecided: BTreeSet::new(),
            is_adapter,
            is_zero: false,
        };
        let mut layers: BTreeMap<String, u64> = BTreeMap::new();
        for tensor in view.iter() {
            let Some(found) = layer::split(tensor.name) else { continue };
            match layers.get_mut(found.prefix) {
                Some(count) => *count = (*count).max(found.layer + 1),
                None => {
                    layers.insert(found.prefix.to_owned(), found.layer + 1);
                }
            }
        }
        view.layers = layers;
        view
    }

    /// Count of tensors.
    pub fn len(&self) -> usize {
        self.stored_len() + self.added.len()
    }

    /// Count of the tensors without those that an adapter adds.
    fn stored_len(&self) -> usize {
        match &self.tensors {
            Tensors::Checkpoint { index, .. } => index.len(),
            Tensors::Recipe { tensors, .. } => tensors.len(),
            Tensors::Mapped { mapped, .. } => mapped.tensors.len(),
        }
    }

    /// Lets an embedding stand in for an output layer, with rows that may differ from the embedding's.
    pub fn stand_in(&mut self, name: &str, embedding: u32, rows: (u32, Shape)) {
        let position = (self.len() + self.stand_ins.len()) as u32;
        self.stand_ins.push((name.to_owned(), embedding));
        self.rows.insert(position, rows);
    }

    /// The position in the files, of a tensor or of what stands in for one.
    fn place(&self, position: u32) -> usize {
        let beyond = (position as usize).checked_sub(self.len());
        beyond.map_or(position, |number| self.stand_ins[number].1) as usize
    }

    /// The tensor at a position.
    pub fn get(&self, position: u32) -> Tensor<'_> {
        let place = self.place(position);
        let (name, dtype, shape) = match &self.tensors {
            _ if place >= self.stored_len() => {
                let added = &self.added[place - self.stored_len()];
                (added.name.as_str(), added.dtype, &added.shape)
            }
            Tensors::Checkpoint { index, .. } => {
                let entry = &index.tensors()[place];
                match self.adapted.get(&(place as u32)) {
                    Some(Adapted { replaced: Some((_, dtype, shape)), .. }) => {
                        (entry.name.as_str(), *dtype, shape)
                    }
                    _ => (entry.name.as_str(), entry.model_dtype(), &entry.shape),
                }
            }
            Tensors::Recipe { tensors, .. } => {
                let made = &tensors[place];
                (made.name.as_str(), made.dtype, &made.shape)
            }
            Tensors::Mapped { mapped, .. } => {
                let tensor = &mapped.tensors[place];
                (tensor.name.as_str(), tensor.dtype, &tensor.shape)
            }
        };
        let shape = self.rows.get(&position).map_or(shape, |(_, shape)| shape);
        Tensor { position, name, dtype, shape }
    }

    /// All tensors, in the order of their places in the files.
    pub fn iter(&self) -> impl Iterator<Item = Tensor<'_>> {
        (0..self.len() as u32).map(|position| self.get(position))
    }

    /// The tensor of this name.
    pub fn find(&self, name: &str) -> Option<Tensor<'_>> {
        if let Some(number) = self.added.iter().position(|added| added.name == name) {
            return Some(self.get((self.stored_len() + number) as u32));
        }
        let position = match &self.tensors {
            Tensors::Checkpoint { index, .. } => index.position(name)? as u32,
            Tensors::Recipe { by_name, .. } => *by_name.get(name)?,
            Tensors::Mapped { mapped, .. } => *mapped.by_name.get(name)?,
        };
        Some(self.get(position))
    }

    /// What the model's family says of a tensor.
    pub fn facts<'n>(&self, name: &'n str) -> Option<Facts<'n>> {
        let own = self.names_of.as_ref().and_then(|(_, own)| *own);
        let families = [self.architecture, own];
        families.into_iter().flatten().find_map(|family| knowledge::facts(family, name))
    }

    /// The embedding that stands in for an output layer which the model does not store.
    pub fn tied_embedding(&self, name: &str) -> Option<Tensor<'_>> {
        if self.tied == Some(false) {
            return None;
        }
        if let Some(number) = self.stand_ins.iter().position(|(known, _)| known == name) {
            return Some(self.get((self.len() + number) as u32));
        }
        let embedding = ties::embeddings_of(name).find_map(|embedding| self.find(&embedding));
        embedding.or_else(|| self.original(name))
    }

    /// The tensor that a name means a copy of, in a family that ties the two.
    pub fn original(&self, name: &str) -> Option<Tensor<'_>> {
        if self.tied == Some(false) {
            return None;
        }
        ties::originals_of(name).find_map(|original| self.find(original))
    }

    /// Whether a stored tensor lies in its file as numbers of its own type, so that copying is all it takes.
    pub fn is_plain(&self, position: u32) -> bool {
        match &self.tensors {
            Tensors::Checkpoint { index, .. } => {
                let place = self.place(position);
                if let Some(added) = self.added(place) {
                    return !added.is_converted;
                }
                let adapted = self.adapted.get(&(place as u32));
                match adapted.filter(|adapted| adapted.replaced.is_some()) {
                    Some(adapted) => !adapted.is_computed,
                    None => index.tensors().get(place).is_none_or(|entry| entry.encoding.is_none()),
                }
            }
            Tensors::Recipe { .. } | Tensors::Mapped { .. } => true,
        }
    }

    /// Where the bytes of a tensor are, if it is stored as such.
    pub fn stored(&self, position: u32) -> Option<TensorRef> {
        if self.is_zero || self.rows.contains_key(&position) {
            return None;
        }
        if let Some(added) = self.added(self.place(position)) {
            return added.update.is_none().then_some(added.from);
        }
        match self.adapted.get(&(self.place(position) as u32)) {
            Some(adapted) if adapted.is_changed() => return None,
            Some(Adapted { replaced: Some((by, ..)), .. }) => return Some(*by),
            _ => {}
        }
        match &self.tensors {
            Tensors::Checkpoint { model, .. } => {
                Some(TensorRef { model: *model, tensor: position })
            }
            Tensors::Recipe { tensors, .. } => match &tensors[position as usize].how {
                How::Copy { from, .. } => Some(*from),
                How::Graph { .. } => None,
            },
            Tensors::Mapped { mapped, .. } => match mapped.tensors[position as usize].made {
                MadeOf::Stored(tensor) => Some(tensor),
                MadeOf::Zero | MadeOf::Sum(_) => None,
            },
        }
    }

    /// The tensors that a copy must be equal to besides the one it is taken from.
    pub fn equal_to(&self, position: u32) -> &[TensorRef] {
        match &self.tensors {
            Tensors::Recipe { tensors, .. } => match &tensors[self.place(position)].how {
                How::Copy { equal_to, .. } => equal_to,
                How::Graph { .. } => &[],
            },
            Tensors::Checkpoint { .. } | Tensors::Mapped { .. } => &[],
        }
    }

    /// The tensor's node in a graph, as written: a recipe's result is rounded to its own type first.
    /// Also whether it was computed in f64.
    pub fn node(&self, position: u32, graph: &mut Graph) -> (NodeId, bool) {
        if let Some((rows, _)) = self.rows.get(&position) {
            return (graph.leaf(Leaf::Rows(*rows)), false);
        }
        if let Some(stored) = self.stored(position) {
            return (graph.leaf(Leaf::Tensor(stored)), false);
        }
        if self.is_zero {
            return (graph.constant(0.0), false);
        }
        let updated = |graph: &mut Graph, base: TensorRef, product: Product| {
            let base = graph.leaf(Leaf::Tensor(base));
            let update = graph.leaf(Leaf::Product(product));
            graph.map(MapOp::Add, &[base, update])
        };
        if let Some(Added { from, update: Some(product), .. }) = self.added(self.place(position)) {
            return (updated(graph, *from, *product), false);
        }
        let tensors = match (&self.tensors, self.adapted.get(&(self.place(position) as u32))) {
            (Tensors::Recipe { tensors, .. }, _) => tensors,
            (Tensors::Checkpoint { model, .. }, Some(adapted)) if adapted.is_changed() => {
                let own = TensorRef { model: *model, tensor: self.place(position) as u32 };
                let base = adapted.replaced.as_ref().map_or(own, |(by, ..)| *by);
                let mut node = match adapted.update {
                    Some(product) => updated(graph, base, product),
                    None => graph.leaf(Leaf::Tensor(base)),
                };
                if let Some(delta) = adapted.delta {
                    let delta = graph.leaf(Leaf::Tensor(delta));
                    node = graph.map(MapOp::Add, &[node, delta]);
                }
                if let Some((magnitude, axis)) = adapted.magnitude
                    && let Some(shape) = as_matrix(self.get(position).shape)
                {
                    node = with_norms(graph, node, magnitude, axis, shape);
                }
                return (node, false);
            }
            (Tensors::Mapped { sums, .. }, _) => {
                let terms = sums.get(&(self.place(position) as u32)).map_or(&[][..], Vec::as_slice);
                return (sum(graph, terms), false);
            }
            (Tensors::Checkpoint { .. }, _) => unreachable!("a checkpoint's tensors are stored"),
        };
        let made = &tensors[position as usize];
        let How::Graph { graph: inner, output, double } = &made.how else {
            unreachable!("copies are stored")
        };
        let node = graph.import(inner, *output);
        let precise = if *double { DType::F64 } else { DType::F32 };
        if made.dtype == precise {
            return (node, *double);
        }
        (graph.add(crate::formulas::graph::Node::Round(made.dtype), &[node]), *double)
    }
}

/// A tensor as a matrix: its first dimension, and all others. None of vectors.
fn as_matrix(shape: &Shape) -> Option<(u64, u64)> {
    match shape.dimensions() {
        [rows, others @ ..] if !others.is_empty() => Some((*rows, others.iter().product())),
        _ => None,
    }
}

/// A matrix whose rows, or columns, are brought to these norms.
fn with_norms(
    graph: &mut Graph,
    node: NodeId,
    norms: TensorRef,
    axis: Axis,
    (rows, columns): (u64, u64),
) -> NodeId {
    let fact = MatrixOp::AxisFact(Fact::SumProduct, axis);
    let squares = graph.add(Node::Matrix(fact, MatrixLayout::plain(rows, columns)), &[node]);
    let (row_step, column_step) = if axis == Axis::Rows { (1, 0) } else { (0, 1) };
    let part = Rectangle { start: 0, row_step, column_step, rows, columns };
    let squares = graph.add(Node::Part(part), &[squares]);
    let own = graph.map(MapOp::Sqrt, &[squares]);
    let norms = graph.leaf(Leaf::Tensor(norms));
    let factor = graph.map(MapOp::Divide, &[norms, own]);
    graph.map(MapOp::Multiply, &[factor, node])
}

/// The node of a linear combination; 0 of nothing.
pub(crate) fn sum(graph: &mut Graph, terms: &[(Leaf, f64)]) -> NodeId {
    let mut sum = None;
    for (leaf, factor) in terms {
        let leaf = graph.leaf(*leaf);
        let factor = graph.constant(*factor);
        let term = graph.map(MapOp::Multiply, &[factor, leaf]);
        sum = Some(match sum {
            None => term,
            Some(before) => graph.map(MapOp::Add, &[before, term]),
        });
    }
    sum.unwrap_or_else(|| graph.constant(0.0))
}
