//! FourierFT: the real part of the inverse Fourier transform of a sparse spectrum.
//!
//! Gao et al. 2024, arXiv:2405.03003, equation 3. Which frequencies were trained follows from a seed alone, as torch
//! draws a permutation.

mod permutation;
mod transform;

use std::f64::consts::TAU;
use std::fmt;

use self::permutation::first_of_permutation;
use self::transform::inverse;
use super::{Fault, Kind, Module};
use crate::adapter::computed::{ByRows, Effect, Part};
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind =
    Kind { peft_type: "FOURIERFT", tensors: &["fourierft_spectrum"], shared: &[], make };

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    module.outputs_first()?;
    let (rows, columns) = module.matrix()?;
    let (at, shape) = module.need("fourierft_spectrum")?;
    let &[count] = shape else { return Err(module.misshapen("fourierft_spectrum", &[0])) };
    let elements = rows.checked_mul(columns).filter(|elements| *elements >= count);
    let Some(elements) = elements else {
        return Err(module.misshapen("fourierft_spectrum", &[rows * columns]));
    };
    let settings = module.settings();
    let seed = settings.whole("random_loc_seed")?.unwrap_or(777);
    let scaling = settings.number("scaling")?.unwrap_or(150.0);
    let places = first_of_permutation(seed, elements, count);
    let compute = Fourier { places: Places { seed, places }, rows, columns, scaling };
    let scheme = format!("FourierFT, {count} frequencies");
    let parts = vec![Part::Adapter(at)];
    Ok(module.adds(scheme, parts, compute))
}

/// Where the numbers of a spectrum stand, row-major.
struct Places {
    /// What they follow from.
    seed: u64,
    places: Vec<u64>,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} places from the seed {}", self.places.len(), self.seed)
    }
}

#[derive(Debug)]
struct Fourier {
    places: Places,
    rows: u64,
    columns: u64,
    scaling: f64,
}

impl ByRows for Fourier {
    const HELD: &[usize] = &[0];

    fn held_bytes(&self) -> u64 {
        self.places.places.len() as u64 * 4
    }

    fn columns(&self) -> u64 {
        self.columns
    }

    fn row(
        &self,
        held: &Held,
        _: &Reader<'_>,
        [row, column]: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        let factor = self.scaling / (self.rows as f64 * self.columns as f64);
        // The transform of columns is a sum over the few rows of the spectrum that are not zero.
        let mut line = vec![(0.0, 0.0); self.columns as usize];
        for (place, &value) in self.places.places.iter().zip(&held.numbers[0]) {
            let (u, v) = (place / self.columns, place % self.columns);
            let turn = (u128::from(u) * u128::from(row) % u128::from(self.rows)) as f64;
            let (sine, cosine) = (TAU * turn / self.rows as f64).sin_cos();
            let one: &mut (f64, f64) = &mut line[v as usize];
            one.0 += f64::from(value) * cosine;
            one.1 += f64::from(value) * sine;
        }
        let line = inverse(line);
        for (value, (real, _)) in own.iter_mut().zip(&line[column as usize..]) {
            *value = (real * factor) as f32;
        }
        Ok(())
    }
}
