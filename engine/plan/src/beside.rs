//! What goes with the experts beside their weights: importance, Gram matrices, and a model to compare with.

use std::cell::RefCell;
use std::collections::BTreeSet;

use mixdown_diagnostics::{Diagnostic, Span, codes};
use mixdown_recipe::method::Method;
use mixdown_recipe::recipe::{
    Action, Attached, Attachment, Body, Form, ModelId, Recipe, Rule, SourceModel,
};
use mixdown_recipe::setting::Spanned;
use mixdown_tensor::{DType, Shape};

use crate::graph::{Graph, Node};
use crate::kind::Kind;
use crate::lower::{Reported, Typed, Value};
use crate::pair::{Input, Present, Section, Wanted, loses};
use crate::plan::{Leaf, TensorRef};
use crate::report::Reporter;
use crate::resolve::RecipeContext;
use crate::tensor_class;
use crate::view::{Tensor, View};

/// A model, and where the recipe names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    pub view: &'a View<'a>,
    pub span: Span,
}

/// The checkpoints that go with an expert.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Companions<'a> {
    importance: Option<Named<'a>>,
    gram: Option<Named<'a>>,
}

impl<'a> Companions<'a> {
    fn get(&self, kind: Attachment) -> Option<Named<'a>> {
        match kind {
            Attachment::Importance => self.importance,
            Attachment::Gram => self.gram,
        }
    }
}

impl<'r> RecipeContext<'r> {
    /// What goes with a model, as far as a method reads it; nothing if one could not be opened.
    pub fn companions(&self, method: &Method, attached: &Attached) -> Option<Companions<'r>> {
        let named = |kind| match attached.get(kind) {
            Some(model) if method.attachments.contains(&kind) => self.named(model).map(Some),
            _ => Some(None),
        };
        let (importance, gram) = (named(Attachment::Importance)?, named(Attachment::Gram)?);
        Some(Companions { importance, gram })
    }

    /// The model to compare with, if a method does; nothing if it could not be opened.
    pub fn reference(
        &self,
        method: &Method,
        reference: Option<&Spanned<ModelId>>,
    ) -> Option<Option<Named<'r>>> {
        match reference {
            Some(model) if method.reference => self.named(model).map(Some),
            _ => Some(None),
        }
    }

    fn named(&self, model: &Spanned<ModelId>) -> Option<Named<'r>> {
        Some(Named { view: self.view(model.value)?, span: model.span })
    }
}

/// For one tensor the values of `importance`, `gram` and `reference`. That there is none is a mistake
/// only if a formula asks for it.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    found: Vec<(&'static str, Found)>,
    asked: RefCell<BTreeSet<&'static str>>,
}

#[derive(Debug)]
enum Found {
    Values(Value, Vec<Shown>),
    Lacking(Box<Diagnostic>),
}

/// A tensor that was read, for `mixdown explain`: what it is, its name, its type.
type Shown = (String, String, DType);

impl Beside {
    /// For a method that is checked by itself.
    pub fn unknown(graph: &mut Graph, method: &Method, experts: usize) -> Self {
        let mut beside = Self::default();
        // Past the models that the experts stand for, and before those of the parameters.
        let mut next = 1 << 16;
        let mut one = |kind| {
            next += 1;
            let leaf = Leaf::Tensor(TensorRef { model: next, tensor: 0 });
            Typed { node: graph.leaf(leaf), kind }
        };
        for &kind in &method.attachments {
            let values = (0..experts).map(|_| one(kind_of(kind))).collect();
            beside.found.push((kind.name(), Found::Values(Value::List(values), Vec::new())));
        }
        if method.reference {
            let value = Value::One(one(Kind::Weights));
            beside.found.push(("reference", Found::Values(value, Vec::new())));
        }
        beside
    }

    /// The value of a name, if it is one of these.
    pub fn value(&self, name: &str) -> Option<Result<Value, Reported>> {
        let (name, found) = self.found.iter().find(|(known, _)| *known == name)?;
        self.asked.borrow_mut().insert(name);
        Some(match found {
            Found::Values(value, _) => Ok(value.clone()),
            Found::Lacking(_) => Err(Reported),
        })
    }

    /// What a formula has asked for: reports what is not there, and gives the tensors of the rest.
    pub fn conclude(&self, section: (u32, u64), reporter: &mut Reporter) -> Vec<Shown> {
        let asked = self.asked.borrow();
        let mut shown = Vec::new();
        for (_, found) in self.found.iter().filter(|(name, _)| asked.contains(name)) {
            match found {
                Found::Values(_, read) => shown.extend(read.iter().cloned()),
                Found::Lacking(diagnostic) => reporter.tensor(section, (**diagnostic).clone()),
            }
        }
        shown
    }
}

fn kind_of(attachment: Attachment) -> Kind {
    match attachment {
        Attachment::Importance => Kind::Number,
        Attachment::Gram => Kind::Gram,
    }
}

impl Section<'_> {
    /// Checks that everything is there which the method needs beside weights.
    pub fn check_beside(&self, reporter: &mut Reporter) -> bool {
        let mut sound = true;
        let name = &self.method.name.value;
        for &kind in &self.method.attachments {
            let key = kind.name();
            let lacks = |input: &&Input<'_>| !input.is_base && input.companions.get(kind).is_none();
            let lacking: Vec<&Input<'_>> = self.inputs.iter().filter(lacks).collect();
            let Some(first) = lacking.first() else { continue };
            let headline = format!("method `{name}` needs `{key}` beside each model");
            let mut diagnostic = Diagnostic::error(codes::MISSING_INPUT, headline);
            for input in &lacking {
                diagnostic = diagnostic.fact("without", input.view.name.clone());
            }
            let model = &first.view.name;
            let help = match self.form {
                Form::Mergekit => format!("add the file: `{{model: {model}, {key}: PATH}}`"),
                Form::Strict => {
                    format!("add the file under `models`: `{model}: {{path: …, {key}: PATH}}`")
                }
            };
            reporter.add(diagnostic.note(meaning(kind)).help(help).at(self.source, first.span));
            sound = false;
        }
        if self.method.reference && self.reference.is_none() {
            let headline = format!("method `{name}` needs a model to compare with");
            let help = match self.form {
                Form::Mergekit => "add `reference: MODEL` at the top",
                Form::Strict => "add `reference: NAME` at the top or to the rule",
            };
            let diagnostic = Diagnostic::error(codes::MISSING_INPUT, headline).help(help);
            reporter.add(diagnostic.at(self.source, self.span));
            sound = false;
        }
        sound
    }

    /// Finds what goes with the experts at one tensor.
    pub fn beside(
        &self,
        wanted: &Wanted<'_>,
        experts: &[&Present<'_>],
        shape: &Shape,
        graph: &mut Graph,
    ) -> Beside {
        let mut found = Vec::new();
        for &kind in &self.method.attachments {
            let values = self.attachments(kind, experts, graph);
            let values = values.map(|(values, shown)| (Value::List(values), shown));
            found.push((kind.name(), values));
        }
        if self.method.reference {
            let value = self.compared(wanted, shape, graph);
            let value = value.map(|(value, shown)| (Value::One(value), vec![shown]));
            found.push(("reference", value));
        }
        let found = found.into_iter().map(|(name, values)| match values {
            Ok((values, shown)) => (name, Found::Values(values, shown)),
            Err(diagnostic) => (name, Found::Lacking(diagnostic)),
        });
        Beside { found: found.collect(), asked: RefCell::default() }
    }

    fn attachments(
        &self,
        kind: Attachment,
        experts: &[&Present<'_>],
        graph: &mut Graph,
    ) -> Result<(Vec<Typed>, Vec<Shown>), Box<Diagnostic>> {
        let (mut values, mut shown) = (Vec::new(), Vec::new());
        for one in experts {
            let companion =
                one.input.companions.get(kind).expect("a section without it was refused");
            let at = |diagnostic: Box<Diagnostic>| {
                let diagnostic = diagnostic.fact("model", one.input.view.name.clone());
                Box::new(diagnostic.at(self.source, companion.span))
            };
            let tensor = attachment(kind, one, companion.view).map_err(at)?;
            let (node, _) = companion.view.node(tensor.position, graph);
            values.push(Typed { node, kind: kind_of(kind) });
            let what = format!("{} of {}", kind.name(), one.input.view.name);
            shown.push((what, tensor.name.to_owned(), tensor.dtype));
        }
        Ok((values, shown))
    }

    /// The tensor of the model that the experts are compared with.
    fn compared(
        &self,
        wanted: &Wanted<'_>,
        shape: &Shape,
        graph: &mut Graph,
    ) -> Result<(Typed, Shown), Box<Diagnostic>> {
        let Named { view, span } = self.reference.expect("a section without it was refused");
        let at = |diagnostic: Diagnostic| Box::new(diagnostic.at(self.source, span));
        // Where layers are stacked anew it is the base's layer that it is compared at.
        let base = self.inputs.iter().position(|input| input.is_base).unwrap_or(0);
        let name = &wanted.names[base];
        let Some(tensor) = view.find(name).or_else(|| view.tied_embedding(name)) else {
            let headline = format!("the reference `{}` has no tensor `{name}`", view.name);
            let diagnostic = Diagnostic::error(codes::TENSOR_MISSING, headline)
                .help("say what becomes of the tensor in a rule above: `keep: NAME`");
            return Err(at(diagnostic));
        };
        if tensor.shape != shape || !tensor.dtype.is_float() {
            let headline = format!("`{name}` does not fit in the reference `{}`", view.name);
            let diagnostic = Diagnostic::error(codes::SHAPE_MISMATCH, headline)
                .fact("merged", shape.to_string())
                .fact("reference", format!("{} {}", tensor.shape, tensor.dtype))
                .help("only models of one architecture can be compared tensor by tensor");
            return Err(at(diagnostic));
        }
        let (mut node, _) = view.node(tensor.position, graph);
        if let Some(dtype) = self.dtype
            && loses(tensor.dtype, dtype)
        {
            node = graph.add(Node::Round(dtype), &[node]);
        }
        let shown = (format!("reference {}", view.name), tensor.name.to_owned(), tensor.dtype);
        Ok((Typed { node, kind: Kind::Weights }, shown))
    }
}

/// What goes with one tensor of an expert, as it is stored: facts about weights are not rounded as weights are.
fn attachment<'v>(
    kind: Attachment,
    one: &Present<'_>,
    view: &'v View<'_>,
) -> Result<Tensor<'v>, Box<Diagnostic>> {
    let name = one.tensor.name;
    if one.input.view.rows.contains_key(&one.tensor.position) {
        let headline = format!("`{}` cannot follow a vocabulary that is rebuilt", kind.name());
        let diagnostic = Diagnostic::error(codes::UNSUPPORTED, headline)
            .fact("tensor", format!("`{name}`"))
            .help("say what becomes of the tensor in a rule above, or leave `tokenizer` out");
        return Err(Box::new(diagnostic));
    }
    let Some(tensor) = view.find(name) else {
        let headline = format!("`{}` has no {} for `{name}`", view.name, words(kind));
        let diagnostic = Diagnostic::error(codes::TENSOR_MISSING, headline)
            .note(meaning(kind))
            .help("add the tensor to the file, or say what becomes of the weights in a rule above");
        return Err(Box::new(diagnostic));
    };
    let shape = one.tensor.shape;
    let wanted = match (kind, shape.dimensions()) {
        (Attachment::Gram, dimensions @ [_, _]) => {
            let known = one.input.view.known(name, dimensions);
            let inputs = match tensor_class::layout(&known, name, dimensions) {
                Some(layout) => layout.shape().1,
                None => dimensions[1],
            };
            vec![inputs, inputs]
        }
        (_, dimensions) => dimensions.to_vec(),
    };
    if tensor.shape.dimensions() != wanted {
        let headline = format!("the {} for `{name}` has another shape", words(kind));
        let wanted = wanted.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let diagnostic = Diagnostic::error(codes::SHAPE_MISMATCH, headline)
            .fact("weights", shape.to_string())
            .fact("needed", format!("[{wanted}]"))
            .fact("found", format!("{}, {}", tensor.shape, view.name));
        return Err(Box::new(diagnostic));
    }
    if !tensor.dtype.is_float() {
        let headline = format!("the {} for `{name}` is no float", words(kind));
        let diagnostic = Diagnostic::error(codes::DTYPE_MISMATCH, headline);
        return Err(Box::new(diagnostic.fact("found", tensor.dtype.name())));
    }
    Ok(tensor)
}

fn words(kind: Attachment) -> &'static str {
    match kind {
        Attachment::Importance => "importance",
        Attachment::Gram => "Gram matrix",
    }
}

fn meaning(kind: Attachment) -> &'static str {
    match kind {
        Attachment::Importance => {
            "it holds the diagonal of the Fisher information, under the names of the weights and in their shapes"
        }
        Attachment::Gram => {
            "it holds the mean of x·xᵀ over the inputs of each linear layer, `[in, in]`, under the name of its weight"
        }
    }
}

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
