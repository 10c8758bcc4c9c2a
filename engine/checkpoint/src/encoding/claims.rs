//! Which stored tensors belong together: each family of codecs claims its own, and the rest is plain or refused.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::sync::Arc;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::{DType, Shape};

use super::promises::Kind;
use super::signs::{self, Codec as Sign};
use super::{Codec, Encoding, Settings};
use crate::index::TensorEntry;
use crate::shown::{shown, some_of};
use crate::source::ReadError;

/// Tensors of one family that are wrong in different ways and named each; of others there is a count.
const MOST_FAULTS: usize = 10;
/// Longest text or table beside codes that is read when a checkpoint is opened.
const LONGEST: u64 = 64 << 10;

/// What is known of a checkpoint beside its tensors.
pub(crate) struct Context<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    pub settings: &'a Settings,
    /// Texts that its files carry.
    pub metadata: &'a BTreeMap<String, String>,
    /// Reads a small tensor.
    pub small: &'a dyn Fn(&TensorEntry) -> Result<Vec<u8>, ReadError>,
}

/// The tensors of a checkpoint as its files hold them.
pub(super) struct Stored<'a> {
    pub tensors: &'a [TensorEntry],
    by_name: HashMap<&'a str, &'a TensorEntry>,
    pub settings: &'a Settings,
    pub metadata: &'a BTreeMap<String, String>,
    small: &'a dyn Fn(&TensorEntry) -> Result<Vec<u8>, ReadError>,
    model_dtype: DType,
    /// Whether any of them is called a scale of weights of 8 bits.
    pub has_scales: bool,
}

/// A tensor of which parts were found.
pub(super) struct Found<'a> {
    pub name: String,
    pub shape: Vec<u64>,
    pub scheme: String,
    /// What its codes are, for what configurations say of them.
    pub kind: Kind,
    /// What configurations call it, where not all words of its family do.
    pub methods: Option<&'static [&'static str]>,
    /// Codes first.
    pub parts: Vec<&'a TensorEntry>,
    /// What goes with it when it is run in its own form, and is of no use otherwise.
    pub beside: Vec<&'a TensorEntry>,
    pub codec: Arc<dyn Codec>,
}

/// A family of codecs.
pub(super) struct Family {
    /// What configurations call it.
    pub methods: &'static [&'static str],
    /// What a tensor is a part of, if it is the one by which the family knows a packed weight.
    pub find: for<'a> fn(&Stored<'a>, &'a TensorEntry) -> Option<Result<Found<'a>, Fault>>,
}

/// What is wrong with the parts of a tensor.
#[derive(Debug)]
pub(super) struct Fault {
    pub what: String,
    pub facts: Vec<(&'static str, String)>,
    /// The whole codec is unknown, rather than this tensor broken.
    pub is_unread: bool,
}

impl Fault {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), facts: Vec::new(), is_unread: false }
    }

    /// A codec, or a form of it, that is not decoded.
    pub(super) fn unread(what: impl Into<String>) -> Self {
        Self { is_unread: true, ..Self::new(what) }
    }

    pub(super) fn fact(mut self, label: &'static str, text: impl Into<String>) -> Self {
        self.facts.push((label, text.into()));
        self
    }
}

/// In the order in which they are asked: those that are known by a name of their own come first.
const FAMILIES: [Family; 11] = [
    super::bitsandbytes::FAMILY,
    super::mxfp4::FAMILY,
    super::compressed::FAMILY,
    super::gptq::FAMILY,
    super::awq::FAMILY,
    super::hqq::FAMILY,
    super::torchao::FAMILY,
    super::modelopt::FAMILY,
    super::scaled::FAMILY,
    super::mlx::FAMILY,
    super::scaled::BARE,
];

impl<'a> Stored<'a> {
    pub(super) fn new(tensors: &'a [TensorEntry], context: &Context<'a>) -> Self {
        let by_name: HashMap<&str, &TensorEntry> =
            tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let model_dtype = context.settings.model_dtype().unwrap_or_else(|| most_common(tensors));
        let Context { settings, metadata, small, .. } = *context;
        let has_scales = tensors.iter().any(|tensor| {
            tensor.name.ends_with(".weight_scale") || tensor.name.ends_with(".weight_scale_inv")
        });
        Self { tensors, by_name, settings, metadata, small, model_dtype, has_scales }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a TensorEntry> {
        self.by_name.get(name).copied()
    }

    /// The tensor that a packed weight needs.
    pub(super) fn need(&self, name: &str) -> Result<&'a TensorEntry, Fault> {
        self.get(name).ok_or_else(|| Fault::new(format!("`{}` is missing", shown(name))))
    }

    /// The bytes of a small tensor.
    pub(super) fn small(&self, tensor: &TensorEntry) -> Result<Vec<u8>, Fault> {
        let fault = |what: String| Fault::new(format!("`{}` {what}", shown(&tensor.name)));
        if tensor.bytes() > LONGEST {
            return Err(
                fault("is larger than it can be".into()).fact("shape", tensor.shape.to_string())
            );
        }
        (self.small)(tensor).map_err(|error| fault(format!("cannot be read: {error}")))
    }
}

/// The float type of most plain tensors.
fn most_common(tensors: &[TensorEntry]) -> DType {
    let count = |dtype: DType| tensors.iter().filter(|tensor| tensor.dtype == dtype).count();
    match count(DType::F16) > count(DType::Bf16) {
        true => DType::F16,
        false => DType::Bf16,
    }
}

/// A shape that a stored tensor must have.
pub(super) fn expect_shape(tensor: &TensorEntry, wanted: &[u64]) -> Result<(), Fault> {
    match tensor.shape.dimensions() == wanted {
        true => Ok(()),
        false => Err(Fault::new(format!(
            "`{}` has another shape than its codes say",
            shown(&tensor.name)
        ))
        .fact("expected", format!("{wanted:?}"))
        .fact("found", tensor.shape.to_string())),
    }
}

/// An element type that a stored tensor must have.
pub(super) fn expect_dtype(tensor: &TensorEntry, wanted: &[DType]) -> Result<(), Fault> {
    match wanted.contains(&tensor.dtype) {
        true => Ok(()),
        false => {
            let names: Vec<&str> = wanted.iter().map(|dtype| dtype.name()).collect();
            let what = format!("`{}` has an element type that it cannot have", shown(&tensor.name));
            Err(Fault::new(what)
                .fact("expected", names.join(" or "))
                .fact("found", tensor.dtype.name()))
        }
    }
}

/// What a checkpoint holds once parts are put together.
pub(crate) struct Logical {
    pub tensors: Vec<TensorEntry>,
    pub warnings: Vec<Diagnostic>,
}

/// Puts the parts of packed weights together.
///
/// **Errors.** Codecs that are not decoded, parts that are missing or do not go together, and a
/// configuration that promises another codec, all at once.
pub(crate) fn logical(
    tensors: Vec<TensorEntry>,
    context: &Context<'_>,
) -> Result<Logical, Vec<Diagnostic>> {
    let stored = Stored::new(&tensors, context);
    let mut taken: HashSet<&str> = HashSet::new();
    let mut beside: Vec<&str> = Vec::new();
    let mut made: Vec<TensorEntry> = Vec::new();
    let mut faults: Vec<(Fault, &TensorEntry)> = Vec::new();
    let mut promised: Option<(String, &TensorEntry)> = None;
    let mut shared = Shared::default();
    for family in &FAMILIES {
        for tensor in &tensors {
            if tensor.encoding.is_some() || taken.contains(tensor.name.as_str()) {
                continue;
            }
            match (family.find)(&stored, tensor) {
                None => {}
                Some(_) if tensor.shape.elements() == 0 => {
                    taken.insert(&tensor.name);
                    faults
                        .push((Fault::new(format!("`{}` is empty", shown(&tensor.name))), tensor));
                }
                Some(Err(fault)) => {
                    taken.insert(&tensor.name);
                    faults.push((fault, tensor));
                }
                Some(Ok(found)) => {
                    let method = context.settings.method();
                    let methods = found.methods.unwrap_or(family.methods);
                    let is_other = method.is_some_and(|method| !methods.contains(&method));
                    if is_other || !context.settings.promises(found.kind) {
                        promised.get_or_insert((found.scheme.clone(), tensor));
                    }
                    taken.extend(found.parts.iter().map(|part| part.name.as_str()));
                    taken.extend(found.beside.iter().map(|part| part.name.as_str()));
                    beside.extend(found.beside.iter().map(|part| part.name.as_str()));
                    match entry(&stored, found, &mut shared) {
                        Ok(entry) => made.push(entry),
                        Err(fault) => faults.push((fault, tensor)),
                    }
                }
            }
        }
    }
    if !made.is_empty() {
        for tensor in tensors.iter().filter(|tensor| is_of_activations(&tensor.name)) {
            if taken.insert(&tensor.name) {
                beside.push(&tensor.name);
            }
        }
    }
    let mut diagnostics = told(&faults, context);
    diagnostics.extend(promised.map(|(scheme, tensor)| other_promise(&scheme, tensor, context)));
    // Of a checkpoint with broken parts the rest is not called unknown.
    if diagnostics.is_empty() {
        diagnostics = unclaimed(&stored, &taken, context);
    }
    if !diagnostics.is_empty() {
        return Err(diagnostics);
    }
    let mut warnings = Vec::new();
    if !beside.is_empty() {
        beside.sort_unstable();
        warnings.push(scales_of_activations(&beside, context));
    }
    let is_plain: Vec<bool> =
        tensors.iter().map(|tensor| !taken.contains(tensor.name.as_str())).collect();
    let plain = tensors.into_iter().zip(is_plain).filter_map(|(tensor, is)| is.then_some(tensor));
    let tensors = plain.chain(made).collect();
    Ok(Logical { tensors, warnings })
}

/// Whether a tensor beside packed weights is a scale of what flows through the model.
fn is_of_activations(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "input_scale",
        "input_scale_ub",
        "input_global_scale",
        "input_zero_point",
        "output_scale",
        "output_zero_point",
        "activation_scale",
        "q_scale",
        "k_scale",
        "v_scale",
        "prob_scale",
    ];
    NAMES.contains(&name.rsplit('.').next().unwrap_or(name))
}

/// Codecs and their words, one of each: a model has tens of thousands of tensors, and a handful of shapes.
#[derive(Default)]
struct Shared {
    words: HashSet<Arc<str>>,
    /// By all that they hold, as text.
    codecs: HashMap<String, Arc<dyn Codec>>,
    text: FewWords,
}

/// The settings of a codec as text, if they are few.
#[derive(Default)]
struct FewWords(String);

impl fmt::Write for FewWords {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        /// Of a codec with tables of its own there is hardly another one.
        const LONGEST: usize = 2048;
        match self.0.len() + text.len() > LONGEST {
            true => Err(fmt::Error),
            false => {
                self.0.push_str(text);
                Ok(())
            }
        }
    }
}

impl Shared {
    fn words(&mut self, words: String) -> Arc<str> {
        if let Some(known) = self.words.get(words.as_str()) {
            return Arc::clone(known);
        }
        let words: Arc<str> = words.into();
        self.words.insert(Arc::clone(&words));
        words
    }

    fn codec(&mut self, codec: Arc<dyn Codec>) -> Arc<dyn Codec> {
        self.text.0.clear();
        if write!(self.text, "{codec:?}").is_err() {
            return codec;
        }
        match self.codecs.get(&self.text.0) {
            Some(known) => Arc::clone(known),
            None => {
                self.codecs.insert(self.text.0.clone(), Arc::clone(&codec));
                codec
            }
        }
    }
}

/// The tensor that parts make.
fn entry(stored: &Stored<'_>, found: Found<'_>, shared: &mut Shared) -> Result<TensorEntry, Fault> {
    if let Some(other) = stored.get(&found.name)
        && !found.parts.iter().any(|part| part.name == other.name)
    {
        let what = format!("`{}` is stored as numbers as well", shown(&found.name));
        return Err(Fault::new(what));
    }
    let shape =
        Shape::new(found.shape).map_err(|_| Fault::new("its size does not fit into 64 bits"))?;
    let codes = found.parts[0];
    let (shard, offset) = (codes.shard, codes.offset);
    let encoding = Encoding {
        scheme: shared.words(found.scheme),
        model_dtype: stored.model_dtype,
        parts: found.parts.into_iter().cloned().collect(),
        codec: shared.codec(found.codec),
    };
    let encoding = Some(Arc::new(encoding));
    Ok(TensorEntry { name: found.name, dtype: DType::F32, shape, shard, offset, encoding })
}

/// Faults of parts: one message for each kind, by its words without names.
fn told(faults: &[(Fault, &TensorEntry)], context: &Context<'_>) -> Vec<Diagnostic> {
    let mut all: Vec<Diagnostic> = Vec::new();
    let mut unread: Vec<(&str, Vec<&str>)> = Vec::new();
    for (fault, tensor) in faults.iter().filter(|(fault, _)| fault.is_unread) {
        match unread.iter_mut().find(|(what, _)| *what == fault.what) {
            Some((_, names)) => names.push(&tensor.name),
            None => unread.push((&fault.what, vec![&tensor.name])),
        }
    }
    for (what, names) in unread {
        all.push(refused(what, &names, context));
    }
    let broken = || faults.iter().filter(|(fault, _)| !fault.is_unread);
    for (fault, tensor) in broken().take(MOST_FAULTS) {
        let headline = format!("a packed weight is broken: {}", fault.what);
        let mut told = Diagnostic::error(codes::PACKED_BROKEN, headline)
            .in_file(context.name)
            .fact("tensor", shown(&tensor.name));
        for (label, text) in &fault.facts {
            told = told.fact(*label, text);
        }
        all.push(told.help("fetch the model again, or quantize it again"));
    }
    let untold = broken().count().saturating_sub(MOST_FAULTS);
    if let Some(last) = all.last_mut().filter(|_| untold > 0) {
        last.notes.push(format!("{untold} more of its weights are broken and not shown"));
    }
    all
}

/// The configuration speaks of another codec than the tensors.
fn other_promise(scheme: &str, tensor: &TensorEntry, context: &Context<'_>) -> Diagnostic {
    let headline =
        format!("the configuration of `{}` promises another packing", shown(context.name));
    let says = context.settings.shown().unwrap_or_default();
    Diagnostic::error(codes::PACKED_CONFIG, headline)
        .in_file(context.name)
        .fact("configuration", says)
        .fact("tensors", format!("{scheme}, by `{}`", shown(&tensor.name)))
        .help("take config.json from where the weights come from")
}

/// Refuses what looks packed and no family has claimed.
fn unclaimed(stored: &Stored<'_>, taken: &HashSet<&str>, context: &Context<'_>) -> Vec<Diagnostic> {
    let mut found: Vec<(Sign, Vec<&str>)> = Vec::new();
    for tensor in stored
        .tensors
        .iter()
        .filter(|tensor| tensor.encoding.is_none() && !taken.contains(tensor.name.as_str()))
    {
        let Some(codec) = signs::codec_of(stored, tensor) else { continue };
        match found.iter_mut().find(|(known, _)| *known == codec) {
            Some((_, names)) => names.push(&tensor.name),
            None => found.push((codec, vec![&tensor.name])),
        }
    }
    // Where some tensors name their codec, the others that hold codes are most likely of the same one.
    let is_named = |codec: &Sign| matches!(codec, Sign::Named(_));
    let named = found.iter().any(|(codec, _)| is_named(codec));
    found
        .iter()
        .filter(|(codec, _)| !named || is_named(codec))
        .map(|(codec, names)| {
            let methods = FAMILIES.iter().flat_map(|family| family.methods).copied();
            match codec.is_decoded(methods) {
                true => left_over(&codec.to_string(), names, context),
                false => refused(&codec.to_string(), names, context),
            }
        })
        .collect()
}

/// Parts of weights whose codec is decoded, without the others that they need.
fn left_over(codec: &str, names: &[&str], context: &Context<'_>) -> Diagnostic {
    let headline = format!(
        "parts of weights of `{}` are missing: {codec} has codes and scales beside each other",
        shown(context.name)
    );
    let mut fault = Diagnostic::error(codes::PACKED_BROKEN, headline)
        .in_file(context.name)
        .fact("alone", some_of(names));
    if let Some(says) = context.settings.shown() {
        fault = fault.fact("configuration", says);
    }
    fault.note("codes and scales are no weights: a merge of them would be noise").help(
        "fetch the model again; if it is all there, dequantize it to bf16 with the library that wrote it",
    )
}

fn refused(codec: &str, names: &[&str], context: &Context<'_>) -> Diagnostic {
    let name = shown(context.name);
    let headline = format!("weights of `{name}` are packed as {codec}, which is not decoded");
    let fault = Diagnostic::error(codes::PACKED, headline)
        .in_file(context.name)
        .fact("tensors", some_of(names))
        .note("codes and scales are no weights: a merge of them would be noise");
    let fault = match context.settings.shown() {
        Some(says) => fault.fact("configuration", says),
        None => fault,
    };
    fault.help(
        "dequantize the model to bf16 with the library that wrote it, or use the model that it was made from",
    )
}

fn scales_of_activations(names: &[&str], context: &Context<'_>) -> Diagnostic {
    let headline = "what belongs to the quantized form only is left out";
    Diagnostic::warning(codes::PACKED_BESIDE, headline)
        .in_file(context.name)
        .fact("tensors", some_of(names))
        .note("scales of activations and caches, and notes of the packing, say nothing of the weights")
}
