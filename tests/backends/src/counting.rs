//! A backend that counts what it is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mixdown_ops::matrix::{MatrixOp, Needs, OperandShapes, Operands, Prepared, Stop};
use mixdown_ops::selection::Round;
use mixdown_ops::{
    Backend, Call, Instruction, LowRank, Partial, Pass, Placement, Precision, Worker,
};

/// Lends its work to another backend, and counts.
pub struct Counting<B> {
    inner: B,
    counts: Arc<Shared>,
}

/// What a [`Counting`] was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Elements that passes went over.
    pub elements: u64,
    /// Elements that were loaded from inputs.
    pub loaded: u64,
    /// Elements that were written.
    pub stored: u64,
    /// Elements whose magnitudes a selection was shown.
    pub selected: u64,
    /// Bytes of products of factors that were multiplied out.
    pub multiplied_bytes: u64,
    /// Matrix ops that were begun.
    pub prepared: u64,
}

#[derive(Debug, Default)]
struct Shared {
    elements: AtomicU64,
    loaded: AtomicU64,
    stored: AtomicU64,
    selected: AtomicU64,
    multiplied_bytes: AtomicU64,
    prepared: AtomicU64,
}

impl<B> Counting<B> {
    /// Counts for a backend.
    pub fn new(inner: B) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// What was asked for so far.
    pub fn counts(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            elements: of(&self.counts.elements),
            loaded: of(&self.counts.loaded),
            stored: of(&self.counts.stored),
            selected: of(&self.counts.selected),
            multiplied_bytes: of(&self.counts.multiplied_bytes),
            prepared: of(&self.counts.prepared),
        }
    }
}

impl<B: Backend> Backend for Counting<B> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn worker(&self) -> Box<dyn Worker> {
        Box::new(CountingWorker { inner: self.inner.worker(), counts: Arc::clone(&self.counts) })
    }

    fn worker_bytes(&self, pass: &Pass, precision: Precision) -> u64 {
        self.inner.worker_bytes(pass, precision)
    }

    fn needs(
        &self,
        op: &MatrixOp,
        operands: &OperandShapes,
        precision: Precision,
    ) -> Result<Needs, Stop> {
        self.inner.needs(op, operands, precision)
    }

    fn place(&self, op: &MatrixOp, operands: &OperandShapes, precision: Precision) -> Placement {
        self.inner.place(op, operands, precision)
    }

    fn prepare(
        &self,
        op: &MatrixOp,
        operands: &mut dyn Operands,
        precision: Precision,
    ) -> Result<Box<dyn Prepared>, Stop> {
        self.counts.prepared.fetch_add(1, Ordering::Relaxed);
        self.inner.prepare(op, operands, precision)
    }
}

struct CountingWorker {
    inner: Box<dyn Worker>,
    counts: Arc<Shared>,
}

impl Worker for CountingWorker {
    fn begin(&mut self, pass: &Pass, precision: Precision, rounds: &[Round]) {
        self.inner.begin(pass, precision, rounds);
    }

    fn run(&mut self, call: Call<'_>) {
        let elements = call.elements as u64;
        let count = |counter: &AtomicU64, is_counted: &dyn Fn(&Instruction) -> bool| {
            let times = call.pass.instructions.iter().filter(|one| is_counted(one)).count();
            counter.fetch_add(elements * times as u64, Ordering::Relaxed);
        };
        self.counts.elements.fetch_add(elements, Ordering::Relaxed);
        count(&self.counts.loaded, &|one| matches!(one, Instruction::Load { .. }));
        if call.output.is_some() {
            count(&self.counts.stored, &|one| matches!(one, Instruction::Store { .. }));
        }
        count(&self.counts.selected, &|one| match one {
            Instruction::Select { slot, .. } => {
                !matches!(call.rounds.get(*slot as usize), None | Some(Round::Idle))
            }
            _ => false,
        });
        self.inner.run(call);
    }

    fn finish(&mut self) -> Partial {
        self.inner.finish()
    }

    fn multiply(&mut self, matrix: LowRank<'_>, first: u64, out: &mut [u8]) {
        self.counts.multiplied_bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
        self.inner.multiply(matrix, first, out);
    }
}
