//! `mixdown explain`: how one tensor of the output is made, and why.

use clap::Args;
use mixdown_checkpoint::shown;
use mixdown_diagnostics::{Diagnostic, codes, suggest};
use mixdown_plan::{Plan, explain};
use mixdown_session::{Planned, Trouble};
use serde_json::Value;

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::recipe::RecipeArguments;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Show how one tensor of the output is made, and why
///
/// The rule that decided, the parameters with the place that set each, the layer's position in
/// gradients, the inputs, and the operations after fusion.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown explain recipe.yaml model.layers.3.mlp.up_proj.weight
  mixdown explain recipe.yaml lm_head.weight --json")]
pub struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    /// The name of the tensor in the output
    tensor: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    crate::stop::listen();
    let name = &arguments.tensor;
    let terminal = Terminal::new(talk);
    let recipe = arguments.recipe.input();
    let planned = mixdown_session::plan(&recipe, &terminal.session(), Some(name))?;
    talk.show(&planned.warnings);
    let (plan, detail) = (&planned.plan, planned.detail.as_ref());
    let text = match arguments.json {
        true => Some(format!("{:#}\n", document(&planned, name)?)),
        false => explain::tensor(plan, name, detail),
    };
    let Some(text) = text else { return Err(Trouble::Usage(vec![absent(plan, name)])) };
    talk::data(&text);
    Ok(Exit::Done)
}

/// All of it, for programs.
pub fn document(planned: &Planned, name: &str) -> Result<Value, Trouble> {
    let (plan, detail) = (&planned.plan, planned.detail.as_ref());
    let absent = || Trouble::Usage(vec![absent(plan, name)]);
    explain::tensor_json(plan, name, detail).ok_or_else(absent)
}

/// Says why a tensor is not in the output, or which one was meant.
fn absent(plan: &Plan, name: &str) -> Diagnostic {
    let headline = format!("the output has no tensor `{}`", shown(name));
    let diagnostic = Diagnostic::error(codes::UNKNOWN_NAME, headline);
    match suggest::nearest(name, plan.jobs.iter().map(|job| job.name.as_str())) {
        Some(near) => diagnostic.help(format!("did you mean `{}`?", shown(near))),
        None => diagnostic.help("`mixdown plan RECIPE --json` lists all of them"),
    }
}
