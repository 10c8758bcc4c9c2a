//! Which tensors belong to which part: stretches of the output in its order, of equal cost.
//!
//! Cuts fall between shards wherever that leaves the parts equal enough, so that assembling moves whole
//! files; elsewhere a shard is cut between two tensors, and its pieces are joined when the parts are. Whole
//! numbers only, so that every machine cuts alike.

use std::ops::Range;

use mixdown_checkpoint::layout::{Layout, OutputTensor};
use mixdown_diagnostics::Diagnostic;
use mixdown_exec::JobCost;

use super::PartNumber;

/// Floating-point operations that take as long as reading or writing a byte.
const FLOPS_PER_BYTE: u64 = 8;

/// How far a cut may be from where parts would be equal, to fall between two shards: this share of a
/// part. Two cuts bound a part, so that it is at most twice as far from the mean.
const TOLERANCE: (u128, u128) = (1, 40);

/// How an output is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    shares: Vec<Share>,
    /// Bytes that each part reads for facts about several tensors.
    pub facts_bytes: u64,
}

/// What one part does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Its jobs, as positions in the plan.
    pub jobs: Range<usize>,
    /// The tensors that are stored for them, as positions in the output.
    pub tensors: Range<usize>,
    /// Bytes that are read for them.
    pub bytes_read: u64,
    /// Bytes of the tensors.
    pub bytes_written: u64,
    /// Floating-point operations of matrix ops.
    pub flops: u64,
    /// Bytes read and written, and what operations count for in bytes.
    pub cost: u64,
    /// Whole shards of the output.
    pub shards: usize,
    /// Shards that it has only pieces of.
    pub pieces: usize,
}

impl Partition {
    /// Cuts an output of this layout in so many parts. `costs` are those of jobs and what they read for facts,
    /// and `first` has for each the position of its first tensor in the output.
    pub fn new(
        layout: &Layout,
        (costs, facts_bytes): (&[JobCost], u64),
        first: &[usize],
        parts: u32,
    ) -> Self {
        let tensors = layout.tensors().len();
        let shard_of: Vec<usize> = (0..tensors).map(|index| layout.place(index).shard).collect();
        let first_of = |job: usize| first.get(job).copied().unwrap_or(tensors);
        // A job of several tensors may lie in two shards; a cut comes before its first.
        let is_edge = |job: usize| {
            let at = first_of(job);
            at == 0 || at >= tensors || shard_of[at - 1] != shard_of[at]
        };
        let starts = starts(costs, is_edge, parts);
        let sizes: Vec<usize> = layout.shards().iter().map(|shard| shard.tensors.len()).collect();
        let share = |pair: &[usize]| {
            let jobs = pair[0]..pair[1];
            let tensors = first_of(jobs.start)..first_of(jobs.end);
            let mut share = Share { jobs: jobs.clone(), tensors, ..Share::default() };
            for cost in &costs[jobs] {
                share.bytes_read += cost.bytes_read;
                share.bytes_written += cost.bytes_written;
                share.flops += cost.flops;
                share.cost += weight(cost);
            }
            for (shard, members) in stretches(&shard_of, share.tensors.clone()) {
                match members.len() == sizes[shard] {
                    true => share.shards += 1,
                    false => share.pieces += 1,
                }
            }
            share
        };
        Self { shares: starts.windows(2).map(share).collect(), facts_bytes }
    }

    /// What each part does, in order.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// What this part does.
    pub fn share(&self, part: PartNumber) -> &Share {
        &self.shares[part.index()]
    }

    /// How much more than the mean the dearest part costs: 0.05 for 5 %.
    pub fn excess(&self) -> f64 {
        let costs = || self.shares.iter().map(|share| share.cost as f64 + self.facts_bytes as f64);
        let mean = costs().sum::<f64>() / self.shares.len().max(1) as f64;
        if mean > 0.0 { costs().fold(0.0, f64::max) / mean - 1.0 } else { 0.0 }
    }
}

/// The layout of a part: its whole shards as they are in the output, and its pieces of others in files of
/// their own.
///
/// **Errors.** Those of [`Layout::new`].
pub fn layout_of(whole: &Layout, tensors: Range<usize>) -> Result<Layout, Box<Diagnostic>> {
    let shard_of: Vec<usize> =
        (0..whole.tensors().len()).map(|index| whole.place(index).shard).collect();
    let start = tensors.start;
    let own: Vec<OutputTensor> = whole.tensors()[tensors.clone()].to_vec();
    let files = stretches(&shard_of, tensors).into_iter().map(|(shard, members)| {
        let found = &whole.shards()[shard];
        let is_whole = members.len() == found.tensors.len() && found.torch.is_none();
        let name = match is_whole {
            true => found.name.clone(),
            false => piece_name(&found.name),
        };
        (name, members.map(|index| index - start).collect())
    });
    let mut files: Vec<(String, Vec<usize>)> = files.collect();
    if files.is_empty() {
        // A part without tensors is a file that holds none, as an output without tensors is.
        files.push((piece_name("model.safetensors"), Vec::new()));
    }
    Layout::of_files(own, files)
}

/// The name of a file with a piece of a shard.
pub(super) fn piece_name(shard: &str) -> String {
    let stem = shard.rsplit_once('.').map_or(shard, |(stem, _)| stem);
    format!("piece-of-{stem}.safetensors")
}

/// Stretches of tensors that lie in one shard, which are in order.
fn stretches(shard_of: &[usize], tensors: Range<usize>) -> Vec<(usize, Range<usize>)> {
    let mut found: Vec<(usize, Range<usize>)> = Vec::new();
    for tensor in tensors {
        match found.last_mut() {
            Some((shard, members)) if *shard == shard_of[tensor] => members.end = tensor + 1,
            _ => found.push((shard_of[tensor], tensor..tensor + 1)),
        }
    }
    found
}

fn weight(cost: &JobCost) -> u64 {
    let bytes = cost.bytes_read.saturating_add(cost.bytes_written);
    bytes.saturating_add(cost.flops / FLOPS_PER_BYTE)
}

/// The first job of each part, and after these the count of jobs.
fn starts(costs: &[JobCost], is_edge: impl Fn(usize) -> bool, parts: u32) -> Vec<usize> {
    let jobs = costs.len();
    let mut before: Vec<u128> = vec![0];
    for cost in costs {
        before.push(before[before.len() - 1] + u128::from(weight(cost)));
    }
    // Both sides of a low-rank matrix are computed together.
    let mut is_joined = vec![false; jobs + 1];
    for (job, cost) in costs.iter().enumerate() {
        let twin = cost.with.map_or(job, |twin| twin as usize);
        is_joined[job.min(twin) + 1..=job.max(twin)].fill(true);
    }
    let places: Vec<usize> = (0..=jobs).filter(|&place| !is_joined[place]).collect();

    let edges: Vec<usize> = places.iter().copied().filter(|&place| is_edge(place)).collect();
    let (total, parts) = (before[jobs], u128::from(parts));
    let mut starts = vec![0];
    for part in 1..parts {
        // All is counted in shares of the total, times the count of parts.
        let ideal = total * part;
        let far = |place: usize| (before[place] * parts).abs_diff(ideal);
        let nearest = |places: &[usize]| {
            let after = places.partition_point(|&place| before[place] * parts < ideal);
            let near = [after.checked_sub(1), Some(after)].into_iter().flatten();
            near.filter_map(|at| places.get(at).copied()).min_by_key(|&place| far(place))
        };
        let edge = nearest(&edges).filter(|&edge| far(edge) * TOLERANCE.1 <= total * TOLERANCE.0);
        let place = edge.or_else(|| nearest(&places)).unwrap_or(jobs);
        starts.push(place.max(starts[starts.len() - 1]));
    }
    starts.push(jobs);
    starts
}

#[cfg(test)]
mod tests {
    use mixdown_tensor::{DType, Shape};

    use super::*;

    fn layout(elements: &[u64], shard_bytes: u64) -> Layout {
        let tensor = |(number, &elements): (usize, &u64)| OutputTensor {
            name: format!("t{number:04}"),
            dtype: DType::F32,
            shape: Shape::new(vec![elements]).unwrap(),
        };
        Layout::new(elements.iter().enumerate().map(tensor).collect(), shard_bytes).unwrap()
    }

    fn costs(elements: &[u64]) -> Vec<JobCost> {
        let cost = |&elements: &u64| JobCost {
            bytes_read: 12 * elements,
            bytes_written: 4 * elements,
            ..JobCost::default()
        };
        elements.iter().map(cost).collect()
    }

    fn cut(elements: &[u64], shard_bytes: u64, parts: u32) -> Partition {
        partition(&layout(elements, shard_bytes), &costs(elements), parts)
    }

    fn partition(layout: &Layout, costs: &[JobCost], parts: u32) -> Partition {
        let first: Vec<usize> = (0..costs.len()).collect();
        Partition::new(layout, (costs, 0), &first, parts)
    }

    /// Every tensor belongs to one part, whatever the sizes and the count of parts.
    #[test]
    fn parts_are_stretches_that_cover_everything() {
        let odd: Vec<u64> = (0..97).map(|number| number * 7919 % 523).collect();
        for elements in [&[][..], &[5], &[1000, 1, 1, 1], &[0, 0, 0], &odd] {
            for parts in [1, 2, 3, 16, 200] {
                let found = cut(elements, 2000, parts);
                assert_eq!(found.shares().len(), parts as usize);
                let mut next = 0;
                for share in found.shares() {
                    assert_eq!(share.jobs.start, next);
                    next = share.jobs.end;
                }
                assert_eq!(next, elements.len());
                let written: u64 = found.shares().iter().map(|share| share.bytes_written).sum();
                assert_eq!(written, elements.iter().sum::<u64>() * 4);
            }
        }
    }

    #[test]
    fn cuts_fall_between_shards_where_that_is_equal_enough() {
        // Twenty shards of five tensors each, and four parts: five shards each.
        let found = cut(&[100; 100], 2000, 4);
        let counts: Vec<_> = found.shares().iter().map(|one| (one.shards, one.pieces)).collect();
        assert_eq!(counts, [(5, 0); 4]);
        // Three shards for two parts cannot be dealt out whole.
        let found = cut(&[100; 30], 4000, 2);
        let counts: Vec<_> = found.shares().iter().map(|one| (one.shards, one.pieces)).collect();
        assert_eq!(counts, [(1, 1), (1, 1)]);
        assert_eq!(found.excess(), 0.0);
    }

    #[test]
    fn dear_tensors_count_for_more() {
        let mut costs = costs(&[100; 10]);
        costs[0].flops = 9 * 1600 * FLOPS_PER_BYTE;
        let found = partition(&layout(&[100; 10], 0), &costs, 2);
        assert_eq!(found.shares()[0].jobs, 0..1, "{found:?}");
        assert!((found.excess() - 1.0 / 19.0).abs() < 1e-9);
    }

    /// Codes and scales of one job are never in two parts.
    #[test]
    fn tensors_of_a_job_stay_together() {
        let layout = layout(&[100, 1, 100, 1, 100, 1], 400);
        for parts in 1..5 {
            let found = Partition::new(&layout, (&costs(&[101; 3]), 0), &[0, 2, 4], parts);
            for share in found.shares() {
                assert_eq!(share.tensors, 2 * share.jobs.start..2 * share.jobs.end, "{found:?}");
            }
        }
    }

    #[test]
    fn both_sides_of_a_matrix_stay_together() {
        let mut costs = costs(&[100; 6]);
        for pair in [0, 2, 4] {
            costs[pair].with = Some(pair as u32 + 1);
        }
        for parts in 1..7 {
            let found = partition(&layout(&[100; 6], 0), &costs, parts);
            assert!(found.shares().iter().all(|share| share.jobs.start % 2 == 0), "{found:?}");
        }
    }

    #[test]
    fn a_part_has_whole_shards_as_they_are_and_pieces_beside() {
        let whole = layout(&[100; 30], 4000);
        let part = layout_of(&whole, 10..25).unwrap();
        let names: Vec<&str> = part.shards().iter().map(|shard| shard.name.as_str()).collect();
        let expected =
            ["model-00002-of-00003.safetensors", "piece-of-model-00003-of-00003.safetensors"];
        assert_eq!(names, expected);
        assert_eq!(part.shards()[0].header, whole.shards()[1].header);
        assert_eq!(part.tensors()[0].name, "t0010");
        assert_eq!(layout_of(&whole, 30..30).unwrap().shards().len(), 1);
    }
}
