//! Matrices in memory, a small generator of them, and runs of ops over all their rows.

#![allow(dead_code)]

use mixdown_cpu::CpuBackend;
use mixdown_ops::matrix::interference::{
    Adam, Cut, Filter, Init, Interference, Optimizer, Rows, Sgd, Solver, Targets,
};
use mixdown_ops::matrix::{Factors, Matrix, MatrixOp, OperandShapes, Operands, Rank, Report, Stop};
use mixdown_ops::random::{stream_key, uniform_bits};
use mixdown_ops::{Backend, Precision};

/// An operand: dense, or factors.
#[derive(Clone, Debug)]
pub enum Given {
    Dense(Matrix),
    Factors(Factors),
}

impl Given {
    pub fn dense(&self) -> Matrix {
        match self {
            Self::Dense(matrix) => matrix.clone(),
            Self::Factors(factors) => multiplied(&factors.left, &factors.right),
        }
    }
}

/// Operands, and what was put aside.
pub struct InMemory(pub Vec<Given>, pub Vec<f64>);

impl InMemory {
    pub fn new(given: &[Given]) -> Self {
        Self(given.to_vec(), Vec::new())
    }
}

impl Operands for InMemory {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn shape(&self, operand: usize) -> (usize, usize) {
        match &self.0[operand] {
            Given::Dense(matrix) => (matrix.rows, matrix.columns),
            Given::Factors(factors) => (factors.left.rows, factors.right.columns),
        }
    }

    fn read(&mut self, operand: usize, first_row: usize, values: &mut [f64]) -> Result<(), Stop> {
        let multiplied;
        let dense = match &self.0[operand] {
            Given::Dense(matrix) => matrix,
            Given::Factors(_) => {
                multiplied = self.0[operand].dense();
                &multiplied
            }
        };
        let start = first_row * dense.columns;
        values.copy_from_slice(&dense.values[start..start + values.len()]);
        Ok(())
    }

    fn read_single(
        &mut self,
        operand: usize,
        first_row: usize,
        values: &mut [f32],
    ) -> Result<(), Stop> {
        let mut wide = vec![0.0; values.len()];
        self.read(operand, first_row, &mut wide)?;
        values.iter_mut().zip(wide).for_each(|(value, wide)| *value = wide as f32);
        Ok(())
    }

    fn rank(&self, operand: usize) -> Option<usize> {
        match &self.0[operand] {
            Given::Dense(_) => None,
            Given::Factors(factors) => Some(factors.right.rows),
        }
    }

    fn factors(&mut self, operand: usize) -> Result<Factors, Stop> {
        match &self.0[operand] {
            Given::Dense(_) => Err(Stop::Reading),
            Given::Factors(factors) => Ok(factors.clone()),
        }
    }

    fn put_aside(&mut self, first: usize, numbers: &[f64]) -> Result<(), Stop> {
        let end = first + numbers.len();
        self.1.resize(self.1.len().max(end), 0.0);
        self.1[first..end].copy_from_slice(numbers);
        Ok(())
    }

    fn read_aside(&mut self, first: usize, numbers: &mut [f64]) -> Result<(), Stop> {
        numbers.copy_from_slice(&self.1[first..first + numbers.len()]);
        Ok(())
    }
}

pub struct Outcome {
    pub result: Matrix,
    pub report: Report,
    pub loss: (f64, f64),
    pub factors: Option<Factors>,
}

/// Runs an op, in blocks of as many times its own rows.
pub fn run_in(
    op: &MatrixOp,
    given: &[Given],
    precision: Precision,
    blocks: usize,
) -> Result<Outcome, Stop> {
    let backend = CpuBackend::new();
    let mut operands = InMemory::new(given);
    let (rows, columns) = operands.shape(0);
    let ranks = (0..given.len()).map(|operand| operands.rank(operand)).collect();
    let needs = backend.needs(op, &OperandShapes { rows, columns, ranks }, precision)?;
    assert!(needs.prepare_bytes >= needs.held_bytes);
    let prepared = backend.prepare(op, &mut operands, precision)?;
    let (rows, columns) = op.result_shape((rows as u64, columns as u64), given.len());
    let (rows, columns) = (rows as usize, columns as usize);
    let mut values = vec![0.0; rows * columns];
    let report = prepared.report();
    let mut loss = report.loss.unwrap_or_default();
    let height = needs.block_rows * blocks;
    // Last block first: the order must not matter.
    for first in (0..rows).step_by(height).collect::<Vec<_>>().into_iter().rev() {
        let end = (first + height).min(rows);
        let block = &mut values[first * columns..end * columns];
        let (start, end) = prepared.rows(&mut operands, first, block)?;
        loss = (loss.0 + start, loss.1 + end);
    }
    let factors = prepared.factors().cloned();
    // Directions that are zero need not be there.
    let found = factors.as_ref().map(|factors| factors.right.rows);
    assert_eq!(found.is_some(), needs.result_rank.is_some());
    assert!(found <= needs.result_rank, "{found:?} of {:?}", needs.result_rank);
    Ok(Outcome { result: Matrix { rows, columns, values }, report, loss, factors })
}

pub fn outcome(op: &MatrixOp, given: &[Given]) -> Outcome {
    match run_in(op, given, Precision::Double, 1) {
        Ok(outcome) => outcome,
        Err(stop) => panic!("{op:?} stopped: {stop:?}"),
    }
}

pub fn run(op: &MatrixOp, matrices: &[Matrix]) -> Matrix {
    outcome(op, &dense(matrices)).result
}

pub fn dense(matrices: &[Matrix]) -> Vec<Given> {
    matrices.iter().cloned().map(Given::Dense).collect()
}

pub fn matrix(rows: usize, columns: usize, values: &[f64]) -> Matrix {
    assert_eq!(values.len(), rows * columns);
    Matrix { rows, columns, values: values.to_vec() }
}

/// Uniform numbers in ±1, always the same for a seed.
pub fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
    // Streams of neighboring keys hold the same numbers in another order.
    let key = stream_key(seed, "random", "matrix", 0);
    let number = |index: usize| f64::from(uniform_bits(key, index as u64)) / f64::from(u32::MAX);
    let values = (0..rows * columns).map(|index| number(index) * 2.0 - 1.0).collect();
    Matrix { rows, columns, values }
}

pub fn randoms(count: usize, rows: usize, columns: usize) -> Vec<Matrix> {
    (0..count).map(|expert| random(rows, columns, 0x1234_5678_9abc + expert as u64)).collect()
}

pub fn factored(rows: usize, columns: usize, ranks: &[usize]) -> Vec<Given> {
    let one = |(expert, &rank): (usize, &usize)| {
        let seed = 0x9876_5432 + 2 * expert as u64;
        let (left, right) = (random(rows, rank, seed), random(rank, columns, seed + 1));
        Given::Factors(Factors { left, right })
    };
    ranks.iter().enumerate().map(one).collect()
}

pub fn multiplied(a: &Matrix, b: &Matrix) -> Matrix {
    let mut values = vec![0.0; a.rows * b.columns];
    for row in 0..a.rows {
        for inner in 0..a.columns {
            let factor = a.values[row * a.columns + inner];
            for column in 0..b.columns {
                values[row * b.columns + column] += factor * b.values[inner * b.columns + column];
            }
        }
    }
    Matrix { rows: a.rows, columns: b.columns, values }
}

pub fn transposed(a: &Matrix) -> Matrix {
    let values = (0..a.columns)
        .flat_map(|column| (0..a.rows).map(move |row| a.values[row * a.columns + column]))
        .collect();
    Matrix { rows: a.columns, columns: a.rows, values }
}

pub fn combined(matrices: &[Matrix], factors: &[f64]) -> Matrix {
    let mut sum = scaled(&matrices[0], factors[0]);
    for (matrix, factor) in matrices.iter().zip(factors).skip(1) {
        sum.values.iter_mut().zip(&matrix.values).for_each(|(sum, value)| *sum += factor * value);
    }
    sum
}

pub fn scaled(matrix: &Matrix, factor: f64) -> Matrix {
    let values = matrix.values.iter().map(|value| factor * value).collect();
    Matrix { values, ..*matrix }
}

pub fn norm(matrix: &Matrix) -> f64 {
    matrix.values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// ‖a − b‖ / ‖b‖.
pub fn distance(a: &Matrix, b: &Matrix) -> f64 {
    assert_eq!((a.rows, a.columns), (b.rows, b.columns));
    norm(&combined(&[a.clone(), b.clone()], &[1.0, -1.0])) / norm(b).max(f64::MIN_POSITIVE)
}

#[track_caller]
pub fn near(found: &Matrix, expected: &Matrix, relative: f64, what: &str) {
    let distance = distance(found, expected);
    assert!(distance <= relative, "{what}: {distance:e} is more than {relative:e}");
}

/// Every element within a distance of the worked number.
#[track_caller]
pub fn is(found: &Matrix, expected: &[f64], within: f64) {
    for (index, (found, expected)) in found.values.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= within,
            "element {index} is {found:.9}, expected {expected:.9}"
        );
    }
    assert_eq!(found.values.len(), expected.len());
}

pub fn adam(learning_rate: f64, steps: u32) -> Adam {
    Adam { learning_rate: learning_rate.into(), steps }
}

pub fn sgd(learning_rate: f64, momentum: f64, steps: u32) -> Sgd {
    Sgd { learning_rate: learning_rate.into(), momentum: momentum.into(), steps }
}

pub fn objective(
    (targets, rows): (Targets, Rows),
    rank: Rank,
    init: Init,
    solver: Solver,
) -> MatrixOp {
    MatrixOp::Interference(Interference { targets, rows, rank, snap: false, init, solver })
}

pub fn filter(filter: Filter, cut: Cut) -> Solver {
    Solver::Filter(filter, cut)
}

pub fn literal_sgd(sgd: Sgd) -> Solver {
    Solver::Literal(Optimizer::Sgd(sgd))
}

pub fn literal_adam(adam: Adam) -> Solver {
    Solver::Literal(Optimizer::Adam(adam))
}
