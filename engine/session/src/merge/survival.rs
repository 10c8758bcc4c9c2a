//! What of each task vector is in the merged weights: measured of the output as it is stored, in one pass over it,
//! the base and the experts.

use std::path::Path;

use mixdown_checkpoint::open;
use mixdown_plan::ModelSource;
use serde_json::{Map, Value, json};

use crate::models::Model;
use crate::recipes::{Input, Loaded};
use crate::survey::merged::{self, Survived};
use crate::{Machine, Session, Trouble};

/// Measures how much of each expert's task vector is in the output. Nothing of an output that does not have the
/// base's tensors, such as an adapter, and of a recipe without a base.
///
/// **Errors.** What reading fails of.
pub fn measure(
    loaded: &mut Loaded,
    out: &Path,
    machine: &Machine,
    session: &Session<'_>,
) -> Result<Vec<Survived>, Trouble> {
    let recipe = &loaded.recipes[0];
    let Some(base) = recipe.base.as_ref().map(|base| base.value.0 as usize) else {
        return Ok(Vec::new());
    };
    let sources = &loaded.sources[0];
    let Some(of_base) = sources.get(base).and_then(plain) else { return Ok(Vec::new()) };
    let experts = recipe.models.iter().zip(sources).enumerate();
    let experts = experts.filter(|(at, (model, _))| *at != base && model.attached_as.is_none());
    let experts: Vec<(String, ModelSource)> = experts
        .filter_map(|(_, (model, source))| Some((model.name.clone(), plain(source)?)))
        .collect();
    let Ok(checkpoint) = open::open(out, None) else { return Ok(Vec::new()) };
    loaded.models.push(Input::of_output(Model::of_files(checkpoint, None)));
    let found = merged::survived(loaded, of_base, &experts, machine, session);
    loaded.models.pop();
    found
}

/// A source whose tensors are those of files, or of an adapter on them.
fn plain(source: &ModelSource) -> Option<ModelSource> {
    match source {
        ModelSource::Checkpoint(_) | ModelSource::Adapted(_) => Some(*source),
        ModelSource::Mapped(_)
        | ModelSource::Recipe(_)
        | ModelSource::Zero(_)
        | ModelSource::Failed => None,
    }
}

/// The report with what survives: in the entry of each matrix, and in one without an op for each other tensor
/// that is not the base's.
pub fn with(mut told: Value, survived: &[Survived]) -> Value {
    let list = if told.is_array() { &mut told } else { &mut told["matrices"] };
    let Some(list) = list.as_array_mut() else { return told };
    for one in survived {
        let shares = one.experts.iter().map(|(name, share)| (name.clone(), json!(share)));
        let shares: Map<String, Value> = shares.collect();
        let mut is_there = false;
        for entry in list.iter_mut().filter(|entry| entry["tensor"] == one.tensor.as_str()) {
            entry["survives"] = Value::Object(shares.clone());
            is_there = true;
        }
        if !is_there && one.norm > 0.0 {
            let tensor = &one.tensor;
            list.push(json!({"tensor": tensor, "op": null, "norm": one.norm, "survives": shares}));
        }
    }
    told
}
