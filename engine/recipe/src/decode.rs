//! A tree to a [`Recipe`], for both forms, with all mistakes at once.

mod body;
pub(crate) mod chat_template;
pub(crate) mod declare;
mod like;
mod modality;
pub(crate) mod models;
mod output;
pub(crate) mod reader;
mod rules;
mod settings;
mod strict;
mod tokenizer;

pub(crate) use settings::scalar_of;

use mixdown_diagnostics::{Diagnostic, Source, Span, any_error, codes, sort};

use crate::overrides::apply_overrides;
use crate::recipe::{Body, Form, Module, ModuleContent, Recipe};
use crate::schema::Keys;
use crate::schema::mergekit::MergekitKeys;
use crate::setting::Settings;
use crate::tree::{Dialect, Node, Tree};
use crate::yaml;
use reader::{Decoder, RECIPE};

/// Reads a recipe, with values changed by paths (`--set`). Errors come with the warnings, by place.
pub fn read(source: &Source, overrides: &[(String, String)]) -> Result<Recipe, Vec<Diagnostic>> {
    let mut tree = yaml::parse(source, None)?;
    apply_overrides(&mut tree, overrides)?;
    decode(&tree)
}

/// Reads a recipe as far as it can be understood, with all that is wrong in its text. What is wrong is
/// left out of the recipe, so that other mistakes can be found in what remains.
pub fn read_partly(
    source: &Source,
    overrides: &[(String, String)],
) -> (Option<Recipe>, Vec<Diagnostic>) {
    let tree = yaml::parse(source, None).and_then(|mut tree| {
        apply_overrides(&mut tree, overrides)?;
        Ok(tree)
    });
    match tree {
        Ok(tree) => decode_partly(&tree),
        Err(errors) => (None, errors),
    }
}

/// Reads a tree as a recipe.
pub fn decode(tree: &Tree) -> Result<Recipe, Vec<Diagnostic>> {
    match decode_partly(tree) {
        (Some(recipe), diagnostics) if diagnostics.is_empty() => Ok(recipe),
        (_, diagnostics) => Err(diagnostics),
    }
}

/// The recipe, which carries its warnings when nothing is wrong; else errors and warnings, by place.
fn decode_partly(tree: &Tree) -> (Option<Recipe>, Vec<Diagnostic>) {
    let form = match tree.dialect {
        Dialect::Yaml12 => Form::Strict,
        Dialect::Yaml11 => Form::Mergekit,
    };
    let mut decoder = Decoder::new(&tree.source, form);
    let recipe = match form {
        Form::Mergekit => mergekit(&mut decoder, tree),
        Form::Strict => strict::recipe(&mut decoder, tree),
    };
    let mut diagnostics = decoder.diagnostics;
    diagnostics.extend(tree.warnings.iter().cloned());
    drop_consequences(&mut diagnostics);
    sort(&mut diagnostics);
    match recipe {
        Some(mut recipe) if !any_error(&diagnostics) => {
            recipe.warnings = diagnostics;
            (Some(recipe), Vec::new())
        }
        recipe => (recipe, diagnostics),
    }
}

/// Where a `$name` has no value, nothing else is wrong that could be told.
fn drop_consequences(diagnostics: &mut Vec<Diagnostic>) {
    let is_cause = |diagnostic: &Diagnostic| {
        [codes::UNKNOWN_NAME, codes::MISSING_PARAMETER].contains(&diagnostic.code)
    };
    let causes: Vec<_> =
        diagnostics.iter().filter(|d| is_cause(d)).map(|d| d.place.clone()).collect();
    diagnostics.retain(|diagnostic| is_cause(diagnostic) || !causes.contains(&diagnostic.place));
}

fn mergekit(decoder: &mut Decoder<'_>, tree: &Tree) -> Option<Recipe> {
    let root = &tree.root;
    if root.entries().is_none() {
        let error = Diagnostic::error(
            codes::WRONG_TYPE,
            format!("a recipe is a map of keys, found {}", root.describe()),
        );
        decoder.report(root.span, error.help("begin with `merge_method:` and `models:`"));
        return None;
    }
    if let Some((place, error)) = other_program(root) {
        decoder.report(place, error);
        return None;
    }
    let fields = decoder.fields(root, MergekitKeys::KEYS, RECIPE)?;
    let method = decoder.text_at(fields, "merge_method");
    if fields.entry("merge_method").is_none() {
        decoder.missing_key(root, "merge_method", RECIPE);
    }
    let start = mixdown_diagnostics::Span { length: 1, ..root.span };
    let mut body = Body::Modules(Vec::new());
    if let Some((key, node)) =
        decoder.exactly_one(fields, &["models", "slices", "modules"], start, RECIPE)
    {
        body = Body::Modules(match key {
            "models" => vec![whole(ModuleContent::Models(decoder.listed_models(node)))],
            "slices" => vec![whole(ModuleContent::Slices(decoder.slices(node)))],
            _ => decoder.modules(node),
        });
    }
    let base = fields.get("base_model").and_then(|node| decoder.model(node, "`base_model`"));
    let reference = fields.get("reference").and_then(|node| decoder.model(node, "`reference`"));
    let settings = decoder.settings_at(fields, "parameters");
    let tokenizer = decoder.tokenizer(fields);
    let (adapter, quantize, gguf) =
        fields.get("output").and_then(|node| decoder.output_form(node)).unwrap_or_default();
    Some(Recipe {
        source: tree.source.clone(),
        form: Form::Mergekit,
        base,
        reference,
        method,
        inline_method: None,
        settings,
        body,
        dtype: decoder.text_at(fields, "dtype"),
        out_dtype: decoder.text_at(fields, "out_dtype"),
        tokenizer,
        chat_template: decoder.chat_template(fields),
        declared: Vec::new(),
        seed: fields
            .get("random_seed")
            .and_then(|node| decoder.count(node, "`random_seed`"))
            .unwrap_or(0),
        files_from: None,
        shard_size: None,
        adapter,
        quantize,
        gguf,
        modality: None,
        warnings: Vec::new(),
        models: std::mem::take(&mut decoder.models.list),
    })
}

/// What is told of a file of another of mergekit's programs, which makes no merge; none if it is none.
fn other_program(root: &Node) -> Option<(Span, Diagnostic)> {
    if root.get("merge_method").is_some() {
        return None;
    }
    let place = |key: &str| {
        let entries = root.entries().unwrap_or_default();
        entries.iter().find(|entry| &*entry.key.text == key).map(|entry| entry.key.span)
    };
    let told = |headline: &str| Diagnostic::error(codes::OTHER_PROGRAM, headline);
    if let (Some(span), Some(genome)) = (place("genome"), root.get("genome")) {
        let method = genome.get("merge_method").and_then(Node::scalar);
        let method = method.map_or("linear", |scalar| &*scalar.text);
        let searched: &[&str] = match method {
            "slerp" => &["parameters.t"],
            "ties" | "dare_ties" => {
                &["models[0].parameters.weight", "models[0].parameters.density"]
            }
            _ => &["models[0].parameters.weight"],
        };
        let grid: Vec<String> =
            searched.iter().map(|path| format!("{path}: {{from: 0, to: 1}}")).collect();
        let error = told("this file describes a search of mergekit-evolve, and no merge")
            .note(format!(
                "the merge is a recipe of its own: `merge_method: {method}` with these models, and a value for each parameter"
            ))
            .note(format!(
                "the search is a file beside it: `search: 1`, `grid: {{{}}}` and so on for each model, `optimizer: {{cma_es: {{budget: 100}}}}`, `objective: {{command: [sh, score.sh, \"{{model_dir}}\"]}}`",
                grid.join(", ")
            ))
            .help("`mixdown search RECIPE --with SEARCH --out DIR` runs it; `score.sh` runs the tasks on a folder and prints a number");
        return Some((span, error));
    }
    let span = place("layer_slices")?;
    let error = told("this file is one of bakllama, and no merge").help(
        "write `merge_method: passthrough` with `slices`, each `sources: [{model: …, layer_range: [start, end]}]`; `scale` becomes `parameters: {scale: [{filter: down_proj, value: …}, {value: 1}]}`",
    );
    Some((span, error))
}

/// The only module of a recipe without `modules`.
fn whole(content: ModuleContent) -> Module {
    Module { name: None, content, settings: Settings::default() }
}

#[cfg(test)]
mod tests;
