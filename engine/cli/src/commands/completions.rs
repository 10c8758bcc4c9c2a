//! `mixdown completions`: scripts with which a shell completes mixdown's arguments.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::talk::{self, Talk};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown completions bash > ~/.local/share/bash-completion/completions/mixdown
  mixdown completions zsh > ~/.zfunc/_mixdown
  mixdown completions fish > ~/.config/fish/completions/mixdown.fish")]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

/// Runs the command.
pub fn run(arguments: Arguments, _: Talk) -> Outcome {
    let Arguments { shell } = arguments;
    let mut script = Vec::new();
    let mut command = crate::args::Arguments::command();
    clap_complete::generate(shell, &mut command, "mixdown", &mut script);
    talk::data(&String::from_utf8_lossy(&script));
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        crate::args::Arguments::command().debug_assert();
    }

    /// A command without an example leaves a person with a list of flags.
    #[test]
    fn every_command_shows_examples() {
        for command in crate::args::Arguments::command().get_subcommands() {
            let help = command.clone().render_long_help().to_string();
            let examples = help.matches("\n  mixdown ").count();
            assert!(examples >= 2, "{} has {examples} examples", command.get_name());
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
        }
    }

    #[test]
    fn scripts_name_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            let mut command = crate::args::Arguments::command();
            clap_complete::generate(shell, &mut command, "mixdown", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("inspect") && script.contains("shard-size"), "{shell}");
        }
    }
}
