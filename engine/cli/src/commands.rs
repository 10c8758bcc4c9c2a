//! One file for each command: what can be typed after it, and what it does.

pub mod assemble;
pub mod cache;
pub mod check;
pub mod completions;
pub mod convert;
pub mod devices;
pub mod diff;
pub mod explain;
pub mod extract;
pub mod fuse;
pub mod inspect;
pub mod map;
pub mod merge;
pub mod mergekit_yaml;
pub mod methods;
pub mod plan;
pub mod schemas;
pub mod search;
pub mod verify;

use mixdown_session::Trouble;

use crate::args::Command;
use crate::exit::{self, Exit};
use crate::talk::Talk;

/// What a command comes to.
pub type Outcome = Result<Exit, Trouble>;

/// Runs a command, says what went wrong, and gives the exit status.
pub fn run(command: Command, talk: Talk) -> Exit {
    let outcome = match command {
        Command::Merge(arguments) => merge::run(arguments, talk),
        Command::Assemble(arguments) => assemble::run(arguments, talk),
        Command::MergekitYaml(arguments) => mergekit_yaml::run(arguments, talk),
        Command::Check(arguments) => check::run(arguments, talk),
        Command::Plan(arguments) => plan::run(arguments, talk),
        Command::Explain(arguments) => explain::run(arguments, talk),
        Command::Extract(arguments) => extract::run(arguments, talk),
        Command::Fuse(arguments) => fuse::run(arguments, talk),
        Command::Convert(arguments) => convert::run(arguments, talk),
        Command::Inspect(arguments) => inspect::run(arguments, talk),
        Command::Diff(arguments) => diff::run(arguments, talk),
        Command::Verify(arguments) => verify::run(arguments, talk),
        Command::Search(arguments) => search::run(arguments, talk),
        Command::Methods(arguments) => methods::run(arguments, talk),
        Command::Map(arguments) => map::run(arguments, talk),
        Command::Cache(arguments) => cache::run(arguments, talk),
        Command::Devices(arguments) => devices::run(&arguments, talk),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Schemas(arguments) => schemas::run(&arguments),
    };
    match outcome {
        Ok(exit) => exit,
        Err(trouble) => {
            show(&trouble, talk);
            exit::of_trouble(&trouble)
        }
    }
}

fn show(trouble: &Trouble, talk: Talk) {
    match trouble {
        Trouble::Found(found) | Trouble::Usage(found) => talk.show(found),
        Trouble::Interrupted(text) => talk.insist(text),
    }
}

impl Command {
    /// Whether it was told to say nothing but errors.
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Merge(arguments) => arguments.quiet,
            Self::Assemble(arguments) => arguments.quiet,
            Self::MergekitYaml(arguments) => arguments.is_quiet(),
            Self::Search(arguments) => arguments.quiet,
            Self::Extract(arguments) => arguments.running.quiet,
            Self::Fuse(arguments) => arguments.running.quiet,
            Self::Convert(arguments) => arguments.running.quiet,
            Self::Diff(arguments) => arguments.quiet,
            Self::Verify(arguments) => arguments.quiet,
            _ => false,
        }
    }
}
