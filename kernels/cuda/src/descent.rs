//! Descents of Adam on a device.
//!
//! The matrices are constant over steps and rows, and go to the device once. A block of rows goes there as its
//! offset, through all steps without coming back, and returns as its displacement. All sides are padded with
//! zeros to whole tiles, which the kernels need and which change nothing. Each element is a sum in the order of
//! depth, so that bits depend on neither the block nor what runs beside it.

use std::sync::Arc;

use mixdown_ops::descent::{Curvature, Descent, DescentNeeds, DescentShape, Descents};
use mixdown_ops::matrix::Stop;

use crate::driver::{Address, Argument, Device, Fault, Function, Geometry, Stream};
use crate::images::{self, Form};
use crate::lanes::{Lane, Lanes, Slot};
use crate::memory::{Buffer, Memory, Short};
use crate::probe::Version;
use crate::sizing::{Padded, Parts, Sizing};

/// A device's kernels for descents.
#[derive(Debug)]
pub struct CudaDescents {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    device: Arc<dyn Device>,
    lanes: Lanes,
    sizing: Sizing,
    form: Form,
    kernels: Kernels,
}

#[derive(Clone, Copy, Debug)]
struct Kernels {
    split: Option<Function>,
    product: Function,
    descent: Function,
}

/// Lines of a chunk of packed numbers.
const CHUNK_LINES: usize = 128;

/// Bytes of a chunk.
const CHUNK_BYTES: u32 = 16384;

/// How the kernels of a form are launched, as their sources say.
impl Form {
    fn threads(self) -> u32 {
        match self {
            Self::Plain | Self::Split => 256,
            Self::Groups => 384,
        }
    }

    fn shared_bytes(self) -> u32 {
        match self {
            Self::Plain => 0,
            // Three stages of a chunk of each side.
            Self::Split => 3 * 2 * CHUNK_BYTES,
            // Four stages of three chunks, and two barriers for each.
            Self::Groups => 4 * 3 * CHUNK_BYTES + 4 * 2 * 8,
        }
    }

    fn kernels(self, device: &dyn Device, image: &[u8]) -> Result<Kernels, Fault> {
        let module = device.load(image)?;
        let suffix = match self {
            Self::Plain => "f32",
            Self::Split => "f16",
            Self::Groups => "sm90",
        };
        let split = match self {
            Self::Plain => None,
            _ => Some(device.function(module, &format!("split_{suffix}"), 0)?),
        };
        let shared = self.shared_bytes();
        Ok(Kernels {
            split,
            product: device.function(module, &format!("product_{suffix}"), shared)?,
            descent: device.function(module, &format!("descent_{suffix}"), shared)?,
        })
    }
}

impl CudaDescents {
    /// Loads the kernels, and proves them on a small descent.
    ///
    /// **Errors.** Words for a headline: no image fits, the driver fails, or results are wrong.
    pub fn new(device: Arc<dyn Device>, driver: Version, sizing: Sizing) -> Result<Self, String> {
        let descents = Self::load(device, driver, sizing)?;
        crate::check::check(&descents)?;
        Ok(descents)
    }

    /// Loads the kernels.
    ///
    /// **Errors.** Words for a headline: no image fits, or the driver fails.
    pub fn load(device: Arc<dyn Device>, driver: Version, sizing: Sizing) -> Result<Self, String> {
        let Sizing { ref name, capability, form, budget } = sizing;
        let image = images::image(form, capability, driver).ok_or_else(|| {
            format!(
                "`{name}` needs a driver of CUDA {} or newer, and has one of {driver}: there is no \
                 machine code for compute capability {capability}",
                images::TEXT_DRIVER
            )
        })?;
        let failed = |fault: Fault| format!("`{name}` failed: {fault}");
        let kernels = form.kernels(&*device, image.bytes).map_err(failed)?;
        let memory = Memory::new(Arc::clone(&device), budget);
        let lanes = Lanes::new(Arc::clone(&device), memory);
        Ok(Self { shared: Arc::new(Shared { device, lanes, sizing, form, kernels }) })
    }

    /// Bytes of the device that are in use.
    pub fn used(&self) -> u64 {
        self.shared.lanes.memory().used()
    }
}

impl Descents for CudaDescents {
    fn name(&self) -> &str {
        "cuda"
    }

    fn describe(&self) -> String {
        self.shared.sizing.describe()
    }

    fn device(&self) -> String {
        self.shared.sizing.name.clone()
    }

    fn seconds(&self, shape: DescentShape, steps: u32) -> f64 {
        self.shared.sizing.seconds(shape, steps)
    }

    fn needs(&self, shape: DescentShape) -> Result<DescentNeeds, Stop> {
        self.shared.sizing.needs(shape)
    }

    fn begin(&self, curvature: Curvature<'_>) -> Result<Box<dyn Descent>, Stop> {
        let (matrix, n, stacked) = match curvature {
            Curvature::Gram { gram, n } => (gram, n, None),
            Curvature::Factored { stack, r, n } => (stack, n, Some(r)),
        };
        assert_eq!(matrix.len(), stacked.unwrap_or(n) * n);
        let largest = matrix.iter().fold(0.0, |most: f64, &value| most.max(f64::from(value).abs()));
        let sum = |row: &[f32]| row.iter().map(|&value| f64::from(value).abs()).sum::<f64>();
        let sizes = [largest, matrix.chunks(n.max(1)).map(sum).fold(0.0, f64::max)];
        // With more rows than columns, G is the smaller one.
        assert!(stacked.unwrap_or(0) <= n);
        Ok(Box::new(CudaDescent {
            shared: Arc::clone(&self.shared),
            matrix: matrix.to_vec(),
            columns: n,
            stacked,
            slot: self.shared.lanes.slot(),
            sizes,
        }))
    }
}

/// A descent: the matrix is kept here, so that it can leave the device while others need the room.
#[derive(Debug)]
struct CudaDescent {
    shared: Arc<Shared>,
    matrix: Vec<f32>,
    columns: usize,
    stacked: Option<usize>,
    slot: Arc<Slot>,
    /// The largest magnitude of the matrix, and the largest sum of magnitudes of a row of it.
    sizes: [f64; 2],
}

/// Powers of two with which operands are packed as f16 terms, so that the largest magnitudes are near 2¹⁴.
#[derive(Clone, Copy, Debug)]
struct Scales {
    displacement: f32,
    matrix: f32,
    /// Of D·Sᵀ.
    inner: f32,
}

impl Scales {
    fn new([largest, longest]: [f64; 2], learning_rate: f64, steps: u32) -> Self {
        // No step is larger than (1 − β₁) / √(1 − β₂) rates.
        let moved = 3.17 * learning_rate.abs() * f64::from(steps);
        Self { displacement: scale(moved), matrix: scale(largest), inner: scale(moved * longest) }
    }
}

/// The power of two that brings a bound to 2¹³ to 2¹⁴.
fn scale(bound: f64) -> f32 {
    if !(bound.is_finite() && bound > 0.0) {
        // Nothing to scale, or numbers that are found broken afterwards.
        return 1.0;
    }
    // Within a range in which products of two scales and their inverses are normal numbers.
    let exponent = (14.0 - bound.log2().ceil()).clamp(-60.0, 60.0);
    exponent.exp2() as f32
}

impl Descent for CudaDescent {
    fn run(
        &self,
        offset: &[f32],
        rows: usize,
        learning_rate: f64,
        steps: u32,
        displacement: &mut [f32],
    ) -> Result<(), Stop> {
        let columns = self.columns;
        assert_eq!(offset.len(), rows * columns);
        assert_eq!(displacement.len(), rows * columns);
        if displacement.is_empty() {
            return Ok(());
        }
        let tile = self.shared.form.rows_tile();
        let mut at_once = rows.next_multiple_of(tile);
        let mut first = 0;
        while first < rows {
            let count = at_once.min(rows - first);
            let part = first * columns..(first + count) * columns;
            let to = &mut displacement[part.clone()];
            match self.block(&offset[part], count, learning_rate, steps, to) {
                Ok(()) => first += count,
                // Others took what was there: a smaller block has the same bits.
                Err(Short::Full(_)) if at_once > tile => {
                    at_once = (at_once / 2).next_multiple_of(tile);
                }
                Err(Short::Full(bytes)) => return Err(self.full(bytes)),
                Err(Short::Failed(fault)) => return Err(self.failed(&fault)),
            }
        }
        Ok(())
    }
}

impl CudaDescent {
    fn full(&self, bytes: u64) -> Stop {
        let sizing = &self.shared.sizing;
        let free = self.shared.device.free_bytes();
        let free = free.map_or_else(|_| "unknown".to_owned(), |free| free.to_string());
        Stop::Device(
            format!(
                "`{}` ran out of memory: {bytes} bytes were asked for, {free} are free, and mixdown may \
                 use {} in all",
                sizing.name, sizing.budget
            ),
            "free memory of the device, or use fewer --threads; run the same command again to go on"
                .to_owned(),
        )
    }

    fn failed(&self, fault: &Fault) -> Stop {
        Stop::Device(
            format!("`{}` failed: {fault}", self.shared.sizing.name),
            "look at `nvidia-smi` and the system's log, then run the same command again to go on; with \
             `--force --device cpu` it starts over without the device"
                .to_owned(),
        )
    }

    fn block(
        &self,
        offset: &[f32],
        rows: usize,
        learning_rate: f64,
        steps: u32,
        displacement: &mut [f32],
    ) -> Result<(), Short> {
        let shape = DescentShape { rows, columns: self.columns, stacked: self.stacked };
        let padded = Padded::of(self.shared.form, shape);
        let matrices = if self.stacked == Some(0) { Vec::new() } else { padded.matrices() };
        self.shared.lanes.with(
            padded.size(),
            &self.slot,
            &matrices,
            |lane, held| self.upload_matrices(lane, held, padded),
            |lane, held| {
                let scales = Scales::new(self.sizes, learning_rate, steps);
                let queue = Queue { shared: &self.shared, stream: lane.stream, padded, scales };
                copy_padded(offset, self.columns, lane.staging(), padded.columns, padded.rows);
                queue.descend(lane, held, learning_rate, steps)?;
                let moved = lane.staging().chunks_exact(padded.columns);
                for (to, from) in displacement.chunks_exact_mut(self.columns).zip(moved) {
                    to.copy_from_slice(&from[..self.columns]);
                }
                Ok(())
            },
        )
    }

    /// Sends G, or S and its transpose, as right factors are: transposed, in whole tiles.
    fn upload_matrices(
        &self,
        lane: &mut Lane,
        held: &[Buffer],
        padded: Padded,
    ) -> Result<(), Fault> {
        let n = self.columns;
        let scales = Scales::new(self.sizes, 0.0, 0);
        let queue = Queue { shared: &self.shared, stream: lane.stream, padded, scales };
        let Some(r) = self.stacked else {
            let at = |line: usize, k: usize| self.matrix[line * n + k];
            return queue.upload(
                lane,
                held[0].address(),
                (n, n),
                padded.columns,
                padded.columns,
                at,
            );
        };
        if r == 0 {
            return Ok(());
        }
        let stack = |line: usize, k: usize| self.matrix[line * n + k];
        queue.upload(lane, held[0].address(), (r, n), padded.stacked, padded.columns, stack)?;
        let turned = |line: usize, k: usize| self.matrix[k * n + line];
        queue.upload(lane, held[1].address(), (n, r), padded.columns, padded.stacked, turned)
    }
}

fn copy_padded(from: &[f32], columns: usize, to: &mut [f32], padded: usize, rows: usize) {
    let to = &mut to[..rows * padded];
    to.fill(0.0);
    for (to, from) in to.chunks_exact_mut(padded).zip(from.chunks_exact(columns)) {
        to[..columns].copy_from_slice(from);
    }
}

/// The work of one block, in a lane's queue.
struct Queue<'a> {
    shared: &'a Shared,
    stream: Stream,
    padded: Padded,
    scales: Scales,
}

impl Queue<'_> {
    fn launch(
        &self,
        kernel: Function,
        blocks: [usize; 2],
        (threads, shared_bytes): (u32, u32),
        arguments: &[Argument],
    ) -> Result<(), Fault> {
        let blocks = blocks.map(|count| count as u32);
        let geometry = Geometry { blocks, threads, shared_bytes };
        // SAFETY: arguments are in the order of the kernel's, and each address has the padded sides' numbers
        // behind it, which the kernels stay within.
        unsafe { self.shared.device.launch(self.stream, kernel, geometry, arguments) }
    }

    /// The last arguments of kernels that multiply packed numbers.
    fn scaled(&self, unscale: f32, scale: f32) -> Vec<Argument> {
        match self.shared.form {
            Form::Plain => Vec::new(),
            Form::Split | Form::Groups => vec![Argument::F32(unscale), Argument::F32(scale)],
        }
    }

    /// Launches a product, which has a block for each tile of the result.
    fn launch_product(
        &self,
        kernel: Function,
        columns: usize,
        arguments: &[Argument],
    ) -> Result<(), Fault> {
        let form = self.shared.form;
        let blocks = [columns / form.tile(), self.padded.rows / form.rows_tile()];
        self.launch(kernel, blocks, (form.threads(), form.shared_bytes()), arguments)
    }

    /// Sends a matrix of `lines x depth` numbers in slices that fit the staging memory.
    fn upload(
        &self,
        lane: &mut Lane,
        to: Address,
        (lines, depth): (usize, usize),
        padded_lines: usize,
        padded_depth: usize,
        at: impl Fn(usize, usize) -> f32,
    ) -> Result<(), Fault> {
        let tile = self.shared.form.rows_tile();
        // At least one tile fits, as no depth is larger than the columns of the block.
        let slice = (self.padded.rows * self.padded.columns / padded_depth / tile * tile).max(tile);
        for first in (0..padded_lines).step_by(slice) {
            let count = slice.min(padded_lines - first);
            let numbers = lane.staging();
            numbers[..count * padded_depth].fill(0.0);
            for line in first..lines.min(first + count) {
                let row = &mut numbers[(line - first) * padded_depth..][..depth];
                for (k, number) in row.iter_mut().enumerate() {
                    *number = at(line, k);
                }
            }
            let bytes = 4 * (count * padded_depth) as u64;
            let place = to.after(4 * (first * padded_depth) as u64);
            let device = &self.shared.device;
            let (stream, pinned, scratch) = (self.stream, lane.pinned, lane.address());
            match self.shared.kernels.split {
                // SAFETY: the slice is within the staging memory and the matrix; it is not written again
                // before the queue is empty, below.
                None => unsafe { device.upload(stream, place, pinned, bytes)? },
                Some(split) => {
                    // SAFETY: as above, to where the block's offset will be.
                    unsafe { device.upload(stream, scratch, pinned, bytes)? };
                    let arguments = [
                        Argument::Address(scratch),
                        Argument::Address(place),
                        Argument::U32(padded_depth as u32),
                        Argument::F32(self.scales.matrix),
                    ];
                    let blocks = [padded_depth / 32, count / CHUNK_LINES];
                    self.launch(split, blocks, (256, 0), &arguments)?;
                }
            }
            device.synchronize(stream)?;
        }
        Ok(())
    }

    /// From an offset in the staging memory to a displacement there.
    fn descend(
        &self,
        lane: &Lane,
        held: &[Buffer],
        learning_rate: f64,
        steps: u32,
    ) -> Result<(), Fault> {
        let device = &self.shared.device;
        let parts = Parts::of(self.padded);
        let place = |part: u64| lane.address().after(part);
        let bytes = 4 * self.padded.elements();
        // SAFETY: the parts are within the lane's memory; the staging memory is left alone until the queue is
        // empty, at the end.
        unsafe {
            device.upload(self.stream, place(parts.offset), lane.pinned, bytes)?;
            device.clear(self.stream, place(parts.first), parts.end - parts.first)?;
        }
        let mut turns = match self.shared.form {
            Form::Plain => [parts.displacement, parts.turns[0]],
            Form::Split | Form::Groups => parts.turns,
        };
        for step in 1..=steps {
            let rates = rates(step, learning_rate);
            // In the first step D is 0, and without S the gradient is constant.
            let depth = if step == 1 || held.is_empty() { 0 } else { self.depth() };
            let mut from = turns[0];
            if depth > 0 && held.len() == 2 {
                from = parts.inner;
                let padded = self.padded;
                let mut arguments = vec![
                    Argument::Address(place(turns[0])),
                    Argument::Address(held[0].address()),
                    Argument::Address(place(from)),
                    Argument::U32(padded.stacked as u32),
                    Argument::U32(padded.columns as u32),
                ];
                let Scales { displacement, matrix, inner } = self.scales;
                arguments.extend(self.scaled(1.0 / (displacement * matrix), inner));
                let product = self.shared.kernels.product;
                self.launch_product(product, padded.stacked, &arguments)?;
            }
            let right = held.last().map_or(place(parts.offset), Buffer::address);
            self.step(&place, [from, turns[0], turns[1]], right, depth, rates, parts)?;
            turns.swap(0, 1);
        }
        let result = match self.shared.form {
            Form::Plain => turns[0],
            Form::Split | Form::Groups => parts.displacement,
        };
        // SAFETY: as above.
        unsafe { device.download(self.stream, lane.pinned, place(result), bytes)? };
        device.synchronize(self.stream)
    }

    /// What the last product of a step sums over.
    fn depth(&self) -> usize {
        if self.padded.stacked == 0 { self.padded.columns } else { self.padded.stacked }
    }

    fn step(
        &self,
        place: &dyn Fn(u64) -> Address,
        [from, now, next]: [u64; 3],
        right: Address,
        depth: usize,
        [step, epsilon]: [f32; 2],
        parts: Parts,
    ) -> Result<(), Fault> {
        let columns = self.padded.columns;
        let [displacement, to] = match self.shared.form {
            Form::Plain => [now, next],
            Form::Split | Form::Groups => [parts.displacement, next],
        };
        let Scales { displacement: scale, matrix, inner } = self.scales;
        let left = if self.padded.stacked == 0 { scale } else { inner };
        let mut arguments = vec![
            Argument::Address(place(from)),
            Argument::Address(right),
            Argument::Address(place(parts.offset)),
            Argument::Address(place(displacement)),
            Argument::Address(place(to)),
            Argument::Address(place(parts.first)),
            Argument::Address(place(parts.second)),
            Argument::U32(columns as u32),
            Argument::U32(depth as u32),
            Argument::F32(step),
            Argument::F32(epsilon),
        ];
        arguments.extend(self.scaled(1.0 / (left * matrix), scale));
        self.launch_product(self.shared.kernels.descent, columns, &arguments)
    }
}

/// The step and the epsilon of `adam.cuh`, with the bias corrections of this step, counted from 1.
fn rates(step: u32, learning_rate: f64) -> [f32; 2] {
    let [first, second] = [0.9_f64, 0.999].map(|decay| 1.0 - decay.powf(f64::from(step)));
    let root = second.sqrt();
    [(learning_rate * root / first) as f32, (1e-8 * root) as f32]
}
