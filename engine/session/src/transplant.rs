//! Transplants: a model with the vocabulary of another one.
//!
//! Tokens that both have keep the model's own rows. For each other token of the donor a row is made from what the
//! donor's embedding says about it, in most methods as a sum of few common tokens whose factors are then taken to
//! the model's rows. The result is a checkpoint that is put together from the model's tensors and from embeddings
//! that are made while they are read, and a recipe that writes it like every other merge.

mod approximate;
mod map;
mod request;
mod rows;
mod solve;
mod source;
mod trained;
mod words;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use mixdown_checkpoint::{FilePool, Form, Index, TensorEntry, known, shown, shown_path, small};
use mixdown_cpu::Rotary;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_plan::knowledge::{self, Architectures};
use mixdown_recipe::architecture::Role;
use mixdown_tensor::Shape;
use serde_json::{Map, Value, json};

use crate::Session;
use crate::composed::{Composed, Composition};
use crate::merge::files;
use crate::models::{Model, Reference, Vocabulary};
use crate::recipes::tokens::Budget;

pub use request::{Method, NewRows, SubwordRule, TransplantRequest, Weights, Where, transplant};

use request::Settings;
use rows::{Matrix, Plan, Stored};
use source::Made;
use words::{Word, Words, words};

/// What a recipe of a transplant stands for; none if it is no such recipe.
pub(crate) fn composition(
    text: &str,
    memory_bytes: u64,
    session: &Session<'_>,
) -> Option<Result<Composition, Vec<Diagnostic>>> {
    let settings = Settings::read(text)?;
    let made = settings.and_then(|settings| compose(settings, text, memory_bytes, session));
    Some(made)
}

fn problem(headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(codes::TRANSPLANT, headline)
}

/// A model with its tokens.
struct Side {
    model: Model,
    words: Words,
    tokens: u64,
}

impl Side {
    fn open(
        reference: &Reference,
        budget: &mut Budget,
        session: &Session<'_>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let model = Model::find(reference, &reference.shown(), session)?;
        let name = shown(&model.checkpoint.name).into_owned();
        let tokenizer = budget.tokenizer(&model).map_err(|error| vec![*error])?;
        let Some(tokenizer) = tokenizer else {
            let error = problem(format!("`{name}` has no tokenizer that is read"))
                .in_file(shown_path(&model.checkpoint.root))
                .help("save its tokenizer in the fast format: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`");
            return Err(vec![error]);
        };
        let config = budget.config(&model).map_err(|error| vec![*error])?;
        let notes = budget.notes(&model).map_err(|error| vec![*error])?;
        let (words, tokens) = words(&tokenizer, &[config.as_ref(), notes.as_ref()]);
        Ok(Self { model, words, tokens })
    }

    fn name(&self) -> String {
        shown(&self.model.checkpoint.name).into_owned()
    }

    /// The embedding, the output layer where it is a tensor of its own, and what else has an element for each token.
    fn matrices(&self) -> Result<Found<'_>, Vec<Diagnostic>> {
        let checkpoint = &self.model.checkpoint;
        let index = &checkpoint.index;
        let names = index.tensors().iter().map(|entry| entry.name.as_str());
        let family = Architectures::built_in().recognize(names, checkpoint.config.as_ref());
        let of_role = |role: Role| -> Vec<&TensorEntry> {
            let is_of = |entry: &&TensorEntry| match family {
                Some(family) => {
                    knowledge::facts(family, &entry.name).is_some_and(|facts| facts.role == role)
                }
                None => by_name(&entry.name) == Some(role),
            };
            index.tensors().iter().filter(is_of).collect()
        };
        let is_matrix = |entry: &&TensorEntry| entry.shape.dimensions().len() == 2;
        let (embeddings, heads) = (of_role(Role::Embedding), of_role(Role::Unembedding));
        let embedding = embeddings.iter().copied().find(is_matrix);
        let (Some(embedding), true) =
            (embedding, embeddings.iter().filter(|one| is_matrix(one)).count() == 1)
        else {
            let names: Vec<String> =
                embeddings.iter().map(|entry| shown(&entry.name).into_owned()).collect();
            let error = problem(format!("`{}` has no single embedding of tokens", self.name()))
                .fact("found", if names.is_empty() { "none".to_owned() } else { names.join(", ") })
                .help("a transplant is made of language models with one vocabulary");
            return Err(vec![error]);
        };
        let rows = embedding.shape.dimensions()[0];
        let beside = heads.iter().copied().filter(|entry| {
            entry.shape.dimensions().len() == 1 && entry.shape.dimensions()[0] == rows
        });
        Ok(Found {
            embedding,
            head: heads.iter().copied().find(is_matrix),
            biases: beside.collect(),
        })
    }
}

/// Where no family is known.
fn by_name(name: &str) -> Option<Role> {
    if known::is_embedding(name) {
        return Some(Role::Embedding);
    }
    let names = known::names();
    let is_head = known::is_last(name, &names.heads) || known::is_last(name, &names.other_heads);
    is_head.then_some(Role::Unembedding)
}

/// The tensors of a model with a row for each token.
struct Found<'a> {
    embedding: &'a TensorEntry,
    head: Option<&'a TensorEntry>,
    biases: Vec<&'a TensorEntry>,
}

fn compose(
    settings: Settings,
    text: &str,
    memory_bytes: u64,
    session: &Session<'_>,
) -> Result<Composition, Vec<Diagnostic>> {
    let mut budget = Budget::new(memory_bytes);
    let target = Side::open(&settings.target, &mut budget, session)?;
    let donor = Side::open(&settings.donor, &mut budget, session)?;
    let (of_target, of_donor) = (target.matrices()?, donor.matrices()?);
    let pool = FilePool::new(FilePool::DEFAULT_LIMIT);
    let stored = |side: &Side, entry: &TensorEntry| -> Result<Stored, Vec<Diagnostic>> {
        let index: &Index = &side.model.checkpoint.index;
        Stored::new(entry, Arc::new(pool.source(index.shard_of(entry))))
            .map_err(|error| vec![*error])
    };
    let mut composed = Composed::new();
    let files = composed.files_of(&target.model.checkpoint);
    let mut warnings = Vec::new();
    let mut pairs = vec![(of_target.embedding, Some(of_donor.embedding))];
    if let Some(head) = of_target.head {
        // A donor whose head is its embedding says with it what a head says.
        pairs.push((head, Some(of_donor.head.unwrap_or(of_donor.embedding))));
    }
    pairs.extend(of_target.biases.iter().map(|bias| (*bias, None)));
    let mut errors: Vec<Diagnostic> = Vec::new();
    for entry in target.model.checkpoint.index.tensors() {
        if !pairs.iter().any(|(made, _)| made.name == entry.name) {
            let taken = composed.take(files, entry, entry.name.clone());
            errors.extend(taken.err().map(|error| *error));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let rotary = rotary(&settings, &target, &donor, (of_target.embedding, of_donor.embedding))?;
    let (words, junk) =
        trained_words(&settings, (&target, &of_target), (&donor, &of_donor), &stored)?;
    let mut memory = memory_bytes;
    for (entry, from) in pairs {
        let own = stored(&target, entry)?;
        let from = from.map(|from| stored(&donor, from)).transpose()?;
        let is_head = entry.name != of_target.embedding.name;
        let plan =
            Plan::new(&settings, &words, &donor.words, (&own, from.as_ref()), is_head, &junk);
        let plan = Plan { rows: donor.tokens, ..plan };
        plan.check(&settings, (&target.name(), &donor.name()))?;
        if !is_head {
            warnings.extend(plan.told(&settings));
        }
        let needed = plan.memory(&settings, &own, from.as_ref());
        memory =
            memory.checked_sub(needed).ok_or_else(|| vec![plan.too_large(needed, memory_bytes)])?;
        let mut dimensions = entry.shape.dimensions().to_vec();
        dimensions[0] = donor.tokens;
        let shape =
            Shape::new(dimensions).map_err(|_| vec![problem("the vocabulary is too large")])?;
        let matrix = Matrix { plan, own, from, is_head, rotary: rotary.clone() };
        let texts = settings.texts(&target.model, session);
        let made = Made::new(matrix, settings.clone(), texts, entry.name.clone());
        composed.make(entry.name.clone(), entry.dtype, shape, Arc::new(made));
    }
    let config = config(target.model.checkpoint.config.as_ref(), &donor, donor.tokens);
    let name = format!("the transplant of {}", target.name());
    let root = target.model.checkpoint.root.clone();
    let vocabulary = vocabulary(&target, &donor, config.as_ref())?;
    let recipe = recipe(&name, text);
    let parts = vec![target.model, donor.model];
    let mut model = composed.finish(&name, root, config, parts)?;
    model.vocabulary = Some(vocabulary);
    Ok(Composition { name, model, recipe, warnings })
}

/// Opens a stored matrix of one side.
type Opening<'a> = dyn Fn(&Side, &TensorEntry) -> Result<Stored, Vec<Diagnostic>> + 'a;

/// The model's words that others may be made of, and the donor's tokens that get zeros: without a wish all and none.
fn trained_words(
    settings: &Settings,
    (target, of_target): (&Side, &Found<'_>),
    (donor, of_donor): (&Side, &Found<'_>),
    stored: &Opening<'_>,
) -> Result<(Words, BTreeSet<u64>), Vec<Diagnostic>> {
    if !settings.rows.trained_only {
        return Ok((target.words.clone(), BTreeSet::new()));
    }
    let trained = |side: &Side, embedding: &TensorEntry, head: Option<&TensorEntry>| {
        let head = head.map(|head| stored(side, head)).transpose()?;
        let embedding = stored(side, embedding)?;
        trained::well_trained(&side.words, &embedding, head.as_ref()).map_err(|error| vec![*error])
    };
    let own = trained(target, of_target.embedding, of_target.head)?;
    // A donor whose head is its embedding says with it what a head says.
    let head = of_donor.head.unwrap_or(of_donor.embedding);
    let theirs = trained(donor, of_donor.embedding, Some(head))?;
    let is_common = |word: &Word| own.contains(word) && theirs.contains(word);
    let words = target.words.iter().filter(|(word, _)| is_common(word));
    let words = words.map(|(word, ids)| (word.clone(), ids.clone())).collect();
    let is_junk = |word: &Word| !own.contains(word) && !theirs.contains(word);
    let junk = donor.words.iter().filter(|(word, _)| is_junk(word)).flat_map(|(_, ids)| ids);
    Ok((words, junk.copied().collect()))
}

/// How positions turn rows, of the donor and of the model, where the method turns rows.
fn rotary(
    settings: &Settings,
    target: &Side,
    donor: &Side,
    (own, from): (&TensorEntry, &TensorEntry),
) -> Result<Option<[Rotary; 2]>, Vec<Diagnostic>> {
    if settings.rows.method != Method::TurnedPursuit {
        return Ok(None);
    }
    let of = |side: &Side, embedding: &TensorEntry| {
        let config = side.model.checkpoint.config.as_ref();
        let part = config.map(|config| config.get("text_config").unwrap_or(config));
        let heads = part.and_then(|part| part.get("num_attention_heads")?.as_u64());
        // Newer configurations keep all about positions together.
        let base = part.and_then(|part| {
            let together = part.get("rope_parameters").and_then(|rope| rope.get("rope_theta"));
            part.get("rope_theta").or(together)?.as_f64()
        });
        let columns = embedding.shape.dimensions()[1] as usize;
        let made = heads.and_then(|heads| {
            Rotary::new(columns, usize::try_from(heads).ok()?, base.unwrap_or(ROPE_THETA))
        });
        made.ok_or_else(|| {
            let error = problem(format!("nothing says how positions turn the rows of `{}`", side.name()))
                .fact("columns", columns.to_string())
                .fact("num_attention_heads", heads.map_or("not there".to_owned(), |heads| heads.to_string()))
                .help("`--method mp_rope` needs heads of an even size in config.json; `--method omp` needs none");
            vec![error]
        })
    };
    Ok(Some([of(donor, from)?, of(target, own)?]))
}

/// The base of frequencies where a configuration names none.
const ROPE_THETA: f64 = 10_000.0;

/// Keys of configurations that name tokens by their ids.
const IDS: [&str; 7] = [
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "mask_token_id",
    "decoder_start_token_id",
];

/// The model's configuration with the donor's vocabulary.
fn config(own: Option<&Value>, donor: &Side, tokens: u64) -> Option<Value> {
    let mut config = own?.clone();
    let of_donor = donor.model.checkpoint.config.as_ref();
    let part = |config: &Value| -> Option<&'static str> {
        ["text_config", "llm_config"].into_iter().find(|part| {
            config.get("vocab_size").is_none()
                && config.get(part).is_some_and(|part| part.get("vocab_size").is_some())
        })
    };
    let of_donor = of_donor.map(|config| part(config).map_or(config, |part| &config[part]));
    let at = match part(&config) {
        Some(part) => &mut config[part],
        None => &mut config,
    };
    let at = at.as_object_mut()?;
    at.insert("vocab_size".to_owned(), tokens.into());
    set_ids(at, of_donor.and_then(Value::as_object));
    Some(config)
}

/// Takes ids of tokens from the donor: those of the model mean other tokens now.
fn set_ids(config: &mut Map<String, Value>, donor: Option<&Map<String, Value>>) {
    for key in IDS {
        match donor.and_then(|donor| donor.get(key)) {
            Some(id) => {
                config.insert(key.to_owned(), id.clone());
            }
            None => {
                config.shift_remove(key);
            }
        }
    }
}

/// The donor's tokenizer, and how texts are generated: as the model says, with the donor's ids.
fn vocabulary(
    target: &Side,
    donor: &Side,
    config: Option<&Value>,
) -> Result<Vocabulary, Vec<Diagnostic>> {
    const GENERATION: &str = "generation_config.json";
    let read = |side: &Side| -> Result<Option<Map<String, Value>>, Vec<Diagnostic>> {
        if side.model.checkpoint.form != Form::Folder {
            return Ok(None);
        }
        let path = side.model.checkpoint.root.join(GENERATION);
        let text =
            small::bytes_if_there(&path, &shown_path(&path)).map_err(|fault| vec![*fault])?;
        let Some(text) = text else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let headline = format!("`{GENERATION}` cannot be understood: {error}");
            vec![Diagnostic::error(codes::CONFIG_BROKEN, headline).in_file(shown_path(&path))]
        })
    };
    let mut made = Vec::new();
    if let Some(mut own) = read(target)? {
        let of_donor = read(donor)?;
        set_ids(&mut own, of_donor.as_ref().or(config.and_then(Value::as_object)));
        made.push((GENERATION.to_owned(), format!("{:#}\n", Value::Object(own))));
    }
    let folder: PathBuf = donor.model.checkpoint.root.clone();
    let names = files::tokenizer_files(&folder).map_err(|error| vec![*error])?;
    Ok(Vocabulary { folder, names, made })
}

/// The recipe that writes the model.
fn recipe(name: &str, text: &str) -> String {
    let recipe = json!({
        "mixdown": 1,
        "models": {"transplant": {"path": name}},
        "rules": [{"method": "passthrough", "experts": ["transplant"]}],
    });
    // What is made depends on all settings, so that other ones are another merge.
    let digest = blake3::hash(text.as_bytes()).to_hex();
    format!("{recipe}\n# {digest}\n")
}
