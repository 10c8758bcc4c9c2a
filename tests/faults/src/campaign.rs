//! Runs commands with one fault each, and says what must never happen: a death by anything but the kill, a
//! panic, an output under its name that is not what it should be, and a second run that does not end with
//! the right bytes.

use std::collections::BTreeMap;
use std::time::Instant;

use mixdown_kit::Space;

use crate::commands::{self, Case};
use crate::random::Random;
use crate::shim::{Fault, Shim};

/// Counts of what was tried, and what was wrong.
#[derive(Debug, Default)]
pub struct Figures {
    /// Faults tried, by command.
    pub tried: BTreeMap<&'static str, usize>,
    /// Of these, runs that were killed.
    pub kills: usize,
    /// What was wrong, one line each.
    pub wrong: Vec<String>,
}

/// Files of an output folder and their bytes.
type Files = Vec<(String, Vec<u8>)>;

/// A command that ran undisturbed.
struct Reference {
    case: Case,
    calls: Vec<(String, usize)>,
    files: Files,
    stdout: String,
}

/// Tries faults until `until`, at most `most` of them, in an order that `seed` gives.
pub fn run(shim: &Shim, until: Instant, most: usize, seed: u64) -> Figures {
    let mut random = Random::new(seed);
    let references: Vec<Reference> =
        commands::all().into_iter().map(|case| reference(shim, case)).collect();
    let mut figures = Figures::default();
    let mut tried = 0;
    while tried < most && Instant::now() < until {
        let reference = &references[tried % references.len()];
        let (call, count) = &reference.calls[random.below(reference.calls.len())];
        let number = 1 + random.below(*count);
        let faults = faults_of(call);
        let fault = faults[random.below(faults.len())];
        figures.kills += usize::from(fault == Fault::Kill);
        *figures.tried.entry(reference.case.name).or_default() += 1;
        if let Err(what) = meet(shim, reference, (call, number, fault)) {
            let name = reference.case.name;
            figures.wrong.push(format!("{name}: {call} {number} {fault:?}: {what}"));
        }
        tried += 1;
    }
    figures
}

fn reference(shim: &Shim, case: Case) -> Reference {
    let space = case.space();
    let (outcome, calls) = shim.count(&space, &case.arguments);
    let outcome = outcome.success();
    let files = files(&space, &case);
    Reference { calls: calls.into_iter().collect(), files, stdout: outcome.stdout, case }
}

fn files(space: &Space, case: &Case) -> Files {
    match case.output {
        Some(output) if space.exists(output) => space.files_under(output),
        _ => Vec::new(),
    }
}

/// The faults that the system can answer a call with.
fn faults_of(call: &str) -> &'static [Fault] {
    use Fault::{Fails, Kill, Short};
    match call {
        "read" | "pread64" => &[Fails("EIO"), Fails("EINTR"), Short, Kill],
        "write" | "pwrite64" => &[Fails("EIO"), Fails("ENOSPC"), Fails("EINTR"), Short, Kill],
        "open64" | "openat64" => &[Fails("EIO"), Fails("EACCES"), Fails("EINTR"), Kill],
        "pthread_create" => &[Fails("EAGAIN"), Kill],
        "flock" => &[Fails("EINTR"), Fails("EIO"), Kill],
        "mkdir" | "rename" | "ftruncate64" | "link" => &[Fails("EIO"), Fails("ENOSPC"), Kill],
        _ => &[Fails("EIO"), Kill],
    }
}

/// Whether a run must come through a fault: the system promises that the same call then succeeds.
fn must_pass(call: &str, fault: Fault) -> bool {
    match fault {
        Fault::Short => true,
        Fault::Fails("EINTR") => call != "flock",
        Fault::Fails("EAGAIN") => call == "pthread_create",
        _ => false,
    }
}

fn meet(
    shim: &Shim,
    reference: &Reference,
    (call, number, fault): (&str, usize, Fault),
) -> Result<(), String> {
    let case = &reference.case;
    let space = case.space();
    let before = files(&space, case);
    let outcome = shim.run(&space, &case.arguments, (call, number, fault));
    let now = files(&space, case);
    let talk = outcome.stderr.lines().next().unwrap_or_default().to_owned();
    match outcome.status {
        Some(0) if now != reference.files => return Err("done, with other files".to_owned()),
        Some(0) if case.output.is_none() && outcome.stdout != reference.stdout => {
            // The store and remembered digests may be beyond reach, which only tables tell.
            if !["plan", "cache list"].contains(&case.name) {
                return Err("done, with other words".to_owned());
            }
        }
        Some(0) => {}
        Some(1 | 2) if must_pass(call, fault) => {
            return Err(format!("was not tried again: {talk}"));
        }
        Some(1 | 2) if outcome.stderr.contains("mistake in its own code") => {
            return Err(format!("a panic: {talk}"));
        }
        Some(1 | 2) => {}
        None if fault == Fault::Kill => {}
        other => return Err(format!("ended with {other:?}: {talk}")),
    }
    let Some(output) = case.output else { return Ok(()) };
    if case.name != "sweep" && now != before && now != reference.files {
        return Err("half of an output under its name".to_owned());
    }
    // Whatever happened, the same command ends with the same bytes.
    let again = mixdown_kit::mixdown(&space, &case.arguments);
    let is_there = again.stderr.contains("E0502") && files(&space, case) == reference.files;
    if again.status != Some(0) && !is_there {
        return Err(format!(
            "and a second run: {}",
            again.stderr.lines().next().unwrap_or_default()
        ));
    }
    if files(&space, case) != reference.files {
        return Err("and a second run gave other files".to_owned());
    }
    let hidden = format!(".{output}.mixdown-partial");
    if space.exists(hidden) && again.status == Some(0) {
        return Err("and a second run left the unfinished folder".to_owned());
    }
    Ok(())
}
