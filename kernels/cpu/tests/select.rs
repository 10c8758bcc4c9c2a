//! Selections through the worker: the partials of each round on each instruction set, and whole
//! selections against a sort.

use mixdown_backends::job::{
    self, Job, PIECE_SIZES, PRECISIONS, SIZES, exact, numbers, ordinaries,
};
use mixdown_cpu::{CpuBackend, Features};
use mixdown_ops::program::{BLOCK, PIECE, Scope, SelectionSlot};
use mixdown_ops::real::Key;
use mixdown_ops::selection::{BUCKETS, Coverage, Keys, Round, RoundPartial, Selection, Ties};
use mixdown_ops::{Instruction, Precision, Real};
use mixdown_tensor::DType;

fn job(features: Features, precision: Precision, values: &[f64], round: Round) -> Job {
    let mut job =
        Job::new(CpuBackend::with_features(features), precision, exact(precision), &[values]);
    let slot = SelectionSlot {
        density: 0,
        is_count: false,
        among: None,
        magnitude: None,
        ties: Ties::Exact,
        cut: 0,
        scope: Scope::Tensor,
    };
    job.pass.selections = vec![slot];
    job.rounds = vec![round];
    job.steps(&[Instruction::Select { from: 0, slot: 0 }])
}

fn partial(job: &Job) -> RoundPartial {
    job.run().1.selections.remove(0)
}

fn keys_of(precision: Precision, values: &[f64]) -> Vec<u64> {
    let key = |value: &f64| match precision {
        Precision::Single => Real::key(*value as f32).widen(),
        Precision::Double => Real::key(*value),
    };
    values.iter().map(key).collect()
}

fn list(precision: Precision, keys: Vec<u64>) -> Keys {
    match precision {
        Precision::Single => Keys::Single(keys.into_iter().map(|key| key as u32).collect()),
        Precision::Double => Keys::Double(keys),
    }
}

/// Calls `test` for each instruction set and precision.
fn everywhere(test: impl Fn(Features, Precision)) {
    for features in Features::available() {
        PRECISIONS.into_iter().for_each(|precision| test(features, precision));
    }
}

#[test]
fn collecting_keeps_the_order_and_the_limit() {
    for size in SIZES.into_iter().chain(PIECE_SIZES) {
        let values = numbers(size, 1);
        everywhere(|features, precision| {
            let keys = keys_of(precision, &values);
            for limit in [0, 1, 1024, 1500, usize::MAX] {
                let got = partial(&job(features, precision, &values, Round::Collect { limit }));
                let kept = keys[..size.min(limit)].to_vec();
                let expected =
                    RoundPartial::Collected { keys: list(precision, kept), overflow: size > limit };
                assert!(got == expected, "{size} with room for {limit}");
            }
        });
    }
}

#[test]
fn brackets_count_and_collect() {
    for size in SIZES.into_iter().chain(PIECE_SIZES) {
        let mut values = ordinaries(size, 1);
        // Ties at both bounds, and zeros of both signs.
        let planted = [0.25, -0.5, 0.0, -0.0];
        for (index, value) in values.iter_mut().enumerate().filter(|(index, _)| index % 3 == 0) {
            *value = planted[index / 3 % 4];
        }
        everywhere(|features, precision| {
            let keys = keys_of(precision, &values);
            let bound = |value: f64| keys_of(precision, &[value])[0];
            for (low, high) in [(0.25, 0.5), (0.25, 0.25), (0.0, 0.0), (0.0, f64::NAN), (0.4, 0.41)]
            {
                let (low, high) = (bound(low), bound(high));
                let count =
                    |test: &dyn Fn(u64) -> bool| keys.iter().filter(|k| test(**k)).count() as u64;
                let inside: Vec<_> =
                    keys.iter().copied().filter(|key| low < *key && *key < high).collect();
                let limit = usize::MAX;
                let got = partial(&job(
                    features,
                    precision,
                    &values,
                    Round::Bracket { low, high, limit },
                ));
                let expected = RoundPartial::Bracketed {
                    above: count(&|key| key > high),
                    at_high: count(&|key| key == high),
                    at_low: if low == high { 0 } else { count(&|key| key == low) },
                    below: count(&|key| key < low),
                    inside: list(precision, inside.clone()),
                    overflow: false,
                };
                assert!(got == expected, "{size} from {low} to {high}: {got:?}");
                // Without room the counts stay right.
                for limit in [0, 10] {
                    let round = Round::Bracket { low, high, limit };
                    let RoundPartial::Bracketed { above, inside: kept, overflow, .. } =
                        partial(&job(features, precision, &values, round))
                    else {
                        panic!("no bracket");
                    };
                    assert_eq!(above, count(&|key| key > high));
                    assert_eq!(kept.len(), inside.len().min(limit));
                    assert_eq!(overflow, inside.len() > limit);
                }
            }
        });
    }
}

#[test]
fn histograms_count_what_lies_in_reach() {
    for size in [0, 1, 1025, 65_537] {
        let values = numbers(size, 2);
        everywhere(|features, precision| {
            let keys = keys_of(precision, &values);
            let (low, high) = (keys_of(precision, &[0.1])[0], keys_of(precision, &[1.0])[0]);
            let shift = 64 - (high - low).leading_zeros() - 11;
            let mut expected = vec![0_u32; BUCKETS];
            for key in keys.iter().filter(|key| (low..=high).contains(key)) {
                expected[((key - low) >> shift) as usize] += 1;
            }
            let got =
                partial(&job(features, precision, &values, Round::Histogram { low, high, shift }));
            assert!(got == RoundPartial::Counts(expected), "{size}");
        });
    }
}

#[test]
fn ties_are_found_by_their_number() {
    let mut values = ordinaries(5000, 1);
    let places = [0, 1, 63, 64, 1023, 1024, 1025, 4999];
    places.into_iter().for_each(|place| values[place] = if place % 2 == 0 { 2.0 } else { -2.0 });
    everywhere(|features, precision| {
        for skip in 0..10 {
            let key = keys_of(precision, &[2.0])[0];
            let mut job = job(features, precision, &values, Round::FindTie { key, skip });
            job.first = 3 * PIECE;
            job.stretch = 2048;
            let expected = places.get(skip as usize).map(|place| 3 * PIECE + *place as u64);
            assert_eq!(partial(&job), RoundPartial::Tie(expected), "{skip}");
        }
    });
}

#[test]
fn an_idle_selection_finds_nothing() {
    everywhere(|features, precision| {
        let job = job(features, precision, &ordinaries(100, 1), Round::Idle);
        assert_eq!(partial(&job), RoundPartial::Idle);
    });
}

/// A whole selection over two tensors stored as bf16, so that many magnitudes are equal.
fn survivors(features: Features, precision: Precision, density: f64, budget: usize) {
    let members = [ordinaries(2 * PIECE as usize + 77, 3), ordinaries(5000, 4)];
    let members = members.map(|values| {
        let stored = job::encode(DType::Bf16, &values);
        job::decode(DType::Bf16, &stored[job::GUARD..][..2 * values.len()])
    });
    let sizes: Vec<_> = members.iter().map(|values| values.len() as u64).collect();
    let mut selection = Selection::new(&sizes, density, Ties::Exact, precision, budget);
    while let Some(plan) = selection.next_round() {
        let mut show = |member: usize, first: u64, elements: usize| {
            let values = &members[member][first as usize..first as usize + elements];
            let mut job = job(features, precision, values, plan.round);
            job.first = first;
            selection.absorb(member, first / PIECE, partial(&job));
        };
        for (member, &size) in sizes.iter().enumerate() {
            if plan.coverage == Coverage::Sample {
                let starts = Selection::new(&sizes, density, Ties::Exact, precision, budget)
                    .sample_stretches(member);
                for start in starts {
                    show(member, start, BLOCK.min((size - start) as usize));
                }
                continue;
            }
            for piece in 0..size.div_ceil(PIECE) {
                let covered = plan.coverage == Coverage::Everything
                    || plan.coverage == Coverage::Piece { member, piece };
                if covered {
                    let first = piece * PIECE;
                    show(member, first, PIECE.min(size - first) as usize);
                }
            }
        }
        selection.end_round();
    }
    let mut kept = 0;
    let mut least_kept = u64::MAX;
    let mut largest_dropped = 0;
    for (member, values) in members.iter().enumerate() {
        let cut = selection.cut(member);
        for (index, key) in (0..).zip(keys_of(precision, values)) {
            if key > cut.key || key == cut.key && index < cut.ties_before {
                kept += 1;
                least_kept = least_kept.min(key);
            } else {
                largest_dropped = largest_dropped.max(key);
            }
        }
    }
    let total: u64 = sizes.iter().sum();
    assert_eq!(kept, ((density * total as f64) as u64).max(1), "{density} with room for {budget}");
    assert!(largest_dropped <= least_kept);
}

#[test]
fn whole_selections() {
    everywhere(|features, precision| {
        for budget in [0, 3000, 1 << 20] {
            survivors(features, precision, 0.2, budget);
            survivors(features, precision, 0.000_01, budget);
        }
    });
}
