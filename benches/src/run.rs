//! Rounds in which everything is measured once, so that a slow moment of the machine meets all alike.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::copy::copy;
use crate::make::MODELS;
use crate::measure::{Cost, measure};
use crate::recipes::{MATRICES, RECIPES, Recipe};
use crate::report::{Report, Row};

/// How to measure.
pub struct Options {
    /// Rounds that count.
    pub rounds: usize,
    /// The methods over matrices instead of those element by element.
    pub matrices: bool,
    /// Only methods whose name contains this.
    pub only: String,
    /// Further arguments for `mixdown merge`.
    pub with: Vec<String>,
    /// A Python that has mergekit.
    pub mergekit: Option<PathBuf>,
}

/// Measures everything.
pub fn run(folder: &Path, options: &Options) -> io::Result<Report> {
    let bytes = warm(folder)?;
    let recipes: &[Recipe] = if options.matrices { &MATRICES } else { &RECIPES };
    let chosen: Vec<&Recipe> =
        recipes.iter().filter(|recipe| recipe.name.contains(&options.only)).collect();
    let mut rows: Vec<Row> =
        chosen.iter().map(|recipe| Row::new(recipe.name, recipe.models)).collect();
    for round in 0..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        // The first round fills caches and touches memory for the first time; what computes for
        // minutes does not notice.
        if round == 0 && options.matrices {
            continue;
        }
        for (recipe, row) in chosen.iter().zip(&mut rows) {
            let copied = timed_copy(folder, recipe.models)?;
            let cost = merge(folder, recipe, &options.with)?;
            if round > 0 {
                row.add(copied, cost);
            }
        }
    }
    if let Some(python) = &options.mergekit {
        for (recipe, row) in chosen.iter().zip(&mut rows) {
            eprintln!("mergekit {}", recipe.name);
            row.mergekit = Some(mergekit(folder, recipe, python)?);
        }
    }
    clear(folder)?;
    Ok(Report { rows, rounds: options.rounds, bytes_per_model: bytes })
}

/// Reads all models once, so that they are in the page cache; the size of one.
fn warm(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for (number, (name, _)) in MODELS.into_iter().enumerate() {
        let path = folder.join(name).join("model.safetensors");
        // There may be three experts or more.
        if number > 3 && !path.exists() {
            break;
        }
        let mut file = fs::File::open(path)?;
        bytes = io::copy(&mut file, &mut io::sink())?;
    }
    Ok(bytes)
}

fn timed_copy(folder: &Path, models: usize) -> io::Result<Duration> {
    clear(folder)?;
    copy(folder, models, &folder.join("copied.safetensors"))
}

fn merge(folder: &Path, recipe: &Recipe, with: &[String]) -> io::Result<Cost> {
    clear(folder)?;
    fs::write(folder.join("recipe.yaml"), recipe.text)?;
    let mut command = Command::new(mixdown_kit::program::binary());
    command.current_dir(folder).args(["merge", "recipe.yaml", "--out", "merged"]).args(with);
    if recipe.models > 4 {
        // What an earlier run computed would be read instead.
        command.arg("--no-cache");
    }
    measure(&mut command)
}

fn mergekit(folder: &Path, recipe: &Recipe, python: &Path) -> io::Result<Cost> {
    clear(folder)?;
    fs::write(folder.join("recipe.yaml"), recipe.text)?;
    let main = "from mergekit.scripts.run_yaml import main; main()";
    let mut command = Command::new(python);
    command.current_dir(folder).env("HF_HUB_OFFLINE", "1").args([
        "-c",
        main,
        "recipe.yaml",
        "merged",
        "--quiet",
        "--no-write-model-card",
    ]);
    measure(&mut command)
}

/// Removes earlier results and waits until the disk is at rest, outside of what is measured.
fn clear(folder: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    gone(fs::remove_dir_all(folder.join("merged")))?;
    gone(fs::remove_file(folder.join("copied.safetensors")))?;
    rustix::fs::sync();
    Ok(())
}
