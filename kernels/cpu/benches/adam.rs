//! How fast a block of rows descends, next to the peak of the core and to products by faer.
//!
//! `cargo bench -p mixdown-cpu --bench adam` prints billions of floating-point operations of the
//! products per second and per thread, the update being counted as none: of the shortest of some runs,
//! and of the middle one. On a machine that others use, the shortest is what the code takes. Arguments
//! are the rows of a block to try.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use mixdown_cpu::Features;
use mixdown_cpu::adam::{Form, Scratch, System, block_rows, descend};

const RUNS: usize = 9;

fn main() {
    let features = Features::best();
    let mut rows: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    if rows.is_empty() {
        rows.push(block_rows(features, 9600, 1));
    }
    println!("{}, GFLOP/s per thread", features.name());
    for threads in [1, 2] {
        println!("{threads} threads: peak {:.1}", peak(threads));
        for rows in &rows {
            for (form, steps) in
                [(Form::Gram { n: 896 }, 31), (Form::Factored { r: 895, n: 4864 }, 5)]
            {
                measure(features, form, *rows, steps, threads);
            }
        }
    }
}

fn measure(features: Features, form: Form, rows: usize, steps: u32, threads: usize) {
    let (n, system, factor) = match form {
        Form::Gram { n } => {
            let g = numbers(n * n, 1e-3);
            (n, System::gram(features, &g, n), g)
        }
        Form::Factored { r, n } => {
            let s = numbers(r * n, 1e-2);
            (n, System::factored(features, &s, r, n), s)
        }
    };
    let offset = numbers(rows * n, 1e-3);
    let each = match form {
        Form::Gram { n } => 2 * n * n,
        Form::Factored { r, n } => 4 * n * r,
    };
    // The first step has no product.
    let work = (rows * each) as f64 * f64::from(steps - 1);
    let ours = times(threads, || {
        let (offset, system) = (offset.clone(), &system);
        let mut scratch = Scratch::default();
        let mut displacement = vec![0.0; rows * n];
        move || descend(system, &offset, rows, 1e-5, steps, &mut displacement, &mut scratch)
    });
    let theirs = times(threads, || {
        let (offset, factor) = (offset.clone(), &factor);
        let mut displacement = vec![0.0; rows * n];
        let mut moments = vec![0.0; 2 * rows * n];
        let mut gradient = vec![0.0; rows * n];
        let mut inner = vec![0.0; rows * (factor.len() / n)];
        move || {
            for _ in 1..steps {
                let factor = MatRef::from_row_major_slice(factor, factor.len() / n, n);
                let from = MatRef::from_row_major_slice(&displacement, rows, n);
                let to = MatMut::from_row_major_slice_mut(&mut gradient, rows, n);
                if matches!(form, Form::Gram { .. }) {
                    matmul(to, Accum::Replace, from, factor, 1.0, Par::Seq);
                } else {
                    let width = factor.nrows();
                    let half = MatMut::from_row_major_slice_mut(&mut inner, rows, width);
                    matmul(half, Accum::Replace, from, factor.transpose(), 1.0, Par::Seq);
                    let half = MatRef::from_row_major_slice(&inner, rows, width);
                    matmul(to, Accum::Replace, half, factor, 1.0, Par::Seq);
                }
                update(&gradient, &offset, &mut moments, &mut displacement);
            }
        }
    });
    let speed = |seconds: [f64; 2]| seconds.map(|seconds| format!("{:.1}", work / seconds / 1e9));
    println!(
        "  {form:?}, {rows} rows: {}; faer and an update after it {}; ratio {:.2}",
        speed(ours).join(", middle "),
        speed(theirs).join(", middle "),
        theirs[0] / ours[0]
    );
}

/// An update as a pass of its own.
fn update(gradient: &[f32], offset: &[f32], moments: &mut [f32], displacement: &mut [f32]) {
    let (first, second) = moments.split_at_mut(gradient.len());
    let moments = first.iter_mut().zip(second);
    for (((d, (m, v)), g), o) in displacement.iter_mut().zip(moments).zip(gradient).zip(offset) {
        let g = 2.0 * (g + o);
        *m += 0.1 * (g - *m);
        *v = 0.999 * *v + 0.001 * g * g;
        *d -= 1e-5 * *m / (v.sqrt() + 1e-8);
    }
}

/// What a core reaches that does nothing but multiply and add in registers.
fn peak(threads: usize) -> f64 {
    const ROUNDS: usize = 100_000;
    const CHAINS: usize = 12 * 8;
    let [seconds, _] = times(threads, || {
        || {
            let chain = black_box([0.5_f32; CHAINS]);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor was asked for both.
                black_box(unsafe { fused(chain, ROUNDS) });
                return;
            }
            let mut chain = chain;
            for _ in 0..ROUNDS {
                chain = chain.map(|value| value * 0.999 + 1e-3);
            }
            black_box(chain);
        }
    });
    (2 * CHAINS * ROUNDS) as f64 / seconds / 1e9
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fused<const N: usize>(mut chain: [f32; N], rounds: usize) -> [f32; N] {
    for _ in 0..rounds {
        for value in &mut chain {
            *value = value.mul_add(0.999, 1e-3);
        }
    }
    chain
}

/// The shortest and the middle of some runs, each as long as the slowest of the threads that do the
/// same together.
fn times<R: FnMut()>(threads: usize, make: impl Fn() -> R + Sync) -> [f64; 2] {
    let barrier = Barrier::new(threads);
    let run = || {
        let mut run = make();
        run();
        (0..RUNS)
            .map(|_| {
                barrier.wait();
                let start = Instant::now();
                run();
                start.elapsed().as_secs_f64()
            })
            .collect::<Vec<f64>>()
    };
    let times: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut seconds: Vec<f64> =
        (0..RUNS).map(|run| times.iter().map(|times| times[run]).fold(0.0, f64::max)).collect();
    seconds.sort_by(f64::total_cmp);
    [seconds[0], seconds[RUNS / 2]]
}

/// Numbers around 0 with this deviation.
fn numbers(len: usize, deviation: f64) -> Vec<f32> {
    (0..len as u64)
        .map(|index| {
            let bits = mixdown_ops::random::uniform_bits(1, index);
            ((f64::from(bits) / 4_294_967_296.0 - 0.5) * 12_f64.sqrt() * deviation) as f32
        })
        .collect()
}
