//! What each part of a merge would do.

use mixdown_session::parts::{Partition, Share};
use mixdown_session::quantity;
use serde_json::{Value, json};

use crate::table::{Align, Table};

/// For people.
pub fn text_of(partition: &Partition) -> String {
    let columns = [
        ("part", Align::Right),
        ("tensors", Align::Right),
        ("reads", Align::Right),
        ("writes", Align::Right),
        ("operations", Align::Right),
        ("shards", Align::Right),
        ("pieces", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for (number, share) in (1..).zip(partition.shares()) {
        let number: u32 = number;
        table.row([
            number.to_string(),
            share.jobs.len().to_string(),
            quantity::bytes(share.bytes_read + partition.facts_bytes),
            quantity::bytes(share.bytes_written),
            match share.flops {
                0 => String::new(),
                flops => format!("{:.2e}", flops as f64),
            },
            share.shards.to_string(),
            share.pieces.to_string(),
        ]);
    }
    let mut text = table.text("");
    let sum = |of: fn(&Share) -> u64| partition.shares().iter().map(of).sum::<u64>();
    let facts = partition.facts_bytes.saturating_mul(partition.shares().len() as u64);
    text.push_str(&format!(
        "\nall together read {} and write {}; the dearest part costs {:.1} % more than the mean\n",
        quantity::bytes(sum(|share| share.bytes_read).saturating_add(facts)),
        quantity::bytes(sum(|share| share.bytes_written)),
        100.0 * partition.excess(),
    ));
    if partition.facts_bytes > 0 {
        let facts = quantity::bytes(partition.facts_bytes);
        text.push_str(&format!("each part reads {facts} for facts about the whole model\n"));
    }
    text
}

/// For programs.
pub fn json_of(partition: &Partition) -> Value {
    let shares = (1..).zip(partition.shares()).map(|(number, share)| {
        let number: u32 = number;
        json!({
            "part": number,
            "first": share.jobs.start,
            "tensors": share.jobs.len(),
            "bytes_read": share.bytes_read + partition.facts_bytes,
            "bytes_written": share.bytes_written,
            "flops": share.flops,
            "shards": share.shards,
            "pieces": share.pieces,
        })
    });
    json!({
        "parts": shares.collect::<Vec<_>>(),
        "bytes_for_facts": partition.facts_bytes,
        "excess": partition.excess(),
    })
}
