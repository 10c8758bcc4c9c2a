//! From GGUF's names and layouts to those of a model's family: `schemas/gguf` has a file for each group
//! of families that share them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::{DType, Shape};
use serde::Deserialize;

use crate::encoding::values::Number;
use crate::encoding::{Codec, Encoding, Held, Reader};
use crate::index::TensorEntry;
use crate::shown::{shown, some_of};
use crate::source::ReadError;

/// The descriptions that are built in.
const TEXTS: [&str; 10] = [
    include_str!("../../../../../schemas/gguf/command_r.json"),
    include_str!("../../../../../schemas/gguf/gemma.json"),
    include_str!("../../../../../schemas/gguf/gemma2.json"),
    include_str!("../../../../../schemas/gguf/gpt2.json"),
    include_str!("../../../../../schemas/gguf/llama.json"),
    include_str!("../../../../../schemas/gguf/olmo2.json"),
    include_str!("../../../../../schemas/gguf/phi3.json"),
    include_str!("../../../../../schemas/gguf/qwen.json"),
    include_str!("../../../../../schemas/gguf/qwen_moe.json"),
    include_str!("../../../../../schemas/gguf/starcoder2.json"),
];

/// Families that share names and layouts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    /// `general.architecture` of their files.
    architectures: Vec<String>,
    /// By GGUF's name, with `{i}` for a layer.
    pub(crate) tensors: HashMap<String, Restoration>,
    /// `general.architecture` by the `model_type` of config.json, for families that are written, too.
    #[serde(default)]
    pub(crate) written: BTreeMap<String, String>,
    /// Whole numbers that files say beside what all families do, by GGUF's key without the family: the keys of
    /// config.json that can have them.
    #[serde(default)]
    pub(crate) counts: BTreeMap<String, Vec<String>>,
    /// The same of other numbers.
    #[serde(default)]
    pub(crate) numbers: BTreeMap<String, Vec<String>>,
    /// What the names of some checkpoints lack at their beginning.
    #[serde(default)]
    pub(crate) prefix: String,
    /// Names of tensors that checkpoints may hold and files do not, because programs compute them.
    #[serde(default)]
    pub(crate) not_written: Vec<String>,
    #[serde(default)]
    pub(crate) norm: Norm,
    #[serde(default)]
    pub(crate) positions: Positions,
}

/// How a family's norms are computed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// Over the root of the mean square.
    #[default]
    Rms,
    /// With the mean taken away first.
    Layer,
}

/// How a family knows positions.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// By turning queries and keys.
    #[default]
    Rotary,
    /// By an embedding that was learned.
    Learned,
}

/// What becomes of a tensor.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Restoration {
    /// Its name in the family, with `{i}` for a layer and `{e}` for an expert; none where the family has
    /// no such tensor.
    pub(crate) name: Option<String>,
    /// Key of the count of heads whose rows are woven: the two halves of a head alternate.
    pub(crate) woven: Option<String>,
    /// What was added to all values.
    #[serde(default)]
    pub(crate) added: f32,
    /// Whether the outermost axis is of experts, of which each is a tensor of its own.
    #[serde(default)]
    pub(crate) experts: bool,
    /// Whether files have the only row of a matrix without its axis of one.
    #[serde(default)]
    pub(crate) row: bool,
    /// Whether files have the matrix with rows and columns exchanged.
    #[serde(default)]
    pub(crate) turned: bool,
}

static DESCRIPTIONS: LazyLock<Vec<Description>> = LazyLock::new(|| {
    let read = |text: &&str| serde_json::from_str(text).expect("a description that is built in");
    TEXTS.iter().map(read).collect()
});

/// All descriptions.
pub(crate) fn descriptions() -> &'static [Description] {
    &DESCRIPTIONS
}

/// The tensors of a GGUF file as the model's family has them, with what the user should know.
///
/// **Errors.** A family that nothing is known of, and tensors whose layout cannot be undone.
pub(crate) fn restored(
    tensors: Vec<TensorEntry>,
    metadata: &BTreeMap<String, String>,
    name: &str,
) -> Result<(Vec<TensorEntry>, Vec<Diagnostic>), Vec<Diagnostic>> {
    let architecture = metadata.get("general.architecture").map_or("", String::as_str);
    let known = || DESCRIPTIONS.iter().flat_map(|one| &one.architectures).map(String::as_str);
    let description =
        DESCRIPTIONS.iter().find(|one| one.architectures.iter().any(|a| a == architecture));
    let Some(description) = description else {
        let headline =
            format!("the GGUF family `{}` is not known by its names", shown(architecture));
        let mut all: Vec<&str> = known().collect();
        all.sort_unstable();
        return Err(vec![
            Diagnostic::error(codes::GGUF_FAMILY, headline)
                .in_file(name)
                .fact("known", all.join(", "))
                .help("convert the model to safetensors first"),
        ]);
    };
    let (mut made, mut faults) = (Vec::new(), Vec::new());
    let (mut unknown, mut left_out) = (Vec::new(), Vec::new());
    let (tensors, of_activations) = multiplied(tensors);
    left_out.extend(of_activations);
    for tensor in tensors {
        let (pattern, layer) = pattern_of(&tensor.name);
        match description.tensors.get(&pattern) {
            // Of NVFP4 that is not there, or of another count. Merged as a weight it would be lost.
            None if tensor.name.ends_with(".scale") => faults.push(
                Diagnostic::error(
                    codes::PACKED,
                    format!(
                        "`{}` is a factor of packed weights, and goes with none",
                        shown(&tensor.name)
                    ),
                )
                .in_file(name)
                .help("use a file of this model in another type, such as Q8_0, Q4_K or BF16"),
            ),
            None => {
                unknown.push(tensor.name.clone());
                made.push(tensor);
            }
            Some(Restoration { name: None, .. }) => left_out.push(tensor.name),
            Some(one) => match one.apply(&tensor, layer, (architecture, metadata)) {
                Ok(entries) => made.extend(entries),
                Err(what) => faults.push(
                    Diagnostic::error(
                        codes::PACKED_BROKEN,
                        format!("`{}` {what}", shown(&tensor.name)),
                    )
                    .in_file(name)
                    .fact("shape", tensor.shape.to_string())
                    .help("convert the model again"),
                ),
            },
        }
    }
    if !faults.is_empty() {
        faults.truncate(20);
        return Err(faults);
    }
    let told = |names: &[String], headline: &str| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let warning = Diagnostic::warning(codes::GGUF_NAMES, headline).in_file(name);
        (!names.is_empty()).then(|| warning.fact("tensors", some_of(&names)))
    };
    let warnings = [
        told(
            &unknown,
            "tensors have names that this GGUF family is not known to have; they keep them",
        ),
        told(&left_out, "tensors that the family computes from its configuration are left out"),
    ];
    Ok((made, warnings.into_iter().flatten().collect()))
}

/// NVFP4 has a factor for each tensor, or each matrix of a stack, beside its blocks: tensors with those
/// multiplied in, and the names of scales of what flows through the model.
fn multiplied(tensors: Vec<TensorEntry>) -> (Vec<TensorEntry>, Vec<String>) {
    let is_packed = |tensor: &TensorEntry| {
        tensor.encoding.as_ref().is_some_and(|own| own.scheme.ends_with("NVFP4"))
    };
    let packed: HashMap<String, u64> = tensors
        .iter()
        .filter(|tensor| is_packed(tensor))
        .filter_map(|tensor| {
            let matrices = match tensor.shape.dimensions() {
                [matrices, _, _] => *matrices,
                _ => 1,
            };
            Some((tensor.name.strip_suffix(".weight")?.to_owned(), matrices))
        })
        .collect();
    let (mut factors, mut others, mut beside) = (HashMap::new(), Vec::new(), Vec::new());
    for tensor in tensors {
        let of_weight = |end: &str| tensor.name.strip_suffix(end).and_then(|one| packed.get(one));
        let count = tensor.shape.elements();
        if of_weight(".input_scale").is_some() {
            beside.push(tensor.name);
            continue;
        }
        let is_factor = tensor.dtype == DType::F32
            && count > 0
            && of_weight(".scale").is_some_and(|matrices| [1, *matrices].contains(&count));
        match tensor.name.strip_suffix(".scale").filter(|_| is_factor) {
            Some(module) => drop(factors.insert(format!("{module}.weight"), tensor)),
            None => others.push(tensor),
        }
    }
    let multiply = |tensor: TensorEntry| {
        let (Some(own), Some(factor)) = (&tensor.encoding, factors.get(&tensor.name)) else {
            return tensor;
        };
        let codec = Times {
            inner: own.codec.clone(),
            part: own.parts.len(),
            each: (tensor.shape.elements() / factor.shape.elements()).max(1),
        };
        let mut encoding = Encoding::clone(own);
        encoding.parts.push(factor.clone());
        encoding.codec = Arc::new(codec);
        TensorEntry { encoding: Some(Arc::new(encoding)), ..tensor }
    };
    (others.into_iter().map(multiply).collect(), beside)
}

/// Values with a factor for each so many of them.
#[derive(Debug)]
struct Times {
    inner: Arc<dyn Codec>,
    part: usize,
    each: u64,
}

impl Codec for Times {
    fn decode(&self, reader: &Reader<'_>, first: u64, out: &mut [f32]) -> Result<(), ReadError> {
        self.inner.decode(reader, first, out)?;
        let (mut at, mut rest) = (first, out);
        while !rest.is_empty() {
            let count = (self.each - at % self.each).min(rest.len() as u64);
            let (part, others) = rest.split_at_mut(count as usize);
            let mut factor = [0.0];
            reader.floats(self.part, at / self.each, &mut factor)?;
            let [factor] = factor;
            if !factor.is_finite() || factor <= 0.0 {
                return Err(reader.wrong_value(self.part, &format!("is {factor}")));
            }
            part.iter_mut().for_each(|value| *value *= factor);
            (at, rest) = (at + count, others);
        }
        Ok(())
    }
}

/// A name with `{i}` for its layer, and the layer.
fn pattern_of(name: &str) -> (String, &str) {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match layer.filter(|(layer, _)| !layer.is_empty() && layer.bytes().all(|b| b.is_ascii_digit()))
    {
        Some((layer, rest)) => (format!("blk.{{i}}.{rest}"), layer),
        None => (name.to_owned(), ""),
    }
}

impl Restoration {
    fn apply(
        &self,
        tensor: &TensorEntry,
        layer: &str,
        (architecture, metadata): (&str, &BTreeMap<String, String>),
    ) -> Result<Vec<TensorEntry>, String> {
        let name = self.name.as_deref().unwrap_or_default().replace("{i}", layer);
        let sizes = tensor.shape.dimensions();
        if self.experts {
            let [experts, rest @ ..] = sizes else {
                return Err("is no stack of experts".to_owned());
            };
            if rest.len() != 2 || *experts > 1 << 16 {
                return Err("is no stack of experts".to_owned());
            }
            let shape = Shape::new(rest.to_vec()).map_err(|_| "is too large".to_owned())?;
            let each = |expert: u64| {
                let part = Part { first: expert * shape.elements(), ..Part::default() };
                let name = name.replace("{e}", &expert.to_string());
                decoded(tensor, name, shape.clone(), part)
            };
            return (0..*experts).map(each).collect();
        }
        if self.row {
            let &[columns] = sizes else { return Err("is no single row".to_owned()) };
            let shape = Shape::new(vec![1, columns]).map_err(|_| "is too large".to_owned())?;
            return Ok(vec![TensorEntry { name, shape, ..tensor.clone() }]);
        }
        if self.turned {
            let &[outputs, inputs] = sizes else { return Err("is no matrix".to_owned()) };
            let shape = Shape::new(vec![inputs, outputs]).map_err(|_| "is too large".to_owned())?;
            let part = Part { turned: Some([outputs, inputs]), ..Part::default() };
            return decoded(tensor, name, shape, part).map(|entry| vec![entry]);
        }
        let mut part = Part { added: self.added, ..Part::default() };
        if let Some(key) = &self.woven {
            let key = format!("{architecture}.{key}");
            let whole = format!("{architecture}.attention.head_count");
            let heads = metadata.get(&key).or_else(|| metadata.get(&whole));
            let heads = heads.and_then(|text| text.parse::<u64>().ok()).filter(|&heads| heads > 0);
            let rows = sizes.first().copied().unwrap_or(0);
            let Some(heads) =
                heads.filter(|&heads| heads <= rows && rows.is_multiple_of(2 * heads))
            else {
                return Err(format!("has rows that `{key}` does not divide into halves of heads"));
            };
            part.woven = Some((rows / heads, sizes[1..].iter().product()));
        }
        match (&part, &tensor.encoding) {
            (part, None) if *part == Part::default() => {
                Ok(vec![TensorEntry { name, ..tensor.clone() }])
            }
            _ => decoded(tensor, name, tensor.shape.clone(), part).map(|entry| vec![entry]),
        }
    }
}

/// An entry that reads as a part of a stored tensor, with its layout undone.
fn decoded(
    tensor: &TensorEntry,
    name: String,
    shape: Shape,
    part: Part,
) -> Result<TensorEntry, String> {
    let (inner, parts, scheme, dtype): (Arc<dyn Codec>, _, _, _) = match &tensor.encoding {
        Some(own) => (own.codec.clone(), own.parts.clone(), own.scheme.clone(), DType::Bf16),
        None => {
            let number = match tensor.dtype {
                DType::F32 | DType::F16 | DType::Bf16 => Number::of_scale(tensor.dtype),
                _ => None,
            };
            let Some(number) = number else {
                return Err(format!("is of {}, whose layout is not undone", tensor.dtype));
            };
            let scheme = format!("GGUF {}", tensor.dtype);
            (Arc::new(Plain(number)), vec![tensor.clone()], scheme.into(), tensor.dtype)
        }
    };
    let codec = Arc::new(Restored { inner, part });
    let encoding = Some(Arc::new(Encoding { scheme, model_dtype: dtype, parts, codec }));
    let (shard, offset) = (tensor.shard, tensor.offset);
    Ok(TensorEntry { name, dtype: DType::F32, shape, shard, offset, encoding })
}

/// Which part of a stored tensor, and what was done to it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Part {
    /// Elements before it.
    first: u64,
    added: f32,
    /// Rows of a head whose two halves alternate, and the length of a row.
    woven: Option<(u64, u64)>,
    /// Rows and columns of a stored matrix that are exchanged.
    turned: Option<[u64; 2]>,
}

#[derive(Debug)]
struct Restored {
    inner: Arc<dyn Codec>,
    part: Part,
}

impl Codec for Restored {
    /// A row of a turned matrix is in all rows as they are stored, so that all of it is made at once.
    fn held_bytes(&self) -> u64 {
        self.part.turned.map_or(0, |[rows, columns]| rows.saturating_mul(columns).saturating_mul(4))
    }

    fn decode(&self, reader: &Reader<'_>, first: u64, out: &mut [f32]) -> Result<(), ReadError> {
        if let Some(sizes) = self.part.turned {
            let held = reader.held(&|| self.turned(reader, sizes))?;
            let first = first as usize;
            out.copy_from_slice(&held.numbers[0][first..first + out.len()]);
            return Ok(());
        }
        match self.part.woven {
            None => self.inner.decode(reader, self.part.first + first, out)?,
            Some((head, columns)) => {
                let (mut at, mut rest) = (first, &mut *out);
                while !rest.is_empty() {
                    let (row, column) = (at / columns, at % columns);
                    let count = (columns - column).min(rest.len() as u64);
                    let (part, others) = rest.split_at_mut(count as usize);
                    let within = row % head;
                    let stored = row - within + within % (head / 2) * 2 + within / (head / 2);
                    self.inner.decode(reader, stored * columns + column, part)?;
                    (at, rest) = (at + count, others);
                }
            }
        }
        if self.part.added != 0.0 {
            out.iter_mut().for_each(|value| *value -= self.part.added);
        }
        Ok(())
    }
}

impl Restored {
    /// All values of a matrix that is stored in this size, with rows and columns exchanged.
    fn turned(&self, reader: &Reader<'_>, [rows, columns]: [u64; 2]) -> Result<Held, ReadError> {
        let (rows, columns) = (rows as usize, columns as usize);
        let (mut all, mut row) = (vec![0.0; rows * columns], vec![0.0; columns]);
        for number in 0..rows {
            self.inner.decode(reader, (number * columns) as u64, &mut row)?;
            for (at, value) in row.iter().enumerate() {
                all[at * rows + number] = *value;
            }
        }
        Ok(Held { numbers: vec![all], counts: Vec::new() })
    }
}

/// Numbers as they are.
#[derive(Debug)]
struct Plain(Number);

impl Codec for Plain {
    fn decode(&self, reader: &Reader<'_>, first: u64, out: &mut [f32]) -> Result<(), ReadError> {
        let width = self.0.bytes();
        let mut bytes = vec![0; out.len() * width];
        reader.bytes(0, first * width as u64, &mut bytes)?;
        let mut values = Vec::with_capacity(out.len());
        self.0.read(&bytes, &mut values);
        out.copy_from_slice(&values);
        Ok(())
    }
}
