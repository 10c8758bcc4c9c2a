//! What products take for themselves, beside the matrices.
//!
//! faer packs panels of what it multiplies into memory that each thread keeps. It asks for the address space
//! of twice the last-level cache, and touches of it what the operands of one product fill: 512 numbers for
//! each row of the left one and each column of the right one. Products are therefore made in tiles of
//! [`ROWS`] × [`COLUMNS`], which bounds what is touched, and the address space is asked for before the
//! first of them, where its lack can still be told: faer would abort the process.

use std::cell::Cell;
use std::sync::OnceLock;

use mixdown_ops::matrix::{
    Factors, MatrixOp, Needs, OperandShapes, Operands, Prepared, Report, Stop,
};

/// Most rows of a product that are made at a time: 2048 operations for each number that is packed, so that
/// packing again for each tile does not count.
pub(super) const ROWS: usize = 2048;
/// Most columns.
pub(super) const COLUMNS: usize = 4096;
/// Depth of a packed panel: faer's own.
const DEPTH: usize = 512;

/// Adds what products touch on a thread. The inner products of decompositions are faer's own and go over the
/// whole smaller side.
pub(super) fn add(needs: &mut Needs, op: &MatrixOp, operands: &OperandShapes) {
    if has_products(op) {
        let sides = (operands.rows, operands.columns);
        needs.prepare_bytes =
            needs.prepare_bytes.saturating_add(bytes(sides, sides.0.min(sides.1)));
        needs.rows_bytes = needs.rows_bytes.saturating_add(bytes(sides, 0));
    }
}

/// Bytes of the packed panels of a matrix with these sides, of which a part of side `decomposed` is
/// decomposed.
fn bytes((rows, columns): (usize, usize), decomposed: usize) -> u64 {
    let larger = rows.max(columns);
    let lines = (larger.min(ROWS) + larger.min(COLUMNS)).max(decomposed.saturating_mul(2));
    (lines * larger.min(DEPTH) * size_of::<f64>()) as u64
}

/// Whether an op multiplies matrices.
fn has_products(op: &MatrixOp) -> bool {
    !matches!(
        op,
        MatrixOp::AxisFact(..)
            | MatrixOp::PlaceInRow
            | MatrixOp::KarcherWeights(_)
            | MatrixOp::BlockOwner(_)
    )
}

thread_local! {
    /// Whether this thread's work space is known to fit.
    static RESERVED: Cell<bool> = const { Cell::new(false) };
}

/// Asks for the address space of this thread's products, once.
fn reserve() -> Result<(), Stop> {
    if RESERVED.get() {
        return Ok(());
    }
    static WANTED: OnceLock<usize> = OnceLock::new();
    let wanted = *WANTED.get_or_init(|| address_space().unwrap_or(0));
    fits(wanted)?;
    RESERVED.set(true);
    Ok(())
}

fn fits(wanted: usize) -> Result<(), Stop> {
    Vec::<u8>::new().try_reserve_exact(wanted).map_err(|_| {
        Stop::Refused(
            format!("no address space is left for products: {} MiB for each thread", wanted >> 20),
            "raise the limit (`ulimit -v unlimited`), or work on fewer threads with `--threads`"
                .into(),
        )
    })
}

/// Twice the last-level caches of all processors, where Linux tells them: what faer asks for.
fn address_space() -> Option<usize> {
    let read = |name: &str| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index3/{name}")).ok()
    };
    let size: usize = read("size")?.trim().strip_suffix('K')?.parse().ok()?;
    let sharing = processors(read("shared_cpu_list")?.trim())?;
    let all = std::thread::available_parallelism().ok()?.get();
    size.checked_mul(1024)?.checked_mul(2 * all.div_ceil(sharing))
}

/// How many processors a list such as `0-3,8` names.
fn processors(list: &str) -> Option<usize> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').map(count).sum::<Option<usize>>().filter(|&count| count > 0)
}

/// An op whose rows are computed on threads that have room for their products.
struct WithRoom(Box<dyn Prepared>);

/// Prepares an op on a thread that has room for its products, and has its rows computed on such ones.
pub(super) fn with_room(
    prepare: impl FnOnce() -> Result<Box<dyn Prepared>, Stop>,
) -> Result<Box<dyn Prepared>, Stop> {
    reserve()?;
    Ok(Box::new(WithRoom(prepare()?)))
}

impl Prepared for WithRoom {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        reserve()?;
        self.0.rows(operands, first_row, values)
    }

    fn factors(&self) -> Option<&Factors> {
        self.0.factors()
    }

    fn report(&self) -> Report {
        self.0.report()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_counted() {
        for (list, expected) in
            [("0", Some(1)), ("0-3", Some(4)), ("0-3,8,10-11", Some(7)), ("", None), ("3-1", None)]
        {
            assert_eq!(processors(list), expected, "{list}");
        }
    }

    #[test]
    fn address_space_that_is_not_there_is_told() {
        assert!(fits(1 << 20).is_ok());
        let Err(Stop::Refused(headline, help)) = fits(usize::MAX / 4) else {
            panic!("more than any machine has")
        };
        assert!(headline.starts_with("no address space is left for products"), "{headline}");
        assert!(help.contains("--threads"), "{help}");
    }

    #[test]
    fn tiles_bound_what_is_touched() {
        assert_eq!(bytes((100_000, 5120), 0), 25_165_824);
        assert_eq!(bytes((5120, 27_648), 5120), 41_943_040);
        assert_eq!(bytes((64, 32), 32), 128 * 64 * 8);
    }
}
