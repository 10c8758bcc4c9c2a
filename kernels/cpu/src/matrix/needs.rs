//! Upper bounds of the bytes that ops hold, and about how many operations they do.
//!
//! Counts are in f64, where they cannot overflow and need not be exact.

use mixdown_ops::Precision;
use mixdown_ops::descent::{DescentNeeds, Descents};
use mixdown_ops::matrix::axes::Axis;
use mixdown_ops::matrix::interference::{
    Cut, Filter, Interference, Optimizer, Rows, Solver, Targets,
};
use mixdown_ops::matrix::spectral::Doge;
use mixdown_ops::matrix::{MatrixOp, Needs, OperandShapes, Rank, RankAware};

use super::adam::{Form, Scratch, System};
use super::axes::rows_together;
use super::common_basis::BASIS_ROWS;
use super::descended;
use super::directions::COLUMNS;
use super::gram::PAIR_PANEL;
use super::interference::GRAM_COLUMNS;
use super::interference::cut::looks_at_energies;
use super::interference::dual_by_rows::{GRAM_ROWS, aside_bytes};
use super::interference::filter::{check_stable, smooth};
use super::interference::partial::TERMS;
use super::interference::solvers::{ADAM_ROWS, iterations};
use super::lower::stored as stored_lower;
use super::product::BLOCK_ROWS;
use super::recovered::{SMALL as RECOVERED_WHOLE, most_directions};
use super::rows::PANEL;
use super::shared_shift::{SHIFT_ROWS, holds};
use super::shifted::TERM;
use super::smaller_side::TOGETHER;
use super::tridiagonal::{BESIDE, stored as stored_reflections};
use crate::features::Features;

/// Bytes of a number.
const NUMBER: f64 = 8.0;
/// Of which f32 takes this share.
const SINGLE: f64 = 0.5;
/// Square matrices that an eigenproblem holds: its input, eigenvectors twice, the solver's own.
const EIGEN: f64 = 5.0;
/// Bytes beside: vectors, headers, and what an allocator rounds up.
const SMALL: f64 = 65536.0;

/// Numbers held and operations done, before they are put into [`Needs`].
#[derive(Clone, Copy, Default)]
struct Counts {
    /// Numbers that preparing takes beside what is held.
    preparing: f64,
    held: f64,
    /// Numbers for one row of a block.
    row: f64,
    flops: f64,
}

struct Sizes {
    m: f64,
    n: f64,
    p: f64,
    experts: f64,
}

impl Sizes {
    fn smaller(&self) -> usize {
        self.p as usize
    }

    fn is_left(&self) -> bool {
        self.m <= self.n
    }

    /// Rows read at a time while preparing: one or two panels, and room for a sum.
    fn panels(&self) -> f64 {
        if !self.is_left() {
            return 3.0 * (PANEL as f64).min(self.m) * self.n;
        }
        let panels = if self.m > PAIR_PANEL as f64 { 3.0 } else { 2.0 };
        panels * (PAIR_PANEL as f64).min(self.m) * self.n
    }

    /// Preparing for the leading `k` directions of one matrix.
    fn truncation(&self, k: f64) -> Counts {
        let Self { m, n, p, .. } = *self;
        Counts {
            preparing: self.panels() + EIGEN * p * p + PANEL as f64 * k,
            held: k * n + if self.is_left() { k * m } else { k },
            row: 2.0 * n + k,
            flops: 2.0 * m * n * (p + k) + 9.0 * p * p * p,
        }
    }

    /// One matrix of the smaller side that a sum of operands, which is read again, is multiplied by.
    fn reweighed(&self) -> Counts {
        let Self { m, n, p, .. } = *self;
        let along = if self.is_left() { TOGETHER as f64 * (n + p) } else { PANEL as f64 * p };
        Counts {
            // The Gram matrix's eigenvectors, norms along them, and then the matrix from two copies of them.
            preparing: (self.panels() + (EIGEN - 1.0) * p * p)
                .max(p * p + along + 2.0 * PANEL as f64 * n),
            held: p * p,
            row: 3.0 * n,
            flops: 6.0 * m * n * p + 9.0 * p * p * p,
        }
    }

    /// Directions with other singular values: `r` in all, of `count` matrices.
    fn stack(&self, r: f64, count: f64) -> Counts {
        let Self { m, n, p, .. } = *self;
        let held = if self.is_left() { r * (m + n) } else { 3.0 * r * n };
        // One matrix after the other is decomposed, and then all directions are orthogonalized.
        let decomposing = self.panels() + EIGEN * p * p + (PANEL as f64 + n) * r / count;
        let turned = if self.is_left() { m } else { PANEL as f64 };
        let solving = COLUMNS as f64 * r + (EIGEN + 1.2) * r * r;
        let orthogonalizing = self.panels() + solving.max(turned * r);
        Counts {
            preparing: decomposing.max(orthogonalizing),
            held,
            row: 3.0 * n + r,
            flops: count * (4.0 * m * n * p + 9.0 * p * p * p) + 8.0 * m * n * r + 18.0 * r * r * r,
        }
    }
}

/// What an op needs that [`check`](super::check::check) has let through.
pub(crate) fn of(
    op: &MatrixOp,
    operands: &OperandShapes,
    precision: Precision,
    device: Option<&dyn Descents>,
) -> Needs {
    if let MatrixOp::Recovered(op) = op {
        return recovered(op, operands, precision, device);
    }
    if op.runs_on_cores(operands) {
        return on_cores(op, operands, precision);
    }
    let count = match op {
        MatrixOp::Regression { .. } => operands.ranks.len() / 2,
        _ => operands.ranks.len(),
    };
    let (m, n) = (operands.rows as f64, operands.columns as f64);
    let sizes = Sizes { m, n, p: m.min(n), experts: count as f64 };
    let mut block_rows = BLOCK_ROWS;
    let counts = match op {
        MatrixOp::TruncatedSvd(Rank::Count(count)) => {
            let k = f64::from(*count).min(sizes.p);
            let counts = sizes.truncation(k);
            // Both sides, and the right one twice while the left one is formed.
            Counts { held: k * (m + n) + k, preparing: counts.preparing + k * n, row: n, ..counts }
        }
        MatrixOp::TruncatedSvd(rank) => {
            let counts = sizes.truncation(kept(*rank, &sizes));
            // The right side is held twice where rows are read.
            Counts { held: counts.held + kept(*rank, &sizes) * n, ..counts }
        }
        MatrixOp::Polar | MatrixOp::Reshaped(_) => sizes.reweighed(),
        MatrixOp::SingularValues => Counts {
            preparing: sizes.panels() + EIGEN * sizes.p * sizes.p,
            held: sizes.p,
            row: n,
            flops: m * n * sizes.p + 9.0 * sizes.p * sizes.p * sizes.p,
        },
        MatrixOp::Gram => Counts {
            preparing: 3.0 * (PANEL as f64).min(m) * n,
            held: n * n,
            row: n,
            flops: m * n * n,
        },
        MatrixOp::Isotropic(aware) => {
            let p = sizes.p;
            // Null directions are filled in on the larger side, all of which may be.
            let filled = if *aware == RankAware::Yes { 0.0 } else { (m.max(n) + p) * p };
            let mut counts = sizes.reweighed();
            if filled > 0.0 {
                counts.preparing += 2.0 * TOGETHER as f64 * m.max(n);
            }
            counts.held += filled;
            counts
        }
        MatrixOp::IsotropicCommon(_) => {
            let p = sizes.p;
            let mut counts = sizes.stack(p, p.max(1.0));
            let beside = if sizes.is_left() { 1.2 } else { 2.2 };
            let decomposing = sizes.panels() + (EIGEN + beside) * p * p + TOGETHER as f64 * n;
            counts.preparing = counts.preparing.max(decomposing);
            if !sizes.is_left() {
                counts.held += 2.0 * p * n;
            }
            counts.flops = (sizes.experts + 1.0) * (4.0 * m * n * p + 9.0 * p * p * p)
                + 8.0 * m * n * p
                + 18.0 * p * p * p;
            counts
        }
        MatrixOp::TaskSingularVectors(rank) => {
            sizes.stack(kept(*rank, &sizes) * sizes.experts, sizes.experts)
        }
        MatrixOp::Interference(op) => {
            if matches!(op.solver, Solver::Adam(_)) {
                block_rows = ADAM_ROWS;
            }
            let counts = interference(op, operands, &sizes, precision, device);
            match device.and_then(|device| on_device(op, operands, precision, device)) {
                None => counts,
                Some(needs) => {
                    block_rows = descended::block_rows(needs.block_rows, operands.rows);
                    beside_device(counts, op, operands, needs)
                }
            }
        }
        MatrixOp::CommonBasis => {
            block_rows = BASIS_ROWS;
            common_basis(&sizes)
        }
        MatrixOp::OutOfBasis { experts } => {
            let size = m.min(f64::from(*experts) * n);
            // The basis is there twice while it is turned.
            let held = size * (m + n);
            Counts { preparing: size * m, held, row: size, flops: 2.0 * size * m * n }
        }
        MatrixOp::SharedShift(doge) => shared_shift(doge, &sizes, precision),
        MatrixOp::Regression { .. } => Counts {
            preparing: 4.0 * n * n,
            held: (sizes.experts + 1.0) * n * n,
            row: 3.0 * n,
            flops: n * n * n / 3.0 + 2.0 * m * n * n * (sizes.experts + 1.0),
        },
        MatrixOp::CalibratedSpectrum { .. } => {
            let mut counts = sizes.reweighed();
            // Of some directions at a time what the merged matrix has along them, and one of the others.
            let together = (TOGETHER as f64).min(sizes.p);
            let measuring = sizes.p * sizes.p
                + together * (2.0 * n + m.min(n) + PANEL as f64)
                + 3.0 * PANEL as f64 * n;
            counts.preparing = counts.preparing.max(measuring - counts.held);
            counts.flops += 2.0 * m * n * sizes.p * sizes.experts;
            counts
        }
        MatrixOp::AxisFact(_, Axis::Rows) => {
            block_rows = rows_together(operands.columns);
            Counts { row: sizes.experts * n, flops: 2.0 * m * n, ..Counts::default() }
        }
        MatrixOp::AxisFact(_, Axis::Columns) => Counts {
            preparing: sizes.experts * n * rows_together(operands.columns) as f64,
            held: n,
            row: n,
            flops: 2.0 * m * n,
        },
        MatrixOp::PlaceInRow => {
            block_rows = rows_together(operands.columns);
            Counts { row: 2.0 * n, flops: 2.0 * m * n * n.max(2.0).log2(), ..Counts::default() }
        }
        MatrixOp::Recovered(op) => return of(op, operands, precision, device),
        MatrixOp::KarcherWeights(op) => {
            let experts = sizes.experts;
            block_rows = operands.ranks.len().max(1);
            Counts {
                preparing: experts * n * rows_together(operands.columns) as f64
                    + 4.0 * experts * experts,
                held: experts,
                row: 1.0,
                flops: (m * n + f64::from(op.max_iter)) * experts * (experts + 1.0),
            }
        }
        MatrixOp::BlockOwner(blocks) => {
            block_rows = super::blocks::block_rows(blocks, operands.columns);
            let sorted = f64::from(blocks.block);
            let row = n + 2.0 * sorted / block_rows as f64;
            let flops = 2.0 * m * n * sizes.experts * sorted.max(2.0).log2();
            Counts { row, flops, ..Counts::default() }
        }
        MatrixOp::Joint(op) => {
            let (preparing, held, flops) = super::joint::counts(op, operands);
            // What the solvers take for themselves is of the size of what is solved.
            Counts { preparing: 1.8 * preparing, held, row: n, flops }
        }
    };
    let mut needs = finished(counts, block_rows, op.result_rank(operands));
    if let MatrixOp::Interference(op) = op
        && matches!(op.solver, Solver::Filter(..))
    {
        let shape = (operands.rows, operands.columns);
        if super::interference::reads_again(op, shape, &operands.ranks, precision) {
            needs.aside_bytes = aside_bytes(operands.ranks.len() * operands.rows);
        }
    }
    needs
}

/// Beside what the op needs of operands as they are stored: what was recovered of some of them; while one is looked
/// at, a sketch of it, its sides twice and their decomposition. With all operands recovered the op has cores, which
/// turn the factors several times, in place of what is stored.
fn recovered(
    op: &MatrixOp,
    operands: &OperandShapes,
    precision: Precision,
    device: Option<&dyn Descents>,
) -> Needs {
    let mut needs = of(op, operands, precision, device);
    let dense = operands.ranks.iter().filter(|rank| rank.is_none()).count();
    if dense == 0 {
        return needs;
    }
    let (m, n) = (operands.rows as f64, operands.columns as f64);
    let p = m.min(n);
    let directions = most_directions(p as usize);
    let factors = dense as f64 * directions as f64 * (m + n);
    let one = directions as f64;
    let of_small = if p <= RECOVERED_WHOLE as f64 { EIGEN * p * p } else { 0.0 };
    let sizes = Sizes { m, n, p, experts: dense as f64 };
    let looking = sizes.panels() + 4.0 * one * (m + n) + EIGEN * one * one + of_small;
    let mut ranks = operands.ranks.clone();
    ranks.iter_mut().for_each(|rank| *rank = Some(rank.unwrap_or(directions)));
    let of_factors = of(op, &OperandShapes { ranks, ..operands.clone() }, precision, device);
    let working = needs.prepare_bytes.max((looking * NUMBER + SMALL) as u64);
    let factors = (factors * NUMBER) as u64;
    needs.prepare_bytes = working.max(of_factors.prepare_bytes) + factors;
    needs.held_bytes = needs.held_bytes.max(of_factors.held_bytes) + factors;
    needs.rows_bytes = needs.rows_bytes.max(of_factors.rows_bytes);
    let flops = dense as f64 * (4.0 * m * n * one);
    needs.flops = needs.flops.saturating_add(flops as u64);
    needs
}

fn finished(counts: Counts, block_rows: usize, result_rank: Option<usize>) -> Needs {
    let bytes = |numbers: f64| (numbers * NUMBER + SMALL) as u64;
    Needs {
        prepare_bytes: bytes(counts.preparing + counts.held),
        held_bytes: bytes(counts.held),
        rows_bytes: bytes(counts.row * block_rows as f64),
        aside_bytes: 0,
        block_rows,
        flops: counts.flops as u64,
        result_rank,
    }
}

fn kept(rank: Rank, sizes: &Sizes) -> f64 {
    (rank.of(sizes.smaller(), sizes.experts as usize) as f64).min(sizes.p)
}

fn on_cores(op: &MatrixOp, operands: &OperandShapes, precision: Precision) -> Needs {
    let (m, n) = (operands.rows as f64, operands.columns as f64);
    let total: usize = operands.ranks.iter().flatten().sum();
    let r = total as f64;
    let dense =
        OperandShapes { rows: total, columns: total, ranks: vec![None; operands.ranks.len()] };
    let smaller = operands.rows.min(operands.columns);
    let inner = of(&at_most(op, total, smaller, operands.ranks.len()), &dense, precision, None);
    let held = r * (m + n);
    let outer = Counts {
        // The operands' factors, their stack, its transpose, the bases, and the solver's own.
        preparing: 5.0 * held + (operands.ranks.len() as f64 + 6.0) * r * r,
        held,
        row: n,
        flops: 8.0 * (m + n) * r * r + 2.0 * m * n * r,
    };
    let mut needs = finished(outer, BLOCK_ROWS, op.result_rank(operands));
    needs.prepare_bytes += inner.prepare_bytes + inner.rows_bytes;
    needs.flops = needs.flops.saturating_add(inner.flops);
    needs
}

/// The op with the ranks that it has on cores of this size: those of matrices with this smaller side.
fn at_most(op: &MatrixOp, size: usize, smaller: usize, experts: usize) -> MatrixOp {
    let whole = |rank: &mut Rank| {
        *rank = match rank.of(smaller, experts).min(size) {
            0 => Rank::Full,
            kept if kept == size => Rank::Full,
            kept => Rank::Count(kept as u32),
        };
    };
    let mut op = op.clone();
    match &mut op {
        MatrixOp::TruncatedSvd(rank) | MatrixOp::TaskSingularVectors(rank) => whole(rank),
        MatrixOp::Interference(op) => whole(&mut op.rank),
        _ => {}
    }
    op
}

fn interference(
    op: &Interference,
    operands: &OperandShapes,
    sizes: &Sizes,
    precision: Precision,
    device: Option<&dyn Descents>,
) -> Counts {
    let Sizes { m, n, p, experts } = *sizes;
    let k = kept(op.rank, sizes);
    let truncated = u8::from(op.targets == Targets::Truncated || op.rows == Rows::Truncated);
    let centered = u8::from(op.targets == Targets::Centered || op.rows == Rows::Centered);
    let spectra = experts * f64::from(truncated + centered);
    let one = sizes.truncation(k);
    let mut counts = Counts::default();
    let is_literal = matches!(op.solver, Solver::Literal(_));
    // The right side of such targets is what S has of it.
    let is_shared = sizes.is_left()
        && !is_literal
        && matches!(
            (op.targets, op.rows),
            (Targets::Truncated, Rows::Truncated) | (Targets::Centered, Rows::Centered)
        );
    if spectra > 0.0 {
        counts.preparing += one.preparing + one.held;
        counts.flops += spectra * one.flops;
        if op.targets != Targets::Whole {
            counts.held += experts * if is_shared { k * m } else { one.held };
        }
    }
    let (rank, is_stacked) = descended::stack(op, operands);
    // Rows: X_0, the residual, the displacement, two targets, the mean, a block that is read.
    counts.row = 8.0 * n + k + 4.0 * if is_stacked { rank } else { n };
    counts.flops += 8.0 * m * n * k * experts;
    if let Solver::Literal(optimizer) = op.solver {
        let inputs = experts * if op.rows == Rows::Whole { m } else { k };
        counts.held += inputs * n;
        counts.preparing += 2.0 * inputs * n;
        if let Optimizer::Sgd(sgd) = optimizer
            && check_stable(&sgd, experts).is_err()
        {
            counts.preparing += (EIGEN + 1.0) * n * n;
        }
        counts.row += (experts + 4.0) * n + m.max(k);
        counts.flops += 4.0 * m * n * inputs * f64::from(steps(optimizer));
        return counts;
    }
    if super::interference::reads_again(
        op,
        (operands.rows, operands.columns),
        &operands.ranks,
        precision,
    ) {
        return match op.solver {
            Solver::Filter(..) => dual_by_rows(sizes),
            _ => read_again(op, sizes, rank, device.is_some()),
        };
    }
    if is_stacked {
        counts.held += rank * n;
        // What one expert brings to the stack, as it is and multiplied by its weight.
        let largest = operands.ranks.iter().map(|rank| rank.map_or(m, |rank| rank as f64).min(p));
        let brought = if op.rows == Rows::Whole { largest.fold(0.0, f64::max) } else { k };
        let panels = if spectra > 0.0 { 0.0 } else { sizes.panels() };
        counts.preparing += 2.0 * brought * (m + n) + panels;
        counts.flops += 8.0 * m * n * rank;
    } else {
        let pull = if sizes.is_left() { m * n + m } else { experts * n * n };
        counts.held += n * n + pull;
        let one = if sizes.is_left() { 3.0 * p * n + p * p } else { n * n };
        counts.preparing += one + sizes.panels();
        counts.flops += experts * 4.0 * m * n * n + 4.0 * m * n * n;
    }
    match op.solver {
        Solver::Filter(filter, cut) if is_stacked && rank < n && m <= rank => {
            // With experts that vanish there may be more rows than directions after all.
            let has_directions = !matches!(filter, Filter::Sgd(_)) || looks_at_energies(&cut);
            let directions = if has_directions { 3.0 * m * n } else { 0.0 };
            let fewer = (EIGEN + 1.0) * m * m + directions;
            let reading = (PANEL as f64).min(m) * (rank + 5.0 * n);
            let solving = few_rows(&filter, &cut, m, rank) + reading;
            counts.preparing = counts.preparing.max(solving).max(fewer);
            counts.held += m * rank + 2.0 * m;
            counts.flops += 4.0 * rank * rank * rank + 8.0 * m * rank * rank + rank * rank * n;
        }
        Solver::Filter(filter, cut) => {
            let size = if is_stacked { rank.min(n) } else { n };
            // What was needed to make the system is gone before the eigenproblem begins, and its
            // workspace before q is composed. Directions are brought to all columns only to be measured, or
            // where q has a floor: below it they are held.
            let before = counts.preparing + counts.held;
            let has_directions = !matches!(filter, Filter::Sgd(_)) || looks_at_energies(&cut);
            let directions = if has_directions { n * n.min(rank) } else { 0.0 };
            // G, which is held anyway, is what the solver is given; K is made for it.
            let solving = counts.held + (EIGEN - if is_stacked { 0.0 } else { 1.0 }) * size * size;
            let map = if is_stacked && rank >= n { rank * n } else { size * size };
            // Eigenvectors, and what is composed of a copy of them.
            let composing = match is_stacked {
                true => counts.held + map + 4.0 * size * size + 2.0 * directions,
                false => counts.held + map + size * size + (size * size).max(directions),
            };
            counts.held += map + directions;
            counts.preparing = before.max(solving).max(composing).max(counts.held) - counts.held;
            if is_stacked {
                counts.row += size;
            }
            counts.flops += 9.0 * size * size * size + 2.0 * size * size * n;
        }
        Solver::Adam(adam) => {
            let precision = iterations(&adam, (operands.rows, operands.columns), precision);
            let form = descended::form(op, operands);
            let is_gram = matches!(form, Form::Gram { .. });
            let kernel = if is_gram { n * n } else { rank * n };
            let is_here = device.is_none();
            // The kernel is made when all that makes the stack is gone.
            let before = counts.preparing + counts.held;
            counts.held += match precision {
                Precision::Single if is_here => {
                    System::bytes(Features::best(), form) as f64 / NUMBER
                }
                Precision::Single => SINGLE * kernel,
                // Only G of a stack is formed; otherwise the system has what is needed.
                Precision::Double if is_stacked && is_gram => kernel,
                Precision::Double => 0.0,
            };
            // G in f64 beside S, before the kernel has it in f32.
            let gram = if is_stacked && is_gram { n * n } else { 0.0 };
            // A device gets a copy.
            let copied = if is_here { 0.0 } else { SINGLE * kernel };
            counts.preparing = (before - counts.held).max(gram + copied);
            counts.row += match precision {
                Precision::Single if !is_here => 2.0 * n,
                // The offset and the displacement in f32, and what a block descends in.
                Precision::Single => {
                    let block = Scratch::bytes(Features::best(), form, ADAM_ROWS);
                    n + block as f64 / NUMBER / ADAM_ROWS as f64
                }
                Precision::Double => 5.0 * n + if is_gram { 0.0 } else { rank },
            };
            let step = if is_gram { 2.0 * n * n } else { 4.0 * n * rank };
            counts.flops += f64::from(adam.steps) * m * (step + 12.0 * n);
        }
        Solver::Literal(_) => {}
    }
    counts
}

/// What a device needs for an op's descent; none where it does not run there.
fn on_device(
    op: &Interference,
    operands: &OperandShapes,
    precision: Precision,
    device: &dyn Descents,
) -> Option<DescentNeeds> {
    let op = MatrixOp::Interference(op.clone());
    let descent = descended::of(&op, operands, precision)?.ok()?;
    device.needs(descent.shape).ok()
}

/// With blocks as large as a device wants them: for all of their rows the residual, the offset and the
/// displacement in f32, and what a copy goes through; the rest for as many as the processor takes at a time.
fn beside_device(
    counts: Counts,
    op: &Interference,
    operands: &OperandShapes,
    needs: DescentNeeds,
) -> Counts {
    let n = operands.columns as f64;
    let (rank, is_stacked) = descended::stack(op, operands);
    let residual = if is_stacked { rank } else { n };
    let rows = descended::block_rows(needs.block_rows, operands.rows) as f64;
    let shared = counts.row * ADAM_ROWS as f64 + needs.host_bytes as f64 / NUMBER;
    Counts { row: residual + 2.0 * SINGLE * n + shared / rows, ..counts }
}

/// Adam over a stack that is read again: G in f32 alone, whose blocks are summed in f64; and for a row X_0, what
/// it is away from a target, the offset, the displacement, and the residual, beside a panel of the stack.
fn read_again(op: &Interference, sizes: &Sizes, rank: f64, is_on_device: bool) -> Counts {
    let Sizes { m, n, experts, .. } = *sizes;
    let form = Form::Gram { n: n as usize };
    let panel = (PANEL as f64).min(m) * n;
    let block = Scratch::bytes(Features::best(), form, ADAM_ROWS) as f64 / NUMBER;
    let Solver::Adam(adam) = &op.solver else { return Counts::default() };
    let (held, copied) = match is_on_device {
        true => (SINGLE * n * n, SINGLE * n * n),
        false => (System::bytes(Features::best(), form) as f64 / NUMBER, 0.0),
    };
    Counts {
        preparing: (GRAM_COLUMNS as f64).min(n) * n + 2.0 * panel + 4.0 * n + copied,
        held,
        row: 6.0 * n + rank + PANEL as f64 + (panel + block) / ADAM_ROWS as f64 + n,
        flops: experts * m * n * n
            + 8.0 * m * n * rank
            + f64::from(adam.steps) * m * (2.0 * n * n + 12.0 * n),
    }
}

/// A filter over a stack that is read again: K once, its band and what it is turned with, or blocks of rows of S
/// while it is made; for a row X_0, what it is away from a target, the displacement, and of all directions the
/// residual, what becomes of it, and what is left of it, beside a panel of the stack and some shifted inverses.
fn dual_by_rows(sizes: &Sizes) -> Counts {
    let Sizes { m, n, experts, .. } = *sizes;
    let rank = experts * m;
    let triangle = stored_lower(rank as usize) as f64;
    let sweeps = (stored_reflections(rank as usize) as f64) - triangle;
    let is_aside = aside_bytes(rank as usize) > 0;
    let rows = (BLOCK_ROWS as f64).min(m);
    let together = (GRAM_ROWS as f64).min(rank);
    let panel = (PANEL as f64).min(m);
    let inverses = (TERMS * (TERM + 1) + 6 * PAIR_PANEL / 16) as f64 * rank;
    let turning = (BESIDE + 160) as f64 * rank;
    let row = 4.0 * n + 4.0 * rank + panel;
    Counts {
        preparing: (2.0 * together * n).max(BESIDE as f64 * rank)
            + if is_aside { triangle } else { 0.0 },
        held: 4.0 * rank + if is_aside { 0.0 } else { triangle + sweeps },
        row: row + (2.0 * panel * n + inverses.max(turning)) / rows,
        flops: rank * rank * n
            + 1.4 * rank * rank * rank
            + m * (4.0 * n * rank + 9.0 * rank * rank),
    }
}

/// What is held where all rows are solved for at once: K, whose place its reduction takes, and the
/// transposed residual; then what becomes of it, H, and a copy of either. Where eigenvectors of the
/// tridiagonal form are needed, beside K these and the solver's own.
fn few_rows(filter: &Filter, cut: &Cut, m: f64, rank: f64) -> f64 {
    let over_inverses = rank * rank + 4.0 * m * rank + (TERMS * TERM + BESIDE) as f64 * rank;
    if smooth(filter).is_some() && !looks_at_energies(cut) {
        return over_inverses;
    }
    over_inverses.max(EIGEN * rank * rank + m * rank).max(2.0 * rank * rank + 6.0 * m * rank)
}

fn steps(optimizer: Optimizer) -> u32 {
    match optimizer {
        Optimizer::Adam(adam) => adam.steps,
        Optimizer::Sgd(sgd) => sgd.steps,
    }
}

fn common_basis(sizes: &Sizes) -> Counts {
    let Sizes { m, n, experts, .. } = *sizes;
    let all = experts * n;
    let size = m.min(all);
    let panel = PANEL as f64;
    // A block of directions, what operands are in them, and a panel that is read.
    let row = m + 2.0 * all + panel * (n + BASIS_ROWS as f64) / BASIS_ROWS as f64;
    Counts {
        preparing: sizes.panels() + panel * all + EIGEN * size * size,
        held: size * size,
        row,
        flops: m * all * size + 9.0 * size * size * size + 2.0 * m * all * size,
    }
}

fn shared_shift(doge: &Doge, sizes: &Sizes, precision: Precision) -> Counts {
    let Sizes { m, n, p, experts } = *sizes;
    let of_each = (p / experts).floor();
    let rank = (p / f64::from(doge.subspace_divisor)).floor();
    let width = if precision == Precision::Single { 4 } else { 8 };
    let held = match holds(experts as usize, m as usize, n as usize, width) {
        true => experts * m * n * width as f64 / NUMBER,
        false => 0.0,
    };
    // Δ and Adam's moments; what the gradient and the next one have in the subspace; a block of rows.
    let block = (SHIFT_ROWS as f64).min(m) * n * (experts + 2.0) + 2.0 * n;
    let descending = held + 3.0 * m * n + 2.0 * rank * n + rank * m + experts * m + block;
    let mut counts = Counts {
        preparing: descending - m * n,
        held: m * n,
        row: 0.0,
        flops: f64::from(doge.steps) * m * n * (8.0 * experts + 4.0 * rank + 12.0),
    };
    if rank > 0.0 {
        let one = sizes.truncation(of_each);
        let all = of_each * experts;
        let stacking = one.preparing + one.held + of_each * m + all * m;
        let deciding = (EIGEN + 1.0) * all * all + (all + 2.0 * rank) * m;
        counts.preparing = counts.preparing.max(stacking - m * n).max(deciding - m * n);
        counts.flops += experts * one.flops;
    }
    counts
}
