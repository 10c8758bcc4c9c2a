//! The output as a GGUF file: names, layouts and types of its tensors.

use mixdown_checkpoint::quantize::{GgufFileType, GgufNames, Quantizer};
use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::Program;
use serde_json::Value;
use std::sync::Arc;

use crate::families::knowledge::number;
use crate::families::layer;
use crate::jobs::kept_codes::write_with;
use crate::models::request::Request;
use crate::plan::{GgufOutput, Job, OutputFiles};
use crate::report::Reporter;

/// Gives jobs the places that they have in a GGUF file, where the recipe wants one.
pub(crate) fn choose(
    request: &Request<'_>,
    output: &mut OutputFiles,
    (jobs, programs): (&mut [Job], &[Arc<Program>]),
    reporter: &mut Reporter,
) {
    let recipe = &request.recipes[0];
    let Some(wanted) = &recipe.gguf else { return };
    let Some(file_type) = GgufFileType::of(&wanted.file_type.value) else {
        let words = GgufFileType::words();
        let headline =
            format!("`{}` is no type of GGUF files that is written", wanted.file_type.value);
        let error = Diagnostic::error(codes::QUANTIZE_FORM, headline);
        let error = match nearest(&wanted.file_type.value, words.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("one of {}", words.join(", "))),
        };
        reporter.add(error.at(&recipe.source, wanted.file_type.span));
        return;
    };
    let config = output.files_from.and_then(|model| request.checkpoints[model as usize].config);
    let model_type = config.and_then(|config| config.get("model_type")).and_then(Value::as_str);
    let names = model_type.and_then(GgufNames::of);
    let (Some(config), Some(names)) = (config, names) else {
        let family = model_type.map_or("a model without a config.json", |name| name);
        let headline = format!("nothing is known of how GGUF files hold `{family}`");
        let error = Diagnostic::error(codes::GGUF_FAMILY, headline)
            .fact("written", GgufNames::families().join(", "))
            .help("write safetensors, and convert them with llama.cpp");
        reporter.add(error.at(&recipe.source, wanted.span));
        return;
    };
    let layers = layers(jobs);
    let is_tied = !jobs
        .iter()
        .any(|job| names.place(&job.name).is_some_and(|place| place.name == "output.weight"));
    let heads = |key: &str| number(config, key);
    let (own, shared) = (heads("num_attention_heads"), heads("num_key_value_heads"));
    for job in jobs.iter_mut() {
        let place = names.place(&job.name).filter(|place| !place.is_stacked);
        let Some(place) = place else {
            let headline = format!("`{}` has no place in GGUF files of its family", job.name);
            let error = Diagnostic::error(codes::GGUF_FAMILY, headline)
                .fact("family", names.architecture())
                .help(match recipe.source.name().is_empty() {
                    true => "write safetensors, or leave the tensor out with a recipe",
                    false => "leave the tensor out with a rule `drop: true`, or write safetensors",
                });
            reporter.tensor((0, 0), error.at(&recipe.source, wanted.span));
            continue;
        };
        let heads =
            place.woven.and_then(|key| if key.ends_with("_kv") { shared.or(own) } else { own });
        let kind = file_type.of_tensor(&place.name, &job.shape, layers, is_tied);
        match Quantizer::gguf(&place, heads, kind, &job.shape, job.dtype) {
            Ok(quantizer) => write_with(request, programs, job, quantizer),
            Err(error) => reporter.tensor((0, 1), error.at(&recipe.source, wanted.span)),
        }
    }
    output.gguf = Some(GgufOutput {
        architecture: names.architecture().to_owned(),
        file_type: file_type.number(),
    });
}

/// Count of layers, by the names of tensors.
fn layers(jobs: &[Job]) -> u64 {
    let layers = jobs.iter().filter_map(|job| layer::split(&job.name));
    layers.map(|name| name.layer + 1).max().unwrap_or(0)
}
