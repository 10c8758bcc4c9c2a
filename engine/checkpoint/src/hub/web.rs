//! Requests to the hub, and where its answers send them. The user's token is for the hub alone: every
//! redirect is followed here, and a request to any other place is made without it.

mod send;

use std::time::Duration;

use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE,
    USER_AGENT,
};
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body, BodyReader};

use super::HubOptions;
use super::store::{Located, Signer, Unsigned};
use super::trouble::Trouble;

pub(super) use send::{Sent, Verb};

/// Redirects in a row that are followed; browsers follow about twenty, and the hub sends two at most.
const MOST_REDIRECTS: usize = 10;

/// Asks the hub.
#[derive(Clone, Debug)]
pub(super) struct Web {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
    /// Says who asks a store.
    signer: Option<Signer>,
}

#[derive(Clone)]
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// What the hub says of a file before it sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// The commit that the file is of.
    pub commit: String,
    /// Its name among the blobs: its SHA-256, where it is large, or else the id of a git object.
    pub etag: String,
    /// Its bytes.
    pub size: u64,
}

impl Web {
    pub fn new(options: &HubOptions) -> Result<Self, Trouble> {
        let endpoint = options.endpoint.clone();
        let no_address =
            || Trouble::Confused(format!("`{}` is no web address", options.shown_endpoint()));
        let origin =
            endpoint.parse().ok().and_then(|uri| Origin::of(&uri)).ok_or_else(no_address)?;
        let agent = Agent::config_builder()
            .max_redirects(0)
            // A redirect is an answer, and refusals are read here: their headers say more than their status.
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .build();
        let token = options.token.clone().map(Token);
        Ok(Self { agent: mixdown_web::agent(agent), endpoint, origin, token, signer: None })
    }

    /// The address of what the hub tells of a revision of a model.
    pub fn info_address(&self, id: &str, revision: &str) -> String {
        format!("{}/api/models/{id}/revision/{}", self.endpoint, escaped(revision))
    }

    /// The address of a file.
    pub fn file_address(&self, id: &str, revision: &str, name: &str) -> String {
        format!("{}/{id}/resolve/{}/{name}", self.endpoint, escaped(revision))
    }

    /// The text at an address.
    pub fn text(&self, address: &str, patience: Duration) -> Result<String, Trouble> {
        let (_, mut response) = self.ask(address, None, Some(patience))?;
        // The list of files of the largest repositories has some megabytes.
        const LONGEST: u64 = 64 << 20;
        let body = response.body_mut().with_config().limit(LONGEST);
        Ok(body.read_to_string()?)
    }

    /// What the hub says of a file: its first byte is asked for, and the answer tells of the whole.
    pub fn announced(&self, address: &str) -> Result<Announced, Trouble> {
        let (hub, last) = self.ask(address, Some("bytes=0-0"), None)?;
        let headers = hub.as_ref().unwrap_or(last.headers());
        let required = |name: &str| {
            text_of(headers, name).ok_or_else(|| Trouble::Confused(format!("no header `{name}`")))
        };
        let etag = required("x-linked-etag").or_else(|_| required("etag"))?.replace('"', "");
        let commit = required("x-repo-commit")?;
        // `bytes 0-0/1234`
        let range = text_of(last.headers(), CONTENT_RANGE.as_str());
        let size = range.as_deref().and_then(|range| range.rsplit_once('/')?.1.parse().ok());
        let size = size.ok_or_else(|| Trouble::Confused("no size of a file".to_owned()))?;
        Ok(Announced { commit, etag, size })
    }

    /// The bytes of a file from `start` on; the second value is where they really begin: at 0, where a
    /// server cannot begin elsewhere.
    ///
    /// With a `patience` all of it has to come within that; who asks without looks after silence himself.
    pub fn bytes(
        &self,
        address: &str,
        start: u64,
        patience: Option<Duration>,
    ) -> Result<(BodyReader<'static>, u64), Trouble> {
        let (_, response) = self.ask(address, Some(&format!("bytes={start}-")), patience)?;
        let begins = if response.status() == 206 { start } else { 0 };
        Ok((response.into_body().into_reader(), begins))
    }

    /// Asks for files at addresses that belong to no hub; nobody's token goes along.
    pub fn of_address(address: &str) -> Result<Self, Trouble> {
        let options = HubOptions { token: None, ..HubOptions::from_env(&|_| None) };
        let web = Self::new(&HubOptions { endpoint: origin_of(address), ..options })?;
        Ok(web)
    }

    /// Asks for files in a store, as who may read them.
    pub fn of_store(store: &Located) -> Result<Self, Trouble> {
        Ok(Self { signer: store.signer.clone(), ..Self::of_address(&store.address)? })
    }

    /// The bytes of a file from `first` to `last`, or to its end.
    pub fn range(
        &self,
        address: &str,
        first: u64,
        last: u64,
        patience: Duration,
    ) -> Result<Stretch, Trouble> {
        let range = format!("bytes={first}-{last}");
        let (hub, response) = self.ask(address, Some(&range), Some(patience))?;
        let confused = |what: &str| Trouble::Confused(what.to_owned());
        let of_hub = hub.as_ref().and_then(|headers| text_of(headers, "x-linked-etag"));
        let etag = of_hub.or_else(|| text_of(response.headers(), ETAG.as_str()));
        let etag = etag.map(|etag| etag.replace('"', ""));
        let (begins, total) = if response.status() == 206 {
            // `bytes 7-9/1234`
            let range = text_of(response.headers(), CONTENT_RANGE.as_str());
            let found = range.as_deref().and_then(|range| {
                let (stretch, total) = range.trim().strip_prefix("bytes")?.split_once('/')?;
                let (begins, _) = stretch.trim().split_once('-')?;
                Some((begins.parse().ok()?, total.trim().parse().ok()?))
            });
            found.ok_or_else(|| confused("a part of a file without its place"))?
        } else {
            // All of a short file is what was asked for.
            let length = text_of(response.headers(), CONTENT_LENGTH.as_str());
            let length = length.and_then(|length| length.parse::<u64>().ok());
            let is_all = |length: &u64| first == 0 && *length <= last.saturating_add(1);
            let whole = length.filter(is_all);
            let no_ranges = || Trouble::Refused { status: 200, reason: String::new() };
            (0, whole.ok_or_else(no_ranges)?)
        };
        Ok(Stretch { begins, total, etag, body: response.into_body().into_reader() })
    }

    /// Asks, and goes where the answers lead. Also gives the headers with which the hub handed the request
    /// over to another place, if it did: it describes the file in these.
    fn ask(
        &self,
        address: &str,
        range: Option<&str>,
        patience: Option<Duration>,
    ) -> Result<(Option<HeaderMap>, Response<Body>), Trouble> {
        let confused = |what: &str| Trouble::Confused(what.to_owned());
        let mut at: Uri = address.parse().map_err(|_| confused("no web address"))?;
        let mut described = None;
        for _ in 0..=MOST_REDIRECTS {
            let agent = concat!("mixdown/", env!("CARGO_PKG_VERSION"));
            // Positions in a file count its own bytes, not those of a packed form.
            let is_home = Origin::of(&at).is_some_and(|origin| origin == self.origin);
            let signer = self.signer.as_ref().filter(|_| is_home);
            let signed =
                signer.map(|signer| signer.sign(Unsigned::get(&host_of(&at), at.path(), range)));
            let signed = signed.unwrap_or_default();
            let asked = match &signed.query {
                Some(query) => with_query(&at, query).ok_or_else(|| confused("no web address"))?,
                None => at.clone(),
            };
            let mut request = self.agent.get(&asked).header(USER_AGENT, agent);
            for (name, value) in signed.headers {
                request = request.header(name, value);
            }
            request = request.header(ACCEPT_ENCODING, "identity");
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            if let Some(Token(token)) = self.token.as_ref().filter(|_| is_home) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.config().timeout_global(patience).build().call()?;
            let location = text_of(response.headers(), LOCATION.as_str());
            match (response.status().as_u16(), location) {
                (200..=299, _) => return Ok((described, response)),
                (301 | 302 | 303 | 307 | 308, Some(location)) => {
                    let next: Uri =
                        location.parse().map_err(|_| confused("a redirect to nowhere"))?;
                    let describes = response.headers().contains_key("x-repo-commit");
                    if next.scheme().is_some() && describes && described.is_none() {
                        described = Some(response.headers().clone());
                    }
                    at = followed(&at, &next).ok_or_else(|| confused("a redirect to nowhere"))?;
                }
                (status, _) => {
                    let reason = text_of(response.headers(), "x-error-code");
                    let reason = reason.or_else(|| reason_in(response)).unwrap_or_default();
                    return Err(Trouble::Refused { status, reason });
                }
            }
        }
        Err(confused("a redirect after another"))
    }
}

/// A stretch of a file, as a server gives it.
pub(super) struct Stretch {
    /// Where it begins.
    pub begins: u64,
    /// Bytes of the whole file.
    pub total: u64,
    /// What the server calls this state of the file.
    pub etag: Option<String>,
    pub body: BodyReader<'static>,
}

/// Scheme, host and port of an address, without names and passwords.
pub(super) fn origin_of(address: &str) -> String {
    match address.parse().ok().and_then(|uri| Origin::of(&uri)) {
        Some(Origin { scheme, host, port }) => format!("{scheme}://{host}:{port}"),
        None => String::new(),
    }
}

/// To whom a token was given: scheme, host and port, all three.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let usual = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let host = uri.host()?.to_ascii_lowercase();
        Some(Self { scheme, host, port: uri.port_u16().unwrap_or(usual) })
    }
}

/// Where a redirect from `from` leads. Only to the web, and never back from encryption.
fn followed(from: &Uri, to: &Uri) -> Option<Uri> {
    let mut parts = to.clone().into_parts();
    parts.scheme = parts.scheme.or_else(|| from.scheme().cloned());
    parts.authority = parts.authority.or_else(|| from.authority().cloned());
    let next = Uri::from_parts(parts).ok()?;
    let is_weaker = from.scheme_str() == Some("https") && next.scheme_str() != Some("https");
    (Origin::of(&next).is_some() && !is_weaker).then_some(next)
}

/// Host and port as a request names them.
pub(super) fn host_of(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    match uri.port_u16().filter(|port| *port != usual) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

pub(super) fn with_query(uri: &Uri, query: &str) -> Option<Uri> {
    let separator = if uri.query().is_some() { '&' } else { '?' };
    format!("{uri}{separator}{query}").parse().ok()
}

/// The word by which a store says in a document why it refuses: `<Code>AccessDenied</Code>`.
pub(super) fn reason_in(response: Response<Body>) -> Option<String> {
    const LONGEST: u64 = 64 << 10;
    let text = response.into_body().with_config().limit(LONGEST).read_to_string().ok()?;
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let is_word = code.len() < 80 && code.chars().all(|c| c.is_ascii_alphanumeric());
    is_word.then(|| code.to_owned())
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// A revision within an address: branches may have slashes in their names.
fn escaped(revision: &str) -> String {
    revision.replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let check = |from: &str, to: &str, expected: Option<&str>| {
            let found = followed(&from.parse().unwrap(), &to.parse().unwrap());
            assert_eq!(found.map(|uri| uri.to_string()).as_deref(), expected, "{to}");
        };
        check("https://hub/a?x", "/b?y", Some("https://hub/b?y"));
        check("https://hub:8/a", "https://cdn/b", Some("https://cdn/b"));
        check("http://hub/a", "https://hub/a", Some("https://hub/a"));
        check("https://hub/a", "http://hub/a", None);
        check("https://hub/a", "ftp://hub/a", None);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap()).unwrap();
        let home = origin("https://huggingface.co");
        assert_eq!(home, origin("https://user@HuggingFace.co:443/a/b"));
        for other in [
            "http://huggingface.co",
            "https://huggingface.co:444",
            "https://cdn.huggingface.co",
            "https://huggingface.co.evil.org",
        ] {
            assert_ne!(home, origin(other), "{other}");
        }
    }
}
