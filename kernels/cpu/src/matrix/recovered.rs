//! Updates of low rank that were stored as whole weights: what rounding has added to them is left out, and ops
//! get them as the factors that they were.
//!
//! How large the rounding of an operand is at most in the spectral norm is known before it is decomposed
//! ([`Operands::noise`]). Where its singular values fall from above that floor to below it by a clear step, those
//! above it are what was trained. Where they go down through the floor evenly, as those of a full fine-tuning do,
//! the operand is taken as it is stored.

use std::sync::Arc;

use mixdown_ops::Precision;
use mixdown_ops::descent::Descents;
use mixdown_ops::matrix::{Factors, Matrix, MatrixOp, Noise, Operands, Prepared, Report, Stop};
use mixdown_ops::random::uniform_bits;

use super::dense::{accumulate, first_rows, product, row_gram, transposed, view, zeros};
use super::eigen::{Eigen, eigen, orthonormal};
use super::gram::{left_gram, right_gram};
use super::rows::{Blend, PANEL, panels, project};

/// By how much the last singular value above the floor must exceed the first below it. Rank 8 at 1e-4 per entry,
/// rounded to bf16 beside weights of 0.02, gives 8; a spectrum that passes through the floor evenly gives little
/// more than 1.
const CLEAR: f64 = 3.0;

/// Smaller sides up to which all singular values are computed.
pub(crate) const SMALL: usize = 640;

/// Directions that are looked at in a large matrix, one count after the other: what is of a higher rank is taken
/// as it is stored.
const SKETCHES: [usize; 2] = [64, 160];

/// Times that a sketch is multiplied with `τ·τᵀ`: directions of noise in it shrink by the square of their share
/// each time.
const POWERS: usize = 4;

/// Directions that a recovered operand of a matrix with this smaller side has at most.
pub(crate) fn most_directions(smaller: usize) -> usize {
    if smaller <= SMALL { smaller / 2 } else { SKETCHES[SKETCHES.len() - 1] }
}

/// Prepares an op on what was recovered of its operands, and of others on what is stored.
pub(crate) fn prepare(
    op: &MatrixOp,
    operands: &mut dyn Operands,
    precision: Precision,
    device: Option<&dyn Descents>,
) -> Result<Box<dyn Prepared>, Stop> {
    let count = operands.count();
    let (mut found, mut noise) = (vec![None; count], Vec::new());
    for (operand, found) in found.iter_mut().enumerate() {
        let (rows, columns) = operands.shape(operand);
        if operands.rank(operand).is_some() || rows * columns == 0 {
            continue;
        }
        let Some(floor) = operands.noise(operand, 0, rows)? else { continue };
        let recovered = recover(operands, operand, floor)?;
        noise.push(Noise {
            floor,
            rank: recovered.as_ref().map(|one| one.factors.right.rows),
            ratio: recovered.as_ref().map(|one| one.ratio),
        });
        *found = recovered.map(|one| Arc::new(one.factors));
    }
    if found.iter().all(Option::is_none) {
        let prepared = super::prepare(op, operands, precision, device)?;
        return Ok(match noise.is_empty() {
            true => prepared,
            false => Box::new(Recovered { prepared, found, noise, has_factors: true }),
        });
    }
    let mut seen = Seen { operands, found: &found };
    let prepared = super::prepare(op, &mut seen, precision, device)?;
    // That the result comes as factors could not be promised before the operands were looked at.
    Ok(Box::new(Recovered { prepared, found, noise, has_factors: false }))
}

/// What stands out of the noise.
struct Found {
    factors: Factors,
    /// The first singular value below the floor over the last above it.
    ratio: f64,
}

/// The directions of an operand above the floor, where they are clearly apart from the others.
fn recover(operands: &mut dyn Operands, operand: usize, floor: f64) -> Result<Option<Found>, Stop> {
    let (rows, columns) = operands.shape(operand);
    let blend = Blend::one(operand);
    if rows.min(columns) > SMALL {
        for size in SKETCHES {
            match sketched(operands, &blend, floor, size)? {
                Sketched::Larger => {}
                Sketched::Found(found) => return Ok(found),
            }
        }
        return Ok(None);
    }
    let is_left = rows <= columns;
    let gram = match is_left {
        true => left_gram(operands, &blend)?,
        false => right_gram(operands, &blend)?,
    };
    let Eigen { values, vectors } = eigen(&gram)?;
    let Some((rank, ratio)) = apart(&values, floor) else { return Ok(None) };
    if rank > most_directions(rows.min(columns)) {
        return Ok(None);
    }
    let vectors = first_rows(vectors, rank);
    let factors = match is_left {
        true => {
            let right = project(operands, &blend, &vectors)?;
            Factors { left: transposed(&vectors), right }
        }
        false => Factors { left: along(operands, &blend, &vectors)?, right: vectors },
    };
    Ok(Some(Found { factors, ratio }))
}

/// How many singular values, given by their squares, are above the floor, and the share of the last of them that
/// the first below it has, where that is clear.
fn apart(squares: &[f64], floor: f64) -> Option<(usize, f64)> {
    let rank = squares.iter().take_while(|&&square| square > floor * floor).count();
    let (last, next) = (squares.get(rank.checked_sub(1)?)?, squares.get(rank)?);
    let ratio = (next.max(0.0) / last).sqrt();
    (ratio * CLEAR <= 1.0).then_some((rank, ratio))
}

/// `τ·Vᵀ` for directions as rows.
fn along(operands: &mut dyn Operands, blend: &Blend, right: &Matrix) -> Result<Matrix, Stop> {
    let rows = operands.shape(0).0;
    let mut left = zeros(rows, right.rows);
    for (first, count) in panels(rows, PANEL) {
        let block = blend.block(operands, first, count)?;
        let part = product(view(&block), view(right).transpose());
        let start = first * right.rows;
        left.values[start..start + part.values.len()].copy_from_slice(&part.values);
    }
    Ok(left)
}

/// What a sketch of some directions tells.
enum Sketched {
    /// So many directions and more are above the floor.
    Larger,
    Found(Option<Found>),
}

/// The leading directions by subspace iteration from random ones, always the same.
fn sketched(
    operands: &mut dyn Operands,
    blend: &Blend,
    floor: f64,
    size: usize,
) -> Result<Sketched, Stop> {
    let columns = operands.shape(0).1;
    let mut right = zeros(size, columns);
    for (index, value) in right.values.iter_mut().enumerate() {
        let bits = uniform_bits(0x7265_636f_7665_7200, index as u64);
        *value = f64::from(bits) / f64::from(u32::MAX) - 0.5;
    }
    for power in 0..=POWERS {
        let (left, _) = orthonormal(&along(operands, blend, &right)?)?;
        right = project(operands, blend, &transposed(&left))?;
        let is_last = power == POWERS;
        if power > 0 && !is_last {
            continue;
        }
        // Singular values of what is seen through these directions are not above those of all.
        let Eigen { values, vectors } = eigen(&row_gram(view(&right)))?;
        if values.last().is_some_and(|&square| square > floor * floor) {
            return Ok(Sketched::Larger);
        }
        if !is_last {
            continue;
        }
        let Some((rank, ratio)) = apart(&values, floor) else { return Ok(Sketched::Found(None)) };
        let vectors = first_rows(vectors, rank);
        let mut own = zeros(rank, columns);
        accumulate(&mut own, 1.0, view(&vectors), view(&right));
        let left = product(view(&left), view(&vectors).transpose());
        return Ok(Sketched::Found(Some(Found { factors: Factors { left, right: own }, ratio })));
    }
    Ok(Sketched::Found(None))
}

/// Operands, some of which are what was recovered of them.
struct Seen<'o> {
    operands: &'o mut dyn Operands,
    found: &'o [Option<Arc<Factors>>],
}

impl Operands for Seen<'_> {
    fn count(&self) -> usize {
        self.operands.count()
    }

    fn shape(&self, operand: usize) -> (usize, usize) {
        self.operands.shape(operand)
    }

    fn read(&mut self, operand: usize, first_row: usize, values: &mut [f64]) -> Result<(), Stop> {
        let Some(Factors { left, right }) = self.found[operand].as_deref() else {
            return self.operands.read(operand, first_row, values);
        };
        let rows = values.len() / right.columns.max(1);
        let left = super::dense::rows_of(left, first_row, rows);
        values.copy_from_slice(&product(left, view(right)).values);
        Ok(())
    }

    fn read_single(
        &mut self,
        operand: usize,
        first_row: usize,
        values: &mut [f32],
    ) -> Result<(), Stop> {
        if self.found[operand].is_none() {
            return self.operands.read_single(operand, first_row, values);
        }
        let mut wide = vec![0.0; values.len()];
        self.read(operand, first_row, &mut wide)?;
        values.iter_mut().zip(wide).for_each(|(value, wide)| *value = wide as f32);
        Ok(())
    }

    fn rank(&self, operand: usize) -> Option<usize> {
        match &self.found[operand] {
            Some(factors) => Some(factors.right.rows),
            None => self.operands.rank(operand),
        }
    }

    fn factors(&mut self, operand: usize) -> Result<Factors, Stop> {
        match &self.found[operand] {
            Some(factors) => Ok(Factors::clone(factors)),
            None => self.operands.factors(operand),
        }
    }

    fn put_aside(&mut self, first: usize, numbers: &[f64]) -> Result<(), Stop> {
        self.operands.put_aside(first, numbers)
    }

    fn read_aside(&mut self, first: usize, numbers: &mut [f64]) -> Result<(), Stop> {
        self.operands.read_aside(first, numbers)
    }
}

/// An op whose operands were looked at.
struct Recovered {
    prepared: Box<dyn Prepared>,
    found: Vec<Option<Arc<Factors>>>,
    noise: Vec<Noise>,
    /// Whether a result as factors is one that was promised.
    has_factors: bool,
}

impl Prepared for Recovered {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let mut seen = Seen { operands, found: &self.found };
        self.prepared.rows(&mut seen, first_row, values)
    }

    fn factors(&self) -> Option<&Factors> {
        if self.has_factors { self.prepared.factors() } else { None }
    }

    fn report(&self) -> Report {
        Report { noise: self.noise.clone(), ..self.prepared.report() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::dense::{add_scaled, squared_norm};

    /// A matrix whose rounding has a known size.
    struct Stored(Matrix, Option<f64>);

    impl Operands for Stored {
        fn count(&self) -> usize {
            1
        }

        fn shape(&self, _: usize) -> (usize, usize) {
            (self.0.rows, self.0.columns)
        }

        fn read(&mut self, _: usize, first: usize, values: &mut [f64]) -> Result<(), Stop> {
            let start = first * self.0.columns;
            values.copy_from_slice(&self.0.values[start..start + values.len()]);
            Ok(())
        }

        fn read_single(&mut self, _: usize, _: usize, _: &mut [f32]) -> Result<(), Stop> {
            Err(Stop::Reading)
        }

        fn rank(&self, _: usize) -> Option<usize> {
            None
        }

        fn factors(&mut self, _: usize) -> Result<Factors, Stop> {
            Err(Stop::Reading)
        }

        fn noise(&mut self, _: usize, _: usize, _: usize) -> Result<Option<f64>, Stop> {
            Ok(self.1)
        }
    }

    fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
        let number = |index| f64::from(uniform_bits(seed, index)) / f64::from(u32::MAX) - 0.5;
        let values = (0..(rows * columns) as u64).map(number).collect();
        Matrix { rows, columns, values }
    }

    /// Low rank beneath noise of a known size comes back; what has no clear step stays as it is.
    #[test]
    fn what_stands_out_clearly_is_recovered() {
        // On both sides of the small ones, and of either form.
        for (rows, columns, rank) in [(60, 90, 5), (90, 60, 5), (700, 650, 9), (650, 1000, 80)] {
            let left = random(rows, rank, 1);
            let mut whole = product(view(&left), view(&random(rank, columns, 2)));
            let noise = random(rows, columns, 3);
            // Variance of uniform numbers: a twelfth.
            let floor = 0.01 * (((rows as f64).sqrt() + (columns as f64).sqrt()) / 12f64.sqrt());
            let exact = whole.clone();
            add_scaled(&mut whole.values, 0.01, &noise.values);
            let found = recover(&mut Stored(whole.clone(), None), 0, floor * 1.05).unwrap();
            let Some(Found { factors, ratio }) = found else {
                panic!("nothing of {rows} × {columns} was found")
            };
            assert_eq!(factors.right.rows, rank);
            assert!(ratio < 0.33);
            let mut rest = product(view(&factors.left), view(&factors.right));
            add_scaled(&mut rest.values, -1.0, &exact.values);
            let left = squared_norm(&rest.values) / (1e-4 * squared_norm(&noise.values));
            // Of the noise only what lies in the directions that are kept.
            let share = rank as f64 * (rows + columns) as f64 / (rows * columns) as f64;
            assert!(left < 1.5 * share, "{left} of {share}");
            // A floor that is above all, or in the midst of them, is no step.
            for floor in [1e9, floor * 0.5] {
                let found = recover(&mut Stored(whole.clone(), None), 0, floor).unwrap();
                assert!(found.is_none(), "{rows} × {columns}, {floor}");
            }
        }
    }

    /// The sketch of a large matrix finds what its decomposition does.
    #[test]
    fn a_sketch_is_the_truncated_decomposition() {
        let (rows, columns, rank) = (700, 650, 9);
        let mut whole = product(view(&random(rows, rank, 1)), view(&random(rank, columns, 2)));
        add_scaled(&mut whole.values, 0.05, &random(rows, columns, 3).values);
        let operands = &mut Stored(whole, None);
        let Sketched::Found(Some(found)) =
            sketched(operands, &Blend::one(0), 0.05 * 16.0, 64).unwrap()
        else {
            panic!("nothing was found")
        };
        let gram = right_gram(operands, &Blend::one(0)).unwrap();
        let right = first_rows(eigen(&gram).unwrap().vectors, rank);
        let expected =
            product(view(&along(operands, &Blend::one(0), &right).unwrap()), view(&right));
        let mut difference = product(view(&found.factors.left), view(&found.factors.right));
        add_scaled(&mut difference.values, -1.0, &expected.values);
        let share = squared_norm(&difference.values) / squared_norm(&expected.values);
        assert!(share.sqrt() < 1e-7, "{share:e}");
    }
}
