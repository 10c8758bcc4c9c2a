//! Files that ask for a shuffle of layers: a stack whose layers are drawn from several models.

use mixdown_diagnostics::{Diagnostic, Source, Span, codes};

use crate::decode::reader::Decoder;
use crate::decode::scalar_of;
use crate::recipe::{Form, Model, ModelId};
use crate::setting::{Scalar, Spanned};
use crate::tree::Node;
use crate::yaml;

/// What such a file says.
#[derive(Clone, Debug)]
pub struct ShuffleFile {
    /// The text.
    pub source: Source,
    /// The models that layers are drawn from.
    pub parts: Vec<ShufflePart>,
    /// Whether layers change their places, too: each model gives the share of its layers that its weight is, from
    /// any place, and all of them are shuffled.
    pub full_random: bool,
    /// What draws depend on.
    pub seed: u64,
    /// Other keys of the merge, with their values.
    pub kept: Vec<(&'static str, String)>,
    /// The models that are named, in order of first mention.
    pub models: Vec<Model>,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

/// A model that layers are drawn from.
#[derive(Clone, Debug)]
pub struct ShufflePart {
    /// The model.
    pub model: Spanned<ModelId>,
    /// How often it is drawn, against the others; 1 where it is left out.
    pub weight: f64,
    /// Its place.
    pub span: Span,
}

const KEYS: &[&str] = &[
    "layer_shuffle",
    "full_random",
    "random_seed",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "chat_template",
];
/// Keys that the merge has as they are.
const KEPT: [&str; 4] = ["dtype", "out_dtype", "tokenizer_source", "chat_template"];
const WHAT: &str = "a shuffle of layers";

/// Reads a shuffle of layers; none if the text is none: it has no `layer_shuffle`.
pub fn read_shuffle(name: &str, text: &str) -> Option<Result<ShuffleFile, Vec<Diagnostic>>> {
    // Most files are no such file, and what is wrong with them is told by who reads them.
    if !text.lines().any(|line| line.starts_with("layer_shuffle")) {
        return None;
    }
    let source = Source::new(name, text);
    let tree = yaml::parse(&source, None).ok()?;
    let root = &tree.root;
    root.get("layer_shuffle")?;
    let mut decoder = Decoder::new(&source, Form::Mergekit);
    decoder.diagnostics.extend(tree.warnings.iter().cloned());
    let found = file(&mut decoder, root);
    let read = decoder.finish(found);
    Some(read.map(|(file, models, warnings)| ShuffleFile { models, warnings, ..file }))
}

fn file(decoder: &mut Decoder<'_>, root: &Node) -> Option<ShuffleFile> {
    let fields = decoder.fields(root, KEYS, WHAT)?;
    let list = fields.get("layer_shuffle")?;
    let items = decoder.list(list, "`layer_shuffle`")?;
    let parts: Vec<ShufflePart> = items.iter().filter_map(|item| part(decoder, item)).collect();
    let flag = fields.get("full_random");
    let full_random =
        flag.and_then(|node| decoder.boolean(node, "`full_random`")).unwrap_or_default();
    let seed = fields.get("random_seed");
    let seed = seed.and_then(|node| decoder.count(node, "`random_seed`")).unwrap_or_default();
    let mut kept = Vec::new();
    for key in KEPT {
        kept.extend(decoder.text_at(fields, key).map(|text| (key, text.value)));
    }
    let total: f64 = parts.iter().map(|part| part.weight).sum();
    if items.is_empty() || (parts.len() == items.len() && total <= 0.0) {
        let error =
            Diagnostic::error(codes::LAYER_SHUFFLE, "no model is there to draw layers from");
        let help = "list models under `layer_shuffle`, each with a `weight` above 0 or without one";
        decoder.report(list.span, error.help(help));
    }
    Some(ShuffleFile {
        source: decoder.source.clone(),
        parts,
        full_random,
        seed,
        kept,
        models: Vec::new(),
        warnings: Vec::new(),
    })
}

fn part(decoder: &mut Decoder<'_>, node: &Node) -> Option<ShufflePart> {
    let fields = decoder.fields(node, &["model", "weight"], "a model of `layer_shuffle`")?;
    if fields.entry("model").is_none() {
        decoder.missing_key(node, "model", "a model of `layer_shuffle`");
    }
    let model = fields.get("model").and_then(|node| decoder.model(node, "`model`"));
    let weight = match fields.get("weight") {
        None => 1.0,
        Some(node) => {
            let found = match scalar_of(node) {
                Some(Scalar::Number(number)) => Some(number),
                // YAML 1.1 leaves `1e-5` a text.
                Some(Scalar::Text(text)) => text.parse().ok(),
                _ => None,
            };
            let Some(weight) = found.filter(|one: &f64| one.is_finite() && *one >= 0.0) else {
                decoder.wrong_type(node, "`weight`", "a number from 0");
                return None;
            };
            weight
        }
    };
    Some(ShufflePart { model: model?, weight, span: node.span })
}
