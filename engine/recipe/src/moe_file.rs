//! Files of mergekit-moe: dense models that become the experts of one mixture.

use mixdown_diagnostics::{Diagnostic, Source, Span, codes};

use crate::decode::reader::{Decoder, Fields};
use crate::decode::scalar_of;
use crate::recipe::{Form, Model, ModelId};
use crate::setting::{Scalar, Spanned};
use crate::tree::Node;
use crate::yaml;

/// What such a file says.
#[derive(Clone, Debug)]
pub struct MoeFile {
    /// The text.
    pub source: Source,
    /// The model that everything but the experts is from.
    pub base: Spanned<ModelId>,
    /// The experts that tokens are routed to.
    pub experts: Vec<MoeExpert>,
    /// Experts that see every token.
    pub shared: Vec<MoeExpert>,
    /// Where gates come from.
    pub gate_mode: GateMode,
    /// Element type of the output.
    pub dtype: Option<Spanned<String>>,
    /// Experts that each token goes to; 2 where it is left out.
    pub experts_per_token: Option<u64>,
    /// What the name of the output's architecture begins with.
    pub architecture: Option<Spanned<String>>,
    /// The models that are named, in order of first mention.
    pub models: Vec<Model>,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

/// An expert.
#[derive(Clone, Debug)]
pub struct MoeExpert {
    /// The model whose feed-forward layers it has.
    pub model: Spanned<ModelId>,
    /// Texts that should be routed to it.
    pub positive: Vec<String>,
    /// Texts that should not.
    pub negative: Vec<String>,
    /// Normal numbers of this size are added to its feed-forward layers.
    pub noise_scale: f64,
    /// Factor of what it adds to the stream.
    pub residual_scale: f64,
    /// Its place.
    pub span: Span,
}

/// Where gates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateMode {
    /// The model's state at the last token of each prompt, before each layer.
    Hidden,
    /// Its mean over all tokens.
    HiddenAverage,
    /// Embeddings of the prompts' tokens.
    CheapEmbed,
    /// Normal numbers.
    Random,
    /// Numbers as torch begins a linear layer with.
    UniformRandom,
}

impl GateMode {
    /// Whether prompts decide.
    pub fn needs_prompts(self) -> bool {
        !matches!(self, Self::Random | Self::UniformRandom)
    }
}

const KEYS: &[&str] = &[
    "base_model",
    "experts",
    "gate_mode",
    "dtype",
    "experts_per_token",
    "shared_experts",
    "architecture",
];
const EXPERT_KEYS: &[&str] =
    &["source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale"];
const WHAT: &str = "a mergekit-moe configuration";

/// Reads a file of mergekit-moe; none if it is none: it names experts, and no method.
pub fn read_moe(name: &str, text: &str) -> Option<Result<MoeFile, Vec<Diagnostic>>> {
    // Most files are no such file, and what is wrong with them is told by who reads them.
    if !text.lines().any(|line| line.starts_with("experts")) {
        return None;
    }
    let source = Source::new(name, text);
    let tree = yaml::parse(&source, None).ok()?;
    let root = &tree.root;
    if root.get("experts").is_none() || root.get("merge_method").is_some() {
        return None;
    }
    if root.get("mixdown").is_some() || root.get("rules").is_some() {
        return None;
    }
    let mut decoder = Decoder::new(&source, Form::Mergekit);
    decoder.diagnostics.extend(tree.warnings.iter().cloned());
    let found = file(&mut decoder, root);
    let read = decoder.finish(found);
    Some(read.map(|(file, models, warnings)| MoeFile { models, warnings, ..file }))
}

fn file(decoder: &mut Decoder<'_>, root: &Node) -> Option<MoeFile> {
    let fields = decoder.fields(root, KEYS, WHAT)?;
    if fields.entry("base_model").is_none() {
        decoder.missing_key(root, "base_model", WHAT);
    }
    let base = fields.get("base_model").and_then(|node| decoder.model(node, "`base_model`"));
    let experts = experts(decoder, fields, "experts");
    let shared = experts_of_key(decoder, fields);
    let words = [
        ("hidden", GateMode::Hidden),
        ("hidden_last", GateMode::Hidden),
        ("hidden_avg", GateMode::HiddenAverage),
        ("cheap_embed", GateMode::CheapEmbed),
        ("random", GateMode::Random),
        ("uniform_random", GateMode::UniformRandom),
    ];
    let gate_mode = match fields.get("gate_mode") {
        None => GateMode::Hidden,
        Some(node) => decoder.word(node, "`gate_mode`", &words)?,
    };
    let experts_per_token = fields
        .get("experts_per_token")
        .and_then(|node| Some((decoder.count(node, "`experts_per_token`")?, node.span)));
    let dtype = decoder.text_at(fields, "dtype");
    let architecture = decoder.text_at(fields, "architecture");
    if experts.is_empty() {
        let span = fields.get("experts").map_or(root.span, |node| node.span);
        let error = Diagnostic::error(codes::MOE_EXPERTS, "a mixture needs experts");
        decoder.report(span, error.help("list models under `experts`, each with `source_model`"));
    }
    if let Some((count, span)) = experts_per_token
        && (count < 1 || count > experts.len() as u64)
    {
        let headline = format!("each token goes to {count} of {} experts", experts.len());
        let error = Diagnostic::error(codes::MOE_EXPERTS, headline);
        decoder
            .report(span, error.help("`experts_per_token` is at least 1 and at most their number"));
    }
    check_prompts(decoder, gate_mode, &experts);
    Some(MoeFile {
        source: decoder.source.clone(),
        base: base?,
        experts,
        shared,
        gate_mode,
        dtype,
        experts_per_token: experts_per_token.map(|(count, _)| count),
        architecture,
        models: Vec::new(),
        warnings: Vec::new(),
    })
}

fn experts_of_key(decoder: &mut Decoder<'_>, fields: Fields<'_>) -> Vec<MoeExpert> {
    match fields.get("shared_experts") {
        Some(_) => experts(decoder, fields, "shared_experts"),
        None => Vec::new(),
    }
}

fn experts(decoder: &mut Decoder<'_>, fields: Fields<'_>, key: &str) -> Vec<MoeExpert> {
    let Some(node) = fields.get(key) else { return Vec::new() };
    let Some(items) = decoder.list(node, &format!("`{key}`")) else { return Vec::new() };
    items.iter().filter_map(|item| expert(decoder, item)).collect()
}

fn expert(decoder: &mut Decoder<'_>, node: &Node) -> Option<MoeExpert> {
    let fields = decoder.fields(node, EXPERT_KEYS, "an expert")?;
    if fields.entry("source_model").is_none() {
        decoder.missing_key(node, "source_model", "an expert");
    }
    let model = fields.get("source_model").and_then(|node| decoder.model(node, "`source_model`"));
    let positive = prompts(decoder, fields, "positive_prompts");
    let negative = prompts(decoder, fields, "negative_prompts");
    let noise_scale = fields
        .get("noise_scale")
        .and_then(|node| number(decoder, node, "`noise_scale`"))
        .unwrap_or(0.0);
    let residual_scale = fields
        .get("residual_scale")
        .and_then(|node| number(decoder, node, "`residual_scale`"))
        .unwrap_or(1.0);
    Some(MoeExpert {
        model: model?,
        positive,
        negative,
        noise_scale,
        residual_scale,
        span: node.span,
    })
}

fn prompts(decoder: &mut Decoder<'_>, fields: Fields<'_>, key: &str) -> Vec<String> {
    let Some(node) = fields.get(key) else { return Vec::new() };
    let what = format!("`{key}`");
    let Some(items) = decoder.list(node, &what) else { return Vec::new() };
    let texts = items.iter().filter_map(|item| decoder.text(item, "a prompt"));
    texts.map(|text| text.value).collect()
}

fn number(decoder: &mut Decoder<'_>, node: &Node, what: &str) -> Option<f64> {
    let found = match scalar_of(node) {
        Some(Scalar::Number(number)) => Some(number),
        // YAML 1.1 leaves `1e-5` a text.
        Some(Scalar::Text(text)) => text.parse().ok(),
        _ => None,
    };
    let found = found.filter(|number: &f64| number.is_finite());
    if found.is_none() {
        decoder.wrong_type(node, what, "a number");
    }
    found
}

/// What mergekit refuses too: prompts that tell experts apart are what makes gates.
fn check_prompts(decoder: &mut Decoder<'_>, mode: GateMode, experts: &[MoeExpert]) {
    if !mode.needs_prompts() {
        return;
    }
    for expert in experts.iter().filter(|expert| expert.positive.is_empty()) {
        let error = Diagnostic::error(codes::MOE_EXPERTS, "an expert has no `positive_prompts`");
        let help = "give texts that should be routed to it, or use `gate_mode: random`";
        decoder.report(expert.span, error.help(help));
    }
    let prompts = |expert: &MoeExpert| (expert.positive.clone(), expert.negative.clone());
    for expert in
        experts.iter().filter(|one| !one.positive.is_empty() && one.positive == one.negative)
    {
        let headline =
            "an expert has the same prompts for and against it, so that its gate is nothing";
        let error = Diagnostic::error(codes::MOE_EXPERTS, headline);
        decoder.report(expert.span, error.help("remove `negative_prompts`, or give other ones"));
    }
    let mut pairs = experts.iter().map(|expert| (&expert.positive, &expert.negative));
    let Some(first) = pairs.next() else { return };
    if experts.len() > 1 && pairs.all(|other| other == first) && !first.0.is_empty() {
        let headline = "all experts have the same prompts, so that nothing tells them apart";
        let error = Diagnostic::error(codes::MOE_EXPERTS, headline);
        decoder.report(experts[1].span, error.help("give each its own `positive_prompts`"));
        return;
    }
    for (at, expert) in experts.iter().enumerate() {
        let is_alike = |other: &&MoeExpert| prompts(other) == prompts(expert);
        let before = experts[..at].iter().position(|other| is_alike(&other));
        if let (Some(before), false) = (before, expert.positive.is_empty()) {
            let headline = format!(
                "experts {} and {} have the same prompts, so that their gates are the same",
                before + 1,
                at + 1
            );
            let warning = Diagnostic::warning(codes::DEGENERATE_GATES, headline)
                .note("each token that goes to one of them goes to the other, too, or to the first of both");
            decoder.report(expert.span, warning.help("give each its own `positive_prompts`"));
        }
    }
}
