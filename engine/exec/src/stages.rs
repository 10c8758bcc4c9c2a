//! In which order passes run: facts about groups of jobs first, in stages, then every job to its end.
//!
//! A pass with a fact about a group runs together with those of the other jobs of the group: a
//! gathering. Gatherings come in an order in which each job meets its passes one after another.

use std::collections::{BTreeMap, BTreeSet};

use mixdown_diagnostics::Diagnostic;
use mixdown_ops::Pass;
use mixdown_ops::program::Scope;
use mixdown_plan::{Merge, Plan, Work};

use crate::context::internal;
use crate::steps::needed;

/// Some passes of one job, run one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) job: u32,
    pub(crate) passes: std::ops::Range<usize>,
    /// The matrix ops that it runs, each before the pass that waits for it, or at the end for the pass that
    /// comes after.
    pub(crate) steps: Vec<usize>,
    /// The job that the same flow does after this one: the other side of a low-rank matrix.
    pub(crate) twin: Option<u32>,
}

/// Passes of several jobs that run together: one of each job, by job.
pub(crate) type Gathering = Vec<(u32, usize)>;

/// What runs before one set of gatherings, and these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) lead_ins: Vec<Stretch>,
    pub(crate) gatherings: Vec<Gathering>,
}

/// All stages, and where each merge goes on after them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stages {
    pub(crate) stages: Vec<Stage>,
    /// For jobs that take part in a stage: their flows, in order, the last of which stores.
    pub(crate) flows: BTreeMap<u32, Vec<Part>>,
}

/// What one flow does of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) passes: std::ops::Range<usize>,
    /// The matrix ops that it runs.
    pub(crate) steps: Vec<usize>,
}

impl Stages {
    /// The stages that are needed for the jobs for which `wanted` holds.
    pub(crate) fn new(plan: &Plan, wanted: impl Fn(u32) -> bool) -> Result<Self, Box<Diagnostic>> {
        let gatherings = gatherings(plan)?;
        let levels = levels(&gatherings)?;
        let mut order: Vec<usize> = (0..gatherings.len()).collect();
        order.sort_by_key(|&index| levels[index]);
        // From the last to the first: a gathering is needed by the jobs in it that are wanted, and
        // by those that a later needed gathering wants the facts of.
        let mut needed_jobs = BTreeSet::new();
        let mut needed = vec![false; gatherings.len()];
        for &index in order.iter().rev() {
            let gathering = &gatherings[index];
            needed[index] =
                gathering.iter().any(|(job, _)| wanted(*job) || needed_jobs.contains(job));
            if needed[index] {
                needed_jobs.extend(gathering.iter().map(|(job, _)| *job));
            }
        }
        let mut stages = Self::default();
        let mut level = None;
        for index in order.into_iter().filter(|&index| needed[index]) {
            if level != Some(levels[index]) {
                level = Some(levels[index]);
                stages.stages.push(Stage::default());
            }
            stages.add(plan, &gatherings[index])?;
        }
        let jobs: Vec<u32> = stages.flows.keys().copied().collect();
        for job in jobs {
            let last = stages.last(plan, job)?;
            stages.flows.entry(job).or_default().push(last);
        }
        Ok(stages)
    }

    fn add(&mut self, plan: &Plan, gathering: &Gathering) -> Result<(), Box<Diagnostic>> {
        for &(job, pass) in gathering {
            let merge = merge(plan, job)?;
            let done = self.flows.get(&job).and_then(|flows| flows.last());
            let done = done.map_or(0, |flow| flow.passes.end);
            // A pass over several tensors computes no matrix: what it reads is there.
            let steps = self.left(job, needed(plan, merge, done..pass + 1));
            let flows = self.flows.entry(job).or_default();
            if done < pass || !steps.is_empty() {
                flows.push(Part { passes: done..pass, steps: steps.clone() });
                let stage = self.stages.last_mut().expect("a stage is open");
                stage.lead_ins.push(Stretch { job, passes: done..pass, steps, twin: None });
            }
            flows.push(Part { passes: pass..pass + 1, steps: Vec::new() });
        }
        let stage = self.stages.last_mut().expect("a stage is open");
        stage.gatherings.push(gathering.clone());
        Ok(())
    }

    /// What of these matrix ops no flow so far runs.
    fn left(&self, job: u32, mut steps: Vec<usize>) -> Vec<usize> {
        let flows = self.flows.get(&job).map_or(&[][..], Vec::as_slice);
        steps.retain(|step| !flows.iter().any(|flow| flow.steps.contains(step)));
        steps
    }

    /// The last flow of a merge, after all stages.
    pub(crate) fn last(&self, plan: &Plan, job: u32) -> Result<Part, Box<Diagnostic>> {
        let merge = merge(plan, job)?;
        let end = plan.programs[merge.program as usize].passes.len();
        let flows = self.flows.get(&job).map_or(&[][..], Vec::as_slice);
        if let Some(last) = flows.last().filter(|flow| flow.passes.end == end) {
            return Ok(last.clone());
        }
        let first = flows.last().map_or(0, |flow| flow.passes.end);
        let steps = self.left(job, needed(plan, merge, first..end));
        Ok(Part { passes: first..end, steps })
    }
}

fn merge(plan: &Plan, job: u32) -> Result<&Merge, Box<Diagnostic>> {
    match &plan.jobs[job as usize].work {
        Work::Merge(merge) => Ok(merge),
        Work::Copy { .. } => Err(internal("a copy has no passes")),
    }
}

/// The groups that a pass has facts about, by position in the job's list.
pub(crate) fn groups(pass: &Pass) -> BTreeSet<u32> {
    let reductions = pass.reductions.iter().map(|slot| slot.scope);
    let scopes = reductions.chain(pass.selections.iter().map(|slot| slot.scope));
    let group = |scope| match scope {
        Scope::Group(group) => Some(group),
        Scope::Tensor => None,
    };
    scopes.filter_map(group).chain(pass.standings.iter().map(|slot| slot.group)).collect()
}

/// Passes that have a fact in common, directly or through others.
fn gatherings(plan: &Plan) -> Result<Vec<Gathering>, Box<Diagnostic>> {
    // A fact is the n-th of its group: that of the n-th pass of each job that mentions the group.
    let mut facts: BTreeMap<(u32, usize), Vec<usize>> = BTreeMap::new();
    let mut units: Vec<(u32, usize)> = Vec::new();
    for (number, job) in (0_u32..).zip(&plan.jobs) {
        let Work::Merge(merge) = &job.work else { continue };
        let mut mentioned: BTreeMap<u32, usize> = BTreeMap::new();
        for (index, pass) in plan.programs[merge.program as usize].passes.iter().enumerate() {
            let groups = groups(pass);
            for &group in &groups {
                let group = *merge
                    .groups
                    .get(group as usize)
                    .ok_or_else(|| internal(format!("`{}` lacks a group", job.name)))?;
                let nth = mentioned.entry(group).or_default();
                facts.entry((group, *nth)).or_default().push(units.len());
                *nth += 1;
            }
            if !groups.is_empty() {
                units.push((number, index));
            }
        }
    }
    let roots = join(units.len(), facts.values());
    let mut joined: BTreeMap<usize, Gathering> = BTreeMap::new();
    for (unit, root) in units.into_iter().zip(roots) {
        joined.entry(root).or_default().push(unit);
    }
    Ok(joined.into_values().collect())
}

/// For each unit, the first unit that it belongs together with.
fn join<'a>(count: usize, sets: impl Iterator<Item = &'a Vec<usize>>) -> Vec<usize> {
    fn root(parents: &mut [usize], mut unit: usize) -> usize {
        while parents[unit] != unit {
            parents[unit] = parents[parents[unit]];
            unit = parents[unit];
        }
        unit
    }
    let mut parents: Vec<usize> = (0..count).collect();
    for set in sets {
        for pair in set.windows(2) {
            let (one, other) = (root(&mut parents, pair[0]), root(&mut parents, pair[1]));
            parents[one.max(other)] = one.min(other);
        }
    }
    (0..count).map(|unit| root(&mut parents, unit)).collect()
}

/// How many gatherings must come before each one.
fn levels(gatherings: &[Gathering]) -> Result<Vec<usize>, Box<Diagnostic>> {
    let mut by_job: BTreeMap<u32, Vec<(usize, usize)>> = BTreeMap::new();
    for (index, gathering) in gatherings.iter().enumerate() {
        for &(job, pass) in gathering {
            by_job.entry(job).or_default().push((pass, index));
        }
    }
    let mut edges = BTreeSet::new();
    for passes in by_job.values_mut() {
        passes.sort_unstable();
        edges.extend(passes.windows(2).map(|pair| (pair[0].1, pair[1].1)));
    }
    let mut levels = vec![0; gatherings.len()];
    // The longest path has one gathering less than there are, unless facts wait for each other.
    for _ in 0..=gatherings.len() {
        let mut changed = false;
        for &(before, after) in &edges {
            if levels[after] <= levels[before] {
                levels[after] = levels[before] + 1;
                changed = true;
            }
        }
        if !changed {
            return Ok(levels);
        }
    }
    Err(internal("facts about groups of tensors wait for each other"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mixdown_ops::program::{ReductionSlot, Scope};
    use mixdown_ops::{Precision, Program, Reduction};
    use mixdown_plan::Job;
    use mixdown_tensor::{DType, Shape};

    use super::*;

    /// Each job is its passes' groups; every job has one more pass, which stores.
    fn plan(jobs: &[&[&[u32]]]) -> Plan {
        let mut plan = Plan::default();
        for passes in jobs {
            let slot = |scope| ReductionSlot { reduction: Reduction::Sum, to: 0, scope };
            let groups: Vec<u32> = (0..10).collect();
            let pass = |groups: &&[u32]| Pass {
                reductions: groups.iter().map(|&g| slot(Scope::Group(g))).collect(),
                ..Pass::default()
            };
            let passes = passes.iter().map(pass).chain([Pass::default()]).collect();
            plan.programs.push(Arc::new(Program { passes, ..Program::default() }));
            plan.jobs.push(Job {
                name: format!("t{}", plan.jobs.len()),
                shape: Shape::default(),
                dtype: DType::F32,
                work: Work::Merge(Merge {
                    program: plan.jobs.len() as u32,
                    leaves: vec![],
                    constants: vec![],
                    streams: vec![],
                    groups,
                    precision: Precision::Single,
                    matrices: vec![],
                    factor: None,
                    lost: None,
                }),
                origin: 0,
                treatment: None,
                quantized: None,
            });
        }
        plan
    }

    fn check(jobs: &[&[&[u32]]], wanted: impl Fn(u32) -> bool, expected: &[(&str, &str)]) {
        let stages = Stages::new(&plan(jobs), wanted).unwrap();
        let found: Vec<(String, String)> = stages
            .stages
            .iter()
            .map(|stage| {
                let lead_ins: Vec<String> =
                    stage.lead_ins.iter().map(|s| format!("{}:{:?}", s.job, s.passes)).collect();
                (lead_ins.join(" "), format!("{:?}", stage.gatherings))
            })
            .collect();
        let expected: Vec<(String, String)> =
            expected.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn jobs_without_groups_need_no_stage() {
        check(&[&[&[]], &[&[], &[]]], |_| true, &[]);
    }

    #[test]
    fn groups_in_one_pass_are_read_together() {
        check(
            &[&[&[0, 1]], &[&[1, 0]], &[&[]], &[&[2]]],
            |_| true,
            &[("", "[[(0, 0), (1, 0)], [(3, 0)]]")],
        );
    }

    #[test]
    fn one_group_after_another_with_passes_between() {
        check(
            &[&[&[], &[0], &[], &[1]], &[&[0], &[1]]],
            |_| true,
            &[("0:0..1", "[[(0, 1), (1, 0)]]"), ("0:2..3", "[[(0, 3), (1, 1)]]")],
        );
        // The same group twice: two facts, in sequence.
        check(
            &[&[&[0], &[0]], &[&[0], &[0]]],
            |_| true,
            &[("", "[[(0, 0), (1, 0)]]"), ("", "[[(0, 1), (1, 1)]]")],
        );
    }

    #[test]
    fn finished_jobs_take_part_only_where_others_need_them() {
        let jobs: &[&[&[u32]]] = &[&[&[0], &[1]], &[&[0]], &[&[2], &[1]]];
        check(jobs, |_| false, &[]);
        check(jobs, |job| job == 1, &[("", "[[(0, 0), (1, 0)]]")]);
        // The fact about group 1 is needed, so both of its jobs need theirs before it.
        check(
            jobs,
            |job| job == 2,
            &[("", "[[(0, 0), (1, 0)], [(2, 0)]]"), ("", "[[(0, 1), (2, 1)]]")],
        );
    }

    #[test]
    fn facts_that_wait_for_each_other_are_refused() {
        let crossed = plan(&[&[&[0], &[1]], &[&[1], &[0]]]);
        assert!(Stages::new(&crossed, |_| true).is_err());
    }
}
