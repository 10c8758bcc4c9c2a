//! The preloaded library that lets a call fail, and what it counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use mixdown_kit::{Outcome, Program, Space};
use tempfile::TempDir;

/// The built library.
pub struct Shim {
    _folder: TempDir,
    library: PathBuf,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error, by its name in C.
    Fails(&'static str),
    /// It does half of what was asked.
    Short,
    /// The process is killed instead.
    Kill,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Fails(name) => name,
            Self::Short => "SHORT",
            Self::Kill => "KILL",
        }
    }
}

impl Shim {
    /// Builds it with the C compiler that Rust links with; none where there is no such compiler, or the
    /// system is another than Linux.
    pub fn build() -> Option<Self> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        let folder = tempfile::tempdir().ok()?;
        let library = folder.path().join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim.c");
        let built = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-Wall", "-o"])
            .arg(&library)
            .arg(source)
            .arg("-ldl")
            .status();
        built.is_ok_and(|status| status.success()).then_some(Self { _folder: folder, library })
    }

    fn program(&self, space: &Space, arguments: &[String]) -> Program {
        Program::new(space).args(arguments).env("LD_PRELOAD", &self.library)
    }

    /// Runs the program and counts its calls by name.
    pub fn count(&self, space: &Space, arguments: &[String]) -> (Outcome, BTreeMap<String, usize>) {
        let log = self.library.with_file_name("calls");
        let _ = std::fs::remove_file(&log);
        let outcome = self.program(space, arguments).env("SHIM_LOG", &log).run();
        let mut calls = BTreeMap::new();
        for name in std::fs::read_to_string(&log).unwrap_or_default().lines() {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
        (outcome, calls)
    }

    /// Runs the program and notes every change of the file system, as `tape` reads it.
    pub fn tape(&self, space: &Space, arguments: &[String]) -> (Outcome, Vec<u8>) {
        let tape = self.library.with_file_name("tape");
        let _ = std::fs::remove_file(&tape);
        let outcome = self.program(space, arguments).env("SHIM_TAPE", &tape).run();
        (outcome, std::fs::read(&tape).unwrap_or_default())
    }

    /// Runs the program with variables of the library.
    pub fn run_with(
        &self,
        space: &Space,
        arguments: &[String],
        variables: &[(&str, &str)],
    ) -> Outcome {
        let program = self.program(space, arguments);
        variables.iter().fold(program, |program, (name, value)| program.env(name, value)).run()
    }

    /// Runs the program and lets its `number`-th call of this name meet a fault.
    pub fn run(
        &self,
        space: &Space,
        arguments: &[String],
        (call, number, fault): (&str, usize, Fault),
    ) -> Outcome {
        let number = number.to_string();
        let variables = [("SHIM_CALL", call), ("SHIM_N", &number), ("SHIM_ERR", fault.name())];
        self.run_with(space, arguments, &variables)
    }
}
