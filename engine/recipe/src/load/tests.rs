//! Recipes of recipes, from files in memory.

use mixdown_diagnostics::render::{Color, render_all};

use super::*;

fn load_from(files: &[(&str, &str)], path: &str) -> Result<Loaded, String> {
    let files: BTreeMap<PathBuf, String> =
        files.iter().map(|(name, text)| (normal(Path::new(name)), (*text).to_owned())).collect();
    let read = |path: &Path| match path.to_str() {
        Some("binary.yaml") => Err(io::Error::from(io::ErrorKind::InvalidData)),
        Some("locked.yaml") => {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, "permission denied"))
        }
        _ => files
            .get(&normal(path))
            .cloned()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)),
    };
    load(Path::new(path), &read, &[]).map_err(|errors| render_all(&errors, Color::Plain))
}

fn using(recipes: &[&str]) -> String {
    let models: Vec<String> =
        recipes.iter().enumerate().map(|(i, path)| format!("m{i}: {{recipe: {path}}}")).collect();
    format!("mixdown: 1\nmodels: {{x: x, {}}}\nmethod: linear\n", models.join(", "))
}

#[test]
fn each_recipe_is_read_once() {
    let (top, sub, leaf) = (using(&["sub/a.yaml", "b.yaml"]), using(&["../b.yaml"]), using(&[]));
    let loaded =
        load_from(&[("top.yaml", &top), ("sub/a.yaml", &sub), ("b.yaml", &leaf)], "./top.yaml")
            .unwrap();
    let children: Vec<Vec<usize>> =
        loaded.recipes.iter().map(|r| r.children.values().copied().collect()).collect();
    assert_eq!(children, [vec![1, 2], vec![2], vec![]]);
    assert_eq!(loaded.recipes[2].path, Path::new("./sub/../b.yaml"));
    assert_eq!(*loaded.recipes[0].children.keys().next().unwrap(), ModelId(1));
}

#[test]
fn cycles_name_their_chain() {
    let (a, b) = (using(&["b.yaml"]), using(&["./a.yaml"]));
    assert_eq!(
        load_from(&[("a.yaml", &a), ("b.yaml", &b)], "a.yaml").unwrap_err(),
        "error[E0218]: a recipe includes itself
  --> b.yaml:2:20
   |
 2 | models: {x: x, m0: {recipe: ./a.yaml}}
   |                    ^
   = chain: a.yaml → b.yaml → a.yaml
"
    );
}

#[test]
fn endless_chains_end() {
    let read = |_: &Path| Ok(using(&["x/r.yaml"]));
    let errors = load(Path::new("r.yaml"), &read, &[]).unwrap_err();
    assert_eq!(errors[0].code, codes::UNSUPPORTED);
}

#[test]
fn unreadable_recipes_are_reported_where_they_are_named() {
    let top = using(&["gone.yaml", "binary.yaml", "locked.yaml"]);
    insta::assert_snapshot!(
        "unreadable",
        load_from(&[("top.yaml", &top)], "top.yaml").unwrap_err()
            + "\n"
            + &load_from(&[], "none.yaml").unwrap_err()
    );
}
