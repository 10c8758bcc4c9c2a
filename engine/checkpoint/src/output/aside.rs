//! Results that a merge needs again before it ends: a file that has no name, and goes with the process.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use mixdown_diagnostics::Diagnostic;

use super::OutputFolder;
use super::trouble::refused;

/// The file, from the first use on.
#[derive(Debug, Default)]
pub(super) struct Aside(Mutex<Option<Arc<File>>>);

impl OutputFolder {
    /// Puts bytes aside until the folder is dropped; many threads may, each at places of its own.
    pub fn put_aside(&self, offset: u64, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        let path = self.aside_path();
        let file = self.aside()?;
        self.disk
            .write_at(&file, &path, bytes, offset)
            .map_err(|error| refused("put results aside", &path, &error))
    }

    /// Reads bytes that were put aside.
    pub fn read_aside(&self, offset: u64, out: &mut [u8]) -> Result<(), Box<Diagnostic>> {
        let path = self.aside_path();
        self.aside()?
            .read_exact_at(out, offset)
            .map_err(|error| refused("read what was put aside", &path, &error))
    }

    fn aside_path(&self) -> PathBuf {
        self.partial.join("aside")
    }

    fn aside(&self) -> Result<Arc<File>, Box<Diagnostic>> {
        let mut file = self.aside.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*file {
            return Ok(Arc::clone(file));
        }
        let path = self.aside_path();
        // What an earlier process left under the name goes first. Without a name the file is removed with the
        // process, however that ends.
        let made = self
            .disk
            .remove_all(&path)
            .and_then(|()| self.disk.open(&path))
            .and_then(|made| self.disk.remove_all(&path).map(|()| made))
            .map_err(|error| refused("create a file", &path, &error))?;
        let made = Arc::new(made);
        *file = Some(Arc::clone(&made));
        Ok(made)
    }
}
