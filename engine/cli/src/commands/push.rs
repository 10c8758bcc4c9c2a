//! `mixdown push`: a merged checkpoint goes to the hub.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use mixdown_checkpoint::shown;
use mixdown_session::push::{Commit, PushRequest, push};
use mixdown_session::{quantity, threads};
use serde_json::json;

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::stop;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Put a merged checkpoint at the hub
///
/// Proves the folder against its manifest first, as `mixdown verify` does, so that nothing unfinished or
/// damaged goes out. Then its files go into the repository as one commit, which is there whole or not at all;
/// the repository is made where there is none. What the hub has of an earlier try is not sent again.
///
/// HF_TOKEN says who pushes, and HF_ENDPOINT where the hub is.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown push ./merged org/merged-7b
  mixdown push ./merged me/draft --private --branch try-2 --message \"lambda 0.7\"

Prints the commit's address.

Exit status: 0 done, 1 failed, 2 command line wrong, 130 interrupted.")]
pub struct Arguments {
    /// The folder that a merge made
    folder: PathBuf,
    /// The repository: ORGANIZATION/NAME, or USER/NAME
    repository: String,
    /// Make the repository private, if it is made now
    #[arg(long)]
    private: bool,
    /// The branch, made where there is none; main by default
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
    /// The commit's first line
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
    /// Threads; all processors by default
    #[arg(long, value_name = "N", env = "MIXDOWN_THREADS", hide_env_values = true)]
    threads: Option<NonZeroUsize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let _careful = stop::carefully();
    let terminal = Terminal::new(talk);
    let request = PushRequest {
        folder: arguments.folder,
        repository: arguments.repository,
        branch: arguments.branch,
        message: arguments.message,
        private: arguments.private.then_some(true),
        threads: threads(arguments.threads),
    };
    let commit = push(&request, &terminal.session())?;
    match arguments.json {
        true => {
            let value = json!({"address": commit.address, "files_sent": commit.sent});
            talk::data(&format!("{value:#}\n"));
        }
        false => {
            talk.say(&said(&commit));
            talk::data(&format!("{}\n", shown(&commit.address)));
        }
    }
    Ok(Exit::Done)
}

/// A commit in words.
pub fn said(commit: &Commit) -> String {
    format!("pushed, {} sent", quantity::count(commit.sent, "file"))
}
