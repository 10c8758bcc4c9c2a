//! `faults [SECONDS] [SEED]`: half of the time for faults at calls, half for damaged files; 60 seconds by
//! default. Prints figures, and ends with 1 where something was wrong.

use std::time::{Duration, Instant, SystemTime};

use mixdown_faults::shim::Shim;
use mixdown_faults::{campaign, readers};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut number = |otherwise: u64| match numbers.next() {
        Some(Ok(number)) => number,
        None => otherwise,
        Some(Err(error)) => {
            eprintln!("faults [SECONDS] [SEED]: {error}");
            std::process::exit(2);
        }
    };
    let half = Duration::from_secs(number(60)) / 2;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = number(now.as_secs());
    println!("seed {seed}");
    let mut wrong = Vec::new();
    match Shim::build() {
        None => println!("faults at calls: skipped, they need Linux and a C compiler"),
        Some(shim) => {
            let figures = campaign::run(&shim, Instant::now() + half, usize::MAX, seed);
            let tried: usize = figures.tried.values().sum();
            println!("faults at calls: {tried}, of which {} kills", figures.kills);
            for (name, count) in &figures.tried {
                println!("  {count:6} {name}");
            }
            wrong.extend(figures.wrong);
        }
    }
    let (tried, more) = readers::run(Instant::now() + half, usize::MAX, seed);
    println!("damaged files: {tried}");
    wrong.extend(more);
    for line in &wrong {
        println!("wrong: {line}");
    }
    println!("{} wrong", wrong.len());
    std::process::exit(i32::from(!wrong.is_empty()));
}
