//! How long multiplying out a low-rank matrix takes, piece by piece as a merge reads it.
//!
//! `cargo bench -p mixdown-cpu --bench low_rank` prints seconds and GFLOP/s on one thread, at rank 40.
//! Arguments are shapes such as `18944x3584`; without any, those of a model with 3584 features are taken.

use std::time::Instant;

use mixdown_cpu::CpuBackend;
use mixdown_ops::program::PIECE;
use mixdown_ops::{Backend, LowRank, Sides};

const RANK: usize = 40;

fn main() {
    let mut shapes: Vec<(usize, usize)> = std::env::args()
        .filter_map(|word| {
            let (rows, columns) = word.split_once('x')?;
            Some((rows.parse().ok()?, columns.parse().ok()?))
        })
        .collect();
    if shapes.is_empty() {
        shapes = vec![(512, 3584), (3584, 3584), (18944, 3584), (3584, 18944)];
    }
    shapes.into_iter().for_each(|(rows, columns)| measure(rows, columns));
}

fn measure(rows: usize, columns: usize) {
    let number = |index: usize| (index % 17) as f32 - 8.0;
    let left: Vec<f32> = (0..rows * RANK).map(number).collect();
    let right: Vec<f32> = (0..RANK * columns).map(number).collect();
    let matrix = LowRank { sides: Sides::Single(&left, &right), rank: RANK, columns };
    let mut worker = CpuBackend::new().worker();
    let mut out = vec![0; 4 * PIECE as usize];
    let count = (rows * columns) as u64;
    let start = Instant::now();
    for first in (0..count).step_by(PIECE as usize) {
        let numbers = PIECE.min(count - first) as usize;
        worker.multiply(matrix, first, &mut out[..4 * numbers]);
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = 2.0 * (count as usize * RANK) as f64 / seconds / 1e9;
    println!("{rows} × {columns}: {seconds:.3} s, {rate:.1} GFLOP/s");
}
