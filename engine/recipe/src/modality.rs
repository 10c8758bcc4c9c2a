//! Recipes of `kind: modality`: language models of several modalities become one, and each modality keeps
//! the encoder and the connector of its own. What is merged with what is said by rules like those of other
//! recipes; here is what only such a recipe says.

use mixdown_diagnostics::Span;

use crate::pattern::Pattern;
use crate::recipe::ModelId;
use crate::setting::Spanned;

/// What names of connectors begin with in the output, before the name of the modality.
pub const CONNECTORS: &str = "model.modal_projectors";
/// What names of encoders begin with in the output, before the name of the modality.
pub const ENCODERS: &str = "model.modal_encoders";

/// What a recipe says of modalities.
#[derive(Clone, Debug)]
pub struct Modality {
    /// In the order of the text.
    pub inputs: Vec<ModalityInput>,
    /// What is written.
    pub layout: OutputLayout,
    /// How the adapters act in the output.
    pub mode: Mode,
    /// For keys of config.json that inputs disagree about, the input whose value is taken.
    pub prefer: Vec<(Spanned<String>, Preferred)>,
    /// Place of the whole recipe.
    pub span: Span,
}

/// Whose value of a key is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preferred {
    /// The base's.
    Base,
    /// That of the input at this position.
    Input(usize),
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputLayout {
    /// The whole model.
    Omni,
    /// The trained parts in one file, as ModelCompose stores them.
    ModelCompose,
}

/// How the adapters act in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are merged by a method.
    Static,
    /// All of them act at once, each with a coefficient: NaiveMC.
    Online,
    /// The merged one acts on text, and that of each modality on its tokens: DAMC.
    Damc,
}

/// A modality.
#[derive(Clone, Debug)]
pub struct ModalityInput {
    /// Its name.
    pub name: Spanned<String>,
    /// The model that its language model is.
    pub body: ModelId,
    /// The models that give tensors of the modality's own, with what their names begin with in the output.
    pub connector: Option<Part>,
    /// What gives its encoder.
    pub encoder: Option<Encoder>,
    /// With [`Mode::Online`], the factor of its adapter.
    pub coefficient: Option<f64>,
}

/// A part that is copied.
#[derive(Clone, Debug)]
pub struct Part {
    /// The model that holds it, seen under the output's names.
    pub model: ModelId,
    /// What names begin with in the output, without the last dot.
    pub prefix: Spanned<String>,
}

/// The encoder of a modality.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Its folder or file; none where it is in the modality's own checkpoint.
    pub path: Option<Spanned<String>>,
    /// Revision at the hub.
    pub revision: Option<String>,
    /// Its tensors, where they are copied.
    pub copied: Option<Part>,
    /// Where the recipe speaks of it.
    pub span: Span,
}

/// How the names in a model's files become those that a recipe speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reading {
    /// Patterns of names in the files: only these tensors are seen. Empty: all.
    pub only: Vec<String>,
    /// Beginnings of names in the files that are not seen, because another model of the recipe is about them.
    pub except: Vec<String>,
    /// Patterns of names in the files that the recipe leaves out; each is of some tensor.
    pub drop: Vec<String>,
    /// Beginnings of names, each without its last dot, and what takes their place.
    pub prefixes: Vec<Renaming>,
    /// Whether only tensors are seen whose names begin with one of `prefixes`; else others keep their names.
    pub only_prefixes: bool,
    /// Whether nobody else sees what this leaves out, so that the user is told of it.
    pub leaves_rest: bool,
    /// Within names of factors, the name of the adapter.
    pub adapter: Option<Renaming>,
    /// The model whose names the parts of this one get.
    pub like: Option<ModelId>,
    /// Whether only names and shapes count, and all numbers are zero.
    pub is_zero: bool,
}

/// One text in place of another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Renaming {
    /// In the files.
    pub from: String,
    /// In the recipe.
    pub to: String,
}

/// An adapter in a file without a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// Its name within the file.
    pub adapter: Spanned<String>,
    /// Its rank; by default what config.json beside the file says, or the factors' own.
    pub rank: Option<Spanned<u64>>,
    /// Its α; by default what config.json beside the file says.
    pub alpha: Option<Spanned<f64>>,
}

/// Sides of a product, as names have them.
const SIDES: [&str; 2] = ["lora_A", "lora_B"];

impl Reading {
    /// Whether names are those of the files, and all are seen.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// For a name in the files the one in the recipe, or none where the tensor is not seen. What
    /// [`Reading::like`] asks for is left to who knows that model.
    pub fn namer(&self) -> impl Fn(&str) -> Option<String> + '_ {
        // The decoder has refused what is no pattern.
        let patterns = |texts: &[String]| -> Vec<Pattern> {
            texts.iter().filter_map(|text| Pattern::new(text).ok()).collect()
        };
        let (only, drop) = (patterns(&self.only), patterns(&self.drop));
        move |name| {
            let is_one_of = |list: &[Pattern]| list.iter().any(|pattern| pattern.matches(name));
            let is_seen = (only.is_empty() || is_one_of(&only)) && !is_one_of(&drop);
            if !is_seen || self.except.iter().any(|prefix| below(name, prefix).is_some()) {
                return None;
            }
            let seen = match self.prefixes.iter().find_map(|one| one.of_beginning(name)) {
                Some(seen) => seen,
                None if self.only_prefixes => return None,
                None => name.to_owned(),
            };
            Some(match &self.adapter {
                Some(renaming) => with_adapter(&seen, renaming),
                None => seen,
            })
        }
    }
}

impl Renaming {
    /// The name with the other beginning.
    fn of_beginning(&self, name: &str) -> Option<String> {
        let rest = below(name, &self.from)?;
        let dot = if self.to.is_empty() || rest.is_empty() { "" } else { "." };
        Some(format!("{}{dot}{rest}", self.to))
    }
}

/// What follows a beginning and its dot; nothing follows the whole name.
fn below<'n>(name: &'n str, prefix: &str) -> Option<&'n str> {
    if prefix.is_empty() {
        return Some(name);
    }
    let rest = name.strip_prefix(prefix)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
}

/// The name with another name of its adapter.
fn with_adapter(name: &str, renaming: &Renaming) -> String {
    for side in SIDES {
        let from = format!(".{side}.{}.", renaming.from);
        if let Some((module, rest)) = name.rsplit_once(&from) {
            return format!("{module}.{side}.{}.{rest}", renaming.to);
        }
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renaming(from: &str, to: &str) -> Renaming {
        Renaming { from: from.to_owned(), to: to.to_owned() }
    }

    #[test]
    fn names_are_seen_as_the_recipe_says() {
        let check = |reading: &Reading, name: &str, expected: Option<&str>| {
            assert_eq!(reading.namer()(name).as_deref(), expected, "{name}");
        };
        let plain = Reading::default();
        check(&plain, "lm_head.weight", Some("lm_head.weight"));
        let body = Reading {
            except: vec!["audio_tower".to_owned()],
            prefixes: vec![renaming("language_model", "")],
            ..Reading::default()
        };
        check(&body, "language_model.lm_head.weight", Some("lm_head.weight"));
        check(&body, "audio_tower.conv1.weight", None);
        check(&body, "audio_tower2.weight", Some("audio_tower2.weight"));
        let connector = Reading {
            prefixes: vec![renaming("proj", "c.audio")],
            only_prefixes: true,
            ..Reading::default()
        };
        check(&connector, "proj.0.bias", Some("c.audio.0.bias"));
        check(&connector, "proj", Some("c.audio"));
        check(&connector, "proj2.0.bias", None);
        let factors = Reading {
            only: vec!["**.lora_{A,B}.x.weight".to_owned()],
            drop: vec!["b.**".to_owned()],
            adapter: Some(renaming("x", "default")),
            ..Reading::default()
        };
        check(&factors, "a.lora_A.x.weight", Some("a.lora_A.default.weight"));
        check(&factors, "a.lora_A.y.weight", None);
        check(&factors, "b.lora_A.x.weight", None);
    }
}
