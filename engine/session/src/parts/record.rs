//! What a part leaves beside its manifest: where it belongs, and what running it told, from which the
//! warnings of the whole are made again.

use mixdown_checkpoint::layout::{Layout, OutputTensor};
use mixdown_diagnostics::Diagnostic;
use mixdown_exec::Told;
use serde_json::{Value, json};

use super::PartNumber;
use crate::told;

/// Its name in the folder of a part.
pub const RECORD_NAME: &str = "mixdown-part.json";

/// Version of the format.
const VERSION: u64 = 2;

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
            "told": told::json(&self.told),
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
            told: told::read(&value["told"])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use mixdown_exec::Overflow;
    use mixdown_tensor::DType;

    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let told = Told {
            overflows: vec![Overflow { tensor: "a".into(), dtype: DType::Bf16, elements: 3 }],
            ..Told::default()
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
