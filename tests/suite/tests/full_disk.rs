//! Outputs that cannot be written: a full disk, a folder that is read-only, a place that is a file.
//!
//! Catches a short write that is taken for a whole one, and a failure that loses what was done.

use std::os::unix::fs::PermissionsExt;

use mixdown_kit::{Program, Space, checkpoint, read_checkpoint};
use mixdown_suite::{configuration, merge, skip, with_snapshots};

fn space_with_model() -> (Space, String) {
    let space = Space::new();
    checkpoint("model").layers(4).hidden(64).write(&space);
    let recipe = configuration("passthrough", None, &[("model", "scale: 2")], "");
    space.write("recipe.yaml", &recipe);
    (space, recipe)
}

#[test]
fn a_disk_that_fills_up() {
    let (space, _) = space_with_model();
    // Files may not grow past 64 blocks of 512 bytes; the output needs some 600 kB.
    let outcome = Program::limited(&space, "ulimit -f 64")
        .args(["merge", "recipe.yaml", "--out", "merged"])
        .run()
        .exits(1);
    assert!(!space.exists("merged"), "no half output");
    with_snapshots(|| insta::assert_snapshot!("disk_fills_up", outcome.talk()));

    let again = mixdown_kit::mixdown(&space, ["merge", "recipe.yaml", "--out", "merged"]);
    again.success();
    let merged = read_checkpoint(space.path("merged")).values("model.norm.weight");
    let model = read_checkpoint(space.path("model")).values("model.norm.weight");
    assert_eq!(merged, model.iter().map(|value| value * 2.0).collect::<Vec<_>>());
}

#[test]
fn an_output_in_a_read_only_folder() {
    if rustix::process::geteuid().is_root() {
        skip("a read-only folder needs a user other than root");
        return;
    }
    let (space, recipe) = space_with_model();
    let folder = space.path("sealed");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o555)).unwrap();
    space.write("recipe.yaml", recipe);
    let outcome =
        mixdown_kit::mixdown(&space, ["merge", "recipe.yaml", "--out", "sealed/merged"]).exits(1);
    with_snapshots(|| insta::assert_snapshot!("read_only_folder", outcome.talk()));
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_output_below_a_file() {
    let (space, _) = space_with_model();
    space.write("file", "x");
    let outcome =
        mixdown_kit::mixdown(&space, ["merge", "recipe.yaml", "--out", "file/merged"]).exits(1);
    with_snapshots(|| insta::assert_snapshot!("output_below_a_file", outcome.talk()));
    assert_eq!(space.read_text("file"), "x");
}

#[test]
fn an_output_that_is_a_file() {
    let (space, recipe) = space_with_model();
    space.write("merged", "precious");
    let outcome = merge(&space, &recipe, &[]).exits(1);
    with_snapshots(|| insta::assert_snapshot!("output_is_a_file", outcome.talk()));
    assert_eq!(space.read_text("merged"), "precious");
}
