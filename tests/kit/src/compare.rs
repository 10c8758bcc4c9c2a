//! Comparison of tensors within a stated bound, with a text that says where they part.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mixdown_tensor::DType;

use crate::tensor::Tensor;

/// How far two tensors of the same name, shape and type may differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// The same bytes.
    SameBits,
    /// No element further off than this, times the expected tensor's largest magnitude.
    RelativeToLargest(f64),
    /// Every element the same or the neighbor in its storage type: one rounding fell the other way.
    OneRounding,
}

impl Tolerance {
    /// A few roundings of f32, relative to the largest magnitude: agreement with a merge computed in
    /// f32 in another order. In 16 bits, one rounding.
    pub fn of_f32_merge(dtype: DType) -> Self {
        match dtype {
            DType::F64 | DType::F32 => Self::RelativeToLargest(4e-6),
            DType::F16 | DType::Bf16 => Self::OneRounding,
            _ => Self::SameBits,
        }
    }
}

/// Compares two tensors; the text says what differs, with the worst element.
pub fn compare_tensors(
    expected: &Tensor,
    actual: &Tensor,
    tolerance: Tolerance,
) -> Result<(), String> {
    if (expected.dtype, &expected.shape) != (actual.dtype, &actual.shape) {
        return Err(format!(
            "`{}`: expected {:?} {}, found {:?} {}",
            expected.name, expected.shape, expected.dtype, actual.shape, actual.dtype
        ));
    }
    if expected.data == actual.data {
        return Ok(());
    }
    let (expected_values, actual_values) = (expected.values(), actual.values());
    let largest = expected.largest_magnitude();
    let far = |index: usize| match tolerance {
        Tolerance::SameBits => true,
        Tolerance::RelativeToLargest(bound) => {
            let (expected, actual) = (expected_values[index], actual_values[index]);
            // NaN on one side is far: its distance is NaN, which is within no bound.
            let near = (expected - actual).abs() <= bound * largest;
            let both_nan = expected.is_nan() && actual.is_nan();
            !(near || both_nan)
        }
        Tolerance::OneRounding => {
            let order = |value| order_in(value, expected.dtype);
            order(expected_values[index]).abs_diff(order(actual_values[index])) > 1
        }
    };
    let size = expected.dtype.bytes();
    let differing: Vec<usize> = (0..expected_values.len())
        .filter(|&index| {
            let bytes = index * size..(index + 1) * size;
            expected.data[bytes.clone()] != actual.data[bytes] && far(index)
        })
        .collect();
    let distance = |index: usize| (expected_values[index] - actual_values[index]).abs();
    let Some(&worst) = differing.iter().max_by(|a, b| distance(**a).total_cmp(&distance(**b)))
    else {
        return Ok(());
    };
    Err(format!(
        "`{}`: {} of {} elements differ ({tolerance:?}); the worst, element {worst}: \
         expected {:e}, found {:e}, apart {:e}, which is {:e} of the largest magnitude {:e}",
        expected.name,
        differing.len(),
        expected_values.len(),
        expected_values[worst],
        actual_values[worst],
        distance(worst),
        distance(worst) / largest,
        largest,
    ))
}

/// Panics with all differences between two sets of tensors.
pub fn assert_same_tensors(
    what: &str,
    expected: &BTreeMap<String, Tensor>,
    actual: &BTreeMap<String, Tensor>,
    tolerance: impl Fn(&Tensor) -> Tolerance,
) {
    let mut differences = String::new();
    for name in expected.keys().filter(|name| !actual.contains_key(*name)) {
        writeln!(differences, "`{name}` is missing").expect("text can grow");
    }
    for name in actual.keys().filter(|name| !expected.contains_key(*name)) {
        writeln!(differences, "`{name}` was not expected").expect("text can grow");
    }
    for (name, tensor) in expected {
        if let Some(found) = actual.get(name)
            && let Err(text) = compare_tensors(tensor, found, tolerance(tensor))
        {
            writeln!(differences, "{text}").expect("text can grow");
        }
    }
    assert!(differences.is_empty(), "{what}:\n{differences}");
}

/// The position of a value among all values of a storage type, so that neighbors differ by one.
fn order_in(value: f64, dtype: DType) -> i64 {
    let mut bytes = Vec::with_capacity(8);
    crate::tensor::encode(value, dtype, &mut bytes);
    let bits = bytes.iter().rev().fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte));
    let sign = 1_u64 << (8 * dtype.bytes() - 1);
    // Zero and minus zero share a place.
    if bits & sign == 0 { bits as i64 } else { -((bits ^ sign) as i64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DType, values: &[f64]) -> Tensor {
        Tensor::new("x", dtype, &[values.len() as u64], values)
    }

    #[test]
    fn a_bound_is_relative_to_the_largest_magnitude() {
        let expected = tensor(DType::F32, &[100.0, 0.0]);
        let near = tensor(DType::F32, &[100.0, 0.9e-4]);
        let far = tensor(DType::F32, &[100.0, 1.1e-4]);
        let bound = Tolerance::RelativeToLargest(1e-6);
        assert_eq!(compare_tensors(&expected, &near, bound), Ok(()));
        assert!(compare_tensors(&expected, &far, bound).unwrap_err().contains("element 1"));
    }

    #[test]
    fn nan_is_never_near() {
        let expected = tensor(DType::F32, &[1.0, 2.0]);
        let actual = tensor(DType::F32, &[1.0, f64::NAN]);
        assert!(
            compare_tensors(&expected, &actual, Tolerance::RelativeToLargest(1.0)).is_err(),
            "a comparison written the other way round lets NaN through"
        );
    }

    #[test]
    fn neighbors_in_16_bits_are_one_rounding_apart() {
        let expected = tensor(DType::Bf16, &[1.0, -1.0, 0.0]);
        let next = tensor(DType::Bf16, &[1.0078125, -0.99609375, -0.0]);
        let second = tensor(DType::Bf16, &[1.015625, -1.0, 0.0]);
        assert_eq!(compare_tensors(&expected, &next, Tolerance::OneRounding), Ok(()));
        assert!(compare_tensors(&expected, &second, Tolerance::OneRounding).is_err());
        assert!(compare_tensors(&expected, &next, Tolerance::SameBits).is_err());
    }

    #[test]
    fn types_and_shapes_are_compared_first() {
        let expected = tensor(DType::F32, &[1.0]);
        let text = compare_tensors(&expected, &tensor(DType::F16, &[1.0]), Tolerance::SameBits);
        assert_eq!(text.unwrap_err(), "`x`: expected [1] f32, found [1] f16");
    }
}
