//! The arithmetic that lets one formula serve f32 and f64.

/// f32 or f64.
pub trait Real {}
