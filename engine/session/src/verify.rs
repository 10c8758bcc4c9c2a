//! Outputs proven against their manifests.

use std::path::{Path, PathBuf};

use mixdown_checkpoint::hub;
use mixdown_checkpoint::manifest::Manifest;
use mixdown_checkpoint::shown_path;
use mixdown_checkpoint::verify::{Lying, VerifyError, VerifyReport, verify};
use mixdown_diagnostics::{Diagnostic, codes};

use crate::models::output_elsewhere;
use crate::progress::Task;
use crate::{Session, Trouble, quantity};

/// An output that agrees with its manifest.
#[derive(Clone, Debug)]
pub struct Proven {
    /// What was looked at.
    pub report: VerifyReport,
    /// What is not proven by it, in words.
    pub not_proven: Vec<String>,
}

/// Reads every tensor and file of an output on `threads` threads, and compares it with the manifest. The output is a
/// folder, or lies at an address of a store, a server or the hub, where it is read and not kept.
///
/// **Errors.** A folder that is none, an address that cannot be read, a manifest that cannot be read, and all that
/// does not agree.
pub fn verified(output: &Path, threads: usize, session: &Session<'_>) -> Result<Proven, Trouble> {
    let address = output.to_str().filter(|text| hub::is_remote(text));
    let (folder, names): (PathBuf, _) = match address {
        Some(address) => {
            let found = output_elsewhere(address, session).map_err(|found| {
                match session.is_cancelled() {
                    true => interrupted(),
                    false => Trouble::Found(found),
                }
            })?;
            (found.folder, found.names)
        }
        None if output.is_dir() => (output.to_owned(), None),
        None => {
            let headline = format!("there is no folder `{}`", shown_path(output));
            let found = Diagnostic::error(codes::MANIFEST_BROKEN, headline);
            return Err(Trouble::Usage(vec![found]));
        }
    };
    let lying = Lying { folder: &folder, address, names: names.as_deref() };
    let meter = session.meter(Task::Verifying);
    meter.enter("verifying");
    let found = session.watch(&meter, || {
        verify(lying, threads, &|done, total| {
            meter.expect(0, total);
            meter.add(done, 0);
            !session.is_cancelled()
        })
    });
    match found {
        Ok(report) => Ok(Proven { report, not_proven: not_proven(&lying) }),
        Err(VerifyError::Stopped) => Err(interrupted()),
        Err(VerifyError::Failed(found)) => Err(Trouble::Found(found)),
    }
}

fn interrupted() -> Trouble {
    Trouble::Interrupted("interrupted: nothing was proven".to_owned())
}

/// What an output that agrees with its manifest may still be.
fn not_proven(output: &Lying<'_>) -> Vec<String> {
    let mut lines =
        vec!["that nobody changed files and manifest together: it has no signature".to_owned()];
    if output.address.is_some() && output.names.is_none() {
        lines.push("that nothing else lies there: it cannot be listed".to_owned());
    }
    // It was just read; if it is gone meanwhile, there is nothing to add.
    let inputs = Manifest::read(output.folder).map(|manifest| manifest.inputs).unwrap_or_default();
    let files = || inputs.iter().flat_map(|input| &input.files);
    let unknown = files().filter(|file| file.sha256.is_none()).count();
    if unknown > 0 {
        lines.push(format!(
            "what the inputs were: {unknown} of {} have no SHA-256, which `merge --hash-inputs` records",
            quantity::count(files().count(), "file"),
        ));
    }
    lines
}
