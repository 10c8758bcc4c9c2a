//! The strict form: `mixdown: 1`. Its keys are explained in [`crate::schema::strict`].

use mixdown_diagnostics::{Diagnostic, Span, codes};

use super::body::is_empty;
use super::declare::Declared;
use super::modality;
use super::reader::{Decoder, Fields, RECIPE};
use super::whole;
use crate::recipe::{Body, Form, ModelId, ModuleContent, Recipe, SourceModel};
use crate::schema::Keys;
use crate::schema::strict::StrictKeys;
use crate::setting::Spanned;
use crate::tree::{Entry, Node, NodeKind, ScalarValue, Tree};

pub(super) fn recipe(decoder: &mut Decoder<'_>, tree: &Tree) -> Option<Recipe> {
    let declared = decoder.declared(&tree.root);
    let mut root = decoder.substitute(&tree.root, &declared);
    if modality::has_kind(&root) {
        // Its `output` is never a formula.
        substitute_form(decoder, &mut root, &declared);
        return modality::recipe(decoder, tree, &root, &declared);
    }
    let form = take_form(&mut root).map(|node| decoder.substitute(&node, &declared));
    let root = &root;
    check_version(decoder, root);
    let fields = decoder.fields(root, StrictKeys::KEYS, RECIPE)?;
    // Names come first: everything else refers to them.
    let models = fields.entry("models");
    if let Some(entry) = models.filter(|entry| entry.value.entries().is_some()) {
        decoder.named_models(&entry.value);
    }
    let base =
        decoder.either(fields, "base", "base_model").and_then(|node| decoder.model(node, "`base`"));
    let reference = fields.get("reference").and_then(|node| decoder.model(node, "`reference`"));
    let method = decoder
        .either(fields, "method", "merge_method")
        .and_then(|node| decoder.text(node, "`method`"));
    let inline_method = decoder.inline_method(fields, &declared, false);
    if let (Some(method), Some(_)) = (&method, &inline_method) {
        decoder.method_and_steps(method.span);
    }
    let has_method =
        ["method", "merge_method", "steps", "output"].iter().any(|key| fields.mentions(key));
    // A model to compare with is merged only if it is the base, too.
    let only_compared = reference.as_ref().map(|model| model.value);
    let only_compared =
        only_compared.filter(|model| base.as_ref().is_none_or(|base| base.value != *model));
    let body = body(decoder, fields, root.span, has_method, (&declared, only_compared));
    if !has_method && fields.entry("rules").is_none() {
        decoder.missing_key(root, "method", RECIPE);
    }
    let settings = decoder.settings_at(fields, "parameters");
    let (adapter, quantize, gguf) =
        form.and_then(|node| decoder.output_form(&node)).unwrap_or_default();
    let tokenizer = decoder.tokenizer(fields);
    decoder.check_like(base.as_ref(), tokenizer.is_some(), adapter.as_ref());
    Some(Recipe {
        source: tree.source.clone(),
        form: Form::Strict,
        base,
        reference,
        method,
        inline_method,
        settings,
        body,
        dtype: decoder.text_at(fields, "dtype"),
        out_dtype: decoder.text_at(fields, "out_dtype"),
        tokenizer,
        chat_template: decoder.chat_template(fields),
        declared: declared.names.clone(),
        seed: fields.get("seed").and_then(|node| decoder.count(node, "`seed`")).unwrap_or(0),
        files_from: fields.get("files_from").and_then(|node| decoder.model(node, "`files_from`")),
        shard_size: fields.get("shard_size").and_then(|node| size(decoder, node)),
        adapter,
        quantize,
        gguf,
        modality: None,
        warnings: Vec::new(),
        models: std::mem::take(&mut decoder.models.list),
    })
}

/// Puts declared values into `output`.
fn substitute_form(decoder: &mut Decoder<'_>, root: &mut Node, declared: &Declared) {
    let NodeKind::Mapping(entries) = &mut root.kind else { return };
    for entry in entries.iter_mut().filter(|entry| &*entry.key.text == "output") {
        entry.value = decoder.substitute(&entry.value, declared);
    }
}

/// Takes `output` out of the outermost map where it is no formula but says what is written.
fn take_form(root: &mut Node) -> Option<Node> {
    let NodeKind::Mapping(entries) = &mut root.kind else { return None };
    let is_form = |entry: &Entry| &*entry.key.text == "output" && entry.value.entries().is_some();
    let position = entries.iter().position(is_form)?;
    Some(entries.remove(position).value)
}

pub(super) fn check_version(decoder: &mut Decoder<'_>, root: &Node) {
    let Some(node) = root.get("mixdown") else { return };
    if !node.scalar().is_some_and(|scalar| scalar.value == ScalarValue::Integer(1)) {
        let headline =
            format!("this program reads recipes of version 1, found {}", node.describe());
        let error = Diagnostic::error(codes::UNSUPPORTED, headline);
        decoder.report(node.span, error.help("write `mixdown: 1`"));
    }
}

fn body(
    decoder: &mut Decoder<'_>,
    fields: Fields<'_>,
    start: Span,
    has_method: bool,
    (declared, only_compared): (&Declared, Option<ModelId>),
) -> Body {
    let start = Span { length: 1, ..start };
    let listed = fields.get("models").is_some_and(|node| node.entries().is_none());
    let named = decoder.models.named;
    // Names alone merge nothing else: they are the models if nothing else says what is merged.
    let parts = ["rules", "slices", "modules"];
    let has_part = parts.iter().any(|key| fields.get(key).is_some_and(|node| !is_empty(node)));
    if named && !has_part {
        let models = all_models(decoder, only_compared);
        return Body::Modules(vec![whole(ModuleContent::Models(models))]);
    }
    let keys: &[&'static str] = if listed && fields.entry("rules").is_none() {
        &["models", "slices", "modules"]
    } else {
        &parts
    };
    let listed_models = match fields.get("models") {
        Some(node) if listed => Some(decoder.listed_models(node)),
        _ => None,
    };
    match decoder.exactly_one(fields, keys, start, RECIPE) {
        Some(("rules", node)) => Body::Rules(decoder.rules(node, has_method, declared)),
        Some(("slices", node)) => {
            Body::Modules(vec![whole(ModuleContent::Slices(decoder.slices(node)))])
        }
        Some(("modules", node)) => Body::Modules(decoder.modules(node)),
        _ => Body::Modules(vec![whole(ModuleContent::Models(listed_models.unwrap_or_default()))]),
    }
}

/// All named models but one, in the order of their names in the text.
fn all_models(decoder: &Decoder<'_>, but: Option<ModelId>) -> Vec<SourceModel> {
    let models = decoder.models.list.iter().enumerate();
    models
        .filter(|(_, model)| model.attached_as.is_none())
        .filter_map(|(i, entry)| {
            let value = Some(ModelId(u32::try_from(i).ok()?)).filter(|id| Some(*id) != but)?;
            let (settings, attached) = (entry.settings.clone(), entry.attached.clone());
            let model = Spanned { value, span: entry.span };
            Some(SourceModel { model, layers: None, settings, attached })
        })
        .collect()
}

/// `5GB`, `500 MB`, `2GiB` or a number of bytes.
pub(super) fn size(decoder: &mut Decoder<'_>, node: &Node) -> Option<Spanned<u64>> {
    let text = decoder.text(node, "`shard_size`")?;
    let value = parse_size(&text.value).filter(|&bytes| bytes > 0);
    if value.is_none() {
        let headline = format!("`shard_size` must be a number of bytes, found `{}`", text.value);
        let error = Diagnostic::error(codes::WRONG_TYPE, headline);
        decoder.report(text.span, error.help("write for example `5GB` or `512MiB`"));
    }
    Some(Spanned { value: value?, span: text.span })
}

fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim());
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    // 2^53: beyond it fractions of a byte are not the only thing that is lost.
    (bytes.is_finite() && bytes < 9.0e15).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("5GB"), Some(5_000_000_000));
        assert_eq!(parse_size("1.5 GiB"), Some(1_610_612_736));
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("GB"), None);
        assert_eq!(parse_size("5 GBs"), None);
        assert_eq!(parse_size("-5GB"), None);
        assert_eq!(parse_size("99999999999999TB"), None);
    }
}
