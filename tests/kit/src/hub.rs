//! A small HTTP server on this machine that speaks as much of the model hub's protocol as a download needs.
//!
//! Repositories are folders `ROOT/ORGANIZATION/NAME`. Weights are answered with a redirect, as the
//! hub answers files that it keeps in its large-file store.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::json;
use sha2::{Digest, Sha256};

/// The commit that `main` stands for.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request that the server received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// The path, from the first slash on.
    pub path: String,
    /// Value of the `Range` header.
    pub range: Option<String>,
    /// Value of the `Authorization` header.
    pub authorization: Option<String>,
}

/// What the server does out of the ordinary.
#[derive(Clone, Debug, Default)]
pub struct Behavior {
    /// Only requests with this token are answered; others get 401.
    pub token: Option<String>,
    /// The first transfer of a body larger than this breaks off after so many bytes.
    pub break_off_once_after: Option<u64>,
    /// Weights arrive with a byte changed.
    pub damage: bool,
    /// Every file is refused with this status, such as `503 Service Unavailable`.
    pub refuse_files: Option<&'static str>,
    /// Weights are announced and never sent.
    pub send_no_weights: bool,
    /// Weights lie at the server of this address, to which requests for them are redirected.
    pub weights_at: Option<String>,
    /// All requests are redirected to the server of this address.
    pub moved_to: Option<String>,
    /// Answers of weights hold all of the file, whatever part was asked for.
    pub ignores_ranges: bool,
    /// Answers of weights begin one byte after what was asked for, and say so.
    pub shifts_ranges: bool,
    /// After so many requests for weights their names of states are others.
    pub changes_after: Option<usize>,
    /// Every so many requests for weights the answer ends in the middle.
    pub cuts_every: Option<usize>,
    /// Every so many requests for weights the answer is `503 Service Unavailable`.
    pub refuses_every: Option<usize>,
    /// Requests for files are redirected once within the server, as for a model that was renamed.
    pub renames: bool,
}

/// The server; it ends when dropped.
pub struct HubServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    root: PathBuf,
    behavior: Behavior,
    broken_off: AtomicBool,
    /// Requests for weights so far.
    weights: AtomicUsize,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl HubServer {
    /// Serves the repositories under `root`.
    pub fn start(root: &Path, behavior: Behavior) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a local port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared {
            address,
            root: root.to_owned(),
            behavior,
            broken_off: AtomicBool::new(false),
            weights: AtomicUsize::new(0),
            requests: Arc::clone(&requests),
        });
        let stop = Arc::clone(&stopping);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&shared);
                // A client that hangs up early is its own affair.
                std::thread::spawn(move || drop(answer(&shared, stream)));
            }
        });
        Self { address, requests, stopping, thread: Some(thread) }
    }

    /// What to set `HF_ENDPOINT` to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far, in the order they came.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no request panics").clone()
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread, which otherwise waits for the next connection.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A status line, headers and a body.
struct Response {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Response {
    fn new(status: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn refusal(status: &'static str, code: &'static str) -> Self {
        let body = json!({"error": code}).to_string();
        Self::new(status, body).with("X-Error-Code", code).with("X-Error-Message", code)
    }
}

fn answer(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let request = read_request(&mut reader)?;
    let range = request.range.clone();
    let is_head = request.method == "HEAD";
    let is_weights = request.path.starts_with("/large-files/");
    let response = respond(shared, &request);
    shared.requests.lock().expect("no request panics").push(request);
    send(shared, stream, response, range.as_deref(), is_head, is_weights)
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut request = Request {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        range: None,
        authorization: None,
    };
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            return Ok(request);
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        let value = Some(value.trim().to_owned());
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = value,
            "authorization" => request.authorization = value,
            _ => {}
        }
    }
}

fn respond(shared: &Shared, request: &Request) -> Response {
    if let Some(token) = &shared.behavior.token
        && request.authorization.as_deref() != Some(&format!("Bearer {token}"))
    {
        return Response::refusal("401 Unauthorized", "GatedRepo");
    }
    if let Some(host) = &shared.behavior.moved_to {
        let location = format!("{host}{}", request.path);
        return Response::new("307 Temporary Redirect", Vec::new()).with("Location", location);
    }
    if shared.behavior.renames && request.path.contains("/resolve/") && !request.path.contains('?')
    {
        let location = format!("{}?again", request.path);
        return Response::new("307 Temporary Redirect", Vec::new()).with("Location", location);
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api", "models", organization, name] => describe(shared, organization, name, "main"),
        ["api", "models", organization, name, "revision", revision] => {
            describe(shared, organization, name, revision)
        }
        [organization, name, "resolve", revision, file @ ..] => {
            resolve(shared, organization, name, revision, &file.join("/"))
        }
        ["large-files", organization, name, file @ ..] => {
            let file = shared.root.join(organization).join(name).join(file.join("/"));
            match fs::read(file) {
                Ok(mut body) => {
                    if let Some(last) = body.last_mut().filter(|_| shared.behavior.damage) {
                        *last ^= 1;
                    }
                    Response::new("200 OK", body)
                }
                Err(_) => Response::refusal("404 Not Found", "EntryNotFound"),
            }
        }
        _ => Response::refusal("404 Not Found", "RepoNotFound"),
    }
}

fn is_known(revision: &str) -> bool {
    revision == "main" || revision == COMMIT
}

fn describe(shared: &Shared, organization: &str, name: &str, revision: &str) -> Response {
    let Ok(entries) = fs::read_dir(shared.root.join(organization).join(name)) else {
        return Response::refusal("404 Not Found", "RepoNotFound");
    };
    if !is_known(revision) {
        return Response::refusal("404 Not Found", "RevisionNotFound");
    }
    let mut files: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    files.sort();
    let siblings: Vec<_> = files.iter().map(|file| json!({"rfilename": file})).collect();
    let id = format!("{organization}/{name}");
    let body = json!({
        "id": id, "modelId": id, "sha": COMMIT, "private": false, "gated": false,
        "siblings": siblings,
    });
    Response::new("200 OK", body.to_string()).with("Content-Type", "application/json")
}

fn resolve(
    shared: &Shared,
    organization: &str,
    name: &str,
    revision: &str,
    file: &str,
) -> Response {
    let folder = shared.root.join(organization).join(name);
    if !folder.is_dir() {
        return Response::refusal("404 Not Found", "RepoNotFound");
    }
    if !is_known(revision) {
        return Response::refusal("404 Not Found", "RevisionNotFound");
    }
    if let Some(status) = shared.behavior.refuse_files {
        return Response::refusal(status, "");
    }
    let Ok(body) = fs::read(folder.join(file)) else {
        return Response::refusal("404 Not Found", "EntryNotFound");
    };
    let digest = Sha256::digest(&body).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text can grow");
        text
    });
    if file.ends_with(".safetensors") {
        // The hub's large-file store is another host: clients follow only absolute addresses there.
        let own = format!("http://{}", shared.address);
        let host = shared.behavior.weights_at.as_ref().unwrap_or(&own);
        let location = format!("{host}/large-files/{organization}/{name}/{file}");
        let before = shared.weights.load(Ordering::SeqCst);
        let is_changed = shared.behavior.changes_after.is_some_and(|count| before >= count);
        let digest =
            if is_changed { digest.replace(|c: char| c.is_ascii_digit(), "0") } else { digest };
        return Response::new("302 Found", Vec::new())
            .with("Location", location)
            .with("X-Repo-Commit", COMMIT)
            .with("X-Linked-Size", body.len().to_string())
            .with("X-Linked-Etag", format!("\"{digest}\""))
            .with("ETag", format!("\"{digest}\""));
    }
    // Small files carry the id of a git object, which has 40 digits.
    Response::new("200 OK", body)
        .with("X-Repo-Commit", COMMIT)
        .with("ETag", format!("\"{}\"", &digest[..40]))
}

fn send(
    shared: &Shared,
    mut stream: TcpStream,
    response: Response,
    range: Option<&str>,
    is_head: bool,
    is_weights: bool,
) -> io::Result<()> {
    let total = response.body.len() as u64;
    let count = if is_weights { shared.weights.fetch_add(1, Ordering::SeqCst) + 1 } else { 1 };
    let every =
        |period: Option<usize>| is_weights && period.is_some_and(|n| count.is_multiple_of(n));
    if every(shared.behavior.refuses_every) {
        let text =
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(text.as_bytes());
    }
    let range = range.filter(|_| !(is_weights && shared.behavior.ignores_ranges));
    let shift = u64::from(is_weights && shared.behavior.shifts_ranges && count > 1);
    let mut status = response.status;
    let mut body = response.body.as_slice();
    let mut head = String::new();
    if status == "200 OK"
        && let Some((begin, end)) = range.and_then(|range| parse_range(range, total))
    {
        let begin = (begin + shift).min(end);
        if begin >= total {
            let head = format!(
                "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{total}\r\n\
                 Content-Length: 0\r\nConnection: close\r\n\r\n"
            );
            return stream.write_all(head.as_bytes());
        }
        status = "206 Partial Content";
        body = &body[begin as usize..=end as usize];
        write!(head, "Content-Range: bytes {begin}-{end}/{total}\r\n").expect("text can grow");
    }
    for (name, value) in &response.headers {
        write!(head, "{name}: {value}\r\n").expect("text can grow");
    }
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nAccept-Ranges: bytes\r\n{head}\
         Connection: close\r\n\r\n",
        body.len()
    )?;
    if is_head {
        return Ok(());
    }
    if shared.behavior.send_no_weights && status.starts_with('2') && body.len() > 1 && is_weights {
        // Until the client gives up and closes the connection.
        return stream.read(&mut [0]).map(drop);
    }
    if every(shared.behavior.cuts_every) && body.len() > 1 {
        stream.write_all(&body[..body.len() / 2])?;
        return stream.shutdown(std::net::Shutdown::Both);
    }
    if let Some(limit) = shared.behavior.break_off_once_after
        && status.starts_with('2')
        && body.len() as u64 > limit
        && !shared.broken_off.swap(true, Ordering::SeqCst)
    {
        stream.write_all(&body[..limit as usize])?;
        return stream.shutdown(std::net::Shutdown::Both);
    }
    stream.write_all(body)
}

/// First and last byte of `bytes=FIRST-LAST` or `bytes=FIRST-`.
fn parse_range(range: &str, total: u64) -> Option<(u64, u64)> {
    let (begin, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    let begin = begin.parse().ok()?;
    let last = total.saturating_sub(1);
    let end = if end.is_empty() { last } else { end.parse::<u64>().ok()?.min(last) };
    Some((begin, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Space;

    fn get(server: &HubServer, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(server.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\n{headers}\r\n").unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn lists_and_serves_a_repository() {
        let space = Space::new();
        space.write("org/name/config.json", "{}");
        space.write("org/name/model.safetensors", "0123456789");
        let server = HubServer::start(space.root(), Behavior::default());
        let listing = get(&server, "/api/models/org/name/revision/main", "");
        assert!(listing.contains("model.safetensors") && listing.contains(COMMIT), "{listing}");
        let moved = get(&server, "/org/name/resolve/main/model.safetensors", "");
        assert!(moved.starts_with("HTTP/1.1 302"), "{moved}");
        let part = get(&server, "/large-files/org/name/model.safetensors", "Range: bytes=7-\r\n");
        assert!(part.contains("bytes 7-9/10") && part.ends_with("\r\n\r\n789"), "{part}");
        assert!(get(&server, "/org/name/resolve/main/none.json", "").contains("EntryNotFound"));
        assert!(get(&server, "/org/none/resolve/main/x", "").contains("RepoNotFound"));
        assert!(get(&server, "/org/name/resolve/v9/config.json", "").contains("RevisionNotFound"));
        assert_eq!(server.requests().len(), 6);
    }

    #[test]
    fn asks_for_its_token_and_breaks_off_once() {
        let space = Space::new();
        space.write("org/name/config.json", "0123456789");
        let behavior = Behavior {
            token: Some("secret".to_owned()),
            break_off_once_after: Some(4),
            ..Behavior::default()
        };
        let server = HubServer::start(space.root(), behavior);
        let path = "/org/name/resolve/main/config.json";
        assert!(get(&server, path, "").starts_with("HTTP/1.1 401"));
        let token = "Authorization: Bearer secret\r\n";
        assert!(get(&server, path, token).ends_with("\r\n\r\n0123"));
        assert!(get(&server, path, token).ends_with("\r\n\r\n0123456789"));
    }
}
