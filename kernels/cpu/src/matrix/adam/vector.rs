//! Vector registers of each instruction set, and running a loop with the best shape of tile for it.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as x86;

use crate::features::Features;

/// A vector register of single precision numbers. Each operation rounds once.
pub(super) trait Vector: Copy {
    /// Numbers in one.
    const LANES: usize;

    fn splat(value: f32) -> Self;
    /// The first lanes of a slice that has as many.
    fn load(from: &[f32]) -> Self;
    fn store(self, to: &mut [f32]);
    fn add(self, other: Self) -> Self;
    fn subtract(self, other: Self) -> Self;
    fn multiply(self, other: Self) -> Self;
    fn divide(self, other: Self) -> Self;
    fn square_root(self) -> Self;
    /// `self · factor + addend`, rounded once where the machine can.
    fn multiply_add(self, factor: Self, addend: Self) -> Self;

    /// Asks for a cache line ahead of its use. It need not be there.
    fn prefetch(from: *const f32);
}

/// A loop over tiles of `ROWS × COLUMNS` numbers, whose rows are two vectors each.
///
/// `run` and all that it calls per tile must be `#[inline(always)]`: what is not inlined is compiled
/// for the baseline.
pub(super) trait TileLoop {
    fn run<V: Vector, const ROWS: usize, const COLUMNS: usize>(self);
}

/// Instruction sets that have a shape of tile of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instructions {
    /// What every machine of this architecture has.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Detected),
    #[cfg(target_arch = "x86_64")]
    Avx512(Detected),
}

/// Proof that the processor was asked: only [`Instructions::of`] makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Detected(());

impl Instructions {
    /// Those among `features` that have a loop here.
    pub(super) fn of(features: Features) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let detected = Detected(());
            if features.has_avx512() && is_x86_feature_detected!("fma") {
                return Self::Avx512(detected);
            }
            // Any set but the baseline has AVX2. FMA came with it in every processor to date, but is
            // a feature of its own.
            if features.name() != "baseline" && is_x86_feature_detected!("fma") {
                return Self::Avx2(detected);
            }
        }
        _ = features;
        Self::Portable
    }

    /// Rows and columns of a tile: as many as leave two registers for a row of the packed matrix and
    /// one for a number of the block.
    pub(super) fn tile(self) -> (usize, usize) {
        match self {
            Self::Portable => (4, 8),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => (6, 16),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => (12, 32),
        }
    }

    /// Runs the loop, as compiled for these instructions.
    pub(super) fn run<L: TileLoop>(self, tiles: L) {
        match self {
            Self::Portable => tiles.run::<[f32; 4], 4, 8>(),
            // SAFETY: `Detected` says that `of` found each feature that the function enables.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(Detected(())) => unsafe { avx2(tiles) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(Detected(())) => unsafe { avx512(tiles) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<L: TileLoop>(tiles: L) {
    tiles.run::<Avx2, 6, 16>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<L: TileLoop>(tiles: L) {
    tiles.run::<Avx512, 12, 32>();
}

impl Vector for [f32; 4] {
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; 4]
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        [from[0], from[1], from[2], from[3]]
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..4].copy_from_slice(&self);
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }

    #[inline(always)]
    fn subtract(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] - other[lane])
    }

    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] * other[lane])
    }

    #[inline(always)]
    fn divide(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] / other[lane])
    }

    #[inline(always)]
    fn square_root(self) -> Self {
        self.map(f32::sqrt)
    }

    #[inline(always)]
    fn multiply_add(self, factor: Self, addend: Self) -> Self {
        // Without an instruction for it, a fused operation is a function call.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            std::array::from_fn(|lane| self[lane].mul_add(factor[lane], addend[lane]))
        } else {
            std::array::from_fn(|lane| self[lane] * factor[lane] + addend[lane])
        }
    }

    #[inline(always)]
    fn prefetch(_: *const f32) {}
}

/// Implements [`Vector`] by the intrinsics of an x86 register.
///
/// SAFETY, of all calls below: the type is private to this file, and only named in a function that
/// enables the features of its intrinsics, into which these methods are inlined; `load` and `store`
/// slice what they touch.
#[cfg(target_arch = "x86_64")]
macro_rules! x86_vector {
    ($name:ident($register:ident), $lanes:literal, $splat:ident, $load:ident, $store:ident,
     $add:ident, $subtract:ident, $multiply:ident, $divide:ident, $root:ident, $fused:ident) => {
        #[derive(Clone, Copy)]
        struct $name(x86::$register);

        impl Vector for $name {
            const LANES: usize = $lanes;

            #[inline(always)]
            fn splat(value: f32) -> Self {
                // SAFETY: see the macro.
                Self(unsafe { x86::$splat(value) })
            }

            #[inline(always)]
            fn load(from: &[f32]) -> Self {
                // SAFETY: see the macro.
                Self(unsafe { x86::$load(from[..$lanes].as_ptr()) })
            }

            #[inline(always)]
            fn store(self, to: &mut [f32]) {
                // SAFETY: see the macro.
                unsafe { x86::$store(to[..$lanes].as_mut_ptr(), self.0) }
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: see the macro.
                Self(unsafe { x86::$add(self.0, other.0) })
            }

            #[inline(always)]
            fn subtract(self, other: Self) -> Self {
                // SAFETY: see the macro.
                Self(unsafe { x86::$subtract(self.0, other.0) })
            }

            #[inline(always)]
            fn multiply(self, other: Self) -> Self {
                // SAFETY: see the macro.
                Self(unsafe { x86::$multiply(self.0, other.0) })
            }

            #[inline(always)]
            fn divide(self, other: Self) -> Self {
                // SAFETY: see the macro.
                Self(unsafe { x86::$divide(self.0, other.0) })
            }

            #[inline(always)]
            fn square_root(self) -> Self {
                // SAFETY: see the macro.
                Self(unsafe { x86::$root(self.0) })
            }

            #[inline(always)]
            fn multiply_add(self, factor: Self, addend: Self) -> Self {
                // SAFETY: see the macro.
                Self(unsafe { x86::$fused(self.0, factor.0, addend.0) })
            }

            #[inline(always)]
            fn prefetch(from: *const f32) {
                // SAFETY: see the macro; this is a hint and reads nothing.
                unsafe { x86::_mm_prefetch::<{ x86::_MM_HINT_T0 }>(from.cast()) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86_vector!(
    Avx2(__m256),
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_div_ps,
    _mm256_sqrt_ps,
    _mm256_fmadd_ps
);

#[cfg(target_arch = "x86_64")]
x86_vector!(
    Avx512(__m512),
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_div_ps,
    _mm512_sqrt_ps,
    _mm512_fmadd_ps
);
