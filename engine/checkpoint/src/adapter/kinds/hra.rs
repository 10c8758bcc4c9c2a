//! HRA: the inputs of a layer are reflected in hyperplanes, one after another.
//!
//! Yuan et al. 2024, arXiv:2405.17484, equation 4. W becomes W · Π (I − 2uuᵀ) over the unit vectors u; with
//! `apply_GS` these are made orthogonal first.

use super::{Fault, Kind, Module};
use crate::adapter::computed::{ByRows, Effect, Part};
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind = Kind { peft_type: "HRA", tensors: &["hra_u"], shared: &[], make };

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    module.outputs_first()?;
    let (_, columns) = module.matrix()?;
    let (at, shape) = module.need("hra_u")?;
    let rank = shape.get(1).copied().filter(|rank| *rank > 0).unwrap_or(1);
    module.shaped("hra_u", &[columns, rank])?;
    let is_orthogonal = module.settings().flag("apply_GS")?;
    let compute = Hra { columns, rank, is_orthogonal };
    let parts = vec![Part::Adapter(at), module.base_part()?];
    let scheme = format!("HRA, {rank} reflections");
    Ok(module.becomes(scheme, parts, compute))
}

#[derive(Debug)]
struct Hra {
    columns: u64,
    rank: u64,
    is_orthogonal: bool,
}

impl ByRows for Hra {
    fn held_bytes(&self) -> u64 {
        self.columns * self.rank * 4
    }

    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        let (stored, rank) = (parts.all(0)?, self.rank as usize);
        let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(rank);
        for at in 0..rank {
            let own = stored.iter().skip(at).step_by(rank).map(|&value| f64::from(value));
            let mut own: Vec<f64> = own.collect();
            if self.is_orthogonal {
                for other in &vectors {
                    let along: f64 = own.iter().zip(other).map(|(a, b)| a * b).sum();
                    own.iter_mut().zip(other).for_each(|(own, other)| *own -= along * other);
                }
            }
            let norm = own.iter().map(|value| value * value).sum::<f64>().sqrt();
            own.iter_mut().for_each(|value| *value /= norm);
            vectors.push(own);
        }
        let flat = vectors.into_iter().flatten().map(|value| value as f32).collect();
        Ok(Held { numbers: vec![flat], counts: Vec::new() })
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
        let mut weights = vec![0.0; self.columns as usize];
        parts.floats(1, row * self.columns, &mut weights)?;
        for vector in held.numbers[0].chunks_exact(self.columns as usize) {
            let along: f32 = weights.iter().zip(vector).map(|(a, b)| a * b).sum();
            weights.iter_mut().zip(vector).for_each(|(weight, u)| *weight -= 2.0 * along * u);
        }
        own.copy_from_slice(&weights[column as usize..][..own.len()]);
        Ok(())
    }
}
