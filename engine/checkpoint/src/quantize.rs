//! Weights as they are written in fewer bits: the seam below the output's layout.
//!
//! A [`Form`] says how; a [`Quantizer`] is a form for one tensor. It tells which tensors are stored for it,
//! codes first, and makes their bytes from stretches of its values. One file for each family of forms, and
//! nothing above it knows of any.
//!
//! A stretch is one unit or several, and a unit's codes depend on its values alone, and on the largest
//! magnitude of the whole tensor where the form asks for it. So bytes do not depend on how a tensor was cut.

mod config;
mod form;
mod gguf;
mod gguf_k;
mod gguf_names;
mod llm_int8;
mod mlx;
mod nf4;
mod round;
mod scaled;
mod small_floats;
mod taken_over;

use std::fmt;
use std::sync::Arc;

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::{DType, Shape};

pub use config::{Written, config};
pub use form::{Form, FormFault, Settings, Words};
pub use gguf::GgufType;
pub use gguf_names::{GgufFileType, GgufNames, GgufPlace, Norm, Positions};

use crate::layout::OutputTensor;
use crate::shown::shown;

/// How one tensor is written in fewer bits.
#[derive(Clone, Debug)]
pub struct Quantizer {
    form: Form,
    name: String,
    parts: Vec<OutputTensor>,
    coding: Arc<dyn Coding>,
    /// Rows of a head and the length of a row, where the two halves of heads alternate as they are stored.
    woven: Option<(u64, u64)>,
    /// Rows and columns, where a matrix is stored with these exchanged.
    turned: Option<[u64; 2]>,
    /// Sizes of what is stored, in elements.
    sizes: Vec<u64>,
    /// How messages speak of settings.
    words: Words,
    /// The tensor of a GGUF file that it is an expert of, and which.
    stack: Option<(String, u64)>,
    /// Where parts of an input stand for what would be made of values: which for each part.
    taken_over: Option<Vec<usize>>,
}

/// Makes codes of values.
pub(crate) trait Coding: fmt::Debug + Send + Sync {
    /// Elements whose codes depend on each other, and fill whole bytes of each part. The last unit of a
    /// tensor may have fewer.
    fn unit(&self) -> u64;

    /// Bytes that a whole unit has in each part; 0 for those that [`whole`](Self::whole) makes.
    fn unit_bytes(&self) -> Vec<u64>;

    /// Whether codes depend on the largest magnitude of the tensor.
    fn needs_largest(&self) -> bool {
        false
    }

    /// The parts that say something of the whole tensor.
    fn whole(&self, largest: f32) -> Vec<(usize, Vec<u8>)> {
        let _ = largest;
        Vec::new()
    }

    /// Adds the bytes of whole units to each part. The values become what their codes stand for.
    fn encode(&self, largest: f32, values: &mut [f32], out: &mut [Vec<u8>]);
}

/// What is stored for a tensor, and how its bytes are made.
pub(crate) type Planned = (Vec<OutputTensor>, Arc<dyn Coding>);

/// A tensor that is to be quantized.
pub(crate) struct Wanted<'a> {
    pub name: &'a str,
    pub shape: &'a Shape,
    /// The type that it would have in the output.
    pub dtype: DType,
    /// How messages speak of settings.
    pub words: Words,
}

impl Wanted<'_> {
    /// Rows and columns.
    pub fn matrix(&self) -> Result<[u64; 2], Box<Diagnostic>> {
        match *self.shape.dimensions() {
            [rows, columns] => Ok([rows, columns]),
            _ => Err(self
                .refused("only matrices can be")
                .fact("shape", self.shape.to_string())
                .into()),
        }
    }

    /// What the names of its parts begin with, where they are named by the module.
    pub fn module(&self) -> Result<&str, Box<Diagnostic>> {
        self.name.strip_suffix("weight").filter(|module| module.ends_with('.')).ok_or_else(|| {
            let error = self.refused("scales are named after a module's `weight`");
            error.help(format!("choose another form for it, or {}", self.words.leave())).into()
        })
    }

    /// Refuses groups that do not divide the columns. Whether one can choose their size is up to the form.
    pub fn divide(
        &self,
        columns: u64,
        group: u64,
        can_choose: bool,
    ) -> Result<(), Box<Diagnostic>> {
        if columns.is_multiple_of(group) {
            return Ok(());
        }
        let error = self
            .refused("its groups do not divide its columns")
            .fact("columns", columns.to_string())
            .fact("group", group.to_string());
        let leave = self.words.leave();
        let fitting = [128, 64, 32, 16]
            .into_iter()
            .find(|&size| size < group && columns.is_multiple_of(size));
        Err(Box::new(match fitting.filter(|_| can_choose) {
            Some(size) => error.help(format!("{} does; or {leave}", self.words.set("group", size))),
            None => error.help(leave),
        }))
    }

    /// A stored part.
    pub fn part(
        &self,
        name: String,
        dtype: DType,
        shape: &[u64],
    ) -> Result<OutputTensor, Box<Diagnostic>> {
        match Shape::new(shape.to_vec()) {
            Ok(shape) => Ok(OutputTensor { name, dtype, shape }),
            Err(_) => Err(self.refused("it is too large").into()),
        }
    }

    /// Why it cannot be quantized.
    pub fn refused(&self, why: &str) -> Diagnostic {
        let headline = format!("`{}` cannot be quantized so: {why}", shown(self.name));
        Diagnostic::error(codes::CANNOT_QUANTIZE, headline)
    }
}

impl Quantizer {
    /// A form for a tensor of this name and shape, which without it would be written as `dtype`: arithmetic
    /// and scales follow that type where the library that defines the form does so.
    ///
    /// **Errors.** `CANNOT_QUANTIZE` where the form is for tensors of other shapes.
    pub fn new(
        form: &Form,
        name: &str,
        shape: &Shape,
        dtype: DType,
        words: Words,
    ) -> Result<Self, Box<Diagnostic>> {
        let wanted = Wanted { name, shape, dtype, words };
        let (parts, coding) = match form {
            Form::Scaled(scaled) => scaled::plan(scaled, &wanted)?,
            Form::BlockFp8 { rows, columns } => scaled::plan_block_fp8([*rows, *columns], &wanted)?,
            Form::Mxfp4 | Form::Nvfp4 => small_floats::plan(form, &wanted)?,
            Form::Nf4 => nf4::plan(&wanted)?,
            Form::LlmInt8 => llm_int8::plan(&wanted)?,
            Form::Gguf(kind) => gguf::plan(*kind, 0.0, &wanted)?,
            Form::Mlx { bits, group } => mlx::plan(*bits, *group, &wanted)?,
        };
        let (form, name, sizes) = (form.clone(), name.to_owned(), shape.dimensions().to_vec());
        Ok(Self {
            form,
            name,
            parts,
            coding,
            woven: None,
            turned: None,
            sizes,
            words,
            stack: None,
            taken_over: None,
        })
    }

    /// A tensor in a GGUF file: its place there, the count of its heads where rows are woven, and its type.
    ///
    /// **Errors.** `CANNOT_QUANTIZE` where rows are no whole blocks, or heads do not divide them.
    pub fn gguf(
        place: &GgufPlace,
        heads: Option<u64>,
        kind: GgufType,
        shape: &Shape,
        dtype: DType,
    ) -> Result<Self, Box<Diagnostic>> {
        let row = shape.elements();
        let row = Shape::new(vec![row]).ok().filter(|_| place.is_row);
        let shape = row.as_ref().unwrap_or(shape);
        let turned = match *shape.dimensions() {
            [rows, columns] if place.is_turned => Some([rows, columns]),
            _ => None,
        };
        let shape = &place.stored(shape);
        let name = match place.expert {
            Some(expert) => &format!("{}.{expert}", place.name),
            None => &place.name,
        };
        let words = Words::Recipe;
        let wanted = Wanted { name, shape, dtype, words };
        let (parts, coding) = gguf::plan(kind, place.added, &wanted)?;
        let sizes = shape.dimensions().to_vec();
        let mut woven = None;
        if place.woven.is_some() {
            let (rows, columns) =
                (sizes.first().copied().unwrap_or(0), sizes.iter().skip(1).product());
            let heads = heads.filter(|&heads| heads > 0 && rows.is_multiple_of(2 * heads));
            let Some(heads) = heads else {
                let error = wanted.refused("its heads do not divide its rows");
                return Err(Box::new(error.fact("rows", rows.to_string())));
            };
            woven = Some((rows / heads, columns));
        }
        let (form, name) = (Form::Gguf(kind), name.to_owned());
        let stack = place.expert.map(|expert| (place.name.clone(), expert));
        Ok(Self { form, name, parts, coding, woven, turned, sizes, words, stack, taken_over: None })
    }

    /// Where an element is stored, and how many that follow it are stored behind it.
    pub fn place(&self, element: u64) -> (u64, u64) {
        if let Some([rows, columns]) = self.turned {
            return (element % columns * rows + element / columns, 1);
        }
        let Some((head, columns)) = self.woven else { return (element, u64::MAX) };
        let (row, column) = (element / columns, element % columns);
        let within = row % head;
        let stored = row - within + within % (head / 2) * 2 + within / (head / 2);
        (stored * columns + column, columns - column)
    }

    /// Elements that may be stored in another order among each other.
    pub fn scattered(&self) -> u64 {
        match (self.woven, self.turned) {
            (_, Some([rows, columns])) => rows * columns,
            (Some((head, columns)), None) => head * columns,
            (None, None) => 0,
        }
    }

    /// What a GGUF file says of it, if that is its form.
    pub fn in_gguf(&self) -> Option<crate::gguf_file::GgufTensor> {
        let Form::Gguf(kind) = self.form else { return None };
        Some(crate::gguf_file::GgufTensor {
            name: self.name.clone(),
            sizes: self.sizes.clone(),
            kind,
            stack: self.stack.clone(),
        })
    }

    /// How.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// How messages tell that a tensor can be left as it is.
    pub fn leave(&self) -> &'static str {
        self.words.leave()
    }

    /// The tensor's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is stored for it, codes first.
    pub fn parts(&self) -> &[OutputTensor] {
        &self.parts
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.shape.bytes(part.dtype)).sum()
    }

    /// Elements of a unit, at least one.
    pub fn unit(&self) -> u64 {
        self.coding.unit().max(1)
    }

    /// Bytes of a whole unit in each part; 0 in those that are made once.
    pub fn unit_bytes(&self) -> Vec<u64> {
        self.coding.unit_bytes()
    }

    /// Whether the largest magnitude of all elements must be known first.
    pub fn needs_largest(&self) -> bool {
        self.taken_over.is_none() && self.coding.needs_largest()
    }

    /// The parts that are made once: position and bytes.
    pub fn whole(&self, largest: f32) -> Vec<(usize, Vec<u8>)> {
        self.coding.whole(largest)
    }

    /// Adds the bytes of these values to those of each part. There are whole units of them, but for the end
    /// of the tensor, and all are finite. They become what their codes stand for.
    pub fn encode(&self, largest: f32, values: &mut [f32], out: &mut [Vec<u8>]) {
        self.coding.encode(largest, values, out);
    }
}
