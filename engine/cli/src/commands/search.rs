//! `mixdown search`: merges a recipe at several values of a parameter, and keeps the merge that is best.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use mixdown_checkpoint::shown_path;
use mixdown_session::quantity;
use mixdown_session::search::{Found, SearchRequest, search};

use crate::commands::Outcome;
use crate::commands::merge::summary::quoted;
use crate::exit::Exit;
use crate::machine::Machine;
use crate::recipe::RecipeArguments;
use crate::size;
use crate::stop;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Find the value of a parameter whose merge answers best
///
/// Merges the recipe once for each value, has every merge answer the same prompts, and chooses the
/// value whose answers differ least from those of the values before and after it: no labels are
/// needed. With labels, a program of yours scores each merge instead.
///
/// What is searched, where answers come from and what is compared stands in a file of its own. A
/// search that was interrupted goes on with the same command: merges and answers are kept.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown search recipe.yaml --with search.yaml --out found
  mixdown search recipe.yaml --with search.yaml --out found --keep-candidates --json

A file for --with, where gen.py reads prompts and writes answers, one JSON object per line:
  search: 1
  grid:
    parameters.t: {from: 0.0, to: 0.6, step: 0.1}
  prompts: prompts.jsonl
  generator:
    command:
      argv: [python, gen.py, --model, '{model_dir}', --prompts, '{prompts}', --out, '{out}']
  objective: {diff: sum}

Instead of `command`, a server can answer (`http`), small models in mixdown itself (`embedded`), or
files of earlier runs (`replay`). schemas/search.schema.json describes all keys, for editors too.

With scores an optimizer can choose values of several parameters, of which it tries only some:
  search: 1
  grid:
    parameters.lambda: {from: 0, to: 2}
    parameters.density: {from: 0.1, to: 1}
  optimizer: {cma_es: {budget: 80}}
  objective: {command: [python, score.py, '{model_dir}']}

The folder gets merged/, the chosen merge, and report.html and report.json; state/ holds what a
search goes on from. Prints the chosen merge's folder to stdout, or with --json the report.

Exit status: 0 done, 1 failed, 2 recipe, settings or command line wrong, 130 interrupted.")]
pub struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    /// What is searched and how
    #[arg(long, value_name = "FILE")]
    with: PathBuf,
    /// The folder to make
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Keep all merges, in DIR/candidates
    #[arg(long)]
    keep_candidates: bool,
    /// Where answers are kept; DIR/state/answers by default. Searches can share it
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
    /// Largest file of weights, 5GB by default; 0 for one file. 5B means 5 billion bytes
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    shard_size: Option<u64>,
    /// Merge NaN and infinity like numbers, where they are an error otherwise
    #[arg(long)]
    allow_nonfinite: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    stop::listen();
    let begun = Instant::now();
    let terminal = Terminal::new(talk).reading(arguments.recipe.reading);
    let request = SearchRequest {
        recipe: arguments.recipe.input(),
        settings: arguments.with.clone(),
        out: arguments.out.clone(),
        keep_candidates: arguments.keep_candidates,
        answers: arguments.cache.clone(),
        machine: arguments.machine.of_session(),
        shard_bytes: arguments.shard_size,
        allow_nonfinite: arguments.allow_nonfinite,
        programs: folders_of_programs(),
    };
    let found = search(&request, &terminal.session())?;
    tell(&arguments, talk, &found, begun);
    Ok(Exit::Done)
}

/// Where mixdown's other programs can be: beside this one, or where the system looks for programs.
pub fn folders_of_programs() -> Vec<PathBuf> {
    let own = std::env::current_exe().ok();
    let own = own.and_then(|program| Some(program.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    own.into_iter().chain(std::env::split_paths(&path)).collect()
}

fn tell(arguments: &Arguments, talk: Talk, found: &Found, begun: Instant) {
    let Found { merged, report, chosen } = found;
    let others: Vec<&str> = report
        .best()
        .into_iter()
        .filter(|label| *label != report.candidates[*chosen].label)
        .collect();
    let also = match others.as_slice() {
        [] => String::new(),
        others => format!("; equally good: {}", others.join(", ")),
    };
    let time = quantity::time(begun.elapsed());
    talk.say(&format!("chosen: {}{also}, in {time}", report.candidates[*chosen].label));
    let shown = |path: &Path| quoted(&shown_path(path));
    talk.say(&format!("look at it:  {}", shown(&arguments.out.join("report.html"))));
    match arguments.json {
        true => talk::data(&report.to_json()),
        false => talk::data(&format!("{}\n", merged.display())),
    }
}
