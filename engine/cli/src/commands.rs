//! One file for each command: what can be typed after it, and what it does.

pub mod cache;
pub mod check;
pub mod completions;
pub mod diff;
pub mod explain;
pub mod extract;
pub mod inspect;
pub mod map;
pub mod merge;
pub mod methods;
pub mod plan;
pub mod schemas;
pub mod search;
pub mod verify;

use mixdown_diagnostics::Diagnostic;

use crate::args::Command;
use crate::exit::{self, Exit};
use crate::talk::Talk;

/// Why a command did not do what was asked for. What it says has not been shown yet.
#[derive(Debug)]
pub enum Trouble {
    /// These diagnostics, at least one of which is an error.
    Found(Vec<Diagnostic>),
    /// These, and the recipe or the command line is to blame, whatever their codes say.
    Usage(Vec<Diagnostic>),
    /// Somebody asked to stop; what a person should know about it.
    Interrupted(String),
}

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

/// What a command comes to.
pub type Outcome = Result<Exit, Trouble>;

/// Runs a command, says what went wrong, and gives the exit status.
pub fn run(command: Command, talk: Talk) -> Exit {
    let outcome = match command {
        Command::Merge(arguments) => merge::run(arguments, talk),
        Command::Check(arguments) => check::run(arguments, talk),
        Command::Plan(arguments) => plan::run(arguments, talk),
        Command::Explain(arguments) => explain::run(arguments, talk),
        Command::Extract(arguments) => extract::run(arguments, talk),
        Command::Inspect(arguments) => inspect::run(arguments, talk),
        Command::Diff(arguments) => diff::run(arguments, talk),
        Command::Verify(arguments) => verify::run(arguments, talk),
        Command::Search(arguments) => search::run(arguments, talk),
        Command::Methods(arguments) => methods::run(arguments, talk),
        Command::Map(arguments) => map::run(arguments, talk),
        Command::Cache(arguments) => cache::run(arguments, talk),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Schemas(arguments) => schemas::run(&arguments),
    };
    match outcome {
        Ok(exit) => exit,
        Err(trouble) => {
            trouble.show(talk);
            trouble.exit()
        }
    }
}

impl Trouble {
    /// What was found, if that is what stopped the command.
    pub fn found(&self) -> Option<&[Diagnostic]> {
        match self {
            Self::Found(found) | Self::Usage(found) => Some(found),
            Self::Interrupted(_) => None,
        }
    }

    /// The exit status it leads to.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Found(found) => exit::of(found),
            Self::Usage(_) => Exit::Usage,
            Self::Interrupted(_) => Exit::Interrupted,
        }
    }

    fn show(&self, talk: Talk) {
        match self {
            Self::Found(found) | Self::Usage(found) => talk.show(found),
            Self::Interrupted(text) => talk.insist(text),
        }
    }
}

/// The count of threads that was asked for, or one for each processor.
pub fn threads(asked: Option<std::num::NonZeroUsize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok()).map_or(1, Into::into)
}

impl Command {
    /// Whether it was told to say nothing but errors.
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Merge(arguments) => arguments.quiet,
            Self::Search(arguments) => arguments.quiet,
            Self::Extract(arguments) => arguments.running.quiet,
            Self::Diff(arguments) => arguments.quiet,
            Self::Verify(arguments) => arguments.quiet,
            _ => false,
        }
    }
}
