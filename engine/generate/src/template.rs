//! Chat templates: how messages become one text, in the model's own Jinja.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, context};
use mixdown_checkpoint::{shown_path, small};
use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::{Map, Value};

use crate::model::json_beside;

/// The day that templates are told when they ask for it. The same every day, because answers must not
/// depend on when they are asked; it is the one that Llama's template names itself.
const TODAY: &str = "26 Jul 2024";

/// How a model wants its messages.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    /// Special tokens by their names, such as `bos_token`.
    tokens: Map<String, Value>,
}

impl Template {
    /// The template of a model folder: `chat_template.jinja`, else `chat_template.json` or that of
    /// `tokenizer_config.json`. None where there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>, Vec<Diagnostic>> {
        let config = json_beside(folder, "tokenizer_config.json")?.unwrap_or_default();
        let own = folder.join("chat_template.jinja");
        let found = small::text_if_there(&own, &shown_path(&own)).map_err(|fault| vec![*fault])?;
        let (source, shown) = match found {
            Some(source) => (Some(source.text().to_owned()), own),
            None => {
                let beside = json_beside(folder, "chat_template.json")?.unwrap_or_default();
                let source = named(&beside).or_else(|| named(&config));
                (source, folder.join("tokenizer_config.json"))
            }
        };
        let Some(source) = source else { return Ok(None) };
        let template = Self::new(source, tokens(&config)).map_err(|error| {
            let headline = format!("the chat template cannot be understood: {error:#}");
            let error = Diagnostic::error(codes::GENERATOR_TEXT, headline);
            vec![error.in_file(shown.to_string_lossy())]
        })?;
        Ok(Some(template))
    }

    /// A template of this source.
    pub fn new(source: String, tokens: Map<String, Value>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment
            .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |words: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, words))
        });
        environment.add_function("strftime_now", |_form: String| TODAY);
        environment.add_template_owned("chat", source)?;
        Ok(Self { environment, tokens })
    }

    /// The text of these messages, ready for the answer.
    pub fn render(&self, messages: &[Value]) -> Result<String, String> {
        let given = context! {
            messages => Serde(messages),
            add_generation_prompt => true,
            ..minijinja::Value::from(Serde(&self.tokens))
        };
        let template = self.environment.get_template("chat").map_err(|error| error.to_string())?;
        template
            .render(given)
            .map_err(|error| error.detail().map_or_else(|| error.to_string(), str::to_owned))
    }
}

/// A template, or of several the one named `default`.
fn named(config: &Value) -> Option<String> {
    let template = config.get("chat_template")?;
    if let Some(text) = template.as_str() {
        return Some(text.to_owned());
    }
    let is_default = |entry: &&Value| entry["name"] == "default";
    let entry = template.as_array()?.iter().find(is_default)?;
    Some(entry.get("template")?.as_str()?.to_owned())
}

/// The special tokens of a tokenizer's config: texts, or objects with a `content`.
fn tokens(config: &Value) -> Map<String, Value> {
    let text =
        |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(Value::from);
    let entries = config.as_object().into_iter().flatten();
    entries
        .filter(|(key, _)| key.ends_with("_token"))
        .filter_map(|(key, value)| Some((key.clone(), text(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str, messages: Value) -> Result<String, String> {
        let tokens = tokens(&json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>",
            "add_bos_token": true}));
        let template = Template::new(source.to_owned(), tokens).unwrap();
        template.render(messages.as_array().unwrap())
    }

    /// What templates of known models do: loops with state, methods of Python's texts, defaults.
    #[test]
    fn python_ways_are_understood() {
        let source = "{{ bos_token }}\n{%- set ns = namespace(n=0) %}\n\
            {%- if messages[0]['role'] == 'system' %}{%- set messages = messages[1:] %}{%- endif %}\n\
            {%- for message in messages %}\n  {% set ns.n = ns.n + 1 %}\n\
            [{{ message.role.upper() }} {{ message['content'].strip().split(' ')[-1] | trim }}]\n\
            {%- endfor %}{% if tools is defined and tools %}tools{% endif %}\
            {% if add_generation_prompt %}{{ ns.n }}:{{ eos_token }}{% endif %}";
        let messages =
            json!([{"role": "system", "content": "s"}, {"role": "user", "content": " a b "}]);
        let told = render(source, messages).unwrap();
        assert_eq!(told, "<s>[USER b]1:</s>");
    }

    #[test]
    fn a_template_can_refuse() {
        let source = "{{ raise_exception('roles must alternate') }}";
        assert_eq!(render(source, json!([])).unwrap_err(), "roles must alternate");
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}", json!([])).unwrap(), TODAY);
    }

    #[test]
    fn the_default_of_several_is_taken() {
        let several = json!({"chat_template": [{"name": "tool_use", "template": "a"},
            {"name": "default", "template": "b"}]});
        assert_eq!(named(&several).as_deref(), Some("b"));
        assert_eq!(named(&json!({"chat_template": "c"})).as_deref(), Some("c"));
        assert_eq!(named(&json!({})), None);
    }
}
