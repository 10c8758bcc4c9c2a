//! What `--set` changes, and what it refuses.

use mixdown_diagnostics::render::{Color, render_all};

use super::*;

const STRICT: &str = "\
mixdown: 1
declare: {strength: 0.5, t: {type: real}}
models: {math: {path: m}, b.c: d, plain: x}
method: linear
parameters: {w: $strength, t: $t}
rules:
  - {keep: math}
  - {method: linear}
";

const MERGEKIT: &str =
    "merge_method: linear\nmodels:\n  - {model: a}\n  - {model: b, parameters: {weight: 1}}";

fn set(text: &str, path: &str, value: &str) -> Result<Tree, Vec<Diagnostic>> {
    let mut tree = yaml::parse(&Source::new("r.yaml", text), None).unwrap();
    apply_overrides(&mut tree, &[(path.into(), value.into())]).map(|()| tree)
}

/// The value that is found at the end of these keys.
#[track_caller]
fn check(text: &str, path: &str, value: &str, keys: &[&str], expected: &str) {
    let tree = set(text, path, value).unwrap();
    let mut node = &tree.root;
    for key in keys {
        node = match key.parse::<usize>() {
            Ok(index) => &node.items().unwrap()[index],
            Err(_) => node.get(key).unwrap(),
        };
    }
    assert_eq!(&*node.scalar().unwrap().text, expected);
    // The new value is shown where it was typed.
    let last = tree.source.text().lines().count() as u32;
    let shown = tree.source.line(last).unwrap();
    assert_eq!(shown, format!("# --set {path}={value}"));
    let found: String =
        shown.chars().skip(node.span.column as usize - 1).take(node.span.length as usize).collect();
    assert_eq!((found.trim_matches('"'), node.span.line), (expected, last));
}

#[test]
fn values_are_changed() {
    check(STRICT, "strength", "0.7", &["declare", "strength"], "0.7");
    check(STRICT, "t", "3", &["declare", "t", "default"], "3");
    check(STRICT, "models.math.path", "\"./n\"", &["models", "math", "path"], "./n");
    check(STRICT, "models.b.c", "e", &["models", "b.c"], "e");
    check(
        STRICT,
        "rules[1].parameters.density",
        "0.3",
        &["rules", "1", "parameters", "density"],
        "0.3",
    );
    check(STRICT, "seed", "4", &["seed"], "4");
    check(
        MERGEKIT,
        "models[1].parameters.weight",
        "2",
        &["models", "1", "parameters", "weight"],
        "2",
    );
    check(
        MERGEKIT,
        "models[0].parameters.weight",
        "2",
        &["models", "0", "parameters", "weight"],
        "2",
    );
    check(MERGEKIT, "parameters.t", "0.5", &["parameters", "t"], "0.5");
}

#[test]
fn a_wrong_value_is_reported_where_it_was_typed() {
    let errors = crate::read(
        &Source::new("r.yaml", STRICT),
        &[("t".into(), "1".into()), ("rules[0].keep".into(), "mth".into())],
    )
    .unwrap_err();
    assert_eq!(
        render_all(&errors, Color::Plain),
        "error[E0209]: no model is called `mth`\n  --> r.yaml:10:23\n   |\n10 | # --set rules[0].keep=mth\n   |                       ^^^\n   = help: did you mean `math`?\n"
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut out = String::new();
    for (text, path, value) in [
        (STRICT, "strenght", "1"),
        (STRICT, "models.mth.path", "1"),
        (STRICT, "models.plain.path", "1"),
        (STRICT, "rules[7].keep", "x"),
        (STRICT, "rules.keep", "x"),
        (STRICT, "models[0]", "x"),
        (STRICT, "rules[x]", "x"),
        (STRICT, "a..b", "x"),
        (STRICT, "", "x"),
        (STRICT, "rules[0]x", "x"),
        (STRICT, "strength", "[1"),
        (STRICT, "strength", ""),
        (STRICT, "mixdown", "2"),
        (MERGEKIT, "strength", "1"),
        (MERGEKIT, "merge_metod", "ties"),
        (MERGEKIT, "slices[0].sources", "x"),
    ] {
        match set(text, path, value) {
            Err(errors) => out.push_str(&(render_all(&errors, Color::Plain) + "\n")),
            Ok(_) => out.push_str(&format!("--set {path}={value} is accepted\n\n")),
        }
    }
    insta::assert_snapshot!("refused", out);
}
