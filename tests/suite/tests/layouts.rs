//! Every layout and element type that a checkpoint may have.
//!
//! Catches a layout that is read differently, a type that is widened wrongly, and tensors that are
//! copied although their models disagree.

use mixdown_kit::raw::safetensors_bytes;
use mixdown_kit::torch::torch_bytes;
use mixdown_kit::{
    DType, Layout, Space, Tensor, Tolerance, assert_same_tensors, checkpoint, read_checkpoint,
};
use mixdown_suite::{configuration, merge, merged, with_snapshots};

fn mean_of(models: &[&str]) -> String {
    let models: Vec<(&str, &str)> = models.iter().map(|model| (*model, "weight: 1")).collect();
    configuration("linear", None, &models, "")
}

#[test]
fn all_layouts_hold_the_same() {
    let space = Space::new();
    checkpoint("single").expert(3, 0.01).write(&space);
    let expected = merged(&space, &mean_of(&["single"])).tensors;
    for (name, layout) in [
        ("sharded", Layout::Sharded(4)),
        ("loose", Layout::Loose(3)),
        ("file.safetensors", Layout::File),
    ] {
        let space = Space::new();
        checkpoint(name).expert(3, 0.01).layout(layout).write(&space);
        assert_eq!(merged(&space, &mean_of(&[name])).tensors, expected, "{name}");
    }
}

/// The output is safetensors, and takes none of the input's files of weights over.
#[test]
fn torch_s_files_hold_the_same() {
    let space = Space::new();
    let model = || checkpoint("model").expert(3, 0.01);
    model().write(&space);
    let expected = merged(&space, &mean_of(&["model"])).tensors;
    let space = Space::new();
    model().write(&space);
    std::fs::remove_file(space.path("model/model.safetensors")).unwrap();
    let tensors = model().tensors();
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    space.write("model/pytorch_model.bin", torch_bytes(&tensors));
    space.write("model/training_args.bin", "nothing that is read");
    assert_eq!(merged(&space, &mean_of(&["model"])).tensors, expected);
    assert!(space.path("merged/model.safetensors").exists());
    for file in std::fs::read_dir(space.path("merged")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains(".bin"), "{name}");
    }
}

#[test]
fn an_index_decides_which_files_count() {
    let space = Space::new();
    checkpoint("model").layout(Layout::Sharded(2)).write(&space);
    // Some repositories hold the same weights once more under another name.
    let other = Tensor::new("model.norm.weight", DType::Bf16, &[1], &[9.0]);
    space.write("model/consolidated.safetensors", safetensors_bytes(&[&other]));
    let found = merged(&space, &mean_of(&["model"]));
    assert_eq!(found.names().len(), checkpoint("model").tensors().len());
    assert_ne!(found.values("model.norm.weight"), [9.0]);
}

#[test]
fn float_types_are_merged_in_any_mixture() {
    let types = [DType::F64, DType::F32, DType::F16, DType::Bf16];
    for left in types {
        for right in types {
            let space = Space::new();
            checkpoint("left").dtype(left).expert(1, 0.01).layers(1).write(&space);
            checkpoint("right").dtype(right).expert(2, 0.01).layers(1).write(&space);
            let recipe = mean_of(&["left", "right"]).replace("dtype: float32\n", "");
            let found = merged(&space, &recipe);
            let common = left.promote(right).unwrap();
            let (left_tensors, right_tensors) = (
                checkpoint("left").dtype(left).expert(1, 0.01).layers(1).tensors(),
                checkpoint("right").dtype(right).expert(2, 0.01).layers(1).tensors(),
            );
            let expected = left_tensors
                .iter()
                .zip(&right_tensors)
                .map(|(l, r)| {
                    let (l_values, r_values) = (l.values(), r.values());
                    let means: Vec<f64> =
                        l_values.iter().zip(r_values).map(|(l, r)| (l + r) / 2.0).collect();
                    (l.name.clone(), Tensor::new(&l.name, common, &l.shape, &means))
                })
                .collect();
            let what = format!("{left} with {right}");
            assert_same_tensors(&what, &expected, &found.tensors, |tensor| match tensor.dtype {
                DType::F64 => Tolerance::RelativeToLargest(1e-15),
                other => Tolerance::of_f32_merge(other),
            });
        }
    }
}

#[test]
fn output_types_are_rounded_once() {
    let space = Space::new();
    checkpoint("a").dtype(DType::F32).expert(1, 0.01).write(&space);
    let exact = merged(&space, &mean_of(&["a"])).tensors;
    std::fs::remove_dir_all(space.path("merged")).unwrap();
    for (name, dtype) in [("float16", DType::F16), ("bfloat16", DType::Bf16)] {
        let recipe = format!("{}out_dtype: {name}\n", mean_of(&["a"]));
        merge(&space, &recipe, &["--force"]).success();
        let expected = exact.iter().map(|(name, t)| (name.clone(), t.cast(dtype))).collect();
        let found = read_checkpoint(space.path("merged")).tensors;
        assert_same_tensors(name, &expected, &found, |_| Tolerance::SameBits);
    }
}

#[test]
fn a_prefix_names_a_part_of_a_checkpoint() {
    let space = Space::new();
    let extra = Tensor::new("vision.patch.weight", DType::Bf16, &[2], &[1.0, 2.0]);
    let part = checkpoint("whole").expert(4, 0.01).prefix("language_model.");
    let mut tensors = part.tensors();
    tensors.push(extra);
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    space.write("whole/model.safetensors", safetensors_bytes(&tensors));
    checkpoint("text").expert(4, 0.01).write(&space);
    let recipe = "mixdown: 1\nmodels:\n  whole: {path: whole, prefix: language_model.}\n  \
                  text: text\nmethod: linear\nparameters: {weight: 1}\nfiles_from: text\n";
    let found = merged(&space, recipe).tensors;
    let expected = read_checkpoint(space.path("text")).tensors;
    assert_same_tensors("the part", &expected, &found, |_| Tolerance::SameBits);
}

fn with_positions(space: &Space, name: &str, seed: u64, positions: &[f64]) {
    let buffer = Tensor::new("model.position_ids", DType::I64, &[1, 4], positions);
    let mask = Tensor::new("model.causal", DType::Bool, &[2], &[1.0, 0.0]);
    checkpoint(name).expert(seed, 0.01).with(buffer).with(mask).write(space);
}

#[test]
fn integers_that_agree_are_copied() {
    let space = Space::new();
    with_positions(&space, "a", 1, &[0.0, 1.0, 2.0, 3.0]);
    with_positions(&space, "b", 2, &[0.0, 1.0, 2.0, 3.0]);
    let found = merged(&space, &mean_of(&["a", "b"]));
    assert_eq!(found.tensor("model.position_ids").dtype, DType::I64);
    assert_eq!(found.values("model.position_ids"), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(found.tensor("model.causal").dtype, DType::Bool);
}

#[test]
fn integers_that_differ_are_an_error_or_a_rule() {
    let space = Space::new();
    with_positions(&space, "a", 1, &[0.0, 1.0, 2.0, 3.0]);
    with_positions(&space, "b", 2, &[0.0, 1.0, 7.0, 3.0]);
    let outcome = merge(&space, &mean_of(&["a", "b"]), &[]).exits(1);
    assert!(!space.exists("merged"));
    assert!(!space.exists(".merged.mixdown-partial"), "nothing that cannot be continued");
    with_snapshots(|| insta::assert_snapshot!("integers_differ", outcome.talk()));
    let recipe = "mixdown: 1\nmodels: {a: a, b: b}\nparameters: {weight: 1}\n\
                  rules:\n  - {tensors: model.position_ids, keep: b}\n  - {method: linear}\n";
    let found = merged(&space, recipe);
    assert_eq!(found.values("model.position_ids"), [0.0, 1.0, 7.0, 3.0]);
}

#[test]
fn tied_and_untied_models_meet() {
    let space = Space::new();
    checkpoint("tied").tied().write(&space);
    checkpoint("untied").seed(2).write(&space);
    let found = merged(&space, &mean_of(&["tied", "untied"]));
    let embedding = &checkpoint("tied").tied().tensors()[0];
    let head = checkpoint("untied").seed(2).tensors();
    let head = head.iter().find(|tensor| tensor.name == "lm_head.weight").unwrap();
    let means: Vec<f64> =
        embedding.values().iter().zip(head.values()).map(|(e, h)| (e + h) / 2.0).collect();
    let expected = Tensor::new("lm_head.weight", DType::F32, &head.shape, &means);
    assert_eq!(found.tensor("lm_head.weight"), &expected);
    let config: serde_json::Value =
        serde_json::from_slice(&space.read("merged/config.json")).unwrap();
    assert_eq!(config["tie_word_embeddings"], false, "the flag says what was written");
}

/// Old checkpoints store the frequencies of rotary embeddings; averages of them would be rounded anew.
#[test]
fn buffers_are_kept_from_the_base() {
    let space = Space::new();
    let frequencies = |scale: f64| {
        let values: Vec<f64> = (0..2).map(|index| scale / 10f64.powi(index)).collect();
        Tensor::new("model.layers.0.self_attn.rotary_emb.inv_freq", DType::F32, &[2], &values)
    };
    for (name, scale) in [("base", 1.0), ("a", 1.5), ("b", 3.0)] {
        checkpoint(name).with(frequencies(scale)).write(&space);
    }
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    let models = [("a", "weight: 1"), ("b", "weight: 1")];
    let from_base = configuration("task_arithmetic", Some("base"), &models, "");
    assert_eq!(merged(&space, &from_base).tensors[name], frequencies(1.0));
    std::fs::remove_dir_all(space.path("merged")).unwrap();
    assert_eq!(merged(&space, &mean_of(&["a", "b"])).tensors[name], frequencies(1.5));
}
