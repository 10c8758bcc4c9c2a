//! Adapters added to their base.

use std::path::PathBuf;

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::{Map, Value, json};

use crate::merge::{self, MergeRequest, Merged};
use crate::models::Reference;
use crate::planning::RecipeInput;
use crate::{Machine, Session, Trouble};

/// Which adapters to add to which model, where to, and how.
#[derive(Clone, Debug)]
pub struct FuseRequest {
    /// The model: a folder, a file, or an id at the hub.
    pub base: String,
    /// The adapters, folders or ids at the hub.
    pub adapters: Vec<String>,
    /// A factor for each adapter, or one for all; 1 if there is none.
    pub scales: Vec<f64>,
    /// Type of the output, as recipes name it; the base's if none.
    pub dtype: Option<String>,
    /// The folder to make.
    pub out: PathBuf,
    /// What may be used of the machine.
    pub machine: Machine,
    /// Largest file of weights in bytes, 0 for one file.
    pub shard_bytes: Option<u64>,
    /// Replace the output folder if there is one.
    pub force: bool,
    /// Whether files of models may be links out of the model's folder.
    pub follow_links: bool,
}

/// Adds adapters to their base: W + Σ sᵢ·Bᵢ·Aᵢ, rounded once. What an adapter stores whole counts as the
/// difference from the base's.
///
/// **Errors.** Scales that are not numbers or not as many as adapters, and all that a merge fails of.
pub fn fuse(request: &FuseRequest, session: &Session<'_>) -> Result<Merged, Trouble> {
    let recipe =
        RecipeInput { follow_links: request.follow_links, ..RecipeInput::made_up(text(request)?) };
    let mut merge = MergeRequest::new(recipe, &request.out);
    merge.machine = request.machine;
    (merge.shard_bytes, merge.force) = (request.shard_bytes, request.force);
    merge::merge(&merge, session)
}

/// The recipe that fuses. A text of JSON is one of YAML, whatever stands in it.
fn text(request: &FuseRequest) -> Result<String, Trouble> {
    let scales = scales(request)?;
    let base = Reference::parse(&request.base);
    let mut models = Map::new();
    models.insert("base".to_owned(), model(&base));
    for (number, (adapter, scale)) in (1..).zip(request.adapters.iter().zip(scales)) {
        let adapter = Reference::parse(adapter);
        let mut found = model(&base);
        found["adapter"] = model(&adapter);
        found["parameters"] = json!({"weight": scale});
        models.insert(format!("adapter_{number}"), found);
    }
    let mut recipe = json!({
        "mixdown": 1,
        "models": models,
        "base": "base",
        "method": "task_arithmetic",
    });
    if let Some(dtype) = &request.dtype {
        recipe["dtype"] = dtype.as_str().into();
    }
    Ok(format!("{recipe:#}\n"))
}

fn model(reference: &Reference) -> Value {
    let mut model = json!({"path": reference.path});
    if let Some(revision) = &reference.revision {
        model["revision"] = revision.as_str().into();
    }
    model
}

/// A scale for each adapter.
fn scales(request: &FuseRequest) -> Result<Vec<f64>, Trouble> {
    let usage = |diagnostic: Diagnostic| Trouble::Usage(vec![diagnostic]);
    let count = request.adapters.len();
    if count == 0 {
        let error = Diagnostic::error(codes::FUSE_ARGUMENTS, "no adapter is named");
        return Err(usage(error.help("name at least one folder or hub id behind the base")));
    }
    if let Some(odd) = request.scales.iter().find(|scale| !scale.is_finite()) {
        let headline = format!("a scale must be a number, found {odd}");
        return Err(usage(Diagnostic::error(codes::FUSE_ARGUMENTS, headline)));
    }
    match request.scales.as_slice() {
        [] => Ok(vec![1.0; count]),
        [one] => Ok(vec![*one; count]),
        all if all.len() == count => Ok(all.to_vec()),
        all => {
            let headline = "there are not as many scales as adapters";
            let error = Diagnostic::error(codes::FUSE_ARGUMENTS, headline)
                .fact("adapters", count.to_string())
                .fact("scales", all.len().to_string());
            Err(usage(
                error.help("give one `--scale` for each adapter, in their order, or one for all"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(adapters: &[&str], scales: &[f64]) -> FuseRequest {
        FuseRequest {
            base: "org/base@v1".to_owned(),
            adapters: adapters.iter().map(|&name| name.to_owned()).collect(),
            scales: scales.to_vec(),
            dtype: None,
            out: PathBuf::from("out"),
            machine: Machine::default(),
            shard_bytes: None,
            force: false,
            follow_links: false,
        }
    }

    #[test]
    fn one_scale_is_for_all_and_other_counts_must_agree() {
        assert_eq!(scales(&request(&["a", "b"], &[])).unwrap(), [1.0, 1.0]);
        assert_eq!(scales(&request(&["a", "b"], &[0.5])).unwrap(), [0.5, 0.5]);
        assert_eq!(scales(&request(&["a", "b"], &[0.5, 2.0])).unwrap(), [0.5, 2.0]);
        let refused = |adapters: &[&str], given: &[f64]| {
            let trouble = scales(&request(adapters, given)).unwrap_err();
            trouble.found().unwrap()[0].headline.clone()
        };
        assert!(refused(&["a", "b"], &[1.0, 2.0, 3.0]).contains("not as many"));
        assert!(refused(&["a"], &[f64::NAN]).contains("NaN"));
        assert!(refused(&[], &[]).contains("no adapter"));
    }

    #[test]
    fn every_name_is_taken_as_it_stands() {
        let mut request = request(&["a+b: [", "org/lora@x"], &[]);
        request.dtype = Some("bfloat16".to_owned());
        let text = text(&request).unwrap();
        let recipe: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(recipe["models"]["base"], json!({"path": "org/base", "revision": "v1"}));
        assert_eq!(recipe["models"]["adapter_1"]["adapter"], json!({"path": "a+b: ["}));
        let second = &recipe["models"]["adapter_2"]["adapter"];
        assert_eq!(*second, json!({"path": "org/lora", "revision": "x"}));
        assert_eq!(recipe["dtype"], "bfloat16");
    }
}
