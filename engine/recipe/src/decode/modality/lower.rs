//! A modality recipe as models and rules: the base, for each modality its body, connector and encoder, and
//! for each part of the output a rule.

use mixdown_diagnostics::Span;

use super::check::{check, check_prefixes};
use super::inputs::{Body, BodyKind, Connector, Encoder, Input, Place};
use super::{Rest, Space, Written};
use crate::decode::reader::Decoder;
use crate::modality::{
    self, Factors, Modality, ModalityInput, Mode, OutputLayout, Part, Reading, Renaming,
};
use crate::recipe::{
    self, Action, AdapterOutput, Attached, Form, Implied, Model, ModelId, ModelReference, Recipe,
    Rule, SourceModel,
};
use crate::setting::{NamedSetting, Scalar, Setting, Settings, Spanned};
use crate::tree::Tree;

/// What NaiveMC does with adapters: the sum of their updates, each times its coefficient.
const ONLINE_METHOD: &str = "task_arithmetic";
/// The name that ModelCompose gives to the adapter of the language model.
const DEFAULT: &str = "default";

/// The recipe; none where what it says does not go together.
pub(super) fn recipe(decoder: &mut Decoder<'_>, tree: &Tree, written: Written) -> Option<Recipe> {
    check(decoder, &written)?;
    let Written { ref body, ref output, mode, .. } = written;
    let mut lowering = Lowering { decoder, written: &written, rules: Vec::new() };
    let mut inputs: Vec<ModalityInput> =
        written.inputs.iter().map(|input| lowering.body(input)).collect();
    for (input, of) in written.inputs.iter().zip(&mut inputs) {
        of.connector = input.connector.as_ref().map(|found| lowering.connector(input, found));
        of.encoder = input.encoder.as_ref().and_then(|found| lowering.encoder(input, found));
    }
    if mode == Mode::Online {
        for (input, coefficient) in inputs.iter_mut().zip(&written.coefficients) {
            input.coefficient = Some(coefficient.value);
        }
    }
    check_prefixes(lowering.decoder, &inputs)?;
    lowering.copies(&inputs);
    if mode == Mode::Damc {
        lowering.own_adapters(&inputs);
    }
    // An adapter's own names are none of the output's; what of them is left out is said where it is read.
    let is_whole = |input: &&Input| matches!(input.body.kind, BodyKind::Full(_));
    let dropping = written.inputs.iter().filter(is_whole).filter(|input| !input.drop.is_empty());
    for input in dropping {
        let title = format!("inputs.{}.drop", input.name.value);
        lowering.rule(title, input.drop.clone(), Action::Drop, input.drop[0].span, false);
    }
    let bodies: Vec<ModelId> = inputs.iter().map(|input| input.body).collect();
    match (body.space, mode, output.layout) {
        (Space::Factors, ..) => lowering.in_factors(&inputs),
        (_, Mode::Online, OutputLayout::ModelCompose) => lowering.side_by_side(&inputs),
        _ => lowering.dense(&bodies),
    }
    let rules = lowering.rules;
    let modality = Modality {
        inputs,
        layout: output.layout,
        mode,
        prefer: output.prefer.clone(),
        span: written.span,
    };
    Some(Recipe {
        source: tree.source.clone(),
        form: Form::Strict,
        models: Vec::new(),
        base: Some(written.base.clone()),
        reference: None,
        method: None,
        inline_method: None,
        settings: Settings::default(),
        body: recipe::Body::Rules(rules),
        dtype: None,
        out_dtype: None,
        tokenizer: None,
        chat_template: None,
        declared: Vec::new(),
        seed: 0,
        files_from: None,
        shard_size: None,
        adapter: output.rank.clone().map(|rank| {
            let span = rank.span;
            AdapterOutput { rank: Some(rank), span }
        }),
        quantize: None,
        gguf: None,
        modality: Some(modality),
        warnings: Vec::new(),
    })
}

struct Lowering<'l, 'd> {
    decoder: &'l mut Decoder<'d>,
    written: &'l Written,
    rules: Vec<Rule>,
}

impl Lowering<'_, '_> {
    fn add(
        &mut self,
        name: String,
        (path, revision): &(String, Option<String>),
        span: Span,
        reading: Reading,
    ) -> ModelId {
        let reference = ModelReference::Checkpoint {
            path: path.clone(),
            revision: revision.clone(),
            prefix: None,
            adapter: None,
            override_architecture: None,
        };
        let model = Model { reading, ..Model::plain(name, reference, span) };
        self.decoder.models.add(model, Settings::default())
    }

    /// The model of a body.
    fn body(&mut self, input: &Input) -> ModalityInput {
        let Body { kind, path, span } = &input.body;
        let mut except = Vec::new();
        except.extend(
            input
                .connector
                .iter()
                .filter(|part| part.path.is_none())
                .map(|part| part.prefix.value.clone()),
        );
        let in_body = input.encoder.iter().filter(|encoder| matches!(encoder.place, Place::Body));
        except.extend(in_body.filter_map(|encoder| Some(encoder.prefix.as_ref()?.value.clone())));
        let mut reading = Reading { except, ..Reading::default() };
        let name = input.name.value.clone();
        let body = match kind {
            BodyKind::Full(prefix) => {
                match prefix {
                    Some(prefix) => {
                        reading.prefixes.push(Renaming { from: prefix.clone(), to: String::new() })
                    }
                    None => reading.like = Some(self.written.base.value),
                }
                self.add(name, path, *span, reading)
            }
            BodyKind::Adapter(_) | BodyKind::Peft => {
                reading.drop = input.drop.iter().map(|pattern| pattern.value.clone()).collect();
                let (base, revision) = self.written.base_path.clone();
                let reference = ModelReference::Checkpoint {
                    path: base,
                    revision,
                    prefix: self.written.base_prefix.clone(),
                    adapter: Some(path.clone()),
                    override_architecture: None,
                };
                let factors = match kind {
                    BodyKind::Adapter(factors) => Some(factors.clone()),
                    _ => None,
                };
                let model = Model { reading, factors, ..Model::plain(name, reference, *span) };
                self.decoder.models.add(model, Settings::default())
            }
        };
        let name = input.name.clone();
        ModalityInput { name, body, connector: None, encoder: None, coefficient: None }
    }

    /// A part that is copied: from the body's own checkpoint, of which other models see the rest, or from
    /// one of its own.
    fn part(
        &mut self,
        name: String,
        path: Option<&(String, Option<String>)>,
        input: &Input,
        (from, span): (&str, Span),
        to: Spanned<String>,
    ) -> Part {
        let prefixes = vec![Renaming { from: from.to_owned(), to: to.value.clone() }];
        // A folder of its own is the part, unless a prefix says which of its tensors are.
        let leaves_rest = path.is_some() && !from.is_empty();
        let only_prefixes = path.is_none() || leaves_rest;
        let reading = Reading { prefixes, only_prefixes, leaves_rest, ..Reading::default() };
        let path = path.unwrap_or(&input.body.path);
        Part { model: self.add(name, path, span, reading), prefix: to }
    }

    fn connector(&mut self, input: &Input, found: &Connector) -> Part {
        let name = format!("{}.connector", input.name.value);
        // A part of the body's checkpoint is not there because of its prefix.
        let span = found.path.as_ref().map_or(found.prefix.span, |_| found.span);
        let from = (found.prefix.value.as_str(), span);
        self.part(name, found.path.as_ref(), input, from, found.to.clone())
    }

    fn encoder(&mut self, input: &Input, found: &Encoder) -> Option<modality::Encoder> {
        if !found.is_told {
            return None;
        }
        let (path, revision) = match &found.place {
            Place::Path(path, revision) => (Some(path.clone()), revision.clone()),
            Place::Body | Place::Nowhere => (None, None),
        };
        let of = path.as_ref().map(|path| (path.value.clone(), revision.clone()));
        let name = format!("{}.encoder", input.name.value);
        let from = found.prefix.as_ref().map_or("", |prefix| prefix.value.as_str());
        let copied = found.to.clone();
        let copied = copied.map(|to| self.part(name, of.as_ref(), input, (from, found.span), to));
        Some(modality::Encoder { path, revision, copied, span: found.span })
    }

    fn rule(
        &mut self,
        title: String,
        tensors: Vec<Spanned<String>>,
        action: Action,
        span: Span,
        may_be_idle: bool,
    ) -> &mut Rule {
        let implied = Some(Implied { title, may_be_idle, same_in: Vec::new(), within: 0.0 });
        let (layers, modules, roles) = (None, Vec::new(), Vec::new());
        self.rules.push(Rule { tensors, layers, modules, roles, action, implied, span });
        self.rules.last_mut().expect("a rule was just added")
    }

    /// Connectors and encoders, byte for byte.
    fn copies(&mut self, inputs: &[ModalityInput]) {
        for input in inputs {
            let encoder = input.encoder.as_ref().and_then(|encoder| encoder.copied.as_ref());
            let parts = [("connector", input.connector.as_ref()), ("encoder", encoder)];
            for (word, part) in parts.into_iter().filter_map(|(word, part)| Some((word, part?))) {
                let (prefix, span) = (escaped(&part.prefix.value), part.prefix.span);
                let patterns = [format!("{prefix}.**"), prefix];
                let patterns = patterns.map(|value| Spanned { value, span }).to_vec();
                let keep = Action::Keep(Spanned { value: part.model, span });
                self.rule(
                    format!("inputs.{}.{word}", input.name.value),
                    patterns,
                    keep,
                    span,
                    false,
                );
            }
        }
    }

    /// DAMC: the adapter and the tokens of each modality, under their own names.
    fn own_adapters(&mut self, inputs: &[ModalityInput]) {
        for (input, lowered) in self.written.inputs.iter().zip(inputs) {
            let (name, span) = (escaped(&lowered.name.value), input.body.span);
            let patterns = [
                format!("**.lora_{{A,B}}.{name}.weight"),
                format!("{{prefix,suffix}}_tokens.{name}"),
                format!("model.{{prefix,suffix}}_tokens.{name}"),
            ];
            let only = patterns.to_vec();
            let reading = Reading { only, ..Reading::default() };
            let title = format!("{}.own", lowered.name.value);
            let model = self.add(title, &input.body.path, span, reading);
            let patterns = patterns.map(|value| Spanned { value, span }).to_vec();
            let keep = Action::Keep(Spanned { value: model, span });
            self.rule(format!("inputs.{}.body", lowered.name.value), patterns, keep, span, false);
        }
    }

    fn experts(&self, models: &[ModelId]) -> Vec<SourceModel> {
        let inputs = self.written.inputs.iter().enumerate();
        inputs
            .zip(models)
            .map(|((position, input), &value)| {
                let mut settings = input.params.clone();
                if self.written.mode == Mode::Online {
                    let weight = &self.written.coefficients[position];
                    settings.0.push(number("weight", weight));
                }
                let model = Spanned { value, span: input.body.span };
                SourceModel { model, layers: None, settings, attached: Attached::default() }
            })
            .collect()
    }

    fn merge(&self, method: &str, base: Option<ModelId>, experts: Vec<SourceModel>) -> Action {
        let body = &self.written.body;
        let span = body.method.as_ref().map_or(body.span, |method| method.span);
        let is_own = body.method.as_ref().is_some_and(|own| own.value == method);
        Action::Merge {
            method: Some(Spanned { value: method.to_owned(), span }),
            inline_method: None,
            base: base.map(|value| Spanned { value, span }),
            reference: None,
            experts: Some(experts),
            settings: if is_own { body.params.clone() } else { Settings::default() },
            out_dtype: None,
        }
    }

    /// The language models, as weights.
    fn dense(&mut self, bodies: &[ModelId]) {
        let body = &self.written.body;
        let method = body.method.as_ref().map_or(ONLINE_METHOD, |method| method.value.as_str());
        let merge = self.merge(method, None, self.experts(bodies));
        let include = body.include.clone();
        let span = include.first().map_or(body.span, |pattern| pattern.span);
        // A rule for all names would take for its own what is in no base.
        let include_all = include.is_empty();
        self.rule("body.include".to_owned(), include, merge, span, false);
        if include_all {
            return;
        }
        let (title, span) = ("body.rest".to_owned(), body.rest_span);
        let bodies = bodies.iter().map(|&value| Spanned { value, span });
        match body.rest {
            Rest::Base => {
                let keep = Action::Keep(Spanned { value: self.written.base.value, span });
                let (same_in, within) = (bodies.collect(), body.tolerance);
                let rule = self.rule(title, Vec::new(), keep, span, true);
                if let Some(implied) = &mut rule.implied {
                    (implied.same_in, implied.within) = (same_in, within);
                }
            }
            Rest::First => {
                let first = bodies.into_iter().next();
                let keep = first.map_or(Action::Drop, Action::Keep);
                self.rule(title, Vec::new(), keep, span, true);
            }
            Rest::Mean => {
                let plain = |model| SourceModel {
                    model,
                    layers: None,
                    settings: Settings::default(),
                    attached: Attached::default(),
                };
                let mean = Action::Merge {
                    method: Some(Spanned { value: "average".to_owned(), span }),
                    inline_method: None,
                    base: None,
                    reference: None,
                    experts: Some(bodies.map(plain).collect()),
                    settings: Settings::default(),
                    out_dtype: None,
                };
                self.rule(title, Vec::new(), mean, span, true);
            }
        }
    }

    /// The factors of a modality's adapter, under the name of another adapter.
    fn factors(&mut self, input: &Input, to: &str) -> ModelId {
        let BodyKind::Adapter(Factors { adapter, .. }) = &input.body.kind else {
            unreachable!("other bodies are refused where factors are needed")
        };
        let only = vec![format!("**.lora_{{A,B}}.{}.weight", escaped(&adapter.value))];
        let renaming = Renaming { from: adapter.value.clone(), to: to.to_owned() };
        let reading = Reading { only, adapter: Some(renaming), ..Reading::default() };
        let name = format!("{}.factors", input.name.value);
        self.add(name, &input.body.path, input.body.span, reading)
    }

    /// The language models, each factor of their adapters by itself.
    fn in_factors(&mut self, inputs: &[ModalityInput]) {
        let body = &self.written.body;
        let mut factors = Vec::with_capacity(inputs.len());
        for input in &self.written.inputs {
            factors.push(self.factors(input, DEFAULT));
        }
        // Factors are measured from zero.
        let first = self.decoder.models.list[factors[0].0 as usize].clone();
        let reading = Reading { is_zero: true, ..first.reading.clone() };
        let zero = Model { name: "zero".to_owned(), reading, ..first };
        let zero = self.decoder.models.add(zero, Settings::default());
        let method = body.method.as_ref().map_or(ONLINE_METHOD, |method| method.value.as_str());
        let merge = self.merge(method, Some(zero), self.experts(&factors));
        let everything = || {
            let value = format!("**.lora_{{A,B}}.{DEFAULT}.weight");
            vec![Spanned { value, span: body.span }]
        };
        let of_factors: Vec<Spanned<String>> = body
            .include
            .iter()
            .map(|pattern| Spanned { value: factor_pattern(&pattern.value), span: pattern.span })
            .collect();
        let include = if of_factors.is_empty() { everything() } else { of_factors };
        let span = include[0].span;
        self.rule("body.include".to_owned(), include, merge, span, false);
        let (title, span) = ("body.rest".to_owned(), body.rest_span);
        if body.rest == Rest::First {
            let keep = Action::Keep(Spanned { value: factors[0], span });
            self.rule(title.clone(), everything(), keep, span, true);
        }
        self.rule(title, Vec::new(), Action::Drop, span, true);
    }

    /// NaiveMC: all adapters, each under a name of its own.
    fn side_by_side(&mut self, inputs: &[ModalityInput]) {
        for (input, lowered) in self.written.inputs.iter().zip(inputs) {
            let (name, span) = (format!("{DEFAULT}-{}", lowered.name.value), input.body.span);
            let model = self.factors(input, &name);
            let value = format!("**.lora_{{A,B}}.{}.weight", escaped(&name));
            let keep = Action::Keep(Spanned { value: model, span });
            let title = format!("inputs.{}.body", lowered.name.value);
            self.rule(title, vec![Spanned { value, span }], keep, span, false);
        }
        let span = self.written.output.span;
        self.rule("output.layout".to_owned(), Vec::new(), Action::Drop, span, true);
    }
}

/// For a pattern of weights the one of their factors.
fn factor_pattern(pattern: &str) -> String {
    let module = pattern.strip_suffix(".weight").unwrap_or(pattern);
    format!("{module}.lora_{{A,B}}.{DEFAULT}.weight")
}

/// A text that means itself in a pattern.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if "*?[]{},\\!".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

fn number(name: &str, value: &Spanned<f64>) -> NamedSetting {
    let span = value.span;
    let setting = Setting::Scalar(Spanned { value: Scalar::Number(value.value), span });
    NamedSetting { name: Spanned { value: name.to_owned(), span }, setting, span }
}
