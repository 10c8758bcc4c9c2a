//! A search by scores: a program says how good each candidate is; all are known before, or each
//! generation follows from the scores of those before.

use std::collections::HashMap;
use std::time::Instant;

use super::{Host, Place, told, work_folder};
use crate::generate::Failure;
use crate::grid::Candidate;
use crate::objective::minima;
use crate::optimizer::{Optimizer, Stop};
use crate::prompts::Prompt;
use crate::report::{CandidateReport, Optimized, Report};
use crate::responses::Response;
use crate::score::Score;

/// Scores every candidate of the report.
pub(super) fn score_all(
    score: &Score,
    candidates: &[Candidate],
    place: Place<'_>,
    host: &mut dyn Host,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut scoring = Scoring { score, count: candidates.len().to_string(), place, host };
    let mut losses = Vec::new();
    for (position, candidate) in candidates.iter().enumerate() {
        let own = &mut report.candidates[position];
        losses.push(Some(scoring.loss(position, candidate, own)?));
    }
    report.minima = minima(&losses);
    Ok(())
}

/// Scores candidates as the optimizer names them. Only the best merge is kept meanwhile.
pub(super) fn optimize(
    optimizer: &Optimizer,
    score: &Score,
    place: Place<'_>,
    host: &mut dyn Host,
    report: &mut Report,
) -> Result<(), Failure> {
    let count = format!("at most {}", optimizer.budget);
    let mut scoring = Scoring { score, count, place, host };
    let mut search = optimizer.start();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut losses: Vec<Option<f64>> = Vec::new();
    let mut best: Option<usize> = None;
    let stop = loop {
        let generation = search.generations() + 1;
        let mut positions = Vec::new();
        let mut new: Vec<Candidate> = Vec::new();
        let mut is_short = false;
        for candidate in search.candidates() {
            let first = known.len();
            match known.get(&candidate.label) {
                Some(&position) => positions.push(position),
                None if first == optimizer.budget => is_short = true,
                None => {
                    known.insert(candidate.label.clone(), first);
                    positions.push(first);
                    new.push(candidate);
                }
            }
        }
        scoring.host.add(&new)?;
        for candidate in &new {
            let position = losses.len();
            let mut own = CandidateReport::new(candidate);
            own.generation = Some(generation);
            let loss = scoring.loss(position, candidate, &mut own)?;
            report.candidates.push(own);
            losses.push(Some(loss));
            let is_better = best.is_none_or(|best| losses[best].is_none_or(|least| loss < least));
            let worse = if is_better { best.replace(position) } else { Some(position) };
            if let Some(worse) = worse {
                scoring.host.discard(worse)?;
            }
        }
        if is_short {
            break Stop::Budget;
        }
        let told: Vec<f64> = positions.iter().filter_map(|&position| losses[position]).collect();
        if let Some(stop) = search.tell(&told, new.len()) {
            break stop;
        }
    };
    scoring.host.say(&format!("after {} generations: {}", search.generations(), stop.meaning()));
    report.optimized = Some(Optimized {
        generations: search.generations(),
        population: optimizer.population,
        seed: optimizer.seed,
        stop,
    });
    report.minima = minima(&losses);
    Ok(())
}

/// What scoring a candidate needs.
struct Scoring<'a> {
    score: &'a Score,
    /// How many candidates there are, in words.
    count: String,
    place: Place<'a>,
    host: &'a mut dyn Host,
}

impl Scoring<'_> {
    /// The score of a candidate, as what is least for the best.
    fn loss(
        &mut self,
        position: usize,
        candidate: &Candidate,
        own: &mut CandidateReport,
    ) -> Result<f64, Failure> {
        let (id, begun) = (self.score.id(), Instant::now());
        let told = told(candidate, position, &self.count);
        // A score is kept like an answer to the prompt "how good is it".
        let question = Prompt::named("score");
        let known = self.host.known_key(position).and_then(|key| {
            let answer = self.place.cache.get(&key, &id, &question)?;
            Some((key, answer.text.parse::<f64>().ok()?))
        });
        let value = match known {
            Some((key, value)) => {
                (own.model_key, own.cache_hits) = (Some(key), 1);
                value
            }
            None => {
                let merged = self.host.merged(position)?;
                self.host.say(&format!("{told}: scoring"));
                let work = work_folder(self.place.work, candidate)?;
                let stop = self.place.stop;
                let value = self.score.run(candidate, &merged.folder, &merged.key, &work, stop)?;
                let answer = Response::stopped("score", value.to_string());
                self.place.cache.put(&merged.key, &id, &question, &answer)?;
                own.model_key = Some(merged.key);
                value
            }
        };
        self.host.say(&format!("{told}: score {value}"));
        own.score = Some(value);
        own.seconds = begun.elapsed().as_secs_f64();
        Ok(self.score.as_loss(value))
    }
}
