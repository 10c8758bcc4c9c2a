//! Adapters fused into their base, against products that the test multiplies out itself.
//!
//! Catches a scale that is left out or applied twice, factors in the wrong order, a tensor that no adapter
//! touches and that changes all the same, and a type that is not the one asked for.

use std::collections::BTreeMap;

use mixdown_kit::{DType, Space, Tensor, adapter, checkpoint, mixdown, read_checkpoint};

/// Rank and α of the two adapters; the kit writes α as twice the rank, so each has the scale 2.
const RANKS: [(&str, u64); 2] = [("one", 2), ("two", 3)];
const Q: (&str, [u64; 2]) = ("model.layers.0.self_attn.q_proj", [16, 16]);
const UP: (&str, [u64; 2]) = ("model.layers.1.mlp.up_proj", [24, 16]);

/// A base in bf16 with two adapters, of which the first changes one of the modules of the second.
fn models() -> (Space, [Vec<Tensor>; 2]) {
    let space = Space::new();
    checkpoint("base").write(&space);
    let [(one, first), (two, second)] = RANKS;
    let one = adapter(one, first).module(Q.0, first, Q.1);
    let two = adapter(two, second).module(Q.0, second, Q.1).module(UP.0, second, UP.1);
    one.write(&space);
    two.write(&space);
    (space, [one.tensors().to_vec(), two.tensors().to_vec()])
}

/// 2·B·A of a module, in f64; zeros if the adapter has no such module.
fn update(tensors: &[Tensor], module: &str, [rows, columns]: [u64; 2]) -> Vec<f64> {
    let factor = |side: &str| {
        let name = format!("base_model.model.{module}.lora_{side}.weight");
        tensors.iter().find(|tensor| tensor.name == name).map(Tensor::values)
    };
    let (rows, columns) = (rows as usize, columns as usize);
    let (Some(a), Some(b)) = (factor("A"), factor("B")) else { return vec![0.0; rows * columns] };
    let rank = a.len() / columns;
    let product = |row: usize, column: usize| -> f64 {
        (0..rank).map(|at| b[row * rank + at] * a[at * columns + column]).sum()
    };
    (0..rows * columns).map(|at| 2.0 * product(at / columns, at % columns)).collect()
}

fn tensors(space: &Space, folder: &str) -> BTreeMap<String, Tensor> {
    read_checkpoint(space.path(folder)).tensors
}

/// The output must be the base with the updates times these scales, rounded once to its type.
fn check(space: &Space, adapters: &[Vec<Tensor>; 2], scales: [f64; 2], out: &str, dtype: DType) {
    let (base, fused) = (tensors(space, "base"), tensors(space, out));
    assert_eq!(base.keys().collect::<Vec<_>>(), fused.keys().collect::<Vec<_>>());
    for (name, tensor) in &fused {
        assert_eq!(tensor.dtype, dtype, "{name}");
        let module = [Q, UP].into_iter().find(|(module, _)| *name == format!("{module}.weight"));
        let Some((module, shape)) = module else {
            assert_eq!(tensor.data, base[name].cast(dtype).data, "{name} belongs to no adapter");
            continue;
        };
        let updates = [0, 1].map(|at| update(&adapters[at], module, shape));
        for (at, (found, stored)) in tensor.values().iter().zip(base[name].values()).enumerate() {
            let wanted = stored + scales[0] * updates[0][at] + scales[1] * updates[1][at];
            // One rounding to the 8 bits of bf16 is at most 2⁻⁸ of the value; the sum is in f32.
            let bound = if dtype == DType::Bf16 { wanted.abs() / 255.0 } else { 1e-6 };
            assert!((found - wanted).abs() <= bound + 1e-7, "{name}[{at}]: {found} and {wanted}");
        }
    }
}

#[test]
fn one_adapter_is_added_to_its_base() {
    let (space, adapters) = models();
    let run = mixdown(&space, ["fuse", "base", "one", "--out", "fused"]).success();
    assert!(run.stdout.ends_with("fused\n"), "{}", run.stdout);
    check(&space, &adapters, [1.0, 0.0], "fused", DType::Bf16);
    mixdown(&space, ["verify", "fused"]).success();
}

#[test]
fn several_adapters_have_a_scale_each_or_one_for_all() {
    let (space, adapters) = models();
    let more = ["--scale", "0.5", "--scale", "-0.25", "--dtype", "float32", "--out", "each"];
    mixdown(&space, ["fuse", "base", "one", "two"].into_iter().chain(more)).success();
    check(&space, &adapters, [0.5, -0.25], "each", DType::F32);
    mixdown(&space, ["fuse", "base", "one", "two", "--scale", "0.5", "--out", "all"]).success();
    check(&space, &adapters, [0.5, 0.5], "all", DType::Bf16);
}

#[test]
fn what_cannot_be_fused_is_refused_with_the_reason() {
    let (space, _) = models();
    let refused = |arguments: &[&str]| {
        let arguments = ["fuse"].iter().chain(arguments).chain(&["--out", "fused"]);
        let outcome = mixdown(&space, arguments);
        assert!(matches!(outcome.status, Some(1 | 2)), "{outcome:?}");
        assert!(!space.path("fused").exists());
        assert!(!outcome.stderr.contains(":7:"), "nobody wrote that file\n{}", outcome.stderr);
        outcome.stderr
    };
    let told = refused(&["base", "one", "two", "--scale", "1", "--scale", "2", "--scale", "3"]);
    assert!(told.contains("E0550") && told.contains("adapters: 2"), "{told}");
    let told = refused(&["base", "one", "--scale", "nan"]);
    assert!(told.contains("E0550") && told.contains("NaN"), "{told}");
    let told = refused(&["base", "one", "--dtype", "int7"]);
    assert!(told.contains("int7"), "{told}");
    let told = refused(&["nowhere", "one"]);
    assert!(told.contains("nowhere"), "{told}");
    let told = refused(&["base", "no-adapter"]);
    assert!(told.contains("no-adapter"), "{told}");
    let told = refused(&["base", "base"]);
    assert!(told.contains("adapter"), "a model is no adapter\n{told}");
    assert!(refused(&["base"]).contains("ADAPTER"));
}
