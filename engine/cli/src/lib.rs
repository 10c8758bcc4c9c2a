//! The mixdown program as a library: arguments to exit status, and the documents that `--json` prints, for
//! the packages that carry the program to other languages.

mod age;
mod args;
mod bug;
mod commands;
pub mod data;
mod exit;
mod machine;
mod names;
mod open_files;
mod progress;
mod reading;
mod recipe;
pub mod size;
mod stop;
mod table;
mod talk;
mod terminal;

use std::ffi::OsString;

use clap::{CommandFactory, Parser};

/// Runs the program with these arguments, its name first, and gives its exit status. What is wrong with the
/// arguments themselves ends the process, as `--help` does.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    bug::install();
    open_files::raise();
    let arguments = args::Arguments::parse_from(arguments);
    let talk = talk::Talk::new(arguments.color, arguments.command.is_quiet());
    commands::run(arguments.command, talk) as i32
}

/// What can be typed, for manuals.
pub fn command() -> clap::Command {
    args::Arguments::command()
}
