//! Adam in f64.

use faer::MatMut;
use mixdown_ops::matrix::Matrix;

use super::dense::{add_product, product, view};

const BETA: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// Adam as torch has it: ε is added after the bias-corrected root.
#[derive(Debug)]
pub(crate) struct Moments {
    learning_rate: f64,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Moments {
    pub fn new(elements: usize, learning_rate: f64) -> Self {
        Self { learning_rate, first: vec![0.0; elements], second: vec![0.0; elements] }
    }

    /// One step, counted from 1.
    pub fn step(&mut self, step: u32, gradient: &[f64], parameters: &mut [f64]) {
        self.step_part(step, 0, gradient, parameters);
    }

    /// The same for some of the parameters, from one on.
    pub fn step_part(&mut self, step: u32, first: usize, gradient: &[f64], some: &mut [f64]) {
        let steps = f64::from(step);
        let size = self.learning_rate / (1.0 - BETA.0.powf(steps));
        let root = (1.0 - BETA.1.powf(steps)).sqrt();
        let moments = self.first[first..].iter_mut().zip(&mut self.second[first..]);
        for ((parameter, g), (m, v)) in some.iter_mut().zip(gradient).zip(moments) {
            *m = BETA.0 * *m + (1.0 - BETA.0) * g;
            *v = BETA.1 * *v + (1.0 - BETA.1) * g * g;
            *parameter -= size * *m / (v.sqrt() / root + EPSILON);
        }
    }
}

/// What multiplies the displacement D in the gradient `2·(D·G + R_0)`.
pub(crate) enum Curvature<'a> {
    /// G, `n × n`.
    Gram(&'a Matrix),
    /// S with `G = Sᵀ·S`, `R × n`: two thin products where they are less than one with G.
    Factored(&'a Matrix),
}

/// Runs Adam on rows of the displacement, from 0. Before each step `observe` sees how many there were, the
/// displacement, and the gradient there.
pub(crate) fn descend(
    curvature: &Curvature<'_>,
    offset: &Matrix,
    learning_rate: f64,
    steps: u32,
    mut observe: impl FnMut(u32, &[f64], &[f64]),
) -> Matrix {
    let (rows, columns) = (offset.rows, offset.columns);
    let mut displacement = super::dense::zeros(rows, columns);
    let mut gradient = offset.clone();
    let mut moments = Moments::new(rows * columns, learning_rate);
    for step in 1..=steps {
        for (gradient, offset) in gradient.values.iter_mut().zip(&offset.values) {
            *gradient = 2.0 * offset;
        }
        let into = MatMut::from_row_major_slice_mut(&mut gradient.values, rows, columns);
        match curvature {
            Curvature::Gram(gram) => add_product(into, 2.0, view(&displacement), view(gram)),
            Curvature::Factored(stack) => {
                let along = product(view(&displacement), view(stack).transpose());
                add_product(into, 2.0, view(&along), view(stack));
            }
        }
        observe(step - 1, &displacement.values, &gradient.values);
        moments.step(step, &gradient.values, &mut displacement.values);
    }
    displacement
}
