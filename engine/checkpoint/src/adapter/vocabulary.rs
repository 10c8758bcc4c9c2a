//! Rows that were added to a vocabulary, or cut, in training.

use std::collections::BTreeSet;

use mixdown_diagnostics::codes;

use super::AddedFrom;
use super::resolve::{Changes, Resolver};
use crate::shown::shown;
use crate::ties;

impl Resolver<'_> {
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
