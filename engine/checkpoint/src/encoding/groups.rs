//! What rows and groups of columns share: scales, zero points, offsets.

use std::fmt::Debug;
use std::ops::Range;

use super::Reader;
use super::blocks::Lines;
use super::unpack::{Codes, Order, planar, unpack};
use super::values::{Number, Values};
use crate::source::ReadError;

/// Numbers of a matrix of which each row has one for each group of columns.
pub(super) trait Groups: Debug + Send + Sync {
    /// The numbers of a row for these groups.
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        groups: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), ReadError>;

    /// The stored tensor, for messages.
    fn part(&self) -> usize;
}

/// A stored matrix with one row for so many rows.
#[derive(Debug)]
pub(super) struct Grid {
    pub part: usize,
    pub number: Number,
    /// Rows of one matrix of a stack, and of its grid.
    pub plane: [u64; 2],
    /// Rows that share a row of the grid.
    pub rows: u64,
    /// Columns of the grid.
    pub columns: u64,
    /// A second scale for the whole tensor.
    pub whole: Option<Whole>,
}

/// A scale of a whole tensor, and what it does to the others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whole {
    /// They are multiplied by it.
    Times(usize),
    /// They are divided by it.
    Over(usize),
}

impl Groups for Grid {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        groups: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), ReadError> {
        let [rows, grid_rows] = self.plane;
        let line = row / rows * grid_rows + row % rows / self.rows;
        let width = self.number.bytes() as u64;
        let mut bytes = vec![0; ((groups.end - groups.start) * width) as usize];
        reader.bytes(self.part, (line * self.columns + groups.start) * width, &mut bytes)?;
        self.number.read(&bytes, out);
        let Some(whole) = self.whole else { return Ok(()) };
        let (Whole::Times(part) | Whole::Over(part)) = whole;
        let mut bytes = [0; 4];
        reader.bytes(part, 0, &mut bytes)?;
        let factor = f32::from_le_bytes(bytes);
        let fits = factor.is_finite() && factor >= 0.0;
        // Of a tensor of zeros no writer can make the other scales with it.
        if !fits || factor == 0.0 {
            return Err(reader.wrong_value(part, &format!("is {factor}")));
        }
        match whole {
            Whole::Times(_) => out.iter_mut().for_each(|scale| *scale *= factor),
            Whole::Over(_) => out.iter_mut().for_each(|scale| *scale /= factor),
        }
        Ok(())
    }

    fn part(&self) -> usize {
        self.part
    }
}

/// Whole numbers that fit into so many bits with a sign, whatever stores them.
#[derive(Debug)]
pub(super) struct Within {
    pub inner: Box<dyn Groups>,
    pub bits: u32,
}

impl Groups for Within {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        groups: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), ReadError> {
        let start = out.len();
        self.inner.read(reader, row, groups.clone(), out)?;
        let half = (1_u32 << (self.bits - 1)) as f32;
        let is_wrong = |zero: &f32| *zero < -half || *zero >= half;
        match out[start..].iter().position(is_wrong) {
            None => Ok(()),
            Some(at) => {
                let (zero, group) = (out[start + at], groups.start + at as u64);
                let what = format!(
                    "is {zero} at row {row}, group {group}, and codes of {} bits are {} to {}",
                    self.bits,
                    -half,
                    half - 1.0
                );
                Err(reader.wrong_value(self.part(), &what))
            }
        }
    }

    fn part(&self) -> usize {
        self.inner.part()
    }
}

/// A stored matrix whose rows are the groups and whose columns are the rows.
#[derive(Debug)]
pub(super) struct Across {
    pub lines: Lines,
    pub number: Number,
}

impl Groups for Across {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        groups: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), ReadError> {
        let width = self.number.bytes() as u64;
        let mut bytes = Vec::new();
        self.lines.across(reader, groups, row * width, width, &mut bytes)?;
        self.number.read(&bytes, out);
        Ok(())
    }

    fn part(&self) -> usize {
        self.lines.part
    }
}

/// Zero points as codes: groups are lines of words, in which the codes of the rows follow each other.
#[derive(Debug)]
pub(super) struct PackedAcross {
    pub words: Lines,
    pub bits: u32,
    pub order: Order,
    /// What was subtracted from the codes when they were written.
    pub less: Less,
}

/// What writers of the first GPTQ format subtract from stored zero points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Less {
    Nothing,
    /// This number from a whole word, with borrows from field to field.
    Word(u32),
    /// One from each code, around zero.
    Code,
}

impl Groups for PackedAcross {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        groups: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), ReadError> {
        let bits = u64::from(self.bits);
        // A run of 32 codes takes whole words, in either order; in a dense one two words are enough.
        let run = row / 32 * bits * 4;
        let (start, width) = match self.order {
            Order::Planar => (run, bits * 4),
            Order::Dense => {
                let start = row * bits / 32 * 4;
                (start, ((row + 1) * bits).div_ceil(32) * 4 - start)
            }
        };
        let mut bytes = Vec::new();
        self.words.across(reader, groups, start, width, &mut bytes)?;
        for bytes in bytes.chunks_exact(width as usize) {
            let mut words: Vec<u32> =
                bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
            if let Less::Word(less) = self.less {
                words.iter_mut().for_each(|word| *word = word.wrapping_add(less));
            }
            let mut code = [0];
            match self.order {
                Order::Planar => code[0] = planar(&words, self.bits, (row % 32) as usize),
                Order::Dense => {
                    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                    unpack(&bytes, (row * bits - start * 8) as usize, self.bits, &mut code);
                }
            }
            if self.less == Less::Code {
                code[0] = (code[0] + 1) & ((1 << self.bits) - 1);
            }
            out.push(f32::from(code[0]));
        }
        Ok(())
    }

    fn part(&self) -> usize {
        self.words.part
    }
}

/// Zero points as codes in the rows of a matrix, like those of the weights.
#[derive(Debug)]
pub(super) struct PackedRows {
    pub codes: Box<dyn Codes>,
    pub part: usize,
}

impl Groups for PackedRows {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        groups: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), ReadError> {
        let start = out.len();
        out.resize(start + (groups.end - groups.start) as usize, 0.0);
        self.codes.read(reader, row, groups.start, &mut out[start..])
    }

    fn part(&self) -> usize {
        self.part
    }
}

/// Zero points as codes that run down the columns of a matrix of words with one column for each group.
#[derive(Debug)]
pub(super) struct PackedDown {
    pub part: usize,
    pub bits: u32,
    /// Whether words hold whole codes only, and leave their upper bits unused.
    pub whole: bool,
    /// Columns of the matrix.
    pub groups: u64,
    pub values: Values,
}

impl Groups for PackedDown {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        groups: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), ReadError> {
        let bits = u64::from(self.bits);
        let (first, shift) = match self.whole {
            true => (row / (32 / bits), row % (32 / bits) * bits),
            false => (row * bits / 32, row * bits % 32),
        };
        let words = match shift + bits > 32 {
            true => 2,
            false => 1,
        };
        let count = (groups.end - groups.start) as usize;
        let mut lines = vec![vec![0; count * 4]; words];
        for (line, bytes) in (first..).zip(&mut lines) {
            reader.bytes(self.part, (line * self.groups + groups.start) * 4, bytes)?;
        }
        let codes: Vec<u8> = (0..count)
            .map(|group| {
                let word = |line: &Vec<u8>| {
                    let four = &line.as_chunks::<4>().0[group];
                    u64::from(u32::from_le_bytes(*four))
                };
                let upper = lines.get(1).map_or(0, word) << 32;
                ((word(&lines[0]) | upper) >> shift) as u8 & (((1_u16 << bits) - 1) as u8)
            })
            .collect();
        let start = out.len();
        out.resize(start + count, 0.0);
        self.values.of(&codes, &mut out[start..]);
        Ok(())
    }

    fn part(&self) -> usize {
        self.part
    }
}
