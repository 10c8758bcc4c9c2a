//! Everything that can be wrong with what a user gives: the whole message, the exit status, nothing written.
//!
//! Each snapshot is what a person reads. Catches a message that blames the wrong place, an error that
//! hides another, a lie in a file that is believed, and output that is left behind by a refusal.

use std::os::unix::fs::PermissionsExt;

use mixdown_kit::raw::{raw_safetensors, raw_with_length, safetensors_bytes};
use mixdown_kit::{DType, Layout, Space, Tensor, checkpoint, read_checkpoint};
use mixdown_suite::{configuration, family, merge, refusal, skip, with_snapshots};

#[track_caller]
fn check(name: &str, space: &Space, recipe: &str, status: i32) {
    let talk = refusal(space, recipe, &[], status);
    with_snapshots(|| insta::assert_snapshot!(name, talk));
}

fn strict(rest: &str) -> String {
    format!("mixdown: 1\nmodels:\n  base: base\n  a: a\n  b: b\nbase: base\n{rest}")
}

#[test]
fn unknown_key() {
    let recipe = strict("method: linear\nparameters: {weight: 1}\nouput_dtype: float16\n");
    check("unknown_key", &family(), &recipe, 2);
}

#[test]
fn unknown_method() {
    check("unknown_method", &family(), &strict("method: tise\nparameters: {weight: 1}\n"), 2);
    let recipe = configuration("tise", Some("base"), &[("a", "weight: 1")], "");
    check("unknown_method_mergekit", &family(), &recipe, 2);
}

#[test]
fn unknown_parameter() {
    let recipe = strict("method: ties\nparameters:\n  weight: 1\n  densty: 0.5\n");
    check("unknown_parameter", &family(), &recipe, 2);
}

#[test]
fn unknown_model_name() {
    let recipe = strict(
        "method: linear\nparameters: {weight: 1}\nrules:\n  - {tensors: lm_head.weight, keep: bse}\n",
    );
    check("unknown_model_name", &family(), &recipe, 2);
}

#[test]
fn missing_base() {
    let recipe = configuration("ties", None, &[("a", "weight: 1"), ("b", "weight: 1")], "");
    check("missing_base", &family(), &recipe, 2);
}

#[test]
fn missing_weight() {
    let recipe = configuration("linear", None, &[("a", "weight: 1"), ("b", "")], "");
    check("missing_weight", &family(), &recipe, 2);
}

#[test]
fn density_20() {
    let recipe = "merge_method: ties\nbase_model: base\nmodels:\n  - model: a\n    parameters:\n      \
                  weight: 1\n      density: 20\n";
    check("density_20", &family(), recipe, 2);
}

#[test]
fn wrong_types() {
    let recipe = "merge_method: linear\nmodels:\n  - model: a\n    parameters:\n      weight: heavy\n  \
                  - model: [b]\n    parameters: {weight: {value: 1, filtre: x}}\n";
    check("wrong_types", &family(), recipe, 2);
}

#[test]
fn layer_range_past_the_end() {
    let recipe = "merge_method: passthrough\nslices:\n  - sources:\n      - model: a\n        \
                  layer_range: [1, 9]\n";
    check("layers_past_end", &family(), recipe, 2);
}

#[test]
fn rules_that_never_match() {
    let recipe = strict(
        "method: linear\nparameters: {weight: 1}\nrules:\n  - tensors: model.layers.*.mlp.**\n    \
         keep: a\n  - tensors: model.layers.0.mlp.up_proj.weight\n    keep: b\n  \
         - tensors: model.layer.*.self_attn.**\n    keep: b\n",
    );
    check("dead_rules", &family(), &recipe, 2);
}

#[test]
fn modules_and_roles_that_are_not_there() {
    let recipe = strict(
        "rules:\n  - {module: languge_model, role: [atention_q, mlp_up], keep: a}\n  - {module: \
         vision_encoder, drop: true}\n  - {keep: base}\n",
    );
    check("unknown_module", &family(), &recipe, 2);
}

#[test]
fn a_tensor_without_a_rule() {
    let recipe = strict("rules:\n  - {tensors: '**.mlp.**', keep: a}\n");
    check("unmatched_tensor", &family(), &recipe, 2);
}

#[test]
fn a_recipe_that_includes_itself() {
    let space = family();
    space.write(
        "other.yaml",
        "mixdown: 1\nmodels: {x: {recipe: recipe.yaml}}\nmethod: passthrough\n",
    );
    let recipe = "mixdown: 1\nmodels: {y: {recipe: other.yaml}}\nmethod: passthrough\n";
    check("recipe_cycle", &space, recipe, 2);
}

#[test]
fn a_recipe_that_is_not_there() {
    let recipe = "mixdown: 1\nmodels: {y: {recipe: none.yaml}}\nmethod: passthrough\n";
    check("missing_recipe_model", &family(), recipe, 2);
    let space = family();
    let outcome = mixdown_kit::mixdown(&space, ["merge", "none.yaml", "--out", "merged"]).exits(2);
    with_snapshots(|| insta::assert_snapshot!("missing_recipe", outcome.talk()));
}

#[test]
fn not_yaml() {
    check("not_yaml", &family(), "merge_method: [linear\nmodels:\n  - model: a\n", 2);
    check("not_yaml_tab", &family(), "merge_method: linear\nmodels:\n\t- model: a\n", 2);
    check("not_a_map", &family(), "- linear\n", 2);
    check("empty", &family(), "", 2);
}

#[test]
fn a_recipe_that_is_not_text() {
    let space = family();
    space.write("recipe.yaml", [0xff, 0xfe, 0x00, 0x80]);
    let outcome = mixdown_kit::mixdown(&space, ["merge", "recipe.yaml", "--out", "m"]).exits(2);
    with_snapshots(|| insta::assert_snapshot!("not_text", outcome.talk()));
}

#[test]
fn a_yaml_bomb() {
    let mut recipe = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let below = format!("*a{}", level - 1);
        recipe += &format!("a{level}: &a{level} [{}]\n", vec![below; 9].join(", "));
    }
    recipe += "merge_method: linear\nmodels: *a9\n";
    check("yaml_bomb", &family(), &recipe, 2);
    let deep = format!("merge_method: {}{}\n", "[".repeat(20_000), "]".repeat(20_000));
    check("yaml_deep", &family(), &deep, 2);
}

#[test]
fn all_mistakes_together() {
    let recipe = "mixdown: 1\nmodels:\n  base: base\n  a: a\n  gone: ./gone\nbase: base\nmethod: tise\n\
                  parameters: {density: 20}\nrules:\n  - tensors: '['\n    keep: a\n  \
                  - tensors: '**'\n    keep: z\ndtpye: float32\nout_dtype: float31\n";
    check("all_together", &family(), recipe, 2);
}

fn one_model() -> String {
    configuration("passthrough", None, &[("model", "")], "")
}

#[test]
fn model_folders_without_weights() {
    let space = Space::new();
    check("model_not_found", &space, &one_model(), 2);
    std::fs::create_dir(space.path("model")).unwrap();
    check("model_empty", &space, &one_model(), 1);
    space.write("model/config.json", "{}");
    space.write("model/tf_model.h5", "x");
    check("model_no_weights", &space, &one_model(), 1);
}

#[test]
fn a_missing_shard() {
    let space = Space::new();
    checkpoint("model").layout(Layout::Sharded(3)).write(&space);
    std::fs::remove_file(space.path("model/model-00002-of-00003.safetensors")).unwrap();
    check("missing_shard", &space, &one_model(), 1);
}

#[test]
fn an_index_that_lies() {
    let outside = Space::new();
    checkpoint("secret").write(&outside);
    for (name, shard) in [
        ("index_parent", "../secret/model.safetensors".to_owned()),
        ("index_absolute", outside.path("secret/model.safetensors").display().to_string()),
    ] {
        let space = Space::new();
        checkpoint("secret").write(&space);
        checkpoint("model").layout(Layout::Sharded(2)).write(&space);
        let index = serde_json::json!({"weight_map": {"model.norm.weight": shard}});
        space.write("model/model.safetensors.index.json", index.to_string());
        let talk = refusal(&space, &one_model(), &[], 1);
        let talk = talk.replace(&*outside.root().to_string_lossy(), "[OUTSIDE]");
        // The mark is as long as the path, which depends on the machine.
        let talk = talk.replace('^', "");
        with_snapshots(|| insta::assert_snapshot!(name, talk));
    }
    let space = Space::new();
    checkpoint("model").layout(Layout::Sharded(2)).write(&space);
    space.write("model/model.safetensors.index.json", "{\"weight_map\": [1, 2");
    check("index_not_json", &space, &one_model(), 1);
    let index = r#"{"weight_map": {"other.weight": "model-00001-of-00002.safetensors"}}"#;
    space.write("model/model.safetensors.index.json", index);
    check("index_disagrees", &space, &one_model(), 1);
}

#[test]
fn headers_that_lie() {
    let entry = |name: &str, begin: i64, end: i64| {
        format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{begin},{end}]}}"#)
    };
    let header = |entries: &[String]| format!("{{{}}}", entries.join(","));
    let file = |entries: &[String], data: &[u8]| raw_safetensors(header(entries), data);
    let not_text = b"{\"\xff\xfe\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("header_empty_file", Vec::new()),
        ("header_length_zero", raw_with_length(0, b"", b"")),
        ("header_too_large", raw_with_length(200_000_000, b"{}", b"")),
        ("header_length_overflows", raw_with_length(u64::MAX, b"{}", b"")),
        ("header_not_json", raw_safetensors("{\"a\": ", b"")),
        ("header_not_text", raw_safetensors(not_text, &[0; 8])),
        ("header_negative", file(&[entry("a", -8, 0)], &[0; 8])),
        ("header_backward", file(&[entry("a", 8, 0)], &[0; 8])),
        ("header_overlap", file(&[entry("a", 0, 8), entry("b", 4, 12)], &[0; 12])),
        ("header_hole", file(&[entry("a", 0, 8), entry("b", 12, 20)], &[0; 20])),
        ("header_beyond_file", file(&[entry("a", 0, 8), entry("b", 8, 16)], &[0; 12])),
        ("header_duplicate", file(&[entry("a", 0, 8), entry("a", 8, 16)], &[0; 16])),
        ("header_wrong_size", file(&[entry("a", 0, 12)], &[0; 12])),
        (
            "header_overflow",
            raw_safetensors(
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
                &[0; 8],
            ),
        ),
        (
            "header_unknown_type",
            raw_safetensors(r#"{"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]),
        ),
        ("header_control_characters", file(&[entry("a\\u001b[31m", 0, 12)], &[0; 12])),
    ];
    for (name, bytes) in lies {
        let space = Space::new();
        space.write("model/model.safetensors", bytes);
        check(name, &space, &one_model(), 1);
    }
}

#[test]
fn a_truncated_shard() {
    let space = Space::new();
    checkpoint("model").layout(Layout::Sharded(2)).write(&space);
    let shard = "model/model-00002-of-00002.safetensors";
    let bytes = space.read(shard);
    space.write(shard, &bytes[..bytes.len() - 100]);
    check("truncated_shard", &space, &one_model(), 1);
}

#[test]
fn the_same_tensor_in_two_files() {
    let space = Space::new();
    let tensor = Tensor::new("w", DType::F32, &[2], &[1.0, 2.0]);
    space.write("model/one.safetensors", safetensors_bytes(&[&tensor]));
    space.write("model/two.safetensors", safetensors_bytes(&[&tensor]));
    check("tensor_in_two_files", &space, &one_model(), 1);
}

fn two_models() -> String {
    configuration("linear", None, &[("a", "weight: 1"), ("b", "weight: 1")], "")
}

#[test]
fn models_that_do_not_fit() {
    let space = Space::new();
    checkpoint("a").write(&space);
    checkpoint("b").vocabulary(26).write(&space);
    check("shapes_differ", &space, &two_models(), 2);

    let space = Space::new();
    checkpoint("a").write(&space);
    checkpoint("b").dtype_where("mlp.up_proj", DType::I64).write(&space);
    check("types_differ", &space, &two_models(), 2);

    let space = Space::new();
    checkpoint("a").write(&space);
    checkpoint("b").without("layers.1.mlp.up_proj").write(&space);
    check("tensor_missing", &space, &two_models(), 2);

    let space = Space::new();
    let extra = Tensor::new("model.extra.weight", DType::Bf16, &[2], &[1.0, 2.0]);
    checkpoint("a").write(&space);
    checkpoint("b").with(extra).write(&space);
    check("tensor_of_one_model", &space, &two_models(), 2);
}

#[test]
fn weights_that_are_not_finite() {
    for (name, value) in [("nan", f64::NAN), ("infinity", f64::NEG_INFINITY)] {
        for threads in ["1", "3"] {
            let space = Space::new();
            let tensor = "model.layers.1.mlp.down_proj.weight";
            checkpoint("a").write(&space);
            checkpoint("b").set(tensor, 100, value).set(tensor, 200, value).write(&space);
            space.write("recipe.yaml", two_models());
            let outcome = merge(&space, &two_models(), &["--threads", threads]).exits(1);
            assert!(!space.exists("merged"));
            assert!(!space.exists(".merged.mixdown-partial"), "nothing that cannot be continued");
            with_snapshots(|| insta::assert_snapshot!(name, outcome.talk()));

            merge(&space, &two_models(), &["--allow-nonfinite"]).success();
            let merged = read_checkpoint(space.path("merged")).values(tensor);
            let expected = if value.is_nan() { f64::NAN } else { f64::NEG_INFINITY };
            assert_eq!(merged[100].to_bits(), (expected as f32 as f64).to_bits(), "{name}");
            assert!(
                merged.iter().enumerate().all(|(i, v)| v.is_finite() != [100, 200].contains(&i))
            );
        }
    }
}

#[test]
fn an_unreadable_file() {
    if rustix::process::geteuid().is_root() {
        skip("an unreadable file needs a user other than root");
        return;
    }
    let space = Space::new();
    checkpoint("model").write(&space);
    let shard = space.path("model/model.safetensors");
    std::fs::set_permissions(&shard, std::fs::Permissions::from_mode(0o000)).unwrap();
    check("unreadable", &space, &one_model(), 1);
}

#[test]
fn a_folder_where_a_file_should_be() {
    let space = Space::new();
    std::fs::create_dir_all(space.path("model/model.safetensors")).unwrap();
    check("folder_for_file", &space, &one_model(), 1);
}

#[test]
fn a_config_that_is_broken() {
    let space = Space::new();
    checkpoint("model").write(&space);
    space.write("model/config.json", "{\"num_hidden_layers\": ");
    check("config_broken", &space, &one_model(), 1);
}

#[test]
fn an_output_that_exists() {
    let space = family();
    space.write("merged/precious.txt", "do not touch");
    check("output_exists", &space, &two_models(), 1);
    assert_eq!(space.read_text("merged/precious.txt"), "do not touch");
}

#[test]
fn a_budget_below_one_block() {
    let talk = refusal(&family(), &two_models(), &["--memory", "1000", "--threads", "1"], 1);
    // The least budget depends on the machine's vectors.
    let talk: String = talk
        .split_inclusive(char::is_whitespace)
        .map(|word| match word.bytes().filter(u8::is_ascii_digit).count() {
            0..=3 => word.to_owned(),
            _ if word.starts_with("1000") || word.starts_with("error") => word.to_owned(),
            _ => format!("[SIZE]{}", &word[word.trim_end().len()..]),
        })
        .collect();
    with_snapshots(|| insta::assert_snapshot!("budget_too_small", talk));
}
