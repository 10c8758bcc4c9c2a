//! Running programs that a search names: no shell, a group of their own, an end in any case.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::open_regular;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// How often a program is asked whether it has ended.
const PAUSE: Duration = Duration::from_millis(10);
/// What a program that is asked to end gets for it, before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// Of what a program said on stderr, the last lines are shown.
const SHOWN_LINES: usize = 12;
/// The beginning of a line before what a program says: a log can hold several, one after the other.
const BEGUN: &str = "=== mixdown started ";

/// Puts values into the placeholders of a command: `{model_dir}`.
pub fn fill(argv: &[String], values: &[(&str, &str)]) -> Vec<String> {
    argv.iter().map(|argument| fill_text(argument, values)).collect()
}

/// Puts values into the placeholders of a text. What a value holds is not looked at again.
pub fn fill_text(text: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let found = values.iter().find(|(name, _)| {
            rest[1..].strip_prefix(name).is_some_and(|after| after.starts_with('}'))
        });
        match found {
            Some((name, value)) => {
                out.push_str(value);
                rest = &rest[name.len() + 2..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Names in braces that a text has and that are not among the known ones.
pub fn unknown_placeholders<'t>(text: &'t str, known: &[&str]) -> Vec<&'t str> {
    let parts = text.split('{').skip(1).filter_map(|part| part.split_once('}'));
    let is_name = |name: &&str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    parts.map(|(name, _)| name).filter(is_name).filter(|name| !known.contains(name)).collect()
}

/// A program to be run.
#[derive(Clone, Debug)]
pub struct Program<'a> {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables that are added to its environment.
    pub environment: &'a [(&'a str, &'a str)],
    /// Where its stderr is appended.
    pub log: &'a Path,
    /// Where its stdout goes; to the log where nothing is said.
    pub stdout: Option<&'a Path>,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// It took too long and was killed.
    TimedOut,
    /// Somebody asked to stop, and it was killed.
    Interrupted,
}

/// A program that runs, in a group of its own. The group ends at the latest when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Program<'_> {
    /// Starts it, in the current folder.
    pub fn start(&self) -> Result<Running, Box<Diagnostic>> {
        let name = self.argv.first().cloned().unwrap_or_default();
        let failed = |error: std::io::Error| {
            let error = format!("`{name}` cannot be started: {error}");
            Diagnostic::error(codes::GENERATOR_FAILED, error)
        };
        let unwritable = |path: &Path| {
            let shown = path.to_string_lossy().into_owned();
            move |error: std::io::Error| {
                let headline = format!("the output of a program cannot be kept: {error}");
                Diagnostic::error(codes::WRITE_FAILED, headline).in_file(shown)
            }
        };
        let log = OpenOptions::new().create(true).append(true).open(self.log);
        let mut log = log.map_err(unwritable(self.log))?;
        writeln!(log, "{BEGUN}{name}").map_err(unwritable(self.log))?;
        let stdout = match self.stdout {
            Some(path) => File::create(path).map_err(unwritable(path))?,
            None => log.try_clone().map_err(unwritable(self.log))?,
        };
        let mut command = Command::new(&name);
        command.args(self.argv.iter().skip(1));
        command.envs(self.environment.iter().copied());
        command.stdin(Stdio::null()).stdout(stdout).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(failed)?;
        Ok(Running { child, ended: None })
    }

    /// Runs it until it ends, takes too long, or somebody asks to stop.
    pub fn run(
        &self,
        timeout: Option<Duration>,
        stop: &AtomicBool,
    ) -> Result<Ended, Box<Diagnostic>> {
        let begun = Instant::now();
        let mut running = self.start()?;
        loop {
            if let Some(status) = running.has_ended() {
                return Ok(Ended::Exited(status));
            }
            if stop.load(Ordering::SeqCst) {
                running.end();
                return Ok(Ended::Interrupted);
            }
            if timeout.is_some_and(|timeout| begun.elapsed() >= timeout) {
                running.end();
                return Ok(Ended::TimedOut);
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Running {
    /// Its exit status, if it has ended. What it left running in its group is killed then.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            // Looked at without taking the status: until then the number of the group is not given
            // to another.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let there = waitid(WaitId::Pid(Pid::from_child(&self.child)), options);
            if matches!(there, Ok(None)) {
                return None;
            }
            self.signal(Signal::KILL);
            self.ended = self.child.wait().ok();
        }
        self.ended
    }

    /// Asks the group to end, and kills it if it does not.
    pub fn end(&mut self) {
        if self.has_ended().is_some() {
            return;
        }
        self.signal(Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < GRACE {
            if self.has_ended().is_some() {
                return;
            }
            thread::sleep(PAUSE);
        }
        self.signal(Signal::KILL);
        self.ended = self.child.wait().ok();
    }

    /// Kills the group at once. Its status is still to be taken.
    pub fn kill(&self) {
        if self.ended.is_none() {
            self.signal(Signal::KILL);
        }
    }

    fn signal(&self, signal: Signal) {
        // A group that is gone already is what was wanted.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// How a program failed, with what it said last.
pub fn failure(headline: String, ended: Ended, log: &Path) -> Diagnostic {
    let mut error = Diagnostic::error(codes::GENERATOR_FAILED, headline);
    error = match ended {
        Ended::Exited(status) if !status.success() => error.fact("ended", status.to_string()),
        Ended::Exited(_) => error,
        Ended::TimedOut => error.fact("ended", "killed after its `timeout`"),
        Ended::Interrupted => error.fact("ended", "killed because the search was stopped"),
    };
    for line in last_lines(log) {
        error = error.note(format!("stderr: {line}"));
    }
    error.in_file(log.to_string_lossy())
}

/// The last bytes of a log, which may be of any length.
fn end_of(log: &Path) -> std::io::Result<Vec<u8>> {
    const LONGEST: u64 = 1 << 20;
    let (mut file, found) = open_regular(log)?;
    file.seek(SeekFrom::Start(found.len().saturating_sub(LONGEST)))?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn last_lines(log: &Path) -> Vec<String> {
    let bytes = end_of(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let own = text.rfind(BEGUN).map_or(&*text, |start| &text[start..]);
    let is_said = |line: &&str| !line.trim().is_empty() && !line.starts_with(BEGUN);
    let lines: Vec<&str> = own.lines().filter(is_said).collect();
    let cut = |line: &&str| {
        line.chars().filter(|letter| !letter.is_control()).take(200).collect::<String>()
    };
    lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().map(cut).collect()
}

/// A path for programs: absolute, whatever folder it is used from.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, folder: &Path, timeout: Option<u64>, stop: bool) -> Ended {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let log = folder.join("log");
        let program = Program {
            argv,
            environment: &[("FOLDER", &folder.to_string_lossy())],
            log: &log,
            stdout: None,
        };
        program.run(timeout.map(Duration::from_millis), &AtomicBool::new(stop)).unwrap()
    }

    #[test]
    fn placeholders_are_filled_once() {
        let values = [("model_dir", "/m/{out}"), ("out", "/o")];
        let argv = ["{model_dir}/x", "--o={out}", "{other} {", "{out}{out}"].map(str::to_owned);
        assert_eq!(fill(&argv, &values), ["/m/{out}/x", "--o=/o", "{other} {", "/o/o"]);
        assert_eq!(unknown_placeholders("{out} {modle} {\"a\": {}}", &["out"]), ["modle"]);
    }

    #[test]
    fn what_a_program_says_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let ended = sh("echo one; echo two >&2; exit 3", folder.path(), None, false);
        let Ended::Exited(status) = ended else { panic!("{ended:?}") };
        assert_eq!(status.code(), Some(3));
        let told = failure("it failed".into(), ended, &folder.path().join("log"));
        assert_eq!(told.notes, ["stderr: one", "stderr: two"]);
        assert!(told.facts[0].1.contains('3'));
        let ended = sh("exit 4", folder.path(), None, false);
        let told = failure("it failed".into(), ended, &folder.path().join("log"));
        assert!(told.notes.is_empty(), "an earlier program said this: {:?}", told.notes);
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(log, "=== mixdown started sh\none\ntwo\n=== mixdown started sh\n");
    }

    /// The child of the shell would write its file if it outlived the group.
    #[test]
    fn a_program_that_takes_too_long_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let script = "sh -c 'sleep 30; echo late > \"$FOLDER/late\"' & sleep 30";
        let begun = Instant::now();
        assert_eq!(sh(script, folder.path(), Some(50), false), Ended::TimedOut);
        assert_eq!(sh(script, folder.path(), None, true), Ended::Interrupted);
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(!folder.path().join("late").exists());
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let argv = vec!["/no/such/program".to_owned()];
        let program = Program { argv, environment: &[], log: &log, stdout: None };
        assert!(program.start().unwrap_err().headline.contains("`/no/such/program`"));
    }
}
