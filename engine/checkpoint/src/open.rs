//! Opens a checkpoint, whatever its layout.
