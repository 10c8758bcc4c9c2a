//! Content digests of input files, remembered so that each file is read once.
