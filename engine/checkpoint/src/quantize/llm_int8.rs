//! bitsandbytes' int8 as transformers saves it: whole numbers from -127 to 127, times the largest magnitude of
//! their row.
//!
//! Bytes are those of bitsandbytes 0.50 on a processor: it rounds weights to f16 before anything else.

use std::sync::Arc;

use mixdown_diagnostics::Diagnostic;
use mixdown_tensor::DType;
use mixdown_tensor::convert::{f16_to_f32, f32_to_f16};

use super::{Coding, Planned, Wanted};

/// Largest magnitude of an f16.
const F16_LARGEST: f32 = 65_504.0;

#[derive(Clone, Debug)]
struct Rows {
    columns: u64,
}

pub(super) fn plan(wanted: &Wanted<'_>) -> Result<Planned, Box<Diagnostic>> {
    let [rows, columns] = wanted.matrix()?;
    let module = wanted.module()?;
    let parts = vec![
        wanted.part(wanted.name.to_owned(), DType::I8, &[rows, columns])?,
        wanted.part(format!("{module}SCB"), DType::F32, &[rows])?,
        wanted.part(format!("{module}weight_format"), DType::U8, &[])?,
    ];
    Ok((parts, Arc::new(Rows { columns })))
}

impl Coding for Rows {
    fn unit(&self) -> u64 {
        self.columns
    }

    fn unit_bytes(&self) -> Vec<u64> {
        vec![self.columns, 4, 0]
    }

    fn whole(&self, _: f32) -> Vec<(usize, Vec<u8>)> {
        // Rows one after another, which the library calls 0.
        vec![(2, vec![0])]
    }

    fn encode(&self, _: f32, values: &mut [f32], out: &mut [Vec<u8>]) {
        for row in values.chunks_mut(self.columns.max(1) as usize) {
            for value in row.iter_mut() {
                *value = f16_to_f32(f32_to_f16(value.clamp(-F16_LARGEST, F16_LARGEST)));
            }
            let largest = row.iter().fold(0.0_f32, |all, value| all.max(value.abs()));
            // torch divides a number by a tensor as it multiplies it with reciprocals, which halves feel. A row of
            // zeros has codes of zero whatever it is divided by.
            let factor = if largest > 0.0 { 1.0 / largest * 127.0 } else { 0.0 };
            out[1].extend(largest.to_le_bytes());
            for value in row {
                let code = (*value * factor).round_ties_even() as i8;
                out[0].push(code.cast_unsigned());
                *value = f32::from(code) * largest * (1.0 / 127.0);
            }
        }
    }
}
