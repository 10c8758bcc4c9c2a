//! `mixdown devices`: what can compute here.

use clap::Args;
use mixdown_cpu::CpuBackend;
use mixdown_cuda::{Devices, Found, NoCuda};
use mixdown_ops::Backend;
use mixdown_session::quantity;
use serde_json::{Value, json};

use crate::commands::Outcome;
use crate::exit::Exit;
use crate::table::{Align, Table};
use crate::talk::{self, Talk};

/// List the devices that can compute, and why one cannot be used
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mixdown devices            the processor, and the CUDA devices that the driver shows
  mixdown devices --json     the same for programs")]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, talk: Talk) -> Outcome {
    let Arguments { json } = arguments;
    let probed = mixdown_cuda::probe().map(|(_, devices)| devices);
    if json {
        talk::data(&format!("{:#}\n", value(&probed)));
        return Ok(Exit::Done);
    }
    talk::data(&table(&probed));
    match &probed {
        Ok(devices) => talk.say(&format!("the CUDA driver runs CUDA {}", devices.driver)),
        Err(why) => talk.say(&format!("no CUDA device: {why}")),
    }
    Ok(Exit::Done)
}

fn table(probed: &Result<Devices, NoCuda>) -> String {
    let mut table = Table::new(&[
        ("device", Align::Left),
        ("name", Align::Left),
        ("capability", Align::Left),
        ("memory", Align::Right),
        ("", Align::Left),
    ]);
    table.row(["cpu", &CpuBackend::new().describe(), "", "", "usable"]);
    for found in devices(probed) {
        let described = found.described.as_ref();
        let state = match &found.unusable {
            None => "usable".to_owned(),
            Some(why) => format!("unusable: {why}"),
        };
        table.row([
            format!("cuda:{}", found.number),
            described.map_or_else(|| "?".to_owned(), |described| described.name.clone()),
            described.map_or_else(String::new, |described| described.capability.to_string()),
            described.map_or_else(String::new, |described| quantity::bytes(described.memory_bytes)),
            state,
        ]);
    }
    table.text("")
}

fn devices(probed: &Result<Devices, NoCuda>) -> &[Found] {
    probed.as_ref().map_or(&[], |devices| &devices.found)
}

fn value(probed: &Result<Devices, NoCuda>) -> Value {
    let cuda = devices(probed).iter().map(|found| {
        let described = found.described.as_ref();
        json!({
            "device": format!("cuda:{}", found.number),
            "name": described.map(|described| &described.name),
            "capability": described.map(|described| described.capability.to_string()),
            "memory_bytes": described.map(|described| described.memory_bytes),
            "unusable": found.unusable.as_ref().map(ToString::to_string),
        })
    });
    let cpu = json!({
        "device": "cpu",
        "name": CpuBackend::new().describe(),
        "capability": null,
        "memory_bytes": null,
        "unusable": null,
    });
    json!({
        "devices": std::iter::once(cpu).chain(cuda).collect::<Vec<_>>(),
        "cuda_driver": probed.as_ref().ok().map(|devices| devices.driver.to_string()),
        "no_cuda": probed.as_ref().err().map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests {
    use mixdown_cuda::driver::Described;
    use mixdown_cuda::{Capability, Unusable, Version};

    use super::*;

    fn found(number: u32, major: u32, unusable: Option<Unusable>) -> Found {
        let described = Described {
            name: "NVIDIA H200".to_owned(),
            capability: Capability { major, minor: 0 },
            memory_bytes: 150_000_000_000,
        };
        Found { number, described: Some(described), unusable }
    }

    #[test]
    fn devices_are_listed_with_what_is_wrong() {
        let needed = Capability { major: 7, minor: 0 };
        let probed = Ok(Devices {
            driver: Version { major: 12, minor: 8 },
            found: vec![found(0, 9, None), found(1, 6, Some(Unusable::Old { needed }))],
        });
        let text = table(&probed);
        let line = text.lines().nth(2).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["cuda:0", "NVIDIA", "H200", "9.0", "150", "GB", "usable"]);
        let last = text.lines().nth(3).unwrap();
        assert!(last.ends_with("unusable: compute capability 7.0 or newer is needed"), "{last}");
        let value = value(&probed);
        assert_eq!(value["devices"][1]["memory_bytes"], 150_000_000_000_u64);
        assert_eq!(value["devices"][2]["unusable"], "compute capability 7.0 or newer is needed");
        assert_eq!(value["cuda_driver"], "12.8");
    }
}
