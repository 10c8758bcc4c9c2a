//! Distributed checkpoints of torch (`torch.distributed.checkpoint`, as FSDP, torchtitan and Megatron-Core write
//! them): a `.metadata` beside `*.distcp`, in which tensors lie in parts.

use std::collections::HashMap;
use std::path::{Component, Path};
use std::sync::Arc;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::{DType, Shape};

use super::files::{File, shard};
use crate::encoding::{Codec, Encoding, Reader};
use crate::format::torch::distributed::{self, Part, Sharded};
use crate::index::{Shard, TensorEntry};
use crate::shown::{shown, some_of};
use crate::source::{FilePool, ReadError};

/// What says where all tensors are.
pub(super) const METADATA: &str = ".metadata";
/// The ending of the files that they lie in.
pub(super) const PARTS: &str = ".distcp";

/// What makes one file of such a checkpoint, for what is not read here.
const INSTEAD: &str = "run `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt`, and name the result";

/// First words of names in a state that are no model's.
const TRAINER: [&str; 5] = ["optim", "optimizer", "optimizers", "lr_scheduler", "rng_state"];

/// What a folder holds.
pub(super) struct Opened {
    pub shards: Vec<Shard>,
    pub tensors: Vec<TensorEntry>,
    pub warnings: Vec<Diagnostic>,
}

/// Reads the metadata, and the header of each part.
///
/// **Errors.** All that is wrong with the files.
pub(super) fn read(
    root: &Path,
    shown_root: &str,
    pool: &Arc<FilePool>,
) -> Result<Opened, Vec<Diagnostic>> {
    let file = |name: &str| {
        let shown = format!("{shown_root}/{}", shown(name));
        File { name: name.to_owned(), path: root.join(name), shown }
    };
    let metadata = file(METADATA);
    let source = pool.source(&shard(&metadata)?);
    let listed = distributed::read(&source, &metadata.shown).map_err(|fault| vec![*fault])?;
    let (mut shards, mut tensors, mut faults): (Vec<Shard>, Vec<TensorEntry>, Vec<Diagnostic>) =
        Default::default();
    let mut known: HashMap<String, u32> = HashMap::new();
    let mut left: Vec<String> = listed.others;
    for sharded in listed.tensors {
        if sharded.name.split('.').next().is_some_and(|first| TRAINER.contains(&first)) {
            left.push(sharded.name);
            continue;
        }
        let mut parts = Vec::with_capacity(sharded.parts.len());
        for part in &sharded.parts {
            let position = match known.get(&part.file) {
                Some(position) => *position,
                None => match opened(&file(&part.file)) {
                    Ok(own) => {
                        shards.push(own);
                        known.insert(part.file.clone(), shards.len() as u32 - 1);
                        shards.len() as u32 - 1
                    }
                    Err(more) => {
                        faults.extend(more);
                        return Err(faults);
                    }
                },
            };
            let own = &shards[position as usize];
            let found = distributed::tensor(&pool.source(own), (part.at, part.len), &own.shown);
            match found {
                Ok(entry)
                    if (entry.dtype, entry.shape.dimensions()) == (sharded.dtype, &part.sizes) =>
                {
                    parts.push(TensorEntry { shard: position, ..entry });
                }
                Ok(entry) => faults.push(
                    (*wrong(&sharded, "a part of `{}` is not what the metadata says"))
                        .in_file(&own.shown)
                        .fact("part", format!("{} {}", entry.shape, entry.dtype))
                        .fact("metadata", format!("{:?} {}", part.sizes, sharded.dtype)),
                ),
                Err(more) => faults.extend(more),
            }
        }
        if parts.len() == sharded.parts.len() {
            match joined(&sharded, parts) {
                Ok(entry) => tensors.push(entry),
                Err(fault) => faults.push((*fault).in_file(&metadata.shown)),
            }
        }
        if faults.len() > 20 {
            break;
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut warnings = Vec::new();
    if !left.is_empty() {
        let names: Vec<&str> = left.iter().map(String::as_str).collect();
        let headline = "what a checkpoint holds beside a model's weights is not read";
        let warning = Diagnostic::warning(codes::NOT_READ, headline).in_file(&metadata.shown);
        warnings.push(warning.fact("not read", some_of(&names)));
    }
    warnings.extend(unwrap(&mut tensors, &metadata.shown));
    Ok(Opened { shards, tensors, warnings })
}

/// A file that the metadata names, which must be one of the folder's own.
fn opened(file: &File) -> Result<Shard, Vec<Diagnostic>> {
    let mut components = Path::new(&file.name).components();
    let is_own =
        matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    if !is_own {
        let headline =
            format!("the metadata names a file outside of its folder, `{}`", shown(&file.name));
        return Err(vec![Diagnostic::error(codes::HEADER_BROKEN, headline).in_file(&file.shown)]);
    }
    if file.path.symlink_metadata().is_err() {
        let headline = format!("the checkpoint lacks `{}`", shown(&file.name));
        let fault = Diagnostic::error(codes::SHARD_MISSING, headline).in_file(&file.shown);
        return Err(vec![fault.help("fetch this file, or the whole checkpoint again")]);
    }
    shard(file)
}

/// Trainers save `{"model": …}`, so that the model's own names come after a word more.
fn unwrap(tensors: &mut [TensorEntry], shown_file: &str) -> Option<Diagnostic> {
    const WORD: &str = "model.";
    let is_twice = tensors.iter().any(|one| {
        one.name
            .strip_prefix(WORD)
            .is_some_and(|rest| rest.starts_with(WORD) || rest.starts_with("lm_head."))
    });
    if !is_twice || !tensors.iter().all(|one| one.name.starts_with(WORD)) {
        return None;
    }
    for tensor in tensors {
        tensor.name.drain(..WORD.len());
    }
    let headline = format!("the names of the tensors are read without `{WORD}`");
    let warning = Diagnostic::warning(codes::WRAPPED_NAMES, headline).in_file(shown_file);
    Some(warning.note("the trainer's state puts it there; the output has the model's own names"))
}

fn wrong(sharded: &Sharded, headline: &str) -> Box<Diagnostic> {
    let headline = headline.replace("{}", &shown(&sharded.name));
    let fault = Diagnostic::error(codes::HEADER_BROKEN, headline);
    Box::new(fault.help("fetch or write the checkpoint again"))
}

/// A tensor of its parts, which cover each of its elements once.
fn joined(sharded: &Sharded, parts: Vec<TensorEntry>) -> Result<TensorEntry, Box<Diagnostic>> {
    let Ok(shape) = Shape::new(sharded.shape.clone()) else {
        return Err(wrong(sharded, "`{}` has a shape whose size does not fit into 64 bits"));
    };
    let elements: u64 = parts.iter().map(|part| part.shape.elements()).sum();
    let overlap = sharded
        .parts
        .iter()
        .enumerate()
        .any(|(at, one)| sharded.parts[..at].iter().any(|other| overlaps(one, other)));
    if elements != shape.elements() || overlap {
        return Err(wrong(sharded, "the parts of `{}` do not make the whole of it"));
    }
    let name = sharded.name.clone();
    if let [only] = &parts[..] {
        return Ok(TensorEntry { name, shape, ..only.clone() });
    }
    if !matches!(sharded.dtype, DType::F32 | DType::F16 | DType::Bf16) {
        let headline =
            format!("`{}` lies in parts of {}, which are not joined", shown(&name), sharded.dtype);
        return Err(Box::new(Diagnostic::error(codes::UNSUPPORTED_FORMAT, headline).help(INSTEAD)));
    }
    let Some(first) = parts.first() else {
        return Err(wrong(sharded, "`{}` has no parts"));
    };
    let (at, offset) = (first.shard, first.offset);
    let places = sharded.parts.iter().map(|part| (part.offsets.clone(), part.sizes.clone()));
    let codec = Joined { shape: sharded.shape.clone(), parts: places.collect() };
    let scheme = format!("{} parts", parts.len());
    let encoding = Encoding::computed(scheme, sharded.dtype, parts, Arc::new(codec));
    let encoding = Some(Arc::new(encoding));
    Ok(TensorEntry { name, dtype: DType::F32, shape, shard: at, offset, encoding })
}

fn overlaps(one: &Part, other: &Part) -> bool {
    let mut axes = one.offsets.iter().zip(&one.sizes).zip(other.offsets.iter().zip(&other.sizes));
    axes.all(|((a, a_size), (b, b_size))| *a < b + b_size && *b < a + a_size)
}

/// Rectangles of a tensor, each in a part of its own.
#[derive(Debug)]
struct Joined {
    shape: Vec<u64>,
    /// Offsets and sizes.
    parts: Vec<(Vec<u64>, Vec<u64>)>,
}

impl Joined {
    /// The part that an element is in, its place there, and how many follow it in both.
    fn run(&self, element: u64) -> Option<(usize, u64, u64)> {
        let mut index = vec![0; self.shape.len()];
        let mut rest = element;
        for (place, size) in index.iter_mut().zip(&self.shape).rev() {
            *place = rest % size;
            rest /= size;
        }
        let holds = |(offsets, sizes): &(Vec<u64>, Vec<u64>)| {
            let axes = index.iter().zip(offsets.iter().zip(sizes));
            axes.into_iter().all(|(at, (offset, size))| offset <= at && *at < offset + size)
        };
        let part = self.parts.iter().position(holds)?;
        let (offsets, sizes) = &self.parts[part];
        let (mut local, mut run, mut inner, mut within) = (0, 1, 1, 0);
        let mut is_whole = true;
        let mut stride = 1;
        for axis in (0..self.shape.len()).rev() {
            let at = index[axis] - offsets[axis];
            local += at * stride;
            if is_whole {
                // All axes after this one are whole in the part, so that its rows follow each other.
                run = (sizes[axis] - at) * inner - within;
                within += at * inner;
                inner *= self.shape[axis];
                is_whole = sizes[axis] == self.shape[axis];
            }
            stride *= sizes[axis];
        }
        Some((part, local, run))
    }
}

impl Codec for Joined {
    fn decode(&self, reader: &Reader<'_>, first: u64, out: &mut [f32]) -> Result<(), ReadError> {
        let mut done = 0;
        while done < out.len() {
            let Some((part, local, run)) = self.run(first + done as u64) else {
                return Err(reader.wrong_value(0, "leaves an element to no part"));
            };
            let count = (out.len() - done).min(usize::try_from(run).unwrap_or(usize::MAX));
            reader.floats(part, local, &mut out[done..done + count])?;
            done += count;
        }
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        0
    }

    fn computed(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_in_their_parts() {
        // [4, 6] as [2, 6] above, and [2, 2] and [2, 4] below.
        let parts =
            vec![(vec![0, 0], vec![2, 6]), (vec![2, 0], vec![2, 2]), (vec![2, 2], vec![2, 4])];
        let joined = Joined { shape: vec![4, 6], parts };
        let found: Vec<_> = [0, 5, 6, 11, 12, 13, 14, 17, 18, 23].map(|at| joined.run(at)).into();
        let expected = [
            (0, 0, 12),
            (0, 5, 7),
            (0, 6, 6),
            (0, 11, 1),
            (1, 0, 2),
            (1, 1, 1),
            (2, 0, 4),
            (2, 3, 1),
            (1, 2, 2),
            (2, 7, 1),
        ];
        assert_eq!(found, expected.map(Some));
    }
}
