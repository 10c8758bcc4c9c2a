//! Adapters on a base whose output layer is its embedding, or that has one tensor under several names.
//!
//! What was trained of the output layer alone is stored as a tensor of its own: so is a module that peft trains
//! whole, a copy that `merge_and_unload` unties (seen in 0.21), and so is a low-rank update of the output layer, which
//! peft trains apart and then merges into the tensor that the embedding has, too. All else goes into the one tensor,
//! as peft merges it.

use std::collections::{BTreeMap, BTreeSet};

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

use super::computed::{ByRows, Effect, Made, Part, add_product};
use super::names::aliases;
use super::resolve::{Changes, Resolver, Whole};
use super::{AdapterConfig, AddedFrom, Addition, Replacement, Update};
use crate::encoding::{Held, Reader};
use crate::shown::{shown, some_of};
use crate::source::ReadError;
use crate::ties;

/// What a name means that the base ties to another and does not store.
pub(super) enum Tied {
    /// A tensor of this name, which becomes one of its own beside the embedding at this position.
    Apart(String, u32),
    /// The tensor at this position, of which it is another name.
    Same(String, u32),
}

/// The update of a module, before those of one tensor are brought together.
pub(super) struct Own<'a> {
    pub module: &'a str,
    pub update: Update,
    /// Whether the module's name is another one of the tensor's.
    pub is_second: bool,
}

impl Resolver<'_> {
    /// Whether the output layer becomes a tensor of its own: where one of the two was trained whole, or a product
    /// was trained of the output layer, and peft did not add the same to the embedding.
    pub(super) fn are_apart<'n>(
        &self,
        wholes: &BTreeMap<String, Whole>,
        mut updated: impl Iterator<Item = &'n str>,
    ) -> bool {
        let is_set = |setting: &str| {
            self.config.settings.get(setting).and_then(Value::as_bool) == Some(true)
        };
        let is_product = !ensures_tie(self.config) && !is_set("use_dora");
        let is_head = |module: &str| {
            let name = format!("{module}.weight");
            self.find_one(&name).is_none() && self.tied_head(&name).is_some()
        };
        if is_product && updated.any(is_head) {
            return true;
        }
        wholes.iter().any(|(name, whole)| {
            let is_end = || match self.find_one(name) {
                Some(at) => self.lacking_head(at).is_some(),
                None => self.tied_head(name).is_some(),
            };
            !whole.is_wrapped && is_saved(self.config, name) && is_end()
        })
    }

    /// The output layer that the base has in this embedding.
    fn lacking_head(&self, embedding: u32) -> Option<String> {
        let own = self.base.tensors()[embedding as usize].name.as_str();
        let copied = ties::copies_of(own).filter(|name| ties::is_copied_head(name));
        let heads = ties::head_of(own).into_iter().chain(copied.map(str::to_owned));
        heads.into_iter().find(|head| self.base.position(head).is_none())
    }

    /// What a name means that is not in the base, where the base ties it to what it has.
    pub(super) fn tied(&self, name: &str) -> Option<Tied> {
        if let Some((head, embedding)) = self.tied_head(name) {
            return Some(match self.is_tied && !self.is_apart {
                true => Tied::Same(head, embedding),
                false => Tied::Apart(head, embedding),
            });
        }
        let (copy, original) = self.copied(name).filter(|_| self.is_tied)?;
        Some(Tied::Same(copy, original))
    }

    /// The name under which the output layer of a base without one is stored, and the embedding that stands
    /// in for it; none if the name is no output layer's, or the base has none such.
    pub(super) fn tied_head(&self, name: &str) -> Option<(String, u32)> {
        let found = aliases(name).iter().find_map(|head| {
            let mut embeddings = ties::embeddings_of(head);
            let (own, position) = embeddings.find_map(|name| {
                let position = self.base.position(&name)? as u32;
                Some((name, position))
            })?;
            Some((ties::head_of(&own)?, position))
        });
        found.or_else(|| self.copied(name).filter(|(head, _)| ties::is_copied_head(head)))
    }

    /// A second name of a tensor in families that tie the two, and the tensor.
    fn copied(&self, name: &str) -> Option<(String, u32)> {
        aliases(name).into_iter().find_map(|copy| {
            let position = ties::originals_of(&copy).find_map(|name| self.base.position(name))?;
            Some((copy, position as u32))
        })
    }

    /// Brings the updates of one tensor together: one stays a product, and what its other names add is computed.
    pub(super) fn joined(&mut self, updates: Vec<Own<'_>>, changes: &mut Changes) {
        let mut by_tensor: BTreeMap<u32, Vec<Own<'_>>> = BTreeMap::new();
        for own in updates {
            by_tensor.entry(own.update.base_tensor).or_default().push(own);
        }
        for (base_tensor, mut all) in by_tensor {
            all.sort_by_key(|own| own.is_second);
            // The same factors under each name: what peft does not tie again when it loads them, it leaves out.
            let are_same = ensures_tie(self.config) && !is_tied_again(&self.config.target_modules);
            if are_same && all.len() > 1 {
                let names = all.iter().map(|own| format!("{}.weight", own.module));
                self.seen.entry(base_tensor).or_default().extend(names);
                changes.updates.push(all[0].update);
                continue;
            }
            if let [first, second, ..] = all.as_slice()
                && !second.is_second
            {
                self.collision(base_tensor, first.module, second.module);
                continue;
            }
            let names = all.iter().map(|own| format!("{}.weight", own.module));
            self.seen.entry(base_tensor).or_default().extend(names);
            let mut updates = all.into_iter().map(|own| own.update);
            changes.updates.extend(updates.next());
            let others: Vec<Update> = updates.collect();
            if !others.is_empty() {
                let made = self.sum(base_tensor, &others);
                changes.effects.push((base_tensor, Effect::Delta(made)));
            }
        }
    }

    /// The sum of several updates of one tensor.
    fn sum(&self, base_tensor: u32, updates: &[Update]) -> Made {
        let shape = self.base.tensors()[base_tensor as usize].shape.dimensions();
        let pair = |one: &Update| [Part::Adapter(one.left), Part::Adapter(one.right)];
        let parts = updates.iter().flat_map(pair).collect();
        let columns = shape[1..].iter().product();
        let terms = updates.iter().map(|one| Term {
            rank: one.rank,
            scale: one.scale as f32,
            is_turned: one.transposed,
        });
        let terms = terms.collect();
        Made::new(
            "updates of its other names",
            shape,
            parts,
            Sum { terms, columns, rows: shape[0] },
        )
    }

    /// Stores an output layer of its own where one of the two was trained whole: peft trains a copy of it, and
    /// the other stays the base's.
    pub(super) fn untie(&mut self, changes: &mut Changes) {
        if !self.is_tied {
            return;
        }
        let name = |at: u32| self.base.tensors()[at as usize].name.as_str();
        for replacement in changes.replacements.iter().filter(|_| self.is_apart) {
            let Some(head) = self.lacking_head(replacement.base_tensor) else { continue };
            if changes.additions.iter().all(|addition| addition.name != head) {
                let from = AddedFrom::Base(replacement.base_tensor);
                let second_of = Some(replacement.base_tensor);
                changes.additions.push(Addition { name: head, from, update: None, second_of });
            }
        }
        let of_updates = |one: &&Replacement| !self.wrapped.contains(&one.adapter_tensor);
        for replacement in changes.replacements.iter().filter(of_updates) {
            let own = name(replacement.base_tensor);
            let mut copies = ties::copies_of(own).filter(|copy| {
                let is_added = changes.additions.iter().any(|addition| addition.name == *copy);
                !is_added && !ties::is_copied_head(copy) && self.base.position(copy).is_none()
            });
            let Some(copy) = copies.next() else { continue };
            let headline =
                format!("the adapter replaces `{}`, which is `{}` too", shown(own), shown(copy));
            self.warnings.push(
                Diagnostic::warning(codes::UPDATE_OF_TIED, headline)
                    .in_file(self.shown())
                    .note("in training the others stayed the base's; programs that tie them give all of them what was trained")
                    .help("store all of them in the base, and untie them in its config.json, to keep them apart"),
            );
        }
        self.tell_of_ties(changes);
    }

    /// Tells of updates that names of one tensor did not share in training and share from now on.
    fn tell_of_ties(&mut self, changes: &Changes) {
        for (base_tensor, seen) in std::mem::take(&mut self.seen) {
            let own = self.base.tensors()[base_tensor as usize].name.as_str();
            let is_apart = |name: &str| {
                let is_added = changes.additions.iter().any(|addition| addition.name == *name);
                is_added || self.base.position(name).is_some()
            };
            let names = ties::copies_of(own).map(str::to_owned).chain(ties::head_of(own));
            let others: BTreeSet<String> = names.filter(|name| !is_apart(name)).collect();
            if others.is_empty() {
                continue;
            }
            let canonical = |name: &String| match self.tied(name) {
                Some(Tied::Same(copy, _)) => copy,
                _ => own.to_owned(),
            };
            let seen: BTreeSet<String> = seen.iter().map(canonical).collect();
            if ensures_tie(self.config)
                && changes.effects.iter().all(|(known, _)| *known != base_tensor)
            {
                // Each name had the one update in training, as it has now, but for those that had none.
                continue;
            }
            let unseen = others.iter().map(String::as_str).chain([own]);
            let unseen: Vec<&str> = unseen.filter(|name| !seen.contains(*name)).collect();
            let updated: Vec<&str> = seen.iter().map(String::as_str).collect();
            let (headline, note) = match unseen.is_empty() {
                false => (
                    format!(
                        "the adapter updates {}, which is {} too",
                        some_of(&updated),
                        some_of(&unseen)
                    ),
                    "in training only the first saw the update; merged, the one tensor has it and the tie stays, as peft's merge_and_unload leaves it",
                ),
                true => (
                    format!("the adapter updates one tensor under {} names", updated.len()),
                    "in training each name saw its own update; merged, the one tensor has the sum of all and the tie stays, as peft's merge_and_unload leaves it",
                ),
            };
            let apart =
                others.iter().find(|name| ties::is_head(name) || ties::is_copied_head(name));
            let mut warning = Diagnostic::warning(codes::UPDATE_OF_TIED, headline)
                .in_file(self.shown())
                .fact(
                    "names",
                    some_of(&others.iter().map(String::as_str).chain([own]).collect::<Vec<_>>()),
                )
                .note(note);
            if let Some(head) = apart {
                warning = warning.help(format!(
                    "to keep them apart, store `{}` in the base too, and untie them in its config.json (`tie_word_embeddings: false`)",
                    shown(head)
                ));
            }
            self.warnings.push(warning);
        }
    }
}

/// Whether a tensor belongs to a module that was trained whole.
pub(super) fn is_saved(config: &AdapterConfig, name: &str) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    config.modules_to_save.iter().any(|module| {
        let module: Vec<&str> = module.split('.').collect();
        parts.windows(module.len()).any(|own| own == module)
    })
}

/// Whether peft trained all names of an embedding as one.
pub(super) fn ensures_tie(config: &AdapterConfig) -> bool {
    config.settings.get("ensure_weight_tying").and_then(Value::as_bool) == Some(true)
}

/// Whether peft does so again when it loads the adapter: where a module of one of these names is listed.
fn is_tied_again(modules: &[String]) -> bool {
    const NAMES: [&str; 2] = ["embed_tokens", "lm_head"];
    modules.iter().any(|module| module.rsplit('.').next().is_some_and(|own| NAMES.contains(&own)))
}

/// Whether a tensor that is stored under another name of an embedding, with the same numbers, is a tensor of its
/// own all the same, as in what peft makes of it.
pub(super) fn is_own(config: &AdapterConfig, name: &str) -> bool {
    if !ties::is_head(name) && !ties::is_copied_head(name) {
        return false;
    }
    match ensures_tie(config) {
        true => !is_tied_again(&config.modules_to_save),
        false => is_saved(config, name),
    }
}

/// Products of stored factors, added up.
///
/// **Shapes.** Parts come in pairs: `lora_B` [rows, rank] and `lora_A` [rank, columns], or where a term is turned,
/// as an embedding's, [columns, rank] and [rank, rows].
#[derive(Debug)]
struct Sum {
    terms: Vec<Term>,
    columns: u64,
    rows: u64,
}

#[derive(Debug)]
struct Term {
    rank: u64,
    scale: f32,
    is_turned: bool,
}

impl ByRows for Sum {
    fn held_bytes(&self) -> u64 {
        let of = |term: &Term| {
            let turned = if term.is_turned { self.rows } else { 0 };
            term.rank * (self.columns + turned) * 4
        };
        self.terms.iter().map(of).sum()
    }

    /// For each term, the matrix whose rows are added up, and for a turned one the weights of these, too.
    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        let mut numbers = Vec::with_capacity(2 * self.terms.len());
        for (term, at) in self.terms.iter().zip((0..).step_by(2)) {
            if !term.is_turned {
                numbers.extend([parts.all(at + 1)?, Vec::new()]);
                continue;
            }
            let (left, rank) = (parts.all(at)?, term.rank as usize);
            let mut directions = vec![0.0; left.len()];
            for (column, own) in left.chunks(rank).enumerate() {
                for (k, value) in own.iter().enumerate() {
                    directions[k * self.columns as usize + column] = *value;
                }
            }
            numbers.extend([directions, parts.all(at + 1)?]);
        }
        Ok(Held { numbers, counts: Vec::new() })
    }

    fn columns(&self) -> u64 {
        self.columns
    }

    fn row(
        &self,
        held: &Held,
        parts: &Reader<'_>,
        [row, column]: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        own.fill(0.0);
        for (number, term) in self.terms.iter().enumerate() {
            let rank = term.rank as usize;
            let mut weights = vec![0.0; rank];
            match term.is_turned {
                false => parts.floats(2 * number, row * term.rank, &mut weights)?,
                true => {
                    let rows = &held.numbers[2 * number + 1];
                    for (k, weight) in weights.iter_mut().enumerate() {
                        *weight = rows[k * self.rows as usize + row as usize];
                    }
                }
            }
            weights.iter_mut().for_each(|weight| *weight *= term.scale);
            let (columns, from) = (self.columns as usize, column as usize);
            add_product(own, &weights, &held.numbers[2 * number], columns, from);
        }
        Ok(())
    }
}
