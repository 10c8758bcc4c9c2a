//! `faults [SECONDS] [SEED]`: a third of the time each for faults at calls, power cuts and damaged files; 60
//! seconds by default. `faults all [KILLS] [CUTS] [SECONDS]`: every call of every command fails once, then so
//! many kills and power cuts. `faults seeds FOLDER` writes what fuzzers begin with. Prints figures, and ends with 1 where something was wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use mixdown_faults::shim::Shim;
use mixdown_faults::{campaign, cuts, readers};

fn main() {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, folder] = words.as_slice()
        && word == "seeds"
    {
        readers::write_seeds(folder.as_ref()).expect("the folder can be written");
        return;
    }
    let is_all = words.first().is_some_and(|word| word == "all");
    if is_all {
        words.remove(0);
    }
    let numbers: Result<Vec<u64>, _> = words.iter().map(|word| word.parse()).collect();
    let numbers = numbers.unwrap_or_else(|error| {
        eprintln!("faults [SECONDS] [SEED], or faults all [KILLS] [CUTS] [SECONDS]: {error}");
        std::process::exit(2);
    });
    let number = |at: usize, otherwise: u64| numbers.get(at).copied().unwrap_or(otherwise);
    let wrong = match is_all {
        true => all(number(0, 10_000), number(1, 1000), Duration::from_secs(number(2, 1 << 20))),
        false => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            some(Duration::from_secs(number(0, 60)) / 3, number(1, now.as_secs()))
        }
    };
    for line in &wrong {
        println!("wrong: {line}");
    }
    println!("{} wrong", wrong.len());
    std::process::exit(i32::from(!wrong.is_empty()));
}

fn some(third: Duration, seed: u64) -> Vec<String> {
    println!("seed {seed}");
    let mut wrong = Vec::new();
    match Shim::build() {
        None => {
            println!("faults at calls and power cuts: skipped, they need Linux and a C compiler")
        }
        Some(shim) => {
            let figures = campaign::run(&shim, Instant::now() + third, usize::MAX, seed);
            tell_of_calls(&figures);
            wrong.extend(figures.wrong);
            wrong.extend(cut(&shim, usize::MAX, third, seed));
        }
    }
    let (tried, more) = readers::run(Instant::now() + third, usize::MAX, seed);
    println!("damaged files: {tried}");
    wrong.extend(more);
    wrong
}

fn all(kills: u64, cuts: u64, time: Duration) -> Vec<String> {
    let Some(shim) = Shim::build() else {
        return vec!["faults at calls and power cuts need Linux and a C compiler".to_owned()];
    };
    let until = Instant::now() + time;
    let mut wrong = cut(&shim, cuts as usize, time, 1);
    let mut told = 0;
    let figures = campaign::run_all(&shim, kills as usize, until, &mut |line, found| {
        println!("{line}");
        found[told..].iter().for_each(|line| println!("  {line}"));
        told = found.len();
    });
    tell_of_calls(&figures);
    wrong.extend(figures.wrong);
    wrong
}

fn cut(shim: &Shim, most: usize, time: Duration, seed: u64) -> Vec<String> {
    let Some(figures) = cuts::run(shim, Instant::now() + time, most, seed) else {
        println!("power cuts: skipped, the system lets no program see all its calls");
        return Vec::new();
    };
    let tried: usize = figures.tried.values().sum();
    println!("power cuts: {tried}, of {} moments with 3 losses each", figures.moments);
    tell(&figures.tried);
    figures.wrong
}

fn tell_of_calls(figures: &campaign::Figures) {
    let tried: usize = figures.tried.values().sum();
    println!("faults at calls: {tried}, of which {} kills", figures.kills);
    tell(&figures.tried);
}

fn tell(counts: &BTreeMap<&'static str, usize>) {
    for (name, count) in counts {
        println!("  {count:6} {name}");
    }
}
