//! The end of an output: index and manifest, everything stored on disk, and the one step in which the
//! folder appears under its name.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::open_regular;

use super::OutputFolder;
use super::begin::{exists, journal_path, lock_path, output_path, replaced_path};
use super::disk::Disk;
use super::trouble::refused;
use crate::journal::{Entry, Journal};
use crate::layout::{INDEX_NAME, TensorPlace};
use crate::manifest::{MANIFEST_NAME, MANIFEST_VERSION, Manifest, MergeRecord, TensorRecord};
use crate::shown::shown;
use crate::tensor_digest::TensorDigest;
use crate::torch_file::Crc32;

const NAME_IT: &str = "give the output its name";

impl OutputFolder {
    /// Completes the output and gives it its name. Returns the manifest that was written.
    ///
    /// **Errors.** What the system refuses; then the target is what it was before, or, when only
    /// storing its name failed, the complete output.
    pub fn finish(mut self, record: MergeRecord) -> Result<Manifest, Box<Diagnostic>> {
        let digests = self.all_finished()?;
        if let Some(index) = self.layout.index_json() {
            self.put_file(INDEX_NAME, index.as_bytes())?;
        }
        self.seal()?;
        let manifest = self.manifest(record, &digests);
        let text = manifest.to_json();
        self.put_file(MANIFEST_NAME, text.as_bytes())?;
        self.remove_strays()?;
        if let Some(elsewhere) = self.elsewhere.take() {
            self.shards.stop();
            elsewhere.deliver(self.shards.folder(), &self.names_to_send())?;
            drop(elsewhere);
            clean_up(&self.disk, &self.partial);
            return Ok(manifest);
        }
        if let Err((shard, failure)) = self.shards.store_all(&self.disk) {
            // After a failed sync the system may drop the bytes and still show them, so reading them
            // again proves nothing: they have to be written again.
            self.append(Entry::ShardLost(shard))?;
            return Err(failure);
        }
        let output = output_path(&self.partial);
        for folder in self.folders() {
            let path = output.join(folder);
            self.disk.sync_folder(&path).map_err(|error| refused(NAME_IT, &path, &error))?;
        }
        self.disk.sync_folder(&output).map_err(|error| refused(NAME_IT, &output, &error))?;
        self.leave_last_words(TensorDigest::of(text.as_bytes()))?;
        self.appear(&output)?;
        if let Some(parent) = self.partial.parent() {
            self.disk.sync_folder(parent).map_err(|error| refused(NAME_IT, parent, &error))?;
        }
        clean_up(&self.disk, &self.partial);
        Ok(manifest)
    }

    /// The files beside the shards in the order in which they appear in a store: by what readers begin with, an
    /// output is there when the last of them are.
    fn names_to_send(&self) -> Vec<String> {
        let files = self.files.lock().expect("no thread panics while it holds the list");
        let last = ["config.json", INDEX_NAME, MANIFEST_NAME];
        let is_last = |name: &&String| last.contains(&name.as_str());
        let first = files.keys().filter(|name| !is_last(name)).cloned();
        let last = last.iter().filter(|name| files.contains_key(**name));
        first.chain(last.map(|name| (*name).to_owned())).collect()
    }

    /// Puts the checksums of tensors into archives of torch, for which all bytes are read again.
    fn seal(&self) -> Result<(), Box<Diagnostic>> {
        for (number, shard) in self.layout.shards().iter().enumerate() {
            let Some(torch) = &shard.torch else { continue };
            let path = self.shards.path(number);
            let sums = || -> io::Result<Vec<u32>> {
                let (file, _) = open_regular(&path)?;
                let places = shard.tensors.iter().map(|&tensor| self.layout.place(tensor));
                places.map(|place| checksum(&file, place)).collect()
            };
            let sums = sums().map_err(|error| refused("read a shard again", &path, &error))?;
            for (at, bytes) in torch.parts(Some(&sums)) {
                self.shards.write_at(&self.disk, number, at, &bytes)?;
            }
            if let Some(elsewhere) = &self.elsewhere {
                elsewhere.sealed(number);
            }
        }
        Ok(())
    }

    /// The folders within the output's.
    fn folders(&self) -> BTreeSet<String> {
        let files = self.files.lock().expect("no thread panics while it holds the list");
        let parts = files.keys().filter_map(|name| name.split_once('/'));
        parts.map(|(folder, _)| folder.to_owned()).collect()
    }

    fn all_finished(&self) -> Result<Vec<TensorDigest>, Box<Diagnostic>> {
        let finished = self.finished.lock().expect("no thread panics while it holds the list");
        let mut digests = Vec::with_capacity(finished.len());
        for (index, digest) in finished.iter().enumerate() {
            let Some(digest) = digest else {
                let name = shown(&self.layout.tensors()[index].name).into_owned();
                return Err(Box::new(
                    Diagnostic::error(codes::WRITE_FAILED, "the output was to end before all was written")
                        .fact("missing", name)
                        .note("this is a mistake in mixdown; please report it with the command and the version"),
                ));
            };
            digests.push(*digest);
        }
        Ok(digests)
    }

    fn manifest(&self, record: MergeRecord, digests: &[TensorDigest]) -> Manifest {
        let files = self.files.lock().expect("no thread panics while it holds the list");
        let mut origins = record.origins.into_iter();
        let tensors = self
            .layout
            .tensors()
            .iter()
            .enumerate()
            .map(|(index, tensor)| {
                let origin = origins.next().unwrap_or_default();
                TensorRecord {
                    name: tensor.name.clone(),
                    dtype: tensor.dtype.safetensors_name().to_owned(),
                    shape: tensor.shape.dimensions().to_vec(),
                    shard: self.layout.shards()[self.layout.place(index).shard].name.clone(),
                    blake3: digests[index],
                    method: origin.method,
                    rule: origin.rule,
                    treatment: origin.treatment,
                }
            })
            .collect();
        Manifest {
            manifest: MANIFEST_VERSION,
            mixdown: record.mixdown,
            recipe: record.recipe,
            plan: record.plan,
            seed: record.seed,
            backend: record.backend,
            inputs: record.inputs,
            tensors,
            files: files.values().cloned().collect(),
            headers: self.layout.told_headers(),
            dropped: record.dropped,
            warnings: record.warnings,
        }
    }

    /// Says in the lock what is finished. Of all that is removed after the renaming the lock goes last,
    /// so whoever is killed in between, the same command knows that nothing is left to do.
    fn leave_last_words(&self, manifest: TensorDigest) -> Result<(), Box<Diagnostic>> {
        let title = Journal::new(self.identity.as_str()).text(&self.key);
        let last = Entry::Finished(manifest).line(&self.key, &self.identity);
        let text = format!("{title}{last}{}\n", std::process::id());
        let path = lock_path(&self.partial);
        self.disk
            .write_at(self.lock.file(), &path, text.as_bytes(), 0)
            .map_err(|error| refused(NAME_IT, &path, &error))
    }

    /// Removes what an interrupted run added and this one did not.
    fn remove_strays(&self) -> Result<(), Box<Diagnostic>> {
        let output = output_path(&self.partial);
        let files = self.files.lock().expect("no thread panics while it holds the list");
        let is_ours = |name: &str| {
            let is_in = |file: &String| file.split_once('/').is_some_and(|(it, _)| it == name);
            files.contains_key(name)
                || files.keys().any(is_in)
                || self.layout.shards().iter().any(|shard| shard.name == name)
        };
        let list = || -> io::Result<Vec<PathBuf>> {
            fs::read_dir(&output)?.map(|entry| entry.map(|entry| entry.path())).collect()
        };
        for path in list().map_err(|error| refused("list the output", &output, &error))? {
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours) {
                self.disk
                    .remove_all(&path)
                    .map_err(|error| refused("remove a file of an earlier run", &path, &error))?;
            }
        }
        Ok(())
    }

    /// The output takes the target's name; a folder that had it is moved into the hidden one.
    fn appear(&self, output: &Path) -> Result<(), Box<Diagnostic>> {
        let refused = |error: io::Error| refused(NAME_IT, &self.target, &error);
        // Replaces an empty folder, too.
        match self.disk.rename(output, &self.target) {
            Ok(()) => return Ok(()),
            Err(error) if is_occupied(&error) && self.force => {}
            Err(error) if is_occupied(&error) => return Err(exists(&self.shown_target)),
            Err(error) => return Err(refused(error)),
        }
        match self.disk.exchange(output, &self.target) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            result => return result.map_err(refused),
        }
        let replaced = replaced_path(&self.partial);
        self.disk.rename(&self.target, &replaced).map_err(refused)?;
        self.disk.rename(output, &self.target).map_err(|error| {
            // The old folder gets its name back at once; if that fails too, the next run does it.
            let _ = self.disk.rename(&replaced, &self.target);
            refused(error)
        })
    }
}

/// The checksum of a tensor's bytes.
fn checksum(file: &File, place: TensorPlace) -> io::Result<u32> {
    const BLOCK_BYTES: u64 = 1 << 20;
    let mut block = vec![0; place.bytes.min(BLOCK_BYTES) as usize];
    let mut sum = Crc32::default();
    let mut done = 0;
    while done < place.bytes {
        let part = &mut block[..(place.bytes - done).min(BLOCK_BYTES) as usize];
        file.read_exact_at(part, place.offset + done)?;
        sum.add(part);
        done += part.len() as u64;
    }
    Ok(sum.value())
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        self.shards.stop();
        if let Some(shard) = self.shards.lost() {
            // If not even this can be written, the disk is beyond what a journal can help.
            let _ = self.append(Entry::ShardLost(shard));
        }
    }
}

/// Whether a rename failed because something has the name.
fn is_occupied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

/// Removes the hidden folder. What cannot be removed does no harm, and the next run tries again.
pub(super) fn clean_up(disk: &Disk, partial: &Path) {
    // The lock goes last: until then nobody else works here.
    let _ = disk
        .remove_all(&output_path(partial))
        .and_then(|()| disk.remove_all(&replaced_path(partial)))
        .and_then(|()| disk.remove_file(&partial.join("sent")))
        .and_then(|()| disk.remove_file(&partial.join("journal.new")))
        .and_then(|()| disk.remove_file(&journal_path(partial)))
        .and_then(|()| disk.remove_file(&lock_path(partial)))
        .and_then(|()| disk.remove_folder(partial));
}
