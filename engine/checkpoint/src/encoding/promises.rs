//! What configurations promise of codes and scales, and whether tensors keep it. Tensors decide how they
//! are decoded; a promise that they break means that the two do not belong together.

use serde_json::Value;

use super::Settings;

/// What codes are, as far as configurations speak of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    bits: u64,
    is_float: bool,
    /// What compressed-tensors calls codes that are stored so; none that it has not.
    formats: &'static [&'static str],
}

impl Kind {
    /// Whole numbers of so many bits.
    pub(super) const fn whole(bits: u64) -> Self {
        Self { bits, is_float: false, formats: &[] }
    }

    /// Floats of so many bits.
    pub(super) const fn floats(bits: u64) -> Self {
        Self { bits, is_float: true, formats: &[] }
    }

    /// The same where compressed-tensors writes them in one of these formats.
    pub(super) const fn called(self, formats: &'static [&'static str]) -> Self {
        Self { formats, ..self }
    }
}

/// What compressed-tensors promises of scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    Tensor,
    Channel,
    Group(u64),
    Block(u64, u64),
}

impl Spread {
    /// Of what is said of weights; none where it is not enough to tell.
    fn of(weights: &Value) -> Option<Self> {
        let group = weights.get("group_size").and_then(Value::as_i64);
        let group_of = |group: i64| u64::try_from(group).ok().filter(|&group| group > 0);
        match (weights.get("strategy").and_then(Value::as_str), group) {
            (Some("tensor"), _) => Some(Self::Tensor),
            (Some("channel"), _) | (None, Some(-1)) => Some(Self::Channel),
            (Some("group" | "tensor_group") | None, Some(group)) => {
                group_of(group).map(Self::Group)
            }
            (Some("block"), _) => match weights.get("block_structure")?.as_array()?.as_slice() {
                [rows, columns] => Some(Self::Block(rows.as_u64()?, columns.as_u64()?))
                    .filter(|block| !matches!(block, Self::Block(0, _) | Self::Block(_, 0))),
                _ => None,
            },
            _ => None,
        }
    }

    /// How many scales there are for so many matrices of this many rows and columns.
    fn count(self, matrices: u64, [rows, columns]: [u64; 2]) -> [u64; 2] {
        let count = match self {
            // One for each matrix of a stack, or one for all of them.
            Self::Tensor => return [1, matrices],
            Self::Channel => rows,
            // No library writes a shorter group at the end.
            Self::Group(group) if !columns.is_multiple_of(group) => return [u64::MAX; 2],
            Self::Group(group) => rows.saturating_mul(columns / group),
            Self::Block(high, wide) => rows.div_ceil(high).saturating_mul(columns.div_ceil(wide)),
        };
        [count.saturating_mul(matrices); 2]
    }

    fn shown(self) -> String {
        match self {
            Self::Tensor => "one for a tensor".to_owned(),
            Self::Channel => "one for a row".to_owned(),
            Self::Group(group) => format!("one for {group} columns"),
            Self::Block(high, wide) => format!("one for {high} x {wide}"),
        }
    }
}

impl Settings {
    /// Whether codes of this kind are what the configuration speaks of, if it does of any.
    pub(super) fn promises(&self, kind: Kind) -> bool {
        match self.method() {
            Some("compressed-tensors") => self.compressed_promises(kind),
            Some("modelopt") => self.text("quant_algo").is_none_or(|algorithm| {
                kind_of_modelopt(&algorithm.to_ascii_uppercase())
                    .is_none_or(|(bits, is_float)| (bits, is_float) == (kind.bits, kind.is_float))
            }),
            Some("bitsandbytes") => {
                match (self.is_set("load_in_4bit"), self.is_set("load_in_8bit")) {
                    (true, false) => kind.bits == 4,
                    (false, true) => kind.bits == 8,
                    _ => true,
                }
            }
            Some("fp8" | "fbgemm_fp8") => kind.is_float,
            _ => true,
        }
    }

    fn compressed_promises(&self, kind: Kind) -> bool {
        let is_kind = |weights: &Value| {
            let bits = weights.get("num_bits").and_then(Value::as_u64);
            let element = weights.get("type").and_then(Value::as_str).unwrap_or("int");
            bits.is_none_or(|bits| (bits, element == "float") == (kind.bits, kind.is_float))
        };
        let mut weights = self.weights().filter(|weights| weights.is_object()).peekable();
        if weights.peek().is_some() && !weights.any(is_kind) {
            return false;
        }
        // Those of several formats say them for each group of modules.
        const ANY: [&str; 3] = ["mixed-precision", "dense", "fakequant"];
        let groups = self.get("config_groups").and_then(Value::as_object);
        let of_groups = groups.into_iter().flat_map(|groups| groups.values());
        let of_groups = of_groups.map(|group| group.get("format").and_then(Value::as_str));
        let mut formats: Vec<Option<&str>> =
            of_groups.map(|format| format.or_else(|| self.text("format"))).collect();
        if formats.is_empty() {
            formats.push(self.text("format"));
        }
        formats.into_iter().any(|format| {
            format.is_none_or(|format| ANY.contains(&format) || kind.formats.contains(&format))
        })
    }

    /// Whether so many scales of so many matrices are what compressed-tensors promises; if not, what is.
    pub(super) fn promised_scales(
        &self,
        scales: u64,
        matrices: u64,
        sizes: [u64; 2],
    ) -> Result<(), String> {
        if self.method() != Some("compressed-tensors") {
            return Ok(());
        }
        let all: Option<Vec<Spread>> = self.weights().map(Spread::of).collect();
        let Some(all) = all.filter(|all| !all.is_empty()) else { return Ok(()) };
        match all.iter().any(|spread| spread.count(matrices, sizes).contains(&scales)) {
            true => Ok(()),
            false => Err(all.iter().map(|spread| spread.shown()).collect::<Vec<_>>().join(" or ")),
        }
    }

    /// Whether compressed-tensors promises zero points for all weights.
    pub(super) fn promises_zero_points(&self) -> bool {
        let is_asymmetric =
            |weights: &Value| weights.get("symmetric").and_then(Value::as_bool) == Some(false);
        let mut weights = self.weights().peekable();
        self.method() == Some("compressed-tensors")
            && weights.peek().is_some()
            && weights.all(is_asymmetric)
    }
}

/// Bits of a code, and whether it is a float, by ModelOpt's word for all of it.
fn kind_of_modelopt(algorithm: &str) -> Option<(u64, bool)> {
    let has = |part: &str| algorithm.contains(part);
    match () {
        () if has("MIXED") => None,
        () if has("FP4") => Some((4, true)),
        () if has("AWQ") || has("W4A16") => Some((4, false)),
        () if has("FP8") => Some((8, true)),
        () if has("INT8") || has("W8A8") || has("W8A16") => Some((8, false)),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(value: Value) -> Settings {
        Settings::of(Some(&json!({"quantization_config": value})), None)
    }

    #[test]
    fn groups_of_modules_promise_together() {
        let both = settings(json!({
            "quant_method": "compressed-tensors",
            "format": "mixed-precision",
            "config_groups": {
                "a": {"format": "float-quantized", "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}},
                "b": {"format": "pack-quantized", "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": false}},
            },
        }));
        assert!(both.promises(Kind::whole(4).called(&["pack-quantized"])));
        assert!(both.promises(Kind::floats(8).called(&["float-quantized"])));
        assert!(!both.promises(Kind::whole(8).called(&["pack-quantized"])));
        assert!(!both.promises(Kind::floats(4).called(&["nvfp4-pack-quantized"])));
        assert_eq!(both.promised_scales(8, 1, [8, 64]), Ok(()));
        assert_eq!(both.promised_scales(16, 1, [8, 64]), Ok(()));
        let told = both.promised_scales(32, 1, [8, 64]).unwrap_err();
        assert_eq!(told, "one for a row or one for 32 columns");
        // Zero points may belong to the other group.
        assert!(!both.promises_zero_points());
    }

    #[test]
    fn words_of_modelopt_are_kinds() {
        for (word, kind) in [
            ("FP8", Some((8, true))),
            ("FP8_PER_CHANNEL_PER_TOKEN", Some((8, true))),
            ("NVFP4", Some((4, true))),
            ("W4A8_NVFP4_FP8", Some((4, true))),
            ("W4A16_AWQ", Some((4, false))),
            ("W4A16_NVFP4", Some((4, true))),
            ("INT8_SQ", Some((8, false))),
            ("W8A16", Some((8, false))),
            ("MIXED_PRECISION", None),
            ("NEW", None),
        ] {
            assert_eq!(kind_of_modelopt(word), kind, "{word}");
        }
    }
}
