//! Where the codes of a row lie in the stored bytes.

use std::fmt::Debug;

use super::Reader;
use super::blocks::Lines;
use super::values::Values;
use crate::source::ReadError;

/// Codes of a matrix.
pub(super) trait Codes: Debug + Send + Sync {
    /// The numbers of the codes of a row from a column on.
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        column: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError>;
}

/// Rows of codes of equal width one after another, lowest bits first, across bytes and words.
#[derive(Debug)]
pub(super) struct Stream {
    pub part: usize,
    pub bits: u32,
    /// From one row to the next.
    pub row_bytes: u64,
    /// Columns of a row, where its writers fill the last word with zeros behind them.
    pub columns: Option<u64>,
    pub values: Values,
}

impl Stream {
    /// Refuses bits behind the last code of a row: then the row has more codes than it is said to have.
    fn check_end(&self, reader: &Reader<'_>, row: u64, columns: u64) -> Result<(), ReadError> {
        let end = columns * u64::from(self.bits);
        let mut bytes = vec![0; self.row_bytes.saturating_sub(end / 8) as usize];
        reader.bytes(self.part, row * self.row_bytes + end / 8, &mut bytes)?;
        if let Some(first) = bytes.first_mut() {
            *first = (u32::from(*first) >> (end % 8)) as u8;
        }
        match bytes.iter().all(|&byte| byte == 0) {
            true => Ok(()),
            false => Err(reader.wrong_value(self.part, &more_codes(row, columns))),
        }
    }
}

/// What is wrong with a row that goes on behind its last column.
fn more_codes(row: u64, columns: u64) -> String {
    format!("has codes behind column {} of row {row}, where nothing may be", columns - 1)
}

impl Codes for Stream {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        column: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        let bits = u64::from(self.bits);
        let (first, end) = (column * bits, (column + out.len() as u64) * bits);
        let mut bytes = vec![0; (end.div_ceil(8) - first / 8) as usize];
        reader.bytes(self.part, row * self.row_bytes + first / 8, &mut bytes)?;
        if let Some(columns) = self.columns
            && columns == column + out.len() as u64
            && end < self.row_bytes * 8
        {
            self.check_end(reader, row, columns)?;
        }
        if bits == 8 {
            self.values.of(&bytes, out);
            return Ok(());
        }
        let mut codes = vec![0; out.len()];
        unpack(&bytes, (first % 8) as usize, self.bits, &mut codes);
        self.values.of(&codes, out);
        Ok(())
    }
}

/// Takes codes of so many bits, at most eight, out of a stream whose first one begins at a bit.
pub(super) fn unpack(bytes: &[u8], first_bit: usize, bits: u32, codes: &mut [u8]) {
    if first_bit.is_multiple_of(8) {
        let (bytes, width) = (&bytes[first_bit / 8..], bits as usize);
        let whole = codes.len() / 8 * 8;
        let (aligned, rest) = codes.split_at_mut(whole);
        match bits {
            2 => eights::<2>(bytes, aligned),
            3 => eights::<3>(bytes, aligned),
            4 => eights::<4>(bytes, aligned),
            5 => eights::<5>(bytes, aligned),
            6 => eights::<6>(bytes, aligned),
            7 => eights::<7>(bytes, aligned),
            _ => return one_by_one(bytes, 0, bits, codes),
        }
        return one_by_one(&bytes[whole / 8 * width..], 0, bits, rest);
    }
    one_by_one(bytes, first_bit, bits, codes);
}

/// Eight codes fill as many bytes as they have bits.
fn eights<const BITS: usize>(bytes: &[u8], codes: &mut [u8]) {
    for (bytes, codes) in bytes.as_chunks::<BITS>().0.iter().zip(codes.as_chunks_mut::<8>().0) {
        let mut word = [0; 8];
        word[..BITS].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        for (number, code) in codes.iter_mut().enumerate() {
            *code = (word >> (number * BITS)) as u8 & ((1 << BITS) - 1) as u8;
        }
    }
}

fn one_by_one(bytes: &[u8], first_bit: usize, bits: u32, codes: &mut [u8]) {
    let mask = ((1_u16 << bits) - 1) as u8;
    for (code, at) in codes.iter_mut().zip((first_bit..).step_by(bits as usize)) {
        let (byte, shift) = (at / 8, at % 8);
        let upper = bytes.get(byte + 1).copied().unwrap_or_default();
        *code = (u16::from_le_bytes([bytes[byte], upper]) >> shift) as u8 & mask;
    }
}

/// Rows of words, each with as many codes as fit whole; its upper bits may be unused.
#[derive(Debug)]
pub(super) struct Fields {
    pub part: usize,
    pub bits: u32,
    pub row_words: u64,
    /// Columns of a row. Its writers leave all other bits zero.
    pub columns: u64,
    pub values: Values,
}

impl Codes for Fields {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        column: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        let per = u64::from(32 / self.bits);
        let last = column + out.len() as u64 - 1;
        let first = column / per;
        let mut bytes = vec![0; ((last / per - first + 1) * 4) as usize];
        reader.bytes(self.part, (row * self.row_words + first) * 4, &mut bytes)?;
        let words: Vec<u32> =
            bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
        let mask = (1_u32 << self.bits) - 1;
        for (number, word) in (first..).zip(&words) {
            let codes = per.min(self.columns - number * per);
            let used = (1_u64 << (codes * u64::from(self.bits))) - 1;
            if u64::from(*word) & !used != 0 {
                let columns = number * per + codes;
                return Err(reader.wrong_value(self.part, &more_codes(row, columns)));
            }
        }
        let codes: Vec<u8> = (column..=last)
            .map(|at| {
                let word = words[(at / per - first) as usize];
                (word >> (at % per * u64::from(self.bits)) & mask) as u8
            })
            .collect();
        self.values.of(&codes, out);
        Ok(())
    }
}

/// Words of codes that run down the columns: row `r` of what they stand for is column `r` of the words.
#[derive(Debug)]
pub(super) struct Down {
    pub words: Lines,
    pub bits: u32,
    pub order: Order,
    pub values: Values,
}

/// How codes lie in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// One stream, lowest bits first, across words.
    Dense,
    /// For each 32 codes the bits in planes of powers of two, see [`planes`].
    Planar,
}

impl Codes for Down {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        column: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        let bits = u64::from(self.bits);
        let last = column + out.len() as u64;
        // Whole runs of 32 codes take whole words, in either order.
        let (first_run, end_run) = (column / 32, last.div_ceil(32));
        let all = reader.part(self.words.part).bytes() / self.words.bytes;
        let lines = first_run * bits..(end_run * bits).min(all);
        let mut bytes = Vec::with_capacity(((lines.end - lines.start) * 4) as usize);
        self.words.across(reader, lines, row * 4, 4, &mut bytes)?;
        let skip = (column - first_run * 32) as usize;
        let mut codes = vec![0; out.len()];
        match self.order {
            Order::Dense => unpack(&bytes, skip * self.bits as usize, self.bits, &mut codes),
            Order::Planar => {
                let words: Vec<u32> =
                    bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
                for (code, at) in codes.iter_mut().zip(skip..) {
                    let run = at / 32 * self.bits as usize;
                    *code = planar(&words[run..run + self.bits as usize], self.bits, at % 32);
                }
            }
        }
        self.values.of(&codes, out);
        Ok(())
    }
}

/// Widths of the planes that codes of so many bits are cut into, from the lowest bits on.
fn planes(bits: u32) -> &'static [u32] {
    match bits {
        3 => &[2, 1],
        5 => &[4, 1],
        6 => &[4, 2],
        7 => &[4, 2, 1],
        8 => &[8],
        4 => &[4],
        _ => &[2],
    }
}

/// One of 32 codes whose bits lie in planes: each plane has as many words as bits.
pub(super) fn planar(words: &[u32], bits: u32, at: usize) -> u8 {
    let (mut code, mut low, mut first) = (0, 0, 0);
    for &width in planes(bits) {
        let per = (32 / width) as usize;
        let field = words[first + at / per] >> (at % per * width as usize) & ((1 << width) - 1);
        code |= (field as u8) << low;
        low += width;
        first += width as usize;
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes 1, 2, 3, … of three bits, written out as bits by hand: 001 010 011 100 101 110.
    #[test]
    fn codes_cross_bytes() {
        let bytes = [0b1101_0001, 0b0101_1000, 0b0000_0011];
        let mut codes = [0; 6];
        unpack(&bytes, 0, 3, &mut codes);
        assert_eq!(codes, [1, 2, 3, 4, 5, 6]);
        let mut codes = [0; 2];
        unpack(&bytes[1..], 1, 3, &mut codes);
        assert_eq!(codes, [4, 5]);
    }

    /// Codes that are taken eight at a time are those that are taken one by one, at every width and length.
    #[test]
    fn eight_codes_at_a_time_are_the_same() {
        let bytes: Vec<u8> = (0..200_u32).map(|at| (at * 73 + at / 7) as u8).collect();
        for bits in 1..=8 {
            for count in [0, 1, 7, 8, 9, 64, 75, 150] {
                for first in [0, 8, 16, 3 * bits as usize] {
                    let (mut found, mut wanted) = (vec![0; count], vec![0; count]);
                    unpack(&bytes, first, bits, &mut found);
                    one_by_one(&bytes, first, bits, &mut wanted);
                    assert_eq!(found, wanted, "{bits} bits from {first}, {count}");
                }
            }
        }
    }

    #[test]
    fn planes_put_the_upper_bits_elsewhere() {
        // Code 16 (of 32) is 0b110: its lower two bits in the second word, its upper bit in the third.
        let words = [0, 0b10, 1 << 16];
        assert_eq!(planar(&words, 3, 16), 0b110);
        assert_eq!(planar(&words, 3, 15), 0);
    }
}
