//! PyTorch's files: those that torch wrote, sound ones from the kit, and files that lie, one lie each.

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

/// What `plain` in `tests/formats/torch/make.py` says.
const PLAIN: [Known<'_>; 11] = [
    ("a.weight", DType::F32, &[2, 3], &[0.0, 0.5, 1.0, 1.5, 2.0, 2.5]),
    ("b.double", DType::F64, &[2], &[1.5, -2.0]),
    ("c.half", DType::F16, &[3], &[0.5, 1.0, 65504.0]),
    ("d.long", DType::I64, &[2], &[-1.0, 1_099_511_627_776.0]),
    ("e.int", DType::I32, &[1], &[-7.0]),
    ("f.short", DType::I16, &[1], &[-8.0]),
    ("g.char", DType::I8, &[1], &[-9.0]),
    ("h.byte", DType::U8, &[1], &[200.0]),
    ("i.bool", DType::Bool, &[2], &[1.0, 0.0]),
    ("j.scalar", DType::F32, &[], &[3.25]),
    ("k.empty", DType::F32, &[0, 4], &[]),
];

#[test]
fn what_torch_writes_is_read() {
    for name in ["plain.bin", "old.bin", "legacy.bin", "protocol4.bin"] {
        let header = holds(name, &fixture(name), &PLAIN);
        assert_eq!(header.warnings, [], "{name}");
    }
    let weight: &[f64] = &[0.0, 1.0, 2.0, 3.0];
    let negative: &[f64] = &[0.0, -1.0, -2.0, -3.0];
    let wanted: [Known<'_>; 2] =
        [("negative", DType::Bf16, &[4], negative), ("weight", DType::Bf16, &[4], weight)];
    holds("bf16.bin", &fixture("bf16.bin"), &wanted);
    holds("parameter.bin", &fixture("parameter.bin"), &[("w", DType::F32, &[2], &[1.0, 1.0])]);
    let trivial: [Known<'_>; 2] = [
        ("column", DType::F32, &[1, 1, 3], &[0.0, 1.0, 2.0]),
        ("row", DType::F32, &[1, 1], &[0.0]),
    ];
    holds("trivial_strides.bin", &fixture("trivial_strides.bin"), &trivial);
    holds("complex.bin", &fixture("complex.bin"), &[("z", DType::C64, &[1], &[1.0, 2.0])]);
}

/// Types that came after typed storages: the type stands with the tensor.
#[test]
fn new_types_lie_in_bytes() {
    let wanted: [Known<'_>; 5] = [
        // 0.5, 1 and -2 by their bits: exponent biases are 7 and 15.
        ("e4m3", DType::F8E4M3, &[3], &[f64::from(0x30), f64::from(0x38), f64::from(0xc0)]),
        ("e5m2", DType::F8E5M2, &[3], &[f64::from(0x38), f64::from(0x3c), f64::from(0xc0)]),
        ("u16", DType::U16, &[2], &[1.0, 65535.0]),
        ("u32", DType::U32, &[2], &[1.0, 4_294_967_295.0]),
        ("u64", DType::U64, &[2], &[1.0, 9_223_372_036_854_775_808.0]),
    ];
    holds("untyped.bin", &fixture("untyped.bin"), &wanted);
}

#[test]
fn names_may_share_bytes() {
    let all: &[f64] = &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
    let wanted: [Known<'_>; 3] = [
        ("embed", DType::F32, &[4, 2], all),
        ("head", DType::F32, &[4, 2], all),
        ("tail", DType::F32, &[2], &[6.0, 7.0]),
    ];
    for name in ["tied.bin", "tied_legacy.bin"] {
        let header = holds(name, &fixture(name), &wanted);
        assert_eq!(header.tensors[0].offset, header.tensors[1].offset, "{name}");
    }
    let checkpoint = open(&fixture_path("tied.bin"), None).unwrap();
    assert_eq!(checkpoint.index.len(), 3);
    assert_eq!(checkpoint.warnings, []);
}

/// Trainers save a state among other things, which are named and left out.
#[test]
fn a_state_among_other_things_is_found() {
    let wanted: [Known<'_>; 7] = [
        ("0.bias", DType::F32, &[1], &[2.0]),
        ("0.weight", DType::F32, &[1, 2], &[1.0, 1.0]),
        ("1.bias", DType::F32, &[1], &[4.0]),
        ("1.num_batches_tracked", DType::I64, &[], &[7.0]),
        ("1.running_mean", DType::F32, &[1], &[5.0]),
        ("1.running_var", DType::F32, &[1], &[6.0]),
        ("1.weight", DType::F32, &[1], &[3.0]),
    ];
    let header = holds("nested.bin", &fixture("nested.bin"), &wanted);
    let [warning] = header.warnings.as_slice() else { panic!("{:?}", header.warnings) };
    assert_eq!(warning.code, codes::NOT_READ);
    let left = "`epoch`, `lr`, `notes` and 4 more".to_owned();
    assert_eq!(warning.facts, [("not read".to_owned(), left)]);
    let checkpoint = open(&fixture_path("nested.bin"), None).unwrap();
    assert_eq!(checkpoint.warnings.len(), 1);
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

#[test]
fn what_torch_writes_and_is_not_read_is_named() {
    let fault = unread(
        &fixture("transposed.bin"),
        "`turned` is not stored row by row",
        &[("shape", "[3, 2]"), ("strides", "[1, 3]"), ("expected", "[2, 1]")],
    );
    let help = "load it with torch, call `.contiguous()` and save it again";
    assert_eq!(fault.help.as_deref(), Some(help));
    unread(&fixture("expanded.bin"), "`wide` is not stored row by row", &[("strides", "[0]")]);
    unread(
        &fixture("conjugate.bin"),
        "`z` stands for conjugates or negatives of what is stored",
        &[],
    );
    unread(
        &fixture("single.bin"),
        "the file does not hold a dictionary of tensors",
        &[("found", "a tensor without a name")],
    );
    unread(&fixture("script.bin"), "the file is a TorchScript program, which is not read", &[]);
    for (name, headline) in [
        (
            "module.bin",
            "the file names `torch.nn.modules.linear.Linear`, which is no part of a tensor",
        ),
        (
            "sparse.bin",
            "the file names `torch._utils._rebuild_sparse_tensor`, which is no part of a tensor",
        ),
        (
            "numpy.bin",
            "the file names `numpy._core.multiarray._reconstruct`, which is no part of a tensor",
        ),
    ] {
        let fault = unread(&fixture(name), headline, &[]);
        assert!(fault.help.unwrap().contains("`state_dict()`"));
    }
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

#[test]
fn archives_of_each_kind_are_read() {
    holds("narrow", &sound().bytes(), &SOUND);
    holds("wide", &Zip { wide: true, ..sound() }.bytes(), &SOUND);
    holds("with a comment", &Zip { comment: vec![b'x'; 65_535], ..sound() }.bytes(), &SOUND);
    holds("from before torch 2.1", &sound().without("model/byteorder").bytes(), &SOUND);
    holds("legacy", &sound_legacy(), &SOUND);
    holds("empty", &torch_archive(&Pickle::new().raw(b"}").stop(), &[]).bytes(), &[]);
}

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

#[test]
fn lies_about_one_tensor() {
    assert!(read(&one(0, &[2], &[1])).is_ok());
    assert!(read(&one(1, &[1, 1], &[7, 9])).is_ok());
    assert!(read(&one(2, &[0, 5], &[1, 1])).is_ok());
    let past = "`a` reaches past the end of its storage";
    let facts = [("tensor", "8 bytes from 4 to 12"), ("storage", "8 bytes")];
    broken(&one(1, &[2], &[1]), past, &facts);
    broken(&one(3, &[0], &[1]), past, &[]);
    broken(&one(0, &[3], &[1]), past, &[]);
    broken(&one(0, &[1 << 40, 1 << 20], &[1 << 20, 1]), past, &[]);
    broken(
        &one(0, &[1 << 40, 1 << 40], &[1 << 40, 1]),
        "`a` has a shape whose size does not fit into 64 bits",
        &[],
    );
    let far = "`a` has a place that does not fit into 64 bits";
    broken(&one(i64::MAX, &[2], &[1]), far, &[]);
    let wrong = "the pickle cannot be understood: a tensor with arguments that do not fit";
    broken(&one(-1, &[2], &[1]), wrong, &[]);
    broken(&one(0, &[-2], &[1]), wrong, &[]);
    broken(&one(0, &[2], &[-1]), wrong, &[]);
    broken(&one(0, &[2, 1], &[1]), wrong, &[]);
    broken(&one(0, &[1; 65], &[1; 65]), wrong, &[]);
    unread(&one(0, &[2], &[2]), "`a` is not stored row by row", &[("expected", "[1]")]);

    let kind = |kind: &str| with(dict(|p| p.text("a").tensor((kind, "0", 1), 0, &[1], &[1])));
    let headline = "`a` has the element type `complex128`, which is not read";
    unread(&kind("ComplexDoubleStorage"), headline, &[]);
    broken(&kind("UntypedStorage"), wrong, &[]);
    let number = dict(|p| p.int(3).tensor(("FloatStorage", "0", 2), 0, &[2], &[1]));
    unread(&with(number), "the name of a tensor is not a text", &[]);
}

#[test]
fn lies_about_storages() {
    let count = |count: i64| {
        with(dict(|p| p.text("a").tensor(("FloatStorage", "0", count), 0, &[1], &[1])))
    };
    let other = "`model/data/0` has another size than the pickle says";
    broken(&count(1), other, &[("pickle", "4 bytes"), ("entry", "8 bytes")]);
    broken(&count(3), other, &[("pickle", "12 bytes"), ("entry", "8 bytes")]);
    broken(&count(i64::MAX), "`a` has a place that does not fit into 64 bits", &[]);
    let wrong = "the pickle cannot be understood: a reference to something other than a storage";
    broken(&count(-1), wrong, &[]);
    let missing = with(dict(|p| p.text("a").tensor(("FloatStorage", "7", 2), 0, &[2], &[1])));
    broken(&missing, "the archive lacks `model/data/7`, which tensors lie in", &[]);
    let outside = with(dict(|p| p.text("a").tensor(("FloatStorage", "../x", 2), 0, &[2], &[1])));
    broken(&outside, "the archive lacks `model/data/../x`, which tensors lie in", &[]);
    let two = |second: (&str, &str, i64)| {
        with(dict(|p| {
            let first = p.text("a").tensor(("FloatStorage", "0", 2), 0, &[2], &[1]);
            first.text("b").tensor(second, 0, &[1], &[1])
        }))
    };
    assert_eq!(read(&two(("FloatStorage", "0", 2))).unwrap().tensors.len(), 2);
    let headline = "the pickle cannot be understood: two descriptions of the storage `0`";
    broken(&two(("FloatStorage", "0", 1)), headline, &[]);
    broken(&two(("IntStorage", "0", 2)), headline, &[]);
    let module = dict(|p| p.text("a").raw(b"(").text("module").raw(b"tQ"));
    broken(&with(module), wrong, &[]);
}

/// A file that names code is refused before anything else is said of it, and nothing of it is run.
#[test]
fn names_of_code_are_refused() {
    let system = |p: Pickle| p.global("os", "system").raw(b"(").text("echo").raw(b"tR");
    let headline = "the file names `os.system`, which is no part of a tensor";
    let tensor = |p: Pickle| p.text("a").tensor(("FloatStorage", "0", 2), 0, &[2], &[1]);
    let note = "names in such a file are code that its reader runs; none was run";
    let cases = [
        system(Pickle::new()).stop(),
        dict(|p| system(tensor(p).text("b"))),
        // The name alone, in three spellings, and kept out of the result.
        dict(|p| tensor(p).text("b").global("os", "system")),
        dict(|p| tensor(p.text("os").text("system").raw(b"\x930"))),
        dict(|p| tensor(p.raw(b"(").text("echo").raw(b"ios\nsystem\n0"))),
        // Called by what builds objects and what sets attributes.
        dict(|p| tensor(p).text("b").global("os", "system").raw(b")\x81")),
        dict(|p| tensor(p).text("b").global("os", "system").raw(b")}\x92}b")),
        // What follows is damaged, and the name is the news.
        Pickle::new().global("os", "system").raw(b"\xff").0,
        b"\x80\x02cos\nsystem\n(S'echo'\ntR.".to_vec(),
    ];
    for pickle in cases {
        let fault = unread(&with(pickle), headline, &[]);
        assert_eq!(fault.notes, [note]);
    }
    let several = ["eval", "exec", "eval", "open", "compile", "input"];
    let several = dict(|p| several.iter().fold(p, |p, name| p.text(name).global("builtins", name)));
    unread(
        &with(several),
        "the file names `builtins.eval`, which is no part of a tensor",
        &[("also named", "`builtins.exec`, `builtins.open`, `builtins.compile` and 1 more")],
    );
    let escape = Pickle::new().global("a\u{1b}[2J", "b").stop();
    unread(&with(escape), "the file names `a\\u{1b}[2J.b`, which is no part of a tensor", &[]);
}

#[test]
fn values_that_are_no_tensors_are_left_out_and_named() {
    let file = with(dict(|p| {
        let p = p.text("a").tensor(("FloatStorage", "0", 2), 0, &[2], &[1]);
        let p =
            p.text("epoch").int(3).text("args").raw(b"}(").text("lr").raw(b"G\0\0\0\0\0\0\0\0u");
        p.text("size").global("torch", "Size").raw(b"(").ints(&[2]).raw(b"tR")
    }));
    let header = read(&file).unwrap();
    assert_eq!(header.tensors.len(), 1);
    let left = ("not read".to_owned(), "`epoch`, `args`, `size`".to_owned());
    assert_eq!(header.warnings[0].facts, [left]);

    let tensor = |p: Pickle, name| p.text(name).tensor(("FloatStorage", "0", 2), 0, &[2], &[1]);
    let inner = |p: Pickle, key| tensor(p.text(key).raw(b"}("), "a").raw(b"u");
    assert!(read(&with(dict(|p| inner(p, "model")))).unwrap().warnings.is_empty());
    unread(
        &with(dict(|p| inner(inner(p, "model"), "ema"))),
        "several dictionaries of the file hold tensors",
        &[("found", "`model`, `ema`")],
    );
    unread(
        &with(dict(|p| tensor(inner(p, "model"), "b"))),
        "several dictionaries of the file hold tensors",
        &[("found", "`the outermost`, `model`")],
    );
    refused(
        &with(dict(|p| inner(p.text("deeper").raw(b"}("), "model").raw(b"u"))),
        codes::NO_WEIGHTS,
        "the file holds no tensors by name",
        &[("keys", "`deeper`")],
    );
    broken(&with(dict(|p| tensor(tensor(p, "a"), "a"))), "`a` is in the file twice", &[]);
}

#[test]
fn lies_about_instructions() {
    let cases: [(&[u8], &str); 14] = [
        (b".", "a value that is not there"),
        (b"}s.", "a value that is not there"),
        (b"K\x01K\x02\x87.", "a value that is not there"),
        (b"}u.", "a mark that is not there"),
        (b"}(K\x01u.", "a key without a value"),
        // What lies below a mark is out of reach.
        (b"}(0.", "a value that is not there"),
        (b"h\0.", "value 0, which was not kept"),
        (b"j\xff\xff\xff\xff.", "value 4294967295, which was not kept"),
        (b"K\x01)R.", "something is called that is no function"),
        (b"ccollections\nOrderedDict\nK\x01R.", "arguments that are no tuple"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "a call with arguments that do not fit"),
        (b"K\x01K\x02a.", "something is appended to what is no list"),
        (b"\x80\x09.", "protocol 9"),
        (b"\x82\x01.", "an instruction of code 0x82"),
    ];
    for (instructions, what) in cases {
        let headline = format!("the pickle cannot be understood: {what}");
        broken(&with(Pickle::new().raw(instructions).0), &headline, &[]);
    }
    let ends = "the pickle ends before it is complete";
    broken(&with(Pickle::new().raw(b"}").0), ends, &[]);
    broken(&with(vec![]), ends, &[("needed", "1 byte"), ("found", "0 bytes")]);
    let huge: [&[u8]; 4] = [
        b"X\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\x7f",
    ];
    for bomb in huge {
        broken(&with(Pickle::new().raw(bomb).0), ends, &[]);
    }
    broken(
        &with(Pickle::new().raw(b"X\x01\0\0\0\xff.").0),
        "the pickle cannot be understood: a text that is not UTF-8",
        &[],
    );
    let name = "x".repeat(2000);
    broken(&with(Pickle::new().global(&name, &name).0), "a name in the pickle is too long", &[]);
}

/// Depth costs no stack, numbers in the memo no memory, and cycles no time.
#[test]
fn depth_and_cycles_do_no_harm() {
    let deep = |instruction: &[u8]| instruction.repeat(300_000);
    let ending = "the pickle cannot be understood: a value that is not there";
    broken(&with(Pickle::new().raw(&deep(b"(")).stop()), ending, &[]);
    let nested = [deep(b"]"), deep(b"a")[..299_999].to_vec()].concat();
    let file = with(Pickle::new().raw(&nested).stop());
    let found = [("found", "a list")];
    unread(&file, "the file does not hold a dictionary of tensors", &found);
    let dicts = dict(|p| p.text("a").raw(&deep(b"}X\0\0\0\0")).raw(b"N").raw(&deep(b"s")));
    refused(&with(dicts), codes::NO_WEIGHTS, "the file holds no tensors by name", &[]);
    let tuples = Pickle::new().raw(b")").raw(&deep(b"\x85")).stop();
    unread(&with(tuples), "the file does not hold a dictionary of tensors", &found);
    // A dictionary that holds itself, and a memo entry of the largest number.
    let cycle = Pickle::new().raw(b"}r\xff\xff\xff\xff(").text("a").raw(b"j\xff\xff\xff\xffu");
    refused(&with(cycle.stop()), codes::NO_WEIGHTS, "the file holds no tensors by name", &[]);
}

/// A pickle that only makes values.
#[test]
fn values_are_counted() {
    let pickle = Pickle::new().raw(&b"N0".repeat(10_000_001)).0;
    let headline = "the pickle cannot be understood: more than 10000000 values";
    broken(&with(pickle), headline, &[]);
}

#[test]
fn lies_about_the_archive() {
    let pickle = "model/data.pkl";
    let zero = "model/data/0";
    let file = |zip: Zip| zip.bytes();
    let compressed = sound().change(zero, |entry| entry.method = 8);
    unread(&file(compressed), "`model/data/0` is compressed, which is not read", &[]);
    let encrypted = sound().change(pickle, |entry| entry.flags = 1);
    unread(&file(encrypted), "`model/data.pkl` is encrypted, which is not read", &[]);
    let twice = sound().with(zero, b"other bytes!");
    broken(&file(twice), "the archive holds `model/data/0` twice", &[]);
    let missing = sound().without(zero);
    broken(&file(missing), "the archive lacks `model/data/0`, which tensors lie in", &[]);
    let two = sound().with("other/data.pkl", b"");
    broken(&file(two), "the archive holds several pickles named `data.pkl`", &[]);
    let none = sound().without(pickle);
    unread(&file(none), "the file is a zip archive, but not PyTorch's", &[]);
    unread(&file(Zip::default()), "the file is a zip archive, but not PyTorch's", &[]);
    let big = sound().change("model/byteorder", |entry| {
        entry.data = b"big".to_vec();
        entry.size = 3;
    });
    unread(&file(big), "the file is big-endian, which is not read", &[]);
    let strange = sound().change("model/byteorder", |entry| entry.data = b"middle".to_vec());
    broken(
        &file(strange),
        "the byte order of the file is neither `little` nor `big`",
        &[("found", "`middle`")],
    );

    for size in [1 << 20, 1 << 40, u64::MAX, u64::MAX - 30] {
        let long = sound().change(zero, |entry| entry.size = size);
        let outside = "`model/data/0` lies outside the archive";
        broken(&file(Zip { wide: true, ..long }), outside, &[]);
    }
    for at in [1 << 20, u64::MAX, u64::MAX - 29] {
        let far = sound().change(zero, |entry| entry.header = Some(at));
        let outside = "`model/data/0` lies outside the archive";
        broken(&file(Zip { wide: true, ..far }), outside, &[]);
    }
    let past = sound().without("model/version").change("model/data/2", |entry| entry.size += 1);
    broken(
        &file(past),
        "the archive is damaged: `model/data/2` reaches past the end of the archive's entries",
        &[],
    );
    let elsewhere = sound().change(zero, |entry| entry.header = Some(1));
    broken(
        &file(elsewhere),
        "the archive is damaged: `model/data/0` does not begin where the directory says",
        &[],
    );
    let renamed = sound().change(zero, |entry| entry.local_name = "model/data/9".to_owned());
    broken(&file(renamed), "the archive is damaged: `model/data/0` has two names", &[]);
    let cut = "the file ends before its directory does";
    refused(b"PK\x03\x04", codes::SHARD_TRUNCATED, cut, &[("file", "4 bytes")]);
    let length = "the archive is damaged: its directory has another length than it says";
    let outside = "the archive is damaged: its directory lies outside it";
    let cannot = "the archive is damaged: its directory cannot be read";
    for wide in [false, true] {
        let sound = Zip { wide, ..sound() };
        let bytes = sound.bytes();
        let find =
            |magic: &[u8]| bytes.windows(4).position(|window| window == magic).unwrap() as u64;
        let at = find(b"PK\x01\x02");
        let size = find(if wide { b"PK\x06\x06" } else { b"PK\x05\x06" }) - at;
        let count = sound.entries.len() as u64;
        let told = |told: [u64; 3]| Zip { directory: Some(told), ..sound.clone() }.bytes();
        assert!(read(&told([count, size, at])).is_ok());
        broken(&told([count - 1, size, at]), length, &[]);
        broken(&told([count + 1, size, at]), cannot, &[]);
        broken(&told([60_000, size, at]), length, &[]);
        broken(&told([count, size - 1, at]), cannot, &[]);
        broken(&told([count, size, at + 1]), outside, &[]);
        broken(&told([count, size, at - 1]), cannot, &[]);
        broken(&told([count, 0x7fff_ffff, at]), outside, &[]);
        if wide {
            broken(&told([u64::MAX, size, at]), length, &[]);
            broken(&told([count, u64::MAX, at]), outside, &[]);
            broken(&told([count, size, u64::MAX]), outside, &[]);
        }
    }
}

/// An entry that begins within the bytes of another one.
#[test]
fn entries_cannot_share_bytes() {
    let second = "model/data/1";
    let inner = Zip::default().with(second, &[0; 8]).bytes();
    let bytes = |p: Pickle, key, count: usize| {
        let count = count as i64;
        p.text(key).tensor(("ByteStorage", key, count), 0, &[count], &[1])
    };
    let pickle = dict(|p| bytes(bytes(p, "0", inner.len()), "1", 8));
    let host = torch_archive(&pickle, &[&inner, &[0; 8]]);
    let file = host.bytes();
    assert!(read(&file).is_ok());
    let at = file.windows(inner.len()).position(|window| window == inner).unwrap() as u64;
    let file = host.change(second, |entry| entry.header = Some(at)).bytes();
    broken(&file, "`model/data/1` overlaps another entry", &[("other", "`model/data/0`")]);
}

#[test]
fn lies_about_the_old_form() {
    let (pickle, data) = sound_pickle_and_data();
    let whole: [(&str, u64, &[u8]); 3] =
        [("0", 6, &data[0]), ("1", 2, &data[1]), ("2", 1, &data[2])];
    let count = legacy_torch(&pickle, &[whole[0], ("1", 3, &data[1]), whole[2]]);
    broken(
        &count,
        "the storage `1` has another count than the pickle says",
        &[("pickle", "2"), ("storage", "3")],
    );
    broken(&legacy_torch(&pickle, &whole[..2]), "the file lacks the storage `2`", &[]);
    let more = [whole[0], whole[1], whole[2], ("3", 1, &[0])];
    broken(&legacy_torch(&pickle, &more), "the storage `3` belongs to no tensor", &[]);
    let twice = [whole[0], whole[1], whole[2], whole[0]];
    broken(&legacy_torch(&pickle, &twice), "the file lists the storage `0` twice", &[]);
    let longer = [sound_legacy(), vec![0]].concat();
    broken(&longer, "bytes after the last storage belong to none", &[]);
    let sound = sound_legacy();
    refused(
        &sound[..sound.len() - 1],
        codes::SHARD_TRUNCATED,
        "the file ends inside the storage `2`",
        &[("storage", "8 bytes"), ("file", "15 bytes left")],
    );
    let part = dict(|p| {
        let p = p.text("a").global("torch._utils", "_rebuild_tensor").raw(b"((");
        let p = p.text("storage").global("torch", "FloatStorage").text("0").text("cpu").int(2);
        p.raw(b"(").text("v").int(0).int(2).raw(b"ttQ").int(0).ints(&[2]).ints(&[1]).raw(b"tR")
    });
    let headline = "the file describes a storage as a part of another, which is not read";
    unread(&legacy_torch(&part, &[("0", 2, &[0; 8])]), headline, &[]);
    let find = |text: &[u8]| sound.windows(text.len()).position(|found| found == text).unwrap();
    let mut big = sound.clone();
    big[find(b"little_endian\x88") + 13] = 0x89;
    unread(&big, "the file is big-endian, which is not read", &[]);
    let mut version = sound.clone();
    version[find(b"J\xe9\x03") + 1] = 0;
    let headline = "the file has a version of PyTorch's old format that is not read";
    unread(&version, headline, &[("expected", "1001")]);
}

/// Faults of many tensors are told at once, up to a limit.
#[test]
fn all_tensors_that_are_not_read_are_told_up_to_a_limit() {
    let turned = |count: usize| {
        with(dict(|p| {
            (0..count).fold(p, |p, number| {
                p.text(&number.to_string()).tensor(("FloatStorage", "0", 2), 0, &[2], &[0])
            })
        }))
    };
    assert_eq!(read(&turned(3)).unwrap_err().len(), 3);
    let many = read(&turned(1000)).unwrap_err();
    assert_eq!(many.len(), 20);
    assert_eq!(many[19].notes, ["980 more faults of this file are not shown"]);
}

/// What is accepted lies inside the file.
fn check_header(file: &[u8], header: &Header) {
    for tensor in &header.tensors {
        let end = tensor.offset.checked_add(tensor.bytes()).unwrap();
        assert!(end <= file.len() as u64, "{tensor:?}");
    }
}

fn damaged_samples() -> Vec<Vec<u8>> {
    let wide = Zip { wide: true, ..sound() };
    vec![
        sound().bytes(),
        wide.bytes(),
        sound_legacy(),
        fixture("plain.bin"),
        fixture("legacy.bin"),
        fixture("nested.bin"),
        fixture("untyped.bin"),
        fixture("protocol4.bin"),
    ]
}

#[test]
fn every_truncation_is_refused() {
    for sound in damaged_samples() {
        check_header(&sound, &read(&sound).unwrap());
        for end in 0..sound.len() {
            assert!(read(&sound[..end]).is_err(), "cut to {end} bytes");
        }
    }
}

#[test]
fn every_bent_byte_is_refused_or_harmless() {
    for sound in damaged_samples().into_iter().take(4) {
        for at in 0..sound.len() {
            for bits in [1 << (at % 8), 0xff] {
                let mut file = sound.clone();
                file[at] ^= bits;
                if let Ok(header) = read(&file) {
                    check_header(&file, &header);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn bent_bits_are_refused_or_harmless(
        which in 0..8usize,
        flips in prop::collection::vec((any::<usize>(), 0..8u8), 1..6),
    ) {
        let mut file = damaged_samples().swap_remove(which);
        for (at, bit) in flips {
            let at = at % file.len();
            file[at] ^= 1 << bit;
        }
        if let Ok(header) = read(&file) {
            check_header(&file, &header);
        }
    }

    /// Instructions in any order.
    #[test]
    fn no_pickle_does_harm(
        parts in prop::collection::vec(
            prop_oneof![
                prop::sample::select(&b"(01NlaedsuRbQ)]}t.\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94"[..])
                    .prop_map(|code| vec![code]),
                Just(b"X\x01\0\0\0a".to_vec()),
                Just(b"X\x07\0\0\0storage".to_vec()),
                Just(b"ctorch\nFloatStorage\n".to_vec()),
                Just(b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec()),
                Just(b"ccollections\nOrderedDict\n".to_vec()),
                (0..4u8).prop_map(|number| vec![b'K', number]),
                (0..4u8).prop_map(|number| vec![b'q', number]),
                (0..4u8).prop_map(|number| vec![b'h', number]),
            ],
            0..60,
        ),
    ) {
        let file = with(Pickle::new().raw(&parts.concat()).stop());
        if let Ok(header) = read(&file) {
            check_header(&file, &header);
        }
    }

    /// Numbers at the edges, in every place that has one.
    #[test]
    fn bent_numbers_are_refused_or_harmless(
        numbers in prop::collection::vec(
            prop_oneof![-2..4i64, Just(i64::MAX), Just(i64::MIN), Just(1 << 32), any::<i64>()],
            6,
        ),
    ) {
        let [count, offset, a, b, c, d] = numbers[..] else { unreachable!() };
        let file = with(dict(|p| {
            p.text("a").tensor(("FloatStorage", "0", count), offset, &[a, b], &[c, d])
        }));
        if let Ok(header) = read(&file) {
            check_header(&file, &header);
        }
    }
}

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
