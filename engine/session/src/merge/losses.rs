//! What rounding to the type of the output did to the merged update.

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::StorageLoss;
use mixdown_recipe::Recipe;
use mixdown_recipe::recipe::Form;
use mixdown_tensor::DType;
use serde_json::{Value, json};

/// Of the update's norm: above it a warning is given.
const MOST_LOST: f64 = 0.1;

/// Tensors named in the warning.
const MOST_NAMED: usize = 3;

/// The largest number of float16.
const LARGEST_F16: f64 = 65504.0;

/// For programs: the share of the whole, and of each tensor.
pub fn json(losses: &[StorageLoss]) -> Value {
    let tensor = |one: &StorageLoss| json!({"tensor": one.tensor, "dtype": one.dtype.name(), "lost": one.share()});
    json!({
        "whole": StorageLoss::of_all(losses),
        "tensors": losses.iter().map(tensor).collect::<Vec<_>>(),
    })
}

/// A line for people; none where there is no update to lose of.
pub fn line(losses: &[StorageLoss]) -> Option<String> {
    let whole = StorageLoss::of_all(losses)?;
    Some(format!("rounding loses {} of the merged update", percent(whole)))
}

/// A warning where much of the update is lost.
pub fn warning(losses: &[StorageLoss], recipe: &Recipe) -> Option<Diagnostic> {
    // mergekit gives results the type of `dtype` before that of the output.
    let key = match (recipe.form, &recipe.out_dtype) {
        (Form::Mergekit, None) => "dtype",
        _ => "out_dtype",
    };
    warning_with(losses, key)
}

/// The same where nothing but what parts left is known.
pub fn warning_of_parts(losses: &[StorageLoss]) -> Option<Diagnostic> {
    warning_with(losses, "out_dtype")
}

fn warning_with(losses: &[StorageLoss], key: &str) -> Option<Diagnostic> {
    let whole = StorageLoss::of_all(losses).filter(|&whole| whole > MOST_LOST)?;
    let headline =
        format!("{} of the merged update is lost when it is rounded for storage", percent(whole));
    let mut worst: Vec<&StorageLoss> = losses.iter().collect();
    worst.sort_by(|a, b| b.share().total_cmp(&a.share()));
    let mut warning = Diagnostic::warning(codes::LOST_IN_STORAGE, headline);
    for one in worst.into_iter().take(MOST_NAMED) {
        let lost = format!("{}, {}", percent(one.share()), one.dtype.torch_name());
        warning = warning.fact(one.tensor.clone(), lost);
    }
    let largest = losses.iter().map(|one| one.largest).fold(0.0, f64::max);
    let is_bf16 = losses.iter().any(|one| one.dtype == DType::Bf16);
    let adapter = "where the update is of a low rank, `output: {as: adapter}` beside `mixdown: 1`";
    Some(match is_bf16 && largest < LARGEST_F16 {
        true => warning
            .note(format!("the largest weight is {largest:.3}, which float16 holds"))
            .help(format!("`{key}: float16` is eight times as fine; or {adapter}")),
        false => warning.help(format!("`{key}: float32`; or {adapter}")),
    })
}

/// A share in words.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        small if small < 0.1 => format!("{small:.1e} %"),
        share if share < 10.0 => format!("{share:.1} %"),
        share => format!("{share:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_norms() {
        let loss = |lost, update| StorageLoss {
            tensor: "a".to_owned(),
            dtype: DType::Bf16,
            lost,
            update,
            largest: 1.0,
        };
        assert_eq!(loss(1.0, 4.0).share(), 0.5);
        assert_eq!(loss(1.0, 0.0).share(), 0.0);
        assert_eq!(StorageLoss::of_all(&[loss(1.0, 2.0), loss(0.0, 2.0)]), Some(0.5));
        assert_eq!(StorageLoss::of_all(&[loss(0.0, 0.0)]), None);
        for (share, text) in [(0.5, "50 %"), (0.025, "2.5 %"), (0.0005, "5.0e-2 %")] {
            assert_eq!(percent(share), text);
        }
    }
}
