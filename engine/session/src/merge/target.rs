//! What of an output a merge makes, and where: all of it, or a part in a folder of its own.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use mixdown_checkpoint::layout::Layout;
use mixdown_checkpoint::output::PlanIdentity;
use mixdown_checkpoint::shown_path;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::{Report, job_costs};
use mixdown_ops::Backend;
use mixdown_plan::Work;

use super::{MergeRequest, SHARD_BYTES, adapter, record};
use crate::Chosen;
use crate::parts::partition::{self, Partition};
use crate::parts::{self, Files, PartNumber, PartRecord, Share};
use crate::planning::Planned;

/// The file of a model's trained parts, as ModelCompose names it.
const MODELCOMPOSE_NAME: &str = "adapter_model.bin";

/// What of an output a merge makes, and where.
pub struct Target {
    /// The folder.
    pub folder: PathBuf,
    /// The jobs that it makes.
    pub jobs: Range<usize>,
    /// Their tensors, as positions in the whole output.
    pub tensors: Range<usize>,
    /// Where they will lie.
    pub layout: Arc<Layout>,
    /// By what the work is known.
    pub identity: PlanIdentity,
    /// In which files the whole output lies.
    files: Files,
    /// Digest of the whole's layout.
    whole: String,
}

impl Target {
    /// All of an output of this layout, or the part that is asked for.
    pub fn new(
        request: &MergeRequest,
        planned: &Planned,
        whole: Layout,
        chosen: &Chosen,
    ) -> Result<Self, Box<Diagnostic>> {
        let identity = record::identity(planned, request, chosen, whole.shards().len());
        let (files, digest) = (files(request, planned), whole.digest());
        let folder = request.folder();
        let Some(part) = request.part else {
            let (jobs, tensors) = (0..planned.plan.jobs.len(), 0..whole.tensors().len());
            let layout = Arc::new(whole);
            return Ok(Self { folder, jobs, tensors, layout, identity, files, whole: digest });
        };
        let partition = partition(planned, &whole, chosen.backend(), part.of())?;
        let Share { jobs, tensors, .. } = partition.share(part).clone();
        let layout = Arc::new(partition::layout_of(&whole, tensors.clone())?);
        let text = format!("part {part} of {digest} of {}", identity.as_str());
        let own = PlanIdentity::new(blake3::hash(text.as_bytes()).as_bytes());
        let identity = match identity.device() {
            Some(device) => own.on(device),
            None => own,
        };
        Ok(Self { folder, jobs, tensors, layout, identity, files, whole: digest })
    }

    /// Whether the part is there already, made from the same models as they are.
    ///
    /// **Errors.** What else lies where parts go, or another part in its place.
    pub fn is_done(&self, request: &MergeRequest) -> Result<bool, Box<Diagnostic>> {
        let Some(part) = request.part else { return Ok(false) };
        if request.force {
            return Ok(false);
        }
        parts::check_folder(&request.out, part)?;
        if !self.folder.exists() {
            return Ok(false);
        }
        match parts::record(&self.folder)? {
            Some(found) if found.identity == self.identity.whole() => Ok(true),
            found => {
                let headline = format!("another merge has made part {part} there");
                let diagnostic = Diagnostic::error(codes::PARTS_DIFFER, headline)
                    .in_file(shown_path(&self.folder))
                    .help("replace it with `--force`, or choose another folder with `--out`");
                Err(Box::new(match found {
                    Some(_) => diagnostic.note("its recipe, version, or models were others, or its models were changed since"),
                    None => diagnostic.note("its record is missing or not understood"),
                }))
            }
        }
    }

    /// What the part leaves for those that assemble it.
    pub fn record(
        &self,
        part: PartNumber,
        planned: &Planned,
        chosen: &Chosen,
        warnings: &[Diagnostic],
        report: &Report,
    ) -> PartRecord {
        let has_matrices = planned.plan.jobs[self.jobs.clone()]
            .iter()
            .any(|job| matches!(&job.work, Work::Merge(merge) if !merge.matrices.is_empty()));
        PartRecord {
            part,
            first: self.tensors.start,
            files: self.files.clone(),
            layout: self.whole.clone(),
            identity: self.identity.whole(),
            computed_with: chosen.describe(),
            has_matrices,
            warnings: warnings.iter().map(|warning| warning.headline.clone()).collect(),
            told: report.told.clone(),
        }
    }
}

/// In which files an output lies.
pub fn files(request: &MergeRequest, planned: &Planned) -> Files {
    let composition = planned.loaded.composition.as_ref();
    if composition.is_some_and(|composition| !composition.is_whole) {
        return Files::Torch(MODELCOMPOSE_NAME.to_owned());
    }
    if planned.plan.output.adapter.is_some() {
        return Files::One(adapter::WEIGHTS_NAME.to_owned());
    }
    let stated = planned.loaded.recipes.first().and_then(|recipe| recipe.shard_size.as_ref());
    let stated = stated.map(|stated| stated.value);
    Files::Shards(request.shard_bytes.or(stated).unwrap_or(SHARD_BYTES))
}

/// How an output of this layout is cut in so many parts.
///
/// **Errors.** A matrix op that the backend refuses.
pub fn partition(
    planned: &Planned,
    whole: &Layout,
    backend: &dyn Backend,
    parts: u32,
) -> Result<Partition, Box<Diagnostic>> {
    let indexes: Vec<_> =
        planned.loaded.models.iter().map(|input| &input.model.checkpoint.index).collect();
    let (costs, facts_bytes) = job_costs(&planned.plan, &indexes, backend)?;
    Ok(Partition::new(whole, (&costs, facts_bytes), &planned.plan.first_stored(), parts))
}
