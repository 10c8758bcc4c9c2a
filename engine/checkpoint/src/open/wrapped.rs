//! Names that a training framework left in a file: what it put before and between the model's own.

use mixdown_diagnostics::{Diagnostic, codes};

use crate::adapter::WRAPPERS;
use crate::index::Index;

/// What distributed data parallel puts before every name.
const MODULE: &str = "module.";

/// The index under the model's own names, and what to say of that; nothing where the names are the model's.
pub(super) fn unwrapped(index: &Index, shown_root: &str) -> Option<(Index, Diagnostic)> {
    let tensors = index.tensors();
    let is_wrapper = |part: &&str| WRAPPERS.contains(part);
    let found = tensors.iter().find_map(|tensor| tensor.name.split('.').find(is_wrapper));
    let is_parallel = !tensors.is_empty() && tensors.iter().all(|one| one.name.starts_with(MODULE));
    let wrapper = match (found, is_parallel) {
        (Some(part), _) => format!("{part}."),
        (None, true) => MODULE.to_owned(),
        (None, false) => return None,
    };
    let own = |name: &str| {
        let name = if is_parallel { &name[MODULE.len()..] } else { name };
        Some(name.split('.').filter(|part| !is_wrapper(part)).collect::<Vec<_>>().join("."))
    };
    // Where two names become one, the wrapper was no wrapper.
    let renamed = index.renamed(&own).ok()?;
    let maker = match wrapper.as_str() {
        "_orig_mod." => "torch.compile",
        MODULE => "DistributedDataParallel",
        "_fsdp_wrapped_module." => "FSDP",
        _ => "activation checkpointing",
    };
    let headline = format!("the names of the tensors are read without `{wrapper}`");
    let warning = Diagnostic::warning(codes::WRAPPED_NAMES, headline)
        .in_file(shown_root)
        .note(format!("{maker} puts it there; the output has the model's own names"));
    Some((renamed, warning))
}
