//! Draws diagnostics as text or as JSON.
