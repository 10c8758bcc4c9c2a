//! Bases that store their output layer beside the embedding that it is tied to: older files, and those of torch. An
//! adapter on one sees it as one that stores the embedding alone, and what it does is done to both.

use std::collections::BTreeMap;

use serde_json::Value;

use super::effect::is_same;
use super::{Adapter, AddedFrom, Delta, Magnitude, Replacement, Update};
use crate::index::Index;
use crate::source::ReadError;
use crate::ties;

/// The second names that a base stores of its embedding, and the base without them.
#[derive(Debug)]
pub struct Doubled {
    /// The base without them.
    pub index: Index,
    /// The second name and the embedding, by their positions in the whole base.
    pairs: Vec<(u32, u32)>,
}

impl Doubled {
    /// Finds them, where an adapter's tensors have such names; none if the base's config unties them, or the two
    /// are not the same to the last bit.
    ///
    /// **Errors.** A file that cannot be read.
    pub fn of(
        adapter: &Index,
        base: &Index,
        config: Option<&Value>,
    ) -> Result<Option<Self>, ReadError> {
        if !ties::are_tied(config) {
            return Ok(None);
        }
        let is_named = |name: &str| {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let own = format!(".{}.", module.rsplit('.').next().unwrap_or_default());
            adapter.tensors().iter().any(|tensor| format!(".{}.", tensor.name).contains(&own))
        };
        let mut pairs = Vec::new();
        for (embedding, entry) in (0_u32..).zip(base.tensors()) {
            let copies = ties::copies_of(&entry.name).map(str::to_owned);
            for name in ties::head_of(&entry.name).into_iter().chain(copies) {
                let Some(head) = base.position(&name) else { continue };
                let is_touched = is_named(&name) || is_named(&entry.name);
                if is_touched && is_same(base, &base.tensors()[head], base, entry)? {
                    pairs.push((head as u32, embedding));
                }
            }
        }
        if pairs.is_empty() {
            return Ok(None);
        }
        let is_second = |at: u32| pairs.iter().any(|(second, _)| *second == at);
        let tensors = (0_u32..).zip(base.tensors()).filter(|(at, _)| !is_second(*at));
        let tensors = tensors.map(|(_, entry)| entry.clone()).collect();
        let index = Index::new(base.shards().to_vec(), tensors).expect("fewer names of one index");
        Ok(Some(Self { index, pairs }))
    }

    /// What an adapter does to the whole base, when this is what it does to the base without second names.
    pub fn whole(&self, mut adapter: Adapter, base: &Index) -> Adapter {
        let whole = |at: u32| {
            let name = &self.index.tensors()[at as usize].name;
            base.position(name).expect("the base has what a part of it has") as u32
        };
        adapter.updates.iter_mut().for_each(|one| one.base_tensor = whole(one.base_tensor));
        adapter.replacements.iter_mut().for_each(|one| one.base_tensor = whole(one.base_tensor));
        adapter.deltas.iter_mut().for_each(|one| one.base_tensor = whole(one.base_tensor));
        adapter.magnitudes.iter_mut().for_each(|one| one.base_tensor = whole(one.base_tensor));
        for addition in &mut adapter.additions {
            if let AddedFrom::Base(at) = &mut addition.from {
                *at = whole(*at);
            }
            if let Some(update) = &mut addition.update {
                update.base_tensor = whole(update.base_tensor);
            }
            addition.second_of = addition.second_of.map(whole);
        }
        let mut apart: BTreeMap<String, super::Addition> = BTreeMap::new();
        adapter.additions.retain(|addition| {
            let name = |at: u32| &base.tensors()[at as usize].name;
            let is_second = self.pairs.iter().any(|(second, _)| *name(*second) == addition.name);
            if is_second {
                apart.insert(addition.name.clone(), addition.clone());
            }
            !is_second
        });
        for &(second, embedding) in &self.pairs {
            let Some(addition) = apart.get(&base.tensors()[second as usize].name) else {
                both(&mut adapter, second, embedding);
                continue;
            };
            adapter.is_untied = true;
            if let AddedFrom::Adapter(adapter_tensor) = addition.from {
                adapter.replacements.push(Replacement { base_tensor: second, adapter_tensor });
            }
            let update = addition.update.map(|update| Update { base_tensor: second, ..update });
            adapter.updates.extend(update);
        }
        adapter.updates.sort_by_key(|update| update.base_tensor);
        adapter.replacements.sort_by_key(|whole| whole.base_tensor);
        adapter
    }
}

/// Does to a second name what is done to the embedding.
fn both(adapter: &mut Adapter, second: u32, embedding: u32) {
    fn again<T: Copy>(all: &mut Vec<T>, place: fn(&mut T) -> &mut u32, from: u32, to: u32) {
        let own: Vec<T> = all.iter().copied().filter(|one| *place(&mut { *one }) == from).collect();
        all.extend(own.into_iter().map(|mut one| {
            *place(&mut one) = to;
            one
        }));
    }
    again::<Update>(&mut adapter.updates, |one| &mut one.base_tensor, embedding, second);
    again::<Replacement>(&mut adapter.replacements, |one| &mut one.base_tensor, embedding, second);
    again::<Delta>(&mut adapter.deltas, |one| &mut one.base_tensor, embedding, second);
    again::<Magnitude>(&mut adapter.magnitudes, |one| &mut one.base_tensor, embedding, second);
}
