//! The index of a sharded checkpoint: which file holds which tensor.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path};

use mixdown_diagnostics::{Diagnostic, Source, Span, codes};
use serde::Deserialize;

use crate::index::TensorEntry;
use crate::pairs::{Pairs, place_in, span};
use crate::shown::{shown, some_of};
use crate::small;

/// An index, not yet compared with the files it names.
pub(super) struct WeightMap {
    source: Source,
    /// Tensor, file, and where the file is named in the text.
    entries: Vec<(String, String, usize)>,
}

impl WeightMap {
    /// Reads an index.
    pub fn read(path: &Path, name: &str) -> Result<Self, Vec<Diagnostic>> {
        let source = small::text(path, name).map_err(|fault| vec![*fault])?;
        let file: IndexFile<'_> = serde_json::from_str(source.text())
            .map_err(|error| vec![small::not_json(codes::INDEX_BROKEN, &source, &error)])?;
        let mut entries = Vec::new();
        let mut faults = Vec::new();
        let mut known = HashSet::with_capacity(file.weight_map.0.len());
        for (tensor, raw) in &file.weight_map.0 {
            let at = place_in(source.text(), raw);
            let fault = |what: &str| {
                let headline = format!("the index {what} `{}`", shown(tensor));
                Diagnostic::error(codes::INDEX_BROKEN, headline)
                    .at(&source, span(&source, at, raw.get()))
            };
            if !known.insert(tensor.as_str()) {
                faults.push(fault("names two files for"));
            } else if let Ok(shard) = serde_json::from_str::<String>(raw.get()) {
                entries.push((tensor.clone(), shard, at));
            } else {
                faults.push(fault("does not name a file for"));
            }
        }
        if entries.is_empty() && faults.is_empty() {
            let fault = Diagnostic::error(codes::INDEX_BROKEN, "the index names no tensor");
            faults.push(fault.in_file(name));
        }
        if faults.is_empty() { Ok(Self { source, entries }) } else { Err(few(faults)) }
    }

    /// The files, sorted; those outside the folder are faults.
    pub fn files(&self, faults: &mut Vec<Diagnostic>) -> Vec<&str> {
        let mut files: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, file, at) in &self.entries {
            files.entry(file).or_insert(*at);
        }
        let mut escaping = Vec::new();
        files.retain(|file, at| {
            let stays = stays_inside(file);
            if !stays {
                let headline =
                    format!("the index names a file outside its folder: `{}`", shown(file));
                escaping.push(
                    Diagnostic::error(codes::INDEX_ESCAPES, headline)
                        .at(&self.source, self.file_span(file, *at))
                        .help("fetch the index again from a source that you trust"),
                );
            }
            stays
        });
        faults.extend(few(escaping));
        files.into_keys().collect()
    }

    /// The message about a file that is not there.
    pub fn missing(&self, file: &str, dangling: bool) -> Diagnostic {
        let mentions: Vec<_> = self.entries.iter().filter(|entry| entry.1 == file).collect();
        let headline = format!("the index names `{}`, which is not there", shown(file));
        let mut fault = Diagnostic::error(codes::SHARD_MISSING, headline);
        if let Some((_, _, at)) = mentions.first() {
            fault = fault.at(&self.source, self.file_span(file, *at));
        }
        if dangling {
            fault = fault.note("a link of that name is there, but leads nowhere");
        }
        let tensors: Vec<&str> = mentions.iter().map(|entry| entry.0.as_str()).collect();
        fault.fact("it holds", some_of(&tensors)).help("fetch this file, or the whole model again")
    }

    /// Holds the index against the headers of the files that could be read. `read[i]` is the name
    /// of the file with shard number `i`; names in `twice` have a message already.
    pub fn compare(
        &self,
        read: &[&str],
        tensors: &[TensorEntry],
        twice: &[&str],
        faults: &mut Vec<Diagnostic>,
    ) {
        let twice: HashSet<&str> = twice.iter().copied().collect();
        let readable: HashSet<&str> = read.iter().copied().collect();
        let mut places: HashMap<&str, &str> = HashMap::with_capacity(tensors.len());
        for tensor in tensors {
            places.insert(&tensor.name, read[tensor.shard as usize]);
        }
        let mut lacking: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut listed: HashSet<(&str, &str)> = HashSet::with_capacity(self.entries.len());
        for (tensor, file, _) in &self.entries {
            listed.insert((tensor, file));
            if readable.contains(file.as_str())
                && places.get(tensor.as_str()) != Some(&file.as_str())
                && !twice.contains(tensor.as_str())
            {
                lacking.entry(file).or_default().push(tensor);
            }
        }
        let mut omitted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for tensor in tensors {
            let file = read[tensor.shard as usize];
            if !listed.contains(&(&tensor.name, file)) && !twice.contains(tensor.name.as_str()) {
                omitted.entry(file).or_default().push(&tensor.name);
            }
        }
        let fault = |what: String, names: &[&str]| {
            Diagnostic::error(codes::INDEX_BROKEN, what)
                .in_file(self.source.name())
                .fact("tensors", some_of(names))
                .help("fetch the model again; its index belongs to other files")
        };
        for (file, names) in lacking {
            let tensors = count(names.len());
            let them = if names.len() == 1 { "it" } else { "them" };
            let what =
                format!("the index places {tensors} in `{}`, which lacks {them}", shown(file));
            faults.push(fault(what, &names));
        }
        for (file, names) in omitted {
            let tensors = count(names.len());
            let what = format!("the index does not place {tensors} of `{}` there", shown(file));
            faults.push(fault(what, &names));
        }
    }

    fn file_span(&self, file: &str, at: usize) -> Span {
        let mut span = span(&self.source, at, "");
        span.length = file.chars().count() as u32 + 2;
        span
    }
}

fn count(tensors: usize) -> String {
    format!("{tensors} {}", if tensors == 1 { "tensor" } else { "tensors" })
}

/// Whether a name cannot lead out of the folder that it is joined to. Links are allowed: the hub's
/// cache is made of them.
fn stays_inside(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    // A backslash or a drive would be one on another system.
    let portable = !file.contains(['\\', '\0']) && file.as_bytes().get(1) != Some(&b':');
    portable && !file.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Messages that repeat one fault are cut to twenty.
fn few(mut faults: Vec<Diagnostic>) -> Vec<Diagnostic> {
    const FEW: usize = 20;
    let untold = faults.len().saturating_sub(FEW);
    faults.truncate(FEW);
    if let Some(last) = faults.last_mut().filter(|_| untold > 0) {
        last.notes.push(format!("{untold} more faults of this kind are not shown"));
    }
    faults
}

#[derive(Deserialize)]
struct IndexFile<'a> {
    #[serde(borrow)]
    weight_map: Pairs<'a>,
}
