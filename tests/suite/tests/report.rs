//! `merge --report`: the way of a descent, and the page that shows it.
//!
//! Catches a curve whose ends are not the losses of the report, one that depends on threads or is forgotten by the
//! store, and a page that lets names become markup or needs anything else.

use mixdown_kit::{DType, Space, Stored, Tensor, checkpoint, mixdown, read_checkpoint};
use serde_json::Value;

const RECIPE: &str = "mixdown: 1
models: {base: base, one: one, two: two}
base: base
method: wudi
parameters: {steps: 130}
";

fn models() -> Space {
    let space = Space::new();
    let odd = Tensor::new("model.layers.0.mlp.</script><b>.weight", DType::F32, &[1], &[1.0]);
    checkpoint("base").with(odd.clone()).write(&space);
    checkpoint("one").expert(1, 0.05).with(odd.clone()).write(&space);
    checkpoint("two").expert(2, 0.05).with(odd).write(&space);
    space.write("wudi.yaml", RECIPE);
    space
}

fn merge(space: &Space, report: &str, more: &[&str]) {
    let arguments = ["merge", "wudi.yaml", "--out", "merged", "--force", "-q", "--report", report];
    mixdown(space, arguments.iter().chain(more)).success();
}

/// What is told of each matrix; the report has other tensors, too.
fn report(space: &Space, more: &[&str]) -> Value {
    merge(space, "report.json", more);
    let all: Value = serde_json::from_str(&space.read_text("report.json")).unwrap();
    let matrices = all.as_array().unwrap().iter().filter(|one| !one["op"].is_null());
    matrices.cloned().collect()
}

/// (θ − θ₀)·τ / ‖τ‖² of each tensor and expert, from the files alone.
#[test]
fn what_survives_of_each_task_vector_is_told() {
    let space = models();
    for method in ["wudi", "task_arithmetic"] {
        let recipe = match method {
            "wudi" => RECIPE.to_owned(),
            _ => RECIPE.replace(
                "wudi\nparameters: {steps: 130}",
                "task_arithmetic\nparameters: {weight: 0.5, lambda: 0.8}",
            ),
        };
        space.write("wudi.yaml", recipe);
        merge(&space, "report.json", &["--no-cache", "--memory", "60MB"]);
        let told: Value = serde_json::from_str(&space.read_text("report.json")).unwrap();
        let [base, one, two, merged] =
            ["base", "one", "two", "merged"].map(|name| read_checkpoint(space.path(name)));
        let mut compared = 0;
        for tensor in told.as_array().unwrap() {
            let name = tensor["tensor"].as_str().unwrap();
            let vector = |model: &Stored| -> Vec<f64> {
                let (values, base) = (model.values(name), base.values(name));
                values.iter().zip(base).map(|(value, base)| value - base).collect()
            };
            let update = vector(&merged);
            for (expert, model) in [("one", &one), ("two", &two)] {
                let tau = vector(model);
                let squares: f64 = tau.iter().map(|tau| tau * tau).sum();
                let product: f64 = tau.iter().zip(&update).map(|(tau, update)| tau * update).sum();
                let found = tensor["survives"][expert].as_f64();
                match squares > 0.0 {
                    true => {
                        let found = found.unwrap_or_else(|| panic!("{name}: {tensor}"));
                        let wanted = product / squares;
                        assert!((found - wanted).abs() < 1e-4, "{name}: {found} {wanted}");
                        compared += 1;
                    }
                    false => assert_eq!(found, None, "{name} is as in the base"),
                }
            }
        }
        // Seven matrices of each of two layers, and what is averaged with them.
        assert!(compared > 28, "{compared}");
        merge(&space, "report.html", &["--no-cache"]);
        let page = space.read_text("report.html");
        assert!(page.contains("survives") && page.contains("\"one\":"));
    }
}

#[test]
fn the_curve_leads_from_the_first_loss_to_the_last() {
    let space = models();
    let found = report(&space, &["--no-cache"]);
    let matrices = found.as_array().unwrap();
    assert_eq!(matrices.len(), 14, "seven of each of two layers");
    for one in matrices {
        let number = |value: &Value| value.as_f64().unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-6 * b.abs() + 1e-12, "{a} {b}");
        let curve = one["curve"].as_array().unwrap();
        let (first, last) = (&curve[0], curve.last().unwrap());
        assert_eq!((&first[0], &last[0]), (&0.into(), &130.into()));
        close(number(&first[1]), number(&one["loss_start"]));
        close(number(&last[1]), number(&one["loss_end"]));
        close(number(&last[2]), number(&one["norm"]));
        assert!(curve.len() > 30, "points on the way: {}", curve.len());
        let steps: Vec<u64> = curve.iter().map(|point| point[0].as_u64().unwrap()).collect();
        assert!(steps.is_sorted_by(|a, b| a < b), "{steps:?}");
        let losses: Vec<f64> = curve.iter().map(|point| number(&point[1])).collect();
        assert!(losses.iter().all(|loss| *loss <= losses[0] * 1.0001), "{losses:?}");
        // A step is no jump: what is between lies between.
        let jump = losses.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f64::max);
        assert!(jump < 0.5 * losses[0], "{losses:?}");
    }
}

#[test]
fn neither_threads_nor_the_store_show() {
    let space = models();
    let first = report(&space, &["--no-cache", "--threads", "1"]);
    assert_eq!(first, report(&space, &["--no-cache", "--threads", "4"]));
    let curves = |report: Value| -> Vec<Value> {
        report.as_array().unwrap().iter().map(|one| one["curve"].clone()).collect()
    };
    let first = curves(first);
    // What the first of these keeps, the second may find.
    for _ in 0..2 {
        assert_eq!(first, curves(report(&space, &[])));
    }
}

#[test]
fn the_page_holds_the_report() {
    let space = models();
    merge(&space, "report.html", &["--no-cache"]);
    let page = space.read_text("report.html");
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert_eq!((page.matches("<script").count(), page.matches("</script>").count()), (2, 2));
    for word in ["<b>", "http:", "https:", "src=", "href=", "url("] {
        assert!(!page.contains(word), "{word}");
    }
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    let one = &data["matrices"][0];
    assert_eq!((&one["layer"], &data["output"]), (&0.into(), &"merged".into()));
    assert!(one["kind"].as_str().unwrap().ends_with(".weight"), "{one}");
    assert!(one["curve"].as_array().unwrap().len() > 30);
}
