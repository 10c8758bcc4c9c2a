//! Proves an output against its manifest: every tensor, every file, nothing missing and nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::{open_regular, retried};
use sha2::{Digest, Sha256};

use crate::format::gguf;
use crate::format::safetensors::Safetensors;
use crate::format::torch::Torch;
use crate::format::{Format, Header};
use crate::index::TensorEntry;
use crate::manifest::{FileRecord, MANIFEST_NAME, Manifest, TensorRecord, hex};
use crate::reread::{self, Stretch};
use crate::shown::{bytes_text, io_text, shown, shown_path};
use crate::source::{ByteSource, ReadError};

const AGAIN: &str = "merge again, or fetch this file again from where the model came from";

/// What was proven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Tensors whose bytes are those of the manifest.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that hold tensors.
    pub shards: usize,
    /// Other files whose content is that of the manifest.
    pub files: usize,
}

/// Why an output could not be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyError {
    /// `progress` asked to stop.
    Stopped,
    /// Everything that does not agree.
    Failed(Vec<Diagnostic>),
}

/// Where an output lies.
#[derive(Clone, Copy, Debug)]
pub struct Lying<'a> {
    /// The folder, or that of what [stands in](crate::hub::prepare_output) for an output elsewhere.
    pub folder: &'a Path,
    /// The address, if it lies elsewhere.
    pub address: Option<&'a str>,
    /// The names of all that lies at the address, where that can be told.
    pub names: Option<&'a [String]>,
}

impl<'a> Lying<'a> {
    /// In a folder of this machine.
    pub fn here(folder: &'a Path) -> Self {
        Self { folder, address: None, names: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// One of its files, as messages show it.
    fn shown(&self, name: &str) -> String {
        match self.address {
            Some(address) => format!("{}/{}", shown(address.trim_end_matches('/')), shown(name)),
            None => shown_path(&self.path(name)),
        }
    }
}

/// Compares an output with its manifest, on `threads` threads.
///
/// `progress` is told first 0 of all bytes, then how many more are done, from any thread: `(done,
/// total)`. When it returns false, verifying stops.
///
/// **Errors.** `MANIFEST_BROKEN`; or one `VERIFY_FAILED` for each tensor or file that is missing,
/// too many, too short or different.
pub fn verify(
    output: Lying<'_>,
    threads: usize,
    progress: &(dyn Fn(u64, u64) -> bool + Sync),
) -> Result<VerifyReport, VerifyError> {
    let manifest = Manifest::read(output.folder).map_err(|mut problem| {
        if output.address.is_some() {
            *problem = problem.in_file(output.shown(MANIFEST_NAME));
        }
        VerifyError::Failed(vec![*problem])
    })?;
    let mut problems = Vec::new();
    check_names(&output, &manifest, &mut problems);
    let stretches = find_tensors(&output, &manifest, &mut problems);
    let total = stretches.iter().map(|(_, stretch)| stretch.bytes).sum();
    let (tensors, stretches): (Vec<&TensorRecord>, Vec<Stretch>) = stretches.into_iter().unzip();
    if !progress(0, total) {
        return Err(VerifyError::Stopped);
    }
    let found = reread::digests(&stretches, threads, &|bytes| progress(bytes, total));
    let found = found.ok_or(VerifyError::Stopped)?;
    for ((tensor, stretch), found) in tensors.iter().zip(&stretches).zip(found) {
        match found {
            Ok(found) if found == tensor.blake3 => {}
            Ok(found) => problems.push(
                failed(format!(
                    "the bytes of `{}` are not those that were written",
                    shown(&tensor.name)
                ))
                .at_byte(output.shown(&tensor.shard), stretch.offset)
                .fact("manifest", format!("blake3 {}", tensor.blake3))
                .fact("file", format!("blake3 {found}"))
                .fact("length", bytes_text(stretch.bytes))
                .help(AGAIN),
            ),
            Err(error) => problems.push(
                failed(format!("the bytes of `{}` cannot be read", shown(&tensor.name)))
                    .at_byte(output.shown(&tensor.shard), stretch.offset)
                    .fact("system", io_text(&error)),
            ),
        }
    }
    for file in &manifest.files {
        check_file(&output, file, &mut problems);
    }
    for header in &manifest.headers {
        check_header(&output, header, &mut problems);
    }
    if !problems.is_empty() {
        return Err(VerifyError::Failed(problems));
    }
    let shards = shard_names(&manifest).len();
    Ok(VerifyReport { tensors: tensors.len(), bytes: total, shards, files: manifest.files.len() })
}

fn failed(headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(codes::VERIFY_FAILED, headline)
}

/// The names of the files that hold an output's tensors.
pub(crate) fn shard_names(manifest: &Manifest) -> BTreeSet<&str> {
    let mut names: BTreeSet<&str> =
        manifest.tensors.iter().map(|tensor| tensor.shard.as_str()).collect();
    if names.is_empty() {
        // An output without tensors is one shard that holds none.
        names.insert("model.safetensors");
    }
    names
}

/// The names of an output's files, with slashes: shards, other files, and the manifest.
pub fn names(manifest: &Manifest) -> BTreeSet<&str> {
    let files = manifest.files.iter().map(|file| file.name.as_str());
    shard_names(manifest).into_iter().chain([MANIFEST_NAME]).chain(files).collect()
}

/// Files in an output's folder, and in the folders within it, that its manifest does not know: paths within the
/// folder, sorted.
///
/// **Errors.** A folder that cannot be listed.
pub fn strangers(folder: &Path, manifest: &Manifest) -> io::Result<Vec<PathBuf>> {
    let known = names(manifest);
    let folders: BTreeSet<&str> =
        known.iter().filter_map(|name| Some(name.split_once('/')?.0)).collect();
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        match name.to_str() {
            Some(text) if known.contains(text) => {}
            Some(text) if folders.contains(text) && folder.join(text).is_dir() => {
                for entry in fs::read_dir(folder.join(text))? {
                    let path = Path::new(text).join(entry?.file_name());
                    if !path.to_str().is_some_and(|path| known.contains(path)) {
                        found.push(path);
                    }
                }
            }
            _ => found.push(PathBuf::from(name)),
        }
    }
    found.sort();
    Ok(found)
}

/// Files that the manifest does not know. Hidden ones belong to other tools (`.git`, `.cache`).
fn check_names(output: &Lying<'_>, manifest: &Manifest, problems: &mut Vec<Diagnostic>) {
    let found = match (output.address, output.names) {
        (None, _) => strangers(output.folder, manifest),
        (Some(_), None) => return,
        (Some(_), Some(there)) => {
            let known = names(manifest);
            let unknown = there.iter().filter(|name| !known.contains(name.as_str()));
            Ok(unknown.map(PathBuf::from).collect())
        }
    };
    let mut extra = match found {
        Ok(extra) => extra,
        Err(error) => {
            let (headline, place) = ("the folder cannot be listed", shown_path(output.folder));
            problems.push(failed(headline).in_file(place).fact("system", io_text(&error)));
            return;
        }
    };
    let is_hidden = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
    };
    extra.retain(|path| !is_hidden(path));
    for name in extra {
        problems.push(
            failed("a file is not part of what was written")
                .in_file(output.shown(&name.to_string_lossy()))
                .help("remove it, or keep it outside this folder"),
        );
    }
}

/// Where the tensors of the manifest lie, by the headers of their shards.
fn find_tensors<'a>(
    output: &Lying<'_>,
    manifest: &'a Manifest,
    problems: &mut Vec<Diagnostic>,
) -> Vec<(&'a TensorRecord, Stretch)> {
    let mut stretches = Vec::new();
    for shard in shard_names(manifest) {
        let (path, told) = (output.path(shard), output.shown(shard));
        let header = match read_header(&path, &told) {
            Ok(header) => header,
            Err(found) => {
                problems.extend(found.into_iter().map(|problem| Diagnostic {
                    code: codes::VERIFY_FAILED,
                    help: Some(AGAIN.to_owned()),
                    ..problem
                }));
                continue;
            }
        };
        let mut there: BTreeMap<&str, &TensorEntry> =
            header.tensors.iter().map(|entry| (entry.name.as_str(), entry)).collect();
        for tensor in manifest.tensors.iter().filter(|tensor| tensor.shard == shard) {
            let name = shown(&tensor.name);
            let Some(entry) = there.remove(tensor.name.as_str()) else {
                problems.push(failed(format!("`{name}` is missing")).in_file(&told).help(AGAIN));
                continue;
            };
            let (dtype, dimensions) = (entry.dtype.safetensors_name(), entry.shape.dimensions());
            if dtype == tensor.dtype && dimensions == tensor.shape {
                let (offset, bytes) = (entry.offset, entry.bytes());
                stretches.push((tensor, Stretch { path: path.clone(), offset, bytes }));
                continue;
            }
            problems.push(
                failed(format!("`{name}` has another type or shape"))
                    .at_byte(&told, entry.offset)
                    .fact("manifest", format!("{:?} {}", tensor.shape, shown(&tensor.dtype)))
                    .fact("file", format!("{dimensions:?} {dtype}"))
                    .help(AGAIN),
            );
        }
        for name in there.keys() {
            problems.push(
                failed(format!("`{}` is not part of what was written", shown(name))).in_file(&told),
            );
        }
    }
    stretches
}

fn read_header(path: &Path, told: &str) -> Result<Header, Vec<Diagnostic>> {
    let (file, found) = open_regular(path).map_err(|error| {
        let headline = match error.kind() {
            io::ErrorKind::NotFound => "a shard is missing".to_owned(),
            _ => format!("a shard cannot be read: {}", io_text(&error)),
        };
        vec![failed(headline).in_file(told)]
    })?;
    let source = ShardSource { file, bytes: found.len(), shown: told.to_owned() };
    // Which format it must be follows from the name that was written, not from what stands there now.
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("bin") => Torch.read_header(&source, told),
        Some("gguf") => gguf::stored(&source, told),
        _ => Safetensors.read_header(&source, told),
    }
}

/// A shard that is read once, from its start.
struct ShardSource {
    file: File,
    bytes: u64,
    shown: String,
}

impl ByteSource for ShardSource {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.file.read_exact_at(buffer, offset).map_err(|error| ReadError::Io {
            shown: self.shown.clone(),
            offset,
            error,
        })
    }

    fn will_need(&self, _: u64, _: u64) {}

    fn len(&self) -> u64 {
        self.bytes
    }
}

fn check_file(output: &Lying<'_>, file: &FileRecord, problems: &mut Vec<Diagnostic>) {
    let problem = |headline: String| failed(headline).in_file(output.shown(&file.name));
    let name = shown(&file.name);
    match sha256_of_file(&output.path(&file.name)) {
        Ok((sha256, bytes)) if sha256 == file.sha256 && bytes == file.bytes => {}
        Ok((sha256, bytes)) => {
            let found = problem(format!("`{name}` is not what was written"))
                .fact("manifest", format!("{}, sha256 {}", bytes_text(file.bytes), file.sha256))
                .fact("file", format!("{}, sha256 {sha256}", bytes_text(bytes)));
            problems.push(found);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            problems.push(problem(format!("`{name}` is missing")));
        }
        Err(error) => {
            let found = problem(format!("`{name}` cannot be read"));
            problems.push(found.fact("system", io_text(&error)));
        }
    }
}

/// The first bytes of a weight file, whose tensors are looked at by themselves.
fn check_header(output: &Lying<'_>, header: &FileRecord, problems: &mut Vec<Diagnostic>) {
    match sha256_of(&output.path(&header.name), header.bytes) {
        Ok((sha256, bytes)) if sha256 == header.sha256 && bytes == header.bytes => {}
        Ok((sha256, _)) => problems.push(
            failed(format!("the header of `{}` is not what was written", shown(&header.name)))
                .in_file(output.shown(&header.name))
                .fact("manifest", format!("{}, sha256 {}", bytes_text(header.bytes), header.sha256))
                .fact("file", format!("sha256 {sha256}"))
                .help(AGAIN),
        ),
        // That it is missing or unreadable is told where its tensors are looked for.
        Err(_) => {}
    }
}

/// SHA-256 of a plain file in hexadecimal digits, and its bytes. It is never held as a whole.
///
/// **Errors.** What the system says, and where it is no file.
pub fn sha256_of_file(path: &Path) -> io::Result<(String, u64)> {
    sha256_of(path, u64::MAX)
}

/// The digest of at most so many bytes from a file's beginning, and how many there are.
fn sha256_of(path: &Path, most: u64) -> io::Result<(String, u64)> {
    let (file, _) = open_regular(path)?;
    let mut file = file.take(most);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        match retried(|| file.read(&mut buffer))? {
            0 => return Ok((hex(&digest.finalize()), bytes)),
            count => {
                digest.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mixdown_tensor::{DType, Shape};

    use super::*;
    use crate::journal::OwnerKey;
    use crate::layout::{INDEX_NAME, Layout, OutputTensor};
    use crate::manifest::MergeRecord;
    use crate::output::{OutputFolder, OutputOptions, PlanIdentity};
    use crate::tensor_digest::TensorDigest;

    /// Two shards: `a` and `b` in the first, `c` in the second.
    fn output() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let tensors = [("a", 8), ("b", 8), ("c", 12)].map(|(name, elements)| OutputTensor {
            name: name.to_owned(),
            dtype: DType::Bf16,
            shape: Shape::new(vec![elements]).unwrap(),
        });
        let layout = Arc::new(Layout::new(tensors.to_vec(), 32).unwrap());
        let identity = PlanIdentity::new(&[0; 32]);
        let key = OwnerKey::new([7; 32]);
        let options = OutputOptions { force: false, side_bytes: 0, adopted_bytes: 0, key };
        let begun = OutputFolder::begin(&target, layout, &identity, &options).unwrap();
        let output = begun.open().unwrap();
        for tensor in 0..3 {
            let bytes = vec![tensor as u8 + 1; output.layout().place(tensor).bytes as usize];
            output.write_at(tensor, 0, &bytes).unwrap();
            output.complete(tensor, TensorDigest::of(&bytes)).unwrap();
        }
        output.add_file("config.json", b"{}").unwrap();
        output.finish(MergeRecord::default()).unwrap();
        (folder, target)
    }

    /// What is found after `damage` was done, as code, headline and place.
    fn check(damage: impl Fn(&Path), expected: &[&str]) {
        let (_folder, target) = output();
        damage(&target);
        let Err(VerifyError::Failed(found)) = verify(Lying::here(&target), 2, &|_, _| true) else {
            panic!("the damage was not found: {expected:?}");
        };
        let headlines: Vec<&str> = found.iter().map(|problem| problem.headline.as_str()).collect();
        assert_eq!(headlines, expected);
    }

    const FIRST: &str = "model-00001-of-00002.safetensors";
    const SECOND: &str = "model-00002-of-00002.safetensors";

    #[test]
    fn a_sound_output_is_proven() {
        let (_folder, target) = output();
        let report = verify(Lying::here(&target), 2, &|_, total| total == 56).unwrap();
        assert_eq!(report, VerifyReport { tensors: 3, bytes: 56, shards: 2, files: 2 });
        assert_eq!(
            verify(Lying::here(&target), 1, &|done, _| done == 0),
            Err(VerifyError::Stopped)
        );
        fs::create_dir(target.join(".git")).unwrap();
        assert!(verify(Lying::here(&target), 1, &|_, _| true).is_ok());
    }

    #[test]
    fn every_flipped_bit_of_the_data_is_found() {
        let (_folder, target) = output();
        let path = target.join(SECOND);
        let sound = fs::read(&path).unwrap();
        for at in sound.len() - 24..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            let Err(VerifyError::Failed(found)) = verify(Lying::here(&target), 1, &|_, _| true)
            else {
                panic!("byte {at}")
            };
            assert_eq!(found[0].code, codes::VERIFY_FAILED);
            let offset = sound.len() as u64 - 24;
            let place = mixdown_diagnostics::Place::Byte(shown_path(&path), offset);
            assert_eq!(found[0].place, Some(place));
        }
    }

    #[test]
    fn each_kind_of_damage_is_told() {
        let edit = |folder: &Path, name: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let path = folder.join(name);
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes);
            fs::write(path, bytes).unwrap();
        };
        let replace = |bytes: &mut Vec<u8>, from: &str, to: &str| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            assert!(text.contains(from) && text.is_ascii());
            *bytes = text.replace(from, to).into_bytes();
        };
        check(|folder| fs::remove_file(folder.join(SECOND)).unwrap(), &["a shard is missing"]);
        check(
            |folder| edit(folder, FIRST, &|bytes| bytes.truncate(bytes.len() - 20)),
            &["the shard ends inside `a`"],
        );
        check(
            |folder| edit(folder, SECOND, &|bytes| bytes.truncate(20)),
            &["the safetensors header reaches past the end of the file"],
        );
        check(
            |folder| edit(folder, SECOND, &|bytes| bytes.truncate(3)),
            &["the file is too short for a safetensors header"],
        );
        check(
            |folder| edit(folder, SECOND, &|bytes| bytes[9] = b'['),
            &["the safetensors header is not JSON"],
        );
        check(
            |folder| edit(folder, SECOND, &|bytes| replace(bytes, "\"c\"", "\"d\"")),
            &["`c` is missing", "`d` is not part of what was written"],
        );
        check(
            |folder| edit(folder, SECOND, &|bytes| replace(bytes, "\"BF16\"", "\"F16\" ")),
            &["`c` has another type or shape"],
        );
        check(
            |folder| fs::write(folder.join("extra.bin"), "x").unwrap(),
            &["a file is not part of what was written"],
        );
        check(
            |folder| fs::write(folder.join("config.json"), "{ }").unwrap(),
            &["`config.json` is not what was written"],
        );
        check(
            |folder| fs::remove_file(folder.join(INDEX_NAME)).unwrap(),
            &["`model.safetensors.index.json` is missing"],
        );
        check(
            |folder| fs::remove_file(folder.join(MANIFEST_NAME)).unwrap(),
            &["the folder has no manifest"],
        );
    }

    #[test]
    fn all_damage_is_told_at_once() {
        check(
            |folder| {
                fs::remove_file(folder.join(FIRST)).unwrap();
                fs::remove_file(folder.join("config.json")).unwrap();
                fs::write(folder.join("x"), "x").unwrap();
            },
            &[
                "a file is not part of what was written",
                "a shard is missing",
                "`config.json` is missing",
            ],
        );
    }
}
