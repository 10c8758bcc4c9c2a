//! A server that speaks OpenAI's protocol: started for each candidate, kept running and told to load
//! another model, or there already.

pub mod chat;
mod serve;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mixdown_diagnostics::{Diagnostic, codes};

use super::{Answers, Failure, Generator, Task};
use crate::http::{Connection, Key, Lost, Reply, TRIES};
use crate::process::{self, Ended};
use crate::prompts::Prompt;
use crate::responses::Response;
use chat::{DECODING, Understood};
use serve::{Served, WAKE};

/// The placeholders of its texts.
pub const PLACEHOLDERS: [&str; 2] = ["model_dir", "port"];

/// A server that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGenerator {
    /// Where it is, up to and without `/v1`; `{port}` is a free port.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// The command that starts it; none where it runs already.
    pub serve: Option<Vec<String>>,
    /// The command that has it load another model; without one it is started for each candidate.
    pub reload: Option<Vec<String>>,
    /// The variable of the environment that holds its key.
    pub api_key_env: Option<String>,
    /// What its start, or a reload, may take.
    pub startup: Duration,
    /// What one request may take.
    pub timeout: Duration,
    /// Requests at a time.
    pub concurrency: usize,
    /// What a user calls this version of it.
    pub version: String,
}

impl Default for HttpGenerator {
    fn default() -> Self {
        Self {
            base_url: "http://127.0.0.1:{port}".to_owned(),
            model: "{model_dir}".to_owned(),
            serve: None,
            reload: None,
            api_key_env: None,
            startup: Duration::from_secs(600),
            timeout: Duration::from_secs(600),
            concurrency: 1,
            version: String::new(),
        }
    }
}

impl HttpGenerator {
    /// Makes sure that its key is there.
    pub fn prepare(&self) -> Result<(), Box<Diagnostic>> {
        self.key().map(drop)
    }

    fn key(&self) -> Result<Option<Key>, Box<Diagnostic>> {
        self.api_key_env.as_deref().map(Key::read).transpose()
    }

    /// The server, not yet there.
    pub fn server(&self) -> HttpServer {
        HttpServer { settings: self.clone(), served: None, loaded: String::new() }
    }
}

/// A server during a search. What was started for it ends with this value.
#[derive(Debug)]
pub struct HttpServer {
    settings: HttpGenerator,
    /// The server that was started.
    served: Option<Served>,
    /// The key of the model that it holds.
    loaded: String,
}

impl Generator for HttpServer {
    fn id(&self) -> String {
        let HttpGenerator { version, serve, reload, .. } = &self.settings;
        let reload = reload.as_ref().map_or_else(String::new, |reload| format!("{reload:?} "));
        format!("http {version:?} {serve:?} {reload}{DECODING}")
    }

    fn answer(&mut self, task: &Task<'_>) -> Answers {
        let answers = match self.connect(task) {
            Ok(session) => session.ask_all(task, self.settings.concurrency, self.served.as_ref()),
            Err(failure) => Answers::none(failure),
        };
        if self.settings.reload.is_none() {
            self.served = None;
        }
        answers
    }
}

impl HttpServer {
    /// Brings the server to hold the task's model.
    fn connect(&mut self, task: &Task<'_>) -> Result<Session, Failure> {
        if self.served.as_ref().is_some_and(Served::has_ended) {
            self.served = None;
        }
        let port = match &self.served {
            Some(served) => served.port,
            None => serve::free_port()?,
        };
        let settings = &self.settings;
        let port_text = port.to_string();
        let model_dir = process::absolute(task.model_dir).display().to_string();
        let values = [("model_dir", model_dir.as_str()), ("port", port_text.as_str())];
        let base_url = process::fill_text(&settings.base_url, &values);
        let session = Session {
            connection: Connection::new(&base_url, settings.timeout, settings.key()?),
            model: process::fill_text(&settings.model, &values),
        };
        match (&settings.serve, &settings.reload) {
            (Some(serve), _) if self.served.is_none() => {
                let served = self.served.insert(Served::start(serve, &values, port, task)?);
                session.wait(settings.startup, Some(served), &served.log, task.stop)?;
            }
            (_, Some(reload)) if self.loaded != task.model_key => {
                // Whatever comes of it, the model before is not there any more.
                self.loaded.clear();
                let log = serve::reload(reload, &values, settings.startup, task)?;
                session.wait(settings.startup, self.served.as_ref(), &log, task.stop)?;
            }
            _ => {}
        }
        self.loaded = task.model_key.to_owned();
        Ok(session)
    }
}

/// A server that holds the model of one candidate.
struct Session {
    connection: Connection,
    model: String,
}

impl Session {
    fn ask_all(&self, task: &Task<'_>, concurrency: usize, served: Option<&Served>) -> Answers {
        let next = AtomicUsize::new(0);
        let gathered = Mutex::new((Answers::default(), Vec::<String>::new()));
        let work = || {
            loop {
                let Some(prompt) = task.prompts.get(next.fetch_add(1, Ordering::SeqCst)) else {
                    return;
                };
                let asked = self.ask(prompt, task.stop, served);
                let mut gathered = gathered.lock().unwrap_or_else(|broken| broken.into_inner());
                let (answers, fingerprints) = &mut *gathered;
                match asked {
                    Ok((response, fingerprint)) => {
                        answers.responses.push(response);
                        fingerprints.extend(fingerprint.filter(|f| !fingerprints.contains(f)));
                    }
                    Err(failure) => {
                        // The others end after what they have begun.
                        next.store(task.prompts.len(), Ordering::SeqCst);
                        answers.failure.get_or_insert(failure);
                    }
                }
            }
        };
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            // A request can take minutes; without its server it ends now.
            if let Some(served) = served {
                let watch = || {
                    while !is_done.load(Ordering::SeqCst) {
                        if task.stop.load(Ordering::SeqCst) {
                            return served.kill();
                        }
                        thread::park_timeout(WAKE);
                    }
                };
                // Where the system starts no thread, a stop waits for the answer.
                let _ = thread::Builder::new().spawn_scoped(scope, watch);
            }
            thread::scope(|workers| {
                for _ in 1..concurrency.min(task.prompts.len()) {
                    // Where the system starts no thread, fewer ask at once.
                    if thread::Builder::new().spawn_scoped(workers, work).is_err() {
                        break;
                    }
                }
                work();
            });
            is_done.store(true, Ordering::SeqCst);
        });
        let (mut answers, mut fingerprints) =
            gathered.into_inner().unwrap_or_else(|broken| broken.into_inner());
        fingerprints.sort();
        answers.notes.extend(fingerprints.into_iter().map(|f| format!("system_fingerprint {f}")));
        answers
    }

    fn ask(
        &self,
        prompt: &Prompt,
        stop: &AtomicBool,
        served: Option<&Served>,
    ) -> Result<(Response, Option<String>), Failure> {
        if let Some(reason) = chat::unasked(prompt) {
            return Ok((Response::failed(&prompt.id, reason), None));
        }
        let body = chat::body(prompt, &self.model)?.to_string();
        let is_gone = || served.is_some_and(Served::has_ended);
        const KEPT: &str = "run the same command again: the answers that there are will be kept";
        match self.connection.post("/v1/chat/completions", &body, stop, &is_gone) {
            Ok(Reply::Body(text)) => self.understand(prompt, &text),
            Ok(Reply::Refused(reason)) => Ok((Response::failed(&prompt.id, reason), None)),
            Err(Lost::Interrupted) => Err(Failure::Interrupted),
            Err(Lost::Ended) => {
                let headline = format!("the server ended while it was asked `{}`", prompt.id);
                let status = served.and_then(Served::status).map(Ended::Exited);
                let log = served.map(|served| served.log.as_path()).unwrap_or("".as_ref());
                let error = process::failure(headline, status.unwrap_or(Ended::Interrupted), log);
                Err(error.help(KEPT).into())
            }
            Err(Lost::Away(last)) => {
                let headline = format!("the server did not answer `{}`", prompt.id);
                let error = Diagnostic::error(codes::GENERATOR_FAILED, headline)
                    .fact("server", &self.connection.base_url)
                    .fact("tries", TRIES.to_string())
                    .fact("last", last);
                Err(error.help(KEPT).into())
            }
        }
    }

    fn understand(
        &self,
        prompt: &Prompt,
        text: &str,
    ) -> Result<(Response, Option<String>), Failure> {
        let (headline, expected, found) = match chat::understand(prompt, &self.model, text) {
            Ok(Understood::Answer(response, fingerprint)) => return Ok((response, fingerprint)),
            Ok(Understood::OtherModel(found)) => {
                (format!("another model answered `{}`", prompt.id), self.model.as_str(), found)
            }
            Err(wanted) => {
                let headline = format!("the reply to `{}` cannot be understood", prompt.id);
                (headline, wanted, self.connection.shown(text))
            }
        };
        let error = Diagnostic::error(codes::GENERATOR_FAILED, headline)
            .fact("server", &self.connection.base_url)
            .fact("expected", expected)
            .fact("found", found);
        Err(error.into())
    }
}
