//! q of a tridiagonal matrix on the kept part of its spectrum, times many vectors, by sums of shifted
//! inverses.

use faer::c64;
use mixdown_ops::matrix::interference::Filter;
use mixdown_ops::matrix::{Matrix, Stop};

use super::super::contour::{self, Enclosed, Node, Smooth};
use super::super::dense::{add_scaled, zeros};
use super::super::shifted::{Shifted, add_solutions};
use super::super::tridiagonal::Tridiagonal;
use super::cut::FLOOR;
use super::filter::{self, Treatment};
use crate::features::Features;

/// Eigenvalues closer than this share of the largest are one, of which a cut takes a part.
const TOGETHER: f64 = 16.0 * f64::EPSILON;

/// Inverses that are held at a time.
pub(crate) const TERMS: usize = 64;

/// The descending eigenvalues, what is done to them, and where q is smooth.
pub(crate) struct Spectrum<'a> {
    pub values: &'a [f64],
    pub treatment: &'a Treatment,
    pub smooth: Smooth,
}

/// The transposed residual's columns times q(T), and where eigenvalues lie below the floor X_0·Sᵀ's, for
/// which `pull` gives H.
pub(crate) fn apply(
    how: &Filter,
    spectrum: &Spectrum<'_>,
    reduced: &Tridiagonal,
    residual: &Matrix,
    pull: &mut dyn FnMut() -> Result<Matrix, Stop>,
) -> Result<Matrix, Stop> {
    let Treatment { active, largest, level, ref slivers, .. } = *spectrum.treatment;
    let q = |z: c64| filter::complex_factor(how, z, largest, level);
    let mut moved = zeros(residual.rows, residual.columns);
    // What is continuous at the floor can be parted at any gap near it.
    let above = match active - slivers.len() {
        at if slivers.is_empty() => at,
        at => spectrum.gap_near(at),
    };
    add(reduced, &spectrum.around(0, above), &q, residual, &mut moved);
    if above < active {
        // Below the floor q is that of the floor, and what it leaves of X_0 is removed as well.
        let floor = q(c64::from(FLOOR));
        let around = spectrum.around(above, active);
        add(reduced, &around, &|_| floor, residual, &mut moved);
        let mut init = pull()?;
        add_scaled(&mut init.values, 1.0, &residual.values);
        add(reduced, &around, &|z| (z.inv() * FLOOR - 1.0) * floor, &init, &mut moved);
    }
    Ok(moved)
}

impl Spectrum<'_> {
    /// Whether the eigenvalues before and after can be told apart.
    fn is_gap(&self, at: usize) -> bool {
        let (before, after) = (at.checked_sub(1).map(|at| self.values[at]), self.values.get(at));
        let largest = self.values.first().copied().unwrap_or(0.0);
        match (before, after) {
            (Some(before), Some(&after)) => before - after.max(0.0) > TOGETHER * largest,
            _ => true,
        }
    }

    fn gap_near(&self, at: usize) -> usize {
        (0..=at).rev().find(|&at| self.is_gap(at)).unwrap_or(0)
    }

    /// Points around the eigenvalues from one on, before another.
    ///
    /// Of equal eigenvalues any directions are eigenvectors: where the end is among such, all are taken,
    /// by a part.
    fn around(&self, first: usize, end: usize) -> Vec<Node> {
        let (before, mut after) = (self.gap_near(end), end);
        while !self.is_gap(after) {
            after += 1;
        }
        if before == after {
            return self.points(first, end);
        }
        let share = (end - before) as f64 / (after - before) as f64;
        // Where they go down to rounding noise, there is nothing to take.
        let noise = self.values[0] * f64::EPSILON * self.values.len() as f64;
        if self.values[after - 1] <= noise {
            return self.points(first, before);
        }
        let part = |points: Vec<Node>, share: f64| {
            points.into_iter().map(move |node| Node { weight: node.weight * share, ..node })
        };
        let less = part(self.points(first, before), 1.0 - share);
        less.chain(part(self.points(first, after), share)).collect()
    }

    fn points(&self, first: usize, end: usize) -> Vec<Node> {
        if end <= first {
            return Vec::new();
        }
        let enclosed = Enclosed {
            below: self.values.get(end).map_or(0.0, |value| value.max(0.0)),
            least: self.values[end - 1],
            largest: self.values[first],
            above: first.checked_sub(1).map(|at| self.values[at]),
        };
        contour::nodes(enclosed, self.smooth)
    }
}

/// Adds the sum of inverses with the function's values times the columns.
fn add(
    reduced: &Tridiagonal,
    nodes: &[Node],
    function: &dyn Fn(c64) -> c64,
    columns: &Matrix,
    into: &mut Matrix,
) {
    for nodes in nodes.chunks(TERMS) {
        let term = |node: &Node| {
            let weight = node.weight * function(node.at);
            Shifted::new(&reduced.diagonal, &reduced.beside, node.at, weight)
        };
        let terms: Vec<Shifted> = nodes.iter().map(term).collect();
        add_solutions(Features::best(), &terms, columns, into);
    }
}
