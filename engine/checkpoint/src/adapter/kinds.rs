//! Kinds of adapters besides LoRA: which tensors each stores for a module, and what these do to the base. One
//! file for each kind, and one line in [`KINDS`].

mod adalora;
mod boft;
mod c3a;
mod fourierft;
mod hra;
mod ia3;
mod loha;
mod lokr;
mod miss;
mod oft;
mod orthogonal;
mod pairs;
mod randlora;
mod shira;
mod tokens;
mod vera;

use std::collections::BTreeMap;

use mixdown_tensor::DType;
use serde_json::{Map, Value};

use super::AdapterConfig;
use super::computed::{Compute, Effect, Made, Part};
use crate::index::{Index, TensorEntry};

/// A kind of adapter.
#[derive(Debug)]
pub(super) struct Kind {
    /// `peft_type` of its configuration.
    pub peft_type: &'static str,
    /// What the names of a module's tensors end with.
    pub tensors: &'static [&'static str],
    /// The names of tensors that all modules share.
    pub shared: &'static [&'static str],
    pub make: Make,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.peft_type == other.peft_type
    }
}

/// What the tensors of a module do: to which tensors of the base, by their positions.
pub(super) type Make = fn(&Module<'_>) -> Result<Vec<(u32, Effect)>, Fault>;

/// All kinds that are read besides LoRA, in the order of their names.
const KINDS: [Kind; 14] = [
    adalora::KIND,
    boft::KIND,
    c3a::KIND,
    fourierft::KIND,
    hra::KIND,
    ia3::KIND,
    Kind { peft_type: "LN_TUNING", tensors: &[], shared: &[], make: |_| Ok(Vec::new()) },
    loha::KIND,
    lokr::KIND,
    miss::KIND,
    oft::KIND,
    randlora::KIND,
    shira::KIND,
    vera::KIND,
];

/// Rows of embeddings that were trained one by one, beside a LoRA or as a kind of their own.
pub(super) const TOKENS: Kind = tokens::KIND;

/// The kind that a configuration names.
pub(super) fn find(peft_type: &str) -> Option<&'static Kind> {
    match peft_type == TOKENS.peft_type {
        true => Some(&TOKENS),
        false => KINDS.iter().find(|kind| kind.peft_type == peft_type),
    }
}

/// All names of kinds, for messages.
pub(super) fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = KINDS.iter().map(|kind| kind.peft_type).collect();
    names.extend(["LORA", TOKENS.peft_type]);
    names.sort_unstable();
    names
}

/// Why an adapter of a kind is not read; none if nothing is known of it.
pub(super) fn reason(peft_type: &str) -> Option<&'static str> {
    Some(match peft_type {
        "PROMPT_TUNING"
        | "PREFIX_TUNING"
        | "P_TUNING"
        | "MULTITASK_PROMPT_TUNING"
        | "CPT"
        | "ADAPTION_PROMPT"
        | "CARTRIDGE" => {
            "it adds to what the model is given and changes none of its weights, so that no checkpoint can hold it"
        }
        "XLORA" | "POLY" => "it chooses among adapters for each input, which no weight can say",
        _ => return None,
    })
}

/// What is wrong with the tensors of a module.
#[derive(Debug)]
pub(super) struct Fault {
    /// With `{}` for the module.
    pub headline: &'static str,
    pub facts: Vec<(String, String)>,
    /// What to do, where it is not what the code says of all.
    pub help: Option<&'static str>,
    pub is_unsupported: bool,
}

impl Fault {
    pub fn new(headline: &'static str) -> Self {
        Self { headline, facts: Vec::new(), is_unsupported: false, help: None }
    }

    /// A form that is not read.
    pub fn unsupported(headline: &'static str) -> Self {
        Self { is_unsupported: true, ..Self::new(headline) }
    }

    pub fn help(self, help: &'static str) -> Self {
        Self { help: Some(help), ..self }
    }

    pub fn fact(mut self, label: &str, text: impl Into<String>) -> Self {
        self.facts.push((label.to_owned(), text.into()));
        self
    }
}

/// The tensors of an adapter for one module, and what they are for.
pub(super) struct Module<'a> {
    /// As the adapter names it.
    pub name: &'a str,
    /// Its weight in the base.
    pub target: &'a TensorEntry,
    pub base_tensor: u32,
    /// Its bias in the base.
    pub bias: Option<u32>,
    /// Positions of the adapter's tensors, by the ends of their names.
    pub tensors: &'a BTreeMap<&'static str, u32>,
    pub shared: &'a BTreeMap<&'static str, u32>,
    pub adapter: &'a Index,
    pub config: &'a AdapterConfig,
    /// Whether the base stores the weight as [in, out].
    pub inputs_first: bool,
}

impl Module<'_> {
    /// A tensor of the adapter, by its position.
    pub fn entry(&self, position: u32) -> &TensorEntry {
        &self.adapter.tensors()[position as usize]
    }

    pub fn get(&self, name: &str) -> Option<u32> {
        self.tensors.get(name).copied()
    }

    /// A tensor without which the others mean nothing, and its dimensions.
    pub fn need(&self, name: &str) -> Result<(u32, &[u64]), Fault> {
        let lacking = || {
            let there: Vec<&str> = self.tensors.keys().copied().collect();
            Fault::new("the change of `{}` lacks one of its tensors")
                .fact("missing", format!("`{name}`"))
                .fact("there", there.join(", "))
        };
        let position = self.get(name).ok_or_else(lacking)?;
        Ok((position, self.dimensions(position)?))
    }

    /// A tensor that all modules share, and its dimensions.
    pub fn shared(&self, name: &str) -> Result<(u32, &[u64]), Fault> {
        let lacking = || {
            Fault::unsupported(
                "`{}` needs projections that the adapter was saved without (`save_projection: true` saves them)",
            )
            .fact("missing", format!("`base_model.{name}`"))
        };
        let position = self.shared.get(name).copied().ok_or_else(lacking)?;
        Ok((position, self.dimensions(position)?))
    }

    /// The dimensions of a tensor of plain floats.
    fn dimensions(&self, position: u32) -> Result<&[u64], Fault> {
        let entry = self.entry(position);
        match is_plain(entry.dtype) {
            true => Ok(entry.shape.dimensions()),
            false => Err(Fault::new("a tensor of `{}` has an element type that is no float")
                .fact(&entry.name, entry.dtype.name())),
        }
    }

    /// A tensor of the adapter that must have this shape.
    pub fn shaped(&self, name: &str, wanted: &[u64]) -> Result<u32, Fault> {
        let (position, found) = self.need(name)?;
        match found == wanted {
            true => Ok(position),
            false => Err(self.misshapen(name, wanted)),
        }
    }

    /// Says that a tensor goes not with the base's.
    pub fn misshapen(&self, name: &str, wanted: &[u64]) -> Fault {
        let found = self.get(name).map(|position| self.entry(position).shape.to_string());
        Fault::new("the change of `{}` does not have the shape that the base's tensor needs")
            .fact(name, found.unwrap_or_default())
            .fact("expected", format!("{wanted:?}"))
            .fact("base", self.target.shape.to_string())
    }

    /// Rows and columns of the base's tensor: its first dimension, and all others.
    pub fn matrix(&self) -> Result<(u64, u64), Fault> {
        match self.target.shape.dimensions() {
            [rows, others @ ..] if !others.is_empty() => Ok((*rows, others.iter().product())),
            _ => Err(Fault::new("the tensor of `{}` is no matrix")
                .fact("base", self.target.shape.to_string())),
        }
    }

    /// Outputs and inputs of the layer.
    pub fn sides(&self) -> Result<(u64, u64), Fault> {
        let (rows, columns) = self.matrix()?;
        Ok(if self.inputs_first { (columns, rows) } else { (rows, columns) })
    }

    /// The layer must be stored as [out, in].
    pub fn outputs_first(&self) -> Result<(), Fault> {
        match self.inputs_first {
            false => Ok(()),
            true => Err(Fault::unsupported(
                "`{}` is stored as [in, out], on which peft cannot merge an adapter of this kind",
            )),
        }
    }

    /// What is computed whole is computed in f32.
    pub fn base_part(&self) -> Result<Part, Fault> {
        match self.target.dtype {
            DType::F64 => Err(Fault::unsupported(
                "`{}` is stored as f64, and what takes its place is computed in f32",
            )),
            _ => Ok(Part::Base(self.base_tensor)),
        }
    }

    /// The effect of what is added to the weight, in its shape.
    pub fn adds(
        &self,
        scheme: impl Into<String>,
        parts: Vec<Part>,
        compute: impl Compute + 'static,
    ) -> Vec<(u32, Effect)> {
        let made = Made::new(scheme, self.target.shape.dimensions(), parts, compute);
        vec![(self.base_tensor, Effect::Delta(made))]
    }

    /// The effect of what takes the place of the weight, in its shape.
    pub fn becomes(
        &self,
        scheme: impl Into<String>,
        parts: Vec<Part>,
        compute: impl Compute + 'static,
    ) -> Vec<(u32, Effect)> {
        let made = Made::new(scheme, self.target.shape.dimensions(), parts, compute);
        vec![(self.base_tensor, Effect::Whole(made))]
    }

    pub fn settings(&self) -> Settings<'_> {
        Settings(&self.config.settings)
    }

    /// α / r, by the names that most kinds have for them.
    pub fn scale(&self, rank: u64, alpha: &str) -> Result<f64, Fault> {
        let settings = self.settings();
        let patterns = &self.config.alpha_pattern;
        let own = self.config.own.get(self.name).map(|own| own.alpha);
        let own = own.or_else(|| {
            patterns.iter().find(|(of, _)| of.matches(self.name)).map(|(_, alpha)| *alpha)
        });
        let alpha = match own {
            Some(alpha) => alpha,
            None => settings.number(alpha)?.unwrap_or(1.0),
        };
        let scale = alpha / rank as f64;
        match scale.is_finite() && scale != 0.0 {
            true => Ok(scale),
            false => Err(Fault::new("the scale of `{}` is not a usable number")
                .fact("scale", scale.to_string())),
        }
    }
}

/// Whether elements are numbers that are widened to f32 one by one.
pub(super) fn is_plain(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::Bf16)
}

/// The keys of an `adapter_config.json` that one kind knows.
#[derive(Clone, Copy)]
pub(super) struct Settings<'a>(&'a Map<String, Value>);

impl<'a> Settings<'a> {
    fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn wrong(key: &str, value: &Value, wanted: &str) -> Fault {
        Fault::new("the configuration says something about `{}` that cannot be followed")
            .fact(key, value.to_string())
            .fact("expected", wanted)
    }

    pub fn number(self, key: &str) -> Result<Option<f64>, Fault> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(Self::wrong(key, value, "a number")),
        }
    }

    pub fn whole(self, key: &str) -> Result<Option<u64>, Fault> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| Self::wrong(key, value, "a whole number"))
    }

    pub fn flag(self, key: &str) -> Result<bool, Fault> {
        let Some(value) = self.get(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| Self::wrong(key, value, "true or false"))
    }

    pub fn text(self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// Texts of a list, or the one text.
    pub fn texts(self, key: &str) -> Vec<&'a str> {
        match self.get(key) {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(text)) => vec![text],
            _ => Vec::new(),
        }
    }

    pub fn value(self, key: &str) -> Option<&'a Value> {
        self.get(key)
    }
}
