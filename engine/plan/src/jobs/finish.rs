//! Made tensors become jobs: programs compiled and shared, groups gathered, every input tensor accounted for.

mod output_files;
mod stacks;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::matrix::MatrixOp;
use mixdown_ops::program::{Reduction, Scope};
use mixdown_ops::{MapOp, Precision, Program};
use mixdown_tensor::{DType, Shape};

use crate::bodies::context::Solved;
use crate::families::layer;
use crate::formulas::graph::{Graph, GroupKey, LayerKey, Node, NodeId, Nodes, Reach};
use crate::jobs::adapter::{self, Adapting, Change, Names, Update};
use crate::models::request::{ModelSource, Request};
use crate::models::view::{How, Made};
use crate::plan::Assembled;
use crate::plan::{
    AdapterFiles, Factor, FactsRead, Group, Job, Leaf, LeftOut, LostScalars, MatrixOperand,
    MatrixStep, Merge, Origin, Parts, Plan, Rows, Side, TensorRef, Work,
};
use crate::programs::compile::{
    Compiled, OperandProgram, StepPrograms, Stepped, compile, compile_with,
};
use crate::programs::matrices::{Split, split};
use crate::report::Reporter;
use crate::report::whole;
use output_files::{output_files, warn_of_missing_head};
use stacks::check_stacks;

use super::{gguf, quantize};

/// Assembles the plan of the first recipe; none if it makes no tensor.
pub(crate) fn plan(
    request: &Request<'_>,
    results: &[OnceCell<Solved>],
    origins: Vec<Origin>,
    (rows, assembled): (Vec<Arc<Rows>>, Vec<Arc<Assembled>>),
    reporter: &mut Reporter,
) -> Option<Plan> {
    let solved = results[0].get()?;
    let recipe = &request.recipes[0];
    let measures_all = recipe.quantize.is_some() || recipe.gguf.is_some();
    let mut assembly = Assembly { measures_all, ..Assembly::default() };
    adapter::warn_of_inner(request, reporter);
    let adapting = Adapting::new(request, solved, reporter);
    let mut adapter_files = None;
    match &adapting {
        _ if request.recipes[0].adapter.is_none() => {
            for made in &solved.made {
                assembly.whole(made, made.name.clone());
            }
        }
        Some(adapting) => adapter_files = Some(assembly.adapter(adapting, solved, reporter)),
        None => return None,
    }
    let recipe = &request.recipes[0];
    if assembly.jobs.is_empty()
        && request.models[0].iter().all(|model| *model != ModelSource::Failed)
        && !reporter.has_error()
    {
        let diagnostic = match &adapter_files {
            None => Diagnostic::error(codes::NOTHING_TO_WRITE, "the recipe makes no tensor")
                .help("`mixdown explain` and `mixdown inspect` show what the rules see"),
            Some(_) => Diagnostic::error(
                codes::NOTHING_TO_WRITE,
                "the result is the base: the adapter would hold no tensor",
            ),
        };
        reporter.add(diagnostic.at(&recipe.source, whole(recipe)));
        return None;
    }
    assembly.check_groups(reporter);
    assembly.check_inner_groups(request, results, reporter);
    let mut output = output_files(request, results, &assembly.jobs);
    if adapter_files.is_some() {
        output.files_from = None;
    }
    let Assembly { jobs, programs, .. } = &mut assembly;
    quantize::choose(request, output.files_from, (jobs, programs), reporter);
    gguf::choose(request, &mut output, (jobs, programs), reporter);
    check_stacks(request, &output, &assembly.jobs, reporter);
    warn_of_missing_head(request, &output, &assembly.jobs, reporter);
    output.adapter = adapter_files;
    let models = request.checkpoints.iter().map(|input| input.name.to_owned()).collect();
    let mut left_out =
        left_out(request, solved, &assembly.jobs, &Parts { rows: &rows, assembled: &assembled });
    if output.adapter.is_some() {
        let made: HashSet<&str> = solved.made.iter().map(|made| made.name.as_str()).collect();
        for found in &mut left_out {
            let TensorRef { model, tensor } = found.tensor;
            let index = request.checkpoints[model as usize].index;
            if made.contains(index.tensors()[tensor as usize].name.as_str()) {
                "an adapter holds only what changes".clone_into(&mut found.reason);
            }
        }
    }
    assembly.number_layers();
    let Assembly { programs, jobs, groups, .. } = assembly;
    Some(Plan { models, programs, jobs, groups, rows, assembled, origins, left_out, output })
}

/// Jobs so far, and what they share.
#[derive(Default)]
struct Assembly {
    programs: Vec<Arc<Program>>,
    known: HashMap<Arc<Program>, u32>,
    /// What graphs of the same nodes became, by these and the output; none for those with matrix ops.
    compiled: HashMap<Place, Option<Rc<Alike>>>,
    jobs: Vec<Job>,
    groups: Vec<Group>,
    /// For each group the layer of each of its jobs.
    layers: Vec<Vec<LayerKey>>,
    group_keys: BTreeMap<GroupKey, u32>,
    /// Whether updates are measured that are stored in a wide type: what they are coded as loses more.
    measures_all: bool,
}

/// The nodes of a graph, its output, its base and the type of the result.
type Place = (*const Nodes, NodeId, Option<NodeId>, DType);

/// A compiled graph without groups and matrix ops.
struct Alike {
    program: u32,
    constants: Vec<f64>,
    /// Which of the graph's leaves the program reads.
    leaves: Vec<u32>,
    /// Which of its streams.
    streams: Vec<usize>,
    lost: Option<LostScalars>,
}

impl Assembly {
    /// A tensor that is written as it was made, under this name.
    fn whole(&mut self, made: &Made, name: String) {
        let work = match &made.how {
            How::Copy { from, equal_to, within } => {
                Work::Copy { from: *from, equal_to: equal_to.clone(), within: *within }
            }
            How::Graph { graph, output, double } => {
                let precision = if *double { Precision::Double } else { Precision::Single };
                match self.alike(graph, *output, made.dtype) {
                    Some(compiled) => Work::Merge(merge_of(graph, &compiled, precision)),
                    None => self.computed(graph, *output, made.dtype, precision),
                }
            }
        };
        let shape = made.shape.clone();
        let Made { dtype, origin, treatment, .. } = *made;
        self.jobs.push(Job { name, shape, dtype, work, origin, treatment, quantized: None });
    }

    /// A tensor that is compiled by itself.
    fn computed(
        &mut self,
        graph: &Graph,
        output: NodeId,
        dtype: DType,
        precision: Precision,
    ) -> Work {
        match split(graph, output) {
            None => {
                let (graph, compiled) = measured(graph, output, dtype, self.measures_all);
                let mut merge = self.merge(&graph, compiled.job, precision);
                merge.lost = lost_scalars(&compiled.measures);
                Work::Merge(merge)
            }
            Some(mut split) => {
                let output = split.output;
                let measures = lost_to_rounding(&mut split.graph, output, dtype, self.measures_all);
                self.matrices(&split, &measures, precision)
            }
        }
    }

    /// What changes of the base, as the tensors of an adapter.
    fn adapter(
        &mut self,
        adapting: &Adapting<'_>,
        solved: &Solved,
        reporter: &mut Reporter,
    ) -> AdapterFiles {
        let changes = adapting.changes(solved, reporter);
        let (form, index) = (adapting.form, adapting.index);
        let names = Names::new(form, index, &changes.updates, &changes.replacements);
        let by_name: HashMap<&str, &Made> =
            solved.made.iter().map(|made| (made.name.as_str(), made)).collect();
        let made = |position: u32| {
            by_name.get(adapting.index.tensors()[position as usize].name.as_str()).copied()
        };
        let updates: HashMap<u32, _> =
            changes.updates.iter().map(|update| (update.base_tensor, update)).collect();
        for (position, change) in &changes.all {
            let Some(made) = made(*position) else { continue };
            match change {
                Change::None => {}
                Change::Whole => self.whole(made, names.replacement(*position)),
                Change::Update(update) => {
                    let found = updates.get(position);
                    let Some(pair) = found.and_then(|found| names.factors(found)) else {
                        continue;
                    };
                    self.factors(made, update, pair, adapting.dtype);
                }
            }
        }
        for &position in &changes.copied {
            let entry = &adapting.index.tensors()[position as usize];
            let from = TensorRef { model: adapting.base, tensor: position };
            self.jobs.push(Job {
                name: names.replacement(position),
                shape: entry.shape.clone(),
                dtype: entry.dtype,
                work: Work::Copy { from, equal_to: Vec::new(), within: None },
                origin: made(position).or(solved.made.first()).map_or(0, |made| made.origin),
                treatment: None,
                quantized: None,
            });
        }
        for made in changes.beside.iter().map(|&number| &solved.made[number]) {
            self.whole(made, made.name.clone());
        }
        let (updates, replacements) = (changes.updates, changes.replacements);
        AdapterFiles { base: adapting.base, updates, replacements }
    }

    /// The two factors of an update.
    fn factors(
        &mut self,
        made: &Made,
        update: &Update,
        (left, right): (String, String),
        dtype: DType,
    ) {
        let precision = if update.double { Precision::Double } else { Precision::Single };
        let &[rows, columns] = made.shape.dimensions() else { return };
        let (rank, pair) = (u64::from(update.rank), self.jobs.len() as u32);
        let mut graph = update.split.graph.clone();
        let output = graph.leaf(Leaf::Factor);
        for (name, side, shape) in
            [(left, Side::Left, [rows, rank]), (right, Side::Right, [rank, columns])]
        {
            let Ok(shape) = Shape::new(shape.to_vec()) else { continue };
            let steps = &update.split.steps;
            let compiled = compile_with(&graph, output, steps, &[]);
            let mut merge = self.merge(&graph, compiled.job, precision);
            merge.matrices = self.steps(&update.split, compiled.steps, precision);
            let terms = update.terms.clone();
            let is_exact = update.is_exact;
            merge.factor = Some(Factor { terms, side, rank, is_exact, rows, columns, pair });
            let work = Work::Merge(merge);
            let Made { origin, treatment, .. } = *made;
            self.jobs.push(Job { name, shape, dtype, work, origin, treatment, quantized: None });
        }
    }

    /// What a graph was compiled to, for those with the same nodes; none if more than its leaves and streams
    /// is a tensor's own.
    fn alike(&mut self, graph: &Graph, output: NodeId, dtype: DType) -> Option<Rc<Alike>> {
        if !graph.groups.is_empty() {
            return None;
        }
        // The graphs outlive the assembly, so that the place of their nodes tells them apart.
        let place = (Arc::as_ptr(&graph.nodes), output, graph.base, dtype);
        if let Some(known) = self.compiled.get(&place) {
            return known.clone();
        }
        // Two streams of one key are one in a program, and may be two for the next tensor.
        let is_simple = all_differ(&graph.streams) && split(graph, output).is_none();
        let compiled = is_simple.then(|| {
            let (graph, Stepped { job, measures, .. }) =
                measured(graph, output, dtype, self.measures_all);
            let Compiled { program, constants, leaves, streams, .. } = job;
            let lost = lost_scalars(&measures);
            let place = |key| graph.streams.iter().position(|known| *known == key);
            let streams = streams.into_iter().filter_map(place).collect();
            Rc::new(Alike { program: self.program(program), constants, leaves, streams, lost })
        });
        self.compiled.insert(place, compiled.clone());
        compiled
    }

    /// The number of a program.
    fn program(&mut self, program: Program) -> u32 {
        let program = Arc::new(program);
        match self.known.get(&program) {
            Some(&number) => number,
            None => {
                let number = self.programs.len() as u32;
                self.programs.push(program.clone());
                self.known.insert(program, number);
                number
            }
        }
    }

    fn merge(&mut self, graph: &Graph, compiled: Compiled, precision: Precision) -> Merge {
        let number = self.program(compiled.program);
        let leaves = compiled.leaves.iter().map(|&leaf| graph.leaves[leaf as usize]).collect();
        let job = self.jobs.len() as u32;
        let groups = compiled.groups.into_iter();
        let groups = groups.map(|(key, layer)| self.group(key, layer, job)).collect();
        Merge {
            program: number,
            leaves,
            constants: compiled.constants,
            streams: compiled.streams,
            groups,
            precision,
            matrices: Vec::new(),
            factor: None,
            lost: None,
        }
    }

    /// The matrix ops of a tensor, each operand a program of its own.
    fn steps(
        &mut self,
        split: &Split,
        programs: Vec<StepPrograms>,
        precision: Precision,
    ) -> Vec<MatrixStep> {
        let mut steps = Vec::with_capacity(split.steps.len());
        for (step, StepPrograms { before, operands: programs }) in split.steps.iter().zip(programs)
        {
            let count = step.operands.len();
            let mut operands = Vec::with_capacity(count);
            for (position, (&operand, program)) in step.operands.iter().zip(programs).enumerate() {
                let OperandProgram { compiled, scalars, cuts } = program;
                let merge = self.merge(&split.graph, compiled, precision);
                let combination = split.combination(operand);
                let stored = match step.op {
                    MatrixOp::Recovered(_) => split.stored(operand),
                    _ => None,
                };
                let (rows, columns) = step.layout.of_operand(&step.op, position, count);
                let facts = FactsRead { scalars, cuts };
                let operand = MatrixOperand { merge, facts, rows, columns, combination, stored };
                operands.push(operand);
            }
            let (rows, columns) = step.layout.of_result(&step.op, count);
            let (op, layout) = (step.op.clone(), step.layout);
            steps.push(MatrixStep { op, layout, rows, columns, operands, before });
        }
        steps
    }

    /// A merge with matrix ops.
    fn matrices(&mut self, split: &Split, measures: &[NodeId], precision: Precision) -> Work {
        let compiled = compile_with(&split.graph, split.output, &split.steps, measures);
        let lost = lost_scalars(&compiled.measures);
        let mut merge = self.merge(&split.graph, compiled.job, precision);
        merge.matrices = self.steps(split, compiled.steps, precision);
        merge.lost = lost;
        Work::Merge(merge)
    }

    /// The group of a key, with the job in it.
    fn group(&mut self, key: GroupKey, layer: LayerKey, job: u32) -> u32 {
        let number = match self.group_keys.get(&key) {
            Some(&number) => number,
            None => {
                let mut title = format!("`{}`, {}", key.step, key.ordinal);
                if let Some((prefix, layer)) = &key.layer {
                    title.push_str(&format!(", of `{prefix}{layer}`"));
                }
                self.groups.push(Group { title, jobs: Vec::new(), layers: Vec::new() });
                self.layers.push(Vec::new());
                let number = self.groups.len() as u32 - 1;
                self.group_keys.insert(key, number);
                number
            }
        };
        let jobs = &mut self.groups[number as usize].jobs;
        if jobs.last() != Some(&job) {
            jobs.push(job);
            self.layers[number as usize].push(layer);
        }
        number
    }

    /// Counts the layers of each group, in the order of the model.
    fn number_layers(&mut self) {
        for (group, own) in self.groups.iter_mut().zip(&self.layers) {
            let all: BTreeSet<&LayerKey> = own.iter().collect();
            let numbers: BTreeMap<&LayerKey, u32> = all.into_iter().zip(0..).collect();
            group.layers = own.iter().map(|layer| numbers[layer]).collect();
        }
    }

    /// A fact over the whole model of a recipe that is an input needs all that recipe's tensors: over
    /// fewer it would not be what writing the recipe's result first gives.
    fn check_inner_groups(
        &self,
        request: &Request<'_>,
        results: &[OnceCell<Solved>],
        reporter: &mut Reporter,
    ) {
        for (key, &group) in &self.group_keys {
            let inner = key.section.0 as usize;
            let Some(solved) = results[inner].get().filter(|_| inner != 0) else { continue };
            let takes_part = |how: &How| match how {
                How::Graph { graph, output, .. } => needs_group(graph, *output, key),
                How::Copy { .. } => false,
            };
            let all = solved.made.iter().filter(|made| takes_part(&made.how)).count();
            let used = self.groups[group as usize].jobs.len();
            if used != all {
                let recipe = &request.recipes[inner];
                let scope = if key.layer.is_some() { "layer" } else { "model" };
                let headline = format!(
                    "`scope: {scope}` of the recipe `{}` needs all its tensors, each once",
                    recipe.source.name()
                );
                let diagnostic = Diagnostic::error(codes::UNSUPPORTED, headline)
                    .fact("tensors", all.to_string())
                    .fact("used", used.to_string())
                    .help(
                        "merge that recipe first and name its result, or use `scope: tensor` in it",
                    );
                reporter.add(diagnostic.at(&recipe.source, whole(recipe)));
            }
        }
    }

    /// A threshold over the whole model has one density, and one type of arithmetic.
    fn check_groups(&self, reporter: &mut Reporter) {
        let mut densities: HashMap<u32, (f64, Precision, &str)> = HashMap::new();
        for job in &self.jobs {
            let Work::Merge(merge) = &job.work else { continue };
            let passes = &self.programs[merge.program as usize].passes;
            for slot in passes.iter().flat_map(|pass| &pass.selections) {
                let Scope::Group(scope) = slot.scope else { continue };
                let group = merge.groups[scope as usize];
                let density = merge.constants.get(slot.density as usize).copied();
                // A count that facts about the whole model give is the same for all its tensors.
                if slot.is_count && density.is_none() {
                    continue;
                }
                let density = density.unwrap_or(f64::NAN);
                let own = (density, merge.precision, job.name.as_str());
                let known = *densities.entry(group).or_insert(own);
                if known.0 != density || known.1 != merge.precision {
                    let headline = "a share of the whole model cannot differ from tensor to tensor";
                    let diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline)
                        .fact(known.2, format!("density {}", known.0))
                        .fact(job.name.clone(), format!("density {density}"))
                        .help("use `scope: tensor`, or one density for all tensors of the rule");
                    reporter.add(diagnostic);
                    return;
                }
            }
        }
    }
}

/// Adds what tells how much of an update is lost when the result is rounded to the type that it is stored
/// in: Σ (stored − exact)², Σ (exact − base)² and max |exact|. Nothing where there is no update, or where
/// the type is as wide as the arithmetic, unless all are measured.
fn lost_to_rounding(
    graph: &mut Graph,
    output: NodeId,
    dtype: DType,
    measures_all: bool,
) -> Vec<NodeId> {
    let is_narrow = matches!(dtype, DType::Bf16 | DType::F16);
    let is_measured = is_narrow || measures_all;
    let Some(base) = graph.base.filter(|&base| is_measured && base != output) else {
        return Vec::new();
    };
    if !graph.is_tensor(output) {
        return Vec::new();
    }
    let update = graph.map(MapOp::Subtract, &[output, base]);
    let lost = if is_narrow {
        let stored = graph.add(Node::Round(dtype), &[output]);
        graph.map(MapOp::Subtract, &[stored, output])
    } else {
        // Nothing is lost, and nobody asks.
        update
    };
    if !graph.is_tensor(lost) || !graph.is_tensor(update) {
        return Vec::new();
    }
    let mut reduce = |reduction, operands: &[NodeId]| {
        graph.add(Node::Reduce(reduction, Reach::Tensor), operands)
    };
    vec![
        reduce(Reduction::SumProduct, &[lost, lost]),
        reduce(Reduction::SumProduct, &[update, update]),
        reduce(Reduction::LargestAbsolute, &[output]),
    ]
}

fn lost_scalars(measures: &[u32]) -> Option<LostScalars> {
    match *measures {
        [lost, update, largest] => Some(LostScalars { lost, update, largest }),
        _ => None,
    }
}

/// A graph compiled with what tells how much of its update is lost.
fn measured(graph: &Graph, output: NodeId, dtype: DType, measures_all: bool) -> (Graph, Stepped) {
    let mut graph = graph.clone();
    let measures = lost_to_rounding(&mut graph, output, dtype, measures_all);
    let compiled = compile(&graph, output, &measures);
    (graph, compiled)
}

/// The merge of a graph with the nodes of one that was compiled.
fn merge_of(graph: &Graph, compiled: &Alike, precision: Precision) -> Merge {
    let leaves = compiled.leaves.iter().map(|&leaf| graph.leaves[leaf as usize]).collect();
    let constants = compiled.constants.clone();
    let streams = compiled.streams.iter().map(|&stream| graph.streams[stream]).collect();
    let (groups, matrices) = (Vec::new(), Vec::new());
    let Alike { program, lost, .. } = *compiled;
    let factor = None;
    Merge { program, leaves, constants, streams, groups, precision, matrices, factor, lost }
}

fn all_differ(keys: &[u64]) -> bool {
    let mut seen = HashSet::new();
    keys.iter().all(|key| seen.insert(key))
}

/// Whether an output depends on a fact about this group.
fn needs_group(graph: &Graph, output: NodeId, key: &GroupKey) -> bool {
    let Some(position) = graph.groups.iter().position(|(own, _)| own == key) else { return false };
    graph.needed(&[output]).into_iter().any(|id| match graph.nodes[id] {
        Node::Reduce(_, Reach::Group(group))
        | Node::KeepLargest(_, Reach::Group(group))
        | Node::KeepCount(Reach::Group(group))
        | Node::LeastOfLargest(Reach::Group(group)) => group as usize == position,
        Node::Standing(_, group) => group as usize == position,
        _ => false,
    })
}

/// The input tensors that no job reads.
fn left_out(
    request: &Request<'_>,
    solved: &Solved,
    jobs: &[Job],
    parts: &Parts<'_>,
) -> Vec<LeftOut> {
    let mut read: HashSet<TensorRef> = HashSet::new();
    for job in jobs {
        match &job.work {
            Work::Copy { from, equal_to, .. } => {
                read.insert(*from);
                read.extend(equal_to);
            }
            Work::Merge(merge) => read.extend(merge.tensors(parts)),
        }
    }
    let mut found = Vec::new();
    for (model, input) in request.checkpoints.iter().enumerate() {
        let only_attached = is_only_attached(request, model as u32);
        let maps = request.mapped.iter().filter(|mapped| mapped.source == model as u32);
        let map = maps.map(|mapped| mapped.map.name.value.as_str()).next();
        for (position, entry) in input.index.tensors().iter().enumerate() {
            let tensor = TensorRef { model: model as u32, tensor: position as u32 };
            if read.contains(&tensor) {
                continue;
            }
            let reason = solved.reasons.get(&entry.name).cloned();
            let reason = reason.filter(|_| !only_attached && map.is_none());
            let reason = reason.unwrap_or_else(|| match (map, layer::split(&entry.name)) {
                (Some(map), _) => format!("the map `{map}` does not use it"),
                _ if only_attached => "no formula asks for it".to_owned(),
                (_, Some(_)) => "no layer range of its model covers it".to_owned(),
                (_, None) => "its model does not take part there".to_owned(),
            });
            found.push(LeftOut { tensor, reason });
        }
    }
    found
}

/// Whether a checkpoint only goes with models, and is none itself.
fn is_only_attached(request: &Request<'_>, checkpoint: u32) -> bool {
    if request.mapped.iter().any(|one| [one.source, one.target].contains(&checkpoint)) {
        return false;
    }
    let recipes = request.recipes.iter().zip(&request.models);
    let uses = recipes.flat_map(|(recipe, sources)| recipe.models.iter().zip(sources));
    let mut uses = uses.filter(|(_, source)| **source == ModelSource::Checkpoint(checkpoint));
    uses.all(|(model, _)| model.attached_as.is_some())
}
