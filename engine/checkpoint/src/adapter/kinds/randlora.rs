//! RandLoRA: sums of random products of low rank that together have full rank, with trained diagonals.
//!
//! Albert et al. 2025, arXiv:2502.00987, equation 4. Which direction of one factor meets which of the other is
//! as in peft, whose two factors count bases and directions in different orders.

use super::{Fault, Kind, Module};
use crate::adapter::computed::{Along, ByRows, Effect, Factor, Made, Part, Scaled};
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind = Kind {
    peft_type: "RANDLORA",
    tensors: &["randlora_lambda", "randlora_gamma", "randlora_A", "randlora_B"],
    shared: &["randlora_A", "randlora_B"],
    make,
};

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    let (outputs, inputs) = module.sides()?;
    let (shorter, longer) = (outputs.min(inputs), outputs.max(inputs));
    let (a, a_shape) = module.shared("randlora_A")?;
    let (b, b_shape) = module.shared("randlora_B")?;
    let (&[rank, 1, widest], &[tallest, most, b_rank]) = (a_shape, b_shape) else {
        return Err(Fault::new("the projections of `{}` do not have three dimensions")
            .fact("randlora_A", format!("{a_shape:?}"))
            .fact("randlora_B", format!("{b_shape:?}")));
    };
    if rank == 0 || b_rank != rank || widest < shorter || tallest < longer {
        return Err(Fault::new("the projections of `{}` are smaller than its tensor in the base")
            .fact("randlora_A", format!("{a_shape:?}"))
            .fact("randlora_B", format!("{b_shape:?}"))
            .fact("base", module.target.shape.to_string()));
    }
    let bases = shorter.div_ceil(rank);
    if most < bases {
        return Err(Fault::new("the projections of `{}` have fewer bases than its tensor needs")
            .fact("found", most.to_string())
            .fact("expected", bases.to_string()));
    }
    let lambda = module.shaped("randlora_lambda", &[rank, bases])?;
    let gamma = module.shaped("randlora_gamma", &[bases, shorter])?;
    let directions = rank * bases;
    let compute =
        Scaled { stride: most * rank, columns: directions, along: Along::Nothing, by: 1.0 };
    let scheme = format!("RandLoRA, rank {rank}, {bases} bases");
    let parts = vec![Part::Adapter(b)];
    let left = Made::new(scheme.clone(), &[longer, directions], parts, compute);
    let compute = Trained { bases, widest, columns: shorter };
    let parts = [a, lambda, gamma].map(Part::Adapter).to_vec();
    let right = Made::new(scheme, &[directions, shorter], parts, compute);
    let scale = module.scale(rank, "randlora_alpha")?;
    // The trained factor is on the shorter side, whichever that is.
    let transposed = (shorter != inputs) != module.inputs_first;
    let (left, right) = (Factor::Made(left), Factor::Made(right));
    let effect = Effect::Product { left, right, rank: directions, scale, transposed };
    Ok(vec![(module.base_tensor, effect)])
}

/// λ[k, n] · A[k, j] · γ[n, j] in row k · bases + n.
#[derive(Debug)]
struct Trained {
    bases: u64,
    widest: u64,
    columns: u64,
}

impl ByRows for Trained {
    const HELD: &[usize] = &[1, 2];

    fn held_bytes(&self) -> u64 {
        // λ has as many numbers as the shorter side, about.
        (self.bases + 1) * self.columns * 4
    }

    fn columns(&self) -> u64 {
        self.columns
    }

    fn row(
        &self,
        held: &Held,
        parts: &Reader<'_>,
        [row, column]: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        let [lambda, gamma] = &held.numbers[..] else { return Ok(()) };
        let (k, n) = (row / self.bases, row % self.bases);
        parts.floats(0, k * self.widest + column, own)?;
        let factor = lambda[row as usize];
        let of_base = &gamma[(n * self.columns + column) as usize..];
        own.iter_mut().zip(of_base).for_each(|(value, gamma)| *value *= factor * gamma);
        Ok(())
    }
}
