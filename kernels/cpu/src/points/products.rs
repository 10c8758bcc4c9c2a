//! Products of codes: of a block of points with a group of queries.

use crate::Features;
use crate::features::Kernel;

/// Points side by side.
pub(super) const LANES: usize = 16;

/// Points of a block.
pub(super) const BLOCK: usize = 4 * LANES;

/// Queries that go over a block together: as many sums as there are registers, but for what is read.
pub(super) const GROUP: usize = 6;

/// The products of each query of a group with each point of a block.
pub(super) struct Tile(pub [[i32; BLOCK]; GROUP]);

impl Default for Tile {
    fn default() -> Self {
        Self([[0; BLOCK]; GROUP])
    }
}

/// Four columns of each query of a group.
pub(super) type Fours = [i32; GROUP];

/// Bytes of four columns of a block.
const BYTES: usize = 4 * BLOCK;

/// The products: codes of points are from 0 to 255, those of queries from −127 to 127, four in each number. Sums of
/// up to 60,000 columns fit. `points` has four columns of all points of a block after another.
pub(super) fn products(features: Features, points: &[u8], queries: &[Fours], tile: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    if features.has_avx512() && is_x86_feature_detected!("avx512vnni") {
        // SAFETY: the processor has what the function enables: `features` says so of all but VNNI.
        return unsafe { vnni::products(points, queries, tile) };
    }
    features.run(Plain { points, queries, tile });
}

/// The same without instructions of their own.
struct Plain<'a> {
    points: &'a [u8],
    queries: &'a [Fours],
    tile: &'a mut Tile,
}

impl Kernel for Plain<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { points, queries, tile } = self;
        for part in 0..BLOCK / LANES {
            for (number, out) in tile.0.iter_mut().enumerate() {
                let mut sums = [0_i32; LANES];
                for (points, fours) in points.as_chunks::<BYTES>().0.iter().zip(queries) {
                    let points = &points[part * 4 * LANES..(part + 1) * 4 * LANES];
                    let four = fours[number].to_le_bytes();
                    let four = four.map(|byte| i32::from(byte.cast_signed()));
                    for (sum, point) in sums.iter_mut().zip(points.as_chunks::<4>().0) {
                        *sum += i32::from(point[0]) * four[0]
                            + i32::from(point[1]) * four[1]
                            + i32::from(point[2]) * four[2]
                            + i32::from(point[3]) * four[3];
                    }
                }
                out[part * LANES..(part + 1) * LANES].copy_from_slice(&sums);
            }
        }
    }
}

/// With the instruction that multiplies and adds four codes at once, which the compiler makes of no loop.
#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::{
        _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512,
        _mm512_storeu_si512,
    };

    use super::{BLOCK, BYTES, Fours, GROUP, LANES, Tile};

    const PARTS: usize = BLOCK / LANES;

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn products(points: &[u8], queries: &[Fours], tile: &mut Tile) {
        let mut sums = [[_mm512_setzero_si512(); PARTS]; GROUP];
        for (points, fours) in points.as_chunks::<BYTES>().0.iter().zip(queries) {
            let points = points.as_chunks::<{ 4 * LANES }>().0;
            let mut codes = [_mm512_setzero_si512(); PARTS];
            for (codes, points) in codes.iter_mut().zip(points) {
                // SAFETY: `points` are 64 bytes.
                *codes = unsafe { _mm512_loadu_si512(points.as_ptr().cast()) };
            }
            for (&four, sums) in fours.iter().zip(&mut sums) {
                let four = _mm512_set1_epi32(four);
                for (sum, codes) in sums.iter_mut().zip(codes) {
                    *sum = _mm512_dpbusd_epi32(*sum, codes, four);
                }
            }
        }
        for (out, sums) in tile.0.iter_mut().zip(sums) {
            for (out, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
                // SAFETY: `out` has 16 numbers of 32 bits.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
            }
        }
    }
}
