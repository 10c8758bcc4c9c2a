//! `--sweep`: one merge for each of several values of a parameter, from one computation.

use std::fmt;
use std::path::{Path, PathBuf};

use mixdown_checkpoint::journal::OwnerKey;
use mixdown_checkpoint::manifest::{MANIFEST_NAME, Manifest};
use mixdown_checkpoint::{shown_path, small, stored};
use mixdown_diagnostics::{Diagnostic, codes};

/// A parameter and its values, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// As typed: a parameter of the method, a declared value, or a path as `--set` takes it.
    pub name: String,
    /// In the order they were given, each once.
    pub values: Vec<String>,
}

/// Reads `NAME=VALUE,VALUE…`.
pub fn parse(text: &str) -> Result<Sweep, String> {
    let Some((name, values)) = text.split_once('=') else {
        return Err("write it as NAME=VALUE,VALUE, for instance lambda=0.1,0.3,1".to_owned());
    };
    let name = name.trim();
    if name.is_empty() {
        return Err("the name of a parameter comes before the `=`".to_owned());
    }
    let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
    if values.iter().any(String::is_empty) {
        return Err("one of the values is empty".to_owned());
    }
    if let Some((at, twice)) =
        values.iter().enumerate().find(|(at, value)| values[..*at].contains(value))
    {
        return Err(format!("the value {twice} is given twice, at position {}", at + 1));
    }
    let is_plain = |c: char| c.is_alphanumeric() || "._-+".contains(c);
    if let Some(odd) = values.iter().find(|value| !value.chars().all(is_plain)) {
        return Err(format!("`{odd}` cannot be part of the name of a folder"));
    }
    Ok(Sweep { name: name.to_owned(), values })
}

impl Sweep {
    /// The path of the value in the recipe: a bare name is a declared value, or else a parameter at
    /// the top.
    pub fn path(&self, is_declared: bool) -> String {
        match is_declared || self.name.contains('.') {
            true => self.name.clone(),
            false => format!("parameters.{}", self.name),
        }
    }

    /// The name of the folder of one value's output.
    pub fn folder(&self, value: &str) -> String {
        let last = self.name.rsplit('.').next().unwrap_or(&self.name);
        format!("{last}-{value}")
    }
}

/// What the outputs of a sweep are of, kept beside them while it runs, so that the same command goes on
/// behind those that an interrupted one finished. An output's folder appears under its name when all of
/// it is stored; its mark is there before.
#[derive(Debug)]
pub struct Marks {
    out: PathBuf,
    /// Whether their folder is of this run, which has noted nothing in it yet.
    is_new: bool,
}

impl Marks {
    /// The marks of a sweep into this folder.
    pub fn of(out: &Path) -> Self {
        Self { out: out.to_owned(), is_new: false }
    }

    fn folder(&self) -> PathBuf {
        self.out.join(".sweep")
    }

    /// Makes their folder, or takes one that a run with this key made.
    ///
    /// **Errors.** Those of [`mixdown_session::claim`].
    pub fn claim(&mut self, key: &OwnerKey) -> Result<(), Box<Diagnostic>> {
        let was_there = self.folder().symlink_metadata().is_ok();
        mixdown_session::claim(&self.folder(), key)?;
        self.is_new = !was_there;
        Ok(())
    }

    /// Whether an earlier run finished the output of this identity.
    pub fn is_done(&self, folder: &str, identity: &str) -> bool {
        let mark = small::bytes(&self.folder().join(folder), folder);
        mark.is_ok_and(|mark| mark == identity.as_bytes()) && Manifest::read(&self.out.join(folder)).is_ok()
    }

    /// Notes what is about to be made. What a folder holds that is there already is not noted, unless it is
    /// to be replaced: nothing tells what it is of.
    pub fn begin(&mut self, folder: &str, identity: &str, force: bool) -> Result<(), Box<Diagnostic>> {
        if !force && self.out.join(folder).join(MANIFEST_NAME).exists() {
            return Ok(());
        }
        let mark = self.folder().join(folder);
        self.is_new = false;
        stored::write_file(&mark, identity.as_bytes()).map_err(|error| {
            let headline = format!("the state of the sweep cannot be written: {error}");
            let fault = Diagnostic::error(codes::WRITE_FAILED, headline);
            Box::new(fault.in_file(shown_path(&mark)))
        })
    }

    /// Removes the folder of a sweep that noted nothing in it, because the first output is in the way.
    pub fn remove_unused(&self) {
        if self.is_new {
            self.remove();
        }
    }

    /// Removes the marks of a sweep that is done. What stays behind does no harm.
    pub fn remove(&self) {
        let _ = mixdown_session::remove_claimed(&self.folder());
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.values.join(","))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_and_values_are_read() {
        let sweep = parse("lambda=0.1, 0.3,1e-2").unwrap();
        assert_eq!(sweep.values, ["0.1", "0.3", "1e-2"]);
        assert_eq!(sweep.path(false), "parameters.lambda");
        assert_eq!(sweep.path(true), "lambda");
        assert_eq!(sweep.folder("0.3"), "lambda-0.3");
        let nested = parse("rules.0.parameters.t=0,1").unwrap();
        assert_eq!(nested.path(false), "rules.0.parameters.t");
        assert_eq!(nested.folder("1"), "t-1");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["lambda", "=1", "lambda=", "lambda=1,,2", "lambda=1,1", "lambda=../x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_an_earlier_run_finished_is_known_by_its_mark() {
        let folder = tempfile::tempdir().unwrap();
        let mut marks = Marks::of(folder.path());
        let made = |name: &str| {
            let output = folder.path().join(name);
            fs::create_dir(&output).unwrap();
            fs::write(output.join(MANIFEST_NAME), MANIFEST).unwrap();
        };
        marks.begin("t-0", "a", false).unwrap();
        assert!(!marks.is_done("t-0", "a"), "it was begun only");
        made("t-0");
        assert!(marks.is_done("t-0", "a") && !marks.is_done("t-0", "b"));
        // Another sweep finds the folder, and does not make it its own.
        marks.begin("t-0", "b", false).unwrap();
        assert!(!marks.is_done("t-0", "b"));
        made("t-1");
        marks.begin("t-1", "a", false).unwrap();
        assert!(!marks.is_done("t-1", "a"), "nobody knows what it is of");
        marks.remove();
        assert!(!marks.is_done("t-0", "a"));
        assert!(!folder.path().join(".sweep").exists());
    }

    const MANIFEST: &str = r#"{"manifest": 1, "mixdown": "0", "recipe": {"text": "", "sha256": ""},
        "plan": "", "seed": 0, "backend": "cpu", "inputs": [], "tensors": [], "files": [],
        "dropped": [], "warnings": []}"#;
}
