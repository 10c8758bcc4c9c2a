//! The flow of a job whose codes and scales an input has already as the output wants them.

use std::sync::Mutex;

use mixdown_checkpoint::tensor_digest::{Pieces, TensorHasher};
use mixdown_ops::program::PIECE;
use mixdown_plan::{Job, TensorRef};
use mixdown_tensor::DType;

use crate::context::{Context, internal, lock};
use crate::encoded::HASH_PIECE;
use crate::hands::Hands;
use crate::messages;
use crate::scheduler::{Failure, Flow, Step};
use crate::widen;

/// Copies the parts of one packed tensor.
pub(crate) struct CodesFlow<'a> {
    context: &'a Context<'a>,
    number: u32,
    job: &'a Job,
    from: TensorRef,
    /// How each part is cut.
    pieces: Vec<Pieces>,
    /// For each part, once a round was begun.
    hashers: Mutex<Option<Vec<TensorHasher>>>,
}

impl<'a> CodesFlow<'a> {
    pub(crate) fn new(context: &'a Context<'a>, number: u32, from: TensorRef) -> Self {
        let job = context.job(number);
        let of = |part: mixdown_checkpoint::layout::OutputTensor| {
            Pieces::new(part.shape.bytes(part.dtype), HASH_PIECE)
        };
        let pieces = job.stored().into_iter().map(of).collect();
        Self { context, number, job, from, pieces, hashers: Mutex::default() }
    }

    /// Looks for values that are no numbers, as copies of plain tensors do.
    fn check(&self, index: u64, hands: &mut Hands) -> Result<(), Failure> {
        let inputs = &self.context.inputs;
        let end = self.job.shape.elements().min((index + 1) * PIECE);
        let mut at = index * PIECE;
        while at < end {
            let count = (end - at).min(self.context.stripe as u64) as usize;
            let [bytes] = hands.arena.split([count * DType::F32.bytes()]);
            inputs.read(self.from, at, bytes)?;
            if let Some(found) = widen::first_nonfinite(bytes, DType::F32) {
                return Err(messages::nonfinite(inputs, self.from, at + found));
            }
            at += count as u64;
        }
        Ok(())
    }

    fn copy(&self, part: usize, piece: usize) -> Result<(), Failure> {
        let context = self.context;
        let sources = self.job.quantized.as_ref().and_then(|quantizer| quantizer.taken_over());
        let encoding = context.inputs.entry(self.from).encoding.as_ref();
        let (Some(sources), Some(encoding)) = (sources, encoding) else {
            let what = format!("`{}` has no codes to keep", self.job.name);
            return Err(Failure::Fatal(internal(what)));
        };
        let pieces = self.pieces[part];
        let offset = pieces.offset(piece);
        let mut bytes = vec![0; pieces.len(piece) as usize];
        let source = &encoding.parts()[sources[part]];
        context.inputs.read_part(self.from, source, offset, &mut bytes)?;
        context.write_part(self.number, part, offset, &bytes)?;
        let mut hasher = pieces.hasher(piece);
        hasher.update(&bytes);
        let finished = hasher.finish();
        if let Some(hashers) = &mut *lock(&self.hashers) {
            hashers[part].add(finished);
        }
        Ok(())
    }
}

impl Flow<Hands> for CodesFlow<'_> {
    fn advance(&self) -> Result<Step, Failure> {
        let mut hashers = lock(&self.hashers);
        if let Some(hashers) = hashers.take() {
            let digests = hashers.iter().map(TensorHasher::finish).collect();
            self.context.complete_parts(self.number, digests)?;
            return Ok(Step::Done);
        }
        let of = |pieces: &Pieces| {
            let mut hasher = TensorHasher::new(*pieces);
            if pieces.is_empty() {
                hasher.add(pieces.hasher(0).finish());
            }
            hasher
        };
        *hashers = Some(self.pieces.iter().map(of).collect());
        let checked = match self.context.check_finite {
            true => self.job.shape.elements().div_ceil(PIECE),
            false => 0,
        };
        Ok(Step::Round(self.pieces.iter().map(count).sum::<u64>() + checked))
    }

    fn piece(&self, index: u64, hands: &mut Hands) -> Result<(), Failure> {
        let mut rest = index;
        for (part, pieces) in self.pieces.iter().enumerate() {
            match rest.checked_sub(count(pieces)) {
                None => return self.copy(part, rest as usize),
                Some(others) => rest = others,
            }
        }
        self.check(rest, hands)
    }
}

/// Pieces that a thread runs.
fn count(pieces: &Pieces) -> u64 {
    if pieces.is_empty() { 0 } else { pieces.count() as u64 }
}
