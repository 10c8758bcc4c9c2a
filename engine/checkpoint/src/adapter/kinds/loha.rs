//! LoHa: the elementwise product of two matrices of low rank, times α / r.
//!
//! Hyeon-Woo et al. 2022, FedPara, arXiv:2108.06098, in the form of LyCORIS, arXiv:2309.14859.

use super::pairs::Pair;
use super::{Fault, Kind, Module};
use crate::adapter::computed::{ByRows, Effect, add_product};
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind = Kind {
    peft_type: "LOHA",
    tensors: &["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"],
    shared: &[],
    make,
};

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    module.outputs_first()?;
    let (rows, columns) = module.matrix()?;
    let mut parts = Vec::new();
    let one = Pair::find(module, ["hada_w1_a", "hada_w1_b", "hada_t1"], &mut parts)?;
    let two = Pair::find(module, ["hada_w2_a", "hada_w2_b", "hada_t2"], &mut parts)?;
    for (pair, name) in [(one, "hada_w1_a"), (two, "hada_w2_a")] {
        if (pair.rows, pair.columns) != (rows, columns) {
            return Err(module.misshapen(name, &[rows, pair.rank]));
        }
    }
    let scale = module.scale(one.rank, "alpha")? as f32;
    let scheme = format!("LoHa, rank {}", one.rank);
    let compute = Loha { pairs: [one, two], columns, scale };
    Ok(module.adds(scheme, parts, compute))
}

#[derive(Debug)]
struct Loha {
    pairs: [Pair; 2],
    columns: u64,
    scale: f32,
}

impl ByRows for Loha {
    fn held_bytes(&self) -> u64 {
        self.pairs.iter().map(Pair::bytes).sum()
    }

    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        let [a, b] = self.pairs[0].read(parts)?;
        let [c, d] = self.pairs[1].read(parts)?;
        Ok(Held { numbers: vec![a, b, c, d], counts: Vec::new() })
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
        let [a, b, c, d] = &held.numbers[..] else { return Ok(()) };
        let columns = self.columns as usize;
        let side = |values: &'_ [f32], pair: &Pair| {
            let rank = pair.rank as usize;
            values[row as usize * rank..][..rank].to_vec()
        };
        let mut other = vec![0.0; own.len()];
        own.fill(0.0);
        add_product(own, &side(a, &self.pairs[0]), b, columns, column as usize);
        add_product(&mut other, &side(c, &self.pairs[1]), d, columns, column as usize);
        own.iter_mut().zip(&other).for_each(|(own, other)| *own = *own * other * self.scale);
        Ok(())
    }
}
