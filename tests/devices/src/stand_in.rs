//! The kernels of the plain form in plain Rust: as fast as a processor is, and without the emulation's checks, for
//! tests that run many merges.

use mixdown_cuda::driver::{Address, Argument, Geometry};

use crate::Kernels;

/// Kernels of the plain form.
#[derive(Clone, Copy, Debug)]
pub struct StandIn;

/// Rows and columns of a tile.
const TILE: usize = 64;

fn place(argument: &Argument) -> *mut f32 {
    match argument {
        Argument::Address(Address(value)) => *value as *mut f32,
        other => panic!("an address was expected, and {other:?} came"),
    }
}

fn count(argument: &Argument) -> usize {
    match argument {
        Argument::U32(value) => *value as usize,
        other => panic!("a count was expected, and {other:?} came"),
    }
}

fn number(argument: &Argument) -> f32 {
    match argument {
        Argument::F32(value) => *value,
        other => panic!("a number was expected, and {other:?} came"),
    }
}

impl Kernels for StandIn {
    fn has(&self, kernel: &str) -> bool {
        ["product_f32", "descent_f32"].contains(&kernel)
    }

    fn launch(
        &self,
        kernel: &str,
        geometry: Geometry,
        _: u64,
        arguments: &[Argument],
    ) -> Result<(), String> {
        let [across, down] = geometry.blocks.map(|blocks| blocks as usize);
        let (rows, columns) = (down * TILE, across * TILE);
        match (kernel, arguments) {
            ("product_f32", [a, bt, to, stride, depth]) => {
                assert_eq!(count(stride), columns);
                // SAFETY: by the launch's contract, the arguments are these matrices.
                unsafe {
                    let products = products(place(a), place(bt), rows, columns, count(depth));
                    place(to).copy_from_nonoverlapping(products.as_ptr(), products.len());
                }
            }
            (
                "descent_f32",
                [a, bt, offset, from, to, first, second, stride, depth, step, epsilon],
            ) => {
                assert_eq!(count(stride), columns);
                let (step, epsilon) = (number(step), number(epsilon));
                // SAFETY: as above.
                unsafe {
                    let products = products(place(a), place(bt), rows, columns, count(depth));
                    for (at, product) in products.into_iter().enumerate() {
                        let gradient = 2.0 * (product + *place(offset).add(at));
                        let (m, v) = (place(first).add(at), place(second).add(at));
                        *m += (gradient - *m) * 0.1;
                        *v = *v * 0.999 + gradient * 0.001 * gradient;
                        let movement = step * *m / ((*v).sqrt() + epsilon);
                        *place(to).add(at) = *place(from).add(at) - movement;
                    }
                }
            }
            _ => return Err(format!("`{kernel}` with {} arguments", arguments.len())),
        }
        Ok(())
    }
}

/// `a · btᵀ`.
///
/// # Safety
///
/// Both have so many rows of `depth` numbers.
unsafe fn products(
    a: *const f32,
    bt: *const f32,
    rows: usize,
    columns: usize,
    depth: usize,
) -> Vec<f32> {
    // SAFETY: by the caller's word.
    let (a, bt) = unsafe {
        (
            std::slice::from_raw_parts(a, rows * depth),
            std::slice::from_raw_parts(bt, columns * depth),
        )
    };
    let mut products = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let left = &a[row * depth..][..depth];
            let right = &bt[column * depth..][..depth];
            let mut sums = [0.0_f32; 8];
            for (left, right) in left.chunks(8).zip(right.chunks(8)) {
                for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
                    *sum += left * right;
                }
            }
            products.push(sums.iter().sum());
        }
    }
    products
}
