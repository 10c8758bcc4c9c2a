//! What one output tensor gets and why: rule, inputs, parameters with their origin, passes.

use std::fmt::Write as _;

use mixdown_diagnostics::escape;
use serde_json::{Value, json};

use super::{size, value::json as plan_json, verb};
use crate::detail::Detail;
use crate::detail::{Bound, Resolved};
use crate::plan::{Job, Plan, Work};

/// The story of a tensor; none if the plan does not make it.
pub fn tensor(plan: &Plan, name: &str, detail: Option<&Detail>) -> Option<String> {
    let job = plan.jobs.iter().find(|job| job.name == name)?;
    let origin = &plan.origins[job.origin as usize];
    let mut text = String::new();
    let _ = writeln!(text, "{}  {} {}", escape(&job.name), job.shape, job.dtype);
    let _ = writeln!(
        text,
        "  decided by {} on line {}: {}",
        escape(&origin.rule),
        origin.line,
        escape(&origin.method)
    );
    match detail {
        Some(detail) => {
            text.push_str("  inputs\n");
            for (model, input, dtype) in &detail.inputs {
                let (model, input) = (escape(model), escape(input));
                let _ = writeln!(text, "    {model}: `{input}` {dtype}");
            }
            parameters(&mut text, detail);
        }
        None => {
            if let Work::Copy { from, .. } = &job.work {
                let model = escape(&plan.models[from.model as usize]);
                let _ = writeln!(text, "  copied from {model}");
            }
        }
    }
    work(&mut text, plan, job);
    Some(text)
}

fn parameters(text: &mut String, detail: &Detail) {
    if detail.parameters.is_empty() {
        return;
    }
    text.push_str("  parameters\n");
    let experts: Vec<&str> =
        detail.inputs.iter().filter_map(|(model, ..)| model.strip_prefix("expert ")).collect();
    for parameter in &detail.parameters {
        let whose = parameter
            .expert
            .and_then(|position| experts.get(position))
            .map_or_else(String::new, |expert| format!(" of {}", escape(expert)));
        let value = value_text(parameter);
        let _ = writeln!(
            text,
            "    {}{whose} = {value}  ({})",
            parameter.name,
            origin_text(parameter, detail.t)
        );
    }
}

fn value_text(parameter: &Resolved) -> String {
    match &parameter.value {
        Bound::Number(number) => number.to_string(),
        Bound::Flag(flag) => flag.to_string(),
        Bound::Word(word) => escape(word),
        Bound::Words(words) => escape(&words.join(", ")),
    }
}

fn origin_text(parameter: &Resolved, t: f64) -> String {
    if parameter.level == "default" {
        return "default".to_owned();
    }
    let mut text = format!("{}, line {}", parameter.level, parameter.span.line);
    if let Some(filter) = &parameter.filter {
        let _ = write!(text, ", filter `{}`", escape(filter));
    }
    if parameter.gradient {
        let _ = write!(text, ", gradient at {t:.4}");
    }
    text
}

fn work(text: &mut String, plan: &Plan, job: &Job) {
    match &job.work {
        Work::Copy { equal_to, .. } => {
            text.push_str("  copied byte for byte");
            if !equal_to.is_empty() {
                let _ = write!(text, ", after comparing with {} other models", equal_to.len());
            }
            text.push('\n');
        }
        Work::Merge(merge) => {
            let program = &plan.programs[merge.program as usize];
            let (nodes, passes) = size(program);
            let _ = writeln!(
                text,
                "  program {}: {nodes} nodes in {passes} {}",
                merge.program,
                if passes == 1 { "pass" } else { "passes" }
            );
            for (number, pass) in program.passes.iter().enumerate() {
                let mut steps: Vec<String> =
                    pass.prelude.iter().map(|step| format!("({})", step.op.name())).collect();
                steps.extend(pass.instructions.iter().map(verb));
                let _ = writeln!(text, "    pass {}: {}", number + 1, steps.join(", "));
            }
        }
    }
}

/// The same for scripts.
pub fn tensor_json(plan: &Plan, name: &str, detail: Option<&Detail>) -> Option<Value> {
    let position = plan.jobs.iter().position(|job| job.name == name)?;
    let origin = &plan.origins[plan.jobs[position].origin as usize];
    let whole = plan_json(plan);
    let job = whole["tensors"][position].clone();
    let program =
        job["work"]["program"].as_u64().map(|number| whole["programs"][number as usize].clone());
    let parameters: Vec<Value> = detail
        .iter()
        .flat_map(|detail| &detail.parameters)
        .map(|parameter| {
            let value = match &parameter.value {
                Bound::Number(number) => json!(number),
                Bound::Flag(flag) => json!(flag),
                Bound::Word(word) => json!(word),
                Bound::Words(words) => json!(words),
            };
            json!({
                "name": parameter.name,
                "expert": parameter.expert,
                "value": value,
                "level": parameter.level,
                "line": parameter.span.line,
                "gradient": parameter.gradient,
                "filter": parameter.filter,
            })
        })
        .collect();
    let inputs: Vec<Value> = detail
        .iter()
        .flat_map(|detail| &detail.inputs)
        .map(|(model, tensor, dtype)| json!({"model": model, "tensor": tensor, "dtype": dtype.name()}))
        .collect();
    Some(json!({
        "tensor": job,
        "rule": {"rule": origin.rule, "line": origin.line, "method": origin.method},
        "t": detail.map(|detail| detail.t),
        "inputs": inputs,
        "parameters": parameters,
        "program": program,
    }))
}
