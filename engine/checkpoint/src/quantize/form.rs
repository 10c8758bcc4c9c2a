//! The forms that weights can be written in, and the words for them.

use std::fmt;

use mixdown_diagnostics::suggest::nearest;

use super::gguf::GgufType;

/// How a weight is written in fewer bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// compressed-tensors: codes of 8 bits, or packed whole numbers, beside scales.
    Scaled(Scaled),
    /// E4M3 beside a factor for each block, as DeepSeek's checkpoints and transformers' `fp8` have them.
    BlockFp8 {
        /// Rows of a block.
        rows: u64,
        /// Columns of a block.
        columns: u64,
    },
    /// compressed-tensors: E2M1 beside a power of two for each 32.
    Mxfp4,
    /// compressed-tensors: E2M1 beside an E4M3 for each 16, and one factor for the tensor.
    Nvfp4,
    /// A tensor of a GGUF file, of this type.
    Gguf(GgufType),
    /// bitsandbytes: 16 values of a normal distribution beside a magnitude for each 64.
    Nf4,
    /// bitsandbytes: whole numbers of 8 bits beside the largest magnitude of their row.
    LlmInt8,
    /// MLX: whole numbers beside a scale and a bias for each group.
    Mlx {
        /// Bits of a code.
        bits: u8,
        /// Columns of a group.
        group: u64,
    },
}

/// Codes with scales for parts of the matrix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scaled {
    /// What the codes are.
    pub code: Code,
    /// What shares a scale.
    pub spread: Spread,
    /// Whether zero is the code in the middle; else there are zero points.
    pub symmetric: bool,
    /// How scales are chosen.
    pub fit: Fit,
}

/// What codes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// 8-bit floats of 4 exponent bits.
    E4M3,
    /// Whole numbers of 8 bits, one in each byte.
    I8,
    /// Whole numbers of so many bits, in one stream for each row.
    Packed(u8),
}

impl Code {
    /// Bits of a code.
    pub(super) fn bits(self) -> u64 {
        match self {
            Self::E4M3 | Self::I8 => 8,
            Self::Packed(bits) => bits.into(),
        }
    }
}

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spread {
    /// The tensor.
    Tensor,
    /// A row.
    Channel,
    /// So many columns of a row.
    Group(u64),
    /// So many rows and columns.
    Block(u64, u64),
}

/// How the scale of a group of whole numbers is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fit {
    /// From the largest magnitude, or from both ends.
    Absmax,
    /// For the least squared error among those that a search tries.
    LeastSquares,
}

/// What a message tells the user to write: keys of a recipe, or flags of a command that stands for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Words {
    /// `group: 64`.
    #[default]
    Recipe,
    /// `--group 64`.
    Flags,
}

impl Words {
    /// A setting by its name.
    pub fn key(self, key: &str) -> String {
        match (self, key) {
            (Self::Recipe, _) => format!("`{key}`"),
            (Self::Flags, "symmetric") => "`--asymmetric`".to_owned(),
            (Self::Flags, _) => format!("`--{key}`"),
        }
    }

    /// A setting with a value.
    pub fn set(self, key: &str, value: impl fmt::Display) -> String {
        match self {
            Self::Recipe => format!("`{key}: {value}`"),
            Self::Flags => format!("`--{key} {value}`"),
        }
    }

    /// How a tensor is left as it is.
    pub fn leave(self) -> &'static str {
        match self {
            Self::Recipe => "leave the tensor as it is with a rule `to: none`",
            Self::Flags => {
                "write a recipe with `output: {quantize: …}`, whose rules can leave the tensor as it is"
            }
        }
    }
}

/// What is said of a form beside its word. What is left out follows from the word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How messages speak of all that.
    pub words: Words,
    /// The library whose files it is like.
    pub library: Option<String>,
    /// What shares a scale: `tensor`, `channel`, `group` or `block`.
    pub scales: Option<String>,
    /// Columns of a group.
    pub group: Option<u64>,
    /// Whether there are no zero points.
    pub symmetric: Option<bool>,
    /// `absmax` or `least_squares`.
    pub fit: Option<String>,
}

/// What is wrong with a word or a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormFault {
    /// The key that it is about: `to` for the word itself.
    pub key: &'static str,
    /// What is wrong.
    pub headline: String,
    /// What would be right.
    pub help: String,
}

/// The libraries whose files can be written.
const LIBRARIES: [&str; 4] = ["compressed-tensors", "block-fp8", "bitsandbytes", "mlx"];

/// Words of forms.
const WORDS: [&str; 11] =
    ["fp8", "int8", "int7", "int6", "int5", "int4", "int3", "int2", "mxfp4", "nvfp4", "nf4"];

impl Form {
    /// Whether scales are those of the least squared error, which its words do not say.
    pub fn fits_least_squares(&self) -> bool {
        matches!(self, Self::Scaled(Scaled { fit: Fit::LeastSquares, .. }))
    }

    /// The words of all forms.
    pub fn words() -> &'static [&'static str] {
        &WORDS
    }

    /// The form of a word with its settings.
    ///
    /// **Errors.** A word or setting that is not known, or that does not go with the others.
    pub fn new(word: &str, settings: &Settings) -> Result<Self, FormFault> {
        if !WORDS.contains(&word) {
            return Err(unknown("to", "form", word, &WORDS));
        }
        let usual = if word == "nf4" { "bitsandbytes" } else { LIBRARIES[0] };
        let library = settings.library.as_deref().unwrap_or(usual);
        let bits = word.strip_prefix("int").and_then(|bits| bits.parse::<u8>().ok());
        match (library, word) {
            ("bitsandbytes", "nf4") => {
                settings.only(word, word, &["as"])?;
                Ok(Self::Nf4)
            }
            ("bitsandbytes", "int8") => {
                settings.only(word, "bitsandbytes", &["as"])?;
                Ok(Self::LlmInt8)
            }
            ("mlx", _) if bits.is_some_and(|bits| bits != 7) => settings.mlx(word, bits.unwrap_or(4)),
            ("compressed-tensors", _) if word != "nf4" => Self::compressed(word, settings),
            ("block-fp8", "fp8") => {
                settings.only(word, "block-fp8", &["as", "scales"])?;
                settings.scales(&["block"])?;
                Ok(Self::BlockFp8 { rows: BLOCK, columns: BLOCK })
            }
            (known, _) if LIBRARIES.contains(&known) => Err(FormFault {
                key: "as",
                headline: format!("`{known}` has no `{word}`"),
                help: "`block-fp8` has `fp8`, `bitsandbytes` has `nf4` and `int8`, `mlx` has whole numbers of 2 to 6 and of 8 bits, and `compressed-tensors` has all but `nf4`".to_owned(),
            }),
            (other, _) => Err(unknown("as", "library", other, &LIBRARIES)),
        }
    }

    fn compressed(word: &str, settings: &Settings) -> Result<Self, FormFault> {
        let fit = settings.fit()?;
        let scaled =
            |code, spread, symmetric| Self::Scaled(Scaled { code, spread, symmetric, fit });
        let bits = word.strip_prefix("int").and_then(|bits| bits.parse().ok());
        match (word, bits) {
            ("fp8", _) => {
                settings.only(word, "fp8", &["as", "scales"])?;
                let spread = match settings.scales(&["channel", "tensor", "block"])? {
                    "tensor" => Spread::Tensor,
                    "block" => Spread::Block(BLOCK, BLOCK),
                    _ => Spread::Channel,
                };
                Ok(scaled(Code::E4M3, spread, true))
            }
            (_, Some(bits)) => {
                let symmetric = settings.symmetric.unwrap_or(true);
                // Groups are of whole numbers that are packed; those of 8 bits for a row lie in bytes.
                let usual: &[&str] = match (bits, settings.group) {
                    (_, Some(_)) => &["group"],
                    (8, None) => &["channel", "tensor", "group"],
                    _ => &["group", "channel"],
                };
                let spread = match settings.scales(usual)? {
                    "tensor" => Spread::Tensor,
                    "channel" => Spread::Channel,
                    _ => Spread::Group(settings.group_size()?),
                };
                let code = match (bits, spread) {
                    (8, Spread::Channel | Spread::Tensor) => Code::I8,
                    _ => Code::Packed(bits),
                };
                if !symmetric && spread == Spread::Tensor {
                    return Err(FormFault {
                        key: "symmetric",
                        headline: "one zero point for a whole tensor is not written".to_owned(),
                        help: format!(
                            "choose {}, or leave {} out",
                            settings.words.set("scales", "channel"),
                            settings.words.key("symmetric")
                        ),
                    });
                }
                Ok(scaled(code, spread, symmetric))
            }
            _ => {
                settings.only(word, word, &["as"])?;
                Ok(if word == "nvfp4" { Self::Nvfp4 } else { Self::Mxfp4 })
            }
        }
    }

    /// The library whose files it is like: a folder has the forms of one.
    pub fn library(&self) -> &'static str {
        match self {
            Self::Scaled(_) | Self::Mxfp4 | Self::Nvfp4 => "compressed-tensors",
            Self::BlockFp8 { .. } => "block-fp8",
            Self::Nf4 | Self::LlmInt8 => "bitsandbytes",
            Self::Gguf(_) => "gguf",
            Self::Mlx { .. } => "mlx",
        }
    }
}

/// Rows and columns of the blocks of fp8.
const BLOCK: u64 = 128;

/// Columns of a group where none are said.
const GROUP: u64 = 128;

impl Settings {
    /// Refuses settings that a form does not have.
    fn only(&self, word: &str, form: &str, known: &[&str]) -> Result<(), FormFault> {
        let given = [
            ("scales", self.scales.is_some()),
            ("group", self.group.is_some()),
            ("symmetric", self.symmetric.is_some()),
            ("fit", self.fit.is_some()),
        ];
        match given.into_iter().find(|(key, is_given)| *is_given && !known.contains(key)) {
            None => Ok(()),
            Some((key, _)) => Err(FormFault {
                key,
                headline: format!("{} has no meaning for `{word}`", self.words.key(key)),
                help: match key {
                    "scales" | "group" => {
                        format!("the groups of `{form}` are what its definition says; leave it out")
                    }
                    _ => "leave it out".to_owned(),
                },
            }),
        }
    }

    /// MLX's form of so many bits.
    fn mlx(&self, word: &str, bits: u8) -> Result<Form, FormFault> {
        self.only(word, "mlx", &["as", "group"])?;
        let group = self.group.unwrap_or(64);
        match [32, 64, 128].contains(&group) {
            true => Ok(Form::Mlx { bits, group }),
            false => Err(FormFault {
                key: "group",
                headline: format!("`mlx` has no groups of {group}"),
                help: "32, 64 or 128".to_owned(),
            }),
        }
    }

    /// What shares a scale: the first of these where nothing is said.
    fn scales(&self, known: &[&'static str]) -> Result<&'static str, FormFault> {
        let Some(said) = &self.scales else { return Ok(known[0]) };
        let found = known.iter().find(|word| **word == said.as_str());
        found.copied().ok_or_else(|| unknown("scales", "spread of scales", said, known))
    }

    fn group_size(&self) -> Result<u64, FormFault> {
        let group = self.group.unwrap_or(GROUP);
        if group >= 8 && group.is_multiple_of(8) && group <= 1 << 16 {
            return Ok(group);
        }
        Err(FormFault {
            key: "group",
            headline: format!("a group cannot have {group} columns"),
            help: "a multiple of 8; 32, 64 and 128 are common".to_owned(),
        })
    }

    fn fit(&self) -> Result<Fit, FormFault> {
        match self.fit.as_deref() {
            None | Some("absmax") => Ok(Fit::Absmax),
            Some("least_squares") => Ok(Fit::LeastSquares),
            Some(other) => {
                Err(unknown("fit", "way to choose scales", other, &["absmax", "least_squares"]))
            }
        }
    }
}

fn unknown(key: &'static str, what: &str, word: &str, known: &[&str]) -> FormFault {
    let list: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
    let help = match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("one of {}", list.join(", ")),
    };
    FormFault { key, headline: format!("`{word}` is no {what} here"), help }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockFp8 { rows, columns } => write!(f, "fp8 e4m3, blocks of {rows} x {columns}"),
            Self::Mxfp4 => f.write_str("mxfp4, groups of 32"),
            Self::Nvfp4 => f.write_str("nvfp4, groups of 16"),
            Self::Gguf(kind) => write!(f, "GGUF {}", kind.name()),
            Self::Nf4 => f.write_str("nf4, blocks of 64"),
            Self::LlmInt8 => f.write_str("int8 of bitsandbytes, a scale for each row"),
            Self::Mlx { bits, group } => write!(f, "mlx affine, {bits} bits, groups of {group}"),
            Self::Scaled(Scaled { code, spread, symmetric, .. }) => {
                match code {
                    Code::E4M3 => f.write_str("fp8 e4m3")?,
                    Code::I8 => f.write_str("int8")?,
                    Code::Packed(bits) => write!(f, "int{bits}")?,
                }
                if !symmetric {
                    f.write_str(" with zero points")?;
                }
                match spread {
                    Spread::Tensor => f.write_str(", one scale"),
                    Spread::Channel => f.write_str(", a scale for each row"),
                    Spread::Group(group) => write!(f, ", groups of {group}"),
                    Spread::Block(rows, columns) => write!(f, ", blocks of {rows} x {columns}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(word: &str, settings: Settings) -> (&'static str, String) {
        let fault = Form::new(word, &settings).unwrap_err();
        (fault.key, fault.help)
    }

    #[test]
    fn words_and_settings_that_do_not_go_together_are_refused() {
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(fault("fp9", Settings::default()), ("to", "did you mean `fp8`?".to_owned()));
        let library = |name: &str| Settings { library: said(name), ..Settings::default() };
        assert_eq!(fault("int4", library("block-fp8")).0, "as");
        assert_eq!(
            fault("int4", library("compressed_tensors")).1,
            "did you mean `compressed-tensors`?"
        );
        let scales = |name: &str| Settings { scales: said(name), ..Settings::default() };
        assert_eq!(fault("fp8", scales("chanel")).1, "did you mean `channel`?");
        assert_eq!(fault("mxfp4", scales("channel")).0, "scales");
        assert_eq!(fault("int4", Settings { group: Some(12), ..Settings::default() }).0, "group");
        assert_eq!(fault("fp8", Settings { group: Some(64), ..Settings::default() }).0, "group");
        assert_eq!(fault("int4", Settings { fit: said("best"), ..Settings::default() }).0, "fit");
    }

    #[test]
    fn what_is_left_out_follows_from_the_word() {
        let shown = |word: &str| Form::new(word, &Settings::default()).unwrap().to_string();
        assert_eq!(shown("fp8"), "fp8 e4m3, a scale for each row");
        assert_eq!(shown("int8"), "int8, a scale for each row");
        assert_eq!(shown("int4"), "int4, groups of 128");
    }
}
