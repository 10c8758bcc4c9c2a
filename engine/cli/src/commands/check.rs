//! `mixdown check`: all mistakes of a recipe, found in headers alone.

use clap::Args;
use mixdown_diagnostics::render;
use mixdown_session::{plan, quantity};
use serde_json::json;

use crate::commands::Outcome;
use crate::exit::{self, Exit};
use crate::recipe::RecipeArguments;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Find all mistakes of a recipe, without reading weights
///
/// Reads the recipe, those it names, and the headers of all models; models at the hub that are not
/// in the cache are fetched. Prints nothing to stdout when all is well, unless asked for JSON.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown check recipe.yaml
  mixdown check recipe.yaml --set parameters.density=0.3
  mixdown check recipe.yaml --json        every diagnostic with its place, for editors

Exit status: 0 without errors, 2 with mistakes in the recipe, 1 where a model cannot be used.")]
pub struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    crate::stop::listen();
    let terminal = Terminal::new(talk);
    let (found, exit) = match plan(&arguments.recipe.input(), &terminal.session(), None) {
        Ok(planned) => {
            if !arguments.json {
                talk.show(&planned.warnings);
                talk.say(&format!(
                    "{} is sound: {} from {}",
                    arguments.recipe.recipe.display(),
                    quantity::count(planned.plan.jobs.len(), "tensor"),
                    quantity::count(planned.plan.models.len(), "model"),
                ));
            }
            (planned.warnings, Exit::Done)
        }
        Err(trouble) => match trouble.found() {
            Some(found) if arguments.json => (found.to_vec(), exit::of_trouble(&trouble)),
            _ => return Err(trouble),
        },
    };
    if arguments.json {
        let mut found = found;
        mixdown_diagnostics::sort(&mut found);
        let value = json!({"ok": exit == Exit::Done, "diagnostics": render::render_json(&found)});
        talk::data(&format!("{value:#}\n"));
    }
    Ok(exit)
}
