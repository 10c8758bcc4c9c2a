//! A search by answers: candidates answer in chunks of prompts, and those that cannot win stop.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use mixdown_diagnostics::{Diagnostic, codes};

use super::{Host, Merged, Place, told, work_folder};
use crate::early_exit::EarlyExit;
use crate::generate::{Answers, Failure, Generator, Task};
use crate::grid::Candidate;
use crate::objective::{Answer, Diff, curve, minima, smooth, vector_curve};
use crate::prompts::Prompt;
use crate::report::{CandidateReport, Report, Verify};
use crate::responses::{Response, missing, shown_ids};
use crate::settings::Neighbors;

/// A search by answers, while it goes on.
pub(super) struct Search<'a> {
    neighbors: &'a Neighbors,
    candidates: &'a [Candidate],
    prompts: &'a [Prompt],
    place: Place<'a>,
    generator: Box<dyn Generator>,
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
    /// Nothing is asked yet.
    pub(super) fn new(
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

    /// Has all candidates answer that can still win.
    pub(super) fn run(&mut self, host: &mut dyn Host) -> Result<(), Failure> {
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

    fn told(&self, position: usize) -> String {
        told(&self.candidates[position], position, &self.candidates.len().to_string())
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
        let what = self.told(position);
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

    /// Has the generator answer in this folder.
    fn answers(
        &mut self,
        position: usize,
        merged: &Merged,
        prompts: &[&Prompt],
        work: &Path,
    ) -> Answers {
        self.generator.answer(&Task {
            candidate: &self.candidates[position],
            model_dir: &merged.folder,
            model_key: &merged.key,
            prompts,
            work,
            stop: self.place.stop,
        })
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
        let answers = self.answers(position, merged, open, &work);
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
        let answers = self.answers(0, merged, &again, &work);
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
            let headline = format!("{} left prompts unanswered", self.told(position));
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
            let what = self.told(position);
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

    /// Vectors of answers. What failed has none, and is near to nothing.
    fn embed(
        &mut self,
        position: usize,
        answers: &[Answer],
        chunk: &[Prompt],
    ) -> Result<Vec<Vec<f64>>, Failure> {
        let Some(embed) = &self.neighbors.embed else { return Ok(Vec::new()) };
        let work = work_folder(&self.place.work.join("embed"), &self.candidates[position])?;
        let mut texts = Vec::new();
        for (prompt, answer) in chunk.iter().zip(answers) {
            if let Answer::Text(answer) = answer {
                texts.push((prompt.id.as_str(), answer.as_str()));
            }
        }
        let mut found = embed.vectors(&texts, &work, self.place.stop, &mut self.dimension)?;
        let vector = |prompt: &Prompt| found.remove(prompt.id.as_str()).unwrap_or_default();
        Ok(chunk.iter().map(vector).collect())
    }

    /// Puts what was found into the report.
    pub(super) fn fill(self, report: &mut Report) -> Result<(), Failure> {
        if self.place.stop.load(Ordering::SeqCst) {
            return Err(Failure::Interrupted);
        }
        let diff = self.neighbors.diff;
        report.candidates = self.own;
        report.sample = self.prompts.iter().map(|prompt| prompt.id.clone()).collect();
        report.verify = self.verified.map(|(asked, mismatches)| Verify { asked, mismatches });
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
