//! Checkpoints of which several processes wrote parts: those of torch from two processes, those of DeepSpeed ZeRO
//! from three, and ones that lie.

use std::fs;
use std::path::{Path, PathBuf};

use mixdown_checkpoint::encoding::Blocks;
use mixdown_checkpoint::{ByteSource, Checkpoint, FilePool, open};
use mixdown_diagnostics::{Code, Diagnostic, codes};
use mixdown_kit::Space;
use mixdown_kit::tensor::decode;
use mixdown_tensor::DType;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/formats/distributed/two")
}

/// A folder or file of what `tests/formats/zero/make.py` wrote.
fn zero(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/formats/zero").join(name)
}

/// What becomes of a file by its name and bytes; nothing where it is left out.
type Change<'a> = dyn Fn(&str, Vec<u8>) -> Option<Vec<u8>> + 'a;

/// The folder of all files of a step of ZeRO, each as `change` gives it; those it gives nothing for are left out.
fn changed_zero(name: &str, change: &Change<'_>) -> Result<Checkpoint, Vec<Diagnostic>> {
    let space = Space::new();
    for entry in fs::read_dir(zero(name)).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if let Some(bytes) = change(&name, fs::read(entry.path()).unwrap()) {
            space.write(format!("step/{name}"), bytes);
        }
    }
    open(&space.path("step"), None)
}

/// The fixture with changes to its metadata.
fn changed(change: impl Fn(Vec<u8>) -> Vec<u8>) -> Result<Checkpoint, Vec<Diagnostic>> {
    let space = Space::new();
    for entry in fs::read_dir(fixture()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        space.write(format!("two/{name}"), if name == ".metadata" { change(bytes) } else { bytes });
    }
    open(&space.path("two"), None)
}

/// One text instead of another of its length, wherever it is.
fn replaced(from: &'static str, to: &'static str) -> impl Fn(Vec<u8>) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    move |mut bytes| {
        let mut found = false;
        for at in 0..=bytes.len() - from.len() {
            if bytes[at..].starts_with(from.as_bytes()) {
                bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
                found = true;
            }
        }
        assert!(found, "{from}");
        bytes
    }
}

/// Elements of a tensor, read in stretches of so many.
fn values(checkpoint: &Checkpoint, name: &str, each: usize) -> Vec<f64> {
    let entry = checkpoint.index.get(name).unwrap_or_else(|| panic!("no `{name}`"));
    let pool = FilePool::new(4);
    let from = |shard: u32, offset: u64, buffer: &mut [u8]| {
        pool.source(&checkpoint.index.shards()[shard as usize]).read_exact_at(offset, buffer)
    };
    let (blocks, width) = (Blocks::default(), entry.dtype.bytes());
    let mut found = Vec::new();
    while found.len() < entry.shape.elements() as usize {
        let count = each.min(entry.shape.elements() as usize - found.len());
        let mut bytes = vec![0; count * width];
        entry.read(found.len() as u64, &mut bytes, &from, &blocks).unwrap();
        found.extend(bytes.chunks_exact(width).map(|one| decode(one, entry.dtype)));
    }
    found
}

/// What `make.py` puts into a tensor.
fn numbers(count: usize, start: usize) -> Vec<f64> {
    (start..start + count).map(|at| at as f64 / 8.0 - 2.0).collect()
}

#[test]
fn what_torch_writes_is_read() {
    let checkpoint = open(&fixture(), None).unwrap();
    let names: Vec<&str> = checkpoint.index.by_name().map(|one| one.name.as_str()).collect();
    let expected = [
        "lm_head.weight",
        "model.columns.weight",
        "model.rows.weight",
        "model.steps",
        "model.whole.weight",
    ];
    assert_eq!(names, expected);
    for each in [1, 3, 5, 100] {
        assert_eq!(values(&checkpoint, "model.rows.weight", each), numbers(20, 0));
        assert_eq!(values(&checkpoint, "model.columns.weight", each), numbers(18, 7));
        assert_eq!(values(&checkpoint, "model.whole.weight", each), numbers(4, 3));
        assert_eq!(values(&checkpoint, "lm_head.weight", each), numbers(8, 1));
    }
    assert_eq!(values(&checkpoint, "model.steps", 1), [7.0]);
    let dtype = |name: &str| checkpoint.index.get(name).unwrap().model_dtype();
    assert_eq!(dtype("model.rows.weight"), DType::Bf16);
    assert_eq!(dtype("lm_head.weight"), DType::F16);
    let shape = |name: &str| checkpoint.index.get(name).unwrap().shape.dimensions().to_vec();
    assert_eq!(shape("model.rows.weight"), [5, 4]);
    let told: Vec<&str> = checkpoint.warnings.iter().map(|one| one.code.id).collect();
    assert_eq!(told, [codes::NOT_READ.id, codes::WRAPPED_NAMES.id]);
    let left = &checkpoint.warnings[0].facts[0].1;
    assert!(left.contains("epoch") && left.contains("optimizer"), "{left}");
}

#[test]
fn metadata_that_lies_is_refused() {
    let refused = |change: &dyn Fn(Vec<u8>) -> Vec<u8>, words: &str| {
        let faults = changed(change).expect_err(words);
        let text = format!("{faults:?}");
        assert!(text.contains(words), "{words}: {text}");
    };
    refused(&replaced("__1_0.distcp", "../_0.distcp"), "outside of its folder");
    refused(&replaced("__1_0.distcp", "__7_0.distcp"), "lacks `__7_0.distcp`");
    refused(&replaced("bfloat16", "float8_x"), "names `torch.float8_x`");
    refused(&replaced("TensorProperties", "TensorPropertiez"), "cannot be understood");
    refused(&replaced("pathlib", "pathlix"), "names `pathlix.PosixPath`");
    refused(&replaced("fqn", "fqm"), "a place without a name");
    refused(&|bytes| bytes[..bytes.len() / 2].to_vec(), "ends before it is complete");
}

#[test]
fn bent_metadata_does_no_harm() {
    let sound = fs::read(fixture().join(".metadata")).unwrap();
    for at in (0..sound.len()).step_by(3) {
        let bent = |mut bytes: Vec<u8>| {
            bytes[at] ^= 1 << (at % 8);
            bytes
        };
        if let Ok(checkpoint) = changed(bent) {
            for tensor in checkpoint.index.tensors() {
                let parts = tensor.encoding.iter().flat_map(|one| one.parts());
                let ends = parts.chain([tensor].into_iter().filter(|one| one.encoding.is_none()));
                for part in ends {
                    let size = checkpoint.index.shards()[part.shard as usize].size;
                    assert!(part.offset + part.bytes() <= size, "byte {at}: {part:?}");
                }
            }
        }
    }
}

#[test]
fn states_of_trainers_say_what_makes_a_model_of_them() {
    let told = |files: &[&str], words: &[&str]| {
        let space = Space::new();
        for file in files {
            space.write(format!("m/{file}"), b"{}");
        }
        let faults = open(&space.path("m"), None).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].code, codes::TRAINER_STATE, "{faults:?}");
        let text = format!("{faults:?}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    };
    let zero = "global_step8/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt";
    told(&[zero, "latest", "config.json"], &["DeepSpeed ZeRO", "zero_to_fp32.py . OUT` in it"]);
    told(&["zero_pp_rank_0_mp_rank_00_model_states.pt"], &["in the folder above this one"]);
    told(&["iter_0000100/mp_rank_00/model_optim_rng.pt"], &["Megatron", "convert.py"]);
    told(&["iter_0000100/.metadata"], &["m/iter_0000100`, which is a distributed checkpoint"]);
    let unet = "unet/diffusion_pytorch_model.fp16.safetensors";
    told(&["model_index.json", unet, "scheduler/scheduler_config.json"], &["pipeline", "m/unet`"]);
}

/// A part of a cut model has names and shapes of its own, and would merge as if it were one.
#[test]
fn the_part_of_one_rank_is_no_model() {
    let space = Space::new();
    for file in ["mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"] {
        space.write(format!("a/{file}"), b"{}");
    }
    for rank in ["00_000", "00_001"] {
        space.write(format!("p/mp_rank_{rank}/model_optim_rng.pt"), b"{}");
    }
    for rank in [0, 1] {
        space.write(format!("b/mp_rank_0{rank}_model_states.pt"), b"{}");
    }
    let parts = [
        "a/mp_rank_00",
        "a/mp_rank_01/model_optim_rng.pt",
        "p/mp_rank_00_001",
        "b/mp_rank_01_model_states.pt",
    ];
    for part in parts {
        let faults = open(&space.path(part), None).unwrap_err();
        assert_eq!(faults[0].code, codes::TRAINER_STATE, "{part}: {faults:?}");
        assert!(faults[0].headline.contains("one of 2 ranks"), "{part}: {faults:?}");
    }
    // A model that was not cut is whole in the file of its only rank.
    space.write("c/mp_rank_00/model_optim_rng.pt", b"{}");
    let faults = open(&space.path("c/mp_rank_00/model_optim_rng.pt"), None).unwrap_err();
    assert_ne!(faults[0].code, codes::TRAINER_STATE, "{faults:?}");
}

#[test]
fn shares_of_zero_are_put_together() {
    let expected = open(&zero("expected.safetensors"), None).unwrap();
    for folder in ["two", "two/global_step5", "padded", "three"] {
        let checkpoint = open(&zero(folder), None).unwrap();
        let names = |of: &Checkpoint| -> Vec<String> {
            of.index.by_name().map(|one| one.name.clone()).collect()
        };
        assert_eq!(names(&checkpoint), names(&expected), "{folder}");
        for tensor in expected.index.tensors() {
            let own = checkpoint.index.get(&tensor.name).unwrap();
            assert_eq!(own.shape, tensor.shape, "{folder} {}", tensor.name);
            assert_eq!(own.model_dtype(), tensor.dtype, "{folder} {}", tensor.name);
            for each in [1, 3, 100] {
                let found = values(&checkpoint, &tensor.name, each);
                assert_eq!(found, values(&expected, &tensor.name, 100), "{folder} {}", tensor.name);
            }
        }
        let told: Vec<&str> = checkpoint.warnings.iter().map(|one| one.code.id).collect();
        assert_eq!(told, [codes::NOT_READ.id], "{folder}");
    }
}

#[test]
fn states_of_zero_that_do_not_go_together_are_refused() {
    let refused = |change: &Change<'_>, code: Code, words: &str| {
        let faults = changed_zero("three", change).expect_err(words);
        assert_eq!(faults[0].code, code, "{faults:?}");
        let text = format!("{faults:?}");
        assert!(text.contains(words), "{words}: {text}");
    };
    let without = |ending: &'static str| {
        move |name: &str, bytes| Some(bytes).filter(|_| !name.ends_with(ending))
    };
    let (missing, broken) = (codes::SHARD_MISSING, codes::HEADER_BROKEN);
    refused(&without("rank_1_mp_rank_00_optim_states.pt"), missing, "of 2 processes, and 3 wrote");
    refused(&without("model_states.pt"), missing, "lacks `mp_rank_00_model_states.pt`");
    let swapped = |from: &'static str, to: &'static str| {
        move |_: &str, bytes: Vec<u8>| {
            Some(match String::from_utf8_lossy(&bytes).contains(from) {
                true => replaced(from, to)(bytes),
                false => bytes,
            })
        }
    };
    let key = swapped("param_shapes", "param_shapez");
    refused(&key, codes::UNSUPPORTED_FORMAT, "no shapes of parameters");
    let scaler = swapped("deepspeed.runtime.fp16", "deepsqeed.runtime.fp16");
    refused(&scaler, codes::UNSUPPORTED_FORMAT, "names `deepsqeed.runtime.fp16.loss_scaler");
    let space = Space::new();
    for rank in ["00", "01"] {
        space.write(format!("m/zero_pp_rank_0_mp_rank_{rank}_optim_states.pt"), b"");
        space.write(format!("m/mp_rank_{rank}_model_states.pt"), b"");
    }
    let faults = open(&space.path("m"), None).unwrap_err();
    assert_eq!(faults[0].code, codes::TRAINER_STATE, "{faults:?}");
    assert!(faults[0].headline.contains("matrices that are cut"), "{faults:?}");
    // A share of another length: the first process's files in the place of the last's, from another stage.
    let other = fs::read(
        zero("padded/global_step5").join("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
    );
    let other = other.unwrap();
    let mixed = |name: &str, bytes| {
        let is_it = name == "zero_pp_rank_2_mp_rank_00_optim_states.pt";
        Some(if is_it { other.clone() } else { bytes })
    };
    refused(&mixed, broken, "processes have different groups");
}

#[test]
fn bent_states_of_zero_do_no_harm() {
    for (file, length) in [
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", 2600),
        ("zero_pp_rank_0_mp_rank_00_model_states.pt", 4400),
    ] {
        for at in (0..length).step_by(7) {
            let bent = |name: &str, mut bytes: Vec<u8>| {
                if name == file && at < bytes.len() {
                    bytes[at] ^= 1 << (at % 8);
                }
                Some(bytes)
            };
            let Ok(checkpoint) = changed_zero("three", &bent) else { continue };
            for tensor in checkpoint.index.tensors() {
                let parts = tensor.encoding.iter().flat_map(|one| one.parts());
                let ends = parts.chain([tensor].into_iter().filter(|one| one.encoding.is_none()));
                for part in ends {
                    let size = checkpoint.index.shards()[part.shard as usize].size;
                    assert!(part.offset + part.bytes() <= size, "{file} byte {at}: {part:?}");
                }
            }
        }
    }
}
