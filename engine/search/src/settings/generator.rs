//! Where answers come from.

use std::path::Path;

use mixdown_diagnostics::{Code, Diagnostic, codes};
use mixdown_recipe::schema::Keys;
use mixdown_recipe::tree::Node;
use mixdown_recipe::{Decoder, Fields};

use super::Answering;
use super::values::{address, argv, positive, seconds, unknown_placeholder, variable};
use crate::generate::{
    CommandGenerator, EmbeddedGenerator, HttpGenerator, ReplayGenerator, command, http, replay,
};
use crate::process::unknown_placeholders;
use crate::schema::{CommandKeys, EmbeddedKeys, GeneratorKeys, HttpKeys, ReplayKeys};

pub(super) fn generator(
    decoder: &mut Decoder<'_>,
    node: &Node,
    folder: &Path,
) -> Option<Answering> {
    let fields = decoder.fields(node, GeneratorKeys::KEYS, "`generator`")?;
    let present: Vec<&str> =
        GeneratorKeys::KEYS.iter().copied().filter(|key| fields.mentions(key)).collect();
    if present.len() != 1 {
        let known = GeneratorKeys::KEYS.join(", ");
        let headline = match present.len() {
            0 => format!("`generator` has none of {known}"),
            _ => format!("`generator` has {}", present.join(" and ")),
        };
        let code: Code = codes::CONFLICTING_KEYS;
        let near = GeneratorKeys::KEYS.iter().any(|key| fields.has_near(key));
        if present.len() > 1 || !near {
            decoder.report(node.span, Diagnostic::error(code, headline).help("write exactly one"));
        }
        return None;
    }
    match present[0] {
        "command" => command(decoder, fields.get("command")?).map(Answering::Command),
        "embedded" => embedded(decoder, fields.get("embedded")?).map(Answering::Embedded),
        "http" => http(decoder, fields.get("http")?).map(Answering::Http),
        _ => replay(decoder, fields.get("replay")?, folder).map(Answering::Replay),
    }
}

fn command(decoder: &mut Decoder<'_>, node: &Node) -> Option<CommandGenerator> {
    let fields = decoder.fields(node, CommandKeys::KEYS, "`command`")?;
    if !fields.mentions("argv") {
        decoder.missing_key(node, "argv", "`command`");
    }
    let argv = argv(decoder, fields, "argv", &command::PLACEHOLDERS);
    let version = decoder.text_at(fields, "version").map(|text| text.value).unwrap_or_default();
    let timeout = seconds(decoder, fields, "timeout");
    let retries = fields.get("retries").and_then(|node| decoder.count(node, "`retries`"));
    let argv = argv?;
    for needed in ["prompts", "out"] {
        let placeholder = format!("{{{needed}}}");
        if !argv.iter().any(|argument| argument.contains(&placeholder)) {
            let headline = format!("`argv` has no `{placeholder}`");
            let span = fields.get("argv").map_or(node.span, |node| node.span);
            let error = Diagnostic::error(codes::MISSING_PARAMETER, headline);
            decoder.report(span, error.help("the program finds prompts and puts answers there"));
        }
    }
    Some(CommandGenerator { argv, version, timeout, retries: retries.unwrap_or(0).min(100) })
}

fn embedded(decoder: &mut Decoder<'_>, node: &Node) -> Option<EmbeddedGenerator> {
    let fields = decoder.fields(node, EmbeddedKeys::KEYS, "`embedded`")?;
    let mut embedded = EmbeddedGenerator::default();
    embedded.max_new_tokens =
        positive(decoder, fields, "max_new_tokens").and_then(|most| u64::try_from(most).ok());
    embedded.timeout = seconds(decoder, fields, "timeout");
    Some(embedded)
}

fn http(decoder: &mut Decoder<'_>, node: &Node) -> Option<HttpGenerator> {
    let fields = decoder.fields(node, HttpKeys::KEYS, "`http`")?;
    let mut http = HttpGenerator::default();
    http.serve = argv(decoder, fields, "serve", &http::PLACEHOLDERS);
    http.reload = argv(decoder, fields, "reload", &http::PLACEHOLDERS);
    http.api_key_env = variable(decoder, fields, "api_key_env");
    if !fields.mentions("serve") && !fields.mentions("base_url") {
        let error =
            Diagnostic::error(codes::CONFLICTING_KEYS, "`http` has no `serve` and no `base_url`");
        decoder.report(node.span, error.help("start a server, or say where one runs"));
    }
    let base_url = address(decoder, fields, "base_url");
    let model = decoder.text_at(fields, "model");
    for (text, value) in [(base_url, &mut http.base_url), (model, &mut http.model)] {
        let Some(text) = text else { continue };
        for unknown in unknown_placeholders(&text.value, &http::PLACEHOLDERS) {
            unknown_placeholder(decoder, text.span, unknown, &http::PLACEHOLDERS);
        }
        *value = text.value;
    }
    if !fields.mentions("serve") {
        refuse_port(decoder, fields);
    }
    http.version = decoder.text_at(fields, "version").map(|text| text.value).unwrap_or_default();
    http.startup = seconds(decoder, fields, "startup").unwrap_or(http.startup);
    http.timeout = seconds(decoder, fields, "timeout").unwrap_or(http.timeout);
    http.concurrency = positive(decoder, fields, "concurrency").unwrap_or(1).min(256);
    Some(http)
}

/// A port is chosen for a server that is started; one that runs has its own.
fn refuse_port(decoder: &mut Decoder<'_>, fields: Fields<'_>) {
    for key in ["base_url", "model", "reload"] {
        let Some(node) = fields.get(key) else { continue };
        for item in node.items().unwrap_or(std::slice::from_ref(node)) {
            if item.scalar().is_some_and(|scalar| scalar.text.contains("{port}")) {
                let headline = "`{port}` has no meaning here: no server is started";
                let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
                let help = "add `serve`, or write the port of the server that runs";
                decoder.report(item.span, error.help(help));
            }
        }
    }
}

fn replay(decoder: &mut Decoder<'_>, node: &Node, folder: &Path) -> Option<ReplayGenerator> {
    let fields = decoder.fields(node, ReplayKeys::KEYS, "`replay`")?;
    if !fields.mentions("folder") {
        decoder.missing_key(node, "folder", "`replay`");
    }
    let format = fields
        .get("format")
        .and_then(|node| decoder.word(node, "`format`", &replay::WORDS))
        .unwrap_or_default();
    let path = decoder.text_at(fields, "folder")?;
    Some(ReplayGenerator { folder: folder.join(path.value), format })
}
