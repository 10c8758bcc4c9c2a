//! The formats that checkpoints come in.
