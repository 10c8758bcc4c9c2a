//! What goes with the experts beside their weights: importance, Gram matrices, and a model to compare with.

use mixdown_diagnostics::{Diagnostic, Span, codes};
use mixdown_recipe::recipe::{Attachment, Form};
use mixdown_tensor::Shape;

use crate::families::tensor_class;
use crate::formulas::graph::{Graph, Node};
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Typed, Value};
use crate::formulas::named::{Beside, Found, Shown, kind_of};
use crate::models::view::{Tensor, View};
use crate::report::Reporter;
use crate::sections::pair::{Input, Present, Section, Wanted, loses};

/// A model, and where the recipe names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    pub view: &'a View<'a>,
    pub span: Span,
}

/// The checkpoints that go with an expert.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Companions<'a> {
    pub importance: Option<Named<'a>>,
    pub gram: Option<Named<'a>>,
}

impl<'a> Companions<'a> {
    fn get(&self, kind: Attachment) -> Option<Named<'a>> {
        match kind {
            Attachment::Importance => self.importance,
            Attachment::Gram => self.gram,
        }
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
        let mut gram_inputs = None;
        for &kind in &self.method.attachments {
            let values = self.attachments(kind, experts, graph, &mut gram_inputs);
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
        Beside::new(found.collect(), gram_inputs)
    }

    fn attachments(
        &self,
        kind: Attachment,
        experts: &[&Present<'_>],
        graph: &mut Graph,
        gram_inputs: &mut Option<u64>,
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
            if kind == Attachment::Gram {
                let inputs = tensor.shape.dimensions().last().copied();
                // Of sides that differ the method says what is wrong.
                *gram_inputs = match (*gram_inputs, inputs) {
                    (None, found) => found,
                    (Some(own), Some(found)) if own == found => Some(own),
                    _ => Some(0),
                };
            }
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
        // One for each matrix of a stack. Where nothing is known of the family, the method may say which side the
        // inputs are, and is told which side these are of.
        (Attachment::Gram, &[matrices, a, b]) => {
            let known = one.input.view.known(name, shape.dimensions());
            let layout = tensor_class::layout(&known, name, shape.dimensions());
            let found = tensor.shape.dimensions().last().copied();
            let inputs = match layout {
                Some(layout) => layout.shape().1,
                None if found == Some(a) => a,
                None => b,
            };
            vec![matrices, inputs, inputs]
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
