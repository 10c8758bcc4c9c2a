//! MiSS: one small matrix is added to each group of columns; in its first form each block is multiplied by one
//! and it is added.
//!
//! Kang et al. 2025, arXiv:2409.15371.

use super::{Fault, Kind, Module};
use crate::adapter::computed::{ByRows, Effect, Part};
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind =
    Kind { peft_type: "MISS", tensors: &["miss_block"], shared: &[], make };

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    module.outputs_first()?;
    let (rows, columns) = module.matrix()?;
    let (at, shape) = module.need("miss_block")?;
    if module.settings().text("init_weights") == Some("bat") {
        let size = shape.last().copied().filter(|size| *size > 0).unwrap_or(1);
        module.shaped("miss_block", &[rows / size, size, size])?;
        if rows % size != 0 || columns % size != 0 {
            return Err(module.misshapen("miss_block", &[rows / size, size, size]));
        }
        let parts = vec![Part::Adapter(at), module.base_part()?];
        let compute = Blocks { size, rows, columns };
        return Ok(module.becomes(format!("MiSS, blocks of {size}"), parts, compute));
    }
    // A block of fewer columns than there are outputs is repeated.
    let &[rank, outputs] = shape else { return Err(module.misshapen("miss_block", &[0, rows])) };
    if rank == 0 || outputs == 0 || rows % outputs != 0 {
        return Err(module.misshapen("miss_block", &[rank, rows]));
    }
    let compute = Repeated { rank, outputs, columns };
    Ok(module.adds(format!("MiSS, rank {rank}"), vec![Part::Adapter(at)], compute))
}

#[derive(Debug)]
struct Repeated {
    rank: u64,
    outputs: u64,
    columns: u64,
}

impl ByRows for Repeated {
    const HELD: &[usize] = &[0];

    fn held_bytes(&self) -> u64 {
        self.rank * self.outputs * 4
    }

    fn columns(&self) -> u64 {
        self.columns
    }

    fn row(
        &self,
        held: &Held,
        _: &Reader<'_>,
        [row, column]: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        for (value, at) in own.iter_mut().zip(column..) {
            let place = at % self.rank * self.outputs + row % self.outputs;
            *value = held.numbers[0][place as usize];
        }
        Ok(())
    }
}

/// W + W·B + B for each block of W, of which those in a row share B.
#[derive(Debug)]
struct Blocks {
    size: u64,
    rows: u64,
    columns: u64,
}

impl ByRows for Blocks {
    const HELD: &[usize] = &[0];

    fn held_bytes(&self) -> u64 {
        self.rows * self.size * 4
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
        let size = self.size as usize;
        let block = &held.numbers[0][row as usize / size * size * size..][..size * size];
        let start = column as usize / size * size;
        let end = (column as usize + own.len()).next_multiple_of(size);
        let mut weights = vec![0.0; end - start];
        parts.floats(1, row * self.columns + start as u64, &mut weights)?;
        for (value, at) in own.iter_mut().zip(column as usize - start..) {
            let (group, place) = (at / size * size, at % size);
            let products =
                (0..size).map(|inner| weights[group + inner] * block[inner * size + place]);
            let added = block[row as usize % size * size + place];
            *value = weights[at] + products.sum::<f32>() + added;
        }
        Ok(())
    }
}
