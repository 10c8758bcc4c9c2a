//! A symmetric matrix times a vector, from its lower triangle alone: what a reduction to tridiagonal form
//! does for each column. It is as fast as memory gives numbers, and so each is read once.

use crate::features::{Features, Kernel};

/// Columns that are gone through together, so that the result is read and written once for all.
const COLUMNS: usize = 4;
/// Numbers of a register.
const LANES: usize = 4;

/// `y ← A·v` for the trailing part of a matrix from row and column `first` on.
///
/// `columns` are the columns from `first` on, each `n` numbers of which those above the diagonal are not
/// read.
///
/// **Numerics.** f64; sums in lanes, in a fixed order. Nothing is fused, so that bits are the same with
/// all instructions.
pub(crate) fn multiply_lower(
    features: Features,
    columns: &[f64],
    n: usize,
    first: usize,
    v: &[f64],
    y: &mut [f64],
) {
    features.run(Lower { columns, n, first, v, y });
}

struct Lower<'a> {
    columns: &'a [f64],
    n: usize,
    first: usize,
    v: &'a [f64],
    y: &'a mut [f64],
}

impl Kernel for Lower<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { columns, n, first, v, y } = self;
        let size = v.len();
        y.fill(0.0);
        let column = |index: usize| &columns[index * n + first..(index + 1) * n];
        let mut index = 0;
        while index + COLUMNS <= size {
            let group: [&[f64]; COLUMNS] = std::array::from_fn(|offset| column(index + offset));
            // The triangle at the top of the group.
            for (offset, column) in group.iter().enumerate() {
                let at = index + offset;
                y[at] += column[at] * v[at];
                for row in at + 1..index + COLUMNS {
                    y[row] += column[row] * v[at];
                    y[at] += column[row] * v[row];
                }
            }
            let below = index + COLUMNS;
            let factors: [f64; COLUMNS] = std::array::from_fn(|offset| v[index + offset]);
            let rectangle = group.map(|column| &column[below..]);
            let sums = together(rectangle, factors, &v[below..], &mut y[below..]);
            for offset in 0..COLUMNS {
                y[index + offset] += sums[offset];
            }
            index = below;
        }
        for at in index..size {
            let values = column(at);
            y[at] += values[at] * v[at];
            for row in at + 1..size {
                y[row] += values[row] * v[at];
                y[at] += values[row] * v[row];
            }
        }
    }
}

/// Adds the columns times their factors to `y`, and gives their products with `v`.
#[inline(always)]
fn together(
    columns: [&[f64]; COLUMNS],
    factors: [f64; COLUMNS],
    v: &[f64],
    y: &mut [f64],
) -> [f64; COLUMNS] {
    let mut lanes = [[0.0; LANES]; COLUMNS];
    let [a, b, c, d] = columns.map(|column| column[..v.len()].as_chunks::<LANES>());
    let (v, v_rest) = v.as_chunks::<LANES>();
    let (y, y_rest) = y.as_chunks_mut::<LANES>();
    for (((((a, b), c), d), v), y) in a.0.iter().zip(b.0).zip(c.0).zip(d.0).zip(v).zip(y) {
        for lane in 0..LANES {
            let (a, b, c, d) = (a[lane], b[lane], c[lane], d[lane]);
            y[lane] += (a * factors[0] + b * factors[1]) + (c * factors[2] + d * factors[3]);
            lanes[0][lane] += a * v[lane];
            lanes[1][lane] += b * v[lane];
            lanes[2][lane] += c * v[lane];
            lanes[3][lane] += d * v[lane];
        }
    }
    let mut sums = lanes.map(|[a, b, c, d]| (a + c) + (b + d));
    for (index, (v, y)) in v_rest.iter().zip(y_rest).enumerate() {
        let rest = [a.1[index], b.1[index], c.1[index], d.1[index]];
        for column in 0..COLUMNS {
            *y += rest[column] * factors[column];
            sums[column] += rest[column] * v;
        }
    }
    sums
}
