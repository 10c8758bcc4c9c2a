//! The search itself: asks for merged candidates, has them answer or be scored, and chooses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mixdown_diagnostics::{Diagnostic, codes};

use crate::cache::Cache;
use crate::early_exit::EarlyExit;
use crate::generate::{Failure, Generator, Task};
use crate::grid::{Candidate, candidates};
use crate::json_lines::{Line, Lines};
use crate::objective::{Answer, Diff, choose, curve, minima, smooth, vector_curve};
use crate::process::{self, Ended, Program};
use crate::prompts::{self, Prompt};
use crate::report::{CandidateReport, Report};
use crate::responses::{Response, missing, shown_ids};
use crate::score::Score;
use crate::settings::{Answering, Neighbors, Objective, Sample, Settings};
use crate::subset;

/// The placeholders of the program that makes vectors.
pub const EMBED_PLACEHOLDERS: [&str; 2] = ["texts", "out"];

/// A merged candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Its folder.
    pub folder: PathBuf,
    /// The digest of all that its answers depend on.
    pub key: String,
}

/// What the search leaves to others: merging, and telling a person.
pub trait Host {
    /// The key of a candidate that was merged before, even if its folder is gone.
    fn known_key(&mut self, position: usize) -> Option<String>;
    /// The candidate, merged now if it is not there.
    fn merged(&mut self, position: usize) -> Result<Merged, Failure>;
    /// A line for the person.
    fn say(&mut self, text: &str);
}

/// Where a search keeps what it makes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Answers that are kept.
    pub cache: &'a Cache,
    /// A folder with one folder for each candidate, for files of generators.
    pub work: &'a Path,
    /// Raised when somebody asked to stop.
    pub stop: &'a AtomicBool,
}

/// The prompts of a search: all of the file, and those that are asked.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// In the order of the file.
    pub prompts: Vec<Prompt>,
}

/// Reads the prompts and chooses those that are asked; their media are checked.
pub fn choose_prompts(
    neighbors: &Neighbors,
    candidates: &[Candidate],
) -> Result<Chosen, Vec<Diagnostic>> {
    let all = match (&neighbors.prompts, &neighbors.generator) {
        (Some(path), _) => prompts::read(path)?,
        (None, Answering::Replay(replay)) => {
            let first = candidates.first().map_or("", |candidate| candidate.folder.as_str());
            replay.ids(first)?.iter().map(|id| Prompt::named(id)).collect()
        }
        (None, _) => Vec::new(),
    };
    let ids: Vec<&str> = all.iter().map(|prompt| prompt.id.as_str()).collect();
    let positions = match &neighbors.sample {
        Sample::Count(count, seed) => subset::sample(&ids, *count, *seed),
        Sample::Ids(wanted) => subset::named(&ids, wanted).map_err(|unknown| {
            let headline = "`ids` names prompts that there are not";
            let mut error = Diagnostic::error(codes::UNKNOWN_NAME, headline)
                .fact("not there", shown_ids(&unknown));
            if let Some(path) = &neighbors.prompts {
                error = error.in_file(path.to_string_lossy());
            }
            vec![error]
        })?,
    };
    let chosen: Vec<Prompt> = positions.into_iter().map(|k| all[k].clone()).collect();
    if let Some(path) = &neighbors.prompts {
        prompts::check_media(path, &chosen.iter().collect::<Vec<_>>())?;
    }
    Ok(Chosen { prompts: chosen })
}

/// Searches. The report says which candidate is chosen, unless none is for a tie.
pub fn search(
    settings: &Settings,
    chosen: &Chosen,
    place: Place<'_>,
    host: &mut dyn Host,
) -> Result<Report, Failure> {
    let candidates = candidates(&settings.axes);
    let mut report = Report::new(settings, &candidates);
    match &settings.objective {
        Objective::Neighbors(neighbors) => {
            let mut search = Search::new(neighbors, &candidates, &chosen.prompts, place);
            search.run(host)?;
            search.fill(&mut report)?;
        }
        Objective::Score(score) => {
            score_all(score, &candidates, place, host, &mut report)?;
        }
    }
    report.chosen = choose(&report.minima, settings.ties);
    Ok(report)
}

fn score_all(
    score: &Score,
    candidates: &[Candidate],
    place: Place<'_>,
    host: &mut dyn Host,
    report: &mut Report,
) -> Result<(), Failure> {
    let id = score.id();
    let mut losses = Vec::new();
    for (position, candidate) in candidates.iter().enumerate() {
        let begun = Instant::now();
        // A score is kept like an answer to the prompt "how good is it".
        let question = Prompt::named("score");
        let known = host.known_key(position).and_then(|key| {
            let answer = place.cache.get(&key, &id, &question)?;
            Some((key, answer.text.parse::<f64>().ok()?))
        });
        let own = &mut report.candidates[position];
        let value = match known {
            Some((key, value)) => {
                (own.model_key, own.cache_hits) = (Some(key), 1);
                value
            }
            None => {
                let merged = host.merged(position)?;
                host.say(&format!("{}: scoring", told(candidates, position)));
                let work = work_folder(place.work, candidate)?;
                let value = score.run(candidate, &merged.folder, &merged.key, &work, place.stop)?;
                let answer = Response::stopped("score", value.to_string());
                place.cache.put(&merged.key, &id, &question, &answer)?;
                own.model_key = Some(merged.key);
                value
            }
        };
        host.say(&format!("{}: score {value}", told(candidates, position)));
        own.score = Some(value);
        own.seconds = begun.elapsed().as_secs_f64();
        losses.push(Some(score.as_loss(value)));
    }
    report.minima = minima(&losses);
    Ok(())
}

fn told(candidates: &[Candidate], position: usize) -> String {
    let label = &candidates[position].label;
    format!("candidate {label} ({} of {})", position + 1, candidates.len())
}

fn work_folder(work: &Path, candidate: &Candidate) -> Result<PathBuf, Box<Diagnostic>> {
    let folder = work.join(&candidate.folder);
    std::fs::create_dir_all(&folder).map_err(|error| {
        Diagnostic::error(codes::WRITE_FAILED, format!("the folder cannot be made: {error}"))
            .in_file(folder.to_string_lossy())
    })?;
    Ok(folder)
}

/// A search by answers, while it goes on.
struct Search<'a> {
    neighbors: &'a Neighbors,
    candidates: &'a [Candidate],
    prompts: &'a [Prompt],
    place: Place<'a>,
    generator: &'a dyn Generator,
    /// For each candidate, its answers to the first prompts.
    answers: Vec<Vec<Answer>>,
    /// The same as vectors, where these are compared.
    vectors: Vec<Vec<Vec<f64>>>,
    /// The length of all vectors.
    dimension: Option<usize>,
    own: Vec<CandidateReport>,
    exit: EarlyExit,
    verified: Option<(usize, Vec<String>)>,
}

impl<'a> Search<'a> {
    fn new(
        neighbors: &'a Neighbors,
        candidates: &'a [Candidate],
        prompts: &'a [Prompt],
        place: Place<'a>,
    ) -> Self {
        let own = candidates.iter().map(CandidateReport::new).collect();
        Self {
            neighbors,
            candidates,
            prompts,
            place,
            generator: neighbors.generator.generator(),
            answers: vec![Vec::new(); candidates.len()],
            vectors: vec![Vec::new(); candidates.len()],
            dimension: None,
            own,
            exit: EarlyExit::new(neighbors.diff, candidates.len()),
            verified: None,
        }
    }

    fn run(&mut self, host: &mut dyn Host) -> Result<(), Failure> {
        let chunk = self.neighbors.chunk.unwrap_or(self.prompts.len()).max(1);
        let prompts = self.prompts;
        let mut asked = 0;
        for chunk in prompts.chunks(chunk) {
            for position in 0..self.candidates.len() {
                // With one chunk nothing is known yet, and all are asked: also end points that only
                // one neighbor needs.
                if asked > 0 && self.exit.is_stopped(position) {
                    self.own[position].stopped_after.get_or_insert(asked);
                    continue;
                }
                let begun = Instant::now();
                self.ask(position, chunk, asked, host)?;
                self.own[position].seconds += begun.elapsed().as_secs_f64();
            }
            asked += chunk.len();
            self.exit.update(&self.sums(), prompts.len() - asked);
        }
        Ok(())
    }

    fn sums(&self) -> Vec<Option<f64>> {
        match self.neighbors.diff {
            Diff::Embedding => vector_curve(&self.vectors),
            diff => curve(diff, &self.answers),
        }
    }

    /// Has a candidate answer the next prompts.
    fn ask(
        &mut self,
        position: usize,
        chunk: &[Prompt],
        asked: usize,
        host: &mut dyn Host,
    ) -> Result<(), Failure> {
        let generator_id = self.generator.id();
        let mut known: HashMap<&str, Response> = HashMap::new();
        let is_kept = self.generator.needs_model();
        if is_kept && let Some(key) = host.known_key(position) {
            for prompt in chunk {
                if let Some(answer) = self.place.cache.get(&key, &generator_id, prompt) {
                    known.insert(&prompt.id, answer);
                }
            }
            self.own[position].model_key = Some(key);
        }
        self.own[position].cache_hits += known.len();
        let open: Vec<&Prompt> =
            chunk.iter().filter(|prompt| !known.contains_key(prompt.id.as_str())).collect();
        let what = told(self.candidates, position);
        let is_verified = position == 0 && asked == 0 && self.neighbors.verify > 0 && is_kept;
        if open.is_empty() {
            host.say(&format!("{what}: all {} answers are known", chunk.len()));
            if is_verified {
                host.say("nothing is asked twice: the answers were made by an earlier search");
            }
        } else {
            let merged = match is_kept {
                true => host.merged(position)?,
                false => Merged { folder: PathBuf::new(), key: String::new() },
            };
            // The candidate was not known by its key before it was merged.
            for prompt in &open {
                if let Some(answer) = self.place.cache.get(&merged.key, &generator_id, prompt)
                    && is_kept
                {
                    self.own[position].cache_hits += 1;
                    known.insert(&prompt.id, answer);
                }
            }
            let open: Vec<&Prompt> =
                open.into_iter().filter(|p| !known.contains_key(p.id.as_str())).collect();
            if is_kept {
                self.own[position].model_key = Some(merged.key.clone());
            }
            if !open.is_empty() {
                host.say(&format!("{what}: {} prompts", open.len()));
                self.generate(position, &merged, &open, &mut known)?;
            }
            if is_verified && !open.is_empty() {
                self.verify(&merged, chunk, &known, host)?;
            }
        }
        self.take(position, chunk, &known)
    }

    fn task<'t>(
        &'t self,
        position: usize,
        merged: &'t Merged,
        prompts: &'t [&'t Prompt],
        work: &'t Path,
    ) -> Task<'t> {
        Task {
            candidate: &self.candidates[position],
            model_dir: &merged.folder,
            model_key: &merged.key,
            prompts,
            work,
            stop: self.place.stop,
        }
    }

    fn generate<'p>(
        &mut self,
        position: usize,
        merged: &Merged,
        open: &[&'p Prompt],
        known: &mut HashMap<&'p str, Response>,
    ) -> Result<(), Failure> {
        let work = work_folder(self.place.work, &self.candidates[position])?;
        let generator_id = self.generator.id();
        let answers = self.generator.answer(&self.task(position, merged, open, &work));
        let by_id: HashMap<&str, &'p Prompt> =
            open.iter().map(|prompt| (prompt.id.as_str(), *prompt)).collect();
        for response in answers.responses {
            let Some(prompt) = by_id.get(response.id.as_str()) else { continue };
            if self.generator.needs_model() {
                self.place.cache.put(&merged.key, &generator_id, prompt, &response)?;
            }
            known.insert(&prompt.id, response);
        }
        for note in answers.notes {
            if !self.own[position].notes.contains(&note) {
                self.own[position].notes.push(note);
            }
        }
        answers.failure.map_or(Ok(()), Err)
    }

    /// Asks the first prompts again, in reversed order, and remembers which answers differ.
    fn verify(
        &mut self,
        merged: &Merged,
        chunk: &[Prompt],
        known: &HashMap<&str, Response>,
        host: &mut dyn Host,
    ) -> Result<(), Failure> {
        let count = self.neighbors.verify.min(chunk.len());
        let again: Vec<&Prompt> = chunk[..count].iter().rev().collect();
        host.say(&format!("asking {count} prompts again, in reversed order"));
        let work = work_folder(&self.place.work.join("verify"), &self.candidates[0])?;
        let answers = self.generator.answer(&self.task(0, merged, &again, &work));
        if let Some(failure) = answers.failure {
            return Err(failure);
        }
        let differs = |second: &&Response| {
            known.get(second.id.as_str()).is_none_or(|first| {
                first.text != second.text || first.finish_reason != second.finish_reason
            })
        };
        let mut mismatches: Vec<String> =
            answers.responses.iter().filter(differs).map(|answer| answer.id.clone()).collect();
        mismatches.sort();
        if !mismatches.is_empty() {
            host.say(&format!(
                "{} of {count} answers differ when asked again: differences have a floor",
                mismatches.len()
            ));
        }
        self.verified = Some((count, mismatches));
        Ok(())
    }

    /// Takes a candidate's answers to the next prompts.
    fn take(
        &mut self,
        position: usize,
        chunk: &[Prompt],
        known: &HashMap<&str, Response>,
    ) -> Result<(), Failure> {
        let responses: Vec<&Response> =
            chunk.iter().filter_map(|prompt| known.get(prompt.id.as_str())).collect();
        if responses.len() < chunk.len() {
            let ids: Vec<&str> = chunk.iter().map(|prompt| prompt.id.as_str()).collect();
            let found: Vec<Response> = responses.into_iter().cloned().collect();
            let headline = format!("{} left prompts unanswered", told(self.candidates, position));
            return Err(Diagnostic::error(codes::ANSWERS_WRONG, headline)
                .fact("missing", shown_ids(&missing(&ids, &found)))
                .into());
        }
        let normalize = &self.neighbors.normalize;
        let answer = |response: &&Response| match response.is_error() {
            true => Answer::Error,
            false => Answer::Text(normalize.apply(&response.text)),
        };
        let answers: Vec<Answer> = responses.iter().map(answer).collect();
        let failed: Vec<&&Response> =
            responses.iter().filter(|response| response.is_error()).collect();
        let own = &mut self.own[position];
        own.errors += failed.len() as u64;
        own.prompts += chunk.len();
        if own.errors > self.neighbors.max_errors {
            let ids: Vec<&str> = failed.iter().map(|response| response.id.as_str()).collect();
            let what = told(self.candidates, position);
            let headline = format!("{what} has too many answers that failed");
            let mut error = Diagnostic::error(codes::GENERATOR_FAILED, headline)
                .fact("failed", shown_ids(&ids))
                .fact("limit", format!("`max_errors` {}", self.neighbors.max_errors));
            if let Some(reason) = failed.first().and_then(|response| response.error.as_ref()) {
                error = error.note(format!("the first says: {reason}"));
            }
            return Err(error.into());
        }
        if self.neighbors.embed.is_some() {
            let vectors = self.embed(position, &answers, chunk)?;
            self.vectors[position].extend(vectors);
        }
        self.answers[position].extend(answers);
        Ok(())
    }

    /// Vectors of answers, made by a program. What failed has the zero vector, near to nothing.
    fn embed(
        &mut self,
        position: usize,
        answers: &[Answer],
        chunk: &[Prompt],
    ) -> Result<Vec<Vec<f64>>, Failure> {
        let Some(argv) = &self.neighbors.embed else { return Ok(Vec::new()) };
        let work = work_folder(&self.place.work.join("embed"), &self.candidates[position])?;
        let (texts, out, log) =
            (work.join("texts.jsonl"), work.join("embeddings.jsonl"), work.join("stderr.txt"));
        let mut text = String::new();
        let mut asked = Vec::new();
        for (prompt, answer) in chunk.iter().zip(answers) {
            if let Answer::Text(answer) = answer {
                let line = serde_json::json!({"id": prompt.id, "text": answer});
                text.push_str(&format!("{line}\n"));
                asked.push(prompt.id.as_str());
            }
        }
        let _ = std::fs::remove_file(&out);
        std::fs::write(&texts, text).map_err(|error| {
            Diagnostic::error(codes::WRITE_FAILED, format!("texts cannot be written: {error}"))
                .in_file(texts.to_string_lossy())
        })?;
        let shown = [&texts, &out].map(|path| process::absolute(path).display().to_string());
        let values = [("texts", shown[0].as_str()), ("out", shown[1].as_str())];
        let argv = process::fill(argv, &values);
        let name = argv.first().cloned().unwrap_or_default();
        let program = Program { argv, environment: &[], log: &log, stdout: None };
        match program.run(self.neighbors.embed_timeout, self.place.stop)? {
            Ended::Exited(status) if status.success() => {}
            Ended::Interrupted => return Err(Failure::Interrupted),
            ended => {
                let headline = format!("`{name}` made no vectors");
                return Err(process::failure(headline, ended, &log).into());
            }
        }
        let mut found = read_vectors(&out, &asked, &mut self.dimension).map_err(Failure::Found)?;
        let vector = |prompt: &Prompt| found.remove(prompt.id.as_str()).unwrap_or_default();
        Ok(chunk.iter().map(vector).collect())
    }

    /// Puts what was found into the report.
    fn fill(self, report: &mut Report) -> Result<(), Failure> {
        if self.place.stop.load(Ordering::SeqCst) {
            return Err(Failure::Interrupted);
        }
        let diff = self.neighbors.diff;
        report.candidates = self.own;
        report.sample = self.prompts.iter().map(|prompt| prompt.id.clone()).collect();
        report.verify =
            self.verified.map(|(asked, mismatches)| crate::report::Verify { asked, mismatches });
        let mut modes = vec![Diff::Sum, Diff::Union, Diff::Prev];
        if self.neighbors.embed.is_some() {
            modes.push(Diff::Embedding);
        }
        for mode in modes {
            let sums = match mode {
                Diff::Embedding => vector_curve(&self.vectors),
                mode => curve(mode, &self.answers),
            };
            for (position, sum) in sums.into_iter().enumerate() {
                let own = &mut report.candidates[position];
                // Of vectors the mean is told; it has the same minima as the sum.
                let value = match mode {
                    Diff::Embedding => sum.map(|sum| sum / own.prompts.max(1) as f64),
                    _ => sum,
                };
                own.differences.push((mode, value));
            }
        }
        let sums: Vec<Option<f64>> = match diff {
            Diff::Embedding => vector_curve(&self.vectors),
            diff => curve(diff, &self.answers),
        };
        let smoothed = smooth(&sums, self.neighbors.smooth);
        let is_stopped = self.neighbors.chunk.is_some();
        let values: Vec<Option<f64>> = smoothed
            .iter()
            .enumerate()
            .map(|(k, value)| value.filter(|_| !(is_stopped && self.exit.is_out(k))))
            .collect();
        report.minima = minima(&values);
        if self.neighbors.smooth > 0 {
            for (own, value) in report.candidates.iter_mut().zip(&smoothed) {
                own.smoothed = *value;
            }
        }
        Ok(())
    }
}

/// Reads vectors by id, all of one length.
fn read_vectors(
    path: &Path,
    asked: &[&str],
    dimension: &mut Option<usize>,
) -> Result<HashMap<String, Vec<f64>>, Vec<Diagnostic>> {
    let mut lines = Lines::open(path, codes::ANSWERS_WRONG).map_err(|error| vec![*error])?;
    let mut found: HashMap<String, Vec<f64>> = HashMap::new();
    for line in lines.objects() {
        let Some(id) = lines.text(&line, "id").map(str::to_owned) else { continue };
        if !asked.contains(&id.as_str()) {
            lines.report(line.number, format!("`{id}` was not asked"));
            continue;
        }
        let Some(vector) = vector(&line) else {
            lines.report(
                line.number,
                format!("the `embedding` of `{id}` must be a list of numbers"),
            );
            continue;
        };
        let length = *dimension.get_or_insert(vector.len());
        if vector.len() != length {
            let headline = format!("the vector of `{id}` has another length");
            let error = Diagnostic::error(codes::ANSWERS_WRONG, headline)
                .fact("before", length.to_string())
                .fact("here", vector.len().to_string());
            lines.explain(line.number, error);
        }
        if found.insert(id.clone(), vector).is_some() {
            lines.report(line.number, format!("`{id}` is there twice"));
        }
    }
    let missing: Vec<&str> = asked.iter().copied().filter(|id| !found.contains_key(*id)).collect();
    if !missing.is_empty() && lines.found.is_empty() {
        let error = Diagnostic::error(codes::ANSWERS_WRONG, "texts have no vector");
        let name = lines.source.name().to_owned();
        lines.keep(error.in_file(name).fact("missing", shown_ids(&missing)));
    }
    if lines.found.is_empty() { Ok(found) } else { Err(lines.found) }
}

fn vector(line: &Line) -> Option<Vec<f64>> {
    line.object.get("embedding")?.as_array()?.iter().map(serde_json::Value::as_f64).collect()
}

#[cfg(test)]
mod tests;
