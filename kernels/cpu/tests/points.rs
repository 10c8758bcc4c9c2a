//! Points against what products in f64 over all of them say.

use mixdown_cpu::{Features, Measure, Points};

/// Numbers that look normal, the same everywhere.
fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut even = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    (0..count).map(|_| ((0..12).map(|_| even()).sum::<f64>() - 6.0) as f32).collect()
}

fn dot(left: &[f32], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(&left, right)| f64::from(left) * right).sum()
}

fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|&value| f64::from(value)).collect()
}

/// The measure of each point, from the words of its definition.
fn measures(points: &[f32], columns: usize, target: &[f64], measure: Measure) -> Vec<f64> {
    let one = |row: &[f32]| {
        let own = wide(row);
        let square = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        match measure {
            Measure::Product => dot(row, target).abs(),
            Measure::Distance => {
                let apart: Vec<f64> =
                    own.iter().zip(target).map(|(one, other)| one - other).collect();
                -square(&apart).sqrt()
            }
            Measure::Cosine => dot(row, target) / (square(&own) * square(target)).sqrt(),
        }
    };
    points.chunks_exact(columns).map(one).collect()
}

/// Points as embeddings are: some rows large, some columns large, a common direction, a few rows of zeros.
fn embedding(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
    let mut values = normal(rows * columns, seed);
    for (at, row) in values.chunks_exact_mut(columns).enumerate() {
        let size = 0.01 * (1.0 + (at % 7) as f32);
        row.iter_mut().for_each(|value| *value = *value * size + 0.02);
        row[3 % columns] *= 40.0;
        if at % 97 == 13 {
            row.fill(0.0);
        }
    }
    values
}

#[test]
fn the_best_points_are_those_of_all_products() {
    for (rows, columns) in [(1, 3), (70, 5), (200, 32), (1500, 96)] {
        let points = embedding(rows, columns, 1);
        let targets = embedding(9, columns, 2);
        for measure in [Measure::Product, Measure::Distance, Measure::Cosine] {
            for features in Features::available() {
                let found = Points::new(features, columns, points.clone(), measure);
                for (target, best) in targets.chunks_exact(columns).zip(found.best(&targets, 10)) {
                    let all = measures(&points, columns, &wide(target), measure);
                    assert_eq!(best.len(), rows.min(10));
                    let mut sorted = all.clone();
                    sorted.retain(|value| !value.is_nan());
                    sorted.sort_by(|left, right| right.total_cmp(left));
                    for (at, best) in best.iter().enumerate().take(sorted.len()) {
                        let (wanted, own) = (sorted[at], all[*best as usize]);
                        if own.is_nan() {
                            continue;
                        }
                        let near = 1e-9 * wanted.abs().max(1e-9);
                        assert!(
                            (wanted - own).abs() <= near,
                            "{measure:?} {rows}x{columns} {}: place {at}: {own}, and not {wanted}",
                            features.name()
                        );
                    }
                }
            }
        }
    }
}

/// Orthogonal matching pursuit, with the best sum solved anew at each step by Gauss.
fn pursuit(points: &[f32], columns: usize, target: &[f64], count: usize) -> Vec<(u32, f64)> {
    let rows: Vec<Vec<f64>> = points.chunks_exact(columns).map(wide).collect();
    let (mut left, mut chosen, mut factors) = (target.to_vec(), Vec::new(), Vec::new());
    for _ in 0..count {
        let best = (0..rows.len()).filter(|at| !chosen.contains(at)).max_by(|&one, &other| {
            let product = |at: usize| -> f64 {
                rows[at].iter().zip(&left).map(|(one, other)| one * other).sum::<f64>().abs()
            };
            product(one).total_cmp(&product(other)).then(other.cmp(&one))
        });
        chosen.push(best.unwrap());
        let inner = |one: &[f64], other: &[f64]| -> f64 {
            one.iter().zip(other).map(|(one, other)| one * other).sum()
        };
        let size = chosen.len();
        let mut system: Vec<Vec<f64>> = chosen
            .iter()
            .map(|&one| {
                let mut line: Vec<f64> =
                    chosen.iter().map(|&other| inner(&rows[one], &rows[other])).collect();
                line.push(inner(&rows[one], target));
                line
            })
            .collect();
        for pivot in 0..size {
            for line in 0..size {
                if line != pivot {
                    let factor = system[line][pivot] / system[pivot][pivot];
                    let taken = system[pivot].clone();
                    let pairs = system[line].iter_mut().zip(taken);
                    pairs.for_each(|(value, taken)| *value -= factor * taken);
                }
            }
        }
        factors = (0..size).map(|at| system[at][size] / system[at][at]).collect();
        left = target.to_vec();
        for (&at, factor) in chosen.iter().zip(&factors) {
            left.iter_mut().zip(&rows[at]).for_each(|(value, other)| *value -= factor * other);
        }
    }
    chosen.into_iter().map(|at| at as u32).zip(factors).collect()
}

#[test]
fn a_pursuit_takes_the_points_of_its_definition() {
    let (rows, columns) = (400, 48);
    let points = embedding(rows, columns, 3);
    let targets = embedding(7, columns, 4);
    let mut first = None;
    for features in Features::available() {
        let all = Points::new(features, columns, points.clone(), Measure::Product);
        let found = all.pursue(&targets, 12);
        for (target, found) in targets.chunks_exact(columns).zip(&found) {
            let wanted = pursuit(&points, columns, &wide(target), 12);
            let numbers = |list: &[(u32, f64)]| list.iter().map(|one| one.0).collect::<Vec<_>>();
            assert_eq!(numbers(found), numbers(&wanted), "{}", features.name());
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!((found.1 - wanted.1).abs() < 1e-8, "{found:?}, and not {wanted:?}");
            }
        }
        // Every bit is the same with any instructions, and for one target alone.
        let bits = |found: &[Vec<(u32, f64)>]| -> Vec<Vec<(u32, u64)>> {
            let one =
                |list: &Vec<(u32, f64)>| list.iter().map(|one| (one.0, one.1.to_bits())).collect();
            found.iter().map(one).collect()
        };
        let alone: Vec<_> =
            targets.chunks_exact(columns).flat_map(|target| all.pursue(target, 12)).collect();
        assert_eq!(bits(&alone), bits(&found));
        assert_eq!(*first.get_or_insert_with(|| bits(&found)), bits(&found));
    }
}

/// Three points of a plane are enough for a target in it, and zeros need none.
#[test]
fn a_pursuit_ends_where_nothing_is_left() {
    let points = vec![1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 1.0, 1.0, 0.0];
    let points = Points::new(Features::best(), 3, points, Measure::Product);
    let found = points.pursue(&[3.0, -4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0], 3);
    assert_eq!(found[0], [(1, -2.0), (0, 3.0)]);
    assert_eq!(found[1], []);
    assert_eq!(found[2].iter().map(|one| one.1).sum::<f64>(), 0.0);
}
