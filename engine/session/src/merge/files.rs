//! The files beside the weights: config.json with what changed changed, the model card, and what the
//! model brings along.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use mixdown_checkpoint::card::{CARD_NAME, Card, CardMethod, CardModel};
use mixdown_checkpoint::config::{ConfigChanges, StackChange, leave_out_packing, rewrite_config};
use mixdown_checkpoint::manifest::RecipeRecord;
use mixdown_checkpoint::output::OutputFolder;
use mixdown_checkpoint::shown::some_of;
use mixdown_checkpoint::side_files::{self, ModuleFolder};
use mixdown_checkpoint::small::same_bytes;
use mixdown_checkpoint::{Form, shown, shown_path, small};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_plan::GgufOutput;
use mixdown_recipe::setting::Spanned;
use mixdown_tensor::DType;
use serde_json::Value;

use super::gguf_tokenizer::Beside;
use super::{MergeRequest, adapter, chat_template, gguf};
use crate::Session;
use crate::beside;
use crate::planning::Planned;
use crate::recipes::Input;

const CONFIG_NAME: &str = "config.json";

/// Files that describe a vocabulary, as the one that a merge made anew does.
const VOCABULARY_FILES: [&str; 6] = [
    "added_tokens.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
];

/// Files of which one makes a tokenizer.
const TOKENIZERS: [&str; 4] = ["tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json"];

/// What else belongs to a tokenizer.
const TOKENIZER_NOTES: [&str; 5] = [
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

fn is_of_tokenizer(name: &str) -> bool {
    TOKENIZERS.contains(&name)
        || VOCABULARY_FILES.contains(&name)
        || TOKENIZER_NOTES.contains(&name)
        || side_files::is_further_template(name)
}

/// Says that a GGUF file, which has one chat template, leaves others out.
fn further_templates_left(folder: &Path) -> Result<Option<Diagnostic>, Box<Diagnostic>> {
    let mut names = side_files::side_files(folder)?.names;
    names.retain(|name| side_files::is_further_template(name));
    if names.is_empty() {
        return Ok(None);
    }
    let headline = "further chat templates of the model are not in the GGUF file";
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Ok(Some(
        Diagnostic::warning(codes::NOT_COPIED, headline)
            .in_file(shown_path(folder))
            .fact("left out", some_of(&names))
            .note("the file has the model's first template alone"),
    ))
}

/// The files of a folder that make its tokenizer.
pub fn tokenizer_files(folder: &Path) -> Result<Vec<String>, Box<Diagnostic>> {
    let names = side_files::side_files(folder)?.names;
    Ok(names.into_iter().filter(|name| is_of_tokenizer(name)).collect())
}

/// What will stand beside the weights.
#[derive(Debug, Default)]
pub struct Files {
    /// Files that are written: name and content.
    made: Vec<(String, String)>,
    /// Files that are copied: name and where from.
    copied: Vec<(String, PathBuf)>,
    /// Their bytes, about.
    pub bytes: u64,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
    /// The header of the GGUF file that is written.
    pub gguf: Option<gguf::Head>,
}

/// Decides which files the output gets.
pub fn choose(
    planned: &Planned,
    request: &MergeRequest,
    session: &Session<'_>,
) -> Result<Files, Box<Diagnostic>> {
    let mut files = Files { made: planned.plan.output.files.clone(), ..Files::default() };
    let adapter = planned.plan.output.adapter.as_ref();
    let composition = planned.loaded.composition.as_ref();
    if let (Some(adapter), None) = (adapter, composition) {
        let config = adapter::config(planned, adapter);
        files.made.push((adapter::CONFIG_NAME.to_owned(), config));
    }
    let is_one_file = match composition {
        None => adapter.is_some(),
        Some(composition) => !composition.is_whole,
    };
    if is_one_file && request.shard_bytes.is_some() {
        let headline = "`--shard-size` has no effect: an adapter is one file of weights";
        files.warnings.push(Diagnostic::warning(codes::IGNORED_KEY, headline));
    }
    if let Some(composition) = composition {
        let recipe = RecipeRecord::new(&planned.loaded.text, request.recipe.overrides());
        let config = changed(&composition.config(&recipe.sha256, session.places)?, planned);
        files.made.push((CONFIG_NAME.to_owned(), format!("{config:#}\n")));
    }
    if let Some(wanted) = &planned.plan.output.gguf {
        files.head(wanted, planned)?;
    } else if let Some(donor) = beside::donor(&planned.loaded, &planned.plan) {
        let checkpoint = &donor.model.checkpoint;
        match &checkpoint.config {
            _ if composition.is_some() => {}
            Some(config) => {
                let mut config = changed(config, planned);
                files.warnings.extend(without_quantization(&mut config, planned));
                describe_quantization(&mut config, planned);
                files.made.push((CONFIG_NAME.to_owned(), format!("{config:#}\n")));
            }
            None => files.warnings.push(
                Diagnostic::warning(
                    codes::NOT_COPIED,
                    format!("`{}` has no config.json", donor.name),
                )
                .in_file(shown_path(&checkpoint.root))
                .note("the output has none either, so other programs cannot load it by its folder"),
            ),
        }
        if let Some(vocabulary) = &donor.model.vocabulary {
            files.made.extend(vocabulary.made.iter().cloned());
        }
        if checkpoint.form == Form::Folder {
            files.copy_from(&checkpoint.root)?;
            files.copy_modules(donor, planned)?;
        }
        if let Some(vocabulary) = &donor.model.vocabulary {
            files.copied.retain(|(name, _)| !is_of_tokenizer(name));
            files.copy(&vocabulary.folder, vocabulary.names.clone());
        }
        files.take_tokenizer(planned)?;
    }
    let is_gguf = planned.plan.output.gguf.is_some();
    if let Some(wanted) = planned.loaded.recipes[0].chat_template.as_ref().filter(|_| !is_gguf) {
        files.set_chat_template(wanted, planned)?;
    }
    let card = card(planned, request.recipe.overrides()).to_markdown();
    files.made.push((CARD_NAME.to_owned(), card));
    files.bytes += files.made.iter().map(|(_, text)| text.len() as u64).sum::<u64>();
    Ok(files)
}

impl Files {
    /// Makes the header of a GGUF file, which holds all that stands in files beside other weights.
    fn head(&mut self, wanted: &GgufOutput, planned: &Planned) -> Result<(), Box<Diagnostic>> {
        let Some(donor) = beside::donor(&planned.loaded, &planned.plan) else { return Ok(()) };
        let checkpoint = &donor.model.checkpoint;
        let config = changed(checkpoint.config.as_ref().unwrap_or(&Value::Null), planned);
        let folder = (checkpoint.form == Form::Folder).then_some(checkpoint.root.as_path());
        let mut template = None;
        if let Some(wanted) = &planned.loaded.recipes[0].chat_template {
            template = chat_template::text(&wanted.value, &planned.loaded)?;
        }
        let has_template = template.is_some();
        let text = |name: &str| -> Result<Option<String>, Box<Diagnostic>> {
            if let Some((_, text)) = self.made.iter().find(|(made, _)| made == name) {
                return Ok(Some(text.clone()));
            }
            let Some(path) = folder.map(|folder| folder.join(name)) else { return Ok(None) };
            let source = small::text_if_there(&path, &shown_path(&path))?;
            Ok(source.map(|source| source.text().to_owned()))
        };
        let pieces = folder.map(|folder| folder.join("tokenizer.model"));
        let beside = Beside {
            tokenizer: text("tokenizer.json")?,
            settings: text(chat_template::CONFIG_NAME)?,
            template: match template {
                Some(template) => Some(template),
                None => text(chat_template::NAME)?,
            },
            pieces: match pieces {
                Some(path) => small::bytes_if_there(&path, &shown_path(&path))?,
                None => None,
            },
        };
        let head = gguf::head(wanted, &title(planned), &config, &beside)?;
        self.warnings.extend(head.warnings.iter().cloned());
        if let Some(folder) = folder.filter(|_| !has_template) {
            self.warnings.extend(further_templates_left(folder)?);
        }
        self.made.clear();
        self.gguf = Some(head);
        Ok(())
    }

    /// Takes over what lies beside a model's weights, except what the merge makes itself.
    fn copy_from(&mut self, folder: &Path) -> Result<(), Box<Diagnostic>> {
        let names = side_files::side_files(folder)?.names;
        let is_made = |name: &str| self.made.iter().any(|(made, _)| made == name);
        let has_new_vocabulary = is_made("tokenizer.json");
        let names: Vec<String> = names
            .into_iter()
            .filter(|name| name != CONFIG_NAME && !is_made(name))
            .filter(|name| !(has_new_vocabulary && VOCABULARY_FILES.contains(&name.as_str())))
            .collect();
        self.copy(folder, names);
        Ok(())
    }

    fn copy(&mut self, folder: &Path, names: Vec<String>) {
        for name in names {
            let path = folder.join(&name);
            self.bytes += std::fs::metadata(&path).map_or(0, |found| found.len());
            self.copied.push((name, path));
        }
    }

    /// Takes over the folders that the model's `modules.json` names. Their weights are the model's own, which is
    /// told where other models have others.
    fn copy_modules(&mut self, donor: &Input, planned: &Planned) -> Result<(), Box<Diagnostic>> {
        let root = &donor.model.checkpoint.root;
        for folder in side_files::module_folders(root)? {
            for file in &folder.files {
                let (name, path) =
                    (format!("{}/{file}", folder.name), root.join(&folder.name).join(file));
                self.bytes += std::fs::metadata(&path).map_or(0, |found| found.len());
                self.copied.push((name, path));
            }
            if !folder.holds_weights {
                continue;
            }
            let others = planned.loaded.own_models().filter(|other| !std::ptr::eq(*other, donor));
            let differing: Vec<&str> = others
                .filter(|other| other.model.checkpoint.form == Form::Folder)
                .filter(|other| differs(&folder, root, &other.model.checkpoint.root))
                .map(|other| other.name.as_str())
                .collect();
            if differing.is_empty() {
                continue;
            }
            let name = shown(&folder.name).into_owned();
            let headline =
                format!("the weights in `{name}` are those of `{}`, and not merged", donor.name);
            self.warnings.push(
                Diagnostic::warning(codes::MODULE_NOT_MERGED, headline)
                    .fact("others", differing.join(", "))
                    .note(format!("each folder within a model is a model of its own: `{}/{name}`", donor.name))
                    .help("merge these folders by a recipe that names them, and put the result in place of the copy"),
            );
        }
        Ok(())
    }

    /// Takes the tokenizer from the one adapter that the merge has, where that brings one: it was trained with
    /// it, and its new tokens have names there alone.
    fn take_tokenizer(&mut self, planned: &Planned) -> Result<(), Box<Diagnostic>> {
        let loaded = &planned.loaded;
        let [on_base] = loaded.adapters.as_slice() else { return Ok(()) };
        let input = &loaded.models[on_base.own as usize];
        let root = &input.model.checkpoint.root;
        let has_new_vocabulary = self.made.iter().any(|(name, _)| name == "tokenizer.json");
        let is_only = loaded.own_models().count() <= 2;
        let is_there = |name: &str| root.join(name).is_file();
        // What lies beside a single file may belong to anything.
        let is_file = Path::new(&input.reference).is_file();
        if has_new_vocabulary
            || is_file
            || !is_only
            || !TOKENIZERS.iter().any(|name| is_there(name))
        {
            return Ok(());
        }
        let own = tokenizer_files(root)?;
        let is_equal = own.iter().all(|name| {
            let known = self.copied.iter().find(|(copied, _)| copied == name);
            known.is_some_and(|(_, path)| same_bytes(path, &root.join(name)))
        });
        if is_equal {
            return Ok(());
        }
        self.copied.retain(|(name, _)| !is_of_tokenizer(name));
        self.copy(root, own);
        let headline =
            format!("the tokenizer of the output is that of the adapter `{}`", input.reference);
        let note = "it lies beside the adapter's weights and differs from the base's";
        self.warnings.push(
            Diagnostic::warning(codes::TOKENIZER_OF_ADAPTER, headline)
                .note(note)
                .help("state `tokenizer_source: base` to keep the base's"),
        );
        Ok(())
    }

    /// Gives the tokenizer the template that the recipe wants, where transformers looks for it first, and takes
    /// others away that could be read instead.
    fn set_chat_template(
        &mut self,
        wanted: &Spanned<String>,
        planned: &Planned,
    ) -> Result<(), Box<Diagnostic>> {
        let recipe = &planned.loaded.recipes[0];
        let unused = |headline: &str| {
            Diagnostic::warning(codes::NO_CHAT_TEMPLATE, headline).at(&recipe.source, wanted.span)
        };
        let names =
            self.made.iter().map(|(name, _)| name).chain(self.copied.iter().map(|(name, _)| name));
        if !names.into_iter().any(|name| chat_template::TOKENIZER_FILES.contains(&name.as_str())) {
            let headline = "no tokenizer is written, so that a chat template has no effect";
            self.warnings.push(unused(headline));
            return Ok(());
        }
        let Some(text) = chat_template::text(&wanted.value, &planned.loaded)? else {
            let headline = "none of the models has a chat template";
            self.warnings.push(unused(headline).help("name one, or write its text"));
            return Ok(());
        };
        self.copied.retain(|(name, _)| !chat_template::is_other(name));
        self.without_own_template()?;
        self.made.push((chat_template::NAME.to_owned(), text));
        Ok(())
    }

    /// Takes the template out of tokenizer_config.json.
    fn without_own_template(&mut self) -> Result<(), Box<Diagnostic>> {
        let name = chat_template::CONFIG_NAME;
        if let Some((_, text)) = self.made.iter_mut().find(|(made, _)| made == name) {
            if let Some(changed) = chat_template::without(text) {
                *text = changed;
            }
            return Ok(());
        }
        let Some(at) = self.copied.iter().position(|(copied, _)| copied == name) else {
            return Ok(());
        };
        let text = chat_template::read(&self.copied[at].1)?;
        if let Some(changed) = chat_template::without(&text) {
            self.copied.remove(at);
            self.made.push((name.to_owned(), changed));
        }
        Ok(())
    }

    /// Puts the files into the output.
    pub fn write(&self, output: &OutputFolder) -> Result<(), Box<Diagnostic>> {
        for (name, path) in &self.copied {
            output.copy_file(name, path)?;
        }
        for (name, text) in &self.made {
            output.add_file(name, text.as_bytes())?;
        }
        Ok(())
    }
}

/// Whether a folder within a model has other files of weights in another model.
fn differs(folder: &ModuleFolder, root: &Path, other: &Path) -> bool {
    let own = |root: &Path, file: &str| root.join(&folder.name).join(file);
    folder.files.iter().any(|file| !same_bytes(&own(root, file), &own(other, file)))
}

/// The config with what the merge changed.
fn changed(config: &Value, planned: &Planned) -> Value {
    let output = &planned.plan.output;
    let stacks = output.layers.iter().map(|change| StackChange {
        prefix: change.prefix.clone(),
        before: change.before,
        sources: change.sources.clone(),
    });
    let changes = ConfigChanges {
        dtype: output.dtype,
        stacks: stacks.collect(),
        all_stacks: output.stacks.clone(),
        is_tied: output.tied,
        vocab_size: output.vocabulary,
        is_unpacked: planned.loaded.has_packed_weights() || planned.plan.is_quantized(),
    };
    rewrite_config(config, &changes)
}

/// Puts into a config how weights of the output are quantized.
fn describe_quantization(config: &mut Value, planned: &Planned) {
    let modules = mixdown_plan::quantize::modules(&planned.plan.jobs);
    let Some((key, value)) =
        mixdown_checkpoint::quantize::config(&modules, planned.plan.output.dtype)
    else {
        return;
    };
    if let Some(top) = config.as_object_mut() {
        top.insert(key.to_owned(), value);
    }
}

/// Takes out of a config what it says of a quantization that no tensor of the output has.
fn without_quantization(config: &mut Value, planned: &Planned) -> Option<Diagnostic> {
    let is_plain = |dtype: DType| !dtype.is_float() || dtype.bytes() > 1;
    // Packed codes are whole numbers of any width, each beside a scale.
    let is_packed = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or(name);
        ["qweight", "weight_packed", "absmax", "quant_state", "weight_scale", "qzeros", "SCB"]
            .iter()
            .any(|part| last.starts_with(part))
            || name.contains(".quant_state.")
    };
    let mut jobs = planned.plan.jobs.iter();
    let is_byte = |dtype: DType| dtype.bytes() == 1 && dtype != DType::Bool;
    if jobs.any(|job| !is_plain(job.dtype) || is_byte(job.dtype) || is_packed(&job.name)) {
        return None;
    }
    let found = leave_out_packing(config);
    let first = found.first()?;
    let headline =
        format!("`{first}` is left out of config.json: no tensor of the output is quantized");
    let note = "programs that load the output would look for quantized weights";
    Some(Diagnostic::warning(codes::STALE_QUANTIZATION, headline).note(note))
}

fn card(planned: &Planned, set: Vec<String>) -> Card {
    let plan = &planned.plan;
    let recipe = &planned.loaded.recipes[0];
    let models = planned.loaded.own_models().map(|input| CardModel {
        name: input.name.clone(),
        hub_id: input.model.revision.as_ref().map(|_| hub_id(&input.reference).to_owned()),
        revision: input.model.revision.clone(),
    });
    Card {
        title: title(planned),
        models: models.collect(),
        methods: methods(planned),
        dtype: plan.output.dtype.map_or("several types", |dtype| dtype.torch_name()).to_owned(),
        parameters: plan.jobs.iter().map(|job| job.shape.elements()).sum(),
        adapter_on: plan.output.adapter.as_ref().map(|adapter| {
            let base = &planned.loaded.models[adapter.base as usize];
            base.model.revision.as_ref().map(|_| hub_id(&base.reference).to_owned())
        }),
        dropped: only_in_inputs(planned),
        recipe: planned.loaded.text.clone(),
        set,
        seed: recipe.seed,
        mixdown: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The models' names. The output's own is no part of it: the same merge gives the same files everywhere.
fn title(planned: &Planned) -> String {
    const SHOWN: usize = 4;
    let names = planned.loaded.own_models().map(|input| {
        let name = input.name.trim_end_matches('/');
        name.rsplit('/').next().unwrap_or(name)
    });
    let shown: Vec<&str> = names.take(SHOWN).collect();
    let rest = planned.loaded.own_models().count() - shown.len();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    let what = match planned.plan.output.adapter {
        None => "Merge of",
        Some(_) => "Adapter from",
    };
    format!("{what} {}{more}", shown.join(", "))
}

/// Count of the names that inputs have and the output does not.
fn only_in_inputs(planned: &Planned) -> usize {
    // The names of an adapter are others, and what it lacks stays what it is.
    if planned.plan.output.adapter.is_some() {
        return 0;
    }
    let written: HashSet<&str> = planned.plan.jobs.iter().map(|job| job.name.as_str()).collect();
    let left_out = planned.plan.left_out.iter().map(|left_out| {
        let input = &planned.loaded.models[left_out.tensor.model as usize];
        input.model.checkpoint.index.tensors()[left_out.tensor.tensor as usize].name.as_str()
    });
    left_out.filter(|name| !written.contains(name)).collect::<HashSet<_>>().len()
}

pub fn hub_id(reference: &str) -> &str {
    reference.split_once('@').map_or(reference, |(id, _)| id)
}

/// The methods that made the tensors, most tensors first.
fn methods(planned: &Planned) -> Vec<CardMethod> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for job in &planned.plan.jobs {
        *counts.entry(&planned.plan.origins[job.origin as usize].method).or_default() += 1;
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
    let describe = |(name, tensors): (&str, usize)| {
        let method = planned.loaded.library.get(name);
        CardMethod {
            name: name.to_owned(),
            title: method.map(|method| method.title.clone()).unwrap_or_default(),
            source: method.map(|method| method.source.clone()).filter(|text| !text.is_empty()),
            tensors,
        }
    };
    counts.into_iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_no_part_of_an_id() {
        assert_eq!(hub_id("org/model@main"), "org/model");
        assert_eq!(hub_id("org/model"), "org/model");
    }

    /// Files of the old vocabulary beside a new tokenizer.json would contradict it.
    #[test]
    fn what_the_merge_makes_is_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokenizer.json", "merges.txt", "chat_template.jinja"] {
            std::fs::write(folder.path().join(name), "1234").unwrap();
        }
        let names = |made: &[&str]| {
            let made = made.iter().map(|name| ((*name).to_owned(), String::new())).collect();
            let mut files = Files { made, ..Files::default() };
            files.copy_from(folder.path()).unwrap();
            assert_eq!(files.bytes, 4 * files.copied.len() as u64);
            files.copied.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["chat_template.jinja", "merges.txt", "tokenizer.json"]);
        assert_eq!(names(&["tokenizer.json"]), ["chat_template.jinja"]);
        assert_eq!(names(&["chat_template.jinja"]), ["merges.txt", "tokenizer.json"]);
    }
}
