//! Models that are named by hub id rather than by path.
