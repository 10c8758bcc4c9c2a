//! What a flow has besides files: the factors of adapters, and the results of matrix ops, in memory or aside.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, OnceLock};

use mixdown_ops::{Precision, Worker};
use mixdown_plan::{Factor, Leaf, Merge, Product};
use mixdown_tensor::DType;

use crate::context::{Context, internal, lock};
use crate::held::{Held, Values, held_dtype, side_of};
use crate::part;
use crate::read::Inputs;
use crate::rows::gathered;
use crate::scheduler::Failure;
use crate::sink::Sink;
use crate::steps::Form;
use crate::widen;

/// Where the result of a matrix op is.
#[derive(Clone, Debug)]
enum Kept {
    InMemory(Arc<Held>),
    /// Aside, all its elements from this byte on.
    Aside(u64),
}

/// What one job holds while its flow runs.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    products: HashMap<Product, Arc<Held>>,
    /// Results of matrix ops, by position.
    matrices: Mutex<HashMap<usize, Kept>>,
    /// What is written where it is one side of a low-rank matrix, and its type.
    factor: Option<(Factor, Precision)>,
    side: OnceLock<Option<Arc<Held>>>,
}

impl Resources {
    /// The factors of all adapters that a merge reads, in its operands too.
    pub(crate) fn load(inputs: &Inputs<'_>, merge: &Merge) -> Result<Self, Failure> {
        let mut products = HashMap::new();
        for product in products_of(merge) {
            if let Entry::Vacant(place) = products.entry(product) {
                let held = load_product(inputs, &product, merge.precision)?;
                place.insert(Arc::new(held));
            }
        }
        let factor = merge.factor.clone().map(|factor| (factor, merge.precision));
        Ok(Self { products, matrices: Mutex::default(), factor, side: OnceLock::new() })
    }

    /// Finds what earlier flows of the job have put aside. Factors come back into memory.
    pub(crate) fn find_aside(
        &self,
        context: &Context<'_>,
        job: u32,
        merge: &Merge,
    ) -> Result<(), Failure> {
        for step in 0..merge.matrices.len() {
            let Some(put) = lock(&context.put).get(&(job, step)).copied() else { continue };
            match put.form {
                Form::Dense => self.put_aside(step, put.offset),
                Form::Factors(rows, rank, columns) => {
                    let width = held_dtype(merge.precision).bytes();
                    let mut at = put.offset;
                    let mut read = |count: usize| -> Result<Values, Failure> {
                        let mut bytes = vec![0; count * width];
                        context.sink.read_aside(at, &mut bytes).map_err(Failure::Fatal)?;
                        at += bytes.len() as u64;
                        Ok(Values::from_bytes(&bytes, merge.precision))
                    };
                    let (left, right) = (read(rows * rank)?, read(rank * columns)?);
                    self.put(step, Arc::new(Held::Factors { left, right, rank, columns }));
                }
            }
        }
        Ok(())
    }

    /// The same matrices for the job of the other side, once all are there.
    pub(crate) fn for_twin(&self, merge: &Merge) -> Self {
        Self {
            products: self.products.clone(),
            matrices: Mutex::new(lock(&self.matrices).clone()),
            factor: merge.factor.clone().map(|factor| (factor, merge.precision)),
            side: OnceLock::new(),
        }
    }

    /// Adds the result of a matrix op.
    pub(crate) fn put(&self, step: usize, held: Arc<Held>) {
        lock(&self.matrices).insert(step, Kept::InMemory(held));
    }

    /// Adds a result that was put aside, all its elements from this byte on.
    pub(crate) fn put_aside(&self, step: usize, offset: u64) {
        lock(&self.matrices).insert(step, Kept::Aside(offset));
    }

    /// Whether a matrix op has its result here.
    pub(crate) fn is_done(&self, step: usize) -> bool {
        lock(&self.matrices).contains_key(&step)
    }

    /// What a leaf is that comes from no file, where it is in memory and no part of another.
    pub(crate) fn get(&self, leaf: &Leaf) -> Option<Arc<Held>> {
        match leaf {
            Leaf::Product(product) => self.products.get(product).cloned(),
            Leaf::Matrix(step) => match lock(&self.matrices).get(&(*step as usize)) {
                Some(Kept::InMemory(held)) => Some(Arc::clone(held)),
                Some(Kept::Aside(_)) | None => None,
            },
            Leaf::Factor => self.side.get_or_init(|| self.side()).clone(),
            Leaf::Tensor(_) | Leaf::Rows(_) | Leaf::Assembled(..) | Leaf::Part(..) => None,
        }
    }

    /// Reads a stretch of a leaf that comes from no file; factors are multiplied out by the worker.
    pub(crate) fn read(
        &self,
        leaf: &Leaf,
        first: u64,
        dtype: DType,
        out: &mut [u8],
        sink: &dyn Sink,
        worker: &mut dyn Worker,
    ) -> Result<(), Failure> {
        let kept = leaf.step().and_then(|step| lock(&self.matrices).get(&step).cloned());
        let width = dtype.bytes();
        match (leaf, kept) {
            (Leaf::Part(_, part), Some(Kept::InMemory(held))) => {
                part::read(part, first, width, out, |at, out| {
                    held.read(worker, at, out);
                    Ok(())
                })
            }
            (Leaf::Part(_, part), Some(Kept::Aside(offset))) => {
                part::read(part, first, width, out, |at, out| {
                    sink.read_aside(offset + at * width as u64, out).map_err(Failure::Fatal)
                })
            }
            (Leaf::Matrix(_), Some(Kept::Aside(offset))) => {
                sink.read_aside(offset + first * width as u64, out).map_err(Failure::Fatal)
            }
            _ => {
                let held = self.get(leaf);
                let held = held.ok_or_else(|| Failure::Fatal(internal("a leaf is not held")))?;
                held.read(worker, first, out);
                Ok(())
            }
        }
    }

    /// The side that is written, once all matrix ops are done.
    fn side(&self) -> Option<Arc<Held>> {
        let (factor, precision) = self.factor.as_ref()?;
        let terms = factor.terms.iter().map(|(leaf, by)| Some((self.get(leaf)?, *by)));
        let terms: Option<Vec<_>> = terms.collect();
        side_of(factor, &terms?, *precision).map(Arc::new)
    }
}

/// The adapters' updates that a merge reads.
pub(crate) fn products_of(merge: &Merge) -> impl Iterator<Item = Product> {
    let operands = merge.matrices.iter().flat_map(|step| &step.operands);
    let merges = operands.map(|operand| &operand.merge).chain([merge]);
    let terms = merge.factor.iter().flat_map(|factor| &factor.terms).map(|(leaf, _)| leaf);
    merges.flat_map(|merge| &merge.leaves).chain(terms).filter_map(|leaf| match leaf {
        Leaf::Product(product) => Some(*product),
        _ => None,
    })
}

/// Reads the factors of an update. The scale goes to the left one.
fn load_product(
    inputs: &Inputs<'_>,
    product: &Product,
    precision: Precision,
) -> Result<Held, Failure> {
    let read = |tensor| -> Result<Vec<f64>, Failure> {
        let entry = inputs.entry(tensor);
        let mut bytes = vec![0; entry.bytes() as usize];
        inputs.read(tensor, 0, &mut bytes)?;
        if let Some(element) = widen::first_nonfinite(&bytes, entry.dtype) {
            return Err(crate::messages::nonfinite(inputs, tensor, element));
        }
        Ok(widen::to_f64(&bytes, entry.dtype))
    };
    let rank = product.rank as usize;
    let (left, right) = match rank {
        0 => (Vec::new(), Vec::new()),
        _ => (read(product.left)?, read(product.right)?),
    };
    let (rows, columns) = (product.rows as usize, product.columns as usize);
    // The transposed product is right's transpose times left's.
    let (mut left, right) = match product.transposed {
        false => (left, right),
        true => (transposed(&right, rank, rows), transposed(&left, columns, rank)),
    };
    let scale = product.scale.get();
    left.iter_mut().for_each(|value| *value *= scale);
    Ok(Held::Factors {
        left: Values::from_f64(&left, precision),
        right: Values::from_f64(&right, precision),
        rank,
        columns,
    })
}

fn transposed(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let mut out = vec![0.0; values.len()];
    for row in 0..rows {
        for column in 0..columns {
            out[column * rows + row] = values[row * columns + column];
        }
    }
    out
}

/// Bytes of what a merge holds for adapters.
pub(crate) fn product_bytes(merge: &Merge) -> u64 {
    let width = gathered(merge.precision).bytes() as u64;
    let mut seen: Vec<Product> = products_of(merge).collect();
    seen.sort_unstable_by_key(|product| (product.left, product.right));
    seen.dedup();
    // While one is read it is there as f64 too.
    let of = |product: &Product| u64::from(product.rank) * (product.rows + product.columns);
    let largest = seen.iter().map(of).max().unwrap_or(0);
    seen.iter().map(of).sum::<u64>() * width + largest * 24
}

/// Bytes of what a merge holds to write one side of a low-rank matrix: both sides in f64 while they are
/// combined, and the one.
pub(crate) fn factor_bytes(merge: &Merge) -> u64 {
    let bytes = |factor: &Factor| factor.rank * (factor.rows + factor.columns) * 32;
    merge.factor.as_ref().map_or(0, bytes)
}
