//! Medians of what was measured, as a table and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::measure::Cost;

/// Everything that was measured.
pub struct Report {
    /// One for each method.
    pub rows: Vec<Row>,
    /// Rounds that count.
    pub rounds: usize,
    /// Size of one model.
    pub bytes_per_model: u64,
}

/// One method over all rounds.
pub struct Row {
    /// The method.
    pub name: &'static str,
    /// Models that it reads.
    pub models: usize,
    /// What mergekit took, once.
    pub mergekit: Option<Cost>,
    copies: Vec<f64>,
    merges: Vec<f64>,
    ratios: Vec<f64>,
    peak: u64,
}

impl Row {
    /// A row without measurements.
    pub fn new(name: &'static str, models: usize) -> Self {
        let (copies, merges, ratios) = (Vec::new(), Vec::new(), Vec::new());
        Self { name, models, mergekit: None, copies, merges, ratios, peak: 0 }
    }

    /// Adds one round: a copy, and the merge right after it.
    pub fn add(&mut self, copied: Duration, merged: Cost) {
        let (copied, merged, peak) = (copied.as_secs_f64(), merged.time.as_secs_f64(), merged.peak);
        self.copies.push(copied);
        self.merges.push(merged);
        self.ratios.push(merged / copied);
        self.peak = self.peak.max(peak);
    }
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "models of {:.0} MB, medians of {} rounds (lowest to highest), until durable on disk\n\n",
            self.bytes_per_model as f64 / 1e6,
            self.rounds
        );
        text += "| method | models read | merge, s | copy of the same bytes, s | ratio | peak memory, MB | mergekit, s | mergekit peak, MB |\n";
        text += "| --- | --- | --- | --- | --- | --- | --- | --- |\n";
        for row in &self.rows {
            let (mergekit, its_peak) = match &row.mergekit {
                Some(cost) => (format!("{:.1}", cost.time.as_secs_f64()), megabytes(cost.peak)),
                None => ("-".to_owned(), "-".to_owned()),
            };
            writeln!(
                text,
                "| {} | {} | {} | {} | {:.2} | {} | {mergekit} | {its_peak} |",
                row.name,
                row.models,
                spread(&row.merges),
                spread(&row.copies),
                median(&row.ratios),
                megabytes(row.peak),
            )
            .expect("text can grow");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> String {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "method": row.name,
                    "models": row.models,
                    "merge_seconds": row.merges,
                    "copy_seconds": row.copies,
                    "ratio": median(&row.ratios),
                    "peak_bytes": row.peak,
                    "mergekit_seconds": row.mergekit.map(|cost| cost.time.as_secs_f64()),
                    "mergekit_peak_bytes": row.mergekit.map(|cost| cost.peak),
                })
            })
            .collect();
        let report = json!({
            "rounds": self.rounds,
            "bytes_per_model": self.bytes_per_model,
            "methods": rows,
        });
        format!("{report:#}\n")
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1e6)
}

fn spread(seconds: &[f64]) -> String {
    let lowest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = seconds.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({lowest:.2} to {highest:.2})", median(seconds))
}

/// The middle value; the mean of the two middle ones when their count is even.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), "2.00 (1.00 to 3.00)");
    }

    #[test]
    fn a_ratio_compares_within_a_round() {
        let mut row = Row::new("linear", 4);
        let cost = |seconds| Cost { time: Duration::from_secs(seconds), peak: 5 };
        for (copied, merged) in [(1, 2), (10, 20), (2, 4)] {
            row.add(Duration::from_secs(copied), cost(merged));
        }
        let report = Report { rows: vec![row], rounds: 3, bytes_per_model: 1_000_000 };
        assert!(report.table().contains("| 2.00 |"), "{}", report.table());
    }
}
