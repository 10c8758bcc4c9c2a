//! By which names, element types and shapes packed weights are known. What a configuration says adds
//! to that and is never needed: files are renamed, and configurations are copied from other models.

use std::fmt;

use mixdown_tensor::DType;

use super::claims::Stored;
use crate::index::TensorEntry;
use crate::shown::shown;

/// Last parts of names that only one codec gives, with the name of the codec.
const NAMES: [(&str, &str); 24] = [
    ("absmax", BITSANDBYTES_4),
    ("quant_map", BITSANDBYTES_4),
    ("nested_absmax", BITSANDBYTES_4),
    ("nested_quant_map", BITSANDBYTES_4),
    ("SCB", "bitsandbytes int8"),
    ("weight_packed", "compressed-tensors"),
    ("weight_global_scale", "compressed-tensors"),
    ("weight_scale_2", "ModelOpt NVFP4"),
    ("qweight", "GPTQ or AWQ"),
    ("qzeros", "GPTQ or AWQ"),
    ("g_idx", "GPTQ or AWQ"),
    ("W_q", "HQQ"),
    ("codebooks", "AQLM"),
    ("centroids", "VPTQ"),
    ("res_centroids", "VPTQ"),
    ("q_weight", "EXL2"),
    ("q_invperm", "EXL2"),
    ("trellis", "EXL3"),
    ("Qidxs", "QuIP#"),
    ("dense_weights", "SpQR"),
    ("weight_scales", "EETQ"),
    ("tables2", "HIGGS"),
    ("scale_weight", "ComfyUI's scaled fp8"),
    ("scaled_fp8", "ComfyUI's scaled fp8"),
];

const BITSANDBYTES_4: &str = "bitsandbytes 4-bit";

/// The codec of a tensor that is part of a packed weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// Known from the tensor itself.
    Named(&'static str),
    /// Said by the configuration alone, or by nothing.
    Said(Option<String>),
}

impl Codec {
    /// Whether weights of it are decoded, so that tensors of it that are left over lack others.
    pub(super) fn is_decoded(&self, methods: impl Iterator<Item = &'static str>) -> bool {
        const DECODED: [&str; 10] = [
            BITSANDBYTES_4,
            "bitsandbytes int8",
            "compressed-tensors",
            "ModelOpt NVFP4",
            "GPTQ or AWQ",
            "HQQ",
            "torchao",
            "MXFP4",
            "block fp8",
            "MLX",
        ];
        match self {
            Self::Named(name) => DECODED.contains(name),
            Self::Said(method) => {
                let mut methods = methods;
                method.as_ref().is_some_and(|said| methods.any(|known| known == said))
            }
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Said(Some(method)) => write!(f, "`{}`", shown(method)),
            Self::Said(None) => f.write_str("codes of an unknown codec"),
        }
    }
}

/// The codec that a stored tensor is a part of, unless it holds plain numbers.
pub(super) fn codec_of(stored: &Stored<'_>, tensor: &TensorEntry) -> Option<Codec> {
    let name = tensor.name.as_str();
    let (module, leaf) = name.rsplit_once('.').unwrap_or(("", name));
    let beside = |leaf: &str| match module {
        "" => stored.get(leaf),
        _ => stored.get(&format!("{module}.{leaf}")),
    };
    let is_float = |tensor: &TensorEntry| tensor.dtype.is_float();
    let own = |codec| Some(Codec::Named(codec));

    if name.contains(".quant_state.bitsandbytes__") {
        return own(BITSANDBYTES_4);
    }
    if let Some((_, codec)) = NAMES.iter().find(|(known, _)| *known == leaf) {
        return own(codec);
    }
    if name.ends_with(".weight._data") || name.ends_with(".weight._scale") {
        return own("Quanto");
    }
    if ["_weight_qdata", "_weight_scale", "_weight_zero_point"].contains(&leaf) {
        return own("torchao");
    }
    let of_blocks = leaf.strip_suffix("_blocks").or_else(|| leaf.strip_suffix("_scales"));
    if of_blocks.is_some() && tensor.dtype == DType::U8 && tensor.shape.dimensions().len() >= 2 {
        return own("MXFP4");
    }
    if leaf.ends_with("_scale_inv") {
        return own("block fp8");
    }
    if matches!(leaf, "weight_scale" | "weight_zero_point" | "weight_shape")
        && (stored.settings.is_there() || !beside("weight").is_some_and(is_float))
    {
        return Some(said(stored));
    }
    if ["scales", "biases"].contains(&leaf)
        && ((stored.settings.is_there() && stored.settings.method().is_none())
            || beside("weight").is_some_and(|codes| codes.dtype == DType::U32))
    {
        return own("MLX");
    }
    if ["nbits", "group_size"].contains(&leaf)
        && beside("nbits").is_some()
        && beside("axis").is_some()
    {
        return own("HQQ");
    }
    if leaf == "B" && tensor.dtype == DType::I32 && beside("s").is_some() {
        return own("Marlin");
    }
    if leaf == "weight" && holds_codes(stored, tensor) {
        return Some(said(stored));
    }
    None
}

/// Whether a tensor named like a weight is made of codes, by its type and its shape.
fn holds_codes(stored: &Stored<'_>, tensor: &TensorEntry) -> bool {
    let is_matrix = tensor.shape.dimensions().len() >= 2;
    match tensor.dtype {
        DType::U8 | DType::I8 | DType::I16 | DType::U16 | DType::I32 | DType::U32 => is_matrix,
        // Those without a scale are claimed as numbers before.
        DType::F8E4M3 | DType::F8E5M2 => is_matrix,
        _ => is_column(stored, tensor),
    }
}

/// bitsandbytes keeps bytes in elements of any type, as a column: those of blocks of 64 codes, 32 bytes each.
/// Large matrices of one column are not made by that name otherwise: an adapter's of rank 1 is called `lora_B`.
fn is_column(stored: &Stored<'_>, tensor: &TensorEntry) -> bool {
    let is_told = stored.settings.method() == Some("bitsandbytes");
    let is_projection = tensor.name.ends_with("_proj.weight");
    let [rows, 1] = tensor.shape.dimensions() else { return false };
    let has_blocks = (rows * tensor.dtype.bytes() as u64).is_multiple_of(32);
    is_told && *rows > 1 || is_projection && has_blocks
}

fn said(stored: &Stored<'_>) -> Codec {
    Codec::Said(stored.settings.method().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use mixdown_tensor::Shape;
    use serde_json::{Value, json};

    use std::collections::BTreeMap;

    use super::super::{Context, Settings};
    use super::*;

    /// The codecs that are found in a checkpoint of these tensors.
    fn found(config: Value, tensors: &[(&str, DType, &[u64])]) -> Vec<String> {
        let entry = |(name, dtype, shape): &(&str, DType, &[u64])| TensorEntry {
            name: (*name).to_owned(),
            dtype: *dtype,
            shape: Shape::new(shape.to_vec()).unwrap(),
            shard: 0,
            offset: 0,
            encoding: None,
        };
        let tensors: Vec<TensorEntry> = tensors.iter().map(entry).collect();
        let settings = Settings::of(Some(&config), None);
        let small = |_: &TensorEntry| unreachable!("signs are in headers");
        let metadata = BTreeMap::new();
        let context =
            Context { name: "model", settings: &settings, metadata: &metadata, small: &small };
        let stored = Stored::new(&tensors, &context);
        let mut all: Vec<String> = tensors
            .iter()
            .filter_map(|tensor| Some(codec_of(&stored, tensor)?.to_string()))
            .collect();
        all.dedup();
        all
    }

    /// Names and types give most codecs away, whatever the configuration says or leaves out.
    #[test]
    fn codecs_are_known_without_a_configuration() {
        use DType::*;
        let none = || json!({});
        let bytes = ("l.q_proj.weight", U8, [768, 1].as_slice());
        let state = ("l.q_proj.weight.quant_state.bitsandbytes__nf4", U8, [78].as_slice());
        assert_eq!(found(none(), &[state]), ["bitsandbytes 4-bit"]);
        let absmax = ("l.q_proj.weight.absmax", F32, [24].as_slice());
        assert_eq!(found(none(), &[absmax, bytes])[0], "bitsandbytes 4-bit");
        assert_eq!(found(none(), &[("l.q.SCB", F32, &[4])]), ["bitsandbytes int8"]);
        assert_eq!(found(none(), &[("l.e.x_blocks", U8, &[1, 4, 1, 16])]), ["MXFP4"]);
        assert_eq!(found(none(), &[("l.q.weight_scale_inv", F32, &[1, 1])]), ["block fp8"]);
        assert_eq!(found(none(), &[("l.q.weight_packed", I32, &[4, 4])]), ["compressed-tensors"]);
        assert_eq!(found(none(), &[("l.q.qweight", I32, &[4, 4])]), ["GPTQ or AWQ"]);
        assert_eq!(found(none(), &[("l.q.W_q", U8, &[4, 4])]), ["HQQ"]);
        let mlx = [("q.weight", U32, [4, 8].as_slice()), ("q.scales", Bf16, [4, 2].as_slice())];
        assert_eq!(found(none(), &mlx).last().unwrap(), "MLX");
        let torchao =
            [("q._weight_qdata", I8, [4, 8].as_slice()), ("q._weight_scale", F32, &[4, 1])];
        assert_eq!(found(none(), &torchao), ["torchao"]);
        assert_eq!(found(none(), &[("q.codebooks", F16, &[1, 4])]), ["AQLM"]);
        let marlin = [("q.B", I32, [4, 8].as_slice()), ("q.s", F16, [4, 1].as_slice())];
        assert_eq!(found(none(), &marlin), ["Marlin"]);
    }

    /// Bytes that are stored as floats look like numbers, and are none.
    #[test]
    fn bytes_in_floats_are_codes() {
        let told =
            json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}});
        let column = [("l.dense.weight", DType::Bf16, [384, 1].as_slice())];
        assert_eq!(found(told.clone(), &column), ["`bitsandbytes`"]);
        let projection = [("l.q_proj.weight", DType::F32, [384, 1].as_slice())];
        assert_eq!(found(json!({}), &projection), ["codes of an unknown codec"]);
        // A layer of one input has as many bytes as it likes.
        let small = [("l.o_proj.weight", DType::F64, [7, 1].as_slice())];
        assert!(found(json!({}), &small).is_empty());
        // Plain weights below a configuration that was left over are plain.
        let plain =
            [("l.q_proj.weight", DType::Bf16, [8, 8].as_slice()), ("n.weight", DType::Bf16, &[8])];
        assert!(found(told, &plain).is_empty());
    }

    #[test]
    fn a_method_that_nobody_knows_is_named() {
        let told = json!({"quantization_config": {"quant_method": "fancy"}});
        assert_eq!(found(told.clone(), &[("q.weight", DType::I8, &[4, 4])]), ["`fancy`"]);
        assert_eq!(found(told.clone(), &[("q.weight_scale", DType::F32, &[1])]), ["`fancy`"]);
        assert_eq!(found(told, &[("q.weight", DType::F8E4M3, &[4, 4])]), ["`fancy`"]);
        let none = || json!({});
        assert_eq!(
            found(none(), &[("q.weight", DType::I8, &[4, 4])]),
            ["codes of an unknown codec"]
        );
    }

    /// What models hold beside quantization must not be taken for it.
    #[test]
    fn integers_and_scales_of_plain_models_are_plain() {
        use DType::*;
        let plain: [(&str, DType, &[u64]); 7] = [
            ("embeddings.position_ids", I64, &[1, 512]),
            ("attn.relative_position_index", I64, &[49, 49]),
            ("bn.num_batches_tracked", I64, &[]),
            ("norm.weight", F32, &[8]),
            ("attn.weight_scale", F32, &[1]),
            ("attn.weight", F32, &[8, 8]),
            ("q.lora_B.weight", Bf16, &[8, 1]),
        ];
        assert!(found(json!({}), &plain).is_empty());
    }
}
