//! What the suites share: a family of small models, merges of them, and refusals held in snapshots.
//!
//! The suites themselves are in `tests/`, one program each; they run the real `mixdown`, but for what needs a device
//! that is none, which only a caller of the library can lend.

pub mod literal;
pub mod modalities;
pub mod published_shapes;
pub mod search;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use mixdown_kit::{Outcome, Program, Space, Stored, read_checkpoint};

/// A space with `base` and the experts `a`, `b`, `c` made from it.
pub fn family() -> Space {
    let space = Space::new();
    mixdown_kit::checkpoint::family(&space);
    space
}

/// Writes the recipe as `recipe.yaml` and merges it into `merged`.
pub fn merge(space: &Space, recipe: &str, arguments: &[&str]) -> Outcome {
    space.write("recipe.yaml", recipe);
    program(space, arguments).run()
}

/// The merge of `recipe.yaml` into `merged`, not begun.
pub fn program(space: &Space, arguments: &[&str]) -> Program {
    Program::new(space).args(["merge", "recipe.yaml", "--out", "merged"]).args(arguments)
}

/// Merges and reads the result.
#[track_caller]
pub fn merged(space: &Space, recipe: &str) -> Stored {
    merge(space, recipe, &[]).success();
    read_checkpoint(space.path("merged"))
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a check with the snapshots of the repository's `tests/snapshots`.
pub fn with_snapshots(check: impl FnOnce()) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(repository().join("tests/snapshots"));
    settings.set_prepend_module_to_snapshot(true);
    settings.set_omit_expression(true);
    settings.bind(check);
}

/// Checks that merging the recipe is refused with this exit status and that nothing was written.
/// What the program said is returned, for a snapshot.
#[track_caller]
pub fn refusal(space: &Space, recipe: &str, arguments: &[&str], status: i32) -> String {
    space.write("recipe.yaml", recipe);
    let before = space.list();
    let outcome = program(space, arguments).run().exits(status);
    assert_eq!(space.list(), before, "a refused merge leaves nothing behind\n{}", outcome.stderr);
    assert_eq!(outcome.stdout, "", "a refusal says nothing on stdout");
    outcome.talk()
}

/// A mergekit configuration of this method: models with their parameters as YAML in braces, the
/// base if any, and parameters of the merge in braces.
pub fn configuration(
    method: &str,
    base: Option<&str>,
    models: &[(&str, &str)],
    parameters: &str,
) -> String {
    let mut text = format!("merge_method: {method}\n");
    if let Some(base) = base {
        text += &format!("base_model: {base}\n");
    }
    text += "models:\n";
    for (model, settings) in models {
        text += &format!("  - model: {model}\n    parameters: {{{settings}}}\n");
    }
    text += &format!("parameters: {{{parameters}}}\ndtype: float32\n");
    text
}

/// Says in one line that a test does not apply here. Written past the test runner, which shows what
/// it captured only when a test fails.
pub fn skip(reason: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // A line that nobody can read is no reason to fail.
    let _ = writeln!(std::io::stderr(), "skipped {name}: {reason}");
}
