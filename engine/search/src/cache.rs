//! Answers that are kept: by model, by what answered, and by prompt. An answer is written as a whole
//! or not at all; one that is damaged counts as not there.

use std::path::PathBuf;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::read_limited;
use mixdown_files::stored::write_file;
use serde::{Deserialize, Serialize};

use crate::prompts::Prompt;
use crate::responses::Response;

/// Longest answer that is read.
const LONGEST: u64 = 64 << 20;

/// A folder of answers.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    model: String,
    generator: String,
    prompt: String,
    response: Response,
}

impl Cache {
    /// The answers in this folder, which is made when the first is kept.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn path(&self, model: &str, generator: &str, prompt: &Prompt) -> PathBuf {
        let mut digest = blake3::Hasher::new();
        digest.update(model.as_bytes()).update(b"\0").update(generator.as_bytes());
        let group = digest.finalize().to_hex();
        self.folder.join(&group[..32]).join(format!("{}.json", prompt.key))
    }

    /// The answer of this model to this prompt, if it is known. It carries the prompt's present name.
    pub fn get(&self, model: &str, generator: &str, prompt: &Prompt) -> Option<Response> {
        let bytes = read_limited(&self.path(model, generator, prompt), LONGEST).ok()?;
        let entry: Entry = serde_json::from_slice(&bytes).ok()?;
        let is_same = entry.model == model
            && entry.generator == generator
            && entry.prompt == prompt.key
            && !entry.response.is_error();
        is_same.then(|| Response { id: prompt.id.clone(), ..entry.response })
    }

    /// Keeps an answer. What went wrong once may go well the next time, and is not kept.
    pub fn put(
        &self,
        model: &str,
        generator: &str,
        prompt: &Prompt,
        response: &Response,
    ) -> Result<(), Box<Diagnostic>> {
        if response.is_error() {
            return Ok(());
        }
        let entry = Entry {
            model: model.to_owned(),
            generator: generator.to_owned(),
            prompt: prompt.key.clone(),
            response: response.clone(),
        };
        let text = serde_json::to_string(&entry).unwrap_or_default();
        let path = self.path(model, generator, prompt);
        write_file(&path, text.as_bytes()).map_err(|error| {
            let headline = format!("an answer cannot be kept: {error}");
            Box::new(
                Diagnostic::error(codes::WRITE_FAILED, headline).in_file(path.to_string_lossy()),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_by_all_they_depend_on() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("answers"));
        let prompt = Prompt::named("a");
        let answer = Response::stopped("a", "Yes");
        assert_eq!(cache.get("m", "g", &prompt), None);
        cache.put("m", "g", &prompt, &answer).unwrap();
        assert_eq!(cache.get("m", "g", &prompt), Some(answer.clone()));
        assert_eq!(cache.get("n", "g", &prompt), None);
        assert_eq!(cache.get("m", "h", &prompt), None);
        assert_eq!(cache.get("m", "g", &Prompt::named("b")), None);
        let renamed = Prompt { id: "z".into(), ..prompt.clone() };
        assert_eq!(cache.get("m", "g", &renamed).unwrap().id, "z");
        // Half an entry is no entry.
        let path = cache.path("m", "g", &prompt);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert_eq!(cache.get("m", "g", &prompt), None);
    }

    #[test]
    fn errors_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let prompt = Prompt::named("a");
        cache.put("m", "g", &prompt, &Response::failed("a", "no memory")).unwrap();
        assert_eq!(cache.get("m", "g", &prompt), None);
    }
}
