//! A tokenizer by GGUF's keys: byte-level BPE from tokenizer.json, or the pieces of a sentencepiece model.

use mixdown_checkpoint::gguf_file::GgufValue;
use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

type Values = Vec<(String, GgufValue)>;

/// Kinds of tokens, by their numbers in files.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// What lies beside a model's weights and makes its tokenizer.
#[derive(Debug, Default)]
pub struct Beside {
    /// The text of tokenizer.json.
    pub tokenizer: Option<String>,
    /// That of tokenizer_config.json.
    pub settings: Option<String>,
    /// The chat template, where it is a file of its own or the recipe's.
    pub template: Option<String>,
    /// The bytes of tokenizer.model.
    pub pieces: Option<Vec<u8>>,
}

/// A vocabulary in the order of ids.
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i32>,
    scores: Option<Vec<f32>>,
}

/// The values of a tokenizer, with what the user should know; why there are none in words.
pub fn values(
    architecture: &str,
    config: &Value,
    size: usize,
    beside: &Beside,
) -> Result<(Values, Option<Diagnostic>), String> {
    let json = |name: &str, text: &Option<String>| {
        let value = text.as_deref().map(serde_json::from_str::<Value>).transpose();
        value.map_err(|error| format!("{name} is not JSON: {error}"))
    };
    let file = json("tokenizer.json", &beside.tokenizer)?;
    let settings = json("tokenizer_config.json", &beside.settings)?;
    let mut values = Values::new();
    let mut put = |key: &str, value: GgufValue| values.push((format!("tokenizer.{key}"), value));
    let mut warning = None;
    let is_bytes = file.as_ref().is_some_and(is_byte_level);
    let mut vocabulary = match (&file, &beside.pieces) {
        (Some(file), _) if is_bytes => {
            let (pre, told) = pre_tokenizer(file, architecture);
            warning = told;
            put("ggml.model", GgufValue::Text("gpt2".to_owned()));
            put("ggml.pre", GgufValue::Text(pre.to_owned()));
            put("ggml.merges", GgufValue::Texts(merges(file)));
            of_file(file)?
        }
        (_, Some(pieces)) => {
            put("ggml.model", GgufValue::Text("llama".to_owned()));
            put("ggml.pre", GgufValue::Text("default".to_owned()));
            of_pieces(pieces).ok_or("tokenizer.model is no sentencepiece model")?
        }
        (Some(_), None) => return Err("tokenizer.json is of a kind that GGUF files do not hold, and there is no tokenizer.model".to_owned()),
        (None, None) => return Err("the model has neither tokenizer.json nor tokenizer.model".to_owned()),
    };
    if let Some(file) = &file {
        vocabulary.add(file);
    }
    vocabulary.fill(size);
    let id_of = |token: &str| vocabulary.tokens.iter().position(|known| known == token);
    for (key, name) in [
        ("bos", "bos_token"),
        ("eos", "eos_token"),
        ("padding", "pad_token"),
        ("unknown", "unk_token"),
    ] {
        let said = settings.as_ref().and_then(|settings| settings.get(name));
        let said = said.and_then(|said| said.as_str().or_else(|| said.get("content")?.as_str()));
        let of_config = || {
            let said = config.get(format!("{name}_id"))?;
            said.as_u64().or_else(|| said.get(0)?.as_u64())
        };
        let id = said.and_then(id_of).map(|id| id as u64).or_else(of_config);
        if let Some(id) = id.filter(|id| (*id as usize) < vocabulary.tokens.len()) {
            put(&format!("ggml.{key}_token_id"), GgufValue::U32(id as u32));
        }
    }
    for key in ["add_bos_token", "add_eos_token"] {
        if let Some(flag) = settings.as_ref().and_then(|settings| settings.get(key)?.as_bool()) {
            put(&format!("ggml.{key}"), GgufValue::Bool(flag));
        }
    }
    let own = settings.as_ref().and_then(|settings| settings.get("chat_template")?.as_str());
    let template = beside.template.clone().or_else(|| own.map(str::to_owned));
    if let Some(template) = template {
        put("chat_template", GgufValue::Text(template));
    }
    if let Some(scores) = vocabulary.scores {
        put("ggml.scores", GgufValue::Floats(scores));
    }
    put("ggml.tokens", GgufValue::Texts(vocabulary.tokens));
    put("ggml.token_type", GgufValue::Ints(vocabulary.kinds));
    Ok((values, warning))
}

/// Whether tokens are made of bytes, each written as a character of its own.
fn is_byte_level(file: &Value) -> bool {
    let is_bpe = file["model"]["type"] == "BPE";
    is_bpe
        && [&file["pre_tokenizer"], &file["decoder"]]
            .iter()
            .any(|part| part.to_string().contains("ByteLevel"))
}

/// The name that llama.cpp has for how text is cut before merges.
fn pre_tokenizer(file: &Value, architecture: &str) -> (&'static str, Option<Diagnostic>) {
    let text = file["pre_tokenizer"].to_string();
    let is_split = text.contains("\"Split\"");
    match () {
        () if is_split && text.contains("\\\\p{N}{1,3}") => ("llama-bpe", None),
        () if is_split && (text.contains("|\\\\p{N}|") || architecture.starts_with("qwen")) => {
            ("qwen2", None)
        }
        () if !is_split => ("gpt-2", None),
        () => {
            let headline = "how the tokenizer cuts text before merges is not known by a name";
            let warning = Diagnostic::warning(codes::NOT_COPIED, headline)
                .note("the GGUF file says `default`, with which some texts get other tokens");
            ("default", Some(warning))
        }
    }
}

fn merges(file: &Value) -> Vec<String> {
    let list = file["model"]["merges"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |merge: &Value| match merge {
        Value::String(text) => Some(text.clone()),
        // Since tokenizers 0.20 each is a pair.
        pair => Some(format!("{} {}", pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)),
    };
    list.iter().filter_map(text).collect()
}

fn of_file(file: &Value) -> Result<Vocabulary, String> {
    let entries = file["model"]["vocab"].as_object().ok_or("tokenizer.json has no vocabulary")?;
    let mut vocabulary = Vocabulary { tokens: Vec::new(), kinds: Vec::new(), scores: None };
    for (token, id) in entries {
        let id = id
            .as_u64()
            .filter(|id| *id < 1 << 24)
            .ok_or("tokenizer.json has an id that is none")?;
        vocabulary.set(id as usize, token, NORMAL);
    }
    Ok(vocabulary)
}

impl Vocabulary {
    fn set(&mut self, id: usize, token: &str, kind: i32) {
        self.fill(id + 1);
        token.clone_into(&mut self.tokens[id]);
        self.kinds[id] = kind;
    }

    /// Takes in added tokens.
    fn add(&mut self, file: &Value) {
        for token in file["added_tokens"].as_array().into_iter().flatten() {
            let (Some(id), Some(text)) = (token["id"].as_u64(), token["content"].as_str()) else {
                continue;
            };
            let is_special = token["special"].as_bool().unwrap_or(false);
            // The pieces of a sentencepiece model know best what they are.
            let is_known = self.scores.is_some()
                && self.tokens.get(id as usize).is_some_and(|known| known == text);
            if id < 1 << 24 && !is_known {
                self.set(id as usize, text, if is_special { CONTROL } else { USER_DEFINED });
            }
        }
    }

    /// Gives ids that no token has one that is never used.
    fn fill(&mut self, size: usize) {
        for id in self.tokens.len()..size {
            self.tokens.push(format!("[PAD{id}]"));
            self.kinds.push(UNUSED);
            if let Some(scores) = &mut self.scores {
                scores.push(-1000.0);
            }
        }
    }
}

/// The pieces of a sentencepiece model, whose kinds have GGUF's numbers.
fn of_pieces(bytes: &[u8]) -> Option<Vocabulary> {
    let pieces = crate::pieces::read(bytes)?;
    Some(Vocabulary {
        kinds: pieces.iter().map(|piece| piece.kind).collect(),
        scores: Some(pieces.iter().map(|piece| piece.score).collect()),
        tokens: pieces.into_iter().map(|piece| piece.text).collect(),
    })
}
