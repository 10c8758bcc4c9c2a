//! The form that most codecs share: a matrix of codes, scales and zero points for groups of columns.

use super::groups::Groups;
use super::unpack::Codes;
use super::{Codec, Reader};
use crate::source::ReadError;

/// Columns that are decoded at a time.
const SEGMENT: u64 = 4096;

/// A matrix, or a stack of them, of codes with scales.
#[derive(Debug)]
pub(super) struct Affine {
    /// Columns of the matrix.
    pub columns: u64,
    pub codes: Box<dyn Codes>,
    /// Columns that share a scale.
    pub group: u64,
    /// The group of each column, and the count of groups, where columns were sorted before they were grouped.
    pub index: Option<(usize, u64)>,
    pub scales: Box<dyn Groups>,
    /// Which scales can be.
    pub sign: Sign,
    pub shift: Shift,
    /// What each column is multiplied by at last.
    pub of_columns: Option<Box<dyn Groups>>,
    /// What all is multiplied by at last, if not 1.
    pub factor: Option<f32>,
}

/// What takes codes to where zero is.
#[derive(Debug)]
pub(super) enum Shift {
    /// (code - zero) · scale.
    Zeros(Box<dyn Groups>),
    /// code · scale + offset.
    Offsets(Box<dyn Groups>),
    Nothing,
}

/// Which scales a codec's writers make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// Finite ones.
    Any,
    /// Not below zero.
    Magnitude,
    /// Above zero where a code beside it is not zero.
    Positive,
}

impl Codec for Affine {
    fn decode(
        &self,
        reader: &Reader<'_>,
        first: u64,
        mut out: &mut [f32],
    ) -> Result<(), ReadError> {
        let mut at = first;
        while !out.is_empty() {
            let (row, column) = (at / self.columns, at % self.columns);
            let count = SEGMENT.min(self.columns - column).min(out.len() as u64);
            let (part, rest) = out.split_at_mut(count as usize);
            self.segment(reader, row, column, part)?;
            (at, out) = (at + count, rest);
        }
        Ok(())
    }
}

impl Affine {
    fn segment(
        &self,
        reader: &Reader<'_>,
        row: u64,
        column: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        self.codes.read(reader, row, column, out)?;
        let last = column + out.len() as u64 - 1;
        let groups = match self.index {
            Some((_, groups)) => 0..groups,
            None => column / self.group..last / self.group + 1,
        };
        let mut scales = Vec::new();
        self.scales.read(reader, row, groups.clone(), &mut scales)?;
        let mut others = Vec::new();
        match &self.shift {
            Shift::Zeros(zeros) | Shift::Offsets(zeros) => {
                zeros.read(reader, row, groups.clone(), &mut others)?;
            }
            Shift::Nothing => {}
        }
        let is_wrong = |scale: &f32| !scale.is_finite() || (self.sign != Sign::Any && *scale < 0.0);
        if let Some(at) = scales.iter().position(is_wrong) {
            let what =
                format!("is {} at row {row}, group {}", scales[at], groups.start + at as u64);
            return Err(reader.wrong_value(self.scales.part(), &what));
        }
        match self.index {
            Some((part, count)) => {
                let mut bytes = vec![0; out.len() * 4];
                reader.bytes(part, column * 4, &mut bytes)?;
                let indices: Vec<u32> =
                    bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
                let mut at = 0;
                // Where columns were not sorted, runs are as long as groups.
                for run in indices.chunk_by(|one, other| one == other) {
                    let group = run[0];
                    if u64::from(group) >= count {
                        let what = format!(
                            "points to group {} at column {}, and there are {count}",
                            group.cast_signed(),
                            column + at as u64
                        );
                        return Err(reader.wrong_value(part, &what));
                    }
                    let end = at + run.len();
                    let group = group as usize;
                    self.run(&mut out[at..end], scales[group], others.get(group));
                    at = end;
                }
            }
            None => {
                let mut at = column;
                for (number, &scale) in scales.iter().enumerate() {
                    let end = ((groups.start + number as u64 + 1) * self.group).min(last + 1);
                    let run = &mut out[(at - column) as usize..(end - column) as usize];
                    self.run(run, scale, others.get(number));
                    if scale == 0.0 && self.sign == Sign::Positive {
                        self.check_zero(
                            reader,
                            row,
                            groups.start + number as u64,
                            (at, run.len()),
                        )?;
                    }
                    at = end;
                }
            }
        }
        if let Some(factor) = self.factor {
            out.iter_mut().for_each(|value| *value *= factor);
        }
        if let Some(columns) = &self.of_columns {
            let mut factors = Vec::new();
            columns.read(reader, 0, column..last + 1, &mut factors)?;
            out.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
        }
        Ok(())
    }

    /// The values of codes that share a scale.
    fn run(&self, out: &mut [f32], scale: f32, other: Option<&f32>) {
        match (&self.shift, other) {
            (Shift::Zeros(_), Some(&zero)) => {
                out.iter_mut().for_each(|value| *value = (*value - zero) * scale);
            }
            (Shift::Offsets(_), Some(&offset)) => {
                out.iter_mut().for_each(|value| *value = *value * scale + offset);
            }
            _ => out.iter_mut().for_each(|value| *value *= scale),
        }
    }

    /// A scale of zero is a mistake where codes beside it say that there was something.
    fn check_zero(
        &self,
        reader: &Reader<'_>,
        row: u64,
        group: u64,
        (column, count): (u64, usize),
    ) -> Result<(), ReadError> {
        let mut codes = vec![0.0; count];
        self.codes.read(reader, row, column, &mut codes)?;
        if codes.iter().all(|&code| code == 0.0) {
            return Ok(());
        }
        let what = format!("is 0 at row {row}, group {group}, where not all codes are");
        Err(reader.wrong_value(self.scales.part(), &what))
    }
}
