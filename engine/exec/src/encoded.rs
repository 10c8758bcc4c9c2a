//! A tensor that is written in fewer bits: values come in any order and from any thread, and go out as the
//! bytes of the tensors that are stored for it.
//!
//! Values wait in batches until all of a batch are there, and bytes in pieces of the hash. Pieces of work are
//! handed out in order, so that what waits is bounded by what is under way: a batch or a hash piece stays
//! open only while a thread works on a part of it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use mixdown_checkpoint::quantize::Quantizer;
use mixdown_checkpoint::tensor_digest::{Pieces, TensorDigest, TensorHasher};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_plan::Job;

use crate::context::{Context, internal, lock};
use crate::scheduler::Failure;
use crate::widen;

/// Fewest elements of a batch: what is kept of each for sums is little beside them, and a block of floats
/// stays in the second-level cache.
const BATCH: u64 = 4096;

/// Bytes that are hashed and written at once.
pub(crate) const HASH_PIECE: u64 = 64 << 10;

/// Squares of what was lost and of what there was, summed over a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    /// Σ (stored − exact)².
    pub(crate) lost: f64,
    /// Σ exact².
    pub(crate) exact: f64,
}

/// Makes the stored tensors of one job.
pub(crate) struct Encoded<'a> {
    context: &'a Context<'a>,
    number: u32,
    job: &'a Job,
    quantizer: &'a Quantizer,
    batch: u64,
    unit_bytes: Vec<u64>,
    /// Whether values are only looked at so far.
    measures: AtomicBool,
    /// Bits of the largest magnitude.
    largest: AtomicU32,
    state: Mutex<State>,
}

struct State {
    open: HashMap<u64, Open>,
    parts: Vec<Part>,
    /// In the order in which batches were finished, which is any.
    sums: Vec<(u64, Sums)>,
}

/// A batch of which some values are there.
struct Open {
    values: Vec<f32>,
    filled: usize,
}

/// A stored tensor.
struct Part {
    pieces: Pieces,
    hasher: TensorHasher,
    open: HashMap<usize, (Vec<u8>, usize)>,
}

/// A piece of a stored tensor, all of whose bytes are there.
struct Ready {
    part: usize,
    piece: usize,
    bytes: Vec<u8>,
}

/// Elements of a batch: whole units.
fn batch_elements(quantizer: &Quantizer) -> u64 {
    let unit = quantizer.unit();
    unit.saturating_mul(BATCH.div_ceil(unit))
}

/// Bytes that the flow of a job holds for its quantizer.
pub(crate) fn bytes(job: &Job, threads: usize) -> u64 {
    let Some(quantizer) = &job.quantized else { return 0 };
    let batch = batch_elements(quantizer).min(job.shape.elements());
    let parts = quantizer.parts().len() as u64;
    // Two open batches, one that is encoded with a copy and codes, and two open pieces of each part.
    let scattered = quantizer.scattered().saturating_mul(2 * 4);
    let of_thread = batch.saturating_mul(4 * 4 + 4) + parts * 3 * HASH_PIECE + scattered;
    let sums = job.shape.elements().div_ceil(batch.max(1)) * 2 * size_of::<(u64, Sums)>() as u64;
    of_thread.saturating_mul(threads as u64) + sums
}

impl<'a> Encoded<'a> {
    /// Of a job; none where it is stored as it is.
    pub(crate) fn of(context: &'a Context<'a>, number: u32) -> Option<Self> {
        let job = context.job(number);
        let quantizer = job.quantized.as_deref()?;
        let part = |part: &mixdown_checkpoint::layout::OutputTensor| {
            let pieces = Pieces::new(part.shape.bytes(part.dtype), HASH_PIECE);
            let mut hasher = TensorHasher::new(pieces);
            if pieces.is_empty() {
                hasher.add(pieces.hasher(0).finish());
            }
            Part { pieces, hasher, open: HashMap::new() }
        };
        let parts = quantizer.parts().iter().map(part).collect();
        let state = State { open: HashMap::new(), parts, sums: Vec::new() };
        Some(Self {
            context,
            number,
            job,
            quantizer,
            batch: batch_elements(quantizer),
            unit_bytes: quantizer.unit_bytes(),
            measures: AtomicBool::new(quantizer.needs_largest()),
            largest: AtomicU32::new(0),
            state: Mutex::new(state),
        })
    }

    /// After all values: whether they were only looked at, and have to come once more.
    pub(crate) fn must_repeat(&self) -> bool {
        self.measures.swap(false, Ordering::AcqRel)
    }

    /// Takes values as they would be stored, from an element on.
    pub(crate) fn add(&self, first: u64, bytes: &[u8]) -> Result<(), Failure> {
        let width = self.job.dtype.bytes();
        if self.measures.load(Ordering::Acquire) {
            self.measure(bytes);
            return Ok(());
        }
        let (mut element, mut rest) = (first, bytes);
        while !rest.is_empty() {
            let (place, run) = self.quantizer.place(element);
            let count = ((rest.len() / width) as u64).min(run);
            let (own, others) = rest.split_at(count as usize * width);
            self.add_stored(place, own)?;
            element += count;
            rest = others;
        }
        Ok(())
    }

    /// Takes values that are stored from an element on.
    fn add_stored(&self, first: u64, bytes: &[u8]) -> Result<(), Failure> {
        let width = self.job.dtype.bytes();
        let (mut at, mut bytes) = (first, bytes);
        while !bytes.is_empty() {
            let number = at / self.batch;
            let start = number * self.batch;
            let length = self.batch.min(self.job.shape.elements() - start);
            let count = ((bytes.len() / width) as u64).min(start + length - at);
            let (own, rest) = bytes.split_at(count as usize * width);
            if let Some(values) = self.gather(number, length, at - start, own) {
                self.encode(number, values)?;
            }
            at += count;
            bytes = rest;
        }
        Ok(())
    }

    fn measure(&self, bytes: &[u8]) {
        let mut values = [0.0; 1024];
        let mut largest = 0.0_f32;
        for stretch in bytes.chunks(values.len() * self.job.dtype.bytes()) {
            let values = &mut values[..stretch.len() / self.job.dtype.bytes()];
            widen::to_f32(stretch, self.job.dtype, values);
            largest = values.iter().fold(largest, |all, value| all.max(value.abs()));
        }
        // The bits of numbers that are not negative are in their order.
        self.largest.fetch_max(largest.to_bits(), Ordering::AcqRel);
    }

    /// Puts values into their batch; all of it when these were the last.
    fn gather(&self, number: u64, length: u64, at: u64, bytes: &[u8]) -> Option<Vec<f32>> {
        let (length, at) = (length as usize, at as usize);
        let count = bytes.len() / self.job.dtype.bytes();
        if count == length {
            let mut values = vec![0.0; length];
            widen::to_f32(bytes, self.job.dtype, &mut values);
            return Some(values);
        }
        let mut state = lock(&self.state);
        let new = || Open { values: vec![0.0; length], filled: 0 };
        let open = state.open.entry(number).or_insert_with(new);
        widen::to_f32(bytes, self.job.dtype, &mut open.values[at..at + count]);
        open.filled += count;
        let is_whole = open.filled == length;
        if is_whole { state.open.remove(&number).map(|open| open.values) } else { None }
    }

    fn encode(&self, number: u64, mut values: Vec<f32>) -> Result<(), Failure> {
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(self.not_finite(number * self.batch + at as u64, values[at]));
        }
        let exact = values.clone();
        let mut out = vec![Vec::new(); self.unit_bytes.len()];
        let largest = f32::from_bits(self.largest.load(Ordering::Acquire));
        self.quantizer.encode(largest, &mut values, &mut out);
        let sums = sums(&exact, &values);
        let units = number * (self.batch / self.quantizer.unit());
        let ready = {
            let mut state = lock(&self.state);
            state.sums.push((number, sums));
            let mut ready = Vec::new();
            for (part, (bytes, of_unit)) in out.iter().zip(&self.unit_bytes).enumerate() {
                state.parts[part].put(part, units * of_unit, bytes, &mut ready);
            }
            ready
        };
        self.store(ready)
    }

    /// Hashes and writes pieces.
    fn store(&self, ready: Vec<Ready>) -> Result<(), Failure> {
        for Ready { part, piece, bytes } in ready {
            let pieces = lock(&self.state).parts[part].pieces;
            self.context.write_part(self.number, part, pieces.offset(piece), &bytes)?;
            let mut hasher = pieces.hasher(piece);
            hasher.update(&bytes);
            lock(&self.state).parts[part].hasher.add(hasher.finish());
        }
        Ok(())
    }

    /// Stores what is made once. Tells what was lost, and the digests of all tensors that are stored.
    pub(crate) fn finish(&self) -> Result<(Sums, Vec<TensorDigest>), Failure> {
        let largest = f32::from_bits(self.largest.load(Ordering::Acquire));
        let mut ready = Vec::new();
        for (part, bytes) in self.quantizer.whole(largest) {
            lock(&self.state).parts[part].put(part, 0, &bytes, &mut ready);
        }
        self.store(ready)?;
        let mut state = lock(&self.state);
        if !state.parts.iter().all(|part| part.hasher.is_complete()) {
            let what = format!("bytes of `{}` are missing", self.job.name);
            return Err(Failure::Fatal(internal(what)));
        }
        let digests = state.parts.iter().map(|part| part.hasher.finish()).collect();
        // Sums do not depend on the order in which threads came.
        state.sums.sort_unstable_by_key(|(number, _)| *number);
        let add = |all: Sums, (_, one): &(u64, Sums)| Sums {
            lost: all.lost + one.lost,
            exact: all.exact + one.exact,
        };
        Ok((state.sums.iter().fold(Sums::default(), add), digests))
    }

    fn not_finite(&self, element: u64, value: f32) -> Failure {
        let headline = format!("`{}` holds {value}, which no code stands for", self.job.name);
        let error = Diagnostic::error(codes::CANNOT_QUANTIZE, headline)
            .fact("element", element.to_string())
            .fact("form", self.quantizer.form().to_string())
            .help(format!("repair the model, or {}", self.quantizer.leave()));
        Failure::Input(Box::new(error))
    }
}

impl Part {
    /// Puts bytes at a place; pieces that are whole now become ready.
    fn put(&mut self, part: usize, offset: u64, bytes: &[u8], ready: &mut Vec<Ready>) {
        let (mut at, mut bytes) = (offset, bytes);
        while !bytes.is_empty() {
            let piece = (at / HASH_PIECE) as usize;
            let (start, length) = (self.pieces.offset(piece), self.pieces.len(piece) as usize);
            let place = (at - start) as usize;
            let count = bytes.len().min(length - place);
            let (held, filled) = self.open.entry(piece).or_insert_with(|| (vec![0; length], 0));
            held[place..place + count].copy_from_slice(&bytes[..count]);
            *filled += count;
            if *filled == length
                && let Some((bytes, _)) = self.open.remove(&piece)
            {
                ready.push(Ready { part, piece, bytes });
            }
            at += count as u64;
            bytes = &bytes[count..];
        }
    }
}

/// Sums of squares over a batch. Lanes make the order of additions one that vectors have too.
fn sums(exact: &[f32], stored: &[f32]) -> Sums {
    const LANES: usize = 8;
    let (mut lost, mut all) = ([0.0_f64; LANES], [0.0_f64; LANES]);
    for (exact, stored) in exact.chunks(LANES).zip(stored.chunks(LANES)) {
        for (lane, (exact, stored)) in exact.iter().zip(stored).enumerate() {
            let (exact, apart) = (f64::from(*exact), f64::from(stored - exact));
            lost[lane] += apart * apart;
            all[lane] += exact * exact;
        }
    }
    Sums { lost: lost.iter().sum(), exact: all.iter().sum() }
}
