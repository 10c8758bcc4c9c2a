//! What a run tells when it has ended.

use std::borrow::Cow;

use mixdown_diagnostics::Diagnostic;
use mixdown_ops::matrix::Report as OpReport;
use mixdown_tensor::DType;

/// How a run ended that met no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every output tensor is written and recorded.
    Finished,
    /// The flag was raised; what is recorded is kept for the same merge to continue.
    Interrupted,
}

/// What a matrix op tells of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixReport {
    /// The output tensor.
    pub tensor: String,
    /// The op.
    pub op: Cow<'static, str>,
    /// Losses, ranks, gaps.
    pub report: OpReport,
    /// Whether the result was there from an earlier run.
    pub from_store: bool,
}

/// What rounding to the type of the output did to the update of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageLoss {
    /// The output tensor.
    pub tensor: String,
    /// Type in which it is stored.
    pub dtype: DType,
    /// Σ (stored − exact)².
    pub lost: f64,
    /// Σ (exact − base)².
    pub update: f64,
    /// The largest magnitude of a result.
    pub largest: f64,
}

impl StorageLoss {
    /// ‖stored − exact‖ / ‖update‖; 0 where there is no update.
    pub fn share(&self) -> f64 {
        if self.update > 0.0 { (self.lost / self.update).sqrt() } else { 0.0 }
    }

    /// That of several tensors together.
    pub fn of_all(losses: &[Self]) -> Option<f64> {
        let lost: f64 = losses.iter().map(|one| one.lost).sum();
        let update: f64 = losses.iter().map(|one| one.update).sum();
        (update > 0.0).then(|| (lost / update).sqrt())
    }
}

/// What writing in fewer bits did to one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizeLoss {
    /// The output tensor.
    pub tensor: String,
    /// The form, in words.
    pub form: String,
    /// Σ (stored − exact)².
    pub lost: f64,
    /// Σ exact².
    pub exact: f64,
    /// Σ (exact − base)², where the result is a base and an update.
    pub update: Option<f64>,
}

impl QuantizeLoss {
    /// ‖stored − exact‖ / ‖exact‖; 0 for zeros.
    pub fn relative(&self) -> f64 {
        if self.exact > 0.0 { (self.lost / self.exact).sqrt() } else { 0.0 }
    }

    /// ‖stored − exact‖ / ‖update‖, where there is an update that is not zero.
    pub fn of_update(&self) -> Option<f64> {
        self.update.filter(|&update| update > 0.0).map(|update| (self.lost / update).sqrt())
    }
}

/// Results of one tensor that are NaN or infinite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// The output tensor.
    pub tensor: String,
    /// Type in which it is stored.
    pub dtype: DType,
    /// Count of such elements.
    pub elements: u64,
}

/// What making tensors told: one of them, which is what a run that goes on needs to know of it, or all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// What matrix ops tell, by tensor.
    pub matrices: Vec<MatrixReport>,
    /// What rounding to the type of the output did to updates, in the order of the output.
    pub losses: Vec<StorageLoss>,
    /// What writing in fewer bits did, in the order of the output.
    pub quantized: Vec<QuantizeLoss>,
    /// Tensors with results that are NaN or infinite though the inputs are not, in the order of the output.
    pub overflows: Vec<Overflow>,
}

impl Told {
    /// Whether nothing was told.
    pub fn is_empty(&self) -> bool {
        let Self { matrices, losses, quantized, overflows } = self;
        matrices.is_empty() && losses.is_empty() && quantized.is_empty() && overflows.is_empty()
    }

    /// Adds what was told of tensors that come after these.
    pub fn extend(&mut self, mut other: Self) {
        self.matrices.append(&mut other.matrices);
        self.losses.append(&mut other.losses);
        self.quantized.append(&mut other.quantized);
        self.overflows.append(&mut other.overflows);
    }
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Parts of the work, with the seconds they took.
    pub stages: Vec<(String, f64)>,
    /// Bytes read from the inputs.
    pub bytes_read: u64,
    /// Bytes written to the output.
    pub bytes_written: u64,
    /// Bytes of the output that share blocks with an input instead of being written.
    pub bytes_shared: u64,
    /// Output tensors that this run finished.
    pub tensors_computed: usize,
    /// Output tensors that an earlier run had finished.
    pub tensors_reused: usize,
    /// The most bytes that were admitted at one time.
    pub peak_bytes: u64,
    /// Threads that worked.
    pub threads: usize,
    /// Elements that a thread read and computed at a time.
    pub stripe_elements: usize,
    /// Count of output tensors whose codes and scales are those of an input.
    pub codes_kept: usize,
    /// What making the tensors told, those that an earlier run had finished among them. Results that are NaN
    /// or infinite are told among the warnings in words.
    pub told: Told,
    /// What the user may want to act on.
    pub warnings: Vec<Diagnostic>,
}
