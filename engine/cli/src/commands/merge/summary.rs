//! What a merge says about itself, to people and to programs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use mixdown_checkpoint::{hub, shown_path};
use mixdown_exec::Report;
use mixdown_session::merge::adapter::Update;
use mixdown_session::merge::{Done, Started, losses, quantized};
use mixdown_session::quantity;
use serde_json::{Value, json};

use super::{matrices, updates};
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// The first event.
pub fn started(started: &Started<'_>) -> Value {
    let Started { request, planned, layout } = started;
    json!({
        "event": "started",
        "mixdown": env!("CARGO_PKG_VERSION"),
        "recipe": shown_path(&request.recipe.path),
        "out": request.out.to_string_lossy(),
        "models": planned.plan.models,
        "tensors": layout.tensors().len(),
        "bytes": layout.total_bytes(),
        "shards": layout.shards().len(),
        "part": request.part.map(|part| part.to_string()),
    })
}

/// The end of a merge; `told` is what became of the base's tensors, if an adapter was written.
pub fn done(done: &Done, told: Option<&[Update]>, terminal: &Terminal) {
    if terminal.json {
        talk::event(&event(done, told));
        return;
    }
    let talk = terminal.talk;
    let (tensors, bytes) = (done.layout.tensors().len(), done.layout.total_bytes());
    talk.say(&text(tensors, bytes, &done.report, &done.computed_with, done.elapsed));
    if let Some(part) = done.part {
        let whole = done.out.parent().map_or_else(|| shown_path(&done.out), shown_path);
        let shown = quoted(&whole);
        talk.say(&format!("this is part {part}; when all are there:  mixdown assemble {shown}"));
        talk::data(&format!("{}\n", done.out.display()));
        return;
    }
    if let Some(counts) = mixdown_plan::treatment_counts(&done.planned.plan) {
        talk.say(&format!("tensors: {counts}"));
    }
    if let Some(told) = told {
        talk.say(&updates::line(told));
    }
    say_where(talk, &done.out);
}

/// The last event.
pub fn event(done: &Done, told: Option<&[Update]>) -> Value {
    let Done { planned, layout, report, .. } = done;
    let stages = report.stages.iter();
    let stages = stages.map(|(stage, seconds)| json!({"stage": stage, "seconds": seconds}));
    let mut event = json!({
        "event": "done",
        "out": done.out.to_string_lossy(),
        "part": done.part.map(|part| part.to_string()),
        "tensors": layout.tensors().len(),
        "tensors_reused": report.tensors_reused,
        "bytes": layout.total_bytes(),
        "shards": layout.shards().len(),
        "bytes_read": report.bytes_read,
        "bytes_written": report.bytes_written,
        "bytes_shared": report.bytes_shared,
        "peak_bytes": report.peak_bytes,
        "threads": report.threads,
        "backend": done.backend,
        "treatment": mixdown_plan::treatment_counts(&planned.plan)
            .map(|counts| counts.0.into_iter().collect::<BTreeMap<_, _>>()),
        "matrices": mixdown_session::merge::matrices::json(&report.told.matrices),
        "lost_in_storage": losses::json(&report.told.losses),
        "quantized": quantized::json(&report.told.quantized),
        "seconds": done.elapsed.as_secs_f64(),
        "stages": stages.collect::<Vec<_>>(),
    });
    if let Some(told) = told {
        event["adapter"] = updates::json(told);
    }
    event
}

/// The last event where another run had done everything.
pub fn event_of_earlier(path: &Path) -> Value {
    json!({"event": "done", "out": path.to_string_lossy(), "tensors_reused": null})
}

/// Another run had done everything but the last cleaning up.
pub fn complete(path: &Path, terminal: &Terminal) {
    if terminal.json {
        talk::event(&event_of_earlier(path));
        return;
    }
    terminal.talk.say("an earlier run of this merge had finished already");
    say_where(terminal.talk, path);
}

fn say_where(talk: Talk, path: &Path) {
    let shown = quoted(&shown_path(path));
    let mut text = format!("look at it:  mixdown inspect {shown}");
    // An output in a store is proved where it was fetched to.
    if !hub::is_remote(&path.to_string_lossy()) {
        text.push_str(&format!("\nprove it:    mixdown verify {shown}"));
    }
    talk.say(&text);
    talk::data(&format!("{}\n", path.display()));
}

/// A path as it can be typed into a shell.
pub fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,~".contains(c);
    match !path.is_empty() && path.chars().all(plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

fn text(
    tensors: usize,
    bytes: u64,
    report: &Report,
    computed_with: &str,
    elapsed: Duration,
) -> String {
    let mut text = format!(
        "merged {}, {}, in {} at {} on {} ({})",
        quantity::count(tensors, "tensor"),
        quantity::bytes(bytes),
        quantity::time(elapsed),
        quantity::rate(report.bytes_read + report.bytes_written, elapsed),
        quantity::count(report.threads, "thread"),
        computed_with,
    );
    if report.tensors_reused > 0 {
        let reused = quantity::count(report.tensors_reused, "tensor");
        text.push_str(&format!("\n{reused} of an interrupted run needed no computing"));
    }
    if let Some(line) = matrices::line(&report.told.matrices) {
        text.push_str(&format!("\n{line}"));
    }
    if let Some(line) = losses::line(&report.told.losses) {
        text.push_str(&format!("\n{line}"));
    }
    if let Some(line) = quantized::line(&report.told.quantized) {
        text.push_str(&format!("\n{line}"));
    }
    if report.codes_kept > 0 {
        let kept = quantity::count(report.codes_kept, "tensor");
        text.push_str(&format!("\n{kept} with the codes and scales of an input, as they were"));
    }
    if report.bytes_shared > 0 {
        let shared = quantity::bytes(report.bytes_shared);
        text.push_str(&format!("\n{shared} share disk blocks with the inputs"));
    }
    text
}

#[cfg(test)]
mod tests {
    use mixdown_exec::{Outcome, Told};

    use super::*;

    #[test]
    fn the_summary_tells_what_was_done() {
        let mut report = Report {
            outcome: Outcome::Finished,
            stages: Vec::new(),
            bytes_read: 3_000_000,
            bytes_written: 1_000_000,
            bytes_shared: 0,
            tensors_computed: 35,
            tensors_reused: 0,
            peak_bytes: 0,
            threads: 2,
            stripe_elements: 1,
            codes_kept: 0,
            told: Told::default(),
            warnings: Vec::new(),
        };
        let told = text(35, 1_000_000, &report, "plain", Duration::from_secs(2));
        let start = "merged 35 tensors, 1.00 MB, in 2.00 s at 2.00 MB/s on 2 threads (";
        assert!(told.starts_with(start), "{told}");
        assert!(!told.contains('\n'), "{told}");
        (report.tensors_reused, report.bytes_shared) = (1, 5000);
        let told = text(35, 1_000_000, &report, "plain", Duration::from_secs(2));
        assert!(
            told.contains("\n1 tensor of an interrupted run needed no computing\n5.00 kB share")
        );
    }

    #[test]
    fn commands_to_type_are_quoted() {
        assert_eq!(quoted("a/b-1.0"), "a/b-1.0");
        assert_eq!(quoted("my model"), "'my model'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
