//! LoRA adapters, sound and broken, against the index of a base.

use mixdown_checkpoint::adapter::{OutputAdapter, OutputUpdate};
use mixdown_checkpoint::{Adapter, AdapterConfig, Index, open_adapter};
use mixdown_diagnostics::{Code, Diagnostic, Place, codes};
use mixdown_kit::{AdapterBuilder, DType, Space, Tensor, adapter};
use mixdown_tensor::Shape;
use serde_json::json;

const Q: &str = "model.layers.0.self_attn.q_proj";
const V: &str = "model.layers.1.self_attn.v_proj";

/// A base with these tensors in bf16.
fn index(tensors: &[(&str, &[u64])]) -> Index {
    let entry = |(name, shape): &(&str, &[u64])| {
        ((*name).to_owned(), DType::Bf16, Shape::new(shape.to_vec()).unwrap())
    };
    Index::of("base/model.safetensors", tensors.iter().map(entry)).unwrap()
}

fn base() -> Index {
    index(&[
        ("model.embed_tokens.weight", &[8, 6]),
        ("model.layers.0.self_attn.q_proj.weight", &[6, 6]),
        ("model.layers.0.self_attn.q_proj.bias", &[6]),
        ("model.layers.0.self_attn.v_proj.weight", &[4, 6]),
        ("model.layers.1.self_attn.q_proj.weight", &[6, 6]),
        ("model.layers.1.self_attn.v_proj.weight", &[4, 6]),
        ("model.norm.weight", &[6]),
        ("lm_head.weight", &[8, 6]),
    ])
}

fn sound() -> AdapterBuilder {
    adapter("a", 2).module(Q, 2, [6, 6]).module(V, 2, [4, 6])
}

fn resolve(adapter: &AdapterBuilder, base: &Index) -> Result<Adapter, Vec<Diagnostic>> {
    let space = Space::new();
    let files = open_adapter(&adapter.write(&space))?;
    Adapter::resolve(&files.index, files.config, base, None)
}

fn resolved(adapter: &AdapterBuilder, base: &Index) -> Adapter {
    resolve(adapter, base).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

/// The adapter is refused with just these faults, in this order.
#[track_caller]
fn refused(adapter: &AdapterBuilder, base: &Index, wanted: &[(Code, &str)]) -> Vec<Diagnostic> {
    let faults = resolve(adapter, base).expect_err("an adapter that does not fit");
    let found: Vec<(Code, &str)> =
        faults.iter().map(|fault| (fault.code, fault.headline.as_str())).collect();
    assert_eq!(found, wanted);
    faults
}

fn fact<'a>(fault: &'a Diagnostic, label: &str) -> &'a str {
    let found = fault.facts.iter().find(|(known, _)| known == label);
    found.map(|(_, text)| text.as_str()).unwrap_or_else(|| panic!("no `{label}` in {fault:?}"))
}

/// Name of the base's tensor, rank, scale, and whether transposed.
fn changes(adapter: &Adapter, base: &Index) -> Vec<(String, u64, f64, bool)> {
    let name = |at: u32| base.tensors()[at as usize].name.clone();
    let updates = adapter.updates.iter();
    updates.map(|u| (name(u.base_tensor), u.rank, u.scale, u.transposed)).collect()
}

#[test]
fn a_plain_adapter() {
    let base = base();
    let space = Space::new();
    let files = open_adapter(&sound().write(&space)).unwrap();
    assert_eq!((files.config.rank, files.config.alpha), (2, 4.0));
    assert_eq!(files.config.base_model.as_deref(), Some("base"));
    let found = Adapter::resolve(&files.index, files.config, &base, None).unwrap();
    assert_eq!(
        changes(&found, &base),
        [(format!("{Q}.weight"), 2, 2.0, false), (format!("{V}.weight"), 2, 2.0, false)]
    );
    let name = |at: u32| files.index.tensors()[at as usize].name.as_str();
    assert_eq!(name(found.updates[0].left), format!("base_model.model.{Q}.lora_B.weight"));
    assert_eq!(name(found.updates[0].right), format!("base_model.model.{Q}.lora_A.weight"));
    assert!(found.replacements.is_empty() && found.warnings.is_empty());
}

/// Families with one embedding under several names tie them when they are loaded, whatever was trained apart.
#[test]
fn a_trained_tensor_of_several_names_is_told() {
    let base = index(&[("model.shared.weight", &[8, 6]), (&format!("{Q}.weight"), &[6, 6])]);
    let whole =
        Tensor::new("base_model.model.model.shared.weight", DType::F32, &[8, 6], &[1.0; 48]);
    let adapter = adapter("a", 2).module(Q, 2, [6, 6]).with(whole);
    let space = Space::new();
    let files = open_adapter(&adapter.write(&space)).unwrap();
    let config = json!({"tie_word_embeddings": true});
    let found = Adapter::resolve(&files.index, files.config, &base, Some(&config)).unwrap();
    let told: Vec<&str> = found.warnings.iter().map(|one| one.code.id).collect();
    assert_eq!(told, [codes::UPDATE_OF_TIED.id], "{:?}", found.warnings);
    assert!(found.warnings[0].headline.contains("`model.encoder.embed_tokens.weight` too"));
}

/// peft adds the update of the output layer of torch's attention twice, in training too.
#[test]
fn the_output_layer_of_attention_is_updated_twice() {
    let base = index(&[
        ("head.attention.in_proj_weight", &[18, 6]),
        ("head.attention.out_proj.weight", &[6, 6]),
        ("body.out_proj.weight", &[6, 6]),
    ]);
    let adapter = adapter("a", 2)
        .module("head.attention", 2, [18, 6])
        .module("head.attention.base_layer.out_proj", 2, [6, 6])
        .module("body.out_proj", 2, [6, 6]);
    let mut found: Vec<(String, f64)> = changes(&resolved(&adapter, &base), &base)
        .into_iter()
        .map(|(name, _, scale, _)| (name, scale))
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [
        ("body.out_proj.weight", 2.0),
        ("head.attention.in_proj_weight", 2.0),
        ("head.attention.out_proj.weight", 4.0),
    ];
    assert_eq!(found, expected.map(|(name, scale)| (name.to_owned(), scale)));
}

/// Adapters made before and after transformers 4.52, on files of every age.
#[test]
fn old_and_new_paths_mean_the_same() {
    let bodies = ["model.", "model.language_model.", "language_model.model."];
    for stored in bodies {
        let q = format!("{stored}layers.0.self_attn.q_proj.weight");
        let base = index(&[(&q, &[6, 6]), ("visual.blocks.0.attn.qkv.weight", &[18, 6])]);
        let mut all = Vec::new();
        for body in bodies {
            for visual in ["visual", "model.visual"] {
                let adapter = adapter("a", 2)
                    .module(&format!("{body}layers.0.self_attn.q_proj"), 2, [6, 6])
                    .module(&format!("{visual}.blocks.0.attn.qkv"), 2, [18, 6]);
                all.push(changes(&resolved(&adapter, &base), &base));
            }
        }
        assert_eq!(all[0].len(), 2);
        assert!(all.iter().all(|found| *found == all[0]), "{stored}: {all:?}");
    }
}

#[test]
fn a_name_of_the_adapter_is_dropped_and_two_are_refused() {
    let named = |name: &str| {
        let tensors = sound().tensors().to_vec();
        tensors
            .into_iter()
            .map(move |tensor| {
                let other = tensor.name.replace(".weight", &format!(".{name}.weight"));
                tensor.named(&other)
            })
            .collect::<Vec<Tensor>>()
    };
    let with = |tensors: Vec<Tensor>, adapter: AdapterBuilder| {
        tensors.into_iter().fold(adapter, AdapterBuilder::with)
    };
    let base = base();
    let one = with(named("default"), adapter("a", 2));
    assert_eq!(changes(&resolved(&one, &base), &base), changes(&resolved(&sound(), &base), &base));
    let two = with(named("vision"), one);
    let faults = refused(&two, &base, &[(codes::ADAPTER_KIND, "the file holds several adapters")]);
    assert_eq!(fact(&faults[0], "adapters"), "`default`, `vision`");
}

#[test]
fn scales() {
    let base = base();
    let scale = |adapter: AdapterBuilder| -> Vec<f64> {
        resolved(&adapter, &base).updates.iter().map(|update| update.scale).collect()
    };
    // α / r = 4 / 2; α / √r = 4 / 1.41421356….
    assert_eq!(scale(sound()), [2.0, 2.0]);
    assert_eq!(scale(sound().config("use_rslora", json!(true))), [4.0 / 2.0_f64.sqrt(); 2]);
    // v_proj has rank 1 and α 3; the first pattern that matches counts.
    let patterned = adapter("a", 2)
        .module(Q, 2, [6, 6])
        .module(V, 1, [4, 6])
        .config("rank_pattern", json!({"layers.1.self_attn.v_proj": 1, "v_proj": 7}))
        .config("alpha_pattern", json!({"v_proj": 3, "layers.1.self_attn.v_proj": 5}));
    assert_eq!(scale(patterned.clone()), [2.0, 3.0]);
    assert_eq!(scale(patterned.config("alpha_pattern", json!({}))), [2.0, 4.0]);
    assert_eq!(scale(sound().config("lora_alpha", json!(-0.5))), [-0.25, -0.25]);
}

#[test]
fn a_pattern_for_nothing_is_a_warning() {
    let adapter = sound().config("alpha_pattern", json!({"language_model.layers.0.q_proj": 1}));
    let warnings = resolved(&adapter, &base()).warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].code, codes::DEAD_PATTERN);
    assert_eq!(fact(&warnings[0], "modules"), "`language_model.layers.0.q_proj`");
}

/// To peft a key is a regular expression for the end of a name.
#[test]
fn keys_of_patterns_are_regular_expressions() {
    let adapter = sound()
        .config("alpha_pattern", json!({r".*\.layers\.(0|7)\..*": 8}))
        .config("rank_pattern", json!({r"layers\.\d+\.self_attn\.[qv]_proj": 2}));
    let base = base();
    let found = resolved(&adapter, &base);
    // α / r is 8 / 2 in layer 0, and 4 / 2 elsewhere.
    let expected = [(format!("{Q}.weight"), 2, 4.0, false), (format!("{V}.weight"), 2, 2.0, false)];
    assert_eq!(changes(&found, &base), expected);
    let headline = "`(?!q)k` in `rank_pattern` is no regular expression that can be followed";
    let adapter = sound().config("rank_pattern", json!({"(?!q)k": 2}));
    refused(&adapter, &base, &[(codes::ADAPTER_KIND, headline)]);
}

#[test]
fn modules_saved_whole_and_biases_replace_the_bases() {
    let base = base();
    let tensor = |name: &str, shape: &[u64]| {
        let count = shape.iter().product::<u64>() as usize;
        Tensor::new(&format!("base_model.model.{name}"), DType::F32, shape, &vec![0.5; count])
    };
    let adapter = sound()
        .config("modules_to_save", json!(["lm_head", "score"]))
        .config("bias", json!("lora_only"))
        .with(tensor("lm_head.weight", &[8, 6]))
        .with(tensor("model.norm.modules_to_save.default.weight", &[6]))
        .with(tensor(&format!("{Q}.base_layer.bias"), &[6]));
    let found = resolved(&adapter, &base);
    let names: Vec<&str> = found
        .replacements
        .iter()
        .map(|whole| base.tensors()[whole.base_tensor as usize].name.as_str())
        .collect();
    assert_eq!(names, [&format!("{Q}.bias"), "model.norm.weight", "lm_head.weight"]);
    assert_eq!(found.updates.len(), 2);

    let headline = "the adapter lacks `lm_head`, which it says it saved";
    let lacking = adapter.clone().without("lm_head");
    let faults = refused(&lacking, &base, &[(codes::ADAPTER_BROKEN, headline)]);
    assert_eq!(fact(&faults[0], "missing"), "`lm_head.weight`");

    let headline = "`model.norm.weight` has another shape in the adapter than in the base";
    let other = adapter.clone().without("model.norm").with(tensor("model.norm.weight", &[5]));
    let faults = refused(&other, &base, &[(codes::ADAPTER_SHAPE, headline)]);
    assert_eq!(fact(&faults[0], "adapter"), "[5] f32");
    assert!(fact(&faults[0], "base").starts_with("[6] bf16"));
    // Rows of a vocabulary may be others, in the embedding and in the output layer.
    let headline =
        "the vocabulary was resized in training, and the adapter holds only a part of it";
    let resized = adapter.without("lm_head").with(tensor("lm_head.weight", &[9, 6]));
    let faults = refused(&resized, &base, &[(codes::ADAPTER_SHAPE, headline)]);
    assert_eq!(fact(&faults[0], "lm_head.weight"), "9 rows");
    let both = resized.with(tensor("model.embed_tokens.weight", &[9, 6]));
    assert_eq!(resolved(&both, &base).replacements.len(), 4);
}

/// peft stores the factors of an embedding transposed, and the embedding itself beside them.
#[test]
fn embeddings() {
    let name = |part: &str| format!("base_model.model.model.embed_tokens.{part}");
    let factor = |part: &str, shape: &[u64; 2]| {
        Tensor::new(&name(part), DType::F32, shape, &vec![0.5; (shape[0] * shape[1]) as usize])
    };
    let adapter = adapter("a", 2)
        .with(factor("lora_embedding_A", &[2, 8]))
        .with(factor("lora_embedding_B", &[6, 2]))
        .with(factor("base_layer.weight", &[8, 6]));
    let base = base();
    let found = resolved(&adapter, &base);
    assert_eq!(changes(&found, &base), [("model.embed_tokens.weight".to_owned(), 2, 2.0, true)]);
    assert_eq!(found.replacements.len(), 1);
    assert_eq!(found.replacements[0].base_tensor, found.updates[0].base_tensor);
}

#[test]
fn weights_stored_the_other_way() {
    let base = index(&[("h.0.attn.c_attn.weight", &[6, 18]), ("h.0.attn.c_proj.weight", &[6, 6])]);
    let adapter = adapter("a", 2).module("transformer.h.0.attn.c_attn", 2, [18, 6]).module(
        "transformer.h.0.attn.c_proj",
        2,
        [6, 6],
    );
    let found = resolved(&adapter.clone().config("fan_in_fan_out", json!(true)), &base);
    assert!(found.updates.len() == 2 && found.updates.iter().all(|update| update.transposed));

    // peft goes by the layer: it turns GPT-2's, whatever the configuration says.
    let found = resolved(&adapter, &base);
    assert!(found.updates.len() == 2 && found.updates.iter().all(|update| update.transposed));

    let base = index(&[("layers.0.proj.weight", &[6, 18])]);
    let adapter = mixdown_kit::adapter("a", 2).module("layers.0.proj", 2, [18, 6]);
    let headline = "the update of `layers.0.proj` does not have the shape of the base's tensor";
    let faults = refused(&adapter, &base, &[(codes::ADAPTER_SHAPE, headline)]);
    assert_eq!(fact(&faults[0], "update"), "[18, 6]");
    assert!(fact(&faults[0], "base").starts_with("[6, 18] bf16"));
    let help = "the base stores it as [in, out]; set `fan_in_fan_out` to true";
    assert_eq!(faults[0].help.as_deref(), Some(help));
}

#[test]
fn kinds_that_are_not_read_are_named() {
    let check = |key: &str, value: serde_json::Value, headline: &str| {
        let faults =
            refused(&sound().config(key, value), &base(), &[(codes::ADAPTER_KIND, headline)]);
        assert!(matches!(faults[0].place, Some(Place::Text(..))) && !faults[0].notes.is_empty());
    };
    for key in ["use_qalora", "use_bdlora", "use_something_new"] {
        let headline = format!("the adapter was made with `{key}`, which is not supported");
        check(key, json!(true), &headline);
    }
    let made = |key: &str| format!("the adapter was made with `{key}`, which is not supported");
    check("alora_invocation_tokens", json!([1, 2]), &made("alora_invocation_tokens"));
    check("layer_replication", json!([[0, 2]]), &made("layer_replication"));
    check("peft_type", json!("XLORA"), "the adapter is of kind `XLORA`, which is not supported");
    check("peft_type", json!("NEW"), "the adapter is of kind `NEW`, which is not supported");
    let started = "the adapter was started with `pissa_niter_4`, which changes the base's weights";
    check("init_lora_weights", json!("pissa_niter_4"), started);
}

/// Each as peft would store it, but for one thing.
#[test]
fn parts_of_other_kinds_that_do_not_go_together() {
    let tensor = |name: &str, shape: &[u64]| {
        let count = shape.iter().product::<u64>() as usize;
        Tensor::new(&format!("base_model.model.{Q}.{name}"), DType::F32, shape, &vec![0.5; count])
    };
    let check = |kind: &str, tensors: Vec<Tensor>, code: Code, headline: &str| {
        let adapter = tensors
            .into_iter()
            .fold(adapter("a", 2).config("peft_type", json!(kind)), AdapterBuilder::with);
        refused(&adapter, &base(), &[(code, &headline.replace("{}", Q))]);
    };
    let shape = "the change of `{}` does not have the shape that the base's tensor needs";
    let lacks = "the change of `{}` lacks one of its tensors";
    let wrong = codes::ADAPTER_SHAPE;
    let loha = |rows: u64| {
        let pair = |at: u64| [format!("hada_w{at}_a"), format!("hada_w{at}_b")];
        let all: Vec<String> = (1..=2).flat_map(pair).collect();
        let shapes = [[rows, 2], [2, 6], [6, 2], [2, 6]];
        all.iter().zip(shapes).map(|(name, shape)| tensor(name, &shape)).collect::<Vec<_>>()
    };
    check("LOHA", loha(5), wrong, shape);
    check("LOHA", loha(6)[..3].to_vec(), wrong, lacks);
    check("OFT", vec![tensor("oft_R.weight", &[2, 4])], wrong, shape);
    check("OFT", vec![tensor("oft_R.weight", &[4, 3])], wrong, shape);
    check("BOFT", vec![tensor("boft_R", &[1, 2, 3, 3])], wrong, lacks);
    check("IA3", vec![tensor("ia3_l", &[5, 1])], wrong, shape);
    check("HRA", vec![tensor("hra_u", &[5, 2])], wrong, shape);
    check("C3A", vec![tensor("c3a_kernel", &[2, 3, 3])], wrong, shape);
    check("MISS", vec![tensor("miss_block", &[2, 5])], wrong, shape);
    check("SHIRA", vec![tensor("shira_weight", &[4])], wrong, lacks);
    check("FOURIERFT", vec![tensor("fourierft_spectrum", &[37])], wrong, shape);
    let kron = "the factors of `{}` do not make the base's tensor together";
    let lokr = vec![tensor("lokr_w1", &[2, 2]), tensor("lokr_w2", &[3, 4])];
    check("LOKR", lokr, wrong, kron);
    let vera = vec![tensor("vera_lambda_b", &[6]), tensor("vera_lambda_d", &[2])];
    let saved = "`{}` needs projections that the adapter was saved without (`save_projection: true` saves them)";
    check("VERA", vera, codes::ADAPTER_KIND, saved);
    let lora = |name: &str, shape: &[u64]| sound().with(tensor(name, shape));
    let headline = format!("the magnitudes of `{Q}` do not go with the base's tensor");
    refused(&lora("lora_magnitude_vector", &[5]), &base(), &[(wrong, &headline)]);
    let headline = format!(
        "the update of `{V}` has a bias, and the base has none there that it could be added to"
    );
    let bias =
        Tensor::new(&format!("base_model.model.{V}.lora_B.bias"), DType::F32, &[4], &[0.5; 4]);
    refused(&sound().with(bias), &base(), &[(codes::ADAPTER_KIND, &headline)]);
    let lacking = sound().config("use_dora", json!(true));
    let faults = resolve(&lacking, &base()).expect_err("magnitudes are missing");
    assert!(faults.iter().all(|fault| fault.code == wrong) && !faults.is_empty());
}

#[test]
fn ranks_and_scales_that_are_none() {
    let zero = "`r` must be a whole number from 1 on, found 0";
    refused(&sound().config("r", json!(0)), &base(), &[(codes::ADAPTER_CONFIG, zero)]);
    let faults = refused(
        &sound().config("r", json!("2")).without_config("lora_alpha"),
        &base(),
        &[
            (codes::ADAPTER_CONFIG, "`r` must be a number, found \"2\""),
            (codes::ADAPTER_CONFIG, "an adapter's configuration has no `lora_alpha`"),
        ],
    );
    assert_eq!(faults[0].help.as_deref(), Some("write 2 without quotes"));
    let zero = "`lora_alpha` must be finite and not 0, found 0.0";
    refused(&sound().config("lora_alpha", json!(0.0)), &base(), &[(codes::ADAPTER_CONFIG, zero)]);
    // Too small a number for its scale to be one.
    let tiny = "the scale of `model.layers.*.self_attn.q_proj` is not a usable number";
    let adapter = adapter("a", 2)
        .module(Q, 2, [6, 6])
        .module("model.layers.1.self_attn.q_proj", 2, [6, 6])
        .config("lora_alpha", json!(5e-324));
    let faults = refused(&adapter, &base(), &[(codes::ADAPTER_CONFIG, tiny)]);
    assert_eq!(faults[0].notes, ["so it is 2 times"]);
}

#[test]
fn a_configuration_that_is_not_json() {
    let space = Space::new();
    let path = sound().write(&space);
    let check = |text: &str, headline: &str| {
        space.write("a/adapter_config.json", text);
        let faults = open_adapter(&path).unwrap_err();
        assert_eq!((faults[0].code, &*faults[0].headline), (codes::ADAPTER_CONFIG, headline));
        assert_eq!(faults.len(), 1);
    };
    check("{\"r\": 2,", "a file is not JSON");
    check("{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": NaN}", "a file is not JSON");
    check("[]", "a JSON file does not have the form it should");
    check("{}", "an adapter's configuration has no `peft_type`");
    check("{\"peft_type\": \"LORA\", \"r\": 2, \"r\": 4, \"lora_alpha\": 2}", "`r` is given twice");
}

#[test]
fn files_that_are_not_there() {
    let space = Space::new();
    let path = sound().write(&space);
    let headlines = |path: &std::path::Path| -> Vec<(Code, String)> {
        let faults = open_adapter(path).unwrap_err();
        faults.into_iter().map(|fault| (fault.code, fault.headline)).collect()
    };
    let found = headlines(&space.path("none"));
    assert_eq!(found[0].0, codes::MODEL_NOT_FOUND);
    std::fs::remove_file(path.join("adapter_model.safetensors")).unwrap();
    let headline = format!("the adapter `{}` has no weights", path.display());
    assert_eq!(headlines(&path), [(codes::ADAPTER_BROKEN, headline)]);
    space.write("a/adapter_model.bin", b"\x80\x02 a pickle of protocol 2, as torch writes it");
    assert_eq!(headlines(&path).len(), 1);
    space.write("m/config.json", "{}");
    space.write("m/model.safetensors", "");
    let faults = open_adapter(&space.path("m")).unwrap_err();
    assert_eq!((faults.len(), faults[0].code), (1, codes::ADAPTER_CONFIG));
    assert_eq!(faults[0].notes, ["the folder holds a whole model"]);
}

#[test]
fn an_adapter_of_another_model() {
    let other = adapter("a", 2).module("bert.encoder.layer.0.query", 2, [6, 6]).module(
        "bert.encoder.layer.1.query",
        2,
        [6, 6],
    );
    let headline = "the adapter fits nothing in the base";
    let faults = refused(&other, &base(), &[(codes::ADAPTER_UNMATCHED, headline)]);
    assert_eq!(fact(&faults[0], "not there"), "`bert.encoder.layer.*.query.weight`, 2 times");
    assert_eq!(fact(&faults[0], "trained on"), "`base`");
    let empty = "the adapter changes no tensor";
    refused(&adapter("a", 2), &base(), &[(codes::ADAPTER_BROKEN, empty)]);
}

#[test]
fn a_part_that_the_base_lacks() {
    let adapter = sound().module("model.layers.0.self_attn.k_proj", 2, [4, 6]).module(
        "model.layers.2.self_attn.q_proj",
        2,
        [6, 6],
    );
    let headline = "2 of 4 tensors that the adapter changes are not in the base";
    let faults = refused(&adapter, &base(), &[(codes::ADAPTER_UNMATCHED, headline)]);
    let listed: Vec<&str> = faults[0]
        .facts
        .iter()
        .filter(|(label, _)| label == "not there")
        .map(|(_, text)| text.as_str())
        .collect();
    assert_eq!(
        listed,
        ["`model.layers.0.self_attn.k_proj.weight`", "`model.layers.2.self_attn.q_proj.weight`"]
    );
    assert!(
        faults[0].help.as_deref().unwrap().starts_with("did you mean `model.layers.0.self_attn.")
    );
}

#[test]
fn names_that_mean_several_tensors_or_one_twice() {
    let base = index(&[
        ("model.layers.0.q.weight", &[6, 6]),
        ("language_model.model.layers.0.q.weight", &[6, 6]),
    ]);
    let unclear = adapter("a", 2).module("layers.0.q", 2, [6, 6]);
    let headline = "`layers.0.q.weight` may be any of several tensors of the base";
    refused(&unclear, &base, &[(codes::ADAPTER_UNMATCHED, headline)]);
    // What has the very name is meant.
    let clear = adapter("a", 2).module("model.layers.0.q", 2, [6, 6]);
    assert_eq!(changes(&resolved(&clear, &base), &base)[0].0, "model.layers.0.q.weight");

    let base = index(&[("model.layers.0.q.weight", &[6, 6])]);
    let twice = clear.module("model.language_model.layers.0.q", 2, [6, 6]);
    let headline = "two parts of the adapter change `model.layers.0.q.weight`";
    refused(&twice, &base, &[(codes::ADAPTER_UNMATCHED, headline)]);
}

#[test]
fn everything_wrong_is_told_at_once() {
    let tensor = |name: &str, shape: &[u64]| {
        let count = shape.iter().product::<u64>() as usize;
        Tensor::new(&format!("base_model.model.{name}"), DType::F32, shape, &vec![0.5; count])
    };
    let adapter = adapter("a", 2)
        .with(tensor("model.layers.0.self_attn.q_proj.lora_A.weight", &[2, 6]))
        .module("model.layers.0.self_attn.v_proj", 2, [5, 6])
        .module("model.layers.1.self_attn.q_proj", 3, [6, 6])
        .with(tensor("model.layers.1.self_attn.v_proj.lora_A.weight", &[2, 6]))
        .with(tensor("model.layers.1.self_attn.v_proj.lora_B.weight", &[4, 3]))
        .with(tensor("model.conv.lora_A.weight", &[2, 1, 5, 5]))
        .with(tensor("model.conv.lora_B.weight", &[4, 2, 1, 1]))
        .module("model.embed", 2, [8, 6]);
    let mut tensors: Vec<(String, DType, Shape)> =
        base().tensors().iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone())).collect();
    tensors.push(("model.conv.weight".into(), DType::F32, Shape::new(vec![4, 1, 3, 3]).unwrap()));
    let base = Index::of("base", tensors).unwrap();
    let faults = refused(
        &adapter,
        &base,
        &[
            (
                codes::ADAPTER_SHAPE,
                "the factors of `model.conv` do not have the kernel of the base's tensor",
            ),
            (
                codes::ADAPTER_BROKEN,
                "the update of `model.layers.0.self_attn.q_proj` has only one of its two factors",
            ),
            (
                codes::ADAPTER_SHAPE,
                "the update of `model.layers.0.self_attn.v_proj` does not have the shape of the base's tensor",
            ),
            (
                codes::ADAPTER_BROKEN,
                "`model.layers.1.self_attn.q_proj` has another rank than the adapter's configuration says",
            ),
            (
                codes::ADAPTER_SHAPE,
                "the two factors of `model.layers.1.self_attn.v_proj` do not have one rank",
            ),
            (
                codes::ADAPTER_UNMATCHED,
                "1 of 6 tensors that the adapter changes are not in the base",
            ),
        ],
    );
    assert_eq!((fact(&faults[1], "there"), fact(&faults[1], "missing")), ("`lora_A`", "`lora_B`"));
    assert_eq!(
        (fact(&faults[2], "lora_A"), fact(&faults[2], "lora_B")),
        ("[2, 6] f32", "[5, 2] f32")
    );
    assert_eq!(
        (fact(&faults[3], "configuration"), fact(&faults[3], "lora_A")),
        ("2", "[3, 6] f32")
    );
    assert_eq!(
        (fact(&faults[4], "lora_A"), fact(&faults[4], "lora_B")),
        ("[2, 6] f32", "[4, 3] f32")
    );
}

#[test]
fn a_quantized_base_is_refused() {
    let shape = Shape::new(vec![6, 6]).unwrap();
    let base = Index::of("base", [(format!("{Q}.weight"), DType::I8, shape)]).unwrap();
    let headline = format!("the update of `{Q}` cannot be added in these element types");
    let adapter = adapter("a", 2).module(Q, 2, [6, 6]);
    refused(&adapter, &base, &[(codes::DTYPE_MISMATCH, &headline)]);
}

/// What is written is read back as what was meant, under names that transformers has in memory.
#[test]
fn an_output_adapter_means_what_it_should() {
    let check = |base: &Index, first: &str| {
        let position = |name: &str| base.position(name).unwrap() as u32;
        let matrices: Vec<u32> = (0..base.len() as u32)
            .filter(|&at| OutputAdapter::can_update(base, at))
            .filter(|&at| base.tensors()[at as usize].name.contains("layers."))
            .collect();
        let update = |(number, &base_tensor): (usize, &u32)| OutputUpdate {
            base_tensor,
            rank: if number == 1 { 3 } else { 2 },
            is_embedding: false,
        };
        let updates: Vec<OutputUpdate> = matrices.iter().enumerate().map(update).collect();
        let head = base.tensors().iter().find(|t| t.name.ends_with("lm_head.weight")).unwrap();
        let wholes = [position(&head.name)];
        let mut output = OutputAdapter::new(base, &updates, &wholes);
        output.base_model = Some("org/base");
        assert!(output.missing_replacements().is_empty());
        let mut tensors = Vec::new();
        for update in &updates {
            let shape = base.tensors()[update.base_tensor as usize].shape.dimensions().to_vec();
            let (left, right) = output.factor_names(update).unwrap();
            tensors.push((left, DType::F32, Shape::new(vec![shape[0], update.rank]).unwrap()));
            tensors.push((right, DType::F32, Shape::new(vec![update.rank, shape[1]]).unwrap()));
        }
        tensors.push((output.replacement_name(wholes[0]), DType::F32, head.shape.clone()));
        assert_eq!(tensors[0].0, first);
        let index = Index::of("out", tensors).unwrap();
        let config =
            AdapterConfig::parse("out/adapter_config.json", &output.config_text()).unwrap();
        assert_eq!(config.base_model.as_deref(), Some("org/base"));
        let found = Adapter::resolve(&index, config, base, None).unwrap();
        assert!(found.warnings.is_empty());
        let found_updates: Vec<_> =
            found.updates.iter().map(|u| (u.base_tensor, u.rank, u.scale)).collect();
        let wanted: Vec<_> = updates.iter().map(|u| (u.base_tensor, u.rank, 1.0)).collect();
        assert_eq!(found_updates, wanted);
        assert_eq!(found.replacements[0].base_tensor, wholes[0]);
        found.config
    };
    let config = check(&base(), "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
    assert_eq!(config.target_modules, ["q_proj", "v_proj"]);
    assert_eq!(config.modules_to_save, ["lm_head"]);
    let qwen = index(&[
        ("model.layers.0.mlp.gate_proj.weight", &[4, 6]),
        ("visual.blocks.0.mlp.gate_proj.weight", &[4, 6]),
        ("lm_head.weight", &[8, 6]),
    ]);
    let first = "base_model.model.model.language_model.layers.0.mlp.gate_proj.lora_B.weight";
    // The end of the name would mean the image encoder's too.
    let config = check(&qwen, first);
    assert_eq!(config.target_modules, ["model.language_model.layers.0.mlp.gate_proj"]);
    let llava = index(&[
        ("language_model.model.layers.0.mlp.up_proj.weight", &[4, 6]),
        ("multi_modal_projector.linear_1.weight", &[4, 6]),
        ("language_model.lm_head.weight", &[8, 6]),
    ]);
    check(&llava, "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_B.weight");
}

#[test]
fn modules_are_stored_whole_or_not_at_all() {
    let base = base();
    let q = [base.position(&format!("{Q}.bias")).unwrap() as u32];
    let output = OutputAdapter::new(&base, &[], &q);
    assert_eq!(
        output.missing_replacements(),
        [base.position(&format!("{Q}.weight")).unwrap() as u32]
    );
    assert!(!OutputAdapter::can_update(&base, q[0]));
}
