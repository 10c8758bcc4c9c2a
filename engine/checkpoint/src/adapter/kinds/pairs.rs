//! A matrix as two factors, or as the core and two sides of a convolution's Tucker form.

use super::{Fault, Module};
use crate::adapter::computed::Part;
use crate::encoding::Reader;
use crate::source::ReadError;

/// Where the factors of a matrix are among the parts of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    a: usize,
    b: usize,
    core: Option<usize>,
    pub rank: u64,
    pub rows: u64,
    pub columns: u64,
}

impl Pair {
    /// Finds `a` and `b`, and `core` where it is there, for a matrix of so many rows; its columns are what `b`
    /// says. Adds them to the parts.
    pub fn find(
        module: &Module<'_>,
        [a, b, core]: [&str; 3],
        parts: &mut Vec<Part>,
    ) -> Result<Self, Fault> {
        let (a_at, a_shape) = module.need(a)?;
        let (b_at, b_shape) = module.need(b)?;
        let ([first, second], [b_rank, inputs]) = (a_shape, b_shape) else {
            return Err(module.misshapen(a, &[0, 0]));
        };
        let start = parts.len();
        parts.extend([Part::Adapter(a_at), Part::Adapter(b_at)]);
        let (mut core_part, mut columns) = (None, *inputs);
        let (rank, rows) = match module.get(core) {
            None => (*second, *first),
            Some(at) => {
                let (_, shape) = module.need(core)?;
                let [outer, inner, kernel @ ..] = shape else {
                    return Err(module.misshapen(core, &[*first, *first]));
                };
                if outer != first || inner != b_rank {
                    return Err(module.misshapen(core, &[*first, *b_rank]));
                }
                parts.push(Part::Adapter(at));
                core_part = Some(start + 2);
                columns = columns.saturating_mul(kernel.iter().product());
                (*first, *second)
            }
        };
        if rank == 0 || *b_rank != rank {
            return Err(module.misshapen(b, &[rank, *inputs]));
        }
        Ok(Self { a: start, b: start + 1, core: core_part, rank, rows, columns })
    }

    /// Bytes of both factors.
    pub fn bytes(&self) -> u64 {
        (self.rows + self.columns).saturating_mul(self.rank).saturating_mul(4)
    }

    /// The factors, [rows, rank] and [rank, columns].
    pub fn read(&self, parts: &Reader<'_>) -> Result<[Vec<f32>; 2], ReadError> {
        let (a, b) = (parts.all(self.a)?, parts.all(self.b)?);
        let Some(core) = self.core else { return Ok([a, b]) };
        let core = parts.all(core)?;
        let (rank, rows, columns) = (self.rank as usize, self.rows as usize, self.columns as usize);
        let inputs = b.len() / rank;
        let kernel = columns / inputs.max(1);
        let mut left = vec![0.0; a.len()];
        for direction in 0..rank {
            for row in 0..rows {
                left[row * rank + direction] = a[direction * rows + row];
            }
        }
        // right[i, (q, k)] = Σ_j core[i, j, k] · b[j, q].
        let mut right = vec![0.0_f32; rank * columns];
        for i in 0..rank {
            for j in 0..rank {
                let of_core = &core[(i * rank + j) * kernel..][..kernel];
                for q in 0..inputs {
                    let factor = b[j * inputs + q];
                    let own = &mut right[i * columns + q * kernel..][..kernel];
                    own.iter_mut().zip(of_core).for_each(|(sum, value)| *sum += factor * value);
                }
            }
        }
        Ok([left, right])
    }
}
