//! What stands beside models and nothing reads.

use std::collections::BTreeSet;

use mixdown_diagnostics::{Diagnostic, Span, codes};
use mixdown_recipe::method::Method;
use mixdown_recipe::recipe::{Action, Attached, Body, Form, ModelId, Recipe, Rule, SourceModel};

use super::context::RecipeContext;

/// Reports files beside models, and models to compare with, that no method reads.
pub(crate) fn check_unused(context: &mut RecipeContext<'_>, methods: &[Option<&Method>]) {
    let Some(methods) = methods.iter().copied().collect::<Option<Vec<&Method>>>() else { return };
    let recipe = context.recipe;
    let mut unused: Vec<(&str, Span)> = Vec::new();
    let read = read_attachments(recipe, &methods);
    for (position, model) in recipe.models.iter().enumerate() {
        let Some(kind) = model.attached_as else { continue };
        if !read.contains(&ModelId(position as u32)) {
            unused.push((kind.name(), model.span));
        }
    }
    let mut is_top_read = false;
    let mut rules = merges(recipe).zip(&methods);
    if let Body::Modules(_) = &recipe.body {
        is_top_read = methods.iter().any(|method| method.reference);
    }
    for (rule, method) in &mut rules {
        match &rule.action {
            Action::Merge { reference: Some(own), .. } if !method.reference => {
                unused.push(("reference", own.span));
            }
            Action::Merge { reference: None, .. } => is_top_read |= method.reference,
            _ => {}
        }
    }
    if let (Some(reference), false) = (&recipe.reference, is_top_read) {
        unused.push(("reference", reference.span));
    }
    for (key, span) in unused {
        let headline = match &recipe.body {
            Body::Modules(_) => {
                let method = methods.first().map_or("", |method| &method.name.value);
                format!("method `{method}` does not read `{key}`")
            }
            Body::Rules(_) => format!("no method reads this `{key}`"),
        };
        let diagnostic = match recipe.form {
            Form::Mergekit => Diagnostic::warning(codes::IGNORED_KEY, headline),
            Form::Strict => Diagnostic::error(codes::UNUSED_INPUT, headline),
        };
        context.reporter.add(diagnostic.help("remove the key").at(&recipe.source, span));
    }
}

/// The rules that merge.
pub(crate) fn merges(recipe: &Recipe) -> impl Iterator<Item = &Rule> {
    let rules = match &recipe.body {
        Body::Rules(rules) => rules.as_slice(),
        Body::Modules(_) => &[],
    };
    rules.iter().filter(|rule| matches!(rule.action, Action::Merge { .. }))
}

/// The checkpoints beside models that the methods read: one method for all, or one for each rule that merges.
fn read_attachments(recipe: &Recipe, methods: &[&Method]) -> BTreeSet<ModelId> {
    let mut read = BTreeSet::new();
    let mut take = |method: &Method, attached: &Attached| {
        let found = method.attachments.iter().filter_map(|&kind| attached.get(kind));
        read.extend(found.map(|model| model.value));
    };
    if let Body::Modules(_) = &recipe.body {
        // What stands beside any model is there for the one method.
        let kinds = |id: &ModelId| recipe.models[id.0 as usize].attached_as;
        let all = (0..recipe.models.len() as u32).map(ModelId);
        let is_read = |kind| methods.iter().any(|method| method.attachments.contains(&kind));
        return all.filter(|id| kinds(id).is_some_and(is_read)).collect();
    }
    for (rule, method) in merges(recipe).zip(methods) {
        let Action::Merge { experts, .. } = &rule.action else { continue };
        match experts {
            Some(experts) => {
                experts.iter().for_each(|SourceModel { attached, .. }| take(method, attached));
            }
            None => recipe.models.iter().for_each(|model| take(method, &model.attached)),
        }
    }
    read
}
