//! The plan in a page: what is written, what becomes of each model's tensors, which rules and programs do it.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use mixdown_diagnostics::escape;

use super::{bytes, size};
use crate::plan::treatment_counts;
use crate::plan::{Job, Plan, Work};

/// A summary for people. `tensors`: how many tensors each checkpoint of the plan has.
pub fn summary(plan: &Plan, tensors: &[usize]) -> String {
    let mut text = String::new();
    output(&mut text, plan);
    models(&mut text, plan, tensors);
    rules(&mut text, plan);
    programs(&mut text, plan);
    text
}

fn output(text: &mut String, plan: &Plan) {
    let mut dtypes: BTreeMap<&str, u64> = BTreeMap::new();
    for job in &plan.jobs {
        *dtypes.entry(job.dtype.name()).or_default() += job.shape.bytes(job.dtype);
    }
    let total: u64 = dtypes.values().sum();
    let list: Vec<String> = dtypes
        .iter()
        .map(|(name, size)| {
            if dtypes.len() == 1 { (*name).to_owned() } else { format!("{name} {}", bytes(*size)) }
        })
        .collect();
    let _ = writeln!(
        text,
        "output  {} tensors, {}, {}",
        plan.jobs.len(),
        bytes(total),
        list.join(", ")
    );
    if let Some(adapter) = &plan.output.adapter {
        let (updates, whole) = (adapter.updates.len(), adapter.replacements.len());
        let _ = writeln!(
            text,
            "        an adapter on {}: {updates} updates, {whole} tensors stored whole",
            escape(&plan.models[adapter.base as usize])
        );
    }
    if let Some(model) = plan.output.files_from {
        let _ = writeln!(
            text,
            "        config and other files from {}",
            escape(&plan.models[model as usize])
        );
    }
    if let Some(counts) = treatment_counts(plan) {
        let _ = writeln!(text, "        by methods over matrices: {counts}");
    }
    for change in &plan.output.layers {
        let (after, before) = (change.sources.len(), change.before);
        let prefix = escape(&change.prefix);
        let _ = writeln!(text, "        {after} layers under `{prefix}`, {before} before");
    }
    if let Some(rows) = plan.output.vocabulary {
        let _ = writeln!(text, "        vocabulary rebuilt: {rows} rows");
    }
}

/// The tensors a job reads.
fn reads<'p>(plan: &'p Plan, job: &'p Job) -> Vec<crate::plan::TensorRef> {
    match &job.work {
        Work::Copy { from, equal_to, .. } => {
            std::iter::once(*from).chain(equal_to.iter().copied()).collect()
        }
        Work::Merge(merge) => merge.tensors(&plan.parts()),
    }
}

fn models(text: &mut String, plan: &Plan, tensors: &[usize]) {
    text.push_str("models\n");
    for (number, name) in plan.models.iter().enumerate() {
        let number = number as u32;
        let mut copied = HashSet::new();
        let mut merged = HashSet::new();
        for job in &plan.jobs {
            let of_model = reads(plan, job).into_iter().filter(|tensor| tensor.model == number);
            let set = if matches!(job.work, Work::Copy { .. }) { &mut copied } else { &mut merged };
            set.extend(of_model);
        }
        let left: Vec<&str> = plan
            .left_out
            .iter()
            .filter(|left| left.tensor.model == number)
            .map(|left| left.reason.as_str())
            .collect();
        let all = tensors.get(number as usize).copied().unwrap_or(0);
        let _ = write!(
            text,
            "  {}: {all} tensors, {} merged, {} copied",
            escape(name),
            merged.len(),
            copied.len()
        );
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in &left {
            *reasons.entry(reason).or_default() += 1;
        }
        let _ = writeln!(text, ", {} not read", left.len());
        for (reason, count) in reasons {
            let _ = writeln!(text, "    {count} not read: {}", escape(reason));
        }
    }
}

fn rules(text: &mut String, plan: &Plan) {
    text.push_str("rules\n");
    for (number, origin) in plan.origins.iter().enumerate() {
        let jobs: Vec<&Job> = plan.jobs.iter().filter(|job| job.origin == number as u32).collect();
        if jobs.is_empty() {
            continue;
        }
        let total = jobs.iter().map(|job| job.shape.bytes(job.dtype)).sum();
        let _ = writeln!(
            text,
            "  {} (line {}): {}, {} tensors, {}",
            escape(&origin.rule),
            origin.line,
            escape(&origin.method),
            jobs.len(),
            bytes(total)
        );
    }
}

fn programs(text: &mut String, plan: &Plan) {
    let copies = plan.jobs.iter().filter(|job| matches!(job.work, Work::Copy { .. })).count();
    let _ = writeln!(
        text,
        "programs  {} after fusion, for {} tensors; {copies} tensors copied",
        plan.programs.len(),
        plan.jobs.len() - copies
    );
    for (number, program) in plan.programs.iter().enumerate() {
        let served = plan.jobs.iter().filter(
            |job| matches!(&job.work, Work::Merge(merge) if merge.program == number as u32),
        );
        let (nodes, passes) = size(program);
        let _ = writeln!(
            text,
            "  {number}: {} tensors, {} inputs, {nodes} nodes in {passes} {}",
            served.count(),
            program.inputs,
            if passes == 1 { "pass" } else { "passes" },
        );
    }
    for group in &plan.groups {
        let _ = writeln!(
            text,
            "  over the whole model: {}, {} tensors",
            escape(&group.title),
            group.jobs.len()
        );
    }
}
