//! `mixdown man`: the manual pages, for packages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use mixdown_checkpoint::{shown_path, stored};
use mixdown_diagnostics::{Diagnostic, codes};

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::talk::{self, Talk};

/// Write the manual pages
///
/// One of the program, `mixdown.1`, and one of each command, `mixdown-merge.1`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown man man1          writes man1/mixdown.1 and the pages of all commands
  mixdown man ~/.local/share/man/man1")]
pub struct Arguments {
    /// The folder, which is made
    folder: PathBuf,
}

/// Runs the command.
pub fn run(arguments: Arguments, _: Talk) -> Outcome {
    let Arguments { folder } = arguments;
    let failed = |path: &std::path::Path, error: std::io::Error| {
        Diagnostic::error(codes::WRITE_FAILED, format!("a manual page cannot be written: {error}"))
            .in_file(shown_path(path))
    };
    std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
    for (name, text) in pages() {
        let path = folder.join(name);
        stored::write_file(&path, &text).map_err(|error| failed(&path, error))?;
        talk::data(&format!("{}\n", path.display()));
    }
    Ok(Exit::Done)
}

/// All pages, each with the name of its file.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut program = crate::args::Arguments::command();
    program.build();
    let mut pages = vec![page(program.clone(), "mixdown".to_owned())];
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("mixdown-{}", command.get_name());
        pages.push(page(command.clone(), name));
    }
    pages
}

fn page(command: clap::Command, name: String) -> (String, Vec<u8>) {
    // What a variable holds here is nobody else's business.
    let command = command.mut_args(|argument| argument.hide_env_values(true));
    let mut text = Vec::new();
    // Writing into memory does not fail.
    let _ = clap_mangen::Man::new(command).render(&mut text);
    (format!("{name}.1"), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_arguments() {
        let pages = pages();
        let text = |name: &str| {
            let page = pages.iter().find(|(known, _)| known == name);
            String::from_utf8(page.unwrap().1.clone()).unwrap()
        };
        assert!(text("mixdown.1").contains("merge"));
        assert!(text("mixdown-merge.1").contains("shard"));
        assert!(pages.len() > 15, "{}", pages.len());
        assert!(pages.iter().all(|(_, page)| page.starts_with(b".ie")));
    }
}
