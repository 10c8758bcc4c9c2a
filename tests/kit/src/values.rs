//! Pseudo-random numbers that are the same on every machine: integers only until the last step.

/// A stream of pseudo-random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Values {
    state: u64,
}

impl Values {
    /// The stream of a seed and a name: each tensor has its own, so that leaving one out changes no other.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a, enough to tell names apart.
        let mut state = 0xcbf2_9ce4_8422_2325_u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in name.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self { state }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number near a normal distribution with mean 0 and variance 1: the centered sum of four
    /// 16-bit numbers. No logarithm or root, whose last bit differs between C libraries.
    pub fn normal(&mut self) -> f64 {
        let bits = self.bits();
        let sum: u64 = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum();
        // Four uniform numbers of variance 1/12 add up to 1/3, so the factor is the root of 3.
        (sum as f64 / 65536.0 - 2.0 + 2.0 / 65536.0) * 1.732_050_807_568_877_2
    }

    /// A number from 0 (inclusive) to 1 (exclusive).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_a_normal_distribution() {
        let mut values = Values::new(1, "x");
        let drawn: Vec<f64> = (0..100_000).map(|_| values.normal()).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let variance = drawn.iter().map(|v| v * v).sum::<f64>() / drawn.len() as f64;
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
    }

    #[test]
    fn streams_depend_on_seed_and_name_and_on_nothing_else() {
        let first = |seed, name| Values::new(seed, name).bits();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
    }
}
