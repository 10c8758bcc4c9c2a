//! `mixdown map`: the maps between architectures, and the proof that one fits two checkpoints.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use mixdown_checkpoint::{Checkpoint, shown};
use mixdown_plan::map::{MapReport, MapSettings, Maps, Side, check};
use mixdown_plan::{Architectures, map};
use mixdown_recipe::ArchitectureMap;
use mixdown_recipe::map::Policy;
use mixdown_session::Trouble;
use mixdown_session::models::Model;
use mixdown_session::recipes::maps;
use serde_json::{Value, json};

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::table::{Align, Table};
use crate::reading::Reading;
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// List the maps between architectures, show one, or prove one against two checkpoints
///
/// A map says, for each tensor of a target architecture, what it is made of in a source. Through it a model
/// has the names and shapes of the target, and every method can merge it: `map: NAME` beside the model in a
/// recipe. A file NAME.yaml in the folder maps/ beside a recipe adds a map, or replaces a built-in one.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown map list                          the maps that recipes can name
  mixdown map show llava-to-cogvlm          the file of one, to read or to begin with
  mixdown map check llava-to-cogvlm ./cogvlm-chat ./llava-v1.5-7b")]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(ListArguments),
    Show(ShowArguments),
    Check(CheckArguments),
}

/// List the maps
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown map list
  mixdown map list --beside team.yaml    also those in maps/ beside a recipe")]
struct ListArguments {
    /// Also the maps beside this recipe
    #[arg(long, value_name = "RECIPE")]
    beside: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Print the file of a map
///
/// A built-in map is where one of your own begins.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown map show llava-to-cogvlm > maps/mine.yaml")]
struct ShowArguments {
    /// Name of a map, or the path of its file
    map: String,
}

/// Prove a map against two checkpoints
///
/// Reads headers only. Every tensor of the target must be made by a rule, every rule must make something,
/// shapes must agree, and every tensor of the source must be used or listed as unused. All mistakes are told
/// at once; tensors that are used in part are listed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown map check llava-to-cogvlm ./cogvlm-chat ./llava-v1.5-7b
  mixdown map check ./maps/mine.yaml ./target ./source --json
  mixdown map check llava-to-cogvlm ./cogvlm-chat ./llava-v1.5-7b --policy appendix-b
  mixdown map check llava-onevision-hf-to-qwen2-vl ./qwen2-vl ./onevision --let text_rows=80")]
struct CheckArguments {
    /// Name of a map, or the path of its file
    map: String,
    /// The model whose names and shapes result: a folder, a file, or a hub id
    target: String,
    /// The model that is read: a folder, a file, or a hub id
    source: String,
    /// Follow links in a model's folder that lead out of it, which are an error otherwise; those of the hub's
    /// cache are no such links
    #[arg(long)]
    follow_links: bool,
    #[command(flatten)]
    reading: Reading,
    /// What becomes of weights that only the target has twice, instead of what the map says
    #[arg(long, value_parser = ["main-text", "appendix-b"])]
    policy: Option<String>,
    /// A number of the map, instead of its own; may be given several times
    #[arg(long = "let", value_name = "NAME=NUMBER", value_parser = number)]
    numbers: Vec<(String, u64)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn number(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=NUMBER")?;
    let value = value.parse().map_err(|_| format!("`{value}` is no whole number from 0"))?;
    Ok((name.to_owned(), value))
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    match arguments.action {
        Action::List(arguments) => list(&arguments),
        Action::Show(arguments) => show(&arguments),
        Action::Check(arguments) => prove(&arguments, talk),
    }
}

fn list(arguments: &ListArguments) -> Outcome {
    let maps = maps::beside(arguments.beside.as_deref())?;
    if arguments.json {
        let all: Vec<Value> = maps.iter().map(map_json).collect();
        talk::data(&format!("{:#}\n", Value::from(all)));
        return Ok(Exit::Done);
    }
    let columns = [("map", Align::Left), ("from", Align::Left), ("to", Align::Left)];
    let mut table = Table::new(&columns);
    for map in maps.iter() {
        table.row([map.name.value.as_str(), &map.source.value, &map.target.value]);
    }
    let text = table.text("");
    talk::data(&format!("{text}\n`mixdown map show NAME` prints one.\n"));
    Ok(Exit::Done)
}

fn map_json(map: &ArchitectureMap) -> Value {
    json!({
        "name": map.name.value,
        "summary": map.summary,
        "source": map.source.value,
        "target": map.target.value,
        "policy": map.policy.word(),
        "rules": map.rules.len(),
    })
}

fn show(arguments: &ShowArguments) -> Outcome {
    let text = match Maps::text(&arguments.map) {
        Some(text) => text.to_owned(),
        None => maps::find(&arguments.map, Path::new(""))?.file.text().to_owned(),
    };
    talk::data(&text);
    Ok(Exit::Done)
}

fn prove(arguments: &CheckArguments, talk: Talk) -> Outcome {
    let map = maps::find(&arguments.map, Path::new(""))?;
    let terminal = Terminal::new(talk).reading(arguments.reading);
    let session = terminal.session();
    let opened = [&arguments.target, &arguments.source]
        .map(|model| Model::open(model, arguments.follow_links, &session));
    let (target, source) = match opened {
        [Ok(target), Ok(source)] => (target, source),
        [target, source] => {
            let faults = [target.err(), source.err()].into_iter().flatten().flatten();
            return Err(Trouble::from(faults.collect::<Vec<_>>()));
        }
    };
    talk.show(&target.checkpoint.warnings);
    talk.show(&source.checkpoint.warnings);
    let policy = Policy::WORDS.iter().find(|(word, _)| arguments.policy.as_deref() == Some(*word));
    let settings = MapSettings {
        policy: policy.map(|(_, policy)| *policy),
        numbers: arguments.numbers.clone(),
    };
    let (report, faults) = check(
        &map,
        &settings,
        side(&arguments.target, 0, &target.checkpoint),
        side(&arguments.source, 1, &source.checkpoint),
    );
    if mixdown_diagnostics::any_error(&faults) {
        return Err(Trouble::from(faults));
    }
    talk.show(&faults);
    talk::data(&match arguments.json {
        true => format!("{:#}\n", report_json(&map, &report)),
        false => {
            let families = [family(&target.checkpoint), family(&source.checkpoint)];
            report_text(&map, &report, families)
        }
    });
    Ok(Exit::Done)
}

fn side<'a>(name: &'a str, model: u32, checkpoint: &'a Checkpoint) -> Side<'a> {
    Side { name, model, index: &checkpoint.index, config: checkpoint.config.as_ref() }
}

/// The family of a checkpoint, where it is known.
fn family(checkpoint: &Checkpoint) -> Option<&'static str> {
    let names = checkpoint.index.tensors().iter().map(|tensor| tensor.name.as_str());
    let found = Architectures::built_in().recognize(names, checkpoint.config.as_ref())?;
    Some(&found.name.value)
}

fn report_text(map: &ArchitectureMap, report: &MapReport, families: [Option<&str>; 2]) -> String {
    let mut table = Table::new(&[
        ("line", Align::Right),
        ("to", Align::Left),
        ("made by", Align::Left),
        ("tensors", Align::Right),
    ]);
    for rule in &report.rules {
        let (line, count) = (rule.line.to_string(), rule.tensors.to_string());
        table.row([line, rule.to.clone(), rule.action.to_owned(), count]);
    }
    let of = |declared: &str, found: Option<&str>| match found {
        Some(found) if found != declared => format!("{declared} (the checkpoint is {found})"),
        _ => declared.to_owned(),
    };
    let mut text = table.text("");
    let map::MapReport { target, mapped, rows, zero, kept, source, used, unused, .. } = report;
    text.push_str(&format!(
        "\ntarget  {}: {target} tensors, {mapped} mapped, {rows} with rows of their own, {zero} zero, {kept} kept\n",
        of(&map.target.value, families[0]),
    ));
    text.push_str(&format!(
        "source  {}: {source} tensors, {used} used, {unused} listed as unused\n",
        of(&map.source.value, families[1]),
    ));
    if let Some(embedding) = &report.tied {
        text.push_str(&format!("tied    `{}` stands in for its output layer\n", shown(embedding)));
    }
    for partly in &report.partly {
        let share = 100.0 * partly.used as f64 / partly.elements as f64;
        text.push_str(&format!("in part {share:5.1} % of `{}`\n", shown(&partly.name)));
    }
    text.push_str(&format!("`{}` fits.\n", map.name.value));
    text
}

fn report_json(map: &ArchitectureMap, report: &MapReport) -> Value {
    let rule = |rule: &map::RuleReport| json!({"to": rule.to, "line": rule.line, "made_by": rule.action, "tensors": rule.tensors});
    let partly = |one: &map::PartlyUsed| json!({"tensor": one.name, "used": one.used, "elements": one.elements});
    json!({
        "map": map.name.value,
        "rules": report.rules.iter().map(rule).collect::<Vec<_>>(),
        "target": {
            "tensors": report.target,
            "mapped": report.mapped,
            "rows": report.rows,
            "zero": report.zero,
            "kept": report.kept,
        },
        "source": {
            "tensors": report.source,
            "used": report.used,
            "unused": report.unused,
            "partly_used": report.partly.iter().map(partly).collect::<Vec<_>>(),
            "tied": report.tied,
        },
    })
}
