//! How alike two tensors are, measured in blocks: memory does not depend on their size, and the
//! result does not depend on the threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mixdown_checkpoint::encoding::Blocks;
use mixdown_checkpoint::{ByteSource, FilePool, Index, ReadError, TensorEntry};
use mixdown_tensor::{DType, convert};

use crate::progress::Meter;

/// Elements that one thread takes at a time: 512 KiB of f64, large enough for fast reads.
const PIECE: u64 = 64 * 1024;

/// Elements that are widened together; two blocks of f64 stay in the first-level cache.
const BLOCK: usize = 1024;

/// Independent sums per loop, so that the processor can add several at a time.
const LANES: usize = 8;

/// Sums over the elements of two tensors, in f64.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Elements of each.
    pub elements: u64,
    /// Σ a².
    pub first: f64,
    /// Σ b².
    pub second: f64,
    /// Σ a·b.
    pub product: f64,
    /// Σ (b − a)².
    pub difference: f64,
    /// max |b − a|.
    pub largest: f64,
    /// Elements with the same sign; zero is a sign of its own.
    pub same_sign: u64,
    /// Elements that are equal.
    pub equal: u64,
    /// Elements of which one is NaN or infinite; the other figures leave them out, unless both have
    /// the same bits.
    pub nonfinite: u64,
    /// Whether the elements are numbers that sums make sense of.
    pub is_float: bool,
}

impl Sums {
    /// Cosine of the angle between the tensors; none when one of them is zero.
    pub fn cosine(&self) -> Option<f64> {
        let norms = self.first.sqrt() * self.second.sqrt();
        (self.is_float && norms > 0.0).then(|| (self.product / norms).clamp(-1.0, 1.0))
    }

    /// ‖b − a‖ / ‖a‖; none when a is zero and b is not.
    pub fn relative_norm(&self) -> Option<f64> {
        match () {
            () if !self.is_float => None,
            () if self.difference == 0.0 => Some(0.0),
            () if self.first == 0.0 => None,
            () => Some((self.difference / self.first).sqrt()),
        }
    }

    /// Share of elements with the same sign; none where there are no elements.
    pub fn sign_agreement(&self) -> Option<f64> {
        self.share(self.same_sign).filter(|_| self.is_float)
    }

    /// Share of elements whose difference is zero; none where there are no elements.
    pub fn zero_fraction(&self) -> Option<f64> {
        self.share(self.equal)
    }

    /// Whether all elements are equal.
    pub fn is_equal(&self) -> bool {
        self.equal == self.elements
    }

    fn share(&self, count: u64) -> Option<f64> {
        (self.elements > 0).then(|| count as f64 / self.elements as f64)
    }

    /// Adds what was measured on other elements. Integers count as elements and not in the sums.
    pub fn add(&mut self, other: &Self) {
        self.elements += other.elements;
        self.first += other.first;
        self.second += other.second;
        self.product += other.product;
        self.difference += other.difference;
        self.largest = self.largest.max(other.largest);
        self.same_sign += other.same_sign;
        self.equal += other.equal;
        self.nonfinite += other.nonfinite;
        self.is_float |= other.is_float;
    }
}

/// Two tensors of the same shape, both floats or both of the same type.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The tensor of the first checkpoint.
    pub first: &'a TensorEntry,
    /// The tensor of the second checkpoint.
    pub second: &'a TensorEntry,
}

impl Pair<'_> {
    /// Whether the two can be compared element by element.
    pub fn fits(&self) -> bool {
        let types = (self.first.dtype, self.second.dtype);
        let numbers = types.0.is_float() && types.1.is_float();
        self.first.shape == self.second.shape && (numbers || types.0 == types.1)
    }

    /// Bytes of both.
    pub fn bytes(&self) -> u64 {
        self.first.bytes() + self.second.bytes()
    }
}

/// Measures pairs of tensors of two checkpoints on several threads. None when `stop` was raised.
pub fn measure(
    indexes: (&Index, &Index),
    pairs: &[Pair<'_>],
    threads: usize,
    meter: &Meter,
    stop: &AtomicBool,
) -> Option<Result<Vec<Sums>, ReadError>> {
    let pieces: Vec<(usize, u64)> = pairs
        .iter()
        .enumerate()
        .flat_map(|(position, pair)| {
            (0..pair.first.shape.elements().div_ceil(PIECE)).map(move |piece| (position, piece))
        })
        .collect();
    let pool = FilePool::new(FilePool::DEFAULT_LIMIT);
    let blocks = (Blocks::default(), Blocks::default());
    let next = AtomicUsize::new(0);
    let found = Mutex::new(vec![Sums::default(); pieces.len()]);
    let failed: Mutex<Option<ReadError>> = Mutex::new(None);
    let failing = AtomicBool::new(false);
    let work = || {
        let mut buffers = (Vec::new(), Vec::new());
        while !stop.load(Ordering::Relaxed) && !failing.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(&(position, piece)) = pieces.get(at) else { break };
            let pair = &pairs[position];
            let result = read(&pool, indexes.0, pair.first, piece, &mut buffers.0, &blocks.0)
                .and_then(|()| {
                    read(&pool, indexes.1, pair.second, piece, &mut buffers.1, &blocks.1)
                });
            if let Err(error) = result {
                failing.store(true, Ordering::Relaxed);
                failed.lock().expect("no thread panics here").get_or_insert(error);
                break;
            }
            let sums = of_bytes((pair.first.dtype, &buffers.0), (pair.second.dtype, &buffers.1));
            found.lock().expect("no thread panics here")[at] = sums;
            meter.add((buffers.0.len() + buffers.1.len()) as u64, 0);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            // Where the system starts no more, fewer do the same.
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    if let Some(error) = failed.into_inner().expect("the threads have ended") {
        return Some(Err(error));
    }
    if stop.load(Ordering::Relaxed) {
        return None;
    }
    // In the order of pieces, whoever measured them.
    let mut all: Vec<Sums> = pairs
        .iter()
        .map(|pair| Sums { is_float: pair.first.dtype.is_float(), ..Sums::default() })
        .collect();
    let found = found.into_inner().expect("the threads have ended");
    for (&(position, _), sums) in pieces.iter().zip(&found) {
        all[position].add(sums);
    }
    Some(Ok(all))
}

/// Reads one piece of a tensor.
fn read(
    pool: &std::sync::Arc<FilePool>,
    index: &Index,
    tensor: &TensorEntry,
    piece: u64,
    buffer: &mut Vec<u8>,
    blocks: &Blocks,
) -> Result<(), ReadError> {
    let width = tensor.dtype.bytes() as u64;
    let start = piece * PIECE;
    let elements = (tensor.shape.elements() - start).min(PIECE);
    buffer.resize((elements * width) as usize, 0);
    let from = |shard: u32, offset: u64, buffer: &mut [u8]| {
        pool.source(&index.shards()[shard as usize]).read_exact_at(offset, buffer)
    };
    tensor.read(start, buffer, &from, blocks)
}

/// Measures the same elements of two tensors.
fn of_bytes(first: (DType, &[u8]), second: (DType, &[u8])) -> Sums {
    if !(first.0.is_float() && second.0.is_float()) {
        return of_words(first.0.bytes(), first.1, second.1);
    }
    let mut sums = Sums { is_float: true, ..Sums::default() };
    let mut blocks = ([0.0; BLOCK], [0.0; BLOCK]);
    let widths = (first.0.bytes(), second.0.bytes());
    for (a, b) in first.1.chunks(BLOCK * widths.0).zip(second.1.chunks(BLOCK * widths.1)) {
        let count = a.len() / widths.0;
        widen(first.0, a, &mut blocks.0);
        widen(second.0, b, &mut blocks.1);
        add_block(&mut sums, &mut blocks.0[..count], &mut blocks.1[..count]);
    }
    sums
}

/// Elements that are no numbers to calculate with are equal or not.
fn of_words(width: usize, first: &[u8], second: &[u8]) -> Sums {
    let words = first.chunks(width).zip(second.chunks(width));
    let equal = words.filter(|(a, b)| a == b).count() as u64;
    Sums { elements: (first.len() / width) as u64, equal, ..Sums::default() }
}

fn widen(dtype: DType, bytes: &[u8], to: &mut [f64; BLOCK]) {
    let half = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    let each = bytes.chunks_exact(dtype.bytes()).zip(to);
    match dtype {
        DType::Bf16 => each.for_each(|(b, x)| *x = f64::from(convert::bf16_to_f32(half(b)))),
        DType::F16 => each.for_each(|(b, x)| *x = f64::from(convert::f16_to_f32(half(b)))),
        DType::F32 => each.for_each(|(b, x)| {
            *x = f64::from(f32::from_le_bytes(b.try_into().expect("a chunk of four bytes")));
        }),
        DType::F64 => each.for_each(|(b, x)| {
            *x = f64::from_le_bytes(b.try_into().expect("a chunk of eight bytes"));
        }),
        _ => unreachable!("only floats are widened"),
    }
}

fn add_block(sums: &mut Sums, a: &mut [f64], b: &mut [f64]) {
    sums.elements += a.len() as u64;
    let mut unequal = 0;
    for (x, y) in a.iter_mut().zip(b.iter_mut()) {
        if !(x.is_finite() && y.is_finite()) {
            sums.nonfinite += 1;
            unequal += u64::from(x.to_bits() != y.to_bits());
            // A pair that adds nothing to any sum; the loop below counts it as equal.
            (*x, *y) = (0.0, 0.0);
        }
    }
    let mut lanes = [Lane::default(); LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for (lane, (&x, &y)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            lane.add(x, y);
        }
    }
    for lane in lanes {
        sums.first += lane.first;
        sums.second += lane.second;
        sums.product += lane.product;
        sums.difference += lane.difference;
        sums.largest = sums.largest.max(lane.largest);
        sums.same_sign += lane.same_sign;
        sums.equal += lane.equal;
    }
    sums.same_sign -= unequal;
    sums.equal -= unequal;
}

#[derive(Clone, Copy, Default)]
struct Lane {
    first: f64,
    second: f64,
    product: f64,
    difference: f64,
    largest: f64,
    same_sign: u64,
    equal: u64,
}

impl Lane {
    #[inline(always)]
    fn add(&mut self, x: f64, y: f64) {
        let difference = y - x;
        self.first += x * x;
        self.second += y * y;
        self.product += x * y;
        self.difference += difference * difference;
        self.largest = self.largest.max(difference.abs());
        let same = (x > 0.0) == (y > 0.0) && (x < 0.0) == (y < 0.0);
        self.same_sign += u64::from(same);
        self.equal += u64::from(x == y);
    }
}

#[cfg(test)]
mod tests {
    use mixdown_tensor::Shape;

    use super::*;
    use crate::progress::Task;

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn figures_are_those_of_the_formulas() {
        // a = (3, 4, 0, −1), b = (3, 0, 0, 1): a·b = 8, |a|² = 26, |b|² = 10, |b − a|² = 20.
        let sums = of_bytes(
            (DType::F32, &f32s(&[3.0, 4.0, 0.0, -1.0])),
            (DType::F32, &f32s(&[3.0, 0.0, 0.0, 1.0])),
        );
        assert!((sums.cosine().unwrap() - 8.0 / 260_f64.sqrt()).abs() < 1e-15);
        assert!((sums.relative_norm().unwrap() - (20.0_f64 / 26.0).sqrt()).abs() < 1e-15);
        assert_eq!(sums.sign_agreement(), Some(0.5));
        assert_eq!(sums.zero_fraction(), Some(0.5));
        assert_eq!(sums.largest, 4.0);
        assert!(!sums.is_equal());
    }

    #[test]
    fn zeros_have_no_direction() {
        let zero = f32s(&[0.0, -0.0]);
        let sums = of_bytes((DType::F32, &zero), (DType::F32, &zero));
        assert_eq!((sums.cosine(), sums.relative_norm()), (None, Some(0.0)));
        let sums = of_bytes((DType::F32, &zero), (DType::F32, &f32s(&[1.0, 0.0])));
        assert_eq!((sums.cosine(), sums.relative_norm()), (None, None));
        assert_eq!(Sums::default().zero_fraction(), None);
    }

    /// One NaN must not make every figure of the tensor NaN, nor pass as equal.
    #[test]
    fn nan_and_infinity_are_counted_apart() {
        let a = f32s(&[1.0, f32::NAN, f32::INFINITY, f32::INFINITY]);
        let b = f32s(&[1.0, 2.0, f32::INFINITY, f32::NEG_INFINITY]);
        let sums = of_bytes((DType::F32, &a), (DType::F32, &b));
        assert_eq!((sums.nonfinite, sums.equal, sums.same_sign), (3, 2, 2));
        assert_eq!((sums.cosine(), sums.relative_norm()), (Some(1.0), Some(0.0)));
        let same = of_bytes((DType::F32, &a), (DType::F32, &a));
        assert!(same.is_equal());
    }

    #[test]
    fn types_may_differ() {
        let halves: Vec<u8> =
            [0x3f80_u16, 0xc000].iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let sums = of_bytes((DType::Bf16, &halves), (DType::F32, &f32s(&[1.0, -2.0])));
        assert!(sums.is_equal());
        let integers = of_bytes((DType::I16, &[1, 0, 2, 0]), (DType::I16, &[1, 0, 2, 1]));
        assert_eq!((integers.elements, integers.equal), (2, 1));
        assert_eq!((integers.cosine(), integers.sign_agreement()), (None, None));
    }

    /// Pieces and threads must not show: sums are added in the order of pieces.
    #[test]
    fn threads_do_not_change_the_figures() {
        let folder = tempfile::tempdir().unwrap();
        let count = 3 * PIECE + 17;
        let mut open = Vec::new();
        for seed in [1_u32, 2] {
            let values: Vec<f32> = (0..count as u32)
                .map(|i| (i.wrapping_mul(2_654_435_761 + seed) >> 8) as f32 / 1e7 - 0.8)
                .collect();
            let header = format!(
                r#"{{"w":{{"dtype":"F32","shape":[{count}],"data_offsets":[0,{}]}}}}"#,
                4 * count
            );
            let mut file = (header.len() as u64).to_le_bytes().to_vec();
            file.extend(header.as_bytes());
            file.extend(f32s(&values));
            let path = folder.path().join(format!("{seed}.safetensors"));
            std::fs::write(&path, file).unwrap();
            open.push(mixdown_checkpoint::open(&path, None).unwrap());
        }
        let indexes = (&open[0].index, &open[1].index);
        let pair = Pair { first: indexes.0.get("w").unwrap(), second: indexes.1.get("w").unwrap() };
        assert!(pair.fits());
        assert_eq!(pair.first.shape, Shape::new(vec![count]).unwrap());
        let run = |threads| {
            let meter = Meter::new(Task::Comparing, false);
            let stop = AtomicBool::new(false);
            let sums = measure(indexes, &[pair], threads, &meter, &stop).unwrap().unwrap();
            assert_eq!(meter.count().bytes_done, pair.bytes());
            sums
        };
        assert_eq!(run(1), run(3));
        assert_eq!(run(1)[0].elements, count);
        let stop = AtomicBool::new(true);
        assert!(measure(indexes, &[pair], 2, &Meter::new(Task::Comparing, false), &stop).is_none());
    }
}
