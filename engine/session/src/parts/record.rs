//! What a part leaves beside its manifest: where it belongs, and what running it told, from which the
//! warnings of the whole are made again.

use mixdown_checkpoint::layout::{Layout, OutputTensor};
use mixdown_diagnostics::Diagnostic;
use mixdown_exec::{MatrixReport, Overflow, QuantizeLoss, Report, StorageLoss};
use mixdown_ops::matrix::Report as OpReport;
use mixdown_tensor::DType;
use serde_json::{Value, json};

use super::PartNumber;

/// Its name in the folder of a part.
pub const RECORD_NAME: &str = "mixdown-part.json";

/// Version of the format.
const VERSION: u64 = 1;

/// In which files the whole output lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// Shards of at most so many bytes, 0 for one.
    Shards(u64),
    /// One file of this name.
    One(String),
    /// One file of this name, as torch writes it.
    Torch(String),
}

impl Files {
    /// Lays tensors out in them.
    ///
    /// **Errors.** Those of [`Layout::new`].
    pub fn layout(&self, tensors: Vec<OutputTensor>) -> Result<Layout, Box<Diagnostic>> {
        match self {
            Self::Shards(bytes) => Layout::new(tensors, *bytes),
            Self::One(name) => Layout::in_one_file(tensors, name),
            Self::Torch(name) => Layout::in_torch_file(tensors, name),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Shards(bytes) => json!({"shard_bytes": bytes}),
            Self::One(name) => json!({"one_file": name}),
            Self::Torch(name) => json!({"torch_file": name}),
        }
    }

    fn of(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let shards = value["shard_bytes"].as_u64().map(Self::Shards);
        shards
            .or_else(|| text("one_file").map(Self::One))
            .or_else(|| text("torch_file").map(Self::Torch))
    }
}

/// What a part leaves beside its manifest.
#[derive(Clone, Debug)]
pub struct PartRecord {
    /// Which part it is.
    pub part: PartNumber,
    /// Where its tensors begin among those of the whole.
    pub first: usize,
    /// In which files the whole lies.
    pub files: Files,
    /// Digest of the whole's layout.
    pub layout: String,
    /// By what the part's own run is known, on the machine where it ran.
    pub identity: String,
    /// What computed, in words: results of matrix ops may depend on it in their last bits.
    pub computed_with: String,
    /// Whether the part has results of matrix ops.
    pub has_matrices: bool,
    /// Headlines of the warnings that do not come from running.
    pub warnings: Vec<String>,
    /// What running it told.
    pub told: Told,
}

/// What running a part told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Results that are NaN or infinite.
    pub overflows: Vec<Overflow>,
    /// What matrix ops told, where a warning can come from it.
    pub matrices: Vec<MatrixReport>,
    /// What rounding did to updates.
    pub losses: Vec<StorageLoss>,
    /// What writing in fewer bits did.
    pub quantized: Vec<QuantizeLoss>,
}

impl Told {
    /// What a run told.
    pub fn of(report: &Report) -> Self {
        let can_warn =
            |found: &&MatrixReport| found.report.gap.is_some() || !found.report.notes.is_empty();
        Self {
            overflows: report.overflows.clone(),
            matrices: report.matrices.iter().filter(can_warn).cloned().collect(),
            losses: report.losses.clone(),
            quantized: report.quantized.clone(),
        }
    }

    fn json(&self) -> Value {
        let overflows = self.overflows.iter().map(|one| {
            json!({"tensor": one.tensor, "dtype": one.dtype.name(), "elements": one.elements})
        });
        let matrices = self.matrices.iter().map(|one| {
            let gap = one.report.gap.map(f64::to_bits);
            json!({"tensor": one.tensor, "gap": gap, "notes": one.report.notes})
        });
        let losses = self.losses.iter().map(|one| {
            let numbers = [one.lost, one.update, one.largest].map(f64::to_bits);
            json!({"tensor": one.tensor, "dtype": one.dtype.name(), "numbers": numbers})
        });
        let quantized = self.quantized.iter().map(|one| {
            let numbers = [one.lost, one.exact].map(f64::to_bits);
            let update = one.update.map(f64::to_bits);
            json!({"tensor": one.tensor, "form": one.form, "numbers": numbers, "update": update})
        });
        json!({
            "quantized": quantized.collect::<Vec<_>>(),
            "overflows": overflows.collect::<Vec<_>>(),
            "matrices": matrices.collect::<Vec<_>>(),
            "losses": losses.collect::<Vec<_>>(),
        })
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let dtype = |value: &Value| value.as_str()?.parse::<DType>().ok();
        let overflow = |one: &Value| {
            let (tensor, dtype) = (text(&one["tensor"])?, dtype(&one["dtype"])?);
            Some(Overflow { tensor, dtype, elements: one["elements"].as_u64()? })
        };
        let matrix = |one: &Value| {
            let notes: Option<Vec<String>> = one["notes"].as_array()?.iter().map(text).collect();
            let gap = match &one["gap"] {
                Value::Null => None,
                bits => Some(f64::from_bits(bits.as_u64()?)),
            };
            let report = OpReport { gap, notes: notes?, ..OpReport::default() };
            Some(MatrixReport { tensor: text(&one["tensor"])?, op: "", report, from_store: false })
        };
        let loss = |one: &Value| {
            let number = |at: usize| Some(f64::from_bits(one["numbers"][at].as_u64()?));
            Some(StorageLoss {
                tensor: text(&one["tensor"])?,
                dtype: dtype(&one["dtype"])?,
                lost: number(0)?,
                update: number(1)?,
                largest: number(2)?,
            })
        };
        let quantized = |one: &Value| {
            let number = |at: usize| Some(f64::from_bits(one["numbers"][at].as_u64()?));
            let update = match &one["update"] {
                Value::Null => None,
                bits => Some(f64::from_bits(bits.as_u64()?)),
            };
            let (tensor, form) = (text(&one["tensor"])?, text(&one["form"])?);
            Some(QuantizeLoss { tensor, form, lost: number(0)?, exact: number(1)?, update })
        };
        Some(Self {
            quantized: value["quantized"]
                .as_array()?
                .iter()
                .map(quantized)
                .collect::<Option<_>>()?,
            overflows: value["overflows"]
                .as_array()?
                .iter()
                .map(overflow)
                .collect::<Option<_>>()?,
            matrices: value["matrices"].as_array()?.iter().map(matrix).collect::<Option<_>>()?,
            losses: value["losses"].as_array()?.iter().map(loss).collect::<Option<_>>()?,
        })
    }
}

impl PartRecord {
    /// Its text. Numbers that must not change by a bit are written as their bits.
    pub fn text(&self) -> String {
        let value = json!({
            "mixdown_part": VERSION,
            "part": self.part.number(),
            "of": self.part.of(),
            "first": self.first,
            "files": self.files.json(),
            "layout": self.layout,
            "identity": self.identity,
            "computed_with": self.computed_with,
            "has_matrices": self.has_matrices,
            "warnings": self.warnings,
            "told": self.told.json(),
        });
        format!("{value:#}\n")
    }

    /// Reads a record; none if it is not one of this version.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        if value["mixdown_part"].as_u64() != Some(VERSION) {
            return None;
        }
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let number = |key: &str| u32::try_from(value[key].as_u64()?).ok();
        let warnings = value["warnings"].as_array()?.iter();
        Some(Self {
            part: PartNumber::new(number("part")?, number("of")?)?,
            first: usize::try_from(value["first"].as_u64()?).ok()?,
            files: Files::of(&value["files"])?,
            layout: text("layout")?,
            identity: text("identity")?,
            computed_with: text("computed_with")?,
            has_matrices: value["has_matrices"].as_bool()?,
            warnings: warnings.map(|one| one.as_str().map(str::to_owned)).collect::<Option<_>>()?,
            told: Told::read(&value["told"])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let told = Told {
            overflows: vec![Overflow { tensor: "a".into(), dtype: DType::Bf16, elements: 3 }],
            matrices: vec![MatrixReport {
                tensor: "b".into(),
                op: "",
                report: OpReport {
                    gap: Some(1e-9),
                    notes: vec!["n".into()],
                    ..OpReport::default()
                },
                from_store: false,
            }],
            losses: vec![StorageLoss {
                tensor: "c".into(),
                dtype: DType::F16,
                lost: 0.1,
                update: f64::INFINITY,
                largest: 1.0 / 3.0,
            }],
            quantized: vec![QuantizeLoss {
                tensor: "d".into(),
                form: "fp8".into(),
                lost: 0.3,
                exact: 7.0,
                update: Some(0.7),
            }],
        };
        for files in [Files::Shards(7), Files::One("a".into()), Files::Torch("b".into())] {
            let record = PartRecord {
                part: PartNumber::new(2, 5).unwrap(),
                first: 17,
                files,
                layout: "l".into(),
                identity: "i".into(),
                computed_with: "plain".into(),
                has_matrices: true,
                warnings: vec!["w".into()],
                told: told.clone(),
            };
            let text = record.text();
            let read = PartRecord::parse(text.as_bytes()).unwrap();
            assert_eq!(read.text(), text);
            assert_eq!((read.told, read.files), (record.told, record.files));
            // Without the end of the line all of it is there.
            for at in (0..text.trim_end().len()).step_by(7) {
                assert!(PartRecord::parse(&text.as_bytes()[..at]).is_none());
            }
        }
        assert!(PartRecord::parse(b"{\"mixdown_part\": 2}").is_none());
    }
}
