//! Made-up models, and plans of recipes over them.

use mixdown_checkpoint::index::Index;
use mixdown_diagnostics::Source;
use mixdown_plan::{CheckpointInput, Library, ModelSource, Outcome, Plan, Request, plan};
use mixdown_recipe::recipe::{ModelReference, Recipe};
use mixdown_tensor::{DType, Shape};
use serde_json::{Value, json};

/// A made-up checkpoint.
pub struct Model {
    pub name: &'static str,
    pub index: Index,
    pub config: Value,
}

pub fn shape(dimensions: &[u64]) -> Shape {
    Shape::new(dimensions.to_vec()).unwrap()
}

/// A Llama of tiny shapes: embedding, two tensors a layer, final norm, and an output layer unless tied.
pub fn llama(name: &'static str, layers: u64, dtype: DType, tied: bool) -> Model {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), dtype, shape(&[16, 4]))];
    for layer in 0..layers {
        tensors.push((
            format!("model.layers.{layer}.self_attn.q_proj.weight"),
            dtype,
            shape(&[4, 4]),
        ));
        tensors.push((format!("model.layers.{layer}.mlp.up_proj.weight"), dtype, shape(&[8, 4])));
    }
    tensors.push(("model.norm.weight".to_owned(), dtype, shape(&[4])));
    if !tied {
        tensors.push(("lm_head.weight".to_owned(), dtype, shape(&[16, 4])));
    }
    let index = Index::of(name, tensors).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": layers,
        "tie_word_embeddings": tied,
    });
    Model { name, index, config }
}

pub fn family() -> Vec<Model> {
    ["base", "a", "b"].map(|name| llama(name, 4, DType::F32, false)).into()
}

pub fn decode(text: &str) -> Recipe {
    let source = Source::new("recipe.yaml", text);
    mixdown_recipe::read(&source, &[]).unwrap_or_else(|found| panic!("{found:#?}"))
}

pub fn input(model: &Model) -> CheckpointInput<'_> {
    CheckpointInput {
        name: model.name,
        index: &model.index,
        config: Some(&model.config),
        tokenizer: None,
        tokenizer_config: None,
    }
}

pub fn plan_of(text: &str, models: &[Model]) -> Outcome {
    let recipe = decode(text);
    let sources = recipe
        .models
        .iter()
        .map(|model| {
            let ModelReference::Checkpoint { path, .. } = &model.reference else {
                return ModelSource::Failed;
            };
            let known = models.iter().position(|known| known.name == path);
            known.map_or(ModelSource::Failed, |position| ModelSource::Checkpoint(position as u32))
        })
        .collect();
    let checkpoints: Vec<CheckpointInput<'_>> = models.iter().map(input).collect();
    let library = Library::built_in().unwrap_or_else(|found| panic!("{found:#?}"));
    let recipes = [recipe];
    let request = Request {
        recipes: &recipes,
        models: vec![sources],
        library: &library,
        checkpoints: &checkpoints,
        adapters: &[],
        mapped: &[],
        explain: None,
    };
    plan(&request)
}

pub fn sound(text: &str, models: &[Model]) -> Plan {
    let outcome = plan_of(text, models);
    outcome.plan.unwrap_or_else(|| panic!("{:#?}", outcome.diagnostics))
}
