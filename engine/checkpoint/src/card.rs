//! The model card that is written beside a merged checkpoint.
