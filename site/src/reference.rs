//! The reference: keys of recipes, functions of formulas, commands and messages.

use std::fmt::Write as _;

use clap::Command;
use mixdown_diagnostics::codes;
use mixdown_plan::functions::FUNCTIONS;
use mixdown_recipe::schema;
use serde_json::{Map, Value};

use crate::Page;
use crate::mathml::escaped;
use crate::method::{cell, made, prose};

pub(crate) fn pages() -> Vec<Page> {
    vec![
        ("reference/commands.md".into(), commands()),
        ("reference/messages.md".into(), messages()),
        ("reference/functions.md".into(), functions()),
        ("reference/recipes.md".into(), recipes()),
    ]
}

fn commands() -> String {
    let mut text = made("from the program's arguments", "engine/cli/src/commands");
    text.push_str(
        "# Commands\n\nWhat `mixdown COMMAND --help` says. Data goes to stdout, talk to stderr; \
         the exit status is 0 when done, 1 on failure, 2 when the recipe or the command line is wrong, and 130 after an \
         interruption.\n",
    );
    let mut program = mixdown_cli::command().term_width(96);
    program.build();
    help(&mut text, &program, "##");
    text
}

fn help(text: &mut String, command: &Command, level: &str) {
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        let name = one.get_bin_name().unwrap_or(one.get_name());
        // What a variable holds here is nobody else's business.
        let one_shown = one.clone().mut_args(|argument| argument.hide_env_values(true));
        let shown = one_shown.term_width(96).render_long_help().to_string();
        let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
        let _ = write!(text, "\n{level} {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
        help(text, one, "###");
    }
}

fn messages() -> String {
    let mut text = made("from the list of codes", "engine/diagnostics/src/codes.rs");
    text.push_str(
        "# Messages\n\nEvery message has a code, which `--json` and the exceptions of Python carry too. \
         A code that begins with E is an error; W is a warning, after which the work goes on. \
         A message says what is wrong, where, what was found against what was expected, and what to do.\n",
    );
    let parts = [
        ("E01", "Checkpoints and files"),
        ("E02", "The text of recipes"),
        ("E03", "Recipes against checkpoints"),
        ("E04", "Merging"),
        ("E05", "Outputs, servers and searches"),
        ("W", "Warnings"),
    ];
    for (start, title) in parts {
        let _ = write!(text, "\n## {title}\n\n| code | meaning |\n| --- | --- |\n");
        for code in codes::ALL.iter().filter(|code| code.id.starts_with(start)) {
            let _ = writeln!(text, "| {} | {} |", code.id, cell(code.meaning));
        }
    }
    text
}

fn functions() -> String {
    let mut text = made("from the functions of formulas", "engine/plan/src/formulas/functions.rs");
    text.push_str(
        "# Functions of formulas\n\nWhat the steps of a method can use; `mixdown methods --functions` says the same.\n\n\
         Operators, from low to high: `or`, `and`, `not`, comparisons, `+ -`, `* /`, unary `-`, calls.\n\
         Names: `base`, `experts` (a list), `n` (their count), `has_base`, parameters, earlier steps; \
         `importance` and `gram` (lists beside the experts), `reference` (what they are compared with).\n\
         What takes one value is mapped over a list.\n",
    );
    for function in FUNCTIONS {
        let _ = write!(
            text,
            "\n### {}\n\n`{}`\n\n{}\n",
            function.name,
            function.signature,
            prose(&function.summary.split_whitespace().collect::<Vec<_>>().join(" "))
        );
    }
    text
}

fn recipes() -> String {
    let mut text = made("from the schema of recipes", "schemas/recipe.schema.json");
    text.push_str(
        "# Keys of recipes\n\nA file that begins with `mixdown: 1` is strict: an unknown key is an error. \
         Any other is a mergekit configuration. The same is in `schemas/recipe.schema.json`, for editors.\n",
    );
    let schemas = schema::schemas();
    let (_, schema) = schemas
        .iter()
        .find(|(name, _)| *name == "recipe.schema.json")
        .expect("recipes have a schema");
    let schema: Value = serde_json::from_str(schema).expect("schemas are JSON");
    let strict = &schema["then"]["else"];
    let modality = &schema["then"]["then"];
    let parts = [
        ("Strict recipes", strict),
        ("Recipes of `kind: modality`", modality),
        ("Mergekit configurations", &schema["else"]),
    ];
    for (title, keys) in parts {
        let _ = write!(text, "\n## {title}\n\n");
        table(&mut text, keys);
    }
    text.push_str("\n## What keys hold\n");
    let none = Map::new();
    for (name, definition) in schema["definitions"].as_object().unwrap_or(&none) {
        let _ = write!(text, "\n### {name}\n\n");
        if let Some(words) = definition["description"].as_str() {
            let _ = write!(text, "{}\n\n", prose(words));
        }
        if definition["properties"].is_object() {
            table(&mut text, definition);
        } else {
            let _ = writeln!(text, "{}.", values(definition));
        }
    }
    text
}

fn table(text: &mut String, keys: &Value) {
    let required: Vec<&str> =
        keys["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    text.push_str("| key | value | what it says |\n| --- | --- | --- |\n");
    for (key, value) in keys["properties"].as_object().into_iter().flatten() {
        let needed = if required.contains(&key.as_str()) { " (required)" } else { "" };
        let words = cell(value["description"].as_str().unwrap_or_default());
        let _ = writeln!(text, "| `{key}`{needed} | {} | {words} |", values(value));
    }
}

/// What a schema allows, in words with links.
fn values(schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        let name = target.rsplit('/').next().unwrap_or(target);
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        if let Some(all) = schema[key].as_array() {
            let mut words: Vec<String> =
                all.iter().filter(|one| one["type"] != "null").map(values).collect();
            words.dedup();
            return words.join(" or ");
        }
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words
            .iter()
            .filter(|word| !word.is_null())
            .map(|word| format!("`{}`", text_of(word)))
            .collect();
        return words.join(", ");
    }
    if !schema["const"].is_null() {
        return format!("`{}`", text_of(&schema["const"]));
    }
    let one = |word: &str| match word {
        "array" => format!("a list of {}", values(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("names, each with {}", values(&schema["additionalProperties"]))
        }
        "object" => "keys".to_owned(),
        "string" => "text".to_owned(),
        "integer" => "a whole number".to_owned(),
        "number" => "a number".to_owned(),
        "boolean" => "`true` or `false`".to_owned(),
        other => escaped(other),
    };
    match &schema["type"] {
        Value::String(word) => one(word),
        Value::Array(words) => {
            let words: Vec<String> = words
                .iter()
                .filter_map(Value::as_str)
                .filter(|word| *word != "null")
                .map(one)
                .collect();
            words.join(" or ")
        }
        _ => "any value".to_owned(),
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
