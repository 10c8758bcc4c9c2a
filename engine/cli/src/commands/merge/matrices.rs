//! What matrix ops tell, in a line.

use mixdown_exec::MatrixReport;
use mixdown_session::quantity;

/// A line for people; none where no matrix op ran.
pub fn line(reports: &[MatrixReport]) -> Option<String> {
    if reports.is_empty() {
        return None;
    }
    let stored = reports.iter().filter(|found| found.from_store).count();
    let mut text = format!("{} of matrix ops", quantity::count(reports.len(), "result"));
    if stored > 0 {
        text.push_str(&format!(", {stored} from the store"));
    }
    // What a truncation cuts off is no objective.
    let with_loss = reports.iter().filter(|found| found.op != "truncated_svd");
    let losses: Vec<(f64, f64)> = with_loss.filter_map(|found| found.report.loss).collect();
    if !losses.is_empty() {
        let (start, end) = losses.iter().fold((0.0, 0.0), |(a, b), (s, e)| (a + s, b + e));
        text.push_str(&format!("; loss {start:.6e} before, {end:.6e} after"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use mixdown_ops::matrix::Report;

    use super::*;

    #[test]
    fn losses_are_added() {
        let found = || MatrixReport {
            tensor: "a".to_owned(),
            op: "interference".into(),
            report: Report { loss: Some((2.0, 0.5)), ..Report::default() },
            from_store: false,
        };
        let line = line(&[found(), found()]).unwrap();
        assert!(line.contains("loss 4.000000e0 before, 1.000000e0 after"), "{line}");
    }
}
