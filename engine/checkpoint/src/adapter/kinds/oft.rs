//! OFT: the inputs of a layer are turned, block by block.
//!
//! Qiu et al. 2023, arXiv:2306.07280; the series for Cayley's transform from Qiu et al. 2025, arXiv:2506.19847.
//! W becomes W · Rᵀ, where R has orthogonal blocks made from the upper triangles that are stored.

use super::orthogonal::{cayley, product, turned_by_blocks};
use super::{Fault, Kind, Module};
use crate::adapter::computed::{ByRows, Effect, Part};
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind =
    Kind { peft_type: "OFT", tensors: &["oft_R", "oft_embedding_R"], shared: &[], make };

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    if module.get("oft_embedding_R").is_some() {
        return Err(Fault::unsupported(
            "`{}` is an embedding that OFT turns, which is not supported",
        ));
    }
    module.outputs_first()?;
    let (_, columns) = module.matrix()?;
    let (at, shape) = module.need("oft_R")?;
    let &[blocks, elements] = shape else { return Err(module.misshapen("oft_R", &[0, 0])) };
    let size = side_of(elements);
    let is_shared = blocks == 1;
    let fits = match size {
        Some(size) => columns % size == 0 && (is_shared || columns / size == blocks),
        None => false,
    };
    let Some(size) = size.filter(|_| fits) else {
        return Err(module.misshapen("oft_R", &[blocks, elements]));
    };
    let settings = module.settings();
    // Adapters of peft before 0.18 say nothing of the series and do not use it.
    let terms = match settings.value("use_cayley_neumann") {
        None => None,
        Some(_) => match settings.flag("use_cayley_neumann")? {
            true => Some(settings.whole("num_cayley_neumann_terms")?.unwrap_or(5)),
            false => None,
        },
    };
    let bound = match settings.flag("coft")? {
        true => Some(settings.number("eps")?.unwrap_or(6e-5)),
        false => None,
    };
    let compute = Oft { blocks, size, columns, terms, bound };
    let parts = vec![Part::Adapter(at), module.base_part()?];
    let scheme = format!("OFT, blocks of {size}");
    Ok(module.becomes(scheme, parts, compute))
}

/// The side of a matrix above whose diagonal there are so many elements.
fn side_of(elements: u64) -> Option<u64> {
    let guess = ((1.0 + (1.0 + 8.0 * elements as f64).sqrt()) / 2.0).round() as u64;
    let twice = elements.checked_mul(2)?;
    (guess > 0 && guess.checked_mul(guess - 1) == Some(twice)).then_some(guess)
}

#[derive(Debug)]
struct Oft {
    blocks: u64,
    size: u64,
    columns: u64,
    /// Terms of the series, where that is used.
    terms: Option<u64>,
    /// The farthest that blocks may be from none, for constrained OFT.
    bound: Option<f64>,
}

impl ByRows for Oft {
    fn held_bytes(&self) -> u64 {
        self.blocks * self.size * self.size * 4
    }

    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        let (stored, size) = (parts.all(0)?, self.size as usize);
        let mut out = Vec::with_capacity(self.held_bytes() as usize / 4);
        for vector in stored.chunks_exact((size * (size - 1) / 2).max(1)) {
            let mut skew = vec![0.0; size * size];
            let mut values = vector.iter().map(|&value| f64::from(value));
            for row in 0..size {
                for column in row + 1..size {
                    let value = values.next().unwrap_or_default();
                    skew[row * size + column] = value;
                    skew[column * size + row] = -value;
                }
            }
            if let Some(bound) = self.bound {
                let bound = bound / (self.blocks as f64).sqrt();
                let norm = skew.iter().map(|value| value * value).sum::<f64>().sqrt();
                if norm > bound {
                    skew.iter_mut().for_each(|value| *value *= bound / norm);
                }
            }
            let turned = match self.terms {
                Some(terms) => series(&skew, size, terms),
                None => cayley(&skew, size),
            };
            out.extend(turned.into_iter().map(|value| value as f32));
        }
        Ok(Held { numbers: vec![out], counts: Vec::new() })
    }

    fn columns(&self) -> u64 {
        self.columns
    }

    fn row(
        &self,
        held: &Held,
        parts: &Reader<'_>,
        at: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        turned_by_blocks(parts, &held.numbers[0], [self.size, self.columns], at, own)
    }
}

/// I + 2S + 2S² + … with so many terms, of which the last counts once from the third on.
fn series(skew: &[f64], size: usize, terms: u64) -> Vec<f64> {
    let mut sum: Vec<f64> =
        (0..size * size).map(|at| f64::from(u8::from(at / size == at % size))).collect();
    let mut add = |power: &[f64], factor: f64| {
        sum.iter_mut().zip(power).for_each(|(sum, value)| *sum += factor * value);
    };
    if terms > 1 {
        add(skew, 2.0);
    }
    if terms > 2 {
        let mut power = product(skew, skew, size);
        add(&power, 2.0);
        for _ in 3..terms.saturating_sub(1) {
            power = product(&power, skew, size);
            add(&power, 2.0);
        }
        power = product(&power, skew, size);
        add(&power, 1.0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triangles_tell_their_side() {
        assert_eq!([0, 1, 3, 6, 28].map(side_of), [Some(1), Some(2), Some(3), Some(4), Some(8)]);
        assert_eq!([2, 4, 5, 7].map(side_of), [None; 4]);
        assert_eq!(side_of(u64::MAX), None);
    }

    /// Of S = [0, t; −t, 0], whose square is −t², terms 2, 3 and 5.
    #[test]
    fn the_series_has_so_many_terms() {
        let t = 0.5;
        let skew = [0.0, t, -t, 0.0];
        assert_eq!(series(&skew, 2, 1), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(series(&skew, 2, 2), [1.0, 1.0, -1.0, 1.0]);
        // I + 2S + 2S² + S³.
        assert_eq!(series(&skew, 2, 3), [0.5, 0.875, -0.875, 0.5]);
        // I + 2S + 2S² + 2S³ + S⁴.
        assert_eq!(series(&skew, 2, 5), [0.5625, 0.75, -0.75, 0.5625]);
    }
}
