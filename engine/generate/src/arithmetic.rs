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

/// A row less its mean, over its standard deviation, times a weight for each element, plus a bias.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    let count = x.len() as f32;
    let mean = dot(x, &vec![1.0; x.len()]) / count;
    let centered: Vec<f32> = x.iter().map(|x| x - mean).collect();
    let scale = 1.0 / (dot(&centered, &centered) / count + epsilon).sqrt();
    let normed = centered.iter().map(|x| x * scale);
    normed.zip(weight).zip(bias).map(|((x, weight), bias)| x * weight + bias).collect()
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

/// Functions between the two layers of a plain feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · Φ(x)`, with the normal distribution's Φ.
    Gelu,
    /// The same by a hyperbolic tangent: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    GeluTanh,
    /// The larger of x and 0.
    Relu,
}

/// The words for these in configs.
pub const ACTIVATIONS: [(&str, Activation); 5] = [
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu", Activation::Gelu),
    ("relu", Activation::Relu),
];

impl Activation {
    /// Its value.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => {
                // √(2/π)
                let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + libm::tanhf(inner))
            }
            Self::Relu => x.max(0.0),
        }
    }
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

    /// By hand: (1, 3, 5, 7) has the mean 4 and the variance 5.
    #[test]
    fn rows_are_centered_and_scaled() {
        let found =
            layer_norm(&[1.0, 3.0, 5.0, 7.0], &[1.0, 1.0, 2.0, 1.0], &[0.0, 0.0, 0.0, 9.0], 0.0);
        let unit = 1.0 / 5.0_f32.sqrt();
        for (found, expected) in
            found.iter().zip([-3.0 * unit, -unit, 2.0 * unit, 9.0 + 3.0 * unit])
        {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    /// Φ(1) = 0.841345 from tables; the tangent's value there is 0.841192.
    #[test]
    fn activations_have_their_values() {
        let near = |activation: Activation, x: f32, expected: f32| {
            let found = activation.apply(x);
            assert!((found - expected).abs() < 1e-6, "{activation:?} {x}: {found}");
        };
        near(Activation::Gelu, 1.0, 0.841_344_7);
        near(Activation::Gelu, -1.0, -0.158_655_3);
        near(Activation::GeluTanh, 1.0, 0.841_192);
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            assert_eq!((activation.apply(0.0), activation.apply(9.0)), (0.0, 9.0));
            near(activation, -9.0, 0.0);
        }
    }
}
