//! The flow of a block program: the passes of one job, or one pass of all jobs of a gathering.

use std::sync::{Arc, Mutex, OnceLock};

use mixdown_checkpoint::tensor_digest::{PieceHash, TensorHasher};
use mixdown_ops::{Call, Input, Output, Partial, Pass, Program};
use mixdown_plan::{Job, LostScalars, Merge, TensorRef};
use mixdown_tensor::DType;

use crate::context::{Context, Facts, PieceWriter, internal, lock, tensor_of};
use crate::encoded::{Encoded, Sums};
use crate::hands::Hands;
use crate::matrix::MatrixStage;
use crate::messages;
use crate::needs::StretchNeeds;
use crate::report::{Overflow, StorageLoss};
use crate::resources::Resources;
use crate::rounds::{Part, Reading, Rounds, Unit};
use crate::scheduler::{Failure, Flow, Step};
use crate::stages::{Gathering, Stretch};
use crate::widen;

/// Passes of one job, or one pass of several.
pub(crate) struct MergeFlow<'a> {
    context: &'a Context<'a>,
    members: Vec<Member<'a>>,
    /// Count of passes that each member makes.
    passes: usize,
    /// Matrix ops that come before the passes, or between them.
    matrices: Option<MatrixStage<'a>>,
    /// Whether a pass comes after those, in another flow.
    goes_on: bool,
    state: Mutex<State<'a>>,
}

struct Member<'a> {
    number: u32,
    job: &'a Job,
    merge: &'a Merge,
    program: &'a Program,
    /// The first pass that this flow makes of it.
    first_pass: usize,
    /// Elements that each pass goes over, but the one that stores, and those of the job's tensor.
    elements: (u64, u64),
    /// Factors of adapters, and results of matrix ops.
    resources: Arc<Resources>,
}

struct State<'a> {
    /// Passes done.
    done: usize,
    /// Changed between passes only.
    facts: Arc<Vec<Facts>>,
    rounds: Option<Rounds>,
    /// The reading that is under way.
    reading: Option<Arc<Reading>>,
    /// Present in the pass that stores.
    hasher: Option<TensorHasher>,
    /// Likewise, where the tensor is written in fewer bits.
    encoded: Option<Arc<Encoded<'a>>>,
    /// Results that are NaN or infinite.
    overflow: u64,
}

impl<'a> Member<'a> {
    fn new(context: &'a Context<'a>, number: u32, first_pass: usize) -> Result<Self, Failure> {
        let merge = context.merge(number);
        let merge = merge.ok_or_else(|| Failure::Fatal(internal("a copy has no passes")))?;
        let resources = Resources::load(&context.inputs, merge)?;
        resources.find_aside(context, number, merge)?;
        let resources = Arc::new(resources);
        Self::with(context, number, first_pass, resources)
    }

    fn with(
        context: &'a Context<'a>,
        number: u32,
        first_pass: usize,
        resources: Arc<Resources>,
    ) -> Result<Self, Failure> {
        let job = context.job(number);
        let merge = context.merge(number);
        let merge = merge.ok_or_else(|| Failure::Fatal(internal("a copy has no passes")))?;
        let program = context.program(merge);
        let elements = job.shape.elements();
        Ok(Self {
            number,
            job,
            merge,
            program,
            first_pass,
            elements: (merge.elements(elements, false), elements),
            resources,
        })
    }

    fn pass(&self, done: usize) -> &'a Pass {
        &self.program.passes[self.first_pass + done]
    }

    fn stores(&self, done: usize) -> bool {
        self.first_pass + done + 1 == self.program.passes.len()
    }

    /// Elements that a pass goes over.
    fn elements(&self, done: usize) -> u64 {
        if self.stores(done) { self.elements.1 } else { self.elements.0 }
    }
}

impl<'a> MergeFlow<'a> {
    /// Some passes of one job.
    pub(crate) fn of_job(context: &'a Context<'a>, stretch: &Stretch) -> Result<Self, Failure> {
        let member = Member::new(context, stretch.job, stretch.passes.start)?;
        let matrices = (!stretch.steps.is_empty()).then(|| {
            let (steps, resources) = (stretch.steps.clone(), Arc::clone(&member.resources));
            MatrixStage::new(context, member.number, member.merge, steps, resources)
        });
        let goes_on = stretch.passes.end < member.program.passes.len();
        let passes = stretch.passes.len();
        Ok(Self { matrices, goes_on, ..Self::new(context, vec![member], passes) })
    }

    /// One pass of each job of a gathering.
    pub(crate) fn of_gathering(
        context: &'a Context<'a>,
        gathering: &Gathering,
    ) -> Result<Self, Failure> {
        let members: Result<_, _> =
            gathering.iter().map(|&(job, pass)| Member::new(context, job, pass)).collect();
        Ok(Self::new(context, members?, 1))
    }

    fn new(context: &'a Context<'a>, members: Vec<Member<'a>>, passes: usize) -> Self {
        let facts =
            members.iter().map(|member| context.take_facts(member.number, member.merge)).collect();
        let state = State {
            done: 0,
            facts: Arc::new(facts),
            rounds: None,
            reading: None,
            hasher: None,
            encoded: None,
            overflow: 0,
        };
        let state = Mutex::new(state);
        Self { context, members, passes, matrices: None, goes_on: false, state }
    }

    /// Runs the scalar steps before a pass. They give the same when they run again.
    fn run_prelude(&self, state: &mut State<'_>) {
        let facts = Arc::make_mut(&mut state.facts);
        for (member, facts) in self.members.iter().zip(facts.iter_mut()) {
            for step in &member.pass(state.done).prelude {
                let mut arguments = [0.0; 3];
                for (to, &from) in arguments.iter_mut().zip(&step.arguments).take(step.op.arity()) {
                    *to = facts.scalars[from as usize];
                }
                facts.scalars[step.to as usize] = step.op.apply_f64(&arguments);
            }
        }
    }

    /// Runs what comes before a pass: scalar steps, then the matrix ops that wait for them. Says how many
    /// units the next round of these has, none when they are done.
    fn before_pass(&self, state: &mut State<'_>) -> Result<Option<u64>, Failure> {
        if !self.matrices.as_ref().is_some_and(MatrixStage::is_active) {
            self.run_prelude(state);
        }
        match &self.matrices {
            Some(matrices) => {
                let pass = self.members[0].first_pass + state.done;
                matrices.advance(pass, &state.facts)
            }
            None => Ok(None),
        }
    }

    /// The layers of a job in its groups.
    fn layers_of(&self, member: &Member<'_>) -> Vec<u32> {
        let of_group = |&group: &u32| {
            let group = &self.context.plan.groups[group as usize];
            let place = group.jobs.binary_search(&member.number).ok();
            place.and_then(|place| group.layers.get(place).copied()).unwrap_or_default()
        };
        member.merge.groups.iter().map(of_group).collect()
    }

    /// Prepares the rounds of a pass.
    fn begin_pass(&self, state: &mut State<'a>) -> Result<(), Failure> {
        let part = |member: &Member<'a>| Part {
            pass: member.pass(state.done),
            groups: &member.merge.groups,
            layers: self.layers_of(member),
            elements: member.elements(state.done),
            precision: member.merge.precision,
        };
        let parts: Vec<Part<'_>> = self.members.iter().map(part).collect();
        let facts = &*state.facts;
        let first = &self.members[0];
        let stores = first.stores(state.done);
        if stores && self.members.len() > 1 {
            return Err(Failure::Fatal(internal("a pass over a group stores")));
        }
        // A pass that runs again for what it found goes on with what it began.
        if stores && state.encoded.is_none() {
            state.encoded = Encoded::of(self.context, first.number).map(Arc::new);
        }
        let is_plain = stores && state.encoded.is_none();
        state.hasher = is_plain.then(|| self.context.tensor_hasher(first.number));
        let rounds = Rounds::new(&parts, facts, stores, self.context.key_bytes);
        state.rounds = Some(rounds.map_err(Failure::Fatal)?);
        Ok(())
    }

    /// Keeps what was found for a later stage, or records the tensor as finished.
    fn finish(&self, state: &mut State<'_>) -> Result<(), Failure> {
        if let Some(hasher) = state.hasher.take() {
            let job = self.members[0].number;
            if state.overflow > 0 {
                let Job { name, dtype, .. } = self.members[0].job;
                let (tensor, dtype) = (name.clone(), *dtype);
                let overflow = Overflow { tensor, dtype, elements: state.overflow };
                self.context.note(job, |told| told.overflows.push(overflow));
            }
            self.note_lost(&state.facts[0]);
            return self.context.complete(job, &hasher);
        }
        if let Some(encoded) = state.encoded.take() {
            let (sums, digests) = encoded.finish()?;
            self.note_quantized(&state.facts[0], sums);
            return self.context.complete_parts(self.members[0].number, digests);
        }
        let mut kept = lock(&self.context.kept);
        for (member, facts) in self.members.iter().zip(state.facts.iter()) {
            kept.insert(member.number, facts.clone());
        }
        Ok(())
    }

    fn end_pass(&self, state: &mut State<'_>, rounds: &Rounds) {
        let facts = Arc::make_mut(&mut state.facts);
        rounds.conclude(facts);
        // What all values are must be known before the first is coded: then they are computed again.
        if !state.encoded.as_ref().is_some_and(|encoded| encoded.must_repeat()) {
            state.done += 1;
        }
    }

    fn expect(&self, member: usize, done: usize, ask: impl Fn(TensorRef)) {
        let member = &self.members[member];
        let inputs = member.pass(done).inputs.iter();
        let leaves = inputs.map(|&input| &member.merge.leaves[input as usize]);
        leaves.filter_map(tensor_of).for_each(ask);
    }
}

impl Flow<Hands> for MergeFlow<'_> {
    fn advance(&self) -> Result<Step, Failure> {
        let state = &mut *lock(&self.state);
        loop {
            if let (Some(rounds), Some(reading)) = (&mut state.rounds, state.reading.take()) {
                rounds.end_round(&reading);
                self.note_checked(state, &reading);
            }
            match state.rounds.take() {
                None if state.done == self.passes => {
                    // What the next pass reads is computed here, where that one is made for several jobs.
                    if self.goes_on
                        && self.matrices.is_some()
                        && let Some(units) = self.before_pass(state)?
                    {
                        return Ok(Step::Round(units));
                    }
                    self.finish(state)?;
                    return Ok(Step::Done);
                }
                None => {
                    if let Some(units) = self.before_pass(state)? {
                        return Ok(Step::Round(units));
                    }
                    self.begin_pass(state)?;
                }
                Some(mut rounds) => match rounds.next_round() {
                    None => self.end_pass(state, &rounds),
                    Some(reading) => {
                        let units = reading.len();
                        state.rounds = Some(rounds);
                        state.reading = Some(Arc::new(reading));
                        return Ok(Step::Round(units));
                    }
                },
            }
        }
    }

    fn piece(&self, index: u64, hands: &mut Hands) -> Result<(), Failure> {
        if let Some(matrices) = self.matrices.as_ref().filter(|matrices| matrices.is_active()) {
            return matrices.piece(index, hands);
        }
        let (reading, facts, done, encoded) = {
            let state = lock(&self.state);
            let reading = state.reading.clone().expect("a piece belongs to a reading");
            (reading, Arc::clone(&state.facts), state.done, state.encoded.clone())
        };
        let unit = reading.unit(index, |member| self.members[member].elements(done));
        if reading.is_everything() {
            self.expect_more(&reading, &unit, done);
        }
        let member = &self.members[unit.member];
        let work = Work {
            context: self.context,
            member,
            pass: member.pass(done),
            stores: member.stores(done),
            encoded: encoded.as_deref(),
            facts: &facts[unit.member],
            reading: &reading,
            unit: &unit,
        };
        let found = work.run(hands)?;
        let state = &mut *lock(&self.state);
        state.overflow += found.overflow;
        if let (Some(hasher), Some(hash)) = (&mut state.hasher, found.hash) {
            hasher.add(hash);
        }
        if let Some(rounds) = &mut state.rounds {
            rounds.absorb(&reading, &unit, found.partial);
        }
        Ok(())
    }
}

impl MergeFlow<'_> {
    /// Notes what rounding to the output's type did to the update.
    fn note_lost(&self, facts: &Facts) {
        let Member { number, job, merge, .. } = &self.members[0];
        let Some(LostScalars { lost, update, largest }) = merge.lost else { return };
        if !matches!(job.dtype, DType::Bf16 | DType::F16) {
            return;
        }
        let scalar = |at: u32| facts.scalars[at as usize];
        let (lost, update, largest) = (scalar(lost), scalar(update), scalar(largest));
        let (tensor, dtype) = (job.name.clone(), job.dtype);
        let found = StorageLoss { tensor, dtype, lost, update, largest };
        self.context.note(*number, |told| told.losses.push(found));
    }

    /// Notes what writing in fewer bits did to the tensor, and to its update.
    fn note_quantized(&self, facts: &Facts, sums: Sums) {
        let Member { number, job, merge, .. } = &self.members[0];
        let update = merge.lost.map(|lost| facts.scalars[lost.update as usize]);
        self.context.note_quantized(*number, job, sums, update);
    }

    /// Remembers which inputs a reading of everything has found to be finite.
    fn note_checked(&self, state: &mut State<'_>, reading: &Reading) {
        let facts = Arc::make_mut(&mut state.facts);
        for index in reading.members() {
            for &input in &self.members[index].pass(state.done).inputs {
                facts[index].checked[input as usize] = true;
            }
        }
    }

    /// Asks for what is read some pieces later.
    fn expect_more(&self, reading: &Reading, unit: &Unit, done: usize) {
        let inputs = &self.context.inputs;
        self.expect(unit.member, done, |tensor| inputs.expect_after(tensor, unit.piece));
        let next = || reading.members().find(|&other| other > unit.member);
        if unit.piece == 0
            && let Some(next) = next()
        {
            self.expect(next, done, |tensor| inputs.expect_start(tensor));
        }
    }
}

/// The two sides of a low-rank matrix, one after the other: it is computed once.
pub(crate) struct TwinFlow<'a> {
    first: MergeFlow<'a>,
    /// The job of the other side.
    twin: u32,
    second: OnceLock<MergeFlow<'a>>,
}

impl<'a> TwinFlow<'a> {
    /// A job, and the one of the other side.
    pub(crate) fn new(first: MergeFlow<'a>, twin: u32) -> Self {
        Self { first, twin, second: OnceLock::new() }
    }

    fn begin_second(&self) -> Result<&MergeFlow<'a>, Failure> {
        let context = self.first.context;
        let merge = context.merge(self.twin);
        let merge = merge.ok_or_else(|| Failure::Fatal(internal("a copy has no sides")))?;
        let resources = Arc::new(self.first.members[0].resources.for_twin(merge));
        // What its passes before the last would find, the other side's have found.
        let last = context.program(merge).passes.len().saturating_sub(1);
        let member = Member::with(context, self.twin, last, resources)?;
        Ok(self.second.get_or_init(|| MergeFlow::new(context, vec![member], 1)))
    }
}

impl Flow<Hands> for TwinFlow<'_> {
    fn advance(&self) -> Result<Step, Failure> {
        if let Some(second) = self.second.get() {
            return second.advance();
        }
        match self.first.advance()? {
            Step::Done => self.begin_second()?.advance(),
            step => Ok(step),
        }
    }

    fn piece(&self, index: u64, hands: &mut Hands) -> Result<(), Failure> {
        self.second.get().unwrap_or(&self.first).piece(index, hands)
    }
}

/// What one thread does for one unit.
struct Work<'a> {
    context: &'a Context<'a>,
    member: &'a Member<'a>,
    pass: &'a Pass,
    stores: bool,
    encoded: Option<&'a Encoded<'a>>,
    facts: &'a Facts,
    reading: &'a Reading,
    unit: &'a Unit,
}

/// What a unit contributes.
struct Found {
    partial: Partial,
    hash: Option<PieceHash>,
    overflow: u64,
}

impl Work<'_> {
    fn run(&self, hands: &mut Hands) -> Result<Found, Failure> {
        hands.worker.begin(self.pass, self.member.merge.precision, &self.unit.rounds);
        let mut writer = self
            .stores_plainly()
            .then(|| PieceWriter::new(self.context, self.member.number, self.unit.piece));
        let mut overflow = 0;
        for &(first, elements) in &self.unit.stretches {
            let mut at = first;
            while at < first + elements {
                let count = (first + elements - at).min(self.context.stripe as u64) as usize;
                overflow += self.stretch(hands, at, count, writer.as_mut())?;
                at += count as u64;
            }
        }
        let partial = hands.worker.finish();
        if let (None, Some(found)) = (partial.nonfinite, partial.improbable) {
            return Err(messages::improbable(&self.context.job(self.member.number).name, found));
        }
        match partial.nonfinite {
            Some(found) => {
                let leaf = self.member.merge.leaves[found.input as usize];
                Err(self.context.nonfinite(leaf, found.element))
            }
            None => Ok(Found { partial, hash: writer.map(PieceWriter::finish), overflow }),
        }
    }

    /// Reads, computes and writes one stretch. Tells how many results are NaN or infinite.
    fn stretch(
        &self,
        hands: &mut Hands,
        first: u64,
        elements: usize,
        writer: Option<&mut PieceWriter>,
    ) -> Result<u64, Failure> {
        let context = self.context;
        let Merge { leaves, precision, streams, .. } = self.member.merge;
        let dtype = self.member.job.dtype;
        let merge = self.member.merge;
        let leaf_dtype = |leaf| context.leaf_dtype(leaf, *precision);
        let sizes = StretchNeeds::new(self.member.job, merge, self.pass, self.stores, leaf_dtype)
            .sizes(elements);
        let mut buffers = hands.arena.split_list(&sizes);
        let scratch = buffers.pop().expect("the sizes end with scratch");
        let output = buffers.pop().expect("the output comes before it");
        let mut inputs = Vec::with_capacity(leaves.len());
        for (&leaf, buffer) in leaves.iter().zip(buffers) {
            let dtype = leaf_dtype(leaf);
            if !buffer.is_empty() {
                let from = (&*self.member.resources, &mut *hands.worker);
                context.read_leaf(leaf, from, first, dtype, buffer, scratch)?;
            }
            inputs.push(Input { dtype, bytes: buffer });
        }
        hands.worker.run(Call {
            program: self.member.program,
            pass: self.pass,
            precision: *precision,
            first,
            elements,
            inputs: &inputs,
            scalars: &self.facts.scalars,
            cuts: &self.facts.cuts,
            streams,
            rounds: &self.unit.rounds,
            reduce: self.reading.complete && !self.pass.reductions.is_empty(),
            check_finite: self.must_check(),
            output: self.stores.then_some(Output { dtype, bytes: &mut *output }),
        });
        if let Some(encoded) = self.encoded {
            encoded.add(first, output)?;
            return Ok(0);
        }
        let Some(writer) = writer else { return Ok(0) };
        writer.add(context, output, &(0..0))?;
        match context.check_finite {
            true => Ok(widen::count_nonfinite(output, dtype)),
            false => Ok(0),
        }
    }

    fn stores_plainly(&self) -> bool {
        self.stores && self.encoded.is_none()
    }

    /// A sample is not looked at: which element would be reported must not depend on where it lies.
    fn must_check(&self) -> bool {
        let unchecked = |input: &u32| !self.facts.checked[*input as usize];
        self.context.check_finite
            && self.reading.is_everything()
            && self.pass.inputs.iter().any(unchecked)
    }
}
