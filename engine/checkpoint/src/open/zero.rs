//! Checkpoints of DeepSpeed ZeRO: each process wrote its optimizer's share of the weights, flat. They are put
//! together as DeepSpeed's `zero_to_fp32.py` does, a stretch at a time.
//!
//! In stages 1 and 2 the shares of one group follow each other, and make its parameters one after the other. In
//! stage 3 each parameter is cut among all processes, the last share filled up.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Component, Path};
use std::sync::Arc;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::read_limited;
use mixdown_tensor::{DType, Shape};

use super::distributed::Opened;
use super::files::{File, shard};
use crate::encoding::{Codec, Encoding, Reader};
use crate::format::torch::zero::{self, Model, Optimizer};
use crate::index::TensorEntry;
use crate::shown::shown;
use crate::source::{FilePool, ReadError};

/// The ending of files that say what the model consists of.
const MODEL: &str = "_model_states.pt";
/// The ending of files with the optimizers' shares.
const OPTIMIZER: &str = "_optim_states.pt";
/// The file that names the folder of the last step.
const LATEST: &str = "latest";
/// Longest name in it that is read.
const LONGEST_LATEST: u64 = 1000;
/// In names of files: the first process of those that share each layer's matrices, and the only one here.
const FIRST_RANK: &str = "mp_rank_00";

type Fault = Box<Diagnostic>;

/// The folder with the states, below the one that was named: empty for that one itself.
pub(super) fn states(path: &Path, names: &[String]) -> Option<String> {
    let holds = |folder: &str| {
        let inside = fs::read_dir(path.join(folder)).into_iter().flatten().flatten();
        inside
            .into_iter()
            .any(|entry| entry.file_name().to_str().is_some_and(|name| name.ends_with(OPTIMIZER)))
    };
    if names.iter().any(|name| name.ends_with(OPTIMIZER)) {
        return Some(String::new());
    }
    if names.iter().any(|name| name == LATEST) {
        let file = path.join(LATEST);
        let step = String::from_utf8(read_limited(&file, LONGEST_LATEST).ok()?).ok()?;
        let step = step.trim();
        let mut parts = Path::new(step).components();
        let is_own = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        return (is_own && holds(step)).then(|| step.to_owned());
    }
    let mut steps = names.iter().filter(|name| name.starts_with("global_step") && holds(name));
    let only = steps.next().cloned();
    only.filter(|_| steps.next().is_none())
}

/// Reads what all files say, and where each parameter's elements lie.
///
/// **Errors.** What is wrong with the files, missing ones, and what `zero_to_fp32.py` does not read either.
pub(super) fn read(
    root: &Path,
    shown_root: &str,
    folder: &str,
    pool: &Arc<FilePool>,
) -> Result<Opened, Vec<Diagnostic>> {
    let place = if folder.is_empty() { root.to_owned() } else { root.join(folder) };
    let shown_place = match folder {
        "" => shown_root.to_owned(),
        _ => format!("{shown_root}/{}", shown(folder)),
    };
    let (models, optimizers) = listed(&place, &shown_place).map_err(|fault| vec![*fault])?;
    let mut shards = Vec::new();
    let mut open = |name: &String| -> Result<_, Vec<Diagnostic>> {
        let shown_file = format!("{shown_place}/{}", shown(name));
        let file = File { name: name.clone(), path: place.join(name), shown: shown_file.clone() };
        let own = shard(&file)?;
        let source = pool.source(&own);
        shards.push(own);
        Ok((source, shown_file, shards.len() as u32 - 1))
    };
    let mut states: Vec<Model> = Vec::with_capacity(models.len());
    for name in &models {
        let (source, file, position) = open(name)?;
        let mut model = zero::model(&source, &file)?;
        for tensor in model.buffers.iter_mut().chain(&mut model.fragments) {
            tensor.shard = position;
        }
        states.push(model);
    }
    let mut shares: Vec<Optimizer> = Vec::with_capacity(optimizers.len());
    for name in &optimizers {
        let (source, file, position) = open(name)?;
        let mut share = zero::optimizer(&source, &file)?;
        share.groups.iter_mut().for_each(|tensor| tensor.shard = position);
        shares.push(share);
    }
    let checkpoint = Zero { states, shares, shown: &shown_place };
    let tensors = checkpoint.tensors().map_err(|fault| vec![*fault])?;
    let stage = if checkpoint.shares[0].is_by_parameter { "3" } else { "1 or 2" };
    let headline = "what a checkpoint holds beside a model's weights is not read";
    let warning = Diagnostic::warning(codes::NOT_READ, headline).in_file(&shown_place).fact(
        "read",
        format!("the weights that {} optimizers hold (ZeRO, stage {stage})", optimizers.len()),
    );
    let warning = warning.note("they are what DeepSpeed's `zero_to_fp32.py` takes; averages and counters of the optimizers are left out");
    Ok(Opened { shards, tensors, warnings: vec![warning] })
}

/// The files of model states and of optimizer states, in the order of their processes.
fn listed(place: &Path, shown_place: &str) -> Result<(Vec<String>, Vec<String>), Fault> {
    let entries = fs::read_dir(place).map_err(|error| {
        let headline = format!("a folder cannot be listed: {}", crate::shown::io_text(&error));
        Box::new(Diagnostic::error(codes::UNREADABLE, headline).in_file(shown_place))
    })?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let (mut models, mut optimizers): (Vec<String>, Vec<String>) = Default::default();
    for name in names {
        if name.ends_with(MODEL) {
            models.push(name);
        } else if name.ends_with(OPTIMIZER) {
            optimizers.push(name);
        }
    }
    for all in [&mut models, &mut optimizers] {
        all.sort_by_key(|name| natural(name));
    }
    let other = models.iter().chain(&optimizers).find(|name| !name.contains(FIRST_RANK));
    let expert = models.iter().find(|name| name.contains("_expert_"));
    if let Some(name) = expert.or(other) {
        let what = match expert {
            Some(_) => "experts that lie in files of their own",
            None => "matrices that are cut among processes",
        };
        let headline = format!("a checkpoint of DeepSpeed has {what}, which is not read");
        let fault = Diagnostic::error(codes::TRAINER_STATE, headline).in_file(shown_place);
        return Err(Box::new(fault.fact("found", format!("`{}`", shown(name))).help(
            "make a universal checkpoint with DeepSpeed's `ds_to_universal.py`, or save the model with the trainer",
        )));
    }
    if models.is_empty() {
        let headline = format!("the checkpoint lacks `{FIRST_RANK}{MODEL}`");
        return Err(lacks(headline, shown_place));
    }
    Ok((models, optimizers))
}

fn lacks(headline: String, shown_place: &str) -> Fault {
    let fault = Diagnostic::error(codes::SHARD_MISSING, headline).in_file(shown_place);
    Box::new(fault.help("fetch the files of all processes, or save the checkpoint again"))
}

/// A name as people sort it: numbers by value.
fn natural(name: &str) -> Vec<(u64, String)> {
    let mut parts: Vec<(u64, String)> = vec![(0, String::new())];
    let mut is_number = false;
    for letter in name.chars() {
        match letter.to_digit(10) {
            Some(digit) => {
                if !is_number {
                    parts.push((0, String::new()));
                }
                let number = &mut parts.last_mut().expect("there is one from the start").0;
                *number = number.saturating_mul(10).saturating_add(digit.into());
                is_number = true;
            }
            None => {
                if is_number {
                    parts.push((0, String::new()));
                }
                parts.last_mut().expect("there is one from the start").1.push(letter);
                is_number = false;
            }
        }
    }
    parts
}

/// A stretch of a flat tensor: the tensor, the first element, and how many.
type Stretch<'a> = (&'a TensorEntry, u64, u64);

struct Zero<'a> {
    /// What each file of model states says; at least one.
    states: Vec<Model>,
    /// What each process holds; at least one.
    shares: Vec<Optimizer>,
    shown: &'a str,
}

impl Zero<'_> {
    fn wrong(&self, what: &str) -> Fault {
        let headline = format!("the files of DeepSpeed ZeRO do not go together: {what}");
        let fault = Diagnostic::error(codes::HEADER_BROKEN, headline).in_file(self.shown);
        Box::new(fault.help("fetch the checkpoint again, or run DeepSpeed's `zero_to_fp32.py`"))
    }

    fn tensors(&self) -> Result<Vec<TensorEntry>, Fault> {
        let (model, first) = (&self.states[0], &self.shares[0]);
        let processes = self.shares.len() as u64;
        if self.shares.iter().any(|share| share.processes != processes) {
            let headline = format!(
                "the checkpoint has the optimizer states of {processes} processes, and {} wrote some",
                first.processes
            );
            return Err(lacks(headline, self.shown));
        }
        let is_alike = |share: &Optimizer| {
            share.is_by_parameter == first.is_by_parameter
                && share.groups.len() == first.groups.len()
        };
        if !self.shares.iter().all(is_alike) {
            return Err(self.wrong("processes have different groups of parameters"));
        }
        let flat = self.shares.iter().flat_map(|share| &share.groups);
        let is_flat = |one: &TensorEntry| {
            one.shape.dimensions().len() == 1
                && matches!(one.dtype, DType::F32 | DType::F16 | DType::Bf16)
        };
        if !flat.into_iter().all(is_flat) {
            return Err(self.wrong("weights are not flat floats"));
        }
        let mut found: BTreeMap<String, TensorEntry> = BTreeMap::new();
        let mut add = |entry: TensorEntry| found.insert(entry.name.clone(), entry);
        model.buffers.iter().cloned().for_each(|entry| drop(add(entry)));
        for entry in self.frozen()? {
            add(entry);
        }
        let trained = match first.is_by_parameter {
            true => self.by_parameter()?,
            false => self.by_group()?,
        };
        for entry in trained {
            add(entry);
        }
        for [name, own] in &model.shared {
            if let Some(entry) = found.get(own).cloned() {
                found.insert(name.clone(), TensorEntry { name: name.clone(), ..entry });
            }
        }
        Ok(found.into_values().collect())
    }

    /// Parameters that were not trained: whole in stages 1 and 2, else cut among the processes.
    fn frozen(&self) -> Result<Vec<TensorEntry>, Fault> {
        let model = &self.states[0];
        if model.frozen.is_empty() {
            return Ok(Vec::new());
        }
        let by_name: Vec<HashMap<&str, &TensorEntry>> = self
            .states
            .iter()
            .map(|state| state.fragments.iter().map(|one| (one.name.as_str(), one)).collect())
            .collect();
        let cut = if self.shares[0].is_by_parameter { &by_name[..] } else { &by_name[..1] };
        let entry = |(name, shape): &(String, Vec<u64>)| {
            let parts: Option<Vec<Stretch<'_>>> = cut
                .iter()
                .map(|of| of.get(name.as_str()).map(|one| (*one, 0, one.shape.elements())))
                .collect();
            let lacking = || self.wrong(&format!("`{}` lacks a part", shown(name)));
            let parts = parts.ok_or_else(lacking)?;
            let filled: u64 = parts.iter().map(|(.., count)| count).sum();
            let shape = self.shape(name, shape)?;
            // The last share may be filled up, by less than one element of each process.
            if filled < shape.elements() || filled - shape.elements() >= cut.len() as u64 {
                return Err(lacking());
            }
            self.entry(name, shape, parts)
        };
        model.frozen.iter().map(entry).collect()
    }

    fn shape(&self, name: &str, shape: &[u64]) -> Result<Shape, Fault> {
        let overflows = |_| self.wrong(&format!("`{}` has no size of 64 bits", shown(name)));
        Shape::new(shape.to_vec()).map_err(overflows)
    }

    /// Stages 1 and 2.
    fn by_group(&self) -> Result<Vec<TensorEntry>, Fault> {
        let (groups, first) = (&self.states[0].groups, &self.shares[0]);
        if groups.len() != first.groups.len() {
            return Err(self.wrong("shapes and weights have different groups"));
        }
        let mut found = Vec::new();
        for (number, parameters) in groups.iter().enumerate() {
            let shares: Vec<Stretch<'_>> = self
                .shares
                .iter()
                .map(|share| &share.groups[number])
                .map(|flat| (flat, 0, flat.shape.elements()))
                .collect();
            let paddings = match &first.paddings {
                None => None,
                Some(all) => {
                    let own = all.get(number).filter(|own| own.len() == parameters.len());
                    Some(own.ok_or_else(|| self.wrong("paddings of other parameters"))?)
                }
            };
            let available: u64 = shares.iter().map(|(.., count)| count).sum();
            let mut offset = 0_u64;
            for (position, (name, shape)) in parameters.iter().enumerate() {
                let shape = self.shape(name, shape)?;
                let end = offset.checked_add(shape.elements()).filter(|end| *end <= available);
                let end =
                    end.ok_or_else(|| self.wrong("weights are fewer than their shapes say"))?;
                found.push(self.entry(name, shape, cut(&shares, offset, end))?);
                offset = end.saturating_add(paddings.map_or(0, |own| own[position]));
            }
            // What is left is filled up to a multiple of twice the count of processes.
            let unit = 2 * self.shares.len() as u64;
            if offset.div_ceil(unit) != available.div_ceil(unit) {
                return Err(self.wrong("weights are more than their shapes say"));
            }
        }
        Ok(found)
    }

    /// Stage 3.
    fn by_parameter(&self) -> Result<Vec<TensorEntry>, Fault> {
        let processes = self.shares.len() as u64;
        let lengths = |share: &Optimizer| -> Vec<u64> {
            share.groups.iter().map(|flat| flat.shape.elements()).collect()
        };
        let first = lengths(&self.shares[0]);
        if self.shares.iter().any(|share| lengths(share) != first) {
            return Err(self.wrong("processes hold different counts of weights"));
        }
        let available: u64 = first.iter().sum();
        let rows: Vec<Vec<Stretch<'_>>> = self
            .shares
            .iter()
            .map(|share| share.groups.iter().map(|one| (one, 0, one.shape.elements())).collect())
            .collect();
        let mut offset = 0_u64;
        let mut found = Vec::new();
        for (name, shape) in self.states[0].groups.iter().flatten() {
            let shape = self.shape(name, shape)?;
            let share = shape.elements().div_ceil(processes);
            let end = offset.checked_add(share).filter(|end| *end <= available);
            let end = end.ok_or_else(|| self.wrong("weights are fewer than their shapes say"))?;
            let parts = rows.iter().flat_map(|row| cut(row, offset, end)).collect();
            found.push(self.entry(name, shape, parts)?);
            offset = end;
        }
        if offset != available {
            return Err(self.wrong("weights are more than their shapes say"));
        }
        Ok(found)
    }

    /// A tensor of these stretches, one behind the other; what they have beyond its elements is left out.
    fn entry(
        &self,
        name: &str,
        shape: Shape,
        stretches: Vec<Stretch<'_>>,
    ) -> Result<TensorEntry, Fault> {
        let name = name.to_owned();
        let mut left = shape.elements();
        let mut parts = Vec::with_capacity(stretches.len());
        for (flat, first, count) in &stretches {
            let count = left.min(*count);
            if count == 0 {
                continue;
            }
            left -= count;
            let offset = flat.offset + first * flat.dtype.bytes() as u64;
            let shape = self.shape(&name, &[count])?;
            parts.push(TensorEntry { shape, offset, name: name.clone(), ..(*flat).clone() });
        }
        let Some(part) = parts.first().or(stretches.first().map(|(flat, ..)| *flat)) else {
            return Err(self.wrong(&format!("`{}` has no part", shown(&name))));
        };
        if parts.len() <= 1 {
            return Ok(TensorEntry { name, shape, ..part.clone() });
        }
        if parts.iter().any(|other| other.dtype != part.dtype) {
            return Err(self.wrong(&format!("parts of `{}` have different types", shown(&name))));
        }
        let (dtype, at, offset) = (part.dtype, part.shard, part.offset);
        let ends = parts.iter().scan(0, |end, part| {
            *end += part.shape.elements();
            Some(*end)
        });
        let codec = Row { ends: ends.collect() };
        let scheme = format!("{} shares", parts.len());
        let encoding = Some(Arc::new(Encoding::computed(scheme, dtype, parts, Arc::new(codec))));
        Ok(TensorEntry { name, dtype: DType::F32, shape, shard: at, offset, encoding })
    }
}

/// The elements from `start` to `end` of stretches that follow each other.
fn cut<'t>(row: &[Stretch<'t>], start: u64, end: u64) -> Vec<Stretch<'t>> {
    let mut before = 0;
    let mut found = Vec::new();
    for (flat, first, count) in row {
        let (from, to) = (start.max(before), end.min(before + count));
        if from < to {
            found.push((*flat, first + from - before, to - from));
        }
        before += count;
    }
    // A parameter without elements still has a place.
    if found.is_empty() {
        found.extend(row.first().map(|(flat, first, _)| (*flat, *first, 0)));
    }
    found
}

/// A tensor whose parts follow each other.
#[derive(Debug)]
struct Row {
    /// For each part, the first element behind it.
    ends: Vec<u64>,
}

impl Codec for Row {
    fn decode(&self, reader: &Reader<'_>, first: u64, out: &mut [f32]) -> Result<(), ReadError> {
        let mut done = 0;
        while done < out.len() {
            let element = first + done as u64;
            let part = self.ends.partition_point(|end| *end <= element);
            let Some(end) = self.ends.get(part) else {
                return Err(reader.wrong_value(0, "leaves an element to no part"));
            };
            let start = part.checked_sub(1).map_or(0, |before| self.ends[before]);
            let run = usize::try_from(end - element).unwrap_or(usize::MAX);
            let count = (out.len() - done).min(run);
            reader.floats(part, element - start, &mut out[done..done + count])?;
            done += count;
        }
        Ok(())
    }

    fn computed(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_come_in_the_order_of_their_numbers() {
        let mut names = ["zero_pp_rank_10_mp_rank_00", "zero_pp_rank_9_mp_rank_00", "a"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["a", "zero_pp_rank_9_mp_rank_00", "zero_pp_rank_10_mp_rank_00"]);
    }
}
