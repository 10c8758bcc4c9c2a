//! Functions of a symmetric matrix on a part of its spectrum, as sums of shifted inverses: those at points
//! of a circle around this part.
//!
//! By Cauchy's formula `f(A)·P = (1/2πi)·∮ f(z)·(z − A)⁻¹ dz`, with P the projector on what the circle
//! encloses. The trapezoidal rule converges geometrically in a variable in which points are as dense as
//! they are close to eigenvalues, so that the count of points grows with the logarithm of how close
//! an eigenvalue inside and one outside are.

use std::f64::consts::{FRAC_PI_2, PI};

use faer::c64;

/// Nats to which the rule is brought.
const ACCURACY: f64 = 40.0;

/// Which part of the circle's surroundings a function is smooth in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Smooth {
    /// All but the negative numbers and 0.
    Slit,
    /// To the right of 0, or even only within a circle through 0 around the spectrum.
    Right,
}

/// A point and the weight of its inverse: `f(A)·P ≈ Re Σ weight·f(at)·(A − at)⁻¹`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub at: c64,
    pub weight: c64,
}

/// Eigenvalues to enclose, and those beside them that are not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Enclosed {
    /// What is below: at least 0, and less than `least`.
    pub below: f64,
    pub least: f64,
    pub largest: f64,
    /// What is above, if anything: more than `largest`.
    pub above: Option<f64>,
}

/// Points above the real axis.
///
/// **Source.** Hale, Higham and Trefethen 2008, the map by an elliptic function, here to a circle and, for
/// functions that are not smooth outside, to a curve inside.
pub(crate) fn nodes(enclosed: Enclosed, smooth: Smooth) -> Vec<Node> {
    let Enclosed { below, least, largest, above } = enclosed;
    // The circle goes through the middles of both gaps.
    let near = below + 0.5 * (least - below);
    let far = above.map_or(2.0 * largest - near, |above| largest + 0.5 * (above - largest));
    // w = (z − near) / (far − z) maps it to the imaginary axis, and the eigenvalues to both sides.
    let inner = ((least - near) / (far - least)).min((near - below) / (far - below));
    let outer = above.map_or(1.0, |above| (above - near) / (above - far));
    let outer = outer.max((largest - near) / (far - largest));
    let modulus = inner / outer;
    let complement = ((1.0 - modulus) * (1.0 + modulus)).sqrt();
    let quarter = FRAC_PI_2 / mean(1.0, complement);
    let period = FRAC_PI_2 / mean(1.0, modulus);
    // With w = inner·sn(t), the axis is the line Re t = 0, and both parts of the spectrum are Re t = ±K.
    let (start, room) = match smooth {
        Smooth::Slit => (0.0, quarter),
        Smooth::Right => (0.5 * quarter, 0.5 * quarter),
    };
    let count = (period * ACCURACY / (2.0 * PI * room)).ceil().max(4.0);
    let step = period / count;
    let node = |index: usize| {
        let along = (index as f64 + 0.5) * step;
        // Beyond the middle the curve is the mirror image of what lies before it.
        let (w, slope) = if along <= 0.5 * period {
            point(c64::new(start, along), modulus, inner)
        } else {
            let (w, slope) = point(c64::new(start, period - along), modulus, inner);
            let image = w.conj().inv() * (inner * outer);
            (image, image * slope.conj() / w.conj())
        };
        let under = w + 1.0;
        let at = (w * far + near) / under;
        let weight = slope * (far - near) / (under * under) * step / c64::new(0.0, PI);
        Node { at, weight }
    };
    (0..count as usize).map(node).collect()
}

/// `scale·sn(u)` and its derivative along the imaginary axis.
fn point(u: c64, modulus: f64, scale: f64) -> (c64, c64) {
    let (sn, slope) = sine(u, modulus);
    (sn * scale, slope * c64::new(0.0, scale))
}

/// sn and its derivative, by Landen's transformation to ever smaller moduli.
fn sine(u: c64, modulus: f64) -> (c64, c64) {
    if modulus < 1e-18 {
        return (u.sin(), u.cos());
    }
    let complement = ((1.0 - modulus) * (1.0 + modulus)).sqrt();
    let smaller = (modulus / (1.0 + complement)).powi(2);
    let (sn, slope) = sine(u / (1.0 + smaller), smaller);
    let square = sn * sn * smaller;
    let below = square + 1.0;
    (sn * (1.0 + smaller) / below, slope * (1.0 - square) / (below * below))
}

/// The limit of arithmetic and geometric means.
fn mean(mut a: f64, mut b: f64) -> f64 {
    while (a - b).abs() > 1e-15 * a {
        (a, b) = (0.5 * (a + b), (a * b).sqrt());
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule's value for a number in place of the matrix.
    fn at(nodes: &[Node], f: &dyn Fn(c64) -> c64, number: f64) -> f64 {
        nodes.iter().map(|node| (node.weight * f(node.at) / (number - node.at)).re).sum()
    }

    fn check(enclosed: Enclosed, smooth: Smooth, f: &dyn Fn(c64) -> c64, what: &str) {
        let nodes = nodes(enclosed, smooth);
        let Enclosed { below, least, largest, above } = enclosed;
        let most = f(c64::from(least)).norm().max(1.0);
        // Points are as far off as numbers can be told apart.
        let gap = (least - below).min(above.map_or(1.0, |above| above - largest));
        let bound = 1e-12 + 1e-16 * largest / gap;
        for share in [0.0, 1e-9, 1e-3, 0.3, 0.9, 1.0] {
            let number = least + share * (largest - least);
            let (found, expected) = (at(&nodes, f, number), f(c64::from(number)).re);
            let off = (found - expected).abs() / most;
            assert!(off < bound, "{what}: {off:e} of {most:e} at {number:e}");
        }
        for number in [below, 0.5 * below, 0.0].into_iter().chain(above) {
            let off = at(&nodes, f, number).abs() / most;
            assert!(off < bound, "{what}: {off:e} of {most:e} outside at {number:e}");
        }
    }

    /// Gaps down to rounding noise, functions that are steep, and one eigenvalue alone.
    #[test]
    fn functions_are_parted_at_gaps() {
        for (below, least, largest, above) in [
            (0.0, 1e-3, 4.0, None),
            (0.5, 0.6, 1.0, None),
            (0.1, 0.1 + 1e-12, 3.0, None),
            (0.0, 1.0, 1.0, None),
            (0.2, 1.0, 1.0, None),
            (1e-12, 3e-12, 9e-9, Some(2e-8)),
            (0.1, 0.2, 0.3, Some(0.3 + 1e-9)),
        ] {
            let enclosed = Enclosed { below, least, largest, above };
            let what = format!("{enclosed:?}");
            check(enclosed, Smooth::Slit, &|z| z.inv(), &what);
            check(enclosed, Smooth::Slit, &|_| c64::from(1.0), &what);
            check(enclosed, Smooth::Right, &|z| z.inv(), &what);
            for time in [0.1, 30.0, 1e6] {
                check(enclosed, Smooth::Right, &|z| (-z * time).exp(), &what);
            }
        }
    }
}
