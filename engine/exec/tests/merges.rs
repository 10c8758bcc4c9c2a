//! Whole runs on the CPU backend: each result against plain code, and the same bytes for all threads,
//! budgets and stripes.

mod world;

use std::sync::Arc;

use mixdown_ops::Precision;
use mixdown_ops::program::{PIECE, Scope};
use mixdown_ops::selection::Ties;
use mixdown_plan::{Group, Work};
use mixdown_tensor::DType;
use world::{
    Model, SIZES, World, bf16_bytes, bf16_values, f32_bytes, f32_values, linear, rescale, trimmed,
    values,
};

/// Models whose tensors `t0`, `t1`, … have these sizes.
fn models(count: u64, sizes: &[u64], to_bytes: fn(&[f32]) -> Vec<u8>, dtype: DType) -> Vec<Model> {
    let names: Vec<String> = (0..sizes.len()).map(|number| format!("t{number}")).collect();
    (0..count)
        .map(|model| {
            let tensors: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(number, &size)| {
                    let data = values(model * 100 + number as u64 + 1, size);
                    (
                        names[number].as_str(),
                        dtype,
                        std::slice::from_ref(&sizes[number]),
                        to_bytes(&data),
                    )
                })
                .collect();
            Model::of(&tensors)
        })
        .collect()
}

fn input(world: &World, model: usize, tensor: usize) -> &[u8] {
    let model = &world.models[model];
    let entry = model.index.get(&format!("t{tensor}")).unwrap();
    &model.bytes[entry.offset as usize..(entry.offset + entry.bytes()) as usize]
}

#[test]
fn linear_of_all_sizes() {
    let mut world = World::new(models(3, &SIZES, bf16_bytes, DType::Bf16));
    let program = world.program(linear(3));
    let weights = [0.5, -0.25, 1.5];
    for number in 0..SIZES.len() {
        world.merge(&format!("t{number}"), DType::F32, program, &weights);
    }
    let output = world.output();
    for (number, bytes) in output.iter().enumerate() {
        let inputs: Vec<Vec<f32>> =
            (0..3).map(|model| bf16_values(input(&world, model, number))).collect();
        let expected: Vec<f32> = (0..SIZES[number] as usize)
            .map(|at| (inputs[0][at] * 0.5 + inputs[1][at] * -0.25) + inputs[2][at] * 1.5)
            .collect();
        assert!(f32_values(bytes) == expected, "size {}", SIZES[number]);
    }
}

#[test]
fn results_are_rounded_once_to_the_output_type() {
    let mut world = World::new(models(2, &[PIECE + 9], f32_bytes, DType::F32));
    let program = world.program(linear(2));
    world.merge("t0", DType::Bf16, program, &[0.75, 0.3]);
    let output = world.output();
    let (a, b) = (f32_values(input(&world, 0, 0)), f32_values(input(&world, 1, 0)));
    let exact: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a * 0.75 + b * 0.3_f32).collect();
    assert!(output[0] == bf16_bytes(&exact));
}

/// Σx² in f64, plainly.
fn square(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value) * f64::from(value)).sum()
}

fn check_scaled(out: &[f32], from: &[f32], factor: f64) {
    assert_eq!(out.len(), from.len());
    for (out, from) in out.iter().zip(from) {
        let expected = f64::from(*from) * factor;
        assert!((f64::from(*out) - expected).abs() <= expected.abs() * 2e-7, "{out} {expected}");
    }
}

#[test]
fn norms_come_before_what_uses_them() {
    let sizes = [1, 1000, PIECE, 3 * PIECE + 17];
    let mut world = World::new(models(2, &sizes, f32_bytes, DType::F32));
    let program = world.program(rescale(Scope::Tensor));
    for number in 0..sizes.len() {
        world.merge(&format!("t{number}"), DType::F32, program, &[]);
    }
    let output = world.output();
    for (number, bytes) in output.iter().enumerate() {
        let (a, b) = (f32_values(input(&world, 0, number)), f32_values(input(&world, 1, number)));
        check_scaled(&f32_values(bytes), &b, (square(&a) / square(&b)).sqrt());
    }
}

#[test]
fn norms_over_a_group_of_tensors() {
    let sizes = [1000, PIECE + 3, 0, 2 * PIECE];
    let mut world = World::new(models(2, &sizes, f32_bytes, DType::F32));
    let program = world.program(rescale(Scope::Group(0)));
    for number in 0..sizes.len() {
        world.merge(&format!("t{number}"), DType::F32, program, &[]).groups = vec![0];
    }
    world.plan.groups.push(Group {
        title: "norms".to_owned(),
        jobs: vec![0, 1, 2, 3],
        layers: vec![],
    });
    let output = world.output();
    let total = |model| -> f64 {
        (0..sizes.len()).map(|number| square(&f32_values(input(&world, model, number)))).sum()
    };
    let factor = (total(0) / total(1)).sqrt();
    for (number, bytes) in output.iter().enumerate() {
        check_scaled(&f32_values(bytes), &f32_values(input(&world, 1, number)), factor);
    }
}

/// Which elements of all these tensors together survive, by sorting.
fn survivors(deltas: &[Vec<f32>], density: f64, ties: Ties) -> Vec<Vec<bool>> {
    let mut all: Vec<(f32, usize, usize)> = Vec::new();
    for (tensor, delta) in deltas.iter().enumerate() {
        all.extend(delta.iter().enumerate().map(|(at, value)| (value.abs(), tensor, at)));
    }
    // Stable: of equal ones the earlier comes first.
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let wanted = (density * all.len() as f64).floor() as usize;
    let mut kept: Vec<Vec<bool>> = deltas.iter().map(|delta| vec![false; delta.len()]).collect();
    let least = match ties {
        Ties::Exact => f32::INFINITY,
        Ties::Inclusive => all.get(wanted).map_or(0.0, |element| element.0),
    };
    for (rank, &(value, tensor, at)) in all.iter().enumerate() {
        kept[tensor][at] = match ties {
            Ties::Exact => rank < wanted.max(1),
            Ties::Inclusive => value >= least,
        };
    }
    kept
}

fn deltas(world: &World, expert: usize, tensor: usize) -> Vec<f32> {
    let base = bf16_values(input(world, 0, tensor));
    bf16_values(input(world, expert + 1, tensor))
        .iter()
        .zip(base)
        .map(|(x, base)| x - base)
        .collect()
}

/// base + Σ trimmed task vectors, where the tensors of each inner list share their thresholds.
fn check_trimmed(world: &World, scopes: &[&[usize]], experts: usize, density: f64, ties: Ties) {
    let output = world.output();
    for &scope in scopes {
        let mut expected: Vec<Vec<f32>> =
            scope.iter().map(|&tensor| bf16_values(input(world, 0, tensor))).collect();
        for expert in 0..experts {
            let all: Vec<Vec<f32>> =
                scope.iter().map(|&tensor| deltas(world, expert, tensor)).collect();
            let kept = survivors(&all, density, ties);
            for (position, sums) in expected.iter_mut().enumerate() {
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum += if kept[position][at] { all[position][at] } else { 0.0 };
                }
            }
        }
        for (position, &tensor) in scope.iter().enumerate() {
            let found = f32_values(&output[tensor]);
            let first = found.iter().zip(&expected[position]).position(|(a, b)| a != b);
            assert_eq!(first, None, "tensor {tensor}, {ties:?} at {density}");
        }
    }
}

#[test]
fn thresholds_of_each_tensor() {
    for (density, ties) in [(0.2, Ties::Exact), (0.5, Ties::Inclusive), (1.0, Ties::Exact)] {
        let sizes = [1, 1000, PIECE + 1, 3 * PIECE + 17];
        let mut world = World::new(models(3, &sizes, bf16_bytes, DType::Bf16));
        let program = world.program(trimmed(2, ties, |_| Scope::Tensor));
        for number in 0..sizes.len() {
            world.merge(&format!("t{number}"), DType::F32, program, &[density, 0.0]);
        }
        check_trimmed(&world, &[&[0], &[1], &[2], &[3]], 2, density, ties);
    }
}

#[test]
fn a_threshold_over_three_tensors() {
    for (density, ties) in [(0.1, Ties::Exact), (0.7, Ties::Exact), (0.3, Ties::Inclusive)] {
        let sizes = [70_000, 5, 2 * PIECE + 1];
        let mut world = World::new(models(3, &sizes, bf16_bytes, DType::Bf16));
        let program = world.program(trimmed(2, ties, Scope::Group));
        for number in 0..sizes.len() {
            let merge = world.merge(&format!("t{number}"), DType::F32, program, &[density, 0.0]);
            merge.groups = vec![0, 1];
        }
        for title in ["expert 1", "expert 2"] {
            world.plan.groups.push(Group {
                title: title.to_owned(),
                jobs: vec![0, 1, 2],
                layers: vec![],
            });
        }
        check_trimmed(&world, &[&[0, 1, 2]], 2, density, ties);
    }
}

#[test]
fn double_precision_keeps_what_single_would_lose() {
    let tiny = 1e-12_f64;
    let bytes = |value: f64| value.to_le_bytes().repeat(2000);
    let one = Model::of(&[("t", DType::F64, &[2000], bytes(1.0))]);
    let other = Model::of(&[("t", DType::F64, &[2000], bytes(tiny))]);
    let mut world = World::new(vec![one, other]);
    let program = world.program(linear(2));
    world.merge("t", DType::F64, program, &[1.0, 1.0]).precision = Precision::Double;
    assert!(world.output()[0] == bytes(1.0 + tiny));
}

#[test]
fn copies_of_all_types_and_sizes() {
    let i64s: Vec<u8> = (0..PIECE + 5).flat_map(|n| (n as i64 * -7).to_le_bytes()).collect();
    let bools: Vec<u8> = (0..3 * PIECE).map(|n| u8::from(n % 3 == 0)).collect();
    let bf16s = bf16_bytes(&values(5, PIECE - 1));
    let tensors = || {
        Model::of(&[
            ("ids", DType::I64, &[PIECE + 5], i64s.clone()),
            ("mask", DType::Bool, &[3, PIECE], bools.clone()),
            ("weight", DType::Bf16, &[PIECE - 1], bf16s.clone()),
            ("none", DType::F32, &[0, 4], vec![]),
            ("one", DType::F8E4M3, &[], vec![0x31]),
        ])
    };
    let mut world = World::new(vec![tensors(), tensors(), tensors()]);
    for (name, equal_to) in
        [("ids", &[1, 2][..]), ("mask", &[]), ("weight", &[2]), ("none", &[1]), ("one", &[0])]
    {
        world.copy(name, 0, equal_to);
    }
    let output = world.output();
    assert!(output == [i64s, bools, bf16s, vec![], vec![0x31]]);
}

#[test]
fn jobs_that_share_a_program_do_not_mix() {
    let sizes: Vec<u64> = (0..40).map(|number| number * 37 % 23 * 500).collect();
    let mut world = World::new(models(2, &sizes, f32_bytes, DType::F32));
    let program = world.program(linear(2));
    for number in 0..sizes.len() {
        world.merge(&format!("t{number}"), DType::F32, program, &[number as f64, 1.0]);
    }
    assert_eq!(Arc::strong_count(&world.plan.programs[0]), 1);
    let output = world.output();
    for (number, bytes) in output.iter().enumerate() {
        assert!(matches!(world.plan.jobs[number].work, Work::Merge(_)));
        let (a, b) = (f32_values(input(&world, 0, number)), f32_values(input(&world, 1, number)));
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a * number as f32 + b).collect();
        assert!(f32_values(bytes) == expected, "tensor {number}");
    }
}
