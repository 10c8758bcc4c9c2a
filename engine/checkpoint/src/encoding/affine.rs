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
    /// Any but zero where a code beside it is not zero.
    NotZero,
    /// Not below zero.
    Magnitude,
    /// Above zero where a code beside it is not zero.
    Positive,
}

impl Sign {
    fn allows(self, scale: f32) -> bool {
        scale.is_finite() && (matches!(self, Self::Any | Self::NotZero) || scale >= 0.0)
    }

    /// Whether writers give a scale of zero only to codes of zero, because theirs have a least magnitude.
    fn has_no_zero(self) -> bool {
        matches!(self, Self::NotZero | Self::Positive)
    }
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
        if let Some(at) = scales.iter().position(|scale| !self.sign.allows(*scale)) {
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
                    let scale = (scales[group], group as u64);
                    self.run(reader, row, &mut out[at..end], scale, others.get(group))?;
                    at = end;
                }
            }
            None => {
                let mut at = column;
                for (number, &scale) in scales.iter().enumerate() {
                    let end = ((groups.start + number as u64 + 1) * self.group).min(last + 1);
                    let run = &mut out[(at - column) as usize..(end - column) as usize];
                    let scale = (scale, groups.start + number as u64);
                    self.run(reader, row, run, scale, others.get(number))?;
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
            let is_wrong = |factor: &f32| !factor.is_finite() || *factor <= 0.0;
            if let Some(at) = factors.iter().position(is_wrong) {
                let what = format!("is {} at column {}", factors[at], column + at as u64);
                return Err(reader.wrong_value(columns.part(), &what));
            }
            out.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
        }
        Ok(())
    }

    /// The values of codes that share a scale, of a group of this number.
    ///
    /// **Errors.** A scale of zero, where codes beside it say that there was something.
    fn run(
        &self,
        reader: &Reader<'_>,
        row: u64,
        out: &mut [f32],
        (scale, group): (f32, u64),
        other: Option<&f32>,
    ) -> Result<(), ReadError> {
        let nothing = match self.shift {
            Shift::Zeros(_) => other.copied().unwrap_or(0.0),
            _ => 0.0,
        };
        if scale == 0.0 && self.sign.has_no_zero() && out.iter().any(|&code| code != nothing) {
            let what = format!("is 0 at row {row}, group {group}, where not all codes are");
            return Err(reader.wrong_value(self.scales.part(), &what));
        }
        match (&self.shift, other) {
            (Shift::Zeros(_), Some(&zero)) => {
                out.iter_mut().for_each(|value| *value = (*value - zero) * scale);
            }
            (Shift::Offsets(_), Some(&offset)) => {
                out.iter_mut().for_each(|value| *value = *value * scale + offset);
            }
            _ => out.iter_mut().for_each(|value| *value *= scale),
        }
        Ok(())
    }
}
