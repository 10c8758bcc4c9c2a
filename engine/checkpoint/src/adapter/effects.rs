//! What an adapter does beyond replacing tensors and adding products of two stored factors: other kinds than
//! LoRA, magnitudes of DoRA, biases of `lora_B`, single rows, and stacks of experts.

use std::collections::{BTreeMap, HashMap};

use mixdown_diagnostics::codes;
use serde_json::Value;

use super::computed::{Along, ByRows, Effect, Factor, Made, Part, Workshop};
use super::experts::Factors;
use super::kinds::{Fault, Kind, Module, is_plain};
use super::names::Side;
use super::resolve::{Changes, Halves, Resolver};
use super::tied::{Tied, ensures_tie};
use super::{AdapterConfig, Delta, Magnitude, Replacement, Update};
use crate::encoding::{Held, Reader};
use crate::index::Index;
use crate::known::is_inputs_first;
use crate::source::ReadError;
use crate::ties;

/// The tensors of other kinds, of magnitudes and of biases, as names tell them.
#[derive(Default)]
pub(super) struct Others {
    /// Of other kinds: for each module, positions by the ends of names.
    pub modules: BTreeMap<String, BTreeMap<&'static str, u32>>,
    /// Rows of embeddings, beside a LoRA.
    pub tokens: BTreeMap<String, BTreeMap<&'static str, u32>>,
    pub shared: BTreeMap<&'static str, u32>,
    pub magnitudes: BTreeMap<String, u32>,
    pub biases: BTreeMap<String, u32>,
    /// Factors of modules whose parameters are updated: by the module and how deep they lie in it.
    pub parameters: BTreeMap<(String, usize), Halves>,
}

impl Others {
    /// Count of modules.
    pub fn len(&self) -> usize {
        self.modules.len() + self.tokens.len() + self.parameters.len()
    }
}

impl Resolver<'_> {
    /// Finds what all of these do. Names that mean nothing in the base join `unmatched`; returns how many do.
    pub(super) fn effects(
        &mut self,
        others: &Others,
        kind: Option<&'static Kind>,
        changes: &mut Changes,
        unmatched: &mut Vec<String>,
    ) -> usize {
        let mut matched = 0;
        let tokens = (&super::kinds::TOKENS, &others.tokens);
        let of_kind = kind.map(|kind| (kind, &others.modules));
        for (kind, modules) in of_kind.into_iter().chain([tokens]) {
            for (module, tensors) in modules {
                let name = format!("{module}.weight");
                let Some(found) = self.find_or_tell(&name, unmatched) else { continue };
                matched += 1;
                // Rows are trained under all names of an embedding at once, unless only another one has them.
                let is_tokens = *kind == super::kinds::TOKENS;
                let is_own =
                    |own: &String| self.find_one(&format!("{own}.weight")) == Some(found.0);
                if kind_is_shared(self.config, is_tokens) && found.1 && modules.keys().any(is_own) {
                    continue;
                }
                if !is_tokens || found.1 {
                    self.seen.entry(found.0).or_default().insert(name);
                }
                self.make(kind, module, found, tensors, others, changes);
            }
        }
        for (module, &magnitude) in &others.magnitudes {
            self.magnitude(module, magnitude, changes);
        }
        self.without_magnitude(changes);
        for (module, &bias) in &others.biases {
            self.bias(module, bias, changes);
        }
        matched + self.parameters(others, changes, unmatched)
    }

    fn make(
        &mut self,
        kind: &'static Kind,
        name: &str,
        (base_tensor, is_second): (u32, bool),
        tensors: &BTreeMap<&'static str, u32>,
        others: &Others,
        changes: &mut Changes,
    ) {
        let target = &self.base.tensors()[base_tensor as usize];
        if !is_plain(target.dtype) {
            let fault = Fault::new("what `{}` is in the base has an element type that is no float")
                .fact("base", target.dtype.name());
            return self.tell(name, fault);
        }
        let inputs_first = !is_second
            && (is_inputs_first(&target.name)
                || (self.config.fan_in_fan_out && !ties::is_head(&target.name)));
        let bias = target.name.strip_suffix("weight").map(|stem| format!("{stem}bias"));
        let bias = bias.and_then(|bias| self.base.position(&bias)).map(|at| at as u32);
        let module = Module {
            name,
            target,
            base_tensor,
            bias,
            tensors,
            shared: &others.shared,
            adapter: self.adapter,
            config: self.config,
            inputs_first,
        };
        match (kind.make)(&module) {
            Ok(effects) => self.add(name, effects, changes),
            Err(fault) => self.tell(name, fault),
        }
    }

    /// Adds effects; two of one tensor are a fault.
    fn add(&mut self, module: &str, effects: Vec<(u32, Effect)>, changes: &mut Changes) {
        for (base_tensor, effect) in effects {
            let is_taken = changes.effects.iter().any(|(known, _)| *known == base_tensor)
                || changes.updates.iter().any(|known| known.base_tensor == base_tensor);
            match is_taken {
                true => self.tell(module, Fault::new("two parts of the adapter change `{}`")),
                false => changes.effects.push((base_tensor, effect)),
            }
        }
    }

    pub(super) fn tell(&mut self, module: &str, fault: Fault) {
        let shown = self.shown();
        let (code, help) = match fault.is_unsupported {
            true => {
                (codes::ADAPTER_KIND, Some("merge it into its base with peft, and name the result"))
            }
            false => (codes::ADAPTER_SHAPE, None),
        };
        let help = fault.help.or(help);
        self.faults.add(code, fault.headline, module, shown, fault.facts, help);
    }

    /// A magnitude of DoRA scales the rows of base and update together, so that they have this norm.
    fn magnitude(&mut self, module: &str, magnitude: u32, changes: &mut Changes) {
        let name = format!("{module}.weight");
        let found = self.find_one(&name).or_else(|| match self.tied(&name) {
            Some(Tied::Same(_, of)) => Some(of),
            _ => None,
        });
        let Some(base_tensor) = found else {
            // What fits nowhere is told by its factors.
            if self.tied_head(&name).is_some() {
                self.tell(
                    module,
                    Fault::unsupported(
                        "`{}` becomes a tensor of its own, which magnitudes cannot scale",
                    ),
                );
            }
            return;
        };
        let is_joined = changes.effects.iter().any(|(known, _)| *known == base_tensor);
        if !is_joined && ensures_tie(self.config) && self.find_one(&name).is_none() {
            // The same as those of the embedding, whose update stands for both.
            return;
        }
        if is_joined {
            let fault = Fault::unsupported(
                "`{}` is another name of a tensor with several updates, of which magnitudes need one",
            );
            return self.tell(module, fault);
        }
        let Some(update) = changes.updates.iter().find(|one| one.base_tensor == base_tensor) else {
            let fault = Fault::new("the magnitudes of `{}` have no update beside them");
            return self.tell(module, fault);
        };
        // Where the factors are turned, the base is not.
        let is_turned = self.config.dialect.is_some_and(|dialect| dialect.is_turned);
        let by_columns = update.transposed && !is_turned;
        let target = &self.base.tensors()[base_tensor as usize];
        let shape = target.shape.dimensions();
        let (rows, columns) = (shape[0], shape[1..].iter().product::<u64>());
        let entry = &self.adapter.tensors()[magnitude as usize];
        let wanted = if by_columns { columns } else { rows };
        if entry.shape.elements() != wanted || !is_plain(entry.dtype) {
            let fault = Fault::new("the magnitudes of `{}` do not go with the base's tensor")
                .fact("magnitudes", format!("{} {}", entry.shape, entry.dtype))
                .fact("base", target.shape.to_string());
            return self.tell(module, fault);
        }
        let compute = Spread { columns, by_columns, count: wanted };
        let parts = vec![Part::Adapter(magnitude)];
        let made = Made::new("DoRA's magnitudes", shape, parts, compute);
        changes.magnitudes.push((base_tensor, made, by_columns));
    }

    /// An adapter that was trained with DoRA has magnitudes beside each of its updates: without them it is
    /// another change.
    fn without_magnitude(&mut self, changes: &Changes) {
        let is_dora = self.config.settings.get("use_dora").and_then(Value::as_bool) == Some(true);
        if !is_dora || !self.faults.is_empty() {
            return;
        }
        let lacking = changes
            .updates
            .iter()
            .filter(|update| !changes.magnitudes.iter().any(|(of, ..)| *of == update.base_tensor));
        let lacking: Vec<u32> = lacking.map(|update| update.base_tensor).collect();
        for base_tensor in lacking {
            let name = self.base.tensors()[base_tensor as usize].name.clone();
            let fault =
                Fault::new("the update of `{}` lacks its magnitudes, with which it was trained")
                    .fact("configuration", "`use_dora: true`")
                    .fact("missing", "`lora_magnitude_vector`");
            self.tell(&name, fault);
        }
    }

    /// The bias of `lora_B`, times the update's scale, is added to the module's own.
    fn bias(&mut self, module: &str, bias: u32, changes: &mut Changes) {
        let Some(base_tensor) = self.find_one(&format!("{module}.bias")) else {
            let fault = Fault::unsupported(
                "the update of `{}` has a bias, and the base has none there that it could be added to",
            )
            .help("peft cannot merge it either: keep it beside its base, or train without `lora_bias`");
            return self.tell(module, fault);
        };
        let (target, entry) =
            (&self.base.tensors()[base_tensor as usize], &self.adapter.tensors()[bias as usize]);
        if target.shape != entry.shape || !is_plain(target.dtype) || !is_plain(entry.dtype) {
            let fault = Fault::new("the bias of the update of `{}` does not go with the base's")
                .fact("update", format!("{} {}", entry.shape, entry.dtype))
                .fact("base", format!("{} {}", target.shape, target.dtype));
            return self.tell(module, fault);
        }
        let count = entry.shape.elements();
        let by = self.config.scale_of(module) as f32;
        let compute =
            super::computed::Scaled { stride: count, columns: count, along: Along::Nothing, by };
        let made =
            Made::new("a bias", entry.shape.dimensions(), vec![Part::Adapter(bias)], compute);
        self.add(module, vec![(base_tensor, Effect::Delta(made))], changes);
    }

    fn parameters(
        &mut self,
        others: &Others,
        changes: &mut Changes,
        unmatched: &mut Vec<String>,
    ) -> usize {
        let (mut matched, mut taken) = (0, Vec::new());
        for ((module, _), halves) in &others.parameters {
            let (Some(a), Some(b)) = (halves.a, halves.b) else {
                let there = if halves.a.is_some() { Side::A } else { Side::B };
                let fault = Fault::new("the update of `{}` has only one of its two factors")
                    .fact("there", format!("{there:?}"));
                self.tell(module, fault);
                continue;
            };
            let shape = |at: u32| {
                let entry = &self.adapter.tensors()[at as usize];
                <[u64; 2]>::try_from(entry.shape.dimensions())
                    .ok()
                    .filter(|_| is_plain(entry.dtype))
            };
            let (Some(a_shape), Some(b_shape)) = (shape(a), shape(b)) else {
                self.tell(module, Fault::new("the factors of `{}` are no matrices of floats"));
                continue;
            };
            let factors = Factors { a, b, a_shape, b_shape };
            match self.parameter(module, &factors, &mut taken) {
                Ok(Some(effects)) => {
                    matched += 1;
                    self.add(module, effects, changes);
                }
                Ok(None) => unmatched.push(format!(
                    "{module}, a parameter with factors [{}, {}] and [{}, {}]",
                    a_shape[0], a_shape[1], b_shape[0], b_shape[1]
                )),
                Err(fault) => self.tell(module, fault),
            }
        }
        matched
    }
}

/// Whether tensors of a kind under other names of an embedding are always those of the embedding itself: peft
/// stores them again where rows are the whole adapter.
fn kind_is_shared(config: &AdapterConfig, is_tokens: bool) -> bool {
    is_tokens && config.is_kind(super::kinds::TOKENS.peft_type)
}

/// What effects become once all that is made has its place.
pub(super) struct Placed {
    pub updates: Vec<Update>,
    pub replacements: Vec<Replacement>,
    pub deltas: Vec<Delta>,
    pub magnitudes: Vec<Magnitude>,
    /// The index with what was made, where anything was, and the new positions of the adapter's own tensors.
    pub made: Option<(Index, HashMap<u32, u32>)>,
}

/// Gives a place to all that is made.
pub(super) fn placed(
    adapter: &Index,
    base: &Index,
    effects: Vec<(u32, Effect)>,
    magnitudes: Vec<(u32, Made, bool)>,
) -> Placed {
    /// A tensor whose place is not known yet.
    enum Name {
        Made(String),
        Stored(u32),
    }
    /// What an effect becomes: its tensors, the rank, scale and side of a product, and whether the tensor takes
    /// the place of the base's.
    struct Pending {
        base_tensor: u32,
        names: Vec<Name>,
        product: Option<(u64, f64, bool)>,
        is_whole: bool,
    }
    let mut workshop = Workshop::new(adapter, base);
    let mut pending: Vec<Pending> = Vec::new();
    let mut push = |base_tensor, names, product, is_whole| {
        pending.push(Pending { base_tensor, names, product, is_whole });
    };
    for (base_tensor, effect) in effects {
        match effect {
            Effect::Delta(made) => {
                let name = workshop.add(made, base_tensor, "added");
                push(base_tensor, vec![Name::Made(name)], None, false);
            }
            Effect::Whole(made) => {
                let name = workshop.add(made, base_tensor, "");
                push(base_tensor, vec![Name::Made(name)], None, true);
            }
            Effect::Product { left, right, rank, scale, transposed } => {
                let mut factor = |factor, what| match factor {
                    Factor::Stored(at) => Name::Stored(at),
                    Factor::Made(made) => Name::Made(workshop.add(made, base_tensor, what)),
                };
                let names = vec![factor(left, "left factor"), factor(right, "right factor")];
                push(base_tensor, names, Some((rank, scale, transposed)), false);
            }
        }
    }
    let of_magnitudes: Vec<(u32, String, bool)> = magnitudes
        .into_iter()
        .map(|(base_tensor, made, by_columns)| {
            (base_tensor, workshop.add(made, base_tensor, "magnitudes"), by_columns)
        })
        .collect();
    let made = workshop.finish();
    let place = |name: &Name| match (name, &made) {
        (Name::Stored(at), Some((_, places))) => places[at],
        (Name::Stored(at), None) => *at,
        (Name::Made(name), Some((index, _))) => index.position(name).unwrap_or_default() as u32,
        (Name::Made(_), None) => unreachable!("what was made has an index"),
    };
    let mut placed = Placed {
        updates: Vec::new(),
        replacements: Vec::new(),
        deltas: Vec::new(),
        magnitudes: Vec::new(),
        made: None,
    };
    for Pending { base_tensor, names, product, is_whole } in &pending {
        let (base_tensor, first) = (*base_tensor, place(&names[0]));
        match product {
            Some((rank, scale, transposed)) => placed.updates.push(Update {
                base_tensor,
                left: first,
                right: place(&names[1]),
                rank: *rank,
                scale: *scale,
                transposed: *transposed,
            }),
            None if *is_whole => {
                placed.replacements.push(Replacement { base_tensor, adapter_tensor: first });
            }
            None => placed.deltas.push(Delta { base_tensor, adapter_tensor: first }),
        }
    }
    for (base_tensor, name, by_columns) in of_magnitudes {
        let adapter_tensor = place(&Name::Made(name));
        placed.magnitudes.push(Magnitude { base_tensor, adapter_tensor, by_columns });
    }
    placed.made = made;
    placed
}

/// One number for each row or column, in all its elements.
#[derive(Debug)]
struct Spread {
    columns: u64,
    by_columns: bool,
    count: u64,
}

impl ByRows for Spread {
    const HELD: &[usize] = &[0];

    fn held_bytes(&self) -> u64 {
        self.count * 4
    }

    fn columns(&self) -> u64 {
        self.columns
    }

    fn row(
        &self,
        held: &Held,
        _: &Reader<'_>,
        [row, column]: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        let numbers = &held.numbers[0];
        match self.by_columns {
            true => own.copy_from_slice(&numbers[column as usize..][..own.len()]),
            false => own.fill(numbers[row as usize]),
        }
        Ok(())
    }
}
