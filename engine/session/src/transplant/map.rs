//! New rows by one linear map from the donor's space to the model's, which common tokens determine.

use mixdown_cpu::corresponding::{Gram, Pairs, carried, principal_directions};
use mixdown_cpu::{Features, Measure, Points};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::matrix::{Matrix as Dense, Stop};

use super::rows::{Matrix, Stored};
use super::source::Found;

/// Rows that are read at once.
const TOGETHER: usize = 1024;

/// `(row − from)·matrix + to`.
pub(super) struct Map {
    from: Vec<f64>,
    /// `[donor's columns, model's columns]`.
    matrix: Dense,
    to: Vec<f64>,
}

impl Map {
    /// The rotation that brings the principal directions of common tokens in the donor nearest to those in the model.
    pub fn of_landmarks(matrix: &Matrix, donor: &Stored) -> Found<Self> {
        let (donors, own): (Vec<u64>, Vec<u64>) = matrix.plan.common.iter().copied().unzip();
        let (from, to) = (mean(donor, &donors)?, mean(&matrix.own, &own)?);
        let mut pairs = Pairs::new([from.clone(), to.clone()]);
        for (donors, own) in donors.chunks(TOGETHER).zip(own.chunks(TOGETHER)) {
            pairs.add(&gathered(donor, donors)?, &gathered(&matrix.own, own)?);
        }
        Ok(Self { from, matrix: pairs.rotation().map_err(stopped)?, to })
    }

    /// A basis of the smaller space, in which each principal direction of the common tokens is a sum of `count` of
    /// them; the same sums are a basis of the other space. Rows are less the mean of all rows on both sides.
    pub fn of_sparse_basis(matrix: &Matrix, donor: &Stored, count: usize) -> Found<Self> {
        let (donors, own): (Vec<u64>, Vec<u64>) = matrix.plan.common.iter().copied().unzip();
        let is_donor = donor.columns() < matrix.own.columns();
        let (source, ids) = if is_donor { (donor, &donors) } else { (&matrix.own, &own) };
        let columns = source.columns();
        let center = mean(source, ids)?;
        let mut gram = Gram::new(center.clone());
        let mut centered = Vec::with_capacity(ids.len() * columns);
        for ids in ids.chunks(TOGETHER) {
            let rows = gathered(source, ids)?;
            gram.add(&rows);
            for row in rows.chunks_exact(columns) {
                let apart = row.iter().zip(&center).map(|(&value, mean)| f64::from(value) - mean);
                centered.extend(apart.map(|value| value as f32));
            }
        }
        let directions = principal_directions(gram.sum(), columns).map_err(stopped)?;
        let directions: Vec<f32> = directions.values.iter().map(|value| *value as f32).collect();
        let points = Points::new(Features::best(), columns, centered, Measure::Product);
        let sums = points.pursue(&directions, count);
        let basis = |of: &Stored, ids: &[u64]| -> Found<Dense> {
            let mut values = vec![0.0; sums.len() * of.columns()];
            for (row, sum) in values.chunks_exact_mut(of.columns()).zip(&sums) {
                for &(at, factor) in sum {
                    let own = gathered(of, &ids[at as usize..=at as usize])?;
                    row.iter_mut()
                        .zip(&own)
                        .for_each(|(to, &value)| *to += factor * f64::from(value));
                }
            }
            Ok(Dense { rows: sums.len(), columns: of.columns(), values })
        };
        let map = carried(&basis(donor, &donors)?, &basis(&matrix.own, &own)?).map_err(stopped)?;
        let all = |of: &Stored| mean(of, &(0..of.rows()).collect::<Vec<u64>>());
        Ok(Self { from: all(donor)?, matrix: map, to: all(&matrix.own)? })
    }

    /// The row that one of the donor becomes.
    pub fn apply(&self, row: &[f32], to: &mut [f64]) {
        to.copy_from_slice(&self.to);
        let lines = self.matrix.values.chunks_exact(self.matrix.columns);
        for ((value, mean), line) in row.iter().zip(&self.from).zip(lines) {
            let apart = f64::from(*value) - mean;
            to.iter_mut().zip(line).for_each(|(to, factor)| *to += apart * factor);
        }
    }
}

fn gathered(of: &Stored, ids: &[u64]) -> Found<Vec<f32>> {
    of.gathered(ids.iter().copied()).map_err(|error| Box::new(error.diagnostic()))
}

fn mean(of: &Stored, ids: &[u64]) -> Found<Vec<f64>> {
    let mut sum = vec![0.0; of.columns()];
    for ids in ids.chunks(TOGETHER) {
        for row in gathered(of, ids)?.chunks_exact(of.columns()) {
            sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
    }
    sum.iter_mut().for_each(|value| *value /= ids.len().max(1) as f64);
    Ok(sum)
}

pub(super) fn stopped(stop: Stop) -> Box<Diagnostic> {
    let words = match stop {
        Stop::Refused(words, _)
        | Stop::Failed(words)
        | Stop::Lacks(words)
        | Stop::Device(words, _)
        | Stop::DeviceMemory(words, _) => words,
        Stop::Reading => "rows could not be read".to_owned(),
    };
    let error = Diagnostic::error(
        codes::NUMERICS,
        format!("no map between the spaces of both models: {words}"),
    );
    Box::new(error.help("use another method, such as `--method omp`"))
}
