//! Counts that no other suite reaches: hundreds of experts in one formula, and thousands of slices.
//!
//! Catches operands of an op that change places, or numbers of slices that run into each other, because
//! the type that counts them is too small. Expected numbers are closed forms, worked out in f64.

use std::fmt::Write as _;

use mixdown_kit::{DType, Space, Tensor, checkpoint, raw, read_checkpoint};
use mixdown_suite::{merge, merged};

const NAME: &str = "model.layers.0.self_attn.q_proj.weight";

/// A number of its own for each expert and element, between −1 and 1.
fn number(expert: usize, element: usize) -> f64 {
    ((expert * 7919 + element * 104_729) % 2003) as f64 / 1001.0 - 1.0
}

/// Writes a model of one tensor.
fn write(space: &Space, folder: &str, shape: [u64; 2], values: &[f64]) {
    let tensor = Tensor::new(NAME, DType::F32, &shape, values);
    space.write(format!("{folder}/model.safetensors"), raw::safetensors_bytes(&[&tensor]));
}

/// RegMean with diagonal Gram matrices is a weighted mean of each column, with the diagonals as weights.
#[track_caller]
fn regmean(experts: usize, rows: usize) {
    const COLUMNS: usize = 3;
    let space = Space::new();
    let mut recipe = "merge_method: regmean\nmodels:\n".to_owned();
    let mut sums = vec![0.0; rows * COLUMNS];
    let mut weights = [0.0; COLUMNS];
    for expert in 0..experts {
        let values: Vec<f64> =
            (0..rows * COLUMNS).map(|element| f64::from(number(expert, element) as f32)).collect();
        let diagonal: Vec<f64> =
            (0..COLUMNS).map(|column| (1 + (expert * 5 + column * 3) % 17) as f64).collect();
        let mut gram = vec![0.0; COLUMNS * COLUMNS];
        for (column, &weight) in diagonal.iter().enumerate() {
            gram[column * COLUMNS + column] = weight;
            weights[column] += weight;
        }
        for (element, value) in values.iter().enumerate() {
            sums[element] += value * diagonal[element % COLUMNS];
        }
        write(&space, &format!("m{expert}"), [rows as u64, COLUMNS as u64], &values);
        let gram = Tensor::new(NAME, DType::F32, &[COLUMNS as u64, COLUMNS as u64], &gram);
        space.write(format!("m{expert}.gram.safetensors"), raw::safetensors_bytes(&[&gram]));
        writeln!(recipe, "  - {{model: m{expert}, gram: m{expert}.gram.safetensors}}")
            .expect("text can be written to");
    }
    recipe.push_str("dtype: float32\n");
    let found = merged(&space, &recipe).values(NAME);
    for (element, found) in found.into_iter().enumerate() {
        let expected = sums[element] / weights[element % COLUMNS];
        assert!(
            (found - expected).abs() < 1e-6,
            "{experts} experts, element {element}: {found} instead of {expected}"
        );
    }
}

/// An expert and its Gram matrix are two operands, so that 129 experts have more than a byte counts.
#[test]
fn regmean_of_many_experts() {
    for experts in [129, 257] {
        // A square weight has the shape of its Gram matrix: a wrong operand is not told by its shape.
        regmean(experts, 3);
        regmean(experts, 2);
    }
    regmean(1000, 3);
}

/// KnOTS-TIES with weight 1 for one expert and 0 for the others is that expert.
#[test]
fn knots_of_many_experts() {
    const SHAPE: [u64; 2] = [3, 4];
    const CHOSEN: usize = 1;
    for experts in [257, 1000] {
        let space = Space::new();
        let base: Vec<f64> = (0..12).map(|element| number(5000, element)).collect();
        write(&space, "base", SHAPE, &base);
        let mut recipe = "merge_method: knots_ties\nbase_model: base\nmodels:\n".to_owned();
        let mut chosen = Vec::new();
        for expert in 0..experts {
            let values: Vec<f64> =
                (0..12).map(|element| base[element] + 0.1 * number(expert, element)).collect();
            write(&space, &format!("m{expert}"), SHAPE, &values);
            let weight = u8::from(expert == CHOSEN);
            writeln!(recipe, "  - {{model: m{expert}, parameters: {{weight: {weight}}}}}")
                .expect("text can be written to");
            if expert == CHOSEN {
                chosen = values;
            }
        }
        recipe.push_str("parameters: {density: 1}\ndtype: float32\n");
        let found = merged(&space, &recipe).values(NAME);
        for (element, (found, expected)) in found.into_iter().zip(&chosen).enumerate() {
            assert!(
                (found - expected).abs() < 1e-5,
                "{experts} experts, element {element}: {found} instead of {expected}"
            );
        }
    }
}

/// A stack of more than 10,000 slices: each output layer is the layer that its slice names.
#[test]
fn slices_by_the_thousand() {
    const SLICES: usize = 10_050;
    let space = Space::new();
    checkpoint("a").layers(3).hidden(8).intermediate(8).dtype(DType::F32).write(&space);
    let mut recipe = "merge_method: passthrough\nslices:\n".to_owned();
    for slice in 0..SLICES {
        let layer = slice % 3;
        writeln!(recipe, "  - {{sources: [{{model: a, layer_range: [{layer}, {}]}}]}}", layer + 1)
            .expect("text can be written to");
    }
    merge(&space, &recipe, &[]).success();
    let (source, found) = (read_checkpoint(space.path("a")), read_checkpoint(space.path("merged")));
    for slice in [0, 1, 9_998, 9_999, 10_000, 10_001, SLICES - 1] {
        let name = |layer: usize| format!("model.layers.{layer}.self_attn.q_proj.weight");
        assert_eq!(found.values(&name(slice)), source.values(&name(slice % 3)), "slice {slice}");
    }
}

/// Tensors that are made alike are planned once. Each still draws random numbers of its own, and has its own
/// values of a parameter that differs from layer to layer: as where a rule for each keeps them apart.
#[test]
fn tensors_alike_stay_themselves() {
    let space = Space::new();
    for (name, seed) in [("base", 1), ("a", 2), ("b", 3)] {
        checkpoint(name).layers(4).hidden(8).seed(seed).dtype(DType::F32).write(&space);
    }
    let recipe = "mixdown: 1\nbase: base\nmodels: {base: base, a: a, b: b}\nmethod: dare_ties\n\
        parameters:\n  density: [0.3, 0.7]\n\
        \x20 weight: [{filter: mlp, value: 0.4}, {value: 0.6}]\n";
    let together = merged(&space, recipe);
    let mut apart = format!("{recipe}rules:\n");
    for name in together.names() {
        writeln!(apart, "  - {{tensors: \"{name}\", method: dare_ties}}")
            .expect("text can be written to");
    }
    std::fs::remove_dir_all(space.path("merged")).expect("the first output");
    let apart = merged(&space, &apart);
    for name in together.names() {
        assert_eq!(together.values(name), apart.values(name), "{name}");
    }
    let layer = |layer: usize| format!("model.layers.{layer}.mlp.up_proj.weight");
    assert_ne!(together.values(&layer(0)), together.values(&layer(1)));
}
