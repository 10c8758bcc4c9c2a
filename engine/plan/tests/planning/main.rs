//! Plans of small recipes over made-up indexes: what reads what, with which numbers, and what is refused.

mod identity;
mod made_up;

use mixdown_checkpoint::index::Index;
use mixdown_diagnostics::Diagnostic;
use mixdown_plan::{
    CheckpointInput, Leaf, Library, ModelSource, Plan, Request, Work, explain, plan,
};
use mixdown_tensor::{DType, Shape};
use serde_json::json;

use made_up::{Model, decode, family, input, llama, plan_of, shape, sound};

/// The diagnostics of a recipe, a line each: code, headline, place.
fn found(text: &str, models: &[Model]) -> Vec<String> {
    let line = |one: &Diagnostic| format!("{}: {}", one.code.id, one.headline);
    plan_of(text, models).diagnostics.iter().map(line).collect()
}

/// Name of each tensor that a job reads.
fn inputs(plan: &Plan, models: &[Model], output: &str) -> Vec<String> {
    let job =
        plan.jobs.iter().find(|job| job.name == output).unwrap_or_else(|| panic!("no {output}"));
    let refs = match &job.work {
        Work::Copy { from, .. } => vec![*from],
        Work::Merge(merge) => merge
            .leaves
            .iter()
            .map(|leaf| match leaf {
                Leaf::Tensor(tensor) => *tensor,
                other => panic!("{other:?}"),
            })
            .collect(),
    };
    refs.iter()
        .map(|tensor| {
            let model = &models[tensor.model as usize];
            format!("{}:{}", model.name, model.index.tensors()[tensor.tensor as usize].name)
        })
        .collect()
}

fn constants(plan: &Plan, output: &str) -> Vec<f64> {
    let job = plan.jobs.iter().find(|job| job.name == output).unwrap();
    match &job.work {
        Work::Merge(merge) => merge.constants.clone(),
        Work::Copy { .. } => Vec::new(),
    }
}

const LINEAR: &str = "
models:
  - model: a
    parameters: {weight: 0.5}
  - model: b
    parameters: {weight: 0.25}
merge_method: linear
";

#[test]
fn a_linear_merge_reads_every_model_once() {
    let models = family();
    let plan = sound(LINEAR, &models);
    assert_eq!(plan.jobs.len(), 11);
    let name = "model.layers.2.mlp.up_proj.weight";
    assert_eq!(inputs(&plan, &models, name), [format!("a:{name}"), format!("b:{name}")]);
    assert_eq!(constants(&plan, name), [0.5 / 0.75, 0.25 / 0.75]);
    assert_eq!(plan.programs.len(), 1, "all tensors share one program");
    assert_eq!(plan.programs[0].passes.len(), 1);
}

#[test]
fn the_same_recipe_and_headers_give_the_same_plan() {
    let models = family();
    let text = |plan: &Plan| serde_json::to_string(&explain::json(plan)).unwrap();
    assert_eq!(text(&sound(LINEAR, &models)), text(&sound(LINEAR, &models)));
}

#[test]
fn a_base_that_is_not_listed_joins_the_models() {
    let models = family();
    // As mergekit: for a method without a base it is one more model, and needs a weight.
    let text = format!("{LINEAR}base_model: base\n");
    assert_eq!(found(&text, &models), ["E0302: `weight` is not set for `base`"]);
    let text = text.replace("linear", "task_arithmetic");
    let plan = sound(&text, &models);
    assert_eq!(inputs(&plan, &models, "model.norm.weight").len(), 3);
}

#[test]
fn gradients_are_read_at_the_layer() {
    let models = family();
    let text = "
models:
  - model: base
  - model: a
merge_method: slerp
base_model: base
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 1]
    - value: [1, 0]
";
    let plan = sound(text, &models);
    let t = |name: &str| constants(&plan, name);
    let third = 1.0 / 3.0;
    assert!(t("model.layers.1.self_attn.q_proj.weight").contains(&(2.0 * third * 0.5)));
    assert!(t("model.layers.3.mlp.up_proj.weight").contains(&0.0));
    // Outside of layers the first knot counts, at the end of the model too.
    assert!(t("model.norm.weight").contains(&1.0));
}

#[test]
fn slices_are_stacked_and_renumbered() {
    let models = family();
    let text = "
slices:
  - sources:
      - {model: a, layer_range: [0, 3]}
  - sources:
      - {model: b, layer_range: [1, 4]}
merge_method: passthrough
";
    let plan = sound(text, &models);
    assert_eq!(plan.jobs.len(), 1 + 6 * 2 + 2);
    assert_eq!(
        inputs(&plan, &models, "model.embed_tokens.weight"),
        ["a:model.embed_tokens.weight"]
    );
    assert_eq!(inputs(&plan, &models, "lm_head.weight"), ["b:lm_head.weight"]);
    let name = "model.layers.3.mlp.up_proj.weight";
    assert_eq!(inputs(&plan, &models, name), ["b:model.layers.1.mlp.up_proj.weight"]);
    assert!(plan.jobs.iter().all(|job| matches!(job.work, Work::Copy { .. })));
    assert_eq!(plan.output.layers[0].sources, [0, 1, 2, 1, 2, 3]);
    assert_eq!(plan.left_out.len(), 4 + 3 + 11);
}

#[test]
fn an_empty_last_slice_gives_the_end_of_the_model() {
    let models = family();
    let text = "
slices:
  - sources: [{model: a, layer_range: [0, 4]}]
  - sources: [{model: b, layer_range: [4, 4]}]
merge_method: passthrough
";
    let plan = sound(text, &models);
    assert_eq!(inputs(&plan, &models, "lm_head.weight"), ["b:lm_head.weight"]);
    assert!(plan.output.layers.is_empty(), "four layers before and after");
}

#[test]
fn a_tied_embedding_stands_in_for_a_missing_output_layer() {
    let models = vec![llama("a", 2, DType::F32, false), llama("b", 2, DType::F32, true)];
    let outcome = plan_of(LINEAR, &models);
    let plan = outcome.plan.unwrap();
    assert_eq!(outcome.diagnostics.len(), 1, "{:?}", outcome.diagnostics);
    assert_eq!(
        inputs(&plan, &models, "lm_head.weight"),
        ["a:lm_head.weight", "b:model.embed_tokens.weight"]
    );
    assert_eq!(plan.output.tied, None, "the config of `a` says so already");
    let reversed = vec![llama("b", 2, DType::F32, false), llama("a", 2, DType::F32, true)];
    let outcome = plan_of(LINEAR, &reversed);
    assert_eq!(outcome.plan.unwrap().output.tied, Some(false));
    let tied = vec![llama("a", 2, DType::F32, true), llama("b", 2, DType::F32, true)];
    let plan = sound(LINEAR, &tied);
    assert!(plan.jobs.iter().all(|job| job.name != "lm_head.weight"));
    assert_eq!(plan.output.tied, None, "nothing changes");
}

#[test]
fn element_types_follow_the_recipe_or_the_inputs() {
    let models = vec![llama("a", 1, DType::Bf16, false), llama("b", 1, DType::F16, false)];
    let dtype = |text: &str| sound(text, &models).jobs[0].dtype;
    assert_eq!(dtype(LINEAR), DType::F32);
    assert_eq!(dtype(&format!("{LINEAR}dtype: bfloat16\n")), DType::Bf16);
    assert_eq!(dtype(&format!("{LINEAR}dtype: float32\nout_dtype: float16\n")), DType::F16);
    assert_eq!(
        found(&format!("{LINEAR}dtype: bfloat\n"), &models),
        ["E0219: `bfloat` is no element type that merging can use"]
    );
}

#[test]
fn integers_are_copied_and_compared() {
    let mut models = family();
    for model in &mut models {
        let mut tensors: Vec<(String, DType, Shape)> = model
            .index
            .tensors()
            .iter()
            .map(|tensor| (tensor.name.clone(), tensor.dtype, tensor.shape.clone()))
            .collect();
        tensors.push(("position_ids".to_owned(), DType::I64, shape(&[1, 8])));
        model.index = Index::of(model.name, tensors).unwrap();
    }
    let plan = sound(LINEAR, &models);
    let job = plan.jobs.iter().find(|job| job.name == "position_ids").unwrap();
    assert!(matches!(&job.work, Work::Copy { equal_to, .. } if equal_to.len() == 1));
}

#[test]
fn mistakes_are_found_together() {
    let models = family();
    let text = "
models:
  - model: a
    parameters: {weight: 1, density: 20}
  - model: b
    parameters: {density: 0.5}
merge_method: ties
base_model: base
dtype: float31
";
    assert_eq!(
        found(text, &models),
        [
            "E0214: `density` must lie between 0 and 1, found 20",
            "E0302: `weight` is not set for `b`",
            "E0219: `float31` is no element type that merging can use",
        ]
    );
}

#[test]
fn what_a_method_needs_is_checked() {
    let models = family();
    let check =
        |text: &str, expected: &[&str]| assert_eq!(found(text, &models), expected, "{text}");
    check(
        "models: [{model: a, parameters: {weight: 1}}]\nmerge_method: ties\n",
        &["E0301: method `ties` needs a base model"],
    );
    check(
        "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: base\nparameters: {t: 0.5}\n",
        &["E0303: method `slerp` takes exactly 1 model beside the base, found 2"],
    );
    check("models: [{model: a}]\nmerge_method: tiez\n", &["E0207: there is no method `tiez`"]);
    check(
        "slices: [{sources: [{model: a, layer_range: [0, 9]}]}]\nmerge_method: passthrough\n",
        &["E0304: the layer range goes past the last layer of `a`"],
    );
    check(
        "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]\nmerge_method: linear\n",
        &["E0214: `factor` of method `linear` divides by zero"],
    );
}

#[test]
fn a_wrong_value_is_reported_once() {
    let models = family();
    let text = "models: [{model: base}, {model: a}]\nmerge_method: slerp\nbase_model: base\nparameters: {t: abc}\n";
    assert_eq!(found(text, &models), ["E0205: `t` must be a number, found `abc`"]);
}

#[test]
fn an_empty_list_of_rules_counts_as_none() {
    let models = family();
    let text = "mixdown: 1\nmodels: {a: a, b: b}\nmethod: average\nrules: []\n";
    assert_eq!(sound(text, &models).jobs.len(), 11);
}

#[test]
fn shapes_that_differ_are_shown_from_both_sides() {
    let mut models = family();
    let tensors = models[2].index.tensors().iter().map(|tensor| {
        let shape =
            if tensor.name == "lm_head.weight" { shape(&[18, 4]) } else { tensor.shape.clone() };
        (tensor.name.clone(), tensor.dtype, shape)
    });
    models[2].index = Index::of("b", tensors.collect::<Vec<_>>()).unwrap();
    let outcome = plan_of(LINEAR, &models);
    let one = &outcome.diagnostics[0];
    assert_eq!(one.headline, "`lm_head.weight` has different shapes in `a` and `b`");
    assert_eq!(one.facts[0].1, "[16, 4] f32, a");
    assert_eq!(one.facts[1].1, "[18, 4] f32, b");
    assert!(one.help.as_ref().unwrap().contains("tokenizer"));
}

const RULES: &str = "
mixdown: 1
models: {base: base, a: a, b: b}
base: base
rules:
  - {tensors: '*.norm.weight', keep: base}
  - {tensors: lm_head.weight, drop: true}
  - tensors: 'model.layers.*.mlp.**'
    layers: [0, 2]
    method: task_arithmetic
    experts: {a: {parameters: {weight: 0.5}}}
  - {method: average}
";

#[test]
fn the_first_rule_that_matches_decides() {
    let models = family();
    let plan = sound(RULES, &models);
    assert_eq!(inputs(&plan, &models, "model.norm.weight"), ["base:model.norm.weight"]);
    assert!(plan.jobs.iter().all(|job| job.name != "lm_head.weight"));
    let (low, high) = ("model.layers.1.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight");
    assert_eq!(inputs(&plan, &models, low), [format!("base:{low}"), format!("a:{low}")]);
    assert_eq!(inputs(&plan, &models, high), [format!("a:{high}"), format!("b:{high}")]);
    let reasons: Vec<&str> = plan.left_out.iter().map(|left| left.reason.as_str()).collect();
    assert!(reasons.contains(&"dropped by rules[1]"), "{reasons:?}");
    assert!(reasons.contains(&"rules[0] keeps that of `base`"), "{reasons:?}");
    // Every tensor of every model is read by a job or accounted for.
    let read: usize = plan.jobs.iter().map(|job| inputs(&plan, &models, &job.name).len()).sum();
    assert_eq!(read + plan.left_out.len(), 3 * 11);
}

#[test]
fn parameters_beside_a_model_serve_rules_without_experts() {
    let models = |a: &str| {
        format!(
            "mixdown: 1\nmodels: {{base: base, a: {{path: a, parameters: {{{a}}}}}, b: {{path: b, \
             parameters: {{weight: 0.75}}}}}}\nbase: base\nrules:\n"
        )
    };
    let [implied, named] = ["", ", experts: [a, b]"].map(|experts| {
        let rules = format!("  - {{method: task_arithmetic{experts}}}\n");
        sound(&(models("weight: 0.25") + &rules), &family())
    });
    let name = "model.norm.weight";
    assert_eq!(constants(&implied, name), constants(&named, name));
    assert!(constants(&implied, name).contains(&0.75));
    // Any of the rules' methods may read it.
    let rules = "  - {tensors: \"**.q_proj.*\", method: average}\n  - {method: task_arithmetic}\n";
    sound(&(models("weight: 0.25") + rules), &family());
    let wrong = found(&(models("weigth: 0.25") + rules), &family());
    assert_eq!(wrong[0], "E0208: no method here has a parameter `weigth`", "{wrong:?}");
}

#[test]
fn rules_that_cannot_match_are_mistakes() {
    let models = family();
    let text = RULES.replace("  - {method: average}\n", "  - {method: average}\n  - {tensors: lm_hea.weight, keep: a}\n  - {tensors: '**', keep: a}\n");
    assert_eq!(
        found(&text, &models),
        ["E0305: rules[4] can never match", "E0305: rules[5] can never match"]
    );
}

const MODULES: &str = "
mixdown: 1
models: {base: base, a: a, b: b}
base: base
method: average
rules:
  - {module: head, keep: a}
  - {module: language_model, role: [attention_q], layers: [1, 4], experts: [b]}
  - {role: mlp_up, drop: true}
  - {keep: base}
";

#[test]
fn rules_can_name_modules_and_roles() {
    let models = family();
    let plan = sound(MODULES, &models);
    assert_eq!(inputs(&plan, &models, "lm_head.weight"), ["a:lm_head.weight"]);
    let first = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(inputs(&plan, &models, first), [format!("base:{first}")]);
    let second = "model.layers.1.self_attn.q_proj.weight";
    assert_eq!(inputs(&plan, &models, second), [format!("b:{second}")]);
    assert!(plan.jobs.iter().all(|job| !job.name.contains("up_proj")));
    assert_eq!(inputs(&plan, &models, "model.norm.weight"), ["base:model.norm.weight"]);
}

#[test]
fn a_module_or_role_that_no_model_has_is_a_mistake() {
    let text = MODULES.replace("module: head", "module: haed").replace("mlp_up", "mlp_upp");
    let outcome = plan_of(&text, &family());
    let found: Vec<(&str, &str, Option<&str>)> = outcome
        .diagnostics
        .iter()
        .map(|one| (one.headline.as_str(), one.facts[0].1.as_str(), one.help.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            (
                "the models have no module `haed`",
                "`head`, `language_model`",
                Some("did you mean `head`?")
            ),
            (
                "no tensor of the models has the role `mlp_upp`",
                "`attention_q`, `embedding`, `mlp_up`, `norm`, `unembedding`",
                Some("did you mean `mlp_up`?")
            ),
        ]
    );
}

#[test]
fn without_a_known_architecture_rules_cannot_name_modules() {
    let mut models = family();
    models[1].config = json!({"architectures": ["NewForCausalLM"]});
    let shaped = |name: &str| (name.to_owned(), DType::F32, shape(&[4, 4]));
    models[1].index = Index::of("a", ["x.0.w", "lm_head.weight"].map(shaped)).unwrap();
    let text = MODULES.split("  - {module: language_model").next().unwrap();
    assert_eq!(
        found(&format!("{text}  - {{keep: base}}\n"), &models),
        ["E0319: the architecture of `a` is not known"]
    );
}

#[test]
fn a_tensor_without_a_rule_is_a_mistake() {
    let models = family();
    let text = RULES.replace("  - {method: average}\n", "");
    assert_eq!(found(&text, &models), ["E0306: no rule says what becomes of 7 tensors"]);
}

#[test]
fn a_threshold_of_the_model_is_shared_by_all_its_tensors() {
    let models = family();
    let text = "
models:
  - {model: a, parameters: {weight: 1, density: 0.2}}
  - {model: b, parameters: {weight: 1, density: 0.3}}
merge_method: ties
base_model: base
parameters: {scope: model}
";
    let plan = sound(text, &models);
    assert_eq!(plan.groups.len(), 2, "one threshold for each expert");
    assert!(plan.groups.iter().all(|group| group.jobs.len() == plan.jobs.len()));
    let gradient = text.replace("density: 0.2", "density: [0.2, 0.4]");
    assert_eq!(
        found(&gradient, &models),
        ["E0214: a share of the whole model cannot differ from tensor to tensor"]
    );
}

/// Over fewer tensors the threshold of an inner recipe would be another one than when it is written.
#[test]
fn a_threshold_of_an_inner_model_needs_all_its_tensors() {
    let models = family();
    let inner = "
mixdown: 1
models: {base: base, a: a, b: b}
base: base
method: ties
parameters: {weight: 1, density: 0.2, scope: model}
rules: [{method: ties}]
";
    let check = |rules: &str, expected: usize| {
        let outer = format!(
            "mixdown: 1\nmodels: {{base: base, both: {{recipe: inner.yaml}}}}\nrules: {rules}\n"
        );
        let recipes = [decode(&outer), decode(inner)];
        let checkpoints: Vec<CheckpointInput<'_>> = models.iter().map(input).collect();
        let library = Library::built_in().unwrap_or_else(|found| panic!("{found:#?}"));
        let checkpoint = ModelSource::Checkpoint;
        let sources = vec![
            vec![checkpoint(0), ModelSource::Recipe(1)],
            vec![checkpoint(0), checkpoint(1), checkpoint(2)],
        ];
        let request = Request {
            recipes: &recipes,
            models: sources,
            library: &library,
            checkpoints: &checkpoints,
            adapters: &[],
            mapped: &[],
            explain: None,
        };
        let outcome = plan(&request);
        let headline =
            "`scope: model` of the recipe `recipe.yaml` needs all its tensors, each once";
        let about = outcome.diagnostics.iter().filter(|one| one.headline == headline).count();
        assert_eq!(about, expected, "{:#?}", outcome.diagnostics);
        assert_eq!(outcome.plan.is_some(), expected == 0, "{:#?}", outcome.diagnostics);
    };
    check("[{method: average}]", 0);
    check("[{tensors: lm_head.weight, keep: base}, {method: average}]", 1);
}

/// Facts about the models `a` and `b`: importance in the weights' shapes, Gram matrices of the linear ones.
fn facts(mut models: Vec<Model>) -> Vec<Model> {
    for name in ["fisher-a", "fisher-b"] {
        models.push(llama(name, 4, DType::F32, false));
    }
    for name in ["gram-a", "gram-b"] {
        let mut tensors = Vec::new();
        for layer in 0..4 {
            for part in ["self_attn.q_proj", "mlp.up_proj"] {
                let name = format!("model.layers.{layer}.{part}.weight");
                tensors.push((name, DType::F32, shape(&[4, 4])));
            }
        }
        models.push(Model {
            name,
            index: Index::of(name, tensors).unwrap(),
            config: json!({"architectures": ["GramMatrices"]}),
        });
    }
    models
}

const FISHER: &str = "
models: [{model: a, importance: fisher-a}, {model: b, importance: fisher-b}]
merge_method: fisher
";

const REGMEAN: &str = "
models: [{model: a, gram: gram-a}, {model: b, gram: gram-b}]
merge_method: regmean
";

const LATA: &str = "
models: [{model: a}]
merge_method: lata
base_model: base
reference: b
";

#[test]
fn importance_is_read_beside_each_expert() {
    let models = facts(family());
    let name = "model.norm.weight";
    let all = ["fisher-a", "a", "fisher-b", "b"].map(|model| format!("{model}:{name}"));
    let check = |text: &str| {
        let plan = sound(text, &models);
        assert_eq!(plan.jobs.len(), 11, "only the weights are written");
        let (mut found, mut all) = (inputs(&plan, &models, name), all.to_vec());
        found.sort();
        all.sort();
        assert_eq!(found, all);
        assert_eq!(plan.output.files_from, Some(1), "the first model's");
        plan
    };
    assert!(check(FISHER).groups.is_empty());
    let plan = check(&format!("{FISHER}parameters: {{normalize: true}}\n"));
    assert_eq!(plan.groups.len(), 2, "one norm for each expert");
    let named = "{a: {path: a, importance: fisher-a}, b: {path: b, importance: fisher-b}}";
    check(&format!("mixdown: 1\nmodels: {named}\nmethod: fisher\n"));
    check(&format!("mixdown: 1\nmodels: {named}\nrules: [{{method: fisher}}]\n"));
    let experts = "{a: {importance: fisher-a}, b: {importance: fisher-b}}";
    check(&format!(
        "mixdown: 1\nmodels: {{a: a, b: b}}\nrules: [{{method: fisher, experts: {experts}}}]\n"
    ));
    check(
        "mixdown: 1\nmodels: {a: {path: a, importance: fisher-a}, b: {path: b, importance: fisher-b}}\n\
         output: sum(importance * experts) / sum(importance)\n",
    );
}

#[test]
fn gram_matrices_are_read_for_linear_weights() {
    let models = facts(family());
    let plan = sound(REGMEAN, &models);
    let name = "model.layers.1.mlp.up_proj.weight";
    let job = plan.jobs.iter().find(|job| job.name == name).unwrap();
    let Work::Merge(merge) = &job.work else { panic!("{job:?}") };
    let [step] = merge.matrices.as_slice() else { panic!("{merge:?}") };
    assert_eq!((step.rows, step.columns), (8, 4));
    let shapes: Vec<_> = step.operands.iter().map(|one| (one.rows, one.columns)).collect();
    assert_eq!(shapes, [(8, 4), (8, 4), (4, 4), (4, 4)]);
    let model = |tensor: &mixdown_plan::TensorRef| models[tensor.model as usize].name;
    let tensors = merge.tensors(&plan.parts());
    let read: Vec<&str> = tensors.iter().map(model).collect();
    assert_eq!(read, ["a", "b", "gram-a", "gram-b"]);
    let norm = inputs(&plan, &models, "model.norm.weight");
    assert_eq!(norm, ["a:model.norm.weight", "b:model.norm.weight"]);
}

#[test]
fn layers_are_compared_as_wholes() {
    let models = family();
    let plan = sound(LATA, &models);
    let name = "model.layers.2.mlp.up_proj.weight";
    let mut read = inputs(&plan, &models, name);
    read.sort();
    assert_eq!(read, ["a", "b", "base"].map(|model| format!("{model}:{name}")));
    // Four layers with a dot product and two norms each, over two tensors.
    assert_eq!(plan.groups.len(), 12);
    assert!(plan.groups.iter().all(|group| group.jobs.len() == 2), "{:?}", plan.groups);
    assert!(plan.groups[0].title.ends_with("of `model.layers.0`"), "{}", plan.groups[0].title);
    let named = "mixdown: 1\nmodels: {base: base, a: a, b: b}\nbase: base\nreference: b\n";
    let rules = format!("{named}rules: [{{method: lata}}]\n");
    for text in [format!("{named}method: lata\n"), rules] {
        let mut read = inputs(&sound(&text, &models), &models, name);
        read.sort();
        assert_eq!(read, ["a", "b", "base"].map(|model| format!("{model}:{name}")));
    }
}

#[test]
fn what_goes_with_models_is_checked() {
    let models = facts(family());
    let check =
        |text: &str, expected: &[&str]| assert_eq!(found(text, &models), expected, "{text}");
    check(
        &FISHER.replace(", importance: fisher-b", ""),
        &["E0316: method `fisher` needs `importance` beside each model"],
    );
    check(
        &LATA.replace("reference: b\n", ""),
        &["E0316: method `lata` needs a model to compare with"],
    );
    check(
        &FISHER.replace("fisher\n", "average\n"),
        &[
            "W0601: method `average` does not read `importance`",
            "W0601: method `average` does not read `importance`",
        ],
    );
    check(&LATA.replace("lata", "average"), &["W0601: method `average` does not read `reference`"]);
    let strict = "mixdown: 1\nmodels: {a: {path: a, gram: gram-a}, b: b, base: base}\n";
    check(
        &format!("{strict}method: average\nreference: base\n"),
        &[
            "E0317: method `average` does not read `gram`",
            "E0317: method `average` does not read `reference`",
        ],
    );
    check(
        &format!("{strict}rules: [{{method: average, reference: base}}]\n"),
        &["E0317: no method reads this `gram`", "E0317: no method reads this `reference`"],
    );
    // Only the embeddings, the output layer and the final norm have no importance there.
    check(
        &FISHER.replace("fisher-b", "gram-b"),
        &[
            "E0309: `gram-b` has no importance for `model.embed_tokens.weight`",
            "E0307: the importance for `model.layers.0.mlp.up_proj.weight` has another shape",
            "E0307: the importance for `model.layers.1.mlp.up_proj.weight` has another shape",
            "E0307: the importance for `model.layers.2.mlp.up_proj.weight` has another shape",
            "E0309: `gram-b` has no importance for `model.norm.weight`",
            "E0309: `gram-b` has no importance for `lm_head.weight`",
        ],
    );
    check(
        &REGMEAN.replace("gram-b", "base"),
        &[
            "E0307: the Gram matrix for `model.layers.0.mlp.up_proj.weight` has another shape",
            "E0307: the Gram matrix for `model.layers.1.mlp.up_proj.weight` has another shape",
            "E0307: the Gram matrix for `model.layers.2.mlp.up_proj.weight` has another shape",
        ],
    );
    check(
        &LATA.replace("reference: b", "reference: gram-b"),
        &[
            "E0309: the reference `gram-b` has no tensor `model.embed_tokens.weight`",
            "E0307: `model.layers.0.mlp.up_proj.weight` does not fit in the reference `gram-b`",
            "E0307: `model.layers.1.mlp.up_proj.weight` does not fit in the reference `gram-b`",
            "E0307: `model.layers.2.mlp.up_proj.weight` does not fit in the reference `gram-b`",
            "E0309: the reference `gram-b` has no tensor `model.norm.weight`",
            "E0309: the reference `gram-b` has no tensor `lm_head.weight`",
        ],
    );
}

#[test]
fn a_gram_matrix_is_no_tensor_of_the_weights() {
    let models = facts(family());
    let check = |output: &str, expected: &str| {
        let text = format!(
            "mixdown: 1\nmodels: {{a: {{path: a, gram: gram-a}}, b: {{path: b, gram: gram-b}}}}\noutput: {output}\n"
        );
        assert!(
            found(&text, &models).contains(&expected.to_owned()),
            "{:?}",
            found(&text, &models)
        );
    };
    check(
        "mean(experts) + gram[0]",
        "E0213: a Gram matrix has another shape than weights; `add` works on elements",
    );
    check(
        "gram[0] + 1",
        "E0213: a Gram matrix has another shape than weights; `add` works on elements",
    );
    check("gram[0]", "E0213: the output is a Gram matrix, not weights");
    check("mean(experts) * norm2(gram[0])", "E0213: a tensor is needed here, found a Gram matrix");
    check(
        "regression(gram, experts)",
        "E0213: a Gram matrix for each value is needed, found weights",
    );
    check("regression(gram, gram)", "E0213: a matrix is needed here, found a Gram matrix");
}

/// Name and shape of each job.
fn shapes(plan: &Plan) -> Vec<(&str, Vec<u64>)> {
    plan.jobs.iter().map(|job| (job.name.as_str(), job.shape.dimensions().to_vec())).collect()
}

#[test]
fn an_adapter_holds_two_factors_for_each_linear_layer_that_changes() {
    let models = [llama("base", 1, DType::F32, false), llama("a", 1, DType::F32, false)];
    let rules = |more: &str| {
        format!(
            "mixdown: 1\nmodels: {{base: base, a: a}}\nbase: base\noutput: {{as: adapter, rank: 3}}\n\
             rules:\n  - {{tensors: \"**.q_proj.*\", keep: base}}\n{more}  - {{keep: a}}\n"
        )
    };
    let plan = sound(&rules(""), &models);
    let stem = "base_model.model.model.layers.0.mlp.up_proj";
    let expected = vec![
        ("base_model.model.model.embed_tokens.weight".to_owned(), vec![16, 4]),
        (format!("{stem}.lora_B.weight"), vec![8, 3]),
        (format!("{stem}.lora_A.weight"), vec![3, 4]),
        ("base_model.model.model.norm.weight".to_owned(), vec![4]),
        ("base_model.model.lm_head.lora_B.weight".to_owned(), vec![16, 3]),
        ("base_model.model.lm_head.lora_A.weight".to_owned(), vec![3, 4]),
    ];
    let made: Vec<_> =
        shapes(&plan).into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect();
    assert_eq!(made, expected);
    let files = plan.output.adapter.unwrap();
    assert_eq!((files.updates.len(), files.replacements.len()), (2, 2));
    let no_rank = rules("").replace(", rank: 3", "");
    let told = found(&no_rank, &models);
    assert!(told[0].starts_with("E0302: the update of"), "{told:?}");
    let nothing = "mixdown: 1\nmodels: {base: base, a: a}\nbase: base\n\
                   output: {as: adapter}\nrules: [{keep: base}]\n";
    let told = found(nothing, &models);
    assert!(told.iter().any(|line| line.starts_with("E0310: the result is the base")), "{told:?}");
}

/// PEFT stores whole modules only, so that a weight goes with a bias that changes.
#[test]
fn a_module_whose_bias_changes_is_stored_whole() {
    let with_bias = |name: &'static str| {
        let tensors =
            ["q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias"].map(|part| {
                let sides: &[u64] = if part.ends_with("bias") { &[6] } else { &[6, 4] };
                (format!("model.layers.0.self_attn.{part}"), DType::F32, shape(sides))
            });
        let index = Index::of(name, tensors.to_vec()).unwrap();
        Model { name, index, config: json!({}) }
    };
    let models = [with_bias("base"), with_bias("a")];
    let text = "mixdown: 1\nmodels: {base: base, a: a}\nbase: base\n\
                output: {as: adapter, rank: 2}\nrules:\n\
                \x20 - {tensors: \"**.q_proj.weight\", keep: base}\n\
                \x20 - {tensors: \"**.k_proj.bias\", keep: base}\n  - {keep: a}\n";
    let plan = sound(text, &models);
    let stem = "base_model.model.model.layers.0.self_attn";
    let names: Vec<&str> = plan.jobs.iter().map(|job| job.name.as_str()).collect();
    let expected = ["q_proj.bias", "k_proj.lora_B.weight", "k_proj.lora_A.weight", "q_proj.weight"]
        .map(|part| format!("{stem}.{part}"));
    assert_eq!(names, expected);
}
