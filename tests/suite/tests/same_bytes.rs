//! One recipe, one result: whatever the threads, the memory, an interruption, or how inputs are cut.
//!
//! Catches sums in the order that threads finish, state that a resumed merge trusts wrongly, and
//! draws that depend on a place in a file.

use std::path::Path;

use mixdown_kit::program::Running;
use mixdown_kit::{DType, Layout, Outcome, Space, checkpoint, mixdown, read_checkpoint};
use mixdown_suite::{configuration, family, merge, modalities, program};

/// One recipe of each kind of work: streams, norms first, thresholds, draws, copies, groups.
fn recipes() -> Vec<(&'static str, String)> {
    let three = [
        ("a", "weight: 0.5, density: 0.4"),
        ("b", "weight: 0.3, density: 0.6"),
        ("c", "weight: -0.2, density: 0.2"),
    ];
    let base = Some("base");
    vec![
        ("linear", configuration("linear", None, &[("a", "weight: 0.5"), ("b", "weight: 1")], "")),
        ("task_arithmetic", configuration("task_arithmetic", base, &three, "lambda: 0.7")),
        ("slerp", configuration("slerp", base, &[("a", "")], "t: [0.1, 0.9]")),
        ("ties", configuration("ties", base, &three, "")),
        ("ties_model", configuration("ties", base, &three, "scope: model, zero_sign: majority")),
        ("dare_linear", configuration("dare_linear", base, &three, "")),
        ("dare_ties", configuration("dare_ties", base, &three, "normalize: true")),
        ("passthrough", configuration("passthrough", None, &[("b", "")], "")),
    ]
}

/// Tensors of more than one piece of work, and of odd sizes.
fn large_family() -> Space {
    let space = Space::new();
    let model = |name: &str| checkpoint(name).layers(3).hidden(132).vocabulary(1531);
    model("base").write(&space);
    for (seed, name) in [(11, "a"), (12, "b"), (13, "c")] {
        model(name).expert(seed, 0.004).write(&space);
    }
    space
}

type Files = Vec<(String, Vec<u8>)>;

/// All files of the result, and the space ready for the next merge.
fn take(space: &Space) -> Files {
    let files = space.files_under("merged");
    std::fs::remove_dir_all(space.path("merged")).expect("the result can be removed");
    files
}

#[track_caller]
fn assert_same(what: &str, expected: &Files, found: &Files) {
    let names = |files: &Files| files.iter().map(|file| file.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(expected), names(found), "{what}: other files");
    for ((name, expected), (_, found)) in expected.iter().zip(found) {
        if expected != found {
            let place = expected.iter().zip(found).position(|(e, f)| e != f);
            panic!("{what}: {name} differs from byte {place:?} on");
        }
    }
}

#[test]
fn threads_and_memory_change_nothing() {
    let space = large_family();
    for (name, recipe) in recipes() {
        merge(&space, &recipe, &["--threads", "1"]).success();
        let expected = take(&space);
        for arguments in [
            ["--threads", "2", "--memory", "4GB"],
            ["--threads", "3", "--memory", "64MB"],
            ["--threads", "1", "--memory", "24MB"],
        ] {
            merge(&space, &recipe, &arguments).success();
            assert_same(&format!("{name} {arguments:?}"), &expected, &take(&space));
        }
    }
}

#[test]
fn merging_again_over_the_result_gives_the_same() {
    let space = family();
    let (_, recipe) = recipes().swap_remove(6);
    merge(&space, &recipe, &[]).success();
    let expected = space.files_under("merged");
    space.write("merged/left-over.txt", "from an older result");
    merge(&space, &recipe, &["--force"]).success();
    assert_same("--force", &expected, &space.files_under("merged"));
    assert_eq!(partial_work(&space), 0, "nothing is left beside the result");
}

#[test]
fn how_inputs_are_cut_into_files_changes_nothing() {
    for (name, recipe) in recipes() {
        let space = family();
        merge(&space, &recipe, &[]).success();
        let expected = read_checkpoint(space.path("merged"));
        let other = Space::new();
        checkpoint("base").layout(Layout::Sharded(5)).write(&other);
        checkpoint("a").expert(11, 0.004).layout(Layout::Loose(3)).write(&other);
        checkpoint("b").expert(12, 0.004).layout(Layout::Sharded(2)).write(&other);
        checkpoint("c").expert(13, 0.004).write(&other);
        merge(&other, &recipe, &["--shard-size", "10kB"]).success();
        let found = read_checkpoint(other.path("merged"));
        assert!(found.shards.len() > 1, "{name}: the output is cut too");
        assert_eq!(expected.tensors, found.tensors, "{name}");
    }
}

#[test]
fn a_recipe_as_a_model_equals_its_written_result() {
    for dtype in ["float32", "bfloat16"] {
        let space = family();
        let inner = configuration("ties", Some("base"), &[("a", "weight: 1, density: 0.5")], "")
            .replace("float32", dtype);
        space.write("inner.yaml", &inner);
        let outer = |inner: &str| {
            format!(
                "mixdown: 1\nmodels:\n  inner: {inner}\n  b: b\nbase: inner\nmethod: slerp\n\
                 parameters: {{t: 0.3}}\n"
            )
        };
        merge(&space, &outer("{recipe: inner.yaml}"), &[]).success();
        let streamed = read_checkpoint(space.path("merged"));
        assert_eq!(space.list().iter().filter(|path| path.ends_with("inner/")).count(), 0);
        std::fs::remove_dir_all(space.path("merged")).unwrap();

        mixdown(&space, ["merge", "inner.yaml", "--out", "inner"]).success();
        merge(&space, &outer("./inner"), &[]).success();
        let written = read_checkpoint(space.path("merged"));
        assert_eq!(streamed.tensors, written.tensors, "through {dtype}");
    }
}

/// Enough tensors, and large enough, that a merge can be caught in the middle.
fn slow_family() -> Space {
    slow_family_of(0.004)
}

/// The same, with experts that are so far from their base.
fn slow_family_of(update: f64) -> Space {
    let space = Space::new();
    let model = |name: &str| checkpoint(name).layers(16).hidden(192).vocabulary(4096);
    model("base").write(&space);
    for (seed, name) in [(11, "a"), (12, "b")] {
        model(name).dtype(DType::F32).expert(seed, update).write(&space);
    }
    let models = [("a", "weight: 1, density: 0.3"), ("b", "weight: 1, density: 0.4")];
    space.write("recipe.yaml", configuration("dare_ties", Some("base"), &models, ""));
    space
}

const JOURNAL: &str = ".merged.mixdown-partial/journal";

/// Tensors that unfinished work has recorded; 0 when there is none.
fn partial_work(space: &Space) -> usize {
    let journal = std::fs::read(space.path(JOURNAL)).unwrap_or_default();
    journal.iter().filter(|byte| **byte == b'\n').count().saturating_sub(1)
}

/// Waits until the merge has recorded so many tensors, or has ended.
fn reach(space: &Space, running: &mut Running, tensors: usize) {
    while partial_work(space) < tensors && !running.has_ended() {
        std::thread::yield_now();
    }
}

#[test]
fn a_killed_merge_continues_and_gives_the_same() {
    check_killed(&slow_family(), &[0, 1, 20, 60, 120]);
}

/// Codes that depend on a group, on the largest of a whole tensor, and a file whose header comes first.
#[test]
fn a_killed_merge_that_quantizes_continues_and_gives_the_same() {
    for output in [
        "{quantize: [{tensors: '**.mlp.**', to: fp8, scales: tensor}, {to: int4, group: 32}]}",
        "{as: gguf, type: q4_k_m}",
    ] {
        let space = slow_family();
        let recipe = format!(
            "mixdown: 1\nmodels: {{base: base, a: a, b: b}}\nbase: base\nmethod: dare_ties\n\
             parameters: {{weight: 1, density: 0.4}}\noutput: {output}\n"
        );
        space.write("recipe.yaml", recipe);
        check_killed(&space, &[1, 40]);
    }
}

/// A copy of codes is cut and continued like any other.
#[test]
fn a_killed_copy_of_codes_continues_and_gives_the_same() {
    let space = slow_family();
    mixdown(&space, ["convert", "base", "--to", "int8", "--out", "codes"]).success();
    let recipe =
        "mixdown: 1\nmodels: {codes: codes}\nrules: [{keep: codes}]\noutput: {quantize: int8}\n";
    space.write("recipe.yaml", recipe);
    check_killed(&space, &[1, 40]);
}

/// The manifest has the warnings, some of which come from what making tensors told: those that were finished
/// before the kill among them.
#[test]
fn a_killed_merge_warns_as_one_that_was_not() {
    let space = slow_family_of(1e-5);
    let recipe = std::fs::read_to_string(space.path("recipe.yaml")).expect("it was written");
    space.write("recipe.yaml", recipe + "dtype: float32\nout_dtype: bfloat16\n");
    program(&space, &[]).run().success();
    let manifest = std::fs::read_to_string(space.path("merged/mixdown-manifest.json"));
    assert!(manifest.unwrap().contains("of the merged update is lost"), "there is what to warn of");
    take(&space);
    check_killed(&space, &[20, 100]);
}

/// Two modalities on a base of the same size, whose updates are multiplied out or stay factors.
#[test]
fn a_killed_merge_of_modalities_continues_and_gives_the_same() {
    for (space_of, output) in [("dense", "omni"), ("factors", "modelcompose")] {
        let space = Space::new();
        let base = checkpoint("base").layers(6).hidden(96).vocabulary(256).dtype(DType::F32);
        base.write(&space);
        let weights: Vec<(String, Vec<u64>)> = base
            .tensors()
            .into_iter()
            .filter(|tensor| tensor.name.ends_with("_proj.weight"))
            .map(|tensor| (tensor.name.replace(".weight", ""), tensor.shape))
            .collect();
        let mut inputs = String::new();
        for (seed, modality) in [(1, "vision"), (2, "audio")] {
            let mut tensors = Vec::new();
            for (module, shape) in &weights {
                let name = |side: &str| format!("{module}.lora_{side}.default.weight");
                tensors.push(modalities::drawn(seed, &name("A"), &[32, shape[1]]));
                tensors.push(modalities::drawn(seed, &name("B"), &[shape[0], 32]));
            }
            let connector = format!("model.modal_projectors.{modality}");
            tensors.push(modalities::drawn(seed, &format!("{connector}.0.weight"), &[96, 64]));
            let config = serde_json::json!({"lora_r": 32, "lora_alpha": 64});
            modalities::write(&space, modality, &tensors, &config);
            inputs += &format!(
                "  {modality}: {{body: {{adapter: {modality}}}, connector: {{prefix: {connector}}}}}\n"
            );
        }
        let recipe = format!(
            "mixdown: 1\nkind: modality\nbase: base\ninputs:\n{inputs}body: {{method: ties, params: \
             {{weight: 1, density: 0.4}}, space: {space_of}, include: \"model.layers.{{i}}.{{**}}_proj.weight\"}}\n\
             output: {{layout: {output}}}\n"
        );
        space.write("recipe.yaml", recipe);
        check_killed(&space, &[1, 30]);
    }
}

/// Kills the merge of `recipe.yaml` when so many tensors are recorded, and lets it continue.
#[track_caller]
fn check_killed(space: &Space, moments: &[usize]) {
    program(space, &[]).run().success();
    let expected = take(space);
    let mut caught = 0;
    for &moment in moments {
        let mut running = program(space, &["--threads", "1"]).start();
        reach(space, &mut running, moment);
        let killed = running.kill();
        let kept = partial_work(space);
        if killed.status.is_none() {
            caught += 1;
            assert!(!space.exists("merged"), "killed at {moment}: a result that is not whole");
        }
        // A second kill, while it continues, must not lose what the first left.
        let mut running = program(space, &["--threads", "2"]).start();
        reach(space, &mut running, kept + 10);
        running.kill();
        assert!(space.exists("merged") || partial_work(space) >= kept, "work was lost");
        if !space.exists("merged") {
            program(space, &[]).run().success();
        }
        assert_same(&format!("killed at {moment}"), &expected, &take(space));
        assert!(!space.exists(JOURNAL), "unfinished work is left");
    }
    assert!(
        2 * caught >= moments.len(),
        "only {caught} merges were killed in the middle: the models are too small"
    );
}

#[test]
fn an_interrupted_merge_says_how_to_continue() {
    let space = slow_family();
    program(&space, &[]).run().success();
    let expected = take(&space);
    let mut caught: Vec<Outcome> = Vec::new();
    for moment in [1, 10, 40, 90] {
        let mut running = program(&space, &[]).start();
        reach(&space, &mut running, moment);
        let outcome = running.interrupt();
        // It may have been done before the signal came.
        if outcome.status == Some(130) {
            assert!(!space.exists("merged"), "an interrupted merge has no result");
            caught.push(outcome);
            program(&space, &[]).run().success();
        }
        assert_same("after an interruption", &expected, &take(&space));
    }
    let talk = caught.first().expect("a merge of this size can be interrupted").talk();
    assert!(talk.contains("same command"), "it says how to continue:\n{talk}");
}

#[test]
fn damaged_work_is_done_again() {
    let space = slow_family();
    program(&space, &[]).run().success();
    let expected = take(&space);
    let mut running = program(&space, &["--threads", "1"]).start();
    reach(&space, &mut running, 40);
    running.kill();
    let partial = space.path(".merged.mixdown-partial");
    if partial.exists() {
        for entry in std::fs::read_dir(&partial).unwrap() {
            damage(&entry.unwrap().path());
        }
        program(&space, &[]).run().success();
    }
    assert_same("after damage", &expected, &take(&space));
}

/// Overturns bits all over a shard, leaving its header alone.
fn damage(path: &Path) {
    if path.extension().is_none_or(|extension| extension != "safetensors") {
        return;
    }
    let mut bytes = std::fs::read(path).unwrap();
    for place in (64 * 1024..bytes.len()).step_by(4099) {
        bytes[place] ^= 0x40;
    }
    std::fs::write(path, bytes).unwrap();
}
