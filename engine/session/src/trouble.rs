//! Why something was not done.

use std::error::Error;
use std::fmt;

use mixdown_diagnostics::render::{self, Color};
use mixdown_diagnostics::{Diagnostic, codes};

/// Why what was asked for was not done.
#[derive(Debug)]
pub enum Trouble {
    /// These diagnostics, at least one of which is an error.
    Found(Vec<Diagnostic>),
    /// These, and the recipe or what was asked for is to blame, whatever their codes say.
    Usage(Vec<Diagnostic>),
    /// Somebody asked to stop; what a person should know about it.
    Interrupted(String),
}

impl Trouble {
    /// Work could not begin, because the system starts no thread for it.
    pub fn no_thread(error: &std::io::Error) -> Self {
        let headline = format!("the system starts no thread: {error}");
        let fault = Diagnostic::error(codes::NO_THREAD, headline)
            .help("end other programs, or allow more processes (`ulimit -u`, a container's limit)");
        Self::Found(vec![fault])
    }

    /// What was found, if that is what stopped the work.
    pub fn found(&self) -> Option<&[Diagnostic]> {
        match self {
            Self::Found(found) | Self::Usage(found) => Some(found),
            Self::Interrupted(_) => None,
        }
    }
}

impl fmt::Display for Trouble {
    /// The text that the program prints, in plain letters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(found) | Self::Usage(found) => {
                f.write_str(&render::render_all(found, Color::Plain))
            }
            Self::Interrupted(text) => writeln!(f, "{text}"),
        }
    }
}

impl Error for Trouble {}

impl From<Vec<Diagnostic>> for Trouble {
    fn from(found: Vec<Diagnostic>) -> Self {
        Self::Found(found)
    }
}

impl From<Diagnostic> for Trouble {
    fn from(found: Diagnostic) -> Self {
        Self::Found(vec![found])
    }
}

impl From<Box<Diagnostic>> for Trouble {
    fn from(found: Box<Diagnostic>) -> Self {
        Self::Found(vec![*found])
    }
}
