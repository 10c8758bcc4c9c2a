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

/// Zeros are equal whatever their sign: libraries differ about the code of a negative zero.
fn same(one: &[f32], other: &[f32]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(a, b)| a.to_bits() == b.to_bits() || (*a == 0.0 && *b == 0.0))
}

#[test]
fn values_are_those_of_the_libraries() {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(formats()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 30);
    let faults: Vec<String> = folders.iter().filter_map(|folder| compare(folder).err()).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What is wrong with the reading of a fixture.
fn compare(folder: &Path) -> Result<(), String> {
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let checkpoint = open(&folder.join("model.safetensors"), None)
        .map_err(|faults| format!("{name}: {faults:?}"))?;
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
        Self { folder: tempfile::tempdir().unwrap(), tensors, config }
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

    fn open(&self) -> Result<Checkpoint, Vec<Diagnostic>> {
        let path = self.folder.path();
        fs::write(path.join("config.json"), self.config.to_string()).unwrap();
        safetensors::serialize_to_file(&self.tensors, None, &path.join("model.safetensors"))
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
    ] {
        // Of int8 any weight would do; the first is an embedding.
        let end = if fixture == "bnb_int8" { "down_proj.weight" } else { end };
        let words = end.rsplit('.').next().unwrap();
        Changed::of(fixture).without(end).refused(broken, words);
    }
    // The name of the codes alone still says what they are.
    Changed::of("fp8_block_f32")
        .without("down_proj.weight_scale_inv")
        .refused(codes::PACKED, "fp8");
    Changed::of("bnb_nf4_bf16storage")
        .with(|model| {
            model.tensors.retain(|name, _| !name.contains("weight."));
        })
        .refused(codes::PACKED, "bitsandbytes");
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
    let shape = |model: &mut Changed| model.tensor("weight_shape").data[0] ^= 1;
    Changed::of("ct_pack4_group").with(shape).refused(broken, "weight_shape");
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
}
