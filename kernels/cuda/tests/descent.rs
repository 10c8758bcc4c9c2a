//! Descents through the whole way, on emulated kernels: against f64 and the processor's, at the edges of
//! tiles, in whatever order threads run, with memory that is short and calls that fail.

use std::sync::Arc;

use mixdown_cuda::images::Form;
use mixdown_cuda::{Capability, CudaDescents, Sizing, Version};
use mixdown_devices::{Emulated, Emulation, changed};
use mixdown_ops::descent::{Curvature, Descents};
use mixdown_ops::random::uniform_bits;

const RATE: f64 = 1e-5;
const FORMS: [Form; 3] = [Form::Plain, Form::Split, Form::Groups];

const DRIVER: Version = Version { major: 12, minor: 8 };

/// Where the emulation is built.
const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");

fn kernels() -> &'static Emulation {
    mixdown_devices::kernels(FOLDER)
}

fn sizing(form: Form, budget: u64) -> Sizing {
    let capability = Capability { major: 9, minor: 0 };
    Sizing { name: "cuda:0".to_owned(), capability, form, budget }
}

fn open(device: Arc<Emulated>, form: Form, budget: u64) -> Result<CudaDescents, String> {
    CudaDescents::load(device, DRIVER, sizing(form, budget))
}

/// A problem as merging poses it: S of decaying rows, and an offset of its span.
struct Problem {
    rows: usize,
    r: usize,
    n: usize,
    stack: Vec<f32>,
    gram: Vec<f32>,
    offset: Vec<f32>,
}

impl Problem {
    fn new(rows: usize, r: usize, n: usize) -> Self {
        let number =
            |key: u64, at: usize| f64::from(uniform_bits(key, at as u64)) / 4_294_967_296.0 - 0.5;
        let mut stack: Vec<f64> =
            (0..r * n).map(|at| number(1, at) / (1.0 + (at / n % 16) as f64 / 4.0)).collect();
        let norm: f64 = stack.iter().map(|value| value * value).sum();
        stack.iter_mut().for_each(|value| *value *= (5.0 / norm).sqrt());
        let mut gram = vec![0.0; n * n];
        for row in stack.chunks_exact(n.max(1)) {
            for (line, a) in gram.chunks_exact_mut(n).zip(row) {
                line.iter_mut().zip(row).for_each(|(sum, b)| *sum += a * b);
            }
        }
        let mut offset = vec![0.0; rows * n];
        for (row, to) in offset.chunks_exact_mut(n).enumerate() {
            for (k, line) in gram.chunks_exact(n).enumerate() {
                let start = 1e-3 * number(2, row * n + k);
                to.iter_mut().zip(line).for_each(|(sum, g)| *sum += start * g);
            }
            if r == 0 {
                to.iter_mut().enumerate().for_each(|(at, to)| *to = 1e-3 * number(3, row * n + at));
            }
        }
        let single = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
        Self { rows, r, n, stack: single(stack), gram: single(gram), offset: single(offset) }
    }

    fn systems(&self) -> [Curvature<'_>; 2] {
        [
            Curvature::Gram { gram: &self.gram, n: self.n },
            Curvature::Factored { stack: &self.stack, r: self.r, n: self.n },
        ]
    }

    fn run(&self, descents: &CudaDescents, system: Curvature<'_>, steps: u32) -> Vec<f32> {
        let mut moved = vec![f32::NAN; self.offset.len()];
        let descent = descents.begin(system).unwrap();
        descent.run(&self.offset, self.rows, RATE, steps, &mut moved).unwrap();
        moved
    }

    /// torch's loop, in f64.
    fn expected(&self, steps: u32) -> Vec<f64> {
        let n = self.n;
        let mut moved = vec![0.0_f64; self.offset.len()];
        let (mut first, mut second) = (moved.clone(), moved.clone());
        for step in 1..=steps {
            let [c1, c2] = [0.9_f64, 0.999].map(|decay| 1.0 - decay.powi(step as i32));
            for row in 0..self.rows {
                let range = row * n..(row + 1) * n;
                let mut half: Vec<f64> =
                    self.offset[range.clone()].iter().copied().map(f64::from).collect();
                for (d, line) in moved[range.clone()].iter().zip(self.gram.chunks_exact(n)) {
                    half.iter_mut().zip(line).for_each(|(sum, &g)| *sum += d * f64::from(g));
                }
                for (at, half) in range.zip(half) {
                    let g = 2.0 * half;
                    first[at] = 0.9 * first[at] + 0.1 * g;
                    second[at] = 0.999 * second[at] + 0.001 * g * g;
                    moved[at] -= RATE * first[at] / c1 / ((second[at] / c2).sqrt() + 1e-8);
                }
            }
        }
        moved
    }
}

/// The demands of a descent in f32 on its result: at most a hundredth of the rate, and 1e-4 of the movement.
#[track_caller]
fn check(got: &[f32], expected: &[f64], what: &str) {
    let off = |(&got, &want): (&f32, &f64)| (f64::from(got) - want).abs();
    let worst = got.iter().zip(expected).map(off).fold(0.0, f64::max);
    assert!(got.iter().all(|value| value.is_finite()), "{what}");
    let error: f64 = got.iter().zip(expected).map(|pair| off(pair).powi(2)).sum();
    let movement: f64 = expected.iter().map(|value| value * value).sum();
    let relative = (error / movement.max(f64::MIN_POSITIVE)).sqrt();
    println!("{what}: worst {:.1e} of the rate, {relative:.1e} of the movement", worst / RATE);
    assert!(worst <= 0.01 * RATE, "{what}: {:.1e} of the rate", worst / RATE);
    assert!(relative <= 1e-4, "{what}: {relative:.1e} of the movement");
}

#[test]
fn sides_across_the_edges_of_tiles() {
    for form in FORMS {
        let device = Emulated::new(kernels(), 0);
        let descents = open(device, form, 1 << 30).unwrap();
        for (rows, r, n) in [
            (1, 1, 1),
            (7, 3, 8),
            (9, 8, 15),
            (16, 5, 17),
            (63, 31, 64),
            (64, 33, 65),
            (65, 0, 63),
            (127, 64, 127),
            (128, 1, 128),
            (129, 127, 129),
            (2, 128, 257),
        ] {
            let problem = Problem::new(rows, r, n);
            let expected = problem.expected(3);
            for (system, name) in problem.systems().into_iter().zip(["G", "S"]) {
                // With no rows of S, G is 0 as well.
                let got = problem.run(&descents, system, 3);
                check(&got, &expected, &format!("{form:?} {name} {rows} x {n}, rank {r}"));
            }
        }
    }
}

#[test]
fn three_hundred_steps_keep_the_tolerances() {
    let problem = Problem::new(64, 40, 96);
    for form in FORMS {
        // Emulated, a step of warp groups takes ten times as long as one of warps, and computes the same.
        let steps = if form == Form::Groups { 30 } else { 300 };
        let expected = problem.expected(steps);
        let descents = open(Emulated::new(kernels(), 0), form, 1 << 30).unwrap();
        for (system, name) in problem.systems().into_iter().zip(["G", "S"]) {
            let got = problem.run(&descents, system, steps);
            check(&got, &expected, &format!("{form:?} {name}"));
        }
    }
}

/// A barrier too few shows as bits that depend on who comes first.
#[test]
fn bits_do_not_depend_on_the_order_of_threads_and_blocks() {
    let problem = Problem::new(140, 70, 200);
    for form in FORMS {
        let mut all = Vec::new();
        for seed in [0, 1, 7, 8] {
            let descents = open(Emulated::new(kernels(), seed), form, 1 << 30).unwrap();
            all.push(problem.systems().map(|system| problem.run(&descents, system, 3)));
        }
        assert!(all.iter().all(|bits| bits == &all[0]), "{form:?}");
    }
}

#[test]
fn bits_do_not_depend_on_blocks_of_rows_and_memory() {
    let problem = Problem::new(300, 40, 130);
    for form in FORMS {
        let [whole, ..] = run_within(&problem, form, 1 << 30);
        for budget in [4 << 20, 3 << 20] {
            let [parts, peak] = run_within(&problem, form, budget);
            assert_eq!(parts.0, whole.0, "{form:?}");
            assert!(peak.1 <= budget, "{form:?}: {} of {budget}", peak.1);
        }
    }

    fn run_within(problem: &Problem, form: Form, budget: u64) -> [(Vec<Vec<f32>>, u64); 2] {
        let device = Emulated::new(kernels(), 0);
        let descents = open(Arc::clone(&device), form, budget).unwrap();
        let all = problem.systems().map(|system| problem.run(&descents, system, 4)).to_vec();
        drop(descents);
        device.assert_empty();
        let peak = device.state().peak;
        [(all, peak), (Vec::new(), peak)]
    }
}

/// The same products in the same order as the processor's differ by no more than their summation does.
#[test]
fn the_processor_agrees() {
    use mixdown_cpu::{Features, adam};
    let problem = Problem::new(50, 60, 100);
    let system = adam::System::gram(Features::best(), &problem.gram, problem.n);
    let mut on_cpu = vec![0.0; problem.offset.len()];
    let scratch = &mut adam::Scratch::default();
    adam::descend(&system, &problem.offset, problem.rows, RATE, 20, &mut on_cpu, scratch);
    let wide: Vec<f64> = on_cpu.iter().copied().map(f64::from).collect();
    for form in FORMS {
        let descents = open(Emulated::new(kernels(), 0), form, 1 << 30).unwrap();
        let got = problem.run(&descents, problem.systems()[0], 20);
        check(&got, &wide, &format!("{form:?} and the processor"));
    }
}

#[test]
fn zeros_stay_and_nan_spreads() {
    let mut problem = Problem::new(5, 4, 40);
    problem.offset.fill(0.0);
    for form in FORMS {
        let descents = open(Emulated::new(kernels(), 0), form, 1 << 30).unwrap();
        for system in problem.systems() {
            assert!(problem.run(&descents, system, 3).iter().all(|&value| value == 0.0));
        }
        let mut broken = Problem::new(5, 4, 40);
        broken.offset[47] = f32::NAN;
        let got = broken.run(&descents, broken.systems()[0], 3);
        assert!(got[40..80].iter().any(|value| value.is_nan()), "{form:?}");
        assert!(got[80..].iter().all(|value| value.is_finite()), "{form:?}: other rows");
    }
}

/// Whatever call fails, the error says so, everything is given back, and nothing panics.
#[test]
fn each_call_may_fail() {
    let problem = Problem::new(3, 20, 70);
    for (form, code) in FORMS.into_iter().flat_map(|form| [(form, 2), (form, 719)]) {
        let run = |fails_at: Option<usize>| {
            let device = Emulated::new(kernels(), 0);
            device.state().fails_at = fails_at.map(|at| (at, code));
            let outcome = open(Arc::clone(&device), form, 1 << 30).and_then(|descents| {
                let mut moved = vec![0.0; problem.offset.len()];
                let descent = descents.begin(problem.systems()[1]).unwrap();
                let ran = descent.run(&problem.offset, problem.rows, RATE, 2, &mut moved);
                ran.map(|()| moved).map_err(|stop| format!("{stop:?}"))
            });
            device.assert_empty();
            let calls = device.state().calls.len();
            (outcome, calls)
        };
        let (whole, calls) = run(None);
        let whole = whole.unwrap();
        assert!(calls > 12, "{calls}");
        for at in 0..calls {
            match run(Some(at)).0 {
                // Where a smaller block, or what nobody used, made room.
                Ok(moved) => assert_eq!(moved, whole, "{form:?}, call {at}"),
                Err(error) => assert!(error.contains("CUDA_ERROR_TOLD") || code == 2, "{error}"),
            }
        }
    }
}

#[test]
fn memory_that_others_took_makes_blocks_smaller_or_an_error() {
    let problem = Problem::new(400, 10, 64);
    let large = Problem::new(10, 3, 900);
    for form in FORMS {
        let plenty = open(Emulated::new(kernels(), 0), form, 1 << 30).unwrap();
        let whole = problem.run(&plenty, problem.systems()[0], 2);
        let device = Emulated::new(kernels(), 0);
        let descents = open(Arc::clone(&device), form, 1 << 30).unwrap();
        // Less than a block of all rows takes, and than the large matrix alone.
        device.state().memory = 1 << 20;
        assert_eq!(problem.run(&descents, problem.systems()[0], 2), whole, "{form:?}");
        assert!(device.state().peak <= 1 << 20, "{form:?}");
        let descent = descents.begin(large.systems()[0]).unwrap();
        let mut moved = vec![0.0; large.offset.len()];
        let error = descent.run(&large.offset, 10, RATE, 1, &mut moved).unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains("ran out of memory") && text.contains("bytes"), "{text}");
        // What was in the way of the large one is gone, and the first can be done again.
        assert_eq!(problem.run(&descents, problem.systems()[0], 2), whole, "{form:?}");
        drop((descent, descents));
        device.assert_empty();
    }
}

#[test]
fn many_at_once_within_one_budget() {
    let problems: Vec<Problem> =
        (0..6).map(|at| Problem::new(90 + at, 9 + at, 60 + 20 * at)).collect();
    for form in FORMS {
        let plenty = open(Emulated::new(kernels(), 0), form, 1 << 30).unwrap();
        let expected: Vec<Vec<f32>> =
            problems.iter().map(|one| one.run(&plenty, one.systems()[0], 2)).collect();
        let budget = 5 << 20;
        let device = Emulated::new(kernels(), 0);
        let descents = &open(Arc::clone(&device), form, budget).unwrap();
        std::thread::scope(|scope| {
            for (problem, expected) in problems.iter().zip(&expected) {
                scope.spawn(move || {
                    for _ in 0..3 {
                        let got = problem.run(descents, problem.systems()[0], 2);
                        assert_eq!(&got, expected, "{form:?}");
                    }
                });
            }
        });
        assert!(device.state().peak <= budget, "{form:?}");
    }
}

/// What the tests above would miss if the emulation or they were blind: each change breaks a kernel, and must
/// be seen.
#[test]
fn broken_kernels_are_refused() {
    let f32_source = "descent_f32.cu";
    let f16_source = "descent_f16.cu";
    let changes = [
        (
            "last_barrier",
            Form::Plain,
            f32_source,
            "        // Before the next slab takes the place of this one.\n        __syncthreads();\n",
            "",
        ),
        (
            "first_barrier",
            Form::Plain,
            f32_source,
            "        __syncthreads();\n        for (unsigned k = 0; k < SLAB; k++)",
            "        for (unsigned k = 0; k < SLAB; k++)",
        ),
        (
            "row_off_by_one",
            Form::Plain,
            f32_source,
            "x[i] = left[k * PITCH + down + i]",
            "x[i] = left[k * PITCH + down + i + 1]",
        ),
        (
            "half_a_barrier",
            Form::Plain,
            f32_source,
            "        // Before the next slab takes the place of this one.\n        __syncthreads();\n",
            "        if (thread < 128) { __syncthreads(); }\n",
        ),
        ("gain", Form::Plain, "adam.cuh", "second_gain = 0.001f", "second_gain = 0.01f"),
        (
            "stage_barrier",
            Form::Split,
            f16_source,
            "        __syncthreads();\n        const unsigned next",
            "        const unsigned next",
        ),
        (
            "too_few_waited",
            Form::Split,
            f16_source,
            "WAIT_COPIES(STAGES - 2)",
            "WAIT_COPIES(STAGES - 1)",
        ),
        (
            "one_stage_less",
            Form::Split,
            f16_source,
            "const unsigned next = slab + STAGES - 1;",
            "const unsigned next = slab + STAGES;",
        ),
        (
            "wrong_core",
            Form::Split,
            f16_source,
            "warp % 4 * 4 + (which >> 1)",
            "warp % 4 * 4 + (which & 1)",
        ),
        (
            "phase_of_free",
            Form::Groups,
            "descent_sm90.cu",
            "WAIT_PHASE(stages, FREE(stage), (slab / STAGES - 1) & 1)",
            "WAIT_PHASE(stages, FREE(stage), (slab / STAGES) & 1)",
        ),
        (
            "not_waited_for",
            Form::Groups,
            "descent_sm90.cu",
            "        WAIT_PHASE(stages, FULL(stage), slab / STAGES & 1);\n",
            "",
        ),
        (
            "freed_too_early",
            Form::Groups,
            "descent_sm90.cu",
            "if (slab > 0 && thread % 32 == 0) {\n            ARRIVE(stages, FREE((slab - 1) % STAGES));",
            "if (thread % 32 == 0) {\n            ARRIVE(stages, FREE(slab % STAGES));",
        ),
        (
            "other_stride",
            Form::Groups,
            "descent_sm90.cu",
            "#define ALONG_LINES 128",
            "#define ALONG_LINES 256",
        ),
        (
            "bytes_uncounted",
            Form::Groups,
            "descent_sm90.cu",
            "EXPECT_BYTES(stages, FULL(stage), STAGE_BYTES)",
            "EXPECT_BYTES(stages, FULL(stage), CHUNK_BYTES)",
        ),
    ];
    for (name, form, file, old, new) in changes {
        let source = match form {
            Form::Plain => "descent_f32",
            Form::Split => "descent_f16",
            Form::Groups => "descent_sm90",
        };
        let kernels = changed(FOLDER, name, source, &[(file, old, new)]);
        let seen = std::panic::catch_unwind(|| {
            let device = Emulated::new(kernels, 1);
            let on = Arc::clone(&device);
            let opened = CudaDescents::new(on, DRIVER, sizing(form, 1 << 30)).map(drop);
            device.assert_empty();
            opened
        });
        match seen {
            Ok(Ok(())) => panic!("{name} was not seen"),
            Ok(Err(error)) => println!("{name}: {error}"),
            Err(_) => println!("{name}: memory was written that is nobody's"),
        }
    }
}
