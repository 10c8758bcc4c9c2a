//! From a recipe to a plan, with all that was found on the way.

use std::path::PathBuf;

use mixdown_checkpoint::TensorEntry;
use mixdown_checkpoint::hub::{self, far};
use mixdown_diagnostics::{Diagnostic, any_error, codes};
use mixdown_exec::{Footprint, Source};
use mixdown_ops::Backend;
use mixdown_plan::{Detail, Plan};

use crate::beside;
use crate::recipes::{self, Loaded};
use crate::{Machine, Session, Trouble};

/// A recipe as a caller gives it.
#[derive(Clone, Debug, Default)]
pub struct RecipeInput {
    /// Its file: a mergekit configuration, or one that begins with `mixdown: 1`. Where there is a text,
    /// only the name that messages give it.
    pub path: PathBuf,
    /// What it says, where it is no file.
    pub text: Option<String>,
    /// Values that are overridden: their paths in the recipe, and texts as in a recipe.
    pub set: Vec<(String, String)>,
    /// Whether files of models may be links out of the model's folder, which is an error otherwise; those
    /// of the hub's cache are no such links.
    pub follow_links: bool,
    /// Bytes that the work may take, as far as reading tokenizers needs to know; else what the machine has.
    pub memory_bytes: Option<u64>,
}

impl RecipeInput {
    /// A recipe in a file.
    pub fn of_file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// A recipe that a command stands for and nobody wrote: messages do not point into it.
    pub fn made_up(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), ..Self::default() }
    }

    /// The overrides as they are typed.
    pub fn overrides(&self) -> Vec<String> {
        self.set.iter().map(|(path, value)| format!("{path}={value}")).collect()
    }

    /// Whether a value is overridden by this path.
    pub fn sets(&self, path: &str) -> bool {
        self.set.iter().any(|(set, _)| set == path)
    }

    /// The same recipe with more overrides.
    pub fn with(&self, more: &[(String, String)]) -> Self {
        let mut with = self.clone();
        with.set.extend_from_slice(more);
        with
    }
}

/// A plan with what it was made from.
#[derive(Debug)]
pub struct Planned {
    /// Recipes, models and methods.
    pub loaded: Loaded,
    /// What the merge will do.
    pub plan: Plan,
    /// How the tensor that was asked about is made.
    pub detail: Option<Detail>,
    /// What the user should know and may ignore.
    pub warnings: Vec<Diagnostic>,
}

/// What mixdown holds beside the budget's own buffers: its code, stacks and allocator. Measured as
/// the peak of `mixdown merge` of a model of a few kilobytes, rounded up.
pub(crate) const PROGRAM_BYTES: u64 = 8 << 20;

/// What an index holds for each tensor: name, shape, place, and the plan's job for it.
pub(crate) const TENSOR_BYTES: u64 = 1024;

/// Says that packed weights of a model become numbers.
fn unpacked(input: &recipes::Input) -> Option<Diagnostic> {
    let tensors = input.model.checkpoint.index.tensors();
    let is_packed = |tensor: &&TensorEntry| {
        tensor.encoding.as_ref().is_some_and(|encoding| !encoding.is_computed())
    };
    let mut packed = tensors.iter().filter(is_packed).peekable();
    let first = packed.peek()?;
    let (scheme, dtype) = (first.stored_as(), first.model_dtype());
    let others = packed.clone().any(|tensor| tensor.stored_as() != scheme);
    let headline = format!("`{}` is quantized, and the output is not", input.name);
    let diagnostic = Diagnostic::warning(codes::UNPACKED, headline)
        .fact("packed", format!("{} of {} tensors", packed.clone().count(), tensors.len()))
        .fact(
            "stored as",
            if others { format!("{scheme}, and others") } else { scheme.to_owned() },
        );
    Some(diagnostic.note(format!(
        "they are merged as what their codes and scales say, and written as {dtype} where the recipe states no type"
    )))
}

/// Reads, opens and plans. All mistakes are found together.
///
/// With `explain`, how the output's tensor of this name is made is told too.
pub fn plan(
    recipe: &RecipeInput,
    session: &Session<'_>,
    explain: Option<&str>,
) -> Result<Planned, Trouble> {
    let machine = Machine { memory_bytes: recipe.memory_bytes, ..Machine::default() };
    let memory_bytes = machine.budget().bytes;
    let mut loaded =
        recipes::load(&recipe.path, recipe.text.as_deref(), &recipe.set, memory_bytes, session)
            .map_err(Trouble::Usage)?;
    if session.is_cancelled() {
        let text = "interrupted: nothing was written; what was fetched of the models is kept";
        return Err(Trouble::Interrupted(text.to_owned()));
    }
    let mut found = std::mem::take(&mut loaded.diagnostics);
    let outcome = loaded.compile(explain);
    found.extend(outcome.diagnostics);
    found.extend(beside::check(&loaded, outcome.plan.as_ref(), recipe.follow_links));
    let is_quantized = outcome.plan.as_ref().is_some_and(Plan::is_quantized);
    found.extend(loaded.models.iter().filter(|_| !is_quantized).filter_map(unpacked));
    match outcome.plan {
        Some(plan) if !any_error(&found) => {
            Ok(Planned { loaded, plan, detail: outcome.detail, warnings: found })
        }
        // Whatever else is wrong, the recipe must be corrected first.
        _ if loaded.is_partial => Err(Trouble::Usage(found)),
        _ => Err(Trouble::Found(found)),
    }
}

impl Planned {
    /// What running it on this machine will read, write and hold, and how it is run there.
    ///
    /// **Errors.** `BUDGET_TOO_SMALL`, with where the budget comes from.
    pub fn costs(
        &self,
        backend: &dyn Backend,
        machine: &Machine,
    ) -> Result<(Footprint, mixdown_exec::Options), Box<Diagnostic>> {
        self.costs_beside(backend, machine, 0)
    }

    /// The same beside what holds so many bytes on top.
    ///
    /// **Errors.** Those of [`costs`](Self::costs).
    pub(crate) fn costs_beside(
        &self,
        backend: &dyn Backend,
        machine: &Machine,
        held_bytes: u64,
    ) -> Result<(Footprint, mixdown_exec::Options), Box<Diagnostic>> {
        let budget = machine.budget();
        let mut options = self.options(budget.bytes, machine.threads());
        options.held_bytes += held_bytes;
        match self.footprint(backend, &options) {
            Ok(footprint) => Ok((footprint, options)),
            Err(problem) if problem.code == codes::BUDGET_TOO_SMALL => {
                Err(Box::new(budget.explain(*problem)))
            }
            Err(problem) => Err(problem),
        }
    }

    /// How the plan is run.
    fn options(&self, memory_bytes: u64, threads: usize) -> mixdown_exec::Options {
        let tensors: usize =
            self.loaded.models.iter().map(|input| input.model.checkpoint.index.len()).sum();
        let held_bytes = PROGRAM_BYTES + (tensors + self.plan.jobs.len()) as u64 * TENSOR_BYTES;
        let mut shards =
            self.loaded.models.iter().flat_map(|one| one.model.checkpoint.index.shards());
        let is_remote = shards.any(|shard| far::is_stand_in(&shard.path));
        // Who reads headers only asks about a merge that will have fetched the models.
        let stays_remote = |one: &recipes::Input| hub::is_remote(&one.reference);
        let is_remote =
            is_remote && (!self.loaded.of_headers || self.loaded.models.iter().any(stays_remote));
        let held_bytes = held_bytes + if is_remote { far::HELD_BYTES } else { 0 };
        mixdown_exec::Options { threads, memory_bytes, held_bytes, ..Default::default() }
    }

    /// What running it will read, write and hold.
    fn footprint(
        &self,
        backend: &dyn Backend,
        options: &mixdown_exec::Options,
    ) -> Result<Footprint, Box<Diagnostic>> {
        let indexes: Vec<_> =
            self.loaded.models.iter().map(|input| &input.model.checkpoint.index).collect();
        mixdown_exec::footprint(&self.plan, &indexes, backend, options)
    }

    /// The data of the models, in the plan's order. Files are opened when they are read.
    pub fn sources(&self) -> Vec<Source<'_>> {
        self.loaded.open()
    }
}
