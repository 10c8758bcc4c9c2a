//! The angles of positions, as older and newer configs state them.

use serde_json::Value;

use super::Reader;
use crate::rope::{Rope, Scaling};

impl Reader<'_> {
    pub(super) fn rope(&mut self, head: usize, positions: Option<usize>) -> Option<Rope> {
        let scaling = self.get("rope_parameters").or_else(|| self.get("rope_scaling")).cloned();
        let scaling = scaling.unwrap_or(Value::Null);
        let number = |key: &str| scaling.get(key).and_then(Value::as_f64);
        let theta = number("rope_theta")
            .or_else(|| self.get("rope_theta").and_then(Value::as_f64))
            .unwrap_or(10000.0);
        let part = number("partial_rotary_factor")
            .or_else(|| self.get("partial_rotary_factor").and_then(Value::as_f64));
        if let Some(part) = part.filter(|&part| part != 1.0) {
            self.unsupported("partial_rotary_factor", &part.to_string(), "1");
        }
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
        let kind = kind.and_then(Value::as_str).unwrap_or("default");
        let positions = positions.map(|positions| positions as f64);
        // Where both are said, the one beside the other parameters of the model comes first.
        let length = self.get("original_max_position_embeddings").and_then(Value::as_f64);
        let length = length.or_else(|| number("original_max_position_embeddings")).or(positions);
        let factor = number("factor");
        let found = match kind {
            "default" => Some(Scaling::None),
            "linear" => factor.map(|factor| Scaling::Linear { factor }),
            "dynamic" => {
                factor.zip(positions).map(|(factor, length)| Scaling::Dynamic { factor, length })
            }
            "yarn" => (|| {
                let length = length?;
                // Without a factor it is how much longer texts may be than those of the training.
                let factor = factor.or_else(|| Some(positions? / length))?;
                let attention = number("attention_factor").unwrap_or_else(|| {
                    match (number("mscale"), number("mscale_all_dim")) {
                        (Some(one), Some(all)) if one != 0.0 && all != 0.0 => {
                            temperature(factor, one) / temperature(factor, all)
                        }
                        _ => temperature(factor, 1.0),
                    }
                });
                let or = |key: &str, default: f64| {
                    number(key).filter(|&value| value != 0.0).unwrap_or(default)
                };
                let is_whole = scaling.get("truncate").and_then(Value::as_bool).unwrap_or(true);
                let (fast, slow) = (or("beta_fast", 32.0), or("beta_slow", 1.0));
                Some(Scaling::Yarn { factor, fast, slow, length, attention, is_whole })
            })(),
            "llama3" => (|| {
                Some(Scaling::Llama3 {
                    factor: factor?,
                    low: number("low_freq_factor")?,
                    high: number("high_freq_factor")?,
                    length: length?,
                })
            })(),
            other => {
                let known = "default, linear, dynamic, yarn or llama3";
                self.unsupported("rope_type", other, known);
                return None;
            }
        };
        let is_sound = |number: f64| number.is_finite() && number > 0.0;
        if found.is_none() {
            self.broken(format!("the angles of type `{kind}` lack a number"), &[]);
        } else if [Some(theta), factor, length].into_iter().flatten().any(|n| !is_sound(n)) {
            self.broken(
                format!("the angles of type `{kind}` have a number that is not above 0"),
                &[],
            );
            return None;
        }
        Some(Rope::new(head, theta, found?))
    }
}

/// How much larger scores become where texts are stretched: Peng et al. 2023, arXiv:2309.00071,
/// equation 22, with a weight for the logarithm.
fn temperature(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * libm::log(factor) + 1.0 }
}
