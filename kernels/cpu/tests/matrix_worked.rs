//! Worked numbers of matrix ops, in f64 to 6 decimals (Adam to 8), from the methods' formulas over two
//! task vectors of 2 × 3.

mod matrices;

use matrices::*;
use mixdown_cpu::CpuBackend;
use mixdown_ops::matrix::axes::{Axis, Fact, Karcher};
use mixdown_ops::matrix::interference::{Cut, Filter, Init, NoiseLevel, RankRule, Rows, Targets};
use mixdown_ops::matrix::spectral::{Doge, Reshape};
use mixdown_ops::matrix::{Matrix, MatrixOp, Rank, RankAware, Stop};
use mixdown_ops::{Backend, Precision};

const PRINTED: f64 = 6e-7;
const ADAM: f64 = 1e-8;

fn experts() -> Vec<Matrix> {
    vec![
        matrix(2, 3, &[0.40, -0.21, 0.12, 0.03, 0.31, -0.08]),
        matrix(2, 3, &[-0.11, 0.52, 0.24, 0.19, -0.33, 0.45]),
    ]
}

fn sum() -> Vec<Matrix> {
    vec![combined(&experts(), &[1.0, 1.0])]
}

#[test]
fn spectral() {
    let tsv = run(&MatrixOp::TaskSingularVectors(Rank::PerExpert), &experts());
    is(&tsv, &[0.488043, 0.033182, 0.110810, -0.044286, -0.640205, 0.105112], PRINTED);
    let iso = [0.185858, 0.366163, 0.167120, 0.154116, -0.234789, 0.343031];
    for aware in [RankAware::Automatic, RankAware::No, RankAware::Yes] {
        is(&run(&MatrixOp::Isotropic(aware), &sum()), &iso, PRINTED);
    }
    // The mean of 0.669616379 and 0.217057377 is 0.443336878.
    let polar = run(&MatrixOp::Polar, &sum());
    is(&scaled(&polar, 0.443336878), &iso, PRINTED);
    // With 0.8 of 2 directions the one that is left is rounded to none for each expert.
    is(&run(&MatrixOp::IsotropicCommon(0.8.into()), &experts()), &iso, PRINTED);
    let without = run(&MatrixOp::IsotropicCommon(0.0.into()), &experts());
    is(&without, &[0.559730, 0.007430, 0.132622, -0.015843, -0.566540, 0.098605], PRINTED);
    let values = run(&MatrixOp::SingularValues, &sum());
    is(&values, &[0.669616, 0.0, 0.0, 0.0, 0.217057, 0.0], PRINTED);
    // Of the first task vector: 0.4² + 0.03², −0.4·0.21 + 0.03·0.31, and so on.
    let gram = run(&MatrixOp::Gram, &experts()[..1]);
    let exact = [0.1609, -0.0747, 0.0456, -0.0747, 0.1402, -0.05, 0.0456, -0.05, 0.0208];
    is(&gram, &exact, 1e-15);
    let truncated = outcome(&MatrixOp::TruncatedSvd(Rank::Count(1)), &dense(&experts()[..1]));
    // σ of τ_1 are 0.496041868 and 0.275395107.
    assert!((norm(&truncated.result) - 0.496041868).abs() < 1e-8);
    let gap = truncated.report.gap.unwrap();
    assert!((gap - (0.496041868 - 0.275395107) / 0.496041868).abs() < 1e-8);
}

/// The same numbers when all matrices lie on their side: ops without a side of their own.
#[test]
fn tall_matrices() {
    let experts: Vec<_> = experts().iter().map(transposed).collect();
    let sum = vec![combined(&experts, &[1.0, 1.0])];
    let tsv = transposed(&run(&MatrixOp::TaskSingularVectors(Rank::PerExpert), &experts));
    is(&tsv, &[0.488043, 0.033182, 0.110810, -0.044286, -0.640205, 0.105112], PRINTED);
    let iso = [0.185858, 0.366163, 0.167120, 0.154116, -0.234789, 0.343031];
    is(&transposed(&run(&MatrixOp::Isotropic(RankAware::No), &sum)), &iso, PRINTED);
    is(&transposed(&run(&MatrixOp::IsotropicCommon(0.8.into()), &experts)), &iso, PRINTED);
}

#[test]
fn wudi() {
    let op = |solver| objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Sum, solver);
    let slow = [0.29297864, 0.30709550, 0.35700963, 0.21701307, -0.01703443, 0.36702409];
    let fast = [0.46382062, 0.33875755, 0.26907053, -0.12726233, -0.07254906, 0.37041627];
    let exact = [0.463821, 0.338758, 0.269071, -0.127262, -0.072549, 0.370416];
    for (rate, expected) in [(1e-5, slow), (1e-2, fast)] {
        let direct = mixdown_ops::matrix::interference::Solver::Adam(adam(rate, 300));
        is(&run(&op(direct), &experts()), &expected, ADAM);
        is(&run(&op(literal_adam(adam(rate, 300))), &experts()), &expected, ADAM);
    }
    is(&run(&op(filter(Filter::Exact, Cut::None)), &experts()), &exact, PRINTED);
}

#[test]
fn optmerge() {
    let slow = [0.29299773, 0.31299912, 0.36299710, 0.21701092, -0.01704138, 0.36701747];
    let fast = [1.25787156, 1.30311897, 1.31451251, -0.95548978, -1.00461681, -0.59700640];
    let paper_slow = [0.29298336, 0.30701664, 0.36298336, 0.21701249, -0.01701249, 0.36701249];
    let paper_fast = [0.40557991, 0.19442008, 0.47557991, 0.06628668, 0.13371333, 0.21628668];
    let cases = [
        (Rows::Truncated, 1e-5, slow),
        (Rows::Truncated, 1e-2, fast),
        (Rows::Centered, 1e-5, paper_slow),
        (Rows::Centered, 1e-2, paper_fast),
    ];
    for (rows, rate, expected) in cases {
        let op = |solver| objective((Targets::Centered, rows), Rank::PerExpert, Init::Sum, solver);
        let direct = mixdown_ops::matrix::interference::Solver::Adam(adam(rate, 300));
        is(&run(&op(direct), &experts()), &expected, 2.0 * ADAM);
        is(&run(&op(literal_adam(adam(rate, 300))), &experts()), &expected, 2.0 * ADAM);
    }
    let qwen = [0.21742837, 0.18138049, 0.19256682, 0.05127579, -0.04292298, 0.17689561];
    let compose = [0.45094759, 0.20786357, -0.07301784, -0.23503393, -0.25640326, 0.07397543];
    for (rows, rate, expected) in [(Rows::Truncated, 1e-4, qwen), (Rows::Whole, 5e-2, compose)] {
        let op =
            |solver| objective((Targets::Truncated, rows), Rank::PerExpert, Init::Mean, solver);
        let sgd = sgd(rate, 0.9, 300);
        is(&run(&op(filter(Filter::Sgd(sgd), Cut::None)), &experts()), &expected, ADAM);
        is(&run(&op(literal_sgd(sgd)), &experts()), &expected, ADAM);
    }
}

fn swudi(how: Filter, cut: Cut, init: Init) -> Matrix {
    let op = objective((Targets::Whole, Rows::Whole), Rank::Full, init, filter(how, cut));
    run(&op, &experts())
}

#[test]
fn spectral_filters() {
    let long = || Filter::Exponential(300.0.into());
    let share = || Cut::Share(0.65.into());
    let sum = [0.319928, 0.290426, 0.388206, 0.075848, -0.004326, 0.202251];
    let mean = [0.293218, 0.281454, 0.410320, 0.101722, 0.004364, 0.180829];
    let zero = [0.266509, 0.272483, 0.432434, 0.127596, 0.013055, 0.159407];
    is(&swudi(long(), share(), Init::Sum), &sum, PRINTED);
    is(&swudi(long(), share(), Init::Mean), &mean, PRINTED);
    is(&swudi(long(), share(), Init::Zero), &zero, PRINTED);
    let short = || Filter::Exponential(2.0.into());
    let cut = [0.314570, 0.287515, 0.380554, 0.111382, 0.028104, 0.258325];
    is(&swudi(short(), share(), Init::Sum), &cut, PRINTED);
    let whole = [0.370307, 0.306236, 0.334408, 0.032707, 0.001678, 0.323463];
    is(&swudi(short(), Cut::None, Init::Sum), &whole, PRINTED);
    let tikhonov = [0.457813, 0.336823, 0.273287, -0.117120, -0.068541, 0.366990];
    is(&swudi(Filter::Tikhonov(0.01.into()), Cut::None, Init::Sum), &tikhonov, PRINTED);
}

fn rule(rule: RankRule) -> Cut {
    Cut::Rule { rule, min_rank: 1, max_rank_ratio: 1.0.into(), rank_scale: 1.0.into() }
}

#[test]
fn rank_rules() {
    let kept = |which| {
        let solver = filter(Filter::Exact, rule(which));
        let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Sum, solver);
        *outcome(&op, &dense(&experts())).report.ranks.last().unwrap()
    };
    // Raw values: 1.139137, 2.363520, 1.998480, 2.648734; the Gavish–Donoho threshold leaves one.
    assert_eq!(kept(RankRule::None), 3);
    assert_eq!(kept(RankRule::StableRank), 2);
    assert_eq!(kept(RankRule::Entropy), 3);
    assert_eq!(kept(RankRule::Participation), 2);
    assert_eq!(kept(RankRule::ParticipationSqrt), 3);
    assert_eq!(kept(RankRule::CumulativeVariance(0.95.into())), 3);
    assert_eq!(kept(RankRule::GavishDonoho), 1);
    let one = rule(RankRule::GavishDonoho);
    let sum = [0.310735, 0.278268, 0.372170, 0.147684, 0.090671, 0.327554];
    let mean = [0.169381, 0.117688, 0.194310, 0.101128, 0.003578, 0.179792];
    let zero = [0.028027, -0.042892, 0.016450, 0.054571, -0.083515, 0.032030];
    is(&swudi(Filter::Exact, one, Init::Sum), &sum, PRINTED);
    is(&swudi(Filter::Exact, one, Init::Mean), &mean, PRINTED);
    is(&swudi(Filter::Exact, one, Init::Zero), &zero, PRINTED);
    let two = [0.319928, 0.290426, 0.388206, 0.075848, -0.004326, 0.202251];
    is(&swudi(Filter::Exact, rule(RankRule::StableRank), Init::Sum), &two, PRINTED);
}

/// Landweber is gradient descent with half the step, as the gradient is `2·(X·G − C)`.
#[test]
fn landweber_is_gradient_descent() {
    let op = objective(
        (Targets::Whole, Rows::Whole),
        Rank::Full,
        Init::Sum,
        literal_sgd(sgd(0.45 / 1.325537667, 0.0, 20)),
    );
    let closed = swudi(Filter::Landweber(20), Cut::None, Init::Sum);
    is(&closed, &run(&op, &experts()).values, 1e-8);
}

/// One diagonal expert: λ = 9/14, 4/14, 1/14, and from 0 each entry becomes τ·λ·q.
#[test]
fn wiener() {
    let expert = vec![matrix(3, 3, &[3.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0])];
    let entries = |level, share: f64| {
        let solver = filter(Filter::Wiener(level), Cut::Share(share.into()));
        let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Zero, solver);
        let found = run(&op, &expert).values;
        [found[0], found[4], found[8]]
    };
    let share = |value: f64, noise: f64| value * value / (value * value + noise);
    let (a, b, c) = (9.0 / 14.0, 4.0 / 14.0, 1.0 / 14.0);
    let cases = [
        // int(3·0.65 + 0.999) = 2 are kept, and 1/14 is the noise.
        (NoiseLevel::Mean, 0.65, [3.0 * share(a, c), 2.0 * share(b, c), 0.0]),
        // One is kept; of the others the first is 4/14, the mean 2.5/14, the lower median 1/14.
        (NoiseLevel::First, 0.3, [3.0 * share(a, b), 0.0, 0.0]),
        (NoiseLevel::Mean, 0.3, [3.0 * share(a, 2.5 / 14.0), 0.0, 0.0]),
        (NoiseLevel::Median, 0.3, [3.0 * share(a, c), 0.0, 0.0]),
        // All are kept: the median of all is 4/14.
        (NoiseLevel::First, 1.0, [3.0 * share(a, b), 2.0 * share(b, b), share(c, b)]),
    ];
    for (level, kept, expected) in cases {
        for (found, expected) in entries(level, kept).into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-14, "{level:?} {kept}: {found}, {expected}");
        }
    }
}

/// λ = 1 and 1e-10, the latter treated as 1e-8: X_0 is removed, and τ·λ/1e-8 = 1e-5·1e-10/1e-8 comes
/// in its place, as in the released code.
#[test]
fn eigenvalues_have_a_floor() {
    let expert = vec![matrix(2, 2, &[1.0, 0.0, 0.0, 1e-5])];
    let solver = filter(Filter::Exact, Cut::None);
    let op = objective((Targets::Whole, Rows::Whole), Rank::Full, Init::Sum, solver);
    is(&run(&op, &expert), &[1.0, 0.0, 0.0, 1e-7], 1e-14);
}

#[test]
fn common_basis() {
    let found = run(&MatrixOp::CommonBasis, &experts());
    assert_eq!((found.rows, found.columns), (2, 2 * 3 + 2 + 1));
    let part = |first: usize, columns: usize| {
        let rows = found.values.chunks(found.columns);
        let values: Vec<f64> = rows.flat_map(|row| &row[first..first + columns]).copied().collect();
        matrix(2, columns, &values)
    };
    let coordinates = [part(0, 3), part(3, 3)];
    is(&part(8, 1), &[1.0, 1.0], 0.0);
    // Singular values of [τ₁ τ₂] are the lengths of the rows of [R₁ R₂].
    for (row, sigma) in [(0, 0.813321), (1, 0.589923)] {
        let square: f64 = found.values[row * 9..row * 9 + 6].iter().map(|x| x * x).sum();
        assert!((square.sqrt() - sigma).abs() < PRINTED, "{square}");
    }
    // TIES of half of the elements, inclusively: the fourth largest magnitude of each still counts. Signs of
    // directions are arbitrary, and cancel in the way back.
    let trimmed = coordinates.clone().map(|one| {
        let mut sizes: Vec<f64> = one.values.iter().map(|value| value.abs()).collect();
        sizes.sort_by(|a, b| b.total_cmp(a));
        let kept = |value: &f64| if value.abs() < sizes[3] { 0.0 } else { *value };
        one.values.iter().map(kept).collect::<Vec<f64>>()
    });
    let merged: Vec<f64> = (0..6)
        .map(|at| {
            let values = [trimmed[0][at], trimmed[1][at]];
            let sign = (values[0] + values[1]).signum();
            let agreeing: Vec<f64> =
                values.into_iter().filter(|value| value * sign > 0.0).collect();
            agreeing.iter().sum::<f64>() / agreeing.len().max(1) as f64
        })
        .collect();
    let back = run(&MatrixOp::OutOfBasis { experts: 2 }, &[matrix(2, 3, &merged), part(6, 2)]);
    is(&back, &[0.353869, 0.504282, 0.408256, -0.035997, -0.352486, 0.332391], PRINTED);
}

#[test]
fn shared_shift() {
    let op = |subspace_divisor| {
        MatrixOp::SharedShift(Doge {
            eta: 0.07.into(),
            learning_rate: 1e-4.into(),
            steps: 400,
            subspace_divisor,
        })
    };
    let shift = run(&op(2), &experts());
    is(&shift, &[0.039921, 0.038836, 0.039914, 0.039921, 0.038836, 0.039914], PRINTED);
    // With no subspace: τ_m = Σ λ_i·(τ_i + Δ) ⊙ mask_i, the top 30 % of each |τ_i|.
    let shift = run(&op(6), &experts());
    let factors: Vec<f64> = experts().iter().map(|expert| 0.07 / norm(expert)).collect();
    let mut merged = vec![0.0; 6];
    for (expert, factor) in experts().iter().zip(factors) {
        let mut sizes: Vec<f64> = expert.values.iter().map(|value| value.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        for (index, value) in expert.values.iter().enumerate() {
            if value.abs() >= sizes[4] {
                merged[index] += factor * (value + shift.values[index]);
            }
        }
    }
    let expected = [0.054276, 0.047260, 0.0, 0.0, 0.033361, 0.041344];
    is(&matrix(2, 3, &merged), &expected, 2e-6);
}

#[test]
fn regression() {
    let base = matrix(2, 3, &[1.0, -0.5, 0.25, 0.5, 2.0, -1.0]);
    let mut operands: Vec<_> = experts()
        .iter()
        .map(|expert| combined(&[base.clone(), expert.clone()], &[1.0, 1.0]))
        .collect();
    operands.push(matrix(3, 3, &[2.0, 0.5, 0.0, 0.5, 1.0, 0.2, 0.0, 0.2, 1.5]));
    operands.push(matrix(3, 3, &[1.0, -0.3, 0.1, -0.3, 2.0, 0.0, 0.1, 0.0, 1.0]));
    let op = |share: f64| MatrixOp::Regression { off_diagonal: share.into() };
    let whole = [1.124099, -0.153548, 0.364120, 0.688001, 1.840155, -0.830332];
    let most = [1.135000, -0.161515, 0.369689, 0.677336, 1.845339, -0.834088];
    is(&run(&op(1.0), &operands), &whole, PRINTED);
    is(&run(&op(0.9), &operands), &most, PRINTED);
}

#[test]
fn facts_of_rows_and_columns() {
    let pair = experts();
    let one = &pair[..1];
    let fact = |fact, axis| run(&MatrixOp::AxisFact(fact, axis), one);
    is(&fact(Fact::Sum, Axis::Rows), &[0.31, 0.26], 1e-15);
    is(&fact(Fact::Sum, Axis::Columns), &[0.43, 0.10, 0.04], 1e-15);
    is(&fact(Fact::SumProduct, Axis::Rows), &[0.2185, 0.1034], 1e-15);
    is(&fact(Fact::Highest, Axis::Rows), &[0.40, 0.31], 0.0);
    is(&fact(Fact::Highest, Axis::Columns), &[0.40, 0.31, 0.12], 0.0);
    // −0.044 − 0.1092 + 0.0288, and 0.0057 − 0.1023 − 0.036.
    let product = run(&MatrixOp::AxisFact(Fact::SumProduct, Axis::Rows), &pair);
    is(&product, &[-0.1244, -0.1326], 1e-15);
    let product = run(&MatrixOp::AxisFact(Fact::SumProduct, Axis::Columns), &pair);
    is(&product, &[-0.0383, -0.2115, -0.0072], 1e-15);
    // The highest of what is negative is negative.
    let negative = [matrix(1, 2, &[-3.0, -2.0])];
    is(&run(&MatrixOp::AxisFact(Fact::Highest, Axis::Rows), &negative), &[-2.0], 0.0);
}

#[test]
fn places_within_rows() {
    let rows = matrix(2, 4, &[0.1, -3.0, 2.0, 0.0, 1.0, -1.0, 5.0, 1.0]);
    // Of equal magnitudes the one that comes first has the higher place.
    is(&run(&MatrixOp::PlaceInRow, &[rows]), &[1.0, 3.0, 2.0, 0.0, 2.0, 1.0, 3.0, 0.0], 0.0);
}

#[test]
fn the_mean_on_a_sphere() {
    let op = |max_iter| MatrixOp::KarcherWeights(Karcher { max_iter, tol: 1e-12.into() });
    // A right angle: both count alike, and the mean of the lengths 1 and 2 is 1.5.
    let right = [matrix(1, 2, &[1.0, 0.0]), matrix(1, 2, &[0.0, 2.0])];
    let half = 1.5 / 2.0_f64.sqrt();
    is(&run(&op(10), &right), &[half, half / 2.0], 1e-12);
    // In a plane the mean direction is the mean of the angles, here 0, 0.3 and 0.9.
    let on = |angle: f64| matrix(1, 2, &[angle.cos(), angle.sin()]);
    let plane = [on(0.0), on(0.3), on(0.9)];
    let found = run(&op(100), &plane);
    let at = |coordinate: usize| -> f64 {
        plane.iter().zip(&found.values).map(|(one, weight)| one.values[coordinate] * weight).sum()
    };
    assert!((at(0) - 0.4_f64.cos()).abs() < 1e-9 && (at(1) - 0.4_f64.sin()).abs() < 1e-9);
    // Opposite directions have no mean; the first stands, and nothing is NaN.
    let opposite = [matrix(1, 2, &[1.0, 0.0]), matrix(1, 2, &[-1.0, 0.0])];
    assert!(run(&op(10), &opposite).values.iter().all(|value| value.is_finite()));
    let zeros = [matrix(1, 2, &[0.0, 0.0]), matrix(1, 2, &[0.0, 0.0])];
    is(&run(&op(10), &zeros), &[0.0, 0.0], 0.0);
}

#[test]
fn reshaped_spectra() {
    let share = |share: f64| MatrixOp::Reshaped(Reshape::Lifted(share.into()));
    // Shares of the sum's singular values: 0.7552 and 1.
    let lifted = [0.280720, 0.553053, 0.252419, 0.232776, -0.354626, 0.518114];
    is(&run(&share(0.5), &sum()), &lifted, PRINTED);
    is(&run(&share(0.8), &sum()), &sum()[0].values, 1e-12);
    let tall = transposed(&run(&share(0.5), &[transposed(&sum()[0])]));
    is(&tall, &lifted, PRINTED);
    let star = MatrixOp::Reshaped(Reshape::Leading(0.4.into()));
    let both: Vec<Matrix> = experts().into_iter().map(|one| run(&star, &[one])).collect();
    let mean = combined(&both, &[0.5, 0.5]);
    is(&mean, &[0.120966, 0.141899, 0.003305, 0.026193, -0.284820, 0.057748], PRINTED);
    let nothing = [matrix(2, 3, &[0.0; 6])];
    is(&run(&star, &nothing), &[0.0; 6], 0.0);
    is(&run(&share(0.5), &nothing), &[0.0; 6], 0.0);
}

#[test]
fn calibrated_spectra() {
    let op = |alpha: f64| MatrixOp::CalibratedSpectrum { alpha: alpha.into() };
    let given: Vec<Matrix> = sum().into_iter().chain(experts()).collect();
    let calibrated = [0.223139, 0.719715, 0.094278, 0.206971, -0.653109, 0.588948];
    is(&run(&op(0.1), &given), &calibrated, PRINTED);
    let clamped = [0.240035, 0.277178, 0.290157, 0.183709, -0.043840, 0.319270];
    is(&run(&op(1.0), &given), &clamped, PRINTED);
    let tall: Vec<Matrix> = given.iter().map(transposed).collect();
    // Its left directions are others: one expert is itself on either side.
    let alone = [tall[1].clone(), tall[1].clone()];
    is(&run(&op(1.0), &alone), &tall[1].values, 1e-12);
    let flat = matrix(2, 2, &[1.0, 0.0, 0.0, 1.0]);
    let mut operands = InMemory::new(&dense(&[flat.clone(), flat]));
    let stop = CpuBackend::new().prepare(&op(0.1), &mut operands, Precision::Single);
    assert!(matches!(stop, Err(Stop::Refused(words, _)) if words.contains("are equal")));
}
