//! Adam in f32, in displacement form: its error does not grow with the matrix (methods 5.3).

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

const BETA: (f32, f32) = (0.9, 0.999);
const EPSILON: f32 = 1e-8;

/// What multiplies the displacement D in the gradient `2·(D·G + R_0)`, in f32.
#[derive(Debug)]
pub(crate) enum System {
    /// G, `n × n`.
    Gram { gram: Vec<f32>, columns: usize },
    /// S with `G = Sᵀ·S`, `r × n`.
    Factored { stack: Vec<f32>, rank: usize, columns: usize },
}

impl System {
    /// From G, symmetric, row-major.
    pub fn gram(gram: &[f32], columns: usize) -> Self {
        Self::Gram { gram: gram.to_vec(), columns }
    }

    /// From S, row-major.
    pub fn factored(stack: &[f32], rank: usize, columns: usize) -> Self {
        Self::Factored { stack: stack.to_vec(), rank, columns }
    }

    fn columns(&self) -> usize {
        match self {
            Self::Gram { columns, .. } | Self::Factored { columns, .. } => *columns,
        }
    }

    /// `gradient += 2·D·G`.
    fn add(&self, displacement: MatRef<'_, f32>, along: &mut [f32], gradient: MatMut<'_, f32>) {
        match self {
            Self::Gram { gram, columns } => {
                let gram = MatRef::from_row_major_slice(gram, *columns, *columns);
                matmul(gradient, Accum::Add, displacement, gram, 2.0, Par::Seq);
            }
            Self::Factored { stack, rank, columns } => {
                let stack = MatRef::from_row_major_slice(stack, *rank, *columns);
                let rows = displacement.nrows();
                let mut along = MatMut::from_row_major_slice_mut(along, rows, *rank);
                let transposed = stack.transpose();
                matmul(along.as_mut(), Accum::Replace, displacement, transposed, 1.0, Par::Seq);
                matmul(gradient, Accum::Add, along.as_ref(), stack, 2.0, Par::Seq);
            }
        }
    }
}

/// Runs `steps` of Adam on `rows` rows. The displacement is 0 at the start, and the gradient is
/// `2·(D·G + offset)`.
pub(crate) fn descend_single(
    system: &System,
    offset: &[f32],
    rows: usize,
    learning_rate: f64,
    steps: u32,
    displacement: &mut [f32],
) {
    let columns = system.columns();
    let rank = match system {
        System::Gram { .. } => 0,
        System::Factored { rank, .. } => *rank,
    };
    let mut along = vec![0.0; rows * rank];
    let mut gradient = vec![0.0; rows * columns];
    let (mut first, mut second) = (vec![0.0; rows * columns], vec![0.0; rows * columns]);
    displacement.fill(0.0);
    for step in 1..=steps {
        gradient.iter_mut().zip(offset).for_each(|(gradient, offset)| *gradient = 2.0 * offset);
        if rank > 0 || matches!(system, System::Gram { .. }) {
            let at = MatRef::from_row_major_slice(displacement, rows, columns);
            let into = MatMut::from_row_major_slice_mut(&mut gradient, rows, columns);
            system.add(at, &mut along, into);
        }
        let steps = f64::from(step);
        let size = (learning_rate / (1.0 - 0.9_f64.powf(steps))) as f32;
        let root = (1.0 / (1.0 - 0.999_f64.powf(steps)).sqrt()) as f32;
        let moments = first.iter_mut().zip(&mut second);
        for ((parameter, g), (m, v)) in displacement.iter_mut().zip(&gradient).zip(moments) {
            *m = BETA.0 * *m + (1.0 - BETA.0) * g;
            *v = BETA.1 * *v + (1.0 - BETA.1) * g * g;
            *parameter -= size * *m / (v.sqrt() * root + EPSILON);
        }
    }
}
