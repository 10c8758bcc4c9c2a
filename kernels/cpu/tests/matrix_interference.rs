//! The interference objective: all ways to its result agree, and what must hold of it does.

mod matrices;

use matrices::*;
use mixdown_ops::matrix::interference::{
    Cut, Filter, Init, NoiseLevel, RankRule, Rows, Solver, Targets,
};
use mixdown_ops::matrix::{Factors, Matrix, MatrixOp, Rank, Stop};
use mixdown_ops::{Backend, Precision};

const SHAPES: [(usize, usize); 4] = [(6, 40), (12, 20), (20, 12), (16, 16)];
const TARGETS: [Targets; 3] = [Targets::Whole, Targets::Truncated, Targets::Centered];
const ROWS: [Rows; 3] = [Rows::Whole, Rows::Truncated, Rows::Centered];

fn members() -> impl Iterator<Item = (Targets, Rows)> {
    TARGETS.into_iter().flat_map(|targets| ROWS.into_iter().map(move |rows| (targets, rows)))
}

fn sgd_filter(rate: f64, momentum: f64, steps: u32) -> Solver {
    filter(Filter::Sgd(sgd(rate, momentum, steps)), Cut::None)
}

/// Closed form and loop, over G (many experts, or no fewer rows than columns) and K (few).
#[test]
fn closed_form_is_the_loop_of_sgd() {
    let steps = [(1e-2, 0.9, 40), (5e-2, 0.0, 30), (0.14, 0.0, 10)];
    for (index, (rows, columns)) in SHAPES.into_iter().enumerate() {
        for count in [1, 2, 3, 7] {
            let experts = randoms(count, rows, columns);
            for (case, member) in members().enumerate() {
                let (rate, momentum, steps) = steps[(index + case) % steps.len()];
                let init = [Init::Sum, Init::Mean, Init::Zero][(count + case) % 3];
                let op = |solver| objective(member, Rank::PerExpert, init, solver);
                let closed = outcome(&op(sgd_filter(rate, momentum, steps)), &dense(&experts));
                let literal =
                    outcome(&op(literal_sgd(sgd(rate, momentum, steps))), &dense(&experts));
                let what = format!("{count} of {rows}×{columns}, {member:?}");
                // Where the targets are centered and there is one expert, nothing is left.
                near(&closed.result, &literal.result, 1e-11, &what);
                let scale = literal.loss.0.max(1.0);
                assert!((closed.loss.0 - literal.loss.0).abs() < 1e-11 * scale, "{what}: start");
                assert!((closed.loss.1 - literal.loss.1).abs() < 1e-11 * scale, "{what}: end");
            }
        }
    }
}

/// From two experts on, and far from where the loop ends: there the gradient is rounding noise, which Adam
/// amplifies by up to 1/ε until its steps are whole ones.
#[test]
fn adam_is_its_loop() {
    for (rows, columns) in SHAPES {
        for count in [2, 3, 5] {
            let experts: Vec<_> =
                randoms(count, rows, columns).iter().map(|one| scaled(one, 1e-2)).collect();
            for member in members() {
                let op = |solver| objective(member, Rank::PerExpert, Init::Sum, solver);
                let direct = run(&op(Solver::Adam(adam(1e-5, 60))), &experts);
                let literal = run(&op(literal_adam(adam(1e-5, 60))), &experts);
                let what = format!("{count} of {rows}×{columns}, {member:?}");
                near(&direct, &literal, 1e-11, &what);
            }
        }
    }
}

/// The bounds that Adam in f32 keeps: 0.01 of the step in any element, 1e-4 of the movement. Matrices are
/// so large that it is in f32.
#[test]
fn adam_in_f32_stays_near_the_loop_in_f64() {
    for (rows, columns) in [(60, 240), (240, 120)] {
        for member in [
            (Targets::Whole, Rows::Whole),
            (Targets::Centered, Rows::Centered),
            (Targets::Centered, Rows::Truncated),
        ] {
            let experts: Vec<_> =
                randoms(3, rows, columns).iter().map(|one| scaled(one, 2e-3)).collect();
            let op = |solver| objective(member, Rank::PerExpert, Init::Sum, solver);
            let single =
                run_in(&op(Solver::Adam(adam(1e-5, 300))), &dense(&experts), Precision::Single, 1);
            let single = single.unwrap().result;
            let literal = run(&op(literal_adam(adam(1e-5, 300))), &experts);
            let init = combined(&experts, &[1.0; 3]);
            let moved = combined(&[literal.clone(), init], &[1.0, -1.0]);
            let error = combined(&[single, literal], &[1.0, -1.0]);
            let most = error.values.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
            assert!(most <= 1e-7, "{rows}×{columns}, {member:?}: {most:e}");
            assert!(norm(&error) <= 1e-4 * norm(&moved), "{rows}×{columns}, {member:?}");
        }
    }
}

/// A rate at which Adam soon arrives, and amplifies the rounding of its iterations.
#[test]
fn small_matrices_descend_in_f64() {
    for (rows, columns) in [(24, 96), (64, 48)] {
        let experts: Vec<_> =
            randoms(3, rows, columns).iter().map(|one| scaled(one, 1e-2)).collect();
        let op =
            |solver| objective((Targets::Whole, Rows::Whole), Rank::PerExpert, Init::Sum, solver);
        let hot = op(Solver::Adam(adam(1e-3, 300)));
        let found = run_in(&hot, &dense(&experts), Precision::Single, 1).unwrap().result;
        let literal = run(&op(literal_adam(adam(1e-3, 300))), &experts);
        near(&found, &literal, 1e-8, &format!("{rows}×{columns}"));
    }
}

#[test]
fn filters_agree_over_g_and_k() {
    let filters = [
        Filter::Exponential(3.0.into()),
        Filter::Tikhonov(0.01.into()),
        Filter::Landweber(20),
        Filter::Exact,
        Filter::Wiener(NoiseLevel::Mean),
    ];
    // 5 experts of 6 × 40 go over K with 30 rows; each twice, there are 60, and G is smaller. The
    // minimizer is the same, as both sides of its equation are doubled.
    let experts = randoms(5, 6, 40);
    let doubled: Vec<_> = experts.iter().chain(&experts).cloned().collect();
    let exact = filter(Filter::Exact, Cut::None);
    let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Zero, exact);
    near(&run(&op, &doubled), &run(&op, &experts), 1e-10, "copies");
    for how in filters {
        for cut in [Cut::None, Cut::Share(0.5.into())] {
            let op =
                objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Sum, filter(how, cut));
            // The stacked form of dense matrices, and cores of the same in factors.
            let given = factored(30, 50, &[4, 5, 3]);
            let dense: Vec<_> = given.iter().map(|one| one.dense()).collect();
            near(
                &outcome(&op, &given).result,
                &run(&op, &dense),
                1e-9,
                &format!("{how:?} {cut:?}"),
            );
        }
    }
}

#[test]
fn factors_are_dense_matrices() {
    for (rows, columns) in [(40, 60), (60, 40)] {
        let given = factored(rows, columns, &[3, 5, 2]);
        let experts: Vec<Matrix> = given.iter().map(Given::dense).collect();
        for member in members() {
            let op = |solver| objective(member, Rank::Count(2), Init::Mean, solver);
            let solver = || sgd_filter(1e-2, 0.9, 50);
            let low = outcome(&op(solver()), &given);
            let high = run(&op(solver()), &experts);
            let what = format!("{rows}×{columns}, {member:?}");
            near(&low.result, &high, 1e-9, &what);
            let Factors { left, right } = low.factors.unwrap();
            assert_eq!(right.rows, 10);
            near(&multiplied(&left, &right), &high, 1e-9, &what);
            near(&run(&op(literal_sgd(sgd(1e-2, 0.9, 50))), &experts), &high, 1e-9, &what);
            // Adam has no low rank, but can start from factors.
            let adam = op(Solver::Adam(adam(1e-3, 20)));
            let from_factors = outcome(&adam, &given);
            assert!(from_factors.factors.is_none());
            near(&from_factors.result, &run(&adam, &experts), 1e-8, &what);
        }
    }
}

#[test]
fn one_expert_is_returned() {
    for (rows, columns) in SHAPES {
        let expert = randoms(1, rows, columns);
        for solver in [
            sgd_filter(1e-2, 0.9, 300),
            filter(Filter::Exponential(1.0.into()), Cut::Share(0.3.into())),
            filter(Filter::Exact, Cut::None),
        ] {
            let op = objective((Targets::Whole, Rows::Whole), Rank::PerExpert, Init::Sum, solver);
            near(&run(&op, &expert), &expert[0], 1e-12, &format!("{op:?}"));
        }
        let op = objective(
            (Targets::Whole, Rows::Whole),
            Rank::PerExpert,
            Init::Sum,
            Solver::Adam(adam(1e-2, 300)),
        );
        for precision in [Precision::Single, Precision::Double] {
            let found = run_in(&op, &dense(&expert), precision, 1).unwrap().result;
            assert!(found == expert[0], "{rows}×{columns}: Adam is at rest");
        }
    }
}

#[test]
fn equal_experts_are_a_fixed_point_of_the_mean() {
    let expert = random(12, 20, 5);
    let experts = vec![expert.clone(); 4];
    for solver in [sgd_filter(1e-2, 0.5, 100), filter(Filter::Exact, Cut::None)] {
        let op = objective((Targets::Whole, Rows::Whole), Rank::PerExpert, Init::Mean, solver);
        near(&run(&op, &experts), &expert, 1e-11, "equal experts");
    }
    for (rows, columns) in SHAPES {
        let experts = vec![random(rows, columns, 5); 4];
        let adam = Solver::Adam(adam(1e-2, 300));
        let op = objective((Targets::Whole, Rows::Whole), Rank::PerExpert, Init::Mean, adam);
        near(&run(&op, &experts), &experts[0], 1e-14, "Adam");
    }
}

#[test]
fn order_of_experts_does_not_matter() {
    for (rows, columns) in SHAPES {
        let experts = randoms(3, rows, columns);
        let turned = vec![experts[2].clone(), experts[0].clone(), experts[1].clone()];
        for member in members() {
            for solver in [sgd_filter(1e-2, 0.9, 50), Solver::Adam(adam(1e-3, 30))] {
                let op = objective(member, Rank::PerExpert, Init::Sum, solver);
                near(&run(&op, &turned), &run(&op, &experts), 1e-11, &format!("{op:?}"));
            }
        }
    }
}

#[test]
fn scale_passes_through_all_but_adam() {
    let experts = randoms(3, 12, 20);
    let larger: Vec<_> = experts.iter().map(|one| scaled(one, 7.0)).collect();
    for solver in [
        sgd_filter(1e-2, 0.9, 50),
        filter(Filter::Exponential(300.0.into()), Cut::Share(0.65.into())),
    ] {
        let op = objective((Targets::Whole, Rows::Whole), Rank::PerExpert, Init::Sum, solver);
        near(&run(&op, &larger), &scaled(&run(&op, &experts), 7.0), 1e-12, "seven times");
    }
}

/// X_0 along directions that no B_i has stays.
#[test]
fn null_space_stays() {
    let (rows, columns) = (12, 20);
    let experts = randoms(2, rows, columns);
    let op = |steps| {
        let solver = sgd_filter(1e-1, 0.0, steps);
        objective((Targets::Whole, Rows::Truncated), Rank::Count(3), Init::Sum, solver)
    };
    let moved = run(&op(200), &experts);
    let moved = combined(&[moved, combined(&experts, &[1.0, 1.0])], &[1.0, -1.0]);
    // The movement has the rank of the stacked rows.
    let kept =
        outcome(&MatrixOp::TruncatedSvd(Rank::Count(6)), &dense(std::slice::from_ref(&moved)));
    near(&kept.result, &moved, 1e-10, "movement");
    assert!(norm(&moved) > 0.1);
}

#[test]
fn zero_experts() {
    let mut experts = randoms(3, 12, 20);
    let solver = || sgd_filter(1e-2, 0.9, 50);
    let sum = |solver| objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Sum, solver);
    let without = run(&sum(solver()), &experts);
    experts.insert(1, matrix(12, 20, &[0.0; 240]));
    let with = outcome(&sum(solver()), &dense(&experts));
    near(&with.result, &without, 1e-14, "a zero expert");
    assert!(with.report.notes[0].contains("1 of 4"), "{:?}", with.report.notes);
    let mean =
        objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Mean, sgd_filter(1e-9, 0.0, 1));
    near(&run(&mean, &experts), &combined(&experts, &[0.25; 4]), 1e-7, "a zero expert in the mean");
    let zeros = vec![matrix(12, 20, &[0.0; 240]); 2];
    for solver in [solver(), Solver::Adam(adam(1e-5, 3)), filter(Filter::Exact, Cut::None)] {
        assert!(run(&sum(solver), &zeros).values.iter().all(|value| *value == 0.0));
    }
}

#[test]
fn more_experts_than_directions_give_their_mean() {
    let experts = randoms(7, 5, 9);
    for solver in [sgd_filter(1e-2, 0.9, 5), Solver::Adam(adam(1e-3, 5))] {
        let member = (Targets::Truncated, Rows::Truncated);
        let op = objective(member, Rank::PerExpert, Init::Sum, solver);
        let outcome = outcome(&op, &dense(&experts));
        near(&outcome.result, &combined(&experts, &[1.0 / 7.0; 7]), 1e-14, "mean");
        assert!(outcome.report.notes[0].contains("more experts (7)"));
    }
}

#[test]
fn copies_of_an_expert() {
    let expert = random(12, 20, 1);
    let other = random(12, 20, 2);
    let experts = vec![expert.clone(), other, expert];
    for (targets, rows) in members() {
        let op = |solver| objective((targets, rows), Rank::PerExpert, Init::Sum, solver);
        let closed = run(&op(sgd_filter(5e-2, 0.9, 40)), &experts);
        let literal = run(&op(literal_sgd(sgd(5e-2, 0.9, 40))), &experts);
        near(&closed, &literal, 1e-11, "copies");
        let exact = run(&op(filter(Filter::Exact, Cut::None)), &experts);
        assert!(norm(&exact) < 100.0, "{targets:?}, {rows:?}: the minimizer blew up");
    }
}

#[test]
fn rows_do_not_depend_on_their_group() {
    for (rows, columns) in [(300, 40), (300, 310)] {
        let experts = randoms(2, rows, columns);
        for solver in [sgd_filter(1e-2, 0.9, 20), Solver::Adam(adam(1e-3, 3))] {
            for precision in [Precision::Single, Precision::Double] {
                let member = (Targets::Centered, Rows::Truncated);
                let op = objective(member, Rank::Count(9), Init::Sum, solver.clone());
                let one = run_in(&op, &dense(&experts), precision, 1).unwrap().result;
                let all = run_in(&op, &dense(&experts), precision, 100).unwrap().result;
                assert_eq!(one, all, "{op:?}");
            }
        }
    }
}

/// A cut inside a cluster: only the spectrum and what follows from it is defined.
#[test]
fn a_cut_in_a_cluster_is_told_and_can_move() {
    // Rows of a scaled permutation: σ = 8, 4, 4, 4, 1.
    let mut expert = matrix(5, 7, &[0.0; 35]);
    for (row, (column, value)) in
        [(3, 8.0), (1, 4.0), (6, 4.0), (0, 4.0), (5, 1.0)].iter().enumerate()
    {
        expert.values[row * 7 + column] = *value;
    }
    let experts = vec![expert.clone(), scaled(&expert, 2.0)];
    let op = |snap| {
        let mut op = objective(
            (Targets::Truncated, Rows::Truncated),
            Rank::Count(3),
            Init::Mean,
            sgd_filter(1e-2, 0.0, 5),
        );
        if let MatrixOp::Interference(op) = &mut op {
            op.snap = snap;
        }
        outcome(&op, &dense(&experts)).report
    };
    let told = op(false);
    assert_eq!(told.ranks, [3, 3]);
    assert!(told.gap.unwrap() < 1e-6 && told.notes[0].contains("2 of 2"), "{told:?}");
    let moved = op(true);
    assert_eq!(moved.ranks, [1, 1]);
    assert!((moved.gap.unwrap() - 0.5).abs() < 1e-12 && moved.notes.is_empty(), "{moved:?}");
    let best = outcome(&MatrixOp::TruncatedSvd(Rank::Count(3)), &dense(&experts[..1]));
    let rest = combined(&[expert, best.result.clone()], &[1.0, -1.0]);
    assert!((norm(&best.result).powi(2) - 96.0).abs() < 1e-10);
    assert!((norm(&rest).powi(2) - 17.0).abs() < 1e-10);
}

#[test]
fn rank_rules_look_at_data() {
    let experts = randoms(2, 6, 20);
    let kept = |rule, given: &[Given]| {
        let cut =
            Cut::Rule { rule, min_rank: 1, max_rank_ratio: 1.0.into(), rank_scale: 1.0.into() };
        let solver = filter(Filter::Exact, cut);
        let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Sum, solver);
        *outcome(&op, given).report.ranks.last().unwrap()
    };
    // 12 directions of 20: the rules that look at C see no more.
    let rules = [
        RankRule::DataAwareParticipationSqrt,
        RankRule::DataAwareCumulativeVariance(0.99.into()),
        RankRule::DataAwareEntropy,
        RankRule::LossElbow(0.01.into()),
        RankRule::LossResidual(0.95.into()),
        RankRule::Risk(1.0.into()),
    ];
    for rule in rules {
        let found = kept(rule, &dense(&experts));
        assert!((2..=12).contains(&found), "{rule:?}: {found}");
        // The same in G: copies change neither directions nor shares.
        let copies: Vec<_> = experts.iter().chain(&experts).cloned().collect();
        let more: Vec<_> = copies.iter().take(4).cloned().collect();
        if !matches!(rule, RankRule::LossElbow(_) | RankRule::LossResidual(_) | RankRule::Risk(_)) {
            assert_eq!(kept(rule, &dense(&more)), found, "{rule:?}");
        }
    }
}

/// With eigenvalues between rounding noise and the floor, of which the released code removes X_0 whole.
/// A rule that looks at energies keeps all here, and takes the way over eigenvectors.
#[test]
fn few_rows_are_treated_as_all() {
    let mut experts = randoms(3, 4, 30);
    for expert in &mut experts {
        expert.values[60..90].iter_mut().for_each(|value| *value *= 1e-5);
        expert.values[90..].iter_mut().for_each(|value| *value *= 1e-9);
    }
    let all =
        |rule| Cut::Rule { rule, min_rank: 30, max_rank_ratio: 1.0.into(), rank_scale: 1.0.into() };
    for how in [Filter::Exponential(300.0.into()), Filter::Exact, Filter::Tikhonov(0.01.into())] {
        for init in [Init::Sum, Init::Mean, Init::Zero] {
            let of = |rule| {
                let solver = filter(how, all(rule));
                let op = objective((Targets::Whole, Rows::Whole), Rank::Full, init, solver);
                outcome(&op, &dense(&experts))
            };
            let (rows, vectors) = (of(RankRule::None), of(RankRule::LossElbow(0.01.into())));
            let what = format!("{how:?} {init:?}");
            // Directions of eigenvalues of 1e-11 are known to ε/1e-11, and are 1e-5 long.
            near(&rows.result, &vectors.result, 1e-8, &what);
            assert_eq!(rows.report.ranks, vectors.report.ranks);
            assert!((rows.loss.0 - vectors.loss.0).abs() < 1e-11, "{what}: start");
            assert!((rows.loss.1 - vectors.loss.1).abs() < 1e-11, "{what}: end");
        }
    }
}

/// Eigenvalues of K that are all 1/3: a cut after 3 of 6 takes a half of each direction, whichever
/// eigenvectors a solver would find.
#[test]
fn a_cut_through_equal_eigenvalues_takes_a_part_of_all() {
    let expert = |offset: usize| {
        let mut expert = matrix(3, 20, &[0.0; 60]);
        (0..3).for_each(|row| expert.values[row * 20 + row + offset] = 2.0);
        expert
    };
    let experts = vec![expert(0), expert(3)];
    for (share, part) in [(0.15, 0.5), (0.05, 1.0 / 6.0), (0.3, 1.0)] {
        for how in [Filter::Exact, Filter::Wiener(NoiseLevel::Mean)] {
            let solver = filter(how, Cut::Share(share.into()));
            let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Zero, solver);
            let expected = combined(&experts, &[part; 2]);
            // The noise is that of the eigenvalues cut away, 1/3 or the floor.
            let kept = (20.0 * share).round();
            let noise = ((6.0 - kept) / 3.0 + 14.0 * 1e-8) / (20.0 - kept);
            let damped = (1.0 / 9.0) / (1.0 / 9.0 + noise);
            let factor = if how == Filter::Exact { 1.0 } else { damped };
            near(
                &run(&op, &experts),
                &scaled(&expected, factor),
                1e-12,
                &format!("{how:?} {share}"),
            );
        }
    }
}

fn refused(op: &MatrixOp, given: &[Given], words: &str) {
    match run_in(op, given, Precision::Double, 1) {
        Err(Stop::Refused(headline, help)) => {
            assert!(headline.contains(words), "{headline}");
            assert!(!help.is_empty());
        }
        Err(stop) => panic!("{stop:?}"),
        Ok(_) => panic!("{op:?} was not refused"),
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let experts = dense(&randoms(2, 4, 6));
    let op =
        |rank, solver| objective((Targets::Truncated, Rows::Truncated), rank, Init::Sum, solver);
    let fine = || sgd_filter(1e-2, 0.9, 5);
    refused(&op(Rank::Count(5), fine()), &experts, "rank 5 is above the smaller side");
    refused(&op(Rank::Count(0), fine()), &experts, "rank of 0");
    refused(&op(Rank::Share(1.5.into()), fine()), &experts, "`rank` is 1.5");
    refused(&op(Rank::PerExpert, sgd_filter(1e-2, 1.0, 5)), &experts, "momentum 1");
    refused(&op(Rank::PerExpert, sgd_filter(1e-2, -0.1, 5)), &experts, "momentum -0.1");
    refused(&op(Rank::PerExpert, sgd_filter(f64::NAN, 0.1, 5)), &experts, "`learning_rate` is NaN");
    refused(&op(Rank::PerExpert, sgd_filter(9.0, 0.9, 5)), &experts, "diverges");
    refused(&op(Rank::PerExpert, literal_sgd(sgd(9.0, 0.9, 5))), &experts, "diverges");
    refused(&MatrixOp::Polar, &experts, "takes 1 matrix, found 2");
    let mut odd = experts.clone();
    odd.push(Given::Dense(random(6, 6, 1)));
    refused(&MatrixOp::Regression { off_diagonal: 1.0.into() }, &odd, "found 3 matrices");
    refused(&MatrixOp::TaskSingularVectors(Rank::PerExpert), &odd, "matrix 2 is 6 × 6");
}

#[test]
fn numbers_that_are_none_stop() {
    let mut experts = randoms(2, 4, 6);
    experts[1].values[3] = f64::NAN;
    for solver in [sgd_filter(1e-2, 0.9, 5), Solver::Adam(adam(1e-3, 5))] {
        let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Sum, solver);
        let stopped = run_in(&op, &dense(&experts), Precision::Double, 1);
        assert!(matches!(stopped, Err(Stop::Failed(_))));
    }
    let backend = mixdown_cpu::CpuBackend::new();
    let mut operands = InMemory::new(&dense(&experts[1..]));
    let stopped = backend.prepare(&MatrixOp::Polar, &mut operands, Precision::Double);
    assert!(matches!(stopped.map(|_| ()), Err(Stop::Failed(_))));
}

/// Few rows of large task vectors: their stack is read again instead of held, and G comes in blocks. In f64 it is
/// held, so that the two ways to the same descent are compared, and a row's bits do not depend on the blocks.
#[test]
fn a_stack_that_is_read_again_is_the_same_stack() {
    // More rows than a panel, and more columns than a block of G.
    let experts: Vec<Matrix> = randoms(2, 260, 700).iter().map(|one| scaled(one, 1e-3)).collect();
    let op = objective(
        (Targets::Whole, Rows::Whole),
        Rank::Full,
        Init::Sum,
        Solver::Adam(adam(1e-5, 20)),
    );
    let found = run_in(&op, &dense(&experts), Precision::Single, 1).unwrap();
    let expected = run_in(&op, &dense(&experts), Precision::Double, 1).unwrap();
    let start = combined(&experts, &[1.0, 1.0]);
    let moved = |result: &Matrix| combined(&[result.clone(), start.clone()], &[1.0, -1.0]);
    near(&moved(&found.result), &moved(&expected.result), 1e-4, "what moves");
    let (a, b) = (found.loss, expected.loss);
    assert!((a.0 / b.0 - 1.0).abs() < 1e-9 && (a.1 / b.1 - 1.0).abs() < 1e-5, "{a:?} {b:?}");
    let again = run_in(&op, &dense(&experts), Precision::Single, 2).unwrap();
    assert_eq!(again.result, found.result);
}

/// Tikhonov's result solves `(X − X_0)·(G + α·I) = C − X_0·G`, whichever way it was found: with the reflections of K in
/// memory and aside, over blocks of rows, and with an expert of few directions that is given as factors.
#[test]
fn a_filter_over_a_stack_that_is_read_again_solves_its_equation() {
    let alpha = 0.05;
    for (count, rows, columns) in [(2, 300, 700), (3, 345, 1100)] {
        let mut given = dense(&randoms(count, rows, columns));
        if count == 2 {
            given[1] = factored(rows, columns, &[5]).remove(0);
        }
        let experts: Vec<Matrix> = given.iter().map(Given::dense).collect();
        let solver = filter(Filter::Tikhonov(alpha.into()), Cut::None);
        let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Mean, solver);
        let found = run_in(&op, &given, Precision::Double, 1).unwrap();
        let what = format!("{count} of {rows} × {columns}");
        let start = combined(&experts, &vec![1.0 / count as f64; count]);
        let moved = combined(&[found.result.clone(), start.clone()], &[1.0, -1.0]);
        // Products with τ_i and τ_iᵀ in turn, so that G is never formed.
        let mut pulls = vec![scaled(&moved, alpha)];
        let mut loss = (0.0, 0.0);
        for expert in &experts {
            let weight = norm(expert).powi(-2);
            let away = |from: &Matrix| combined(&[from.clone(), expert.clone()], &[1.0, -1.0]);
            let along = multiplied(&away(&found.result), &transposed(expert));
            loss.0 += weight * norm(&multiplied(&away(&start), &transposed(expert))).powi(2);
            loss.1 += weight * norm(&along).powi(2);
            pulls.push(scaled(&multiplied(&along, expert), weight));
        }
        let left = combined(&pulls, &vec![1.0; pulls.len()]);
        let bound = 1e-12 * norm(&moved);
        assert!(norm(&left) < bound, "{what}: {} is left of {}", norm(&left), norm(&moved));
        assert!((found.loss.0 / loss.0 - 1.0).abs() < 1e-11, "{what}: {:?} {loss:?}", found.loss);
        assert!((found.loss.1 / loss.1 - 1.0).abs() < 1e-11, "{what}: {:?} {loss:?}", found.loss);
        let again = run_in(&op, &given, Precision::Double, 2).unwrap();
        assert_eq!(again.result, found.result, "{what}");
    }
}
