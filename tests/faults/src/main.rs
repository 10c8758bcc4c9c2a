//! Faults on purpose, for as long as there is time. Prints figures, and ends with 1 where something was wrong.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, exit};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use mixdown_faults::shim::Shim;
use mixdown_faults::{campaign, cuts, readers};

const HELP: &str = "\
mixdown-faults [SECONDS] [SEED]
    faults at calls, power cuts and damaged files at random, a third of the time each (60 seconds)
mixdown-faults all [OPTIONS]
    the whole campaign, or what of it the options say; prints how far it is every half minute, and figures
      --failures        every call of every command fails once, in each way that it can
      --kills N         so many kills, evenly over all calls of all commands (10000)
      --cuts N          so many power cuts, at moments of all commands that write (1000)
      --damaged N       so many damaged files, over all readers (100000)
      --fuzz HOURS      so many hours of the processor of coverage-guided fuzzing, over all targets (20)
      --for SECONDS     each of these ends after so long, and tells how far it came
      --threads N       runs at the same time (the processors)
      --seed N          which cuts and damaged files (1)
mixdown-faults seeds FOLDER
    writes what fuzzers begin with";

/// Time between two lines about how far it is.
const TELLING: Duration = Duration::from_secs(30);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let wrong = match words.as_slice() {
        ["-h" | "--help"] => {
            println!("{HELP}");
            return;
        }
        ["seeds", folder] => {
            readers::write_seeds(folder.as_ref()).expect("the folder can be written");
            return;
        }
        ["all", options @ ..] => All::read(options).map(|all| all.run()),
        numbers => numbers.iter().map(|word| number(word)).collect::<Result<Vec<u64>, _>>().map(
            |numbers| {
                let now =
                    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let seconds = numbers.first().copied().unwrap_or(60);
                some(
                    Duration::from_secs(seconds) / 3,
                    numbers.get(1).copied().unwrap_or(now.as_secs()),
                )
            },
        ),
    };
    let wrong = wrong.unwrap_or_else(|what| {
        eprintln!("{what}\n{HELP}");
        exit(2);
    });
    for line in &wrong {
        println!("wrong: {line}");
    }
    println!("{} wrong", wrong.len());
    exit(i32::from(!wrong.is_empty()));
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("`{word}` is no number here"))
}

fn some(third: Duration, seed: u64) -> Vec<String> {
    println!("seed {seed}");
    let mut wrong = Vec::new();
    match Shim::build() {
        None => {
            println!("faults at calls and power cuts: skipped, they need Linux and a C compiler");
        }
        Some(shim) => {
            let figures = campaign::run(&shim, Instant::now() + third, usize::MAX, seed);
            tell_of_calls(&figures);
            wrong.extend(figures.wrong);
            wrong.extend(cut(&shim, usize::MAX, third, seed));
        }
    }
    wrong.extend(damage(usize::MAX, third, seed));
    wrong
}

/// A whole campaign.
struct All {
    failures: bool,
    kills: usize,
    cuts: usize,
    damaged: usize,
    fuzz_hours: f64,
    each: Duration,
    threads: usize,
    seed: u64,
}

impl All {
    /// What is wanted: all of it, or what is named.
    fn read(words: &[&str]) -> Result<Self, String> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let nothing = Self {
            failures: false,
            kills: 0,
            cuts: 0,
            damaged: 0,
            fuzz_hours: 0.0,
            each: Duration::from_secs(1 << 30),
            threads,
            seed: 1,
        };
        let mut all = nothing;
        let mut names_something = false;
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            names_something |= !["--for", "--threads", "--seed"].contains(&word);
            if word == "--failures" {
                all.failures = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("`{word}` needs a number"))?;
            match word {
                "--kills" => all.kills = number(value)?,
                "--cuts" => all.cuts = number(value)?,
                "--damaged" => all.damaged = number(value)?,
                "--fuzz" => all.fuzz_hours = number(value)?,
                "--for" => all.each = Duration::from_secs(number(value)?),
                "--threads" => all.threads = number(value)?,
                "--seed" => all.seed = number(value)?,
                other => return Err(format!("`{other}` is no option")),
            }
        }
        if !names_something {
            (all.failures, all.kills, all.cuts) = (true, 10_000, 1000);
            (all.damaged, all.fuzz_hours) = (100_000, 20.0);
        }
        Ok(all)
    }

    fn run(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.failures || self.kills > 0 || self.cuts > 0 {
            let Some(shim) = Shim::build() else {
                return vec![
                    "faults at calls and power cuts need Linux and a C compiler".to_owned(),
                ];
            };
            if self.failures || self.kills > 0 {
                wrong.extend(self.calls(&shim));
            }
            if self.cuts > 0 {
                wrong.extend(cut(&shim, self.cuts, self.each, self.seed));
            }
        }
        if self.damaged > 0 {
            wrong.extend(damage(self.damaged, self.each, self.seed));
        }
        if self.fuzz_hours > 0.0 {
            wrong.extend(self.fuzz());
        }
        wrong
    }

    fn calls(&self, shim: &Shim) -> Vec<String> {
        let begun = Instant::now();
        let told = Mutex::new(begun);
        let tell = |progress: campaign::Progress, wrong: Option<&str>| {
            if let Some(wrong) = wrong {
                println!("  wrong: {wrong}");
            }
            let mut told = told.lock().expect("no thread panics while it prints");
            if told.elapsed() >= TELLING {
                *told = Instant::now();
                let campaign::Progress { tried, of, kills, wrong } = progress;
                let seconds = begun.elapsed().as_secs();
                println!(
                    "{tried} of {of} faults, {kills} of them kills, {wrong} wrong, {seconds} s"
                );
            }
        };
        let wanted = campaign::Wanted {
            failures: self.failures,
            kills: self.kills,
            threads: self.threads.max(1),
        };
        let figures = campaign::run_all(shim, wanted, begun + self.each, &tell);
        tell_of_calls(&figures);
        println!("  in {} s", begun.elapsed().as_secs());
        figures.wrong
    }

    /// Runs `fuzz/run`, which prints its own figures.
    fn fuzz(&self) -> Vec<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/run");
        let seconds = self.fuzz_hours * 3600.0 / readers::all().len() as f64;
        let threads = self.threads.max(1).to_string();
        let ran = Command::new(&script)
            .arg(format!("{:.0}", seconds.max(1.0)))
            .env("FUZZ_AT_ONCE", threads)
            .status();
        match ran {
            Ok(status) if status.success() => Vec::new(),
            Ok(status) => vec![format!("fuzzing ended with {status}: see fuzz/artifacts")],
            Err(error) => vec![format!("{} cannot be run: {error}", script.display())],
        }
    }
}

fn damage(most: usize, time: Duration, seed: u64) -> Vec<String> {
    let begun = Instant::now();
    let (tried, wrong) = readers::run(begun + time, most, seed);
    println!("damaged files: {tried}, in {} s", begun.elapsed().as_secs());
    wrong
}

fn cut(shim: &Shim, most: usize, time: Duration, seed: u64) -> Vec<String> {
    let begun = Instant::now();
    let mut told = begun;
    let tell = |tried: usize, wrong: Option<&str>| {
        if let Some(wrong) = wrong {
            println!("  wrong: {wrong}");
        }
        if told.elapsed() >= TELLING {
            told = Instant::now();
            println!("{tried} power cuts, {} s", begun.elapsed().as_secs());
        }
    };
    let Some(figures) = cuts::run(shim, begun + time, most, seed, tell) else {
        println!("power cuts: skipped, the system lets no program see all its calls");
        return Vec::new();
    };
    let tried: usize = figures.tried.values().sum();
    println!(
        "power cuts: {tried}, of {} moments with 3 losses each, in {} s",
        figures.moments,
        begun.elapsed().as_secs()
    );
    tell_of(&figures.tried);
    figures.wrong
}

fn tell_of_calls(figures: &campaign::Figures) {
    let tried: usize = figures.tried.values().sum();
    println!("faults at calls: {tried}, of which {} kills", figures.kills);
    tell_of(&figures.tried);
}

fn tell_of(counts: &BTreeMap<&'static str, usize>) {
    for (name, count) in counts {
        println!("  {count:6} {name}");
    }
}
