//! Runs commands with one fault each, and says what must never happen: a death by anything but the kill, a
//! panic, an output under its name that is not what it should be, and a second run that does not end with
//! the right bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use mixdown_kit::{Outcome, Space};

use crate::commands::{self, Case, Whole, hidden};
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
pub type Files = Vec<(String, Vec<u8>)>;

/// A command that ran undisturbed.
pub struct Reference {
    /// The command.
    pub case: Case,
    /// Names of its calls, and how often each came.
    pub calls: Vec<(String, usize)>,
    files: Files,
    stdout: String,
}

/// One call of a command, and what happens to it.
type Point<'a> = (&'a str, usize, Fault);

/// Tries faults until `until`, at most `most` of them, in an order that `seed` gives.
pub fn run(shim: &Shim, until: Instant, most: usize, seed: u64) -> Figures {
    let mut random = Random::new(seed);
    let references = references(shim);
    let mut figures = Figures::default();
    // A command that only prints makes no call that is watched.
    let with_calls = references.iter().filter(|reference| !reference.calls.is_empty());
    for reference in with_calls.cycle().take(most) {
        if Instant::now() >= until {
            break;
        }
        let (call, count) = &reference.calls[random.below(reference.calls.len())];
        let number = 1 + random.below(*count);
        let faults = faults_of(call);
        let point = (call.as_str(), number, faults[random.below(faults.len())]);
        figures.count(reference, point, meet(shim, reference, point));
    }
    figures
}

/// What a whole campaign tries.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Whether each call of each command fails once, in each way that it can.
    pub failures: bool,
    /// Kills, evenly over all calls of all commands.
    pub kills: usize,
    /// Runs at the same time.
    pub threads: usize,
}

/// How far a campaign is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Faults tried.
    pub tried: usize,
    /// Of so many.
    pub of: usize,
    /// Of these, kills.
    pub kills: usize,
    /// What was wrong so far.
    pub wrong: usize,
}

/// Tries what is wanted until `until`, in an order that is the same on every run, failures first. `tell` hears of each
/// fault that was wrong, and now and then how far it is.
pub fn run_all(
    shim: &Shim,
    wanted: Wanted,
    until: Instant,
    tell: &(dyn Fn(Progress, Option<&str>) + Sync),
) -> Figures {
    let references = references(shim);
    let points = points(&references, wanted);
    let (next, figures) = (AtomicUsize::new(0), Mutex::new(Figures::default()));
    let work = || {
        while Instant::now() < until {
            let Some(&(reference, point)) = points.get(next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            let outcome = meet(shim, reference, point);
            let mut figures = figures.lock().expect("no thread panics while it counts");
            let wrong = figures.count(reference, point, outcome);
            let progress = Progress {
                tried: figures.tried.values().sum(),
                of: points.len(),
                kills: figures.kills,
                wrong: figures.wrong.len(),
            };
            tell(progress, wrong.then(|| figures.wrong.last().map(String::as_str)).flatten());
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..wanted.threads {
            scope.spawn(work);
        }
        work();
    });
    figures.into_inner().expect("no thread panics while it counts")
}

/// All that is tried. Commands take turns, so that what is tried in less time is of all of them.
fn points(references: &[Reference], wanted: Wanted) -> Vec<(&Reference, Point<'_>)> {
    let failures = references.iter().map(|reference| match wanted.failures {
        true => failures(reference),
        false => Vec::new(),
    });
    let all: usize = references.iter().map(Reference::points).sum();
    let kills = references.iter().map(|reference| {
        let own = (wanted.kills * reference.points()).div_ceil(all.max(1));
        // Beyond the count of calls they come again, where threads make each run another one.
        (0..own).map(|kill| reference.kill(kill * reference.points() / own)).collect()
    });
    [
        in_turn(references, &failures.collect::<Vec<_>>()),
        in_turn(references, &kills.collect::<Vec<_>>()),
    ]
    .concat()
}

/// The first points of all commands, then the second ones, and on.
fn in_turn<'a>(
    references: &'a [Reference],
    of_each: &[Vec<Point<'a>>],
) -> Vec<(&'a Reference, Point<'a>)> {
    let longest = of_each.iter().map(Vec::len).max().unwrap_or_default();
    let mut all = Vec::new();
    for round in 0..longest {
        for (reference, points) in references.iter().zip(of_each) {
            all.extend(points.get(round).map(|point| (reference, *point)));
        }
    }
    all
}

/// Each call, failing in each way that it can.
fn failures(reference: &Reference) -> Vec<Point<'_>> {
    let mut points = Vec::new();
    for (call, count) in &reference.calls {
        for fault in faults_of(call).iter().filter(|fault| **fault != Fault::Kill) {
            points.extend((1..=*count).map(|number| (call.as_str(), number, *fault)));
        }
    }
    points
}

/// All commands, run undisturbed.
pub fn references(shim: &Shim) -> Vec<Reference> {
    commands::all().into_iter().map(|case| reference(shim, case)).collect()
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
        Some(output) if space.exists(output) => {
            let mut files = space.files_under(output);
            // What a sweep notes while it runs.
            files.retain(|(name, _)| !name.starts_with('.'));
            // The record of a part knows the input files by their times, which are those of each space.
            if case.name == "merge part" {
                files.retain(|(name, _)| !name.ends_with(".json"));
            }
            files
        }
        _ => Vec::new(),
    }
}

/// The faults that the system can answer a call with.
fn faults_of(call: &str) -> &'static [Fault] {
    use Fault::{Fails, Kill, Short};
    match call {
        "read" | "pread64" => &[Fails("EIO"), Fails("EINTR"), Short, Kill],
        "write" | "pwrite64" => &[Fails("EIO"), Fails("ENOSPC"), Fails("EINTR"), Short, Kill],
        "open64" | "openat64" | "open" | "openat" => {
            &[Fails("EIO"), Fails("EACCES"), Fails("EINTR"), Kill]
        }
        "pthread_create" => &[Fails("EAGAIN"), Kill],
        "flock" => &[Fails("EINTR"), Fails("EIO"), Kill],
        "mkdir" | "rename" | "renameat2" | "ftruncate64" | "link" | "linkat" => {
            &[Fails("EIO"), Fails("ENOSPC"), Kill]
        }
        "ioctl" | "copy_file_range" | "sendfile64" => &[Fails("EINTR"), Fails("EIO"), Kill],
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

impl Figures {
    /// Counts a fault and what came of it. Whether it was wrong.
    fn count(
        &mut self,
        reference: &Reference,
        (call, number, fault): Point<'_>,
        outcome: Result<(), String>,
    ) -> bool {
        self.kills += usize::from(fault == Fault::Kill);
        let name = reference.case.name;
        *self.tried.entry(name).or_default() += 1;
        let wrong = outcome.map_err(|what| format!("{name}: {call} {number} {fault:?}: {what}"));
        let is_wrong = wrong.is_err();
        self.wrong.extend(wrong.err());
        is_wrong
    }
}

fn meet(
    shim: &Shim,
    reference: &Reference,
    (call, number, fault): Point<'_>,
) -> Result<(), String> {
    let case = &reference.case;
    let space = case.space();
    let before = files(&space, case);
    let outcome = shim.run(&space, &case.arguments, (call, number, fault));
    let now = files(&space, case);
    let talk = first_line(&outcome);
    match outcome.status {
        Some(0) if now != reference.files => return Err("done, with other files".to_owned()),
        Some(0) if case.output.is_none() && outcome.stdout != reference.stdout => {
            // The store and remembered digests may be beyond reach, which only tables tell; so may devices.
            if !["plan", "cache list", "cache prune", "devices"].contains(&case.name) {
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
    reference.is_whole(&before, &now)?;
    reference.again(&space, true)
}

/// The first error and its place, or what was said first.
fn first_line(outcome: &Outcome) -> String {
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let error = lines.iter().position(|line| line.starts_with("error")).unwrap_or(0);
    lines[error.min(lines.len())..]
        .iter()
        .take(2)
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The first file that is not as it should be.
fn first_other(wanted: &Files, found: &Files) -> String {
    let of = |files: &Files, name: &str| {
        files.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.clone())
    };
    let names: BTreeSet<&String> = wanted.iter().chain(found).map(|(name, _)| name).collect();
    let others = names.into_iter().filter(|name| of(wanted, name) != of(found, name));
    // The manifest has digests of the others.
    let other = others.min_by_key(|name| name.ends_with("mixdown-manifest.json"));
    let Some(name) = other else { return "none".to_owned() };
    match (of(wanted, name), of(found, name)) {
        (Some(wanted), Some(found)) => {
            let at = wanted.iter().zip(&found).position(|(one, other)| one != other);
            let at = at.unwrap_or(wanted.len().min(found.len()));
            let text = |bytes: &[u8]| {
                let from = at.saturating_sub(20).min(bytes.len());
                String::from_utf8_lossy(&bytes[from..(at + 60).min(bytes.len())]).into_owned()
            };
            format!("{name} from byte {at}: {:?}, not {:?}", text(&found), text(&wanted))
        }
        (None, _) => format!("{name} should not be there"),
        (_, None) => format!("{name} is not there"),
    }
}

impl Reference {
    /// How many calls it makes.
    fn points(&self) -> usize {
        self.calls.iter().map(|(_, count)| *count).sum()
    }

    /// A kill at this one of its calls.
    fn kill(&self, mut at: usize) -> Point<'_> {
        for (call, count) in &self.calls {
            if at < *count {
                return (call, at + 1, Fault::Kill);
            }
            at -= count;
        }
        unreachable!("the point is one of the calls")
    }

    /// What the output's folder holds.
    pub fn files(&self, space: &Space) -> Files {
        files(space, &self.case)
    }

    /// Whether a whole output is there.
    pub fn is_done(&self, space: &Space) -> bool {
        self.files(space) == self.files
    }

    /// Whether what is under the output's name is what was there before, or what should be there.
    pub fn is_whole(&self, before: &Files, now: &Files) -> Result<(), String> {
        let part = |name: &str| match self.case.whole {
            Whole::Folder => String::new(),
            Whole::EachFolder => name.split('/').next().unwrap_or(name).to_owned(),
            Whole::EachFile => name.to_owned(),
        };
        let parts = |files: &Files| {
            let mut parts: BTreeMap<String, Files> = BTreeMap::new();
            for (name, bytes) in files {
                parts.entry(part(name)).or_default().push((name.clone(), bytes.clone()));
            }
            parts
        };
        let (before, wanted) = (parts(before), parts(&self.files));
        for (part, files) in parts(now) {
            if before.get(&part) != Some(&files) && wanted.get(&part) != Some(&files) {
                return Err(format!("half of an output under its name {part}"));
            }
        }
        Ok(())
    }

    /// Whatever happened, the same command ends with the same bytes, and, where its notes were `kept`, without the
    /// unfinished folder; a folder whose notes are lost is nobody's.
    pub fn again(&self, space: &Space, kept: bool) -> Result<(), String> {
        let case = &self.case;
        let Some(output) = case.output else { return Ok(()) };
        let again = mixdown_kit::mixdown(space, &case.arguments);
        let is_there = again.stderr.contains("E0502") && self.is_done(space);
        if again.status != Some(0) && !is_there {
            return Err(format!("and a second run: {}", first_line(&again)));
        }
        if !self.is_done(space) {
            let other = first_other(&self.files, &self.files(space));
            return Err(format!("and a second run gave other files: {other}"));
        }
        if kept && space.exists(hidden(output)) && again.status == Some(0) {
            return Err("and a second run left the unfinished folder".to_owned());
        }
        Ok(())
    }
}
