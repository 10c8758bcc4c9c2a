//! Selections against a stable sort, with workers written as plainly as the interface allows.

use mixdown_ops::program::{BLOCK, PIECE};
use mixdown_ops::random::uniform_bits;
use mixdown_ops::real::Key;
use mixdown_ops::selection::{BUCKETS, Coverage, Cut, Keys, Round, RoundPartial, Selection, Ties};
use mixdown_ops::{Precision, Real};
use proptest::prelude::*;

/// What a worker finds in elements of a tensor, of which the first is at `first`.
fn work<R: Real>(round: Round, first: u64, values: &[R]) -> RoundPartial {
    let keys = || values.iter().map(|value| value.key().widen());
    let count = |test: &dyn Fn(u64) -> bool| keys().filter(|key| test(*key)).count() as u64;
    let list = |test: &dyn Fn(u64) -> bool, limit: usize| {
        let found: Vec<_> = keys().filter(|key| test(*key)).map(R::Key::narrow).collect();
        (R::Key::list(&found[..found.len().min(limit)]), found.len() > limit)
    };
    match round {
        Round::Idle => RoundPartial::Idle,
        Round::Collect { limit } => {
            let (keys, overflow) = list(&|_| true, limit);
            RoundPartial::Collected { keys, overflow }
        }
        Round::Bracket { low, high, limit } => {
            let (inside, overflow) = list(&|key| low < key && key < high, limit);
            RoundPartial::Bracketed {
                above: count(&|key| key > high),
                at_high: count(&|key| key == high),
                at_low: if low == high { 0 } else { count(&|key| key == low) },
                below: count(&|key| key < low),
                inside,
                overflow,
            }
        }
        Round::Histogram { low, high, shift } => {
            let mut counts = vec![0; BUCKETS];
            for key in keys().filter(|key| (low..=high).contains(key)) {
                counts[((key - low) >> shift) as usize] += 1;
            }
            RoundPartial::Counts(counts)
        }
        Round::FindTie { key, skip } => {
            let mut equal = keys().zip(first..).filter(|(other, _)| *other == key);
            RoundPartial::Tie(equal.nth(skip as usize).map(|(_, index)| index))
        }
    }
}

/// Which stretches a sample consists of.
#[derive(Clone, Copy, Debug)]
enum Sample {
    /// Those that the selection asks for.
    Honest,
    /// The elements of largest magnitude.
    Largest,
    /// Those of smallest magnitude.
    Smallest,
    /// None.
    Nothing,
}

/// Runs a selection; yields its cuts and how many rounds showed all elements.
fn select<R: Real>(
    members: &[Vec<R>],
    density: f64,
    ties: Ties,
    key_budget: usize,
    sample: Sample,
) -> (Vec<Cut>, usize) {
    let sizes: Vec<_> = members.iter().map(|values| values.len() as u64).collect();
    run(Selection::new(&sizes, density, ties, R::PRECISION, key_budget), members, sample)
}

/// Shows it what it asks for.
fn run<R: Real>(mut selection: Selection, members: &[Vec<R>], sample: Sample) -> (Vec<Cut>, usize) {
    let mut full_rounds = 0;
    while let Some(plan) = selection.next_round() {
        let mut partials = Vec::new();
        for (member, values) in members.iter().enumerate() {
            for (piece, part) in values.chunks(PIECE as usize).enumerate() {
                let piece = piece as u64;
                let wanted = Coverage::Piece { member, piece };
                if plan.coverage == Coverage::Everything || plan.coverage == wanted {
                    partials.push((member, piece, work(plan.round, piece * PIECE, part)));
                }
            }
            if plan.coverage == Coverage::Sample {
                for start in selection.sample_stretches(member) {
                    let end = values.len().min(start as usize + BLOCK);
                    let seen = &values[start as usize..end];
                    let seen = misled(seen, members, sample);
                    partials.push((member, start / PIECE, work(plan.round, start, &seen)));
                }
            }
        }
        full_rounds += usize::from(plan.coverage == Coverage::Everything);
        assert!(full_rounds < 12, "no end in sight: {selection:?}");
        // Any order will do: by a hash, another one for each round.
        partials.sort_by_key(|(member, piece, _)| {
            uniform_bits(*member as u64 + 7 * full_rounds as u64, *piece)
        });
        for (member, piece, partial) in partials {
            selection.absorb(member, piece, partial);
        }
        selection.end_round();
    }
    ((0..members.len()).map(|member| selection.cut(member)).collect(), full_rounds)
}

/// What an adversary shows in place of a sampled stretch.
fn misled<R: Real>(seen: &[R], members: &[Vec<R>], sample: Sample) -> Vec<R> {
    let all = || members.iter().flatten().copied();
    let by_key = |a: &R, b: &R| a.key().cmp(&b.key());
    match sample {
        Sample::Honest => seen.to_vec(),
        Sample::Largest => vec![all().max_by(by_key).unwrap_or(R::ONE); seen.len()],
        Sample::Smallest => vec![all().min_by(by_key).unwrap_or(R::ZERO); seen.len()],
        Sample::Nothing => Vec::new(),
    }
}

/// The survivors by a stable sort.
fn sorted<R: Real>(members: &[Vec<R>], density: f64, ties: Ties) -> Vec<(usize, usize)> {
    let places = members.iter().enumerate();
    let mut all: Vec<_> = places
        .flat_map(|(member, values)| {
            values.iter().enumerate().map(move |(i, v)| (member, i, v.key()))
        })
        .collect();
    all.sort_by_key(|(_, _, key)| std::cmp::Reverse(*key));
    let wanted = (density * all.len() as f64).floor() as usize;
    let survivors = match ties {
        _ if density <= 0.0 => 0,
        Ties::Exact => wanted.max(1).min(all.len()),
        Ties::Inclusive => match all.get(wanted) {
            Some((_, _, bound)) => all.partition_point(|(_, _, key)| key >= bound),
            None => all.len(),
        },
    };
    let mut survivors: Vec<_> = all[..survivors].iter().map(|(m, i, _)| (*m, *i)).collect();
    survivors.sort_unstable();
    survivors
}

fn check<R: Real>(
    members: &[Vec<R>],
    density: f64,
    ties: Ties,
    key_budget: usize,
    sample: Sample,
) -> usize {
    let (cuts, rounds) = select(members, density, ties, key_budget, sample);
    let mut kept = Vec::new();
    for (member, (values, cut)) in members.iter().zip(&cuts).enumerate() {
        for (index, value) in values.iter().enumerate() {
            let key = value.key().widen();
            if key > cut.key || key == cut.key && (index as u64) < cut.ties_before {
                kept.push((member, index));
            }
        }
    }
    let expected = sorted(members, density, ties);
    let sizes: Vec<_> = members.iter().map(Vec::len).collect();
    let context = || format!("{sizes:?} {density} {ties:?} {key_budget} {sample:?} {cuts:?}");
    assert_eq!(kept.len(), expected.len(), "{}", context());
    assert!(kept == expected, "{}", context());
    rounds
}

/// Data whose magnitudes are all different, few, one, or nothing.
#[derive(Clone, Copy, Debug)]
enum Data {
    Continuous,
    Ties,
    Constant,
    Zero,
    Special,
}

fn values<R: Real>(data: Data, elements: usize, salt: u64) -> Vec<R> {
    let special = [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-42, -1e-42];
    let value = |index: u64| {
        let bits = uniform_bits(salt, index);
        let uniform = f64::from(bits) / 4_294_967_296.0 - 0.5;
        let bell = uniform + f64::from(uniform_bits(salt + 1, index)) / 4_294_967_296.0 - 0.5;
        match data {
            Data::Continuous => bell,
            Data::Ties => (bell * 12.0).round() / 64.0,
            Data::Constant => {
                if bell > 0.0 {
                    0.25
                } else {
                    -0.25
                }
            }
            Data::Zero => {
                if bell > 0.0 {
                    0.0
                } else {
                    -0.0
                }
            }
            Data::Special => special[bits as usize % special.len()],
        }
    };
    (0..elements as u64).map(|index| R::from_f64(value(index))).collect()
}

const KINDS: [Data; 5] = [Data::Continuous, Data::Ties, Data::Constant, Data::Zero, Data::Special];

const DENSITIES: [f64; 8] = [-1.0, 0.0, 1e-9, 0.2, 0.5, 0.999_999, 1.0, 1.5];

fn check_kinds<R: Real>(sizes: &[usize], budgets: &[usize]) {
    for data in KINDS {
        let members: Vec<Vec<R>> =
            sizes.iter().enumerate().map(|(i, n)| values(data, *n, 10 * i as u64)).collect();
        for density in DENSITIES {
            for ties in [Ties::Exact, Ties::Inclusive] {
                for &budget in budgets {
                    check(&members, density, ties, budget, Sample::Honest);
                }
            }
        }
    }
}

#[test]
fn small_tensors() {
    for size in [0, 1, 2, 3, 10, 1025] {
        check_kinds::<f32>(&[size], &[0, 5, usize::MAX]);
        check_kinds::<f64>(&[size], &[0, 5, usize::MAX]);
    }
}

#[test]
fn groups_of_small_tensors() {
    check_kinds::<f32>(&[5, 0, 1, 300, 7], &[0, 100, usize::MAX]);
    check_kinds::<f64>(&[0, 0], &[0, usize::MAX]);
}

#[test]
fn tensors_of_several_pieces() {
    let sizes = [2 * PIECE as usize + 3];
    for data in [Data::Continuous, Data::Ties] {
        let members: Vec<Vec<f32>> = vec![values(data, sizes[0], 1)];
        for budget in [0, 3 * BLOCK, usize::MAX] {
            check(&members, 0.2, Ties::Exact, budget, Sample::Honest);
            check(&members, 0.7, Ties::Inclusive, budget, Sample::Honest);
        }
        let members: Vec<Vec<f64>> = vec![values(data, sizes[0], 1)];
        check(&members, 0.2, Ties::Exact, 10, Sample::Honest);
        check(&members, 0.2, Ties::Exact, usize::MAX, Sample::Honest);
    }
}

/// A sample decides how long it takes, never what comes out.
#[test]
fn samples_that_mislead() {
    let piece = PIECE as usize;
    for data in [Data::Continuous, Data::Ties] {
        let members: Vec<Vec<f32>> = vec![values(data, piece + 5, 3), values(data, 2000, 4)];
        for sample in [Sample::Largest, Sample::Smallest, Sample::Nothing] {
            for budget in [BLOCK, usize::MAX] {
                check(&members, 0.3, Ties::Exact, budget, sample);
                check(&members, 0.01, Ties::Inclusive, budget, sample);
            }
        }
    }
}

/// Time is the number of times that all elements are read.
#[test]
fn rounds_are_few() {
    let rounds = |data, elements: usize, budget| {
        let members: Vec<Vec<f32>> = vec![values(data, elements, 5)];
        check(&members, 0.2, Ties::Exact, budget, Sample::Honest)
    };
    let large = 3 * PIECE as usize + 11;
    assert_eq!(rounds(Data::Continuous, 5000, usize::MAX), 1);
    for data in [Data::Continuous, Data::Ties, Data::Constant, Data::Zero] {
        assert_eq!(rounds(data, large, 1 << 20), 1, "{data:?}");
    }
    // With room for one sampled block the bracket is wide. Without room for what is inside it,
    // histograms of it shrink that until there is, and ties take a count per piece.
    assert!(rounds(Data::Ties, large, 2 * BLOCK) <= 5);
    assert!(rounds(Data::Continuous, large, 2 * BLOCK) <= 3);
    // Without any, three histograms read all 32 bits, and ties take a count per piece.
    assert!(rounds(Data::Continuous, large, 0) <= 4);
    assert!(rounds(Data::Ties, large, 0) <= 4);
}

#[test]
fn memory_is_bounded_by_the_budget() {
    let members: Vec<Vec<f32>> = vec![values(Data::Continuous, 3 * PIECE as usize, 6)];
    let mut selection =
        Selection::new(&[3 * PIECE], 0.5, Ties::Exact, Precision::Single, 2 * BLOCK);
    let starts = selection.sample_stretches(0);
    assert!(starts.len() * BLOCK <= 2 * BLOCK);
    // A worker that collects more than it may is not believed to have collected all.
    selection.absorb(
        0,
        0,
        RoundPartial::Collected { keys: Keys::Single(vec![1; 5000]), overflow: true },
    );
    selection.end_round();
    let plan = selection.next_round().expect("a round");
    assert!(matches!(plan.round, Round::Histogram { .. } | Round::Bracket { .. }));
    assert_eq!(members[0].len() as u64, 3 * PIECE);
}

fn any_data() -> impl Strategy<Value = Data> {
    prop::sample::select(KINDS.to_vec())
}

fn any_sample() -> impl Strategy<Value = Sample> {
    prop::sample::select(vec![Sample::Honest, Sample::Largest, Sample::Smallest, Sample::Nothing])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn like_a_stable_sort(
        sizes in prop::collection::vec(prop_oneof![0_usize..40, 0_usize..3000, 60_000_usize..70_000], 1..4),
        data in any_data(),
        density in prop_oneof![0.0..1.0_f64, Just(0.2), Just(0.5), 0.0..0.01_f64],
        inclusive in any::<bool>(),
        budget in prop_oneof![Just(0_usize), 1..3000_usize, Just(1 << 20)],
        sample in any_sample(),
        salt in 0_u64..1000,
        double in any::<bool>(),
    ) {
        let ties = if inclusive { Ties::Inclusive } else { Ties::Exact };
        let salts = (salt..).zip(&sizes);
        if double {
            let members: Vec<Vec<f64>> = salts.map(|(salt, n)| values(data, *n, salt)).collect();
            check(&members, density, ties, budget, sample);
        } else {
            let members: Vec<Vec<f32>> = salts.map(|(salt, n)| values(data, *n, salt)).collect();
            check(&members, density, ties, budget, sample);
        }
    }
}

/// Of so many elements, of which the others are zeros: half of 5 is 2, not 4.
#[test]
fn a_share_of_fewer_elements() {
    let members: Vec<Vec<f32>> = vec![vec![5.0, 0.0, -4.0, 0.0, 1.0], vec![0.0, 3.0, 0.0, -2.0]];
    let survivors = |population: f64, density: f64, ties: Ties| {
        let selection =
            Selection::among(population, &[5, 4], density, ties, Precision::Single, 1000);
        let (cuts, _) = run(selection, &members, Sample::Honest);
        let kept = members.iter().zip(cuts).map(|(values, cut)| {
            let is_kept = |(at, value): &(u64, &f32)| {
                let key = value.key().widen();
                key > cut.key || key == cut.key && *at < cut.ties_before
            };
            (0..).zip(values).filter(is_kept).count()
        });
        kept.sum::<usize>()
    };
    assert_eq!(survivors(5.0, 0.5, Ties::Exact), 2);
    assert_eq!(survivors(5.0, 0.5, Ties::Inclusive), 3);
    assert_eq!(survivors(9.0, 0.5, Ties::Exact), 4);
    assert_eq!(survivors(1.0, 0.1, Ties::Exact), 1, "at least one");
    assert_eq!(survivors(5.0, 0.9, Ties::Inclusive), 5, "and zeros are below");
}

/// So many elements, and the magnitude of the last of them, whatever the budget.
#[test]
fn a_count_of_elements() {
    let members: Vec<Vec<f32>> = vec![vec![5.0, 0.0, -4.0, 2.0, 1.0], vec![0.5, 3.0, 0.0, -2.0]];
    for budget in [0, 1, 3, 1000] {
        for count in 0..=11_u32 {
            let counted = |count| Selection::counted(&[5, 4], count, Precision::Single, budget);
            let mut selection = counted(f64::from(count));
            let threshold = threshold_of(&mut selection, &members);
            let (cuts, _) = run(counted(f64::from(count)), &members, Sample::Honest);
            let kept = members.iter().zip(cuts).map(|(values, cut)| {
                let is_kept = |(at, value): &(u64, &f32)| {
                    let key = value.key().widen();
                    key > cut.key || key == cut.key && *at < cut.ties_before
                };
                (0..).zip(values).filter(is_kept).count()
            });
            assert_eq!(kept.sum::<usize>(), count.min(9) as usize);
            let sorted = [5.0, 4.0, 3.0, 2.0, 2.0, 1.0, 0.5, 0.0, 0.0];
            match count {
                0 => assert!(threshold.is_nan()),
                _ => assert_eq!(threshold, sorted[count.min(9) as usize - 1]),
            }
        }
    }
    let none = Selection::counted(&[5], f64::NAN, Precision::Single, 10);
    assert!(none.next_round().is_none());
}

/// Runs a selection to its end.
fn threshold_of(selection: &mut Selection, members: &[Vec<f32>]) -> f64 {
    while let Some(plan) = selection.next_round() {
        for (member, values) in members.iter().enumerate() {
            if let Coverage::Piece { member: wanted, .. } = plan.coverage
                && wanted != member
            {
                continue;
            }
            let partial = work(plan.round, 0, values);
            selection.absorb(member, 0, partial);
        }
        selection.end_round();
    }
    selection.threshold()
}
