//! Requests to servers that speak OpenAI's protocol: repeated while a server is away or busy, with a key
//! that nobody sees.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mixdown_diagnostics::{Diagnostic, codes};

/// How often a request is made before the server counts as lost.
pub const TRIES: u32 = 6;
/// The first pause before a request is repeated; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause that a server gets which says when it wants to be asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a pause is broken to see whether somebody asked to stop.
const WAKE: Duration = Duration::from_millis(20);
/// Bytes of the largest reply that is read.
const LARGEST_REPLY: u64 = 64 << 20;
/// Of a reply that is wrong, so many characters are shown.
const SHOWN: usize = 300;

/// A server's key. It is sent to the server, and hidden wherever else it could appear.
pub struct Key(String);

impl Key {
    /// The key in this variable of the environment.
    pub fn read(variable: &str) -> Result<Self, Box<Diagnostic>> {
        let value = std::env::var_os(variable);
        let problem = match value.as_ref().map(|value| value.to_str()) {
            None => "is not set",
            Some(Some("")) => "is empty",
            Some(Some(key)) if key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Ok(Self(key.to_owned()));
            }
            Some(_) => "holds what cannot be sent as a key",
        };
        let headline = format!("the variable `{variable}` {problem}");
        Err(Box::new(
            Diagnostic::error(codes::ENVIRONMENT, headline)
                .note("`api_key_env` names it: the server's key is read from there")
                .help(format!("set it before the search: `export {variable}=…`")),
        ))
    }

    /// A text without the key.
    fn hide(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Key")
    }
}

/// A way to a server.
#[derive(Debug)]
pub struct Connection {
    agent: ureq::Agent,
    /// Where it is, up to and without `/v1`.
    pub base_url: String,
    key: Option<Key>,
}

/// What a server replied.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A body.
    Body(String),
    /// It does not want to do this, with its words.
    Refused(String),
}

/// Why there is no reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// It stayed away, busy or broken at each try; with what was wrong the last time.
    Away(String),
    /// It is known to have ended.
    Ended,
    /// Somebody asked to stop.
    Interrupted,
}

/// What one try came to.
enum Try {
    Replied(Reply),
    /// It may go better later: why, and when the server says so.
    Later(String, Option<Duration>),
}

impl Connection {
    /// A way to the server at this address. Nothing is sent yet.
    pub fn new(base_url: &str, timeout: Duration, key: Option<Key>) -> Self {
        let mut config =
            ureq::Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false);
        if is_local(base_url) {
            config = config.proxy(None);
        }
        let base_url = base_url.trim_end_matches('/').to_owned();
        Self { agent: mixdown_web::agent(config.build()), base_url, key }
    }

    /// Asks once. A status with the body, or none where nothing came.
    pub fn get(&self, path: &str, timeout: Duration) -> Option<(u16, String)> {
        let mut request = self.agent.get(format!("{}{path}", self.base_url));
        if let Some(Key(key)) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.config().timeout_global(Some(timeout)).build();
        let mut reply = request.call().ok()?;
        let status = reply.status().as_u16();
        let text = reply.body_mut().with_config().limit(LARGEST_REPLY).read_to_string();
        Some((status, text.ok()?))
    }

    /// Sends a body, and again while the server is away (no connection, a reply that breaks off) or
    /// busy (429, 5xx). `is_gone` says whether the server is known to have ended.
    pub fn post(
        &self,
        path: &str,
        body: &str,
        stop: &AtomicBool,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<Reply, Lost> {
        let mut pause = FIRST_PAUSE;
        let mut last = String::new();
        for attempt in 0..TRIES {
            if stop.load(Ordering::SeqCst) {
                return Err(Lost::Interrupted);
            }
            let wanted = match self.send(path, body) {
                Try::Replied(reply) => return Ok(reply),
                Try::Later(reason, wanted) => {
                    last = reason;
                    wanted
                }
            };
            if attempt + 1 < TRIES {
                let length = longer(pause, wanted);
                let begun = Instant::now();
                while begun.elapsed() < length && !stop.load(Ordering::SeqCst) {
                    if is_gone() {
                        return Err(Lost::Ended);
                    }
                    thread::sleep(WAKE);
                }
                pause *= 2;
            }
        }
        Err(if is_gone() { Lost::Ended } else { Lost::Away(last) })
    }

    fn send(&self, path: &str, body: &str) -> Try {
        let mut request = self.agent.post(format!("{}{path}", self.base_url));
        request = request.header("content-type", "application/json");
        if let Some(Key(key)) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut reply = match request.send(body) {
            Ok(reply) => reply,
            Err(error) => return Try::Later(self.shown(&error.to_string()), None),
        };
        let status = reply.status();
        let wanted = reply.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let wanted = wanted.and_then(|seconds| seconds.trim().parse().ok());
        let text = match reply.body_mut().with_config().limit(LARGEST_REPLY).read_to_string() {
            Ok(text) => text,
            Err(error) => return Try::Later(self.shown(&error.to_string()), None),
        };
        if status.as_u16() == 429 || status.is_server_error() {
            let words = match text.trim() {
                "" => format!("status {status}"),
                words => format!("status {status}: {}", self.shown(words)),
            };
            return Try::Later(words, wanted.map(Duration::from_secs));
        }
        Try::Replied(match status.is_success() {
            true => Reply::Body(text),
            false => Reply::Refused(format!("status {status}: {}", self.shown(&text))),
        })
    }

    /// The beginning of what a server said, for a message. A server may repeat the key that it got.
    pub fn shown(&self, text: &str) -> String {
        let text = self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.hide(text));
        text.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect()
    }
}

/// A pause, or the longer one that the server wants, within limits.
fn longer(pause: Duration, wanted: Option<Duration>) -> Duration {
    wanted.map_or(pause, |wanted| wanted.min(LONGEST_PAUSE).max(pause))
}

/// Whether an address is of this machine, where a proxy would only be in the way.
fn is_local(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    ["localhost", "127.", "[::1]"].iter().any(|start| host.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_need_no_proxy() {
        assert!(is_local("http://127.0.0.1:80") && is_local("http://localhost/"));
        assert!(!is_local("http://example.com") && !is_local("http://10.0.0.1"));
    }

    #[test]
    fn a_server_gets_the_pause_that_it_wants() {
        let seconds = Duration::from_secs;
        assert_eq!(longer(seconds(2), None), seconds(2));
        assert_eq!(longer(seconds(2), Some(seconds(1))), seconds(2));
        assert_eq!(longer(seconds(2), Some(seconds(5))), seconds(5));
        assert_eq!(longer(seconds(2), Some(seconds(u64::MAX))), LONGEST_PAUSE);
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = Some(Key("sk-secret".to_owned()));
        let connection = Connection::new("http://127.0.0.1:1/", Duration::from_secs(1), key);
        assert_eq!(connection.base_url, "http://127.0.0.1:1");
        assert_eq!(connection.shown("wrong key sk-secret\n!"), "wrong key [key]!");
        assert!(!format!("{connection:?}").contains("secret"));
        let long = format!("{}sk-secret", "x".repeat(SHOWN - 3));
        assert!(!connection.shown(&long).contains("sk-"), "a key that is cut is hidden before");
    }

    #[test]
    fn a_key_that_is_not_there_is_named() {
        let error = Key::read("MIXDOWN_TEST_NO_SUCH_KEY").unwrap_err();
        assert_eq!(error.headline, "the variable `MIXDOWN_TEST_NO_SUCH_KEY` is not set");
    }

    #[test]
    fn a_server_that_has_ended_is_not_waited_for() {
        let connection = Connection::new("http://127.0.0.1:1", Duration::from_secs(5), None);
        let begun = Instant::now();
        let stop = AtomicBool::new(false);
        assert_eq!(connection.post("/v1/x", "{}", &stop, &|| true), Err(Lost::Ended));
        stop.store(true, Ordering::SeqCst);
        assert_eq!(connection.post("/v1/x", "{}", &stop, &|| false), Err(Lost::Interrupted));
        assert!(begun.elapsed() < Duration::from_secs(5), "no pause was held");
    }
}
