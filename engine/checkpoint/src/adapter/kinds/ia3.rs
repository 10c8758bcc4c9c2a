//! IA³: the outputs of layers are scaled, with their biases; in feedforward layers the inputs.
//!
//! Liu et al. 2022, arXiv:2205.05638, section 3.3.

use super::{Fault, Kind, Module};
use crate::adapter::computed::{Compute, Effect, Made, Part};
use crate::adapter::pattern::ModulePattern;
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind = Kind { peft_type: "IA3", tensors: &["ia3_l"], shared: &[], make };

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    let target = module.target.shape.dimensions();
    let (rows, columns) = module.matrix()?;
    let (at, shape) = module.need("ia3_l")?;
    let is_convolution = target.len() > 2;
    // A layer's own factors lie as its weight does, but for convolutions, where they lie alike for both.
    let (of_outputs, size) = match shape {
        &[outputs, 1] if !is_convolution => (true, outputs),
        &[1, inputs] if !is_convolution => (false, inputs),
        [1, features, ..] if is_convolution && shape.len() == target.len() => {
            (!is_feedforward(module), *features)
        }
        _ => return Err(module.misshapen("ia3_l", &[rows, 1])),
    };
    let along_rows = of_outputs != module.inputs_first;
    // The elements that one factor is for, and after how many it comes again.
    let (each, count) = match (along_rows, is_convolution) {
        (true, _) => (columns, rows),
        (false, true) => (target[2..].iter().product(), target[1]),
        (false, false) => (1, columns),
    };
    if count != size {
        return Err(module.misshapen("ia3_l", &[count]));
    }
    let compute = || Ia3 { each, count };
    let parts = vec![Part::Adapter(at), module.base_part()?];
    let mut effects =
        vec![(module.base_tensor, Effect::Whole(Made::new("IA3", target, parts, compute())))];
    if let Some(bias) = module.bias.filter(|_| of_outputs) {
        let parts = vec![Part::Adapter(at), Part::Base(bias)];
        let compute = Ia3 { each: 1, count };
        effects.push((bias, Effect::Whole(Made::new("IA3", &[count], parts, compute))));
    }
    Ok(effects)
}

/// Whether the configuration counts a module among the feedforward ones: a list of ends of names, or one regular
/// expression for the whole.
fn is_feedforward(module: &Module<'_>) -> bool {
    let listed = module.settings().texts("feedforward_modules");
    listed.iter().any(|text| {
        module.name == *text
            || module.name.ends_with(&format!(".{text}"))
            || ModulePattern::parse(text).is_ok_and(|pattern| pattern.matches(module.name))
    })
}

#[derive(Debug)]
struct Ia3 {
    each: u64,
    count: u64,
}

impl Compute for Ia3 {
    fn held_bytes(&self) -> u64 {
        self.count * 4
    }

    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        Ok(Held { numbers: vec![parts.all(0)?], counts: Vec::new() })
    }

    fn fill(
        &self,
        held: &Held,
        parts: &Reader<'_>,
        first: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        parts.floats(1, first, out)?;
        let factors = &held.numbers[0];
        for (value, at) in out.iter_mut().zip(first..) {
            *value *= factors[(at / self.each % self.count) as usize];
        }
        Ok(())
    }
}
