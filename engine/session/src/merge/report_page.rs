//! What matrix ops told, as one page for a browser.

use std::collections::HashMap;
use std::path::Path;

use mixdown_plan::{DescribedTensor, described};
use serde_json::{Value, json};

use crate::page;
use crate::planning::Planned;

/// The page. Layer and kind of each tensor are those that its family gives it in one of the models.
pub fn page(told: &Value, planned: &Planned, out: &Path) -> String {
    let mut known: HashMap<String, DescribedTensor> = HashMap::new();
    for input in planned.loaded.own_models() {
        let checkpoint = &input.model.checkpoint;
        let tensors = described(&checkpoint.index, checkpoint.config.as_ref()).tensors;
        for (entry, tensor) in checkpoint.index.tensors().iter().zip(tensors) {
            known.entry(entry.name.clone()).or_insert(tensor);
        }
    }
    let list = if told.is_array() { told } else { &told["matrices"] };
    let place = |one: &Value| {
        let mut one = one.clone();
        if let Some(of) = one["tensor"].as_str().and_then(|name| known.get(name)) {
            (one["module"], one["layer"]) = (json!(of.module), json!(of.layer));
            one["kind"] = json!(of.kind);
        }
        one
    };
    let matrices: Vec<Value> = list.as_array().into_iter().flatten().map(place).collect();
    let output =
        out.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let quantized = if told.is_array() { &Value::Null } else { &told["quantized"] };
    page::page(
        "report",
        &json!({"report": 1, "output": output, "matrices": matrices, "quantized": quantized}),
    )
}
