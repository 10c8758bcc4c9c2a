//! What matrix ops tell: losses, ranks and gaps, tensor by tensor.

use std::collections::BTreeMap;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::MatrixReport;
use mixdown_ops::matrix::Noise;
use serde_json::{Value, json};

use crate::quantity;

/// Below this relative gap of singular values a truncated matrix is not a function of its input in
/// practice: rounding decides which directions are kept.
const SMALLEST_GAP: f64 = 1e-6;

/// Tensors named in one warning.
const MOST_NAMED: usize = 5;

/// Everything that is told, for programs. Losses are those of the objective at its start and end.
pub fn json(reports: &[MatrixReport]) -> Value {
    reports
        .iter()
        .map(|found| {
            json!({
                "tensor": found.tensor,
                "op": found.op,
                "loss_start": found.report.loss.map(|(start, _)| start),
                "loss_end": found.report.loss.map(|(_, end)| end),
                "norm": found.report.norm,
                "ranks": found.report.ranks,
                "gap": found.report.gap,
                "curve": found.report.curve.iter().map(|point| json!([point.step, point.loss, point.norm])).collect::<Value>(),
                "noise": found.report.noise.iter().map(|noise| json!({
                    "floor": noise.floor,
                    "rank": noise.rank,
                    "ratio": noise.ratio,
                })).collect::<Value>(),
                "notes": found.report.notes,
                "from_store": found.from_store,
            })
        })
        .collect()
}

/// What a user should know of them.
pub fn warnings(reports: &[MatrixReport]) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    let narrow: Vec<&MatrixReport> = reports
        .iter()
        .filter(|found| found.report.gap.is_some_and(|gap| gap < SMALLEST_GAP))
        .collect();
    if !narrow.is_empty() {
        let headline = format!(
            "a truncation cuts through nearly equal singular values in {}",
            quantity::count(narrow.len(), "tensor")
        );
        let mut warning = Diagnostic::warning(codes::SPECTRAL_GAP, headline);
        for found in narrow.iter().take(MOST_NAMED) {
            let gap = found.report.gap.unwrap_or_default();
            warning = warning.fact(found.tensor.clone(), format!("relative gap {gap:.1e}"));
        }
        warnings.push(
            warning
                .note("which directions are kept is decided by rounding there")
                .help("choose another `rank`, or `snap: \"yes\"` to move the cut to a gap"),
        );
    }
    warnings.extend(recovered(reports));
    let mut notes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for found in reports {
        for note in &found.report.notes {
            notes.entry(note).or_default().push(&found.tensor);
        }
    }
    for (note, tensors) in notes {
        let headline = format!("{note}, in {}", quantity::count(tensors.len(), "tensor"));
        let mut warning = Diagnostic::warning(codes::OP_NOTE, headline);
        for tensor in tensors.iter().take(MOST_NAMED) {
            warning = warning.fact("tensor", *tensor);
        }
        warnings.push(warning);
    }
    warnings
}

/// Tells where rounding for storage was left out, which changes the result.
fn recovered(reports: &[MatrixReport]) -> Option<Diagnostic> {
    let is_recovered =
        |found: &&MatrixReport| found.report.noise.iter().any(|noise| noise.rank.is_some());
    let found: Vec<&MatrixReport> = reports.iter().filter(is_recovered).collect();
    if found.is_empty() {
        return None;
    }
    let headline = format!(
        "experts are updates of low rank that were stored as whole weights, in {}",
        quantity::count(found.len(), "tensor")
    );
    let mut warning = Diagnostic::warning(codes::NOISE_LEFT_OUT, headline);
    for one in found.iter().take(MOST_NAMED) {
        let rank = |noise: &Noise| noise.rank.map_or("all".to_owned(), |rank| rank.to_string());
        let ranks: Vec<String> = one.report.noise.iter().map(rank).collect();
        warning = warning.fact(one.tensor.clone(), format!("ranks {}", ranks.join(", ")));
    }
    let told = "their rounding, whose size the stored types tell, is left out of the merge";
    Some(warning.note(told).help("`noise: keep` merges what is stored, rounding included"))
}

#[cfg(test)]
mod tests {
    use mixdown_ops::matrix::Report;

    use super::*;

    fn found(tensor: &str, gap: f64, notes: &[&str]) -> MatrixReport {
        let notes = notes.iter().map(|&note| note.to_owned()).collect();
        let report = Report { loss: Some((2.0, 0.5)), gap: Some(gap), notes, ..Report::default() };
        MatrixReport {
            tensor: tensor.to_owned(),
            op: "interference".into(),
            report,
            from_store: false,
        }
    }

    #[test]
    fn narrow_gaps_and_notes_are_told_once() {
        let reports = [
            found("a", 1e-9, &["a zero expert was left out"]),
            found("b", 1e-3, &["a zero expert was left out"]),
        ];
        let told = warnings(&reports);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].headline.ends_with("in 1 tensor"), "{}", told[0].headline);
        assert!(told[1].headline.ends_with("in 2 tensors"), "{}", told[1].headline);
        assert!(warnings(&reports[1..]).len() == 1);
    }
}
