//! What the tests of runs need: models and outputs in memory, and programs written by hand.

// Each test binary uses a part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mixdown_checkpoint::index::Index;
use mixdown_checkpoint::source::{ByteSource, MemorySource, ReadError};
use mixdown_checkpoint::tensor_digest::TensorDigest;
use mixdown_cpu::CpuBackend;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::{NoResults, Options, Report, Silent, Sink, Source, Told, footprint, run};
use mixdown_ops::program::{Instruction, Operand, PIECE, ReductionSlot, Scope, SelectionSlot};
use mixdown_ops::selection::Ties;
use mixdown_ops::{MapOp, Pass, Precision, Program, Reduction, ScalarStep};
use mixdown_plan::{Job, Leaf, Merge, Plan, TensorRef, Work};
use mixdown_tensor::convert::{bf16_to_f32, f32_to_bf16};
use mixdown_tensor::{DType, Shape};

/// One input checkpoint in one shard.
pub struct Model {
    pub index: Index,
    pub bytes: Vec<u8>,
}

impl Model {
    /// Tensors by name, with their bytes.
    pub fn of(tensors: &[(&str, DType, &[u64], Vec<u8>)]) -> Self {
        let shape = |dimensions: &[u64]| Shape::new(dimensions.to_vec()).unwrap();
        let list = tensors.iter().map(|(name, dtype, sizes, _)| (*name, *dtype, shape(sizes)));
        let index = Index::of("model.safetensors", list).unwrap();
        let mut bytes = Vec::new();
        for (_, dtype, sizes, data) in tensors {
            assert_eq!(data.len() as u64, shape(sizes).bytes(*dtype));
            bytes.extend_from_slice(data);
        }
        Self { index, bytes }
    }

    pub fn position(&self, name: &str) -> u32 {
        self.index.position(name).unwrap() as u32
    }
}

/// Deterministic values around 0, none of them special, with some exact zeros and repeats.
pub fn values(seed: u64, count: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 40
    };
    let value = |bits: u64| match bits % 97 {
        0 => 0.0,
        1 => 0.25,
        _ => bits as f32 / (1 << 23) as f32 - 1.0,
    };
    (0..count).map(|_| value(next())).collect()
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| f32_to_bf16(value).to_le_bytes()).collect()
}

pub fn f32_values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

pub fn bf16_values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| bf16_to_f32(u16::from_le_bytes(bytes))).collect()
}

/// Keeps what is written, and checks that it is written as promised.
pub struct MemorySink {
    tensors: Vec<Mutex<Vec<u8>>>,
    written: Vec<AtomicU64>,
    pub digests: Mutex<HashMap<usize, TensorDigest>>,
    /// Tensors that an earlier run finished.
    pub complete: Vec<usize>,
    /// Fails from this write on.
    pub fail_at_write: usize,
    pub writes: AtomicUsize,
}

impl MemorySink {
    pub fn new(plan: &Plan) -> Self {
        let bytes = |job: &Job| vec![0xaa; job.shape.bytes(job.dtype) as usize];
        Self {
            tensors: plan.jobs.iter().map(|job| Mutex::new(bytes(job))).collect(),
            written: plan.jobs.iter().map(|_| AtomicU64::new(0)).collect(),
            digests: Mutex::default(),
            complete: Vec::new(),
            fail_at_write: usize::MAX,
            writes: AtomicUsize::new(0),
        }
    }

    pub fn bytes(&self, tensor: usize) -> Vec<u8> {
        self.tensors[tensor].lock().unwrap().clone()
    }

    /// The bytes of all tensors, each of which must be finished, written once, and told the digest of.
    pub fn finished(&self) -> Vec<Vec<u8>> {
        let digests = self.digests.lock().unwrap();
        let all = self.tensors.iter().enumerate();
        all.map(|(number, bytes)| {
            let bytes = bytes.lock().unwrap().clone();
            if !self.complete.contains(&number) {
                assert_eq!(
                    digests.get(&number),
                    Some(&TensorDigest::of(&bytes)),
                    "tensor {number}"
                );
                assert_eq!(self.written[number].load(Ordering::Relaxed), bytes.len() as u64);
            }
            bytes
        })
        .collect()
    }
}

impl Sink for MemorySink {
    fn is_complete(&self, tensor: usize) -> bool {
        self.complete.contains(&tensor)
    }

    fn write_at(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        if self.writes.fetch_add(1, Ordering::Relaxed) >= self.fail_at_write {
            return Err(Box::new(Diagnostic::error(codes::DISK_FULL, "no space is left")));
        }
        assert!(!self.is_complete(tensor), "a finished tensor is written");
        let start = offset as usize;
        self.tensors[tensor].lock().unwrap()[start..start + bytes.len()].copy_from_slice(bytes);
        self.written[tensor].fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn complete(
        &self,
        tensor: usize,
        digest: TensorDigest,
        _: &Told,
    ) -> Result<(), Box<Diagnostic>> {
        assert_eq!(self.digests.lock().unwrap().insert(tensor, digest), None, "completed twice");
        Ok(())
    }
}

/// A source whose bytes from `fail_from` on cannot be read.
pub struct FaultySource {
    pub inner: MemorySource,
    pub fail_from: u64,
}

impl ByteSource for FaultySource {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        if offset + buffer.len() as u64 > self.fail_from {
            let error = std::io::Error::other("the disk made a noise");
            let offset = offset.max(self.fail_from);
            return Err(ReadError::Io { shown: "model.safetensors".to_owned(), offset, error });
        }
        self.inner.read_exact_at(offset, buffer)
    }

    fn will_need(&self, offset: u64, len: u64) {
        assert!(len > 0 && offset + len <= self.inner.len(), "asked for what is not there");
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn file(&self) -> Option<Arc<File>> {
        None
    }
}

/// A plan with its inputs.
pub struct World {
    pub plan: Plan,
    pub models: Vec<Model>,
    /// Model, and the byte from which it cannot be read.
    pub fault: Option<(usize, u64)>,
}

impl World {
    pub fn new(models: Vec<Model>) -> Self {
        let names = (0..models.len()).map(|model| format!("m{model}")).collect();
        Self { plan: Plan { models: names, ..Plan::default() }, models, fault: None }
    }

    pub fn tensor(&self, model: usize, name: &str) -> TensorRef {
        TensorRef { model: model as u32, tensor: self.models[model].position(name) }
    }

    pub fn program(&mut self, program: Program) -> u32 {
        self.plan.programs.push(Arc::new(program));
        self.plan.programs.len() as u32 - 1
    }

    /// A job that merges the tensor of this name of all models; the shape is that of the first.
    pub fn merge(
        &mut self,
        name: &str,
        dtype: DType,
        program: u32,
        constants: &[f64],
    ) -> &mut Merge {
        let leaves: Vec<Leaf> =
            (0..self.models.len()).map(|model| Leaf::Tensor(self.tensor(model, name))).collect();
        let shape = self.models[0].index.get(name).unwrap().shape.clone();
        self.push(name, shape, dtype, leaves, program, constants)
    }

    pub fn push(
        &mut self,
        name: &str,
        shape: Shape,
        dtype: DType,
        leaves: Vec<Leaf>,
        program: u32,
        constants: &[f64],
    ) -> &mut Merge {
        let work = Work::Merge(Merge {
            program,
            leaves,
            constants: constants.to_vec(),
            streams: vec![],
            groups: vec![],
            precision: Precision::Single,
            matrices: Vec::new(),
            factor: None,
            lost: None,
        });
        let (name, treatment) = (name.to_owned(), None);
        self.plan.jobs.push(Job {
            name,
            shape,
            dtype,
            work,
            origin: 0,
            treatment,
            quantized: None,
        });
        match &mut self.plan.jobs.last_mut().unwrap().work {
            Work::Merge(merge) => merge,
            Work::Copy { .. } => unreachable!(),
        }
    }

    pub fn copy(&mut self, name: &str, model: usize, equal_to: &[usize]) {
        let from = self.tensor(model, name);
        let entry = self.models[model].index.get(name).unwrap();
        let (shape, dtype) = (entry.shape.clone(), entry.dtype);
        let equal_to = equal_to.iter().map(|&model| self.tensor(model, name)).collect();
        let work = Work::Copy { from, equal_to, within: None };
        let (name, treatment) = (name.to_owned(), None);
        self.plan.jobs.push(Job {
            name,
            shape,
            dtype,
            work,
            origin: 0,
            treatment,
            quantized: None,
        });
    }

    pub fn sources(&self) -> Vec<Source<'_>> {
        let mut sources = Vec::new();
        for (number, model) in self.models.iter().enumerate() {
            let fail_from = match self.fault {
                Some((faulty, from)) if faulty == number => from,
                _ => u64::MAX,
            };
            let inner = MemorySource::new(model.bytes.clone());
            let shard = FaultySource { inner, fail_from };
            sources.push(Source { index: &model.index, shards: vec![Box::new(shard)] });
        }
        sources
    }

    pub fn run(&self, sink: &MemorySink, options: &Options) -> Result<Report, Vec<Diagnostic>> {
        let cancel = AtomicBool::new(false);
        let backend = CpuBackend::new();
        run(&self.plan, &self.sources(), &backend, sink, &NoResults, options, &Silent, &cancel)
    }

    /// The least budget with which it runs.
    pub fn least(&self, options: &Options) -> u64 {
        let indexes: Vec<&Index> = self.models.iter().map(|model| &model.index).collect();
        let options = Options { memory_bytes: 0, ..*options };
        let error = footprint(&self.plan, &indexes, &CpuBackend::new(), &options).unwrap_err();
        assert_eq!(error.code, codes::BUDGET_TOO_SMALL);
        let needed = error.facts.iter().find(|(label, _)| label == "needed").unwrap();
        needed.1.trim_end_matches(" bytes").parse().unwrap()
    }

    /// The output, which must be the same whatever the threads, the budget and the stripe.
    pub fn output(&self) -> Vec<Vec<u8>> {
        let mut first: Option<Vec<Vec<u8>>> = None;
        let mut check = |options: Options| {
            let sink = MemorySink::new(&self.plan);
            let report = self.run(&sink, &options).unwrap();
            assert_eq!(report.tensors_computed, self.plan.jobs.len());
            assert!(report.peak_bytes <= options.memory_bytes, "{report:?}");
            assert!(report.threads <= options.threads);
            let output = sink.finished();
            match &first {
                Some(first) => assert!(output == *first, "other bytes with {options:?}"),
                None => first = Some(output),
            }
        };
        for threads in [1, 2, 3, 7] {
            let options = Options { threads, ..Options::default() };
            let least = self.least(&options);
            for memory_bytes in [least, least + 300_000, 2_000_000_000] {
                check(Options { memory_bytes, ..options });
            }
            for stripe_elements in [1024, 4096] {
                check(Options { stripe_elements, ..options });
            }
        }
        first.unwrap()
    }
}

/// Sizes around the borders of blocks and pieces.
pub const SIZES: [u64; 9] =
    [0, 1, 1023, 1025, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 17];

pub fn register(number: u32) -> Operand {
    Operand::Register(number)
}

pub fn map(op: MapOp, arguments: &[Operand], to: u32) -> Instruction {
    let mut three = [Operand::Register(0); 3];
    three[..arguments.len()].copy_from_slice(arguments);
    Instruction::Map { op, arguments: three, to }
}

/// Σ weightᵢ · inputᵢ, from left to right.
pub fn linear(inputs: u32) -> Program {
    let mut instructions = Vec::new();
    for input in 0..inputs {
        instructions.push(Instruction::Load { input, to: 1 });
        let weight = Operand::Scalar(input);
        if input == 0 {
            instructions.push(map(MapOp::Multiply, &[register(1), weight], 0));
        } else {
            instructions.push(map(MapOp::Multiply, &[register(1), weight], 1));
            instructions.push(map(MapOp::Add, &[register(0), register(1)], 0));
        }
    }
    instructions.push(Instruction::Store { from: register(0) });
    let pass =
        Pass { instructions, registers: 2, inputs: (0..inputs).collect(), ..Pass::default() };
    Program { inputs, constants: inputs, scalars: inputs, passes: vec![pass], ..Program::default() }
}

/// The second input scaled to the norm of the first: two sums, then a quotient of roots.
pub fn rescale(scope: Scope) -> Program {
    let square = |input: u32| Instruction::Reduce {
        reduction: Reduction::SumProduct,
        arguments: [register(input); 2],
        slot: input,
    };
    let load = |input: u32| Instruction::Load { input, to: input };
    let slot = |to| ReductionSlot { reduction: Reduction::SumProduct, to, scope };
    let norms = Pass {
        instructions: vec![load(0), load(1), square(0), square(1)],
        registers: 2,
        inputs: vec![0, 1],
        reductions: vec![slot(0), slot(1)],
        ..Pass::default()
    };
    let step = |op, a, b, to| ScalarStep { op, arguments: [a, b, 0], to };
    let scaled = Pass {
        prelude: vec![step(MapOp::Divide, 0, 1, 2), step(MapOp::Sqrt, 2, 0, 2)],
        instructions: vec![
            load(1),
            map(MapOp::Multiply, &[register(1), Operand::Scalar(2)], 1),
            Instruction::Store { from: register(1) },
        ],
        registers: 2,
        inputs: vec![1],
        ..Pass::default()
    };
    Program { inputs: 2, scalars: 3, passes: vec![norms, scaled], ..Program::default() }
}

/// base + Σ over the experts of their task vectors, each trimmed to its largest elements.
///
/// Constants: the density. Input 0 is the base.
pub fn trimmed(experts: u32, ties: Ties, scope: impl Fn(u32) -> Scope) -> Program {
    let delta = |expert: u32| {
        [
            Instruction::Load { input: expert + 1, to: 1 },
            map(MapOp::Subtract, &[register(1), register(0)], 1),
        ]
    };
    let mut select = vec![Instruction::Load { input: 0, to: 0 }];
    let mut apply = select.clone();
    apply.push(map(MapOp::Add, &[register(0), Operand::Scalar(1)], 2));
    for expert in 0..experts {
        select.extend(delta(expert));
        select.push(Instruction::Select { from: 1, slot: expert });
        apply.extend(delta(expert));
        apply.push(Instruction::KeepLargest { from: 1, cut: expert, to: 1 });
        apply.push(map(MapOp::Add, &[register(2), register(1)], 2));
    }
    apply.push(Instruction::Store { from: register(2) });
    let inputs: Vec<u32> = (0..=experts).collect();
    let selections = (0..experts)
        .map(|expert| SelectionSlot {
            density: 0,
            is_count: false,
            among: None,
            magnitude: None,
            ties,
            cut: expert,
            scope: scope(expert),
        })
        .collect();
    let first = Pass {
        instructions: select,
        registers: 3,
        inputs: inputs.clone(),
        selections,
        ..Pass::default()
    };
    let second = Pass { instructions: apply, registers: 3, inputs, ..Pass::default() };
    Program {
        inputs: experts + 1,
        constants: 2,
        scalars: 2,
        cuts: experts,
        passes: vec![first, second],
        ..Program::default()
    }
}
