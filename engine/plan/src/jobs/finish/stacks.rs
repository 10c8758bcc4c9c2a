//! Whether the output's config.json can say which layers the output has: refused where it cannot, because other
//! programs would make the rest at random.

use std::collections::{BTreeMap, BTreeSet};

use mixdown_checkpoint::config::{StackChange, StackFault, is_of_all_layers, restack};
use mixdown_diagnostics::{Diagnostic, codes};

use crate::families::layer;
use crate::models::request::Request;
use crate::plan::{Job, LayerChange, OutputFiles};
use crate::report::Reporter;
use crate::report::whole;

/// Layer to the ends of its tensors' names, with their shapes.
type Layers<'n> = BTreeMap<u64, BTreeSet<(&'n str, &'n [u64])>>;

/// Reports stacks that the config of the output cannot follow.
pub(super) fn check_stacks(
    request: &Request<'_>,
    output: &OutputFiles,
    jobs: &[Job],
    reporter: &mut Reporter,
) {
    let Some(donor) = output.files_from.map(|model| &request.checkpoints[model as usize]) else {
        return;
    };
    let Some(config) = donor.config else { return };
    let recipe = &request.recipes[0];
    for change in &output.layers {
        let stack = StackChange {
            prefix: change.prefix.clone(),
            before: change.before,
            sources: change.sources.clone(),
        };
        let others = output.stacks.iter().filter(|prefix| **prefix != change.prefix);
        let tensors = || donor.index.tensors().iter();
        let is_changed = !stack.sources.iter().copied().eq(0..stack.before);
        let mut all = tensors().filter(|one| is_changed && is_of_all_layers(&one.name));
        let found = match restack(&mut config.clone(), &stack, &others.cloned().collect()) {
            Err(fault) => Some(refusal(&fault, change, donor.name)),
            Ok(_) if let Some(tensor) = all.next() => Some(packed(change, "tensor", &tensor.name)),
            Ok(signatures) => {
                let stored = tensors().map(|one| (one.name.as_str(), one.shape.dimensions()));
                let before = ends(stored, &change.prefix);
                let made = jobs.iter().map(|job| (job.name.as_str(), job.shape.dimensions()));
                let after = ends(made, &change.prefix);
                misplaced(&signatures, &before, &after, change)
            }
        };
        if let Some(found) = found {
            reporter.add(found.at(&recipe.source, whole(recipe)));
        }
    }
}

fn ends<'n>(tensors: impl Iterator<Item = (&'n str, &'n [u64])>, prefix: &str) -> Layers<'n> {
    let mut layers = Layers::new();
    for (name, shape) in tensors {
        if let Some(name) = layer::split(name).filter(|name| name.prefix == prefix) {
            layers.entry(name.layer).or_default().insert((name.suffix, shape));
        }
    }
    layers
}

/// A layer that holds other tensors than programs look for at its position, where nothing in the config says of
/// which kind a layer is.
fn misplaced(
    signatures: &[String],
    before: &Layers<'_>,
    after: &Layers<'_>,
    change: &LayerChange,
) -> Option<Diagnostic> {
    let mut kinds: BTreeMap<&str, &BTreeSet<(&str, &[u64])>> = BTreeMap::new();
    let own =
        || (0..).zip(signatures).filter_map(|(layer, text)| Some((text, before.get(&layer)?)));
    let is_said = own().all(|(text, tensors)| **kinds.entry(text).or_insert(tensors) == *tensors);
    if is_said {
        return None;
    }
    // What repeats to the end goes on beyond it.
    let last = own().last().map(|(_, tensors)| tensors)?;
    let repeats = own().skip(1).all(|(_, tensors)| tensors == last);
    for (&position, tensors) in after {
        let there = before.get(&position).filter(|_| position < signatures.len() as u64);
        let wanted = match there {
            Some(there) => there,
            None if repeats => last,
            None => return Some(unknown_kind(change, position)),
        };
        if tensors == wanted {
            continue;
        }
        let source = change.sources.get(position as usize).copied().unwrap_or_default();
        let headline = format!(
            "layer {source} holds other tensors than belong at position {position} of `{}*`",
            change.prefix
        );
        let mut fault = Diagnostic::error(codes::LAYER_MISPLACED, headline);
        let shown = |(name, shape): &(&str, &[u64])| {
            format!("`{}{position}{name}` of shape {shape:?}", change.prefix)
        };
        if let Some(name) = wanted.difference(tensors).next() {
            fault = fault.fact("missing there", shown(name));
        }
        if let Some(name) = tensors.difference(wanted).next() {
            fault = fault.fact("unexpected there", shown(name));
        }
        return Some(
            fault
                .note(
                    "config.json does not say of which kind a layer is, so that its position tells",
                )
                .help("choose ranges that keep each layer at a position of its kind"),
        );
    }
    None
}

fn unknown_kind(change: &LayerChange, position: u64) -> Diagnostic {
    let headline =
        format!("of which kind layer {position} of `{}*` would be is not known", change.prefix);
    Diagnostic::error(codes::LAYER_MISPLACED, headline)
        .fact("layers before", change.before.to_string())
        .note("the layers hold different tensors, and config.json does not say which is of which kind")
        .help("choose ranges with no more layers than there are, each at a position of its kind")
}

/// `what` of `place` belongs to single layers, and cannot be put together anew.
fn packed(change: &LayerChange, place: &str, what: &str) -> Diagnostic {
    let headline = format!("the layers `{}*` cannot be put together anew", change.prefix);
    Diagnostic::error(codes::LAYERS_PACKED, headline)
        .fact(place, format!("`{what}`"))
        .note("the model holds a part for each layer in tensors of all layers, takes results behind layers that now come twice or never, or has layers that take keys and values of others by their numbers")
        .help("merge the models whole with `models`, or keep the layers that are named there, once and in order")
}

fn refusal(fault: &StackFault, change: &LayerChange, donor: &str) -> Diagnostic {
    let prefix = &change.prefix;
    let uncounted = |headline: String| {
        Diagnostic::error(codes::LAYERS_NOT_COUNTED, headline)
            .fact("layers before", change.before.to_string())
            .fact("layers in the output", change.sources.len().to_string())
            .fact("config.json", format!("of {donor}"))
    };
    let whole = "take the layers of this stack whole";
    match fault {
        StackFault::NotCounted => {
            uncounted(format!("config.json does not count the layers `{prefix}*`"))
                .note("programs that load the output would look for as many as before")
                .help(whole)
        }
        StackFault::Several(keys) => {
            uncounted(format!("several keys of config.json may count the layers `{prefix}*`"))
                .fact(
                    "keys",
                    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "),
                )
                .help(whole)
        }
        StackFault::Packed(key) => packed(change, "config.json", key),
        StackFault::Position { key, position, layer } => {
            let headline = format!(
                "layer {layer} is of another kind than position {position} of `{prefix}*` asks for"
            );
            Diagnostic::error(codes::LAYER_MISPLACED, headline)
                .fact("config.json", format!("`{key}` tells the kinds by positions"))
                .help("choose ranges that keep each layer at a position of its kind")
        }
        StackFault::Predictor(layer) => {
            let headline = format!(
                "layer {layer} of `{prefix}*` predicts further tokens, and is none of the stack"
            );
            Diagnostic::error(codes::LAYERS_PAST_END, headline)
                .note("its number follows those of the layers, which config.json counts without it")
                .help("end the range before it")
        }
    }
}
