//! Whether models that are merged mean the same tokens by the same rows, as their tokenizer.json says.

use std::collections::HashMap;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::Recipe;
use serde_json::Value;

use super::{Input, Loader, read_json};

impl Loader<'_> {
    /// Warns where two models of a recipe that keeps its vocabulary give the same tokens other ids. `sources` are
    /// the positions of the recipe's models among all.
    pub(super) fn compare_tokens(&mut self, recipe: &Recipe, sources: &[(usize, u32)]) {
        if recipe.tokenizer.is_some() || recipe.modality.is_some() || sources.len() < 2 {
            return;
        }
        let (first, others) = (&self.models[sources[0].1 as usize], &sources[1..]);
        let Some(of_first) = bytes(first) else { return };
        let mut known: Option<HashMap<String, u64>> = None;
        let mut warnings = Vec::new();
        for &(model, position) in others {
            let other = &self.models[position as usize];
            // The same file, or none, needs no second look.
            let Some(_) = bytes(other).filter(|bytes| *bytes != of_first) else { continue };
            if known.is_none() {
                known = read_json(&first.model, FILE).ok().flatten().map(|file| ids(&file));
            }
            let (Some(ours), Ok(Some(file))) = (&known, read_json(&other.model, FILE)) else {
                continue;
            };
            let theirs = ids(&file);
            let mut moved: Vec<(&String, u64, u64)> = theirs
                .iter()
                .filter_map(|(token, id)| Some((token, *ours.get(token)?, *id)))
                .filter(|(_, ours, theirs)| ours != theirs)
                .collect();
            if moved.is_empty() {
                continue;
            }
            moved.sort_by_key(|(_, id, _)| *id);
            let (token, ours, theirs) = moved[0];
            let (a, b) = (&first.name, &recipe.models[model].name);
            let headline = format!("`{a}` and `{b}` have different ids for the same tokens");
            let warning = Diagnostic::warning(codes::TOKENS_DIFFER, headline)
                .fact("tokens", moved.len().to_string())
                .fact("first", format!("{token:?} is {ours} in `{a}`, {theirs} in `{b}`"))
                .note("rows of the embeddings that mean different tokens are merged with each other")
                .help("bring the vocabularies together with `tokenizer_source: union`, or `tokenizer: {source: union}`");
            warnings.push(warning.at(&recipe.source, recipe.models[model].span));
        }
        self.diagnostics.extend(warnings);
    }
}

const FILE: &str = "tokenizer.json";

fn bytes(input: &Input) -> Option<Vec<u8>> {
    /// The largest vocabularies take a tenth of it.
    const LARGEST: u64 = 256 << 20;
    let path = input.model.checkpoint.root.join(FILE);
    let is_read =
        std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= LARGEST);
    is_read.then(|| std::fs::read(path).ok()).flatten()
}

/// The id of each token, of a tokenizer of any kind.
fn ids(file: &Value) -> HashMap<String, u64> {
    let mut ids = HashMap::new();
    match file.get("model").and_then(|model| model.get("vocab")) {
        Some(Value::Object(entries)) => {
            ids.extend(
                entries.iter().filter_map(|(token, id)| Some((token.clone(), id.as_u64()?))),
            );
        }
        // Unigram lists pairs of token and score; the position is the id.
        Some(Value::Array(entries)) => {
            let token = |(id, entry): (u64, &Value)| Some((entry.get(0)?.as_str()?.to_owned(), id));
            ids.extend((0..).zip(entries).filter_map(token));
        }
        _ => {}
    }
    for token in file.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let (content, id) = (token.get("content"), token.get("id"));
        if let (Some(content), Some(id)) =
            (content.and_then(Value::as_str), id.and_then(Value::as_u64))
        {
            ids.insert(content.to_owned(), id);
        }
    }
    ids
}
