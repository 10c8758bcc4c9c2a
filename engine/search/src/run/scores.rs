//! A search by scores: a program says how good each candidate is.

use std::time::Instant;

use super::{Host, Place, told, work_folder};
use crate::generate::Failure;
use crate::grid::Candidate;
use crate::objective::minima;
use crate::prompts::Prompt;
use crate::report::Report;
use crate::responses::Response;
use crate::score::Score;

/// Scores every candidate.
pub(super) fn score_all(
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
