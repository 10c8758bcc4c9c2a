//! Outputs proven against their manifests.

use std::path::Path;

use mixdown_checkpoint::shown_path;
use mixdown_checkpoint::verify::{VerifyError, VerifyReport, verify};
use mixdown_diagnostics::{Diagnostic, codes};

use crate::progress::Task;
use crate::{Session, Trouble};

/// Reads every tensor and file of an output on `threads` threads, and compares it with the manifest.
///
/// **Errors.** A folder that is none, a manifest that cannot be read, and all that does not agree.
pub fn verified(
    folder: &Path,
    threads: usize,
    session: &Session<'_>,
) -> Result<VerifyReport, Trouble> {
    if !folder.is_dir() {
        let headline = format!("there is no folder `{}`", shown_path(folder));
        let found = Diagnostic::error(codes::MANIFEST_BROKEN, headline);
        return Err(Trouble::Usage(vec![found]));
    }
    let meter = session.meter(Task::Verifying);
    meter.enter("verifying");
    let found = session.watch(&meter, || {
        verify(folder, threads, &|done, total| {
            meter.expect(0, total);
            meter.add(done, 0);
            !session.is_cancelled()
        })
    });
    found.map_err(|error| match error {
        VerifyError::Stopped => Trouble::Interrupted("interrupted: nothing was proven".to_owned()),
        VerifyError::Failed(found) => Trouble::Found(found),
    })
}
