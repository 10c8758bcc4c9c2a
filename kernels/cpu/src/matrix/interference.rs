//! The interference objective `L(X) = Σ_i w_i ‖(X − A_i)·B_iᵀ‖²` and its solvers: WUDI, OptMerge, SWUDI,
//! ASWUDI.
//!
//! All of them need only S, the stack of `√w_i·B_i`, and rows of `H = [√w_i·A_i·B_iᵀ]`, or `G = Sᵀ·S` and
//! rows of `C = H·S`. Neither X* nor an inverse is formed; nothing is divided by a singular value.

pub(super) mod cut;
mod dual;
pub(super) mod dual_by_rows;
pub(super) mod experts;
pub(super) mod filter;
pub(super) mod partial;
pub(super) mod solvers;
pub(super) mod system;

use std::borrow::Cow;
use std::sync::Arc;

use mixdown_ops::Precision;
use mixdown_ops::descent::{Curvature, Descent, Descents};
use mixdown_ops::matrix::interference::{
    Cut, Filter, Init, Interference, Optimizer, Rows, Solver, Targets,
};
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Rank, Report, Stop};

use super::adam;
use super::dense::{append_rows, product, row_gram, scale_rows, view, zeros};
use super::eigen::{Eigen, compose, eigen};
use super::product::Sum;
use super::rows::{Blend, PANEL, panels, squared_norms};
use super::truncated_svd::notes;
use super::truncation::{CutAt, Truncation};
use crate::features::Features;
use cut::{Energies, FLOOR};
use experts::{Expert, Experts, Target};
use solvers::{AdamRows, Filtered, Kernel, Literal};
use system::System;

/// Below this, the released code of SWUDI takes ‖τ‖² as 0.
const LEAST_NORM: f64 = 1e-12;

/// Minimizes the objective from X_0.
///
/// **Shapes.** N operands `m × n`; the result has their shape. `shape` is that of the matrices for which
/// ranks are meant, where the operands are cores of them.
/// **Numerics.** f64, but for Adam's iterations on large matrices, in the arithmetic's type. Zero experts are
/// dropped from the objective and count in the mean. Eigenvalues that are rounding noise (below ε·n·λ_1)
/// are left alone. Rows of truncated directions below about 1e-7·σ_1 are left out of S.
/// **Errors.** SGD with a step that diverges; NaN or infinity.
/// **Source.** Cheng et al. 2025 (WUDI); Wei et al. 2025 (OptMerge), equation 3 and §4.2; the released
/// code of SWUDI and ASWUDI for filters, cuts and the floor of eigenvalues at 1e-8.
pub(crate) fn prepare(
    op: &Interference,
    operands: &mut dyn Operands,
    shape: (usize, usize),
    (precision, device): (Precision, Option<&dyn Descents>),
) -> Result<Box<dyn Prepared>, Stop> {
    let count = operands.count();
    let norms = squared_norms(operands, count)?;
    let mean = Blend::each(count, 1.0 / count as f64);
    let init = match op.init {
        Init::Sum => Blend::each(count, 1.0),
        Init::Mean => mean.clone(),
        Init::Zero => Blend::each(count, 0.0),
    };
    let largest = norms.iter().copied().fold(0.0, f64::max);
    let has_floor =
        matches!(&op.solver, Solver::Filter(filter, _) if !matches!(filter, Filter::Sgd(_)));
    if largest == 0.0 || (has_floor && largest < LEAST_NORM) {
        return Ok(mean_of_all(mean, "all task vectors are zero; the result is their mean"));
    }
    let is_truncated = op.targets != Targets::Whole || op.rows != Rows::Whole;
    let rank = op.rank.of(shape.0.min(shape.1), count);
    if is_truncated && rank == 0 && op.rank == Rank::Literal {
        if op.rows == Rows::Whole {
            let headline = format!("a literal rank keeps no direction of {count} experts here");
            let help = "use `rank: 1/n`, or a rule with another method for these tensors";
            return Err(Stop::Refused(headline, help.to_owned()));
        }
        // There is no gradient without rows.
        let note = format!(
            "there are more experts ({count}) than the smaller side is long, so that none keeps a \
             direction; the descent stays where it starts"
        );
        return Ok(mean_of_all(init, &note));
    }
    if is_truncated && rank == 0 {
        let note = format!(
            "there are more experts ({count}) than the smaller side is long, so that none keeps a \
             direction; the result is their mean"
        );
        return Ok(mean_of_all(mean, &note));
    }
    let norms: Vec<(usize, f64)> = norms
        .into_iter()
        .enumerate()
        .filter(|(_, norm)| *norm > 0.0 && (1.0 / norm).is_finite())
        .map(|(operand, norm)| (operand, if has_floor { norm.max(LEAST_NORM) } else { norm }))
        .collect();
    if norms.is_empty() {
        return Ok(mean_of_all(mean, "all task vectors vanish; the result is their mean"));
    }
    let mut report = Report { loss: Some((0.0, 0.0)), ..Report::default() };
    if norms.len() < count {
        report.notes.push(format!("{} of {count} task vectors are zero", count - norms.len()));
    }
    let ranks: Vec<Option<usize>> = (0..count).map(|operand| operands.rank(operand)).collect();
    let reads_again = reads_again(op, operands.shape(0), &ranks, precision);
    let setup = Setup { op, rank, init, mean, reads_again };
    let (experts, inputs) = setup.experts(operands, &norms, &mut report)?;
    match &op.solver {
        Solver::Filter(filter, cut) if reads_again => {
            let way = dual::Way { filter, cut, shape, has_whole_rows: true };
            Ok(Box::new(dual_by_rows::prepare(&way, experts, operands, report)?))
        }
        Solver::Filter(filter, cut) => {
            let system = system(&experts, inputs, operands, &mut report)?;
            let whole = op.rows == Rows::Whole;
            filtered((filter, cut), experts, system, operands, shape, whole, report)
        }
        Solver::Adam(adam) if reads_again => {
            let gram = |first, count| {
                Ok::<_, Stop>(system::gram_block(&experts, operands, first, count)?.values)
            };
            let (n, features) = (experts.columns, Features::best());
            let kernel = match device {
                None => {
                    Kernel::Single(adam::System::gram_by_blocks(features, n, GRAM_COLUMNS, gram)?)
                }
                Some(device) => {
                    let gram = adam::gram_by_blocks(n, GRAM_COLUMNS, gram)?;
                    Kernel::Device(device.begin(Curvature::Gram { gram: &gram, n })?)
                }
            };
            let system = System::Read;
            Ok(Box::new(AdamRows::new(experts, system, kernel, *adam, report)))
        }
        Solver::Adam(adam) => {
            let system = system(&experts, inputs, operands, &mut report)?;
            let iterations = solvers::iterations(adam, operands.shape(0), precision);
            let kernel = match (iterations, device) {
                (Precision::Single, Some(device)) => {
                    Kernel::Device(begin(&system, experts.columns, device)?)
                }
                _ => kernel(&system, experts.columns, iterations),
            };
            Ok(Box::new(AdamRows::new(experts, system, kernel, *adam, report)))
        }
        Solver::Literal(optimizer) => {
            let mut all = Vec::new();
            let separate = match inputs {
                Inputs::Separate(separate) => separate,
                Inputs::Stacked(..) | Inputs::None => Vec::new(),
            };
            for (expert, inputs) in experts.experts.iter().zip(separate) {
                all.push(match inputs {
                    Some(mut inputs) => {
                        scale_rows(&mut inputs, |_| 1.0 / expert.weight.sqrt());
                        inputs
                    }
                    None => {
                        let rows = operands.shape(0).0;
                        Blend::one(expert.operand).block(operands, 0, rows)?
                    }
                });
            }
            if let Optimizer::Sgd(sgd) = optimizer {
                // λ_max is at most the count of experts.
                let bound = experts.experts.len() as f64;
                if filter::check_stable(sgd, bound).is_err() {
                    let spectrum = eigen(&solvers::gram_of(&experts, &all))?;
                    filter::check_stable(sgd, spectrum.values[0])?;
                }
            }
            Ok(Box::new(Literal { experts, inputs: all, optimizer: *optimizer, report }))
        }
    }
}

fn mean_of_all(mean: Blend, note: &str) -> Box<dyn Prepared> {
    let report =
        Report { loss: Some((0.0, 0.0)), notes: vec![note.to_owned()], ..Report::default() };
    Box::new(Sum { blend: mean, report })
}

/// Columns of G that are summed at a time where S is read again for each of them: in f64, 78 MB of G of a down
/// projection of a 7B model.
pub(super) const GRAM_COLUMNS: usize = 512;

/// Whether S is neither held nor multiplied out, but read again: of whole task vectors that have fewer rows together
/// than columns. For Adam only large ones, of which G is held in the type of the iterations alone then; for filters
/// where they need no eigenvectors.
pub(super) fn reads_again(
    op: &Interference,
    (rows, columns): (usize, usize),
    ranks: &[Option<usize>],
    precision: Precision,
) -> bool {
    let total = ranks.len() * rows.min(columns);
    let is_whole = op.targets == Targets::Whole && op.rows == Rows::Whole;
    let has_few_rows = is_whole && rows <= columns && total < columns;
    has_few_rows
        && match &op.solver {
            Solver::Adam(adam) => {
                ranks.iter().all(Option::is_none)
                    // Otherwise S is smaller than G, and two products with it cost less than one.
                    && columns <= 2 * total
                    && solvers::iterations(adam, (rows, columns), precision) == Precision::Single
            }
            Solver::Filter(filter, cut) => {
                ranks.iter().any(Option::is_none)
                    && filter::smooth(filter).is_some()
                    && !cut::looks_at_energies(cut)
            }
            Solver::Literal(_) => false,
        }
}

/// `√w_i·B_i`.
enum Inputs {
    /// All of them, and which rows are each expert's.
    Stacked(Matrix, Vec<std::ops::Range<usize>>),
    /// One by one, for the loop as written: none where it is a whole τ_i.
    Separate(Vec<Option<Matrix>>),
    /// Whole τ_i that nobody needs at once.
    None,
}

/// What experts are made from.
struct Setup<'a> {
    op: &'a Interference,
    rank: usize,
    init: Blend,
    mean: Blend,
    reads_again: bool,
}

impl Setup<'_> {
    /// The experts, and `√w_i·B_i` of each.
    fn experts(
        self,
        operands: &mut dyn Operands,
        norms: &[(usize, f64)],
        report: &mut Report,
    ) -> Result<(Experts, Inputs), Stop> {
        let Self { op, rank, init, mean, reads_again } = self;
        let is_literal = matches!(op.solver, Solver::Literal(_));
        let (rows, columns) = operands.shape(0);
        let count = operands.count();
        let size = |operand: usize| operands.rank(operand).unwrap_or(rows).min(rows).min(columns);
        let total: usize = norms.iter().map(|&(operand, _)| size(operand)).sum();
        let holds_rows = !is_literal && !reads_again && rows <= columns && total < columns;
        let (mut experts, mut separate, mut cuts) = (Vec::new(), Vec::new(), Vec::new());
        let (mut stack, mut ranges) = (zeros(0, columns), Vec::new());
        if !is_literal && (holds_rows || op.rows != Rows::Whole) {
            // All at once: a stack that grows is there twice.
            let most = if op.rows == Rows::Whole { total } else { norms.len() * rank };
            stack.values.reserve_exact(most * columns);
        }
        for &(operand, norm) in norms {
            let weight = 1.0 / norm;
            let mut cut = |blend: &Blend, operands: &mut dyn Operands| {
                let (truncation, at) = Truncation::of(operands, blend, rank, op.snap)?;
                cuts.push(at);
                Ok::<_, Stop>(Arc::new(truncation))
            };
            let is_plain = op.targets == Targets::Truncated || op.rows == Rows::Truncated;
            let is_centered = op.targets == Targets::Centered || op.rows == Rows::Centered;
            let plain = if is_plain { Some(cut(&Blend::one(operand), operands)?) } else { None };
            let centered = match is_centered {
                true => Some(cut(&Blend::centered(operand, count), operands)?),
                false => None,
            };
            let chosen = match op.rows {
                Rows::Whole => None,
                Rows::Truncated => plain.clone(),
                Rows::Centered => centered.clone(),
            };
            let inputs = match chosen {
                Some(truncation) => Some(truncation.scaled_rows(weight.sqrt())),
                None if holds_rows && operands.rank(operand).is_some() => {
                    let (all, _) =
                        Truncation::of(operands, &Blend::one(operand), usize::MAX, false)?;
                    Some(all.scaled_rows(weight.sqrt()))
                }
                None if holds_rows => {
                    let mut whole = Blend::one(operand).block(operands, 0, rows)?;
                    scale_rows(&mut whole, |_| weight.sqrt());
                    Some(whole)
                }
                None => None,
            };
            let target = match (op.targets, plain, centered) {
                (Targets::Truncated, Some(plain), _) => Target::Truncated(plain),
                (Targets::Centered, _, Some(centered)) => Target::Centered(centered),
                _ => Target::Whole,
            };
            let first_row = stack.rows;
            match inputs {
                Some(inputs) if !is_literal => {
                    ranges.push(first_row..first_row + inputs.rows);
                    append_rows(&mut stack, &inputs);
                }
                inputs => separate.push(inputs),
            }
            let target = match (target, op.rows) {
                (Target::Truncated(one), Rows::Truncated) if !is_literal => {
                    stacked(one, first_row, weight, false)
                }
                (Target::Centered(one), Rows::Centered) if !is_literal => {
                    stacked(one, first_row, weight, true)
                }
                (target, _) => target,
            };
            experts.push(Expert { operand, weight, target });
        }
        summarize(&cuts, report);
        let inputs = match (is_literal, ranges.is_empty()) {
            (true, _) => Inputs::Separate(separate),
            (false, false) => Inputs::Stacked(stack, ranges),
            (false, true) => Inputs::None,
        };
        Ok((Experts { experts, init, mean, columns }, inputs))
    }
}

/// A target whose right side is what S has of it.
fn stacked(one: Arc<Truncation>, first_row: usize, weight: f64, is_centered: bool) -> Target {
    match Arc::try_unwrap(one) {
        Ok(Truncation::Left { mut left, right }) => {
            scale_rows(&mut left, |_| 1.0 / weight.sqrt());
            Target::Stacked { left, first_row, rank: right.rows, is_centered }
        }
        Ok(other) if is_centered => Target::Centered(Arc::new(other)),
        Ok(other) => Target::Truncated(Arc::new(other)),
        Err(shared) if is_centered => Target::Centered(shared),
        Err(shared) => Target::Truncated(shared),
    }
}

fn summarize(cuts: &[CutAt], report: &mut Report) {
    report.ranks = cuts.iter().map(|cut| cut.rank).collect();
    report.gap = cuts.iter().filter_map(|cut| cut.gap).min_by(f64::total_cmp);
    report.notes.extend(notes(cuts));
}

fn system(
    experts: &Experts,
    inputs: Inputs,
    operands: &mut dyn Operands,
    report: &mut Report,
) -> Result<System, Stop> {
    if let Inputs::Stacked(stack, ranges) = inputs {
        return Ok(System::Stacked { stack, ranges });
    }
    let system = System::whole(experts, operands)?;
    report.loss = Some((system.constant(), system.constant()));
    Ok(system)
}

/// Hands a device what [`kernel`] would pack.
fn begin(system: &System, n: usize, device: &dyn Descents) -> Result<Box<dyn Descent>, Stop> {
    let single = |matrix: &Matrix| matrix.values.iter().map(|&value| value as f32).collect();
    match system {
        System::Stacked { stack, .. } if n > 2 * stack.rows => {
            let numbers: Vec<f32> = single(stack);
            device.begin(Curvature::Factored { stack: &numbers, r: stack.rows, n })
        }
        System::Grams { gram, .. } => {
            let gram: Vec<f32> = single(gram);
            device.begin(Curvature::Gram { gram: &gram, n })
        }
        System::Stacked { .. } | System::Read => {
            let gram: Vec<f32> = single(&system.gram());
            device.begin(Curvature::Gram { gram: &gram, n })
        }
    }
}

/// G where one product with it costs no more than two with S: `n ≤ 2R`.
fn kernel(system: &System, columns: usize, precision: Precision) -> Kernel {
    let features = Features::best();
    match (precision, system) {
        (Precision::Single, System::Stacked { stack, .. }) if columns > 2 * stack.rows => {
            let at = |row: usize, column: usize| stack.values[row * columns + column] as f32;
            Kernel::Single(adam::System::factored_from(features, stack.rows, columns, at))
        }
        (Precision::Single, System::Grams { gram, .. }) => {
            let at = |row: usize, column: usize| gram.values[row * columns + column] as f32;
            Kernel::Single(adam::System::gram_from(features, columns, at))
        }
        (Precision::Single, system) => {
            let gram = system.gram();
            let at = |row: usize, column: usize| gram.values[row * columns + column] as f32;
            Kernel::Single(adam::System::gram_from(features, columns, at))
        }
        (Precision::Double, System::Stacked { stack, .. }) if columns <= 2 * stack.rows => {
            Kernel::Double(Some(system.gram()))
        }
        (Precision::Double, _) => Kernel::Double(None),
    }
}

/// The eigenproblem of the smaller of `K = S·Sᵀ` and G, and q on it.
fn filtered(
    (filter, cut): (&Filter, &Cut),
    experts: Experts,
    system: System,
    operands: &mut dyn Operands,
    shape: (usize, usize),
    has_whole_rows: bool,
    mut report: Report,
) -> Result<Box<dyn Prepared>, Stop> {
    let columns = experts.columns;
    let is_dual = matches!(&system, System::Stacked { stack, .. } if stack.rows < columns);
    let few_rows =
        matches!(&system, System::Stacked { stack, .. } if operands.shape(0).0 <= stack.rows);
    if is_dual && few_rows {
        let way = dual::Way { filter, cut, shape, has_whole_rows };
        return Ok(Box::new(dual::prepare(&way, experts, system, operands, report)?));
    }
    let Eigen { values, vectors } = match &system {
        System::Stacked { stack, .. } if is_dual => eigen(&row_gram(view(stack)))?,
        System::Grams { gram, .. } => eigen(gram)?,
        system => eigen(&system.gram())?,
    };
    if let Filter::Sgd(sgd) = filter {
        filter::check_stable(sgd, values.first().copied().unwrap_or(0.0))?;
    }
    let mut clamped: Vec<f64> = values.iter().map(|value| value.max(FLOOR)).collect();
    clamped.resize(shape.1.max(values.len()), FLOOR);
    // Eigenvectors of G as rows.
    let directions =
        || match &system {
            System::Stacked { stack, .. } if is_dual => {
                let mut rows = product(view(&vectors), view(stack));
                let largest = values.first().copied().unwrap_or(0.0);
                let least = largest * f64::EPSILON * columns as f64;
                scale_rows(&mut rows, |row| {
                    if values[row] > least { 1.0 / values[row].sqrt() } else { 0.0 }
                });
                Cow::Owned(rows)
            }
            _ => Cow::Borrowed(&vectors),
        };
    let mut energies = Energies::default();
    if cut::looks_at_energies(cut) {
        energies = measure(&experts, &system, operands, &directions())?;
        energies.pull.resize(clamped.len(), 0.0);
        energies.init.resize(clamped.len(), 0.0);
    }
    let kept = cut::count(cut, &clamped, shape, &energies);
    let treatment = filter::treat(filter, &values, &clamped, kept, has_whole_rows);
    let core = compose(&vectors, &treatment.factors);
    let map = match &system {
        System::Stacked { stack, .. } if !is_dual => product(view(stack), view(&core)),
        _ => core,
    };
    let mut slivers = (zeros(0, columns), Vec::new());
    if !treatment.slivers.is_empty() {
        let directions = directions();
        for (index, share) in treatment.slivers {
            let row = &directions.values[index * columns..(index + 1) * columns];
            slivers.0.values.extend_from_slice(row);
            slivers.0.rows += 1;
            slivers.1.push(share);
        }
    }
    if !matches!(cut, Cut::None) {
        report.ranks.push(kept);
    }
    Ok(Box::new(Filtered { experts, system, map, is_along_stack: is_dual, slivers, report }))
}

/// ‖C·v‖² and ‖X_0·v‖² of each direction.
fn measure(
    experts: &Experts,
    system: &System,
    operands: &mut dyn Operands,
    directions: &Matrix,
) -> Result<Energies, Stop> {
    let along = match system {
        System::Stacked { stack, .. } => product(view(stack), view(directions).transpose()),
        System::Grams { .. } | System::Read => super::dense::transposed(directions),
    };
    let mut energies =
        Energies { pull: vec![0.0; directions.rows], init: vec![0.0; directions.rows] };
    let add = |energy: &mut [f64], block: &Matrix| {
        for row in block.values.chunks_exact(directions.rows.max(1)) {
            energy.iter_mut().zip(row).for_each(|(energy, value)| *energy += value * value);
        }
    };
    for (first, rows) in panels(operands.shape(0).0, PANEL) {
        let (pull, _) = system.pull(experts, operands, first, rows)?;
        add(&mut energies.pull, &product(view(&pull), view(&along)));
        let init = experts.init_block(operands, first, rows)?;
        add(&mut energies.init, &product(view(&init), view(directions).transpose()));
    }
    Ok(energies)
}
