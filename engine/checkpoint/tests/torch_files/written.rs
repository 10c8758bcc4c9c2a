//! What torch wrote, and sound files of the kit.

use super::*;

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

#[test]
fn archives_of_each_kind_are_read() {
    holds("narrow", &sound().bytes(), &SOUND);
    holds("wide", &Zip { wide: true, ..sound() }.bytes(), &SOUND);
    holds("with a comment", &Zip { comment: vec![b'x'; 65_535], ..sound() }.bytes(), &SOUND);
    holds("from before torch 2.1", &sound().without("model/byteorder").bytes(), &SOUND);
    holds("legacy", &sound_legacy(), &SOUND);
    holds("empty", &torch_archive(&Pickle::new().raw(b"}").stop(), &[]).bytes(), &[]);
}
