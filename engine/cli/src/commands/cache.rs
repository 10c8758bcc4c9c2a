//! `mixdown cache`: what the store of results holds, and making room.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use mixdown_checkpoint::hub::kept::{self, KeptState};
use mixdown_checkpoint::{shown, shown_path};
use mixdown_diagnostics::Diagnostic;
use mixdown_session::{Trouble, quantity};
use mixdown_store::{Held, Listed, PruneOptions, Pruned, Store};
use serde_json::{Value, json};

use crate::age;
use crate::commands::Outcome;
use crate::exit::Exit;
use crate::size;
use crate::table::{Align, Table};
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Show or prune the results that are kept from earlier merges
///
/// Results that cost more to compute than to read are kept in the folder `store` of mixdown's cache:
/// MIXDOWN_CACHE if set, else `mixdown` in XDG_CACHE_HOME or ~/.cache. What `--remote-cache` keeps of
/// remote files is in the folder `remote` there. Removing either is always safe: it is computed or
/// fetched again.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown cache list                      what is kept, and how large it is
  mixdown cache prune --max-size 10GB     keep 10 GB of what was used last")]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what is kept, the least recently used first
    List(List),
    /// Remove what was not used for long, or is too much
    Prune(Prune),
}

/// List what is kept, the least recently used first
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown cache list            one line for each entry
  mixdown cache list --json     the same for programs")]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Remove what was not used for long, or is too much
///
/// What is in use stays, so that merges can run meanwhile. Damaged entries and what interrupted
/// merges left are removed in any case, and nothing else without an option.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown cache prune --older-than 30d              remove what was not used for 30 days
  mixdown cache prune --max-size 10GB --dry-run     show what would be removed to keep 10 GB
  mixdown cache prune --all                         remove everything")]
struct Prune {
    /// Remove the least recently used until so many bytes are left
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_size: Option<u64>,
    /// Remove what was not used for so long
    #[arg(long, value_name = "AGE", value_parser = age::parse)]
    older_than: Option<Duration>,
    /// Remove everything
    #[arg(long, conflicts_with_all = ["max_size", "older_than"])]
    all: bool,
    /// Only show what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    let terminal = Terminal::new(talk);
    terminal.places().check()?;
    let places = terminal.places();
    let store = Store::new(places.store());
    match arguments.action {
        Action::List(arguments) => list(&store, &places.cache, &arguments, talk),
        Action::Prune(arguments) => prune(&store, &places.cache, &arguments, talk),
    }
}

fn list(store: &Store, cache: &Path, arguments: &List, talk: Talk) -> Outcome {
    let entries = store.list().map_err(|error| error.error())?;
    let files = kept::list(cache);
    if arguments.json {
        let value = json!({
            "folder": store.folder().to_string_lossy(),
            "bytes": bytes(&entries),
            "entries": entries.iter().map(json_of).collect::<Vec<_>>(),
            "remote": {
                "folder": kept::folder(cache).to_string_lossy(),
                "bytes": files.iter().map(|file| file.bytes).sum::<u64>(),
                "files": files.iter().map(json_of_file).collect::<Vec<_>>(),
            },
        });
        talk::data(&format!("{value:#}\n"));
        return Ok(Exit::Done);
    }
    talk::data(&table(&entries));
    talk::data(&table_of_files(&files));
    talk.say(&format!("{} in {}", weight(&entries), shown_path(store.folder())));
    if !files.is_empty() {
        let bytes = quantity::bytes(files.iter().map(|file| file.bytes).sum());
        let count = quantity::count(files.len(), "remote file");
        talk.say(&format!("{bytes} of {count} in {}", shown_path(&kept::folder(cache))));
    }
    Ok(Exit::Done)
}

fn table_of_files(files: &[KeptState]) -> String {
    if files.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("remote file", Align::Left),
        ("kept", Align::Right),
        ("unused", Align::Right),
    ]);
    for file in files {
        let unused = age::text(since(file.last_used));
        table.row([shown(&file.address).into_owned(), quantity::bytes(file.bytes), unused]);
    }
    table.text("")
}

fn json_of_file(file: &KeptState) -> Value {
    json!({
        "address": file.address,
        "bytes": file.bytes,
        "last_used": seconds(file.last_used),
    })
}

/// How many bytes of results and of remote files stay, where both together have a limit: what was used last,
/// whichever it is.
fn shares(entries: &[Listed], cache: &Path, most: u64) -> (u64, u64) {
    let results = entries.iter().map(|entry| (entry.bytes, entry.last_used, true));
    let files = kept::uses(cache).into_iter().map(|(bytes, used)| (bytes, used, false));
    let mut all: Vec<(u64, SystemTime, bool)> = results.chain(files).collect();
    all.sort_by_key(|(_, used, _)| std::cmp::Reverse(*used));
    let (mut of_results, mut of_files) = (0_u64, 0_u64);
    for (bytes, _, is_result) in all {
        if of_results.saturating_add(of_files).saturating_add(bytes) > most {
            break;
        }
        *(if is_result { &mut of_results } else { &mut of_files }) += bytes;
    }
    (of_results, of_files)
}

fn prune(store: &Store, cache: &Path, arguments: &Prune, talk: Talk) -> Outcome {
    let shares = match arguments.max_size {
        Some(most) => {
            let entries = store.list().map_err(|error| error.error())?;
            Some(shares(&entries, cache, most))
        }
        None => None,
    };
    let most_of_files = if arguments.all { Some(0) } else { shares.map(|(_, files)| files) };
    let files = kept::prune(cache, most_of_files, arguments.older_than, arguments.dry_run);
    let pruned = store
        .prune(&PruneOptions {
            max_bytes: shares.map(|(results, _)| results),
            max_age: arguments.older_than,
            all: arguments.all,
            dry_run: arguments.dry_run,
        })
        .map_err(|error| error.error())?;
    if arguments.json {
        let entries = |entries: &[Listed]| entries.iter().map(json_of).collect::<Vec<_>>();
        let value = json!({
            "folder": store.folder().to_string_lossy(),
            "dry_run": arguments.dry_run,
            "removed": entries(&pruned.removed),
            "removed_bytes": bytes(&pruned.removed),
            "in_use": entries(&pruned.in_use),
            "kept": pruned.kept.len(),
            "kept_bytes": bytes(&pruned.kept),
            "leftovers": pruned.leftovers,
            "leftover_bytes": pruned.leftover_bytes,
            "remote": {"removed_blocks": files.blocks, "removed_bytes": files.bytes},
        });
        talk::data(&format!("{value:#}\n"));
    } else {
        talk::data(&table(&pruned.removed));
        talk.say(&summary(&pruned, arguments.dry_run));
        if files.blocks > 0 {
            let verb = if arguments.dry_run { "would remove" } else { "removed" };
            talk.say(&format!("{verb} {} of remote files", quantity::bytes(files.bytes)));
        }
    }
    if pruned.failed.is_empty() {
        return Ok(Exit::Done);
    }
    let failed: Vec<Diagnostic> = pruned.failed.iter().map(|error| error.error()).collect();
    Err(Trouble::Found(failed))
}

fn summary(pruned: &Pruned, dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    let mut text = format!("{verb} {}", weight(&pruned.removed));
    if pruned.leftovers > 0 {
        let count = quantity::count(pruned.leftovers, "unfinished file");
        text.push_str(&format!(" and {count}, {}", quantity::bytes(pruned.leftover_bytes)));
    }
    if !pruned.in_use.is_empty() {
        text.push_str(&format!("; in use: {}", weight(&pruned.in_use)));
    }
    text.push_str(&format!("; left: {}", weight(&pruned.kept)));
    text
}

/// `2 entries, 1.34 GB`.
fn weight(entries: &[Listed]) -> String {
    let count = match entries.len() {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    };
    format!("{count}, {}", quantity::bytes(bytes(entries)))
}

fn bytes(entries: &[Listed]) -> u64 {
    entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.bytes))
}

/// One line for each entry, and nothing for none.
fn table(entries: &[Listed]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("entry", Align::Left),
        ("size", Align::Right),
        ("age", Align::Right),
        ("unused", Align::Right),
        ("what", Align::Left),
    ]);
    for entry in entries {
        let (age, what) = match &entry.held {
            Held::Entry(info) => {
                (age::text(since(info.created)), shown(&info.header.title).into_owned())
            }
            Held::Damaged(fault) => (String::new(), format!("damaged: {fault}")),
            Held::Unreadable(error) => (String::new(), format!("cannot be read: {error}")),
        };
        let key: String = entry.key.to_string().chars().take(SHORT).collect();
        let unused = age::text(since(entry.last_used));
        table.row([key, quantity::bytes(entry.bytes), age, unused, what]);
    }
    table.text("")
}

/// Digits of a key that are shown; a million entries rarely have two that agree in them.
const SHORT: usize = 12;

/// Time since then; none for a time in the future, which comes from another clock.
fn since(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or_default()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn json_of(entry: &Listed) -> Value {
    let mut value = json!({
        "key": entry.key.to_string(),
        "title": entry.title(),
        "bytes": entry.bytes,
        "last_used": seconds(entry.last_used),
    });
    match &entry.held {
        Held::Entry(info) => {
            let array = |array: &mixdown_store::ArrayHeader| {
                json!({
                    "name": array.name,
                    "dtype": array.dtype.name(),
                    "shape": array.shape.dimensions(),
                })
            };
            value["created"] = seconds(info.created).into();
            value["arrays"] = info.header.arrays.iter().map(array).collect();
        }
        Held::Damaged(fault) => value["damaged"] = fault.to_string().into(),
        Held::Unreadable(error) => value["unreadable"] = error.as_str().into(),
    }
    value
}
