//! Which matrix keeps an element, block by block of what those before it left.

use mixdown_ops::matrix::axes::Blocks;
use mixdown_ops::matrix::{Operands, Prepared, Report, Stop};

use super::axes::rows_together;

/// **Shapes.** N operands `m × n`; the result has for each element the position of the matrix that keeps it, from
/// 1, or 0.
/// **Numerics.** Magnitudes are compared exactly; of equal ones the element of lower index is kept, and zeros never.
#[derive(Debug)]
pub(crate) struct BlockOwner(pub Blocks);

/// Rows that end where a block does: as many as a call should have.
pub(crate) fn block_rows(blocks: &Blocks, columns: usize) -> usize {
    let (mut a, mut b) = (blocks.block as usize, columns.max(1));
    while b > 0 {
        (a, b) = (b, a % b);
    }
    let whole = blocks.block as usize / a.max(1);
    whole.max(1) * (rows_together(columns) / whole.max(1)).max(1)
}

impl Prepared for BlockOwner {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let Blocks { count, block, keeps_tail } = self.0;
        values.fill(0.0);
        let mut own = vec![0.0; values.len()];
        for operand in 0..operands.count() {
            operands.read(operand, first_row, &mut own)?;
            let blocks = values.chunks_mut(block as usize).zip(own.chunks(block as usize));
            for (owners, own) in blocks {
                // Only the last block of a tensor can be shorter.
                if own.len() < block as usize && !keeps_tail {
                    continue;
                }
                let free = |&at: &usize| owners[at] == 0.0 && own[at] != 0.0;
                let mut order: Vec<usize> = (0..own.len()).filter(free).collect();
                order.sort_by(|&a, &b| own[b].abs().total_cmp(&own[a].abs()));
                for &at in order.iter().take(count as usize) {
                    owners[at] = operand as f64 + 1.0;
                }
            }
        }
        Ok((0.0, 0.0))
    }

    fn report(&self) -> Report {
        Report::default()
    }
}
