//! Experts that lie in stacks in one checkpoint and each by itself in another, or in stacks that are turned: the
//! one is seen in the layout of the other, as rectangles of stored tensors. `schemas/experts` has the layouts.
//!
//! Source: the weight converters of transformers 5, which stack gate above up ([experts, 2 · inner, hidden]) and
//! turn the stacks of some families ([experts, hidden, 2 · inner]).

mod sides;

use std::collections::{BTreeSet, HashMap, HashSet};

use mixdown_checkpoint::adapter::name_in;
use mixdown_checkpoint::experts::{Layout, Stack, before, layouts};
use mixdown_checkpoint::index::{Index, TensorEntry};
use mixdown_tensor::{DType, Shape};
use serde_json::Value;

use crate::models::map::{MadeOf, Mapped, MappedTensor, Piece};
use crate::plan::{Assembled, Patch, PatchSource, TensorRef};
use sides::Sides;

/// A checkpoint whose tensors are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored<'a> {
    pub index: &'a Index,
    /// Position among the checkpoints.
    pub model: u32,
    pub config: Option<&'a Value>,
}

/// A checkpoint in the layout of another one.
#[derive(Debug)]
pub(crate) struct Together {
    pub mapped: Mapped,
    /// For messages: a name of the other's, and what it is made of.
    pub example: [String; 2],
}

/// Sees a checkpoint with the names and shapes of another one, where its experts lie otherwise; nothing where they
/// do not, or where some of them have no counterpart.
pub(crate) fn together(own: Stored<'_>, other: Stored<'_>) -> Option<Together> {
    let is_square = |shape: &[u64]| matches!(shape, [_, rows, columns] if rows == columns);
    let differs = |tensor: &TensorEntry| {
        let shape = tensor.shape.dimensions();
        match own.index.get(&tensor.name) {
            None => true,
            Some(found) => shape.len() == 3 && (found.shape != tensor.shape || is_square(shape)),
        }
    };
    if !other.index.tensors().iter().any(differs) || is_packed(own.index) {
        return None;
    }
    layouts().iter().filter(|layout| !layout.interleaves(other.config)).find_map(|layout| {
        let sides = Sides::of(layout, own, other);
        let brought = Brought { layout, own, other: other.index, sides };
        brought.all()
    })
}

/// Names of square experts in stacks, of which nothing tells whether both checkpoints mean the same by rows: two
/// versions of transformers store the matrices of some families with their sides exchanged. Of a model that is
/// read as it is stored, those that are known to lie the other way are among them.
pub(crate) fn undecided(own: Stored<'_>, other: Stored<'_>, is_fixed: bool) -> BTreeSet<String> {
    sides::undecided(own, other, is_fixed || is_packed(own.index))
}

/// Values that are computed while they are read have no bytes that could be put together.
fn is_packed(index: &Index) -> bool {
    index.tensors().iter().any(|one| one.encoding.is_some())
}

struct Brought<'a> {
    layout: &'a Layout,
    own: Stored<'a>,
    other: &'a Index,
    sides: Sides<'a>,
}

/// Tensors that one of another layout is made of.
struct Made {
    patches: Vec<Patch>,
    /// Positions among the own tensors.
    of: Vec<usize>,
    dtype: DType,
}

impl Brought<'_> {
    fn all(&self) -> Option<Together> {
        let (mut tensors, mut example) = (Vec::new(), None);
        let mut used: HashSet<usize> = HashSet::new();
        for wanted in self.other.tensors() {
            let named = self.named(&wanted.name);
            let found = named.or_else(|| self.renamed(&wanted.name));
            if let (None, Some(at)) = (named, found) {
                let own = &self.own.index.tensors()[at];
                example.get_or_insert_with(|| [wanted.name.clone(), own.name.clone()]);
            }
            if let Some(at) = found.filter(|&at| !self.is_turned_stack(wanted, at)) {
                used.insert(at);
                tensors.push(self.stored(&wanted.name, at));
                continue;
            }
            let made = match found {
                Some(at) => self.turned(wanted, at),
                None => self.stacked(wanted).or_else(|| self.single(wanted)),
            };
            let Some(made) = made else { continue };
            let first = &self.own.index.tensors()[*made.of.first()?];
            example.get_or_insert_with(|| [wanted.name.clone(), first.name.clone()]);
            let (rows, columns) = sides(&wanted.shape);
            let shown = match made.of.len() {
                1 => first.name.clone(),
                count => format!("{} and {} more", first.name, count - 1),
            };
            used.extend(&made.of);
            let dtype = made.dtype;
            let assembled = Assembled { rows, columns, dtype, patches: made.patches };
            tensors.push(MappedTensor {
                name: wanted.name.clone(),
                shape: wanted.shape.clone(),
                dtype,
                made: MadeOf::Sum(vec![(1.0, Piece::Assembled(assembled))]),
                kept_from: None,
                shown,
            });
        }
        let example = example?;
        // What has no counterpart keeps its name, so that it is told and not lost.
        for at in (0..self.own.index.len()).filter(|at| !used.contains(at)) {
            let name = &self.own.index.tensors()[at].name;
            if self.other.position(name).is_none() {
                tensors.push(self.stored(name, at));
            }
        }
        let by_name: HashMap<String, u32> =
            (0..).zip(&tensors).map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Some(Together { mapped: Mapped { tensors, by_name }, example })
    }

    /// The own tensor that another model calls so: by this name, or by that of another version.
    fn named(&self, name: &str) -> Option<usize> {
        self.own.index.position(&name_in(self.own.index, name)?)
    }

    /// The own tensor of the name beside the other layout.
    fn renamed(&self, name: &str) -> Option<usize> {
        let both = self.layout.names.iter().flat_map(|[a, b]| [(a, b), (b, a)]);
        both.filter_map(|(end, instead)| Some(format!("{}{instead}", before(name, end)?)))
            .find_map(|name| self.named(&name))
    }

    fn stored(&self, name: &str, at: usize) -> MappedTensor {
        let entry = &self.own.index.tensors()[at];
        MappedTensor {
            name: name.to_owned(),
            shape: entry.shape.clone(),
            dtype: entry.dtype,
            made: MadeOf::Stored(self.reference(at)),
            kept_from: None,
            shown: entry.name.clone(),
        }
    }

    fn reference(&self, at: usize) -> TensorRef {
        TensorRef { model: self.own.model, tensor: at as u32 }
    }

    /// A stack of experts that are stored each by itself.
    fn stacked(&self, wanted: &TensorEntry) -> Option<Made> {
        let layout = self.layout;
        let (stack, layer) = layout.stack_of(&wanted.name)?;
        let &[experts, rows, columns] = wanted.shape.dimensions() else { return None };
        let is_turned = self.sides.are_turned(layer)?;
        let (mut patches, mut of, mut dtype) = (Vec::new(), Vec::new(), None);
        for expert in 0..experts {
            let mut at = 0;
            for part in &stack.parts {
                let position = self.named(&Stack::part_name(layer, part, expert))?;
                let entry = &self.own.index.tensors()[position];
                let &[outputs, inputs] = entry.shape.dimensions() else { return None };
                if *dtype.get_or_insert(entry.dtype) != entry.dtype {
                    return None;
                }
                let along = at..at + outputs;
                let start = expert * rows;
                let (own_rows, own_columns) = match is_turned {
                    false => (start + along.start..start + along.end, 0..inputs),
                    true => (start..start + inputs, along),
                };
                let (row_step, column_step) = if is_turned { (1, inputs) } else { (inputs, 1) };
                let tensor = self.reference(position);
                let from = PatchSource::Tensor { tensor, start: 0, row_step, column_step };
                patches.push(Patch { rows: own_rows, columns: own_columns, from });
                of.push(position);
                at += outputs;
                let fits = if is_turned { inputs == rows } else { inputs == columns };
                if !fits {
                    return None;
                }
            }
            if at != if is_turned { columns } else { rows } {
                return None;
            }
        }
        // Experts beyond the stack would be lost.
        let beyond = stack
            .parts
            .iter()
            .any(|part| self.named(&Stack::part_name(layer, part, experts)).is_some());
        (!beyond).then_some(())?;
        Some(Made { patches, of, dtype: dtype? })
    }

    /// One expert of a stack.
    fn single(&self, wanted: &TensorEntry) -> Option<Made> {
        let layout = self.layout;
        let &[outputs, inputs] = wanted.shape.dimensions() else { return None };
        let found = layout.stacks.iter().find_map(|stack| {
            stack.parts.iter().enumerate().find_map(|(number, part)| {
                let (layer, expert) = Stack::expert_of(part, &wanted.name)?;
                let position = self.named(&stack.name_in(layer))?;
                Some((stack, number, layer, expert, position))
            })
        });
        let (stack, number, layer, expert, position) = found?;
        let entry = &self.own.index.tensors()[position];
        let &[experts, rows, columns] = entry.shape.dimensions() else { return None };
        let is_turned = self.sides.are_turned(layer)?;
        let height = |part: &String| {
            let entry = self.other.get(&Stack::part_name(layer, part, expert))?;
            entry.shape.dimensions().first().copied()
        };
        let above: u64 = stack.parts[..number].iter().map(height).sum::<Option<u64>>()?;
        let all: u64 = stack.parts.iter().map(height).sum::<Option<u64>>()?;
        let fits = match is_turned {
            false => (all, inputs) == (rows, columns),
            true => (inputs, all) == (rows, columns),
        };
        // All experts of the stack are wanted, and no more.
        let last = Stack::part_name(layer, &stack.parts[number], experts.checked_sub(1)?);
        if !fits || expert >= experts || self.other.position(&last).is_none() {
            return None;
        }
        let start = expert * rows * columns + if is_turned { above } else { above * columns };
        let (row_step, column_step) = if is_turned { (1, columns) } else { (columns, 1) };
        let from =
            PatchSource::Tensor { tensor: self.reference(position), start, row_step, column_step };
        let patches = vec![Patch { rows: 0..outputs, columns: 0..inputs, from }];
        Some(Made { patches, of: vec![position], dtype: entry.dtype })
    }

    /// Whether a stack is stored in both, with the sides of its matrices the other way round.
    fn is_turned_stack(&self, wanted: &TensorEntry, at: usize) -> bool {
        let Some((_, layer)) = self.layout.stack_of(&wanted.name) else { return false };
        let own = self.own.index.tensors()[at].shape.dimensions();
        let &[experts, rows, columns] = wanted.shape.dimensions() else { return false };
        own == [experts, columns, rows] && self.sides.are_turned(layer) == Some(true)
    }

    /// The same stack with the sides of its matrices exchanged.
    fn turned(&self, wanted: &TensorEntry, at: usize) -> Option<Made> {
        let &[experts, rows, columns] = wanted.shape.dimensions() else { return None };
        let tensor = self.reference(at);
        let patch = |expert: u64| {
            let start = expert * rows * columns;
            let from = PatchSource::Tensor { tensor, start, row_step: 1, column_step: rows };
            Patch { rows: expert * rows..(expert + 1) * rows, columns: 0..columns, from }
        };
        let dtype = self.own.index.tensors()[at].dtype;
        Some(Made { patches: (0..experts).map(patch).collect(), of: vec![at], dtype })
    }
}

/// Rows and columns as rectangles count them.
fn sides(shape: &Shape) -> (u64, u64) {
    match shape.dimensions() {
        [] => (1, 1),
        [only] => (*only, 1),
        [outer @ .., last] => (outer.iter().product(), *last),
    }
}
