//! Whether experts can be merged, and why not: what they add to their base, measured in one pass over the
//! tensors, with what the papers say of each finding.

mod document;
mod findings;
mod measure;
pub(crate) mod merged;
mod models;
mod read;

use std::collections::BTreeMap;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, any_error, codes};
use mixdown_plan::{Described, described};
use serde_json::{Value, json};

use crate::models::Reference;
use crate::planning::{PROGRAM_BYTES, TENSOR_BYTES};
use crate::progress::Task;
use crate::recipes::{self, Loaded};
use crate::{Machine, Session, Trouble, page, quantity};

pub use findings::percent;
use measure::{Measured, Outcome};
use models::Compared;

/// What is to be surveyed, and how.
#[derive(Clone, Debug)]
pub struct SurveyRequest {
    /// The base: a folder, a file, or an id at the hub.
    pub base: String,
    /// The experts; an adapter is one on the base, or `BASE+ADAPTER`.
    pub experts: Vec<String>,
    /// Whether the directions of task vectors are counted, which costs most of the arithmetic.
    pub spectra: bool,
    /// What may be used of the machine.
    pub machine: Machine,
    /// Whether files of models may be links out of the model's folder.
    pub follow_links: bool,
}

/// What was found.
#[derive(Debug)]
pub struct Survey {
    /// All of it, as `--json` prints it.
    pub document: Value,
    /// What the user should act on.
    pub warnings: Vec<Diagnostic>,
}

impl Survey {
    /// As one page for a browser, with the document inside.
    pub fn page(&self) -> String {
        page::page("survey", &self.document)
    }
}

/// Surveys experts of a base. The result depends on neither threads nor budget.
///
/// **Errors.** A model that cannot be opened, no expert, a budget too small for one thread, and what reading
/// fails of.
pub fn survey(request: &SurveyRequest, session: &Session<'_>) -> Result<Survey, Trouble> {
    let budget = request.machine.budget();
    let names = names(request);
    let text = recipe(request, &names);
    let mut loaded = recipes::load(Path::new(""), Some(&text), &[], budget.bytes, session)
        .map_err(|found| Trouble::Usage(plain(found)))?;
    let mut found = plain(std::mem::take(&mut loaded.diagnostics));
    if !request.follow_links {
        let models = loaded.models.iter().flat_map(|input| input.model.of_disk());
        found.extend(models.filter_map(|one| crate::beside::links(&one.checkpoint, &[])));
    }
    if any_error(&found) {
        return Err(Trouble::Found(found));
    }
    session.warn(&found);
    let compared = Compared::of(&loaded)?;
    let of_base = of_base(&loaded, &compared);
    let sources = loaded.open();
    let plan = measure::Plan::new(&compared, &of_base, &sources, request.spectra);
    let held = PROGRAM_BYTES
        + (loaded.models.iter().map(|input| input.model.checkpoint.index.len()).sum::<usize>()
            as u64)
            * TENSOR_BYTES;
    let threads =
        threads(&plan, held, request.machine.threads(), budget.bytes).map_err(|need| {
            let headline = "the survey does not fit into the memory budget";
            let error = Diagnostic::error(codes::BUDGET_TOO_SMALL, headline)
                .fact("one thread needs", quantity::bytes(need))
                .fact("budget", quantity::bytes(budget.bytes));
            let help = format!("give it `--memory {}MB`", need.div_ceil(1_000_000));
            Trouble::Found(vec![budget.explain(error).help(help)])
        })?;
    let meter = session.meter(Task::Comparing);
    meter.enter("surveying");
    meter.expect(0, plan.bytes());
    let outcome = session.watch(&meter, || plan.run(threads, &meter, session.cancel));
    let measured: Vec<Option<Measured>> = match outcome {
        Outcome::Done(measured) => measured,
        Outcome::Failed(fault) => return Err(Trouble::Found(vec![*fault])),
        Outcome::Cancelled => {
            return Err(Trouble::Interrupted("interrupted: nothing was written".to_owned()));
        }
    };
    let document = document::document(&document::Told {
        request,
        names: &names,
        loaded: &loaded,
        compared: &compared,
        of_base: &of_base,
        measured: &measured,
    });
    let warnings = findings::warnings(&document);
    Ok(Survey { document, warnings })
}

/// How many threads the budget allows; else the bytes that one needs.
fn threads(plan: &measure::Plan<'_>, held: u64, wanted: usize, budget: u64) -> Result<usize, u64> {
    let fits = |threads: usize| held.saturating_add(plan.needs(threads)) <= budget;
    (1..=wanted.max(1)).rev().find(|&threads| fits(threads)).ok_or(held + plan.needs(1))
}

/// What the family says of the base's tensors.
fn of_base(loaded: &Loaded, compared: &Compared) -> Described {
    let checkpoint = &loaded.models[compared.base.checkpoint as usize].model.checkpoint;
    described(&checkpoint.index, checkpoint.config.as_ref())
}

/// The recipe that opens the models; it is never merged.
fn recipe(request: &SurveyRequest, names: &[String]) -> String {
    let model = |text: &str| {
        let (path, adapter) = match text.split_once('+') {
            Some((base, adapter)) if Path::new(text).symlink_metadata().is_err() => {
                (base, Some(adapter))
            }
            _ => (text, None),
        };
        let of = |text: &str| {
            let reference = Reference::parse(text);
            let mut model = json!({"path": reference.path});
            if let Some(revision) = reference.revision {
                model["revision"] = revision.into();
            }
            model
        };
        let mut model = of(path);
        if let Some(adapter) = adapter {
            model["adapter"] = of(adapter);
        }
        model
    };
    let all = [&request.base].into_iter().chain(&request.experts);
    let models: serde_json::Map<String, Value> =
        names.iter().zip(all).map(|(name, text)| (name.clone(), model(text))).collect();
    let recipe = json!({
        "mixdown": 1, "models": models, "base": names[0], "method": "task_arithmetic",
    });
    format!("{recipe:#}\n")
}

/// Names for the models: the last parts of what was typed, made different from each other.
fn names(request: &SurveyRequest) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let name = |text: &String| {
        let last = text.trim_end_matches('/').rsplit(['/', '+']).next().unwrap_or_default();
        let kept = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name: String = last.chars().map(|c| if kept(c) { c } else { '_' }).collect();
        let name = if name.trim_matches(['.', '_']).is_empty() { "model".to_owned() } else { name };
        let count = seen.entry(name.clone()).or_default();
        *count += 1;
        if *count == 1 { name } else { format!("{name}-{count}") }
    };
    [&request.base].into_iter().chain(&request.experts).map(name).collect()
}

/// Says what was found without speaking of the recipe that the request stands for.
fn plain(found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let bare = |mut one: Diagnostic| {
        let speaks_of_recipes = |help: &String| help.contains("recipe") || help.contains("`base`");
        one.help = one.help.filter(|help| !speaks_of_recipes(help));
        one
    };
    found.into_iter().map(bare).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_get_names_of_their_own() {
        let request = SurveyRequest {
            base: "org/base".to_owned(),
            experts: ["a/base", "b/math/", "org/x+lora: [", "./.."].map(str::to_owned).to_vec(),
            spectra: true,
            machine: Machine::default(),
            follow_links: false,
        };
        let names = names(&request);
        assert_eq!(names, ["base", "base-2", "math", "lora___", "model"]);
        let recipe: Value = serde_json::from_str(&recipe(&request, &names)).unwrap();
        assert_eq!(
            recipe["models"]["lora___"],
            json!({"path": "org/x", "adapter": {"path": "lora: ["}})
        );
    }
}
