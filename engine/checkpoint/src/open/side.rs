//! Small JSON files beside the weights.

use std::path::Path;

use mixdown_diagnostics::Diagnostic;
use serde_json::Value;

use crate::small;

/// The checkpoint's `config.json`, if there is one.
pub(super) fn config(root: &Path, shown_root: &str) -> Result<Option<Value>, Box<Diagnostic>> {
    map(root, shown_root, "config.json")
}

/// What ModelOpt, GPTQ or AWQ tell of what they quantized in a file of its own, if there is one.
pub(super) fn quantization(
    root: &Path,
    shown_root: &str,
) -> Result<Option<Value>, Box<Diagnostic>> {
    for file in ["hf_quant_config.json", "quantize_config.json", "quant_config.json"] {
        if let Some(found) = map(root, shown_root, file)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn map(root: &Path, shown_root: &str, file: &str) -> Result<Option<Value>, Box<Diagnostic>> {
    small::map_if_there(&root.join(file), &format!("{shown_root}/{file}"))
}
