//! The documents that the program prints with `--json`, as values.

use std::path::Path;

use mixdown_diagnostics::render;
use mixdown_recipe::{Method, Pattern};
use mixdown_session::merge::{MergeRequest, Merged, Started, adapter, partition};
use mixdown_session::models::Model;
use mixdown_session::parts::assemble::Assembled;
use mixdown_session::{Machine, Planned, Session, Trouble};
use serde_json::Value;

use crate::commands::merge::summary;
use crate::commands::{assemble, diff, explain, inspect, methods, plan, verify};

/// The event of a merge that begins.
pub fn started(of: &Started<'_>) -> Value {
    summary::started(of)
}

/// The event of a merge that ended, with its warnings.
pub fn merged(merged: &Merged) -> Value {
    match merged {
        Merged::Now(done) => {
            let told = match done.part {
                None => adapter::updates(&done.planned, &done.report),
                Some(_) => None,
            };
            let mut event = summary::event(done, told.as_deref());
            event["warnings"] = render::render_json(&done.warnings);
            event
        }
        Merged::Earlier(path) => summary::event_of_earlier(path),
    }
}

/// What `mixdown plan` tells.
///
/// **Errors.** The budget is too small.
pub fn planned(
    planned: &Planned,
    machine: &Machine,
    session: &Session<'_>,
) -> Result<Value, Trouble> {
    plan::document(planned, machine, session)
}

/// What `mixdown plan --parts` tells of a merge.
///
/// **Errors.** All mistakes that headers show.
pub fn cut(request: &MergeRequest, parts: u32, session: &Session<'_>) -> Result<Value, Trouble> {
    let planned = mixdown_session::plan(&request.recipe, session, None)?;
    Ok(plan::parts::json_of(&partition(request, &planned, parts, session)?))
}

/// What `mixdown explain` tells of a tensor that was planned with the wish to explain it.
///
/// **Errors.** The output has no such tensor.
pub fn explained(planned: &Planned, tensor: &str) -> Result<Value, Trouble> {
    explain::document(planned, tensor)
}

/// What `mixdown inspect` tells of a model, with the tensors whose names match.
pub fn inspected(model: &Model, wanted: Option<&Pattern>) -> Value {
    inspect::document(model, wanted)
}

/// What `mixdown diff` tells of two models.
///
/// **Errors.** A model cannot be opened or read.
pub fn compared(
    models: (&str, &str),
    follow_links: bool,
    wanted: Option<&Pattern>,
    threads: usize,
    session: &Session<'_>,
) -> Result<Value, Trouble> {
    diff::document(models, follow_links, wanted, threads, session)
}

/// What `mixdown verify` tells of an output that agrees with its manifest.
///
/// **Errors.** All that does not agree.
pub fn verified(output: &Path, threads: usize, session: &Session<'_>) -> Result<Value, Trouble> {
    mixdown_session::verify::verified(output, threads, session)
        .map(|proven| verify::json_of(&proven))
}

/// What `mixdown assemble` tells, with the warnings.
pub fn assembled(assembled: &Assembled) -> Value {
    let mut value = assemble::json_of(assembled);
    if let Assembled::Now(joined) = assembled {
        value["warnings"] = render::render_json(&joined.warnings);
    }
    value
}

/// What `mixdown methods` tells: all of them, or the one of this name.
///
/// **Errors.** There is no such method, or a method file beside the recipe has mistakes.
pub fn methods(name: Option<&str>, beside: Option<&Path>) -> Result<Value, Trouble> {
    methods::document(name, beside)
}

/// What `mixdown methods NAME` tells of a method.
pub fn method(method: &Method) -> Value {
    methods::method_json(method)
}

/// Which models a method takes, in words, a line for each thing beside them.
pub fn method_inputs(method: &Method) -> String {
    methods::inputs(method)
}

/// A complete recipe with a method.
pub fn method_example(method: &Method) -> String {
    let text = methods::example(method);
    text.lines().map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line))).collect()
}
