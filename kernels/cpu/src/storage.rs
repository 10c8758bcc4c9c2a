//! The four types of number that checkpoints store, as loops see them.

use mixdown_ops::Real;
use mixdown_tensor::{DType, convert};

/// A float as stored: a few bytes, little-endian, anywhere in memory.
pub(crate) trait Storage {
    /// The bytes of one.
    type Bytes: Copy;
    /// Those of 0.
    const ZERO: Self::Bytes;

    /// Cuts bytes into numbers.
    fn numbers(bytes: &[u8]) -> &[Self::Bytes];
    /// Cuts bytes into numbers.
    fn numbers_mut(bytes: &mut [u8]) -> &mut [Self::Bytes];
    /// Widens; where the precision is less than the storage's, rounds.
    fn widen<R: Real>(bytes: Self::Bytes) -> R;
    /// Rounds once; all NaN become one.
    fn narrow<R: Narrow>(value: R) -> Self::Bytes;
}

/// Roundings that each precision has of its own.
pub(crate) trait Narrow: Real {
    fn to_bf16(self) -> u16;
    fn to_f16(self) -> u16;
    fn to_f32(self) -> f32;
    fn to_canonical_f64(self) -> f64;
}

impl Narrow for f32 {
    #[inline(always)]
    fn to_bf16(self) -> u16 {
        convert::f32_to_bf16(self)
    }
    #[inline(always)]
    fn to_f16(self) -> u16 {
        convert::f32_to_f16(self)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        convert::canonical_f32(self)
    }
    #[inline(always)]
    fn to_canonical_f64(self) -> f64 {
        convert::canonical_f64(self.into())
    }
}

impl Narrow for f64 {
    #[inline(always)]
    fn to_bf16(self) -> u16 {
        convert::f64_to_bf16(self)
    }
    #[inline(always)]
    fn to_f16(self) -> u16 {
        convert::f64_to_f16(self)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        convert::f64_to_f32(self)
    }
    #[inline(always)]
    fn to_canonical_f64(self) -> f64 {
        convert::canonical_f64(self)
    }
}

macro_rules! storage {
    ($name:ident, $bits:ident, $widen:expr, $narrow:ident) => {
        pub(crate) struct $name;

        impl Storage for $name {
            type Bytes = [u8; size_of::<$bits>()];
            const ZERO: Self::Bytes = [0; size_of::<$bits>()];

            #[inline(always)]
            fn numbers(bytes: &[u8]) -> &[Self::Bytes] {
                bytes.as_chunks().0
            }
            #[inline(always)]
            fn numbers_mut(bytes: &mut [u8]) -> &mut [Self::Bytes] {
                bytes.as_chunks_mut().0
            }
            #[inline(always)]
            fn widen<R: Real>(bytes: Self::Bytes) -> R {
                $widen($bits::from_le_bytes(bytes))
            }
            #[inline(always)]
            fn narrow<R: Narrow>(value: R) -> Self::Bytes {
                value.$narrow().to_le_bytes()
            }
        }
    };
}

storage!(Bf16, u16, |bits| R::from_f32(convert::bf16_to_f32(bits)), to_bf16);
storage!(F16, u16, |bits| R::from_f32(convert::f16_to_f32(bits)), to_f16);
storage!(F32, f32, R::from_f32, to_f32);
storage!(F64, f64, R::from_f64, to_canonical_f64);

/// What needs the storage type at compile time.
pub(crate) trait WithStorage {
    type Output;
    fn with<S: Storage>(self) -> Self::Output;
}

/// Runs it with the storage of a dtype.
pub(crate) fn with_storage<W: WithStorage>(dtype: DType, what: W) -> W::Output {
    match dtype {
        DType::Bf16 => what.with::<Bf16>(),
        DType::F16 => what.with::<F16>(),
        DType::F32 => what.with::<F32>(),
        DType::F64 => what.with::<F64>(),
        other => unreachable!("{other} takes no part in arithmetic"),
    }
}
