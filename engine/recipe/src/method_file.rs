//! Method files, and the methods that a recipe writes for itself: YAML to a [`Method`].

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, Source, Span, any_error, codes, sort};

use crate::decode::declare::Declared;
use crate::decode::reader::{Decoder, Fields};
use crate::decode::scalar_of;
use crate::expression::{Expression, parse_at, span_between};
use crate::matrices::MatrixSelector;
use crate::method::{
    BaseUse, Bounds, ExpertCount, Method, Missing, Parameter, ParameterKind, Per, Step,
};
use crate::recipe::{Attachment, Form};
use crate::schema::Keys;
use crate::schema::method::{ExpertCountKeys, InputsKeys, MethodKeys, ParameterKeys};
use crate::setting::{Scalar, Spanned};
use crate::tree::{Dialect, Entry, Node};
use crate::yaml;

/// Names that mean something in every formula.
const RESERVED: &[&str] = &[
    "and",
    "base",
    "experts",
    "false",
    "gram",
    "has_base",
    "importance",
    "n",
    "not",
    "or",
    "reference",
    "true",
];

/// What a method takes.
struct Inputs {
    base: BaseUse,
    experts: ExpertCount,
    attachments: Vec<Attachment>,
    reference: bool,
}

/// Reads a method file.
pub fn read_method(source: &Source) -> Result<Method, Vec<Diagnostic>> {
    let tree = yaml::parse(source, Some(Dialect::Yaml12))?;
    let mut decoder = Decoder::new(source, Form::Strict);
    let method = decoder.method_file(&tree.root);
    let mut diagnostics = decoder.diagnostics;
    sort(&mut diagnostics);
    match method {
        Some(method) if !any_error(&diagnostics) => Ok(method),
        _ => Err(diagnostics),
    }
}

impl Decoder<'_> {
    fn method_file(&mut self, root: &Node) -> Option<Method> {
        let fields = self.fields(root, MethodKeys::KEYS, "a method")?;
        for key in ["method", "title", "source", "summary", "output"] {
            if !fields.mentions(key) {
                self.missing_key(root, key, "a method");
            }
        }
        let mut text = |key| self.text_at(fields, key).map(|text| text.value).unwrap_or_default();
        let (title, source, summary) = (text("title"), text("source"), text("summary"));
        let notes = self.text_at(fields, "notes").map(|text| text.value);
        let name = self.text_at(fields, "method");
        let parameters = self.parameters(fields, "parameters");
        let missing =
            fields.get("missing").and_then(|node| self.missing(node)).unwrap_or(Missing::Error);
        let formulas = self.formulas(fields, &parameters);
        let Inputs { base, experts, attachments, reference } =
            self.inputs(fields, formulas.as_ref());
        let (steps, output) = formulas?;
        let file = self.source.clone();
        Some(Method {
            name: name?,
            title,
            source,
            summary,
            notes,
            base,
            experts,
            attachments,
            reference,
            missing,
            parameters,
            steps,
            output,
            file,
        })
    }

    /// `steps` and `output` of a recipe or rule. Those names that the recipe declares at its top count as
    /// parameters where a formula uses them.
    pub(crate) fn inline_method(
        &mut self,
        fields: Fields<'_>,
        declared: &Declared,
        in_rule: bool,
    ) -> Option<Method> {
        let written = ["output", "steps", "inputs"].iter().find_map(|key| fields.entry(key));
        let Some(first) = written else {
            if let Some(entry) = fields.entry("declare").filter(|_| in_rule) {
                let error = Diagnostic::error(
                    codes::MISSING_KEY,
                    "`declare` of a rule needs formulas that use it",
                );
                self.report(
                    entry.key.span,
                    error.help("add `output:`, or declare at the top of the recipe"),
                );
            }
            return None;
        };
        let mut parameters = if in_rule { self.parameters(fields, "declare") } else { Vec::new() };
        for parameter in &declared.parameters {
            if !parameters.iter().any(|own| own.name.value == parameter.name.value) {
                parameters.push(parameter.clone());
            }
        }
        let Some(output) = fields.entry("output") else {
            if !fields.mentions("output") {
                let error = Diagnostic::error(codes::MISSING_KEY, "the formulas have no `output`");
                self.report(
                    first.key.span,
                    error.help("add the merged weights: `output: base + …`"),
                );
            }
            return None;
        };
        let formulas = self.formulas(fields, &parameters);
        let Inputs { base, experts, attachments, reference } =
            self.inputs(fields, formulas.as_ref());
        let (steps, result) = formulas?;
        parameters.retain(|parameter| {
            let name = parameter.name.value.as_str();
            uses(&steps, &result, name) || (in_rule && !declared.parameters.contains(parameter))
        });
        Some(Method {
            name: Spanned { value: "inline".into(), span: output.key.span },
            title: "Inline method".into(),
            source: "the recipe".into(),
            summary: "Formulas of the recipe's own.".into(),
            notes: None,
            base,
            experts,
            attachments,
            reference,
            missing: Missing::Error,
            parameters,
            steps,
            output: result,
            file: self.source.clone(),
        })
    }

    fn missing(&mut self, node: &Node) -> Option<Missing> {
        let words = [
            ("error", Missing::Error),
            ("copy_single", Missing::CopySingle),
            ("copy_base", Missing::CopyBase),
            ("base_or_skip", Missing::BaseOrSkip),
        ];
        self.word(node, "`missing`", &words)
    }

    fn inputs(&mut self, fields: Fields<'_>, formulas: Option<&(Vec<Step>, Expression)>) -> Inputs {
        let reads = |name| formulas.is_some_and(|(steps, output)| uses(steps, output, name));
        let base = match (reads("has_base"), reads("base")) {
            (true, _) => BaseUse::Optional,
            (false, true) => BaseUse::Required,
            (false, false) => BaseUse::Ignored,
        };
        let experts = ExpertCount { at_least: 1, at_most: None };
        let mut attachments = Attachment::ALL.to_vec();
        attachments.retain(|kind| reads(kind.name()));
        let reference = reads("reference");
        let mut inputs = Inputs { base, experts, attachments, reference };
        let Some(node) = fields.get("inputs") else { return inputs };
        let Some(fields) = self.fields(node, InputsKeys::KEYS, "`inputs`") else {
            return inputs;
        };
        if let Some(node) = fields.get("base") {
            let words = [
                ("required", BaseUse::Required),
                ("optional", BaseUse::Optional),
                ("ignored", BaseUse::Ignored),
            ];
            inputs.base = self.word(node, "`base`", &words).unwrap_or(inputs.base);
        }
        if let Some(node) = fields.get("experts") {
            inputs.experts = self.expert_count(node).unwrap_or(inputs.experts);
        }
        let mut needs = |key: &str| {
            let word = fields
                .get(key)
                .map(|node| self.word(node, &format!("`{key}`"), &[("required", ())]).is_some());
            word.unwrap_or(false)
        };
        for kind in Attachment::ALL {
            if needs(kind.name()) && !inputs.attachments.contains(&kind) {
                inputs.attachments.push(kind);
            }
        }
        inputs.attachments.sort_unstable();
        inputs.reference |= needs("reference");
        inputs
    }

    fn expert_count(&mut self, node: &Node) -> Option<ExpertCount> {
        let fields = self.fields(node, ExpertCountKeys::KEYS, "`experts`")?;
        let mut count = |key: &str| {
            let node = fields.get(key)?;
            usize::try_from(self.count(node, &format!("`{key}`"))?).ok()
        };
        let (at_least, at_most, exactly) = (count("at_least"), count("at_most"), count("exactly"));
        if exactly.is_some() && (at_least.is_some() || at_most.is_some()) {
            let error = Diagnostic::error(
                codes::CONFLICTING_KEYS,
                "`exactly` excludes `at_least` and `at_most`",
            );
            self.report(node.span, error);
        }
        if let (Some(least), Some(most)) = (at_least, at_most)
            && least > most
        {
            self.error(
                codes::OUT_OF_RANGE,
                node.span,
                format!("no number is at least {least} and at most {most}"),
            );
        }
        Some(match exactly {
            Some(exactly) => ExpertCount { at_least: exactly, at_most: Some(exactly) },
            None => ExpertCount { at_least: at_least.unwrap_or(1), at_most },
        })
    }

    fn parameters(&mut self, fields: Fields<'_>, key: &str) -> Vec<Parameter> {
        let Some(node) = fields.get(key) else { return Vec::new() };
        let entries = self.map(node, &format!("`{key}`")).unwrap_or_default();
        let mut parameters: Vec<Parameter> = Vec::new();
        for entry in entries {
            let Some(parameter) = self.declaration(entry) else { continue };
            let twice = parameters
                .iter()
                .flat_map(|other| other.aliases.iter().chain([&other.name.value]))
                .find(|other| **other == parameter.name.value || parameter.aliases.contains(other));
            if let Some(name) = twice {
                let headline = format!("two parameters are called `{name}`");
                self.error(codes::DUPLICATE_KEY, entry.key.span, headline);
            }
            parameters.push(parameter);
        }
        parameters
    }

    /// A parameter with its description, or with its default alone. Texts are checked and left out:
    /// no formula can use them.
    pub(crate) fn declaration(&mut self, entry: &Entry) -> Option<Parameter> {
        let name = Spanned { value: entry.key.text.to_string(), span: entry.key.span };
        self.check_name(&name, "a parameter");
        let what = format!("parameter `{}`", name.value);
        if entry.value.entries().is_none() {
            let default = self.scalar(&entry.value, &name.value)?;
            let kind = kind_of(&default.value)?;
            let (doc, aliases) = (String::new(), Vec::new());
            return Some(Parameter {
                name,
                per: Per::Merge,
                kind,
                default: Some(default.value),
                doc,
                aliases,
            });
        }
        let fields = self.fields(&entry.value, ParameterKeys::KEYS, &what)?;
        let per = fields.get("per").and_then(|node| {
            self.word(node, "`per`", &[("expert", Per::Expert), ("merge", Per::Merge)])
        });
        let kind = self.kind(fields, &entry.value, &what)?;
        let default =
            fields.get("default").and_then(|node| self.default(node, &name.value, kind.as_ref()));
        let doc = self.text_at(fields, "doc").map(|text| text.value).unwrap_or_default();
        let aliases = match fields.get("aliases") {
            Some(node) => self.list(node, "`aliases`").unwrap_or_default(),
            None => &[],
        };
        let aliases: Vec<String> = aliases
            .iter()
            .filter_map(|node| {
                let alias = self.text(node, "an alias")?;
                // Recipes name it and formulas never do, so that it may have a meaning there: n of n:m.
                self.check_letters(&alias, "an alias");
                Some(alias.value)
            })
            .collect();
        Some(Parameter { name, per: per.unwrap_or(Per::Merge), kind: kind?, default, doc, aliases })
    }

    /// The kind of a parameter; `Some(None)` is a text, which is a kind of declared values alone.
    fn kind(
        &mut self,
        fields: Fields<'_>,
        node: &Node,
        what: &str,
    ) -> Option<Option<ParameterKind>> {
        let word = match fields.get("type") {
            Some(node) => {
                let words =
                    ["real", "fraction", "integer", "boolean", "choice", "matrices", "text"];
                self.word(node, "`type`", &words.map(|word| (word, word)))?
            }
            None if fields.entry("choices").is_some() => "choice",
            None => match fields.get("default").and_then(scalar_of) {
                Some(Scalar::Boolean(_)) => "boolean",
                Some(Scalar::Number(_)) => "real",
                Some(Scalar::Text(_)) => "text",
                None => {
                    if !fields.mentions("default") {
                        self.missing_key(node, "type", what);
                    }
                    return None;
                }
            },
        };
        for (key, fits) in [
            ("choices", matches!(word, "choice" | "real")),
            ("at_least", matches!(word, "real" | "integer")),
            ("at_most", matches!(word, "real" | "integer")),
            ("above", word == "real"),
            ("below", word == "real"),
        ] {
            if let Some(entry) = fields.entry(key).filter(|_| !fits) {
                let headline = format!("`{key}` has no meaning for the type `{word}`");
                self.error(codes::CONFLICTING_KEYS, entry.key.span, headline);
            }
        }
        Some(Some(match word {
            "fraction" => ParameterKind::Fraction,
            "boolean" => ParameterKind::Boolean,
            "matrices" => ParameterKind::Matrices,
            "text" => return Some(None),
            "choice" => ParameterKind::Choice(self.choices(fields, node, what)?),
            "integer" => ParameterKind::Integer {
                at_least: self.bound(fields, "at_least").map(|bound| bound as i64),
                at_most: self.bound(fields, "at_most").map(|bound| bound as i64),
            },
            _ if fields.entry("choices").is_some() => ParameterKind::NumberOrWord {
                words: self.choices(fields, node, what)?,
                bounds: self.bounds(fields),
            },
            _ => ParameterKind::Real(self.bounds(fields)),
        }))
    }

    fn choices(&mut self, fields: Fields<'_>, node: &Node, what: &str) -> Option<Vec<String>> {
        let Some(choices) = fields.get("choices") else {
            self.missing_key(node, "choices", what);
            return None;
        };
        let items = self.list(choices, "`choices`")?;
        let words: Vec<String> = items
            .iter()
            .filter_map(|item| self.text(item, "a choice"))
            .map(|text| text.value)
            .collect();
        if words.is_empty() {
            self.error(codes::WRONG_TYPE, choices.span, format!("{what} has no choices"));
        }
        Some(words)
    }

    fn bounds(&mut self, fields: Fields<'_>) -> Bounds {
        Bounds {
            at_least: self.bound(fields, "at_least"),
            above: self.bound(fields, "above"),
            at_most: self.bound(fields, "at_most"),
            below: self.bound(fields, "below"),
        }
    }

    fn bound(&mut self, fields: Fields<'_>, key: &str) -> Option<f64> {
        let node = fields.get(key)?;
        match scalar_of(node) {
            Some(Scalar::Number(value)) => Some(value),
            _ => {
                self.wrong_type(node, &format!("`{key}`"), "a number");
                None
            }
        }
    }

    fn default(&mut self, node: &Node, name: &str, kind: Option<&ParameterKind>) -> Option<Scalar> {
        let value = self.scalar(node, name)?.value;
        if let Some(problem) = kind.and_then(|kind| misfit(&value, kind)) {
            let found = match (&value, node.scalar()) {
                (Scalar::Number(_), Some(scalar)) => scalar.text.to_string(),
                _ => node.describe(),
            };
            let headline = format!("`{name}` must {problem}, found {found}");
            self.error(codes::OUT_OF_RANGE, node.span, headline);
        }
        Some(value)
    }

    /// Steps and output.
    fn formulas(
        &mut self,
        fields: Fields<'_>,
        parameters: &[Parameter],
    ) -> Option<(Vec<Step>, Expression)> {
        let mut steps = Vec::new();
        let entries = match fields.get("steps") {
            Some(node) => self.map(node, "`steps`").unwrap_or_default(),
            None => &[],
        };
        for entry in entries {
            let name = Spanned { value: entry.key.text.to_string(), span: entry.key.span };
            self.check_name(&name, "a step");
            let taken = |parameter: &&Parameter| {
                parameter.name.value == name.value || parameter.aliases.contains(&name.value)
            };
            if parameters.iter().any(|parameter| taken(&parameter)) {
                let headline = format!("`{}` is a parameter already", name.value);
                let error = Diagnostic::error(codes::DUPLICATE_KEY, headline);
                self.report(name.span, error.help("give the step a name of its own"));
            }
            let Some(expression) = self.formula(&entry.value) else { continue };
            let span = line_of(entry);
            steps.push(Step { name, expression, span });
        }
        let output = fields.get("output").and_then(|node| self.formula(node))?;
        Some((steps, output))
    }

    fn formula(&mut self, node: &Node) -> Option<Expression> {
        let text = self.text(node, "a formula")?;
        let places = node.text_places(self.source);
        match parse_at(&text.value, &places) {
            Ok(expression) => Some(expression),
            Err(error) => {
                let mut diagnostic = Diagnostic::error(codes::BAD_EXPRESSION, error.message);
                diagnostic.help = error.help;
                self.report(span_between(&places, error.start, error.end), diagnostic);
                None
            }
        }
    }

    fn check_name(&mut self, name: &Spanned<String>, what: &str) {
        let text = &*name.value;
        if RESERVED.contains(&text) {
            let headline =
                format!("`{text}` cannot be the name of {what}: it has a meaning in every formula");
            self.error(codes::DUPLICATE_KEY, name.span, headline);
            return;
        }
        self.check_letters(name, what);
    }

    fn check_letters(&mut self, name: &Spanned<String>, what: &str) {
        let text = &*name.value;
        let sound = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !sound {
            let error = Diagnostic::error(
                codes::BAD_EXPRESSION,
                format!("`{text}` cannot be the name of {what}"),
            );
            self.report(name.span, error.help("write names in the letters a to z, digits and `_`"));
        }
    }
}

fn uses(steps: &[Step], output: &Expression, name: &str) -> bool {
    let mut found = false;
    for expression in steps.iter().map(|step| &step.expression).chain([output]) {
        expression.for_each_name(&mut |other, _| found |= other == name);
    }
    found
}

fn line_of(entry: &Entry) -> Span {
    let (key, value) = (entry.key.span, entry.value.span);
    let end =
        if value.line == key.line { value.column + value.length } else { key.column + key.length };
    Span { length: end.saturating_sub(key.column), ..key }
}

fn kind_of(value: &Scalar) -> Option<ParameterKind> {
    match value {
        Scalar::Boolean(_) => Some(ParameterKind::Boolean),
        Scalar::Number(_) => Some(ParameterKind::Real(Bounds::default())),
        Scalar::Text(_) => None,
    }
}

/// What a value of this kind must do, if this one does not.
fn misfit(value: &Scalar, kind: &ParameterKind) -> Option<String> {
    let number = match value {
        Scalar::Number(value) => Some(*value),
        _ => None,
    };
    let between = |low: Option<f64>, high: Option<f64>| {
        let inside = number.is_some_and(|x| {
            x.is_finite() && low.is_none_or(|low| x >= low) && high.is_none_or(|high| x <= high)
        });
        let range = match (low, high) {
            (Some(low), Some(high)) => format!("lie between {low} and {high}"),
            (Some(low), None) => format!("be a number from {low}"),
            (None, Some(high)) => format!("be a number up to {high}"),
            (None, None) => "be a finite number".into(),
        };
        (!inside).then_some(range)
    };
    let bounded = |bounds: &Bounds| {
        let fits = number.is_some_and(|number| bounds.hold(number));
        (!fits).then(|| format!("be a number, {}", bounds.words()))
    };
    match kind {
        ParameterKind::Real(bounds) => bounded(bounds),
        ParameterKind::Fraction => between(Some(0.0), Some(1.0)),
        ParameterKind::Integer { at_least, at_most } => {
            if !number.is_some_and(|x| x.fract() == 0.0) {
                return Some("be a whole number".into());
            }
            between(at_least.map(|x| x as f64), at_most.map(|x| x as f64))
        }
        ParameterKind::NumberOrWord { words, bounds } => match value {
            Scalar::Text(text) if words.contains(text) => None,
            Scalar::Number(_) => bounded(bounds),
            _ => Some(format!("be a number or one of {}", words.join(", "))),
        },
        ParameterKind::Boolean => {
            (!matches!(value, Scalar::Boolean(_))).then(|| "be `true` or `false`".into())
        }
        ParameterKind::Matrices => match value {
            Scalar::Text(text) => MatrixSelector::parse(text).err().map(|it| format!("be {it}")),
            _ => Some("be a pattern of names".into()),
        },
        ParameterKind::Choice(words) => {
            let fits = matches!(value, Scalar::Text(text) if words.contains(text));
            let near = match value {
                Scalar::Text(text) => nearest(text, words.iter()),
                _ => None,
            };
            let near = near.map(|near| format!(" (`{near}`?)")).unwrap_or_default();
            (!fits).then(|| format!("be one of {}{near}", words.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests;
