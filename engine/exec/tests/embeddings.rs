//! Embeddings put together by rows, merged and compared with plain code.

mod world;

use std::sync::Arc;

use mixdown_diagnostics::codes;
use mixdown_exec::Options;
use mixdown_ops::Precision;
use mixdown_plan::{Leaf, RowSource, Rows};
use mixdown_tensor::{DType, Shape};
use world::{
    MemorySink, Model, World, bf16_bytes, bf16_values, f32_bytes, f32_values, linear, values,
};

/// Columns: not a divisor of a block, so that stripes end inside rows.
const WIDTH: u64 = 300;

/// A world of one bf16 and one f32 embedding of 700 rows each.
fn world(spoil: Option<(usize, usize)>) -> World {
    let model = |number: usize, to_bytes: fn(&[f32]) -> Vec<u8>, dtype| {
        let mut data = values(number as u64 + 1, 700 * WIDTH);
        if let Some((model, element)) = spoil
            && model == number
        {
            data[element] = f32::INFINITY;
        }
        Model::of(&[("embed", dtype, &[700, WIDTH], to_bytes(&data))])
    };
    World::new(vec![model(0, bf16_bytes, DType::Bf16), model(1, f32_bytes, DType::F32)])
}

fn push(world: &mut World, rows: Vec<RowSource>, dtype: DType, precision: Precision) {
    let shape = Shape::new(vec![rows.len() as u64, WIDTH]).unwrap();
    let tensors = vec![world.tensor(0, "embed"), world.tensor(1, "embed")];
    world.plan.rows.push(Arc::new(Rows { tensors, row_elements: WIDTH, rows }));
    let program = world.program(linear(1));
    let leaf = Leaf::Rows(world.plan.rows.len() as u32 - 1);
    world.push("embed", shape, dtype, vec![leaf], program, &[1.0]).precision = precision;
}

/// The rows in f64, except those that are the mean of all.
fn expected(world: &World, rows: &[RowSource]) -> Vec<Option<Vec<f64>>> {
    let tensors = [bf16_values(&world.models[0].bytes), f32_values(&world.models[1].bytes)];
    let row = |(tensor, row): (u32, u32)| -> Vec<f64> {
        let start = row as usize * WIDTH as usize;
        let values = &tensors[tensor as usize][start..start + WIDTH as usize];
        values.iter().map(|&value| value.into()).collect()
    };
    let made = rows.iter().map(|source| match source {
        &RowSource::Row(tensor, number) => Some(row((tensor, number))),
        RowSource::Zero => Some(vec![0.0; WIDTH as usize]),
        RowSource::MeanOfRows => None,
        RowSource::Mean(sources) => {
            let mut sums = vec![0.0; WIDTH as usize];
            for &source in sources {
                sums.iter_mut().zip(row(source)).for_each(|(sum, value)| *sum += value);
            }
            sums.iter_mut().for_each(|sum| *sum /= sources.len() as f64);
            Some(sums)
        }
    });
    made.collect()
}

/// Runs of rows forward, single rows, rows of the other tensor, means, zeros and padding.
fn mixed_rows() -> Vec<RowSource> {
    let mut rows: Vec<RowSource> = (100..350).map(|row| RowSource::Row(0, row)).collect();
    rows.push(RowSource::MeanOfRows);
    rows.extend((0..300).rev().map(|row| RowSource::Row(1, row)));
    rows.push(RowSource::Mean(vec![(0, 3), (1, 699), (1, 3)]));
    rows.push(RowSource::Zero);
    rows.extend((650..700).map(|row| RowSource::Row(1, row)));
    rows.push(RowSource::Row(0, 699));
    rows.push(RowSource::Mean(vec![(1, 0)]));
    rows.extend([RowSource::MeanOfRows, RowSource::MeanOfRows]);
    rows
}

#[test]
fn rows_from_everywhere() {
    let mut world = world(None);
    let rows = mixed_rows();
    push(&mut world, rows.clone(), DType::F64, Precision::Double);
    let output = world.output().remove(0);
    let found: Vec<f64> =
        output.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect();
    let expected = expected(&world, &rows);
    let known: Vec<&Vec<f64>> = expected.iter().flatten().collect();
    for (number, found) in found.chunks(WIDTH as usize).enumerate() {
        match &expected[number] {
            Some(expected) => assert!(found == expected, "row {number}"),
            None => {
                for (column, found) in found.iter().enumerate() {
                    let sum: f64 = known.iter().map(|row| row[column]).sum();
                    let mean = sum / known.len() as f64;
                    assert!((found - mean).abs() < 1e-14, "row {number}, column {column}");
                }
            }
        }
    }
}

#[test]
fn rows_in_single_precision() {
    let mut world = world(None);
    let rows: Vec<RowSource> =
        mixed_rows().into_iter().filter(|row| *row != RowSource::MeanOfRows).collect();
    push(&mut world, rows.clone(), DType::F32, Precision::Single);
    let output = f32_values(&world.output()[0]);
    let expected: Vec<f32> =
        expected(&world, &rows).into_iter().flatten().flatten().map(|value| value as f32).collect();
    assert!(output == expected);
}

#[test]
fn a_special_value_is_found_in_the_row_it_comes_from() {
    let check = |rows: Vec<RowSource>, element: &str| {
        let mut world = world(Some((1, 40 * WIDTH as usize + 7)));
        push(&mut world, rows, DType::F32, Precision::Single);
        for threads in [1, 3] {
            let sink = MemorySink::new(&world.plan);
            let options = Options { threads, ..Options::default() };
            let errors = world.run(&sink, &options).unwrap_err();
            assert_eq!(errors[0].code, codes::NONFINITE);
            assert_eq!(errors[0].facts[0], ("model".to_owned(), "m1".to_owned()));
            assert_eq!(errors[0].facts[1], ("element".to_owned(), element.to_owned()));
        }
    };
    let element = "12007, at [40, 7]";
    check(vec![RowSource::Zero, RowSource::Row(1, 40)], element);
    check(vec![RowSource::Mean(vec![(0, 1), (1, 40)])], element);
    // The mean of the rows is found first, and must not hide where it comes from.
    check(vec![RowSource::MeanOfRows, RowSource::Row(1, 39), RowSource::Row(1, 40)], element);
}
