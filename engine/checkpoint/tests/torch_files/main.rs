//! PyTorch's files: those that torch wrote, sound ones from the kit, and files that lie, one lie each.

mod damage;
mod folders;
mod lies;
mod written;

use std::path::{Path, PathBuf};

use mixdown_checkpoint::format::torch::Torch;
use mixdown_checkpoint::format::{Format, Header};
use mixdown_checkpoint::{Checkpoint, MemorySource, TensorEntry, open};
use mixdown_diagnostics::{Code, Diagnostic, Place, codes};
use mixdown_kit::raw::safetensors_bytes;
use mixdown_kit::tensor::decode;
use mixdown_kit::torch::{
    Pickle, Zip, legacy_torch, row_strides, state_pickle, torch_archive, torch_bytes,
};
use mixdown_kit::{Space, Tensor};
use mixdown_tensor::DType;
use proptest::prelude::*;

fn read(file: &[u8]) -> Result<Header, Vec<Diagnostic>> {
    Torch.read_header(&MemorySource::new(file), "x.bin")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixture_path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/formats/torch").join(name)
}

/// Name, type, shape and values of a tensor.
type Known<'a> = (&'a str, DType, &'a [u64], &'a [f64]);

/// The file holds these tensors, listed by name.
fn holds(what: &str, file: &[u8], wanted: &[Known<'_>]) -> Header {
    let header = read(file).unwrap_or_else(|faults| panic!("{what}: {faults:?}"));
    let mut tensors: Vec<&TensorEntry> = header.tensors.iter().collect();
    assert!(tensors.is_sorted_by_key(|tensor| tensor.offset), "{what}");
    tensors.sort_by_key(|tensor| &tensor.name);
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, wanted.iter().map(|known| known.0).collect::<Vec<_>>(), "{what}");
    for (tensor, (name, dtype, shape, values)) in tensors.iter().zip(wanted) {
        assert_eq!((tensor.dtype, tensor.shape.dimensions()), (*dtype, *shape), "{what}: {name}");
        let bytes = &file[tensor.offset as usize..(tensor.offset + tensor.bytes()) as usize];
        let found: Vec<f64> = match dtype {
            // The kit reads no 8-bit floats and no complex numbers; their bytes are compared.
            DType::F8E4M3 | DType::F8E5M2 => bytes.iter().map(|byte| f64::from(*byte)).collect(),
            DType::C64 => bytes.chunks_exact(4).map(|part| decode(part, DType::F32)).collect(),
            dtype => bytes.chunks_exact(dtype.bytes()).map(|part| decode(part, *dtype)).collect(),
        };
        assert_eq!(found, *values, "{what}: {name}");
    }
    header
}

/// The file is refused with this message alone, and these facts.
fn refused(file: &[u8], code: Code, headline: &str, facts: &[(&str, &str)]) -> Diagnostic {
    let faults = read(file).expect_err(headline);
    assert_eq!(faults.len(), 1, "{faults:?}");
    let fault = faults.into_iter().next().unwrap();
    assert_eq!((fault.headline.as_str(), fault.code), (headline, code));
    for (label, wanted) in facts {
        let found = fault.facts.iter().find(|(known, _)| known == label);
        let found = found.unwrap_or_else(|| panic!("no fact `{label}` in {fault:?}"));
        assert_eq!(found.1, *wanted, "{headline}");
    }
    match &fault.place {
        Some(Place::Byte(name, at)) => {
            assert!(name == "x.bin" && *at <= file.len() as u64, "{fault:?}");
        }
        Some(Place::File(name)) => assert_eq!(name, "x.bin"),
        place => panic!("{place:?}"),
    }
    fault
}

fn unread(file: &[u8], headline: &str, facts: &[(&str, &str)]) -> Diagnostic {
    refused(file, codes::UNSUPPORTED_FORMAT, headline, facts)
}

fn broken(file: &[u8], headline: &str, facts: &[(&str, &str)]) -> Diagnostic {
    refused(file, codes::HEADER_BROKEN, headline, facts)
}

/// Tensors with the values that the tests of damage use.
fn sound_tensors() -> Vec<Tensor> {
    vec![
        Tensor::new("a", DType::Bf16, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        Tensor::new("b", DType::F32, &[2], &[7.0, 8.0]),
        Tensor::new("c", DType::I64, &[], &[9.0]),
    ]
}

fn sound_pickle_and_data() -> (Vec<u8>, Vec<Vec<u8>>) {
    let tensors = sound_tensors();
    let data = tensors.iter().map(|tensor| tensor.data.clone()).collect();
    (state_pickle(&tensors.iter().collect::<Vec<_>>()), data)
}

fn sound() -> Zip {
    let (pickle, data) = sound_pickle_and_data();
    torch_archive(&pickle, &data.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn sound_legacy() -> Vec<u8> {
    let (pickle, data) = sound_pickle_and_data();
    legacy_torch(&pickle, &[("0", 6, &data[0]), ("1", 2, &data[1]), ("2", 1, &data[2])])
}

const SOUND: [Known<'_>; 3] = [
    ("a", DType::Bf16, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    ("b", DType::F32, &[2], &[7.0, 8.0]),
    ("c", DType::I64, &[], &[9.0]),
];

/// An archive with this pickle and 8 bytes of data in its storage `0`.
fn with(pickle: Vec<u8>) -> Vec<u8> {
    torch_archive(&pickle, &[&[0; 8]]).bytes()
}

/// A pickle of a dictionary with this in it.
fn dict(fill: impl FnOnce(Pickle) -> Pickle) -> Vec<u8> {
    fill(Pickle::new().raw(b"}(")).raw(b"u").stop()
}

/// The pickle of a tensor `a` in a storage of two f32.
fn one(offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    with(dict(|p| p.text("a").tensor(("FloatStorage", "0", 2), offset, shape, strides)))
}
