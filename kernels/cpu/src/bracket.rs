//! The bracket round on f32 for AVX-512, which compacts keys in registers: the compiler makes no such
//! code of a loop, and this loop reads every element of every expert.

use std::arch::x86_64::{
    __mmask16, _mm512_and_si512, _mm512_cmpge_epu32_mask, _mm512_cmpgt_epu32_mask,
    _mm512_mask_add_epi32, _mm512_maskz_compress_epi32, _mm512_maskz_loadu_epi32, _mm512_min_epu32,
    _mm512_reduce_add_epi32, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
};

use crate::select::Counts;

/// Numbers of 32 bits in a vector.
pub(crate) const LANES: usize = 16;

/// Counts the keys of `from` around two bounds. With room in `staged`, puts those strictly between
/// them there, in order, and yields how many.
///
/// `staged` is empty, or longer than `from` by [`LANES`]: keys are written a vector at a time.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
pub(crate) fn bracket(
    from: &[f32],
    low: u32,
    high: u32,
    staged: &mut [u32],
    counts: &mut Counts,
) -> usize {
    assert!(staged.is_empty() || staged.len() >= from.len() + LANES, "keys are staged with room");
    let (low, high) = (_mm512_set1_epi32(low.cast_signed()), _mm512_set1_epi32(high.cast_signed()));
    let magnitude = _mm512_set1_epi32(i32::MAX);
    // The key of every NaN, as `Real::key` has it.
    let nan = _mm512_set1_epi32(f32::INFINITY.to_bits().cast_signed() + 1);
    let one = _mm512_set1_epi32(1);
    let mut above = _mm512_setzero_si512();
    let (mut from_high, mut above_low, mut from_low) = (above, above, above);
    let mut kept = 0;
    for sixteen in from.chunks(LANES) {
        let present: __mmask16 = if sixteen.len() == LANES { !0 } else { (1 << sixteen.len()) - 1 };
        // SAFETY: only the lanes of `present` are read, and `sixteen` has as many elements.
        let bits = unsafe { _mm512_maskz_loadu_epi32(present, sixteen.as_ptr().cast()) };
        let key = _mm512_min_epu32(_mm512_and_si512(bits, magnitude), nan);
        let is_above = _mm512_cmpgt_epu32_mask(key, high) & present;
        let is_from_high = _mm512_cmpge_epu32_mask(key, high) & present;
        let is_above_low = _mm512_cmpgt_epu32_mask(key, low) & present;
        let is_from_low = _mm512_cmpge_epu32_mask(key, low) & present;
        above = _mm512_mask_add_epi32(above, is_above, above, one);
        from_high = _mm512_mask_add_epi32(from_high, is_from_high, from_high, one);
        above_low = _mm512_mask_add_epi32(above_low, is_above_low, above_low, one);
        from_low = _mm512_mask_add_epi32(from_low, is_from_low, from_low, one);
        if !staged.is_empty() {
            let is_inside = is_above_low & !is_from_high;
            let inside = _mm512_maskz_compress_epi32(is_inside, key);
            // SAFETY: `kept` counts elements before `sixteen`, so a vector from there on ends within
            // `from.len() + LANES`, which `staged` has.
            unsafe { _mm512_storeu_si512(staged.as_mut_ptr().add(kept).cast(), inside) };
            kept += is_inside.count_ones() as usize;
        }
    }
    let sum = |lanes| u64::from(_mm512_reduce_add_epi32(lanes).cast_unsigned());
    counts.add([sum(above), sum(from_high), sum(above_low), sum(from_low)]);
    kept
}
