//! The values of a map's expressions: rearrangements of stored tensors, and sums of them.

use std::ops::Range;

use mixdown_tensor::{DType, Shape};

use crate::plan::TensorRef;
use crate::plan::{Assembled, Patch, PatchSource};

/// Stored tensors rearranged: rectangles that cover a tensor of this shape.
#[derive(Clone, Debug)]
pub(super) struct Gathered {
    pub shape: Vec<u64>,
    patches: Vec<Patch>,
}

/// A sum of rearrangements of one shape, each with its factor.
#[derive(Clone, Debug)]
pub(super) struct Sum {
    terms: Vec<(f64, Gathered)>,
}

/// Why values do not go together, in words.
pub(super) type Mismatch = String;

/// Rows and columns of a shape as a matrix.
pub(super) fn sides(shape: &[u64]) -> (u64, u64) {
    match shape {
        [] => (1, 1),
        [only] => (*only, 1),
        [outer @ .., last] => (outer.iter().product(), *last),
    }
}

impl Gathered {
    /// A whole tensor.
    pub fn of(tensor: TensorRef, shape: &Shape) -> Self {
        let shape = shape.dimensions().to_vec();
        let (rows, columns) = sides(&shape);
        let from = PatchSource::Tensor { tensor, start: 0, row_step: columns, column_step: 1 };
        let patch = Patch { rows: 0..rows, columns: 0..columns, from };
        let patches = if patch.is_empty() { Vec::new() } else { vec![patch] };
        Self { shape, patches }
    }

    fn zeros(shape: &[u64]) -> Self {
        let (rows, columns) = sides(shape);
        let patch = Patch { rows: 0..rows, columns: 0..columns, from: PatchSource::Fill(0) };
        let patches = if patch.is_empty() { Vec::new() } else { vec![patch] };
        Self { shape: shape.to_vec(), patches }
    }

    /// The part within rows and columns, moved to the beginning.
    fn cut(&self, shape: Vec<u64>, rows: &Range<u64>, columns: &Range<u64>) -> Self {
        let (down, right) = (-i128::from(rows.start), -i128::from(columns.start));
        let found = self.patches.iter().filter_map(|patch| patch.within(rows, columns));
        Self { shape, patches: found.map(|patch| patch.moved(down, right)).collect() }
    }

    fn transposed(&self, shape: Vec<u64>) -> Self {
        Self { shape, patches: self.patches.iter().map(Patch::transposed).collect() }
    }

    /// These one below the other, or one beside the other.
    fn joined(shape: Vec<u64>, parts: &[Self], axis: u8) -> Self {
        let mut patches = Vec::new();
        let mut at = 0;
        for part in parts {
            let (rows, columns) = sides(&part.shape);
            let (down, right) = if axis == 0 { (at, 0) } else { (0, at) };
            patches.extend(part.patches.iter().map(|patch| patch.moved(down, right)));
            at += i128::from(if axis == 0 { rows } else { columns });
        }
        Self { shape, patches }
    }

    /// With everything but the tensors of a type set to zero.
    fn only(&self, dtype: DType, of: &impl Fn(TensorRef) -> DType) -> Self {
        let patches = self.patches.iter().map(|patch| match patch.from {
            PatchSource::Tensor { tensor, .. } if of(tensor) != dtype => {
                Patch { from: PatchSource::Fill(0), ..patch.clone() }
            }
            _ => patch.clone(),
        });
        Self { shape: self.shape.clone(), patches: patches.collect() }
    }

    /// The tensor that it is from end to end.
    fn whole(&self, of: &impl Fn(TensorRef) -> u64) -> Option<TensorRef> {
        let (rows, columns) = sides(&self.shape);
        let [patch] = &self.patches[..] else { return None };
        let PatchSource::Tensor { tensor, start: 0, row_step, column_step } = patch.from else {
            return None;
        };
        let is_in_order = (column_step == 1 || columns == 1)
            && (row_step == columns || rows == 1)
            && of(tensor) == rows * columns;
        (is_in_order && patch.elements() == rows * columns).then_some(tensor)
    }
}

impl From<Gathered> for Sum {
    fn from(only: Gathered) -> Self {
        Self { terms: vec![(1.0, only)] }
    }
}

/// A term of a finished sum.
#[derive(Clone, Debug)]
pub(super) enum Term {
    /// A tensor as it is stored.
    Whole(TensorRef),
    /// A tensor put together.
    Assembled(Assembled),
}

impl Sum {
    pub fn shape(&self) -> &[u64] {
        &self.terms[0].1.shape
    }

    /// All tensors in it, each once.
    pub fn tensors(&self) -> Vec<TensorRef> {
        let mut found = Vec::new();
        for patch in self.terms.iter().flat_map(|(_, term)| &term.patches) {
            if let PatchSource::Tensor { tensor, .. } = patch.from
                && !found.contains(&tensor)
            {
                found.push(tensor);
            }
        }
        found
    }

    /// All rectangles of tensors in it.
    pub fn patches(&self) -> impl Iterator<Item = &Patch> {
        self.terms.iter().flat_map(|(_, term)| &term.patches)
    }

    fn each(&self, change: impl Fn(&Gathered) -> Gathered) -> Self {
        Self { terms: self.terms.iter().map(|(by, term)| (*by, change(term))).collect() }
    }

    /// These along an axis: 0 of any tensors, 1 of matrices.
    pub fn concat(parts: &[Self], axis: u8) -> Result<Self, Mismatch> {
        let first = parts[0].shape();
        let at = usize::from(axis);
        if first.is_empty() || (axis == 1 && first.len() != 2) {
            let wanted = if axis == 1 { "matrices" } else { "tensors that have axes" };
            return Err(format!(
                "along axis {axis} only {wanted} are put together, found {}",
                shown(first)
            ));
        }
        for part in parts {
            let others = part.shape().iter().enumerate().zip(first);
            let is_alike = part.shape().len() == first.len()
                && others.into_iter().all(|((axis, own), other)| axis == at || own == other);
            if !is_alike {
                return Err(format!(
                    "{} and {} differ in more than axis {axis}",
                    shown(first),
                    shown(part.shape())
                ));
            }
        }
        let mut shape = first.to_vec();
        let total = parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.shape()[at]));
        shape[at] = total.ok_or("the result is too large")?;
        Shape::new(shape.clone()).map_err(|_| "the result is too large")?;
        Ok(Self::joined(shape, parts, axis))
    }

    /// These, of one shape, along a new first axis.
    pub fn stack(parts: &[Self]) -> Result<Self, Mismatch> {
        let first = parts[0].shape();
        if let Some(other) = parts.iter().find(|part| part.shape() != first) {
            return Err(format!(
                "{} and {} are not of one shape",
                shown(first),
                shown(other.shape())
            ));
        }
        let mut shape = vec![parts.len() as u64];
        shape.extend(first);
        Shape::new(shape.clone()).map_err(|_| "the result is too large")?;
        // A single column becomes a single row.
        let lying = |part: &Self| match part.shape() {
            [length] => part.each(|term| term.transposed(vec![1, *length])),
            _ => part.clone(),
        };
        let parts: Vec<Self> = parts.iter().map(lying).collect();
        Ok(Self::joined(shape, &parts, 0))
    }

    /// Where each part is one rearrangement the result is one; else each term has zeros where it is not.
    fn joined(shape: Vec<u64>, parts: &[Self], axis: u8) -> Self {
        let single = |part: &Self| match &part.terms[..] {
            [(by, term)] if *by == 1.0 => Some(term.clone()),
            _ => None,
        };
        if let Some(all) = parts.iter().map(single).collect::<Option<Vec<_>>>() {
            return Gathered::joined(shape, &all, axis).into();
        }
        let mut terms = Vec::new();
        for (position, part) in parts.iter().enumerate() {
            for (by, term) in &part.terms {
                let pieces: Vec<Gathered> = parts
                    .iter()
                    .enumerate()
                    .map(|(other, part)| match other == position {
                        true => term.clone(),
                        false => Gathered::zeros(part.shape()),
                    })
                    .collect();
                terms.push((*by, Gathered::joined(shape.clone(), &pieces, axis)));
            }
        }
        Self { terms }
    }

    /// A stretch of an axis, which has it.
    pub fn slice(&self, axis: u8, range: &Range<u64>) -> Self {
        let own = self.shape();
        let (rows, columns) = sides(own);
        let mut shape = own.to_vec();
        shape[usize::from(axis)] = range.end - range.start;
        if axis == 1 {
            return self.each(|term| term.cut(shape.clone(), &(0..rows), range));
        }
        let each = rows.checked_div(own[0]).unwrap_or(0);
        let lines = range.start * each..range.end * each;
        self.each(|term| term.cut(shape.clone(), &lines, &(0..columns)))
    }

    /// Rows and columns exchanged.
    pub fn transpose(&self) -> Result<Self, Mismatch> {
        let &[rows, columns] = self.shape() else {
            return Err(format!("only a matrix is transposed, found {}", shown(self.shape())));
        };
        Ok(self.each(|term| term.transposed(vec![columns, rows])))
    }

    /// The mean of these, of one shape.
    pub fn mean(parts: Vec<Self>) -> Result<Self, Mismatch> {
        let first = parts[0].shape().to_vec();
        if let Some(other) = parts.iter().find(|part| part.shape() != first) {
            return Err(format!(
                "{} and {} are not of one shape",
                shown(&first),
                shown(other.shape())
            ));
        }
        let count = parts.len() as f64;
        let terms = parts.into_iter().flat_map(|part| part.terms);
        Ok(Self { terms: terms.map(|(by, term)| (by / count, term)).collect() })
    }

    /// The first rows of this, and after them those of another tensor of so many rows.
    pub fn rows_then(&self, count: u64, rest: &Gathered) -> Self {
        let all = rest.shape[0];
        let head = self.slice(0, &(0..count));
        let tail = Self::from(rest.clone()).slice(0, &(count..all));
        Self::joined(rest.shape.clone(), &[head, tail], 0)
    }

    /// Its terms, each of one type. `of` tells type and element count of a tensor.
    pub fn finish(&self, of: &impl Fn(TensorRef) -> (DType, u64)) -> Vec<(f64, Term)> {
        let dtype_of = |tensor| of(tensor).0;
        let mut found = Vec::new();
        for (by, term) in &self.terms {
            let mut dtypes: Vec<DType> = Vec::new();
            for patch in &term.patches {
                if let PatchSource::Tensor { tensor, .. } = patch.from
                    && !dtypes.contains(&dtype_of(tensor))
                {
                    dtypes.push(dtype_of(tensor));
                }
            }
            if let Some(tensor) = term.whole(&|tensor| of(tensor).1) {
                found.push((*by, Term::Whole(tensor)));
                continue;
            }
            let (rows, columns) = sides(&term.shape);
            for dtype in dtypes {
                let mut patches = term.only(dtype, &dtype_of).patches;
                patches.sort_by_key(|patch| (patch.rows.start, patch.columns.start));
                let assembled = Assembled { rows, columns, dtype, patches };
                found.push((*by, Term::Assembled(assembled)));
            }
        }
        found
    }
}

/// A shape as messages show it.
pub(super) fn shown(shape: &[u64]) -> String {
    let sizes: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

#[cfg(test)]
mod tests;
