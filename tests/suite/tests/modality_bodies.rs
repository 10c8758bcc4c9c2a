//! What bodies and encoders of modalities may be stored as, and what becomes of what is not merged.
//!
//! Catches adapters of PEFT that act on another layer or not at all, encoders that are not their file's
//! bytes, and tensors outside `include` that are not what `rest` says.

use mixdown_kit::torch::torch_bytes;
use mixdown_kit::{
    DType, Space, Stored, Tensor, Tolerance, adapter, assert_same_tensors, checkpoint, mixdown,
    read_checkpoint,
};
use mixdown_suite::modalities::{MODULES, SUM, drawn};
use mixdown_suite::{merge, merged, refusal};

/// `base`, `projector` with a connector, and `own` with a connector of its own.
fn space() -> Space {
    let space = Space::new();
    checkpoint("base").dtype(DType::F32).write(&space);
    let connector = drawn(3, "multi_modal_projector.linear_1.weight", &[16, 8]);
    checkpoint("projector").without("").with(connector).weights_only().write(&space);
    space
}

fn recipe(bodies: &[(&str, &str)], rest: &str) -> String {
    let mut text = "mixdown: 1\nkind: modality\nbase: base\ninputs:\n".to_owned();
    for (name, body) in bodies {
        text += &format!(
            "  {name}:\n    body: {body}\n    connector: {{from: projector, prefix: multi_modal_projector}}\n"
        );
    }
    text + rest
}

#[track_caller]
fn near(one: &Stored, other: &Stored) {
    let tolerance = |_: &Tensor| Tolerance::RelativeToLargest(1e-6);
    assert_same_tensors("bodies", &one.tensors, &other.tensors, tolerance);
}

/// PEFT's folder, with names of one time or another in front of the layers.
fn peft(space: &Space, name: &str, before: &str) {
    let mut built = adapter(name, 2);
    for (module, shape) in MODULES {
        // The numbers follow the module's name; what is in front of it must not change them.
        let numbers = adapter("numbers", 2).module(module, 2, shape);
        for tensor in numbers.tensors() {
            let own = tensor.name.replace("base_model.model.model.", before);
            built = built.with(tensor.clone().named(&own));
        }
    }
    built.write(space);
}

#[test]
fn adapters_of_peft_are_bodies_under_names_of_any_time() {
    let space = space();
    peft(&space, "legacy", "base_model.model.model.");
    peft(&space, "newer", "base_model.model.model.language_model.");
    let applied = "mixdown: 1\nmodels: {x: base+legacy}\nmethod: passthrough\n";
    space.write("applied.yaml", applied);
    mixdown(&space, ["merge", "applied.yaml", "--out", "whole"]).success();
    let mut expected = read_checkpoint(space.path("whole"));
    let connector = drawn(3, "multi_modal_projector.linear_1.weight", &[16, 8]);
    let connector = connector.named("model.modal_projectors.vision.linear_1.weight");
    expected.tensors.insert(connector.name.clone(), connector);
    for body in ["{peft: legacy}", "{peft: newer}", "{full: whole}"] {
        near(&expected, &merged(&space, &recipe(&[("vision", body)], SUM)));
        std::fs::remove_dir_all(space.path("merged")).unwrap();
    }
    peft(&space, "strange", "base_model.model.other.");
    let talk = refusal(&space, &recipe(&[("vision", "{peft: strange}")], SUM), &[], 2);
    assert!(talk.contains("E0314") && talk.contains("other.layers"), "{talk}");
}

#[test]
fn encoders_are_copied_from_where_they_are() {
    let space = space();
    peft(&space, "legacy", "base_model.model.model.");
    let own = [
        drawn(5, "vision_model.encoder.layers.0.mlp.fc1.weight", &[8, 8]).cast(DType::F16),
        drawn(5, "vision_model.embeddings.position_embedding.weight", &[4, 8]),
    ];
    let mut folder = checkpoint("clip").without("");
    for tensor in &own {
        folder = folder.with(tensor.clone());
    }
    folder.write(&space);
    space.write("beats.pt", torch_bytes(&own.iter().collect::<Vec<&Tensor>>()));
    let with = |encoder: &str| {
        let body = format!("{{peft: legacy}}\n    encoder: {encoder}");
        recipe(&[("vision", &body)], SUM)
    };
    for (encoder, prefix, cut) in [
        ("{path: clip, include: copy}", "model.modal_encoders.vision.", ""),
        ("{path: beats.pt, include: copy, as: model.ears}", "model.ears.", ""),
        (
            "{path: clip, include: copy, prefix: vision_model}",
            "model.modal_encoders.vision.",
            "vision_model.",
        ),
    ] {
        let found = merged(&space, &with(encoder));
        for tensor in &own {
            let name = format!("{prefix}{}", tensor.name.trim_start_matches(cut));
            let copied = found.tensor(&name);
            assert_eq!((copied.dtype, &copied.data), (tensor.dtype, &tensor.data), "{name}");
        }
        let config: serde_json::Value =
            serde_json::from_slice(&space.read("merged/config.json")).unwrap();
        let told = &config["mixdown"]["modalities"]["vision"]["encoder"];
        assert_eq!(told["included"], true);
        assert_eq!(told["prefix"], prefix.trim_end_matches('.'));
        std::fs::remove_dir_all(space.path("merged")).unwrap();
    }
    let some = "{path: clip, include: copy, prefix: vision_model.encoder}";
    let outcome = merge(&space, &with(some), &[]).success();
    let talk = outcome.talk();
    assert!(talk.contains("W0630") && talk.contains("vision_model: 1 tensor"), "{talk}");
    let talk =
        refusal(&space, &with("{path: clip, include: copy, prefix: visual}"), &["--force"], 2);
    assert!(talk.contains("begins with `visual`") && talk.contains("vision_model"), "{talk}");
}

/// Two whole bodies whose norms differ from the base's and from each other.
fn with_whole_bodies() -> Space {
    let space = space();
    for (seed, name) in [(21, "one"), (22, "two")] {
        checkpoint(name).dtype(DType::F32).expert(seed, 0.01).write(&space);
    }
    space
}

#[test]
fn what_is_not_merged_is_what_rest_says() {
    let space = with_whole_bodies();
    let bodies = [("vision", "{full: one}"), ("audio", "{full: two}")];
    let with =
        |rest: &str| recipe(&bodies, &SUM.replace("include:", &format!("rest: {rest}, include:")));
    let read = |model: &str| read_checkpoint(space.path(model));
    let (base, one, two) = (read("base"), read("one"), read("two"));
    for (rest, share) in [("mean", 0.5), ("first", 1.0)] {
        let found = merged(&space, &with(rest));
        for name in ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"] {
            let (one, two) = (one.values(name), two.values(name));
            for (at, value) in found.values(name).iter().enumerate() {
                let expected = share * one[at] + (1.0 - share) * two[at];
                assert!((value - expected).abs() < 1e-6, "rest: {rest}, {name}[{at}]");
            }
        }
        // What is merged is merged all the same.
        let name = "model.layers.0.mlp.up_proj.weight";
        let (base, one, two) = (base.values(name), one.values(name), two.values(name));
        for (at, value) in found.values(name).iter().enumerate() {
            assert!((value - (one[at] + two[at] - base[at])).abs() < 1e-6, "{name}[{at}]");
        }
        std::fs::remove_dir_all(space.path("merged")).unwrap();
    }
    let talk = merge(&space, &with("base"), &[]).exits(1).talk();
    assert!(talk.contains("E0403") && talk.contains("do not agree"), "{talk}");
}

/// Bodies that were saved in 16 bits are near the base's norms and embeddings, and not the same.
#[test]
fn what_is_kept_may_be_near_the_bases() {
    let space = space();
    let body = checkpoint("body").dtype(DType::Bf16).dtype_where("_proj.", DType::F32);
    body.set("model.norm.weight", 5, 1.25).write(&space);
    checkpoint("base").dtype(DType::F32).set("model.norm.weight", 5, 1.2421875).write(&space);
    let with = |tolerance: &str| {
        let body = format!("rest: base{tolerance}, include:");
        recipe(&[("vision", "{full: body}")], &SUM.replace("include:", &body))
    };
    let found = merged(&space, &with(", tolerance: 0.01"));
    // What is kept is the base's, not something between.
    let base = read_checkpoint(space.path("base"));
    for name in ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"] {
        assert_eq!(found.tensor(name), base.tensor(name), "{name}");
    }
    std::fs::remove_dir_all(space.path("merged")).unwrap();
    let talk = merge(&space, &with(", tolerance: 0.005"), &[]).exits(1).talk();
    for said in ["E0403", "`model.norm.weight`", "element 5", "1.2421875", "1.25", "0.005"] {
        assert!(talk.contains(said), "{said}: {talk}");
    }
    // Without a distance another type is another tensor.
    let talk = refusal(&space, &with(""), &[], 2);
    assert!(talk.contains("E0307") && talk.contains("bf16"), "{talk}");
    let talk = refusal(&space, &with(", tolerance: -1"), &[], 2);
    assert!(talk.contains("E0214"), "{talk}");
    let talk = refusal(&space, &with(", tolerance: 1").replace("rest: base", "rest: mean"), &[], 2);
    assert!(talk.contains("E0206"), "{talk}");
}
