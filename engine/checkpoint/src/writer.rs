//! Writes tensors at their final place in the shards.
