//! A small HTTP server that speaks as much of OpenAI's protocol as a search needs, in this process.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// What comes back for a request: a status such as `200 OK`, and a body.
pub type Reply = (&'static str, Value);

/// Answers the body of a request; the number counts requests from 0.
pub type Answer<'a> = dyn Fn(&Value, usize) -> Reply + Send + Sync + 'a;

/// The server; it ends when dropped.
pub struct ChatServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Value>>>,
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
    ("200 OK", body)
}

impl ChatServer {
    /// Answers chat requests with `answer`.
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
                let _ = stream.and_then(|stream| serve(stream, &*answer, None, &seen));
            }
        });
        Self { address, requests, stopping, thread: Some(thread) }
    }

    /// Its address, without `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bodies of all chat requests so far.
    pub fn requests(&self) -> Vec<Value> {
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

/// Serves one model at this port until the process ends, answering everything with this text.
pub fn serve_model(port: u16, model: &str, text: &str) -> io::Result<()> {
    let seen = Mutex::new(Vec::new());
    for stream in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        let _ = stream.and_then(|stream| {
            serve(stream, &|_, _| chat_reply(&json!(model), text), Some(model), &seen)
        });
    }
    Ok(())
}

fn serve(
    stream: TcpStream,
    answer: &Answer<'_>,
    model: Option<&str>,
    seen: &Mutex<Vec<Value>>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let is_chat = first.starts_with("POST /v1/chat/completions ");
    let is_list = first.starts_with("GET /v1/models ");
    let (status, reply) = match serde_json::from_slice::<Value>(&body) {
        Ok(body) if is_chat => {
            let mut seen = seen.lock().expect("no request panics");
            let number = seen.len();
            seen.push(body.clone());
            drop(seen);
            answer(&body, number)
        }
        _ if is_list && model.is_some() => ("200 OK", json!({"data": [{"id": model}]})),
        _ => ("404 Not Found", json!({"error": first.trim()})),
    };
    let reply = reply.to_string();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{reply}",
        reply.len()
    )
}
