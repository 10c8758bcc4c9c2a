//! Names and types of a family's tensors in GGUF files: the inverse of how they are read.

use mixdown_tensor::Shape;

use super::gguf::GgufType;
use crate::encoding::gguf::{Description, descriptions};
pub use crate::encoding::gguf::{Norm, Positions};

/// How GGUF files hold the tensors of a family.
#[derive(Clone, Copy, Debug)]
pub struct GgufNames {
    architecture: &'static str,
    description: &'static Description,
}

/// Where a tensor goes.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufPlace {
    /// Its name in the file.
    pub name: String,
    /// The key of the count of heads whose rows are woven: the two halves of a head alternate.
    pub woven: Option<&'static str>,
    /// What is added to all values.
    pub added: f32,
    /// Which of several experts in one tensor it is.
    pub expert: Option<u64>,
    /// Whether files have it without its axis of one.
    pub is_row: bool,
    /// Whether files have it with rows and columns exchanged.
    pub is_turned: bool,
}

impl GgufPlace {
    /// The shape that files have of a tensor of this one.
    pub fn stored(&self, shape: &Shape) -> Shape {
        match *shape.dimensions() {
            [rows, columns] if self.is_turned => {
                Shape::new(vec![columns, rows]).unwrap_or_else(|_| shape.clone())
            }
            _ => shape.clone(),
        }
    }
}

impl GgufNames {
    /// Those of models whose config.json has this `model_type`.
    pub fn of(model_type: &str) -> Option<Self> {
        descriptions().iter().find_map(|description| {
            let architecture = description.written.get(model_type)?;
            Some(Self { architecture, description })
        })
    }

    /// The `model_type` of all families that are written.
    pub fn families() -> Vec<&'static str> {
        let all = descriptions().iter().flat_map(|description| description.written.keys());
        let mut all: Vec<&str> = all.map(String::as_str).collect();
        all.sort_unstable();
        all
    }

    /// What files call the family.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// Whole numbers that files of the family say, and keys of config.json that can have them.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, &'static [String])> {
        self.description.counts.iter().map(|(key, from)| (key.as_str(), from.as_slice()))
    }

    /// Other numbers that they say.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static str, &'static [String])> {
        self.description.numbers.iter().map(|(key, from)| (key.as_str(), from.as_slice()))
    }

    /// How the family's norms are computed.
    pub fn norm(&self) -> Norm {
        self.description.norm
    }

    /// How it knows positions.
    pub fn positions(&self) -> Positions {
        self.description.positions
    }

    /// Whether a tensor is one that programs compute, so that files do not have it.
    pub fn is_computed(&self, name: &str) -> bool {
        let (pattern, _) = self.pattern(name);
        self.description.not_written.contains(&pattern)
    }

    /// A name with letters for its numbers, as descriptions have it, and the numbers.
    fn pattern<'n>(&self, name: &'n str) -> (String, Vec<&'n str>) {
        let is_number =
            |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let numbers: Vec<&str> = name.split('.').filter(is_number).collect();
        let mut letters = ["{i}", "{e}"].into_iter();
        let pattern: Vec<&str> = name
            .split('.')
            .map(|part| if is_number(&part) { letters.next().unwrap_or(part) } else { part })
            .collect();
        let prefix = &self.description.prefix;
        let pattern = pattern.join(".");
        let described = format!("{prefix}{pattern}");
        let is_known = |pattern: &String| {
            let mut known = self.description.tensors.values();
            known.any(|one| one.name.as_ref() == Some(pattern))
                || self.description.not_written.contains(pattern)
        };
        let lacks_prefix = !prefix.is_empty() && !is_known(&pattern) && is_known(&described);
        (if lacks_prefix { described } else { pattern }, numbers)
    }

    /// Where a tensor goes; none where files have no such tensor.
    pub fn place(&self, name: &str) -> Option<GgufPlace> {
        let (pattern, numbers) = self.pattern(name);
        let (stored, one) = self
            .description
            .tensors
            .iter()
            .find(|(_, one)| one.name.as_deref() == Some(pattern.as_str()))?;
        Some(GgufPlace {
            name: stored.replace("{i}", numbers.first().copied().unwrap_or_default()),
            woven: one.woven.as_deref(),
            added: one.added,
            expert: numbers.get(1).filter(|_| one.experts).and_then(|number| number.parse().ok()),
            is_row: one.row,
            is_turned: one.turned,
        })
    }
}

macro_rules! file_types {
    ($($name:ident = $number:literal, $word:literal, $kind:ident;)*) => {
        /// What GGUF files are called by: the type of most of their tensors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "they are named as llama.cpp names them")]
        pub enum GgufFileType { $($name,)* }

        impl GgufFileType {
            /// That of a word.
            pub fn of(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$name),)* _ => None }
            }

            /// All words.
            pub fn words() -> &'static [&'static str] {
                &[$($word),*]
            }

            /// Its number in files.
            pub fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }

            /// The type of most tensors.
            fn usual(self) -> GgufType {
                match self { $(Self::$name => GgufType::$kind,)* }
            }
        }
    };
}

file_types! {
    F32 = 0, "f32", F32;
    F16 = 1, "f16", F16;
    Q4_0 = 2, "q4_0", Q4_0;
    Q4_1 = 3, "q4_1", Q4_1;
    Q8_0 = 7, "q8_0", Q8_0;
    Q5_0 = 8, "q5_0", Q5_0;
    Q5_1 = 9, "q5_1", Q5_1;
    Q4Ks = 14, "q4_k_s", Q4K;
    Q4Km = 15, "q4_k_m", Q4K;
    Q5Ks = 16, "q5_k_s", Q5K;
    Q5Km = 17, "q5_k_m", Q5K;
    Q6K = 18, "q6_k", Q6K;
    Bf16 = 32, "bf16", Bf16;
    Mxfp4 = 38, "mxfp4", Mxfp4;
}

impl GgufFileType {
    /// The type of a tensor of this name in the file, as llama.cpp mixes them: more bits where errors count
    /// for most, and f32 for what is no matrix.
    pub fn of_tensor(self, name: &str, shape: &Shape, layers: u64, is_tied: bool) -> GgufType {
        let &[.., columns] = shape.dimensions() else { return GgufType::F32 };
        let is_small = name.contains("ffn_gate_inp") || name == "position_embd.weight";
        if shape.dimensions().len() < 2 || is_small {
            return GgufType::F32;
        }
        let usual = self.usual();
        let is_output = name == "output.weight" || (is_tied && name == "token_embd.weight");
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let is_mixed = matches!(self, Self::Q4Km | Self::Q5Km);
        let is_careful = name.ends_with("attn_v.weight") || name.contains(".ffn_down");
        let wanted = match usual {
            GgufType::F32 | GgufType::F16 | GgufType::Bf16 | GgufType::Q8_0 => usual,
            GgufType::Mxfp4 if is_output || name == "token_embd.weight" => GgufType::Q8_0,
            _ if is_output => GgufType::Q6K,
            // Queries, keys and values in one.
            GgufType::Q4K if is_mixed && name.ends_with("attn_qkv.weight") => GgufType::Q5K,
            GgufType::Q5K if is_mixed && name.ends_with("attn_qkv.weight") => GgufType::Q6K,
            _ if is_mixed
                && is_careful
                && layer.is_some_and(|layer| has_more_bits(layer, layers)) =>
            {
                GgufType::Q6K
            }
            _ => usual,
        };
        let narrower = match wanted {
            GgufType::Q4K => GgufType::Q5_0,
            GgufType::Q5K => GgufType::Q5_1,
            GgufType::Q6K => GgufType::Q8_0,
            other => other,
        };
        let fits = |kind: GgufType| columns.is_multiple_of(kind.block().0);
        [wanted, narrower].into_iter().find(|kind| fits(*kind)).unwrap_or(GgufType::F16)
    }
}

/// The first and the last eighth of the layers, and every third between.
fn has_more_bits(layer: u64, layers: u64) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}
