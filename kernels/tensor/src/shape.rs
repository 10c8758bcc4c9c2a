//! Dimensions and checked counts of elements and bytes.

use std::fmt;

use crate::DType;

/// The dimensions of a tensor, outermost first. No dimensions means one element.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape(Vec<u64>);

/// A shape whose elements or bytes do not fit into 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapeOverflow;

impl fmt::Display for ShapeOverflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the size of the shape does not fit into 64 bits")
    }
}

impl std::error::Error for ShapeOverflow {}

impl Shape {
    /// A shape of these dimensions.
    ///
    /// **Errors.** When the count of elements, at 8 bytes each, does not fit into 64 bits.
    pub fn new(dimensions: Vec<u64>) -> Result<Self, ShapeOverflow> {
        let mut elements: u64 = 1;
        for &dimension in &dimensions {
            elements = elements.checked_mul(dimension).ok_or(ShapeOverflow)?;
        }
        elements.checked_mul(8).ok_or(ShapeOverflow)?;
        Ok(Self(dimensions))
    }

    /// The dimensions, outermost first.
    pub fn dimensions(&self) -> &[u64] {
        &self.0
    }

    /// Count of elements.
    pub fn elements(&self) -> u64 {
        self.0.iter().product()
    }

    /// Count of bytes at this element type.
    pub fn bytes(&self, dtype: DType) -> u64 {
        self.elements() * dtype.bytes() as u64
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (position, dimension) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dimension}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let shape = Shape::new(vec![3, 4]).unwrap();
        assert_eq!((shape.elements(), shape.bytes(DType::Bf16)), (12, 24));
        assert_eq!(shape.to_string(), "[3, 4]");
        assert_eq!(Shape::default().elements(), 1);
        assert_eq!(Shape::new(vec![0, 5]).unwrap().elements(), 0);
    }

    #[test]
    fn a_shape_that_overflows_is_refused() {
        assert_eq!(Shape::new(vec![u64::MAX, 2]), Err(ShapeOverflow));
        assert_eq!(Shape::new(vec![u64::MAX / 4]), Err(ShapeOverflow));
    }
}
