//! The output as a GGUF file: names, layouts and types of its tensors.

use mixdown_checkpoint::quantize::{GgufFileType, GgufNames, Quantizer};
use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::Program;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::families::knowledge::number;
use crate::families::layer;
use crate::jobs::kept_codes::write_with;
use crate::models::request::Request;
use crate::plan::{GgufOutput, Job, OutputFiles, Work};
use crate::report::Reporter;

/// Gives jobs the places that they have in a GGUF file, where the recipe wants one.
pub(crate) fn choose(
    request: &Request<'_>,
    output: &mut OutputFiles,
    (jobs, programs): (&mut Vec<Job>, &[Arc<Program>]),
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
    leave_out(names, jobs, reporter);
    let layers = layers(jobs);
    let is_tied = !jobs
        .iter()
        .any(|job| names.place(&job.name).is_some_and(|place| place.name == "output.weight"));
    let heads = |key: &str| number(config, key);
    let (own, shared) = (heads("num_attention_heads"), heads("num_key_value_heads"));
    let mut stacks: BTreeMap<String, Stack> = BTreeMap::new();
    for job in jobs.iter_mut() {
        let Some(place) = names.place(&job.name) else {
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
        let kind = file_type.of_tensor(&place.name, &place.stored(&job.shape), layers, is_tied);
        match Quantizer::gguf(&place, heads, kind, &job.shape, job.dtype) {
            Ok(quantizer) => {
                if let Some(expert) = place.expert {
                    let stack = stacks.entry(place.name.clone()).or_default();
                    stack.experts.insert(expert);
                    stack.forms.insert((kind.name(), job.shape.dimensions().to_vec()));
                }
                write_with(request, programs, job, quantizer);
            }
            Err(error) => reporter.tensor((0, 1), error.at(&recipe.source, wanted.span)),
        }
    }
    for (name, stack) in &stacks {
        if let Some(error) = stack.fault(name) {
            reporter.tensor((0, 2), error.at(&recipe.source, wanted.span));
        }
    }
    output.gguf = Some(GgufOutput {
        architecture: names.architecture().to_owned(),
        file_type: file_type.number(),
    });
}

/// Leaves out what programs compute themselves, such as masks that older checkpoints hold.
fn leave_out(names: GgufNames, jobs: &mut Vec<Job>, reporter: &mut Reporter) {
    let is_alone = |job: &Job| match &job.work {
        Work::Merge(merge) => merge.groups.is_empty(),
        _ => true,
    };
    let mut left_out = Vec::new();
    jobs.retain(|job| {
        let is_needed = !names.is_computed(&job.name) || !is_alone(job);
        if !is_needed {
            left_out.push(job.name.clone());
        }
        is_needed
    });
    if let Some(first) = left_out.first() {
        let headline = "tensors that programs compute themselves are not in the GGUF file";
        let warning = Diagnostic::warning(codes::GGUF_NAMES, headline)
            .fact("tensors", left_out.len().to_string())
            .fact("the first", format!("`{first}`"));
        reporter.add(warning);
    }
}

/// Experts that a file has as one tensor.
#[derive(Default)]
struct Stack {
    experts: BTreeSet<u64>,
    forms: BTreeSet<(&'static str, Vec<u64>)>,
}

impl Stack {
    /// Why they are no stack.
    fn fault(&self, name: &str) -> Option<Diagnostic> {
        let count = self.experts.len() as u64;
        let is_whole = self.experts.last().is_none_or(|last| last + 1 == count);
        let missing = (0..).find(|expert| !self.experts.contains(expert)).unwrap_or(0);
        let error = match (is_whole, self.forms.len()) {
            (true, 0 | 1) => return None,
            (false, _) => Diagnostic::error(
                codes::GGUF_FAMILY,
                format!("`{name}` of a GGUF file holds all experts, and one is missing"),
            )
            .fact("experts", count.to_string())
            .fact("missing", missing.to_string()),
            (true, _) => Diagnostic::error(
                codes::GGUF_FAMILY,
                format!(
                    "`{name}` of a GGUF file holds all experts, and theirs are of several shapes"
                ),
            )
            .fact(
                "shapes",
                self.forms
                    .iter()
                    .map(|form| format!("{:?}", form.1))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        };
        Some(error.help("write safetensors, or experts of one shape with the numbers from 0 on"))
    }
}

/// Count of layers, by the names of tensors.
fn layers(jobs: &[Job]) -> u64 {
    let layers = jobs.iter().filter_map(|job| layer::split(&job.name));
    layers.map(|name| name.layer + 1).max().unwrap_or(0)
}
