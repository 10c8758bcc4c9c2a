//! The mixdown program: arguments to outcome to exit code.

mod age;
mod args;
mod bug;
mod commands;
mod compare;
mod exit;
mod kept;
mod machine;
mod modality;
mod models;
mod names;
mod open_files;
mod planning;
mod progress;
mod quantity;
mod recipes;
mod size;
mod stop;
mod table;
mod talk;

use clap::Parser;

fn main() {
    bug::install();
    open_files::raise();
    let arguments = args::Arguments::parse();
    let talk = talk::Talk::new(arguments.color, arguments.command.is_quiet());
    let exit = commands::run(arguments.command, talk);
    std::process::exit(exit as i32);
}
