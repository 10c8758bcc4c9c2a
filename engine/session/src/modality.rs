//! What only a merge of modalities has: one config.json of several, and encoders that it refers to.

mod encoder;

use mixdown_checkpoint::AdapterConfig;
use mixdown_checkpoint::config::{Conflict, Part, compose};
use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_plan::ModelSource;
use mixdown_recipe::Recipe;
use mixdown_recipe::modality::{Modality, ModalityInput, Mode, OutputLayout, Preferred};
use mixdown_recipe::recipe::ModelId;
use serde_json::{Map, Value, json};

pub use encoder::Told;

use crate::recipes::Loaded;
use crate::{Places, Session};

/// What becomes of the configurations and encoders of modalities.
#[derive(Debug)]
pub struct Composition {
    /// The configuration, without what is known only when encoders were read.
    config: Map<String, Value>,
    /// For each modality what its connector's names begin with, and its encoder.
    modalities: Vec<(String, Option<String>, Option<Told>)>,
    /// Whether a whole model is written.
    pub is_whole: bool,
}

impl Composition {
    /// Puts configurations together and finds encoders, if the recipe is one of modalities; and all that
    /// is wrong with them.
    pub fn of(loaded: &Loaded, session: &Session<'_>) -> (Option<Self>, Vec<Diagnostic>) {
        let Some(recipe) = loaded.recipes.first() else { return (None, Vec::new()) };
        let Some(modality) = &recipe.modality else { return (None, Vec::new()) };
        let models = Models { loaded, recipe };
        let mut found = Vec::new();
        let mut config = models.compose(modality, &mut found);
        if loaded.is_partial {
            // What `prefer` says may be among what was left out.
            found.retain(|fault| fault.code != codes::CONFIG_CONFLICT);
        }
        models.set_adapters(modality, &mut config, &mut found);
        let mut modalities = Vec::new();
        for input in &modality.inputs {
            let told = input.encoder.as_ref().map(|encoder| Told::find(encoder, recipe, session));
            let told = told.and_then(|told| told.map_err(|fault| found.push(*fault)).ok());
            let prefix = input.connector.as_ref().map(|part| part.prefix.value.clone());
            modalities.push((input.name.value.clone(), prefix, told));
        }
        let is_whole = modality.layout == OutputLayout::Omni;
        (Some(Self { config, modalities, is_whole }), found)
    }

    /// The configuration of the output. Encoders that it refers to are read.
    pub fn config(&self, recipe_sha256: &str, places: &Places) -> Result<Value, Box<Diagnostic>> {
        let mut modalities = Map::new();
        for (name, prefix, encoder) in &self.modalities {
            let encoder = match encoder {
                Some(told) => told.json(places)?,
                None => Value::Null,
            };
            let told = json!({"connector_prefix": prefix, "encoder": encoder});
            modalities.insert(name.clone(), told);
        }
        let mut config = self.config.clone();
        let own = json!({"modalities": modalities, "recipe_sha256": recipe_sha256});
        config.insert("mixdown".to_owned(), own);
        Ok(Value::Object(config))
    }
}

/// The models of a recipe of modalities.
struct Models<'a> {
    loaded: &'a Loaded,
    recipe: &'a Recipe,
}

impl<'a> Models<'a> {
    /// The configuration beside a model's own files.
    fn config(&self, model: ModelId) -> Option<&'a Value> {
        let position = match self.loaded.sources[0].get(model.0 as usize)? {
            ModelSource::Checkpoint(position) | ModelSource::Zero(position) => *position,
            ModelSource::Adapted(adapter) => self.loaded.adapters[*adapter as usize].own,
            ModelSource::Mapped(_) | ModelSource::Recipe(_) | ModelSource::Failed => return None,
        };
        self.loaded.models[position as usize].model.checkpoint.config.as_ref()
    }

    /// The configuration of a modality: beside its body, or else beside its connector.
    fn config_of(&self, input: &ModalityInput) -> Option<&'a Value> {
        let connector = || self.config(input.connector.as_ref()?.model);
        self.config(input.body).or_else(connector)
    }

    /// What the adapter of a modality says of itself.
    fn adapter(&self, input: &ModalityInput) -> Option<&'a AdapterConfig> {
        match self.loaded.sources[0].get(input.body.0 as usize)? {
            ModelSource::Adapted(adapter) => {
                Some(&self.loaded.adapters[*adapter as usize].adapter.config)
            }
            _ => None,
        }
    }

    fn compose(&self, modality: &Modality, found: &mut Vec<Diagnostic>) -> Map<String, Value> {
        let base = self.recipe.base.as_ref().and_then(|base| self.config(base.value));
        let parts: Vec<Part<'_>> = modality
            .inputs
            .iter()
            .map(|input| Part { name: &input.name.value, config: self.config_of(input) })
            .collect();
        let prefer: Vec<(&str, Option<usize>)> = modality
            .prefer
            .iter()
            .map(|(key, whose)| match whose {
                Preferred::Base => (key.value.as_str(), None),
                Preferred::Input(position) => (key.value.as_str(), Some(*position)),
            })
            .collect();
        let composed = compose(&Part { name: "base", config: base }, &parts, &prefer);
        let source = &self.recipe.source;
        let mut conflicts = composed.conflicts;
        for position in composed.unknown {
            let key = &modality.prefer[position].0;
            let headline = format!("`prefer` names `{}`, which no configuration has", key.value);
            let diagnostic = Diagnostic::error(codes::UNKNOWN_KEY, headline);
            let keys = conflicts.iter().map(|conflict| conflict.key.as_str());
            let near = nearest(&key.value, keys).map(str::to_owned);
            let help = match &near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "remove the key".to_owned(),
            };
            conflicts.retain(|conflict| Some(&conflict.key) != near.as_ref());
            found.push(diagnostic.help(help).at(source, key.span));
        }
        for conflict in &conflicts {
            // The last one that says something is a modality: the base is the first.
            let named = conflict.values.last().map(|(name, _)| name);
            let input = modality.inputs.iter().find(|input| Some(&input.name.value) == named);
            let place = input.map(|input| self.recipe.models[input.body.0 as usize].span);
            found.push(disagree(conflict).at(source, place.unwrap_or(modality.span)));
        }
        let Value::Object(mut config) = composed.config else { return Map::new() };
        // The class of the base, with what ModelCompose puts in front.
        let class = base.and_then(|base| base.get("architectures")?.get(0)?.as_str());
        let class = format!("Multimodal{}", class.unwrap_or("LlamaForCausalLM"));
        config.insert("architectures".to_owned(), json!([class]));
        config.insert("model_type".to_owned(), "multimodal".into());
        config
    }

    /// What the configuration says of adapters that remain.
    fn set_adapters(
        &self,
        modality: &Modality,
        config: &mut Map<String, Value>,
        found: &mut Vec<Diagnostic>,
    ) {
        let is_omni = modality.layout == OutputLayout::Omni;
        let strategy = match (modality.layout, modality.mode) {
            (OutputLayout::Omni, Mode::Static | Mode::Online) => Value::Null,
            (OutputLayout::Omni, Mode::Damc) => "modal".into(),
            (OutputLayout::ModelCompose, Mode::Damc) => "modal+language".into(),
            (OutputLayout::ModelCompose, _) => "same".into(),
        };
        let has_adapters = !strategy.is_null();
        config.insert("lora_strategy".to_owned(), strategy);
        let of_inputs = |key: &str| {
            let configs =
                modality.inputs.iter().filter_map(|input| self.config_of(input)?.get(key));
            configs.into_iter().find(|value| !value.is_null()).cloned()
        };
        // Tokens go with the adapters of modalities.
        for key in ["local_prefix_tokens", "local_suffix_tokens"] {
            let Some(count) = of_inputs(key) else { continue };
            let count = if modality.mode == Mode::Damc { count } else { 0.into() };
            config.insert(key.to_owned(), count);
        }
        if !has_adapters {
            return;
        }
        if let Some(dropout) = of_inputs("lora_dropout") {
            config.insert("lora_dropout".to_owned(), dropout);
        }
        // Merged weights are factored anew, with all of their size in the factors.
        let anew = self.recipe.adapter.as_ref().and_then(|adapter| adapter.rank.as_ref());
        let anew = anew.map(|rank| (u64::from(rank.value), f64::from(rank.value)));
        let Some((rank, alpha)) = anew.or_else(|| self.one_scale(modality, found)) else { return };
        config.insert("lora_r".to_owned(), json!(rank));
        config.insert("lora_alpha".to_owned(), whole(alpha));
        if modality.mode == Mode::Online && !is_omni {
            let weights = online_weights(modality);
            config.insert("reset_scaling_weights".to_owned(), weights.into());
        }
    }

    /// Rank and α of all adapters, which must be the same: one number of each stands in config.json.
    fn one_scale(&self, modality: &Modality, found: &mut Vec<Diagnostic>) -> Option<(u64, f64)> {
        let of = |input| self.adapter(input).map(|config| (config.rank, config.alpha));
        let all: Vec<(&ModalityInput, (u64, f64))> =
            modality.inputs.iter().filter_map(|input| Some((input, of(input)?))).collect();
        let first = all.first()?.1;
        if all.iter().all(|(_, scale)| *scale == first) {
            return Some(first);
        }
        let mut diagnostic = Diagnostic::error(
            codes::SCALES_DIFFER,
            "adapters of different rank or α cannot stay factors side by side",
        );
        for (input, (rank, alpha)) in &all {
            let scale = format!("rank {rank}, α {alpha}");
            diagnostic = diagnostic.fact(input.name.value.clone(), scale);
        }
        let diagnostic = diagnostic
            .note("one `lora_r` and one `lora_alpha` in config.json are for all of them")
            .help("write `layout: omni`, where each update has its own factor");
        found.push(diagnostic.at(&self.recipe.source, modality.span));
        None
    }
}

/// As ModelCompose reads it: `default-vision=0.5,default-audio=0.5`.
fn online_weights(modality: &Modality) -> String {
    let all = modality
        .inputs
        .iter()
        .map(|input| format!("default-{}={}", input.name.value, input.coefficient.unwrap_or(1.0)));
    all.collect::<Vec<String>>().join(",")
}

/// A number without a fraction where it has none.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return (number as i64).into();
    }
    json!(number)
}

fn disagree(conflict: &Conflict) -> Diagnostic {
    let headline = format!("the configurations disagree about `{}`", conflict.key);
    let mut diagnostic = Diagnostic::error(codes::CONFIG_CONFLICT, headline);
    for (name, value) in &conflict.values {
        diagnostic = diagnostic.fact(name.clone(), value.to_string());
    }
    let (name, _) = &conflict.values[0];
    let key = &conflict.key;
    diagnostic.help(format!("choose one: `output: {{config: {{prefer: {{{key}: {name}}}}}}}`"))
}
