//! Counter-based random numbers: each is a function of seed, op, tensor, expert and element, and of
//! nothing else, so that threads, budget and order cannot change them.
//!
//! A stream is a key of 64 bits. Its number at an index is the index passed through a bijection of 32
//! bits in three rounds that lets each input bit flip each output bit with a chance near one half; one
//! half of the key goes in before the first round, the other before the second. Only 32-bit
//! multiplications are needed, which all vector units have.
//!
//! **Source.** Multipliers and shifts of the bijections: C. Wellons' search for low-bias 32-bit hashes
//! (`triple32`, `lowbias32`); those of the 64-bit one: Steele, Lea and Flood 2014 (SplitMix).

/// One stream of random numbers, within 2³² indices that share their upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    first: u32,
    second: u32,
}

impl Stream {
    /// The part of the stream of `key` in which `index >> 32` is `upper`.
    #[inline]
    pub fn new(key: u64, upper: u32) -> Self {
        let first = key as u32;
        let second = (key >> 32) as u32;
        // Both halves move, or two parts of a stream would be permutations of each other.
        Self { first: first.wrapping_add(mix32(upper)), second: second ^ mix32(!upper) }
    }

    /// 32 random bits for the element whose index has this lower half.
    #[inline(always)]
    pub fn bits(self, lower: u32) -> u32 {
        let mut x = lower ^ self.first;
        x = (x ^ (x >> 17)).wrapping_mul(0xed5a_d4bb);
        x = (x ^ (x >> 11)).wrapping_add(self.second).wrapping_mul(0xac4c_1b51);
        x = (x ^ (x >> 15)).wrapping_mul(0x3184_8bab);
        x ^ (x >> 14)
    }
}

/// 32 uniform bits for the element at `index` in the stream of `key`.
#[inline]
pub fn uniform_bits(key: u64, index: u64) -> u32 {
    Stream::new(key, (index >> 32) as u32).bits(index as u32)
}

/// An element is kept if its [`uniform_bits`] are below this: the nearest whole multiple of 2⁻³² to
/// `density`. 0 keeps none, 2³² all; a NaN keeps none.
pub fn keep_below(density: f64) -> u64 {
    (density.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64
}

/// Whether a number is a probability, but for what f32 rounds.
#[inline]
pub fn is_probability(density: f64) -> bool {
    (-1e-6..=1.0 + 1e-6).contains(&density)
}

/// The key of the stream that `op` uses on `tensor` of `expert`.
pub fn stream_key(seed: u64, op: &str, tensor: &str, expert: u64) -> u64 {
    let mut key = mix64(seed.wrapping_add(GOLDEN));
    for text in [op, tensor] {
        // The length ends each text, so that neighbors cannot trade letters.
        for eight in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..eight.len()].copy_from_slice(eight);
            key = absorb(key, u64::from_le_bytes(word));
        }
        key = absorb(key, text.len() as u64);
    }
    absorb(key, expert)
}

/// 2⁶⁴ divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn absorb(key: u64, word: u64) -> u64 {
    mix64((key ^ word).wrapping_add(GOLDEN))
}

fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[inline(always)]
fn mix32(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: u64 = 1 << 17;

    fn key(expert: u64) -> u64 {
        stream_key(42, "drop_random", "model.layers.0.mlp.up_proj.weight", expert)
    }

    /// Uniform between −1 and 1, with variance 1/3.
    fn centered(key: u64, index: u64) -> f64 {
        f64::from(uniform_bits(key, index)) / 2_147_483_648.0 - 1.0
    }

    /// The correlation of two series in standard deviations of its own, under independence.
    fn correlation(series: impl Fn(u64) -> (f64, f64)) -> f64 {
        let sum: f64 = (0..COUNT).map(series).map(|(a, b)| a * b).sum();
        sum * 3.0 / (COUNT as f64).sqrt()
    }

    #[test]
    fn values_are_pinned() {
        // By a second implementation in Python. A change here changes every random merge.
        assert_eq!(stream_key(0, "", "", 0), 2391539541053276776);
        assert_eq!(stream_key(42, "drop_random", "model.norm.weight", 1), 11532892880125564065);
        let bits = [0, 1, 2, u64::from(u32::MAX), 1 << 32, u64::MAX];
        let expected = [2440726403, 631099163, 3612916018, 3748491982, 540160964, 3602000847];
        assert_eq!(bits.map(|index| uniform_bits(key(0), index)), expected);
    }

    #[test]
    fn each_part_of_a_key_matters() {
        let keys = [
            stream_key(0, "a", "bc", 0),
            stream_key(1, "a", "bc", 0),
            stream_key(0, "ab", "c", 0),
            stream_key(0, "a", "bc", 1),
            stream_key(0, "a", "bc\0", 0),
            stream_key(0, "", "abc", 0),
        ];
        for (position, key) in keys.iter().enumerate() {
            assert!(!keys[..position].contains(key));
        }
    }

    #[test]
    fn mean_and_variance_are_those_of_the_uniform() {
        for expert in 0..8 {
            let values = || (0..COUNT).map(|index| centered(key(expert), index));
            let mean: f64 = values().sum::<f64>() / COUNT as f64;
            let variance: f64 = values().map(|x| x * x).sum::<f64>() / COUNT as f64;
            let deviation = |square: f64| (square / COUNT as f64).sqrt();
            assert!(mean.abs() < 4.5 * deviation(1.0 / 3.0), "{expert}: {mean}");
            let off = (variance - 1.0 / 3.0).abs();
            assert!(off < 4.5 * deviation(4.0 / 45.0), "{expert}: {variance}");
        }
    }

    #[test]
    fn bytes_are_equally_likely() {
        for byte in 0..4 {
            let mut counts = [0_u32; 256];
            for index in 0..COUNT {
                counts[usize::from(uniform_bits(key(3), index).to_le_bytes()[byte])] += 1;
            }
            let expected = COUNT as f64 / 256.0;
            let deviation = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
            let chi_square: f64 = counts.iter().map(deviation).sum();
            // 255 degrees of freedom: mean 255, standard deviation 22.6.
            assert!((165.0..346.0).contains(&chi_square), "byte {byte}: {chi_square}");
        }
    }

    #[test]
    fn neighboring_indices_do_not_correlate() {
        for lag in [1, 2, 3, 7, 64, 896, 1024, 65_536, 1 << 32] {
            let z = correlation(|index| (centered(key(0), index), centered(key(0), index + lag)));
            assert!(z.abs() < 4.5, "lag {lag}: {z}");
        }
    }

    #[test]
    fn neighboring_streams_do_not_correlate() {
        let base = key(0);
        let others = [key(1), key(2), base ^ 1, base ^ (1 << 32), base + (1 << 32), base + 1];
        for (which, other) in others.into_iter().enumerate() {
            let z = correlation(|index| (centered(base, index), centered(other, index)));
            assert!(z.abs() < 4.5, "stream {which}: {z}");
        }
    }

    #[test]
    fn masks_have_their_density() {
        for density in [0.001, 0.1, 0.5, 0.9] {
            let below = keep_below(density);
            let kept = (0..COUNT).filter(|i| u64::from(uniform_bits(key(5), *i)) < below).count();
            let expected = density * COUNT as f64;
            let deviation = (expected * (1.0 - density)).sqrt();
            assert!((kept as f64 - expected).abs() < 4.5 * deviation, "{density}: {kept}");
        }
    }

    #[test]
    fn the_ends_of_the_density_are_exact() {
        assert_eq!(keep_below(0.0), 0);
        assert_eq!(keep_below(1.0), 1 << 32);
        assert_eq!(keep_below(0.5), 1 << 31);
        assert_eq!(keep_below(f64::NAN), 0);
        assert_eq!(keep_below(7.0), 1 << 32);
        assert!(
            is_probability(0.0) && is_probability(1.0) && is_probability(f64::from(0.7_f32 + 0.3))
        );
        assert!(!is_probability(-0.01) && !is_probability(1.01) && !is_probability(f64::NAN));
    }
}
