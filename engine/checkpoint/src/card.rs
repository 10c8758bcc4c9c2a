//! The model card of an output, `README.md`: what was merged and how, the recipe, and how to prove
//! and repeat it. The same merge gives the same card.

use mixdown_diagnostics::is_dangerous;

use crate::manifest::MANIFEST_NAME;

/// Name of the card in an output folder.
pub const CARD_NAME: &str = "README.md";

/// What a card tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// The heading. Nothing in it may depend on where the output is written.
    pub title: String,
    /// The models, in the recipe's order.
    pub models: Vec<CardModel>,
    /// The methods that made the tensors, each with the count of tensors, in the order to show.
    pub methods: Vec<CardMethod>,
    /// Element type of the weights: `bfloat16`.
    pub dtype: String,
    /// Count of the elements of all weights.
    pub parameters: u64,
    /// Whether the output is an adapter, and then the id of the model that it is for, if that is on the hub.
    pub adapter_on: Option<Option<String>>,
    /// Tensors of the inputs that are not in the output.
    pub dropped: usize,
    /// The recipe's text.
    pub recipe: String,
    /// Overrides from the command line.
    pub set: Vec<String>,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Version of mixdown.
    pub mixdown: String,
}

/// A model on a card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardModel {
    /// Its name in the recipe, or its hub id.
    pub name: String,
    /// Its id, when it is on the hub. Only these can be named in the front matter.
    pub hub_id: Option<String>,
    /// Its commit on the hub.
    pub revision: Option<String>,
}

/// A method on a card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardMethod {
    /// Its name: `ties`.
    pub name: String,
    /// What it is, in a few words: `TIES-Merging`.
    pub title: String,
    /// Where it was published: `Yadav et al. 2023, arXiv:2306.01708`.
    pub source: Option<String>,
    /// Count of tensors that it made.
    pub tensors: usize,
}

impl Card {
    /// The text of the card.
    pub fn to_markdown(&self) -> String {
        let mut text = self.front_matter();
        text.push_str(&format!("\n# {}\n\n", inline(&self.title)));
        text.push_str(match self.adapter_on {
            None => "This model was merged from others with mixdown, without training.\n",
            Some(_) => {
                "This adapter was computed from models with mixdown, without training; \
                 `adapter_config.json` names the model that it is for.\n"
            }
        });
        text.push_str("\n## Models\n\n");
        for model in &self.models {
            text.push_str(&model.line());
        }
        text.push_str("\n## Method\n\n");
        for method in &self.methods {
            text.push_str(&method.line());
        }
        text.push('\n');
        text.push_str(&format!(
            "The weights have {} parameters, stored as {}.\n",
            grouped(self.parameters),
            inline(&self.dtype)
        ));
        if self.dropped > 0 {
            let plural = if self.dropped == 1 { " is" } else { "s are" };
            text.push_str(&format!(
                "{} tensor{plural} in the inputs only; `{MANIFEST_NAME}` gives the reasons.\n",
                self.dropped
            ));
        }
        text.push_str("\n## Recipe\n\n");
        text.push_str(&fenced("yaml", &self.recipe));
        text.push_str(&self.reproduction());
        text
    }

    fn front_matter(&self) -> String {
        let mut ids: Vec<&str> = Vec::new();
        let (found, library): (Vec<&str>, _) = match &self.adapter_on {
            None => {
                (self.models.iter().filter_map(|m| m.hub_id.as_deref()).collect(), "transformers")
            }
            Some(base) => (base.iter().map(String::as_str).collect(), "peft"),
        };
        for id in found {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let mut text = String::from("---\n");
        if !ids.is_empty() {
            text.push_str("base_model:\n");
            for id in ids {
                text.push_str(&format!("- {}\n", yaml_text(id)));
            }
        }
        text.push_str(&format!("library_name: {library}\ntags:\n- mixdown\n- merge\n---\n"));
        text
    }

    fn reproduction(&self) -> String {
        let mut command = String::from("mixdown merge recipe.yaml --out merged");
        for set in &self.set {
            command.push_str(&format!(" --set {}", shell_word(set)));
        }
        let version = inline(&self.mixdown);
        format!(
            "\n## Proof\n\n\
             `{MANIFEST_NAME}` holds the digest of every tensor and file, and of the inputs.\n\
             In the folder of this model:\n\n{}\n\
             To make it again, save the recipe as `recipe.yaml` and run mixdown {version} \
             (seed {}); the weights will be the same, byte for byte:\n\n{}",
            fenced("sh", "mixdown verify ."),
            self.seed,
            fenced("sh", &command),
        )
    }
}

impl CardModel {
    fn line(&self) -> String {
        let revision = self.revision.as_deref().map(|commit| format!(" at `{}`", code(commit)));
        let revision = revision.unwrap_or_default();
        match &self.hub_id {
            Some(id) if is_plain_id(id) => {
                format!("- [{id}](https://huggingface.co/{id}){revision}\n")
            }
            _ => format!("- `{}`{revision}\n", code(&self.name)),
        }
    }
}

impl CardMethod {
    fn line(&self) -> String {
        let plural = if self.tensors == 1 { "" } else { "s" };
        let mut line = format!("- `{}`", code(&self.name));
        if !self.title.is_empty() {
            line.push_str(&format!(": {}", inline(&self.title)));
        }
        if let Some(source) = &self.source {
            line.push_str(&format!(" ({})", inline(source)));
        }
        line.push_str(&format!(", {} tensor{plural}\n", self.tensors));
        line
    }
}

/// A block that its content cannot end: the fence is longer than any run of backticks in it.
fn fenced(language: &str, content: &str) -> String {
    let longest = content.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let end = if content.is_empty() || content.ends_with('\n') { "" } else { "\n" };
    format!("{fence}{language}\n{content}{end}{fence}\n")
}

/// Text within a line: nothing in it acts as Markdown, HTML or a new line.
fn inline(text: &str) -> String {
    let mut output = String::new();
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '|' | '&' => {
                output.push('\\');
                output.push(c);
            }
            c if is_dangerous(c) => output.push(' '),
            c => output.push(c),
        }
    }
    output
}

/// Text within backticks.
fn code(text: &str) -> String {
    text.chars().map(|c| if c == '`' || is_dangerous(c) { '\'' } else { c }).collect()
}

/// Whether this has the form of a hub id, so that it can stand in a link.
fn is_plain_id(id: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_part = |part: &str| !part.is_empty() && part.chars().all(is_plain);
    id.split('/').count() <= 2 && id.split('/').all(is_part)
}

/// A YAML scalar that is read back as this text.
fn yaml_text(text: &str) -> String {
    let is_safe = is_plain_id(text) && text.contains('/');
    match is_safe {
        true => text.to_owned(),
        // JSON strings are YAML strings.
        false => serde_json::Value::from(text).to_string(),
    }
}

/// A word for a POSIX shell.
fn shell_word(text: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "-_.=/,:+".contains(c);
    match !text.is_empty() && text.chars().all(is_safe) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Card {
        Card {
            title: "my_merge".into(),
            models: vec![
                CardModel {
                    name: "org/base-7b".into(),
                    hub_id: Some("org/base-7b".into()),
                    revision: Some("abc123".into()),
                },
                CardModel { name: "./local".into(), ..CardModel::default() },
                CardModel {
                    name: "base".into(),
                    hub_id: Some("org/base-7b".into()),
                    revision: None,
                },
            ],
            methods: vec![CardMethod {
                name: "ties".into(),
                title: "TIES-Merging".into(),
                source: Some("arXiv:2306.01708".into()),
                tensors: 290,
            }],
            dtype: "bfloat16".into(),
            parameters: 7_615_616_512,
            dropped: 2,
            recipe: "merge_method: ties".into(),
            set: vec!["lambda=0.5".into(), "name=it's".into()],
            adapter_on: None,
            seed: 42,
            mixdown: "0.1.0".into(),
        }
    }

    const EXPECTED: &str = "\
---
base_model:
- org/base-7b
library_name: transformers
tags:
- mixdown
- merge
---

# my\\_merge

This model was merged from others with mixdown, without training.

## Models

- [org/base-7b](https://huggingface.co/org/base-7b) at `abc123`
- `./local`
- [org/base-7b](https://huggingface.co/org/base-7b)

## Method

- `ties`: TIES-Merging (arXiv:2306.01708), 290 tensors

The weights have 7,615,616,512 parameters, stored as bfloat16.
2 tensors are in the inputs only; `mixdown-manifest.json` gives the reasons.

## Recipe

```yaml
merge_method: ties
```

## Proof

`mixdown-manifest.json` holds the digest of every tensor and file, and of the inputs.
In the folder of this model:

```sh
mixdown verify .
```

To make it again, save the recipe as `recipe.yaml` and run mixdown 0.1.0 (seed 42); the weights will be the same, byte for byte:

```sh
mixdown merge recipe.yaml --out merged --set lambda=0.5 --set 'name=it'\\''s'
```
";

    #[test]
    fn the_card_of_an_adapter_names_its_base_alone() {
        let card = Card { adapter_on: Some(Some("org/base".into())), ..sample() };
        let text = card.to_markdown();
        let front = "---\nbase_model:\n- org/base\nlibrary_name: peft\n";
        assert!(text.starts_with(front), "{text}");
        assert!(text.contains("This adapter was computed"), "{text}");
    }

    #[test]
    fn the_whole_card() {
        assert_eq!(sample().to_markdown(), EXPECTED);
    }

    #[test]
    fn no_hub_models_no_base_model() {
        let card = Card { models: vec![CardModel::default()], ..sample() };
        assert!(card.to_markdown().starts_with("---\nlibrary_name: transformers\n"));
    }

    #[test]
    fn a_recipe_cannot_end_its_fence() {
        for recipe in ["a\n```\n# not a heading\n", "````````", "", "`", "x\n"] {
            let text = fenced("yaml", recipe);
            let mut lines = text.lines();
            let fence = lines.next().unwrap().strip_suffix("yaml").unwrap();
            let end = lines.clone().position(|line| line.starts_with(fence)).unwrap();
            assert_eq!(end, lines.clone().count() - 1, "{recipe:?}");
            let content: Vec<&str> = lines.take(end).collect();
            assert_eq!(content.join("\n"), recipe.trim_end_matches('\n'), "{recipe:?}");
        }
    }

    #[test]
    fn names_cannot_act_as_markup() {
        let card = Card {
            title: "<script>\n# x".into(),
            models: vec![
                CardModel { name: "`a`\n- b".into(), ..CardModel::default() },
                CardModel { hub_id: Some("a](http://x)\n".into()), ..CardModel::default() },
            ],
            ..sample()
        };
        let text = card.to_markdown();
        assert!(text.contains("# \\<script\\> \\# x\n"), "{text}");
        assert!(text.contains("- `'a''- b`\n"), "{text}");
        assert!(text.contains("- \"a](http://x)\\n\"\n"), "{text}");
        assert!(!text.contains("](http://x)\n"));
    }
}
