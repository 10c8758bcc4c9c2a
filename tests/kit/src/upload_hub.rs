//! A small HTTP server on this machine that takes what is pushed, as the model hub and its large-file store do.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// What the server does out of the ordinary.
#[derive(Clone, Debug, Default)]
pub struct Behavior {
    /// Only this token may write.
    pub token: String,
    /// Large files are asked for in pieces of so many bytes.
    pub pieces: Option<usize>,
    /// So many first uploads are cut in the middle.
    pub cuts: usize,
    /// So many first commits are answered `503 Service Unavailable`.
    pub refused_commits: usize,
    /// Every request to the hub is sent on to this address.
    pub moved_to: Option<String>,
}

/// What the server holds.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Method, path, and the `Authorization` header of each request.
    pub requests: Vec<(String, String, Option<String>)>,
    /// The body of the request that made the repository.
    pub created: Option<Value>,
    /// Objects of the large-file store by their SHA-256, as far as they are whole.
    pub objects: BTreeMap<String, Vec<u8>>,
    /// Pieces that came, by address.
    pieces: BTreeMap<String, Vec<u8>>,
    /// The lines of each commit, with its branch.
    pub commits: Vec<(String, Vec<Value>)>,
    cuts: usize,
    refused: usize,
}

/// The server; it ends when dropped.
pub struct UploadHub {
    address: SocketAddr,
    taken: Arc<Mutex<Taken>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UploadHub {
    /// Starts it.
    pub fn start(behavior: Behavior) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a local port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let taken = Arc::new(Mutex::new(Taken::default()));
        let stopping = Arc::new(AtomicBool::new(false));
        let (stop, held) = (Arc::clone(&stopping), Arc::clone(&taken));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (held, behavior) = (Arc::clone(&held), behavior.clone());
                // A client that hangs up early is its own affair.
                std::thread::spawn(move || drop(serve(&held, &behavior, address, stream)));
            }
        });
        Self { address, taken, stopping, thread: Some(thread) }
    }

    /// What to set `HF_ENDPOINT` to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it has taken so far.
    pub fn taken(&self) -> Taken {
        self.taken.lock().expect("no request panics").clone()
    }
}

impl Drop for UploadHub {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread, which otherwise waits for the next connection.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Asked {
    method: String,
    path: String,
    authorization: Option<String>,
    length: usize,
}

fn head(reader: &mut impl BufRead) -> io::Result<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut asked = Asked {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        authorization: None,
        length: 0,
    };
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            return Ok(asked);
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => asked.authorization = Some(value.trim().to_owned()),
            "content-length" => asked.length = value.trim().parse().unwrap_or_default(),
            _ => {}
        }
    }
}

fn serve(
    held: &Mutex<Taken>,
    behavior: &Behavior,
    own: SocketAddr,
    mut stream: TcpStream,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let asked = head(&mut reader)?;
    let is_cut = {
        let mut taken = held.lock().expect("no request panics");
        let request = (asked.method.clone(), asked.path.clone(), asked.authorization.clone());
        taken.requests.push(request);
        let is_cut = asked.method == "PUT" && taken.cuts < behavior.cuts;
        taken.cuts += usize::from(is_cut);
        is_cut
    };
    let mut body = vec![0; if is_cut { asked.length / 2 } else { asked.length }];
    reader.read_exact(&mut body)?;
    if is_cut {
        return Ok(());
    }
    let (status, extra, answer) =
        respond(&mut held.lock().expect("no request panics"), behavior, own, &asked, body);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{extra}\
         Connection: close\r\n\r\n",
        answer.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(answer.as_bytes())
}

/// Status, further headers, and body.
fn respond(
    taken: &mut Taken,
    behavior: &Behavior,
    own: SocketAddr,
    asked: &Asked,
    body: Vec<u8>,
) -> (&'static str, String, String) {
    let ok = |value: Value| ("200 OK", String::new(), value.to_string());
    if let Some(key) = asked.path.strip_prefix("/storage/") {
        // A store knows its addresses by their signatures, and no token.
        match key.split_once('?') {
            Some(_) => drop(taken.pieces.insert(key.to_owned(), body)),
            None => drop(taken.objects.insert(key.to_owned(), body)),
        }
        return ("200 OK", format!("ETag: \"{key}\"\r\n"), String::new());
    }
    if let Some(place) = &behavior.moved_to {
        return (
            "307 Temporary Redirect",
            format!("Location: {place}{}\r\n", asked.path),
            String::new(),
        );
    }
    if asked.authorization.as_deref() != Some(&format!("Bearer {}", behavior.token)) {
        return ("403 Forbidden", String::new(), json!({"error": "no right to write"}).to_string());
    }
    let value = || serde_json::from_slice::<Value>(&body).expect("a request of JSON");
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    if asked.path == "/api/repos/create" {
        if taken.created.is_some() {
            return ("409 Conflict", String::new(), json!({"error": "it exists"}).to_string());
        }
        taken.created = Some(value());
        return ok(json!({"url": "", "name": ""}));
    }
    if asked.path.contains("/branch/") {
        return ok(json!({}));
    }
    if asked.path.contains("/preupload/") {
        let files = list(&value(), "files").into_iter().map(|file| {
            let name = file["path"].as_str().unwrap_or_default().to_owned();
            let mode = if name.ends_with(".safetensors") { "lfs" } else { "regular" };
            json!({"path": name, "uploadMode": mode, "shouldIgnore": false})
        });
        return ok(json!({"files": files.collect::<Vec<_>>()}));
    }
    if asked.path.ends_with("/info/lfs/objects/batch") {
        let objects = list(&value(), "objects").into_iter().map(|object| {
            let oid = object["oid"].as_str().unwrap_or_default().to_owned();
            let size = object["size"].as_u64().unwrap_or_default() as usize;
            if taken.objects.contains_key(&oid) {
                return json!({"oid": oid, "size": size});
            }
            let upload = match behavior.pieces {
                None => json!({"href": format!("http://{own}/storage/{oid}")}),
                Some(bytes) => {
                    let mut header = json!({"chunk_size": bytes.to_string()});
                    for number in 1..=size.div_ceil(bytes) {
                        let address = format!("http://{own}/storage/{oid}?{number:05}");
                        header[number.to_string()] = json!(address);
                    }
                    json!({"href": format!("http://{own}/complete/{oid}"), "header": header})
                }
            };
            let verify = json!({"href": format!("http://{own}/verify/{oid}")});
            json!({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
        });
        return ok(json!({"transfer": "basic", "objects": objects.collect::<Vec<_>>()}));
    }
    if let Some(oid) = asked.path.strip_prefix("/complete/") {
        let parts = list(&value(), "parts");
        let of = |part: &Value| {
            let key = part["etag"].as_str().unwrap_or_default().trim_matches('"').to_owned();
            taken.pieces.remove(&key).unwrap_or_default()
        };
        let whole: Vec<u8> = parts.iter().flat_map(of).collect();
        taken.objects.insert(oid.to_owned(), whole);
        return ok(json!({}));
    }
    if let Some((_, branch)) = asked.path.split_once("/commit/") {
        if taken.refused < behavior.refused_commits {
            taken.refused += 1;
            return ("503 Service Unavailable", String::new(), String::new());
        }
        let lines = String::from_utf8_lossy(&body);
        let lines = lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"));
        taken.commits.push((branch.to_owned(), lines.collect()));
        return ok(json!({"commitUrl": format!("http://{own}/commit/1"), "commitOid": "1"}));
    }
    ok(json!({}))
}
