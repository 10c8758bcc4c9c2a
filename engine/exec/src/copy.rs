//! The flow of a job that takes over the bytes of an input.

use std::ops::Range;
use std::sync::Mutex;

use mixdown_checkpoint::tensor_digest::TensorHasher;
use mixdown_ops::program::PIECE;
use mixdown_plan::{Job, TensorRef};

use crate::context::{Context, PieceWriter, lock};
use crate::hands::Hands;
use crate::messages;
use crate::scheduler::{Failure, Flow, Step};
use crate::widen;

/// Copies one tensor, and compares it with those that must be the same.
pub(crate) struct CopyFlow<'a> {
    context: &'a Context<'a>,
    number: u32,
    job: &'a Job,
    from: TensorRef,
    equal_to: &'a [TensorRef],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hasher: Option<TensorHasher>,
    /// Bytes that the output shares with the input: they are read for the digest, not written.
    shared: Range<u64>,
}

impl<'a> CopyFlow<'a> {
    pub(crate) fn new(
        context: &'a Context<'a>,
        number: u32,
        from: TensorRef,
        equal_to: &'a [TensorRef],
    ) -> Self {
        let job = context.job(number);
        Self { context, number, job, from, equal_to, state: Mutex::default() }
    }

    fn compare(&self, first: u64, bytes: &[u8], other_bytes: &mut [u8]) -> Result<(), Failure> {
        let width = self.job.dtype.bytes();
        for &other in self.equal_to {
            self.context.inputs.read(other, first, other_bytes)?;
            if bytes == other_bytes {
                continue;
            }
            let mut pairs = bytes.chunks(width).zip(other_bytes.chunks(width));
            if let Some(at) = pairs.position(|(one, other)| one != other) {
                let element = at * width..(at + 1) * width;
                return Err(messages::copies_differ(
                    &self.context.inputs,
                    [self.from, other],
                    first + at as u64,
                    [&bytes[element.clone()], &other_bytes[element]],
                ));
            }
        }
        Ok(())
    }
}

impl Flow<Hands> for CopyFlow<'_> {
    fn advance(&self) -> Result<Step, Failure> {
        let mut state = lock(&self.state);
        if let Some(hasher) = state.hasher.take() {
            self.context.complete(self.number, &hasher)?;
            return Ok(Step::Done);
        }
        state.hasher = Some(self.context.tensor_hasher(self.number));
        state.shared = self.context.share(self.number, self.from)?;
        Ok(Step::Round(self.job.shape.elements().div_ceil(PIECE)))
    }

    fn piece(&self, index: u64, hands: &mut Hands) -> Result<(), Failure> {
        let context = self.context;
        for &tensor in [&self.from].into_iter().chain(self.equal_to) {
            context.inputs.expect_after(tensor, index);
        }
        let shared = lock(&self.state).shared.clone();
        let dtype = self.job.dtype;
        let mut writer = PieceWriter::new(context, self.number, index);
        let end = self.job.shape.elements().min((index + 1) * PIECE);
        let mut at = index * PIECE;
        while at < end {
            let count = (end - at).min(context.stripe as u64) as usize;
            let size = count * dtype.bytes();
            let other_size = if self.equal_to.is_empty() { 0 } else { size };
            let [bytes, other] = hands.arena.split([size, other_size]);
            context.inputs.read(self.from, at, bytes)?;
            if context.check_finite
                && let Some(found) = widen::first_nonfinite(bytes, dtype)
            {
                return Err(messages::nonfinite(&context.inputs, self.from, at + found));
            }
            self.compare(at, bytes, other)?;
            writer.add(context, bytes, &shared)?;
            at += count as u64;
        }
        if let Some(hasher) = &mut lock(&self.state).hasher {
            hasher.add(writer.finish());
        }
        Ok(())
    }
}
