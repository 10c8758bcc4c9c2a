//! Objects below one address of a store: requests that list, write and remove them, asked again while their
//! failures may pass.

use std::time::Duration;

use mixdown_diagnostics::{Diagnostic, codes};
use ureq::Agent;
use ureq::http::header::USER_AGENT;
use ureq::http::{HeaderMap, Request, Uri};

use super::{Kind, SCHEMES, Signer, Unsigned, escaped, located, query_text, xml};
use crate::hub::HubOptions;
use crate::hub::trouble::Trouble;
use crate::hub::web::{host_of, origin_of, reason_in, with_query};
use crate::shown::shown;

/// Failures in a row after which a request is given up.
const MOST_FAILURES: u32 = 6;

/// Longest answer that is read; lists come in pages of a thousand names.
const LONGEST_ANSWER: u64 = 16 << 20;

/// The objects below an address.
#[derive(Debug)]
pub(super) struct Objects {
    agent: Agent,
    pub(super) kind: Kind,
    /// As the user wrote it, without a slash at the end.
    pub(super) address: String,
    bucket: String,
    /// The web address of the bucket, with a slash at the end.
    root: String,
    /// What stands before the names of objects, with a slash at the end.
    prefix: String,
    signer: Option<Signer>,
    who: &'static str,
    patience: Duration,
    retry_after: Duration,
}

/// What is asked of a store.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked<'a> {
    pub method: &'static str,
    /// An object below the address; the bucket if none.
    pub name: Option<&'a str>,
    /// Sorted by name.
    pub query: &'a [(&'a str, &'a str)],
    pub headers: &'a [(&'static str, &'a str)],
    pub body: &'a [u8],
}

/// What a store answers.
#[derive(Debug)]
pub(super) struct Answer {
    pub headers: HeaderMap,
    pub body: String,
}

impl Objects {
    /// The objects below an address such as `s3://bucket/folder`.
    pub fn new(address: &str, options: &HubOptions) -> Result<Self, Trouble> {
        let address = address.trim_end_matches('/');
        let confused = |what: String| Trouble::Confused(what);
        let (scheme, kind) = SCHEMES
            .iter()
            .find(|(scheme, _)| address.starts_with(scheme))
            .ok_or_else(|| confused(format!("`{}` names no store", shown(address))))?;
        let (bucket, folder) =
            address[scheme.len()..].split_once('/').unwrap_or((&address[scheme.len()..], ""));
        if folder.is_empty() {
            return Err(confused(format!("`{}` names no folder in a bucket", shown(address))));
        }
        let place = located(&format!("{scheme}{bucket}"), &options.stores)?;
        let agent = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .build();
        Ok(Self {
            agent: mixdown_web::agent(agent),
            kind: *kind,
            address: address.to_owned(),
            bucket: bucket.to_owned(),
            root: format!("{}/", place.address.trim_end_matches('/')),
            prefix: format!("{folder}/"),
            signer: place.signer,
            who: options.stores.who(address),
            patience: options.patience,
            retry_after: options.retry_after,
        })
    }

    /// Asks, again while the failure may pass.
    pub fn ask(&self, asked: Asked<'_>) -> Result<Answer, Trouble> {
        let mut failures = 0;
        loop {
            let trouble = match self.ask_once(asked) {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            failures += 1;
            if !(trouble.may_pass() || matches!(trouble, Trouble::Silence))
                || failures >= MOST_FAILURES
            {
                return Err(trouble);
            }
            std::thread::sleep(self.retry_after * (1 << failures.min(5)) / 2);
        }
    }

    fn ask_once(&self, asked: Asked<'_>) -> Result<Answer, Trouble> {
        let no_address = || Trouble::Confused("no web address".to_owned());
        let path = asked.name.map(|name| escaped(&format!("{}{name}", self.prefix)));
        // The bucket itself is asked without a slash, as Azure signs it.
        let address = match (path, self.kind) {
            (Some(path), _) => format!("{}{path}", self.root),
            (None, Kind::Azure) => self.root.trim_end_matches('/').to_owned(),
            (None, _) => self.root.clone(),
        };
        let uri: Uri = address.parse().map_err(|_| no_address())?;
        let signed = self.signer.as_ref().map(|signer| {
            signer.sign(Unsigned {
                method: asked.method,
                host: &host_of(&uri),
                path: uri.path(),
                query: asked.query,
                range: None,
                headers: asked.headers,
                body: asked.body,
            })
        });
        let signed = signed.unwrap_or_default();
        let queries = [query_text(asked.query), signed.query.unwrap_or_default()];
        let queries: Vec<String> = queries.into_iter().filter(|text| !text.is_empty()).collect();
        let uri = match queries.is_empty() {
            true => uri,
            false => with_query(&uri, &queries.join("&")).ok_or_else(no_address)?,
        };
        let agent = concat!("mixdown/", env!("CARGO_PKG_VERSION"));
        let mut request =
            Request::builder().method(asked.method).uri(uri).header(USER_AGENT, agent);
        for (name, value) in asked.headers {
            request = request.header(*name, *value);
        }
        for (name, value) in &signed.headers {
            request = request.header(*name, value);
        }
        let patience = Some(self.patience);
        // However long a body takes, it must go on.
        macro_rules! run {
            ($body:expr) => {{
                let request = request.body($body).map_err(|_| no_address())?;
                let request = self
                    .agent
                    .configure_request(request)
                    .timeout_connect(patience)
                    .timeout_per_write(patience)
                    .timeout_recv_response(patience)
                    .timeout_per_read(patience)
                    .build();
                self.agent.run(request)?
            }};
        }
        let has_body = matches!(asked.method, "PUT" | "POST");
        let response = if has_body { run!(asked.body) } else { run!(()) };
        let status = response.status().as_u16();
        if !(200..300).contains(&status) {
            let reason = reason_in(response).unwrap_or_default();
            return Err(Trouble::Refused { status, reason });
        }
        let headers = response.headers().clone();
        let body = match asked.method {
            "HEAD" => String::new(),
            _ => {
                let mut body = response.into_body();
                body.with_config().limit(LONGEST_ANSWER).lossy_utf8(true).read_to_string()?
            }
        };
        Ok(Answer { headers, body })
    }

    /// Names of the objects right below the address; the first of them only if `any`. With `any`, those in
    /// folders below it count too.
    pub fn list(&self, any: bool) -> Result<Vec<String>, Trouble> {
        let mut names = Vec::new();
        let mut next = String::new();
        loop {
            let most = if any { "1" } else { "1000" };
            let mut query = match self.kind {
                Kind::Azure => vec![
                    ("comp", "list"),
                    ("maxresults", most),
                    ("prefix", self.prefix.as_str()),
                    ("restype", "container"),
                ],
                _ => vec![("list-type", "2"), ("max-keys", most), ("prefix", &self.prefix)],
            };
            if !any {
                query.push(("delimiter", "/"));
            }
            let (marker, answered) = match self.kind {
                Kind::Azure => ("marker", "NextMarker"),
                _ => ("continuation-token", "NextContinuationToken"),
            };
            if !next.is_empty() {
                query.push((marker, &next));
            }
            query.sort_unstable();
            let answer = self.ask(Asked { method: "GET", query: &query, ..Asked::default() })?;
            let (element, key) = match self.kind {
                Kind::Azure => ("Blob", "Name"),
                _ => ("Contents", "Key"),
            };
            for object in xml::all(&answer.body, element) {
                let name = xml::text_of(object, key).unwrap_or_default();
                // The object that some tools make for the folder itself has no name in it.
                let name = name.strip_prefix(&self.prefix).filter(|name| !name.is_empty());
                names.extend(name.map(str::to_owned));
            }
            next = xml::text_of(&answer.body, answered).unwrap_or_default();
            if next.is_empty() || (any && !names.is_empty()) {
                return Ok(names);
            }
        }
    }

    /// Bytes and etag of an object; none where there is no such.
    pub fn state(&self, name: &str) -> Result<Option<(u64, String)>, Trouble> {
        match self.ask(Asked { method: "HEAD", name: Some(name), ..Asked::default() }) {
            Ok(answer) => {
                let text = |name: &str| answer.headers.get(name)?.to_str().ok();
                let bytes = text("content-length").and_then(|length| length.parse().ok());
                let etag = text("etag").unwrap_or_default().to_owned();
                Ok(bytes.map(|bytes| (bytes, etag)))
            }
            Err(Trouble::Refused { status: 404, .. }) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// Writes an object in one request.
    pub fn put(&self, name: &str, body: &[u8]) -> Result<(), Trouble> {
        let headers: &[(&'static str, &str)] = match self.kind {
            Kind::Azure => {
                &[("content-type", "application/octet-stream"), ("x-ms-blob-type", "BlockBlob")]
            }
            _ => &[],
        };
        self.ask(Asked { method: "PUT", name: Some(name), headers, body, ..Asked::default() })
            .map(drop)
    }

    /// Removes an object; one that is not there is fine.
    pub fn remove(&self, name: &str) -> Result<(), Trouble> {
        match self.ask(Asked { method: "DELETE", name: Some(name), ..Asked::default() }) {
            Ok(_) | Err(Trouble::Refused { status: 404, .. }) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// What the user is told, where this failed.
    pub fn diagnostic(&self, trouble: &Trouble) -> Box<Diagnostic> {
        let (address, endpoint) = (shown(&self.address), origin_of(&self.root));
        let with = |code, headline: String| {
            Diagnostic::error(code, headline)
                .in_file(address.clone())
                .fact("store", format!("{} from {endpoint}", trouble.in_words()))
                .fact("asked as", self.who)
        };
        let refused = |headline: &str| with(codes::OUTPUT_REFUSED, headline.to_owned());
        Box::new(match trouble {
            Trouble::Refused { status: 404, .. } => {
                with(codes::OUTPUT_REFUSED, format!("there is no bucket `{}`", shown(&self.bucket)))
                    .help("make the bucket, or check its name and, for S3, AWS_ENDPOINT_URL")
            }
            Trouble::Refused { status: 401 | 403, .. } => {
                refused("the store does not let the output be written").help(
                    "give credentials that may list, read, write and remove objects there, in the variables of \
                     the store's own tools, such as AWS_ACCESS_KEY_ID, GOOGLE_OAUTH_ACCESS_TOKEN or \
                     AZURE_STORAGE_ACCOUNT_KEY",
                )
            }
            Trouble::Refused { status: 300..=499, .. } => refused("the store refuses the output")
                .help("check the bucket's region, for S3 in AWS_REGION"),
            Trouble::Confused(what) if self.bucket.is_empty() => {
                with(codes::OUTPUT_REFUSED, what.clone())
            }
            _ => with(codes::OUTPUT_NOT_SENT, "the output could not be sent to its store".to_owned())
                .note("what is sent is kept there unseen, and the same command goes on with it")
                .help("check the network, and run the same command again"),
        })
    }
}
