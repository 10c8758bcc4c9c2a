//! How near the updates of an adapter are, for people and for programs.

use mixdown_session::merge::adapter::Update;
use mixdown_session::quantity;
use serde_json::{Value, json};

use crate::table::{Align, Table};

/// All of them, for people.
pub fn table(updates: &[Update]) -> String {
    let columns = [("tensor", Align::Left), ("rank", Align::Right), ("error", Align::Right)];
    let mut table = Table::new(&columns);
    for Update { tensor, rank, error } in updates {
        let rank = rank.map_or_else(|| "whole".to_owned(), |rank| rank.to_string());
        table.row([tensor.clone(), rank, shown(*error)]);
    }
    table.text("")
}

/// All of them, for programs.
pub fn json(updates: &[Update]) -> Value {
    updates
        .iter()
        .map(|Update { tensor, rank, error }| json!({"tensor": tensor, "rank": rank, "error": error}))
        .collect()
}

/// A line for people.
pub fn line(updates: &[Update]) -> String {
    let products = updates.iter().filter(|update| update.rank.is_some()).count();
    let mut text = format!("an adapter of {}", quantity::count(products, "update"));
    if products < updates.len() {
        let whole = quantity::count(updates.len() - products, "tensor");
        text.push_str(&format!(", and {whole} stored whole"));
    }
    let worst = updates.iter().filter(|update| update.error.is_some_and(|error| error > 0.0));
    match worst.max_by(|a, b| a.error.unwrap_or(0.0).total_cmp(&b.error.unwrap_or(0.0))) {
        Some(worst) => text.push_str(&format!(
            "; the largest relative error is {}, of `{}`",
            shown(worst.error),
            worst.tensor
        )),
        None if updates.iter().all(|update| update.error.is_some()) => {
            text.push_str("; all of them exact");
        }
        None => {}
    }
    text
}

fn shown(error: Option<f64>) -> String {
    match error {
        None => "-".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(error) => format!("{error:.3e}"),
    }
}
