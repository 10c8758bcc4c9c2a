//! Adapters of mlx_lm: `lora_a` [in, rank] and `lora_b` [rank, out], which are applied in this order, so that the
//! transpose of their product is added; one scale for all, which is a plain factor.

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::{Map, Value};

use super::{Dialect, Meaning};
use crate::shown::shown;

pub(super) const DIALECT: Dialect = Dialect {
    program: "mlx_lm",
    separator: '.',
    groups: &[],
    is_turned: true,
    is_own: |name| name.ends_with(".lora_a") || name.ends_with(".lora_b"),
    meaning,
};

/// The transpose of (a · b) is added: what is multiplied from the left is `lora_a`.
fn meaning(name: &str) -> Meaning {
    let of = |end: &str| name.strip_suffix(end);
    let is_stack = name.split('.').any(|part| part == "switch_mlp");
    match (of(".lora_a"), of(".lora_b"), of(".m")) {
        (Some(_), _, _) | (_, Some(_), _) if is_stack => {
            Meaning::Unknown("updates of stacks of experts (`switch_mlp`)")
        }
        (Some(module), _, _) => Meaning::Tensor(format!("{module}.lora_B.weight")),
        (_, Some(module), _) => Meaning::Tensor(format!("{module}.lora_A.weight")),
        (_, _, Some(module)) => Meaning::Tensor(format!("{module}.lora_magnitude_vector")),
        _ => Meaning::Tensor(name.to_owned()),
    }
}

/// The factor on all products; 1 where whole weights were trained.
///
/// **Errors.** A scale that is none, or that versions of mlx_lm read differently.
pub(super) fn scale(name: &str, text: &str) -> Result<f64, Vec<Diagnostic>> {
    let fault = |headline: String| Diagnostic::error(codes::ADAPTER_CONFIG, headline).in_file(name);
    let config: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| vec![fault(format!("an adapter's configuration is not JSON: {error}"))])?;
    if config.get("fine_tune_type").and_then(Value::as_str) == Some("full") {
        return Ok(1.0);
    }
    let parameters = config.get("lora_parameters");
    let get = |key: &str| parameters.and_then(|own| own.get(key));
    let usable = |value: &Value| value.as_f64().filter(|one| one.is_finite() && *one != 0.0);
    let Some(scale) = get("scale") else {
        let headline = "an adapter's configuration has no `lora_parameters.scale`".to_owned();
        let help = "write the `scale` that the adapter was trained with; it is a plain factor";
        return Err(vec![fault(headline).help(help)]);
    };
    let Some(scale) = usable(scale) else {
        let found = scale.to_string();
        let headline =
            format!("`lora_parameters.scale` must be finite and not 0, found {}", shown(&found));
        return Err(vec![fault(headline)]);
    };
    // Early versions multiplied by α / r, later ones left the key in the file and did not.
    match (get("alpha").and_then(usable), get("rank").and_then(usable)) {
        (Some(alpha), rank) if rank != Some(alpha) => {
            let headline = "`lora_parameters` has `alpha` beside `scale`".to_owned();
            let note = "early versions of mlx_lm scaled by scale · alpha / rank, later ones by scale alone";
            let help =
                "remove `alpha`, and write as `scale` the factor that the adapter was trained with";
            Err(vec![fault(headline).note(note).help(help)])
        }
        _ => Ok(scale),
    }
}
