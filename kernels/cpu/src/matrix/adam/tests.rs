//! The descent against a plain loop in double precision, at edges, and for its bits.

use super::*;

const LEARNING_RATE: f64 = 1e-5;

/// Numbers around 0 with this deviation.
fn numbers(stream: u64, len: usize, deviation: f64) -> Vec<f32> {
    let uniform = |key, index| {
        f64::from(mixdown_ops::random::uniform_bits(key, index)) / 4_294_967_296.0 - 0.5
    };
    (0..len as u64)
        .map(|index| {
            let sum: f64 = (0..4).map(|key| uniform(8 * stream + key, index)).sum();
            (sum * 3_f64.sqrt() * deviation) as f32
        })
        .collect()
}

/// A problem as merging poses it: task vectors of some experts with decaying spectra, each of its own
/// scale.
struct Problem {
    rows: usize,
    r: usize,
    n: usize,
    s: Vec<f32>,
    g: Vec<f32>,
    offset: Vec<f32>,
}

impl Problem {
    fn new(rows: usize, r: usize, n: usize, deviation: f64) -> Self {
        let mut s = numbers(1, r * n, deviation);
        for (row, s) in s.chunks_mut(n).enumerate() {
            let decay = 1.0 / (1.0 + (row % 16) as f32 / 4.0);
            s.iter_mut().for_each(|value| *value *= decay);
        }
        // As a literal run has it after dividing by the squared norm of an expert: rows of S are of
        // norm about 1 over their number.
        let norm: f64 = s.iter().map(|&value| f64::from(value).powi(2)).sum();
        let scale = if norm > 0.0 { (5.0 / norm).sqrt() } else { 0.0 };
        s.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
        let g = product(&transpose(&s, n), &s, n, r, n);
        let start = numbers(2, rows * n, deviation);
        let mut offset = product(&start, &g, rows, n, n);
        if r == 0 {
            offset = start;
        }
        Self { rows, r, n, s, g, offset }
    }

    fn gram(&self, features: Features) -> Vec<f32> {
        self.descend(&System::gram(features, &self.g, self.n), 300)
    }

    fn factored(&self, features: Features) -> Vec<f32> {
        self.descend(&System::factored(features, &self.s, self.r, self.n), 300)
    }

    fn descend(&self, system: &System, steps: u32) -> Vec<f32> {
        let mut displacement = vec![f32::NAN; self.rows * self.n];
        let mut scratch = Scratch::default();
        descend(
            system,
            &self.offset,
            self.rows,
            LEARNING_RATE,
            steps,
            &mut displacement,
            &mut scratch,
        );
        displacement
    }

    /// PyTorch's loop, in double precision, with the matrix of either form.
    fn literal(&self, form: Form, steps: u32) -> Vec<f64> {
        let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
        let (s, offset) = (wide(&self.s), wide(&self.offset));
        let g = match form {
            Form::Gram { .. } => wide(&self.g),
            Form::Factored { r, n } => (0..n * n)
                .map(|at| (0..r).map(|k| s[k * n + at / n] * s[k * n + at % n]).sum())
                .collect(),
        };
        let len = self.rows * self.n;
        let (mut d, mut m, mut v) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
        for step in 1..=steps {
            let mut gradient = offset.clone();
            for (d, gradient) in d.chunks(self.n).zip(gradient.chunks_mut(self.n)) {
                for (d, g) in d.iter().zip(g.chunks(self.n)) {
                    gradient.iter_mut().zip(g).for_each(|(sum, g)| *sum += d * g);
                }
            }
            let first = 1.0 - 0.9_f64.powi(step as i32);
            let second = 1.0 - 0.999_f64.powi(step as i32);
            for (at, gradient) in gradient.iter().enumerate() {
                let gradient = 2.0 * gradient;
                m[at] = 0.9 * m[at] + 0.1 * gradient;
                v[at] = 0.999 * v[at] + 0.001 * gradient * gradient;
                let root = (v[at] / second).sqrt() + 1e-8;
                d[at] -= LEARNING_RATE * (m[at] / first) / root;
            }
        }
        d
    }
}

fn transpose(from: &[f32], columns: usize) -> Vec<f32> {
    let rows = from.len() / columns;
    (0..from.len()).map(|at| from[at % rows * columns + at / rows]).collect()
}

/// Summed in double precision.
fn product(a: &[f32], b: &[f32], rows: usize, inner: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        let mut sums = vec![0.0; columns];
        for k in 0..inner {
            let a = f64::from(a[row * inner + k]);
            let b = &b[k * columns..][..columns];
            sums.iter_mut().zip(b).for_each(|(sum, &b)| *sum += a * f64::from(b));
        }
        out.extend(sums.into_iter().map(|sum| sum as f32));
    }
    out
}

/// The largest difference, as a part of the learning rate, and the norm of all relative to the norm
/// of the expected movement.
fn errors(actual: &[f32], expected: &[f64]) -> (f64, f64) {
    assert_eq!(actual.len(), expected.len());
    let differences = || actual.iter().zip(expected).map(|(&a, e)| f64::from(a) - e);
    let largest = differences().map(f64::abs).fold(0.0, f64::max);
    let norm = differences().map(|d| d * d).sum::<f64>().sqrt();
    let movement = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
    assert!(differences().all(f64::is_finite));
    (largest / LEARNING_RATE, if movement > 0.0 { norm / movement } else { norm })
}

fn assert_close(actual: &[f32], expected: &[f64], title: &str) {
    let (largest, relative) = errors(actual, expected);
    println!("{title}: largest {largest:.1e} of the learning rate, relative {relative:.1e}");
    assert!(largest <= 0.01 && relative <= 1e-4, "{title}: {largest:e}, {relative:e}");
}

#[test]
fn both_forms_follow_the_literal_loop_on_every_instruction_set() {
    for (rows, r, n) in [(13, 90, 96), (32, 60, 150), (8, 200, 300), (6, 300, 70)] {
        for deviation in [1e-4, 1e-3, 1e-2] {
            let problem = Problem::new(rows, r, n, deviation);
            let gram = problem.literal(Form::Gram { n }, 300);
            let factored = problem.literal(Form::Factored { r, n }, 300);
            let moved = gram.iter().map(|d| d * d).sum::<f64>() / gram.len() as f64;
            assert!(moved.sqrt() > 3.0 * LEARNING_RATE, "{moved}");
            for features in Features::available() {
                let title = format!("{rows} x {r} x {n}, {deviation}, {}", features.name());
                assert_close(&problem.gram(features), &gram, &title);
                assert_close(&problem.factored(features), &factored, &title);
            }
        }
    }
}

#[test]
fn forms_agree() {
    let problem = Problem::new(20, 64, 128, 1e-3);
    let features = Features::best();
    let gram: Vec<f64> = problem.gram(features).into_iter().map(f64::from).collect();
    assert_close(&problem.factored(features), &gram, "forms");
}

#[test]
fn any_shape_is_padded() {
    for features in Features::available() {
        for rows in [1, 2, 7, 25] {
            for (r, n) in [(1, 1), (3, 1), (1, 17), (5, 33), (2, 16), (17, 31), (40, 32), (1, 290)]
            {
                let problem = Problem::new(rows, r, n, 1e-3);
                let title = format!("{rows} x {r} x {n}, {}", features.name());
                let gram = problem.literal(Form::Gram { n }, 300);
                assert_close(&problem.gram(features), &gram, &title);
                let factored = problem.literal(Form::Factored { r, n }, 300);
                assert_close(&problem.factored(features), &factored, &title);
            }
        }
    }
}

#[test]
fn without_a_subspace_the_gradient_is_the_offset() {
    let problem = Problem::new(5, 0, 21, 1e-3);
    let expected = problem.literal(Form::Factored { r: 0, n: 21 }, 300);
    for features in Features::available() {
        assert_close(&problem.factored(features), &expected, features.name());
    }
}

#[test]
fn without_rows_columns_or_steps_nothing_moves() {
    let features = Features::best();
    let problem = Problem::new(3, 4, 5, 1e-3);
    let system = System::gram(features, &problem.g, 5);
    assert_eq!(problem.descend(&system, 0), [0.0; 15]);
    let scratch = &mut Scratch::default();
    descend(&system, &[], 0, LEARNING_RATE, 300, &mut [], scratch);
    let empty = System::gram(features, &[], 0);
    descend(&empty, &[], 7, LEARNING_RATE, 300, &mut [], scratch);
    let empty = System::factored(features, &[], 7, 0);
    descend(&empty, &[], 7, LEARNING_RATE, 300, &mut [], scratch);
}

#[test]
fn what_has_no_gradient_stays() {
    let (r, n) = (3, 20);
    let mut problem = Problem::new(4, r, n, 1e-3);
    for s in problem.s.chunks_mut(n) {
        s[7] = 0.0;
    }
    for offset in problem.offset.chunks_mut(n) {
        offset[7] = 0.0;
    }
    for features in Features::available() {
        let displacement = problem.factored(features);
        assert!(displacement.chunks(n).all(|row| row[7] == 0.0 && row[6] != 0.0));
    }
}

#[test]
fn bits_do_not_depend_on_blocks() {
    // More than two slabs, and sizes that are no multiple of a tile.
    let (rows, r, n) = (41, 37, 601);
    let problem = Problem::new(rows, r, n, 1e-3);
    for features in Features::available() {
        for system in
            [System::gram(features, &problem.g, n), System::factored(features, &problem.s, r, n)]
        {
            let whole = problem.descend(&system, 20);
            for block in [1, 3, 6, 20, 40] {
                let mut scratch = Scratch::default();
                let mut parts = vec![0.0; whole.len()];
                for (offset, part) in
                    problem.offset.chunks(block * n).zip(parts.chunks_mut(block * n))
                {
                    let rows = part.len() / n;
                    descend(&system, offset, rows, LEARNING_RATE, 20, part, &mut scratch);
                }
                assert!(
                    whole.iter().zip(&parts).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{}, blocks of {block}",
                    features.name()
                );
            }
        }
    }
}

#[test]
fn memory_is_as_stated() {
    for features in Features::available() {
        for form in [Form::Gram { n: 50 }, Form::Factored { r: 9, n: 50 }] {
            let system = match form {
                Form::Gram { n } => System::gram(features, &vec![0.0; n * n], n),
                Form::Factored { r, n } => System::factored(features, &vec![0.0; r * n], r, n),
            };
            let held: u64 = system.factors.iter().map(Panels::held).sum();
            assert_eq!(held, System::bytes(features, form));
            let mut scratch = Scratch::default();
            let mut displacement = vec![0.0; 7 * 50];
            let offset = vec![0.0; 7 * 50];
            descend(&system, &offset, 7, LEARNING_RATE, 1, &mut displacement, &mut scratch);
            assert_eq!(scratch.numbers.held(), Scratch::bytes(features, form, 7));
        }
    }
}

#[test]
fn blocks_share_rows_evenly() {
    for features in Features::available() {
        let (height, _) = Instructions::of(features).tile();
        for (rows, threads) in [(0, 2), (1, 2), (128, 2), (896, 2), (4864, 2), (4864, 7), (97, 1)] {
            let block = block_rows(features, rows, threads);
            assert!(block > 0 && block.is_multiple_of(height));
            assert!(block < BLOCK_ROWS + height);
        }
        assert!(block_rows(features, 128, 2) <= 64 + height);
    }
}

#[test]
fn the_cheaper_form_is_that_of_fewer_products() {
    assert_eq!(Form::cheaper(895, 896), Form::Gram { n: 896 });
    assert_eq!(Form::cheaper(895, 4864), Form::Factored { r: 895, n: 4864 });
    assert_eq!(Form::cheaper(0, 5), Form::Factored { r: 0, n: 5 });
}
