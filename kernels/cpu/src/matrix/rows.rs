//! Reading operands in row blocks, and sums of operands as if they were one.

use mixdown_ops::matrix::{Matrix, Operands, Stop};

use super::dense::{accumulate, add_scaled, row_gram, squared_norm, view, zeros};

/// Rows that a preparation reads at a time.
pub(crate) const PANEL: usize = 256;

/// A weighted sum of operands.
#[derive(Clone, Debug)]
pub(crate) struct Blend(Vec<(usize, f64)>);

impl Blend {
    /// One operand.
    pub fn one(operand: usize) -> Self {
        Self(vec![(operand, 1.0)])
    }

    /// The first `count` operands, each with this factor.
    pub fn each(count: usize, factor: f64) -> Self {
        Self((0..count).map(|operand| (operand, factor)).collect())
    }

    /// An operand less the mean of all.
    pub fn centered(operand: usize, count: usize) -> Self {
        let mut blend = Self::each(count, -1.0 / count as f64);
        blend.0[operand].1 += 1.0;
        blend
    }

    /// The factor of an operand.
    pub fn factor(&self, operand: usize) -> f64 {
        self.0.iter().filter(|one| one.0 == operand).map(|one| one.1).sum()
    }

    /// The operand, if it is only one and unscaled.
    pub fn single(&self) -> Option<usize> {
        match self.0[..] {
            [(operand, 1.0)] => Some(operand),
            _ => None,
        }
    }

    /// Reads rows of the sum.
    pub fn read(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(), Stop> {
        if let Some(operand) = self.single() {
            return operands.read(operand, first_row, values);
        }
        values.fill(0.0);
        let mut one = vec![0.0; values.len()];
        for &(operand, factor) in &self.0 {
            if factor != 0.0 {
                operands.read(operand, first_row, &mut one)?;
                add_scaled(values, factor, &one);
            }
        }
        Ok(())
    }

    /// The rows as a matrix.
    pub fn block(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        rows: usize,
    ) -> Result<Matrix, Stop> {
        let mut block = zeros(rows, operands.shape(0).1);
        self.read(operands, first_row, &mut block.values)?;
        Ok(block)
    }
}

/// First row and count of rows of each panel of a matrix.
pub(crate) fn panels(rows: usize, panel: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    (0..rows).step_by(panel).map(move |first| (first, panel.min(rows - first)))
}

/// `left·τ` for `left` with as many columns as τ has rows.
pub(crate) fn project(
    operands: &mut dyn Operands,
    blend: &Blend,
    left: &Matrix,
) -> Result<Matrix, Stop> {
    let (rows, columns) = operands.shape(0);
    let mut result = zeros(left.rows, columns);
    for (first, count) in panels(rows, PANEL) {
        let block = blend.block(operands, first, count)?;
        accumulate(&mut result, 1.0, view(left).subcols(first, count), view(&block));
    }
    Ok(result)
}

/// ‖τ_i‖² of the first `count` operands; of factors without multiplying them out.
pub(crate) fn squared_norms(operands: &mut dyn Operands, count: usize) -> Result<Vec<f64>, Stop> {
    let (rows, columns) = operands.shape(0);
    let mut norms = vec![0.0; count];
    for (operand, norm) in norms.iter_mut().enumerate() {
        if operands.rank(operand).is_some() {
            let factors = operands.factors(operand)?;
            let left = row_gram(view(&factors.left).transpose());
            let right = row_gram(view(&factors.right));
            *norm = super::dense::dot(&left.values, &right.values);
            continue;
        }
        for (first, count) in panels(rows, PANEL) {
            let mut block = zeros(count, columns);
            operands.read(operand, first, &mut block.values)?;
            *norm += squared_norm(&block.values);
        }
    }
    match norms.iter().all(|norm| norm.is_finite()) {
        true => Ok(norms),
        false => Err(Stop::Failed("an operand has a NaN or an infinity".into())),
    }
}
