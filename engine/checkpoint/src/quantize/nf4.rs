//! bitsandbytes' NF4 as transformers saves it: 16 values of a normal distribution, times the largest magnitude
//! of 64 elements that follow each other in the tensor.

use std::sync::Arc;

use mixdown_diagnostics::Diagnostic;
use mixdown_tensor::DType;
use serde_json::Value;

use super::{Coding, Planned, Wanted};

/// The values of the codes (QLoRA, appendix E).
const VALUES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Elements that share a magnitude.
const BLOCK: usize = 64;

#[derive(Clone, Debug)]
struct Nf4 {
    /// What says of which type and shape the tensor is.
    state: String,
}

pub(super) fn plan(wanted: &Wanted<'_>) -> Result<Planned, Box<Diagnostic>> {
    let [rows, columns] = wanted.matrix()?;
    let elements = wanted.shape.elements();
    let name = wanted.name;
    // As Python's json writes it, whose text other programs may compare.
    let state = format!(
        "{{\"quant_type\": \"nf4\", \"blocksize\": {BLOCK}, \"dtype\": {}, \"shape\": [{rows}, {columns}]}}",
        Value::from(wanted.dtype.torch_name())
    );
    let parts = vec![
        wanted.part(name.to_owned(), DType::U8, &[elements.div_ceil(2), 1])?,
        wanted.part(format!("{name}.absmax"), DType::F32, &[elements.div_ceil(BLOCK as u64)])?,
        wanted.part(format!("{name}.quant_map"), DType::F32, &[16])?,
        wanted.part(
            format!("{name}.quant_state.bitsandbytes__nf4"),
            DType::U8,
            &[state.len() as u64],
        )?,
    ];
    Ok((parts, Arc::new(Nf4 { state })))
}

/// The code of a number from -1 to 1: that of the nearest value, of two the lower.
#[inline(always)]
fn code_of(value: f32) -> u8 {
    VALUES.windows(2).map(|pair| u8::from(value > (pair[0] + pair[1]) / 2.0)).sum()
}

impl Coding for Nf4 {
    fn unit(&self) -> u64 {
        BLOCK as u64
    }

    fn unit_bytes(&self) -> Vec<u64> {
        vec![BLOCK as u64 / 2, 4, 0, 0]
    }

    fn whole(&self, _: f32) -> Vec<(usize, Vec<u8>)> {
        let map = VALUES.iter().flat_map(|value| value.to_le_bytes()).collect();
        vec![(2, map), (3, self.state.clone().into_bytes())]
    }

    fn encode(&self, _: f32, values: &mut [f32], out: &mut [Vec<u8>]) {
        /// A block of zeros is divided by it.
        const LEAST: f32 = 1e-38;
        for block in values.chunks_mut(BLOCK) {
            let largest = block.iter().fold(0.0_f32, |all, value| all.max(value.abs()));
            // The library multiplies whole blocks with a reciprocal, and divides what is left.
            let is_whole = block.len() == BLOCK;
            let magnitude = if is_whole { largest } else { largest.max(LEAST) };
            let factor = 1.0 / largest.max(LEAST);
            out[1].extend(magnitude.to_le_bytes());
            for pair in block.chunks_mut(2) {
                let mut byte = 0;
                // The first of two has the high bits.
                for (value, shift) in pair.iter_mut().zip([4, 0]) {
                    let scaled = if is_whole { *value * factor } else { *value / magnitude };
                    let code = code_of(scaled.clamp(-1.0, 1.0));
                    byte |= code << shift;
                    *value = VALUES[usize::from(code)] * magnitude;
                }
                // What pads the last byte is a zero.
                if pair.len() == 1 {
                    byte |= code_of(0.0);
                }
                out[0].push(byte);
            }
        }
    }
}
