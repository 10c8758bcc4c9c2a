//! `mixdown plan`: what a merge would do, found in headers alone.

pub mod parts;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mixdown_exec::Footprint;
use mixdown_plan::explain;
use mixdown_session::kept::{self, Outlook};
use mixdown_session::merge::{MergeRequest, partition};
use mixdown_session::parts::MOST_PARTS;
use mixdown_session::{Chosen, Machine as SessionMachine, Planned, Session, Trouble, quantity};
use serde_json::{Value, json};

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::machine::Machine;
use crate::recipe::RecipeArguments;
use crate::table::{Align, Table};
use crate::talk::{self, Talk};
use crate::terminal::Terminal;

/// Show what a merge would do: operations, bytes, memory
///
/// Reads headers only. The same recipe and the same headers give the same plan.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown plan recipe.yaml                      a summary
  mixdown plan recipe.yaml --memory 200MB       with the memory and threads that a budget allows
  mixdown plan recipe.yaml --graph > plan.mmd   the operations as a Mermaid graph
  mixdown plan recipe.yaml --parts 16           what each of 16 machines would read and write
  mixdown plan recipe.yaml --json               every tensor, for programs")]
pub struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    #[command(flatten)]
    machine: Machine,
    /// Show what each of so many parts would do; see `mixdown merge --part`
    #[arg(long, value_name = "COUNT", conflicts_with = "graph")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_PARTS)))]
    parts: Option<u32>,
    /// Largest file of weights, which decides where parts are cut; 5GB by default
    #[arg(long, value_name = "SIZE", value_parser = crate::size::parse, requires = "parts")]
    shard_size: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print a graph in Mermaid's language
    #[arg(long, conflicts_with = "json")]
    graph: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    crate::stop::listen();
    let terminal = Terminal::of_headers(talk).reading(arguments.recipe.reading);
    let machine = arguments.machine.of_session();
    let mut recipe = arguments.recipe.input();
    recipe.memory_bytes = machine.memory_bytes;
    let planned = mixdown_session::plan(&recipe, &terminal.session(), None)?;
    talk.show(&planned.warnings);
    if arguments.graph {
        talk::data(&explain::mermaid(&planned.plan));
        return Ok(Exit::Done);
    }
    if let Some(count) = arguments.parts {
        let mut request = MergeRequest::new(recipe, PathBuf::new());
        (request.machine, request.shard_bytes) = (machine, arguments.shard_size);
        let partition = partition(&request, &planned, count, &terminal.session())?;
        talk::data(&match arguments.json {
            true => format!("{:#}\n", parts::json_of(&partition)),
            false => parts::text_of(&partition),
        });
        return Ok(Exit::Done);
    }
    if arguments.json {
        let value = document(&planned, &machine, &terminal.session())?;
        talk::data(&format!("{value:#}\n"));
    } else {
        let Costs { footprint, outlook, chosen } = costs(&planned, &machine, &terminal.session())?;
        talk.show(&chosen.warnings);
        let tensors: Vec<usize> =
            planned.loaded.models.iter().map(|input| input.model.checkpoint.index.len()).collect();
        let summary = explain::summary(&planned.plan, &tensors);
        talk::data(&format!("{summary}\n{}", cost(&footprint, outlook.as_ref(), chosen.note.as_deref())));
    }
    Ok(Exit::Done)
}

/// What a merge would cost, and what would compute it.
struct Costs {
    footprint: Footprint,
    outlook: Option<Outlook>,
    chosen: Chosen,
}

fn costs(
    planned: &Planned,
    machine: &SessionMachine,
    session: &Session<'_>,
) -> Result<Costs, Trouble> {
    let chosen = planned.backend(machine, session)?;
    let (footprint, _) = planned.costs(chosen.backend(), machine)?;
    let outlook = kept::outlook(planned, chosen.backend(), session.places)?;
    Ok(Costs { footprint, outlook, chosen })
}

/// All of it, for programs.
pub fn document(
    planned: &Planned,
    machine: &SessionMachine,
    session: &Session<'_>,
) -> Result<Value, Trouble> {
    let Costs { footprint, outlook, chosen } = costs(planned, machine, session)?;
    let mut value = explain::json(&planned.plan);
    value["footprint"] = json!({
        "bytes_read": footprint.bytes_read,
        "bytes_read_by_pass": footprint.bytes_read_by_pass,
        "bytes_written": footprint.bytes_written,
        "bytes_aside": footprint.bytes_aside,
        "peak_bytes": footprint.peak_bytes,
        "threads": footprint.threads,
        "flops": footprint.flops,
    });
    if !footprint.devices.is_empty() || chosen.note.is_some() {
        value["devices"] = devices_json(&footprint, chosen.note.as_deref());
    }
    if let Some(outlook) = &outlook {
        value["store"] = json!({
            "results": outlook.results,
            "there": outlook.there,
            "unknown": outlook.unknown,
        });
    }
    Ok(value)
}

/// What devices do, and what they do not and why.
fn devices_json(footprint: &Footprint, note: Option<&str>) -> Value {
    let used = footprint.devices.iter().map(|used| {
        json!({
            "device": used.device,
            "op": used.op,
            "ops": used.ops,
            "device_bytes": used.device_bytes,
            "block_rows": used.block_rows,
            "model_milliseconds": used.milliseconds[0],
            "model_milliseconds_cpu": used.milliseconds[1],
        })
    });
    let declined = footprint.declined.iter();
    let declined = declined.map(|(why, ops)| json!({"reason": why, "ops": ops}));
    json!({
        "used": used.collect::<Vec<_>>(),
        "declined": declined.collect::<Vec<_>>(),
        "note": note,
    })
}

fn cost(footprint: &Footprint, outlook: Option<&Outlook>, unused: Option<&str>) -> String {
    let mut table = Table::bare(&[Align::Left, Align::Right, Align::Left]);
    let bytes = |count: u64| quantity::bytes(count);
    let passes = footprint.bytes_read_by_pass.iter().filter(|&&count| count > 0).count();
    let by_pass: Vec<String> =
        footprint.bytes_read_by_pass.iter().map(|&count| quantity::bytes(count)).collect();
    let note = match passes {
        0 | 1 => String::new(),
        _ => format!("by pass: {}", by_pass.join(", ")),
    };
    table.row(["read", &bytes(footprint.bytes_read), &note]);
    table.row(["write", &bytes(footprint.bytes_written), ""]);
    if footprint.bytes_aside > 0 {
        let note = "on the output's disk, of matrix ops: results that facts about the model need, and what they reduce";
        table.row(["aside", &bytes(footprint.bytes_aside), note]);
    }
    let threads = quantity::count(footprint.threads, "thread");
    table.row(["memory", &bytes(footprint.peak_bytes), &format!("at most, with {threads}")]);
    if footprint.flops > 0 {
        let operations = format!("{:.1e}", footprint.flops as f64);
        table.row([
            "compute",
            &operations,
            "floating-point operations of matrix ops, if none is in the store",
        ]);
    }
    for used in &footprint.devices {
        let [there, here] =
            used.milliseconds.map(|count| quantity::time(Duration::from_millis(count)));
        let blocks = match used.block_rows {
            Some(rows) => format!(" in blocks of {rows} rows and more"),
            None => String::new(),
        };
        let ops = quantity::count(used.ops, "descent");
        let note = format!(
            "of device memory: {ops} of {} on {}{blocks}; {there} there by the cost model, {here} on 16 threads",
            used.op, used.device
        );
        table.row(["device", &bytes(used.device_bytes), &note]);
    }
    if !footprint.devices.is_empty() {
        for (why, ops) in &footprint.declined {
            let ops = quantity::count(*ops, "descent");
            let note = format!("{ops} on the processor: {why}");
            table.row(["", "", note.as_str()]);
        }
    }
    if let Some(why) = unused {
        table.row(["device", "none", why]);
    }
    if let Some(Outlook { results, there, unknown }) = outlook {
        let note = match unknown {
            0 => format!("of {} of matrix ops", quantity::count(*results, "result")),
            _ => format!(
                "of {} of matrix ops; {unknown} unknown until their inputs are hashed",
                quantity::count(*results, "result")
            ),
        };
        table.row(["in store", &there.to_string(), &note]);
    }
    table.text("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_told() {
        let mut footprint = Footprint {
            bytes_read_by_pass: vec![4_000_000],
            bytes_read: 4_000_000,
            bytes_written: 1_000_000,
            bytes_aside: 0,
            peak_bytes: 20_000_000,
            threads: 2,
            stripe_elements: 65536,
            flops: 0,
            devices: Vec::new(),
            declined: Vec::new(),
        };
        let expected =
            "read    4.00 MB\nwrite   1.00 MB\nmemory  20.0 MB  at most, with 2 threads\n";
        assert_eq!(cost(&footprint, None, None), expected);
        footprint.bytes_read_by_pass = vec![3_000_000, 1_000_000];
        assert!(cost(&footprint, None, None).contains("by pass: 3.00 MB, 1.00 MB\n"));
    }
}
