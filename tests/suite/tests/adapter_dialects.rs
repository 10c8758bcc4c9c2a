//! Adapters of other programs than peft: kohya's scripts and LyCORIS, diffusers, mlx_lm.
//!
//! Catches a scale of another program, factors that lie the other way round, a name with underscores that is
//! taken for the wrong tensor, and updates that are left out in silence. Expected numbers are the programs' own
//! formulas in f64.

use mixdown_kit::raw::{raw_safetensors, safetensors_bytes};
use mixdown_kit::{DType, Outcome, Space, Tensor, mixdown, read_checkpoint};

const Q: &str = "down_blocks.0.attn1.to_q.weight";
const OUT: &str = "down_blocks.0.attn1.to_out.0.weight";
const CONV: &str = "conv_in.weight";

/// Numbers between -1 and 1 that f32 holds.
fn numbers(count: u64, seed: u64) -> Vec<f64> {
    (0..count).map(|at| ((at * 37 + seed * 11 + 5) % 64) as f64 / 32.0 - 1.0).collect()
}

fn tensor(name: &str, shape: &[u64], seed: u64) -> Tensor {
    Tensor::new(name, DType::F32, shape, &numbers(shape.iter().product(), seed))
}

fn scalar(name: &str, value: f64) -> Tensor {
    Tensor::new(name, DType::F32, &[], &[value])
}

/// A model of two linear layers and a convolution, with names that begin so.
fn base(space: &Space, start: &str) {
    let tensors = [(Q, vec![6, 4]), (OUT, vec![4, 6]), (CONV, vec![4, 2, 3, 3])];
    let tensors: Vec<Tensor> = (tensors.iter().zip(50..))
        .map(|((name, shape), seed)| tensor(&format!("{start}{name}"), shape, seed))
        .collect();
    write(space, "base/model.safetensors", &tensors);
}

fn write(space: &Space, path: &str, tensors: &[Tensor]) {
    space.write(path, safetensors_bytes(&tensors.iter().collect::<Vec<_>>()));
}

/// Merges `base+ADAPTER`.
fn merged(space: &Space, adapter: &str) -> Outcome {
    let recipe =
        format!("merge_method: passthrough\nmodels: [{{model: base+{adapter}}}]\ndtype: float32\n");
    space.write("recipe.yaml", recipe);
    mixdown(space, ["merge", "recipe.yaml", "--out", "merged"])
}

/// scale · b · a of [out, r] and [r, in].
fn product(b: &[f64], a: &[f64], rank: usize, scale: f64) -> Vec<f64> {
    let (rows, columns) = (b.len() / rank, a.len() / rank);
    (0..rows * columns)
        .map(|at| {
            let (row, column) = (at / columns, at % columns);
            let sum: f64 = (0..rank).map(|k| b[row * rank + k] * a[k * columns + column]).sum();
            sum * scale
        })
        .collect()
}

/// The output's tensor is the base's and this.
#[track_caller]
fn assert_added(space: &Space, name: &str, added: &[f64]) {
    let (base, out) = (read_checkpoint(space.path("base")), read_checkpoint(space.path("merged")));
    let (base, out) = (base.values(name), out.values(name));
    assert_eq!(base.len(), added.len(), "{name}");
    for ((base, out), added) in base.iter().zip(&out).zip(added) {
        assert!((base + added - out).abs() < 1e-5, "{name}: {base} + {added} is not {out}");
    }
}

#[track_caller]
fn refused(outcome: &Outcome, words: &[&str]) {
    assert!(matches!(outcome.status, Some(1 | 2)), "{}", outcome.stderr);
    for word in words {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
}

/// LoRA of kohya's scripts on a linear layer of rank 2 and α 1, and without α on a convolution.
fn kohya() -> Vec<Tensor> {
    vec![
        tensor("lora_unet_down_blocks_0_attn1_to_q.lora_down.weight", &[2, 4], 1),
        tensor("lora_unet_down_blocks_0_attn1_to_q.lora_up.weight", &[6, 2], 2),
        scalar("lora_unet_down_blocks_0_attn1_to_q.alpha", 1.0),
        tensor("lora_unet_conv_in.lora_down.weight", &[3, 2, 3, 3], 3),
        tensor("lora_unet_conv_in.lora_up.weight", &[4, 3, 1, 1], 4),
    ]
}

#[test]
fn kohya_names_have_underscores() {
    // Names of a part of a pipeline by itself, and of a whole checkpoint in one file.
    for start in ["", "model.diffusion_model."] {
        let space = Space::new();
        base(&space, start);
        write(&space, "lora.safetensors", &kohya());
        let outcome = merged(&space, "lora.safetensors").success();
        assert!(!outcome.stderr.contains("W0629"), "{}", outcome.stderr);
        let linear = product(&numbers(12, 2), &numbers(8, 1), 2, 0.5);
        assert_added(&space, &format!("{start}{Q}"), &linear);
        let convolution = product(&numbers(12, 4), &numbers(54, 3), 3, 1.0);
        assert_added(&space, &format!("{start}{CONV}"), &convolution);
        assert_added(&space, &format!("{start}{OUT}"), &[0.0; 24]);
    }
}

/// A folder with nothing but the file is the adapter too, named alone beside its base.
#[test]
fn a_file_is_known_by_what_is_in_it() {
    let space = Space::new();
    base(&space, "");
    write(&space, "adapter/any-name.safetensors", &kohya());
    let recipe = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n  \
                  - {model: adapter, parameters: {weight: 0.5}}\ndtype: float32\n";
    space.write("recipe.yaml", recipe);
    mixdown(&space, ["merge", "recipe.yaml", "--out", "merged"]).success();
    assert_added(&space, Q, &product(&numbers(12, 2), &numbers(8, 1), 2, 0.25));
}

#[test]
fn other_parts_of_a_pipeline_are_left_out_with_a_word() {
    let space = Space::new();
    base(&space, "");
    let mut tensors = kohya();
    tensors.push(tensor("lora_te_text_model_q_proj.lora_down.weight", &[2, 4], 1));
    tensors.push(tensor("lora_te_text_model_q_proj.lora_up.weight", &[4, 2], 1));
    write(&space, "lora.safetensors", &tensors);
    let outcome = merged(&space, "lora.safetensors").success();
    for word in ["W0629", "1 updates whose names begin with `lora_te_` are left out"] {
        assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
    }
    assert_added(&space, Q, &product(&numbers(12, 2), &numbers(8, 1), 2, 0.5));
    // Some of a part is an error: the adapter is for another model.
    tensors.push(tensor("lora_unet_gone.lora_down.weight", &[2, 4], 1));
    tensors.push(tensor("lora_unet_gone.lora_up.weight", &[4, 2], 1));
    write(&space, "lora.safetensors", &tensors);
    refused(&merged(&space, "lora.safetensors"), &["E0314", "lora_unet_gone"]);
}

#[test]
fn a_name_that_may_be_two_is_refused() {
    let space = Space::new();
    let tensors = [tensor("a.b_c.weight", &[4, 4], 1), tensor("a_b.c.weight", &[4, 4], 2)];
    write(&space, "base/model.safetensors", &tensors);
    let tensors = [
        tensor("lora_unet_a_b_c.lora_down.weight", &[2, 4], 1),
        tensor("lora_unet_a_b_c.lora_up.weight", &[4, 2], 1),
    ];
    write(&space, "lora.safetensors", &tensors);
    let outcome = merged(&space, "lora.safetensors");
    refused(&outcome, &["may be any of several tensors of the base", "`a.b_c.weight`"]);
}

/// (w1_a · w1_b) ∘ (w2_a · w2_b) · α / r.
#[test]
fn loha_of_lycoris() {
    let space = Space::new();
    base(&space, "");
    let stem = "lora_unet_down_blocks_0_attn1_to_q";
    let tensors = [
        tensor(&format!("{stem}.hada_w1_a"), &[6, 2], 1),
        tensor(&format!("{stem}.hada_w1_b"), &[2, 4], 2),
        tensor(&format!("{stem}.hada_w2_a"), &[6, 2], 3),
        tensor(&format!("{stem}.hada_w2_b"), &[2, 4], 4),
        scalar(&format!("{stem}.alpha"), 3.0),
    ];
    write(&space, "loha.safetensors", &tensors);
    merged(&space, "loha.safetensors").success();
    let one = product(&numbers(12, 1), &numbers(8, 2), 2, 1.5);
    let two = product(&numbers(12, 3), &numbers(8, 4), 2, 1.0);
    let added: Vec<f64> = one.iter().zip(&two).map(|(a, b)| a * b).collect();
    assert_added(&space, Q, &added);
}

/// w1 ⊗ w2, scaled by α / r where one of them is of low rank, and not where both are whole.
#[test]
fn lokr_of_lycoris() {
    let space = Space::new();
    base(&space, "");
    let (q, out) = ("lora_unet_down_blocks_0_attn1_to_q", "lora_unet_down_blocks_0_attn1_to_out_0");
    let tensors = [
        tensor(&format!("{q}.lokr_w1"), &[2, 2], 1),
        tensor(&format!("{q}.lokr_w2_a"), &[3, 1], 2),
        tensor(&format!("{q}.lokr_w2_b"), &[1, 2], 3),
        scalar(&format!("{q}.alpha"), 0.5),
        tensor(&format!("{out}.lokr_w1"), &[2, 2], 4),
        tensor(&format!("{out}.lokr_w2"), &[2, 3], 5),
        scalar(&format!("{out}.alpha"), 1e10),
    ];
    write(&space, "lokr.safetensors", &tensors);
    merged(&space, "lokr.safetensors").success();
    let kron = |one: &[f64], two: &[f64], [rows, columns]: [usize; 2], scale: f64| -> Vec<f64> {
        let width = 2 * columns;
        (0..2 * rows * width)
            .map(|at| {
                let (row, column) = (at / width, at % width);
                let outer = one[row / rows * 2 + column / columns];
                outer * two[row % rows * columns + column % columns] * scale
            })
            .collect()
    };
    let two = product(&numbers(3, 2), &numbers(2, 3), 1, 1.0);
    assert_added(&space, Q, &kron(&numbers(4, 1), &two, [3, 2], 0.5));
    assert_added(&space, OUT, &kron(&numbers(4, 4), &numbers(6, 5), [2, 3], 1.0));
}

#[test]
fn what_no_factor_says_is_refused() {
    let more = |tensor: Tensor, words: &[&str]| {
        let space = Space::new();
        base(&space, "");
        let mut tensors = kohya();
        tensors.push(tensor);
        write(&space, "lora.safetensors", &tensors);
        refused(&merged(&space, "lora.safetensors"), words);
    };
    let q = "lora_unet_down_blocks_0_attn1_to_q";
    more(tensor(&format!("{q}.lora_mid.weight"), &[2, 2, 3, 3], 1), &["E0115", "`lora_mid`"]);
    more(tensor(&format!("{q}.dora_scale"), &[6, 1], 1), &["E0115", "`dora_scale`"]);
    more(tensor(&format!("{q}.hada_w1_a"), &[6, 2], 1), &["E0115", "mixes kinds", "LOHA, LORA"]);
    more(tensor("emb_params", &[6], 1), &["E0115", "no update of a module"]);
    more(tensor("lora_unet_conv_in.alpha", &[2], 1), &["is no usable α", "[2] f32"]);
    more(scalar("lora_unet_conv_in.alpha", f64::NAN), &["is no usable α", "NaN"]);
}

#[test]
fn diffusers_names_of_all_ages() {
    let ends = [
        ("attn1.processor.to_q_lora.down.weight", "attn1.processor.to_q_lora.up.weight"),
        ("attn1.to_q.lora.down.weight", "attn1.to_q.lora.up.weight"),
        ("attn1.to_q.lora_A.weight", "attn1.to_q.lora_B.weight"),
    ];
    for (down, up) in ends {
        let space = Space::new();
        base(&space, "");
        let tensors = [
            tensor(&format!("unet.down_blocks.0.{down}"), &[2, 4], 1),
            tensor(&format!("unet.down_blocks.0.{up}"), &[6, 2], 2),
            tensor(&format!("text_encoder.down_blocks.7.{down}"), &[2, 4], 1),
            tensor(&format!("text_encoder.down_blocks.7.{up}"), &[6, 2], 2),
        ];
        write(&space, "lora/pytorch_lora_weights.safetensors", &tensors);
        let outcome = merged(&space, "lora").success();
        assert!(outcome.stderr.contains("W0629"), "{}", outcome.stderr);
        assert_added(&space, Q, &product(&numbers(12, 2), &numbers(8, 1), 2, 1.0));
    }
}

/// Newer files say rank and α of each part in their metadata; an `alpha` beside the factors goes before.
#[test]
fn diffusers_says_alpha_in_two_places() {
    let tensors = [
        tensor("unet.down_blocks.0.attn1.to_q.lora_A.weight", &[2, 4], 1),
        tensor("unet.down_blocks.0.attn1.to_q.lora_B.weight", &[6, 2], 2),
        tensor("unet.down_blocks.0.attn1.to_out.0.lora_A.weight", &[2, 6], 3),
        tensor("unet.down_blocks.0.attn1.to_out.0.lora_B.weight", &[4, 2], 4),
        scalar("unet.down_blocks.0.attn1.to_out.0.alpha", 5.0),
    ];
    let sound = safetensors_bytes(&tensors.iter().collect::<Vec<_>>());
    let text = std::str::from_utf8(&sound[8..]);
    let text = text
        .unwrap_or_else(|error| std::str::from_utf8(&sound[8..8 + error.valid_up_to()]).unwrap());
    let end = text.rfind("]}}").unwrap() + 3;
    let said = r#"{"__metadata__":{"lora_adapter_metadata":"{\"unet.r\": 2, \"unet.lora_alpha\": 16, \"unet.use_rslora\": false}"},"#;
    let header = text[..end].replacen(r#"{"__metadata__":{"format":"pt"},"#, said, 1);
    let data = 8 + u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
    let space = Space::new();
    base(&space, "");
    space.write("lora/pytorch_lora_weights.safetensors", raw_safetensors(header, &sound[data..]));
    merged(&space, "lora").success();
    assert_added(&space, Q, &product(&numbers(12, 2), &numbers(8, 1), 2, 8.0));
    assert_added(&space, OUT, &product(&numbers(8, 4), &numbers(12, 3), 2, 2.5));
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const V: &str = "model.layers.0.self_attn.v_proj.weight";

fn mlx(space: &Space, config: &str, more: &[Tensor]) {
    let tensors = [tensor(EMBEDDING, &[8, 4], 50), tensor(V, &[6, 4], 51)];
    write(space, "base/model.safetensors", &tensors);
    let mut tensors = vec![
        tensor("model.layers.0.self_attn.v_proj.lora_a", &[4, 2], 1),
        tensor("model.layers.0.self_attn.v_proj.lora_b", &[2, 6], 2),
    ];
    tensors.extend_from_slice(more);
    write(space, "lora/adapters.safetensors", &tensors);
    space.write("lora/adapter_config.json", config);
}

/// scale · lora_bᵀ · lora_aᵀ for linear layers, scale · lora_a · lora_b for embeddings.
#[test]
fn mlx_multiplies_from_the_other_side() {
    let space = Space::new();
    let embedding = [
        tensor("model.embed_tokens.lora_a", &[8, 2], 3),
        tensor("model.embed_tokens.lora_b", &[2, 4], 4),
    ];
    let config = r#"{"fine_tune_type": "lora", "num_layers": 16, "model": "base",
        "lora_parameters": {"rank": 2, "dropout": 0.0, "scale": 20.0}}"#;
    mlx(&space, config, &embedding);
    merged(&space, "lora").success();
    let turned = product(&numbers(8, 1), &numbers(12, 2), 2, 20.0);
    let added: Vec<f64> = (0..24).map(|at| turned[at % 4 * 6 + at / 4]).collect();
    assert_added(&space, V, &added);
    assert_added(&space, EMBEDDING, &product(&numbers(16, 3), &numbers(8, 4), 2, 20.0));
}

/// Rows of base and update together get the norms `m`.
#[test]
fn dora_of_mlx() {
    let space = Space::new();
    let m: Vec<f64> = (1..=6).map(|one| f64::from(one) * 0.5).collect();
    let m = [Tensor::new("model.layers.0.self_attn.v_proj.m", DType::F32, &[6], &m)];
    let config = r#"{"fine_tune_type": "dora", "num_layers": 16,
        "lora_parameters": {"rank": 2, "dropout": 0.0, "scale": 3.0}}"#;
    mlx(&space, config, &m);
    merged(&space, "lora").success();
    let turned = product(&numbers(8, 1), &numbers(12, 2), 2, 3.0);
    let base = numbers(24, 51);
    let sums: Vec<f64> = (0..24).map(|at| base[at] + turned[at % 4 * 6 + at / 4]).collect();
    let found = read_checkpoint(space.path("merged")).values(V);
    for (row, (found, sums)) in found.chunks(4).zip(sums.chunks(4)).enumerate() {
        let norm = sums.iter().map(|one| one * one).sum::<f64>().sqrt();
        for (found, sum) in found.iter().zip(sums) {
            assert!((found - sum / norm * (row + 1) as f64 * 0.5).abs() < 1e-5, "row {row}");
        }
    }
}

#[test]
fn scales_of_mlx_that_are_not_known_are_refused() {
    let refuse = |config: &str, more: &[Tensor], words: &[&str]| {
        let space = Space::new();
        mlx(&space, config, more);
        refused(&merged(&space, "lora"), words);
    };
    let alpha = r#"{"lora_parameters": {"rank": 2, "alpha": 16, "scale": 10.0}}"#;
    refuse(alpha, &[], &["E0114", "has `alpha` beside `scale`", "remove `alpha`"]);
    refuse(r#"{"lora_parameters": {"rank": 2}}"#, &[], &["E0114", "no `lora_parameters.scale`"]);
    let zero = r#"{"lora_parameters": {"rank": 2, "scale": 0}}"#;
    refuse(zero, &[], &["E0114", "must be finite and not 0"]);
    let experts = [
        tensor("model.layers.0.mlp.switch_mlp.up_proj.lora_a", &[2, 2, 4], 1),
        tensor("model.layers.0.mlp.switch_mlp.up_proj.lora_b", &[2, 6, 2], 1),
    ];
    let sound = r#"{"lora_parameters": {"rank": 2, "scale": 2}}"#;
    refuse(sound, &experts, &["E0115", "stacks of experts"]);
}
