//! BOFT: the inputs of a layer are turned by a product of block-diagonal matrices that reach ever farther, and
//! its outputs scaled.
//!
//! Liu et al. 2024, arXiv:2311.06243, equation 6.

use super::orthogonal::{cayley, turned_by_blocks};
use super::{Fault, Kind, Module};
use crate::adapter::computed::{ByRows, Effect, Part};
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind =
    Kind { peft_type: "BOFT", tensors: &["boft_R", "boft_s"], shared: &[], make };

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    module.outputs_first()?;
    let (rows, columns) = module.matrix()?;
    let (at, shape) = module.need("boft_R")?;
    let &[factors, blocks, size, other] = shape else {
        return Err(module.misshapen("boft_R", &[1, 0, 0, 0]));
    };
    let fits = size == other && blocks.checked_mul(size) == Some(columns) && factors > 0;
    // Each further factor joins pairs of the halves of blocks.
    let reach = u32::try_from(factors - factors.min(1)).ok().and_then(|by| 2_u64.checked_pow(by));
    let reaches = factors == 1 || (size % 2 == 0 && reach.is_some_and(|reach| blocks % reach == 0));
    if !fits || !reaches {
        return Err(module.misshapen("boft_R", &[factors, columns / size.max(1), size, size]));
    }
    let (scales, found) = module.need("boft_s")?;
    if found.iter().product::<u64>() != rows {
        return Err(module.misshapen("boft_s", &[rows, 1]));
    }
    let compute = Boft { factors, blocks, size, rows };
    let parts = vec![Part::Adapter(at), module.base_part()?, Part::Adapter(scales)];
    let scheme = format!("BOFT, {factors} factors, blocks of {size}");
    Ok(module.becomes(scheme, parts, compute))
}

#[derive(Debug)]
struct Boft {
    factors: u64,
    blocks: u64,
    size: u64,
    rows: u64,
}

impl Boft {
    /// Which element goes to each place before the blocks of a factor turn them, and back after.
    fn order(&self, factor: u64) -> Vec<usize> {
        let columns = self.columns() as usize;
        if self.factors == 1 {
            return (0..columns).collect();
        }
        let half = (self.size / 2) as usize;
        let group = columns / (self.blocks >> factor) as usize;
        let steps = group / half;
        // Of the halves in a group, first every other one from the first on, then the rest.
        let halves: Vec<usize> = (0..steps).step_by(2).chain((1..steps).step_by(2)).collect();
        let within = halves.iter().flat_map(|start| (0..half).map(move |at| start * half + at));
        let within: Vec<usize> = within.collect();
        (0..columns / group)
            .flat_map(|number| within.iter().map(move |at| number * group + at))
            .collect()
    }
}

impl ByRows for Boft {
    fn held_bytes(&self) -> u64 {
        (self.factors * self.columns() * (self.size + 2) + self.rows) * 4
    }

    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        let (stored, size) = (parts.all(0)?, self.size as usize);
        let mut turns = Vec::with_capacity(stored.len());
        for block in stored.chunks_exact(size * size) {
            let of = |row: usize, column: usize| f64::from(block[row * size + column]);
            let skew: Vec<f64> = (0..size * size)
                .map(|at| 0.5 * (of(at / size, at % size) - of(at % size, at / size)))
                .collect();
            turns.extend(cayley(&skew, size).into_iter().map(|value| value as f32));
        }
        let counts = match self.factors {
            1 => Vec::new(),
            factors => {
                (0..factors).flat_map(|factor| self.order(factor)).map(|at| at as u64).collect()
            }
        };
        Ok(Held { numbers: vec![turns, parts.all(2)?], counts })
    }

    fn columns(&self) -> u64 {
        self.blocks * self.size
    }

    fn row(
        &self,
        held: &Held,
        parts: &Reader<'_>,
        [row, column]: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        let [turns, scales] = &held.numbers[..] else { return Ok(()) };
        let columns = self.columns();
        let scale = scales[row as usize];
        if self.factors == 1 {
            turned_by_blocks(parts, turns, [self.size, columns], [row, column], own)?;
            own.iter_mut().for_each(|value| *value *= scale);
            return Ok(());
        }
        let (size, count) = (self.size as usize, columns as usize);
        let mut weights = vec![0.0; count];
        let mut sorted = vec![0.0; count];
        parts.floats(1, row * columns, &mut weights)?;
        for (turns, order) in turns.chunks_exact(count * size).zip(held.counts.chunks(count)) {
            // P B Pᵀ: sorted, turned, and brought back.
            let places = || order.iter().map(|&place| place as usize);
            for (at, place) in places().enumerate() {
                sorted[place] = weights[at];
            }
            for (at, place) in places().enumerate() {
                let turn = &turns[place * size..][..size];
                let block = &sorted[place / size * size..][..size];
                weights[at] = turn.iter().zip(block).map(|(turn, value)| turn * value).sum();
            }
        }
        let from = &weights[column as usize..];
        own.iter_mut().zip(from).for_each(|(value, from)| *value = from * scale);
        Ok(())
    }
}
