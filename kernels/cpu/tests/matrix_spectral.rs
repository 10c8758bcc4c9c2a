//! Ops through singular values: what must hold of them for any matrix, and that factors are matrices.

mod matrices;

use matrices::*;
use mixdown_ops::Precision;
use mixdown_ops::matrix::spectral::Doge;
use mixdown_ops::matrix::{Factors, Matrix, MatrixOp, Rank, RankAware};

const SHAPES: [(usize, usize); 4] = [(6, 40), (12, 20), (20, 12), (16, 16)];

fn identity(size: usize) -> Matrix {
    let values = (0..size * size).map(|at| f64::from(u8::from(at / size == at % size)));
    Matrix { rows: size, columns: size, values: values.collect() }
}

fn several() -> Vec<MatrixOp> {
    vec![
        MatrixOp::TaskSingularVectors(Rank::PerExpert),
        MatrixOp::IsotropicCommon(0.8.into()),
        MatrixOp::IsotropicCommon(0.4.into()),
    ]
}

#[test]
fn polar_is_orthonormal_and_symmetric() {
    for (rows, columns) in SHAPES {
        let given = random(rows, columns, 3);
        let polar = run(&MatrixOp::Polar, std::slice::from_ref(&given));
        let turned = transposed(&polar);
        let gram = match rows <= columns {
            true => multiplied(&polar, &turned),
            false => multiplied(&turned, &polar),
        };
        near(&gram, &identity(rows.min(columns)), 1e-11, "orthonormal");
        // U·Vᵀ is the factor that leaves a symmetric rest.
        let rest = multiplied(&given, &turned);
        near(&transposed(&rest), &rest, 1e-11, "symmetric");
        let iso = outcome(&MatrixOp::Isotropic(RankAware::No), &dense(&[given]));
        let mean = norm(&iso.result) / (rows.min(columns) as f64).sqrt();
        near(&iso.result, &scaled(&polar, mean), 1e-11, "isotropic");
        assert!((iso.report.norm.unwrap() - norm(&iso.result)).abs() < 1e-10);
    }
}

#[test]
fn one_matrix_is_returned() {
    for (rows, columns) in SHAPES {
        let given = randoms(1, rows, columns);
        let tsv = MatrixOp::TaskSingularVectors(Rank::PerExpert);
        near(&run(&tsv, &given), &given[0], 1e-11, "tsv");
        near(&run(&MatrixOp::TruncatedSvd(Rank::Full), &given), &given[0], 1e-12, "svd");
    }
}

#[test]
fn order_and_scale() {
    for (rows, columns) in SHAPES {
        let experts = randoms(3, rows, columns);
        let turned = vec![experts[2].clone(), experts[0].clone(), experts[1].clone()];
        let larger: Vec<_> = experts.iter().map(|one| scaled(one, 7.0)).collect();
        for op in several() {
            let result = run(&op, &experts);
            let what = format!("{rows}×{columns} {op:?}");
            near(&run(&op, &turned), &result, 1e-10, &what);
            near(&run(&op, &larger), &scaled(&result, 7.0), 1e-10, &what);
        }
    }
}

/// The two sides are computed in different ways.
#[test]
fn a_matrix_on_its_side() {
    for (rows, columns) in SHAPES {
        let experts = randoms(2, rows, columns);
        let sides: Vec<_> = experts.iter().map(transposed).collect();
        let what = format!("{rows}×{columns}");
        let op = MatrixOp::TaskSingularVectors(Rank::PerExpert);
        near(&transposed(&run(&op, &sides)), &run(&op, &experts), 1e-10, &what);
        for op in [MatrixOp::Polar, MatrixOp::TruncatedSvd(Rank::Count(3))] {
            near(&transposed(&run(&op, &sides[..1])), &run(&op, &experts[..1]), 1e-10, &what);
        }
    }
}

#[test]
fn truncation_is_the_best_of_its_rank() {
    for (rows, columns) in SHAPES {
        let given = random(rows, columns, 9);
        let op = MatrixOp::TruncatedSvd(Rank::Count(4));
        let best = outcome(&op, &dense(std::slice::from_ref(&given)));
        assert_eq!(best.report.ranks, [4]);
        // What is left is orthogonal to what is kept, on both sides.
        let rest = combined(&[given, best.result.clone()], &[1.0, -1.0]);
        let zero = norm(&multiplied(&rest, &transposed(&best.result)));
        assert!(zero < 1e-11, "{zero:e}");
        let zero = norm(&multiplied(&transposed(&rest), &best.result));
        assert!(zero < 1e-11, "{zero:e}");
        let again = run(&op, std::slice::from_ref(&best.result));
        near(&again, &best.result, 1e-11, "again");
    }
}

#[test]
fn factors_are_dense_matrices() {
    for (rows, columns) in [(40, 60), (60, 40)] {
        let many = factored(rows, columns, &[3, 5, 2]);
        let one = many[..1].to_vec();
        let cases = [
            (MatrixOp::TruncatedSvd(Rank::Count(2)), &one),
            (MatrixOp::Isotropic(RankAware::Yes), &one),
            (MatrixOp::TaskSingularVectors(Rank::PerExpert), &many),
            (MatrixOp::TaskSingularVectors(Rank::Count(2)), &many),
        ];
        for (op, given) in cases {
            let low = outcome(&op, given);
            let experts: Vec<_> = given.iter().map(Given::dense).collect();
            let high = run(&op, &experts);
            let what = format!("{rows}×{columns} {op:?}");
            near(&low.result, &high, 1e-9, &what);
            let Factors { left, right } = low.factors.expect("factors");
            near(&multiplied(&left, &right), &high, 1e-9, &what);
        }
        // Directions without energy are left out for adapters, and filled in for dense matrices.
        let automatic = MatrixOp::Isotropic(RankAware::Automatic);
        let low = outcome(&automatic, &one).result;
        near(&low, &run(&MatrixOp::Isotropic(RankAware::Yes), &[one[0].dense()]), 1e-9, "adapter");
        let filled = outcome(&automatic, &dense(&[one[0].dense()]));
        assert!(filled.report.notes[0].contains("37 of 40"), "{:?}", filled.report.notes);
        let unit = scaled(&filled.result, 40.0_f64.sqrt() / norm(&filled.result));
        let turned = transposed(&unit);
        let gram = match rows <= columns {
            true => multiplied(&unit, &turned),
            false => multiplied(&turned, &unit),
        };
        near(&gram, &identity(40), 1e-9, "filled");
    }
}

#[test]
fn null_directions_are_dropped() {
    let experts: Vec<_> = factored(24, 30, &[4, 4]).iter().map(Given::dense).collect();
    let op = MatrixOp::TaskSingularVectors(Rank::PerExpert);
    let found = outcome(&op, &dense(&experts));
    assert_eq!(found.report.ranks, [4, 4]);
    assert!(found.report.notes.iter().any(|note| note.contains("16 of 24")), "{:?}", found.report);
    let four = run(&MatrixOp::TaskSingularVectors(Rank::Count(4)), &experts);
    near(&found.result, &four, 1e-9, "rank 4");
}

#[test]
fn no_rank_gives_the_mean() {
    let experts = randoms(7, 5, 9);
    let found = outcome(&MatrixOp::TaskSingularVectors(Rank::PerExpert), &dense(&experts));
    near(&found.result, &combined(&experts, &[1.0 / 7.0; 7]), 1e-14, "mean");
    assert!(found.report.notes[0].contains("more experts (7)"));
}

#[test]
fn zero_matrices() {
    for (rows, columns) in [(4, 6), (6, 4)] {
        let zero = vec![matrix(rows, columns, &[0.0; 24]); 2];
        for op in several() {
            assert!(run(&op, &zero).values.iter().all(|value| *value == 0.0), "{op:?}");
        }
        for op in [
            MatrixOp::Polar,
            MatrixOp::Isotropic(RankAware::No),
            MatrixOp::Isotropic(RankAware::Yes),
            MatrixOp::TruncatedSvd(Rank::Count(2)),
        ] {
            assert!(run(&op, &zero[..1]).values.iter().all(|value| *value == 0.0), "{op:?}");
        }
        assert!(run(&MatrixOp::CommonBasis, &zero).values.iter().all(|value| *value == 0.0));
        let doge =
            Doge { eta: 0.07.into(), learning_rate: 1e-4.into(), steps: 3, subspace_divisor: 2 };
        assert!(run(&MatrixOp::SharedShift(doge), &zero).values.iter().all(|value| *value == 0.0));
    }
}

/// Of the rows of a common basis: coordinates of the experts, the basis, and which directions count.
fn parts(found: &Matrix, experts: usize, rows: usize) -> (Vec<Matrix>, Matrix, Vec<f64>) {
    let columns = (found.columns - rows - 1) / experts;
    let part = |first: usize, columns: usize| {
        let rows = found.values.chunks(found.columns);
        let values: Vec<f64> = rows.flat_map(|row| &row[first..first + columns]).copied().collect();
        matrix(found.rows, columns, &values)
    };
    let coordinates = (0..experts).map(|expert| part(expert * columns, columns)).collect();
    (coordinates, part(experts * columns, rows), part(found.columns - 1, 1).values)
}

/// The basis is that of all columns, also where it comes from the other side, in blocks of any rows.
#[test]
fn common_basis() {
    for (rows, columns) in [(6, 10), (50, 10), (600, 210)] {
        let experts = randoms(3, rows, columns);
        let found = run(&MatrixOp::CommonBasis, &experts);
        let (coordinates, basis, counts) = parts(&found, 3, rows);
        assert_eq!(found.rows, rows.min(3 * columns));
        assert!(counts.iter().all(|&count| count == 1.0));
        let unit = multiplied(&basis, &transposed(&basis));
        for (at, value) in unit.values.iter().enumerate() {
            let expected = f64::from(at / unit.columns == at % unit.columns);
            assert!((value - expected).abs() < 1e-9, "{rows}×{columns}: {value}");
        }
        for (expert, own) in experts.iter().zip(&coordinates) {
            near(&multiplied(&transposed(&basis), own), expert, 1e-11, "U·R");
            let mut padded = own.values.clone();
            padded.resize(rows * columns, 0.0);
            let given = [matrix(rows, columns, &padded), basis.clone()];
            near(&run(&MatrixOp::OutOfBasis { experts: 3 }, &given), expert, 1e-11, "the way back");
        }
        // Rows of all coordinates side by side are orthogonal.
        let all: Vec<f64> = (0..found.rows)
            .flat_map(|row| found.values[row * found.columns..][..3 * columns].to_vec())
            .collect();
        let all = matrix(found.rows, 3 * columns, &all);
        let gram = multiplied(&all, &transposed(&all));
        let largest = gram.values[0];
        for (at, value) in gram.values.iter().enumerate() {
            let is_diagonal = at / gram.columns == at % gram.columns;
            assert!(is_diagonal || value.abs() < 1e-11 * largest, "{rows}×{columns}: {value}");
        }
    }
    // Directions that experts do not have are zero, and do not count.
    for (rows, columns) in [(12, 20), (40, 10)] {
        let experts: Vec<_> = factored(rows, columns, &[2, 3]).iter().map(Given::dense).collect();
        let found = run(&MatrixOp::CommonBasis, &experts);
        let (coordinates, basis, counts) = parts(&found, 2, rows);
        let expected: Vec<f64> = (0..found.rows).map(|row| f64::from(row < 5)).collect();
        assert_eq!(counts, expected, "{rows}×{columns}");
        assert!(found.values[5 * found.columns..].iter().all(|value| *value == 0.0));
        for (expert, own) in experts.iter().zip(&coordinates) {
            near(&multiplied(&transposed(&basis), own), expert, 1e-9, "U·R");
        }
    }
}

/// Noise beyond the rank would count among the coordinates that are trimmed.
#[test]
fn a_common_basis_has_the_rank_of_its_matrices() {
    for (rows, columns) in [(24, 30), (30, 24), (200, 20)] {
        let experts = factored(rows, columns, &[2, 3, 2]);
        let found = outcome(&MatrixOp::CommonBasis, &experts);
        assert_eq!(found.report.ranks, [7], "{rows}×{columns}");
    }
}

#[test]
fn regression_returns_equal_weights() {
    let weight = random(5, 8, 1);
    let gram = |seed| {
        let inputs = random(20, 8, seed);
        multiplied(&transposed(&inputs), &inputs)
    };
    let op = MatrixOp::Regression { off_diagonal: 0.9.into() };
    let given = [weight.clone(), weight.clone(), gram(2), gram(3)];
    near(&run(&op, &given), &weight, 1e-12, "equal weights");
    // A singular sum is made regular, and told.
    let inputs = random(3, 8, 4);
    let low = multiplied(&transposed(&inputs), &inputs);
    let op = MatrixOp::Regression { off_diagonal: 1.0.into() };
    let found = outcome(&op, &dense(&[weight.clone(), weight, low.clone(), low]));
    assert!(found.report.notes[0].contains("singular"));
    assert!(found.result.values.iter().all(|value| value.is_finite()));
}

#[test]
fn rows_do_not_depend_on_their_group() {
    for (rows, columns) in [(300, 20), (300, 320)] {
        let experts = randoms(2, rows, columns);
        for op in several() {
            let one = run_in(&op, &dense(&experts), Precision::Single, 1).unwrap().result;
            let all = run_in(&op, &dense(&experts), Precision::Single, 100).unwrap().result;
            assert_eq!(one, all, "{op:?}");
        }
    }
}
