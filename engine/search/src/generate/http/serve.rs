//! Servers that a search starts, and the wait until they hold a model.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

use super::super::{Failure, Task};
use super::Session;
use crate::process::{self, Ended, Program, Running};

/// How often a server that starts is asked whether it is there.
pub const WAKE: Duration = Duration::from_millis(50);
/// What the list of its models may take.
const LIST: Duration = Duration::from_secs(5);

/// A server that was started. It ends with this value.
#[derive(Debug)]
pub struct Served {
    running: Mutex<Running>,
    /// Where it listens.
    pub port: u16,
    /// What it says.
    pub log: PathBuf,
}

impl Served {
    /// Starts it with the task's model.
    pub fn start(
        argv: &[String],
        values: &[(&str, &str)],
        port: u16,
        task: &Task<'_>,
    ) -> Result<Self, Box<Diagnostic>> {
        let log = task.work.join("stderr.txt");
        let running = program(argv, values, &log, task, |program| program.start())?;
        Ok(Self { running: Mutex::new(running), port, log })
    }

    /// How it ended, if it has.
    pub fn status(&self) -> Option<ExitStatus> {
        self.running.lock().unwrap_or_else(|broken| broken.into_inner()).has_ended()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.status().is_some()
    }

    /// Kills it at once.
    pub fn kill(&self) {
        self.running.lock().unwrap_or_else(|broken| broken.into_inner()).kill();
    }

    /// Asks it to end, and kills it if it does not.
    fn end(&self) {
        self.running.lock().unwrap_or_else(|broken| broken.into_inner()).end();
    }
}

fn program<T>(
    argv: &[String],
    values: &[(&str, &str)],
    log: &Path,
    task: &Task<'_>,
    run: impl FnOnce(Program<'_>) -> T,
) -> T {
    let label = task.candidate.label.as_str();
    run(Program {
        argv: process::fill(argv, values),
        environment: &[("MIXDOWN_ALPHA", label), ("MIXDOWN_MODEL_KEY", task.model_key)],
        log,
        stdout: None,
    })
}

/// Runs the command that has a server load the task's model. What it said is kept there.
pub fn reload(
    argv: &[String],
    values: &[(&str, &str)],
    limit: Duration,
    task: &Task<'_>,
) -> Result<PathBuf, Failure> {
    let log = task.work.join("reload.txt");
    let run = |program: Program<'_>| program.run(Some(limit), task.stop);
    match program(argv, values, &log, task, run)? {
        Ended::Exited(status) if status.success() => Ok(log),
        Ended::Interrupted => Err(Failure::Interrupted),
        ended => {
            let name = argv.first().map_or("", String::as_str);
            let what = format!("to have the server load {}", task.candidate.label);
            Err(match ended {
                Ended::TimedOut => {
                    let headline = format!("`{name}` took too long {what}");
                    in_time(process::failure(headline, ended, &log), limit)
                        .help("`startup` is the time that it may take")
                }
                _ => process::failure(format!("`{name}` failed {what}"), ended, &log),
            }
            .into())
        }
    }
}

/// The limit is `startup` here, and no `timeout`.
fn in_time(error: Diagnostic, limit: Duration) -> Diagnostic {
    let facts = error.facts.into_iter().filter(|(name, _)| name != "ended").collect();
    Diagnostic { facts, ..error }.fact("waited", format!("{} s", limit.as_secs_f64()))
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16, Box<Diagnostic>> {
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    port.map(|address| address.port()).map_err(|error| {
        let headline = format!("this machine gives no free port: {error}");
        Box::new(Diagnostic::error(codes::GENERATOR_FAILED, headline))
    })
}

impl Session {
    /// Waits until the server lists the model.
    pub fn wait(
        &self,
        startup: Duration,
        served: Option<&Served>,
        log: &Path,
        stop: &AtomicBool,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut last = "no reply".to_owned();
        loop {
            if stop.load(Ordering::SeqCst) {
                return Err(Failure::Interrupted);
            }
            match self.models() {
                Ok(models) if models.contains(&self.model) => return Ok(()),
                Ok(models) if models.is_empty() => last = "it lists no model".to_owned(),
                Ok(models) => last = format!("it lists {}", models.join(", ")),
                Err(error) => last = error.unwrap_or(last),
            }
            if let Some((served, status)) = served.and_then(|s| Some((s, s.status()?))) {
                let headline = "the server ended before it could be asked".to_owned();
                return Err(process::failure(headline, Ended::Exited(status), &served.log).into());
            }
            if begun.elapsed() >= startup {
                if let Some(served) = served {
                    served.end();
                }
                let headline = "the server did not come up in time".to_owned();
                let error = process::failure(headline, Ended::TimedOut, log);
                let error = in_time(error, startup)
                    .fact("asked", format!("{}/v1/models", self.connection.base_url))
                    .fact("expected", format!("it lists {}", self.model))
                    .fact("found", last)
                    .help("see that it starts by hand, or give it longer: `startup: …`");
                return Err(error.into());
            }
            thread::sleep(WAKE);
        }
    }

    /// The models that the server lists; what it replied if that is something else.
    fn models(&self) -> Result<Vec<String>, Option<String>> {
        let (status, text) = self.connection.get("/v1/models", LIST).ok_or(None)?;
        let shown = || Some(format!("status {status}: {}", self.connection.shown(&text)));
        let value: Value = serde_json::from_str(&text).map_err(|_| shown())?;
        let models = value.get("data").and_then(Value::as_array).ok_or_else(shown)?;
        let name = |model: &Value| Some(model.get("id")?.as_str()?.to_owned());
        Ok(models.iter().filter_map(name).collect())
    }
}
