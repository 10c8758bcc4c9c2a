//! `mixdown explain --identity`: why a result was computed again, or was not.
//!
//! Catches a key that the store does not use, and a listing that leaves out what the key is of.

use mixdown_kit::{Space, checkpoint, mixdown};
use mixdown_suite::with_snapshots;
use serde_json::Value;

const TENSOR: &str = "model.layers.1.mlp.up_proj.weight";

/// Large enough that results are worth keeping.
fn family() -> Space {
    let space = Space::new();
    let model = |name: &str| checkpoint(name).layers(2).hidden(64).intermediate(144);
    model("base").write(&space);
    for (seed, name) in [(11, "a"), (12, "b")] {
        model(name).expert(seed, 0.01).write(&space);
    }
    space
}

fn recipe(space: &Space, parameters: &str) {
    let text = format!(
        "mixdown: 1\nmodels: {{base: base, a: a, b: b}}\nbase: base\nmethod: optmerge\n\
         parameters: {{{parameters}}}\n"
    );
    space.write("recipe.yaml", text);
}

fn explained(space: &Space) -> Value {
    mixdown(space, ["explain", "recipe.yaml", TENSOR, "--identity", "--json"]).json()
}

#[test]
fn a_key_is_that_of_the_store() {
    let space = family();
    recipe(&space, "steps: 10");
    let of = |space: &Space| {
        let found = &explained(space)["results"][0];
        assert_eq!(found["op"], "interference");
        (found["key"].as_str().unwrap().to_owned(), found["is_stored"].as_bool().unwrap())
    };
    let (key, is_stored) = of(&space);
    assert!(!is_stored);

    mixdown(&space, ["merge", "recipe.yaml", "--out", "out"]).success();
    assert_eq!(of(&space), (key.clone(), true));
    let listed = mixdown(&space, ["cache", "list", "--json"]).json();
    let of_tensor = |entry: &&Value| entry["title"].as_str().unwrap().ends_with(TENSOR);
    let entries: Vec<&Value> =
        listed["entries"].as_array().unwrap().iter().filter(of_tensor).collect();
    assert_eq!(entries.len(), 1, "{listed}");
    assert_eq!(entries[0]["key"], key);

    recipe(&space, "steps: 11");
    let (other, is_stored) = of(&space);
    assert_ne!(other, key);
    assert!(!is_stored);
}

#[test]
fn people_see_what_went_into_it() {
    let space = family();
    recipe(&space, "steps: 10");
    let text = |tensor: &str| {
        let shown = mixdown(&space, ["explain", "recipe.yaml", tensor, "--identity"]).success();
        // The processor of whoever runs this, and the key, which depends on it.
        let lines = shown.shown();
        let lines = lines.lines().filter(|line| !line.contains("instructions "));
        let lines: Vec<String> = lines
            .map(|line| match line.split_once("key ") {
                Some((before, after)) => format!("{before}key [KEY]{}", &after[64..]),
                None => line.to_owned(),
            })
            .collect();
        lines.join("\n")
    };
    with_snapshots(|| insta::assert_snapshot!("of_a_matrix", text(TENSOR)));
    with_snapshots(|| insta::assert_snapshot!("of_others", text("model.norm.weight")));
    let wrong = mixdown(&space, ["explain", "recipe.yaml", "model.nrom.weight", "--identity"]);
    assert!(wrong.exits(2).stderr.contains("model.norm.weight"));
}
