//! The part of a flow that computes matrix ops, each before the pass that reads its result or waits for it.
//!
//! An op is prepared by one thread, and its rows are then computed in blocks by all of them. Operands
//! are read from the inputs as often as the op asks and never held here.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::matrix::{Factors, Operands, Prepared, Report, Stop};
use mixdown_ops::selection::Cut;
use mixdown_ops::{Call, Input, Output, Precision};
use mixdown_plan::{Leaf, MatrixOperand, MatrixStep, Merge};
use mixdown_tensor::DType;

use crate::context::{Context, Facts, internal, lock};
use crate::hands::Hands;
use crate::held::{Held, Values, combine, held_dtype};
use crate::messages;
use crate::noise;
use crate::report::MatrixReport;
use crate::resources::Resources;
use crate::rows::SCRATCH_BYTES;
use crate::scheduler::Failure;
use crate::steps::Put;
use crate::turned::{self, Solved};
use crate::widen;

/// The matrix ops of one job, one after another.
pub(crate) struct MatrixStage<'a> {
    context: &'a Context<'a>,
    job: u32,
    merge: &'a Merge,
    resources: Arc<Resources>,
    /// The ops in the order in which they run.
    order: Vec<usize>,
    state: Mutex<State>,
}

/// The op under way: which, what it may know of whole tensors, and how far it is.
struct State {
    number: usize,
    /// The first byte of what a plain op puts aside.
    place: u64,
    facts: Arc<Vec<Facts>>,
    phase: Phase,
}

enum Phase {
    /// The next op has not begun.
    Between,
    /// A thread prepares it.
    Preparing,
    Prepared(Arc<dyn Prepared>),
    /// Matrices of a tensor that is not one itself are solved, each by one thread: the reports, and where
    /// elements go.
    Matrices {
        reports: Vec<Option<Report>>,
        held: Option<Held>,
        values: Values,
    },
    /// Rows are computed: the block's losses, and where the rows go.
    Rows {
        prepared: Arc<dyn Prepared>,
        losses: Vec<(f64, f64)>,
        values: Values,
    },
}

impl<'a> MatrixStage<'a> {
    /// Some of a job's ops, in this order.
    pub(crate) fn new(
        context: &'a Context<'a>,
        job: u32,
        merge: &'a Merge,
        order: Vec<usize>,
        resources: Arc<Resources>,
    ) -> Self {
        let state = State { number: 0, place: 0, facts: Arc::default(), phase: Phase::Between };
        Self { context, job, merge, resources, order, state: Mutex::new(state) }
    }

    /// Whether an op is under way.
    pub(crate) fn is_active(&self) -> bool {
        !matches!(lock(&self.state).phase, Phase::Between)
    }

    /// The next op that runs before a pass, or an earlier one.
    fn next_before(&self, pass: usize) -> Option<usize> {
        let due = |&&step: &&usize| (self.merge.matrices[step].before as usize) <= pass;
        let mut due = self.order.iter().take_while(due);
        due.find(|&&step| !self.resources.is_done(step)).copied()
    }

    /// Ends what a round did; says how many units the next one has, none when all ops that run before
    /// this pass are done. `facts` are what is known there.
    pub(crate) fn advance(
        &self,
        pass: usize,
        facts: &Arc<Vec<Facts>>,
    ) -> Result<Option<u64>, Failure> {
        let mut state = lock(&self.state);
        while let Some(number) = self.next_before(pass) {
            let step = &self.merge.matrices[number];
            match std::mem::replace(&mut state.phase, Phase::Between) {
                Phase::Between => {
                    let kept = self.context.results.load(self.job, number, self.merge.precision);
                    if let Some((held, report)) = kept {
                        self.conclude(number, held, report, true)?;
                        continue;
                    }
                    let phase = match step.layout.is_plain() {
                        true => Phase::Preparing,
                        false => self.matrices(number, step),
                    };
                    let place = match step.layout.is_plain() {
                        true => self.context.places.take(self.aside_bytes(number)),
                        false => 0,
                    };
                    *state = State { number, place, facts: Arc::clone(facts), phase };
                    return Ok(Some(match step.layout.is_plain() {
                        true => 1,
                        false => step.layout.matrices.max(1),
                    }));
                }
                Phase::Preparing => {
                    return Err(Failure::Fatal(internal("a matrix op was not prepared")));
                }
                Phase::Prepared(prepared) => match prepared.factors() {
                    Some(factors) => {
                        let held = Held::from_factors(factors, self.merge.precision);
                        self.context.places.give_back(state.place, self.aside_bytes(number));
                        self.check_finite(step, &held)?;
                        self.keep(number, held, prepared.report())?;
                    }
                    None => {
                        let blocks = self.blocks(number, step);
                        let count = (step.rows * step.columns) as usize;
                        let values = Values::zeros(count, self.merge.precision);
                        let losses = vec![(0.0, 0.0); blocks as usize];
                        state.phase = Phase::Rows { prepared, losses, values };
                        return Ok(Some(blocks));
                    }
                },
                Phase::Matrices { reports, held, values } => {
                    let report = turned::summed(reports.into_iter().flatten());
                    let held = held.unwrap_or(Held::Dense(values));
                    self.check_finite(step, &held)?;
                    self.keep(number, held, report)?;
                }
                Phase::Rows { prepared, losses, values } => {
                    self.context.places.give_back(state.place, self.aside_bytes(number));
                    let mut report = prepared.report();
                    if let Some(known) = report.loss {
                        // In order of the blocks, so that it does not depend on the threads.
                        let add =
                            |(a, b): (f64, f64), &(start, end): &(f64, f64)| (a + start, b + end);
                        report.loss = Some(losses.iter().fold(known, add));
                    }
                    let held = Held::Dense(values);
                    self.check_finite(step, &held)?;
                    self.keep(number, held, report)?;
                }
            }
        }
        Ok(None)
    }

    /// The round that solves the matrices of a tensor.
    fn matrices(&self, number: usize, step: &MatrixStep) -> Phase {
        let has_factors = self.context.matrix_needs.of(self.job)[number].result_rank.is_some();
        let count = if has_factors { 0 } else { (step.rows * step.columns) as usize };
        let values = Values::zeros(count, self.merge.precision);
        Phase::Matrices { reports: vec![None; step.layout.matrices as usize], held: None, values }
    }

    fn check_finite(&self, step: &MatrixStep, held: &Held) -> Result<(), Failure> {
        let found = match held {
            Held::Dense(values) => values.first_nonfinite().map(Some),
            factors => (!factors.is_finite()).then_some(None),
        };
        match found {
            Some(element) if self.context.check_finite => {
                let tensor = &self.context.job(self.job).name;
                Err(Failure::Input(Box::new(not_finite(step, tensor, element))))
            }
            _ => Ok(()),
        }
    }

    fn blocks(&self, number: usize, step: &MatrixStep) -> u64 {
        step.rows.div_ceil(self.block_rows(number)).max(1)
    }

    fn aside_bytes(&self, number: usize) -> u64 {
        self.context.matrix_needs.of(self.job)[number].aside_bytes
    }

    fn block_rows(&self, number: usize) -> u64 {
        self.context.matrix_needs.of(self.job)[number].block_rows.max(1) as u64
    }

    /// Hands a result to the store and to the rest of the flow.
    fn keep(&self, number: usize, held: Held, mut report: Report) -> Result<(), Failure> {
        report.norm = report.norm.or_else(|| Some(held.norm()));
        let flops = self.context.matrix_needs.of(self.job)[number].flops;
        // With NaN allowed among the inputs a result may be NaN, which another run must not find.
        if self.context.check_finite {
            self.context.results.keep(self.job, number, flops, &held, &report);
        }
        self.conclude(number, held, report, false)
    }

    fn conclude(
        &self,
        number: usize,
        held: Held,
        report: Report,
        from_store: bool,
    ) -> Result<(), Failure> {
        if let Some(offset) = self.context.aside.place(self.job, number) {
            let form = held.put_aside(offset, self.context.sink).map_err(Failure::Fatal)?;
            lock(&self.context.put).insert((self.job, number), Put { offset, form });
        }
        let tensor = self.context.job(self.job).name.clone();
        let op = self.merge.matrices[number].op.name().into();
        self.resources.put(number, Arc::new(held));
        let report = MatrixReport { tensor, op, report, from_store };
        self.context.note(self.job, |told| told.matrices.push(report));
        Ok(())
    }

    /// Runs one unit of the round.
    pub(crate) fn piece(&self, index: u64, hands: &mut Hands) -> Result<(), Failure> {
        let (number, place, facts, prepared, is_whole) = {
            let state = lock(&self.state);
            let (prepared, is_whole) = match &state.phase {
                Phase::Preparing => (None, false),
                Phase::Matrices { .. } => (None, true),
                Phase::Rows { prepared, .. } => (Some(Arc::clone(prepared)), false),
                _ => return Err(Failure::Fatal(internal("a matrix op has no such round"))),
            };
            (state.number, state.place, Arc::clone(&state.facts), prepared, is_whole)
        };
        let step = &self.merge.matrices[number];
        let precision = self.merge.precision;
        let place = match is_whole {
            true => self.context.places.take(self.aside_bytes(number)),
            false => place,
        };
        let mut reader = Reader {
            place,
            context: self.context,
            job: self.job,
            step,
            resources: &self.resources,
            facts: &facts[0],
            hands,
            failure: None,
        };
        if is_whole {
            let (op, layout, matrix) = (&step.op, &step.layout, index as usize);
            let backend = self.context.backend;
            let found = turned::solve(backend, op, layout, matrix, &mut reader, precision);
            let found = found.map_err(|stop| self.stopped(stop, reader.failure, step))?;
            self.context.places.give_back(place, self.aside_bytes(number));
            self.put_matrix(step, matrix, found);
            return Ok(());
        }
        let Some(prepared) = prepared else {
            let found = self.context.backend.prepare(&step.op, &mut reader, precision);
            let prepared = found.map_err(|stop| self.stopped(stop, reader.failure, step))?;
            lock(&self.state).phase = Phase::Prepared(Arc::from(prepared));
            return Ok(());
        };
        let first = index * self.block_rows(number);
        let rows = self.block_rows(number).min(step.rows - first.min(step.rows));
        let columns = step.columns as usize;
        let mut block = vec![0.0; rows as usize * columns];
        let loss = prepared.rows(&mut reader, first as usize, &mut block);
        let loss = loss.map_err(|stop| self.stopped(stop, reader.failure, step))?;
        if let Phase::Rows { losses, values, .. } = &mut lock(&self.state).phase {
            losses[index as usize] = loss;
            values.put(first as usize * columns, &block);
        }
        Ok(())
    }

    fn put_matrix(&self, step: &MatrixStep, matrix: usize, found: Solved) {
        if let Phase::Matrices { reports, held, values } = &mut lock(&self.state).phase {
            let elements = (step.rows * step.columns / step.layout.matrices.max(1)) as usize;
            reports[matrix] = Some(found.report);
            values.put(matrix * elements, &found.values);
            *held = found.held;
        }
    }

    fn stopped(&self, stop: Stop, failure: Option<Failure>, step: &MatrixStep) -> Failure {
        let tensor = &self.context.job(self.job).name;
        match (stop, failure) {
            (_, Some(failure)) => failure,
            (stop, None) => Failure::Input(Box::new(stop_diagnostic(stop, step, tensor))),
        }
    }
}

/// Why a matrix op stopped, as a message.
pub(crate) fn stop_diagnostic(stop: Stop, step: &MatrixStep, tensor: &str) -> Diagnostic {
    let diagnostic = match stop {
        Stop::Refused(headline, help) => {
            Diagnostic::error(codes::OUT_OF_RANGE, headline).help(help)
        }
        Stop::Failed(headline) => Diagnostic::error(codes::NUMERICS, headline).help(
            "look at this tensor in each model with `mixdown inspect`; a rule can give it another method",
        ),
        Stop::Lacks(headline) => Diagnostic::error(codes::BACKEND_LACKS, headline)
            .help("merge on the processor with `--device cpu`, which has every op"),
        Stop::Device(headline, help) => {
            Diagnostic::error(codes::CUDA_FAILED, headline).help(help)
        }
        Stop::DeviceMemory(headline, help) => {
            Diagnostic::error(codes::DEVICE_MEMORY, headline).help(help)
        }
        Stop::Reading => *internal("an operand could not be read, and nobody said why"),
    };
    diagnostic
        .fact("op", step.op.name())
        .fact("tensor", tensor)
        .fact("shape", format!("[{}, {}]", step.rows, step.columns))
}

fn not_finite(step: &MatrixStep, tensor: &str, element: Option<usize>) -> Diagnostic {
    let headline = format!("`{}` gave NaN or infinity", step.op.name());
    let mut diagnostic = Diagnostic::error(codes::NUMERICS, headline).fact("tensor", tensor);
    if let Some(element) = element {
        let (row, column) = (element as u64 / step.columns, element as u64 % step.columns);
        diagnostic = diagnostic.fact("element", format!("[{row}, {column}]"));
    }
    diagnostic.help("a smaller learning rate, fewer steps, or `dtype: float64` may help")
}

/// Numbers that are put aside or read from there at a time.
const ASIDE_NUMBERS: usize = 1 << 16;

/// What a matrix op reads: the programs of its operands, over whole rows.
struct Reader<'a, 'h> {
    context: &'a Context<'a>,
    /// The first byte of what the op puts aside.
    place: u64,
    job: u32,
    step: &'a MatrixStep,
    resources: &'h Resources,
    /// What is known of the job's whole tensors.
    facts: &'h Facts,
    hands: &'h mut Hands,
    /// Why reading failed.
    failure: Option<Failure>,
}

impl Reader<'_, '_> {
    /// Computes elements of an operand and hands them on in stretches: their position, and their bytes.
    fn evaluate(
        &mut self,
        operand: usize,
        first: u64,
        count: usize,
        dtype: DType,
        mut take: impl FnMut(usize, &[u8]),
    ) -> Result<(), Failure> {
        // A matrix op reads again and again in work that may take a minute.
        if self.context.cancel.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        let MatrixOperand { merge, facts: read, .. } = &self.step.operands[operand];
        let Merge { program, leaves, constants, streams, precision, .. } = merge;
        let program = &*self.context.plan.programs[*program as usize];
        let pass = &program.passes[0];
        let found = read.scalars.iter().map(|&from| self.facts.scalars[from as usize]);
        let scalars: Vec<f64> = constants.iter().copied().chain(found).collect();
        let cuts: Vec<Cut> = read.cuts.iter().map(|&from| self.facts.cuts[from as usize]).collect();
        let mut at = 0;
        while at < count {
            let elements = (count - at).min(self.context.stripe);
            let position = first + at as u64;
            let leaf_dtype = |leaf| self.context.leaf_dtype(leaf, *precision);
            let mut sizes: Vec<usize> = Vec::with_capacity(leaves.len() + 2);
            for (input, &leaf) in (0_u32..).zip(leaves) {
                let is_read = pass.inputs.contains(&input);
                sizes.push(if is_read { leaf_dtype(leaf).bytes() * elements } else { 0 });
            }
            sizes.push(dtype.bytes() * elements);
            sizes.push(SCRATCH_BYTES * elements);
            let mut buffers = self.hands.arena.split_list(&sizes);
            let scratch = buffers.pop().expect("the sizes end with scratch");
            let output = buffers.pop().expect("the output comes before it");
            let mut inputs = Vec::with_capacity(leaves.len());
            for (&leaf, buffer) in leaves.iter().zip(buffers) {
                let dtype = leaf_dtype(leaf);
                if !buffer.is_empty() {
                    let from = (self.resources, &mut *self.hands.worker);
                    self.context.read_leaf(leaf, from, position, dtype, buffer, scratch)?;
                }
                inputs.push(Input { dtype, bytes: buffer });
            }
            let worker = &mut self.hands.worker;
            worker.begin(pass, *precision, &[]);
            worker.run(Call {
                program,
                pass,
                precision: *precision,
                first: position,
                elements,
                inputs: &inputs,
                scalars: &scalars,
                cuts: &cuts,
                streams,
                rounds: &[],
                reduce: false,
                check_finite: self.context.check_finite,
                output: Some(Output { dtype, bytes: &mut *output }),
            });
            let partial = worker.finish();
            if let Some(found) = partial.nonfinite {
                let leaf = leaves[found.input as usize];
                return Err(self.context.nonfinite(leaf, found.element));
            }
            if let Some(found) = partial.improbable {
                return Err(messages::improbable(&self.context.job(self.job).name, found));
            }
            take(at, output);
            at += elements;
        }
        Ok(())
    }

    /// Elements of an operand that is a combination of products, in f64.
    fn multiply(&mut self, operand: usize, first: u64, values: &mut [f64]) -> Result<(), Failure> {
        if self.context.cancel.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        values.fill(0.0);
        for (held, factor) in self.held(operand).unwrap_or_default() {
            held.add_product(factor, first, values);
        }
        let MatrixOperand { merge, combination, .. } = &self.step.operands[operand];
        // What the arithmetic cannot hold is refused, as where a program reads it.
        let is_lost = |value: &f64| match merge.precision {
            Precision::Single => !(*value as f32).is_finite(),
            Precision::Double => !value.is_finite(),
        };
        let lost = values.iter().position(is_lost).filter(|_| self.context.check_finite);
        match (lost, combination.as_deref()) {
            (Some(at), Some([(leaf, _), ..])) => {
                Err(self.context.nonfinite(*leaf, first + at as u64))
            }
            _ => Ok(()),
        }
    }

    /// Keeps the reason of a failure for who called the op.
    fn or_stop<T>(&mut self, result: Result<T, Failure>) -> Result<T, Stop> {
        result.map_err(|failure| {
            self.failure = Some(failure);
            Stop::Reading
        })
    }

    /// What an operand is a combination of.
    fn held(&self, operand: usize) -> Option<Vec<(Arc<Held>, f64)>> {
        let MatrixOperand { combination, .. } = &self.step.operands[operand];
        let terms = combination.as_ref()?.iter();
        terms.map(|(leaf, factor)| Some((self.resources.get(leaf)?, *factor))).collect()
    }
}

impl Operands for Reader<'_, '_> {
    fn count(&self) -> usize {
        self.step.operands.len()
    }

    fn shape(&self, operand: usize) -> (usize, usize) {
        let operand = &self.step.operands[operand];
        (operand.rows as usize, operand.columns as usize)
    }

    fn read(&mut self, operand: usize, first_row: usize, values: &mut [f64]) -> Result<(), Stop> {
        let first = first_row as u64 * self.step.operands[operand].columns;
        if self.rank(operand).is_some() {
            let result = self.multiply(operand, first, values);
            return self.or_stop(result);
        }
        let dtype = held_dtype(self.step.operands[operand].merge.precision);
        let result = self.evaluate(operand, first, values.len(), dtype, |at, bytes| {
            widen::to_f64_into(bytes, dtype, &mut values[at..]);
        });
        self.or_stop(result)
    }

    fn read_single(
        &mut self,
        operand: usize,
        first_row: usize,
        values: &mut [f32],
    ) -> Result<(), Stop> {
        let first = first_row as u64 * self.step.operands[operand].columns;
        let result = self.evaluate(operand, first, values.len(), DType::F32, |at, bytes| {
            for (value, bytes) in values[at..].iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        });
        self.or_stop(result)
    }

    fn rank(&self, operand: usize) -> Option<usize> {
        let terms = self.held(operand)?;
        terms.iter().map(|(held, _)| held.rank()).sum()
    }

    fn factors(&mut self, operand: usize) -> Result<Factors, Stop> {
        let terms = self.held(operand);
        let found = terms.and_then(|terms| combine(self.step.rows as usize, &terms));
        found.ok_or_else(|| Stop::Failed("a dense operand has no factors".to_owned()))
    }

    fn noise(
        &mut self,
        operand: usize,
        first_row: usize,
        rows: usize,
    ) -> Result<Option<f64>, Stop> {
        let MatrixOperand { stored: Some(terms), columns, merge, .. } =
            &self.step.operands[operand]
        else {
            return Ok(None);
        };
        let (context, resources) = (self.context, self.resources);
        let typed = |&(leaf, factor): &(Leaf, f64)| match leaf {
            // How codes were made from numbers, they do not say.
            Leaf::Tensor(tensor) if context.inputs.entry(tensor).encoding.is_some() => None,
            leaf => Some((leaf, factor, context.leaf_dtype(leaf, merge.precision))),
        };
        let Some(terms) = terms.iter().map(typed).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let hands = &mut *self.hands;
        let (first, count) = (first_row as u64 * columns, rows as u64 * columns);
        let read = noise::of_rows(&terms, rows, *columns as usize, |leaf, dtype, take| {
            let mut at = 0;
            while at < count {
                if context.cancel.load(Ordering::Relaxed) {
                    return Err(Failure::Interrupted);
                }
                let elements = (count - at).min(context.stripe as u64) as usize;
                let sizes = [dtype.bytes() * elements, SCRATCH_BYTES * elements];
                let mut buffers = hands.arena.split_list(&sizes);
                let scratch = buffers.pop().expect("the sizes end with scratch");
                let buffer = buffers.pop().expect("the buffer comes before it");
                let from = (resources, &mut *hands.worker);
                context.read_leaf(leaf, from, first + at, dtype, buffer, scratch)?;
                take(at as usize, buffer);
                at += elements as u64;
            }
            Ok(())
        });
        self.or_stop(read)
    }

    fn put_aside(&mut self, first: usize, numbers: &[f64]) -> Result<(), Stop> {
        let mut at = self.place + 8 * first as u64;
        for some in numbers.chunks(ASIDE_NUMBERS) {
            let bytes: Vec<u8> = some.iter().flat_map(|number| number.to_le_bytes()).collect();
            let put = self.context.sink.put_aside(at, &bytes).map_err(Failure::Fatal);
            self.or_stop(put)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    fn read_aside(&mut self, first: usize, numbers: &mut [f64]) -> Result<(), Stop> {
        if self.context.cancel.load(Ordering::Relaxed) {
            return self.or_stop(Err(Failure::Interrupted));
        }
        let mut at = self.place + 8 * first as u64;
        let mut bytes = vec![0; 8 * ASIDE_NUMBERS.min(numbers.len())];
        for some in numbers.chunks_mut(ASIDE_NUMBERS) {
            let bytes = &mut bytes[..8 * some.len()];
            let read = self.context.sink.read_aside(at, bytes).map_err(Failure::Fatal);
            self.or_stop(read)?;
            widen::to_f64_into(bytes, DType::F64, some);
            at += bytes.len() as u64;
        }
        Ok(())
    }
}

/// The type that a matrix is held in.
pub(crate) fn result_bytes(step: &MatrixStep, rank: Option<usize>, precision: Precision) -> u64 {
    let numbers = match rank {
        Some(rank) => (step.rows + step.columns) * rank as u64,
        None => step.rows * step.columns,
    };
    numbers * held_dtype(precision).bytes() as u64
}
