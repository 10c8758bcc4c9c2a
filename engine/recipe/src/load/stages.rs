//! A file of several documents, as mergekit-multi reads it: each is a merge, and a model that has the name of
//! another document is that one's result.

use std::collections::BTreeMap;

use mixdown_diagnostics::{Diagnostic, Source, Span, codes};

use super::MOST_LEVELS;
use crate::recipe::{Form, ModelId, ModelReference, Recipe};
use crate::{decode, yaml};

/// Recipes and for each which of its models is the result of which other.
pub(super) type Stages = Vec<(Recipe, BTreeMap<ModelId, usize>)>;

/// One document.
struct Stage {
    source: Source,
    name: Option<(String, Span)>,
    /// Where it begins.
    start: Span,
}

/// The texts of a file's documents. What stands before each is left as empty lines, so that places stay.
/// Documents without content are none.
pub(super) fn documents(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut own, mut before) = (String::new(), 0);
    let mut begin = |own: &mut String, before: &mut usize, line: usize| {
        let has_content = |line: &str| !line.trim().is_empty() && !line.trim().starts_with('#');
        if own.lines().any(has_content) {
            found.push("\n".repeat(*before) + own);
        }
        own.clear();
        *before = line;
    };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let mark = line.trim_end();
        let is_start = mark == "---" || mark.starts_with("--- ") || mark.starts_with("---\t");
        if is_start || mark == "..." {
            // What follows the mark on its line belongs to the document.
            begin(&mut own, &mut before, number);
            let rest = line.get(3..).unwrap_or_default();
            own.push_str(&format!("   {rest}"));
        } else {
            own.push_str(line);
        }
    }
    begin(&mut own, &mut before, 0);
    found
}

/// Reads the documents of a file as merges that use each other's results; the first is the one that is written.
pub(super) fn read(
    name: &str,
    texts: Vec<String>,
    overrides: &[(String, String)],
) -> (Stages, Vec<Diagnostic>) {
    let mut errors = Vec::new();
    let stages: Vec<Stage> =
        texts.into_iter().map(|text| Stage::of(Source::new(name.to_owned(), text))).collect();
    refuse_equal_names(&stages, &mut errors);
    let mut read: Vec<Option<Recipe>> = Vec::new();
    let mut uses: Vec<BTreeMap<ModelId, usize>> = Vec::new();
    for (number, stage) in stages.iter().enumerate() {
        let (recipe, found) = decode::read_partly(&stage.source, &[]);
        errors.extend(found);
        let recipe = recipe.map(|recipe| stage.connected(recipe, &stages, number, &mut errors));
        uses.push(recipe.as_ref().map(|(_, uses)| uses.clone()).unwrap_or_default());
        read.push(recipe.map(|(recipe, _)| recipe));
    }
    let Some(last) = last(&stages, &uses, &mut errors) else { return (Vec::new(), errors) };
    if !overrides.is_empty() && read[last].is_some() {
        let (recipe, found) = decode::read_partly(&stages[last].source, overrides);
        errors.extend(found);
        let connected =
            recipe.map(|recipe| stages[last].connected(recipe, &stages, last, &mut errors));
        uses[last] = connected.as_ref().map(|(_, uses)| uses.clone()).unwrap_or_default();
        read[last] = connected.map(|(recipe, _)| recipe);
    }
    let mut order = Vec::new();
    if let Err(open) = visit(last, &uses, &mut Vec::new(), &mut order) {
        errors.push(match open.as_slice() {
            [] => {
                let error =
                    Diagnostic::error(codes::UNSUPPORTED, "documents are nested too deeply");
                let error = error.fact("limit", format!("{MOST_LEVELS} levels"));
                error.at(&stages[last].source, stages[last].place())
            }
            circle => in_a_circle(&stages, circle),
        });
        return (Vec::new(), errors);
    }
    if order.iter().any(|&number| read[number].is_none()) {
        return (Vec::new(), errors);
    }
    let unused = (0..stages.len()).filter(|number| !order.contains(number)).map(|number| {
        let headline =
            format!("the stage `{}` is not made: nothing uses it", stages[number].shown());
        Diagnostic::warning(codes::STAGE_UNUSED, headline)
            .at(&stages[number].source, stages[number].place())
    });
    let unused: Vec<Diagnostic> = unused.collect();
    let place = |number: usize| order.iter().position(|&one| one == number);
    let mut result = Vec::with_capacity(order.len());
    for &number in &order {
        let Some(recipe) = read[number].take() else { continue };
        let models = uses[number].iter();
        let models = models.filter_map(|(&model, &stage)| Some((model, place(stage)?)));
        result.push((recipe, models.collect()));
    }
    if let Some((recipe, _)) = result.first_mut() {
        recipe.warnings.extend(unused);
    }
    (result, errors)
}

impl Stage {
    fn of(source: Source) -> Self {
        let tree = yaml::parse(&source, None).ok();
        let root = tree.as_ref().map(|tree| &tree.root);
        let entries = root.and_then(|root| root.entries()).unwrap_or_default();
        let named = entries.iter().find(|entry| &*entry.key.text == "name");
        let name = named.and_then(|entry| {
            let text = entry.value.scalar()?.text.to_string();
            Some((text, entry.value.span))
        });
        let start = root.map_or(Span::default(), |root| Span { length: 1, ..root.span });
        Self { source, name, start }
    }

    fn shown(&self) -> &str {
        self.name.as_ref().map_or("without a name", |(name, _)| name)
    }

    fn place(&self) -> Span {
        self.name.as_ref().map_or(self.start, |(_, span)| *span)
    }

    /// The recipe with its models that are other documents' results.
    fn connected(
        &self,
        mut recipe: Recipe,
        stages: &[Self],
        own: usize,
        errors: &mut Vec<Diagnostic>,
    ) -> (Recipe, BTreeMap<ModelId, usize>) {
        // The name means something here.
        recipe.warnings.retain(|warning| {
            warning.code != codes::IGNORED_KEY || !warning.headline.starts_with("`name` ")
        });
        if recipe.form == Form::Strict {
            let error =
                Diagnostic::error(codes::UNSUPPORTED, "a strict recipe is a file of its own");
            let error = error.help("name it as a model of another strict one: `{recipe: PATH}`");
            errors.push(error.at(&self.source, self.start));
        }
        let mut uses = BTreeMap::new();
        for (position, model) in (0..).zip(&mut recipe.models) {
            let ModelReference::Checkpoint { path, adapter, revision, .. } = &model.reference
            else {
                continue;
            };
            let is_used = |(number, stage): &(usize, &Self)| {
                *number != own && stage.name.as_ref().is_some_and(|(name, _)| name == path)
            };
            let Some((number, _)) = stages.iter().enumerate().find(is_used) else { continue };
            if adapter.is_some() || revision.is_some() {
                let what = if adapter.is_some() { "an adapter" } else { "a revision" };
                let headline = format!("{what} of the stage `{path}` cannot be named");
                let error = Diagnostic::error(codes::UNSUPPORTED, headline);
                let error = error
                    .help("a stage is the result of another document; merge the adapter there");
                errors.push(error.at(&self.source, model.span));
                continue;
            }
            uses.insert(ModelId(position), number);
            model.reference = ModelReference::Recipe { path: path.clone() };
        }
        (recipe, uses)
    }
}

fn refuse_equal_names(stages: &[Stage], errors: &mut Vec<Diagnostic>) {
    let mut known: Vec<&str> = Vec::new();
    for stage in stages {
        let Some((name, span)) = &stage.name else { continue };
        if known.contains(&name.as_str()) {
            let headline = format!("two documents are called `{name}`");
            let error = Diagnostic::error(codes::STAGES, headline);
            errors.push(error.help("give one of them another name").at(&stage.source, *span));
        }
        known.push(name);
    }
}

/// The document that is written: the one without a name, or that no other uses.
fn last(
    stages: &[Stage],
    uses: &[BTreeMap<ModelId, usize>],
    errors: &mut Vec<Diagnostic>,
) -> Option<usize> {
    let unnamed: Vec<usize> = (0..stages.len()).filter(|&at| stages[at].name.is_none()).collect();
    match unnamed.as_slice() {
        [one] => return Some(*one),
        [] => {}
        [_, second, ..] => {
            let error = Diagnostic::error(codes::STAGES, "two documents have no name");
            let error = error
                .note("the one without a name is written; the others are its models")
                .help("add `name:` to all but one");
            errors.push(error.at(&stages[*second].source, stages[*second].start));
            return None;
        }
    }
    let is_used = |number: usize| uses.iter().any(|uses| uses.values().any(|&used| used == number));
    let ends: Vec<usize> = (0..stages.len()).filter(|&number| !is_used(number)).collect();
    match ends.as_slice() {
        [one] => Some(*one),
        [] => {
            let all: Vec<usize> = (0..stages.len()).collect();
            errors.push(in_a_circle(stages, &all));
            None
        }
        [first, ..] => {
            let names: Vec<String> =
                ends.iter().map(|&number| format!("`{}`", stages[number].shown())).collect();
            let headline = format!("{} documents could be the one that is written", ends.len());
            let error = Diagnostic::error(codes::STAGES, headline)
                .fact("not used by others", names.join(", "))
                .note("a model with the name of another document is that one's result")
                .help("leave out the `name` of the one that is written, and spell names alike");
            errors.push(error.at(&stages[*first].source, stages[*first].place()));
            None
        }
    }
}

/// Lists a document and what it uses, users first; an error is a circle, or nothing where they go too deep.
fn visit(
    number: usize,
    uses: &[BTreeMap<ModelId, usize>],
    open: &mut Vec<usize>,
    order: &mut Vec<usize>,
) -> Result<(), Vec<usize>> {
    if let Some(at) = open.iter().position(|&one| one == number) {
        return Err(open[at..].to_vec());
    }
    if order.contains(&number) {
        return Ok(());
    }
    if open.len() >= MOST_LEVELS {
        return Err(Vec::new());
    }
    order.push(number);
    open.push(number);
    for &used in uses[number].values() {
        visit(used, uses, open, order)?;
    }
    open.pop();
    Ok(())
}

fn in_a_circle(stages: &[Stage], circle: &[usize]) -> Diagnostic {
    let names: Vec<&str> = circle.iter().map(|&number| stages[number].shown()).collect();
    let first = &stages[circle[0]];
    Diagnostic::error(codes::RECIPE_CYCLE, "documents use each other in a circle")
        .fact("circle", names.join(" → "))
        .at(&first.source, first.place())
}

#[cfg(test)]
mod tests {
    use super::documents;

    #[test]
    fn documents_keep_their_lines() {
        let text = "a: 1\n---\nb: 2\n...\n# nothing\n--- {c: 3}\n";
        assert_eq!(documents(text), ["a: 1\n", "\n   \nb: 2\n", "\n\n\n\n\n    {c: 3}\n"]);
        assert_eq!(documents("---\na: 1\n"), ["   \na: 1\n"]);
        assert_eq!(documents("# nothing\n"), Vec::<String>::new());
        assert_eq!(documents("a: |\n  ---\nb: --- c\n").len(), 1);
    }
}
