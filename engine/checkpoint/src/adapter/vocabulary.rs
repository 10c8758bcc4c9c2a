//! What an adapter does to the two ends of a vocabulary: an output layer that was the embedding, and rows
//! that were added or cut in training.

use std::collections::BTreeSet;

use mixdown_diagnostics::{Diagnostic, codes};

use super::resolve::{Changes, Resolver};
use super::{AddedFrom, Addition};
use crate::shown::shown;
use crate::ties;

impl Resolver<'_> {
    /// Stores an output layer of its own where the embedding of a tied base was trained: peft trains a copy of
    /// the embedding, and the output layer stays the base's.
    pub(super) fn untie(&mut self, changes: &mut Changes) {
        if !self.is_tied {
            return;
        }
        let name = |at: u32| self.base.tensors()[at as usize].name.as_str();
        let lacks = |head: &String| self.base.position(head).is_none();
        for replacement in &changes.replacements {
            let head = ties::head_of(name(replacement.base_tensor)).filter(lacks);
            let Some(head) = head else { continue };
            if changes.additions.iter().all(|addition| addition.name != head) {
                let from = AddedFrom::Base(replacement.base_tensor);
                changes.additions.push(Addition { name: head, from, update: None });
            }
        }
        for replacement in &changes.replacements {
            let own = name(replacement.base_tensor);
            let mut copies = ties::copies_of(own).filter(|copy| self.base.position(copy).is_none());
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
        for update in &changes.updates {
            let head = ties::head_of(name(update.base_tensor)).filter(lacks);
            let Some(head) = head else { continue };
            if changes.additions.iter().any(|addition| addition.name == head) {
                continue;
            }
            let embedding = shown(name(update.base_tensor));
            let headline =
                format!("the adapter updates `{embedding}`, which is the output layer too");
            self.warnings.push(
                Diagnostic::warning(codes::UPDATE_OF_TIED, headline)
                    .in_file(self.shown())
                    .note(
                        "in training the output layer did not see the update; here it does, as where peft merges",
                    )
                    .help(format!(
                        "store the output layer in the base under `{}`, and untie it in its config.json, to keep it",
                        shown(&head)
                    )),
            );
        }
    }

    /// A vocabulary that was resized must be so in the embedding and in the output layer.
    pub(super) fn check_rows(&mut self, changes: &Changes) {
        let of_base = |at: u32| &self.base.tensors()[at as usize];
        let of_adapter = |at: u32| &self.adapter.tensors()[at as usize];
        let is_one = |name: &str| ties::is_head(name) || ties::head_of(name).is_some();
        let rows = |dimensions: &[u64]| dimensions.first().copied().unwrap_or(0);
        let mut found: Vec<(String, u64)> = Vec::new();
        let mut is_resized = false;
        for (at, tensor) in (0_u32..).zip(self.base.tensors()).filter(|(_, one)| is_one(&one.name))
        {
            let whole = changes.replacements.iter().find(|whole| whole.base_tensor == at);
            let own = rows(tensor.shape.dimensions());
            let new = whole.map(|whole| rows(of_adapter(whole.adapter_tensor).shape.dimensions()));
            is_resized |= new.is_some_and(|new| new != own);
            found.push((tensor.name.clone(), new.unwrap_or(own)));
        }
        for addition in changes.additions.iter().filter(|addition| is_one(&addition.name)) {
            let shape = match addition.from {
                AddedFrom::Adapter(at) => &of_adapter(at).shape,
                AddedFrom::Base(at) => &of_base(at).shape,
            };
            found.push((addition.name.clone(), rows(shape.dimensions())));
        }
        let counts: BTreeSet<u64> = found.iter().map(|(_, rows)| *rows).collect();
        if !is_resized || counts.len() < 2 {
            return;
        }
        let headline =
            "the vocabulary was resized in training, and the adapter holds only a part of it";
        let mut fault = self.fault(codes::ADAPTER_SHAPE, headline.to_owned());
        for (name, rows) in &found {
            fault = fault.fact(shown(name).into_owned(), format!("{rows} rows"));
        }
        self.faults.push(fault.help(
            "save the adapter with `embed_tokens` and `lm_head` in `modules_to_save`, or name the base resized alike",
        ));
    }
}
