//! Element types: their sizes and their names in files and recipes.

use std::fmt;
use std::str::FromStr;

/// The type of a tensor's elements, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// 64-bit IEEE float.
    F64,
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// 8-bit float, 4 exponent bits.
    F8E4M3,
    /// 8-bit float, 5 exponent bits.
    F8E5M2,
    /// 8-bit power-of-two scale.
    F8E8M0,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// Two 32-bit floats.
    C64,
}

/// A name that is no element type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDType(pub String);

impl fmt::Display for UnknownDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no element type", self.0)
    }
}

impl std::error::Error for UnknownDType {}

/// Each type with its size in bytes, short name, name in recipes (torch's), and name in safetensors.
const TABLE: [(DType, usize, &str, &str, &str); 17] = [
    (DType::F64, 8, "f64", "float64", "F64"),
    (DType::F32, 4, "f32", "float32", "F32"),
    (DType::F16, 2, "f16", "float16", "F16"),
    (DType::Bf16, 2, "bf16", "bfloat16", "BF16"),
    (DType::F8E4M3, 1, "f8_e4m3", "float8_e4m3fn", "F8_E4M3"),
    (DType::F8E5M2, 1, "f8_e5m2", "float8_e5m2", "F8_E5M2"),
    (DType::F8E8M0, 1, "f8_e8m0", "float8_e8m0fnu", "F8_E8M0"),
    (DType::I64, 8, "i64", "int64", "I64"),
    (DType::I32, 4, "i32", "int32", "I32"),
    (DType::I16, 2, "i16", "int16", "I16"),
    (DType::I8, 1, "i8", "int8", "I8"),
    (DType::U64, 8, "u64", "uint64", "U64"),
    (DType::U32, 4, "u32", "uint32", "U32"),
    (DType::U16, 2, "u16", "uint16", "U16"),
    (DType::U8, 1, "u8", "uint8", "U8"),
    (DType::Bool, 1, "bool", "bool", "BOOL"),
    (DType::C64, 8, "c64", "complex64", "C64"),
];

impl DType {
    fn row(self) -> &'static (DType, usize, &'static str, &'static str, &'static str) {
        // The table is in the order of the enum; a test holds the two together.
        &TABLE[self as usize]
    }

    /// Size of one element in bytes.
    pub fn bytes(self) -> usize {
        self.row().1
    }

    /// Short name for people: `bf16`, `f32`, `i64`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Name in recipes and in `config.json`: `bfloat16`, `float32`.
    pub fn torch_name(self) -> &'static str {
        self.row().3
    }

    /// Name in a safetensors header: `BF16`, `F32`.
    pub fn safetensors_name(self) -> &'static str {
        self.row().4
    }

    /// The type that a safetensors header names, if mixdown knows it.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.4 == name).map(|row| row.0)
    }

    /// Whether elements of this type take part in arithmetic. The others are only copied.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    /// The type that two inputs of a merge have in common: the wider one, and f32 for f16 with bf16.
    ///
    /// Defined for floats; for other types only when both are equal.
    pub fn promote(self, other: Self) -> Option<Self> {
        match (self, other) {
            (a, b) if a == b => Some(a),
            (a, b) if !a.is_float() || !b.is_float() => None,
            (Self::F64, _) | (_, Self::F64) => Some(Self::F64),
            _ => Some(Self::F32),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = UnknownDType;

    /// Reads `bfloat16`, `torch.bfloat16` or `bf16`.
    fn from_str(text: &str) -> Result<Self, UnknownDType> {
        let bare = text.strip_prefix("torch.").unwrap_or(text);
        TABLE
            .iter()
            .find(|row| row.3 == bare || row.2 == text)
            .map(|row| row.0)
            .ok_or_else(|| UnknownDType(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_the_order_of_the_enum() {
        for row in &TABLE {
            assert_eq!(row.0.row().0, row.0);
        }
    }

    #[test]
    fn names_are_read_back() {
        for row in &TABLE {
            assert_eq!(row.3.parse(), Ok(row.0));
            assert_eq!(format!("torch.{}", row.3).parse(), Ok(row.0));
            assert_eq!(row.2.parse(), Ok(row.0));
            assert_eq!(DType::from_safetensors(row.4), Some(row.0));
        }
        assert!("bfloat".parse::<DType>().is_err());
        assert!("torch.bf16".parse::<DType>().is_err());
    }

    #[test]
    fn promotion_widens() {
        assert_eq!(DType::Bf16.promote(DType::F16), Some(DType::F32));
        assert_eq!(DType::Bf16.promote(DType::F64), Some(DType::F64));
        assert_eq!(DType::I64.promote(DType::I64), Some(DType::I64));
        assert_eq!(DType::I64.promote(DType::F32), None);
    }
}
