//! `mixdown explain`: how one tensor of the output is made, and why.

use clap::Args;
use mixdown_checkpoint::shown;
use mixdown_diagnostics::{Diagnostic, codes, escape, suggest};
use mixdown_plan::{Plan, explain};
use mixdown_session::identified::{Identified, identified};
use mixdown_session::{Device, Machine, Planned, Trouble};
use serde_json::{Value, json};

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
  mixdown explain recipe.yaml lm_head.weight --json
  mixdown explain recipe.yaml model.layers.3.mlp.up_proj.weight --identity")]
pub struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    /// The name of the tensor in the output
    tensor: String,
    /// Show what went into the keys of its results in the store, in place of how it is made: why something
    /// was computed again
    #[arg(long)]
    identity: bool,
    /// Hash the files that its results are made from, where that was not done before
    #[arg(long, requires = "identity")]
    hash_inputs: bool,
    /// Device that computes, which is part of a key: auto, cpu, cuda, or cuda:N
    #[arg(long, default_value_t, env = "MIXDOWN_DEVICE", hide_env_values = true)]
    device: Device,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    crate::stop::listen();
    let name = &arguments.tensor;
    let terminal = Terminal::of_headers(talk).reading(arguments.recipe.reading);
    let recipe = arguments.recipe.input();
    let planned = mixdown_session::plan(&recipe, &terminal.session(), Some(name))?;
    talk.show(&planned.warnings);
    let (plan, detail) = (&planned.plan, planned.detail.as_ref());
    if arguments.identity {
        let job = plan.jobs.iter().position(|job| job.name == *name);
        let job = job.ok_or_else(|| Trouble::Usage(vec![absent(plan, name)]))?;
        let machine = Machine { device: arguments.device, ..Machine::default() };
        let (session, hash) = (terminal.session(), arguments.hash_inputs);
        let chosen = planned.backend(&machine, &session)?;
        let results = identified(&planned, job as u32, chosen.backend(), hash, &session)?;
        talk::data(&match arguments.json {
            true => format!("{:#}\n", identities_json(name, &results)),
            false => identities_text(name, &results),
        });
        return Ok(Exit::Done);
    }
    let text = match arguments.json {
        true => Some(format!("{:#}\n", document(&planned, name)?)),
        false => explain::tensor(plan, name, detail),
    };
    let Some(text) = text else { return Err(Trouble::Usage(vec![absent(plan, name)])) };
    talk::data(&text);
    Ok(Exit::Done)
}

fn identities_text(name: &str, results: &[Identified]) -> String {
    let mut text = String::new();
    for Identified { op, key, is_stored, told } in results {
        let headline = match (op, key) {
            (None, _) => "no result of it is kept; it is made so".to_owned(),
            (Some(op), None) => {
                format!("{op}: no key yet; `mixdown merge` hashes the files that it is made from")
            }
            (Some(op), Some(key)) => {
                let stored = if *is_stored { "in the store" } else { "not in the store" };
                format!("{op}: key {key}, {stored}")
            }
        };
        text.push_str(&format!("{}  {headline}\n{}", escape(name), told.text(2)));
    }
    text
}

fn identities_json(name: &str, results: &[Identified]) -> Value {
    let result = |one: &Identified| {
        json!({
            "op": one.op,
            "key": one.key.map(|key| key.to_string()),
            "is_stored": one.is_stored,
            "identity": one.told.json(),
        })
    };
    json!({"tensor": name, "results": results.iter().map(result).collect::<Vec<_>>()})
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
