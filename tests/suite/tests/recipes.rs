//! The complete recipes of `recipes/`, checked and planned against headers of the checkpoints they name.
//!
//! Catches a recipe that a change of the language, of a method or of an architecture breaks, a rule
//! that claims other tensors than its comment says, and plans whose size follows the models'.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

use mixdown_kit::published::Published;
use mixdown_kit::{Program, Space, published};
use mixdown_suite::published_shapes::{linear_layers, modelcompose};
use mixdown_suite::repository;
use serde_json::Value;

/// Checks and plans a recipe of `recipes/`, with published checkpoints in the hub's cache.
#[track_caller]
fn plan(recipe: &str, models: &[(&str, &str)], arguments: &[&str]) -> Plan {
    let space = Space::new();
    for (id, fixture) in models {
        published(&space, id, fixture);
    }
    plan_in(&space, recipe, arguments)
}

#[track_caller]
fn plan_in(space: &Space, recipe: &str, arguments: &[&str]) -> Plan {
    let recipe = repository().join("recipes").join(recipe);
    let run = |command: &str| {
        let program = Program::new(space).args([OsStr::new(command), recipe.as_os_str()]);
        program.env("MIXDOWN_MEMORY", AVAILABLE).args(arguments).args(["--json"]).run().success()
    };
    let checked = run("check").json();
    assert_eq!(checked["ok"], true);
    assert_eq!(checked["diagnostics"], Value::Array(Vec::new()), "{checked:#}");
    Plan(run("plan").json())
}

/// The budget of a machine on which each of them is to run as its header says.
const AVAILABLE: &str = "12GB";

struct Plan(Value);

impl Plan {
    /// Names of the tensors that are not copied, with the op of their first matrix step, if any.
    fn merged(&self) -> BTreeMap<&str, Option<&str>> {
        let tensors = self.0["tensors"].as_array().expect("a plan lists tensors");
        let merged = tensors.iter().filter(|tensor| tensor["work"].get("copy").is_none());
        merged
            .map(|tensor| {
                let name = tensor["name"].as_str().expect("tensors have names");
                (name, tensor["work"]["matrices"][0]["op"].as_str())
            })
            .collect()
    }

    fn count(&self) -> usize {
        self.0["tensors"].as_array().map_or(0, Vec::len)
    }
}

/// Checks that these tensors, and no others, go through the interference objective; the rest is copied.
#[track_caller]
fn check_interference(plan: &Plan, expected: &[String], all: usize) {
    let expected = expected.iter().map(|name| (name.as_str(), Some("interference"))).collect();
    assert_eq!(plan.merged(), expected);
    assert_eq!(plan.count(), all);
}

/// A base and experts that are named by tasks, all of one size.
fn with_experts(base: &str, stem: &str, tasks: &[&str], fixture: &str) -> Vec<(String, String)> {
    let experts = tasks.iter().map(|task| format!("{stem}{task}"));
    [base.to_owned()].into_iter().chain(experts).map(|id| (id, fixture.to_owned())).collect()
}

fn borrowed(models: &[(String, String)]) -> Vec<(&str, &str)> {
    models.iter().map(|(id, fixture)| (id.as_str(), fixture.as_str())).collect()
}

const TASKS: [&str; 5] = ["OCR", "VQA", "Geometry", "Chart", "Grounding"];

#[test]
fn optmerge_of_qwen2_vl() {
    let models =
        with_experts("Qwen/Qwen2-VL-7B", "yongxianwei/Qwen2-VL-7B-", &TASKS, "qwen2_vl_7b");
    let plan = plan("optmerge/qwen2-vl-7b.yaml", &borrowed(&models), &[]);
    check_interference(&plan, &linear_layers("model.", 28), 730);
}

#[test]
fn optmerge_of_qwen2_vl_from_the_community() {
    let models = [
        "Qwen/Qwen2-VL-7B-Instruct",
        "lmms-lab/Qwen2-VL-7B-GRPO-8k",
        "hiyouga/Qwen2-VL-7B-Pokemon",
        "allenai/olmOCR-7B-0225-preview",
        "erax-ai/EraX-VL-7B-V1.0",
    ];
    let models = models.map(|id| (id, "qwen2_vl_7b"));
    let plan = plan("optmerge/qwen2-vl-7b-community.yaml", &models, &[]);
    check_interference(&plan, &linear_layers("model.", 28), 730);
}

#[test]
fn optmerge_of_internvl() {
    let (base, stem) = ("OpenGVLab/InternVL2_5-1B", "yongxianwei/InternVL2_5-1B_");
    let models = with_experts(base, stem, &TASKS, "internvl2_5_1b");
    let plan = plan("optmerge/internvl2.5-1b.yaml", &borrowed(&models), &[]);
    let mut expected = linear_layers("language_model.model.", 24);
    expected.extend(["mlp1.1.weight", "mlp1.3.weight"].map(str::to_owned));
    check_interference(&plan, &expected, 637);
}

#[test]
fn optmerge_of_qwen2_5_vl_with_experts_of_ones_own() {
    let tasks = ["geometry", "grounding", "chart", "vqa", "ocr"];
    let models = with_experts("Qwen/Qwen2.5-VL-32B-Instruct", "own/", &tasks, "qwen2_5_vl_32b");
    let set: Vec<String> =
        tasks.iter().map(|task| format!("--set=models.{task}=own/{task}")).collect();
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let plan = plan("optmerge/qwen2.5-vl-32b.yaml", &borrowed(&models), &set);
    check_interference(&plan, &linear_layers("model.", 64), 1161);
}

/// What the experts of a recipe of the CLIP benchmarks are.
fn clip_experts(recipe: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository().join("recipes").join(recipe)).unwrap();
    let ids = text.lines().filter_map(|line| line.trim().split_once(": ")).map(|(_, id)| id);
    ids.filter(|id| id.starts_with("tanganke/")).map(str::to_owned).collect()
}

#[test]
fn clip_on_eight_to_twenty_tasks() {
    for count in [8, 14, 20] {
        let recipe = format!("clip/vit-b-32-{count}-tasks.yaml");
        let experts = clip_experts(&recipe);
        assert_eq!(experts.iter().collect::<BTreeSet<_>>().len(), count);
        let base = [("openai/clip-vit-base-patch32", "clip_vit_b_32")];
        let experts = experts.iter().map(|id| (id.as_str(), "clip_vit_b_32_vision"));
        let models: Vec<(&str, &str)> = base.into_iter().chain(experts).collect();
        let plan = plan(&recipe, &models, &[]);
        let merged = plan.merged();
        // Each linear layer of the encoder, and its convolution.
        let solved = merged.values().filter(|op| **op == Some("task_singular_vectors")).count();
        assert_eq!(solved, 12 * 6 + 1, "{merged:?}");
        assert!(merged.keys().all(|name| name.starts_with("vision_model.")));
        assert_eq!(plan.count(), 398);
    }
}

#[test]
fn every_row_of_the_tables() {
    let (base, stem) = ("OpenGVLab/InternVL2_5-1B", "yongxianwei/InternVL2_5-1B_");
    let models = with_experts(base, stem, &TASKS, "internvl2_5_1b");
    for method in [
        "average",
        "task_arithmetic",
        "ties",
        "dare_linear",
        "dare_ties",
        "tsv",
        "iso_c",
        "wudi",
        "optmerge",
    ] {
        let set = format!("method={method}");
        let recipe = "optmerge/internvl2.5-1b-baselines.yaml";
        let plan = plan(recipe, &borrowed(&models), &["--set", &set]);
        assert_eq!(plan.merged().len(), 24 * 7 + 2, "{method}");
    }
    let plan = plan("optmerge/internvl2.5-1b-swudi.yaml", &borrowed(&models), &[]);
    let mut expected = linear_layers("language_model.model.", 24);
    expected.extend(["mlp1.1.weight", "mlp1.3.weight"].map(str::to_owned));
    check_interference(&plan, &expected, 637);
}

#[test]
fn baselines_and_swudi_of_qwen2_vl() {
    let models =
        with_experts("Qwen/Qwen2-VL-7B", "yongxianwei/Qwen2-VL-7B-", &TASKS, "qwen2_vl_7b");
    for name in ["swudi", "aswudi"] {
        let plan = plan(&format!("optmerge/qwen2-vl-7b-{name}.yaml"), &borrowed(&models), &[]);
        check_interference(&plan, &linear_layers("model.", 28), 730);
    }
    let recipe = "optmerge/qwen2-vl-7b-baselines.yaml";
    let plan = plan(recipe, &borrowed(&models), &["--set", "method=ties"]);
    assert_eq!(plan.merged().len(), 28 * 7);
}

/// Everything of a Qwen2 model's layers: their linear layers, biases and norms, and the norm after them.
fn layers_of_qwen2(prefix: &str, layers: usize) -> Vec<String> {
    let mut names = linear_layers(prefix, layers);
    for layer in 0..layers {
        let kinds = ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"];
        let norms = ["input_layernorm.weight", "post_attention_layernorm.weight"];
        let name = |kind: &str| format!("{prefix}layers.{layer}.{kind}");
        names.extend(kinds.into_iter().chain(norms).map(name));
    }
    names.push(format!("{prefix}norm.weight"));
    names
}

/// Checks that these tensors, and no others, are merged, and that so many are written.
#[track_caller]
fn check_merged(plan: &Plan, expected: &[String], all: usize) {
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    assert_eq!(plan.merged().into_keys().collect::<BTreeSet<&str>>(), expected);
    assert_eq!(plan.count(), all);
}

#[test]
fn a_language_model_into_llava_onevision() {
    let models = [
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava_onevision_qwen2_7b_hf"),
        ("Qwen/Qwen2-7B", "qwen2_7b"),
        ("cognitivecomputations/dolphin-2.9.2-qwen2-7b", "qwen2_7b"),
    ];
    let plan = plan("modality/assistant-into-llava-onevision.yaml", &models, &[]);
    let all = Published::read("llava_onevision_qwen2_7b_hf").tensors.len();
    check_merged(&plan, &layers_of_qwen2("language_model.model.", 28), all);
}

#[test]
fn a_language_model_into_internvl_with_the_rows_that_both_have() {
    let models = [
        ("OpenGVLab/InternVL2_5-1B", "internvl2_5_1b"),
        ("Qwen/Qwen2.5-0.5B", "qwen2_5_0_5b"),
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct", "qwen2_5_0_5b"),
    ];
    let plan = plan("modality/coder-into-internvl.yaml", &models, &[]);
    let mut expected = layers_of_qwen2("language_model.model.", 24);
    expected.push("language_model.model.embed_tokens.weight".to_owned());
    check_merged(&plan, &expected, 637);
}

#[test]
fn the_language_model_of_qwen2_vl_into_a_plain_one() {
    let models = [
        ("Qwen/Qwen2-7B", "qwen2_7b"),
        ("Qwen/Qwen2-7B-Instruct", "qwen2_7b"),
        ("Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl_7b"),
    ];
    let plan = plan("modality/qwen2-from-qwen2-vl.yaml", &models, &[]);
    check_merged(&plan, &layers_of_qwen2("model.", 28), Published::read("qwen2_7b").tensors.len());
    let by_interference = plan.merged().into_values().filter(|op| *op == Some("interference"));
    assert_eq!(by_interference.count(), 7 * 28);
}

#[test]
fn three_modalities_in_one_vicuna() {
    let space = Space::new();
    published(&space, "lmsys/vicuna-7b-v1.5", "vicuna_7b");
    ["vision", "audio", "video"].iter().for_each(|modality| modelcompose(&space, modality));
    for encoder in
        ["clip-vit-large-patch14-336/a", "BEATs_iter3_plus_AS2M.pt", "LanguageBind_Video_merge/a"]
    {
        space.write(format!("encoders/{encoder}"), "an encoder");
    }
    let plan = plan_in(&space, "modality/vicuna-omni.yaml", &[]);
    check_interference(&plan, &linear_layers("model.", 32), 291 + 3 * 2);
    // As released: each factor is a matrix of its own.
    let plan = plan_in(&space, "modality/vicuna-omni-released.yaml", &[]);
    let merged = plan.merged();
    let factors = merged.iter().filter(|(name, _)| name.contains(".lora_"));
    let ops: BTreeSet<Option<&str>> = factors.clone().map(|(_, op)| *op).collect();
    assert_eq!((factors.count(), ops), (2 * 7 * 32, BTreeSet::from([Some("interference")])));
}

/// The tensors that the published merges of AdaMMS mix, from the pairs of the paper.
#[test]
fn adamms_of_every_pair() {
    let qwen2_vl = ("Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl_7b");
    let onevision = ("lmms-lab/llava-onevision-qwen2-7b-ov", "llava_onevision_qwen2_7b");
    let llava = ("liuhaotian/llava-v1.5-7b", "llava_v1_5_7b");
    let cogvlm = ("THUDM/cogvlm-chat-hf", "cogvlm_chat");
    let mplug_owl2 = ("MAGAer13/mplug-owl2-llama2-7b", "mplug_owl2_7b");
    let yi_vl = ("01-ai/Yi-VL-34B", "yi_vl_34b");
    let cambrian = ("nyu-visionx/cambrian-34b", "cambrian_34b");
    let sharegpt4v = ("Lin-Chen/ShareGPT4V-7B", "sharegpt4v_7b");
    // Per layer two norms and seven matrices; embeddings, the last norm and the output layer are three.
    let body = |layers: usize| 9 * layers + 3;
    for (recipe, target, source, mixed) in [
        // With biases of query, key and value, and without embeddings and output layer.
        ("llava-onevision-to-qwen2-vl", qwen2_vl, onevision, 12 * 28 + 1),
        ("qwen2-vl-to-llava-onevision", onevision, qwen2_vl, 12 * 28 + 1),
        // Two norms, and the fused matrix, the dense one and three of the MLP for each kind of token.
        ("llava-to-cogvlm", cogvlm, llava, (2 + 2 * 5) * 32 + 3),
        ("mplug-owl2-to-cogvlm", cogvlm, mplug_owl2, (2 + 2 * 5) * 32 + 3),
        // Two ways of two norms, keys and values; query, output and three of the MLP.
        ("llava-to-mplug-owl2", mplug_owl2, llava, (2 * 4 + 5) * 32 + 3),
        ("cogvlm-to-mplug-owl2", mplug_owl2, cogvlm, (2 * 4 + 5) * 32 + 3),
        ("mplug-owl2-to-llava", llava, mplug_owl2, body(32)),
        ("yi-vl-to-cambrian", cambrian, yi_vl, body(60)),
        ("sharegpt4v-to-llava", llava, sharegpt4v, body(32)),
        ("llava-to-sharegpt4v", sharegpt4v, llava, body(32)),
    ] {
        let plan = plan(&format!("adamms/{recipe}.yaml"), &[target, source], &[]);
        assert_eq!(plan.merged().len(), mixed, "{recipe}");
        assert_eq!(plan.count(), Published::read(target.1).tensors.len(), "{recipe}");
    }
}

/// The settings of the search fit each recipe: its grid is a declared value.
#[test]
fn the_search_of_adamms_sets_what_its_recipes_declare() {
    let folder = repository().join("recipes/adamms");
    let settings = std::fs::read_to_string(folder.join("search.yaml")).unwrap();
    assert!(settings.contains("\n  alpha: {from:"), "{settings}");
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let recipes = entries.filter(|path| path.file_stem().is_none_or(|stem| stem != "search"));
    for path in recipes {
        let text = std::fs::read_to_string(&path).unwrap();
        // The one pair for which the paper has a table of coefficients.
        let is_known = path.ends_with("llava-onevision-to-qwen2-vl.yaml");
        let default = if is_known { 0.1 } else { 0.3 };
        let declared = format!("\n  alpha: {{type: fraction, default: {default}");
        assert!(text.contains(&declared), "{}", path.display());
    }
}
