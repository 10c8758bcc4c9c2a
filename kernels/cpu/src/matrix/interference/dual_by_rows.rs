//! Filters over `K = S·Sᵀ` of whole task vectors that are read again: K is stored once, its reflections lie aside,
//! and rows of the result, which are independent given K, are solved for some at a time.

use mixdown_ops::matrix::interference::{Cut, Filter};
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::super::dense::{
    accumulate, add_scaled, multiply, product, scale_rows, squared_norm, view, zeros,
};
use super::super::lower::{self, Lower, stretches};
use super::super::product::{BLOCK_ROWS, in_blocks};
use super::super::rows::Blend;
use super::super::tridiagonal::{self, Tridiagonal};
use super::cut::Energies;
use super::dual::{Way, as_rows, descending, treat};
use super::experts::Experts;
use super::filter::{self, Treatment};
use super::partial;
use super::solvers::finish;
use super::system::each_panel;

/// Rows of S whose products are made at a time.
pub(crate) const GRAM_ROWS: usize = 3 * lower::BLOCK;

/// Sides of K from which on its reflections lie aside.
const ASIDE: usize = 1024;

/// Bytes that lie aside for a K of this side.
pub(crate) fn aside_bytes(side: usize) -> u64 {
    if side < ASIDE { 0 } else { 8 * tridiagonal::stored(side) as u64 }
}

/// `X_0 − (X_0·Sᵀ − H)·q(K)·S`.
#[derive(Debug)]
pub(crate) struct DualByRows {
    filter: Filter,
    experts: Experts,
    /// K.
    reduced: Tridiagonal,
    is_aside: bool,
    /// Its eigenvalues, descending, and what is done to them.
    values: Vec<f64>,
    treatment: Treatment,
    report: Report,
}

/// **Shapes.** N operands `m × n` with `N·m < n`; the result has their shape.
/// **Numerics.** f64. With `K = Q·T·Qᵀ` rows are multiplied by Q, by q(T) as a sum of shifted inverses, and by Qᵀ.
pub(crate) fn prepare(
    way: &Way<'_>,
    experts: Experts,
    operands: &mut dyn Operands,
    mut report: Report,
) -> Result<DualByRows, Stop> {
    let gram = gram(&experts, operands)?;
    let is_aside = aside_bytes(operands.count() * operands.shape(0).0) > 0;
    let reduced = match is_aside {
        true => Tridiagonal::aside(gram, operands)?,
        false => Tridiagonal::of_lower(gram)?,
    };
    let values = descending(reduced.eigenvalues()?);
    let (kept, treatment) = treat(way, &values, &Energies::default())?;
    if !matches!(way.cut, Cut::None) {
        report.ranks.push(kept);
    }
    Ok(DualByRows { filter: *way.filter, experts, reduced, is_aside, values, treatment, report })
}

/// Rows of S, of as many experts as they are of.
fn stack_rows(
    experts: &Experts,
    operands: &mut dyn Operands,
    first: usize,
    rows: usize,
) -> Result<Matrix, Stop> {
    let of_each = operands.shape(0).0;
    let mut stack = zeros(rows, experts.columns);
    let mut at = 0;
    while at < rows {
        let (index, row) = ((first + at) / of_each, (first + at) % of_each);
        let count = (rows - at).min(of_each - row);
        let into = &mut stack.values[at * experts.columns..(at + count) * experts.columns];
        Blend::one(experts.experts[index].operand).read(operands, row, into)?;
        at += count;
    }
    scale_rows(&mut stack, |row| experts.experts[(first + row) / of_each].weight.sqrt());
    Ok(stack)
}

/// K, by pairs of blocks of rows.
fn gram(experts: &Experts, operands: &mut dyn Operands) -> Result<Lower, Stop> {
    let side = experts.experts.len() * operands.shape(0).0;
    let mut gram = Lower::zeros(side);
    for first in (0..side).step_by(GRAM_ROWS) {
        let count = GRAM_ROWS.min(side - first);
        let own = stack_rows(experts, operands, first, count)?;
        add_products(&mut gram, (first, &own), (first, &own));
        for below in (first + count..side).step_by(GRAM_ROWS) {
            let other = stack_rows(experts, operands, below, GRAM_ROWS.min(side - below))?;
            add_products(&mut gram, (first, &own), (below, &other));
        }
    }
    Ok(gram)
}

/// Products of rows of S with others, which are the same or lie below them.
fn add_products(
    gram: &mut Lower,
    (first, own): (usize, &Matrix),
    (below, other): (usize, &Matrix),
) {
    for (at, columns) in stretches(first, first + own.rows) {
        let right = view(own).subrows(at - first, columns).transpose();
        let row = at.max(below);
        let left = view(other).subrows(row - below, below + other.rows - row);
        let into = gram.part_mut(at, columns, row).subrows_mut(0, left.nrows());
        multiply(into, faer::Accum::Replace, left, right, 1.0);
    }
}

impl DualByRows {
    /// `(X_0·Sᵀ − H)ᵀ` of rows, `R × rows`, or without X_0 `−Hᵀ` of them.
    fn residual(
        &self,
        operands: &mut dyn Operands,
        init: Option<&Matrix>,
        (first, rows): (usize, usize),
    ) -> Result<Matrix, Stop> {
        let of_each = operands.shape(0).0;
        let mut residual = zeros(self.reduced.diagonal.len(), rows);
        for (index, expert) in self.experts.experts.iter().enumerate() {
            let mut away = match init {
                Some(init) => init.clone(),
                None => zeros(rows, self.experts.columns),
            };
            let own = Blend::one(expert.operand).block(operands, first, rows)?;
            add_scaled(&mut away.values, -1.0, &own.values);
            drop(own);
            let single = Experts { experts: vec![expert.clone()], ..self.experts.clone() };
            each_panel(&single, operands, |start, panel| {
                let along = product(view(&away), view(&panel).transpose());
                let into = as_rows(&mut residual);
                into.subcols_mut(index * of_each + start, panel.rows).copy_from(view(&along));
            })?;
        }
        Ok(residual)
    }

    fn turn(&self, operands: &mut dyn Operands, rows: &mut Matrix, back: bool) -> Result<(), Stop> {
        let fetch = &mut |at: usize, numbers: &mut [f64]| operands.read_aside(at, numbers);
        match (self.is_aside, back) {
            (true, false) => self.reduced.turn_by(fetch, as_rows(rows)),
            (true, true) => self.reduced.turn_back_by(fetch, as_rows(rows)),
            (false, false) => {
                self.reduced.turn(as_rows(rows));
                Ok(())
            }
            (false, true) => {
                self.reduced.turn_back(as_rows(rows));
                Ok(())
            }
        }
    }
}

impl Prepared for DualByRows {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let columns = self.experts.columns;
        in_blocks(columns, BLOCK_ROWS, first_row, values, |first, rows, values| {
            let init = self.experts.init_block(operands, first, rows)?;
            let mut residual = self.residual(operands, Some(&init), (first, rows))?;
            self.turn(operands, &mut residual, false)?;
            let Some(smooth) = filter::smooth(&self.filter) else {
                return Err(Stop::Failed("a filter that is not smooth came to its sums".into()));
            };
            let spectrum =
                partial::Spectrum { values: &self.values, treatment: &self.treatment, smooth };
            let mut pull = || -> Result<Matrix, Stop> {
                let mut pull = self.residual(operands, None, (first, rows))?;
                pull.values.iter_mut().for_each(|value| *value = -*value);
                self.turn(operands, &mut pull, false)?;
                Ok(pull)
            };
            let mut moved =
                partial::apply(&self.filter, &spectrum, &self.reduced, &residual, &mut pull)?;
            let before = squared_norm(&residual.values);
            add_scaled(&mut residual.values, -1.0, &self.reduced.multiply(&moved).values);
            let after = squared_norm(&residual.values);
            drop(residual);
            self.turn(operands, &mut moved, true)?;
            let mut displacement = zeros(rows, columns);
            each_panel(&self.experts, operands, |start, panel| {
                let some = view(&moved).transpose().subcols(start, panel.rows);
                accumulate(&mut displacement, -1.0, some, view(&panel));
            })?;
            finish(&init, &displacement, values)?;
            Ok((before, after))
        })
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}
