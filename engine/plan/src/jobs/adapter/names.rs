//! What the tensors of an adapter are called: as peft names them, or as ModelCompose does.

use mixdown_checkpoint::adapter::{OutputAdapter, OutputUpdate};
use mixdown_checkpoint::index::Index;

/// Whose form an adapter is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// peft's: each update has a rank of its own, and a module is stored whole or not at all.
    Peft,
    /// ModelCompose's: one rank for all updates, and what is not the base's stands beside them.
    ModelCompose,
}

/// Names of an adapter's tensors.
pub(crate) struct Names<'a> {
    form: Form,
    base: &'a Index,
    peft: OutputAdapter<'a>,
}

impl<'a> Names<'a> {
    pub fn new(
        form: Form,
        base: &'a Index,
        updates: &'a [OutputUpdate],
        replacements: &'a [u32],
    ) -> Self {
        Self { form, base, peft: OutputAdapter::new(base, updates, replacements) }
    }

    /// The left and the right factor of an update; none where a tensor takes none.
    pub fn factors(&self, update: &OutputUpdate) -> Option<(String, String)> {
        match self.form {
            Form::Peft => self.peft.factor_names(update),
            Form::ModelCompose => {
                let name = &self.base.tensors()[update.base_tensor as usize].name;
                let module = name.strip_suffix(".weight")?;
                let name = |side: &str| format!("{module}.lora_{side}.default.weight");
                Some((name("B"), name("A")))
            }
        }
    }

    /// A tensor that is stored whole.
    pub fn replacement(&self, position: u32) -> String {
        match self.form {
            Form::Peft => self.peft.replacement_name(position),
            Form::ModelCompose => self.base.tensors()[position as usize].name.clone(),
        }
    }
}
