//! A server that speaks OpenAI's protocol, started for each candidate or running already.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::{Value, json};

use super::{Answers, Failure, Generator, Task};
use crate::process::{self, Ended, Program, Running};
use crate::prompts::Prompt;
use crate::responses::{FinishReason, Response};

/// The placeholders of its texts.
pub const PLACEHOLDERS: [&str; 2] = ["model_dir", "port"];

/// What is sent beside messages and limits. It is part of what an answer depends on.
const DECODING: &str = "temperature 0 top_p 1 n 1 seed 0";
/// How often a request is repeated when the server is away or busy.
const TRIES: u32 = 6;
/// The first pause before a request is repeated; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How often a server that starts is asked whether it is there.
const HEALTH_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of the largest reply that is read.
const LARGEST_REPLY: u64 = 64 << 20;

/// A server that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGenerator {
    /// Where it is, up to and without `/v1`; `{port}` is a free port.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// The command that starts it for a candidate; none where it runs already.
    pub serve: Option<Vec<String>>,
    /// What its start may take.
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
            startup: Duration::from_secs(600),
            timeout: Duration::from_secs(600),
            concurrency: 1,
            version: String::new(),
        }
    }
}

impl Generator for HttpGenerator {
    fn id(&self) -> String {
        format!("http {:?} {:?} {DECODING}", self.version, self.serve)
    }

    fn answer(&self, task: &Task<'_>) -> Answers {
        match self.connect(task) {
            Ok(session) => session.ask_all(task, self.concurrency),
            Err(failure) => Answers::none(failure),
        }
    }
}

/// A server that is there, for one candidate. It ends with this value if it was started for it.
struct Session {
    agent: ureq::Agent,
    base_url: String,
    model: String,
    server: Option<Running>,
}

impl HttpGenerator {
    fn connect(&self, task: &Task<'_>) -> Result<Session, Failure> {
        let port = free_port()?.to_string();
        let model_dir = process::absolute(task.model_dir).display().to_string();
        let values = [("model_dir", model_dir.as_str()), ("port", port.as_str())];
        let base_url = process::fill_text(&self.base_url, &values);
        let mut config = ureq::Agent::config_builder()
            .timeout_global(Some(self.timeout))
            .http_status_as_error(false);
        if is_local(&base_url) {
            config = config.proxy(None);
        }
        let mut session = Session {
            agent: config.build().into(),
            base_url: base_url.trim_end_matches('/').to_owned(),
            model: process::fill_text(&self.model, &values),
            server: None,
        };
        if let Some(serve) = &self.serve {
            let log = task.work.join("stderr.txt");
            let label = task.candidate.label.as_str();
            let program = Program {
                argv: process::fill(serve, &values),
                environment: &[("MIXDOWN_ALPHA", label), ("MIXDOWN_MODEL_KEY", task.model_key)],
                log: &log,
                stdout: None,
            };
            session.server = Some(program.start()?);
            session.wait(self.startup, &log, task.stop)?;
        }
        Ok(session)
    }
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16, Box<Diagnostic>> {
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    port.map(|address| address.port()).map_err(|error| {
        let headline = format!("this machine gives no free port: {error}");
        Box::new(Diagnostic::error(codes::GENERATOR_FAILED, headline))
    })
}

/// Whether an address is of this machine, where a proxy would only be in the way.
fn is_local(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    ["localhost", "127.", "[::1]"].iter().any(|start| host.starts_with(start))
}

/// What a request came to.
enum Reply {
    /// An answer.
    Answer(Response, Option<String>),
    /// It may go better later, with what went wrong.
    Later(String),
    /// Nothing can be done.
    Refused(Box<Diagnostic>),
}

impl Session {
    /// Waits until the server lists the model.
    fn wait(&mut self, startup: Duration, log: &Path, stop: &AtomicBool) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut last = "no reply".to_owned();
        loop {
            if stop.load(Ordering::SeqCst) {
                return Err(Failure::Interrupted);
            }
            match self.models() {
                Ok(models) if models.contains(&self.model) => return Ok(()),
                Ok(models) => last = format!("it lists {}", models.join(", ")),
                Err(error) => last = error.unwrap_or(last),
            }
            let ended = self.server.as_mut().and_then(Running::has_ended);
            if let Some(status) = ended {
                let headline = "the server ended before it could be asked".to_owned();
                return Err(process::failure(headline, Ended::Exited(status), log).into());
            }
            if begun.elapsed() >= startup {
                if let Some(server) = &mut self.server {
                    server.end();
                }
                let headline = "the server did not come up in time".to_owned();
                let error = process::failure(headline, Ended::TimedOut, log)
                    .fact("waited", format!("{} s", startup.as_secs_f64()))
                    .fact("asked", format!("{}/v1/models for {}", self.base_url, self.model))
                    .fact("found", last);
                return Err(Diagnostic { facts: error.facts[1..].to_vec(), ..error }.into());
            }
            thread::sleep(HEALTH_PAUSE);
        }
    }

    /// The models that the server lists; what went wrong if it replied something else.
    fn models(&self) -> Result<Vec<String>, Option<String>> {
        let request = self.agent.get(format!("{}/v1/models", self.base_url));
        let request = request.config().timeout_global(Some(Duration::from_secs(5))).build();
        let mut reply = request.call().map_err(|_| None)?;
        let status = reply.status();
        let text = reply.body_mut().read_to_string().map_err(|_| None)?;
        let value: Value =
            serde_json::from_str(&text).map_err(|_| Some(format!("status {status}")))?;
        let models = value.get("data").and_then(Value::as_array).into_iter().flatten();
        Ok(models.filter_map(|model| Some(model.get("id")?.as_str()?.to_owned())).collect())
    }

    fn ask_all(&self, task: &Task<'_>, concurrency: usize) -> Answers {
        let next = AtomicUsize::new(0);
        let gathered = Mutex::new((Answers::default(), Vec::<String>::new()));
        let work = || {
            loop {
                let Some(prompt) = task.prompts.get(next.fetch_add(1, Ordering::SeqCst)) else {
                    return;
                };
                let asked = self.ask(prompt, task.stop);
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
            if let Some(server) = &self.server {
                scope.spawn(|| {
                    while !is_done.load(Ordering::SeqCst) {
                        if task.stop.load(Ordering::SeqCst) {
                            return server.kill();
                        }
                        thread::park_timeout(HEALTH_PAUSE);
                    }
                });
            }
            thread::scope(|workers| {
                for _ in 1..concurrency.min(task.prompts.len()) {
                    workers.spawn(work);
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
    ) -> Result<(Response, Option<String>), Failure> {
        if let Some(reason) = unasked(prompt) {
            return Ok((Response::failed(&prompt.id, reason), None));
        }
        let body = self.body(prompt)?.to_string();
        let mut pause = FIRST_PAUSE;
        let mut last = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                let begun = Instant::now();
                while begun.elapsed() < pause && !stop.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(20));
                }
                pause *= 2;
            }
            if stop.load(Ordering::SeqCst) {
                return Err(Failure::Interrupted);
            }
            match self.request(prompt, &body) {
                Reply::Answer(response, fingerprint) => return Ok((response, fingerprint)),
                Reply::Later(reason) => last = reason,
                Reply::Refused(error) => return Err(error.into()),
            }
        }
        let headline = format!("the server did not answer `{}`", prompt.id);
        let error = Diagnostic::error(codes::GENERATOR_FAILED, headline)
            .fact("server", &self.base_url)
            .fact("tries", TRIES.to_string())
            .fact("last", last)
            .help("run the same command again: the answers that there are will be kept");
        Err(error.into())
    }

    fn request(&self, prompt: &Prompt, body: &str) -> Reply {
        let request = self
            .agent
            .post(format!("{}/v1/chat/completions", self.base_url))
            .header("content-type", "application/json");
        let mut reply = match request.send(body) {
            Ok(reply) => reply,
            Err(error) => return Reply::Later(error.to_string()),
        };
        let status = reply.status();
        let text = reply.body_mut().with_config().limit(LARGEST_REPLY).read_to_string();
        let text = match text {
            Ok(text) => text,
            Err(error) => return Reply::Later(error.to_string()),
        };
        if status.as_u16() == 429 || status.is_server_error() {
            return Reply::Later(format!("status {status}"));
        }
        let shown: String = text.chars().filter(|letter| !letter.is_control()).take(300).collect();
        if !status.is_success() {
            let reason = format!("status {status}: {shown}");
            return Reply::Answer(Response::failed(&prompt.id, reason), None);
        }
        self.understand(prompt, &text).unwrap_or_else(|wanted| {
            let headline = format!("the reply to `{}` cannot be understood", prompt.id);
            Reply::Refused(Box::new(
                Diagnostic::error(codes::GENERATOR_FAILED, headline)
                    .fact("server", &self.base_url)
                    .fact("expected", wanted)
                    .fact("found", shown),
            ))
        })
    }

    fn understand(&self, prompt: &Prompt, text: &str) -> Result<Reply, &'static str> {
        let value: Value = serde_json::from_str(text).map_err(|_| "JSON")?;
        let model = value.get("model").and_then(Value::as_str).ok_or("`model`")?;
        if model != self.model {
            let headline = format!("another model answered `{}`", prompt.id);
            return Ok(Reply::Refused(Box::new(
                Diagnostic::error(codes::GENERATOR_FAILED, headline)
                    .fact("server", &self.base_url)
                    .fact("expected", &self.model)
                    .fact("found", model),
            )));
        }
        let choice = value.pointer("/choices/0").ok_or("`choices[0]`")?;
        let reason = choice.get("finish_reason").and_then(Value::as_str).unwrap_or("stop");
        let content = choice.pointer("/message/content").unwrap_or(&Value::Null);
        let finish_reason = match reason {
            "stop" => FinishReason::Stop,
            "length" => FinishReason::Length,
            other => {
                let failed = Response::failed(&prompt.id, format!("finish_reason {other}"));
                return Ok(Reply::Answer(failed, None));
            }
        };
        let response = Response {
            id: prompt.id.clone(),
            text: content.as_str().ok_or("text in `choices[0].message.content`")?.to_owned(),
            finish_reason,
            tokens: value.pointer("/usage/completion_tokens").and_then(Value::as_u64),
            error: None,
        };
        let fingerprint = value.get("system_fingerprint").and_then(Value::as_str);
        Ok(Reply::Answer(response, fingerprint.map(str::to_owned)))
    }

    fn body(&self, prompt: &Prompt) -> Result<Value, Box<Diagnostic>> {
        let mut body = json!({
            "model": self.model,
            "messages": prompt.messages.iter().map(message).collect::<Result<Vec<_>, _>>()?,
            "temperature": 0,
            "top_p": 1,
            "n": 1,
            "seed": 0,
            "stream": false,
        });
        if let Some(most) = prompt.max_new_tokens {
            body["max_tokens"] = most.into();
        }
        if !prompt.stop.is_empty() {
            body["stop"] = prompt.stop.clone().into();
        }
        Ok(body)
    }
}

/// Why a prompt cannot be asked of a server, if it cannot.
fn unasked(prompt: &Prompt) -> Option<&'static str> {
    let is_embeds = |part: &Value| part["type"] == "embeds";
    let has_embeds = |message: &Value| {
        message["content"].as_array().is_some_and(|parts| parts.iter().any(is_embeds))
    };
    if !prompt.input_ids.is_empty() {
        return Some("a server takes `messages` and no `input_ids`");
    }
    let has_embeds = prompt.messages.iter().any(has_embeds);
    has_embeds.then_some("a server takes no content of type `embeds`")
}

/// A message with its media inside.
fn message(message: &Value) -> Result<Value, Box<Diagnostic>> {
    let Some(parts) = message.get("content").and_then(Value::as_array) else {
        return Ok(message.clone());
    };
    let parts: Vec<Value> = parts.iter().map(part).collect::<Result<_, _>>()?;
    Ok(json!({"role": message["role"], "content": parts}))
}

fn part(part: &Value) -> Result<Value, Box<Diagnostic>> {
    let (Some(kind), Some(path)) =
        (part.get("type").and_then(Value::as_str), part.get("path").and_then(Value::as_str))
    else {
        return Ok(part.clone());
    };
    let bytes = std::fs::read(path).map_err(|error| {
        Diagnostic::error(codes::UNREADABLE, format!("the file cannot be read: {error}"))
            .in_file(path)
    })?;
    let data = base64::engine::general_purpose::STANDARD.encode(&bytes);
    let ending = Path::new(path).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let ending = ending.to_ascii_lowercase();
    Ok(match kind {
        "image" => {
            let media = image_type(&bytes, &ending);
            json!({"type": "image_url", "image_url": {"url": format!("data:{media};base64,{data}")}})
        }
        "audio" => json!({"type": "input_audio", "input_audio": {"data": data, "format": ending}}),
        _ => {
            let media = if ending == "webm" { "video/webm" } else { "video/mp4" };
            json!({"type": "video_url", "video_url": {"url": format!("data:{media};base64,{data}")}})
        }
    })
}

/// The type of an image, by its first bytes, else by the ending of its name.
fn image_type(bytes: &[u8], ending: &str) -> String {
    let known = match bytes {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        _ if ending == "jpg" => "image/jpeg",
        _ if ending.is_empty() => "application/octet-stream",
        _ => return format!("image/{ending}"),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            agent: ureq::Agent::config_builder().build().into(),
            base_url: "http://127.0.0.1:1".to_owned(),
            model: "/m".to_owned(),
            server: None,
        }
    }

    #[test]
    fn a_request_is_greedy_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, [0x89, b'P', b'N', b'G']).unwrap();
        let mut prompt = Prompt::named("a");
        prompt.messages = vec![json!({"role": "user", "content": [
            {"type": "image", "path": path, "sha256": ""}, {"type": "text", "text": "?"}]})];
        (prompt.max_new_tokens, prompt.stop) = (Some(4), vec!["\n".to_owned()]);
        let body = session().body(&prompt).unwrap();
        for (key, value) in [
            ("temperature", json!(0)),
            ("top_p", json!(1)),
            ("n", json!(1)),
            ("seed", json!(0)),
            ("stream", json!(false)),
            ("max_tokens", json!(4)),
            ("stop", json!(["\n"])),
            ("model", json!("/m")),
        ] {
            assert_eq!(body[key], value, "{key}");
        }
        let url = &body["messages"][0]["content"][0]["image_url"]["url"];
        assert_eq!(url, "data:image/png;base64,iVBORw==");
        assert_eq!(body["messages"][0]["content"][1]["text"], "?");
    }

    #[test]
    fn replies_are_understood_or_refused() {
        let prompt = Prompt::named("a");
        let reply = |value: Value| session().understand(&prompt, &value.to_string());
        let good = json!({"model": "/m", "system_fingerprint": "f", "usage": {"completion_tokens": 2},
            "choices": [{"finish_reason": "length", "message": {"content": " Yes"}}]});
        let Ok(Reply::Answer(answer, fingerprint)) = reply(good.clone()) else { panic!() };
        assert_eq!((answer.text.as_str(), answer.finish_reason), (" Yes", FinishReason::Length));
        assert_eq!((answer.tokens, fingerprint.as_deref()), (Some(2), Some("f")));
        let mut other = good.clone();
        other["model"] = "/n".into();
        assert!(matches!(reply(other), Ok(Reply::Refused(error)) if error.facts[2].1 == "/n"));
        let mut filtered = good.clone();
        filtered["choices"][0]["finish_reason"] = "content_filter".into();
        assert!(matches!(reply(filtered), Ok(Reply::Answer(answer, _)) if answer.is_error()));
        assert!(reply(json!({"model": "/m"})).is_err());
        assert!(session().understand(&prompt, "<html>").is_err());
    }

    #[test]
    fn what_a_server_does_not_take_is_not_asked() {
        let mut prompt = Prompt::named("a");
        prompt.messages = vec![json!({"role": "user", "content": [{"type": "text", "text": "?"}]})];
        assert_eq!(unasked(&prompt), None);
        prompt.messages[0]["content"][0]["type"] = "embeds".into();
        assert!(unasked(&prompt).unwrap().contains("`embeds`"));
        prompt.input_ids = vec![json!(1)];
        assert!(unasked(&prompt).unwrap().contains("`input_ids`"));
    }

    #[test]
    fn addresses_of_this_machine_need_no_proxy() {
        assert!(is_local("http://127.0.0.1:80") && is_local("http://localhost/"));
        assert!(!is_local("http://example.com") && !is_local("http://10.0.0.1"));
    }
}
