//! The flow that finds the mean of the rows of an embedding, with which padding rows are filled.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use mixdown_ops::program::PIECE;
use mixdown_plan::{RowSource, Rows};
use mixdown_tensor::DType;

use crate::context::{Context, internal, lock};
use crate::hands::Hands;
use crate::messages;
use crate::rows::SCRATCH_BYTES;
use crate::scheduler::{Failure, Flow, Step};
use crate::widen;

/// Sums the columns of all rows that are not padding, in f64 and in a fixed order.
pub(crate) struct RowMeansFlow<'a> {
    context: &'a Context<'a>,
    number: u32,
    rows: &'a Rows,
    state: Mutex<Option<State>>,
}

struct State {
    sums: Vec<f64>,
    /// Pieces added so far; later ones wait, because a sum depends on its order.
    next: u64,
    waiting: BTreeMap<u64, Vec<f64>>,
}

impl<'a> RowMeansFlow<'a> {
    pub(crate) fn new(context: &'a Context<'a>, number: u32) -> Self {
        let rows = &context.plan.rows[number as usize];
        Self { context, number, rows, state: Mutex::new(None) }
    }

    /// Rows that one thread takes: about a piece's elements, and never a part of a row.
    fn rows_per_piece(&self) -> u64 {
        (PIECE / self.rows.row_elements.max(1)).max(1)
    }

    /// Adds the elements from `first` on to the sums of their columns.
    fn add(
        &self,
        hands: &mut Hands,
        first: u64,
        count: usize,
        sums: &mut [f64],
    ) -> Result<(), Failure> {
        let [values, scratch] = hands.arena.split([count * 8, count * SCRATCH_BYTES]);
        let embedding = self.context.embedding(self.number);
        let inputs = &self.context.inputs;
        embedding.gather(inputs, first, DType::F64, values, scratch)?;
        if self.context.check_finite
            && let Some(found) = widen::first_nonfinite(values, DType::F64)
        {
            return Err(match embedding.culprit(inputs, first + found)? {
                Some((tensor, element)) => messages::nonfinite(inputs, tensor, element),
                None => Failure::Fatal(internal("a mean of finite rows is not finite")),
            });
        }
        let mut values = values.as_chunks().0;
        let mut column = (first % self.rows.row_elements) as usize;
        while !values.is_empty() {
            let (row, rest) = values.split_at(values.len().min(sums.len() - column));
            for (sum, &value) in sums[column..].iter_mut().zip(row) {
                *sum += f64::from_le_bytes(value);
            }
            (values, column) = (rest, 0);
        }
        Ok(())
    }

    /// Rows of a range that stand together and are not padding, as ranges of elements.
    fn stretches(&self, rows: Range<u64>) -> Vec<Range<u64>> {
        let length = self.rows.row_elements;
        let mut stretches: Vec<Range<u64>> = Vec::new();
        for row in rows {
            if self.rows.rows[row as usize] == RowSource::MeanOfRows {
                continue;
            }
            let start = row * length;
            match stretches.last_mut() {
                Some(last) if last.end == start => last.end = start + length,
                _ => stretches.push(start..start + length),
            }
        }
        stretches
    }

    fn finish(&self, state: State) {
        let padding = |row: &&RowSource| **row == RowSource::MeanOfRows;
        let padded = self.rows.rows.iter().filter(padding).count();
        let count = (self.rows.rows.len() - padded).max(1) as f64;
        let means = state.sums.into_iter().map(|sum| sum / count).collect();
        // Nobody else sets it: an embedding has one flow.
        let _ = self.context.padding[self.number as usize].set(means);
    }
}

impl Flow<Hands> for RowMeansFlow<'_> {
    fn advance(&self) -> Result<Step, Failure> {
        let mut state = lock(&self.state);
        if let Some(state) = state.take() {
            self.finish(state);
            return Ok(Step::Done);
        }
        let sums = vec![0.0; self.rows.row_elements as usize];
        *state = Some(State { sums, next: 0, waiting: BTreeMap::new() });
        Ok(Step::Round((self.rows.rows.len() as u64).div_ceil(self.rows_per_piece())))
    }

    fn piece(&self, index: u64, hands: &mut Hands) -> Result<(), Failure> {
        let length = self.rows.row_elements;
        let first_row = index * self.rows_per_piece();
        let last_row = (first_row + self.rows_per_piece()).min(self.rows.rows.len() as u64);
        let mut sums = vec![0.0; length as usize];
        for Range { start: mut at, end } in self.stretches(first_row..last_row) {
            while at < end {
                let count = (end - at).min(self.context.stripe as u64) as usize;
                self.add(hands, at, count, &mut sums)?;
                at += count as u64;
            }
        }
        let state = &mut *lock(&self.state);
        let state = state.as_mut().expect("a piece runs within a round");
        state.waiting.insert(index, sums);
        while let Some(sums) = state.waiting.remove(&state.next) {
            state.next += 1;
            for (sum, part) in state.sums.iter_mut().zip(sums) {
                *sum += part;
            }
        }
        Ok(())
    }
}
