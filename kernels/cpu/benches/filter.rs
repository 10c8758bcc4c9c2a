//! How long a spectral filter takes on full-rank operands.
//!
//! `cargo bench -p mixdown-cpu --bench filter` prints seconds of preparing and of all rows, on one thread,
//! for 5 experts. Arguments are shapes such as `896x4864`; without any, those of one layer of a model
//! with 896 features are taken.

use std::time::Instant;

use mixdown_cpu::CpuBackend;
use mixdown_ops::matrix::interference::{Cut, Filter, Init, Interference, Rows, Solver, Targets};
use mixdown_ops::matrix::{Factors, MatrixOp, OperandShapes, Operands, Rank, Stop};
use mixdown_ops::{Backend, Precision};

const EXPERTS: usize = 5;

fn main() {
    let mut shapes: Vec<(usize, usize)> = std::env::args()
        .filter_map(|word| {
            let (rows, columns) = word.split_once('x')?;
            Some((rows.parse().ok()?, columns.parse().ok()?))
        })
        .collect();
    if shapes.is_empty() {
        shapes = vec![(896, 896), (128, 896), (4864, 896), (896, 4864)];
    }
    shapes.into_iter().for_each(|(rows, columns)| measure(rows, columns));
}

fn measure(rows: usize, columns: usize) {
    let op = MatrixOp::Interference(Interference {
        targets: Targets::Whole,
        rows: Rows::Whole,
        rank: Rank::Full,
        snap: false,
        init: Init::Sum,
        solver: Solver::Filter(Filter::Exponential(300.0.into()), Cut::Share(0.65.into())),
    });
    let backend = CpuBackend::new();
    let mut operands = Random { rows, columns };
    let shapes = OperandShapes { rows, columns, ranks: vec![None; EXPERTS] };
    let needs = backend.needs(&op, &shapes, Precision::Single).expect("the op is sound");
    let start = Instant::now();
    let prepared =
        backend.prepare(&op, &mut operands, Precision::Single).expect("the operands are finite");
    let preparing = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut values = vec![0.0; needs.block_rows * columns];
    for first in (0..rows).step_by(needs.block_rows) {
        let count = needs.block_rows.min(rows - first);
        prepared
            .rows(&mut operands, first, &mut values[..count * columns])
            .expect("the result is finite");
    }
    println!(
        "{rows} × {columns}: preparing {preparing:.2} s, rows {:.2} s; at most {} MB",
        start.elapsed().as_secs_f64(),
        needs.prepare_bytes / 1_000_000
    );
}

/// Experts of independent numbers: all directions differ.
struct Random {
    rows: usize,
    columns: usize,
}

impl Operands for Random {
    fn count(&self) -> usize {
        EXPERTS
    }

    fn shape(&self, _: usize) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn read(&mut self, operand: usize, first_row: usize, values: &mut [f64]) -> Result<(), Stop> {
        let start = (operand * self.rows + first_row) * self.columns;
        for (index, value) in values.iter_mut().enumerate() {
            let bits = (start + index) as u64;
            let mixed = (bits ^ (bits >> 13)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *value = (mixed >> 40) as f64 / (1u64 << 24) as f64 * 2e-3 - 1e-3;
        }
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
}
