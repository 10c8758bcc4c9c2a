//! Power cuts: a run is recorded, and the disk made what it may be when the power goes after any of its
//! changes, with what was not stored lost. Then no half of an output may stand under its name, and the same
//! command must end with the same bytes.

use std::collections::BTreeMap;
use std::time::Instant;

use mixdown_kit::Space;

use crate::campaign::{Files, Reference, references};
use crate::disk::{LOSSES, Loss, Recording};
use crate::random::Random;
use crate::shim::Shim;
use crate::tape;

/// Counts of what was tried, and what was wrong.
#[derive(Debug, Default)]
pub struct Figures {
    /// Power cuts tried, by command.
    pub tried: BTreeMap<&'static str, usize>,
    /// Moments of all recorded runs.
    pub moments: usize,
    /// What was wrong, one line each.
    pub wrong: Vec<String>,
}

/// A run that was recorded.
struct Recorded {
    reference: Reference,
    space: Space,
    before: Files,
    recording: Recording,
}

/// Cuts the power until `until`, at most `most` times, at moments that `seed` gives, evenly over commands;
/// none where the system does not let all changes be seen. `tell` hears how many there were, and what was wrong.
pub fn run(
    shim: &Shim,
    until: Instant,
    most: usize,
    seed: u64,
    mut tell: impl FnMut(usize, Option<&str>),
) -> Option<Figures> {
    let mut random = Random::new(seed);
    let mut figures = Figures::default();
    let writing = references(shim).into_iter().filter(|reference| reference.case.output.is_some());
    let runs: Option<Vec<Recorded>> = writing.map(|reference| record(shim, reference)).collect();
    let runs = runs?;
    figures.moments = runs.iter().map(|run| run.recording.moments()).sum();
    // The end of each run first: what was told to be done is there.
    let ends = runs.iter().map(|run| (run, run.recording.moments() - 1, Loss::All));
    let others = runs.iter().cycle().map(|run| {
        let moments = run.recording.moments();
        // Half of the cuts near the end, where names are given.
        let last = random.below(2) == 0;
        let moment =
            if last { moments - 1 - random.below(moments.min(40)) } else { random.below(moments) };
        (run, moment, LOSSES[random.below(LOSSES.len())])
    });
    for (tried, (run, moment, loss)) in ends.chain(others).take(most).enumerate() {
        if Instant::now() >= until {
            break;
        }
        let name = run.reference.case.name;
        *figures.tried.entry(name).or_default() += 1;
        if let Err(what) = cut(run, moment, loss, seed.wrapping_add(tried as u64)) {
            let of = run.recording.moments();
            let what = format!("{name}: after {moment} of {of}, {loss:?}: {what}");
            tell(tried + 1, Some(&what));
            figures.wrong.push(what);
        }
        tell(tried + 1, None);
    }
    Some(figures)
}

fn record(shim: &Shim, reference: Reference) -> Option<Recorded> {
    let space = reference.case.space();
    let before = reference.files(&space);
    // The user's home is there before a program begins; what is made in a folder that is not known would be lost.
    std::fs::create_dir_all(space.path(".home")).expect("a home folder can be made");
    let disk = Recording::before(space.root()).expect("a small folder can be read");
    let (outcome, tape) = shim.tape(&space, &reference.case.arguments);
    outcome.success();
    let recording = disk.record(tape::read(&tape)?);
    Some(Recorded { reference, space, before, recording })
}

fn cut(run: &Recorded, moment: usize, loss: Loss, seed: u64) -> Result<(), String> {
    let (reference, space) = (&run.reference, &run.space);
    run.recording
        .restore(moment, loss, seed)
        .map_err(|error| format!("the disk cannot be made: {error}"))?;
    if moment + 1 == run.recording.moments() && !reference.is_done(space) {
        return Err("what was told to be done is not there".to_owned());
    }
    reference.is_whole(&run.before, &reference.files(space))?;
    reference.again(space, false)
}
