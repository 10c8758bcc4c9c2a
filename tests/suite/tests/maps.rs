//! Models seen through architecture maps: every built-in map, every expression, and what is refused.
//!
//! Catches a map that does not fit the models it is for, a rearrangement that takes wrong elements or
//! depends on how it is cut into blocks, rows that are not kept to the last bit, and a mistake in a map
//! that is not found, or told at the wrong place.

use std::collections::BTreeMap;

use mixdown_kit::published::Published;
use mixdown_kit::raw::safetensors_bytes;
use mixdown_kit::values::Values;
use mixdown_kit::{DType, Program, Space, Tensor, published, read_checkpoint};
use mixdown_suite::{merge, merged, with_snapshots};
use serde_json::{Value, json};

type Tensors = BTreeMap<String, Tensor>;

fn random(name: &str, dtype: DType, shape: &[u64], seed: u64) -> Tensor {
    let mut values = Values::new(seed, name);
    let count: u64 = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| values.normal()).collect();
    Tensor::new(name, dtype, shape, &values)
}

/// A small model of a family.
fn small(fixture: &str, dtype: DType, seed: u64) -> (Value, Tensors) {
    let header = Published::small(fixture);
    let tensors = header.tensors.iter();
    let tensors = tensors.map(|(name, shape)| (name.clone(), random(name, dtype, shape, seed)));
    (header.config, tensors.collect())
}

fn write(space: &Space, folder: &str, config: &Value, tensors: &Tensors) {
    let all: Vec<&Tensor> = tensors.values().collect();
    space.write(format!("{folder}/config.json"), config.to_string());
    space.write(format!("{folder}/model.safetensors"), safetensors_bytes(&all));
}

/// The rows from a first one on, so many.
fn rows(tensor: &Tensor, first: u64, count: u64) -> Vec<u8> {
    let row = tensor.data.len() / tensor.shape[0] as usize;
    tensor.data[first as usize * row..(first + count) as usize * row].to_vec()
}

/// The names of two fixtures: a target, and a source.
type Pair = (&'static str, &'static str);

/// The built-in maps, each with the small fixtures of its target and its source, and with those of
/// published checkpoints where there are any.
const MAPS: &[(&str, Pair, Option<Pair>)] = &[
    (
        "llava-onevision-to-qwen2-vl",
        ("qwen2_vl", "llava_onevision_original"),
        Some(("qwen2_vl_7b", "llava_onevision_qwen2_7b")),
    ),
    ("llava-onevision-hf-to-qwen2-vl", ("qwen2_vl", "llava_onevision"), None),
    (
        "qwen2-vl-to-llava-onevision",
        ("llava_onevision_original", "qwen2_vl"),
        Some(("llava_onevision_qwen2_7b", "qwen2_vl_7b")),
    ),
    ("qwen2-vl-to-llava-onevision-hf", ("llava_onevision", "qwen2_vl"), None),
    ("llava-to-cogvlm", ("cogvlm", "llava_original"), Some(("cogvlm_chat", "llava_v1_5_7b"))),
    (
        "llava-to-mplug-owl2",
        ("mplug_owl2", "llava_original"),
        Some(("mplug_owl2_7b", "llava_v1_5_7b")),
    ),
    (
        "mplug-owl2-to-llava",
        ("llava_original", "mplug_owl2"),
        Some(("llava_v1_5_7b", "mplug_owl2_7b")),
    ),
    ("cogvlm-to-mplug-owl2", ("mplug_owl2", "cogvlm"), Some(("mplug_owl2_7b", "cogvlm_chat"))),
    ("mplug-owl2-to-cogvlm", ("cogvlm", "mplug_owl2"), Some(("cogvlm_chat", "mplug_owl2_7b"))),
    ("yi-vl-to-cambrian", ("cambrian", "yi_vl"), Some(("cambrian_34b", "yi_vl_34b"))),
    (
        "sharegpt4v-to-llava",
        ("llava_original", "sharegpt4v"),
        Some(("llava_v1_5_7b", "sharegpt4v_7b")),
    ),
    (
        "llava-to-sharegpt4v",
        ("sharegpt4v", "llava_original"),
        Some(("sharegpt4v_7b", "llava_v1_5_7b")),
    ),
    ("phi3-to-mistral", ("mistral", "phi3"), None),
];

fn number_of(name: &str) -> Option<&str> {
    name.split("layers.").nth(1)?.split('.').next()
}

/// What a tensor of the target is made of, written out by hand for each pair: the bytes of rows, and how
/// many rows the source gives. None where the target keeps its own.
fn by_hand(map: &str, name: &str, target: &Tensor, source: &Tensors) -> Option<(Vec<u8>, u64)> {
    let all = |name: &str| {
        let tensor = source.get(name).unwrap_or_else(|| panic!("{map}: the source has {name}"));
        Some((tensor.data.clone(), tensor.shape[0]))
    };
    let layer = number_of(name).map(|number| format!("model.layers.{number}."));
    let layer = layer.filter(|layer| name.contains(layer.as_str()));
    let is_frequency = name.ends_with("inv_freq");
    let keeps = ["visual", "vision", "mm_projector", "multi_modal", "image_newline"];
    if keeps.iter().any(|part| {
        name.contains(part) && !name.contains("vision_expert") && !name.contains("vision_mlp")
    }) {
        return None;
    }
    let join = |names: &[String]| {
        let parts: Vec<&Tensor> = names.iter().map(|name| &source[name]).collect();
        let data = parts.iter().flat_map(|part| part.data.clone()).collect();
        Some((data, parts.iter().map(|part| part.shape[0]).sum()))
    };
    let third = |name: String, part: u64| {
        let tensor = &source[&name];
        let height = tensor.shape[0] / 3;
        Some((rows(tensor, part * height, height), height))
    };
    match map {
        "llava-onevision-to-qwen2-vl" | "qwen2-vl-to-llava-onevision" => {
            (layer.is_some() || name == "model.norm.weight").then(|| all(name))?
        }
        "llava-onevision-hf-to-qwen2-vl" => {
            let tensor = &source[&format!("language_model.{name}")];
            let count = tensor.shape[0].min(target.shape[0]);
            Some((rows(tensor, 0, count), count))
        }
        "qwen2-vl-to-llava-onevision-hf" => {
            let own = name.strip_prefix("language_model.")?;
            (layer.is_some() || own == "model.norm.weight").then(|| all(own))?
        }
        "yi-vl-to-cambrian" | "sharegpt4v-to-llava" | "llava-to-sharegpt4v" => all(name),
        _ if is_frequency => None,
        "llava-to-cogvlm" | "mplug-owl2-to-cogvlm" => {
            let Some(layer) = layer else { return all(name) };
            let own = name.strip_prefix(&layer)?;
            let is_vision = own.contains("vision_expert") || own.contains("vision_mlp");
            let from_mplug = map == "mplug-owl2-to-cogvlm";
            let way = if is_vision { "1" } else { "0" };
            let of = |kind: &str| match (from_mplug, kind) {
                (true, "k" | "v") => format!("{layer}self_attn.{kind}_proj.multiway.{way}.weight"),
                _ => format!("{layer}self_attn.{kind}_proj.weight"),
            };
            match own {
                _ if own.ends_with("query_key_value.weight") => join(&["q", "k", "v"].map(of)),
                _ if own.ends_with("dense.weight") => all(&of("o")),
                _ if own.contains("_mlp.") => {
                    let last = own.rsplit("_mlp.").next()?;
                    all(&format!("{layer}mlp.{last}"))
                }
                _ if from_mplug => {
                    all(&format!("{layer}{}", own.replace(".weight", ".multiway.0.weight")))
                }
                _ => all(name),
            }
        }
        "llava-to-mplug-owl2" => all(&name.replace(".multiway.0", "").replace(".multiway.1", "")),
        "mplug-owl2-to-llava" => {
            let has_ways = ["norm", "k_proj", "v_proj"].iter().any(|part| name.contains(part));
            match layer.is_some() && has_ways {
                true => all(&name.replace(".weight", ".multiway.0.weight")),
                false => all(name),
            }
        }
        "cogvlm-to-mplug-owl2" => {
            let Some(layer) = layer else { return all(name) };
            let own = name.strip_prefix(&layer)?;
            let fused =
                |kind: &str| format!("{layer}self_attn.{kind}_expert_query_key_value.weight");
            match own {
                "self_attn.q_proj.weight" => third(fused("language"), 0),
                "self_attn.k_proj.multiway.0.weight" => third(fused("language"), 1),
                "self_attn.v_proj.multiway.0.weight" => third(fused("language"), 2),
                "self_attn.k_proj.multiway.1.weight" => third(fused("vision"), 1),
                "self_attn.v_proj.multiway.1.weight" => third(fused("vision"), 2),
                "self_attn.o_proj.weight" => {
                    all(&format!("{layer}self_attn.language_expert_dense.weight"))
                }
                _ if own.starts_with("mlp.") => all(&name.replace("mlp.", "mlp.language_mlp.")),
                _ => all(&name.replace(".multiway.0", "").replace(".multiway.1", "")),
            }
        }
        "phi3-to-mistral" => {
            let Some(layer) = layer else { return all(name) };
            let own = name.strip_prefix(&layer)?;
            let (fused, kinds) = match own {
                "self_attn.q_proj.weight"
                | "self_attn.k_proj.weight"
                | "self_attn.v_proj.weight" => (
                    &source[&format!("{layer}self_attn.qkv_proj.weight")],
                    ["q_proj", "k_proj", "v_proj"].as_slice(),
                ),
                "mlp.gate_proj.weight" | "mlp.up_proj.weight" => (
                    &source[&format!("{layer}mlp.gate_up_proj.weight")],
                    ["gate_proj", "up_proj"].as_slice(),
                ),
                _ => return all(name),
            };
            let at = kinds.iter().position(|kind| own.contains(kind))?;
            let height = target.shape[0];
            // The last parts end where the matrix ends, whatever stands before them.
            let first = match at {
                0 => 0,
                at => fused.shape[0] - height * (kinds.len() - at) as u64,
            };
            Some((rows(fused, first, height), height))
        }
        other => panic!("nothing is written out for {other}"),
    }
}

fn recipe(map: &str, rest: &str) -> String {
    format!(
        "mixdown: 1\nmodels:\n  target: target\n  source: {{path: source, map: {map}}}\nbase: target\n{rest}"
    )
}

/// Each tensor is what the map's formula says, byte for byte.
#[test]
fn models_seen_through_maps_are_what_their_formulas_say() {
    for (map, (target, source), _) in MAPS {
        let space = Space::new();
        let (config, own) = small(target, DType::Bf16, 1);
        let (source_config, theirs) = small(source, DType::Bf16, 2);
        write(&space, "target", &config, &own);
        write(&space, "source", &source_config, &theirs);
        let found = merged(&space, &recipe(map, "rules: [{keep: source}]\n"));
        let mut kept = 0;
        for (name, tensor) in &own {
            let mut expected = tensor.data.clone();
            match by_hand(map, name, tensor, &theirs) {
                None => kept += 1,
                Some((bytes, _)) => expected[..bytes.len()].copy_from_slice(&bytes),
            }
            assert_eq!(found.tensor(name).data, expected, "{map}: {name}");
        }
        assert_eq!(found.names().len(), own.len(), "{map}");
        assert!(kept < own.len() / 2 + 40, "{map} keeps {kept} of {}", own.len());
    }
}

/// Where source and target hold the same numbers a merge changes nothing; where α is 0 neither; and what
/// is kept is kept whatever α is.
#[test]
fn identical_relatives_merge_to_the_target() {
    for dtype in [DType::Bf16, DType::F32] {
        for (map, (target, source), _) in MAPS {
            let space = Space::new();
            let (config, mut own) = small(target, dtype, 1);
            let (source_config, theirs) = small(source, dtype, 2);
            for (name, tensor) in &mut own {
                if let Some((bytes, _)) = by_hand(map, name, tensor, &theirs) {
                    tensor.data[..bytes.len()].copy_from_slice(&bytes);
                }
            }
            write(&space, "target", &config, &own);
            write(&space, "source", &source_config, &theirs);
            let found = merged(&space, &recipe(map, "method: adamms\nparameters: {alpha: 0.3}\n"));
            assert_eq!(found.tensors, own, "{map}, {dtype}");
        }
    }
}

#[test]
fn a_mapped_merge_is_the_line_between_both() {
    let space = Space::new();
    let (config, own) = small("qwen2_vl", DType::F32, 1);
    let (source_config, theirs) = small("llava_onevision", DType::F32, 2);
    write(&space, "target", &config, &own);
    write(&space, "source", &source_config, &theirs);
    let map = "{name: llava-onevision-hf-to-qwen2-vl, let: {text_rows: 80}}";
    let with = |alpha: &str, more: &str| {
        let recipe =
            recipe(map, &format!("method: adamms\nparameters: {{alpha: {alpha}{more}}}\n"));
        merge(&space, &recipe, &["--force"]).success();
        read_checkpoint(space.path("merged")).tensors
    };
    assert_eq!(with("0", ""), own, "with 0 it is the target");
    let found = with("0.3", "");
    for (name, tensor) in &own {
        let from = match name.starts_with("visual.") {
            true => None,
            false => Some(theirs[&format!("language_model.{name}")].values()),
        };
        let rows = match name.as_str() {
            "model.embed_tokens.weight" | "lm_head.weight" => 80,
            _ => tensor.shape[0],
        };
        let merged = (rows * tensor.elements() / tensor.shape[0]) as usize;
        let (kept, result) = (tensor.values(), found[name].values());
        for (at, (own, result)) in kept.iter().zip(&result).enumerate() {
            match from.as_ref().filter(|_| at < merged) {
                None => assert_eq!(own.to_bits(), result.to_bits(), "{name}, element {at}"),
                Some(from) => {
                    let exact = 0.7 * own + 0.3 * from[at];
                    let bound = 3e-7 * (own.abs() + from[at].abs());
                    assert!((exact - result).abs() <= bound, "{name}, element {at}");
                }
            }
        }
    }
    let all = with("1", "");
    let name = "model.layers.0.mlp.up_proj.weight";
    assert_eq!(all[name].data, theirs[&format!("language_model.{name}")].data);
}

/// The released scripts work in the storage type: both products are rounded, and their sum.
#[test]
fn the_released_arithmetic_rounds_three_times() {
    let space = Space::new();
    let (config, own) = small("llava_original", DType::Bf16, 1);
    let (_, theirs) = small("sharegpt4v", DType::Bf16, 2);
    write(&space, "target", &config, &own);
    write(&space, "source", &config, &theirs);
    let settings = "method: adamms\nparameters: {alpha: 0.3, arith: torch_inplace}\n";
    let found = merged(&space, &recipe("sharegpt4v-to-llava", settings));
    let round = |value: f64| Tensor::new("x", DType::Bf16, &[1], &[value]).values()[0];
    let name = "model.layers.1.self_attn.q_proj.weight";
    let pairs = own[name].values().into_iter().zip(theirs[name].values());
    let factors = (f64::from(0.7_f32), f64::from(0.3_f32));
    let expected: Vec<f64> = pairs
        .map(|(own, other)| {
            // Products of two f32 numbers are exact in f64, so that each is rounded as in f32.
            let own = round(f64::from((factors.0 * own) as f32));
            round(own + round(f64::from((factors.1 * other) as f32)))
        })
        .collect();
    assert_eq!(found.values(name), expected);
}

/// A map with every expression, with the values written out by hand.
#[test]
fn every_expression_is_what_it_says() {
    let space = Space::new();
    let dtype = DType::F32;
    let shapes: [(&str, &[u64]); 13] = [
        ("a", &[6, 4]),
        ("u", &[6]),
        ("b", &[6, 4]),
        ("v", &[6]),
        ("w", &[2]),
        ("heads", &[16, 3]),
        ("heads_bias", &[16]),
        ("e.0.w", &[2, 3]),
        ("e.1.w", &[2, 3]),
        ("e.2.w", &[2, 3]),
        ("new.x", &[3]),
        ("gone", &[5]),
        ("h", &[3, 4]),
    ];
    let source: Tensors = shapes
        .iter()
        .map(|(name, shape)| ((*name).to_owned(), random(name, dtype, shape, 2)))
        .collect();
    let value = |name: &str, row: usize, column: usize| {
        let tensor = &source[name];
        let columns = tensor.shape.get(1).copied().unwrap_or(1) as usize;
        tensor.values()[row * columns + column]
    };
    let matrix = |rows: usize, columns: usize, of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..rows).flat_map(|row| (0..columns).map(move |column| of(row, column))).collect()
    };
    // Two key-value heads with two queries each, of 2 rows: a group has 4 + 2 + 2 rows.
    let queries = |row: usize| row / 4 * 8 + row % 4;
    let keys = |row: usize| row / 2 * 8 + 4 + row % 2;
    let own = random("kept_rows", dtype, &[8, 4], 1);
    let own_values = own.values();
    let expected: Vec<(&str, Vec<u64>, Vec<f64>)> = vec![
        (
            "below",
            vec![9, 4],
            matrix(9, 4, &|r, c| if r < 6 { value("a", r, c) } else { value("h", r - 6, c) }),
        ),
        (
            "beside",
            vec![6, 8],
            matrix(6, 8, &|r, c| if c < 4 { value("a", r, c) } else { value("b", r, c - 4) }),
        ),
        (
            "vectors",
            vec![8],
            matrix(8, 1, &|r, _| if r < 6 { value("v", r, 0) } else { value("w", r - 6, 0) }),
        ),
        ("middle", vec![2, 4], matrix(2, 4, &|r, c| value("a", r + 2, c))),
        ("right", vec![6, 3], matrix(6, 3, &|r, c| value("a", r, c + 1))),
        ("turned", vec![4, 6], matrix(4, 6, &|r, c| value("a", c, r))),
        ("turned_part", vec![2, 6], matrix(2, 6, &|r, c| value("a", c, r + 2))),
        (
            "turned_below",
            vec![8, 6],
            matrix(8, 6, &|r, c| if r < 4 { value("a", c, r) } else { value("b", c, r - 4) }),
        ),
        (
            "turned_beside",
            vec![4, 12],
            matrix(4, 12, &|r, c| if c < 6 { value("a", c, r) } else { value("b", c - 6, r) }),
        ),
        ("lying", vec![1, 6], matrix(1, 6, &|_, c| value("a", c, 1))),
        ("mean", vec![6, 4], matrix(6, 4, &|r, c| (value("a", r, c) + value("b", r, c)) / 2.0)),
        (
            "mean_below",
            vec![9, 4],
            matrix(9, 4, &|r, c| {
                if r < 6 {
                    (value("a", r, c) + value("b", r, c)) / 2.0
                } else {
                    value("h", r - 6, c)
                }
            }),
        ),
        (
            "stack",
            vec![3, 2, 3],
            matrix(6, 3, &|r, c| value(["e.0.w", "e.1.w", "e.2.w"][r / 2], r % 2, c)),
        ),
        (
            "stack_vectors",
            vec![2, 6],
            matrix(2, 6, &|r, c| if r == 0 { value("v", c, 0) } else { value("u", c, 0) }),
        ),
        ("q", vec![8, 3], matrix(8, 3, &|r, c| value("heads", queries(r), c))),
        ("k", vec![4, 3], matrix(4, 3, &|r, c| value("heads", keys(r), c))),
        ("v_bias", vec![4], matrix(4, 1, &|r, _| value("heads_bias", keys(r) + 2, 0))),
        (
            "pairs",
            vec![3, 4, 3],
            matrix(12, 3, &|r, c| {
                let name = if r % 4 < 2 { ["e.0.w", "e.1.w", "e.2.w"][r / 4] } else { "e.0.w" };
                value(name, r % 2, c)
            }),
        ),
        ("first", vec![3], matrix(3, 1, &|r, _| value("new.x", r, 0))),
        ("zero", vec![2], vec![0.0; 2]),
        (
            "kept_rows",
            vec![8, 4],
            matrix(8, 4, &|r, c| if r < 5 { value("a", r, c) } else { own_values[r * 4 + c] }),
        ),
        ("cut_rows", vec![2, 4], matrix(2, 4, &|r, c| value("a", r, c))),
    ];
    let mut target: Tensors = expected
        .iter()
        .map(|(name, shape, _)| ((*name).to_owned(), random(name, dtype, shape, 1)))
        .collect();
    target.insert("kept_rows".to_owned(), own);
    let config = json!({"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8});
    write(&space, "target", &config, &target);
    write(&space, "source", &json!({}), &source);
    space.write("maps/all.yaml", ALL_EXPRESSIONS);
    let found = merged(&space, &recipe("all", "rules: [{keep: source}]\n"));
    for (name, shape, values) in &expected {
        assert_eq!(found.tensor(name).shape, *shape, "{name}");
        let expected = Tensor::new(name, dtype, shape, values).values();
        assert_eq!(found.values(name), expected, "{name}");
    }
}

const ALL_EXPRESSIONS: &str = "
mixdown_map: 1
name: all
target: any
source: any
let: {most: 5}
rules:
  - {to: below, from: {concat: [a, h]}}
  - {to: beside, from: {concat: [a, b], dim: 1}}
  - {to: vectors, from: {concat: [v, w]}}
  - {to: middle, from: {slice: a, part: 1, parts: 3}}
  - {to: right, from: {slice: a, dim: 1, part: 1, sizes: [1, 3]}}
  - {to: turned, from: {transpose: a}}
  - {to: turned_part, from: {transpose: {slice: a, dim: 1, part: 1, parts: 2}}}
  - {to: turned_below, from: {concat: [{transpose: a}, {transpose: b}]}}
  - {to: turned_beside, from: {transpose: {concat: [a, b]}}}
  - {to: lying, from: {transpose: {slice: a, dim: 1, part: 1, parts: 4}}}
  - {to: mean, from: {mean: [a, b]}}
  - {to: mean_below, from: {concat: [{mean: [a, b]}, h]}}
  - {to: stack, from: {stack: [\"e.{e}.w\"]}}
  - {to: stack_vectors, from: {stack: [v, u]}}
  - {to: q, from: {ungroup_qkv: heads, part: q}}
  - {to: k, from: {ungroup_qkv: heads, part: k}}
  - {to: v_bias, from: {ungroup_qkv: heads_bias, part: v}}
  - {to: pairs, from: {stack: [{concat: [\"e.{e}.w\", \"e.0.w\"]}]}}
  - {to: first, from: {first_of: [old.x, new.x]}}
  - {to: zero, from: zero}
  - {to: kept_rows, from: {pad_rows: {rows: a, take: most}}}
  - {to: cut_rows, from: {pad_rows: {rows: a}}}
unused: gone
";

/// Tensors of many blocks, put together in each way: the bytes do not depend on threads or memory.
#[test]
fn threads_and_memory_change_nothing() {
    let space = Space::new();
    let shape = [700, 301];
    let mut source: Tensors = ["a", "b"]
        .iter()
        .map(|name| ((*name).to_owned(), random(name, DType::Bf16, &shape, 2)))
        .collect();
    let mixed = random("c", DType::F16, &[700, 301], 2);
    source.insert("c".to_owned(), mixed);
    // More than a few megabytes, so that it is read in several bands.
    source.insert("wide".to_owned(), random("wide", DType::F32, &[1500, 1100], 2));
    let shapes: [(&str, &[u64]); 5] = [
        ("turned_wide", &[1100, 1500]),
        ("turned", &[301, 700]),
        ("beside", &[700, 602]),
        ("mixed", &[1400, 301]),
        ("kept", &[900, 301]),
    ];
    let target: Tensors = shapes
        .iter()
        .map(|(name, shape)| ((*name).to_owned(), random(name, DType::Bf16, shape, 1)))
        .collect();
    write(&space, "target", &json!({}), &target);
    write(&space, "source", &json!({}), &source);
    space.write(
        "maps/blocks.yaml",
        "mixdown_map: 1\nname: blocks\ntarget: any\nsource: any\nrules:\n\
         - {to: turned, from: {transpose: a}}\n\
         - {to: turned_wide, from: {transpose: wide}}\n\
         - {to: beside, from: {concat: [a, b], dim: 1}}\n\
         - {to: mixed, from: {concat: [a, c]}}\n\
         - {to: kept, from: {pad_rows: {rows: b}}}\n",
    );
    let recipe = recipe("blocks", "method: adamms\nparameters: {alpha: 0.25}\n");
    let run = |arguments: &[&str]| {
        merge(&space, &recipe, &[&["--force", "--no-cache"], arguments].concat()).success();
        space
            .files_under("merged")
            .into_iter()
            .filter(|(name, _)| name.ends_with(".safetensors"))
            .collect::<Vec<_>>()
    };
    let expected = run(&["--threads", "1"]);
    assert_eq!(run(&["--threads", "3"]), expected);
    assert_eq!(run(&["--threads", "2", "--memory", "24MB"]), expected);
    let found = read_checkpoint(space.path("merged"));
    assert_eq!(found.tensor("mixed").dtype, DType::Bf16, "the output is of the target's type");
    let (own, other) = (target["turned"].values(), source["a"].values());
    let exact = |row: usize, column: usize| {
        let (own, other) = (own[row * 700 + column], other[column * 301 + row]);
        Tensor::new("x", DType::Bf16, &[1], &[f64::from(0.75 * own as f32 + 0.25 * other as f32)])
    };
    let values = found.values("turned");
    let wide = (target["turned_wide"].values(), source["wide"].values());
    for (at, found) in found.values("turned_wide").into_iter().enumerate() {
        let other = wide.1[at % 1500 * 1100 + at / 1500];
        let value = f64::from(0.75 * wide.0[at] as f32 + 0.25 * other as f32);
        // Half a unit in the last place of bf16.
        assert!((found - value).abs() <= value.abs() / 256.0, "element {at}: {found}, {value}");
    }
    for (row, column) in [(0, 0), (300, 699), (17, 255), (255, 17)] {
        assert_eq!(vec![values[row * 700 + column]], exact(row, column).values());
    }
}

/// A model seen through a map is an ordinary model: what a method does with it is what it does with a
/// checkpoint of the same tensors.
#[test]
fn every_method_merges_mapped_models() {
    let space = Space::new();
    let (config, own) = small("mistral", DType::F32, 1);
    let (source_config, theirs) = small("phi3", DType::F32, 2);
    write(&space, "target", &config, &own);
    write(&space, "source", &source_config, &theirs);
    let view = merged(&space, &recipe("phi3-to-mistral", "rules: [{keep: source}]\n")).tensors;
    write(&space, "plain", &config, &view);
    std::fs::remove_dir_all(space.path("merged")).unwrap();
    for (method, parameters) in [
        ("linear", "weight: 0.4"),
        ("slerp", "t: 0.3"),
        ("ties", "weight: 0.7, density: 0.5"),
        ("dare_ties", "weight: 0.7, density: 0.5"),
        ("task_arithmetic", "weight: 0.7"),
        ("optmerge", "steps: 20"),
        ("iso_c", ""),
    ] {
        let rest = format!("method: {method}\nparameters: {{{parameters}}}\n");
        merge(&space, &recipe("phi3-to-mistral", &rest), &["--force"]).success();
        let mapped = read_checkpoint(space.path("merged")).tensors;
        let plain =
            format!("mixdown: 1\nmodels: {{target: target, source: plain}}\nbase: target\n{rest}");
        merge(&space, &plain, &["--force"]).success();
        assert_eq!(mapped, read_checkpoint(space.path("merged")).tensors, "{method}");
    }
}

/// Task vectors across architectures: base and ancestor are seen through the same map.
#[test]
fn an_ancestor_can_be_seen_through_the_map() {
    let space = Space::new();
    let (config, own) = small("cogvlm", DType::F32, 1);
    let (source_config, theirs) = small("llava_original", DType::F32, 2);
    let (ancestor_config, mut ancestor) = small("llava_original", DType::F32, 3);
    ancestor.retain(|name, _| !name.contains("mm_projector"));
    write(&space, "cogvlm", &config, &own);
    write(&space, "llava", &source_config, &theirs);
    write(&space, "vicuna", &ancestor_config, &ancestor);
    let recipe = "mixdown: 1\nmodels:\n  cogvlm: cogvlm\n\
                  \x20 llava: {path: llava, map: {name: llava-to-cogvlm, target: cogvlm}}\n\
                  \x20 vicuna: {path: vicuna, map: {name: llava-to-cogvlm, target: cogvlm}}\n\
                  base: vicuna\nmethod: task_arithmetic\nparameters: {weight: 0.5}\n";
    let found = merged(&space, recipe);
    let name = "model.layers.1.self_attn.vision_expert_dense.weight";
    let of = "model.layers.1.self_attn.o_proj.weight";
    let (base, a, b) = (ancestor[of].values(), own[name].values(), theirs[of].values());
    for (at, result) in found.values(name).iter().enumerate() {
        let exact = base[at] + 0.5 * (a[at] - base[at]) + 0.5 * (b[at] - base[at]);
        assert!((exact - result).abs() < 1e-6 * (base[at].abs() + a[at].abs() + b[at].abs()));
    }
    for name in own.keys().filter(|name| name.starts_with("model.vision.")) {
        assert_eq!(found.tensor(name).data, own[name].data, "{name} is kept");
    }
    let config: Value = serde_json::from_slice(&space.read("merged/config.json")).unwrap();
    assert_eq!(config["architectures"][0], "CogVLMForCausalLM");
}

#[test]
fn appendix_b_keeps_what_the_source_has_no_second_of() {
    let space = Space::new();
    let (config, own) = small("cogvlm", DType::Bf16, 1);
    let (source_config, theirs) = small("llava_original", DType::Bf16, 2);
    write(&space, "target", &config, &own);
    write(&space, "source", &source_config, &theirs);
    let map = "{name: llava-to-cogvlm, policy: appendix-b}";
    let found = merged(&space, &recipe(map, "method: adamms\nparameters: {alpha: 0.3}\n"));
    for (name, tensor) in &own {
        let is_vision = ["model.vision.", "vision_expert", "vision_mlp", "inv_freq"];
        let is_kept = is_vision.iter().any(|part| name.contains(part));
        assert_eq!(found.tensor(name).data == tensor.data, is_kept, "{name}");
    }
}

/// Every map against the headers of the published checkpoints in their real sizes.
#[test]
fn maps_fit_the_published_checkpoints() {
    for (map, _, pair) in MAPS {
        let Some((target, source)) = pair else { continue };
        let space = Space::new();
        published(&space, "org/target", target);
        published(&space, "org/source", source);
        let arguments = ["map", "check", map, "org/target", "org/source", "--json"];
        let found = Program::new(&space).args(arguments).run().success().json();
        let of = |side: &str, key: &str| found[side][key].as_u64().unwrap();
        assert_eq!(
            of("target", "mapped") + of("target", "kept"),
            Published::read(target).tensors.len() as u64,
            "{map}"
        );
        assert_eq!(
            of("source", "used") + of("source", "unused"),
            Published::read(source).tensors.len() as u64,
            "{map}"
        );
        let partly = found["source"]["partly_used"].as_array().unwrap().len();
        // Of CogVLM's vision experts the queries have no place in mPLUG-Owl2.
        assert_eq!(partly, if *map == "cogvlm-to-mplug-owl2" { 32 } else { 0 }, "{map}");
    }
}

/// What a person reads of a map and its check.
#[test]
fn a_check_says_what_a_map_does() {
    let space = Space::new();
    let (config, own) = small("mplug_owl2", DType::Bf16, 1);
    let (source_config, theirs) = small("cogvlm", DType::Bf16, 2);
    write(&space, "target", &config, &own);
    write(&space, "source", &source_config, &theirs);
    let run = |arguments: &[&str]| Program::new(&space).args(arguments).run().success().stdout;
    with_snapshots(|| {
        let checked = run(&["map", "check", "cogvlm-to-mplug-owl2", "target", "source"]);
        insta::assert_snapshot!("check", checked);
        insta::assert_snapshot!("list", run(&["map", "list"]));
    });
    let shown = run(&["map", "show", "sharegpt4v-to-llava"]);
    assert!(shown.starts_with("mixdown_map: 1\nname: sharegpt4v-to-llava\n"), "{shown}");
}

/// Checks a map of one's own, for a target with `a` [4, 4], `b` [4, 4] and `c` [2], from a source with
/// the tensors `x` [4, 4], `y` [2, 4] and `z` [2].
#[track_caller]
fn refuse(name: &str, rules: &str) {
    let space = Space::new();
    let tensors = |all: &[(&str, &[u64])]| -> Tensors {
        all.iter()
            .map(|(name, shape)| ((*name).to_owned(), random(name, DType::F32, shape, 1)))
            .collect()
    };
    write(&space, "target", &json!({}), &tensors(&[("a", &[4, 4]), ("b", &[4, 4]), ("c", &[2])]));
    write(&space, "source", &json!({}), &tensors(&[("x", &[4, 4]), ("y", &[2, 4]), ("z", &[2])]));
    space.write(
        "maps/own.yaml",
        format!("mixdown_map: 1\nname: own\ntarget: any\nsource: any\n{rules}"),
    );
    let arguments = ["map", "check", "maps/own.yaml", "target", "source"];
    let checked = Program::new(&space).args(arguments).run().exits(2);
    assert_eq!(checked.stdout, "");
    // A merge through it says the same.
    let merged =
        merge(&space, &recipe("own", "method: adamms\nparameters: {alpha: 0.5}\n"), &[]).exits(2);
    let heads = |talk: &str| -> Vec<String> {
        talk.lines().filter(|line| line.starts_with("error")).map(str::to_owned).collect()
    };
    assert_eq!(heads(&merged.talk()), heads(&checked.talk()));
    with_snapshots(|| insta::assert_snapshot!(name, checked.talk()));
}

#[test]
fn what_is_wrong_with_a_map_is_told_at_once() {
    refuse(
        "source_lacks_a_tensor",
        "rules:\n- {to: \"{p:a|b}\", from: xx}\n- {to: c, from: z}\nunused: [x, y]\n",
    );
    refuse(
        "two_rules_for_one_target",
        "rules:\n- {to: a, from: x}\n- {to: \"{n}\", from: keep}\n- {to: b, from: x}\nunused: [y, z]\n",
    );
    refuse(
        "shapes_disagree",
        "rules:\n- {to: a, from: {concat: [y, y, y]}}\n- {to: b, from: {concat: [x, y], dim: 1}}\n- {to: c, from: {transpose: z}}\n",
    );
    refuse("uncovered_and_forgotten", "rules:\n- {to: a, from: x}\n- {to: d, from: x}\n");
    refuse("forgotten", "rules:\n- {to: a, from: x}\n- {to: \"{n}\", from: keep}\n");
    refuse(
        "sizes",
        "rules:\n- {to: a, from: {slice: x, part: 0, parts: 3}}\n- {to: b, from: {slice: x, part: 1, sizes: [q_dim, 2]}}\n- {to: c, from: {slice: z, part: 0, sizes: [1, 3]}}\nunused: y\n",
    );
    refuse(
        "rows",
        "rules:\n- {to: a, from: y}\n- {to: b, from: {pad_rows: {rows: z}}}\n- {to: c, from: {ungroup_qkv: z, part: q}}\nunused: x\n",
    );
}

/// Rows that are other than a map says are told, whether a number says so or nothing does.
#[test]
fn rows_are_never_clamped_in_silence() {
    let space = Space::new();
    let matrix = |rows: u64| vec![("m".to_owned(), random("m", DType::F32, &[rows, 4], 1))];
    for (name, rows) in [("four", 4), ("six", 6)] {
        write(&space, name, &json!({}), &matrix(rows).into_iter().collect());
    }
    let check = |target: &str, source: &str, take: &str| {
        let text = "mixdown_map: 1\nname: own\ntarget: any\nsource: any\nrules:\n- {to: m, from: {pad_rows: {rows: m";
        space.write("maps/own.yaml", format!("{text}{take}}}}}}}\n"));
        space.write("recipe.yaml", format!("mixdown: 1\nmodels:\n  target: {target}\n  source: {{path: {source}, map: own}}\nbase: target\nmethod: adamms\nparameters: {{alpha: 0.5}}\n"));
        let outcome = mixdown_kit::mixdown(&space, ["check", "recipe.yaml"]).success();
        let headline = outcome.stderr.lines().find(|line| line.contains("W0656"));
        headline.map(str::to_owned)
    };
    let told = |taken: u64, asked: u64| {
        Some(format!("warning[W0656]: `pad_rows` takes {taken} rows, and not {asked}"))
    };
    assert_eq!(check("six", "four", ""), None, "the target's own rows follow: what padding is");
    assert_eq!(check("six", "four", ", take: 3"), None);
    assert_eq!(check("four", "six", ", take: 4"), None);
    assert_eq!(check("four", "six", ""), told(4, 6));
    assert_eq!(check("six", "four", ", take: 5"), told(4, 5));
    assert_eq!(check("four", "six", ", take: 7"), told(4, 7));
}

#[track_caller]
fn refuse_recipe(name: &str, recipe: &str) {
    let space = Space::new();
    let (config, own) = small("llava_original", DType::Bf16, 1);
    write(&space, "target", &config, &own);
    write(&space, "source", &config, &own);
    let talk = mixdown_suite::refusal(&space, recipe, &[], 2);
    with_snapshots(|| insta::assert_snapshot!(name, talk));
}

#[test]
fn what_is_wrong_with_a_recipe_is_told() {
    let adamms = "method: adamms\nparameters: {alpha: 0.5}\n";
    refuse_recipe("unknown_map", &recipe("sharegpt4-to-llava", adamms));
    refuse_recipe(
        "no_target",
        &format!(
            "mixdown: 1\nmodels:\n  source: {{path: source, map: sharegpt4v-to-llava}}\n  other: target\n{}",
            "method: linear\nparameters: {weight: 1}\n"
        ),
    );
    refuse_recipe(
        "unknown_number",
        &recipe("{name: sharegpt4v-to-llava, let: {text_rows: 3}, polisy: main-text}", adamms),
    );
    refuse_recipe(
        "target_is_mapped",
        &format!(
            "mixdown: 1\nmodels:\n  a: {{path: source, map: {{name: sharegpt4v-to-llava, target: b}}}}\n  b: {{path: target, map: sharegpt4v-to-llava}}\nbase: a\n{adamms}"
        ),
    );
    refuse_recipe("file_not_there", &recipe("./maps/mine.yaml", adamms));
}

/// Integers are copied and compared, never computed: zeros that a map makes can be neither.
#[test]
fn zeros_for_integers_are_refused() {
    let space = Space::new();
    for model in ["a", "b"] {
        let weight = Tensor::new("w", DType::F32, &[2, 3], &[1.0; 6]);
        let ids = Tensor::new("x.ids", DType::I64, &[4], &[7.0, 8.0, 9.0, 10.0]);
        let bytes = safetensors_bytes(&[&weight, &ids]);
        space.write(format!("{model}/model.safetensors"), bytes);
    }
    let map = "mixdown_map: 1\nname: m\nsummary: t\ntarget: llama\nsource: llama\nunused: [x.ids]\n\
               rules:\n  - to: w\n  - {to: x.ids, from: zero}\n";
    space.write("maps/m.yaml", map);
    let models =
        "mixdown: 1\nmodels:\n  a: {path: ./a, map: {name: maps/m.yaml, target: b}}\n  b: ./b\n";
    for experts in ["[a]", "[a, b]", "[b, a]"] {
        let rule = format!(
            "rules:\n  - {{method: linear, experts: {experts}, parameters: {{weight: 1}}}}\n"
        );
        let told = mixdown_suite::refusal(&space, &format!("{models}{rule}"), &[], 2);
        assert!(told.contains("E0308") && told.contains("keep: NAME"), "{told}");
    }
    // The rule that the help names.
    let keep = "rules:\n  - {tensors: [x.ids], keep: b}\n  - {method: linear, experts: [a, b], parameters: {weight: 1}}\n";
    let kept = mixdown_suite::merged(&space, &format!("{models}{keep}"));
    assert_eq!(kept.values("x.ids"), [7.0, 8.0, 9.0, 10.0]);
}
