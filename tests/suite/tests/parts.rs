//! A merge in parts gives the bytes of one run, whoever makes the parts, in what order, and however often
//! they are killed; what does not belong together is told.
//!
//! Catches cuts that depend on a machine, facts of the whole model that are found from a part of it, files
//! that are joined wrongly, and parts of other merges that are taken for this one's.

use std::fs;

use mixdown_kit::{DType, Outcome, Program, Space, adapter, checkpoint, mixdown, read_checkpoint};
use mixdown_suite::{configuration, merge, with_snapshots};

type Files = Vec<(String, Vec<u8>)>;

/// Shards of a few tensors.
const SMALL: &str = "100kB";

/// Shards of which each of four parts has some.
const SMALLER: &str = "40kB";

fn family() -> Space {
    let space = Space::new();
    let model = |name: &str| checkpoint(name).layers(3).hidden(64).intermediate(144);
    model("base").write(&space);
    for (seed, name) in [(11, "a"), (12, "b"), (13, "c")] {
        model(name).expert(seed, 0.01).write(&space);
    }
    space
}

const THREE: [(&str, &str); 3] = [
    ("a", "weight: 0.5, density: 0.4"),
    ("b", "weight: 0.3, density: 0.6"),
    ("c", "weight: 0.2, density: 0.2"),
];

fn recipe(method: &str, parameters: &str) -> String {
    configuration(method, Some("base"), &THREE, parameters)
}

fn take(space: &Space) -> Files {
    let files = space.files_under("merged");
    fs::remove_dir_all(space.path("merged")).expect("the result can be removed");
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

fn part(space: &Space, number: u32, of: u32, arguments: &[&str]) -> Program {
    let part = format!("{number}/{of}");
    Program::new(space)
        .args(["merge", "recipe.yaml", "--out", "merged", "--part", &part])
        .args(arguments)
}

fn assemble(space: &Space, arguments: &[&str]) -> Outcome {
    Program::new(space).args(["assemble", "merged"]).args(arguments).run()
}

/// Makes all parts, the last one first, and joins them.
#[track_caller]
fn in_parts(space: &Space, of: u32, arguments: &[&str]) {
    for number in (1..=of).rev() {
        part(space, number, of, arguments).run().success();
    }
    assemble(space, &[]).success();
    let left: Vec<String> = space.list().into_iter().filter(|path| path.contains("part")).collect();
    assert!(left.is_empty(), "parts are left: {left:?}");
}

/// Merges in one run and in so many parts, with these arguments, and compares all bytes.
#[track_caller]
fn check(what: &str, space: &Space, recipe: &str, counts: &[u32], arguments: &[&str]) {
    merge(space, recipe, arguments).success();
    let expected = take(space);
    for &of in counts {
        in_parts(space, of, arguments);
        assert_same(&format!("{what} in {of} parts"), &expected, &take(space));
    }
}

#[test]
fn streams_and_thresholds_have_the_bytes_of_one_run() {
    let space = family();
    for (method, parameters) in [
        ("task_arithmetic", "lambda: 0.7"),
        ("ties", ""),
        ("dare_ties", "normalize: true"),
        ("della", "epsilon: 0.1"),
        ("ties", "scope: model, zero_sign: majority"),
        ("lines", ""),
        ("pcb", ""),
    ] {
        check(method, &space, &recipe(method, parameters), &[3], &["--shard-size", SMALL]);
    }
    let two = configuration("linear", None, &[("a", "weight: 1"), ("b", "weight: 2")], "");
    check("linear", &space, &two, &[1, 4], &[]);
    check("linear", &space, &two, &[2, 40], &["--shard-size", SMALL]);
}

#[test]
fn matrices_have_the_bytes_of_one_run() {
    let space = family();
    for method in ["wudi", "tsv", "iso_c", "knots_ties", "optmerge"] {
        let parameters = match method {
            "wudi" => "steps: 10",
            "optmerge" => "learning_rate: 1e-3, steps: 10",
            _ => "",
        };
        let recipe = recipe(method, parameters);
        check(method, &space, &recipe, &[2], &["--no-cache", "--shard-size", SMALL]);
    }
}

#[test]
fn adapters_have_the_bytes_of_one_run() {
    let space = Space::new();
    checkpoint("base").layers(2).dtype(DType::F32).write(&space);
    let shape = checkpoint("base").layers(2).tensors();
    let shape_of = |module: &str| {
        let name = format!("{module}.weight");
        let found = shape.iter().find(|tensor| tensor.name == name).expect("a module");
        [found.shape[0], found.shape[1]]
    };
    for (name, rank) in [("one", 3), ("two", 2)] {
        let mut built = adapter(name, rank);
        for module in [
            "model.layers.0.self_attn.q_proj",
            "model.layers.1.mlp.down_proj",
            "model.layers.1.self_attn.v_proj",
        ] {
            built = built.module(module, rank, shape_of(module));
        }
        built.write(&space);
    }
    let recipe = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n\
                  - {model: base+one, parameters: {weight: 0.5}}\n\
                  - {model: base+two, parameters: {weight: 0.25}}\ndtype: float32\n";
    check("to a model", &space, recipe, &[2, 3], &["--shard-size", "20kB"]);
    let to_adapter = format!("{recipe}output: {{as: adapter}}\n");
    check("to an adapter", &space, &to_adapter, &[1, 2, 4], &[]);
    let of_rank = format!("{recipe}output: {{as: adapter, rank: 2}}\n");
    check("to an adapter of a rank", &space, &of_rank, &[2], &[]);
}

/// Warnings that come from running are made again from what all parts told.
#[test]
fn warnings_of_the_whole_are_those_of_one_run() {
    let space = Space::new();
    let model = |name: &str| checkpoint(name).layers(3).hidden(64).dtype(DType::F32);
    model("base").write(&space);
    for (seed, name) in [(11, "a"), (12, "b")] {
        model(name).expert(seed, 1e-5).write(&space);
    }
    let models = [("a", "weight: 1"), ("b", "weight: 1")];
    // What is lost in storage is a sum over all tensors.
    let lost = configuration("task_arithmetic", Some("base"), &models, "lambda: 0.1")
        .replace("float32", "bfloat16");
    let outcome = merge(&space, &lost, &[]).success();
    assert!(outcome.stderr.contains("W0652"), "{}", outcome.stderr);
    take(&space);
    check("lost in storage", &space, &lost, &[2, 3], &["--shard-size", SMALL]);
    // Results beyond what the type of the output holds, in several tensors.
    let huge = configuration("task_arithmetic", Some("base"), &models, "lambda: 1e12")
        .replace("dtype: float32", "dtype: float32\nout_dtype: float16");
    let outcome = merge(&space, &huge, &[]).success();
    assert!(outcome.stderr.contains("W0609"), "{}", outcome.stderr);
    take(&space);
    check("overflow", &space, &huge, &[3], &[]);
}

/// Enough tensors, and large enough, that a part can be caught in the middle.
fn slow_family() -> Space {
    let space = Space::new();
    let model = |name: &str| checkpoint(name).layers(16).hidden(192).vocabulary(4096);
    model("base").write(&space);
    for (seed, name) in [(11, "a"), (12, "b")] {
        model(name).dtype(DType::F32).expert(seed, 0.004).write(&space);
    }
    let models = [("a", "weight: 1, density: 0.3"), ("b", "weight: 1, density: 0.4")];
    space.write("recipe.yaml", configuration("dare_ties", Some("base"), &models, ""));
    space
}

fn recorded(space: &Space, folder: &str) -> usize {
    let journal = space.path(format!("merged/.{folder}.mixdown-partial/journal"));
    let journal = fs::read(journal).unwrap_or_default();
    journal.iter().filter(|byte| **byte == b'\n').count().saturating_sub(1)
}

#[test]
fn killed_parts_continue_and_others_run_at_the_same_time() {
    let space = slow_family();
    Program::new(&space).args(["merge", "recipe.yaml", "--out", "merged"]).run().success();
    let expected = take(&space);
    let mut caught = 0;
    for moment in [1, 10, 25] {
        let second = part(&space, 2, 3, &["--threads", "1"]).start();
        let mut first = part(&space, 1, 3, &["--threads", "1"]).start();
        while recorded(&space, "part-00001-of-00003") < moment && !first.has_ended() {
            std::thread::yield_now();
        }
        let killed = first.kill();
        if killed.status.is_none() {
            caught += 1;
            assert!(!space.exists("merged/part-00001-of-00003"), "a part that is not whole");
        }
        let kept = recorded(&space, "part-00001-of-00003");
        assemble(&space, &[]).exits(1);
        let again = part(&space, 1, 3, &["--threads", "2"]).start();
        let third = part(&space, 3, 3, &[]).run().success();
        let again = again.wait().success();
        if kept > 0 {
            assert!(again.stderr.contains("an interrupted run wrote"), "{}", again.stderr);
        }
        second.wait().success();
        assert!(third.stderr.contains("this is part 3/3"), "{}", third.stderr);
        assemble(&space, &[]).success();
        assert_same(&format!("killed at {moment}"), &expected, &take(&space));
    }
    assert!(caught >= 2, "only {caught} parts were killed in the middle");
}

#[test]
fn the_same_part_twice_is_made_once() {
    let space = family();
    space.write("recipe.yaml", recipe("ties", ""));
    part(&space, 1, 2, &[]).run().success();
    let made = space.files_under("merged/part-00001-of-00002");
    let again = part(&space, 1, 2, &[]).run().success();
    assert!(again.stderr.contains("had finished already"), "{}", again.stderr);
    assert_eq!(made, space.files_under("merged/part-00001-of-00002"));
    // A part is an output of its own, which can be proven.
    mixdown(&space, ["verify", "merged/part-00001-of-00002"]).success();
    part(&space, 2, 2, &[]).run().success();
    assemble(&space, &[]).success();
    mixdown(&space, ["verify", "merged"]).success();
    // Nor is assembling twice a mistake.
    let again = assemble(&space, &[]).success();
    assert!(again.stderr.contains("whole output already"), "{}", again.stderr);
    assert_eq!(read_checkpoint(space.path("merged")).shards.len(), 1);
}

#[track_caller]
fn told(name: &str, outcome: Outcome) {
    with_snapshots(|| insta::assert_snapshot!(name, outcome.talk()));
}

#[test]
fn numbers_of_parts_that_cannot_be() {
    let space = family();
    space.write("recipe.yaml", recipe("ties", ""));
    let talk: Vec<String> = ["0/4", "5/4", "3", "1/0", "1/100000"]
        .map(|part| {
            let arguments = ["merge", "recipe.yaml", "--out", "merged", "--part", part];
            mixdown(&space, arguments).exits(2).talk()
        })
        .to_vec();
    with_snapshots(|| insta::assert_snapshot!("numbers", talk.join("\n")));
    assert!(!space.exists("merged"));
}

#[test]
fn parts_that_do_not_belong_together_are_told() {
    let space = family();
    told("no_folder", assemble(&space, &[]).exits(2));
    space.write("merged/notes.txt", "mine");
    told("strangers", assemble(&space, &[]).exits(1));
    space.write("recipe.yaml", recipe("ties", ""));
    told("strangers_in_the_way", part(&space, 1, 2, &[]).run().exits(1));
    fs::remove_file(space.path("merged/notes.txt")).unwrap();
    told("no_parts", assemble(&space, &[]).exits(1));

    part(&space, 2, 4, &["--shard-size", SMALLER]).run().success();
    told("missing", assemble(&space, &[]).exits(1));
    told("another_count", part(&space, 1, 3, &[]).run().exits(1));
    part(&space, 1, 4, &["--shard-size", SMALLER]).run().success();
    part(&space, 3, 4, &["--shard-size", SMALLER]).run().success();
    // Another recipe, and another layout, in one folder.
    space.write("recipe.yaml", recipe("ties", "lambda: 0.5"));
    told(
        "another_recipe_in_its_place",
        part(&space, 3, 4, &["--shard-size", SMALLER]).run().exits(1),
    );
    part(&space, 4, 4, &["--shard-size", SMALLER]).run().success();
    told("another_recipe", assemble(&space, &[]).exits(1));
    space.write("recipe.yaml", recipe("ties", ""));
    part(&space, 4, 4, &["--shard-size", "50kB", "--force"]).run().success();
    told("another_layout", assemble(&space, &[]).exits(1));
    // One part under the name of another.
    fs::remove_dir_all(space.path("merged/part-00004-of-00004")).unwrap();
    mixdown_kit::space::copy_folder(
        &space.path("merged/part-00002-of-00004"),
        &space.path("merged/part-00004-of-00004"),
    );
    told("twice", assemble(&space, &[]).exits(1));
    fs::remove_dir_all(space.path("merged/part-00004-of-00004")).unwrap();
    part(&space, 4, 4, &["--shard-size", SMALLER]).run().success();

    let record = "merged/part-00002-of-00004/mixdown-part.json";
    let text = space.read(record);
    space.write(record, "{}");
    told("no_record", assemble(&space, &[]).exits(1));
    space.write(record, &text);
    damaged_files(&space);
    assemble(&space, &[]).success();
    mixdown(&space, ["verify", "merged"]).success();
}

/// Files of parts that are shorter, or hold other bytes.
fn damaged_files(space: &Space) {
    let names: Vec<String> = (1..=4)
        .flat_map(|number| {
            let folder = format!("merged/part-{number:05}-of-00004");
            let files = space.files_under(&folder).into_iter();
            files.map(move |(name, _)| format!("{folder}/{name}")).collect::<Vec<_>>()
        })
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    let whole = names.iter().find(|name| name.contains("/model-")).expect("a whole shard");
    let piece = names.iter().find(|name| name.contains("/piece-of-")).expect("a piece of one");
    for (name, file) in [("short", whole), ("short_piece", piece)] {
        let path = file;
        let bytes = space.read(path);
        space.write(path, &bytes[..bytes.len() - 1]);
        told(name, assemble(space, &[]).exits(1));
        let mut other = bytes.clone();
        other[20] ^= 1;
        space.write(path, &other);
        let outcome = assemble(space, &[]).exits(1);
        assert!(outcome.stderr.contains("E0554"), "{}", outcome.stderr);
        space.write(path, &bytes);
    }
    // What is copied is read, and so is proven.
    let bytes = space.read(piece);
    let mut other = bytes.clone();
    *other.last_mut().expect("bytes") ^= 1;
    space.write(piece, &other);
    let outcome = assemble(space, &[]).exits(1);
    assert!(outcome.stderr.contains("are not those that were written"), "{}", outcome.stderr);
    space.write(piece, &bytes);
    let config = "merged/part-00001-of-00004/config.json";
    let text = space.read(config);
    space.write(config, "{}");
    told("other_config", assemble(space, &[]).exits(1));
    space.write(config, &text);
}

#[test]
fn a_plan_tells_what_each_part_does() {
    let space = family();
    space.write("recipe.yaml", recipe("ties", "scope: model"));
    let plan = |arguments: &[&str]| {
        let arguments = [&["plan", "recipe.yaml", "--parts", "3"], arguments].concat();
        mixdown(&space, arguments).success()
    };
    with_snapshots(|| insta::assert_snapshot!("plan", plan(&["--shard-size", SMALL]).stdout));
    let told = plan(&["--shard-size", SMALL, "--json"]).json();
    for (number, planned) in (1..).zip(told["parts"].as_array().expect("parts")) {
        let outcome = part(&space, number, 3, &["--shard-size", SMALL, "--json"]).run().success();
        let done: serde_json::Value =
            serde_json::from_str(outcome.stdout.lines().last().expect("an event")).unwrap();
        assert_eq!(done["tensors"], planned["tensors"]);
        assert_eq!(done["bytes"], planned["bytes_written"]);
    }
}
