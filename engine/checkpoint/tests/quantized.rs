//! Packed checkpoints as real libraries wrote them: names, shapes and every value, bit for bit.
//!
//! `tests/formats/quantized` holds for each a small model and the values that its codes and scales stand
//! for, computed in f32 as the library defines them. Catches a nibble in the wrong place, a zero point that
//! is off by one, a scale of the neighboring block, and a stretch that depends on where reading began.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mixdown_checkpoint::encoding::Blocks;
use mixdown_checkpoint::{ByteSource, Checkpoint, FilePool, TensorEntry, open};
use mixdown_diagnostics::{Code, Diagnostic, codes};
use mixdown_tensor::DType;
use mixdown_tensor::convert::{bf16_to_f32, f16_to_f32};
use safetensors::SafeTensors;
use safetensors::tensor::{TensorView, View};
use serde_json::{Value, json};

fn formats() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/formats/quantized")
}

/// The elements of a tensor from one on, as f32.
fn read(checkpoint: &Checkpoint, tensor: &TensorEntry, first: u64, count: u64) -> Vec<f32> {
    try_read(checkpoint, tensor, first, count).unwrap()
}

fn try_read(
    checkpoint: &Checkpoint,
    tensor: &TensorEntry,
    first: u64,
    count: u64,
) -> Result<Vec<f32>, Box<Diagnostic>> {
    let pool = FilePool::new(2);
    let from = |shard: u32, offset: u64, buffer: &mut [u8]| {
        pool.source(&checkpoint.index.shards()[shard as usize]).read_exact_at(offset, buffer)
    };
    let mut bytes = vec![0; count as usize * tensor.dtype.bytes()];
    let blocks = Blocks::default();
    tensor.read(first, &mut bytes, &from, &blocks).map_err(|error| Box::new(error.diagnostic()))?;
    let halves = || bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    Ok(match tensor.dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::Bf16 => halves().map(bf16_to_f32).collect(),
        DType::F16 => halves().map(f16_to_f32).collect(),
        other => panic!("{} is {other}", tensor.name),
    })
}

fn expected(folder: &Path) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let bytes = fs::read(folder.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let value = |(name, view): (String, TensorView<'_>)| {
        let shape = view.shape().iter().map(|&size| size as u64).collect();
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        (name, (shape, values.collect()))
    };
    file.tensors().into_iter().map(value).collect()
}

fn same(one: &[f32], other: &[f32]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn values_are_those_of_the_libraries() {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(formats()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 30);
    let faults: Vec<String> = (folders.iter())
        .filter_map(|folder| {
            let gguf = folder.join("model.gguf");
            let file = if gguf.exists() { gguf } else { folder.join("model.safetensors") };
            compare(folder, &file).err()
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Parts of a weight lie in whichever shard has room, all at its first byte here.
#[test]
fn each_part_may_lie_in_a_shard_of_its_own() {
    let is_gguf = |folder: &PathBuf| folder.join("model.gguf").exists();
    let folders = fs::read_dir(formats()).unwrap().map(|entry| entry.unwrap().path());
    let faults: Vec<String> = folders
        .filter(|folder| !is_gguf(folder))
        .filter_map(|folder| {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let model = Changed::of(&name);
            model.write_apart();
            compare(&folder, model.folder.path()).err()
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What is wrong with the reading of a fixture from a file, or a folder.
fn compare(folder: &Path, file: &Path) -> Result<(), String> {
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let checkpoint = open(file, None).map_err(|faults| format!("{name}: {faults:?}"))?;
    let expected = expected(folder);
    let is_wanted =
        |found: &&TensorEntry| found.encoding.is_some() || expected.contains_key(&found.name);
    let found: Vec<&TensorEntry> = checkpoint.index.by_name().filter(is_wanted).collect();
    let names: Vec<&str> = found.iter().map(|tensor| tensor.name.as_str()).collect();
    if !names.iter().eq(expected.keys()) || found.iter().all(|one| one.encoding.is_none()) {
        return Err(format!("{name} holds {names:?} instead of {:?}", expected.keys()));
    }
    for tensor in found {
        let (shape, values) = &expected[&tensor.name];
        let what = format!("{name}: {} ({})", tensor.name, tensor.stored_as());
        if tensor.shape.dimensions() != shape {
            return Err(format!("{what} has the shape {}", tensor.shape));
        }
        let count = values.len() as u64;
        // Stretches begin anywhere.
        let stretches = [(0, count), (1, 1), (7, 33), (count / 2 + 1, 65), (count - 1, 1)];
        for (first, length) in stretches {
            let first = first.min(count - 1);
            let length = length.min(count - first);
            let part = read(&checkpoint, tensor, first, length);
            let wanted = &values[first as usize..(first + length) as usize];
            if !same(&part, wanted) {
                let at = part.iter().zip(wanted).position(|(a, b)| a.to_bits() != b.to_bits());
                return Err(format!("{what} from {first} differs at {at:?}"));
            }
        }
    }
    Ok(())
}

/// A fixture with some of its tensors or its configuration changed.
struct Changed {
    folder: tempfile::TempDir,
    tensors: BTreeMap<String, Plain>,
    config: Value,
    metadata: std::collections::HashMap<String, String>,
}

/// A stored tensor.
#[derive(Clone)]
struct Plain {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl View for &Plain {
    fn dtype(&self) -> safetensors::Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.data.as_slice().into()
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

impl Changed {
    fn of(fixture: &str) -> Self {
        let from = formats().join(fixture);
        let bytes = fs::read(from.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let plain = |view: TensorView<'_>| Plain {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        let tensors = file.tensors().into_iter().map(|(name, view)| (name, plain(view))).collect();
        let config = fs::read(from.join("config.json"))
            .map_or(json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        Self { folder: tempfile::tempdir().unwrap(), tensors, config, metadata }
    }

    /// The first tensor whose name ends so.
    fn tensor(&mut self, end: &str) -> &mut Plain {
        self.tensors.iter_mut().find(|(name, _)| name.ends_with(end)).unwrap().1
    }

    fn without(mut self, end: &str) -> Self {
        let name = self.tensors.keys().find(|name| name.ends_with(end)).unwrap().clone();
        self.tensors.remove(&name);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Writes each tensor as a shard.
    fn write_apart(&self) {
        let path = self.folder.path();
        fs::write(path.join("config.json"), self.config.to_string()).unwrap();
        let metadata = Some(self.metadata.clone()).filter(|all| !all.is_empty());
        let mut files = serde_json::Map::new();
        for (number, (name, tensor)) in (1..).zip(&self.tensors) {
            let file = format!("model-{number:05}-of-{:05}.safetensors", self.tensors.len());
            let one = [(name, tensor)];
            let mut bytes = safetensors::serialize(one, metadata.clone()).unwrap();
            // Headers of one length, so that all parts begin at the same byte.
            let length = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
            bytes.splice(length..length, vec![b' '; 8192 - length]);
            bytes[..8].copy_from_slice(&(8192_u64 - 8).to_le_bytes());
            fs::write(path.join(&file), bytes).unwrap();
            files.insert(name.clone(), file.into());
        }
        let index = json!({"metadata": {}, "weight_map": files});
        fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    fn open(&self) -> Result<Checkpoint, Vec<Diagnostic>> {
        let path = self.folder.path();
        fs::write(path.join("config.json"), self.config.to_string()).unwrap();
        let metadata = Some(self.metadata.clone()).filter(|all| !all.is_empty());
        safetensors::serialize_to_file(&self.tensors, metadata, &path.join("model.safetensors"))
            .unwrap();
        open(path, None)
    }

    /// Refused when it is opened, with a headline that holds these words.
    #[track_caller]
    fn refused(&self, code: Code, words: &str) {
        let faults = self.open().expect_err("it is refused");
        let one = faults.iter().find(|fault| fault.code == code);
        let one = one.unwrap_or_else(|| panic!("another code in {faults:?}"));
        assert!(one.headline.contains(words), "{}", one.headline);
    }

    /// Opened, and refused when a tensor is read.
    #[track_caller]
    fn unreadable(&self, words: &str) {
        let checkpoint = self.open().unwrap_or_else(|faults| panic!("{faults:?}"));
        let packed = checkpoint.index.tensors().iter().filter(|one| one.encoding.is_some());
        let faults: Vec<Box<Diagnostic>> = packed
            .filter_map(|one| try_read(&checkpoint, one, 0, one.shape.elements()).err())
            .collect();
        let one = faults.first().expect("a tensor cannot be read");
        assert_eq!(one.code, codes::PACKED_VALUE);
        assert!(one.headline.contains(words), "{}", one.headline);
    }
}

#[test]
fn parts_that_are_missing_are_named() {
    let broken = codes::PACKED_BROKEN;
    for (fixture, end) in [
        ("bnb_nf4", "weight.absmax"),
        ("bnb_nf4", "weight.quant_map"),
        ("bnb_nf4_double", "weight.nested_absmax"),
        ("ct_pack4_group", "weight_scale"),
        ("ct_pack4_group", "weight_shape"),
        ("gptq_v1_4bit_sym", "scales"),
        ("gptq_v1_4bit_sym", "qzeros"),
        ("awq_gemm", "qzeros"),
        ("mxfp4_gpt_oss", "proj_scales"),
        ("mxfp4_gpt_oss", "proj_blocks"),
        ("mlx_affine_f32", "biases"),
        ("mlx_affine_f32", "scales"),
        ("hqq_4bit_axis1", ".zero"),
        ("torchao_int8", "weight_scale"),
        ("modelopt_nvfp4", "weight_scale_2"),
        ("bnb_int8", "weight"),
        ("ct_pack4_asym", "weight_zero_point"),
        ("gptq_v1_4bit_act", "g_idx"),
        ("torchao_intx4", "weight_zero_point"),
    ] {
        // Of int8 any weight would do; the first is an embedding.
        let end = if fixture == "bnb_int8" { "down_proj.weight" } else { end };
        let words = end.rsplit('.').next().unwrap();
        Changed::of(fixture).without(end).refused(broken, words);
    }
    // What is left still says what it was, whichever part it is.
    for (fixture, end, words) in [
        ("fp8_block_f32", "down_proj.weight_scale_inv", "`fp8`"),
        ("ct_fp8_channel", "down_proj.weight_scale", "`compressed-tensors`"),
        ("modelopt_fp8", "down_proj.weight_scale", "`modelopt`"),
        ("gptq_v1_4bit_sym", "qweight", "GPTQ"),
        ("ct_pack4_group", "weight_packed", "`compressed-tensors`"),
        ("mlx_affine_f32", "down_proj.weight", "MLX"),
        ("hqq_4bit_axis1", "W_q", "HQQ"),
        ("torchao_int8", "_weight_qdata", "torchao"),
    ] {
        Changed::of(fixture).without(end).refused(broken, words);
    }
    // Nor do codes become numbers where the configuration is gone as well.
    let mut fp8 = Changed::of("fp8_block_f32").without("down_proj.weight_scale_inv");
    fp8.config = json!({"quantization_config": null});
    fp8.tensors.retain(|name, _| name.contains("down_proj") || name.contains("scale_inv"));
    fp8.refused(broken, "is missing");
    Changed::of("bnb_nf4_bf16storage")
        .with(|model| {
            model.tensors.retain(|name, _| !name.contains("weight."));
        })
        .refused(broken, "bitsandbytes");
}

#[test]
fn shapes_that_do_not_go_together_are_refused() {
    let broken = codes::PACKED_BROKEN;
    let cut = |end: &'static str| {
        move |model: &mut Changed| {
            let tensor = model.tensor(end);
            let rows = tensor.shape[0];
            tensor.data.truncate(tensor.data.len() / rows * (rows - 1));
            tensor.shape[0] -= 1;
        }
    };
    for (fixture, end) in [
        ("fp8_block_f32", "weight_scale_inv"),
        ("ct_fp8_channel", "weight_scale"),
        ("ct_pack4_group", "weight_scale"),
        ("ct_pack4_asym", "weight_zero_point"),
        ("ct_pack4_group", "weight_packed"),
        ("ct_nvfp4", "weight_scale"),
        ("ct_mxfp4", "weight_scale"),
        ("gptq_v1_4bit_sym", "scales"),
        ("gptq_v1_4bit_act", "g_idx"),
        ("awq_gemm", "scales"),
        ("awq_gemv", "qzeros"),
        ("bnb_nf4", "absmax"),
        ("bnb_int8", "SCB"),
        ("mlx_affine_bf16", "scales"),
        ("modelopt_nvfp4", "weight_scale"),
        ("torchao_int8", "weight_scale"),
        ("hqq_4bit_axis1", ".scale"),
    ] {
        let changed = Changed::of(fixture).with(cut(end));
        let faults = changed.open().expect_err(fixture);
        assert!(faults.iter().any(|fault| fault.code == broken), "{fixture}: {faults:?}");
    }
    // A scale of each row alone is a form as well, and not the one that the configuration speaks of.
    let cut_columns = |end: &'static str, bytes: usize| {
        move |model: &mut Changed| {
            let tensor = model.tensor(end);
            let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
            let kept = tensor.data.chunks(columns * bytes);
            tensor.data = kept.flat_map(|row| row[..bytes].to_vec()).collect();
            tensor.shape = vec![rows, 1];
        }
    };
    for (fixture, bytes) in [("ct_pack4_group", 2), ("ct_pack3_group", 2), ("ct_mxfp8", 1)] {
        let changed = Changed::of(fixture).with(cut_columns("down_proj.weight_scale", bytes));
        changed.refused(broken, "weight_scale");
    }
    let shape = |model: &mut Changed| model.tensor("weight_shape").data[0] ^= 1;
    Changed::of("ct_pack4_group").with(shape).refused(broken, "weight_shape");
    // One column fewer fills the same words, and then groups do not fit.
    let fewer = |model: &mut Changed| model.tensor("weight_shape").data[8] -= 1;
    Changed::of("ct_pack4_group").with(fewer).refused(broken, "weight_scale");
    let below_zero = |model: &mut Changed| model.tensor("weight_shape").data[7] = 0x80;
    Changed::of("ct_pack4_group").with(below_zero).refused(broken, "below zero");
}

#[test]
fn a_configuration_of_another_codec_is_refused() {
    let promise =
        |model: &mut Changed| model.config["quantization_config"]["quant_method"] = json!("awq");
    Changed::of("bnb_nf4").with(promise).refused(codes::PACKED_CONFIG, "another packing");
    Changed::of("ct_pack4_group").with(promise).refused(codes::PACKED_CONFIG, "another packing");
    let bits = |model: &mut Changed| model.config["quantization_config"]["bits"] = json!(8);
    Changed::of("gptq_v1_4bit_sym").with(bits).refused(codes::PACKED_BROKEN, "zero point");
    let block = |model: &mut Changed| {
        model.config["quantization_config"]["weight_block_size"] = json!([128, 128]);
    };
    Changed::of("fp8_block_f32").with(block).refused(codes::PACKED_BROKEN, "shape");
    let group = |model: &mut Changed| {
        model.config["quantization"]["model.layers.0.mlp.down_proj"]["group_size"] = json!(48);
    };
    Changed::of("mlx_affine_f32").with(group).refused(codes::PACKED_BROKEN, "groups");
    let format = |model: &mut Changed| {
        model.config["quantization_config"]["checkpoint_format"] = json!("marlin");
    };
    Changed::of("gptq_v1_4bit_sym").with(format).refused(codes::PACKED, "marlin");
    // A word of the right library can be of another form than the tensors have.
    let other = |fixture: &str, key: &'static str, value: Value| {
        let set = |model: &mut Changed| {
            let said = &mut model.config["quantization_config"];
            let is_of_weights = ["num_bits", "type"].contains(&key);
            match said.get("config_groups").and_then(Value::as_object).filter(|_| is_of_weights) {
                Some(groups) => {
                    let group = groups.keys().next().unwrap().clone();
                    said["config_groups"][group.as_str()]["weights"][key] = value;
                }
                None => said[key] = value,
            }
            // A format that groups say for themselves goes before that of all.
            if key == "format"
                && let Some(groups) = said.get_mut("config_groups").and_then(Value::as_object_mut)
            {
                groups.values_mut().for_each(|group| {
                    group.as_object_mut().unwrap().remove("format");
                });
            }
        };
        Changed::of(fixture).with(set).refused(codes::PACKED_CONFIG, "another packing");
    };
    other("ct_pack4_group", "format", json!("nvfp4-pack-quantized"));
    other("ct_mxfp6", "num_bits", json!(4));
    other("ct_int8_channel", "type", json!("float"));
    other("ct_nvfp4", "format", json!("pack-quantized"));
    other("ct_fp8_channel", "quant_method", json!("bitsandbytes"));
    other("modelopt_nvfp4", "quant_algo", json!("FP8"));
    other("modelopt_fp8", "quant_algo", json!("W4A16_AWQ"));
    other("fp8_block_f32", "quant_method", json!("compressed-tensors"));
    let four = |model: &mut Changed| {
        model.config["quantization_config"]["load_in_4bit"] = json!(true);
        model.config["quantization_config"]["load_in_8bit"] = json!(false);
    };
    Changed::of("bnb_int8").with(four).refused(codes::PACKED_CONFIG, "another packing");
    // Padding tells how long the groups were.
    let longer =
        |model: &mut Changed| model.config["quantization_config"]["group_size"] = json!(64);
    Changed::of("awq_gemv").with(longer).refused(codes::PACKED_BROKEN, "count of groups");
    // Formats of GPTQ look alike, and their zero points are not.
    let nothing = |model: &mut Changed| model.config = json!({});
    Changed::of("gptq_v2_4bit_asym").with(nothing).refused(codes::PACKED_BROKEN, "which format");
}

#[test]
fn values_that_cannot_be_are_refused_when_they_are_read() {
    let nan = |end: &'static str, bytes: &'static [u8]| {
        move |model: &mut Changed| model.tensor(end).data[..bytes.len()].copy_from_slice(bytes)
    };
    let (f32_nan, f32_below) = (&[0, 0, 0xc0, 0x7f], &[0, 0, 0x80, 0xbf]);
    Changed::of("fp8_block_f32").with(nan("scale_inv", f32_nan)).unreadable("is NaN at row 0");
    Changed::of("fp8_block_f32").with(nan("scale_inv", f32_below)).unreadable("is -1 at row 0");
    Changed::of("fp8_block_f32").with(nan("scale_inv", &[0; 4])).unreadable("is 0 at row 0");
    Changed::of("ct_pack4_group").with(nan("weight_scale", &[0xc0, 0x7f])).unreadable("is NaN");
    Changed::of("ct_mxfp4").with(nan("weight_scale", &[255])).unreadable("is NaN");
    Changed::of("ct_nvfp4").with(nan("global_scale", &[0; 4])).unreadable("is 0");
    Changed::of("bnb_nf4").with(nan("absmax", f32_nan)).unreadable("is NaN");
    Changed::of("mxfp4_gpt_oss").with(nan("proj_scales", &[255])).unreadable("is NaN");
    Changed::of("gptq_v1_4bit_sym").with(nan("scales", &[0, 0x7e])).unreadable("is NaN");
    let beyond = |model: &mut Changed| model.tensor("g_idx").data[4] = 99;
    Changed::of("gptq_v1_4bit_act").with(beyond).unreadable("points to group 99 at column 1");
    let below = |model: &mut Changed| model.tensor("g_idx").data[..4].fill(0xff);
    Changed::of("gptq_v1_4bit_act").with(below).unreadable("points to group -1 at column 0");
    Changed::of("hqq_4bit_axis0").with(nan(".scale", &[0xc0, 0x7f])).unreadable("is NaN");
    // Writers of these have a least magnitude of scales.
    let zero = |end| nan(end, &[0, 0]);
    Changed::of("awq_gemm").with(zero("scales")).unreadable("is 0 at row 0");
    Changed::of("ct_pack4_asym").with(zero("weight_scale")).unreadable("is 0 at row 0");
    Changed::of("mlx_affine_bf16").with(zero("scales")).unreadable("is 0 at row 0");
    Changed::of("torchao_int8").with(nan("weight_scale", &[0; 4])).unreadable("is 0 at row 0");
    Changed::of("hqq_4bit_axis0").with(nan(".scale", &[0; 4])).unreadable("is 0 at group 0");
    Changed::of("modelopt_nvfp4").with(nan("weight_scale_2", &[0; 4])).unreadable("is 0");
    let factors = nan("pre_quant_scale", &[0; 4]);
    Changed::of("modelopt_int8_sq").with(factors).unreadable("is 0 at column 0");
    // A row that goes on behind the column that is said to be its last.
    let shorter = |model: &mut Changed| model.tensor("weight_shape").data[8] -= 1;
    Changed::of("ct_pack8_channel").with(shorter).unreadable("has codes behind column");
    // One word too many is what versions wrote that left the upper bits of each unused.
    let longer = |model: &mut Changed| {
        for end in ["weight_packed", "weight_scale", "weight_shape"] {
            let found: Vec<String> =
                model.tensors.keys().filter(|name| name.ends_with(end)).cloned().collect();
            found[1..].iter().for_each(|name| {
                model.tensors.remove(name);
            });
        }
        let columns = model.tensor("weight_shape").data[8];
        assert!(columns.is_multiple_of(32));
        let packed = model.tensor("weight_packed");
        let words = packed.shape[1];
        let added = usize::from(columns).div_ceil(10) - words;
        let rows = packed.data.chunks(words * 4);
        packed.data = rows.flat_map(|row| [row, &row[..added * 4]].concat()).collect();
        packed.shape[1] += added;
    };
    Changed::of("ct_pack3_group").with(longer).unreadable("has codes behind column");
    // A byte holds more than codes of four bits have.
    Changed::of("torchao_intx4").with(nan("zero_point", &[9])).unreadable("is 9 at row 0");
}

#[test]
fn floats_of_eight_bits_without_scales_are_numbers() {
    let entry = r#"{"a.weight":{"dtype":"F8_E4M3","shape":[1,4],"data_offsets":[0,4]}}"#;
    let file = |header: &str, data: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        fs::write(&path, bytes).unwrap();
        (open(&path, None), folder)
    };
    let (checkpoint, _folder) = file(entry, &[0x38, 0xb8, 0x7e, 0x01]);
    let checkpoint = checkpoint.unwrap();
    let tensor = checkpoint.index.get("a.weight").unwrap();
    assert_eq!(read(&checkpoint, tensor, 0, 4), [1.0, -1.0, 448.0, 2f32.powi(-9)]);
    // With a scale that no library is known to write so, they are codes.
    let entry = r#"{"a.weight":{"dtype":"F8_E4M3","shape":[1,4],"data_offsets":[0,4]},
        "a.scale_weight":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}"#;
    let faults = file(entry, &[0; 8]).0.unwrap_err();
    assert_eq!(faults[0].code, codes::PACKED);
}

/// Numbers that look random, and are the same each time.
struct Draws(u64);

impl Draws {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

/// Opens a file and reads all of it; what comes of it does not matter, as long as it comes.
fn open_and_read(path: &Path) {
    let Ok(checkpoint) = open(path, None) else { return };
    for tensor in checkpoint.index.tensors() {
        if tensor.encoding.is_some() && tensor.shape.elements() < 1 << 16 {
            let _ = try_read(&checkpoint, tensor, 0, tensor.shape.elements());
        }
    }
}

#[test]
fn files_that_lie_are_told_or_read() {
    let mut draws = Draws(0x9e37_79b9_7f4a_7c15);
    let folders = fs::read_dir(formats()).unwrap().map(|entry| entry.unwrap().path());
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("gguf") {
            let bytes = fs::read(folder.join("model.gguf")).unwrap();
            let space = tempfile::tempdir().unwrap();
            let path = space.path().join("model.gguf");
            for _ in 0..60 {
                let mut changed = bytes.clone();
                let at = draws.below(changed.len().min(2048));
                changed[at] = draws.below(256) as u8;
                changed.truncate(changed.len() - draws.below(2) * draws.below(64));
                fs::write(&path, changed).unwrap();
                open_and_read(&path);
            }
            continue;
        }
        for _ in 0..20 {
            let mut model = Changed::of(&name);
            let names: Vec<String> = model.tensors.keys().cloned().collect();
            let tensor = model.tensors.get_mut(&names[draws.below(names.len())]).unwrap();
            match draws.below(4) {
                0 if !tensor.data.is_empty() => {
                    let at = draws.below(tensor.data.len());
                    tensor.data[at] = draws.below(256) as u8;
                }
                1 => tensor.shape.insert(0, 1),
                2 => {
                    tensor.shape = vec![0, 1 << 40];
                    tensor.data.clear();
                }
                _ => {
                    tensor.dtype = safetensors::Dtype::U8;
                    tensor.shape = vec![tensor.data.len(), 1];
                }
            }
            let numbers = [json!(0), json!(1), json!(3), json!(-1), json!(1_u64 << 62), json!("x")];
            if let Some(quantization) = model.config.get_mut("quantization_config")
                && let Some(map) = quantization.as_object_mut()
            {
                let keys: Vec<String> = map.keys().cloned().collect();
                map.insert(keys[draws.below(keys.len())].clone(), numbers[draws.below(6)].clone());
            }
            if model.open().is_ok() {
                open_and_read(model.folder.path());
            }
        }
    }
}

#[test]
fn gguf_files_that_lie_are_refused_with_the_place() {
    let sound = fs::read(formats().join("gguf_llama_q8/model.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let refused = |bytes: &[u8], code: Code, words: &str| {
        fs::write(&path, bytes).unwrap();
        let faults = open(&path, None).unwrap_err();
        assert_eq!(faults[0].code, code, "{faults:?}");
        assert!(faults[0].headline.contains(words), "{}", faults[0].headline);
    };
    let changed = |at: usize, by: &[u8]| {
        let mut bytes = sound.clone();
        bytes[at..at + by.len()].copy_from_slice(by);
        bytes
    };
    let find =
        |text: &str| sound.windows(text.len()).position(|found| found == text.as_bytes()).unwrap();
    refused(&changed(4, &[9]), codes::UNSUPPORTED_FORMAT, "version 9");
    refused(&changed(4, &[0, 0, 0, 3]), codes::UNSUPPORTED_FORMAT, "big endian");
    refused(&changed(8, &[0xff; 8]), codes::HEADER_BROKEN, "counts more");
    refused(&changed(16, &[0xff; 8]), codes::HEADER_BROKEN, "counts more");
    refused(&sound[..1000], codes::HEADER_BROKEN, "past the end");
    refused(&sound[..sound.len() - 600], codes::HEADER_BROKEN, "beyond the end");
    // The value of `general.architecture` stands behind its type and length.
    let family = find("general.architecture") + "general.architecture".len() + 12;
    refused(&changed(family, b"xlama"), codes::GGUF_FAMILY, "`xlama`");
    // An info is a name, a count of axes, sizes, a type and an offset.
    let info = find("token_embd.weight") + "token_embd.weight".len();
    refused(&changed(info, &[200]), codes::HEADER_BROKEN, "too many axes");
    refused(&changed(info + 4, &[33]), codes::HEADER_BROKEN, "whole blocks");
    refused(&changed(info + 4, &[0xff; 16]), codes::HEADER_BROKEN, "64 bits");
    refused(&changed(info + 20, &[9]), codes::PACKED, "Q8_1");
    refused(&changed(info + 20, &[200]), codes::PACKED, "type 200");
    refused(
        &changed(info + 24, &[0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        codes::HEADER_BROKEN,
        "beyond the end",
    );
    refused(&changed(info + 24, &[1]), codes::HEADER_BROKEN, "alignment");
    refused(&changed(info + 24, &[0x20, 2]), codes::HEADER_BROKEN, "overlap");
    let heads = find("llama.attention.head_count") + "llama.attention.head_count".len() + 4;
    refused(&changed(heads, &[7]), codes::PACKED_BROKEN, "does not divide");
    let name = find("blk.0.attn_norm.weight") + "blk.0.attn_norm".len();
    refused(&changed(name, b"_.scale"), codes::PACKED, "goes with none");
}

/// A GGUF file of this family: tensors with their sizes, the fastest first, and type.
fn gguf(family: &str, tensors: &[(&str, &[u64], u32, Vec<u8>)]) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(1_u64.to_le_bytes());
    file.extend(
        [text("general.architecture"), 8_u32.to_le_bytes().to_vec(), text(family)].concat(),
    );
    let mut offset = 0_u64;
    for (name, sizes, kind, data) in tensors {
        file.extend(text(name));
        file.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|size| file.extend(size.to_le_bytes()));
        file.extend(kind.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset += (data.len() as u64).next_multiple_of(32);
    }
    for (.., data) in tensors {
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
    }
    file
}

/// NVFP4 has a factor beside its blocks: one for a tensor, or one for each matrix of a stack.
#[test]
fn factors_of_nvfp4_are_multiplied_in() {
    // 64 values of 1 each: scales of 1 in unsigned E4M3, and codes of 1.
    let block = |count: usize| [vec![0x38; 4], vec![0x22; 32]].concat().repeat(count);
    let floats = |all: &[f32]| all.iter().flat_map(|one| one.to_le_bytes()).collect::<Vec<u8>>();
    let opened = |factors: &[f32]| {
        let (down, up) = ("blk.0.ffn_down", "blk.0.ffn_up_exps");
        let file = gguf(
            "llama",
            &[
                (&format!("{down}.weight"), &[64, 2], 40, block(2)),
                (&format!("{down}.scale"), &[1], 0, floats(&[0.5])),
                (&format!("{down}.input_scale"), &[1], 0, floats(&[3.0])),
                (&format!("{up}.weight"), &[64, 1, 2], 40, block(2)),
                (&format!("{up}.scale"), &[factors.len() as u64], 0, floats(factors)),
            ],
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        fs::write(&path, file).unwrap();
        (open(&path, None), folder)
    };
    let (checkpoint, _folder) = opened(&[2.0, 0.25]);
    let checkpoint = checkpoint.unwrap();
    assert_eq!(checkpoint.index.tensors().len(), 3);
    let values = |name: &str| {
        let tensor = checkpoint.index.get(name).unwrap();
        read(&checkpoint, tensor, 0, tensor.shape.elements())
    };
    assert_eq!(values("model.layers.0.mlp.down_proj.weight"), vec![0.5; 128]);
    for (expert, factor) in [2.0, 0.25].into_iter().enumerate() {
        let name = format!("model.layers.0.block_sparse_moe.experts.{expert}.w3.weight");
        assert_eq!(values(&name), vec![factor; 64]);
    }
    assert_eq!(opened(&[2.0, 1.0, 3.0]).0.unwrap_err()[0].code, codes::PACKED);
}

/// Scales of NVFP4 in GGUF have no sign, and ggml reads the bit of it as nothing.
#[test]
fn scales_of_nvfp4_without_a_meaning_are_read_as_ggml_does() {
    let block = [vec![0x7f, 0xff, 0x80, 0xb8], vec![0x22; 32]].concat();
    let file = gguf("llama", &[("blk.0.ffn_down.weight", &[64, 1], 40, block)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, file).unwrap();
    let checkpoint = open(&path, None).unwrap();
    let tensor = &checkpoint.index.tensors()[0];
    let found: Vec<f32> = (0..4).map(|run| read(&checkpoint, tensor, run * 16, 1)[0]).collect();
    assert_eq!(found, [0.0, 480.0, 0.0, 1.0]);
}
