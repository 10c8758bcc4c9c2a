//! SHiRA: single elements of the weights were trained.
//!
//! Bhardwaj et al. 2024, arXiv:2406.13175.

use mixdown_tensor::DType;

use super::{Fault, Kind, Module};
use crate::adapter::computed::{Compute, Effect, Part};
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind =
    Kind { peft_type: "SHIRA", tensors: &["shira_weight", "shira_indices"], shared: &[], make };

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    module.outputs_first()?;
    let (rows, columns) = module.matrix()?;
    let (values, shape) = module.need("shira_weight")?;
    let &[count] = shape else { return Err(module.misshapen("shira_weight", &[0])) };
    let Some(places) = module.get("shira_indices") else {
        return Err(module.need("shira_indices").err().unwrap_or_else(|| Fault::new("")));
    };
    let entry = module.entry(places);
    if entry.shape.dimensions() != [2, count] {
        return Err(module.misshapen("shira_indices", &[2, count]));
    }
    if !matches!(entry.dtype, DType::I32 | DType::I64 | DType::F32) {
        return Err(Fault::new("the indices of `{}` are no whole numbers")
            .fact("shira_indices", entry.dtype.name()));
    }
    let parts = vec![Part::Adapter(values), Part::Adapter(places)];
    let compute = Shira { rows, columns, count, places: entry.dtype };
    let scheme = format!("SHiRA, {count} elements");
    Ok(module.adds(scheme, parts, compute))
}

#[derive(Debug)]
struct Shira {
    rows: u64,
    columns: u64,
    count: u64,
    places: DType,
}

impl Compute for Shira {
    fn held_bytes(&self) -> u64 {
        self.count * 12
    }

    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        let values = parts.all(0)?;
        let mut bytes = vec![0; parts.part(1).bytes() as usize];
        parts.bytes(1, 0, &mut bytes)?;
        let numbers: Vec<i64> = match self.places {
            DType::I64 => {
                bytes.as_chunks::<8>().0.iter().map(|one| i64::from_le_bytes(*one)).collect()
            }
            DType::F32 => {
                bytes.as_chunks::<4>().0.iter().map(|one| f32::from_le_bytes(*one) as i64).collect()
            }
            _ => {
                bytes.as_chunks::<4>().0.iter().map(|one| i32::from_le_bytes(*one).into()).collect()
            }
        };
        let (rows, columns) = numbers.split_at(values.len());
        let mut all = Vec::with_capacity(values.len());
        for ((&row, &column), value) in rows.iter().zip(columns).zip(values) {
            let within = |at: i64, size: u64| u64::try_from(at).ok().filter(|at| *at < size);
            match (within(row, self.rows), within(column, self.columns)) {
                (Some(row), Some(column)) => all.push((row * self.columns + column, value)),
                _ => {
                    let what = format!("holds the place [{row}, {column}], which is none");
                    return Err(parts.wrong_value(1, &what));
                }
            }
        }
        all.sort_by_key(|(place, _)| *place);
        let (counts, numbers) = all.into_iter().unzip();
        Ok(Held { numbers: vec![numbers], counts })
    }

    fn fill(
        &self,
        held: &Held,
        _: &Reader<'_>,
        first: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        out.fill(0.0);
        let start = held.counts.partition_point(|place| *place < first);
        let end = first + out.len() as u64;
        let own = held.counts[start..].iter().zip(&held.numbers[0][start..]);
        for (place, value) in own.take_while(|(place, _)| **place < end) {
            out[(place - first) as usize] += value;
        }
        Ok(())
    }
}
