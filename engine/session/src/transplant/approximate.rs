//! Rows of new tokens.

use std::ops::Range;

use mixdown_checkpoint::{ReadError, shown};
use mixdown_cpu::corresponding::carried;
use mixdown_cpu::{Features, Measure, Points, Rotary, Turned, Weighted};
use mixdown_ops::matrix::Matrix as Dense;
use mixdown_ops::random::stream_key;
use mixdown_search::generate::represented::{Representation, represent};

use super::map::Map;
use super::problem;
use super::request::{Method, Settings, SubwordRule, Weights};
use super::rows::{Matrix, Stored};
use super::solve;
use super::source::{Found, Texts};
use crate::numbers::normal;

/// What rows of a matrix are made with.
pub(super) struct Maker {
    kind: Kind,
    /// Of noise, by the new token's place in the output.
    noise: u64,
}

enum Kind {
    /// Rows of the donor's common tokens.
    Common(Points),
    /// Rows of the donor's common tokens, and how positions turn rows of the donor and of the model.
    Turned(Points, [Rotary; 2]),
    /// The donor's rows go through a map.
    Mapped(Map),
    /// For each new token the parts that the model's tokenizer cuts it into.
    Parts(Vec<Vec<u64>>),
    /// One row for all.
    Same(Vec<f64>),
    /// The key of normal numbers.
    Random(u64),
    /// A mean, and the lower factor of a covariance, row by row.
    Gaussian { key: u64, mean: Vec<f64>, lower: Vec<f64> },
}

/// Distances and similarities below count as this.
const SMALLEST: f64 = 1e-6;

impl Maker {
    pub fn new(matrix: &Matrix, settings: &Settings, texts: &Texts, name: &str) -> Found<Self> {
        let key = |op: &str| stream_key(settings.rows.seed, op, name, 0);
        let columns = matrix.own.columns();
        let kind = match settings.rows.method {
            Method::Zero => Kind::Same(vec![0.0; columns]),
            Method::Mean => Kind::Same(mean(&matrix.own)?),
            Method::Random => Kind::Random(key("transplant randn")),
            Method::OwnDistribution => {
                let mean = mean(&matrix.own)?;
                let lower = factor(&matrix.own, &mean)?.ok_or_else(|| {
                    let name = shown(name);
                    Box::new(
                        problem(format!("the covariance of the rows of `{name}` has no factor"))
                            .fact("rows", matrix.own.rows().to_string())
                            .fact("columns", columns.to_string())
                            .note("rows that are sums of others, or fewer than columns, have none")
                            .help("use another method, such as `--method mean --new-vocab-noise 0.02`"),
                    )
                })?;
                Kind::Gaussian { key: key("transplant john_hewitt"), mean, lower }
            }
            Method::Subword => Kind::Parts(parts(matrix, texts)?),
            Method::Landmarks | Method::SparseBasis => {
                let Some(from) = &matrix.from else { return Ok(Self::same(columns)) };
                Kind::Mapped(match settings.rows.method {
                    Method::Landmarks => Map::of_landmarks(matrix, from)?,
                    _ => Map::of_sparse_basis(matrix, from, settings.rows.count as usize)?,
                })
            }
            Method::Omp | Method::TurnedPursuit | Method::CommonInterpolation => {
                let Some(from) = &matrix.from else { return Ok(Self::same(columns)) };
                let measure = match (settings.rows.method, settings.rows.by_cosine) {
                    (Method::Omp | Method::TurnedPursuit, _) => Measure::Product,
                    (_, true) => Measure::Cosine,
                    (_, false) => Measure::Distance,
                };
                let rows = from.gathered(matrix.plan.common.iter().map(|(donor, _)| *donor));
                let rows = rows.map_err(|error| Box::new(error.diagnostic()))?;
                let points = Points::new(Features::best(), from.columns(), rows, measure);
                match &matrix.rotary {
                    Some(rotary) => Kind::Turned(points, rotary.clone()),
                    None => Kind::Common(points),
                }
            }
        };
        Ok(Self { kind, noise: key("transplant noise") })
    }

    fn same(columns: usize) -> Self {
        Self { kind: Kind::Same(vec![0.0; columns]), noise: 0 }
    }

    /// The rows of these new tokens.
    pub fn rows(&self, matrix: &Matrix, settings: &Settings, new: Range<usize>) -> Found<Vec<f64>> {
        let columns = matrix.own.columns();
        let count = new.len();
        let mut rows = vec![0.0; count * columns];
        match &self.kind {
            Kind::Same(row) => {
                rows.chunks_exact_mut(columns).for_each(|to| to.copy_from_slice(row))
            }
            Kind::Random(key) => {
                let first = (new.start * columns) as u64;
                rows.iter_mut().zip(first..).for_each(|(to, at)| *to = normal(*key, at));
            }
            Kind::Gaussian { key, mean, lower } => {
                for (row, at) in rows.chunks_exact_mut(columns).zip(new.clone()) {
                    let first = (at * columns) as u64;
                    let even: Vec<f64> =
                        (first..first + columns as u64).map(|at| normal(*key, at)).collect();
                    for (column, to) in row.iter_mut().enumerate() {
                        let lower = &lower[column * columns..=column * columns + column];
                        let sum: f64 =
                            lower.iter().zip(&even).map(|(one, other)| one * other).sum();
                        *to = mean[column] + sum;
                    }
                }
            }
            Kind::Parts(parts) => {
                for (row, parts) in rows.chunks_exact_mut(columns).zip(&parts[new.clone()]) {
                    let weights = of_parts(settings.rows.subword, parts.len(), matrix.is_head);
                    let sum = parts.iter().copied().zip(weights);
                    add_up(&matrix.own, sum, row).map_err(|error| Box::new(error.diagnostic()))?;
                }
            }
            Kind::Mapped(map) => {
                let Some(from) = &matrix.from else { return Ok(rows) };
                let targets =
                    from.gathered(matrix.plan.new[new.clone()].iter().map(|(donor, _)| *donor));
                let targets = targets.map_err(|error| Box::new(error.diagnostic()))?;
                for (row, target) in
                    rows.chunks_exact_mut(columns).zip(targets.chunks_exact(from.columns()))
                {
                    map.apply(target, row);
                }
            }
            Kind::Turned(points, rotary) => {
                turned(points, rotary, matrix, settings, new.clone(), &mut rows)?;
            }
            Kind::Common(points) => {
                let sums = sums(points, matrix, settings, new.clone())?;
                for (row, sum) in rows.chunks_exact_mut(columns).zip(sums) {
                    let own = |at: u32| matrix.plan.common[at as usize].1;
                    let sum = sum.into_iter().map(|(at, factor)| (own(at), factor));
                    add_up(&matrix.own, sum, row).map_err(|error| Box::new(error.diagnostic()))?;
                }
            }
        }
        if settings.rows.noise != 0.0 {
            let first = (new.start * columns) as u64;
            rows.iter_mut()
                .zip(first..)
                .for_each(|(value, at)| *value += settings.rows.noise * normal(self.noise, at));
        }
        if settings.rows.scale != 1.0 {
            rows.iter_mut().for_each(|value| *value *= settings.rows.scale);
        }
        Ok(rows)
    }
}

/// Rows that are sums of turned common tokens.
fn turned(
    points: &Points,
    [of_donor, of_own]: &[Rotary; 2],
    matrix: &Matrix,
    settings: &Settings,
    new: Range<usize>,
    rows: &mut [f64],
) -> Found<()> {
    let Some(from) = &matrix.from else { return Ok(()) };
    let targets = from.gathered(matrix.plan.new[new].iter().map(|(donor, _)| *donor));
    let targets = targets.map_err(|error| Box::new(error.diagnostic()))?;
    let count = settings.rows.count as usize;
    let sums = points.pursue_turned(&targets, count, of_donor, least_squares);
    let columns = matrix.own.columns();
    let mut numbers = Vec::with_capacity(columns);
    for (row, sum) in rows.chunks_exact_mut(columns).zip(sums) {
        for Turned { point, position, factor } in sum {
            numbers.clear();
            let own = matrix.plan.common[point as usize].1;
            matrix.own.numbers(own, &mut numbers).map_err(|error| Box::new(error.diagnostic()))?;
            let mut own: Vec<f64> = numbers.iter().map(|&value| f64::from(value)).collect();
            of_own.turn(&mut own, position);
            row.iter_mut().zip(&own).for_each(|(sum, value)| *sum += factor * value);
        }
    }
    Ok(())
}

/// How much of each row, `[count, columns]`, is best together; of several answers the shortest.
fn least_squares(rows: &[f64], target: &[f64]) -> Vec<f64> {
    let columns = target.len();
    let count = rows.len() / columns.max(1);
    let dot = |one: &[f64], other: &[f64]| -> f64 {
        one.iter().zip(other).map(|(one, other)| one * other).sum()
    };
    let lines: Vec<&[f64]> = rows.chunks_exact(columns).collect();
    let right: Vec<f64> = lines.iter().map(|line| dot(line, target)).collect();
    let mut system = Vec::with_capacity(count * count);
    for line in &lines {
        system.extend(lines.iter().map(|other| dot(line, other)));
    }
    if count <= columns
        && let Some(lower) = solve::lower_factor(system, count)
    {
        return solve::by_factor(&lower, right);
    }
    // The pseudo-inverse; where even that cannot be found nothing is added.
    let basis = Dense { rows: count, columns, values: rows.to_vec() };
    let unit = Dense {
        rows: count,
        columns: count,
        values: (0..count * count).map(|at| f64::from(u8::from(at % (count + 1) == 0))).collect(),
    };
    let Ok(inverse) = carried(&basis, &unit) else { return vec![0.0; count] };
    (0..count)
        .map(|at| (0..columns).map(|row| target[row] * inverse.values[row * count + at]).sum())
        .collect()
}

fn add_up(
    from: &Stored,
    sum: impl Iterator<Item = (u64, f64)>,
    into: &mut [f64],
) -> Result<(), ReadError> {
    let mut numbers = Vec::with_capacity(into.len());
    for (row, factor) in sum {
        numbers.clear();
        from.numbers(row, &mut numbers)?;
        into.iter_mut().zip(&numbers).for_each(|(sum, &value)| *sum += factor * f64::from(value));
    }
    Ok(())
}

fn mean(of: &Stored) -> Found<Vec<f64>> {
    let mut sum = vec![0.0; of.columns()];
    add_up(of, (0..of.rows()).map(|row| (row, 1.0)), &mut sum)
        .map_err(|error| Box::new(error.diagnostic()))?;
    sum.iter_mut().for_each(|value| *value /= of.rows() as f64);
    Ok(sum)
}

/// The lower factor of the covariance of a matrix' rows; none if it has none.
fn factor(of: &Stored, mean: &[f64]) -> Found<Option<Vec<f64>>> {
    let columns = of.columns();
    let mut covariance = vec![0.0; columns * columns];
    let mut numbers = Vec::with_capacity(columns);
    for row in 0..of.rows() {
        numbers.clear();
        of.numbers(row, &mut numbers).map_err(|error| Box::new(error.diagnostic()))?;
        let apart: Vec<f64> =
            numbers.iter().zip(mean).map(|(&value, mean)| f64::from(value) - mean).collect();
        for (line, &left) in covariance.chunks_exact_mut(columns).zip(&apart) {
            line.iter_mut().zip(&apart).for_each(|(sum, right)| *sum += left * right);
        }
    }
    covariance.iter_mut().for_each(|value| *value /= of.rows() as f64);
    Ok(solve::lower_factor(covariance, columns))
}

/// For each new token the ids of the parts that the model's tokenizer cuts its text into.
fn parts(matrix: &Matrix, texts: &Texts) -> Found<Vec<Vec<u64>>> {
    let words: Vec<String> = matrix.plan.new.iter().map(|(_, word)| word.text()).collect();
    let found = represent(&texts.programs, &texts.folder, &words, Representation::Parts)?;
    let rows = matrix.own.rows();
    let ids = |list: Vec<Vec<f64>>| -> Vec<u64> {
        list.into_iter().flatten().map(|id| id as u64).filter(|id| *id < rows).collect()
    };
    Ok(found.into_iter().map(ids).collect())
}

/// How much of each of so many parts a token has.
fn of_parts(rule: SubwordRule, count: usize, is_head: bool) -> Vec<f64> {
    let places = 0..count;
    match rule {
        SubwordRule::Sum => vec![1.0; count],
        SubwordRule::Mean => vec![1.0 / count.max(1) as f64; count],
        SubwordRule::WeightedMean => {
            let all = (count * (count + 1) / 2) as f64;
            let weight = |at: usize| if is_head { at + 1 } else { count - at };
            places.map(|at| weight(at) as f64 / all).collect()
        }
        SubwordRule::FirstLast => {
            let only = if is_head { 0 } else { count.saturating_sub(1) };
            places.map(|at| if at == only { 1.0 } else { 0.0 }).collect()
        }
    }
}

/// The sums of common tokens that new tokens are.
fn sums(
    points: &Points,
    matrix: &Matrix,
    settings: &Settings,
    new: Range<usize>,
) -> Found<Vec<Vec<Weighted>>> {
    let Some(from) = &matrix.from else { return Ok(vec![Vec::new(); new.len()]) };
    let targets = from.gathered(matrix.plan.new[new].iter().map(|(donor, _)| *donor));
    let targets = targets.map_err(|error| Box::new(error.diagnostic()))?;
    let count = settings.rows.count as usize;
    if settings.rows.method == Method::Omp {
        return Ok(points.pursue(&targets, count));
    }
    let nearest = points.best(&targets, count);
    let rows = targets.chunks_exact(from.columns());
    let weighted = rows.zip(nearest).map(|(target, nearest)| {
        let weights = weights(points, target, &nearest, settings);
        nearest.into_iter().zip(weights).collect()
    });
    Ok(weighted.collect())
}

/// How much of each of the nearest points a target is.
fn weights(points: &Points, target: &[f32], nearest: &[u32], settings: &Settings) -> Vec<f64> {
    let dot = |one: &[f32], other: &[f32]| -> f64 {
        one.iter().zip(other).map(|(&one, &other)| f64::from(one) * f64::from(other)).sum()
    };
    let rows: Vec<&[f32]> = nearest.iter().map(|&at| points.row(at)).collect();
    let count = rows.len();
    if settings.rows.weights == Weights::DistanceProportional {
        let length = dot(target, target).sqrt();
        let near = |row: &&[f32]| {
            if settings.rows.by_cosine {
                return dot(row, target) / (dot(row, row).sqrt() * length).max(SMALLEST);
            }
            let apart = row.iter().zip(target).map(|(&one, &other)| {
                let apart = f64::from(one) - f64::from(other);
                apart * apart
            });
            1.0 / apart.sum::<f64>().sqrt().max(SMALLEST)
        };
        let near: Vec<f64> = rows.iter().map(near).collect();
        let sum = near.iter().sum::<f64>().max(SMALLEST);
        return near.into_iter().map(|near| near / sum).collect();
    }
    let is_whole = settings.rows.weights == Weights::Barycentric;
    let size = count + usize::from(is_whole);
    let mut system = vec![0.0; size * size];
    let mut right = vec![0.0; size];
    for (at, row) in rows.iter().enumerate() {
        for (other, column) in rows.iter().enumerate() {
            system[at * size + other] = dot(row, column);
        }
        right[at] = dot(row, target);
    }
    if is_whole {
        for at in 0..count {
            system[at * size + count] = 1.0;
            system[count * size + at] = 1.0;
        }
        right[count] = 1.0;
    }
    let mut found = solve::solved(system, right);
    found.truncate(count);
    found
}
