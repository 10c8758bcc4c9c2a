//! Where each tensor of an output goes, before any of them is known.
