//! The objective by answers: which prompts are asked, and how answers are compared.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::schema::Keys;
use mixdown_recipe::tree::Node;
use mixdown_recipe::{Decoder, Fields};

use super::generator::generator;
use super::values::{address, argv, positive, refuse, seconds, variable};
use super::{Answering, Neighbors, Sample};
use crate::embed::{self, Embed, EmbedCommand, EmbedHttp};
use crate::generate::ReplayGenerator;
use crate::normalize::{self, Extract, Normalize};
use crate::objective::{self, Diff};
use crate::schema::{EmbedHttpKeys, SampleKeys};

pub(super) fn neighbors(
    decoder: &mut Decoder<'_>,
    top: Fields<'_>,
    objective: Option<Fields<'_>>,
    root: &Node,
    folder: &Path,
) -> Option<Neighbors> {
    let generator = match top.get("generator") {
        Some(node) => generator(decoder, node, folder),
        None => {
            if !top.mentions("generator") {
                decoder.missing_key(root, "generator", "a search by answers");
            }
            None
        }
    };
    let prompts = decoder.text_at(top, "prompts").map(|path| folder.join(path.value));
    let needs_prompts = !matches!(generator, None | Some(Answering::Replay(_)));
    if needs_prompts && !top.mentions("prompts") {
        decoder.missing_key(root, "prompts", "a search by answers");
    }
    let sample = sample(decoder, top);
    let chunk = positive(decoder, top, "chunk");
    let verify = top.get("verify").and_then(|node| decoder.count(node, "`verify`")).unwrap_or(0);
    if let (true, Some(entry), Some(Answering::Replay(_))) =
        (verify > 0, top.entry("verify"), &generator)
    {
        let headline =
            "`verify` has no meaning here: answers that exist already are not made again";
        decoder.error(codes::CONFLICTING_KEYS, entry.key.span, headline);
    }
    let mut neighbors = Neighbors {
        prompts,
        sample,
        generator: Answering::Replay(ReplayGenerator::default()),
        diff: Diff::default(),
        normalize: Normalize::default(),
        embed: None,
        smooth: 0,
        max_errors: 0,
        chunk,
        verify: usize::try_from(verify).unwrap_or(usize::MAX),
    };
    if let Some(fields) = objective {
        compared(decoder, fields, &mut neighbors);
        if let (Some(_), 1.., Some(entry)) = (chunk, neighbors.smooth, top.entry("chunk")) {
            let headline = "`chunk` has no meaning beside `smooth`";
            let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
            let note = "a mean over neighbors can be least where none of them is";
            decoder.report(entry.key.span, error.note(note).help("remove one of the two"));
        }
    }
    neighbors.generator = generator?;
    Some(neighbors)
}

fn compared(decoder: &mut Decoder<'_>, fields: Fields<'_>, neighbors: &mut Neighbors) {
    refuse(decoder, fields, &["goal", "version"], "it belongs to `command`");
    if let Some(node) = fields.get("diff") {
        neighbors.diff = decoder.word(node, "`diff`", &objective::WORDS).unwrap_or_default();
    }
    let extract = decoder.text_at(fields, "extract").and_then(|text| {
        Extract::new(&text.value)
            .map_err(|message| {
                let headline = "`extract` is not a regular expression";
                let error = Diagnostic::error(codes::BAD_EXPRESSION, headline);
                let lines = message.lines().filter(|line| !line.trim().is_empty());
                let error = lines.fold(error, |error, line| error.note(line));
                decoder.report(text.span, error);
            })
            .ok()
    });
    neighbors.normalize.extract = extract;
    if let Some(node) = fields.get("normalize") {
        neighbors.normalize.steps = steps_of(decoder, node);
    }
    if let Some(node) = fields.get("smooth") {
        neighbors.smooth = decoder.count(node, "`smooth`").unwrap_or(0).min(1 << 20) as usize;
    }
    if let Some(node) = fields.get("max_errors") {
        neighbors.max_errors = decoder.count(node, "`max_errors`").unwrap_or(0);
    }
    let is_server = fields.get("embed").is_some_and(|node| node.entries().is_some());
    neighbors.embed = embed(decoder, fields);
    match (neighbors.diff, fields.entry("embed"), fields.entry("diff")) {
        (Diff::Embedding, None, Some(entry)) => {
            let error = Diagnostic::error(codes::MISSING_KEY, "`diff: embedding` needs `embed`");
            let help = "add `embed:` with a program or a server that makes vectors of answers";
            decoder.report(entry.value.span, error.help(help));
        }
        (_, None, _) => {
            refuse(decoder, fields, &["timeout"], "it belongs to `embed` and `command`");
        }
        _ if is_server => refuse(decoder, fields, &["timeout"], "a server has its own"),
        _ => {}
    }
}

/// A program, or a server.
fn embed(decoder: &mut Decoder<'_>, fields: Fields<'_>) -> Option<Embed> {
    let node = fields.get("embed")?;
    if node.entries().is_none() {
        let argv = argv(decoder, fields, "embed", &embed::PLACEHOLDERS);
        let timeout = seconds(decoder, fields, "timeout");
        return Some(Embed::Command(EmbedCommand { argv: argv?, timeout }));
    }
    let fields = decoder.fields(node, EmbedHttpKeys::KEYS, "`embed`")?;
    for key in ["base_url", "model"] {
        if !fields.mentions(key) {
            decoder.missing_key(node, key, "a server of vectors");
        }
    }
    let base_url = address(decoder, fields, "base_url").map(|text| text.value);
    let model = decoder.text_at(fields, "model").map(|text| text.value);
    let api_key_env = variable(decoder, fields, "api_key_env");
    let timeout = seconds(decoder, fields, "timeout").unwrap_or(Duration::from_secs(60));
    Some(Embed::Http(EmbedHttp { base_url: base_url?, model: model?, api_key_env, timeout }))
}

fn steps_of(decoder: &mut Decoder<'_>, node: &Node) -> Vec<normalize::Step> {
    let one = std::slice::from_ref(node);
    let items = node.items().unwrap_or(one);
    let mut steps = Vec::new();
    for item in items {
        match item.scalar().map(|scalar| &*scalar.text) {
            Some("none") if items.len() == 1 => {}
            Some("none") => {
                decoder.error(codes::CONFLICTING_KEYS, item.span, "`none` stands alone");
            }
            Some("nfc") => {
                let headline = "`nfc` is not supported: mixdown has no tables of Unicode forms";
                let error = Diagnostic::error(codes::UNSUPPORTED, headline);
                decoder.report(item.span, error.help("let the generator write answers in NFC"));
            }
            _ => steps.extend(decoder.word(item, "a step of `normalize`", &normalize::WORDS)),
        }
    }
    steps
}

fn sample(decoder: &mut Decoder<'_>, top: Fields<'_>) -> Sample {
    let default = Sample::Count(100, 0);
    let Some(node) = top.get("sample") else { return default };
    let Some(fields) = decoder.fields(node, SampleKeys::KEYS, "`sample`") else { return default };
    let count = positive(decoder, fields, "count").unwrap_or(100);
    let seed = fields.get("seed").and_then(|node| decoder.count(node, "`seed`")).unwrap_or(0);
    let Some(ids) = fields.get("ids") else { return Sample::Count(count, seed) };
    refuse(decoder, fields, &["count", "seed"], "`ids` says which prompts are asked");
    let Some(items) = decoder.list(ids, "`ids`") else { return default };
    if items.is_empty() {
        decoder.error(codes::WRONG_TYPE, ids.span, "`ids` names no prompt");
    }
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    for item in items {
        let Some(text) = decoder.text(item, "an id") else { continue };
        if !seen.insert(text.value.clone()) {
            let headline = format!("`{}` is listed twice", text.value);
            decoder.error(codes::DUPLICATE_KEY, text.span, headline);
        }
        list.push(text.value);
    }
    Sample::Ids(list)
}
