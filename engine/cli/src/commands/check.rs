//! `mixdown check`: all mistakes of a recipe, found in headers alone.

use clap::Args;
use mixdown_diagnostics::{Diagnostic, render};
use mixdown_session::{plan, quantity};
use serde_json::json;

use crate::commands::Outcome;
use crate::exit::{self, Exit};
use crate::machine::Machine;
use crate::recipe::RecipeArguments;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Find all mistakes of a recipe, without reading weights
///
/// Reads the recipe, those it names, and the headers of all models; of models at the hub that are not
/// in the cache only these are fetched, where the hub gives parts of files. A budget of memory that is
/// too small for the merge is among the mistakes.
/// Prints nothing to stdout when all is well, unless asked for JSON.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown check recipe.yaml
  mixdown check recipe.yaml --set parameters.density=0.3
  mixdown check recipe.yaml --memory 2GB  whether that is enough for the merge
  mixdown check recipe.yaml --json        every diagnostic with its place, for editors

Exit status: 0 without errors, 2 with mistakes in the recipe, 1 where a model cannot be used or
memory is too small.")]
pub struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    #[command(flatten)]
    machine: Machine,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    crate::stop::listen();
    let terminal = Terminal::of_headers(talk).reading(arguments.recipe.reading);
    let machine = arguments.machine.of_session();
    let mut recipe = arguments.recipe.input();
    recipe.memory_bytes = machine.memory_bytes;
    let (found, exit) = match plan(&recipe, &terminal.session(), None) {
        Ok(planned) => {
            let chosen = planned.backend(&machine, &terminal.session());
            let costs = chosen.and_then(|chosen| {
                planned.costs(chosen.backend(), &machine)?;
                Ok(chosen.warnings)
            });
            let mut warnings = planned.warnings.clone();
            if let Ok(found) = &costs {
                warnings.extend(found.iter().cloned());
            }
            if let Err(problem) = costs {
                if !arguments.json {
                    talk.show(&planned.warnings);
                    return Err(problem.into());
                }
                let found = [planned.warnings, vec![*problem]].concat();
                let exit = exit::of(&found);
                return shown(found, exit);
            }
            if !arguments.json {
                talk.show(&warnings);
                talk.say(&format!(
                    "{} is sound: {} from {}",
                    arguments.recipe.recipe.display(),
                    quantity::count(planned.plan.jobs.len(), "tensor"),
                    quantity::count(planned.plan.models.len(), "model"),
                ));
            }
            (warnings, Exit::Done)
        }
        Err(trouble) => match trouble.found() {
            Some(found) if arguments.json => (found.to_vec(), exit::of_trouble(&trouble)),
            _ => return Err(trouble),
        },
    };
    if arguments.json {
        return shown(found, exit);
    }
    Ok(exit)
}

/// Prints what was found, for programs.
fn shown(mut found: Vec<Diagnostic>, exit: Exit) -> Outcome {
    mixdown_diagnostics::sort(&mut found);
    let value = json!({"ok": exit == Exit::Done, "diagnostics": render::render_json(&found)});
    talk::data(&format!("{value:#}\n"));
    Ok(exit)
}
