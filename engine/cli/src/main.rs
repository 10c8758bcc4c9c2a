//! The mixdown program: arguments to outcome to exit code.

mod age;
mod args;
mod bug;
mod commands;
mod exit;
mod machine;
mod names;
mod open_files;
mod progress;
mod recipe;
mod size;
mod stop;
mod table;
mod talk;
mod terminal;

use clap::Parser;

fn main() {
    bug::install();
    open_files::raise();
    let arguments = args::Arguments::parse();
    let talk = talk::Talk::new(arguments.color, arguments.command.is_quiet());
    let exit = commands::run(arguments.command, talk);
    std::process::exit(exit as i32);
}
