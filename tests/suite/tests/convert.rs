//! `mixdown convert`: bytes of quantized weights beside those that the defining libraries make.
//!
//! `tests/formats/written` has two small models and, for each form, the digests of what the library itself
//! makes of them. Catches a scale that is rounded once too often or too rarely, a nibble in the wrong place, a
//! tie that goes the wrong way, and bytes that depend on threads, memory or where a shard ends.

use std::collections::BTreeMap;

use mixdown_kit::gguf::read_gguf;
use mixdown_kit::raw::safetensors_bytes;
use mixdown_kit::read::read_safetensors;
use mixdown_kit::{DType, Space, Tensor, checkpoint, mixdown, read_checkpoint};
use mixdown_suite::{repository, with_snapshots};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A space with the models of `tests/formats/written`.
fn models() -> Space {
    let space = Space::new();
    for model in ["bf16", "f32"] {
        for file in ["model.safetensors", "config.json"] {
            let path = repository().join("tests/formats/written").join(model).join(file);
            space.write(format!("{model}/{file}"), std::fs::read(path).unwrap());
        }
    }
    space
}

fn expected() -> Value {
    let text = std::fs::read(repository().join("tests/formats/written/expected.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// As the fixtures describe a tensor.
fn described(tensor: &Tensor) -> String {
    let digest = Sha256::digest(&tensor.data);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {:?} {digest}", tensor.dtype.safetensors_name(), tensor.shape)
}

fn convert(space: &Space, model: &str, typed: &str, more: &[&str]) -> BTreeMap<String, Tensor> {
    let words = typed.split(' ').chain(more.iter().copied());
    let arguments = ["convert", model, "--out", "out", "--force"].into_iter().chain(words);
    mixdown(space, arguments).success();
    read_checkpoint(space.path("out")).tensors
}

#[test]
fn bytes_are_those_of_the_libraries() {
    let space = models();
    let mut faults = Vec::new();
    let all = expected();
    let forms = all.as_object().unwrap();
    assert_eq!(forms.len(), 4);
    for (model, forms) in forms.iter().filter(|(model, _)| !model.contains(' ')) {
        let source = read_safetensors(space.path(format!("{model}/model.safetensors")));
        for (typed, wanted) in forms.as_object().unwrap() {
            let mut found = convert(&space, model, typed, &[]);
            for (name, digest) in wanted.as_object().unwrap() {
                match found.remove(name) {
                    Some(tensor) if described(&tensor) == digest.as_str().unwrap() => {}
                    Some(tensor) => {
                        faults.push(format!("{model} {typed}: {name} is {}", described(&tensor)))
                    }
                    None => faults.push(format!("{model} {typed}: {name} is missing")),
                }
            }
            // What is left is what is not quantized, as it was.
            for (name, tensor) in found {
                let is_kept = source.get(&name).is_some_and(|own| own.data == tensor.data);
                if !is_kept || name.contains("_proj") {
                    faults.push(format!("{model} {typed}: {name} is not what it was"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Names, layouts and bytes of GGUF files: rows of q and k woven, norms in f32, blocks as gguf-py makes them.
#[test]
fn gguf_files_are_those_of_the_libraries() {
    const KINDS: [(u32, &str); 9] = [
        (0, "F32"),
        (1, "F16"),
        (2, "Q4_0"),
        (3, "Q4_1"),
        (6, "Q5_0"),
        (7, "Q5_1"),
        (8, "Q8_0"),
        (30, "BF16"),
        (39, "MXFP4"),
    ];
    let space = models();
    let mut faults = Vec::new();
    for model in ["bf16", "f32"] {
        let all = expected();
        for (kind, wanted) in all[format!("{model} as gguf")].as_object().unwrap() {
            let arguments =
                ["convert", model, "--to", kind, "--as", "gguf", "--out", "out", "--force"];
            mixdown(&space, arguments).success();
            let file = read_gguf(space.path("out/model.gguf"));
            assert_eq!(file.tensors.len(), 12);
            for (name, digest) in wanted.as_object().unwrap() {
                let tensor = &file.tensors[name];
                let found = Sha256::digest(&tensor.data);
                let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
                let known = KINDS.iter().find(|(number, _)| *number == tensor.kind).unwrap().1;
                let found = format!("{known} {:?} {found}", tensor.sizes);
                if found != digest.as_str().unwrap() {
                    faults.push(format!("{model} {kind}: {name} is {found}"));
                }
            }
            mixdown(&space, ["verify", "out"]).success();
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A GGUF file is read again under the family's own names, and K-quants lose no more than they should.
#[test]
fn gguf_files_come_back() {
    let space = models();
    checkpoint("wide").hidden(256).intermediate(512).write(&space);
    let source = read_checkpoint(space.path("wide"));
    for (kind, most) in
        [("f32", 1e-9), ("q8_0", 0.006), ("q6_k", 0.02), ("q5_k_m", 0.04), ("q4_k_m", 0.08)]
    {
        let arguments =
            ["convert", "wide", "--to", kind, "--as", "gguf", "--out", "out", "--force"];
        mixdown(&space, arguments).success();
        let file = read_gguf(space.path("out/model.gguf"));
        assert_eq!(file.values["general.architecture"], "llama");
        assert_eq!(file.values["llama.embedding_length"], "256");
        mixdown(&space, ["convert", "out", "--to", "f32", "--out", "back", "--force"]).success();
        let back = read_checkpoint(space.path("back"));
        assert_eq!(back.names(), source.names());
        for name in source.names() {
            let (found, wanted) = (back.values(name), source.values(name));
            let apart: f64 = found.iter().zip(&wanted).map(|(a, b)| (a - b) * (a - b)).sum();
            let all: f64 = wanted.iter().map(|value| value * value).sum();
            assert!((apart / all).sqrt() <= most, "{kind}: {name} is {} off", (apart / all).sqrt());
        }
    }
    let one = convert_gguf(&space, &["--threads", "1"]);
    let small = convert_gguf(&space, &["--threads", "3", "--memory", "24MB"]);
    assert!(one == small, "bytes depend on threads or memory");
}

fn convert_gguf(space: &Space, more: &[&str]) -> Vec<u8> {
    let words = ["convert", "wide", "--to", "q4_k_m", "--out", "out", "--force"];
    mixdown(space, words.iter().chain(more)).success();
    std::fs::read(space.path("out/model.gguf")).unwrap()
}

#[test]
fn bytes_depend_on_nothing_but_the_model() {
    let space = models();
    for typed in
        ["--to fp8", "--to fp8 --scales block", "--to nvfp4", "--to int5 --group 32 --asymmetric"]
    {
        let first = convert(&space, "bf16", typed, &["--threads", "1"]);
        let small = convert(&space, "bf16", typed, &["--threads", "3", "--memory", "12MB"]);
        let cut = convert(&space, "bf16", typed, &["--shard-size", "20kB"]);
        for (name, tensor) in &first {
            assert_eq!(tensor.data, small[name].data, "{typed}: {name}");
            assert_eq!(tensor.data, cut[name].data, "{typed}: {name}");
        }
        assert!(read_checkpoint(space.path("out")).shards.len() > 1);
        mixdown(&space, ["verify", "out"]).success();
    }
}

/// What is written is read again, and its error is that of the form.
#[test]
fn what_was_quantized_comes_back() {
    let space = models();
    let source = read_safetensors(space.path("f32/model.safetensors"));
    let error = |values: &[f64], exact: &[f64]| -> f64 {
        let apart: f64 = values.iter().zip(exact).map(|(a, b)| (a - b) * (a - b)).sum();
        (apart / exact.iter().map(|value| value * value).sum::<f64>()).sqrt()
    };
    let mut errors = BTreeMap::new();
    for typed in [
        "--to fp8",
        "--to fp8 --as block-fp8",
        "--to int8 --group 32",
        "--to int4 --group 32",
        "--to int4 --group 32 --fit least_squares",
        "--to mxfp4",
        "--to nvfp4",
    ] {
        convert(&space, "f32", typed, &[]);
        mixdown(&space, ["convert", "out", "--to", "f32", "--out", "back", "--force"]).success();
        let back = read_checkpoint(space.path("back"));
        assert_eq!(back.names(), source.keys().collect::<Vec<_>>(), "{typed}");
        let config = space.read_text("back/config.json");
        assert!(!config.contains("quantization_config"), "{config}");
        let mut worst = 0.0_f64;
        for (name, tensor) in &source {
            assert_eq!(back.tensor(name).shape, tensor.shape);
            worst = worst.max(error(&back.values(name), &tensor.values()));
        }
        errors.insert(typed, worst);
    }
    let bound = |typed: &str, most: f64| assert!(errors[typed] < most, "{errors:?}");
    // Half a step of the 4 bits of e4m3 is 2⁻⁴ of a value; of 4 bits in a group a fifteenth of its range.
    bound("--to fp8", 1.0 / 16.0);
    bound("--to fp8 --as block-fp8", 1.0 / 16.0);
    bound("--to int8 --group 32", 0.02);
    bound("--to int4 --group 32", 0.14);
    bound("--to mxfp4", 0.2);
    bound("--to nvfp4", 0.16);
    let [searched, plain] = ["--to int4 --group 32 --fit least_squares", "--to int4 --group 32"];
    assert!(errors[searched] < errors[plain] * 0.97, "{errors:?}");
}

/// Rules of a recipe decide about each tensor, and a merge is quantized as its result would be.
#[test]
fn rules_decide_what_is_quantized() {
    let space = models();
    let recipe = "mixdown: 1
models: {one: bf16, two: {path: bf16}}
method: linear
parameters: {weight: 0.5}
output:
  quantize:
    - {role: attention_v, to: none}
    - {tensors: lm_head.weight, to: int8}
    - {role: [mlp_down, mlp_up], to: int4, group: 32}
    - {to: fp8}
";
    space.write("recipe.yaml", recipe);
    mixdown(&space, ["merge", "recipe.yaml", "--out", "merged"]).success();
    let merged = read_checkpoint(space.path("merged"));
    let layer = "model.layers.0";
    let dtype = |name: &str| merged.tensor(name).dtype.safetensors_name();
    assert_eq!(dtype(&format!("{layer}.self_attn.v_proj.weight")), "BF16");
    assert_eq!(dtype(&format!("{layer}.self_attn.q_proj.weight")), "F8_E4M3");
    assert_eq!(dtype("lm_head.weight"), "I8");
    assert_eq!(dtype(&format!("{layer}.mlp.down_proj.weight_packed")), "I32");
    assert_eq!(dtype("model.norm.weight"), "BF16");
    // The mean of a model and itself is the model.
    let alone = convert(&space, "bf16", "--to int4 --group 32", &[]);
    let packed = format!("{layer}.mlp.up_proj.weight_packed");
    assert_eq!(merged.tensor(&packed).data, alone[&packed].data);
    let config: Value = serde_json::from_str(&space.read_text("merged/config.json")).unwrap();
    let told = &config["quantization_config"];
    assert_eq!(told["format"], "mixed-precision");
    assert_eq!(told["ignore"], serde_json::json!([format!("{layer}.self_attn.v_proj")]));
    let groups: Vec<&Value> = told["config_groups"].as_object().unwrap().values().collect();
    assert_eq!(groups.len(), 3);
    assert!(groups.iter().any(|group| group["targets"] == serde_json::json!(["lm_head"])));
}

#[test]
fn what_cannot_be_is_refused() {
    let space = models();
    let bad = [
        ("unknown_form", "{quantize: fp9}"),
        ("unknown_library", "{quantize: {to: int4, as: block-fp8}}"),
        ("group_of_floats", "{quantize: {to: mxfp4, group: 64}}"),
        ("groups_do_not_divide", "{quantize: {to: int4, group: 128}}"),
        ("unknown_role", "{quantize: [{role: attention_w, to: none}, {to: fp8}]}"),
        ("dead_rule", "{quantize: [{to: fp8}, {role: mlp_up, to: int8}]}"),
        ("two_libraries", "{quantize: [{role: mlp_up, to: int8}, {to: fp8, as: block-fp8}]}"),
        ("adapter_and_quantize", "{as: adapter, quantize: fp8}"),
        ("without_a_form", "{quantize: {group: 32}}"),
        ("gguf_type_unknown", "{as: gguf, type: q4_km}"),
        ("gguf_without_type", "{as: gguf}"),
        ("gguf_and_quantize", "{as: gguf, type: q8_0, quantize: fp8}"),
        ("output_unknown", "{as: guff, type: q8_0}"),
        ("nothing_left", "{quantize: {module: head, to: fp8}}"),
    ];
    for (name, output) in bad {
        let recipe = format!(
            "mixdown: 1\nmodels: {{one: bf16}}\nbase: one\nmethod: linear\nparameters: {{weight: 1}}\noutput: {output}\n"
        );
        space.write("recipe.yaml", recipe);
        let outcome = mixdown(&space, ["merge", "recipe.yaml", "--out", "refused"]);
        assert!(outcome.status != Some(0), "{name}: {}", outcome.talk());
        with_snapshots(|| insta::assert_snapshot!(name, outcome.talk()));
        assert!(!space.exists("refused"));
    }
    // A command speaks of its flags, not of keys of a recipe that nobody wrote.
    for (name, typed) in [
        ("convert_unknown", "bf61"),
        ("convert_type_with_group", "bf16 --group 32"),
        ("convert_groups_do_not_divide", "int4 --group 96"),
        ("convert_groups_of_a_form", "mxfp4 --asymmetric"),
        ("convert_group_of_floats", "fp8 --group 32"),
        ("convert_one_zero_point", "int8 --scales tensor --asymmetric"),
        ("convert_gguf_with_group", "q8_0 --group 32"),
    ] {
        let words =
            ["convert", "bf16", "--out", "refused", "--to"].into_iter().chain(typed.split(' '));
        let outcome = mixdown(&space, words);
        assert_ne!(outcome.status, Some(0), "{name}");
        with_snapshots(|| insta::assert_snapshot!(name, outcome.talk()));
    }
}

/// Experts are one tensor of a GGUF file, one behind another, and come back as tensors of their own; the gate
/// of a shared expert has no axis of one.
#[test]
fn experts_are_stacked_in_gguf_files() {
    let space = Space::new();
    write_experts(&space, 3);
    let source = read_checkpoint(space.path("experts"));
    for (kind, most) in [("f32", 0.0), ("q8_0", 0.006), ("q4_0", 0.09)] {
        let arguments =
            ["convert", "experts", "--to", kind, "--as", "gguf", "--out", "out", "--force"];
        mixdown(&space, arguments).success();
        mixdown(&space, ["verify", "out"]).success();
        let file = read_gguf(space.path("out/model.gguf"));
        assert_eq!(file.values["general.architecture"], "qwen2moe");
        assert_eq!(file.values["qwen2moe.expert_count"], "3");
        assert_eq!(file.values["qwen2moe.expert_used_count"], "2");
        assert_eq!(file.values["qwen2moe.expert_feed_forward_length"], "32");
        assert_eq!(file.values["qwen2moe.expert_shared_feed_forward_length"], "64");
        assert_eq!(file.tensors["blk.0.ffn_down_exps.weight"].sizes, [3, 64, 32]);
        assert_eq!(file.tensors["blk.0.ffn_gate_exps.weight"].sizes, [3, 32, 64]);
        assert_eq!(file.tensors["blk.0.ffn_gate_inp_shexp.weight"].sizes, [64]);
        mixdown(&space, ["convert", "out", "--to", "f32", "--out", "back", "--force"]).success();
        let back = read_checkpoint(space.path("back"));
        assert_eq!(back.names(), source.names());
        for name in source.names() {
            assert_eq!(back.tensor(name).shape, source.tensor(name).shape, "{name}");
            let (found, wanted) = (back.values(name), source.values(name));
            let apart: f64 = found.iter().zip(&wanted).map(|(a, b)| (a - b) * (a - b)).sum();
            let all: f64 = wanted.iter().map(|value| value * value).sum();
            assert!((apart / all).sqrt() <= most, "{kind}: {name} is {} off", (apart / all).sqrt());
        }
    }
}

/// A stack has no holes: an expert that a rule drops would move those behind it.
#[test]
fn a_stack_lacks_no_expert() {
    let space = Space::new();
    write_experts(&space, 3);
    let recipe = "mixdown: 1
models: {one: experts}
rules:
  - {tensors: '**.experts.1.up_proj.weight', drop: true}
  - {keep: one}
output: {as: gguf, type: q8_0}
";
    space.write("recipe.yaml", recipe);
    let outcome = mixdown(&space, ["merge", "recipe.yaml", "--out", "refused"]);
    assert_ne!(outcome.status, Some(0));
    with_snapshots(|| insta::assert_snapshot!("gguf_stack_with_a_hole", outcome.talk()));
    assert!(!space.exists("refused"));
}

/// A model of Qwen's mixtures of one layer.
fn write_experts(space: &Space, experts: u64) {
    let config = serde_json::json!({
        "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "torch_dtype": "bfloat16",
        "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64, "num_experts": experts, "num_experts_per_tok": 2,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "vocab_size": 24, "rms_norm_eps": 1e-6, "rope_theta": 10000.0
    });
    let layer = "model.layers.0";
    let mut all: Vec<(String, Vec<u64>)> = Vec::new();
    let mut add = |name: String, shape: &[u64]| all.push((name, shape.to_vec()));
    add("model.embed_tokens.weight".into(), &[24, 64]);
    add("lm_head.weight".into(), &[24, 64]);
    add("model.norm.weight".into(), &[64]);
    add(format!("{layer}.input_layernorm.weight"), &[64]);
    add(format!("{layer}.post_attention_layernorm.weight"), &[64]);
    for (name, rows) in [("q", 64), ("k", 32), ("v", 32)] {
        add(format!("{layer}.self_attn.{name}_proj.weight"), &[rows, 64]);
        add(format!("{layer}.self_attn.{name}_proj.bias"), &[rows]);
    }
    add(format!("{layer}.self_attn.o_proj.weight"), &[64, 64]);
    add(format!("{layer}.mlp.gate.weight"), &[experts, 64]);
    add(format!("{layer}.mlp.shared_expert_gate.weight"), &[1, 64]);
    let own = (0..experts).map(|expert| (format!("{layer}.mlp.experts.{expert}"), 32));
    for (module, width) in own.chain([(format!("{layer}.mlp.shared_expert"), 64)]) {
        add(format!("{module}.gate_proj.weight"), &[width, 64]);
        add(format!("{module}.up_proj.weight"), &[width, 64]);
        add(format!("{module}.down_proj.weight"), &[64, width]);
    }
    let tensors: Vec<Tensor> = (1..)
        .zip(&all)
        .map(|(seed, (name, shape))| mixdown_suite::modalities::drawn(seed, name, shape))
        .collect();
    space
        .write("experts/model.safetensors", safetensors_bytes(&tensors.iter().collect::<Vec<_>>()));
    space.write("experts/config.json", config.to_string());
}

/// A GPT-2 of one layer, under the names that its published files have, with the masks that these hold.
fn write_gpt2(space: &Space) {
    let config = serde_json::json!({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "torch_dtype": "float32",
        "n_embd": 64, "n_head": 4, "n_layer": 1, "n_positions": 32, "n_ctx": 32, "vocab_size": 24,
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true
    });
    let mut all: Vec<(String, Vec<u64>)> =
        vec![("wte.weight".into(), vec![24, 64]), ("wpe.weight".into(), vec![32, 64])];
    for norm in ["ln_f", "h.0.ln_1", "h.0.ln_2"] {
        for end in ["weight", "bias"] {
            all.push((format!("{norm}.{end}"), vec![64]));
        }
    }
    for (module, inputs, outputs) in [
        ("attn.c_attn", 64, 192),
        ("attn.c_proj", 64, 64),
        ("mlp.c_fc", 64, 256),
        ("mlp.c_proj", 256, 64),
    ] {
        all.push((format!("h.0.{module}.weight"), vec![inputs, outputs]));
        all.push((format!("h.0.{module}.bias"), vec![outputs]));
    }
    all.push(("h.0.attn.bias".into(), vec![1, 1, 32, 32]));
    let tensors: Vec<Tensor> = (1..)
        .zip(&all)
        .map(|(seed, (name, shape))| mixdown_suite::modalities::drawn(seed, name, shape))
        .collect();
    space.write("gpt2/model.safetensors", safetensors_bytes(&tensors.iter().collect::<Vec<_>>()));
    space.write("gpt2/config.json", config.to_string());
}

/// Rows of GPT-2's matrices are inputs, and files have them the other way round; positions are learned.
#[test]
fn matrices_with_inputs_first_are_turned_in_gguf_files() {
    let space = Space::new();
    write_gpt2(&space);
    let source = read_checkpoint(space.path("gpt2"));
    for (kind, most) in [("f32", 0.0), ("q8_0", 0.006), ("q4_0", 0.09)] {
        let arguments =
            ["convert", "gpt2", "--to", kind, "--as", "gguf", "--out", "out", "--force"];
        let outcome = mixdown(&space, arguments).success();
        assert!(outcome.stderr.contains("h.0.attn.bias"), "{}", outcome.stderr);
        mixdown(&space, ["verify", "out"]).success();
        let file = read_gguf(space.path("out/model.gguf"));
        for (key, value) in [
            ("general.architecture", "gpt2"),
            ("gpt2.block_count", "1"),
            ("gpt2.context_length", "32"),
            ("gpt2.embedding_length", "64"),
            ("gpt2.feed_forward_length", "256"),
            ("gpt2.attention.head_count", "4"),
        ] {
            assert_eq!(file.values[key], value, "{key}");
        }
        assert!(file.values.contains_key("gpt2.attention.layer_norm_epsilon"));
        assert!(!file.values.contains_key("gpt2.rope.freq_base"));
        assert_eq!(file.tensors["blk.0.attn_qkv.weight"].sizes, [192, 64]);
        assert_eq!(file.tensors["blk.0.ffn_down.weight"].sizes, [64, 256]);
        assert_eq!(file.tensors["position_embd.weight"].kind, 0);
        if kind == "f32" {
            let stored = &file.tensors["blk.0.ffn_up.weight"].data;
            let stored: Vec<f32> =
                stored.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
            let own = source.values("h.0.mlp.c_fc.weight");
            assert!((0..256).all(|output| (0..64).all(|input| {
                f64::from(stored[output * 64 + input]) == own[input * 256 + output]
            })));
        }
        mixdown(&space, ["convert", "out", "--to", "f32", "--out", "back", "--force"]).success();
        let back = read_checkpoint(space.path("back"));
        for name in source.names().into_iter().filter(|name| *name != "h.0.attn.bias") {
            let own = format!("transformer.{name}");
            assert_eq!(back.tensor(&own).shape, source.tensor(name).shape, "{name}");
            let (found, wanted) = (back.values(&own), source.values(name));
            let apart: f64 = found.iter().zip(&wanted).map(|(a, b)| (a - b) * (a - b)).sum();
            let all: f64 = wanted.iter().map(|value| value * value).sum();
            assert!((apart / all).sqrt() <= most, "{kind}: {name} is {} off", (apart / all).sqrt());
        }
    }
    // Codes that nothing touched stay, square or not.
    space.write("out/config.json", space.read("gpt2/config.json"));
    let outcome = mixdown(&space, ["convert", "out", "--to", "q4_0", "--out", "again"]).success();
    assert!(outcome.stderr.contains("with the codes and scales of an input"), "{}", outcome.stderr);
    let again = read_gguf(space.path("again/model.gguf"));
    for (name, tensor) in &read_gguf(space.path("out/model.gguf")).tensors {
        assert_eq!(tensor.data, again.tensors[name].data, "{name}");
    }
}

/// What a GGUF file says beside its tensors is a part of what was written.
/// What is most of a mixture is not left wide without a word, whatever its family calls its experts.
#[test]
fn stacked_experts_that_stay_wide_are_told() {
    let space = Space::new();
    let of = |name: &str, shape: &[u64]| {
        let count: u64 = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|at| at as f64 / 64.0).collect();
        Tensor::new(&format!("model.layers.0.{name}"), DType::F32, shape, &values)
    };
    let tensors = [
        of("self_attn.q_proj.weight", &[32, 32]),
        of("mlp.experts.gate_up_proj", &[2, 64, 32]),
        of("mlp.experts.down_proj", &[2, 32, 32]),
    ];
    space.write("model/model.safetensors", safetensors_bytes(&tensors.iter().collect::<Vec<_>>()));
    for family in ["qwen3_moe", "some_moe"] {
        let config = serde_json::json!({"model_type": family, "torch_dtype": "float32"});
        space.write("model/config.json", config.to_string());
        let arguments = ["convert", "model", "--to", "fp8", "--out", "out", "--force"];
        let outcome = mixdown(&space, arguments).success();
        assert!(outcome.stderr.contains("W0644"), "{family}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("= tensors:   2"), "{family}: {}", outcome.stderr);
        assert_eq!(
            read_checkpoint(space.path("out")).tensor("model.layers.0.mlp.experts.down_proj"),
            &tensors[2]
        );
    }
}

/// Command R counts more positions than tokens that it was trained for, and has the latter under a key of its own.
#[test]
fn the_window_of_command_r_is_what_it_was_trained_for() {
    let space = Space::new();
    let of = |name: &str, shape: &[u64]| {
        let values: Vec<f64> =
            (0..shape.iter().product()).map(|at: u64| at as f64 / 64.0).collect();
        Tensor::new(name, DType::F32, shape, &values)
    };
    let mut tensors = vec![
        of("model.embed_tokens.weight", &[8, 32]),
        of("model.norm.weight", &[32]),
        of("model.layers.0.input_layernorm.weight", &[32]),
    ];
    for name in [
        "self_attn.q",
        "self_attn.k",
        "self_attn.v",
        "self_attn.o",
        "mlp.gate",
        "mlp.up",
        "mlp.down",
    ] {
        tensors.push(of(&format!("model.layers.0.{name}_proj.weight"), &[32, 32]));
    }
    space.write("model/model.safetensors", safetensors_bytes(&tensors.iter().collect::<Vec<_>>()));
    let mut config = serde_json::json!({
        "architectures": ["CohereForCausalLM"], "model_type": "cohere", "torch_dtype": "float32",
        "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "vocab_size": 8,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "logit_scale": 0.0625, "tie_word_embeddings": true,
    });
    for (window, told) in [(None, "64"), (Some(48), "48")] {
        if let Some(window) = window {
            config["model_max_length"] = window.into();
        }
        space.write("model/config.json", config.to_string());
        let arguments =
            ["convert", "model", "--to", "f32", "--as", "gguf", "--out", "out", "--force"];
        mixdown(&space, arguments).success();
        let file = read_gguf(space.path("out/model.gguf"));
        assert_eq!(file.values["general.architecture"], "command-r");
        assert_eq!(file.values["command-r.context_length"], told);
    }
}

#[test]
fn the_header_of_a_gguf_file_is_proven() {
    let space = models();
    mixdown(&space, ["convert", "bf16", "--to", "q8_0", "--out", "out"]).success();
    mixdown(&space, ["verify", "out"]).success();
    let mut bytes = std::fs::read(space.path("out/model.gguf")).unwrap();
    let key = b"llama.rope.freq_base";
    let at = bytes.windows(key.len()).position(|found| found == key).unwrap();
    // Behind the key stand the type and the number.
    bytes[at + key.len() + 4] ^= 1;
    std::fs::write(space.path("out/model.gguf"), bytes).unwrap();
    let outcome = mixdown(&space, ["verify", "out"]).exits(1);
    assert!(outcome.stderr.contains("the header of `model.gguf`"), "{}", outcome.stderr);
}

/// Blocks of another size can have as many scales as those that are wanted; their codes are made again.
#[test]
fn blocks_of_another_size_are_not_taken_for_those_that_are_wanted() {
    let space = models();
    mixdown(&space, ["convert", "f32", "--to", "fp8", "--as", "block-fp8", "--out", "first"])
        .success();
    // Two blocks of 96 rows or of 128 are there for 160 rows: the scales say the same only of the latter.
    let config = space.read_text("first/config.json");
    let compact: String = config.split_whitespace().collect();
    assert!(compact.contains("\"weight_block_size\":[128,128]"), "{config}");
    let mut value: Value = serde_json::from_str(&config).unwrap();
    value["quantization_config"]["weight_block_size"] = serde_json::json!([96, 128]);
    space.write("first/config.json", value.to_string());
    let convert = |model: &str, typed: &[&str], out: &str| {
        mixdown(&space, [&["convert", model, "--out", out], typed].concat()).success()
    };
    convert("first", &["--to", "f32"], "wide");
    convert("first", &["--to", "fp8", "--as", "block-fp8"], "second");
    convert("second", &["--to", "f32"], "back");
    let (wide, back) = (read_checkpoint(space.path("wide")), read_checkpoint(space.path("back")));
    let name = "model.layers.0.mlp.up_proj.weight";
    let (found, wanted) = (back.values(name), wide.values(name));
    let apart: f64 = found.iter().zip(&wanted).map(|(a, b)| (a - b) * (a - b)).sum();
    let all: f64 = wanted.iter().map(|value| value * value).sum();
    assert!((apart / all).sqrt() < 0.05, "{}", (apart / all).sqrt());
}

#[test]
fn a_family_without_names_is_refused() {
    let space = models();
    let config = space.read_text("bf16/config.json").replace("\"llama\"", "\"mamba\"");
    space.write("bf16/config.json", config);
    let outcome = mixdown(&space, ["convert", "bf16", "--to", "q8_0", "--out", "refused"]).exits(1);
    with_snapshots(|| insta::assert_snapshot!("gguf_family", outcome.talk()));
}

/// An infinity has no code, whatever the recipe allows.
#[test]
fn infinities_are_refused() {
    let space = models();
    let mut tensors = read_safetensors(space.path("bf16/model.safetensors"));
    let weight = tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap();
    weight.data[64..66].copy_from_slice(&0x7f80_u16.to_le_bytes());
    let all: Vec<&Tensor> = tensors.values().collect();
    let file = safetensors_bytes(&all);
    space.write("bf16/model.safetensors", file);
    let recipe =
        "mixdown: 1\nmodels: {one: bf16}\nrules: [{keep: one}]\noutput: {quantize: int8}\n";
    space.write("recipe.yaml", recipe);
    for (name, more) in [("infinity", &[][..]), ("infinity_allowed", &["--allow-nonfinite"][..])] {
        let arguments = ["merge", "recipe.yaml", "--out", "refused"].iter().chain(more);
        let outcome = mixdown(&space, arguments).exits(1);
        with_snapshots(|| insta::assert_snapshot!(name, outcome.talk()));
    }
}
