//! How long orthogonal matching pursuit takes for embeddings of Qwen2.5-0.5B's width:
//!
//!     cargo bench -p mixdown-cpu --bench points -- 75000 512 64

use std::time::Instant;

use mixdown_cpu::{Features, Measure, Points};

const COLUMNS: usize = 896;

fn normal(count: usize, mut state: u64) -> Vec<f32> {
    let mut even = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| 0.02 * ((0..6).map(|_| even()).sum::<f32>() - 3.0)).collect()
}

fn main() {
    let numbers: Vec<usize> =
        std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let [points, targets, count] = numbers[..] else {
        println!("points, targets and the count of each sum are not given: 75000 512 64 are usual");
        return;
    };
    let threads = 2;
    let all = Points::new(Features::best(), COLUMNS, normal(points * COLUMNS, 1), Measure::Product);
    let targets = normal(targets * COLUMNS, 2);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for part in targets.chunks((targets.len() / COLUMNS).div_ceil(threads) * COLUMNS) {
            let all = &all;
            scope.spawn(move || all.pursue(part, count));
        }
    });
    println!("{:.2} s", begun.elapsed().as_secs_f64());
}
