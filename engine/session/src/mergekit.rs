//! What mergekit refuses and a merge by names and shapes does not need to.

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

use crate::Trouble;
use crate::planning::Planned;

/// Refuses models whose configurations name different architectures, as mergekit does without
/// `--allow-crimes`. A model without a configuration is taken for any.
///
/// **Errors.** The architectures with the models that name them.
pub fn check_architectures(planned: &Planned) -> Result<(), Trouble> {
    let mut found: Vec<(String, Vec<&str>)> = Vec::new();
    for input in &planned.loaded.models {
        let config = input.model.checkpoint.config.as_ref();
        let Some(names) = config.and_then(|config| config.get("architectures")?.as_array()) else {
            continue;
        };
        let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
        let own = names.join(", ");
        match found.iter_mut().find(|(known, _)| *known == own) {
            Some((_, models)) => models.push(&input.name),
            None => found.push((own, vec![&input.name])),
        }
    }
    if found.len() < 2 {
        return Ok(());
    }
    let headline = "models of different architectures are merged";
    let mut error = Diagnostic::error(codes::ARCHITECTURES_DIFFER, headline);
    for (architecture, models) in &found {
        error = error.fact(architecture, models.join(", "));
    }
    Err(error.help("merge models of one family, or add `--allow-crimes`: tensors of equal names and shapes are merged then").into())
}
