//! The solvers, row by row: the filter in closed form, Adam, and the literal loop.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use faer::MatMut;
use mixdown_ops::Precision;
use mixdown_ops::descent::Descent;
use mixdown_ops::matrix::interference::{self, Optimizer};
use mixdown_ops::matrix::{Matrix, Operands, Point, Prepared, Report, Stop};

use super::super::adam::{self, Scratch};
use super::super::adam_double::{self, Curvature, Moments};
use super::super::dense::{
    accumulate, add_product, add_scaled, check_finite, dot, product, squared_norm, view, zeros,
};
use super::super::product::{BLOCK_ROWS, in_blocks};
use super::experts::Experts;
use super::system::System;

/// Rows of a block of Adam, which goes through all steps while it stays in cache.
pub(crate) const ADAM_ROWS: usize = adam::BLOCK_ROWS;

/// Operations of all steps of Adam up to which they are in f64 whatever the arithmetic is: a fraction of
/// a second, of which f32 would save half.
const DOUBLE_OPERATIONS: f64 = 2e9;

/// The type of Adam's iterations on a matrix with these sides.
///
/// With a large rate Adam reaches the minimum and goes on with steps of the size of its rate, since it
/// divides what is left of the gradient by its own size; the rounding of f32 then shows in the result.
/// At the rates of the papers it does not, and on large matrices f32 takes half as long.
pub(crate) fn iterations(
    adam: &interference::Adam,
    (rows, columns): (usize, usize),
    precision: Precision,
) -> Precision {
    let (rows, columns) = (rows as f64, columns as f64);
    match 2.0 * rows * columns * columns * f64::from(adam.steps) <= DOUBLE_OPERATIONS {
        true => Precision::Double,
        false => precision,
    }
}

/// `X = X_0 − (X_0·Sᵀ − H)·map`, and for G the same with `X_0·G − C`.
#[derive(Debug)]
pub(crate) struct Filtered {
    pub experts: Experts,
    pub system: System,
    pub map: Matrix,
    /// Whether the map's result is along S, by which it is multiplied then.
    pub is_along_stack: bool,
    /// Directions as rows, from which these shares of X_0 are removed as well.
    pub slivers: (Matrix, Vec<f64>),
    pub report: Report,
}

impl Prepared for Filtered {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let columns = self.experts.columns;
        in_blocks(columns, BLOCK_ROWS, first_row, values, |first, rows, values| {
            let init = self.experts.init_block(operands, first, rows)?;
            let residual = self.system.residual(&self.experts, operands, &init, first)?;
            let mut displacement = zeros(rows, columns);
            match &self.system {
                System::Stacked { stack, .. } if self.is_along_stack => {
                    let along = product(view(&residual.values), view(&self.map));
                    accumulate(&mut displacement, -1.0, view(&along), view(stack));
                }
                _ => accumulate(&mut displacement, -1.0, view(&residual.values), view(&self.map)),
            }
            let (directions, shares) = &self.slivers;
            if directions.rows > 0 {
                let mut along = product(view(&init), view(directions).transpose());
                for row in along.values.chunks_exact_mut(directions.rows) {
                    row.iter_mut().zip(shares).for_each(|(value, share)| *value *= share);
                }
                accumulate(&mut displacement, -1.0, view(&along), view(directions));
            }
            finish(&init, &displacement, values)?;
            let after =
                self.system.loss_after(&self.experts, operands, &residual, &displacement)?;
            Ok((residual.loss, after))
        })
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}

/// What multiplies the displacement, in the type of the iterations.
#[derive(Debug)]
pub(crate) enum Kernel {
    Single(adam::System),
    /// With G formed, where it is not the system's own.
    Double(Option<Matrix>),
    /// In f32, on a device.
    Device(Box<dyn Descent>),
}

/// Adam in displacement form.
#[derive(Debug)]
pub(crate) struct AdamRows {
    pub experts: Experts,
    pub system: System,
    pub kernel: Kernel,
    pub adam: interference::Adam,
    pub report: Report,
    pub curves: Curves,
}

impl AdamRows {
    /// Rows on a device: more than the processor takes at a time, so that it has enough to do. What the
    /// processor computes of them is the same as in blocks of its own.
    fn rows_there(
        &self,
        device: &dyn Descent,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let columns = self.experts.columns;
        let (mut offsets, mut residuals) = (Vec::with_capacity(values.len()), Vec::new());
        in_blocks(columns, ADAM_ROWS, first_row, values, |first, rows, values| {
            let init = self.experts.init_block(operands, first, rows)?;
            let mut residual = self.system.residual(&self.experts, operands, &init, first)?;
            let mut offset = self.system.offset(&mut residual);
            self.keep_still(&init, &mut offset);
            offsets.extend(offset.values.iter().map(|&value| value as f32));
            values.copy_from_slice(&init.values);
            residuals.push(residual);
            Ok((0.0, 0.0))
        })?;
        let mut moved = vec![0.0; offsets.len()];
        let (rate, steps) = (self.adam.learning_rate.get(), self.adam.steps);
        let all = values.len() / columns.max(1);
        device.run(&offsets, all, rate, steps, &mut moved)?;
        drop(offsets);
        let mut blocks = residuals.iter().zip(moved.chunks(ADAM_ROWS * columns.max(1)));
        in_blocks(columns, ADAM_ROWS, first_row, values, |first, rows, values| {
            let Some((residual, moved)) = blocks.next() else {
                return Err(Stop::Failed("a block of rows has no residual".to_owned()));
            };
            let displacement = moved.iter().copied().map(f64::from).collect();
            let displacement = Matrix { rows, columns, values: displacement };
            let norm = squared_norm(values).sqrt();
            let mut points = vec![Point { step: 0, loss: residual.loss, norm }];
            values.iter_mut().zip(&displacement.values).for_each(|(value, moved)| *value += moved);
            check_finite(values, "the result")?;
            let after = self.system.loss_after(&self.experts, operands, residual, &displacement)?;
            let norm = squared_norm(values).sqrt();
            points.push(Point { step: steps, loss: after, norm });
            self.curves.add(first, points);
            Ok((residual.loss, after))
        })
    }

    /// Before any rows are computed.
    pub fn new(
        experts: Experts,
        system: System,
        kernel: Kernel,
        adam: interference::Adam,
        report: Report,
    ) -> Self {
        Self { experts, system, kernel, adam, report, curves: Curves::default() }
    }

    /// The displacement of rows after all steps. The objective is that of the residual and what the
    /// displacement adds to it; points of the way there are added to `points`.
    fn descend(
        &self,
        offset: &Matrix,
        (init, loss): (&Matrix, f64),
        points: &mut Vec<Point>,
    ) -> Matrix {
        let (rate, steps) = (self.adam.learning_rate.get(), self.adam.steps);
        match &self.kernel {
            Kernel::Single(system) => {
                let single: Vec<f32> = offset.values.iter().map(|&value| value as f32).collect();
                let mut moved = vec![0.0; single.len()];
                let rows = offset.rows;
                let scratch = &mut Scratch::default();
                adam::descend(system, &single, rows, rate, steps, &mut moved, scratch);
                let values = moved.into_iter().map(f64::from).collect();
                Matrix { rows, columns: offset.columns, values }
            }
            Kernel::Double(formed) => {
                let curvature = match (formed, &self.system) {
                    (Some(gram), _) | (None, System::Grams { gram, .. }) => Curvature::Gram(gram),
                    (None, System::Stacked { stack, .. }) => Curvature::Factored(stack),
                    (None, System::Read) => unreachable!("what is read again is iterated in f32"),
                };
                let every = steps.div_ceil(POINTS).max(1);
                adam_double::descend(&curvature, offset, rate, steps, |step, moved, gradient| {
                    if !step.is_multiple_of(every) || step == 0 {
                        return;
                    }
                    // With g = 2·(D·G + R): L(D) = L(0) + 2·D·R + D·G·D is L(0) + D·R + D·g/2.
                    let added = dot(moved, &offset.values) + 0.5 * dot(moved, gradient);
                    points.push(Point { step, loss: loss + added, norm: moved_norm(init, moved) });
                })
            }
            Kernel::Device(_) => unreachable!("rows on a device go another way"),
        }
    }

    /// Sets the gradient of rows to 0 where it is rounding noise, as with one expert or equal ones: Adam
    /// would amplify it until its steps are whole ones, where the loop as written begins at 0 and stays.
    fn keep_still(&self, init: &Matrix, offset: &mut Matrix) {
        let columns = self.experts.columns;
        // G is no larger than the count of experts.
        let curvature = self.experts.experts.len() as f64;
        let noise = 16.0 * f64::EPSILON * (columns as f64).sqrt() * curvature;
        let rows = init.values.chunks_exact(columns).zip(offset.values.chunks_exact_mut(columns));
        for (init, offset) in rows {
            if squared_norm(offset).sqrt() <= noise * squared_norm(init).sqrt() {
                offset.fill(0.0);
            }
        }
    }
}

impl Prepared for AdamRows {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        if let Kernel::Device(device) = &self.kernel {
            return self.rows_there(&**device, operands, first_row, values);
        }
        let columns = self.experts.columns;
        in_blocks(columns, ADAM_ROWS, first_row, values, |first, rows, values| {
            let init = self.experts.init_block(operands, first, rows)?;
            let mut residual = self.system.residual(&self.experts, operands, &init, first)?;
            let mut offset = self.system.offset(&mut residual);
            self.keep_still(&init, &mut offset);
            let start = squared_norm(&init.values).sqrt();
            let mut points = vec![Point { step: 0, loss: residual.loss, norm: start }];
            let displacement = self.descend(&offset, (&init, residual.loss), &mut points);
            finish(&init, &displacement, values)?;
            let after =
                self.system.loss_after(&self.experts, operands, &residual, &displacement)?;
            let norm = squared_norm(values).sqrt();
            points.push(Point { step: self.adam.steps, loss: after, norm });
            self.curves.add(first, points);
            Ok((residual.loss, after))
        })
    }

    fn report(&self) -> Report {
        let known = self.report.loss.map_or(0.0, |(start, _)| start);
        Report { curve: self.curves.sum(known), ..self.report.clone() }
    }
}

/// Points of a curve beside its ends.
const POINTS: u32 = 60;

/// Curves of blocks of rows, by the first row of each.
#[derive(Debug, Default)]
pub(crate) struct Curves(Mutex<BTreeMap<usize, Vec<Point>>>);

impl Curves {
    fn add(&self, first_row: usize, points: Vec<Point>) {
        let mut curves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        curves.insert(first_row, points);
    }

    /// The curve of all rows, in order of the blocks, so that it does not depend on the threads. `known` is
    /// what the losses of rows lack of the objective.
    fn sum(&self, known: f64) -> Vec<Point> {
        let curves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut blocks = curves.values();
        let Some(mut all) = blocks.next().cloned() else { return Vec::new() };
        for block in blocks {
            for (sum, point) in all.iter_mut().zip(block) {
                sum.loss += point.loss;
                sum.norm = sum.norm.hypot(point.norm);
            }
        }
        all.iter_mut().for_each(|point| point.loss += known);
        all
    }
}

/// ‖X_0 + D‖.
fn moved_norm(init: &Matrix, moved: &[f64]) -> f64 {
    let squares =
        init.values.iter().zip(moved).map(|(init, moved)| (init + moved) * (init + moved));
    squares.sum::<f64>().sqrt()
}

/// The optimizer's loop over the objective as written.
#[derive(Debug)]
pub(crate) struct Literal {
    pub experts: Experts,
    /// B_i as a whole.
    pub inputs: Vec<Matrix>,
    pub optimizer: Optimizer,
    pub report: Report,
}

impl Literal {
    /// The loss, and its gradient added to `gradient`.
    fn gradient(&self, at: &Matrix, targets: &[Matrix], gradient: &mut Matrix) -> f64 {
        let mut loss = 0.0;
        for ((expert, inputs), target) in self.experts.experts.iter().zip(&self.inputs).zip(targets)
        {
            let mut difference = at.clone();
            add_scaled(&mut difference.values, -1.0, &target.values);
            let along = product(view(&difference), view(inputs).transpose());
            loss += expert.weight * squared_norm(&along.values);
            accumulate(gradient, 2.0 * expert.weight, view(&along), view(inputs));
        }
        loss
    }
}

impl Prepared for Literal {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let columns = self.experts.columns;
        in_blocks(columns, BLOCK_ROWS, first_row, values, |first, rows, values| {
            let mut at = self.experts.init_block(operands, first, rows)?;
            let mut targets = Vec::new();
            self.experts.each_target(operands, first, rows, None, |_, target| {
                targets.push(target);
                Ok(())
            })?;
            let mut gradient = zeros(rows, columns);
            let start = self.gradient(&at, &targets, &mut gradient);
            match self.optimizer {
                Optimizer::Adam(adam) => {
                    let mut moments = Moments::new(at.values.len(), adam.learning_rate.get());
                    for step in 1..=adam.steps {
                        gradient.values.fill(0.0);
                        self.gradient(&at, &targets, &mut gradient);
                        moments.step(step, &gradient.values, &mut at.values);
                    }
                }
                Optimizer::Sgd(sgd) => {
                    let mut velocity = vec![0.0; at.values.len()];
                    for _ in 0..sgd.steps {
                        gradient.values.fill(0.0);
                        self.gradient(&at, &targets, &mut gradient);
                        velocity.iter_mut().for_each(|value| *value *= sgd.momentum.get());
                        add_scaled(&mut velocity, 1.0, &gradient.values);
                        add_scaled(&mut at.values, -sgd.learning_rate.get(), &velocity);
                    }
                }
            }
            check_finite(&at.values, "the result")?;
            values.copy_from_slice(&at.values);
            Ok((start, self.gradient(&at, &targets, &mut gradient)))
        })
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}

pub(super) fn finish(init: &Matrix, displacement: &Matrix, values: &mut [f64]) -> Result<(), Stop> {
    for ((value, init), moved) in values.iter_mut().zip(&init.values).zip(&displacement.values) {
        *value = init + moved;
    }
    check_finite(values, "the result")
}

/// `Σ w_i·B_iᵀ·B_i`, for the literal loop's check of its step.
pub(crate) fn gram_of(experts: &Experts, inputs: &[Matrix]) -> Matrix {
    let mut gram = zeros(experts.columns, experts.columns);
    for (expert, inputs) in experts.experts.iter().zip(inputs) {
        let n = experts.columns;
        let into = MatMut::from_row_major_slice_mut(&mut gram.values, n, n);
        add_product(into, expert.weight, view(inputs).transpose(), view(inputs));
    }
    gram
}
