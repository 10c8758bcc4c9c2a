//! Adam on the interference objective in displacement form: one product and one update per step.
//!
//! The matrices are constant over steps and rows, and packed once. A block of rows goes through all
//! steps while it stays in cache. The displacement, the moments and the offset of a block are tiles
//! of a register's shape, in the order in which a product writes them and the next one reads them, so
//! that nothing is packed in a step and the update takes the gradient from registers.
//!
//! Bits differ between instruction sets; on one machine they do not depend on what rows share a
//! block, because every sum is taken in the same order.

mod panels;
mod step;
#[cfg(test)]
mod tests;
mod vector;

use crate::features::Features;
use panels::{Aligned, Panels};
use step::{Finish, Rates, State, Tile, multiply, update_without_product};
use vector::{Instructions, TileLoop, Vector};

/// Rows of a block at most. By `cargo bench -p mixdown-cpu --bench adam -- --bench 48 96 144` on an
/// EPYC with 512 KiB of second-level cache, these do not differ beyond the noise. Fewer read the packed
/// matrix more often, and more hold more memory.
pub const BLOCK_ROWS: usize = 96;

/// What a system is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The symmetric matrix G, `n × n`.
    Gram {
        /// Columns of the displacement.
        n: usize,
    },
    /// A matrix S, `r × n`, for G = SᵀS.
    Factored {
        /// Rows of S.
        r: usize,
        /// Columns of the displacement.
        n: usize,
    },
}

impl Form {
    /// The one that costs fewer operations per step.
    pub fn cheaper(r: usize, n: usize) -> Self {
        if n <= 2 * r { Self::Gram { n } } else { Self::Factored { r, n } }
    }

    /// Columns of the displacement.
    fn columns(self) -> usize {
        let (Self::Gram { n } | Self::Factored { n, .. }) = self;
        n
    }
}

/// The matrix that a displacement is multiplied with in each step, packed.
#[derive(Debug)]
pub struct System {
    instructions: Instructions,
    form: Form,
    /// What a block is multiplied with, in turn: G, or Sᵀ and S, or nothing.
    factors: Vec<Panels>,
}

impl System {
    /// From G, row-major.
    pub fn gram(features: Features, g: &[f32], n: usize) -> Self {
        assert_eq!(g.len(), n * n);
        Self::gram_from(features, n, |row, column| g[row * n + column])
    }

    /// The same from what `at` gives by row and column.
    pub fn gram_from(features: Features, n: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let instructions = Instructions::of(features);
        let (_, width) = instructions.tile();
        let factors = vec![Panels::pack(width, n, n, at)];
        Self { instructions, form: Form::Gram { n }, factors }
    }

    /// From numbers of G that come in blocks of its lower triangle: `block` gives for some columns from a first
    /// one on the rows from that one on, `(n − first) × count`, row-major.
    ///
    /// **Errors.** Those of `block`.
    pub fn gram_by_blocks<E>(
        features: Features,
        n: usize,
        columns: usize,
        mut block: impl FnMut(usize, usize) -> Result<Vec<f64>, E>,
    ) -> Result<Self, E> {
        let instructions = Instructions::of(features);
        let (_, width) = instructions.tile();
        let mut panels = Panels::zeros(width, n, n);
        for first in (0..n).step_by(columns.max(1)) {
            let count = columns.min(n - first);
            let numbers = block(first, count)?;
            for (row, values) in (first..).zip(numbers.chunks_exact(count)) {
                // Up to the diagonal, which both halves have.
                let own = values[..count.min(row - first + 1)].iter().map(|&value| value as f32);
                panels.put_row(row, first, own.clone());
                panels.put_column(first, row, own);
            }
        }
        Ok(Self { instructions, form: Form::Gram { n }, factors: vec![panels] })
    }

    /// From S, row-major. With no rows, the gradient is constant.
    pub fn factored(features: Features, s: &[f32], r: usize, n: usize) -> Self {
        assert_eq!(s.len(), r * n);
        Self::factored_from(features, r, n, |row, column| s[row * n + column])
    }

    /// The same from what `at` gives by row and column.
    pub fn factored_from(
        features: Features,
        r: usize,
        n: usize,
        at: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let instructions = Instructions::of(features);
        let (_, width) = instructions.tile();
        let mut factors = Vec::new();
        if r > 0 {
            factors.push(Panels::pack(width, n, r, |row, column| at(column, row)));
            factors.push(Panels::pack(width, r, n, &at));
        }
        Self { instructions, form: Form::Factored { r, n }, factors }
    }

    /// Bytes that a system of this form holds.
    pub fn bytes(features: Features, form: Form) -> u64 {
        let (_, width) = Instructions::of(features).tile();
        match form {
            Form::Gram { n } => Panels::bytes(width, n, n),
            Form::Factored { r: 0, .. } => 0,
            Form::Factored { r, n } => Panels::bytes(width, n, r) + Panels::bytes(width, r, n),
        }
    }

    /// What it was made of.
    pub fn form(&self) -> Form {
        self.form
    }
}

/// G in f32, row-major, from blocks as [`System::gram_by_blocks`] takes them.
///
/// **Errors.** Those of `block`.
pub fn gram_by_blocks<E>(
    n: usize,
    columns: usize,
    mut block: impl FnMut(usize, usize) -> Result<Vec<f64>, E>,
) -> Result<Vec<f32>, E> {
    let mut gram = vec![0.0; n * n];
    for first in (0..n).step_by(columns.max(1)) {
        let count = columns.min(n - first);
        let numbers = block(first, count)?;
        for (row, values) in (first..).zip(numbers.chunks_exact(count)) {
            for (column, &value) in (first..=row).zip(values) {
                gram[row * n + column] = value as f32;
                gram[column * n + row] = value as f32;
            }
        }
    }
    Ok(gram)
}

/// Rows that a block should have, of `rows` that `threads` share: as many as stay in cache, in blocks
/// of which each thread gets as many as another.
pub fn block_rows(features: Features, rows: usize, threads: usize) -> usize {
    let (height, _) = Instructions::of(features).tile();
    let blocks = rows.div_ceil(BLOCK_ROWS).next_multiple_of(threads.max(1));
    rows.div_ceil(blocks.max(1)).max(1).next_multiple_of(height)
}

/// What a block holds while it descends, for use by one block after another.
#[derive(Debug, Default)]
pub struct Scratch {
    numbers: Aligned,
}

impl Scratch {
    /// Bytes that a block of `rows` needs, beside its offset and displacement.
    pub fn bytes(features: Features, form: Form, rows: usize) -> u64 {
        let tile = Instructions::of(features).tile();
        Aligned::bytes(Parts::of(tile, form, rows).total())
    }
}

/// The parts of a block, in numbers.
struct Parts {
    /// One each for the offset, the displacement before and after a step, and two moments.
    matrix: usize,
    /// The product with Sᵀ.
    inner: usize,
}

impl Parts {
    fn of((height, width): (usize, usize), form: Form, rows: usize) -> Self {
        let rows = rows.next_multiple_of(height);
        let inner = match form {
            Form::Gram { .. } => 0,
            Form::Factored { r, .. } => r.next_multiple_of(width),
        };
        Self { matrix: rows * form.columns().next_multiple_of(width), inner: rows * inner }
    }

    fn total(&self) -> usize {
        5 * self.matrix + self.inner
    }
}

/// Moves `rows` rows, row-major, by Adam with PyTorch's defaults: `displacement` is set to D after
/// `steps` steps from 0 along the gradient `2 · (D · G + offset)`.
pub fn descend(
    system: &System,
    offset: &[f32],
    rows: usize,
    learning_rate: f64,
    steps: u32,
    displacement: &mut [f32],
    scratch: &mut Scratch,
) {
    let columns = system.form.columns();
    assert_eq!(offset.len(), rows * columns);
    assert_eq!(displacement.len(), rows * columns);
    if displacement.is_empty() {
        return;
    }
    let parts = Parts::of(system.instructions.tile(), system.form, rows);
    if scratch.numbers.numbers().len() < parts.total() {
        scratch.numbers = Aligned::default();
        scratch.numbers = Aligned::zeros(parts.total());
    }
    let numbers = &mut scratch.numbers.numbers_mut()[..parts.total()];
    system.instructions.run(Descent {
        system,
        offset,
        columns,
        learning_rate,
        steps,
        displacement,
        numbers,
        parts,
    });
}

struct Descent<'a> {
    system: &'a System,
    offset: &'a [f32],
    columns: usize,
    learning_rate: f64,
    steps: u32,
    displacement: &'a mut [f32],
    numbers: &'a mut [f32],
    parts: Parts,
}

impl TileLoop for Descent<'_> {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const COLUMNS: usize>(self) {
        let Parts { matrix, .. } = self.parts;
        // All but the product with Sᵀ and the displacement after a step are read before they are
        // written, and so is the padding.
        self.numbers.fill(0.0);
        let (offset, rest) = self.numbers.split_at_mut(matrix);
        let (now, rest) = rest.split_at_mut(matrix);
        let (next, rest) = rest.split_at_mut(matrix);
        let (first_moment, rest) = rest.split_at_mut(matrix);
        let (second_moment, inner) = rest.split_at_mut(matrix);
        let tiles = self.columns.div_ceil(COLUMNS);
        let offset = tiled_mut::<ROWS, COLUMNS>(offset);
        let inner = tiled_mut::<ROWS, COLUMNS>(inner);
        let (mut now, mut next) = (tiled_mut::<ROWS, COLUMNS>(now), tiled_mut(next));
        for (row, from) in self.offset.chunks_exact(self.columns).enumerate() {
            for (tile, from) in from.chunks(COLUMNS).enumerate() {
                offset[row / ROWS * tiles + tile][row % ROWS][..from.len()].copy_from_slice(from);
            }
        }
        let mut state = State {
            offset,
            first_moment: tiled_mut(first_moment),
            second_moment: tiled_mut(second_moment),
        };
        for step in 1..=self.steps {
            let rates = &Rates::of(step, self.learning_rate);
            let finish = Finish::Update { rates, state: &mut state, displacement: now };
            match self.system.factors.as_slice() {
                // In the first step, the displacement is 0.
                [gram] if step > 1 => multiply::<V, ROWS, COLUMNS>(now, gram, next, finish),
                [transposed, factor] if step > 1 => {
                    multiply::<V, ROWS, COLUMNS>(now, transposed, inner, Finish::Keep);
                    multiply::<V, ROWS, COLUMNS>(inner, factor, next, finish);
                }
                _ => update_without_product::<V, ROWS, COLUMNS>(rates, &mut state, now, next),
            }
            std::mem::swap(&mut now, &mut next);
        }
        for (row, to) in self.displacement.chunks_exact_mut(self.columns).enumerate() {
            for (tile, to) in to.chunks_mut(COLUMNS).enumerate() {
                to.copy_from_slice(&now[row / ROWS * tiles + tile][row % ROWS][..to.len()]);
            }
        }
    }
}

#[inline(always)]
fn tiled_mut<const ROWS: usize, const COLUMNS: usize>(
    numbers: &mut [f32],
) -> &mut [Tile<ROWS, COLUMNS>] {
    numbers.as_chunks_mut().0.as_chunks_mut().0
}
