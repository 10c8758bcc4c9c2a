//! The flow of a job that takes over the bytes of an input.

use std::ops::Range;
use std::sync::Mutex;

use mixdown_checkpoint::tensor_digest::TensorHasher;
use mixdown_ops::program::PIECE;
use mixdown_plan::{Job, TensorRef};
use mixdown_tensor::DType;

use crate::context::{Context, PieceWriter, lock};
use crate::encoded::Encoded;
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
    /// How far their elements may be; none where bytes are compared.
    within: Option<f64>,
    /// Where the tensor is written in fewer bits.
    encoded: Option<Encoded<'a>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether a reading was begun.
    has_begun: bool,
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
        within: Option<f64>,
    ) -> Self {
        let job = context.job(number);
        let encoded = Encoded::of(context, number);
        Self { context, number, job, from, equal_to, within, encoded, state: Mutex::default() }
    }

    fn compare(&self, first: u64, bytes: &[u8], buffer: &mut [u8]) -> Result<(), Failure> {
        let dtype = self.job.dtype;
        let count = bytes.len() / dtype.bytes();
        for &other in self.equal_to {
            let other_dtype = self.context.inputs.entry(other).dtype;
            let other_bytes = &mut buffer[..count * other_dtype.bytes()];
            self.context.inputs.read(other, first, other_bytes)?;
            if dtype == other_dtype && bytes == other_bytes {
                continue;
            }
            let sides = [(bytes, dtype), (&*other_bytes, other_dtype)];
            if let Some(at) = first_apart(sides, self.within) {
                let of = |(bytes, dtype): (&[u8], DType)| -> Vec<u8> {
                    bytes[at * dtype.bytes()..(at + 1) * dtype.bytes()].to_vec()
                };
                return Err(messages::copies_differ(
                    &self.context.inputs,
                    [self.from, other],
                    first + at as u64,
                    [&of(sides[0]), &of(sides[1])],
                    self.within,
                ));
            }
        }
        Ok(())
    }
}

/// The first element that two tensors do not have in common: other bytes, or with a distance numbers that
/// are further apart.
fn first_apart(
    [(one, one_dtype), (other, other_dtype)]: [(&[u8], DType); 2],
    within: Option<f64>,
) -> Option<usize> {
    /// Elements that are widened at once.
    const CHUNK: usize = 256;
    let (one_width, other_width) = (one_dtype.bytes(), other_dtype.bytes());
    let Some(within) = within.filter(|_| one_dtype.is_float() && other_dtype.is_float()) else {
        let mut pairs = one.chunks(one_width).zip(other.chunks(other_width));
        return pairs.position(|(one, other)| one != other);
    };
    let chunks = one.chunks(CHUNK * one_width).zip(other.chunks(CHUNK * other_width));
    let mut values = [[0.0; CHUNK]; 2];
    for (number, (one, other)) in chunks.enumerate() {
        let count = one.len() / one_width;
        let [ours, theirs] = &mut values;
        widen::to_f64_into(one, one_dtype, &mut ours[..count]);
        widen::to_f64_into(other, other_dtype, &mut theirs[..count]);
        let is_apart = |(one, other): (&f64, &f64)| {
            let is_near = (one - other).abs() <= within;
            // What is no number is near its own bits alone.
            !is_near && one.to_bits() != other.to_bits()
        };
        let found = ours[..count].iter().zip(&theirs[..count]).position(is_apart);
        if let Some(at) = found {
            return Some(number * CHUNK + at);
        }
    }
    None
}

impl Flow<Hands> for CopyFlow<'_> {
    fn advance(&self) -> Result<Step, Failure> {
        let mut state = lock(&self.state);
        let pieces = self.job.shape.elements().div_ceil(PIECE);
        if let Some(encoded) = &self.encoded {
            if !std::mem::replace(&mut state.has_begun, true) || encoded.must_repeat() {
                return Ok(Step::Round(pieces));
            }
            let (sums, digests) = encoded.finish()?;
            self.context.note_quantized(self.number, self.job, sums, None);
            self.context.complete_parts(self.number, digests)?;
            return Ok(Step::Done);
        }
        if let Some(hasher) = state.hasher.take() {
            self.context.complete(self.number, &hasher)?;
            return Ok(Step::Done);
        }
        state.hasher = Some(self.context.tensor_hasher(self.number));
        state.shared = self.context.share(self.number, self.from)?;
        Ok(Step::Round(pieces))
    }

    fn piece(&self, index: u64, hands: &mut Hands) -> Result<(), Failure> {
        let context = self.context;
        for &tensor in [&self.from].into_iter().chain(self.equal_to) {
            context.inputs.expect_after(tensor, index);
        }
        let shared = lock(&self.state).shared.clone();
        let dtype = self.job.dtype;
        let is_plain = self.encoded.is_none();
        let mut writer = is_plain.then(|| PieceWriter::new(context, self.number, index));
        let end = self.job.shape.elements().min((index + 1) * PIECE);
        let mut at = index * PIECE;
        while at < end {
            let count = (end - at).min(context.stripe as u64) as usize;
            let size = count * dtype.bytes();
            let widths =
                self.equal_to.iter().map(|&other| context.inputs.entry(other).dtype.bytes());
            let other_size = count * widths.max().unwrap_or(0);
            let [bytes, other] = hands.arena.split([size, other_size]);
            context.inputs.read(self.from, at, bytes)?;
            if context.check_finite
                && let Some(found) = widen::first_nonfinite(bytes, dtype)
            {
                return Err(messages::nonfinite(&context.inputs, self.from, at + found));
            }
            self.compare(at, bytes, other)?;
            match (&mut writer, &self.encoded) {
                (Some(writer), _) => writer.add(context, bytes, &shared)?,
                (None, Some(encoded)) => encoded.add(at, bytes)?,
                (None, None) => {}
            }
            at += count as u64;
        }
        if let (Some(hasher), Some(writer)) = (&mut lock(&self.state).hasher, writer) {
            hasher.add(writer.finish());
        }
        Ok(())
    }
}
