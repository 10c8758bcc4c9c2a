//! What a descent needs of a device and how long it takes there, known before the device is opened.

use mixdown_ops::descent::{DescentNeeds, DescentShape};
use mixdown_ops::matrix::Stop;

use crate::images::{Form, KERNELS_VERSION};
use crate::lanes::Size;
use crate::probe::Capability;

/// Elements of a block: with these, blocks of 128 x 128 are about as many as an H200 runs at once, twice.
const BLOCK_ELEMENTS: usize = 4 << 20;

/// Bytes a second over the bus in the model: a third of what PCIe 4 x16 moves from pinned memory.
const BUS: f64 = 8e9;

/// Seconds of a launch in the model.
const LAUNCH: f64 = 10e-6;

/// A device as plans know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// `cuda:0`.
    pub name: String,
    /// What it can do.
    pub capability: Capability,
    /// How its products are made.
    pub form: Form,
    /// Bytes of its memory that may be used.
    pub budget: u64,
}

/// How the kernels of a form are launched, as their sources say, and how fast they are in the model.
impl Form {
    /// Columns, and rows of S, are multiples of this.
    pub(crate) fn tile(self) -> usize {
        match self {
            Self::Plain => 64,
            Self::Split => 128,
            Self::Groups => 256,
        }
    }

    /// Rows of a block are multiples of this.
    pub(crate) fn rows_tile(self) -> usize {
        match self {
            Self::Plain => 64,
            Self::Split | Self::Groups => 128,
        }
    }

    /// Operations a second of a step, as if each number were multiplied once: a model for small devices of each
    /// form, not a measurement. Where it is too low, some descents that a device would do faster stay on the
    /// processor.
    fn operations(self) -> f64 {
        match self {
            Self::Plain => 2e12,
            Self::Split => 10e12,
            Self::Groups => 100e12,
        }
    }
}

/// Sides in whole tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Padded {
    pub rows: usize,
    pub columns: usize,
    /// Rows of S; 0 where G is used.
    pub stacked: usize,
}

impl Padded {
    pub fn of(form: Form, shape: DescentShape) -> Self {
        let whole = |side: usize| side.next_multiple_of(form.tile());
        Self {
            rows: shape.rows.max(1).next_multiple_of(form.rows_tile()),
            columns: whole(shape.columns.max(1)),
            stacked: whole(shape.stacked.unwrap_or(0)),
        }
    }

    pub fn elements(self) -> u64 {
        self.rows as u64 * self.columns as u64
    }

    pub fn size(self) -> Size {
        Size { device_bytes: Parts::of(self).end, pinned_bytes: 4 * self.elements() }
    }

    /// Bytes of the matrices: G, or S and its transpose. Four bytes a number in both forms.
    pub fn matrices(self) -> Vec<u64> {
        let (n, r) = (self.columns as u64, self.stacked as u64);
        if r == 0 { vec![4 * n * n] } else { vec![4 * r * n; 2] }
    }
}

/// Where the parts of a block are in a lane's memory. All are 4 bytes an element, in both forms: a packed
/// number is two terms of two bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    pub offset: u64,
    pub first: u64,
    pub second: u64,
    /// D in f32, which the split form updates in place.
    pub displacement: u64,
    /// What is multiplied and what is written for the next step, in turn. In the plain form, the first of
    /// them is `displacement`.
    pub turns: [u64; 2],
    /// D·Sᵀ.
    pub inner: u64,
    pub end: u64,
}

impl Parts {
    pub fn of(padded: Padded) -> Self {
        let block = 4 * padded.elements();
        let inner = 4 * padded.rows as u64 * padded.stacked as u64;
        Self {
            offset: 0,
            first: block,
            second: 2 * block,
            displacement: 3 * block,
            turns: [4 * block, 5 * block],
            inner: 6 * block,
            end: 6 * block + inner,
        }
    }
}

impl Sizing {
    /// All that bits of results depend on.
    pub fn describe(&self) -> String {
        let Self { capability, form, .. } = self;
        format!("CUDA {capability}, {}, kernels {KERNELS_VERSION}", form.name())
    }

    /// What a descent needs: blocks as large as keep the device busy, or as fit.
    ///
    /// **Errors.** It does not fit, however few rows are done at a time.
    pub fn needs(&self, shape: DescentShape) -> Result<DescentNeeds, Stop> {
        let Self { form, budget, .. } = *self;
        let tile = form.rows_tile();
        let most = BLOCK_ELEMENTS / shape.columns.max(1) / tile * tile;
        let most = most.max(tile);
        let blocks = shape.rows.div_ceil(most).max(1);
        let mut block_rows = shape.rows.div_ceil(blocks).max(1).next_multiple_of(tile);
        loop {
            let padded = Padded::of(form, DescentShape { rows: block_rows, ..shape });
            let Size { device_bytes, pinned_bytes } = padded.size();
            let device_bytes = device_bytes + padded.matrices().iter().sum::<u64>();
            if device_bytes <= budget {
                return Ok(DescentNeeds { block_rows, device_bytes, host_bytes: pinned_bytes });
            }
            if block_rows == tile {
                return Err(self.too_large(device_bytes));
            }
            block_rows = (block_rows / 2).next_multiple_of(tile);
        }
    }

    /// Seconds of a descent by the model: its operations, what goes over the bus, and its launches.
    pub fn seconds(&self, shape: DescentShape, steps: u32) -> f64 {
        let padded = Padded::of(self.form, shape);
        let (elements, columns) = (padded.elements() as f64, padded.columns as f64);
        let (depth, launches) = match padded.stacked {
            0 => (columns, 1.0),
            stacked => (2.0 * stacked as f64, 2.0),
        };
        let steps = f64::from(steps);
        let blocks = (elements / BLOCK_ELEMENTS as f64).max(1.0);
        let bytes = 8.0 * elements + padded.matrices().iter().sum::<u64>() as f64;
        steps * 2.0 * elements * depth / self.form.operations()
            + bytes / BUS
            + steps * blocks * launches * LAUNCH
    }

    fn too_large(&self, bytes: u64) -> Stop {
        let Self { name, budget, .. } = self;
        Stop::DeviceMemory(
            format!(
                "`{name}` lacks memory: this tensor needs {bytes} bytes of it with the fewest rows at a time, \
                 and {budget} may be used"
            ),
            "raise --device-memory, or use `--device cpu` or `--device auto`".to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizing(form: Form, budget: u64) -> Sizing {
        let capability = Capability { major: 9, minor: 0 };
        Sizing { name: "cuda:0".to_owned(), capability, form, budget }
    }

    #[test]
    fn blocks_shrink_until_they_fit() {
        let shape = DescentShape { rows: 18944, columns: 3584, stacked: None };
        let plenty = sizing(Form::Groups, 80 << 30).needs(shape).unwrap();
        // G of 3584 columns and six parts of 1152 rows.
        assert_eq!(plenty.block_rows, 1152);
        assert_eq!(plenty.device_bytes, 4 * 3584 * 3584 + 24 * 1152 * 3584);
        let mut last = plenty;
        for budget in [140 << 20, 100 << 20, 70 << 20] {
            let less = sizing(Form::Groups, budget).needs(shape).unwrap();
            assert!(less.block_rows < last.block_rows && less.device_bytes <= budget);
            assert!(less.block_rows.is_multiple_of(128));
            last = less;
        }
        let least = 4 * 3584 * 3584 + 24 * 128 * 3584;
        assert_eq!(sizing(Form::Groups, least).needs(shape).unwrap().block_rows, 128);
        match sizing(Form::Groups, least - 1).needs(shape) {
            Err(Stop::DeviceMemory(headline, _)) => {
                assert!(headline.contains(&least.to_string()), "{headline}");
                assert!(headline.contains(&(least - 1).to_string()), "{headline}");
            }
            other => panic!("{other:?}"),
        }
    }

    /// A descent of a 7B model is worth a device, and one of a tiny model is not, whatever else holds.
    #[test]
    fn the_model_knows_large_from_small() {
        let large = DescentShape { rows: 18944, columns: 3584, stacked: None };
        let small = DescentShape { rows: 16, columns: 64, stacked: None };
        let on_processor = |shape: DescentShape| {
            2.0 * 300.0 * shape.rows as f64 * (shape.columns as f64).powi(2) / 800e9
        };
        for form in [Form::Split, Form::Groups] {
            let sizing = sizing(form, 1 << 40);
            assert!(sizing.seconds(large, 300) < 0.1 * on_processor(large), "{form:?}");
            assert!(sizing.seconds(small, 300) > on_processor(small), "{form:?}");
        }
    }
}
