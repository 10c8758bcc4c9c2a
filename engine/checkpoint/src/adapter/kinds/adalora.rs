//! AdaLoRA: factors with a number for each direction between them.
//!
//! Zhang et al. 2023, arXiv:2303.10512, equation 3. The scale is α over the count of directions and 1e-5 more, as
//! in peft.

use super::{Fault, Kind, Module};
use crate::adapter::computed::{Along, Effect, Factor, Made, Part, Scaled};

pub(super) const KIND: Kind =
    Kind { peft_type: "ADALORA", tensors: &["lora_A", "lora_B", "lora_E"], shared: &[], make };

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    let (outputs, inputs) = module.sides()?;
    let (right, shape) = module.need("lora_A")?;
    let rank = shape.first().copied().filter(|rank| *rank > 0).unwrap_or(1);
    module.shaped("lora_A", &[rank, inputs])?;
    let left = module.shaped("lora_B", &[outputs, rank])?;
    let between = module.shaped("lora_E", &[rank, 1])?;
    let alpha = module.settings().number("lora_alpha")?.unwrap_or(0.0);
    let alpha = if alpha > 0.0 { alpha } else { rank as f64 };
    let scale = alpha / (rank as f64 + 1e-5);
    let compute = Scaled { stride: inputs, columns: inputs, along: Along::Rows, by: 1.0 };
    let parts = vec![Part::Adapter(right), Part::Adapter(between)];
    let right = Made::new(format!("AdaLoRA, rank {rank}"), &[rank, inputs], parts, compute);
    let (left, right) = (Factor::Stored(left), Factor::Made(right));
    let transposed = module.inputs_first;
    let effect = Effect::Product { left, right, rank, scale, transposed };
    Ok(vec![(module.base_tensor, effect)])
}
