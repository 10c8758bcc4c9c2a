//! The tensors of a model under the names that a recipe gives them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use mixdown_checkpoint::adapter::{FactorsFile, FactorsSpec, name_in, open_factors_as};
use mixdown_checkpoint::{Index, shown};
use mixdown_diagnostics::{Diagnostic, Source, codes};
use mixdown_recipe::Pattern;
use mixdown_recipe::modality::{Factors, Reading};
use mixdown_recipe::recipe::Model;

use crate::models::{self, Reference};
use crate::{Session, quantity};

/// The index with other names; those of `like` for the parts of a model that it has too.
pub fn index(
    stored: &Index,
    reading: &Reading,
    like: Option<(&str, &Index)>,
    name: &str,
) -> Result<Index, Vec<Diagnostic>> {
    if reading.is_plain() && like.is_none() {
        return Ok(stored.clone());
    }
    let unused = unused_drops(reading, stored.tensors().iter().map(|tensor| tensor.name.as_str()));
    if let Some(pattern) = unused.first() {
        return Err(vec![dead_drop(pattern, name)]);
    }
    let namer = reading.namer();
    let counterparts = Cell::new(0usize);
    let seen = stored.renamed(&|name| {
        let name = namer(name)?;
        let other = like.and_then(|(_, like)| name_in(like, &name));
        counterparts.set(counterparts.get() + usize::from(other.is_some()));
        Some(other.unwrap_or(name))
    });
    let seen = seen.map_err(|error| {
        let fault = Diagnostic::error(codes::DUPLICATE_TENSOR, error.to_string()).in_file(name);
        vec![fault.note("its names were changed as the recipe says")]
    })?;
    if seen.is_empty() && !stored.is_empty() {
        return Err(vec![nothing(stored, reading, name)]);
    }
    if let (Some(like), 0) = (like, counterparts.get()) {
        return Err(vec![no_counterpart(&seen, like, name)]);
    }
    Ok(seen)
}

/// Tells what of a checkpoint of which a part is taken no one takes.
pub fn rest(
    stored: &Index,
    reading: &Reading,
    source: &Source,
    model: &Model,
) -> Option<Diagnostic> {
    if !reading.leaves_rest {
        return None;
    }
    let namer = reading.namer();
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in stored.tensors().iter().filter(|tensor| namer(&tensor.name).is_none()) {
        let start = tensor.name.split('.').next().unwrap_or_default();
        *left.entry(start).or_default() += 1;
    }
    if left.is_empty() {
        return None;
    }
    let headline = format!("parts of the checkpoint of `{}` are not in the output", model.name);
    let mut warning = Diagnostic::warning(codes::LEFT_IN_FILE, headline);
    for (start, count) in left {
        warning = warning.fact(shown(start).into_owned(), quantity::count(count, "tensor"));
    }
    let help = "only what begins with its `prefix` is taken";
    Some(warning.help(help).at(source, model.span))
}

/// A warning where the recipe states another α than the adapter's own configuration.
pub fn overridden_alpha(file: &FactorsFile, source: &Source, model: &Model) -> Option<Diagnostic> {
    let stated = model.factors.as_ref()?.alpha.as_ref()?;
    let own = file.own_alpha.filter(|own| *own != stated.value)?;
    let headline = format!("`alpha` overrides the α that the adapter of `{}` states", model.name);
    let warning = Diagnostic::warning(codes::ALPHA_OVERRIDDEN, headline)
        .fact("recipe", stated.value.to_string())
        .fact("its configuration", own.to_string())
        .note("the update is multiplied by α through the rank")
        .help("leave `alpha` out to take that of the configuration");
    Some(warning.at(source, stated.span))
}

/// Opens a file of factors, and tells the commit that it is from.
pub fn factors(
    reference: &Reference,
    factors: &Factors,
    reading: &Reading,
    session: &Session<'_>,
) -> Result<(FactorsFile, Option<String>), Vec<Diagnostic>> {
    let path = models::located(reference, session)?;
    let namer = reading.namer();
    let names = RefCell::new(Vec::new());
    let spec = FactorsSpec {
        adapter: &factors.adapter.value,
        rank: factors.rank.as_ref().map(|rank| rank.value),
        alpha: factors.alpha.as_ref().map(|alpha| alpha.value),
        is_elsewhere: &|name| {
            names.borrow_mut().push(name.to_owned());
            namer(name).is_none()
        },
    };
    let file = open_factors_as(&reference.shown(), &path, &spec)?;
    if let Some(pattern) = unused_drops(reading, names.borrow().iter().map(String::as_str)).first()
    {
        return Err(vec![dead_drop(pattern, &file.files.name)]);
    }
    Ok((file, reference.commit_at(&path)))
}

/// The patterns of what is left out that are of no tensor.
fn unused_drops<'r, 'n>(
    reading: &'r Reading,
    names: impl Iterator<Item = &'n str> + Clone,
) -> Vec<&'r str> {
    let is_unused = |text: &&String| {
        // The decoder has refused what is no pattern.
        let pattern = Pattern::new(text).ok();
        pattern.is_none_or(|pattern| !names.clone().any(|name| pattern.matches(name)))
    };
    reading.drop.iter().filter(is_unused).map(String::as_str).collect()
}

fn dead_drop(pattern: &str, name: &str) -> Diagnostic {
    let headline = format!("`drop` leaves out nothing: no tensor has a name like `{pattern}`");
    let fault = Diagnostic::error(codes::DEAD_RULE, headline).in_file(name);
    fault.help("`mixdown inspect PATH --tensors` lists the names")
}

/// Tells what of a file of factors no part of the recipe is about.
pub fn left(file: &FactorsFile, source: &Source, model: &Model) -> Option<Diagnostic> {
    if file.left.is_empty() {
        return None;
    }
    let headline = format!("parts of the file of `{}` are not in the output", model.name);
    let mut warning = Diagnostic::warning(codes::LEFT_IN_FILE, headline);
    for (what, count) in &file.left {
        warning = warning.fact(what.clone(), quantity::count(*count, "tensor"));
    }
    Some(warning.help("`mode: damc` keeps them").at(source, model.span))
}

/// None of the tensors is a part that the model has whose names they should get.
fn no_counterpart(seen: &Index, (other, like): (&str, &Index), name: &str) -> Diagnostic {
    let headline = format!("no tensor is a part of `{other}` under any name that is known");
    Diagnostic::error(codes::TENSOR_MISSING, headline)
        .in_file(name)
        .fact("names begin with", beginnings(seen))
        .fact(format!("those of `{other}`"), beginnings(like))
        .help("`prefix: …` takes off what names begin with before they are compared")
}

/// None of the tensors is what the recipe asks for.
fn nothing(stored: &Index, reading: &Reading, name: &str) -> Diagnostic {
    let wanted: Vec<&str> = match reading.prefixes.as_slice() {
        [] => reading.only.iter().map(String::as_str).collect(),
        prefixes => prefixes.iter().map(|prefix| prefix.from.as_str()).collect(),
    };
    let headline = match reading.prefixes.is_empty() {
        true => format!("no tensor has a name like `{}`", shown(&wanted.join("`, `"))),
        false => format!("no tensor has a name that begins with `{}`", shown(&wanted.join("`, `"))),
    };
    Diagnostic::error(codes::TENSOR_MISSING, headline)
        .in_file(name)
        .fact("names begin with", beginnings(stored))
}

/// What the names of a model begin with, as a text.
fn beginnings(index: &Index) -> String {
    /// Beginnings of names in a message.
    const SHOWN: usize = 12;
    let mut starts: Vec<String> = Vec::new();
    for tensor in index.tensors() {
        // Three parts of a name tell a connector from layers.
        let parts: Vec<&str> = tensor.name.splitn(4, '.').take(3).collect();
        let start = shown(&parts.join(".")).into_owned();
        if !starts.contains(&start) {
            starts.push(start);
        }
    }
    let more = if starts.len() > SHOWN { ", …" } else { "" };
    starts.truncate(SHOWN);
    format!("{}{more}", starts.join(", "))
}
