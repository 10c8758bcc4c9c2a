//! What was merged, from which digests, by which version.
