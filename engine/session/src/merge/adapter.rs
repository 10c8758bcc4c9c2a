//! An adapter as output: its configuration, and how near its updates are.

use mixdown_checkpoint::adapter::OutputAdapter;
use mixdown_exec::Report;
use mixdown_plan::{AdapterFiles, Factor, Side, Work};

use super::files::hub_id;
use crate::planning::Planned;

/// The file of the factors, as peft names it.
pub const WEIGHTS_NAME: &str = "adapter_model.safetensors";
/// The file that describes them.
pub const CONFIG_NAME: &str = "adapter_config.json";

/// What became of a tensor of the base.
#[derive(Clone, Debug)]
pub struct Update {
    /// Its name there.
    pub tensor: String,
    /// Directions; none where the tensor is stored whole.
    pub rank: Option<u64>,
    /// ‖Δ − B·A‖ / ‖Δ‖, before the factors are rounded to their type; none if an earlier run computed it.
    pub error: Option<f64>,
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
    let classes =
        base.model.checkpoint.config.as_ref().and_then(|config| config.get("architectures"));
    let class = classes.and_then(|classes| classes.get(0)?.as_str());
    // Of other classes peft's plain wrapper is the one that fits; without a config the usual one is meant.
    let is_causal = class.is_none_or(|class| class.ends_with("ForCausalLM"));
    adapter.task_type = is_causal.then_some("CAUSAL_LM");
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
    let mut told = report.told.matrices.iter().rev();
    let (whole, cut_off) = told.find(|found| found.tensor == tensor)?.report.loss?;
    Some(if whole > 0.0 { (cut_off / whole).sqrt() } else { 0.0 })
}
