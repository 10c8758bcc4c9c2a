//! Files and folders in places that others may write to as well.
//!
//! What is read is a plain file of bounded size, so that a pipe is not waited for and a device does not fill
//! the memory. What is written appears whole, and under a name that nobody could foresee until then. What is
//! kept from one run to the next lies in a folder of the user's own.

mod fresh;
mod own;
mod read;
pub mod stored;

pub use fresh::{Fresh, unforeseen};
pub use own::{NotOwn, check_own, own_file};
pub use read::{open_regular, read_given, read_limited, refuse_special, retried};
