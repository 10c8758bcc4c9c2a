//! A few faults of each kind; the program `faults` tries as many as there is time for.

use std::path::Path;
use std::time::{Duration, Instant};

use mixdown_faults::shim::Shim;
use mixdown_faults::{campaign, cuts, readers};

/// The same on every run, so that what fails here fails again.
const SEED: u64 = 1;
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn the_program_comes_through_faults_at_its_calls() {
    let Some(shim) = Shim::build() else {
        eprintln!("skipped: faults at calls need Linux and a C compiler");
        return;
    };
    // By count and never by time: a busy machine tries the same ones.
    let figures = campaign::run(&shim, Instant::now() + HOUR, 33, SEED);
    // All but those that only print.
    assert!(figures.tried.len() > 30, "one of each command: {:?}", figures.tried);
    assert_eq!(figures.wrong, [""; 0]);
}

#[test]
fn the_power_may_go() {
    let Some(shim) = Shim::build() else {
        eprintln!("skipped: power cuts need Linux and a C compiler");
        return;
    };
    let Some(figures) = cuts::run(&shim, Instant::now() + HOUR, 54, SEED, |_, _| ()) else {
        eprintln!("skipped: the system lets no program see all its calls");
        return;
    };
    assert_eq!(figures.tried.len(), 26, "each command that writes: {:?}", figures.tried);
    assert_eq!(figures.wrong, [""; 0]);
}

/// A reader without a fuzzer is read once a test and never again.
#[test]
fn every_reader_is_fuzzed() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let targets = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for reader in readers::all() {
        let name = reader.name;
        assert!(targets.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        assert!(fuzz.join(format!("fuzz_targets/{name}.rs")).is_file(), "{name}");
    }
}

/// Sound files, and what fuzzers found.
#[test]
fn every_seed_is_read() {
    let (count, wrong) = readers::replay();
    assert!(count > 50, "{count}");
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn no_damaged_file_is_a_panic() {
    let (tried, wrong) = readers::run(Instant::now() + HOUR, 1500, SEED);
    assert_eq!(tried, 1500);
    assert_eq!(wrong, [""; 0]);
}
