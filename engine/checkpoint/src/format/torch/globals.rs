//! The names that a pickle of tensors imports. They stand for what they do, and nothing is imported.

use mixdown_tensor::DType;

use super::values::{Elements, Global, Rebuild, Record};

/// Names of storages in `torch`, one for each element type of its time.
const STORAGES: [(&str, Elements); 18] = [
    ("BFloat16Storage", Elements::Of(DType::Bf16)),
    ("BoolStorage", Elements::Of(DType::Bool)),
    ("ByteStorage", Elements::Of(DType::U8)),
    ("CharStorage", Elements::Of(DType::I8)),
    ("ComplexDoubleStorage", Elements::Unread("complex128")),
    ("ComplexFloatStorage", Elements::Of(DType::C64)),
    ("DoubleStorage", Elements::Of(DType::F64)),
    ("FloatStorage", Elements::Of(DType::F32)),
    ("HalfStorage", Elements::Of(DType::F16)),
    ("IntStorage", Elements::Of(DType::I32)),
    ("LongStorage", Elements::Of(DType::I64)),
    ("QInt32Storage", Elements::Unread("qint32")),
    ("QInt8Storage", Elements::Unread("qint8")),
    ("QUInt2x4Storage", Elements::Unread("quint2x4")),
    ("QUInt4x2Storage", Elements::Unread("quint4x2")),
    ("QUInt8Storage", Elements::Unread("quint8")),
    ("ShortStorage", Elements::Of(DType::I16)),
    ("UntypedStorage", Elements::Untyped),
];

/// Element types of torch that are not read.
const UNREAD: [&str; 12] = [
    "complex128",
    "complex32",
    "float4_e2m1fn_x2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "qint32",
    "qint8",
    "quint2x4",
    "quint4x2",
    "quint8",
    "uint1",
    "uint4",
];

/// What a name stands for.
pub(super) fn find(module: &str, name: &str) -> Global {
    match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch", "Size") => Global::Size,
        ("torch._utils", "_rebuild_tensor") => Global::Tensor(Rebuild::V1),
        ("torch._utils", "_rebuild_tensor_v2") => Global::Tensor(Rebuild::V2),
        ("torch._utils", "_rebuild_tensor_v3") => Global::Tensor(Rebuild::V3),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Global::Parameter
        }
        // What trainers note beside the weights. Bytes are written as a call of `encode`.
        ("torch", "device")
        | ("torch.serialization", "_get_layout")
        | ("_codecs", "encode")
        | ("builtins" | "__builtin__", "bytearray" | "frozenset" | "set") => Global::Plain,
        ("torch.storage", "UntypedStorage") => Global::Storage(Elements::Untyped),
        ("torch", name) => in_torch(name),
        _ => Global::Refused,
    }
}

/// What a name stands for in the metadata of a distributed checkpoint.
pub(super) fn in_distributed(module: &str, name: &str) -> Global {
    const PACKAGE: &str = "torch.distributed.checkpoint.";
    let record = match name {
        "Metadata" => Record::Metadata,
        "TensorStorageMetadata" => Record::Tensor,
        "TensorProperties" => Record::Properties,
        "ChunkStorageMetadata" => Record::Chunk,
        "MetadataIndex" => Record::Index,
        "_StorageInfo" => Record::Place,
        // Versions write notes of their own, of which no tensor is made.
        _ if module.starts_with(PACKAGE) => return Global::Plain,
        "PosixPath" | "PurePosixPath" | "WindowsPath" if module.starts_with("pathlib") => {
            return Global::Plain;
        }
        _ => return find(module, name),
    };
    match module.starts_with(PACKAGE)
        || module == "torch.distributed._shard.sharded_tensor.metadata"
    {
        true => Global::Record(record),
        false => find(module, name),
    }
}

/// What a name stands for in the states of DeepSpeed ZeRO: beside weights there are settings, scalers of losses and
/// states of random numbers, of which no tensor is made.
pub(super) fn in_zero(module: &str, name: &str) -> Global {
    const PACKAGES: [&str; 6] =
        ["argparse", "deepspeed", "numpy", "pathlib", "transformers", "types"];
    match find(module, name) {
        Global::Refused if PACKAGES.contains(&module.split('.').next().unwrap_or(module)) => {
            Global::Plain
        }
        Global::Refused if module == "collections" && name == "defaultdict" => Global::Plain,
        found => found,
    }
}

fn in_torch(name: &str) -> Global {
    if let Some((_, elements)) = STORAGES.iter().find(|(known, _)| *known == name) {
        return Global::Storage(*elements);
    }
    if let Ok(dtype) = format!("torch.{name}").parse() {
        return Global::DType(Elements::Of(dtype));
    }
    match UNREAD.iter().find(|known| **known == name) {
        Some(known) => Global::DType(Elements::Unread(known)),
        None => Global::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_made_of_few_names() {
        let known = [
            ("torch", "BFloat16Storage", Global::Storage(Elements::Of(DType::Bf16))),
            ("torch", "bfloat16", Global::DType(Elements::Of(DType::Bf16))),
            ("torch", "complex128", Global::DType(Elements::Unread("complex128"))),
            ("torch.storage", "UntypedStorage", Global::Storage(Elements::Untyped)),
        ];
        for (module, name, wanted) in known {
            assert_eq!(find(module, name), wanted, "{module}.{name}");
        }
        for (module, name) in [
            ("os", "system"),
            ("builtins", "eval"),
            ("torch", "load"),
            ("torch", "bf16"),
            ("torch", ""),
            ("torch.FloatStorage", "from_file"),
            ("torch.hub", "load"),
            ("", ""),
        ] {
            assert_eq!(find(module, name), Global::Refused, "{module}.{name}");
        }
    }
}
