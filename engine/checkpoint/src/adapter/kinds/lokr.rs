//! LoKr: the Kronecker product of two matrices, each stored or of low rank, times α / r.
//!
//! LyCORIS, arXiv:2309.14859, section on LoKr.

use super::pairs::Pair;
use super::{Fault, Kind, Module};
use crate::adapter::computed::{ByRows, Effect, Part, add_product};
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind = Kind {
    peft_type: "LOKR",
    tensors: &["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"],
    shared: &[],
    make,
};

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    module.outputs_first()?;
    let (rows, columns) = module.matrix()?;
    let mut parts = Vec::new();
    let one = side(module, "lokr_w1", ["lokr_w1_a", "lokr_w1_b", ""], &mut parts)?;
    let two = side(module, "lokr_w2", ["lokr_w2_a", "lokr_w2_b", "lokr_t2"], &mut parts)?;
    if one.rows.checked_mul(two.rows) != Some(rows)
        || one.columns.checked_mul(two.columns) != Some(columns)
    {
        return Err(Fault::new("the factors of `{}` do not make the base's tensor together")
            .fact("first", format!("[{}, {}]", one.rows, one.columns))
            .fact("second", format!("[{}, {}]", two.rows, two.columns))
            .fact("base", module.target.shape.to_string()));
    }
    // Matrices that are stored whole say nothing of the rank that the scale was made with.
    let own = [one.rank(), two.rank()].into_iter().flatten().next();
    let rank = match own.or(module.settings().whole("r")?.filter(|rank| *rank > 0)) {
        _ if module.config.own.contains_key(module.name) => module.config.rank_of(module.name),
        Some(_) if !module.config.rank_pattern.is_empty() || own.is_none() => {
            module.config.rank_of(module.name)
        }
        Some(rank) => rank,
        None => return Err(Fault::new("the configuration says no rank `r` for `{}`")),
    };
    let scale = module.scale(rank, "alpha")? as f32;
    let scheme = format!("LoKr, rank {rank}");
    let compute = Lokr { sides: [one, two], scale };
    Ok(module.adds(scheme, parts, compute))
}

#[derive(Debug)]
struct Side {
    how: How,
    rows: u64,
    columns: u64,
    /// Elements of a kernel of one dimension that peft's product repeats in another order than of two.
    line: Option<u64>,
}

#[derive(Debug)]
enum How {
    Whole(usize),
    Pair(Pair),
}

impl Side {
    fn rank(&self) -> Option<u64> {
        match &self.how {
            How::Whole(_) => None,
            How::Pair(pair) => Some(pair.rank),
        }
    }

    fn read(&self, parts: &Reader<'_>) -> Result<Vec<f32>, ReadError> {
        let pair = match &self.how {
            How::Whole(part) => return parts.all(*part),
            How::Pair(pair) => pair,
        };
        let [left, right] = pair.read(parts)?;
        let (rank, columns) = (pair.rank as usize, pair.columns as usize);
        let mut out = vec![0.0; pair.rows as usize * columns];
        for (row, left) in out.chunks_exact_mut(columns).zip(left.chunks_exact(rank)) {
            add_product(row, left, &right, columns, 0);
        }
        Ok(out)
    }
}

fn side(
    module: &Module<'_>,
    whole: &str,
    pair: [&str; 3],
    parts: &mut Vec<Part>,
) -> Result<Side, Fault> {
    if module.get(whole).is_none() {
        let pair = Pair::find(module, pair, parts)?;
        let (rows, columns) = (pair.rows, pair.columns);
        return Ok(Side { how: How::Pair(pair), rows, columns, line: None });
    }
    let (at, shape) = module.need(whole)?;
    let [rows, others @ ..] = shape else { return Err(module.misshapen(whole, &[0, 0])) };
    parts.push(Part::Adapter(at));
    let line = match others {
        [_, kernel] if module.config.dialect.is_none() => Some(*kernel),
        _ => None,
    };
    let (rows, columns) = (*rows, others.iter().product());
    Ok(Side { how: How::Whole(parts.len() - 1), rows, columns, line })
}

#[derive(Debug)]
struct Lokr {
    sides: [Side; 2],
    scale: f32,
}

impl ByRows for Lokr {
    fn held_bytes(&self) -> u64 {
        self.sides.iter().map(|side| side.rows.saturating_mul(side.columns) * 4).sum()
    }

    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        let numbers = vec![self.sides[0].read(parts)?, self.sides[1].read(parts)?];
        Ok(Held { numbers, counts: Vec::new() })
    }

    fn columns(&self) -> u64 {
        self.sides[0].columns * self.sides[1].columns
    }

    fn row(
        &self,
        held: &Held,
        _: &Reader<'_>,
        [row, column]: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        let [one, two] = &held.numbers[..] else { return Ok(()) };
        let [first_side, second_side] = &self.sides;
        let (one_columns, two_columns) =
            (first_side.columns as usize, second_side.columns as usize);
        if let Some(kernel) = second_side.line {
            self.fill_lines(held, kernel, row * self.columns() + column, own);
            return Ok(());
        }
        let outer = &one[(row / second_side.rows) as usize * one_columns..][..one_columns];
        let inner = &two[(row % second_side.rows) as usize * two_columns..][..two_columns];
        for (value, at) in own.iter_mut().zip(column as usize..) {
            *value = outer[at / two_columns] * inner[at % two_columns] * self.scale;
        }
        Ok(())
    }
}

impl Lokr {
    /// A kernel of one dimension: peft multiplies [1, a, c] by [b, d, k] and reads the [b, a·d, c·k] that comes
    /// of it as [a·b, c·d, k].
    fn fill_lines(&self, held: &Held, kernel: u64, first: u64, out: &mut [f32]) {
        let [one, two] = &self.sides;
        let depth = two.columns / kernel.max(1);
        let last = one.columns * kernel;
        for (value, at) in out.iter_mut().zip(first..) {
            let (rest, end) = (at / last, at % last);
            let (front, middle) = (rest / (one.rows * depth), rest % (one.rows * depth));
            let outer = (middle / depth) * one.columns + end / kernel;
            let inner = (front * depth + middle % depth) * kernel + end % kernel;
            let product = held.numbers[0][outer as usize] * held.numbers[1][inner as usize];
            *value = product * self.scale;
        }
    }
}
