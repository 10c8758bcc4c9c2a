//! A result that is written as an adapter on the base: which tensors change, and how each becomes two
//! factors or a whole tensor.

mod names;
mod terms;

use std::collections::HashSet;

use mixdown_checkpoint::adapter::{OutputAdapter, OutputUpdate};
use mixdown_checkpoint::index::Index;
use mixdown_checkpoint::known;
use mixdown_checkpoint::ties;
use mixdown_diagnostics::{Diagnostic, Span, codes};
use mixdown_ops::MapOp;
use mixdown_ops::matrix::{MatrixLayout, MatrixOp, Rank};
use mixdown_recipe::recipe::{AdapterOutput, Body, ModuleContent, Recipe};
use mixdown_tensor::DType;

use crate::bodies::context::Solved;
use crate::families::tied::tied_flag;
use crate::formulas::graph::Graph;
use crate::models::request::{ModelSource, Request};
use crate::models::view::{How, Made, sum};
use crate::plan::{Leaf, TensorRef};
use crate::programs::matrices::{Split, SplitStep, split};
use crate::report::Reporter;
pub(crate) use names::{Form, Names};
use terms::{bounded_rank, linear, without_base};

/// The adapter that a recipe asks for.
pub(crate) struct Adapting<'r> {
    /// Position of the base among the checkpoints.
    pub base: u32,
    pub index: &'r Index,
    recipe: &'r Recipe,
    wanted: &'r AdapterOutput,
    /// Type of the factors.
    pub dtype: DType,
    pub form: Form,
    /// Whether the base's embedding is its output layer too.
    is_tied: bool,
}

/// What becomes of a tensor of the base.
pub(crate) enum Change {
    /// It stays what it is.
    None,
    /// It is stored whole.
    Whole,
    /// A product is added to it.
    Update(Box<Update>),
}

/// A product that is added to a tensor of the base.
pub(crate) struct Update {
    /// The matrix ops that it needs.
    pub split: Split,
    /// Whose sum, each times its factor, it is.
    pub terms: Vec<(Leaf, f64)>,
    pub rank: u32,
    /// Whether it is the whole update, and not the nearest matrix of this rank.
    pub is_exact: bool,
    /// Whether it is computed in f64.
    pub double: bool,
}

/// What is made of all tensors, and how the adapter is described.
pub(crate) struct Changes {
    /// For each made tensor its position in the base, and what becomes of it.
    pub all: Vec<(u32, Change)>,
    pub updates: Vec<OutputUpdate>,
    /// Tensors that are stored whole, positions in the base.
    pub replacements: Vec<u32>,
    /// Of these the ones that no recipe's tensor stands for, or that do not change: the base's own.
    pub copied: Vec<u32>,
    /// Made tensors that stand beside the base's: positions among all that are made.
    pub beside: Vec<usize>,
}

/// A recipe that is an input is not written: what it says about that has no effect.
pub(crate) fn warn_of_inner(request: &Request<'_>, reporter: &mut Reporter) {
    for recipe in request.recipes.iter().skip(1) {
        let Some(adapter) = &recipe.adapter else { continue };
        let headline = "`output` of a recipe that is an input has no effect";
        let diagnostic = Diagnostic::warning(codes::IGNORED_KEY, headline)
            .note("its whole result goes into the merge");
        reporter.add(diagnostic.at(&recipe.source, adapter.span));
    }
}

impl<'r> Adapting<'r> {
    /// What the recipe asks for; none where it asks for a model, or for what cannot be, which is reported.
    pub fn new(request: &Request<'r>, solved: &Solved, reporter: &mut Reporter) -> Option<Self> {
        let recipe = &request.recipes[0];
        let wanted = recipe.adapter.as_ref()?;
        let refuse = |headline: &str, help: &str, span: Span| {
            let diagnostic = Diagnostic::error(codes::UNSUPPORTED, headline).help(help);
            Err(Box::new(diagnostic.at(&recipe.source, span)))
        };
        let base = match &recipe.base {
            None => {
                let diagnostic = Diagnostic::error(
                    codes::MISSING_BASE,
                    "an adapter is on the recipe's base, and there is none",
                );
                let help = "name the model that the adapter is for as `base` (`base_model`)";
                Err(Box::new(diagnostic.help(help).at(&recipe.source, wanted.span)))
            }
            Some(base) => match request.models[0][base.value.0 as usize] {
                ModelSource::Checkpoint(position) | ModelSource::Zero(position) => Ok(position),
                ModelSource::Failed => return None,
                ModelSource::Adapted(_) => refuse(
                    "an adapter cannot be on a base that is an adapter itself",
                    "merge the base with its adapter first, and name the result",
                    base.span,
                ),
                ModelSource::Mapped(_) => refuse(
                    "an adapter cannot be on a base that is seen through a map",
                    "name a plain checkpoint as the base",
                    base.span,
                ),
                ModelSource::Recipe(_) => refuse(
                    "an adapter cannot be on a base that is a recipe",
                    "merge that recipe first, and name the result",
                    base.span,
                ),
            },
        };
        let has_slices = match &recipe.body {
            Body::Modules(modules) => {
                modules.iter().any(|module| matches!(module.content, ModuleContent::Slices(_)))
            }
            Body::Rules(_) => false,
        };
        let whole_only = if let Some(tokenizer) = &recipe.tokenizer {
            Some(("an adapter cannot change the vocabulary", tokenizer.span))
        } else if let Some(template) = &recipe.chat_template {
            Some(("an adapter has no chat template", template.span))
        } else if has_slices || !solved.layers.is_empty() {
            Some(("an adapter cannot stack layers anew", wanted.span))
        } else {
            None
        };
        let base = match (base, whole_only) {
            (base, None) => base,
            (_, Some((headline, span))) => {
                refuse(headline, "remove `output`, so that a model is written", span)
            }
        };
        match base {
            Err(diagnostic) => {
                reporter.add(*diagnostic);
                None
            }
            Ok(base) => {
                let checkpoint = &request.checkpoints[base as usize];
                let index = checkpoint.index;
                let has_head =
                    index.tensors().iter().any(|one| one.name.ends_with("lm_head.weight"));
                let is_tied = !has_head && checkpoint.config.and_then(tied_flag) == Some(true);
                let dtype = solved.declared.unwrap_or(DType::F32);
                let form = match recipe.modality {
                    Some(_) => Form::ModelCompose,
                    None => Form::Peft,
                };
                let adapting = Self { base, index, recipe, wanted, dtype, form, is_tied };
                if form == Form::Peft {
                    adapting.warn(reporter);
                }
                adapting.check(reporter).then_some(adapting)
            }
        }
    }

    /// Keys that mean nothing for an adapter.
    fn warn(&self, reporter: &mut Reporter) {
        let files_from = self.recipe.files_from.as_ref().map(|key| ("files_from", key.span));
        let shard_size = self.recipe.shard_size.as_ref().map(|key| ("shard_size", key.span));
        for (key, span) in [files_from, shard_size].into_iter().flatten() {
            let headline = format!("`{key}` has no effect: an adapter is one file of weights");
            let diagnostic = Diagnostic::warning(codes::IGNORED_KEY, headline);
            reporter.add(diagnostic.help("remove the key").at(&self.recipe.source, span));
        }
    }

    fn refuse(&self, diagnostic: Diagnostic, reporter: &mut Reporter) {
        let span = self.wanted.rank.as_ref().map_or(self.wanted.span, |rank| rank.span);
        reporter.tensor((u32::MAX, 0), diagnostic.at(&self.recipe.source, span));
    }

    /// Whether the base is one that an adapter can be on, and has matrices of the stated rank.
    fn check(&self, reporter: &mut Reporter) -> bool {
        let tensors = self.index.tensors();
        if let Some(found) = tensors.iter().find(|one| known::is_inputs_first(&one.name)) {
            let headline =
                "adapters on models that store linear layers as [in, out] are not written";
            let diagnostic = Diagnostic::error(codes::UNSUPPORTED, headline)
                .fact("tensor", format!("`{}` {}", found.name, found.shape))
                .help("remove `output`, so that a model is written");
            self.refuse(diagnostic, reporter);
            return false;
        }
        let smaller = |position: u32| match tensors[position as usize].shape.dimensions() {
            &[rows, columns] if self.takes_update(position) => rows.min(columns),
            _ => 0,
        };
        let most = (0..tensors.len() as u32).map(smaller).max().unwrap_or(0);
        match &self.wanted.rank {
            Some(rank) if u64::from(rank.value) > most => {
                let headline =
                    format!("rank {} is above the smaller side of every matrix", rank.value);
                let help = format!("use a rank of at most {most}");
                let diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline).help(help);
                self.refuse(diagnostic, reporter);
                false
            }
            _ => true,
        }
    }

    /// Whether a product can be added to this tensor of the base.
    fn takes_update(&self, position: u32) -> bool {
        let tensor = &self.index.tensors()[position as usize];
        OutputAdapter::can_update(self.index, position)
            && tensor.dtype.is_float()
            && tensor.shape.elements() > 0
            && !is_embedding(&tensor.name)
            && !is_router(&tensor.name)
    }

    /// What becomes of all tensors.
    pub fn changes(&self, solved: &Solved, reporter: &mut Reporter) -> Changes {
        let mut all = Vec::with_capacity(solved.made.len());
        let mut beside = Vec::new();
        for (number, made) in solved.made.iter().enumerate() {
            if self.form == Form::ModelCompose && self.index.position(&made.name).is_none() {
                beside.push(number);
                continue;
            }
            let Some(position) = self.position(made, reporter) else { continue };
            all.push((position, self.change(made, position, reporter)));
        }
        // A module with a tensor that is stored whole is stored whole itself, with all that lies in it: peft
        // knows no other way, but for a bias beside an update.
        let tensors = self.index.tensors();
        let module = |at: u32| tensors[at as usize].name.rsplit_once('.').map(|(name, _)| name);
        let updated: HashSet<u32> = all
            .iter()
            .filter(|(_, change)| matches!(change, Change::Update(_)))
            .map(|(position, _)| *position)
            .collect();
        let is_beside = |at: u32| {
            OutputAdapter::weight_of_bias(self.index, at).is_some_and(|at| updated.contains(&at))
        };
        let whole: HashSet<&str> = all
            .iter()
            .filter(|(position, change)| matches!(change, Change::Whole) && !is_beside(*position))
            .filter_map(|(position, _)| module(*position))
            .collect();
        let (updates, replacements, copied) = Default::default();
        let mut found = Changes { all, updates, replacements, copied, beside };
        let is_peft = self.form == Form::Peft;
        for (position, change) in &mut found.all {
            let name = tensors[*position as usize].name.as_str();
            let mut around = name.match_indices('.').map(|(dot, _)| &name[..dot]);
            let is_in_whole = is_peft && around.any(|module| whole.contains(module));
            if matches!(change, Change::Update(_)) && is_in_whole {
                *change = Change::Whole;
            }
            match change {
                Change::None => {}
                Change::Whole => found.replacements.push(*position),
                Change::Update(update) => found.updates.push(OutputUpdate {
                    base_tensor: *position,
                    rank: u64::from(update.rank),
                    is_embedding: false,
                }),
            }
        }
        if is_peft {
            self.warn_of_tied(&found.replacements, reporter);
            self.warn_of_experts(&found.updates, reporter);
            let (updates, wholes) = (&found.updates, &found.replacements);
            found.copied = OutputAdapter::new(self.index, updates, wholes).missing_replacements();
        }
        found.replacements.extend(&found.copied);
        if is_peft && found.updates.is_empty() && !found.replacements.is_empty() {
            let headline = "nothing that changes can be a product of two factors";
            let diagnostic = Diagnostic::error(codes::NO_UPDATE, headline)
                .fact("stored whole", format!("{} tensors", found.replacements.len()))
                .note("peft loads no adapter without a module that gets an update")
                .help("remove `output`, so that a model is written");
            self.refuse(diagnostic, reporter);
        }
        found
    }

    /// Where experts are stored one by one, peft 0.21 takes what is called as their parts are for theirs, and
    /// leaves out what then has no place: updates of shared experts and of layers without experts.
    fn warn_of_experts(&self, updates: &[OutputUpdate], reporter: &mut Reporter) {
        const PARTS: [&str; 3] = [".gate_proj.weight", ".up_proj.weight", ".down_proj.weight"];
        let tensors = self.index.tensors();
        let is_part = |name: &str| PARTS.iter().any(|part| name.ends_with(part));
        let is_of_expert = |name: &str| name.contains(".experts.");
        if !tensors.iter().any(|one| is_of_expert(&one.name) && is_part(&one.name)) {
            return;
        }
        let names = updates.iter().map(|one| tensors[one.base_tensor as usize].name.as_str());
        let lost: Vec<&str> = names.filter(|name| is_part(name) && !is_of_expert(name)).collect();
        let Some(first) = lost.first() else { return };
        let headline = "peft may leave out some updates of this adapter without a word";
        let diagnostic = Diagnostic::warning(codes::LOST_IN_PEFT, headline)
            .fact("updates", format!("{}, `{first}` first", lost.len()))
            .note("peft 0.21 takes gate_proj, up_proj and down_proj of a base with experts for those of experts")
            .help("use the adapter in mixdown, or write a model instead of an adapter");
        reporter.add(diagnostic.at(&self.recipe.source, self.wanted.span));
    }

    /// peft gives what is stored of an embedding to the embedding alone, also where the output layer is
    /// the same tensor.
    fn warn_of_tied(&self, replacements: &[u32], reporter: &mut Reporter) {
        let name = |at: &u32| self.index.tensors()[*at as usize].name.as_str();
        let is_head = |name: &&str| ties::head_of(name).is_some();
        let Some(embedding) = replacements.iter().map(name).find(is_head) else { return };
        if self.is_tied {
            let headline =
                format!("the adapter changes `{embedding}`, which is the output layer too");
            let diagnostic = Diagnostic::warning(codes::TIED_IN_ADAPTER, headline)
                .note(
                    "peft unties them when it loads the adapter: its output layer stays the base's",
                )
                .help("use the adapter in mixdown, or write a model instead of an adapter");
            reporter.add(diagnostic.at(&self.recipe.source, self.wanted.span));
        }
    }

    /// The tensor of the base that a made one takes the place of.
    fn position(&self, made: &Made, reporter: &mut Reporter) -> Option<u32> {
        let position = self.index.position(&made.name);
        let Some(position) = position else {
            let headline = format!("`{}` is not in the base", made.name);
            let diagnostic = Diagnostic::error(codes::TENSOR_MISSING, headline)
                .note("an adapter changes tensors of its base and adds none")
                .help("leave it out with a rule: `drop: true`");
            self.refuse(diagnostic, reporter);
            return None;
        };
        let shape = &self.index.tensors()[position].shape;
        if *shape != made.shape {
            let headline = format!("`{}` has another shape in the base", made.name);
            let diagnostic = Diagnostic::error(codes::SHAPE_MISMATCH, headline)
                .fact("base", shape.to_string())
                .fact("result", made.shape.to_string())
                .help("an adapter keeps all shapes; only a whole model can be written here");
            self.refuse(diagnostic, reporter);
            return None;
        }
        Some(position as u32)
    }

    fn change(&self, made: &Made, position: u32, reporter: &mut Reporter) -> Change {
        let base = TensorRef { model: self.base, tensor: position };
        let (mut split, double) = match &made.how {
            How::Copy { from, .. } if *from == base => return Change::None,
            How::Copy { from, .. } => {
                if !self.takes_update(position) || !made.dtype.is_float() {
                    return Change::Whole;
                }
                let mut graph = Graph::default();
                let output = graph.leaf(Leaf::Tensor(*from));
                (Split { graph, output, steps: Vec::new() }, false)
            }
            How::Graph { graph, output, double } => {
                let split = split(graph, *output).unwrap_or_else(|| Split {
                    graph: graph.as_ref().clone(),
                    output: *output,
                    steps: Vec::new(),
                });
                (split, *double)
            }
        };
        let terms = linear(&split.graph, split.output);
        let terms = terms.and_then(|terms| without_base(terms, Leaf::Tensor(base)));
        if terms.as_ref().is_some_and(Vec::is_empty) {
            return Change::None;
        }
        if !self.takes_update(position) {
            return Change::Whole;
        }
        let &[rows, columns] = made.shape.dimensions() else { return Change::Whole };
        let smaller = rows.min(columns).min(u64::from(u32::MAX)) as u32;
        let sides = (rows as usize, columns as usize);
        let bounded: Option<usize> = terms.as_ref().and_then(|terms| {
            terms.iter().map(|(leaf, _)| bounded_rank(&split, leaf, sides)).sum()
        });
        let stated = self.wanted.rank.as_ref().map(|rank| rank.value);
        // One number in config.json is for all updates, so that each has exactly so many directions.
        let is_fixed = self.form == Form::ModelCompose;
        if is_fixed && stated.is_some_and(|rank| rank > smaller) {
            let headline = format!("`{}` has fewer directions than `rank`", made.name);
            let diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline)
                .fact("shape", made.shape.to_string())
                .help(format!("write a rank of at most {smaller}"));
            self.refuse(diagnostic, reporter);
            return Change::None;
        }
        let stated = stated.map(|rank| rank.min(smaller));
        let is_exact = |total: usize| match is_fixed {
            true => Some(total as u32) == stated,
            false => total <= stated.unwrap_or(smaller) as usize,
        };
        let rank = match (bounded, stated) {
            (Some(0), _) => return Change::None,
            (Some(total), _) if is_exact(total) => {
                if split.needs_group() {
                    return self.refuse_group(made, reporter);
                }
                let (terms, rank) = (terms.unwrap_or_default(), total as u32);
                return Change::Update(Box::new(Update {
                    split,
                    terms,
                    rank,
                    is_exact: true,
                    double,
                }));
            }
            (Some(_), stated) => stated.unwrap_or(smaller),
            (None, Some(rank)) => rank,
            (None, None) => {
                let headline = format!("the update of `{}` is not of a bounded rank", made.name);
                let diagnostic = Diagnostic::error(codes::MISSING_PARAMETER, headline)
                    .fact("shape", made.shape.to_string())
                    .note("only sums of adapters, and of results of matrix ops that keep few directions, are exact as an adapter")
                    .help("give a rank, for instance `output: {as: adapter, rank: 16}`; the error of each update is told");
                self.refuse(diagnostic, reporter);
                return Change::None;
            }
        };
        let operand = match &terms {
            Some(terms) => sum(&mut split.graph, terms),
            None => {
                let base = split.graph.leaf(Leaf::Tensor(base));
                split.graph.map(MapOp::Subtract, &[split.output, base])
            }
        };
        let op = MatrixOp::TruncatedSvd(Rank::Count(rank));
        let layout = MatrixLayout::plain(rows, columns);
        split.steps.push(SplitStep { op, layout, operands: vec![operand] });
        if split.needs_group() {
            return self.refuse_group(made, reporter);
        }
        let leaf = Leaf::Matrix(split.steps.len() as u32 - 1);
        split.graph.leaf(leaf);
        let terms = vec![(leaf, 1.0)];
        Change::Update(Box::new(Update { split, terms, rank, is_exact: false, double }))
    }

    /// A share of the whole model would count the elements of both factors.
    fn refuse_group(&self, made: &Made, reporter: &mut Reporter) -> Change {
        let headline = format!("the update of `{}` depends on other tensors", made.name);
        let diagnostic = Diagnostic::error(codes::UNSUPPORTED, headline)
            .note("the directions of an update are found from its own tensor; a fact of scope `model` or `layer` is about several")
            .help("use `scope: tensor`, or merge to a model first, then `mixdown extract` its adapter");
        self.refuse(diagnostic, reporter);
        Change::None
    }
}

/// Whether a tensor is what chooses among experts: a bare parameter in memory, which takes no update.
fn is_router(name: &str) -> bool {
    let module = name.strip_suffix(".weight").and_then(|name| name.rsplit_once('.'));
    module.is_some_and(|(around, own)| {
        let around = around.rsplit('.').next().unwrap_or_default();
        own == "router"
            || (own == "gate" && ["mlp", "block_sparse_moe", "feed_forward"].contains(&around))
    })
}

/// Whether a tensor is an embedding by its name: rows that are looked up, and no linear layer.
fn is_embedding(name: &str) -> bool {
    let is_part = |part: &str| {
        (part.contains("embed") && part != "embed_out")
            || ["wte", "wpe", "shared", "relative_attention_bias"].contains(&part)
    };
    name.strip_suffix(".weight").and_then(|name| name.rsplit('.').next()).is_some_and(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_are_known_by_what_is_around_them() {
        for name in ["model.layers.0.mlp.gate.weight", "model.layers.0.mlp.router.weight"] {
            assert!(is_router(name), "{name}");
        }
        for name in ["model.layers.0.mlp.gate_proj.weight", "model.layers.0.attention.gate.weight"]
        {
            assert!(!is_router(name), "{name}");
        }
    }

    #[test]
    fn embeddings_are_known_by_their_module() {
        for name in ["model.embed_tokens.weight", "transformer.wte.weight", "shared.weight"] {
            assert!(is_embedding(name), "{name}");
        }
        for name in ["lm_head.weight", "embed_out.weight", "embedder.layers.0.up_proj.weight"] {
            assert!(!is_embedding(name), "{name}");
        }
    }
}
