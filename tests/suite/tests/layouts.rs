//! Methods over matrices on weights that are no single matrix `[out, in]`: convolutions, stacks of experts,
//! and weights that are stored as `[in, out]`.
//!
//! Catches a matrix that is averaged in silence, one that is solved in the space of its outputs, and a stack
//! whose experts are mixed up. What is right is the merge of the same numbers as plain matrices, which the
//! worked vectors of each method prove.

use mixdown_kit::values::Values;
use mixdown_kit::{DType, Space, Stored, Tensor, read_checkpoint};
use mixdown_suite::{merge, refusal};
use serde_json::{Value, json};

/// Methods that take every layout, with parameters that keep them short.
const METHODS: &[(&str, &str)] = &[
    ("tsv", ""),
    ("iso_c", ""),
    ("iso_cts", "common: 0.5"),
    ("wudi", "steps: 5, learning_rate: 1e-3"),
    ("optmerge", "steps: 5, learning_rate: 1e-3"),
    ("optmerge", "tuning: lora, learning_rate: 0.05, momentum: 0.9"),
    ("swudi", ""),
    ("aswudi", ""),
    ("svc", ""),
];

/// Methods over all matrices of a tensor together, and over what makes each output.
const TOGETHER: &[(&str, &str)] = &[
    ("actmat", ""),
    ("ace", ""),
    ("cart", "rank: 0.5"),
    ("dc_merge", "keep: 0.4"),
    ("magic", ""),
    ("opcm", ""),
    ("ortho_merge", ""),
    ("star", ""),
    ("subspace_boosting", "beta: 0.2"),
    ("svc", ""),
    ("swudi", "alpha: 0.02"),
];

/// Methods that take one matrix, whichever axis comes first.
const OF_ONE: &[(&str, &str)] = &[("knots_ties", "scope: tensor"), ("doge", "steps: 5")];

/// Methods over what the matrices of all experts share, of which each matrix of a stack has its own.
const ACROSS: &[(&str, &str)] =
    &[("knots_ties", "density: 0.3"), ("knots", ""), ("doge", "steps: 5")];

const MODELS: [&str; 3] = ["base", "a", "b"];

/// A tensor: its name and shape, and whether the numbers are those of the transpose, matrix by matrix.
type Laid<'t> = (&'t str, &'t [u64], bool);

/// Numbers of a model's weight: those of the base, and a little beside them.
fn numbers(model: &str, weight: &str, count: usize) -> Vec<f64> {
    let mut base = Values::new(1, weight);
    let mut own = Values::new(2, &format!("{model} {weight}"));
    let little = if model == "base" { 0.0 } else { 0.02 };
    (0..count).map(|_| base.normal() + little * own.normal()).collect()
}

fn turned(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| (row, column)))
        .map(|(row, column)| values[row * columns + column])
        .collect()
}

/// Numbers as they are stored: `[rows, columns]` of each matrix are turned where asked.
fn stored(values: Vec<f64>, shape: &[u64], is_turned: bool) -> Vec<f64> {
    if !is_turned {
        return values;
    }
    let (rows, columns) = (shape[shape.len() - 2] as usize, shape[shape.len() - 1] as usize);
    values.chunks(rows * columns).flat_map(|one| turned(one, columns, rows)).collect()
}

/// Writes the models; the numbers of a tensor depend on the name that it is given beside its own.
fn space(tensors: &[(Laid<'_>, &str)], config: Option<&Value>) -> Space {
    let space = Space::new();
    for model in MODELS {
        let written: Vec<Tensor> = tensors
            .iter()
            .map(|((name, shape, is_turned), weight)| {
                let count = shape.iter().product::<u64>() as usize;
                let values = stored(numbers(model, weight, count), shape, *is_turned);
                Tensor::new(name, DType::F32, shape, &values)
            })
            .collect();
        let written: Vec<&Tensor> = written.iter().collect();
        space.write(
            format!("{model}/model.safetensors"),
            mixdown_kit::raw::safetensors_bytes(&written),
        );
        if let Some(config) = config {
            space.write(format!("{model}/config.json"), config.to_string());
        }
    }
    space
}

fn recipe(method: &str, parameters: &str) -> String {
    format!(
        "merge_method: {method}\nbase_model: base\nmodels: [{{model: a}}, {{model: b}}]\n\
         parameters: {{{parameters}}}\n"
    )
}

/// Merges, whatever was merged before.
fn merged(space: &Space, recipe: &str) -> Stored {
    merge(space, recipe, &["--force"]).success();
    read_checkpoint(space.path("merged"))
}

/// Merges with each method and compares one tensor with matrices of another space, which lie one after
/// another in it.
fn check(
    methods: &[(&str, &str)],
    (laid, name, is_turned): (&Space, &str, bool),
    extra: &str,
    (plain, matrices): (&Space, &[&str]),
) {
    for (method, parameters) in methods {
        let both: Vec<&str> =
            [*parameters, extra].into_iter().filter(|text| !text.is_empty()).collect();
        let found = merged(laid, &recipe(method, &both.join(", ")));
        let found_shape = found.tensor(name).shape.clone();
        let found = stored(found.values(name), &found_shape, false);
        let expected = merged(plain, &recipe(method, parameters));
        let expected: Vec<f64> =
            matrices.iter().flat_map(|matrix| expected.values(matrix)).collect();
        let expected = stored(expected, &found_shape, is_turned);
        // Ops that need not know which side is which take the matrix as it is stored: the last bits differ.
        let far = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far < 1e-6, "{method} {parameters}: `{name}` is off by {far}");
    }
}

const UP: &str = "model.layers.0.mlp.up_proj.weight";

#[test]
fn a_convolution_is_the_matrix_of_all_that_follows_its_outputs() {
    let laid = space(&[(("features.3.conv.weight", &[10, 6, 2, 3], false), "w")], None);
    let plain = space(&[((UP, &[10, 36], false), "w")], None);
    check(METHODS, (&laid, "features.3.conv.weight", false), "", (&plain, &[UP]));
    check(TOGETHER, (&laid, "features.3.conv.weight", false), "", (&plain, &[UP]));
    check(OF_ONE, (&laid, "features.3.conv.weight", false), "", (&plain, &[UP]));
}

#[test]
fn a_weight_with_inputs_first_is_solved_as_its_transpose() {
    let name = "transformer.h.0.mlp.c_fc.weight";
    let config = json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]});
    let laid = space(&[((name, &[12, 20], true), "w")], Some(&config));
    let plain = space(&[((UP, &[20, 12], false), "w")], None);
    check(METHODS, (&laid, name, true), "", (&plain, &[UP]));
    check(TOGETHER, (&laid, name, true), "", (&plain, &[UP]));
    check(OF_ONE, (&laid, name, true), "", (&plain, &[UP]));
    // With more inputs than outputs.
    let name = "transformer.h.0.mlp.c_proj.weight";
    let laid = space(&[((name, &[24, 10], true), "w")], Some(&config));
    let plain = space(&[((UP, &[10, 24], false), "w")], None);
    check(METHODS, (&laid, name, true), "", (&plain, &[UP]));
    check(TOGETHER, (&laid, name, true), "", (&plain, &[UP]));
    check(OF_ONE, (&laid, name, true), "", (&plain, &[UP]));
    // More inputs than outputs: the transpose is the wider one.
    let laid = space(&[((name, &[20, 12], true), "w")], Some(&config));
    let plain = space(&[((UP, &[12, 20], false), "w")], None);
    check(METHODS, (&laid, name, true), "", (&plain, &[UP]));
    // Of a family that nobody knows the biases tell, also where a weight is square.
    let (square, bias) = ("h.0.mixer.all.weight", "h.0.mixer.all.bias");
    let more = "h.1.mixer.all.weight";
    let laid = space(
        &[
            ((square, &[16, 16], true), "w"),
            ((bias, &[16], false), "bias"),
            ((more, &[16, 24], true), "more"),
            (("h.1.mixer.all.bias", &[24], false), "bias"),
        ],
        None,
    );
    let plain = space(&[((UP, &[16, 16], false), "w")], None);
    check(&METHODS[3..6], (&laid, square, true), "", (&plain, &[UP]));
}

/// The names of three matrices.
const EACH: [&str; 3] = [
    "model.layers.0.mlp.e0.weight",
    "model.layers.0.mlp.e1.weight",
    "model.layers.0.mlp.e2.weight",
];

/// The numbers of a stack, matrix by matrix.
fn one_by_one(shape: &[u64]) -> Space {
    let space = Space::new();
    for model in MODELS {
        let all = numbers(model, "w", 3 * (shape[0] * shape[1]) as usize);
        write_each(&space, model, shape, &all);
    }
    space
}

fn write_each(space: &Space, folder: &str, shape: &[u64], all: &[f64]) {
    let each = all.chunks((shape[0] * shape[1]) as usize);
    let tensors = EACH.iter().zip(each);
    let tensors: Vec<Tensor> =
        tensors.map(|(name, values)| Tensor::new(name, DType::F32, shape, values)).collect();
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    let bytes = mixdown_kit::raw::safetensors_bytes(&tensors);
    space.write(format!("{folder}/model.safetensors"), bytes);
}

#[test]
fn a_stack_of_experts_is_its_matrices_one_by_one() {
    // By the family, whose files have inputs first; loaded and written again, outputs come first.
    let config = json!({
        "model_type": "qwen3_vl_moe",
        "text_config": {"num_experts": 3, "hidden_size": 10, "moe_intermediate_size": 8},
    });
    let stack = "model.language_model.layers.0.mlp.experts.gate_up_proj";
    let plain = one_by_one(&[16, 10]);
    let laid = space(&[((stack, &[3, 10, 16], true), "w")], Some(&config));
    check(METHODS, (&laid, stack, true), "", (&plain, &EACH));
    check(ACROSS, (&laid, stack, true), "", (&plain, &EACH));
    let laid = space(&[((stack, &[3, 16, 10], false), "w")], Some(&config));
    check(&METHODS[..4], (&laid, stack, false), "", (&plain, &EACH));
    check(ACROSS, (&laid, stack, false), "", (&plain, &EACH));
    // More inputs than outputs: each matrix stays in its own part of the stack.
    let wide = one_by_one(&[10, 16]);
    let laid = space(&[((stack, &[3, 16, 10], true), "w")], Some(&config));
    let matrices = "matrices: [\"**.experts.* as [experts, in, out]\"]";
    check(&METHODS[..4], (&laid, stack, true), matrices, (&wide, &EACH));
    // By the recipe, where nobody knows the family.
    let stack = "model.layers.0.moe.experts.w1";
    let laid = space(&[((stack, &[3, 10, 16], true), "w")], None);
    let said = "matrices: [auto, \"**.experts.* as [experts, in, out]\"]";
    check(&METHODS[2..6], (&laid, stack, true), said, (&plain, &EACH));
    check(ACROSS, (&laid, stack, true), said, (&plain, &EACH));
    // More threads and less memory change nothing.
    for method in ["wudi", "knots_ties", "doge"] {
        let parameters = if method == "knots_ties" { said } else { &format!("steps: 3, {said}") };
        let recipe = recipe(method, parameters);
        let expected = merged(&laid, &recipe).values(stack);
        let options = ["--force", "--no-cache", "--threads", "3", "--memory", "60MB"];
        merge(&laid, &recipe, &options).success();
        assert!(read_checkpoint(laid.path("merged")).values(stack) == expected, "{method}");
    }
    // So tall that the experts share fewer directions than a matrix has rows.
    let plain = one_by_one(&[26, 7]);
    let said = "matrices: [\"**.experts.* as [experts, out, in]\"]";
    let laid = space(&[((stack, &[3, 26, 7], false), "w")], None);
    check(ACROSS, (&laid, stack, false), said, (&plain, &EACH));
    let said = "matrices: [\"**.experts.* as [experts, in, out]\"]";
    let laid = space(&[((stack, &[3, 7, 26], true), "w")], None);
    check(ACROSS, (&laid, stack, true), said, (&plain, &EACH));
}

#[test]
fn a_share_of_a_whole_stack_is_refused() {
    let name = "model.layers.0.moe.experts.w1";
    let laid = space(&[((name, &[3, 8, 6], false), "w")], None);
    let said = "scope: tensor, matrices: [\"**.experts.* as [experts, out, in]\"]";
    for (method, _) in OF_ONE {
        let told = refusal(&laid, &recipe(method, said), &[], 2);
        assert!(told.contains("E0320") && told.contains("a share of 1"), "{method}: {told}");
    }
}

/// Symmetric numbers for each expert and matrix.
fn grams(model: &str, side: usize) -> Vec<f64> {
    let mut values = Values::new(3, model);
    let root: Vec<f64> = (0..3 * side * side).map(|_| values.normal()).collect();
    let of_one = |root: &[f64]| -> Vec<f64> {
        let dot = |a: usize, b: usize| {
            (0..side).map(|at| root[at * side + a] * root[at * side + b]).sum()
        };
        (0..side * side).map(|at| dot(at / side, at % side)).collect()
    };
    root.chunks(side * side).flat_map(of_one).collect()
}

#[test]
fn regmean_of_a_stack_is_that_of_its_matrices() {
    let stack = "model.layers.0.moe.experts.w1";
    let recipe = |said: &str| {
        format!(
            "mixdown: 1\nmodels:\n  a: {{path: a, gram: gram-a}}\n  b: {{path: b, gram: gram-b}}\n\
             method: regmean\nparameters: {{off_diagonal: 0.9{said}}}\n"
        )
    };
    let write = |space: &Space, side: usize| {
        for model in ["a", "b"] {
            let gram =
                Tensor::new(stack, DType::F32, &[3, side as u64, side as u64], &grams(model, side));
            let bytes = mixdown_kit::raw::safetensors_bytes(&[&gram]);
            space.write(format!("gram-{model}/model.safetensors"), bytes);
        }
    };
    let plain = one_by_one(&[9, 6]);
    for model in ["a", "b"] {
        write_each(&plain, &format!("gram-{model}"), &[6, 6], &grams(model, 6));
    }
    let found = merged(&plain, &recipe(""));
    let expected: Vec<f64> = EACH.iter().flat_map(|name| found.values(name)).collect();
    for (shape, is_turned, word) in [([3, 9, 6], false, "out, in"), ([3, 6, 9], true, "in, out")] {
        let laid = space(&[((stack, &shape, is_turned), "w")], None);
        write(&laid, 6);
        let said = format!(", matrices: [\"**.experts.* as [experts, {word}]\"]");
        let found = merged(&laid, &recipe(&said)).values(stack);
        let expected = stored(expected.clone(), &shape, is_turned);
        let far = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far < 1e-6, "{word}: off by {far}");
    }
    // Gram matrices of the outputs, and of neither side.
    let laid = space(&[((stack, &[3, 9, 6], false), "w")], None);
    let said = ", matrices: [\"**.experts.* as [experts, out, in]\"]";
    for (side, words) in [(9, "another side than its inputs"), (5, "another shape")] {
        write(&laid, side);
        let told = refusal(&laid, &recipe(said), &[], 2);
        assert!(told.contains(words), "{told}");
    }
}

/// What `manifest` says of each tensor.
fn treatments(space: &Space) -> Vec<(String, Value)> {
    let text =
        std::fs::read_to_string(space.path("merged/mixdown-manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_str(&text).expect("it is JSON");
    let tensors = manifest["tensors"].as_array().expect("a list of tensors");
    let one = |tensor: &Value| {
        (tensor["name"].as_str().expect("a name").to_owned(), tensor["treatment"].clone())
    };
    tensors.iter().map(one).collect()
}

#[test]
fn what_could_be_a_matrix_and_is_averaged_is_told_by_name() {
    let (layer, encoder) = (UP, "visual.blocks.0.mlp.fc1.weight");
    let tensors: &[(Laid<'_>, &str)] = &[
        ((layer, &[8, 6], false), "up"),
        ((encoder, &[8, 6], false), "fc1"),
        (("visual.blocks.1.mlp.fc1.weight", &[8, 6], false), "fc1"),
        (("model.embed_tokens.weight", &[9, 6], false), "embed"),
        (("model.norm.weight", &[6], false), "norm"),
    ];
    let both = space(tensors, None);
    let outcome = merge(&both, &recipe("tsv", ""), &[]).success();
    let talk = outcome.talk();
    assert!(talk.contains("W0650") && talk.contains("2 tensors that could be matrices"), "{talk}");
    assert!(talk.contains("`visual.blocks.*.mlp.fc1.weight`, 2 of them"), "{talk}");
    assert!(talk.contains("tensors: 1 optimized, 4 averaged, 0 kept"), "{talk}");
    for (name, treatment) in treatments(&both) {
        let expected = if name == layer { "optimized" } else { "averaged" };
        assert_eq!(treatment, expected, "{name}");
    }
    // Said, it is neither averaged nor told.
    let said = recipe("tsv", "matrices: [auto, \"visual.**\"]");
    let talk = merge(&both, &said, &["--force"]).success().talk();
    assert!(!talk.contains("W0650") && talk.contains("3 optimized, 2 averaged, 0 kept"), "{talk}");
    let base = recipe("tsv", "rest: base");
    let talk = merge(&both, &base, &["--force"]).success().talk();
    assert!(!talk.contains("W0650") && talk.contains("1 optimized, 0 averaged, 4 kept"), "{talk}");
    // An encoder that is the model has nothing beside which it would be another module.
    let alone = space(&tensors[1..3], None);
    let talk = merge(&alone, &recipe("tsv", ""), &[]).success().talk();
    assert!(!talk.contains("W0650") && talk.contains("2 optimized"), "{talk}");
}

#[test]
fn entries_of_matrices_that_mean_nothing_are_refused() {
    let plain = space(&[((UP, &[8, 6], false), "w")], None);
    for (entry, words) in [
        ("attention_p", "`attention_"),
        ("\"**.w as [rows, columns]\"", "[experts, in, out]"),
        ("3", "a pattern of names or a role"),
    ] {
        let told = refusal(&plain, &recipe("tsv", &format!("matrices: [{entry}]")), &[], 2);
        assert!(told.contains("E0205") && told.contains(words), "{entry}: {told}");
    }
}
