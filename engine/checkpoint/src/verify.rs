//! Proves an output against its manifest.
