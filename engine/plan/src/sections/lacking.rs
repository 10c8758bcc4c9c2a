//! A tensor that not all inputs have, or not in one shape: what their families, their adapters and the
//! method say of that, or the message that says it best.

use mixdown_checkpoint::adapter::names_of;
use mixdown_checkpoint::known;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::method::Missing;
use mixdown_recipe::recipe::Form;

use crate::models::view::View;
use crate::report::Reporter;
use crate::sections::pair::{Input, Present, Section, Wanted};

impl Section<'_> {
    /// What goes on with those that have the tensor; nothing where it is left out or refused, which is
    /// reported.
    pub(crate) fn lacking<'s>(
        &self,
        wanted: &Wanted<'_>,
        present: Vec<Present<'s>>,
        reporter: &mut Reporter,
    ) -> Option<Vec<Present<'s>>> {
        let has_base = present.iter().any(|one| one.input.is_base);
        let single = present.len() == 1
            && match self.method.missing {
                Missing::Error => false,
                Missing::CopySingle => true,
                Missing::CopyBase | Missing::BaseOrSkip => has_base,
            };
        if single {
            let headline = format!(
                "only `{}` has `{}`; it is copied",
                present[0].input.view.name, wanted.output
            );
            let diagnostic = Diagnostic::warning(codes::COPIED_SINGLE, headline);
            reporter.tensor(self.id, diagnostic.at(self.source, self.span));
            return Some(present);
        }
        let experts = present.iter().filter(|one| !one.input.is_base).count();
        if self.method.missing == Missing::BaseOrSkip && experts < self.method.experts.at_least {
            let headline = format!("`{}` is left out: too few models have it", wanted.output);
            let diagnostic = Diagnostic::warning(codes::DROPPED, headline).note(format!(
                "`{}` takes at least {} beside the base, and {experts} have it",
                self.method.name.value, self.method.experts.at_least
            ));
            reporter.tensor(self.id, diagnostic.at(self.source, self.span));
            return None;
        }
        // That an adapter brings it was said when the adapter was opened.
        if let [only] = &present[..]
            && only.input.view.is_added(only.tensor.position)
        {
            return Some(present);
        }
        let is_buffer = |one: &Present<'_>| {
            let facts = one.input.view.facts(one.tensor.name);
            facts.is_some_and(|facts| facts.tensor.is_buffer)
        };
        if known::ends_with(wanted.output, &known::names().computed)
            || present.iter().all(is_buffer)
        {
            let headline = format!("`{}` is left out: not all models store it", wanted.output);
            let diagnostic = Diagnostic::warning(codes::DROPPED, headline)
                .note("it is computed from the config when a model is loaded");
            reporter.tensor(self.id, diagnostic.at(self.source, self.span));
            return None;
        }
        self.report_missing(wanted, &present, reporter);
        None
    }

    /// The one expert whose adapter brings the tensor whole with rows of its own, where nothing else could
    /// be merged with it: the base has other rows.
    pub(crate) fn resized<'s>(
        &self,
        wanted: &Wanted<'_>,
        present: &[Present<'s>],
        reporter: &mut Reporter,
    ) -> Option<Present<'s>> {
        let is_resized = |one: &&Present<'_>| one.input.view.is_resized(one.tensor.position);
        let mut experts = present.iter().filter(|one| !one.input.is_base);
        let only = experts.next().filter(|_| experts.next().is_none())?;
        let base = present.iter().find(|one| one.input.is_base)?;
        if !is_resized(&only) || base.tensor.shape == only.tensor.shape {
            return None;
        }
        let headline = format!("`{}` is that of `{}`, whole", wanted.output, only.input.view.name);
        let warning = Diagnostic::warning(codes::VOCABULARY_RESIZED, headline)
            .fact("base", base.tensor.shape.to_string())
            .fact("adapter", only.tensor.shape.to_string())
            .note("the vocabulary was resized in training, so that it cannot be merged with the base's");
        reporter.tensor(self.id, warning.at(self.source, only.input.span));
        Some(Present { input: only.input, tensor: only.tensor })
    }

    /// The message about a tensor without elements.
    pub(crate) fn hollow(&self, wanted: &Wanted<'_>, one: &Present<'_>) -> Diagnostic {
        let headline = format!("`{}` is empty in `{}`", wanted.output, one.input.view.name);
        Diagnostic::error(codes::EMPTY_TENSORS, headline)
            .fact("shape", one.tensor.shape.to_string())
            .note("the checkpoint was saved without gathering its parts (DeepSpeed ZeRO-3, FSDP)")
            .help("save it again with gathered weights: DeepSpeed's `zero_to_fp32.py`, or a full state dict of FSDP")
            .at(self.source, one.input.span)
    }

    /// Whether experts in stacks fit those of another model both ways, and nothing tells which is right; this is
    /// reported.
    pub(crate) fn is_undecided(
        &self,
        wanted: &Wanted<'_>,
        present: &[Present<'_>],
        reporter: &mut Reporter,
    ) -> bool {
        let mut inputs = self.inputs.iter().filter(|_| self.inputs.len() > 1);
        let Some(own) = inputs.find(|input| input.view.undecided.contains(wanted.output)) else {
            return false;
        };
        let headline = format!(
            "the matrices of `{}` in `{}` may have their sides the other way round than in `{}`",
            wanted.output,
            own.view.name,
            present.iter().find(|one| !std::ptr::eq(one.input, own)).map_or("the base", |one| one
                .input
                .view
                .name
                .as_str()),
        );
        let mut diagnostic = Diagnostic::error(codes::EXPERTS_UNDECIDED, headline);
        for one in present {
            let label =
                if one.input.is_base { "base".to_owned() } else { one.input.view.name.clone() };
            diagnostic =
                diagnostic.fact(label, format!("{}, {}", one.tensor.shape, one.input.view.name));
        }
        let diagnostic = diagnostic
            .note("versions of transformers store experts as [in, out] or as [out, in]; of square matrices shapes do not tell, and nothing else here does")
            .help("save both models with one version of transformers, which config.json then states; see the one through a map that says how they lie (`map: NAME`); or take these tensors from one model: `keep: NAME`");
        reporter.tensor(self.id, diagnostic.at(self.source, own.span));
        true
    }

    fn report_missing(
        &self,
        wanted: &Wanted<'_>,
        present: &[Present<'_>],
        reporter: &mut Reporter,
    ) {
        if self.is_undecided(wanted, present, reporter) {
            return;
        }
        let headline = match present {
            [only] => format!("only `{}` has the tensor `{}`", only.input.view.name, wanted.output),
            _ => format!("only some of the models have the tensor `{}`", wanted.output),
        };
        let mut diagnostic = Diagnostic::error(codes::TENSOR_MISSING, headline);
        let mut other = None;
        for (input, name) in self.inputs.iter().zip(wanted.names) {
            let found = present.iter().find(|one| std::ptr::eq(one.input, input));
            let instead = || self.instead(input, name, present);
            let text = match (found, found.is_none().then(instead).flatten()) {
                (Some(one), _) => format!("`{name}` {} {}", one.tensor.shape, one.tensor.dtype),
                (None, Some(instead)) => {
                    let text = format!("no `{name}`, but `{}`", instead.name);
                    other.get_or_insert(instead);
                    text
                }
                (None, None) => format!("no `{name}`"),
            };
            diagnostic = diagnostic.fact(input.view.name.clone(), text);
        }
        if present.iter().all(|one| one.input.view.is_untied_head(wanted.output)) {
            let lacks = |input: &&Input<'_>| {
                present.iter().all(|one| !std::ptr::eq(one.input, *input))
                    && input.view.tied == Some(false)
            };
            if let Some(input) = self.inputs.iter().find(lacks) {
                diagnostic = diagnostic.note(format!(
                    "config.json of `{}` says that its output layer is no embedding, and it stores none",
                    input.view.name
                ));
            }
        }
        let own = match (&other, self.form) {
            (Some(Instead { why: Why::Prefix(prefix), .. }), _) => {
                diagnostic = diagnostic.note(format!("its names begin with `{prefix}`"));
                Some(match self.form {
                    Form::Strict => {
                        format!("give the model `{{path: …, prefix: {prefix}}}`, or save it without")
                    }
                    Form::Mergekit => {
                        "save it under the names of the others, or write the recipe in the strict form (`mixdown: 1`), where a model has a `prefix`".to_owned()
                    }
                })
            }
            (Some(Instead { why: Why::Version, .. }), _) => {
                diagnostic =
                    diagnostic.note("versions of transformers call the same parts differently");
                Some(match self.form {
                    Form::Strict => "bring the names together with `like: NAME` beside the model".to_owned(),
                    Form::Mergekit => {
                        "bring the names together with `like: NAME` beside the model, in a recipe of the strict form (`mixdown: 1`)".to_owned()
                    }
                })
            }
            (None, _) => None,
        };
        let help = match self.form {
            Form::Strict if self.is_implied => {
                "a body has all tensors of its base that are merged: narrow `include`, or name another body"
            }
            Form::Strict => {
                "say what becomes of it in a rule above this one: `keep: NAME` or `drop: true`"
            }
            Form::Mergekit => {
                "a recipe of the strict form (`mixdown: 1`) can say what becomes of it: `keep: NAME` or `drop: true`"
            }
        };
        let help = own.unwrap_or_else(|| help.to_owned());
        reporter.tensor(self.id, diagnostic.help(help).at(self.source, self.span));
    }

    /// What an input has that may be the tensor, under another name.
    fn instead(&self, input: &Input<'_>, name: &str, present: &[Present<'_>]) -> Option<Instead> {
        let shape = present.first().map(|one| one.tensor.shape);
        let is_other = |found: &str| {
            input.view.find(found).is_some_and(|tensor| Some(tensor.shape) == shape)
                && present.iter().all(|one| one.input.view.find(found).is_none())
        };
        let mut versions = names_of(name).into_iter().skip(1).filter(|name| is_other(name));
        if let Some(name) = versions.next() {
            return Some(Instead { name, why: Why::Version });
        }
        let end = format!(".{name}");
        let found = input.view.iter().find(|one| one.name.ends_with(&end) && is_other(one.name))?;
        let prefix = found.name[..found.name.len() - name.len()].to_owned();
        Some(Instead { name: found.name.to_owned(), why: Why::Prefix(prefix) })
    }
}

/// A tensor that may be the one that is missing.
struct Instead {
    name: String,
    why: Why,
}

enum Why {
    /// Its names begin with this.
    Prefix(String),
    /// They are those of another version.
    Version,
}

/// Whether a tensor has no elements though others of its name have.
pub(crate) fn is_hollow(one: &Present<'_>) -> bool {
    one.tensor.shape.elements() == 0
}

impl View<'_> {
    /// Whether a name is that of the model's output layer, and its config says that this is no embedding.
    fn is_untied_head(&self, name: &str) -> bool {
        self.tied == Some(false) && mixdown_checkpoint::ties::is_head(name)
    }
}
