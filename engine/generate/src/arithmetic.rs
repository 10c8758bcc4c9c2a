//! Sums and functions in f32, each in one order that nothing changes: not the instruction set, not the
//! number of threads, not the number of positions that are computed together.

/// Partial sums of a dot product. They fill vector registers of each width, and are part of what a
/// result is: another number of them gives other last bits.
const LANES: usize = 16;

/// A stored number.
pub trait Element: Copy + Send + Sync {
    /// Its value. Exact.
    fn widen(self) -> f32;
}

impl Element for f32 {
    fn widen(self) -> f32 {
        self
    }
}

/// A bf16 number, by its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bf16(pub u16);

impl Element for Bf16 {
    fn widen(self) -> f32 {
        mixdown_tensor::convert::bf16_to_f32(self.0)
    }
}

/// The dot product of two rows of equal length.
///
/// **Numerics.** Element `i` goes to partial sum `i` modulo 16, in the order of `i`; then halves of the
/// partial sums are added to each other. Products and sums are rounded apart from each other.
pub fn dot<E: Element>(row: &[E], x: &[f32]) -> f32 {
    debug_assert_eq!(row.len(), x.len());
    let mut sums = [0.0_f32; LANES];
    let (row_blocks, row_rest) = row.as_chunks::<LANES>();
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    for (a, b) in row_blocks.iter().zip(x_blocks) {
        for lane in 0..LANES {
            sums[lane] += a[lane].widen() * b[lane];
        }
    }
    for (lane, (a, b)) in row_rest.iter().zip(x_rest).enumerate() {
        sums[lane] += a.widen() * b;
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}

/// A row over its root mean square, times a weight for each element.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let mean = dot(x, x) / x.len() as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    x.iter().zip(weight).map(|(x, weight)| weight * (x * scale)).collect()
}

/// Makes scores to weights that add up to 1.
pub fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = libm::expf(*score - largest);
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}

/// `x · sigmoid(x)`.
pub fn silu(x: f32) -> f32 {
    x / (1.0 + libm::expf(-x))
}

/// The position of the largest number, the first of several; none if one is NaN or there are none.
pub fn position_of_largest(numbers: &[f32]) -> Option<usize> {
    let mut largest = 0;
    for (position, &number) in numbers.iter().enumerate() {
        if number.is_nan() {
            return None;
        }
        if number > numbers[largest] {
            largest = position;
        }
    }
    (!numbers.is_empty()).then_some(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2²⁴ + 1 is no f32: whether the 1 survives tells the order of the sum.
    #[test]
    fn sums_have_the_order_that_is_promised() {
        let big = 16_777_216.0;
        let mut row = vec![0.0; 33];
        (row[0], row[16], row[32]) = (big, 1.0, 1.0);
        let ones = vec![1.0; 33];
        assert_eq!(dot(&row, &ones), big, "each 1 is lost in the lane of the large number");
        (row[16], row[32], row[1], row[17]) = (0.0, 0.0, 1.0, 1.0);
        assert_eq!(dot(&row, &ones), big + 2.0, "another lane gathers both first");
    }

    #[test]
    fn every_length_is_summed_to_its_end() {
        for length in [0, 1, 15, 16, 17, 31, 32, 50] {
            let row: Vec<f32> = (1..=length).map(|n| n as f32).collect();
            let expected = (1..=length).map(|n| n * n).sum::<i32>() as f32;
            assert_eq!(dot(&row, &row), expected, "{length}");
            let halves: Vec<Bf16> =
                row.iter().map(|&x| Bf16(mixdown_tensor::convert::f32_to_bf16(x))).collect();
            assert_eq!(dot(&halves, &row), expected, "{length}");
        }
    }

    #[test]
    fn of_equal_numbers_the_first_is_largest() {
        assert_eq!(position_of_largest(&[1.0, 3.0, 3.0, -0.0]), Some(1));
        assert_eq!(position_of_largest(&[-0.0, 0.0]), Some(0));
        assert_eq!(position_of_largest(&[f32::NEG_INFINITY; 2]), Some(0));
        assert_eq!(position_of_largest(&[1.0, f32::NAN]), None);
        assert_eq!(position_of_largest(&[]), None);
    }

    #[test]
    fn weights_of_scores_add_up() {
        let mut scores = [1000.0, 1000.0, f32::NEG_INFINITY, 1000.0 - 80.0];
        softmax(&mut scores);
        assert_eq!(scores[..3], [0.5, 0.5, 0.0]);
        assert!(silu(-100.0).abs() < 1e-30 && silu(100.0) == 100.0 && silu(0.0) == 0.0);
    }
}
