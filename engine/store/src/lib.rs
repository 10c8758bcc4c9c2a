//! A folder of results that cost more to compute than to read, each under the digest of what it was
//! made from.
//!
//! The store is a convenience: whatever happens to it, a caller computes again and goes on. An entry
//! that is damaged is noticed when it is read, removed, and absent from then on.
//!
//! ```text
//! FOLDER/
//!   CACHEDIR.TAG                      tells backup programs to pass by
//!   v1/                               the format's version: another one never looks in here
//!     3f/
//!       3f0a….entry                   one entry, named by its key
//!       3f0a….1a2b3c4d5e6f7081.tmp      an entry that is being written, or what a crash left of it
//! ```
//!
//! Any number of processes may use one folder. An entry appears under its name when all of it is
//! stored, and never changes afterwards. Readers hold a shared lock on it and writers an exclusive
//! one on what they write, so that [`Store::prune`] knows what is in use.
//!
//! The bytes of an entry are described in [`entry`].

mod disk;
pub mod entry;
mod error;
mod key;
mod list;
mod prune;
mod read;
mod store;
#[cfg(test)]
mod tests;
mod write;

pub use disk::{Access, Gate};
pub use entry::{Array, ArrayHeader, Data, Entry, EntryInfo, Header, HeaderFault};
pub use error::{Damage, Fault, ReadError, SystemError, WriteError};
pub use key::{Key, NotAKey};
pub use list::{Held, Listed};
pub use prune::{PruneOptions, Pruned};
pub use read::OpenEntry;
pub use store::Store;
pub use write::EntryWriter;
