//! `mixdown methods`: the merge methods that a recipe can name, and what each does.

use std::path::{Path, PathBuf};

use clap::Args;
use mixdown_plan::{Library, functions};
use mixdown_recipe::Method;
use mixdown_recipe::method::{BaseUse, Bounds, Parameter, ParameterKind, Per};
use mixdown_recipe::recipe::Attachment;
use mixdown_recipe::setting::Scalar;
use mixdown_session::{Trouble, quantity, recipes};
use serde_json::{Value, json};

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::table::{Align, Table};
use crate::talk::{self, Talk};

/// List the merge methods, or explain one
///
/// Methods are formulas. A file NAME.yaml in the folder methods/ beside a recipe adds a method, or
/// replaces a built-in one.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown methods                          all methods with their titles
  mixdown methods ties                     formula, parameters, source and an example
  mixdown methods --functions              what formulas can use
  mixdown methods mine --beside team.yaml  a method that lies beside a recipe")]
pub struct Arguments {
    /// The method to explain
    #[arg(conflicts_with = "functions")]
    name: Option<String>,
    /// Print the functions that formulas can use
    #[arg(long)]
    functions: bool,
    /// Also the methods beside this recipe
    #[arg(long, value_name = "RECIPE", conflicts_with = "functions")]
    beside: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, _: Talk) -> Outcome {
    if arguments.functions {
        talk::data(&match arguments.json {
            true => format!("{:#}\n", functions_json()),
            false => functions_text(),
        });
        return Ok(Exit::Done);
    }
    let (name, beside) = (arguments.name.as_deref(), arguments.beside.as_deref());
    if arguments.json {
        talk::data(&format!("{:#}\n", document(name, beside)?));
        return Ok(Exit::Done);
    }
    let library = library(beside)?;
    talk::data(&match name {
        Some(name) => method_text(library.get(name).ok_or_else(|| library.unknown(name))?),
        None => list(&library),
    });
    Ok(Exit::Done)
}

fn library(beside: Option<&Path>) -> Result<Library, Trouble> {
    Ok(match beside {
        Some(recipe) => recipes::library_beside(recipe)?,
        None => Library::built_in()?,
    })
}

/// All of them or one, for programs.
pub fn document(name: Option<&str>, beside: Option<&Path>) -> Result<Value, Trouble> {
    let library = library(beside)?;
    Ok(match name {
        Some(name) => method_json(library.get(name).ok_or_else(|| library.unknown(name))?),
        None => library.iter().map(method_json).collect(),
    })
}

fn list(library: &Library) -> String {
    let mut table = Table::new(&[("method", Align::Left), ("", Align::Left)]);
    for method in library.iter() {
        table.row([method.name.value.as_str(), &method.title]);
        for line in lines(&method.summary, 78) {
            table.row([String::new(), format!("  {line}")]);
        }
    }
    format!("{}\n`mixdown methods NAME` explains one.\n", table.text(""))
}

fn method_text(method: &Method) -> String {
    let mut text = format!("{}: {}\n\n", method.name.value, method.title);
    text.push_str(&wrapped(&method.summary));
    if let Some(notes) = &method.notes {
        text.push_str(&format!("\n{}", wrapped(notes)));
    }
    text.push_str(&format!("\nSource\n  {}\n", method.source));
    text.push_str(&format!("\nModels\n  {}\n", inputs(method)));
    text.push_str(&format!("\nFormula\n{}", formula(method)));
    if !method.parameters.is_empty() {
        text.push_str(&format!("\nParameters\n{}", parameters(method)));
    }
    text.push_str(&format!("\nExample\n{}", example(method)));
    text
}

/// The steps with their formulas, and what comes out.
fn formula(method: &Method) -> String {
    let mut table = Table::bare(&[Align::Left, Align::Left]);
    for step in &method.steps {
        table.row([step.name.value.clone(), format!("= {}", step.expression)]);
    }
    table.row(["output".to_owned(), format!("= {}", method.output)]);
    table.text("  ")
}

/// Which models it takes.
pub fn inputs(method: &Method) -> String {
    let base = match method.base {
        BaseUse::Required => "a base",
        BaseUse::Optional => "a base if there is one",
        BaseUse::Ignored => "no base (one that is named is a model like the others)",
    };
    let (low, high) = (method.experts.at_least, method.experts.at_most);
    let experts = match (low, high) {
        (low, Some(high)) if low == high => count(low),
        (0, None) => "any number of models".to_owned(),
        (low, None) => format!("at least {}", count(low)),
        (low, Some(high)) => format!("{low} to {}", count(high)),
    };
    let mut text = format!("{base}, and {experts}");
    for &kind in &method.attachments {
        let what = match kind {
            Attachment::Importance => "its diagonal Fisher information",
            Attachment::Gram => "Gram matrices of its linear layers' inputs",
        };
        text.push_str(&format!("\n  beside each, `{}`: {what}", kind.name()));
    }
    if method.reference {
        text.push_str("\n  `reference`: one more model, which the others are compared with");
    }
    text
}

fn count(number: usize) -> String {
    quantity::count(number, "model")
}

fn parameters(method: &Method) -> String {
    let mut table = Table::bare(&[Align::Left, Align::Left, Align::Left, Align::Left]);
    for parameter in &method.parameters {
        let default = match &parameter.default {
            Some(value) => format!("default {}", scalar(value)),
            None => "required".to_owned(),
        };
        let per = match parameter.per {
            Per::Merge => "",
            Per::Expert => "per model: ",
        };
        table.row([
            parameter.name.value.clone(),
            kind(parameter),
            default,
            format!("{per}{}", parameter.doc),
        ]);
    }
    table.text("  ")
}

fn kind(parameter: &Parameter) -> String {
    fn bounds<T: std::fmt::Display>(word: &str, low: Option<T>, high: Option<T>) -> String {
        match (low, high) {
            (Some(low), Some(high)) => format!("{word}, {low} to {high}"),
            (Some(low), None) => format!("{word}, at least {low}"),
            (None, Some(high)) => format!("{word}, at most {high}"),
            (None, None) => word.to_owned(),
        }
    }
    let number = |all: &Bounds| match all {
        Bounds { at_least, above: None, at_most, below: None } => {
            bounds("number", *at_least, *at_most)
        }
        all => format!("number, {}", all.words()),
    };
    match &parameter.kind {
        ParameterKind::Real(bounds) => number(bounds),
        ParameterKind::Fraction => "fraction, 0 to 1".to_owned(),
        ParameterKind::Integer { at_least, at_most } => bounds("whole number", *at_least, *at_most),
        ParameterKind::Boolean => "true or false".to_owned(),
        ParameterKind::Matrices => "patterns or roles".to_owned(),
        ParameterKind::Choice(words) => words.join(" | "),
        ParameterKind::NumberOrWord { words, bounds } => {
            format!("{} | {}", words.join(" | "), number(bounds))
        }
    }
}

fn scalar(value: &Scalar) -> String {
    match value {
        Scalar::Boolean(value) => value.to_string(),
        Scalar::Number(value) => value.to_string(),
        Scalar::Text(text) => text.clone(),
    }
}

/// A complete recipe with the method: what is required, and what fits its count of models.
pub fn example(method: &Method) -> String {
    let mut text = format!("  merge_method: {}\n", method.name.value);
    if method.base == BaseUse::Required {
        text.push_str("  base_model: ./base\n");
    }
    if method.reference {
        text.push_str("  reference: ./instruct\n");
    }
    text.push_str("  models:\n");
    let most = method.experts.at_most.unwrap_or(usize::MAX);
    let required = |per| {
        let required = method.parameters.iter().filter(move |parameter| parameter.per == per);
        required.filter(|parameter| parameter.default.is_none())
    };
    for name in ["./expert-a", "./expert-b"].iter().take(most.max(1)) {
        text.push_str(&format!("    - model: {name}\n"));
        for kind in method.attachments.iter().map(|kind| kind.name()) {
            text.push_str(&format!("      {kind}: {name}-{kind}.safetensors\n"));
        }
        let settings: Vec<String> =
            required(Per::Expert).map(|p| format!("{}: {}", p.name.value, sample(p))).collect();
        if !settings.is_empty() {
            text.push_str(&format!("      parameters: {{{}}}\n", settings.join(", ")));
        }
    }
    let settings: Vec<String> =
        required(Per::Merge).map(|p| format!("    {}: {}\n", p.name.value, sample(p))).collect();
    if !settings.is_empty() {
        text.push_str(&format!("  parameters:\n{}", settings.concat()));
    }
    text.push_str("  dtype: bfloat16\n");
    text
}

/// A value that the parameter takes.
fn sample(parameter: &Parameter) -> String {
    match &parameter.kind {
        ParameterKind::Real(bounds) => {
            let (low, high) = (bounds.at_least.or(bounds.above), bounds.at_most.or(bounds.below));
            0.5_f64.clamp(low.unwrap_or(f64::MIN), high.unwrap_or(f64::MAX)).to_string()
        }
        ParameterKind::Fraction => "0.5".to_owned(),
        ParameterKind::Integer { at_least, at_most } => {
            1.clamp(at_least.unwrap_or(i64::MIN), at_most.unwrap_or(i64::MAX)).to_string()
        }
        ParameterKind::Boolean => "true".to_owned(),
        ParameterKind::Matrices => "auto".to_owned(),
        ParameterKind::Choice(words) | ParameterKind::NumberOrWord { words, .. } => {
            words.first().cloned().unwrap_or_default()
        }
    }
}

/// One of them, for programs.
pub fn method_json(method: &Method) -> Value {
    let steps: Vec<Value> = method
        .steps
        .iter()
        .map(|step| json!({"name": step.name.value, "expression": step.expression.to_string()}))
        .collect();
    let parameters: Vec<Value> = method
        .parameters
        .iter()
        .map(|parameter| {
            json!({
                "name": parameter.name.value,
                "per": match parameter.per { Per::Merge => "merge", Per::Expert => "expert" },
                "type": kind(parameter),
                "default": parameter.default.as_ref().map(|value| match value {
                    Scalar::Boolean(value) => json!(value),
                    Scalar::Number(value) => json!(value),
                    Scalar::Text(text) => json!(text),
                }),
                "doc": parameter.doc,
                "aliases": parameter.aliases,
            })
        })
        .collect();
    json!({
        "method": method.name.value,
        "title": method.title,
        "source": method.source,
        "summary": method.summary,
        "notes": method.notes,
        "base": match method.base {
            BaseUse::Required => "required",
            BaseUse::Optional => "optional",
            BaseUse::Ignored => "ignored",
        },
        "experts": {"at_least": method.experts.at_least, "at_most": method.experts.at_most},
        "beside": method.attachments.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        "reference": method.reference,
        "parameters": parameters,
        "steps": steps,
        "output": method.output.to_string(),
    })
}

fn functions_text() -> String {
    let mut list = String::new();
    for function in functions::FUNCTIONS {
        list.push_str(&format!("\n{}\n", function.signature));
        for line in lines(function.summary, 92) {
            list.push_str(&format!("    {line}\n"));
        }
    }
    format!(
        "Operators, from low to high: or, and, not, comparisons, + -, * /, unary -, calls.\n\
         Names: base, experts (a list), n (their count), has_base, parameters, earlier steps;\n\
         importance and gram (lists beside the experts), reference (what they are compared with).\n\
         What takes one value is mapped over a list.\n{list}"
    )
}

fn functions_json() -> Value {
    functions::FUNCTIONS
        .iter()
        .map(|function| {
            json!({
                "name": function.name,
                "signature": function.signature,
                "summary": function.summary,
            })
        })
        .collect()
}

fn wrapped(text: &str) -> String {
    lines(text, 98).join("\n") + "\n"
}

/// The words of a text in lines of at most so many letters.
fn lines(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is always a line");
        let fits = last.chars().count() + 1 + word.chars().count() <= width;
        match () {
            () if last.is_empty() => last.push_str(word),
            () if fits => last.extend([" ", word]),
            () => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_explains_itself() {
        let library = Library::built_in().unwrap();
        for method in library.iter() {
            let text = method_text(method);
            for part in [method.title.as_str(), &method.source, "output", "Example\n"] {
                assert!(text.contains(part), "{part} is missing in\n{text}");
            }
            for parameter in &method.parameters {
                assert!(text.contains(&parameter.doc), "{} in\n{text}", parameter.name.value);
            }
            assert_eq!(method_json(method)["method"], method.name.value.as_str());
            assert!(list(&library).contains(&method.title));
        }
    }

    #[test]
    fn formulas_are_shown() {
        let library = Library::built_in().unwrap();
        let found = formula(library.get("task_arithmetic").unwrap());
        assert!(found.contains("= experts - base\n"), "{found}");
        assert!(found.contains("output"), "{found}");
    }

    #[test]
    fn text_is_wrapped_between_words() {
        assert_eq!(lines("a bb ccc dddd", 6), ["a bb", "ccc", "dddd"]);
        assert_eq!(lines("", 6), [""]);
        assert_eq!(lines("longer", 3), ["longer"]);
    }

    #[test]
    fn functions_are_all_listed() {
        let text = functions_text();
        for function in functions::FUNCTIONS {
            assert!(text.contains(function.signature), "{}", function.name);
        }
    }
}
