//! The chat template of an output: one that the recipe names or writes, or the one that most models have.

use std::path::Path;

use mixdown_checkpoint::side_files::is_further_template;
use mixdown_checkpoint::{Form, shown_path, small};
use mixdown_diagnostics::Diagnostic;
use serde_json::Value;

use crate::recipes::Loaded;

/// Where transformers looks for a template first.
pub const NAME: &str = "chat_template.jinja";

/// Where it looks next.
pub const CONFIG_NAME: &str = "tokenizer_config.json";

/// Files without which there is no tokenizer that a template could belong to.
pub const TOKENIZER_FILES: [&str; 6] =
    [CONFIG_NAME, "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"];

/// The templates that have a name.
static NAMED: [(&str, &str); 5] = [
    ("alpaca", include_str!("../../../../recipes/chat_templates/alpaca.jinja")),
    ("chatml", include_str!("../../../../recipes/chat_templates/chatml.jinja")),
    ("exaone", include_str!("../../../../recipes/chat_templates/exaone.jinja")),
    ("llama3", include_str!("../../../../recipes/chat_templates/llama3.jinja")),
    ("mistral", include_str!("../../../../recipes/chat_templates/mistral.jinja")),
];

/// Whether a file of a model holds a template that could be read in place of the wanted one.
pub fn is_other(name: &str) -> bool {
    matches!(name, NAME | "chat_template.json") || is_further_template(name)
}

/// The text of the wanted template; none where no model has one to choose from.
pub fn text(wanted: &str, loaded: &Loaded) -> Result<Option<String>, Box<Diagnostic>> {
    if wanted != mixdown_recipe::AUTO_TEMPLATE {
        let named = NAMED.iter().find(|(name, _)| *name == wanted);
        return Ok(Some(named.map_or(wanted, |(_, text)| text.trim_end()).to_owned()));
    }
    let mut counts: Vec<(String, usize)> = Vec::new();
    for input in loaded.own_models() {
        let checkpoint = &input.model.checkpoint;
        if checkpoint.form != Form::Folder {
            continue;
        }
        let Some(found) = of_folder(&checkpoint.root)? else { continue };
        let found = found.trim();
        match counts.iter_mut().find(|(known, _)| known == found) {
            Some((_, count)) => *count += 1,
            None => counts.push((found.to_owned(), 1)),
        }
    }
    // Of equally many the one of the model that comes first.
    let most = counts.iter().map(|(_, count)| *count).max();
    Ok(counts.into_iter().find(|(_, count)| Some(*count) == most).map(|(text, _)| text))
}

/// The template of a model, as transformers finds it.
fn of_folder(folder: &Path) -> Result<Option<String>, Box<Diagnostic>> {
    let read = |name: &str| {
        let path = folder.join(name);
        small::text_if_there(&path, &shown_path(&path))
    };
    if let Some(source) = read(NAME)? {
        return Ok(Some(source.text().to_owned()));
    }
    for name in [CONFIG_NAME, "chat_template.json"] {
        let Some(source) = read(name)? else { continue };
        let Ok(Value::Object(fields)) = serde_json::from_str(source.text()) else { continue };
        if let Some(found) = fields.get("chat_template").and_then(default_of) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A template, or of several the one called `default`.
fn default_of(value: &Value) -> Option<String> {
    let named = |entry: &Value| {
        let is_default = entry.get("name").and_then(Value::as_str) == Some("default");
        is_default.then(|| entry.get("template")?.as_str().map(str::to_owned))?
    };
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(entries) => entries.iter().find_map(named),
        Value::Object(entries) => entries.get("default")?.as_str().map(str::to_owned),
        _ => None,
    }
}

/// tokenizer_config.json without its template; none where it has none.
pub fn without(text: &str) -> Option<String> {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(text) else { return None };
    fields.remove("chat_template")?;
    Some(format!("{:#}\n", Value::Object(fields)))
}

/// The text of a file.
pub fn read(path: &Path) -> Result<String, Box<Diagnostic>> {
    small::text(path, &shown_path(path)).map(|source| source.text().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_name_has_a_template() {
        let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, mixdown_recipe::CHAT_TEMPLATES);
    }

    #[test]
    fn of_several_templates_the_default_counts() {
        let several =
            json!([{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]);
        assert_eq!(default_of(&several).as_deref(), Some("b"));
        assert_eq!(default_of(&json!({"default": "c"})).as_deref(), Some("c"));
        assert_eq!(default_of(&json!([{"name": "rag", "template": "a"}])), None);
    }

    #[test]
    fn a_config_without_a_template_stays_as_it_is() {
        assert_eq!(without("{\"bos_token\": \"<s>\"}"), None);
        let changed = without("{\"chat_template\": \"x\", \"bos_token\": \"<s>\"}");
        assert_eq!(changed.as_deref(), Some("{\n  \"bos_token\": \"<s>\"\n}\n"));
    }
}
