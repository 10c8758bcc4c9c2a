//! Tokenizers of models: read for recipes that make a new one of them, within the memory of the merge; and
//! whether models that are merged mean the same tokens by the same rows.

use std::io;

use mixdown_checkpoint::{Form, bytes_text, shown_path};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::read_limited;
use mixdown_plan::{TokenizerFile, json_within};
use mixdown_recipe::Recipe;
use serde_json::Value;

use super::{Input, Loader, apart};
use crate::models::Model;

/// Longest file that is read: four times the largest of known models.
const LARGEST: u64 = 128 << 20;

/// Bytes in memory for each byte of a file while it is read: the text, and what is made of it.
const READING: u64 = 3;

const FILE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";

/// What reading tokenizers may still take of the memory of a merge.
pub(crate) struct Budget {
    whole: u64,
    left: u64,
}

impl Budget {
    pub fn new(whole: u64) -> Self {
        Self { whole, left: whole }
    }

    /// Values of a tree that have room.
    fn values(&self) -> u64 {
        self.left / TokenizerFile::VALUE_BYTES
    }

    fn too_large(&self, model: &Model, name: &str, needed: u64) -> Box<Diagnostic> {
        let headline = format!("`{name}` takes more memory than the merge may use");
        let used = self.whole - self.left;
        let mut error = Diagnostic::error(codes::TOKENIZER_TOO_LARGE, headline)
            .in_file(shown_path(&model.checkpoint.root.join(name)))
            .fact("needed", bytes_text(needed))
            .fact("memory", bytes_text(self.whole));
        if used > 0 {
            error = error.note(format!("{} of it are for the tokenizers before", bytes_text(used)));
        }
        let enough = used.saturating_add(needed).div_ceil(1_000_000);
        Box::new(error.help(format!("allow more with `--memory {enough}MB`")))
    }

    /// The bytes of a file beside the weights of a model; none if it is not there.
    pub(super) fn read(
        &self,
        model: &Model,
        name: &str,
    ) -> Result<Option<Vec<u8>>, Box<Diagnostic>> {
        if model.checkpoint.form != Form::Folder {
            return Ok(None);
        }
        let path = model.checkpoint.root.join(name);
        let length = std::fs::metadata(&path).map_or(0, |found| found.len());
        if length <= LARGEST && length.saturating_mul(READING) > self.left {
            return Err(self.too_large(model, name, length.saturating_mul(READING)));
        }
        let failed = |what: String| {
            let headline = format!("`{name}` cannot be read{what}");
            Diagnostic::error(codes::UNREADABLE, headline).in_file(shown_path(&path))
        };
        match read_limited(&path, LARGEST) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(Box::new(
                failed(": it is too large".to_owned())
                    .fact("limit", format!("{} MiB", LARGEST >> 20))
                    .note("the largest tokenizers have about 35 MB"),
            )),
            Err(error) => Err(Box::new(failed(format!(": {error}")))),
        }
    }

    /// The tokenizer of a model; none if its folder has none.
    pub fn tokenizer(&mut self, model: &Model) -> Result<Option<TokenizerFile>, Box<Diagnostic>> {
        let found = match self.read(model, FILE)? {
            Some(bytes) => {
                let file = TokenizerFile::parse(&bytes, self.values());
                Some((file.map_err(|error| broken(model, FILE, &error))?, FILE.to_owned()))
            }
            None => apart::tokenizer(self, model, self.config(model)?.as_ref())?,
        };
        let Some((file, name)) = found else { return Ok(None) };
        let needed = file.working_bytes();
        match self.left.checked_sub(needed) {
            Some(left) => self.left = left,
            None => return Err(self.too_large(model, &name, needed)),
        }
        Ok(Some(file))
    }

    /// What stands beside the tokenizer.
    pub fn config(&self, model: &Model) -> Result<Option<Value>, Box<Diagnostic>> {
        self.json(model, CONFIG)
    }

    /// What older tokenizers have beside it.
    pub fn notes(&self, model: &Model) -> Result<Option<Value>, Box<Diagnostic>> {
        self.json(model, "special_tokens_map.json")
    }

    pub(super) fn json(&self, model: &Model, name: &str) -> Result<Option<Value>, Box<Diagnostic>> {
        let Some(bytes) = self.read(model, name)? else { return Ok(None) };
        json_within(&bytes, self.values()).map(Some).map_err(|error| broken(model, name, &error))
    }
}

fn broken(model: &Model, name: &str, error: &serde_json::Error) -> Box<Diagnostic> {
    let headline = format!("`{name}` cannot be understood: {error}");
    let path = model.checkpoint.root.join(name);
    Box::new(Diagnostic::error(codes::CONFIG_BROKEN, headline).in_file(shown_path(&path)))
}

impl Loader<'_> {
    /// Reads the tokenizers of all models, for a recipe that makes a new one of them. False where one cannot be
    /// read.
    pub(super) fn read_tokenizers(&mut self) -> bool {
        let before = self.diagnostics.len();
        let mut budget = Budget::new(self.memory_bytes);
        for input in &mut self.models {
            match budget.tokenizer(&input.model) {
                Ok(found) => input.tokenizer = found,
                Err(found) => self.diagnostics.push(*found),
            }
            match budget.config(&input.model) {
                Ok(found) => input.tokenizer_config = found,
                Err(found) => self.diagnostics.push(*found),
            }
        }
        self.diagnostics.len() == before
    }

    /// Warns where two models of a recipe that keeps its vocabulary give the same tokens other ids. `sources` are
    /// the positions of the recipe's models among all.
    pub(super) fn compare_tokens(&mut self, recipe: &Recipe, sources: &[(usize, u32)]) {
        if recipe.tokenizer.is_some() || recipe.modality.is_some() || sources.len() < 2 {
            return;
        }
        // Two files and what is made of them at a time.
        let budget = Budget::new(self.memory_bytes / 2);
        let bytes = |input: &Input| budget.read(&input.model, FILE).ok().flatten();
        let parse = |bytes: &[u8]| TokenizerFile::parse(bytes, budget.values()).ok();
        let (first, others) = (&self.models[sources[0].1 as usize], &sources[1..]);
        let Some(of_first) = bytes(first) else { return };
        let mut known: Option<TokenizerFile> = None;
        let mut warnings = Vec::new();
        for &(model, position) in others {
            let other = &self.models[position as usize];
            // The same file, or none, needs no second look.
            let Some(theirs) = bytes(other).filter(|bytes| *bytes != of_first) else { continue };
            if known.is_none() {
                known = parse(&of_first);
            }
            let (Some(ours), Some(theirs)) = (&known, parse(&theirs)) else { continue };
            let (ours, theirs) = (ours.ids(), theirs.ids());
            let mut moved: Vec<(&str, u64, u64)> = theirs
                .iter()
                .filter_map(|(token, id)| Some((*token, *ours.get(token)?, *id)))
                .filter(|(_, ours, theirs)| ours != theirs)
                .collect();
            if moved.is_empty() {
                continue;
            }
            moved.sort_by_key(|(token, id, _)| (*id, *token));
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
