//! An adapter as output: its `adapter_config.json` and the names of its tensors, so that peft
//! loads it onto the base. The tensors themselves are written by others.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Map, Value, json};

use super::names::PREFIX;
use super::naming::Naming;
use crate::index::Index;

/// A product that an output adapter adds to a tensor of the base. The scale is in its factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputUpdate {
    /// Position in the base's [`Index::tensors`].
    pub base_tensor: u32,
    /// Rank of the two factors.
    pub rank: u64,
    /// Whether the tensor is an embedding, whose factors have names of their own: left
    /// [dim, rank], right [rank, vocabulary], and the transpose of their product is added.
    pub is_embedding: bool,
}

/// An adapter that is going to be written.
#[derive(Clone, Copy, Debug)]
pub struct OutputAdapter<'a> {
    base: &'a Index,
    /// How the names of its files become those in memory, where they differ.
    naming: Option<&'static Naming>,
    /// What the configuration calls the base.
    pub base_model: Option<&'a str>,
    /// For which of its classes peft wraps the model; the plain one where there is none.
    pub task_type: Option<&'a str>,
    /// Whether the base stores linear layers as [in, out].
    pub fan_in_fan_out: bool,
    updates: &'a [OutputUpdate],
    replacements: &'a [u32],
}

impl<'a> OutputAdapter<'a> {
    /// An adapter that adds these products to tensors of the base, and stores whole the tensors
    /// at the positions in `replacements`.
    pub fn new(base: &'a Index, updates: &'a [OutputUpdate], replacements: &'a [u32]) -> Self {
        let naming = Naming::of(base);
        let (base_model, task_type, fan_in_fan_out) = (None, None, false);
        Self { base, naming, base_model, task_type, fan_in_fan_out, updates, replacements }
    }

    /// The weight of the module that a bias belongs to; none of other tensors.
    pub fn weight_of_bias(base: &Index, base_tensor: u32) -> Option<u32> {
        let module = base.tensors()[base_tensor as usize].name.strip_suffix(".bias")?;
        base.position(&format!("{module}.weight")).map(|at| at as u32)
    }

    /// Whether a tensor is the bias of a module that gets an update, which is stored beside it.
    fn is_beside(&self, base_tensor: u32) -> bool {
        let weight = Self::weight_of_bias(self.base, base_tensor);
        weight.is_some_and(|at| self.updates.iter().any(|update| update.base_tensor == at))
    }

    /// The modules that are stored whole, by their names in the base, without those that lie in another.
    fn saved(&self) -> BTreeSet<&'a str> {
        let tensors = self.base.tensors();
        let wholes = self.replacements.iter().filter(|&&at| !self.is_beside(at));
        let modules: BTreeSet<&str> = wholes
            .filter_map(|&at| tensors[at as usize].name.rsplit_once('.').map(|(module, _)| module))
            .collect();
        let is_outermost = |module: &&str| {
            let mut around = module.match_indices('.').map(|(dot, _)| &module[..dot]);
            !around.any(|around| modules.contains(around))
        };
        modules.iter().copied().filter(is_outermost).collect()
    }

    /// Whether peft can add a product to this tensor of the base: a matrix that is a module's weight.
    pub fn can_update(base: &Index, base_tensor: u32) -> bool {
        let tensor = &base.tensors()[base_tensor as usize];
        tensor.name.ends_with(".weight") && tensor.shape.dimensions().len() == 2
    }

    /// The names of the left and the right factor of an update; none where
    /// [`OutputAdapter::can_update`] says no.
    pub fn factor_names(&self, update: &OutputUpdate) -> Option<(String, String)> {
        let module = self.module(update)?;
        let name = |part: &str| format!("{PREFIX}{module}.{part}");
        Some(match update.is_embedding {
            true => (name("lora_embedding_B"), name("lora_embedding_A")),
            false => (name("lora_B.weight"), name("lora_A.weight")),
        })
    }

    /// The name of a tensor that is stored whole.
    pub fn replacement_name(&self, base_tensor: u32) -> String {
        if self.is_beside(base_tensor)
            && let Some(module) =
                self.base.tensors()[base_tensor as usize].name.strip_suffix(".bias")
        {
            return format!("{PREFIX}{}.base_layer.bias", self.in_memory(module));
        }
        format!("{PREFIX}{}", self.in_memory(&self.base.tensors()[base_tensor as usize].name))
    }

    /// Tensors of the base that must be stored whole too, because they belong to a module of
    /// which another tensor is, or lie in it: peft stores and loads modules only.
    pub fn missing_replacements(&self) -> Vec<u32> {
        let tensors = self.base.tensors();
        let modules = self.saved();
        let is_in = |at: &u32| {
            let name = tensors[*at as usize].name.as_str();
            let mut around = name.match_indices('.').map(|(dot, _)| &name[..dot]);
            around.any(|module| modules.contains(module))
        };
        let there: BTreeSet<u32> = self.replacements.iter().copied().collect();
        (0..tensors.len() as u32).filter(|at| is_in(at) && !there.contains(at)).collect()
    }

    /// The text of `adapter_config.json`. α is r everywhere, so that each scale is 1.
    pub fn config_text(&self) -> String {
        let ranks: BTreeMap<String, u64> = self
            .updates
            .iter()
            .filter_map(|update| Some((self.module(update)?, update.rank)))
            .collect();
        let usual = usual_rank(ranks.values().copied());
        // To peft a key is also the end of a name, behind a dot.
        let ends: HashSet<&str> = ranks
            .keys()
            .flat_map(|module| module.match_indices('.').map(|(dot, _)| &module[dot + 1..]))
            .collect();
        let mut pattern = Map::new();
        for (module, rank) in ranks.iter().filter(|(_, rank)| **rank != usual) {
            let key = match ends.contains(module.as_str()) {
                true => format!("^{module}"),
                false => module.clone(),
            };
            pattern.insert(key, (*rank).into());
        }
        let saved: BTreeSet<String> =
            self.saved().into_iter().map(|module| self.module_in_memory(module)).collect();
        let has_biases = self.replacements.iter().any(|&at| self.is_beside(at));
        let saved = if saved.is_empty() { Value::Null } else { json!(saved) };
        let config = json!({
            "peft_type": "LORA",
            "task_type": self.task_type,
            "base_model_name_or_path": self.base_model,
            "inference_mode": true,
            "r": usual,
            "lora_alpha": usual,
            "lora_dropout": 0.0,
            "bias": if has_biases { "lora_only" } else { "none" },
            "fan_in_fan_out": self.fan_in_fan_out,
            "use_rslora": false,
            "use_dora": false,
            "init_lora_weights": true,
            "rank_pattern": pattern,
            "alpha_pattern": pattern,
            "target_modules": self.targets(&ranks),
            "modules_to_save": saved,
            "layers_to_transform": null,
            "layers_pattern": null,
        });
        let mut text = serde_json::to_string_pretty(&config).expect("a JSON value is text");
        text.push('\n');
        text
    }

    /// The ends of names that mean just the modules with an update; whole names where an end would mean others
    /// too, of which each level of a name is one.
    fn targets(&self, ranks: &BTreeMap<String, u64>) -> BTreeSet<String> {
        let end = |module: &str| module.rsplit('.').next().unwrap_or_default().to_owned();
        let mut others: BTreeSet<String> = BTreeSet::new();
        let mut seen: HashSet<String> = HashSet::new();
        for tensor in self.base.tensors() {
            let name = self.in_memory(&tensor.name);
            for (dot, _) in name.match_indices('.') {
                let module = &name[..dot];
                if !seen.contains(module) {
                    seen.insert(module.to_owned());
                    if !ranks.contains_key(module) {
                        others.insert(end(module));
                    }
                }
            }
        }
        ranks
            .keys()
            .map(|module| match others.contains(&end(module)) {
                true => module.clone(),
                false => end(module),
            })
            .collect()
    }

    fn module(&self, update: &OutputUpdate) -> Option<String> {
        if !Self::can_update(self.base, update.base_tensor) {
            return None;
        }
        let name = self.in_memory(&self.base.tensors()[update.base_tensor as usize].name);
        name.strip_suffix(".weight").map(str::to_owned)
    }

    /// The name in memory of a module, which some tensor of it tells.
    fn module_in_memory(&self, module: &str) -> String {
        let name = self.in_memory(&format!("{module}.weight"));
        name.strip_suffix(".weight").unwrap_or(module).to_owned()
    }

    fn in_memory(&self, name: &str) -> String {
        self.naming.map_or_else(|| name.to_owned(), |naming| naming.in_memory(name))
    }
}

/// The commonest rank, of equally common ones the largest; 1 where there is none.
fn usual_rank(ranks: impl Iterator<Item = u64>) -> u64 {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for rank in ranks {
        *counts.entry(rank).or_default() += 1;
    }
    counts.into_iter().max_by_key(|&(rank, count)| (count, rank)).map_or(1, |(rank, _)| rank)
}
