//! Searches by the answers of a real server.
//!
//! Catches requests that are not greedy, answers of another model, servers that outlive their search or
//! are started too often, a key that can be read anywhere, and failures that are not explained.

use mixdown_kit::chat::{Request, serve_at};
use mixdown_kit::{ChatServer, Outcome, Program, Reply, Space, chat_reply};
use mixdown_suite::search::{ANSWERS, GRID, curve, report, search, space, told};
use mixdown_suite::with_snapshots;
use serde_json::{Value, json};

fn http(space: &Space, http: &str) {
    settings(space, http, "");
}

fn settings(space: &Space, http: &str, extra: &str) {
    let text =
        format!("search: 1\n{GRID}prompts: prompts.jsonl\ngenerator: {{http: {http}}}\n{extra}");
    space.write("in/search.yaml", text);
}

/// Whether the request is for the merge of one of these values.
fn is_of(request: &Request, values: &[&str]) -> bool {
    let model = request.body["model"].as_str().unwrap_or_default();
    values.iter().any(|value| model.ends_with(&format!("/{value}")))
}

/// What was said, with a token for each port that the system chose.
fn talk(outcome: &Outcome) -> String {
    let talk = outcome.talk();
    let mut parts = talk.split("127.0.0.1:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += "127.0.0.1:[PORT]";
        out += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out
}

#[test]
fn a_server_answers() {
    let space = space(ANSWERS, "");
    space.write("in/a.png", [0x89, b'P', b'N', b'G']);
    let sha256 = "0f4636c78f65d3639ece5a064b5ae753e3408614a14fb18ab4d7540d2c248543";
    let image = json!({"type": "image", "path": "a.png", "sha256": sha256});
    let prompt = json!({"id": "p4", "messages": [{"role": "user", "content": [image]}]});
    let prompts = space.read_text("in/prompts.jsonl");
    space.write("in/prompts.jsonl", format!("{prompts}{prompt}\n"));
    // Busy at first; later the text depends on the model's folder: 0.3 and above answer otherwise.
    let server = ChatServer::start(Box::new(|request, number| {
        let model = &request.body["model"];
        match (number, is_of(request, &["0.0", "0.1", "0.2"])) {
            (0, _) => Reply::Json("503 Service Unavailable", json!({})),
            (1, _) => Reply::Json("429 Too Many Requests", json!({})),
            (2, _) => Reply::Raw("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{\"mod".to_owned()),
            (_, true) => chat_reply(model, "Yes"),
            (_, false) => chat_reply(model, &request.body.to_string()),
        }
    }));
    http(&space, &format!("{{base_url: '{}'}}", server.base_url()));
    told(&search(&space, &[]).success(), &["chosen: 0.1"]);
    let requests = server.requests();
    assert_eq!(
        requests.len(),
        6 * 5 + 3,
        "what failed for a moment is asked again, and nothing else"
    );
    let last = &requests.last().unwrap().body;
    assert_eq!(
        (&last["temperature"], &last["n"], &last["seed"]),
        (&json!(0), &json!(1), &json!(0))
    );
    assert!(last["model"].as_str().unwrap().starts_with('/'), "the folder is named in full");
    let url = "/messages/0/content/0/image_url/url";
    let images = requests.iter().filter_map(|request| request.body.pointer(url));
    assert_eq!(images.collect::<Vec<_>>(), ["data:image/png;base64,iVBORw=="; 6]);
    assert_eq!(report(&space)["candidates"][0]["notes"], json!(["system_fingerprint kit"]));
}

#[test]
fn a_key_is_sent_and_kept_nowhere() {
    const KEY: &str = "sk-0123456789abcdef";
    let space = space(ANSWERS, "");
    let server = ChatServer::start(Box::new(|request, number| match number {
        // Servers like to repeat the key that they do not take.
        0..4 => Reply::Json(
            "401 Unauthorized",
            json!({"error": format!("wrong key: {}", request.authorization.clone().unwrap())}),
        ),
        _ => chat_reply(&request.body["model"], "Yes"),
    }));
    http(
        &space,
        &format!("{{base_url: '{}', api_key_env: SUITE_KEY, concurrency: 3}}", server.base_url()),
    );
    let run = |key: Option<&str>| {
        let program = Program::new(&space).args(["search", "recipe.yaml", "--out", "found"]);
        let program = program.args(["--with", "in/search.yaml", "--json"]);
        match key {
            Some(key) => program.env("SUITE_KEY", key).run(),
            None => program.without_env("SUITE_KEY").run(),
        }
    };
    let absent = run(None).exits(1);
    with_snapshots(|| insta::assert_snapshot!("no_key", absent.talk()));
    told(&run(Some("")).exits(1), &["E0513", "the variable `SUITE_KEY` is empty"]);
    told(&run(Some("a\nb")).exits(1), &["holds what cannot be sent"]);
    assert!(!space.exists("found"), "without the key nothing is begun");

    let refused = run(Some(KEY)).exits(1);
    told(&refused, &["answers that failed", "wrong key: Bearer [key]"]);
    let outcome = run(Some(KEY)).success();
    let sent: Vec<Option<String>> =
        server.requests().into_iter().map(|request| request.authorization).collect();
    assert_eq!(sent, vec![Some(format!("Bearer {KEY}")); 4 + 6 * 4]);
    for text in [refused.stderr, refused.stdout, outcome.stderr, outcome.stdout] {
        assert!(!text.contains(KEY), "{text}");
    }
    for (path, bytes) in space.files_under("found") {
        assert!(!bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes()), "{path:?}");
    }
}

#[test]
fn replies_that_are_wrong_are_told() {
    let check = |name: &str, requests: usize, reply: fn(&Request) -> Reply| {
        let space = space(ANSWERS, "");
        let server = ChatServer::start(Box::new(move |request, _| reply(request)));
        http(&space, &format!("{{base_url: '{}'}}", server.base_url()));
        let outcome = search(&space, &[]).exits(1);
        with_snapshots(|| insta::assert_snapshot!(name, talk(&outcome)));
        assert_eq!(server.requests().len(), requests, "{name}");
        assert!(!space.exists("found/merged"));
    };
    check("other_model", 1, |_| chat_reply(&json!("other"), "Yes"));
    check("no_choice", 1, |request| {
        Reply::Json("200 OK", json!({"model": request.body["model"], "choices": []}))
    });
    check("two_choices", 1, |request| {
        let choice = json!({"message": {"content": "Yes"}});
        let body = json!({"model": request.body["model"], "choices": [choice, choice]});
        Reply::Json("200 OK", body)
    });
    check("not_json", 1, |_| {
        Reply::Raw("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>".to_owned())
    });
    // What is refused is not asked again, and all four prompts are.
    check("refused", 4, |_| Reply::Json("400 Bad Request", json!({"e": "too long"})));
    check("broken", 6, |_| Reply::Json("500 Internal Server Error", json!({"e": "no memory"})));
}

#[test]
fn servers_that_do_not_come_up_are_told() {
    let space = space(ANSWERS, "");
    for (name, settings) in [
        ("never_up", "{serve: [sh, -c, 'echo loading; exec sleep 60'], startup: 0.3}"),
        ("ends_at_once", "{serve: [sh, -c, 'echo no device >&2; exit 4']}"),
        ("no_such_program", "{serve: [no-such-server, '{model_dir}']}"),
        (
            "reload_fails",
            "{base_url: 'http://127.0.0.1:9', reload: [sh, -c, 'echo no such model; exit 5']}",
        ),
        (
            "reload_takes_too_long",
            "{base_url: 'http://127.0.0.1:9', reload: [sleep, '60'], startup: 0.3}",
        ),
    ] {
        http(&space, settings);
        let outcome = search(&space, &["--quiet"]).exits(1);
        with_snapshots(|| insta::assert_snapshot!(name, talk(&outcome)));
    }
}

/// Not a test, unless a search started this program as a server: it then serves until it is ended.
#[test]
fn serve_when_asked_to() {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(port) = variable("SUITE_PORT").and_then(|port| port.parse().ok()) else { return };
    let model = || match variable("SUITE_MODEL_FILE") {
        Some(file) => std::fs::read_to_string(file).unwrap_or_default().trim().to_owned(),
        None => variable("SUITE_MODEL").unwrap_or_default(),
    };
    let answers = variable("SUITE_ANSWERS").and_then(|count| count.parse().ok());
    let answer = |_: &Request, number: usize| {
        if variable("SUITE_WAITS").is_some() {
            std::fs::write("asked", "").expect("the folder can be written");
            // Until the process is ended.
            std::thread::park();
        }
        if Some(number) == answers {
            eprintln!("the device is gone");
            std::process::exit(6);
        }
        chat_reply(&json!(model()), "Yes")
    };
    serve_at(port, &model, &answer).expect("the port is free");
}

/// The command that starts this program as a server.
fn serve(variables: &str) -> Value {
    let start = format!(
        "echo $$ >> pids; SUITE_PORT=$1 SUITE_MODEL=$2 {variables} exec \"$0\" --exact \
         serve_when_asked_to --nocapture"
    );
    json!(["sh", "-c", start, std::env::current_exe().unwrap(), "{port}", "{model_dir}"])
}

/// How many servers there were. None of them runs any more.
#[track_caller]
fn servers(space: &Space) -> usize {
    let pids = space.read_text("pids");
    for pid in pids.lines() {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        assert!(rustix::process::test_kill_process(pid).is_err(), "{pid:?} still runs");
    }
    pids.lines().count()
}

#[test]
fn a_server_is_started_for_each_candidate_and_stopped() {
    let space = space(ANSWERS, "");
    http(&space, &format!("{{serve: {}}}", serve("")));
    let outcome = search(&space, &[]).success();
    told(&outcome, &["chosen: 0.1; equally good: 0.2, 0.3, 0.4"]);
    assert_eq!(servers(&space), 6);
}

#[test]
fn a_server_that_dies_while_it_is_asked_is_told() {
    let space = space(ANSWERS, "");
    http(&space, &format!("{{serve: {}}}", serve("SUITE_ANSWERS=2")));
    let outcome = search(&space, &[]).exits(1);
    told(
        &outcome,
        &[
            "E0511",
            "the server ended while it was asked `p2`",
            "exit status: 6",
            "stderr: the device is gone",
            "run the same command again",
        ],
    );
    assert_eq!(servers(&space), 1);
    // The next server, of the same candidate, is asked for the rest alone.
    let outcome = search(&space, &[]).exits(1);
    told(&outcome, &["candidate 0.0 (1 of 6): 2 prompts", "candidate 0.1 (2 of 6): 4 prompts"]);
}

#[test]
fn an_interrupted_search_ends_its_server() {
    let space = space(ANSWERS, "");
    http(&space, &format!("{{serve: {}}}", serve("SUITE_WAITS=1")));
    let arguments = ["search", "recipe.yaml", "--with", "in/search.yaml", "--out", "found"];
    let mut running = Program::new(&space).args(arguments).start();
    while !space.exists("asked") {
        assert!(!running.has_ended(), "{}", running.wait().stderr);
        std::thread::yield_now();
    }
    told(&running.interrupt().exits(130), &["run the same command again to continue"]);
    assert_eq!(servers(&space), 1);
}

/// It reads the model's name from a file that the reload writes.
#[test]
fn a_server_is_kept_and_loads_each_candidate() {
    let space = space(ANSWERS, "");
    let load = "echo \"$MIXDOWN_ALPHA\" >> loads; echo \"$1\" > model";
    let reload = json!(["sh", "-c", load, "sh", "{model_dir}"]);
    let serve = serve("SUITE_MODEL_FILE=model").to_string();
    // The first candidate is loaded by the start.
    let start =
        serve.replacen("exec ", "; echo $2 > model; SUITE_PORT=$1 SUITE_MODEL_FILE=model exec ", 1);
    settings(&space, &format!("{{serve: {start}, reload: {reload}}}"), "chunk: 3\n");
    told(&search(&space, &[]).success(), &["chosen: 0.1; equally good: 0.2, 0.3, 0.4"]);
    assert_eq!(servers(&space), 1);
    // With chunks each candidate comes up twice.
    let values = ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"].join("\n");
    assert_eq!(space.read_text("loads"), format!("{}\n{values}\n", &values[4..]));

    // A reload that does nothing leaves the model before, which is noticed.
    let reload = json!(["true"]);
    let outcome = {
        settings(&space, &format!("{{serve: {start}, reload: {reload}, startup: 3}}"), "");
        search(&space, &[]).exits(1)
    };
    told(&outcome, &["did not come up in time", "found:", "it lists", "candidates/0.0"]);
    assert_eq!(servers(&space), 2);
}

/// By hand: the vectors are (1, 0) for 0.0 to 0.2, (0, 1) for 0.3, (1, 1) for 0.4 and 0.5. One minus
/// the cosines with both neighbors: 0 at 0.1; 0 + 1 at 0.2; 1 + (1 − 1/√2) at 0.3; (1 − 1/√2) + 0 at 0.4.
#[test]
fn a_server_makes_vectors() {
    let space = space(ANSWERS, "");
    let server = ChatServer::start(Box::new(|request, _| {
        if request.target == "POST /v1/embeddings" {
            let texts = request.body["input"].as_array().unwrap();
            let vector = |text: &Value| match text.as_str().unwrap() {
                "yes" => json!([1, 0]),
                "no" => json!([0, 1]),
                _ => json!([1, 1]),
            };
            let data: Vec<Value> = (texts.iter().enumerate().rev())
                .map(|(index, text)| json!({"index": index, "embedding": vector(text)}))
                .collect();
            return Reply::Json("200 OK", json!({"model": "small", "data": data}));
        }
        let text = match () {
            () if is_of(request, &["0.0", "0.1", "0.2"]) => "Yes",
            () if is_of(request, &["0.3"]) => "No",
            () => "Perhaps",
        };
        chat_reply(&request.body["model"], text)
    }));
    let url = server.base_url();
    let objective = |model: &str| {
        format!("objective: {{diff: embedding, embed: {{base_url: '{url}', model: {model}}}}}\n")
    };
    settings(&space, &format!("{{base_url: '{url}'}}"), &objective("small"));
    told(&search(&space, &[]).success(), &["chosen: 0.1"]);
    let found = curve(&report(&space), "embedding");
    let expected = [0.0, 1.0, 2.0 - 0.5_f64.sqrt(), 1.0 - 0.5_f64.sqrt()];
    for (found, expected) in found[1..5].iter().zip(expected) {
        assert!((found.as_f64().unwrap() - expected).abs() < 1e-12, "{found} {expected}");
    }
    let sizes: Vec<usize> = (server.requests().iter())
        .filter_map(|request| Some(request.body["input"].as_array()?.len()))
        .collect();
    assert_eq!(sizes, [4; 6], "all texts of a candidate go together");
    settings(&space, &format!("{{base_url: '{url}'}}"), &objective("large"));
    let outcome = search(&space, &["--quiet"]).exits(1);
    with_snapshots(|| insta::assert_snapshot!("other_vectors", talk(&outcome)));
}
