//! What a search found, for programs and for people.

mod page;

use serde_json::{Map, Value, json};

use crate::decimal::Decimal;
use crate::grid::Candidate;
use crate::objective::Diff;
use crate::optimizer::Stop;
use crate::score::{GOALS, Goal};
use crate::settings::{Objective, Settings};

/// What a search found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Paths of the parameters.
    pub parameters: Vec<String>,
    /// What was decided by: `sum`, `union`, `prev`, `embedding` or `score`.
    pub objective: String,
    /// Which scores are good, where it was decided by a score.
    pub goal: Option<Goal>,
    /// The candidates, in order.
    pub candidates: Vec<CandidateReport>,
    /// Positions of all equally good candidates.
    pub minima: Vec<usize>,
    /// The position of the chosen one; none where a tie is for a person to decide.
    pub chosen: Option<usize>,
    /// Names of the prompts that were asked.
    pub sample: Vec<String>,
    /// What came of asking twice.
    pub verify: Option<Verify>,
    /// What an optimizer did.
    pub optimized: Option<Optimized>,
}

/// What an optimizer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Optimized {
    /// Whole generations that it learned from.
    pub generations: u64,
    /// Candidates of a generation.
    pub population: usize,
    /// The seed of its sequence.
    pub seed: u64,
    /// Why it stopped.
    pub stop: Stop,
}

/// What came of asking twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    /// How many prompts.
    pub asked: usize,
    /// Those whose answers differed.
    pub mismatches: Vec<String>,
}

/// What was found of one candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateReport {
    /// Its name.
    pub label: String,
    /// Path and value of each parameter.
    pub set: Vec<(String, String)>,
    /// The digest of all that its answers depend on; none where no model was needed.
    pub model_key: Option<String>,
    /// Its difference in each way of counting; none where it cannot be chosen.
    pub differences: Vec<(Diff, Option<f64>)>,
    /// The mean over neighbors that was decided by.
    pub smoothed: Option<f64>,
    /// Its score.
    pub score: Option<f64>,
    /// Prompts that it was asked.
    pub prompts: usize,
    /// Answers that failed.
    pub errors: u64,
    /// Answers that were known.
    pub cache_hits: usize,
    /// Wall time of merging and answering.
    pub seconds: f64,
    /// After how many prompts it could not win any more and was not asked further.
    pub stopped_after: Option<usize>,
    /// What its generator told.
    pub notes: Vec<String>,
    /// The generation of an optimizer that it belongs to, from 1.
    pub generation: Option<u64>,
}

impl CandidateReport {
    /// Nothing is known yet.
    pub fn new(candidate: &Candidate) -> Self {
        Self {
            label: candidate.label.clone(),
            set: candidate.set.clone(),
            model_key: None,
            differences: Vec::new(),
            smoothed: None,
            score: None,
            prompts: 0,
            errors: 0,
            cache_hits: 0,
            seconds: 0.0,
            stopped_after: None,
            notes: Vec::new(),
            generation: None,
        }
    }

    fn to_json(&self) -> Value {
        let set: Map<String, Value> =
            self.set.iter().map(|(path, value)| (path.clone(), value.as_str().into())).collect();
        let differences: Map<String, Value> =
            self.differences.iter().map(|(diff, d)| (diff.word().into(), number(*d))).collect();
        let mut out = json!({
            "candidate": self.label,
            "set": set,
            "model_key": self.model_key,
            "errors": self.errors,
            "cache_hits": self.cache_hits,
            "seconds": self.seconds,
        });
        match self.score {
            Some(score) => out["score"] = number(Some(score)),
            None => {
                out["prompts"] = self.prompts.into();
                out["differences"] = differences.into();
                out["stopped_early"] = self.stopped_after.is_some().into();
                out["stopped_after"] = self.stopped_after.into();
            }
        }
        if let Some(smoothed) = self.smoothed {
            out["smoothed"] = number(Some(smoothed));
        }
        if let Some(generation) = self.generation {
            out["generation"] = generation.into();
        }
        if !self.notes.is_empty() {
            out["notes"] = self.notes.clone().into();
        }
        out
    }
}

/// Counts as whole numbers.
fn number(value: Option<f64>) -> Value {
    match value {
        Some(value) if value.fract() == 0.0 && value.abs() < 9e15 => (value as i64).into(),
        value => value.into(),
    }
}

impl Report {
    /// Nothing is known yet.
    pub fn new(settings: &Settings, candidates: &[Candidate]) -> Self {
        let (objective, goal) = match &settings.objective {
            Objective::Neighbors(neighbors) => (neighbors.diff.word(), None),
            Objective::Score(score) => ("score", Some(score.goal)),
        };
        Self {
            parameters: settings.tried.paths().into_iter().map(str::to_owned).collect(),
            objective: objective.to_owned(),
            goal,
            candidates: candidates.iter().map(CandidateReport::new).collect(),
            minima: Vec::new(),
            chosen: None,
            sample: Vec::new(),
            verify: None,
            optimized: None,
        }
    }

    /// Labels of all equally good candidates.
    pub fn best(&self) -> Vec<&str> {
        self.minima.iter().map(|&k| self.candidates[k].label.as_str()).collect()
    }

    /// The report for programs.
    pub fn to_json(&self) -> String {
        let mut out = json!({
            "search": 1,
            "parameters": self.parameters,
            "objective": self.objective,
            "chosen": self.chosen.map(|k| self.candidates[k].label.as_str()),
            "minima": self.best(),
            "candidates": self.candidates.iter().map(CandidateReport::to_json).collect::<Vec<_>>(),
            "sample": self.sample,
        });
        if let Some(goal) = self.goal {
            out["goal"] =
                GOALS.iter().find(|(_, known)| *known == goal).map_or("", |(word, _)| *word).into();
        }
        if let Some(verify) = &self.verify {
            out["verify"] = json!({"asked": verify.asked, "mismatches": verify.mismatches});
        }
        if let Some(optimized) = &self.optimized {
            out["optimizer"] = json!({
                "name": "cma_es",
                "generations": optimized.generations,
                "population": optimized.population,
                "seed": optimized.seed,
                "stopped": optimized.stop.word(),
            });
        }
        format!("{out:#}\n")
    }

    /// The report for people: one page that needs nothing else.
    pub fn to_html(&self) -> String {
        page::page(self)
    }

    /// The value that a candidate was judged by.
    fn decisive(&self, position: usize) -> Option<f64> {
        let own = &self.candidates[position];
        let difference = own.differences.iter().find(|(diff, _)| diff.word() == self.objective);
        own.score.or(difference.and_then(|(_, value)| *value))
    }

    /// Lines to draw.
    fn curves(&self) -> Vec<Curve> {
        let mut curves: Vec<Curve> = Vec::new();
        for (position, candidate) in self.candidates.iter().enumerate() {
            let differences =
                candidate.differences.iter().map(|(diff, value)| (diff.word(), *value));
            let score = candidate.score.map(|score| ("score", Some(score)));
            for (name, value) in differences.chain(score) {
                let Some(value) = value else { continue };
                match curves.iter_mut().find(|curve| curve.name == name) {
                    Some(curve) => curve.points.push((position, value)),
                    None => {
                        curves
                            .push(Curve { name: name.to_owned(), points: vec![(position, value)] });
                    }
                }
            }
        }
        curves
    }

    /// The values of a parameter, if all are numbers.
    fn numbers(&self, parameter: usize) -> Option<Vec<f64>> {
        let number = |own: &CandidateReport| {
            own.set.get(parameter).and_then(|(_, value)| Decimal::parse(value)).map(Decimal::to_f64)
        };
        self.candidates.iter().map(number).collect()
    }
}

/// What one way of judging says of the candidates: position and value.
#[derive(Clone, Debug)]
struct Curve {
    name: String,
    points: Vec<(usize, f64)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::{Axis, candidates};

    pub(super) fn report() -> Report {
        let values = ["0.0", "0.1", "0.2", "0.3"].map(str::to_owned).to_vec();
        let candidates = candidates(&[Axis { path: "parameters.t".into(), values }]);
        let mut candidates: Vec<CandidateReport> =
            candidates.iter().map(CandidateReport::new).collect();
        for (k, value) in [(1, 2.0), (2, 3.0)] {
            candidates[k].differences = vec![(Diff::Sum, Some(value)), (Diff::Union, Some(1.0))];
        }
        candidates[3].differences = vec![(Diff::Sum, None), (Diff::Union, None)];
        candidates[2].stopped_after = Some(2);
        Report {
            parameters: vec!["parameters.t".into()],
            objective: "sum".into(),
            goal: None,
            candidates,
            minima: vec![1],
            chosen: Some(1),
            sample: vec!["<a&b>".into()],
            verify: Some(Verify { asked: 2, mismatches: vec!["x".into()] }),
            optimized: None,
        }
    }

    #[test]
    fn the_report_for_programs() {
        let value: Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(value["chosen"], "0.1");
        assert_eq!(value["minima"], json!(["0.1"]));
        assert_eq!(value["candidates"][1]["differences"], json!({"sum": 2, "union": 1}));
        assert_eq!(value["candidates"][3]["differences"]["sum"], Value::Null);
        assert_eq!(value["candidates"][2]["stopped_early"], true);
        assert_eq!(value["verify"]["mismatches"], json!(["x"]));
    }
}
