//! Which row of the output comes from where.

use std::collections::BTreeSet;
use std::sync::Arc;

use mixdown_checkpoint::{ByteSource, ReadError, TensorEntry, bytes_text, shown};
use mixdown_cpu::corresponding::Pairs;
use mixdown_cpu::{Points, Rotary};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::DType;
use mixdown_tensor::convert::{bf16_to_f32, f16_to_f32, f64_to_f32};

use super::problem;
use super::request::{Method, Settings};
use super::words::{Word, Words};

/// A matrix as it is stored.
pub(super) struct Stored {
    entry: TensorEntry,
    source: Arc<dyn ByteSource>,
}

impl Stored {
    /// **Errors.** A tensor that is not stored as numbers.
    pub fn new(entry: &TensorEntry, source: Arc<dyn ByteSource>) -> Result<Self, Box<Diagnostic>> {
        let is_plain = entry.encoding.is_none()
            && matches!(entry.dtype, DType::Bf16 | DType::F16 | DType::F32 | DType::F64);
        if !is_plain {
            let headline =
                format!("`{}` is not stored as floating-point numbers", shown(&entry.name));
            return Err(Box::new(
                Diagnostic::error(codes::UNSUPPORTED, headline)
                    .fact("stored as", entry.stored_as())
                    .help("write the model without quantization first: `mixdown convert` does"),
            ));
        }
        Ok(Self { entry: entry.clone(), source })
    }

    pub fn dtype(&self) -> DType {
        self.entry.dtype
    }

    pub fn rows(&self) -> u64 {
        self.entry.shape.dimensions()[0]
    }

    pub fn columns(&self) -> usize {
        self.entry.shape.dimensions()[1..].iter().product::<u64>() as usize
    }

    pub fn row_bytes(&self) -> usize {
        self.columns() * self.dtype().bytes()
    }

    /// The bytes of a row.
    pub fn row(&self, at: u64, bytes: &mut [u8]) -> Result<(), ReadError> {
        let offset = self.entry.offset + at * self.row_bytes() as u64;
        self.source.read_exact_at(offset, bytes)
    }

    /// A row as numbers.
    ///
    /// **Errors.** What reading fails of, and numbers that are not finite.
    pub fn numbers(&self, at: u64, numbers: &mut Vec<f32>) -> Result<(), ReadError> {
        let mut bytes = vec![0; self.row_bytes()];
        self.row(at, &mut bytes)?;
        let first = numbers.len();
        let two = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes);
        match self.dtype() {
            DType::Bf16 => {
                numbers.extend(bytes.as_chunks().0.iter().map(|one| bf16_to_f32(two(one))))
            }
            DType::F16 => {
                numbers.extend(bytes.as_chunks().0.iter().map(|one| f16_to_f32(two(one))))
            }
            DType::F64 => {
                let wide = |one: &[u8; 8]| f64_to_f32(f64::from_le_bytes(*one));
                numbers.extend(bytes.as_chunks().0.iter().map(wide));
            }
            _ => numbers.extend(bytes.as_chunks().0.iter().map(|one| f32::from_le_bytes(*one))),
        }
        if numbers[first..].iter().all(|value| value.is_finite()) {
            return Ok(());
        }
        let headline =
            format!("`{}` has an element that is no finite number", shown(&self.entry.name));
        Err(ReadError::Packed(Box::new(
            Diagnostic::error(codes::NONFINITE, headline).fact("row", at.to_string()),
        )))
    }

    /// Many rows as numbers.
    pub fn gathered(&self, rows: impl Iterator<Item = u64>) -> Result<Vec<f32>, ReadError> {
        let mut numbers = Vec::with_capacity(rows.size_hint().0 * self.columns());
        for row in rows {
            self.numbers(row, &mut numbers)?;
        }
        Ok(numbers)
    }
}

/// Where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// This one of the model.
    Own(u32),
    /// The new token of this number.
    New(u32),
    /// No token has it.
    Zero,
}

/// Where all rows come from.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Rows of the output.
    pub rows: u64,
    /// For each row of the output.
    pub from: Vec<Row>,
    /// The donor's ids of new tokens, and what they mean.
    pub new: Vec<(u64, Word)>,
    /// Common tokens by the donor's ids: the donor's and the model's.
    pub common: Vec<(u64, u64)>,
}

impl Plan {
    pub fn new(
        settings: &Settings,
        target: &Words,
        donor: &Words,
        (own, from): (&Stored, Option<&Stored>),
        is_head: bool,
        junk: &BTreeSet<u64>,
    ) -> Self {
        let of_own = |word: &Word| target.get(word)?.iter().copied().find(|id| *id < own.rows());
        let has_row = |id: u64| from.is_none_or(|from| id < from.rows());
        let mut found: Vec<(u64, &Word)> =
            donor.iter().flat_map(|(word, ids)| ids.iter().map(move |id| (*id, word))).collect();
        found.sort_unstable_by_key(|(id, _)| *id);
        let tokens = found.last().map_or(0, |(id, _)| id + 1);
        let mut plan = Self { from: vec![Row::Zero; tokens as usize], ..Self::default() };
        let (bytes, beginnings) =
            (settings.rows.bytes.of(is_head), settings.rows.beginnings.of(is_head));
        for (id, word) in found {
            let row = &mut plan.from[id as usize];
            if !has_row(id) || junk.contains(&id) {
                continue;
            }
            if let Some(own) = of_own(word) {
                *row = Row::Own(own as u32);
                plan.common.push((id, own));
                continue;
            }
            let byte = || word.byte().filter(|_| bytes).and_then(|byte| of_own(&byte));
            let beginning = || {
                let mut all = if beginnings { word.beginnings() } else { Vec::new() }.into_iter();
                all.find_map(|beginning| of_own(&beginning))
            };
            match byte().or_else(beginning) {
                Some(own) => *row = Row::Own(own as u32),
                None => {
                    *row = Row::New(plan.new.len() as u32);
                    plan.new.push((id, word.clone()));
                }
            }
        }
        plan
    }

    /// **Errors.** Tokens in common that are none, or fewer than each sum has.
    pub fn check(
        &self,
        settings: &Settings,
        (target, donor): (&str, &str),
    ) -> Result<(), Vec<Diagnostic>> {
        let method = settings.rows.method;
        if !method.is_of_common() || self.new.is_empty() {
            return Ok(());
        }
        let common = self.common.len() as u64;
        if common == 0 {
            let error = problem(format!("`{target}` and `{donor}` have no tokens in common"))
                .fact("tokens of the donor", self.new.len().to_string())
                .note("rows of new tokens are sums of those that both have")
                .help("with `--method mean`, `randn` or `subword` nothing has to be in common");
            return Err(vec![error]);
        }
        if method.has_sums() && common < settings.rows.count {
            let error = problem(format!(
                "a sum cannot be of {} tokens: `{target}` and `{donor}` have fewer in common",
                settings.rows.count
            ))
            .fact("in common", common.to_string())
            .help(format!("use `-k {common}`, or fewer"));
            return Err(vec![error]);
        }
        Ok(())
    }

    /// What the user should know.
    pub fn told(&self, settings: &Settings) -> Option<Diagnostic> {
        let kept = self.from.iter().filter(|row| matches!(row, Row::Own(_))).count();
        // Names of a few special tokens are no sign that texts are cut alike.
        let is_few = kept * 10 < self.from.len() && settings.rows.method != Method::Zero;
        let headline = "few tokens of the donor are among those of the model";
        is_few.then(|| {
            Diagnostic::warning(codes::FEW_COMMON_TOKENS, headline)
                .fact("the model's", format!("{kept} of {}", self.from.len()))
                .fact("made", self.new.len().to_string())
                .note("the model has to be trained on before it is of use")
        })
    }

    /// Bytes that are held while rows are made.
    pub fn memory(&self, settings: &Settings, own: &Stored, from: Option<&Stored>) -> u64 {
        let Some(from) = from.filter(|_| !self.new.is_empty()) else { return 0 };
        let points = |columns: u64| Points::bytes(self.common.len() as u64, columns);
        let (from, own) = (from.columns() as u64, own.columns() as u64);
        match settings.rows.method {
            Method::Omp | Method::TurnedPursuit | Method::CommonInterpolation => points(from),
            Method::Landmarks => Pairs::bytes(from, own),
            Method::SparseBasis => Pairs::bytes(from, own).saturating_add(points(from.min(own))),
            _ => 0,
        }
    }

    pub fn too_large(&self, needed: u64, memory: u64) -> Diagnostic {
        problem("the rows of common tokens take more memory than the merge may use")
            .fact("needed", bytes_text(needed))
            .fact("memory", bytes_text(memory))
            .help(format!("allow more with `--memory {}MB`", (needed + memory).div_ceil(1_000_000)))
    }
}

/// A matrix of the output.
pub(super) struct Matrix {
    pub plan: Plan,
    /// The model's.
    pub own: Stored,
    /// The donor's; none of biases, whose new elements are zero.
    pub from: Option<Stored>,
    pub is_head: bool,
    /// How positions turn rows of the donor and of the model, where rows are turned.
    pub rotary: Option<[Rotary; 2]>,
}
