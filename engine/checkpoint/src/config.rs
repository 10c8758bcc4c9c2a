//! The configuration of a merged checkpoint.
