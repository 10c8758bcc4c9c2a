//! Merges of quantized models: what their codes and scales say is what is merged, and the output says so.
//!
//! The inputs are files of real libraries (`tests/formats/quantized`), with the values that each stands for.
//! Catches codes or scales that are merged as numbers, values that depend on where a piece begins, and an
//! output whose files still promise a packing.

use std::collections::BTreeMap;

use mixdown_kit::adapter::adapter;
use mixdown_kit::gguf::read_gguf;
use mixdown_kit::read::read_safetensors;
use mixdown_kit::{DType, Space, Tensor, checkpoint, mixdown, read_checkpoint};
use mixdown_suite::{configuration, merge, merged, refusal, repository, with_snapshots};

/// Puts a fixture into the space under its name, and gives the values that it stands for.
fn fixture(space: &Space, name: &str) -> BTreeMap<String, Tensor> {
    let folder = repository().join("tests/formats/quantized").join(name);
    for file in ["model.safetensors", "config.json", "hf_quant_config.json"] {
        if let Ok(bytes) = std::fs::read(folder.join(file)) {
            space.write(format!("{name}/{file}"), bytes);
        }
    }
    read_safetensors(folder.join("expected.safetensors"))
}

fn alone(model: &str) -> String {
    configuration("linear", None, &[(model, "weight: 1")], "")
}

#[test]
fn a_quantized_model_is_what_its_codes_and_scales_say() {
    for name in [
        "fp8_block_ragged",
        "gptq_v1_4bit_act",
        "bnb_nf4_bf16storage",
        "mxfp4_gpt_oss",
        "modelopt_nvfp4",
    ] {
        let space = Space::new();
        let expected = fixture(&space, name);
        let outcome = merge(&space, &alone(name), &[]).success();
        assert!(outcome.stderr.contains("W0641"), "{}", outcome.stderr);
        let output = read_checkpoint(space.path("merged"));
        assert_eq!(output.names(), expected.keys().collect::<Vec<_>>(), "{name}");
        for (tensor, expected) in &expected {
            assert_eq!(output.tensor(tensor).shape, expected.shape, "{name}: {tensor}");
            assert_eq!(output.values(tensor), expected.values(), "{name}: {tensor}");
        }
        let config = space.read_text("merged/config.json");
        assert!(!config.contains("quantization_config"), "{config}");
        assert!(!space.exists("merged/hf_quant_config.json"));
    }
}

/// Without a type in the recipe the output has the model's own, which 8 bits are not.
#[test]
fn experts_in_different_forms_are_merged() {
    let space = Space::new();
    let first = fixture(&space, "fp8_block_f32");
    let second = fixture(&space, "fp8_block_bf16");
    let models = [("fp8_block_f32", "weight: 0.5"), ("fp8_block_bf16", "weight: 0.5")];
    let recipe = configuration("linear", None, &models, "").replace("dtype: float32\n", "");
    let output = merged(&space, &recipe);
    for (name, one) in &first {
        let mean: Vec<f64> =
            one.values().iter().zip(second[name].values()).map(|(a, b)| (a + b) / 2.0).collect();
        let tensor = output.tensor(name);
        assert_eq!(tensor.dtype, DType::Bf16);
        for (found, wanted) in tensor.values().iter().zip(&mean) {
            assert!(
                (found - wanted).abs() <= wanted.abs() / 256.0 + 1e-30,
                "{name}: {found} {wanted}"
            );
        }
    }
}

#[test]
fn threads_and_memory_change_nothing() {
    for name in ["gptq_v1_3bit_asym", "mxfp4_gpt_oss", "bnb_nf4_double"] {
        let space = Space::new();
        fixture(&space, name);
        let mut all = Vec::new();
        for arguments in
            [["--threads", "1", "--memory", "4GB"], ["--threads", "3", "--memory", "40MB"]]
        {
            merge(&space, &alone(name), &[&arguments[..], &["--force"]].concat()).success();
            all.push(space.read("merged/model.safetensors"));
        }
        assert!(all[0] == all[1], "{name}");
    }
}

/// What a merge leaves alone keeps its codes and scales where the output has that form: no code is made again.
#[test]
fn untouched_codes_stay_as_they_are() {
    for (name, form) in [
        ("ct_fp8_channel", "{to: fp8}"),
        ("ct_int8_channel", "{to: int8}"),
        ("ct_pack4_group", "{to: int4, group: 32}"),
        ("ct_pack4_asym", "{to: int4, group: 32, symmetric: false}"),
        ("ct_pack3_group", "{to: int3, group: 32}"),
        ("ct_mxfp4", "mxfp4"),
        ("ct_nvfp4", "nvfp4"),
        ("bnb_nf4", "nf4"),
    ] {
        let space = Space::new();
        fixture(&space, name);
        let stored = read_safetensors(space.path(format!("{name}/model.safetensors")));
        let recipe = format!(
            "mixdown: 1\nmodels: {{model: {name}}}\nrules: [{{keep: model}}]\noutput: {{quantize: {form}}}\n"
        );
        let outcome = merge(&space, &recipe, &[]).success();
        assert!(outcome.stderr.contains("with the codes and scales of an input"), "{name}");
        let output = read_checkpoint(space.path("merged"));
        assert_eq!(output.names(), stored.keys().collect::<Vec<_>>(), "{name}");
        for (tensor, stored) in &stored {
            assert_eq!(output.tensor(tensor), stored, "{name}: {tensor}");
        }
        mixdown(&space, ["verify", "merged"]).success();
    }
}

/// One layer is merged and quantized, another is copied from elsewhere with its codes, and a form that the
/// output has not is decoded and made anew.
#[test]
fn codes_stay_beside_those_that_are_made() {
    let space = Space::new();
    fixture(&space, "ct_int8_channel");
    checkpoint("wide").write(&space);
    let stored = read_safetensors(space.path("ct_int8_channel/model.safetensors"));
    let recipe = "mixdown: 1
models: {codes: ct_int8_channel, same: {path: ct_int8_channel}}
rules:
  - {tensors: '**.mlp.**', method: linear, parameters: {weight: 0.5}}
  - {keep: codes}
output: {quantize: [{tensors: '**.v_proj.weight', to: fp8}, {to: int8}]}
";
    merge(&space, recipe, &["--report", "report.json"]).success();
    let output = read_checkpoint(space.path("merged"));
    let attention = |name: &str| format!("model.layers.0.self_attn.{name}_proj");
    for part in ["weight", "weight_scale"] {
        let name = format!("{}.{part}", attention("q"));
        assert_eq!(output.tensor(&name), &stored[&name]);
    }
    let v = output.tensor(&format!("{}.weight", attention("v")));
    assert_eq!(v.dtype.safetensors_name(), "F8_E4M3");
    let report: serde_json::Value = serde_json::from_str(&space.read_text("report.json")).unwrap();
    // q, k and o; three of the MLP are merged, and v has another form.
    assert_eq!(report["quantized"]["codes_kept"], serde_json::Value::Null);
    assert_eq!(report["codes_kept"], 3);
    assert_eq!(report["quantized"]["tensors"].as_array().unwrap().len(), 4);
}

/// A copy of codes that say something that is no number fails like any copy.
#[test]
fn codes_that_are_no_numbers_are_not_copied() {
    let space = Space::new();
    fixture(&space, "ct_int8_channel");
    let mut tensors = read_safetensors(space.path("ct_int8_channel/model.safetensors"));
    let scale = tensors.get_mut("model.layers.0.self_attn.q_proj.weight_scale").unwrap();
    scale.data[..2].copy_from_slice(&0x7fc0_u16.to_le_bytes());
    let all: Vec<&Tensor> = tensors.values().collect();
    space.write("ct_int8_channel/model.safetensors", mixdown_kit::raw::safetensors_bytes(&all));
    let recipe = "mixdown: 1\nmodels: {model: ct_int8_channel}\nrules: [{keep: model}]\noutput: {quantize: int8}\n";
    let outcome = merge(&space, recipe, &[]);
    assert_ne!(outcome.status, Some(0), "{}", outcome.talk());
    assert!(outcome.stderr.contains("q_proj.weight_scale"), "{}", outcome.stderr);
    assert!(!space.exists("merged"));
}

/// A GGUF file in two, as llama.cpp's `gguf-split` cuts it: the second has no more than what tells the pieces
/// apart.
#[test]
fn gguf_files_in_pieces_are_one_model() {
    let space = Space::new();
    checkpoint("base").write(&space);
    let arguments = ["convert", "base", "--to", "f32", "--as", "gguf", "--out", "whole"];
    mixdown(&space, arguments).success();
    let whole = read_gguf(space.path("whole/model.gguf"));
    let text = |value: &str| [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat();
    let number =
        |key: &str, kind: u32, bytes: &[u8]| [&text(key), &kind.to_le_bytes()[..], bytes].concat();
    let names: Vec<&String> = whole.tensors.keys().collect();
    for (piece, names) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let mut values = vec![
            number("split.no", 2, &(piece as u16).to_le_bytes()),
            number("split.count", 2, &2_u16.to_le_bytes()),
        ];
        if piece == 0 {
            let architecture = [8_u32.to_le_bytes().as_slice(), &text("llama")].concat();
            values.push([text("general.architecture"), architecture].concat());
            for key in ["llama.attention.head_count", "llama.attention.head_count_kv"] {
                let heads: u32 = whole.values[key].parse().unwrap();
                values.push(number(key, 4, &heads.to_le_bytes()));
            }
        }
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend((names.len() as u64).to_le_bytes());
        file.extend((values.len() as u64).to_le_bytes());
        file.extend(values.concat());
        let mut data: Vec<u8> = Vec::new();
        for name in names {
            let tensor = &whole.tensors[*name];
            file.extend(text(name));
            file.extend((tensor.sizes.len() as u32).to_le_bytes());
            tensor.sizes.iter().rev().for_each(|size| file.extend(size.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend((data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
        space.write(format!("pieces/model-0000{}-of-00002.gguf", piece + 1), file);
    }
    for model in ["whole", "pieces"] {
        let out = format!("from-{model}");
        mixdown(&space, ["convert", model, "--to", "f32", "--out", &out]).success();
    }
    let (whole, pieces) =
        (read_checkpoint(space.path("from-whole")), read_checkpoint(space.path("from-pieces")));
    assert_eq!(whole.tensors, pieces.tensors);

    let one = "pieces/model-00001-of-00002.gguf";
    let outcome = mixdown(&space, ["inspect", one]);
    with_snapshots(|| insta::assert_snapshot!("gguf_piece", outcome.talk()));
    assert_ne!(outcome.status, Some(0));
    std::fs::remove_file(space.path("pieces/model-00002-of-00002.gguf")).unwrap();
    let outcome = mixdown(&space, ["inspect", "pieces"]);
    assert_ne!(outcome.status, Some(0));
    assert!(outcome.stderr.contains("model-00002-of-00002.gguf"), "{}", outcome.stderr);
}

/// QLoRA's usual case: the update is added to what the codes stand for.
#[test]
fn an_adapter_on_a_quantized_base_is_added() {
    let module = "model.layers.0.self_attn.q_proj";
    let space = Space::new();
    let expected = fixture(&space, "bnb_nf4");
    let name = format!("{module}.weight");
    let (rows, columns) = (expected[&name].shape[0], expected[&name].shape[1]);
    let adapter = adapter("tuned", 2).module(module, 2, [rows, columns]);
    adapter.write(&space);
    let output = merged(&space, &alone("bnb_nf4+tuned"));
    let factors: Vec<Vec<f64>> = adapter.tensors().iter().map(Tensor::values).collect();
    let (a, b) = (&factors[0], &factors[1]);
    let base = expected[&name].values();
    let found = output.values(&name);
    for (at, found) in found.iter().enumerate() {
        let (row, column) = (at / columns as usize, at % columns as usize);
        let update: f64 = (0..2).map(|k| b[row * 2 + k] * a[k * columns as usize + column]).sum();
        // α is twice the rank.
        let wanted = base[at] + 2.0 * update;
        assert!((found - wanted).abs() < 1e-6, "at {at}: {found} instead of {wanted}");
    }
    assert_ne!(found, base);
}

#[test]
fn inspect_shows_how_weights_are_stored() {
    let space = Space::new();
    fixture(&space, "ct_pack4_asym");
    let json =
        mixdown(&space, ["inspect", "ct_pack4_asym", "--json", "--tensors"]).success().json();
    let tensors = json["tensors"].as_array().unwrap();
    let one = tensors.iter().find(|one| one["name"].as_str().unwrap().ends_with("up_proj.weight"));
    let one = one.unwrap();
    assert_eq!(one["shape"], serde_json::json!([64, 32]));
    assert_eq!(one["stored_as"], "int4 with zero points, groups of 32");
    assert_eq!(one["dtype"], "bf16");
    // 4 bits, a scale of 16 and a zero point of 4 for 32 codes, and 16 bytes of shape for all.
    assert_eq!(one["bits"], 4.0 + 20.0 / 32.0 + 128.0 / 2048.0);
}

#[test]
fn a_codec_that_is_not_decoded_is_refused_by_name() {
    let space = Space::new();
    let books = Tensor::new("model.layers.0.mlp.up_proj.codebooks", DType::F16, &[1, 4], &[0.0; 4]);
    let codes = Tensor::new("model.layers.0.mlp.up_proj.codes", DType::I8, &[4, 4], &[1.0; 16]);
    checkpoint("a").without("up_proj").with(books).with(codes).write(&space);
    let talk = refusal(&space, &alone("a"), &[], 1);
    with_snapshots(|| insta::assert_snapshot!("unknown_codec", talk));
    mixdown(&space, ["check", "recipe.yaml"]).exits(1);
}

#[test]
fn a_broken_scale_is_told_with_its_place() {
    let space = Space::new();
    fixture(&space, "ct_pack4_group");
    let path = "ct_pack4_group/model.safetensors";
    let mut bytes = space.read(path);
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let text: serde_json::Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let scale = &text["model.layers.0.mlp.up_proj.weight_scale"]["data_offsets"][0];
    let at = header + scale.as_u64().unwrap() as usize;
    bytes[at..at + 2].copy_from_slice(&[0xc0, 0x7f]);
    space.write(path, bytes);
    let talk = merge(&space, &alone("ct_pack4_group"), &["--threads", "1"]).exits(1).talk();
    with_snapshots(|| insta::assert_snapshot!("broken_scale", talk));
}
