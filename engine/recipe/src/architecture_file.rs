//! Files that describe architectures: YAML to [`Architecture`]s, those that build on others resolved.

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, Place, Source, Span, any_error, codes, sort};

use crate::architecture::{
    Architecture, Fused, FusedLayout, Layers, Matches, Module, Role, Size, Template, TensorTemplate,
};
use crate::decode::reader::{Decoder, Fields};
use crate::expression::span_between;
use crate::pattern::Pattern;
use crate::recipe::Form;
use crate::schema::Keys;
use crate::schema::architecture::{
    ArchitectureKeys, FusedKeys, LayersKeys, MatchesKeys, ModuleKeys, TensorKeys,
};
use crate::setting::Spanned;
use crate::tree::{Dialect, Node};
use crate::yaml;

/// Reads files that describe architectures; they may build on each other. In the order in which they
/// are asked whether a model is theirs.
///
/// **Errors.** Every mistake in the files, and an architecture whose name is not its file's.
pub fn read_architectures(sources: &[Source]) -> Result<Vec<Architecture>, Vec<Diagnostic>> {
    let mut diagnostics = Vec::new();
    let mut files: Vec<Written> = Vec::new();
    for source in sources {
        let tree = match yaml::parse(source, Some(Dialect::Yaml12)) {
            Ok(tree) => tree,
            Err(found) => {
                diagnostics.extend(found);
                continue;
            }
        };
        let mut decoder = Decoder::new(source, Form::Strict);
        let written = decoder.architecture_file(&tree.root);
        diagnostics.extend(decoder.diagnostics);
        files.extend(written);
    }
    let mut found = Vec::new();
    // What a broken file lacks would be missed in the files that build on it.
    if !any_error(&diagnostics) {
        for position in 0..files.len() {
            found.push(resolve(&files, position, &mut diagnostics));
        }
    }
    sort(&mut diagnostics);
    if any_error(&diagnostics) {
        return Err(diagnostics);
    }
    found.sort_by(|a, b| (a.matches.order, &a.name.value).cmp(&(b.matches.order, &b.name.value)));
    Ok(found)
}

/// A file as it is written.
struct Written {
    name: Spanned<String>,
    title: String,
    matches: Matches,
    axes: Vec<(String, Size)>,
    modules: Vec<WrittenModule>,
    file: Source,
}

struct WrittenModule {
    name: Spanned<String>,
    like: Option<Spanned<String>>,
    without: Vec<Spanned<Template>>,
    prefixes: Option<Vec<String>>,
    layers: Option<Layers>,
    counts: Vec<(char, Size)>,
    is_optional: Option<bool>,
    tensors: Vec<TensorTemplate>,
    /// Names of sizes that its tensors use.
    names: Vec<Spanned<String>>,
}

impl Decoder<'_> {
    fn architecture_file(&mut self, root: &Node) -> Option<Written> {
        let fields = self.fields(root, ArchitectureKeys::KEYS, "an architecture")?;
        for key in ["architecture", "title", "matches", "modules"] {
            if !fields.mentions(key) {
                self.missing_key(root, key, "an architecture");
            }
        }
        let name = self.text_at(fields, "architecture");
        let title = self.text_at(fields, "title").map(|text| text.value).unwrap_or_default();
        let matches = fields.get("matches").and_then(|node| self.matches(node)).unwrap_or_default();
        let mut axes = Vec::new();
        if let Some(node) = fields.get("axes") {
            for entry in self.map(node, "`axes`").unwrap_or_default() {
                if let Some(size) = self.size(&entry.value) {
                    axes.push((entry.key.text.to_string(), size));
                }
            }
        }
        let mut modules = Vec::new();
        if let Some(node) = fields.get("modules") {
            for entry in self.map(node, "`modules`").unwrap_or_default() {
                let name = Spanned { value: entry.key.text.to_string(), span: entry.key.span };
                modules.extend(self.architecture_module(name, &entry.value));
            }
        }
        let (name, file) = (name?, self.source.clone());
        let stem = file.name().rsplit('/').next().and_then(|last| last.split('.').next());
        if stem != Some(name.value.as_str()) {
            let headline =
                format!("the file is called like its architecture, `{}.yaml`", name.value);
            self.error(codes::CONFLICTING_KEYS, name.span, headline);
        }
        Some(Written { name, title, matches, axes, modules, file })
    }

    fn matches(&mut self, node: &Node) -> Option<Matches> {
        let fields = self.fields(node, MatchesKeys::KEYS, "`matches`")?;
        if !fields.mentions("order") {
            self.missing_key(node, "order", "`matches`");
        }
        let mut when = Vec::new();
        if let Some(node) = fields.get("when") {
            for entry in self.map(node, "`when`").unwrap_or_default() {
                let patterns = self.matching(&entry.value);
                when.push((entry.key.text.to_string(), patterns));
            }
        }
        let tensors = fields.get("tensors").map(|node| self.matching(node)).unwrap_or_default();
        let order = fields.get("order").and_then(|node| self.count(node, "`order`"));
        Some(Matches {
            model_types: values(self.texts(fields, "model_type")),
            classes: values(self.texts(fields, "architectures")),
            when,
            order: order.unwrap_or_default(),
            tensors,
        })
    }

    fn matching(&mut self, node: &Node) -> Vec<Pattern> {
        let texts = self.patterns(node);
        texts.iter().filter_map(|text| Pattern::new(&text.value).ok()).collect()
    }

    /// A text, or a list of them.
    pub fn texts(&mut self, fields: Fields<'_>, key: &str) -> Vec<Spanned<String>> {
        let Some(node) = fields.get(key) else { return Vec::new() };
        let items = node.items().unwrap_or(std::slice::from_ref(node));
        items.iter().filter_map(|item| self.text(item, &format!("`{key}`"))).collect()
    }

    fn architecture_module(&mut self, name: Spanned<String>, node: &Node) -> Option<WrittenModule> {
        let what = format!("module `{}`", name.value);
        let fields = self.fields(node, ModuleKeys::KEYS, &what)?;
        let like = self.text_at(fields, "like");
        if like.is_none() {
            for key in ["prefixes", "tensors"] {
                if !fields.mentions(key) && !fields.mentions("like") {
                    self.missing_key(node, key, &what);
                }
            }
            if let Some(entry) = fields.entry("without") {
                let headline = "`without` has no meaning where there is no `like`";
                self.error(codes::CONFLICTING_KEYS, entry.key.span, headline);
            }
        }
        let mut without = Vec::new();
        for text in self.texts(fields, "without") {
            let templates = self.templates(&text, None);
            without.extend(templates.into_iter().map(|value| Spanned { value, span: text.span }));
        }
        let prefixes = fields.mentions("prefixes").then(|| values(self.texts(fields, "prefixes")));
        let layers = fields.get("layers").and_then(|node| self.architecture_layers(node));
        let mut counts = Vec::new();
        if let Some(node) = fields.get("counts") {
            for entry in self.map(node, "`counts`").unwrap_or_default() {
                let letter = self.letter(&entry.key.text, entry.key.span);
                let size = self.size(&entry.value);
                counts.extend(letter.zip(size));
            }
        }
        let is_optional = fields.get("optional").and_then(|node| self.boolean(node, "`optional`"));
        let mut names = Vec::new();
        let mut tensors = Vec::new();
        if let Some(node) = fields.get("tensors") {
            for entry in self.map(node, "`tensors`").unwrap_or_default() {
                let text = Spanned { value: entry.key.text.to_string(), span: entry.key.span };
                self.tensor(&text, &entry.value, &mut tensors, &mut names);
            }
        }
        Some(WrittenModule {
            name,
            like,
            without,
            prefixes,
            layers,
            counts,
            is_optional,
            tensors,
            names,
        })
    }

    fn architecture_layers(&mut self, node: &Node) -> Option<Layers> {
        let fields = self.fields(node, LayersKeys::KEYS, "`layers`")?;
        for key in ["as", "count"] {
            if !fields.mentions(key) {
                self.missing_key(node, key, "`layers`");
            }
        }
        let letter = self.text_at(fields, "as")?;
        let capture = self.letter(&letter.value, letter.span);
        let count = self.size(fields.get("count")?);
        Some(Layers { capture: capture?, count: count? })
    }

    fn letter(&mut self, text: &str, span: Span) -> Option<char> {
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(letter @ 'a'..='z'), None) => Some(letter),
            _ => {
                let headline = format!("a number is called by one letter, found `{text}`");
                self.error(codes::WRONG_TYPE, span, headline);
                None
            }
        }
    }

    fn size(&mut self, node: &Node) -> Option<Size> {
        let text = self.text(node, "a size")?;
        match Size::new(&text.value) {
            Ok(size) => Some(size),
            Err(error) => {
                let places = node.text_places(self.source);
                let span = span_between(&places, error.start, error.end);
                self.error(codes::BAD_EXPRESSION, span, error.message);
                None
            }
        }
    }

    /// The templates that a text stands for; as many as `count` if that is given.
    fn templates(&mut self, text: &Spanned<String>, count: Option<usize>) -> Vec<Template> {
        match Template::read(&text.value) {
            Ok(found) if count.is_none_or(|count| count == found.len()) => found,
            Ok(_) => {
                let headline = "the alternatives are not those of the name they belong to";
                self.error(codes::BAD_PATTERN, text.span, headline);
                Vec::new()
            }
            Err(error) => {
                let mut span = text.span;
                span.column += error.start as u32;
                span.length = (error.end - error.start) as u32;
                self.error(codes::BAD_PATTERN, span, error.message);
                Vec::new()
            }
        }
    }

    fn tensor(
        &mut self,
        text: &Spanned<String>,
        node: &Node,
        tensors: &mut Vec<TensorTemplate>,
        names: &mut Vec<Spanned<String>>,
    ) {
        let what = format!("tensor `{}`", text.value);
        let Some(fields) = self.fields(node, TensorKeys::KEYS, &what) else { return };
        for key in ["role", "axes"] {
            if !fields.mentions(key) {
                self.missing_key(node, key, &what);
            }
        }
        let role = fields.get("role").and_then(|node| self.word(node, "`role`", Role::ALL));
        let mut axes = Vec::new();
        if let Some(node) = fields.get("axes") {
            for item in self.list(node, "`axes`").unwrap_or_default() {
                axes.extend(self.named_size(item, names));
            }
        }
        let mut flag = |key: &str| {
            let node = fields.get(key)?;
            self.boolean(node, &format!("`{key}`"))
        };
        let (is_optional, is_buffer, is_transposed) = (
            flag("optional").unwrap_or(false),
            flag("buffer").unwrap_or(false),
            flag("transposed").unwrap_or(false),
        );
        let words = [("required", false), ("optional", true)];
        let bias = fields.get("bias").and_then(|node| self.word(node, "`bias`", &words));
        let fused = fields.get("fused").and_then(|node| self.fused(node, names));
        let tied_to = self.text_at(fields, "tied_to").and_then(|text| self.tied_to(&text));
        let templates = self.templates(text, None);
        let duplicates = match self.text_at(fields, "duplicate_of") {
            Some(text) => self.templates(&text, Some(templates.len())),
            None => Vec::new(),
        };
        let Some(role) = role else { return };
        for (position, template) in templates.iter().enumerate() {
            let duplicate_of = duplicates.get(position).cloned();
            let tensor = TensorTemplate {
                template: template.clone(),
                role,
                axes: axes.clone(),
                is_optional,
                tied_to: tied_to.clone(),
                fused: fused.clone(),
                is_buffer,
                is_transposed,
                duplicate_of,
                span: text.span,
            };
            if let Some(bias_is_optional) = bias {
                let Some(name) = template.with_end(".weight", ".bias") else {
                    let headline = "only a name that ends with `.weight` has a `bias` beside it";
                    self.error(codes::CONFLICTING_KEYS, text.span, headline);
                    return;
                };
                let axis = if is_transposed { axes.last() } else { axes.first() };
                tensors.push(TensorTemplate {
                    template: name,
                    axes: axis.into_iter().cloned().collect(),
                    is_optional: is_optional || bias_is_optional,
                    tied_to: None,
                    is_transposed: false,
                    duplicate_of: tensor
                        .duplicate_of
                        .as_ref()
                        .and_then(|name| name.with_end(".weight", ".bias")),
                    ..tensor.clone()
                });
            }
            tensors.push(tensor);
        }
    }

    /// A size whose names must be declared under `axes`.
    fn named_size(&mut self, node: &Node, names: &mut Vec<Spanned<String>>) -> Option<Size> {
        let size = self.size(node)?;
        size.for_each_name(&mut |name| {
            names.push(Spanned { value: name.to_owned(), span: node.span });
        });
        Some(size)
    }

    fn fused(&mut self, node: &Node, names: &mut Vec<Spanned<String>>) -> Option<Fused> {
        let fields = self.fields(node, FusedKeys::KEYS, "`fused`")?;
        if !fields.mentions("parts") {
            self.missing_key(node, "parts", "`fused`");
        }
        let words = [
            ("blocks", FusedLayout::Blocks),
            ("per_head", FusedLayout::PerHead),
            ("per_key_value_head", FusedLayout::PerKeyValueHead),
        ];
        let layout = fields.get("layout").and_then(|node| self.word(node, "`layout`", &words));
        let mut parts = Vec::new();
        for entry in self.map(fields.get("parts")?, "`parts`").unwrap_or_default() {
            let word = &*entry.key.text;
            let role = Role::ALL.iter().find(|(known, _)| *known == word);
            if role.is_none() {
                let mut error =
                    Diagnostic::error(codes::UNKNOWN_NAME, format!("there is no role `{word}`"));
                if let Some(near) = nearest(word, Role::ALL.iter().map(|(word, _)| *word)) {
                    error = error.help(format!("did you mean `{near}`?"));
                }
                self.report(entry.key.span, error);
            }
            let size = self.named_size(&entry.value, names);
            parts.extend(role.map(|(_, role)| *role).zip(size));
        }
        Some(Fused { parts, layout: layout.unwrap_or(FusedLayout::Blocks) })
    }

    fn tied_to(&mut self, text: &Spanned<String>) -> Option<(String, Template)> {
        let Some((module, name)) = text.value.split_once('.') else {
            let error = Diagnostic::error(codes::BAD_REFERENCE, "`tied_to` names no tensor");
            self.report(text.span, error.help("write `MODULE.NAME`"));
            return None;
        };
        let name = Spanned { value: name.to_owned(), span: text.span };
        Some((module.to_owned(), self.templates(&name, Some(1)).pop()?))
    }
}

fn values(texts: Vec<Spanned<String>>) -> Vec<String> {
    texts.into_iter().map(|text| text.value).collect()
}

/// An architecture with what its modules take from others.
fn resolve(files: &[Written], position: usize, diagnostics: &mut Vec<Diagnostic>) -> Architecture {
    let written = &files[position];
    let mut axes: Vec<(String, Size)> = Vec::new();
    let mut modules: Vec<Module> = Vec::new();
    for number in 0..written.modules.len() {
        let mut found = Vec::new();
        let mut trail = Vec::new();
        let module = resolve_module(files, (position, number), &mut trail, &mut axes, &mut found);
        // What is wrong in another file is reported with that file.
        let own = |one: &Diagnostic| match &one.place {
            Some(Place::Text(source, _)) => source.name() == written.file.name(),
            _ => true,
        };
        diagnostics.extend(found.into_iter().filter(own));
        modules.extend(module);
    }
    merge_axes(&mut axes, &written.axes);
    let architecture = Architecture {
        name: written.name.clone(),
        title: written.title.clone(),
        matches: written.matches.clone(),
        axes,
        modules,
        file: written.file.clone(),
    };
    check(written, &architecture, diagnostics);
    architecture
}

/// A size written nearer takes the place of one of the same name.
fn merge_axes(axes: &mut Vec<(String, Size)>, nearer: &[(String, Size)]) {
    for (name, size) in nearer {
        match axes.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = size.clone(),
            None => axes.push((name.clone(), size.clone())),
        }
    }
}

fn resolve_module(
    files: &[Written],
    place: (usize, usize),
    trail: &mut Vec<(usize, usize)>,
    axes: &mut Vec<(String, Size)>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Module> {
    let file = &files[place.0];
    let written = &file.modules[place.1];
    let mut module = match &written.like {
        None => Module {
            name: String::new(),
            prefixes: Vec::new(),
            layers: None,
            counts: Vec::new(),
            is_optional: false,
            tensors: Vec::new(),
        },
        Some(like) => {
            let mut report = |diagnostic: Diagnostic| {
                diagnostics.push(diagnostic.at(&file.file, like.span));
            };
            let target = like.value.split_once('.').and_then(|(name, module)| {
                let other = files.iter().position(|file| file.name.value == name)?;
                let number =
                    files[other].modules.iter().position(|one| one.name.value == module)?;
                Some((other, number))
            });
            let Some(target) = target else {
                let known: Vec<String> = files
                    .iter()
                    .flat_map(|file| {
                        let name = &file.name.value;
                        file.modules.iter().map(move |one| format!("{name}.{}", one.name.value))
                    })
                    .collect();
                let headline = format!("there is no module `{}`", like.value);
                let mut error = Diagnostic::error(codes::BAD_REFERENCE, headline);
                error = match nearest(&like.value, known.iter()) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help("write `ARCHITECTURE.MODULE`"),
                };
                report(error);
                return None;
            };
            if trail.contains(&target) || target == place {
                report(Diagnostic::error(
                    codes::RECIPE_CYCLE,
                    format!("module `{}` is like itself", written.name.value),
                ));
                return None;
            }
            trail.push(place);
            resolve_module(files, target, trail, axes, diagnostics)?
        }
    };
    // The sizes that its tensors use; those of the architecture asked for come last, over all others.
    merge_axes(axes, &file.axes);
    for name in &written.without {
        let before = module.tensors.len();
        module.tensors.retain(|tensor| tensor.template != name.value);
        if module.tensors.len() == before {
            let headline = format!("there is no tensor `{}` to leave out", name.value);
            let error = Diagnostic::error(codes::UNKNOWN_NAME, headline);
            diagnostics.push(error.at(&file.file, name.span));
        }
    }
    module.name = written.name.value.clone();
    if let Some(prefixes) = &written.prefixes {
        module.prefixes = prefixes.clone();
    }
    if let Some(layers) = &written.layers {
        module.layers = Some(layers.clone());
    }
    for (letter, size) in &written.counts {
        module.counts.retain(|(known, _)| known != letter);
        module.counts.push((*letter, size.clone()));
    }
    module.is_optional = written.is_optional.unwrap_or(module.is_optional);
    for tensor in &written.tensors {
        match module.tensors.iter_mut().find(|known| known.template == tensor.template) {
            Some(known) => *known = tensor.clone(),
            None => module.tensors.push(tensor.clone()),
        }
    }
    Some(module)
}

/// What only shows when all is put together.
fn check(written: &Written, architecture: &Architecture, diagnostics: &mut Vec<Diagnostic>) {
    let mut report = |span: Span, code, headline: String, help: Option<String>| {
        let mut diagnostic = Diagnostic::error(code, headline);
        diagnostic.help = help;
        diagnostics.push(diagnostic.at(&written.file, span));
    };
    let did_you_mean = |near: Option<&str>| near.map(|near| format!("did you mean `{near}`?"));
    let mut names: Vec<(String, &str)> = Vec::new();
    for written in &written.modules {
        let Some(module) = architecture.module(&written.name.value) else { continue };
        for name in &written.names {
            if !architecture.axes.iter().any(|(known, _)| *known == name.value) {
                let near = nearest(&name.value, architecture.axes.iter().map(|(known, _)| known));
                let headline = format!("`{}` is not declared under `axes`", name.value);
                report(name.span, codes::UNKNOWN_NAME, headline, did_you_mean(near));
            }
        }
        for (position, tensor) in written.tensors.iter().enumerate() {
            if written.tensors[..position].iter().any(|other| other.template == tensor.template) {
                let headline = format!("`{}` is described twice", tensor.template);
                report(tensor.span, codes::DUPLICATE_KEY, headline, None);
            }
            for letter in tensor.template.letters() {
                if module.count(letter).is_none() {
                    let headline = format!("nothing says how far `{{{letter}}}` goes");
                    let help = "add the letter to `layers` or `counts` of the module";
                    report(tensor.span, codes::UNKNOWN_NAME, headline, Some(help.into()));
                }
            }
            if let Some(other) = &tensor.duplicate_of
                && !module.tensors.iter().any(|known| known.template == *other)
            {
                let headline = format!("the module has no tensor `{other}`");
                report(tensor.span, codes::UNKNOWN_NAME, headline, None);
            }
        }
        for tensor in &module.tensors {
            let Some((name, other)) = &tensor.tied_to else { continue };
            let target = architecture
                .module(name)
                .is_some_and(|target| target.tensors.iter().any(|known| known.template == *other));
            if !target {
                let headline = format!("there is no tensor `{name}.{other}`");
                let span = if written.like.is_some() { written.name.span } else { tensor.span };
                report(span, codes::UNKNOWN_NAME, headline, None);
            }
        }
        for prefix in &module.prefixes {
            for tensor in &module.tensors {
                let name = format!("{prefix}{}", tensor.template);
                if let Some((_, other)) = names.iter().find(|(known, _)| *known == name) {
                    let headline = format!("`{name}` belongs to `{other}` already");
                    report(written.name.span, codes::DUPLICATE_KEY, headline, None);
                }
                names.push((name, &module.name));
            }
        }
    }
}

#[cfg(test)]
mod tests;
