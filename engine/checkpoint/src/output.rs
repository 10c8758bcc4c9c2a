//! The output folder, which appears under its name only when it is complete.
