//! Recipes of `kind: modality`.
//!
//! Catches connectors that are not the input's bytes, a body that is not the method's answer, factors
//! scaled or named wrongly, and parts that vanish, collide or disagree without a word.

use std::collections::BTreeMap;

use mixdown_kit::torch_read::read_torch;
use mixdown_kit::{
    DType, Space, Tensor, Tolerance, assert_same_tensors, checkpoint, mixdown, read_checkpoint,
};
use mixdown_suite::modalities::{
    MODULES, RANK, SCALE, SUM, config, drawn, parts, recipe, space, write,
};
use mixdown_suite::{merge, merged, refusal};
use serde_json::{Value, json};

/// The base with, for each modality, its coefficient times s·B·A.
fn expected(space: &Space, parts_of: &[(Vec<Tensor>, f64)]) -> BTreeMap<String, Tensor> {
    let mut all = read_checkpoint(space.path("base")).tensors;
    for (parts, coefficient) in parts_of {
        let find = |name: String| parts.iter().find(|one| one.name == name).unwrap().values();
        for (module, [rows, columns]) in MODULES {
            let a = find(format!("{module}.lora_A.default.weight"));
            let b = find(format!("{module}.lora_B.default.weight"));
            let tensor = all.get_mut(&format!("{module}.weight")).unwrap();
            let mut values = tensor.values();
            for (at, value) in values.iter_mut().enumerate() {
                let (row, column) = (at as u64 / columns, at as u64 % columns);
                for k in 0..RANK {
                    *value += coefficient
                        * SCALE
                        * b[(row * RANK + k) as usize]
                        * a[(k * columns + column) as usize];
                }
            }
            *tensor = Tensor::new(&tensor.name, DType::F32, &[rows, columns], &values);
        }
        let connectors = parts.iter().filter(|one| one.name.contains("modal_projectors"));
        all.extend(connectors.map(|one| (one.name.clone(), one.clone())));
    }
    all
}

#[track_caller]
fn check(space: &Space, recipe: &str, expected: &BTreeMap<String, Tensor>) {
    let found = merged(space, recipe);
    for (name, tensor) in expected.iter().filter(|(name, _)| name.contains("modal_projectors")) {
        assert_eq!(found.tensors[name].data, tensor.data, "{name} is copied byte for byte");
    }
    let tolerance = |_: &Tensor| Tolerance::RelativeToLargest(1e-6);
    assert_same_tensors("modality", expected, &found.tensors, tolerance);
}

#[test]
fn one_modality_is_its_own_adapter_on_the_base() {
    let space = space();
    let wanted = expected(&space, &[(parts(1, "vision", false), 1.0)]);
    check(&space, &recipe(&["vision"], SUM), &wanted);
}

#[test]
fn bodies_are_merged_and_connectors_copied_in_any_order() {
    let space = space();
    let wanted =
        expected(&space, &[(parts(1, "vision", false), 1.0), (parts(2, "audio", false), 1.0)]);
    check(&space, &recipe(&["vision", "audio"], SUM), &wanted);
    std::fs::rename(space.path("merged"), space.path("first")).unwrap();
    check(&space, &recipe(&["audio", "vision"], SUM), &wanted);
    let (one, other) =
        (read_checkpoint(space.path("first")), read_checkpoint(space.path("merged")));
    let tolerance = |_: &Tensor| Tolerance::RelativeToLargest(1e-6);
    assert_same_tensors("permuted", &one.tensors, &other.tensors, tolerance);
}

#[test]
fn online_composing_is_a_static_sum() {
    let space = space();
    let wanted =
        expected(&space, &[(parts(1, "vision", false), 0.25), (parts(2, "audio", false), 0.75)]);
    let online = "mode: online\ncoefficients: {vision: 0.25, audio: 0.75}\n";
    check(&space, &recipe(&["vision", "audio"], online), &wanted);
}

#[test]
fn the_configuration_tells_of_all_parts() {
    let space = space();
    let text = recipe(&["vision", "audio"], SUM).replace(
        "model.modal_projectors.vision}\n",
        "model.modal_projectors.vision}\n    encoder: {path: clip}\n",
    );
    merge(&space, &text, &[]).success();
    let config: Value = serde_json::from_slice(&space.read("merged/config.json")).unwrap();
    assert_eq!(config["model_type"], "multimodal");
    assert_eq!(config["mm_vision_encoder"], "encoder of vision");
    assert_eq!(config["mm_audio_encoder"], "encoder of audio");
    let told = &config["mixdown"]["modalities"]["vision"];
    assert_eq!(told["connector_prefix"], "model.modal_projectors.vision");
    assert_eq!(told["encoder"]["included"], false);
    assert_eq!(told["encoder"]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(config["mixdown"]["recipe_sha256"].as_str().unwrap().len(), 64);
}

/// The released scripts merge each factor by itself: Σ A and Σ B.
#[test]
fn factors_are_merged_each_by_itself() {
    let space = space();
    let rest =
        SUM.replace("method:", "space: factors, method:") + "output: {layout: modelcompose}\n";
    merge(&space, &recipe(&["vision", "audio"], &rest), &[]).success();
    let found = read_torch(space.path("merged/adapter_model.bin"));
    let (one, other) = (parts(1, "vision", false), parts(2, "audio", false));
    assert_eq!(found.len(), 4 + 4);
    for (one, other) in one.iter().zip(&other).filter(|(one, _)| one.name.contains("lora_")) {
        for ((a, b), sum) in one.values().iter().zip(other.values()).zip(found[&one.name].values())
        {
            assert!((a + b - sum).abs() < 1e-6, "{}", one.name);
        }
    }
    let config: Value = serde_json::from_slice(&space.read("merged/config.json")).unwrap();
    assert_eq!((&config["lora_r"], &config["lora_alpha"]), (&json!(2), &json!(4)));
    mixdown(&space, ["verify", "merged"]).success();
}

/// The number at a row and a column of a matrix of zeros.
fn one_number(name: &str, [rows, columns]: [u64; 2], at: [u64; 2], number: f64) -> Tensor {
    let mut values = vec![0.0; (rows * columns) as usize];
    values[(at[0] * columns + at[1]) as usize] = number;
    Tensor::new(name, DType::F32, &[rows, columns], &values)
}

/// Updates of known singular values: vision has 2·3 in one direction, audio 2·1 in another.
#[test]
fn merged_weights_are_factored_anew() {
    let space = space();
    let (module, [rows, columns]) = MODULES[1];
    for (modality, direction, size) in [("vision", 3, 3.0), ("audio", 5, 1.0)] {
        let name = |side: &str| format!("{module}.lora_{side}.default.weight");
        let a = one_number(&name("A"), [RANK, columns], [0, direction], size);
        let b = one_number(&name("B"), [rows, RANK], [direction + 1, 0], 1.0);
        let connector = drawn(7, &format!("model.modal_projectors.{modality}.0.bias"), &[16]);
        write(&space, modality, &[a, b, connector], &config(modality));
    }
    let rest =
        |rank: u64| SUM.to_owned() + &format!("output: {{layout: modelcompose, rank: {rank}}}\n");
    for (rank, kept) in
        [(4, vec![(3, 6.0), (5, 2.0)]), (2, vec![(3, 6.0), (5, 2.0)]), (1, vec![(3, 6.0)])]
    {
        merge(&space, &recipe(&["vision", "audio"], &rest(rank)), &["--force"]).success();
        let found = read_torch(space.path("merged/adapter_model.bin"));
        assert_eq!(found.len(), 2 + 2, "{:?}", found.keys());
        let a = &found[&format!("{module}.lora_A.default.weight")];
        let b = &found[&format!("{module}.lora_B.default.weight")];
        assert_eq!((&a.shape[..], &b.shape[..]), (&[rank, columns][..], &[rows, rank][..]));
        let (a, b) = (a.values(), b.values());
        for row in 0..rows {
            for column in 0..columns {
                let of = |k: u64| b[(row * rank + k) as usize] * a[(k * columns + column) as usize];
                let value: f64 = (0..rank).map(of).sum();
                let expected = kept.iter().find(|(at, _)| (at + 1, *at) == (row, column));
                let expected = expected.map_or(0.0, |(_, size)| *size);
                assert!((value - expected).abs() < 1e-5, "rank {rank}, [{row}, {column}]: {value}");
            }
        }
        let config: Value = serde_json::from_slice(&space.read("merged/config.json")).unwrap();
        assert_eq!((&config["lora_r"], &config["lora_alpha"]), (&json!(rank), &json!(rank)));
        assert_eq!(config["lora_strategy"], "same");
    }
    let talk = refusal(&space, &recipe(&["vision", "audio"], &rest(17)), &["--force"], 2);
    assert!(talk.contains("E0214") && talk.contains("at most 16"), "{talk}");
}

#[test]
fn adapters_stay_side_by_side() {
    let space = space();
    let online = "mode: online\noutput: {layout: modelcompose}\n";
    let text = recipe(&["vision", "audio"], online);
    let sized = format!("{text}shard_size: 1MB\n");
    let talk = merge(&space, &sized, &["--shard-size", "1MB"]).success().talk();
    assert_eq!(talk.matches("W0601").count(), 2, "{talk}");
    assert_eq!(talk.matches("one file of weights").count(), 2, "{talk}");
    let found = read_torch(space.path("merged/adapter_model.bin"));
    let own = &parts(2, "audio", false)[0];
    let name = own.name.replace(".default.", ".default-audio.");
    assert_eq!(found[&name].data, own.data);
    let config: Value = serde_json::from_slice(&space.read("merged/config.json")).unwrap();
    assert_eq!(config["reset_scaling_weights"], "default-vision=0.5,default-audio=0.5");
}

#[test]
fn adapters_of_modalities_and_their_tokens_are_kept() {
    let space = space();
    for (seed, modality) in [(1, "vision"), (2, "audio")] {
        write(&space, modality, &parts(seed, modality, true), &config(modality));
    }
    let damc = SUM.to_owned() + "mode: damc\n";
    let found = merged(&space, &recipe(&["vision", "audio"], &damc));
    for (seed, modality) in [(1, "vision"), (2, "audio")] {
        let own = parts(seed, modality, true);
        let is_own = |one: &&Tensor| !one.name.contains(".default.");
        for tensor in own.iter().filter(is_own) {
            assert_eq!(found.tensors[&tensor.name].data, tensor.data, "{}", tensor.name);
        }
    }
}

/// A whole model whose body, connector and encoder have names of their own.
#[test]
fn whole_models_are_bodies() {
    let space = space();
    let base = checkpoint("base").dtype(DType::F32);
    let mut expert = checkpoint("whole").dtype(DType::F32).weights_only();
    for tensor in base.tensors() {
        expert = expert.without(&tensor.name);
        let changes = tensor.name == format!("{}.weight", MODULES[0].0);
        let values: Vec<f64> =
            tensor.values().iter().map(|value| value + if changes { 0.5 } else { 0.0 }).collect();
        let name = format!("language_model.{}", tensor.name);
        expert = expert.with(Tensor::new(&name, DType::F32, &tensor.shape, &values));
    }
    let parts = [
        drawn(7, "multi_modal_projector.linear.weight", &[16, 8]),
        drawn(7, "audio_tower.conv1.bias", &[8]),
    ];
    for part in &parts {
        expert = expert.with(part.clone());
    }
    expert.write(&space);
    let whole = |prefix: &str| {
        format!(
            "mixdown: 1\nkind: modality\nbase: base\ninputs:\n  audio:\n    body: {{full: whole{prefix}}}\n    \
             connector: {{from: full, prefix: multi_modal_projector}}\n    \
             encoder: {{from: full, prefix: audio_tower}}\n{SUM}"
        )
    };
    for prefix in [", prefix: language_model.", ""] {
        let found = merged(&space, &whole(prefix));
        let get = |name: &str| found.tensors[name].data.clone();
        assert_eq!(get("model.modal_projectors.audio.linear.weight"), parts[0].data);
        assert_eq!(get("model.modal_encoders.audio.conv1.bias"), parts[1].data);
        let name = format!("{}.weight", MODULES[0].0);
        let before = read_checkpoint(space.path("base")).values(&name);
        for (one, other) in before.iter().zip(found.values(&name)) {
            assert!((one + 0.5 - other).abs() < 1e-6);
        }
        std::fs::remove_dir_all(space.path("merged")).unwrap();
    }
    let unclaimed = whole("").replace("    encoder: {from: full, prefix: audio_tower}\n", "");
    let talk = refusal(&space, &unclaimed, &[], 2);
    assert!(talk.contains("audio_tower.conv1.bias") && talk.contains("`encoder`"), "{talk}");
}

#[test]
fn what_cannot_be_is_refused() {
    let space = space();
    let check = |recipe: &str, code: &str, said: &str| {
        let talk = refusal(&space, recipe, &[], 2);
        assert!(talk.contains(code) && talk.contains(said), "{code}: {talk}");
    };
    let both = recipe(&["vision", "audio"], SUM);
    let same = both.replace("model.modal_projectors.audio", "model.modal_projectors.vision");
    check(&same, "E0252", "under one prefix");
    let lost = both.replace(
        "model.modal_projectors.vision}\n",
        "model.modal_projectors.vision}\n    encoder: {path: ./no-clip}\n",
    );
    check(&lost, "E0354", "./no-clip");
    check(
        &both.replace("{adapter: vision}", "{adapter: vision, name: defualt}"),
        "E0351",
        "default",
    );
    check(&both.replace("kind: modality", "kind: modalty"), "E0250", "did you mean `modality`");
    check(&both.replace("method: task_arithmetic, ", ""), "E0204", "method");
    let mistyped = refusal(&space, &both.replace("{adapter: vision}", "{adpter: vision}"), &[], 2);
    assert_eq!(mistyped.matches("error[").count(), 1, "a consequence is told too: {mistyped}");
    let factors = both.replace("{method:", "{space: factors, method:");
    check(&factors, "E0253", "modelcompose");
    let some = recipe(&["vision", "audio"], "mode: online\ncoefficients: {vision: 1}\n");
    check(&some, "E0254", "audio");
}

#[test]
fn tensors_that_mean_nothing_and_configurations_that_disagree_are_refused() {
    let space = space();
    let both = recipe(&["vision", "audio"], SUM);
    for (seed, modality) in [(1, "vision"), (2, "audio")] {
        let mut config = config(modality);
        config["image_aspect_ratio"] = modality.into();
        write(&space, modality, &parts(seed, modality, false), &config);
    }
    let talk = refusal(&space, &both, &[], 2);
    assert!(talk.contains("E0350") && talk.contains("image_aspect_ratio"), "{talk}");
    let prefer = "output: {config: {prefer: {image_aspect_ratio: audio}}}\n";
    merge(&space, &format!("{both}{prefer}"), &[]).success();
    let config: Value = serde_json::from_slice(&space.read("merged/config.json")).unwrap();
    assert_eq!(config["image_aspect_ratio"], "audio");
    let mut odd = parts(1, "vision", false);
    odd[0].name = odd[0].name.replace("layers.0", "layers.7");
    odd[1].name = odd[1].name.replace("layers.0", "layers.7");
    write(&space, "vision", &odd, &self::config("vision"));
    let talk = refusal(&space, &both, &["--force"], 2);
    assert!(talk.contains("E0314") && talk.contains("layers.7"), "{talk}");
}
