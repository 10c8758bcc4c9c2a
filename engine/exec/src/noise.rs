//! How large what rounding for storage has done to a matrix is, from the numbers that are stored.

use mixdown_plan::Leaf;
use mixdown_tensor::DType;

use crate::scheduler::Failure;
use crate::widen;

/// A bound of the spectral norm of what rounding has done to rows of a linear combination of stored tensors.
///
/// Each number is off by up to half a unit in its last place. Taken as independent, with the variance of a twelfth
/// of that unit's square, the norm of all of them is not above the root of the largest sum of variances over a row
/// and that over a column, but for a share that vanishes with the size (Bandeira and van Handel 2016,
/// arXiv:1408.6185). A tensor that several others were tuned from is rounded once, so that its errors may add up: as
/// many of them count as there are, and never more than its factor says.
///
/// None where a type is not one of those. `read` hands all bytes of these rows of a leaf on, in stretches.
pub(crate) fn of_rows(
    terms: &[(Leaf, f64, DType)],
    rows: usize,
    columns: usize,
    mut read: impl FnMut(Leaf, DType, &mut dyn FnMut(usize, &[u8])) -> Result<(), Failure>,
) -> Result<Option<f64>, Failure> {
    let (mut by_row, mut by_column) = (vec![0.0; rows], vec![0.0; columns]);
    for &(leaf, factor, dtype) in terms {
        let Some(units) = Units::of(dtype) else { return Ok(None) };
        let share = (factor * factor).min(factor.abs()) / 12.0;
        read(leaf, dtype, &mut |at, bytes| {
            for (index, number) in (at..).zip(widen::to_f64(bytes, dtype)) {
                let unit = units.at(number);
                let variance = share * unit * unit;
                by_row[index / columns] += variance;
                by_column[index % columns] += variance;
            }
        })?;
    }
    let largest = |sums: &[f64]| sums.iter().copied().fold(0.0, f64::max).sqrt();
    Ok(Some(largest(&by_row) + largest(&by_column)))
}

/// The units in the last place of a type.
#[derive(Clone, Copy)]
struct Units {
    /// Bits after the leading one.
    digits: i32,
    /// The exponent of the smallest unit.
    least: i32,
}

impl Units {
    /// Of types in which weights are rounded for storage.
    fn of(dtype: DType) -> Option<Self> {
        let (digits, least) = match dtype {
            DType::Bf16 => (7, -133),
            DType::F16 => (10, -24),
            DType::F32 => (23, -149),
            DType::F64 => (52, -1074),
            _ => return None,
        };
        Some(Self { digits, least })
    }

    /// The unit of a number.
    fn at(self, number: f64) -> f64 {
        // The exponent of a number of f64 that is not subnormal, which no smaller type's are.
        let exponent = ((number.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        let unit = (exponent - self.digits).max(self.least);
        if unit < -1022 { 0.0 } else { f64::from_bits(((unit + 1023) as u64) << 52) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_the_type() {
        for (dtype, number, expected) in [
            (DType::Bf16, 1.0, 1.0 / 128.0),
            (DType::Bf16, -1.99, 1.0 / 128.0),
            (DType::Bf16, 0.02, 2f64.powi(-13)),
            (DType::F16, 2.0, 2f64.powi(-9)),
            (DType::F16, 0.0, 2f64.powi(-24)),
            (DType::F32, 1.0, 2f64.powi(-23)),
            (DType::F64, 1.0, f64::EPSILON),
        ] {
            let units = Units::of(dtype).unwrap();
            assert_eq!(units.at(number), expected, "{dtype:?} {number}");
        }
        assert!(Units::of(DType::I32).is_none());
    }
}
