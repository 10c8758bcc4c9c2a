//! A constant matrix packed in the order in which a product reads it, and numbers on cache lines.

use std::ops::Range;

/// Bytes of a cache line, and numbers in one.
const LINE_BYTES: usize = 64;
pub(super) const LINE: usize = LINE_BYTES / size_of::<f32>();

/// The most rows of a panel that are multiplied before the next strip: with 16 columns, 16 KiB, so
/// that the panel, the strip of the block and a tile of the state share a first-level cache of
/// 32 KiB. From 192 to 448, speed does not differ beyond the noise (`--bench adam`). No sum is of more
/// products than these at a time, whatever the instruction set, the block or the tile.
const SLAB: usize = 256;

/// What slabs are a multiple of: the columns of the widest tile.
const WIDEST: usize = 32;

/// Numbers that begin on a cache line, so that no vector straddles two.
#[derive(Debug, Default)]
pub(super) struct Aligned {
    numbers: Vec<f32>,
}

impl Aligned {
    pub(super) fn zeros(len: usize) -> Self {
        Self { numbers: vec![0.0; len + LINE - 1] }
    }

    /// Bytes of as many.
    pub(super) fn bytes(len: usize) -> u64 {
        (len as u64 + LINE as u64 - 1) * size_of::<f32>() as u64
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        size_of_val(self.numbers.as_slice()) as u64
    }

    /// Numbers from the first cache line on; at least as many as were asked for.
    pub(super) fn numbers(&self) -> &[f32] {
        &self.numbers[first(&self.numbers)..]
    }

    pub(super) fn numbers_mut(&mut self) -> &mut [f32] {
        let first = first(&self.numbers);
        &mut self.numbers[first..]
    }
}

fn first(numbers: &[f32]) -> usize {
    // Also holds where the offset is not known, which `align_offset` may say.
    numbers.as_ptr().align_offset(LINE_BYTES).min(LINE - 1).min(numbers.len())
}

/// A matrix of `depth` rows, packed for products from its left.
///
/// Its rows are cut into slabs, each slab into panels as wide as a tile, and the numbers of a panel
/// follow each other row by row. Rows and columns are padded by zeros to whole tiles.
#[derive(Debug)]
pub(super) struct Panels {
    numbers: Aligned,
    /// Columns of a tile.
    width: usize,
    /// Rows and columns, in tiles.
    depth: usize,
    columns: usize,
    /// Tiles of a slab.
    slab: usize,
}

impl Panels {
    /// Packs `depth × columns` numbers that `at` gives by row and column.
    pub(super) fn pack(
        width: usize,
        depth: usize,
        columns: usize,
        at: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let mut panels = Self::zeros(width, depth, columns);
        for slab in panels.slabs() {
            for panel in 0..panels.columns {
                let range = panels.range(&slab, panel);
                let rows = slab.start * width..depth.min(slab.end * width);
                let within = panel * width..columns.min((panel + 1) * width);
                let to = panels.numbers.numbers_mut()[range].chunks_exact_mut(width);
                for (row, to) in rows.zip(to) {
                    for (column, to) in within.clone().zip(to) {
                        *to = at(row, column);
                    }
                }
            }
        }
        panels
    }

    /// Zeros, for numbers that come in any order.
    pub(super) fn zeros(width: usize, depth: usize, columns: usize) -> Self {
        Self {
            numbers: Aligned::zeros(Self::numbers(width, depth, columns)),
            width,
            depth: depth.div_ceil(width),
            columns: columns.div_ceil(width),
            slab: slab(depth) / width,
        }
    }

    /// Puts numbers of one column from a row on.
    pub(super) fn put_column(
        &mut self,
        first: usize,
        column: usize,
        values: impl Iterator<Item = f32>,
    ) {
        let (width, slab, depth) = (self.width, self.slab, self.depth);
        let at = |row: usize| {
            let start = row / width / slab * slab;
            let range = self.range(&(start..depth.min(start + slab)), column / width);
            range.start + (row - start * width) * width + column % width
        };
        let places: Vec<(usize, f32)> =
            (first..).zip(values).map(|(row, value)| (at(row), value)).collect();
        let numbers = self.numbers.numbers_mut();
        places.into_iter().for_each(|(at, value)| numbers[at] = value);
    }

    /// Puts numbers of one row from a column on.
    pub(super) fn put_row(&mut self, row: usize, first: usize, values: impl Iterator<Item = f32>) {
        let (width, slab, depth) = (self.width, self.slab, self.depth);
        let start = row / width / slab * slab;
        let slab = start..depth.min(start + slab);
        let within = (row - start * width) * width;
        let starts: Vec<usize> =
            (0..self.columns).map(|panel| self.range(&slab, panel).start + within).collect();
        let numbers = self.numbers.numbers_mut();
        for (column, value) in (first..).zip(values) {
            numbers[starts[column / width] + column % width] = value;
        }
    }

    /// Bytes of a packed matrix.
    pub(super) fn bytes(width: usize, depth: usize, columns: usize) -> u64 {
        Aligned::bytes(Self::numbers(width, depth, columns))
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        self.numbers.held()
    }

    fn numbers(width: usize, depth: usize, columns: usize) -> usize {
        depth.next_multiple_of(width) * columns.next_multiple_of(width)
    }

    /// Columns, in tiles.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Rows, in tiles.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Rows of each slab, in tiles, in order.
    pub(super) fn slabs(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (depth, slab) = (self.depth, self.slab);
        (0..depth).step_by(slab).map(move |start| start..depth.min(start + slab))
    }

    /// The panel of a slab, as squares of one tile of rows, and where what follows it is packed.
    #[inline(always)]
    pub(super) fn panel<const COLUMNS: usize>(
        &self,
        slab: &Range<usize>,
        panel: usize,
    ) -> (&[[[f32; COLUMNS]; COLUMNS]], *const f32) {
        assert_eq!(COLUMNS, self.width);
        let range = self.range(slab, panel);
        let numbers = self.numbers.numbers();
        (numbers[range.clone()].as_chunks().0.as_chunks().0, numbers[range.end..].as_ptr())
    }

    #[inline(always)]
    fn range(&self, slab: &Range<usize>, panel: usize) -> Range<usize> {
        let square = self.width * self.width;
        let len = slab.len() * square;
        let start = slab.start * self.columns * square + panel * len;
        start..start + len
    }
}

/// Rows of each slab but the last: as equal as whole tiles allow.
fn slab(depth: usize) -> usize {
    let slabs = depth.div_ceil(SLAB).max(1);
    depth.div_ceil(slabs).max(1).next_multiple_of(WIDEST)
}
