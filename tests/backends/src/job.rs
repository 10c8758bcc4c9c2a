//! Passes over numbers, from bytes at odd places to bytes at odd places.

use std::sync::Arc;

use mixdown_ops::program::{BLOCK, PIECE};
use mixdown_ops::random::uniform_bits;
use mixdown_ops::selection::{Cut, Round};
use mixdown_ops::{
    Backend, Call, Input, Instruction, Operand, Output, Partial, Pass, Precision, Program, Worker,
};
use mixdown_tensor::{DType, convert};

/// Counts of elements around vectors, chunks, blocks and pieces.
pub const SIZES: [usize; 13] = [0, 1, 7, 8, 9, 63, 65, 1023, 1024, 1025, 2047, 2048, 2049];

/// Counts around a piece, for fewer cases.
pub const PIECE_SIZES: [usize; 3] = [65_535, 65_536, 65_537];

/// Both.
pub const PRECISIONS: [Precision; 2] = [Precision::Single, Precision::Double];

/// All that one pass over a piece needs, with room for a test to change a part.
#[derive(Clone)]
pub struct Job {
    /// What runs it.
    pub backend: Arc<dyn Backend>,
    /// In which type.
    pub precision: Precision,
    /// What is done.
    pub pass: Pass,
    /// Each with bytes as [`encode`] makes them.
    pub inputs: Vec<(DType, Vec<u8>)>,
    /// Count of elements.
    pub elements: usize,
    /// Index of the first element.
    pub first: u64,
    /// The scalar table.
    pub scalars: Vec<f64>,
    /// Cuts of earlier passes.
    pub cuts: Vec<Cut>,
    /// Keys of random streams.
    pub streams: Vec<u64>,
    /// What each selection does.
    pub rounds: Vec<Round>,
    /// Whether loads look for NaN and infinity.
    pub check_finite: bool,
    /// Type of the output.
    pub out: DType,
    /// Elements per call.
    pub stretch: usize,
}

impl Job {
    /// A job over inputs stored as `dtype`, each holding these numbers.
    pub fn new(
        backend: impl Backend + 'static,
        precision: Precision,
        dtype: DType,
        inputs: &[&[f64]],
    ) -> Self {
        let elements = inputs.first().map_or(0, |values| values.len());
        Self {
            backend: Arc::new(backend),
            precision,
            pass: Pass::default(),
            inputs: inputs.iter().map(|values| (dtype, encode(dtype, values))).collect(),
            elements,
            first: 0,
            scalars: Vec::new(),
            cuts: Vec::new(),
            streams: Vec::new(),
            rounds: Vec::new(),
            check_finite: false,
            out: exact(precision),
            stretch: PIECE as usize,
        }
    }

    /// Loads every input into the register of its number, then does these steps.
    pub fn steps(mut self, steps: &[Instruction]) -> Self {
        let inputs = 0..self.inputs.len() as u32;
        let loads = inputs.clone().map(|input| Instruction::Load { input, to: input });
        self.pass = Pass {
            instructions: loads.chain(steps.iter().copied()).collect(),
            registers: 8,
            inputs: inputs.collect(),
            ..self.pass
        };
        self
    }

    /// Runs one piece; yields the stored bytes and what the worker found.
    pub fn run(&self) -> (Vec<u8>, Partial) {
        self.run_with(self.backend.worker().as_mut())
    }

    /// Runs one piece with a worker that may have done others.
    pub fn run_with(&self, worker: &mut dyn Worker) -> (Vec<u8>, Partial) {
        let program = Program::default();
        worker.begin(&self.pass, self.precision, &self.rounds);
        // Bytes before and after the output show a loop that writes too far.
        let size = self.out.bytes();
        let mut out = vec![0xa5; self.elements * size + 2 * GUARD];
        assert_eq!(self.stretch % BLOCK, 0);
        for start in (0..self.elements).step_by(self.stretch) {
            let end = (start + self.stretch).min(self.elements);
            let inputs = self.inputs.iter().map(|(dtype, bytes)| {
                let part = GUARD + start * dtype.bytes()..GUARD + end * dtype.bytes();
                Input { dtype: *dtype, bytes: &bytes[part] }
            });
            let inputs: Vec<_> = inputs.collect();
            worker.run(Call {
                program: &program,
                pass: &self.pass,
                precision: self.precision,
                first: self.first + start as u64,
                elements: end - start,
                inputs: &inputs,
                scalars: &self.scalars,
                cuts: &self.cuts,
                streams: &self.streams,
                rounds: &self.rounds,
                reduce: true,
                check_finite: self.check_finite,
                output: Some(Output {
                    dtype: self.out,
                    bytes: &mut out[GUARD + start * size..GUARD + end * size],
                }),
            });
        }
        let end = out.len() - GUARD;
        assert!(out[..GUARD].iter().chain(&out[end..]).all(|byte| *byte == 0xa5), "wrote outside");
        (out[GUARD..end].to_vec(), worker.finish())
    }

    /// Runs, and reads the stored bytes as numbers.
    pub fn values(&self) -> Vec<f64> {
        decode(self.out, &self.run().0)
    }
}

/// Bytes on each side of data; odd, so that nothing is aligned.
pub const GUARD: usize = 3;

/// The storage that holds what a precision computes.
pub fn exact(precision: Precision) -> DType {
    match precision {
        Precision::Single => DType::F32,
        Precision::Double => DType::F64,
    }
}

/// Stores numbers, with guards around them.
pub fn encode(dtype: DType, values: &[f64]) -> Vec<u8> {
    let mut bytes = vec![0xff; GUARD];
    for &value in values {
        match dtype {
            DType::Bf16 => bytes.extend(convert::f64_to_bf16(value).to_le_bytes()),
            DType::F16 => bytes.extend(convert::f64_to_f16(value).to_le_bytes()),
            DType::F32 => bytes.extend((value as f32).to_le_bytes()),
            _ => bytes.extend(value.to_le_bytes()),
        }
    }
    bytes.extend([0xff; GUARD]);
    bytes
}

/// Reads stored numbers.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let half = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    let number = |bytes: &[u8]| match dtype {
        DType::Bf16 => convert::bf16_to_f32(half(bytes)).into(),
        DType::F16 => convert::f16_to_f32(half(bytes)).into(),
        DType::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
        _ => f64::from_le_bytes(bytes.try_into().unwrap()),
    };
    bytes.chunks(dtype.bytes()).map(number).collect()
}

/// Numbers of all kinds: the special ones in turn with a bell of ordinary ones. Two series with
/// different salts meet in all pairs.
pub fn numbers(elements: usize, salt: u64) -> Vec<f64> {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        1e-45,
        -1e-40,
        f32::MIN_POSITIVE.into(),
        f32::MAX.into(),
        f32::MIN.into(),
        1e300,
        5e-324,
    ];
    let number = |index: u64| {
        let bits = uniform_bits(salt, index);
        match bits % 3 {
            0 => special[(bits >> 8) as usize % special.len()],
            _ => ordinary(index, salt),
        }
    };
    (0..elements as u64).map(number).collect()
}

/// A number around 0, as weights are.
pub fn ordinary(index: u64, salt: u64) -> f64 {
    let uniform = |key| f64::from(uniform_bits(key, index)) / 4_294_967_296.0 - 0.5;
    (0..4).map(|key| uniform(100 + 4 * salt + key)).sum()
}

/// Ordinary numbers.
pub fn ordinaries(elements: usize, salt: u64) -> Vec<f64> {
    (0..elements as u64).map(|index| ordinary(index, salt)).collect()
}

/// The bits of a number in a precision; those of every NaN are the same.
pub fn bits(precision: Precision, value: f64) -> u64 {
    match precision {
        _ if value.is_nan() => u64::MAX,
        Precision::Single => u64::from((value as f32).to_bits()),
        Precision::Double => value.to_bits(),
    }
}

/// Writes a register out.
pub fn store(register: u32) -> Instruction {
    Instruction::Store { from: Operand::Register(register) }
}
