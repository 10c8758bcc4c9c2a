//! An adapter as output: its configuration, and how near its updates are.

use mixdown_checkpoint::adapter::OutputAdapter;
use mixdown_exec::Report;
use mixdown_plan::{AdapterFiles, Factor, Side, Work};
use serde_json::{Value, json};

use super::files::hub_id;
use crate::planning::Planned;
use crate::quantity;
use crate::table::{Align, Table};

/// The file of the factors, as peft names it.
pub const WEIGHTS_NAME: &str = "adapter_model.safetensors";
/// The file that describes them.
pub const CONFIG_NAME: &str = "adapter_config.json";

/// What became of a tensor of the base.
pub struct Update {
    tensor: String,
    /// Directions; none where the tensor is stored whole.
    rank: Option<u64>,
    /// ‖Δ − B·A‖ / ‖Δ‖, before the factors are rounded to their type; none if an earlier run computed it.
    error: Option<f64>,
}

/// The text of the adapter's configuration.
pub fn config(planned: &Planned, files: &AdapterFiles) -> String {
    let base = &planned.loaded.models[files.base as usize];
    let name = match base.model.revision {
        Some(_) => hub_id(&base.reference),
        None => base.reference.as_str(),
    };
    let index = &base.model.checkpoint.index;
    let mut adapter = OutputAdapter::new(index, &files.updates, &files.replacements);
    adapter.base_model = Some(name);
    adapter.config_text()
}

/// What became of the tensors that change, in the order of the output; none if a model is written.
pub fn updates(planned: &Planned, report: &Report) -> Option<Vec<Update>> {
    let files = planned.plan.output.adapter.as_ref()?;
    let index = &planned.loaded.models[files.base as usize].model.checkpoint.index;
    let adapter = OutputAdapter::new(index, &files.updates, &files.replacements);
    let base_name = |position: u32| index.tensors()[position as usize].name.clone();
    let mut found = Vec::new();
    let mut updates = files.updates.iter();
    for job in &planned.plan.jobs {
        let factor = match &job.work {
            Work::Merge(merge) => merge.factor.as_ref(),
            Work::Copy { .. } => None,
        };
        match factor {
            Some(Factor { side: Side::Right, .. }) => {}
            Some(Factor { rank, is_exact, .. }) => {
                let Some(update) = updates.next() else { continue };
                let error = if *is_exact { Some(0.0) } else { error(report, &job.name) };
                let (tensor, rank) = (base_name(update.base_tensor), Some(*rank));
                found.push(Update { tensor, rank, error });
            }
            None => {
                let of_job = |position: &&u32| adapter.replacement_name(**position) == job.name;
                let position = files.replacements.iter().find(of_job);
                let tensor = position.map_or_else(|| job.name.clone(), |&at| base_name(at));
                found.push(Update { tensor, rank: None, error: Some(0.0) });
            }
        }
    }
    Some(found)
}

/// The error that the last truncation of a tensor told.
fn error(report: &Report, tensor: &str) -> Option<f64> {
    let mut told = report.matrices.iter().rev();
    let (whole, cut_off) = told.find(|found| found.tensor == tensor)?.report.loss?;
    Some(if whole > 0.0 { (cut_off / whole).sqrt() } else { 0.0 })
}

/// All of them, for people.
pub fn table(updates: &[Update]) -> String {
    let columns = [("tensor", Align::Left), ("rank", Align::Right), ("error", Align::Right)];
    let mut table = Table::new(&columns);
    for Update { tensor, rank, error } in updates {
        let rank = rank.map_or_else(|| "whole".to_owned(), |rank| rank.to_string());
        table.row([tensor.clone(), rank, shown(*error)]);
    }
    table.text("")
}

/// All of them, for programs.
pub fn json(updates: &[Update]) -> Value {
    updates
        .iter()
        .map(|Update { tensor, rank, error }| json!({"tensor": tensor, "rank": rank, "error": error}))
        .collect()
}

/// A line for people.
pub fn line(updates: &[Update]) -> String {
    let products = updates.iter().filter(|update| update.rank.is_some()).count();
    let mut text = format!("an adapter of {}", quantity::count(products, "update"));
    if products < updates.len() {
        let whole = quantity::count(updates.len() - products, "tensor");
        text.push_str(&format!(", and {whole} stored whole"));
    }
    let worst = updates.iter().filter(|update| update.error.is_some_and(|error| error > 0.0));
    match worst.max_by(|a, b| a.error.unwrap_or(0.0).total_cmp(&b.error.unwrap_or(0.0))) {
        Some(worst) => text.push_str(&format!(
            "; the largest relative error is {}, of `{}`",
            shown(worst.error),
            worst.tensor
        )),
        None if updates.iter().all(|update| update.error.is_some()) => {
            text.push_str("; all of them exact");
        }
        None => {}
    }
    text
}

fn shown(error: Option<f64>) -> String {
    match error {
        None => "-".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(error) => format!("{error:.3e}"),
    }
}
