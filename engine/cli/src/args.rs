//! What can be typed: the flags that all commands have.

use clap::Parser;
use mixdown_recipe::Pattern;

use crate::commands::Command;
use crate::talk::ColorChoice;

/// Merges neural-network checkpoints.
///
/// A recipe in YAML says what goes in and how it is merged. mixdown checks it against the
/// checkpoints' headers, then streams the result to disk within a memory budget. Configurations of
/// mergekit run unchanged.
#[derive(Debug, Parser)]
#[command(name = "mixdown", version, arg_required_else_help = true, propagate_version = true)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
#[command(after_long_help = "\
Examples:
  mixdown merge recipe.yaml --out merged     merge, and write the model to the folder merged
  mixdown check recipe.yaml                  find every mistake without reading weights
  mixdown methods ties                       what a method does, and its parameters

Exit status: 0 done, 1 failed, 2 recipe or command line wrong, 130 interrupted.
A model that is nowhere to be found counts as a wrong recipe; one that is there and cannot be used
counts as a failure.")]
pub struct Arguments {
    /// When to color what goes to stderr
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A pattern of tensor names, as in recipes.
pub fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| match error.help {
        Some(help) => format!("{}; {help}", error.message),
        None => error.message,
    })
}

/// An override of a recipe's value: the path and the value.
pub fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.is_empty() => Ok((path.to_owned(), value.to_owned())),
        _ => Err("write PATH=VALUE, for instance parameters.lambda=0.5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_has_a_path_and_a_value() {
        let pair = |path: &str, value: &str| Ok((path.to_owned(), value.to_owned()));
        assert_eq!(assignment("parameters.t=0.5"), pair("parameters.t", "0.5"));
        assert_eq!(assignment("note=a=b"), pair("note", "a=b"));
        assert_eq!(assignment("t="), pair("t", ""));
        assert!(assignment("t").is_err());
        assert!(assignment("=1").is_err());
    }
}
