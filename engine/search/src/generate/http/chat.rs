//! Prompts as requests for chat completions, and replies as answers.

use std::path::Path;

use base64::Engine as _;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::read_limited;
use serde_json::{Value, json};

use crate::prompts::Prompt;
use crate::responses::{FinishReason, Response};

/// Longest file that is sent with a message. Servers take less.
const LONGEST_MEDIA: u64 = 256 << 20;

/// What is sent beside messages and limits. It is part of what an answer depends on.
pub const DECODING: &str = "temperature 0 top_p 1 n 1 seed 0";

/// What was understood of a reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Understood {
    /// An answer, and the server's fingerprint of how it computed it.
    Answer(Response, Option<String>),
    /// Another model answered: this one.
    OtherModel(String),
}

/// Understands a reply; what was expected where it is something else.
pub fn understand(prompt: &Prompt, model: &str, text: &str) -> Result<Understood, &'static str> {
    let value: Value = serde_json::from_str(text).map_err(|_| "JSON")?;
    let found = value.get("model").and_then(Value::as_str).ok_or("`model`")?;
    if found != model {
        return Ok(Understood::OtherModel(found.to_owned()));
    }
    let choices = value.get("choices").and_then(Value::as_array);
    let [choice] = choices.map(Vec::as_slice).unwrap_or_default() else {
        return Err("one answer in `choices`");
    };
    let reason = choice.get("finish_reason").and_then(Value::as_str).unwrap_or("stop");
    let content = choice.pointer("/message/content").unwrap_or(&Value::Null);
    let finish_reason = match reason {
        "stop" => FinishReason::Stop,
        "length" => FinishReason::Length,
        other => {
            let failed = Response::failed(&prompt.id, format!("finish_reason {other}"));
            return Ok(Understood::Answer(failed, None));
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
    Ok(Understood::Answer(response, fingerprint.map(str::to_owned)))
}

/// The request for a prompt: greedy, bounded, with its media inside.
pub fn body(prompt: &Prompt, model: &str) -> Result<Value, Box<Diagnostic>> {
    let mut body = json!({
        "model": model,
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

/// Why a prompt cannot be asked of a server, if it cannot.
pub fn unasked(prompt: &Prompt) -> Option<&'static str> {
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
    let bytes = read_limited(Path::new(path), LONGEST_MEDIA).map_err(|error| {
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

    #[test]
    fn a_request_is_greedy_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, [0x89, b'P', b'N', b'G']).unwrap();
        let mut prompt = Prompt::named("a");
        prompt.messages = vec![json!({"role": "user", "content": [
            {"type": "image", "path": path, "sha256": ""}, {"type": "text", "text": "?"}]})];
        (prompt.max_new_tokens, prompt.stop) = (Some(4), vec!["\n".to_owned()]);
        let body = body(&prompt, "/m").unwrap();
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
        let reply = |value: Value| understand(&prompt, "/m", &value.to_string());
        let good = json!({"model": "/m", "system_fingerprint": "f", "usage": {"completion_tokens": 2},
            "choices": [{"finish_reason": "length", "message": {"content": " Yes"}}]});
        let Ok(Understood::Answer(answer, print)) = reply(good.clone()) else { panic!() };
        assert_eq!((answer.text.as_str(), answer.finish_reason), (" Yes", FinishReason::Length));
        assert_eq!((answer.tokens, print.as_deref()), (Some(2), Some("f")));
        let with = |path: &str, value: Value| {
            let mut other = good.clone();
            *other.pointer_mut(path).unwrap() = value;
            reply(other)
        };
        assert_eq!(with("/model", json!("/n")), Ok(Understood::OtherModel("/n".into())));
        let filtered = with("/choices/0/finish_reason", json!("content_filter"));
        assert!(matches!(filtered, Ok(Understood::Answer(answer, _)) if answer.is_error()));
        let choice = &good["choices"][0];
        for (path, value, expected) in [
            ("/model", json!(7), "`model`"),
            ("/choices", json!([]), "one answer in `choices`"),
            ("/choices", json!([choice, choice]), "one answer in `choices`"),
            ("/choices", json!({}), "one answer in `choices`"),
            ("/choices/0/message/content", json!(7), "text in `choices[0].message.content`"),
            ("/choices/0/message", json!(null), "text in `choices[0].message.content`"),
        ] {
            assert_eq!(with(path, value), Err(expected), "{path}");
        }
        assert_eq!(understand(&prompt, "/m", "<html>"), Err("JSON"));
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
}
