//! Folders of files, in each of their layouts.

use super::*;

fn opened(path: &Path) -> Checkpoint {
    open(path, None).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.index.by_name().map(|tensor| tensor.name.as_str()).collect()
}

/// A file of one-element tensors of these names.
fn weights(names: &[&str]) -> Vec<u8> {
    let tensors: Vec<Tensor> =
        names.iter().map(|name| Tensor::new(name, DType::Bf16, &[1], &[1.0])).collect();
    torch_bytes(&tensors.iter().collect::<Vec<_>>())
}

#[test]
fn folders_of_each_layout_are_opened() {
    let space = Space::new();
    let index = |shards: [&str; 2]| {
        serde_json::json!({"weight_map": {"a": shards[0], "b": shards[1]}}).to_string()
    };
    let padded = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    let bare = ["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"];
    for (folder, shards) in [("padded", padded), ("bare", bare)] {
        for (shard, name) in shards.iter().zip(["a", "b"]) {
            space.write(format!("{folder}/{shard}"), weights(&[name]));
        }
        // What trainers leave behind is no part of the model.
        space.write(format!("{folder}/training_args.bin"), fixture("module.bin"));
        space.write(format!("{folder}/optimizer.pt"), weights(&["a"]));
        assert_eq!(names(&opened(&space.path(folder))), ["a", "b"], "{folder} without an index");
        let index = space.write(format!("{folder}/pytorch_model.bin.index.json"), index(shards));
        assert_eq!(names(&opened(&space.path(folder))), ["a", "b"], "{folder}");
        assert_eq!(names(&opened(&index)), ["a", "b"], "{folder} by its index");
    }
    // An index may name any file.
    space.write("named/first.bin", weights(&["a"]));
    space.write("named/second.pt", weights(&["b"]));
    space.write("named/pytorch_model.bin.index.json", index(["first.bin", "second.pt"]));
    assert_eq!(names(&opened(&space.path("named"))), ["a", "b"]);
    space.write("adapter/adapter_model.bin", weights(&["lora"]));
    assert_eq!(names(&opened(&space.path("adapter"))), ["lora"]);
    space.write("adapter/pytorch_model.bin", weights(&["a"]));
    assert_eq!(names(&opened(&space.path("adapter"))), ["a"]);
    // A single file is what its bytes say, whatever its name.
    for name in ["consolidated.00.pth", "model.ckpt", "weights"] {
        assert_eq!(names(&opened(&space.write(name, weights(&["a"])))), ["a"], "{name}");
    }
}

#[test]
fn safetensors_come_first() {
    let space = Space::new();
    let tensor = Tensor::new("s", DType::Bf16, &[1], &[1.0]);
    space.write("m/pytorch_model.bin", weights(&["t"]));
    space.write("m/pytorch_model.bin.index.json", r#"{"weight_map": {"t": "gone.bin"}}"#);
    space.write("m/model.safetensors", safetensors_bytes(&[&tensor]));
    assert_eq!(names(&opened(&space.path("m"))), ["s"]);
    let map = r#"{"weight_map": {"s": "model.safetensors"}}"#;
    space.write("m/model.safetensors.index.json", map);
    assert_eq!(names(&opened(&space.path("m"))), ["s"]);
}

#[test]
fn shards_that_are_missing_are_named() {
    let space = Space::new();
    space.write("m/pytorch_model-00002-of-00003.bin", weights(&["a"]));
    let faults = open(&space.path("m"), None).unwrap_err();
    let headlines: Vec<&str> = faults.iter().map(|fault| fault.headline.as_str()).collect();
    assert_eq!(
        headlines,
        [
            "the model folder lacks `pytorch_model-00001-of-00003.bin`",
            "the model folder lacks `pytorch_model-00003-of-00003.bin`",
        ]
    );
    assert!(faults.iter().all(|fault| fault.code == codes::SHARD_MISSING));
}

#[test]
fn strides_of_the_kit_are_torch_s() {
    assert_eq!(row_strides(&[2, 3, 4]), [12, 4, 1]);
    assert_eq!(row_strides(&[]), [0; 0]);
}
