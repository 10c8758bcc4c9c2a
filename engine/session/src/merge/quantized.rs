//! What writing in fewer bits did to tensors, and to the merged update.

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::QuantizeLoss;
use serde_json::{Value, json};

use super::losses::percent;

/// Of the update's norm: above it a warning is given.
const MOST_LOST: f64 = 1.0 / 3.0;

/// Tensors named in the warning.
const MOST_NAMED: usize = 3;

/// For programs: each tensor's error, relative to it and to the update.
pub fn json(losses: &[QuantizeLoss]) -> Value {
    let tensor = |one: &QuantizeLoss| {
        json!({
            "tensor": one.tensor,
            "form": one.form,
            "relative": one.relative(),
            "of_update": one.of_update(),
        })
    };
    json!({
        "relative": relative(losses),
        "of_update": of_update(losses),
        "tensors": losses.iter().map(tensor).collect::<Vec<_>>(),
    })
}

/// ‖stored − exact‖ / ‖exact‖ of all tensors together.
fn relative(losses: &[QuantizeLoss]) -> Option<f64> {
    let lost: f64 = losses.iter().map(|one| one.lost).sum();
    let exact: f64 = losses.iter().map(|one| one.exact).sum();
    (exact > 0.0).then(|| (lost / exact).sqrt())
}

/// ‖stored − exact‖ / ‖update‖ of all tensors that have one.
fn of_update(losses: &[QuantizeLoss]) -> Option<f64> {
    let updated = || losses.iter().filter(|one| one.of_update().is_some());
    let lost: f64 = updated().map(|one| one.lost).sum();
    let update: f64 = updated().filter_map(|one| one.update).sum();
    (update > 0.0).then(|| (lost / update).sqrt())
}

/// A line for people; none where nothing was quantized.
pub fn line(losses: &[QuantizeLoss]) -> Option<String> {
    let relative = relative(losses)?;
    let of_update = of_update(losses)
        .map(|share| format!(", {} of the merged update", percent(share)))
        .unwrap_or_default();
    let count = crate::quantity::count(losses.len(), "quantized tensor");
    Some(format!("{count}: an error of {} of the weights{of_update}", percent(relative)))
}

/// A warning where much of the update is lost.
pub fn warning(losses: &[QuantizeLoss]) -> Option<Diagnostic> {
    let mut worst: Vec<(f64, &QuantizeLoss)> =
        losses.iter().filter_map(|one| Some((one.of_update()?, one))).collect();
    worst.retain(|(share, _)| *share > MOST_LOST);
    worst.sort_by(|a, b| b.0.total_cmp(&a.0));
    worst.first()?;
    let headline = format!(
        "quantizing loses more than a third of the merged update in {}",
        crate::quantity::count(worst.len(), "tensor")
    );
    let mut warning = Diagnostic::warning(codes::QUANTIZING_LOSES, headline);
    for (share, one) in worst.iter().take(MOST_NAMED) {
        warning = warning.fact(one.tensor.clone(), format!("{}, {}", percent(*share), one.form));
    }
    if let Some(whole) = of_update(losses) {
        warning = warning.note(format!("of all updates together {} is lost", percent(whole)));
    }
    Some(warning.help("choose a form of more bits, or smaller groups, for these tensors with a rule of `quantize`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(lost: f64, update: Option<f64>) -> QuantizeLoss {
        let (tensor, form) = ("a".to_owned(), "fp8".to_owned());
        QuantizeLoss { tensor, form, lost, exact: 100.0, update }
    }

    #[test]
    fn shares_are_those_of_norms() {
        let all = [loss(1.0, Some(4.0)), loss(3.0, None)];
        assert_eq!(all[0].of_update(), Some(0.5));
        assert_eq!((all[0].relative(), relative(&all)), (0.1, Some(0.02_f64.sqrt())));
        assert_eq!(of_update(&all), Some(0.5));
        assert_eq!(warning(&all).unwrap().facts.len(), 1);
        assert!(
            warning(&[loss(1.0, Some(9.5))]).is_none()
                && warning(&[loss(1.0, Some(0.0))]).is_none()
        );
        let told = line(&all).unwrap();
        assert_eq!(
            told,
            "2 quantized tensors: an error of 14 % of the weights, 50 % of the merged update"
        );
        assert_eq!(line(&[]), None);
    }
}
