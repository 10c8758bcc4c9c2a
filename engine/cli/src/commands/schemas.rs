//! `mixdown schemas`: the JSON Schemas by which editors complete and check recipes.

use std::path::PathBuf;

use clap::Args;
use mixdown_checkpoint::manifest::Manifest;
use mixdown_checkpoint::{shown_path, stored};
use mixdown_diagnostics::{Diagnostic, codes};

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::talk::{self, Talk};

/// Write the JSON Schemas of recipes, methods and manifests
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown schemas schemas/            write all of them into a folder
  mixdown schemas schemas/ --check    say whether the files there are what would be written")]
pub struct Arguments {
    /// The folder
    folder: PathBuf,
    /// Write nothing; exit with 1 where a file differs
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, _: Talk) -> Outcome {
    let Arguments { folder, check } = arguments;
    let mut stale = Vec::new();
    for (name, text) in schemas() {
        let path = folder.join(name);
        if check {
            if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                let headline = "the schema is not what the types say";
                stale.push(
                    Diagnostic::error(codes::WRITE_FAILED, headline)
                        .in_file(shown_path(&path))
                        .help(format!("mixdown schemas {}", shown_path(&folder))),
                );
            }
            continue;
        }
        stored::write_file(&path, text.as_bytes()).map_err(|error| {
            Diagnostic::error(codes::WRITE_FAILED, format!("the schema cannot be written: {error}"))
                .in_file(shown_path(&path))
        })?;
        talk::data(&format!("{}\n", path.display()));
    }
    if !stale.is_empty() {
        return Err(stale.into());
    }
    Ok(Exit::Done)
}

/// All schemas, each with the name of its file.
fn schemas() -> Vec<(&'static str, String)> {
    let mut schemas = mixdown_recipe::schema::schemas();
    let manifest = schemars::generate::SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<Manifest>()
        .to_value();
    schemas.push(("manifest.schema.json", format!("{manifest:#}\n")));
    schemas.push(mixdown_search::schema::schema());
    schemas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_a_titled_object() {
        for (name, text) in schemas() {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(value["title"].is_string(), "{name}");
        }
    }
}
