//! Brings an adapter together with the index of its base: which tensor of the base each of its
//! tensors means, and whether shapes and ranks agree. Reads no tensor.

mod told;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::Value;

use super::computed::{Effect, Made};
use super::config::AdapterConfig;
use super::dialects::Places;
use super::effects::{Others, Placed, placed};
use super::kinds::Fault;
use super::names::{PREFIX, Role, Side, aliases, role_of, without_numbers};
use super::naming::Naming;
use super::tied::{Own, Tied, is_saved};
use super::{Adapter, AddedFrom, Addition, Replacement, Update};
use crate::index::{Index, TensorEntry};
use crate::known::is_inputs_first;
use crate::shown::{grouped, shown, some_of};
use crate::ties;
pub(super) use told::Faults;

impl Adapter {
    /// Finds the tensors of the base that an adapter changes.
    ///
    /// A name of the adapter means the base's tensor of that name, and where there is none, the
    /// one that has it under another of the names that transformers gave to the parts of a model.
    ///
    /// **Errors.** All that does not fit, at once: tensors that are none or several of the base's,
    /// factors without their other half, shapes and ranks that disagree, kinds of tensors that no
    /// LoRA has, modules that should have been saved whole and were not.
    pub fn resolve(
        adapter: &Index,
        config: AdapterConfig,
        base: &Index,
        base_config: Option<&Value>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let is_tied = ties::are_tied(base_config);
        let grouped = config.dialect.filter(|dialect| !dialect.groups.is_empty());
        let memory = Naming::of(base).map(|naming| {
            let tensors = (0_u32..).zip(base.tensors());
            tensors.map(|(at, tensor)| (naming.in_memory(&tensor.name), at)).collect()
        });
        let mut resolver = Resolver {
            adapter,
            config: &config,
            base,
            base_config,
            is_tied,
            is_apart: !is_tied,
            seen: BTreeMap::new(),
            wrapped: BTreeSet::new(),
            memory: memory.unwrap_or_default(),
            naming: Naming::of_names(adapter.tensors().iter().map(|tensor| {
                let name = tensor.name.as_str();
                name.strip_prefix(PREFIX).unwrap_or(name)
            })),
            places: grouped.map(|dialect| Places::new(base, dialect)),
            faults: Faults::default(),
            warnings: Vec::new(),
        };
        let changes = resolver.run();
        let mut warnings = resolver.dead_patterns();
        warnings.append(&mut resolver.warnings);
        let faults = resolver.faults.finish();
        if !faults.is_empty() {
            return Err(faults);
        }
        let Changes { updates, replacements, additions, effects, magnitudes } = changes;
        let made = placed(adapter, base, effects, magnitudes);
        let (deltas, magnitudes) = (Vec::new(), Vec::new());
        let own = Self {
            updates,
            replacements,
            additions,
            deltas,
            magnitudes,
            index: None,
            is_untied: false,
            config,
            warnings,
        };
        Ok(own.with(made))
    }

    /// The same with what was made, whose index has its own places for the adapter's tensors.
    fn with(mut self, made: Placed) -> Self {
        if let Some((index, places)) = made.made {
            let move_update = |update: &mut Update| {
                (update.left, update.right) = (places[&update.left], places[&update.right]);
            };
            self.updates.iter_mut().for_each(move_update);
            for whole in &mut self.replacements {
                whole.adapter_tensor = places[&whole.adapter_tensor];
            }
            for addition in &mut self.additions {
                if let AddedFrom::Adapter(at) = &mut addition.from {
                    *at = places[at];
                }
                addition.update.iter_mut().for_each(move_update);
            }
            self.index = Some(index);
        }
        self.updates.extend(made.updates);
        self.updates.sort_by_key(|update| update.base_tensor);
        self.replacements.extend(made.replacements);
        self.replacements.sort_by_key(|whole| whole.base_tensor);
        (self.deltas, self.magnitudes) = (made.deltas, made.magnitudes);
        self
    }
}

/// What an adapter does.
#[derive(Default)]
pub(super) struct Changes {
    pub updates: Vec<Update>,
    pub replacements: Vec<Replacement>,
    pub additions: Vec<Addition>,
    /// What is computed, by the position of the base's tensor.
    pub effects: Vec<(u32, Effect)>,
    /// Magnitudes of DoRA, and whether each is of a column.
    pub magnitudes: Vec<(u32, Made, bool)>,
}

/// The two factors of a module, by their positions.
#[derive(Default)]
pub(super) struct Halves {
    pub a: Option<u32>,
    pub b: Option<u32>,
}

/// A tensor that is stored whole, by its position.
#[derive(Clone, Copy)]
pub(super) struct Whole {
    pub position: u32,
    /// Whether it is what an update wraps.
    pub is_wrapped: bool,
}

pub(super) struct Resolver<'a> {
    pub adapter: &'a Index,
    pub config: &'a AdapterConfig,
    pub base: &'a Index,
    pub base_config: Option<&'a Value>,
    /// Whether the base's embedding is its output layer, where it stores none.
    pub is_tied: bool,
    /// Whether the output layer becomes a tensor of its own.
    pub is_apart: bool,
    /// The names by which tensors of the base are updated.
    pub seen: BTreeMap<u32, BTreeSet<String>>,
    /// Tensors of the adapter that updates wrap.
    pub wrapped: BTreeSet<u32>,
    /// The base's tensors by their names in memory, where these are others.
    memory: HashMap<String, u32>,
    /// How names of the adapter become those in memory, where they are those of files.
    naming: Option<&'static Naming>,
    /// Where names of the base are looked for that the adapter spells in another way.
    places: Option<Places>,
    pub faults: Faults,
    pub warnings: Vec<Diagnostic>,
}

/// What a name of the adapter means in the base.
enum Found {
    One(u32),
    None,
    Several(Vec<String>),
}

impl<'a> Resolver<'a> {
    fn run(&mut self) -> Changes {
        let is_hollow = |tensor: &&TensorEntry| tensor.shape.elements() == 0;
        let hollow: Vec<&TensorEntry> = self.adapter.tensors().iter().filter(is_hollow).collect();
        if let Some(first) = hollow.first() {
            let headline = match hollow.len() {
                1 => "a tensor of the adapter is empty".to_owned(),
                count => format!("{} tensors of the adapter are empty", grouped(count as u64)),
            };
            let fault = self.fault(codes::EMPTY_TENSORS, headline);
            let first = format!("`{}` {}", shown(&first.name), first.shape);
            let note = "it was saved without gathering its parts (DeepSpeed ZeRO-3, FSDP)";
            let help = "save it again with gathered parameters";
            self.faults.push(fault.fact("first", first).note(note).help(help));
            return Changes::default();
        }
        let mut modules: BTreeMap<(String, bool), Halves> = BTreeMap::new();
        let mut wholes: BTreeMap<String, Whole> = BTreeMap::new();
        let mut adapters: BTreeSet<&str> = BTreeSet::new();
        let mut unsupported: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut others = Others::default();
        let kind = self.config.kind;
        for (position, tensor) in (0_u32..).zip(self.adapter.tensors()) {
            match role_of(&tensor.name, kind) {
                Role::Parameter { module, depth, side, adapter } => {
                    adapters.insert(adapter.unwrap_or_default());
                    // What a wrapper holds may be a layer all the same.
                    let halves = match self.is_container(&module) {
                        true => others.parameters.entry((module, depth)).or_default(),
                        false => modules.entry((module, false)).or_default(),
                    };
                    let half = if side == Side::A { &mut halves.a } else { &mut halves.b };
                    *half = Some(position);
                }
                Role::Factor { module, side, adapter, .. } if self.is_container(&module) => {
                    adapters.insert(adapter.unwrap_or_default());
                    let halves = others.parameters.entry((module, 0)).or_default();
                    let half = if side == Side::A { &mut halves.a } else { &mut halves.b };
                    *half = Some(position);
                }
                Role::Magnitude { module, adapter } => {
                    adapters.insert(adapter.unwrap_or_default());
                    others.magnitudes.insert(module, position);
                }
                Role::Bias { module, adapter } => {
                    adapters.insert(adapter.unwrap_or_default());
                    others.biases.insert(module, position);
                }
                Role::OfKind { module, end, adapter } => {
                    adapters.insert(adapter.unwrap_or_default());
                    others.modules.entry(module).or_default().insert(end, position);
                }
                Role::Tokens { module, end, adapter } => {
                    adapters.insert(adapter.unwrap_or_default());
                    others.tokens.entry(module).or_default().insert(end, position);
                }
                Role::Shared(name) => {
                    others.shared.insert(name, position);
                }
                Role::Factor { module, side, embedding, adapter } => {
                    adapters.insert(adapter.unwrap_or_default());
                    let halves = modules.entry((module, embedding)).or_default();
                    let half = if side == Side::A { &mut halves.a } else { &mut halves.b };
                    *half = Some(position);
                }
                Role::Replacement { name, is_wrapped } => {
                    // With all biases, peft stores those of modules that were trained whole twice; it reads them
                    // under their plain names.
                    let is_again = |at: u32| {
                        self.adapter.tensors()[at as usize].name.contains(".modules_to_save.")
                    };
                    let own = Whole { position, is_wrapped };
                    match wholes.get(&name).map(|other| other.position) {
                        Some(_) if is_again(position) => {}
                        Some(other) if !is_again(other) => {
                            self.twice(position, other, &tensor.name);
                        }
                        _ => {
                            wholes.insert(name, own);
                        }
                    }
                }
                Role::Original => {}
                Role::Unsupported(kind) => unsupported.entry(kind).or_default().push(&tensor.name),
            }
        }
        if adapters.len() > 1 {
            let named = |name| if str::is_empty(name) { "(no name)" } else { name };
            let names: Vec<&str> = adapters.into_iter().map(named).collect();
            let fault = self.fault(codes::ADAPTER_KIND, "the file holds several adapters".into());
            self.faults.push(fault.fact("adapters", some_of(&names)).help("save each by itself"));
            // Which factor belongs to which is not known.
            return Default::default();
        }
        for (kind, names) in &unsupported {
            let headline = format!("the adapter holds {kind}, which are not supported");
            let fault = self.fault(codes::ADAPTER_KIND, headline);
            self.faults.push(
                fault
                    .fact("tensors", some_of(names))
                    .help("merge it into its base with peft, and name the result"),
            );
        }
        self.locate(&modules, &wholes, &others)
    }

    /// Whether parameters of a module are updated, rather than its weight.
    fn is_container(&self, module: &str) -> bool {
        self.config.target_parameters.iter().any(|parameter| match parameter.rsplit_once('.') {
            Some((container, _)) => {
                module == container || module.ends_with(&format!(".{container}"))
            }
            // A bare name is one of any module that is no layer itself: what peft makes of linear experts.
            None => {
                let is_layer = |name: String| matches!(self.find(&name), Found::One(_));
                !is_layer(format!("{module}.weight"))
                    && !is_layer(format!("{module}.in_proj_weight"))
            }
        })
    }

    fn locate(
        &mut self,
        modules: &BTreeMap<(String, bool), Halves>,
        wholes: &BTreeMap<String, Whole>,
        others: &Others,
    ) -> Changes {
        let updated = modules.keys().filter(|(_, embedding)| !embedding);
        self.is_apart |= self.are_apart(wholes, updated.map(|(module, _)| module.as_str()));
        let wrapped = wholes.values().filter(|whole| whole.is_wrapped);
        self.wrapped = wrapped.map(|whole| whole.position).collect();
        let direct: BTreeSet<u32> = wholes.keys().filter_map(|name| self.find_one(name)).collect();
        let mut unmatched: Vec<String> = Vec::new();
        let mut updates: Vec<Own<'_>> = Vec::new();
        let mut replacements: BTreeMap<u32, (Replacement, &str)> = BTreeMap::new();
        let mut additions: BTreeMap<String, Addition> = BTreeMap::new();
        let mut matched = 0_usize;
        for (name, &Whole { position: adapter_tensor, is_wrapped }) in wholes {
            let from = AddedFrom::Adapter(adapter_tensor);
            let base_tensor = match self.find(name) {
                Found::One(base_tensor) => base_tensor,
                Found::None => match self.tied(name) {
                    // Only where nothing has its other name; what is wrapped is the same as that.
                    Some(Tied::Same(_, of)) if !direct.contains(&of) => of,
                    Some(Tied::Same(..)) if is_wrapped => {
                        matched += 1;
                        continue;
                    }
                    found => {
                        let second_of = match &found {
                            Some(Tied::Same(_, of) | Tied::Apart(_, of)) if self.is_tied => {
                                Some(*of)
                            }
                            _ => None,
                        };
                        let added = match found {
                            Some(Tied::Same(name, _) | Tied::Apart(name, _)) => Some(name),
                            None => self.added_name(name, adapter_tensor),
                        };
                        match added {
                            Some(name) => {
                                matched += 1;
                                let own =
                                    Addition { name: name.clone(), from, update: None, second_of };
                                additions.insert(name, own);
                            }
                            None => unmatched.push(name.clone()),
                        }
                        continue;
                    }
                },
                Found::Several(names) => {
                    self.several(name, &names);
                    continue;
                }
            };
            matched += 1;
            if let Some((_, other)) = replacements.get(&base_tensor) {
                self.collision(base_tensor, other, name);
                continue;
            }
            self.check_replacement(base_tensor, adapter_tensor);
            let replacement = Replacement { base_tensor, adapter_tensor };
            replacements.insert(base_tensor, (replacement, name));
        }
        for ((module, embedding), halves) in modules {
            let name = format!("{module}.weight");
            // A base without an output layer has it in its embedding.
            let (mut head, mut is_second) = (None, false);
            let found = match self.find(&name) {
                // Attention with one matrix for queries, keys and values has it under a name of its own.
                Found::None => self.find(&format!("{module}.in_proj_weight")),
                found => found,
            };
            let base_tensor = match found {
                Found::One(position) => {
                    matched += 1;
                    Some(position)
                }
                Found::None => {
                    let found = self.tied(&name);
                    match &found {
                        Some(_) => matched += 1,
                        None => unmatched.push(name),
                    }
                    match found {
                        Some(Tied::Apart(own, embedding)) => {
                            head = Some((own, embedding));
                            Some(embedding)
                        }
                        Some(Tied::Same(_, of)) => {
                            is_second = true;
                            Some(of)
                        }
                        None => None,
                    }
                }
                Found::Several(names) => {
                    self.several(&name, &names);
                    None
                }
            };
            let (left, right) = match (halves.b, halves.a) {
                (Some(left), Some(right)) => (left, right),
                (left, _) => {
                    let (there, lacking) = match (left.is_some(), embedding) {
                        (true, false) => ("lora_B", "lora_A"),
                        (false, false) => ("lora_A", "lora_B"),
                        (true, true) => ("lora_embedding_B", "lora_embedding_A"),
                        (false, true) => ("lora_embedding_A", "lora_embedding_B"),
                    };
                    self.half(module, there, lacking);
                    continue;
                }
            };
            let Some(base_tensor) = base_tensor else { continue };
            let whole = match &head {
                None => replacements.get(&base_tensor).map(|(whole, _)| whole.adapter_tensor),
                Some((head, _)) => additions.get(head).and_then(|addition| match addition.from {
                    AddedFrom::Adapter(position) => Some(position),
                    AddedFrom::Base(_) => None,
                }),
            };
            let pair = (left, right);
            let is_head = !embedding && (head.is_some() || is_second);
            let form = (*embedding, is_head);
            let Some(update) = self.update(module, form, base_tensor, whole, pair) else {
                continue;
            };
            if let Some((head, embedding)) = head {
                let from = AddedFrom::Base(embedding);
                let new = || Addition {
                    name: head.clone(),
                    from,
                    update: None,
                    second_of: Some(embedding),
                };
                let addition = additions.entry(head.clone()).or_insert_with(new);
                addition.update = Some(update);
                continue;
            }
            updates.push(Own { module, update, is_second });
        }
        let additions = additions.into_values().collect();
        let mut changes = Changes { additions, ..Changes::default() };
        self.joined(updates, &mut changes);
        matched += self.effects(others, self.config.kind, &mut changes, &mut unmatched);
        let mut all = modules.len() + wholes.len() + others.len();
        let names = modules.keys().map(|(module, _)| module).chain(others.modules.keys());
        all -= self.other_parts(names, &mut unmatched);
        self.unmatched(&unmatched, all, matched);
        if matched > 0 {
            self.not_saved(|position| replacements.contains_key(&position));
        }
        changes.replacements =
            replacements.into_values().map(|(replacement, _)| replacement).collect();
        self.untie(&mut changes);
        self.check_rows(&changes);
        changes
    }

    /// The name of a tensor that the base lacks and that was trained with the adapter.
    fn added_name(&mut self, name: &str, adapter_tensor: u32) -> Option<String> {
        // What lies beside the adapter's own file was trained whole, whatever the configuration says.
        let is_beside = self.adapter.tensors()[adapter_tensor as usize].shard > 0;
        if !is_beside && !is_saved(self.config, name) {
            return None;
        }
        let headline = format!("`{}` is in the adapter only, and is taken from it", shown(name));
        let warning = Diagnostic::warning(codes::ADDED_BY_ADAPTER, headline).in_file(self.shown());
        self.warnings.push(warning.note("the base's config.json may know nothing of it"));
        Some(name.to_owned())
    }

    /// The base's tensor of a name, where there is one.
    pub(super) fn find_one(&self, name: &str) -> Option<u32> {
        match self.find(name) {
            Found::One(position) => Some(position),
            Found::None | Found::Several(_) => None,
        }
    }

    /// The base's tensor of a name, and whether the name is another one of it; says what else there is.
    pub(super) fn find_or_tell(
        &mut self,
        name: &str,
        unmatched: &mut Vec<String>,
    ) -> Option<(u32, bool)> {
        match self.find(name) {
            Found::One(position) => return Some((position, false)),
            Found::None => match self.tied(name) {
                // The output layer of a tied base is its embedding, which the same rows stand in.
                Some(Tied::Same(_, of)) => return Some((of, true)),
                Some(Tied::Apart(..)) if self.is_tied => self.tell(
                    name,
                    Fault::unsupported("`{}` becomes a tensor of its own, which an adapter of this kind cannot change"),
                ),
                _ => unmatched.push(name.to_owned()),
            },
            Found::Several(names) => self.several(name, &names),
        }
        None
    }

    fn find(&self, name: &str) -> Found {
        let position = |name: &str| self.base.position(name).map(|position| position as u32);
        let places = self.config.dialect.zip(self.places.as_ref());
        if let Some((dialect, places)) = places {
            let found = places.find(dialect.split(name).1);
            let name = |at: &u32| self.base.tensors()[*at as usize].name.clone();
            return match found.as_slice() {
                [] => Found::None,
                [one] => Found::One(*one),
                several => Found::Several(several.iter().map(name).collect()),
            };
        }
        let mut names = aliases(name).into_iter();
        // The name itself means itself, whatever else there is.
        if let Some(found) = names.next().and_then(|own| position(&own)) {
            return Found::One(found);
        }
        let mut found: Vec<String> = names.filter(|alias| position(alias).is_some()).collect();
        match found.len() {
            0 => self.in_memory(name).map_or(Found::None, Found::One),
            1 => position(&found.remove(0)).map_or(Found::None, Found::One),
            _ => Found::Several(found),
        }
    }

    /// The base's tensor that has another name in the files of one version of transformers than in its memory.
    fn in_memory(&self, name: &str) -> Option<u32> {
        aliases(name).iter().find_map(|name| {
            let renamed = || self.naming.map(|naming| naming.in_memory(name));
            let other = || renamed().and_then(|name| self.base.position(&name));
            self.memory.get(name).copied().or_else(|| other().map(|position| position as u32))
        })
    }

    /// Checks the factors of a module against each other, its configuration and the base.
    fn update(
        &mut self,
        module: &str,
        (embedding, is_head): (bool, bool),
        base_tensor: u32,
        whole: Option<u32>,
        (left, right): (u32, u32),
    ) -> Option<Update> {
        let (adapter, base) = (self.adapter, self.base);
        let target = &base.tensors()[base_tensor as usize];
        // What the adapter stores whole may have other rows than what it takes the place of.
        let under = whole.map_or(target, |whole| &adapter.tensors()[whole as usize]);
        let (b, a) = (&adapter.tensors()[left as usize], &adapter.tensors()[right as usize]);
        let facts = || {
            vec![
                ("lora_A".to_owned(), entry(a)),
                ("lora_B".to_owned(), entry(b)),
                ("base".to_owned(), place(base, target)),
            ]
        };
        // A convolution's first factor has its kernel, and its second one of a single point.
        let kernel = under.shape.dimensions().get(2..).unwrap_or_default();
        let (a_shape, b_shape) = (a.shape.dimensions(), b.shape.dimensions());
        let is_of_kernel = !kernel.is_empty()
            && a_shape.get(2..) == Some(kernel)
            && b_shape.get(2..).is_some_and(|ones| ones.iter().all(|one| *one == 1));
        let ([rank, inputs, ..], [outputs, inner, ..]) = (a_shape, b_shape) else {
            let headline = "the factors of `{}` are no matrices";
            let facts = facts();
            self.faults.add(codes::ADAPTER_SHAPE, headline, module, self.shown(), facts, None);
            return None;
        };
        if (a_shape.len(), b_shape.len()) != (2, 2) && !is_of_kernel {
            let headline = "the factors of `{}` do not have the kernel of the base's tensor";
            let facts = facts();
            self.faults.add(codes::ADAPTER_SHAPE, headline, module, self.shown(), facts, None);
            return None;
        }
        let (rank, inputs, outputs, inner) = (*rank, *inputs, *outputs, *inner);
        let mut is_sound = true;
        if rank != inner || rank == 0 {
            let headline = "the two factors of `{}` do not have one rank";
            let help = Some("`lora_A` must be [rank, in] and `lora_B` [out, rank]");
            let facts = facts();
            self.faults.add(codes::ADAPTER_SHAPE, headline, module, self.shown(), facts, help);
            is_sound = false;
        } else if rank != self.config.rank_of(module) {
            let headline = "`{}` has another rank than the adapter's configuration says";
            let facts = vec![
                ("configuration".to_owned(), self.config.rank_of(module).to_string()),
                ("lora_A".to_owned(), entry(a)),
                ("lora_B".to_owned(), entry(b)),
            ];
            let help = Some("set `r` or `rank_pattern` to what the adapter was trained with");
            self.faults.add(codes::ADAPTER_BROKEN, headline, module, self.shown(), facts, help);
            is_sound = false;
        }
        // peft goes by the layer, whatever the configuration says.
        let transposed = match self.config.dialect {
            Some(dialect) if dialect.is_turned => ties::head_of(&target.name).is_none(),
            _ if is_head => false,
            _ => {
                embedding
                    || is_inputs_first(&target.name)
                    || (self.config.fan_in_fan_out && !ties::is_head(&target.name))
            }
        };
        let transposed = transposed && kernel.is_empty();
        let (straight, turned) = ([outputs, inputs], [inputs, outputs]);
        let wanted = if transposed { turned } else { straight };
        let is_shaped = match under.shape.dimensions() {
            [rows, columns, others @ ..] => {
                [*rows, *columns] == wanted && (others.is_empty() || is_of_kernel)
            }
            _ => false,
        };
        if !is_shaped {
            let other = if transposed { straight } else { turned };
            let help = match target.shape.dimensions() == other && !embedding {
                true if transposed => {
                    Some("the base stores it as [out, in]; set `fan_in_fan_out` to false")
                }
                true => Some("the base stores it as [in, out]; set `fan_in_fan_out` to true"),
                false => None,
            };
            let headline = "the update of `{}` does not have the shape of the base's tensor";
            let mut facts = facts();
            facts.push(("update".to_owned(), format!("[{}, {}]", wanted[0], wanted[1])));
            self.faults.add(codes::ADAPTER_SHAPE, headline, module, self.shown(), facts, help);
            is_sound = false;
        }
        if [a, b, target].iter().any(|tensor| !tensor.dtype.is_float()) {
            let headline = "the update of `{}` cannot be added in these element types";
            let help = (!target.dtype.is_float()).then_some("name a base that is not quantized");
            let facts = facts();
            self.faults.add(codes::DTYPE_MISMATCH, headline, module, self.shown(), facts, help);
            is_sound = false;
        }
        let mut scale = self.config.scale_of(module);
        if self.adapter.tensors()[right as usize].name.contains(ATTENTION_OUTPUT) {
            scale *= 2.0;
        }
        if !scale.is_finite() || scale == 0.0 {
            let headline = "the scale of `{}` is not a usable number";
            let facts = vec![("scale".to_owned(), scale.to_string())];
            self.faults.add(codes::ADAPTER_CONFIG, headline, module, self.shown(), facts, None);
            is_sound = false;
        }
        is_sound.then_some(Update { base_tensor, left, right, rank, scale, transposed })
    }

    fn check_replacement(&mut self, base_tensor: u32, adapter_tensor: u32) {
        let (adapter, base) = (self.adapter, self.base);
        let target = &base.tensors()[base_tensor as usize];
        let own = &adapter.tensors()[adapter_tensor as usize];
        let facts =
            || vec![("adapter".to_owned(), entry(own)), ("base".to_owned(), place(base, target))];
        let (ours, theirs) = (own.shape.dimensions(), target.shape.dimensions());
        let is_vocabulary = ties::is_head(&target.name) || ties::head_of(&target.name).is_some();
        let is_resized =
            ours.len() == 2 && theirs.len() == 2 && ours[1] == theirs[1] && ours[0] > 0;
        if ours != theirs && !(is_resized && is_vocabulary) {
            let headline = "`{}` has another shape in the adapter than in the base";
            let name = &target.name;
            let facts = facts();
            self.faults.add(codes::ADAPTER_SHAPE, headline, name, self.shown(), facts, None);
        }
        if own.dtype != target.dtype && !(own.dtype.is_float() && target.dtype.is_float()) {
            let headline = "`{}` has an element type that cannot take the place of the base's";
            let facts = facts();
            let name = &target.name;
            self.faults.add(codes::DTYPE_MISMATCH, headline, name, self.shown(), facts, None);
        }
    }

    /// The adapter's file, or where that is not known, its configuration.
    pub fn shown(&self) -> String {
        let shard = self.adapter.shards().first();
        shard.map_or_else(|| self.config.shown.clone(), |shard| shard.shown.clone())
    }
}

/// In the names of updates of the output layer of torch's attention. peft (seen in 0.21) adds them to the weight and
/// then merges that layer as well, in training as in `merge_and_unload`: what was trained is twice the product.
const ATTENTION_OUTPUT: &str = ".base_layer.out_proj.lora_";

/// What a message says of a tensor of the base.
fn place(base: &Index, tensor: &TensorEntry) -> String {
    let name = without_numbers(&tensor.name);
    let file = &base.shard_of(tensor).shown;
    format!("{} {}, `{}`, {file}", tensor.shape, tensor.dtype, shown(&name))
}

fn entry(tensor: &TensorEntry) -> String {
    format!("{} {}", tensor.shape, tensor.dtype)
}
