//! What lies beside the weights of models, looked at while a merge is planned: whatever would stop or
//! change the merge is told by `check` and `plan`, too, before the first byte.

use std::path::{Path, PathBuf};

use mixdown_checkpoint::links::{LeadingOut, leading_out};
use mixdown_checkpoint::{Checkpoint, Form, shown, shown_path, side_files};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_plan::Plan;

use crate::merge::files::tokenizer_files;
use crate::recipes::{Input, Loaded};

/// Files beside the weights that are read, whichever model gives its files to the output.
const READ: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Names of links that one message lists.
const MOST_LINKS: usize = 8;

/// The model whose files the output takes over, if it takes any.
pub fn donor<'l>(loaded: &'l Loaded, plan: &Plan) -> Option<&'l Input> {
    let takes = loaded.composition.as_ref().is_none_or(|composition| composition.is_whole);
    let position = plan.output.files_from.filter(|_| takes)?;
    Some(&loaded.models[position as usize])
}

/// What is wrong with the files beside weights, and what should be known of them.
pub fn check(loaded: &Loaded, plan: Option<&Plan>, follow_links: bool) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let donor = plan.and_then(|plan| donor(loaded, plan));
    let mut taken = Vec::new();
    if let Some(donor) = donor.filter(|donor| donor.model.checkpoint.form == Form::Folder) {
        let root = &donor.model.checkpoint.root;
        match side_files::side_files(root) {
            Err(fault) => found.push(*fault),
            Ok(files) => {
                found.extend(files.warning(root));
                taken = files.names.iter().map(|name| root.join(name)).collect();
            }
        }
        match side_files::module_folders(root) {
            Err(fault) => found.push(*fault),
            Ok(folders) => taken.extend(folders.iter().flat_map(|folder| {
                folder.files.iter().map(|file| root.join(&folder.name).join(file))
            })),
        }
    }
    if !follow_links {
        for input in &loaded.models {
            let is_donor = donor.is_some_and(|donor| std::ptr::eq(donor, input));
            let more = if is_donor { taken.as_slice() } else { &[] };
            let root = &input.model.checkpoint.root;
            for part in input.model.of_disk() {
                // Of a model that was put together, one part gives the files.
                let more = if part.checkpoint.root == *root { more } else { &[] };
                found.extend(links(&part.checkpoint, more));
            }
        }
        found.extend(
            loaded
                .adapters
                .iter()
                .filter_map(|on| {
                    let own = &loaded.models[on.own as usize];
                    links_of_adapter(own).transpose()
                })
                .map(|fault| fault.unwrap_or_else(|fault| *fault)),
        );
    }
    // A model that stands in the recipe twice is read once in each of its forms.
    let mut told: Vec<Diagnostic> = Vec::with_capacity(found.len());
    for diagnostic in found {
        if !told.contains(&diagnostic) {
            told.push(diagnostic);
        }
    }
    told
}

/// The files of a model that lie outside of its folder.
pub fn links(checkpoint: &Checkpoint, taken: &[PathBuf]) -> Option<Diagnostic> {
    if checkpoint.form != Form::Folder {
        return None;
    }
    let read = READ.iter().map(|name| checkpoint.root.join(name));
    links_among(checkpoint, &read.chain(taken.iter().cloned()).collect::<Vec<_>>())
}

/// The files of an adapter's folder that lie outside of it. A single file is where its user says.
fn links_of_adapter(input: &Input) -> Result<Option<Diagnostic>, Box<Diagnostic>> {
    if Path::new(&input.reference).is_file() {
        return Ok(None);
    }
    let checkpoint = &input.model.checkpoint;
    let mut read = tokenizer_files(&checkpoint.root)?;
    read.push("adapter_config.json".to_owned());
    let read: Vec<PathBuf> = read.iter().map(|name| checkpoint.root.join(name)).collect();
    Ok(links_among(checkpoint, &read))
}

/// The weights of a model, and which of some files beside them, that lie outside of its folder.
fn links_among(checkpoint: &Checkpoint, beside: &[PathBuf]) -> Option<Diagnostic> {
    let root = &checkpoint.root;
    // What is computed from an adapter and its base reads the base's files, too.
    let weights = checkpoint.index.shards().iter().map(|shard| shard.path.as_path());
    let own = weights.filter(|path| path.starts_with(root));
    let files = own.chain(beside.iter().map(PathBuf::as_path));
    let mut out: Vec<LeadingOut> = leading_out(root, files);
    out.sort_by(|a, b| a.file.cmp(&b.file));
    out.dedup();
    let name = |one: &LeadingOut| shown_path(one.file.strip_prefix(root).unwrap_or(&one.file));
    let headline = match out.as_slice() {
        [] => return None,
        [one] => format!("`{}` is a link that leads out of the model's folder", name(one)),
        several => format!("{} files are links that lead out of the model's folder", several.len()),
    };
    let mut fault =
        Diagnostic::error(codes::LINK_LEADS_OUT, headline).in_file(shown(&checkpoint.name));
    for one in out.iter().take(MOST_LINKS) {
        fault = fault.fact(name(one), format!("leads to {}", shown_path(&one.target)));
    }
    if out.len() > MOST_LINKS {
        fault = fault.note(format!("and {} more", out.len() - MOST_LINKS));
    }
    let help = "copy the files into the folder, or, if they are what the model should have, add \
                `--follow-links`";
    Some(fault.help(help))
}
