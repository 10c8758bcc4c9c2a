//! C3A: blocks of circulant matrices, over the count of inputs.
//!
//! Chen et al. 2025, arXiv:2407.19342. Element (i, j) of a block is kernel[(j − i) mod size].

use super::{Fault, Kind, Module};
use crate::adapter::computed::{ByRows, Effect, Part};
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind =
    Kind { peft_type: "C3A", tensors: &["c3a_kernel"], shared: &[], make };

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    module.outputs_first()?;
    let (rows, columns) = module.matrix()?;
    let (at, shape) = module.need("c3a_kernel")?;
    let &[down, across, size] = shape else {
        return Err(module.misshapen("c3a_kernel", &[0, 0, 0]));
    };
    if down.checked_mul(size) != Some(rows) || across.checked_mul(size) != Some(columns) {
        let size = size.max(1);
        return Err(module.misshapen("c3a_kernel", &[rows / size, columns / size, size]));
    }
    let compute = C3a { size, columns, rows };
    let scheme = format!("C3A, blocks of {size}");
    let parts = vec![Part::Adapter(at)];
    Ok(module.adds(scheme, parts, compute))
}

#[derive(Debug)]
struct C3a {
    size: u64,
    columns: u64,
    rows: u64,
}

impl ByRows for C3a {
    const HELD: &[usize] = &[0];

    fn held_bytes(&self) -> u64 {
        self.rows * self.columns / self.size.max(1) * 4
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
        let by = self.columns as f32;
        let down = row / self.size * self.columns;
        for (value, at) in own.iter_mut().zip(column..) {
            let turn = (at % self.size + self.size - row % self.size) % self.size;
            let place = down + at / self.size * self.size + turn;
            *value = held.numbers[0][place as usize] / by;
        }
        Ok(())
    }
}
