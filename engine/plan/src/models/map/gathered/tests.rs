use mixdown_kit::values::Values;

use super::*;

/// A matrix whose element is its own number, from a first one on.
fn tensor(model: u32, shape: &[u64]) -> Sum {
    let shape = Shape::new(shape.to_vec()).unwrap();
    Gathered::of(TensorRef { model, tensor: 0 }, &shape).into()
}

/// The elements in order: 1000 times the model, and the element's number there.
fn elements(sum: &Sum) -> Vec<f64> {
    let (rows, columns) = sides(sum.shape());
    let mut found = vec![0.0; (rows * columns) as usize];
    let mut covered = vec![0; found.len()];
    for (number, (by, term)) in sum.terms.iter().enumerate() {
        for patch in &term.patches {
            for row in patch.rows.clone() {
                for column in patch.columns.clone() {
                    let at = (row * columns + column) as usize;
                    covered[at] += usize::from(number == 0);
                    if let PatchSource::Tensor { tensor, start, row_step, column_step } = patch.from
                    {
                        let element = start
                            + (row - patch.rows.start) * row_step
                            + (column - patch.columns.start) * column_step;
                        found[at] += by * f64::from(tensor.model * 1000 + element as u32);
                    }
                }
            }
        }
    }
    assert!(covered.iter().all(|&count| count == 1), "{covered:?}");
    found
}

#[test]
fn parts_stand_one_after_the_other() {
    let (a, b) = (tensor(1, &[1, 2]), tensor(2, &[2, 2]));
    let both = Sum::concat(&[a.clone(), b], 0).unwrap();
    assert_eq!(both.shape(), [3, 2]);
    assert_eq!(elements(&both), [1000.0, 1001.0, 2000.0, 2001.0, 2002.0, 2003.0]);
    let beside = Sum::concat(&[a, tensor(2, &[1, 1])], 1).unwrap();
    assert_eq!((beside.shape(), elements(&beside)), (&[1, 3][..], vec![1000.0, 1001.0, 2000.0]));
    let vectors = Sum::concat(&[tensor(1, &[2]), tensor(2, &[1])], 0).unwrap();
    assert_eq!((vectors.shape(), elements(&vectors)), (&[3][..], vec![1000.0, 1001.0, 2000.0]));
}

#[test]
fn parts_are_cut_out_and_turned() {
    let all = tensor(1, &[4, 3]);
    assert_eq!(elements(&all.slice(0, &(1..3))), [1003.0, 1004.0, 1005.0, 1006.0, 1007.0, 1008.0]);
    let right = all.slice(1, &(1..3));
    assert_eq!(elements(&right.slice(0, &(2..4))), [1007.0, 1008.0, 1010.0, 1011.0]);
    let turned = right.transpose().unwrap();
    assert_eq!(turned.shape(), [2, 4]);
    let expected = [1001.0, 1004.0, 1007.0, 1010.0, 1002.0, 1005.0, 1008.0, 1011.0];
    assert_eq!(elements(&turned), expected);
    assert_eq!(elements(&turned.slice(1, &(3..4))), [1010.0, 1011.0]);
    let cube = tensor(1, &[2, 2, 2]).slice(0, &(1..2));
    assert_eq!((cube.shape(), elements(&cube)[0]), (&[1, 2, 2][..], 1004.0));
}

#[test]
fn parts_are_stacked() {
    let pair = Sum::stack(&[tensor(1, &[2]), tensor(2, &[2])]).unwrap();
    assert_eq!(
        (pair.shape(), elements(&pair)),
        (&[2, 2][..], vec![1000.0, 1001.0, 2000.0, 2001.0])
    );
    let cube = Sum::stack(&[tensor(1, &[1, 2]), tensor(2, &[1, 2])]).unwrap();
    assert_eq!((cube.shape(), elements(&cube)[2]), (&[2, 1, 2][..], 2000.0));
}

#[test]
fn a_mean_may_stand_within_other_expressions() {
    let mean = Sum::mean(vec![tensor(1, &[1, 2]), tensor(3, &[1, 2])]).unwrap();
    assert_eq!(elements(&mean), [2000.0, 2001.0]);
    let both = Sum::concat(&[mean, tensor(5, &[1, 2])], 0).unwrap();
    assert_eq!(elements(&both), [2000.0, 2001.0, 5000.0, 5001.0]);
}

#[test]
fn rows_of_another_tensor_follow() {
    let shape = Shape::new(vec![3, 2]).unwrap();
    let own = Gathered::of(TensorRef { model: 2, tensor: 0 }, &shape);
    let rows = tensor(1, &[5, 2]).rows_then(2, &own);
    assert_eq!(
        (rows.shape(), elements(&rows)),
        (&[3, 2][..], vec![1000.0, 1001.0, 1002.0, 1003.0, 2004.0, 2005.0])
    );
}

#[test]
fn a_whole_tensor_is_known_and_types_are_parted() {
    let of = |tensor: TensorRef| (if tensor.model == 1 { DType::F32 } else { DType::Bf16 }, 4);
    let a = tensor(1, &[2, 2]);
    let again = Sum::concat(&[a.slice(0, &(0..1)), a.slice(0, &(1..2))], 0).unwrap();
    assert!(matches!(&a.finish(&of)[..], [(by, Term::Whole(_))] if *by == 1.0));
    assert!(matches!(
        &a.transpose().unwrap().transpose().unwrap().finish(&of)[..],
        [(_, Term::Whole(_))]
    ));
    assert!(matches!(&again.finish(&of)[..], [(_, Term::Assembled(_))]));
    let mixed = Sum::concat(&[a, tensor(2, &[2, 2])], 0).unwrap().finish(&of);
    let dtypes: Vec<DType> = mixed
        .iter()
        .map(|(_, term)| match term {
            Term::Assembled(assembled) => assembled.dtype,
            Term::Whole(_) => panic!("it is put together"),
        })
        .collect();
    assert_eq!(dtypes, [DType::F32, DType::Bf16]);
}

#[test]
fn what_does_not_go_together_is_said() {
    let error = |found: Result<Sum, String>| found.unwrap_err();
    assert_eq!(
        error(Sum::concat(&[tensor(1, &[2, 3]), tensor(2, &[2, 4])], 0)),
        "[2, 3] and [2, 4] differ in more than axis 0"
    );
    assert_eq!(
        error(Sum::concat(&[tensor(1, &[2])], 1)),
        "along axis 1 only matrices are put together, found [2]"
    );
    assert_eq!(error(tensor(1, &[2]).transpose()), "only a matrix is transposed, found [2]");
    assert_eq!(
        error(Sum::stack(&[tensor(1, &[2]), tensor(2, &[3])])),
        "[2] and [3] are not of one shape"
    );
}

/// A value, and beside it all its elements.
struct Both {
    sum: Sum,
    shape: Vec<u64>,
    elements: Vec<f64>,
}

impl Both {
    fn at(&self, row: u64, column: u64) -> f64 {
        self.elements[(row * sides(&self.shape).1 + column) as usize]
    }

    fn made(sum: Sum, shape: Vec<u64>, of: impl Fn(u64, u64) -> f64) -> Self {
        let (rows, columns) = sides(&shape);
        let elements = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let elements = elements.map(|(row, column)| of(row, column)).collect();
        Self { sum, shape, elements }
    }
}

/// A matrix from a random tree of expressions, as deep as this.
fn grown(random: &mut Values, depth: u32) -> Both {
    let mut below = |most: u64| random.bits() % most;
    if depth == 0 {
        let shape = vec![1 + below(6), 1 + below(6)];
        let (sum, columns) = (tensor(1 + below(3) as u32, &shape), shape[1]);
        let model = sum.tensors()[0].model;
        return Both::made(sum, shape, |row, column| {
            f64::from(model * 1000) + (row * columns + column) as f64
        });
    }
    let (choice, axis, first) = (below(4), below(2) as u8, below(1000));
    let inner = grown(random, depth - 1);
    let (rows, columns) = (inner.shape[0], inner.shape[1]);
    match choice {
        0 => Both::made(inner.sum.transpose().unwrap(), vec![columns, rows], |row, column| {
            inner.at(column, row)
        }),
        1 => {
            let length = inner.shape[usize::from(axis)];
            let start = first % length;
            let end = start + 1 + random.bits() % (length - start);
            let mut shape = inner.shape.clone();
            shape[usize::from(axis)] = end - start;
            Both::made(inner.sum.slice(axis, &(start..end)), shape, |row, column| match axis {
                0 => inner.at(row + start, column),
                _ => inner.at(row, column + start),
            })
        }
        2 => {
            // Beside or below a part of itself, whose other side is the same.
            let range = 0..1 + first % inner.shape[usize::from(axis)];
            let part = inner.sum.slice(axis, &range);
            let sum = Sum::concat(&[inner.sum.clone(), part], axis).unwrap();
            let mut shape = inner.shape.clone();
            shape[usize::from(axis)] += range.end;
            Both::made(sum, shape, |row, column| match axis {
                0 => inner.at(row % rows, column),
                _ => inner.at(row, column % columns),
            })
        }
        _ => {
            let turned = inner.sum.slice(0, &(0..rows));
            let sum = Sum::mean(vec![inner.sum.clone(), turned]).unwrap();
            Both::made(sum, inner.shape.clone(), |row, column| inner.at(row, column))
        }
    }
}

#[test]
fn trees_of_expressions_are_what_their_parts_are() {
    for seed in 0..400 {
        let mut random = Values::new(seed, "tree");
        let depth = 1 + (random.bits() % 6) as u32;
        let both = grown(&mut random, depth);
        assert_eq!(both.sum.shape(), both.shape, "seed {seed}");
        assert_eq!(elements(&both.sum), both.elements, "seed {seed}");
    }
}
