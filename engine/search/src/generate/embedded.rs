//! mixdown's own program for small text models. It is run like any other program that answers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mixdown_diagnostics::{Diagnostic, codes};

use super::{Answers, CommandGenerator, Generator, Task};

/// The program's name.
pub const PROGRAM: &str = "mixdown-generate";

/// The embedded generator. It answers once [`EmbeddedGenerator::find`] has found its program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbeddedGenerator {
    /// The most tokens of answers whose prompt says nothing of it; the program's own limit otherwise.
    pub max_new_tokens: Option<u64>,
    /// What one run may take.
    pub timeout: Option<Duration>,
    /// The program, and what it calls its version.
    found: Option<(PathBuf, String)>,
}

impl EmbeddedGenerator {
    /// Finds the program in the first of these folders that has it.
    pub fn find(&mut self, folders: &[PathBuf]) -> Result<(), Box<Diagnostic>> {
        let path = self.program(folders)?;
        let version = version(&path).ok_or_else(|| {
            let headline = format!("`{PROGRAM}` does not tell its version");
            Diagnostic::error(codes::GENERATOR_MISSING, headline)
                .in_file(path.to_string_lossy())
                .help("build it again: `cargo install --path engine/generate`")
        })?;
        self.found = Some((path, version));
        Ok(())
    }

    /// The program in the first of these folders that has it.
    pub(super) fn program(&self, folders: &[PathBuf]) -> Result<PathBuf, Box<Diagnostic>> {
        let name = format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX);
        let mut paths = folders.iter().map(|folder| folder.join(&name));
        let Some(path) = paths.find(|path| path.is_file()) else {
            let shown = folders.first().map_or(Path::new("."), PathBuf::as_path);
            let headline = format!("`{PROGRAM}`, which answers, is not there");
            return Err(Box::new(
                Diagnostic::error(codes::GENERATOR_MISSING, headline)
                    .fact("looked for", format!("in {} and on PATH", shown.display()))
                    .help(
                        "install it from mixdown's sources: `cargo install --path engine/generate`",
                    ),
            ));
        };
        Ok(path)
    }

    fn command(&self, program: &Path) -> CommandGenerator {
        let mut argv = vec![program.display().to_string()];
        argv.extend(
            ["--model", "{model_dir}", "--prompts", "{prompts}", "--out", "{out}"]
                .map(str::to_owned),
        );
        if let Some(most) = self.max_new_tokens {
            argv.extend(["--max-new-tokens".to_owned(), most.to_string()]);
        }
        CommandGenerator { argv, timeout: self.timeout, ..CommandGenerator::default() }
    }
}

impl Generator for EmbeddedGenerator {
    /// The program's place is no part of it.
    fn id(&self) -> String {
        let version = self.found.as_ref().map_or("", |(_, version)| version);
        format!("embedded {version:?} {:?}", self.max_new_tokens)
    }

    fn answer(&mut self, task: &Task<'_>) -> Answers {
        match &self.found {
            Some((program, _)) => self.command(program).answer(task),
            None => {
                let headline = format!("`{PROGRAM}` was not looked for");
                Answers::none(Diagnostic::error(codes::INTERNAL, headline))
            }
        }
    }
}

fn version(program: &Path) -> Option<String> {
    let said = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(said.stdout).ok()?.trim().to_owned();
    (said.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_program(folder: &Path, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join(PROGRAM);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_first_folder_that_has_the_program_is_taken() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let paths = folders.each_ref().map(|folder| folder.path().to_owned());
        let mut embedded = EmbeddedGenerator::default();
        let missing = embedded.find(&paths).unwrap_err();
        assert_eq!(missing.code, codes::GENERATOR_MISSING);
        assert!(missing.help.unwrap().contains("cargo install --path engine/generate"));
        write_program(&paths[1], "#!/bin/sh\necho mixdown-generate 7\n");
        embedded.find(&paths).unwrap();
        assert_eq!(embedded.id(), "embedded \"mixdown-generate 7\" None");
        write_program(&paths[0], "#!/bin/sh\nexit 1\n");
        assert!(embedded.find(&paths).unwrap_err().headline.contains("version"));
    }
}
