//! One output tensor from its inputs: which tensor of each model answers, whether they fit, and the graph.

use mixdown_checkpoint::known;
use mixdown_diagnostics::{Diagnostic, Place, Source, Span, codes};
use mixdown_ops::MapOp;
use mixdown_recipe::method::{BaseUse, Method};
use mixdown_recipe::recipe::Form;
use mixdown_recipe::setting::{Setting, Settings};
use mixdown_tensor::DType;

use crate::detail::Detail;
use crate::detail::Resolved;
use crate::families::tensor_class::Known;
use crate::formulas::graph::{Graph, Node, NodeId};
use crate::formulas::lower::{self, Lowered, Own, lower};
use crate::models::view::{How, Made, Tensor, View};
use crate::plan::{Leaf, TensorRef};
use crate::report::Reporter;
use crate::sections::alike::{Alike, Making, Makings};
use crate::sections::beside::{Companions, Named};
use crate::sections::lacking::is_hollow;
use crate::sections::mapped::{kept_rows, kept_whole, own_dtype};
use crate::sections::parameters::{self, At, Levels, Unset};

/// A part of a recipe that treats its tensors alike: a rule, a slice, or all models.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    /// The recipe and the section within it.
    pub id: (u32, u64),
    /// Place of the section in the recipe.
    pub span: Span,
    pub source: &'a Source,
    pub form: Form,
    pub method: &'a Method,
    /// What is merged, in the recipe's order, the base among them.
    pub inputs: Vec<Input<'a>>,
    /// What the experts are compared with, by methods that do.
    pub reference: Option<Named<'a>>,
    /// Parameters above those of the inputs, from high to low.
    pub shared: Vec<(&'static str, &'a Settings)>,
    /// Inputs are rounded to it when read.
    pub dtype: Option<DType>,
    /// Type of the output's tensors.
    pub out_dtype: Option<DType>,
    pub seed: u64,
    /// Whether it follows from a part of the recipe that is no rule.
    pub is_implied: bool,
    /// Position among the origins of the plan.
    pub origin: u32,
    /// How tensors so far are made.
    pub makings: Makings,
}

/// A model as an input of a section.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub view: &'a View<'a>,
    pub settings: &'a Settings,
    pub span: Span,
    pub is_base: bool,
    /// What goes with it beside its weights.
    pub companions: Companions<'a>,
}

/// One output tensor to be made.
pub(crate) struct Wanted<'a> {
    /// Its name.
    pub output: &'a str,
    /// Name of the tensor in each input.
    pub names: &'a [String],
    /// Place of its layer among the layers, 0 to 1.
    pub t: f64,
}

/// An input that has the tensor.
pub(crate) struct Present<'s> {
    pub input: &'s Input<'s>,
    pub tensor: Tensor<'s>,
}

impl<'a> Section<'a> {
    /// Checks what holds for all tensors: base, count of models, and what goes with them. Says whether they can be merged.
    pub fn check(&self, reporter: &mut Reporter) -> bool {
        let method = self.method;
        let name = &method.name.value;
        let experts = self.inputs.iter().filter(|input| !input.is_base).count();
        let has_base = experts < self.inputs.len();
        if method.base == BaseUse::Required && !has_base {
            let headline = format!("method `{name}` needs a base model");
            let help = match self.form {
                Form::Mergekit => {
                    "add `base_model: …`; with `slices` the base must be among the sources"
                }
                Form::Strict => "add `base: NAME` at the top or to the rule",
            };
            let diagnostic = Diagnostic::error(codes::MISSING_BASE, headline).help(help);
            reporter.add(diagnostic.at(self.source, self.span));
            return false;
        }
        let (low, high) = (method.experts.at_least, method.experts.at_most);
        if experts >= low && high.is_none_or(|high| experts <= high) {
            self.compare_configs(reporter);
            return self.check_beside(reporter);
        }
        let models =
            |count: usize| format!("{count} {}", if count == 1 { "model" } else { "models" });
        let wanted = match high {
            Some(high) if high == low => format!("exactly {}", models(low)),
            Some(high) if experts > high => format!("at most {}", models(high)),
            _ => format!("at least {}", models(low)),
        };
        let beside = if method.base == BaseUse::Ignored { "" } else { " beside the base" };
        let headline = format!("method `{name}` takes {wanted}{beside}, found {experts}");
        let mut diagnostic = Diagnostic::error(codes::WRONG_INPUTS, headline);
        for input in &self.inputs {
            diagnostic = diagnostic
                .fact(if input.is_base { "base" } else { "model" }, input.view.name.clone());
        }
        if method.base == BaseUse::Ignored && self.form == Form::Mergekit && experts > low {
            diagnostic = diagnostic.note("a `base_model` that is not among the models joins them");
        }
        reporter.add(diagnostic.at(self.source, self.span));
        false
    }

    /// Makes one output tensor; nothing if it was refused, which has been reported.
    pub fn make(
        &self,
        wanted: &Wanted<'_>,
        reporter: &mut Reporter,
        detail: Option<&mut Option<Detail>>,
    ) -> Option<Made> {
        let mut present = self.pair(wanted, reporter)?;
        if let Some(only) = self.resized(wanted, &present, reporter) {
            present = vec![only];
        }
        let first = present.first()?;
        self.check_shapes(wanted, &present, reporter)?;
        let made = |dtype: DType, how: How| Made {
            name: wanted.output.to_owned(),
            shape: first.tensor.shape.clone(),
            dtype,
            how,
            origin: self.origin,
            treatment: None,
        };
        let promoted = present
            .iter()
            .try_fold(first.tensor.dtype, |dtype, one| dtype.promote(one.tensor.dtype));
        let Some(promoted) = promoted else {
            self.report_dtypes(wanted, &present, reporter);
            return None;
        };
        if !promoted.is_float() && wanted.output.ends_with(".num_batches_tracked") {
            // No forward pass reads how many batches a normalization has seen.
            let kept = present.iter().find(|one| one.input.is_base).unwrap_or(first);
            self.note_detail(&present, Vec::new(), Vec::new(), wanted.t, detail);
            return Some(made(promoted, self.take(kept, promoted)));
        }
        if !promoted.is_float() {
            return Some(made(promoted, self.copy_all(wanted, &present, reporter)?));
        }
        if let Some(kept) = buffer(&present) {
            self.note_detail(&present, Vec::new(), Vec::new(), wanted.t, detail);
            return Some(made(kept.tensor.dtype, self.take(kept, kept.tensor.dtype)));
        }
        if let Some(kept) = kept_whole(&present) {
            self.note_detail(&present, Vec::new(), Vec::new(), wanted.t, detail);
            let out = self.out_dtype.or(self.dtype).unwrap_or(kept.tensor.dtype);
            return Some(made(out, self.take(kept, out)));
        }
        let own = own_dtype(&present).unwrap_or(promoted);
        let out = self.out_dtype.or(self.dtype).unwrap_or(own);
        if present.len() < self.inputs.len() && present.len() == 1 {
            // The method's policy for missing tensors has let a single one through.
            self.note_detail(&present, Vec::new(), Vec::new(), wanted.t, detail);
            return Some(made(out, self.take(first, out)));
        }
        let Making { graph, output, double, treatment } =
            self.graph(wanted, &present, (promoted, out), reporter, detail)?;
        let made = |dtype: DType, how: How| Made { treatment, ..made(dtype, how) };
        if let Node::Leaf(leaf) = graph.nodes[output]
            && let Leaf::Tensor(from) = graph.leaves[leaf as usize]
            && present.iter().any(|one| {
                one.input.view.stored(one.tensor.position) == Some(from)
                    && one.tensor.dtype == out
                    && one.input.view.is_plain(one.tensor.position)
            })
        {
            return Some(made(out, How::Copy { from, equal_to: Vec::new(), within: None }));
        }
        Some(made(out, How::Graph { graph: Box::new(graph), output, double }))
    }

    /// Finds the tensor in each input, by the method's policy for those that lack it.
    fn pair<'s>(
        &'s self,
        wanted: &Wanted<'_>,
        reporter: &mut Reporter,
    ) -> Option<Vec<Present<'s>>> {
        let mut present = Vec::with_capacity(self.inputs.len());
        let mut tied = Vec::new();
        for (input, name) in self.inputs.iter().zip(wanted.names) {
            if let Some(tensor) = input.view.find(name) {
                present.push(Present { input, tensor });
            } else if let Some(tensor) = input.view.tied_embedding(name) {
                tied.push(input);
                present.push(Present { input, tensor });
            }
        }
        if let Some(first) = present.iter().find(|one| one.input.is_base).or(present.first())
            && !tied.is_empty()
            && tied.iter().all(|input| input.view.original(wanted.output).is_some())
        {
            // A copy under a second name is written where the model of the config stores it.
            let is_stored = first.tensor.name == wanted.output;
            return is_stored.then_some(present);
        }
        if !tied.is_empty() && tied.len() < self.inputs.len() {
            for input in tied {
                let headline = format!(
                    "`{}` has no `{}`; its input embedding, which is tied to it, stands in",
                    input.view.name, wanted.output
                );
                let diagnostic = Diagnostic::warning(codes::TIED_EMBEDDING, headline)
                    .note("the output has an output layer of its own, and its config says so");
                reporter.add(diagnostic.at(self.source, input.span));
            }
        }
        if present.len() == self.inputs.len() {
            return Some(present);
        }
        self.lacking(wanted, present, reporter)
    }

    fn check_shapes(
        &self,
        wanted: &Wanted<'_>,
        present: &[Present<'_>],
        reporter: &mut Reporter,
    ) -> Option<()> {
        let first = &present[0];
        if self.is_undecided(wanted, present, reporter) {
            return None;
        }
        let Some(other) = present.iter().find(|one| one.tensor.shape != first.tensor.shape) else {
            return Some(());
        };
        if let Some(hollow) = present.iter().find(|one| is_hollow(one)) {
            reporter.tensor(self.id, self.hollow(wanted, hollow));
            return None;
        }
        let is_vocabulary = known::is_of_vocabulary(wanted.output);
        let headline = format!(
            "`{}` has different shapes in `{}` and `{}`",
            wanted.output, first.input.view.name, other.input.view.name
        );
        let mut diagnostic = Diagnostic::error(codes::SHAPE_MISMATCH, headline);
        for one in present {
            let label =
                if one.input.is_base { "base".to_owned() } else { one.input.view.name.clone() };
            let text =
                format!("{} {}, {}", one.tensor.shape, one.tensor.dtype, one.input.view.name);
            diagnostic = diagnostic.fact(label, text);
        }
        let (a, b) = (first.tensor.shape.dimensions(), other.tensor.shape.dimensions());
        let names_of = present.iter().find_map(|one| one.input.view.names_of.as_ref());
        if is_vocabulary && a.len() == b.len() && a.get(1..) == b.get(1..) {
            diagnostic = diagnostic.note("the vocabularies differ in size");
            diagnostic = match names_of {
                _ if self.is_implied => diagnostic.help(
                    "a body has the tokens of its base and no others: name a base with as many rows",
                ),
                Some((name, _)) => diagnostic.help(format!(
                    "keep it in a rule above this one: `keep: {name}`; or state beside `like` how many first rows mean the same: `shared_rows: …`"
                )),
                None => diagnostic.help(
                    "bring them together with `tokenizer: {source: base}` or `{source: union}`",
                ),
            };
        } else {
            diagnostic =
                diagnostic.help("only models of one architecture can be merged tensor by tensor");
        }
        reporter.tensor(self.id, diagnostic.at(self.source, other.input.span));
        None
    }

    fn report_dtypes(&self, wanted: &Wanted<'_>, present: &[Present<'_>], reporter: &mut Reporter) {
        let headline = format!("`{}` has element types that do not go together", wanted.output);
        let mut diagnostic = Diagnostic::error(codes::DTYPE_MISMATCH, headline);
        for one in present {
            diagnostic = diagnostic.fact(one.input.view.name.clone(), one.tensor.dtype.name());
        }
        let help = "copy it from one model with a rule: `keep: NAME`";
        reporter.tensor(self.id, diagnostic.help(help).at(self.source, self.span));
    }

    /// A tensor that is not computed with: taken from the first input, and equal in all. What a model is
    /// said to hold there without storing it can be neither taken nor compared, and is refused.
    fn copy_all(
        &self,
        wanted: &Wanted<'_>,
        present: &[Present<'_>],
        reporter: &mut Reporter,
    ) -> Option<How> {
        let mut refs: Vec<TensorRef> = Vec::new();
        let mut made = None;
        for one in present {
            let position = one.tensor.position;
            let stored = one.input.view.stored(position);
            if stored.is_none() {
                made.get_or_insert(one);
            }
            refs.extend(stored);
            refs.extend(one.input.view.equal_to(position));
        }
        let (None, Some(&from)) = (made, refs.first()) else {
            self.report_made(wanted, made.or(present.first())?, reporter);
            return None;
        };
        refs.retain(|&other| other != from);
        refs.sort_unstable();
        refs.dedup();
        Some(How::Copy { from, equal_to: refs, within: None })
    }

    fn report_made(&self, wanted: &Wanted<'_>, one: &Present<'_>, reporter: &mut Reporter) {
        let headline = format!(
            "`{}` holds {}, which are copied, and `{}` does not store it",
            wanted.output, one.tensor.dtype, one.input.view.name
        );
        let diagnostic = Diagnostic::error(codes::DTYPE_MISMATCH, headline)
            .note("its map or recipe makes it, as zeros or from several tensors")
            .help("copy it from a model that stores it with a rule: `keep: NAME`, or leave it out: `drop: true`");
        reporter.tensor(self.id, diagnostic.at(self.source, one.input.span));
    }

    /// One tensor as it is, or converted.
    fn take(&self, one: &Present<'_>, out: DType) -> How {
        take(one.input.view, one.tensor, out)
    }

    fn note_detail(
        &self,
        present: &[Present<'_>],
        beside: Vec<(String, String, DType)>,
        parameters: Vec<Resolved>,
        t: f64,
        detail: Option<&mut Option<Detail>>,
    ) {
        let Some(detail) = detail else { return };
        let inputs = present
            .iter()
            .map(|one| {
                let role = if one.input.is_base { "base" } else { "expert" };
                let model = format!("{role} {}", one.input.view.name);
                let name = one.input.view.made_of(one.tensor.position);
                (model, name.unwrap_or(one.tensor.name).to_owned(), one.tensor.dtype)
            })
            .chain(beside)
            .collect();
        *detail = Some(Detail { inputs, parameters, t });
    }

    /// The method applied to the inputs, for an output of a type.
    fn graph(
        &self,
        wanted: &Wanted<'_>,
        present: &[Present<'_>],
        (promoted, out): (DType, DType),
        reporter: &mut Reporter,
        detail: Option<&mut Option<Detail>>,
    ) -> Option<Making> {
        // Of a tensor that is explained all of it is looked up.
        let mut alike = match detail {
            None => Alike::of(self, present, out),
            Some(_) => None,
        };
        let is_steady = self.makings.is_steady(self);
        if let Some((alike, leaves)) = &alike
            && is_steady
            && let Some(known) = self.makings.find(alike, leaves, wanted.output)
        {
            return Some(known);
        }
        let experts: Vec<&Present<'_>> = present.iter().filter(|one| !one.input.is_base).collect();
        // Filters see the name that was asked for, also where a tied embedding stands in for it.
        let names: Vec<&str> = (self.inputs.iter().zip(wanted.names))
            .filter(|(input, _)| experts.iter().any(|one| std::ptr::eq(one.input, *input)))
            .map(|(_, name)| name.as_str())
            .collect();
        let levels = Levels {
            experts: experts.iter().map(|one| one.input.settings).collect(),
            shared: self.shared.clone(),
        };
        let at = At { t: wanted.t, output: wanted.output, inputs: &names };
        let resolved = match parameters::resolve(self.method, &levels, at) {
            Ok(resolved) => resolved,
            Err(unset) => {
                for unset in unset {
                    self.report_unset(&unset, &experts, wanted, reporter);
                }
                return None;
            }
        };
        if let Some((alike, leaves)) = &mut alike
            && !is_steady
        {
            alike.with(&resolved);
            if let Some(known) = self.makings.find(alike, leaves, wanted.output) {
                return Some(known);
            }
        }
        let mut graph = Graph::default();
        let mut double = self.dtype.unwrap_or(promoted) == DType::F64;
        let is_updated = |one: &Present<'_>| one.input.view.is_adapted(one.tensor.position);
        let has_update = present.iter().any(is_updated);
        let mut node = |one: &Present<'_>| {
            let (mut node, inner) = one.input.view.node(one.tensor.position, &mut graph);
            double |= inner;
            if let Some(nothing) = one.input.view.no_update(one.tensor.position)
                && has_update
            {
                let nothing = graph.leaf(Leaf::Product(nothing));
                node = graph.map(MapOp::Add, &[node, nothing]);
            }
            match self.dtype {
                // What is read is rounded, and the update of an adapter is added to that.
                Some(dtype) if loses(one.tensor.dtype, dtype) => match graph.adapted(node) {
                    Some((base, update)) => {
                        let base = graph.add(Node::Round(dtype), &[base]);
                        graph.map(MapOp::Add, &[base, update])
                    }
                    None => graph.add(Node::Round(dtype), &[node]),
                },
                _ => node,
            }
        };
        let base = present.iter().find(|one| one.input.is_base).map(&mut node);
        let expert_nodes: Vec<NodeId> = experts.iter().map(|one| node(one)).collect();
        let beside = self.beside(wanted, &experts, present[0].tensor.shape, &mut graph);
        let values = parameters::values(&mut graph, self.method, &resolved);
        let inputs = lower::Inputs {
            base,
            experts: &expert_nodes,
            beside: &beside,
            parameters: &values,
            elements: present[0].tensor.shape.elements(),
            shape: Some(present[0].tensor.shape.dimensions()),
            stored: Some(
                present.iter().find(|one| one.input.is_base).unwrap_or(&present[0]).tensor.dtype,
            ),
            seed: self.seed,
            own: Own::new(wanted.output, Some(wanted.t)),
            known: known(present),
            section: self.id,
        };
        let mut found = Vec::new();
        let output = lower(&mut graph, self.method, &inputs, &mut found);
        let alike = alike.filter(|_| found.is_empty() && !inputs.own.was_asked());
        let draws = inputs.own.draws();
        for one in found {
            match one.code {
                // About the tensor, of which a model can have two in each layer.
                codes::STACKED_MATRICES => {
                    reporter.tensor(self.id, one.at(self.source, self.span));
                }
                _ => reporter.add(self.at_setting(one, &resolved)),
            }
        }
        let beside = beside.conclude(self.id, reporter);
        self.note_detail(present, beside, resolved, wanted.t, detail);
        let Lowered { mut output, class } = output.ok()?;
        graph.base = base;
        let treatment = class.map(|class| class.treatment(Some(output) == base));
        // Rows that a map keeps are those of its target to the last bit, whatever the formula rounds.
        if let Some((mask, expert)) = kept_rows(&experts) {
            let mask = graph.leaf(mask);
            output = graph.map(MapOp::Where, &[mask, expert_nodes[expert], output]);
        }
        let output = self.round_as_mergekit(&mut graph, output, promoted, out, reporter);
        let making = Making { graph, output, double, treatment };
        if let Some((alike, leaves)) = alike {
            self.makings.keep(alike, &leaves, draws, &making);
        }
        Some(making)
    }

    /// A mistake at a parameter's name in the method's file is one of its value: moved to where the recipe
    /// says it.
    fn at_setting(&self, diagnostic: Diagnostic, resolved: &[Resolved]) -> Diagnostic {
        let Some(Place::Text(source, span)) = &diagnostic.place else { return diagnostic };
        let name = source.marked(*span);
        let set = resolved.iter().find(|one| one.span.line > 0 && Some(&*one.name) == name);
        match set {
            Some(set) if *source == self.method.file => diagnostic.at(self.source, set.span),
            _ => diagnostic,
        }
    }

    /// mergekit gives a merged tensor the type of its inputs before it becomes `out_dtype`: a wider
    /// output holds the values of the narrower type.
    fn round_as_mergekit(
        &self,
        graph: &mut Graph,
        output: NodeId,
        promoted: DType,
        out: DType,
        reporter: &mut Reporter,
    ) -> NodeId {
        let through = self.dtype.unwrap_or(promoted);
        let is_input = matches!(graph.nodes[output], Node::Leaf(_) | Node::Round(_));
        if self.form != Form::Mergekit || !loses(out, through) || is_input {
            return output;
        }
        if !graph.is_tensor(output) {
            return output;
        }
        let headline = format!(
            "values are rounded to {} before they are written as {}",
            through.torch_name(),
            out.torch_name()
        );
        let diagnostic = Diagnostic::warning(codes::COMPATIBILITY, headline)
            .note("as in mergekit, where a merged tensor first has the type of its inputs")
            .help(format!("state `dtype: {}` to keep what the merge computes", out.torch_name()));
        reporter.add(diagnostic.at(self.source, self.span));
        graph.add(Node::Round(through), &[output])
    }

    fn report_unset(
        &self,
        unset: &Unset,
        experts: &[&Present<'_>],
        wanted: &Wanted<'_>,
        reporter: &mut Reporter,
    ) {
        let name = &unset.parameter;
        let own = unset.expert.map(|position| experts[position].input.settings);
        let mut levels = own.into_iter().chain(self.shared.iter().map(|(_, settings)| *settings));
        let is_wrong = |settings: &Settings| {
            settings.get(name).is_some_and(|set| !matches!(set.setting, Setting::Conditional(_)))
        };
        if levels.any(is_wrong) {
            // It is set, to what the parameter does not take; that has been reported.
            return;
        }
        let (headline, span) = match unset.expert {
            Some(position) => {
                let input = experts[position].input;
                (format!("`{name}` is not set for `{}`", input.view.name), input.span)
            }
            None => {
                (format!("`{name}` of method `{}` is not set", self.method.name.value), self.span)
            }
        };
        let mut diagnostic = Diagnostic::error(codes::MISSING_PARAMETER, headline)
            .note(format!("first needed for tensor `{}`", wanted.output))
            .help(format!("add `parameters: {{{name}: …}}`"));
        if let Some(near) = self.misspelled(name) {
            diagnostic = diagnostic.help(format!("`{near}` is set; did you mean `{name}`?"));
        }
        reporter.add(diagnostic.at(self.source, span));
    }

    /// A parameter that is set, is not one of the method's, and looks like this one.
    fn misspelled(&self, name: &str) -> Option<String> {
        let own = self.inputs.iter().map(|input| input.settings);
        let all = own.chain(self.shared.iter().map(|(_, settings)| *settings));
        let set: Vec<&str> = all
            .flat_map(|settings| settings.0.iter().map(|named| named.name.value.as_str()))
            .filter(|set| self.method.parameters.iter().all(|known| known.name.value != *set))
            .collect();
        mixdown_diagnostics::suggest::nearest(name, set.iter().copied()).map(str::to_owned)
    }
}

/// What is known of a tensor for methods over matrices.
fn known(present: &[Present<'_>]) -> Known {
    let first = &present[0];
    let known = first.input.view.known(first.tensor.name, first.tensor.shape.dimensions());
    // Only the factors of adapters are measured from zero.
    let are_factors = present.iter().any(|one| one.input.view.is_zero());
    Known { are_factors, ..known }
}

/// A tensor of a model as it is, or converted to another type.
pub(crate) fn take(view: &View<'_>, tensor: Tensor<'_>, out: DType) -> How {
    if let Some(from) = view.stored(tensor.position)
        && (tensor.dtype == out || !tensor.dtype.is_float())
        && view.is_plain(tensor.position)
    {
        let equal_to = view.equal_to(tensor.position).to_vec();
        return How::Copy { from, equal_to, within: None };
    }
    let mut graph = Graph::default();
    let (output, inner) = view.node(tensor.position, &mut graph);
    let double = inner || (tensor.dtype == DType::F64 && out == DType::F64);
    How::Graph { graph: Box::new(graph), output, double }
}

/// Whose tensor is kept where it is a buffer of numbers, which follows from the configuration and is not learned: the
/// base's, or the first model's.
fn buffer<'p, 's>(present: &'p [Present<'s>]) -> Option<&'p Present<'s>> {
    let kept = present.iter().find(|one| one.input.is_base).or(present.first())?;
    let facts = kept.input.view.facts(kept.tensor.name)?;
    facts.tensor.is_buffer.then_some(kept)
}

/// Whether a value of one type may change when rounded to another.
pub(crate) fn loses(from: DType, to: DType) -> bool {
    match (from, to) {
        (from, to) if from == to => false,
        (_, DType::F64) | (DType::F16 | DType::Bf16, DType::F32) => false,
        // A load in single precision rounds f64 to f32 by itself.
        (DType::F64, DType::F32) => false,
        _ => true,
    }
}
