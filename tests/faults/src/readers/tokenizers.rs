//! Tokenizers: a tokenizer.json that is brought together with another one, and what GGUF files make of one.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use mixdown_kit::{Space, checkpoint, side_files, space};
use mixdown_session::merge::gguf_tokenizer::{self, Beside};
use mixdown_session::{Places, RecipeInput, Session, Silence, plan};
use serde_json::{Value, json};

/// Tokenizers of each kind: words, bytes, and pieces with scores.
pub fn seeds() -> Vec<Vec<u8>> {
    let words = side_files::word_tokenizer(&["a", "b", "ab"].map(str::to_owned));
    let bytes = side_files::byte_tokenizer(&["<s>".to_owned()], &[("a", "b"), ("ab", "c")]);
    let mut pairs = bytes.clone();
    pairs["model"]["merges"] = json!([["a", "b"], ["ab", "c"]]);
    let unigram = json!({
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<unk>", "special": true, "single_word": false}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}]},
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["b", -2.0]]},
    });
    [words, bytes, pairs, unigram].iter().map(|value| value.to_string().into_bytes()).collect()
}

/// A sentencepiece model: two pieces with scores, and one that is a control token.
pub fn pieces() -> Vec<u8> {
    let piece = |text: &str, score: f32, kind: u8| {
        let mut inner = vec![0x0a, text.len() as u8];
        inner.extend(text.as_bytes());
        inner.push(0x15);
        inner.extend(score.to_le_bytes());
        inner.extend([0x18, kind]);
        [vec![0x0a, inner.len() as u8], inner].concat()
    };
    [piece("<s>", 0.0, 3), piece("a", -1.0, 1), piece("ab", -2.5, 1)].concat()
}

/// Plans a merge whose models have this tokenizer and a sound one, in each way in which tokenizers are brought
/// together, and reads it as a GGUF file does.
pub fn merge(folder: &Path, bytes: &[u8]) {
    if !folder.join("others").exists() {
        let made = Space::new();
        checkpoint("words").words(&["a", "b", "ab"]).write(&made);
        checkpoint("others").words(&["b", "c", "bc"]).write(&made);
        for name in ["words", "others"] {
            space::copy_folder(&made.path(name), &folder.join(name));
        }
    }
    let _ = fs::write(folder.join("words/tokenizer.json"), bytes);
    let home = folder.as_os_str().to_owned();
    let places = Places::from_env(&|name| (name == "HOME").then(|| home.clone()));
    let cancel = AtomicBool::new(false);
    let session = Session::new(&places, &Silence, &cancel);
    for source in ["union", "base", "{model: words}"] {
        let model = |name: &str| {
            let path = folder.join(name);
            format!("  - model: {path:?}\n    parameters: {{weight: 0.5}}\n")
        };
        let source = source.replace("words", &format!("{:?}", folder.join("words")));
        let text = format!(
            "merge_method: linear\nmodels:\n{}{}tokenizer: {{source: {source}}}\n",
            model("words"),
            model("others"),
        );
        let recipe = RecipeInput { memory_bytes: Some(1 << 28), ..RecipeInput::made_up(text) };
        let _ = plan(&recipe, &session, None);
    }
    to_gguf(Some(String::from_utf8_lossy(bytes).into_owned()), None);
}

/// What a GGUF file says of a tokenizer.
pub fn to_gguf(tokenizer: Option<String>, pieces: Option<Vec<u8>>) {
    let settings = side_files::tokenizer_config().to_string();
    let config: Value = json!({"bos_token_id": 0, "eos_token_id": 1});
    let beside = Beside { tokenizer, settings: Some(settings), template: None, pieces };
    let _ = gguf_tokenizer::values("llama", &config, 8, &beside);
}
