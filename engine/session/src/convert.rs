//! One model in another form: quantized, dequantized, or in another type.

use std::path::PathBuf;

use mixdown_checkpoint::quantize::{Form, GgufFileType, Words};
use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::DType;
use serde_json::{Value, json};

use crate::merge::{self, MergeRequest, Merged};
use crate::models::Reference;
use crate::planning::RecipeInput;
use crate::{Machine, Session, Trouble};

/// What to convert to what, where to, and how.
#[derive(Clone, Debug)]
pub struct ConvertRequest {
    /// The model: a folder, a file, or an id at the hub.
    pub model: String,
    /// A form of fewer bits, such as `fp8`, or an element type.
    pub to: String,
    /// What is said of the form beside its word, as keys of a recipe's rules of `quantize`.
    pub settings: Vec<(&'static str, Value)>,
    /// Element type of what is not quantized, as recipes name it; the model's if none.
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
    /// A file for what quantizing did to each tensor, as JSON.
    pub report: Option<PathBuf>,
}

/// Writes a model in another form. Tensors that are stored in fewer bits are what their codes and scales say.
///
/// **Errors.** A form that is not known, and all that a merge fails of.
pub fn convert(request: &ConvertRequest, session: &Session<'_>) -> Result<Merged, Trouble> {
    let recipe =
        RecipeInput { follow_links: request.follow_links, ..RecipeInput::made_up(text(request)?) };
    let mut merge = MergeRequest::new(recipe, &request.out);
    merge.machine = request.machine;
    (merge.shard_bytes, merge.force) = (request.shard_bytes, request.force);
    merge.report.clone_from(&request.report);
    merge::merge(&merge, session)
}

/// Element types by the words that are usual for them.
const TYPES: [(&str, DType); 9] = [
    ("bf16", DType::Bf16),
    ("bfloat16", DType::Bf16),
    ("f16", DType::F16),
    ("fp16", DType::F16),
    ("float16", DType::F16),
    ("f32", DType::F32),
    ("fp32", DType::F32),
    ("float32", DType::F32),
    ("float64", DType::F64),
];

/// The recipe that converts. A text of JSON is one of YAML, whatever stands in it.
fn text(request: &ConvertRequest) -> Result<String, Trouble> {
    let dtype = TYPES.iter().find(|(word, _)| *word == request.to).map(|(_, dtype)| *dtype);
    let is_form = Form::words().contains(&request.to.as_str());
    let is_library =
        |name: &str| request.settings.iter().any(|(key, value)| *key == "as" && value == name);
    let is_gguf_type = GgufFileType::words().contains(&request.to.as_str());
    // Words that only GGUF has need not be told apart.
    if is_gguf_type && (is_library("gguf") || (dtype.is_none() && !is_form)) {
        return gguf_text(request);
    }
    if dtype.is_none() && !is_form {
        let headline = format!("`{}` is no form to convert to", request.to);
        let error = Diagnostic::error(codes::QUANTIZE_FORM, headline);
        let words = || {
            let forms = Form::words().iter().chain(GgufFileType::words()).copied();
            forms.chain(TYPES.map(|(word, _)| word))
        };
        let error = match nearest(&request.to, words()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("one of {}", words().collect::<Vec<_>>().join(", "))),
        };
        return Err(Trouble::Usage(vec![error]));
    }
    if let (Some(_), Some((key, _))) = (dtype, request.settings.first()) {
        let headline = format!("{} has no meaning for `{}`", Words::Flags.key(key), request.to);
        let error = Diagnostic::error(codes::QUANTIZE_FORM, headline);
        return Err(Trouble::Usage(vec![error.help("it says how codes are made; leave it out")]));
    }
    let mut recipe = plain(request);
    if let Some(dtype) = dtype.map(DType::torch_name).or(request.dtype.as_deref()) {
        recipe["out_dtype"] = dtype.into();
    }
    if dtype.is_none() {
        let mut rule = json!({"to": request.to});
        for (key, value) in &request.settings {
            rule[*key] = value.clone();
        }
        recipe["output"] = json!({"quantize": rule});
    }
    recipe["rules"] = json!([{"keep": "model"}]);
    Ok(format!("{recipe:#}\n"))
}

/// The recipe that leaves the model as it is.
fn plain(request: &ConvertRequest) -> Value {
    let reference = Reference::parse(&request.model);
    let mut model = json!({"path": reference.path});
    if let Some(revision) = &reference.revision {
        model["revision"] = revision.as_str().into();
    }
    json!({"mixdown": 1, "models": {"model": model}})
}

/// The recipe that writes a GGUF file.
fn gguf_text(request: &ConvertRequest) -> Result<String, Trouble> {
    if let Some((key, _)) = request.settings.iter().find(|(key, _)| *key != "as") {
        let headline = format!("{} has no meaning for GGUF files", Words::Flags.key(key));
        let error = Diagnostic::error(codes::QUANTIZE_FORM, headline);
        return Err(Trouble::Usage(vec![error.help("their types are defined to the last bit")]));
    }
    let mut recipe = plain(request);
    if let Some(dtype) = &request.dtype {
        recipe["out_dtype"] = dtype.as_str().into();
    }
    recipe["output"] = json!({"as": "gguf", "type": request.to});
    recipe["rules"] = json!([{"keep": "model"}]);
    Ok(format!("{recipe:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(to: &str, settings: &[(&'static str, Value)]) -> ConvertRequest {
        ConvertRequest {
            model: "org/model@v1".to_owned(),
            to: to.to_owned(),
            settings: settings.to_vec(),
            dtype: None,
            out: PathBuf::from("out"),
            machine: Machine::default(),
            shard_bytes: None,
            force: false,
            follow_links: false,
            report: None,
        }
    }

    fn recipe(request: &ConvertRequest) -> Value {
        serde_json::from_str(&text(request).unwrap()).unwrap()
    }

    #[test]
    fn forms_and_types_are_told_apart() {
        let found = recipe(&request("int4", &[("group", json!(32))]));
        assert_eq!(found["output"], json!({"quantize": {"to": "int4", "group": 32}}));
        assert_eq!(found["models"]["model"], json!({"path": "org/model", "revision": "v1"}));
        assert_eq!(found.get("out_dtype"), None);
        let found = recipe(&request("bf16", &[]));
        assert_eq!((found["out_dtype"].as_str(), found.get("output")), (Some("bfloat16"), None));
    }

    #[test]
    fn words_that_are_nearly_right_are_told() {
        let help = |to: &str, settings: &[(&'static str, Value)]| {
            let trouble = text(&request(to, settings)).unwrap_err();
            trouble.found().unwrap()[0].help.clone().unwrap()
        };
        assert_eq!(help("mxpf4", &[]), "did you mean `mxfp4`?");
        assert_eq!(help("bfloat", &[]), "did you mean `bfloat16`?");
        assert!(help("zzzzzzz", &[]).starts_with("one of fp8"));
        assert!(help("bf16", &[("group", json!(32))]).contains("codes"));
    }
}
