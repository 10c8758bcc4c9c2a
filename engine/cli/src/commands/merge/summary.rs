//! What a merge says about itself, to people and to programs.

use std::path::Path;
use std::time::Duration;

use mixdown_checkpoint::layout::Layout;
use mixdown_checkpoint::shown_path;
use mixdown_exec::Report;
use mixdown_ops::Backend;
use serde_json::json;

use super::adapter::Update;
use super::{Arguments, adapter, matrices};
use crate::planning::Planned;
use crate::quantity;
use crate::talk::{self, Talk};

/// The first event.
pub fn started(arguments: &Arguments, planned: &Planned, layout: &Layout) {
    if arguments.json {
        talk::event(&json!({
            "event": "started",
            "mixdown": env!("CARGO_PKG_VERSION"),
            "recipe": shown_path(&arguments.recipe.recipe),
            "out": arguments.out.to_string_lossy(),
            "models": planned.plan.models,
            "tensors": planned.plan.jobs.len(),
            "bytes": layout.total_bytes(),
            "shards": layout.shards().len(),
        }));
    }
}

/// A merge that has ended.
pub struct Run<'a> {
    pub planned: &'a Planned,
    pub layout: &'a Layout,
    pub report: &'a Report,
    /// What became of the base's tensors, if an adapter was written.
    pub updates: Option<Vec<Update>>,
}

/// The end of a merge.
pub fn done(
    arguments: &Arguments,
    talk: Talk,
    run: &Run<'_>,
    backend: &dyn Backend,
    elapsed: Duration,
) {
    let Run { planned, layout, report, updates } = run;
    let bytes = layout.total_bytes();
    if arguments.json {
        let mut event = json!({
            "event": "done",
            "out": arguments.out.to_string_lossy(),
            "tensors": planned.plan.jobs.len(),
            "tensors_reused": report.tensors_reused,
            "bytes": bytes,
            "shards": layout.shards().len(),
            "bytes_read": report.bytes_read,
            "bytes_written": report.bytes_written,
            "bytes_shared": report.bytes_shared,
            "peak_bytes": report.peak_bytes,
            "threads": report.threads,
            "backend": backend.name(),
            "matrices": matrices::json(&report.matrices),
            "seconds": elapsed.as_secs_f64(),
            "stages": report.stages.iter().map(|(stage, seconds)| json!({"stage": stage, "seconds": seconds})).collect::<Vec<_>>(),
        });
        if let Some(updates) = updates {
            event["adapter"] = adapter::json(updates);
        }
        talk::event(&event);
        return;
    }
    talk.say(&text(planned.plan.jobs.len(), bytes, report, backend, elapsed));
    if let Some(updates) = updates {
        talk.say(&adapter::line(updates));
    }
    say_where(talk, &arguments.out);
}

/// Another run had done everything but the last cleaning up.
pub fn complete(arguments: &Arguments, talk: Talk, path: &Path) {
    if arguments.json {
        talk::event(
            &json!({"event": "done", "out": path.to_string_lossy(), "tensors_reused": null}),
        );
        return;
    }
    talk.say("an earlier run of this merge had finished already");
    say_where(talk, path);
}

fn say_where(talk: Talk, path: &Path) {
    let shown = quoted(&shown_path(path));
    talk.say(&format!("look at it:  mixdown inspect {shown}\nprove it:    mixdown verify {shown}"));
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
    backend: &dyn Backend,
    elapsed: Duration,
) -> String {
    let mut text = format!(
        "merged {}, {}, in {} at {} on {} ({})",
        quantity::count(tensors, "tensor"),
        quantity::bytes(bytes),
        quantity::time(elapsed),
        quantity::rate(report.bytes_read + report.bytes_written, elapsed),
        quantity::count(report.threads, "thread"),
        backend.describe(),
    );
    if report.tensors_reused > 0 {
        let reused = quantity::count(report.tensors_reused, "tensor");
        text.push_str(&format!("\n{reused} of an interrupted run needed no computing"));
    }
    if let Some(line) = matrices::line(&report.matrices) {
        text.push_str(&format!("\n{line}"));
    }
    if report.bytes_shared > 0 {
        let shared = quantity::bytes(report.bytes_shared);
        text.push_str(&format!("\n{shared} share disk blocks with the inputs"));
    }
    text
}

#[cfg(test)]
mod tests {
    use mixdown_cpu::CpuBackend;
    use mixdown_exec::Outcome;

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
            matrices: Vec::new(),
            warnings: Vec::new(),
        };
        let backend = CpuBackend::new();
        let told = text(35, 1_000_000, &report, &backend, Duration::from_secs(2));
        let start = "merged 35 tensors, 1.00 MB, in 2.00 s at 2.00 MB/s on 2 threads (";
        assert!(told.starts_with(start), "{told}");
        assert!(!told.contains('\n'), "{told}");
        (report.tensors_reused, report.bytes_shared) = (1, 5000);
        let told = text(35, 1_000_000, &report, &backend, Duration::from_secs(2));
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
