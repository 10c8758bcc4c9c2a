//! A search: a recipe merged at several values of a parameter, and the merge that is best.

mod state;

use std::path::{Path, PathBuf};

use mixdown_checkpoint::{shown_path, stored};
use mixdown_diagnostics::{Diagnostic, Source, codes};
use mixdown_search::cache::Cache;
use mixdown_search::generate::Failure;
use mixdown_search::grid::Candidate;
use mixdown_search::report::Report;
use mixdown_search::run::{self, Chosen, Host, Merged, Place};
use mixdown_search::settings::{self, Objective, Settings, Tried};

use crate::merge::{self, MergeRequest, in_folder, owner_key};
use crate::planning::RecipeInput;
use crate::progress::Meter;
use crate::recipes;
use crate::{Event, Listener, Machine, Session, Silence, Trouble};
use state::State;

/// What to search, where to, and how.
#[derive(Clone, Debug)]
pub struct SearchRequest {
    /// The recipe with its overrides.
    pub recipe: RecipeInput,
    /// The file that says what is searched and how.
    pub settings: PathBuf,
    /// The folder to make.
    pub out: PathBuf,
    /// Keep all merges.
    pub keep_candidates: bool,
    /// Where answers are kept; in the folder of the search if nowhere is named.
    pub answers: Option<PathBuf>,
    /// What merges may use of the machine.
    pub machine: Machine,
    /// Largest file of weights in bytes, 0 for one file.
    pub shard_bytes: Option<u64>,
    /// Merge NaN and infinity like numbers, where they are an error otherwise.
    pub allow_nonfinite: bool,
    /// Folders in which mixdown's other programs are looked for.
    pub programs: Vec<PathBuf>,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// The chosen merge.
    pub merged: PathBuf,
    /// Everything that was compared.
    pub report: Report,
    /// Position of the chosen one among the report's candidates.
    pub chosen: usize,
}

const INTERRUPTED: &str =
    "interrupted: merges and answers are kept; run the same command again to continue";

/// Searches. What was merged and answered is kept, so that the same request goes on where it was.
///
/// **Errors.** Mistakes of recipe and settings together; what stops a merge or a generator; candidates that
/// are equally good where the settings leave that open.
pub fn search(request: &SearchRequest, session: &Session<'_>) -> Result<Found, Trouble> {
    in_folder(&request.out, "a search")?;
    let mut settings = read_settings(request)?;
    if let Objective::Neighbors(neighbors) = &mut settings.objective {
        neighbors.prepare(&request.programs)?;
    }
    let mut merges = Merges::new(request, settings.tried.count(), session);
    let candidates = settings.tried.candidates();
    merges.plan(&candidates)?;
    if let Tried::Optimizer(optimizer) = &settings.tried {
        merges.check(&optimizer.corners())?;
    }
    let chosen = match &settings.objective {
        Objective::Neighbors(neighbors) => run::choose_prompts(neighbors, &candidates)?,
        Objective::Score(_) => Chosen::default(),
    };
    let _working = session.working();
    merges.state.open(&owner_key(session)?)?;
    let cache = request.answers.clone().unwrap_or_else(|| merges.state.answers());
    let (cache, work) = (Cache::new(cache), merges.state.work());
    let place = Place { cache: &cache, work: &work, stop: session.cancel };
    let report = run::search(&settings, &chosen, place, &mut merges).map_err(trouble)?;
    write(request, &report)?;
    let Some(chosen) = report.chosen else { return Err(undecided(request, &report)) };
    merges.place(chosen)?;
    Ok(Found { merged: request.out.join("merged"), report, chosen })
}

fn trouble(failure: Failure) -> Trouble {
    match failure {
        Failure::Found(found) => Trouble::Found(found),
        Failure::Interrupted => Trouble::Interrupted(INTERRUPTED.to_owned()),
    }
}

fn failure(trouble: Trouble) -> Failure {
    match trouble {
        Trouble::Found(found) | Trouble::Usage(found) => Failure::Found(found),
        Trouble::Interrupted(_) => Failure::Interrupted,
    }
}

fn read_settings(request: &SearchRequest) -> Result<Settings, Trouble> {
    let path = &request.settings;
    let text = recipes::read(path).map_err(|error| {
        Trouble::Usage(vec![
            Diagnostic::error(codes::UNREADABLE, format!("the file cannot be read: {error}"))
                .in_file(shown_path(path)),
        ])
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let source = Source::new(shown_path(path), text);
    let settings = settings::read(&source, folder).map_err(Trouble::Usage)?;
    let set_twice = settings.tried.paths().into_iter().find(|path| request.recipe.sets(path));
    match set_twice {
        None => Ok(settings),
        Some(path) => {
            let headline = format!("`{path}` is both searched and set");
            let error = Diagnostic::error(codes::BAD_SET, headline);
            let help = format!("remove `--set {path}=…`");
            Err(Trouble::Usage(vec![error.help(help)]))
        }
    }
}

/// The merges of the candidates.
struct Merges<'a> {
    request: &'a SearchRequest,
    session: &'a Session<'a>,
    /// How many candidates there are, in words.
    count: String,
    candidates: Vec<Candidate>,
    merges: Vec<MergeRequest>,
    identities: Vec<String>,
    state: State,
    /// Warnings that were shown; candidates have most of them in common.
    shown: Vec<Diagnostic>,
}

impl<'a> Merges<'a> {
    /// No candidate is known yet.
    fn new(request: &'a SearchRequest, count: String, session: &'a Session<'a>) -> Self {
        Self {
            request,
            session,
            count,
            candidates: Vec::new(),
            merges: Vec::new(),
            identities: Vec::new(),
            state: State::new(&request.out),
            shown: Vec::new(),
        }
    }

    /// The merge of a candidate, which may replace what is in the way.
    fn merge_of(&self, candidate: &Candidate) -> MergeRequest {
        let recipe = self.request.recipe.with(&candidate.set);
        let out = self.state.candidate(&candidate.folder);
        MergeRequest {
            machine: self.request.machine,
            shard_bytes: self.request.shard_bytes,
            allow_nonfinite: self.request.allow_nonfinite,
            force: true,
            ..MergeRequest::new(recipe, out)
        }
    }

    /// Merges say nothing of their own but progress: what they have to tell is told once for all.
    fn quietly<T>(&self, work: impl FnOnce(&Session<'_>) -> T) -> T {
        let progress = ProgressOnly(self.session.listener);
        work(&Session { listener: &progress, ..*self.session })
    }

    /// Plans the merges of further candidates, so that their mistakes are found before the first of
    /// them is merged.
    fn plan(&mut self, candidates: &[Candidate]) -> Result<(), Trouble> {
        for candidate in candidates {
            let merge = self.merge_of(candidate);
            let (identity, warnings) = self.identity(&merge)?;
            self.candidates.push(candidate.clone());
            self.merges.push(merge);
            self.identities.push(identity);
            self.warn(&warnings);
        }
        Ok(())
    }

    /// Plans merges that need not come to be.
    fn check(&mut self, candidates: &[Candidate]) -> Result<(), Trouble> {
        for candidate in candidates {
            let (_, warnings) = self.identity(&self.merge_of(candidate))?;
            self.warn(&warnings);
        }
        Ok(())
    }

    /// Finds all mistakes of a candidate. What it warns of is told once for all.
    fn identity(&self, merge: &MergeRequest) -> Result<(String, Vec<Diagnostic>), Trouble> {
        let silent = Session { listener: &Silence, ..*self.session };
        merge::identity(merge, &silent)
    }

    fn warn(&mut self, warnings: &[Diagnostic]) {
        let is_new = |warning: &&Diagnostic| {
            !self
                .shown
                .iter()
                .any(|shown| (shown.code, &shown.headline) == (warning.code, &warning.headline))
        };
        let new: Vec<Diagnostic> = warnings.iter().filter(is_new).cloned().collect();
        self.session.warn(&new);
        self.shown.extend(new);
    }

    fn merge(&mut self, position: usize) -> Result<Merged, Trouble> {
        let (identity, folder) = (&self.identities[position], &self.candidates[position].folder);
        let merged = self.state.candidate(folder);
        if !self.state.has_candidate(folder, identity) {
            let (label, count) = (&self.candidates[position].label, &self.count);
            let text = format!("candidate {label} ({} of {count}): merging", position + 1);
            self.session.tell(Event::Notice(&text));
            self.state.clear_candidate(folder, identity)?;
            let merge = &self.merges[position];
            if let merge::Merged::Now(done) =
                self.quietly(|session| merge::merge(merge, session))?
            {
                self.warn(&done.warnings);
            }
        }
        let key = state::model_key(&merged)?;
        self.state.remember_key(&self.identities[position], &key)?;
        Ok(Merged { folder: merged, key })
    }

    /// Puts the chosen merge where it belongs, and removes what is not wanted.
    fn place(&mut self, position: usize) -> Result<(), Trouble> {
        let keep_candidates = self.request.keep_candidates;
        let identity = self.identities[position].clone();
        if !self.state.has_merged(&identity) {
            self.merge(position)?;
            let folder = &self.candidates[position].folder;
            self.state.place(folder, &identity, keep_candidates)?;
        }
        if !keep_candidates {
            self.state.remove_candidates()?;
        }
        Ok(())
    }
}

impl Host for Merges<'_> {
    fn add(&mut self, candidates: &[Candidate]) -> Result<(), Failure> {
        self.plan(candidates).map_err(failure)
    }

    fn known_key(&mut self, position: usize) -> Option<String> {
        self.state.known_key(&self.identities[position])
    }

    fn merged(&mut self, position: usize) -> Result<Merged, Failure> {
        self.merge(position).map_err(failure)
    }

    fn discard(&mut self, position: usize) -> Result<(), Failure> {
        if !self.request.keep_candidates {
            self.state.remove_candidate(&self.candidates[position].folder)?;
        }
        Ok(())
    }

    fn say(&mut self, text: &str) {
        self.session.tell(Event::Notice(text));
    }
}

fn write(request: &SearchRequest, report: &Report) -> Result<(), Box<Diagnostic>> {
    for (name, text) in [("report.json", report.to_json()), ("report.html", report.to_html())] {
        let path = request.out.join(name);
        stored::write_file(&path, text.as_bytes()).map_err(|error| {
            let headline = format!("the report cannot be written: {error}");
            Diagnostic::error(codes::WRITE_FAILED, headline).in_file(shown_path(&path))
        })?;
    }
    Ok(())
}

fn undecided(request: &SearchRequest, report: &Report) -> Trouble {
    let best = report.best().join(", ");
    let error = Diagnostic::error(codes::UNDECIDED, "several candidates are equally good")
        .in_file(shown_path(&request.out.join("report.json")))
        .fact("candidates", best)
        .note("`ties: error` leaves the choice to you; all merges are kept")
        .help("choose one, or write `ties: smallest`");
    error.into()
}

/// Forwards progress alone.
struct ProgressOnly<'a>(&'a dyn Listener);

impl Listener for ProgressOnly<'_> {
    fn watch(&self, meter: &Meter, work: &mut dyn FnMut()) {
        self.0.watch(meter, work);
    }
}
