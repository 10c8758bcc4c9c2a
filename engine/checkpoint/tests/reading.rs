//! Folders and files of every layout, sound and broken, opened as a user names them.

use std::fs;
use std::path::Path;

use mixdown_checkpoint::{Checkpoint, Form, open};
use mixdown_diagnostics::{Code, Diagnostic, Place, codes};
use mixdown_kit::raw::{raw_safetensors, safetensors_bytes};
use mixdown_kit::{Space, Tensor};
use mixdown_tensor::DType;

/// A file with one-element tensors of these names.
fn weights(names: &[&str]) -> Vec<u8> {
    let tensors: Vec<Tensor> =
        names.iter().map(|name| Tensor::new(name, DType::Bf16, &[1], &[1.0])).collect();
    safetensors_bytes(&tensors.iter().collect::<Vec<_>>())
}

fn opened(path: &Path) -> Checkpoint {
    open(path, None).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.index.by_name().map(|tensor| tensor.name.as_str()).collect()
}

/// The folder `m` is refused with just these faults, in this order.
fn refused(space: &Space, wanted: &[(Code, &str)]) -> Vec<Diagnostic> {
    refused_at(&space.path("m"), wanted)
}

fn refused_at(path: &Path, wanted: &[(Code, &str)]) -> Vec<Diagnostic> {
    let faults = open(path, None).expect_err("a broken checkpoint");
    let found: Vec<(Code, &str)> =
        faults.iter().map(|fault| (fault.code, fault.headline.as_str())).collect();
    assert_eq!(found, wanted);
    faults
}

fn fact<'a>(fault: &'a Diagnostic, label: &str) -> &'a str {
    let found = fault.facts.iter().find(|(known, _)| known == label);
    found.map(|(_, text)| text.as_str()).unwrap_or_else(|| panic!("no `{label}` in {fault:?}"))
}

#[test]
fn a_folder_with_one_file() {
    let space = Space::new();
    space.write("m/model.safetensors", weights(&["b", "a"]));
    space.write("m/config.json", r#"{"model_type": "llama"}"#);
    let checkpoint = opened(&space.path("m"));
    assert_eq!(names(&checkpoint), ["a", "b"]);
    assert_eq!(checkpoint.config.as_ref().unwrap()["model_type"], "llama");
    assert_eq!((checkpoint.form, &checkpoint.root), (Form::Folder, &space.path("m")));
    assert!(checkpoint.warnings.is_empty());
}

#[test]
fn a_configuration_that_is_not_json() {
    let space = Space::new();
    space.write("m/model.safetensors", weights(&["a"]));
    space.write("m/config.json", "{\n  \"limit\": [0.0, Infinity]\n}");
    let faults = refused(&space, &[(codes::CONFIG_BROKEN, "a file is not JSON")]);
    let help = "write a number for `Infinity`, which JSON does not have";
    assert_eq!(faults[0].help.as_deref(), Some(help));
    space.write("m/config.json", "[]");
    refused(&space, &[(codes::CONFIG_BROKEN, "a configuration is not a JSON map")]);
}

#[test]
fn a_single_file_of_any_name() {
    let space = Space::new();
    let path = space.write("expert.weights", weights(&["a"]));
    let checkpoint = opened(&path);
    assert_eq!((checkpoint.form, &*checkpoint.root), (Form::File, space.root()));
    assert_eq!(checkpoint.index.shards()[0].path, path);
    assert_eq!(checkpoint.config, None);
}

#[test]
fn an_index_says_which_files_count() {
    let space = Space::new();
    space.write("m/one.safetensors", weights(&["a"]));
    space.write("m/two.safetensors", weights(&["b"]));
    space.write("m/consolidated.safetensors", weights(&["a", "b", "c"]));
    let index =
        r#"{"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
    let path = space.write("m/model.safetensors.index.json", index);
    assert_eq!(names(&opened(&space.path("m"))), ["a", "b"]);
    assert_eq!(names(&opened(&path)), ["a", "b"], "an index is named as the model");
    // The only index counts, whatever its name.
    fs::rename(path, space.path("m/other.safetensors.index.json")).unwrap();
    assert_eq!(names(&opened(&space.path("m"))), ["a", "b"]);
    space.write("m/third.safetensors.index.json", index);
    let headline = "a folder has several indexes and none is `model.safetensors.index.json`";
    refused(&space, &[(codes::INDEX_BROKEN, headline)]);
}

#[test]
fn several_files_without_an_index() {
    let space = Space::new();
    space.write("m/two.safetensors", weights(&["c"]));
    space.write("m/one.safetensors", weights(&["b", "a"]));
    space.write("m/._one.safetensors", "left behind by an archiver");
    let checkpoint = opened(&space.path("m"));
    assert_eq!(names(&checkpoint), ["a", "b", "c"]);
    let shards: Vec<_> = checkpoint.index.tensors().iter().map(|tensor| tensor.shard).collect();
    assert_eq!(shards, [0, 0, 1]);
}

#[test]
fn a_second_copy_is_left_out_with_a_warning() {
    let space = Space::new();
    space.write("m/model.safetensors", weights(&["a"]));
    space.write("m/consolidated.safetensors", weights(&["layers.a"]));
    let checkpoint = opened(&space.path("m"));
    assert_eq!(names(&checkpoint), ["a"]);
    assert_eq!(checkpoint.warnings[0].code, codes::NOT_READ);
    assert_eq!(fact(&checkpoint.warnings[0], "not read"), "`consolidated.safetensors`");
    fs::remove_file(space.path("m/model.safetensors")).unwrap();
    assert_eq!(names(&opened(&space.path("m"))), ["layers.a"]);
}

#[test]
fn a_prefix_chooses_and_is_removed() {
    let space = Space::new();
    let all = ["vision.a", "language.a", "language.b", "language"];
    let path = space.write("m.safetensors", weights(&all));
    let checkpoint = open(&path, Some("language.")).unwrap();
    assert_eq!(names(&checkpoint), ["a", "b"]);
    let whole = opened(&path);
    let offset = |index: &mixdown_checkpoint::Index, name| index.get(name).unwrap().offset;
    assert_eq!(offset(&checkpoint.index, "b"), offset(&whole.index, "language.b"));

    let faults = open(&path, Some("audio.")).unwrap_err();
    assert_eq!(faults[0].headline, "no tensor has a name that begins with `audio.`");
    assert_eq!(fact(&faults[0], "names begin with"), "`vision.`, `language.`, `language`");
    let faults = open(&path, Some("language")).unwrap_err();
    assert_eq!(faults[0].headline, "the prefix `language` is the whole name of a tensor");
}

#[test]
fn what_is_not_there() {
    let space = Space::new();
    let path = space.path("none");
    let headline = format!("there is no model `{}`", path.display());
    refused_at(&path, &[(codes::MODEL_NOT_FOUND, &headline)]);

    fs::create_dir(space.path("m")).unwrap();
    let name = space.path("m").display().to_string();
    let empty = format!("the model folder `{name}` is empty");
    refused(&space, &[(codes::NO_WEIGHTS, &empty)]);

    space.write("m/config.json", "{}");
    let none = format!("the model folder `{name}` holds no weights that are read");
    refused(&space, &[(codes::NO_WEIGHTS, &none)]);

    space.write("m/unet/model.safetensors", weights(&["a"]));
    let faults = refused(&space, &[(codes::NO_WEIGHTS, &none)]);
    let help = format!("name the folder `{name}/unet`, which holds some");
    assert_eq!(faults[0].help.as_deref(), Some(help.as_str()));

    space.write("m/training_args.bin", "PK\x03\x04");
    let faults = refused(&space, &[(codes::NO_WEIGHTS, &none)]);
    assert_eq!(fact(&faults[0], "found"), "`training_args.bin`");
    let help = format!("name the file itself, as `{name}/training_args.bin`, if it holds weights");
    assert_eq!(faults[0].help.as_deref(), Some(help.as_str()));

    space.write("m/tf_model.h5", "x");
    let faults = refused(&space, &[(codes::UNSUPPORTED_FORMAT, &none)]);
    assert_eq!(fact(&faults[0], "found"), "`tf_model.h5`");
    let help = "Keras files are not read; save the model as safetensors first";
    assert_eq!(faults[0].help.as_deref(), Some(help));
}

#[test]
fn files_of_other_formats_are_named() {
    let space = Space::new();
    let cases = [
        ("model.bin", "\x7fHDF", "the file is in no format that is known"),
        ("notes.txt", "some text", "the file is in no format that is known"),
        ("empty", "", "the file is in no format that is known"),
    ];
    for (name, contents, headline) in cases {
        let path = space.write(name, contents);
        refused_at(&path, &[(codes::UNSUPPORTED_FORMAT, headline)]);
    }
}

#[test]
fn an_index_that_cannot_be_understood() {
    let space = Space::new();
    let cases = [
        ("{", "a file is not JSON"),
        ("", "a file is not JSON"),
        ("[]", "a JSON file does not have the form it should"),
        ("{}", "a JSON file does not have the form it should"),
        (r#"{"weight_map": []}"#, "a JSON file does not have the form it should"),
        (r#"{"weight_map": {}}"#, "the index names no tensor"),
        (r#"{"weight_map": {"a": 1}}"#, "the index does not name a file for `a`"),
        (
            r#"{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}"#,
            "the index names two files for `a`",
        ),
    ];
    for (text, headline) in cases {
        space.write("m/model.safetensors.index.json", text);
        refused(&space, &[(codes::INDEX_BROKEN, headline)]);
    }
    space.write("m/model.safetensors.index.json", b"{\"\xff\": 1}");
    let faults = refused(&space, &[(codes::UNREADABLE, "a file is not UTF-8")]);
    assert!(matches!(faults[0].place, Some(Place::Byte(_, 2))));
}

/// An index from the network must not make the merge read other files of this machine.
#[test]
fn an_index_cannot_lead_out_of_its_folder() {
    let space = Space::new();
    space.write("outside.safetensors", weights(&["a"]));
    let outside = space.path("outside.safetensors").display().to_string();
    let cases = [
        "../outside.safetensors",
        "./../outside.safetensors",
        "sub/../../outside.safetensors",
        "..",
        "",
        "C:outside.safetensors",
        "..\\outside.safetensors",
        &outside,
    ];
    for file in cases {
        let index = serde_json::json!({"weight_map": {"a": file}});
        space.write("m/model.safetensors.index.json", index.to_string());
        let headline = format!("the index names a file outside its folder: `{file}`");
        let faults = refused(&space, &[(codes::INDEX_ESCAPES, &headline)]);
        let Some(Place::Text(source, span)) = &faults[0].place else { panic!("{faults:?}") };
        let line = source.line(span.line).unwrap();
        let marked: String =
            line.chars().skip(span.column as usize - 1).take(span.length as usize).collect();
        if !file.contains('\\') {
            assert_eq!(marked, format!("\"{file}\""));
        }
    }
}

#[cfg(unix)]
#[test]
fn links_may_lead_out_of_the_folder_as_in_the_hub_s_cache() {
    let space = Space::new();
    space.write("blobs/0123", weights(&["a"]));
    space.write("m/config.json", "{}");
    let link = space.path("m/model.safetensors");
    std::os::unix::fs::symlink("../blobs/0123", link).unwrap();
    space.write("m/model.safetensors.index.json", r#"{"weight_map": {"a": "model.safetensors"}}"#);
    assert_eq!(names(&opened(&space.path("m"))), ["a"]);
}

/// All mistakes of a folder are told at once, and what only follows from them is not.
#[test]
fn all_faults_of_a_folder_are_told_at_once() {
    let space = Space::new();
    let whole = weights(&["t"]);
    space.write("m/cut.safetensors", &whole[..whole.len() - 1]);
    space.write("m/good.safetensors", weights(&["a", "extra"]));
    space.write("m/bad.safetensors", raw_safetensors("{", b""));
    space.write("m/config.json", "{\n  \"a\": }");
    let index = r#"{"weight_map": {"a": "good.safetensors", "lost": "good.safetensors",
        "x": "bad.safetensors", "y": "gone.safetensors", "t": "cut.safetensors"}}"#;
    space.write("m/model.safetensors.index.json", index);
    let faults = refused(
        &space,
        &[
            (codes::SHARD_MISSING, "the index names `gone.safetensors`, which is not there"),
            (codes::CONFIG_BROKEN, "a file is not JSON"),
            (codes::HEADER_BROKEN, "the safetensors header is not JSON"),
            (codes::SHARD_TRUNCATED, "the shard ends inside `t`"),
            (
                codes::INDEX_BROKEN,
                "the index places 1 tensor in `good.safetensors`, which lacks it",
            ),
            (codes::INDEX_BROKEN, "the index does not place 1 tensor of `good.safetensors` there"),
        ],
    );
    assert_eq!(fact(&faults[0], "it holds"), "`y`");
    assert_eq!(fact(&faults[4], "tensors"), "`lost`");
    assert_eq!(fact(&faults[5], "tensors"), "`extra`");
    let Some(Place::Text(source, span)) = &faults[1].place else { panic!("{faults:?}") };
    assert!(source.name().ends_with("m/config.json"));
    assert_eq!((span.line, span.column), (2, 8));
}

#[test]
fn a_tensor_in_two_files() {
    let space = Space::new();
    space.write("m/one.safetensors", weights(&["a", "b"]));
    space.write("m/two.safetensors", weights(&["b"]));
    refused(&space, &[(codes::DUPLICATE_TENSOR, "two files hold `b`")]);
    space.write("m/two.safetensors", weights(&["a", "b", "c"]));
    let faults = refused(&space, &[(codes::DUPLICATE_TENSOR, "two files hold the same 2 tensors")]);
    assert_eq!(fact(&faults[0], "tensors"), "`a`, `b`");
    // With an index, which chooses one of the two, the other is still there to be read by others.
    let index = r#"{"weight_map": {"a": "one.safetensors", "b": "one.safetensors",
        "c": "two.safetensors"}}"#;
    space.write("m/model.safetensors.index.json", index);
    refused(&space, &[(codes::DUPLICATE_TENSOR, "two files hold the same 2 tensors")]);
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let space = Space::new();
    space.write("m/model.safetensors/inside", "x");
    let headline = "a file cannot be read: a folder stands where a file should be";
    refused(&space, &[(codes::UNREADABLE, headline)]);

    let pipe = space.path("pipe.safetensors");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let headline = "a file cannot be read: a pipe, socket or device stands where a file should be";
    refused_at(&pipe, &[(codes::UNREADABLE, headline)]);
    refused_at(Path::new("/dev/zero"), &[(codes::UNREADABLE, headline)]);

    std::os::unix::fs::symlink("loop.safetensors", space.path("loop.safetensors")).unwrap();
    let faults = open(&space.path("loop.safetensors"), None).unwrap_err();
    assert_eq!(faults[0].code, codes::UNREADABLE);
}

#[cfg(unix)]
#[test]
fn a_file_without_permission() {
    use std::os::unix::fs::PermissionsExt;
    let space = Space::new();
    let path = space.write("m/model.safetensors", weights(&["a"]));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        println!("skipped: this user may read every file");
        return;
    }
    refused(&space, &[(codes::UNREADABLE, "a file cannot be read: permission denied")]);
}

/// Names of 100 000 tensors are found without a walk through all of them.
#[test]
fn many_tensors_are_no_trouble() {
    let mut header = String::from("{");
    for number in 0..100_000 {
        let comma = if number > 0 { "," } else { "" };
        header += &format!(
            r#"{comma}"layers.{number}.w":{{"dtype":"U8","shape":[1],"data_offsets":[{number},{}]}}"#,
            number + 1
        );
    }
    header.push('}');
    let space = Space::new();
    let path = space.write("m.safetensors", raw_safetensors(header, &vec![0; 100_000]));
    let checkpoint = opened(&path);
    assert_eq!(checkpoint.index.len(), 100_000);
    for number in [0, 77_777, 99_999] {
        let found = checkpoint.index.position(&format!("layers.{number}.w"));
        assert_eq!(found, Some(number));
    }
}

/// A name is compared with the patterns of all architectures and rules.
#[test]
fn a_name_of_megabytes_is_refused_and_a_long_one_read() {
    let space = Space::new();
    let (long, longer) = ("x".repeat(4096), "y".repeat(2_000_000));
    space.write("m/model.safetensors", weights(&[&long]));
    assert_eq!(names(&opened(&space.path("m"))), [long.as_str()]);
    space.write("m/model.safetensors", weights(&[&long, &longer]));
    let faults = open(&space.path("m"), None).unwrap_err();
    assert_eq!(faults.iter().map(|fault| fault.code).collect::<Vec<_>>(), [codes::NAME_TOO_LONG]);
    assert_eq!(fact(&faults[0], "name"), "2 000 000 bytes");
    assert!(faults[0].headline.len() < 1000);
}
