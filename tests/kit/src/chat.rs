//! A small HTTP server that speaks as much of OpenAI's protocol as a search needs, in this process.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// Such as `POST /v1/chat/completions`.
    pub target: String,
    /// The header of that name.
    pub authorization: Option<String>,
    /// The body.
    pub body: Value,
}

/// What comes back for a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status such as `200 OK`, and a body.
    Json(&'static str, Value),
    /// These bytes and no others, before the connection is closed.
    Raw(String),
}

/// Answers a request; the number counts requests from 0.
pub type Answer<'a> = dyn Fn(&Request, usize) -> Reply + Send + Sync + 'a;

/// The server; it ends when dropped.
pub struct ChatServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// An answer of this model with this text.
pub fn chat_reply(model: &Value, text: &str) -> Reply {
    let choice =
        json!({"finish_reason": "stop", "message": {"role": "assistant", "content": text}});
    let body = json!({
        "model": model, "system_fingerprint": "kit", "choices": [choice],
        "usage": {"completion_tokens": 1},
    });
    Reply::Json("200 OK", body)
}

impl ChatServer {
    /// Answers requests with `answer`.
    pub fn start(answer: Box<Answer<'static>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a local port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let (stop, seen) = (Arc::clone(&stopping), Arc::clone(&requests));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                // A client that hangs up early is its own affair.
                let _ = stream.and_then(|stream| serve(stream, &*answer, &|| None, &seen));
            }
        });
        Self { address, requests, stopping, thread: Some(thread) }
    }

    /// Its address, without `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no request panics").clone()
    }
}

impl Drop for ChatServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread, which otherwise waits for the next connection.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves at this port until the process ends, and lists the model that `model` says.
pub fn serve_at(port: u16, model: &dyn Fn() -> String, answer: &Answer<'_>) -> io::Result<()> {
    let seen = Mutex::new(Vec::new());
    for stream in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        let _ = stream.and_then(|stream| serve(stream, answer, &|| Some(model()), &seen));
    }
    Ok(())
}

fn serve(
    mut stream: TcpStream,
    answer: &Answer<'_>,
    model: &dyn Fn() -> Option<String>,
    seen: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        match header.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap_or(0);
            }
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                authorization = Some(value.trim().to_owned());
            }
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let target = first.rsplit_once(' ').map_or("", |(target, _)| target).to_owned();
    let list = model().filter(|_| target == "GET /v1/models");
    let reply = match (serde_json::from_slice::<Value>(&body), list) {
        (_, Some(model)) => Reply::Json("200 OK", json!({"data": [{"id": model}]})),
        (Ok(body), None) => {
            let request = Request { target, authorization, body };
            let mut seen = seen.lock().expect("no request panics");
            let number = seen.len();
            seen.push(request.clone());
            drop(seen);
            answer(&request, number)
        }
        _ => Reply::Json("404 Not Found", json!({"error": first.trim()})),
    };
    match reply {
        Reply::Raw(text) => stream.write_all(text.as_bytes()),
        Reply::Json(status, body) => {
            let body = body.to_string();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{body}",
                body.len()
            )
        }
    }
}
