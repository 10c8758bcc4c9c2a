//! Scalar conversions among bf16, f16, f32 and f64: the reference for all vector code.
