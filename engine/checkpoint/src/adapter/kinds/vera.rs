//! VeRA: one pair of random factors for all layers, of which each layer scales the directions and the outputs.
//!
//! Kopiczko et al. 2024, arXiv:2310.11454, equation 2.

use super::{Fault, Kind, Module};
use crate::adapter::computed::{Along, Effect, Factor, Made, Part, Scaled};

pub(super) const KIND: Kind = Kind {
    peft_type: "VERA",
    tensors: &["vera_lambda_b", "vera_lambda_d"],
    shared: &["vera_A", "vera_B"],
    make,
};

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    let (outputs, inputs) = module.sides()?;
    let (a, a_shape) = module.shared("vera_A")?;
    let (b, b_shape) = module.shared("vera_B")?;
    let (&[rank, widest], &[tallest, b_rank]) = (a_shape, b_shape) else {
        return Err(Fault::new("the projections of `{}` are no matrices"));
    };
    if rank == 0 || b_rank != rank || widest < inputs || tallest < outputs {
        return Err(Fault::new("the projections of `{}` are smaller than its tensor in the base")
            .fact("vera_A", format!("[{rank}, {widest}]"))
            .fact("vera_B", format!("[{tallest}, {b_rank}]"))
            .fact("base", module.target.shape.to_string()));
    }
    let of_outputs = module.shaped("vera_lambda_b", &[outputs])?;
    let of_directions = module.shaped("vera_lambda_d", &[rank])?;
    let factor = |parts: [u32; 2], shape: [u64; 2], stride| {
        let along = Along::Rows;
        let compute = Scaled { stride, columns: shape[1], along, by: 1.0 };
        let parts = parts.map(Part::Adapter).to_vec();
        Factor::Made(Made::new(format!("VeRA, rank {rank}"), &shape, parts, compute))
    };
    let left = factor([b, of_outputs], [outputs, rank], rank);
    let right = factor([a, of_directions], [rank, inputs], widest);
    let transposed = module.inputs_first;
    let effect = Effect::Product { left, right, rank, scale: 1.0, transposed };
    Ok(vec![(module.base_tensor, effect)])
}
