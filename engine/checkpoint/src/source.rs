//! Positioned reads from files and memory.
