//! Whole searches with a host that merges nothing.

use mixdown_diagnostics::Source;
use mixdown_diagnostics::render::{Color, render_all};
use tempfile::TempDir;

use super::*;
use crate::objective::Diff;
use crate::report::CandidateReport;
use crate::settings;

struct FakeHost {
    folder: PathBuf,
    merged: Vec<usize>,
    discarded: Vec<usize>,
    knows: bool,
}

impl Host for FakeHost {
    fn add(&mut self, _: &[Candidate]) -> Result<(), Failure> {
        Ok(())
    }

    fn discard(&mut self, position: usize) -> Result<(), Failure> {
        self.discarded.push(position);
        Ok(())
    }

    fn known_key(&mut self, position: usize) -> Option<String> {
        self.knows.then(|| format!("key {position}"))
    }

    fn merged(&mut self, position: usize) -> Result<Merged, Failure> {
        self.merged.push(position);
        Ok(Merged { folder: self.folder.clone(), key: format!("key {position}") })
    }

    fn say(&mut self, _: &str) {}
}

/// A folder with answers for each candidate: rows of one letter for each prompt.
fn folder(rows: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (label, row) in rows {
        let lines: String = row
            .chars()
            .enumerate()
            .map(|(x, letter)| match letter {
                '!' => format!(
                    "{{\"id\":\"p{x}\",\"finish_reason\":\"error\",\"error\":\"no memory\"}}\n"
                ),
                letter => format!("{{\"id\":\"p{x}\",\"text\":\"{letter}\"}}\n"),
            })
            .collect();
        std::fs::write(folder.path().join(format!("{label}.jsonl")), lines).unwrap();
    }
    let count = rows[0].1.len();
    let prompts: String = (0..count)
        .map(|x| {
            format!(
                "{{\"id\":\"p{x}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{x}\"}}]}}\n"
            )
        })
        .collect();
    std::fs::write(folder.path().join("prompts.jsonl"), prompts).unwrap();
    folder
}

fn run(folder: &TempDir, text: &str, host: &mut FakeHost) -> Result<Report, String> {
    let show = |found: &[Diagnostic]| render_all(found, Color::Plain);
    let source = Source::new("search.yaml", text);
    let settings = settings::read(&source, folder.path()).map_err(|found| show(&found))?;
    let candidates = settings.tried.candidates();
    let chosen = match &settings.objective {
        Objective::Neighbors(neighbors) => {
            choose_prompts(neighbors, &candidates).map_err(|found| show(&found))?
        }
        Objective::Score(_) => Chosen::default(),
    };
    let (cache, work) = (Cache::new(folder.path().join("cache")), folder.path().join("work"));
    let place = Place { cache: &cache, work: &work, stop: &AtomicBool::new(false) };
    search(&settings, &chosen, place, host).map_err(|failure| match failure {
        Failure::Found(found) => show(&found),
        Failure::Interrupted => "interrupted".to_owned(),
    })
}

fn host(folder: &TempDir) -> FakeHost {
    FakeHost {
        folder: folder.path().to_owned(),
        merged: Vec::new(),
        discarded: Vec::new(),
        knows: false,
    }
}

const ROWS: [(&str, &str); 4] = [("0.0", "abc"), ("0.1", "abd"), ("0.2", "aBd"), ("0.3", "xbd")];

fn replay(extra: &str) -> String {
    format!(
        "search: 1\ngrid: {{t: [0.0, 0.1, 0.2, 0.3]}}\ngenerator: {{replay: {{folder: .}}}}\n{extra}"
    )
}

fn values(report: &Report, diff: Diff) -> Vec<Option<f64>> {
    let value = |own: &CandidateReport| {
        own.differences.iter().find(|(known, _)| *known == diff).and_then(|(_, value)| *value)
    };
    report.candidates.iter().map(value).collect()
}

#[test]
fn the_worked_example_is_searched() {
    let folder = folder(&ROWS);
    let mut host = host(&folder);
    let text = replay("objective: {normalize: none}\n");
    let report = run(&folder, &text, &mut host).unwrap();
    assert_eq!(values(&report, Diff::Sum), [None, Some(2.0), Some(3.0), None]);
    assert_eq!(report.chosen, Some(1));
    assert!(host.merged.is_empty(), "answers that exist need no merge");
    let text = replay("objective: {diff: union, ties: largest}\nprompts: prompts.jsonl\n");
    let report = run(&folder, &text, &mut host).unwrap();
    assert_eq!(values(&report, Diff::Union), [None, Some(1.0), Some(1.0), None]);
    assert_eq!((report.minima, report.chosen), (vec![1, 2], Some(2)));
    assert_eq!(report.sample, ["p0", "p1", "p2"]);
}

#[test]
fn chunks_stop_candidates_and_change_nothing() {
    let rows = [
        ("0.0", "aaaaaaaaaa"),
        ("0.1", "aaaaaaaaaa"),
        ("0.2", "aaaaaaaaab"),
        ("0.3", "cccccccccc"),
        ("0.4", "dddddddddd"),
        ("0.5", "eeeeeeeeee"),
    ];
    let folder = folder(&rows);
    let text = "search: 1\ngrid: {t: {from: 0.0, to: 0.5, step: 0.1}}\n\
                generator: {replay: {folder: .}}\n";
    let whole = run(&folder, text, &mut host(&folder)).unwrap();
    let parts = run(&folder, &format!("{text}chunk: 2\n"), &mut host(&folder)).unwrap();
    assert_eq!((&whole.minima, whole.chosen), (&parts.minima, parts.chosen));
    assert!(parts.candidates[5].stopped_after.is_some());
    assert!(parts.candidates[5].prompts < 10 && parts.candidates[1].prompts == 10);
}

#[test]
fn what_failed_equals_nothing_and_is_bounded() {
    let rows = [("0.0", "aaa"), ("0.1", "a!a"), ("0.2", "a!a"), ("0.3", "aaa")];
    let folder = folder(&rows);
    let told = run(&folder, &replay(""), &mut host(&folder)).unwrap_err();
    assert!(told.contains("candidate 0.1 (2 of 4) has too many answers that failed"), "{told}");
    assert!(told.contains("no memory"), "{told}");
    let text = replay("objective: {max_errors: 1}\n");
    let report = run(&folder, &text, &mut host(&folder)).unwrap();
    assert_eq!(values(&report, Diff::Sum), [None, Some(2.0), Some(2.0), None]);
    assert_eq!(report.candidates[1].errors, 1);
}

#[test]
fn missing_answers_and_prompts_are_named() {
    let folder = folder(&ROWS);
    std::fs::write(folder.path().join("0.2.jsonl"), "{\"id\":\"p0\",\"text\":\"a\"}\n").unwrap();
    let told = run(&folder, &replay(""), &mut host(&folder)).unwrap_err();
    assert!(told.contains("`p1`, `p2`") && told.contains("0.2.jsonl"), "{told}");
    let text = replay("sample: {ids: [p0, p9]}\n");
    let told = run(&folder, &text, &mut host(&folder)).unwrap_err();
    assert!(told.contains("`p9`"), "{told}");
    let text = replay("sample: {ids: [p0]}\n");
    let report = run(&folder, &text, &mut host(&folder)).unwrap();
    assert_eq!(report.sample, ["p0"]);
}

/// A program that answers with its value's first digit after the point, or with one letter.
fn command(script: &str, extra: &str) -> String {
    let script = serde_json::Value::from(script);
    format!(
        "search: 1\ngrid: {{t: [0.0, 0.1, 0.2, 0.3]}}\nprompts: prompts.jsonl\n\
         generator: {{command: {{argv: [sh, -c, {script}, sh, '{{prompts}}', '{{out}}']}}}}\n{extra}"
    )
}

const ECHO: &str = "sed 's/{\"id\":\"\\([^\"]*\\)\".*/{\"id\":\"\\1\",\"text\":\"'$MIXDOWN_ALPHA'\"}/' \"$1\" > \"$2\"";

#[test]
fn answers_are_kept_for_the_next_search() {
    let folder = folder(&ROWS);
    let mut host = host(&folder);
    let report = run(&folder, &command(ECHO, "verify: 2\n"), &mut host).unwrap();
    assert_eq!(values(&report, Diff::Sum), [None, Some(6.0), Some(6.0), None]);
    assert_eq!(host.merged, [0, 1, 2, 3]);
    assert_eq!(report.candidates[2].cache_hits, 0);
    assert_eq!(report.verify.unwrap().mismatches, [""; 0]);
    host.merged.clear();
    host.knows = true;
    let report = run(&folder, &command(ECHO, ""), &mut host).unwrap();
    assert!(host.merged.is_empty(), "what is known needs no merge");
    assert_eq!(report.candidates[2].cache_hits, 3);
    assert_eq!(report.candidates[2].model_key.as_deref(), Some("key 2"));
}

#[test]
fn answers_that_change_are_told() {
    let folder = folder(&ROWS);
    let noisy = ECHO.replace("$MIXDOWN_ALPHA", "$$");
    let report = run(&folder, &command(&noisy, "verify: 2\n"), &mut host(&folder)).unwrap();
    assert_eq!(report.verify.unwrap().mismatches, ["p0", "p1"]);
}

#[test]
fn vectors_are_compared() {
    let folder = folder(&[("0.0", "aa"), ("0.1", "aa"), ("0.2", "bb"), ("0.3", "bb")]);
    let embed = |b: &str| {
        let script = format!(
            "sed -e 's/\"text\":\"a\"/\"embedding\":[1,0]/' -e 's/\"text\":\"b\"/\"embedding\":{b}/' \"$1\" > \"$2\""
        );
        let script = serde_json::Value::from(script);
        replay(&format!(
            "objective: {{diff: embedding, embed: [sh, -c, {script}, sh, '{{texts}}', '{{out}}']}}\n"
        ))
    };
    let report = run(&folder, &embed("[0,2]"), &mut host(&folder)).unwrap();
    assert_eq!(values(&report, Diff::Embedding), [None, Some(1.0), Some(1.0), None]);
    let told = run(&folder, &embed("[0,2,1]"), &mut host(&folder)).unwrap_err();
    assert!(told.contains("has another length"), "{told}");
}

#[test]
fn scores_choose_in_any_grid() {
    let folder = folder(&ROWS);
    let mut host = host(&folder);
    let text = "search: 1\ngrid: {a: [1, 3, 2], b: [x, y]}\n\
                objective: {command: [sh, -c, 'echo ${MIXDOWN_ALPHA%%,*} | tr -d a=']";
    let report = run(&folder, &format!("{text}}}\n"), &mut host).unwrap();
    assert_eq!(report.best(), ["a=3, b=x", "a=3, b=y"]);
    assert_eq!((report.chosen, host.merged.len()), (Some(2), 6));
    host.knows = true;
    let report =
        run(&folder, &format!("{text}, goal: minimize, ties: error}}\n"), &mut host).unwrap();
    assert_eq!((report.best().len(), report.chosen), (2, None));
    assert_eq!((report.candidates[0].cache_hits, host.merged.len()), (1, 6));
    let one = "search: 1\ngrid: {a: [1]}\nobjective: {command: [sh, -c, 'echo \"{\\\"score\\\": 2}\"']}\n";
    assert_eq!(run(&folder, one, &mut host).unwrap().chosen, Some(0));
    let bad = "search: 1\ngrid: {a: [1]}\nobjective: {command: [echo, good]}\n";
    let told = run(&folder, bad, &mut host).unwrap_err();
    assert!(told.contains("the score of 1 is no number") && told.contains("good"), "{told}");
}

/// Of all merges the best is kept; each other one goes as soon as a better one is there.
#[test]
fn an_optimizer_keeps_the_best_merge() {
    let folder = folder(&ROWS);
    let mut host = host(&folder);
    let script = "echo \"$MIXDOWN_ALPHA\" | awk '{ print ($1 - 0.25) ^ 2 }'";
    let text = format!(
        "search: 1\ngrid: {{t: {{from: 0, to: 1, step: 0.01}}}}\n\
         optimizer: {{cma_es: {{budget: 14}}}}\n\
         objective: {{command: [sh, -c, \"{}\"], goal: minimize}}\n",
        script.replace('\\', "\\\\").replace('"', "\\\"")
    );
    let report = run(&folder, &text, &mut host).unwrap();
    let count = report.candidates.len();
    assert_eq!(host.merged, (0..count).collect::<Vec<_>>());
    let chosen = report.chosen.unwrap();
    let scores: Vec<f64> = report.candidates.iter().map(|own| own.score.unwrap()).collect();
    assert!(scores.iter().all(|score| *score >= scores[chosen]));
    host.discarded.sort_unstable();
    let others: Vec<usize> = (0..count).filter(|&position| position != chosen).collect();
    assert_eq!(host.discarded, others);
    assert!(report.candidates[chosen].generation.is_some() && report.optimized.is_some());
}
