//! The plain backend does as it says, worked by hand; and the conformance tests see what they are for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mixdown_backends::job::{Job, store};
use mixdown_backends::{Counting, Counts, Plain, conformance};
use mixdown_ops::program::{ReductionSlot, Scope};
use mixdown_ops::selection::{Cut, Round};
use mixdown_ops::{
    Backend, Call, Instruction, LowRank, MapOp, Operand, Partial, Pass, Precision, Reduction,
    Worker,
};
use mixdown_tensor::DType;

#[test]
fn worked_by_hand() {
    let add = Instruction::Map {
        op: MapOp::Add,
        arguments: [Operand::Register(0), Operand::Register(1), Operand::Scalar(0)],
        to: 2,
    };
    let values: [&[f64]; 2] = [&[1.0, -2.0, 3.0], &[0.5, 0.5, -3.0]];
    let mut job = Job::new(Plain, Precision::Single, DType::Bf16, &values).steps(&[add, store(2)]);
    assert_eq!(job.values(), [1.5, -1.5, 0.0]);

    job.cuts = vec![Cut { key: u64::from(1.5_f32.to_bits()), ties_before: 1 }];
    let keep = Instruction::KeepLargest { from: 2, cut: 0, to: 2 };
    let sum = Instruction::Reduce {
        reduction: Reduction::SumProduct,
        arguments: [Operand::Register(0), Operand::Register(0)],
        slot: 0,
    };
    job = job.steps(&[add, keep, sum, store(2)]);
    job.pass.reductions =
        vec![ReductionSlot { reduction: Reduction::SumProduct, to: 0, scope: Scope::Tensor }];
    assert_eq!(job.values(), [1.5, 0.0, 0.0], "of two that are equal the first is kept");
    assert_eq!(job.run().1.reductions, [14.0]);
}

#[test]
fn the_plain_backend_conforms_to_itself() {
    conformance::check(&(Arc::new(Plain) as Arc<dyn Backend>), 0..500);
}

/// A backend with one fault.
struct Faulty(Fault);

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The last byte of an output is another.
    Stored,
    /// A sum is off by its last bit.
    Sum,
    /// What is not finite is not told.
    Nonfinite,
    /// A selection is not begun anew.
    Selection,
    /// A product is read from one element further.
    Product,
}

/// With how many pieces were begun.
struct FaultyWorker(Fault, Box<dyn Worker>, u64);

impl Backend for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }
    fn describe(&self) -> String {
        format!("{:?}", self.0)
    }
    fn worker(&self) -> Box<dyn Worker> {
        Box::new(FaultyWorker(self.0, Plain.worker(), 0))
    }
    fn worker_bytes(&self, pass: &Pass, precision: Precision) -> u64 {
        Plain.worker_bytes(pass, precision)
    }
}

impl Worker for FaultyWorker {
    fn begin(&mut self, pass: &Pass, precision: Precision, rounds: &[Round]) {
        self.2 += 1;
        // One of many pieces is enough.
        let is_kept = matches!(self.0, Fault::Selection) && self.2.is_multiple_of(50);
        if !is_kept {
            self.1.begin(pass, precision, rounds);
        }
    }
    fn run(&mut self, call: Call<'_>) {
        let Call { program, pass, precision, first, elements, inputs, scalars, cuts, .. } = call;
        let Call { streams, rounds, reduce, check_finite, mut output, .. } = call;
        let check_finite = check_finite && !matches!(self.0, Fault::Nonfinite);
        let again = output
            .as_mut()
            .map(|output| mixdown_ops::Output { dtype: output.dtype, bytes: &mut *output.bytes });
        self.1.run(Call {
            program,
            pass,
            precision,
            first,
            elements,
            inputs,
            scalars,
            cuts,
            streams,
            rounds,
            reduce,
            check_finite,
            output: again,
        });
        if let (Fault::Stored, Some(last)) =
            (self.0, output.and_then(|output| output.bytes.last_mut()))
        {
            *last ^= 1;
        }
    }
    fn finish(&mut self) -> Partial {
        let mut partial = self.1.finish();
        if matches!(self.0, Fault::Sum) {
            for sum in &mut partial.reductions {
                *sum = f64::from_bits(sum.to_bits() ^ 1);
            }
        }
        partial
    }
    fn multiply(&mut self, matrix: LowRank<'_>, first: u64, out: &mut [u8]) {
        let later = u64::from(matches!(self.0, Fault::Product) && first > 0);
        self.1.multiply(matrix, first - later, out);
    }
}

#[test]
fn a_fault_is_seen() {
    use Fault::{Nonfinite, Product, Selection, Stored, Sum};
    for fault in [Stored, Sum, Nonfinite, Selection, Product] {
        let backend: Arc<dyn Backend> = Arc::new(Faulty(fault));
        let checked = AssertUnwindSafe(|| conformance::check(&backend, 0..300));
        let outcome = catch_unwind(checked);
        assert!(outcome.is_err(), "{fault:?} was not seen");
    }
}

#[test]
fn counts_are_what_was_asked_for() {
    let counting = Arc::new(Counting::new(Plain));
    let values = [1.0; 10];
    let mut job =
        Job::new(Plain, Precision::Single, DType::F32, &[&values, &values]).steps(&[store(0)]);
    job.backend = counting.clone();
    job.run();
    job.run();
    let expected = Counts { elements: 20, loaded: 40, stored: 20, ..Counts::default() };
    assert_eq!(counting.counts(), expected);
}
