//! A whole tensor in memory, with its bytes as a file holds them.

use half::{bf16, f16};
use mixdown_tensor::DType;

/// A tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its storage type.
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Its bytes, little-endian.
    pub data: Vec<u8>,
}

impl Tensor {
    /// A tensor of these values, each rounded once to `dtype`.
    pub fn new(name: &str, dtype: DType, shape: &[u64], values: &[f64]) -> Self {
        let elements: u64 = shape.iter().product();
        assert_eq!(elements, values.len() as u64, "`{name}`: shape and values disagree");
        let mut data = Vec::with_capacity(values.len() * dtype.bytes());
        for &value in values {
            encode(value, dtype, &mut data);
        }
        Self { name: name.to_owned(), dtype, shape: shape.to_vec(), data }
    }

    /// The same tensor under another name.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// The same values in another type.
    pub fn cast(&self, dtype: DType) -> Self {
        Self::new(&self.name, dtype, &self.shape, &self.values())
    }

    /// Its elements, widened to f64.
    pub fn values(&self) -> Vec<f64> {
        self.data.chunks_exact(self.dtype.bytes()).map(|bytes| decode(bytes, self.dtype)).collect()
    }

    /// The largest magnitude among its elements; 0 when it has none.
    pub fn largest_magnitude(&self) -> f64 {
        self.values().iter().fold(0.0, |largest, value| value.abs().max(largest))
    }

    /// Count of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Appends a value in a storage type. Integers are truncated.
pub fn encode(value: f64, dtype: DType, to: &mut Vec<u8>) {
    match dtype {
        DType::F64 => to.extend(value.to_le_bytes()),
        DType::F32 => to.extend((value as f32).to_le_bytes()),
        DType::F16 => to.extend(f16::from_f64(value).to_le_bytes()),
        DType::Bf16 => to.extend(bf16::from_f64(value).to_le_bytes()),
        DType::I64 => to.extend((value as i64).to_le_bytes()),
        DType::I32 => to.extend((value as i32).to_le_bytes()),
        DType::I16 => to.extend((value as i16).to_le_bytes()),
        DType::I8 => to.extend((value as i8).to_le_bytes()),
        DType::U64 => to.extend((value as u64).to_le_bytes()),
        DType::U32 => to.extend((value as u32).to_le_bytes()),
        DType::U16 => to.extend((value as u16).to_le_bytes()),
        DType::U8 => to.push(value as u8),
        DType::Bool => to.push(u8::from(value != 0.0)),
        other => panic!("the kit does not write {other}"),
    }
}

/// Reads one element as f64.
pub fn decode(bytes: &[u8], dtype: DType) -> f64 {
    macro_rules! number {
        ($kind:ty) => {
            <$kind>::from_le_bytes(bytes.try_into().expect("one element")) as f64
        };
    }
    match dtype {
        DType::F64 => number!(f64),
        DType::F32 => number!(f32),
        DType::F16 => f16::from_le_bytes(bytes.try_into().expect("one element")).to_f64(),
        DType::Bf16 => bf16::from_le_bytes(bytes.try_into().expect("one element")).to_f64(),
        DType::I64 => number!(i64),
        DType::I32 => number!(i32),
        DType::I16 => number!(i16),
        DType::I8 => number!(i8),
        DType::U64 => number!(u64),
        DType::U32 => number!(u32),
        DType::U16 => number!(u16),
        DType::U8 | DType::Bool => f64::from(bytes[0]),
        other => panic!("the kit does not read {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_every_type_that_holds_them() {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::Bf16, DType::I64, DType::I8] {
            let tensor = Tensor::new("x", dtype, &[2, 2], &[1.0, -2.0, 0.0, 96.0]);
            assert_eq!(tensor.values(), [1.0, -2.0, 0.0, 96.0], "{dtype}");
            assert_eq!(tensor.data.len(), 4 * dtype.bytes());
            assert_eq!(tensor.largest_magnitude(), 96.0);
        }
    }

    #[test]
    fn a_value_is_rounded_once() {
        let tensor = Tensor::new("x", DType::Bf16, &[1], &[1.003_906_25]);
        // Halfway between 1 and the next bf16: to the even one.
        assert_eq!(tensor.values(), [1.0]);
    }
}
