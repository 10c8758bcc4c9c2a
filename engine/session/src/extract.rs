//! The adapter between two checkpoints.

use std::path::PathBuf;

use mixdown_checkpoint::TensorEntry;
use mixdown_checkpoint::encoding::Blocks;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::Source;
use mixdown_plan::ModelSource;
use mixdown_tensor::{DType, convert};
use serde_json::{Value, json};

use crate::merge::{self, MergeRequest, Merged};
use crate::planning::{self, RecipeInput};
use crate::progress::{Meter, Task};
use crate::{Event, Listener, Machine, Session, Trouble};

/// Which adapter to write, where to, and how.
#[derive(Clone, Debug)]
pub struct ExtractRequest {
    /// The model: a folder, a file, or an id at the hub.
    pub model: String,
    /// What it was made from, and what the adapter will be on.
    pub base: String,
    /// Most directions of each update, from 1; smaller matrices have fewer.
    pub rank: u32,
    /// The folder to make.
    pub out: PathBuf,
    /// What may be used of the machine.
    pub machine: Machine,
    /// Replace the output folder if there is one.
    pub force: bool,
    /// Whether files of models may be links out of the model's folder.
    pub follow_links: bool,
}

/// Bytes that are compared at a time.
const CHUNK: usize = 1 << 20;

/// Writes what the model adds to its base as a LoRA adapter: of each linear layer that differs the leading
/// singular directions of the difference, and what else differs whole.
///
/// **Errors.** No tensor differs, the models do not fit, or all that a merge fails of.
pub fn extract(request: &ExtractRequest, session: &Session<'_>) -> Result<Merged, Trouble> {
    let of_command = |trouble| match trouble {
        Trouble::Found(found) => Trouble::Found(found.into_iter().map(in_own_words).collect()),
        Trouble::Usage(found) => Trouble::Usage(found.into_iter().map(in_own_words).collect()),
        interrupted @ Trouble::Interrupted(_) => interrupted,
    };
    let told = Told { listener: session.listener };
    let session = &Session { listener: &told, ..*session };
    let mut merge = MergeRequest::new(recipe(request, session).map_err(of_command)?, &request.out);
    (merge.machine, merge.force) = (request.machine, request.force);
    merge::merge(&merge, session).map_err(of_command)
}

/// Says what was found without the recipe that the request stands for, which nobody has written and nobody
/// can change: what has no place is about that.
fn in_own_words(mut found: Diagnostic) -> Diagnostic {
    if found.place.is_none() {
        found.help = match found.code {
            codes::TENSOR_MISSING => {
                Some("leave the tensor out of the model, or give its base one of that name".into())
            }
            codes::SHAPE_MISMATCH => {
                Some("extract from models whose tensors have one shape".into())
            }
            codes::UNSUPPORTED => None,
            _ => {
                found.help.filter(|help| !SPEAKS_OF_RECIPES.iter().any(|word| help.contains(word)))
            }
        };
    }
    found
}

/// Tells somebody else, in the words of the command.
struct Told<'a> {
    listener: &'a dyn Listener,
}

impl Listener for Told<'_> {
    fn tell(&self, event: &Event<'_>) {
        match event {
            Event::Warnings(found) => {
                let found: Vec<Diagnostic> = found.iter().cloned().map(in_own_words).collect();
                self.listener.tell(&Event::Warnings(&found));
            }
            Event::Notice(_) | Event::Started(_) => self.listener.tell(event),
        }
    }

    fn watch(&self, meter: &Meter, work: &mut dyn FnMut()) {
        self.listener.watch(meter, work);
    }

    fn has_work(&self, has: bool) {
        self.listener.has_work(has);
    }
}

/// What helps say that only a recipe can do.
const SPEAKS_OF_RECIPES: [&str; 6] = ["rule", "recipe", "`output", "`models", "`base", "`dtype"];

/// The recipe that extracts the adapter: the tensors that do not differ are kept.
fn recipe(request: &ExtractRequest, session: &Session<'_>) -> Result<RecipeInput, Trouble> {
    let of = |unchanged: &[&str]| RecipeInput {
        follow_links: request.follow_links,
        ..RecipeInput::made_up(text(request, unchanged))
    };
    let planned = planning::plan(&of(&[]), session, None)?;
    let (&[ModelSource::Checkpoint(base), ModelSource::Checkpoint(model)], sources) =
        (planned.loaded.sources[0].as_slice(), planned.sources())
    else {
        return Ok(of(&[]));
    };
    let unchanged = unchanged(&sources[base as usize], &sources[model as usize], session)?;
    if unchanged.len() == sources[base as usize].index.len() {
        return Err(Trouble::Found(vec![
            Diagnostic::error(
                codes::NOTHING_TO_WRITE,
                "no tensor of the model differs from the base",
            )
            .fact("model", request.model.as_str())
            .fact("base", request.base.as_str()),
        ]));
    }
    Ok(of(&unchanged))
}

fn text(request: &ExtractRequest, unchanged: &[&str]) -> String {
    let ExtractRequest { model, base, rank, .. } = request;
    // A text of JSON is one of YAML, whatever stands in it.
    let quoted = |text: &str| Value::from(text).to_string();
    let mut text = format!(
        "mixdown: 1\nmodels:\n  base: {}\n  model: {}\nbase: base\noutput: {{as: adapter, rank: {rank}}}\nrules:\n",
        quoted(base),
        quoted(model)
    );
    if !unchanged.is_empty() {
        text.push_str(&format!("  - {{tensors: {}, keep: base}}\n", json!(unchanged)));
    }
    text.push_str("  - {keep: model}\n");
    text
}

/// The tensors of the base that the model has with the same values.
fn unchanged<'a>(
    base: &Source<'a>,
    model: &Source<'a>,
    session: &Session<'_>,
) -> Result<Vec<&'a str>, Trouble> {
    let same_kind = |one: &'a TensorEntry| {
        let other = &model.index.tensors()[model.index.position(&one.name)?];
        let is_number =
            |dtype: DType| matches!(dtype, DType::Bf16 | DType::F16 | DType::F32 | DType::F64);
        let types = one.dtype == other.dtype || (is_number(one.dtype) && is_number(other.dtype));
        (types && one.shape == other.shape).then_some((one, other))
    };
    // A name that reads as a pattern cannot be listed; its tensor has an update of rank 0.
    let is_plain = |name: &str| !name.contains(['*', '{', '}', '?', '[', '\\']);
    let pairs: Vec<_> = base
        .index
        .tensors()
        .iter()
        .filter(|one| is_plain(&one.name))
        .filter_map(same_kind)
        .collect();
    let meter = session.meter(Task::Comparing);
    meter.enter("comparing");
    meter.expect(0, pairs.iter().map(|(one, other)| one.bytes() + other.bytes()).sum());
    session.watch(&meter, || {
        let mut buffers = (vec![0; CHUNK], vec![0; CHUNK]);
        let blocks = [Blocks::default(), Blocks::default()];
        let mut found = Vec::new();
        for (one, other) in pairs {
            if session.is_cancelled() {
                return Err(Trouble::Interrupted("interrupted: nothing was written".to_owned()));
            }
            if is_equal((base, one), (model, other), &mut buffers, blocks.each_ref())? {
                found.push(one.name.as_str());
            }
            meter.add(one.bytes() + other.bytes(), 0);
        }
        Ok(found)
    })
}

/// Whether two tensors of one shape hold the same values: the same bytes, or the same numbers in two types.
/// Most differ in the first chunk.
fn is_equal(
    (first, one): (&Source<'_>, &TensorEntry),
    (second, other): (&Source<'_>, &TensorEntry),
    (a, b): &mut (Vec<u8>, Vec<u8>),
    blocks: [&Blocks; 2],
) -> Result<bool, Trouble> {
    let elements = one.shape.elements();
    let widest = one.dtype.bytes().max(other.dtype.bytes());
    let mut at = 0;
    while at < elements {
        let count = (elements - at).min((CHUNK / widest) as u64) as usize;
        let read = |source: &Source<'_>, entry: &TensorEntry, into: &mut [u8], blocks: &Blocks| {
            let from = |shard: u32, offset: u64, into: &mut [u8]| {
                source.shards[shard as usize].read_exact_at(offset, into)
            };
            entry.read(at, into, &from, blocks).map_err(|error| Trouble::from(error.diagnostic()))
        };
        let (a, b) = (&mut a[..count * one.dtype.bytes()], &mut b[..count * other.dtype.bytes()]);
        read(first, one, a, blocks[0])?;
        read(second, other, b, blocks[1])?;
        let is_same = match one.dtype == other.dtype {
            true => a == b,
            false => numbers(one.dtype, a).eq(numbers(other.dtype, b)),
        };
        if !is_same {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

/// The numbers of stored floats as bits of f64, which holds those of every type; −0 is another than 0.
fn numbers(dtype: DType, bytes: &[u8]) -> impl Iterator<Item = Option<u64>> + '_ {
    bytes.chunks_exact(dtype.bytes()).map(move |bytes| {
        let number = match (dtype, bytes) {
            (DType::Bf16, &[a, b]) => f64::from(convert::bf16_to_f32(u16::from_le_bytes([a, b]))),
            (DType::F16, &[a, b]) => f64::from(convert::f16_to_f32(u16::from_le_bytes([a, b]))),
            (DType::F32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
            (DType::F64, bytes) => f64::from_le_bytes(bytes.try_into().ok()?),
            _ => return None,
        };
        Some(number.to_bits())
    })
}
