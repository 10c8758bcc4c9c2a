//! Exit statuses, and which of them a set of diagnostics leads to.

use mixdown_diagnostics::{Code, Diagnostic, codes};
use mixdown_session::Trouble;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// It could not be done.
    Failed = 1,
    /// The recipe or the command line is wrong.
    Usage = 2,
    /// A person or the system asked it to stop.
    Interrupted = 130,
}

/// The status that trouble leads to.
pub fn of_trouble(trouble: &Trouble) -> Exit {
    match trouble {
        Trouble::Found(found) => of(found),
        Trouble::Usage(_) => Exit::Usage,
        Trouble::Interrupted(_) => Exit::Interrupted,
    }
}

/// What is nobody's mistake: a device that is there and fails, or is too small.
const DEVICE_FAULTS: [Code; 3] = [codes::CUDA_FAILED, codes::DEVICE_MEMORY, codes::BACKEND_DIFFERS];

/// The status for work that these diagnostics stopped.
///
/// A mistake in the recipe outweighs a failure: correcting it comes first. A model that is nowhere to
/// be found is a mistake in the recipe; one that is there and cannot be used is a failure.
pub fn of(diagnostics: &[Diagnostic]) -> Exit {
    let is_mistake = |diagnostic: &&Diagnostic| {
        let id = diagnostic.code.id;
        (id.starts_with("E02")
            || id.starts_with("E03")
            || diagnostic.code == codes::MODEL_NOT_FOUND)
            && !DEVICE_FAULTS.contains(&diagnostic.code)
    };
    let errors = || diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
    match () {
        () if errors().any(|error| is_mistake(&error)) => Exit::Usage,
        () if errors().next().is_some() => Exit::Failed,
        () => Exit::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: &[Code], expected: Exit) {
        let found: Vec<Diagnostic> =
            found.iter().map(|&code| Diagnostic::error(code, "headline")).collect();
        assert_eq!(of(&found), expected);
    }

    #[test]
    fn mistakes_outweigh_failures() {
        check(&[], Exit::Done);
        check(&[codes::UNREADABLE], Exit::Failed);
        check(&[codes::UNKNOWN_KEY], Exit::Usage);
        check(&[codes::SHAPE_MISMATCH], Exit::Usage);
        check(&[codes::MODEL_NOT_FOUND], Exit::Usage);
        check(&[codes::SHARD_TRUNCATED, codes::OUT_OF_RANGE, codes::NO_WEIGHTS], Exit::Usage);
        check(&[codes::HUB_FAILED, codes::NO_WEIGHTS], Exit::Failed);
        check(&[codes::OUTPUT_EXISTS], Exit::Failed);
        check(&[codes::CUDA_DEVICE_NUMBER], Exit::Usage);
        check(&[codes::CUDA_FAILED], Exit::Failed);
        check(&[codes::DEVICE_MEMORY], Exit::Failed);
    }

    #[test]
    fn warnings_stop_nothing() {
        let warning = Diagnostic::warning(codes::UNKNOWN_KEY, "headline");
        assert_eq!(of(std::slice::from_ref(&warning)), Exit::Done);
        let error = Diagnostic::error(codes::DISK_FULL, "headline");
        assert_eq!(of(&[warning, error]), Exit::Failed);
    }
}
