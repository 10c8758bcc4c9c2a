//! The expressions of a map over the tensors of its source, each checked on the way.

use mixdown_checkpoint::index::{Index, TensorEntry};
use mixdown_checkpoint::ties;
use mixdown_diagnostics::{Code, codes, suggest};
use mixdown_recipe::architecture::Size;
use mixdown_recipe::map::{
    ArchitectureMap, Attention, Cut, MapExpression, MapExpressionKind, MapSize, NameTemplate,
    Parts, Slicing,
};
use mixdown_tensor::DType;
use serde_json::Value;

use super::gathered::{Gathered, Sum, shown};
use crate::families::knowledge;
use crate::families::tied::tied_flag;
use crate::plan::TensorRef;

/// A checkpoint on one side of a map.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// As messages name it.
    pub name: &'a str,
    /// Its position among the checkpoints of a plan.
    pub model: u32,
    /// Its tensors.
    pub index: &'a Index,
    /// Its config.json.
    pub config: Option<&'a Value>,
}

impl<'a> Side<'a> {
    pub(super) fn reference(&self, position: usize) -> TensorRef {
        TensorRef { model: self.model, tensor: position as u32 }
    }

    /// The entry of one of its tensors.
    pub(super) fn entry(&self, tensor: TensorRef) -> &'a TensorEntry {
        &self.index.tensors()[tensor.tensor as usize]
    }
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub code: Code,
    pub headline: String,
    pub facts: Vec<(String, String)>,
    pub help: Option<String>,
}

impl Fault {
    pub fn new(code: Code, headline: impl Into<String>) -> Self {
        let headline = headline.into();
        Self { code, headline, facts: Vec::new(), help: None }
    }

    pub fn fact(mut self, label: impl Into<String>, text: impl Into<String>) -> Self {
        self.facts.push((label.into(), text.into()));
        self
    }

    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }
}

/// Gives expressions their values.
pub(super) struct Evaluator<'a> {
    pub map: &'a ArchitectureMap,
    /// Numbers that the recipe states.
    pub numbers: &'a [(String, u64)],
    pub target: Side<'a>,
    pub source: Side<'a>,
}

impl Evaluator<'_> {
    /// The value of an expression, where `to` has matched these parts.
    pub fn value(&self, expression: &MapExpression, parts: &Parts<'_>) -> Result<Sum, Fault> {
        let mismatch = |words: String| Fault::new(codes::MAP_SHAPE, words);
        match &expression.kind {
            MapExpressionKind::Tensor(name) => self.tensor(name, parts),
            MapExpressionKind::FirstOf(names) => self.first_of(names, parts),
            MapExpressionKind::Concat(items, axis) => {
                let items = self.values(items, parts)?;
                Sum::concat(&items, *axis).map_err(mismatch)
            }
            MapExpressionKind::Mean(items) => {
                Sum::mean(self.values(items, parts)?).map_err(mismatch)
            }
            MapExpressionKind::Transpose(inner) => {
                self.value(inner, parts)?.transpose().map_err(mismatch)
            }
            MapExpressionKind::Slice(inner, axis, slicing) => {
                self.slice(&self.value(inner, parts)?, *axis, slicing)
            }
            MapExpressionKind::Stack(items) => {
                let items = match &items[..] {
                    [only] => self.counted(only, parts)?,
                    _ => self.values(items, parts)?,
                };
                Sum::stack(&items).map_err(mismatch)
            }
            MapExpressionKind::Ungroup(inner, part) => {
                self.ungroup(&self.value(inner, parts)?, *part)
            }
        }
    }

    fn values(&self, items: &[MapExpression], parts: &Parts<'_>) -> Result<Vec<Sum>, Fault> {
        items.iter().map(|item| self.value(item, parts)).collect()
    }

    /// The tensor of a name that has all its parts.
    pub fn named(&self, name: &str) -> Result<Sum, Fault> {
        let Some(position) = self.find(name) else { return Err(self.missing(name)) };
        let entry = &self.source.index.tensors()[position];
        Ok(Gathered::of(self.source.reference(position), &entry.shape).into())
    }

    /// The position of a tensor of the source; of the embedding that a missing output layer is tied to.
    pub fn find(&self, name: &str) -> Option<usize> {
        let index = self.source.index;
        if let Some(position) = index.position(name) {
            return Some(position);
        }
        let is_tied = self.source.config.and_then(tied_flag) == Some(true);
        let mut embeddings = ties::embeddings_of(name);
        embeddings.find_map(|embedding| index.position(&embedding)).filter(|_| is_tied)
    }

    fn tensor(&self, name: &NameTemplate, parts: &Parts<'_>) -> Result<Sum, Fault> {
        self.named(&name.with(parts))
    }

    fn first_of(&self, names: &[NameTemplate], parts: &Parts<'_>) -> Result<Sum, Fault> {
        let names: Vec<String> = names.iter().map(|name| name.with(parts)).collect();
        match names.iter().find(|name| self.find(name).is_some()) {
            Some(name) => self.named(name),
            None => {
                let list: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                let headline = format!("`{}` has none of {}", self.source.name, list.join(", "));
                Err(Fault::new(codes::MAP_SOURCE, headline))
            }
        }
    }

    fn missing(&self, name: &str) -> Fault {
        let headline = format!("`{}` has no tensor `{name}`", self.source.name);
        let fault = Fault::new(codes::MAP_SOURCE, headline);
        let names = self.source.index.tensors().iter().map(|tensor| tensor.name.as_str());
        match suggest::nearest(name, names) {
            Some(near) => fault.help(format!("did you mean `{near}`?")),
            None => fault.help("`mixdown inspect MODEL --tensors` lists its names"),
        }
    }

    /// For each `{e}` from 0 on that the source has: the value of an expression.
    fn counted(&self, item: &MapExpression, parts: &Parts<'_>) -> Result<Vec<Sum>, Fault> {
        let mut names: Vec<&NameTemplate> = Vec::new();
        item.for_each_name(&mut |name| {
            if name.parts().any(|part| part == "e") {
                names.push(name);
            }
        });
        if names.is_empty() || parts.iter().any(|(part, _)| *part == "e") {
            return Ok(vec![self.value(item, parts)?]);
        }
        let mut found = Vec::new();
        for number in 0_u64.. {
            let mut parts = parts.clone();
            parts.push(("e", number.to_string()));
            let is_there = |name: &&NameTemplate| self.find(&name.with(&parts)).is_some();
            // The first must be there; of the last it shows that there are no more.
            if number > 0 && !names.iter().any(is_there) {
                break;
            }
            found.push(self.value(item, &parts)?);
        }
        Ok(found)
    }

    fn slice(&self, of: &Sum, axis: u8, slicing: &Slicing) -> Result<Sum, Fault> {
        let shape = of.shape();
        let Some(&length) = shape.get(usize::from(axis)).filter(|_| axis == 0 || shape.len() == 2)
        else {
            let headline = format!("{} cannot be cut along axis {axis}", shown(shape));
            return Err(Fault::new(codes::MAP_SHAPE, headline));
        };
        let part = slicing.part as usize;
        let sizes = match &slicing.cut {
            Cut::Equal(count) => {
                if !length.is_multiple_of(*count) {
                    let headline =
                        format!("axis {axis} of {} is not {count} equal parts", shown(shape));
                    return Err(Fault::new(codes::MAP_SIZE, headline));
                }
                vec![length / count; part + 1]
            }
            Cut::Sizes(sizes) => {
                let sizes: Vec<u64> =
                    sizes.iter().map(|size| self.size(size)).collect::<Result<_, _>>()?;
                let total = sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(*size));
                if total != length {
                    let headline = format!("the sizes of the parts are not axis {axis} together");
                    let list: Vec<String> = sizes.iter().map(u64::to_string).collect();
                    return Err(Fault::new(codes::MAP_SIZE, headline)
                        .fact("sizes", format!("{} = {total}", list.join(" + ")))
                        .fact("tensor", shown(shape)));
                }
                sizes
            }
        };
        let start: u64 = sizes[..part].iter().sum();
        Ok(of.slice(axis, &(start..start + sizes[part])))
    }

    /// The value of a size.
    pub fn size(&self, size: &MapSize) -> Result<u64, Fault> {
        let name = match size {
            MapSize::Number(number) => return Ok(*number),
            MapSize::Name(name) => name.value.as_str(),
        };
        let stated = self.numbers.iter().chain(&self.map.numbers);
        if let Some((_, value)) = stated.into_iter().find(|(known, _)| known == name) {
            return Ok(*value);
        }
        let known = MapSize::KNOWN.iter().find(|(known, _)| *known == name);
        let value = known.and_then(|(_, formula)| self.target.number(formula));
        value.ok_or_else(|| {
            let headline =
                format!("the configuration of `{}` does not tell `{name}`", self.target.name);
            let fault = Fault::new(codes::MAP_SIZE, headline);
            let fault = match known {
                Some((_, formula)) => fault.fact("size", (*formula).to_owned()),
                None => fault,
            };
            fault.help(format!("state it in the map or the recipe: `let: {{{name}: NUMBER}}`"))
        })
    }

    fn ungroup(&self, of: &Sum, part: Attention) -> Result<Sum, Fault> {
        let heads =
            |formula: &str| self.target.number(formula).or_else(|| self.source.number(formula));
        let queries = heads("num_attention_heads");
        let groups = heads("num_key_value_heads or num_attention_heads");
        let (Some(queries), Some(groups)) = (queries, groups) else {
            let headline = format!(
                "the configuration of `{}` does not tell how many heads there are",
                self.target.name
            );
            return Err(Fault::new(codes::MAP_SIZE, headline)
                .fact("needed", "num_attention_heads, num_key_value_heads"));
        };
        let rows = of.shape().first().copied().unwrap_or(0);
        let each = queries.checked_div(groups).filter(|each| each * groups == queries);
        let units =
            each.and_then(|each| each.checked_add(2)).and_then(|each| each.checked_mul(groups));
        let head = units.filter(|&units| units > 0 && rows.is_multiple_of(units));
        let (Some(each), Some(units)) = (each, head) else {
            let headline = format!("{} is not made of groups of heads", shown(of.shape()));
            return Err(Fault::new(codes::MAP_SIZE, headline)
                .fact("heads", format!("{queries} for queries, {groups} for keys and values")));
        };
        let head = rows / units;
        let (first, count) = match part {
            Attention::Query => (0, each),
            Attention::Key => (each, 1),
            Attention::Value => (each + 1, 1),
        };
        let of_group = |group: u64| {
            let start = (group * (each + 2) + first) * head;
            of.slice(0, &(start..start + count * head))
        };
        let parts: Vec<Sum> = (0..groups).map(of_group).collect();
        Sum::concat(&parts, 0).map_err(|words| Fault::new(codes::MAP_SHAPE, words))
    }

    /// Type and element count of a tensor of either side.
    pub fn stored(&self, tensor: TensorRef) -> (DType, u64) {
        let side = if tensor.model == self.target.model { &self.target } else { &self.source };
        let entry = side.entry(tensor);
        (entry.dtype, entry.shape.elements())
    }
}

impl Side<'_> {
    /// A size that its configuration tells.
    fn number(&self, formula: &str) -> Option<u64> {
        let config = self.config?;
        Size::new(formula).ok()?.value(&|word| knowledge::number(config, word))
    }
}
