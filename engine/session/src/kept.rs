//! Results of matrix ops in the store: under which keys, read for one merge and kept for the next.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use mixdown_checkpoint::Shard;
use mixdown_checkpoint::digest::FileDigest;
use mixdown_diagnostics::Diagnostic;
use mixdown_exec::{Held, Results, Values, placements};
use mixdown_ops::matrix::{MatrixOp, Noise, Point, Report};
use mixdown_ops::{Backend, Precision};
use mixdown_plan::identity::{Digest, Identities};
use mixdown_plan::{Job, Merge, TensorRef, Work};
use mixdown_store::{Array, Data, Entry, Key, Store};
use mixdown_tensor::Shape;
use serde_json::{Value, json};

use crate::planning::Planned;
use crate::{Places, identified};

/// Floating-point operations that a byte of a result must have cost to be worth keeping: reading a byte
/// from the page cache takes about as long as eight of them.
const FLOPS_PER_BYTE: u64 = 8;

/// Warnings of the store that one merge shows; a full disk would give one for each tensor.
const MOST_WARNINGS: usize = 1;

/// The results of one merge in the store.
pub struct StoredResults {
    store: Store,
    /// The key of each job's matrix op, with what `mixdown cache list` calls it.
    keys: HashMap<(u32, usize), (Key, String)>,
    warnings: Mutex<Vec<Diagnostic>>,
}

impl StoredResults {
    /// The results of a plan. Digests of all input files that matrix ops read must be known; results of
    /// others are not kept.
    ///
    /// **Errors.** A matrix op that the backend refuses.
    pub fn new(
        store: Store,
        planned: &Planned,
        backend: &dyn Backend,
        digests: &HashMap<PathBuf, FileDigest>,
    ) -> Result<Self, Box<Diagnostic>> {
        let places = placements(&planned.plan, backend)?;
        let content = |tensor: TensorRef| identified::content(planned, tensor, digests);
        let identities = Identities::new(&planned.plan, &content);
        let mut keys = HashMap::new();
        for (number, job) in (0..).zip(&planned.plan.jobs) {
            let Work::Merge(merge) = &job.work else { continue };
            for (step, found) in merge.matrices.iter().enumerate() {
                let mut digest = Digest::default();
                if is_one_pass(merge) {
                    continue;
                }
                if identified::result(&identities, (backend, &places), number, step, &mut digest)
                    .is_none()
                {
                    continue;
                }
                let title = format!("{} of {}", found.op.name(), job.name);
                keys.insert((number, step), (Key::from_bytes(digest.bytes()), title));
            }
        }
        Ok(Self { store, keys, warnings: Mutex::default() })
    }

    /// What went wrong with the store, which changed nothing of the merge.
    pub fn warnings(&self) -> Vec<Diagnostic> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn warn(&self, warning: Diagnostic) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < MOST_WARNINGS {
            warnings.push(warning);
        }
    }
}

/// Whether all ops of a merge take one pass over what they read, as norms of rows do: finding the digests of
/// files takes longer than making their results again.
fn is_one_pass(merge: &Merge) -> bool {
    !merge.matrices.is_empty()
        && merge.matrices.iter().all(|step| matches!(step.op, MatrixOp::AxisFact(..)))
}

/// What is known of the store before a merge, without reading a file.
pub struct Outlook {
    /// Results that the merge can read or keep.
    pub results: usize,
    /// Those that are there.
    pub there: usize,
    /// Results of which it is not known: files that they are made from have not been hashed.
    pub unknown: usize,
}

/// What the store has for a merge, as far as digests of its inputs are known.
///
/// **Errors.** A matrix op that the backend refuses.
pub fn outlook(
    planned: &Planned,
    backend: &dyn Backend,
    places: &Places,
) -> Result<Option<Outlook>, Box<Diagnostic>> {
    let results: usize = planned.plan.jobs.iter().map(matrix_ops).sum();
    if results == 0 {
        return Ok(None);
    }
    let digests = places.digests();
    let known = files(planned, &(0..planned.plan.jobs.len()))
        .into_iter()
        .filter_map(|shard| Some((shard.path.clone(), digests.known_sha256(shard)?)));
    let stored =
        StoredResults::new(Store::new(places.store()), planned, backend, &known.collect())?;
    let keys = stored.keys.values();
    let there = keys.filter(|(key, _)| matches!(stored.store.contains(key), Ok(Some(_)))).count();
    Ok(Some(Outlook { results, there, unknown: results - stored.keys.len() }))
}

fn matrix_ops(job: &Job) -> usize {
    match &job.work {
        Work::Merge(merge) if is_one_pass(merge) => 0,
        Work::Merge(merge) => merge.matrices.len(),
        Work::Copy { .. } => 0,
    }
}

/// The files that the matrix ops of a plan's jobs read, and those that find facts for them.
pub fn files<'p>(planned: &'p Planned, jobs: &Range<usize>) -> Vec<&'p Shard> {
    let mut found: Vec<&Shard> = Vec::new();
    let mut seen = BTreeSet::new();
    let needs_facts = |merge: &Merge| {
        let mut operands = merge.matrices.iter().flat_map(|step| &step.operands);
        operands.any(|operand| !operand.facts.is_empty())
    };
    // What is known of a group is made from all of its tensors.
    let facts_from: BTreeSet<u32> = (0..)
        .zip(&planned.plan.jobs)
        .filter_map(|(number, job)| match &job.work {
            Work::Merge(merge) if needs_facts(merge) => Some((number, merge)),
            _ => None,
        })
        .flat_map(|(number, merge)| {
            let groups = merge.groups.iter().map(|&group| &planned.plan.groups[group as usize]);
            groups.flat_map(|group| group.jobs.iter().copied()).chain([number])
        })
        .collect();
    // Facts that a job shares with others are made from what is computed for all of them.
    let own = planned.plan.jobs[jobs.clone()].iter().filter_map(|job| match &job.work {
        Work::Merge(merge) => Some(merge),
        Work::Copy { .. } => None,
    });
    let shared: BTreeSet<u32> = own
        .flat_map(|merge| &merge.groups)
        .flat_map(|&group| planned.plan.groups[group as usize].jobs.iter().copied())
        .collect();
    for (number, job) in (0..).zip(&planned.plan.jobs) {
        let Work::Merge(merge) = &job.work else { continue };
        let is_asked = jobs.contains(&(number as usize)) || shared.contains(&number);
        let is_cheap = is_one_pass(merge) && !facts_from.contains(&number);
        if !is_asked || is_cheap {
            continue;
        }
        let operands = merge.matrices.iter().flat_map(|step| &step.operands);
        let own = facts_from.contains(&number).then_some(merge);
        let parts = planned.plan.parts();
        let merges = operands.map(|operand| &operand.merge).chain(own);
        for tensor in merges.flat_map(|merge| merge.tensors(&parts)) {
            let index = &planned.loaded.models[tensor.model as usize].model.checkpoint.index;
            let shard = index.shard_of(&index.tensors()[tensor.tensor as usize]);
            if seen.insert(&shard.path) {
                found.push(shard);
            }
        }
    }
    found
}

impl Results for StoredResults {
    fn load(&self, job: u32, step: usize, precision: Precision) -> Option<(Held, Report)> {
        let (key, _) = self.keys.get(&(job, step))?;
        match self.store.get(key) {
            Ok(entry) => read(entry?, precision),
            Err(error) => {
                self.warn(error.warning());
                None
            }
        }
    }

    fn keep(&self, job: u32, step: usize, flops: u64, held: &Held, report: &Report) {
        let Some((key, title)) = self.keys.get(&(job, step)) else { return };
        let entry = written(title, held, report);
        let bytes: u64 = entry.arrays.iter().map(|array| array.data.elements() as u64 * 8).sum();
        if flops / FLOPS_PER_BYTE < bytes {
            return;
        }
        if let Err(error) = self.store.put(key, &entry) {
            self.warn(error.warning());
        }
    }
}

fn written(title: &str, held: &Held, report: &Report) -> Entry {
    let array = |name: &str, values: &Values, shape: [u64; 2]| Array {
        name: name.to_owned(),
        shape: Shape::new(shape.to_vec()).expect("a held matrix has a size"),
        data: match values {
            Values::Single(values) => Data::F32(values.clone()),
            Values::Double(values) => Data::F64(values.clone()),
        },
    };
    let arrays = match held {
        Held::Dense(values) => vec![array("result", values, [values.len() as u64, 1])],
        Held::Factors { left, right, rank, columns } => {
            let (rank, columns) = (*rank as u64, *columns as u64);
            let rows = (left.len() as u64).checked_div(rank).unwrap_or(0);
            vec![array("left", left, [rows, rank]), array("right", right, [rank, columns])]
        }
    };
    Entry { title: title.to_owned(), metadata: report_text(report), arrays }
}

fn read(entry: Entry, precision: Precision) -> Option<(Held, Report)> {
    let report = report_of(&entry.metadata)?;
    let values = |name: &str| {
        let array = entry.array(name)?;
        let values = match (&array.data, precision) {
            (Data::F32(values), Precision::Single) => Values::Single(values.clone()),
            (Data::F64(values), Precision::Double) => Values::Double(values.clone()),
            _ => return None,
        };
        Some((values, array.shape.dimensions().to_vec()))
    };
    if let Some((values, _)) = values("result") {
        return Some((Held::Dense(values), report));
    }
    let ((left, _), (right, shape)) = (values("left")?, values("right")?);
    let &[rank, columns] = shape.as_slice() else { return None };
    let (rank, columns) = (rank as usize, columns as usize);
    Some((Held::Factors { left, right, rank, columns }, report))
}

fn report_text(report: &Report) -> String {
    json!({
        "loss": report.loss.map(|(start, end)| [start, end]),
        "norm": report.norm,
        "ranks": report.ranks,
        "gap": report.gap,
        "curve": report.curve.iter().map(|point| json!([point.step, point.loss, point.norm])).collect::<Vec<_>>(),
        "noise": report.noise.iter().map(noise_text).collect::<Vec<_>>(),
        "notes": report.notes,
    })
    .to_string()
}

fn noise_text(noise: &Noise) -> Value {
    json!({"floor": noise.floor, "rank": noise.rank, "ratio": noise.ratio})
}

fn noise_of(value: &Value) -> Option<Noise> {
    let rank = value["rank"].as_u64().map(|rank| rank as usize);
    Some(Noise { floor: value["floor"].as_f64()?, rank, ratio: value["ratio"].as_f64() })
}

fn point_of(value: &Value) -> Option<Point> {
    let step = u32::try_from(value[0].as_u64()?).ok()?;
    Some(Point { step, loss: value[1].as_f64()?, norm: value[2].as_f64()? })
}

fn report_of(text: &str) -> Option<Report> {
    let value: Value = serde_json::from_str(text).ok()?;
    let loss =
        value["loss"].as_array().and_then(|pair| Some((pair[0].as_f64()?, pair[1].as_f64()?)));
    let ranks = value["ranks"].as_array()?.iter();
    let notes = value["notes"].as_array()?.iter();
    Some(Report {
        loss,
        norm: value["norm"].as_f64(),
        ranks: ranks.filter_map(|rank| Some(rank.as_u64()? as usize)).collect(),
        gap: value["gap"].as_f64(),
        // Not there in what earlier versions kept.
        curve: value["curve"].as_array().into_iter().flatten().filter_map(point_of).collect(),
        noise: value["noise"].as_array()?.iter().filter_map(noise_of).collect(),
        notes: notes.filter_map(|note| Some(note.as_str()?.to_owned())).collect(),
    })
}
