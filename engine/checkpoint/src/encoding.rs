//! Weights that lie in files as codes beside scales: which tensors belong together, and what is known
//! of the codec. A packed code is never a number, whatever element type stores it.

mod settings;
mod signs;

use std::collections::HashMap;

use mixdown_diagnostics::{Diagnostic, codes};
pub(crate) use settings::Settings;
use signs::Codec;

use crate::index::TensorEntry;
use crate::shown::{shown, some_of};

/// The tensors of a checkpoint as its files hold them, with what is said about them.
pub(crate) struct Stored<'a> {
    tensors: HashMap<&'a str, &'a TensorEntry>,
    settings: &'a Settings,
}

impl<'a> Stored<'a> {
    fn new(tensors: &'a [TensorEntry], settings: &'a Settings) -> Self {
        Self { tensors: tensors.iter().map(|t| (t.name.as_str(), t)).collect(), settings }
    }

    fn get(&self, name: &str) -> Option<&'a TensorEntry> {
        self.tensors.get(name).copied()
    }
}

/// Refuses tensors that are packed by a codec which is not decoded; `name` is the checkpoint's.
pub(crate) fn check(tensors: &[TensorEntry], settings: &Settings, name: &str) -> Vec<Diagnostic> {
    let stored = Stored::new(tensors, settings);
    let mut found: Vec<(Codec, Vec<&str>)> = Vec::new();
    for tensor in tensors {
        let Some(codec) = signs::codec_of(&stored, tensor) else { continue };
        match found.iter_mut().find(|(known, _)| *known == codec) {
            Some((_, names)) => names.push(&tensor.name),
            None => found.push((codec, vec![&tensor.name])),
        }
    }
    // Where some tensors name their codec, the others that hold codes are most likely of the same one.
    let is_named = |codec: &Codec| matches!(codec, Codec::Named(_));
    let named = found.iter().any(|(codec, _)| is_named(codec));
    found
        .iter()
        .filter(|(codec, _)| !named || is_named(codec))
        .map(|(codec, names)| refused(name, codec, names, settings))
        .collect()
}

fn refused(name: &str, codec: &Codec, names: &[&str], settings: &Settings) -> Diagnostic {
    let headline =
        format!("weights of `{}` are packed as {codec}, which is not decoded", shown(name));
    let fault = Diagnostic::error(codes::PACKED, headline)
        .in_file(name)
        .fact("tensors", some_of(names))
        .note("codes and scales are no weights: a merge of them would be noise");
    let fault = match settings.shown() {
        Some(says) => fault.fact("configuration", says),
        None => fault,
    };
    fault.help(
        "dequantize the model to bf16 with the library that wrote it, or use the model that it was made from",
    )
}
