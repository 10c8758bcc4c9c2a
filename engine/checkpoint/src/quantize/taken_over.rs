//! Codes and scales that an input has already in the form that the output wants: they go over as they are.

use mixdown_tensor::DType;

use super::Quantizer;
use super::form::{Code, Form, Scaled, Spread};
use crate::encoding::Encoding;
use crate::index::TensorEntry;
use crate::layout::OutputTensor;

impl Quantizer {
    /// The same, but with the stored parts of this tensor instead of codes of its values; none where it is
    /// stored in another way than this form would be.
    ///
    /// Parts are compared by their names behind that of the tensor, by type and by shape, and what these leave
    /// open by the scheme.
    pub fn taking_over(&self, name: &str, entry: &TensorEntry) -> Option<Self> {
        let encoding = entry.encoding.as_deref().filter(|encoding| !encoding.is_computed())?;
        let is_same_tensor = match self.turned {
            Some(sizes) => entry.shape.dimensions() == sizes,
            None => entry.shape.dimensions() == self.sizes,
        };
        if !is_same_tensor || encoding.parts().len() != self.parts.len() {
            return None;
        }
        if let Form::Gguf(kind) = self.form {
            let is_same = encoding.scheme() == format!("GGUF {}", kind.name())
                && stem(&encoding.parts()[0].name) == stem(&self.name)
                && encoding.bytes() == self.bytes();
            return is_same.then(|| self.with_parts(self.parts.clone(), vec![0]));
        }
        if !self.means_the_same(encoding) {
            return None;
        }
        let (own_module, module) = (module(name), module(&entry.name));
        let (mut parts, mut sources) = (Vec::new(), Vec::new());
        for own in &self.parts {
            let ending = own.name.strip_prefix(own_module)?;
            let source = encoding
                .parts()
                .iter()
                .position(|part| part.name.strip_prefix(module) == Some(ending))?;
            let part = &encoding.parts()[source];
            self.is_alike(own, part, encoding).then_some(())?;
            sources.push(source);
            parts.push(OutputTensor {
                name: own.name.clone(),
                dtype: part.dtype,
                shape: part.shape.clone(),
            });
        }
        Some(self.with_parts(parts, sources))
    }

    /// Whether codes are of as many bits, and blocks as large: of small matrices shapes do not tell.
    fn means_the_same(&self, encoding: &Encoding) -> bool {
        let scheme = encoding.scheme();
        match &self.form {
            Form::Scaled(Scaled { code: Code::Packed(bits), .. }) => {
                let rest = scheme.strip_prefix(&format!("int{bits}"));
                rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
            }
            Form::BlockFp8 { rows, columns }
            | Form::Scaled(Scaled { spread: Spread::Block(rows, columns), .. }) => {
                let is_one =
                    matches!(self.sizes[..], [high, wide] if high <= *rows && wide <= *columns);
                scheme == self.form.to_string() || (is_one && scheme == "fp8 e4m3, one scale")
            }
            _ => true,
        }
    }

    /// Whether a stored part can stand for one that would be written.
    fn is_alike(&self, own: &OutputTensor, part: &TensorEntry, encoding: &Encoding) -> bool {
        if part.encoding.is_some() {
            return false;
        }
        // A note of the packing as text, which may have other words for the same.
        if own.name.contains(".quant_state.") {
            let blocks = "bitsandbytes nf4, blocks of 64";
            return part.dtype == own.dtype && encoding.scheme() == blocks;
        }
        // Factors of blocks are published in either type, and read from the file in its own.
        let is_factor = matches!(self.form, Form::BlockFp8 { .. }) && own.dtype == DType::F32;
        let is_type = part.dtype == own.dtype || (is_factor && part.dtype == DType::Bf16);
        is_type && part.shape == own.shape
    }

    fn with_parts(&self, parts: Vec<OutputTensor>, sources: Vec<usize>) -> Self {
        Self { parts, taken_over: Some(sources), ..self.clone() }
    }

    /// For each part the one of the input that it is a copy of; none where codes are made of values.
    pub fn taken_over(&self) -> Option<&[usize]> {
        self.taken_over.as_deref()
    }
}

/// What the names of a tensor's parts begin with.
fn module(name: &str) -> &str {
    name.strip_suffix("weight").unwrap_or(name)
}

/// A name in a GGUF file without its layer.
fn stem(name: &str) -> &str {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    layer.map_or(name, |(_, rest)| rest)
}
