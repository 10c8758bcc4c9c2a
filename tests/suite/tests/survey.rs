//! `mixdown survey` against figures that the test computes itself in f64.
//!
//! Catches a task vector against the wrong base, a scale of an adapter left out, counts and cosines of another pair,
//! an order of threads or a budget that shows, a page that lets names become markup, and drift that is not told.

use std::collections::BTreeMap;

use mixdown_kit::{DType, Space, Tensor, adapter, checkpoint, mixdown, read_checkpoint};
use serde_json::Value;

const Q: (&str, [u64; 2]) = ("model.layers.0.self_attn.q_proj", [16, 16]);
const UP: &str = "model.layers.1.mlp.up_proj.weight";

type Tensors = BTreeMap<String, Tensor>;

fn tensors(space: &Space, folder: &str) -> Tensors {
    read_checkpoint(space.path(folder)).tensors
}

/// A base, an expert near it, one that went far and lacks a norm, and an adapter.
fn models() -> Space {
    let space = Space::new();
    checkpoint("base").write(&space);
    checkpoint("near").expert(7, 0.01).write(&space);
    checkpoint("far").dtype(DType::F32).expert(8, 2.0).without("model.norm").write(&space);
    adapter("lora", 2).module(Q.0, 2, Q.1).write(&space);
    space
}

fn survey(space: &Space, more: &[&str]) -> Value {
    let arguments = ["survey", "base", "near", "far", "lora", "--json", "-q"];
    mixdown(space, arguments.iter().chain(more)).success().json()
}

fn difference(base: &Tensor, expert: &Tensor) -> Vec<f64> {
    // The subtraction is in f32, in which stored numbers of 16 bits have most of theirs exact.
    let each = expert.values().into_iter().zip(base.values());
    each.map(|(expert, base)| f64::from(expert as f32 - base as f32)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn close(found: &Value, wanted: f64) {
    let found = found.as_f64().unwrap_or_else(|| panic!("a number, found {found}"));
    assert!((found - wanted).abs() <= 1e-6 * wanted.abs() + 1e-12, "{found} {wanted}");
}

fn named<'v>(list: &'v Value, key: &str, name: &str) -> &'v Value {
    let mut all = list.as_array().unwrap().iter();
    all.find(|one| one[key] == name).unwrap_or_else(|| panic!("{name} is not in {list}"))
}

#[test]
fn figures_are_those_of_the_formulas() {
    let space = models();
    let document = survey(&space, &[]);
    let (base, near, far) =
        (tensors(&space, "base"), tensors(&space, "near"), tensors(&space, "far"));
    let found = named(&document["tensors"], "name", UP);
    let (a, b) = (difference(&base[UP], &near[UP]), difference(&base[UP], &far[UP]));
    let whole = base[UP].values();
    close(&found["base_norm"], dot(&whole, &whole).sqrt());
    close(&found["experts"][0]["norm"], dot(&a, &a).sqrt());
    close(&found["experts"][0]["relative"], (dot(&a, &a) / dot(&whole, &whole)).sqrt());
    close(&found["pairs"][0]["cosine"], dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt());
    let both: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a * b).filter(|x| *x != 0.0).collect();
    let against = both.iter().filter(|x| **x < 0.0).count();
    close(&found["pairs"][0]["sign_conflicts"], against as f64 / both.len() as f64);
    let changed = a.iter().filter(|x| **x != 0.0).count();
    close(&found["experts"][0]["changed"], changed as f64 / a.len() as f64);
    let only = a.iter().zip(&b).filter(|(a, b)| **a != 0.0 && **b == 0.0).count();
    close(&found["experts"][0]["only"], only as f64 / changed as f64);
    for (exponent, count) in found["experts"][0]["magnitudes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair[0].as_i64().unwrap() as i32, pair[1].as_u64().unwrap()))
    {
        let range = 2f64.powi(exponent)..2f64.powi(exponent + 1);
        let own = a.iter().filter(|x| range.contains(&x.abs())).count();
        assert_eq!(own as u64, count, "magnitudes from 2^{exponent}");
    }
    // The whole model is the sum of its tensors.
    let all: f64 = base
        .iter()
        .map(|(name, one)| {
            let a = difference(one, &near[name]);
            dot(&a, &a)
        })
        .sum();
    close(&document["experts"][0]["norm"], all.sqrt());
}

#[test]
fn an_adapter_is_its_product() {
    let space = models();
    let document = survey(&space, &[]);
    let factor = |side: &str| {
        let name = format!("base_model.model.{}.lora_{side}.weight", Q.0);
        adapter("x", 2)
            .module(Q.0, 2, Q.1)
            .tensors()
            .iter()
            .find(|one| one.name == name)
            .unwrap()
            .values()
    };
    let (a, b) = (factor("A"), factor("B"));
    // The kit writes α as twice the rank.
    let at = |row: usize, column: usize| {
        2.0 * (0..2).map(|k| b[row * 2 + k] * a[k * 16 + column]).sum::<f64>()
    };
    let product: Vec<f64> = (0..256).map(|i| at(i / 16, i % 16)).collect();
    let name = format!("{}.weight", Q.0);
    let found = &named(&document["tensors"], "name", &name)["experts"][2];
    close(&found["norm"], dot(&product, &product).sqrt());
    assert_eq!(found["directions"]["99"], 2, "{found}");
    let expert = &document["experts"][2];
    assert_eq!((&expert["adapter"], &expert["tensors_missing"]), (&true.into(), &0.into()));
    assert_eq!(named(&document["tensors"], "name", UP)["experts"][2]["status"], "equal");
}

/// Beside its base written whole, an adapter is what was added.
#[test]
fn a_fused_adapter_is_as_far_as_the_adapter() {
    let space = Space::new();
    checkpoint("base").dtype(DType::F32).write(&space);
    adapter("lora", 2).dtype(DType::F32).module(Q.0, 2, Q.1).write(&space);
    mixdown(&space, ["fuse", "base", "lora", "--out", "fused"]).success();
    let arguments = ["survey", "base", "fused", "base+lora", "--json", "-q"];
    let document = mixdown(&space, arguments).success().json();
    let [one, other] = [0, 1].map(|at| document["experts"][at]["norm"].as_f64().unwrap());
    assert!((one / other - 1.0).abs() < 1e-4, "{one} {other}");
    assert!(document["pairs"][0]["cosine"].as_f64().unwrap() > 0.9999);
}

#[test]
fn neither_threads_nor_memory_show() {
    let space = models();
    let first = survey(&space, &["--threads", "1"]);
    assert_eq!(first, survey(&space, &["--threads", "5", "--memory", "2GB"]));
    assert_eq!(first, survey(&space, &["--threads", "3", "--memory", "40MB"]));
    let refused = mixdown(&space, ["survey", "base", "near", "--memory", "1MB"]).exits(1);
    assert!(refused.talk().contains("E0401"), "{}", refused.talk());
}

#[test]
fn what_is_found_is_told() {
    let space = models();
    let outcome = mixdown(&space, ["survey", "base", "near", "far", "lora"]).success();
    let talk = outcome.talk();
    assert!(talk.contains("W0655") && talk.contains("`far` has drifted"), "{talk}");
    assert!(!talk.contains("`near` has drifted"), "{talk}");
    let document = survey(&space, &[]);
    let kinds = |about: &str| -> Vec<&str> {
        let all = document["findings"].as_array().unwrap().iter();
        all.filter(|one| one["about"] == about).map(|one| one["kind"].as_str().unwrap()).collect()
    };
    assert_eq!(kinds("far"), ["drift", "tensors", "rank", "changes"]);
    assert_eq!(kinds("near and far"), ["cosine", "signs", "shared energy"]);
    let papers = document["findings"].as_array().unwrap().iter();
    assert!(papers.clone().all(|one| !one["papers"].as_str().unwrap().is_empty()));
    assert_eq!(document["experts"][1]["tensors_missing"], 1);
    assert_eq!(document["spectra"]["sketched"], 0);
    let bare = survey(&space, &["--no-spectra"]);
    assert_eq!(bare["spectra"], Value::Null);
    assert_eq!(bare["experts"], document["experts"], "figures do not depend on spectra");
}

/// Rows beyond those of the other are no drift.
#[test]
fn vocabularies_of_other_sizes_are_compared_where_both_have_rows() {
    let space = Space::new();
    checkpoint("base").vocabulary(32).write(&space);
    checkpoint("more").vocabulary(40).write(&space);
    let arguments = ["survey", "base", "more", "--json", "-q"];
    let document = mixdown(&space, arguments).success().json();
    let embedding = named(&document["tensors"], "name", "model.embed_tokens.weight");
    assert_eq!(embedding["elements"], 32 * 16);
    let finding = document["findings"].as_array().unwrap().iter();
    let finding = finding.clone().find(|one| one["kind"] == "vocabulary").unwrap();
    assert_eq!(finding["level"], "warning");
}

/// The page needs nothing else, holds the document, and no name becomes markup.
#[test]
fn the_page_holds_the_document() {
    let space = models();
    let odd = "model.layers.0.</script><b>x.weight";
    checkpoint("odd")
        .with(Tensor::new(odd, DType::F32, &[2, 2], &[1.0, 2.0, 3.0, 4.0]))
        .write(&space);
    mixdown(&space, ["survey", "odd", "odd", "--out", "page.html", "-q"]).success();
    let page = space.read_text("page.html");
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert_eq!((page.matches("<script").count(), page.matches("</script>").count()), (2, 2));
    assert!(!page.contains("<b>"), "a name is text");
    for word in ["http:", "https:", "src=", "href=", "url("] {
        assert!(!page.contains(word), "{word}");
    }
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    named(&data["tensors"], "name", odd);
    assert_eq!(data["experts"][0]["norm"], 0.0);
}

#[test]
fn mistakes_are_told_before_anything_is_read() {
    let space = models();
    mixdown(&space, ["survey", "base"]).exits(2);
    let missing = mixdown(&space, ["survey", "base", "./nowhere"]).exits(2);
    assert!(missing.talk().contains("nowhere"), "{}", missing.talk());
    space.write("broken/model.safetensors", b"not one");
    let broken = mixdown(&space, ["survey", "base", "./broken", "--out", "page.html"]);
    assert_ne!(broken.status, Some(0));
    assert!(!space.exists("page.html"));
}

/// Nobody wrote the recipe by which the models are opened.
#[test]
fn messages_name_files_and_no_recipe() {
    let space = models();
    let path = space.path("near/model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
    let talk = mixdown(&space, ["survey", "base", "near"]).exits(1).talk();
    assert!(talk.contains("E0107") && talk.contains("near/model.safetensors"), "{talk}");
    assert!(!talk.contains("named in") && !talk.contains("recipe"), "{talk}");
}
