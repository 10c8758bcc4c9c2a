//! Reading a part of a matrix as a matrix of its own.

use mixdown_plan::Rectangle;

/// Writes the elements of a part from `first` on that fill `out`, each of `width` bytes. `fetch` gives
/// elements of the matrix, from a place on.
pub(crate) fn read<E>(
    part: &Rectangle,
    first: u64,
    width: usize,
    out: &mut [u8],
    mut fetch: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut at = first;
    let mut out = out;
    while !out.is_empty() {
        let (row, column) = (at / part.columns, at % part.columns);
        let count = ((out.len() / width) as u64).min(part.columns - column);
        let (own, rest) = out.split_at_mut(count as usize * width);
        let start = part.start + row * part.row_step + column * part.column_step;
        match part.column_step {
            _ if row >= part.rows => own.fill(0),
            1 => fetch(start, own)?,
            0 => {
                fetch(start, &mut own[..width])?;
                let (one, others) = own.split_at_mut(width);
                others.chunks_mut(width).for_each(|other| other.copy_from_slice(one));
            }
            step => {
                for (index, element) in (0..).zip(own.chunks_mut(width)) {
                    fetch(start + index * step, element)?;
                }
            }
        }
        at += count;
        out = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of 4 × 5 numbers that are their own positions, from each place on, as whole and in stretches.
    fn check(part: Rectangle, rows: u64, expected: &[u8]) {
        let fetch = |at: u64, out: &mut [u8]| {
            out.iter_mut().zip(at..).for_each(|(out, value)| *out = value as u8);
            Ok::<(), ()>(())
        };
        let count = (rows * part.columns) as usize;
        assert_eq!(expected.len(), count);
        for first in 0..count {
            for end in first..=count {
                let mut out = vec![99; end - first];
                read(&part, first as u64, 1, &mut out, fetch).unwrap();
                assert_eq!(out, expected[first..end], "{first}..{end}");
            }
        }
    }

    #[test]
    fn parts_of_a_matrix() {
        let part = |start, column_step, columns| Rectangle {
            start,
            row_step: 5,
            column_step,
            rows: 3,
            columns,
        };
        check(part(1, 1, 3), 4, &[1, 2, 3, 6, 7, 8, 11, 12, 13, 0, 0, 0]);
        check(part(4, 0, 2), 3, &[4, 4, 9, 9, 14, 14]);
        check(part(0, 2, 3), 4, &[0, 2, 4, 5, 7, 9, 10, 12, 14, 0, 0, 0]);
    }
}
