//! A search's settings: YAML to types, strictly, with all mistakes at once.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mixdown_diagnostics::{Code, Diagnostic, Source, any_error, codes, sort};
use mixdown_recipe::recipe::Form;
use mixdown_recipe::schema::Keys;
use mixdown_recipe::tree::{Dialect, Node, ScalarValue};
use mixdown_recipe::{Decoder, Fields, yaml};

use crate::generate::{
    CommandGenerator, EmbeddedGenerator, Generator, HttpGenerator, ReplayGenerator,
};
use crate::generate::{command, http, replay};
use crate::grid::{Axis, Decimal, range};
use crate::normalize::{self, Extract, Normalize};
use crate::objective::{self, Diff, Ties};
use crate::process::unknown_placeholders;
use crate::schema::{
    CommandKeys, EmbeddedKeys, GeneratorKeys, HttpKeys, ObjectiveKeys, RangeKeys, ReplayKeys,
    SampleKeys, SearchKeys,
};
use crate::score::{self, Goal, Score};

/// What is searched and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The parameters and their values.
    pub axes: Vec<Axis>,
    /// What makes a candidate good.
    pub objective: Objective,
    /// Which of equally good candidates is chosen.
    pub ties: Ties,
}

/// What makes a candidate good.
#[derive(Clone, Debug)]
pub enum Objective {
    /// Answers that differ little from its neighbors'.
    Neighbors(Box<Neighbors>),
    /// A score.
    Score(Score),
}

/// How answers are made and compared.
#[derive(Clone, Debug)]
pub struct Neighbors {
    /// The file of prompts; none where answers exist already and all are used.
    pub prompts: Option<PathBuf>,
    /// Which are asked.
    pub sample: Sample,
    /// Where answers come from.
    pub generator: Answering,
    /// How differences are counted.
    pub diff: Diff,
    /// What is done to answers before that.
    pub normalize: Normalize,
    /// The program that makes vectors of answers.
    pub embed: Option<Vec<String>>,
    /// What it may take for one candidate.
    pub embed_timeout: Option<Duration>,
    /// Differences are means over so many neighbors each side.
    pub smooth: usize,
    /// Answers of a candidate that may be missing.
    pub max_errors: u64,
    /// Prompts asked at a time; none for all at once.
    pub chunk: Option<usize>,
    /// Prompts that are asked twice.
    pub verify: usize,
}

/// Which prompts are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// So many, by their hash with the seed.
    Count(usize, u64),
    /// These.
    Ids(Vec<String>),
}

/// Where answers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answering {
    /// A program.
    Command(CommandGenerator),
    /// mixdown's own program.
    Embedded(EmbeddedGenerator),
    /// A server.
    Http(HttpGenerator),
    /// Files.
    Replay(ReplayGenerator),
}

impl Answering {
    /// What answers.
    pub fn generator(&self) -> &dyn Generator {
        match self {
            Self::Command(generator) => generator,
            Self::Embedded(generator) => generator,
            Self::Http(generator) => generator,
            Self::Replay(generator) => generator,
        }
    }

    /// Makes sure that it can answer, before anything is merged. mixdown's own programs are looked for
    /// in these folders.
    pub fn prepare(&mut self, folders: &[PathBuf]) -> Result<(), Box<Diagnostic>> {
        match self {
            Self::Embedded(generator) => generator.find(folders),
            Self::Command(_) | Self::Http(_) | Self::Replay(_) => Ok(()),
        }
    }
}

/// Candidates of one search; each is a merge.
const MOST_CANDIDATES: usize = 1000;

/// Values where only the parameter is named, those of AdaMMS: beyond them language models collapse.
const DEFAULT_VALUES: [&str; 7] = ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6"];

/// Reads settings. `folder` is where relative paths start.
pub fn read(source: &Source, folder: &Path) -> Result<Settings, Vec<Diagnostic>> {
    let tree = yaml::parse(source, Some(Dialect::Yaml12))?;
    let mut decoder = Decoder::new(source, Form::Strict);
    let settings = search(&mut decoder, &tree.root, folder);
    let mut found = decoder.diagnostics;
    found.extend(tree.warnings.iter().cloned());
    sort(&mut found);
    match settings {
        Some(settings) if !any_error(&found) => Ok(settings),
        _ => Err(found),
    }
}

fn search(decoder: &mut Decoder<'_>, root: &Node, folder: &Path) -> Option<Settings> {
    let fields = decoder.fields(root, SearchKeys::KEYS, "a search")?;
    match fields.get("search") {
        None if fields.mentions("search") => {}
        None => decoder.missing_key(root, "search", "a search"),
        Some(node) if node.scalar().is_some_and(|s| s.value == ScalarValue::Integer(1)) => {}
        Some(node) => {
            let headline =
                format!("this program reads searches of version 1, found {}", node.describe());
            let error = Diagnostic::error(codes::UNSUPPORTED, headline);
            decoder.report(node.span, error.help("write `search: 1`"));
        }
    }
    let axes = grid(decoder, fields, root);
    let objective = fields.get("objective");
    let objective_fields =
        objective.and_then(|node| decoder.fields(node, ObjectiveKeys::KEYS, "`objective`"));
    let ties = objective_fields
        .and_then(|fields| fields.get("ties"))
        .and_then(|node| decoder.word(node, "`ties`", &objective::TIES))
        .unwrap_or_default();
    let is_scored = objective_fields.is_some_and(|fields| fields.mentions("command"));
    let objective = if is_scored {
        Objective::Score(scored(decoder, fields, objective_fields?)?)
    } else {
        let neighbors = neighbors(decoder, fields, objective_fields, root, folder);
        check_curve(decoder, fields, &axes, neighbors.as_ref().map(|n| n.diff));
        Objective::Neighbors(Box::new(neighbors?))
    };
    Some(Settings { axes, objective, ties })
}

fn grid(decoder: &mut Decoder<'_>, fields: Fields<'_>, root: &Node) -> Vec<Axis> {
    let Some(node) = fields.get("grid") else {
        if !fields.mentions("grid") {
            decoder.missing_key(root, "grid", "a search");
        }
        return Vec::new();
    };
    if node.scalar().is_some() && !node.is_null() {
        let path = decoder.text(node, "`grid`").map(|text| text.value).unwrap_or_default();
        return vec![Axis { path, values: DEFAULT_VALUES.map(str::to_owned).to_vec() }];
    }
    let Some(entries) = decoder.map(node, "`grid`") else { return Vec::new() };
    if entries.is_empty() {
        let error = Diagnostic::error(codes::WRONG_TYPE, "`grid` names no parameter");
        decoder.report(node.span, error.help("write a path of the recipe and its values"));
    }
    let mut axes = Vec::new();
    for entry in entries {
        let path = entry.key.text.to_string();
        let values = match entry.value.entries() {
            Some(_) => steps(decoder, &entry.value),
            None => values(decoder, &entry.value, &path),
        };
        axes.push(Axis { path, values: values.unwrap_or_default() });
    }
    let count = axes.iter().try_fold(1usize, |count, axis| count.checked_mul(axis.values.len()));
    if count.is_none_or(|count| count > MOST_CANDIDATES) {
        let error = Diagnostic::error(codes::OUT_OF_RANGE, "the grid has too many candidates");
        let error = error.fact("limit", MOST_CANDIDATES.to_string());
        decoder.report(node.span, error.note("each candidate is merged"));
    }
    axes
}

fn values(decoder: &mut Decoder<'_>, node: &Node, path: &str) -> Option<Vec<String>> {
    let items = decoder.list(node, &format!("`{path}`"))?;
    if items.is_empty() {
        decoder.error(codes::WRONG_TYPE, node.span, format!("`{path}` has no values"));
    }
    let mut values: Vec<String> = Vec::new();
    for item in items {
        let text = decoder.text(item, "a value")?.value;
        let number = Decimal::parse(&text);
        let is_known = values.iter().any(|other| {
            *other == text
                || (number.is_some()
                    && Decimal::parse(other).map(|o| o.cmp(&number.unwrap_or(o)))
                        == Some(std::cmp::Ordering::Equal))
        });
        if is_known {
            decoder.error(codes::DUPLICATE_KEY, item.span, format!("`{path}` has {text} twice"));
        }
        values.push(text);
    }
    Some(values)
}

fn steps(decoder: &mut Decoder<'_>, node: &Node) -> Option<Vec<String>> {
    let fields = decoder.fields(node, RangeKeys::KEYS, "a range")?;
    let mut number = |key: &str| {
        let Some(node_at) = fields.get(key) else {
            if !fields.mentions(key) {
                decoder.missing_key(node, key, "a range");
            }
            return None;
        };
        let text = decoder.text(node_at, &format!("`{key}`"))?;
        let number = Decimal::parse(&text.value);
        if number.is_none() {
            decoder.wrong_type(node_at, &format!("`{key}`"), "a decimal number");
        }
        number
    };
    let (from, to, step) = (number("from"), number("to"), number("step"));
    let (from, to, step) = (from?, to?, step?);
    let values = range(from, to, step);
    if values.is_none() {
        let error = Diagnostic::error(codes::OUT_OF_RANGE, "the range has no values, or too many");
        let help = "`step` must lie above 0, and `from` not above `to`";
        decoder.report(node.span, error.help(help));
    }
    values
}

/// Neighbors are only those of one parameter, and only of numbers in order.
fn check_curve(decoder: &mut Decoder<'_>, fields: Fields<'_>, axes: &[Axis], diff: Option<Diff>) {
    let Some(node) = fields.get("grid") else { return };
    let [axis] = axes else {
        if axes.len() > 1 {
            let headline = "answers are compared with those of neighbors, and a grid of several \
                            parameters has none";
            let error = Diagnostic::error(codes::UNSUPPORTED, headline);
            let error = error.note("neighbors are the values before and after, of one parameter");
            let help = "search one parameter, or give `objective` a `command` that scores";
            decoder.report(node.span, error.help(help));
        }
        return;
    };
    if axis.values.is_empty() {
        return;
    }
    let place = node.get(&axis.path).map_or(node.span, |values| values.span);
    let numbers: Option<Vec<Decimal>> =
        axis.values.iter().map(|value| Decimal::parse(value)).collect();
    match numbers {
        None => {
            let headline = format!("the values of `{}` must be decimal numbers", axis.path);
            let error = Diagnostic::error(codes::WRONG_TYPE, headline);
            decoder.report(place, error.note("neighbors are the numbers before and after"));
            return;
        }
        Some(numbers) if numbers.windows(2).any(|pair| pair[0] >= pair[1]) => {
            let headline = format!("the values of `{}` must rise", axis.path);
            let error = Diagnostic::error(codes::OUT_OF_RANGE, headline);
            decoder.report(place, error.note("neighbors are the numbers before and after"));
        }
        Some(_) => {}
    }
    let Some(diff) = diff else { return };
    let count = axis.values.len();
    if diff.eligible(count).is_empty() {
        let wanted = if diff == Diff::Prev { 2 } else { 3 };
        let headline = format!("`{}` has too few values to compare", axis.path);
        let error = Diagnostic::error(codes::OUT_OF_RANGE, headline)
            .fact("expected", format!("{wanted} at least"))
            .fact("found", count.to_string())
            .note("end points are only neighbors and cannot be chosen");
        decoder.report(place, error);
    }
}

fn scored(decoder: &mut Decoder<'_>, top: Fields<'_>, fields: Fields<'_>) -> Option<Score> {
    let needless = ["prompts", "sample", "generator", "chunk", "verify"];
    refuse(decoder, top, &needless, "a search by score asks no prompts");
    let needless = ["diff", "normalize", "extract", "embed", "smooth", "max_errors"];
    refuse(decoder, fields, &needless, "a search by score compares no answers");
    let argv = argv(decoder, fields, "command", &score::PLACEHOLDERS);
    let timeout = seconds(decoder, fields, "timeout");
    let goal = fields
        .get("goal")
        .and_then(|node| decoder.word(node, "`goal`", &score::GOALS))
        .unwrap_or(Goal::Maximize);
    let version = decoder.text_at(fields, "version").map(|text| text.value).unwrap_or_default();
    Some(Score { argv: argv?, version, timeout, goal })
}

/// Keys that have no meaning beside others.
fn refuse(decoder: &mut Decoder<'_>, fields: Fields<'_>, keys: &[&str], why: &str) {
    for key in keys {
        if let Some(entry) = fields.entry(key) {
            let headline = format!("`{key}` has no meaning here: {why}");
            let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
            decoder.report(entry.key.span, error.help("remove this key"));
        }
    }
}

fn neighbors(
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
        embed_timeout: None,
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
    neighbors.embed = argv(decoder, fields, "embed", &crate::run::EMBED_PLACEHOLDERS);
    neighbors.embed_timeout = seconds(decoder, fields, "timeout");
    match (neighbors.diff, fields.entry("embed"), fields.entry("diff")) {
        (Diff::Embedding, None, Some(entry)) => {
            let error = Diagnostic::error(codes::MISSING_KEY, "`diff: embedding` needs `embed`");
            let help = "add `embed:` with a program that makes vectors of answers";
            decoder.report(entry.value.span, error.help(help));
        }
        (_, None, _) => {
            refuse(decoder, fields, &["timeout"], "it belongs to `embed` and `command`")
        }
        _ => {}
    }
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

fn generator(decoder: &mut Decoder<'_>, node: &Node, folder: &Path) -> Option<Answering> {
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
    if !fields.mentions("serve") && !fields.mentions("base_url") {
        let error =
            Diagnostic::error(codes::CONFLICTING_KEYS, "`http` has no `serve` and no `base_url`");
        decoder.report(node.span, error.help("start a server, or say where one runs"));
    }
    let mut fill = |key: &str, value: &mut String| {
        let Some(text) = decoder.text_at(fields, key) else { return };
        for unknown in unknown_placeholders(&text.value, &http::PLACEHOLDERS) {
            unknown_placeholder(decoder, text.span, unknown, &http::PLACEHOLDERS);
        }
        *value = text.value;
    };
    fill("base_url", &mut http.base_url);
    fill("model", &mut http.model);
    if let Some(text) = decoder.text_at(fields, "base_url")
        && !text.value.starts_with("http://")
        && !text.value.starts_with("https://")
    {
        let headline =
            format!("`base_url` must begin with `http://` or `https://`, found `{}`", text.value);
        decoder.error(codes::WRONG_TYPE, text.span, headline);
    }
    http.version = decoder.text_at(fields, "version").map(|text| text.value).unwrap_or_default();
    http.startup = seconds(decoder, fields, "startup").unwrap_or(http.startup);
    http.timeout = seconds(decoder, fields, "timeout").unwrap_or(http.timeout);
    http.concurrency = positive(decoder, fields, "concurrency").unwrap_or(1).min(256);
    Some(http)
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

/// A program and its arguments, with placeholders of these names.
fn argv(
    decoder: &mut Decoder<'_>,
    fields: Fields<'_>,
    key: &str,
    placeholders: &[&str],
) -> Option<Vec<String>> {
    let node = fields.get(key)?;
    if node.items().is_none() {
        let headline = format!("`{key}` must be a list, found {}", node.describe());
        let error = Diagnostic::error(codes::WRONG_TYPE, headline);
        decoder.report(
            node.span,
            error.help("write the program and each argument as an item: no shell reads it"),
        );
        return None;
    }
    let items = node.items().unwrap_or_default();
    if items.is_empty() {
        decoder.error(codes::WRONG_TYPE, node.span, format!("`{key}` names no program"));
    }
    let mut argv = Vec::new();
    for item in items {
        let text = decoder.text(item, "an argument")?;
        for unknown in unknown_placeholders(&text.value, placeholders) {
            unknown_placeholder(decoder, text.span, unknown, placeholders);
        }
        argv.push(text.value);
    }
    (!argv.is_empty()).then_some(argv)
}

fn unknown_placeholder(
    decoder: &mut Decoder<'_>,
    span: mixdown_diagnostics::Span,
    found: &str,
    known: &[&str],
) {
    let headline = format!("`{{{found}}}` is not a placeholder here");
    let mut error = Diagnostic::error(codes::UNKNOWN_NAME, headline);
    error = match mixdown_diagnostics::suggest::nearest(found, known.iter().copied()) {
        Some(near) => error.help(format!("did you mean `{{{near}}}`?")),
        None => {
            let known: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
            error.note(format!("known placeholders: {}", known.join(", ")))
        }
    };
    decoder.report(span, error);
}

/// A time above 0, in seconds.
fn seconds(decoder: &mut Decoder<'_>, fields: Fields<'_>, key: &str) -> Option<Duration> {
    let node = fields.get(key)?;
    let value = match node.scalar().map(|scalar| scalar.value) {
        Some(ScalarValue::Integer(value)) => Some(value as f64),
        Some(ScalarValue::Float(value)) => Some(value),
        _ => None,
    };
    let time = value.filter(|&value| value > 0.0).and_then(|v| Duration::try_from_secs_f64(v).ok());
    if time.is_none() {
        decoder.wrong_type(node, &format!("`{key}`"), "a number of seconds above 0");
    }
    time
}

/// A whole number from 1.
fn positive(decoder: &mut Decoder<'_>, fields: Fields<'_>, key: &str) -> Option<usize> {
    let node = fields.get(key)?;
    let what = format!("`{key}`");
    let value = decoder.count(node, &what)?;
    if value == 0 {
        decoder.wrong_type(node, &what, "a whole number from 1");
        return None;
    }
    Some(usize::try_from(value).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use mixdown_diagnostics::render::{Color, render_all};

    use super::*;

    fn settings(text: &str) -> Result<Settings, String> {
        read(&Source::new("search.yaml", text), Path::new("/data"))
            .map_err(|found| render_all(&found, Color::Plain))
    }

    #[track_caller]
    fn refused(text: &str, words: &[&str]) {
        let told = settings(text).unwrap_err();
        for word in words {
            assert!(told.contains(word), "`{word}` is missing:\n{told}");
        }
    }

    const FULL: &str = "\
search: 1
grid:
  parameters.t: {from: 0.0, to: 0.6, step: 0.1}
prompts: prompts.jsonl
sample: {count: 50, seed: 2}
generator:
  command:
    argv: [sh, gen.sh, '{model_dir}', '{prompts}', '{out}']
    timeout: 1.5
    retries: 2
objective: {diff: union, normalize: [lower, strip], extract: '([A-D])', max_errors: 3, ties: middle}
chunk: 10
verify: 5
";

    #[test]
    fn a_whole_file_is_read() {
        let found = settings(FULL).unwrap();
        assert_eq!(found.axes[0].values, ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]);
        assert_eq!(found.ties, Ties::Middle);
        let Objective::Neighbors(neighbors) = found.objective else { panic!() };
        assert_eq!(neighbors.prompts, Some("/data/prompts.jsonl".into()));
        assert_eq!((neighbors.sample, neighbors.diff), (Sample::Count(50, 2), Diff::Union));
        assert_eq!((neighbors.chunk, neighbors.verify, neighbors.max_errors), (Some(10), 5, 3));
        assert_eq!(neighbors.normalize.apply("I take (B) "), "b");
        let Answering::Command(command) = neighbors.generator else { panic!() };
        assert_eq!((command.timeout, command.retries), (Some(Duration::from_millis(1500)), 2));
    }

    #[test]
    fn a_path_alone_has_the_values_of_the_paper() {
        let text =
            FULL.replace("\n  parameters.t: {from: 0.0, to: 0.6, step: 0.1}", " parameters.t");
        let found = settings(&text).unwrap();
        assert_eq!(found.axes, settings(FULL).unwrap().axes);
    }

    #[test]
    fn values_keep_their_text() {
        let text = "search: 1\ngrid: {strength: [0.10, 0.2], method: [ties, linear]}\n\
                    objective: {command: [score, '{model_dir}'], goal: minimize}\n";
        let found = settings(text).unwrap();
        assert_eq!(found.axes[0].values, ["0.10", "0.2"]);
        assert_eq!(found.axes[1].values, ["ties", "linear"]);
        assert!(matches!(found.objective, Objective::Score(Score { goal: Goal::Minimize, .. })));
    }

    #[test]
    fn all_mistakes_come_together_with_places() {
        refused(
            &FULL
                .replace("prompts:", "promts:")
                .replace("retries", "retrys")
                .replace("union", "unoin"),
            &[
                "did you mean `prompts`?",
                "did you mean `retries`?",
                "did you mean `union`?",
                "search.yaml:10:5",
            ],
        );
        refused("search: 2\n", &["version 1", "no `grid`", "no `generator`"]);
        refused(
            &FULL.replace("'{out}'", "'{outt}'"),
            &["`{outt}` is not a placeholder", "did you mean `{out}`?"],
        );
        refused(&FULL.replace(", '{out}'", ""), &["`argv` has no `{out}`"]);
        refused(&FULL.replace("[lower, strip]", "[nfc]"), &["`nfc` is not supported"]);
        refused(&FULL.replace("[A-D])", "[A-D)"), &["not a regular expression"]);
        refused(&FULL.replace("step: 0.1", "step: 0"), &["no values, or too many"]);
        refused(&FULL.replace("timeout: 1.5", "timeout: 0"), &["seconds above 0"]);
        refused(&FULL.replace("diff: union", "diff: embedding"), &["needs `embed`"]);
        refused(&FULL.replace("chunk: 10", "chunk: 0"), &["from 1"]);
        refused(&FULL.replace("max_errors: 3", "smooth: 1"), &["beside `smooth`"]);
        refused(
            "search: 1\ngrid: {t: [1, 2]}\nchunk: 2\nobjective: {command: [x], diff: sum}\n",
            &["`chunk` has no meaning", "`diff` has no meaning"],
        );
    }

    #[test]
    fn neighbors_need_one_rising_parameter() {
        let with = |values: &str| FULL.replace("{from: 0.0, to: 0.6, step: 0.1}", values);
        refused(&with("[0.1]"), &["too few values", "3 at least"]);
        refused(&with("[0.1, 0.3, 0.2]"), &["must rise"]);
        refused(&with("[a, b, c]"), &["must be decimal numbers"]);
        refused(&with("[0.1, 0.10, 0.2]"), &["0.10 twice"]);
        refused(&with("[0, 1, 2]\n  other: [0, 1]"), &["a grid of several parameters has none"]);
        let prev = with("[0, 1]").replace("union", "prev");
        assert!(settings(&prev).is_ok(), "with `prev` the last can be chosen");
    }

    #[test]
    fn exactly_one_generator() {
        let with = |text: &str| format!("search: 1\ngrid: {{t: [0, 1, 2]}}\ngenerator: {text}\n");
        assert!(settings(&with("{replay: {folder: logs, format: lmms-eval}}")).is_ok());
        assert!(settings(&with("{embedded: {max_new_tokens: 8}}\nprompts: p")).is_ok());
        refused(&with("{embedded: {max_new_tokens: 0}}\nprompts: p"), &["from 1"]);
        refused(&with("{}"), &["none of command, embedded, http, replay"]);
        refused(&with("{replay: {folder: a}, http: {base_url: 'http://x'}}"), &["http and replay"]);
        refused(&with("{http: {}}"), &["no `serve` and no `base_url`", "no `prompts`"]);
        refused(&with("{http: {base_url: x}}"), &["must begin with"]);
        refused(&with("{comand: {argv: [x]}}"), &["did you mean `command`?"]);
        refused(&with("{command: {argv: sh run.sh}}"), &["must be a list"]);
    }
}
