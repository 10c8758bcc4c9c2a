//! `mixdown mergekit-yaml`: the arguments of mergekit's program, so that a script changes one word.

mod switches;

use std::path::{Path, PathBuf};

use clap::Args;
use mixdown_checkpoint::manifest::{MANIFEST_NAME, Manifest};
use mixdown_checkpoint::{shown_path, verify};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_session::merge::{Keep, MergeRequest, merge};
use mixdown_session::mergekit::check_architectures;
use mixdown_session::{RecipeInput, Session, Silence, Trouble};

use crate::commands::Outcome;
use crate::commands::merge::tell;
use crate::machine::Machine;
use crate::reading::Reading;
use crate::stop;
use crate::talk::Talk;
use crate::terminal::Terminal;

/// Names that one message lists.
const MOST_NAMED: usize = 8;

/// Merge with the arguments of mergekit-yaml
///
/// Everything that mergekit-yaml takes is understood, in any order: what decides about the result is
/// followed, and what only says how mergekit works has no effect and is told. A folder that an earlier merge
/// made is replaced, as mergekit does; one that holds other files is an error.
///
/// Models whose configurations name different architectures are an error without --allow-crimes.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = switches::HELP)]
pub struct Arguments {
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    reading: Reading,
    /// The configuration, the folder to make, and mergekit's switches
    #[arg(required = true, num_args = 1.., allow_hyphen_values = true, trailing_var_arg = true)]
    #[arg(value_name = "CONFIG OUT [SWITCHES]")]
    words: Vec<String>,
}

impl Arguments {
    /// Whether they ask to say nothing but errors.
    pub fn is_quiet(&self) -> bool {
        self.words.iter().any(|word| word == "--quiet")
    }
}

/// Whether there is an earlier output, which mergekit replaces without being asked.
///
/// **Errors.** What a person added to it would go with it.
fn is_replaced(out: &Path) -> Result<bool, Trouble> {
    if !out.join(MANIFEST_NAME).is_file() {
        return Ok(false);
    }
    let manifest = Manifest::read(out)?;
    let added = verify::strangers(out, &manifest).map_err(|error| {
        let headline = format!("the folder of the output cannot be read: {error}");
        Box::new(Diagnostic::error(codes::UNREADABLE, headline).in_file(shown_path(out)))
    })?;
    if added.is_empty() {
        return Ok(true);
    }
    let headline = "the output would replace files that are not of the merge before";
    let mut fault = Diagnostic::error(codes::OUTPUT_EXISTS, headline).in_file(shown_path(out));
    for path in added.iter().take(MOST_NAMED) {
        fault = fault.fact("added", shown_path(path));
    }
    if added.len() > MOST_NAMED {
        fault = fault.note(format!("and {} more", added.len() - MOST_NAMED));
    }
    Err(Trouble::Found(vec![fault.help("put them elsewhere, or name another folder")]))
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let terminal = Terminal::of_events(talk, false).reading(arguments.reading);
    let session = terminal.session();
    let understood = switches::understand(&arguments.words).map_err(Trouble::Usage)?;
    session.warn(&understood.warnings);
    let out = PathBuf::from(&understood.out);
    let mut machine = arguments.machine;
    machine.threads = understood.threads.or(machine.threads);
    let mut recipe = RecipeInput::of_file(&understood.config);
    if let Some(seed) = understood.seed {
        recipe.set.push(("random_seed".to_owned(), seed.to_string()));
    }
    let request = MergeRequest {
        machine: machine.of_session(),
        shard_bytes: understood.shard_bytes,
        force: is_replaced(&out)?,
        keep: Keep::Shared,
        ..MergeRequest::new(recipe, out)
    };
    if !understood.allows_crimes {
        // What else is to be told, the merge itself tells.
        let silent = Session { listener: &Silence, ..session };
        check_architectures(&mixdown_session::plan(&request.recipe, &silent, None)?)?;
    }
    merge(&request, &session).map(|merged| tell(&merged, &terminal, false))
}
