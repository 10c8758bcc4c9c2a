//! Everything that can be wrong with a recipe of modalities, as `bad_input` does for plain ones.
//!
//! Each snapshot is what a person reads. Catches a message that blames the wrong place or tells consequences.

use mixdown_kit::{DType, Space, Tensor, checkpoint};
use mixdown_suite::modalities::{SUM, config, drawn, parts, recipe, space, write};
use mixdown_suite::{refusal, with_snapshots};

#[track_caller]
fn check(name: &str, space: &Space, recipe: &str) {
    let talk = refusal(space, recipe, &[], 2);
    with_snapshots(|| insta::assert_snapshot!(name, talk));
}

fn both(rest: &str) -> String {
    recipe(&["vision", "audio"], &(SUM.to_owned() + rest))
}

/// `whole`: a model with the base's names below `prefix`, changed by `edit`, and a connector.
fn whole(space: &Space, prefix: &str, edit: impl Fn(Tensor) -> Option<Tensor>) {
    let mut model = checkpoint("whole").without("").weights_only();
    for tensor in checkpoint("base").dtype(DType::F32).tensors() {
        let name = format!("{prefix}{}", tensor.name);
        if let Some(tensor) = edit(tensor) {
            model = model.with(tensor.named(&name));
        }
    }
    model.with(drawn(7, "multi_modal_projector.linear.weight", &[16, 8])).write(space);
}

fn of_whole(rest: &str) -> String {
    format!(
        "mixdown: 1\nkind: modality\nbase: base\ninputs:\n  audio:\n    body: {{full: whole}}\n    \
         connector: {{from: full, prefix: multi_modal_projector}}\n{rest}"
    )
}

#[test]
fn two_modalities_under_one_prefix() {
    let same = both("").replace("model.modal_projectors.audio}", "model.modal_projectors.vision}");
    check("one_prefix", &space(), &same);
    let within = both("").replace(
        "model.modal_projectors.audio}",
        "model.modal_projectors.audio, as: model.modal_projectors.vision.0}",
    );
    check("prefix_within_prefix", &space(), &within);
}

#[test]
fn bodies_of_other_shapes() {
    let space = space();
    let mut wide = parts(1, "vision", false);
    wide[1] = drawn(1, &wide[1].name, &[24, 2]);
    write(&space, "vision", &wide, &config("vision"));
    check("adapter_of_other_shapes", &space, &both(""));
    whole(&space, "", |tensor| {
        let rows = if tensor.name.contains("up_proj") { 32 } else { return Some(tensor) };
        Some(drawn(1, &tensor.name, &[rows, 16]))
    });
    check("body_of_other_shapes", &space, &of_whole(SUM));
    whole(&space, "", |tensor| {
        let rows = if tensor.name.contains("embed_tokens") { 28 } else { return Some(tensor) };
        Some(drawn(1, &tensor.name, &[rows, 16]))
    });
    check("body_of_other_tokens", &space, &of_whole(SUM));
    let all = SUM.replace(", include: \"model.layers.{i}.{**}_proj.weight\"", "");
    check("body_of_other_tokens_merged", &space, &of_whole(&all));
}

#[test]
fn configurations_that_disagree() {
    let space = space();
    for (seed, modality) in [(1, "vision"), (2, "audio")] {
        let mut config = config(modality);
        config["image_aspect_ratio"] = modality.into();
        config["mm_use_start_end"] = (modality == "audio").into();
        write(&space, modality, &parts(seed, modality, false), &config);
    }
    check("configurations_disagree", &space, &both(""));
    let wrong =
        "output: {config: {prefer: {image_aspect_ratoi: audio, mm_use_start_end: sound}}}\n";
    check("preferred_wrongly", &space, &both(wrong));
}

#[test]
fn a_body_without_the_bases_tensors() {
    let space = space();
    whole(&space, "decoder.", Some);
    check("body_without_base", &space, &of_whole(SUM));
    whole(&space, "language_model.", |tensor| {
        (!tensor.name.contains("layers.1.mlp")).then_some(tensor)
    });
    check("body_without_a_layer", &space, &of_whole(SUM));
}

#[test]
fn a_connector_that_is_not_there() {
    let lost = both("").replace("prefix: model.modal_projectors.audio", "prefix: model.projector");
    check("no_connector", &space(), &lost);
    let elsewhere = both("").replace(
        "{prefix: model.modal_projectors.audio}",
        "{from: ./no-such-folder, prefix: model.modal_projectors.audio}",
    );
    check("no_folder_of_connector", &space(), &elsewhere);
}

#[test]
fn tensors_of_an_adapter_that_nobody_wants() {
    let space = space();
    let mut more = parts(1, "vision", false);
    more.push(drawn(1, "model.image_newline", &[16]));
    write(&space, "vision", &more, &config("vision"));
    check("unclaimed_tensor", &space, &both(""));
    let drop = |pattern: &str| {
        let connector = "connector: {prefix: model.modal_projectors.vision}";
        both("").replace(connector, &format!("{connector}\n    drop: {pattern}"))
    };
    check("dead_drop", &space, &drop("model.image_new_line"));
    mixdown_suite::merge(&space, &drop("model.image_newline"), &[]).success();
}

#[test]
fn a_body_that_changes_what_is_kept() {
    let space = space();
    whole(&space, "", |tensor| match tensor.name.as_str() {
        "model.norm.weight" => Some(drawn(3, &tensor.name, &[16])),
        _ => Some(tensor),
    });
    let talk = mixdown_suite::merge(&space, &of_whole(SUM), &[]).exits(1).talk();
    with_snapshots(|| insta::assert_snapshot!("body_differs", talk));
}

#[test]
fn forms_that_do_not_go_together() {
    let space = space();
    check("merged_weights_are_no_factors", &space, &both("output: {layout: modelcompose}\n"));
    check("rank_of_a_whole_model", &space, &both("output: {rank: 8}\n"));
    let damc = "mode: damc\noutput: {layout: modelcompose, rank: 8}\n";
    check("rank_of_kept_factors", &space, &both(damc));
    let online = recipe(&["vision", "audio"], "mode: online\nbody: {method: ties}\n");
    check("online_has_no_method", &space, &online);
    check("no_method", &space, &both("").replace("method: task_arithmetic, ", ""));
    let named = both("").replace("{adapter: vision}", "{adapter: vision, name: defualt}");
    check("no_such_adapter", &space, &named);
    let two = both("").replace("{adapter: vision}", "{adapter: vision, full: vision}");
    check("two_bodies", &space, &two);
    check("kind", &space, &both("").replace("kind: modality", "kind: modalty"));
}
