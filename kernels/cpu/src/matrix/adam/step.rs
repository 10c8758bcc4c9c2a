//! One step on a block of rows: products with packed matrices, and the update as their last touch.

use super::panels::{LINE, Panels};
use super::vector::Vector;

/// Numbers that stay in registers while a product is summed.
pub(super) type Tile<const ROWS: usize, const COLUMNS: usize> = [[f32; COLUMNS]; ROWS];

/// A tile in registers.
type Sums<V, const ROWS: usize> = [[V; 2]; ROWS];

/// Decay of the first and the second moment, and what keeps the root from 0: Kingma and Ba 2015,
/// arXiv:1412.6980, algorithm 1, the values of which are also PyTorch's defaults.
const DECAY: [f64; 2] = [0.9, 0.999];
const EPSILON: f64 = 1e-8;

/// Numbers of one step that all elements share.
pub(super) struct Rates {
    /// The step over the bias correction of the first moment, times the root of that of the second.
    step: f32,
    /// [`EPSILON`], times the root of the bias correction of the second moment.
    epsilon: f32,
}

impl Rates {
    /// Of the step with this number, from 1.
    ///
    /// With c the bias corrections, `(m / c₁) / (√(v / c₂) + ε) = (√c₂ / c₁) · m / (√v + √c₂ · ε)`.
    pub(super) fn of(step: u32, learning_rate: f64) -> Self {
        let [first, second] = DECAY.map(|decay| 1.0 - decay.powf(f64::from(step)));
        let root = second.sqrt();
        Self { step: (learning_rate * root / first) as f32, epsilon: (EPSILON * root) as f32 }
    }
}

/// What an update reads and writes beside the product: tiles in the order of the block.
pub(super) struct State<'a, const ROWS: usize, const COLUMNS: usize> {
    pub(super) offset: &'a [Tile<ROWS, COLUMNS>],
    pub(super) first_moment: &'a mut [Tile<ROWS, COLUMNS>],
    pub(super) second_moment: &'a mut [Tile<ROWS, COLUMNS>],
}

/// What becomes of a product once it is summed.
pub(super) enum Finish<'a, 'b, const ROWS: usize, const COLUMNS: usize> {
    /// It is the result.
    Keep,
    /// The result is the displacement after it.
    Update {
        rates: &'a Rates,
        state: &'a mut State<'b, ROWS, COLUMNS>,
        displacement: &'a [Tile<ROWS, COLUMNS>],
    },
}

/// The product of a block of strips with a packed matrix.
///
/// Tiles of a strip follow each other. A tile of `to` holds the sum so far, between slabs.
#[inline(always)]
pub(super) fn multiply<V: Vector, const ROWS: usize, const COLUMNS: usize>(
    from: &[Tile<ROWS, COLUMNS>],
    panels: &Panels,
    to: &mut [Tile<ROWS, COLUMNS>],
    mut finish: Finish<'_, '_, ROWS, COLUMNS>,
) {
    let (depth, columns) = (panels.depth(), panels.columns());
    let strips = from.len() / depth;
    // Lines of the following panel that each tile of a strip asks for, so that it has come when its
    // turn is.
    let share = (COLUMNS * COLUMNS / LINE).div_ceil(strips);
    for slab in panels.slabs() {
        for column in 0..columns {
            let (panel, behind) = panels.panel(&slab, column);
            for strip in 0..strips {
                let at = strip * columns + column;
                let ahead = behind.wrapping_add(strip * slab.len() * share * LINE);
                prefetch::<V, ROWS, COLUMNS>(&to[at]);
                if let Finish::Update { state, displacement, .. } = &finish
                    && slab.end == depth
                {
                    prefetch::<V, ROWS, COLUMNS>(&displacement[at]);
                    prefetch::<V, ROWS, COLUMNS>(&state.offset[at]);
                    prefetch::<V, ROWS, COLUMNS>(&state.first_moment[at]);
                    prefetch::<V, ROWS, COLUMNS>(&state.second_moment[at]);
                }
                let strip = &from[strip * depth + slab.start..][..slab.len()];
                let mut sums = sum::<V, ROWS, COLUMNS>(strip, panel, ahead, share);
                if slab.start > 0 {
                    for (sums, to) in sums.iter_mut().zip(&to[at]) {
                        for (half, sum) in sums.iter_mut().enumerate() {
                            *sum = V::load(&to[half * V::LANES..]).add(*sum);
                        }
                    }
                }
                match &mut finish {
                    Finish::Update { rates, state, displacement } if slab.end == depth => {
                        update(rates, state, at, sums, &displacement[at], &mut to[at]);
                    }
                    _ => store(sums, &mut to[at]),
                }
            }
        }
    }
}

/// An update where the product is 0.
#[inline(always)]
pub(super) fn update_without_product<V: Vector, const ROWS: usize, const COLUMNS: usize>(
    rates: &Rates,
    state: &mut State<'_, ROWS, COLUMNS>,
    displacement: &[Tile<ROWS, COLUMNS>],
    to: &mut [Tile<ROWS, COLUMNS>],
) {
    for (at, (displacement, to)) in displacement.iter().zip(to).enumerate() {
        update(rates, state, at, [[V::splat(0.0); 2]; ROWS], displacement, to);
    }
}

/// The products of a strip with a panel, summed.
#[inline(always)]
fn sum<V: Vector, const ROWS: usize, const COLUMNS: usize>(
    strip: &[Tile<ROWS, COLUMNS>],
    panel: &[[[f32; COLUMNS]; COLUMNS]],
    mut ahead: *const f32,
    share: usize,
) -> Sums<V, ROWS> {
    let mut sums = [[V::splat(0.0); 2]; ROWS];
    for (tile, square) in strip.iter().zip(panel) {
        for _ in 0..share {
            V::prefetch(ahead);
            ahead = ahead.wrapping_add(LINE);
        }
        for (quad, rows) in square.as_chunks::<4>().0.iter().enumerate() {
            for (k, row) in rows.iter().enumerate() {
                let halves = [V::load(row), V::load(&row[V::LANES..])];
                for (sums, tile) in sums.iter_mut().zip(tile) {
                    let factor = V::splat(tile[4 * quad + k]);
                    sums[0] = factor.multiply_add(halves[0], sums[0]);
                    sums[1] = factor.multiply_add(halves[1], sums[1]);
                }
            }
        }
    }
    sums
}

/// Moves one tile against its gradient, twice the product and the offset together.
#[inline(always)]
fn update<V: Vector, const ROWS: usize, const COLUMNS: usize>(
    rates: &Rates,
    state: &mut State<'_, ROWS, COLUMNS>,
    at: usize,
    sums: Sums<V, ROWS>,
    displacement: &Tile<ROWS, COLUMNS>,
    to: &mut Tile<ROWS, COLUMNS>,
) {
    let offset = &state.offset[at];
    let first_moment = &mut state.first_moment[at];
    let second_moment = &mut state.second_moment[at];
    let (step, epsilon) = (V::splat(rates.step), V::splat(rates.epsilon));
    let [first_gain, second_gain] = DECAY.map(|decay| V::splat((1.0 - decay) as f32));
    let second_decay = V::splat(DECAY[1] as f32);
    for row in 0..ROWS {
        for (half, sum) in sums[row].into_iter().enumerate() {
            let lanes = half * V::LANES;
            let half_gradient = sum.add(V::load(&offset[row][lanes..]));
            let gradient = half_gradient.add(half_gradient);
            let first = V::load(&first_moment[row][lanes..]);
            let first = gradient.subtract(first).multiply_add(first_gain, first);
            first.store(&mut first_moment[row][lanes..]);
            let second = V::load(&second_moment[row][lanes..]).multiply(second_decay);
            let second = gradient.multiply(second_gain).multiply_add(gradient, second);
            second.store(&mut second_moment[row][lanes..]);
            let movement = step.multiply(first).divide(second.square_root().add(epsilon));
            let from = V::load(&displacement[row][lanes..]);
            from.subtract(movement).store(&mut to[row][lanes..]);
        }
    }
}

#[inline(always)]
fn store<V: Vector, const ROWS: usize, const COLUMNS: usize>(
    sums: Sums<V, ROWS>,
    to: &mut Tile<ROWS, COLUMNS>,
) {
    for (sums, to) in sums.into_iter().zip(to) {
        sums[0].store(to);
        sums[1].store(&mut to[V::LANES..]);
    }
}

#[inline(always)]
fn prefetch<V: Vector, const ROWS: usize, const COLUMNS: usize>(tile: &Tile<ROWS, COLUMNS>) {
    for line in tile.as_flattened().iter().step_by(LINE) {
        V::prefetch(line);
    }
}
