//! The prompts: one JSON object per line, with messages, media beside the file, and limits.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, any_error, codes};
use mixdown_files::{open_regular, retried};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub use crate::json_lines::LONGEST;
use crate::json_lines::{Line, Lines, canonical};

/// A prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Its name, once in the file.
    pub id: String,
    /// The messages as they are handed on; paths of media are absolute.
    pub messages: Vec<Value>,
    /// In their stead, numbers of tokens, and embeddings between them.
    pub input_ids: Vec<Value>,
    /// The most tokens of an answer.
    pub max_new_tokens: Option<u64>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Its media.
    pub media: Vec<Media>,
    /// Its line in the file, from 1.
    pub line: u32,
    /// Digest of all that an answer depends on, with media by their content.
    pub key: String,
}

/// An image, a sound, a video or embeddings of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// Where it lies.
    pub path: PathBuf,
    /// What its SHA-256 must be, in 64 digits; empty where the file does not say it.
    pub sha256: String,
}

impl Prompt {
    /// The prompt as a line of a file.
    pub fn to_line(&self) -> String {
        let mut generation = Map::new();
        if let Some(most) = self.max_new_tokens {
            generation.insert("max_new_tokens".into(), most.into());
        }
        if !self.stop.is_empty() {
            generation.insert("stop".into(), self.stop.clone().into());
        }
        match self.input_ids.is_empty() {
            true => json!({"id": self.id, "messages": self.messages, "gen": generation}),
            false => json!({"id": self.id, "input_ids": self.input_ids, "gen": generation}),
        }
        .to_string()
    }

    /// A prompt of which only the name is known, for answers that exist already.
    pub fn named(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            messages: Vec::new(),
            input_ids: Vec::new(),
            max_new_tokens: None,
            stop: Vec::new(),
            media: Vec::new(),
            line: 0,
            key: blake3::hash(id.as_bytes()).to_hex().to_string(),
        }
    }
}

/// Reads a file of prompts. Media are not looked at yet.
pub fn read(path: &Path) -> Result<Vec<Prompt>, Vec<Diagnostic>> {
    let lines = Lines::open(path, codes::PROMPTS_WRONG).map_err(|error| vec![*error])?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    parse(lines, &folder)
}

fn parse(mut lines: Lines, folder: &Path) -> Result<Vec<Prompt>, Vec<Diagnostic>> {
    let mut prompts: Vec<Prompt> = Vec::new();
    let mut known: HashMap<String, u32> = HashMap::new();
    for line in lines.objects() {
        for key in line.object.keys() {
            unknown_key(
                &mut lines,
                &line,
                key,
                &["id", "messages", "input_ids", "gen"],
                "a prompt",
            );
        }
        let id = lines.text(&line, "id").map(str::to_owned);
        if let Some(id) = &id {
            if let Some(first) = known.get(id) {
                let error =
                    Diagnostic::error(codes::PROMPTS_WRONG, format!("`{id}` is there twice"));
                lines.explain(line.number, error.note(format!("first on line {first}")));
            }
            known.entry(id.clone()).or_insert(line.number);
        }
        let (max_new_tokens, stop) = limits(&mut lines, &line);
        let has_ids = line.object.contains_key("input_ids");
        let input = match has_ids {
            true => input_ids(&mut lines, &line, folder),
            false => messages(&mut lines, &line, folder),
        };
        let (Some(id), Some((handed, media, content))) = (id, input) else { continue };
        let what = if has_ids { "input_ids" } else { "messages" };
        let about = json!({what: content, "max_new_tokens": max_new_tokens, "stop": stop});
        let key = blake3::hash(canonical(&about).as_bytes()).to_hex().to_string();
        let (messages, input_ids) =
            if has_ids { (Vec::new(), handed) } else { (handed, Vec::new()) };
        let line = line.number;
        prompts.push(Prompt { id, messages, input_ids, max_new_tokens, stop, media, line, key });
    }
    if prompts.is_empty() && lines.found.is_empty() {
        let error = Diagnostic::error(codes::PROMPTS_WRONG, "the file holds no prompts");
        lines.keep(error.in_file(lines.source.name()));
    }
    if any_error(&lines.found) { Err(lines.found) } else { Ok(prompts) }
}

fn unknown_key(lines: &mut Lines, line: &Line, key: &str, keys: &[&str], what: &str) {
    if keys.contains(&key) {
        return;
    }
    let headline = format!("`{key}` is not a key of {what}");
    let mut error = Diagnostic::error(codes::PROMPTS_WRONG, headline);
    error = match nearest(key, keys.iter().copied()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.note(format!("known keys: {}", keys.join(", "))),
    };
    lines.explain(line.number, error);
}

fn limits(lines: &mut Lines, line: &Line) -> (Option<u64>, Vec<String>) {
    let none = (None, Vec::new());
    let limits = match line.object.get("gen") {
        None => return none,
        Some(Value::Object(limits)) => limits,
        Some(_) => {
            lines.report(line.number, "`gen` must be an object");
            return none;
        }
    };
    for key in limits.keys() {
        unknown_key(lines, line, key, &["max_new_tokens", "stop"], "`gen`");
    }
    let most = match limits.get("max_new_tokens") {
        None => None,
        Some(value) => {
            let most = value.as_u64().filter(|&most| most > 0);
            if most.is_none() {
                lines.report(line.number, "`max_new_tokens` must be a whole number from 1");
            }
            most
        }
    };
    let stop = match limits.get("stop") {
        None => Some(Vec::new()),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        }
        Some(_) => None,
    };
    if stop.is_none() {
        lines.report(line.number, "`stop` must be a list of texts");
    }
    (most, stop.unwrap_or_default())
}

/// The messages or tokens to hand on, their media, and the same with media by content.
type Input = (Vec<Value>, Vec<Media>, Value);

/// Numbers of tokens, with embeddings between them.
fn input_ids(lines: &mut Lines, line: &Line, folder: &Path) -> Option<Input> {
    if line.object.contains_key("messages") {
        lines.report(line.number, "a prompt has either `messages` or `input_ids`");
        return None;
    }
    let list = line.object.get("input_ids").and_then(Value::as_array);
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        lines.report(line.number, "`input_ids` must be a list with at least one token");
        return None;
    };
    let (mut handed, mut contents, mut media) = (Vec::new(), Vec::new(), Vec::new());
    for item in list {
        let is_id = item.as_u64().is_some_and(|id| u32::try_from(id).is_ok());
        let is_embeds = item.get("type").and_then(Value::as_str) == Some("embeds");
        let (part, content) = match (is_id, is_embeds) {
            (true, _) => (item.clone(), item.clone()),
            (_, true) => part(lines, line, item, folder, &mut media)?,
            _ => {
                let headline = "`input_ids` must hold numbers of tokens, or embeddings";
                lines.report(line.number, headline);
                return None;
            }
        };
        handed.push(part);
        contents.push(content);
    }
    Some((handed, media, contents.into()))
}

fn messages(lines: &mut Lines, line: &Line, folder: &Path) -> Option<Input> {
    let list = match line.object.get("messages") {
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(_) => {
            lines.report(line.number, "`messages` must be a list with at least one message");
            return None;
        }
        None => {
            lines.report(line.number, "the line has no `messages` and no `input_ids`");
            return None;
        }
    };
    let mut media = Vec::new();
    let (mut handed, mut contents) = (Vec::new(), Vec::new());
    for message in list {
        let role = message.get("role").and_then(Value::as_str);
        let (Some(role), Some(object)) = (role, message.as_object()) else {
            lines.report(line.number, "a message must have a `role` and a `content`");
            return None;
        };
        for key in object.keys() {
            unknown_key(lines, line, key, &["role", "content"], "a message");
        }
        let (mut parts, mut by_content) = (Vec::new(), Vec::new());
        match message.get("content") {
            Some(Value::String(text)) => {
                handed.push(json!({"role": role, "content": text}));
                contents.push(json!({"role": role, "content": text}));
                continue;
            }
            Some(Value::Array(items)) => {
                for item in items {
                    let (part, content) = part(lines, line, item, folder, &mut media)?;
                    parts.push(part);
                    by_content.push(content);
                }
            }
            _ => {
                lines.report(line.number, "`content` must be text or a list");
                return None;
            }
        }
        handed.push(json!({"role": role, "content": parts}));
        contents.push(json!({"role": role, "content": by_content}));
    }
    Some((handed, media, contents.into()))
}

fn part(
    lines: &mut Lines,
    line: &Line,
    item: &Value,
    folder: &Path,
    media: &mut Vec<Media>,
) -> Option<(Value, Value)> {
    let text_of = |key: &str| item.get(key).and_then(Value::as_str);
    match text_of("type") {
        Some("text") => {
            let Some(text) = text_of("text") else {
                lines.report(line.number, "a part of type `text` has no `text`");
                return None;
            };
            let part = json!({"type": "text", "text": text});
            Some((part.clone(), part))
        }
        Some(kind @ ("image" | "audio" | "video" | "embeds")) => {
            let Some(path) = text_of("path") else {
                lines.report(line.number, format!("a part of type `{kind}` has no `path`"));
                return None;
            };
            let path = folder.join(path);
            let sha256 = text_of("sha256").unwrap_or_default().to_ascii_lowercase();
            let mut content = json!({"type": kind, "sha256": sha256});
            let mut part = json!({"type": kind, "path": path.to_string_lossy()});
            part["sha256"] = sha256.clone().into();
            if kind == "embeds" {
                let Some(tensor) = text_of("tensor") else {
                    lines.report(line.number, "a part of type `embeds` has no `tensor`");
                    return None;
                };
                (part["tensor"], content["tensor"]) = (tensor.into(), tensor.into());
            }
            media.push(Media { path, sha256 });
            Some((part, content))
        }
        Some(other) => {
            let known = ["text", "image", "audio", "video", "embeds"];
            let headline = format!("`{other}` is not a type of content");
            let mut error = Diagnostic::error(codes::PROMPTS_WRONG, headline);
            error = match nearest(other, known) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.note(format!("known types: {}", known.join(", "))),
            };
            lines.explain(line.number, error);
            None
        }
        None => {
            lines.report(line.number, "a part of `content` has no `type`");
            None
        }
    }
}

/// Holds the media of these prompts against what the file of prompts says of them.
pub fn check_media(file: &Path, prompts: &[&Prompt]) -> Result<(), Vec<Diagnostic>> {
    let mut digests: HashMap<&Path, Result<String, String>> = HashMap::new();
    let mut found = Vec::new();
    for prompt in prompts {
        for media in &prompt.media {
            let digest = digests
                .entry(&media.path)
                .or_insert_with(|| sha256(&media.path).map_err(|error| error.to_string()));
            let shown = media.path.to_string_lossy();
            let place = format!("{}:{}", file.display(), prompt.line);
            let error = match digest {
                Ok(digest) if *digest == media.sha256 => continue,
                Ok(digest) if media.sha256.is_empty() => {
                    let headline = format!("`{}` does not say the SHA-256 of a file", prompt.id);
                    Diagnostic::error(codes::PROMPTS_WRONG, headline)
                        .help(format!("add \"sha256\":\"{digest}\""))
                }
                Ok(digest) => {
                    let headline = format!("a file of `{}` is another one", prompt.id);
                    Diagnostic::error(codes::PROMPTS_WRONG, headline)
                        .fact("expected", &media.sha256)
                        .fact("found", digest.as_str())
                }
                Err(error) => {
                    let headline = format!("a file of `{}` cannot be read: {error}", prompt.id);
                    Diagnostic::error(codes::PROMPTS_WRONG, headline)
                }
            };
            found.push(error.in_file(shown).note(format!("named in {place}")));
        }
    }
    found.truncate(crate::json_lines::MOST_MESSAGES);
    if found.is_empty() { Ok(()) } else { Err(found) }
}

fn sha256(path: &Path) -> io::Result<String> {
    let (mut file, _) = open_regular(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match retried(|| file.read(&mut buffer))? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(text: &str) -> Result<Vec<Prompt>, Vec<Diagnostic>> {
        let lines = Lines::new("prompts.jsonl", text.into(), codes::PROMPTS_WRONG);
        parse(lines.map_err(|error| vec![*error])?, Path::new("/data"))
    }

    #[track_caller]
    fn refused(text: &str, words: &str) {
        let found = prompts(text).unwrap_err();
        let all = mixdown_diagnostics::render::render_all(
            &found,
            mixdown_diagnostics::render::Color::Plain,
        );
        assert!(all.contains(words), "{all}");
    }

    const TEXT: &str = r#"{"id":"t/1","messages":[{"role":"user","content":"Hello"}]}"#;

    #[test]
    fn the_form_of_the_contract_is_read() {
        let line = r#"{"id":"mme/17","messages":[{"role":"user","content":[{"type":"image","path":"img/17.png","sha256":"AB"},{"type":"text","text":"Is there a dog?"}]}],"gen":{"max_new_tokens":16,"stop":["</s>"]}}"#;
        let found = prompts(&format!("{line}\n\n{TEXT}\n")).unwrap();
        assert_eq!((found[0].id.as_str(), found[1].line), ("mme/17", 3));
        assert_eq!((found[0].max_new_tokens, found[0].stop.len()), (Some(16), 1));
        let media = Media { path: "/data/img/17.png".into(), sha256: "ab".into() };
        assert_eq!(found[0].media, [media]);
        // What is handed on can be read again, and means the same.
        let again = prompts(&found[0].to_line()).unwrap();
        assert_eq!((&again[0].media, &again[0].key), (&found[0].media, &found[0].key));
    }

    #[test]
    fn the_key_is_of_what_an_answer_depends_on() {
        let key = |text: &str| prompts(text).unwrap()[0].key.clone();
        assert_eq!(key(TEXT), key(&TEXT.replace("t/1", "other")), "not of the name");
        assert_ne!(key(TEXT), key(&TEXT.replace("Hello", "hello")));
        assert_ne!(key(TEXT), key(&TEXT.replace("]}", r#"],"gen":{"max_new_tokens":1}}"#)));
        let image = r#"{"id":"a","messages":[{"role":"user","content":[{"type":"image","path":"x.png","sha256":"ab"}]}]}"#;
        assert_eq!(key(image), key(&image.replace("x.png", "y.png")), "media by their content");
        assert_ne!(key(image), key(&image.replace("\"ab\"", "\"ac\"")));
    }

    #[test]
    fn tokens_can_stand_for_messages() {
        let line = r#"{"id":"a","input_ids":[1,{"type":"embeds","path":"x.safetensors","sha256":"AB","tensor":"17"},5]}"#;
        let found = prompts(line).unwrap().remove(0);
        assert_eq!((found.input_ids.len(), found.media.len()), (3, 1));
        assert_eq!(found.input_ids[1]["path"], "/data/x.safetensors");
        let again = prompts(&found.to_line()).unwrap().remove(0);
        assert_eq!((&again.input_ids, &again.key), (&found.input_ids, &found.key));
        let other = prompts(&line.replace("17", "18")).unwrap().remove(0);
        assert_ne!(other.key, found.key);
        refused(r#"{"id":"a","input_ids":[]}"#, "at least one token");
        refused(r#"{"id":"a","input_ids":[-1]}"#, "numbers of tokens");
        refused(&line.replace(",\"tensor\":\"17\"", ""), "has no `tensor`");
        refused(&line.replace("\"id\"", "\"messages\":[],\"id\""), "either `messages` or");
    }

    #[test]
    fn mistakes_have_a_place_and_come_together() {
        refused(&format!("{TEXT}\n{TEXT}"), "prompts.jsonl:2:1");
        refused(&format!("{TEXT}\n{TEXT}"), "first on line 1");
        refused("{\"id\": \"a\",\n", "prompts.jsonl:1:");
        refused("[1]", "not a JSON object");
        refused("", "no prompts");
        refused(&TEXT.replace("messages", "mesages"), "did you mean `messages`?");
        refused(&TEXT.replace("\"Hello\"", "[{\"type\":\"imge\"}]"), "did you mean `image`?");
        refused(&TEXT.replace("]}", "],\"gen\":{\"max_new_tokens\":0}}"), "from 1");
        let two = prompts(&format!("{{}}\n{TEXT}\n5\n")).unwrap_err();
        assert!(two.len() >= 3, "{two:?}");
        let lines = Lines::new("p", vec![b'\n', 0xff], codes::PROMPTS_WRONG).unwrap_err();
        assert!(lines.headline.contains("line 2 is not UTF-8"));
    }

    #[test]
    fn media_are_held_against_their_digests() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, "abc").unwrap();
        let mut prompt = Prompt::named("a");
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        prompt.media = vec![Media { path: path.clone(), sha256: digest.to_owned() }];
        let check = |prompt: &Prompt| check_media(Path::new("p.jsonl"), &[prompt]);
        check(&prompt).unwrap();
        prompt.media[0].sha256 = digest.replace('b', "c");
        assert!(check(&prompt).unwrap_err()[0].headline.contains("another one"));
        prompt.media[0].sha256 = String::new();
        let help = check(&prompt).unwrap_err()[0].help.clone().unwrap();
        assert!(help.contains(digest), "{help}");
        prompt.media[0].path = folder.path().join("none");
        assert!(check(&prompt).unwrap_err()[0].headline.contains("cannot be read"));
    }
}
