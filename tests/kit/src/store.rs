//! A server on this machine that takes objects as stores do: multipart uploads of S3 and of Google's XML protocol,
//! block lists of Azure. It checks no signatures, and misbehaves where asked to.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The bucket, or container, that is there.
pub const BUCKET: &str = "models";

/// What the server does out of the ordinary.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreBehavior {
    /// Whoever asks for more than a list is refused.
    pub is_read_only: bool,
    /// Every so many parts are answered with `503 Service Unavailable`, and not kept.
    pub refuses_every: Option<usize>,
    /// Every so many parts the connection ends without an answer.
    pub cuts_every: Option<usize>,
    /// The first parts that are joined become an object, and the connection ends without an answer.
    pub loses_an_answer: bool,
    /// The first joining is answered with status 200 and an error in the text.
    pub fails_in_the_text: bool,
    /// From so many parts on, none is answered until the behavior changes.
    pub holds_from: Option<usize>,
    /// Whoever asks for a list is refused.
    pub is_unlisted: bool,
    /// Objects are not put once so many are there.
    pub full_at: Option<usize>,
}

#[derive(Default)]
struct State {
    behavior: StoreBehavior,
    objects: BTreeMap<String, Vec<u8>>,
    /// By the name of an upload, or by that of an object for blocks.
    uploads: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    parts: usize,
    joins: usize,
    begun: usize,
    log: Vec<String>,
}

/// The server; it ends when dropped.
pub struct StoreServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StoreServer {
    /// Serves one bucket with nothing in it.
    pub fn start(behavior: StoreBehavior) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a local port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(Mutex::new(State { behavior, ..State::default() }));
        let stopping = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (Arc::clone(&state), Arc::clone(&stopping));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
                // A client that hangs up early is its own affair.
                std::thread::spawn(move || drop(answer(&shared, &stop, stream)));
            }
        });
        Self { address, state, stopping, thread: Some(thread) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Behaves otherwise from now on.
    pub fn behave(&self, behavior: StoreBehavior) {
        self.lock().behavior = behavior;
    }

    /// The objects that anybody can see, by name.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().objects.clone()
    }

    /// Puts an object.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.lock().objects.insert(name.to_owned(), bytes.to_vec());
    }

    /// Removes an object.
    pub fn remove(&self, name: &str) {
        self.lock().objects.remove(name);
    }

    /// Uploads that are neither joined nor given up.
    pub fn open_uploads(&self) -> usize {
        self.lock().uploads.len()
    }

    /// Forgets all that was begun and not joined, as a rule of a bucket does after some days.
    pub fn forget_uploads(&self) {
        self.lock().uploads.clear();
    }

    /// Parts that were kept so far.
    pub fn parts(&self) -> usize {
        self.lock().log.iter().filter(|line| line.starts_with("part ")).count()
    }

    /// What changed objects, in order: `part NAME`, `join NAME`, `put NAME`, `remove NAME`, `abort NAME`.
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread, which otherwise waits for the next connection.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Asked {
    method: String,
    bucket: String,
    name: String,
    query: BTreeMap<String, String>,
    body: Vec<u8>,
    /// The first and the last byte of an object that is asked for.
    range: Option<(usize, usize)>,
    /// How many parts were sent before and with this one.
    number: usize,
}

/// Status line, headers, body; none ends the connection.
type Reply = Option<(&'static str, String, Vec<u8>)>;

fn answer(state: &Mutex<State>, stop: &AtomicBool, mut stream: TcpStream) -> io::Result<()> {
    let mut asked = read(&mut BufReader::new(stream.try_clone()?))?;
    while is_part(&asked) && !is_admitted(&mut lock(state), &mut asked) {
        if stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let Some((status, headers, body)) = respond(&mut lock(state), &asked) else {
        return stream.shutdown(std::net::Shutdown::Both);
    };
    let length = if headers.contains("Content-Length") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    write!(stream, "HTTP/1.1 {status}\r\n{length}{headers}Connection: close\r\n\r\n")?;
    stream.write_all(&body)
}

/// Counts a part, unless it is to wait.
fn is_admitted(state: &mut State, asked: &mut Asked) -> bool {
    if state.behavior.holds_from.is_some_and(|most| state.parts >= most) {
        return false;
    }
    state.parts += 1;
    asked.number = state.parts;
    true
}

fn is_part(asked: &Asked) -> bool {
    let is_block = asked.query.get("comp").is_some_and(|comp| comp == "block");
    asked.method == "PUT" && (is_block || asked.query.contains_key("partNumber"))
}

fn read(reader: &mut impl BufRead) -> io::Result<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default().to_owned();
    let (mut length, mut range) = (0, None);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
        if name.eq_ignore_ascii_case("range") || name.eq_ignore_ascii_case("x-ms-range") {
            let ends = value.trim().strip_prefix("bytes=").and_then(|ends| ends.split_once('-'));
            range = ends.map(|(first, last)| {
                (first.parse().unwrap_or(0), last.parse().unwrap_or(usize::MAX))
            });
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (bucket, name) = path.trim_start_matches('/').split_once('/').unwrap_or((&path[1..], ""));
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), decoded(value))
    };
    let query = query.split('&').filter(|text| !text.is_empty()).map(pair).collect();
    let (bucket, name) = (bucket.to_owned(), decoded(name));
    Ok(Asked { method, bucket, name, query, body, range, number: 0 })
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, more)) = rest.split_first() {
        let hex = (first == b'%').then(|| more.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(first);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).expect("names are text")
}

fn ok(body: impl Into<String>) -> Reply {
    Some(("200 OK", String::new(), body.into().into_bytes()))
}

fn refusal(status: &'static str, code: &str) -> Reply {
    Some((status, String::new(), format!("<Error><Code>{code}</Code></Error>").into_bytes()))
}

fn etag(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn respond(state: &mut State, asked: &Asked) -> Reply {
    if asked.bucket != BUCKET {
        return refusal("404 Not Found", "NoSuchBucket");
    }
    let get = |name: &str| asked.query.get(name).map(String::as_str);
    let is_list = asked.name.is_empty();
    if state.behavior.is_read_only && !is_list {
        return refusal("403 Forbidden", "AccessDenied");
    }
    if is_list && state.behavior.is_unlisted {
        return refusal("403 Forbidden", "AccessDenied");
    }
    if is_list {
        return list(state, get("prefix").unwrap_or_default(), asked);
    }
    let name = asked.name.clone();
    match (asked.method.as_str(), get("comp"), get("uploadId")) {
        ("HEAD", ..) => match state.objects.get(&name) {
            Some(bytes) => {
                let headers =
                    format!("ETag: \"{}\"\r\nContent-Length: {}\r\n", etag(bytes), bytes.len());
                Some(("200 OK", headers, Vec::new()))
            }
            None => Some(("404 Not Found", String::new(), Vec::new())),
        },
        ("POST", _, None) if get("uploads").is_some() => {
            state.begun += 1;
            let id = format!("upload-{}", state.begun);
            state.uploads.insert(id.clone(), BTreeMap::new());
            ok(format!("<R><UploadId>{id}</UploadId></R>"))
        }
        ("PUT", Some("block"), _) => {
            let id = get("blockid").unwrap_or_default().to_owned();
            state.uploads.entry(name.clone()).or_default();
            part(state, asked, &name, &id)
        }
        ("PUT", Some("blocklist"), _) => {
            let text = String::from_utf8_lossy(&asked.body).into_owned();
            let ids = between(&text, "<Uncommitted>", "</Uncommitted>");
            join(state, &name, &name, &ids)
        }
        ("GET", Some("blocklist"), _) => match state.uploads.get(&name) {
            Some(blocks) => {
                let lines = blocks.keys().map(|id| format!("<Block><Name>{id}</Name></Block>"));
                ok(format!("<BlockList>{}</BlockList>", lines.collect::<String>()))
            }
            None => refusal("404 Not Found", "BlobNotFound"),
        },
        ("PUT", _, Some(upload)) => {
            let number = format!("{:0>5}", get("partNumber").unwrap_or_default());
            part(state, asked, upload, &number)
        }
        ("GET", _, Some(upload)) => match state.uploads.get(upload) {
            Some(parts) => {
                let lines = parts.iter().map(|(number, bytes)| {
                    let number: usize = number.parse().expect("a number");
                    format!(
                        "<Part><PartNumber>{number}</PartNumber><ETag>&quot;{}&quot;</ETag></Part>",
                        etag(bytes)
                    )
                });
                ok(format!("<R>{}</R>", lines.collect::<String>()))
            }
            None => refusal("404 Not Found", "NoSuchUpload"),
        },
        ("POST", _, Some(upload)) => {
            let text = String::from_utf8_lossy(&asked.body).into_owned();
            let numbers = between(&text, "<PartNumber>", "</PartNumber>");
            let numbers: Vec<String> =
                numbers.iter().map(|number| format!("{number:0>5}")).collect();
            join(state, &name, upload, &numbers)
        }
        ("DELETE", _, Some(upload)) => {
            state.log.push(format!("abort {name}"));
            match state.uploads.remove(upload) {
                Some(_) => Some(("204 No Content", String::new(), Vec::new())),
                None => refusal("404 Not Found", "NoSuchUpload"),
            }
        }
        ("DELETE", ..) => {
            state.log.push(format!("remove {name}"));
            state.objects.remove(&name);
            Some(("204 No Content", String::new(), Vec::new()))
        }
        ("PUT", None, None) => {
            if state.behavior.full_at.is_some_and(|most| state.objects.len() >= most) {
                return refusal("403 Forbidden", "QuotaExceeded");
            }
            state.log.push(format!("put {name}"));
            state.objects.insert(name, asked.body.clone());
            ok("")
        }
        ("GET", None, None) => match state.objects.get(&name) {
            Some(bytes) => stretch(bytes, asked.range),
            None => refusal("404 Not Found", "NoSuchKey"),
        },
        _ => refusal("400 Bad Request", "InvalidRequest"),
    }
}

/// An object, or the stretch of it that is asked for.
fn stretch(bytes: &[u8], range: Option<(usize, usize)>) -> Reply {
    let tag = format!("ETag: \"{}\"\r\n", etag(bytes));
    let Some((first, last)) = range else { return Some(("200 OK", tag, bytes.to_vec())) };
    if first >= bytes.len() {
        return refusal("416 Range Not Satisfiable", "InvalidRange");
    }
    let last = last.min(bytes.len() - 1);
    let headers = format!("{tag}Content-Range: bytes {first}-{last}/{}\r\n", bytes.len());
    Some(("206 Partial Content", headers, bytes[first..=last].to_vec()))
}

fn part(state: &mut State, asked: &Asked, upload: &str, id: &str) -> Reply {
    let every = |period: Option<usize>| period.is_some_and(|n| asked.number.is_multiple_of(n));
    if every(state.behavior.refuses_every) {
        return refusal("503 Service Unavailable", "SlowDown");
    }
    if every(state.behavior.cuts_every) {
        return None;
    }
    let Some(parts) = state.uploads.get_mut(upload) else {
        return refusal("404 Not Found", "NoSuchUpload");
    };
    parts.insert(id.to_owned(), asked.body.clone());
    state.log.push(format!("part {}", asked.name));
    Some(("200 OK", format!("ETag: \"{}\"\r\n", etag(&asked.body)), Vec::new()))
}

fn join(state: &mut State, name: &str, upload: &str, ids: &[String]) -> Reply {
    state.joins += 1;
    if state.behavior.fails_in_the_text && state.joins == 1 {
        return ok("<Error><Code>InternalError</Code></Error>");
    }
    let Some(parts) = state.uploads.get(upload) else {
        return refusal("404 Not Found", "NoSuchUpload");
    };
    let found: Option<Vec<&Vec<u8>>> = ids.iter().map(|id| parts.get(id)).collect();
    let Some(found) = found.filter(|found| !found.is_empty()) else {
        return refusal("400 Bad Request", "InvalidPart");
    };
    let is_small = |bytes: &&&Vec<u8>| bytes.len() < 5 << 20;
    if found[..found.len() - 1].iter().any(|bytes| is_small(&bytes)) {
        return refusal("400 Bad Request", "EntityTooSmall");
    }
    let bytes = found.into_iter().flatten().copied().collect();
    state.objects.insert(name.to_owned(), bytes);
    state.uploads.remove(upload);
    state.log.push(format!("join {name}"));
    match state.behavior.loses_an_answer && state.joins == 1 {
        true => None,
        false => ok("<R></R>"),
    }
}

/// Names that begin so, one to a page, so that whoever lists must go on.
fn list(state: &State, prefix: &str, asked: &Asked) -> Reply {
    let is_azure = asked.query.contains_key("restype");
    let after = asked.query.get("continuation-token").or_else(|| asked.query.get("marker"));
    let is_direct = asked.query.contains_key("delimiter");
    let mut names = state.objects.keys().filter(|name| {
        name.starts_with(prefix)
            && after.is_none_or(|after| name.as_str() > after.as_str())
            && !(is_direct && name[prefix.len()..].contains('/'))
    });
    let Some(name) = names.next() else { return ok("<R></R>") };
    let next = if names.next().is_some() { name.as_str() } else { "" };
    ok(match is_azure {
        true => format!(
            "<R><Blobs><Blob><Name>{name}</Name></Blob></Blobs><NextMarker>{next}</NextMarker></R>"
        ),
        false => format!(
            "<R><Contents><Key>{name}</Key></Contents>\
             <NextContinuationToken>{next}</NextContinuationToken></R>"
        ),
    })
}

fn between(text: &str, open: &str, close: &str) -> Vec<String> {
    let pieces = text.split(open).skip(1);
    pieces.filter_map(|piece| Some(piece.split_once(close)?.0.to_owned())).collect()
}
